//! Sessions of clients made by hand: numbers, resuming, and who replaces whom.

use super::*;

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

/// P-TAKE-4, P-TAKE-6: a newcomer that is over before it has taken everything over takes over again, whatever it offers by
/// then; another one is refused.
#[test]
fn a_newcomer_that_comes_back_takes_over_again() {
    let server = Server::start(options().threads(1).key("idle_conns", 0));
    let newcomer = Identity { features: LEAVE | TAKEOVER, ..Identity::new() };
    let has_served = Identity { features: LEAVE, ..newcomer.clone() };
    let mut old = RawClient::with(server.ctl(), &has_served).expect("let in");
    let ports = [1, 2].map(|tunnel| old.tunnel(tunnel).port());
    let beside = |old: &mut RawClient, identity: &Identity| {
        std::thread::scope(|scope| {
            let comes = scope.spawn(|| RawClient::with(server.ctl(), identity));
            while !comes.is_finished() {
                old.expect_alive();
            }
            comes.join().expect("it is answered")
        })
    };
    let mut first = beside(&mut old, &newcomer).expect("it takes over");
    first.send(ClientMsg::RegisterTunnel {
        tunnel: TunnelId(7),
        public_port: ports[0],
        bind_addr: None,
        name: "raw".into(),
        limits: TunnelLimits::default(),
    });
    first.find("TunnelReady", |msg| matches!(msg, ServerMsg::TunnelReady { .. }).then_some(()));
    let session = first.welcome.session;
    first.wire.reset();
    let back = ServerMsg::TunnelClosed { tunnel: TunnelId(1), code: TunnelRefusal::PortInUse };
    old.find("its port", |msg| (*msg == back).then_some(()));
    assert_eq!(beside(&mut old, &has_served).err(), Some(HandshakeRefusal::IdentityInUse));
    let again = beside(&mut old, &has_served.resuming(session, 1)).expect("it takes over again");
    assert!(!again.welcome.resumed && again.welcome.session != session);
}
