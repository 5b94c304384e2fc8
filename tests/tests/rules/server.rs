//! What the real server does with clients made by hand.

mod crowd;
mod ends;
mod guesses;
mod handshakes;
mod sessions;
mod stale;
mod transfers;
mod tunnels;

use super::peer::{Asked, Identity, RawClient, RawConn, Wire};
use protocol_sm::codes::{AbortCode, CloseCode, HandshakeRefusal, LeaveCode, RefuseCode, TunnelRefusal};
use protocol_sm::ids::{ConnId, Epoch, SessionId, TunnelId};
use protocol_sm::settings::TunnelLimits;
use protocol_sm::sources::SourceLists;
use protocol_sm::transfer::{Fin, How};
use protocol_sm::wire::{
    ClientHandshake, ClientMsg, ConnHello, ConnKind, LEAVE, Message, PREFACE_LEN, Preface, ProxyToClient,
    ProxyToServer, Reply, ServerMsg, TAKEOVER, ToClient, ToServer,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tests::programs::{Client, Options, Server, Successors, options};
use tests::services::Service;
use tests::sockets::{End, bounded, connect, finish, read_all, read_end};
use tests::visits::ping;
use tests::wait::until;

const E1: Epoch = Epoch(1);

fn server() -> Server {
    Server::start(options().threads(1).key("idle_conns", 1))
}

fn registration(name: &str, limits: TunnelLimits) -> ClientMsg {
    ClientMsg::RegisterTunnel { tunnel: TunnelId(1), public_port: 0, bind_addr: None, name: name.into(), limits }
}

/// A client by hand with a tunnel and an idle conn.
struct Stage {
    server: Server,
    client: RawClient,
    public: SocketAddr,
    conn: RawConn,
}

impl Stage {
    fn set() -> Self {
        Self::set_on(server())
    }

    #[track_caller]
    fn set_on(server: Server) -> Self {
        let mut client = RawClient::start(server.ctl());
        let public = client.tunnel(1);
        let conn = client.conn(server.proxy());
        Self { server, client, public, conn }
    }

    /// The last visitor leaves, and the server closes the session.
    #[track_caller]
    fn expect_last(&mut self, mut served: TcpStream) {
        finish(&served);
        self.server_fin(E1);
        self.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
        self.fin(E1, 0);
        self.done(E1);
        assert_eq!(read_all(&mut served), b"");
        self.client.expect_close(CloseCode::Stopping);
    }

    /// A visitor who has come, said `words`, and been handed to the conn.
    #[track_caller]
    fn visitor(&mut self, words: &[u8]) -> TcpStream {
        let mut visitor = connect(self.public);
        visitor.write_all(words).expect("send");
        self.started(words);
        visitor
    }

    #[track_caller]
    fn started(&mut self, words: &[u8]) {
        self.conn.start();
        if !words.is_empty() {
            assert_eq!(self.conn.wire.bytes(words.len()).expect("the visitor's words"), words);
        }
    }

    fn fin(&mut self, epoch: Epoch, total: u64) {
        self.end(epoch, total, How::Shut);
    }

    fn end(&mut self, epoch: Epoch, total: u64, how: How) {
        self.client.send(ClientMsg::Fin { conn: self.conn.id, epoch, total, how });
    }

    fn done(&mut self, epoch: Epoch) {
        self.client.send(ClientMsg::Done { conn: self.conn.id, epoch });
    }

    /// The server's next `Fin`, which says that the visitor has shut.
    #[track_caller]
    fn server_fin(&mut self, epoch: Epoch) -> u64 {
        let Fin { total, how } = self.server_end(epoch);
        assert_eq!(how, How::Shut);
        total
    }

    #[track_caller]
    fn server_end(&mut self, epoch: Epoch) -> Fin {
        let id = self.conn.id;
        self.client.find("the server's Fin", |msg| match msg {
            ServerMsg::Fin { conn, epoch: of, total, how } if (*conn, *of) == (id, epoch) => {
                Some(Fin { total: *total, how: *how })
            }
            _ => None,
        })
    }

    #[track_caller]
    fn server_abort(&mut self, epoch: Epoch) -> AbortCode {
        let id = self.conn.id;
        self.client.find("the server's Abort", |msg| match msg {
            ServerMsg::Abort { conn, epoch: of, code } if (*conn, *of) == (id, epoch) => Some(*code),
            _ => None,
        })
    }

    /// The session ends for a violation: everything of it goes, nothing of others.
    #[track_caller]
    fn expect_violation(mut self, visitor: Option<TcpStream>) {
        self.client.expect_close(CloseCode::Violation);
        if let Some(mut visitor) = visitor {
            assert_eq!(read_end(&mut visitor).1, End::Reset, "its visitors are reset");
        }
        until("its public port is closed", || TcpStream::connect(self.public).is_err());
        RawClient::start(self.server.ctl()).expect_alive();
    }
}

/// P-FRAME-2, P-FRAME-3, P-ENC-3, P-VIOL-1, P-VIOL-2, P-EVO-1: what is no message ends the session, whatever it is.
#[test]
fn what_is_no_message_ends_the_session() {
    let server = server();
    let words: [&[u8]; 6] = [&[0, 0], &[1, 2], &[0xff, 0xff], &[1, 0, 6], &[3, 0, 2, 0x80, 0], &[4, 0, 1, 1, 6, 0]];
    for word in words {
        let mut client = RawClient::start(server.ctl());
        client.wire.send_raw(word);
        client.expect_close(CloseCode::Violation);
    }
}

/// P-STATE-1: a handshake message in a session.
#[test]
fn a_second_hello_ends_the_session() {
    let server = server();
    let mut client = RawClient::start(server.ctl());
    client.wire.send(&client.identity.hello());
    client.expect_close(CloseCode::Violation);
}

/// P-VIOL-5: beside offenders of every kind an honest client is served without a pause.
#[test]
fn offenders_disturb_nobody() {
    let service = Service::echo();
    let server = server();
    let honest = Client::start(&server, options().tunnel(service.addr()));
    let mut visitor = honest.visit();
    for round in 0..30 {
        let mut client = RawClient::start(server.ctl());
        let public = client.tunnel(1);
        let mut conn = client.conn(server.proxy());
        let mut victim = connect(public);
        conn.start();
        match round % 3 {
            0 => conn.wire.send_raw(b"no frame"),
            1 => client.send(ClientMsg::Done { conn: conn.id, epoch: E1 }),
            _ => client.wire.send(&ToServer::Numbered { seq: 77, msg: ClientMsg::Drain }),
        }
        client.expect_close(CloseCode::Violation);
        assert_eq!(read_end(&mut victim).1, End::Reset);
        ping(&mut visitor, b"undisturbed");
        ping(&mut honest.visit(), b"and so are newcomers");
    }
}

/// P-STOP-1, P-STOP-2, P-END-1, P-END-2: `Drain` closes the ports and lets transfers go on; `Close` ends everything.
#[test]
fn a_client_leaves_in_two_steps() {
    let mut stage = Stage::set();
    let mut served = stage.visitor(b"served");
    let mut waits = connect(stage.public);
    waits.write_all(b"waits").expect("send");
    stage.client.send(ClientMsg::Drain);
    assert_eq!(read_end(&mut waits), (0, End::Reset));
    until("its port is closed", || TcpStream::connect(stage.public).is_err());
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"answer");
    served.read_exact(&mut [0; 6]).expect("it goes on");
    let mut idle = stage.client.conn(stage.server.proxy());
    idle.wire.finish();
    idle.wire.expect_end();
    stage.client.send(ClientMsg::ConnFailed { count: 1 });
    stage.client.expect_alive();
    stage.client.wire.send(&ToServer::Close { code: CloseCode::Bye });
    assert_eq!(read_end(&mut served), (0, End::Reset), "cut short");
    stage.conn.wire.expect_end();
    let identity = stage.client.identity.clone().resuming(stage.client.welcome.session, 0);
    let later = RawClient::with(stage.server.ctl(), &identity).expect("a new session");
    assert!(!later.welcome.resumed, "the old one has ended");
}

