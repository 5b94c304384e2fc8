//! UDP tunnels: datagrams stay datagrams, each flow by itself.

use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tests::datagrams::{DatagramService, ask, echoed, pattern, visitor, visitor_from};
use tests::foreign::{Foreign, find};
use tests::gate::Gate;
use tests::programs::{Client, Options, Server, Successors, options};
use tests::root_only;
use tests::services::Service;
use tests::sockets::{connect, free_port};
use tests::visits::ping;
use tests::wait::{eventually, until};

fn udp(options: Options, local: SocketAddr) -> Options {
    options.brisk().tunnel(local).tunnel_key("protocol", "\"udp\"")
}

fn setup(server: Options, service: &DatagramService) -> (Server, Client) {
    let server = Server::start(server.brisk());
    let client = Client::start(&server, udp(options(), service.addr()));
    (server, client)
}

/// P-UDP-2: whole, never merged, split or cut, in both directions; empty ones, too.
#[test]
fn datagrams_of_every_size_come_back_whole() {
    let echo = DatagramService::echo();
    let (_server, client) = setup(options(), &echo);
    assert!(client.output().iter().any(|line| line.starts_with("Forwarding udp://")), "{:?}", client.output());
    let visitor = visitor(client.public());
    let sizes = [0, 1, 2, 8, 255, 256, 1_452, 1_500, 1_501, 2_049, 5_243, 9_000, 32_767, 32_768, 65_506, 65_507];
    for (number, size) in (1..).zip(sizes.into_iter().chain((3..65_507).step_by(6_007))) {
        echoed(&visitor, &pattern(number, size));
    }
    let heard = echo.heard();
    assert_eq!(heard.len(), 1, "a flow has one socket towards the service: {heard:?}");
}

/// P-UDP-3: each flow hears what is its own.
#[test]
fn a_thousand_flows_are_served_at_once() {
    const FLOWS: u64 = 1_000;
    let echo = DatagramService::echo();
    let (_server, client) = setup(options().threads(2), &echo);
    let visitors: Vec<_> = (0..FLOWS).map(|_| visitor(client.public())).collect();
    for round in 0..2 {
        for (number, visitor) in (0..).zip(&visitors) {
            let mine = pattern(round * FLOWS + number, 64);
            ask(visitor, &mine, |answer| {
                let of = u64::from_be_bytes(answer[..8].try_into().expect("eight bytes"));
                assert_eq!(of % FLOWS, number, "another flow's datagram");
                answer == mine
            });
        }
    }
    assert!(echo.heard().len() as u64 >= FLOWS, "each flow has a socket of its own");
}

/// P-UDP-5: a flow that is silent ends, and its conn carries the next one.
#[test]
fn a_silent_flow_ends_and_its_conn_is_used_again() {
    let echo = DatagramService::echo();
    let options = options().key("udp_idle_timeout", 0.5).key("idle_conns", 1);
    // A way by UDP is a socket, too, which comes when it likes.
    let (server, client) = setup(options.key("datagram_transport", "\"tcp\""), &echo);
    let conns = || client.process().connections_to(server.proxy().port());
    until("one conn is idle", || conns() == 1);
    let sockets = || client.process().descriptors().sockets;
    let at_rest = sockets();
    for round in 1..=3 {
        let visitor = visitor(client.public());
        echoed(&visitor, &pattern(round, 100));
        echoed(&visitor, &pattern(round, 100));
        until("the flow is over", || sockets() <= at_rest);
    }
    assert_eq!(conns(), 1, "one conn has carried them all");
}

