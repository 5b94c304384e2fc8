//! The server's listener: public ports, and the visitors that come to them. In production it shares the main thread's
//! loop with the main driver and the first event loop.
//!
//! Accepts in bounded batches and deals visitors to the event loops: a lone visitor to the first loop, which runs on
//! the same thread, so that no thread must be woken for it; others to the loop that has the fewest. When the process is
//! out of descriptors, the listener pauses: visitors wait in the kernel's backlog, and nothing spins.
//!
//! Public ports are opened a few tries at a time, so that visitors wait for nobody who wants many ([`Binds`]).

mod check;
mod held;
mod route;

use super::inherit::{Given, Owner};
use super::messages::{Arrival, ControlKey, Former, FromListener, Step, ToListener, ToLoop, ToServerLoop};
use super::slab::{Slab, Token};
use super::sys::{Listen, Log, Readiness, Role};
use super::thread::{Cx, Driver, Tell};
use super::totals::Totals;
use crate::binds::Binds;
use crate::crowd::{Crowd, Guest};
use crate::gate::Gate;
use crate::ids::{Registration, TunnelId};
use crate::notes::{Dropped, Note};
use crate::report::{Counted, Counts, ListenerPart};
use crate::sources::Source;
use crate::sys_error::SysError;
use crate::time::Instant;
use crate::visit::Begun;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use held::Held;
use route::{Member, Route};

/// Connections accepted on one port before others get their turn.
const BATCH: usize = 64;
/// Tries to open a public port before others get their turn.
const TRIES: usize = 4;
/// How long accepting rests when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module. `L` is a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listener<L> {
    /// Visitors that each event loop has.
    loads: Vec<u32>,
    crowd: Crowd,
    ports: Slab<PublicPort<L>>,
    /// Behind which public port a tunnel stands.
    port_of: BTreeMap<(ControlKey, Registration), Token>,
    /// Public ports that are to be opened.
    binds: Binds<Bind>,
    /// Those of another process, until their tunnels are registered anew.
    held: Held<L>,
    upgrade: Upgrade,
    /// Ports with connections left to accept.
    busy: VecDeque<Token>,
    paused_until: Option<Instant>,
    totals: Totals,
    /// What became of those among `totals`.
    dropped: Counted<Counts<Dropped>>,
    turned_away: Counts<Dropped>,
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
    /// Ports that were not tried yet.
    ports: VecDeque<u16>,
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

impl<L> Listener<L> {
    /// A listener that deals visitors to `loop_count` event loops, `visitors` at once at most.
    #[must_use]
    pub fn new(loop_count: usize, visitors: u32) -> Self {
        Self {
            loads: vec![0; loop_count],
            crowd: Crowd::new(visitors),
            ports: Slab::default(),
            port_of: BTreeMap::new(),
            binds: Binds::default(),
            held: Held::default(),
            upgrade: Upgrade::No,
            busy: VecDeque::new(),
            paused_until: None,
            totals: Totals::default(),
            dropped: Counted::default(),
            turned_away: Counts::default(),
        }
    }

    /// Visitors that came and were dropped at once.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Visitors that it turned away because of their source address or their rate: they are not among the totals.
    #[must_use]
    pub fn turned_away(&self) -> Counts<Dropped> {
        self.turned_away
    }

