//! What the kernel does by itself with connections, right where it surprises: time limits that end what the protocol
//! would keep, a connect that meets itself, local ports that are used up.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;
use tests::exchange::send_part;
use tests::link::{Link, Namespace};
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Options, Server, options};
use tests::root_only;
use tests::services::Service;
use tests::sockets::{End, bounded, connect, connect_from, connect_without_asking, read_each, read_end, reset};
use tests::visits::ping;
use tests::wait::{PATIENCE, until};

/// A network of its own in which connections come from the ports `first` to `last` only.
fn with_local_ports(first: u16, last: u16) -> Namespace {
    let network = Namespace::alone();
    network.run(|| {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{first} {last}")).expect("set the range");
    });
    network
}

/// P-XFER-10: the line is cut for longer than two seconds between retransmissions would have lasted.
#[test]
fn a_cut_longer_than_the_kernels_patience_costs_no_transfer_while_the_session_may_be_resumed() {
    root_only!();
    const TOTAL: u64 = 16 << 20;
    let link = Link::new(Duration::from_millis(1));
    let service = link.far.run(|| {
        Service::start_at((link.far.ip(), 0).into(), |mut stream| {
            send_part(&mut stream, Flow::down(1), 0, TOTAL).expect("send all of it");
        })
    });
    let patient = || options().brisk().env("CPROXY_TOKEN", "far apart").key("session_grace", 60);
    let server = Server::start(patient().network(&link.near).flag("bind-addr", link.near.ip()));
    let client = Client::start(&server, patient().network(&link.far).tunnel(service.addr()));
    let mut visitor = link.near.run(|| connect(client.public()));
    bounded(&visitor, 2 * PATIENCE);
    let mut arrival = Arrival::of(Flow::down(1));
    let mut start = vec![0; 1 << 20];
    visitor.read_exact(&mut start).expect("the download has begun");
    arrival.take(&start).expect("byte for byte");
    link.cut();
    // With 2 s between two retransmissions, as once was set, the kernel gives up after 27 s.
    std::thread::sleep(Duration::from_secs(33));
    link.heal();
    let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
    assert_eq!((end, arrival.end(TOTAL)), (End::Clean, Ok(())));
}

/// Whether the kernel's timer of this socket is that of keepalive.
fn has_keepalive(near: u16, far: u16) -> bool {
    let table = fs::read_to_string("/proc/self/net/tcp").expect("a table of sockets");
    let (near, far) = (format!(":{near:04X}"), format!(":{far:04X}"));
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found = rows.filter(|row| row.len() > 5 && row[1].ends_with(&near) && row[2].ends_with(&far));
    found.next().expect("the socket is there")[5].starts_with("02:")
}

#[test]
fn local_and_public_connections_are_probed_on_this_machine_too_and_visitors_only_if_that_is_wanted() {
    let (ports, came) = channel();
    let service = Service::start(move |mut stream| {
        ports.send(stream.peer_addr().expect("its peer").port()).expect("a test that waits");
        let mut bytes = [0; 4];
        while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
    });
    for (options_of_server, probed) in [(options(), true), (options().key("visitor_keepalive", 0), false)] {
        let server = Server::start(options_of_server.brisk());
        let client = Client::start(&server, options().brisk().tunnel(service.addr()));
        let mut visitor = client.visit();
        ping(&mut visitor, b"ping");
        let local = came.recv_timeout(PATIENCE).expect("it was served");
        // A timer of retransmission comes first, until all is acknowledged.
        until("the local_conn is probed", || has_keepalive(local, service.addr().port()));
        let (public, its) = (client.public().port(), visitor.local_addr().expect("its address").port());
        if probed {
            until("the public_conn is probed", || has_keepalive(public, its));
        } else {
            assert!(!has_keepalive(public, its), "a visitor is let sleep");
        }
    }
}

#[test]
fn a_dial_that_meets_itself_is_refused_whatever_the_range_of_local_ports() {
    root_only!();
    let (first, last) = (7000, 7031);
    let network = with_local_ports(first, last);
    // The service is away, and its port is one that the kernel may choose for a connection.
    let away = SocketAddr::from((Ipv4Addr::LOCALHOST, 7016));
    let brisk = || options().brisk().network(&network);
    let server = Server::start(brisk().flag("ctl-port", 17_000).flag("proxy-port", 17_001));
    let client = Client::start(&server, brisk().tunnel_at(away, 17_002));
    network.run(|| {
        for _ in 0..3 * (last - first) {
            // Another visitor's port may be the service's: then there is no port, or the dial goes to that visitor.
            let Ok(mut visitor) = TcpStream::connect(client.public()) else { continue };
            bounded(&visitor, PATIENCE);
            // A write that fails has been told of the reset, and a read is not told again.
            if visitor.write_all(b"is this my own voice?").is_ok() {
                assert_eq!(read_end(&mut visitor), (0, End::Reset));
            }
        }
    });
}

#[test]
fn a_client_that_meets_itself_at_the_ctl_port_goes_on_trying() {
    root_only!();
    let network = with_local_ports(8080, 8080);
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    let away = options().brisk().network(&network).via(at).tunnel("127.0.0.1:1");
    let client = Client::spawn_alone(IpAddr::from(Ipv4Addr::LOCALHOST), away);
    client.log_line("refused");
    assert!(client.is_running());
}

