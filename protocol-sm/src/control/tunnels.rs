//! The client's tunnels, over all its sessions: one entry for each, with all that is known of it.
//!
//! ```text
//!            add            register           ready
//!   (none) ──────▶  Idle ──────────────▶ Asked ──────▶ Open
//!                   ▲  ▲                  │  │ refused
//!                   │  └─ at once ────────┘  ▼
//!                   └─── new session ──── RetryAt ──▶ Asked, after the pause
//! ```
//! A new session leads from every state to Idle, and so does `Released` from Asked and Open; the server closes an Open one
//! for another reason as it refuses an Asked one. Closing a tunnel leads from every state to where nothing is left of it.
//!
//! Invariants:
//! - T1 a tunnel's id is never given to another one (P-ID-1);
//! - T2 a tunnel is first registered when its LocalServer's name was looked up, and then once in each session, but for
//!   the times that it was refused or released;
//! - T3 a tunnel that was closed is neither registered nor looked up again; what still comes about it is stale;
//! - T4 no tunnel's refusal has to do with another tunnel: one that lasts until somebody changes something is said once,
//!   and asked for again after long pauses;
//! - T5 a tunnel that was moved to another port is open, and goes as soon as its successor is, or the session is over;
//! - T6 those that wait for another try stand in the order in which they will have it: a turn of the main thread costs as
//!   much with a thousand tunnels as with one.

mod change;

pub use change::Orders;

use crate::backoff::Backoff;
use crate::codes::{MessageName, StateName, TunnelRefusal, Violation};
use crate::ids::TunnelId;
use crate::names::LocalAt;
use crate::reconnect;
use crate::report::{TunnelReport, TunnelState, TunnelTally};
use crate::settings::{Timings, TunnelSpec};
use crate::time::Instant;
use crate::wire::ClientMsg;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::mem::replace;
use core::net::SocketAddr;
use core::time::Duration;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnels {
    entries: BTreeMap<TunnelId, TunnelEntry>,
    /// Those that are to be registered again, the first of them first.
    retries: BTreeSet<(Instant, TunnelId)>,
    /// Those whose LocalServer is to be looked up again.
    lookups: BTreeSet<(Instant, TunnelId)>,
    /// The next tunnel's id. It only grows.
    next: u32,
    /// Some tunnel has been open.
    served: bool,
    reconnect_min: Duration,
    reconnect_max: Duration,
}

/// All that is known of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TunnelEntry {
    spec: TunnelSpec,
    /// The LocalServer's addresses, best first. `None` until its name was looked up for the first time.
    locals: Option<Vec<SocketAddr>>,
    lookup: LookupState,
    /// How many LocalServers it had before: answers about those count no more.
    lookups: u32,
    /// It was moved to another port: this one takes its place.
    successor: Option<TunnelId>,
    state: State,
    /// The public address of the last session: asked for again where the server picked it.
    last: Option<SocketAddr>,
    /// The public address that people were told last.
    announced: Option<SocketAddr>,
    /// Why it was refused last, if it has not been open since.
    refused: Option<TunnelRefusal>,
    /// Pauses between registrations that are refused.
    retry: Backoff,
    /// The same where somebody must change something first.
    slow_retry: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum LookupState {
    Idle,
    UnderWay,
    /// The name did not resolve.
    RetryAt(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle,
    Asked,
    Open,
    RetryAt(Instant),
}

/// What follows when the server refuses a tunnel, or closes it.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AfterRefusal {
    /// The tunnel was closed meanwhile, or has moved: nothing follows.
    Gone,
    /// It is registered again at once.
    RetryAtOnce,
    /// It is registered again after a pause.
    RetryLater {
        /// The pause.
        pause: Duration,
        /// Whether people are to be told.
        is_news: bool,
    },
}

impl Tunnels {
    /// The tunnels that `specs` describes, numbered from 0 in that order.
    #[must_use]
    pub fn new(specs: Vec<TunnelSpec>, timings: &Timings) -> Self {
        let mut tunnels = Self {
            entries: BTreeMap::new(),
            retries: BTreeSet::new(),
            lookups: BTreeSet::new(),
            next: 0,
            served: false,
            reconnect_min: timings.reconnect_min,
            reconnect_max: timings.reconnect_max,
        };
        for spec in specs {
            tunnels.add(spec);
        }
        tunnels
    }

