//! A socket, and what is known of its readiness.

use super::super::sys::{Readiness, Streams};
use super::super::thread::Cx;
use crate::canary::{PlantedBug, planted};
use crate::sys_error::SysError;

/// A socket and what is known of its readiness: a flag stays set until a call would have blocked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint<T> {
    pub(crate) stream: T,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The end of the stream is near: a short read does not mean that nothing is left.
    hup: bool,
    /// An error of it was reported. What came before can still be read.
    failed: bool,
    /// A call that does not read has taken its error.
    pub(super) error_taken: bool,
}

impl<T> Endpoint<T> {
    /// A port that may be ready: the first calls tell.
    pub(crate) fn new(stream: T) -> Self {
        Self { stream, readable: true, writable: true, hup: false, failed: false, error_taken: false }
    }

    /// A port that is still connecting.
    pub(crate) fn connecting(stream: T) -> Self {
        Self { stream, readable: false, writable: false, hup: false, failed: false, error_taken: false }
    }

    pub(crate) fn on_ready(&mut self, ready: Readiness) {
        self.readable |= ready.readable || ready.hup || ready.error;
        self.writable |= ready.writable || ready.error;
        self.hup |= ready.hup || ready.error;
        self.failed |= ready.error;
    }

    /// A call that does not read was told this error. What came before can still be read, and no event may tell of it.
    pub(crate) fn on_failed(&mut self, error: SysError) {
        self.failed = true;
        self.error_taken |= error != SysError::ResetBehindEnd;
        self.readable = true;
        self.hup = true;
    }

    /// Whether it has failed: it takes nothing more.
    pub(super) fn is_lost(&self) -> bool {
        self.failed
    }

    /// Reads; clears `readable` once nothing is left.
    pub(crate) fn recv<S: Streams<Stream = T>>(&mut self, sys: &mut S, into: &mut [u8]) -> Result<usize, SysError> {
        match sys.recv(&self.stream, into) {
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
        let sent = sys.send(&self.stream, from);
        self.writable &= sent != Err(SysError::WouldBlock);
        sent
    }

    /// Says inside of what encrypts it that no more comes.
    pub(super) fn finish<S: Streams<Stream = T>>(&mut self, sys: &mut S) -> Result<(), SysError> {
        if !self.writable {
            return Err(SysError::WouldBlock);
        }
        let finished = if planted(PlantedBug::EndUnsaid) { Ok(()) } else { sys.finish(&self.stream) };
        self.writable &= finished != Err(SysError::WouldBlock);
        finished
    }
}

/// Whether the socket's pending error says that it is lost.
pub(crate) fn failed<S: Streams>(cx: &mut Cx<'_, S>, port: &Endpoint<S::Stream>) -> bool {
    !matches!(cx.sys.take_error(&port.stream), Ok(()) | Err(SysError::WouldBlock))
}
