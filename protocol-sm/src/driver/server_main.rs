//! The server's main thread: the ctl and proxy ports, handshakes, and every client's session.
//!
//! A connection belongs to no session until its handshake is finished. Until then it costs one slot, a fixed number of
//! bytes and a deadline. Where there are too many, the oldest one of the source address that has most is closed.
//!
//! ```text
//! a port that is there for visitors of hosts, too:
//!             Untold (the first bytes) ──▶ a client: one of the next two; a visitor: to the listener
//! ctl port    Preface ──▶ Hello ──▶ Proof ──┬─────────────────────────────────────▶ Up
//!                                           └──▶ Parked ──its rival is silent──────▶ Up
//! proxy port  ProxyHand (preface, hello) ──▶ to an event loop; or, where it is the ctl port, too, the preface says so ──▶ Hello
//! from a trusted proxy: Fronted (PROXY header) ──▶ one of the three above
//!             Refused, lost or too late: closed.
//!
//! session     Attached (a ctl_conn is Up) ──lost──▶ Detached ──session_grace──▶ Asleep ──transfer_grace──▶ over
//!                 ▲                                    │                          │
//!                 └──────────── resumed ───────────────┴──────────────────────────┘
//!             Closed, replaced, a violation: over at once. No conns: over instead of Asleep.
//!
//! server      running ──Stop──▶ stopping ──all loops have drained, or `drain_timeout`──▶ over
//! ```
//!
//! Invariants:
//! - M1 each connection has a deadline, and is counted in the handshake limit until it has proved itself;
//! - M2 a session is found by its key, name, holder and client, and source, and each leads to sessions that are there; a holder's
//!   client has one session, but for those that hand over to it, or leave;
//! - M3 a session is attached to a ctl_conn that is up with it, and each ctl_conn that is up has such a session;
//! - M4 exactly the sessions without a ctl_conn have an end of grace;
//! - M5 a parked newcomer and the attached session that is probed name each other;
//! - M6 exactly the connections' deadlines are timers;
//! - M7 who has work left is queued once;
//! - M8 nothing is left of a server that is over;
//! - M9 a session that sleeps has conns, and no tunnel;
//! - M10 a session that takes over, or has, and the one before it know each other until one of them is over;
//! - H1, H2 of the [`Ledger`] hold for its sessions, tunnels and conns.

mod accept;
mod check;
mod ctl_handshake;
mod fronted;
mod orders;
mod paths;
mod reload;
mod report;
mod session_table;
mod sessions;
mod takeover;
mod untold;
mod upgrade;

use super::ctl_link::CtlLink;
use super::handshake_limit::HandshakeLimit;
use super::messages::{
    ControlKey, FromListener, Step, ToListener, ToLoop, ToOperator, ToServerLoop, ToServerMain, Who,
};
use super::paths::ToPaths;
use super::relay::Endpoint;
use super::slab::{Slab, Token};
use super::sys::{Entropy, Listen, Log, Readiness};
use super::thread::{Cx, Driver, Tell};
use super::timers::Timers;
use crate::bandwidth::{Buckets, Slice};
use crate::budget::Budget;
use crate::codes::{AbortCode, CloseCode, HandshakeRefusal, StateName, Violation};
use crate::control::challenge::{Access, Challenge};
use crate::gather::Gather;
use crate::guesses::Guesses;
use crate::ids::TunnelId;
use crate::ledger::{Good, Holder, Ledger};
use crate::liveness::Liveness;
use crate::notes::HandshakeEnd;
use crate::purposes::{Purpose, Purposes};
use crate::report::{Counted, Counts, Histogram};
use crate::settings::ServerSettings;
use crate::sources::Source;
use crate::sys_error::SysError;
use crate::time::Instant;
use crate::turns::Turns;
use crate::wire::{Framer, Preface, PrefaceReader, ProxyToServer, ServerMsg, ToServer};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use fronted::Fronted;
use paths::Paths;
use report::Part;
use session_table::SessionTable;
use untold::Untold;
use upgrade::Upgrade;

