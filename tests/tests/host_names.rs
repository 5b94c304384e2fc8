//! Host names, for the server and for the LocalServer: every address of a name is tried, a name is looked up again
//! before its answer is too old, and no look-up waits for another.

use protocol_sm::names::FRESH;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tests::link::Namespace;
use tests::programs::{Client, Options, Server, options};
use tests::root_only;
use tests::services::Service;
use tests::sockets::{LOOPBACK, connect, free_port};
use tests::visits::{greeting, ping, until_greeted};
use tests::wait::until;

fn greeter_at(addr: &str, text: &'static str) -> Service {
    let addr: SocketAddr = addr.parse().expect("an address");
    Service::start_at(addr, move |mut stream| {
        let _ = std::io::Write::write_all(&mut stream, text.as_bytes());
    })
}

/// A hosts file of its own for a program, to be rewritten at will.
struct Hosts {
    _directory: TempDir,
    path: PathBuf,
}

impl Hosts {
    fn new(text: &str) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let hosts = Self { path: directory.path().join("hosts"), _directory: directory };
        hosts.rewrite(text);
        hosts
    }

    fn rewrite(&self, text: &str) {
        std::fs::write(&self.path, text).expect("write the hosts file");
    }
}

#[test]
fn localhost_is_understood_at_both_ends() {
    let service = Service::greeter("hi");
    let server = Server::start(options());
    let local = format!("localhost:{}", service.addr().port());
    let via = format!("localhost:{}", server.ctl().port());
    let client = Client::start(&server, options().tunnel(&local).via(via));
    assert_eq!(greeting(client.public()), "hi");
    let line = &client.forwardings()[0];
    assert_eq!((line.host.as_str(), &line.local), ("localhost", &local), "names are printed as given");
}

#[test]
fn a_name_with_two_addresses_works_if_one_of_them_does() {
    root_only!();
    for (v4_first, listens) in [(true, "[::1]:0"), (false, "[::1]:0"), (true, "127.0.0.1:0")] {
        let (v4, v6) = ("127.0.0.1 both.test\n", "::1 both.test\n");
        let hosts = Hosts::new(&if v4_first { [v4, v6] } else { [v6, v4] }.concat());
        let service = greeter_at(listens, "hi");
        let bind = service.addr().ip();
        let server = Server::start(options().brisk().flag("bind-addr", bind));
        let local = format!("both.test:{}", service.addr().port());
        let via = format!("both.test:{}", server.ctl().port());
        let client = Client::start(&server, options().brisk().hosts(&hosts.path).tunnel(local).via(via));
        for _ in 0..10 {
            assert_eq!(greeting(client.public()), "hi");
        }
    }
}

#[test]
fn a_service_that_moves_is_found_at_its_new_address() {
    root_only!();
    let hosts = Hosts::new("127.0.0.1 service.test\n");
    let here = greeter_at("127.0.0.1:0", "here");
    let port = here.addr().port();
    let there = greeter_at(&format!("127.0.0.3:{port}"), "there");
    let server = Server::start(options().brisk());
    let tunnel = options().brisk().hosts(&hosts.path).tunnel(format!("service.test:{port}"));
    let client = Client::start(&server, tunnel);
    assert_eq!(greeting(client.public()), "here");
    hosts.rewrite("127.0.0.3 service.test\n");
    drop(here);
    until_greeted(client.public(), |text| text == "there");
    drop(there);
}

#[test]
fn a_server_that_moves_is_found_at_its_new_address() {
    root_only!();
    let hosts = Hosts::new("127.0.0.1 server.test\n");
    let service = Service::greeter("hi");
    let (ctl, public) = (free_port(), free_port());
    let old = Server::start(options().brisk().flag("ctl-port", ctl));
    let tunnel = options().brisk().hosts(&hosts.path).tunnel_at(service.addr(), public);
    let client = Client::start(&old, tunnel.via(format!("server.test:{ctl}")));
    assert_eq!(greeting(client.public()), "hi");
    old.kill();
    let _new = Server::start(options().brisk().flag("ctl-port", ctl).flag("bind-addr", "127.0.0.3"));
    hosts.rewrite("127.0.0.3 server.test\n");
    let moved = SocketAddr::new([127, 0, 0, 3].into(), public);
    until_greeted(moved, |text| text == "hi");
}

