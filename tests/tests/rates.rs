//! How many may visit a tunnel: so many a minute from one address, so many at once. Whoever is too many is reset,
//! and others do not notice.

use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{End, visit_end, visit_end_from};
use tests::visits::{expect_greeted, ip, ping, short_visit};
use tests::wait::eventually;

#[test]
fn an_address_that_comes_too_often_is_reset_and_no_other() {
    let service = Service::greeter("hi");
    // The next one is let in a minute later: longer than this test takes.
    let server = Server::start(options().key("max_connection_rate", 1));
    let client = Client::start(&server, options().tunnel(service.addr()));
    expect_greeted(ip(2), &client, service.addr());
    for _ in 0..5 {
        assert_eq!(visit_end_from(ip(2), client.public()), (0, End::Reset));
    }
    expect_greeted(ip(3), &client, service.addr());
    expect_greeted(ip(1), &client, service.addr());
    let line = server.log_line("max_connection_rate");
    assert!(line.contains(r#""peer_ip":"127.0.0.2""#), "the log names the visitor: {line}");
    client.stop();
    let stopped = server.stop();
    assert_eq!((stopped.visitors, stopped.refused_by_source, stopped.refused_by_rate), (3, 0, 5));
}

#[test]
fn a_client_asks_for_a_rate_of_one_tunnels_own() {
    let (slow, open) = (Service::greeter("hi"), Service::greeter("hi"));
    let server = Server::start(options());
    let tunnels = options().tunnel(slow.addr()).tunnel_key("max_connection_rate", 1);
    let client = Client::start(&server, tunnels.tunnel(open.addr()));
    expect_greeted(ip(1), &client, slow.addr());
    assert_eq!(visit_end(client.public_of(slow.addr())), (0, End::Reset));
    for _ in 0..5 {
        expect_greeted(ip(1), &client, open.addr());
    }
}

#[test]
fn a_tunnels_max_connections_are_its_own_over_all_event_loops() {
    for threads in [1, 4] {
        let (narrow, open) = (Service::echo(), Service::echo());
        let server = Server::start(options().brisk().threads(threads));
        let tunnels = options().brisk().tunnel(narrow.addr()).tunnel_key("max_connections", 3);
        let client = Client::start(&server, tunnels.tunnel(open.addr()));
        let public = client.public_of(narrow.addr());
        let visit = || tests::sockets::connect(public);
        let mut served: Vec<_> = (0..3).map(|_| visit()).collect();
        for visitor in &mut served {
            ping(visitor, b"served");
        }
        for _ in 0..8 {
            assert_eq!(visit_end(public), (0, End::Reset));
        }
        server.log_line("the tunnel serves its max_connections already");
        for number in 0..20 {
            short_visit(client.public_of(open.addr()), number);
        }
        for visitor in &mut served {
            ping(visitor, b"still served");
        }
        drop(served);
        // Whoever leaves makes room, again and again.
        for round in 0..3 {
            let mut three = eventually(&format!("three are served again in round {round}"), || {
                let came: Vec<_> = (0..3).filter_map(|_| tests::sockets::connect_unless_reset(public)).collect();
                let Ok(mut three) = <[_; 3]>::try_from(came) else { return Err("one was reset at once".to_owned()) };
                let served = three.iter_mut().all(|visitor| {
                    use std::io::{Read, Write};
                    visitor.write_all(b"x").is_ok() && matches!(visitor.read(&mut [0; 1]), Ok(1))
                });
                if served { Ok(three) } else { Err("not yet".to_owned()) }
            });
            assert_eq!(visit_end(public), (0, End::Reset));
            ping(&mut three[0], b"still served");
        }
    }
}
