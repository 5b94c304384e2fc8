//! One proxy_conn, as either side sees it: idle, or carrying one Transfer (PROTOCOL.md, "Reuse").
//!
//! Only an idle conn can start a transfer, and only a finished transfer gives the idle conn back: the
//! types say so.

pub mod client;
pub mod server;
