//! The flows of one public port: whose datagram it is, and which of them makes room for another.
//!
//! Invariants:
//! - F1 each visitor's address and port has one flow at most, by each way that it comes, and there are at most so many as
//!   the tunnel may have;
//! - F2 room is made by the one that was silent for longest among those that are not known; where all are known, by the
//!   one that was silent for longest, if it was for as long as one that is not known may be;
//! - F3 whoever speaks is moved behind all others.

use super::lifetime::{FRESH, Lifetime};
use crate::canary::{PlantedBug, planted};
use crate::sources::Source;
use crate::time::Instant;
use alloc::collections::BTreeMap;
use core::net::{IpAddr, SocketAddr};

/// Flows of one tunnel at most, where its holder's limits say nothing else.
// PROTOCOL.md: P-UDP-7.
pub const MAX_FLOWS: u32 = 4096;

/// Whose a flow is. What a relay says is its visitor's is never taken for what comes from there directly, or by another
/// relay: nobody takes a flow over by a forged address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Party {
    /// The visitor's address and port.
    pub visitor: SocketAddr,
    /// The relay's address, if one stands in between.
    pub relay: Option<IpAddr>,
}

impl From<SocketAddr> for Party {
    /// A visitor who comes directly.
    fn from(visitor: SocketAddr) -> Self {
        Self { visitor, relay: None }
    }
}

/// See the module. `K` names a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlowTable<K> {
    flows: BTreeMap<Party, Entry<K>>,
    /// In the order in which they make room: those that are not known first.
    order: BTreeMap<(bool, u64), Party>,
    last_place: u64,
    /// How many flows each source address has; none is 0.
    sources: BTreeMap<Source, u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry<K> {
    key: K,
    life: Lifetime,
    place: (bool, u64),
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    Visitor,
    Service,
}

impl<K> Default for FlowTable<K> {
    fn default() -> Self {
        Self { flows: BTreeMap::new(), order: BTreeMap::new(), last_place: 0, sources: BTreeMap::new() }
    }
}

impl<K: Copy + PartialEq> FlowTable<K> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// The flow of this one.
    #[must_use]
    pub fn get(&self, party: Party) -> Option<K> {
        if planted(PlantedBug::FlowsMixedUp) {
            return self.flows.values().next().map(|flow| flow.key);
        }
        self.flows.get(&party).map(|flow| flow.key)
    }

    /// How it has lived so far.
    #[must_use]
    pub fn life(&self, party: Party) -> Option<Lifetime> {
        self.flows.get(&party).map(|flow| flow.life)
    }

    /// A new one.
    ///
    /// # Panics
    /// This one has one (F1).
    pub fn insert(&mut self, now: Instant, party: Party, key: K) {
        let place = self.next_place(false);
        self.order.insert(place, party);
        let before = self.flows.insert(party, Entry { key, life: Lifetime::new(now), place });
        assert!(before.is_none(), "F1: each has one flow");
        *self.sources.entry(Source::of(party.visitor.ip())).or_default() += 1;
    }

    /// It is over. Another one of the same party is left alone.
    pub fn remove(&mut self, party: Party, key: K) {
        if let Some(flow) = self.flows.get(&party).filter(|flow| flow.key == key) {
            self.order.remove(&flow.place);
            self.flows.remove(&party);
            let source = Source::of(party.visitor.ip());
            if let Some(left) = self.sources.get_mut(&source) {
                *left -= 1;
                if *left == 0 {
                    self.sources.remove(&source);
                }
            }
        }
    }

    /// How many flows this source address has.
    #[must_use]
    pub fn of_source(&self, source: Source) -> u32 {
        self.sources.get(&source).copied().unwrap_or(0)
    }

    /// A datagram of the flow has come from the visitor, or from the LocalServer.
    pub(crate) fn on_spoken(&mut self, now: Instant, party: Party, who: Speaker) {
        let Some(flow) = self.flows.get_mut(&party) else { return };
        match who {
            Speaker::Visitor => flow.life.on_visitor(now),
            Speaker::Service => flow.life.on_service(now),
        }
        self.order.remove(&flow.place);
        self.last_place += 1;
        flow.place = (flow.life.is_known(), self.last_place);
        self.order.insert(flow.place, party);
    }

    /// The flow that is to end so that another one may begin (F2). `None`: all of them are in use.
    // PROTOCOL.md: P-UDP-7.
    #[must_use]
    pub fn makes_room(&self, now: Instant) -> Option<K> {
        let (&(known, _), party) = self.order.first_key_value()?;
        let flow = &self.flows[party];
        (!known || flow.life.silence(now) >= FRESH).then_some(flow.key)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Party, K)> {
        self.flows.iter().map(|(&party, flow)| (party, flow.key))
    }

    fn next_place(&mut self, known: bool) -> (bool, u64) {
        self.last_place += 1;
        (known, self.last_place)
    }

    /// For tests and simulations.
    ///
    /// # Panics
    /// An invariant does not hold.
    pub fn assert_consistent(&self) {
        assert_eq!(self.order.len(), self.flows.len(), "F2: each has a place");
        assert_eq!(self.sources.values().sum::<u32>() as usize, self.flows.len(), "each has a source");
        for (party, flow) in &self.flows {
            assert_eq!(self.order.get(&flow.place), Some(party), "F2: each has a place of its own");
            assert_eq!(flow.place.0, flow.life.is_known(), "F2: the known are behind the others");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn visitor(port: u16) -> Party {
        SocketAddr::from(([192, 0, 2, 7], port)).into()
    }

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }

    /// P-UDP-7, F2, F3: a flood of new sources pushes out its own, and whoever is silent.
    #[test]
    fn room_is_made_by_the_silent() {
        let mut table = FlowTable::default();
        for port in 1..=4 {
            table.insert(at(0), visitor(port), port);
        }
        for port in [1, 2] {
            for who in [Speaker::Visitor, Speaker::Service, Speaker::Visitor, Speaker::Service] {
                table.on_spoken(at(1), visitor(port), who);
            }
        }
        table.on_spoken(at(2), visitor(3), Speaker::Visitor);
        for (flow, now) in [(Some(4), 3), (Some(3), 3), (None, 3), (None, 30), (Some(1), 31), (Some(2), 31), (None, 99)]
        {
            table.assert_consistent();
            assert_eq!(table.makes_room(at(now)), flow);
            if let Some(flow) = flow {
                table.remove(visitor(flow), flow);
            }
        }
        assert!(table.is_empty());
    }

    /// F1.
    #[test]
    fn a_flow_that_is_over_takes_no_successor_along() {
        let mut table = FlowTable::default();
        table.insert(at(0), visitor(1), 1);
        table.remove(visitor(1), 1);
        table.insert(at(0), visitor(1), 2);
        table.remove(visitor(1), 1);
        assert_eq!((table.get(visitor(1)), table.get(visitor(2)), table.len()), (Some(2), None, 1));
        for relay in [[10, 0, 0, 1], [10, 0, 0, 2]] {
            let behind = Party { relay: Some(relay.into()), ..visitor(1) };
            assert_eq!(table.get(behind), None, "whoever comes by a relay is somebody else");
        }
        assert_eq!(table.of_source(Source::of(visitor(9).visitor.ip())), 1);
        table.assert_consistent();
    }
}
