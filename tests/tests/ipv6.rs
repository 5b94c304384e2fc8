//! IPv6 at every leg: the server's ports, the client's way to it, the LocalServer, the public port.

use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::visits::{greeting, short_visit};

#[test]
fn everything_over_ipv6() {
    let service = Service::echo_at("[::1]:0".parse().expect("an address"));
    let server = Server::start(options().flag("bind-addr", "::1"));
    let client = Client::start(&server, options().tunnel(service.addr()));
    assert_eq!(client.forwardings()[0].host, "[::1]", "an address is printed in brackets");
    assert!(client.public().is_ipv6());
    for number in 0..50 {
        short_visit(client.public(), number);
    }
}

#[test]
fn each_leg_may_be_of_either_family() {
    let v4 = Service::greeter("v4");
    let v6 = Service::start_at("[::1]:0".parse().expect("an address"), |mut stream| {
        let _ = std::io::Write::write_all(&mut stream, b"v6");
    });
    for bind in ["127.0.0.1", "::1"] {
        let server = Server::start(options().flag("bind-addr", bind));
        let client = Client::start(&server, options().tunnel(v4.addr()).tunnel(v6.addr()));
        assert_eq!(greeting(client.public_of(v4.addr())), "v4");
        assert_eq!(greeting(client.public_of(v6.addr())), "v6");
    }
}

#[test]
fn the_unspecified_address_takes_both_families() {
    let service = Service::greeter("hi");
    let server = Server::start(options().flag("bind-addr", "::"));
    for host in ["127.0.0.1", "[::1]"] {
        let via = format!("{host}:{}", server.ctl().port());
        let client = Client::start(&server, options().tunnel(service.addr()).via(via));
        assert_eq!(client.forwardings()[0].host, host);
        let port = client.public().port();
        for visited in ["127.0.0.1", "[::1]"] {
            assert_eq!(greeting(format!("{visited}:{port}").parse().expect("an address")), "hi");
        }
    }
}
