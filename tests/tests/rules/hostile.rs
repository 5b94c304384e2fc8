//! Peers that try everything they can: every message where it has no place, thousands of connections that go nowhere,
//! questions whose answers they do not read, what belongs to others. Each is disconnected with the code that
//! PROTOCOL.md gives; meanwhile memory stays bounded, and an honest client on the same server is served.

use super::peer::{Asked, Identity, RawClient, RawConn, RawServer, ServerConn, ServerEnd, Wire};
use protocol_sm::codes::{AbortCode, CloseCode, HandshakeRefusal, RefuseCode, TunnelRefusal};
use protocol_sm::ids::{ConnId, Epoch, SessionId, TunnelId};
use protocol_sm::settings::TunnelLimits;
use protocol_sm::transfer::How;
use protocol_sm::wire::{
    ClientHandshake, ClientMsg, ConnHello, ConnKind, Message, PREFACE_LEN, Preface, ProxyToClient, ProxyToServer,
    Reply, ServerHandshake, ServerHello, ServerMsg, ToClient, ToServer, Welcome,
};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{End, LOOPBACK, connect, connect_from, connect_unless_reset, finish, read_all, read_end};
use tests::visits::ping;
use tests::wait::until;

const MIB: u64 = 1 << 20;
const E1: Epoch = Epoch(1);

/// An honest client beside the offenders, and a visitor of its that stays.
struct Honest {
    client: Client,
    visitor: TcpStream,
    _service: Service,
}

impl Honest {
    fn on(server: &Server) -> Self {
        let service = Service::echo();
        let client = Client::start(server, options().tunnel(service.addr()));
        let visitor = client.visit();
        Self { client, visitor, _service: service }
    }

    /// Old and new visitors are served, over the first session.
    #[track_caller]
    fn is_served(&mut self) {
        ping(&mut self.visitor, b"undisturbed");
        ping(&mut self.client.visit(), b"and so are newcomers");
        assert_eq!(self.client.forwardings().len(), 1, "its session is the first one");
    }
}

/// Everything that a client can say on a ctl_conn, but the handshake; the numbered ones as the first of a session.
fn said_by_clients() -> Vec<ToServer> {
    let (tunnel, conn, epoch) = (TunnelId(1), ConnId(1), E1);
    let numbered = [
        ClientMsg::RegisterTunnel {
            tunnel,
            public_port: 0,
            bind_addr: None,
            name: "raw".into(),
            limits: TunnelLimits::default(),
        },
        ClientMsg::CloseTunnel { tunnel },
        ClientMsg::ChangeTunnel { tunnel, name: "raw".into(), limits: TunnelLimits::default() },
        ClientMsg::ConnFailed { count: 1 },
        ClientMsg::Fin { conn, epoch, total: 0, how: How::Shut },
        ClientMsg::Done { conn, epoch },
        ClientMsg::Abort { conn, epoch, code: AbortCode::ConnLost },
        ClientMsg::Drain,
    ];
    let mut all: Vec<_> = numbered.into_iter().map(|msg| ToServer::Numbered { seq: 1, msg }).collect();
    all.push(ToServer::Ping { received: 0 });
    all.push(ToServer::Pong { received: 0 });
    all.push(ToServer::Ack { received: 0 });
    all.push(ToServer::Close { code: CloseCode::Bye });
    all
}

fn a_proof() -> ToServer {
    ToServer::Handshake(ClientHandshake::Proof([0; 32]))
}

