//! Listening sockets.

use super::super::inherit::Given;
use super::super::slab::Token;
use super::streams::{Role, Streams};
use crate::sys_error::SysError;
use core::net::SocketAddr;

/// Listening sockets, for the threads that accept.
pub trait Listen: Streams {
    /// A listening TCP socket.
    type Listener;

    /// Binds and listens at `at` (port 0: any free one), and reports its readiness as `token`, edge-triggered.
    /// Returns the real address too.
    ///
    /// # Errors
    /// [`SysError::InUse`], [`SysError::Denied`], [`SysError::Exhausted`], or another.
    fn listen(&mut self, at: SocketAddr, token: Token) -> Result<(Self::Listener, SocketAddr), SysError>;

    /// Reports the readiness of a listener of another process as `token`, as if it had been bound here; what waits there
    /// is kept. Returns its address.
    ///
    /// # Errors
    /// [`SysError::Exhausted`], or another.
    fn adopt(&mut self, listener: &Self::Listener, token: Token) -> Result<SocketAddr, SysError>;

    /// Binds a UDP socket for visitors at `at` (port 0: any free one). Nothing is read here: see [`Listen::share`].
    ///
    /// # Errors
    /// As for [`Listen::listen`]; [`SysError::Unsupported`] by a system without UDP.
    fn bind_udp(&mut self, _at: SocketAddr) -> Result<(Self::Listener, SocketAddr), SysError> {
        Err(SysError::Unsupported)
    }

    /// A copy of a public UDP socket for the event loop that is to read it; not watched yet. Its port is free when both are
    /// closed.
    ///
    /// # Errors
    /// [`SysError::Exhausted`].
    fn share(&mut self, _listener: &Self::Listener) -> Result<Self::Stream, SysError> {
        Err(SysError::Unsupported)
    }

    /// Puts a copy of a listener aside, for the process that is to take it over under this name. It goes on here.
    fn lend(&mut self, listener: &Self::Listener, given: &Given);

    /// Takes one connection; not watched yet.
    ///
    /// # Errors
    /// [`SysError::WouldBlock`] when there is none; [`SysError::Reset`] if it went away meanwhile;
    /// [`SysError::Exhausted`].
    fn accept(&mut self, listener: &Self::Listener, role: Role) -> Result<(Self::Stream, SocketAddr), SysError>;

    /// Closes a listener; connections not yet accepted are reset, unless another process has a copy.
    fn unlisten(&mut self, listener: Self::Listener);
}
