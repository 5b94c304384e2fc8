//! Who is refused, at which door, on which side: one table for the server's two ports, and for one that is both and one of
//! hosts, too; one for what a client finds behind them. A row that holds at one door only is a hole at the other.

use super::peer::{RawServer, Wire};
use protocol_sm::codes::HandshakeRefusal;
use protocol_sm::ids::{ClientId, ConnId, SessionId};
use protocol_sm::wire::{
    ClientHandshake, ClientHello, ClientMsg, ConnHello, ConnKind, Message, Preface, ProxyToClient, ProxyToServer,
    Reply, ServerHandshake, ServerMsg, ToClient, ToServer,
};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use tests::gate::Gate;
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::{End, LOOPBACK, bounded, connect, free_port, read_end};
use tests::visits::until_served;
use tests::wait::{PATIENCE, eventually};

/// What somebody says at one of the server's doors, and all that the server answers before it hangs up.
struct Row {
    what: &'static str,
    server: fn() -> Options,
    /// By the door: what is said, and what is answered.
    ctl: (Vec<u8>, Vec<u8>),
    proxy: (Vec<u8>, Vec<u8>),
    one_port: AtOnePort,
}

/// What becomes of who would be refused at a port of its own, where one port is there for everything.
#[derive(Clone, Copy)]
enum AtOnePort {
    Same,
    /// It is a visitor, who is told this.
    Visitor(&'static [u8]),
    /// It is right there.
    Right,
}

impl Row {
    fn at_one_port(self, one_port: AtOnePort) -> Self {
        Self { one_port, ..self }
    }
}

/// The reply to a preface, and a refusal.
fn refused(door: ConnKind, refusal: HandshakeRefusal) -> Vec<u8> {
    let mut bytes = Reply::to(Preface::ours(door)).encode().to_vec();
    match door {
        ConnKind::Ctl => ToClient::Handshake(ServerHandshake::Refused(refusal)).encode_to(&mut bytes),
        ConnKind::Proxy => ProxyToClient::Refused(refusal).encode_to(&mut bytes),
    }
    bytes
}

fn framed(door: ConnKind, message: &impl Message) -> Vec<u8> {
    let mut bytes = Preface::ours(door).encode().to_vec();
    message.encode_to(&mut bytes);
    bytes
}

fn ctl_hello(token: bool) -> Vec<u8> {
    let hello = ClientHello { nonce: [1; 32], client: ClientId([1; 16]), token, features: 0, resume: None };
    framed(ConnKind::Ctl, &ToServer::Handshake(ClientHandshake::Hello(hello)))
}

/// For a session that no server knows.
fn proxy_hello() -> Vec<u8> {
    let hello = ConnHello { session: SessionId([1; 16]), conn: ConnId(1), proof: [0; 32] };
    framed(ConnKind::Proxy, &ProxyToServer::Hello(hello))
}

/// The first message of a TLS client of ours.
fn tls_hello() -> Vec<u8> {
    let sized = |size: usize, body: &[u8]| {
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        [&length[4 - size..], body].concat()
    };
    let offers = sized(2, &sized(1, b"cproxy/1"));
    let extensions = sized(2, &[&[0, 16][..], &sized(2, &offers)].concat());
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(2, &[0x13, 1]), &sized(1, &[0]), &extensions].concat();
    [&[0x16, 3, 1][..], &sized(2, &[&[1][..], &sized(3, &body)].concat())].concat()
}

fn in_the_clear() -> Options {
    options().in_the_clear()
}

fn impatient() -> Options {
    in_the_clear().key("handshake_timeout", 0.3)
}

/// One that makes none for itself either, because it has a file.
fn without_token() -> Options {
    in_the_clear().key("drain_timeout", 1)
}

fn with_token() -> Options {
    in_the_clear().env("CPROXY_TOKEN", "a token")
}