/// How long accepting rests when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a client that seems connected may take to show that it is, when another with its identity comes.
const PROBE: Duration = Duration::from_secs(2);
/// Bytes that are read from one ctl_conn, and acted on, before others get their turn: a few hundred messages.
const CTL_TURN: usize = 4 << 10;
/// Doors and ctl_conns that get a turn before the thread looks for something else.
const TURNS: usize = 8;

/// See the module. `T` is a stream, `L` a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerMain<T, L> {
    settings: ServerSettings,
    loop_count: usize,
    bind_at: SocketAddr,
    /// The proxy port, as it is bound.
    proxy_port: u16,
    paths: Paths,
    slots: Slab<Slot<T, L>>,
    sessions: SessionTable,
    /// ctl_conns of sessions that are over. A client closes its conns when it sees the end of one: by then the event
    /// loops know what it had said, its last `Done` included.
    farewells: Vec<CtlLink<T, ToServer>>,
    /// Connections, by the deadline of their handshake or the next heartbeat.
    timers: Timers,
    /// Connections whose handshake is not finished, by source address. One that has proved its token and waits for its
    /// `Welcome` is not among them.
    handshake_limit: HandshakeLimit,
    /// Wrong proofs.
    guesses: Guesses,
    /// What the tunnels may move.
    buckets: Buckets<(ControlKey, TunnelId)>,
    turned_away: TurnedAway,
    /// See [`Report::healing`](crate::report::Report::healing).
    healing: Counted<Histogram>,
    /// Reports that were asked for.
    reports: Gather<Part>,
    /// Doors with connections left to accept, and ctl_conns with messages left to read or send, by the holders of
    /// their sessions.
    busy: Turns<Option<Holder>, Token>,
    paused_until: Option<Instant>,
    /// Another process is about to take over.
    upgrade: Option<Upgrade>,
    stopping: Option<Stopping>,
}

/// Connections on the ctl and the proxy port that got no further than their handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TurnedAway {
    /// Refused with a message that names the reason, for example a wrong token.
    pub refused: Counts<HandshakeRefusal>,
    /// Closed without a message: too slow, or too many of them.
    pub dropped: Counts<HandshakeEnd>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stopping {
    until: Instant,
    drained: BTreeSet<usize>,
    over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Slot<T, L> {
    Door(Door<L>),
    Ctl(Box<CtlConn<T>>),
    Proxy(ProxyHand<T>),
    Fronted(Box<Fronted<T>>),
    Untold(Box<Untold<T>>),
}

/// The ctl port, the proxy port, or one that is there for more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Door<L> {
    listener: L,
    purposes: Purposes,
    queued: bool,
}

/// A port that is to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted<L> {
    /// Where.
    pub at: SocketAddr,
    /// What for: at one of the ports in all for ctl_conns, at one for proxy_conns.
    pub purposes: Purposes,
    /// What another process has left of it.
    pub left: Option<L>,
}

/// Somebody who came to one of the doors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Caller<T> {
    stream: T,
    who: Who,
    /// It is known who is there: of a relay's connection that is for nobody, it is not.
    is_named: bool,
    came: Instant,
    /// What it can have come for.
    purposes: Purposes,
}

/// A connection on the ctl port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CtlConn<T> {
    link: CtlLink<T, ToServer>,
    from: SocketAddr,
    /// Whose token it has proved to know.
    proved: Option<Holder>,
    stage: Stage,
    queued: bool,
    deadline: Option<Instant>,
}

