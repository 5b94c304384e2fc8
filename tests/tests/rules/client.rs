//! What the real client does with servers made by hand.

mod ends;
mod stale;

use super::peer::{RawServer, ServerConn, ServerEnd, fresh_session};
use protocol_sm::codes::{AbortCode, CloseCode, HandshakeRefusal, LeaveCode, RefuseCode, TunnelRefusal};
use protocol_sm::ids::{ConnId, Epoch, TunnelId};
use protocol_sm::routes::{Agreed, Secured};
use protocol_sm::transfer::How;
use protocol_sm::wire::{
    ClientMsg, ConnKind, HOSTS, LEAVE, Message, PATHS, PREFACE_LEN, Preface, ProxyToClient, ProxyToServer, Reply,
    SECURED, ServerHandshake, ServerHello, ServerMsg, TAKEOVER, ToClient, ToServer, UDP,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use tests::programs::{Client, Options, options};
use tests::services::{Refusing, Service};
use tests::sockets::{End, LOOPBACK, read_end};
use tests::wait::{PATIENCE, until};

const E1: Epoch = Epoch(1);

/// Comes back fast, and is patient otherwise: the servers here answer only what they are told to.
fn eager() -> Options {
    options().threads(1).key("reconnect_min", 0.02).key("reconnect_max", 0.2)
}

fn client(server: &RawServer, local: SocketAddr) -> Client {
    Client::spawn_alone(LOOPBACK, eager().tunnel(local).via(server.addr()))
}

/// A server by hand whose client has a tunnel and an idle conn. The service hands its connections to the test.
struct Stage {
    server: RawServer,
    client: Client,
    locals: Receiver<TcpStream>,
    _service: Service,
    end: ServerEnd,
    conn: ServerConn,
}

impl Stage {
    #[track_caller]
    fn set() -> Self {
        Self::set_with(eager())
    }

    #[track_caller]
    fn set_with(options: Options) -> Self {
        let (sender, locals) = channel();
        let service = Service::start(move |stream| {
            let _ = sender.send(stream);
        });
        let server = RawServer::start();
        let client = Client::spawn_alone(LOOPBACK, options.tunnel(service.addr()).via(server.addr()));
        let mut end = server.serve();
        let conn = server.accepted(&mut end);
        Self { server, client, locals, _service: service, end, conn }
    }

    fn start(&mut self, epoch: Epoch, words: &[u8]) {
        let mut bytes = Vec::new();
        start(epoch).encode_to(&mut bytes);
        bytes.extend_from_slice(words);
        self.conn.wire.send_raw(&bytes);
    }

    fn fin(&mut self, epoch: Epoch, total: u64) {
        self.end_by(epoch, total, How::Shut);
    }

    fn end_by(&mut self, epoch: Epoch, total: u64, how: How) {
        self.end.send(ServerMsg::Fin { conn: self.conn.id, epoch, total, how });
    }

    /// The service's end of the next local_conn.
    #[track_caller]
    fn local(&self) -> TcpStream {
        self.locals.recv_timeout(PATIENCE).expect("the client dials the service")
    }

    #[track_caller]
    fn expect_started(&mut self, epoch: Epoch) {
        assert_eq!(self.conn.wire.expect::<ProxyToServer>("Started"), ProxyToServer::Started { epoch });
    }

    #[track_caller]
    fn expect_msg(&mut self, expected: &ClientMsg) {
        assert_eq!(self.end.msg(&format!("{expected:?}")), *expected);
    }

    /// The session ends for a violation, and the client comes back with a new one.
    #[track_caller]
    fn expect_violation(mut self, local: Option<TcpStream>) {
        self.end.expect_close(CloseCode::Violation);
        if let Some(mut local) = local {
            assert_eq!(read_end(&mut local).1, End::Reset, "the service is reset");
        }
        let greeted = self.server.greet();
        assert_eq!(greeted.hello.resume, None, "nothing is resumed");
        assert!(self.client.is_running());
    }
}

fn start(epoch: Epoch) -> ProxyToClient {
    let [visitor, public] = [50_000, 6000].map(|port| SocketAddr::new(LOOPBACK, port));
    ProxyToClient::Start { epoch, tunnel: TunnelId(0), visitor, public }
}

/// P-PREF-1, P-AUTH-1, P-AUTH-2, P-ID-4, P-CONN-1: what a client says first, and what of it is new each time.
#[test]
fn a_client_introduces_itself() {
    let service = Service::echo();
    let server = RawServer::start();
    let client = client(&server, service.addr());
    let first = server.greet();
    assert!(
        !first.hello.token
            && first.hello.resume.is_none()
            && first.hello.features == (LEAVE | TAKEOVER | HOSTS | UDP | SECURED | PATHS)
    );
    let (nonce, id) = (first.hello.nonce, first.hello.client);
    drop(first);
    let second = server.greet();
    assert_ne!(second.hello.nonce, nonce, "a nonce is fresh");
    assert_eq!(second.hello.client, id, "a client stays who it is");
    assert!(client.is_running());
}

/// P-PREF-5: replies that are none.
#[test]
fn a_stranger_in_the_servers_place_is_left() {
    let service = Service::echo();
    let server = RawServer::start();
    let client = client(&server, service.addr());
    for reply in [b"HTTP/1.1", b"CPXYP\x01\x01\x01", b"CPXYC\x02\x01\x02"] {
        let mut greeted = server.greet();
        greeted.wire.send_raw(reply);
        greeted.wire.expect_end();
    }
    assert!(client.is_running(), "it tries again");
    server.serve().expect_alive();
}

/// P-PREF-3: a server with other versions is final.
#[test]
fn no_common_version_is_final() {
    let service = Service::echo();
    let server = RawServer::start();
    let client = client(&server, service.addr());
    server.greet().wire.send_raw(b"CPXYC\x00\x07\x09");
    assert_eq!(client.exit_code(), 2);
}

/// P-AUTH-8, P-EVO-2: a feature that was not offered.
#[test]
fn a_feature_that_was_not_offered_is_not_taken() {
    let service = Service::echo();
    let server = RawServer::start();
    let _client = client(&server, service.addr());
    let mut greeted = server.greet();
    greeted.hello_back(ServerHello { nonce: [1; 32], features: 4 });
    greeted.wire.expect_end();
    server.serve().expect_alive();
}

/// P-AUTH-11: out of turn before the session, the client hangs up and comes back.
#[test]
fn a_handshake_out_of_turn_is_hung_up_on() {
    let service = Service::echo();
    let server = RawServer::start();
    let _client = client(&server, service.addr());
    let need = ToClient::Numbered { seq: 1, msg: ServerMsg::NeedConn { count: 1 } };
    for word in [ToClient::Ping { received: 0 }, need] {
        let mut greeted = server.greet();
        greeted.wire.send_raw(&Reply::to(Preface::ours(ConnKind::Ctl)).encode());
        greeted.wire.send(&word);
        greeted.wire.expect_end();
    }
    server.serve().expect_alive();
}

/// P-REPL-4: refusals that pass are waited out.
#[test]
fn a_refusal_that_may_pass_is_tried_again() {
    let service = Service::echo();
    let server = RawServer::start();
    let client = client(&server, service.addr());
    for refusal in [HandshakeRefusal::IdentityInUse, HandshakeRefusal::Full, HandshakeRefusal::Stopping] {
        let mut challenged = server.greet().challenge();
        challenged.wire.send(&ToClient::Handshake(ServerHandshake::Refused(refusal)));
        challenged.wire.expect_end();
    }
    client.log_line("another client with the same identity");
    server.serve().expect_alive();
}

/// P-POOL-1, P-ID-2, P-PROXY-1: as many conns as were asked for, numbered from 1.
#[test]
fn conns_come_when_asked_for_and_are_numbered() {
    let service = Service::echo();
    let server = RawServer::start();
    let _client = client(&server, service.addr());
    let mut end = server.serve();
    end.send(ServerMsg::NeedConn { count: 3 });
    let mut numbers: Vec<_> = (0..3).map(|_| server.conn()).map(|(_, hello)| hello.conn.0).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3]);
    end.send(ServerMsg::NeedConn { count: 0 });
    end.expect_close(CloseCode::Violation);
}