#[test]
fn a_name_that_moves_away_from_an_address_takes_its_visitors_along() {
    root_only!();
    let hosts = Hosts::new("127.0.0.1 service.test\n");
    let stays = greeter_at("127.0.0.1:0", "a stranger by now");
    let port = stays.addr().port();
    let moved = greeter_at(&format!("127.0.0.3:{port}"), "the service");
    let server = Server::start(options().brisk());
    let tunnel = options().brisk().hosts(&hosts.path).tunnel(format!("service.test:{port}"));
    let client = Client::start(&server, tunnel);
    assert_eq!(greeting(client.public()), "a stranger by now");
    hosts.rewrite("127.0.0.3 service.test\n");
    // Nothing fails at the old address: only the name tells.
    until_greeted(client.public(), |text| text == "the service");
    for _ in 0..5 {
        assert_eq!(greeting(client.public()), "the service");
    }
    drop((stays, moved));
}

/// A network in which every name that is not in the hosts file hangs: its name server never answers.
struct SilentNames {
    network: Namespace,
    _server: UdpSocket,
    _directory: TempDir,
    resolver: PathBuf,
}

impl SilentNames {
    fn new() -> Self {
        let network = Namespace::alone();
        let server = network.run(|| UdpSocket::bind("127.0.0.1:53").expect("port 53 of a network of its own"));
        let directory = TempDir::new().expect("a temporary directory");
        let resolver = directory.path().join("resolv.conf");
        std::fs::write(&resolver, "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n").expect("write it");
        Self { network, _server: server, _directory: directory, resolver }
    }

    fn client(&self, hosts: &Hosts) -> Options {
        options().brisk().hosts(&hosts.path).resolver(&self.resolver).network(&self.network)
    }
}

#[test]
fn names_that_hang_hold_up_no_other_tunnel_and_not_the_server() {
    root_only!();
    let names = SilentNames::new();
    let hosts = Hosts::new("127.0.0.1 server.test service.test\n");
    let service = names.network.run(Service::echo);
    let server = Server::start(options().brisk().network(&names.network));
    let tunnels = (1..=6).fold(names.client(&hosts), |client, nth| client.tunnel(format!("hangs-{nth}.test:80")));
    let local = format!("service.test:{}", service.addr().port());
    let tunnels = tunnels.tunnel(&local).via(format!("server.test:{}", server.ctl().port()));
    let client = Client::spawn(&server, tunnels);
    client.forwarding_after(0, &local);
    names.network.run(|| ping(&mut connect(client.public_of(&local)), b"served"));
}

#[test]
fn the_last_addresses_serve_while_a_look_up_hangs() {
    root_only!();
    let names = SilentNames::new();
    let hosts = Hosts::new("127.0.0.1 server.test service.test\n");
    let service = names.network.run(|| Service::greeter("hi"));
    let ctl = free_port();
    let fixed = || options().brisk().network(&names.network).flag("ctl-port", ctl);
    let server = Server::start(fixed());
    let local = format!("service.test:{}", service.addr().port());
    let client = names.client(&hosts).tunnel_at(local, 6022).via(format!("server.test:{ctl}"));
    let client = Client::start(&server, client);
    let greeted = || names.network.run(|| greeting(client.public()) == "hi");
    assert!(greeted());
    hosts.rewrite("");
    // An answer of that age is looked up anew before it is used.
    std::thread::sleep(FRESH + Duration::from_millis(100));
    assert!(greeted(), "the visitor waits for a second, and no longer");
    assert!(greeted(), "the next one does not wait");
    server.kill();
    let _server = Server::start(fixed());
    names.network.run(|| until_greeted(client.public(), |text| text == "hi"));
}

#[test]
fn a_relay_that_leads_nowhere_is_no_server() {
    root_only!();
    // It hangs up, or says nothing.
    let serves: [fn(TcpStream); 2] = [drop, |stream| until("it is left", || read_end_now(&stream))];
    for serve in serves {
        let service = Service::greeter("hi");
        // The system's resolver puts 127.0.0.1 first, which is where we come from.
        let server = Server::start(options().brisk().flag("bind-addr", "127.0.0.2"));
        let ctl = server.ctl().port();
        let relay = Service::start_at((LOOPBACK, ctl).into(), serve);
        let hosts = Hosts::new("127.0.0.2 server.test\n127.0.0.1 server.test\n");
        let tunnel = options().brisk().hosts(&hosts.path).tunnel(service.addr());
        let client = Client::start(&server, tunnel.via(format!("server.test:{ctl}")));
        assert_eq!(greeting(client.public()), "hi");
        assert!(relay.accepted() > 0, "it was asked first");
    }
}

/// Whether the other side has ended the stream.
fn read_end_now(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("non-blocking");
    let mut bytes = [0; 64];
    match (&*stream).read(&mut bytes) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}
