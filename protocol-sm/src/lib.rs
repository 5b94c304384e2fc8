//! The CProxy protocol as pure state machines.
//!
//! **What is absent:** sockets, clocks, threads, locks, randomness, logging. Time comes in as an argument, and every
//! decision goes out as a value or as a call on a trait that the caller implements. The crate is `no_std` with `alloc`.
//!
//! Requirements, byte for byte, are in `PROTOCOL.md` beside this crate; numbers such as P-FIN-3 are its rules.
//!
//! # The modules, from the wire upwards
//!
//! | module | what is in it |
//! |---|---|
//! | [`wire`] | prefaces, frames and messages as bytes |
//! | [`ids`], [`codes`], [`time`] | names that are never used twice, reasons for an end, time as an integer |
//! | [`auth`] | proofs over everything both sides have said |
//! | [`transfer`] | the two halves of a transfer: how many bytes may be taken and forwarded now |
//! | [`conn`] | a proxy_conn on either side: idle, or carrying one transfer |
//! | [`pool`] | which visitor gets which idle conn, and who waits |
//! | [`session`] | numbered messages that survive the loss of a ctl_conn |
//! | [`control`] | one client's session as server and client see it, and the handshake that makes one |
//! | [`liveness`], [`ping_pace`] | heartbeats, and how often an idle conn is pinged |
//! | [`dead_path`] | notices a transfer whose conn alone gets nowhere |
//! | [`backoff`], [`rate`] | pauses between attempts, limits per source address |
//! | [`guesses`] | wrong proofs: how many are checked, and whom they hold back |
//! | [`ledger`], [`crowd`] | what the holder of each token has, over all its sessions; visitors of each source address |
//! | [`budget`] | how descriptors are shared out |
//! | [`routes`] | which host the first bytes of a visitor name, where many tunnels share a port |
//! | [`purposes`] | who has come, where one port of the server is there for several things |
//! | [`settings`], [`ports`], [`sources`], [`gate`] | what a user can say: defaults, ports, networks, and who may visit |
//! | [`driver`] | the event loops around all of these, generic over the system calls |
//! | [`notes`], [`sys_error`] | what a driver reports, and why a system call did not do it |
//! | [`canary`], [`cells`], [`sent`] | for tests: bugs to plant, which states have met which events, which messages were sent |
//!
//! # How to use it
//!
//! The machines below [`driver`] can be used alone: an event in, a decision out. Their methods are getters, or are named
//! after what happened (`on_fin`, `on_dialed`), or after what the caller wants (`start`, `send`). What a peer does wrong
//! is a [`codes::Violation`]; what crossed something on its way is [`transfer::Heard::Stale`]; what the caller does wrong
//! is a panic, in release builds too.
//!
//! ```
//! use protocol_sm::conn::server::IdleConn;
//! use protocol_sm::transfer::{Fin, Half, How};
//!
//! let mut conn = IdleConn::default().start().expect("epochs are left");
//! conn.transfer.egress.on_taken(5); // five bytes of the visitor were read,
//! conn.transfer.egress.on_forwarded(5); // and written into the proxy_conn.
//! // The visitor's stream has ended, by a shutdown: what its `Fin` says.
//! assert_eq!(conn.transfer.on_source_end(How::Shut), Fin { total: 5, how: How::Shut });
//! conn.on_started(conn.transfer.epoch()).expect("the client has answered this transfer");
//! ```
//!
//! # The contract of a driver
//!
//! A server runs a [`ServerMain`], a [`Listener`] and any number of [`ServerLoop`]s, a client a [`ClientMain`] and any
//! number of [`ClientLoop`]s. Each is a [`Driver`]. A thread runs one or several of them:
//!
//! ```
//! use protocol_sm::driver::{Cx, Driver, Readiness, Token};
//! use protocol_sm::time::Instant;
//!
//! /// What a thread does whenever it wakes: with the messages that came, and the sockets that became ready.
//! fn turn<S, D: Driver<S>>(
//!     driver: &mut D,
//!     cx: &mut Cx<'_, S>,
//!     messages: impl IntoIterator<Item = D::Message>,
//!     ready: impl IntoIterator<Item = (Token, Readiness)>,
//! ) -> Sleep {
//!     for message in messages {
//!         driver.on_message(cx, message);
//!     }
//!     for (token, readiness) in ready {
//!         driver.on_ready(cx, token, readiness);
//!     }
//!     if driver.next_deadline().is_some_and(|at| at <= cx.now) {
//!         driver.on_deadline(cx);
//!     }
//!     driver.run_busy(cx);
//!     if driver.is_busy() { Sleep::Not } else { Sleep::Until(driver.next_deadline()) }
//! }
//!
//! /// How long the thread may sleep, unless a message or a socket wakes it.
//! enum Sleep {
//!     Not,
//!     Until(Option<Instant>),
//! }
//! ```
//!
//! What a runtime promises:
//!
//! - Readiness is edge-triggered: what became ready is reported once, until a call would have blocked.
//! - A call never blocks, and is not interrupted. Streams and pipes are given back once each.
//! - `cx.now` never goes back, and `cx.scratch` holds [`SCRATCH`] bytes.
//! - Messages of one sender arrive in their order, none is lost, and sending ([`Tell`]) does not block. Between senders
//!   there is no order.
//!
//! What a driver promises: it ignores readiness of a token whose socket is gone, it does a bounded amount of work per
//! turn and says by `is_busy` that there is more, and it never panics because of what a peer sends.
//!
//! A driver begins with `ServerMain::listen` or `ClientMain::start`; `ServerMain::is_over` and `ClientMain::outcome` say
//! when it is through. `runtime-epoll` and `runtime-sim` are two runtimes.
//!
//! [`ServerMain`]: driver::server_main::ServerMain
//! [`Listener`]: driver::listener::Listener
//! [`ServerLoop`]: driver::server_loop::ServerLoop
//! [`ClientMain`]: driver::client_main::ClientMain
//! [`ClientLoop`]: driver::client_loop::ClientLoop
//! [`Driver`]: driver::Driver
//! [`SCRATCH`]: driver::SCRATCH
//! [`Tell`]: driver::Tell
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod auth;
pub mod backoff;
pub mod bandwidth;
pub mod binds;
pub mod budget;
pub mod canary;
pub mod carriage;
pub mod cells;
pub mod codes;
pub mod conn;
pub mod control;
pub mod crowd;
pub mod datagrams;
pub mod dead_path;
pub mod driver;
pub mod gate;
pub mod gather;
pub mod guesses;
pub mod ids;
pub mod ledger;
pub mod liveness;
pub mod local_ports;
pub mod names;
pub mod notes;
pub mod outbound;
pub mod ping_pace;
pub mod pool;
pub mod ports;
pub mod proxy_protocol;
pub mod purposes;
pub mod race;
pub mod rate;
pub mod reconnect;
pub mod reload;
pub mod report;
pub mod routes;

pub mod sent;
pub mod session;
pub mod settings;
pub mod sources;
mod stir;
pub mod sys_error;
pub mod takeovers;
pub mod time;
pub mod transfer;
pub mod turns;
pub mod visit;
pub mod wire;
