//! Visitors come in at other addresses of the machine than clients: at `public_bind_addr`, or a tunnel's own `bind_addr`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use tests::datagrams::{DatagramService, ask, visitor};
use tests::programs::{Client, Server, Successors, options};
use tests::services::Service;
use tests::sockets::{LOOPBACK, connect, finish, free_port, read_all};
use tests::visits::{greeting, ping, short_visit, until_greeted};
use tests::wait::until;

/// Where visitors come in.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5));

/// A port that is taken at the address of clients is free at that of visitors: for tunnels, and for hosts, whose port may
/// even have the number of the ctl port and be another one.
#[test]
fn visitors_come_in_at_an_address_of_their_own() {
    let service = Service::echo();
    let ctl = free_port();
    let server = options().flag("ctl-port", ctl).key("public_bind_addr", format!("\"{PUBLIC}\""));
    let server = Server::start(server.key("http_port", ctl));
    assert_eq!((server.ctl().ip(), server.proxy().ip()), (LOOPBACK, LOOPBACK));
    assert_eq!(server.hosts("http"), SocketAddr::new(PUBLIC, ctl));
    let port = free_port();
    let busy = TcpListener::bind((LOOPBACK, port)).expect("a free port");
    let client = Client::start(&server, options().tunnel_at(service.addr(), port));
    (0..10).for_each(|number| short_visit((PUBLIC, port).into(), number));
    drop(busy);
    assert!(TcpStream::connect((LOOPBACK, port)).is_err(), "no visitor comes in where clients do");
    assert_eq!(client.stop().aborted, 0);
}

fn at(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, last), port).into()
}

fn table(name: &str, service: &Service, last: u8, port: u16) -> String {
    let (local, address) = (service.addr(), Ipv4Addr::new(127, 0, 0, last));
    format!("[[tunnels]]\nname = \"{name}\"\nlocal = \"{local}\"\npublic_port = {port}\nbind_addr = \"{address}\"\n")
}

/// P-TUN-16: one number is several ports, of several tunnels and of other programs, through a takeover and an upgrade.
#[test]
fn tunnels_have_one_port_at_addresses_of_their_own() {
    let (five, six) = (Service::greeter("five"), Service::greeter("six"));
    let echo = Service::echo();
    let server =
        Server::start(options().brisk().flag("drain-timeout", 60).key("allow_bind_addrs", "[\"127.0.0.0/28\"]"));
    let port = free_port();
    let busy = TcpListener::bind((LOOPBACK, port)).expect("a free port");
    let tables = [table("five", &five, 5, port), table("six", &six, 6, port), table("echo", &echo, 7, port)].concat();
    let start = |more: &str| {
        let tables = tables.clone() + more;
        let client = Client::spawn(&server, options().brisk().flag("client-id", "one").tables(&tables));
        for last in [5, 6, 7] {
            client.output_line(&format!("Forwarding tcp://{} ->", at(last, port)));
        }
        client
    };
    let served = || assert_eq!([5, 6].map(|last| greeting(at(last, port))), ["five", "six"]);
    let client = start(&table("far", &five, 99, port));
    let line = client.log_line("allow_bind_addrs");
    assert!(line.contains("far"), "{line}");
    let mut visitor = connect(at(7, port));
    let mut lives = |what: &str| ping(&mut visitor, what.as_bytes());
    served();
    lives("at first");
    let next = start("");
    client.log_line("took over");
    served();
    lives("after a takeover");
    let mut successors = Successors::default();
    successors.take(&server.upgrade());
    served();
    lives("after an upgrade");
    finish(&visitor);
    assert_eq!(read_all(&mut visitor), b"");
    assert_eq!((client.stopped().aborted, next.stop().aborted), (0, 0));
    drop(busy);
}

/// What is not allowed any more is closed, and what moves to another address is opened there, whatever was in its way.
#[test]
fn a_reload_moves_ports_between_addresses() {
    let service = Service::greeter("hi");
    let allow = |network: &str| format!("allow_bind_addrs = [\"{network}\"]\n");
    let server = Server::start(options().brisk().tables(&allow("127.0.0.0/28")));
    let port = free_port();
    let client = Client::spawn(&server, options().brisk().tables(&table("a", &service, 5, port)));
    client.output_line("Forwarding");
    let own = format!("[[tunnels]]\nname = \"a\"\nlocal = \"{}\"\npublic_port = {port}\n", service.addr());
    for (tunnel, here, gone) in [
        (table("a", &service, 6, port), at(6, port), at(5, port)),
        (own, (LOOPBACK, port).into(), at(6, port)),
        (table("a", &service, 5, port), at(5, port), (LOOPBACK, port).into()),
    ] {
        client.reload(&tunnel);
        until_greeted(here, |text| text == "hi");
        until("the port there is closed", || TcpStream::connect(gone).is_err());
    }
    server.reload(&allow("127.0.0.6"));
    until("what is not allowed is closed", || TcpStream::connect(at(5, port)).is_err());
    let line = client.log_line("allow_bind_addrs");
    assert!(line.contains("not reachable"), "{line}");
    server.reload(&allow("127.0.0.5"));
    client.reload(&table("a", &service, 5, port));
    until_greeted(at(5, port), |text| text == "hi");
}

/// P-TUN-16, P-UDP-8: a UDP port at an address of its own, beside another one, and a program of somebody else's, of the
/// same number, through a takeover and an upgrade. What is told leaves from where it was spoken to.
#[test]
fn udp_tunnels_have_one_port_at_addresses_of_their_own() {
    let answers = |word: &'static [u8]| {
        DatagramService::at((LOOPBACK, 0).into(), move |socket, _, from| {
            // Who has gone needs no answer.
            let _ = socket.send_to(word, from);
        })
    };
    let (five, six) = (answers(b"five"), answers(b"six"));
    let server =
        Server::start(options().brisk().flag("drain-timeout", 60).key("allow_bind_addrs", "[\"127.0.0.0/28\"]"));
    let port = free_port();
    let busy = UdpSocket::bind((LOOPBACK, port)).expect("a free port");
    let tables = [(&five, 5), (&six, 6)].map(|(service, last)| {
        let name = format!("udp{last}");
        let (local, address) = (service.addr(), Ipv4Addr::new(127, 0, 0, last));
        format!(
            "[[tunnels]]\nname = \"{name}\"\nlocal = \"{local}\"\npublic_port = {port}\nbind_addr = \"{address}\"\n\
             protocol = \"udp\"\n"
        )
    });
    let start = || {
        let client = Client::spawn(&server, options().brisk().flag("client-id", "one").tables(&tables.concat()));
        for last in [5, 6] {
            client.output_line(&format!("Forwarding udp://{} ->", at(last, port)));
        }
        client
    };
    // A connected socket hears nobody but whom it speaks to.
    let visitors = [5, 6].map(|last| visitor(at(last, port)));
    let served = |visitor: &UdpSocket, word: &[u8]| {
        ask(visitor, b"who is there?", |answer| {
            assert_eq!(answer, word, "another tunnel's datagram");
            true
        });
    };
    let all_served = || {
        for (last, first, word) in [(5, &visitors[0], &b"five"[..]), (6, &visitors[1], b"six")] {
            served(first, word);
            served(&visitor(at(last, port)), word);
        }
    };
    let client = start();
    all_served();
    let next = start();
    client.log_line("took over");
    all_served();
    let mut successors = Successors::default();
    successors.take(&server.upgrade());
    all_served();
    assert_eq!((client.stopped().aborted, next.stop().aborted), (0, 0));
    drop(busy);
}
