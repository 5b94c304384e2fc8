//! The alternative client in Python, written from PROTOCOL.md, against the real server: two programs that share
//! no code understand each other. It also reads the protocol's test vectors with its own codec.

use serde::Deserialize;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tests::datagrams::{DatagramService, echoed, pattern, visitor};
use tests::exchange::{Exchange, Exchanges, Order};
use tests::gate::Gate;
use tests::link::{Forgotten, Link, Namespace};
use tests::programs::{Client, Options, Program, Server, options};
use tests::root_only;
use tests::services::{Refusing, Service};
use tests::sockets::{End, bounded, connect, read_end, reset, unacknowledged, visit_end};
use tests::visits::ping;
use tests::wait::{PATIENCE, eventually, until, until_still};

/// Ends the test early, loudly, where there is no Python that can run the client.
macro_rules! python_only {
    () => {
        if !has_python() {
            eprintln!("{}: SKIPPED: needs python3, 3.8 or later", module_path!());
            return;
        }
    };
}

fn has_python() -> bool {
    let probe = Command::new("python3").args(["-c", "import sys; sys.exit(sys.version_info < (3, 8))"]).status();
    probe.is_ok_and(|status| status.success())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)
}

/// What the client says that it has done.
#[derive(Debug, Deserialize)]
struct Did {
    sessions: u64,
    resumed: u64,
    conns: u64,
    pongs: u64,
    transfers: u64,
    refused: u64,
    aborted: u64,
    unseen: u64,
}

struct Python(Program);

impl Python {
    /// Starts it, and does not wait for anything. What is said later counts.
    fn spawn(ctl: SocketAddr, local: SocketAddr, more: &[&str]) -> Self {
        Self::spawn_in(None, ctl, local, more)
    }

    fn spawn_in(network: Option<&Namespace>, ctl: SocketAddr, local: SocketAddr, more: &[&str]) -> Self {
        let (script, ctl, local) = (script("cproxy_client.py"), ctl.to_string(), local.to_string());
        let script = script.to_str().expect("a path in UTF-8");
        // The same short timings as the other client's in these tests.
        let brisk =
            ["--heartbeat-interval=0.3", "--heartbeat-timeout=2", "--reconnect-min=0.02", "--reconnect-max=0.2"];
        let words = [&["python3", "-B", script, "--server", &ctl, "--local", &local], &brisk[..], more].concat();
        Self(match network {
            Some(network) => Program::with_words_in(network, "/usr/bin/env", &words),
            None => Program::with_words("/usr/bin/env", &words),
        })
    }

    fn start(server: &Server, local: SocketAddr) -> Self {
        let client = Self::spawn(server.ctl(), local, &[]);
        client.public();
        client
    }

    /// The public address, once it says that it is reachable.
    fn public(&self) -> SocketAddr {
        let line = self.0.output_line("Forwarding ");
        let address = line.split(['/', ' ']).nth(3).and_then(|address| address.parse().ok());
        address.unwrap_or_else(|| panic!("no address in `{line}`"))
    }

    fn forwardings(&self) -> usize {
        self.0.output().iter().filter(|line| line.starts_with("Forwarding ")).count()
    }

    fn stop(&self) -> Did {
        self.0.stop_by_signal();
        let line = self.0.output_line("Stopped ");
        serde_json::from_str(line.trim_start_matches("Stopped ")).expect("its figures")
    }
}

/// P-UDP-2, P-UDP-3, P-UDP-4: datagrams in both directions, whole, by two programs that share no code.
#[test]
fn datagrams_travel_through_another_client() {
    python_only!();
    let echo = DatagramService::echo();
    // Beside a client whose datagrams may go by UDP; this one has never heard of that.
    let by_udp = |options: Options| options.brisk().key("datagram_transport", "\"auto\"");
    let server = Server::start(by_udp(options()).key("udp_idle_timeout", 1));
    let other = by_udp(options()).tunnel(echo.addr()).tunnel_key("protocol", "\"udp\"");
    let other = Client::start(&server, other);
    other.log_line("datagrams go by UDP");
    let client = Python::spawn(server.ctl(), echo.addr(), &["--udp"]);
    client.public();
    let sockets = || client.0.process().descriptors().sockets;
    let at_rest = usize::try_from(until_still("its conns", || sockets() as u64)).expect("few");
    for round in 0..2 {
        let visitor = visitor(client.public());
        for (number, size) in (1..).zip([0, 1, 300, 1_452, 9_000, 65_507]) {
            echoed(&visitor, &pattern(round * 10 + number, size));
        }
    }
    until("its flows are over", || sockets() <= at_rest);
    let did = client.stop();
    assert!(did.transfers >= 2 && did.sessions == 1, "{did:?}");
}

