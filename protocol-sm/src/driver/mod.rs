//! The event loops, without their system calls.
//!
//! Both runtimes run this code: [`runtime-epoll`] answers the traits of [`sys`] with system calls, the simulation
//! with a simulated kernel. What comes in is readiness, messages from other threads, and time; what goes out
//! are calls on these traits and messages ([`Tell`]). A driver owns its sockets; nobody else touches them.
//!
//! [`runtime-epoll`]: https://docs.rs/runtime-epoll

pub mod client_loop;
pub mod client_main;
mod ctl_link;
mod handshake_limit;
pub mod inherit;
pub mod listener;
mod loop_core;
pub mod messages;
mod passing;
pub mod paths;
mod relay;
pub mod server_loop;
pub mod server_main;
mod slab;
#[cfg(test)]
mod stub;
pub mod sys;
pub mod thread;
mod timers;
mod totals;
mod unnamed;
mod view;

pub use crate::dead_path::Unacked;
pub use crate::notes::{Disconnect, Dropped, Expiry, HandshakeEnd, Note};
pub use crate::sys_error::SysError;
pub use inherit::{Given, Owner};
pub use slab::Token;
pub use sys::{Address, Datagrams, Entropy, Listen, Log, Lookup, Readiness, Received, Resolve, Role, Splice, Streams};
pub use thread::{BULK, Cx, Driver, SCRATCH, Strategy, TURN, Tell};
pub use totals::Totals;
pub use view::{ConnView, Use};
