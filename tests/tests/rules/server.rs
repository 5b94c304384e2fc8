//! What the real server does with clients made by hand.

mod ends;
mod stale;

use super::peer::{Asked, Identity, RawClient, RawConn, Wire};
use protocol_sm::codes::{AbortCode, CloseCode, HandshakeRefusal, RefuseCode, TunnelRefusal};
use protocol_sm::ids::{ConnId, Epoch, SessionId, TunnelId};
use protocol_sm::settings::TunnelLimits;
use protocol_sm::sources::SourceLists;
use protocol_sm::transfer::{Fin, How};
use protocol_sm::wire::{
    ClientHandshake, ClientMsg, ConnHello, ConnKind, Message, PREFACE_LEN, Preface, ProxyToClient, ProxyToServer,
    Reply, ServerMsg, ToClient, ToServer,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::{End, bounded, connect, finish, read_all, read_end};
use tests::visits::ping;
use tests::wait::until;

const E1: Epoch = Epoch(1);

fn server() -> Server {
    Server::start(options().threads(1).key("idle_conns", 1))
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

/// P-PREF-2, P-PREF-3: the highest version in common, or a word about which there are.
#[test]
fn versions_are_chosen_or_refused() {
    let server = server();
    for (to, kind) in [(server.ctl(), ConnKind::Ctl), (server.proxy(), ConnKind::Proxy)] {
        let newer = Preface { port: kind, min: 2, max: 3 };
        let mut wire = Wire::connect(to);
        wire.send_raw(&newer.encode());
        assert_eq!(wire.bytes(PREFACE_LEN).expect("a reply"), Reply::to(newer).encode());
        wire.expect_end();
    }
    let range = Preface { port: ConnKind::Ctl, min: 1, max: 200 };
    let mut wire = Wire::connect(server.ctl());
    wire.send_raw(&range.encode());
    assert_eq!(wire.bytes(PREFACE_LEN).expect("a reply"), *b"CPXYC\x01\x01\x01");
}

/// P-PREF-4, P-CONN-2: a connection of the other kind is a stranger.
#[test]
fn each_port_takes_its_own_kind_only() {
    let server = server();
    for (to, kind) in [(server.ctl(), ConnKind::Proxy), (server.proxy(), ConnKind::Ctl)] {
        let mut wire = Wire::connect(to);
        wire.send_raw(&Preface::ours(kind).encode());
        wire.expect_end();
    }
}

/// P-PREF-6: a client that waits for the reply before it says hello gets none on a proxy_conn, only the deadline.
#[test]
fn a_proxy_conn_without_a_hello_is_not_answered() {
    let server = Server::start(options().key("handshake_timeout", 0.3));
    let mut wire = Wire::connect(server.proxy());
    wire.send_raw(&Preface::ours(ConnKind::Proxy).encode());
    wire.expect_end();
}

/// P-AUTH-1, P-ID-1, P-ID-3: nonces and sessions are new every time.
#[test]
fn nothing_random_is_used_twice() {
    let server = server();
    let nonces = [(), ()].map(|()| Asked::ask(server.ctl(), &Identity::new()).expect("asked").server_hello.nonce);
    assert_ne!(nonces[0], nonces[1]);
    let sessions = [(), ()].map(|()| RawClient::start(server.ctl()).welcome.session);
    assert_ne!(sessions[0], sessions[1]);
}

/// P-AUTH-4, P-AUTH-7: whoever has the wrong token, or one too many, or none, is told so.
#[test]
fn tokens_must_match() {
    let open = server();
    let unexpected = Identity::new().with_token("one");
    assert_eq!(RawClient::with(open.ctl(), &unexpected).err(), Some(HandshakeRefusal::TokenUnexpected));
    let locked = Server::start(options().env("CPROXY_TOKEN", "right"));
    assert_eq!(RawClient::with(locked.ctl(), &Identity::new()).err(), Some(HandshakeRefusal::TokenRequired));
    let wrong = Identity::new().with_token("wrong");
    assert_eq!(RawClient::with(locked.ctl(), &wrong).err(), Some(HandshakeRefusal::WrongToken));
    RawClient::with(locked.ctl(), &Identity::new().with_token("right")).expect("let in").expect_alive();
}

/// P-AUTH-11, P-VIOL-3: out of turn before the session, nothing is answered.
#[test]
fn a_handshake_out_of_turn_is_hung_up_on() {
    let server = server();
    let drain = ToServer::Numbered { seq: 1, msg: ClientMsg::Drain };
    let proof = ToServer::Handshake(ClientHandshake::Proof([0; 32]));
    for first in [&ToServer::Ping { received: 0 }, &drain, &proof, &ToServer::Close { code: CloseCode::Bye }] {
        let mut wire = Wire::connect(server.ctl());
        wire.send_raw(&Preface::ours(ConnKind::Ctl).encode());
        wire.send(first);
        assert!(wire.bytes(PREFACE_LEN).is_some(), "the preface was good");
        wire.expect_end();
    }
    let mut wire = Wire::connect(server.ctl());
    wire.send_raw(&Preface::ours(ConnKind::Ctl).encode());
    wire.send(&Identity::new().hello());
    assert!(wire.bytes(PREFACE_LEN).is_some());
    let _: ToClient = wire.expect("the server's hello");
    wire.send(&Identity::new().hello());
    wire.expect_end();
}

/// P-PROXY-1, P-PROXY-2, P-PROXY-3: a conn's number opens it once, in any order, and only its own session's key does.
#[test]
fn a_conn_proves_its_session_once() {
    let server = server();
    let (mut one, mut other) = (RawClient::start(server.ctl()), RawClient::start(server.ctl()));
    let hello = |client: &RawClient, n| client.key.hello(client.welcome.session, ConnId(n));
    let proxy = server.proxy();
    let _third = one.conn_as(proxy, &hello(&one, 3)).expect("numbers may arrive in any order");
    let _first = one.conn_as(proxy, &hello(&one, 1)).expect("numbers may arrive in any order");
    assert_eq!(one.conn_as(proxy, &hello(&one, 3)).err(), Some(HandshakeRefusal::ReplayedConn));
    assert_eq!(one.conn_as(proxy, &hello(&one, 0)).err(), Some(HandshakeRefusal::ReplayedConn));
    assert_eq!(one.conn_as(proxy, &hello(&one, 1 << 40)).err(), Some(HandshakeRefusal::ReplayedConn));
    let foreign = ConnHello { session: other.welcome.session, ..hello(&one, 4) };
    assert_eq!(one.conn_as(proxy, &foreign).err(), Some(HandshakeRefusal::WrongToken));
    let unknown = ConnHello { session: SessionId([0; 16]), ..hello(&one, 4) };
    assert_eq!(one.conn_as(proxy, &unknown).err(), Some(HandshakeRefusal::UnknownSession));
    one.expect_alive();
    other.expect_alive();
}

/// P-PROXY-5: more than the hello, and the conn is not taken.
#[test]
fn nothing_may_follow_a_conns_hello() {
    let server = server();
    let mut client = RawClient::start(server.ctl());
    let mut wire = Wire::connect(server.proxy());
    let mut bytes = Preface::ours(ConnKind::Proxy).encode().to_vec();
    let hello = client.key.hello(client.welcome.session, ConnId(1));
    protocol_sm::wire::Message::encode_to(&ProxyToServer::Hello(hello), &mut bytes);
    bytes.push(1);
    wire.send_raw(&bytes);
    wire.expect_end();
    client.expect_alive();
}

/// P-SESS-2, P-SESS-3, P-SESS-8: a replay is ignored, a gap is a violation, a ping is answered.
#[test]
fn numbers_have_no_gaps() {
    let server = server();
    let mut client = RawClient::start(server.ctl());
    let register = || registration("", TunnelLimits::default());
    client.send(register());
    // As a message it would be a violation: the tunnel is registered.
    client.wire.send(&ToServer::Numbered { seq: 1, msg: register() });
    client.expect_alive();
    for seq in [3, 0, u64::MAX] {
        let mut client = RawClient::start(server.ctl());
        client.send(ClientMsg::CloseTunnel { tunnel: TunnelId(9) });
        client.wire.send(&ToServer::Numbered { seq, msg: register() });
        client.expect_close(CloseCode::Violation);
    }
}

/// P-SESS-4: an acknowledgement of something never sent, or one that is taken back.
#[test]
fn acknowledgements_are_true() {
    let server = server();
    let mut client = RawClient::start(server.ctl());
    client.wire.send(&ToServer::Ack { received: 1000 });
    client.expect_close(CloseCode::Violation);
    let mut client = RawClient::start(server.ctl());
    client.tunnel(1);
    let heard = client.heard;
    client.wire.send(&ToServer::Ack { received: heard });
    client.wire.send(&ToServer::Pong { received: heard - 1 });
    client.expect_close(CloseCode::Violation);
}

/// P-SESS-6: 64 messages are acknowledged without being asked about.
#[test]
fn many_messages_are_acknowledged() {
    let server = server();
    let mut client = RawClient::start(server.ctl());
    for _ in 0..64 {
        client.send(ClientMsg::CloseTunnel { tunnel: TunnelId(9) });
    }
    let received = client.wire.find("an Ack", |_, message| match message {
        ToClient::Ack { received } => Some(received),
        ToClient::Numbered { .. } => None,
        other => panic!("expected an Ack, found {other:?}"),
    });
    assert_eq!(received, 64);
}

/// P-RES-2, P-RES-3, P-RES-4, P-AUTH-9, P-SESS-1, P-SESS-5: a resume replays what was not acknowledged, with its old
/// numbers, and changes nothing else; an old ctl_conn that still seems up is closed.
#[test]
fn a_resume_replays_and_keeps_everything() {
    let mut stage = Stage::set();
    let visitor = stage.visitor(b"before");
    finish(&visitor);
    stage.server_fin(E1);
    let (heard, session) = (stage.client.heard, stage.client.welcome.session);
    // As if the last message, the Fin, had been lost.
    let identity = stage.client.identity.clone().resuming(session, heard - 1);
    let resumed = RawClient::with(stage.server.ctl(), &identity).expect("resumed");
    assert!(resumed.welcome.resumed && resumed.welcome.session == session);
    assert_eq!(resumed.welcome.received, stage.client.sent);
    stage.client.expect_lost();
    let key = stage.client.key.clone();
    stage.client = resumed;
    stage.client.key = key;
    assert_eq!(stage.server_fin(E1), 6, "told again");
    assert_eq!(stage.client.heard, heard, "with its old number");

    // The transfer goes on, and so do the tunnel and the key of the first handshake.
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"after");
    stage.fin(E1, 5);
    stage.done(E1);
    let mut visitor = visitor;
    assert_eq!(read_all(&mut visitor), b"after");
    let hello = stage.client.key.hello(session, ConnId(2));
    stage.client.conn_as(stage.server.proxy(), &hello).expect("the session's first key");
}

/// P-RES-3, P-RES-5: a resume with numbers that cannot be ends the session; a new one begins.
#[test]
fn a_resume_with_impossible_numbers_begins_anew() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"x");
    let session = stage.client.welcome.session;
    let identity = stage.client.identity.clone().resuming(session, 1_000_000);
    let anew = RawClient::with(stage.server.ctl(), &identity).expect("a new session");
    assert!(!anew.welcome.resumed && anew.welcome.session != session && anew.welcome.received == 0);
    assert_eq!(read_end(&mut visitor).1, End::Reset);
}