impl<T> CtlConn<T> {
    /// One on which nothing was said yet.
    fn new(port: Endpoint<T>, from: SocketAddr, deadline: Option<Instant>) -> Self {
        let stage = Stage::Preface(PrefaceReader::default());
        Self { link: CtlLink::new(port), from, proved: None, stage, queued: false, deadline }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Preface(PrefaceReader),
    Hello(Preface),
    Proof(Challenge),
    /// It has proved itself; a session with its identity is being probed.
    Parked {
        challenge: Challenge,
        access: Access,
        rival: ControlKey,
    },
    Up(ControlKey, Liveness),
}

impl Stage {
    fn name(&self) -> StateName {
        match self {
            Self::Preface(_) => StateName::PrefaceDue,
            Self::Hello(_) => StateName::HelloDue,
            Self::Proof(_) => StateName::ProofDue,
            Self::Parked { .. } => StateName::WelcomeDue,
            Self::Up(..) => StateName::SessionUp,
        }
    }
}

/// A connection on the proxy port, until its hello is there. Where that is the ctl port, too, it may be a ctl_conn.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ProxyHand<T> {
    port: Endpoint<T>,
    from: SocketAddr,
    purposes: Purposes,
    framer: Framer<ProxyToServer>,
    reader: PrefaceReader,
    preface: Option<Preface>,
    deadline: Option<Instant>,
}

