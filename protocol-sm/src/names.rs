//! What is known of one name: its addresses, how old they are, and which of them work.
//!
//! It decides when the name is to be looked up, and whether somebody who wants to dial waits for that. A runtime looks
//! names up and hands in the answers.
//!
//! Invariants:
//! - N1 nobody dials by an answer that is older than [`FRESH`], unless a look-up has not been answered for [`HANG`];
//! - N2 at most one look-up is asked for at a time;
//! - N3 while somebody dials again and again the answer is refreshed before it is too old, so that nobody waits;
//! - N4 an address that failed last time is tried after all others, and the one that worked last before them.

use crate::time::Instant;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

/// How old an answer may be.
pub const FRESH: Duration = Duration::from_secs(5);
/// How long a look-up may go without an answer before the last answer is used, however old it is.
pub const HANG: Duration = Duration::from_secs(1);
/// How old an answer is when it is refreshed although it may be used.
const REFRESH: Duration = Duration::from_millis(2500);

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Name {
    /// In the order of the answer, each once.
    addresses: Vec<SocketAddr>,
    /// The one that worked last.
    good: Option<SocketAddr>,
    /// Those that have failed and not worked since.
    failed: Vec<SocketAddr>,
    answered: Option<Instant>,
    /// A look-up is under way since then.
    asked: Option<Instant>,
    /// It is an address, and not a name.
    fixed: bool,
}

/// What to do before a dial.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Look the name up.
    pub look_up: bool,
    /// Wait for the answer.
    pub wait: Wait,
}

/// How long to wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Not,
    /// Until then at most.
    Until(Instant),
    /// As long as it takes: there is no answer yet.
    ForIt,
}

impl Name {
    /// Nothing is known yet. `fixed`: it [is an address](is_address).
    #[must_use]
    pub fn new(fixed: bool) -> Self {
        Self { fixed, ..Self::default() }
    }

    /// Somebody wants to dial. Notes that a look-up is asked for.
    pub fn want(&mut self, now: Instant) -> Wanted {
        let age = self.answered.map(|at| now.since(at));
        if age.is_some_and(|age| self.fixed || age < REFRESH) {
            return Wanted { look_up: false, wait: Wait::Not };
        }
        let look_up = self.asked.is_none();
        let hangs_at = *self.asked.get_or_insert(now) + HANG;
        let wait = match age {
            None => Wait::ForIt,
            Some(age) if age <= FRESH || hangs_at <= now => Wait::Not,
            Some(_) => Wait::Until(hangs_at),
        };
        Wanted { look_up, wait }
    }

    /// It was looked up. Without any address that failed, which does not make the last addresses wrong.
    pub fn on_answer(&mut self, addresses: &[SocketAddr], now: Instant) {
        // The age of an address does not count.
        (self.asked, self.answered) = (None, Some(if self.fixed { Instant::ZERO } else { now }));
        if addresses.is_empty() {
            return;
        }
        self.addresses.clear();
        for address in addresses {
            if !self.addresses.contains(address) {
                self.addresses.push(*address);
            }
        }
        let there = &self.addresses;
        self.good = self.good.filter(|good| there.contains(good));
        self.failed.retain(|failed| there.contains(failed));
    }

    /// A dial to this address worked.
    pub fn on_good(&mut self, address: SocketAddr) {
        self.good = Some(address);
        self.failed.retain(|failed| *failed != address);
    }

    /// A dial to this address failed.
    pub fn on_failed(&mut self, address: SocketAddr) {
        self.good = self.good.filter(|good| *good != address);
        if self.addresses.contains(&address) && !self.failed.contains(&address) {
            self.failed.push(address);
        }
    }

    /// Its addresses in the order in which they are to be tried: IPv6 and IPv4 alternate among those of which nothing is
    /// known, and among those that have failed.
    #[must_use]
    pub fn in_order(&self) -> Vec<SocketAddr> {
        if let [only] = self.addresses[..] {
            return vec![only];
        }
        let others = self.addresses.iter().copied().filter(|address| self.good != Some(*address));
        let (failed, untried): (Vec<_>, Vec<_>) = others.partition(|address| self.failed.contains(address));
        self.good.into_iter().chain(alternate(&untried)).chain(alternate(&failed)).collect()
    }

    /// Whether there is an address.
    #[must_use]
    pub fn has_address(&self) -> bool {
        !self.addresses.is_empty()
    }
}

/// What the text says that tells where a LocalServer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LocalAt {
    /// A host's name and a port: it is looked up, again and again.
    Name,
    /// An IP address and a port: there is nothing to refresh.
    Address,
    /// A Unix socket of this machine at this path; behind an `@`, one in the abstract namespace. There is nothing to look
    /// up.
    Unix(Arc<str>),
}

impl LocalAt {
    /// What stands in front of the path of a Unix socket.
    pub const UNIX: &str = "unix:";