#[test]
fn the_vectors_are_read_alike_by_another_codec() {
    python_only!();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol-sm/vectors.json");
    let output =
        Command::new("python3").arg("-B").args([script("check_vectors.py"), vectors]).output().expect("run python3");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(" vectors agree"), "{said}");
}

/// P-STALE-3: a router forgets its idle conns: it says that it never saw the `Start`, and visitors are served once each.
#[test]
fn a_router_that_forgets_its_idle_conns_costs_no_visitor() {
    python_only!();
    root_only!();
    const VISITORS: u32 = 6;
    let link = Link::new(Duration::from_millis(2));
    let service = link.far.run(|| Exchanges::start_on(link.far.ip()));
    let token = TempDir::new().expect("a temporary directory");
    let file = token.path().join("token");
    std::fs::write(&file, "behind a router").expect("write the token");
    let near = options().network(&link.near).flag("bind-addr", link.near.ip()).key("idle_ping_interval", 3600);
    // A conn may be forgotten while it is being opened: it is opened once more in time.
    let near = near.key("wait_timeout", 60);
    let server = Server::start(near.env("CPROXY_TOKEN", "behind a router"));
    let with_token = ["--token-file", file.to_str().expect("a path in UTF-8")];
    let client = Python::spawn_in(Some(&link.far), server.ctl(), service.addr(), &with_token);
    let public = client.public();
    link.near.run(|| {
        Exchange::new(0).up(10).down(10).run(public);
        for number in 1..=VISITORS {
            let packets = [Forgotten::Reset, Forgotten::Dropped][number as usize % 2];
            link.forget(server.proxy().port(), packets);
            Exchange::new(number).up(100).down(1_000).run(public);
            service.expect(u64::from(number) + 1);
        }
    });
    let did = client.stop();
    assert_eq!((did.transfers, did.aborted), (u64::from(VISITORS) + 1, 0), "{did:?}");
    // A conn that is on its way while the router forgets may be the one that a visitor gets.
    assert!(did.unseen >= u64::from(VISITORS) / 2, "most found a conn that was forgotten: {did:?}");
}

#[test]
fn it_serves_half_closes_both_ways_and_reuses_its_conns() {
    python_only!();
    let service = Exchanges::start();
    let server = Server::start(options().threads(2));
    let client = Python::start(&server, service.addr());
    let mut visits = 0;
    for order in [Order::Together, Order::VisitorFirst, Order::ServiceFirst] {
        for (up, down) in [(0, 0), (0, 1), (1, 0), (70_000, 300_000), (2 << 20, 1 << 20)] {
            let exchange = Exchange::new(visits).up(up).down(down).order(order);
            for exchange in [exchange, exchange.slow_visitor(), exchange.slow_service()] {
                exchange.run(client.public());
                visits += 1;
            }
        }
    }
    service.expect(visits.into());
    let (did, stopped) = (client.stop(), server.stop());
    assert_eq!((did.transfers, stopped.finished), (visits.into(), visits.into()));
    assert_eq!((did.sessions, did.aborted, stopped.aborted), (1, 0, 0));
    assert!(did.conns < did.transfers / 2, "{} conns for {} transfers", did.conns, did.transfers);
}

#[test]
fn many_visitors_at_once_are_kept_apart() {
    python_only!();
    let service = Exchanges::start();
    let server = Server::start(options().threads(2));
    let client = Python::start(&server, service.addr());
    let public = client.public();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                for stream in (worker..64).step_by(8) {
                    Exchange::new(stream).up(20_000).down(40_000).run(public);
                }
            });
        }
    });
    service.expect(64);
    assert_eq!((client.stop().transfers, server.stop().finished), (64, 64));
}

#[test]
fn it_answers_idle_pings_and_keeps_its_conn() {
    python_only!();
    let service = Service::echo();
    let timing = options().threads(1).key("idle_conns", 1).key("idle_ping_interval", 0.05);
    let server = Server::start(timing);
    let client = Python::start(&server, service.addr());
    eventually("three pings are answered", || match client.0.log().matches(": pong").count() {
        0..3 => Err("too few".to_owned()),
        _ => Ok(()),
    });
    // The server keeps one ready and asks for the next as soon as that is taken.
    ping(&mut connect(client.public()), b"over a conn that was pinged");
    let did = client.stop();
    assert!(did.pongs >= 3 && did.conns <= 2, "{did:?}");
}

