//! An event loop of the server: proxy_conns, and the visitors that they serve.
//!
//! Every proxy_conn and every visitor has one slot; a visitor's slot says which conn it was given, the
//! conn's which visitor it serves. Readiness of either drives both.

mod check;

use super::Cx;
use super::messages::{ControlKey, FromServerLoop, Limits, ToServerLoop};
use super::relay::{End, Link, Port, failed};
use super::slab::{Slab, Token};
use super::sys::{Driver, Dropped, Note, Readiness, Sys, SysError, Tell, random_u32};
use super::timers::Timers;
use crate::codes::{AbortCode, Violation};
use crate::conn::Heard;
use crate::conn::server::{ActiveConn, Answer, IdleConn};
use crate::ids::{ConnId, Epoch, TunnelId};
use crate::pool::{Pool, Visit};
use crate::settings::Timings;
use crate::time::Instant;
use crate::transfer::Half;
use crate::wire::{ClientMsg, Framer, Message, ProxyToClient, ProxyToServer, ServerMsg};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;

/// See the module. `T` is a stream, `P` a pipe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerLoop<T, P> {
    lane: usize,
    timings: Timings,
    controls: BTreeMap<ControlKey, Shard>,
    slots: Slab<Slot<T, P>>,
    timers: Timers,
    /// Conns whose turn was cut short, for others.
    busy: VecDeque<Token>,
    /// The earliest time at which a pool asks again.
    next_retry: Option<Instant>,
    draining: bool,
    totals: Totals,
}

/// What a loop has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Totals {
    /// Visitors that came, or transfers begun on the client.
    pub visitors: u64,
    /// Transfers that ended well.
    pub finished: u64,
    /// Transfers cut short, and visitors never served.
    pub aborted: u64,
    /// proxy_conns that became idle for the first time.
    pub proxy_conns: u64,
    /// Messages about things that were gone.
    pub stale: u64,
}

/// One client's part of this loop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shard {
    pool: Pool<Token, Token>,
    conns: BTreeMap<ConnId, Token>,
    max_connections: u32,
    active: u32,
    /// The session is over: what is left is transfers that the client is through with.
    closing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Slot<T, P> {
    Conn(Box<Conn<T, P>>),
    Visitor(Visitor<T>),
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
    /// It stands in [`ServerLoop::busy`].
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
    /// Gone once both its directions are shut.
    visitor: Option<Token>,
    /// What the conn's deadline is for.
    phase: Phase,
    /// Bytes moved when the half-open deadline was set.
    progress: u64,
}

/// What an active conn's deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// The client must answer `Start`.
    Answer,
    /// Both directions flow: no deadline.
    Flowing,
    /// One direction is over: the other must make progress.
    HalfOpen,
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

impl Active {
    fn moved(&self) -> u64 {
        self.conn.egress.forwarded() + self.conn.ingress.forwarded()
    }

