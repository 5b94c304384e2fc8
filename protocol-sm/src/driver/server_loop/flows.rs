//! UDP tunnels: a public socket and its flows, whose conns are this loop's, too. A flow is a visitor like any other, but
//! that it has no socket of its own: what it says comes in by the port, and what it is told leaves there.
//!
//! A flow ends when it was silent for too long, when room is needed, when its LocalServer's port is closed, or its own:
//! its stream to the client ends, and the client's ends with it.

use super::super::messages::{ControlKey, FromServerLoop, UdpPort, Who};
use super::super::relay::{Datagrams as Stream, Endpoint};
use super::super::slab::Token;
use super::super::sys::Address;
use super::super::thread::Cx;
use super::{LoopSys, ServerLoop, Slot, Visitor};
use crate::canary::{PlantedBug, planted};
use crate::codes::Violation;
use crate::datagrams::{FlowTable, Lost, MAX_DATAGRAM, Party, Speaker};
use crate::gate::Gate;
use crate::ids::TunnelId;
use crate::ledger::Good;
use crate::notes::Dropped;
use crate::proxy_protocol::{Ends, Malformed, Sender, split};
use crate::sources::{Network, Source};
use crate::time::Instant;
use crate::visit::Begun;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// Datagrams that are read at one port before others get their turn.
const BATCH: usize = 64;

/// A public UDP socket, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Port<T> {
    control: ControlKey,
    tunnel: TunnelId,
    pub(super) socket: T,
    public: SocketAddr,
    gate: Box<Gate>,
    /// Relays: a header in front of each of their datagrams says who has sent it.
    trusted: Vec<Network>,
    pub(super) flows: FlowTable<Token>,
    /// It waits for another turn.
    pub(super) queued: bool,
}

impl<T> Port<T> {
    /// Whose it is.
    pub(super) fn owner(&self) -> (ControlKey, TunnelId) {
        (self.control, self.tunnel)
    }

    /// Who has sent a datagram that comes from `peer`, and what.
    // PROTOCOL.md: P-FRONT-6.
    fn whose<'a>(&self, peer: SocketAddr, datagram: &'a [u8]) -> Result<(Origin, &'a [u8]), Malformed> {
        if !self.trusted.iter().any(|network| network.contains(peer.ip())) {
            return Ok((Origin { party: peer.into(), dialled: None, relay: None, is_check: false }, datagram));
        }
        let (sender, sent) = split(datagram)?;
        let (visitor, dialled) = match sender {
            Sender::Visitor(Ends { visitor, public }) => (visitor, Some(public)),
            Sender::Unnamed | Sender::Relay => (peer, None),
        };
        let relay = Some(peer.ip()).filter(|_| !planted(PlantedBug::RelayForgotten));
        let party = Party { visitor, relay };
        Ok((Origin { party, dialled, relay: Some(peer), is_check: sender == Sender::Relay }, sent))
    }
}

/// Where a datagram comes from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    party: Party,
    /// The address that it was sent to, where the relay says that.
    dialled: Option<SocketAddr>,
    /// The relay that it came by.
    relay: Option<SocketAddr>,
    /// A relay looks whether the service answers: no visitor.
    is_check: bool,
}

/// Which flow a visitor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub(super) port: Token,
    /// Whom it is with.
    pub(super) party: Party,
    /// Where it was heard from last, if that was a relay.
    relay: Option<SocketAddr>,
    /// The address that it has spoken to last.
    own: IpAddr,
    /// That of its port.
    number: u16,
}

impl Flow {
    pub(super) fn public(&self) -> SocketAddr {
        SocketAddr::new(self.own, self.number)
    }

    /// Where what it is told goes.
    pub(super) fn back(&self) -> Address {
        Address { peer: self.relay.unwrap_or(self.party.visitor), own: self.own }
    }
}

