//! Conns that turn out to be dead: under a `Start`, or idle. A middlebox forgets a connection that is silent for too
//! long, and tells nobody, or resets it at the next packet (PROTOCOL.md, "Stale conns").
//!
//! The client is asked whether it has seen the `Start`. Only if it says that it has not does the visitor go to another
//! conn: it is served once, or not at all.

use super::super::loop_core::Phase;
use super::super::messages::{ControlKey, FromServerLoop};
use super::super::relay::End;
use super::super::slab::Token;
use super::super::thread::Cx;
use super::{Conn, LoopSys, ServerLoop, Slot, State, Taken};
use crate::canary::{PlantedBug, planted};
use crate::codes::AbortCode;
use crate::conn::server::{Answer, Doubt};
use crate::ids::ConnId;
use crate::ledger::Good;
use crate::liveness::Line;
use crate::notes::{Dropped, Note};
use crate::stir::PATIENCE;
use crate::time::Instant;
use crate::wire::{ProxyToClient, ServerMsg};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

impl<T, P> Conn<T, P> {
    /// Whether it is lost, and stays only until the client has said whether it has seen the `Start`.
    pub(super) fn is_lost(&self) -> bool {
        match &self.state {
            State::Idle { .. } => false,
            State::Active(active) => active.lost,
        }
    }

    /// It ends for this reason: how long it was silent, if it was idle and a middlebox may have forgotten it.
    pub(super) fn lesson(&self, now: Instant, code: AbortCode) -> Option<Duration> {
        let idle = matches!(self.state, State::Idle { .. });
        match code {
            AbortCode::ConnLost if idle && !self.closed && !self.pinged => Some(now.since(self.heard)),
            AbortCode::ConnLost | AbortCode::Deadline if idle && !self.closed && self.pinged => Some(self.silence),
            AbortCode::ConnLost
            | AbortCode::Deadline
            | AbortCode::OuterReset
            | AbortCode::SessionOver
            | AbortCode::Resources
            | AbortCode::Stopping => None,
        }
    }
}

