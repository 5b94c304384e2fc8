//! One port for clients, and for visitors of hosts: the first bytes tell who has come, and everybody is treated there as at
//! a port of his own.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::{bounded, connect, connect_from, finish, read_all, read_end};
use tests::visits::short_visit;
use tests::wait::{PATIENCE, until};

/// The address of a relay in front of the server.
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);
const NAMED: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

const HOSTS: &str = "[[tunnels]]\nname = \"plain\"\nlocal = \"LOCAL\"\nprotocol = \"http\"\nhosts = [\"a.example\"]\n\
                     [[tunnels]]\nname = \"tls\"\nlocal = \"LOCAL\"\nprotocol = \"https\"\nhosts = [\"b.example\"]\n";

fn request() -> Vec<u8> {
    b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec()
}

/// A ClientHello of rustls' for b.example.
fn hello() -> Vec<u8> {
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "b.example".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(config.into(), name).expect("a client");
    let mut said = Vec::new();
    client.write_tls(&mut said).expect("its hello");
    said
}

/// A client with a tunnel of each kind to `service`, all of which are there.
fn client(server: &Server, service: &Service, options: Options) -> Client {
    let tables = HOSTS.replace("LOCAL", &service.addr().to_string());
    let more = format!("[[tunnels]]\nname = \"port\"\nlocal = \"{}\"\n", service.addr());
    let client = Client::spawn(server, options.tables(&(tables + &more)));
    for kind in ["http://a.example:", "https://b.example:", "tcp://"] {
        client.output_line(&format!("Forwarding {kind}"));
    }
    client
}

fn answer(at: SocketAddr, said: &[&[u8]]) -> Vec<u8> {
    let mut visitor = connect(at);
    visitor.set_nodelay(true).expect("an option");
    said.iter().for_each(|piece| visitor.write_all(piece).expect("said"));
    finish(&visitor);
    read_all(&mut visitor)
}

/// P-CONN-6.
#[test]
fn everybody_finds_his_way_with_and_without_tls() {
    let service = Service::echo();
    for tls in [false, true] {
        let server = options().one_port();
        let server = Server::start(if tls { server.tls() } else { server });
        let at = server.ctl();
        assert_eq!([server.proxy(), server.hosts("http"), server.hosts("https")], [at; 3]);
        let client = client(&server, &service, options());
        for words in [request(), hello()] {
            assert_eq!(answer(at, &[&words]), words, "at once");
            let bytes: Vec<_> = words.chunks(1).collect();
            assert_eq!(answer(at, &bytes), words, "byte by byte");
        }
        let port = client.forwardings()[0].port;
        (0..10).for_each(|number| short_visit((at.ip(), port).into(), number));
        // Whoever is none of these is told so as a visitor.
        assert!(answer(at, &[b"GET / HTTP/1.1\r\n\r\n"]).starts_with(b"HTTP/1.1 400"));
        assert!(answer(at, &[b"CPX / HTTP/1.1\r\nHost: c.example\r\n\r\n"]).starts_with(b"HTTP/1.1 404"));
        assert_eq!(client.stop().aborted, 0);
    }
}

#[test]
fn a_port_for_clients_alone() {
    let service = Service::echo();
    for tls in [false, true] {
        let port = tests::sockets::free_port();
        let server = options().flag("ctl-port", port).flag("proxy-port", port);
        let server = Server::start(if tls { server.tls() } else { server });
        assert_eq!(server.ctl(), server.proxy());
        let client = Client::start(&server, options().tunnel(service.addr()));
        (0..10).for_each(|number| short_visit(client.public(), number));
        assert_eq!(client.stop().aborted, 0);
    }
}

/// P-AUTH-12: whoever has not said who he is counts as a handshake, and has as long.
#[test]
fn the_silent_disturb_nobody_and_are_dropped() {
    let service = Service::echo();
    let server = Server::start(options().one_port().key("max_handshakes_per_source", 8).key("handshake_timeout", 2));
    let at = server.ctl();
    let mut silent: Vec<_> = (0..20).map(|_| connect_from(RELAY, at).expect("not reset")).collect();
    for (stream, said) in silent.iter_mut().zip([&b""[..], b"CPX", &hello()[..50]].into_iter().cycle()) {
        // The oldest have made room for the others already.
        let _ = stream.write_all(said);
    }
    let client = client(&server, &service, options());
    assert_eq!(answer(at, &[&request()]), request());
    for mut stream in silent {
        bounded(&stream, PATIENCE);
        assert_eq!(read_end(&mut stream).0, 0, "nothing is said to them");
    }
    let _line = server.log_line("max_handshakes_per_source");
    assert_eq!(client.stop().aborted, 0);
}

/// P-FRONT-3, P-FRONT-5: a visitor for whom a relay names nobody is the relay's, a client for whom it does is nobody's.
#[test]
fn behind_a_relay_everybody_is_whom_it_names() {
    let service = Service::echo();
    let trusting = options().key("trusted_proxies", format!("[\"{RELAY}\"]")).key("access_log", true);
    let server = Server::start(trusting.one_port());
    let at = server.ctl();
    let client = client(&server, &service, options());
    let via = |words: &[&[u8]]| {
        let mut stream = connect_from(RELAY, at).expect("not reset");
        words.iter().for_each(|words| stream.write_all(words).expect("sent"));
        stream
    };
    for (header, who) in [(NAMED, "203.0.113.7"), (UNKNOWN, "127.0.0.8")] {
        for words in [request(), hello()] {
            let mut visitor = via(&[header, &words]);
            finish(&visitor);
            assert_eq!(read_all(&mut visitor), words);
        }
        let visits = || {
            let log = server.log();
            let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            lines.filter(|line| line["event"] == "visit" && line["peer_ip"] == who).count()
        };
        until("both are logged", || visits() == 2);
    }
    // No token is set: a client from elsewhere is a stranger, and so is one of whom nothing is known.
    let mut preface: TcpStream = via(&[UNKNOWN, b"CPXYC\x01\x01\x00"]);
    assert_eq!(read_end(&mut preface).0, 0);
    let _line = server.log_line("send-proxy");
    let mut preface: TcpStream = via(&[NAMED, b"CPXYC\x01\x01\x00"]);
    preface.read_exact(&mut [0; 8]).expect("the reply: it is known who he is");
    let mut check = via(&[NAMED]);
    finish(&check);
    assert_eq!(read_end(&mut check).0, 0, "a check is nobody's");
    assert_eq!(client.stop().aborted, 0);
}
