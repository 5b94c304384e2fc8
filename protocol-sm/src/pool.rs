//! Who gets which proxy_conn: one client's idle conns and waiting visitors on one event loop
//! (PROTOCOL.md, "The pool").
//!
//! `C` and `V` are the loop's keys for conns and visitors. The pool orders and counts them and knows
//! nothing else about them.
//!
//! Invariants:
//! - P1 visitors wait only while no conn is idle, in the order they came; the event loop says how many may; those that
//!   come back from a conn that was dead wait in front of the others, in the order they came first;
//! - P2 a conn is given to one visitor and is then not idle;
//! - P3 `asked` never exceeds [`Pool::MAX_ASKED`], and while someone waits something is asked for,
//!   unless the client has just said that it cannot;
//! - P4 a suspect is given to nobody until it has shown that it lives.

use crate::backoff::Backoff;
use crate::canary::{PlantedBug, planted};
use crate::time::Instant;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool<C, V> {
    /// Most recently used last: it is given out first, so that surplus conns age at the front.
    idle: VecDeque<C>,
    /// Idle conns that may be dead, as another one was.
    suspects: Vec<C>,
    /// Visitors whose conn was dead, and how long they may wait, in this order.
    returned: VecDeque<(Instant, V)>,
    waiting: VecDeque<V>,
    keep: u32,
    /// Conns asked for and not yet come.
    asked: u32,
    retry: Backoff,
    /// Nothing is asked for before this, after the client said that it cannot.
    retry_at: Option<Instant>,
    /// Nothing is asked for any more.
    closed: bool,
}

impl<C: PartialEq + Copy, V: PartialEq + Copy> Pool<C, V> {
    /// Most conns asked for at once: a burst of visitors becomes a bounded burst of dials.
    pub const MAX_ASKED: u32 = 512;

    /// A pool that keeps `keep` conns ready.
    #[must_use]
    pub fn new(keep: u32) -> Self {
        Self {
            idle: VecDeque::new(),
            suspects: Vec::new(),
            returned: VecDeque::new(),
            waiting: VecDeque::new(),
            keep,
            asked: 0,
            retry: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
            retry_at: None,
            closed: false,
        }
    }

    /// Keeps `keep` conns ready from now on; the next [`Pool::ask`] asks for those that are missing.
    pub fn keep(&mut self, keep: u32) {
        self.keep = keep;
    }

    /// Nothing is asked for from now on: no more visitors will come.
    pub fn close(&mut self) {
        self.closed = true;
        self.retry_at = None;
    }

    /// A visitor has come: returns the conn that it gets. If there is none, it waits.
    // PROTOCOL.md: P-POOL-5.
    #[must_use]
    pub fn on_visitor(&mut self, visitor: V) -> Option<C> {
        if planted(PlantedBug::ConnGivenTwice)
            && let Some(&conn) = self.idle.back()
        {
            return Some(conn);
        }
        let conn = self.idle.pop_back();
        if conn.is_none() {
            self.waiting.push_back(visitor);
        }
        conn
    }

    /// A visitor has come back from a conn that was dead: returns the conn that it gets. Without one it waits, until
    /// `until`: who came first waits no longer than who came later.
    #[must_use]
    pub fn on_return(&mut self, visitor: V, until: Instant) -> Option<C> {
        let conn = self.idle.pop_back();
        if conn.is_none() {
            let place = self.returned.partition_point(|&(others, _)| others <= until);
            self.returned.insert(place, (until, visitor));
        }
        conn
    }

    /// One conn was found dead: so may be the others that are idle. They are suspects until [`Pool::on_alive`].
    pub fn suspect_all(&mut self) -> impl Iterator<Item = C> {
        let from = self.suspects.len();
        self.suspects.extend(self.idle.drain(..));
        self.suspects[from..].iter().copied()
    }

    /// A conn has shown that it lives. If it was a suspect, it is idle again: returns the visitor that gets it, if one
    /// waits.
    // PROTOCOL.md: P-STALE-7.
    #[must_use]
    pub fn on_alive(&mut self, conn: C) -> Option<V> {
        let position = self.suspects.iter().position(|suspect| *suspect == conn)?;
        self.suspects.swap_remove(position);
        self.on_idle(conn)
    }

