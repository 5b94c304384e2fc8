//! Visitors beyond what a client may have or can serve: they wait for a bounded time in a queue of bounded
//! length, first come first served; who cannot be served is reset.

use std::io::{Read, Write};
use std::sync::mpsc::channel;
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::{End, connect_from, connect_unless_reset, finish, read_end, visit_end, visit_end_from};
use tests::visits::{ip, ping, short_visit};
use tests::wait::{PATIENCE, eventually, until};

/// A client that can serve two visitors at once, on a server with these options.
fn setup(server: Options) -> (Service, Server, Client) {
    let service = Service::echo();
    let server = Server::start(server.brisk().threads(1).key("idle_conns", 1));
    let narrow = options().brisk().threads(1).key("max_proxy_conns", 2);
    let client = Client::start(&server, narrow.tunnel(service.addr()));
    (service, server, client)
}

#[test]
fn whoever_waits_is_served_when_another_leaves() {
    let (_service, _server, client) = setup(options().key("wait_timeout", 60));
    let mut served = [client.visit(), client.visit()];
    for visitor in &mut served {
        ping(visitor, b"served");
    }
    let mut waiting = client.visit();
    waiting.write_all(b"waits").expect("send");
    let [leaving, mut staying] = served;
    drop(leaving);
    let mut answer = [0; 5];
    waiting.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"waits", "what was sent while waiting is not lost");
    ping(&mut staying, b"still served");
}

#[test]
fn whoever_waits_too_long_is_reset() {
    let (_service, server, client) = setup(options().key("wait_timeout", 0.5));
    let mut served = [client.visit(), client.visit()];
    for visitor in &mut served {
        ping(visitor, b"served");
    }
    for _ in 0..3 {
        assert_eq!(visit_end(client.public()), (0, End::Reset));
    }
    for visitor in &mut served {
        ping(visitor, b"still served");
    }
    drop(served);
    until("the leaving ones are counted", || {
        let visitor = connect_unless_reset(client.public());
        visitor.is_some_and(|mut visitor| visitor.write_all(b"x").is_ok() && matches!(visitor.read(&mut [0; 1]), Ok(1)))
    });
    assert!(server.is_running());
}

#[test]
fn a_full_queue_resets_newcomers_at_once() {
    let (_service, _server, client) = setup(options().key("wait_timeout", 600).key("max_waiting", 2));
    let mut served = [client.visit(), client.visit()];
    for visitor in &mut served {
        ping(visitor, b"served");
    }
    // Five more, of whom two may wait; who is told off is the visitors' order of arrival.
    let mut more: Vec<_> = (0..5).map(|_| connect_unless_reset(client.public())).collect();
    for refused in more[2..].iter_mut().flatten() {
        assert_eq!(read_end(refused), (0, End::Reset));
    }
    drop(served);
    for patient in &mut more[..2] {
        ping(patient.as_mut().expect("not reset"), b"served in the end");
    }
}

/// P-POOL-4, P-POOL-5: what is counted per client is dealt out to the event loops exactly, also where it is less than one each.
#[test]
fn loops_without_a_share_of_the_idle_conns_and_the_queue_serve_their_visitors() {
    for idle in [0, 1, 2] {
        let service = Service::echo();
        let few = options().brisk().threads(4).key("idle_conns", idle).key("max_waiting", 1);
        let server = Server::start(few);
        let client = Client::start(&server, options().brisk().tunnel(service.addr()));
        for _ in 0..2 {
            let mut visitors = Vec::new();
            for _ in 0..8 {
                // One after the other: only one may wait.
                let mut visitor = client.visit();
                ping(&mut visitor, b"served");
                visitors.push(visitor);
            }
            drop(visitors);
            eventually("exactly the ready ones are left", || match client.proxy_conns(&server) {
                open if open == idle => Ok(()),
                open => Err(format!("{open} open, not {idle}")),
            });
        }
    }
}

#[test]
fn visitors_beyond_max_connections_are_reset() {
    for threads in [1, 4] {
        let service = Service::echo();
        let server = Server::start(options().brisk().threads(threads).key("max_connections", 3));
        let client = Client::start(&server, options().brisk().tunnel(service.addr()));
        let mut served: Vec<_> = (0..3).map(|_| client.visit()).collect();
        for visitor in &mut served {
            ping(visitor, b"served");
        }
        for _ in 0..8 {
            assert_eq!(visit_end(client.public()), (0, End::Reset));
        }
        for visitor in &mut served {
            ping(visitor, b"still served");
        }
    }
}