/// P-STATE-1, P-AUTH-11, P-VIOL-1, P-VIOL-3: before the session whatever is out of turn is hung up on without an
/// answer; in it, a handshake is a violation.
#[test]
fn no_message_on_a_ctl_conn_is_taken_out_of_turn() {
    let server = Server::start(options().threads(1));
    let mut honest = Honest::on(&server);
    let mut first = said_by_clients();
    first.push(a_proof());
    for message in &first {
        let mut wire = Wire::connect(server.ctl());
        wire.send_raw(&Preface::ours(ConnKind::Ctl).encode());
        wire.send(message);
        assert!(wire.bytes(PREFACE_LEN).is_some(), "the preface was good");
        wire.expect_end();
    }
    let mut second = said_by_clients();
    second.push(Identity::new().hello());
    for message in &second {
        let mut wire = Wire::connect(server.ctl());
        wire.send_raw(&Preface::ours(ConnKind::Ctl).encode());
        wire.send(&Identity::new().hello());
        assert!(wire.bytes(PREFACE_LEN).is_some(), "the preface was good");
        let _: ToClient = wire.expect("the server's hello");
        wire.send(message);
        wire.expect_end();
    }
    for message in [Identity::new().hello(), a_proof()] {
        let mut client = RawClient::start(server.ctl());
        client.wire.send(&message);
        client.expect_close(CloseCode::Violation);
    }
    honest.is_served();
}

/// A client by hand with a tunnel and a conn, one of many on a server.
struct Actor {
    client: RawClient,
    public: SocketAddr,
    conn: RawConn,
}

impl Actor {
    fn enter(server: &Server) -> Self {
        let mut client = RawClient::start(server.ctl());
        let public = client.tunnel(1);
        let conn = client.conn(server.proxy());
        Self { client, public, conn }
    }

    /// In the state of that name of P-STATE-2, and the visitor who is there, if any.
    #[track_caller]
    fn in_state(server: &Server, state: &str) -> (Self, Option<TcpStream>) {
        let mut actor = Self::enter(server);
        let visitor = match state {
            "idle" => None,
            _ => {
                let visitor = connect(actor.public);
                actor.conn.start();
                Some(visitor)
            }
        };
        match state {
            "serving" => {
                actor.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
                actor.conn.wire.send_raw(b"!");
                let mut byte = [0];
                visitor.as_ref().expect("it came").read_exact(&mut byte).expect("it is being served");
            }
            "refused" => {
                actor.conn.wire.send(&ProxyToServer::Refused { epoch: E1, code: RefuseCode::TimedOut });
                actor.client.find("the Fin of the refused", |msg| matches!(msg, ServerMsg::Fin { .. }).then_some(()));
            }
            _ => {}
        }
        (actor, visitor)
    }

    /// `Fin`, `Done` and `Abort` of its conn.
    fn messages(&self, epoch: Epoch) -> [ClientMsg; 3] {
        let conn = self.conn.id;
        [
            ClientMsg::Fin { conn, epoch, total: 1, how: How::Shut },
            ClientMsg::Done { conn, epoch },
            ClientMsg::Abort { conn, epoch, code: AbortCode::Deadline },
        ]
    }
}

/// P-STATE-2, P-VIOL-1, P-VIOL-4, P-VIOL-5: the server's table, cell by cell, for messages of earlier transfers and of
/// such as were never started, and for what has no place on the conn itself.
#[test]
fn no_message_about_a_conn_is_taken_out_of_turn() {
    let server = Server::start(options().threads(1).key("idle_conns", 1));
    let mut honest = Honest::on(&server);
    for state in ["idle", "awaiting", "serving", "refused"] {
        let (mut actor, _visitor) = Actor::in_state(&server, state);
        for stale in actor.messages(Epoch(0)) {
            actor.client.send(stale);
        }
        actor.client.expect_alive();
        let never_started = Epoch(if state == "idle" { 1 } else { 2 });
        for which in 0..3 {
            let (mut actor, visitor) = Actor::in_state(&server, state);
            actor.client.send(actor.messages(never_started)[which].clone());
            actor.client.expect_close(CloseCode::Violation);
            if let Some(mut visitor) = visitor {
                assert_eq!(read_end(&mut visitor).1, End::Reset, "{state}");
            }
        }
        honest.is_served();
    }
    let hello = |actor: &Actor| ProxyToServer::Hello(actor.client.key.hello(actor.client.welcome.session, ConnId(2)));
    for (state, epoch) in [("idle", E1), ("awaiting", Epoch(2)), ("awaiting", Epoch(0))] {
        let wrongs: [&dyn Fn(&Actor) -> ProxyToServer; 4] = [
            &|_| ProxyToServer::Pong,
            &|_| ProxyToServer::Started { epoch },
            &|_| ProxyToServer::Refused { epoch, code: RefuseCode::TimedOut },
            &hello,
        ];
        for wrong in wrongs {
            let (mut actor, _visitor) = Actor::in_state(&server, state);
            let message = wrong(&actor);
            actor.conn.wire.send(&message);
            actor.client.expect_close(CloseCode::Violation);
        }
    }
    honest.is_served();
}