    /// Whether a new visitor would have to wait.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }

    /// Whether conns that were asked for are still to come.
    #[must_use]
    pub fn expects(&self) -> bool {
        self.asked > 0
    }

    /// A new conn has come from the client.
    pub fn on_new(&mut self, conn: C) -> Option<V> {
        self.asked = self.asked.saturating_sub(1);
        self.retry.reset();
        self.retry_at = None;
        self.on_idle(conn)
    }

    /// A conn is idle (again): returns the visitor that gets it, if one waits.
    #[must_use]
    pub fn on_idle(&mut self, conn: C) -> Option<V> {
        if planted(PlantedBug::WaitersOutOfOrder)
            && let Some(last) = self.waiting.pop_back()
        {
            return Some(last);
        }
        let returned = self.returned.pop_front().map(|(_, visitor)| visitor);
        let visitor = returned.or_else(|| self.waiting.pop_front());
        if visitor.is_none() {
            self.idle.push_back(conn);
        }
        visitor
    }

    /// An idle conn is gone. `false` if it was not idle.
    pub fn remove_idle(&mut self, conn: C) -> bool {
        let suspect = self.suspects.iter().position(|suspect| *suspect == conn);
        suspect.map(|position| self.suspects.swap_remove(position)).is_some() || remove(&mut self.idle, conn)
    }

    /// A waiting visitor is gone. `false` if it did not wait.
    pub fn remove_waiting(&mut self, visitor: V) -> bool {
        let returned = self.returned.iter().position(|&(_, returned)| returned == visitor);
        returned.is_some_and(|place| self.returned.remove(place).is_some()) || remove(&mut self.waiting, visitor)
    }

    /// The idle conns that are not kept ready.
    pub fn surplus(&self) -> impl Iterator<Item = C> {
        self.idle.iter().copied().take(self.idle.len().saturating_sub(self.keep as usize))
    }

    /// Whether more conns are idle than are kept ready.
    #[must_use]
    pub fn has_surplus(&self) -> bool {
        self.idle.len() > self.keep as usize
    }

    /// The client could not open `count` conns: ask again, later. `random` spreads the retries.
    pub fn on_failed(&mut self, count: u32, now: Instant, random: u32) {
        self.asked = self.asked.saturating_sub(count);
        if planted(PlantedBug::RetryForgotten) {
            self.asked += count;
            return;
        }
        // Those of one round fail one by one: the pause is for the round.
        if self.retry_at.is_none() && !self.closed {
            self.retry_at = Some(now + self.retry.next(random));
        }
    }

    /// How many conns to ask the client for now; 0 for none. Notes them as asked for.
    // PROTOCOL.md: P-POOL-4.
    #[must_use]
    pub fn ask(&mut self, now: Instant) -> u32 {
        if self.closed || self.retry_at.is_some_and(|at| now < at) {
            return 0;
        }
        self.retry_at = None;
        let want = self.waits() as u64 + u64::from(self.keep);
        let coming = self.idle.len() as u64 + u64::from(self.asked);
        let missing = u32::try_from(want.saturating_sub(coming)).unwrap_or(u32::MAX);
        if missing == 0 && self.asked == 0 {
            // What fails from now on is another want.
            self.retry.reset();
        }
        let count = missing.min(Self::MAX_ASKED - self.asked);
        self.asked += count;
        count
    }

    /// When to call [`Pool::ask`] again, if time alone changes its answer.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Idle conns, the longest unused first, and suspects.
    pub fn idle(&self) -> impl Iterator<Item = C> {
        self.idle.iter().chain(&self.suspects).copied()
    }

    /// Waiting visitors, the first to be served first.
    pub fn waiting(&self) -> impl Iterator<Item = V> {
        self.returned.iter().map(|&(_, visitor)| visitor).chain(self.waiting.iter().copied())
    }

    /// How many of those that wait have come back from a conn that was dead.
    #[must_use]
    pub fn returned(&self) -> usize {
        self.returned.len()
    }

    /// How many wait.
    #[must_use]
    pub fn waits(&self) -> usize {
        self.returned.len() + self.waiting.len()
    }

