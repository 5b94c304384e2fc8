//! `trusted_proxies`: a relay in front of the server says by a PROXY header who its visitors are, and its clients.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use tests::foreign::{Foreign, StreamingNginx, find};
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::{End, LOOPBACK, connect_from, free_port, read_all, read_end, visit_end_from};
use tests::visits::{expect_greeted, ip, short_visit};
use tests::wait::{PATIENCE, eventually, until};

/// The address of the relay, whose word is taken.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);

fn trusting() -> Options {
    options().key("trusted_proxies", format!("[\"{PROXY}\"]")).key("access_log", true)
}

/// The records of visits so far.
fn records(server: &Server) -> Vec<Value> {
    let lines = server.log().lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect::<Vec<_>>();
    lines.into_iter().filter(|line| line["event"] == "visit").collect()
}

/// Comes from the proxy with these first bytes.
fn via(client: &Client, first: &[u8]) -> TcpStream {
    let mut visitor = connect_from(PROXY, client.public()).expect("not reset");
    visitor.write_all(first).expect("sent");
    visitor
}

const NAMED: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n";

/// P-FRONT-1, P-FRONT-3.
#[test]
fn a_visitor_is_whom_the_header_names() {
    let service = Service::echo();
    let server = Server::start(trusting().key("deny_sources", r#"["203.0.113.9", "127.0.0.8"]"#));
    let client = Client::start(&server, options().tunnel(service.addr()).tunnel_key("proxy_protocol", "\"v1\""));
    let mut visitor = via(&client, &[NAMED, b"hello"].concat());
    visitor.shutdown(Shutdown::Write).expect("shut");
    let told = [NAMED, b"hello"].concat();
    assert_eq!(read_all(&mut visitor), told, "the service is told both addresses, and gets the payload");
    let record = eventually("it is logged", || records(&server).pop().ok_or("not yet".into()));
    assert_eq!((&record["peer_ip"], &record["peer_port"]), (&"203.0.113.7".into(), &50000.into()), "{record}");
    assert_eq!(record["bytes_up"], 5, "the header is no byte of the visitor's");
    let mut denied = via(&client, b"PROXY TCP6 ::ffff:203.0.113.9 ::1 50001 443\r\nhello");
    assert_eq!(read_end(&mut denied), (0, End::Reset), "lists count for whom it names, folded");
    assert!(server.log_line("allow_sources").contains("203.0.113.9"));
}

#[test]
fn a_header_in_pieces_is_read_and_what_names_nobody_is_the_proxy() {
    let service = Service::greeter("hi");
    let server = Server::start(trusting());
    let client = Client::start(&server, options().tunnel(service.addr()));
    let local: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    for header in [NAMED, b"PROXY UNKNOWN\r\n", local] {
        let mut visitor = via(&client, b"");
        for piece in header.chunks(header.len() / 3) {
            visitor.write_all(piece).expect("sent");
        }
        assert_eq!(read_all(&mut visitor), b"hi", "{header:?}: who waits to be greeted is served");
    }
    let seen =
        eventually("all are logged", || Some(records(&server)).filter(|all| all.len() == 3).ok_or("not yet".into()));
    let mut from: Vec<_> = seen.iter().map(|record| record["peer_ip"].as_str().expect("an address")).collect();
    from.sort_unstable();
    assert_eq!(from, ["127.0.0.8", "127.0.0.8", "203.0.113.7"]);
}

/// P-FRONT-1, P-FRONT-3: at the ports of hosts as at a tunnel's own.
#[test]
fn a_visitor_of_a_host_is_whom_the_header_names() {
    let service = Service::echo();
    let server = Server::start(trusting().key("http_port", 0).key("https_port", 0));
    let tunnel = format!(
        "[[tunnels]]\nname = \"a\"\nlocal = \"{}\"\nhosts = [\"a.example\"]\nproxy_protocol = \"v1\"\n",
        service.addr()
    );
    let client = Client::spawn(&server, options().tables(&tunnel));
    client.output_line("Forwarding http://a.example:");
    let words = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for cut in [0, NAMED.len() - 9, NAMED.len(), NAMED.len() + 20] {
        let all = [NAMED, words].concat();
        let (first, rest) = all.split_at(cut);
        let mut visitor = connect_from(PROXY, server.hosts("http")).expect("not reset");
        visitor.set_nodelay(true).expect("an option");
        visitor.write_all(first).and_then(|()| visitor.write_all(rest)).expect("sent");
        visitor.shutdown(Shutdown::Write).expect("shut");
        assert_eq!(read_all(&mut visitor), all, "{cut}: the service is told both addresses, and gets the head");
    }
    until("all are logged", || records(&server).len() == 4);
    assert!(records(&server).iter().all(|record| record["peer_ip"] == "203.0.113.7"));
    for scheme in ["http", "https"] {
        let mut visitor = connect_from(PROXY, server.hosts(scheme)).expect("not reset");
        visitor.write_all(words).expect("sent");
        assert_eq!(read_end(&mut visitor), (0, End::Reset), "{scheme}: a relay says for whom it comes");
    }
    assert_eq!(service.accepted(), 4);
}

/// P-FRONT-1.
#[test]
fn from_others_a_header_is_payload() {
    let service = Service::echo();
    let server = Server::start(trusting());
    let client = Client::start(&server, options().tunnel(service.addr()));
    let mut visitor = connect_from(ip(2), client.public()).expect("not reset");
    visitor.write_all(NAMED).expect("sent");
    visitor.shutdown(Shutdown::Write).expect("shut");
    assert_eq!(read_all(&mut visitor), NAMED);
}

/// P-FRONT-2.
#[test]
fn who_has_no_header_is_reset() {
    let service = Service::greeter("hi");
    let server = Server::start(trusting());
    let client = Client::start(&server, options().tunnel(service.addr()));
    let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
    let lying: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x02ab";
    let cases: [&[u8]; 5] = [b"GET / HTTP/1.1\r\n\r\n", &long, lying, b"PROXY TCP4 1.2.3.4 x 1 1\r\n", &NAMED[..20]];
    for first in cases {
        assert_eq!(read_end(&mut via(&client, first)), (0, End::Reset), "{first:?}");
    }
    assert_eq!(service.accepted(), 0);
    assert!(server.log_line("visitor_dropped").contains("send-proxy"), "the log says what to do");
    assert_eq!(server.stop().visitors, 0, "they are no visitors");
}

/// P-FRONT-3.
#[test]
fn a_check_is_no_visit() {
    let service = Service::greeter("hi");
    let server = Server::start(trusting());
    let client = Client::start(&server, options().tunnel(service.addr()));
    for first in [&b""[..], &NAMED[..9], NAMED] {
        // All of it is there before the server looks.
        server.signal(nix::sys::signal::Signal::SIGSTOP);
        let mut check = via(&client, first);
        check.shutdown(Shutdown::Write).expect("shut");
        server.signal(nix::sys::signal::Signal::SIGCONT);
        assert_eq!(read_end(&mut check).0, 0, "{first:?}");
    }
    expect_greeted(ip(2), &client, service.addr());
    until("the visit is logged", || !records(&server).is_empty());
    assert_eq!((records(&server).len(), service.accepted()), (1, 1), "the visit alone");
}

#[test]
fn rates_and_a_reload_count_for_whom_it_names() {
    let service = Service::greeter("hi");
    let server = Server::start(options().key("idle_conns", 4));
    let client = Client::start(&server, options().tunnel(service.addr()).tunnel_key("max_connection_rate", 1));
    let said = server.reload(&format!("trusted_proxies = [\"{PROXY}\"]\n"));
    assert!(said.contains("trusted_proxies"), "{said}");
    for last in 1..4 {
        let header = format!("PROXY TCP4 203.0.113.{last} 192.0.2.1 50000 443\r\n");
        // The listener hears of the reload a moment later.
        until("each name has its own allowance", || read_end(&mut via(&client, header.as_bytes())) == (2, End::Clean));
    }
    let again = b"PROXY TCP4 203.0.113.3 192.0.2.1 50000 443\r\n";
    assert_eq!(read_end(&mut via(&client, again)), (0, End::Reset));
    assert_eq!(visit_end_from(ip(2), client.public()).1, End::Clean, "who comes by himself");
}

/// Visits through a relay at `port`; the service must be told where they come from and
/// that they have come to the relay, and the log where they come from.
fn is_passed_on(server: &Server, port: u16) {
    let relay = SocketAddr::new(LOOPBACK, port);
    until("the relay listens", || TcpStream::connect(relay).is_ok());
    for n in 0..20u32 {
        let from = ip(u8::try_from(100 + n).expect("small"));
        let mut visitor = connect_from(from, relay).expect("not reset");
        let words = vec![7; (n as usize % 5) * 50_000];
        let own = visitor.local_addr().expect("bound").port();
        let told = format!("PROXY TCP4 {from} {} {own} {port}\r\n", Ipv4Addr::LOCALHOST);
        let mut writer = visitor.try_clone().expect("a descriptor");
        let sent = words.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).expect("sent");
            writer.write_all(b"end").expect("sent");
        });
        let mut answer = vec![0; told.len() + words.len() + 3];
        visitor.read_exact(&mut answer).expect("an answer");
        writing.join().expect("sent");
        assert!(answer.starts_with(told.as_bytes()), "{told}: {}", String::from_utf8_lossy(&answer[..60]));
        assert!(answer.ends_with(b"end"));
    }
    let from_here = |record: &Value| record["peer_ip"].as_str().is_some_and(|ip| ip.starts_with("127.0.0.1"));
    until("all are logged", || records(server).iter().filter(|record| from_here(record)).count() >= 20);
}

