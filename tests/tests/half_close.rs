//! Each direction of a stream ends on its own: whoever ends first, whoever is slow, however little or much
//! was sent, everything sent before an end arrives before that end, and the other direction flows on.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::channel;
use std::time::Duration;
use tests::exchange::{Exchange, Exchanges, Order, send_part};
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{End, connect, finish, read_all, read_each, small_receive_buffer};
use tests::wait::PATIENCE;

#[test]
fn either_end_first_with_fast_and_slow_readers() {
    const SIZES: [(u64, u64); 5] = [(0, 0), (0, 1), (1, 0), (70_000, 300_000), (2 << 20, 1 << 20)];
    for threads in [1, 4] {
        let service = Exchanges::start();
        let server = Server::start(options().threads(threads));
        let client = Client::start(&server, options().threads(threads).tunnel(service.addr()));
        let mut visits = 0;
        for order in [Order::Together, Order::VisitorFirst, Order::ServiceFirst] {
            for (up, down) in SIZES {
                let exchange = Exchange::new(visits).up(up).down(down).order(order);
                for exchange in
                    [exchange, exchange.slow_visitor(), exchange.slow_service(), exchange.slow_visitor().slow_service()]
                {
                    exchange.run(client.public());
                    visits += 1;
                }
            }
        }
        service.expect(visits.into());
    }
}

#[test]
fn a_visitor_who_says_nothing_is_answered() {
    let service = Service::greeter("welcome");
    let server = Server::start(options());
    let client = Client::start(&server, options().tunnel(service.addr()));
    for _ in 0..50 {
        let mut waits = client.visit();
        assert_eq!(read_all(&mut waits), b"welcome", "without an end from the visitor");
        let mut ends = client.visit();
        finish(&ends);
        assert_eq!(read_all(&mut ends), b"welcome", "with an end before any byte");
    }
}

#[test]
fn all_that_a_visitor_sent_before_closing_arrives() {
    const SENT: u64 = 400_000;
    let (results, ended) = channel();
    let service = Service::start(move |mut stream| {
        small_receive_buffer(&stream);
        let mut arrival = Arrival::of(Flow::up(1));
        let end = read_each(&mut stream, |bytes| {
            arrival.take(bytes).expect("what the visitor sent");
            std::thread::sleep(Duration::from_micros(200));
        });
        let _ = results.send((end, arrival.end(SENT)));
    });
    let server = Server::start(options());
    let client = Client::start(&server, options().tunnel(service.addr()));
    for _ in 0..5 {
        let mut visitor = client.visit();
        send_part(&mut visitor, Flow::up(1), 0, SENT).expect("send all of it");
        drop(visitor);
        let result = ended.recv_timeout(PATIENCE).expect("the stream ends at the service");
        assert_eq!(result, (End::Clean, Ok(())));
    }
}

#[test]
fn all_that_a_service_sent_before_closing_arrives() {
    const SENT: u64 = 400_000;
    let service = Service::start(|mut stream| {
        send_part(&mut stream, Flow::down(1), 0, SENT).expect("send all of it");
    });
    let server = Server::start(options());
    let client = Client::start(&server, options().tunnel(service.addr()));
    for _ in 0..5 {
        let mut visitor = client.visit();
        small_receive_buffer(&visitor);
        let mut arrival = Arrival::of(Flow::down(1));
        let end = read_each(&mut visitor, |bytes| {
            arrival.take(bytes).expect("what the service sent");
            std::thread::sleep(Duration::from_micros(200));
        });
        assert_eq!((end, arrival.end(SENT)), (End::Clean, Ok(())));
    }
}

#[test]
fn one_direction_goes_on_for_long_after_the_other_has_ended() {
    let service = Service::start(|mut stream| {
        stream.shutdown(Shutdown::Write).expect("end at once");
        let mut arrival = Arrival::of(Flow::up(1));
        let end = read_each(&mut stream, |bytes| arrival.take(bytes).expect("what the visitor sent"));
        assert_eq!((end, arrival.end(200_000)), (End::Clean, Ok(())));
    });
    let server = Server::start(options());
    let client = Client::start(&server, options().tunnel(service.addr()));
    let mut visitor = connect(client.public());
    assert_eq!(visitor.read(&mut [0; 1]).expect("the service's end"), 0);
    for offset in (0..200_000).step_by(1000) {
        visitor.write_all(&Flow::up(1).bytes(offset, 1000)).expect("the other direction is open");
        std::thread::sleep(Duration::from_millis(1));
    }
    finish(&visitor);
    tests::wait::until("the service has all of it", || service.open() == 0);
    assert_eq!(service.panicked(), 0, "see above for what the service saw");
    assert_eq!(server.stop().finished, 1);
}
