//! Proofs that are right but for one bit, at their beginning, in their middle and at their end, in every handshake and
//! on both sides. A comparison of some bytes only, or in some handshakes only, takes one of them.

use super::peer::{Asked, Identity, RawClient, RawServer, fresh_session};
use protocol_sm::codes::{CloseCode, HandshakeRefusal};
use protocol_sm::ids::{ConnId, SessionId};
use protocol_sm::wire::{
    ConnHello, ConnKind, Preface, Proof, ProxyToClient, Reply, ServerHandshake, ServerMsg, ToClient, Welcome,
};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::LOOPBACK;

/// Where a proof is spoilt.
const SPOTS: [usize; 3] = [0, 16, 31];

fn flipped(mut proof: Proof, at: usize) -> Proof {
    proof[at] ^= 1;
    proof
}

/// P-AUTH-7, P-AUTH-9, P-REPL-1: nobody begins, takes over or resumes a session with a proof that is nearly right.
#[test]
fn a_server_takes_no_proof_that_is_nearly_right() {
    for token in [None, Some("a token")] {
        let known = |identity: Identity| token.map_or(identity.clone(), |token| identity.with_token(token));
        let server = match token {
            None => Server::start(options()),
            Some(token) => Server::start(options().env("CPROXY_TOKEN", token)),
        };
        let owner = known(Identity::new());
        let mut client = RawClient::with(server.ctl(), &owner).expect("let in");
        let handshakes = [
            ("new", known(Identity::new())),
            ("replacing", owner.clone()),
            ("resuming", owner.clone().resuming(client.welcome.session, client.heard)),
        ];
        for (handshake, identity) in handshakes {
            for at in SPOTS {
                let asked = Asked::ask_with(server.ctl(), &identity, |proof| flipped(proof, at));
                let answer = asked.and_then(Asked::answer).err();
                assert_eq!(answer, Some(HandshakeRefusal::WrongToken), "{handshake}, byte {at}, {token:?}");
            }
        }
        client.expect_alive();
    }
}

/// P-PROXY-1, P-PROXY-3: nor does a conn come into a session, and its number is not used up by the attempt.
#[test]
fn a_server_takes_no_conn_whose_proof_is_nearly_right() {
    let server = Server::start(options());
    let mut client = RawClient::start(server.ctl());
    let hello = client.key.hello(client.welcome.session, ConnId(1));
    for at in SPOTS {
        let spoilt = ConnHello { proof: flipped(hello.proof, at), ..hello };
        let answer = client.conn_as(server.proxy(), &spoilt).err();
        assert_eq!(answer, Some(HandshakeRefusal::WrongToken), "byte {at}");
    }
    let _conn = client.conn_as(server.proxy(), &hello).expect("the number is as good as new");
    client.expect_alive();
}

/// One way to spoil a welcome.
type Change = (&'static str, fn(Welcome) -> Welcome);

/// Welcomes with a proof that is nearly right, or right for a welcome that is nearly this one.
const SPOILT: [Change; 7] = [
    ("the proof's first byte", |welcome| Welcome { proof: flipped(welcome.proof, SPOTS[0]), ..welcome }),
    ("its middle", |welcome| Welcome { proof: flipped(welcome.proof, SPOTS[1]), ..welcome }),
    ("its last byte", |welcome| Welcome { proof: flipped(welcome.proof, SPOTS[2]), ..welcome }),
    ("the proxy port", |welcome| Welcome { proxy_port: welcome.proxy_port ^ 1, ..welcome }),
    ("what was received", |welcome| Welcome { received: welcome.received ^ 1, ..welcome }),
    ("whether it is resumed", |welcome| Welcome { resumed: !welcome.resumed, ..welcome }),
    ("the session", |welcome| {
        let mut session = welcome.session.0;
        session[15] ^= 1;
        Welcome { session: SessionId(session), ..welcome }
    }),
];

/// P-AUTH-8, P-AUTH-6, P-AUTH-9: a client believes no server that nearly proves itself, whatever it comes for.
#[test]
fn a_client_believes_no_welcome_that_is_nearly_right() {
    let service = Service::echo();
    for handshake in ["new", "resumed", "replaced"] {
        for (spoilt, change) in SPOILT {
            let server = RawServer::start();
            let brisk = options().threads(1).key("reconnect_min", 0.02).key("reconnect_max", 0.2);
            let client = Client::spawn_alone(LOOPBACK, brisk.tunnel(service.addr()).via(server.addr()));
            let (session, received) = if handshake == "new" {
                (fresh_session(), 0)
            } else {
                let end = server.serve();
                let session = if handshake == "resumed" { end.session } else { fresh_session() };
                (session, if handshake == "resumed" { end.heard } else { 0 })
            };
            let mut end = server.greet().challenge().welcome_with(session, handshake == "resumed", received, change);
            // Believed, it would say something about its tunnel or, at the next heartbeat, something else.
            assert_eq!(end.wire.bytes(1), None, "{handshake}: {spoilt} was changed; {}", client.log());
        }
    }
}

/// P-PROXY-4: nor one that nearly proves itself on a conn.
#[test]
fn a_client_believes_no_conn_that_is_nearly_accepted() {
    let service = Service::echo();
    let server = RawServer::start();
    let brisk = options().threads(1).key("reconnect_min", 0.02).key("reconnect_max", 0.2);
    let _client = Client::spawn_alone(LOOPBACK, brisk.tunnel(service.addr()).via(server.addr()));
    for at in SPOTS {
        let mut end = server.serve();
        end.send(ServerMsg::NeedConn { count: 1 });
        let (mut wire, hello) = server.conn();
        wire.send_raw(&Reply::to(Preface::ours(ConnKind::Proxy)).encode());
        wire.send(&ProxyToClient::Accepted { proof: flipped(end.key.accept(end.session, hello.conn), at) });
        end.expect_close(CloseCode::Violation);
    }
    server.serve().expect_alive();
}

/// P-AUTH-8: a client that was let in by a server which it does not believe has told it nothing.
#[test]
fn a_welcome_before_its_turn_is_not_believed() {
    let service = Service::echo();
    let server = RawServer::start();
    let brisk = options().threads(1).key("reconnect_min", 0.02).key("reconnect_max", 0.2);
    let _client = Client::spawn_alone(LOOPBACK, brisk.tunnel(service.addr()).via(server.addr()));
    let mut greeted = server.greet();
    greeted.wire.send_raw(&Reply::to(Preface::ours(ConnKind::Ctl)).encode());
    let welcome = Welcome { session: fresh_session(), resumed: false, received: 0, proxy_port: 1, proof: [0; 32] };
    greeted.wire.send(&ToClient::Handshake(ServerHandshake::Welcome(welcome)));
    greeted.wire.expect_end();
    server.serve().expect_alive();
}
