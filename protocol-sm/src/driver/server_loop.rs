//! An event loop of the server: proxy_conns, and the visitors that they serve.
//!
//! Every proxy_conn and every visitor has one slot; a visitor's slot says which conn it was given, the
//! conn's which visitor it serves. Readiness of either drives both.

mod check;
mod flows;
mod paths;
mod report;
mod stale;
mod takeover;
mod transfers;
mod visitors;

use super::loop_core::{LoopCore, Pace, Phase};
use super::messages::{ControlKey, FromServerLoop, Limits, ToServerLoop, Who};
use super::relay::{End, Endpoint, Link, failed};
use super::slab::{Slab, Token};
use super::sys::{Datagrams, Entropy, Log, Readiness, Splice, random_u32};
use super::thread::{Cx, Driver, Tell};
use super::totals::Totals;
use crate::bandwidth::{Allowances, Rate};
use crate::canary::{PlantedBug, planted};
use crate::codes::AbortCode;
use crate::conn::server::{ActiveConn, Answer, IdleConn};
use crate::crowd::Guest;
use crate::datagrams::PathState;
use crate::dead_path::Path;
use crate::ids::{ConnId, TunnelId};
use crate::ledger::{Good, Holder, Ledger};
use crate::notes::{Dropped, Note};
use crate::ping_pace::PingPace;
use crate::pool::Pool;
use crate::report::{Counted, TunnelTally};
use crate::settings::Timings;
use crate::stir::Stir;
use crate::time::Instant;
use crate::transfer::Transfer;
use crate::visit::{Begun, Way};
use crate::wire::{Framer, ProxyToServer};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use flows::{Flow, Port};

/// See the module. `T` is a stream, `P` a pipe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerLoop<T, P> {
    core: LoopCore,
    controls: BTreeMap<ControlKey, Shard>,
    /// What each holder has here: visitors, and transfers.
    ledger: Ledger,
    slots: Slab<Slot<T, P>>,
    /// Public UDP sockets, by their tunnels.
    ports: BTreeMap<(ControlKey, TunnelId), Token>,
    /// The earliest time at which a pool asks again.
    next_retry: Option<Instant>,
    /// What its tunnels may move now.
    allowances: Allowances<(ControlKey, TunnelId)>,
    /// No visitor is taken any more.
    closed: bool,
    /// The main thread waits until no visitor waits for a conn.
    settling: bool,
    /// An empty buffer for the next visitor's first bytes.
    spare: Vec<u8>,
}

/// One client's part of this loop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shard {
    holder: Holder,
    /// Little is sent while nobody visits.
    frugal: bool,
    /// The client is told what is known of its visitors' TLS.
    secured: bool,
    pool: Pool<Token, Token>,
    /// What the session's path takes.
    path: PathState,
    ping_pace: PingPace,
    conns: BTreeMap<ConnId, Token>,
    /// This loop's share of what the holder may have.
    max_connections: u32,
    /// This loop's share of what the holder may have waiting.
    max_waiting: u32,
    /// The holder's that waited when that was set.
    waited: u32,
    active: u32,
    /// What each tunnel may move in each direction.
    max_bandwidth: Rate,
    /// Visitors of each tunnel, waiting and served; none is 0.
    visits: BTreeMap<TunnelId, u32>,
    /// Event loops that share what a tunnel may use.
    loop_count: u32,
    /// The session is over: what is left is transfers that the client is through with.
    closing: bool,
    /// No visitors come any more: what is left is transfers.
    retired: bool,
    /// Where the visitors of a tunnel belong that was handed over.
    heirs: BTreeMap<TunnelId, (ControlKey, TunnelId)>,
    /// Whether the client's payload moves, looked at where a `Start` is not answered.
    stir: Stir,
    tally: Counted<ShardTally>,
}

/// What is counted of one client's part of this loop.
#[derive(Clone, Debug, Default)]
struct ShardTally {
    /// Conns that came.
    opened: u64,
    /// Transfers that were given a conn that had carried one before.
    reused: u64,
    /// Each tunnel that visitors came to, until it is closed.
    tunnels: BTreeMap<TunnelId, TunnelTally>,
}

