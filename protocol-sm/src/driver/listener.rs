//! The server's listener: public ports, and the visitors that come to them. In production it shares the main thread's
//! loop with the main driver and the first event loop.
//!
//! Accepts in bounded batches and deals visitors to the event loops: a lone visitor to the first loop, which runs on
//! the same thread, so that no thread must be woken for it; others to the loop that has the fewest. When the process is
//! out of descriptors, the listener pauses: visitors wait in the kernel's backlog, and nothing spins.
//!
//! Public ports are opened a few tries at a time, so that visitors wait for nobody who wants many ([`Binds`]).
//!
//! A public UDP port is bound here, and read by one of the event loops: whoever speaks there is that loop's.
//!
//! Hosts share two ports: a visitor there is a *newcomer* until its first bytes have named one (`newcomers.rs`).
//!
//! A visitor that comes from a trusted proxy waits here until its header has said who it is (`unnamed.rs`).

mod check;
mod deal;
mod held;
mod newcomers;
mod route;
mod sites;
mod unnamed;

use super::inherit::{Given, Owner};
use super::messages::{ControlKey, Former, FromListener, Step, ToListener, ToLoop, ToServerLoop, UdpPort};
use super::slab::{Slab, Token};
use super::sys::{Listen, Log, Readiness, Role};
use super::thread::{Cx, Driver, Tell};
use super::timers::Timers;
use super::totals::Totals;
use super::unnamed::Unnamed;
use crate::binds::Binds;
use crate::canary::{PlantedBug, planted};
use crate::control::server::Place;
use crate::gate::Gate;
use crate::ids::{Registration, TunnelId};
use crate::notes::{Dropped, Note};
use crate::report::{Counted, Counts, ListenerPart};
use crate::sources::Network;
use crate::sys_error::SysError;
use crate::time::Instant;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::convert::Infallible;
use core::net::SocketAddr;
use core::time::Duration;
use deal::Deal;
use held::Held;
pub use held::HeldPort;
use newcomers::{Door, Newcomer, Newcomers};
use route::{Member, Route};
use sites::Sites;
use unnamed::Waiting;

/// Connections accepted on one port before others get their turn.
const BATCH: usize = 64;
/// Tries to open a public port before others get their turn.
const TRIES: usize = 4;
/// How long accepting rests when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module. `T` is a stream, `L` a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listener<T, L> {
    deal: Deal,
    slots: Slab<Slot<T, L>>,
    /// Who may say for whom it speaks.
    trusted: Vec<Network>,
    /// By when those that wait must have said who they are.
    timers: Timers,
    /// Behind which public port a tunnel stands.
    port_of: BTreeMap<(ControlKey, Registration), Token>,
    /// Which tunnel a host leads to.
    sites: Sites,
    newcomers: Newcomers,
    /// Public ports that are to be opened.
    binds: Binds<Bind>,
    /// Those of another process, until their tunnels are registered anew.
    held: Held<L>,
    upgrade: Upgrade,
    /// UDP sockets that event loops have: those of ports that are open, and of some that are being closed.
    shared: usize,
    /// Ports with connections left to accept.
    busy: VecDeque<Token>,
    paused_until: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Slot<T, L> {
    Port(Box<PublicPort<L>>),
    Waiting(Box<Waiting<T>>),
    Door(Door<L>),
    Newcomer(Box<Newcomer<T>>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PublicPort<L> {
    listener: L,
    given: Given,
    route: Route,
    /// Of UDP: the event loop that reads there.
    reader: Option<usize>,
    queued: bool,
}

/// A public port that is to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Bind {
    control: ControlKey,
    owner: Owner,
    registration: Registration,
    at: SocketAddr,
    /// Of its ports those that were not tried yet.
    place: Place,
    gate: Box<Gate>,
    /// It is closed again at once.
    examined: bool,
}

/// Whether another process is about to take the ports over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Upgrade {
    No,
    /// It has copies of the ports: none is opened meanwhile.
    Lent,
    /// The same, but somebody was accepted of whom it is not known yet who it is.
    Pausing,
    /// It is to accept next: nobody is accepted here.
    Paused,
}

