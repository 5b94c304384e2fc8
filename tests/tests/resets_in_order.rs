//! A reset keeps its place: what was sent before it is read before it, as over a direct connection, in either
//! direction, and the proxy_conn that carried it carries the next visitor.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::Duration;
use tests::gate::Between;
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{End, finish, read_each, read_end, reset, unacknowledged};
use tests::wait::{PATIENCE, until};

const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// The programs, and what counts the conns that were opened between them.
struct Setup {
    client: Client,
    between: Between,
    _server: Server,
}

impl Setup {
    /// With a loop on each side, so that the next visitor is given the conn of the last.
    fn of(service: &Service) -> Self {
        let server = Server::start(options().threads(1).key("idle_conns", 1));
        let between = Between::new(server.ctl(), server.proxy());
        let client = Client::start(&server, options().threads(1).tunnel(service.addr()).via(between.ctl.addr()));
        until("a conn is idle", || between.proxy.accepted() == 1);
        Self { client, between, _server: server }
    }

    fn visit(&self) -> TcpStream {
        self.client.visit()
    }

    /// Whatever happened to the visitors, twenty and more, no conn was lost by it: on a busy machine some may have been
    /// asked for while another was on its way back to the pool.
    fn expect_reuse(&self) {
        let opened = self.between.proxy.accepted();
        assert!(opened <= 10, "{opened} conns were opened for visitors who came one after another");
    }
}

/// Everything that comes until the end, which may be a reset.
fn read_whole(stream: &mut TcpStream) -> (Vec<u8>, End) {
    let mut all = Vec::new();
    let end = read_each(stream, |bytes| all.extend_from_slice(bytes));
    (all, end)
}

/// A service that tells what it read of each visitor and how that ended.
fn reader() -> (Service, Receiver<(u64, End)>) {
    let (ends, seen) = channel();
    let service = Service::start(move |mut stream| {
        let _ = ends.send(read_end(&mut stream));
    });
    (service, seen)
}

/// A service that reads some of a request, answers, and closes with the rest unread: its kernel resets.
fn hasty(reads: usize) -> Service {
    Service::start(move |mut stream| {
        if stream.read_exact(&mut vec![0; reads]).is_ok() {
            let _ = stream.write_all(ANSWER);
        }
    })
}

#[test]
fn an_answer_before_a_reset_is_read_under_an_upload() {
    let service = hasty(100);
    let setup = Setup::of(&service);
    for visit in 0..40 {
        let mut visitor = setup.visit();
        let mut sending = visitor.try_clone().expect("a second handle");
        // Fails somewhere on the way: the service reads no more.
        let upload = std::thread::spawn(move || drop(sending.write_all(&vec![1; 4 << 20])));
        let (answer, _) = read_whole(&mut visitor);
        assert_eq!(String::from_utf8_lossy(&answer), String::from_utf8_lossy(ANSWER), "visit {visit}");
        let _ = upload.join();
    }
}

#[test]
fn an_answer_before_a_reset_is_read_whatever_the_size_of_the_request() {
    let service = hasty(1001);
    let setup = Setup::of(&service);
    for size in [2_000, 20_000, 300_000] {
        for visit in 0..30 {
            let mut visitor = setup.visit();
            let _ = visitor.write_all(&vec![1; size]);
            let (answer, _) = read_whole(&mut visitor);
            assert_eq!(answer.len(), ANSWER.len(), "visit {visit} with {size} bytes");
        }
    }
    setup.expect_reuse();
}

#[test]
fn what_a_service_sent_before_its_reset_is_read_whole_and_then_the_reset() {
    const SENT: usize = 64 << 10;
    let service = Service::start(|mut stream| {
        let _ = stream.write_all(&Flow::down(1).bytes(0, SENT));
        // Over a direct connection nothing is lost then: the visitor's kernel has all of it.
        until("all is acknowledged", || unacknowledged(&stream) == 0);
        reset(stream);
    });
    let setup = Setup::of(&service);
    for visit in 0..100 {
        let mut visitor = setup.visit();
        let (bytes, end) = read_whole(&mut visitor);
        assert_eq!((bytes.len(), end), (SENT, End::Reset), "visit {visit}");
        Arrival::of(Flow::down(1)).take(&bytes).expect("in order");
    }
    setup.expect_reuse();
}