/// P-RES-5, P-REPL-1: a session that nobody knows is not resumed; P-PROXY-6 and P-TUN-7: without a ctl_conn it lives on.
#[test]
fn a_session_without_a_ctl_conn_goes_on_until_it_is_replaced() {
    let server = server();
    let lost = Identity::new().resuming(SessionId([3; 16]), 7);
    assert!(!RawClient::with(server.ctl(), &lost).expect("a new session").welcome.resumed);

    let mut stage = Stage::set_on(server);
    let identity = stage.client.identity.clone();
    stage.client.wire.finish();
    stage.client.expect_lost();
    let hello = stage.client.key.hello(stage.client.welcome.session, ConnId(2));
    stage.client.conn_as(stage.server.proxy(), &hello).expect("a conn without a ctl_conn");
    let mut visitor = connect(stage.public);
    let _ = visitor.write_all(b"still open");

    let anew = RawClient::with(stage.server.ctl(), &identity).expect("replaced at once");
    assert!(!anew.welcome.resumed);
    assert_eq!(read_end(&mut visitor).1, End::Reset);
    assert!(stage.client.conn_as(stage.server.proxy(), &hello).is_err(), "the old session is gone");
}

/// P-REPL-2, P-REPL-5: a ctl_conn that answers keeps its session; one that does not loses it.
#[test]
fn a_newcomer_replaces_only_the_dead() {
    let server = server();
    let mut old = RawClient::start(server.ctl());
    let newcomer = Asked::ask(server.ctl(), &old.identity).expect("asked");
    let third = Asked::ask(server.ctl(), &old.identity).expect("asked").answer();
    assert_eq!(third.err(), Some(HandshakeRefusal::IdentityInUse), "one newcomer at a time");
    old.expect_alive();
    assert_eq!(newcomer.answer().err(), Some(HandshakeRefusal::IdentityInUse));
    // Now it says nothing, whatever it is asked.
    RawClient::with(server.ctl(), &old.identity).expect("replaces it").expect_alive();
    old.expect_close(CloseCode::Replaced);
}

