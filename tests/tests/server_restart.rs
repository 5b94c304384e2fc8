//! A client outlives its server: it waits for a server that is not there yet, returns to one that was
//! killed and started again, and does not storm it meanwhile.

use std::time::Duration;
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::{LOOPBACK, free_port};
use tests::visits::{ping, until_served};

/// Options for a server that is always found at the same two ports.
fn at_fixed_ports() -> impl Fn() -> Options {
    let (ctl, proxy) = (free_port(), free_port());
    move || options().brisk().flag("ctl-port", ctl).flag("proxy-port", proxy)
}

#[test]
fn a_client_returns_after_its_server_was_killed() {
    let service = Service::echo();
    let server_options = at_fixed_ports();
    let mut server = Server::start(server_options());
    let port = free_port();
    let client = Client::start(&server, options().brisk().tunnel_at(service.addr(), port));
    for _ in 0..3 {
        let mut visitor = client.visit();
        ping(&mut visitor, b"before");
        server.kill();
        server = Server::start(server_options());
        until_served((LOOPBACK, port).into());
    }
    assert!(client.is_running());
}

#[test]
fn a_new_public_port_is_announced() {
    let service = Service::echo();
    let server_options = at_fixed_ports();
    let (first, second) = (free_port(), free_port());
    let server = Server::start(server_options().flag("allow-ports", first));
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    assert_eq!(client.public().port(), first);
    server.kill();
    let _server = Server::start(server_options().flag("allow-ports", second));
    let announced = client.forwarding_after(1, &service.addr().to_string());
    assert_eq!(announced.port, second);
    until_served(client.public());
}

#[test]
fn a_server_that_stopped_in_order_is_returned_to_as_well() {
    let service = Service::echo();
    let server_options = at_fixed_ports();
    let server = Server::start(server_options());
    let port = free_port();
    let client = Client::start(&server, options().brisk().tunnel_at(service.addr(), port));
    server.stop();
    let _server = Server::start(server_options());
    until_served(client.public());
}

#[test]
fn a_client_waits_for_a_server_that_is_not_there_yet() {
    let service = Service::echo();
    let (ctl, proxy) = (free_port(), free_port());
    let waiting = options().brisk().tunnel(service.addr()).via(format!("127.0.0.1:{ctl}"));
    let client = Client::spawn_alone(LOOPBACK, waiting);
    client.log_line("refused");
    assert!(client.is_running());
    let _server = Server::start(options().flag("ctl-port", ctl).flag("proxy-port", proxy));
    until_served(client.public());
}

#[test]
fn attempts_are_spaced_out() {
    // Hangs up on everyone at once: the quickest way to be asked again.
    let rude = Service::start(drop);
    let options = options().tunnel("127.0.0.1:1").via(rude.addr());
    let client = Client::spawn_alone(LOOPBACK, options);
    tests::wait::until("it tries more than once", || rude.accepted() >= 2);
    let before = rude.accepted();
    std::thread::sleep(Duration::from_secs(2));
    let attempts = rude.accepted() - before;
    // From 250 ms on, doubling, with jitter: about three.
    assert!(attempts <= 12, "{attempts} attempts in two seconds");
    client.stop();
}
