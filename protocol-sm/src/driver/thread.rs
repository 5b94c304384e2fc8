//! What a thread and its drivers agree on: [`Driver`] is what a thread runs, [`Cx`] what it hands to the driver, and
//! [`Tell`] how drivers send messages to each other.

use super::slab::Token;
use super::sys::Readiness;
use crate::time::Instant;

/// A driver over a system `S`. Its thread polls, then calls [`Driver::on_message`] for each message,
/// [`Driver::on_ready`] for each event, [`Driver::on_deadline`] if [`Driver::next_deadline`] has passed, and
/// [`Driver::run_busy`]; it polls without waiting while [`Driver::is_busy`].
pub trait Driver<S> {
    /// What other drivers send to it.
    type Message;
    /// Handles a message of another driver.
    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: Self::Message);
    /// Handles the readiness of a socket. It ignores the token of a socket that it no longer has.
    fn on_ready(&mut self, cx: &mut Cx<'_, S>, token: Token, ready: Readiness);
    /// Handles the deadlines that have passed.
    fn on_deadline(&mut self, cx: &mut Cx<'_, S>);
    /// When to call [`Driver::on_deadline`] next.
    fn next_deadline(&self) -> Option<Instant>;
    /// Continues work that was interrupted so that others get their turn.
    fn run_busy(&mut self, cx: &mut Cx<'_, S>);
    /// Whether [`Driver::run_busy`] has something to do at once.
    fn is_busy(&self) -> bool;
}

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
    /// Bytes that one direction of a transfer may move before others get their turn: [`TURN`].
    pub turn: usize,
}

/// [`Cx::turn`] in production: 256 KiB. Simulations have less, too, so that small streams take several turns.
pub const TURN: usize = 256 * 1024;

/// The size of [`Cx::scratch`], in bytes: what a bulk stream that is copied reads at once.
pub const SCRATCH: usize = 4 * BULK;

/// A quarter of [`Cx::scratch`], which is what other streams read at once. A read of so many bytes shows a bulk stream,
/// for which splice is cheaper (measured: the crossover lies at 16 to 32 KiB), and larger reads where it is copied.
pub const BULK: usize = 32 * 1024;

impl<S> Cx<'_, S> {
    /// A quarter of the buffer: see [`BULK`].
    pub(crate) fn bulk(&self) -> usize {
        self.scratch.len() / 4
    }
}

/// How payload is moved. Anything but `Hybrid` is for tests and measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Copy small messages, splice bulk.
    #[default]
    Hybrid,
    /// Never splice.
    Copy,
    /// Always splice.
    Splice,
}

/// Sends messages to other drivers: in order for each receiver, and without blocking. They have all that was sent when
/// [`Driver::run_busy`] begins, and when a turn is over; until then they may find out first what else was done.
pub trait Tell<M> {
    /// Sends one message.
    fn tell(&mut self, msg: M);
}