/// P-POOL-2: a conn that does not come to be is told.
#[test]
fn a_conn_that_fails_is_counted() {
    let service = Service::echo();
    let server = RawServer::start();
    let _client = client(&server, service.addr());
    let mut end = server.serve();
    end.send(ServerMsg::NeedConn { count: 1 });
    drop(server.conn());
    assert_eq!(end.msg("ConnFailed"), ClientMsg::ConnFailed { count: 1 });
    end.send(ServerMsg::NeedConn { count: 1 });
    let (mut wire, _) = server.conn();
    wire.send_raw(&Reply::to(Preface::ours(ConnKind::Proxy)).encode());
    wire.send(&ProxyToClient::Refused(HandshakeRefusal::UnknownSession));
    assert_eq!(end.msg("ConnFailed"), ClientMsg::ConnFailed { count: 1 });
    end.expect_alive();
}

/// P-PROXY-4: whoever cannot prove the session in `Accepted` is no server of ours.
#[test]
fn a_wrong_proof_on_a_conn_ends_the_session() {
    let service = Service::echo();
    let server = RawServer::start();
    let _client = client(&server, service.addr());
    let mut end = server.serve();
    end.send(ServerMsg::NeedConn { count: 1 });
    let (mut wire, hello) = server.conn();
    wire.send_raw(&Reply::to(Preface::ours(ConnKind::Proxy)).encode());
    wire.send(&ProxyToClient::Accepted { proof: hello.proof });
    end.expect_close(CloseCode::Violation);
}

