//! A LocalServer that cannot be reached: its visitors are reset, everything else goes on, and once it is
//! there its visitors are served.

use std::net::TcpStream;
use std::time::Duration;
use tests::leaks::Baseline;
use tests::programs::{Client, Server, options};
use tests::services::{Refusing, Service};
use tests::sockets::{End, read_end, visit_end};
use tests::visits::{greeting, until_served};

#[test]
fn visitors_of_a_refusing_service_are_reset_until_it_is_there() {
    let refusing = Refusing::reserve();
    let neighbour = Service::greeter("neighbour");
    let server = Server::start(options().brisk());
    let tunnels = options().brisk().tunnel(refusing.addr()).tunnel(neighbour.addr());
    let client = Client::start(&server, tunnels);
    let baseline = Baseline::of(&server, &client);
    for _ in 0..200 {
        assert_eq!(visit_end(client.public()), (0, End::Reset));
    }
    baseline.expect_again();
    assert_eq!(greeting(client.public_of(neighbour.addr())), "neighbour");

    let service = Service::serve(refusing.listen(128), |mut stream| {
        let _ = std::io::copy(&mut stream.try_clone().expect("clone"), &mut stream);
    });
    until_served(client.public_of(service.addr()));
    assert!(client.is_running() && server.is_running());
}

#[test]
fn visitors_of_a_service_that_resets_at_once_are_reset() {
    let service = Service::resetting();
    let server = Server::start(options().brisk());
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    let baseline = Baseline::of(&server, &client);
    for _ in 0..100 {
        assert_eq!(visit_end(client.public()), (0, End::Reset));
    }
    baseline.expect_again();
}

#[test]
fn a_service_whose_name_does_not_resolve_refuses() {
    let server = Server::start(options().brisk());
    let client = Client::start(&server, options().brisk().tunnel("no-such-host.invalid:1"));
    assert_eq!(visit_end(client.public()), (0, End::Reset));
    assert!(client.is_running());
}

#[test]
fn a_dial_that_hangs_is_given_up_and_hurts_nobody() {
    // A listener that accepts nothing and whose queue is full leaves further dials without an answer.
    let reserved = Refusing::reserve();
    let addr = reserved.addr();
    let _deaf = reserved.listen(0);
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(300)) {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue fills");
    }
    let neighbour = Service::greeter("neighbour");
    let server = Server::start(options().brisk().threads(1));
    let tunnels = options().brisk().threads(1).key("dial_timeout", 1);
    let client = Client::start(&server, tunnels.tunnel(addr).tunnel(neighbour.addr()));
    let mut hanging = client.visit();
    for _ in 0..20 {
        assert_eq!(greeting(client.public_of(neighbour.addr())), "neighbour");
    }
    assert_eq!(read_end(&mut hanging), (0, End::Reset));
}
