//! Public ports that are yet to be opened: whose turn is next, and how often somebody has one.
//!
//! Each attempt costs system calls on a thread that many clients share. Holders of credentials take turns, and so do
//! the sessions of one holder, each with one attempt. A holder that has used up its attempts waits, and nobody for it.
//!
//! Invariants:
//! - B1 a holder of whom something waits has a place in the round, and one only;
//! - B2 something that was put back is tried again after everything else of its holder that waits.

use crate::rate::Bucket;
use crate::time::Instant;
use alloc::collections::{BTreeMap, VecDeque};
use core::time::Duration;

/// See the module. `W` is one thing to try.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Binds<W> {
    /// By holder. `None`: whoever comes to a server without credentials.
    queues: BTreeMap<Option<usize>, Queue<W>>,
    /// Holders of whom something waits.
    round: VecDeque<Option<usize>>,
    /// Nobody may try anything before.
    rests_until: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Queue<W> {
    waiting: VecDeque<W>,
    attempts: Bucket,
}

impl<W> Default for Binds<W> {
    fn default() -> Self {
        Self { queues: BTreeMap::new(), round: VecDeque::new(), rests_until: None }
    }
}

impl<W> Binds<W> {
    /// Attempts that a holder has at once.
    pub const BURST: u32 = 1000;
    /// How long it takes until it has one more.
    pub const EVERY: Duration = Duration::from_millis(1);

    /// Something of `holder` is to be tried.
    pub fn push(&mut self, holder: Option<usize>, work: W) {
        let full = || Queue { waiting: VecDeque::new(), attempts: Bucket::new(Self::EVERY, Self::BURST) };
        let queue = self.queues.entry(holder).or_insert_with(full);
        queue.waiting.push_back(work);
        if queue.waiting.len() == 1 {
            self.round.push_back(holder);
        }
        self.rests_until = None;
    }

    /// What is to be tried now, and whose it is. What is left of it after that comes back by [`Binds::push`].
    // PROTOCOL.md: P-LIM-1.
    pub fn next(&mut self, now: Instant) -> Option<(Option<usize>, W)> {
        if self.rests_until.is_some_and(|at| now < at) {
            return None;
        }
        self.rests_until = None;
        let mut soonest: Option<Instant> = None;
        for _ in 0..self.round.len() {
            let holder = self.round.pop_front()?;
            let queue = self.queues.get_mut(&holder).expect("who is in the round has a queue");
            match queue.attempts.take(now) {
                Ok(()) => {
                    let work = queue.waiting.pop_front().expect("something of it waits");
                    if !queue.waiting.is_empty() {
                        self.round.push_back(holder);
                    }
                    return Some((holder, work));
                }
                Err(at) => {
                    self.round.push_back(holder);
                    soonest = Some(soonest.map_or(at, |soonest| soonest.min(at)));
                }
            }
        }
        self.rests_until = soonest;
        None
    }

    /// Forgets what `which` names.
    pub fn remove(&mut self, mut which: impl FnMut(&W) -> bool) {
        let Self { queues, round, .. } = self;
        round.retain(|holder| {
            let waiting = &mut queues.get_mut(holder).expect("who is in the round has a queue").waiting;
            waiting.retain(|work| !which(work));
            !waiting.is_empty()
        });
        if round.is_empty() {
            self.rests_until = None;
        }
    }

    /// Whether something may be tried at once.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.round.is_empty() && self.rests_until.is_none()
    }

    /// When something may be tried that may not yet.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.rests_until
    }

    /// What waits.
    pub fn iter(&self) -> impl Iterator<Item = &W> {
        self.queues.values().flat_map(|queue| &queue.waiting)
    }

    /// What waits, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut W> {
        self.queues.values_mut().flat_map(|queue| &mut queue.waiting)
    }

    /// For tests and simulations.
    ///
    /// # Panics
    /// An invariant does not hold.
    pub fn assert_consistent(&self) {
        for (holder, queue) in &self.queues {
            let places = self.round.iter().filter(|place| *place == holder).count();
            assert_eq!(places, usize::from(!queue.waiting.is_empty()), "B1: a holder's places in the round");
        }
        assert!(self.round.iter().all(|holder| self.queues.contains_key(holder)), "B1: only they have one");
        assert!(self.rests_until.is_none() || !self.round.is_empty(), "nobody waits for nothing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const A: Option<usize> = Some(0);
    const B: Option<usize> = None;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn b1_holders_take_turns_however_much_one_has_to_do() {
        let mut binds = Binds::default();
        for n in 0..4 {
            binds.push(A, n);
        }
        binds.push(B, 100);
        let order: Vec<_> = core::iter::from_fn(|| binds.next(at(0)).map(|(_, work)| work)).collect();
        assert_eq!(order, [0, 100, 1, 2, 3]);
        binds.assert_consistent();
    }

    #[test]
    fn b2_what_comes_back_waits_for_the_others_of_its_holder() {
        let mut binds = Binds::default();
        binds.push(A, 'a');
        binds.push(A, 'b');
        for expected in ['a', 'b', 'a', 'b'] {
            let (holder, work) = binds.next(at(0)).unwrap();
            assert_eq!((holder, work), (A, expected));
            binds.push(holder, work);
        }
    }

    #[test]
    fn a_holder_without_attempts_waits_alone_and_gets_one_each_interval() {
        let mut binds = Binds::default();
        binds.push(A, 'a');
        // As many as PROTOCOL.md says.
        for _ in 0..1000 {
            let (holder, work) = binds.next(at(0)).unwrap();
            binds.push(holder, work);
        }
        assert!(binds.is_due(), "it has not tried");
        assert_eq!(binds.next(at(0)), None);
        assert_eq!((binds.is_due(), binds.next_deadline()), (false, Some(at(1))));
        binds.push(B, 'b');
        assert_eq!(binds.next(at(0)), Some((B, 'b')), "another one need not wait");
        for millis in 1..4 {
            assert_eq!(binds.next(at(millis)), Some((A, 'a')));
            binds.push(A, 'a');
            assert_eq!(binds.next(at(millis)), None);
            assert_eq!(binds.next_deadline(), Some(at(millis + 1)));
        }
        binds.assert_consistent();
    }

    #[test]
    fn what_is_forgotten_is_not_waited_for() {
        let mut binds = Binds::default();
        binds.push(A, 1);
        binds.push(A, 2);
        binds.push(B, 3);
        binds.remove(|&work| work != 2);
        binds.assert_consistent();
        assert_eq!(binds.iter().collect::<Vec<_>>(), [&2]);
        for _ in 0..Binds::<u8>::BURST {
            binds.next(at(0)).unwrap();
            binds.push(A, 2);
        }
        assert_eq!(binds.next(at(0)), None);
        binds.remove(|_| true);
        assert_eq!((binds.is_due(), binds.next_deadline()), (false, None));
        binds.assert_consistent();
    }
}
