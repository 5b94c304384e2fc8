//! A peer that is frozen, its connections still up, is noticed by its silence; one that wakes again in time
//! has lost nothing; one that wakes too late comes back by itself.

use nix::sys::signal::Signal;
use std::net::TcpStream;
use tests::exchange::{Exchange, Exchanges};
use tests::gate::Gate;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{End, connect, free_port, read_end};
use tests::visits::{ping, until_served};
use tests::wait::until;

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
fn a_server_frozen_for_longer_than_the_grace_time_resets_the_services() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let impatient = options().brisk().key("session_grace", 1);
    let client = Client::start(&server, impatient.tunnel_at(service.addr(), free_port()));
    let mut visitor = client.visit();
    ping(&mut visitor, b"before");
    server.signal(Signal::SIGSTOP);
    until("the service's stream is over", || service.open() == 0);
    server.signal(Signal::SIGCONT);
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
    until_served(client.public());
}