/// P-REPL-5: with another token there is no replacing, and no blocking either, whether the session has a ctl_conn or not.
#[test]
fn another_tokens_holder_replaces_nobody() {
    let tables = "[[clients]]\nname = \"a\"\ntoken = \"token a\"\n[[clients]]\nname = \"b\"\ntoken = \"token b\"\n";
    let server = Server::start(options().tables(tables));
    let identity = Identity::new();
    let mut owner = RawClient::with(server.ctl(), &identity.clone().with_token("token a")).expect("let in");
    let thief = identity.with_token("token b").resuming(owner.welcome.session, 0);
    let session = owner.welcome.session;
    let beside = RawClient::with(server.ctl(), &thief).expect("another client");
    assert!(!beside.welcome.resumed && beside.welcome.session != session);
    owner.expect_alive();
    let back = owner.identity.clone();
    owner.wire.reset();
    // While the owner is away, and when it comes back: to its session, and then as a new process.
    beside.wire.reset();
    let mut beside = RawClient::with(server.ctl(), &thief).expect("another client");
    assert!(!beside.welcome.resumed);
    let owner = RawClient::with(server.ctl(), &back.clone().resuming(session, 0)).expect("it comes back");
    assert!(owner.welcome.resumed);
    owner.wire.reset();
    let mut owner = RawClient::with(server.ctl(), &back).expect("it replaces its own session only");
    owner.expect_alive();
    beside.expect_alive();
}

