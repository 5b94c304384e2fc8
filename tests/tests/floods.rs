//! Floods of connections that say nothing, or the wrong thing: each source address has room of its own and no more,
//! so that whoever was there before, and whoever comes with a token, does not notice.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{connect_from, read_end};
use tests::visits::{ping, short_visit};
use tests::wait::until;

const TOKEN: (&str, &str) = ("CPROXY_TOKEN", "a token that nobody guesses");

fn flooder(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 7, n)
}

/// A client's preface on the ctl port, and the server's answer to it.
const PREFACE: [u8; 8] = *b"CPXYC\x01\x01\0";
const REPLY: [u8; 8] = *b"CPXYC\x01\x01\x01";

/// Whether the server still waits for what this connection has to say.
#[track_caller]
fn expect_heard(stream: &mut TcpStream) {
    stream.write_all(&PREFACE).expect("send the preface");
    let mut reply = [0; 8];
    stream.read_exact(&mut reply).expect("the server's reply");
    assert_eq!(reply, REPLY);
}

#[test]
fn one_address_takes_no_room_from_another() {
    let patient = options().key("handshake_timeout", 600).key("max_handshakes_per_source", 4);
    let server = Server::start(patient);
    let mut quiet = connect_from(flooder(1), server.ctl()).expect("taken");
    let mut crowd: Vec<_> = (0..40).filter_map(|_| connect_from(flooder(2), server.ctl())).collect();
    assert_eq!(crowd.len(), 40);
    for dropped in &mut crowd[..36] {
        assert_eq!(read_end(dropped).0, 0, "its own oldest make room");
    }
    for kept in &mut crowd[36..] {
        expect_heard(kept);
    }
    expect_heard(&mut quiet);
    let line = server.log_line("max_handshakes_per_source");
    assert!(line.contains(r#""peer_ip":"127.0.7.2""#), "the log names the source: {line}");
    assert_eq!(server.stop().handshakes_dropped, 36);
}

#[test]
fn where_all_room_is_taken_the_greediest_makes_room() {
    let patient = options().key("handshake_timeout", 600).key("max_handshakes", 10);
    let server = Server::start(patient);
    let mut quiet: Vec<_> = (1..=3).filter_map(|n| connect_from(flooder(n), server.ctl())).collect();
    let mut crowd: Vec<_> = (0..30).filter_map(|_| connect_from(flooder(9), server.ctl())).collect();
    for dropped in &mut crowd[..23] {
        assert_eq!(read_end(dropped).0, 0);
    }
    for kept in crowd[23..].iter_mut().chain(&mut quiet) {
        expect_heard(kept);
    }
    server.log_line("more than max_handshakes in all");
}

#[test]
fn a_flood_leaves_established_clients_and_newcomers_undisturbed() {
    let service = Service::echo();
    let narrow = options().env(TOKEN.0, TOKEN.1).key("handshake_timeout", 600).key("max_handshakes", 64);
    let server = Server::start(narrow.key("max_handshakes_per_source", 16).threads(1));
    let client = || options().env(TOKEN.0, TOKEN.1).tunnel(service.addr());
    let early = Client::start(&server, client());
    let mut staying = early.visit();
    ping(&mut staying, b"before the flood");
    let before = server.process().descriptors().sockets;
    std::thread::scope(|scope| {
        let ports = [server.ctl(), server.proxy()];
        let floods: Vec<_> = (1..=6).map(|n| scope.spawn(move || flood(flooder(n), ports))).collect();
        let mut number = 0;
        while !floods.iter().all(|flood| flood.is_finished()) {
            short_visit(early.public(), number);
            ping(&mut staying, b"during the flood");
            number += 1;
        }
        let floods: Vec<_> = floods.into_iter().map(|flood| flood.join().expect("a flood")).collect();
        // Everything that a flood may hold, it holds.
        until("the flood is cut down", || server.process().descriptors().sockets <= before + 64 + 16);
        let late = Client::start(&server, client());
        for number in 0..20 {
            short_visit(late.public(), number);
            short_visit(early.public(), number);
        }
        ping(&mut staying, b"beside the flood");
        drop(floods);
    });
    assert_eq!(early.forwardings().len(), 1, "its session went on");
}

/// Hundreds of connections that say nothing, half a preface, or something else.
fn flood(from: Ipv4Addr, ports: [SocketAddr; 2]) -> Vec<TcpStream> {
    let words: [&[u8]; 5] = [b"", b"CPX", &PREFACE, b"GET / HTTP/1.1\r\n\r\n", &[0xff; 600]];
    let mut all = Vec::new();
    for words in words.into_iter().cycle().take(100) {
        for port in ports {
            let Some(mut stream) = connect_from(from, port) else { continue };
            // It may have been hung up already.
            let _ = stream.write_all(words);
            all.push(stream);
        }
    }
    all
}
