//! What the event loops of both sides have in common: timers, turns, patience with a transfer, draining, totals.

use super::slab::Token;
use super::sys::Log;
use super::thread::Tell;
use super::timers::Timers;
use super::totals::Totals;
use crate::ids::ConnId;
use crate::notes::Note;
use crate::settings::Timings;
use crate::time::Instant;
use crate::transfer::Transfer;
use alloc::collections::VecDeque;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LoopCore {
    /// Its number in the thread pool.
    pub(crate) loop_index: usize,
    pub(crate) timings: Timings,
    pub(crate) timers: Timers,
    pub(crate) totals: Totals,
    /// No new transfer will come: the main thread waits for the last one's end.
    pub(crate) draining: bool,
    /// Conns whose turn was cut short, for others.
    busy: VecDeque<Token>,
}

impl LoopCore {
    pub(crate) fn new(loop_index: usize, timings: Timings) -> Self {
        Self {
            loop_index,
            timings,
            timers: Timers::default(),
            totals: Totals::default(),
            draining: false,
            busy: VecDeque::new(),
        }
    }

    /// The conn's turn was cut short: it has another when the others have had theirs. `queued` says whether it
    /// stands in the queue already.
    pub(crate) fn queue_turn(&mut self, token: Token, queued: &mut bool) {
        if !*queued {
            *queued = true;
            self.busy.push_back(token);
        }
    }

    /// Takes the next conn out of the queue; the caller clears its `queued`.
    pub(crate) fn next_turn(&mut self) -> Option<Token> {
        self.busy.pop_front()
    }

    /// Turns that are waiting.
    pub(crate) fn turns(&self) -> usize {
        self.busy.len()
    }

    /// A transfer has come to `phase`. A phase that is new to it has a deadline of its own, or none.
    pub(crate) fn enter(
        &mut self,
        now: Instant,
        token: Token,
        deadline: &mut Option<Instant>,
        pace: &mut Pace,
        phase: Phase,
        transfer: &Transfer,
    ) {
        if phase == pace.phase {
            return;
        }
        *pace = Pace { phase, moved: transfer.moved() };
        let patience = match phase {
            Phase::Answer => Some(self.timings.answer_delay.min(self.timings.dial_timeout)),
            Phase::HalfOpen => Some(self.timings.half_open_timeout),
            Phase::Dial | Phase::Flowing => None,
        };
        self.timers.set(token, deadline, patience.map(|patience| now + patience));
    }

    /// The deadline of a half-open transfer has passed. `true`: bytes have moved since it was set, and it has a new
    /// one.
    pub(crate) fn renew_if_moved(
        &mut self,
        now: Instant,
        token: Token,
        deadline: &mut Option<Instant>,
        pace: &mut Pace,
        transfer: &Transfer,
    ) -> bool {
        let moved = transfer.moved();
        if moved == pace.moved {
            return false;
        }
        pace.moved = moved;
        self.timers.set(token, deadline, Some(now + self.timings.half_open_timeout));
        true
    }

    /// A message came about a transfer that is over, or a conn that is gone.
    // PROTOCOL.md: P-VIOL-4.
    pub(crate) fn on_stale(&mut self, sys: &mut impl Log, conn: ConnId) {
        self.totals.stale += 1;
        sys.note(Note::Stale { conn });
    }

    /// Says `drained` to the main thread if it waits for that and no transfer is left.
    pub(crate) fn tell_if_drained<M>(
        &self,
        sys: &mut impl Tell<M>,
        none_left: impl FnOnce() -> bool,
        drained: impl FnOnce(usize) -> M,
    ) {
        if self.draining && none_left() {
            sys.tell(drained(self.loop_index));
        }
    }
}

/// What an active conn's deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// The LocalServer must answer the dial; on the server, the client must answer `Start`.
    Dial,
    /// On the client: `Started` waits for the LocalServer's first bytes.
    Answer,
    /// Both directions flow: no deadline.
    Flowing,
    /// One direction is over: the other must make progress.
    HalfOpen,
}

impl Phase {
    /// The phase of a transfer whose LocalServer has answered.
    pub(crate) fn answered(transfer: &Transfer) -> Self {
        if transfer.is_half_open() { Self::HalfOpen } else { Self::Flowing }
    }
}

/// How far a transfer had come when its conn's deadline was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pace {
    pub(crate) phase: Phase,
    /// Bytes moved by then.
    moved: u64,
}

impl Pace {
    /// That of a transfer that has just begun.
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Dial, moved: 0 }
    }
}