/// P-UDP-4: a flow has its own socket for as long as it lives, whatever becomes of the ctl_conn.
#[test]
fn a_flow_keeps_its_socket_across_the_loss_of_the_ctl_conn() {
    let echo = DatagramService::echo();
    let server = Server::start(options().brisk());
    let gate = Gate::before(server.ctl());
    let client = Client::start(&server, udp(options(), echo.addr()).via(gate.addr()));
    let visitor = visitor(client.public());
    let losses: [fn(&Gate); 2] = [Gate::cut, Gate::hang_up];
    for (number, lose) in (1..).zip(losses) {
        echoed(&visitor, &pattern(number, 700));
        let before = gate.accepted();
        lose(&gate);
        echoed(&visitor, &pattern(100 + number, 700));
        until("the client is back", || gate.accepted() > before);
        echoed(&visitor, &pattern(200 + number, 700));
    }
    assert_eq!(echo.heard().len(), 1, "one flow, one socket");
}

/// P-UDP-4: a service that is away ends the flow, and the next datagram finds the one that is there again.
#[test]
fn a_service_may_go_away_and_come_back() {
    let away = (Ipv4Addr::LOCALHOST, free_port()).into();
    let server = Server::start(options().brisk());
    let client = Client::start(&server, udp(options(), away));
    let visitor = visitor(client.public());
    for _ in 0..2 {
        for number in 0..20 {
            visitor.send(&pattern(number, 10)).expect("UDP sends");
        }
        let echo = DatagramService::at(away, |socket, datagram, from| drop(socket.send_to(datagram, from)));
        echoed(&visitor, b"is anybody there?");
        drop(echo);
    }
    assert!(client.is_running() && server.is_running());
}

/// P-UDP-8: a reply comes from where its visitor has sent to.
#[test]
fn replies_leave_from_the_address_that_was_spoken_to() {
    let echo = DatagramService::echo();
    let server = Server::start(options().brisk().flag("bind-addr", "0.0.0.0"));
    let via = format!("127.0.0.1:{}", server.ctl().port());
    let client = Client::spawn(&server, udp(options(), echo.addr()).via(via));
    let port = client.forwarding_after(0, &echo.addr().to_string()).port;
    for (number, own) in (1..).zip([[127, 0, 0, 1], [127, 0, 0, 7], [127, 3, 2, 1]]) {
        let visitor = visitor_from([127, 0, 0, 9].into(), (own, port).into());
        echoed(&visitor, &pattern(number, 33));
    }
}

/// P-UDP-8: a service may answer from another port, as TFTP does, where its tunnel says so.
#[test]
fn a_service_that_answers_from_another_port_is_followed() {
    let transfers = Arc::new(AtomicU64::new(0));
    let begun = Arc::clone(&transfers);
    let tftp = DatagramService::at((Ipv4Addr::LOCALHOST, 0).into(), move |_, datagram, from| {
        begun.fetch_add(1, Ordering::SeqCst);
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let _ = other.send_to(&[b"block of ", datagram].concat(), from);
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            other.set_read_timeout(Some(tests::wait::PATIENCE)).expect("a timeout");
            while let Ok((length, from)) = other.recv_from(&mut buffer) {
                let _ = other.send_to(&[b"after ", &buffer[..length]].concat(), from);
            }
        });
    });
    let server = Server::start(options().brisk());
    let client = Client::start(&server, udp(options(), tftp.addr()).tunnel_key("udp_follow", true));
    let visitor = visitor(client.public());
    ask(&visitor, b"a file", |answer| answer == b"block of a file");
    let asked = transfers.load(Ordering::SeqCst);
    ask(&visitor, b"ack 1", |answer| answer == b"after ack 1");
    assert_eq!(transfers.load(Ordering::SeqCst), asked, "the acknowledgement went to the other port");
}