/// P-AUTH-15: naming a session of one's own lifts the limit on wrong proofs for nobody who guesses.
#[test]
fn guesses_under_a_session_of_ones_own_are_counted() {
    let tables = "[[clients]]\nname = \"a\"\ntoken = \"token a\"\n[[clients]]\nname = \"b\"\ntoken = \"token b\"\n";
    let server = Server::start(options().tables(tables));
    let own = Identity::new().with_token("token a");
    let mut session = RawClient::with(server.ctl(), &own).expect("let in");
    let guess = own.clone().with_token("a guess").resuming(session.welcome.session, 0);
    let guess = || RawClient::with(server.ctl(), &guess).err();
    let guesses = (0..3000).take_while(|_| guess() == Some(HandshakeRefusal::WrongToken)).count();
    assert!((30..3000).contains(&guesses), "{guesses} guesses until one is not checked");
    session.expect_alive();
    // Another holder's client, from the same address, comes back to its session all the same.
    let other = Identity::new().with_token("token b");
    until("there is room for a newcomer again", || RawClient::with(server.ctl(), &other).is_ok());
}

/// P-AUTH-14: whoever comes with one wrong token again and again keeps no newcomer at its address out.
#[test]
fn a_client_with_a_wrong_token_keeps_no_other_at_its_address_out() {
    let server = Server::start(options().env("CPROXY_TOKEN", "the right token"));
    let wrong = Identity::new().with_token("a wrong token");
    for _ in 0..40 {
        let refusal = RawClient::with(server.ctl(), &wrong).expect_err("refused");
        assert!([HandshakeRefusal::WrongToken, HandshakeRefusal::TooManyFailures].contains(&refusal), "{refusal:?}");
        let newcomer = Identity::new().with_token("the right token");
        RawClient::with(server.ctl(), &newcomer).expect("a newcomer gets in").expect_alive();
    }
}

