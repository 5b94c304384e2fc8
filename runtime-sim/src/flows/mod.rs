//! Flows of a UDP tunnel: production's event loops, the server's and those of two clients, over conns and datagram sockets
//! in memory, one seed for everything. No main thread and no listener is there: their messages are carried over.
//!
//! What a seed decides: who speaks when and how much, what visitors' networks do to it (some come twice, some late), how
//! much fits into a conn, which conns stand still or are lost, how many flows there may be, whether the service is away,
//! whether a relay brings visitors (who have the addresses of others), what the service is told of them, whether the second
//! client takes the tunnel over from the first, whether a reload changes the limits, whether the server is upgraded,
//! whether there are paths beside the conns, what they lose, hold up and take, and when their line is dead.
//!
//! The oracle knows each datagram by what is in it: one that is delivered was sent in this flow, whole, in its order where
//! no path is beside the conn, and not more often than it came; where no conn is lost and the service is there, each that
//! is not delivered was counted, and none lacked a flow where there is room for it; a flow that is silent ends, and leaves
//! nothing behind; a path whose line is dead is left within a second, and used again when it is not.

mod mains;
mod oracle;
mod paths;
mod sys;

use crate::kernel::Rng;
use paths::Paths;
use protocol_sm::driver::client_loop::ClientLoop;
use protocol_sm::driver::messages::{ControlKey, Limits, ToClientLoop, ToServerLoop, UdpPort};
use protocol_sm::driver::server_loop::ServerLoop;
use protocol_sm::driver::{Address, Cx, Driver, Readiness, Strategy};
use protocol_sm::gate::Gate;
use protocol_sm::ids::TunnelId;
use protocol_sm::names::LocalAt;
use protocol_sm::proxy_protocol::{ProxyProtocol, datagram_header};
use protocol_sm::settings::{Datagrams, Scope, Serving, Timings, TunnelLimits};
use protocol_sm::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use sys::{Net, Pipe, Side, Stream, Sys, ip};

/// The sessions of the two clients: the second one is there to take over.
const CONTROLS: [ControlKey; 2] = [ControlKey(1), ControlKey(2)];
const TUNNEL: TunnelId = TunnelId(1);
const SERIAL: u64 = 1;
const PORT: u16 = 6000;
/// Bytes in front of each datagram: whose it is, which way it goes, its number.
const HEAD: usize = 9;
/// By then all that was said is through.
const CALM: Instant = Instant::from_nanos(310_000_000_000);
/// By then every flow is over.
const REST: Instant = Instant::from_nanos(900_000_000_000);
/// More steps mean that something spins.
const STEPS: usize = 400_000;

/// What must happen sometimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sometimes {
    /// A datagram came twice.
    CameTwice,
    /// A datagram of the longest length arrived.
    Longest,
    /// An empty one did.
    Empty,
    /// A visitor's second flow, after its first one had ended.
    SecondFlow,
    /// A conn was lost under a flow.
    ConnLost,
    /// A flow met a service that is away.
    Refused,
    /// Something was counted as lost.
    Counted,
    /// A visitor was answered from two addresses of the server, one after the other.
    OtherAddress,
    /// A relay's visitor was answered, and somebody who came directly from his address, too.
    SameAddress,
    /// The service was told in front of a flow's second datagram whose it is.
    ToldAgain,
    /// After a takeover both clients have carried something.
    TakenOver,
    /// The server was upgraded under a flow.
    Upgraded,
    /// A datagram came by a path.
    ByPath,
    /// A path did not take a datagram any more, and the conn had it.
    GivenBack,
    /// A path was silent, and answered again.
    BackByItself,
    /// What came by a path was no flow's any more.
    Stale,
}

impl Sometimes {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::CameTwice,
        Self::Longest,
        Self::Empty,
        Self::SecondFlow,
        Self::ConnLost,
        Self::Refused,
        Self::Counted,
        Self::OtherAddress,
        Self::SameAddress,
        Self::ToldAgain,
        Self::TakenOver,
        Self::Upgraded,
        Self::ByPath,
        Self::GivenBack,
        Self::BackByItself,
        Self::Stale,
    ];
}

