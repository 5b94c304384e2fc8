//! Pauses between attempts: doubling, bounded, with jitter (PROTOCOL.md, "Timers").

use core::time::Duration;

/// The pauses of one thing that is tried again and again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Pauses from `min` up to `max`.
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), failures: 0 }
    }

    /// It failed again: how long to wait. `random` is any 32 random bits; the pause lies between half
    /// and the whole of `min * 2^failures`, capped by `max`, so that many clients do not come at once.
    pub fn next(&mut self, random: u32) -> Duration {
        let whole = self.min.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        let jitter = half.as_nanos() * u128::from(random) / u128::from(u32::MAX);
        half + Duration::from_nanos(u64::try_from(jitter).unwrap_or(u64::MAX))
    }

    /// It worked: start over at `min`.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let pauses: alloc::vec::Vec<_> = (0..6).map(|_| backoff.next(u32::MAX).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(0).as_millis(), 500);
        backoff.reset();
        assert_eq!(backoff.next(0).as_millis(), 50);
    }

    #[test]
    fn every_success_starts_over_and_no_pause_is_longer_than_the_cap_or_overflows() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max);
        for failures in 1..5 {
            assert!(backoff.next(u32::MAX) == min, "after {failures} times that it worked");
            (0..failures).for_each(|_| assert!(backoff.next(7) <= max));
            backoff.reset();
        }
        let mut longest = Backoff::new(Duration::from_secs(1 << 40), Duration::MAX);
        (0..70).for_each(|_| assert!(longest.next(u32::MAX) >= Duration::from_secs(1 << 39)));
        let mut fixed = Backoff::new(max, min);
        assert_eq!([fixed.next(u32::MAX), fixed.next(u32::MAX)], [max, max], "a cap below the minimum is none");
    }
}
