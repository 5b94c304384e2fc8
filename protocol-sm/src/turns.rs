//! Who waits for a turn of bounded length: the owners of what waits take turns, and so do the things of one owner, so
//! that nobody waits longer because somebody else owns much.
//!
//! Invariant: T1 an owner of whom something waits has a place in the round, and one only.

use alloc::collections::{BTreeMap, VecDeque};

/// See the module. `O` is an owner, `W` what waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Turns<O, W> {
    /// By owner. None is empty.
    waiting: BTreeMap<O, VecDeque<W>>,
    /// Owners of whom something waits.
    round: VecDeque<O>,
}

impl<O, W> Default for Turns<O, W> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), round: VecDeque::new() }
    }
}

impl<O: Copy + Ord, W> Turns<O, W> {
    /// Something of `owner` waits.
    pub fn push(&mut self, owner: O, work: W) {
        let waiting = self.waiting.entry(owner).or_default();
        if waiting.is_empty() {
            self.round.push_back(owner);
        }
        waiting.push_back(work);
    }

    /// Whose turn it is. What is left of it after that comes back by [`Turns::push`].
    pub fn pop(&mut self) -> Option<W> {
        let owner = self.round.pop_front()?;
        let waiting = self.waiting.get_mut(&owner)?;
        let work = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&owner);
        } else {
            self.round.push_back(owner);
        }
        work
    }

    /// How much waits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.round.is_empty()
    }

    /// What waits.
    pub fn iter(&self) -> impl Iterator<Item = &W> {
        self.waiting.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn t1_owners_take_turns_however_much_one_has() {
        let mut turns = Turns::default();
        for work in 0..4 {
            turns.push('a', work);
        }
        turns.push('b', 10);
        turns.push('b', 11);
        assert_eq!(turns.len(), 6);
        let order: Vec<_> = core::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order, [0, 10, 1, 11, 2, 3]);
        assert!(turns.is_empty());
        assert_eq!(turns, Turns::default(), "nobody is remembered");
    }

    #[test]
    fn t1_what_comes_back_waits_for_the_others() {
        let mut turns = Turns::default();
        turns.push('a', 1);
        turns.push('a', 2);
        turns.push('b', 3);
        for expected in [1, 3, 2, 1] {
            let work = turns.pop().expect("something waits");
            assert_eq!(work, expected);
            if work < 3 {
                turns.push('a', work);
            }
        }
    }
}
