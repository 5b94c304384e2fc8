//! The loss of only the ctl_conn: the session survives it. Downloads go on byte for byte, ends that happen
//! meanwhile are told later, the public port stays; only when the grace time has passed is the session gone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;
use tests::exchange::{Exchange, Exchanges, Order, send_part};
use tests::gate::Gate;
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::{End, connect, finish, free_port, read_each, read_end};
use tests::visits::{ping, short_visit, until_served};
use tests::wait::{PATIENCE, until};

const MIB: u64 = 1 << 20;

struct Setup {
    server: Server,
    gate: Gate,
    client: Client,
}

/// A tunnel whose ctl_conn, and nothing else, passes a gate.
fn setup(service: SocketAddr, server: Options, client: Options) -> Setup {
    let server = Server::start(server);
    let gate = Gate::before(server.ctl());
    let client = Client::start(&server, client.tunnel(service).via(gate.addr()));
    Setup { server, gate, client }
}

/// A service that sends `total` bytes of a stream and ends.
fn downloads(total: u64) -> Service {
    Service::start(move |mut stream| {
        send_part(&mut stream, Flow::down(1), 0, total).expect("send all of it");
    })
}

/// Reads up to `until` bytes of a download.
fn read_part(visitor: &mut TcpStream, arrival: &mut Arrival, until: u64) {
    let mut buffer = vec![0; 64 << 10];
    while arrival.offset() < until {
        let n = visitor.read(&mut buffer).expect("the download goes on");
        assert_ne!(n, 0, "ended early, at {}", arrival.offset());
        arrival.take(&buffer[..n]).expect("byte for byte");
    }
}

/// Reads a download to its clean end.
fn read_rest(visitor: &mut TcpStream, arrival: &mut Arrival, total: u64) {
    let end = read_each(visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
    assert_eq!((end, arrival.end(total)), (End::Clean, Ok(())));
}

#[test]
fn a_download_in_flight_completes_byte_for_byte() {
    const TOTAL: u64 = 64 * MIB;
    let losses: [fn(&Gate); 3] = [Gate::cut, Gate::hang_up, Gate::freeze_present];
    for threads in [1, 4] {
        let service = downloads(TOTAL);
        let setup = setup(service.addr(), options().brisk().threads(threads), options().brisk().threads(threads));
        let public = setup.client.public();
        for loss in losses {
            let mut visitor = setup.client.visit();
            let mut arrival = Arrival::of(Flow::down(1));
            read_part(&mut visitor, &mut arrival, MIB);
            let before = setup.gate.accepted();
            loss(&setup.gate);
            read_part(&mut visitor, &mut arrival, 8 * MIB);
            until("the client is back", || setup.gate.accepted() > before);
            read_rest(&mut visitor, &mut arrival, TOTAL);
        }
        assert_eq!(setup.client.public(), public, "the port stays");
        assert_eq!(setup.client.forwardings().len(), 1, "nothing new to announce");
        setup.gate.thaw();
        setup.client.stop();
        assert_eq!(setup.server.stop().finished, 3);
    }
}

#[test]
fn ends_that_nobody_could_tell_are_told_after_the_resume() {
    let service = Exchanges::start();
    let patient = || options().brisk().key("session_grace", 60);
    let setup = setup(service.addr(), patient(), patient());
    let mut stream = 0;
    for order in [Order::Together, Order::VisitorFirst, Order::ServiceFirst] {
        for (up, down) in [(0, 0), (10, 10), (300_000, 300_000)] {
            stream += 1;
            // Connected while all is well; everything else happens while the ctl_conn is away.
            let visitor = setup.client.visit();
            let before = setup.gate.accepted();
            setup.gate.close();
            setup.gate.cut();
            std::thread::scope(|scope| {
                let exchange = Exchange::new(stream).up(up).down(down).order(order);
                let visit = scope.spawn(move || exchange.try_run(visitor));
                // Time to get stuck in; nothing depends on how far it comes.
                std::thread::sleep(Duration::from_millis(100));
                setup.gate.open();
                assert_eq!(visit.join().expect("no panic"), Ok(()));
            });
            until("the client is back", || setup.gate.accepted() > before);
        }
    }
    service.expect(stream.into());
}

#[test]
fn visitors_who_come_meanwhile_are_served() {
    let service = Service::echo();
    let patient = || options().brisk().key("session_grace", 60);
    let setup = setup(service.addr(), patient().key("wait_timeout", 60), patient());
    setup.gate.close();
    setup.gate.cut();
    until("the ctl_conn is gone", || setup.gate.open_connections() == 0);
    let mut visitors: Vec<_> = (0..10).map(|_| connect(setup.client.public())).collect();
    for visitor in &mut visitors {
        visitor.write_all(b"patience").expect("send");
        finish(visitor);
    }
    setup.gate.open();
    for visitor in &mut visitors {
        assert_eq!(tests::sockets::read_all(visitor), b"patience");
    }
}

#[test]
fn losses_without_end_lose_nothing() {
    const LOSSES: u64 = 80;
    let service = Exchanges::start();
    let patient = || options().brisk().key("session_grace", 60);
    let hurrying = patient().key("reconnect_max", 0.02);
    let setup = setup(service.addr(), patient().key("wait_timeout", 60), hurrying);
    let (next, public) = (AtomicU32::new(0), setup.client.public());
    std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while setup.gate.accepted() <= LOSSES {
                        let stream = next.fetch_add(1, Ordering::SeqCst);
                        let order = [Order::Together, Order::VisitorFirst, Order::ServiceFirst][stream as usize % 3];
                        Exchange::new(stream).up(100_000).down(200_000).order(order).run(public);
                    }
                })
            })
            .collect();
        for loss in 1..=LOSSES {
            until("the client is back", || setup.gate.accepted() >= loss || visitors.iter().any(|v| v.is_finished()));
            // At any moment: before, in the middle of and after the handshake.
            std::thread::sleep(Duration::from_millis(loss % 4 * 3));
            setup.gate.cut();
        }
    });
    let visits = next.into_inner();
    assert!(visits >= 20, "only {visits} visits");
    service.expect(visits.into());
    assert_eq!(setup.client.forwardings().len(), 1);
    setup.client.stop();
    let stopped = setup.server.stop();
    assert_eq!((stopped.finished, stopped.aborted), (visits.into(), 0));
}

