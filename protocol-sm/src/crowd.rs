//! The visitors that a server has, waiting and served: how many come from each source address to one holder's tunnels,
//! and how many there are in all.
//!
//! No address takes more of what a holder may have than `max_connections_per_source`, and all visitors together leave
//! descriptors for everything else ([`Budget`](crate::budget::Budget)).
//!
//! Invariants:
//! - V1 the total is the sum over all sources;
//! - V2 a source without visitors is not remembered.

use crate::canary::{PlantedBug, planted};
use crate::ledger::Holder;
use crate::notes::Dropped;
use crate::sources::Source;
use alloc::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Crowd {
    limit: u32,
    total: u32,
    by_source: BTreeMap<Guest, u32>,
}

/// What is counted together: whose tunnels a visitor came to, and where from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guest {
    /// Whose tunnel it is.
    pub holder: Holder,
    /// The visitor's source address.
    pub source: Source,
}

impl Crowd {
    /// Nobody yet, and never more than `limit`.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit, total: 0, by_source: BTreeMap::new() }
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total
    }

    /// How many there may still be, besides.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.limit - self.total
    }

    /// Whether one more may come while so many are on their way in.
    #[must_use]
    pub fn has_room_beside(&self, coming: usize) -> bool {
        u64::from(self.total) + (coming as u64) < u64::from(self.limit)
    }

    /// A visitor has come. `per_source`: as many may be there of one source.
    ///
    /// # Errors
    /// There is no room for it.
    // PROTOCOL.md: P-TUN-11, P-LIM-3.
    pub fn enter(&mut self, guest: Guest, per_source: u32) -> Result<(), Dropped> {
        let full = self.by_source.get(&guest).is_some_and(|&count| count >= per_source);
        if full && !planted(PlantedBug::SourceUnbounded) {
            return Err(Dropped::SourceFull);
        }
        if self.total >= self.limit {
            return Err(Dropped::Resources);
        }
        self.total += 1;
        *self.by_source.entry(guest).or_default() += 1;
        Ok(())
    }

    /// A visitor that had come is gone.
    ///
    /// # Panics
    /// If none had: the caller's misuse.
    pub fn leave(&mut self, guest: Guest) {
        let count = self.by_source.get_mut(&guest).expect("V1: who left had come");
        *count -= 1;
        if *count == 0 {
            self.by_source.remove(&guest);
        }
        self.total -= 1;
    }

    /// Checks the invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn assert_consistent(&self) {
        assert_eq!(self.total, self.by_source.values().sum::<u32>(), "V1: the total is the sum");
        assert!(self.by_source.values().all(|&count| count > 0), "V2: nobody is remembered who is not there");
        assert!(self.total <= self.limit, "V1: there are no more than fit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn guest(holder: usize, source: u32) -> Guest {
        Guest { holder: Some(holder), source: Source::of(Ipv4Addr::from_bits(source).into()) }
    }

    #[test]
    fn no_source_has_more_than_its_part_of_a_holders_visitors() {
        let mut crowd = Crowd::new(100);
        for _ in 0..3 {
            assert_eq!(crowd.enter(guest(1, 1), 3), Ok(()));
        }
        assert_eq!(crowd.enter(guest(1, 1), 3), Err(Dropped::SourceFull));
        assert_eq!(crowd.enter(guest(1, 2), 3), Ok(()), "another source");
        assert_eq!(crowd.enter(guest(2, 1), 3), Ok(()), "another holder's tunnel");
        crowd.leave(guest(1, 1));
        assert_eq!(crowd.enter(guest(1, 1), 3), Ok(()));
        crowd.assert_consistent();
    }

    #[test]
    fn v2_all_together_have_a_limit_and_whoever_left_is_forgotten() {
        let mut crowd = Crowd::new(2);
        assert_eq!(crowd.enter(guest(1, 1), 9), Ok(()));
        assert_eq!(crowd.enter(guest(1, 2), 9), Ok(()));
        assert_eq!(crowd.enter(guest(2, 3), 9), Err(Dropped::Resources));
        assert_eq!(crowd.total(), 2);
        crowd.leave(guest(1, 1));
        crowd.leave(guest(1, 2));
        assert_eq!(crowd, Crowd::new(2));
    }
}
