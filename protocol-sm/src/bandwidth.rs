//! How much a tunnel may move: a token bucket for each of its directions, dealt to the event loops in slices.
//!
//! All visitors of a tunnel share it, on whatever loop they are, and so the buckets belong to the main driver
//! ([`Buckets`]): a loop that has used up what it has (`Allowances`) asks for one more slice. A fixed share for each
//! loop would waste what a loop of idle visitors does not use, and one that follows the visitors would cost a message for
//! each of them; slices are exact over all loops, and cost some messages a second for a tunnel that is limited and busy.
//!
//! ```text
//!           somebody could take: ask            a slice comes
//!   Empty ────────────────────────────▶ Asked ────────────────▶ Some
//!     ▲                                                          │
//!     └──────────── used up, or older than `LIFETIME` ───────────┘
//! ```
//! Invariants:
//! - B1 in any time a bucket gives no more than its rate times that time, and `BURST` times the rate;
//! - B2 what a loop has not used within `LIFETIME` it loses: with B1, no more than a quarter of a second's worth passes
//!   at once;
//! - B3 a loop asks for one slice at a time, and has asked whenever somebody starves;
//! - B4 bytes that came unasked (in one read with a frame) are a debt: nothing is forwarded before it is paid.

use crate::canary::{PlantedBug, planted};
use crate::driver::Token;
use crate::time::Instant;
use crate::transfer::{Budget, Half};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::num::NonZeroU64;
use core::time::Duration;

/// The least that a tunnel can be limited to, in bytes per second.
pub const LEAST: u64 = 4096;
/// The most, in bytes per second: more than any machine moves.
pub const MOST: u64 = 1 << 50;

/// What a bucket that was not used for long can give at once, in time.
const BURST: Duration = Duration::from_millis(100);
/// How long a loop may keep a slice.
const LIFETIME: Duration = Duration::from_millis(100);
/// Slices of a second, at most: who asks late is given what was earned meanwhile.
const SLICES: u64 = 32;
/// Several that starve share a slice, but not into less than this, in bytes.
const LEAST_SHARE: u64 = 1024;

/// Bytes per second; `None`: no limit.
pub type Rate = Option<NonZeroU64>;

/// A direction of a transfer, as the relay of this side sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Into the proxy_conn.
    Egress,
    /// Out of it.
    Ingress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];
}

/// The buckets of tunnels, which `K` names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Buckets<K> {
    buckets: BTreeMap<(K, Direction), Bucket>,
    /// Those that somebody waits for, by the time of their next slice.
    due: BTreeSet<(Instant, (K, Direction))>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Bucket {
    rate: NonZeroU64,
    /// By then all that was given is earned.
    earned: Instant,
    /// Loops that wait for a slice.
    asked: VecDeque<usize>,
}

/// What a loop is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice<K> {
    /// The tunnel.
    pub tunnel: K,
    /// Which of its directions.
    pub direction: Direction,
    /// The loop that asked.
    pub loop_index: usize,
    /// What it may move.
    pub bytes: u64,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { buckets: BTreeMap::new(), due: BTreeSet::new() }
    }
}

impl<K: Copy + Ord> Buckets<K> {
    /// A loop asks for a slice of a tunnel that may move so much.
    pub fn ask(&mut self, now: Instant, tunnel: K, direction: Direction, rate: NonZeroU64, loop_index: usize) {
        let key = (tunnel, direction);
        if !self.buckets.contains_key(&key) {
            // One that is full again need not be remembered.
            self.buckets.retain(|_, bucket| !bucket.asked.is_empty() || bucket.earned + BURST > now);
        }
        let new = || Bucket { rate, earned: Instant::ZERO, asked: VecDeque::new() };
        let bucket = self.buckets.entry(key).or_insert_with(new);
        self.due.remove(&(bucket.due(), key));
        bucket.rate = rate;
        bucket.asked.push_back(loop_index);
        self.due.insert((bucket.due(), key));
    }

    /// The next slice that can be given.
    pub fn next(&mut self, now: Instant) -> Option<Slice<K>> {
        let &(at, key) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.remove(&(at, key));
        let bucket = self.buckets.get_mut(&key)?;
        let loop_index = bucket.asked.pop_front()?;
        bucket.earned = bucket.earned.max(now.before(BURST));
        let saved = u128::from(bucket.rate.get()) * now.since(bucket.earned).as_nanos() / 1_000_000_000;
        let share = u64::try_from(saved).unwrap_or(u64::MAX) / (bucket.asked.len() as u64 + 1);
        let bytes = share.max(bucket.slice());
        bucket.earned = bucket.earned + bucket.price(bytes);
        if !bucket.asked.is_empty() {
            self.due.insert((bucket.due(), key));
        }
        let (tunnel, direction) = key;
        Some(Slice { tunnel, direction, loop_index, bytes })
    }

