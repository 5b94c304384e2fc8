//! Short visits in large numbers: one after another, thousands at once, ten thousand in a row. Each is
//! answered in full, and afterwards neither program holds more descriptors or memory than before.

use std::net::SocketAddr;
use tests::leaks::Baseline;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::connect;
use tests::visits::{begin_visit, end_visit, short_visit};

#[test]
fn a_thousand_one_after_another() {
    for threads in [1, 4] {
        let service = Service::echo();
        let server = Server::start(options().brisk().threads(threads));
        let client = Client::start(&server, options().brisk().threads(threads).tunnel(service.addr()));
        let baseline = Baseline::of(&server, &client);
        for number in 0..1000 {
            short_visit(client.public(), number);
        }
        baseline.expect_again();
        client.stop();
        let stopped = server.stop();
        assert_eq!((stopped.visitors, stopped.finished, stopped.aborted), (1000, 1000, 0));
    }
}

#[test]
fn two_thousand_at_once() {
    let service = Service::echo();
    let server = Server::start(options().brisk().key("wait_timeout", 30));
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    let baseline = Baseline::of(&server, &client);
    let mut visitors: Vec<_> = (0..2000).map(|_| connect(client.public())).collect();
    for (number, visitor) in (0..).zip(&mut visitors) {
        begin_visit(visitor, number);
    }
    for (number, visitor) in (0..).zip(&mut visitors) {
        end_visit(visitor, number);
    }
    drop(visitors);
    baseline.expect_again();
    client.stop();
    let stopped = server.stop();
    assert_eq!((stopped.visitors, stopped.finished, stopped.aborted), (2000, 2000, 0));
    assert_eq!(stopped.handshakes_dropped, 0, "an honest client's bursts have room");
}

#[test]
fn ten_thousand_leave_no_memory_behind() {
    const GROWTH: u64 = 4 << 20;
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    // The first thousand fill the programs' pools.
    crowd(client.public(), 1000);
    let before = [server.process().memory(), client.process().memory()];
    crowd(client.public(), 10_000);
    let after = [server.process().memory(), client.process().memory()];
    for (name, before, after) in [("server", before[0], after[0]), ("client", before[1], after[1])] {
        assert!(after < before + GROWTH, "{name}: {before} bytes before, {after} after 10,000 visits");
    }
}

/// `count` short visits, four at a time.
fn crowd(public: SocketAddr, count: u32) {
    std::thread::scope(|scope| {
        for visitor in 0..4 {
            scope.spawn(move || {
                for number in (visitor..count).step_by(4) {
                    short_visit(public, number);
                }
            });
        }
    });
}
