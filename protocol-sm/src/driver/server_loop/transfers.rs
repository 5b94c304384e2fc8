//! Conns: what they read, carry and hear, idle and in a transfer, until they are dropped.

use super::super::Cx;
use super::super::messages::{ControlKey, FromServerLoop};
use super::super::relay::{End, Mode};
use super::super::slab::{Slab, Token};
use super::super::sys::{Note, Sys, SysError};
use super::{Conn, LoopSys, Pair, Phase, ServerLoop, Slot, State};
use crate::codes::{AbortCode, MessageName, StateName, Violation};
use crate::conn::Heard;
use crate::conn::server::Answer;
use crate::ids::{ConnId, Epoch};
use crate::transfer::Half;
use crate::wire::{ClientMsg, ProxyToClient, ProxyToServer, ServerMsg};

impl<T, P> ServerLoop<T, P> {
    pub(super) fn on_client_msg<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, msg: ClientMsg) {
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

    pub(super) fn stale<S: Sys>(&mut self, cx: &mut Cx<'_, S>, conn: ConnId) {
        self.totals.stale += 1;
        cx.sys.note(Note::Stale { conn });
    }

    /// Does everything that can be done on a conn now.
    pub(super) fn drive<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
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

    pub(super) fn drive_idle<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<(), End> {
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

    pub(super) fn drive_active<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<(), End> {
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
        let incoming_is_payload = active.conn.answer() == Answer::Started;
        let result = conn.link.exchange(
            cx,
            &mut active.conn.egress,
            &mut active.conn.ingress,
            guest.map(|guest| &mut guest.port),
            Mode { incoming_is_payload, hold_frames: false },
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
    pub(super) fn finish<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else {
            return;
        };
        let State::Active(active) = &conn.state else {
            return;
        };
        if !conn.link.egress_flow.is_empty() || !conn.link.ingress_flow.is_empty() {
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
        let tunnel = active.tunnel;
        conn.state = State::Idle { conn: idle, since: cx.now };
        let control = conn.control;
        self.timers.set(token, &mut conn.deadline, None);
        if let Some(shard) = self.controls.get_mut(&control) {
            shard.on_over(tunnel);
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

    pub(super) fn on_conn_deadline<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
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
                conn.link.egress_flow.push(&ProxyToClient::Ping);
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
    pub(super) fn end<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, end: End) {
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
    pub(super) fn drop_conn<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        code: AbortCode,
        by_peer: bool,
    ) {
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
                    shard.on_over(active.tunnel);
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
            conn.link.ingress_flow.push_payload(rest);
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
        (ProxyToServer::Pong, _) => {
            Err(Violation::Unexpected { message: MessageName::Pong, state: StateName::NotPinged })
        }
        (_, State::Idle { .. }) => Err(Violation::Unexpected { message: frame.name(), state: StateName::ConnIdle }),
        (ProxyToServer::Hello(_), State::Active(_)) => {
            Err(Violation::Unexpected { message: MessageName::Hello, state: StateName::AnswerDue })
        }
    }
}

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
