//! When a client that has no ctl_conn tries again, and when it gives up (PROTOCOL.md, "Timers and limits").
//!
//! A *lasting* failure is one that goes on until somebody changes something: a wrong token, another key of the server.
//! It may be a passing one all the same (a configuration that is put right a minute later, a stranger that answers in
//! the server's place), and nobody may be near enough to start the client again.
//!
//! Invariants:
//! - B1 a client whose session has once been up never gives up;
//! - B2 while a session waits to be resumed, no pause is longer than a fifth of what is left of its grace, nor, after a
//!   failure that may pass, than 2 s, or than `reconnect_min` if that is more;
//! - B3 otherwise the pauses after lasting failures are those of the slow back-off, and after all others those of
//!   `reconnect_min` and `reconnect_max`.

use crate::backoff::Backoff;
use core::time::Duration;

/// The longest pause while a session waits to be resumed: how long after a cut of the line its visitors may wait.
const HURRIED: Duration = Duration::from_secs(2);

/// The pauses of what can only succeed once somebody has changed something.
#[must_use]
pub(crate) fn slow() -> Backoff {
    Backoff::new(Duration::from_secs(30), Duration::from_secs(300))
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reconnect {
    quick: Backoff,
    slow: Backoff,
    reconnect_min: Duration,
    /// A session has been up.
    worked: bool,
    /// A lasting failure since a session was up last.
    failed_lastingly: bool,
}

/// What follows a failed attempt, or the loss of a ctl_conn.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Another attempt after this pause.
    Retry(Duration),
    /// Nothing: it has never worked, and somebody must change something.
    GiveUp,
}

impl Reconnect {
    /// A client that has not been connected yet.
    #[must_use]
    pub fn new(reconnect_min: Duration, reconnect_max: Duration) -> Self {
        Self {
            quick: Backoff::new(reconnect_min, reconnect_max),
            slow: slow(),
            reconnect_min,
            worked: false,
            failed_lastingly: false,
        }
    }

    /// Somebody has changed something: the pauses begin anew, with these bounds.
    pub fn on_changed(&mut self, reconnect_min: Duration, reconnect_max: Duration) {
        self.quick = Backoff::new(reconnect_min, reconnect_max);
        self.slow = slow();
        self.reconnect_min = reconnect_min;
    }

    /// A session is up. Returns whether a lasting failure came before, of which people have been told.
    pub fn on_up(&mut self) -> bool {
        self.quick.reset();
        self.slow.reset();
        self.worked = true;
        core::mem::take(&mut self.failed_lastingly)
    }

    /// An attempt failed, or a ctl_conn was lost. `grace_left`: a session waits to be resumed for as long as that.
    // PROTOCOL.md: P-RES-1, P-RES-7.
    pub fn on_failed(&mut self, lasting: bool, grace_left: Option<Duration>, random: u32) -> AfterFailure {
        if lasting && !self.worked {
            return AfterFailure::GiveUp;
        }
        self.failed_lastingly |= lasting;
        let fifth = grace_left.map(|left| (left / 5).max(self.reconnect_min));
        AfterFailure::Retry(match fifth {
            // The long pauses begin when there is no session any more.
            Some(fifth) if lasting => Backoff::new(fifth, fifth).next(random),
            Some(fifth) => self.quick.next(random).min(fifth).min(HURRIED.max(self.reconnect_min)),
            None if lasting => self.slow.next(random),
            None => self.quick.next(random),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn reconnect() -> Reconnect {
        Reconnect::new(Duration::from_millis(250), Duration::from_secs(15))
    }

    fn pause(after: AfterFailure) -> f32 {
        match after {
            AfterFailure::Retry(pause) => pause.as_secs_f32(),
            AfterFailure::GiveUp => panic!("it gave up"),
        }
    }

    /// However often a client was connected and lost its server, it begins with the shortest pauses each time.
    #[test]
    fn each_session_that_is_lost_begins_with_the_shortest_pauses() {
        let mut reconnect = reconnect();
        for _ in 0..4 {
            for expected in [0.25, 0.5, 1.0, 2.0] {
                assert_eq!(pause(reconnect.on_failed(false, None, u32::MAX)), expected);
            }
            assert!(!reconnect.on_up());
        }
    }

    #[test]
    fn b1_a_lasting_failure_ends_only_a_client_that_has_never_worked() {
        let mut reconnect = reconnect();
        assert_eq!(pause(reconnect.on_failed(false, None, u32::MAX)), 0.25);
        assert_eq!(reconnect.on_failed(true, None, u32::MAX), AfterFailure::GiveUp);
        assert!(!reconnect.on_up());
        for _ in 0..100 {
            assert_ne!(reconnect.on_failed(true, None, 0), AfterFailure::GiveUp);
        }
        assert!(reconnect.on_up(), "people were told that it does not work");
        assert!(!reconnect.on_up());
    }

    #[test]
    fn b2_a_session_that_waits_is_tried_for_often_enough() {
        for lasting in [false, true] {
            let mut reconnect = reconnect();
            assert!(!reconnect.on_up());
            let (mut left, mut tries) = (30.0, 0);
            while left > 0.0 {
                let pause = pause(reconnect.on_failed(lasting, Some(Duration::from_secs_f32(left)), u32::MAX));
                assert!(pause <= f32::max(left / 5.0, 0.25) + 0.001, "{pause} of {left}");
                assert!(pause >= 0.249, "{pause}");
                left -= pause;
                tries += 1;
            }
            assert!((10..40).contains(&tries), "{tries}");
        }
    }

    /// A line that was cut for minutes may be back at any moment.
    #[test]
    fn b2_a_session_with_a_long_grace_is_tried_for_as_often() {
        for (reconnect_min, longest) in [(250, 2.0), (5_000, 5.0)] {
            let mut reconnect = Reconnect::new(Duration::from_millis(reconnect_min), Duration::from_secs(15));
            assert!(!reconnect.on_up());
            let left = Some(Duration::from_secs(300));
            let pauses: Vec<_> = (0..8).map(|_| pause(reconnect.on_failed(false, left, u32::MAX))).collect();
            assert_eq!(pauses.iter().copied().fold(0.0, f32::max), longest);
            // Without a session, the pauses go on where they would have been.
            assert_eq!(pause(reconnect.on_failed(false, None, u32::MAX)), 15.0);
        }
    }

    #[test]
    fn b3_pauses_grow_slowly_to_five_minutes_and_start_over() {
        let mut reconnect = reconnect();
        assert!(!reconnect.on_up());
        // Those within the grace do not count.
        let _within = reconnect.on_failed(true, Some(Duration::from_secs(30)), 0);
        let pauses: Vec<_> = (0..6).map(|_| pause(reconnect.on_failed(true, None, u32::MAX))).collect();
        assert_eq!(pauses, [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]);
        assert_eq!(pause(reconnect.on_failed(false, None, u32::MAX)), 0.25, "the server is away: that may pass soon");
        assert!(reconnect.on_up());
        assert_eq!(pause(reconnect.on_failed(true, None, u32::MAX)), 30.0);
    }

    #[test]
    fn b3_without_a_session_the_pause_grows_to_reconnect_max() {
        let mut reconnect = reconnect();
        let pauses: Vec<_> = (0..8).map(|_| pause(reconnect.on_failed(false, None, u32::MAX))).collect();
        assert_eq!(pauses, [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]);
    }
}
