//! The way of data connections: where it is closed, that is said, and nothing is announced; where it is mapped to another
//! number or place, each side can be told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tests::gate::Gate;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::free_port;
use tests::visits::ping;

/// Where the client finds the server: only what has a gate there is open.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

fn gate(port: u16, target: SocketAddr) -> Gate {
    Gate::at((ELSEWHERE, port).into(), target)
}

#[test]
fn a_closed_proxy_port_is_said_and_nothing_is_announced() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let ctl = gate(0, server.ctl());
    let client = Client::spawn(&server, options().brisk().tunnel(service.addr()).via(ctl.addr()));
    let line = client.log_line("proxy_conn not opened");
    let closed = SocketAddr::new(ELSEWHERE, server.proxy().port());
    for part in ["\"ERROR\"", &closed.to_string(), "connection refused", "must be open", "advertise_proxy_port"] {
        assert!(line.contains(part), "{part} is missing: {line}");
    }
    assert_eq!(client.forwardings(), [], "no visitor could be carried");
    let _proxy = gate(server.proxy().port(), server.proxy());
    client.forwarding_after(0, &service.addr().to_string());
    ping(&mut client.visit(), b"served");
}

#[test]
fn a_proxy_port_that_is_mapped_is_found_where_either_side_says() {
    let service = Service::echo();
    let mapped = free_port();
    for (server_says, key) in [
        (Some(mapped), None),
        (None, Some(("proxy_port", mapped.to_string()))),
        (None, Some(("proxy_addr", format!("\"{}\"", SocketAddr::new(ELSEWHERE, mapped))))),
    ] {
        let server = options().brisk();
        let server = server_says.into_iter().fold(server, |server, port| server.key("advertise_proxy_port", port));
        let server = Server::start(server);
        let (ctl, proxy) = (gate(0, server.ctl()), gate(mapped, server.proxy()));
        let client = options().brisk().tunnel(service.addr()).via(ctl.addr());
        let client = key.into_iter().fold(client, |client, (name, value)| client.key(name, value));
        let client = Client::start(&server, client);
        ping(&mut client.visit(), b"served");
        assert!(proxy.accepted() > 0);
    }
}

/// P-CONN-5.
#[test]
fn a_port_below_1024_is_dialled_only_where_it_is_expected() {
    let service = Service::echo();
    for told in [22, 1023] {
        let server = Server::start(options().brisk().key("advertise_proxy_port", told));
        let (ctl, proxy) = (gate(0, server.ctl()), gate(0, server.proxy()));
        let client = || options().brisk().tunnel(service.addr()).via(ctl.addr());
        let unwilling = Client::spawn(&server, client());
        assert_eq!(unwilling.exit_code(), 2, "it has never worked");
        assert!(unwilling.log().contains(&format!("set `proxy_port = {told}`")), "{}", unwilling.log());
        let willing = Client::start(&server, client().key("proxy_port", proxy.addr().port()));
        ping(&mut willing.visit(), b"served");
    }
    // From there on the client goes where it is told, and says so.
    let server = Server::start(options().brisk().key("advertise_proxy_port", 1024));
    let client = Client::spawn(&server, options().brisk().tunnel(service.addr()));
    assert!(client.log_line("data connections at port 1024").contains("\"INFO\""));
}
