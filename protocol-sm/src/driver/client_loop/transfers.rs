//! Transfers: what a conn that carries one moves, hears and says, until it is idle again or dropped.

use super::super::loop_core::{Ending, Phase};
use super::super::messages::FromClientLoop;
use super::super::relay::{End, Mode};
use super::super::slab::{Slab, Token};
use super::super::thread::{Cx, Tell};
use super::datagrams::{HeardLocal, hear_local};
use super::opening::unreachable;
use super::paths::Aside;
use super::report::Over;
use super::{Active, ClientLoop, Conn, Local, LoopSys, Slot, State, Step, active as carried};
use crate::bandwidth::{Direction, Meter, Rate};
use crate::codes::{AbortCode, Violation};
use crate::conn::client::{ActiveConn, Stage};
use crate::ids::{ConnId, TunnelId};
use crate::liveness::Line;
use crate::notes::{ConnFailure, Note};
use crate::outbound::PassageFailure;
use crate::report::Trouble;
use crate::settings::{Serving, Timings};
use crate::sys_error::SysError;
use crate::transfer::{Fin, Heard};
use crate::visit::VisitEnd;
use crate::wire::{ClientMsg, ServerBody, TransferMsg};
use core::time::Duration;

impl<T, P> ClientLoop<T, P> {
    // PROTOCOL.md: P-ABORT-2.
    pub(super) fn on_transfer_msg<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        serial: u64,
        msg: TransferMsg<ServerBody>,
    ) {
        let known = self.conns.get(&(serial, msg.conn)).copied();
        let Some((token, Some(Slot::Conn(conn)))) = known.map(|token| (token, self.slots.get_mut(token))) else {
            return match msg.body {
                ServerBody::AskStart => answer_ask(cx, serial, msg, false),
                ServerBody::Fin(_) | ServerBody::Abort { .. } => self.core.on_stale(cx.sys, msg.conn),
            };
        };
        match (hear(&mut conn.state, msg), msg.body) {
            (Err(violation), _) => self.end(cx, token, End::Violation(violation)),
            (Ok(Heard::Stale), _) => self.core.on_stale(cx.sys, msg.conn),
            (Ok(Heard::Current), ServerBody::Abort { code }) => self.drop_conn(cx, token, code, true),
            (Ok(Heard::Current), ServerBody::Fin(_)) => self.drive(cx, token),
            (Ok(Heard::Current), ServerBody::AskStart) => {
                let seen = matches!(conn.state, State::Active(_));
                answer_ask(cx, serial, msg, seen);
                if !seen {
                    self.drop_conn(cx, token, AbortCode::ConnLost, true);
                }
            }
        }
    }

    // PROTOCOL.md: P-XFER-4, P-DONE-5.
    pub(super) fn drive_active<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<(), End> {
        let Some((conn, mut local)) = conn_and_local(&mut self.slots, token) else { return Ok(()) };
        let State::Active(active) = &conn.state else { return Ok(()) };
        let aside = Aside::of(conn, active, self.path);
        let heard = local.as_mut().and_then(|local| hear_local(cx, &mut local.port, &mut self.core, aside));
        if let Some(HeardLocal { more: true, .. }) = heard {
            self.core.queue_turn(token, &mut conn.queued);
        }
        let State::Active(active) = &mut conn.state else { return Ok(()) };
        if let Some(by_path @ 1..) = heard.as_ref().map(|heard| heard.by_path) {
            active.flow.get_or_insert_default().by_path[1] += by_path;
        }
        let (rate, tunnel) = (active.max_bandwidth, active.tunnel);
        let result = match active.conn.stage() {
            Stage::Dialling => {
                // A pong may be owed still.
                conn.link.flush_frames(cx.sys)?;
                return Ok(());
            }
            Stage::Serving | Stage::Refused => {
                let hold_frames = holds_frames(&self.core.timings, active);
                let mut meter = if rate.is_some() { self.allowances.meter(cx.now, tunnel) } else { Meter::default() };
                let before = meter;
                let exchanged = conn.link.exchange(
                    cx,
                    &mut active.conn.transfer,
                    local.map(|local| &mut local.port),
                    Mode { incoming_is_payload: true, hold_frames },
                    None,
                    &mut meter,
                );
                if rate.is_some() {
                    active.throttled = self.allowances.settle(cx.now, tunnel, token, active.throttled, before, meter);
                }
                exchanged?
            }
        };
        for Fin { total, how } in result.fins() {
            let msg = ClientMsg::Fin { conn: conn.id, epoch: active.conn.transfer.epoch(), total, how };
            cx.sys.tell(FromClientLoop::Message { serial: conn.serial, msg });
        }
        if result.again {
            self.core.queue_turn(token, &mut conn.queued);
        }
        let ending =
            self.core.settle(cx.now, &mut active.pace, &mut active.conn.transfer, &result, active.throttled[1])?;
        if active.conn.transfer.ingress.drops() && !conn.link.ingress_flow.is_empty() {
            // What is held for nobody is dropped in another turn.
            self.core.queue_turn(token, &mut conn.queued);
        }
        let phase = active.phase(conn.link.egress_flow.only_frames());
        let Active { conn: ActiveConn { transfer, .. }, pace, path, .. } = active;
        self.core.watch(cx.now, path, transfer);
        self.core.enter(cx.now, token, &mut conn.deadline, pace, phase, transfer);
        let delivered = if heard.is_some() { self.deliver(cx, token) } else { Ok(()) };
        if let Some(ending) = ending
            && let Some(local) = carried(&mut self.slots, token).and_then(|active| active.local.take())
            && let Some(Slot::Local(local)) = self.slots.remove(local)
            && let Some(stream) = local.port.into_socket()
        {
            match ending {
                Ending::Close => cx.sys.close(stream),
                Ending::Reset => cx.sys.reset(stream),
            }
        }
        if rate.is_some() {
            self.want_bandwidth(cx, tunnel, rate);
        }
        self.finish(cx, token);
        delivered.map_err(End::from)
    }

    /// Asks for what somebody starves for.
    fn want_bandwidth<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, tunnel: TunnelId, rate: Rate) {
        for direction in Direction::ALL {
            if let Some(rate) = self.allowances.ask(cx.now, tunnel, direction, rate) {
                let loop_index = self.core.loop_index;
                cx.sys.tell(FromClientLoop::WantBandwidth { tunnel, direction, rate, loop_index });
            }
        }
    }

    pub(super) fn set_serving(&mut self, tunnel: TunnelId, serving: Serving) {
        self.servings.remove(&tunnel);
        if serving != Serving::default() {
            self.servings.insert(tunnel, serving);
        }
    }

    /// A tunnel's visitors are served in another way. What it may move counts for the transfers that go on, too.
    pub(super) fn serve(&mut self, tunnel: TunnelId, serving: Serving) {
        self.set_serving(tunnel, serving);
        for &token in self.conns.values() {
            if let Some(active) = carried(&mut self.slots, token).filter(|active| active.tunnel == tunnel) {
                active.max_bandwidth = serving.max_bandwidth;
            }
        }
    }

    /// A tunnel may move so much more: whoever starves has his share.
    pub(super) fn on_bandwidth<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        tunnel: TunnelId,
        direction: Direction,
        bytes: u64,
    ) {
        self.allowances.on_slice(cx.now, tunnel, direction, bytes);
        while let Some(token) = self.allowances.next_starving(cx.now, tunnel, direction) {
            // One that is gone needs nothing; its place may be another's by now.
            if let Some(active) = carried(&mut self.slots, token) {
                active.throttled[direction as usize] = false;
                self.drive(cx, token);
            }
        }
        // The slice may not have been enough to pay what was moved before.
        self.want_bandwidth(cx, tunnel, None);
    }

    /// Tells the server that a transfer is over here; the conn is idle again.
    // PROTOCOL.md: P-DONE-1.
    fn finish<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return };
        let State::Active(active) = &conn.state else { return };
        if !conn.link.egress_flow.is_empty() || !conn.link.ingress_flow.is_empty() {
            return;
        }
        let Ok(idle) = active.conn.clone().finish() else { return };
        let (serial, id, epoch) = (conn.serial, conn.id, active.conn.transfer.epoch());
        let (tunnel, over) = (active.tunnel, Over::of(active, cx.now));
        let finished = active.conn.stage() == Stage::Serving;
        if finished {
            self.core.totals.finished += 1;
            cx.sys.note(Note::Finished { conn: id, epoch, egress: over.bytes_out, ingress: over.bytes_in });
        }
        if let State::Active(active) = &mut conn.state {
            active.over(cx.now, &self.labels, VisitEnd::Served).into_iter().for_each(|visit| cx.sys.note(visit));
        }
        conn.state = State::Idle(idle);
        self.core.timers.set(token, &mut conn.deadline, None);
        self.active -= 1;
        self.count_over(tunnel, &over, finished);
        let msg = ClientMsg::Done { conn: id, epoch };
        cx.sys.tell(FromClientLoop::Message { serial, msg });
        self.tell_if_drained(cx);
        self.drive(cx, token);
    }

    /// Looks at whether what the conns were given is acknowledged.
    // PROTOCOL.md: P-XFER-12.
    pub(super) fn look<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>) {
        for slot in self.slots.iter_mut() {
            let Slot::Conn(conn) = slot else { continue };
            let State::Active(active) = &mut conn.state else { continue };
            if self.core.look(cx, conn.link.port.stream(), &mut active.path, &active.conn.transfer) {
                let (serial, loop_index) = (conn.serial, self.core.loop_index);
                cx.sys.tell(FromClientLoop::AskLine { serial, loop_index, conn: conn.id });
            }
        }
    }

    /// How the ctl_conn is, beside a conn that is silent.
    pub(super) fn on_line<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, conn: (u64, ConnId), line: Line) {
        let Some(&token) = self.conns.get(&conn) else { return };
        let Some(active) = carried(&mut self.slots, token) else { return };
        if let Some(silence) = active.path.on_line(cx.now, line, self.core.timings.path_patience()) {
            cx.sys.note(Note::PathDead { conn: conn.1, silence });
            self.end(cx, token, End::Abort(AbortCode::ConnLost));
        }
    }

    /// A conn goes no further: tells the server what it must know, and drops it.
    // PROTOCOL.md: P-ABORT-1.
    pub(super) fn end<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, end: End) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return };
        let (serial, id) = (conn.serial, conn.id);
        match end {
            End::Violation(violation) => {
                cx.sys.note(Note::Violation { conn: Some(id), violation });
                self.drop_conn(cx, token, AbortCode::SessionOver, false);
                cx.sys.tell(FromClientLoop::Violation { serial, violation });
            }
            End::Abort(code) => {
                if let State::Active(active) = &conn.state {
                    let msg = ClientMsg::Abort { conn: id, epoch: active.conn.transfer.epoch(), code };
                    cx.sys.tell(FromClientLoop::Message { serial, msg });
                }
                self.drop_conn(cx, token, code, false);
            }
        }
    }

    /// Closes a conn, resets its local_conn, and forgets both.
    // PROTOCOL.md: P-POOL-9, P-ABORT-3.
    pub(super) fn drop_conn<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        code: AbortCode,
        by_peer: bool,
    ) {
        self.drop_local(cx, token);
        let Some(Slot::Conn(mut conn)) = self.slots.remove(token) else { return };
        self.core.timers.set(token, &mut conn.deadline, None);
        let serial = conn.serial;
        self.conns.remove(&(serial, conn.id));
        match &mut conn.state {
            State::Opening { step, to, why, .. } => {
                let (to, why) = (to.clone(), why.unwrap_or(failure(code, step)));
                conn.link.reset(cx.sys);
                if by_peer || code == AbortCode::SessionOver {
                    // The server has it already, and for its count it came; or nobody asks for it any more.
                    cx.sys.tell(FromClientLoop::ConnGone { serial, conn: conn.id });
                } else {
                    self.open_failed(cx, serial, conn.id, to, why);
                }
            }
            State::Idle(_) => {
                cx.sys.note(Note::ConnDown { conn: conn.id });
                conn.link.close(cx.sys);
                cx.sys.tell(FromClientLoop::ConnGone { serial, conn: conn.id });
            }
            State::Active(active) => {
                let epoch = active.conn.transfer.epoch();
                cx.sys.note(Note::Aborted { conn: conn.id, epoch, code, by_peer });
                let visit = active.over(cx.now, &self.labels, VisitEnd::Aborted { code, by_peer });
                visit.into_iter().for_each(|visit| cx.sys.note(visit));
                let (tunnel, over) = (active.tunnel, Over::of(active, cx.now));
                self.count_over(tunnel, &over, false);
                if active.conn.stage() != Stage::Refused {
                    self.count_trouble(cx.now, tunnel, Trouble::Aborted(code));
                }
                self.active -= 1;
                conn.link.reset(cx.sys);
                cx.sys.tell(FromClientLoop::ConnGone { serial, conn: conn.id });
            }
        }
        self.tell_if_drained(cx);
    }
}