/// P-PROXY-5, P-VIOL-3: before a conn is accepted there is only its hello.
#[test]
fn a_conn_begins_with_its_hello() {
    let server = Server::start(options().threads(1));
    let mut honest = Honest::on(&server);
    let epoch = E1;
    for first in [
        ProxyToServer::Pong,
        ProxyToServer::Started { epoch },
        ProxyToServer::Refused { epoch, code: RefuseCode::TimedOut },
    ] {
        let mut wire = Wire::connect(server.proxy());
        wire.send_raw(&Preface::ours(ConnKind::Proxy).encode());
        wire.send(&first);
        wire.expect_end();
    }
    honest.is_served();
}

/// P-STATE-3, P-PROXY-2, P-VIOL-5: a client reaches nothing of another's: conns are numbered per session, and a session's
/// key is not to be had.
#[test]
fn another_clients_ids_reach_nothing() {
    let server = Server::start(options().threads(1).key("idle_conns", 1));
    let mut honest = Actor::enter(&server);
    let mut visitor = connect(honest.public);
    visitor.write_all(b"question").expect("send");
    honest.conn.start();
    assert_eq!(honest.conn.wire.bytes(8).expect("the visitor's words"), b"question");
    finish(&visitor);
    honest.client.find("the visitor's Fin", |msg| matches!(msg, ServerMsg::Fin { total: 8, .. }).then_some(()));

    // It has no conn of its own: the number means nothing.
    let mut thief = RawClient::start(server.ctl());
    let (conn, epoch) = (honest.conn.id, E1);
    thief.send(ClientMsg::Fin { conn, epoch, total: 0, how: How::Shut });
    thief.send(ClientMsg::Done { conn, epoch });
    thief.send(ClientMsg::Abort { conn, epoch, code: AbortCode::OuterReset });
    thief.send(ClientMsg::CloseTunnel { tunnel: TunnelId(1) });
    thief.expect_alive();
    // The other's session, with a key of its own; and the other's very hello once more.
    let theirs = honest.client.welcome.session;
    let forged = ConnHello { session: theirs, ..thief.key.hello(thief.welcome.session, ConnId(2)) };
    assert_eq!(thief.conn_as(server.proxy(), &forged).err(), Some(HandshakeRefusal::WrongToken));
    let replayed = honest.client.key.hello(theirs, conn);
    assert_eq!(thief.conn_as(server.proxy(), &replayed).err(), Some(HandshakeRefusal::ReplayedConn));
    // The other's session, as its own to resume.
    let resumed = RawClient::with(server.ctl(), &Identity::new().resuming(theirs, 0)).expect("let in");
    assert!(!resumed.welcome.resumed && resumed.welcome.session != theirs);
    thief.expect_alive();

    honest.conn.wire.send(&ProxyToServer::Started { epoch });
    honest.conn.wire.send_raw(b"answer");
    honest.client.send(ClientMsg::Fin { conn, epoch, total: 6, how: How::Shut });
    honest.client.send(ClientMsg::Done { conn, epoch });
    assert_eq!(read_all(&mut visitor), b"answer");
    let _next = connect(honest.public);
    honest.conn.start();
}

