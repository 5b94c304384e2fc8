//! The whole server (main thread, listening thread, event loop) against clients that do anything: bytes that
//! are no messages, every message at every time, conns that lie, visitors that come and go, time that passes.
//!
//! It must not panic (its own invariants are assertions), must not spin, must serve an honest client beside all
//! that, and must have closed every socket once it has stopped.

use crate::net::{Ended, Listening, Mail, Net, Peer, Pipe, Stream, pass, run, with};
use crate::tape::Tape;
use protocol_sm::auth::{Prover, SessionKey, Transcript};
use protocol_sm::codes::{AbortCode, CloseCode, RefuseCode};
use protocol_sm::driver::Driver;
use protocol_sm::driver::listener::Listener;
use protocol_sm::driver::messages::ToServerMain;
use protocol_sm::driver::server_loop::ServerLoop;
use protocol_sm::driver::server_main::{ServerMain, Wanted};
use protocol_sm::ids::{ClientId, ConnId, Epoch, SessionId, TunnelId};
use protocol_sm::purposes::{Purpose, Purposes};
use protocol_sm::routes::{Service, Site, Speaks, Web};
use protocol_sm::settings::{Credential, Scope, ServerSettings, Timings, Token as Secret, TunnelLimits};
use protocol_sm::sources::{Network, SourceLists};
use protocol_sm::transfer::{Fin, How};
use protocol_sm::wire::{
    ClientHandshake, ClientHello, ClientMsg, ConnHello, ConnKind, Framer, Message, PREFACE_LEN, Preface, ProxyToClient,
    ProxyToServer, Resume, ServerHandshake, ServerMsg, ToClient, ToServer,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const MAIN: usize = 0;
const LISTENER: usize = 1;
const LOOP: usize = 2;
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Anything as a script of what clients and visitors do to a server.
pub fn server(data: &[u8]) {
    let mut tape = Tape(data);
    let mut world = World::new();
    while let Some(choice) = tape.next() {
        world.step(choice, &mut tape);
        world.settle();
    }
    if !world.stopping {
        world.serve_an_honest_client();
    }
    world.stop();
}

struct World {
    net: Net,
    main: ServerMain<Stream, Listening>,
    listener: Listener<Stream, Listening>,
    event_loop: ServerLoop<Stream, Pipe>,
    secret: Secret,
    timings: Timings,
    ctl_port: u16,
    proxy_port: u16,
    ctls: Vec<Ctl>,
    proxies: Vec<Peer>,
    visitors: Vec<Peer>,
    stopping: bool,
}

/// A client that keeps to the protocol.
const HONEST: ClientId = ClientId([0xee; 16]);

/// A ctl_conn, from the client's end.
struct Ctl {
    peer: Peer,
    client: ClientId,
    handshake: Step,
    framer: Framer<ToClient>,
    session: Option<(SessionId, SessionKey)>,
    sent: u64,
    heard: u64,
    /// What the server has said.
    public: Option<u16>,
    asked: u32,
    fins: Vec<Fin>,
    next_conn: u64,
    /// The last `Fin` of the tape's, whose end a reset may follow.
    last_fin: Option<(ConnId, Epoch, u64)>,
}

/// How far an honest handshake has come.
enum Step {
    /// Nothing was said, or nothing honest.
    None,
    Reply {
        preface: Preface,
        hello: ToServer,
        bytes: Vec<u8>,
    },
    Hello {
        preface: Preface,
        hello: ToServer,
        reply: [u8; PREFACE_LEN],
    },
    Proved(Transcript),
    Over,
}

impl World {
    fn new() -> Self {
        let secret = Secret::new(b"secret".to_vec());
        let credential = Credential { name: "fuzz".into(), tokens: vec![secret.clone()], scope: Scope::default() };
        let settings = ServerSettings {
            credentials: vec![credential],
            max_handshakes: 8,
            access_log: true,
            ..ServerSettings::default()
        };
        let timings = settings.timings.clone();
        let mut world = Self {
            net: Net::default(),
            main: ServerMain::new(settings, 1, SocketAddr::new(LOCAL, 0)),
            listener: Listener::new(1, u32::MAX, Vec::new()),
            event_loop: ServerLoop::new(0, timings.clone()),
            secret,
            timings,
            ctl_port: 0,
            proxy_port: 0,
            ctls: Vec::new(),
            proxies: Vec::new(),
            visitors: Vec::new(),
            stopping: false,
        };
        let any = SocketAddr::new(LOCAL, 0);
        let main = &mut world.main;
        let mut listen = |purpose| {
            let wanted = Wanted { at: any, purposes: Purposes::default().with(purpose), left: None };
            with(&mut world.net, MAIN, |cx| main.listen(cx, wanted)).expect("free ports").port()
        };
        (world.ctl_port, world.proxy_port) = (listen(Purpose::Ctl), listen(Purpose::Proxy));
        world
    }

    /// Lets the server do all that it can do now.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            if let Some(mail) = self.net.next_mail() {
                self.deliver(mail);
            } else if let Some((thread, token, ready)) = self.net.next_event() {
                let net = &mut self.net;
                match thread {
                    MAIN => with(net, thread, |cx| self.main.on_ready(cx, token, ready)),
                    LISTENER => with(net, thread, |cx| self.listener.on_ready(cx, token, ready)),
                    _ => with(net, thread, |cx| self.event_loop.on_ready(cx, token, ready)),
                }
            } else {
                let net = &mut self.net;
                let main = run(net, MAIN, &mut self.main);
                let listener = run(net, LISTENER, &mut self.listener);
                if !(run(net, LOOP, &mut self.event_loop) | main | listener) {
                    self.main.assert_ports(&self.listener, core::iter::empty());
                    return;
                }
            }
            self.main.assert_consistent();
            self.listener.assert_consistent();
            self.event_loop.assert_consistent();
        }
        panic!("the server spins");
    }

    fn deliver(&mut self, mail: Mail) {
        let net = &mut self.net;
        match mail {
            Mail::ServerMain(message) => with(net, MAIN, |cx| self.main.on_message(cx, message)),
            Mail::Listener(message) => with(net, LISTENER, |cx| self.listener.on_message(cx, message)),
            Mail::ServerLoop(message) => with(net, LOOP, |cx| self.event_loop.on_message(cx, message)),
            Mail::ClientMain(_) | Mail::ClientLoop(_) => unreachable!("there is no client"),
        }
    }

    fn step(&mut self, choice: u8, tape: &mut Tape<'_>) {
        match choice % 24 {
            0 => drop(self.connect_ctl(ClientId([0; 16]))),
            1 | 2 => self.hello(tape),
            3 => self.answer_ctl(tape),
            4..=8 => self.numbered(tape),
            9 => self.unnumbered(tape),
            10 => self.raw_ctl(tape),
            11 => drop(self.connect_proxy()),
            12 | 13 => self.honest_conn(tape),
            14 | 15 => self.proxy_frame(tape),
            16 => self.raw_proxy(tape),
            17 => self.read(tape),
            18 | 19 => self.visit(tape),
            20 => self.visitor_acts(tape),
            21 => self.peer_ends(tape),
            22 => self.time(tape),
            _ => self.rarely(tape),
        }
    }

    /// A new ctl_conn, unless the server has stopped.
    fn connect_ctl(&mut self, client: ClientId) -> Option<&mut Ctl> {
        // Guessers from its own address could hold it up.
        let ip = if client == HONEST { Ipv4Addr::new(127, 0, 0, 2).into() } else { LOCAL };
        let peer = self.net.visit(self.ctl_port, SocketAddr::new(ip, 50_000))?;
        self.ctls.push(Ctl {
            peer,
            client,
            handshake: Step::None,
            framer: Framer::default(),
            session: None,
            sent: 0,
            heard: 0,
            public: None,
            asked: 0,
            fins: Vec::new(),
            next_conn: 1,
            last_fin: None,
        });
        self.ctls.last_mut()
    }

    fn hello(&mut self, tape: &mut Tape<'_>) {
        let client = ClientId([tape.byte() % 4; 16]);
        let earlier = self.ctls.iter().rev().find(|ctl| ctl.client == client && ctl.session.is_some());
        let resume = match tape.byte() % 4 {
            0 | 1 => None,
            2 => earlier.and_then(|ctl| Some(Resume { session: ctl.session.as_ref()?.0, received: ctl.heard })),
            _ => Some(Resume { session: SessionId([tape.byte(); 16]), received: tape.number() }),
        };
        self.say_hello(client, resume);
    }

    /// Begins an honest handshake on a new ctl_conn.
    fn say_hello(&mut self, client: ClientId, resume: Option<Resume>) {
        let before = resume.and_then(|resume| {
            self.ctls.iter().rev().find(|ctl| ctl.session.as_ref().is_some_and(|(id, _)| *id == resume.session))
        });
        let (sent, heard, session, next_conn) = match before {
            Some(ctl) => (ctl.sent, ctl.heard, ctl.session.clone(), ctl.next_conn),
            None => (0, 0, None, 1),
        };
        let Some(ctl) = self.connect_ctl(client) else { return };
        (ctl.sent, ctl.heard, ctl.session, ctl.next_conn) = (sent, heard, session, next_conn);
        let nonce = [7; 32];
        let hello = ClientHello { nonce, client, token: true, features: 0, resume };
        let hello = ToServer::Handshake(ClientHandshake::Hello(hello));
        let preface = Preface::ours(ConnKind::Ctl);
        let mut bytes = preface.encode().to_vec();
        hello.encode_to(&mut bytes);
        ctl.handshake = Step::Reply { preface, hello, bytes: Vec::new() };
        let peer = ctl.peer;
        self.net.send(peer, &bytes);
    }

    /// Reads what came on a ctl_conn, and goes on with its handshake.
    fn answer_ctl(&mut self, tape: &mut Tape<'_>) {
        if let Some(index) = tape.index(self.ctls.len()) {
            self.read_ctl(index);
        }
    }

    fn read_ctl(&mut self, index: usize) {
        let ctl = &mut self.ctls[index];
        let came = self.net.receive(ctl.peer);
        let mut rest = came.as_slice();
        if let Step::Reply { bytes, .. } = &mut ctl.handshake {
            let missing = (PREFACE_LEN - bytes.len()).min(rest.len());
            bytes.extend_from_slice(&rest[..missing]);
            rest = &rest[missing..];
            if bytes.len() < PREFACE_LEN {
                return;
            }
            let reply = bytes[..].try_into().expect("eight bytes");
            let Step::Reply { preface, hello, .. } = std::mem::replace(&mut ctl.handshake, Step::Over) else {
                unreachable!("looked at it")
            };
            ctl.handshake = Step::Hello { preface, hello, reply };
        }
        if let Step::None = ctl.handshake {
            return;
        }
        while let Some(message) = ctl.framer.next(&mut rest).expect("the server sends messages") {
            let answer = ctl.on_message(&self.secret, message);
            self.net.send(ctl.peer, &answer);
        }
    }

    fn numbered(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.ctls.len()) else { return };
        let conn = ConnId(tape.number());
        let epoch = Epoch(tape.number32());
        let kind = tape.byte();
        let msg = match kind % 10 {
            _ if kind >= 250 => ClientMsg::StartSeen { conn, epoch, seen: kind >= 253 },
            _ if kind >= 247 => {
                ClientMsg::ChangeTunnel { tunnel: TunnelId(epoch.0), name: "new".into(), limits: limits(tape) }
            }
            _ if kind >= 244 => {
                let (web, host) = (Web::ALL[usize::from(kind % 2)], ["a.example", "*.example", "*"]);
                let host = host[usize::from(tape.byte()) % 3].parse().expect("a host");
                let (tunnel, site, name) = (TunnelId(epoch.0), Box::new(Site { web, host }), String::new());
                let bits = tape.byte();
                let speaks = Speaks::ALL[usize::from(bits) % 3];
                let service = Service { speaks, redirect: bits & 8 != 0, forwarded: bits & 16 != 0 };
                ClientMsg::RegisterHost { tunnel, site, service, name, limits: limits(tape) }
            }
            0 | 1 => {
                let byte = usize::from(tape.byte());
                let public_port = [0, 0, 6000, 6001, 80, u16::MAX][byte % 6];
                let bind_addr = [None, None, Some(Ipv4Addr::LOCALHOST.into())][byte / 6 % 3];
                let name = "é".repeat(usize::from(tape.byte() % 64));
                ClientMsg::RegisterTunnel {
                    tunnel: TunnelId(epoch.0),
                    public_port,
                    bind_addr,
                    name,
                    limits: limits(tape),
                }
            }
            2 => ClientMsg::CloseTunnel { tunnel: TunnelId(epoch.0) },
            3 => ClientMsg::ConnFailed { count: tape.number32() },
            4 => ClientMsg::Fin { conn, epoch, total: tape.number(), how: How::Shut },
            5 => ClientMsg::Fin { conn, epoch, total: tape.number(), how: How::Reset },
            6 => ClientMsg::Done { conn, epoch },
            // Legal once, behind a shut end.
            7 => self.ctls[index].last_fin.map_or(ClientMsg::Done { conn, epoch }, |(conn, epoch, total)| {
                ClientMsg::Fin { conn, epoch, total, how: How::Reset }
            }),
            8 => ClientMsg::Abort { conn, epoch, code: abort_code(tape) },
            _ => ClientMsg::Drain,
        };
        let ctl = &mut self.ctls[index];
        if let ClientMsg::Fin { conn, epoch, total, .. } = msg {
            ctl.last_fin = Some((conn, epoch, total));
        }
        let seq = match tape.byte() {
            0..=239 => {
                ctl.sent += 1;
                ctl.sent
            }
            _ => tape.number(),
        };
        self.push(index, &ToServer::Numbered { seq, msg });
    }

    fn unnumbered(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.ctls.len()) else { return };
        let honest = self.ctls[index].heard;
        let received = if tape.byte().is_multiple_of(4) { tape.number() } else { honest };
        let message = match tape.byte() % 5 {
            0 | 1 => ToServer::Ping { received },
            2 => ToServer::Pong { received },
            3 => ToServer::Ack { received },
            _ => ToServer::Close { code: close_code(tape) },
        };
        self.push(index, &message);
    }

    fn push(&mut self, index: usize, message: &ToServer) {
        let mut bytes = Vec::new();
        message.encode_to(&mut bytes);
        self.net.send(self.ctls[index].peer, &bytes);
    }

    fn raw_ctl(&mut self, tape: &mut Tape<'_>) {
        if let Some(index) = tape.index(self.ctls.len()) {
            self.net.send(self.ctls[index].peer, &tape.bytes());
        }
    }

    fn connect_proxy(&mut self) -> Option<Peer> {
        let peer = self.net.visit(self.proxy_port, SocketAddr::new(LOCAL, 50_001))?;
        self.proxies.push(peer);
        Some(peer)
    }

    fn honest_conn(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.ctls.len()) else { return };
        self.open_conn(index, tape.byte() >= 240);
    }

    /// Opens a conn of the session that a ctl_conn has; `again`: with the last number.
    fn open_conn(&mut self, index: usize, again: bool) {
        let ctl = &mut self.ctls[index];
        let Some((session, key)) = &ctl.session else { return };
        ctl.next_conn -= u64::from(again && ctl.next_conn > 1);
        let hello = key.hello(*session, ConnId(ctl.next_conn));
        ctl.next_conn += 1;
        let Some(peer) = self.connect_proxy() else { return };
        self.net.send(peer, &Preface::ours(ConnKind::Proxy).encode());
        self.send_frame(peer, &ProxyToServer::Hello(hello));
    }

    fn send_frame(&mut self, peer: Peer, frame: &ProxyToServer) {
        let mut bytes = Vec::new();
        frame.encode_to(&mut bytes);
        self.net.send(peer, &bytes);
    }

    fn proxy_frame(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.proxies.len()) else { return };
        let epoch = Epoch(tape.number32());
        let frame = match tape.byte() % 6 {
            0 => ProxyToServer::Pong,
            1..=3 => ProxyToServer::Started { epoch },
            4 => ProxyToServer::Refused { epoch, code: RefuseCode::TimedOut },
            _ => {
                let session = SessionId([tape.byte(); 16]);
                ProxyToServer::Hello(ConnHello { session, conn: ConnId(tape.number()), proof: [tape.byte(); 32] })
            }
        };
        self.send_frame(self.proxies[index], &frame);
    }

    fn raw_proxy(&mut self, tape: &mut Tape<'_>) {
        if let Some(index) = tape.index(self.proxies.len()) {
            self.net.send(self.proxies[index], &tape.bytes());
        }
    }

    /// Some peer reads, so that the server can write again.
    fn read(&mut self, tape: &mut Tape<'_>) {
        let peers = [&self.proxies[..], &self.visitors[..]].concat();
        if let Some(index) = tape.index(peers.len()) {
            let _ = self.net.receive(peers[index]);
        }
    }

    fn visit(&mut self, tape: &mut Tape<'_>) {
        let ports: Vec<_> = self.ctls.iter().filter_map(|ctl| ctl.public).collect();
        let Some(index) = tape.index(ports.len()) else { return };
        let visitor = self.net.visit(ports[index], SocketAddr::new(LOCAL, 50_002));
        if let Some(visitor) = visitor {
            self.net.send(visitor, &tape.bytes());
            self.visitors.push(visitor);
        }
    }

    fn visitor_acts(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.visitors.len()) else { return };
        let visitor = self.visitors[index];
        match tape.byte() % 4 {
            0 => self.net.send(visitor, &tape.bytes()),
            1 => self.net.send(visitor, &vec![b'v'; 1 << (tape.byte() % 18)]),
            2 => self.net.finish(visitor),
            _ => self.net.reset(visitor),
        }
    }

    fn peer_ends(&mut self, tape: &mut Tape<'_>) {
        let peers: Vec<_> = self.ctls.iter().map(|ctl| ctl.peer).chain(self.proxies.iter().copied()).collect();
        let Some(index) = tape.index(peers.len()) else { return };
        match tape.byte() % 2 {
            0 => self.net.finish(peers[index]),
            _ => self.net.reset(peers[index]),
        }
    }

    fn time(&mut self, tape: &mut Tape<'_>) {
        let seconds = [0.001, 0.5, 2.0, 5.0, 10.0, 30.0, 3600.0][usize::from(tape.byte()) % 7];
        pass(&mut self.net, Duration::from_secs_f64(seconds));
    }

    fn rarely(&mut self, tape: &mut Tape<'_>) {
        if tape.byte() == 255 {
            self.stopping = true;
            self.net.post(Mail::ServerMain(ToServerMain::Stop));
        }
    }

    /// A whole visit through a client that keeps to the protocol, whatever the others have done.
    fn serve_an_honest_client(&mut self) {
        let violations = self.net.violations;
        self.say_hello(HONEST, None);
        let index = self.ctls.len() - 1;
        for _ in 0..2 {
            self.settle();
            self.read_ctl(index);
        }
        assert!(self.ctls[index].session.is_some(), "an honest client gets a session");
        let name = "honest".into();
        let limits = TunnelLimits::default();
        let register = ClientMsg::RegisterTunnel { tunnel: TunnelId(1), public_port: 0, bind_addr: None, name, limits };
        self.ctls[index].sent = 1;
        self.push(index, &ToServer::Numbered { seq: 1, msg: register });
        self.settle();
        self.read_ctl(index);
        assert!(self.ctls[index].asked > 0, "it is asked for conns");
        self.open_conn(index, false);
        let conn = *self.proxies.last().expect("just opened");
        self.settle();
        let came = self.net.receive(conn);
        let mut rest = &came[PREFACE_LEN..];
        let mut framer = Framer::<ProxyToClient>::default();
        assert!(matches!(framer.next(&mut rest), Ok(Some(ProxyToClient::Accepted { .. }))), "its conn is accepted");
        assert_eq!(rest, b"");
        // The conn of a visit that ends in a reset carries the next.
        for (visitor_ends, service_ends, seen) in [
            (How::Shut, How::Reset, Ended::Reset),
            (How::Reset, How::Reset, Ended::Reset),
            (How::Shut, How::Shut, Ended::Closed),
        ] {
            let visitor = self.honest_visit(index, conn, visitor_ends, service_ends);
            assert_eq!(self.net.ended(visitor), Some(seen), "a {visitor_ends:?} and a {service_ends:?} end");
        }
        assert_eq!(self.net.violations, violations, "an honest client causes no violation");
    }

    /// A visit by the book over the first conn of a client's, whose halves end in these manners.
    fn honest_visit(&mut self, index: usize, conn: Peer, visitor_ends: How, service_ends: How) -> Peer {
        let port = self.ctls[index].public.expect("its tunnel is ready");
        let visitor = self.net.visit(port, SocketAddr::new(LOCAL, 50_003)).expect("its port is open");
        self.net.send(visitor, b"question");
        match visitor_ends {
            How::Shut => self.net.finish(visitor),
            How::Reset => self.net.reset(visitor),
        }
        self.settle();
        self.ctls[index].fins.clear();
        self.read_ctl(index);
        assert_eq!(self.ctls[index].fins, [Fin { total: 8, how: visitor_ends }], "the visitor's end is told");

        let came = self.net.receive(conn);
        let mut rest = &came[..];
        let start = Framer::<ProxyToClient>::default().next(&mut rest);
        let Ok(Some(ProxyToClient::Start { epoch, .. })) = start else { panic!("a visitor comes: {start:?}") };
        assert_eq!(rest, b"question", "every byte of the visitor's, and no other");

        let conn_id = ConnId(1);
        self.send_frame(conn, &ProxyToServer::Started { epoch });
        self.net.send(conn, b"answer");
        for msg in [
            ClientMsg::Fin { conn: conn_id, epoch, total: 6, how: service_ends },
            ClientMsg::Done { conn: conn_id, epoch },
        ] {
            let ctl = &mut self.ctls[index];
            ctl.sent += 1;
            let seq = ctl.sent;
            self.push(index, &ToServer::Numbered { seq, msg });
        }
        self.settle();
        let answer: &[u8] = if visitor_ends == How::Reset { b"" } else { b"answer" };
        assert_eq!(self.net.receive(visitor), answer, "every byte of the service's, and no other");
        visitor
    }

    fn stop(&mut self) {
        self.net.post(Mail::ServerMain(ToServerMain::Stop));
        self.settle();
        pass(&mut self.net, self.timings.drain_timeout);
        self.settle();
        assert!(self.main.is_over(), "it stops within drain_timeout");
        assert_eq!(self.net.open(), 0, "every socket is closed");
        assert_eq!((self.main.sockets(), self.event_loop.sockets(), self.listener.ports()), (0, 0, 0));
    }
}

