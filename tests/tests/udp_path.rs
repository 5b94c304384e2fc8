//! Datagrams that go by UDP between client and server: by the path where it takes them, by conns otherwise; over a line
//! that a test blocks, doubles and rebinds.

use serde_json::Value;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use tests::datagrams::{DatagramService, ask, echoed, pattern, serving, visitor};
use tests::gate::Gate;
use tests::link::Link;
use tests::programs::{Client, Options, Server, options};
use tests::root_only;
use tests::scrape::get;
use tests::sockets::free_port;
use tests::udp_line::UdpLine;
use tests::wait::until;

/// A client, its server, and the line between them: TCP and UDP at one number, as the proxy port is.
struct Setup {
    line: UdpLine,
    _gate: Gate,
    server: Server,
    client: Client,
    echo: DatagramService,
}

fn udp(options: Options, local: SocketAddr) -> Options {
    options.brisk().tunnel(local).tunnel_key("protocol", "\"udp\"")
}

/// Datagrams may go by UDP, as they may by themselves.
fn auto() -> Options {
    options()
}

/// They may not.
fn tcp() -> Options {
    options().key("datagram_transport", "\"tcp\"")
}

/// A line of TCP and one of UDP at the same number.
fn lines_to(server: SocketAddr, target: SocketAddr) -> (Gate, UdpLine) {
    loop {
        let gate = Gate::before(server);
        if UdpSocket::bind(gate.addr()).is_ok() {
            let line = UdpLine::at(gate.addr(), target);
            return (gate, line);
        }
    }
}

fn over_a_line(server: impl Fn() -> Options, client: Options) -> Setup {
    let echo = DatagramService::echo();
    let server = serving(&server().brisk());
    let (gate, line) = lines_to(server.proxy(), server.proxy());
    let proxy_addr = format!("\"{}\"", gate.addr());
    let client = Client::start(&server, udp(client.key("proxy_addr", proxy_addr), echo.addr()));
    Setup { line, _gate: gate, server, client, echo }
}

impl Setup {
    fn is_up(&self) {
        self.client.log_line("datagrams go by UDP");
        self.server.log_line("datagrams go by UDP");
    }

    /// Asks until an answer has come by the path: the client's first answer comes with `Started`.
    fn goes_by_path(&self, visitor: &UdpSocket, number: u64) {
        until("a datagram goes by the path", || {
            let before = self.line.carried();
            echoed(visitor, &pattern(number, 100));
            self.line.carried() >= before + 2
        });
    }
}

