//! The half that comes out of the proxy_conn and goes to an outer socket.
//!
//! ```text
//!           on_fin(total)            forwarded == total             on_shutdown
//!   Open ──────────────────▶ Capped ────────────────────▶ (due) ──────────────▶ Shut = through()
//! ```
//! Invariants:
//! - I1 `forwarded <= taken <= total`, so a byte past the total never leaves the proxy_conn;
//! - I2 the total is learned once;
//! - I3 the outer socket's write half is shut exactly once, and only at `forwarded == total`.

use super::half::{Budget, Count, Half};
use crate::canary::{PlantedBug, planted};
use crate::codes::Violation;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ingress {
    count: Count,
    total: Option<u64>,
    shut: bool,
}

impl Ingress {
    /// The peer's `Fin` came.
    ///
    /// # Errors
    /// [`Violation::Repeated`] for a second one (I2), [`Violation::TotalTooSmall`] if more came already (I1).
    // PROTOCOL.md: P-FIN-5.
    pub fn on_fin(&mut self, total: u64) -> Result<(), Violation> {
        if self.total.is_some() {
            return Err(Violation::Repeated);
        }
        if total < self.count.taken {
            return Err(Violation::TotalTooSmall);
        }
        self.total = Some(total);
        Ok(())
    }

    /// Whether the outer socket's write half must be shut now.
    #[must_use]
    pub fn shutdown_due(&self) -> bool {
        if planted(PlantedBug::ShutTooEarly) {
            return !self.shut && self.total.is_some();
        }
        !self.shut && self.total == Some(self.count.forwarded)
    }

    /// It was shut, or the outer socket is gone and needs no shutdown.
    ///
    /// # Panics
    /// If it was not due (I3).
    pub fn on_shutdown(&mut self) {
        assert!(self.shutdown_due(), "I3: shut once, and only when every byte is through");
        if planted(PlantedBug::ShutTwice) {
            return;
        }
        self.shut = true;
    }

    /// Whether this half is over.
    #[must_use]
    pub fn through(&self) -> bool {
        self.shut
    }

    /// Whether the total is known.
    #[must_use]
    pub fn capped(&self) -> bool {
        self.total.is_some()
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
        let take = match self.total {
            Some(total) => usize::try_from(total - self.count.taken).unwrap_or(usize::MAX).min(room),
            None => room,
        };
        Budget { take, forward: self.count.held() }
    }

    fn on_taken(&mut self, n: usize) {
        self.count.on_taken(n);
        if planted(PlantedBug::IngressNotCapped) {
            return;
        }
        assert!(self.total.is_none_or(|total| self.count.taken <= total), "I1: taken past the total");
    }

    fn on_forwarded(&mut self, n: usize) {
        assert!(!self.shut, "I3: nothing is written after the shutdown");
        self.count.on_forwarded(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i1_the_total_caps_what_is_taken() {
        let mut half = Ingress::default();
        assert_eq!(half.budget(100).take, 100);
        half.on_taken(3);
        half.on_fin(5).unwrap();
        assert_eq!(half.budget(100), Budget { take: 2, forward: 3 });
        half.on_taken(2);
        assert_eq!(half.budget(100), Budget { take: 0, forward: 5 });
        assert!(!half.shutdown_due());
        half.on_forwarded(5);
        assert!(half.shutdown_due());
        half.on_shutdown();
        assert!(half.through() && !half.shutdown_due());
    }

    #[test]
    fn i1_a_total_below_what_came_is_a_violation() {
        let mut half = Ingress::default();
        half.on_taken(3);
        assert_eq!(half.on_fin(2), Err(Violation::TotalTooSmall));
    }

    #[test]
    fn i2_a_second_fin_is_a_violation() {
        let mut half = Ingress::default();
        half.on_fin(0).unwrap();
        assert_eq!(half.on_fin(0), Err(Violation::Repeated));
    }

    #[test]
    #[should_panic(expected = "I3")]
    fn i3_an_early_shutdown_is_misuse() {
        let mut half = Ingress::default();
        half.on_fin(1).unwrap();
        half.on_shutdown();
    }
}