impl Ctl {
    /// Notes what the server says, and returns what an honest client must answer.
    fn on_message(&mut self, secret: &Secret, message: ToClient) -> Vec<u8> {
        let mut answer = Vec::new();
        match message {
            ToClient::Handshake(ServerHandshake::Hello(_)) => {
                if let Step::Hello { preface, hello, reply } = &self.handshake {
                    let transcript = Transcript::new(preface.encode(), *reply, hello, &message);
                    let proof = Prover::new(Some(secret), transcript).client();
                    ToServer::Handshake(ClientHandshake::Proof(proof)).encode_to(&mut answer);
                    self.handshake = Step::Proved(transcript);
                }
            }
            ToClient::Handshake(ServerHandshake::Welcome(welcome)) => {
                if let Step::Proved(transcript) = &self.handshake {
                    let prover = Prover::new(Some(secret), *transcript);
                    assert!(prover.welcome_matches(&welcome), "the server proves itself");
                    if !welcome.resumed {
                        self.session = Some((welcome.session, prover.session_key(welcome.session)));
                        (self.sent, self.heard, self.next_conn) = (0, 0, 1);
                    }
                    self.handshake = Step::Over;
                }
            }
            ToClient::Numbered { seq, msg } => {
                self.heard = self.heard.max(seq);
                match msg {
                    ServerMsg::TunnelReady { public, .. } => self.public = Some(public.port()),
                    ServerMsg::NeedConn { count } => self.asked += count,
                    ServerMsg::Fin { total, how, .. } => self.fins.push(Fin { total, how }),
                    ServerMsg::TunnelRefused { .. }
                    | ServerMsg::TunnelClosed { .. }
                    | ServerMsg::Abort { .. }
                    | ServerMsg::AskStart { .. }
                    | ServerMsg::Drain
                    | ServerMsg::Leave { .. }
                    | ServerMsg::DatagramPath { .. } => {}
                }
            }
            ToClient::Handshake(ServerHandshake::Refused(_))
            | ToClient::Ping { .. }
            | ToClient::Pong { .. }
            | ToClient::Ack { .. }
            | ToClient::Close { .. } => {}
        }
        answer
    }
}