/// P-PROXY-7, P-FIN-6: a `Fin` that overtakes even `Accepted` is kept.
#[test]
fn a_fin_may_overtake_the_conns_acceptance() {
    let (sender, locals) = channel();
    let service = Service::start(move |stream| drop(sender.send(stream)));
    let server = RawServer::start();
    let _client = client(&server, service.addr());
    let mut end = server.serve();
    end.send(ServerMsg::NeedConn { count: 1 });
    let (mut wire, hello) = server.conn();
    end.send(ServerMsg::Fin { conn: hello.conn, epoch: E1, total: 4, how: How::Shut });
    end.expect_alive();
    end.accept(&mut wire, &hello);
    let mut bytes = Vec::new();
    start(E1).encode_to(&mut bytes);
    bytes.extend_from_slice(b"word");
    wire.send_raw(&bytes);
    let mut local = locals.recv_timeout(PATIENCE).expect("the client dials the service");
    assert_eq!(tests::sockets::read_all(&mut local), b"word", "and its end");
}

/// P-POOL-6, P-XFER-3: a ping is answered, and what is owed goes before `Started`.
#[test]
fn a_pong_goes_first() {
    let mut stage = Stage::set();
    let mut bytes = Vec::new();
    for message in [ProxyToClient::Ping, start(E1)] {
        message.encode_to(&mut bytes);
    }
    stage.conn.wire.send_raw(&bytes);
    for expected in [ProxyToServer::Pong, ProxyToServer::Started { epoch: E1 }] {
        assert_eq!(stage.conn.wire.expect::<ProxyToServer>("an answer"), expected);
    }
}