    /// When the next slice can be given.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|&(at, _)| at)
    }
}

impl Bucket {
    fn slice(&self) -> u64 {
        self.rate.get().div_ceil(SLICES)
    }

    /// The time in which so many bytes are earned.
    fn price(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// When it can give a slice.
    fn due(&self) -> Instant {
        self.earned + self.price(self.slice())
    }
}

/// What an event loop has of the tunnels, which `K` names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Allowances<K>(BTreeMap<(K, Direction), Allowance>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Allowance {
    /// Bytes that may be moved; bytes that were moved too early where that is less than 0.
    left: i64,
    /// What is left is lost then.
    until: Instant,
    asked: bool,
    /// Who could take, and may not.
    starving: VecDeque<Token>,
    /// What each of them may take of a slice that has come.
    share: Option<u64>,
    /// What the tunnel may move, as it was when somebody starved last.
    rate: Rate,
}

impl<K> Default for Allowances<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Copy + Ord> Allowances<K> {
    /// What a transfer of `tunnel` may take in one turn.
    pub(crate) fn meter(&mut self, now: Instant, tunnel: K) -> Meter {
        let [egress, ingress] = Direction::ALL.map(|direction| match self.0.get_mut(&(tunnel, direction)) {
            Some(allowance) => allowance.tap(now),
            None => Tap { left: 0, in_debt: false, throttled: false },
        });
        Meter { egress, ingress }
    }

    /// So much was moved; from there on `conn` starves, if it does.
    pub(crate) fn charge(
        &mut self,
        now: Instant,
        tunnel: K,
        direction: Direction,
        bytes: u64,
        starving: Option<Token>,
    ) {
        if bytes == 0 && starving.is_none() {
            return;
        }
        if !self.0.contains_key(&(tunnel, direction)) {
            self.0.retain(|_, it| it.asked || !it.starving.is_empty() || it.left < 0 || it.until > now);
        }
        let allowance = self.0.entry((tunnel, direction)).or_default();
        allowance.left -= i64::try_from(bytes).unwrap_or(i64::MAX);
        allowance.starving.extend(starving);
    }

    /// A turn of `conn` is over, which was given `before` and has come to `after`. `starving` says which of its halves
    /// wait for a slice; returns which of them do now.
    pub(crate) fn settle(
        &mut self,
        now: Instant,
        tunnel: K,
        conn: Token,
        mut starving: [bool; 2],
        before: Meter,
        after: Meter,
    ) -> [bool; 2] {
        let turns = [(before.egress, after.egress), (before.ingress, after.ingress)];
        for ((direction, starving), (before, after)) in Direction::ALL.into_iter().zip(&mut starving).zip(turns) {
            let starts = after.throttled && !*starving;
            let used = if planted(PlantedBug::BandwidthNotCharged) { 0 } else { before.left - after.left };
            self.charge(now, tunnel, direction, used, starts.then_some(conn));
            *starving |= starts;
        }
        starving
    }

    /// Whether a slice is to be asked for now, and of what rate: that of whom starved last, or this one.
    pub(crate) fn ask(&mut self, now: Instant, tunnel: K, direction: Direction, rate: Rate) -> Rate {
        let allowance = self.0.get_mut(&(tunnel, direction))?;
        allowance.rate = rate.or(allowance.rate);
        let asks = !allowance.asked && !allowance.starving.is_empty() && allowance.left(now) <= 0;
        allowance.asked |= asks;
        allowance.rate.filter(|_| asks)
    }

    /// A slice has come.
    pub(crate) fn on_slice(&mut self, now: Instant, tunnel: K, direction: Direction, bytes: u64) {
        // A tunnel that is forgotten had not asked: its session is over.
        let Some(allowance) = self.0.get_mut(&(tunnel, direction)) else { return };
        allowance.asked = false;
        allowance.left = allowance.left(now) + i64::try_from(bytes).unwrap_or(i64::MAX);
        allowance.until = now + LIFETIME;
    }

    /// The next one that starved and may take its share now.
    pub(crate) fn next_starving(&mut self, now: Instant, tunnel: K, direction: Direction) -> Option<Token> {
        let allowance = self.0.get_mut(&(tunnel, direction))?;
        allowance.share = None;
        let left = u64::try_from(allowance.left(now)).ok().filter(|&left| left > 0)?;
        let among = allowance.starving.len() as u64;
        let token = allowance.starving.pop_front()?;
        allowance.share = Some((left / among).max(LEAST_SHARE));
        Some(token)
    }

    /// Forgets these tunnels.
    pub(crate) fn forget(&mut self, mut of: impl FnMut(K) -> bool) {
        self.0.retain(|&(tunnel, _), _| !of(tunnel));
    }

