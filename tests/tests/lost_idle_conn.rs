//! An idle proxy_conn that is lost, loudly or silently, neither hangs nor hurts the next visitor: it is
//! found and replaced. While none can be had, visitors are reset in time; once one can, they are served.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use tests::gate::{Between, Gate};
use tests::payload::Flow;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{End, bounded, connect_unless_reset, read_end};
use tests::visits::{is_served, ping, short_visit, until_served};
use tests::wait::{PATIENCE, until};

const READY: usize = 4;

struct Setup {
    _service: Service,
    between: Between,
    client: Client,
    server: Server,
}

/// A tunnel whose idle proxy_conns pass a gate.
fn setup() -> Setup {
    let service = Service::echo();
    let server = Server::start(options().brisk().key("idle_conns", READY));
    let between = Between::new(server.ctl(), server.proxy());
    let client = Client::start(&server, options().brisk().tunnel(service.addr()).via(between.ctl.addr()));
    until("the pool is full", || between.proxy.open_connections() >= READY);
    // All of them have served a visitor: what is lost is a used conn as often as a fresh one.
    let mut visitors: Vec<_> = (0..2 * READY).map(|_| client.visit()).collect();
    for visitor in &mut visitors {
        ping(visitor, b"served");
    }
    drop(visitors);
    until("the pool is down to its size again", || between.proxy.open_connections() == READY);
    Setup { _service: service, between, client, server }
}

/// After the loss of all of `before` connections: new ones are there, and visitors are served.
fn expect_recovery(setup: &Setup, before: u64) {
    until("the lost ones are replaced", || setup.between.proxy.accepted() >= before + READY as u64);
    for number in 0..20 {
        short_visit(setup.client.public(), number);
    }
    assert_eq!(setup.between.ctl.accepted(), 1, "the session was never in doubt");
    assert!(setup.server.is_running() && setup.client.is_running());
}

#[test]
fn conns_that_were_reset_are_replaced() {
    let setup = setup();
    let before = setup.between.proxy.accepted();
    setup.between.proxy.cut();
    expect_recovery(&setup, before);
}

#[test]
fn conns_that_were_closed_are_replaced() {
    let setup = setup();
    let before = setup.between.proxy.accepted();
    setup.between.proxy.hang_up();
    expect_recovery(&setup, before);
}

#[test]
fn conns_that_went_silent_are_found_by_pings_and_replaced() {
    let setup = setup();
    let before = setup.between.proxy.accepted();
    setup.between.proxy.freeze_present();
    // The pool may have been about to replace one anyhow: until the last is found, a visitor may meet it, and is reset.
    until("none of them is left", || (0..20).all(|_| is_served(setup.client.public())));
    expect_recovery(&setup, before);
}

#[test]
fn a_visitor_in_the_very_moment_of_the_loss_does_not_hang() {
    let setup = setup();
    for number in 0..30 {
        let visitor = TcpStream::connect(setup.client.public());
        setup.between.proxy.cut();
        // Served or reset, here or in `connect`: which, is a race; that it ends, is not.
        if let Ok(mut visitor) = visitor {
            bounded(&visitor, PATIENCE);
            let _ = visitor.write_all(&Flow::up(number).bytes(0, 64));
            let _ = visitor.shutdown(Shutdown::Write);
            read_end(&mut visitor);
        }
    }
    let before = setup.between.proxy.accepted();
    setup.between.proxy.cut();
    expect_recovery(&setup, before);
}

#[test]
fn while_the_proxy_port_is_blocked_visitors_are_reset() {
    let blocks: [fn(&Gate); 2] = [
        // As a firewall that answers, and as one that does not.
        |proxy| {
            proxy.close();
            proxy.cut();
        },
        Gate::freeze,
    ];
    for block in blocks {
        let setup = setup();
        block(&setup.between.proxy);
        let visitors: Vec<_> = (0..6).map(|_| connect_unless_reset(setup.client.public())).collect();
        for mut visitor in visitors.into_iter().flatten() {
            assert_eq!(read_end(&mut visitor), (0, End::Reset));
        }
        assert_eq!(setup.between.ctl.accepted(), 1, "the session was never in doubt");
        setup.between.proxy.open();
        setup.between.proxy.thaw();
        until_served(setup.client.public());
    }
}