fn rows() -> Vec<Row> {
    let nothing = Vec::new;
    let same = |bytes: &[u8]| (bytes.to_vec(), Vec::new());
    let newer = |door| Preface { port: door, min: 2, max: 3 }.encode().to_vec();
    let row = |what, server: fn() -> Options, ctl, proxy| Row { what, server, ctl, proxy, one_port: AtOnePort::Same };
    let bad_request = AtOnePort::Visitor(b"HTTP/1.1 400 Bad Request\r\n");
    vec![
        row("another protocol", in_the_clear, same(b"GET / HTTP/1.1\r\n\r\n"), same(b"GET / HTTP/1.1\r\n\r\n"))
            .at_one_port(bad_request),
        row("nearly the magic", in_the_clear, same(b"CPXyC\x01\x01\x00"), same(b"CPXyP\x01\x01\x00"))
            .at_one_port(bad_request),
        row(
            "the other door's preface",
            in_the_clear,
            (Preface::ours(ConnKind::Proxy).encode().to_vec(), nothing()),
            (Preface::ours(ConnKind::Ctl).encode().to_vec(), nothing()),
        )
        .at_one_port(AtOnePort::Right),
        row(
            "no version in common",
            in_the_clear,
            (newer(ConnKind::Ctl), b"CPXYC\x00\x01\x01".to_vec()),
            (newer(ConnKind::Proxy), b"CPXYP\x00\x01\x01".to_vec()),
        ),
        row(
            "TLS where the server speaks none",
            in_the_clear,
            (tls_hello(), b"CPXYC\x00\x01\x01".to_vec()),
            (tls_hello(), b"CPXYP\x00\x01\x01".to_vec()),
        ),
        row(
            "the clear where the server wants TLS",
            || options().tls(),
            (ctl_hello(false), refused(ConnKind::Ctl, HandshakeRefusal::TlsRequired)),
            (proxy_hello(), refused(ConnKind::Proxy, HandshakeRefusal::TlsRequired)),
        ),
        row("silence", impatient, same(b""), same(b"")),
        row("half a preface, and silence", impatient, same(b"CPXY"), same(b"CPXY")),
        row(
            "a message out of turn",
            in_the_clear,
            (framed(ConnKind::Ctl, &ToServer::Ping { received: 0 }), b"CPXYC\x01\x01\x01".to_vec()),
            // A proxy_conn's hello is answered as a whole, or not at all.
            (framed(ConnKind::Proxy, &ProxyToServer::Pong), nothing()),
        ),
        row(
            "no proof at all",
            with_token,
            (ctl_hello(false), refused(ConnKind::Ctl, HandshakeRefusal::TokenRequired)),
            (proxy_hello(), refused(ConnKind::Proxy, HandshakeRefusal::UnknownSession)),
        ),
        row(
            "a proof that is not wanted, or for a session that is not there",
            without_token,
            (ctl_hello(true), refused(ConnKind::Ctl, HandshakeRefusal::TokenUnexpected)),
            (proxy_hello(), refused(ConnKind::Proxy, HandshakeRefusal::UnknownSession)),
        ),
    ]
}

/// P-PREF-3, P-PREF-4, P-TLS-4, P-TLS-5, P-AUTH-4, P-AUTH-11, P-AUTH-12, P-PROXY-2, P-PROXY-5.
#[test]
fn every_refusal_holds_at_both_of_the_servers_doors() {
    for row in rows() {
        let server = Server::start((row.server)());
        for (door, addr, (said, answer)) in [("ctl", server.ctl(), &row.ctl), ("proxy", server.proxy(), &row.proxy)] {
            let mut wire = Wire::connect(addr);
            wire.send_raw(said);
            assert_eq!(wire.until_the_end(), *answer, "{}, at the {door} port", row.what);
        }
    }
}

/// P-CONN-6: and at one port for everything.
#[test]
fn every_refusal_holds_at_one_port() {
    for row in rows() {
        let server = Server::start((row.server)().one_port());
        for (said, answer) in [&row.ctl, &row.proxy] {
            let mut wire = Wire::connect(server.ctl());
            wire.send_raw(said);
            match row.one_port {
                AtOnePort::Same if *said == tls_hello() => {
                    assert_eq!(wire.until_the_end(), row.ctl.1, "{}: a client begins with its ctl_conn", row.what);
                }
                AtOnePort::Same => assert_eq!(wire.until_the_end(), *answer, "{}", row.what),
                AtOnePort::Visitor(told) => assert!(wire.until_the_end().starts_with(told), "{}", row.what),
                AtOnePort::Right if said[4] == b'C' => {
                    assert_eq!(wire.bytes(8).as_deref(), Some(&b"CPXYC\x01\x01\x01"[..]), "{}", row.what);
                }
                // It is answered with what follows.
                AtOnePort::Right => {}
            }
        }
    }
}

