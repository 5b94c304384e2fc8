//! What a thread runs, and what it hands to it.

use super::slab::Token;
use super::sys::Readiness;
use crate::time::Instant;

/// What a thread runs: a driver over a system `S`. The thread polls, then calls [`Driver::on_message`] for
/// each message, [`Driver::on_ready`] for each event, [`Driver::on_deadline`] if [`Driver::next_deadline`]
/// has passed, and [`Driver::run_busy`]; it polls without waiting while [`Driver::is_busy`].
pub trait Driver<S> {
    /// What other threads tell it.
    type Message;
    /// Another thread's message.
    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: Self::Message);
    /// A socket became ready. A token of something that is gone is ignored.
    fn on_ready(&mut self, cx: &mut Cx<'_, S>, token: Token, ready: Readiness);
    /// Time has passed.
    fn on_deadline(&mut self, cx: &mut Cx<'_, S>);
    /// When to call [`Driver::on_deadline`] next.
    fn next_deadline(&self) -> Option<Instant>;
    /// Goes on with what was cut short so that others get their turn.
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
}

/// The size of [`Cx::scratch`], in bytes: a read that fills it shows a bulk stream, for which splice is
/// cheaper (measured: the crossover lies at 16 to 32 KiB).
pub const SCRATCH: usize = 32 * 1024;

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

/// Sends a message to another thread, in order per receiver. Never blocks.
pub trait Tell<M> {
    /// Sends `msg`.
    fn tell(&mut self, msg: M);
}