/// What a client asks for a tunnel.
fn limits(tape: &mut Tape<'_>) -> TunnelLimits {
    // One more than may be in both lists together; as many in each would be more than a message holds.
    let mut room = 17;
    let mut list = || -> Vec<Network> {
        let ips = [Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into(), IpAddr::from([0; 16])];
        let network = |byte: u8| Network::new(ips[usize::from(byte) % 3], byte);
        let count = usize::from(tape.byte() % 18).min(room);
        room -= count;
        (0..count).filter_map(|_| network(tape.byte()).ok()).collect()
    };
    let sources = SourceLists { allow: list(), deny: list() };
    TunnelLimits { sources, max_connections: tape.number32(), max_connection_rate: tape.number32() }
}

pub(crate) fn abort_code(tape: &mut Tape<'_>) -> AbortCode {
    match tape.byte() % 6 {
        0 => AbortCode::OuterReset,
        1 => AbortCode::ConnLost,
        2 => AbortCode::Deadline,
        3 => AbortCode::SessionOver,
        4 => AbortCode::Resources,
        _ => AbortCode::Stopping,
    }
}

pub(crate) fn close_code(tape: &mut Tape<'_>) -> CloseCode {
    match tape.byte() % 6 {
        0 => CloseCode::Bye,
        1 => CloseCode::Replaced,
        2 => CloseCode::Violation,
        3 => CloseCode::Stopping,
        4 => CloseCode::Revoked,
        _ => CloseCode::Kicked,
    }
}
