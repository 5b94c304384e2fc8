//! Listening sockets.

use super::super::inherit::Given;
use super::super::slab::Token;
use super::streams::{Role, Streams};
use crate::routes::{Agreed, Speaks};
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

    /// Whether there is a certificate for visitors who name this host, or nobody.
    fn certified(&self, _name: Option<&str>) -> bool {
        false
    }

    /// TLS ends here from now on, with the certificate for the name in `hello`, which was read of `stream`. What is read and
    /// written afterwards is what was, or will be, encrypted.
    ///
    /// # Errors
    /// [`SysError::Tls`]: no handshake comes about, and the peer was told why.
    fn end_tls(&mut self, _stream: &Self::Stream, _hello: &[u8], _speaks: Speaks) -> Result<(), SysError> {
        Err(SysError::Unsupported)
    }

    /// What was agreed on in TLS that ends here.
    ///
    /// # Errors
    /// [`SysError::WouldBlock`] until the handshake is complete, whose end is reported as readiness; [`SysError::Tls`] as
    /// for [`Listen::end_tls`]; or how the connection failed.
    fn agreed(&mut self, _stream: &Self::Stream) -> Result<Option<Agreed>, SysError> {
        Err(SysError::Unsupported)
    }

    /// Looks for the answer to an authority's challenge of this name (ACME). Whether it is looked for: then what is found is a
    /// message, [`ToListener::Challenge`](super::super::messages::ToListener::Challenge).
    fn find_challenge(&mut self, _newcomer: Token, _name: &str) -> bool {
        false
    }

    /// Closes a listener; connections not yet accepted are reset, unless another process has a copy.
    fn unlisten(&mut self, listener: Self::Listener);
}
