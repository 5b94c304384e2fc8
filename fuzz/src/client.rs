//! The whole client (main thread, event loop) against a server that does anything: bytes that are no messages,
//! every message at every time, conns accepted or not, visitors that lie about their totals, a LocalServer that
//! refuses or resets, time that passes.
//!
//! It must not panic (its own invariants are assertions), must not spin, must come back and serve a visitor of an
//! honest server after all that, and must have closed every socket once it has stopped.

use crate::net::{Ended, Mail, Net, Peer, Pipe, Stream, pass, run, with};
use crate::server::{abort_code, close_code};
use crate::tape::Tape;
use protocol_sm::auth::{Prover, SessionKey, Transcript};
use protocol_sm::bandwidth::LEAST;
use protocol_sm::codes::{HandshakeRefusal, LeaveCode, TunnelRefusal};
use protocol_sm::driver::client_loop::ClientLoop;
use protocol_sm::driver::client_main::ClientMain;
use protocol_sm::driver::messages::ToClientMain;
use protocol_sm::driver::{Driver, Role, SysError};
use protocol_sm::ids::{ConnId, Epoch, SessionId, TunnelId};
use protocol_sm::routes::{Agreed, Secured};
use protocol_sm::settings::{ClientSettings, Serving, Timings, Token as Secret, TunnelLimits, TunnelSpec};
use protocol_sm::transfer::{Fin, How};
use protocol_sm::wire::{
    ClientHandshake, ClientMsg, ConnKind, Framer, Message, PREFACE_LEN, Preface, ProxyToClient, ProxyToServer, Reply,
    ServerHandshake, ServerHello, ServerMsg, ToClient, ToServer, Welcome,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Duration;

const MAIN: usize = 0;
const LOOP: usize = 1;
const SERVER: &str = "127.0.0.1:8080";
const SERVICE: &str = "127.0.0.1:7777";
const PROXY_PORT: u16 = 8090;

/// Anything as a script of what a server and a LocalServer do to a client.
pub fn client(data: &[u8]) {
    let mut tape = Tape(data);
    let mut world = World::new();
    world.settle();
    while let Some(choice) = tape.next() {
        world.step(choice, &mut tape);
        world.settle();
    }
    if world.main.outcome().is_none() && !world.stopping && !world.net.taken_over {
        world.serve_a_visitor();
    }
    world.stop();
}

struct World {
    net: Net,
    main: ClientMain<Stream>,
    event_loop: ClientLoop<Stream, Pipe>,
    secret: Secret,
    timings: Timings,
    ctls: Vec<Ctl>,
    conns: Vec<Conn>,
    locals: Vec<Peer>,
    sessions: u8,
    stopping: bool,
}

/// A ctl_conn, from the server's end.
struct Ctl {
    peer: Peer,
    preface: Vec<u8>,
    framer: Framer<ToServer>,
    hello: Option<ToServer>,
    answer: Option<ToClient>,
    session: Option<(SessionId, SessionKey)>,
    sent: u64,
    heard: u64,
    registered: Vec<TunnelId>,
    done: Vec<(ConnId, Epoch)>,
    fins: Vec<Fin>,
    /// The last `Fin` of the tape's, whose end a reset may follow.
    last_fin: Option<(ConnId, Epoch, u64)>,
}

/// A proxy_conn, from the server's end.
struct Conn {
    peer: Peer,
    preface: Vec<u8>,
    framer: Framer<ProxyToServer>,
    id: Option<ConnId>,
    epoch: u32,
}

impl World {
    fn new() -> Self {
        let secret = Secret::new(b"secret".to_vec());
        let settings = ClientSettings {
            token: Some(secret.clone()),
            max_proxy_conns: 16,
            access_log: true,
            ..ClientSettings::new(
                [1; 16],
                vec![TunnelSpec {
                    name: "web".into(),
                    public_port: 0,
                    bind_addr: None,
                    site: None,
                    local: SERVICE.into(),
                    local_sources: Vec::new(),
                    limits: TunnelLimits::default(),
                    serving: Serving { max_bandwidth: NonZeroU64::new(LEAST), ..Serving::default() },
                }],
            )
        };
        let timings = settings.timings.clone();
        let mut world = Self {
            net: Net::default(),
            main: ClientMain::new(settings, SERVER.into(), 1),
            event_loop: ClientLoop::new(0, timings.clone()),
            secret,
            timings,
            ctls: Vec::new(),
            conns: Vec::new(),
            locals: Vec::new(),
            sessions: 0,
            stopping: false,
        };
        let main = &mut world.main;
        with(&mut world.net, MAIN, |cx| main.start(cx));
        world
    }

    /// Lets the client do all that it can do now.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let net = &mut self.net;
            if let Some(mail) = net.next_mail() {
                match mail {
                    Mail::ClientMain(message) => with(net, MAIN, |cx| self.main.on_message(cx, message)),
                    Mail::ClientLoop(message) => with(net, LOOP, |cx| self.event_loop.on_message(cx, message)),
                    Mail::ServerMain(_) | Mail::Listener(_) | Mail::ServerLoop(_) => {
                        unreachable!("there is no server")
                    }
                }
            } else if let Some((thread, token, ready)) = net.next_event() {
                match thread {
                    MAIN => with(net, thread, |cx| self.main.on_ready(cx, token, ready)),
                    _ => with(net, thread, |cx| self.event_loop.on_ready(cx, token, ready)),
                }
            } else {
                let main = run(net, MAIN, &mut self.main);
                if !(run(net, LOOP, &mut self.event_loop) | main) {
                    return;
                }
            }
            self.main.assert_consistent();
            self.event_loop.assert_consistent();
        }
        panic!("the client spins");
    }

    fn step(&mut self, choice: u8, tape: &mut Tape<'_>) {
        match choice % 24 {
            0..=3 => self.answer_dial(tape),
            4 | 5 => self.handshake(tape),
            6..=9 => self.numbered(tape),
            10 => self.unnumbered(tape),
            11 => self.raw_ctl(tape),
            12 | 13 => self.accept_conn(tape),
            14..=16 => self.proxy_frame(tape),
            17 => self.raw_proxy(tape),
            18 => self.local_acts(tape),
            19 => self.peer_ends(tape),
            20 => self.read(tape),
            21 => self.time(tape),
            _ => self.rarely(tape),
        }
    }

    /// Something answers the oldest connect of the client.
    fn answer_dial(&mut self, tape: &mut Tape<'_>) {
        let Some(peer) = self.net.dialled.pop_front() else { return };
        match tape.byte() {
            0..=199 => self.connected(peer),
            200..=215 => self.net.answer(peer, Err(SysError::Refused)),
            216..=231 => self.net.answer(peer, Err(SysError::Unreachable)),
            // No answer at all.
            _ => {}
        }
    }

    fn connected(&mut self, peer: Peer) {
        self.net.answer(peer, Ok(()));
        match self.net.role(peer) {
            Role::Ctl => self.ctls.push(Ctl {
                peer,
                preface: Vec::new(),
                framer: Framer::default(),
                hello: None,
                answer: None,
                session: None,
                sent: 0,
                heard: 0,
                registered: Vec::new(),
                done: Vec::new(),
                fins: Vec::new(),
                last_fin: None,
            }),
            Role::Proxy => {
                let to = self.net.destination(peer).map(|to| to.port());
                assert_eq!(to, Some(PROXY_PORT), "where the server said");
                let preface = Vec::new();
                self.conns.push(Conn { peer, preface, framer: Framer::default(), id: None, epoch: 0 });
            }
            Role::Local | Role::Public | Role::Untold => self.locals.push(peer),
        }
    }

    fn handshake(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.ctls.len()) else { return };
        let lie = tape.byte();
        self.read_ctl(index);
        if lie >= 248 {
            let refusals = [HandshakeRefusal::IdentityInUse, HandshakeRefusal::Full, HandshakeRefusal::WrongToken];
            let refusal = refusals[usize::from(lie) % 3];
            return self.push(index, &ToClient::Handshake(ServerHandshake::Refused(refusal)));
        }
        self.shake(index, lie);
    }

    /// Goes on with a ctl_conn's handshake as far as what the client has sent allows. A small `lie` is none.
    fn shake(&mut self, index: usize, lie: u8) {
        let ctl = &mut self.ctls[index];
        let reply = Reply::to(Preface::ours(ConnKind::Ctl));
        if ctl.hello.is_some() && ctl.answer.is_none() {
            let hello = ServerHello { nonce: [9; 32], features: u64::from(lie == 247) };
            let answer = ToClient::Handshake(ServerHandshake::Hello(hello));
            let mut bytes = reply.encode().to_vec();
            answer.encode_to(&mut bytes);
            ctl.answer = Some(answer);
            self.net.send(ctl.peer, &bytes);
            self.settle();
            return self.read_ctl(index);
        }
        let (Some(hello), Some(answer), None) = (&ctl.hello, &ctl.answer, &ctl.session) else { return };
        let ToServer::Handshake(ClientHandshake::Hello(said)) = hello else { unreachable!("kept only a hello") };
        let transcript = Transcript::new(Preface::ours(ConnKind::Ctl).encode(), reply.encode(), hello, answer);
        let prover = Prover::new(Some(&self.secret), transcript);
        let resumed = said.resume.filter(|_| lie % 2 == 1).and_then(|resume| {
            self.ctls.iter().rev().find(|ctl| ctl.session.as_ref().is_some_and(|(id, _)| *id == resume.session))
        });
        let (session, key, sent, heard) = match resumed {
            Some(ctl) => {
                let (id, key) = ctl.session.clone().expect("found by its session");
                (id, key, ctl.sent, ctl.heard)
            }
            None => {
                self.sessions = self.sessions.wrapping_add(1);
                let id = SessionId([self.sessions; 16]);
                (id, prover.session_key(id), 0, 0)
            }
        };
        let welcome = Welcome {
            session,
            resumed: resumed.is_some() != (lie == 246),
            received: heard + u64::from(lie == 245),
            proxy_port: PROXY_PORT,
            proof: [0; 32],
        };
        let mut welcome = prover.welcome(welcome);
        welcome.proof[0] ^= u8::from(lie == 244);
        let ctl = &mut self.ctls[index];
        (ctl.session, ctl.sent, ctl.heard) = (Some((session, key)), sent, heard);
        self.push(index, &ToClient::Handshake(ServerHandshake::Welcome(welcome)));
    }

    fn read_ctl(&mut self, index: usize) {
        let ctl = &mut self.ctls[index];
        let came = self.net.receive(ctl.peer);
        let mut rest = came.as_slice();
        take_preface(&mut ctl.preface, &mut rest);
        while let Some(message) = ctl.framer.next(&mut rest).expect("the client sends messages") {
            match message {
                ToServer::Handshake(ClientHandshake::Hello(_)) => ctl.hello = Some(message),
                ToServer::Numbered { seq, msg } => {
                    ctl.heard = ctl.heard.max(seq);
                    match msg {
                        ClientMsg::RegisterTunnel { tunnel, .. }
                        | ClientMsg::RegisterHost { tunnel, .. }
                        | ClientMsg::RegisterUdp { tunnel, .. } => {
                            ctl.registered.push(tunnel);
                        }
                        ClientMsg::Done { conn, epoch } => ctl.done.push((conn, epoch)),
                        ClientMsg::Fin { total, how, .. } => ctl.fins.push(Fin { total, how }),
                        ClientMsg::CloseTunnel { .. }
                        | ClientMsg::ConnFailed { .. }
                        | ClientMsg::Abort { .. }
                        | ClientMsg::StartSeen { .. }
                        | ClientMsg::ChangeTunnel { .. }
                        | ClientMsg::Drain => {}
                    }
                }
                ToServer::Handshake(ClientHandshake::Proof(_))
                | ToServer::Ping { .. }
                | ToServer::Pong { .. }
                | ToServer::Ack { .. }
                | ToServer::Close { .. } => {}
            }
        }
    }

    fn numbered(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.ctls.len()) else { return };
        let conn = ConnId(tape.number());
        let epoch = Epoch(tape.number32());
        let tunnel = TunnelId(epoch.0);
        let kind = tape.byte();
        let msg = match kind % 10 {
            _ if kind >= 250 => ServerMsg::AskStart { conn, epoch },
            _ if kind >= 247 => ServerMsg::TunnelClosed { tunnel, code: TunnelRefusal::PortNotAllowed },
            0 | 1 => ServerMsg::TunnelReady { tunnel, public: SocketAddr::new(LOCAL, 6000) },
            2 => ServerMsg::TunnelRefused { tunnel, code: TunnelRefusal::PortInUse },
            3 | 4 => ServerMsg::NeedConn { count: tape.number32() },
            5 => ServerMsg::Fin { conn, epoch, total: tape.number(), how: How::Shut },
            6 => ServerMsg::Fin { conn, epoch, total: tape.number(), how: How::Reset },
            7 => match self.ctls[index].last_fin {
                // Legal once, behind a shut end.
                Some((conn, epoch, total)) => ServerMsg::Fin { conn, epoch, total, how: How::Reset },
                None => ServerMsg::Fin { conn, epoch, total: tape.number(), how: How::Shut },
            },
            8 => ServerMsg::Abort { conn, epoch, code: abort_code(tape) },
            _ if kind >= 200 => ServerMsg::Leave { code: LeaveCode::TakenOver },
            _ if (140..160).contains(&kind) => ServerMsg::DatagramPath { pin: [kind; 32] },
            _ if kind >= 160 => ServerMsg::Leave { code: LeaveCode::Upgraded },
            _ => ServerMsg::Drain,
        };
        let ctl = &mut self.ctls[index];
        if let ServerMsg::Fin { conn, epoch, total, .. } = msg {
            ctl.last_fin = Some((conn, epoch, total));
        }
        let seq = match tape.byte() {
            0..=239 => {
                ctl.sent += 1;
                ctl.sent
            }
            _ => tape.number(),
        };
        self.push(index, &ToClient::Numbered { seq, msg });
    }

    fn unnumbered(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.ctls.len()) else { return };
        let honest = self.ctls[index].heard;
        let received = if tape.byte().is_multiple_of(4) { tape.number() } else { honest };
        let message = match tape.byte() % 5 {
            0 | 1 => ToClient::Ping { received },
            2 => ToClient::Pong { received },
            3 => ToClient::Ack { received },
            _ => ToClient::Close { code: close_code(tape) },
        };
        self.push(index, &message);
    }

    fn push(&mut self, index: usize, message: &ToClient) {
        let mut bytes = Vec::new();
        message.encode_to(&mut bytes);
        self.net.send(self.ctls[index].peer, &bytes);
    }

    fn raw_ctl(&mut self, tape: &mut Tape<'_>) {
        if let Some(index) = tape.index(self.ctls.len()) {
            self.net.send(self.ctls[index].peer, &tape.bytes());
        }
    }

    fn accept_conn(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.conns.len()) else { return };
        self.accept(index, tape.byte());
    }

    /// Answers a conn's hello, with the right proof unless it lies.
    fn accept(&mut self, index: usize, lie: u8) {
        let conn = &mut self.conns[index];
        let came = self.net.receive(conn.peer);
        let mut rest = came.as_slice();
        take_preface(&mut conn.preface, &mut rest);
        let Ok(Some(ProxyToServer::Hello(hello))) = conn.framer.next(&mut rest) else { return };
        let sessions = self.ctls.iter().filter_map(|ctl| ctl.session.as_ref());
        let Some((session, key)) = sessions.rev().find(|(id, _)| *id == hello.session) else { return };
        assert!(key.hello_matches(&hello), "the client proves its session");
        let mut proof = key.accept(*session, hello.conn);
        proof[0] ^= u8::from(lie == 255);
        conn.id = Some(hello.conn);
        let mut bytes = Reply::to(Preface::ours(ConnKind::Proxy)).encode().to_vec();
        let answer = match lie {
            254 => ProxyToClient::Refused(HandshakeRefusal::UnknownSession),
            _ => ProxyToClient::Accepted { proof },
        };
        answer.encode_to(&mut bytes);
        self.net.send(conn.peer, &bytes);
    }

    fn proxy_frame(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.conns.len()) else { return };
        let conn = &mut self.conns[index];
        let visitor = SocketAddr::new(LOCAL, 50_000);
        let frame = match tape.byte() % 9 {
            0 => ProxyToClient::Ping,
            8 => {
                let names = tape.byte() & 1 == 0;
                let host = names.then(|| "a.example".parse().expect("a host"));
                ProxyToClient::Secured(Box::new(Secured { host, agreed: Some(Agreed::Http2) }))
            }
            1..=5 => {
                conn.epoch += 1;
                ProxyToClient::Start {
                    epoch: Epoch(conn.epoch),
                    tunnel: TunnelId(u32::from(tape.byte() >= 240)),
                    visitor,
                    public: visitor,
                }
            }
            6 => ProxyToClient::Start { epoch: Epoch(tape.number32()), tunnel: TunnelId(0), visitor, public: visitor },
            _ => ProxyToClient::Accepted { proof: [tape.byte(); 32] },
        };
        let mut bytes = Vec::new();
        frame.encode_to(&mut bytes);
        bytes.extend(tape.bytes());
        self.net.send(conn.peer, &bytes);
    }

    fn raw_proxy(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.conns.len()) else { return };
        let bytes = match tape.byte() % 2 {
            0 => tape.bytes(),
            _ => vec![b'v'; 1 << (tape.byte() % 18)],
        };
        self.net.send(self.conns[index].peer, &bytes);
    }

    fn local_acts(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = tape.index(self.locals.len()) else { return };
        let local = self.locals[index];
        match tape.byte() % 4 {
            0 => self.net.send(local, &tape.bytes()),
            1 => self.net.send(local, &vec![b's'; 1 << (tape.byte() % 18)]),
            2 => self.net.finish(local),
            _ => self.net.reset(local),
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let ctls = self.ctls.iter().map(|ctl| ctl.peer);
        ctls.chain(self.conns.iter().map(|conn| conn.peer)).collect()
    }

    fn peer_ends(&mut self, tape: &mut Tape<'_>) {
        let peers = self.peers();
        let Some(index) = tape.index(peers.len()) else { return };
        match tape.byte() % 2 {
            0 => self.net.finish(peers[index]),
            _ => self.net.reset(peers[index]),
        }
    }

    /// Some peer reads, so that the client can write again.
    fn read(&mut self, tape: &mut Tape<'_>) {
        if let Some(index) = tape.index(self.ctls.len() + self.locals.len()) {
            match self.locals.get(index) {
                Some(local) => drop(self.net.receive(*local)),
                None => self.read_ctl(index - self.locals.len()),
            }
        }
    }

    fn time(&mut self, tape: &mut Tape<'_>) {
        let seconds = [0.001, 0.3, 2.0, 5.0, 15.0, 30.0, 3600.0][usize::from(tape.byte()) % 7];
        pass(&mut self.net, Duration::from_secs_f64(seconds));
    }

    fn rarely(&mut self, tape: &mut Tape<'_>) {
        if tape.byte() == 255 {
            self.stopping = true;
            self.net.post(Mail::ClientMain(ToClientMain::Stop));
        }
    }

    /// A whole visit through a server that keeps to the protocol, whatever the last one has done.
    fn serve_a_visitor(&mut self) {
        // The old server is gone, and its session with it.
        for peer in self.peers().into_iter().chain(std::mem::take(&mut self.net.dialled)) {
            self.net.reset(peer);
        }
        self.settle();
        pass(&mut self.net, self.timings.session_grace);
        self.settle();
        let violations = self.net.violations;
        let peer = self.next_dial().expect("it connects again");
        assert_eq!(self.net.role(peer), Role::Ctl, "first of all to the server");
        self.connected(peer);
        let ctl = self.ctls.len() - 1;
        for _ in 0..3 {
            self.settle();
            self.read_ctl(ctl);
            self.shake(ctl, 0);
        }
        self.settle();
        self.read_ctl(ctl);
        assert_eq!(self.ctls[ctl].registered, [TunnelId(0)], "it registers its tunnel");
        let public = SocketAddr::new(LOCAL, 6000);
        let ready = ServerMsg::TunnelReady { tunnel: TunnelId(0), public };
        self.push(ctl, &ToClient::Numbered { seq: 1, msg: ready });
        self.push(ctl, &ToClient::Numbered { seq: 2, msg: ServerMsg::NeedConn { count: 1 } });
        self.ctls[ctl].sent = 2;
        self.settle();
        let peer = self.next_dial().expect("it opens a conn");
        self.connected(peer);
        self.settle();
        let conn = self.conns.len() - 1;
        self.accept(conn, 0);
        // The conn of a visit that ends in a reset carries the next.
        for (visitor_ends, service_ends, seen) in [
            (How::Shut, How::Reset, Ended::Reset),
            (How::Reset, How::Reset, Ended::Reset),
            (How::Shut, How::Shut, Ended::Closed),
        ] {
            let local = self.honest_visit(ctl, conn, visitor_ends, service_ends);
            assert_eq!(self.net.ended(local), Some(seen), "a {visitor_ends:?} and a {service_ends:?} end");
        }
        assert_eq!(self.net.violations, violations, "an honest server causes no violation");
    }

    /// A visit by the book over a conn of an honest server's, whose halves end in these manners.
    fn honest_visit(&mut self, ctl: usize, conn: usize, visitor_ends: How, service_ends: How) -> Peer {
        let visitor = SocketAddr::new(LOCAL, 6000);
        let it = &mut self.conns[conn];
        let (peer, id) = (it.peer, it.id.expect("it said hello"));
        it.epoch += 1;
        let epoch = Epoch(it.epoch);
        let mut bytes = Vec::new();
        ProxyToClient::Start { epoch, tunnel: TunnelId(0), visitor, public: visitor }.encode_to(&mut bytes);
        bytes.extend_from_slice(b"question");
        self.net.send(peer, &bytes);
        self.settle();
        let local = self.next_dial().expect("it dials the LocalServer");
        self.connected(local);
        self.net.send(local, b"answer");
        match service_ends {
            How::Shut => self.net.finish(local),
            How::Reset => self.net.reset(local),
        }
        self.settle();
        self.ctls[ctl].sent += 1;
        let seq = self.ctls[ctl].sent;
        let msg = ServerMsg::Fin { conn: id, epoch, total: 8, how: visitor_ends };
        self.push(ctl, &ToClient::Numbered { seq, msg });
        self.settle();
        let question: &[u8] = if service_ends == How::Reset { b"" } else { b"question" };
        assert_eq!(self.net.receive(local), question, "every byte of the visitor's, and no other");
        let came = self.net.receive(peer);
        let mut rest = came.as_slice();
        let started = self.conns[conn].framer.next(&mut rest);
        assert_eq!(started, Ok(Some(ProxyToServer::Started { epoch })));
        assert_eq!(rest, b"answer", "every byte of the service's, and no other");
        let it = &mut self.ctls[ctl];
        (it.fins, it.done) = (Vec::new(), Vec::new());
        self.read_ctl(ctl);
        let it = &self.ctls[ctl];
        assert_eq!(it.fins, [Fin { total: 6, how: service_ends }], "the service's end is told");
        assert_eq!(it.done, [(id, epoch)]);
        local
    }

    /// The next connect of the client's that it still waits for, now or after its pause.
    fn next_dial(&mut self) -> Option<Peer> {
        for _ in 0..20 {
            while let Some(peer) = self.net.dialled.pop_front() {
                if self.net.ended(peer).is_none() {
                    return Some(peer);
                }
            }
            pass(&mut self.net, Duration::from_secs(1));
            self.settle();
        }
        None
    }

    fn stop(&mut self) {
        self.net.post(Mail::ClientMain(ToClientMain::Stop));
        self.settle();
        // Transfers may finish, and the server may take its time to say goodbye.
        for _ in 0..2 {
            pass(&mut self.net, self.timings.drain_timeout);
            self.settle();
        }
        assert!(self.main.outcome().is_some(), "it stops");
        assert_eq!(self.net.open(), 0, "every socket is closed");
        assert_eq!(self.event_loop.sockets(), 0);
    }
}

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Takes what is missing of a client's preface.
fn take_preface(preface: &mut Vec<u8>, rest: &mut &[u8]) {
    let missing = (PREFACE_LEN - preface.len()).min(rest.len());
    preface.extend_from_slice(&rest[..missing]);
    *rest = &rest[missing..];
}
