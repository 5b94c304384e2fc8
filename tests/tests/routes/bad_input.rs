//! What no service should have to see: heads that are slow, too long, for two hosts, or of another protocol.

use super::{ask, client, request, say, server, table};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tests::programs::options;
use tests::services::Service;
use tests::sockets::{bounded, connect, connect_from, read_all, read_end};

/// The status line of the answer.
fn status(at: SocketAddr, words: impl AsRef<[u8]>) -> String {
    let answer = String::from_utf8(ask(at, words)).expect("text");
    answer.lines().next().unwrap_or_default().to_owned()
}

/// P-HOST-1, P-HOST-7.
#[test]
fn what_is_no_request_for_one_host_is_told_so() {
    let echo = Service::echo();
    let server = server(options());
    let _client = client(&server, options(), &[table("a", "http", &["a.example"], echo.addr())]);
    let at = server.hosts("http");
    let lines = |lines: &str| format!("GET / HTTP/1.1\r\n{lines}\r\n");
    for bad in [
        lines(""),
        lines("Host: a.example\r\nHost: a.example\r\n"),
        lines("Host : a.example\r\n"),
        lines("X: y\r\n Host: a.example\r\n"),
        lines("Host: a.example\n"),
        lines("Host: a.ex\0ample\r\n"),
        lines("Host: a.example, b.example\r\n"),
        "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
        "\0\x01\x02\x03".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(),
    ] {
        assert_eq!(status(at, &bad), "HTTP/1.1 400 Bad Request", "{bad:?}");
    }
    assert_eq!(status(at, lines("Host: b.example\r\n")), "HTTP/1.1 404 Not Found");
    assert_eq!(status(at, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "HTTP/1.1 505 HTTP Version Not Supported");
    let many = "X: y\r\n".repeat(200);
    assert!(status(at, lines(&format!("Host: a.example\r\n{many}"))).starts_with("HTTP/1.1 431 "));
    assert!(status(at, format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000))).starts_with("HTTP/1.1 431 "));
    assert!(String::from_utf8_lossy(&ask(at, b"\x16\x03\x01\x02\0\x01")).contains("write http:// instead of https://"));
    let https = server.hosts("https");
    let told = String::from_utf8(ask(https, request("a.example"))).expect("text");
    assert!(told.starts_with("HTTP/1.1 400") && told.contains("write https:// instead of http://"), "{told}");
    // Alerts: decode_error.
    assert_eq!(ask(https, b"\x16\x03\x01\0\x05\x02hello"), [0x15, 3, 3, 0, 2, 2, 50]);
    assert_eq!(echo.accepted(), 0, "none of it reached a service");
}

/// P-HOST-2.
#[test]
fn who_is_slow_is_told_and_who_is_silent_is_reset() {
    let server = server(options().key("route_timeout", 0.3));
    let mut slow = connect(server.hosts("http"));
    slow.write_all(b"GET / HTTP/1.1\r\nX: ").expect("said");
    assert!(read_all(&mut slow).starts_with(b"HTTP/1.1 408 Request Timeout"));
    for scheme in ["http", "https"] {
        let mut silent = connect(server.hosts(scheme));
        assert_eq!(read_end(&mut silent), (0, tests::sockets::End::Reset));
    }
}

/// A head that trickles in, byte by byte, while it is in time.
#[test]
fn a_head_may_come_in_any_pieces() {
    let echo = Service::echo();
    let server = server(options());
    let _client = client(&server, options(), &[table("a", "http", &["a.example"], echo.addr())]);
    let mut visitor = connect(server.hosts("http"));
    visitor.set_nodelay(true).expect("an option");
    let words = request("a.example");
    for byte in words.as_bytes() {
        visitor.write_all(&[*byte]).expect("said");
    }
    let mut back = vec![0; words.len()];
    visitor.read_exact(&mut back).expect("it is echoed");
    assert_eq!(back, words.as_bytes());
}

/// Slowloris: 5,000 who say nothing, or a part of a head, from a few addresses. Each visit beside them is served, from
/// their own addresses, too, and there are never more of them than may be.
#[test]
fn five_thousand_silent_visitors_disturb_nobody() {
    let echo = Service::echo();
    let server = server(options().key("route_timeout", 600).key("max_handshakes", 400));
    let _client = client(&server, options(), &[table("a", "http", &["a.example"], echo.addr())]);
    let at = server.hosts("http");
    let words = request("a.example");
    let mut crowd = Vec::new();
    for n in 0..5_000_u32 {
        let from = Ipv4Addr::new(127, 0, 8, u8::try_from(n % 5).expect("small"));
        // One of those who came before may just be making room.
        let Some(mut silent) = connect_from(from, at) else { continue };
        if n % 2 == 0 {
            let _ = silent.write_all(b"GET / HTTP/1.1\r\n");
        }
        crowd.push(silent);
        if n % 100 == 0 {
            let mut visitor = connect_from(from, at).expect("an honest one");
            bounded(&visitor, Duration::from_secs(60));
            say(&mut visitor, &words);
            assert_eq!(read_all(&mut visitor), words.as_bytes(), "beside {n}");
        }
    }
    assert!(crowd.len() > 4_900, "{}", crowd.len());
    let open = server.process().connections_to(at.port());
    assert!(open <= 500, "{open} of them are kept");
}