/// P-XFER-4, P-FIN-1, P-FIN-7, P-DONE-1, P-DONE-5: a visit by the book, the service's half first, and the conn again.
#[test]
fn a_visit_goes_by_the_book_twice() {
    let mut stage = Stage::set();
    for epoch in [1, 2].map(Epoch) {
        let conn = stage.conn.id;
        stage.start(epoch, b"que");
        stage.expect_started(epoch);
        let mut local = stage.local();
        local.write_all(b"answer").unwrap();
        tests::sockets::finish(&local);
        assert_eq!(stage.conn.wire.bytes(6).unwrap(), b"answer");
        stage.expect_msg(&ClientMsg::Fin { conn, epoch, total: 6, how: How::Shut });
        // The other half goes on.
        stage.conn.wire.send_raw(b"stion");
        stage.fin(epoch, 8);
        assert_eq!(tests::sockets::read_all(&mut local), b"question");
        stage.expect_msg(&ClientMsg::Done { conn, epoch });
    }
}

/// P-XFER-1, P-XFER-13, P-STATE-2: a `Start` out of turn, and messages that have no place on an idle conn.
#[test]
fn an_idle_conn_takes_only_the_next_start() {
    let secured = || ProxyToClient::Secured(Box::new(Secured { host: None, agreed: Some(Agreed::Http1) }));
    let other: [&dyn Fn(&mut Stage); 7] = [
        &|stage| [secured(), ProxyToClient::Ping].iter().for_each(|message| stage.conn.wire.send(message)),
        &|stage| [secured(), secured()].iter().for_each(|message| stage.conn.wire.send(message)),
        &|stage| stage.start(Epoch(2), b""),
        &|stage| stage.start(Epoch(0), b""),
        &|stage| stage.conn.wire.send(&ProxyToClient::Accepted { proof: [0; 32] }),
        &|stage| stage.conn.wire.send(&ProxyToClient::Refused(HandshakeRefusal::Full)),
        &|stage| stage.conn.wire.send_raw(b"GET / HTTP/1.1\r\n"),
    ];
    for wrong in other {
        let mut stage = Stage::set();
        wrong(&mut stage);
        stage.expect_violation(None);
    }
}

/// P-FIN-5: a `Fin` below what came, a second one, one for a transfer that is not the next.
#[test]
fn totals_are_kept_to() {
    let mut stage = Stage::set();
    stage.start(E1, b"six bytes too many");
    let mut local = stage.local();
    local.read_exact(&mut [0; 18]).unwrap();
    stage.fin(E1, 12);
    stage.expect_violation(Some(local));

    let mut stage = Stage::set();
    stage.fin(E1, 12);
    stage.fin(E1, 12);
    stage.expect_violation(None);

    let mut stage = Stage::set();
    stage.fin(Epoch(2), 0);
    stage.expect_violation(None);
}

/// P-FIN-4: what lies behind the total is not the service's.
#[test]
fn nothing_beyond_the_total_reaches_the_service() {
    let mut stage = Stage::set();
    stage.fin(E1, 5);
    stage.end.expect_alive();
    // The event loop answers this after it has heard of the total.
    stage.conn.wire.send(&ProxyToClient::Ping);
    assert_eq!(stage.conn.wire.expect::<ProxyToServer>("Pong"), ProxyToServer::Pong);
    stage.start(E1, b"exact");
    let mut local = stage.local();
    stage.conn.wire.send_raw(b"and much more");
    let mut words = Vec::new();
    let _ = local.read_to_end(&mut words);
    assert!(b"exact".starts_with(&words), "{words:?}");
}

