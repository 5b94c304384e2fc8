//! The production runtime: everything that is a system call or a thread.
//!
//! What is done when is decided in [`protocol_sm::driver`]; here each thread runs one of its drivers over
//! [`Linux`], which turns readiness into events (mio, edge-triggered epoll) and actions into system calls
//! (sockets, splice).
//!
//! | program | thread | driver | owns |
//! |---|---|---|---|
//! | server | the caller's | `ServerMain` | the ctl and proxy ports, ctl_conns, connections in their handshake |
//! | server | `cproxy-listen` | `Listener` | the public ports |
//! | server | `cproxy-loop-N` | `ServerLoop` | proxy_conns and the public_conns that they serve |
//! | client | the caller's | `ClientMain` | the ctl_conn |
//! | client | `cproxy-loop-N` | `ClientLoop` | proxy_conns and their local_conns |
//! | client | `cproxy-resolve` | | nothing: it waits for the system's resolver |
//!
//! A socket has one owner, and is given to another thread only inside a message. Threads share nothing but
//! their mailboxes. A thread that dies ends the program: the sockets it leaves behind are reset, so that no
//! truncated stream looks complete.
//!
//! Whoever links this must have SIGPIPE ignored, as Rust's programs do: splice(2) raises it.

pub mod client;
mod mail;
mod notes;
mod resolve;
pub mod server;
mod sys;
mod thread;

pub use sys::{Linux, Listener, Pipe, Stream};

use mail::Address;
use protocol_sm::driver::messages::{ToClientMain, ToServerMain};

/// Asks a running [`server::Server`] or [`client::Client`] to stop: from any thread, any number of times.
#[derive(Clone, Debug)]
pub struct Stopper(Program);

#[derive(Clone, Debug)]
enum Program {
    Server(Address<ToServerMain<sys::Stream>>),
    Client(Address<ToClientMain>),
}

impl Stopper {
    /// Stop accepting, let transfers finish for `drain_timeout`, then return from `run`.
    pub fn stop(&self) {
        match &self.0 {
            Program::Server(main) => main.post(ToServerMain::Stop),
            Program::Client(main) => main.post(ToClientMain::Stop),
        }
    }
}
