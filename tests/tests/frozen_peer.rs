//! A peer that is frozen, its connections still up, is noticed by its silence; one that wakes again in time
//! has lost nothing; one that wakes too late comes back by itself.

use nix::sys::signal::Signal;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use tests::exchange::{Exchange, Exchanges};
use tests::gate::Gate;
use tests::programs::{Client, Options, Program, Server, options};
use tests::services::Service;
use tests::sockets::{End, bounded, connect, free_port, read_end};
use tests::visits::{greeting, ping, until_served};
use tests::wait::{PATIENCE, eventually, until};

#[test]
fn a_frozen_clients_visitors_are_reset_and_its_port_released() {
    let service = Service::echo();
    let server = Server::start(options().brisk().key("session_grace", 1));
    let client = Client::start(&server, options().brisk().tunnel_at(service.addr(), free_port()));
    let mut served = client.visit();
    ping(&mut served, b"before");
    client.signal(Signal::SIGSTOP);
    // More visitors than ready proxy_conns: some have been started on one, the others wait for one.
    let mut waiting: Vec<_> = (0..12).map(|_| connect(client.public())).collect();
    for visitor in waiting.iter_mut().chain([&mut served]) {
        assert_eq!(read_end(visitor), (0, End::Reset));
    }
    until("the port is released", || TcpStream::connect(client.public()).is_err());
    client.signal(Signal::SIGCONT);
    until_served(client.public());
}

#[test]
fn a_short_freeze_costs_nothing() {
    let service = Exchanges::start();
    let server = Server::start(options().brisk().key("heartbeat_timeout", 60).key("idle_ping_timeout", 60));
    let patient = options().brisk().key("heartbeat_timeout", 60);
    let client = Client::start(&server, patient.tunnel(service.addr()));
    std::thread::scope(|scope| {
        let visits = scope.spawn(|| {
            for stream in 0..3 {
                Exchange::new(stream).up(20 << 20).down(20 << 20).run(client.public());
            }
        });
        let mut freezes = 0;
        while !visits.is_finished() {
            let frozen = [&*client, &*server][freezes % 2];
            frozen.signal(Signal::SIGSTOP);
            std::thread::sleep(std::time::Duration::from_millis(50));
            frozen.signal(Signal::SIGCONT);
            std::thread::sleep(std::time::Duration::from_millis(20));
            freezes += 1;
        }
    });
    service.expect(3);
    assert_eq!(client.forwardings().len(), 1);
}

#[test]
fn a_frozen_server_is_noticed_and_returned_to() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let gate = Gate::before(server.ctl());
    let tunnel = options().brisk().tunnel_at(service.addr(), free_port());
    let client = Client::start(&server, tunnel.via(gate.addr()));
    server.signal(Signal::SIGSTOP);
    until("the client gives its ctl_conn up and tries a new one", || gate.accepted() >= 2);
    server.signal(Signal::SIGCONT);
    until_served(client.public());
}

#[test]
fn a_server_frozen_for_longer_than_the_grace_times_resets_the_services() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let impatient = options().brisk().key("session_grace", 1).key("transfer_grace", 1);
    let client = Client::start(&server, impatient.tunnel_at(service.addr(), free_port()));
    let mut visitor = client.visit();
    ping(&mut visitor, b"before");
    server.signal(Signal::SIGSTOP);
    until("the service's stream is over", || service.open() == 0);
    server.signal(Signal::SIGCONT);
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
    until_served(client.public());
}

/// Either program is frozen for longer than its session keeps its ports, with a visitor in the middle of a conversation:
/// he can go on afterwards, and the port is back.
fn freeze_under_a_visitor(brisk: impl Fn() -> Options, client_freezes: bool, freeze: impl FnOnce(&Server, &Client)) {
    // It outwaits the freeze.
    let service = Service::start(|mut stream| {
        bounded(&stream, 4 * PATIENCE);
        let mut bytes = [0; 5];
        while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
    });
    let server = Server::start(brisk());
    let client = Client::start(&server, brisk().tunnel_at(service.addr(), free_port()));
    let mut visitor = client.visit();
    ping(&mut visitor, b"first");
    let frozen: &Program = if client_freezes { &client } else { &server };
    frozen.signal(Signal::SIGSTOP);
    freeze(&server, &client);
    frozen.signal(Signal::SIGCONT);
    ping(&mut visitor, b"after");
    server.log_line("session resumed");
    let mut again =
        eventually("the port is open again", || TcpStream::connect(client.public()).map_err(|error| error.to_string()));
    ping(&mut again, b"again");
    ping(&mut visitor, b"still");
    assert_eq!(client.forwardings().len(), 1, "the port is the same");
}

#[test]
fn a_transfer_outlives_a_freeze_that_costs_its_client_the_port() {
    let hasty = || options().brisk().key("session_grace", 0.5).key("transfer_grace", 600);
    freeze_under_a_visitor(hasty, true, |server, client| {
        server.log_line("ports released");
        until("the port is released", || TcpStream::connect(client.public()).is_err());
    });
    freeze_under_a_visitor(hasty, false, |_, client| {
        // Long enough for the client to have given the session up after its session_grace.
        until("the client has tried again and again", || client.log().matches("trying again").count() > 2);
    });
}

/// With the times that the programs have by themselves: 15 s of silence, and 30 s for which ports are kept.
#[test]
fn by_default_a_conversation_outlives_a_freeze_of_three_quarters_of_a_minute() {
    std::thread::scope(|scope| {
        for client_freezes in [true, false] {
            scope.spawn(move || {
                freeze_under_a_visitor(options, client_freezes, |_, _| {
                    std::thread::sleep(std::time::Duration::from_secs(47));
                });
            });
        }
    });
}

/// A newcomer of the same holder has the port of a frozen client at once, and the frozen client's visitors go on.
#[test]
fn a_newcomer_takes_only_the_port_of_a_frozen_client() {
    let (old, new) = (Service::echo(), Service::greeter("new"));
    let patient = || options().brisk().key("session_grace", 600).key("transfer_grace", 600);
    let server = Server::start(patient());
    let port = free_port();
    let client = |id: &str, service: &Service| patient().flag("client-id", id).tunnel_at(service.addr(), port);
    let first = Client::start(&server, client("first", &old));
    let mut visitor = first.visit();
    ping(&mut visitor, b"before");
    first.signal(Signal::SIGSTOP);
    server.log_line("waits for a resume");
    let second = Client::start(&server, client("second", &new));
    assert_eq!(greeting(second.public()), "new");
    server.log_line("another client with its token asks for its port");
    first.signal(Signal::SIGCONT);
    ping(&mut visitor, b"after");
    first.log_line("the port is in use on the server");
    assert_eq!(greeting(second.public()), "new");
    ping(&mut visitor, b"still");
}
