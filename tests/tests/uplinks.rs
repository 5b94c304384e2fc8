//! A client with several ways to its server: the keys that say which one it takes.

use std::net::SocketAddr;
use tests::cable::Cables;
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::visits::ping;
use tests::wait::until;

const TOKEN: (&str, &str) = ("CPROXY_TOKEN", "from another machine");

/// The server is at 10.97.0.1, on a machine with two cables. The client's machine has 10.97.1.2 on the first, by which it
/// gets to the server, and 10.97.2.2 on the second; 10.97.1.3 is its second address on the first.
fn two_uplinks() -> Option<(Cables, Server)> {
    let cables = Cables::new(2)?;
    cables.near.must("ip addr add 10.97.0.1/32 dev lo");
    for cable in [0, 1] {
        let (near, far) = (format!("10.97.{}.1/24", cable + 1), format!("10.97.{}.2/24", cable + 1));
        cables.near.must(&format!("ip addr add {near} dev eth{cable}"));
        cables.far.must(&format!("ip addr add {far} dev eth{cable}"));
        let metric = 10 + cable;
        cables.far.must(&format!("ip route add 10.97.0.1/32 via 10.97.{}.1 metric {metric}", cable + 1));
    }
    cables.far.must("ip addr add 10.97.1.3/24 dev eth0");
    let near = options().network(&cables.near).env(TOKEN.0, TOKEN.1);
    let server = Server::start(near.flag("bind-addr", "10.97.0.1"));
    Some((cables, server))
}

/// The addresses from which connections to the server's two ports come.
fn sources(cables: &Cables, server: &Server) -> Vec<String> {
    let ports = [server.ctl().port(), server.proxy().port()];
    let filter = format!("( sport = :{} or sport = :{} )", ports[0], ports[1]);
    let table = cables.near.must(&format!("ss -Htn state established '{filter}'"));
    let peers = table.lines().filter_map(|line| line.split_whitespace().last()?.rsplit_once(':'));
    let mut sources: Vec<_> = peers.map(|(ip, _)| ip.to_owned()).collect();
    sources.sort();
    sources.dedup();
    sources
}

fn client(cables: &Cables, server: &Server, service: &Service, keys: &[(&str, &str)]) -> Client {
    let far = options().network(&cables.far).env(TOKEN.0, TOKEN.1).tunnel(service.addr());
    let far = keys.iter().fold(far, |far: Options, (key, value)| far.key(key, format!("\"{value}\"")));
    let client = Client::start(server, far);
    let public = SocketAddr::from(([10, 97, 0, 1], client.public().port()));
    cables.near.run(|| ping(&mut tests::sockets::connect(public), b"through it"));
    client
}

#[test]
fn both_kinds_of_connection_begin_where_the_file_says() {
    let Some((cables, server)) = two_uplinks() else { return };
    let service = cables.far.run(Service::echo);
    for (keys, source) in [
        (&[][..], "10.97.1.2"),
        (&[("source_addr", "10.97.1.3")], "10.97.1.3"),
        (&[("bind_interface", "eth1")], "10.97.2.2"),
        (&[("bind_interface", "eth0"), ("source_addr", "10.97.1.3")], "10.97.1.3"),
    ] {
        let client = client(&cables, &server, &service, keys);
        assert_eq!(sources(&cables, &server), [source], "{keys:?}");
        drop(client);
        until("the server has seen it go", || sources(&cables, &server).is_empty());
    }
}

#[test]
fn an_uplink_that_is_not_there_is_named_and_awaited() {
    let Some((cables, server)) = two_uplinks() else { return };
    for key in [("source_addr", "192.0.2.7"), ("bind_interface", "wg0")] {
        let far = options().network(&cables.far).env(TOKEN.0, TOKEN.1).tunnel("127.0.0.1:1").via(server.ctl());
        let client = Client::spawn_alone(server.ctl().ip(), far.key(key.0, format!("\"{}\"", key.1)));
        let line = client.log_line("cannot connect to the server");
        assert!(line.contains("`source_addr`") && line.contains("`bind_interface`"), "{line}");
        assert!(client.is_running());
        match key.0 {
            "source_addr" => cables.far.must("ip addr add 192.0.2.7/32 dev eth0"),
            _ => cables.far.must("ip link set eth1 down && ip link set eth1 name wg0 && ip link set wg0 up"),
        };
        cables.near.must("ip route replace 192.0.2.7/32 via 10.97.1.2");
        if key.0 == "bind_interface" {
            cables.far.must("ip route add 10.97.0.1/32 via 10.97.2.1 metric 11");
        }
        client.output_line("Forwarding tcp://10.97.0.1:");
    }
}