/// P-AUTH-13: whoever guesses is held back, with the right token too, and for seconds only; a session that is there
/// goes on meanwhile.
#[test]
fn guessing_is_slow_and_locks_nobody_out() {
    let server = Server::start(options().env("CPROXY_TOKEN", "the right token"));
    let right = Identity::new().with_token("the right token");
    let mut before = RawClient::with(server.ctl(), &right).expect("let in");
    let guess = || RawClient::with(server.ctl(), &Identity::new().with_token("a wrong token")).err();
    let guesses = (0..1000).take_while(|_| guess() == Some(HandshakeRefusal::WrongToken)).count();
    assert!((10..1000).contains(&guesses), "{guesses} guesses until one is not checked");
    before.expect_alive();
    let session = before.welcome.session;
    before.wire.reset();
    // As many as it takes for another to be refused unchecked: time passes meanwhile.
    until("even the right token is not looked at", || {
        while guess() == Some(HandshakeRefusal::WrongToken) {}
        match RawClient::with(server.ctl(), &Identity::new().with_token("the right token")) {
            Ok(_) => false,
            Err(refusal) => {
                assert_eq!(refusal, HandshakeRefusal::TooManyFailures);
                true
            }
        }
    });
    let resumed = RawClient::with(server.ctl(), &right.resuming(session, 0)).expect("a session that is there goes on");
    assert!(resumed.welcome.resumed);
    until("the right token is good again", || {
        RawClient::with(server.ctl(), &Identity::new().with_token("the right token")).is_ok()
    });
    assert!(server.log().contains("too many wrong tokens"), "the log says why: {}", server.log());
}

fn registration(name: &str, limits: TunnelLimits) -> ClientMsg {
    ClientMsg::RegisterTunnel { tunnel: TunnelId(1), public_port: 0, name: name.into(), limits }
}

/// P-TUN-5: a tunnel registered twice, a name above 64 bytes, and more than 16 networks.
#[test]
fn a_tunnel_is_registered_once_and_has_a_short_name() {
    let server = server();
    let register = |name: &str| registration(name, TunnelLimits::default());
    let mut client = RawClient::start(server.ctl());
    client.send(register(&"n".repeat(64)));
    client.expect_alive();
    client.send(register("again"));
    client.expect_close(CloseCode::Violation);
    let mut client = RawClient::start(server.ctl());
    client.send(register(&"n".repeat(65)));
    client.expect_close(CloseCode::Violation);
    let lists = |allow, deny| {
        let networks = |count| vec!["192.0.2.0/24".parse().expect("a network"); count];
        let sources = SourceLists { allow: networks(allow), deny: networks(deny) };
        registration("lists", TunnelLimits { sources, ..TunnelLimits::default() })
    };
    let mut client = RawClient::start(server.ctl());
    client.send(lists(8, 8));
    client.expect_alive();
    let mut client = RawClient::start(server.ctl());
    client.send(lists(8, 9));
    client.expect_close(CloseCode::Violation);
}

