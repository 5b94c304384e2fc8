//! `public_bind_addr`: visitors come in at another address of the machine than clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{LOOPBACK, free_port};
use tests::visits::short_visit;

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
    let busy = TcpListener::bind((LOOPBACK, 0)).expect("a free port");
    let port = busy.local_addr().expect("bound").port();
    let client = Client::start(&server, options().tunnel_at(service.addr(), port));
    (0..10).for_each(|number| short_visit((PUBLIC, port).into(), number));
    drop(busy);
    assert!(TcpStream::connect((LOOPBACK, port)).is_err(), "no visitor comes in where clients do");
    assert_eq!(client.stop().aborted, 0);
}