/// A server that trusts the relay, and an echo behind it that is told its visitors.
fn behind_a_relay() -> (Service, Server, Client) {
    let service = Service::echo();
    let server = Server::start(trusting());
    let client = Client::start(&server, options().tunnel(service.addr()).tunnel_key("proxy_protocol", "\"v1\""));
    (service, server, client)
}

#[test]
fn haproxy_says_who_visits_and_its_checks_are_no_visits() {
    let Some(program) = find("haproxy") else { return };
    for word in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let (service, server, client) = behind_a_relay();
        let (port, mut haproxy) = (free_port(), Foreign::new());
        let config = haproxy.file(
            "haproxy.cfg",
            format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
                 listen l\n bind {LOOPBACK}:{port}\n server s {} source {PROXY} {word} check check-send-proxy inter 20ms\n",
                client.public()
            ),
        );
        haproxy.start(&program, &["-db", "-f", &config]);
        is_passed_on(&server, port);
        // A busy machine may take a check for a visitor when its end is late; but not many.
        let strange = records(&server).iter().filter(|record| record["peer_ip"] == "127.0.0.8").count();
        assert!(strange < 20, "{word}: {strange} checks were passed on");
        assert!(service.accepted() >= 20);
    }
}

/// Of a visitor at a Unix socket haproxy says what it says of a check: LOCAL. One who speaks, and one who waits to be
/// spoken to, are served all the same, as the relay.
#[test]
fn haproxys_visitors_from_a_unix_socket_are_served() {
    let Some(program) = find("haproxy") else { return };
    let (echo, greeter) = (Service::echo(), Service::greeter("hi"));
    let server = Server::start(trusting());
    let client = Client::start(&server, options().tunnel(echo.addr()).tunnel(greeter.addr()));
    let mut haproxy = Foreign::new();
    let path = |name: &str| haproxy.dir().join(name).display().to_string();
    let sockets = [path("echo"), path("greeter")];
    let listens = [(&sockets[0], client.public_of(echo.addr())), (&sockets[1], client.public_of(greeter.addr()))];
    let listens = listens.map(|(path, to)| {
        format!("listen l{}\n bind unix@{path}\n server s {to} source {PROXY} send-proxy-v2\n", to.port())
    });
    let times = "timeout connect 5s\n timeout client 1h\n timeout server 1h\n";
    let config = haproxy.file("haproxy.cfg", format!("defaults\n mode tcp\n {times}{}", listens.concat()));
    haproxy.start(&program, &["-db", "-f", &config]);
    for (path, words, answer) in [(&sockets[0], "hello", "hello"), (&sockets[1], "", "hi")] {
        until("the relay listens", || UnixStream::connect(path).is_ok());
        let mut visitor = UnixStream::connect(path).expect("it listens");
        visitor.set_read_timeout(Some(PATIENCE)).expect("an option");
        visitor.write_all(words.as_bytes()).expect("sent");
        let mut read = vec![0; answer.len()];
        visitor.read_exact(&mut read).expect("it is served");
        assert_eq!(read, answer.as_bytes());
    }
    let own = |record: &Value| record["peer_ip"] == "127.0.0.8" && record["bytes_down"] != 0;
    until("both are logged", || records(&server).iter().filter(|record| own(record)).count() >= 2);
}

