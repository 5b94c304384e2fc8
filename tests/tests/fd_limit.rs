//! Out of descriptors: neither program spins or dies over it, and when visitors have left, the next ones
//! are served.

use tests::programs::{Client, Options, Server, expect_calm, options};
use tests::services::Service;
use tests::sockets::connect_unless_reset;
use tests::visits::{ping, until_served};

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
