//! Handshakes of clients made by hand: which the server takes, and what it says to the others.

use super::*;

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
