//! How often something may happen per key, which is a source address most of the time: a token bucket for each, in
//! bounded memory.
//!
//! A bucket is one number: when it will be full again. A full one needs no memory. Where more keys than
//! [`Rates::KEYS`] are at work, the one whose bucket is nearest to full is forgotten: a flood from many addresses
//! can at most win a little for its own, and locks nobody out.

use crate::sources::Source;
use crate::time::Instant;
use alloc::collections::{BTreeMap, BTreeSet};
use core::time::Duration;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rates<K = Source> {
    /// What one event costs.
    every: Duration,
    /// What a full bucket holds.
    burst: Duration,
    /// The time at which each bucket will be full again. A full one has no entry.
    full_at: BTreeMap<K, Instant>,
    /// The same buckets, ordered by that time.
    by_time: BTreeSet<(Instant, K)>,
}

impl<K> Rates<K> {
    /// Keys remembered at once.
    pub const KEYS: usize = 4096;

    /// `burst` events at once for each key, and one more for each `every` that passes.
    ///
    /// # Panics
    /// If `burst` or `every` is 0: the caller's misuse.
    #[must_use]
    pub fn new(every: Duration, burst: u32) -> Self {
        assert!(burst > 0 && !every.is_zero(), "a rate that allows nothing, or everything");
        let burst = every.saturating_mul(burst);
        Self { every, burst, full_at: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// `count` events per minute for each key, evenly spread or all at once.
    ///
    /// # Panics
    /// If `count` is 0.
    #[must_use]
    pub fn per_minute(count: u32) -> Self {
        Self::new(Duration::from_secs(60) / count, count)
    }

    /// Whether it is the same rate, whatever has happened since it began.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (self.every, self.burst) == (other.every, other.burst)
    }
}

impl<K: Copy + Ord> Rates<K> {
    /// Whether one more event of `key` is allowed.
    #[must_use]
    pub fn may(&self, now: Instant, key: K) -> bool {
        let missing = self.full_at.get(&key).map_or(Duration::ZERO, |at| at.since(now));
        missing + self.every <= self.burst
    }

    /// Counts an event of `key` if it is allowed, and returns whether it is.
    #[must_use]
    pub fn take(&mut self, now: Instant, key: K) -> bool {
        if !self.may(now, key) {
            return false;
        }
        while let Some(&(at, full)) = self.by_time.first()
            && at <= now
        {
            self.forget(at, full);
        }
        let before = self.full_at.get(&key).copied();
        if let Some(at) = before {
            self.by_time.remove(&(at, key));
        } else if self.full_at.len() == Self::KEYS
            && let Some(&(at, fullest)) = self.by_time.first()
        {
            self.forget(at, fullest);
        }
        let at = before.unwrap_or(now) + self.every;
        self.full_at.insert(key, at);
        self.by_time.insert((at, key));
        true
    }

    fn forget(&mut self, at: Instant, key: K) {
        self.by_time.remove(&(at, key));
        self.full_at.remove(&key);
    }
}

/// One token bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// What one event costs.
    every: Duration,
    /// What a full bucket holds.
    burst: Duration,
    full_at: Instant,
}

impl Bucket {
    /// `burst` events at once, and one more for each `every` that passes.
    #[must_use]
    pub fn new(every: Duration, burst: u32) -> Self {
        Self { every, burst: every.saturating_mul(burst), full_at: Instant::ZERO }
    }

    /// Counts an event.
    ///
    /// # Errors
    /// It is not allowed yet: from when on it is.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let missing = self.full_at.since(now) + self.every;
        if missing > self.burst {
            return Err(now + (missing - self.burst));
        }
        self.full_at = self.full_at.max(now) + self.every;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn source(n: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(n).into())
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_and_then_one_for_each_interval() {
        let mut rates = Rates::<Source>::new(Duration::from_secs(1), 3);
        let taken = |rates: &mut Rates, now, n| (0..n).filter(|_| rates.take(now, source(1))).count();
        assert_eq!(taken(&mut rates, at(0), 9), 3);
        assert_eq!(taken(&mut rates, at(999), 9), 0);
        assert_eq!(taken(&mut rates, at(1000), 9), 1);
        assert_eq!(taken(&mut rates, at(2500), 9), 1);
        assert_eq!(taken(&mut rates, at(3000), 9), 1, "halves are not lost");
        assert_eq!(taken(&mut rates, at(1_000_000), 9), 3, "never more than a burst");
        assert!(rates.take(at(1_000_000), source(2)), "each source has its own");
        assert_eq!(taken(&mut Rates::per_minute(90), at(0), 1000), 90);
    }

    #[test]
    fn a_bucket_says_when_it_allows_more() {
        let mut bucket = Bucket::new(Duration::from_secs(1), 3);
        assert_eq!(bucket.take(at(500)), Ok(()));
        assert_eq!((bucket.take(at(500)), bucket.take(at(500))), (Ok(()), Ok(())));
        assert_eq!(bucket.take(at(500)), Err(at(1500)));
        assert_eq!(bucket.take(at(1499)), Err(at(1500)), "who asks too early waits no longer for it");
        assert_eq!((bucket.take(at(1500)), bucket.take(at(1500))), (Ok(()), Err(at(2500))));
        assert_eq!((bucket.take(at(2500)), bucket.take(at(2500))), (Ok(()), Err(at(3500))), "the second period, too");
        assert_eq!((0..9).filter(|_| bucket.take(at(60_000)).is_ok()).count(), 3, "never more than a burst");
    }

    #[test]
    fn who_asks_and_is_refused_is_not_held_back_longer() {
        let mut rates = Rates::<Source>::new(Duration::from_secs(1), 1);
        assert!(rates.take(at(0), source(1)));
        for millis in 1..1000 {
            assert!(!rates.take(at(millis), source(1)));
        }
        assert!(rates.take(at(1000), source(1)));
    }

    #[test]
    fn memory_is_bounded_and_full_buckets_are_forgotten() {
        let mut rates = Rates::<Source>::new(Duration::from_secs(1), 2);
        assert!(rates.take(at(0), source(0)) && rates.take(at(0), source(0)));
        let many = u32::try_from(2 * Rates::<Source>::KEYS).unwrap();
        for n in 1..many {
            assert!(rates.take(at(0), source(n)), "a flood locks nobody out");
        }
        assert_eq!(rates.full_at.len(), Rates::<Source>::KEYS);
        assert_eq!(rates.by_time.len(), Rates::<Source>::KEYS);
        assert!(!rates.may(at(0), source(0)), "the emptiest bucket is kept");
        assert!(rates.take(at(5000), source(0)));
        assert_eq!((rates.full_at.len(), rates.by_time.len()), (1, 1));
    }
}
