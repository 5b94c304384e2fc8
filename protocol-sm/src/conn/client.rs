//! A proxy_conn on the client.
//!
//! ```text
//!          Start{epoch+1}: dial           on_dialed(): Started, then raw
//!   Idle ─────────────────────▶ Dialling ───────────────────────────────▶ Serving
//!    ▲ (keeps one early Fin)        │ on_refused(): Refused                  │
//!    │                              ▼                                       │
//!    │      finish(): Done       Refused: takes and discards up to Fin      │
//!    └──────────────────────────────┴───────────────────────────────────────┘
//!   AskStart on Idle, about the next epoch: never seen: StartSeen{false}, and the conn is closed
//!   an abort from anywhere: the value is dropped, the conn closed, its id never used again
//! ```
//! Invariants:
//! - C1 a `Start` has exactly the next epoch;
//! - C2 what a `Fin` said that overtook its `Start` is kept, one end per conn;
//! - C3 `Done` is sent once, when both halves are through here;
//! - C4 a refused transfer's bytes are taken off the conn and reach nobody;
//! - C5 who says that it never saw a `Start` never will: it closes the conn.

use crate::canary::{PlantedBug, planted};
use crate::cells::{Event, State, saw};
use crate::codes::Violation;
use crate::ids::Epoch;
use crate::transfer::{Fin, Heard, How, PeerEnd, Transfer};

/// A proxy_conn that carries nothing and reads frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IdleConn {
    last: Epoch,
    early_fin: Option<PeerEnd>,
}

impl IdleConn {
    /// The number of its last transfer; 0 before the first.
    #[must_use]
    pub fn last(&self) -> Epoch {
        self.last
    }

    /// `Start` came in band: dial the LocalServer. Bytes behind it are payload.
    ///
    /// # Errors
    /// [`Violation::FutureEpoch`] if its epoch is not the next (C1).
    // PROTOCOL.md: P-XFER-1.
    pub fn on_start(self, epoch: Epoch) -> Result<ActiveConn, Violation> {
        if self.last.next() != Some(epoch) {
            return Err(Violation::FutureEpoch);
        }
        self.met(epoch, Event::Start);
        let mut transfer = Transfer::new(epoch);
        transfer.ingress.on_early_end(self.early_fin);
        Ok(ActiveConn { transfer, stage: Stage::Dialling })
    }

    /// `Fin` came on the ctl_conn: kept if it overtook its `Start` (C2).
    ///
    /// # Errors
    /// For a transfer beyond the next, or a `Fin` too many.
    // PROTOCOL.md: P-FIN-6.
    pub fn on_fin(&mut self, epoch: Epoch, fin: Fin) -> Result<Heard, Violation> {
        self.met(epoch, Event::Fin);
        match self.compare_epoch(epoch)? {
            Heard::Stale => Ok(Heard::Stale),
            Heard::Current => {
                let end = PeerEnd::learn(self.early_fin, fin)?;
                if !planted(PlantedBug::EarlyFinDropped) {
                    self.early_fin = Some(end);
                }
                Ok(Heard::Current)
            }
        }
    }

    /// `Abort` came on the ctl_conn. [`Heard::Current`]: it overtook its `Start`; close the conn.
    ///
    /// # Errors
    /// For a transfer beyond the next.
    // PROTOCOL.md: P-ABORT-6.
    pub fn on_abort(&self, epoch: Epoch) -> Result<Heard, Violation> {
        self.met(epoch, Event::Abort);
        self.compare_epoch(epoch)
    }

    /// `AskStart` came on the ctl_conn. [`Heard::Current`]: the `Start` has not come; close the conn, so that it never
    /// will, and say so (C5).
    ///
    /// # Errors
    /// For a transfer beyond the next.
    // PROTOCOL.md: P-STALE-3.
    pub fn on_ask_start(&self, epoch: Epoch) -> Result<Heard, Violation> {
        self.met(epoch, Event::AskStart);
        self.compare_epoch(epoch)
    }

    fn met(&self, epoch: Epoch, event: Event) {
        let event = if epoch <= self.last { Event::Stale } else { event };
        saw(State { server: false, stage: 0, ended: false, fin: self.early_fin.is_some(), done: false }, event);
    }

