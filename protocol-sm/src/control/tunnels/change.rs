//! The user says anew which tunnels there are: which of them stay, and how those that do not are replaced without a
//! visitor losing more than it must.
//!
//! A tunnel is the same if its name and its public port and that port's address, or its host and what the server knows of
//! the service, are. With another port or host it moves: the tunnel there is another one, and the old one stays open until
//! that is ready, unless its port or host is in another tunnel's way.
//! With another name and the same port or host it is renamed where it is, if its old name is nobody's, or it has the same
//! LocalServer. Everything else about it (its LocalServer, its limits) changes in place.

use super::{LookupState, State, TunnelEntry, Tunnels, wait};
use crate::ids::TunnelId;
use crate::ports::may_clash;
use crate::reload::Changes;
use crate::routes::Site;
use crate::settings::{Timings, TunnelSpec};
use crate::time::Instant;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

/// What the main driver has to do, in the order of the fields; then it looks names up and registers as ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Tunnels to be closed.
    pub close: Vec<TunnelId>,
    /// Registered tunnels of which the server must know another name or other limits.
    pub tell: Vec<TunnelId>,
    /// Tunnels whose LocalServer is another one, or dialled from elsewhere.
    pub relocate: Vec<TunnelId>,
    /// Tunnels whose visitors are served in another way.
    pub serve: Vec<TunnelId>,
}

impl Tunnels {
    /// The tunnels are `specs` from now on.
    pub fn change(&mut self, specs: Vec<TunnelSpec>, timings: &Timings) -> (Orders, Changes) {
        (self.reconnect_min, self.reconnect_max) = (timings.reconnect_min, timings.reconnect_max);
        let mut changes = Changes { things: "tunnel", ..Changes::default() };
        let mut orders = Orders::default();
        let names: BTreeSet<String> = specs.iter().map(|spec| spec.name.clone()).collect();
        let mut ports = BTreeMap::<_, Vec<_>>::new();
        for spec in specs.iter().filter(|spec| spec.public_port != 0) {
            ports.entry((spec.is_udp(), spec.public_port)).or_default().push(spec.bind_addr);
        }
        let is_wanted = |entry: &TunnelEntry| {
            let wanted = entry.port().and_then(|port| ports.get(&(entry.spec.is_udp(), port)));
            wanted.is_some_and(|wanted| wanted.iter().any(|&bind_addr| may_clash(bind_addr, entry.spec.bind_addr)))
        };
        let sites: BTreeSet<Site> = specs.iter().filter_map(|spec| spec.site.clone()).collect();
        let mut kept = BTreeSet::new();
        let mut passed_on = BTreeSet::new();
        let mut moved = BTreeMap::new();
        let mut new = Vec::new();
        for spec in specs {
            if let Some(tunnel) = self.same(&spec, &names, &kept) {
                kept.insert(tunnel);
                if self.entries[&tunnel].spec.name != spec.name {
                    passed_on.insert(spec.name.clone());
                }
                self.update(tunnel, spec, &mut orders, &mut changes);
            } else {
                new.push(spec);
            }
        }
        for spec in new {
            let before = self.entries.iter().find(|(tunnel, entry)| {
                entry.spec.name == spec.name && entry.successor.is_none() && !kept.contains(tunnel)
            });
            let before = before.map(|(&tunnel, _)| tunnel);
            let name = spec.name.clone();
            let tunnel = self.add(spec);
            kept.insert(tunnel);
            match before {
                Some(before) => {
                    moved.insert(before, tunnel);
                    changes.moved.push(name);
                }
                None => changes.added.push(name),
            }
        }
        for (&tunnel, entry) in &mut self.entries {
            if kept.contains(&tunnel) {
                continue;
            }
            let successor = moved.get(&entry.successor.unwrap_or(tunnel)).copied().or(entry.successor);
            let successor = successor.filter(|successor| kept.contains(successor));
            let is_free = match &entry.spec.site {
                Some(site) => !sites.contains(site),
                None => !is_wanted(entry),
            };
            if successor.is_some() && entry.state == State::Open && is_free {
                entry.successor = successor;
                continue;
            }
            orders.close.push(tunnel);
            let is_let_go = !names.contains(&entry.spec.name) || passed_on.contains(&entry.spec.name);
            if entry.successor.is_none() && is_let_go {
                changes.removed.push(entry.spec.name.clone());
            }
        }
        (orders, changes)
    }

