//! The control plane: one client's session as the server and as the client see it, and the handshake that
//! makes one (PROTOCOL.md, "Sessions" and "Authentication").

pub mod challenge;
pub mod client;
pub mod server;

/// The index of an event loop, as it is kept for each of thousands of conns.
fn narrow(lane: usize) -> u16 {
    u16::try_from(lane).expect("fewer than 2^16 event loops")
}
