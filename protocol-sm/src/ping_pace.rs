//! How long an idle proxy_conn may be silent before it is pinged (PROTOCOL.md, "The pool").
//!
//! A middlebox forgets a connection that is silent for too long, and nobody knows how long that is: conns that are found
//! dead teach it.
//!
//! Invariants:
//! - G1 a conn that was silent for no longer than the interval, and is dead, halves it, but not below
//!   [`PingPace::SHORTEST`];
//! - G2 it grows back by an eighth whenever [`PingPace::GROWS_AFTER`] has passed, up to what it was at first.

use crate::time::Instant;
use core::time::Duration;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PingPace {
    /// What the user has set.
    longest: Duration,
    interval: Duration,
    /// When it grows next; `None` while it is the longest.
    grows_at: Option<Instant>,
    /// It was said that conns die.
    said: bool,
}

impl PingPace {
    /// It does not become shorter than this: a conn that dies sooner is not saved by pings.
    pub const SHORTEST: Duration = Duration::from_secs(5);
    /// How long it stays as it is.
    pub const GROWS_AFTER: Duration = Duration::from_secs(300);

    /// An interval that is `longest` at first.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { longest, interval: longest, grows_at: None, said: false }
    }

    /// The interval is `longest` again, which the user has set anew.
    pub fn begin_at(&mut self, longest: Duration) {
        if longest != self.longest {
            *self = Self { said: self.said, ..Self::new(longest) };
        }
    }

    /// How long a conn may be silent now.
    pub fn interval(&mut self, now: Instant) -> Duration {
        while let Some(at) = self.grows_at
            && at <= now
        {
            self.interval = (self.interval + self.interval / 8).min(self.longest);
            self.grows_at = (self.interval < self.longest).then(|| at + Self::GROWS_AFTER);
        }
        self.interval
    }

    /// A conn was found dead that had been silent for `silence`. Returns the new interval if this is the first time that
    /// it becomes shorter: for the log.
    // PROTOCOL.md: P-POOL-10.
    #[must_use]
    pub fn on_dead(&mut self, silence: Duration, now: Instant) -> Option<Duration> {
        let interval = self.interval(now);
        if silence > interval || silence < Self::SHORTEST || interval <= Self::SHORTEST {
            return None;
        }
        self.interval = (interval / 2).max(Self::SHORTEST);
        self.grows_at = Some(now + Self::GROWS_AFTER);
        let first = !core::mem::replace(&mut self.said, true);
        first.then_some(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn at(after: Duration) -> Instant {
        Instant::ZERO + after
    }

    #[test]
    fn g1_conns_that_die_halve_it_down_to_the_shortest_and_it_is_said_once() {
        let mut pace = PingPace::new(secs(20));
        assert_eq!(pace.on_dead(secs(19), at(secs(1))), Some(secs(10)));
        assert_eq!(pace.on_dead(secs(19), at(secs(1))), None, "the others were as silent: nothing new");
        assert_eq!(pace.interval(at(secs(1))), secs(10));
        assert_eq!(pace.on_dead(secs(10), at(secs(2))), None, "it was said");
        assert_eq!(pace.interval(at(secs(2))), secs(5));
        assert_eq!(pace.on_dead(secs(5), at(secs(3))), None);
        assert_eq!(pace.interval(at(secs(3))), secs(5));
    }

    #[test]
    fn g1_a_conn_that_was_not_silent_for_long_teaches_nothing() {
        let mut pace = PingPace::new(secs(20));
        assert_eq!(pace.on_dead(secs(4), at(secs(1))), None);
        assert_eq!(pace.interval(at(secs(1))), secs(20));
    }

    #[test]
    fn g1_half_of_it_is_not_below_the_shortest() {
        let mut pace = PingPace::new(secs(8));
        assert_eq!(pace.on_dead(secs(8), at(secs(1))), Some(secs(5)));
    }

    #[test]
    fn g1_an_interval_that_is_set_below_the_shortest_stays() {
        let mut pace = PingPace::new(secs(2));
        assert_eq!(pace.on_dead(secs(2), at(secs(1))), None);
        assert_eq!(pace.interval(at(secs(1))), secs(2));
    }

    #[test]
    fn g2_it_grows_back_slowly_and_stops_where_it_began() {
        let mut pace = PingPace::new(secs(20));
        assert!(pace.on_dead(secs(20), Instant::ZERO).is_some());
        let step = PingPace::GROWS_AFTER;
        assert_eq!(pace.interval(at(step.checked_sub(Duration::from_nanos(1)).unwrap())), secs(10));
        assert_eq!(pace.interval(at(step)), Duration::from_millis(11_250));
        assert_eq!(pace.interval(at(step * 2)).as_millis(), 12_656);
        assert_eq!(pace.interval(at(step * 6)), secs(20), "also where nobody has asked for a while");
        assert_eq!(pace.grows_at, None);
        assert_eq!(pace.on_dead(secs(20), at(step * 6)), None, "it was said before");
        assert_eq!(pace.interval(at(step * 6)), secs(10));
    }

    #[test]
    fn g2_a_conn_that_dies_begins_the_wait_anew() {
        let mut pace = PingPace::new(secs(20));
        assert!(pace.on_dead(secs(20), Instant::ZERO).is_some());
        let late = at(PingPace::GROWS_AFTER - secs(1));
        assert_eq!(pace.on_dead(secs(10), late), None);
        assert_eq!(pace.interval(at(PingPace::GROWS_AFTER)), secs(5));
        assert_eq!(pace.interval(late + PingPace::GROWS_AFTER), Duration::from_millis(5_625));
    }
}
