//! A router between server and client forgets idle proxy_conns, and answers what comes on them with a reset, or drops
//! it: visitors are served all the same, and once each. Needs root.

use std::time::Duration;
use tests::exchange::{Exchange, Exchanges, Order};
use tests::link::{Forgotten, Link};
use tests::programs::{Client, Options, Server, options};
use tests::root_only;

const TOKEN: (&str, &str) = ("CPROXY_TOKEN", "behind a router");
/// Visitors, one after the other; each finds that all idle conns have been forgotten.
const VISITORS: u32 = 10;

struct Setup {
    link: Link,
    service: Exchanges,
    server: Server,
    client: Client,
}

/// Conns are not pinged while a test lasts: a visitor finds the dead ones.
fn setup(server: Options) -> Setup {
    let link = Link::new(Duration::from_millis(2));
    let service = link.far.run(|| Exchanges::start_on(link.far.ip()));
    let server = server.network(&link.near).env(TOKEN.0, TOKEN.1).flag("bind-addr", link.near.ip());
    // A conn that is forgotten while it is being opened is no matter of this: it is opened once more in time.
    let server = Server::start(server.key("idle_ping_interval", 3600).key("wait_timeout", 60));
    let client =
        options().key("handshake_timeout", 2).network(&link.far).env(TOKEN.0, TOKEN.1).tunnel_at(service.addr(), 6022);
    let client = Client::start(&server, client);
    Setup { link, service, server, client }
}

/// Each visitor is served, by one connection of the service, whatever it sends first.
fn all_are_served(setup: &Setup, packets: Forgotten) {
    let Setup { link, service, server, client } = setup;
    link.near.run(|| {
        Exchange::new(0).up(100).down(100).run(client.public());
        // Before its conn is forgotten, too.
        service.expect(1);
        for number in 1..=VISITORS {
            link.forget(server.proxy().port(), packets);
            let (up, down) = [(100, 100), (0, 2_000), (200_000, 10)][number as usize % 3];
            let order = [Order::Together, Order::VisitorFirst][number as usize % 2];
            Exchange::new(number).up(up).down(down).order(order).run(client.public());
            service.expect(u64::from(number) + 1);
        }
    });
}

#[test]
fn a_router_that_answers_with_resets_costs_no_visitor() {
    root_only!();
    all_are_served(&setup(options()), Forgotten::Reset);
}

#[test]
fn a_router_that_drops_silently_costs_no_visitor() {
    root_only!();
    all_are_served(&setup(options()), Forgotten::Dropped);
}

#[test]
fn the_same_with_tls() {
    root_only!();
    for packets in [Forgotten::Reset, Forgotten::Dropped] {
        all_are_served(&setup(options().tls()), packets);
    }
}
