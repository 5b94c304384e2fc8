//! `proxy_protocol`: the service is told who its visitor is, in front of the visitor's first byte.

use protocol_sm::proxy_protocol::ProxyProtocol;
use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use tests::foreign::{Foreign, find};
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::{LOOPBACK, connect, free_port, read_all};
use tests::wait::{PATIENCE, until};

const BOTH: [(&str, ProxyProtocol); 2] = [("\"v1\"", ProxyProtocol::V1), ("\"v2\"", ProxyProtocol::V2)];

/// A service that greets whoever comes, and then tells all that it reads.
fn service() -> (Service, Receiver<Vec<u8>>) {
    let (tell, told) = channel();
    let service = Service::start(move |mut stream| {
        stream.write_all(b"hello").expect("greeted");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("a clean end");
        let _ = tell.send(all);
    });
    (service, told)
}

/// A visit that says `words`, after the service has greeted. What the service must have read: the header, then the words.
fn expected(version: ProxyProtocol, mut visitor: TcpStream, words: &[u8]) -> Vec<u8> {
    let (from, to) = (visitor.local_addr().expect("bound"), visitor.peer_addr().expect("connected"));
    let mut greeting = [0; 5];
    visitor.read_exact(&mut greeting).expect("the service speaks first");
    visitor.write_all(words).expect("sent");
    visitor.shutdown(Shutdown::Write).expect("shut");
    [version.header(from, to), words.to_vec()].concat()
}

fn tells_the_visitor(server: Options, ip: IpAddr) {
    for (key, version) in BOTH {
        let (service, told) = service();
        let server = Server::start(server.clone());
        let client = Client::start(&server, options().tunnel(service.addr()).tunnel_key("proxy_protocol", key));
        let public = SocketAddr::new(ip, client.public().port());
        // Much, little and nothing.
        for words in [vec![7; 1 << 20], b"GET".to_vec(), Vec::new()] {
            let expected = expected(version, connect(public), &words);
            assert!(told.recv_timeout(PATIENCE) == Ok(expected), "{version:?}, {} bytes", words.len());
        }
    }
}

/// P-XFER-11.
#[test]
fn the_service_is_told_its_visitor_in_either_version() {
    tells_the_visitor(options(), LOOPBACK);
}

#[test]
fn the_service_is_told_its_visitor_under_tls() {
    tells_the_visitor(options().tls(), LOOPBACK);
}

/// A server that listens on both families tells an IPv4 visitor so.
#[test]
fn the_service_is_told_its_visitor_from_a_port_of_both_families() {
    tells_the_visitor(options().flag("bind-addr", "::"), IpAddr::V4(Ipv4Addr::LOCALHOST));
    tells_the_visitor(options().flag("bind-addr", "::"), IpAddr::V6(Ipv6Addr::LOCALHOST));
}

#[test]
fn a_reload_counts_for_new_visitors() {
    let (service, told) = service();
    let port = free_port();
    let server = Server::start(options());
    let tunnel =
        |keys: &str| format!("[[tunnels]]\nname = \"a\"\nlocal = \"{}\"\npublic_port = {port}\n{keys}", service.addr());
    let client = Client::start(&server, options().tables(&tunnel("")));
    let public = client.public_of(service.addr());
    let before = connect(public);
    before.peek(&mut [0]).expect("it is served");
    let said = client.reload(&tunnel("proxy_protocol = \"v1\"\n"));
    assert!(said.contains("1 tunnel changed"), "{said}");
    // The event loops hear of it a moment later.
    until("newcomers are introduced", || {
        let expected = expected(ProxyProtocol::V1, connect(public), b"new");
        let read = told.recv_timeout(PATIENCE).expect("read");
        assert!(read == expected || read == b"new", "{read:?}");
        read == expected
    });
    expected(ProxyProtocol::V1, before, b"old");
    assert_eq!(told.recv_timeout(PATIENCE), Ok(b"old".to_vec()), "it came before");
}

/// Through a tunnel to `port`, one visit each in both versions; the answer's body must be the visitor's address.
fn asks_who_it_is(port: u16) {
    for (key, _) in BOTH {
        let server = Server::start(options());
        let local = SocketAddr::new(LOOPBACK, port);
        let client = Client::start(&server, options().tunnel(local).tunnel_key("proxy_protocol", key));
        for _ in 0..20 {
            let mut visitor = client.visit();
            visitor.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
            let from = visitor.local_addr().expect("bound");
            let answer = String::from_utf8(read_all(&mut visitor)).expect("text");
            assert!(answer.starts_with("HTTP/1.1 200"), "{key}: {answer}");
            assert!(answer.ends_with(&format!("{}:{}", from.ip(), from.port())), "{key}: {from}: {answer}");
        }
    }
}

fn listens(port: impl Display) {
    until("it listens", || TcpStream::connect(format!("{LOOPBACK}:{port}")).is_ok());
}

#[test]
fn nginx_knows_the_visitor() {
    let Some(program) = find("nginx") else { return };
    let (port, mut nginx) = (free_port(), Foreign::new());
    let dir = nginx.dir().display().to_string();
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths = paths.map(|name| format!("{name}_temp_path {dir}/{name};")).concat();
    let server = format!(
        "listen {LOOPBACK}:{port} proxy_protocol; \
         location / {{ return 200 $proxy_protocol_addr:$proxy_protocol_port; }}"
    );
    let config = nginx.file(
        "nginx.conf",
        format!(
            "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/log;\nevents {{}}\n\
             http {{ access_log off; {paths} server {{ {server} }} }}\n"
        ),
    );
    nginx.start(&program, &["-p", &dir, "-e", &format!("{dir}/log"), "-c", &config]);
    listens(port);
    asks_who_it_is(port);
}

#[test]
fn haproxy_knows_the_visitor() {
    let Some(program) = find("haproxy") else { return };
    let (_haproxy, port) = Foreign::haproxy_that_says(&program, "%[src]:%[src_port]");
    asks_who_it_is(port);
}