/// What happens at a time.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A visitor sends.
    Speak(usize),
    /// A datagram of a visitor's arrives.
    Arrive(usize),
    /// A conn stands still, or goes on.
    Stick,
    Unstick(usize),
    /// A conn is lost.
    Lose,
    /// The service goes, or comes back.
    Away(bool),
    /// The tunnel is the second client's from now on.
    TakeOver,
    /// Its limits are others.
    Reload,
    /// Another process has the ports.
    Upgrade,
    /// The paths' line is dead, or not any more, or takes another size.
    Path,
    /// The loops are told of it.
    PathTold,
    /// What one end of a path has sent is answered.
    PathAnswer(paths::At),
    /// It looks whether it is.
    PathBeat(paths::At),
    /// A datagram arrives by a path.
    Cross(usize),
}

/// One direction of what a visitor and the service say to each other.
#[derive(Debug, Default)]
struct Way {
    sent: u32,
    /// The numbers that arrived, in their order; of answers, at which of the client's sockets.
    arrived: Vec<(u32, Option<usize>)>,
    delivered: Vec<u32>,
    /// How much of what arrived each flow has behind it. A flow is known by the client's socket.
    passed: BTreeMap<usize, usize>,
}

impl Way {
    /// Each is delivered as often as it came, and those of one flow in their order: what was in a conn when its flow was
    /// pushed out may come behind the first ones of the next.
    /// Where a path is beside the conn, one of the two ways may be faster, and there is no order.
    fn deliver(&mut self, number: u32, by: Option<usize>, ordered: bool) -> Result<(), &'static str> {
        let same = |&&(other, _): &&(u32, Option<usize>)| other == number;
        self.delivered.push(number);
        let delivered = self.delivered.iter().filter(|&&other| other == number).count();
        if delivered > self.arrived.iter().filter(same).count() {
            return Err("once more");
        }
        if !ordered {
            return Ok(());
        }
        let flow = by.or_else(|| self.arrived.iter().find(same).and_then(|&(_, at)| at)).expect("it came");
        let passed = self.passed.entry(flow).or_default();
        let behind = self.arrived[*passed..].iter().position(|(other, _)| *other == number).ok_or("out of order")?;
        *passed += behind + 1;
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Visitor {
    up: Way,
    down: Way,
    /// The address of the server that it spoke to last, as far as the server knows.
    own: u8,
    answered: bool,
}

struct World {
    rng: Rng,
    now: Instant,
    net: Net,
    server: ServerLoop<Stream, Pipe>,
    clients: [ClientLoop<Stream, Pipe>; 2],
    to_server: VecDeque<ToServerLoop<Stream>>,
    to_clients: [VecDeque<ToClientLoop>; 2],
    /// Which client has the tunnel.
    owner: usize,
    /// No limit keeps anybody out.
    roomy: bool,
    events: BTreeMap<(Instant, u64), Event>,
    last_event: u64,
    visitors: Vec<Visitor>,
    /// Datagrams on their way to the public port.
    coming: BTreeMap<usize, (usize, u32, u8)>,
    public: usize,
    /// Whose each of the client's sockets is.
    owners: BTreeMap<usize, usize>,
    /// Those of them that have sent something.
    spoken: BTreeSet<usize>,
    /// Clients that have carried something since the takeover.
    carried: BTreeSet<usize>,
    /// Every second visitor comes by a relay, and has the address of the one before.
    relayed: bool,
    /// The service is told who visits; `true`: by the first datagram alone.
    told: Option<bool>,
    lost: u64,
    /// Of them, for want of a flow.
    no_flow: u64,
    /// Datagrams that the loops have sent.
    said: u64,
    /// Nothing has happened that may cost a datagram without a count.
    calm: bool,
    /// Beside the conns, if they are there.
    paths: Option<Paths>,
    longest: usize,
    chatty: u64,
    scratch: usize,
    turn: usize,
    next_conn: u64,
    seen: BTreeSet<Sometimes>,
    found: Option<String>,
}

/// Runs a seed.
///
/// # Errors
/// What was broken.
pub fn run(seed: u64) -> Result<BTreeSet<Sometimes>, String> {
    let mut world = World::new(seed);
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
    let Err(panic) = ran else { return world.found.map_or(Ok(world.seen), Err) };
    let what = panic.downcast_ref::<String>().cloned();
    let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Err(what.unwrap_or_else(|| "a panic".into()))
}

/// The relay's address.
fn relay() -> IpAddr {
    ip(8)
}

/// What the number says, and nothing else would say.
fn datagram(visitor: usize, down: bool, number: u32, longest: usize) -> Vec<u8> {
    let mut rng = Rng::new((visitor as u64) << 40 | u64::from(down) << 39 | u64::from(number));
    let length = match rng.below(20) {
        0 => 0,
        1 => longest,
        _ => HEAD + rng.log_size(1, longest - HEAD),
    };
    if length == 0 {
        return Vec::new();
    }
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(visitor).expect("few").to_be_bytes());
    bytes.push(u8::from(down));
    bytes.extend(number.to_be_bytes());
    bytes.resize_with(length, || rng.next() as u8);
    bytes
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x0f10_3500);
        let calm = rng.chance(50);
        let timings = Timings { udp_idle_timeout: Duration::from_secs(rng.range(1, 200)), ..Timings::default() };
        let visitors = rng.log_size(1, 12);
        let mut net = Net { window: rng.log_size(64, 128 * 1024), ..Net::default() };
        let public = net.public();
        let mut world = Self {
            now: Instant::ZERO,
            server: ServerLoop::new(0, timings.clone()),
            clients: [ClientLoop::new(0, timings.clone()), ClientLoop::new(0, timings)],
            to_server: VecDeque::new(),
            to_clients: [VecDeque::new(), VecDeque::new()],
            owner: 0,
            roomy: true,
            events: BTreeMap::new(),
            last_event: 0,
            visitors: (0..visitors).map(|_| Visitor::default()).collect(),
            coming: BTreeMap::new(),
            public,
            owners: BTreeMap::new(),
            spoken: BTreeSet::new(),
            carried: BTreeSet::new(),
            relayed: rng.chance(50),
            told: rng.chance(50).then(|| rng.chance(50)),
            lost: 0,
            no_flow: 0,
            said: 0,
            calm,
            paths: Paths::of_seed(seed),
            longest: if rng.chance(20) { 65_507 } else { rng.log_size(HEAD + 2, 4_000) },
            chatty: rng.range(0, 100),
            scratch: rng.log_size(256, 32 * 1024),
            turn: rng.log_size(1024, 256 * 1024),
            next_conn: 1,
            seen: BTreeSet::new(),
            found: None,
            net,
            rng,
        };
        world.set_out();
        world
    }

    fn set_out(&mut self) {
        let rng = &mut self.rng;
        let speeches = rng.log_size(5, 300);
        let limits = Limits {
            holder: None,
            frugal: false,
            secured: false,
            keep: u32::try_from(rng.range(0, 4)).expect("few"),
            max_waiting: 100,
            max_connections: 100,
            max_bandwidth: None,
            loop_count: 1,
        };
        self.to_server.extend(CONTROLS.map(|control| ToServerLoop::Open { control, limits }));
        let gate = self.draw_gate();
        let (socket, public) = (Stream(self.public), (Ipv4Addr::UNSPECIFIED, PORT).into());
        let port = UdpPort {
            control: CONTROLS[0],
            tunnel: TUNNEL,
            socket,
            public,
            gate,
            trusted: vec![relay().to_string().parse().expect("a network")],
        };
        self.to_server.push_back(ToServerLoop::Port(port));
        let (datagrams, proxy_protocol) = (Some(Datagrams::Connected), self.told.map(|_| ProxyProtocol::V2));
        let proxy_protocol_first = self.told == Some(true);
        let serving = Serving { datagrams, proxy_protocol, proxy_protocol_first, ..Serving::default() };
        let locals = vec![(Ipv4Addr::LOCALHOST, 53).into()];
        let (place, sources, label) = (LocalAt::Address, Vec::new(), None);
        let tunnel = ToClientLoop::Tunnel { tunnel: TUNNEL, locals, place, sources, serving, label };
        for to_client in &mut self.to_clients {
            to_client.extend([ToClientLoop::Session { serial: SERIAL }, tunnel.clone()]);
        }
        for _ in 0..speeches {
            let visitor = self.rng.size(0, self.visitors.len() - 1);
            let span = if self.rng.chance(80) { 2_000_000 } else { 300_000_000 };
            let at = Duration::from_micros(500_000 + self.rng.below(span));
            self.after(at, Event::Speak(visitor));
        }
        for _ in 0..self.rng.size(0, 20) {
            let at = Duration::from_micros(self.rng.range(0, 3_000_000));
            self.after(at, Event::Stick);
        }
        for (event, chance) in [(Event::TakeOver, 30), (Event::Reload, 20), (Event::Upgrade, 15)] {
            let at = Duration::from_micros(self.rng.range(500_000, 3_000_000));
            if self.rng.chance(chance) {
                self.after(at, event);
            }
        }
        for at in self.paths.as_mut().map(Paths::changes).unwrap_or_default() {
            self.after(at, Event::Path);
        }
        if !self.calm {
            for _ in 0..self.rng.size(0, 4) {
                let at = Duration::from_micros(self.rng.range(500_000, 3_000_000));
                self.after(at, Event::Lose);
            }
            if self.rng.chance(50) {
                let at = Duration::from_micros(self.rng.range(500_000, 3_000_000));
                self.after(at, Event::Away(true));
                let back = at + Duration::from_micros(self.rng.range(1, 1_000_000));
                self.after(back, Event::Away(false));
            }
        }
    }

    /// Few flows, or as many as there are visitors.
    fn draw_gate(&mut self) -> Box<Gate> {
        let few = self.rng.chance(30);
        self.roomy &= !few;
        let max_flows = if few { u32::try_from(self.rng.range(1, 4)).expect("few") } else { 100 };
        Box::new(Gate::new(None, &Scope { max_flows, ..Scope::default() }, TunnelLimits::default()))
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.last_event += 1;
        self.events.insert((self.now + time, self.last_event), event);
    }

    fn fail(&mut self, what: String) {
        let now = self.now;
        self.found.get_or_insert_with(|| format!("at {now:?}: {what}"));
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            if self.found.is_some() {
                return;
            }
            if !self.step() && !self.advance() {
                return self.conclude();
            }
            self.server.assert_consistent();
            self.clients.iter().for_each(ClientLoop::assert_consistent);
            self.look_at_said();
        }
        self.fail("it goes on for ever".into());
    }

    /// Does one of the things that can be done now.
    fn step(&mut self) -> bool {
        self.carry_over();
        let mut choices = Vec::new();
        let offers = [
            !self.to_server.is_empty(),
            !self.net.ready.is_empty(),
            Driver::<Sys<'_>>::is_busy(&self.server),
            !self.to_clients[0].is_empty(),
            !self.to_clients[1].is_empty(),
            Driver::<Sys<'_>>::is_busy(&self.clients[0]),
            Driver::<Sys<'_>>::is_busy(&self.clients[1]),
        ];
        choices.extend((0..offers.len()).filter(|&choice| offers[choice]));
        if choices.is_empty() {
            return false;
        }
        match self.rng.pick(&choices) {
            0 => {
                let message = self.to_server.pop_front().expect("offered");
                self.with_server(|server, cx| server.on_message(cx, message));
            }
            1 => {
                let nth = self.rng.size(0, self.net.ready.len() - 1);
                let (sock, ready) = self.net.ready.remove(nth);
                self.on_ready(sock, ready);
            }
            2 => self.with_server(|server, cx| server.run_busy(cx)),
            of @ (3 | 4) => {
                let message = self.to_clients[of - 3].pop_front().expect("offered");
                self.with_client(of - 3, |client, cx| client.on_message(cx, message));
            }
            of => self.with_client(of - 5, |client, cx| client.run_busy(cx)),
        }
        true
    }

    fn on_ready(&mut self, sock: usize, ready: Readiness) {
        match self.net.watched(sock) {
            Some((Side::Server, token)) => self.with_server(|server, cx| server.on_ready(cx, token, ready)),
            Some((Side::Client(of), token)) => self.with_client(of, |client, cx| client.on_ready(cx, token, ready)),
            None => self.admit(sock),
        }
    }

    /// Nothing can be done now: to what comes next. `false`: nothing does.
    fn advance(&mut self) -> bool {
        let script = self.events.first_key_value().map(|(&(at, _), _)| at);
        let server = Driver::<Sys<'_>>::next_deadline(&self.server);
        let clients = self.clients.each_ref().map(Driver::<Sys<'_>>::next_deadline);
        let over = script.is_none() && (self.now > REST || self.is_quiet() && self.now > CALM);
        let Some(next) = [script, server, clients[0], clients[1]].into_iter().flatten().min().filter(|_| !over) else {
            return false;
        };
        self.now = self.now.max(next);
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= next);
        if due(server) {
            self.with_server(|server, cx| server.on_deadline(cx));
        }
        for (of, client) in clients.into_iter().enumerate() {
            if due(client) {
                self.with_client(of, |client, cx| client.on_deadline(cx));
            }
        }
        if due(script) {
            let (_, event) = self.events.pop_first().expect("it is due");
            self.happen(event);
        }
        true
    }

    /// Whether no flow is left, or should be.
    fn is_quiet(&self) -> bool {
        let flows = self.net.socks.iter().filter(|sock| matches!(sock, sys::Sock::Datagrams(socket) if !socket.public));
        flows.count() == 0 && self.server.waiting().count() == 0
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Speak(visitor) => {
                let number = self.visitors[visitor].up.sent;
                self.visitors[visitor].up.sent += 1;
                let own = if self.rng.chance(10) { 2 } else { 1 };
                for _ in 0..if self.rng.chance(10) { 2 } else { 1 } {
                    let late = if self.rng.chance(10) { self.rng.range(1, 50_000) } else { 0 };
                    let place = usize::try_from(self.last_event).expect("few");
                    self.coming.insert(place, (visitor, number, own));
                    self.after(Duration::from_micros(late), Event::Arrive(place));
                }
            }
            Event::Arrive(place) => {
                let (visitor, number, own) = self.coming.remove(&place).expect("it is coming");
                let mut address = Address { peer: self.visitor_at(visitor), own: ip(own) };
                let bytes = datagram(visitor, false, number, self.longest);
                let mut sent = bytes.clone();
                if self.is_relayed(visitor) {
                    sent.splice(..0, datagram_header(address.peer, (ip(own), PORT).into()));
                    address.peer = SocketAddr::new(relay(), u16::try_from(self.rng.range(1000, 1002)).expect("a port"));
                }
                if bytes.len() >= HEAD {
                    self.visitors[visitor].up.arrived.push((number, None));
                }
                if self.visitors[visitor].up.arrived.iter().filter(|&&(other, _)| other == number).count() > 1 {
                    self.seen.insert(Sometimes::CameTwice);
                }
                if self.visitors[visitor].own != own && self.visitors[visitor].own != 0 {
                    self.seen.insert(Sometimes::OtherAddress);
                }
                self.visitors[visitor].own = own;
                self.net.arrive(self.public, address, sent);
            }
            Event::Stick => {
                if let Some(sock) = self.any_conn()
                    && let Some(conn) = self.net.conn(sock)
                {
                    conn.stuck = true;
                    let time = Duration::from_micros(self.rng.range(10, 400_000));
                    self.after(time, Event::Unstick(sock));
                }
            }
            Event::Unstick(sock) => self.net.unstick(sock),
            Event::Lose => {
                if let Some(sock) = self.any_conn() {
                    self.seen.insert(Sometimes::ConnLost);
                    self.net.lose(sock);
                }
            }
            Event::Away(away) => self.net.service_away = away,
            Event::TakeOver => {
                self.owner = 1;
                let [from, to] = CONTROLS.map(|control| (control, TUNNEL));
                self.to_server.extend([ToServerLoop::HandOver { from, to }, ToServerLoop::Retire { control: from.0 }]);
            }
            Event::Reload => {
                let gate = self.draw_gate();
                let control = CONTROLS[self.owner];
                self.to_server.push_back(ToServerLoop::Admit { control, tunnel: TUNNEL, gate });
            }
            Event::Upgrade => {
                if !self.is_quiet() {
                    self.seen.insert(Sometimes::Upgraded);
                }
                self.to_server.push_back(ToServerLoop::Leave);
            }
            Event::Path => self.change_paths(),
            Event::PathTold => self.tell_of_paths(),
            Event::PathAnswer(at) => self.on_path_answer(at),
            Event::PathBeat(at) => self.on_path_beat(at),
            Event::Cross(place) => self.cross(place),
        }
    }

    fn any_conn(&mut self) -> Option<usize> {
        let conns = (0..self.net.socks.len()).filter(|&sock| matches!(self.net.socks[sock], sys::Sock::Conn(_)));
        let conns: Vec<_> = conns.collect();
        (!conns.is_empty()).then(|| self.rng.pick(&conns))
    }

    fn with_server(&mut self, call: impl FnOnce(&mut ServerLoop<Stream, Pipe>, &mut Cx<'_, Sys<'_>>)) {
        let mut sys = Sys { net: &mut self.net, side: Side::Server };
        let mut scratch = vec![0; self.scratch];
        let (now, strategy, turn) = (self.now, Strategy::Hybrid, self.turn);
        call(&mut self.server, &mut Cx { sys: &mut sys, now, scratch: &mut scratch, strategy, turn });
    }

    fn with_client(&mut self, of: usize, call: impl FnOnce(&mut ClientLoop<Stream, Pipe>, &mut Cx<'_, Sys<'_>>)) {
        let mut sys = Sys { net: &mut self.net, side: Side::Client(of) };
        let mut scratch = vec![0; self.scratch];
        let (now, strategy, turn) = (self.now, Strategy::Hybrid, self.turn);
        call(&mut self.clients[of], &mut Cx { sys: &mut sys, now, scratch: &mut scratch, strategy, turn });
    }
}

