//! Interactive streams: single bytes and small messages arrive at once and in order, whatever their size.

use std::io::{Read, Write};
use tests::exchange::{Exchange, Exchanges, Order};
use tests::gate::Between;
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{End, finish, read_each};
use tests::visits::ping;

#[test]
fn every_size_of_message_is_answered_before_the_next_is_sent() {
    for threads in [1, 4] {
        let service = Service::echo();
        let server = Server::start(options().threads(threads));
        let client = Client::start(&server, options().threads(threads).tunnel(service.addr()));
        let mut visitor = client.visit();
        for size in (1..200).chain((0..19).map(|bit| 1 << bit)).chain((10..18).map(|bit| (1 << bit) + 1)) {
            ping(&mut visitor, &Flow::up(size as u32).bytes(0, size));
        }
    }
}

#[test]
fn single_bytes_in_a_hurry_arrive_in_order() {
    const COUNT: u64 = 20_000;
    let service = Service::echo();
    let server = Server::start(options());
    let client = Client::start(&server, options().tunnel(service.addr()));
    let mut visitor = client.visit();
    let mut writer = visitor.try_clone().expect("clone");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for byte in Flow::up(1).bytes(0, COUNT as usize) {
                writer.write_all(&[byte]).expect("send");
            }
            finish(&writer);
        });
        let mut arrival = Arrival::of(Flow::up(1));
        let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
        assert_eq!((end, arrival.end(COUNT)), (End::Clean, Ok(())));
    });
}

#[test]
fn the_first_byte_may_come_late_from_either_end() {
    let service = Service::start(|mut stream| {
        // Speaks only when spoken to, and the visitor does so only after a while.
        let mut word = [0; 4];
        while stream.read_exact(&mut word).is_ok() && stream.write_all(&word).is_ok() {}
    });
    let server = Server::start(options().brisk());
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    let mut visitors: Vec<_> = (0..10).map(|_| client.visit()).collect();
    // Longer than every brisk timing that could mistake silence for a loss.
    std::thread::sleep(std::time::Duration::from_secs(4));
    for visitor in &mut visitors {
        ping(visitor, b"late");
    }
}

#[test]
fn messages_between_the_programs_may_come_byte_by_byte() {
    let service = Exchanges::start();
    let server = Server::start(options().brisk().key("heartbeat_timeout", 60).key("idle_conns", 1));
    let between = Between::new(server.ctl(), server.proxy());
    between.ctl.dribble();
    between.proxy.dribble();
    let patient = options().brisk().key("heartbeat_timeout", 60);
    let client = Client::start(&server, patient.tunnel(service.addr()).via(between.ctl.addr()));
    let mut visits = 0;
    for order in [Order::Together, Order::VisitorFirst, Order::ServiceFirst] {
        for (up, down) in [(0, 0), (1, 1), (500, 700), (0, 2000), (2000, 0)] {
            Exchange::new(visits).up(up).down(down).order(order).run(client.public());
            visits += 1;
        }
    }
    service.expect(visits.into());
}
