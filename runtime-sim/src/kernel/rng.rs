//! The only source of randomness: xoshiro256**, seeded through splitmix64. Small, fast, the same everywhere.

/// A stream of pseudo-random numbers that its seed decides.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

/// One step of splitmix64: also a good hash of a number.
#[must_use]
pub fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let a = mix(seed);
        let b = mix(a);
        let c = mix(b);
        Self([a, b, c, mix(c)])
    }

    /// An independent stream, so that what one part draws does not shift another part's numbers.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.next())
    }

    /// 64 random bits.
    #[allow(clippy::should_implement_trait)] // an endless stream needs no Option
    pub fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).expect("below a u64")
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// As [`Rng::range`], for sizes.
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        usize::try_from(self.range(low as u64, high as u64)).expect("between two sizes")
    }

    /// A size from `low` to `high` whose order of magnitude is uniform: small ones are as likely as large ones.
    pub fn log_size(&mut self, low: usize, high: usize) -> usize {
        let ratio = (high + 1 - low).ilog2();
        let top = 1_usize << self.range(0, u64::from(ratio));
        let spread = self.size(0, top.min(high - low));
        low + spread
    }

    /// `true` with a chance of `percent` in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, which are not empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.size(0, items.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_and_bounds_hold() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..100).map(|_| rng.range(3, 7)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(1).iter().all(|n| (3..=7).contains(n)));
        for n in 3..=7 {
            assert!(draw(1).contains(&n), "{n} is drawn");
        }
        let mut rng = Rng::new(9);
        assert!((0..1000).map(|_| rng.log_size(10, 99)).all(|n| (10..=99).contains(&n)));
    }
}
