//! The way to the LocalServer: its name is looked up if that was too long ago, its addresses race, and where none wins the
//! visitor is refused. One at a Unix socket is connected at once, or takes nobody now: then visitors wait as they do for a
//! local port.

use super::super::messages::FromClientLoop;
use super::super::relay::Endpoint;
use super::super::slab::Token;
use super::super::sys::{Role, Streams};
use super::super::thread::Cx;
use super::{ClientLoop, Conn, Local, LoopSys, Phase, Slot, State, active};
use crate::codes::RefuseCode;
use crate::ids::TunnelId;
use crate::local_ports::{LocalPorts, PAUSE};
use crate::names::{LocalAt, Name, Wait, Wanted};
use crate::notes::Note;
use crate::race::Race;
use crate::report::Trouble;
use crate::settings::{Datagrams, Origin};
use crate::sys_error::SysError;
use crate::time::Instant;
use crate::visit::VisitEnd;
use crate::wire::ProxyToServer;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

/// What is known of a tunnel's LocalServer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LocalServer {
    pub name: Name,
    /// The Unix socket that it is at instead.
    unix: Option<Arc<str>>,
    pub ports: LocalPorts<Token>,
}

impl LocalServer {
    pub(super) fn new(place: &LocalAt) -> Self {
        let mut local = Self { name: Name::default(), unix: None, ports: LocalPorts::default() };
        local.relocate(place);
        local
    }

    /// It is elsewhere from now on.
    pub(super) fn relocate(&mut self, place: &LocalAt) {
        self.name = Name::new(*place == LocalAt::Address);
        self.unix = place.unix().cloned();
    }

    /// Somebody wants to dial it: see [`Name::want`].
    fn wanted(&mut self, now: Instant) -> Wanted {
        if self.unix.is_some() { Wanted { look_up: false, wait: Wait::Not } } else { self.name.want(now) }
    }
}

/// How many of those that wait for a local port are dialled in one turn.
const PORTS_AT_ONCE: usize = 64;
/// The pause until the next of these turns.
const BREATH: Duration = Duration::from_millis(1);

/// How far the way to a LocalServer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dial {
    /// Its name is being looked up. The dial ends at `until`.
    Name { until: Instant },
    /// Its addresses are tried.
    Race {
        race: Race,
        /// Local_conns under way.
        attempts: Vec<(Token, SocketAddr)>,
        /// What was wrong with the last one that failed.
        why: RefuseCode,
        /// No local port was left towards one of them.
        no_port: bool,
    },
    /// It waits for a local port, or until a Unix socket takes one more. The dial ends at `until`.
    Port { until: Instant },
}

impl Dial {
    /// The local_conns under way.
    pub(super) fn attempts(&self) -> impl Iterator<Item = Token> {
        let attempts = match self {
            Self::Name { .. } | Self::Port { .. } => &[][..],
            Self::Race { attempts, .. } => attempts,
        };
        attempts.iter().map(|&(local, _)| local)
    }
}

/// What has become of an attempt.
enum Attempt {
    Connected(Token),
    UnderWay(Token),
    Failed(SysError),
}

impl<T, P> ClientLoop<T, P> {
    pub(super) fn is_dialling(&mut self, conn: Token) -> bool {
        active(&mut self.slots, conn).is_some_and(|active| active.pace.phase == Phase::Dial)
    }