/// P-AUTH-1, P-AUTH-5, P-AUTH-7: a handshake that was recorded proves nothing the next time.
#[test]
fn a_recorded_handshake_opens_nothing() {
    let server = Server::start(options().threads(1).env("CPROXY_TOKEN", "secret"));
    let identity = Identity::new().with_token("secret");
    let mut honest = RawClient::with(server.ctl(), &identity).expect("let in");
    for _ in 0..3 {
        let asked = Asked::ask(server.ctl(), &identity).expect("asked for a proof");
        let proof = ToServer::Handshake(ClientHandshake::Proof(asked.proof()));
        // The same words again, with the proof that was good in the other connection.
        let mut wire = Wire::connect(server.ctl());
        wire.send_raw(&Preface::ours(ConnKind::Ctl).encode());
        wire.send(&identity.hello());
        assert!(wire.bytes(PREFACE_LEN).is_some(), "the preface was good");
        let _: ToClient = wire.expect("the server's hello");
        wire.send(&proof);
        let refused = ToClient::Handshake(ServerHandshake::Refused(HandshakeRefusal::WrongToken));
        assert_eq!(wire.expect::<ToClient>("a refusal"), refused);
        wire.expect_end();
        // It is held back while the honest one shows that it lives.
        honest.expect_alive();
        assert_eq!(asked.answer().err(), Some(HandshakeRefusal::IdentityInUse));
    }
    honest.expect_alive();
}

/// P-FRAME-4: a peer may send one byte at a time. It is served like any other.
#[test]
fn one_byte_at_a_time_is_a_message_all_the_same() {
    let server = Server::start(options().threads(1).key("idle_conns", 1));
    let mut actor = Actor::enter(&server);
    let dribble = |wire: &mut Wire, message: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        message(&mut bytes);
        bytes.iter().for_each(|byte| wire.send_raw(&[*byte]));
    };
    let mut visitor = connect(actor.public);
    visitor.write_all(b"question").expect("send");
    finish(&visitor);
    actor.conn.start();
    // `Done` must not overtake the server's own `Fin`.
    actor.client.find("the visitor's Fin", |msg| matches!(msg, ServerMsg::Fin { total: 8, .. }).then_some(()));
    dribble(&mut actor.conn.wire, &|bytes| {
        ProxyToServer::Started { epoch: E1 }.encode_to(bytes);
        bytes.extend_from_slice(b"answer");
    });
    let conn = actor.conn.id;
    for msg in [ClientMsg::Fin { conn, epoch: E1, total: 6, how: How::Shut }, ClientMsg::Done { conn, epoch: E1 }] {
        actor.client.sent += 1;
        let seq = actor.client.sent;
        dribble(&mut actor.client.wire, &|bytes| ToServer::Numbered { seq, msg: msg.clone() }.encode_to(bytes));
    }
    assert_eq!(read_all(&mut visitor), b"answer");
}

/// An address of this machine's for each of a crowd: none takes another's room.
fn source(number: usize) -> Ipv4Addr {
    let [.., a, b] = number.to_be_bytes();
    Ipv4Addr::new(127, 77, a, b)
}

/// P-AUTH-10, P-AUTH-12, P-LIM-1, P-VIOL-5: thousands of connections that begin a handshake and leave it at that cost a
/// bounded number of descriptors and of bytes, and keep nobody out.
#[test]
fn thousands_of_half_finished_handshakes_cost_little() {
    const MAX: usize = 500;
    let patient = options().threads(1).key("handshake_timeout", 600).key("max_handshakes", MAX);
    let server = Server::start(patient);
    let mut honest = Honest::on(&server);
    let mut hello = Vec::new();
    Identity::new().hello().encode_to(&mut hello);
    let ctl = Preface::ours(ConnKind::Ctl).encode();
    let proxy = Preface::ours(ConnKind::Proxy).encode();
    let longest = [&ctl[..], &512u16.to_le_bytes(), &[1; 511]].concat();
    let openings: [(SocketAddr, &[u8]); 8] = [
        (server.ctl(), b""),
        (server.ctl(), b"CPX"),
        (server.ctl(), &ctl),
        (server.ctl(), &[&ctl[..], &hello[..hello.len() / 2]].concat()),
        // The server answers, and waits for the proof.
        (server.ctl(), &[&ctl[..], &hello].concat()),
        (server.ctl(), &longest),
        (server.proxy(), &proxy),
        (server.proxy(), &[&proxy[..], &[81, 0, 0]].concat()),
    ];
    let mut crowd = Vec::new();
    let wave = |honest: &mut Honest, crowd: &mut Vec<TcpStream>, count: usize| {
        for _ in 0..count {
            let number = crowd.len();
            let (to, words) = openings[number % openings.len()];
            let mut stranger = connect_from(source(number), to).expect("taken");
            // The oldest are hung up on meanwhile.
            let _ = stranger.write_all(words);
            crowd.push(stranger);
            if number.is_multiple_of(250) {
                honest.is_served();
                RawClient::start(server.ctl()).expect_alive();
            }
        }
    };
    wave(&mut honest, &mut crowd, 2 * MAX);
    let full = server.process().memory();
    wave(&mut honest, &mut crowd, 8 * MAX);
    let descriptors = server.process().descriptors().sockets;
    assert!(descriptors < MAX + 100, "{descriptors} sockets for {} strangers", crowd.len());
    let grown = server.process().memory().saturating_sub(full);
    assert!(grown < MIB, "{grown} bytes more for {} strangers more", 8 * MAX);
    honest.is_served();
}

