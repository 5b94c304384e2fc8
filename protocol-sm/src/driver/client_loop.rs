//! An event loop of the client: proxy_conns, and the LocalServer's connections behind them.
//!
//! Every proxy_conn and every local_conn has one slot; a local_conn's slot says which conn it belongs to,
//! the conn's which local_conn it has. Readiness of either drives both.

mod check;
mod datagrams;
mod dialling;
mod opening;
mod paths;
mod report;
mod transfers;

use super::loop_core::{LoopCore, Pace, Phase};
use super::messages::{FromClientLoop, ToClientLoop};
use super::relay::{End, Endpoint, Link, failed};
use super::slab::{Slab, Token};
use super::sys::{Datagrams, Log, Readiness, Splice};
use super::thread::{Cx, Driver, Tell};
use super::totals::Totals;
use crate::auth::SessionKey;
use crate::bandwidth::{Allowances, Rate};
use crate::codes::AbortCode;
use crate::conn::client::{ActiveConn, IdleConn, Stage};
use crate::datagrams::{Front, PathState};
use crate::dead_path::Path;
use crate::ids::{ConnId, SessionId, TunnelId};
use crate::notes::{ConnFailure, Note};
use crate::outbound::{Destination, Passage};
use crate::report::{Counted, TunnelTally};
use crate::routes::Secured;
use crate::settings::{Serving, Timings};
use crate::stir::Stir;
use crate::time::Instant;
use crate::visit::{Begun, Label, VisitEnd};
use crate::wire::{Framer, Proof, ProxyToClient, ReplyReader};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use dialling::{Dial, LocalServer};

type Labels = BTreeMap<TunnelId, Arc<Label>>;

/// See the module. `T` is a stream, `P` a pipe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientLoop<T, P> {
    core: LoopCore,
    /// The session that conns are opened for. Those of earlier ones may be there still.
    serial: u64,
    locals: BTreeMap<TunnelId, LocalServer>,
    /// What the access log calls the tunnels; empty where that is off.
    labels: Labels,
    /// How visitors of the tunnels are served, where that is not as usual.
    servings: BTreeMap<TunnelId, Serving>,
    /// What they may move now.
    allowances: Allowances<TunnelId>,
    /// Conns whose visitors wait until their LocalServer's name is looked up; some may be gone.
    await_names: Vec<(TunnelId, Token)>,
    /// By the serial number of their session.
    conns: BTreeMap<(u64, ConnId), Token>,
    slots: Slab<Slot<T, P>>,
    /// Conns that carry a transfer.
    active: u32,
    /// It is not drained before the idle conns are gone, too.
    drain_idle: bool,
    /// A session's path.
    path: (u64, PathState),
    /// The main thread knows that a conn of this session has stood.
    told_up: bool,
    /// Whether payload moves towards the server, looked at where a conn is opened.
    stir: Stir,
    /// What is counted of each tunnel.
    tallies: Counted<BTreeMap<TunnelId, TunnelTally>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Slot<T, P> {
    Conn(Box<Conn<T, P>>),
    Local(Local<T>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Conn<T, P> {
    /// The session that it belongs to.
    serial: u64,
    id: ConnId,
    link: Link<T, P>,
    framer: Framer<ProxyToClient>,
    /// What is known of the TLS of the visitor whose `Start` comes next.
    secured: Option<Box<Secured>>,
    state: State,
    /// It waits for another turn.
    queued: bool,
    deadline: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Being opened: connecting, then the handshake. The server may start a transfer right behind its
    /// `Accepted`, and a `Fin` on the ctl_conn may overtake both.
    Opening {
        conn: IdleConn,
        step: Step,
        /// Where it goes.
        to: Destination,
        /// Why it fails, once that is known.
        why: Option<ConnFailure>,
        since: Instant,
    },
    Idle(IdleConn),
    Active(Active),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Connecting to the server, and making the channel where it is to be encrypted; or connecting to a proxy, and going
    /// through it before that.
    Connecting {
        session: SessionId,
        secret: SessionKey,
        passage: Option<Box<Passage>>,
        /// The passage has begun.
        passing: bool,
    },
    /// The server's answer to the preface is due, then `Accepted` with this proof.
    Greeting {
        reader: ReplyReader,
        accept: Proof,
    },
    Accepting {
        accept: Proof,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Active {
    conn: ActiveConn,
    tunnel: TunnelId,
    /// The way to the LocalServer, until it is connected or refused.
    dial: Option<Box<Dial>>,
    /// Gone once both its directions are shut.
    local: Option<Token>,
    /// What the conn's deadline is for.
    pace: Pace,
    path: Path,
    /// What the tunnel may move in each direction.
    max_bandwidth: Rate,
    /// Which halves could move more, and wait for bandwidth: egress, ingress.
    throttled: [bool; 2],
    flow: Option<Box<Flow>>,
    /// Who came, if the visit is to leave a record.
    visitor: Option<Box<Peer>>,
    began: Counted<Instant>,
    /// Since when the LocalServer is connected.
    served: Counted<Option<Instant>>,
}

/// What only a flow of datagrams has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Flow {
    /// What stands in front of its datagrams.
    front: Option<Front>,
    /// Bytes that went by the session's path: to the LocalServer, and from it.
    by_path: [u64; 2],
}

/// An address and a port, in the least room: every idle visitor has one where there is an access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Peer {
    /// An IPv4 address as IPv6 writes it.
    ip: Ipv6Addr,
    port: u16,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip, port: address.port() }
    }
}

