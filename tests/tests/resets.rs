//! A reset stays a reset: at whichever end and in whichever phase it happens, the other end sees a reset
//! and never a clean end, nobody spins over it, nothing leaks, and neighbours do not notice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use tests::exchange::{Exchange, Exchanges};
use tests::gate::Between;
use tests::leaks::Baseline;
use tests::programs::{Client, Server, expect_calm, options};
use tests::services::Service;
use tests::sockets::{End, finish, read_end, reset, unacknowledged};
use tests::visits::ping;
use tests::wait::{PATIENCE, until};

/// A service that tells what it read of each stream and how that ended; it answers the first bytes with the same bytes.
fn observer() -> (Service, Receiver<(u64, End)>) {
    let (ends, seen) = channel();
    let service = Service::start(move |mut stream| {
        let mut first = [0; 4];
        if stream.read_exact(&mut first).is_ok() {
            let _ = stream.write_all(&first);
        }
        let (bytes, end) = read_end(&mut stream);
        let _ = ends.send((bytes, end));
    });
    (service, seen)
}

/// A service that sends without end until its stream breaks, and then says so.
fn endless() -> (Service, Receiver<()>) {
    let (ends, seen) = channel();
    let service = Service::start(move |mut stream| {
        while stream.write_all(&[7; 64 << 10]).is_ok() {}
        let _ = ends.send(());
    });
    (service, seen)
}

fn setup(service: &Service) -> (Server, Client) {
    let server = Server::start(options().brisk().threads(1));
    let client = Client::start(&server, options().brisk().threads(1).tunnel(service.addr()));
    (server, client)
}

#[test]
fn a_visitors_reset_reaches_the_service() {
    let (service, ends) = observer();
    let (server, client) = setup(&service);
    let baseline = Baseline::of(&server, &client);
    for round in 0..40 {
        let mut visitor = client.visit();
        ping(&mut visitor, b"here");
        let sent = if round % 2 == 0 { 100_000 } else { 0 };
        visitor.write_all(&vec![1; sent]).expect("send");
        // A reset drops what its own kernel still holds.
        until("all is acknowledged", || unacknowledged(&visitor) == 0);
        reset(visitor);
        assert_eq!(ends.recv_timeout(PATIENCE), Ok((sent as u64, End::Reset)), "round {round}");
    }
    baseline.expect_again();
}

#[test]
fn a_visitors_reset_in_mid_download_stops_the_service() {
    let (service, broken) = endless();
    let (server, client) = setup(&service);
    let baseline = Baseline::of(&server, &client);
    for _ in 0..10 {
        let mut visitor = client.visit();
        visitor.read_exact(&mut [0; 300_000]).expect("the download has begun");
        reset(visitor);
        broken.recv_timeout(PATIENCE).expect("the service's stream breaks");
    }
    expect_calm([&server, &client]);
    baseline.expect_again();
}

#[test]
fn a_visitor_who_closes_in_mid_download_stops_the_service() {
    let (service, broken) = endless();
    let (server, client) = setup(&service);
    for _ in 0..5 {
        let mut visitor = client.visit();
        visitor.read_exact(&mut [0; 300_000]).expect("the download has begun");
        drop(visitor);
        broken.recv_timeout(PATIENCE).expect("the service's stream breaks");
    }
    expect_calm([&server, &client]);
}

#[test]
fn a_services_reset_reaches_the_visitor() {
    const SENT: usize = 200_000;
    let service = Service::start(|mut stream| {
        stream.read_exact(&mut [0; 2]).expect("the visitor's word");
        stream.write_all(&[7; SENT]).expect("send");
        // A reset drops what its own kernel still holds.
        until("all is acknowledged", || unacknowledged(&stream) == 0);
        reset(stream);
    });
    let (server, client) = setup(&service);
    let baseline = Baseline::of(&server, &client);
    for visitor_ends_first in [false, true] {
        for _ in 0..20 {
            let mut visitor = client.visit();
            visitor.write_all(b"ok").expect("send");
            if visitor_ends_first {
                finish(&visitor);
            }
            assert_eq!(read_end(&mut visitor), (SENT as u64, End::Reset));
        }
    }
    expect_calm([&server, &client]);
    baseline.expect_again();
}

#[test]
fn a_services_reset_stops_a_visitor_who_is_sending() {
    let service = Service::start(|mut stream| {
        stream.read_exact(&mut [0; 300_000]).expect("the upload has begun");
        reset(stream);
    });
    let (server, client) = setup(&service);
    for _ in 0..10 {
        let mut visitor = client.visit();
        while visitor.write_all(&[1; 64 << 10]).is_ok() {}
        assert!(!matches!(visitor.read(&mut [0; 1]), Ok(1..)), "the service sent nothing");
    }
    expect_calm([&server, &client]);
}

