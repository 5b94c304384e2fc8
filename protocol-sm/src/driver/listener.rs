//! The server's listener: public ports, and the visitors that come to them. In production it shares the main thread's
//! loop with the main driver and the first event loop.
//!
//! Accepts in bounded batches and deals visitors to the event loops: a lone visitor to the first loop, which runs on
//! the same thread, so that no thread must be woken for it; others to the loop that has the fewest. When the process is
//! out of descriptors, the listener pauses: visitors wait in the kernel's backlog, and nothing spins.
//!
//! Hosts share two ports: a visitor there is a *newcomer* until its first bytes have named one (`newcomers.rs`).
//!
//! Public ports are opened a few tries at a time, so that visitors wait for nobody who wants many ([`Binds`]).

mod check;
mod deal;
mod held;
mod newcomers;
mod route;
mod sites;

use super::inherit::{Given, Owner};
use super::messages::{ControlKey, Former, FromListener, Step, ToListener, ToLoop, ToServerLoop};
use super::slab::{Slab, Token};
use super::sys::{Listen, Log, Readiness, Role};
use super::thread::{Cx, Driver, Tell};
use super::totals::Totals;
use crate::binds::Binds;
use crate::control::server::Place;
use crate::gate::Gate;
use crate::ids::{Registration, TunnelId};
use crate::notes::{Dropped, Note};
use crate::report::{Counted, Counts, ListenerPart};
use crate::sys_error::SysError;
use crate::time::Instant;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use deal::Deal;
use held::Held;
use newcomers::{Door, Newcomer, Newcomers};
use route::{Member, Route};
use sites::Sites;

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
    /// Ports with connections left to accept.
    busy: VecDeque<Token>,
    paused_until: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Slot<T, L> {
    Port(PublicPort<L>),
    Door(Door<L>),
    Newcomer(Box<Newcomer<T>>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PublicPort<L> {
    listener: L,
    given: Given,
    route: Route,
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
}

/// Whether another process is about to take the ports over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Upgrade {
    No,
    /// It has copies of the ports: none is opened meanwhile.
    Lent,
    /// It is to accept next: nobody is accepted here.
    Paused,
}

impl<T, L> Listener<T, L> {
    /// A listener that deals visitors to `loop_count` event loops, `visitors` at once at most.
    #[must_use]
    pub fn new(loop_count: usize, visitors: u32) -> Self {
        Self {
            deal: Deal::new(loop_count, visitors),
            slots: Slab::default(),
            port_of: BTreeMap::new(),
            sites: Sites::default(),
            newcomers: Newcomers::default(),
            binds: Binds::default(),
            held: Held::default(),
            upgrade: Upgrade::No,
            busy: VecDeque::new(),
            paused_until: None,
        }
    }

    /// Visitors that came and were dropped at once.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.deal.totals()
    }

    /// Visitors that it turned away because of their source address or their rate: they are not among the totals.
    #[must_use]
    pub fn turned_away(&self) -> Counts<Dropped> {
        self.deal.turned_away()
    }

    /// Public ports that are open.
    #[must_use]
    pub fn ports(&self) -> usize {
        self.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Port(_))).count()
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
                Place::Site(site) => {
                    let site = site.clone();
                    (self.lead(cx, &bind, site), false)
                }
            };
            let Bind { control, registration, .. } = bind;
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
            let given = Given::Public { port: address.port(), owner: owner.clone() };
            Ok(Slot::Port(PublicPort { listener, given, route, queued: false }))
        })?;
        self.port_of.insert((control, registration), token);
        Ok(real.expect("listen returned an address"))
    }

    /// Closes a tunnel's public port, unless another tunnel stands behind it, too.
    fn close<S>(&mut self, sys: &mut S, control: ControlKey, registration: Registration)
    where
        S: Listen<Listener = L>,
    {
        self.sites.remove(control, registration);
        if let Some(token) = self.port_of.remove(&(control, registration))
            && let Some(port) = self.port(token)
            && port.route.remove(control, registration)
            && let Some(Slot::Port(port)) = self.slots.remove(token)
        {
            sys.unlisten(port.listener);
        }
    }

    /// Closes all public ports of a session. Whether there were any.
    fn close_all<S>(&mut self, sys: &mut S, control: ControlKey) -> bool
    where
        S: Listen<Listener = L>,
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
        S: Tell<ToLoop<ToServerLoop<T>>> + Tell<FromListener>,
    {
        let from = (former.control, former.registration);
        let member = Member { control, registration, gate, turned_away: Counted::default() };
        if let Some(token) = self.port_of.remove(&from) {
            self.port_of.insert((control, registration), token);
            self.port(token).expect("it is open").route.pass_on(from, member);
        } else {
            self.sites.pass_on(from, member);
        }
        let (from, to) = ((from.0, from.1.tunnel), (control, registration.tunnel));
        for loop_index in 0..self.deal.loop_count() {
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::HandOver { from, to } });
        }
        cx.sys.tell(FromListener::Bound { control, registration, bound: Ok(former.public) });
    }

    /// Who may visit a tunnel is changed. One whose port could not be opened is gone.
    fn admit(&mut self, control: ControlKey, registration: Registration, mut gate: Box<Gate>) {
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
    }

    /// Nobody is accepted now.
    fn rests(&self) -> bool {
        self.paused_until.is_some() || self.upgrade == Upgrade::Paused
    }

    /// Public ports that another process has left, each under the address where it listens. `until`: so long they wait
    /// for their tunnels.
    // PROTOCOL.md: P-LEAVE-5.
    pub fn hold(&mut self, held: Vec<(SocketAddr, Owner, L)>, until: Instant) {
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
                let mut count = self.held.lend(cx.sys);
                for (_, slot) in self.slots.iter() {
                    let (listener, given) = match slot {
                        Slot::Port(port) => (&port.listener, &port.given),
                        Slot::Door(door) => (&door.listener, door.given()),
                        Slot::Newcomer(_) => continue,
                    };
                    cx.sys.lend(listener, given);
                    count += 1;
                }
                cx.sys.tell(FromListener::Lent { count });
            }
            Step::Settle => {
                self.upgrade = Upgrade::Paused;
                self.newcomers.settling = true;
                self.settle_if_routed(cx);
            }
            Step::Leave => {
                self.binds.remove(|_| true);
                self.port_of.clear();
                for token in self.slots.keys().collect::<Vec<_>>() {
                    if self.port(token).is_some()
                        && let Some(Slot::Port(port)) = self.slots.remove(token)
                    {
                        cx.sys.unlisten(port.listener);
                    }
                }
                self.close_doors(cx);
                self.held.close(cx.sys);
            }
            Step::GoOn => {
                self.upgrade = Upgrade::No;
                self.newcomers.settling = false;
            }
        }
    }

    /// Told by the way that visitors take, so that it arrives after the last of them, which would be left waiting
    /// otherwise.
    fn tell_closed<S>(&self, sys: &mut S, control: ControlKey, tunnel: Option<TunnelId>)
    where
        S: Tell<ToLoop<ToServerLoop<T>>>,
    {
        for loop_index in 0..self.deal.loop_count() {
            sys.tell(ToLoop { loop_index, message: ToServerLoop::CloseTunnel { control, tunnel } });
        }
    }

    /// A public port of one tunnel.
    fn port(&mut self, token: Token) -> Option<&mut PublicPort<L>> {
        match self.slots.get_mut(token) {
            Some(Slot::Port(port)) => Some(port),
            Some(Slot::Door(_) | Slot::Newcomer(_)) | None => None,
        }
    }

    /// Whether what listens there waits for its turn.
    fn queued(&mut self, token: Token) -> Option<&mut bool> {
        match self.slots.get_mut(token)? {
            Slot::Port(port) => Some(&mut port.queued),
            Slot::Door(door) => Some(&mut door.queued),
            Slot::Newcomer(_) => None,
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
        let Self { slots, deal, .. } = self;
        let now = cx.now;
        let end = match slots.get_mut(token) {
            Some(Slot::Port(PublicPort { listener, route, .. })) => {
                accept_batch(cx.sys, listener, Role::Public, |sys, stream, from| {
                    deal.visitor(sys, now, route.resolve(), stream, from, Vec::new());
                })
            }
            Some(Slot::Door(_)) => self.accept_newcomers(cx, token),
            Some(Slot::Newcomer(_)) | None => return,
        };
        self.keep_within(cx);
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
    type Message = ToListener;

    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: ToListener) {
        match message {
            ToListener::Bind { control, holder, owner, registration, at, place, gate } => {
                self.binds.push(holder, Bind { control, owner, registration, at, place, gate });
            }
            ToListener::HandOver { former, control, registration, gate } => {
                self.hand_over(cx, former, control, registration, *gate);
            }
            ToListener::Upgrade(step) => self.on_upgrade(cx, step),
            ToListener::KeepTo(timings, routing) => {
                cx.sys.keep_to(&timings);
                self.change_routing(cx, *routing);
            }
            ToListener::Admit { control, registration, gate } => self.admit(control, registration, gate),
            ToListener::Report => {
                let of_ports = self.slots.iter().filter_map(|(_, slot)| match slot {
                    Slot::Port(port) => Some(port.route.members()),
                    Slot::Door(_) | Slot::Newcomer(_) => None,
                });
                let members = of_ports.flatten().chain(self.sites.members());
                let tunnels =
                    members.map(|member| (member.control, member.registration.tunnel, *member.turned_away)).collect();
                let part = ListenerPart {
                    dropped: self.deal.dropped(),
                    turned_away: self.deal.turned_away(),
                    unrouted: self.newcomers.len() as u64,
                    not_routed: self.newcomers.refused(),
                    tunnels,
                };
                cx.sys.tell(FromListener::Report(Box::new(part)));
            }
            ToListener::Moved { from, to } => {
                self.deal.on_moved(from, to);
            }
            ToListener::Left { loop_index, guest } => {
                self.deal.on_left(loop_index, guest);
            }
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
        while let Some(token) = self.newcomers.timers.pop_due(cx.now) {
            self.on_timeout(cx, token);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let binds = self.binds.next_deadline().filter(|_| self.upgrade == Upgrade::No);
        let newcomers = self.newcomers.timers.next();
        [self.paused_until, binds, self.held.next_deadline(), newcomers].into_iter().flatten().min()
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
