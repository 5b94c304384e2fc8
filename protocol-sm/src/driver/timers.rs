//! One deadline per socket, ordered. The owner keeps a copy of its deadline beside the socket, so that
//! there is nothing to look up when it changes.

use super::slab::Token;
use crate::time::Instant;
use alloc::collections::BTreeSet;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Timers(BTreeSet<(Instant, Token)>);

impl Timers {
    /// Moves the deadline of `token` from `*kept` to `to`.
    pub(crate) fn set(&mut self, token: Token, kept: &mut Option<Instant>, to: Option<Instant>) {
        if *kept == to {
            return;
        }
        if let Some(at) = *kept {
            self.0.remove(&(at, token));
        }
        if let Some(at) = to {
            self.0.insert((at, token));
        }
        *kept = to;
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.first().map(|&(at, _)| at)
    }

    /// Takes one deadline that has passed. The owner's copy must be cleared by the caller.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Token> {
        self.next().filter(|&at| at <= now).and_then(|_| self.pop_first())
    }

    /// Takes the earliest deadline, whether it has passed or not. The owner's copy must be cleared by the caller.
    pub(crate) fn pop_first(&mut self) -> Option<Token> {
        self.0.pop_first().map(|(_, token)| token)
    }

    /// Whether this deadline is set.
    pub(crate) fn has(&self, at: Instant, token: Token) -> bool {
        self.0.contains(&(at, token))
    }

    /// How many deadlines are set.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