#[test]
fn a_reset_after_one_direction_ended_well_is_still_a_reset() {
    let service = Service::start(|stream| {
        finish(&stream);
        let mut stream = stream;
        stream.read_exact(&mut [0; 2]).expect("the visitor has seen the end");
        reset(stream);
    });
    let (_server, client) = setup(&service);
    for _ in 0..20 {
        let mut visitor = client.visit();
        assert_eq!(read_end(&mut visitor), (0, End::Clean));
        visitor.write_all(b"ok").expect("the other direction is open");
        until("writing fails: the service is gone", || visitor.write_all(b"?").is_err());
    }
}

#[test]
fn a_reset_behind_the_visitors_own_end_reaches_a_quiet_service() {
    let (ends, seen) = channel();
    let service = Service::start(move |mut stream| {
        assert_eq!(read_end(&mut stream), (4, End::Clean));
        let _ = ends.send("end");
        // Nothing is sent any more: only the reset itself can tell.
        until("the service's socket has an error", || stream.take_error().expect("SO_ERROR").is_some());
        let _ = ends.send("reset");
    });
    let (server, client) = setup(&service);
    let baseline = Baseline::of(&server, &client);
    for round in 0..20 {
        let mut visitor = client.visit();
        visitor.write_all(b"here").expect("send");
        finish(&visitor);
        let at_once = round % 2 == 0;
        if at_once {
            until("all is acknowledged", || unacknowledged(&visitor) == 0);
        } else {
            assert_eq!(seen.recv_timeout(PATIENCE), Ok("end"));
        }
        reset(visitor);
        if at_once {
            assert_eq!(seen.recv_timeout(PATIENCE), Ok("end"), "the end keeps its place, too");
        }
        assert_eq!(seen.recv_timeout(PATIENCE), Ok("reset"));
    }
    baseline.expect_again();
}

#[test]
fn a_reset_behind_the_services_own_end_reaches_a_quiet_visitor() {
    let service = Service::start(|mut stream| {
        stream.write_all(b"done").expect("send");
        finish(&stream);
        stream.read_exact(&mut [0; 2]).expect("the visitor has seen the end");
        reset(stream);
    });
    let (server, client) = setup(&service);
    let baseline = Baseline::of(&server, &client);
    for _ in 0..10 {
        let mut visitor = client.visit();
        assert_eq!(read_end(&mut visitor), (4, End::Clean));
        visitor.write_all(b"ok").expect("the other direction is open");
        until("the visitor's socket has an error", || visitor.take_error().expect("SO_ERROR").is_some());
    }
    baseline.expect_again();
}

#[test]
fn a_stream_cut_between_the_programs_is_a_reset_at_both_ends() {
    let (service, ends) = observer();
    const READY: u64 = 4;
    let server = Server::start(options().brisk().key("idle_conns", READY));
    let between = Between::new(server.ctl(), server.proxy());
    let options = options().brisk().tunnel(service.addr()).via(between.ctl.addr());
    let client = Client::start(&server, options);
    until("the pool is full", || between.proxy.accepted() >= READY);
    let losses: [fn(&Between); 2] = [|between| between.proxy.cut(), |between| between.proxy.hang_up()];
    for round in 0..20 {
        let mut visitor = client.visit();
        ping(&mut visitor, b"here");
        let opened = between.proxy.accepted();
        losses[round % 2](&between);
        assert_eq!(read_end(&mut visitor), (0, End::Reset), "visitor, round {round}");
        assert_eq!(ends.recv_timeout(PATIENCE), Ok((0, End::Reset)), "service, round {round}");
        // The idle ones are lost as well; who came now could be given one of them.
        until("they are replaced", || between.proxy.accepted() >= opened + READY);
    }
}

#[test]
fn neighbours_on_the_same_loop_do_not_notice() {
    let (rude, _ends) = observer();
    let polite = Exchanges::start();
    let server = Server::start(options().brisk().threads(1));
    let tunnels = options().brisk().threads(1).tunnel(rude.addr()).tunnel(polite.addr());
    let client = Client::start(&server, tunnels);
    let (rude, calm) = (client.public_of(rude.addr()), client.public_of(polite.addr()));
    std::thread::scope(|scope| {
        let resets = scope.spawn(move || {
            for _ in 0..300 {
                let mut visitor: TcpStream = tests::sockets::connect(rude);
                visitor.write_all(b"here and a little more").expect("send");
                reset(visitor);
            }
        });
        let mut exchanges = 0;
        while !resets.is_finished() || exchanges < 4 {
            Exchange::new(exchanges).up(1 << 20).down(1 << 20).run(calm);
            exchanges += 1;
        }
        polite.expect(exchanges.into());
    });
}