#[test]
fn local_ports_are_taken_without_preferring_every_second() {
    let (ports, came) = channel();
    let service = Service::start(move |stream| {
        ports.send(stream.peer_addr().expect("its peer").port()).expect("a test that waits");
    });
    let server = Server::start(options().brisk());
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    let parities: BTreeSet<u16> = (0..64)
        .map(|_| {
            drop(client.visit());
            came.recv_timeout(PATIENCE).expect("it was dialled") % 2
        })
        .collect();
    if kernel_is_at_least(6, 3) {
        assert_eq!(parities.len(), 2, "once the preferred half is used up, each connect looks at all of it first");
    } else {
        println!("SKIPPED: the kernel is older than IP_LOCAL_PORT_RANGE");
    }
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("its version");
    let mut numbers = release.split(['.', '-']).map_while(|word| word.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// From there, all ports are free.
fn visitors_address() -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 1)
}

/// An echoing service to which sixteen local ports of each address lead, a tunnel to it, and who has the ports of
/// 127.0.0.1.
struct Ports {
    network: Namespace,
    service: Service,
    others: Vec<TcpStream>,
    _server: Server,
    client: Client,
}

impl Ports {
    fn used_up(client: impl FnOnce(Options) -> Options) -> Self {
        let network = with_local_ports(7000, 7015);
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 18_000));
        let service = network.run(|| Service::echo_at(local));
        let brisk = |options: Options| options.brisk().network(&network);
        // The server waits twice as long.
        let server = options().flag("ctl-port", 17_000).flag("proxy-port", 17_001);
        let server = Server::start(brisk(server.key("dial_timeout", PATIENCE.as_secs())));
        let client = Client::start(&server, brisk(client(options().tunnel_at(local, 17_002))));
        let others: Vec<_> = network.run(|| std::iter::from_fn(|| TcpStream::connect(local).ok()).collect());
        assert_eq!(others.len(), 16, "somebody else on this machine has them all");
        Self { network, service, others, _server: server, client }
    }

    fn visitor(&self) -> TcpStream {
        self.network.run(|| connect_from(visitors_address(), self.client.public()).expect("it is not reset"))
    }
}

#[test]
fn visitors_wait_until_a_local_port_is_free() {
    root_only!();
    let mut ports = Ports::used_up(|client| client.key("dial_timeout", PATIENCE.as_secs()));
    let mut visitors: Vec<_> = (0..8).map(|_| ports.visitor()).collect();
    for visitor in &mut visitors {
        visitor.write_all(b"waits").expect("it is not reset");
    }
    let line = ports.client.log_line("no local port left towards 127.0.0.1:18000");
    assert!(line.contains("local_sources") && line.contains("ip_local_port_range"), "what helps: {line}");
    // Those who left are no obstacle to those behind them.
    drop(visitors.remove(0));
    drop(visitors.remove(3));
    std::mem::take(&mut ports.others).into_iter().for_each(reset);
    for visitor in &mut visitors {
        let mut echo = [0; 5];
        visitor.read_exact(&mut echo).expect("it is served");
        assert_eq!(&echo, b"waits");
    }
    ping(&mut ports.visitor(), b"nobody waits any more");
}

#[test]
fn a_visitor_who_has_waited_for_a_local_port_too_long_is_reset() {
    root_only!();
    let ports = Ports::used_up(|client| client.key("dial_timeout", 0.5));
    let visitor = ports.network.run(|| connect_from(visitors_address(), ports.client.public()));
    // On a busy machine `connect` itself may see it.
    assert!(visitor.is_none_or(|mut visitor| read_end(&mut visitor) == (0, End::Reset)));
    ports.client.log_line("visitor refused: the client is out of descriptors, memory or local ports");
    assert_eq!(ports.client.log().matches("no local port left").count(), 1, "it is said once");
}

#[test]
fn further_addresses_are_dialled_from_when_the_ports_of_one_are_used_up() {
    root_only!();
    let sources = r#"["127.0.0.1", "127.0.0.2", "::1", "127.0.0.3"]"#;
    let ports = Ports::used_up(|client| client.tunnel_key("local_sources", sources));
    let (second, local) = (Ipv4Addr::new(127, 0, 0, 2), ports.service.addr());
    let _others: Vec<_> = ports.network.run(|| (0..8).map(|_| connect_from(second, local)).collect());
    let mut visitors: Vec<_> = (0..12).map(|_| ports.visitor()).collect();
    visitors.iter_mut().for_each(|visitor| ping(visitor, b"served at once"));
    assert_eq!(ports.service.accepted(), 16 + 8 + 12);
    assert!(!ports.client.log().contains("no local port left"), "there is one for each: {}", ports.client.log());
}

#[test]
fn a_local_source_that_this_machine_lacks_is_named_and_passed_over() {
    root_only!();
    let ports = Ports::used_up(|client| client.tunnel_key("local_sources", r#"["192.0.2.7", "127.0.0.2"]"#));
    ping(&mut ports.visitor(), b"from the other one");
    ports.client.log_line("this machine does not have the address 192.0.2.7 of a tunnel's local_sources");
}

/// A kernel says of both that no address can be assigned.
#[test]
fn where_the_machine_has_no_address_of_a_family_nobody_waits_for_a_local_port() {
    root_only!();
    let network = Namespace::alone();
    network.must("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6");
    let server = Server::start(options().network(&network));
    let away = options().network(&network).tunnel("[::1]:7777").key("dial_timeout", 2 * PATIENCE.as_secs());
    let client = Client::start(&server, away);
    assert_eq!(network.run(|| read_end(&mut connect_without_asking(client.public()))), (0, End::Reset));
    assert!(!client.log().contains("no local port left"), "{}", client.log());
}