impl<T, P> ServerLoop<T, P> {
    /// Asks an idle conn for a sign of life.
    // PROTOCOL.md: P-POOL-6.
    pub(super) fn ping<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return };
        if conn.pinged {
            return;
        }
        conn.link.egress_flow.push(&ProxyToClient::Ping);
        conn.pinged = true;
        conn.silence = cx.now.since(conn.heard);
        let at = cx.now + self.core.timings.idle_ping_timeout;
        self.core.timers.set(token, &mut conn.deadline, Some(at));
        self.drive(cx, token);
    }

    /// A conn was found dead that was thought to be idle: so may be the others.
    // PROTOCOL.md: P-POOL-10, P-STALE-7.
    pub(super) fn on_dead<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        control: ControlKey,
        conn: ConnId,
        silence: Duration,
    ) {
        let Some(shard) = self.controls.get_mut(&control).filter(|shard| !shard.closing) else { return };
        if let Some(interval) = shard.ping_pace.on_dead(silence, cx.now) {
            cx.sys.note(Note::IdleConnsDie { conn, silence, interval });
        }
        let suspects: Vec<_> = shard.pool.suspect_all().collect();
        for token in suspects {
            self.ping(cx, token);
        }
        self.ask(cx, control);
    }

    /// Looks at whether what the conns were given is acknowledged.
    // PROTOCOL.md: P-XFER-12.
    pub(super) fn look<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>) {
        for slot in self.slots.iter_mut() {
            let Slot::Conn(conn) = slot else { continue };
            let State::Active(active) = &mut conn.state else { continue };
            if self.core.look(cx, conn.link.port.stream(), &mut active.path, &active.conn.transfer) {
                let (control, loop_index) = (conn.control, self.core.loop_index);
                cx.sys.tell(FromServerLoop::AskLine { control, loop_index, conn: conn.id });
            }
        }
    }

    /// How a session's ctl_conn is, of whose conns one is silent.
    pub(super) fn on_line<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        control: ControlKey,
        conn: ConnId,
        line: Line,
    ) {
        let Some(shard) = self.controls.get(&control) else { return };
        let Some(&token) = shard.conns.get(&conn) else { return };
        let patience = self.core.timings.of(shard.frugal).path_patience();
        let Some(Slot::Conn(slot)) = self.slots.get_mut(token) else { return };
        let State::Active(active) = &mut slot.state else { return };
        if let Some(silence) = active.path.on_line(cx.now, line, patience) {
            cx.sys.note(Note::PathDead { conn, silence });
            self.end(cx, token, End::Abort(AbortCode::ConnLost));
        }
    }

    /// A `Start` has not been answered yet.
    // PROTOCOL.md: P-XFER-8.
    pub(super) fn on_unanswered<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Conn(conn)) = self.slots.get(token) else { return };
        let timings = &self.core.timings;
        let dial_timeout = timings.dial_timeout;
        let within = dial_timeout.saturating_mul(2).saturating_sub(timings.start_patience);
        let stirs = self.stirs(cx.now, conn.control, within);
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return };
        let State::Active(active) = &conn.state else { return };
        let late = cx.now >= active.answer_by;
        let held_up = stirs && cx.now < active.answer_by + dial_timeout.saturating_mul(PATIENCE - 2);
        if active.lost || late && !held_up {
            return self.end(cx, token, End::Abort(AbortCode::Deadline));
        }
        let at = if late { cx.now + dial_timeout.saturating_mul(2) } else { active.answer_by };
        let lingers = active.pace.phase == Phase::Lingering;
        self.core.timers.set(token, &mut conn.deadline, Some(at));
        if lingers {
            self.drive(cx, token);
        } else {
            self.doubt(cx, token);
        }
    }

    /// Whether payload of a client was seen to move less than `within` ago.
    pub(super) fn stirs(&mut self, now: Instant, control: ControlKey, within: Duration) -> bool {
        self.look_at(now, control);
        self.controls.get(&control).is_some_and(|shard| shard.stir.moved(now, within))
    }

    /// Looks how much payload has come from a client.
    pub(super) fn look_at(&mut self, now: Instant, control: ControlKey) {
        let Some(shard) = self.controls.get_mut(&control) else { return };
        let slots = &self.slots;
        let come = shard.conns.values().filter_map(|&token| {
            let Some(Slot::Conn(conn)) = slots.get(token) else { return None };
            let State::Active(active) = &conn.state else { return None };
            Some(active.conn.transfer.ingress.forwarded())
        });
        shard.stir.look(now, || come.sum());
    }

    /// A `Start` has not been answered for a while. Where nothing of it has arrived, the client is asked: a client that
    /// is slow has it.
    // PROTOCOL.md: P-STALE-2.
    pub(super) fn doubt<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return };
        let State::Active(active) = &mut conn.state else { return };
        // `Start` is in front of the payload.
        let unsent = cx.sys.unsent(conn.link.port.stream()) as u64;
        let arrived = conn.link.egress_flow.is_empty() && unsent <= active.conn.transfer.egress.forwarded();
        if !arrived && active.conn.on_doubt() == Doubt::Ask {
            let msg = ServerMsg::AskStart { conn: conn.id, epoch: active.conn.transfer.epoch() };
            cx.sys.tell(FromServerLoop::Message { control: conn.control, msg });
        }
    }

    /// A conn is lost. `true`: under a `Start` that the client may never have seen. The visitor is kept until the client
    /// has said so, or has waited long enough.
    // PROTOCOL.md: P-STALE-1.
    pub(super) fn ask_if_seen<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> bool {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return false };
        let State::Active(active) = &mut conn.state else { return false };
        let (control, id) = (conn.control, conn.id);
        match active.conn.on_doubt() {
            Doubt::Seen => return false,
            Doubt::Wait if active.lost => return true,
            Doubt::Wait => {}
            Doubt::Ask => {
                let msg = ServerMsg::AskStart { conn: id, epoch: active.conn.transfer.epoch() };
                cx.sys.tell(FromServerLoop::Message { control, msg });
            }
        }
        active.lost = true;
        let (visitor, silence, closed) = (active.visitor, conn.silence, conn.closed);
        let until = visitor.and_then(|visitor| self.may_wait_until(visitor));
        if let Some(Slot::Conn(conn)) = self.slots.get_mut(token) {
            self.core.timers.set(token, &mut conn.deadline, Some(until.unwrap_or(cx.now)));
        }
        if !closed {
            self.on_dead(cx, control, id, silence);
        }
        if planted(PlantedBug::StartNotAsked) {
            self.take_back(cx, token);
        }
        true
    }

    fn may_wait_until(&self, visitor: Token) -> Option<Instant> {
        match self.slots.get(visitor)? {
            Slot::Visitor(visitor) => Some(visitor.until),
            Slot::Conn(_) | Slot::Port(_) => None,
        }
    }

    /// The client never saw a conn's `Start`, and never will: the conn is closed, and its visitor gets another one.
    // PROTOCOL.md: P-STALE-5.
    pub(super) fn take_back<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Conn(mut conn)) = self.slots.remove(token) else { return };
        self.core.timers.set(token, &mut conn.deadline, None);
        let State::Active(active) = conn.state else { unreachable!("it was asked about a Start") };
        assert_eq!(active.conn.answer(), Answer::Awaiting, "V5: a visitor is served once");
        let control = conn.control;
        conn.link.reset(cx.sys);
        if let Some(shard) = self.controls.get_mut(&control) {
            shard.conns.remove(&conn.id);
            shard.active -= 1;
            self.ledger.remove(shard.holder, Good::Transfer, 1);
        }
        cx.sys.tell(FromServerLoop::ConnGone { control, conn: conn.id });
        let visitor = active.visitor.expect("a visitor leaves no earlier than the answer comes");
        if let Some(Slot::Visitor(guest)) = self.slots.get_mut(visitor) {
            let epoch = active.conn.transfer.epoch();
            cx.sys.note(Note::TakenBack { conn: conn.id, epoch, visitor: guest.who.from, lost: active.lost });
            guest.conn = None;
            let (transfer, first) = (Some(active.conn.transfer), active.first);
            guest.taken = Some(Box::new(Taken { transfer, first }));
        }
        if !active.lost {
            self.on_dead(cx, control, conn.id, conn.silence);
        }
        self.place_again(cx, control, visitor);
        self.tell_if_drained(cx);
    }

    /// Gives a visitor whose conn was dead another one, or the first place in the queue.
    pub(super) fn place_again<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, visitor: Token) {
        let Some(Slot::Visitor(guest)) = self.slots.get(visitor) else { return };
        let until = guest.until;
        let heir = self.heir(control, guest.tunnel);
        if heir.0 != control {
            return self.pass_on(cx, visitor, heir);
        }
        let Some(shard) = self.controls.get_mut(&control) else { return };
        match shard.pool.on_return(visitor, until) {
            Some(conn) => self.give(cx, conn, Some(visitor)),
            None if self.closed || shard.closing || shard.retired => self.drop_visitor(cx, visitor, Dropped::Gone),
            None => self.begin_wait(cx.now, visitor),
        }
        self.ask(cx, control);
    }
}
