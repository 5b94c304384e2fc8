//! A proxy_conn on the server.
//!
//! ```text
//!          start(): Start{epoch+1}, payload right behind       Started: raw from here
//!   Idle ─────────────────────────────────────────▶ Awaiting ────────────────────────▶ Serving
//!    ▲                                                  │ Refused: reset the visitor      │
//!    │                                                  ▼                                 │
//!    │   finished(): both halves through, and Done    Refused ─▶ Fin{what was taken}      │
//!    └──────────────────────────────────────────────────┴─────────────────────────────────┘
//!   Awaiting: on_doubt(): AskStart ─▶ StartSeen{true}: goes on waiting
//!                                  └▶ StartSeen{false}: Again, for another conn's start_again(); this one is closed
//!   an abort from anywhere: the value is dropped, the conn closed, its id never used again
//! ```
//! Invariants:
//! - V1 epochs grow by one;
//! - V2 the conn is idle again only after the client's `Done` and when both halves are through here;
//! - V3 `Fin` and `Done` may come before `Started` (they travel on the ctl_conn); a `Done` that could
//!   not come from an honest client is a violation;
//! - V4 a refused transfer delivers nothing, and what was taken for it is still accounted to the client;
//! - V5 a visitor goes to another conn only if the client says that it never saw this one's `Start`, and has said
//!   nothing that it could only say if it had.

use crate::canary::{PlantedBug, planted};
use crate::cells::{Event, State, saw};
use crate::codes::{MessageName, StateName, Violation};
use crate::ids::Epoch;
use crate::transfer::{Fin, Heard, How, Transfer, Untold};

/// A proxy_conn that carries nothing: it may be given to a visitor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IdleConn {
    last: Epoch,
}

impl IdleConn {
    /// The number of its last transfer; 0 before the first.
    #[must_use]
    pub fn last(&self) -> Epoch {
        self.last
    }

    /// The next transfer, whose epoch goes into `Start`; `None` if the epochs are used up: retire the conn.
    // PROTOCOL.md: P-ID-5.
    #[must_use]
    pub fn start(self) -> Option<ActiveConn> {
        self.begin(Transfer::new)
    }

    /// The next transfer, for a visitor whose `Start` on another conn was never seen: what was taken of it goes out
    /// once more, and the ends in the second value are announced once more.
    #[must_use]
    pub fn start_again(self, again: &Transfer) -> Option<(ActiveConn, Untold)> {
        let conn = self.begin(|epoch| again.again(epoch))?;
        let untold = conn.transfer.untold();
        Some((conn, untold))
    }

    fn begin(self, transfer: impl FnOnce(Epoch) -> Transfer) -> Option<ActiveConn> {
        let mut transfer = transfer(self.last.next()?);
        saw(IDLE, Event::Start);
        transfer.egress.hold_back();
        Some(ActiveConn { transfer, answer: Answer::Awaiting, sight: Sight::Unknown, done: false })
    }

    /// A `Fin`, `Done`, `Abort` or `StartSeen` came for `epoch`.
    ///
    /// # Errors
    /// [`Violation::FutureEpoch`] if no such transfer was started.
    pub fn on_message(&self, epoch: Epoch) -> Result<Heard, Violation> {
        saw(IDLE, Event::Stale);
        if epoch > self.last { Err(Violation::FutureEpoch) } else { Ok(Heard::Stale) }
    }
}

const IDLE: State = State { server: true, stage: 0, ended: false, fin: false, done: false };

/// What the client has answered to `Start`, in band.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Nothing yet: the conn's incoming bytes are still frames.
    Awaiting,
    /// `Started`: what follows is payload.
    Started,
    /// `Refused`: nothing follows.
    Refused,
}

/// What is known of whether the client has seen the `Start`, besides its answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sight {
    /// Nothing, and it was not asked.
    Unknown,
    /// It was asked.
    Asked,
    /// It was asked, and has said.
    Told,
}

/// What a doubt about a `Start` has led to.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Ask the client, with `AskStart`.
    Ask,
    /// It was asked: its answer is to be waited for.
    Wait,
    /// The client has seen it.
    Seen,
}

/// A proxy_conn that carries a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ActiveConn {
    /// Its number and its two halves; the outer socket is the visitor's.
    pub transfer: Transfer,
    answer: Answer,
    sight: Sight,
    done: bool,
}

impl ActiveConn {
    /// What the client has answered.
    #[must_use]
    pub fn answer(&self) -> Answer {
        self.answer
    }