/// P-REF-1, P-REF-3: a refused visitor's bytes are taken and given to nobody, and the conn is used again.
#[test]
fn a_refusal_goes_by_the_book() {
    let refusing = Refusing::reserve();
    let server = RawServer::start();
    let _client = client(&server, refusing.addr());
    let mut end = server.serve();
    let mut conn = server.accepted(&mut end);
    for epoch in [1, 2].map(Epoch) {
        let id = conn.id;
        let mut bytes = Vec::new();
        start(epoch).encode_to(&mut bytes);
        bytes.extend_from_slice(b"abc");
        conn.wire.send_raw(&bytes);
        let refused = ProxyToServer::Refused { epoch, code: RefuseCode::ConnectionRefused };
        assert_eq!(conn.wire.expect::<ProxyToServer>("Refused"), refused);
        conn.wire.send_raw(b"def");
        end.expect_alive();
        end.send(ServerMsg::Fin { conn: id, epoch, total: 6, how: How::Shut });
        assert_eq!(end.msg("Done, and no Fin"), ClientMsg::Done { conn: id, epoch });
    }
    let visitor = SocketAddr::new(LOOPBACK, 1);
    let made_up = ProxyToClient::Start { epoch: Epoch(3), tunnel: TunnelId(9), visitor, public: visitor };
    conn.wire.send(&made_up);
    let refused = ProxyToServer::Refused { epoch: Epoch(3), code: RefuseCode::UnknownTunnel };
    assert_eq!(conn.wire.expect::<ProxyToServer>("Refused"), refused);
}

/// P-ABORT-1, P-ABORT-2, P-ABORT-4: either side's abort ends the conn, with a reset and without an echo.
#[test]
fn aborts_reset_and_are_not_answered() {
    let mut stage = Stage::set();
    let conn = stage.conn.id;
    stage.start(E1, b"x");
    let mut local = stage.local();
    stage.expect_started(E1);
    stage.end.send(ServerMsg::Abort { conn, epoch: E1, code: AbortCode::OuterReset });
    assert_eq!(read_end(&mut local), (1, End::Reset));
    stage.conn.wire.expect_end();
    let heard = stage.end.heard;
    stage.end.expect_alive();
    assert_eq!(stage.end.heard, heard, "an abort is not answered");

    let mut stage = Stage::set();
    let conn = stage.conn.id;
    stage.start(E1, b"x");
    let mut local = stage.local();
    stage.conn.wire.finish();
    stage.expect_msg(&ClientMsg::Abort { conn, epoch: E1, code: AbortCode::ConnLost });
    assert_eq!(read_end(&mut local).1, End::Reset);
}

/// P-ABORT-6, P-STATE-3: an abort that overtook its `Start` closes the conn; messages about it are stale from then on.
#[test]
fn an_abort_may_overtake_its_start() {
    let mut stage = Stage::set();
    let conn = stage.conn.id;
    stage.end.send(ServerMsg::Abort { conn, epoch: E1, code: AbortCode::ConnLost });
    stage.conn.wire.expect_end();
    stage.fin(E1, 0);
    stage.end.send(ServerMsg::Abort { conn, epoch: Epoch(9), code: AbortCode::ConnLost });
    stage.end.expect_alive();
    // About a conn that never was, it is a violation.
    stage.end.send(ServerMsg::Fin { conn: ConnId(77), epoch: E1, total: 0, how: How::Shut });
    stage.expect_violation(None);
}

/// P-POOL-9: a conn that the server closes while it is idle is forgotten without a word.
#[test]
fn an_idle_conn_may_be_closed() {
    let mut stage = Stage::set();
    let heard = stage.end.heard;
    stage.conn.wire.finish();
    stage.conn.wire.expect_end();
    stage.end.expect_alive();
    assert_eq!(stage.end.heard, heard, "nothing is said about it");
    let again = stage.server.accepted(&mut stage.end);
    assert_eq!(again.id, ConnId(2), "its number is not used again");
}

/// P-TUN-1, P-TUN-4: a tunnel that is refused for now is registered again; an answer to nothing is a violation.
#[test]
fn a_tunnel_is_registered_until_it_is_ready() {
    let service = Service::echo();
    let server = RawServer::start();
    let client = client(&server, service.addr());
    let mut end = server.welcome();
    for _ in 0..2 {
        let ClientMsg::RegisterTunnel { tunnel, .. } = end.msg("RegisterTunnel") else { panic!("RegisterTunnel") };
        end.send(ServerMsg::TunnelRefused { tunnel, code: TunnelRefusal::PortInUse });
    }
    end.register();
    client.forwarding_after(0, &service.addr().to_string());
    end.send(ServerMsg::TunnelReady { tunnel: TunnelId(0), public: SocketAddr::new(LOOPBACK, 6000) });
    end.expect_close(CloseCode::Violation);
}