/// Why a connection on the ctl port goes no further.
enum Stop {
    /// The connection is lost, or does not speak our protocol: nothing is sent.
    Lost,
    /// Its handshake is refused with a message that names the reason.
    Refused(HandshakeRefusal),
    /// Its session is over.
    Session(CloseCode),
    /// The client broke the protocol.
    Violation(Violation),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<HandshakeRefusal> for Stop {
    fn from(refusal: HandshakeRefusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What this thread needs of its system.
pub trait MainSys<T, L>:
    Listen<Stream = T, Listener = L>
    + Entropy
    + Log
    + Tell<ToLoop<ToServerLoop<T>>>
    + Tell<ToListener<T>>
    + Tell<ToOperator>
    + Tell<ToPaths>
{
}

impl<T, L, S> MainSys<T, L> for S where
    S: Listen<Stream = T, Listener = L>
        + Entropy
        + Log
        + Tell<ToLoop<ToServerLoop<T>>>
        + Tell<ToListener<T>>
        + Tell<ToOperator>
        + Tell<ToPaths>
{
}

impl<T, L> ServerMain<T, L> {
    /// A server with `loop_count` event loops whose public ports are opened at the address `bind_at`, with the port 0.
    #[must_use]
    pub fn new(mut settings: ServerSettings, loop_count: usize, bind_at: SocketAddr) -> Self {
        let Budget { conns, tunnels, .. } = settings.budget;
        let ledger = Ledger::default()
            .with_cap(Good::Session, reload::fit(&mut settings))
            .with_cap(Good::Tunnel, tunnels)
            .with_cap(Good::Conn, conns);
        Self {
            settings,
            loop_count,
            bind_at,
            proxy_port: 0,
            paths: Paths::default(),
            slots: Slab::default(),
            sessions: SessionTable::new(ledger),
            farewells: Vec::new(),
            timers: Timers::default(),
            handshake_limit: HandshakeLimit::default(),
            guesses: Guesses::default(),
            buckets: Buckets::default(),
            turned_away: TurnedAway::default(),
            healing: Counted::default(),
            reports: Gather::new(loop_count + 1),
            busy: Turns::default(),
            paused_until: None,
            upgrade: None,
            stopping: None,
        }
    }

    /// Opens one of the server's own ports, or adopts the one that another process has left, and returns its real address.
    ///
    /// # Errors
    /// Why it cannot be listened on.
    pub fn listen<S>(&mut self, cx: &mut Cx<'_, S>, wanted: Wanted<L>) -> Result<SocketAddr, SysError>
    where
        S: Listen<Stream = T, Listener = L>,
    {
        let Wanted { mut at, purposes, left } = wanted;
        self.slots.insert_with(|token| {
            let listener = match left {
                Some(listener) => {
                    at = cx.sys.adopt(&listener, token)?;
                    listener
                }
                None => {
                    let (listener, address) = cx.sys.listen(at, token)?;
                    at = address;
                    listener
                }
            };
            Ok(Slot::Door(Door { listener, purposes, queued: false }))
        })?;
        if purposes.has(Purpose::Proxy) {
            self.proxy_port = at.port();
            self.paths.at = Some(at);
        }
        Ok(at)
    }

    /// Whether a requested stop is complete. The other threads may then end, once they have handled their messages.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stopping.as_ref().is_some_and(|stopping| stopping.over)
    }

    /// Sessions, with or without a ctl_conn.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Connections that got no further than their handshake so far.
    #[must_use]
    pub fn turned_away(&self) -> TurnedAway {
        self.turned_away
    }

    /// Sockets that it owns, the listening ones included.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.slots.len() + self.farewells.len()
    }

    /// A connection's handshake has succeeded or failed.
    fn leave_handshake_limit(&mut self, from: SocketAddr, token: Token) {
        self.handshake_limit.remove(Source::of(from.ip()), token);
    }

    /// The server's own ports, where they are open.
    fn doors(&self) -> Vec<Token> {
        self.slots.iter().filter_map(|(token, slot)| matches!(slot, Slot::Door(_)).then_some(token)).collect()
    }

    fn enqueue_doors(&mut self) {
        for door in self.doors() {
            self.enqueue(door);
        }
    }

    fn enqueue(&mut self, token: Token) {
        let (queued, owner) = match self.slots.get_mut(token) {
            Some(Slot::Door(door)) => (&mut door.queued, None),
            Some(Slot::Ctl(conn)) => (&mut conn.queued, conn.proved),
            Some(Slot::Proxy(_) | Slot::Fronted(_) | Slot::Untold(_)) | None => return,
        };
        if !*queued {
            *queued = true;
            self.busy.push(owner, token);
        }
    }
}

impl<T, L, S> Driver<S> for ServerMain<T, L>
where
    S: MainSys<T, L>,
{
    type Message = ToServerMain<T>;

    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: ToServerMain<T>) {
        match message {
            ToServerMain::Loop(message) => self.on_loop(cx, message),
            ToServerMain::Listener(FromListener::Bound { control, registration, bound }) => {
                self.on_bound(cx, control, registration, bound);
            }
            ToServerMain::Listener(FromListener::Lent { count }) => self.on_lent(cx, count),
            ToServerMain::Listener(FromListener::Report(part)) => self.on_part(cx, Part::Listener(part)),
            ToServerMain::Paths(message) => self.on_path(cx, message),
            ToServerMain::Report { tag } => self.ask_for_report(cx, tag),
            ToServerMain::Order { tag, order } => {
                let count = self.carry_out(cx, &order);
                cx.sys.tell(ToOperator::Done { tag, count });
            }
            ToServerMain::Upgrade { tag, step } => self.on_upgrade(cx, tag, step),
            ToServerMain::Reload(new) => self.reload(cx, *new),
            ToServerMain::Stop => self.stop(cx),
        }
    }

    fn on_ready(&mut self, cx: &mut Cx<'_, S>, token: Token, ready: Readiness) {
        match self.slots.get_mut(token) {
            None => {}
            Some(Slot::Door(_)) => self.accept(cx, token),
            Some(Slot::Ctl(conn)) => {
                conn.link.port.on_ready(ready);
                self.enqueue(token);
            }
            Some(Slot::Proxy(hand)) => {
                hand.port.on_ready(ready);
                self.drive_proxy(cx, token);
            }
            Some(Slot::Fronted(_)) => self.hear_front(cx, token),
            Some(Slot::Untold(_)) => self.hear_untold(cx, token, ready.hup || ready.error),
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_, S>) {
        if self.paused_until.is_some_and(|at| at <= cx.now) {
            self.paused_until = None;
            self.enqueue_doors();
        }
        if self.upgrade.as_ref().and_then(Upgrade::deadline).is_some_and(|at| at <= cx.now) {
            self.on_settled(cx);
        }
        while let Some(token) = self.timers.pop_due(cx.now) {
            self.on_timer(cx, token);
        }
        self.deal_bandwidth(cx);
        self.on_path_deadline(cx);
        while let Some((at, key)) = self.sessions.next_grace()
            && at <= cx.now
        {
            self.on_grace(cx, key);
        }
        while let Some((at, key)) = self.sessions.next_handover()
            && at <= cx.now
        {
            self.on_handover(cx, key);
        }
        if let Some(stopping) = &self.stopping
            && stopping.until <= cx.now
            && !stopping.over
        {
            self.finish_stop(cx);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let stop = self.stopping.as_ref().filter(|stopping| !stopping.over).map(|stopping| stopping.until);
        let grace = self.sessions.next_grace().map(|(at, _)| at);
        let settle = self.upgrade.as_ref().and_then(Upgrade::deadline);
        let handover = self.sessions.next_handover().map(|(at, _)| at);
        let timers =
            [settle, self.timers.next(), grace, handover, self.paused_until, stop, self.buckets.next_deadline()];
        let timers = timers.into_iter().chain([self.paths.deadline()]);
        timers.flatten().min()
    }

    fn run_busy(&mut self, cx: &mut Cx<'_, S>) {
        self.close_farewells(cx);
        for _ in 0..self.busy.len().min(TURNS) {
            let Some(token) = self.busy.pop() else { return };
            match self.slots.get_mut(token) {
                Some(Slot::Door(door)) => {
                    door.queued = false;
                    self.accept(cx, token);
                }
                Some(Slot::Ctl(conn)) => {
                    conn.queued = false;
                    self.drive_ctl(cx, token);
                }
                Some(Slot::Proxy(_) | Slot::Fronted(_) | Slot::Untold(_)) | None => {}
            }
        }
    }

    fn is_busy(&self) -> bool {
        !self.busy.is_empty() || !self.farewells.is_empty()
    }
}

impl<T, L> ServerMain<T, L> {
    /// Gives the event loops what their tunnels may move by now.
    fn deal_bandwidth<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) {
        while let Some(Slice { tunnel: (control, tunnel), direction, loop_index, bytes }) = self.buckets.next(cx.now) {
            let message = ToServerLoop::Bandwidth { control, tunnel, direction, bytes };
            cx.sys.tell(ToLoop { loop_index, message });
        }
    }
}

/// How the server stops.
impl<T, L> ServerMain<T, L> {
    /// The user asks to stop: no new visitors and sessions, transfers may finish for `drain_timeout`.
    // PROTOCOL.md: P-STOP-3.
    fn stop<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) {
        if self.stopping.is_some() {
            return;
        }
        self.begin_drain(cx.now);
        let keys: Vec<_> = self.sessions.keys().collect();
        for key in keys {
            cx.sys.tell(ToListener::CloseAll { control: key });
            self.send(cx, key, ServerMsg::Drain);
        }
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Drain });
        }
        // What another process has left for clients that did not come is let go.
        cx.sys.tell(ToListener::Upgrade(Step::Leave));
    }

    /// What was told before this turn the event loops know.
    // PROTOCOL.md: P-STOP-1.
    fn close_farewells<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) {
        core::mem::take(&mut self.farewells).into_iter().for_each(|link| link.close(cx.sys));
    }

    fn begin_drain(&mut self, now: Instant) {
        let until = now + self.settings.timings.drain_timeout;
        self.stopping = Some(Stopping { until, drained: BTreeSet::new(), over: false });
    }

    fn finish_stop<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) {
        self.close_paths(cx);
        let keys: Vec<_> = self.sessions.keys().collect();
        for key in keys {
            self.end_session(cx, key, CloseCode::Stopping, AbortCode::Stopping);
        }
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Stop });
        }
        self.close_farewells(cx);
        let tokens: Vec<_> = self.slots.keys().collect();
        for token in tokens {
            match self.slots.remove(token) {
                Some(Slot::Door(door)) => cx.sys.unlisten(door.listener),
                Some(Slot::Ctl(conn)) => conn.link.close(cx.sys),
                Some(Slot::Proxy(hand)) => cx.sys.close(hand.port.into_stream()),
                Some(Slot::Fronted(fronted)) => fronted.let_go(cx.sys),
                Some(Slot::Untold(untold)) => cx.sys.reset(untold.caller.stream),
                None => {}
            }
        }
        self.timers = Timers::default();
        self.handshake_limit = HandshakeLimit::default();
        if let Some(stopping) = &mut self.stopping {
            stopping.over = true;
        }
    }
}

#[cfg(test)]
mod tests;