    /// `Started` came in band: bytes behind it are payload.
    ///
    /// # Errors
    /// For another epoch, a second answer, or after a `Done` that only a refusal could have preceded.
    pub fn on_started(&mut self, epoch: Epoch) -> Result<(), Violation> {
        self.met(epoch, Event::Started);
        self.answer_is_due(epoch, MessageName::Started)?;
        if self.done && !self.transfer.ingress.capped() {
            return Err(Violation::DoneTooEarly);
        }
        self.answer = Answer::Started;
        self.transfer.egress.release();
        Ok(())
    }

    /// `Refused` came in band: reset the visitor. Returns the `Fin` to send if the visitor's end was not
    /// announced before.
    ///
    /// # Errors
    /// For another epoch, a second answer, or after a `Fin`, which only a started transfer has.
    // PROTOCOL.md: P-REF-2, P-REF-4.
    pub fn on_refused(&mut self, epoch: Epoch) -> Result<Option<Fin>, Violation> {
        self.met(epoch, Event::Refused);
        self.answer_is_due(epoch, MessageName::Refused)?;
        if self.transfer.ingress.capped() {
            return Err(Violation::Unexpected { message: MessageName::Refused, state: StateName::FinReceived });
        }
        self.answer = Answer::Refused;
        self.transfer.ingress.on_fin(Fin { total: 0, how: How::Reset })?;
        self.transfer.ingress.on_sink_lost();
        let fin = self.transfer.end_egress();
        Ok(fin.filter(|_| !planted(PlantedBug::RefusalNotAccounted)))
    }

    fn answer_is_due(&self, epoch: Epoch, message: MessageName) -> Result<(), Violation> {
        match self.answer {
            Answer::Awaiting if epoch == self.transfer.epoch() => Ok(()),
            Answer::Awaiting => Err(Violation::Unexpected { message, state: StateName::AnswerDue }),
            Answer::Started | Answer::Refused => Err(Violation::Unexpected { message, state: StateName::Transferring }),
        }
    }

    /// `Fin` came on the ctl_conn.
    ///
    /// # Errors
    /// For a transfer never started, a `Fin` too many, or a total below what was received.
    pub fn on_fin(&mut self, epoch: Epoch, fin: Fin) -> Result<Heard, Violation> {
        self.met(epoch, Event::Fin);
        self.transfer.on_fin(epoch, fin)
    }

    /// `Done` came on the ctl_conn. It may overtake `Started`, and our own last turn.
    ///
    /// # Errors
    /// For a transfer never started, a second `Done`, or one that an honest client cannot have sent: it
    /// needs our `Fin`, and sends its own first unless it refuses.
    // PROTOCOL.md: P-DONE-3, P-DONE-4.
    pub fn on_done(&mut self, epoch: Epoch) -> Result<Heard, Violation> {
        self.met(epoch, Event::Done);
        if self.transfer.compare_epoch(epoch)? == Heard::Stale {
            return Ok(Heard::Stale);
        }
        if self.done {
            return Err(Violation::Repeated);
        }
        let own_end_known = self.transfer.ingress.capped() || self.answer == Answer::Awaiting;
        if !self.transfer.egress.ended() || !own_end_known {
            return Err(Violation::DoneTooEarly);
        }
        if planted(PlantedBug::DoneNotKept) && !(self.answer == Answer::Started && self.transfer.ingress.through()) {
            return Err(Violation::DoneTooEarly);
        }
        self.done = true;
        Ok(Heard::Current)
    }

    /// Whether `Done` came: the client needs and sends nothing more, but its last bytes may be on their way.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The `Start` is unanswered, and its conn is lost or shows no sign of life: has the client seen it? At
    /// [`Doubt::Seen`] there is no other conn for this visitor.
    // PROTOCOL.md: P-STALE-1, P-STALE-2.
    pub fn on_doubt(&mut self) -> Doubt {
        if self.answer != Answer::Awaiting || self.done || self.transfer.ingress.capped() {
            return Doubt::Seen;
        }
        match self.sight {
            Sight::Unknown => {
                self.sight = Sight::Asked;
                Doubt::Ask
            }
            Sight::Asked => Doubt::Wait,
            Sight::Told => Doubt::Seen,
        }
    }