    // PROTOCOL.md: P-STATE-2.
    fn compare_epoch(&self, epoch: Epoch) -> Result<Heard, Violation> {
        if epoch <= self.last {
            Ok(Heard::Stale)
        } else if self.last.next() == Some(epoch) {
            Ok(Heard::Current)
        } else {
            Err(Violation::FutureEpoch)
        }
    }
}

/// How far the LocalServer's side has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Connecting.
    Dialling,
    /// Connected; `Started` was queued.
    Serving,
    /// Not to be reached; `Refused` was queued.
    Refused,
}

/// A proxy_conn that carries a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ActiveConn {
    /// Its number and its two halves; the outer socket is the LocalServer's.
    pub transfer: Transfer,
    stage: Stage,
}

impl ActiveConn {
    /// How far it has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The LocalServer is connected: queue `Started`.
    ///
    /// # Panics
    /// Unless dialling.
    pub fn on_dialed(&mut self) {
        assert_eq!(self.stage, Stage::Dialling, "dialled once");
        self.met(self.transfer.epoch(), Event::Started);
        self.stage = Stage::Serving;
    }

    /// The LocalServer cannot be reached: queue `Refused`, discard what comes.
    ///
    /// # Panics
    /// Unless dialling.
    // PROTOCOL.md: P-REF-3.
    pub fn on_refused(&mut self) {
        assert_eq!(self.stage, Stage::Dialling, "dialled once");
        self.met(self.transfer.epoch(), Event::Refused);
        self.stage = Stage::Refused;
        let fin = self.transfer.egress.on_source_end(How::Reset);
        assert_eq!(fin.total, 0, "nothing was taken before the dial");
        // C4: there is no outer socket.
        self.transfer.ingress.on_sink_lost();
    }

    /// `Fin` came on the ctl_conn.
    ///
    /// # Errors
    /// For a transfer not yet started, a `Fin` too many, or a total below what was received.
    pub fn on_fin(&mut self, epoch: Epoch, fin: Fin) -> Result<Heard, Violation> {
        self.met(epoch, Event::Fin);
        self.transfer.on_fin(epoch, fin)
    }

    /// `Abort` came on the ctl_conn. [`Heard::Current`]: reset the local_conn and close the conn.
    ///
    /// # Errors
    /// For a transfer not yet started.
    pub fn on_abort(&self, epoch: Epoch) -> Result<Heard, Violation> {
        self.met(epoch, Event::Abort);
        self.transfer.compare_epoch(epoch)
    }

    /// `AskStart` came on the ctl_conn. [`Heard::Current`]: the `Start` has come; say so.
    ///
    /// # Errors
    /// For a transfer not yet started.
    pub fn on_ask_start(&self, epoch: Epoch) -> Result<Heard, Violation> {
        self.met(epoch, Event::AskStart);
        self.transfer.compare_epoch(epoch)
    }

    fn met(&self, epoch: Epoch, event: Event) {
        let event = if epoch < self.transfer.epoch() { Event::Stale } else { event };
        let (ended, fin) = (self.transfer.egress.ended(), self.transfer.ingress.capped());
        saw(State { server: false, stage: 1 + self.stage as u8, ended, fin, done: false }, event);
    }