#[test]
fn it_resumes_its_session_and_loses_nothing() {
    python_only!();
    let service = Exchanges::start();
    let server = Server::start(options().brisk().key("session_grace", 60));
    let gate = Gate::before(server.ctl());
    let client = Python::spawn(gate.addr(), service.addr(), &["--transfer-grace=60"]);
    let public = client.public();
    let losses: [fn(&Gate); 2] = [Gate::cut, Gate::hang_up];
    let orders = [Order::Together, Order::VisitorFirst, Order::ServiceFirst];
    let mut stream = 0;
    for (loss, order) in losses.into_iter().flat_map(|loss| orders.map(|order| (loss, order))) {
        // Connected while all is well; both ends happen while the ctl_conn is away.
        let visitor = connect(public);
        let before = gate.accepted();
        gate.close();
        loss(&gate);
        std::thread::scope(|scope| {
            let exchange = Exchange::new(stream).up(300_000).down(200_000).order(order);
            let visit = scope.spawn(move || exchange.try_run(visitor));
            // Time to get stuck in; nothing depends on how far it comes.
            std::thread::sleep(Duration::from_millis(100));
            gate.open();
            assert_eq!(visit.join().expect("no panic"), Ok(()));
        });
        until("the client is back", || gate.accepted() > before);
        stream += 1;
    }
    service.expect(stream.into());
    assert_eq!(client.forwardings(), 1, "the port stayed");
    let did = client.stop();
    assert_eq!((did.sessions, did.transfers, did.aborted), (1, stream.into(), 0), "{did:?}");
    assert!(did.resumed >= stream.into(), "{did:?}");
}

#[test]
fn a_refused_visitor_is_reset_and_the_conn_is_reused() {
    python_only!();
    let service = Refusing::reserve();
    let server = Server::start(options().threads(1).key("idle_conns", 1));
    let client = Python::start(&server, service.addr());
    for _ in 0..20 {
        assert_eq!(visit_end(client.public()), (0, End::Reset));
        // A visitor who is reset at once may not even come to speak.
        if let Ok(mut visitor) = TcpStream::connect(client.public()) {
            bounded(&visitor, PATIENCE);
            // A reset is told once, to the writer or to the reader.
            if visitor.write_all(b"bytes that reach nobody").is_ok() {
                assert_eq!(read_end(&mut visitor), (0, End::Reset));
            }
        }
    }
    let did = client.stop();
    assert_eq!((did.refused, did.aborted), (40, 0), "{did:?}");
    assert!(did.conns < 20, "{did:?}");
    server.stop();
}

#[test]
fn resets_pass_in_both_directions() {
    python_only!();
    let service = Service::start(|mut stream| {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_ok() && byte == *b"r" {
            return reset(stream);
        }
        let _ = stream.write_all(b"x");
        assert_eq!(read_end(&mut stream).1, End::Reset, "the visitor's reset arrives as one");
    });
    let server = Server::start(options());
    let client = Python::start(&server, service.addr());
    let mut visitor = connect(client.public());
    visitor.write_all(b"r").expect("send");
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
    let mut visitor = connect(client.public());
    visitor.write_all(b"v").expect("send");
    visitor.read_exact(&mut [0]).expect("it is being served");
    reset(visitor);
    until("both connections have ended at the service", || (service.accepted(), service.open()) == (2, 0));
    assert_eq!(service.panicked(), 0, "see above for what the service saw");
    let did = client.stop();
    assert_eq!((did.transfers, did.aborted), (2, 0), "a reset is an end, and costs no conn: {did:?}");
}

/// P-FIN-9: the system tells a reset once, and a write may have it. None of them may look like a clean end, and what was
/// said before (P-FIN-8) arrives.
#[test]
fn a_service_that_resets_while_it_is_sent_to_is_never_seen_to_end_well() {
    python_only!();
    const ANSWER: usize = 200;
    let service = Service::start(|mut stream| {
        stream.read_exact(&mut [0; 1001]).expect("the head");
        assert!(stream.peek(&mut [0]).expect("more of it") > 0);
        stream.write_all(&[b'4'; ANSWER]).expect("it is taken");
        // Closed with bytes unread: its kernel resets.
    });
    let server = Server::start(options().threads(2));
    let client = Python::start(&server, service.addr());
    let public = client.public();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                for visit in 0..100 {
                    let mut visitor = connect(public);
                    // How much is on its way when the service resets differs from visit to visit.
                    let upload = vec![b'u'; [2_000, 20_000, 300_000][visit % 3] + 997 * worker];
                    // Of the visitor, too, either the write or the read is told.
                    let told = visitor.write_all(&upload).is_err();
                    let (read, end) = read_end(&mut visitor);
                    assert!(told || end == End::Reset, "visit {visit} of {worker} ended well after {read} bytes");
                    assert_eq!(read, ANSWER as u64, "visit {visit} of {worker}");
                }
            });
        }
    });
    until("the service has seen them go", || (service.accepted(), service.open()) == (400, 0));
    assert_eq!(service.panicked(), 0, "see above for what the service saw");
    let did = client.stop();
    assert_eq!((did.transfers, did.aborted), (400, 0), "{did:?}");
    assert!(did.conns < 40, "resets cost no conns: {did:?}");
}

