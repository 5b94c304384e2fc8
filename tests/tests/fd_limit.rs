//! Out of descriptors: neither program spins or dies over it, and when visitors have left, the next ones
//! are served.

use nix::sys::signal::Signal;
use tests::programs::{Client, Options, Server, expect_calm, options};
use tests::services::Service;
use tests::sockets::{connect_unless_reset, connect_without_asking};
use tests::visits::{ping, until_served};
use tests::wait::{until, until_still};

/// More visitors than a program with `limit` descriptors can serve; then none; then one.
fn exceed(server: Options, client: Options) {
    let service = Service::echo();
    let server = Server::start(server.brisk().key("wait_timeout", 60));
    let client = Client::start(&server, client.brisk().tunnel_at(service.addr(), tests::sockets::free_port()));
    let mut first = client.visit();
    ping(&mut first, b"one of the few");
    // Some wait, some are reset at once.
    let crowd: Vec<_> = (0..200).map(|_| connect_unless_reset(client.public())).collect();
    expect_calm([&server, &client]);
    ping(&mut first, b"whoever has a descriptor is served");
    drop(crowd);
    until_served(client.public());
    ping(&mut first, b"still");
    assert!(server.is_running() && client.is_running());
}

/// Conns that a burst of visitors needed keep nobody out once it is over.
#[test]
fn a_burst_beyond_the_limit_leaves_room_when_it_is_over() {
    let service = Service::echo();
    let server = Server::start(options().threads(1).key("wait_timeout", 60).descriptor_limit(120));
    let client = Client::start(&server, options().tunnel(service.addr()));
    let burst: Vec<_> = (0..150).map(|_| connect_unless_reset(client.public())).collect();
    drop(burst);
    until_served(client.public());
    // Another client gets its own, and so do its visitors.
    let other = Client::start(&server, options().tunnel(service.addr()));
    until_served(other.public());
}

/// Visitors come in a burst and leave; then those that come are served, each at once. Meanwhile a program may be frozen.
fn serves_at_the_first_try_after(burst: usize, server: Options, client: Options, freezes: bool) {
    let service = Service::echo();
    let server = Server::start(server.threads(1));
    let client = Client::start(&server, client.tunnel(service.addr()));
    if freezes {
        server.signal(Signal::SIGSTOP);
    }
    let burst: Vec<_> = (0..burst).map(|_| connect_without_asking(client.public())).collect();
    if freezes {
        server.signal(Signal::SIGCONT);
    }
    until("some are served", || service.open() > 0);
    drop(burst);
    // Who waited is served still, and finds that the visitor has left.
    until_still("all that came with the burst are gone", || {
        service.accepted()
            + [server.process(), client.process()].map(|of| of.descriptors().total() as u64).iter().sum::<u64>()
    });
    for _ in 0..20 {
        ping(&mut client.visit(), b"at the first try");
    }
    server.log_line("descriptors");
}

#[test]
fn after_a_burst_visitors_are_served_at_the_first_try() {
    for descriptors in [120, 150] {
        for freezes in [false, true] {
            serves_at_the_first_try_after(150, options().descriptor_limit(descriptors), options(), freezes);
        }
    }
}

#[test]
fn after_a_burst_beyond_the_clients_descriptors_too() {
    // This process has both ends of them.
    let all = bins::limits::raise_descriptor_limit().expect("a limit");
    assert!(all > 4_000, "more descriptors than {all} are needed here");
    serves_at_the_first_try_after(1_500, options(), options().descriptor_limit(1_024), false);
}

#[test]
fn a_server_at_its_limit_recovers() {
    exceed(options().threads(1).descriptor_limit(90), options());
}

#[test]
fn a_client_at_its_limit_recovers() {
    exceed(options(), options().threads(1).descriptor_limit(90));
}

#[test]
fn both_at_their_limits_recover() {
    exceed(options().threads(1).descriptor_limit(90), options().threads(1).descriptor_limit(90));
}