    /// The tunnel that `spec` is about, if that has its port, or its host.
    fn same(&self, spec: &TunnelSpec, names: &BTreeSet<String>, kept: &BTreeSet<TunnelId>) -> Option<TunnelId> {
        let free = || self.entries.iter().filter(|(tunnel, _)| !kept.contains(tunnel));
        // The server is told of a service when its host is registered.
        let is_like = |entry: &TunnelEntry| spec.serving.service == entry.spec.serving.service;
        let has_port = |entry: &TunnelEntry| {
            spec.site == entry.spec.site
                && spec.is_udp() == entry.spec.is_udp()
                && spec.bind_addr == entry.spec.bind_addr
                && (spec.public_port == entry.spec.public_port
                    || spec.public_port == 0
                    || Some(spec.public_port) == entry.port())
        };
        let has_this = |entry: &TunnelEntry| match &spec.site {
            Some(site) => entry.spec.site.as_ref() == Some(site),
            None => spec.public_port != 0 && entry.port() == Some(spec.public_port) && has_port(entry),
        };
        let named = free().filter(|(_, entry)| entry.spec.name == spec.name && is_like(entry) && has_port(entry));
        // Where any port will do, that of the tunnel which has moved already.
        let found = named.min_by_key(|(_, entry)| entry.successor.is_some());
        // Its name may pass to another tunnel, as in a range that begins earlier: it is the same if its service is.
        let is_let_go = |entry: &TunnelEntry| {
            !names.contains(&entry.spec.name)
                || (entry.spec.public_port, &entry.spec.local) == (spec.public_port, &spec.local)
        };
        let is_it = |entry: &TunnelEntry| is_let_go(entry) && is_like(entry) && has_this(entry);
        let renamed = || free().find(|(_, entry)| entry.successor.is_none() && is_it(entry));
        found.or_else(renamed).map(|(&tunnel, _)| tunnel)
    }

    /// A tunnel stays, as `spec` says.
    fn update(&mut self, tunnel: TunnelId, spec: TunnelSpec, orders: &mut Orders, changes: &mut Changes) {
        let entry = self.entries.get_mut(&tunnel).expect("it was found");
        entry.successor = None;
        if entry.spec == spec {
            changes.unchanged += 1;
            return;
        }
        changes.changed.push(spec.name.clone());
        let registered = matches!(entry.state, State::Asked | State::Open);
        if registered && (&entry.spec.name, &entry.spec.limits) != (&spec.name, &spec.limits) {
            orders.tell.push(tunnel);
        }
        if (&entry.spec.local, &entry.spec.local_sources) != (&spec.local, &spec.local_sources) {
            wait(&mut self.lookups, tunnel, entry.lookup.retry_at(), None);
            entry.relocate();
            orders.relocate.push(tunnel);
        }
        if entry.spec.serving != spec.serving {
            orders.serve.push(tunnel);
        }
        entry.spec = spec;
    }

    /// What waits for another try is due now: somebody has changed something, perhaps that.
    pub fn hurry(&mut self, now: Instant) {
        let fresh = self.backoffs();
        self.retries.clear();
        self.lookups.clear();
        for (&tunnel, entry) in &mut self.entries {
            (entry.retry, entry.slow_retry) = fresh.clone();
            if let State::RetryAt(_) = entry.state {
                entry.state = State::Idle;
            }
            if let LookupState::RetryAt(_) = entry.lookup {
                entry.lookup = LookupState::RetryAt(now);
                self.lookups.insert((now, tunnel));
            }
            if entry.refused.take().is_some() {
                entry.announced = None;
            }
        }
    }

    /// A tunnel that has moved: the one that takes its place is open, so it is to be closed.
    #[must_use]
    pub fn retired(&self) -> Option<TunnelId> {
        let is_open = |tunnel: TunnelId| self.entries.get(&tunnel).is_none_or(|entry| entry.state == State::Open);
        let mut moved = self.entries.iter().filter_map(|(&tunnel, entry)| Some((tunnel, entry.successor?)));
        moved.find(|&(_, successor)| is_open(successor)).map(|(tunnel, _)| tunnel)
    }