    /// Whether `conn` waits for a slice, which was asked for (B3): for checks.
    pub(crate) fn awaits(&self, tunnel: K, direction: Direction, conn: Token) -> bool {
        let allowance = self.0.get(&(tunnel, direction));
        allowance.is_some_and(|it| it.asked && it.starving.contains(&conn))
    }
}

impl Allowance {
    fn left(&self, now: Instant) -> i64 {
        if now >= self.until { self.left.min(0) } else { self.left }
    }

    fn tap(&mut self, now: Instant) -> Tap {
        self.left = self.left(now);
        let left = u64::try_from(self.left).unwrap_or(0).min(self.share.unwrap_or(u64::MAX));
        Tap { left, in_debt: self.left < 0, throttled: false }
    }
}

/// What a transfer may take in one turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meter {
    pub(crate) egress: Tap,
    pub(crate) ingress: Tap,
}

/// What one direction may take in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tap {
    /// Bytes that may still be taken.
    pub(crate) left: u64,
    /// What was taken may not be forwarded yet (B4).
    pub(crate) in_debt: bool,
    /// More could be taken, and may not.
    pub(crate) throttled: bool,
}

impl Default for Tap {
    /// No limit.
    fn default() -> Self {
        Self { left: u64::MAX, in_debt: false, throttled: false }
    }
}

/// A half of a transfer that takes no more than its tap lets through.
pub(crate) struct Metered<'a, H>(pub(crate) &'a mut H, pub(crate) &'a mut Tap);