    /// The idle conn again, once both halves are through: send `Done` for this transfer (C3). `Err` gives
    /// the conn back as it is.
    ///
    /// # Errors
    /// The transfer goes on.
    pub fn finish(self) -> Result<IdleConn, Self> {
        if self.transfer.through() {
            self.met(self.transfer.epoch(), Event::Finish);
            Ok(IdleConn { last: self.transfer.epoch(), early_fin: None })
        } else {
            Err(self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::{Half, OuterDuty};

    fn shut(total: u64) -> Fin {
        Fin { total, how: How::Shut }
    }

    fn reset(total: u64) -> Fin {
        Fin { total, how: How::Reset }
    }

    #[test]
    fn c2_a_fin_that_overtook_its_start_is_kept_once() {
        let mut idle = IdleConn::default();
        assert_eq!(idle.on_fin(Epoch(2), shut(0)), Err(Violation::FutureEpoch));
        assert_eq!(idle.on_fin(Epoch(1), shut(3)), Ok(Heard::Current));
        assert_eq!(idle.on_fin(Epoch(1), shut(3)), Err(Violation::Repeated));
        let active = idle.on_start(Epoch(1)).unwrap();
        assert_eq!(active.transfer.ingress.budget(100).take, 3);
    }

    #[test]
    fn c2_a_reset_that_overtook_its_start_is_delivered_behind_the_bytes() {
        let mut idle = IdleConn::default();
        assert_eq!(idle.on_fin(Epoch(1), reset(3)), Ok(Heard::Current));
        assert_eq!(idle.on_fin(Epoch(1), reset(3)), Err(Violation::Repeated));
        let mut conn = idle.on_start(Epoch(1)).unwrap();
        assert!(conn.transfer.ingress.peer_is_reset());
        conn.on_dialed();
        assert_eq!(conn.transfer.end_for_peer(), Some(reset(0)), "nothing is taken from the LocalServer any more");
        conn.transfer.ingress.on_taken(3);
        conn.transfer.ingress.on_forwarded(3);
        assert_eq!(conn.transfer.outer_duty(), Some(OuterDuty::Reset));
        conn.transfer.ingress.on_reset();
        assert_eq!(conn.finish().unwrap().last(), Epoch(1));
    }

    #[test]
    fn c2_a_reset_behind_an_end_is_kept_with_it() {
        let mut idle = IdleConn::default();
        assert_eq!(idle.on_fin(Epoch(1), shut(2)), Ok(Heard::Current));
        assert_eq!(idle.on_fin(Epoch(1), reset(3)), Err(Violation::Repeated), "another total");
        assert_eq!(idle.on_fin(Epoch(1), reset(2)), Ok(Heard::Current));
        assert_eq!(idle.on_fin(Epoch(1), reset(2)), Err(Violation::Repeated));
        let mut conn = idle.on_start(Epoch(1)).unwrap();
        conn.on_dialed();
        conn.transfer.ingress.on_taken(2);
        conn.transfer.ingress.on_forwarded(2);
        assert_eq!(conn.transfer.outer_duty(), Some(OuterDuty::ShutWrite));
        conn.transfer.ingress.on_shut();
        assert_eq!(conn.transfer.outer_duty(), Some(OuterDuty::Reset));
    }

    #[test]
    fn c2_a_reset_may_come_behind_an_end_that_was_kept() {
        let mut idle = IdleConn::default();
        let _ = idle.on_fin(Epoch(1), shut(0)).unwrap();
        let mut conn = idle.on_start(Epoch(1)).unwrap();
        assert_eq!(conn.on_fin(Epoch(1), shut(0)), Err(Violation::Repeated));
        assert_eq!(conn.on_fin(Epoch(1), reset(0)), Ok(Heard::Current));
        assert_eq!(conn.on_fin(Epoch(1), reset(0)), Err(Violation::Repeated));
        assert!(conn.transfer.ingress.peer_is_reset());
    }

    #[test]
    fn c2_what_was_kept_belongs_to_one_transfer() {
        let mut idle = IdleConn::default();
        let _ = idle.on_fin(Epoch(1), reset(0)).unwrap();
        let mut conn = idle.on_start(Epoch(1)).unwrap();
        conn.on_refused();
        let mut idle = conn.finish().unwrap();
        assert_eq!(idle.on_fin(Epoch(1), reset(0)), Ok(Heard::Stale));
        assert!(!idle.clone().on_start(Epoch(2)).unwrap().transfer.ingress.capped());
        assert_eq!(idle.on_fin(Epoch(2), shut(4)), Ok(Heard::Current));
    }

    #[test]
    fn c1_a_start_out_of_turn_is_a_violation() {
        assert_eq!(IdleConn::default().on_start(Epoch(2)), Err(Violation::FutureEpoch));
        assert_eq!(IdleConn::default().on_start(Epoch(0)), Err(Violation::FutureEpoch));
    }

    #[test]
    fn c3_done_waits_for_both_halves() {
        let mut conn = IdleConn::default().on_start(Epoch(1)).unwrap();
        conn.on_dialed();
        conn.transfer.egress.on_taken(4);
        let _ = conn.transfer.on_source_end(How::Shut);
        let _ = conn.on_fin(Epoch(1), shut(0)).unwrap();
        conn.transfer.ingress.on_shut();
        assert_eq!(conn.transfer.outer_duty(), Some(OuterDuty::Close));
        let mut conn = conn.finish().unwrap_err();
        conn.transfer.egress.on_forwarded(4);
        let mut idle = conn.finish().unwrap();
        assert_eq!(idle.on_fin(Epoch(1), shut(0)), Ok(Heard::Stale));
        assert_eq!(idle.on_abort(Epoch(1)), Ok(Heard::Stale));
    }

    #[test]
    fn c3_a_local_server_that_resets_is_accounted_for_while_started_is_still_out() {
        let mut conn = IdleConn::default().on_start(Epoch(1)).unwrap();
        conn.transfer.ingress.on_taken(5);
        conn.on_dialed();
        conn.transfer.egress.on_taken(4);
        assert_eq!(conn.transfer.on_source_end(How::Reset), reset(4));
        assert_eq!(conn.transfer.outer_duty(), Some(OuterDuty::Drop));
        conn.transfer.egress.on_forwarded(4);
        let mut conn = conn.finish().unwrap_err();
        assert_eq!(conn.on_fin(Epoch(1), reset(7)), Ok(Heard::Current));
        let mut conn = conn.finish().unwrap_err();
        conn.transfer.ingress.on_taken(2);
        assert_eq!(conn.finish().unwrap().last(), Epoch(1));
    }

    #[test]
    fn c5_who_is_asked_about_a_start_has_seen_it_or_never_will() {
        let idle = IdleConn { last: Epoch(1), early_fin: None };
        assert_eq!(idle.on_ask_start(Epoch(2)), Ok(Heard::Current), "to be closed");
        assert_eq!(idle.on_ask_start(Epoch(1)), Ok(Heard::Stale), "its Done is on the way");
        assert_eq!(idle.on_ask_start(Epoch(3)), Err(Violation::FutureEpoch));
        let active = idle.on_start(Epoch(2)).unwrap();
        assert_eq!(active.on_ask_start(Epoch(2)), Ok(Heard::Current));
        assert_eq!(active.on_ask_start(Epoch(1)), Ok(Heard::Stale));
        assert_eq!(active.on_ask_start(Epoch(3)), Err(Violation::FutureEpoch));
    }

    #[test]
    fn c4_a_refused_transfer_discards_exactly_the_total() {
        for fin in [shut(6), reset(6)] {
            let mut conn = IdleConn::default().on_start(Epoch(1)).unwrap();
            conn.transfer.ingress.on_taken(2);
            conn.on_refused();
            assert_eq!(conn.transfer.ingress.budget(100).forward, 0, "what came while dialling is dropped");
            conn.transfer.ingress.on_taken(3);
            let mut conn = conn.finish().unwrap_err();
            let _ = conn.on_fin(Epoch(1), fin).unwrap();
            assert_eq!(conn.transfer.ingress.budget(100).take, 1);
            conn.transfer.ingress.on_taken(1);
            assert_eq!(conn.transfer.outer_duty(), Some(OuterDuty::Drop), "there is no outer socket");
            assert!(conn.finish().is_ok());
        }
    }

    #[test]
    fn c4_a_refused_transfer_whose_end_came_early_is_through_at_once() {
        for ends in [&[shut(0)][..], &[reset(0)], &[shut(0), reset(0)]] {
            let mut idle = IdleConn::default();
            for &fin in ends {
                let _ = idle.on_fin(Epoch(1), fin).unwrap();
            }
            let mut conn = idle.on_start(Epoch(1)).unwrap();
            conn.on_refused();
            assert!(conn.finish().is_ok(), "{ends:?}");
        }
    }

    #[test]
    fn c4_a_visitor_that_resets_behind_its_end_changes_nothing_in_a_refused_transfer() {
        let mut conn = IdleConn::default().on_start(Epoch(1)).unwrap();
        conn.on_refused();
        let _ = conn.on_fin(Epoch(1), shut(1)).unwrap();
        let _ = conn.on_fin(Epoch(1), reset(1)).unwrap();
        assert_eq!(conn.transfer.end_for_peer(), None, "the client announces no end");
        let mut conn = conn.finish().unwrap_err();
        conn.transfer.ingress.on_taken(1);
        let mut idle = conn.finish().unwrap();
        assert_eq!(idle.on_fin(Epoch(1), reset(1)), Ok(Heard::Stale));
    }
}