/// P-LIM-1, P-VIOL-5: who asks and never reads is given up once too many answers wait, and that is all it costs.
#[test]
fn answers_that_nobody_reads_are_bounded() {
    let server = Server::start(options().threads(1));
    let mut honest = Honest::on(&server);
    let before = server.process().memory();
    let mut client = RawClient::start(server.ctl());
    let mut pings = Vec::new();
    while pings.len() < 1 << 20 {
        ToServer::Ping { received: 0 }.encode_to(&mut pings);
    }
    let mut most = 0;
    let mut said = 0;
    while client.wire.tries_to_send(&pings) {
        said += pings.len();
        most = most.max(server.process().memory());
        assert!(said < 256 << 20, "after {said} bytes of pings it is still answered");
        if said.is_multiple_of(8 << 20) {
            honest.is_served();
        }
    }
    let grown = most.saturating_sub(before);
    assert!(grown < 6 * MIB, "{grown} bytes for answers that nobody reads");
    // The ctl_conn was given up, not the session.
    let identity = client.identity.clone().resuming(client.welcome.session, client.heard);
    let mut back = RawClient::with(server.ctl(), &identity).expect("let in");
    assert!(back.welcome.resumed);
    back.expect_alive();
    honest.is_served();
}

/// A server by hand, its client, and that client's conn.
struct Stage {
    server: RawServer,
    client: Client,
    _service: Service,
}

impl Stage {
    fn set() -> Self {
        let service = Service::echo();
        let server = RawServer::start();
        let eager = options().threads(1).key("reconnect_min", 0.02).key("reconnect_max", 0.1);
        let client = Client::spawn_alone(LOOPBACK, eager.tunnel(service.addr()).via(server.addr()));
        Self { server, client, _service: service }
    }

    /// In the state of that name of P-STATE-2.
    #[track_caller]
    fn in_state(&self, state: &str) -> (ServerEnd, ServerConn) {
        let mut end = self.server.serve();
        if state == "not accepted" {
            end.send(ServerMsg::NeedConn { count: 1 });
            let (mut wire, hello) = self.server.conn();
            wire.send_raw(&Reply::to(Preface::ours(ConnKind::Proxy)).encode());
            return (end, ServerConn { wire, id: hello.conn });
        }
        let mut conn = self.server.accepted(&mut end);
        if state == "serving" {
            conn.wire.send(&start(E1));
            assert_eq!(conn.wire.expect::<ProxyToServer>("Started"), ProxyToServer::Started { epoch: E1 });
        }
        (end, conn)
    }
}

fn start(epoch: Epoch) -> ProxyToClient {
    let [visitor, public] = [50_000, 6000].map(|port| SocketAddr::new(LOOPBACK, port));
    ProxyToClient::Start { epoch, tunnel: TunnelId(0), visitor, public }
}