/// P-STOP-2: a client that has said `Drain` gets no more tunnels in that session, and a new session begins anew.
#[test]
fn a_tunnel_registered_after_drain_is_refused() {
    let mut stage = Stage::set();
    stage.client.send(ClientMsg::Drain);
    until("its port is closed", || TcpStream::connect(stage.public).is_err());
    for tunnel in [TunnelId(1), TunnelId(2)] {
        let limits = TunnelLimits::default();
        stage.client.send(ClientMsg::RegisterTunnel {
            tunnel,
            public_port: 0,
            bind_addr: None,
            name: String::new(),
            limits,
        });
        let code = stage.client.find("a refusal", |msg| match msg {
            ServerMsg::TunnelRefused { tunnel: of, code } if *of == tunnel => Some(*code),
            _ => None,
        });
        assert_eq!(code, TunnelRefusal::TooManyTunnels);
    }
    stage.client.expect_alive();
    RawClient::start(stage.server.ctl()).tunnel(1);
}

/// P-LEAVE-1, P-LEAVE-3, P-LEAVE-4, P-LEAVE-5: a server that is upgraded tells its clients so, lets transfers end, and leaves
/// a public port to the client that had it.
#[test]
fn a_server_is_upgraded_in_order() {
    let mut stage = Stage::set();
    let mut knows =
        RawClient::with(stage.server.ctl(), &Identity { features: LEAVE, ..Identity::new() }).expect("let in");
    let served = stage.visitor(b"served");
    let mut lost = connect(knows.tunnel(1));
    let mut successors = Successors::default();
    successors.take(&stage.server.upgrade());
    let upgraded = ServerMsg::Leave { code: LeaveCode::Upgraded };
    knows.find("Leave", |msg| (*msg == upgraded).then_some(()));
    stage.client.find("Drain", |msg| matches!(msg, ServerMsg::Drain).then_some(()));
    drop(knows);
    assert_eq!(read_end(&mut lost).1, End::Reset, "a session that was left ends with its ctl_conn");

    let port = |public_port| ClientMsg::RegisterTunnel {
        tunnel: TunnelId(1),
        public_port,
        bind_addr: None,
        name: "raw".into(),
        limits: TunnelLimits::default(),
    };
    let mut waiting = connect(stage.public);
    let mut other = RawClient::start(stage.server.ctl());
    other.send(port(stage.public.port()));
    let code = other.find("TunnelRefused", |msg| match msg {
        ServerMsg::TunnelRefused { code, .. } => Some(*code),
        _ => None,
    });
    assert_eq!(code, TunnelRefusal::PortInUse);
    let mut anew = RawClient::with(stage.server.ctl(), &stage.client.identity).expect("let in beside");
    anew.send(port(stage.public.port()));
    anew.find("TunnelReady", |msg| matches!(msg, ServerMsg::TunnelReady { .. }).then_some(()));
    waiting.write_all(b"waited").expect("send");
    let mut conn = anew.conn(stage.server.proxy());
    conn.start();
    assert_eq!(conn.wire.bytes(6).expect("the visitor's words"), b"waited");

    stage.expect_last(served);
    assert_eq!(stage.server.exit_code(), 0);
    anew.expect_alive();
}

/// P-STOP-3: a server that stops says so, refuses newcomers, and closes when transfers are over.
#[test]
fn a_server_stops_in_order() {
    let mut stage = Stage::set();
    let served = stage.visitor(b"served");
    stage.server.signal(nix::sys::signal::Signal::SIGTERM);
    stage.client.find("Drain", |msg| matches!(msg, ServerMsg::Drain).then_some(()));
    let newcomer = RawClient::with(stage.server.ctl(), &Identity::new());
    assert_eq!(newcomer.err(), Some(HandshakeRefusal::Stopping));
    stage.expect_last(served);
    assert_eq!(stage.server.stopped().finished, 1);
}

/// P-LIVE-1, P-LIVE-2: a silent client is pinged once, and given up.
#[test]
fn a_silent_client_is_pinged_and_given_up() {
    let brisk: Options = options().key("heartbeat_interval", 0.2).key("heartbeat_timeout", 0.6);
    let server = Server::start(brisk);
    let mut client = RawClient::start(server.ctl());
    let mut pings = 0;
    while let Some(message) = client.wire.next::<ToClient>() {
        pings += u32::from(matches!(message, ToClient::Ping { .. }));
    }
    assert_eq!(pings, 1);
}
