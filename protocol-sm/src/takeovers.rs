//! How often one process of a client takes over from another (PROTOCOL.md, "Takeover").
//!
//! A rolling update takes over once for each process. Two that are both kept alive under one identity would take over
//! from each other without end, and each time cut what outlasts the drain time: so there is a number of takeovers after
//! which the one that is there stays, until nobody has asked for a while.

use crate::time::Instant;
use core::time::Duration;

/// See the module. It passes from a session to the one that takes over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Takeovers {
    count: u32,
    asked: Option<Instant>,
}

impl Takeovers {
    /// So many in a row.
    const MOST: u32 = 32;
    /// When nobody has asked for so long, the next one is the first again.
    const QUIET: Duration = Duration::from_secs(600);

    /// A newcomer asks to take over. Returns whether it may.
    // PROTOCOL.md: P-TAKE-6.
    #[must_use]
    pub fn ask(&mut self, now: Instant) -> bool {
        if self.asked.is_some_and(|at| now.since(at) >= Self::QUIET) {
            self.count = 0;
        }
        self.asked = Some(now);
        let may = self.count < Self::MOST;
        self.count += u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_fight_for_an_identity_come_to_rest_and_stay_there() {
        let mut takeovers = Takeovers::default();
        let mut now = Instant::ZERO;
        let mut taken = 0;
        for _ in 0..10_000 {
            now = now + Duration::from_secs(15);
            taken += u32::from(takeovers.ask(now));
        }
        assert_eq!(taken, Takeovers::MOST);
        now = now + (Takeovers::QUIET - Duration::from_secs(1));
        assert!(!takeovers.ask(now));
        assert!(takeovers.ask(now + Takeovers::QUIET), "nobody has asked for a while");
    }

    #[test]
    fn one_a_day_may_go_on_for_ever() {
        let mut takeovers = Takeovers::default();
        assert!((0..100).all(|day| takeovers.ask(Instant::ZERO + Duration::from_secs(86_400 * day))));
    }
}
