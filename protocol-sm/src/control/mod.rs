//! The control plane: one client's session as the server and as the client see it, and the handshake that
//! makes one (PROTOCOL.md, "Sessions" and "Authentication").

pub mod challenge;
pub mod client;
pub mod credentials;
pub mod server;
pub mod tunnels;

use crate::ids::ConnId;

/// The event loop of `loop_count` that a conn belongs to on the client, and on the server if that loop waits for one.
/// So both ends belong to the same loops as far as they can, and those of the first loops are beside the ctl_conns,
/// which tell how their transfers end.
fn loop_of(conn: ConnId, loop_count: usize) -> usize {
    usize::try_from(conn.0.saturating_sub(1)).unwrap_or(0) % loop_count
}

/// The index of an event loop, as it is kept for each of thousands of conns.
fn narrow(loop_index: usize) -> u16 {
    u16::try_from(loop_index).expect("fewer than 2^16 event loops")
}