    fn phase(&self) -> Phase {
        if self.conn.answer() == Answer::Awaiting {
            Phase::Answer
        } else if self.conn.egress.ended() || self.conn.ingress.through() {
            Phase::HalfOpen
        } else {
            Phase::Flowing
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Visitor<T> {
    control: ControlKey,
    tunnel: TunnelId,
    from: SocketAddr,
    port: Port<T>,
    /// The conn that serves it; until then it waits.
    conn: Option<Token>,
    deadline: Option<Instant>,
}

/// What this thread needs of its system.
trait LoopSys<T, P>: Sys<Stream = T, Pipe = P> + Tell<FromServerLoop> {}

impl<T, P, S: Sys<Stream = T, Pipe = P> + Tell<FromServerLoop>> LoopSys<T, P> for S {}

impl<T, P> ServerLoop<T, P> {
    /// An empty loop; `lane` is its index.
    #[must_use]
    pub fn new(lane: usize, timings: Timings) -> Self {
        Self {
            lane,
            timings,
            controls: BTreeMap::new(),
            slots: Slab::default(),
            timers: Timers::default(),
            busy: VecDeque::new(),
            next_retry: None,
            draining: false,
            totals: Totals::default(),
        }
    }

    /// What it has done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Sockets that it owns.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.slots.len()
    }
}

impl<T, P, S> Driver<S> for ServerLoop<T, P>
where
    S: Sys<Stream = T, Pipe = P> + Tell<FromServerLoop>,
{
    type Message = ToServerLoop<T>;

    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: ToServerLoop<T>) {
        match message {
            ToServerLoop::Open { control, limits } => self.open(cx, control, limits),
            ToServerLoop::Close { control, code } => self.close(cx, control, code),
            ToServerLoop::Conn { control, conn, stream } => self.on_conn(cx, control, conn, stream),
            ToServerLoop::Visitor { control, tunnel, stream, from } => {
                self.on_visitor(cx, control, tunnel, stream, from);
            }
            ToServerLoop::Message { control, msg } => self.on_client_msg(cx, control, msg),
            ToServerLoop::CloseTunnel { control, tunnel } => {
                self.drop_waiting(cx, control, tunnel, Dropped::Gone);
            }
            ToServerLoop::Drain => {
                self.draining = true;
                self.controls.values_mut().for_each(|shard| shard.pool.close());
                let controls: Vec<_> = self.controls.keys().copied().collect();
                for control in controls {
                    self.drop_waiting(cx, control, None, Dropped::Gone);
                }
                self.tell_if_drained(cx);
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
            Some(Slot::Visitor(visitor)) => {
                visitor.port.on_ready(ready);
                let lost = ready.error && failed(cx, &visitor.port);
                match visitor.conn {
                    Some(conn) if lost => self.end(cx, conn, End::Abort(AbortCode::OuterReset)),
                    Some(conn) => self.drive(cx, conn),
                    None if lost => self.drop_visitor(cx, token, Dropped::Left),
                    None => {}
                }
            }
        }
    }

    fn run_busy(&mut self, cx: &mut Cx<'_, S>) {
        for _ in 0..self.busy.len() {
            let Some(token) = self.busy.pop_front() else {
                return;
            };
            if let Some(Slot::Conn(conn)) = self.slots.get_mut(token) {
                conn.queued = false;
                self.drive(cx, token);
            }
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_, S>) {
        while let Some(token) = self.timers.pop_due(cx.now) {
            match self.slots.get_mut(token) {
                None => {}
                Some(Slot::Conn(conn)) => {
                    conn.deadline = None;
                    self.on_conn_deadline(cx, token);
                }
                Some(Slot::Visitor(visitor)) => {
                    visitor.deadline = None;
                    self.drop_visitor(cx, token, Dropped::WaitedTooLong);
                }
            }
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
        self.timers.next().into_iter().chain(self.next_retry).min()
    }

    fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }
}

impl<T, P> ServerLoop<T, P> {
    fn open<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, limits: Limits) {
        let shard = Shard {
            pool: Pool::new(limits.keep, limits.max_waiting),
            conns: BTreeMap::new(),
            max_connections: limits.max_connections,
            active: 0,
            closing: false,
        };
        let before = self.controls.insert(control, shard);
        assert!(before.is_none(), "a control's key is used once");
        self.ask(cx, control);
    }

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
        }
    }