fn said_by_servers() -> Vec<ToClient> {
    let (tunnel, conn, epoch) = (TunnelId(0), ConnId(1), E1);
    let numbered = [
        ServerMsg::TunnelReady { tunnel, public: SocketAddr::new(LOOPBACK, 6000) },
        ServerMsg::TunnelRefused { tunnel, code: TunnelRefusal::PortInUse },
        ServerMsg::NeedConn { count: 1 },
        ServerMsg::Fin { conn, epoch, total: 0, how: How::Shut },
        ServerMsg::Abort { conn, epoch, code: AbortCode::Deadline },
        ServerMsg::Drain,
    ];
    let mut all: Vec<_> = numbered.into_iter().map(|msg| ToClient::Numbered { seq: 1, msg }).collect();
    all.push(ToClient::Ping { received: 0 });
    all.push(ToClient::Pong { received: 0 });
    all.push(ToClient::Ack { received: 0 });
    all.push(ToClient::Close { code: CloseCode::Stopping });
    all
}

/// P-STATE-1, P-AUTH-11, P-VIOL-1, P-VIOL-6: the same for the client: a handshake out of turn is left, a session that
/// begins another is ended, and each time the client comes again.
#[test]
fn no_message_of_a_servers_is_taken_out_of_turn() {
    let stage = Stage::set();
    let welcome = Welcome { session: SessionId([9; 16]), resumed: false, received: 0, proxy_port: 1, proof: [0; 32] };
    let welcome = ToClient::Handshake(ServerHandshake::Welcome(welcome));
    let hello = ToClient::Handshake(ServerHandshake::Hello(ServerHello { nonce: [6; 32], features: 0 }));
    for first in said_by_servers().iter().chain([&welcome]) {
        let mut wire = stage.server.greet().wire;
        wire.send_raw(&Reply::to(Preface::ours(ConnKind::Ctl)).encode());
        wire.send(first);
        wire.expect_end();
    }
    for second in said_by_servers().iter().chain([&hello]) {
        let mut challenged = stage.server.greet().challenge();
        challenged.wire.send(second);
        challenged.wire.expect_end();
    }
    for later in [&hello, &welcome] {
        let (mut end, _conn) = stage.in_state("idle");
        end.wire.send(later);
        end.expect_close(CloseCode::Violation);
    }
    assert!(stage.client.is_running());
}

/// P-STATE-2, P-STATE-3, P-TUN-1, P-VIOL-1, P-VIOL-4: the client's table, cell by cell.
#[test]
fn no_message_of_a_servers_about_a_conn_is_taken_out_of_turn() {
    let stage = Stage::set();
    for state in ["not accepted", "idle", "serving"] {
        let (mut end, conn) = stage.in_state(state);
        let conn = conn.id;
        let messages = |epoch| {
            [
                ServerMsg::Fin { conn, epoch, total: 0, how: How::Shut },
                ServerMsg::Abort { conn, epoch, code: AbortCode::Deadline },
            ]
        };
        for stale in messages(Epoch(0)) {
            end.send(stale);
        }
        end.expect_alive();
        end.wire.send(&ToClient::Close { code: CloseCode::Stopping });
        for which in 0..2 {
            let (mut end, conn) = stage.in_state(state);
            assert_eq!(conn.id, ConnId(1), "the first of each session");
            end.send(messages(Epoch(2))[which].clone());
            end.expect_close(CloseCode::Violation);
        }
    }
    let in_band: [(&str, ProxyToClient); 7] = [
        ("not accepted", ProxyToClient::Ping),
        ("not accepted", start(E1)),
        ("idle", start(Epoch(0))),
        ("idle", start(Epoch(2))),
        ("idle", ProxyToClient::Accepted { proof: [0; 32] }),
        ("idle", ProxyToClient::Refused(HandshakeRefusal::Full)),
        ("not accepted", ProxyToClient::Accepted { proof: [0; 32] }),
    ];
    for (state, wrong) in in_band {
        let (mut end, mut conn) = stage.in_state(state);
        conn.wire.send(&wrong);
        end.expect_close(CloseCode::Violation);
    }
    let (conn, epoch, tunnel) = (ConnId(7), E1, TunnelId(0));
    let of_nothing = [
        ServerMsg::Fin { conn, epoch, total: 0, how: How::Shut },
        ServerMsg::Abort { conn, epoch, code: AbortCode::Deadline },
        ServerMsg::TunnelReady { tunnel, public: SocketAddr::new(LOOPBACK, 6000) },
        ServerMsg::TunnelRefused { tunnel: TunnelId(5), code: TunnelRefusal::PortInUse },
        ServerMsg::NeedConn { count: 0 },
    ];
    for wrong in of_nothing {
        let (mut end, _conn) = stage.in_state("idle");
        end.send(wrong);
        end.expect_close(CloseCode::Violation);
    }
    assert!(stage.client.is_running());
}