    // PROTOCOL.md: P-TUN-15.
    fn add(&mut self, spec: TunnelSpec) -> TunnelId {
        let id = TunnelId(self.next);
        self.next = self.next.checked_add(1).expect("fewer than 2^32 tunnels in one process");
        let (retry, slow_retry) = self.backoffs();
        let entry = TunnelEntry {
            spec,
            locals: None,
            lookup: LookupState::Idle,
            lookups: 0,
            successor: None,
            state: State::Idle,
            last: None,
            announced: None,
            refused: None,
            retry,
            slow_retry,
        };
        self.entries.insert(id, entry);
        id
    }

    fn backoffs(&self) -> (Backoff, Backoff) {
        (Backoff::new(self.reconnect_min, self.reconnect_max), reconnect::slow())
    }

    /// Forgets a tunnel. Returns whether there was one.
    pub fn close(&mut self, tunnel: TunnelId) -> bool {
        let Some(entry) = self.entries.remove(&tunnel) else { return false };
        wait(&mut self.retries, tunnel, entry.state.retry_at(), None);
        wait(&mut self.lookups, tunnel, entry.lookup.retry_at(), None);
        true
    }

    /// Whether any has ever been open.
    #[must_use]
    pub fn have_served(&self) -> bool {
        self.served
    }

    /// The tunnels that there are, in the order in which they were added.
    pub fn ids(&self) -> impl Iterator<Item = TunnelId> {
        self.entries.keys().copied()
    }

    /// A tunnel's specification.
    #[must_use]
    pub fn spec(&self, tunnel: TunnelId) -> Option<&TunnelSpec> {
        self.entries.get(&tunnel).map(|entry| &entry.spec)
    }

    /// Notes that a tunnel's LocalServer is being looked up, and returns which of those that it has had that is, and its
    /// name. `None` if that is under way already, or the tunnel was closed.
    pub fn begin_lookup(&mut self, tunnel: TunnelId) -> Option<(u32, &str)> {
        self.entries.get(&tunnel).filter(|entry| entry.lookup != LookupState::UnderWay)?;
        self.set_lookup(tunnel, LookupState::UnderWay);
        let entry = &self.entries[&tunnel];
        Some((entry.lookups, &entry.spec.local))
    }

    /// A LocalServer, the tunnel's number `which`, was looked up, without success if there is no address, which a Unix socket never
    /// has. Returns the
    /// addresses to dial, or `None` if the tunnel was closed or has another one meanwhile. Visitors may come now. A
    /// look-up that failed does not make the last addresses wrong, and is made again after `reconnect_max`.
    pub fn on_located(
        &mut self,
        tunnel: TunnelId,
        which: u32,
        addresses: Vec<SocketAddr>,
        now: Instant,
    ) -> Option<&[SocketAddr]> {
        let entry = self.entries.get_mut(&tunnel).filter(|entry| entry.lookups == which)?;
        let lookup = if addresses.is_empty() && LocalAt::of(&entry.spec.local).unix().is_none() {
            entry.locals.get_or_insert_default();
            LookupState::RetryAt(now + self.reconnect_max)
        } else {
            entry.locals = Some(addresses);
            LookupState::Idle
        };
        self.set_lookup(tunnel, lookup);
        self.entries[&tunnel].locals.as_deref()
    }

    /// The tunnels whose LocalServer was never looked up, or is another one since.
    pub fn unlocated(&self) -> impl Iterator<Item = TunnelId> {
        let unknown = |entry: &TunnelEntry| entry.locals.as_ref().is_none_or(Vec::is_empty);
        self.entries.iter().filter(move |(_, entry)| unknown(entry)).map(|(&tunnel, _)| tunnel)
    }

    /// A tunnel whose LocalServer is to be looked up again now.
    #[must_use]
    pub fn due_lookup(&self, now: Instant) -> Option<TunnelId> {
        self.lookups.first().filter(|(at, _)| *at <= now).map(|&(_, tunnel)| tunnel)
    }

    /// When to call [`Tunnels::due_lookup`] again.
    #[must_use]
    pub fn next_lookup(&self) -> Option<Instant> {
        self.lookups.first().map(|&(at, _)| at)
    }

    /// A new session knows no tunnels.
    pub fn on_new_session(&mut self) {
        self.retries.clear();
        for entry in self.entries.values_mut() {
            entry.state = State::Idle;
        }
    }

