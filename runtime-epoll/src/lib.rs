//! The production runtime: everything that is a system call or a thread.
//!
//! What is done when is decided in [`protocol_sm::driver`]; here its drivers run over [`Linux`], which turns
//! readiness into events (mio, edge-triggered epoll) and actions into system calls (sockets, splice).
//!
//! | program | driver | thread | owns |
//! |---|---|---|---|
//! | server | `ServerMain` | the caller's | the ctl and proxy ports, ctl_conns, connections in their handshake |
//! | server | `Listener` | the caller's | the public ports |
//! | server | `ServerLoop` | the caller's, then `cproxy-loop-1`, … | proxy_conns and the public_conns that they serve |
//! | client | `ClientMain` | the caller's | the ctl_conn |
//! | client | `ClientLoop` | the caller's, then `cproxy-loop-1`, … | proxy_conns and their local_conns |
//! | both | `path` (QUIC; decides nothing) | the caller's | the UDP sockets between client and server |
//! | client | | `cproxy-resolve` | nothing: it waits for the system's resolver |
//!
//! A socket has one owner, and is given to another driver only inside a message. Drivers share nothing but
//! their mailboxes, so which of them share a thread decides nothing but who must be woken. The first event loop
//! has its seat beside the main driver and the listener: an end that is told over the ctl_conn, or a visitor
//! that comes, then wakes no other thread. Measured against a thread for each (2 cores, `visits-x16`): 103 to 116
//! CPU-µs per visit instead of 150, and 30 to 40 µs less to a visitor's first byte. Both ends of a proxy_conn belong
//! to loops of the same number as far as they can, so a lone visitor has all of that on both sides.
//!
//! A thread that dies ends the program: the sockets it leaves behind are reset, so that no truncated stream looks
//! complete.
//!
//! A program that uses this crate must ignore SIGPIPE, as Rust's programs do, because splice(2) raises it.
// All but a few modules of system calls, which say so.
#![deny(unsafe_code)]

mod challenges;
pub mod client;
pub mod inherit;
mod mail;
#[cfg(test)]
mod mail_tests;
mod notes;
mod operator;
mod parts;
mod path;
mod resolve;
mod scoped;
pub mod server;
mod sys;
mod thread;
pub mod tls;

pub use notes::{AccessLog, peer};
pub use operator::{Operator, Question};
pub use scoped::{NoInterface, ScopedIp, ScopedIpError};
pub use sys::{
    Linux, Listener, PIPE_BYTES, Pipe, Poller, Refused, Stream, check_calls, path_mtu, random_bytes, unix_trouble,
};

use mail::Address;
pub use protocol_sm::driver::messages::{Order, Step};
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