#[test]
fn what_a_visitor_sent_before_its_reset_is_read_whole_and_then_the_reset() {
    let (service, ends) = reader();
    let setup = Setup::of(&service);
    for visit in 0..40 {
        let mut visitor = setup.visit();
        for part in 0..3 {
            visitor.write_all(&[part; 40_000]).expect("sent");
        }
        until("all is acknowledged", || unacknowledged(&visitor) == 0);
        reset(visitor);
        assert_eq!(ends.recv_timeout(PATIENCE), Ok((120_000, End::Reset)), "visit {visit}");
    }
    setup.expect_reuse();
}

#[test]
fn a_visitor_who_closes_with_bytes_unread_is_heard_before_it_is_gone() {
    let (ends, seen) = channel();
    let service = Service::start(move |mut stream| {
        let _ = stream.write_all(&[7; 500]);
        let _ = ends.send(read_end(&mut stream));
    });
    let setup = Setup::of(&service);
    for visit in 0..40 {
        let mut visitor = setup.visit();
        until("the greeting is there", || visitor.peek(&mut [0; 500]).is_ok_and(|n| n == 500));
        visitor.write_all(&[1; 100]).expect("sent");
        drop(visitor);
        assert_eq!(seen.recv_timeout(PATIENCE), Ok((100, End::Reset)), "visit {visit}");
    }
    setup.expect_reuse();
}

#[test]
fn a_visitor_who_closes_before_the_service_speaks_costs_no_conn() {
    let (ends, seen) = channel();
    let service = Service::start(move |mut stream| {
        let asked = read_end(&mut stream);
        let _ = stream.write_all(b"healthy");
        // Told of the visitor's reset by the next write or the last one's error.
        until("the service's socket breaks", || stream.write_all(b"?").is_err());
        let _ = ends.send(asked);
    });
    let setup = Setup::of(&service);
    for visit in 0..20 {
        let mut visitor = setup.visit();
        visitor.write_all(b"check").expect("sent");
        drop(visitor);
        assert_eq!(seen.recv_timeout(PATIENCE), Ok((5, End::Clean)), "visit {visit}");
    }
    setup.expect_reuse();
}

#[test]
fn a_reset_behind_an_end_reaches_the_other_side_and_costs_no_conn() {
    let service = Service::start(|stream| {
        finish(&stream);
        let mut stream = stream;
        stream.read_exact(&mut [0; 2]).expect("the visitor has seen the end");
        reset(stream);
    });
    let setup = Setup::of(&service);
    for _ in 0..20 {
        let mut visitor = setup.visit();
        assert_eq!(read_end(&mut visitor), (0, End::Clean));
        visitor.write_all(b"ok").expect("the other direction is open");
        until("writing fails: the service is gone", || visitor.write_all(b"?").is_err());
    }
    setup.expect_reuse();
}

#[test]
fn a_cancelled_download_costs_no_conn() {
    let service = Service::start(|mut stream| while stream.write_all(&[7; 64 << 10]).is_ok() {});
    let setup = Setup::of(&service);
    for _ in 0..20 {
        let mut visitor = setup.visit();
        visitor.read_exact(&mut [0; 300_000]).expect("the download has begun");
        reset(visitor);
        until("the service is rid of it", || service.open() == 0);
    }
    setup.expect_reuse();
}

#[test]
fn a_visitor_who_resets_while_it_waits_for_a_conn_is_heard() {
    let (service, ends) = reader();
    for (shuts, end) in [(true, End::Clean), (false, End::Reset)] {
        for visit in 0..3 {
            // No conn is kept ready, and none is left over from other visitors.
            let server = Server::start(options().key("idle_conns", 0).threads(1));
            let client = Client::start(&server, options().threads(1).tunnel(service.addr()));
            let client_process = &*client;
            client_process.signal(nix::sys::signal::Signal::SIGSTOP);
            let first = client.visit();
            let mut visitor = client.visit();
            visitor.write_all(&[1; 100]).expect("sent");
            if shuts {
                finish(&visitor);
            }
            sleep(Duration::from_millis(50));
            reset(visitor);
            sleep(Duration::from_millis(50));
            client_process.signal(nix::sys::signal::Signal::SIGCONT);
            reset(first);
            let mut got = [0; 2].map(|_| ends.recv_timeout(PATIENCE).expect("both are served"));
            got.sort_by_key(|(bytes, _)| *bytes);
            assert_eq!(got, [(0, End::Reset), (100, end)], "visit {visit}, shut {shuts}");
        }
    }
}