/// P-TUN-3, P-TUN-6: a closed tunnel takes no visitors, lets transfers go on and resets those who wait.
#[test]
fn a_closed_tunnel_keeps_its_transfers() {
    let mut stage = Stage::set();
    let mut served = stage.visitor(b"served");
    let mut waits = connect(stage.public);
    waits.write_all(b"waits").expect("send");
    let other = stage.client.tunnel(2);
    assert_ne!(other, stage.public);
    stage.client.send(ClientMsg::CloseTunnel { tunnel: TunnelId(1) });
    stage.client.send(ClientMsg::CloseTunnel { tunnel: TunnelId(77) });
    assert_eq!(read_end(&mut waits), (0, End::Reset));
    until("its port is closed", || TcpStream::connect(stage.public).is_err());
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"answer");
    served.read_exact(&mut [0; 6]).expect("it goes on");
    drop(connect(other));
    stage.client.expect_alive();
}

/// P-POOL-2, P-POOL-3: failures are asked for again, and more of them than conns that were asked for are borne.
#[test]
fn failures_are_believed_within_reason() {
    let server = server();
    let mut client = RawClient::start(server.ctl());
    client.tunnel(1);
    client.send(ClientMsg::ConnFailed { count: u32::MAX });
    let again = client.find("NeedConn", |msg| match msg {
        ServerMsg::NeedConn { count } => Some(*count),
        _ => None,
    });
    assert_eq!(again, 1);
    client.expect_alive();
}

/// P-POOL-7: whoever speaks first on an idle conn breaks the protocol, whatever it is.
#[test]
fn an_idle_conn_only_answers() {
    let words: [&[u8]; 4] = [&[1, 0, 1], &[2, 0, 2, 1], &[3, 0, 3, 1, 0], b"GET / HTTP/1.1\r\n"];
    for word in words {
        let mut stage = Stage::set();
        stage.conn.wire.send_raw(word);
        stage.expect_violation(None);
    }
}

/// P-TUN-2, P-XFER-1, P-XFER-2, P-XFER-6, P-FIN-1, P-FIN-2, P-DONE-2: a visitor's words come right behind `Start`, the end is
/// told by number, and the conn is used again after `Done`, with the next epoch.
#[test]
fn a_visit_goes_by_the_book_twice() {
    let mut stage = Stage::set();
    for epoch in [1, 2].map(Epoch) {
        let mut visitor = connect(stage.public);
        visitor.write_all(b"question").expect("send");
        finish(&visitor);
        let start = stage.conn.start();
        let ProxyToClient::Start { epoch: began, tunnel, visitor: from } = start else { panic!("a Start: {start:?}") };
        assert_eq!((began, tunnel, from), (epoch, TunnelId(1), visitor.local_addr().unwrap()));
        assert_eq!(stage.conn.wire.bytes(8).unwrap(), b"question");
        assert_eq!(stage.server_fin(epoch), 8);
        stage.conn.wire.send(&ProxyToServer::Started { epoch });
        stage.conn.wire.send_raw(b"answer");
        stage.fin(epoch, 6);
        stage.done(epoch);
        assert_eq!(read_all(&mut visitor), b"answer");
    }
}

/// P-DONE-3, P-FIN-3: `Fin` and `Done` may come before `Started` and the bytes; nothing is shut too early.
#[test]
fn what_overtakes_the_conn_is_kept() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"");
    finish(&visitor);
    assert_eq!(stage.server_fin(E1), 0);
    stage.fin(E1, 6);
    stage.done(E1);
    stage.client.expect_alive();
    visitor.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(visitor.read(&mut [0]).is_err(), "neither bytes nor an end yet");
    bounded(&visitor, tests::wait::PATIENCE);
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"answer");
    assert_eq!(read_all(&mut visitor), b"answer");
    let _next = stage.visitor(b"next");
}