impl Shard {
    /// A transfer through `tunnel` is over.
    fn on_over(&mut self, ledger: &mut Ledger, tunnel: TunnelId) {
        self.active -= 1;
        ledger.remove(self.holder, Good::Transfer, 1);
        self.on_left(ledger, tunnel);
    }

    /// Whether its holder has as many visitors here as it may have. `ledger` is this loop's.
    fn is_full(&self, ledger: &Ledger) -> bool {
        ledger.room(self.holder, Good::Visitor, self.max_connections) == 0
    }

    /// How many visitors of its holder wait here.
    fn waiting(&self, ledger: &Ledger) -> u32 {
        ledger.count(self.holder, Good::Visitor) - ledger.count(self.holder, Good::Transfer)
    }

    /// Visitors of `tunnel`, waiting and served.
    fn visits(&self, tunnel: TunnelId) -> u32 {
        self.visits.get(&tunnel).copied().unwrap_or(0)
    }

    /// A visitor of `tunnel` is gone, served or not.
    fn on_left(&mut self, ledger: &mut Ledger, tunnel: TunnelId) {
        if let Some(visits) = self.visits.get_mut(&tunnel) {
            ledger.remove(self.holder, Good::Visitor, 1);
            *visits -= 1;
            if *visits == 0 {
                self.visits.remove(&tunnel);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Slot<T, P> {
    Conn(Box<Conn<T, P>>),
    Visitor(Box<Visitor<T>>),
    Port(Box<Port<T>>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Conn<T, P> {
    control: ControlKey,
    id: ConnId,
    link: Link<T, P>,
    framer: Framer<ProxyToServer>,
    state: State,
    /// A ping is unanswered.
    pinged: bool,
    /// When it last showed that it lives.
    heard: Instant,
    /// How long it had been silent when it was pinged, or given a visitor.
    silence: Duration,
    /// The client has closed it in good order.
    closed: bool,
    /// It waits for another turn.
    queued: bool,
    deadline: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle { conn: IdleConn, since: Instant },
    Active(Active),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Active {
    conn: ActiveConn,
    tunnel: TunnelId,
    /// What the tunnel may move in each direction.
    max_bandwidth: Rate,
    /// Which halves could move more, and wait for bandwidth: egress, ingress.
    throttled: [bool; 2],
    /// Gone once both its directions are shut.
    visitor: Option<Token>,
    /// What the conn's deadline is for.
    pace: Pace,
    path: Path,
    /// What was taken from the visitor, until the client answers: for another conn, should this one be dead.
    first: Vec<u8>,
    /// When the client must have answered.
    answer_by: Instant,
    /// The conn is lost, and the client was asked whether it has seen the `Start`.
    lost: bool,
    aside: Option<Box<Aside>>,
}

impl State {
    /// Whether the client is through with the transfer: it needs nothing more of it.
    fn is_done(&self) -> bool {
        match self {
            Self::Idle { .. } => false,
            Self::Active(active) => active.conn.is_done(),
        }
    }
}

/// What few transfers have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Aside {
    /// The visitor that is gone, if its visit is to leave a record.
    gone: Option<(SocketAddr, Begun)>,
    /// Bytes that went by the session's path: from the visitor, and to it.
    by_path: [u64; 2],
}

impl Active {
    /// Bytes that went by the session's path: from the visitor, and to it.
    fn by_path(&self) -> [u64; 2] {
        self.aside.as_deref().map(|aside| aside.by_path).unwrap_or_default()
    }

    /// The visitor that is gone, once.
    fn take_gone(&mut self) -> Option<(SocketAddr, Begun)> {
        self.aside.as_deref_mut()?.gone.take()
    }

    /// What was moved each way: from the visitor, and to it.
    fn ways(&self) -> [Way; 2] {
        let mut ways = self.conn.transfer.ways();
        for (way, by_path) in ways.iter_mut().zip(self.by_path()) {
            way.bytes += by_path;
        }
        ways
    }

    fn phase(&self) -> Phase {
        match self.conn.answer() {
            Answer::Awaiting => Phase::Dial,
            Answer::Started | Answer::Refused => Phase::answered(&self.conn.transfer),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Visitor<T> {
    control: ControlKey,
    tunnel: TunnelId,
    who: Who,
    /// What it is counted as by the listener, if it came from there.
    guest: Option<Guest>,
    /// Which flow it is, if it came to a UDP port.
    flow: Option<Box<Flow>>,
    /// Its visit, if that is to leave a record.
    visit: Option<Begun>,
    port: Endpoint<T>,
    /// The conn that serves it; until then it waits.
    conn: Option<Token>,
    /// How long it may wait.
    until: Instant,
    /// What was taken of it already.
    taken: Option<Box<Taken>>,
    deadline: Option<Instant>,
}

/// What a conn must be given of a visitor from which something was taken before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Taken {
    /// It comes back from a conn where its `Start` was never seen. Otherwise its first bytes have named its host.
    transfer: Option<Transfer>,
    /// All that was taken.
    first: Vec<u8>,
}

impl Taken {
    fn ways(&self) -> [Way; 2] {
        let head = Way { bytes: self.first.len() as u64, ..Way::default() };
        self.transfer.as_ref().map_or([head, Way::default()], Transfer::ways)
    }
}

impl<T> Visitor<T> {
    /// Whether it comes back from a conn where its `Start` was never seen.
    fn returns(&self) -> bool {
        self.taken.as_ref().is_some_and(|taken| taken.transfer.is_some())
    }
}

/// What this thread needs of its system.
trait LoopSys<T, P>: Splice<Stream = T, Pipe = P> + Datagrams + Entropy + Log + Tell<FromServerLoop<T>> {}

impl<T, P, S: Splice<Stream = T, Pipe = P> + Datagrams + Entropy + Log + Tell<FromServerLoop<T>>> LoopSys<T, P> for S {}

impl<T, P> ServerLoop<T, P> {
    /// An empty event loop, the thread pool's number `loop_index`.
    #[must_use]
    pub fn new(loop_index: usize, timings: Timings) -> Self {
        Self {
            core: LoopCore::new(loop_index, timings),
            controls: BTreeMap::new(),
            ledger: Ledger::default(),
            slots: Slab::default(),
            ports: BTreeMap::new(),
            next_retry: None,
            allowances: Allowances::default(),
            closed: false,
            settling: false,
            spare: Vec::new(),
        }
    }

    /// What it has done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.core.totals
    }

    /// Sockets that it owns.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.slots.len()
    }
}

impl<T, P, S> Driver<S> for ServerLoop<T, P>
where
    S: Splice<Stream = T, Pipe = P> + Datagrams + Entropy + Log + Tell<FromServerLoop<T>>,
{
    type Message = ToServerLoop<T>;

    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: ToServerLoop<T>) {
        match message {
            ToServerLoop::Open { control, limits } => self.open(cx, control, limits),
            ToServerLoop::Close { control, code } => self.close(cx, control, code),
            ToServerLoop::Conn { control, conn, stream } => self.on_conn(cx, control, conn, stream),
            ToServerLoop::Visitor(arrival) => self.on_visitor(cx, arrival),
            ToServerLoop::Port(port) => self.on_port(cx, port),
            ToServerLoop::Admit { control, tunnel, gate } => self.admit(control, tunnel, gate),
            ToServerLoop::Path { control, state } => self.set_path(control, state),
            ToServerLoop::Datagram { control, datagram } => self.on_path_datagram(cx, control, &datagram),
            ToServerLoop::Back { control, datagram } => self.on_path_back(cx, control, &datagram),
            ToServerLoop::Trust(trusted) => self.trust(&trusted),
            ToServerLoop::Transfer { control, msg } => self.on_transfer_msg(cx, control, msg),
            ToServerLoop::ConnFailed { control, count } => self.on_failed(cx, control, count),
            ToServerLoop::CloseTunnel { control, tunnel } => {
                self.drop_waiting(cx, control, tunnel, Dropped::Gone);
                self.close_ports(cx, |of, at| of == control && tunnel.is_none_or(|tunnel| tunnel == at));
                self.forget_tally(control, tunnel);
                self.tell_if_drained(cx);
            }
            ToServerLoop::HandOver { from, to } => self.hand_over(cx, from, to),
            ToServerLoop::Retire { control } => self.retire(cx, control),
            ToServerLoop::Limits { control, limits } => self.limit(cx, control, limits),
            ToServerLoop::KeepTo(timings) => {
                for shard in self.controls.values_mut() {
                    shard.ping_pace.begin_at(timings.of(shard.frugal).idle_ping_interval);
                }
                self.core.timings = *timings;
            }
            ToServerLoop::Settle => {
                self.settling = true;
                self.tell_if_settled(cx);
            }
            ToServerLoop::Leave => {
                self.core.draining = true;
                self.close_ports(cx, |_, _| true);
                self.controls.values_mut().for_each(|shard| shard.pool.close());
                self.tell_if_drained(cx);
            }
            ToServerLoop::Drain => {
                self.core.draining = true;
                self.closed = true;
                self.close_ports(cx, |_, _| true);
                self.controls.values_mut().for_each(|shard| shard.pool.close());
                let controls: Vec<_> = self.controls.keys().copied().collect();
                for control in controls {
                    self.drop_waiting(cx, control, None, Dropped::Gone);
                }
                self.tell_if_drained(cx);
            }
            ToServerLoop::Bandwidth { control, tunnel, direction, bytes } => {
                self.on_bandwidth(cx, (control, tunnel), direction, bytes);
            }
            ToServerLoop::Line { control, conn, line } => self.on_line(cx, control, conn, line),
            ToServerLoop::Trim => self.trim(cx),
            ToServerLoop::Report { asked } => {
                let part = Box::new(self.report(cx.now, asked));
                cx.sys.tell(FromServerLoop::Report(part));
            }
            ToServerLoop::Stop => {
                let controls: Vec<_> = self.controls.keys().copied().collect();
                for control in controls {
                    self.close(cx, control, AbortCode::Stopping);
                }
            }
        }
    }

    fn on_ready(&mut self, cx: &mut Cx<'_, S>, token: Token, ready: Readiness) {
        match self.slots.get_mut(token) {
            None => {}
            Some(Slot::Conn(conn)) => {
                conn.link.port.on_ready(ready);
                if ready.error && failed(cx, &conn.link.port) {
                    self.end(cx, token, End::Abort(AbortCode::ConnLost));
                } else {
                    self.drive(cx, token);
                }
            }
            Some(Slot::Port(_)) => self.hear_port(cx, token),
            Some(Slot::Visitor(visitor)) => {
                visitor.port.on_ready(ready);
                // One that waits is not looked at: whatever it said before it left is the LocalServer's to hear.
                if let Some(conn) = visitor.conn {
                    self.drive(cx, conn);
                } else if ready.error && planted(PlantedBug::GoneWaiterForgotten) {
                    self.drop_visitor(cx, token, Dropped::Gone);
                }
            }
        }
    }

    fn run_busy(&mut self, cx: &mut Cx<'_, S>) {
        for _ in 0..self.core.turns() {
            let Some(token) = self.core.next_turn() else { return };
            match self.slots.get_mut(token) {
                Some(Slot::Conn(conn)) => {
                    conn.queued = false;
                    self.drive(cx, token);
                }
                Some(Slot::Port(port)) => {
                    port.queued = false;
                    self.hear_port(cx, token);
                }
                Some(Slot::Visitor(_)) | None => {}
            }
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_, S>) {
        while let Some(token) = self.core.timers.pop_due(cx.now) {
            match self.slots.get_mut(token) {
                None | Some(Slot::Port(_)) => {}
                Some(Slot::Conn(conn)) => {
                    conn.deadline = None;
                    self.on_conn_deadline(cx, token);
                }
                Some(Slot::Visitor(visitor)) => {
                    visitor.deadline = None;
                    if visitor.flow.is_some() {
                        self.on_flow_deadline(cx, token);
                        continue;
                    }
                    self.on_waited(cx, token);
                }
            }
        }
        if self.core.look_is_due(cx.now) {
            self.look(cx);
        }
        if self.next_retry.is_some_and(|at| at <= cx.now) {
            let controls: Vec<_> = self.controls.keys().copied().collect();
            for control in controls {
                self.ask(cx, control);
            }
            let retries = self.controls.values().filter_map(|shard| shard.pool.next_deadline());
            self.next_retry = retries.min();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.core.next_deadline().into_iter().chain(self.next_retry).min()
    }

    fn is_busy(&self) -> bool {
        self.core.turns() > 0
    }
}

impl<T, P> ServerLoop<T, P> {
    fn open<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, limits: Limits) {
        let mut shard = Shard {
            holder: limits.holder,
            frugal: limits.frugal,
            secured: limits.secured,
            pool: Pool::new(limits.keep),
            path: PathState::Down,
            ping_pace: PingPace::new(self.core.timings.of(limits.frugal).idle_ping_interval),
            conns: BTreeMap::new(),
            max_connections: limits.max_connections,
            max_waiting: limits.max_waiting,
            waited: 0,
            active: 0,
            max_bandwidth: limits.max_bandwidth,
            visits: BTreeMap::new(),
            loop_count: limits.loop_count,
            closing: false,
            retired: false,
            heirs: BTreeMap::new(),
            stir: Stir::default(),
            tally: Counted::default(),
        };
        shard.waited = shard.waiting(&self.ledger);
        let before = self.controls.insert(control, shard);
        assert!(before.is_none(), "a control's key is used once");
        self.ask(cx, control);
    }

    /// A session may use more or less from now on.
    fn limit<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, limits: Limits) {
        let Some(shard) = self.controls.get_mut(&control) else { return };
        shard.waited = shard.waiting(&self.ledger);
        (shard.max_connections, shard.max_waiting) = (limits.max_connections, limits.max_waiting);
        shard.pool.keep(limits.keep);
        (shard.frugal, shard.secured) = (limits.frugal, limits.secured);
        shard.ping_pace.begin_at(self.core.timings.of(limits.frugal).idle_ping_interval);
        shard.max_bandwidth = limits.max_bandwidth;
        for &token in shard.conns.values() {
            if let Some(Slot::Conn(conn)) = self.slots.get_mut(token)
                && let State::Active(active) = &mut conn.state
            {
                active.max_bandwidth = limits.max_bandwidth;
            }
        }
        self.ask(cx, control);
    }

    // PROTOCOL.md: P-END-2.
    fn close<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, code: AbortCode) {
        self.drop_waiting(cx, control, None, Dropped::Gone);
        let Some(shard) = self.controls.get_mut(&control) else {
            return;
        };
        shard.closing = true;
        shard.pool.close();
        let tokens: Vec<_> = shard.conns.values().copied().collect();
        for token in tokens {
            // The last bytes of a transfer that the client is through with are in our own sockets by now.
            let delivered = code != AbortCode::Stopping
                && matches!(self.slots.get(token), Some(Slot::Conn(conn)) if conn.state.is_done());
            let delivered = delivered || planted(PlantedBug::SessionLeftOpen);
            if !delivered {
                self.drop_conn(cx, token, code, false);
            }
        }
        self.forget(control);
        self.tell_if_drained(cx);
    }

    /// Forgets a closed session once none of its conns is left.
    fn forget(&mut self, control: ControlKey) {
        if self.controls.get(&control).is_some_and(|shard| shard.closing && shard.conns.is_empty()) {
            self.controls.remove(&control);
            self.allowances.forget(|(of, _)| of == control);
        }
    }

    fn on_conn<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, id: ConnId, stream: T) {
        let Some(shard) = self.controls.get_mut(&control).filter(|shard| !shard.closing) else {
            cx.sys.close(stream);
            return;
        };
        if shard.retired {
            cx.sys.close(stream);
            cx.sys.tell(FromServerLoop::ConnGone { control, conn: id });
            return;
        }
        if shard.frugal {
            cx.sys.probe(&stream, &self.core.timings.frugal());
        }
        let state = State::Idle { conn: IdleConn::default(), since: cx.now };
        let made = self.slots.insert_with(|token| match cx.sys.watch(&stream, token) {
            Ok(()) => Ok(Slot::Conn(Box::new(Conn {
                control,
                id,
                link: Link::new(Endpoint::new(stream)),
                framer: Framer::default(),
                state,
                pinged: false,
                heard: cx.now,
                silence: Duration::ZERO,
                closed: false,
                queued: false,
                deadline: None,
            }))),
            Err(_) => Err(stream),
        });
        match made {
            Ok(token) => {
                shard.conns.insert(id, token);
                shard.tally.opened += 1;
                self.core.totals.proxy_conns += 1;
                cx.sys.note(Note::ConnUp { conn: id });
                let visitor = shard.pool.on_new(token);
                self.give(cx, token, visitor);
                // It ends a pause, and more may wait than it can serve (P3).
                self.ask(cx, control);
                // What came while the handshake's thread had the socket is not reported again.
                self.drive(cx, token);
            }
            Err(stream) => {
                cx.sys.close(stream);
                cx.sys.tell(FromServerLoop::ConnGone { control, conn: id });
                self.on_failed(cx, control, 1);
            }
        }
    }

    /// `count` conns that were asked for will not come.
    fn on_failed<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, count: u32) {
        if let Some(shard) = self.controls.get_mut(&control) {
            let random = random_u32(cx.sys);
            shard.pool.on_failed(count, cx.now, random);
            self.next_retry = self.next_retry.into_iter().chain(shard.pool.next_deadline()).min();
        }
    }

    fn ask<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey) {
        if let Some(shard) = self.controls.get_mut(&control) {
            let count = shard.pool.ask(cx.now);
            if count > 0 {
                cx.sys.tell(FromServerLoop::Ask { control, loop_index: self.core.loop_index, count });
            }
        }
    }

    /// Closes the idle conns that are not kept ready, the longest unused first.
    fn trim<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>) {
        let surplus: Vec<_> = self.controls.values().flat_map(|shard| shard.pool.surplus()).collect();
        for token in surplus {
            self.end(cx, token, End::Abort(AbortCode::Resources));
        }
    }

    /// Says so to the main thread if it waits until nobody waits for a conn.
    fn tell_if_settled<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>) {
        if self.settling && self.controls.values().all(|shard| shard.pool.waits() == 0) {
            self.settling = false;
            cx.sys.tell(FromServerLoop::Settled { loop_index: self.core.loop_index });
        }
    }

    fn tell_if_drained<S: LoopSys<T, P>>(&self, cx: &mut Cx<'_, S>) {
        let none_left = || self.controls.values().all(|shard| shard.active == 0 && shard.pool.waits() == 0);
        let drained = |loop_index| FromServerLoop::Drained { loop_index };
        self.core.tell_if_drained(cx.sys, none_left, drained);
    }
}

type Pair<'a, T, P> = (&'a mut Conn<T, P>, Option<&'a mut Visitor<T>>);

/// A conn's transfer, if it carries one.
fn active<T, P>(slots: &mut Slab<Slot<T, P>>, token: Token) -> Option<&mut Active> {
    match slots.get_mut(token)? {
        Slot::Conn(conn) => match &mut conn.state {
            State::Active(active) => Some(active),
            State::Idle { .. } => None,
        },
        Slot::Visitor(_) | Slot::Port(_) => None,
    }
}

#[cfg(test)]
mod tests;
