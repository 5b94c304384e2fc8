//! PROXY headers in front of datagrams: what a service is told of who visits, and what relays tell the server.

use protocol_sm::proxy_protocol::datagram_header;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use tests::datagrams::{DatagramService, ask, echoed, visitor, visitor_from};
use tests::foreign::{Foreign, find};
use tests::programs::{Client, Options, Server, options};
use tests::sockets::free_port;
use tests::wait::{PATIENCE, eventually, until};

/// The address of the relay, whose word is taken.
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);
const NOBODY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

fn udp(local: SocketAddr) -> Options {
    options().brisk().tunnel(local).tunnel_key("protocol", "\"udp\"")
}

fn trusting() -> Options {
    options().brisk().key("trusted_proxies", format!("[\"{RELAY}\"]")).key("access_log", true)
}

fn named(visitor: &str) -> Vec<u8> {
    datagram_header(visitor.parse().expect("an address"), (Ipv4Addr::LOCALHOST, 53).into())
}

/// A service that answers each datagram with its last byte, and tells all of it and whose socket it came from.
fn teller() -> (DatagramService, Receiver<(SocketAddr, Vec<u8>)>) {
    let (tell, told) = channel();
    let service = DatagramService::at((Ipv4Addr::LOCALHOST, 0).into(), move |socket, datagram, from| {
        let _ = tell.send((from, datagram.to_vec()));
        let _ = socket.send_to(&datagram[datagram.len().saturating_sub(1)..], from);
    });
    (service, told)
}

/// The datagram that ends with this byte, as the service heard it.
fn told(told: &Receiver<(SocketAddr, Vec<u8>)>, last: u8) -> (SocketAddr, Vec<u8>) {
    loop {
        let heard = told.recv_timeout(PATIENCE).expect("the service hears it");
        if heard.1.last() == Some(&last) {
            return heard;
        }
    }
}

/// Those of the visits so far, by who they were: bytes up.
fn visits(server: &Server) -> BTreeMap<String, u64> {
    let lines = server.log().lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect::<Vec<_>>();
    let visits = lines.into_iter().filter(|line| line["event"] == "visit");
    let text = |visit: &Value| visit["peer_ip"].as_str().expect("an address").to_owned();
    visits.map(|visit| (text(&visit), visit["bytes_up"].as_u64().expect("a number"))).collect()
}

/// P-UDP-9: in front of each datagram, or of the first of a flow alone; what comes back has none.
#[test]
fn a_service_is_told_who_has_sent_each_datagram() {
    let server = Server::start(options().brisk());
    for first in [false, true] {
        let (service, heard) = teller();
        let options = udp(service.addr()).tunnel_key("proxy_protocol", "\"v2\"");
        let client = Client::start(&server, options.tunnel_key("proxy_protocol_first", first));
        let visitor = visitor(client.public());
        let header = datagram_header(visitor.local_addr().expect("bound"), client.public());
        for last in 1..=3 {
            ask(&visitor, &[7, last], |answer| answer == [last]);
            let expected = if first && last > 1 { vec![7, last] } else { [&header[..], &[7, last]].concat() };
            // A question may be asked again, but none is lost between these four.
            assert_eq!(told(&heard, last).1, expected);
        }
        client.stop();
    }
}