/// P-FIN-5: a `Fin` below what came, and a second one. P-FIN-4: nothing beyond the total reaches the visitor.
#[test]
fn totals_are_kept_to() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"");
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"six bytes too many");
    visitor.read_exact(&mut [0; 18]).expect("all of it");
    stage.fin(E1, 12);
    stage.expect_violation(Some(visitor));

    let mut stage = Stage::set();
    let visitor = stage.visitor(b"");
    stage.fin(E1, 5);
    stage.fin(E1, 5);
    stage.expect_violation(Some(visitor));

    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"");
    stage.fin(E1, 5);
    stage.client.expect_alive();
    // What the event loop says of the visitor's end, it says after it has heard of the total.
    finish(&visitor);
    stage.server_fin(E1);
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"exactand much more");
    let mut words = Vec::new();
    let _ = visitor.read_to_end(&mut words);
    assert!(b"exact".starts_with(&words), "{words:?}");
}

/// P-FIN-3, P-ABORT-4, P-ABORT-5: a total that never comes is waited for, and a conn that ends before it is a loss.
#[test]
fn a_promise_that_is_not_kept_is_a_reset() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"");
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"half");
    stage.fin(E1, 8);
    let mut half = [0; 4];
    visitor.read_exact(&mut half).expect("what there is");
    stage.client.expect_alive();
    stage.conn.wire.finish();
    assert_eq!(stage.server_abort(E1), AbortCode::ConnLost);
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
}

/// P-DONE-4, P-STATE-2: a `Done` for nothing, too early, or twice.
#[test]
fn a_done_that_cannot_be_is_a_violation() {
    let mut stage = Stage::set();
    stage.done(E1);
    stage.expect_violation(None);

    let mut stage = Stage::set();
    let visitor = stage.visitor(b"x");
    stage.done(E1);
    stage.expect_violation(Some(visitor));

    let mut stage = Stage::set();
    let visitor = stage.visitor(b"x");
    finish(&visitor);
    stage.server_fin(E1);
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"y");
    let mut byte = [0];
    (&visitor).read_exact(&mut byte).expect("it is being served");
    stage.done(E1);
    stage.expect_violation(Some(visitor));

    let mut stage = Stage::set();
    let visitor = stage.visitor(b"x");
    finish(&visitor);
    stage.server_fin(E1);
    stage.fin(E1, 1);
    stage.done(E1);
    stage.done(E1);
    stage.expect_violation(Some(visitor));
}

/// P-REF-1, P-REF-2, P-DONE-4: a refused visitor is reset, its bytes are accounted for, and the conn is used again.
#[test]
fn a_refusal_goes_by_the_book() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"abc");
    stage.conn.wire.send(&ProxyToServer::Refused { epoch: E1, code: RefuseCode::ConnectionRefused });
    assert_eq!(stage.server_end(E1), Fin { total: 3, how: How::Reset });
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
    stage.done(E1);

    // The second visitor's end was told before, and Done overtakes Refused.
    let epoch = Epoch(2);
    let mut visitor = stage.visitor(b"abc");
    finish(&visitor);
    assert_eq!(stage.server_fin(epoch), 3);
    stage.done(epoch);
    stage.client.expect_alive();
    stage.conn.wire.send(&ProxyToServer::Refused { epoch, code: RefuseCode::Unreachable });
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
    let _third = stage.visitor(b"third");
}

/// P-REF-4, P-STATE-2: a refusal of something else, or after an end.
#[test]
fn a_refusal_that_cannot_be_is_a_violation() {
    let mut stage = Stage::set();
    let visitor = stage.visitor(b"");
    stage.conn.wire.send(&ProxyToServer::Refused { epoch: Epoch(2), code: RefuseCode::TimedOut });
    stage.expect_violation(Some(visitor));

    let mut stage = Stage::set();
    let visitor = stage.visitor(b"");
    stage.fin(E1, 5);
    stage.client.expect_alive();
    stage.conn.wire.send(&ProxyToServer::Refused { epoch: E1, code: RefuseCode::TimedOut });
    stage.expect_violation(Some(visitor));
}

