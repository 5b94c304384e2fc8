//! Flows of UDP in whole systems: each client has a tunnel of UDP, and visitors speak there while everything goes on. A
//! service answers each datagram. What arrives was sent in this flow, whole, and arrives once.

use super::{Event, Phase, World};
use crate::kernel::{PollId, ProcId, SockId};
use crate::oracle::{Kind, Property, Sometimes};
use crate::scenario::flow_called;
use core::net::SocketAddr;
use protocol_sm::driver::{Address, Token};
use protocol_sm::settings::{Datagrams, Serving, TunnelLimits, TunnelSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Visitors of each client.
const VISITORS: usize = 2;
/// Their ports, and those of services and tunnels. No socket of TCP has them.
pub(super) const FIRST_VISITOR: u16 = 60_000;
const FIRST_SERVICE: u16 = 7_700;
const FIRST_PUBLIC: u16 = 6_800;

#[derive(Debug)]
struct Visitor {
    sock: SockId,
    client: usize,
    /// Datagrams that it has sent.
    sent: u32,
    /// Those that have come to the service.
    arrived: BTreeSet<u32>,
    answered: BTreeSet<u32>,
    /// What was answered since the faults stopped.
    answered_late: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Flows {
    poll: Option<PollId>,
    visitors: Vec<Visitor>,
    /// The process and the socket of each client's service.
    services: Vec<(ProcId, PollId, SockId)>,
    /// Whose each socket of a client is.
    owners: BTreeMap<(usize, SocketAddr), usize>,
    publics: Vec<Option<SocketAddr>>,
    /// Where a client's process says that its tunnel is.
    told: BTreeMap<(usize, usize), SocketAddr>,
}

/// What a visitor says, or is answered. No other datagram is the same.
fn datagram(visitor: usize, down: bool, number: u32) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(visitor).expect("few"), u8::from(down)];
    bytes.extend(number.to_be_bytes());
    bytes.resize(6 + number as usize * 37 % 200, number as u8);
    bytes
}

impl World {
    /// A client's tunnel of UDP.
    pub(super) fn flow_spec(&self, client: usize) -> TunnelSpec {
        let index = u16::try_from(client).expect("few clients");
        let place = self.plan.places[client];
        let port = FIRST_SERVICE + index;
        let away = self.kernel.ip(self.service_hosts[client]);
        let local = if place.remote_services { format!("{away}:{port}") } else { format!("127.0.0.1:{port}") };
        TunnelSpec {
            name: format!("flow{client}"),
            public_port: FIRST_PUBLIC + index,
            bind_addr: None,
            site: None,
            local,
            local_sources: Vec::new(),
            limits: TunnelLimits::default(),
            serving: Serving { datagrams: Some(Datagrams::Connected), ..Serving::default() },
        }
    }

    pub(super) fn set_out_flows(&mut self) {
        let clients = self.plan.scenario.clients.len();
        self.flows.publics = vec![None; clients];
        if !self.plan.flows {
            return;
        }
        let proc = self.visitors.0;
        let poll = self.kernel.epoll(proc);
        self.flows.poll = Some(poll);
        for client in 0..clients {
            let service = self.serve_flows(client);
            self.flows.services.push(service);
            for _ in 0..VISITORS {
                let index = self.flows.visitors.len();
                let port = FIRST_VISITOR + u16::try_from(index).expect("few");
                let at = SocketAddr::new(self.kernel.ip(self.visitor_host), port);
                let (sock, _) = self.kernel.bind_udp(proc, at, self.plan.foreign()).expect("it is free");
                self.kernel.watch(sock, poll, token(index), false);
                let (arrived, answered) = (BTreeSet::new(), BTreeSet::new());
                self.flows.visitors.push(Visitor { sock, client, sent: 0, arrived, answered, answered_late: 0 });
                let begins = Duration::from_millis(self.lines.draw(1_000, 6_000));
                self.later(begins, Event::Speak(index));
            }
        }
    }

    fn serve_flows(&mut self, client: usize) -> (ProcId, PollId, SockId) {
        let host = self.service_hosts[client];
        let proc = self.kernel.spawn(host, 10_000);
        let poll = self.kernel.epoll(proc);
        let at = SocketAddr::from(([0, 0, 0, 0], FIRST_SERVICE + u16::try_from(client).expect("few")));
        let (sock, _) = self.kernel.bind_udp(proc, at, self.plan.foreign()).expect("it is free");
        self.kernel.watch(sock, poll, token(client), false);
        (proc, poll, sock)
    }

    /// Services whose machine had no power are there again.
    pub(super) fn return_flows(&mut self) {
        for client in 0..self.flows.services.len() {
            let (proc, ..) = self.flows.services[client];
            if !self.kernel.is_alive(proc) && !self.kernel.is_down(self.service_hosts[client]) {
                self.flows.services[client] = self.serve_flows(client);
            }
        }
    }

    pub(super) fn see_flow_public(&mut self, name: &str, public: SocketAddr) {
        if let Some(client) = flow_called(name) {
            self.flows.publics[client] = Some(public);
        }
    }

    pub(super) fn see_flow_told(&mut self, process: usize, name: &str, public: SocketAddr) {
        if let Some(client) = flow_called(name) {
            self.flows.told.insert((process, client), public);
        }
    }