#[test]
fn a_reset_that_nobody_could_tell_is_told_after_the_resume() {
    let (ends, seen) = channel();
    let service = Service::start(move |mut stream| {
        let _ = stream.write_all(b"x");
        let _ = ends.send(read_end(&mut stream).1);
    });
    let patient = || options().brisk().key("session_grace", 60);
    let setup = setup(service.addr(), patient(), patient());
    let mut visitor = setup.client.visit();
    visitor.read_exact(&mut [0; 1]).expect("it is being served");
    setup.gate.close();
    setup.gate.cut();
    until("the ctl_conn is gone", || setup.gate.open_connections() == 0);
    tests::sockets::reset(visitor);
    setup.gate.open();
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(End::Reset));
}

#[test]
fn after_the_grace_time_everything_is_released() {
    let (ends, seen) = channel();
    let service = Service::start(move |mut stream| {
        let mut writer = stream.try_clone().expect("clone");
        let end = read_each(&mut stream, |bytes| {
            let _ = writer.write_all(bytes);
        });
        let _ = ends.send(end);
    });
    let hasty = || options().brisk().key("session_grace", 0.5);
    let server = Server::start(hasty());
    let gate = Gate::before(server.ctl());
    let tunnel = hasty().tunnel_at(service.addr(), free_port());
    let client = Client::start(&server, tunnel.via(gate.addr()));
    let mut visitor = client.visit();
    ping(&mut visitor, b"before");
    gate.close();
    gate.cut();
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(End::Reset));
    until("the public port is released", || TcpStream::connect(client.public()).is_err());
    until("its proxy_conns are closed", || client.proxy_conns(&server) == 0);
    gate.open();
    until_served(client.public());
    for number in 0..10 {
        short_visit(client.public(), number);
    }
}
