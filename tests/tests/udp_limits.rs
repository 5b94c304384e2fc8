//! What flows may use, and what is told of them: limits, rates, the access log, `status`.

use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;
use tests::datagrams::{DatagramService, ask, echoed, pattern, visitor, visitor_from};
use tests::programs::{Client, Options, Server, directory, options};
use tests::wait::{eventually, until};

/// A server whose `status` is asked.
struct Watched {
    server: Server,
    socket: PathBuf,
    _folder: TempDir,
}

impl Watched {
    fn start(options: Options) -> Self {
        let folder = TempDir::new().expect("a directory");
        let socket = folder.path().join("admin");
        let options = options.brisk().key("admin_socket", format!("{socket:?}"));
        Self { server: Server::start(options), socket, _folder: folder }
    }

    fn status(&self) -> Result<Value, String> {
        let mut asks = Command::new(directory().join("cproxy-server"));
        let status = asks.args(["status", "--json", "--socket"]).arg(&self.socket).output().expect("it runs");
        serde_json::from_slice(&status.stdout).map_err(|error| error.to_string())
    }

    /// Datagrams that were lost for this reason.
    fn lost(&self, reason: &str) -> u64 {
        eventually("it answers", || {
            let status = self.status()?;
            status["datagrams_lost"][reason].as_u64().ok_or(status.to_string())
        })
    }
}

fn udp(local: SocketAddr) -> Options {
    options().brisk().tunnel(local).tunnel_key("protocol", "\"udp\"")
}

/// Makes `visitor` one that both sides have heard of twice.
fn known(visitor: &UdpSocket, number: u64) {
    for round in 0..3 {
        echoed(visitor, &pattern(number * 10 + round, 50));
    }
}

/// What is lost is counted, by reason.
#[test]
fn what_is_lost_is_counted() {
    let echo = DatagramService::echo();
    let server = Watched::start(options());
    let client = Client::start(&server.server, udp(echo.addr()).tunnel_key("deny_sources", "[\"127.0.0.8/32\"]"));
    let denied = visitor_from([127, 0, 0, 8].into(), client.public());
    until("the datagrams of a source that may not visit are counted", || {
        denied.send(b"let me in").expect("UDP sends");
        server.lost("no_flow") > 2
    });
    assert!(echo.heard().is_empty(), "nobody was let in");
    echoed(&visitor(client.public()), b"others are");
}

/// P-UDP-7: `max_flows` is each tunnel's; who is known keeps his flow, and a newcomer has one when somebody is silent.
#[test]
fn a_tunnel_has_as_many_flows_as_its_holder_may_have() {
    let echo = DatagramService::echo();
    let other = DatagramService::echo();
    let server = Watched::start(options().key("max_flows", 2));
    let both = udp(echo.addr()).tunnel(other.addr()).tunnel_key("protocol", "\"udp\"");
    let client = Client::start(&server.server, both);
    let public = client.public_of(echo.addr());
    let inside = [visitor(public), visitor(public)];
    for (number, visitor) in (1..).zip(&inside) {
        known(visitor, number);
    }
    let newcomer = visitor(public);
    until("the newcomer's datagrams are counted as lost", || {
        newcomer.send(b"one more").expect("UDP sends");
        server.lost("no_flow") > 2
    });
    for (number, visitor) in (11..).zip(&inside) {
        known(visitor, number);
    }
    assert_eq!(echo.heard().len(), 2, "their flows are the same");
    known(&visitor(client.public_of(other.addr())), 21);
    let said = server.server.reload("max_flows = 3\n");
    assert!(said.contains("reloaded"), "{said}");
    known(&newcomer, 31);
}

/// P-TUN-9: a source may begin so many flows a minute, and go on with those that it has.
#[test]
fn a_source_begins_as_many_flows_as_its_rate_allows() {
    let echo = DatagramService::echo();
    let server = Watched::start(options());
    let client = Client::start(&server.server, udp(echo.addr()).tunnel_key("max_connection_rate", 2));
    let first = [visitor(client.public()), visitor(client.public())];
    for (number, visitor) in (1..).zip(&first) {
        known(visitor, number);
    }
    let third = visitor(client.public());
    third.send(b"too often").expect("UDP sends");
    until("it is counted as lost", || server.lost("no_flow") > 0);
    for (number, visitor) in (11..).zip(&first) {
        known(visitor, number);
    }
    known(&visitor_from(Ipv4Addr::new(127, 0, 0, 9).into(), client.public()), 21);
}

/// `max_bandwidth`: what is too much is dropped and counted, and what comes later is not late for it.
#[test]
fn what_is_above_the_bandwidth_is_dropped() {
    let echo = DatagramService::echo();
    let server = Watched::start(options());
    let client = Client::start(&server.server, udp(echo.addr()).tunnel_key("max_bandwidth", 100_000));
    let visitor = visitor(client.public());
    until("some of it is counted as lost", || {
        for number in 0..20 {
            visitor.send(&pattern(number, 20_000)).expect("UDP sends");
        }
        server.lost("late") + server.lost("no_room") > 20
    });
    echoed(&visitor, b"little goes through");
}

/// A flow is a visit: one line in the access log, one visitor in `status`, whose tunnel says that it is of UDP.
#[test]
fn a_flow_is_told_of_as_a_visitor() {
    let echo = DatagramService::echo();
    let server = Watched::start(options().key("access_log", true).key("udp_idle_timeout", 0.5));
    let client = Client::start(&server.server, udp(echo.addr()));
    let visitor = visitor(client.public());
    ask(&visitor, b"0123456789", |answer| answer == b"0123456789");
    let asks = || server.status().expect("it answers");
    let status = asks();
    let tunnel = &status["sessions"][0]["tunnels"][0];
    assert!(tunnel["url"].as_str().is_some_and(|url| url.starts_with("udp://")), "{tunnel}");
    assert_eq!(tunnel["total"], 1, "{tunnel}");
    until("it is over", || asks()["sessions"][0]["tunnels"][0]["visitors"] == 0);
    let lines = || {
        let log = server.server.log();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect::<Vec<_>>();
        lines.into_iter().filter(|line| line["event"] == "visit").collect::<Vec<_>>()
    };
    until("it is logged", || !lines().is_empty());
    let lines = lines();
    let from = visitor.local_addr().expect("bound");
    assert_eq!((&lines[0]["peer_ip"], &lines[0]["peer_port"]), (&"127.0.0.1".into(), &from.port().into()));
    assert!(lines[0]["outcome"] == "served" && lines[0]["bytes_up"].as_u64() >= Some(12), "{lines:?}");
    assert_eq!(lines.len(), 1, "one line a flow: {lines:?}");
}