    /// As [`World::find_publics`], of flows.
    pub(super) fn find_flows(&mut self) {
        for (client, public) in self.flows.publics.iter_mut().enumerate() {
            let told = self.flows.told.get(&(self.clients[client], client));
            *public = told.copied().or(*public);
        }
    }

    /// A visitor says something.
    pub(super) fn speak(&mut self, index: usize) {
        if !matches!(self.phase, Phase::Faults | Phase::Healing(_)) {
            return;
        }
        let pause = if self.phase == Phase::Faults { self.lines.draw(5, 1_500) } else { 500 };
        self.later(Duration::from_millis(pause), Event::Speak(index));
        let visitor = &mut self.flows.visitors[index];
        let Some(public) = self.flows.publics[visitor.client] else { return };
        let peer = SocketAddr::new(self.kernel.ip(self.server_host), public.port());
        visitor.sent += 1;
        let (sock, bytes) = (visitor.sock, datagram(index, false, visitor.sent));
        let to = Address { peer, own: [0, 0, 0, 0].into() };
        // It is lost, or not.
        let _ = self.kernel.say(sock, Some(to), &bytes);
    }

    /// Whatever visitors and services have heard.
    pub(super) fn run_flows(&mut self) {
        let Some(poll) = self.flows.poll else { return };
        for (token, _) in self.kernel.poll(poll, usize::MAX) {
            let index = usize::try_from(token.number()).expect("few") - 1;
            while let Ok((_, bytes)) = self.kernel.hear(self.flows.visitors[index].sock) {
                let found = self.hear_answer(index, &bytes);
                self.see_datagram(found);
            }
        }
        for client in 0..self.flows.services.len() {
            let (_, poll, sock) = self.flows.services[client];
            if self.kernel.poll(poll, usize::MAX).is_empty() {
                continue;
            }
            while let Ok((address, bytes)) = self.kernel.hear(sock) {
                let found = self.serve(client, sock, address, &bytes);
                self.see_datagram(found);
            }
        }
    }

    pub(super) fn see_datagram(&mut self, found: Result<(), String>) {
        if let Err(what) = found {
            self.fail(Kind::Safety, Property::DatagramsInPlace, what);
        }
    }

    /// A client's service hears something, and answers.
    fn serve(&mut self, client: usize, sock: SockId, from: Address, bytes: &[u8]) -> Result<(), String> {
        let [index, 0, a, b, c, d, ..] = *bytes else { return Err(format!("the service of {client} hears {bytes:?}")) };
        let (index, number) = (usize::from(index), u32::from_be_bytes([a, b, c, d]));
        let Some(visitor) = self.flows.visitors.get_mut(index).filter(|visitor| visitor.client == client) else {
            return Err(format!("the service of {client} hears another's visitor {index}"));
        };
        if bytes != datagram(index, false, number) || number > visitor.sent {
            return Err(format!("visitor {index} has not said {bytes:?}"));
        }
        if *self.flows.owners.entry((client, from.peer)).or_insert(index) != index {
            return Err(format!("{} carries another visitor's datagram", from.peer));
        }
        if !visitor.arrived.insert(number) {
            return Err(format!("number {number} of visitor {index} comes once more"));
        }
        let to = Address { peer: from.peer, own: [0, 0, 0, 0].into() };
        let _ = self.kernel.say(sock, Some(to), &datagram(index, true, number));
        Ok(())
    }

    pub(super) fn hear_answer(&mut self, index: usize, bytes: &[u8]) -> Result<(), String> {
        let visitor = &mut self.flows.visitors[index];
        let [_, 1, a, b, c, d, ..] = *bytes else { return Err(format!("visitor {index} hears {bytes:?}")) };
        let number = u32::from_be_bytes([a, b, c, d]);
        if bytes != datagram(index, true, number) || !visitor.arrived.contains(&number) {
            return Err(format!("visitor {index} hears {bytes:?}"));
        }
        if !visitor.answered.insert(number) {
            return Err(format!("the answer to {number} of visitor {index} comes once more"));
        }
        self.coverage.saw(Sometimes::FlowAnswered);
        visitor.answered_late += u32::from(self.phase != Phase::Faults);
        Ok(())
    }

    /// Whether each visitor was answered since the faults stopped, and each path was used again that can be.
    pub(super) fn flows_returned(&self) -> bool {
        self.flows.visitors.iter().all(|visitor| visitor.answered_late > 0)
            && (0..self.flows.services.len()).all(|client| !self.may_have_path(client) || self.has_crossed(client))
    }

    /// Of which client something is missing.
    pub(super) fn explain_flows(&self) -> String {
        let late: Vec<_> = self.flows.visitors.iter().map(|visitor| visitor.answered_late).collect();
        let crossed =
            (0..self.flows.services.len()).map(|client| (self.may_have_path(client), self.has_crossed(client)));
        format!("answers {late:?}, may go by paths and do: {:?}", crossed.collect::<Vec<_>>())
    }

    fn may_have_path(&self, client: usize) -> bool {
        let scenario = &self.plan.scenario;
        let way = scenario.max_bandwidth.is_none() && self.plan.outbound().is_none();
        way && !scenario.clients[client].frugal
    }
}

fn token(index: usize) -> Token {
    Token::from_number(index as u64 + 1).expect("not 0")
}
