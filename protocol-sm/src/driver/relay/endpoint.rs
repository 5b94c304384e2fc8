//! A socket, and what is known of its readiness. Or a flow's datagrams, which the relay sees as a stream.

use super::super::sys::{Readiness, Splice, Streams};
use super::super::thread::Cx;
use super::datagrams::Datagrams;
use crate::canary::{PlantedBug, planted};
use crate::sys_error::SysError;
use alloc::boxed::Box;

/// A socket and what is known of its readiness: a flag stays set until a call would have blocked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint<T> {
    via: Via<T>,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The end of the stream is near: a short read does not mean that nothing is left.
    hup: bool,
    /// An error of it was reported. What came before can still be read.
    failed: bool,
    /// A call that does not read has taken its error.
    pub(super) error_taken: bool,
    /// A write was told that nothing is taken any more, and no error (EPIPE).
    refuses: bool,
}

/// What bytes come from and go to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Via<T> {
    Stream(T),
    Datagrams(Box<Datagrams<T>>),
}

impl<T> Endpoint<T> {
    /// A port that may be ready: the first calls tell.
    pub(crate) fn new(stream: T) -> Self {
        let via = Via::Stream(stream);
        Self { via, readable: true, writable: true, hup: false, failed: false, error_taken: false, refuses: false }
    }

    /// A port that is still connecting.
    pub(crate) fn connecting(stream: T) -> Self {
        Self { readable: false, writable: false, ..Self::new(stream) }
    }

    /// A flow's datagrams. Those to come have a socket of their own, or are handed in.
    pub(crate) fn datagrams(socket: Option<T>) -> Self {
        let via = Via::Datagrams(Box::new(Datagrams::new(socket)));
        Self { via, readable: false, writable: true, hup: false, failed: false, error_taken: false, refuses: false }
    }

    /// The connection.
    ///
    /// # Panics
    /// It is a flow's.
    pub(crate) fn stream(&self) -> &T {
        self.socket().expect("a connection has a socket of its own")
    }

    /// The same, to be changed.
    ///
    /// # Panics
    /// It is a flow's.
    pub(crate) fn stream_mut(&mut self) -> &mut T {
        let Via::Stream(stream) = &mut self.via else { panic!("a flow is no connection") };
        stream
    }

    /// The same, to be closed or given away.
    ///
    /// # Panics
    /// It is a flow's.
    pub(crate) fn into_stream(self) -> T {
        self.into_socket().expect("a connection has a socket of its own")
    }

    /// The connection, or a flow's own socket.
    pub(crate) fn socket(&self) -> Option<&T> {
        match &self.via {
            Via::Stream(stream) => Some(stream),
            Via::Datagrams(datagrams) => datagrams.socket.as_ref(),
        }
    }

    /// The same, to be closed.
    pub(crate) fn into_socket(self) -> Option<T> {
        match self.via {
            Via::Stream(stream) => Some(stream),
            Via::Datagrams(datagrams) => datagrams.socket,
        }
    }

    /// A flow's datagrams, if it is one; what waits may have changed behind it.
    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut Datagrams<T>) -> R) -> Option<R> {
        let Via::Datagrams(datagrams) = &mut self.via else { return None };
        let result = change(datagrams);
        self.readable = datagrams.is_readable();
        Some(result)
    }

    pub(crate) fn on_ready(&mut self, ready: Readiness) {
        if let Via::Datagrams(datagrams) = &mut self.via {
            datagrams.may_hear = true;
            return;
        }
        self.readable |= ready.readable || ready.hup || ready.error;
        self.writable |= ready.writable || ready.error;
        self.hup |= ready.hup || ready.error;
        self.failed |= ready.error;
    }

    /// A call that does not read was told this error. What came before can still be read, and no event may tell of it.
    pub(crate) fn on_failed(&mut self, error: SysError) {
        self.failed = true;
        self.refuses |= error == SysError::ResetBehindEnd;
        self.error_taken |= error != SysError::ResetBehindEnd;
        self.readable = true;
        self.hup = true;
    }

    /// A read has found nothing behind a failure. `true`: that was none, and is forgotten. It takes nothing more, and
    /// lives: the service at a Unix socket has shut its reading half.
    pub(super) fn lives_on(&mut self) -> bool {
        let lives = self.refuses && !self.error_taken && !planted(PlantedBug::ReadShutCuts);
        if lives {
            (self.failed, self.hup) = (false, false);
        }
        lives
    }

    /// Whether it has failed: it takes nothing more.
    pub(super) fn is_lost(&self) -> bool {
        self.failed
    }

    /// Reads; clears `readable` once nothing is left.
    pub(crate) fn recv<S: Streams<Stream = T>>(&mut self, sys: &mut S, into: &mut [u8]) -> Result<usize, SysError> {
        let stream = match &mut self.via {
            Via::Stream(stream) => stream,
            Via::Datagrams(datagrams) => {
                let read = datagrams.read(into);
                self.readable = datagrams.is_readable();
                return read;
            }
        };
        match sys.recv(stream, into) {
            Ok(got) => {
                let more = self.hup;
                let more = more && !planted(PlantedBug::HupForgotten);
                if got.drained && !more {
                    self.readable = false;
                }
                Ok(got.bytes)
            }
            Err(error) => {
                self.readable &= error != SysError::WouldBlock;
                Err(error)
            }
        }
    }

    pub(crate) fn send<S: Streams<Stream = T>>(&mut self, sys: &mut S, from: &[u8]) -> Result<usize, SysError> {
        let stream = match &mut self.via {
            Via::Stream(stream) => stream,
            Via::Datagrams(datagrams) => {
                datagrams.out.push(from);
                return Ok(from.len());
            }
        };
        let sent = sys.send(stream, from);
        self.writable &= sent != Err(SysError::WouldBlock);
        sent
    }

    /// Whether bytes can be spliced from it and to it.
    pub(super) fn can_splice<S: Splice<Stream = T>>(&self, sys: &S) -> bool {
        match &self.via {
            Via::Stream(stream) => sys.can_splice(stream),
            Via::Datagrams(_) => false,
        }
    }

    /// The peer's stream has ended. `true`: this one has ended with it, as a flow's do.
    // PROTOCOL.md: P-UDP-4.
    pub(super) fn shut_write<S: Streams<Stream = T>>(&mut self, sys: &mut S) -> bool {
        match &self.via {
            Via::Stream(stream) => {
                sys.shut_write(stream);
                false
            }
            Via::Datagrams(_) => {
                self.change(Datagrams::end);
                true
            }
        }
    }

    /// Bytes that were given to it and are not acknowledged.
    pub(super) fn unsent<S: Streams<Stream = T>>(&self, sys: &S) -> usize {
        match &self.via {
            Via::Stream(stream) => sys.unsent(stream),
            Via::Datagrams(_) => 0,
        }
    }

    /// Says inside of what encrypts it that no more comes.
    pub(super) fn finish<S: Streams<Stream = T>>(&mut self, sys: &mut S) -> Result<(), SysError> {
        let Via::Stream(stream) = &self.via else { return Ok(()) };
        if !self.writable {
            return Err(SysError::WouldBlock);
        }
        let finished = if planted(PlantedBug::EndUnsaid) { Ok(()) } else { sys.finish(stream) };
        self.writable &= finished != Err(SysError::WouldBlock);
        finished
    }
}

/// Whether the socket's pending error says that it is lost.
pub(crate) fn failed<S: Streams>(cx: &mut Cx<'_, S>, port: &Endpoint<S::Stream>) -> bool {
    !matches!(cx.sys.take_error(port.stream()), Ok(()) | Err(SysError::WouldBlock))
}