    /// Checks the invariants. `closed`: nothing is asked for any more.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn assert_consistent(&self, closed: bool) {
        assert!(self.waits() == 0 || self.idle.is_empty(), "P1: nobody waits while a conn is idle");
        assert!(self.asked <= Self::MAX_ASKED, "P3: asks are bounded");
        let asks = self.asked > 0 || self.retry_at.is_some() || closed;
        assert!(self.waits() == 0 || asks, "P3: while someone waits something is asked for");
    }

    /// Conns asked for and not yet come.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.asked
    }
}

fn remove<T: PartialEq>(from: &mut VecDeque<T>, item: T) -> bool {
    let position = from.iter().position(|x| *x == item);
    position.is_some_and(|i| from.remove(i).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(keep: u32) -> Pool<u8, char> {
        Pool::new(keep)
    }

    #[test]
    fn p1_visitors_wait_in_order() {
        let mut pool = pool(0);
        assert_eq!(pool.on_visitor('a'), None);
        assert_eq!(pool.on_visitor('b'), None);
        assert_eq!(pool.ask(Instant::ZERO), 2);
        assert_eq!(pool.ask(Instant::ZERO), 0, "already asked");
        assert_eq!(pool.on_new(1), Some('a'));
        assert!(pool.remove_waiting('b') && !pool.remove_waiting('b'));
        assert_eq!(pool.on_new(2), None);
        assert_eq!(pool.on_visitor('d'), Some(2));
    }

    #[test]
    fn p3_who_keeps_none_ready_asks_for_one_when_a_visitor_waits() {
        let mut pool = pool(0);
        assert_eq!(pool.ask(Instant::ZERO), 0);
        assert_eq!(pool.on_visitor('a'), None);
        assert_eq!(pool.ask(Instant::ZERO), 1);
        assert_eq!(pool.on_new(1), Some('a'));
        assert_eq!(pool.on_idle(1), None);
        assert!(pool.has_surplus(), "it ages, and is given to whoever comes before that");
        assert_eq!(pool.on_visitor('b'), Some(1));
    }

    #[test]
    fn p2_the_most_recently_used_conn_goes_first() {
        let mut pool = pool(1);
        assert_eq!(pool.on_new(1), None);
        assert_eq!(pool.on_new(2), None);
        assert!(pool.has_surplus());
        assert_eq!(pool.on_visitor('a'), Some(2));
        assert!(!pool.has_surplus());
        assert!(pool.remove_idle(1) && !pool.remove_idle(1));
        assert_eq!(pool.ask(Instant::ZERO), 1, "keeps one ready");
    }

    #[test]
    fn p3_a_client_that_cannot_is_asked_again_later() {
        let mut pool = pool(3);
        assert_eq!(pool.ask(Instant::ZERO), 3);
        pool.on_failed(3, Instant::ZERO, 0);
        assert_eq!(pool.ask(Instant::ZERO), 0);
        let at = pool.next_deadline().unwrap();
        assert_eq!(pool.ask(at), 3);
        assert_eq!(pool.next_deadline(), None);
    }

    /// A client that cannot for a while, can again, and cannot: each time the pauses begin at the shortest.
    #[test]
    fn p3_pauses_grow_while_a_client_cannot_and_start_over_when_it_can() {
        let mut pool = pool(1);
        let mut now = Instant::ZERO;
        for round in 0..3 {
            for pause in [200, 400, 800, 1600, 3200, 5000, 5000] {
                assert_eq!(pool.ask(now), 1, "round {round}");
                pool.on_failed(1, now, u32::MAX);
                let at = pool.next_deadline().unwrap();
                assert_eq!(at, now + Duration::from_millis(pause), "round {round}");
                assert_eq!(pool.ask(now + Duration::from_millis(pause - 1)), 0, "not before");
                now = at;
            }
            assert_eq!(pool.ask(now), 1);
            assert_eq!(pool.on_new(1), None);
            assert!(pool.remove_idle(1));
        }
    }

    /// Long after the failures, a visitor who finds no conn does not wait for all of them.
    #[test]
    fn p3_pauses_start_over_when_nothing_was_missing_any_more() {
        let mut pool = pool(1);
        let mut now = Instant::ZERO;
        for _ in 0..4 {
            assert_eq!(pool.ask(now), 1);
            pool.on_failed(1, now, u32::MAX);
            now = pool.next_deadline().unwrap();
        }
        assert_eq!(pool.on_idle(1), None, "a transfer's conn is free");
        assert_eq!(pool.ask(now), 0);
        assert!(pool.remove_idle(1));
        assert_eq!(pool.ask(now), 1);
        pool.on_failed(1, now, u32::MAX);
        assert_eq!(pool.next_deadline(), Some(now + Duration::from_millis(200)));
    }

    #[test]
    fn p3_the_pause_grows_with_each_round_of_asking_whatever_the_number_of_conns_that_failed() {
        let mut pool = pool(4);
        for visitor in 'a'..='p' {
            assert_eq!(pool.on_visitor(visitor), None);
        }
        let mut now = Instant::ZERO;
        for pause in [200, 400, 800] {
            assert_eq!(pool.ask(now), 20);
            for nth in 0..20 {
                pool.on_failed(1, now + Duration::from_millis(nth), u32::MAX);
            }
            let at = pool.next_deadline().unwrap();
            assert_eq!(at.since(now).as_millis(), pause);
            now = at;
        }
        assert_eq!(pool.ask(now), 20);
        pool.on_failed(1, now, u32::MAX);
        assert_eq!(pool.on_new(1), Some('a'), "one came: the others may, too");
        assert_eq!(pool.ask(now), 1);
    }

    #[test]
    fn a_closed_pool_asks_for_nothing_and_has_no_deadline() {
        let mut pool = pool(3);
        assert_eq!(pool.ask(Instant::ZERO), 3);
        pool.on_failed(1, Instant::ZERO, 0);
        pool.close();
        assert_eq!(pool.next_deadline(), None);
        pool.on_failed(2, Instant::ZERO, 0);
        assert_eq!((pool.next_deadline(), pool.ask(Instant::ZERO + Duration::from_secs(60))), (None, 0));
    }

    #[test]
    fn p1_who_comes_back_is_served_first_however_many_wait() {
        let mut pool = pool(0);
        assert_eq!(pool.on_visitor('b'), None);
        let until = |secs| Instant::ZERO + Duration::from_secs(secs);
        assert_eq!(pool.on_return('y', until(2)), None);
        assert_eq!(pool.on_return('z', until(3)), None);
        assert_eq!(pool.on_return('x', until(1)), None);
        assert_eq!(pool.waiting().collect::<Vec<_>>(), ['x', 'y', 'z', 'b']);
        assert_eq!(pool.ask(Instant::ZERO), 4);
        assert_eq!([1, 2, 3, 4, 5].map(|conn| pool.on_new(conn)), [Some('x'), Some('y'), Some('z'), Some('b'), None]);
        assert_eq!(pool.on_return('d', until(4)), Some(5));
        assert_eq!(pool.on_return('e', until(4)), None);
        assert!(pool.remove_waiting('e') && pool.waits() == 0);
    }

    #[test]
    fn p4_a_suspect_is_given_to_nobody_until_it_lives() {
        let mut pool = pool(2);
        let _ = pool.ask(Instant::ZERO);
        assert_eq!((pool.on_new(1), pool.on_new(2), pool.on_new(3)), (None, None, None));
        assert_eq!(pool.suspect_all().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(pool.suspect_all().count(), 0);
        assert_eq!(pool.ask(Instant::ZERO), 2, "others are asked for");
        assert_eq!(pool.on_visitor('a'), None);
        assert_eq!(pool.on_alive(2), Some('a'));
        assert_eq!(pool.on_alive(2), None, "it is busy");
        assert_eq!(pool.on_alive(3), None);
        assert_eq!(pool.on_visitor('b'), Some(3));
        assert!(pool.remove_idle(1) && !pool.remove_idle(1));
        pool.assert_consistent(false);
    }

    #[test]
    fn p3_asks_are_bounded() {
        let mut pool = Pool::<u32, u32>::new(10_000);
        assert_eq!(pool.ask(Instant::ZERO), Pool::<u32, u32>::MAX_ASKED);
        assert_eq!(pool.ask(Instant::ZERO), 0);
    }
}
