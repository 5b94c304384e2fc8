//! Whoever speaks another language on the ctl or proxy port, or says nothing, is dropped after bounded
//! bytes and a bounded time, and honest clients do not notice: those that are there are served, new ones
//! can register. The same for a client that meets a stranger in the server's place.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tests::gate::Between;
use tests::leaks::Baseline;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{LOOPBACK, connect, free_port, read_end};
use tests::visits::{greeting, short_visit, until_served};
use tests::wait::{eventually, until};

/// What strangers say.
fn utterances() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![
        b"x".to_vec(),
        vec![0],
        vec![0xff],
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        // The beginning of a TLS ClientHello.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![0; 100_000],
        vec![0xff; 100_000],
        // Lengths of 4 GiB and more, in several spellings, with something behind them.
        [vec![0xff; 4], vec![1; 60]].concat(),
        [vec![0xff, 0xff, 0xff, 0xff, 0x0f], vec![1; 60]].concat(),
        [vec![0xff; 9], vec![0x01], vec![1; 60]].concat(),
    ];
    // Noise that is the same in every run.
    all.extend((1..=20).map(|n| tests::payload::Flow::up(n).bytes(0, 50 * n as usize)));
    all
}

/// Says `words` and waits until the server hangs up.
#[track_caller]
fn expect_dropped(port: SocketAddr, words: &[u8]) {
    let mut stranger = connect(port);
    // The server may hang up before it has read all of it.
    let _ = stranger.write_all(words);
    let (answer, _) = read_end(&mut stranger);
    assert!(answer < 1000, "{answer} bytes for a stranger who says {:02x?}", &words[..words.len().min(16)]);
}

#[test]
fn garbage_on_either_port_is_dropped() {
    let service = Service::echo();
    let server = Server::start(options().brisk().key("handshake_timeout", 0.5));
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    short_visit(client.public(), 0);
    let baseline = Baseline::of(&server, &client);
    std::thread::scope(|scope| {
        let strangers: Vec<_> = [server.ctl(), server.proxy()]
            .into_iter()
            .map(|port| scope.spawn(move || utterances().iter().for_each(|words| expect_dropped(port, words))))
            .collect();
        let mut number = 0;
        while !strangers.iter().all(|stranger| stranger.is_finished()) {
            short_visit(client.public(), number);
            number += 1;
        }
        let newcomer = Client::start(&server, options().tunnel(service.addr()));
        short_visit(newcomer.public(), number);
    });
    assert_eq!(client.forwardings().len(), 1);
    baseline.expect_again();
}

#[test]
fn one_stray_byte_blocks_nobody() {
    let service = Service::echo();
    let server = Server::start(options().brisk().key("handshake_timeout", 60).threads(1));
    let early = Client::start(&server, options().brisk().tunnel(service.addr()));
    let strays: Vec<TcpStream> = [server.ctl(), server.proxy(), server.ctl(), server.proxy()]
        .into_iter()
        .map(|port| {
            let mut stray = connect(port);
            stray.write_all(b"x").expect("send");
            stray
        })
        .collect();
    let silent = [connect(server.ctl()), connect(server.proxy())];
    let late = Client::start(&server, options().brisk().tunnel(service.addr()));
    for number in 0..50 {
        short_visit(early.public(), number);
        short_visit(late.public(), number);
    }
    drop((strays, silent));
}

#[test]
fn silent_and_dribbling_connections_are_closed_in_time() {
    let service = Service::echo();
    let server = Server::start(options().key("handshake_timeout", 0.5));
    let client = Client::start(&server, options().tunnel(service.addr()));
    short_visit(client.public(), 0);
    let baseline = Baseline::of(&server, &client);
    for port in [server.ctl(), server.proxy()] {
        let mut silent: Vec<_> = (0..50).map(|_| connect(port)).collect();
        for stranger in &mut silent {
            read_end(stranger);
        }
    }
    baseline.expect_again();

    // Bytes that keep coming do not put the deadline off: here the beginning of a real handshake.
    let between = Between::new(server.ctl(), server.proxy());
    let model = Client::start(&server, options().tunnel(service.addr()).via(between.ctl.addr()));
    short_visit(model.public(), 1);
    for (port, gate) in [(server.ctl(), &between.ctl), (server.proxy(), &between.proxy)] {
        let opening = gate.recordings().swap_remove(0);
        let mut dribbler = connect(port);
        dribbler.set_read_timeout(Some(Duration::from_millis(150))).expect("read timeout");
        let mut bytes = opening.into_iter().take(1).chain(std::iter::repeat(0));
        eventually("the dribbler is dropped", || {
            let gone = dribbler.write_all(&[bytes.next().expect("endless")]).is_err();
            match dribbler.read(&mut [0; 64]) {
                Ok(0) => Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
                _ if gone => Ok(()),
                _ => Err("it may still speak".to_owned()),
            }
        });
    }
    short_visit(client.public(), 2);
}

