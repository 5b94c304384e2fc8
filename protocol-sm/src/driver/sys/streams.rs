//! Connections of TCP, and to a LocalServer's Unix socket: what every driver does with them.

use super::super::slab::Token;
use crate::auth::Channel;
use crate::dead_path::Unacked;
use crate::settings::{Origin, Timings};
use crate::sys_error::SysError;
use core::net::SocketAddr;

/// Connections, as a driver sees them. Every stream is non-blocking. The implementation repeats calls that were
/// interrupted (EINTR). A driver hands each stream back exactly once, to [`Streams::close`] or [`Streams::reset`].
pub trait Streams {
    /// A connection: of TCP, or of a Unix socket.
    type Stream;

    /// Connections that are made or accepted from now on may be silent as long as `timings` allow.
    fn keep_to(&mut self, _timings: &Timings) {}

    /// The system asks `stream`'s silent peer for a sign of life as `timings` say, not as those of [`Streams::keep_to`].
    fn probe(&mut self, _stream: &Self::Stream, _timings: &Timings) {}

    /// It is known now what a stream that was accepted is for: it becomes one of `role`, and is encrypted from here on where
    /// those are. What came before is still unread.
    fn assign(&mut self, _stream: &mut Self::Stream, _role: Role) {}

    /// Reports readiness of `stream` as `token` from now on, edge-triggered, until it is closed or unwatched. If there
    /// is something to read already, that is reported once. Room to write need not be reported until a write has
    /// found none (`WouldBlock`).
    ///
    /// # Errors
    /// [`SysError::Exhausted`]: no room for one more watched stream.
    fn watch(&mut self, stream: &Self::Stream, token: Token) -> Result<(), SysError>;

    /// Stops reporting, so that another thread can watch the stream.
    fn unwatch(&mut self, stream: &Self::Stream);

    /// Begins to connect, from `from` to `to`, and watches the new stream as `token`. The caller calls
    /// [`Streams::take_error`] at once to learn whether the connect has ended already: then nothing is reported.
    /// Otherwise its end is reported as room to write or as an error.
    ///
    /// # Errors
    /// The connect failed at once: [`SysError::NoPort`], [`SysError::NoAddress`] of what `from` says, or another.
    fn connect(&mut self, from: &Origin, to: SocketAddr, role: Role, token: Token) -> Result<Self::Stream, SysError>;

    /// Connects to the Unix socket at `path` of this machine, in the abstract namespace if it begins with `@`, and watches
    /// the new stream as `token`. It is connected when this returns. A system without such sockets implements nothing.
    ///
    /// # Errors
    /// [`SysError::WouldBlock`]: as many wait to be accepted there as may, which no readiness will end. Or why nobody is
    /// there.
    fn connect_unix(&mut self, _path: &str, _token: Token) -> Result<Self::Stream, SysError> {
        Err(SysError::Unsupported)
    }

    /// Takes the socket's pending error; `WouldBlock` while a connect is under way.
    ///
    /// # Errors
    /// The pending error.
    fn take_error(&mut self, stream: &Self::Stream) -> Result<(), SysError>;

    /// Reads up to `into.len()` bytes, which is not 0.
    ///
    /// # Errors
    /// [`SysError::WouldBlock`] if nothing has come, [`SysError::Exhausted`] if there was no memory for the call, which
    /// may be tried again, or how the connection failed.
    fn recv(&mut self, stream: &Self::Stream, into: &mut [u8]) -> Result<Received, SysError>;

    /// Reads as [`Streams::recv`] does what has come by the wire, encrypted or not, and leaves it there: a header in front
    /// of the connection. Returns the number of bytes; 0 is the end of the stream.
    ///
    /// # Errors
    /// As for [`Streams::recv`].
    fn peek(&mut self, stream: &Self::Stream, into: &mut [u8]) -> Result<usize, SysError>;

    /// Takes so many bytes away that [`Streams::peek`] has shown.
    fn skip(&mut self, stream: &Self::Stream, bytes: usize);

    /// Writes some of `from`, which is not empty. After `WouldBlock` or `Exhausted`, the next call on this stream must
    /// begin with the same bytes: some of them may have been encrypted already.
    ///
    /// # Errors
    /// [`SysError::WouldBlock`] if there is no room, [`SysError::Exhausted`] if there was no memory for the call, which
    /// may be tried again, or how the connection failed.
    fn send(&mut self, stream: &Self::Stream, from: &[u8]) -> Result<usize, SysError>;

    /// The channel by which what `stream` carries is encrypted; `None` in the clear. On an accepted stream this is known
    /// once something has been received. On one that was made here the first call begins it: what was sent and received
    /// before is in the clear.
    ///
    /// # Errors
    /// [`SysError::WouldBlock`] while the channel is being made: its end is reported as readiness. Or how the connection
    /// failed.
    fn channel(&mut self, stream: &Self::Stream) -> Result<Option<Channel>, SysError>;

    /// Says inside of what encrypts `stream` that no more comes (close_notify), which goes before [`Streams::shut_write`].
    /// Nothing where nothing encrypts it.
    ///
    /// # Errors
    /// As for [`Streams::send`].
    fn finish(&mut self, _stream: &Self::Stream) -> Result<(), SysError> {
        Ok(())
    }

    /// The address that `stream`'s peer is connected to (getsockname). 0.0.0.0:0 where the system does not say.
    fn own_address(&self, stream: &Self::Stream) -> SocketAddr;

    /// Bytes that were given to `stream` and that its peer's system has not acknowledged; its end, once shut, counts as
    /// one (SIOCOUTQ). 0 where the system does not say.
    fn unsent(&self, stream: &Self::Stream) -> usize;

    /// What of the bytes that were given to `stream` its peer's system has not acknowledged (TCP_INFO); `None` if nothing
    /// is left, or the system does not say.
    fn unacked(&self, _stream: &Self::Stream) -> Option<Unacked> {
        None
    }

    /// Shuts the write half: the peer reads an end after everything sent.
    fn shut_write(&mut self, stream: &Self::Stream);

    /// Closes in good order: what was sent still arrives.
    fn close(&mut self, stream: Self::Stream);

    /// Closes with a reset: the peer sees an error, never an end.
    fn reset(&mut self, stream: Self::Stream);
}

/// The outcome of a [`Streams::recv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes read; 0 is the end of the stream.
    pub bytes: usize,
    /// Nothing more was there: the next bytes will be reported as readiness.
    pub drained: bool,
}

/// What an edge-triggered poll reported of a socket since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Readiness {
    /// Bytes, an end or an error can be read.
    pub readable: bool,
    /// There is room to write, or a connect has ended.
    pub writable: bool,
    /// The peer has shut its write half, or the connection is gone.
    pub hup: bool,
    /// The socket has an error to take.
    pub error: bool,
}

/// What a connection is for: decides its socket options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A ctl_conn.
    Ctl,
    /// A proxy_conn.
    Proxy,
    /// A local_conn.
    Local,
    /// A public_conn.
    Public,
    /// That is not known yet: see [`Streams::assign`].
    Untold,
}