/// P-SESS-3, P-SESS-4, P-FRAME-2, P-VIOL-1, P-VIOL-6: what no honest server sends ends the session, not the client.
#[test]
fn nonsense_ends_the_session_and_not_the_client() {
    let service = Service::echo();
    let server = RawServer::start();
    let client = client(&server, service.addr());
    let wrongs: [&dyn Fn(&mut ServerEnd); 6] = [
        &|end| end.wire.send(&ToClient::Numbered { seq: 9, msg: ServerMsg::Drain }),
        &|end| end.wire.send(&ToClient::Ack { received: 1_000_000 }),
        &|end| end.wire.send_raw(&[0, 0]),
        &|end| end.wire.send_raw(&[1, 2]),
        &|end| end.wire.send_raw(&[1, 0, 9]),
        &|end| end.wire.send(&ToClient::Handshake(ServerHandshake::Refused(HandshakeRefusal::Full))),
    ];
    for wrong in wrongs {
        let mut end = server.serve();
        wrong(&mut end);
        end.expect_close(CloseCode::Violation);
    }
    assert!(client.is_running());
}

/// P-SESS-2, P-SESS-6, P-SESS-8: replays are ignored, and 64 messages are acknowledged without being asked about.
#[test]
fn the_client_counts_too() {
    let mut stage = Stage::set();
    let (conn, wire) = (stage.conn.id, &mut stage.end.wire);
    let stale = || ServerMsg::Abort { conn, epoch: Epoch(0), code: AbortCode::Deadline };
    // As a message it would open a conn.
    wire.send(&ToClient::Numbered { seq: 1, msg: ServerMsg::NeedConn { count: 5 } });
    for _ in 0..64 {
        stage.end.send(stale());
    }
    let ServerEnd { wire, heard, sent, .. } = &mut stage.end;
    let received = wire.find("an Ack", |wire, message| match message {
        ToServer::Ack { received } => Some(received),
        ToServer::Numbered { .. } => None,
        ToServer::Ping { .. } => {
            wire.send(&ToClient::Pong { received: *heard });
            None
        }
        other => panic!("expected an Ack, found {other:?}"),
    });
    assert!(received >= 64 && received <= *sent, "{received} of {sent}");
    stage.end.expect_alive();
}

/// P-RES-1, P-RES-3, P-RES-5, P-TUN-3: a lost ctl_conn is resumed with what was heard; a server that knows nothing of
/// the session gets everything anew.
#[test]
fn a_lost_ctl_conn_is_resumed_or_begun_anew() {
    let mut stage = Stage::set();
    stage.start(E1, b"x");
    stage.expect_started(E1);
    let mut local = stage.local();
    let (session, sent, heard) = (stage.end.session, stage.end.sent, stage.end.heard);
    stage.end.wire.finish();
    let Stage { server, conn, .. } = &mut stage;
    let greeted = server.greet();
    let resume = greeted.hello.resume.expect("it asks for its session");
    assert_eq!((resume.session, resume.received), (session, sent));
    // As if this server had not got the client's last message: it comes again, with its number.
    let mut end = greeted.challenge().welcome(session, true, heard - 1);
    let replayed = end.msg("the last message again");
    assert_eq!((end.heard, &replayed), (heard, &replayed));
    // The transfer has gone on.
    local.write_all(b"still here").unwrap();
    assert_eq!(conn.wire.bytes(10).unwrap(), b"still here");

    end.wire.finish();
    let mut end = server.greet().challenge().welcome(fresh_session(), false, 0);
    assert_eq!(read_end(&mut local).1, End::Reset, "nothing of the old session is left");
    conn.wire.expect_end();
    let ClientMsg::RegisterTunnel { public_port, .. } = end.register() else { panic!("RegisterTunnel") };
    assert_eq!(public_port, 6000, "the port that was picked last time");
    assert_eq!(server.accepted(&mut end).id, ConnId(1), "numbers begin anew");
}