impl From<Peer> for SocketAddr {
    fn from(peer: Peer) -> Self {
        Self::new(peer.ip.to_canonical(), peer.port)
    }
}

impl Active {
    /// Bytes that went by the session's path: to the LocalServer, and from it.
    fn by_path(&self) -> [u64; 2] {
        self.flow.as_deref().map(|flow| flow.by_path).unwrap_or_default()
    }

    /// The record of its visit, which is over; none where the log is off, or it was made before.
    fn over(&mut self, now: Instant, labels: &Labels, outcome: VisitEnd) -> Option<Note> {
        let visitor = SocketAddr::from(*self.visitor.take()?);
        let mut visit = Begun::new(labels.get(&self.tunnel).cloned(), *self.began)?;
        self.served.iter().for_each(|&served| visit.on_served(served));
        let [mut down, mut up] = self.conn.transfer.ways();
        let [to_local, from_local] = self.by_path();
        up.bytes += to_local;
        down.bytes += from_local;
        Some(visit.over(now, visitor, [up, down], outcome))
    }

    /// `unanswered`: `Started` has not gone out.
    fn phase(&self, unanswered: bool) -> Phase {
        if self.conn.stage() == Stage::Dialling {
            Phase::Dial
        } else if unanswered
            && matches!(self.pace.phase, Phase::Dial | Phase::Answer)
            && !self.conn.transfer.egress.ended()
        {
            Phase::Answer
        } else {
            Phase::answered(&self.conn.transfer)
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Local<T> {
    conn: Token,
    port: Endpoint<T>,
}

/// What this thread needs of its system.
trait LoopSys<T, P>: Splice<Stream = T, Pipe = P> + Datagrams + Log + Tell<FromClientLoop> {}

impl<T, P, S: Splice<Stream = T, Pipe = P> + Datagrams + Log + Tell<FromClientLoop>> LoopSys<T, P> for S {}

impl<T, P> ClientLoop<T, P> {
    /// An empty event loop, the thread pool's number `loop_index`.
    #[must_use]
    pub fn new(loop_index: usize, timings: Timings) -> Self {
        Self {
            core: LoopCore::new(loop_index, timings),
            serial: 0,
            locals: BTreeMap::new(),
            labels: Labels::new(),
            servings: BTreeMap::new(),
            allowances: Allowances::default(),
            await_names: Vec::new(),
            conns: BTreeMap::new(),
            slots: Slab::default(),
            active: 0,
            drain_idle: false,
            path: (0, PathState::Down),
            told_up: false,
            stir: Stir::default(),
            tallies: Counted::default(),
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

    /// Forgets what closed tunnels were called: not before the session ends, for a visitor may have been started for one,
    /// and not where a visit goes on.
    fn forget_labels(&mut self) {
        let labels = core::mem::take(&mut self.labels);
        let (open, mut closed): (Labels, Labels) =
            labels.into_iter().partition(|(tunnel, _)| self.locals.contains_key(tunnel));
        self.labels = open;
        for (_, slot) in self.slots.iter() {
            if let Slot::Conn(conn) = slot
                && let State::Active(active) = &conn.state
                && let Some((tunnel, label)) = closed.remove_entry(&active.tunnel)
            {
                self.labels.insert(tunnel, label);
            }
        }
    }
}

impl<T, P, S> Driver<S> for ClientLoop<T, P>
where
    S: Splice<Stream = T, Pipe = P> + Datagrams + Log + Tell<FromClientLoop>,
{
    type Message = ToClientLoop;

    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: ToClientLoop) {
        match message {
            ToClientLoop::Session { serial } => {
                self.serial = serial;
                self.told_up = false;
                self.forget_labels();
            }
            ToClientLoop::End { serial, code } => self.end_session(cx, serial, code),
            ToClientLoop::Serve { tunnel, serving } => self.serve(tunnel, serving),
            ToClientLoop::Bandwidth { tunnel, direction, bytes } => self.on_bandwidth(cx, tunnel, direction, bytes),
            ToClientLoop::Tunnel { tunnel, locals, place, sources, serving, label } => {
                self.set_serving(tunnel, serving);
                self.labels.extend(label.map(|label| (tunnel, label)));
                let local = self.locals.entry(tunnel).or_insert_with(|| LocalServer::new(&place));
                local.name.on_answer(&locals, cx.now);
                local.ports.set_sources(&sources);
                self.dial_awaiting(cx, tunnel);
            }
            ToClientLoop::CloseTunnel { tunnel } => {
                let gone = self.locals.remove(&tunnel);
                self.servings.remove(&tunnel);
                self.tallies.remove(&tunnel);
                self.dial_awaiting(cx, tunnel);
                self.refuse_waiting(cx, gone);
            }
            ToClientLoop::Relocated { tunnel, place } => {
                if let Some(local) = self.locals.get_mut(&tunnel) {
                    local.relocate(&place);
                }
            }
            ToClientLoop::KeepTo(timings) => {
                cx.sys.keep_to(&timings);
                self.core.timings = *timings;
            }
            ToClientLoop::Open { from, to, conn, session, secret } => {
                let passage = to.passage();
                self.open(cx, &from, to, conn, Step::Connecting { session, secret, passage, passing: false })
            }
            ToClientLoop::Line { serial, conn, line } => self.on_line(cx, (serial, conn), line),
            ToClientLoop::Transfer { serial, msg } => self.on_transfer_msg(cx, serial, msg),
            ToClientLoop::Path { serial, state } => self.set_path(serial, state),
            ToClientLoop::Datagram { serial, datagram } => self.on_path_datagram(cx, serial, &datagram),
            ToClientLoop::Back { serial, datagram } => self.on_path_back(cx, serial, &datagram),
            ToClientLoop::Drain { idle_too } => {
                self.core.draining = true;
                self.drain_idle = idle_too;
                self.tell_if_drained(cx);
            }
            ToClientLoop::Report { asked } => {
                let part = Box::new(self.report(cx.now, asked));
                cx.sys.tell(FromClientLoop::Report(part));
            }
        }
    }

    fn on_ready(&mut self, cx: &mut Cx<'_, S>, token: Token, ready: Readiness) {
        match self.slots.get_mut(token) {
            None => {}
            Some(Slot::Conn(conn)) => {
                conn.link.port.on_ready(ready);
                // What a proxy said before it closed is read first.
                if ready.error && !is_passing(&conn.state) && failed(cx, &conn.link.port) {
                    self.end(cx, token, End::Abort(AbortCode::ConnLost));
                } else {
                    self.drive(cx, token);
                }
            }
            Some(Slot::Local(local)) => {
                let conn = local.conn;
                local.port.on_ready(ready);
                if self.is_dialling(conn) {
                    self.on_dial_event(cx, conn, token);
                    return;
                }
                self.drive(cx, conn);
            }
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_, S>) {
        while let Some(token) = self.core.timers.pop_due(cx.now) {
            let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { continue };
            conn.deadline = None;
            let State::Active(active) = &mut conn.state else {
                self.on_slow_handshake(cx, token);
                continue;
            };
            match active.pace.phase {
                Phase::Dial => self.on_dial_deadline(cx, token),
                Phase::Answer => {
                    active.pace.phase = Phase::Flowing;
                    self.drive(cx, token);
                }
                Phase::Lingering => self.drive(cx, token),
                Phase::Flowing | Phase::HalfOpen => {
                    let Active { conn: ActiveConn { transfer, .. }, pace, throttled, .. } = active;
                    let throttled = throttled.contains(&true);
                    if !self.core.renew_if_moved(cx.now, token, &mut conn.deadline, pace, transfer, throttled) {
                        self.end(cx, token, End::Abort(AbortCode::Deadline));
                    }
                }
            }
        }
        if self.core.look_is_due(cx.now) {
            self.look(cx);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.core.next_deadline()
    }

    fn run_busy(&mut self, cx: &mut Cx<'_, S>) {
        for _ in 0..self.core.turns() {
            let Some(token) = self.core.next_turn() else { return };
            if let Some(Slot::Conn(conn)) = self.slots.get_mut(token) {
                conn.queued = false;
                self.drive(cx, token);
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.core.turns() > 0
    }
}

impl<T, P> ClientLoop<T, P> {
    fn end_session<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, serial: u64, code: AbortCode) {
        let of_session = self.conns.range((serial, ConnId(0))..=(serial, ConnId(u64::MAX)));
        let tokens: Vec<_> = of_session.map(|(_, &token)| token).collect();
        for token in tokens {
            self.drop_conn(cx, token, code, false);
        }
    }

    /// Does everything that can be done on a conn now.
    fn drive<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return };
        let driven = match &conn.state {
            State::Opening { .. } => self.drive_opening(cx, token),
            State::Idle(_) => self.drive_idle(cx, token),
            State::Active(_) => self.drive_active(cx, token),
        };
        if let Err(end) = driven {
            self.end(cx, token, end);
        }
    }

    fn tell_if_drained<S: LoopSys<T, P>>(&self, cx: &mut Cx<'_, S>) {
        let drained = |loop_index| FromClientLoop::Drained { loop_index };
        let none_left = || {
            let of_session = self.conns.range((self.serial, ConnId(0))..);
            self.active == 0 && (!self.drain_idle || of_session.count() == 0)
        };
        self.core.tell_if_drained(cx.sys, none_left, drained);
    }
}

/// Whether a conn's way through a proxy has begun.
fn is_passing(state: &State) -> bool {
    matches!(state, State::Opening { step: Step::Connecting { passing: true, .. }, .. })
}

/// A conn's transfer, if it carries one.
fn active<T, P>(slots: &mut Slab<Slot<T, P>>, token: Token) -> Option<&mut Active> {
    match slots.get_mut(token)? {
        Slot::Conn(conn) => match &mut conn.state {
            State::Active(active) => Some(active),
            State::Opening { .. } | State::Idle(_) => None,
        },
        Slot::Local(_) => None,
    }
}

#[cfg(test)]
mod tests;
