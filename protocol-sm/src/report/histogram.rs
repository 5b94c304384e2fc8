//! A histogram of times, with fixed bounds.

use super::micros;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Bounds of the buckets.
const BOUNDS: usize = 12;

/// How many times lay below each bound: 1 ms and eleven powers of four of it, up to 70 minutes; and how many above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Histogram {
    /// The number of times up to each of [`Histogram::BOUNDS_MS`] and above the one before; the last: above all.
    pub buckets: [u64; BOUNDS + 1],
    /// Their sum, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// The upper bounds of the buckets, in milliseconds, inclusive.
    pub const BOUNDS_MS: [u64; BOUNDS] = [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304];

    /// One more time.
    pub fn add(&mut self, time: Duration) {
        let micros = micros(time);
        // The next power of four of a millisecond: two bits each.
        let above = micros.div_ceil(1000).saturating_sub(1);
        let bucket = (u64::BITS - above.leading_zeros()).div_ceil(2) as usize;
        self.buckets[bucket.min(Self::BOUNDS_MS.len())] += 1;
        self.sum_us = self.sum_us.saturating_add(micros);
    }

    /// All of `other`, too.
    pub fn add_all(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let mut times = alloc::vec![0, 1, u64::MAX / 2_000];
        times.extend(Histogram::BOUNDS_MS.iter().flat_map(|ms| [ms * 1000 - 1, ms * 1000, ms * 1000 + 1]));
        for micros in times {
            let mut histogram = Histogram::default();
            histogram.add(Duration::from_micros(micros));
            let fits = Histogram::BOUNDS_MS.iter().position(|ms| micros <= ms * 1000);
            let found = histogram.buckets.iter().position(|&count| count == 1);
            assert_eq!(found, Some(fits.unwrap_or(Histogram::BOUNDS_MS.len())), "{micros} us");
            assert_eq!((histogram.count(), histogram.sum_us), (1, micros));
        }
    }
}
