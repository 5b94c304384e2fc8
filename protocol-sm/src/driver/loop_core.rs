//! What the event loops of both sides have in common: timers, turns, patience with a transfer, draining, totals.

use super::relay::Exchanged;
use super::slab::Token;
use super::sys::{Log, Streams};
use super::thread::{Cx, Tell};
use super::timers::Timers;
use super::totals::Totals;
use crate::canary::{PlantedBug, planted};
use crate::codes::AbortCode;
use crate::dead_path::Path;
use crate::ids::ConnId;
use crate::notes::Note;
use crate::report::{Counted, LoopPart, LoopReport, LoopTally, Trouble, micros};
use crate::settings::Timings;
use crate::time::Instant;
use crate::transfer::{Linger, OuterDuty, Transfer};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

/// So long a transfer for which there is no memory may move nothing.
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);
/// Looks at a conn within the time that its peer's system may be silent.
const LOOKS: u32 = 4;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LoopCore {
    /// Its number in the thread pool.
    pub(crate) loop_index: usize,
    pub(crate) timings: Timings,
    pub(crate) timers: Timers,
    pub(crate) totals: Totals,
    /// What is told of the visitors among `totals`.
    pub(crate) tally: Counted<LoopTally>,
    /// No new transfer will come: the main thread waits for the last one's end.
    pub(crate) draining: bool,
    /// When it is looked at whether what was given to conns is acknowledged; `None` while all of it is known to be.
    next_look: Option<Instant>,
    /// A buffer for one datagram.
    pub(crate) datagram: Vec<u8>,
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
            tally: Counted::default(),
            draining: false,
            next_look: None,
            datagram: Vec::new(),
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

    /// How often a conn stands in the queue: for checks.
    pub(crate) fn places(&self, token: Token) -> usize {
        self.busy.iter().filter(|&&busy| busy == token).count()
    }

    /// Turns that are waiting.
    pub(crate) fn turns(&self) -> usize {
        self.busy.len()
    }

    /// The earliest of its deadlines.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.next_look).min()
    }

    /// A conn may have been given something for its `transfer`: sees to it that it is looked at.
    pub(crate) fn watch(&mut self, now: Instant, path: &Path, transfer: &Transfer) {
        if self.next_look.is_none() && path.is_open(transfer.egress.forwarded()) {
            self.next_look = Some(now + self.timings.path_patience() / LOOKS);
        }
    }

    /// Whether it is time to [`LoopCore::look`] at all conns that carry a transfer.
    pub(crate) fn look_is_due(&mut self, now: Instant) -> bool {
        self.next_look.take_if(|at| *at <= now).is_some()
    }

    /// Looks at such a conn, if it has been given something that was not known to be acknowledged. `true`: its peer's
    /// system has been silent for so long that the main thread is to be asked how the ctl_conn is.
    pub(crate) fn look<S: Streams>(
        &mut self,
        cx: &mut Cx<'_, S>,
        stream: &S::Stream,
        path: &mut Path,
        transfer: &Transfer,
    ) -> bool {
        let sent = transfer.egress.forwarded();
        let patience = self.timings.path_patience();
        let silent = path.is_open(sent) && path.look(cx.now, sent, cx.sys.unacked(stream), patience);
        self.watch(cx.now, path, transfer);
        silent
    }

    /// A transfer has come to `phase`. A phase that is new to it has a deadline of its own, or none; that of
    /// [`Phase::Dial`] is set by who begins it.
    pub(crate) fn enter(
        &mut self,
        now: Instant,
        token: Token,
        deadline: &mut Option<Instant>,
        pace: &mut Pace,
        phase: Phase,
        transfer: &Transfer,
    ) {
        let looks = [&pace.linger, &pace.starved].into_iter().flatten();
        if let Some(next) = looks.map(|linger| linger.next()).min() {
            pace.phase = Phase::Lingering;
            return self.timers.set(token, deadline, Some(next));
        }
        if phase == pace.phase {
            return;
        }
        *pace = Pace { phase, moved: transfer.moved(), linger: None, starved: None };
        if phase == Phase::Dial {
            return;
        }
        let patience = match phase {
            Phase::Answer => Some(self.timings.answer_delay.min(self.timings.dial_timeout)),
            Phase::HalfOpen => Some(self.timings.half_open_timeout),
            Phase::Dial | Phase::Flowing | Phase::Lingering => None,
        };
        self.timers.set(token, deadline, patience.map(|patience| now + patience));
    }

    /// What an exchange means for the outer socket now: `None` leaves it as it is.
    ///
    /// # Errors
    /// The transfer must be aborted: there has been no memory for it for too long.
    pub(crate) fn settle(
        &self,
        now: Instant,
        pace: &mut Pace,
        transfer: &mut Transfer,
        result: &Exchanged,
        throttled: bool,
    ) -> Result<Option<Ending>, AbortCode> {
        self.starve(now, pace, transfer, result)?;
        // Patience is with a reset alone: a socket that is lost meanwhile has no more of it. One that waits for bandwidth
        // has as much as ever.
        let before = pace.linger.take().map(|linger| *linger).filter(|_| !throttled);
        if result.stuck && self.may_reset(now, pace, before, result.unsent) {
            transfer.ingress.on_sink_lost();
            return Ok(Some(Ending::Reset));
        }
        Ok(match result.duty {
            None | Some(OuterDuty::ShutWrite) => None,
            Some(OuterDuty::Close) => {
                transfer.ingress.on_sink_lost();
                Some(Ending::Close)
            }
            Some(OuterDuty::Drop) => Some(Ending::Reset),
            Some(OuterDuty::Reset) => self.may_reset(now, pace, before, result.unsent).then(|| {
                transfer.ingress.on_reset();
                Ending::Reset
            }),
        })
    }

    /// Where the exchange found no memory, [`LoopCore::enter`] sets when to try again.
    ///
    /// # Errors
    /// Nothing has moved for [`MEMORY_PATIENCE`].
    fn starve(&self, now: Instant, pace: &mut Pace, transfer: &Transfer, result: &Exchanged) -> Result<(), AbortCode> {
        let before = pace.starved.take().map(|starved| *starved);
        if !result.starved || planted(PlantedBug::StarvedForgotten) {
            return Ok(());
        }
        // What moves makes this smaller.
        let left = usize::MAX - usize::try_from(transfer.moved()).unwrap_or(usize::MAX);
        match Linger::look(before, now, left, MEMORY_PATIENCE) {
            Ok(()) => Err(AbortCode::Resources),
            Err(linger) => {
                pace.starved = Some(Box::new(linger));
                Ok(())
            }
        }
    }

    /// An outer socket is to be reset, and `unsent` bytes before that are unacknowledged. `false`: not yet; [`LoopCore::enter`]
    /// sets when to look again.
    // PROTOCOL.md: P-FIN-13.
    fn may_reset(&self, now: Instant, pace: &mut Pace, before: Option<Linger>, unsent: usize) -> bool {
        let unsent = if planted(PlantedBug::NotLingered) { 0 } else { unsent };
        match Linger::look(before, now, unsent, self.timings.reset_linger) {
            Ok(()) => true,
            Err(linger) => {
                pace.linger = Some(Box::new(linger));
                false
            }
        }
    }

    /// The deadline of a half-open transfer has passed. `true`: bytes have moved since it was set, or only wait for
    /// bandwidth, and it has a new one.
    pub(crate) fn renew_if_moved(
        &mut self,
        now: Instant,
        token: Token,
        deadline: &mut Option<Instant>,
        pace: &mut Pace,
        transfer: &Transfer,
        throttled: bool,
    ) -> bool {
        let moved = transfer.moved();
        if moved == pace.moved && !throttled {
            return false;
        }
        pace.moved = moved;
        self.timers.set(token, deadline, Some(now + self.timings.half_open_timeout));
        true
    }

    /// One more visitor did not end well.
    pub(crate) fn on_trouble(&mut self, trouble: Trouble) {
        self.totals.aborted += 1;
        self.tally.on_trouble(trouble);
    }

    /// Its part of a report that was asked for at `asked`; what belongs to slots and sessions is not in it.
    pub(crate) fn part(&self, now: Instant, asked: Instant) -> LoopPart {
        LoopPart {
            loop_index: self.loop_index,
            total: self.totals.visitors,
            finished: self.totals.finished,
            tally: *self.tally,
            opened: self.totals.proxy_conns,
            own: LoopReport {
                sockets: 0,
                queued: self.turns() as u64,
                lag_us: micros(now.since(asked)),
                stale: self.totals.stale,
            },
            ..LoopPart::default()
        }
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

/// How an outer socket leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Close,
    Reset,
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
    /// The outer socket is to be reset, when its kernel has sent what it holds; or there was no memory for a call, which
    /// is to be tried again.
    Lingering,
}