    /// The next tunnel to register now, noted as asked for.
    // PROTOCOL.md: P-TUN-3.
    pub fn register(&mut self, now: Instant) -> Option<ClientMsg> {
        let due = |entry: &TunnelEntry| match entry.state {
            State::Idle => entry.locals.is_some(),
            State::RetryAt(at) => at <= now,
            State::Asked | State::Open => false,
        };
        let tunnel = self.entries.iter().find(|(_, entry)| due(entry)).map(|(&tunnel, _)| tunnel)?;
        self.set_state(tunnel, State::Asked);
        let entry = &self.entries[&tunnel];
        let spec = &entry.spec;
        let (name, limits) = (spec.name.clone(), spec.limits.clone());
        if let Some(site) = spec.site.clone().map(Box::new) {
            let service = spec.serving.service;
            return Some(ClientMsg::RegisterHost { tunnel, site, service, name, limits });
        }
        let picked = entry.last.filter(|_| spec.public_port == 0);
        let public_port = picked.map_or(spec.public_port, |last| last.port());
        let bind_addr = spec.bind_addr;
        Some(match spec.serving.datagrams {
            None => ClientMsg::RegisterTunnel { tunnel, public_port, bind_addr, name, limits },
            Some(_) => ClientMsg::RegisterUdp { tunnel, public_port, bind_addr, name, limits },
        })
    }

    /// When to call [`Tunnels::register`] again.
    #[must_use]
    pub fn next_registration(&self) -> Option<Instant> {
        self.retries.first().map(|&(at, _)| at)
    }

    fn set_state(&mut self, tunnel: TunnelId, state: State) {
        let entry = self.entries.get_mut(&tunnel).expect("the tunnel is there");
        wait(&mut self.retries, tunnel, replace(&mut entry.state, state).retry_at(), state.retry_at());
    }

    fn set_lookup(&mut self, tunnel: TunnelId, lookup: LookupState) {
        let entry = self.entries.get_mut(&tunnel).expect("the tunnel is there");
        wait(&mut self.lookups, tunnel, replace(&mut entry.lookup, lookup).retry_at(), lookup.retry_at());
    }

    /// A tunnel is reachable.
    ///
    /// # Errors
    /// It was not asked for.
    pub fn on_ready(&mut self, tunnel: TunnelId, public: SocketAddr) -> Result<(), Violation> {
        let Some(entry) = self.asked(tunnel, MessageName::TunnelReady)? else { return Ok(()) };
        entry.retry.reset();
        entry.slow_retry.reset();
        entry.last = Some(public);
        if entry.refused.take().is_some() {
            entry.announced = None;
        }
        self.set_state(tunnel, State::Open);
        self.served = true;
        Ok(())
    }

    /// The next tunnel that is reachable where people have not been told that it is, noted as told.
    pub fn announce(&mut self) -> Option<(TunnelId, SocketAddr)> {
        let is_news = |entry: &TunnelEntry| entry.state == State::Open && entry.announced != entry.last;
        let (&tunnel, entry) = self.entries.iter_mut().find(|(_, entry)| is_news(entry))?;
        entry.announced = entry.last;
        Some((tunnel, entry.last?))
    }

    /// People have been told that nothing works: all tunnels are news when they are reachable again.
    pub fn forget_announced(&mut self) {
        for entry in self.entries.values_mut() {
            entry.announced = None;
        }
    }

    /// Why each tunnel is refused, if none has ever been open and somebody must change something before any of them can
    /// be.
    #[must_use]
    pub fn hopeless(&self) -> Option<Vec<(&TunnelSpec, TunnelRefusal)>> {
        let refused = |entry: &'_ TunnelEntry| entry.refused.filter(|code| code.is_final());
        if self.served || self.entries.is_empty() {
            return None;
        }
        self.entries.values().map(|entry| Some((&entry.spec, refused(entry)?))).collect()
    }