    fn on_conn<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, id: ConnId, stream: T) {
        let Some(shard) = self.controls.get_mut(&control).filter(|shard| !shard.closing) else {
            cx.sys.close(stream);
            return;
        };
        let state = State::Idle { conn: IdleConn::default(), since: cx.now };
        let made = self.slots.insert_with(|token| match cx.sys.watch(&stream, token) {
            Ok(()) => Ok(Slot::Conn(Box::new(Conn {
                control,
                id,
                link: Link::new(Port::new(stream)),
                framer: Framer::default(),
                state,
                pinged: false,
                queued: false,
                deadline: None,
            }))),
            Err(_) => Err(stream),
        });
        match made {
            Ok(token) => {
                shard.conns.insert(id, token);
                self.totals.proxy_conns += 1;
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
    fn on_failed<S: Sys>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, count: u32) {
        if let Some(shard) = self.controls.get_mut(&control) {
            let random = random_u32(cx.sys);
            shard.pool.on_failed(count, cx.now, random);
            self.next_retry = self.next_retry.into_iter().chain(shard.pool.next_deadline()).min();
        }
    }

    fn on_visitor<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        control: ControlKey,
        tunnel: TunnelId,
        stream: T,
        from: SocketAddr,
    ) {
        self.totals.visitors += 1;
        let refused = match self.controls.get(&control) {
            None => Some(Dropped::Gone),
            Some(shard) if self.draining || shard.closing => Some(Dropped::Gone),
            Some(shard) => {
                let waiting = u32::try_from(shard.pool.waiting().len()).unwrap_or(u32::MAX);
                let many = shard.active.saturating_add(waiting) >= shard.max_connections;
                many.then_some(Dropped::TooMany)
            }
        };
        if let Some(why) = refused {
            self.totals.aborted += 1;
            cx.sys.note(Note::VisitorDropped { visitor: from, tunnel, why });
            cx.sys.reset(stream);
            return;
        }
        let made = self.slots.insert_with(|token| match cx.sys.watch(&stream, token) {
            Ok(()) => Ok(Slot::Visitor(Visitor {
                control,
                tunnel,
                from,
                port: Port::new(stream),
                conn: None,
                deadline: None,
            })),
            Err(_) => Err(stream),
        });
        match made {
            Ok(token) => self.place(cx, control, token),
            Err(stream) => {
                self.totals.aborted += 1;
                cx.sys.note(Note::VisitorDropped { visitor: from, tunnel, why: Dropped::Resources });
                cx.sys.reset(stream);
            }
        }
    }

    /// Gives a visitor a conn, or a place in the queue, or a reset.
    fn place<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, visitor: Token) {
        let Some(shard) = self.controls.get_mut(&control) else {
            return;
        };
        match shard.pool.on_visitor(visitor) {
            Visit::Start(conn) => self.give(cx, conn, Some(visitor)),
            Visit::Wait => {
                let at = cx.now + self.timings.wait_timeout;
                if let Some(Slot::Visitor(waiting)) = self.slots.get_mut(visitor) {
                    self.timers.set(visitor, &mut waiting.deadline, Some(at));
                }
            }
            Visit::Reject => self.drop_visitor(cx, visitor, Dropped::QueueFull),
        }
        self.ask(cx, control);
    }

    /// A conn is idle, and was given to `visitor`, if any waits.
    fn give<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, visitor: Option<Token>) {
        let Some(visitor) = visitor else {
            if let Some(Slot::Conn(conn)) = self.slots.get_mut(token) {
                let at = cx.now + self.timings.idle_ping_interval;
                self.timers.set(token, &mut conn.deadline, Some(at));
            }
            return;
        };
        let Some((Slot::Conn(conn), Slot::Visitor(guest))) = self.slots.get_two(token, visitor) else {
            unreachable!("the pool knows only conns and visitors that are there");
        };
        let State::Idle { conn: idle, .. } = &conn.state else { unreachable!("P2: only an idle conn is given") };
        let Some(active) = idle.clone().start() else {
            // Its epochs are used up: another conn must do it.
            let control = conn.control;
            self.drop_conn(cx, token, AbortCode::ConnLost, false);
            self.place(cx, control, visitor);
            return;
        };
        let mut frame = [0; 2 + ProxyToClient::MAX];
        let start = ProxyToClient::Start { epoch: active.epoch(), tunnel: guest.tunnel, visitor: guest.from };
        let length = start.encode(&mut frame);
        conn.link.into.push_frame(&frame[..length]);
        cx.sys.note(Note::Started { conn: conn.id, epoch: active.epoch(), tunnel: guest.tunnel, visitor: guest.from });
        conn.state = State::Active(Active {
            conn: active,
            tunnel: guest.tunnel,
            visitor: Some(visitor),
            phase: Phase::Answer,
            progress: 0,
        });
        guest.conn = Some(token);
        self.timers.set(visitor, &mut guest.deadline, None);
        let answer_by = cx.now + self.timings.dial_timeout.saturating_mul(2);
        self.timers.set(token, &mut conn.deadline, Some(answer_by));
        if let Some(shard) = self.controls.get_mut(&conn.control) {
            shard.active += 1;
        }
        self.drive(cx, token);
    }

    fn ask<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey) {
        if let Some(shard) = self.controls.get_mut(&control) {
            let count = shard.pool.ask(cx.now);
            if count > 0 {
                cx.sys.tell(FromServerLoop::Ask { control, lane: self.lane, count });
            }
        }
    }

    fn on_client_msg<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, msg: ClientMsg) {
        let (id, epoch) = match msg {
            ClientMsg::Fin { conn, epoch, .. }
            | ClientMsg::Done { conn, epoch }
            | ClientMsg::Abort { conn, epoch, .. } => (conn, epoch),
            ClientMsg::ConnFailed { count } => return self.on_failed(cx, control, count),
            ClientMsg::RegisterTunnel { .. } | ClientMsg::CloseTunnel { .. } | ClientMsg::Drain => {
                unreachable!("the main thread handles it");
            }
        };
        let known = self.controls.get(&control).and_then(|shard| shard.conns.get(&id)).copied();
        let Some((token, Some(Slot::Conn(conn)))) = known.map(|token| (token, self.slots.get_mut(token))) else {
            self.stale(cx, id);
            return;
        };
        let heard = match hear(conn, &msg, epoch) {
            Ok(heard) => heard,
            Err(violation) => return self.end(cx, token, End::Violation(violation)),
        };
        match (heard, msg) {
            (Heard::Stale, _) => self.stale(cx, id),
            (Heard::Current, ClientMsg::Abort { code, .. }) => self.drop_conn(cx, token, code, true),
            (Heard::Current, _) => self.drive(cx, token),
        }
    }

    fn stale<S: Sys>(&mut self, cx: &mut Cx<'_, S>, conn: ConnId) {
        self.totals.stale += 1;
        cx.sys.note(Note::Stale { conn });
    }

    /// Does everything that can be done on a conn now.
    fn drive<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let driven = match self.slots.get_mut(token) {
            None | Some(Slot::Visitor(_)) => return,
            Some(Slot::Conn(conn)) => match &conn.state {
                State::Idle { .. } => self.drive_idle(cx, token),
                State::Active(_) => self.drive_active(cx, token),
            },
        };
        if let Err(end) = driven {
            self.end(cx, token, end);
        }
    }

    fn drive_idle<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<(), End> {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else {
            return Ok(());
        };
        conn.link.flush_frames(cx.sys)?;
        let was_pinged = conn.pinged;
        read_frames(cx, conn)?;
        if was_pinged && !conn.pinged {
            let at = cx.now + self.timings.idle_ping_interval;
            self.timers.set(token, &mut conn.deadline, Some(at));
        }
        Ok(())
    }

    fn drive_active<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<(), End> {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else {
            return Ok(());
        };
        let (control, conn_id) = (conn.control, conn.id);
        let refused_at = read_frames(cx, conn)?;
        let State::Active(active) = &mut conn.state else {
            return Ok(());
        };
        let epoch = active.conn.epoch();
        let fin = |total| FromServerLoop::Message { control, msg: ServerMsg::Fin { conn: conn_id, epoch, total } };
        if let Some(total) = refused_at {
            cx.sys.tell(fin(total));
        }
        if active.conn.answer() == Answer::Refused
            && let Some(visitor) = active.visitor.take()
        {
            self.totals.aborted += 1;
            self.reset_visitor(cx, visitor);
        }
        let Some((conn, guest)) = conn_and_visitor(&mut self.slots, token) else {
            return Ok(());
        };
        let State::Active(active) = &mut conn.state else {
            return Ok(());
        };
        let raw = active.conn.answer() == Answer::Started;
        let result = conn.link.exchange(
            cx,
            &mut active.conn.egress,
            &mut active.conn.ingress,
            guest.map(|guest| &mut guest.port),
            raw,
        )?;
        if let Some(total) = result.fin {
            cx.sys.tell(fin(total));
        }
        if result.again && !conn.queued {
            conn.queued = true;
            self.busy.push_back(token);
        }
        let phase = active.phase();
        if phase != active.phase {
            active.phase = phase;
            active.progress = active.moved();
            let at = (phase == Phase::HalfOpen).then(|| cx.now + self.timings.half_open_timeout);
            self.timers.set(token, &mut conn.deadline, at);
        }
        if active.conn.outer_is_through()
            && let Some(visitor) = active.visitor.take()
        {
            self.close_visitor(cx, visitor);
        }
        self.finish(cx, token);
        Ok(())
    }

    /// Puts a conn whose transfer is over on both sides back into the pool.
    fn finish<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else {
            return;
        };
        let State::Active(active) = &conn.state else {
            return;
        };
        if !conn.link.into.is_empty() || !conn.link.out.is_empty() {
            return;
        }
        let Ok(idle) = active.conn.clone().finish() else {
            return;
        };
        if active.conn.answer() == Answer::Started {
            self.totals.finished += 1;
            cx.sys.note(Note::Finished {
                conn: conn.id,
                epoch: active.conn.epoch(),
                egress: active.conn.egress.forwarded(),
                ingress: active.conn.ingress.forwarded(),
            });
        }
        conn.state = State::Idle { conn: idle, since: cx.now };
        let control = conn.control;
        self.timers.set(token, &mut conn.deadline, None);
        if let Some(shard) = self.controls.get_mut(&control) {
            shard.active -= 1;
        }
        // An end, or a byte that nobody may send, was left unread behind the total: it is not reported again,
        // and must not be found by the next visitor.
        self.drive(cx, token);
        if let (Some(Slot::Conn(_)), Some(shard)) = (self.slots.get_mut(token), self.controls.get_mut(&control)) {
            if shard.closing {
                self.drop_conn(cx, token, AbortCode::SessionOver, false);
            } else {
                let visitor = shard.pool.on_idle(token);
                self.give(cx, token, visitor);
            }
        }
        self.ask(cx, control);
        self.tell_if_drained(cx);
    }

    fn on_conn_deadline<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else {
            return;
        };
        match &mut conn.state {
            State::Idle { since, .. } => {
                let surplus = self.controls.get(&conn.control).is_some_and(|shard| shard.pool.has_surplus());
                let unused = cx.now.since(*since);
                if conn.pinged || (surplus && unused >= self.timings.idle_conn_lifetime) {
                    self.end(cx, token, End::Abort(AbortCode::Deadline));
                    return;
                }
                let mut frame = [0; 2 + ProxyToClient::MAX];
                let length = ProxyToClient::Ping.encode(&mut frame);
                conn.link.into.push_frame(&frame[..length]);
                conn.pinged = true;
                let at = cx.now + self.timings.idle_ping_timeout;
                self.timers.set(token, &mut conn.deadline, Some(at));
                self.drive(cx, token);
            }
            State::Active(active) => {
                let awaiting = active.conn.answer() == Answer::Awaiting;
                if awaiting || active.progress == active.moved() {
                    self.end(cx, token, End::Abort(AbortCode::Deadline));
                } else {
                    active.progress = active.moved();
                    let at = cx.now + self.timings.half_open_timeout;
                    self.timers.set(token, &mut conn.deadline, Some(at));
                }
            }
        }
    }

    /// A conn goes no further: tells the client what it must know, and drops it.
    fn end<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, end: End) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else {
            return;
        };
        let (control, id) = (conn.control, conn.id);
        match end {
            End::Violation(violation) => {
                cx.sys.note(Note::Violation { conn: Some(id), violation });
                self.drop_conn(cx, token, AbortCode::SessionOver, false);
                cx.sys.tell(FromServerLoop::Violation { control, violation });
            }
            End::Abort(code) => {
                if let State::Active(active) = &conn.state {
                    let epoch = active.conn.epoch();
                    let msg = ServerMsg::Abort { conn: id, epoch, code };
                    cx.sys.tell(FromServerLoop::Message { control, msg });
                }
                self.drop_conn(cx, token, code, false);
            }
        }
    }

    /// Closes a conn, resets its visitor, and forgets both.
    fn drop_conn<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, code: AbortCode, by_peer: bool) {
        let Some(Slot::Conn(mut conn)) = self.slots.remove(token) else {
            return;
        };
        self.timers.set(token, &mut conn.deadline, None);
        let idle = matches!(conn.state, State::Idle { .. });
        match conn.state {
            State::Idle { .. } => {
                cx.sys.note(Note::ConnDown { conn: conn.id });
                if let Some(shard) = self.controls.get_mut(&conn.control) {
                    shard.pool.remove_idle(token);
                }
            }
            State::Active(active) => {
                cx.sys.note(Note::Aborted { conn: conn.id, epoch: active.conn.epoch(), code, by_peer });
                if let Some(visitor) = active.visitor {
                    self.reset_visitor(cx, visitor);
                }
                if active.visitor.is_some() || active.conn.answer() != Answer::Refused {
                    self.totals.aborted += 1;
                }
                if let Some(shard) = self.controls.get_mut(&conn.control) {
                    shard.active -= 1;
                }
            }
        }
        if idle {
            conn.link.close(cx.sys)
        } else {
            conn.link.reset(cx.sys)
        }
        if let Some(shard) = self.controls.get_mut(&conn.control) {
            shard.conns.remove(&conn.id);
        }
        self.forget(conn.control);
        cx.sys.tell(FromServerLoop::ConnGone { control: conn.control, conn: conn.id });
        self.ask(cx, conn.control);
        self.tell_if_drained(cx);
    }

    fn drop_waiting<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        control: ControlKey,
        tunnel: Option<TunnelId>,
        why: Dropped,
    ) {
        let Some(shard) = self.controls.get(&control) else {
            return;
        };
        let waiting: Vec<_> = shard.pool.waiting().collect();
        for token in waiting {
            if let Some(Slot::Visitor(visitor)) = self.slots.get_mut(token)
                && tunnel.is_none_or(|tunnel| tunnel == visitor.tunnel)
            {
                self.drop_visitor(cx, token, why);
            }
        }
    }

    /// Resets a visitor that was never served.
    fn drop_visitor<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, why: Dropped)
    where
        S: Sys<Stream = T, Pipe = P>,
    {
        if let Some(Slot::Visitor(visitor)) = self.slots.get_mut(token) {
            let note = Note::VisitorDropped { visitor: visitor.from, tunnel: visitor.tunnel, why };
            cx.sys.note(note);
            self.totals.aborted += 1;
            if let Some(shard) = self.controls.get_mut(&visitor.control) {
                shard.pool.remove_waiting(token);
            }
        }
        self.reset_visitor(cx, token);
    }

    fn reset_visitor<S: Sys<Stream = T, Pipe = P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        if let Some(Slot::Visitor(mut visitor)) = self.slots.remove(token) {
            self.timers.set(token, &mut visitor.deadline, None);
            cx.sys.reset(visitor.port.stream);
        }
    }

    /// Closes a visitor whose both directions are shut.
    fn close_visitor<S: Sys<Stream = T, Pipe = P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        if let Some(Slot::Visitor(visitor)) = self.slots.remove(token) {
            cx.sys.close(visitor.port.stream);
        }
    }

    fn tell_if_drained<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>) {
        if self.draining && self.controls.values().all(|shard| shard.active == 0) {
            cx.sys.tell(FromServerLoop::Drained { lane: self.lane });
        }
    }
}