fn lines(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

/// P-PATH-4, P-PATH-5, P-PATH-6: what fits goes by the path, what does not by the conn, all of it whole.
#[test]
fn datagrams_of_every_size_come_back_whole_by_path_or_conn() {
    let setup = over_a_line(auto, auto());
    setup.is_up();
    let visitor = visitor(setup.client.public());
    setup.goes_by_path(&visitor, 1);
    let before = setup.line.carried();
    let sizes = [0, 1, 2, 255, 1_100, 1_158, 1_162, 1_200, 1_400, 1_412, 1_452, 1_500, 5_243, 32_768, 65_507];
    for (number, size) in (2..).zip(sizes.into_iter().chain((900..1_500).step_by(7))) {
        echoed(&visitor, &pattern(number, size));
    }
    assert!(setup.line.carried() > before + 50, "small ones go by the path");
    assert_eq!(setup.echo.heard().len(), 1, "a flow has one socket towards the service, whichever way it goes");
}

/// P-PATH-7, P-PATH-8: a path that is blocked is left within a second, and used again when it works; the flow keeps its
/// socket.
#[test]
fn a_path_that_is_blocked_is_left_and_comes_back() {
    let setup = over_a_line(auto, auto());
    setup.is_up();
    let visitor = visitor(setup.client.public());
    setup.goes_by_path(&visitor, 1);
    let said = |text| [&*setup.client, &*setup.server].map(|program| lines(&program.log(), text));
    let all_say_more = |text, before: [usize; 2]| {
        let now = said(text);
        now.iter().zip(before).all(|(&now, before)| now > before)
    };
    for round in 1..=2 {
        let [gone, back] = ["their way by UDP is gone", "datagrams go by UDP"].map(said);
        setup.line.block(true);
        let mut number = 1000 * round;
        ask(&visitor, &pattern(number, 64), |_| true);
        until("answers come by conns", || {
            number += 1;
            echoed(&visitor, &pattern(number, 64));
            all_say_more("their way by UDP is gone", gone)
        });
        for _ in 0..20 {
            number += 1;
            echoed(&visitor, &pattern(number, 64));
        }
        setup.line.block(false);
        // Each end finds out by itself.
        until("both ends use it again", || {
            number += 1;
            echoed(&visitor, &pattern(number, 64));
            all_say_more("datagrams go by UDP", back)
        });
        setup.goes_by_path(&visitor, number + 1);
    }
    assert_eq!(setup.echo.heard().len(), 1, "one flow, one socket");
}

/// P-PATH-7: who asks again has an answer, and the line has carried none of it. How soon that is the simulation of flows says,
/// which has a clock of its own.
#[test]
fn a_visitor_of_a_blocked_path_is_answered_by_conns() {
    let setup = over_a_line(auto, auto());
    setup.is_up();
    let visitor = visitor(setup.client.public());
    setup.goes_by_path(&visitor, 1);
    setup.line.block(true);
    let carried = setup.line.carried();
    echoed(&visitor, &pattern(7, 64));
    assert_eq!(setup.line.carried(), carried);
    setup.client.log_line("their way by UDP is gone");
}

/// P-PATH-5, P-PATH-10: what comes twice is delivered once, and what was recorded or forged never again.
#[test]
fn what_is_replayed_or_forged_is_not_delivered() {
    let setup = over_a_line(auto, auto());
    setup.is_up();
    let visitor = visitor(setup.client.public());
    setup.goes_by_path(&visitor, 1);
    setup.line.double();
    let heard = || setup.echo.heard().values().sum::<u64>();
    for number in 2..50 {
        let before = heard();
        visitor.send(&pattern(number, 200)).expect("UDP sends");
        until("it is heard", || heard() > before);
    }
    let before = heard();
    for packet in setup.line.recorded() {
        setup.line.inject(&packet);
        let mut forged = packet;
        let last = forged.len() - 1;
        forged[last] ^= 1;
        setup.line.inject(&forged);
        setup.line.inject(&forged[..last]);
    }
    for number in 50..60 {
        echoed(&visitor, &pattern(number, 200));
    }
    assert!(heard() <= before + 20, "nothing was delivered twice: {} and {before}", heard());
}

/// P-PATH-4: a NAT gives the client another port: the path goes on, and so does the flow.
#[test]
fn a_path_survives_a_nat_that_has_forgotten_it() {
    let setup = over_a_line(auto, auto());
    setup.is_up();
    let visitor = visitor(setup.client.public());
    for number in 1..4 {
        setup.goes_by_path(&visitor, number);
        setup.line.rebind();
    }
    setup.goes_by_path(&visitor, 9);
    assert_eq!(setup.echo.heard().len(), 1, "one flow, one socket");
}

/// P-PATH-1: either side may want none.
#[test]
fn without_a_path_on_either_side_datagrams_go_by_conns() {
    for (server, client) in [(tcp as fn() -> Options, auto()), (auto, tcp()), (tcp, tcp())] {
        let setup = over_a_line(server, client);
        let visitor = visitor(setup.client.public());
        for number in 1..20 {
            echoed(&visitor, &pattern(number, 100));
        }
        assert_eq!(setup.line.carried(), 0);
        assert_eq!(lines(&setup.client.log(), "datagrams go by"), 0, "{}", setup.client.log());
    }
}

/// P-PATH-2: a busy UDP port is said once, as a warning to who insists on UDP, and datagrams go by conns.
#[test]
fn a_busy_port_is_said_and_datagrams_go_by_conns() {
    for (word, level) in [("auto", "INFO"), ("udp", "WARN")] {
        let echo = DatagramService::echo();
        let port = free_port();
        let _busy = UdpSocket::bind(("127.0.0.1", port)).expect("a free port");
        let server = auto().key("datagram_transport", format!("\"{word}\""));
        let server = Server::start(server.brisk().flag("bind-addr", "127.0.0.1").flag("proxy-port", port));
        let client = Client::start(&server, udp(auto(), echo.addr()));
        let line = server.log_line("cannot be opened");
        assert!(line.contains("address in use") && line.contains(&port.to_string()), "{line}");
        assert!(line.contains(level), "{line}");
        let visitor = visitor(client.public());
        for number in 1..20 {
            echoed(&visitor, &pattern(number, 100));
        }
        assert_eq!(lines(&server.log(), "cannot be opened"), 1);
    }
}

/// P-PATH-8: with a line that lets no UDP through, datagrams go by conns from the first one on, and that is said once: as a
/// warning to who insists on UDP.
#[test]
fn a_line_without_udp_is_said_once() {
    for (word, level) in [("auto", "INFO"), ("udp", "WARN")] {
        let echo = DatagramService::echo();
        let server = serving(&auto().brisk());
        let (gate, line) = lines_to(server.proxy(), server.proxy());
        line.block(true);
        let transport = format!("\"{word}\"");
        let client = options().key("proxy_addr", format!("\"{}\"", gate.addr())).key("datagram_transport", transport);
        let client = Client::start(&server, udp(client, echo.addr()));
        let visitor = visitor(client.public());
        // Before it is known that nothing gets through.
        echoed(&visitor, &pattern(1, 100));
        let said = client.log_line("no way by UDP");
        assert!(said.contains(level), "{said}");
        echoed(&visitor, &pattern(2, 100));
        line.block(false);
        client.log_line("datagrams go by UDP");
        assert_eq!(lines(&client.log(), "no way by UDP"), 1);
        let warned = |log: &str| log.lines().filter(|line| line.contains("WARN") && line.contains("UDP")).count();
        assert_eq!(warned(&server.log()), 0, "{}", server.log());
    }
}

/// P-PATH-3: a server that shows another key than the session's server has is none.
#[test]
fn a_path_to_another_server_is_not_taken() {
    let echo = DatagramService::echo();
    let [server, other] = [(); 2].map(|()| serving(&auto().brisk()));
    let its_own = Client::start(&other, udp(auto(), echo.addr()));
    its_own.log_line("datagrams go by UDP");
    let (gate, line) = lines_to(server.proxy(), other.proxy());
    let client = Client::start(&server, udp(auto().key("proxy_addr", format!("\"{}\"", gate.addr())), echo.addr()));
    client.log_line("no way by UDP");
    assert!(line.carried() > 0);
    echoed(&visitor(client.public()), &pattern(1, 100));
}

/// P-PATH-9: the path ends with its session, and the next one has another.
#[test]
fn each_session_has_a_path_of_its_own() {
    let echo = DatagramService::echo();
    let server = serving(&auto().brisk());
    for round in 1..=2 {
        let client = Client::start(&server, udp(auto(), echo.addr()));
        client.log_line("datagrams go by UDP");
        until("the server says so", || lines(&server.log(), "datagrams go by UDP") >= round);
        echoed(&visitor(client.public()), &pattern(1, 100));
        client.stop();
    }
}

/// What is seen of a path from outside: its size, and what went by it.
#[test]
fn status_and_metrics_tell_of_paths() {
    let metrics = |options: Options| options.key("metrics_addr", "\"0\"");
    let setup = over_a_line(|| metrics(auto()), metrics(auto()));
    setup.is_up();
    let visitor = visitor(setup.client.public());
    setup.goes_by_path(&visitor, 1);
    for program in [&*setup.server, &*setup.client] {
        let line = program.log_line("metrics and a page at http://");
        let at = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
        let at = at.parse().expect("an address");
        let value = |series: &str| {
            let (_, text) = get(at, "/metrics");
            text.lines().find_map(|line| line.strip_prefix(series)?.rsplit(' ').next()?.parse::<u64>().ok())
        };
        until("it is there", || value("cproxy_paths ") == Some(1));
        for direction in ["in", "out"] {
            until("they are counted", || {
                echoed(&visitor, &pattern(2, 64));
                value(&format!("cproxy_path_datagrams_total{{direction=\"{direction}\"}}")) > Some(0)
            });
        }
        let size = value("cproxy_path_size_bytes{").expect("its size");
        assert!((1_100..65_536).contains(&size), "{size}");
        let status: Value = serde_json::from_str(&get(at, "/status.json").1).expect("JSON");
        let told = &status["sessions"][0]["datagram_path"]["size"];
        assert!(told.as_u64().is_some_and(|size| size >= 1_100), "{status}");
    }
}

/// Two machines, and a road with a NAT on it that takes no long packets: sizes are found out, and flows do not notice when
/// the NAT forgets, or when the road takes less than it did.
#[test]
fn a_nat_that_forgets_and_a_narrower_road_cost_no_flow() {
    root_only!();
    const TOKEN: (&str, &str) = ("CPROXY_TOKEN", "far from each other");
    let link = Link::new(Duration::from_millis(2));
    link.shorten(1_400);
    let echo = link.far.run(|| {
        DatagramService::at((link.far.ip(), 0).into(), |socket, datagram, from| {
            let _ = socket.send_to(datagram, from);
        })
    });
    let server = auto().brisk().network(&link.near).env(TOKEN.0, TOKEN.1).flag("bind-addr", link.near.ip());
    let server = Server::start(server);
    let client = udp(auto().network(&link.far).env(TOKEN.0, TOKEN.1), echo.addr());
    let client = Client::start(&server, client);
    client.log_line("datagrams go by UDP");
    server.log_line("datagrams go by UDP");
    let visitor = link.near.run(|| visitor(client.public()));
    let mut number = 0;
    let mut all_sizes_pass = || {
        for size in [0, 100, 1_162, 1_200, 1_252, 1_330, 1_372, 1_452, 5_243, 65_507] {
            number += 1;
            echoed(&visitor, &pattern(number, size));
        }
    };
    for round in 0..6 {
        all_sizes_pass();
        match round {
            1 | 3 => link.rebind(),
            2 => link.shorten(1_260),
            4 => link.shorten(0),
            _ => {}
        }
    }
    assert_eq!(echo.heard().len(), 1, "one flow, one socket");
}