/// Why a conn that was being opened ends with `code`, if nothing else is known.
fn failure(code: AbortCode, step: &Step) -> ConnFailure {
    match (code, step) {
        (AbortCode::Deadline, Step::Connecting { passing: true, .. }) => ConnFailure::Proxy(PassageFailure::Silent),
        (AbortCode::Deadline, Step::Connecting { passage, .. }) => unreachable(passage.is_some(), SysError::TimedOut),
        (AbortCode::Deadline, Step::Greeting { .. } | Step::Accepting { .. }) => ConnFailure::TooSlow,
        _ => ConnFailure::Lost,
    }
}

// PROTOCOL.md: P-STALE-3.
fn answer_ask<S: Tell<FromClientLoop>>(cx: &mut Cx<'_, S>, serial: u64, ask: TransferMsg<ServerBody>, seen: bool) {
    let msg = ClientMsg::StartSeen { conn: ask.conn, epoch: ask.epoch, seen };
    cx.sys.tell(FromClientLoop::Message { serial, msg });
}

type Pair<'a, T, P> = (&'a mut Conn<T, P>, Option<&'a mut Local<T>>);

/// An active conn's slot, and its local_conn's while it has one.
pub(super) fn conn_and_local<T, P>(slots: &mut Slab<Slot<T, P>>, token: Token) -> Option<Pair<'_, T, P>> {
    let Some(local) = carried(slots, token)?.local else {
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

/// Whether `Started` waits for the LocalServer's first bytes: the dial has just ended, or `answer_delay` is not over.
pub(super) fn holds_frames(timings: &Timings, active: &Active) -> bool {
    matches!(active.pace.phase, Phase::Dial | Phase::Answer)
        && active.conn.stage() == Stage::Serving
        && timings.answer_delay > Duration::ZERO
}

/// Hands a message about a transfer to its conn.
// PROTOCOL.md: P-PROXY-7.
fn hear(state: &mut State, msg: TransferMsg<ServerBody>) -> Result<Heard, Violation> {
    match (state, msg.body) {
        (State::Opening { conn, .. } | State::Idle(conn), ServerBody::Fin(fin)) => conn.on_fin(msg.epoch, fin),
        (State::Opening { conn, .. } | State::Idle(conn), ServerBody::Abort { .. }) => conn.on_abort(msg.epoch),
        (State::Opening { conn, .. } | State::Idle(conn), ServerBody::AskStart) => conn.on_ask_start(msg.epoch),
        (State::Active(active), ServerBody::Fin(fin)) => active.conn.on_fin(msg.epoch, fin),
        (State::Active(active), ServerBody::Abort { .. }) => active.conn.on_abort(msg.epoch),
        (State::Active(active), ServerBody::AskStart) => active.conn.on_ask_start(msg.epoch),
    }
}