type Pair<'a, T, P> = (&'a mut Conn<T, P>, Option<&'a mut Visitor<T>>);

/// An active conn's slot, and its visitor's while it has one.
fn conn_and_visitor<T, P>(slots: &mut Slab<Slot<T, P>>, token: Token) -> Option<Pair<'_, T, P>> {
    let Some(Slot::Conn(conn)) = slots.get_mut(token) else { return None };
    let State::Active(active) = &conn.state else { return None };
    let Some(visitor) = active.visitor else {
        return match slots.get_mut(token) {
            Some(Slot::Conn(conn)) => Some((conn, None)),
            Some(Slot::Visitor(_)) | None => None,
        };
    };
    match slots.get_two(token, visitor) {
        Some((Slot::Conn(conn), Slot::Visitor(guest))) => Some((conn, Some(guest))),
        Some(_) | None => unreachable!("an active conn's visitor is there"),
    }
}

/// Hands a message about a transfer to its conn.
fn hear<T, P>(conn: &mut Conn<T, P>, msg: &ClientMsg, epoch: Epoch) -> Result<Heard, Violation> {
    match (&mut conn.state, msg) {
        (State::Idle { conn, .. }, _) => conn.on_message(epoch),
        (State::Active(active), ClientMsg::Fin { total, .. }) => active.conn.on_fin(epoch, *total),
        (State::Active(active), ClientMsg::Done { .. }) => active.conn.on_done(epoch),
        (State::Active(active), _) => active.conn.on_abort(epoch),
    }
}

