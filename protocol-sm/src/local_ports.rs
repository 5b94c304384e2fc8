//! The local ports towards one LocalServer, which may be used up: from which of its own addresses a client dials, and who
//! waits until a port is free.
//!
//! Between two addresses there are as many connections as local ports, and one whose visitor left first holds its port for
//! a minute after its end. Asking the system for a port when there is none costs it a look at all of them.
//!
//! Invariants:
//! - L1 another address is dialled from only when no port of the last one is left;
//! - L2 whoever comes while others wait waits behind them;
//! - L3 while there is no port, the system is asked once in [`PAUSE`], of a few addresses, however many wait.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

/// The pause before the system is asked for a port again.
pub const PAUSE: Duration = Duration::from_millis(200);

/// Addresses that the system is asked of at once.
const AT_ONCE: usize = 4;

/// See the module. `W` is somebody who waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalPorts<W> {
    /// The addresses to dial from. None: the system chooses.
    sources: Vec<IpAddr>,
    /// The one that had a port last.
    current: usize,
    /// None of them had a port last time.
    none: bool,
    waiting: VecDeque<W>,
}

impl<W> Default for LocalPorts<W> {
    fn default() -> Self {
        Self { sources: Vec::new(), current: 0, none: false, waiting: VecDeque::new() }
    }
}

impl<W: Copy + PartialEq> LocalPorts<W> {
    /// Dials from these addresses from now on.
    pub fn set_sources(&mut self, sources: &[IpAddr]) {
        if self.sources != sources {
            self.sources = sources.to_vec();
            self.current = 0;
        }
    }

    /// How many times [`LocalPorts::source`] may give an address.
    #[must_use]
    pub fn tries(&self) -> usize {
        self.sources.len().clamp(1, AT_ONCE)
    }

    /// The `nth` address from which to dial `to`. `None`: there is none of its family, so the system chooses, at the first
    /// try. An address of the other family is passed over.
    #[must_use]
    pub fn source(&self, nth: usize, to: SocketAddr) -> Option<Option<IpAddr>> {
        let fits = |source: &IpAddr| source.is_ipv6() == to.is_ipv6();
        if !self.sources.iter().any(fits) {
            return (nth == 0).then_some(None);
        }
        let at = (self.current + nth) % self.sources.len();
        self.sources.get(at).copied().filter(fits).map(Some)
    }

    /// The `nth` address had a port.
    pub fn on_found(&mut self, nth: usize) {
        self.advance(nth);
        self.none = false;
    }

    /// None of the addresses that were tried had a port: the next ones come first. Returns whether that is news.
    pub fn on_none(&mut self) -> bool {
        self.advance(self.tries());
        !core::mem::replace(&mut self.none, true)
    }

    fn advance(&mut self, by: usize) {
        self.current = (self.current + by) % self.sources.len().max(1);
    }

    /// Somebody waits, behind the others; if `first`, before them: they were first in the line before.
    pub fn wait(&mut self, who: W, first: bool) {
        if first { self.waiting.push_front(who) } else { self.waiting.push_back(who) }
    }

    /// Who is asked for next.
    #[must_use]
    pub fn first(&self) -> Option<W> {
        self.waiting.front().copied()
    }

    /// How often somebody stands in the line.
    #[must_use]
    pub fn places(&self, who: W) -> usize {
        self.waiting.iter().filter(|waiting| **waiting == who).count()
    }

    /// Somebody waits no more.
    pub fn leave(&mut self, who: W) {
        if let Some(place) = self.waiting.iter().position(|waiting| *waiting == who) {
            self.waiting.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn order(ports: &LocalPorts<u8>, to: &str) -> Vec<Option<IpAddr>> {
        (0..ports.tries()).filter_map(|nth| ports.source(nth, to.parse().unwrap())).collect()
    }

    #[test]
    fn l1_an_address_is_used_until_its_ports_are_used_up() {
        let mut ports = LocalPorts::<u8>::default();
        assert_eq!(order(&ports, "10.0.0.1:80"), [None], "the system chooses");
        assert!(ports.on_none() && !ports.on_none(), "it is news once");
        ports.on_found(0);
        assert!(ports.on_none());
        let [a, b, c] = ["127.0.0.2", "::1", "127.0.0.3"].map(ip);
        ports.set_sources(&[a, b, c]);
        assert_eq!(order(&ports, "10.0.0.1:80"), [Some(a), Some(c)]);
        ports.on_found(2);
        assert_eq!(order(&ports, "10.0.0.1:80"), [Some(c), Some(a)]);
        assert_eq!(order(&ports, "[::1]:80"), [Some(b)]);
        ports.set_sources(&[a, b, c]);
        assert_eq!(order(&ports, "10.0.0.1:80"), [Some(c), Some(a)], "nothing was changed");
        ports.set_sources(&[a]);
        assert_eq!(order(&ports, "10.0.0.1:80"), [Some(a)]);
        assert_eq!(order(&ports, "[::1]:80"), [None], "none of this family");
    }

    #[test]
    fn l3_of_many_addresses_a_few_are_asked_for_at_once() {
        let mut ports = LocalPorts::<u8>::default();
        let all: Vec<IpAddr> = (1..=6).map(|last| ip(&alloc::format!("127.0.0.{last}"))).collect();
        ports.set_sources(&all);
        let from = |nths: &[usize]| nths.iter().map(|&nth| Some(all[nth])).collect::<Vec<_>>();
        assert_eq!(order(&ports, "10.0.0.1:80"), from(&[0, 1, 2, 3]));
        assert!(ports.on_none());
        assert_eq!(order(&ports, "10.0.0.1:80"), from(&[4, 5, 0, 1]));
        ports.on_found(1);
        assert_eq!(order(&ports, "10.0.0.1:80"), from(&[5, 0, 1, 2]));
    }

    #[test]
    fn l2_they_are_served_in_the_order_in_which_they_came() {
        let mut ports = LocalPorts::default();
        (1..=4).for_each(|who| ports.wait(who, false));
        ports.leave(3);
        ports.leave(3);
        ports.leave(1);
        assert_eq!(ports.first(), Some(2));
        ports.leave(2);
        ports.wait(2, true);
        assert_eq!(ports.waiting, vec![2, 4]);
    }
}
