//! The half that goes from an outer socket into the proxy_conn.
//!
//! ```text
//!            on_source_end(how): announce Fin{taken, how}     forwarded == taken
//!   Flowing ─────────────────────────────────────────▶ Ended ──────────────────▶ through()
//!                     on_reset_behind(), where how was shut: announce Fin{taken, reset}
//!   hold_back(): until release(), at most FIRST_BYTES are taken
//! ```
//! Invariants:
//! - E1 `forwarded <= taken`;
//! - E2 the end is announced once, and a reset behind a shut end once more; the total equals `taken` from then on;
//! - E3 nothing is taken after the end;
//! - E4 what is taken before the release can be kept, and go out again on another conn.

use super::end::{Fin, How};
use super::half::{Budget, Count, Half};
use crate::canary::{PlantedBug, planted};
use crate::visit::{Way, WayEnd};

/// Bytes of a visitor that may go out behind a `Start` that is not answered: so much of it is kept (E4).
pub const FIRST_BYTES: usize = 32 * 1024;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Egress {
    count: Count,
    end: Option<How>,
    /// The outer socket was reset behind its shut end.
    reset_behind: bool,
    held_back: bool,
}

impl Egress {
    /// Not more than [`FIRST_BYTES`] are taken from now on.
    // PROTOCOL.md: P-STALE-4.
    pub(crate) fn hold_back(&mut self) {
        self.held_back = true;
    }

    /// What is taken need not be kept any more.
    pub(crate) fn release(&mut self) {
        self.held_back = false;
    }

    /// The same half with nothing forwarded yet, on another conn.
    pub(super) fn again(&self) -> Self {
        assert!(self.held_back, "E4: all that was taken is kept");
        Self { count: Count { forwarded: 0, ..self.count }, ..*self }
    }

    /// The end that was announced, and what was announced behind it.
    pub(super) fn told(&self) -> (Option<Fin>, Option<Fin>) {
        let fin = |how| Fin { total: self.count.taken, how };
        (self.end.map(fin), self.reset_behind.then_some(fin(How::Reset)))
    }

    /// The outer socket's stream has ended, or nothing more will be taken from it: returns what to announce.
    ///
    /// # Panics
    /// At the second call (E2).
    // PROTOCOL.md: P-FIN-1.
    #[must_use]
    pub fn on_source_end(&mut self, how: How) -> Fin {
        assert!(self.end.is_none(), "E2: the end is announced once");
        let how = if planted(PlantedBug::ResetLooksShut) { How::Shut } else { how };
        self.end = Some(how);
        Fin { total: self.count.taken, how }
    }

    /// The outer socket is lost although its stream has ended: returns what to announce, if that is news.
    ///
    /// # Panics
    /// If its stream has not ended: then that is what the end will say.
    #[must_use]
    pub fn on_reset_behind(&mut self) -> Option<Fin> {
        let how = self.end.expect("the stream has ended");
        if how == How::Reset || self.reset_behind {
            return None;
        }
        self.reset_behind = true;
        Some(Fin { total: self.count.taken, how: How::Reset })
    }

    /// Whether the end was announced.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether every byte of an ended stream has been forwarded.
    #[must_use]
    pub fn through(&self) -> bool {
        self.ended() && self.count.forwarded == self.count.taken
    }

    /// What the outer socket has given, and how that ended.
    #[must_use]
    pub fn way(&self) -> Way {
        let end = match self.end {
            Some(How::Shut) if self.through() && !self.reset_behind => WayEnd::Shut,
            Some(_) if self.through() => WayEnd::Reset,
            Some(_) | None => WayEnd::Cut,
        };
        Way { bytes: self.count.taken, end }
    }

    /// Bytes forwarded so far.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        self.count.forwarded
    }
}

impl Half for Egress {
    fn budget(&self, room: usize) -> Budget {
        let take = if self.ended() {
            0
        } else if self.held_back {
            room.min(FIRST_BYTES.saturating_sub(usize::try_from(self.count.taken).unwrap_or(usize::MAX)))
        } else {
            room
        };
        Budget { take, forward: self.count.held() }
    }

    fn on_taken(&mut self, n: usize) {
        assert!(!self.ended(), "E3: nothing is taken after the end");
        self.count.on_taken(n);
    }

    fn on_forwarded(&mut self, n: usize) {
        self.count.on_forwarded(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shut(half: &mut Egress) -> u64 {
        half.on_source_end(How::Shut).total
    }

    #[test]
    fn e2_the_total_counts_what_is_still_held() {
        let mut half = Egress::default();
        half.on_taken(5);
        half.on_forwarded(2);
        assert_eq!(half.on_source_end(How::Reset), Fin { total: 5, how: How::Reset });
        assert!(!half.through());
        assert_eq!(half.budget(100), Budget { take: 0, forward: 3 });
        half.on_forwarded(3);
        assert!(half.through());
    }

    #[test]
    fn e2_a_reset_behind_the_end_is_announced_once_and_only_where_it_is_news() {
        let mut half = Egress::default();
        half.on_taken(5);
        assert_eq!(shut(&mut half), 5);
        assert_eq!(half.on_reset_behind(), Some(Fin { total: 5, how: How::Reset }));
        assert_eq!(half.on_reset_behind(), None);
        let mut half = Egress::default();
        let _ = half.on_source_end(How::Reset);
        assert_eq!(half.on_reset_behind(), None);
    }

    #[test]
    fn e4_no_more_is_taken_than_is_kept_until_it_is_released() {
        let mut half = Egress::default();
        half.hold_back();
        assert_eq!(half.budget(FIRST_BYTES + 1).take, FIRST_BYTES);
        half.on_taken(FIRST_BYTES - 1);
        half.on_forwarded(9);
        assert_eq!(half.budget(100).take, 1);
        half.on_taken(1);
        assert_eq!(half.budget(100).take, 0);
        let again = half.again();
        assert_eq!(again.budget(100), Budget { take: 0, forward: FIRST_BYTES }, "all of it goes out once more");
        half.release();
        assert_eq!(half.budget(100).take, 100);
    }

    #[test]
    #[should_panic(expected = "E2")]
    fn e2_a_second_end_is_misuse() {
        let mut half = Egress::default();
        let _ = shut(&mut half);
        let _ = shut(&mut half);
    }

    #[test]
    #[should_panic(expected = "E3")]
    fn e3_taking_after_the_end_is_misuse() {
        let mut half = Egress::default();
        let _ = shut(&mut half);
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
        assert_eq!(shut(&mut half), 5 << 30);
    }
}