/// As a service resets that wants its last words to arrive.
fn reset_when_sent(stream: TcpStream) {
    until("everything is acknowledged", || unacknowledged(&stream) == 0);
    reset(stream);
}

/// P-FIN-8, P-FIN-12, P-FIN-13, P-FIN-14: what was sent before a reset is read before it, in both directions.
#[test]
fn what_was_sent_before_a_reset_is_read_before_it() {
    python_only!();
    const BYTES: usize = 60_000;
    let service = Service::start(|mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("what to do");
        if byte == *b"r" {
            stream.write_all(&[b'x'; BYTES]).expect("it is taken");
            return reset_when_sent(stream);
        }
        stream.write_all(b"y").expect("it is taken");
        assert_eq!(read_end(&mut stream), (BYTES as u64, End::Reset));
    });
    let server = Server::start(options().threads(1).key("idle_conns", 1));
    let client = Python::start(&server, service.addr());
    for _ in 0..20 {
        let mut visitor = connect(client.public());
        visitor.write_all(b"r").expect("send");
        assert_eq!(read_end(&mut visitor), (BYTES as u64, End::Reset));
        let mut visitor = connect(client.public());
        visitor.write_all(b"v").expect("send");
        visitor.read_exact(&mut [0]).expect("it is being served");
        visitor.write_all(&[b'z'; BYTES]).expect("send");
        reset_when_sent(visitor);
    }
    until("all connections have ended at the service", || (service.accepted(), service.open()) == (40, 0));
    assert_eq!(service.panicked(), 0, "see above for what the service saw");
    let did = client.stop();
    assert_eq!((did.transfers, did.aborted), (40, 0), "{did:?}");
    assert!(did.conns < 20, "resets cost no conns: {did:?}");
}

#[test]
fn a_token_is_proved_and_a_wrong_one_is_final() {
    python_only!();
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let file = |name: &str, token: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, token).expect("write the token");
        path.to_str().expect("a path in UTF-8").to_owned()
    };
    let (right, wrong) = (file("right", "correct horse battery staple\n"), file("wrong", "incorrect horse\n"));
    let service = Service::echo();
    let server = Server::start(options().flag("token-file", &right));
    let client = Python::spawn(server.ctl(), service.addr(), &["--token-file", &right]);
    ping(&mut connect(client.public()), b"let in");
    let stranger = Python::spawn(server.ctl(), service.addr(), &["--token-file", &wrong]);
    assert_eq!(stranger.0.exit_code(), 2);
    stranger.0.log_line("refused: WrongToken");
    let nobody = Python::spawn(server.ctl(), service.addr(), &[]);
    assert_eq!(nobody.0.exit_code(), 2);
    nobody.0.log_line("refused: TokenRequired");
    ping(&mut connect(client.public()), b"not disturbed");
}

#[test]
fn the_same_client_takes_over_only_from_a_dead_one() {
    python_only!();
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let identity = ["--client-id", "000102030405060708090a0b0c0d0e0f"];
    let first = Python::spawn(server.ctl(), service.addr(), &identity);
    let public = first.public();
    let port = public.port().to_string();
    let same = [&identity[..], &["--public-port", &port]].concat();
    let second = Python::spawn(server.ctl(), service.addr(), &same);
    second.0.log_line("refused: IdentityInUse");
    ping(&mut connect(public), b"served by the first");
    first.0.kill();
    assert_eq!(second.public(), public, "the port is free at once");
    ping(&mut connect(public), b"served by the second");
}

#[test]
fn both_clients_share_a_server() {
    python_only!();
    let (one, other) = (Service::greeter("python"), Service::greeter("rust"));
    let server = Server::start(options());
    let python = Python::start(&server, one.addr());
    let rust = Client::start(&server, options().tunnel(other.addr()));
    for _ in 0..10 {
        assert_eq!(said_at(python.public()), "python");
        assert_eq!(said_at(rust.public()), "rust");
    }
}

fn said_at(public: SocketAddr) -> String {
    let mut visitor: TcpStream = connect(public);
    let mut said = String::new();
    visitor.read_to_string(&mut said).expect("a clean end");
    said
}