    /// Public ports that are open.
    #[must_use]
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Public ports that another process has left, and that wait for their tunnels.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Opens what is to be opened, a bounded number of tries at a time.
    fn open_ports<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Listen<Listener = L> + Tell<FromListener>,
    {
        for _ in 0..TRIES {
            if self.upgrade != Upgrade::No {
                return;
            }
            let Some((holder, mut bind)) = self.binds.next(cx.now) else { return };
            let port = bind.ports.pop_front().expect("a port to try");
            let bound = self.open(cx, &bind, port);
            let Bind { control, registration, .. } = bind;
            match bound {
                // Another one may be free.
                Err(SysError::InUse | SysError::Denied) if !bind.ports.is_empty() => self.binds.push(holder, bind),
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
        let Self { ports, held, .. } = self;
        let mut real = None;
        let token = ports.insert_with(|token| {
            let (listener, address) = held.listen(cx.sys, at, owner, token)?;
            real = Some(address);
            let route =
                Route::to(Member { control, registration, gate: (**gate).clone(), turned_away: Counted::default() });
            let given = Given::Public { port: address.port(), owner: owner.clone() };
            Ok(PublicPort { listener, given, route, queued: false })
        })?;
        self.port_of.insert((control, registration), token);
        Ok(real.expect("listen returned an address"))
    }

    /// Closes a tunnel's public port, unless another tunnel stands behind it, too.
    fn close<S>(&mut self, sys: &mut S, control: ControlKey, registration: Registration)
    where
        S: Listen<Listener = L>,
    {
        if let Some(token) = self.port_of.remove(&(control, registration))
            && let Some(port) = self.ports.get_mut(token)
            && port.route.remove(control, registration)
            && let Some(port) = self.ports.remove(token)
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
        let open: Vec<_> = of_session.collect();
        for &(_, registration) in &open {
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
        S: Listen<Listener = L> + Tell<ToLoop<ToServerLoop<S::Stream>>> + Tell<FromListener>,
    {
        let from = (former.control, former.registration);
        let token = self.port_of.remove(&from).expect("an open tunnel has its public port");
        self.port_of.insert((control, registration), token);
        let port = self.ports.get_mut(token).expect("it is open");
        port.route.pass_on(from, Member { control, registration, gate, turned_away: Counted::default() });
        let (from, to) = ((from.0, from.1.tunnel), (control, registration.tunnel));
        for loop_index in 0..self.loads.len() {
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::HandOver { from, to } });
        }
        cx.sys.tell(FromListener::Bound { control, registration, bound: Ok(former.public) });
    }

    /// Who may visit a tunnel is changed. One whose port could not be opened is gone.
    fn admit(&mut self, control: ControlKey, registration: Registration, mut gate: Box<Gate>) {
        let is_it = |bind: &Bind| (bind.control, bind.registration) == (control, registration);
        if let Some(&token) = self.port_of.get(&(control, registration)) {
            if let Some(member) = self.ports.get_mut(token).and_then(|port| port.route.member(control, registration)) {
                gate.follow(&mut member.gate);
                member.gate = *gate;
            }
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
    }

    fn on_upgrade<S>(&mut self, cx: &mut Cx<'_, S>, step: Step)
    where
        S: Listen<Listener = L> + Tell<ToLoop<ToServerLoop<S::Stream>>> + Tell<FromListener>,
    {
        match step {
            Step::Lend => {
                self.upgrade = Upgrade::Lent;
                self.ports.iter().for_each(|(_, port)| cx.sys.lend(&port.listener, &port.given));
                let count = self.ports.len() + self.held.lend(cx.sys);
                cx.sys.tell(FromListener::Lent { count });
            }
            Step::Settle => {
                self.upgrade = Upgrade::Paused;
                // By the way that visitors take: behind the last of them.
                for loop_index in 0..self.loads.len() {
                    cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Settle });
                }
            }
            Step::Leave => {
                self.binds.remove(|_| true);
                self.port_of.clear();
                for token in self.ports.keys().collect::<Vec<_>>() {
                    if let Some(port) = self.ports.remove(token) {
                        cx.sys.unlisten(port.listener);
                    }
                }
                self.held.close(cx.sys);
            }
            Step::GoOn => self.upgrade = Upgrade::No,
        }
    }

    /// Told by the way that visitors take, so that it arrives after the last of them, which would be left waiting
    /// otherwise.
    fn tell_closed<S>(&self, sys: &mut S, control: ControlKey, tunnel: Option<TunnelId>)
    where
        S: Listen + Tell<ToLoop<ToServerLoop<S::Stream>>>,
    {
        for loop_index in 0..self.loads.len() {
            sys.tell(ToLoop { loop_index, message: ToServerLoop::CloseTunnel { control, tunnel } });
        }
    }

    fn enqueue(&mut self, token: Token) {
        if let Some(port) = self.ports.get_mut(token)
            && !port.queued
        {
            port.queued = true;
            self.busy.push_back(token);
        }
    }

    fn accept<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Listener = L> + Log + Tell<ToLoop<ToServerLoop<S::Stream>>>,
    {
        let Self { ports, loads, crowd, totals, dropped, turned_away: all_turned_away, .. } = self;
        let Some(PublicPort { listener, route, .. }) = ports.get_mut(token) else { return };
        let now = cx.now;
        let end = accept_batch(cx.sys, listener, Role::Public, |sys, stream, from| {
            let &mut Member { control, registration: Registration { tunnel, .. }, ref mut gate, ref mut turned_away } =
                route.resolve();
            if let Err(why) = gate.admit(now, from.ip()) {
                all_turned_away.add(why);
                **turned_away += 1;
                sys.note(Note::VisitorDropped { visitor: from, tunnel, why });
                Begun::turned_away(gate.label.as_ref(), from, why).into_iter().for_each(|visit| sys.note(visit));
                return sys.reset(stream);
            }
            let guest = Guest { holder: gate.holder, source: Source::of(from.ip()) };
            if let Err(why) = crowd.enter(guest, gate.per_source) {
                totals.visitors += 1;
                totals.aborted += 1;
                dropped.add(why);
                **turned_away += 1;
                sys.note(Note::VisitorDropped { visitor: from, tunnel, why });
                Begun::turned_away(gate.label.as_ref(), from, why).into_iter().for_each(|visit| sys.note(visit));
                return sys.reset(stream);
            }
            let loop_index = least_loaded(loads);
            loads[loop_index] += 1;
            let message = ToServerLoop::Visitor(Arrival {
                control,
                tunnel,
                stream,
                from,
                guest,
                tunnel_max: gate.max_connections,
                label: gate.label.clone(),
                left: loads.len() - 1,
            });
            sys.tell(ToLoop { loop_index, message });
        });
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

impl<L, S> Driver<S> for Listener<L>
where
    S: Listen<Listener = L> + Log + Tell<ToLoop<ToServerLoop<S::Stream>>> + Tell<FromListener>,
{
    type Message = ToListener;

    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: ToListener) {
        match message {
            ToListener::Bind { control, holder, owner, registration, at, ports, gate } => {
                self.binds.push(holder, Bind { control, owner, registration, at, ports, gate });
            }
            ToListener::HandOver { former, control, registration, gate } => {
                self.hand_over(cx, former, control, registration, *gate);
            }
            ToListener::Upgrade(step) => self.on_upgrade(cx, step),
            ToListener::KeepTo(timings) => cx.sys.keep_to(&timings),
            ToListener::Admit { control, registration, gate } => self.admit(control, registration, gate),
            ToListener::Report => {
                let members = self.ports.iter().flat_map(|(_, port)| port.route.members());
                let tunnels =
                    members.map(|member| (member.control, member.registration.tunnel, *member.turned_away)).collect();
                let (dropped, turned_away) = (*self.dropped, self.turned_away);
                let part = ListenerPart { dropped, turned_away, tunnels };
                cx.sys.tell(FromListener::Report(Box::new(part)));
            }
            ToListener::Moved { from, to } => {
                self.loads[from] = self.loads[from].checked_sub(1).expect("who left had come");
                self.loads[to] += 1;
            }
            ToListener::Left { loop_index, guest } => {
                self.loads[loop_index] = self.loads[loop_index].checked_sub(1).expect("who left had come");
                self.crowd.leave(guest);
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
                for loop_index in 0..self.loads.len() {
                    cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Retire { control } });
                }
            }
        }
    }

    fn on_ready(&mut self, cx: &mut Cx<'_, S>, token: Token, _ready: Readiness) {
        if self.rests() {
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
    }

    fn next_deadline(&self) -> Option<Instant> {
        let binds = self.binds.next_deadline().filter(|_| self.upgrade == Upgrade::No);
        [self.paused_until, binds, self.held.next_deadline()].into_iter().flatten().min()
    }

    fn run_busy(&mut self, cx: &mut Cx<'_, S>) {
        self.open_ports(cx);
        for _ in 0..self.busy.len() {
            if self.rests() {
                return;
            }
            let Some(token) = self.busy.pop_front() else { return };
            if let Some(port) = self.ports.get_mut(token) {
                port.queued = false;
                self.accept(cx, token);
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.binds.is_due() && self.upgrade == Upgrade::No || !self.rests() && !self.busy.is_empty()
    }
}

/// The event loop that gets the next visitor.
fn least_loaded(loads: &[u32]) -> usize {
    // The last of a row of visitors, one after the other, may not be quite gone when the next one comes.
    if loads.iter().sum::<u32>() <= 1 {
        return 0;
    }
    (0..loads.len()).min_by_key(|&loop_index| loads[loop_index]).unwrap_or(0)
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
mod tests {
    use super::*;

    #[test]
    fn a_lone_visitor_stays_with_the_first_loop_and_others_go_where_the_fewest_are() {
        let mut loads = [0; 3];
        let dealt: Vec<_> = (0..6)
            .map(|_| {
                let loop_index = least_loaded(&loads);
                loads[loop_index] += 1;
                loop_index
            })
            .collect();
        assert_eq!(dealt, [0, 0, 1, 2, 1, 2]);
    }
}
