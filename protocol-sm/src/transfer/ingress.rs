//! The half that comes out of the proxy_conn and goes to an outer socket.
//!
//! ```text
//!           on_fin(total, how)          forwarded == total            on_shut
//!   Open ─────────────────────▶ Capped ────────────────────▶ due() ─────────────▶ Shut = through()
//!    │                            │                            │ on_reset           │ on_fin(total, reset): due()
//!    │ on_sink_lost               │ on_sink_lost               ▼                    ▼ on_reset
//!    └────────▶ Lost ◀────────────┘                           Gone ◀────────────────┘
//!               │  ▲  what comes is dropped; through() at taken == total
//!  on_sink_lives│  │on_sink_lost
//!               ▼  │
//!               Unheard
//! ```
//! Invariants:
//! - I1 `forwarded <= taken <= total`, so a byte past the total never leaves the proxy_conn;
//! - I2 the end is learned once, and a reset behind a shut end once more;
//! - I3 the outer socket's write half is shut exactly once, and only at `forwarded == total`;
//! - I4 an outer socket is reset because of the peer only at `forwarded == total`: a reset keeps its place.

use super::end::{Fin, How, PeerEnd};
use super::half::{Budget, Count, Half};
use crate::canary::{PlantedBug, planted};
use crate::codes::Violation;
use crate::visit::{Way, WayEnd};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ingress {
    count: Count,
    end: Option<PeerEnd>,
    sink: Sink,
}

/// What becomes of what comes out of the proxy_conn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Sink {
    /// The outer socket takes it.
    #[default]
    Open,
    /// The outer socket's write half is shut.
    Shut,
    /// The outer socket is lost, or was never there: it is dropped.
    Lost {
        /// Bytes that it was given before.
        delivered: u64,
    },
    /// The outer socket takes nothing more, and lives: likewise.
    Unheard {
        /// Bytes that it was given before.
        delivered: u64,
    },
    /// All of it is delivered, and the outer socket is closed.
    Gone,
}

impl Ingress {
    /// The peer's `Fin` came.
    ///
    /// # Errors
    /// [`Violation::Repeated`] (I2), or [`Violation::TotalTooSmall`] if more came already (I1).
    // PROTOCOL.md: P-FIN-5.
    pub fn on_fin(&mut self, fin: Fin) -> Result<(), Violation> {
        if fin.total < self.count.taken {
            return Err(Violation::TotalTooSmall);
        }
        self.end = Some(PeerEnd::learn(self.end, fin)?);
        Ok(())
    }

    /// What was known of the peer's end before the transfer began here.
    pub fn on_early_end(&mut self, end: Option<PeerEnd>) {
        assert!(self.count == Count::default() && self.end.is_none(), "before anything else");
        self.end = end;
    }

    /// The same half on another conn, where nothing has come.
    pub(super) fn again(&self) -> Self {
        assert!(self.count == Count::default() && self.end.is_none(), "nothing has come");
        *self
    }

    /// How the outer socket must be ended now: nothing is left to be delivered before.
    #[must_use]
    pub fn due(&self) -> Option<How> {
        let PeerEnd { fin, reset_behind } = self.end?;
        let delivered = fin.total == self.count.forwarded
            || planted(PlantedBug::ShutTooEarly) && fin.how == How::Shut
            || planted(PlantedBug::ResetOvertakes) && fin.how == How::Reset;
        match self.sink {
            Sink::Open if delivered => Some(fin.how),
            Sink::Shut if reset_behind => Some(How::Reset),
            Sink::Open | Sink::Shut | Sink::Lost { .. } | Sink::Unheard { .. } | Sink::Gone => None,
        }
    }

    /// Its write half was shut.
    ///
    /// # Panics
    /// If that was not due (I3).
    // PROTOCOL.md: P-FIN-3.
    pub fn on_shut(&mut self) {
        assert_eq!(self.due(), Some(How::Shut), "I3: shut once, and only when every byte is through");
        if !planted(PlantedBug::ShutTwice) {
            self.sink = Sink::Shut;
        }
    }

    /// It was reset, as the peer's was.
    ///
    /// # Panics
    /// If that was not due (I4).
    pub fn on_reset(&mut self) {
        assert_eq!(self.due(), Some(How::Reset), "I4: reset only when every byte is through");
        self.sink = Sink::Gone;
    }

