//! A data connection that alone gets nothing through, while the control connection is well: it is found by what is not
//! acknowledged, soon, and no visitor who merely pauses is taken for one. Needs root.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::link::{Forgotten, Link};
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Program, Server, options};
use tests::root_only;
use tests::services::Service;
use tests::sockets::{End, bounded, connect, read_each, read_end};
use tests::wait::{PATIENCE, until};

/// With a brisk heartbeat, something must be acknowledged within this.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(14);

fn setup(link: &Link, service: &Service) -> (Server, Client) {
    let brisk = || options().brisk().key("transfer_grace", 600).env("CPROXY_TOKEN", "a router between us");
    let server = Server::start(brisk().network(&link.near).flag("bind-addr", link.near.ip()));
    let client = Client::start(&server, brisk().network(&link.far).tunnel_at(service.addr(), 6022));
    (server, client)
}

/// Writes until the connection fails.
fn pour(stream: &mut TcpStream) -> ErrorKind {
    loop {
        if let Err(error) = stream.write_all(&[b'x'; 16 << 10]) {
            return error.kind();
        }
    }
}

/// What a visitor wants of the service: that it sends without end, a word when the conn is lost, or nothing.
const POUR: u8 = b'p';
const SPEAK: u8 = b's';
const LISTEN: u8 = b'l';

/// A visitor who wants this, and is served.
fn visit(client: &Client, order: u8) -> TcpStream {
    let mut visitor = connect(client.public());
    bounded(&visitor, 4 * PATIENCE);
    visitor.write_all(&[order]).expect("the kernel takes it");
    visitor.read_exact(&mut [0]).expect("it is served");
    visitor
}

/// P-XFER-12: whoever sends, and however much. The kernel by itself takes more than five minutes.
#[test]
fn a_conn_that_gets_nothing_through_is_given_up_by_whoever_has_sent() {
    root_only!();
    let link = Link::new(Duration::from_millis(1));
    let lost = Arc::new(AtomicBool::new(false));
    let is_lost = Arc::clone(&lost);
    let service = link.far.run(|| {
        Service::start_at((link.far.ip(), 0).into(), move |mut stream| {
            bounded(&stream, 4 * PATIENCE);
            let mut order = [0];
            stream.read_exact(&mut order).expect("what is wanted");
            stream.write_all(b"!").expect("an answer");
            if order == [POUR] {
                pour(&mut stream);
            } else if order == [SPEAK] {
                until("the conn is lost", || is_lost.load(Ordering::SeqCst));
                stream.write_all(b"a word").expect("the kernel takes it");
            }
            let _ = read_end(&mut stream);
        })
    });
    let (server, client) = setup(&link, &service);
    let [mut poured, mut spoken, mut pours, mut speaks] =
        link.near.run(|| [POUR, SPEAK, LISTEN, LISTEN].map(|order| visit(&client, order)));
    link.forget(server.proxy().port(), Forgotten::Dropped);
    lost.store(true, Ordering::SeqCst);
    speaks.write_all(b"a word").expect("the kernel takes it");
    std::thread::scope(|scope| {
        let failed = scope.spawn(|| pour(&mut pours));
        for visitor in [&mut poured, &mut spoken, &mut speaks] {
            assert_eq!(read_end(visitor).1, End::Reset);
        }
        let failed = failed.join().expect("it ends");
        assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&failed), "{failed:?}");
    });
    until("the service's streams are over", || service.open() == 0);
    // Who finds a conn first tells the other.
    let says = |program: &Program| program.log().contains("nothing gets through a proxy_conn");
    assert!(says(&server) && says(&client), "{}{}", server.log(), client.log());
    // The ctl_conn was well all the time.
    assert_eq!(client.forwardings().len(), 1);
    link.near.run(|| drop(visit(&client, LISTEN)));
}

#[test]
fn a_visitor_who_pauses_is_not_taken_for_a_dead_path() {
    root_only!();
    const TOTAL: u64 = 32 << 20;
    let link = Link::new(Duration::from_millis(1));
    let service = link.far.run(|| {
        Service::start_at((link.far.ip(), 0).into(), |mut stream| {
            bounded(&stream, 4 * PATIENCE);
            tests::exchange::send_part(&mut stream, Flow::down(1), 0, TOTAL).expect("send all of it");
        })
    });
    let (server, client) = setup(&link, &service);
    let mut visitor = link.near.run(|| connect(client.public()));
    let mut arrival = Arrival::of(Flow::down(1));
    let mut start = vec![0; 1 << 20];
    visitor.read_exact(&mut start).expect("the download has begun");
    arrival.take(&start).expect("byte for byte");
    std::thread::sleep(2 * ACKNOWLEDGED_WITHIN);
    let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
    assert_eq!((end, arrival.end(TOTAL)), (End::Clean, Ok(())));
    for log in [server.log(), client.log()] {
        assert!(!log.contains("nothing gets through a proxy_conn"), "{log}");
    }
}