impl<T, L> Listener<T, L> {
    /// A listener that deals visitors to `loop_count` event loops, `visitors` at once at most. Those that come from
    /// `trusted` say who they are.
    #[must_use]
    pub fn new(loop_count: usize, visitors: u32, trusted: Vec<Network>) -> Self {
        Self {
            deal: Deal::new(loop_count, visitors),
            slots: Slab::default(),
            trusted,
            timers: Timers::default(),
            port_of: BTreeMap::new(),
            sites: Sites::default(),
            newcomers: Newcomers::default(),
            binds: Binds::default(),
            held: Held::default(),
            upgrade: Upgrade::No,
            shared: 0,
            busy: VecDeque::new(),
            paused_until: None,
        }
    }

    /// Visitors that came and were dropped at once.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.deal.totals
    }

    /// Visitors that it turned away because of their source address or their rate: they are not among the totals.
    #[must_use]
    pub fn turned_away(&self) -> Counts<Dropped> {
        self.deal.turned_away
    }

    /// Public ports that are open.
    #[must_use]
    pub fn ports(&self) -> usize {
        self.public_ports().count()
    }

    /// Sockets of visitors that it owns.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.timers.len()
    }

    fn public_ports(&self) -> impl Iterator<Item = (Token, &PublicPort<L>)> {
        self.slots.iter().filter_map(|(token, slot)| match slot {
            Slot::Port(port) => Some((token, &**port)),
            Slot::Waiting(_) | Slot::Door(_) | Slot::Newcomer(_) => None,
        })
    }

    fn public_port(&mut self, token: Token) -> Option<&mut PublicPort<L>> {
        match self.slots.get_mut(token)? {
            Slot::Port(port) => Some(port),
            Slot::Waiting(_) | Slot::Door(_) | Slot::Newcomer(_) => None,
        }
    }

    /// Public ports that another process has left, and that wait for their tunnels.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Opens what is to be opened, a bounded number of tries at a time.
    fn open_ports<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>> + Tell<FromListener>,
    {
        for _ in 0..TRIES {
            if self.upgrade != Upgrade::No {
                return;
            }
            let Some((holder, mut bind)) = self.binds.next(cx.now) else { return };
            let (bound, more) = match &mut bind.place {
                Place::Ports(ports) => {
                    let port = ports.pop_front().expect("a port to try");
                    let more = !ports.is_empty();
                    (self.open(cx, &bind, port), more)
                }
                Place::Udp(ports) => {
                    let port = ports.pop_front().expect("a port to try");
                    let bound =
                        if bind.examined { self.try_udp(cx.sys, &bind, port) } else { self.open_udp(cx, &bind, port) };
                    // Perhaps a loop is about to close it.
                    if bound == Err(SysError::InUse)
                        && self.shared > self.readers().count()
                        && let Place::Udp(ports) = &mut bind.place
                    {
                        ports.push_back(port);
                    }
                    let more = matches!(&bind.place, Place::Udp(ports) if !ports.is_empty());
                    (bound, more)
                }
                Place::Site(site) => {
                    let site = site.clone();
                    (self.lead(cx, &bind, site), false)
                }
            };
            let Bind { control, registration, examined, .. } = bind;
            // PROTOCOL.md: P-EXAM-2. Before anybody else has a turn here: no other registration finds it taken, and no
            // visitor is accepted.
            if examined && bound.is_ok() && !planted(PlantedBug::ExaminedKept) {
                self.close(cx.sys, control, registration);
            }
            match bound {
                // Another one may be free.
                Err(SysError::InUse | SysError::Denied) if more => self.binds.push(holder, bind),
                bound => cx.sys.tell(FromListener::Bound { control, registration, bound }),
            }
        }
    }

    fn open<S>(&mut self, cx: &mut Cx<'_, S>, bind: &Bind, port: u16) -> Result<SocketAddr, SysError>
    where
        S: Listen<Listener = L>,
    {
        let &Bind { control, registration, ref owner, mut at, ref gate, .. } = bind;
        at.set_port(port);
        let Self { slots, held, .. } = self;
        let mut real = None;
        let token = slots.insert_with(|token| {
            let (listener, address) = held.listen(cx.sys, at, owner, token)?;
            real = Some(address);
            let route =
                Route::to(Member { control, registration, gate: (**gate).clone(), turned_away: Counted::default() });
            let given = Given::Public { udp: false, port: address.port(), owner: owner.clone() };
            Ok(Slot::Port(Box::new(PublicPort { listener, given, route, reader: None, queued: false })))
        })?;
        self.port_of.insert((control, registration), token);
        Ok(real.expect("listen returned an address"))
    }

    /// Opens a UDP port, and gives it to the event loop that has the fewest.
    fn open_udp<S>(&mut self, cx: &mut Cx<'_, S>, bind: &Bind, port: u16) -> Result<SocketAddr, SysError>
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let &Bind { control, registration, ref owner, mut at, ref gate, .. } = bind;
        at.set_port(port);
        let (listener, public) = self.held.bind_udp(cx.sys, at, owner)?;
        let socket = match cx.sys.share(&listener) {
            Ok(socket) => socket,
            Err(error) => {
                cx.sys.unlisten(listener);
                return Err(error);
            }
        };
        let reads = |loop_index: &usize| self.readers().filter(|reader| reader == loop_index).count();
        let loop_index = (0..self.deal.loop_count()).min_by_key(reads).expect("there are event loops");
        let tunnel = registration.tunnel;
        let member = Member { control, registration, gate: (**gate).clone(), turned_away: Counted::default() };
        let given = Given::Public { udp: true, port: public.port(), owner: owner.clone() };
        let (route, reader) = (Route::to(member), Some(loop_index));
        let Ok::<_, Infallible>(token) = self
            .slots
            .insert_with(|_| Ok(Slot::Port(Box::new(PublicPort { listener, given, route, reader, queued: false }))));
        self.port_of.insert((control, registration), token);
        self.shared += 1;
        let port = UdpPort { control, tunnel, socket, public, gate: gate.clone(), trusted: self.trusted.clone() };
        cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Port(port) });
        Ok(public)
    }

    /// Whether a UDP port could be opened.
    fn try_udp<S>(&mut self, sys: &mut S, bind: &Bind, port: u16) -> Result<SocketAddr, SysError>
    where
        S: Listen<Listener = L>,
    {
        let at = SocketAddr::new(bind.at.ip(), port);
        let (listener, public) = self.held.bind_udp(sys, at, &bind.owner)?;
        sys.unlisten(listener);
        Ok(public)
    }

    /// The event loop of each UDP port that is open.
    fn readers(&self) -> impl Iterator<Item = usize> {
        self.public_ports().filter_map(|(_, port)| port.reader)
    }

    /// Closes a tunnel's public port, unless another tunnel stands behind it, too.
    fn close<S>(&mut self, sys: &mut S, control: ControlKey, registration: Registration)
    where
        S: Listen<Stream = T, Listener = L>,
    {
        self.sites.remove(control, registration);
        if let Some(token) = self.port_of.remove(&(control, registration))
            && let Some(port) = self.public_port(token)
            && port.route.remove(control, registration)
        {
            self.close_port(sys, token);
        }
    }

    /// Closes a public port. Whoever has not said yet who it is goes with it.
    fn close_port<S>(&mut self, sys: &mut S, token: Token)
    where
        S: Listen<Stream = T, Listener = L>,
    {
        if let Some(Slot::Port(port)) = self.slots.remove(token) {
            sys.unlisten(port.listener);
        }
        self.forget_waiting(sys, token);
    }

    /// Closes all public ports of a session. Whether there were any.
    fn close_all<S>(&mut self, sys: &mut S, control: ControlKey) -> bool
    where
        S: Listen<Stream = T, Listener = L>,
    {
        self.binds.remove(|bind| bind.control == control);
        let first = Registration { tunnel: TunnelId(0), serial: 0 };
        let of_session = self.port_of.range((control, first)..);
        let of_session = of_session.map(|(&key, _)| key).take_while(|&(of, _)| of == control);
        let open: Vec<_> = of_session.map(|(_, registration)| registration).chain(self.sites.of(control)).collect();
        for &registration in &open {
            self.close(sys, control, registration);
        }
        !open.is_empty()
    }

    /// Leads an open public port to another session's tunnel. The event loops are told by the way that visitors take, so
    /// that whoever came before waits there already.
    // PROTOCOL.md: P-TAKE-2.
    fn hand_over<S>(
        &mut self,
        cx: &mut Cx<'_, S>,
        former: Former,
        control: ControlKey,
        registration: Registration,
        gate: Gate,
    ) where
        S: Listen<Stream = T, Listener = L> + Tell<ToLoop<ToServerLoop<T>>> + Tell<FromListener>,
    {
        let from = (former.control, former.registration);
        let member = Member { control, registration, gate, turned_away: Counted::default() };
        if let Some(token) = self.port_of.remove(&from) {
            self.port_of.insert((control, registration), token);
            self.public_port(token).expect("it is open").route.pass_on(from, member);
        } else {
            self.sites.pass_on(from, member);
        }
        let (from, to) = ((from.0, from.1.tunnel), (control, registration.tunnel));
        let admit = self.gate_of_reader(control, registration);
        for loop_index in 0..self.deal.loop_count() {
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::HandOver { from, to } });
        }
        admit.into_iter().for_each(|admit| cx.sys.tell(admit));
        cx.sys.tell(FromListener::Bound { control, registration, bound: Ok(former.public) });
    }

    /// Who may visit a tunnel is changed. One whose port could not be opened is gone.
    fn admit<S>(&mut self, sys: &mut S, control: ControlKey, registration: Registration, mut gate: Box<Gate>)
    where
        S: Tell<ToLoop<ToServerLoop<T>>>,
    {
        let is_it = |bind: &Bind| (bind.control, bind.registration) == (control, registration);
        let at = self.port_of.get(&(control, registration)).copied();
        let member = match at.and_then(|token| self.slots.get_mut(token)) {
            Some(Slot::Port(port)) => port.route.member(control, registration),
            _ => self.sites.member(control, registration),
        };
        if let Some(member) = member {
            gate.follow(&mut member.gate);
            member.gate = *gate;
        } else if let Some(bind) = self.binds.iter_mut().find(|bind| is_it(bind)) {
            bind.gate = gate;
        }
        self.gate_of_reader(control, registration).into_iter().for_each(|admit| sys.tell(admit));
    }

    /// Visitors from these networks say who they are from now on.
    // PROTOCOL.md: P-FRONT-1.
    fn trust<S: Tell<ToLoop<ToServerLoop<T>>>>(&mut self, sys: &mut S, trusted: Vec<Network>) {
        let readers: BTreeSet<_> = self.readers().collect();
        for loop_index in readers {
            sys.tell(ToLoop { loop_index, message: ToServerLoop::Trust(trusted.clone()) });
        }
        self.trusted = trusted;
    }

    /// What to tell the event loop of a UDP tunnel: who may visit it.
    fn gate_of_reader(&mut self, control: ControlKey, registration: Registration) -> Option<ToLoop<ToServerLoop<T>>> {
        let token = *self.port_of.get(&(control, registration))?;
        let port = self.public_port(token)?;
        let loop_index = port.reader?;
        let gate = Box::new(port.route.member(control, registration)?.gate.clone());
        Some(ToLoop { loop_index, message: ToServerLoop::Admit { control, tunnel: registration.tunnel, gate } })
    }

    /// Nobody is accepted now.
    fn rests(&self) -> bool {
        self.paused_until.is_some() || matches!(self.upgrade, Upgrade::Pausing | Upgrade::Paused)
    }

    /// Public ports that another process has left, each under the address where it listens. `until`: so long they wait
    /// for their tunnels.
    // PROTOCOL.md: P-LEAVE-5.
    pub fn hold(&mut self, held: Vec<HeldPort<L>>, until: Instant) {
        self.held = Held::new(held, until);
        self.await_hosts(until);
    }

    fn on_upgrade<S>(&mut self, cx: &mut Cx<'_, S>, step: Step)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>> + Tell<FromListener>,
    {
        match step {
            Step::Lend => {
                self.upgrade = Upgrade::Lent;
                self.public_ports().for_each(|(_, port)| cx.sys.lend(&port.listener, &port.given));
                let count = self.ports() + self.lend_doors(cx.sys) + self.held.lend(cx.sys);
                cx.sys.tell(FromListener::Lent { count });
            }
            Step::Settle => {
                self.upgrade = Upgrade::Pausing;
                self.settle(cx);
            }
            Step::Leave => {
                self.binds.remove(|_| true);
                self.port_of.clear();
                for token in self.public_ports().map(|(token, _)| token).collect::<Vec<_>>() {
                    self.close_port(cx.sys, token);
                }
                self.close_doors(cx);
                self.held.close(cx.sys);
            }
            Step::GoOn => self.upgrade = Upgrade::No,
        }
    }

    /// Tells the loops that nobody comes any more, by the way that visitors take: behind the last of them.
    fn settle<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLoop<ToServerLoop<T>>>,
    {
        if self.upgrade == Upgrade::Pausing && self.waiting() == 0 && !self.has_come_just_now(cx.now) {
            self.upgrade = Upgrade::Paused;
            for loop_index in 0..self.deal.loop_count() {
                cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Settle });
            }
        }
    }

    /// Told by the way that visitors take, so that it arrives after the last of them, which would be left waiting
    /// otherwise.
    fn tell_closed<S>(&self, sys: &mut S, control: ControlKey, tunnel: Option<TunnelId>)
    where
        S: Listen + Tell<ToLoop<ToServerLoop<S::Stream>>>,
    {
        for loop_index in 0..self.deal.loop_count() {
            sys.tell(ToLoop { loop_index, message: ToServerLoop::CloseTunnel { control, tunnel } });
        }
    }

    /// Whether what listens there waits for its turn.
    fn queued(&mut self, token: Token) -> Option<&mut bool> {
        match self.slots.get_mut(token)? {
            Slot::Port(port) => Some(&mut port.queued),
            Slot::Door(door) => Some(&mut door.queued),
            Slot::Waiting(_) | Slot::Newcomer(_) => None,
        }
    }

    fn enqueue(&mut self, token: Token) {
        if let Some(queued) = self.queued(token)
            && !*queued
        {
            *queued = true;
            self.busy.push_back(token);
        }
    }

    fn accept<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        if let Some(Slot::Door(_)) = self.slots.get(token) {
            let end = self.accept_newcomers(cx, token);
            return self.on_batch(cx, token, end);
        }
        let Self { slots, deal, trusted, .. } = self;
        let Some(Slot::Port(port)) = slots.get_mut(token) else { return };
        let PublicPort { listener, route, .. } = &mut **port;
        let now = cx.now;
        let mut unnamed = Vec::new();
        let end = accept_batch(cx.sys, listener, Role::Public, |sys, stream, from| {
            // PROTOCOL.md: P-FRONT-1.
            if trusted.iter().any(|network| network.contains(from.ip())) {
                unnamed.push(Unnamed::new(stream, from, now));
            } else {
                deal.visitor(sys, now, route.resolve(), stream, from.into(), Vec::new());
            }
        });
        for unnamed in unnamed {
            self.wait_for_name(cx, token, unnamed);
        }
        self.keep_within(cx);
        self.on_batch(cx, token, end);
    }

    /// Some have been accepted. `Ok(true)`: more may wait.
    fn on_batch<S: Log>(&mut self, cx: &mut Cx<'_, S>, token: Token, end: Result<bool, SysError>) {
        match end {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => {
                cx.sys.note(Note::CannotAccept { error });
                self.paused_until = Some(cx.now + PAUSE);
            }
        }
        self.enqueue(token);
    }
}

