//! The control plane: one client's session as the server and as the client see it, and the handshake that
//! makes one (PROTOCOL.md, "Sessions" and "Authentication").

pub mod challenge;
pub mod client;
pub mod server;