/// Reads and acts on frames for as long as the conn's incoming bytes are frames. Returns the total to
/// announce if the transfer was refused before the visitor's stream ended.
fn read_frames<T, P, S>(cx: &mut Cx<'_, S>, conn: &mut Conn<T, P>) -> Result<Option<u64>, End>
where
    S: Sys<Stream = T, Pipe = P>,
{
    let mut fin = None;
    while conn.link.port.readable && expects_frames(&conn.state) {
        let length = match conn.link.port.recv(cx.sys, cx.scratch) {
            Ok(0) => return Err(End::Abort(AbortCode::ConnLost)),
            Ok(n) => n,
            Err(SysError::WouldBlock) => break,
            Err(_) => return Err(End::Abort(AbortCode::ConnLost)),
        };
        let mut rest = &cx.scratch[..length];
        while !rest.is_empty() && expects_frames(&conn.state) {
            match conn.framer.next(&mut rest) {
                Ok(Some(frame)) => fin = fin.or(on_frame(cx.sys, conn, frame)?),
                Ok(None) => {}
                Err(_) => return Err(End::Violation(Violation::Malformed)),
            }
        }
        if let State::Active(active) = &mut conn.state
            && !rest.is_empty()
        {
            // First payload came in the same read as the answer.
            if active.conn.ingress.budget(rest.len()).take < rest.len() {
                return Err(End::Violation(Violation::TotalTooSmall));
            }
            active.conn.ingress.on_taken(rest.len());
            conn.link.out.push_payload(rest);
        }
    }
    Ok(fin)
}

fn expects_frames(state: &State) -> bool {
    match state {
        State::Idle { .. } => true,
        State::Active(active) => active.conn.answer() == Answer::Awaiting,
    }
}

fn on_frame<T, P, S: Sys>(sys: &mut S, conn: &mut Conn<T, P>, frame: ProxyToServer) -> Result<Option<u64>, Violation> {
    match (frame, &mut conn.state) {
        (ProxyToServer::Pong, _) if conn.pinged => {
            conn.pinged = false;
            Ok(None)
        }
        (ProxyToServer::Started { epoch }, State::Active(active)) => active.conn.on_started(epoch).map(|()| None),
        (ProxyToServer::Refused { epoch, code }, State::Active(active)) => {
            sys.note(Note::Refused { conn: conn.id, epoch, code, tunnel: active.tunnel });
            active.conn.on_refused(epoch)
        }
        (ProxyToServer::Hello(_) | ProxyToServer::Pong, _)
        | (ProxyToServer::Started { .. } | ProxyToServer::Refused { .. }, State::Idle { .. }) => {
            Err(Violation::Unexpected)
        }
    }
}