/// P-UDP-7: whoever floods a port from many addresses pushes out nobody who is known.
#[test]
fn a_flood_from_many_sources_leaves_those_alone_who_are_known() {
    let echo = DatagramService::echo();
    let server = Server::start(options().brisk());
    let options = udp(options(), echo.addr()).tunnel_key("max_connections", 20);
    let client = Client::start(&server, options);
    let public = client.public();
    let honest: Vec<_> = (0..5).map(|_| visitor(public)).collect();
    for (number, visitor) in (1..).zip(&honest) {
        echoed(visitor, &pattern(number, 50));
        echoed(visitor, &pattern(number + 100, 50));
        echoed(visitor, &pattern(number + 200, 50));
    }
    let known: BTreeSet<_> = echo.heard().into_keys().collect();
    for source in 0..2_000_u16 {
        let [high, low] = source.to_be_bytes();
        let stranger = UdpSocket::bind((Ipv4Addr::new(127, 9, high, low.max(1)), 0)).expect("a free port");
        let _ = stranger.send_to(b"spoofed", public);
    }
    for (number, visitor) in (1..).zip(&honest) {
        echoed(visitor, &pattern(number + 300, 50));
    }
    let heard = echo.heard();
    assert!(known.iter().filter(|from| heard[from] >= 4).count() >= 5, "the flows are the same: {heard:?}");
    // A newcomer has a place, too, once those who say nothing have made room.
    echoed(&visitor(public), b"a newcomer");
}

/// P-UDP-1: a UDP port and its twin of TCP are two ports; and either is given to its tunnel alone.
#[test]
fn a_udp_port_and_its_twin_of_tcp_are_two() {
    let echo = DatagramService::echo();
    let stream = Service::echo();
    let server = Server::start(options().brisk());
    let port = free_port();
    let both =
        options().brisk().tunnel_at(echo.addr(), port).tunnel_key("protocol", "\"udp\"").tunnel_at(stream.addr(), port);
    let client = Client::start(&server, both);
    let public = client.public_of(echo.addr());
    assert_eq!(public, client.public_of(stream.addr()));
    echoed(&visitor(public), b"a datagram");
    ping(&mut connect(public), b"a stream");
    // Where only the twin is taken, the UDP port is to be had.
    let port = free_port();
    let _taken = TcpListener::bind((server.ctl().ip(), port)).expect("a port");
    let other = udp(options(), echo.addr()).key("client_id", "\"other\"");
    let other = other.tunnel_at(stream.addr(), port).tunnel_key("protocol", "\"udp\"");
    let other = Client::start(&server, other);
    assert_eq!(other.public_of(stream.addr()).port(), port);
}

/// P-TUN-7, P-REPL-3: a client that is killed has its UDP port at once again.
#[test]
fn a_killed_client_has_its_port_again() {
    let echo = DatagramService::echo();
    let server = Server::start(options().brisk().threads(2));
    let port = free_port();
    let start = || {
        let tunnel = options().brisk().key("client_id", "\"the same\"").tunnel_at(echo.addr(), port);
        Client::start(&server, tunnel.tunnel_key("protocol", "\"udp\""))
    };
    let mut client = start();
    for number in 0..5 {
        echoed(&visitor(client.public()), &pattern(number, 20));
        client.kill();
        client = start();
    }
    echoed(&visitor(client.public()), b"still there");
}

/// P-LEAVE-5: a server that is upgraded keeps the port bound, and its visitors go on, as flows of the next process.
#[test]
fn an_upgrade_keeps_the_port() {
    let echo = DatagramService::echo();
    let (server, client) = setup(options().flag("drain-timeout", 30), &echo);
    let visitor = visitor(client.public());
    let mut successors = Successors::default();
    let mut serving = server.pid();
    for number in 0..3 {
        echoed(&visitor, &pattern(number, 20));
        serving = successors.take(&server.upgrade_of(serving));
        echoed(&visitor, &pattern(100 + number, 20));
    }
    assert_eq!(server.exit_code(), 0, "its flows have ended with its port");
}

