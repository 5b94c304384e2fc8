//! What one process of the server has left to the next.

use core::net::SocketAddr;
use protocol_sm::driver::Given;
use protocol_sm::driver::listener::HeldPort;
use protocol_sm::purposes::Purpose;

/// The server's own ports, by [`Purpose`], and the public ones, whose owners may come.
pub(crate) type Left<L> = ([Option<L>; Purpose::ALL.len()], Vec<HeldPort<L>>);

/// Listeners, as what they were given, and where they listen.
pub(crate) fn sort_left<L>(given: impl Iterator<Item = (Given, SocketAddr, L)>) -> Left<L> {
    let (mut doors, mut held) = ([const { None }; Purpose::ALL.len()], Vec::new());
    for (given, at, listener) in given {
        match given {
            Given::Door(purpose) => doors[purpose as usize] = Some(listener),
            Given::Public { udp, owner, .. } => held.push(HeldPort { udp, at, owner, listener }),
        }
    }
    (doors, held)
}
