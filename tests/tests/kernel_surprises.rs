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
use tests::sockets::{End, bounded, connect, connect_from, read_each, read_end, reset};
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

#[test]
fn where_no_local_port_is_left_the_log_says_so() {
    root_only!();
    let network = with_local_ports(7000, 7015);
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 18_000));
    let service = network.run(|| Service::echo_at(local));
    let brisk = |options: Options| options.brisk().network(&network);
    let server = Server::start(brisk(options().flag("ctl-port", 17_000).flag("proxy-port", 17_001)));
    let client = Client::start(&server, brisk(options().tunnel_at(local, 17_002)));
    network.run(|| {
        // Somebody else on this machine has them all.
        let others: Vec<_> = std::iter::from_fn(|| TcpStream::connect(local).ok()).collect();
        assert_eq!(read_end(&mut connect_from(visitors_address(), client.public()).expect("taken")), (0, End::Reset));
        client.log_line("no local port left towards 127.0.0.1:18000");
        others.into_iter().for_each(reset);
        until("it is served again", || {
            connect_from(visitors_address(), client.public()).is_some_and(|mut visitor| {
                let sent = visitor.write_all(b"ping");
                sent.is_ok() && visitor.read_exact(&mut [0; 4]).is_ok()
            })
        });
    });
    drop(service);
}
