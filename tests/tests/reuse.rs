//! A proxy_conn serves one visitor after another: few are opened for many visits, visitors beyond the ready
//! ones get new ones, what is too many goes away, and no visit sees anything of the one before it.

use std::io::{Read, Write};
use tests::exchange::{Exchange, Exchanges, Order};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{End, connect, finish, reset, visit_end};
use tests::visits::{ping, short_visit};
use tests::wait::{eventually, until};

#[test]
fn many_visits_share_few_proxy_conns() {
    for threads in [1, 4] {
        let service = Exchanges::start();
        let server = Server::start(options().threads(threads).key("idle_conns", 4));
        let client = Client::start(&server, options().threads(threads).tunnel(service.addr()));
        for number in 0..300 {
            let order = [Order::Together, Order::VisitorFirst, Order::ServiceFirst][number as usize % 3];
            Exchange::new(number).up(number.into()).down(1000).order(order).run(client.public());
        }
        service.expect(300);
        let (by_client, by_server) = (client.stop(), server.stop());
        assert_eq!((by_client.finished, by_server.finished), (300, 300));
        for opened in [by_client.proxy_conns, by_server.proxy_conns] {
            assert!(opened <= 30, "300 visits one by one needed {opened} proxy_conns");
        }
    }
}

#[test]
fn the_pool_is_replenished_and_shrinks_again() {
    const READY: usize = 3;
    const VISITORS: usize = 20;
    let service = Service::echo();
    let server = Server::start(options().brisk().threads(1).key("idle_conns", READY));
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    until("the ready ones are there before any visitor", || client.proxy_conns(&server) >= READY);
    for _ in 0..2 {
        let mut visitors: Vec<_> = (0..VISITORS).map(|_| client.visit()).collect();
        for visitor in &mut visitors {
            ping(visitor, b"one proxy_conn each, all at once");
        }
        let open = client.proxy_conns(&server);
        assert!(open >= VISITORS, "{open} proxy_conns under {VISITORS} visitors");
        drop(visitors);
        eventually("the surplus is closed", || match client.proxy_conns(&server) {
            READY => Ok(()),
            open => Err(format!("{open} open")),
        });
    }
}

#[test]
fn nothing_of_a_visit_shows_in_the_next() {
    let service = Exchanges::start();
    let server = Server::start(options().brisk().threads(1).key("idle_conns", 1));
    let client = Client::start(&server, options().brisk().threads(1).tunnel(service.addr()));
    let resetting = Service::resetting();
    let other = Client::start(&server, options().brisk().threads(1).tunnel(resetting.addr()));
    for round in 0..60 {
        // One visitor leaves in some unfriendly way …
        match round % 4 {
            0 => reset(client.visit()),
            1 => drop(client.visit()),
            2 => {
                let mut visitor = client.visit();
                visitor.write_all(b"neither a header nor an end").expect("send");
                reset(visitor);
            }
            _ => {
                let (_, end) = visit_end(other.public());
                assert_eq!(end, End::Reset);
            }
        }
        // … and the next one is served as if nothing had been.
        Exchange::new(round).up(3000).down(5000).run(client.public());
    }
    service.expect_among_others(60);
}

#[test]
fn a_service_reads_exactly_what_each_visitor_sent() {
    let service = Service::echo();
    let server = Server::start(options().threads(1).key("idle_conns", 1));
    let client = Client::start(&server, options().threads(1).tunnel(service.addr()));
    for number in 0..200 {
        short_visit(client.public(), number);
        let mut ends_before_a_byte = connect(client.public());
        finish(&ends_before_a_byte);
        let mut rest = Vec::new();
        ends_before_a_byte.read_to_end(&mut rest).expect("a clean end");
        assert_eq!(rest, b"", "nothing was sent, nothing comes back");
    }
}