    /// The outer socket takes nothing more, or is not there: what it was not given is dropped.
    pub fn on_sink_lost(&mut self) {
        match self.sink {
            Sink::Open => {
                self.sink = Sink::Lost { delivered: self.count.forwarded };
                self.count.forwarded = self.count.taken;
            }
            Sink::Shut => self.sink = Sink::Gone,
            Sink::Unheard { delivered } => self.sink = Sink::Lost { delivered },
            Sink::Lost { .. } | Sink::Gone => {}
        }
    }

    /// The outer socket takes nothing more, but is not lost.
    pub(super) fn on_sink_lives(&mut self) {
        if let Sink::Lost { delivered } = self.sink {
            self.sink = Sink::Unheard { delivered };
        }
    }

    /// Whether what comes is dropped.
    #[must_use]
    pub fn drops(&self) -> bool {
        matches!(self.sink, Sink::Lost { .. } | Sink::Unheard { .. })
    }

    /// Whether the outer socket is lost.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.sink, Sink::Lost { .. })
    }

    /// Whether this half is over.
    #[must_use]
    pub fn through(&self) -> bool {
        match self.sink {
            Sink::Open => false,
            Sink::Shut => self.due().is_none(),
            Sink::Lost { .. } | Sink::Unheard { .. } => self.end.is_some_and(|end| end.fin.total == self.count.taken),
            Sink::Gone => true,
        }
    }

    /// Whether the peer's outer socket is gone, so that it takes nothing more.
    #[must_use]
    pub fn peer_is_reset(&self) -> bool {
        self.end.is_some_and(PeerEnd::is_reset)
    }

    /// Whether the total is known.
    #[must_use]
    pub fn capped(&self) -> bool {
        self.end.is_some()
    }

    /// Of a stream that ends by a reset: bytes that the outer socket is still to be given, while some of them wait for it
    /// to take them. `None`: nothing does.
    #[must_use]
    pub fn waits_for_reset(&self) -> Option<u64> {
        let end = self.end.filter(|end| end.is_reset() && self.sink == Sink::Open)?;
        (self.count.taken > self.count.forwarded).then(|| end.fin.total - self.count.forwarded)
    }

    /// What the outer socket was given, and how that ended.
    #[must_use]
    pub fn way(&self) -> Way {
        let shut = self.end.is_some_and(|end| !end.is_reset());
        match self.sink {
            Sink::Lost { delivered } | Sink::Unheard { delivered } => {
                let delivered = if planted(PlantedBug::DroppedCounted) { self.count.forwarded } else { delivered };
                Way { bytes: delivered, end: if self.through() { WayEnd::Reset } else { WayEnd::Cut } }
            }
            Sink::Shut => Way { bytes: self.count.forwarded, end: WayEnd::Shut },
            Sink::Gone => Way { bytes: self.count.forwarded, end: if shut { WayEnd::Shut } else { WayEnd::Reset } },
            Sink::Open => Way { bytes: self.count.forwarded, end: WayEnd::Cut },
        }
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.count.taken
    }

    /// Bytes forwarded so far.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        self.count.forwarded
    }
}

impl Half for Ingress {
    // PROTOCOL.md: P-FIN-4.
    fn budget(&self, room: usize) -> Budget {
        if planted(PlantedBug::IngressNotCapped) {
            return Budget { take: room, forward: self.count.held() };
        }
        let take = match self.end {
            Some(PeerEnd { fin, .. }) => usize::try_from(fin.total - self.count.taken).unwrap_or(usize::MAX).min(room),
            None => room,
        };
        Budget { take, forward: self.count.held() }
    }

    fn on_taken(&mut self, n: usize) {
        self.count.on_taken(n);
        if self.drops() {
            self.count.on_forwarded(n);
        }
        if planted(PlantedBug::IngressNotCapped) {
            return;
        }
        assert!(self.end.is_none_or(|end| self.count.taken <= end.fin.total), "I1: taken past the total");
    }