    /// `StartSeen` came on the ctl_conn. [`Heard::Current`] and not `seen`: close the conn, and give the visitor another
    /// one (V5).
    ///
    /// # Errors
    /// For a transfer never started, where nothing was asked, a second answer, or a `Start` that was never seen although
    /// the client has answered it.
    // PROTOCOL.md: P-STALE-5, P-STALE-6.
    pub fn on_start_seen(&mut self, epoch: Epoch, seen: bool) -> Result<Heard, Violation> {
        self.met(epoch, Event::StartSeen);
        let message = MessageName::StartSeen;
        if self.transfer.compare_epoch(epoch)? == Heard::Stale {
            return Ok(Heard::Stale);
        }
        match self.sight {
            Sight::Unknown => return Err(Violation::Unexpected { message, state: StateName::StartNotAsked }),
            Sight::Asked => self.sight = Sight::Told,
            Sight::Told => return Err(Violation::Repeated),
        }
        if seen {
            return Ok(Heard::Current);
        }
        // A client that is through with a conn forgets it, and what it has seen there.
        if self.done {
            return Ok(Heard::Stale);
        }
        if self.answer != Answer::Awaiting {
            return Err(Violation::Unexpected { message, state: StateName::Transferring });
        }
        if self.transfer.ingress.capped() {
            return Err(Violation::Unexpected { message, state: StateName::FinReceived });
        }
        Ok(Heard::Current)
    }

    /// `Abort` came on the ctl_conn. [`Heard::Current`]: reset the visitor and close the conn.
    ///
    /// # Errors
    /// For a transfer never started.
    pub fn on_abort(&self, epoch: Epoch) -> Result<Heard, Violation> {
        self.met(epoch, Event::Abort);
        self.transfer.compare_epoch(epoch)
    }

    fn met(&self, epoch: Epoch, event: Event) {
        let event = if epoch < self.transfer.epoch() { Event::Stale } else { event };
        saw(
            State {
                server: true,
                stage: 1 + self.answer as u8,
                ended: self.transfer.egress.ended(),
                fin: self.transfer.ingress.capped(),
                done: self.done,
            },
            event,
        );
    }