    /// The tunnels that there are, and what was counted of them. Without a session none is open.
    #[must_use]
    pub fn report(
        &self,
        in_session: bool,
        tallies: &BTreeMap<TunnelId, TunnelTally>,
        now: Instant,
    ) -> Vec<TunnelReport> {
        let each = self.entries.iter().map(|(id, entry)| {
            let state = match entry.state {
                State::Open if in_session => TunnelState::Open,
                _ if entry.refused.is_some() => TunnelState::Refused,
                State::Open | State::Idle | State::Asked | State::RetryAt(_) => TunnelState::Opening,
            };
            let mut tunnel = TunnelReport::new(entry.spec.name.clone(), state, entry.spec.public_port);
            let public = entry.last.filter(|_| state == TunnelState::Open);
            tunnel.locate(entry.spec.site.as_ref(), entry.spec.is_udp(), entry.spec.bind_addr, public);
            tunnel.local = Some(entry.spec.local.clone());
            tunnel.refused = entry.refused.map(|code| code.to_string());
            if let Some(tally) = tallies.get(id) {
                tunnel.fill(tally, now);
            }
            tunnel
        });
        each.collect()
    }

    /// A tunnel was not opened. Where the server picked the port last time that port is let go, whatever was wrong with
    /// it. One that was released is asked for again as it was: this client was away for too long.
    ///
    /// The second time that a refusal is told for the same lasting reason it is no news.
    ///
    /// # Errors
    /// It was not asked for.
    // PROTOCOL.md: P-TUN-4, P-RES-8.
    pub fn on_refused(
        &mut self,
        tunnel: TunnelId,
        code: TunnelRefusal,
        now: Instant,
        random: u32,
    ) -> Result<AfterRefusal, Violation> {
        let Some(entry) = self.asked(tunnel, MessageName::TunnelRefused)? else { return Ok(AfterRefusal::Gone) };
        let released = code == TunnelRefusal::Released;
        let picked = entry.spec.public_port == 0 && entry.spec.site.is_none();
        if released || picked && entry.last.take().is_some() {
            self.set_state(tunnel, State::Idle);
            return Ok(AfterRefusal::RetryAtOnce);
        }
        let pause = if code.is_final() { entry.slow_retry.next(random) } else { entry.retry.next(random) };
        let is_news = entry.refused.replace(code) != Some(code) || !code.is_final();
        self.set_state(tunnel, State::RetryAt(now + pause));
        Ok(AfterRefusal::RetryLater { pause, is_news })
    }

    /// The server has closed an open tunnel, which is registered again as one that was refused.
    ///
    /// # Errors
    /// It was not open.
    // PROTOCOL.md: P-TUN-13, P-RES-8.
    pub fn on_closed(
        &mut self,
        tunnel: TunnelId,
        code: TunnelRefusal,
        now: Instant,
        random: u32,
    ) -> Result<AfterRefusal, Violation> {
        let (message, state) = (MessageName::TunnelClosed, StateName::TunnelNotOpen);
        let entry = match self.entries.get_mut(&tunnel) {
            Some(entry) if entry.state == State::Open => entry,
            None if tunnel.0 < self.next => return Ok(AfterRefusal::Gone),
            Some(_) | None => return Err(Violation::Unexpected { message, state }),
        };
        if entry.successor.is_some() {
            self.close(tunnel);
            return Ok(AfterRefusal::Gone);
        }
        if code == TunnelRefusal::Released {
            self.set_state(tunnel, State::Idle);
            return Ok(AfterRefusal::RetryAtOnce);
        }
        let pause = if code.is_final() { entry.slow_retry.next(random) } else { entry.retry.next(random) };
        entry.refused = Some(code);
        self.set_state(tunnel, State::RetryAt(now + pause));
        Ok(AfterRefusal::RetryLater { pause, is_news: true })
    }

    /// The tunnel that the server answers about; `None` if it was closed meanwhile (P-TUN-6).
    fn asked(&mut self, tunnel: TunnelId, message: MessageName) -> Result<Option<&mut TunnelEntry>, Violation> {
        match self.entries.get_mut(&tunnel) {
            Some(entry) if entry.state == State::Asked => Ok(Some(entry)),
            None if tunnel.0 < self.next => Ok(None),
            Some(_) | None => Err(Violation::Unexpected { message, state: StateName::TunnelNotAsked }),
        }
    }

