//! Host names, for the server and for the LocalServer: every address of a name is tried, and a name is
//! resolved again for every new attempt.

use std::net::SocketAddr;
use std::path::PathBuf;
use tempfile::TempDir;
use tests::programs::{Client, Server, options};
use tests::root_only;
use tests::services::Service;
use tests::sockets::free_port;
use tests::visits::{greeting, until_greeted};

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
