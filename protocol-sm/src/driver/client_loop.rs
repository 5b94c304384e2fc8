//! An event loop of the client: proxy_conns, and the LocalServer's connections behind them.
//!
//! Every proxy_conn and every local_conn has one slot; a local_conn's slot says which conn it belongs to,
//! the conn's which local_conn it has. Readiness of either drives both.

mod check;
mod dialling;
mod opening;

use super::Cx;
use super::messages::{FromClientLoop, ToClientLoop};
use super::relay::{End, Endpoint, Link, Mode, TURN, failed};
use super::server_loop::Totals;
use super::slab::{Slab, Token};
use super::sys::{Driver, Note, Readiness, Sys, SysError, Tell};
use super::timers::Timers;
use crate::codes::{AbortCode, RefuseCode, Violation};
use crate::conn::Heard;
use crate::conn::client::{ActiveConn, IdleConn, Stage};
use crate::ids::{ConnId, Epoch, TunnelId};
use crate::settings::Timings;
use crate::time::Instant;
use crate::transfer::Half;
use crate::wire::{ClientMsg, ConnHello, Framer, Proof, ProxyToClient, ReplyReader, ServerMsg};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

/// See the module. `T` is a stream, `P` a pipe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientLoop<T, P> {
    loop_index: usize,
    timings: Timings,
    /// The session that all conns here belong to.
    serial: u64,
    locals: BTreeMap<TunnelId, Vec<SocketAddr>>,
    conns: BTreeMap<ConnId, Token>,
    slots: Slab<Slot<T, P>>,
    timers: Timers,
    /// Conns whose turn was cut short, for others.
    busy: VecDeque<Token>,
    active: u32,
    draining: bool,
    totals: Totals,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Slot<T, P> {
    Conn(Box<Conn<T, P>>),
    Local(Local<T>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Conn<T, P> {
    id: ConnId,
    link: Link<T, P>,
    framer: Framer<ProxyToClient>,
    state: State,
    /// It stands in [`ClientLoop::busy`].
    queued: bool,
    deadline: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Being opened: connecting, then the handshake. The server may start a transfer right behind its
    /// `Accepted`, and a `Fin` on the ctl_conn may overtake both.
    Opening {
        conn: IdleConn,
        hello: ConnHello,
        accept: Proof,
        step: Step,
    },
    Idle(IdleConn),
    Active(Active),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Connecting,
    Greeting(ReplyReader),
    Accepting,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Active {
    conn: ActiveConn,
    tunnel: TunnelId,
    /// Addresses of the LocalServer that were tried.
    tried: usize,
    /// Gone once both its directions are shut.
    local: Option<Token>,
    /// What the conn's deadline is for.
    phase: Phase,
    /// Bytes moved when the half-open deadline was set.
    progress: u64,
}

/// What an active conn's deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// The LocalServer must answer the dial.
    Dial,
    /// `Started` waits for the LocalServer's first bytes.
    Answer,
    /// Both directions flow: no deadline.
    Flowing,
    /// One direction is over: the other must make progress.
    HalfOpen,
}

impl Active {
    fn moved(&self) -> u64 {
        self.conn.egress.forwarded() + self.conn.ingress.forwarded()
    }

    /// `unanswered`: `Started` has not gone out.
    fn phase(&self, unanswered: bool) -> Phase {
        if self.conn.stage() == Stage::Dialling {
            Phase::Dial
        } else if unanswered && matches!(self.phase, Phase::Dial | Phase::Answer) && !self.conn.egress.ended() {
            Phase::Answer
        } else if self.conn.egress.ended() || self.conn.ingress.through() {
            Phase::HalfOpen
        } else {
            Phase::Flowing
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Local<T> {
    conn: Token,
    port: Endpoint<T>,
}

/// What this thread needs of its system.
trait LoopSys<T, P>: Sys<Stream = T, Pipe = P> + Tell<FromClientLoop> {}

impl<T, P, S: Sys<Stream = T, Pipe = P> + Tell<FromClientLoop>> LoopSys<T, P> for S {}

impl<T, P> ClientLoop<T, P> {
    /// An empty event loop, the thread pool's number `loop_index`.
    #[must_use]
    pub fn new(loop_index: usize, timings: Timings) -> Self {
        Self {
            loop_index,
            timings,
            serial: 0,
            locals: BTreeMap::new(),
            conns: BTreeMap::new(),
            slots: Slab::default(),
            timers: Timers::default(),
            busy: VecDeque::new(),
            active: 0,
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

impl<T, P, S> Driver<S> for ClientLoop<T, P>
where
    S: Sys<Stream = T, Pipe = P> + Tell<FromClientLoop>,
{
    type Message = ToClientLoop;

    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: ToClientLoop) {
        match message {
            ToClientLoop::Session { serial } => {
                self.end_session(cx, AbortCode::SessionOver);
                self.serial = serial;
            }
            ToClientLoop::End { code } => self.end_session(cx, code),
            ToClientLoop::Tunnel { tunnel, locals } => {
                // A lookup that failed does not make the last addresses wrong.
                if !locals.is_empty() || !self.locals.contains_key(&tunnel) {
                    self.locals.insert(tunnel, locals);
                }
            }
            ToClientLoop::CloseTunnel { tunnel } => {
                self.locals.remove(&tunnel);
            }
            ToClientLoop::Open { to, hello, accept } => self.open(cx, to, hello, accept),
            ToClientLoop::Message(msg) => self.on_server_msg(cx, &msg),
            ToClientLoop::Drain => {
                self.draining = true;
                self.tell_if_drained(cx);
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
            Some(Slot::Local(local)) => {
                let conn = local.conn;
                local.port.on_ready(ready);
                if self.is_dialling(conn) {
                    self.on_dial_event(cx, conn, token);
                    return;
                }
                let lost = match self.slots.get_mut(token) {
                    Some(Slot::Local(local)) => ready.error && failed(cx, &local.port),
                    Some(Slot::Conn(_)) | None => false,
                };
                if lost {
                    self.end(cx, conn, End::Abort(AbortCode::OuterReset));
                } else {
                    self.drive(cx, conn);
                }
            }
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_, S>) {
        while let Some(token) = self.timers.pop_due(cx.now) {
            let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { continue };
            conn.deadline = None;
            let State::Active(active) = &mut conn.state else {
                self.end(cx, token, End::Abort(AbortCode::Deadline));
                continue;
            };
            if active.phase == Phase::Dial {
                self.drop_local(cx, token);
                self.dial(cx, token, RefuseCode::TimedOut);
            } else if active.phase == Phase::Answer {
                active.phase = Phase::Flowing;
                self.drive(cx, token);
            } else if active.progress == active.moved() {
                self.end(cx, token, End::Abort(AbortCode::Deadline));
            } else {
                active.progress = active.moved();
                let at = cx.now + self.timings.half_open_timeout;
                self.timers.set(token, &mut conn.deadline, Some(at));
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn run_busy(&mut self, cx: &mut Cx<'_, S>) {
        for _ in 0..self.busy.len() {
            let Some(token) = self.busy.pop_front() else { return };
            if let Some(Slot::Conn(conn)) = self.slots.get_mut(token) {
                conn.queued = false;
                self.drive(cx, token);
            }
        }
    }

    fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }
}

impl<T, P> ClientLoop<T, P> {
    fn end_session<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, code: AbortCode) {
        let tokens: Vec<_> = self.conns.values().copied().collect();
        for token in tokens {
            self.drop_conn(cx, token, code, false);
        }
    }

    fn on_server_msg<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, msg: &ServerMsg) {
        let (id, epoch) = match msg {
            ServerMsg::Fin { conn, epoch, .. } | ServerMsg::Abort { conn, epoch, .. } => (*conn, *epoch),
            ServerMsg::TunnelReady { .. }
            | ServerMsg::TunnelRefused { .. }
            | ServerMsg::NeedConn { .. }
            | ServerMsg::Drain => unreachable!("the main thread handles it"),
        };
        let known = self.conns.get(&id).copied();
        let Some((token, Some(Slot::Conn(conn)))) = known.map(|token| (token, self.slots.get_mut(token))) else {
            return self.stale(cx, id);
        };
        match (hear(&mut conn.state, msg, epoch), msg) {
            (Err(violation), _) => self.end(cx, token, End::Violation(violation)),
            (Ok(Heard::Stale), _) => self.stale(cx, id),
            (Ok(Heard::Current), ServerMsg::Abort { code, .. }) => self.drop_conn(cx, token, *code, true),
            (Ok(Heard::Current), _) => self.drive(cx, token),
        }
    }

    fn stale<S: Sys>(&mut self, cx: &mut Cx<'_, S>, conn: ConnId) {
        self.totals.stale += 1;
        cx.sys.note(Note::Stale { conn });
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

    fn drive_active<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<(), End> {
        let Some((conn, local)) = conn_and_local(&mut self.slots, token) else { return Ok(()) };
        let State::Active(active) = &mut conn.state else { return Ok(()) };
        let again = match active.conn.stage() {
            Stage::Dialling => {
                // A pong may be owed still.
                conn.link.flush_frames(cx.sys)?;
                return Ok(());
            }
            Stage::Refused => {
                conn.link.flush_frames(cx.sys)?;
                discard(cx, &mut conn.link.port, &mut active.conn)?
            }
            Stage::Serving => {
                // The dial has just ended, or `Started` is still waiting.
                let hold_frames =
                    matches!(active.phase, Phase::Dial | Phase::Answer) && self.timings.answer_delay > Duration::ZERO;
                let result = conn.link.exchange(
                    cx,
                    &mut active.conn.egress,
                    &mut active.conn.ingress,
                    local.map(|local| &mut local.port),
                    Mode { incoming_is_payload: true, hold_frames },
                )?;
                if let Some(total) = result.fin {
                    let msg = ClientMsg::Fin { conn: conn.id, epoch: active.conn.epoch(), total };
                    cx.sys.tell(FromClientLoop::Message { serial: self.serial, msg });
                }
                result.again
            }
        };
        if again && !conn.queued {
            conn.queued = true;
            self.busy.push_back(token);
        }
        let phase = active.phase(conn.link.egress_flow.only_frames());
        if phase != active.phase {
            active.phase = phase;
            active.progress = active.moved();
            let patience = match phase {
                Phase::Answer => Some(self.timings.answer_delay.min(self.timings.dial_timeout)),
                Phase::HalfOpen => Some(self.timings.half_open_timeout),
                Phase::Dial | Phase::Flowing => None,
            };
            self.timers.set(token, &mut conn.deadline, patience.map(|patience| cx.now + patience));
        }
        if active.conn.outer_is_through()
            && let Some(local) = active.local.take()
            && let Some(Slot::Local(local)) = self.slots.remove(local)
        {
            cx.sys.close(local.port.stream);
        }
        self.finish(cx, token);
        Ok(())
    }

    /// Tells the server that a transfer is over here; the conn is idle again.
    fn finish<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return };
        let State::Active(active) = &conn.state else { return };
        if !conn.link.egress_flow.is_empty() || !conn.link.ingress_flow.is_empty() {
            return;
        }
        let Ok(idle) = active.conn.clone().finish() else { return };
        let (id, epoch) = (conn.id, active.conn.epoch());
        if active.conn.stage() == Stage::Serving {
            self.totals.finished += 1;
            cx.sys.note(Note::Finished {
                conn: id,
                epoch,
                egress: active.conn.egress.forwarded(),
                ingress: active.conn.ingress.forwarded(),
            });
        }
        conn.state = State::Idle(idle);
        self.timers.set(token, &mut conn.deadline, None);
        self.active -= 1;
        let msg = ClientMsg::Done { conn: id, epoch };
        cx.sys.tell(FromClientLoop::Message { serial: self.serial, msg });
        self.tell_if_drained(cx);
        self.drive(cx, token);
    }

    /// A conn goes no further: tells the server what it must know, and drops it.
    fn end<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, end: End) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return };
        let (serial, id) = (self.serial, conn.id);
        match end {
            End::Violation(violation) => {
                cx.sys.note(Note::Violation { conn: Some(id), violation });
                self.drop_conn(cx, token, AbortCode::SessionOver, false);
                cx.sys.tell(FromClientLoop::Violation { serial, violation });
            }
            End::Abort(code) => {
                if let State::Active(active) = &conn.state {
                    let msg = ClientMsg::Abort { conn: id, epoch: active.conn.epoch(), code };
                    cx.sys.tell(FromClientLoop::Message { serial, msg });
                }
                self.drop_conn(cx, token, code, false);
            }
        }
    }

    /// Closes a conn, resets its local_conn, and forgets both.
    fn drop_conn<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, code: AbortCode, by_peer: bool) {
        self.drop_local(cx, token);
        let Some(Slot::Conn(mut conn)) = self.slots.remove(token) else { return };
        self.timers.set(token, &mut conn.deadline, None);
        self.conns.remove(&conn.id);
        match &conn.state {
            State::Opening { .. } => {
                conn.link.reset(cx.sys);
                if by_peer {
                    // The server has it already: for its count it came.
                    cx.sys.tell(FromClientLoop::ConnGone { serial: self.serial, conn: conn.id });
                } else {
                    self.open_failed(cx, conn.id, None);
                }
            }
            State::Idle(_) => {
                cx.sys.note(Note::ConnDown { conn: conn.id });
                conn.link.close(cx.sys);
                cx.sys.tell(FromClientLoop::ConnGone { serial: self.serial, conn: conn.id });
            }
            State::Active(active) => {
                let epoch = active.conn.epoch();
                cx.sys.note(Note::Aborted { conn: conn.id, epoch, code, by_peer });
                if active.conn.stage() != Stage::Refused {
                    self.totals.aborted += 1;
                }
                self.active -= 1;
                conn.link.reset(cx.sys);
                cx.sys.tell(FromClientLoop::ConnGone { serial: self.serial, conn: conn.id });
                self.tell_if_drained(cx);
            }
        }
    }

    fn tell_if_drained<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>) {
        if self.draining && self.active == 0 {
            cx.sys.tell(FromClientLoop::Drained { loop_index: self.loop_index });
        }
    }
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

type Pair<'a, T, P> = (&'a mut Conn<T, P>, Option<&'a mut Local<T>>);

/// An active conn's slot, and its local_conn's while it has one.
fn conn_and_local<T, P>(slots: &mut Slab<Slot<T, P>>, token: Token) -> Option<Pair<'_, T, P>> {
    let Some(local) = active(slots, token)?.local else {
        return match slots.get_mut(token) {
            Some(Slot::Conn(conn)) => Some((conn, None)),
            Some(Slot::Local(_)) | None => None,
        };
    };
    match slots.get_two(token, local) {
        Some((Slot::Conn(conn), Slot::Local(local))) => Some((conn, Some(local))),
        Some(_) | None => unreachable!("an active conn's local_conn is there"),
    }
}

/// Hands a message about a transfer to its conn.
fn hear(state: &mut State, msg: &ServerMsg, epoch: Epoch) -> Result<Heard, Violation> {
    match (state, msg) {
        (State::Opening { conn, .. } | State::Idle(conn), ServerMsg::Fin { total, .. }) => conn.on_fin(epoch, *total),
        (State::Opening { conn, .. } | State::Idle(conn), _) => conn.on_abort(epoch),
        (State::Active(active), ServerMsg::Fin { total, .. }) => active.conn.on_fin(epoch, *total),
        (State::Active(active), _) => active.conn.on_abort(epoch),
    }
}

/// Takes a refused transfer's bytes off the conn. `Ok(true)`: more may be there.
fn discard<T, S: Sys<Stream = T>>(
    cx: &mut Cx<'_, S>,
    port: &mut Endpoint<T>,
    conn: &mut ActiveConn,
) -> Result<bool, AbortCode> {
    let mut moved = 0;
    conn.settle_discard();
    while port.readable && conn.ingress.budget(1).take > 0 {
        if moved >= TURN {
            return Ok(true);
        }
        let take = conn.ingress.budget(cx.scratch.len()).take;
        match port.recv(cx.sys, &mut cx.scratch[..take]) {
            Ok(0) => return Err(AbortCode::ConnLost),
            Ok(n) => {
                moved += n;
                conn.on_discarded(n);
            }
            Err(SysError::WouldBlock) => {}
            Err(_) => return Err(AbortCode::ConnLost),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::client::IdleConn;
    use crate::ids::Epoch;

    #[test]
    fn started_waits_for_the_answer_although_the_visitor_has_ended() {
        let mut conn = IdleConn::default().on_start(Epoch(1)).unwrap();
        let after = |conn: &ActiveConn, phase, unanswered| {
            let conn = conn.clone();
            Active { conn, tunnel: TunnelId(1), tried: 1, local: None, phase, progress: 0 }.phase(unanswered)
        };
        assert_eq!(after(&conn, Phase::Dial, true), Phase::Dial);
        conn.on_dialed();
        assert_eq!(conn.on_fin(Epoch(1), 0), Ok(Heard::Current));
        assert!(conn.ingress.shutdown_due());
        conn.ingress.on_shutdown();
        assert!(conn.ingress.through(), "the visitor has sent all there is");
        assert_eq!(after(&conn, Phase::Dial, true), Phase::Answer);
        assert_eq!(after(&conn, Phase::Answer, true), Phase::Answer);
        assert_eq!(after(&conn, Phase::Answer, false), Phase::HalfOpen, "it has gone out, with the first bytes");
        assert_eq!(after(&conn, Phase::Flowing, true), Phase::HalfOpen, "it has waited long enough");
        assert_eq!(conn.egress.on_source_eof(), 0);
        assert_eq!(after(&conn, Phase::Answer, true), Phase::HalfOpen, "there will be no bytes");
    }
}