#[test]
fn nginx_says_who_visits() {
    let Some(StreamingNginx { program, load }) = StreamingNginx::find() else { return };
    let (_service, server, client) = behind_a_relay();
    let (port, mut nginx) = (free_port(), Foreign::new());
    let dir = nginx.dir().display().to_string();
    let server_block = format!(
        "server {{ listen {LOOPBACK}:{port}; proxy_pass {}; proxy_bind {PROXY}; proxy_protocol on; }}",
        client.public()
    );
    let config = nginx.file(
        "nginx.conf",
        format!(
            "{load}\ndaemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/log;\nevents {{}}\n\
             stream {{ {server_block} }}\n"
        ),
    );
    nginx.start(&program, &["-p", &dir, "-e", &format!("{dir}/log"), "-c", &config]);
    is_passed_on(&server, port);
}

/// Where a relay is that passes a server's own ports on, under their numbers.
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A relay that puts `header` in front of each connection.
fn relay(server: &Server, header: &'static [u8]) {
    for to in [server.ctl(), server.proxy()] {
        let listener = TcpListener::bind((RELAY, to.port())).expect("the port is free there");
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (mut near, mut far) = (near.expect("accepted"), connect_from(PROXY, to).expect("not reset"));
                far.write_all(header).expect("sent");
                let (mut near_too, mut far_too) =
                    (near.try_clone().expect("a descriptor"), far.try_clone().expect("a descriptor"));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut near, &mut far);
                    let _ = far.shutdown(Shutdown::Write);
                });
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut far_too, &mut near_too);
                    let _ = near_too.shutdown(Shutdown::Write);
                });
            }
        });
    }
}