    /// For tests and simulations.
    ///
    /// # Panics
    /// An invariant does not hold.
    pub fn assert_consistent(&self) {
        assert!(self.entries.keys().all(|tunnel| tunnel.0 < self.next), "T1: ids come from the counter");
        let early = |entry: &TunnelEntry| entry.locals.is_none() && entry.state != State::Idle;
        assert!(!self.entries.values().any(early), "T2: a tunnel is registered once its LocalServer was looked up");
        let waits = |at: fn(&TunnelEntry) -> Option<Instant>| {
            self.entries.iter().filter_map(|(&tunnel, entry)| Some((at(entry)?, tunnel))).collect::<BTreeSet<_>>()
        };
        assert_eq!(waits(|entry| entry.state.retry_at()), self.retries, "T6: who waits to be registered is in order");
        assert_eq!(waits(|entry| entry.lookup.retry_at()), self.lookups, "T6: so is who waits to be looked up");
        for (_, entry) in self.entries.iter().filter(|(_, entry)| entry.successor.is_some()) {
            assert_eq!(entry.state, State::Open, "T5: a tunnel that was moved is open");
            let is_there = |successor| self.entries.get(&successor).is_some_and(|entry| entry.successor.is_none());
            assert!(entry.successor.is_some_and(is_there), "T5: a tunnel that was moved has a successor");
        }
    }
}

impl State {
    fn retry_at(self) -> Option<Instant> {
        match self {
            Self::RetryAt(at) => Some(at),
            Self::Idle | Self::Asked | Self::Open => None,
        }
    }
}

impl LookupState {
    fn retry_at(self) -> Option<Instant> {
        match self {
            Self::RetryAt(at) => Some(at),
            Self::Idle | Self::UnderWay => None,
        }
    }
}

