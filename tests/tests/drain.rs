//! A graceful stop: no new visitors, those being served may finish within the drain time, what is left then
//! is reset, and the exit code is 0.

use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use tests::exchange::send_part;
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Program, Server, options};
use tests::services::Service;
use tests::sockets::{End, read_each, read_end};
use tests::visits::ping;
use tests::wait::until;

const TOTAL: u64 = 48 << 20;

/// A tunnel to a download of [`TOTAL`] bytes.
fn setup(drain_timeout: f64) -> (Service, Server, Client) {
    let service = Service::start(|mut stream| {
        let _ = send_part(&mut stream, Flow::down(1), 0, TOTAL);
    });
    let server = Server::start(options().flag("drain-timeout", drain_timeout));
    let client = Client::start(&server, options().flag("drain-timeout", drain_timeout).tunnel(service.addr()));
    (service, server, client)
}

/// Stops `program` while a download is going on: new visitors are refused, and the download finishes.
#[track_caller]
fn expect_drain(program: &Program, client: &Client, signal: Signal) {
    let mut visitor = client.visit();
    let mut arrival = Arrival::of(Flow::down(1));
    let mut start = vec![0; 1 << 20];
    visitor.read_exact(&mut start).expect("the download has begun");
    arrival.take(&start).expect("byte for byte");
    program.signal(signal);
    let mut too_late = 0;
    until("new visitors are refused", || {
        let refused = TcpStream::connect(client.public()).is_err();
        too_late += u64::from(!refused);
        refused
    });
    assert!(program.is_running(), "it waits for the download");
    let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
    assert_eq!((end, arrival.end(TOTAL)), (End::Clean, Ok(())));
    drop(visitor);
    let stopped = program.stopped();
    // A probe that was let in and left again is a transfer that ended.
    let probes = stopped.finished + stopped.aborted - 1;
    assert!(stopped.finished >= 1 && probes <= too_late, "{stopped:?}, {too_late} came too late");
}

#[test]
fn a_stopped_server_lets_a_download_finish() {
    let (_service, server, client) = setup(60.0);
    expect_drain(&server, &client, Signal::SIGTERM);
    assert!(client.is_running(), "the client waits for a server");
}

#[test]
fn a_stopped_client_lets_a_download_finish() {
    let (_service, server, client) = setup(60.0);
    expect_drain(&client, &client, Signal::SIGINT);
    assert!(server.is_running());
}

#[test]
fn what_outlasts_the_drain_time_is_reset() {
    for stop_server in [true, false] {
        let (service, server, client) = setup(0.3);
        let mut visitor = client.visit();
        visitor.read_exact(&mut [0; 1000]).expect("the download has begun");
        let program: &Program = if stop_server { &server } else { &client };
        let stopped = program.stop();
        assert_eq!((stopped.finished, stopped.aborted), (0, 1));
        let (_, end) = read_end(&mut visitor);
        assert_eq!(end, End::Reset);
        until("the service's stream is over", || service.open() == 0);
    }
}

#[test]
fn programs_with_nothing_to_do_stop_at_once() {
    let service = Service::echo();
    // Longer than any test waits: only "nothing to drain" can end this in time.
    let patient = || options().flag("drain-timeout", 600);
    let server = Server::start(patient());
    let client = Client::start(&server, patient().tunnel(service.addr()));
    let mut visitor = client.visit();
    ping(&mut visitor, b"once");
    drop(visitor);
    client.stop();
    server.stop();
    let server = Server::start(patient());
    let _client = Client::start(&server, patient().tunnel(service.addr()));
    server.stop();
}

#[test]
fn a_client_without_a_server_stops_at_once() {
    let refusing = tests::services::Refusing::reserve();
    let options = options().flag("drain-timeout", 600).tunnel("127.0.0.1:1").via(refusing.addr());
    let client = Client::spawn_alone(tests::sockets::LOOPBACK, options);
    client.log_line("refused");
    client.stop();
}

#[test]
fn a_second_signal_ends_it_without_waiting() {
    let (_service, server, client) = setup(600.0);
    let mut visitor = client.visit();
    visitor.read_exact(&mut [0; 1000]).expect("the download has begun");
    server.signal(Signal::SIGTERM);
    until("new visitors are refused", || TcpStream::connect(client.public()).is_err());
    until("a second signal that comes late enough ends it", || {
        server.signal(Signal::SIGTERM);
        !server.is_running()
    });
    assert_eq!(server.exit_code(), 1);
}

#[test]
fn both_directions_may_finish() {
    let service = Service::echo();
    let server = Server::start(options().flag("drain-timeout", 60));
    let client = Client::start(&server, options().tunnel(service.addr()));
    let mut visitor = client.visit();
    ping(&mut visitor, b"before");
    server.signal(Signal::SIGTERM);
    until("new visitors are refused", || TcpStream::connect(client.public()).is_err());
    for _ in 0..100 {
        ping(&mut visitor, b"a conversation that is not over");
    }
    visitor.write_all(b"the last word").expect("send");
    tests::sockets::finish(&visitor);
    assert_eq!(tests::sockets::read_all(&mut visitor), b"the last word");
    server.stopped();
}