#[test]
fn handshakes_with_a_changed_byte_or_cut_short_open_nothing() {
    let service = Service::greeter("hi");
    let server = Server::start(options().brisk().key("handshake_timeout", 0.3).env("CPROXY_TOKEN", "secret token"));
    let between = Between::new(server.ctl(), server.proxy());
    let honest = options().brisk().env("CPROXY_TOKEN", "secret token").tunnel(service.addr());
    let client = Client::start(&server, honest.via(between.ctl.addr()));
    assert_eq!(greeting(client.public()), "hi");
    let conns = client.proxy_conns(&server);
    for (port, gate) in [(server.ctl(), &between.ctl), (server.proxy(), &between.proxy)] {
        let mut opening = gate.recordings().swap_remove(0);
        opening.truncate(200);
        let changed = (0..opening.len()).map(|at| {
            let mut changed = opening.clone();
            changed[at] ^= 0x55;
            changed
        });
        let cut = (0..opening.len()).map(|len| opening[..len].to_vec());
        let lengthened = [opening.clone(), [opening.clone(), vec![0xff; 64]].concat()];
        // All at once: each may have to wait for its deadline.
        let mut strangers: Vec<_> = changed
            .chain(cut)
            .chain(lengthened)
            .map(|words| {
                let mut stranger = connect(port);
                let _ = stranger.write_all(&words);
                stranger
            })
            .collect();
        for stranger in &mut strangers {
            read_end(stranger);
        }
        assert_eq!(greeting(client.public()), "hi");
    }
    assert_eq!((between.ctl.accepted(), client.forwardings().len()), (1, 1), "the session is untouched");
    assert!(client.proxy_conns(&server) >= conns.min(1));
}

#[test]
fn half_finished_handshakes_leave_room_for_honest_ones() {
    let service = Service::echo();
    let few = options().brisk().key("handshake_timeout", 60).key("max_handshakes", 20);
    let server = Server::start(few);
    let early = Client::start(&server, options().brisk().tunnel(service.addr()));
    let crowd: Vec<_> = (0..100).flat_map(|_| [connect(server.ctl()), connect(server.proxy())]).collect();
    let late = Client::start(&server, options().brisk().tunnel(service.addr()));
    for number in 0..20 {
        short_visit(early.public(), number);
        short_visit(late.public(), number);
    }
    until("the crowd's oldest have made room", || server.process().descriptors().sockets < 150);
    drop(crowd);
}

#[test]
fn a_client_survives_strangers_in_the_servers_place() {
    let service = Service::echo();
    for words in utterances() {
        let port = free_port();
        let stranger = Service::start_at((LOOPBACK, port).into(), move |mut stream| {
            let _ = stream.write_all(&words);
            let _ = read_end(&mut stream);
        });
        let hasty = options().brisk().key("handshake_timeout", 0.3);
        let client = Client::spawn_alone(LOOPBACK, hasty.tunnel(service.addr()).via(stranger.addr()));
        until("the client has met the stranger, and tries again", || stranger.accepted() >= 2);
        assert!(client.is_running());
        client.stop();
    }
}

#[test]
fn a_client_finds_the_server_that_takes_the_strangers_place() {
    let service = Service::echo();
    let port = free_port();
    let stranger = Service::start_at((LOOPBACK, port).into(), |mut stream| {
        read_end(&mut stream);
    });
    let hasty = options().brisk().key("handshake_timeout", 0.3);
    let client = Client::spawn_alone(LOOPBACK, hasty.tunnel(service.addr()).via(stranger.addr()));
    until("the client has met the silent stranger, and tries again", || stranger.accepted() >= 2);
    drop(stranger);
    let _server = Server::start(options().brisk().flag("ctl-port", port));
    until_served(client.public());
}

#[test]
fn the_server_says_what_came_instead_of_a_client_and_what_to_do() {
    let server = Server::start(options().brisk());
    let utterances: [(&[u8], &str); 4] = [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 8080\r\n", "a PROXY header came"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\0\x01\0\x02", "a PROXY header came"),
        (b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", "an HTTP request came"),
        (b"\x16\x03\x01\0\x02\x01\0", "TLS came, and this server has none"),
    ];
    for (words, said) in utterances {
        for ctl in [true, false] {
            // Of its own: the lines are few by intention.
            let server = Server::start(options().brisk());
            let (name, port) = if ctl { ("ctl", server.ctl()) } else { ("proxy", server.proxy()) };
            expect_dropped(port, words);
            assert!(server.log_line(&format!("no cproxy-client at the {name} port: {said}")).contains("WARN"));
        }
    }
    for _ in 0..40 {
        expect_dropped(server.ctl(), utterances[2].0);
    }
    let said = server.log().matches("an HTTP request came").count();
    assert!((1..=5).contains(&said), "a flood of strangers is no flood of lines: {said}");
}

/// A relay takes connections although the server behind it is away.
#[test]
fn a_client_says_that_no_server_answered_where_connections_are_only_taken() {
    let relay = Service::start(drop);
    let client = Client::spawn_alone(LOOPBACK, options().brisk().tunnel("127.0.0.1:1").via(relay.addr()));
    let line = client.log_line(&format!("no cproxy-server answered at {}", relay.addr()));
    assert!(line.contains("if a relay is between, that the server behind it runs"), "{line}");
}