/// P-ABORT-1, P-ABORT-2, P-ABORT-3: an abort ends the conn, with a reset and without an echo.
#[test]
fn aborts_reset_and_are_not_answered() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"x");
    let (conn, epoch) = (stage.conn.id, E1);
    stage.client.send(ClientMsg::Abort { conn, epoch, code: AbortCode::OuterReset });
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
    stage.conn.wire.expect_end();
    stage.wire_is_quiet();
}

impl Stage {
    /// No `Abort` of the server's comes before the next `Pong`.
    #[track_caller]
    fn wire_is_quiet(&mut self) {
        let RawClient { wire, heard, .. } = &mut self.client;
        wire.send(&ToServer::Ping { received: *heard });
        wire.find("Pong", |_, message| match message {
            ToClient::Pong { .. } => Some(()),
            ToClient::Numbered { seq, msg } => {
                assert!(!matches!(msg, ServerMsg::Abort { .. }), "an abort is not answered");
                *heard = seq;
                None
            }
            other => panic!("expected Pong, found {other:?}"),
        });
    }
}

/// P-XFER-8: a `Start` that nobody answers.
#[test]
fn a_start_without_an_answer_is_given_up() {
    let quick = options().threads(1).key("idle_conns", 1).key("dial_timeout", 0.2);
    let mut stage = Stage::set_on(Server::start(quick));
    let mut visitor = stage.visitor(b"x");
    assert_eq!(stage.server_abort(E1), AbortCode::Deadline);
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
}

/// P-STATE-3, P-VIOL-4: messages about what is gone, or never was there, change nothing.
#[test]
fn stale_messages_are_ignored() {
    let mut stage = Stage::set();
    let visitor = stage.visitor(b"");
    finish(&visitor);
    stage.server_fin(E1);
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.fin(E1, 0);
    stage.done(E1);
    let mut visitor = visitor;
    assert_eq!(read_all(&mut visitor), b"");
    let _next = stage.visitor(b"the second");
    stage.fin(E1, 0);
    stage.done(E1);
    let conn = stage.conn.id;
    stage.client.send(ClientMsg::Abort { conn, epoch: E1, code: AbortCode::OuterReset });
    let gone = ConnId(999);
    stage.client.send(ClientMsg::Fin { conn: gone, epoch: E1, total: 5, how: How::Shut });
    stage.client.send(ClientMsg::Done { conn: gone, epoch: Epoch(7) });
    stage.client.expect_alive();
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
        stage.client.send(ClientMsg::RegisterTunnel { tunnel, public_port: 0, name: String::new(), limits });
        let code = stage.client.find("a refusal", |msg| match msg {
            ServerMsg::TunnelRefused { tunnel: of, code } if *of == tunnel => Some(*code),
            _ => None,
        });
        assert_eq!(code, TunnelRefusal::TooManyTunnels);
    }
    stage.client.expect_alive();
    RawClient::start(stage.server.ctl()).tunnel(1);
}

/// P-STOP-3: a server that stops says so, refuses newcomers, and closes when transfers are over.
#[test]
fn a_server_stops_in_order() {
    let mut stage = Stage::set();
    let mut served = stage.visitor(b"served");
    stage.server.signal(nix::sys::signal::Signal::SIGTERM);
    stage.client.find("Drain", |msg| matches!(msg, ServerMsg::Drain).then_some(()));
    let newcomer = RawClient::with(stage.server.ctl(), &Identity::new());
    assert_eq!(newcomer.err(), Some(HandshakeRefusal::Stopping));
    finish(&served);
    stage.server_fin(E1);
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.fin(E1, 0);
    stage.done(E1);
    assert_eq!(read_all(&mut served), b"");
    stage.client.expect_close(CloseCode::Stopping);
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