/// `dig` asks a real name server through the tunnel.
#[test]
fn dig_finds_what_a_name_server_knows() {
    tests::limit::arm();
    let (Some(dnsmasq), Some(dig)) = (find("dnsmasq"), find("dig")) else { return };
    let port = free_port();
    let mut foreign = Foreign::new();
    let long: String = (0..40).map(|nth| format!("txt-record=many.example,{nth:0200}\n")).collect();
    let file = foreign.file(
        "dnsmasq.conf",
        format!(
            "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nedns-packet-max=16384\n\
             address=/app.example/192.0.2.7\n{long}"
        ),
    );
    foreign.start(&dnsmasq, &["--keep-in-foreground", &format!("--conf-file={file}"), "--pid-file="]);
    let server = Server::start(options().brisk());
    let client = Client::start(&server, udp(options(), (Ipv4Addr::LOCALHOST, port).into()));
    let asks = |words: &[&str]| {
        let public = client.public();
        let output = Command::new(&dig)
            .args([&format!("@{}", public.ip()), "-p", &public.port().to_string(), "+notcp", "+ignore"])
            .args(words)
            .output()
            .expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    until("the address", || asks(&["+short", "app.example", "A"]).trim() == "192.0.2.7");
    until("an answer of 8 kB in one datagram", || {
        asks(&["+short", "+bufsize=16384", "many.example", "TXT"]).lines().count() == 40
    });
}

/// P-UDP-8: tftpd-hpa sends a file, block by block, from a port of its own.
#[test]
fn tftpd_hpa_sends_a_file() {
    tests::limit::arm();
    // It gives its rights up by itself.
    root_only!();
    let Some(tftpd) = find("in.tftpd") else { return };
    let address = format!("127.0.0.1:{}", free_port());
    let mut foreign = Foreign::new();
    let contents: String = (0..300).map(|line| format!("{line}\n")).collect();
    let file = foreign.file("file", &contents);
    foreign.start(&tftpd, &["--foreground", "--listen", "--user", "root", "--permissive", "--address", &address]);
    let server = Server::start(options().brisk());
    let local = address.parse().expect("an address");
    let client = Client::start(&server, udp(options(), local).tunnel_key("udp_follow", true));
    let visitor = visitor(client.public());
    let mut question = [b"\0\x01", file.as_bytes(), b"\0octet\0"].concat();
    let mut received = Vec::new();
    for number in 1_u16.. {
        let [high, low] = number.to_be_bytes();
        let block = ask(&visitor, &question, |answer| answer.starts_with(&[0, 3, high, low])).split_off(4);
        received.extend_from_slice(&block);
        if block.len() < 512 {
            break;
        }
        question = vec![0, 4, high, low];
    }
    assert_eq!(String::from_utf8(received).expect("it is text"), contents);
}

/// `iperf3` measures a server of its own through the tunnel: its control connection is another tunnel's, of TCP.
#[test]
fn iperf3_has_its_datagrams_in_both_directions() {
    tests::limit::arm();
    let Some(iperf3) = find("iperf3") else { return };
    let (service, public) = (free_port(), free_port().to_string());
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, service));
    let mut foreign = Foreign::new();
    foreign.start(&iperf3, &["--server", "--bind", "127.0.0.1", "--port", &service.to_string()]);
    // In their order: where two ways may be taken, one may be faster.
    let server = Server::start(options().brisk().key("datagram_transport", "\"tcp\""));
    let port = public.parse().expect("a port");
    let both = options().brisk().tunnel_at(local, port).tunnel_key("protocol", "\"udp\"").tunnel_at(local, port);
    let _client = Client::start(&server, both);
    for direction in [&[][..], &["--reverse"]] {
        let report = eventually("it has measured", || {
            let output = Command::new(&iperf3)
                .args(["--client", "127.0.0.1", "--port", &public, "--udp", "--bitrate", "4M", "--length", "1200"])
                .args(["--time", "1", "--json"])
                .args(direction)
                .output()
                .expect("it runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() { Ok(text) } else { Err(text) }
        });
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let sum = &report["end"]["sum"];
        let count = |key: &str| sum[key].as_u64().unwrap_or_else(|| panic!("{key} in {report}"));
        assert!(count("packets") > 0 && count("lost_packets") < count("packets"), "{direction:?}: {sum}");
        assert_eq!(sum["out_of_order"].as_u64().unwrap_or(0), 0, "a flow keeps its order: {sum}");
    }
}
