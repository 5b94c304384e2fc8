//! A reader that pauses stops its own sender and nothing else: no program grows, spins, or keeps its
//! neighbours on the same event loop waiting; when it reads again, every byte is there.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Server, expect_calm, options};
use tests::services::Service;
use tests::sockets::{End, connect, finish, read_each, small_receive_buffer};
use tests::visits::ping;
use tests::wait::until_still;

const TOTAL: u64 = 96 << 20;
const GROWTH: u64 = 16 << 20;

/// Sends all of `flow` in pieces of `piece` bytes, counting, and ends.
fn send_counting(stream: &mut TcpStream, flow: Flow, piece: u64, total: u64, sent: &AtomicU64) {
    // A sender that is stopped for long is what these tests are about.
    stream.set_write_timeout(None).expect("no write timeout");
    let mut buffer = vec![0; piece as usize];
    for offset in (0..total).step_by(piece as usize) {
        let n = piece.min(total - offset) as usize;
        flow.fill(offset, &mut buffer[..n]);
        stream.write_all(&buffer[..n]).expect("send");
        sent.fetch_add(n as u64, Ordering::SeqCst);
    }
    finish(stream);
}

#[test]
fn a_paused_visitor_stops_only_its_own_download() {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let download = Service::start(move |mut stream| {
        send_counting(&mut stream, Flow::down(1), 64 << 10, TOTAL, &counter);
    });
    paused(&download, &sent, |mut visitor| {
        let mut arrival = Arrival::of(Flow::down(1));
        let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
        assert_eq!((end, arrival.end(TOTAL)), (End::Clean, Ok(())));
    });
}

#[test]
fn a_paused_visitor_of_many_small_writes_gets_them_all() {
    const SMALL_TOTAL: u64 = 8 << 20;
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    // Small segments fill a pipe's slots long before its bytes.
    let download = Service::start(move |mut stream| {
        send_counting(&mut stream, Flow::down(1), 61, SMALL_TOTAL, &counter);
    });
    paused(&download, &sent, |mut visitor| {
        let mut arrival = Arrival::of(Flow::down(1));
        let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
        assert_eq!((end, arrival.end(SMALL_TOTAL)), (End::Clean, Ok(())));
    });
}

/// Opens a download through a tunnel, does not read until the sender stands still, looks at the
/// programs and at a neighbour, and lets `read` read.
fn paused(download: &Service, sent: &AtomicU64, read: impl Fn(TcpStream)) {
    let echo = Service::echo();
    let server = Server::start(options().threads(1));
    let tunnels = options().threads(1).tunnel(download.addr()).tunnel(echo.addr());
    let client = Client::start(&server, tunnels);
    let mut neighbour = connect(client.public_of(echo.addr()));
    ping(&mut neighbour, b"before");
    let before = [server.process().memory(), client.process().memory()];

    let visitors = [client.visit(), client.visit()];
    visitors.iter().for_each(small_receive_buffer);
    let stuck_at = until_still("bytes sent by the services", || sent.load(Ordering::SeqCst));
    assert!(stuck_at > 0);

    expect_calm([&server, &client]);
    for (program, before) in [&*server, &*client].into_iter().zip(before) {
        let after = program.process().memory();
        assert!(after < before + GROWTH, "{before} bytes before, {after} while nobody reads");
    }
    for _ in 0..100 {
        ping(&mut neighbour, &[1; 1000]);
        ping(&mut connect(client.public_of(echo.addr())), b"a new visitor");
    }
    assert_eq!(sent.load(Ordering::SeqCst), stuck_at, "the senders are still stopped");
    visitors.into_iter().for_each(read);
}

#[test]
fn a_paused_service_stops_only_its_own_upload() {
    let (let_read, may_read) = std::sync::mpsc::channel();
    let may_read = std::sync::Mutex::new(may_read);
    let (results, result) = std::sync::mpsc::channel();
    let upload = Service::start(move |mut stream| {
        small_receive_buffer(&stream);
        may_read.lock().expect("one upload").recv().expect("the test's word");
        let mut arrival = Arrival::of(Flow::up(1));
        let end = read_each(&mut stream, |bytes| arrival.take(bytes).expect("byte for byte"));
        let _ = results.send((end, arrival.end(TOTAL)));
    });
    let echo = Service::echo();
    let server = Server::start(options().threads(1));
    let tunnels = options().threads(1).tunnel(upload.addr()).tunnel(echo.addr());
    let client = Client::start(&server, tunnels);
    let mut neighbour = connect(client.public_of(echo.addr()));
    let sent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut visitor = client.visit();
        let sender = scope.spawn(|| {
            send_counting(&mut visitor, Flow::up(1), 64 << 10, TOTAL, &sent);
            visitor
        });
        let stuck_at = until_still("bytes sent by the visitor", || sent.load(Ordering::SeqCst));
        for _ in 0..100 {
            ping(&mut neighbour, &[1; 1000]);
        }
        assert_eq!(sent.load(Ordering::SeqCst), stuck_at, "the sender is still stopped");
        let_read.send(()).expect("the service waits");
        sender.join().expect("all of it is sent");
        let result = result.recv_timeout(tests::wait::PATIENCE).expect("the upload ends");
        assert_eq!(result, (End::Clean, Ok(())));
    });
}