/// P-RES-6: after its grace the client gives the session up.
#[test]
fn a_session_is_not_resumed_after_its_grace() {
    let (sender, locals) = channel();
    let service = Service::start(move |stream| drop(sender.send(stream)));
    let server = RawServer::start();
    let hasty = eager().key("session_grace", 0.3).key("transfer_grace", 0.3).tunnel(service.addr()).via(server.addr());
    let _client = Client::spawn_alone(LOOPBACK, hasty);
    let mut end = server.serve();
    let mut conn = server.accepted(&mut end);
    conn.wire.send(&start(E1));
    let mut local = locals.recv_timeout(PATIENCE).expect("the client dials the service");
    end.wire.finish();
    // Nobody answers until the session is over.
    assert_eq!(read_end(&mut local).1, End::Reset);
    until("it asks for nothing any more", || server.greet().hello.resume.is_none());
}

/// P-REPL-3: a client that was replaced does not fight for its place.
#[test]
fn a_replaced_client_ends() {
    let mut stage = Stage::set();
    stage.end.wire.send(&ToClient::Close { code: CloseCode::Replaced });
    assert_eq!(stage.client.exit_code(), 1);
}

/// P-STOP-4, P-END-1: a server that drains is served on; after its `Close` the client comes back.
#[test]
fn a_server_that_stops_is_waited_for() {
    let mut stage = Stage::set();
    stage.end.send(ServerMsg::Drain);
    stage.start(E1, b"last");
    let mut local = stage.local();
    local.read_exact(&mut [0; 4]).unwrap();
    stage.end.wire.send(&ToClient::Close { code: CloseCode::Stopping });
    assert_eq!(read_end(&mut local).1, End::Reset);
    let greeted = stage.server.greet();
    assert_eq!(greeted.hello.resume, None);
}

/// P-LEAVE-2, P-LEAVE-3, P-LEAVE-4: a client that is told to leave begins another session beside the one that it has, and
/// serves that to its end.
#[test]
fn a_client_that_is_told_to_leave_begins_another_session_beside() {
    let mut stage = Stage::set();
    stage.start(E1, b"first");
    let mut local = stage.local();
    stage.end.send(ServerMsg::Leave { code: LeaveCode::Upgraded });
    let mut beside = stage.server.serve();
    let next = stage.server.accepted(&mut beside);
    assert_eq!(next.id, ConnId(1), "it is another session");
    stage.expect_started(E1);
    stage.conn.wire.send_raw(b" and last");
    let mut words = [0; 14];
    local.read_exact(&mut words).expect("the transfer goes on");
    assert_eq!(&words, b"first and last");
    stage.end.send(ServerMsg::NeedConn { count: 2 });
    stage.expect_msg(&ClientMsg::ConnFailed { count: 2 });
    stage.end.send(ServerMsg::TunnelClosed { tunnel: TunnelId(0), code: TunnelRefusal::Closed });
    stage.end.expect_alive();
    stage.fin(E1, 14);
    assert_eq!(read_end(&mut local).1, End::Clean);
    drop(local);
    stage.expect_msg(&ClientMsg::Fin { conn: stage.conn.id, epoch: E1, total: 0, how: How::Shut });
    stage.expect_msg(&ClientMsg::Done { conn: stage.conn.id, epoch: E1 });
    // It is used again, and lost with its ctl_conn.
    stage.start(Epoch(2), b"");
    let mut local = stage.local();
    drop(stage.end);
    assert_eq!(read_end(&mut local).1, End::Reset);
    beside.expect_alive();
    assert!(stage.client.is_running());
}