/// P-LIM-1, P-POOL-1, P-POOL-2: a server that asks for everything gets `max_proxy_conns`, and the rest is told to fail.
#[test]
fn a_server_that_asks_for_everything_gets_its_share() {
    let service = Service::echo();
    let server = RawServer::start();
    let modest = options().threads(1).key("max_proxy_conns", 4);
    let client = Client::spawn_alone(LOOPBACK, modest.tunnel(service.addr()).via(server.addr()));
    let mut end = server.serve();
    end.send(ServerMsg::NeedConn { count: u32::MAX });
    assert_eq!(end.msg("ConnFailed"), ClientMsg::ConnFailed { count: u32::MAX - 4 });
    let conns: Vec<_> = (0..4).map(|_| server.conn()).collect();
    let before = client.process().memory();
    for _ in 0..1000 {
        end.send(ServerMsg::NeedConn { count: u32::MAX });
        assert_eq!(end.msg("ConnFailed"), ClientMsg::ConnFailed { count: u32::MAX });
    }
    let grown = client.process().memory().saturating_sub(before);
    assert!(grown < MIB, "{grown} bytes for conns that do not come");
    let sockets = client.process().descriptors().sockets;
    assert!(sockets < 20, "{sockets} sockets for four conns");
    end.expect_alive();
    drop(conns);
}

/// Clients of two holders, "greedy" with these keys in its section, and "other".
fn two_holders(threads: usize, greedy: &str) -> (Server, Identity, Identity) {
    let tables = format!(
        "[[clients]]\nname = \"greedy\"\ntoken = \"greedy token\"\n{greedy}\n\
         [[clients]]\nname = \"other\"\ntoken = \"other token\"\n"
    );
    let server = Server::start(options().threads(threads).key("wait_timeout", 600).tables(&tables));
    (server, Identity::new().with_token("greedy token"), Identity::new().with_token("other token"))
}

/// Another client of the same holder.
fn another(identity: &Identity) -> Identity {
    Identity { client: Identity::new().client, ..identity.clone() }
}

/// P-LIM-2: a holder's sessions are counted together, and take no other's.
#[test]
fn one_token_opens_as_many_sessions_as_its_holder_may_have() {
    let (server, greedy, other) = two_holders(1, "max_sessions = 2");
    let mut sessions: Vec<_> =
        (0..2).map(|_| RawClient::with(server.ctl(), &another(&greedy)).expect("let in")).collect();
    for _ in 0..3 {
        assert_eq!(RawClient::with(server.ctl(), &another(&greedy)).err(), Some(HandshakeRefusal::Full));
    }
    RawClient::with(server.ctl(), &other).expect("another holder has its own").expect_alive();
    sessions.iter_mut().for_each(RawClient::expect_alive);
    let mut leaving = sessions.pop().expect("two");
    leaving.wire.send(&ToServer::Close { code: CloseCode::Bye });
    leaving.expect_close(CloseCode::Bye);
    RawClient::with(server.ctl(), &another(&greedy)).expect("there is room again").expect_alive();
}