    /// The idle conn again, once the transfer is over on both sides (V2); `Err` gives the conn back as it is.
    ///
    /// # Errors
    /// The transfer goes on.
    // PROTOCOL.md: P-DONE-2.
    pub fn finish(self) -> Result<IdleConn, Self> {
        let answered = self.answer != Answer::Awaiting;
        let done = self.done;
        let done = done || planted(PlantedBug::NoDoneGate);
        if done && answered && self.transfer.through() {
            self.met(self.transfer.epoch(), Event::Finish);
            if planted(PlantedBug::EpochReused) {
                return Ok(IdleConn { last: Epoch(self.transfer.epoch().0 - 1) });
            }
            Ok(IdleConn { last: self.transfer.epoch() })
        } else {
            Err(self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::{Budget, Half, OuterDuty};

    fn shut(total: u64) -> Fin {
        Fin { total, how: How::Shut }
    }

    fn reset(total: u64) -> Fin {
        Fin { total, how: How::Reset }
    }

    fn active() -> ActiveConn {
        IdleConn::default().start().unwrap()
    }

    #[test]
    fn v2_only_done_and_both_halves_give_the_conn_back() {
        let e = Epoch(1);
        let mut conn = active();
        conn.transfer.egress.on_taken(2);
        assert_eq!(conn.transfer.on_source_end(How::Shut).total, 2);
        conn.on_fin(e, shut(1)).unwrap().is_current();
        conn.on_done(e).unwrap().is_current();
        conn.on_started(e).unwrap();
        conn.transfer.ingress.on_taken(1);
        conn.transfer.egress.on_forwarded(2);
        let mut conn = conn.finish().unwrap_err();
        conn.transfer.ingress.on_forwarded(1);
        conn.transfer.ingress.on_shut();
        let idle = conn.finish().unwrap();
        assert_eq!(idle.on_message(e), Ok(Heard::Stale));
        assert_eq!(idle.on_message(Epoch(2)), Err(Violation::FutureEpoch));
        assert_eq!(idle.start().unwrap().transfer.epoch(), Epoch(2));
    }

    impl Heard {
        fn is_current(self) {
            assert_eq!(self, Self::Current);
        }
    }

    #[test]
    fn v3_a_done_that_no_honest_client_sends_is_a_violation() {
        let e = Epoch(1);
        let mut conn = active();
        assert_eq!(conn.on_done(e), Err(Violation::DoneTooEarly), "our Fin was not sent");
        let _ = conn.transfer.on_source_end(How::Shut);
        conn.on_done(e).unwrap().is_current();
        assert_eq!(conn.on_done(e), Err(Violation::Repeated));
        assert_eq!(conn.on_started(e), Err(Violation::DoneTooEarly), "only a refusal has no Fin");
        let mut conn = active();
        let _ = conn.transfer.on_source_end(How::Shut);
        conn.on_started(e).unwrap();
        assert_eq!(conn.on_done(e), Err(Violation::DoneTooEarly), "the client's Fin comes first");
    }

    #[test]
    fn v4_a_refusal_ends_both_halves_and_still_accounts_for_what_was_taken() {
        let e = Epoch(1);
        let mut conn = active();
        conn.transfer.egress.on_taken(7);
        assert_eq!(conn.on_refused(e), Ok(Some(reset(7))));
        assert_eq!(conn.transfer.outer_duty(), Some(OuterDuty::Drop));
        conn.transfer.egress.on_forwarded(7);
        conn.on_done(e).unwrap().is_current();
        assert!(conn.finish().is_ok());
    }

    #[test]
    fn v4_a_refusal_announces_nothing_where_the_visitors_end_was_announced() {
        let e = Epoch(1);
        for how in [How::Shut, How::Reset] {
            let mut conn = active();
            conn.transfer.egress.on_taken(7);
            assert_eq!(conn.transfer.on_source_end(how).total, 7);
            conn.on_done(e).unwrap().is_current();
            assert_eq!(conn.on_refused(e), Ok(None));
            let mut conn = conn.finish().unwrap_err();
            conn.transfer.egress.on_forwarded(7);
            assert!(conn.finish().is_ok());
        }
    }

    #[test]
    fn v4_a_refusal_behind_a_fin_is_a_violation_in_either_manner() {
        let refused = Violation::Unexpected { message: MessageName::Refused, state: StateName::FinReceived };
        for fin in [shut(0), reset(0)] {
            let mut conn = active();
            conn.on_fin(Epoch(1), fin).unwrap().is_current();
            assert_eq!(conn.on_refused(Epoch(1)), Err(refused));
        }
    }

    #[test]
    fn v3_a_visitor_that_resets_before_the_answer_costs_no_conn() {
        let e = Epoch(1);
        let mut conn = active();
        conn.transfer.egress.on_taken(7);
        assert_eq!(conn.transfer.on_source_end(How::Reset), reset(7));
        assert_eq!(conn.transfer.outer_duty(), Some(OuterDuty::Drop), "the answer has nobody to go to");
        conn.transfer.egress.on_forwarded(7);
        // The client has delivered 7 bytes, reset its socket, and ended its own half: all of it overtakes `Started`.
        conn.on_fin(e, reset(3)).unwrap().is_current();
        conn.on_done(e).unwrap().is_current();
        let mut conn = conn.finish().unwrap_err();
        conn.on_started(e).unwrap();
        let mut conn = conn.finish().unwrap_err();
        assert_eq!(conn.transfer.ingress.budget(100).take, 3, "dropped, and accounted for");
        conn.transfer.ingress.on_taken(3);
        assert_eq!(conn.finish().unwrap().last(), e);
    }

    #[test]
    fn v3_a_local_server_that_resets_before_started_is_read_to_its_last_byte() {
        let e = Epoch(1);
        let mut conn = active();
        conn.transfer.egress.on_taken(9);
        conn.on_fin(e, reset(4)).unwrap().is_current();
        assert_eq!(conn.transfer.end_for_peer(), Some(reset(9)), "nothing more is taken from the visitor");
        assert_eq!(conn.transfer.outer_duty(), None);
        conn.on_started(e).unwrap();
        conn.transfer.ingress.on_taken(4);
        conn.transfer.ingress.on_forwarded(4);
        assert_eq!(conn.transfer.outer_duty(), Some(OuterDuty::Reset));
        conn.transfer.ingress.on_reset();
        conn.transfer.egress.on_forwarded(9);
        conn.on_done(e).unwrap().is_current();
        assert!(conn.finish().is_ok());
    }

    #[test]
    fn v2_a_reset_behind_the_clients_end_comes_before_its_done() {
        let e = Epoch(1);
        let mut conn = active();
        conn.on_started(e).unwrap();
        conn.on_fin(e, shut(0)).unwrap().is_current();
        assert_eq!(conn.on_fin(e, reset(1)), Err(Violation::Repeated), "another total");
        conn.on_fin(e, reset(0)).unwrap().is_current();
        assert_eq!(conn.on_fin(e, reset(0)), Err(Violation::Repeated));
        assert_eq!(conn.transfer.end_for_peer(), Some(reset(0)));
        conn.on_done(e).unwrap().is_current();
        conn.transfer.ingress.on_shut();
        let mut conn = conn.finish().unwrap_err();
        conn.transfer.ingress.on_reset();
        assert!(conn.finish().is_ok());
    }

    #[test]
    fn v5_a_visitor_goes_elsewhere_only_if_its_start_was_never_seen() {
        let e = Epoch(1);
        let mut conn = active();
        assert_eq!(conn.on_start_seen(e, false), not_asked(), "nothing was asked");
        assert_eq!(conn.on_doubt(), Doubt::Ask);
        assert_eq!(conn.on_doubt(), Doubt::Wait);
        assert_eq!(conn.on_start_seen(Epoch(0), false), Ok(Heard::Stale));
        assert_eq!(conn.on_start_seen(Epoch(2), false), Err(Violation::FutureEpoch));
        assert_eq!(conn.clone().on_start_seen(e, false), Ok(Heard::Current));
        assert_eq!(conn.on_start_seen(e, true), Ok(Heard::Current));
        assert_eq!(conn.on_start_seen(e, false), Err(Violation::Repeated));
        assert_eq!(conn.on_doubt(), Doubt::Seen);
    }

    fn not_asked() -> Result<Heard, Violation> {
        Err(Violation::Unexpected { message: MessageName::StartSeen, state: StateName::StartNotAsked })
    }

    #[test]
    fn v5_a_start_that_was_answered_was_seen() {
        let e = Epoch(1);
        let asked = || {
            let mut conn = active();
            assert_eq!(conn.on_doubt(), Doubt::Ask);
            conn
        };
        let unseen = |state| Err(Violation::Unexpected { message: MessageName::StartSeen, state });
        let mut conn = asked();
        conn.on_started(e).unwrap();
        assert_eq!(conn.on_doubt(), Doubt::Seen);
        assert_eq!(conn.clone().on_start_seen(e, false), unseen(StateName::Transferring));
        assert_eq!(conn.on_start_seen(e, true), Ok(Heard::Current), "they have crossed");
        let mut conn = asked();
        let _ = conn.on_refused(e).unwrap();
        assert_eq!(conn.on_doubt(), Doubt::Seen);
        assert_eq!(conn.on_start_seen(e, false), unseen(StateName::Transferring));
        let mut conn = asked();
        conn.on_fin(e, shut(0)).unwrap().is_current();
        assert_eq!(conn.on_doubt(), Doubt::Seen);
        assert_eq!(conn.on_start_seen(e, false), unseen(StateName::FinReceived));
        let mut conn = asked();
        let _ = conn.transfer.on_source_end(How::Shut);
        conn.on_done(e).unwrap().is_current();
        assert_eq!(conn.on_doubt(), Doubt::Seen);
        assert_eq!(
            conn.on_start_seen(e, false),
            Ok(Heard::Stale),
            "the client has forgotten a conn that was idle again"
        );
    }

    #[test]
    fn v5_on_another_conn_all_that_was_taken_goes_out_once_more() {
        let mut conn = active();
        conn.transfer.egress.on_taken(5);
        conn.transfer.egress.on_forwarded(4);
        let (again, untold) = IdleConn { last: Epoch(6) }.start_again(&conn.transfer).unwrap();
        assert_eq!((again.transfer.epoch(), untold.fins().count()), (Epoch(7), 0));
        assert_eq!(again.transfer.egress.budget(9), Budget { take: 9, forward: 5 });
        assert_eq!(conn.transfer.on_source_end(How::Shut), shut(5));
        assert_eq!(conn.transfer.on_outer_lost(true), Some(reset(5)));
        let (mut again, untold) = IdleConn::default().start_again(&conn.transfer).unwrap();
        assert_eq!(untold.fins().collect::<alloc::vec::Vec<_>>(), [shut(5), reset(5)]);
        assert!(again.transfer.ingress.drops());
        assert_eq!(again.on_doubt(), Doubt::Ask, "this conn may be dead, too");
        assert!(IdleConn { last: Epoch(u32::MAX) }.start_again(&conn.transfer).is_none());
    }

    #[test]
    fn v1_epochs_that_would_wrap_retire_the_conn() {
        assert!(IdleConn { last: Epoch(u32::MAX) }.start().is_none());
    }
}