/// A tunnel waits until another time.
fn wait(waiting: &mut BTreeSet<(Instant, TunnelId)>, tunnel: TunnelId, from: Option<Instant>, to: Option<Instant>) {
    if let Some(from) = from {
        waiting.remove(&(from, tunnel));
    }
    if let Some(to) = to {
        waiting.insert((to, tunnel));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Serving, TunnelLimits};
    use alloc::vec;
    use core::net::Ipv4Addr;

    fn spec(public_port: u16) -> TunnelSpec {
        TunnelSpec {
            name: "web".into(),
            public_port,
            bind_addr: None,
            site: None,
            local: "localhost:80".into(),
            local_sources: Vec::new(),
            limits: TunnelLimits::default(),
            serving: Serving::default(),
        }
    }

    fn address(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    fn port(msg: Option<ClientMsg>) -> Option<u16> {
        match msg {
            Some(ClientMsg::RegisterTunnel { public_port, .. }) => Some(public_port),
            _ => None,
        }
    }

    const IN_USE: TunnelRefusal = TunnelRefusal::PortInUse;

    /// The longest half of the pause before a tunnel is asked for again, and whether people are told.
    fn refused(tunnels: &mut Tunnels, tunnel: TunnelId, code: TunnelRefusal) -> (f32, bool) {
        match tunnels.on_refused(tunnel, code, Instant::ZERO, 0) {
            Ok(AfterRefusal::RetryLater { pause, is_news }) => (pause.as_secs_f32(), is_news),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn p_res_8_a_tunnel_that_was_released_is_asked_for_again_at_once_with_its_port() {
        let mut tunnels = Tunnels::new(vec![spec(0)], &Timings::default());
        let (id, now, released) = (TunnelId(0), Instant::ZERO, TunnelRefusal::Released);
        assert!(tunnels.on_located(id, 0, vec![address(80)], now).is_some());
        let refused = |tunnels: &mut Tunnels, code| tunnels.on_refused(id, code, now, 0);
        let closed = |tunnels: &mut Tunnels| tunnels.on_closed(id, released, now, 0);
        assert_eq!(port(tunnels.register(now)), Some(0));
        assert_eq!(tunnels.on_ready(id, address(7000)), Ok(()));
        assert_eq!(tunnels.announce(), Some((id, address(7000))));
        let unasked = Violation::Unexpected { message: MessageName::TunnelRefused, state: StateName::TunnelNotAsked };
        assert_eq!(refused(&mut tunnels, released), Err(unasked), "an open one is closed");
        assert_eq!(closed(&mut tunnels), Ok(AfterRefusal::RetryAtOnce));
        let shut = Violation::Unexpected { message: MessageName::TunnelClosed, state: StateName::TunnelNotOpen };
        assert_eq!(closed(&mut tunnels), Err(shut), "once");
        assert_eq!(port(tunnels.register(now)), Some(7000));
        assert_eq!(closed(&mut tunnels), Err(shut), "one that was asked for is refused");
        assert_eq!(refused(&mut tunnels, released), Ok(AfterRefusal::RetryAtOnce));
        assert_eq!(refused(&mut tunnels, released), Err(unasked), "once");
        assert_eq!(port(tunnels.register(now)), Some(7000));
        assert_eq!(tunnels.on_ready(id, address(7000)), Ok(()));
        assert_eq!(tunnels.announce(), None, "people know that address");
        assert!(tunnels.close(id));
        assert_eq!([refused(&mut tunnels, released), closed(&mut tunnels)], [Ok(AfterRefusal::Gone); 2]);
    }

    #[test]
    fn t4_a_refusal_that_lasts_is_said_once_and_asked_about_slowly() {
        let mut tunnels = Tunnels::new(vec![spec(1), spec(2)], &Timings::default());
        let (good, bad, now) = (TunnelId(0), TunnelId(1), Instant::ZERO);
        for id in [good, bad] {
            assert!(tunnels.on_located(id, 0, vec![address(80)], now).is_some());
            assert!(tunnels.register(now).is_some());
        }
        let not_allowed = TunnelRefusal::PortNotAllowed;
        assert_eq!(refused(&mut tunnels, bad, not_allowed), (15.0, true));
        assert_eq!(tunnels.hopeless(), None, "the other one may be served");
        assert_eq!(tunnels.on_ready(good, address(1)), Ok(()));
        assert_eq!(tunnels.announce(), Some((good, address(1))));
        for pause in [30.0, 60.0, 120.0, 150.0, 150.0] {
            let due = tunnels.next_registration().unwrap();
            assert_eq!(port(tunnels.register(due)), Some(2));
            assert_eq!(refused(&mut tunnels, bad, not_allowed), (pause, false));
        }
        tunnels.on_new_session();
        while tunnels.register(now).is_some() {}
        assert_eq!(refused(&mut tunnels, bad, TunnelRefusal::PortDenied), (150.0, true), "another reason");
        assert_eq!(refused_for_good(&mut tunnels, good), None, "it has served");
        tunnels.on_new_session();
        while tunnels.register(now).is_some() {}
        assert_eq!(tunnels.on_ready(bad, address(2)), Ok(()));
        assert_eq!(tunnels.on_ready(good, address(1)), Ok(()));
        let news = [tunnels.announce(), tunnels.announce(), tunnels.announce()];
        assert_eq!(news, [Some((good, address(1))), Some((bad, address(2))), None], "they are back");
    }

    fn refused_for_good(tunnels: &mut Tunnels, tunnel: TunnelId) -> Option<usize> {
        let _pause = refused(tunnels, tunnel, TunnelRefusal::PortNotAllowed);
        tunnels.hopeless().map(|refused| refused.len())
    }

    #[test]
    fn t4_only_where_none_was_ever_served_and_none_can_be_it_is_hopeless() {
        let mut tunnels = Tunnels::new(vec![spec(1), spec(2)], &Timings::default());
        let now = Instant::ZERO;
        assert_eq!(tunnels.hopeless(), None);
        for id in [TunnelId(0), TunnelId(1)] {
            assert!(tunnels.on_located(id, 0, vec![address(80)], now).is_some());
            assert!(tunnels.register(now).is_some());
        }
        assert_eq!(refused_for_good(&mut tunnels, TunnelId(0)), None, "the other was not answered yet");
        assert_eq!(refused(&mut tunnels, TunnelId(1), IN_USE), (0.125, true));
        assert_eq!(tunnels.hopeless(), None, "the other is asked for again soon");
        let due = tunnels.next_registration().unwrap();
        assert_eq!(port(tunnels.register(due)), Some(2));
        assert_eq!(refused_for_good(&mut tunnels, TunnelId(1)), Some(2));
    }

    #[test]
    fn a_picked_port_that_is_refused_is_let_go_before_anything_else() {
        let mut tunnels = Tunnels::new(vec![spec(0)], &Timings::default());
        let (id, now) = (TunnelId(0), Instant::ZERO);
        assert_eq!(tunnels.on_located(id, 0, vec![], now), Some(&[][..]));
        assert_eq!(port(tunnels.register(now)), Some(0));
        assert_eq!(tunnels.on_ready(id, address(7000)), Ok(()));
        assert_eq!(tunnels.announce(), Some((id, address(7000))));
        assert_eq!(tunnels.announce(), None, "once");
        tunnels.on_new_session();
        assert_eq!(port(tunnels.register(now)), Some(7000));
        assert_eq!(tunnels.on_refused(id, IN_USE, now, 0), Ok(AfterRefusal::RetryAtOnce));
        assert_eq!(port(tunnels.register(now)), Some(0));
        assert_eq!(refused(&mut tunnels, id, IN_USE), (0.125, true));
        assert_eq!(port(tunnels.register(now)), None, "not before its pause is over");
    }

    /// P-TUN-15.
    #[test]
    fn t1_an_id_is_never_used_again() {
        let mut tunnels = Tunnels::new(vec![spec(1), spec(2)], &Timings::default());
        assert!(tunnels.close(TunnelId(1)));
        assert!(!tunnels.close(TunnelId(1)), "it is gone");
        assert_eq!(tunnels.add(spec(3)), TunnelId(2));
        assert!(tunnels.close(TunnelId(2)) && tunnels.close(TunnelId(0)));
        assert_eq!(tunnels.add(spec(4)), TunnelId(3), "even if there is no other tunnel");
        assert_eq!(tunnels.ids().collect::<Vec<_>>(), [TunnelId(3)]);
        tunnels.assert_consistent();
    }

    #[test]
    fn t3_answers_about_a_closed_tunnel_are_stale() {
        let mut tunnels = Tunnels::new(vec![spec(1)], &Timings::default());
        let (id, now) = (TunnelId(0), Instant::ZERO);
        let unexpected = |message| Violation::Unexpected { message, state: StateName::TunnelNotAsked };
        let (ready, refused) = (unexpected(MessageName::TunnelReady), unexpected(MessageName::TunnelRefused));
        assert_eq!(tunnels.on_ready(id, address(1)), Err(ready), "not asked for");
        assert!(tunnels.on_located(id, 0, vec![address(80)], now).is_some());
        assert_eq!(port(tunnels.register(now)), Some(1));
        assert!(tunnels.close(id));
        assert_eq!(tunnels.on_ready(id, address(1)), Ok(()));
        assert_eq!(tunnels.announce(), None, "it is gone");
        assert_eq!(tunnels.on_refused(id, IN_USE, now, 0), Ok(AfterRefusal::Gone));
        assert_eq!(tunnels.on_ready(TunnelId(1), address(1)), Err(ready), "never a tunnel");
        assert_eq!(tunnels.on_refused(TunnelId(1), IN_USE, now, 0), Err(refused), "never a tunnel");
    }

    #[test]
    fn t3_a_closed_tunnel_has_no_deadlines() {
        let mut tunnels = Tunnels::new(vec![spec(1)], &Timings::default());
        let (id, now) = (TunnelId(0), Instant::ZERO);
        assert_eq!(tunnels.begin_lookup(id), Some((0, "localhost:80")));
        assert_eq!(tunnels.begin_lookup(id), None, "it is under way");
        assert!(tunnels.on_located(id, 0, vec![], now).is_some());
        assert_eq!(port(tunnels.register(now)), Some(1));
        assert_eq!(refused(&mut tunnels, id, IN_USE), (0.125, true));
        let (lookup, registration) = (tunnels.next_lookup().unwrap(), tunnels.next_registration().unwrap());
        assert!(tunnels.close(id));
        assert_eq!((tunnels.next_lookup(), tunnels.next_registration()), (None, None));
        assert_eq!((tunnels.due_lookup(lookup), tunnels.register(registration)), (None, None));
        assert_eq!(tunnels.begin_lookup(id), None);
        assert_eq!(tunnels.on_located(id, 0, vec![address(80)], now), None);
    }

    #[test]
    fn a_look_up_that_fails_leaves_the_last_addresses() {
        let mut tunnels = Tunnels::new(vec![spec(1)], &Timings::default());
        let (id, now) = (TunnelId(0), Instant::ZERO);
        assert_eq!(tunnels.on_located(id, 0, vec![address(80)], now), Some(&[address(80)][..]));
        assert_eq!(tunnels.on_located(id, 0, vec![], now), Some(&[address(80)][..]));
        assert_eq!(tunnels.due_lookup(now), None);
        let again = tunnels.next_lookup().unwrap();
        assert_eq!(tunnels.due_lookup(again), Some(id));
    }
}