    fn on_forwarded(&mut self, n: usize) {
        assert_eq!(self.sink, Sink::Open, "I3: nothing is written after the shutdown");
        self.count.on_forwarded(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shut(total: u64) -> Fin {
        Fin { total, how: How::Shut }
    }

    fn reset(total: u64) -> Fin {
        Fin { total, how: How::Reset }
    }

    #[test]
    fn i1_the_total_caps_what_is_taken() {
        let mut half = Ingress::default();
        assert_eq!(half.budget(100).take, 100);
        half.on_taken(3);
        half.on_fin(shut(5)).unwrap();
        assert_eq!(half.budget(100), Budget { take: 2, forward: 3 });
        half.on_taken(2);
        assert_eq!(half.budget(100), Budget { take: 0, forward: 5 });
        assert_eq!(half.due(), None);
        half.on_forwarded(5);
        assert_eq!(half.due(), Some(How::Shut));
        half.on_shut();
        assert!(half.through() && half.due().is_none());
    }

    #[test]
    fn i1_a_total_below_what_came_is_a_violation() {
        let mut half = Ingress::default();
        half.on_taken(3);
        assert_eq!(half.on_fin(shut(2)), Err(Violation::TotalTooSmall));
    }

    #[test]
    fn i2_a_second_fin_is_a_violation() {
        let mut half = Ingress::default();
        half.on_fin(shut(0)).unwrap();
        assert_eq!(half.on_fin(shut(0)), Err(Violation::Repeated));
    }

    #[test]
    #[should_panic(expected = "I3")]
    fn i3_an_early_shutdown_is_misuse() {
        let mut half = Ingress::default();
        half.on_fin(shut(1)).unwrap();
        half.on_shut();
    }

    #[test]
    fn i4_a_reset_waits_for_what_was_sent_before_it() {
        let mut half = Ingress::default();
        half.on_taken(1);
        half.on_fin(reset(3)).unwrap();
        assert!(half.peer_is_reset() && half.due().is_none());
        half.on_taken(2);
        half.on_forwarded(2);
        assert_eq!(half.due(), None);
        half.on_forwarded(1);
        assert_eq!(half.due(), Some(How::Reset));
        half.on_reset();
        assert!(half.through() && half.due().is_none());
    }

    #[test]
    fn i4_a_reset_behind_an_end_comes_after_the_shutdown() {
        let mut half = Ingress::default();
        half.on_fin(shut(1)).unwrap();
        half.on_fin(reset(1)).unwrap();
        half.on_taken(1);
        half.on_forwarded(1);
        assert_eq!(half.due(), Some(How::Shut));
        half.on_shut();
        assert!(!half.through());
        assert_eq!(half.due(), Some(How::Reset));
        half.on_reset();
        assert!(half.through());
    }

    #[test]
    fn what_a_lost_socket_was_not_given_is_dropped_and_still_accounted_for() {
        let mut half = Ingress::default();
        half.on_taken(4);
        half.on_forwarded(1);
        half.on_sink_lost();
        assert!(half.drops() && !half.through());
        assert_eq!(half.budget(10), Budget { take: 10, forward: 0 });
        half.on_taken(2);
        half.on_fin(reset(7)).unwrap();
        assert!(!half.through());
        half.on_taken(1);
        assert!(half.through() && half.due().is_none());
    }

    #[test]
    fn i4_a_reset_waits_for_a_socket_that_takes_nothing_only_while_something_is_held() {
        for ends in [&[reset(9)][..], &[shut(9), reset(9)]] {
            let mut half = Ingress::default();
            half.on_taken(4);
            assert_eq!(half.waits_for_reset(), None, "the stream goes on");
            for &fin in ends {
                half.on_fin(fin).unwrap();
            }
            assert_eq!(half.waits_for_reset(), Some(9));
            half.on_forwarded(3);
            assert_eq!(half.waits_for_reset(), Some(6));
            half.on_forwarded(1);
            assert_eq!(half.waits_for_reset(), None, "the rest has not come");
            half.on_taken(1);
            half.on_sink_lost();
            assert_eq!(half.waits_for_reset(), None);
        }
    }

    #[test]
    fn a_reset_behind_an_end_means_nothing_to_a_socket_that_is_gone() {
        let mut half = Ingress::default();
        half.on_fin(shut(0)).unwrap();
        half.on_shut();
        half.on_sink_lost();
        half.on_fin(reset(0)).unwrap();
        assert!(half.through() && half.due().is_none());
    }
}