impl<H: Half> Half for Metered<'_, H> {
    fn budget(&self, room: usize) -> Budget {
        let budget = self.0.budget(room);
        Budget { take: budget.take.min(usize::try_from(self.1.left).unwrap_or(usize::MAX)), ..budget }
    }

    fn on_taken(&mut self, n: usize) {
        self.1.left -= n as u64;
        self.0.on_taken(n);
    }

    fn on_forwarded(&mut self, n: usize) {
        self.0.on_forwarded(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const RATE: u64 = 1 << 20;

    fn rate(bytes: u64) -> NonZeroU64 {
        NonZeroU64::new(bytes).unwrap()
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// What `loops` loops that always want more are given until `end`, by the time, where main runs late by up to `lag`.
    fn greedy(bytes: u64, loops: usize, end: Instant, lag: u64) -> Vec<(Instant, u64)> {
        let mut buckets = Buckets::default();
        let mut now = at(1000);
        (0..loops).for_each(|it| buckets.ask(now, 7, Direction::Egress, rate(bytes), it));
        let mut given = Vec::new();
        while now < end {
            while let Some(slice) = buckets.next(now) {
                given.push((now, slice.bytes));
                buckets.ask(now, 7, Direction::Egress, rate(bytes), slice.loop_index);
            }
            let late = Duration::from_micros((given.len() as u64 * 7919) % (lag + 1));
            now = buckets.next_deadline().unwrap().max(now) + late;
        }
        given
    }

    #[test]
    fn b1_ten_seconds_are_exact_and_nothing_comes_in_a_burst() {
        for bytes in [LEAST, 5000, 100_003, RATE, 1 << 34, MOST] {
            for loops in [1, 3, 16] {
                let given = greedy(bytes, loops, at(11_000), 2_000);
                let sum = given.iter().map(|&(_, bytes)| u128::from(bytes)).sum::<u128>();
                let wanted = u128::from(bytes) * 10;
                assert!(sum * 100 >= wanted * 98 && sum * 100 <= wanted * 102, "{bytes} B/s: {sum} of {wanted}");
                for (first, &(from, _)) in given.iter().enumerate() {
                    let mut moved = 0;
                    for &(until, more) in given[first..].iter().take(40) {
                        moved += more;
                        let window = until.since(from).as_secs_f64() + BURST.as_secs_f64();
                        let most = window * bytes as f64 + bytes as f64 / SLICES as f64;
                        assert!(moved as f64 <= most + 1.0, "{bytes} B/s: {moved} in {window} s");
                    }
                }
            }
        }
    }

    #[test]
    fn who_asks_late_is_given_what_was_earned_meanwhile() {
        let mut buckets = Buckets::default();
        let (mut now, mut given) = (at(1000), 0);
        while now < at(11_000) {
            buckets.ask(now, 7, Direction::Egress, rate(RATE), 0);
            given += buckets.next(now).map_or(0, |slice| slice.bytes);
            now = now + Duration::from_millis(70);
        }
        assert!(given * 100 >= RATE * 10 * 98 && given * 100 <= RATE * 10 * 102, "{given}");
    }

    #[test]
    fn loops_get_slices_in_turn_and_a_bucket_that_is_full_is_forgotten() {
        let mut buckets = Buckets::default();
        for loop_index in [2, 0, 1] {
            buckets.ask(at(0), 1, Direction::Ingress, rate(RATE), loop_index);
        }
        let order: Vec<_> = core::iter::from_fn(|| buckets.next(at(5000))).map(|slice| slice.loop_index).collect();
        assert_eq!(order, [2, 0, 1]);
        assert_eq!(buckets.next_deadline(), None);
        buckets.ask(at(5001), 2, Direction::Ingress, rate(RATE), 0);
        assert_eq!(buckets.buckets.len(), 2, "it has given much a moment ago");
        buckets.ask(at(9000), 3, Direction::Ingress, rate(RATE), 0);
        assert_eq!(buckets.buckets.len(), 2, "the first is full");
    }

    /// On both sides of the messages.
    #[test]
    fn another_rate_counts_from_the_next_slice_on() {
        let mut buckets = Buckets::default();
        let mut slice = |bytes| {
            buckets.ask(at(1000), 7, Direction::Egress, rate(bytes), 0);
            let due = buckets.next_deadline().unwrap().max(at(1000));
            buckets.next(due).unwrap().bytes
        };
        slice(RATE);
        assert_eq!([slice(LEAST), slice(RATE)], [LEAST / SLICES, RATE / SLICES]);
        let mut allowances = Allowances::default();
        for (told, asked) in [(Some(RATE), RATE), (Some(LEAST), LEAST), (None, LEAST)] {
            allowances.charge(at(0), 1, Direction::Egress, 0, Some(token(1)));
            assert_eq!(allowances.ask(at(0), 1, Direction::Egress, told.map(rate)), Some(rate(asked)));
            allowances.on_slice(at(0), 1, Direction::Egress, 0);
        }
    }

    #[test]
    fn b4_a_debt_outlives_the_slice_and_is_not_forgotten_for_other_tunnels() {
        let mut allowances = Allowances::default();
        allowances.charge(at(0), 1, Direction::Ingress, 30, None);
        allowances.charge(at(60_000), 2, Direction::Ingress, 1, None);
        assert!([1, 2].into_iter().all(|tunnel| allowances.meter(at(60_000), tunnel).ingress.in_debt));
    }

    fn token(number: u64) -> Token {
        Token::from_number(number).unwrap()
    }

    #[test]
    fn b2_what_is_not_used_in_time_is_lost_and_a_debt_is_not() {
        let mut allowances = Allowances::default();
        allowances.charge(at(0), 1, Direction::Egress, 0, Some(token(1)));
        assert!(allowances.ask(at(0), 1, Direction::Egress, Some(rate(RATE))).is_some());
        assert!(allowances.ask(at(0), 1, Direction::Egress, None).is_none(), "B3: once");
        assert!(allowances.awaits(1, Direction::Egress, token(1)));
        allowances.on_slice(at(1), 1, Direction::Egress, 100);
        assert_eq!(allowances.meter(at(1), 1).egress.left, 100);
        assert_eq!(allowances.meter(at(101), 1).egress.left, 0);
        allowances.charge(at(126), 1, Direction::Egress, 30, None);
        assert!(allowances.meter(at(200), 1).egress.in_debt);
        allowances.charge(at(200), 1, Direction::Egress, 0, Some(token(2)));
        assert_eq!(allowances.ask(at(200), 1, Direction::Egress, None), Some(rate(RATE)));
        allowances.on_slice(at(300), 1, Direction::Egress, 100);
        let meter = allowances.meter(at(300), 1);
        assert_eq!((meter.egress.left, meter.egress.in_debt, meter.ingress.left), (70, false, 0));
    }

    #[test]
    fn whoever_starves_has_a_share_of_a_slice_and_a_turn_after_the_others() {
        let mut allowances = Allowances::default();
        let starve = |allowances: &mut Allowances<u8>, used, number| {
            allowances.charge(at(0), 1, Direction::Ingress, used, Some(token(number)));
        };
        (1..=4).for_each(|number| starve(&mut allowances, 0, number));
        assert!(allowances.ask(at(0), 1, Direction::Ingress, Some(rate(RATE))).is_some());
        allowances.on_slice(at(0), 1, Direction::Ingress, 8000);
        let mut order = Vec::new();
        while let Some(next) = allowances.next_starving(at(0), 1, Direction::Ingress) {
            let share = allowances.meter(at(0), 1).ingress.left;
            order.push((next, share));
            starve(&mut allowances, share, if next == token(1) { 1 } else { 9 });
            assert!(order.len() < 20, "it ends");
        }
        assert_eq!(order[..2], [(token(1), 2000), (token(2), 1500)]);
        assert_eq!(order.iter().map(|(_, share)| share).sum::<u64>(), 8000);
        assert!(allowances.ask(at(0), 1, Direction::Ingress, None).is_some(), "they still starve");
        allowances.forget(|tunnel| tunnel == 1);
        assert_eq!(allowances, Allowances::default());
    }
}
