//! What the holder of each credential has of the server, over all its sessions: a limit of a
//! [`Scope`](crate::settings::Scope) is the holder's, whatever number of sessions it opens.
//!
//! Each thread counts what it owns: the main driver sessions, tunnels, conns and what is unacknowledged, each event loop
//! the visitors that it has. A loop holds them against its own share of the holder's limit. The shares add up to the limit, and a visitor
//! that finds the share of its loop used up is passed on to the next one, so that over all loops the limit is exact.
//!
//! What all holders have together is bounded too, by the server's settings and its descriptors.
//!
//! Invariants, checked in the drivers' `assert_consistent`:
//! - H1 a holder's counts are the sums of what its sessions have;
//! - H2 a holder that has nothing is not remembered;
//! - H3 all together have no more than they may, or had when that was lowered.

use alloc::collections::BTreeMap;

/// Whose token a client has proved to know: an index into
/// [`ServerSettings::credentials`](crate::settings::ServerSettings::credentials), or `None` where there are none, and
/// all clients are one holder.
pub type Holder = Option<usize>;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Good {
    /// A session, with or without a ctl_conn.
    Session,
    /// A tunnel that is registered: a public port, or one that is about to be opened.
    Tunnel,
    /// A proxy_conn.
    Conn,
    /// A visitor on an event loop, waiting or served.
    Visitor,
    /// One of these visitors who is being served, or was refused by the client and is not over yet.
    Transfer,
    /// A message that a client has not acknowledged, beyond those that each session may have so.
    Unacked,
}

impl Good {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Session, Self::Tunnel, Self::Conn, Self::Visitor, Self::Transfer, Self::Unacked];
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    accounts: BTreeMap<Holder, [u32; Good::ALL.len()]>,
    /// The sums over all holders.
    totals: [u32; Good::ALL.len()],
    /// What they may be.
    caps: [u32; Good::ALL.len()],
    /// What they were when that was said.
    before: [u32; Good::ALL.len()],
}

impl Default for Ledger {
    /// One without bounds.
    fn default() -> Self {
        Self {
            accounts: BTreeMap::new(),
            totals: [0; Good::ALL.len()],
            caps: [u32::MAX; Good::ALL.len()],
            before: [0; Good::ALL.len()],
        }
    }
}

impl Ledger {
    /// The same, where all holders together may have `cap` of `good`.
    #[must_use]
    pub fn with_cap(mut self, good: Good, cap: u32) -> Self {
        self.set_cap(good, cap);
        self
    }

    /// From now on all holders together may have `cap` of `good`.
    pub fn set_cap(&mut self, good: Good, cap: u32) {
        self.caps[good as usize] = cap;
        self.before[good as usize] = self.totals[good as usize];
    }

    /// How many more there may be of all holders together.
    #[must_use]
    pub fn left(&self, good: Good) -> u32 {
        self.caps[good as usize].saturating_sub(self.totals[good as usize])
    }

    /// Whether less than a quarter is left of what all holders together may have.
    #[must_use]
    pub fn is_scarce(&self, good: Good) -> bool {
        self.left(good) < self.caps[good as usize].div_ceil(4)
    }

    /// How many `holder` has.
    #[must_use]
    pub fn count(&self, holder: Holder, good: Good) -> u32 {
        self.accounts.get(&holder).map_or(0, |account| account[good as usize])
    }

    /// How many more `holder` may have where it may have `limit`.
    #[must_use]
    pub fn room(&self, holder: Holder, good: Good, limit: u32) -> u32 {
        limit.saturating_sub(self.count(holder, good)).min(self.left(good))
    }

    /// `holder` has `count` more.
    pub fn add(&mut self, holder: Holder, good: Good, count: u32) {
        if count > 0 {
            self.accounts.entry(holder).or_default()[good as usize] += count;
            self.totals[good as usize] += count;
        }
    }

    /// `holder` has `count` fewer.
    ///
    /// # Panics
    /// If it has not that many: the caller's misuse.
    pub fn remove(&mut self, holder: Holder, good: Good, count: u32) {
        if count == 0 {
            return;
        }
        let account = self.accounts.get_mut(&holder).expect("H1: whoever gives back has something");
        let left = account[good as usize].checked_sub(count);
        account[good as usize] = left.expect("H1: nobody gives back more than it has");
        self.totals[good as usize] -= count;
        if account.iter().all(|&count| count == 0) {
            self.accounts.remove(&holder);
        }
    }