/// P-FRONT-5.
#[test]
fn behind_a_relay_on_its_own_machine_a_server_without_a_token_knows_strangers() {
    let cases: [(&[u8], &str); 3] =
        [(NAMED, "stranger_refused"), (b"PROXY UNKNOWN\r\n", "send-proxy"), (b"", "send-proxy")];
    for (header, said) in cases {
        let server = Server::start(trusting());
        relay(&server, header);
        let service = Service::echo();
        let via = format!("{RELAY}:{}", server.ctl().port());
        let client = Client::spawn(&server, options().tunnel(service.addr()).via(via));
        server.log_line(said);
        assert!(!server.log().contains("session_began"), "{header:?}");
        if header == NAMED {
            assert_eq!(client.exit_code(), 2);
            assert!(server.log_line("203.0.113.7").contains("stranger_refused"));
        }
    }
}

/// P-FRONT-5.
#[test]
fn haproxy_says_who_a_client_is_with_and_without_tls() {
    let Some(program) = find("haproxy") else { return };
    for (word, tls) in [("send-proxy", false), ("send-proxy-v2", true)] {
        let trusting = trusting();
        let server = Server::start(if tls { trusting.tls() } else { trusting });
        let mut haproxy = Foreign::new();
        let listens = [server.ctl(), server.proxy()].map(|at| {
            format!(
                "listen p{0}\n bind {RELAY}:{0}\n server s {at} source {PROXY} {word} check check-send-proxy inter 20ms\n",
                at.port()
            )
        });
        let config = haproxy.file(
            "haproxy.cfg",
            format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n{}",
                listens.concat()
            ),
        );
        haproxy.start(&program, &["-db", "-f", &config]);
        for at in [server.ctl(), server.proxy()] {
            until("the relay listens", || TcpStream::connect((RELAY, at.port())).is_ok());
        }
        let service = Service::echo();
        let via = format!("{RELAY}:{}", server.ctl().port());
        let client = options().tunnel(service.addr()).via(via).key("source_addr", "\"127.0.0.9\"");
        let client = Client::start(&server, client);
        assert!(server.log_line("session_began").contains("\"127.0.0.9\""), "{word}");
        for number in 0..20 {
            short_visit(SocketAddr::new(LOOPBACK, client.public().port()), number);
        }
    }
}