    /// Reads a `HOST:PORT` or `unix:PATH`.
    #[must_use]
    pub fn of(local: &str) -> Self {
        match local.strip_prefix(Self::UNIX) {
            Some(path) => Self::Unix(path.into()),
            None if is_address(local) => Self::Address,
            None => Self::Name,
        }
    }

    /// The path of a Unix socket.
    #[must_use]
    pub fn unix(&self) -> Option<&Arc<str>> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Name | Self::Address => None,
        }
    }
}

/// Whether a `HOST:PORT` is an address already: then there is nothing to refresh.
#[must_use]
pub fn is_address(name: &str) -> bool {
    name.parse::<SocketAddr>().is_ok()
}

/// The two families in turn, beginning with that of the first.
// RFC 8305, section 4.
fn alternate(addresses: &[SocketAddr]) -> impl Iterator<Item = SocketAddr> {
    let begins_with = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == begins_with);
    let mut order = Vec::with_capacity(addresses.len());
    first.reverse();
    second.reverse();
    while !first.is_empty() || !second.is_empty() {
        order.extend(first.pop());
        order.extend(second.pop());
    }
    order.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn v4(last: u8) -> SocketAddr {
        (Ipv4Addr::new(192, 0, 2, last), 80).into()
    }

    fn v6(last: u16) -> SocketAddr {
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last), 80).into()
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    const NOW: Wanted = Wanted { look_up: false, wait: Wait::Not };

    #[test]
    fn n1_an_old_answer_is_looked_up_first_and_used_when_that_hangs() {
        let mut name = Name::new(false);
        assert_eq!(name.want(at(0)), Wanted { look_up: true, wait: Wait::ForIt });
        name.on_answer(&[v4(1)], at(10));
        assert_eq!(name.want(at(10)), NOW);
        assert_eq!(name.want(at(10_000)), Wanted { look_up: true, wait: Wait::Until(at(11_000)) });
        assert_eq!(name.want(at(10_500)), Wanted { look_up: false, wait: Wait::Until(at(11_000)) }, "n2");
        assert_eq!(name.want(at(11_000)), NOW, "it hangs");
        assert_eq!(name.want(at(60_000)), NOW, "it hangs still");
        name.on_answer(&[v4(2)], at(70_000));
        assert_eq!(name.want(at(70_000)), NOW);
        assert_eq!(name.in_order(), [v4(2)]);
    }

    #[test]
    fn n3_under_steady_use_nobody_waits() {
        let mut name = Name::new(false);
        name.on_answer(&[v4(1)], at(0));
        let mut asked = 0;
        for now in (0..60_000).step_by(100) {
            let wanted = name.want(at(now));
            assert_eq!(wanted.wait, Wait::Not, "at {now}");
            if wanted.look_up {
                asked += 1;
                name.on_answer(&[v4(1)], at(now + 50));
            }
        }
        assert!((10..=24).contains(&asked), "{asked} in a minute");
    }

    #[test]
    fn an_address_is_never_looked_up_again() {
        for name in ["127.0.0.1:80", "[::1]:80"] {
            assert!(is_address(name) && !is_address("service.test:80"));
            let mut name = Name::new(true);
            assert!(name.want(at(0)).look_up);
            name.on_answer(&[v4(1)], at(0));
            assert_eq!(name.want(at(1_000_000)), NOW);
        }
    }

    #[test]
    fn a_look_up_that_fails_leaves_the_last_addresses() {
        let mut name = Name::new(false);
        name.on_answer(&[], at(0));
        assert!(!name.has_address());
        name.on_answer(&[v4(1)], at(1));
        name.on_answer(&[], at(2));
        assert_eq!(name.in_order(), [v4(1)]);
    }

    #[test]
    fn n4_what_worked_goes_first_and_what_failed_last() {
        let mut name = Name::new(false);
        name.on_answer(&[v6(1), v6(2), v4(1), v6(1), v4(2)], at(0));
        assert_eq!(name.in_order(), [v6(1), v4(1), v6(2), v4(2)], "in turn, each once");
        name.on_failed(v6(1));
        assert_eq!(name.in_order(), [v6(2), v4(1), v4(2), v6(1)]);
        name.on_good(v4(2));
        assert_eq!(name.in_order(), [v4(2), v6(2), v4(1), v6(1)]);
        name.on_answer(&[v4(1), v6(1), v4(2)], at(1));
        assert_eq!(name.in_order(), [v4(2), v4(1), v6(1)], "it stays known");
        name.on_failed(v4(2));
        assert_eq!(name.in_order(), [v4(1), v6(1), v4(2)]);
        name.on_answer(&[v4(2)], at(2));
        name.on_answer(&[v4(1), v4(2)], at(3));
        assert_eq!(name.in_order(), [v4(1), v4(2)]);
    }
}
