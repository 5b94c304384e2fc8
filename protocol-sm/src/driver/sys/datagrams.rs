//! UDP sockets.

use super::super::slab::Token;
use super::streams::Streams;
use crate::settings::{Datagrams as Kind, Origin};
use crate::sys_error::SysError;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// UDP sockets, for the event loops. Each is a [`Streams::Stream`] of another kind: it is watched and closed as one, and
/// nothing else that [`Streams`] offers is called on it, but [`Streams::take_error`]. A system without UDP implements none
/// of these calls: its tunnels of UDP are refused.
pub trait Datagrams: Streams {
    /// A socket towards a LocalServer at `to`, watched as `token`. One that is [`Kind::Connected`] hears `to` alone, and
    /// learns that nobody listens there.
    ///
    /// # Errors
    /// As for [`Streams::connect`].
    fn associate(
        &mut self,
        _from: &Origin,
        _to: SocketAddr,
        _kind: Kind,
        _token: Token,
    ) -> Result<Self::Stream, SysError> {
        Err(SysError::Unsupported)
    }

    /// Appends the next datagram to `into`, whole.
    ///
    /// # Errors
    /// [`SysError::WouldBlock`] if there is none. [`SysError::Refused`]: one that a connected socket has sent found nobody.
    /// Any other: none could be read now.
    fn hear(&mut self, _socket: &Self::Stream, _into: &mut Vec<u8>) -> Result<Address, SysError> {
        Err(SysError::Unsupported)
    }

    /// Sends a datagram, whole: to `to`, or where a connected socket is connected to. A public one sends it from the
    /// address that `to` says.
    ///
    /// # Errors
    /// [`SysError::Refused`]: one that was sent before found nobody, and this one was *not* sent. Any other: it is dropped.
    fn say(&mut self, _socket: &Self::Stream, _to: Option<Address>, _datagram: &[u8]) -> Result<(), SysError> {
        Err(SysError::Unsupported)
    }
}

/// Both ends of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The other side's.
    pub peer: SocketAddr,
    /// The address of this machine that it was sent to, or is to be sent from; unspecified: the system chooses.
    pub own: IpAddr,
}