impl<T, L, S> Driver<S> for Listener<T, L>
where
    S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>> + Tell<FromListener>,
{
    type Message = ToListener<T>;

    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: ToListener<T>) {
        match message {
            ToListener::Bind { control, holder, owner, registration, at, place, gate, examined } => {
                self.binds.push(holder, Bind { control, owner, registration, at, place, gate, examined });
            }
            ToListener::HandOver { former, control, registration, gate } => {
                self.hand_over(cx, former, control, registration, *gate);
            }
            ToListener::Visitor { web, stream, who, came } => self.on_passed(cx, web, stream, who, came),
            ToListener::Upgrade(step) => self.on_upgrade(cx, step),
            ToListener::KeepTo(timings, routing) => {
                cx.sys.keep_to(&timings);
                self.change_routing(cx, *routing);
            }
            ToListener::Trust(trusted) => self.trust(cx.sys, trusted),
            ToListener::Challenge { newcomer, answer } => self.on_challenge(cx, newcomer, answer),
            ToListener::Admit { control, registration, gate } => self.admit(cx.sys, control, registration, gate),
            ToListener::PortClosed => self.shared -= 1,
            ToListener::Report => {
                let members = self.public_ports().flat_map(|(_, port)| port.route.members());
                let members = members.chain(self.sites.members());
                let tunnels =
                    members.map(|member| (member.control, member.registration.tunnel, *member.turned_away)).collect();
                let (dropped, turned_away) = (*self.deal.dropped, self.deal.turned_away);
                let (unrouted, not_routed) = (self.newcomers.len() as u64, self.newcomers.refused());
                let part = ListenerPart { dropped, turned_away, unrouted, not_routed, tunnels };
                cx.sys.tell(FromListener::Report(Box::new(part)));
            }
            ToListener::Moved { from, to } => self.deal.moved(from, to),
            ToListener::Left { loop_index, guest } => self.deal.left(loop_index, guest),
            ToListener::Close { control, registration } => {
                self.close(cx.sys, control, registration);
                self.tell_closed(cx.sys, control, Some(registration.tunnel));
            }
            ToListener::CloseAll { control } => {
                if self.close_all(cx.sys, control) {
                    self.tell_closed(cx.sys, control, None);
                }
            }
            ToListener::Retire { control } => {
                self.close_all(cx.sys, control);
                for loop_index in 0..self.deal.loop_count() {
                    cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Retire { control } });
                }
            }
        }
    }

    fn on_ready(&mut self, cx: &mut Cx<'_, S>, token: Token, ready: Readiness) {
        if let Some(Slot::Newcomer(newcomer)) = self.slots.get_mut(token) {
            newcomer.on_ready(ready);
            self.hear_newcomer(cx, token);
        } else if matches!(self.slots.get(token), Some(Slot::Waiting(_))) {
            self.hear(cx, token);
        } else if self.rests() {
            self.enqueue(token);
        } else {
            self.accept(cx, token);
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_, S>) {
        if self.paused_until.is_some_and(|at| at <= cx.now) {
            self.paused_until = None;
        }
        self.held.on_deadline(cx.now, cx.sys);
        while let Some(token) = self.timers.pop_due(cx.now) {
            self.on_waited(cx, token, Dropped::NoHeader);
        }
        while let Some(token) = self.newcomers.timers.pop_due(cx.now) {
            self.on_timeout(cx, token);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let binds = self.binds.next_deadline().filter(|_| self.upgrade == Upgrade::No);
        let newcomers = self.newcomers.timers.next();
        let waiting = self.timers.next();
        [self.paused_until, binds, self.held.next_deadline(), waiting, newcomers].into_iter().flatten().min()
    }

    fn run_busy(&mut self, cx: &mut Cx<'_, S>) {
        self.open_ports(cx);
        for _ in 0..self.busy.len() {
            if self.rests() {
                return;
            }
            let Some(token) = self.busy.pop_front() else { return };
            if let Some(queued) = self.queued(token) {
                *queued = false;
                self.accept(cx, token);
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.binds.is_due() && self.upgrade == Upgrade::No || !self.rests() && !self.busy.is_empty()
    }
}

/// Accepts up to [`BATCH`] connections. `Ok(true)`: more may wait. `Err`: the system has no room for more now.
pub(crate) fn accept_batch<S: Listen>(
    sys: &mut S,
    listener: &S::Listener,
    role: Role,
    mut take: impl FnMut(&mut S, S::Stream, SocketAddr),
) -> Result<bool, SysError> {
    for _ in 0..BATCH {
        match sys.accept(listener, role) {
            Ok((stream, from)) => take(sys, stream, from),
            Err(SysError::WouldBlock) => return Ok(false),
            // It went away while it waited.
            Err(SysError::Reset) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
