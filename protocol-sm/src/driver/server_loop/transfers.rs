//! Conns: what they read, carry and hear, idle and in a transfer, until they are dropped.

use super::super::loop_core::{Ending, Phase};
use super::super::messages::{ControlKey, FromServerLoop};
use super::super::relay::{End, LONGEST_FRAME, Mode};
use super::super::slab::{Slab, Token};
use super::super::sys::{Log, Splice};
use super::super::thread::Cx;
use super::report::Over;
use super::{Active, Conn, LoopSys, Pair, ServerLoop, Slot, State, active as carried};
use crate::bandwidth::{Direction, Meter, Rate};
use crate::canary::{PlantedBug, planted};
use crate::codes::{AbortCode, MessageName, RefuseCode, StateName, Violation};
use crate::conn::server::{ActiveConn, Answer};
use crate::ids::TunnelId;
use crate::notes::Note;
use crate::report::Trouble;
use crate::sys_error::SysError;
use crate::transfer::{Fin, Half, Heard};
use crate::visit::VisitEnd;
use crate::wire::{ClientBody, ProxyToServer, ServerMsg, TransferMsg};

impl<T, P> ServerLoop<T, P> {
    pub(super) fn on_transfer_msg<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        control: ControlKey,
        msg: TransferMsg<ClientBody>,
    ) {
        let known = self.controls.get(&control).and_then(|shard| shard.conns.get(&msg.conn)).copied();
        let Some((token, Some(Slot::Conn(conn)))) = known.map(|token| (token, self.slots.get_mut(token))) else {
            return self.core.on_stale(cx.sys, msg.conn);
        };
        match (hear(&mut conn.state, msg), msg.body) {
            (Err(violation), _) => self.end(cx, token, End::Violation(violation)),
            (Ok(Heard::Stale), _) => self.core.on_stale(cx.sys, msg.conn),
            (Ok(Heard::Current), ClientBody::Abort { code }) => self.drop_conn(cx, token, code, true),
            (Ok(Heard::Current), ClientBody::StartSeen { seen: false }) => self.take_back(cx, token),
            (Ok(Heard::Current), ClientBody::Fin(_) | ClientBody::Done | ClientBody::StartSeen { seen: true }) => {
                // The client has seen the `Start`: no other conn may have the visitor.
                if conn.is_lost() {
                    self.end(cx, token, End::Abort(AbortCode::ConnLost));
                } else {
                    self.drive(cx, token);
                }
            }
        }
    }

    /// Does everything that can be done on a conn now.
    pub(super) fn drive<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let driven = match self.slots.get_mut(token) {
            None | Some(Slot::Visitor(_) | Slot::Port(_)) => return,
            Some(Slot::Conn(conn)) => match &conn.state {
                State::Idle { .. } => self.drive_idle(cx, token),
                State::Active(active) if active.lost => Ok(()),
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
        if was_pinged
            && !conn.pinged
            && let Some(shard) = self.controls.get_mut(&conn.control)
        {
            let at = cx.now + shard.ping_pace.interval(cx.now);
            self.core.timers.set(token, &mut conn.deadline, Some(at));
            if let Some(visitor) = shard.pool.on_alive(token) {
                self.give(cx, token, Some(visitor));
            }
        }
        Ok(())
    }

    pub(super) fn drive_active<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<(), End> {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else {
            return Ok(());
        };
        let (control, conn_id) = (conn.control, conn.id);
        let answered =
            |state: &State| matches!(state, State::Active(active) if active.conn.answer() != Answer::Awaiting);
        let was_answered = answered(&conn.state);
        let read = read_frames(cx, conn);
        let State::Active(active) = &mut conn.state else {
            return read.map(drop);
        };
        let (rate, tunnel) = (active.max_bandwidth, (control, active.tunnel));
        if rate.is_some() && !was_answered {
            // Payload that came in one read with the answer.
            let early = active.conn.transfer.ingress.taken();
            self.allowances.charge(cx.now, tunnel, Direction::Ingress, early, None);
        }
        let read = read?;
        let epoch = active.conn.transfer.epoch();
        let fin = |Fin { total, how }| FromServerLoop::Message {
            control,
            msg: ServerMsg::Fin { conn: conn_id, epoch, total, how },
        };
        if let Some(refused_at) = read.fin {
            cx.sys.tell(fin(refused_at));
        }
        if active.conn.answer() != Answer::Awaiting && !was_answered {
            // What was kept is not needed any more; the buffer is.
            self.spare = core::mem::take(&mut active.first);
            self.spare.clear();
            if active.conn.answer() == Answer::Started {
                self.core.tally.dials.add(active.lasts(cx.now, &self.core.timings));
            }
        }
        if let Some(code) = read.refused {
            let (tunnel, ways) = (active.tunnel, active.ways());
            let (gone, visitor) = (active.take_gone(), active.visitor.take());
            self.count_trouble(cx.now, control, tunnel, Trouble::Refused(code));
            let visit = gone.or(visitor.and_then(|visitor| self.reset_visitor(cx, visitor)));
            if let Some((visitor, visit)) = visit {
                cx.sys.note(visit.over(cx.now, visitor, ways, VisitEnd::Refused(code)));
            }
        }
        let Some((conn, mut guest)) = conn_and_visitor(&mut self.slots, token) else {
            return Ok(());
        };
        let is_flow = guest.as_ref().is_some_and(|guest| guest.flow.is_some());
        if let Some(guest) = guest.as_mut().filter(|_| is_flow) {
            let lost = &mut self.core.tally.lost;
            guest.port.change(|stream| stream.waiting.expire(cx.now, lost));
        }
        let State::Active(active) = &mut conn.state else {
            return Ok(());
        };
        let incoming_is_payload = active.conn.answer() == Answer::Started;
        let keep = (active.conn.answer() == Answer::Awaiting).then_some(&mut active.first);
        let mut meter = if rate.is_some() { self.allowances.meter(cx.now, tunnel) } else { Meter::default() };
        let before = meter;
        let exchanged = conn.link.exchange(
            cx,
            &mut active.conn.transfer,
            guest.map(|guest| &mut guest.port),
            Mode { incoming_is_payload, hold_frames: false },
            keep,
            &mut meter,
        );
        if rate.is_some() {
            active.throttled = self.allowances.settle(cx.now, tunnel, token, active.throttled, before, meter);
        }
        let (throttled, flow) = (active.throttled, active.visitor.filter(|_| is_flow));
        let result = exchanged?;
        for end in result.fins() {
            cx.sys.tell(fin(end));
        }
        if result.again {
            self.core.queue_turn(token, &mut conn.queued);
        }
        let ending = self.core.settle(cx.now, &mut active.pace, &mut active.conn.transfer, &result, throttled[1])?;
        if active.conn.transfer.ingress.drops() && !conn.link.ingress_flow.is_empty() {
            // What is held for nobody is dropped in another turn.
            self.core.queue_turn(token, &mut conn.queued);
        }
        let phase = active.phase();
        let Active { conn: ActiveConn { transfer, .. }, pace, path, visitor, .. } = active;
        self.core.watch(cx.now, path, transfer);
        self.core.enter(cx.now, token, &mut conn.deadline, pace, phase, transfer);
        let ended = ending.and_then(|ending| Some((ending, visitor.take()?)));
        let delivered = flow.map_or(Ok(()), |flow| self.deliver(cx, flow));
        if let Some((ending, visitor)) = ended {
            let gone = match ending {
                Ending::Close => self.close_visitor(cx, visitor),
                Ending::Reset => self.reset_visitor(cx, visitor),
            };
            if let Some(gone) = gone.filter(|_| !planted(PlantedBug::GoneVisitForgotten))
                && let Some(active) = carried(&mut self.slots, token)
            {
                active.aside.get_or_insert_default().gone = Some(gone);
            }
        }
        if rate.is_some() {
            self.want_bandwidth(cx, tunnel, rate);
        }
        self.finish(cx, token);
        delivered.map_err(End::from)
    }

    /// Asks for what somebody starves for.
    fn want_bandwidth<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, key: (ControlKey, TunnelId), rate: Rate) {
        for direction in Direction::ALL {
            if let Some(rate) = self.allowances.ask(cx.now, key, direction, rate) {
                let ((control, tunnel), loop_index) = (key, self.core.loop_index);
                cx.sys.tell(FromServerLoop::WantBandwidth { control, tunnel, direction, rate, loop_index });
            }
        }
    }

    /// A tunnel may move so much more: whoever starves has his share.
    pub(super) fn on_bandwidth<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        tunnel: (ControlKey, TunnelId),
        direction: Direction,
        bytes: u64,
    ) {
        self.allowances.on_slice(cx.now, tunnel, direction, bytes);
        while let Some(token) = self.allowances.next_starving(cx.now, tunnel, direction) {
            // One that is gone needs nothing; its place may be another's by now.
            if let Some(Slot::Conn(conn)) = self.slots.get_mut(token)
                && let State::Active(active) = &mut conn.state
            {
                active.throttled[direction as usize] = false;
                self.drive(cx, token);
            }
        }
        // The slice may not have been enough to pay what was moved before.
        self.want_bandwidth(cx, tunnel, None);
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
        let tunnel = active.tunnel;
        let over = Over::of(active, cx.now, &self.core.timings);
        let finished = active.conn.answer() == Answer::Started;
        if finished {
            self.core.totals.finished += 1;
            cx.sys.note(Note::Finished {
                conn: conn.id,
                epoch: active.conn.transfer.epoch(),
                egress: over.bytes_in,
                ingress: over.bytes_out,
            });
        }
        if let State::Active(active) = &mut conn.state
            && let Some(gone) = active.take_gone()
        {
            let (visitor, visit) = gone;
            cx.sys.note(visit.over(cx.now, visitor, active.ways(), VisitEnd::Served));
        }
        conn.state = State::Idle { conn: idle, since: cx.now };
        conn.heard = cx.now;
        let control = conn.control;
        self.core.timers.set(token, &mut conn.deadline, None);
        self.count_over(control, tunnel, &over, finished);
        if let Some(shard) = self.controls.get_mut(&control) {
            shard.on_over(&mut self.ledger, tunnel);
        }
        // An end, or a byte that nobody may send, was left unread behind the total: it is not reported again,
        // and must not be found by the next visitor.
        self.drive(cx, token);
        if let (Some(Slot::Conn(_)), Some(shard)) = (self.slots.get_mut(token), self.controls.get_mut(&control)) {
            if shard.closing || shard.retired {
                self.drop_conn(cx, token, AbortCode::SessionOver, false);
            } else {
                let visitor = shard.pool.on_idle(token);
                self.give(cx, token, visitor);
            }
        }
        self.ask(cx, control);
        self.tell_if_drained(cx);
    }

    // PROTOCOL.md: P-POOL-8, P-XFER-9.
    pub(super) fn on_conn_deadline<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else {
            return;
        };
        match &mut conn.state {
            State::Idle { since, .. } => {
                let surplus = self.controls.get(&conn.control).is_some_and(|shard| shard.pool.has_surplus());
                let unused = cx.now.since(*since);
                if conn.pinged || (surplus && unused >= self.core.timings.idle_conn_lifetime) {
                    self.end(cx, token, End::Abort(AbortCode::Deadline));
                    return;
                }
                self.ping(cx, token);
            }
            State::Active(active) if active.conn.answer() == Answer::Awaiting => self.on_unanswered(cx, token),
            State::Active(active) => {
                if active.pace.phase == Phase::Lingering {
                    return self.drive(cx, token);
                }
                let Active { conn: ActiveConn { transfer, .. }, pace, throttled, .. } = active;
                let throttled = throttled.contains(&true);
                if !self.core.renew_if_moved(cx.now, token, &mut conn.deadline, pace, transfer, throttled) {
                    self.end(cx, token, End::Abort(AbortCode::Deadline));
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
                if code == AbortCode::ConnLost && self.ask_if_seen(cx, token) {
                    return;
                }
                let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else {
                    return;
                };
                let lesson = conn.lesson(cx.now, code);
                if let State::Active(active) = &conn.state {
                    let epoch = active.conn.transfer.epoch();
                    let msg = ServerMsg::Abort { conn: id, epoch, code };
                    cx.sys.tell(FromServerLoop::Message { control, msg });
                }
                self.drop_conn(cx, token, code, false);
                if let Some(silence) = lesson {
                    self.on_dead(cx, control, id, silence);
                }
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
        self.core.timers.set(token, &mut conn.deadline, None);
        let idle = matches!(conn.state, State::Idle { .. });
        match conn.state {
            State::Idle { .. } => {
                cx.sys.note(Note::ConnDown { conn: conn.id });
                if let Some(shard) = self.controls.get_mut(&conn.control) {
                    shard.pool.remove_idle(token);
                }
            }
            State::Active(mut active) => {
                cx.sys.note(Note::Aborted { conn: conn.id, epoch: active.conn.transfer.epoch(), code, by_peer });
                let over = Over::of(&active, cx.now, &self.core.timings);
                let gone = active.visitor.and_then(|visitor| self.reset_visitor(cx, visitor));
                let ways = active.ways();
                if let Some((visitor, visit)) = active.take_gone().or(gone) {
                    let outcome = VisitEnd::Aborted { code, by_peer };
                    cx.sys.note(visit.over(cx.now, visitor, ways, outcome));
                }
                self.count_over(conn.control, active.tunnel, &over, false);
                if active.visitor.is_some() || active.conn.answer() != Answer::Refused {
                    self.count_trouble(cx.now, conn.control, active.tunnel, Trouble::Aborted(code));
                }
                if let Some(shard) = self.controls.get_mut(&conn.control) {
                    shard.on_over(&mut self.ledger, active.tunnel);
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

/// What came of frames.
#[derive(Default)]
struct Read {
    /// The transfer was refused for this reason.
    refused: Option<RefuseCode>,
    /// What to announce if it was refused before the visitor's stream ended.
    fin: Option<Fin>,
}

/// Reads and acts on frames for as long as the conn's incoming bytes are frames.
fn read_frames<T, P, S>(cx: &mut Cx<'_, S>, conn: &mut Conn<T, P>) -> Result<Read, End>
where
    S: Splice<Stream = T, Pipe = P> + Log,
{
    let mut read = Read::default();
    while conn.link.port.readable && expects_frames(&conn.state) {
        let room = match &conn.state {
            // What comes behind the frame waits in the socket for its bandwidth.
            State::Active(active) if active.max_bandwidth.is_some() => LONGEST_FRAME.min(cx.scratch.len()),
            State::Active(_) | State::Idle { .. } => cx.scratch.len(),
        };
        let length = match conn.link.port.recv(cx.sys, &mut cx.scratch[..room]) {
            Ok(0) => {
                conn.closed = true;
                return Err(End::Abort(AbortCode::ConnLost));
            }
            Ok(n) => n,
            Err(SysError::WouldBlock) => break,
            Err(_) => return Err(End::Abort(AbortCode::ConnLost)),
        };
        conn.heard = cx.now;
        let mut rest = &cx.scratch[..length];
        while !rest.is_empty() && expects_frames(&conn.state) {
            match conn.framer.next(&mut rest) {
                Ok(Some(frame)) => on_frame(cx.sys, conn, frame, &mut read)?,
                Ok(None) => {}
                Err(_) => return Err(End::Violation(Violation::Malformed)),
            }
        }
        if let State::Active(active) = &mut conn.state
            && !rest.is_empty()
        {
            // First payload came in the same read as the answer.
            if active.conn.transfer.ingress.budget(rest.len()).take < rest.len() {
                return Err(End::Violation(Violation::TotalTooSmall));
            }
            active.conn.transfer.ingress.on_taken(rest.len());
            conn.link.ingress_flow.push_payload(rest);
        }
    }
    Ok(read)
}

fn expects_frames(state: &State) -> bool {
    match state {
        State::Idle { .. } => true,
        State::Active(active) => active.conn.answer() == Answer::Awaiting,
    }
}

// PROTOCOL.md: P-POOL-7.
fn on_frame<T, P, S: Log>(
    sys: &mut S,
    conn: &mut Conn<T, P>,
    frame: ProxyToServer,
    read: &mut Read,
) -> Result<(), Violation> {
    match (frame, &mut conn.state) {
        (ProxyToServer::Pong, _) if conn.pinged => {
            conn.pinged = false;
            Ok(())
        }
        (ProxyToServer::Started { epoch }, State::Active(active)) => active.conn.on_started(epoch),
        (ProxyToServer::Refused { epoch, code }, State::Active(active)) => {
            sys.note(Note::Refused { conn: conn.id, epoch, code, tunnel: active.tunnel });
            read.fin = active.conn.on_refused(epoch)?;
            read.refused = Some(code);
            Ok(())
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
            Some(Slot::Visitor(_) | Slot::Port(_)) | None => None,
        };
    };
    match slots.get_two(token, visitor) {
        Some((Slot::Conn(conn), Slot::Visitor(guest))) => Some((conn, Some(guest))),
        Some(_) | None => unreachable!("an active conn's visitor is there"),
    }
}

/// Hands a message about a transfer to its conn.
fn hear(state: &mut State, msg: TransferMsg<ClientBody>) -> Result<Heard, Violation> {
    match (state, msg.body) {
        (
            State::Idle { conn, .. },
            ClientBody::Fin(_) | ClientBody::Done | ClientBody::Abort { .. } | ClientBody::StartSeen { .. },
        ) => conn.on_message(msg.epoch),
        (State::Active(active), ClientBody::Fin(fin)) => active.conn.on_fin(msg.epoch, fin),
        (State::Active(active), ClientBody::Done) => active.conn.on_done(msg.epoch),
        (State::Active(active), ClientBody::Abort { .. }) => active.conn.on_abort(msg.epoch),
        (State::Active(active), ClientBody::StartSeen { seen }) => active.conn.on_start_seen(msg.epoch, seen),
    }
}