    /// A visitor is to be taken to its LocalServer.
    pub(super) fn dial<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let until = cx.now + self.core.timings.dial_timeout;
        self.dial_until(cx, token, until, false);
    }

    /// `in_turn`: it has waited for a port, and is the next.
    fn dial_until<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, until: Instant, in_turn: bool) {
        let Some((conn, tunnel)) = dialling(self.slots.get_mut(token)) else { return };
        let Some(local) = self.locals.get_mut(&tunnel) else {
            return self.refuse(cx, token, RefuseCode::UnknownTunnel);
        };
        let wanted = local.wanted(cx.now);
        if wanted.look_up {
            cx.sys.tell(FromClientLoop::LookUp { tunnel });
        }
        let wait = match wanted.wait {
            Wait::Not if in_turn => return self.race(cx, token, until),
            Wait::Not => return self.race_or_wait(cx, token, until),
            Wait::Until(at) => at.min(until),
            Wait::ForIt => until,
        };
        if let State::Active(active) = &mut conn.state {
            active.dial = Some(Box::new(Dial::Name { until }));
        }
        self.core.timers.set(token, &mut conn.deadline, Some(wait));
        self.await_names.push((tunnel, token));
    }

    /// A tunnel's LocalServer was looked up, or the tunnel was closed.
    pub(super) fn dial_awaiting<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, tunnel: TunnelId) {
        let (of_it, others) = core::mem::take(&mut self.await_names).into_iter().partition(|(of, _)| *of == tunnel);
        self.await_names = others;
        for (_, token) in of_it {
            if let Some(Dial::Name { until }) = active(&mut self.slots, token).and_then(|active| active.dial.as_deref())
            {
                let until = *until;
                self.race_or_wait(cx, token, until);
            }
        }
    }

    pub(super) fn on_dial_deadline<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        match active(&mut self.slots, token).and_then(|active| active.dial.as_deref()) {
            // The look-up hangs.
            Some(Dial::Name { until }) if cx.now < *until => {
                let until = *until;
                self.race_or_wait(cx, token, until);
            }
            Some(Dial::Name { .. }) => self.refuse(cx, token, RefuseCode::TimedOut),
            Some(Dial::Race { .. }) => self.run(cx, token),
            Some(&Dial::Port { until }) if cx.now < until => self.dial_waiting(cx, token, until),
            Some(Dial::Port { .. }) => {
                let why = if self.is_unix(token) { RefuseCode::TimedOut } else { RefuseCode::Resources };
                self.refuse(cx, token, why);
            }
            None => {}
        }
    }

    /// Tries the LocalServer's addresses, or waits behind those who wait for a local port.
    fn race_or_wait<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, until: Instant) {
        let Some(active) = active(&mut self.slots, token) else { return };
        if self.locals.get(&active.tunnel).is_some_and(|local| local.ports.first().is_some()) {
            self.wait_for_port(token, until, false);
        } else {
            self.race(cx, token, until);
        }
    }

    /// Begins to try the LocalServer's addresses.
    fn race<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, until: Instant) {
        let Some(active) = active(&mut self.slots, token) else { return };
        let Some(local) = self.locals.get(&active.tunnel) else {
            return self.refuse(cx, token, RefuseCode::UnknownTunnel);
        };
        if let Some(path) = local.unix.clone() {
            return self.connect_unix(cx, token, &path, until);
        }
        let race = Race::new(local.name.in_order(), cx.now, until);
        let why = RefuseCode::Unreachable;
        active.dial = Some(Box::new(Dial::Race { race, attempts: Vec::new(), why, no_port: false }));
        self.run(cx, token);
    }

    /// Waits until a local port is free. `first`: before all others that wait, and not behind them.
    fn wait_for_port(&mut self, token: Token, until: Instant, first: bool) {
        let Some((conn, tunnel)) = dialling(self.slots.get_mut(token)) else { return };
        let (State::Active(active), Some(local)) = (&mut conn.state, self.locals.get_mut(&tunnel)) else { return };
        active.dial = Some(Box::new(Dial::Port { until }));
        local.ports.wait(token, first);
        self.core.timers.set(token, &mut conn.deadline, Some(until));
    }

    /// Dials for those that wait for a local port, `token` first, until there is none.
    fn dial_waiting<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, until: Instant) {
        let Some((conn, tunnel)) = dialling(self.slots.get_mut(token)) else { return };
        if self.locals.get(&tunnel).and_then(|local| local.ports.first()) != Some(token) {
            return self.core.timers.set(token, &mut conn.deadline, Some(until));
        }
        let mut pause = BREATH;
        for _ in 0..PORTS_AT_ONCE {
            let Some(first) = self.locals.get_mut(&tunnel).and_then(|local| local.ports.first()) else { return };
            let Some(&mut Dial::Port { until }) = self.way(first) else { return };
            self.end_dial(cx, first, None);
            self.dial_until(cx, first, until, true);
            if let Some(Dial::Port { .. }) = self.way(first) {
                pause = PAUSE;
                break;
            }
        }
        self.dial_waiting_at(tunnel, cx.now + pause);
    }

    /// Looks at those that wait for a local port at `at`.
    fn dial_waiting_at(&mut self, tunnel: TunnelId, at: Instant) {
        let Some(first) = self.locals.get(&tunnel).and_then(|local| local.ports.first()) else { return };
        let Some(&mut Dial::Port { until }) = self.way(first) else { return };
        if let Some(Slot::Conn(conn)) = self.slots.get_mut(first) {
            self.core.timers.set(first, &mut conn.deadline, Some(at.min(until)));
        }
    }

    /// Its tunnel is closed.
    pub(super) fn refuse_waiting<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, mut gone: Option<LocalServer>) {
        while let Some(local) = &mut gone
            && let Some(token) = local.ports.first()
        {
            local.ports.leave(token);
            self.refuse(cx, token, RefuseCode::UnknownTunnel);
        }
    }

    /// Tries the addresses that are due, until one is connected at once or none is left.
    // PROTOCOL.md: P-REF-1.
    fn run<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        loop {
            let Some(Dial::Race { race, .. }) = self.way(token) else { return };
            if let Some(to) = race.next(cx.now) {
                match self.attempt(cx, token, to) {
                    Attempt::Connected(local) => return self.on_dialled(cx, token, local, Some(to)),
                    Attempt::UnderWay(local) => {
                        if let Some(Dial::Race { attempts, .. }) = self.way(token) {
                            attempts.push((local, to));
                        }
                    }
                    Attempt::Failed(error) => self.on_attempt_failed(token, to, error),
                }
                continue;
            }
            let Some((conn, _)) = dialling(self.slots.get_mut(token)) else { return };
            let State::Active(active) = &mut conn.state else { return };
            let Some(Dial::Race { race, attempts, why, no_port }) = active.dial.as_deref() else { return };
            if !race.is_lost(cx.now) {
                let at = race.deadline();
                return self.core.timers.set(token, &mut conn.deadline, Some(at));
            }
            if *no_port && cx.now < race.until() {
                // Before all others: whoever comes while somebody waits does not get here.
                let (until, tunnel) = (race.until(), active.tunnel);
                self.wait_for_port(token, until, true);
                return self.dial_waiting_at(tunnel, cx.now + PAUSE);
            }
            // Those that are still under way have not answered in time.
            let why = if attempts.is_empty() { *why } else { RefuseCode::TimedOut };
            let silent: Vec<_> = attempts.iter().map(|&(_, to)| to).collect();
            if let Some(local) = self.locals.get_mut(&active.tunnel) {
                silent.into_iter().for_each(|to| local.name.on_failed(to));
            }
            return self.refuse(cx, token, why);
        }
    }

    /// The way that a conn's visitor is on.
    fn way(&mut self, token: Token) -> Option<&mut Dial> {
        active(&mut self.slots, token)?.dial.as_deref_mut()
    }

    /// Tries `to` from the first of the sources that has a port.
    fn attempt<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, to: SocketAddr) -> Attempt {
        let Some((_, tunnel)) = dialling(self.slots.get_mut(token)) else { return Attempt::Failed(SysError::Reset) };
        let Some(ports) = self.locals.get_mut(&tunnel).map(|local| &mut local.ports) else {
            return Attempt::Failed(SysError::Reset);
        };
        let datagrams = self.servings.get(&tunnel).and_then(|serving| serving.datagrams);
        let flow = active(&mut self.slots, token).and_then(|active| active.flow.as_deref());
        let front = flow.and_then(|flow| flow.front.clone()).map(Box::new);
        let mut failed = SysError::NoAddress;
        for nth in 0..ports.tries() {
            let Some(address) = ports.source(nth, to) else { continue };
            let from = Origin { address, interface: None };
            let made = self.slots.insert_with(|local| {
                let port = match datagrams {
                    None => Endpoint::connecting(cx.sys.connect(&from, to, Role::Local, local)?),
                    Some(kind) => {
                        let mut port = Endpoint::datagrams(Some(cx.sys.associate(&from, to, kind, local)?));
                        port.change(|stream| {
                            stream.to = (kind == Datagrams::Follow).then_some(to);
                            stream.front.clone_from(&front);
                        });
                        port
                    }
                };
                Ok(Slot::Local(Local { conn: token, port }))
            });
            match (made, address) {
                (Ok(local), _) => {
                    ports.on_found(nth);
                    // On the same machine the connection is up already.
                    return self.outcome(cx, local);
                }
                (Err(SysError::NoPort), _) => failed = SysError::NoPort,
                (Err(SysError::NoAddress), Some(source)) => cx.sys.note(Note::NoLocalSource { source }),
                (Err(error), _) => return Attempt::Failed(error),
            }
        }
        if failed == SysError::NoPort && ports.on_none() {
            cx.sys.note(Note::NoLocalPort { to });
        }
        Attempt::Failed(failed)
    }

    /// Connects to a Unix socket. Where as many wait there already as may, this one is tried again.
    fn connect_unix<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, path: &Arc<str>, until: Instant) {
        let Some((_, tunnel)) = dialling(self.slots.get_mut(token)) else { return };
        let made = self.slots.insert_with(|local| {
            let mut port = Endpoint::connecting(cx.sys.connect_unix(path, local)?);
            port.writable = true;
            Ok(Slot::Local(Local { conn: token, port }))
        });
        let ports = self.locals.get_mut(&tunnel).map(|local| &mut local.ports);
        let unreachable = |error| Note::UnixUnreachable { path: path.clone(), error };
        match made {
            Ok(local) => {
                ports.into_iter().for_each(|ports| ports.on_found(0));
                self.on_dialled(cx, token, local, None);
            }
            Err(SysError::WouldBlock) if cx.now < until => {
                if ports.is_some_and(LocalPorts::on_none) {
                    cx.sys.note(unreachable(SysError::WouldBlock));
                }
                self.wait_for_port(token, until, true);
                self.dial_waiting_at(tunnel, cx.now + PAUSE);
            }
            Err(error) => {
                cx.sys.note(unreachable(error));
                self.refuse(cx, token, refusal(error));
            }
        }
    }

    /// Whether a conn's visitor is for a Unix socket.
    fn is_unix(&mut self, token: Token) -> bool {
        let tunnel = active(&mut self.slots, token).map(|active| active.tunnel);
        tunnel.and_then(|tunnel| self.locals.get(&tunnel)).is_some_and(|local| local.unix.is_some())
    }

    fn outcome<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, local: Token) -> Attempt {
        let Some(Slot::Local(dialled)) = self.slots.get_mut(local) else { return Attempt::Failed(SysError::Reset) };
        match cx.sys.take_error(dialled.port.stream()) {
            Ok(()) => {}
            Err(SysError::WouldBlock) => return Attempt::UnderWay(local),
            // It was connected, and was reset since: what it said before can still be read.
            Err(error @ (SysError::Reset | SysError::ResetBehindEnd)) => dialled.port.on_failed(error),
            Err(error) => {
                self.discard(cx, local);
                return Attempt::Failed(error);
            }
        }
        dialled.port.writable = true;
        Attempt::Connected(local)
    }

    fn on_attempt_failed(&mut self, token: Token, to: SocketAddr, error: SysError) {
        let Some(active) = active(&mut self.slots, token) else { return };
        let Some(Dial::Race { race, why, no_port, .. }) = active.dial.as_deref_mut() else { return };
        race.on_failed();
        *why = refusal(error);
        *no_port |= error == SysError::NoPort;
        // Of want on this side the address is not guilty.
        if !matches!(error, SysError::Exhausted | SysError::NoPort | SysError::NoAddress)
            && let Some(local) = self.locals.get_mut(&active.tunnel)
        {
            local.name.on_failed(to);
        }
    }

    /// A local_conn that is being dialled became ready.
    pub(super) fn on_dial_event<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, local: Token) {
        let Some(Dial::Race { attempts, .. }) = self.way(token) else { return };
        let Some(&(_, to)) = attempts.iter().find(|(of, _)| *of == local) else { return };
        match self.outcome(cx, local) {
            Attempt::UnderWay(_) => {}
            Attempt::Connected(local) => self.on_dialled(cx, token, local, Some(to)),
            Attempt::Failed(error) => {
                if let Some(Dial::Race { attempts, .. }) = self.way(token) {
                    attempts.retain(|(of, _)| *of != local);
                }
                self.on_attempt_failed(token, to, error);
                self.run(cx, token);
            }
        }
    }

    /// The LocalServer is connected.
    // PROTOCOL.md: P-XFER-3.
    fn on_dialled<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, local: Token, at: Option<SocketAddr>) {
        self.end_dial(cx, token, Some(local));
        let Some((conn, tunnel)) = dialling(self.slots.get_mut(token)) else { return };
        let State::Active(active) = &mut conn.state else { return };
        active.local = Some(local);
        active.conn.on_dialed();
        *active.served = Some(cx.now);
        self.core.tally.dials.add(cx.now.since(*active.began));
        conn.link.egress_flow.push(&ProxyToServer::Started { epoch: active.conn.transfer.epoch() });
        if let (Some(local), Some(at)) = (self.locals.get_mut(&tunnel), at) {
            local.name.on_good(at);
        }
        self.drive(cx, token);
    }

    fn refuse<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, why: RefuseCode) {
        self.end_dial(cx, token, None);
        let Some((conn, tunnel)) = dialling(self.slots.get_mut(token)) else { return };
        let State::Active(active) = &mut conn.state else { return };
        active.conn.on_refused();
        let epoch = active.conn.transfer.epoch();
        conn.link.egress_flow.push(&ProxyToServer::Refused { epoch, code: why });
        cx.sys.note(Note::Refused { conn: conn.id, epoch, code: why, tunnel });
        active.over(cx.now, &self.labels, VisitEnd::Refused(why)).into_iter().for_each(|visit| cx.sys.note(visit));
        // The main thread knows nothing of a tunnel that a hostile server has made up.
        if why != RefuseCode::UnknownTunnel {
            cx.sys.tell(FromClientLoop::LocalFailed { tunnel, code: why });
        }
        self.count_trouble(cx.now, tunnel, Trouble::Refused(why));
        self.drive(cx, token);
    }

    /// Closes the local_conns of a dial, but for the one that won.
    fn end_dial<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, winner: Option<Token>)
    where
        S: Streams<Stream = T>,
    {
        let Some(active) = active(&mut self.slots, token) else { return };
        let (Some(dial), tunnel) = (active.dial.take(), active.tunnel) else { return };
        if let (Dial::Port { .. }, Some(local)) = (&*dial, self.locals.get_mut(&tunnel)) {
            let next = local.ports.first() == Some(token);
            local.ports.leave(token);
            if next {
                self.dial_waiting_at(tunnel, cx.now + PAUSE);
            }
        }
        for local in dial.attempts().filter(|&local| Some(local) != winner) {
            self.discard(cx, local);
        }
    }

    /// Resets what a conn has towards its LocalServer.
    pub(super) fn drop_local<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Streams<Stream = T>,
    {
        self.end_dial(cx, token, None);
        if let Some(local) = active(&mut self.slots, token).and_then(|active| active.local.take()) {
            self.discard(cx, local);
        }
    }

    fn discard<S>(&mut self, cx: &mut Cx<'_, S>, local: Token)
    where
        S: Streams<Stream = T>,
    {
        if let Some(Slot::Local(local)) = self.slots.remove(local) {
            local.port.into_socket().into_iter().for_each(|stream| cx.sys.reset(stream));
        }
    }
}

/// A conn that carries a transfer, and the transfer's tunnel.
fn dialling<T, P>(slot: Option<&mut Slot<T, P>>) -> Option<(&mut Conn<T, P>, TunnelId)> {
    match slot? {
        Slot::Conn(conn) => match &conn.state {
            State::Active(active) => {
                let tunnel = active.tunnel;
                Some((conn, tunnel))
            }
            State::Opening { .. } | State::Idle(_) => None,
        },
        Slot::Local(_) => None,
    }
}

fn refusal(error: SysError) -> RefuseCode {
    match error {
        SysError::Refused => RefuseCode::ConnectionRefused,
        SysError::TimedOut | SysError::WouldBlock => RefuseCode::TimedOut,
        SysError::Exhausted | SysError::NoPort => RefuseCode::Resources,
        SysError::Unreachable
        | SysError::InUse
        | SysError::Unsupported
        | SysError::Reset
        | SysError::ResetBehindEnd
        | SysError::Denied
        | SysError::NoAddress
        | SysError::Tls(_)
        | SysError::Other(_) => RefuseCode::Unreachable,
    }
}