/// P-LIM-2: a holder's tunnels are counted over all its sessions, and given back when one of them ends.
#[test]
fn one_token_opens_as_many_tunnels_as_its_holder_may_have() {
    let (server, greedy, other) = two_holders(1, "max_tunnels = 2");
    let enter = |identity: &Identity| RawClient::with(server.ctl(), &another(identity)).expect("let in");
    let mut sessions: Vec<_> = (0..3).map(|_| enter(&greedy)).collect();
    let refused = |client: &mut RawClient| {
        let limits = TunnelLimits::default();
        client.send(ClientMsg::RegisterTunnel {
            tunnel: TunnelId(9),
            public_port: 0,
            bind_addr: None,
            name: "raw".into(),
            limits,
        });
        client.find("an answer", |msg| match msg {
            ServerMsg::TunnelReady { tunnel: TunnelId(9), .. } => Some(None),
            ServerMsg::TunnelRefused { tunnel: TunnelId(9), code } => Some(Some(*code)),
            _ => None,
        })
    };
    sessions[0].tunnel(1);
    sessions[1].tunnel(1);
    for session in &mut sessions {
        assert_eq!(refused(session), Some(TunnelRefusal::TooManyTunnels));
    }
    enter(&other).tunnel(1);
    sessions[1].send(ClientMsg::CloseTunnel { tunnel: TunnelId(1) });
    sessions[1].expect_alive();
    assert_eq!(refused(&mut sessions[2]), None, "the closed one is given back");
    let mut ending = sessions.remove(2);
    ending.wire.send(&ToServer::Close { code: CloseCode::Bye });
    ending.expect_close(CloseCode::Bye);
    assert_eq!(refused(&mut sessions[0]), None, "so are those of a session that is over");
}

/// P-LIM-2: a holder's visitors, served and waiting, are counted over all its sessions and event loops, and given back
/// with their session.
#[test]
fn one_token_has_as_many_visitors_as_its_holder_may_have() {
    for threads in [1, 3] {
        for (limit, together) in [("max_connections = 3", 3), ("max_waiting = 2", 2)] {
            let (server, greedy, other) = two_holders(threads, limit);
            let enter = |identity: &Identity| {
                let mut client = RawClient::with(server.ctl(), &another(identity)).expect("let in");
                let public = client.tunnel(1);
                (client, public)
            };
            let serve = |(mut client, public): (RawClient, SocketAddr)| {
                let mut visitor = connect(public);
                visitor.write_all(b"served").expect("send");
                // Whichever event loop it is on has a conn then.
                let mut conns: Vec<_> = (0..8).map(|_| client.conn(server.proxy())).collect();
                until("one of the conns has the visitor's words", || {
                    conns.iter_mut().any(|conn| conn.wire.holds(b"served"))
                });
            };
            // Nobody serves them: they wait.
            let sessions = [enter(&greedy), enter(&greedy), enter(&greedy)];
            let came = sessions.iter().cycle().take(9).filter_map(|(_, public)| connect_unless_reset(*public));
            let mut waiting: Vec<_> = came.collect();
            until("those beyond the limit are reset", || {
                waiting.retain(|visitor| visitor.take_error().expect("SO_ERROR").is_none());
                waiting.len() <= together
            });
            serve(enter(&other));
            waiting.retain(|visitor| visitor.take_error().expect("SO_ERROR").is_none());
            assert_eq!(waiting.len(), together, "{limit}, {threads} threads");
            for (mut session, _) in sessions {
                session.wire.send(&ToServer::Close { code: CloseCode::Bye });
                session.expect_close(CloseCode::Bye);
            }
            serve(enter(&greedy));
        }
    }
}

/// P-LIM-3: whoever has all the conns, or all the visitors, that descriptors allow leaves newcomers theirs.
#[test]
fn descriptors_are_left_for_newcomers() {
    const DESCRIPTORS: usize = 500;
    let server = Server::start(options().threads(1).key("wait_timeout", 600).descriptor_limit(DESCRIPTORS));
    server.log_line("what the limit of open files allows");
    let mut greedy = RawClient::start(server.ctl());
    // Some are refused, and idle ones are closed where they become scarce.
    let _conns: Vec<_> = (1..=DESCRIPTORS as u64)
        .map(|id| greedy.conn_as(server.proxy(), &greedy.key.hello(greedy.welcome.session, ConnId(id))))
        .collect();
    let public = greedy.tunnel(1);
    let visitors: Vec<_> = (0..DESCRIPTORS).map(|_| connect_unless_reset(public)).collect();
    let mut newcomer = RawClient::start(server.ctl());
    newcomer.tunnel(1);
    newcomer.conn(server.proxy());
    newcomer.expect_alive();
    greedy.expect_alive();
    drop(visitors);
}
