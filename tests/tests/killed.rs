//! `kill -9` of either program in mid-transfer: whoever survives sees a reset, and a client that is started
//! again is served again on its old port within seconds.

use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, channel};
use tests::gate::Gate;
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::{End, LOOPBACK, connect, free_port, read_end};
use tests::visits::{greeting, ping, until_greeted, until_served};
use tests::wait::{PATIENCE, until};

/// An echo service that tells how each stream ended for it.
fn observed_echo() -> (Service, Receiver<End>) {
    let (ends, seen) = channel();
    let service = Service::start(move |mut stream| {
        let mut writer = stream.try_clone().expect("clone");
        let end = tests::sockets::read_each(&mut stream, |bytes| {
            let _ = writer.write_all(bytes);
        });
        let _ = ends.send(end);
    });
    (service, seen)
}

/// A service that sends without end.
fn endless() -> Service {
    Service::start(|mut stream| while stream.write_all(&[7; 64 << 10]).is_ok() {})
}

#[test]
fn a_killed_server_is_a_reset_for_the_service() {
    for threads in [1, 4] {
        let (service, ends) = observed_echo();
        let server = Server::start(options().brisk().threads(threads));
        let client = Client::start(&server, options().brisk().threads(threads).tunnel(service.addr()));
        let mut visitors: Vec<_> = (0..8).map(|_| client.visit()).collect();
        for visitor in &mut visitors {
            ping(visitor, &[1; 1000]);
        }
        server.kill();
        for _ in &visitors {
            assert_eq!(ends.recv_timeout(PATIENCE), Ok(End::Reset));
        }
        assert!(client.is_running());
    }
}

#[test]
fn a_killed_client_is_a_reset_for_visitors() {
    for threads in [1, 4] {
        let service = endless();
        let server = Server::start(options().brisk().threads(threads));
        let client = Client::start(&server, options().brisk().threads(threads).tunnel(service.addr()));
        let mut downloads: Vec<_> = (0..4).map(|_| client.visit()).collect();
        for visitor in &mut downloads {
            visitor.read_exact(&mut [0; 300_000]).expect("the download has begun");
        }
        let mut upload = client.visit();
        upload.write_all(&[1; 10_000]).expect("send");
        upload.read_exact(&mut [0; 1]).expect("it is being served");
        client.kill();
        for visitor in downloads.iter_mut().chain([&mut upload]) {
            let (_, end) = read_end(visitor);
            assert_eq!(end, End::Reset);
        }
        assert!(server.is_running());
    }
}

#[test]
fn a_client_killed_and_started_again_has_its_port_back() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let port = free_port();
    let again = || Client::start(&server, options().brisk().tunnel_at(service.addr(), port));
    let mut client = again();
    for _ in 0..4 {
        let mut visitor = client.visit();
        ping(&mut visitor, b"before");
        client.kill();
        client = again();
        assert_eq!(client.public().port(), port);
        until_served(client.public());
    }
}

#[test]
fn a_ghost_that_still_seems_to_be_there_is_replaced_too() {
    let service = Service::echo();
    // The ghost's ctl_conn stays up for as long as this test takes: only the probe can tell.
    let server = Server::start(options().brisk().key("heartbeat_timeout", 300));
    let port = free_port();
    let start = |options: Options| Client::start(&server, options.brisk().tunnel_at(service.addr(), port));
    let ghost = start(options());
    let mut visitor = ghost.visit();
    ping(&mut visitor, b"before");
    ghost.signal(Signal::SIGSTOP);
    let client = start(options());
    until_served(client.public());
    assert_eq!(read_end(&mut visitor), (0, End::Reset), "the ghost's transfers end with it");
}

#[test]
fn ports_of_a_client_that_does_not_come_back_are_released() {
    let (old, new) = (Service::greeter("old"), Service::greeter("new"));
    let server = Server::start(options().brisk().key("session_grace", 1));
    let port = free_port();
    let client = |id: &str, service: &Service| options().brisk().flag("client-id", id).tunnel_at(service.addr(), port);
    let first = Client::start(&server, client("first", &old));
    assert_eq!(tests::visits::greeting(first.public()), "old");
    first.kill();
    let second = Client::start(&server, client("second", &new));
    until_greeted(second.public(), |text| text == "new");
    second.kill();
    tests::wait::until("the port is free again", || std::net::TcpStream::connect(second.public()).is_err());
}

#[test]
fn the_server_says_that_a_killed_client_did_not_come_back_and_how_long_it_waited() {
    let service = Service::echo();
    let server = Server::start(options().brisk().key("session_grace", 0.5));
    let killed = Client::start(&server, options().brisk().tunnel(service.addr()));
    killed.kill();
    server.log_line("the client did not come back within 0.5 s (session_grace)");
    let stopped = Client::start(&server, options().brisk().tunnel(service.addr()));
    stopped.stop_by_signal();
    server.log_line("session over: the client ended its session");
}

#[test]
fn a_stream_that_ended_well_before_the_kill_stays_whole() {
    const SENT: usize = 3 << 20;
    let service = Service::start(|mut stream| {
        stream.write_all(&[7; SENT]).expect("send");
    });
    let server = Server::start(options().brisk());
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    let mut visitor = connect(client.public());
    let mut got = vec![0; SENT];
    visitor.read_exact(&mut got).expect("all that was sent");
    assert_eq!(read_end(&mut visitor), (0, End::Clean));
    client.kill();
    assert_eq!(visitor.read(&mut [0; 1]).expect("still the clean end"), 0);
}

#[test]
fn a_client_that_comes_back_with_another_tunnel_has_its_old_port_at_once() {
    let service = Service::echo();
    // Nobody waits for the end of such a grace.
    let server = Server::start(options().brisk().key("session_grace", 3600));
    let port = free_port();
    let client = |id: &str| options().brisk().flag("client-id", id).tunnel_at(service.addr(), port);
    let first = Client::start(&server, client("as it was"));
    ping(&mut first.visit(), b"before");
    first.kill();
    let second = Client::start(&server, client("another container"));
    ping(&mut second.visit(), b"after");
}

#[test]
fn a_client_that_has_waited_for_a_port_does_not_take_it_while_the_other_is_cut_off() {
    let (first_says, second_says) = (Service::greeter("first"), Service::greeter("second"));
    let server = Server::start(options().brisk().key("session_grace", 3600));
    let gate = Gate::before(server.ctl());
    let port = free_port();
    let client = |id: &str, service: &Service| {
        options().brisk().flag("client-id", id).key("session_grace", 3600).tunnel_at(service.addr(), port)
    };
    let _first = Client::start(&server, client("first", &first_says).via(gate.addr()));
    let second = Client::spawn(&server, client("second", &second_says));
    second.log_line("in use");
    let refused = || second.log().matches("in use").count();
    // The first one says something after the second has begun.
    let pings = || gate.recordings().concat().len();
    let before = pings();
    until("the first one is heard of", || pings() > before);
    gate.close();
    gate.cut();
    server.log_line("waits for a resume");
    let before = refused();
    until("the second has asked again and again", || refused() > before + 5);
    let mut greeted = [0; 5];
    // Its end is told on the ctl_conn, and so later.
    connect((LOOPBACK, port).into()).read_exact(&mut greeted).expect("a greeting");
    assert_eq!(&greeted, b"first", "its port is there");
    gate.open();
    server.log_line("session resumed");
    assert_eq!(greeting((LOOPBACK, port).into()), "first");
}