/// P-LEAVE-2: a client that stops anyway does not come to the next process for that.
#[test]
fn a_client_that_stops_begins_no_other_session() {
    let mut stage = Stage::set();
    stage.start(E1, b"last");
    let mut local = stage.local();
    stage.expect_started(E1);
    stage.client.signal(nix::sys::signal::Signal::SIGTERM);
    stage.expect_msg(&ClientMsg::Drain);
    stage.end.send(ServerMsg::Leave { code: LeaveCode::Upgraded });
    stage.end.expect_alive();
    stage.fin(E1, 4);
    local.read_exact(&mut [0; 4]).expect("the transfer goes on");
    tests::sockets::finish(&local);
    let conn = stage.conn.id;
    stage.expect_msg(&ClientMsg::Fin { conn, epoch: E1, total: 0, how: How::Shut });
    stage.expect_msg(&ClientMsg::Done { conn, epoch: E1 });
    stage
        .end
        .wire
        .find("Close(Bye)", |_, message| matches!(message, ToServer::Close { code: CloseCode::Bye }).then_some(()));
    assert!(stage.server.nobody_waits(), "it has come anew");
}

/// P-STOP-1: a client that stops drains, says goodbye, and leaves its conns open until the server has closed.
#[test]
fn a_client_stops_in_order() {
    let mut stage = Stage::set();
    stage.start(E1, b"");
    stage.expect_started(E1);
    let local = stage.local();
    stage.client.signal(nix::sys::signal::Signal::SIGTERM);
    stage.expect_msg(&ClientMsg::Drain);
    let conn = stage.conn.id;
    stage.fin(E1, 0);
    tests::sockets::finish(&local);
    stage.expect_msg(&ClientMsg::Fin { conn, epoch: E1, total: 0, how: How::Shut });
    stage.expect_msg(&ClientMsg::Done { conn, epoch: E1 });
    let code = stage.end.wire.find("Close", |_, message| match message {
        ToServer::Close { code } => Some(code),
        ToServer::Ping { .. } | ToServer::Pong { .. } | ToServer::Ack { .. } => None,
        other => panic!("expected Close, found {other:?}"),
    });
    assert_eq!(code, CloseCode::Bye);
    stage.end.wire.finish();
    stage.conn.wire.expect_end();
    assert_eq!(stage.client.stopped().finished, 1);
}

/// P-LIVE-1, P-LIVE-2: a silent server is pinged once and given up; the session is resumed elsewhere.
#[test]
fn a_silent_server_is_pinged_and_given_up() {
    let mut stage = Stage::set_with(eager().key("heartbeat_interval", 0.3).key("heartbeat_timeout", 2));
    let session = stage.end.session;
    let mut pings = 0;
    while let Some(message) = stage.end.wire.next::<ToServer>() {
        pings += u32::from(matches!(message, ToServer::Ping { .. }));
    }
    assert_eq!(pings, 1);
    let resume = stage.server.greet().hello.resume.expect("it asks for its session");
    assert_eq!(resume.session, session);
}

/// P-PREF-6, P-PROXY-5: the conn's hello comes with the preface, and nothing more before it is accepted.
#[test]
fn a_conn_waits_for_its_acceptance() {
    let service = Service::echo();
    let server = RawServer::start();
    let _client = client(&server, service.addr());
    let mut end = server.serve();
    end.send(ServerMsg::NeedConn { count: 1 });
    let (mut wire, hello) = server.conn();
    end.expect_alive();
    end.accept(&mut wire, &hello);
    wire.send(&ProxyToClient::Ping);
    assert_eq!(wire.expect::<ProxyToServer>("the first answer"), ProxyToServer::Pong);
    assert_eq!(Preface::ours(ConnKind::Proxy).encode().len(), PREFACE_LEN);
}
