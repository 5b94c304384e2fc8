//! Patience with an outer socket that is to be reset: its kernel sends what it holds first (PROTOCOL.md, "Ends").
//!
//! A socket that is reset drops what its kernel has not sent, or what was lost on the way and must be sent again. No
//! event tells that all is acknowledged, so it is looked at again and again, at growing intervals.
//!
//! A call that finds no memory is tried again with the same patience.
//!
//! Invariants:
//! - L1 the reset goes out at once when nothing is unacknowledged;
//! - L2 it goes out as it is when nothing was acknowledged for `reset_linger`.

use crate::time::Instant;
use core::time::Duration;

/// The first pause between two looks.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_millis(128);

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Linger {
    /// Bytes that were unacknowledged at the last look.
    unsent: usize,
    /// When that number last became smaller.
    progress: Instant,
    pause: Duration,
    /// When to look again.
    next: Instant,
}

impl Linger {
    /// A look shows `unsent` unacknowledged bytes; `before` is what the last look left. `Ok`: reset now; `Err`: look
    /// again at [`Linger::next`]. Earlier looks change nothing.
    ///
    /// # Errors
    /// It is too early to reset.
    pub fn look(before: Option<Self>, now: Instant, unsent: usize, reset_linger: Duration) -> Result<(), Self> {
        let next = match before {
            Some(before) if unsent > 0 && now < before.next => return Err(before),
            Some(before) => Self {
                unsent,
                progress: if unsent < before.unsent { now } else { before.progress },
                pause: before.pause.saturating_mul(2).min(LONGEST_PAUSE),
                next: now,
            },
            None => Self { unsent, progress: now, pause: FIRST_PAUSE, next: now },
        };
        if unsent == 0 || before.is_some() && now.since(next.progress) >= reset_linger {
            return Ok(());
        }
        Err(Self { next: now + next.pause, ..next })
    }

    /// When to look again.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn l1_nothing_unacknowledged_is_reset_at_once() {
        assert_eq!(Linger::look(None, at(7), 0, PATIENCE), Ok(()));
        let waits = Linger::look(None, at(7), 3, PATIENCE).unwrap_err();
        assert_eq!(Linger::look(Some(waits), at(8), 0, PATIENCE), Ok(()));
    }

    #[test]
    fn looks_are_further_and_further_apart_and_early_ones_do_not_count() {
        let mut linger = Linger::look(None, at(0), 9, PATIENCE).unwrap_err();
        let mut looks = alloc::vec![linger.next().since(at(0)).as_millis()];
        for _ in 1..10 {
            assert_eq!(Linger::look(Some(linger), at(0), 9, PATIENCE), Err(linger), "too early");
            linger = Linger::look(Some(linger), linger.next(), 9, PATIENCE).unwrap_err();
            looks.push(linger.next().since(at(0)).as_millis());
        }
        assert_eq!(looks, [1, 3, 7, 15, 31, 63, 127, 255, 383, 511]);
    }

    #[test]
    fn l2_progress_begins_the_patience_anew_and_its_end_is_the_reset() {
        let first = Linger::look(None, at(0), 9, PATIENCE).unwrap_err();
        let second = Linger::look(Some(first), at(4_999), 8, PATIENCE).unwrap_err();
        let third = Linger::look(Some(second), at(9_998), 8, PATIENCE).unwrap_err();
        assert_eq!(Linger::look(Some(third), at(10_200), 8, PATIENCE), Ok(()), "5 s without progress");
    }
}
