//! IPv6 at every leg: the server's ports, the client's way to it, the LocalServer, the public port.

use nix::net::if_::if_nametoindex;
use tests::cable::Cables;
use tests::link::Namespace;
use tests::programs::{Client, Program, Server, options};
use tests::root_only;
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
    let v6 = Service::start_at("[::1]:0".parse().expect("an address"), greet);
    for bind in ["127.0.0.1", "::1"] {
        let server = Server::start(options().flag("bind-addr", bind));
        let client = Client::start(&server, options().tunnel(v4.addr()).tunnel(v6.addr()));
        assert_eq!(greeting(client.public_of(v4.addr())), "v4");
        assert_eq!(greeting(client.public_of(v6.addr())), "hi");
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

/// Addresses that count on one interface only.
fn link_local() -> Option<Cables> {
    let cables = Cables::new(2)?;
    cables.near.must("ip addr add fe80::1/64 dev eth0 nodad");
    cables.far.must("ip addr add fe80::2/64 dev eth0 nodad");
    cables.far.must("ip addr add fe80::3/64 dev lo nodad");
    Some(cables)
}

const TOKEN: (&str, &str) = ("CPROXY_TOKEN", "from another machine");

#[test]
fn a_zone_names_the_interface_of_a_link_local_address() {
    let Some(cables) = link_local() else { return };
    let number_of = |end: &Namespace, interface: &str| end.run(|| if_nametoindex(interface).expect("it is there"));
    let (number, lo) = (number_of(&cables.far, "eth0").to_string(), number_of(&cables.far, "lo"));
    let near = options().network(&cables.near).env(TOKEN.0, TOKEN.1);
    let server = Server::start(near.flag("bind-addr", "fe80::1%eth0"));
    let port = server.ctl().port();
    assert_eq!(server.ctl().ip(), server.proxy().ip());
    let service = |at: &str| cables.far.run(|| Service::start_at(at.parse().expect("an address"), greet));
    let (first, second) = (service(&format!("[fe80::3%{lo}]:7001")), service(&format!("[fe80::2%{number}]:7002")));
    for zone in ["eth0", &number] {
        let far = options().network(&cables.far).env(TOKEN.0, TOKEN.1).via(format!("[fe80::1%{zone}]:{port}"));
        let (by_name, by_number) = ("[fe80::3%lo]:7001".to_owned(), format!("[fe80::2%{number}]:7002"));
        let client = Client::start(&server, far.tunnel(&by_name).tunnel(&by_number));
        assert_eq!(client.forwardings()[0].host, format!("[fe80::1%{zone}]"), "as it was written");
        let near = number_of(&cables.near, "eth0");
        cables.near.run(|| {
            for forwarding in client.forwardings() {
                let public = format!("[fe80::1%{near}]:{}", forwarding.port);
                assert_eq!(greeting(public.parse().expect("an address")), "hi");
            }
        });
    }
    assert!(first.accepted() >= 2 && second.accepted() >= 2);
}

#[test]
fn an_interface_may_come_later_than_either_program() {
    let Some(cables) = link_local() else { return };
    let near = options().network(&cables.near).env(TOKEN.0, TOKEN.1).flag("bind-addr", "fe80::9%later0");
    let server = Server::spawn(near.flag("ctl-port", 8080).flag("proxy-port", 8090));
    server.log_line("no network interface `later0` yet; waiting for it");
    let far = options().network(&cables.far).env(TOKEN.0, TOKEN.1).via("[fe80::9%later0]:8080");
    let client = Client::spawn_alone(std::net::Ipv6Addr::LOCALHOST.into(), far.tunnel("127.0.0.1:1"));
    client.log_line("does not have the network interface in [fe80::9%later0]:8080");
    let far = cables.far.path();
    cables.near.must(&format!("ip link add later0 type veth peer name later0 netns {far}"));
    for (end, address) in [(&cables.near, "fe80::9"), (&cables.far, "fe80::8")] {
        end.must(&format!("ip link set later0 up && ip addr add {address}/64 dev later0 nodad"));
    }
    client.output_line("Forwarding tcp://[fe80::9%later0]:");
}

#[test]
fn the_defaults_work_with_either_family_alone() {
    root_only!();
    for (gone, host, command) in [
        ("127.0.0.1", "[::1]", "ip addr del 127.0.0.1/8 dev lo"),
        ("[::1]", "127.0.0.1", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"),
    ] {
        let network = Namespace::alone();
        network.must(command);
        let service = network.run(|| Service::start_at(format!("{host}:7777").parse().expect("an address"), greet));
        let server = Server::listening(Program::with_words_in(&network, "cproxy-server", &[]));
        let at = [&format!("--cproxy-server={host}:8080"), &format!("--local-server={host}:7777")];
        let client = Program::with_words_in(&network, "cproxy-client", &at.map(String::as_str));
        let line = client.output_line("Forwarding tcp://");
        let (public, _) = line["Forwarding tcp://".len()..].split_once(" -> ").expect("an arrow");
        network.run(|| {
            assert_eq!(greeting(public.parse().expect("an address")), "hi");
            std::net::TcpStream::connect(format!("{gone}:7777")).expect_err("this family is not there");
        });
        drop((client, server, service));
    }
}

fn greet(mut stream: std::net::TcpStream) {
    let _gone = std::io::Write::write_all(&mut stream, b"hi");
}