/// P-FRONT-6: many visitors come from one port of a relay, each in a flow of his own, and are answered there.
#[test]
fn a_relay_says_whose_each_datagram_is() {
    let (service, heard) = teller();
    let server = Server::start(trusting().key("deny_sources", r#"["203.0.113.9"]"#));
    let client = Client::start(&server, udp(service.addr()).tunnel_key("proxy_protocol", "\"v2\""));
    let relay = visitor_from(RELAY.into(), client.public());
    let mut sockets = BTreeMap::new();
    for (last, from) in (1..).zip(["203.0.113.7:50000", "203.0.113.8:50000", "203.0.113.7:50000", "[2001:db8::7]:1"]) {
        let said = [&named(from)[..], &[last]].concat();
        ask(&relay, &said, |answer| answer == [last]);
        let (socket, datagram) = told(&heard, last);
        assert_eq!(datagram, said, "the service is told in its turn");
        let of_it = *sockets.entry(from).or_insert(socket);
        assert_eq!(of_it, socket, "a visitor has one flow");
    }
    assert_eq!(sockets.values().collect::<BTreeSet<_>>().len(), 3);
    // The same visitor from another port of the relay: the same flow, answered there.
    let other = visitor_from(RELAY.into(), client.public());
    ask(&other, &[&named("203.0.113.7:50000")[..], &[9]].concat(), |answer| answer == [9]);
    assert_eq!(told(&heard, 9).0, sockets["203.0.113.7:50000"]);
    // Who says so without a relay is somebody else.
    let forger = visitor(client.public());
    ask(&forger, &[&named("203.0.113.7:50000")[..], &[10]].concat(), |answer| answer == [10]);
    let (socket, datagram) = told(&heard, 10);
    assert!(!sockets.values().any(|&of| of == socket), "from others a header is payload");
    assert!(datagram.ends_with(&[&named("203.0.113.7:50000")[..], &[10]].concat()), "all of it");
    // Whom the lists deny is let in by no relay.
    relay.send(&[&named("203.0.113.9:50000")[..], &[11]].concat()).expect("UDP sends");
    ask(&relay, &[&named("203.0.113.8:50000")[..], &[12]].concat(), |answer| answer == [12]);
    while let Ok((_, datagram)) = heard.try_recv() {
        assert_ne!(datagram.last(), Some(&11), "a denied visitor is heard");
    }
    client.stop();
    let seen = eventually("the visits are logged", || {
        Some(visits(&server)).filter(|visits| visits.len() == 4).ok_or("not yet".into())
    });
    let who: Vec<_> = seen.keys().map(String::as_str).collect();
    assert_eq!(who, ["127.0.0.1", "2001:db8::7", "203.0.113.7", "203.0.113.8"]);
}

/// P-FRONT-6: a relay's own check is answered, and is no visit; what has no header is nobody's.
#[test]
fn a_relays_check_is_answered_and_not_counted() {
    let (service, heard) = teller();
    let server = Server::start(trusting().key("deny_sources", format!("[\"{RELAY}\"]")));
    let client = Client::start(&server, udp(service.addr()).tunnel_key("proxy_protocol", "\"v2\""));
    let relay = visitor_from(RELAY.into(), client.public());
    for bad in [&b"PROXY TCP4 203.0.113.7 127.0.0.1 1 1\r\n\x01"[..], &[1], b"", &LOCAL[..15], NOBODY] {
        relay.send(bad).expect("UDP sends");
    }
    ask(&relay, &[LOCAL, &[2]].concat(), |answer| answer == [2]);
    let header = datagram_header(relay.local_addr().expect("bound"), client.public());
    assert_eq!(told(&heard, 2).1, [&header[..], &[2]].concat(), "a service is never told LOCAL");
    assert_eq!(service.heard().len(), 1, "nobody else was heard");
    client.stop();
    assert_eq!(server.stop().visitors, 0, "nobody has visited");
}

/// A reload changes whose word is taken, for ports that are open.
#[test]
fn a_reload_changes_whose_word_is_taken() {
    let echo = DatagramService::echo();
    let server = Server::start(options().brisk());
    let client = Client::start(&server, udp(echo.addr()));
    let relay = visitor_from(RELAY.into(), client.public());
    let with = [&named("203.0.113.7:50000")[..], b"hello"].concat();
    echoed(&relay, &with);
    server.reload(&format!("trusted_proxies = [\"{RELAY}\"]\n"));
    ask(&relay, &with, |answer| answer == b"hello");
}

/// dnsdist in front, knot behind: its answers say where it was asked from.
#[test]
fn dnsdist_and_knot_tell_who_asks_through_a_tunnel() {
    tests::limit::arm();
    let (Some(dnsdist), Some(knot), Some(dig)) = (find("dnsdist"), find("knotd"), find("dig")) else { return };
    let mut foreign = Foreign::new();
    let (service, front, dir) = (free_port(), free_port(), foreign.dir().display().to_string());
    let _ = foreign.file("zone", "$ORIGIN who.example.\n@ 0 SOA ns hm 1 60 60 60 0\n@ 0 NS ns\nns 0 A 127.0.0.1\n");
    let conf = foreign.file(
        "knot.conf",
        format!(
            "server:\n  rundir: \"{dir}\"\n  listen: 127.0.0.1@{service}\n  proxy-allowlist: 127.0.0.1\n\
             database:\n  storage: \"{dir}\"\nmod-whoami:\n  - id: me\nzone:\n  - domain: who.example\n    \
             storage: \"{dir}\"\n    file: zone\n    module: mod-whoami\n"
        ),
    );
    foreign.start(&knot, &["-c", &conf]);
    let server = Server::start(trusting());
    let client =
        Client::start(&server, udp((Ipv4Addr::LOCALHOST, service).into()).tunnel_key("proxy_protocol", "\"v2\""));
    let conf = foreign.file(
        "dnsdist.conf",
        format!(
            "setSecurityPollSuffix(\"\")\nsetLocal(\"127.0.0.1:{front}\")\nnewServer({{address=\"{}\", \
             useProxyProtocol=true, source=\"{RELAY}\", checkType=\"A\", checkName=\"who.example.\", checkInterval=1}})\n",
            client.public()
        ),
    );
    foreign.start(&dnsdist, &["--supervised", "--disable-syslog", "-C", &conf]);
    let asks = |from: &str, port: u16| {
        let words = ["-b", from, "@127.0.0.1", "-p", &port.to_string(), "+notcp", "+short", "+tries=1", "+timeout=1"];
        let output = Command::new(&dig).args(words).args(["who.example", "A"]).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    for from in ["127.0.0.5", "127.0.0.6"] {
        until("knot is asked from there, by dnsdist", || asks(from, front) == from);
        until("knot is asked from there, by the public port", || asks(from, client.public().port()) == from);
    }
    drop(foreign);
    client.stop();
    let seen = eventually("the visits are logged", || {
        Some(visits(&server)).filter(|visits| visits.len() == 2).ok_or("not yet".into())
    });
    assert!(seen.keys().eq(["127.0.0.5", "127.0.0.6"]), "the checks of dnsdist are none: {seen:?}");
}

/// PowerDNS takes the headers, and answers those whom they name.
#[test]
fn powerdns_answers_through_a_tunnel() {
    tests::limit::arm();
    let (Some(powerdns), Some(dig)) = (find("pdns_server"), find("dig")) else { return };
    let mut foreign = Foreign::new();
    let (service, dir) = (free_port(), foreign.dir().display().to_string());
    let zone = foreign.file(
        "zone",
        "$ORIGIN who.example.\n@ 0 SOA ns hm 1 60 60 60 0\n@ 0 NS ns\nns 0 A 127.0.0.1\nme 0 LUA TXT \"who:toString()\"\n",
    );
    let named = foreign.file("named.conf", format!("zone \"who.example\" {{ type master; file \"{zone}\"; }};\n"));
    let _ = foreign.file(
        "pdns.conf",
        format!(
            "launch=bind\nbind-config={named}\nlocal-address=127.0.0.1\nlocal-port={service}\nsocket-dir={dir}\n\
             proxy-protocol-from=127.0.0.1\nenable-lua-records=yes\nsecurity-poll-suffix=\ncache-ttl=0\nquery-cache-ttl=0\n"
        ),
    );
    foreign.start(&powerdns, &[&format!("--config-dir={dir}"), "--guardian=no", "--daemon=no"]);
    let server = Server::start(options().brisk());
    let client =
        Client::start(&server, udp((Ipv4Addr::LOCALHOST, service).into()).tunnel_key("proxy_protocol", "\"v2\""));
    for from in ["127.0.0.5", "127.0.0.6"] {
        until("it is asked from there", || {
            let port = client.public().port().to_string();
            let words = ["-b", from, "@127.0.0.1", "-p", &port, "+notcp", "+short", "+tries=1", "+timeout=1"];
            let output = Command::new(&dig).args(words).args(["me.who.example", "TXT"]).output().expect("it runs");
            String::from_utf8_lossy(&output.stdout).contains(from)
        });
    }
}