#[test]
fn a_visitor_who_stays_takes_one_place_and_no_more() {
    let service = Service::echo();
    let server = Server::start(options().brisk().threads(4).key("max_connections", 4));
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    let mut staying = client.visit();
    ping(&mut staying, b"served");
    // Two places are left over at any time, on whichever event loops.
    for number in 0..40 {
        short_visit(client.public(), number);
    }
    ping(&mut staying, b"still served");
}

/// Another client with the same token may have it, and end: then there is room.
#[test]
fn a_tunnel_beyond_max_tunnels_is_refused_and_waits_for_its_turn() {
    let service = Service::echo();
    let server = Server::start(options().brisk().key("max_tunnels", 1));
    let first = Client::start(&server, options().brisk().tunnel(service.addr()));
    let second = Client::spawn(&server, options().brisk().tunnel(service.addr()));
    second.log_line("max_tunnels");
    ping(&mut first.visit(), b"served");
    first.stop();
    ping(&mut second.visit(), b"served in its turn");
}

#[test]
fn a_client_beyond_max_sessions_waits_for_its_turn() {
    let service = Service::echo();
    let server = Server::start(options().brisk().key("max_sessions", 1));
    let first = Client::start(&server, options().brisk().tunnel(service.addr()));
    let second = Client::spawn(&server, options().brisk().tunnel(service.addr()));
    second.log_line("max_sessions");
    ping(&mut first.visit(), b"served");
    first.stop();
    ping(&mut second.visit(), b"served in its turn");
}

#[test]
fn a_half_open_stream_without_progress_is_reset() {
    for visitor_ends in [true, false] {
        let (ends, seen) = channel();
        let service = Service::start(move |mut stream| {
            if !visitor_ends {
                finish(&stream);
            }
            stream.read_exact(&mut [0; 2]).expect("the visitor's word");
            if visitor_ends {
                assert_eq!(read_end(&mut stream), (0, End::Clean));
            }
            until("the stream is reset", || stream.take_error().expect("SO_ERROR").is_some());
            let _ = ends.send(());
        });
        let hasty = || options().brisk().key("half_open_timeout", 0.5);
        let server = Server::start(hasty());
        let client = Client::start(&server, hasty().tunnel(service.addr()));
        let mut visitor = client.visit();
        visitor.write_all(b"hi").expect("send");
        if visitor_ends {
            finish(&visitor);
            assert_eq!(read_end(&mut visitor), (0, End::Reset));
        } else {
            assert_eq!(read_end(&mut visitor), (0, End::Clean));
            until("the visitor is reset", || visitor.take_error().expect("SO_ERROR").is_some());
        }
        seen.recv_timeout(PATIENCE).expect("the service's stream is reset too");
    }
}

/// P-TUN-11: one address has its part of the visitors, and others get in all the same.
#[test]
fn one_address_takes_its_part_of_the_visitors() {
    let service = Service::echo();
    let few = options().brisk().key("max_connections", 8).key("max_connections_per_source", 2);
    let server = Server::start(few);
    let client = Client::start(&server, options().brisk().tunnel(service.addr()).tunnel("127.0.0.1:1"));
    let public = client.public_of(service.addr());
    let mut greedy: Vec<_> = (0..2).map(|_| connect_from(ip(66), public).expect("connected")).collect();
    for visitor in &mut greedy {
        ping(visitor, b"served");
    }
    for _ in 0..8 {
        assert_eq!(visit_end_from(ip(66), public), (0, End::Reset));
    }
    for other in 1..=2 {
        ping(&mut connect_from(ip(other), public).expect("connected"), b"another address");
    }
    drop(greedy.pop());
    until("there is room for one", || {
        let visitor = connect_from(ip(66), public);
        visitor.is_some_and(|mut visitor| visitor.write_all(b"x").is_ok() && matches!(visitor.read(&mut [0; 1]), Ok(1)))
    });
    ping(&mut greedy[0], b"still served");
    server.log_line("max_connections_per_source");
}
