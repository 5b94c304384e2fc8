//! Whether a peer's payload moves, as seen now and then. What waits behind it is late, and not lost.
//!
//! A look compares how much has come with what the last one saw; how long ago something moved is known to the distance
//! of two looks.

use crate::time::Instant;
use core::time::Duration;

/// So many times as long as else may something take that has to wait behind other payload.
pub(crate) const PATIENCE: u32 = 12;

/// Looks closer together than this are one: each costs a sum over all conns of the peer.
const LOOK: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Stir {
    /// When the last look was, and how much had come by then.
    last: Option<(Instant, u64)>,
    /// The last look that found more, or less: a transfer was over.
    moved: Option<Instant>,
}

impl Stir {
    /// Looks at how much has `come`.
    pub(crate) fn look(&mut self, now: Instant, come: impl FnOnce() -> u64) {
        if self.last.is_some_and(|(at, _)| now.since(at) < LOOK) {
            return;
        }
        let come = come();
        if self.last.is_some_and(|(_, before)| before != come) {
            self.moved = Some(now);
        }
        self.last = Some((now, come));
    }

    /// Whether something was seen to move less than `within` ago.
    pub(crate) fn moved(&self, now: Instant, within: Duration) -> bool {
        self.moved.is_some_and(|at| now.since(at) < within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn what_has_moved_between_two_looks_has_moved_at_the_second() {
        let mut stir = Stir::default();
        let within = Duration::from_secs(1);
        stir.look(at(0), || 7);
        assert!(!stir.moved(at(0), within), "nothing to compare with");
        stir.look(at(1000), || 7);
        assert!(!stir.moved(at(1000), within));
        stir.look(at(2000), || 8);
        assert!(stir.moved(at(2000), within) && stir.moved(at(2999), within) && !stir.moved(at(3000), within));
        stir.look(at(3000), || 3);
        assert!(stir.moved(at(3000), within), "what is gone has ended");
    }

    #[test]
    fn looks_in_a_row_are_one() {
        let mut stir = Stir::default();
        stir.look(at(0), || 7);
        stir.look(at(249), || unreachable!("too soon"));
        stir.look(at(250), || 8);
        assert!(stir.moved(at(250), LOOK));
    }
}
