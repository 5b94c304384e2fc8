//! Visitors: they come, wait, are given a conn, or are reset.

use super::super::messages::{Arrival, ControlKey, FromServerLoop, share};
use super::super::relay::Endpoint;
use super::super::slab::Token;
use super::super::thread::Cx;
use super::{Active, LoopSys, Pace, ServerLoop, Slot, State, Taken, Visitor};
use crate::bandwidth::Direction;
use crate::canary::{PlantedBug, planted};
use crate::codes::AbortCode;
use crate::crowd::Guest;
use crate::datagrams::FRESH;
use crate::dead_path::Path;
use crate::ids::{Epoch, TunnelId};
use crate::ledger::Good;
use crate::notes::{Dropped, Note};
use crate::report::{Trouble, time_since};
use crate::stir::PATIENCE;
use crate::time::Instant;
use crate::transfer::{Fin, Half, Untold};
use crate::visit::{Begun, VisitEnd};
use crate::wire::{ProxyToClient, ServerMsg};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

impl<T, P> ServerLoop<T, P> {
    pub(super) fn on_visitor<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, arrival: Arrival<T>) {
        let (control, tunnel) = self.heir(arrival.control, arrival.tunnel);
        let arrival = Arrival { control, tunnel, ..arrival };
        let refused = match self.controls.get(&control) {
            None => Some(Dropped::Gone),
            Some(shard) if self.closed || shard.closing || shard.retired => Some(Dropped::Gone),
            Some(shard) => {
                let loop_index = u32::try_from(self.core.loop_index).unwrap_or(u32::MAX);
                if shard.is_full(&self.ledger) {
                    Some(Dropped::TooMany)
                } else if shard.visits(arrival.tunnel) >= share(arrival.tunnel_max, loop_index, shard.loop_count) {
                    Some(Dropped::TunnelFull)
                } else if shard.pool.is_empty() && shard.waiting(&self.ledger) >= shard.max_waiting {
                    Some(Dropped::QueueFull)
                } else {
                    None
                }
            }
        };
        if matches!(refused, Some(Dropped::TooMany | Dropped::TunnelFull | Dropped::QueueFull)) && arrival.left > 0 {
            let arrival = Box::new(Arrival { left: arrival.left - 1, ..arrival });
            cx.sys.tell(FromServerLoop::PassOn { loop_index: self.core.loop_index, arrival });
            return;
        }
        let Arrival { tunnel, stream, who, guest, head, label, .. } = arrival;
        let (from, read) = (who.from, head.len());
        self.core.totals.visitors += 1;
        self.count(control, tunnel);
        if let Some(why) = refused {
            self.count_trouble(cx.now, control, tunnel, Trouble::Dropped(why));
            cx.sys.note(Note::VisitorDropped { visitor: from, tunnel, why });
            Begun::turned_away(label.as_ref(), from, read, why).into_iter().for_each(|visit| cx.sys.note(visit));
            cx.sys.reset(stream);
            self.tell_left(cx, guest);
            return;
        }
        let taken = (!head.is_empty()).then(|| Box::new(Taken { transfer: None, first: head }));
        let made = self.slots.insert_with(|token| match cx.sys.watch(&stream, token) {
            Ok(()) => Ok(Slot::Visitor(Box::new(Visitor {
                control,
                tunnel,
                who,
                guest: Some(guest),
                flow: None,
                visit: Begun::new(label.clone(), cx.now),
                port: Endpoint::new(stream),
                conn: None,
                until: cx.now + self.core.timings.wait_timeout,
                taken,
                deadline: None,
            }))),
            Err(_) => Err(stream),
        });
        match made {
            Ok(token) => {
                if let Some(shard) = self.controls.get_mut(&control) {
                    *shard.visits.entry(tunnel).or_default() += 1;
                    self.ledger.add(shard.holder, Good::Visitor, 1);
                }
                self.place(cx, control, token);
            }
            Err(stream) => {
                let why = Dropped::Resources;
                self.count_trouble(cx.now, control, tunnel, Trouble::Dropped(why));
                cx.sys.note(Note::VisitorDropped { visitor: from, tunnel, why });
                Begun::turned_away(label.as_ref(), from, read, why).into_iter().for_each(|visit| cx.sys.note(visit));
                cx.sys.reset(stream);
                self.tell_left(cx, guest);
            }
        }
    }

    /// Gives a visitor a conn, or a place in the queue, or a reset.
    pub(super) fn place<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, visitor: Token) {
        let Some(shard) = self.controls.get_mut(&control) else {
            return;
        };
        // It is among the waiting ones already.
        if shard.pool.is_empty() && shard.waiting(&self.ledger) > shard.max_waiting {
            self.drop_visitor(cx, visitor, Dropped::QueueFull);
            return self.ask(cx, control);
        }
        match shard.pool.on_visitor(visitor) {
            Some(conn) => self.give(cx, conn, Some(visitor)),
            None => self.begin_wait(cx.now, visitor),
        }
        self.ask(cx, control);
    }

    pub(super) fn begin_wait(&mut self, now: Instant, visitor: Token) {
        if let Some(Slot::Visitor(waiting)) = self.slots.get_mut(visitor) {
            let until = waiting.waits_until().unwrap_or(waiting.until);
            self.core.timers.set(visitor, &mut waiting.deadline, Some(until));
            let control = waiting.control;
            self.look_at(now, control);
        }
    }

    /// A visitor has waited for long enough, unless the conn that it waits for has to wait behind other payload itself.
    // PROTOCOL.md: P-POOL-5.
    pub(super) fn on_waited<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let wait_timeout = self.core.timings.wait_timeout;
        let Some(Slot::Visitor(waiting)) = self.slots.get(token) else { return };
        let held_up = cx.now < waiting.until + wait_timeout.saturating_mul(PATIENCE - 1)
            && self.controls.get(&waiting.control).is_some_and(|shard| shard.pool.expects())
            && self.stirs(cx.now, waiting.control, wait_timeout);
        match self.slots.get_mut(token) {
            Some(Slot::Visitor(waiting)) if held_up => {
                self.core.timers.set(token, &mut waiting.deadline, Some(cx.now + wait_timeout));
            }
            _ => {
                self.drop_visitor(cx, token, Dropped::WaitedTooLong);
                self.tell_if_drained(cx);
            }
        }
    }

    /// A conn is idle, and was given to `visitor`, if any waits.
    // PROTOCOL.md: P-XFER-2, P-XFER-8.
    pub(super) fn give<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, visitor: Option<Token>) {
        let Some(visitor) = visitor else {
            if let Some(Slot::Conn(conn)) = self.slots.get_mut(token)
                && let Some(shard) = self.controls.get_mut(&conn.control)
            {
                let at = cx.now + shard.ping_pace.interval(cx.now);
                self.core.timers.set(token, &mut conn.deadline, Some(at));
            }
            return;
        };
        let Some((Slot::Conn(conn), Slot::Visitor(guest))) = self.slots.get_two(token, visitor) else {
            unreachable!("the pool knows only conns and visitors that are there");
        };
        let State::Idle { conn: idle, .. } = &conn.state else { unreachable!("P2: only an idle conn is given") };
        let begun = match guest.taken.as_ref().and_then(|taken| taken.transfer.as_ref()) {
            None => idle.clone().start().map(|active| (active, Untold::default())),
            Some(transfer) => idle.clone().start_again(transfer),
        };
        let Some((mut active, untold)) = begun else {
            // Its epochs are used up: another conn must do it.
            let (control, returns) = (conn.control, guest.returns());
            self.drop_conn(cx, token, AbortCode::ConnLost, false);
            if returns {
                self.place_again(cx, control, visitor);
            } else {
                self.place(cx, control, visitor);
            }
            return;
        };
        let start = ProxyToClient::Start {
            epoch: active.transfer.epoch(),
            tunnel: guest.tunnel,
            visitor: guest.who.from,
            public: match (&guest.who.dialled, &guest.flow) {
                (Some(dialled), _) if !planted(PlantedBug::DialledForgotten) => **dialled,
                (_, Some(flow)) => flow.public(),
                (_, None) => cx.sys.own_address(guest.port.stream()),
            },
        };
        // PROTOCOL.md: P-XFER-13.
        if let Some(secured) = &guest.who.secured
            && self.controls.get(&conn.control).is_some_and(|shard| shard.secured)
        {
            conn.link.egress_flow.push(&ProxyToClient::Secured(secured.clone()));
        }
        conn.link.egress_flow.push(&start);
        let returns = guest.returns();
        if !returns {
            self.core.tally.waits.add(time_since(cx.now, guest.until, self.core.timings.wait_timeout));
        }
        let first = match guest.taken.take() {
            None => core::mem::take(&mut self.spare),
            Some(taken) => taken.first,
        };
        let max_bandwidth = self.controls.get(&conn.control).and_then(|shard| shard.max_bandwidth);
        if !returns && !first.is_empty() {
            // PROTOCOL.md: P-HOST-6.
            active.transfer.egress.on_taken(first.len());
            if max_bandwidth.is_some() {
                let tunnel = (conn.control, guest.tunnel);
                self.allowances.charge(cx.now, tunnel, Direction::Egress, first.len() as u64, None);
            }
        }
        conn.link.egress_flow.push_payload(&first);
        for Fin { total, how } in untold.fins() {
            let msg = ServerMsg::Fin { conn: conn.id, epoch: active.transfer.epoch(), total, how };
            cx.sys.tell(FromServerLoop::Message { control: conn.control, msg });
        }
        cx.sys.note(Note::Started {
            control: conn.control,
            conn: conn.id,
            epoch: active.transfer.epoch(),
            tunnel: guest.tunnel,
            visitor: guest.who.from,
        });
        let reused = active.transfer.epoch() > Epoch(1);
        let answer_by = cx.now + self.core.timings.dial_timeout.saturating_mul(2);
        let doubt_at = cx.now + self.core.timings.start_patience;
        conn.silence = cx.now.since(conn.heard);
        conn.state = State::Active(Active {
            conn: active,
            tunnel: guest.tunnel,
            max_bandwidth,
            throttled: [false; 2],
            visitor: Some(visitor),
            pace: Pace::new(),
            path: Path::default(),
            first,
            answer_by,
            lost: false,
            aside: None,
        });
        guest.conn = Some(token);
        guest.visit.iter_mut().for_each(|visit| visit.on_served(cx.now));
        let silent_at = guest.flow.is_some().then(|| cx.now + FRESH.min(self.core.timings.udp_idle_timeout));
        self.core.timers.set(visitor, &mut guest.deadline, silent_at);
        self.core.timers.set(token, &mut conn.deadline, Some(answer_by.min(doubt_at)));
        if let Some(shard) = self.controls.get_mut(&conn.control) {
            shard.active += 1;
            self.ledger.add(shard.holder, Good::Transfer, 1);
            if reused {
                shard.tally.reused += 1;
                self.core.tally.reused += 1;
            }
        }
        self.tell_if_settled(cx);
        self.drive(cx, token);
    }

    pub(super) fn drop_waiting<S: LoopSys<T, P>>(
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
    pub(super) fn drop_visitor<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, why: Dropped) {
        if let Some(Slot::Visitor(visitor)) = self.slots.get_mut(token) {
            let note = Note::VisitorDropped { visitor: visitor.who.from, tunnel: visitor.tunnel, why };
            cx.sys.note(note);
            let (control, tunnel) = (visitor.control, visitor.tunnel);
            if let Some(shard) = self.controls.get_mut(&control) {
                shard.pool.remove_waiting(token);
                shard.on_left(&mut self.ledger, tunnel);
            }
            self.count_trouble(cx.now, control, tunnel, Trouble::Dropped(why));
        }
        let taken = self.slots.get_mut(token).and_then(|slot| match slot {
            Slot::Visitor(visitor) => visitor.taken.take(),
            Slot::Conn(_) | Slot::Port(_) => None,
        });
        let ways = taken.map(|taken| taken.ways()).unwrap_or_default();
        if let Some((visitor, visit)) = self.reset_visitor(cx, token) {
            cx.sys.note(visit.over(cx.now, visitor, ways, VisitEnd::Dropped(why)));
        }
        self.tell_if_settled(cx);
    }

    /// Resets a visitor. Returns who it was, if its visit is to leave a record.
    pub(super) fn reset_visitor<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
    ) -> Option<(SocketAddr, Begun)> {
        let visitor = self.take_visitor(cx, token)?;
        if let Some(stream) = visitor.port.into_socket() {
            if planted(PlantedBug::AbortClosesCleanly) {
                cx.sys.close(stream);
            } else {
                cx.sys.reset(stream);
            }
        }
        visitor.visit.map(|visit| (visitor.who.from, visit))
    }

    /// Closes a visitor whose both directions are shut. Returns who it was, if its visit is to leave a record.
    pub(super) fn close_visitor<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
    ) -> Option<(SocketAddr, Begun)> {
        let visitor = self.take_visitor(cx, token)?;
        if let Some(stream) = visitor.port.into_socket() {
            cx.sys.close(stream);
        }
        visitor.visit.map(|visit| (visitor.who.from, visit))
    }

    /// Forgets a visitor: what else is to be done is to end its socket, if it has one.
    fn take_visitor<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Option<Visitor<T>> {
        let Some(Slot::Visitor(_)) = self.slots.get(token) else { return None };
        self.leave_port(token);
        let Some(Slot::Visitor(mut visitor)) = self.slots.remove(token) else { return None };
        if let Some(guest) = visitor.guest {
            self.tell_left(cx, guest);
        }
        self.core.timers.set(token, &mut visitor.deadline, None);
        let lost = &mut self.core.tally.lost;
        visitor.port.change(|stream| {
            stream.waiting.close(lost);
        });
        Some(*visitor)
    }

    /// A visitor is gone, which the listener wants to know: it deals by load.
    fn tell_left<S: LoopSys<T, P>>(&self, cx: &mut Cx<'_, S>, guest: Guest) {
        cx.sys.tell(FromServerLoop::Left { loop_index: self.core.loop_index, guest });
    }
}