impl<T, P> ServerLoop<T, P> {
    /// A public UDP port is open.
    // PROTOCOL.md: P-UDP-1.
    pub(super) fn on_port<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, port: UdpPort<T>) {
        let UdpPort { control, tunnel, socket, public, gate, trusted } = port;
        if self.closed || self.core.draining {
            cx.sys.close(socket);
            return cx.sys.tell(FromServerLoop::PortClosed);
        }
        let made = self.slots.insert_with(|token| match cx.sys.watch(&socket, token) {
            Ok(()) => {
                let flows = FlowTable::default();
                let queued = false;
                Ok(Slot::Port(Box::new(Port { control, tunnel, socket, public, gate, trusted, flows, queued })))
            }
            Err(_) => Err(socket),
        });
        match made {
            Ok(token) => {
                self.ports.insert((control, tunnel), token);
            }
            Err(socket) => {
                cx.sys.close(socket);
                cx.sys.tell(FromServerLoop::PortClosed);
            }
        }
    }

    /// Who may visit a UDP tunnel is changed.
    pub(super) fn admit(&mut self, control: ControlKey, tunnel: TunnelId, mut gate: Box<Gate>) {
        if let Some(&token) = self.ports.get(&(control, tunnel))
            && let Some(Slot::Port(port)) = self.slots.get_mut(token)
        {
            gate.follow(&mut port.gate);
            port.gate = gate;
        }
    }

    /// Datagrams that come from these networks from now on say who has sent them.
    pub(super) fn trust(&mut self, trusted: &[Network]) {
        for &token in self.ports.values() {
            if let Some(Slot::Port(port)) = self.slots.get_mut(token) {
                port.trusted = trusted.to_vec();
            }
        }
    }

    /// A UDP port is another session's. Its flows that have a conn keep it.
    // PROTOCOL.md: P-TAKE-2.
    pub(super) fn hand_port_over(&mut self, from: (ControlKey, TunnelId), to: (ControlKey, TunnelId)) {
        if let Some(token) = self.ports.remove(&from) {
            self.ports.insert(to, token);
            if let Some(Slot::Port(port)) = self.slots.get_mut(token) {
                (port.control, port.tunnel) = to;
            }
        }
    }

    /// Closes the UDP ports of a session, or one of them, or all, and ends their flows.
    pub(super) fn close_ports<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        closes: impl Fn(ControlKey, TunnelId) -> bool,
    ) {
        let ports: Vec<_> = self.ports.iter().filter(|((control, tunnel), _)| closes(*control, *tunnel)).collect();
        let ports: Vec<_> = ports.into_iter().map(|(&at, &token)| (at, token)).collect();
        for (at, token) in ports {
            self.ports.remove(&at);
            let Some(Slot::Port(port)) = self.slots.remove(token) else { continue };
            cx.sys.close(port.socket);
            cx.sys.tell(FromServerLoop::PortClosed);
            for (_, flow) in port.flows.iter() {
                self.end_flow(cx, flow, Dropped::Gone);
            }
        }
    }

    /// Reads datagrams at a port, a bounded number of them.
    pub(super) fn hear_port<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let mut datagram = core::mem::take(&mut self.core.datagram);
        for _ in 0..BATCH {
            let Some(Slot::Port(port)) = self.slots.get_mut(token) else { break };
            datagram.clear();
            match cx.sys.hear(&port.socket, &mut datagram) {
                Ok(address) => self.on_datagram(cx, token, address, &datagram),
                // Nothing is there, or it cannot be read now: the next datagram is reported as readiness.
                Err(_) => {
                    self.core.datagram = datagram;
                    return;
                }
            }
        }
        self.core.datagram = datagram;
        if let Some(Slot::Port(port)) = self.slots.get_mut(token) {
            self.core.queue_turn(token, &mut port.queued);
        }
    }

    // PROTOCOL.md: P-UDP-3.
    fn on_datagram<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, from: Address, datagram: &[u8]) {
        let Some(Slot::Port(port)) = self.slots.get_mut(token) else { return };
        let Ok((origin, datagram)) = port.whose(from.peer, datagram) else {
            return self.core.tally.lost.add(Lost::NoHeader);
        };
        if datagram.len() > MAX_DATAGRAM {
            return self.core.tally.lost.add(Lost::TooLong);
        }
        let known = port.flows.get(origin.party);
        let Some(flow) = known.or_else(|| self.begin_flow(cx, token, origin, from.own)) else {
            return self.core.tally.lost.add(Lost::NoFlow);
        };
        if let Some(Slot::Port(port)) = self.slots.get_mut(token) {
            port.flows.on_spoken(cx.now, origin.party, Speaker::Visitor);
        }
        let Some(Slot::Visitor(visitor)) = self.slots.get_mut(flow) else { return };
        visitor.flow.iter_mut().for_each(|flow| (flow.relay, flow.own) = (origin.relay, from.own));
        let (control, conn) = (visitor.control, visitor.conn);
        if conn.is_some_and(|conn| self.goes_by_path(cx, conn, datagram)) {
            return;
        }
        let Some(Slot::Visitor(visitor)) = self.slots.get_mut(flow) else { return };
        let lost = &mut self.core.tally.lost;
        visitor.port.change(|stream| stream.waiting.push(cx.now, datagram, lost));
        match conn {
            Some(conn) => self.drive(cx, conn),
            None if known.is_none() => self.place(cx, control, flow),
            None => {}
        }
    }

    /// The first datagram of a visitor has come. `None`: it begins no flow.
    // PROTOCOL.md: P-UDP-7.
    fn begin_flow<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        origin: Origin,
        own: IpAddr,
    ) -> Option<Token> {
        let Some(Slot::Port(port)) = self.slots.get_mut(token) else { return None };
        let (control, tunnel) = (port.control, port.tunnel);
        let Origin { party, dialled, relay, is_check } = origin;
        if !is_check {
            port.gate.admit(cx.now, party.visitor.ip()).ok()?;
            if port.flows.of_source(Source::of(party.visitor.ip())) >= port.gate.per_source {
                return None;
            }
        }
        let most = port.gate.max_connections.min(port.gate.max_flows);
        let shard = self.controls.get(&control).filter(|shard| !shard.closing && !shard.retired && !self.closed)?;
        if port.flows.len() >= most as usize || shard.is_full(&self.ledger) {
            let silent = port.flows.makes_room(cx.now)?;
            self.end_flow(cx, silent, Dropped::TunnelFull);
        }
        // One that ends is there until the client has said `Done`.
        let shard = self.controls.get(&control)?;
        if shard.is_full(&self.ledger)
            || shard.visits(tunnel) >= most
            || shard.pool.is_empty() && shard.waiting(&self.ledger) >= shard.max_waiting
        {
            return None;
        }
        let Some(Slot::Port(port)) = self.slots.get_mut(token) else { return None };
        let label = port.gate.label.clone().filter(|_| !is_check);
        let (visit, number) = (Begun::new(label, cx.now), port.public.port());
        let visitor = Visitor {
            control,
            tunnel,
            who: Who { from: party.visitor, dialled: dialled.map(Box::new), secured: None },
            guest: None,
            flow: Some(Box::new(Flow { port: token, party, relay, own, number })),
            visit,
            port: Endpoint::datagrams(None),
            conn: None,
            until: cx.now + self.core.timings.wait_timeout,
            taken: None,
            deadline: None,
        };
        let Ok::<_, core::convert::Infallible>(flow) = self.slots.insert_with(|_| Ok(Slot::Visitor(Box::new(visitor))));
        if let Some(Slot::Port(port)) = self.slots.get_mut(token) {
            port.flows.insert(cx.now, party, flow);
        }
        if !is_check {
            self.core.totals.visitors += 1;
            self.count(control, tunnel);
        }
        if let Some(shard) = self.controls.get_mut(&control) {
            *shard.visits.entry(tunnel).or_default() += 1;
            self.ledger.add(shard.holder, Good::Visitor, 1);
        }
        Some(flow)
    }

    /// A flow is over. One that waits for a conn is dropped, for the reason `why`.
    // PROTOCOL.md: P-UDP-4.
    pub(super) fn end_flow<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, why: Dropped) {
        let Some(Slot::Visitor(visitor)) = self.slots.get_mut(token) else { return };
        self.core.timers.set(token, &mut visitor.deadline, None);
        let Some(conn) = visitor.conn else { return self.drop_visitor(cx, token, why) };
        visitor.port.change(Stream::end);
        self.leave_port(token);
        self.settle_flow(token);
        self.drive(cx, conn);
    }

    /// What a flow that has ended did not send is lost.
    pub(super) fn settle_flow(&mut self, token: Token) {
        let Some(Slot::Visitor(visitor)) = self.slots.get_mut(token) else { return };
        let lost = &mut self.core.tally.lost;
        visitor.port.change(|stream| {
            if stream.has_ended() {
                stream.waiting.close(lost);
            }
        });
    }

    /// Datagrams of this visitor begin another flow from now on.
    pub(super) fn leave_port(&mut self, token: Token) {
        let Some(Slot::Visitor(visitor)) = self.slots.get_mut(token) else { return };
        let Some(&Flow { port, party, .. }) = visitor.flow.as_deref() else { return };
        if let Some(Slot::Port(port)) = self.slots.get_mut(port) {
            port.flows.remove(party, token);
        }
    }

    /// A flow that waits has waited for long enough, or one that is served may have been silent for too long.
    // PROTOCOL.md: P-UDP-5, P-UDP-6.
    pub(super) fn on_flow_deadline<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Visitor(visitor)) = self.slots.get_mut(token) else { return };
        if visitor.conn.is_none() {
            let lost = &mut self.core.tally.lost;
            visitor.port.change(|stream| stream.waiting.expire(cx.now, lost));
            match visitor.waits_until().filter(|&until| until > cx.now) {
                Some(until) => self.core.timers.set(token, &mut visitor.deadline, Some(until)),
                None => {
                    self.drop_visitor(cx, token, Dropped::WaitedTooLong);
                    self.tell_if_drained(cx);
                }
            }
            return;
        }
        let Some(&Flow { port, party, .. }) = visitor.flow.as_deref() else { return };
        let Some(Slot::Port(port)) = self.slots.get(port) else { return };
        let Some(life) = port.flows.life(party) else { return };
        let until = life.until(self.core.timings.udp_idle_timeout);
        if until <= cx.now {
            return self.end_flow(cx, token, Dropped::Gone);
        }
        if let Some(Slot::Visitor(visitor)) = self.slots.get_mut(token) {
            self.core.timers.set(token, &mut visitor.deadline, Some(until));
        }
    }

    /// Sends what has come for a flow to its visitor.
    ///
    /// # Errors
    /// The client has sent what no datagram is.
    // PROTOCOL.md: P-UDP-2.
    pub(super) fn deliver<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<(), Violation> {
        let Some(Slot::Visitor(visitor)) = self.slots.get(token) else { return Ok(()) };
        let Some(&flow) = visitor.flow.as_deref() else { return Ok(()) };
        let lost = &mut self.core.tally.lost;
        let mut send = |stream: &mut Stream<T>, mut port: Option<&mut Port<T>>| {
            while let Some(datagram) = stream.out.pop().map_err(|_| Violation::Malformed)? {
                let Some(port) = port.as_mut() else {
                    lost.add(Lost::Ended);
                    continue;
                };
                port.flows.on_spoken(cx.now, flow.party, Speaker::Service);
                if cx.sys.say(&port.socket, Some(flow.back()), datagram).is_err() {
                    lost.add(Lost::NotSent);
                }
            }
            Ok(())
        };
        let sent = match self.slots.get_two(token, flow.port) {
            Some((Slot::Visitor(visitor), Slot::Port(port))) => visitor.port.change(|stream| send(stream, Some(port))),
            Some(_) | None => match self.slots.get_mut(token) {
                Some(Slot::Visitor(visitor)) => visitor.port.change(|stream| send(stream, None)),
                Some(Slot::Conn(_) | Slot::Port(_)) | None => None,
            },
        };
        self.settle_flow(token);
        sent.unwrap_or(Ok(()))
    }
}

impl<T> Visitor<T> {
    /// How long it may wait for a conn. A flow waits as long as any of its datagrams may; one that comes back, as any
    /// visitor.
    pub(super) fn waits_until(&mut self) -> Option<Instant> {
        if self.flow.is_none() || self.returns() {
            return Some(self.until);
        }
        let patience = self.port.change(|stream| stream.waiting.patience()).flatten();
        patience.map(|patience| patience.min(self.until))
    }
}