    /// The tunnels that were to stay open until another one is, which no longer matters.
    pub fn moved(&self) -> impl Iterator<Item = TunnelId> {
        self.entries.iter().filter_map(|(&tunnel, entry)| entry.successor.map(|_| tunnel))
    }
}

impl TunnelEntry {
    /// The public port that it has, or wants.
    fn port(&self) -> Option<u16> {
        match self.spec.public_port {
            0 if self.spec.site.is_some() => None,
            0 => self.last.map(|last| last.port()),
            port => Some(port),
        }
    }

    /// Its LocalServer is another one: what is known of the old one's addresses, or comes to be known, counts no more.
    fn relocate(&mut self) {
        self.lookups += 1;
        self.lookup = LookupState::Idle;
        if let Some(locals) = &mut self.locals {
            locals.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::AfterRefusal;
    use super::*;
    use crate::codes::{StateName, TunnelRefusal, Violation};
    use crate::settings::{Serving, TunnelLimits};
    use alloc::format;
    use alloc::vec;
    use core::net::{IpAddr, Ipv4Addr, SocketAddr};

    const NOW: Instant = Instant::ZERO;

    fn spec(name: &str, public_port: u16) -> TunnelSpec {
        let local = format!("{name}.local:80");
        let (limits, serving) = (TunnelLimits::default(), Serving::default());
        let (bind_addr, site) = (None, None);
        TunnelSpec { name: name.into(), public_port, bind_addr, site, local, local_sources: vec![], limits, serving }
    }

    /// A client with these tunnels, of which each is open where it wants to be, or at port 9.
    fn open(specs: Vec<TunnelSpec>) -> Tunnels {
        let mut tunnels = Tunnels::new(specs, &Timings::default());
        for tunnel in tunnels.ids().collect::<Vec<_>>() {
            be_open(&mut tunnels, tunnel);
        }
        tunnels
    }

    fn be_open(tunnels: &mut Tunnels, tunnel: TunnelId) {
        let which = tunnels.entries[&tunnel].lookups;
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        assert!(tunnels.on_located(tunnel, which, vec![local], NOW).is_some());
        assert!(tunnels.register(NOW).is_some());
        let port = tunnels.spec(tunnel).map_or(0, |spec| spec.public_port);
        let port = if port == 0 { 9 } else { port };
        assert_eq!(tunnels.on_ready(tunnel, (Ipv4Addr::LOCALHOST, port).into()), Ok(()));
    }

    fn change(tunnels: &mut Tunnels, specs: Vec<TunnelSpec>) -> (Orders, Changes) {
        let done = tunnels.change(specs, &Timings::default());
        for &tunnel in &done.0.close {
            assert!(tunnels.close(tunnel));
        }
        tunnels.assert_consistent();
        done
    }

    fn said(changes: &Changes) -> [usize; 5] {
        let Changes { added, removed, moved, changed, unchanged, .. } = changes;
        [added.len(), removed.len(), moved.len(), changed.len(), *unchanged]
    }

    #[test]
    fn what_is_the_same_is_left_alone() {
        let all = vec![spec("a", 1), spec("b", 0)];
        let mut tunnels = open(all.clone());
        let before = tunnels.clone();
        let (orders, changes) = change(&mut tunnels, all.iter().rev().cloned().collect());
        assert_eq!((orders, said(&changes)), (Orders::default(), [0, 0, 0, 0, 2]));
        assert_eq!(tunnels, before);
        assert_eq!(change(&mut tunnels, vec![spec("a", 1), spec("b", 9)]).0, Orders::default(), "it has that port");
    }

    #[test]
    fn tunnels_come_and_go() {
        let mut tunnels = open(vec![spec("a", 1), spec("b", 2)]);
        let (orders, changes) = change(&mut tunnels, vec![spec("b", 2), spec("c", 3)]);
        assert_eq!((orders.close, said(&changes)), (vec![TunnelId(0)], [1, 1, 0, 0, 1]));
        assert_eq!(tunnels.ids().collect::<Vec<_>>(), [TunnelId(1), TunnelId(2)]);
        assert_eq!(tunnels.unlocated().collect::<Vec<_>>(), [TunnelId(2)]);
    }

    #[test]
    fn t5_a_tunnel_that_moves_stays_open_until_its_successor_is() {
        let mut tunnels = open(vec![spec("a", 1)]);
        let (orders, changes) = change(&mut tunnels, vec![spec("a", 2)]);
        assert_eq!((orders, said(&changes)), (Orders::default(), [0, 0, 1, 0, 0]));
        assert_eq!(tunnels.retired(), None);
        be_open(&mut tunnels, TunnelId(1));
        assert_eq!(tunnels.retired(), Some(TunnelId(0)));
        assert!(tunnels.close(TunnelId(0)));
        assert_eq!(tunnels.retired(), None);
    }

    #[test]
    fn t5_a_tunnel_that_moves_back_before_it_has_moved_was_never_away() {
        let mut tunnels = open(vec![spec("a", 1)]);
        let _moved = change(&mut tunnels, vec![spec("a", 2)]);
        let (orders, changes) = change(&mut tunnels, vec![spec("a", 1)]);
        assert_eq!((orders.close, said(&changes)), (vec![TunnelId(1)], [0, 0, 0, 0, 1]));
        assert_eq!(tunnels.moved().count(), 0);
        // Or goes on, or is not wanted at all any more.
        let _moved = change(&mut tunnels, vec![spec("a", 2)]);
        let (orders, changes) = change(&mut tunnels, vec![spec("a", 3)]);
        assert_eq!((orders.close, said(&changes)), (vec![TunnelId(2)], [0, 0, 1, 0, 0]));
        assert_eq!(tunnels.moved().collect::<Vec<_>>(), [TunnelId(0)]);
        let (orders, changes) = change(&mut tunnels, vec![]);
        assert_eq!((orders.close, said(&changes)), (vec![TunnelId(0), TunnelId(3)], [0, 1, 0, 0, 0]));
    }

    #[test]
    fn ports_that_are_swapped_are_free_at_once() {
        let mut tunnels = open(vec![spec("a", 1), spec("b", 2)]);
        let (orders, changes) = change(&mut tunnels, vec![spec("a", 2), spec("b", 1)]);
        assert_eq!((orders.close, said(&changes)), (vec![TunnelId(0), TunnelId(1)], [0, 0, 2, 0, 0]));
    }

    /// As those of a range that begins one port earlier, or of hosts in another order.
    #[test]
    fn names_that_pass_from_port_to_port_move_nothing() {
        let numbered = |name: &str, port: u16| TunnelSpec { local: format!("host:{port}"), ..spec(name, port) };
        let mut tunnels = open(vec![numbered("a-0", 7), numbered("a-1", 8)]);
        let all = vec![numbered("a-0", 6), numbered("a-1", 7), numbered("a-2", 8)];
        let (orders, changes) = change(&mut tunnels, all);
        let expected = Orders { tell: vec![TunnelId(0), TunnelId(1)], ..Orders::default() };
        assert_eq!((orders, said(&changes)), (expected, [1, 0, 0, 2, 0]));
        be_open(&mut tunnels, TunnelId(2));
        let (orders, changes) = change(&mut tunnels, vec![numbered("a-0", 7), numbered("a-1", 8)]);
        assert_eq!((orders.close, said(&changes)), (vec![TunnelId(2)], [0, 1, 0, 2, 0]));
    }

    #[test]
    fn a_port_at_another_address_is_another_port_and_one_that_is_in_the_way_is_closed_at_once() {
        let at = |bind_addr: Option<[u8; 4]>, port| {
            let bind_addr = bind_addr.map(IpAddr::from);
            TunnelSpec { bind_addr, ..spec("a", port) }
        };
        let (one, two) = (Some([192, 0, 2, 1]), Some([192, 0, 2, 2]));
        for (before, after, closed) in [
            (at(one, 1), at(two, 1), vec![]),
            (at(one, 1), at(None, 1), vec![TunnelId(0)]),
            (at(None, 1), at(two, 1), vec![TunnelId(0)]),
            (at(None, 1), at(two, 2), vec![]),
            (at(one, 0), at(two, 0), vec![]),
        ] {
            let mut tunnels = open(vec![before]);
            let (orders, changes) = change(&mut tunnels, vec![after]);
            assert_eq!((orders.close, said(&changes)), (closed, [0, 0, 1, 0, 0]));
        }
    }

    #[test]
    fn another_name_for_the_same_port_is_told_and_no_more() {
        let mut tunnels = open(vec![spec("a", 1)]);
        let local = spec("a", 1).local;
        let (orders, changes) = change(&mut tunnels, vec![TunnelSpec { local, ..spec("new", 1) }]);
        assert_eq!((orders.tell, said(&changes)), (vec![TunnelId(0)], [0, 0, 0, 1, 0]));
        // Where the port is taken over from one that has another, it is another tunnel.
        let (orders, changes) = change(&mut tunnels, vec![spec("other", 1), spec("new", 2)]);
        assert_eq!((orders.close, said(&changes)), (vec![TunnelId(0)], [1, 0, 1, 0, 0]));
    }

    #[test]
    fn t3_what_was_looked_up_for_the_last_local_server_counts_no_more() {
        let mut tunnels = open(vec![spec("a", 1)]);
        assert_eq!(tunnels.begin_lookup(TunnelId(0)), Some((0, "a.local:80")));
        let (orders, _) = change(&mut tunnels, vec![TunnelSpec { local: "b:1".into(), ..spec("a", 1) }]);
        assert_eq!((orders.relocate, orders.tell), (vec![TunnelId(0)], vec![]));
        assert_eq!(tunnels.begin_lookup(TunnelId(0)), Some((1, "b:1")));
        let at = |port| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
        assert_eq!(tunnels.on_located(TunnelId(0), 0, at(7), NOW), None);
        assert_eq!(tunnels.on_located(TunnelId(0), 1, at(8), NOW), Some(&at(8)[..]));
    }

    #[test]
    fn t4_what_waits_is_tried_at_once_and_is_news_again() {
        let mut tunnels = open(vec![spec("a", 1)]);
        let refused = TunnelRefusal::PortNotAllowed;
        assert!(matches!(tunnels.on_closed(TunnelId(0), refused, NOW, 0), Ok(AfterRefusal::RetryLater { .. })));
        assert_eq!(tunnels.register(NOW), None);
        tunnels.hurry(NOW);
        assert!(tunnels.register(NOW).is_some());
        assert_eq!(tunnels.on_ready(TunnelId(0), (Ipv4Addr::LOCALHOST, 1).into()), Ok(()));
        assert!(tunnels.announce().is_some());
    }

    #[test]
    fn t5_a_tunnel_that_has_moved_and_is_released_is_gone() {
        let mut tunnels = open(vec![spec("a", 1)]);
        let _moved = change(&mut tunnels, vec![spec("a", 2)]);
        assert_eq!(tunnels.on_closed(TunnelId(0), TunnelRefusal::Released, NOW, 0), Ok(AfterRefusal::Gone));
        tunnels.assert_consistent();
    }

    #[test]
    fn only_an_open_tunnel_is_closed_by_the_server() {
        let mut tunnels = open(vec![spec("a", 1), spec("b", 2)]);
        let code = TunnelRefusal::TooManyTunnels;
        let not_open = |error| matches!(error, Violation::Unexpected { state: StateName::TunnelNotOpen, .. });
        assert!(tunnels.on_closed(TunnelId(0), code, NOW, 0).is_ok());
        assert!(not_open(tunnels.on_closed(TunnelId(0), code, NOW, 0).unwrap_err()), "twice");
        assert!(not_open(tunnels.on_closed(TunnelId(7), code, NOW, 0).unwrap_err()), "never a tunnel");
        let _moved = change(&mut tunnels, vec![spec("b", 3)]);
        assert_eq!(tunnels.on_closed(TunnelId(1), code, NOW, 0), Ok(AfterRefusal::Gone), "it was to be closed anyway");
        assert_eq!(tunnels.on_closed(TunnelId(1), code, NOW, 0), Ok(AfterRefusal::Gone), "it is gone");
        tunnels.assert_consistent();
    }
}
