//! Gathers what several drivers have to say into one answer, for any number of questions at once.
//!
//! ```text
//!            ask: a round begins                  the last part of the round
//!   quiet ─────────────────────────▶ gathering ─────────────────────────────▶ quiet, or gathering again
//! ```
//! A question that comes while a round is under way is answered by the next one: what it is told is never older than it.
//!
//! Invariants:
//! - G1 a question is answered once;
//! - G2 one round is under way at most, and it has a question;
//! - G3 a round is answered by one part of each driver, whichever is the last.

use crate::canary::{PlantedBug, planted};
use alloc::vec::Vec;

/// See the module. `P` is a part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gather<P> {
    /// Drivers that are asked.
    drivers: usize,
    /// What the round under way answers; none: it is quiet.
    asked: Vec<u64>,
    /// What the next one answers.
    next: Vec<u64>,
    parts: Vec<P>,
}

/// A round that is through.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gathered<P> {
    /// The questions that it answers.
    pub tags: Vec<u64>,
    /// One part of each driver.
    pub parts: Vec<P>,
    /// Another round has begun: ask every driver.
    pub again: bool,
}

impl<P> Gather<P> {
    /// Nothing is asked; each round asks `drivers`.
    #[must_use]
    pub fn new(drivers: usize) -> Self {
        Self { drivers, asked: Vec::new(), next: Vec::new(), parts: Vec::new() }
    }

    /// Somebody asks, by the name `tag`. Whether a round begins: ask every driver.
    #[must_use]
    pub fn ask(&mut self, tag: u64) -> bool {
        if self.asked.is_empty() {
            self.asked.push(tag);
            return true;
        }
        let round = if planted(PlantedBug::OldReport) { &mut self.asked } else { &mut self.next };
        round.push(tag);
        false
    }

    /// A driver has answered.
    ///
    /// # Panics
    /// If it was not asked: the caller's misuse.
    pub fn on_part(&mut self, part: P) -> Option<Gathered<P>> {
        assert!(!self.asked.is_empty(), "G2: who was not asked does not answer");
        self.parts.push(part);
        if self.parts.len() < self.drivers {
            return None;
        }
        let next = core::mem::take(&mut self.next);
        let again = !next.is_empty();
        let tags = core::mem::replace(&mut self.asked, next);
        Some(Gathered { tags, parts: core::mem::take(&mut self.parts), again })
    }

    /// Checks the invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn assert_consistent(&self) {
        assert!(self.parts.len() < self.drivers, "G3: a round with all its parts is through");
        assert!(!self.asked.is_empty() || self.next.is_empty() && self.parts.is_empty(), "G2: a round has a question");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g3_the_answer_waits_for_the_last_part() {
        let mut gather = Gather::new(3);
        assert!(gather.ask(7));
        assert_eq!((gather.on_part('a'), gather.on_part('c')), (None, None));
        gather.assert_consistent();
        let through = gather.on_part('b').unwrap();
        assert_eq!((through.tags, through.parts, through.again), ([7].into(), ['a', 'c', 'b'].into(), false));
        assert_eq!(gather, Gather::new(3));
    }

    #[test]
    fn g1_a_question_that_comes_in_between_is_answered_by_the_next_round() {
        let mut gather = Gather::new(2);
        assert!(gather.ask(1));
        assert!(gather.on_part('a').is_none());
        assert!(!gather.ask(2) && !gather.ask(3), "the round under way may be older");
        let first = gather.on_part('b').unwrap();
        assert_eq!((first.tags, first.again), ([1].into(), true));
        gather.assert_consistent();
        assert!(gather.on_part('c').is_none());
        let second = gather.on_part('d').unwrap();
        assert_eq!((second.tags, second.parts, second.again), ([2, 3].into(), ['c', 'd'].into(), false));
        assert!(gather.ask(4), "it is quiet again");
    }
}