    /// A session of `holder` had `before` of it and has `after` now.
    pub fn settle(&mut self, holder: Holder, good: Good, before: u32, after: u32) {
        self.add(holder, good, after.saturating_sub(before));
        self.remove(holder, good, before.saturating_sub(after));
    }

    /// Checks that these are the counts of what the sessions have.
    ///
    /// # Panics
    /// If they are not.
    pub fn assert_holds(&self, held: impl Iterator<Item = (Holder, Good, u32)>) {
        let mut counted = Self { caps: self.caps, before: self.before, ..Self::default() };
        held.for_each(|(holder, good, count)| counted.add(holder, good, count));
        assert_eq!(*self, counted, "H1, H2: a holder's counts are those of its sessions");
        for good in Good::ALL {
            let (all, cap) = (self.totals[good as usize], self.caps[good as usize]);
            assert!(
                all <= cap.max(self.before[good as usize]),
                "H3: {all} of {good:?}, and all holders together may have {cap}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h1_a_holder_is_counted_over_all_its_sessions_and_apart_from_others() {
        let mut ledger = Ledger::default();
        ledger.add(Some(0), Good::Session, 1);
        ledger.settle(Some(0), Good::Tunnel, 0, 2);
        ledger.add(Some(0), Good::Session, 1);
        ledger.settle(Some(0), Good::Tunnel, 0, 1);
        assert_eq!(ledger.room(Some(0), Good::Tunnel, 4), 1, "two sessions share what one may have");
        assert_eq!(ledger.room(Some(0), Good::Tunnel, 2), 0, "a limit may have been lowered meanwhile");
        assert_eq!(ledger.room(Some(1), Good::Tunnel, 4), 4);
        assert_eq!(ledger.room(None, Good::Session, 1), 1);
        ledger.settle(Some(0), Good::Tunnel, 2, 0);
        assert_eq!((ledger.count(Some(0), Good::Tunnel), ledger.count(Some(0), Good::Session)), (1, 2));
        ledger.assert_holds([(Some(0), Good::Session, 2), (Some(0), Good::Tunnel, 1)].into_iter());
    }

    #[test]
    fn what_is_left_is_scarce_below_a_quarter() {
        for (cap, scarce) in [(1, 0), (4, 0), (5, 1), (100, 24), (101, 25)] {
            let mut ledger = Ledger::default().with_cap(Good::Conn, cap);
            ledger.add(None, Good::Conn, cap - scarce - 1);
            assert!(!ledger.is_scarce(Good::Conn), "{} of {cap} are left", scarce + 1);
            ledger.add(None, Good::Conn, 1);
            assert!(ledger.is_scarce(Good::Conn), "{scarce} of {cap} are left");
        }
    }

    #[test]
    fn all_holders_together_are_bounded() {
        let mut ledger = Ledger::default().with_cap(Good::Conn, 8);
        ledger.add(Some(0), Good::Conn, 6);
        assert!(!ledger.is_scarce(Good::Conn));
        ledger.add(Some(1), Good::Conn, 1);
        assert!(ledger.is_scarce(Good::Conn));
        assert_eq!((ledger.room(Some(1), Good::Conn, 100), ledger.left(Good::Conn)), (1, 1));
        ledger.add(Some(1), Good::Conn, 2);
        assert_eq!(ledger.left(Good::Conn), 0, "who was let in beyond it is counted");
        ledger.remove(Some(0), Good::Conn, 6);
        assert_eq!(ledger.left(Good::Conn), 5);
        assert_eq!(ledger.left(Good::Session), u32::MAX);
    }

    #[test]
    #[should_panic(expected = "H3")]
    fn h3_more_than_all_may_have_is_seen() {
        let mut ledger = Ledger::default().with_cap(Good::Conn, 1);
        ledger.add(Some(0), Good::Conn, 2);
        ledger.assert_holds([(Some(0), Good::Conn, 2)].into_iter());
    }

    #[test]
    fn h2_whoever_has_nothing_is_forgotten() {
        let mut ledger = Ledger::default();
        for good in Good::ALL {
            ledger.add(Some(3), good, 2);
            ledger.remove(Some(3), good, 1);
        }
        for good in Good::ALL {
            ledger.remove(Some(3), good, 1);
        }
        ledger.add(None, Good::Conn, 0);
        assert_eq!(ledger, Ledger::default());
    }

    #[test]
    #[should_panic(expected = "H1")]
    fn h1_nobody_gives_back_more_than_it_has() {
        let mut ledger = Ledger::default();
        ledger.add(None, Good::Visitor, 1);
        ledger.remove(None, Good::Visitor, 2);
    }
}
