//! The event loops, without their system calls.
//!
//! Both runtimes run this code: [`runtime-epoll`] answers [`Sys`] with system calls, the simulation with
//! a simulated kernel. What comes in is readiness, messages from other threads, and time; what goes out
//! are calls on `Sys` and messages ([`Tell`]). A driver owns its sockets; nobody else touches them.
//!
//! [`runtime-epoll`]: https://docs.rs/runtime-epoll

pub mod client_loop;
pub mod client_main;
mod ctl_link;
pub mod gate;
pub mod listener;
mod loop_core;
pub mod messages;
mod relay;
pub mod server_loop;
pub mod server_main;
mod slab;
pub mod sys;
mod timers;
mod totals;
mod view;

pub use relay::Strategy;
pub use slab::Token;
pub use sys::{
    Disconnect, Driver, Dropped, HandshakeEnd, Listen, Lookup, Note, Readiness, Received, Resolve, Role, Sys, SysError,
    Tell,
};
pub use totals::Totals;
pub use view::{ConnView, Use};

use crate::time::Instant;

/// What every entry point of a driver is handed.
#[derive(Debug)]
pub struct Cx<'a, S> {
    /// The system.
    pub sys: &'a mut S,
    /// The time now.
    pub now: Instant,
    /// A buffer for reads, shared by all connections of a thread: [`SCRATCH`] bytes.
    pub scratch: &'a mut [u8],
    /// How payload is moved.
    pub strategy: Strategy,
}

/// The size of [`Cx::scratch`], in bytes: a read that fills it shows a bulk stream, for which splice is
/// cheaper (measured: the crossover lies at 16 to 32 KiB).
pub const SCRATCH: usize = 32 * 1024;
