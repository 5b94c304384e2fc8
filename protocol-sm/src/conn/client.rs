//! A proxy_conn on the client.
//!
//! ```text
//!          Start{epoch+1}: dial           on_dialed(): Started, then raw
//!   Idle ─────────────────────▶ Dialling ───────────────────────────────▶ Serving
//!    ▲ (keeps one early Fin)        │ on_refused(): Refused                  │
//!    │                              ▼                                       │
//!    │      finish(): Done       Refused: takes and discards up to Fin      │
//!    └──────────────────────────────┴───────────────────────────────────────┘
//!   an abort from anywhere: the value is dropped, the conn closed, its id never used again
//! ```
//! Invariants:
//! - C1 a `Start` has exactly the next epoch;
//! - C2 a `Fin` that overtook its `Start` is kept, one per conn;
//! - C3 `Done` is sent once, when both halves are through here;
//! - C4 a refused transfer's bytes are taken off the conn and reach nobody.

use crate::canary::{PlantedBug, planted};
use crate::cells::{Event, State, saw};
use crate::codes::Violation;
use crate::ids::Epoch;
use crate::transfer::{Half, Heard, Transfer};

/// A proxy_conn that carries nothing and reads frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IdleConn {
    last: Epoch,
    early_fin: Option<u64>,
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
        if let Some(total) = self.early_fin {
            transfer.ingress.on_fin(total)?;
        }
        Ok(ActiveConn { transfer, stage: Stage::Dialling })
    }

    /// `Fin` came on the ctl_conn: kept if it overtook its `Start` (C2).
    ///
    /// # Errors
    /// For a transfer beyond the next, or a second `Fin`.
    // PROTOCOL.md: P-FIN-6.
    pub fn on_fin(&mut self, epoch: Epoch, total: u64) -> Result<Heard, Violation> {
        self.met(epoch, Event::Fin);
        match self.compare_epoch(epoch)? {
            Heard::Stale => Ok(Heard::Stale),
            Heard::Current if self.early_fin.is_some() => Err(Violation::Repeated),
            Heard::Current => {
                if planted(PlantedBug::EarlyFinDropped) {
                    return Ok(Heard::Current);
                }
                self.early_fin = Some(total);
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
    pub fn on_refused(&mut self) {
        assert_eq!(self.stage, Stage::Dialling, "dialled once");
        self.met(self.transfer.epoch(), Event::Refused);
        self.stage = Stage::Refused;
        let total = self.transfer.egress.on_source_eof();
        assert_eq!(total, 0, "nothing was taken before the dial");
    }

    /// A refused transfer took `n` bytes off the conn and dropped them (C4), or learned its total: notes it.
    ///
    /// # Panics
    /// Unless refused.
    pub fn on_discarded(&mut self, n: usize) {
        assert_eq!(self.stage, Stage::Refused, "C4: only a refused transfer discards");
        self.transfer.ingress.on_taken(n);
        self.settle_discard();
    }

    /// Counts everything taken as forwarded, and the missing outer socket as shut when it is due.
    ///
    /// # Panics
    /// Unless refused.
    pub fn settle_discard(&mut self) {
        assert_eq!(self.stage, Stage::Refused, "C4: only a refused transfer discards");
        let held = self.transfer.ingress.budget(0).forward;
        if held > 0 {
            self.transfer.ingress.on_forwarded(held);
        }
        // There is no outer socket to be shut.
        let _ = self.transfer.shut_outer();
    }

    /// `Fin` came on the ctl_conn.
    ///
    /// # Errors
    /// For a transfer not yet started, a second `Fin`, or a total below what was received.
    pub fn on_fin(&mut self, epoch: Epoch, total: u64) -> Result<Heard, Violation> {
        self.met(epoch, Event::Fin);
        self.transfer.on_fin(epoch, total)
    }

    /// `Abort` came on the ctl_conn. [`Heard::Current`]: reset the local_conn and close the conn.
    ///
    /// # Errors
    /// For a transfer not yet started.
    pub fn on_abort(&self, epoch: Epoch) -> Result<Heard, Violation> {
        self.met(epoch, Event::Abort);
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

    #[test]
    fn c2_a_fin_that_overtook_its_start_is_kept_once() {
        let mut idle = IdleConn::default();
        assert_eq!(idle.on_fin(Epoch(2), 0), Err(Violation::FutureEpoch));
        assert_eq!(idle.on_fin(Epoch(1), 3), Ok(Heard::Current));
        assert_eq!(idle.on_fin(Epoch(1), 3), Err(Violation::Repeated));
        let active = idle.on_start(Epoch(1)).unwrap();
        assert_eq!(active.transfer.ingress.budget(100).take, 3);
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
        let _ = conn.transfer.egress.on_source_eof();
        let _ = conn.on_fin(Epoch(1), 0).unwrap();
        conn.transfer.ingress.on_shutdown();
        assert!(conn.transfer.outer_is_through());
        let mut conn = conn.finish().unwrap_err();
        conn.transfer.egress.on_forwarded(4);
        let mut idle = conn.finish().unwrap();
        assert_eq!(idle.on_fin(Epoch(1), 0), Ok(Heard::Stale));
        assert_eq!(idle.on_abort(Epoch(1)), Ok(Heard::Stale));
    }

    #[test]
    fn c4_a_refused_transfer_discards_exactly_the_total() {
        let mut conn = IdleConn::default().on_start(Epoch(1)).unwrap();
        conn.transfer.ingress.on_taken(2);
        conn.on_refused();
        conn.settle_discard();
        conn.on_discarded(3);
        let mut conn = conn.finish().unwrap_err();
        let _ = conn.on_fin(Epoch(1), 6).unwrap();
        assert_eq!(conn.transfer.ingress.budget(100).take, 1);
        conn.on_discarded(1);
        assert!(conn.finish().is_ok());
    }

    #[test]
    fn c4_a_refused_transfer_that_is_through_may_be_settled_again() {
        let mut idle = IdleConn::default();
        let _ = idle.on_fin(Epoch(1), 0).unwrap();
        let mut conn = idle.on_start(Epoch(1)).unwrap();
        conn.on_refused();
        conn.settle_discard();
        conn.settle_discard();
        assert!(conn.finish().is_ok());
    }
}
