//! The half that goes from an outer socket into the proxy_conn.
//!
//! ```text
//!            on_source_eof: announce Fin(taken)        forwarded == taken
//!   Flowing ───────────────────────────────────▶ Ended ──────────────────▶ through()
//! ```
//! Invariants:
//! - E1 `forwarded <= taken`;
//! - E2 the total is announced once, and equals `taken` from then on;
//! - E3 nothing is taken after the end.

use super::half::{Budget, Count, Half};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Egress {
    count: Count,
    ended: bool,
}

impl Egress {
    /// The outer socket's stream has ended, or it is gone and nothing more will be taken from it: returns
    /// the total to announce in `Fin`.
    ///
    /// # Panics
    /// At the second call (E2).
    // PROTOCOL.md: P-FIN-1.
    #[must_use]
    pub fn on_source_eof(&mut self) -> u64 {
        assert!(!self.ended, "E2: the total is announced once");
        self.ended = true;
        self.count.taken
    }

    /// Whether the total was announced.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Whether every byte of an ended stream has been forwarded.
    #[must_use]
    pub fn through(&self) -> bool {
        self.ended && self.count.forwarded == self.count.taken
    }

    /// Bytes forwarded so far.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        self.count.forwarded
    }
}

impl Half for Egress {
    fn budget(&self, room: usize) -> Budget {
        let take = if self.ended { 0 } else { room };
        Budget { take, forward: self.count.held() }
    }

    fn on_taken(&mut self, n: usize) {
        assert!(!self.ended, "E3: nothing is taken after the end");
        self.count.on_taken(n);
    }

    fn on_forwarded(&mut self, n: usize) {
        self.count.on_forwarded(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e2_the_total_counts_what_is_still_held() {
        let mut half = Egress::default();
        half.on_taken(5);
        half.on_forwarded(2);
        assert_eq!(half.on_source_eof(), 5);
        assert!(!half.through());
        assert_eq!(half.budget(100), Budget { take: 0, forward: 3 });
        half.on_forwarded(3);
        assert!(half.through());
    }

    #[test]
    #[should_panic(expected = "E2")]
    fn e2_a_second_end_is_misuse() {
        let mut half = Egress::default();
        let _ = half.on_source_eof();
        let _ = half.on_source_eof();
    }

    #[test]
    #[should_panic(expected = "E3")]
    fn e3_taking_after_the_end_is_misuse() {
        let mut half = Egress::default();
        let _ = half.on_source_eof();
        half.on_taken(1);
    }

    #[test]
    #[should_panic(expected = "forwarded more")]
    fn e1_forwarding_what_was_not_taken_is_misuse() {
        Egress::default().on_forwarded(1);
    }

    #[test]
    fn counts_pass_32_bits() {
        let mut half = Egress::default();
        for _ in 0..5 {
            half.on_taken(1 << 30);
            half.on_forwarded(1 << 30);
        }
        assert_eq!(half.on_source_eof(), 5 << 30);
    }
}