impl Phase {
    /// The phase of a transfer whose LocalServer has answered.
    pub(crate) fn answered(transfer: &Transfer) -> Self {
        if transfer.is_half_open() { Self::HalfOpen } else { Self::Flowing }
    }
}

/// How far a transfer had come when its conn's deadline was set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pace {
    pub(crate) phase: Phase,
    /// Bytes moved by then.
    moved: u64,
    /// Patience with an outer socket that is to be reset.
    linger: Option<Box<Linger>>,
    /// Patience with a system that has no memory.
    starved: Option<Box<Linger>>,
}

impl Pace {
    /// That of a transfer that has just begun.
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Dial, moved: 0, linger: None, starved: None }
    }

    /// Whether something that could be moved waits for memory: for checks.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use crate::transfer::{Fin, Half, How};
    use core::time::Duration;

    fn conn() -> Token {
        Token::from_number(1).expect("not 0")
    }

    /// A transfer, the deadline of its conn, and what its outer socket's kernel holds.
    struct Fixture {
        core: LoopCore,
        pace: Pace,
        deadline: Option<Instant>,
        transfer: Transfer,
        unsent: usize,
    }

    /// One whose peer was reset behind a byte, and has it delivered.
    fn to_be_reset() -> Fixture {
        let mut transfer = Transfer::new(Epoch(1));
        transfer.egress.on_taken(2);
        let fin = Fin { total: 1, how: How::Reset };
        let _ = transfer.on_fin(Epoch(1), fin).unwrap();
        assert!(transfer.end_for_peer().is_some());
        transfer.ingress.on_taken(1);
        transfer.ingress.on_forwarded(1);
        let core = LoopCore::new(0, Timings::default());
        Fixture { core, pace: Pace::new(), deadline: None, transfer, unsent: 9 }
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    impl Fixture {
        /// What either loop does behind an exchange.
        fn turn(&mut self, now: Instant) -> Option<Ending> {
            let result = Exchanged { duty: self.transfer.outer_duty(), unsent: self.unsent, ..Exchanged::default() };
            let ending =
                self.core.settle(now, &mut self.pace, &mut self.transfer, &result, false).expect("there is memory");
            let phase = Phase::answered(&self.transfer);
            self.core.enter(now, conn(), &mut self.deadline, &mut self.pace, phase, &self.transfer);
            ending
        }

        /// The deadline passes: when.
        fn fire(&mut self) -> Instant {
            let now = self.deadline.take().expect("a deadline");
            assert_eq!(self.core.timers.pop_due(now), Some(conn()));
            now
        }
    }

    #[test]
    fn a_reset_that_waits_looks_again_and_again_and_then_has_the_ordinary_deadline() {
        let mut fixture = to_be_reset();
        assert_eq!(fixture.turn(at(0)), None);
        assert_eq!((fixture.pace.phase, fixture.deadline), (Phase::Lingering, Some(at(1))));
        // Readiness of either socket in between changes nothing.
        assert_eq!(fixture.turn(at(0)), None);
        assert_eq!(fixture.deadline, Some(at(1)));
        for next in [3, 7, 15] {
            let now = fixture.fire();
            assert_eq!(fixture.turn(now), None);
            assert_eq!((fixture.pace.phase, fixture.deadline), (Phase::Lingering, Some(at(next))));
        }
        fixture.unsent = 0;
        let now = fixture.fire();
        assert_eq!(fixture.turn(now), Some(Ending::Reset));
        // The egress still holds bytes for the conn.
        assert!(!fixture.transfer.through());
        let patience = fixture.core.timings.half_open_timeout;
        assert_eq!((fixture.pace.phase, fixture.deadline), (Phase::HalfOpen, Some(at(15) + patience)));
    }

    /// A transfer of which one direction is over, and the other flows.
    fn half_open() -> Fixture {
        let mut transfer = Transfer::new(Epoch(1));
        assert!(transfer.on_source_end(How::Shut) == Fin { total: 0, how: How::Shut });
        let core = LoopCore::new(0, Timings::default());
        Fixture { core, pace: Pace::new(), deadline: None, transfer, unsent: 0 }
    }

    impl Fixture {
        /// A byte passes in the direction that flows.
        fn byte(&mut self) {
            self.transfer.ingress.on_taken(1);
            self.transfer.ingress.on_forwarded(1);
        }

        /// The deadline passes: whether the transfer has another.
        fn renews(&mut self) -> Option<Instant> {
            let now = self.fire();
            let Self { core, pace, deadline, transfer, .. } = self;
            core.renew_if_moved(now, conn(), deadline, pace, transfer, false).then_some(now)
        }
    }

    #[test]
    fn a_half_open_transfer_that_makes_progress_lives_on_for_period_after_period() {
        let mut fixture = half_open();
        assert_eq!(fixture.turn(at(0)), None);
        let patience = fixture.core.timings.half_open_timeout;
        for period in 1..=5 {
            // A byte in the middle of the period.
            fixture.byte();
            assert_eq!(fixture.turn(at(0) + (patience * period - patience / 2)), None);
            assert_eq!(fixture.deadline, Some(at(0) + patience * period), "a turn in between sets no new one");
            assert_eq!(fixture.renews(), Some(at(0) + patience * period));
            assert_eq!(fixture.deadline, Some(at(0) + patience * (period + 1)));
        }
        assert_eq!(fixture.renews(), None, "and ends with the first period without progress");
        assert_eq!(fixture.deadline, None);
    }

    #[test]
    fn progress_of_the_first_period_is_none_of_the_second() {
        let mut fixture = half_open();
        assert_eq!(fixture.turn(at(0)), None);
        fixture.byte();
        assert!(fixture.renews().is_some());
        // Taken and not forwarded is no progress: nobody has it.
        fixture.transfer.ingress.on_taken(1);
        assert_eq!(fixture.renews(), None);
    }

    #[test]
    fn a_reset_whose_bytes_nobody_acknowledges_goes_out_after_reset_linger() {
        let mut fixture = to_be_reset();
        let mut looks = 0;
        let mut now = at(0);
        while fixture.turn(now).is_none() {
            now = fixture.fire();
            looks += 1;
        }
        let linger = fixture.core.timings.reset_linger;
        assert!(now >= at(0) + linger && now < at(200) + linger, "{now:?}");
        assert!(looks < 60, "{looks} looks");
    }

    #[test]
    fn a_socket_that_takes_nothing_is_reset_with_more_behind_after_reset_linger() {
        let mut transfer = Transfer::new(Epoch(1));
        let fin = Fin { total: 1 << 40, how: How::Reset };
        let _ = transfer.on_fin(Epoch(1), fin).unwrap();
        assert!(transfer.end_for_peer().is_some());
        transfer.ingress.on_taken(100);
        let mut fixture = Fixture { transfer, ..to_be_reset() };
        let owed = |fixture: &Fixture| fixture.transfer.ingress.waits_for_reset().map(|owed| owed as usize + 9);
        let turn = |fixture: &mut Fixture, now| {
            let (stuck, unsent) = (owed(fixture).is_some(), owed(fixture).unwrap_or(9));
            let result = Exchanged { stuck, unsent, duty: fixture.transfer.outer_duty(), ..Exchanged::default() };
            let ending =
                fixture.core.settle(now, &mut fixture.pace, &mut fixture.transfer, &result, false).expect("memory");
            let phase = Phase::answered(&fixture.transfer);
            let Fixture { core, pace, deadline, transfer, .. } = fixture;
            core.enter(now, conn(), deadline, pace, phase, transfer);
            ending
        };
        assert_eq!(turn(&mut fixture, at(0)), None);
        assert_eq!(fixture.pace.phase, Phase::Lingering);
        let linger = fixture.core.timings.reset_linger;
        let (mut now, mut progress) = (at(0), at(0));
        while now < at(0) + linger * 2 {
            now = fixture.fire();
            if now >= progress + linger / 2 && now < at(0) + linger {
                fixture.transfer.ingress.on_forwarded(1);
                progress = now;
            }
            if turn(&mut fixture, now) == Some(Ending::Reset) {
                break;
            }
        }
        assert!(progress > at(0) && now >= progress + linger && now < progress + linger + Duration::from_millis(200));
        assert!(
            fixture.transfer.ingress.drops() && !fixture.transfer.through(),
            "the rest is still taken off the conn"
        );
        assert_eq!(fixture.pace.phase, Phase::HalfOpen);
    }

    #[test]
    fn a_socket_that_is_lost_while_its_reset_waits_leaves_no_look_behind() {
        let mut fixture = to_be_reset();
        assert_eq!(fixture.turn(at(0)), None);
        assert_eq!(fixture.pace.phase, Phase::Lingering);
        assert_eq!(fixture.transfer.on_outer_lost(true), None, "the own half has ended as a reset");
        assert_eq!(fixture.turn(at(0)), Some(Ending::Reset));
        let patience = fixture.core.timings.half_open_timeout;
        assert_eq!((fixture.pace.phase, fixture.deadline), (Phase::HalfOpen, Some(at(0) + patience)));
    }

    #[test]
    fn a_reset_that_began_to_wait_before_the_answer_went_out_keeps_no_other_deadline() {
        let mut fixture = to_be_reset();
        let Fixture { core, pace, deadline, transfer, .. } = &mut fixture;
        core.enter(at(0), conn(), deadline, pace, Phase::Answer, transfer);
        assert_eq!(*deadline, Some(at(20)), "answer_delay");
        assert_eq!(fixture.turn(at(0)), None);
        assert_eq!((fixture.pace.phase, fixture.deadline), (Phase::Lingering, Some(at(1))));
    }

    impl Fixture {
        /// A turn in which a call found no memory, or in which all did.
        fn turn_for_memory(&mut self, now: Instant, starved: bool) -> Result<(), AbortCode> {
            let Self { core, pace, deadline, transfer, .. } = self;
            let ending = core.settle(now, pace, transfer, &Exchanged { starved, ..Exchanged::default() }, false)?;
            assert_eq!(ending, None, "the outer socket lives");
            core.enter(now, conn(), deadline, pace, Phase::answered(transfer), transfer);
            Ok(())
        }
    }

    #[test]
    fn a_transfer_without_memory_is_tried_again_and_again_and_aborted_if_that_never_helps() {
        let mut fixture = half_open();
        let mut now = at(0);
        let mut looks = 0;
        while fixture.turn_for_memory(now, true).is_ok() {
            assert_eq!(fixture.turn_for_memory(now, true), Ok(()), "readiness in between is no look");
            assert!(fixture.pace.is_starved() && fixture.pace.phase == Phase::Lingering);
            now = fixture.fire();
            looks += 1;
        }
        assert_eq!(fixture.turn_for_memory(now, true), Ok(()), "who is not dropped begins anew");
        assert!(now >= at(0) + MEMORY_PATIENCE && now < at(200) + MEMORY_PATIENCE, "{now:?}");
        assert!(looks < 60, "{looks} looks");
    }

    #[test]
    fn a_transfer_that_moves_while_memory_is_scarce_lives_and_has_its_ordinary_deadline_afterwards() {
        let mut fixture = half_open();
        let mut now = at(0);
        while now < at(0) + MEMORY_PATIENCE * 3 {
            assert_eq!(fixture.turn_for_memory(now, true), Ok(()));
            fixture.byte();
            now = fixture.fire();
        }
        assert_eq!(fixture.turn_for_memory(now, false), Ok(()));
        assert!(!fixture.pace.is_starved());
        let patience = fixture.core.timings.half_open_timeout;
        assert_eq!((fixture.pace.phase, fixture.deadline), (Phase::HalfOpen, Some(now + patience)));
    }

    #[test]
    fn a_transfer_that_waits_for_its_answer_keeps_that_deadline() {
        let mut fixture = half_open();
        let Fixture { core, pace, deadline, transfer, .. } = &mut fixture;
        core.timers.set(conn(), deadline, Some(at(7_000)));
        core.enter(at(0), conn(), deadline, pace, Phase::Dial, transfer);
        assert_eq!(*deadline, Some(at(7_000)));
        pace.phase = Phase::Lingering;
        core.enter(at(1), conn(), deadline, pace, Phase::Dial, transfer);
        assert_eq!((pace.phase, *deadline), (Phase::Dial, Some(at(7_000))));
    }
}
