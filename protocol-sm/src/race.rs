//! A dial to a name with several addresses, as RFC 8305 ("Happy Eyeballs") has it: the next address is tried while the
//! ones before it have not answered, and whoever answers first wins.
//!
//! It decides when which address is tried. Its owner connects, reports what came of it, and closes the losers.
//!
//! Invariants:
//! - H1 an address is tried once, in the given order;
//! - H2 the next one is tried when all that were tried have failed, or [`STAGGER`] after the one before it;
//! - H3 who is connected gets [`ANSWER`] for its first bytes before the next one is tried, where these decide;
//! - H4 the race is lost when its time is over, or nobody is left.

use crate::time::Instant;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

/// The head start of an address before the next one.
// RFC 8305, section 5: the Connection Attempt Delay.
pub const STAGGER: Duration = Duration::from_millis(250);
/// How long one that is connected may take for its first bytes before the next address is tried.
pub const ANSWER: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Race {
    waiting: VecDeque<SocketAddr>,
    /// Addresses that are being tried.
    running: u32,
    /// When the next one is tried.
    next_at: Instant,
    until: Instant,
}

impl Race {
    /// A race that begins now and takes no longer than until `until`.
    #[must_use]
    pub fn new(addresses: Vec<SocketAddr>, now: Instant, until: Instant) -> Self {
        Self { waiting: addresses.into(), running: 0, next_at: now, until }
    }

    /// The address to try now, if there is one; call it again until there is none.
    pub fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        if self.is_over(now) || now < self.next_at && self.running > 0 {
            return None;
        }
        let address = self.waiting.pop_front()?;
        self.running += 1;
        self.next_at = now + STAGGER;
        Some(address)
    }

    /// One that was tried failed.
    ///
    /// # Panics
    /// If none is being tried.
    pub fn on_failed(&mut self) {
        self.running = self.running.checked_sub(1).expect("one was being tried");
    }

    /// One is connected, and has until `until` to answer.
    pub fn on_connected(&mut self, now: Instant, until: Instant) {
        self.next_at = self.next_at.max(now + ANSWER);
        self.until = self.until.max(until);
    }

    /// Whether nobody can win any more.
    #[must_use]
    pub fn is_lost(&self, now: Instant) -> bool {
        self.is_over(now) || self.running == 0 && self.waiting.is_empty()
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }

    /// When it is over at the latest.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }

    /// When to call [`Race::next`] and [`Race::is_lost`] again.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        if self.waiting.is_empty() { self.until } else { self.until.min(self.next_at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn address(last: u8) -> SocketAddr {
        (Ipv4Addr::new(192, 0, 2, last), 80).into()
    }

    fn race(count: u8) -> Race {
        Race::new((1..=count).map(address).collect(), at(0), at(5000))
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn h2_the_next_address_is_tried_while_the_first_is_silent() {
        let mut race = race(3);
        assert_eq!(race.next(at(0)), Some(address(1)));
        assert_eq!(race.next(at(0)), None);
        assert_eq!(race.deadline(), at(250));
        assert_eq!(race.next(at(249)), None);
        assert_eq!(race.next(at(250)), Some(address(2)));
        assert_eq!(race.next(at(500)), Some(address(3)));
        assert_eq!(race.next(at(750)), None, "h1");
        assert_eq!(race.deadline(), at(5000));
    }

    #[test]
    fn h2_a_failure_brings_the_next_one_at_once() {
        let mut race = race(3);
        assert_eq!(race.next(at(0)), Some(address(1)));
        race.on_failed();
        assert_eq!(race.next(at(1)), Some(address(2)));
        assert_eq!(race.next(at(251)), Some(address(3)));
        race.on_failed();
        assert!(!race.is_lost(at(300)), "one is still being tried");
        race.on_failed();
        assert!(race.is_lost(at(300)));
    }

    #[test]
    fn h3_who_is_connected_gets_time_to_answer() {
        let mut race = race(2);
        assert_eq!(race.next(at(0)), Some(address(1)));
        race.on_connected(at(200), at(10_200));
        assert_eq!(race.deadline(), at(1200));
        assert_eq!(race.next(at(1199)), None);
        assert_eq!(race.next(at(1200)), Some(address(2)));
        assert_eq!(race.deadline(), at(10_200));
    }

    #[test]
    fn h4_the_time_is_for_all_of_them() {
        let mut race = race(200);
        let tried = (0..5000).step_by(250).filter(|&now| race.next(at(now)).is_some()).count();
        assert_eq!(tried, 20);
        assert!(!race.is_lost(at(4999)) && race.is_lost(at(5000)));
        assert_eq!(race.next(at(5000)), None);
        assert!(Race::new(Vec::new(), at(0), at(1)).is_lost(at(0)), "of nobody");
    }
}