#[cfg(test)]
mod tests {
    use super::Way;

    fn delivered(arrived: &[u32], delivered: &[(u32, usize)]) -> Result<(), &'static str> {
        let arrived = arrived.iter().map(|&number| (number, None)).collect();
        let mut way = Way { arrived, ..Way::default() };
        delivered.iter().try_for_each(|&(number, socket)| way.deliver(number, Some(socket), true))
    }

    #[test]
    fn a_flow_keeps_its_order_and_nothing_comes_once_more() {
        let came = [1, 2, 2, 3, 4];
        assert_eq!(delivered(&came, &[(1, 7), (2, 7), (2, 7), (3, 7)]), Ok(()));
        assert_eq!(delivered(&came, &[(2, 7), (4, 7)]), Ok(()), "some are lost");
        assert_eq!(delivered(&came, &[(3, 8), (1, 7), (4, 8), (2, 7)]), Ok(()), "a flow behind that which followed it");
        assert_eq!(delivered(&came, &[(2, 7), (2, 8), (2, 9)]), Err("once more"));
        assert_eq!(delivered(&came, &[(3, 7), (3, 8)]), Err("once more"));
        assert_eq!(delivered(&came, &[(2, 7), (1, 7)]), Err("out of order"));
        assert_eq!(delivered(&came, &[(3, 8), (2, 7), (4, 8), (1, 7)]), Err("out of order"));
    }
}