/// What a client finds at one of the server's doors instead of our server.
const IMPOSTORS: [(&str, [&[u8]; 2]); 4] = [
    ("another protocol", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"]),
    ("the other door's reply", [b"CPXYP\x01\x01\x01", b"CPXYC\x01\x01\x01"]),
    ("a version that was not offered", [b"CPXYC\x02\x01\x02", b"CPXYP\x02\x01\x02"]),
    ("silence", [b"", b""]),
];

/// P-PREF-5, P-POOL-2, P-PROXY-4: at the ctl port the client comes back; at the proxy port its session goes on.
#[test]
fn a_client_leaves_whoever_is_not_its_server_at_both_doors() {
    let service = Service::echo();
    let server = RawServer::start();
    let brisk = options().threads(1).key("reconnect_min", 0.02).key("reconnect_max", 0.2).key("handshake_timeout", 1);
    let client = Client::spawn_alone(LOOPBACK, brisk.tunnel(service.addr()).via(server.addr()));
    for (what, [ctl, _]) in IMPOSTORS {
        let mut greeted = server.greet();
        greeted.wire.send_raw(ctl);
        assert_eq!(greeted.wire.until_the_end(), b"", "{what}, at the ctl port: {}", client.log());
    }
    let mut end = server.serve();
    for (what, [_, proxy]) in IMPOSTORS {
        end.send(ServerMsg::NeedConn { count: 1 });
        let (mut wire, _) = server.conn();
        wire.send_raw(proxy);
        assert_eq!(wire.until_the_end(), b"", "{what}, at the proxy port: {}", client.log());
        assert_eq!(end.msg("ConnFailed"), ClientMsg::ConnFailed { count: 1 }, "{what}");
    }
    end.expect_alive();
}

/// P-TLS-6: a client that is to encrypt says nothing in the clear on a proxy_conn either, whoever is there.
#[test]
fn a_client_that_encrypts_says_nothing_in_the_clear_at_either_door() {
    let service = Service::echo();
    let server = Server::start(options().brisk().tls());
    // The ctl port is the server's, the proxy port that the client is told of is not.
    let host = Ipv4Addr::new(127, 0, 0, 3);
    let ctl = Gate::at((host, 0).into(), server.ctl());
    let impostor = TcpListener::bind((host, server.proxy().port())).expect("the proxy port at another address");
    let public = SocketAddr::from((LOOPBACK, free_port()));
    let tunnel = options().brisk().tunnel_at(service.addr(), public.port());
    let client = Client::spawn(&server, tunnel.via(ctl.addr()));
    impostor.set_nonblocking(true).expect("non-blocking");
    for answer in [&b"CPXYP\x01\x01\x01"[..], b"CPXYP\x00\x01\x01", b"\x15\x03\x03\x00\x02\x02\x28"] {
        let (stream, _) =
            eventually("the client opens a conn", || impostor.accept().map_err(|error| error.to_string()));
        stream.set_nonblocking(false).expect("blocking");
        bounded(&stream, PATIENCE);
        let mut wire = Wire::from(stream);
        wire.send_raw(answer);
        let said = wire.until_the_end();
        assert_eq!(said.first(), Some(&0x16), "a handshake of TLS, and nothing else");
        assert!(!said.windows(4).any(|bytes| bytes == b"CPXY"), "{said:?}");
    }
    server.log_line("tunnel open");
    let (bytes, end) = read_end(&mut connect(public));
    assert_eq!((bytes, end), (0, End::Reset), "no visitor is served over it");
    assert_eq!(client.forwardings(), [], "nor announced");
    drop(impostor);
    // The negative: with the right one at that door it works.
    let _proxy = Gate::at(SocketAddr::from((host, server.proxy().port())), server.proxy());
    client.forwarding_after(0, &service.addr().to_string());
    until_served(public);
}
