//! Which tunnel has a host, and what becomes of it: conflicts, scopes, reloads, upgrades.

use super::{ask, client, named_echo, request, server, table};
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;
use tests::programs::{Client, Server, Successors, directory, options};
use tests::services::Service;
use tests::sockets::{connect, finish};
use tests::visits::ping;
use tests::wait::{eventually, until};

/// P-HOST-5, P-HOST-6: the nearest host has a visitor, and its service reads every byte that was said.
#[test]
fn a_visitor_gets_the_nearest_host() {
    let [app, dev, all] = ["app", "dev", "all"].map(named_echo);
    let server = server(options());
    let tables = [
        table("app", "http", &["app.example.com"], app.addr()),
        table("dev", "http", &["*.dev.example.com", "dev.example.com"], dev.addr()),
        table("all", "http", &["*"], all.addr()),
    ];
    let _client = client(&server, options(), &tables);
    for (host, service) in [
        ("app.example.com", "app"),
        ("APP.Example.Com.:8080", "app"),
        ("dev.example.com", "dev"),
        ("a.b.dev.example.com", "dev"),
        ("xdev.example.com", "all"),
        ("127.0.0.1", "all"),
        ("[::1]:80", "all"),
        ("xn--bcher-kva.example", "all"),
    ] {
        let words = request(host);
        assert_eq!(
            String::from_utf8(ask(server.hosts("http"), &words)).unwrap(),
            service.to_owned() + &words,
            "{host}"
        );
    }
}

/// P-HOST-6: a request that stands behind the first, for whatever host, is the first one's service's to read. So are a
/// body that looks like a request, and bytes that are no HTTP at all: both ends see the same stream.
#[test]
fn both_ends_see_the_same_stream() {
    let [a, b] = ["", "never"].map(named_echo);
    let server = server(options());
    let tables = [table("a", "http", &["a.example"], a.addr()), table("b", "http", &["b.example"], b.addr())];
    let _client = client(&server, options(), &tables);
    let second = request("b.example");
    for first in [
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            .to_owned(),
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nContent-Length: 30\r\n\r\nabc".to_owned(),
        "GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: x\r\n\r\n\0\x01\n\r\r\n".to_owned(),
        format!(
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nX-Host: b.example\r\n\r\n{}",
            "x".repeat(100_000)
        ),
    ] {
        let words = first + &second;
        assert!(ask(server.hosts("http"), &words) == words.as_bytes(), "{:.80}", words);
    }
    assert_eq!(b.accepted(), 0);
}

/// P-HOST-3, P-HOST-4, P-HOST-7.
#[test]
fn a_host_is_one_tunnels_and_its_clients_own() {
    let [first, second] = ["first", "second"].map(named_echo);
    let scopes = "[[clients]]\nname = \"a\"\ntoken = \"token of a\"\nallow_hosts = [\"a.example\", \"*.both.example\"]\n\
                  [[clients]]\nname = \"b\"\ntoken = \"token of b\"\nallow_hosts = [\"*.both.example\"]\n";
    let server = server(options().tables(scopes));
    let [a, b] = ["token of a", "token of b"].map(|token| options().brisk().env("CPROXY_TOKEN", token));
    let host = "x.both.example";
    let status = |host: &str| String::from_utf8(ask(server.hosts("http"), request(host))).unwrap();
    assert!(status("a.example").starts_with("HTTP/1.1 502 Bad Gateway"), "somebody's by name, who is away");
    assert!(status(host).starts_with("HTTP/1.1 404 Not Found"), "anybody's");
    let holder = client(&server, a, &[table("t", "http", &["a.example", host], first.addr())]);
    assert!(status(host).starts_with("firstGET"));
    let wants = table("t", "http", &[host, "a.example"], second.addr());
    let other = Client::spawn(&server, b.tables(&wants));
    other.log_line("another tunnel has this host");
    other.log_line("the server does not allow this host to this client");
    assert!(status(host).starts_with("firstGET"), "nobody is disturbed");
    holder.stop_by_signal();
    eventually("the other one has the host", || {
        let said = status(host);
        if said.starts_with("secondGET") { Ok(()) } else { Err(said) }
    });
    assert!(status("a.example").starts_with("HTTP/1.1 502"));
}

#[test]
fn a_server_without_the_port_says_so_for_good() {
    let service = Service::echo();
    let server = tests::programs::Server::start(options().key("http_port", 0));
    let client = Client::spawn(&server, options().tables(&table("t", "https", &["a.example"], service.addr())));
    assert_eq!(client.exit_code(), 2);
    assert!(client.log().contains("https://a.example: the server has no port for hosts of this protocol"));
}

#[test]
fn a_host_on_the_command_line() {
    let service = named_echo("web");
    let server = server(options());
    let flags = options().flag("host", "App.example").flag("local-server", service.addr());
    let client = Client::spawn(&server, flags);
    let at = server.hosts("http");
    client.output_line(&format!("Forwarding http://app.example:{} -> {}", at.port(), service.addr()));
    assert!(ask(at, request("app.example")).starts_with(b"web"));
}

/// What was there goes on, by the sources and rates that hold for ports.
#[test]
fn hosts_move_at_a_reload_and_nobody_else_notices() {
    let echo = Service::echo();
    let server = server(options());
    let keeps = table("keeps", "http", &["stays.example"], echo.addr());
    let before = [keeps.clone(), table("moves", "http", &["old.example"], echo.addr())];
    let client = client(&server, options(), &before);
    let at = server.hosts("http");
    let mut long = ["stays.example", "old.example"].map(|host| {
        let mut visitor = connect(at);
        ping(&mut visitor, request(host).as_bytes());
        visitor
    });
    let after = keeps + &table("moves", "http", &["new.example"], echo.addr()) + "deny_sources = [\"127.0.0.9\"]\n";
    let said = client.reload(&after);
    assert!(said.contains("1 tunnel moved (\\\"moves\\\")") && said.contains("unchanged: 1"), "{said}");
    client.output_line("Forwarding http://new.example:");
    until("the old host is nobody's", || ask(at, request("old.example")).starts_with(b"HTTP/1.1 404"));
    long.iter_mut().for_each(|visitor| ping(visitor, b"is still served"));
    let words = request("new.example");
    assert_eq!(ask(at, &words), words.as_bytes());
    let denied = Command::new("curl")
        .args(["-sS", "--interface", "127.0.0.9", "-H", "Host: new.example", &format!("http://{at}/")])
        .output()
        .expect("curl runs");
    assert!(!denied.status.success(), "source lists hold for hosts, too: {denied:?}");
    assert_eq!(server.log_line("visitor_refused").matches("127.0.0.9").count(), 1);
}

/// The server's file takes a host from whoever has it.
#[test]
fn a_scope_that_shrinks_takes_the_host_away() {
    let echo = Service::echo();
    let server = server(options().key("allow_hosts", "[\"a.example\", \"b.example\"]"));
    let tables = [table("a", "http", &["a.example"], echo.addr()), table("b", "http", &["b.example"], echo.addr())];
    let client = client(&server, options(), &tables);
    let text = std::fs::read_to_string(server.config_file()).expect("its file");
    server.reload(&text.replace(", \"b.example\"", ""));
    client.log_line("the server does not allow this host to this client");
    let at = server.hosts("http");
    assert!(ask(at, request("b.example")).starts_with(b"HTTP/1.1 404"), "it is nobody's by name any more");
    assert_eq!(ask(at, request("a.example")), request("a.example").as_bytes());
}

/// P-LEAVE-5: visitors whose host is not there yet wait for its client.
#[test]
fn an_upgrade_loses_no_visitor_of_a_host() {
    is_upgraded(server(options().brisk().flag("drain-timeout", 60)));
}

/// P-CONN-6, P-LEAVE-1: where clients come by the same port.
#[test]
fn an_upgrade_of_one_port_loses_no_visitor() {
    is_upgraded(Server::start(options().brisk().flag("drain-timeout", 60).one_port()));
}

fn is_upgraded(server: Server) {
    let echo = Service::echo();
    let client = client(&server, options().brisk(), &[table("a", "http", &["a.example"], echo.addr())]);
    let at = server.hosts("http");
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let words = request("a.example");
                    assert_eq!(String::from_utf8(ask(at, &words)).expect("text"), words);
                    made.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(10));
                }
            })
        })
        .collect();
    let mut successors = Successors::default();
    let mut serving = server.pid();
    // One that stays with each process, which would be gone before it had said what came of it.
    let mut long = Vec::new();
    for _ in 0..5 {
        let mut visitor = connect(at);
        ping(&mut visitor, request("a.example").as_bytes());
        long.push(visitor);
        serving = successors.take(&server.upgrade_of(serving));
        let before = made.load(Ordering::SeqCst);
        let failed = || threads.iter().any(thread::JoinHandle::is_finished);
        until("visits go on", || failed() || made.load(Ordering::SeqCst) > before + 5);
    }
    stop.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().expect("each visit is served whole");
    }
    long.iter_mut().for_each(|visitor| ping(visitor, b"is still served"));
    long.iter().for_each(finish);
    client.signal(Signal::SIGTERM);
    assert_eq!(client.stopped().aborted, 0);
}

/// Status, metrics and the access log name the tunnel of a host as they name any other.
#[test]
fn the_programs_tell_of_hosts() {
    let echo = Service::echo();
    let folder = tempfile::TempDir::new().expect("a directory");
    let socket = folder.path().join("admin");
    let quoted = |path: &std::path::Path| format!("{:?}", path.display().to_string());
    let log = folder.path().join("visits");
    let server = server(options().key("access_log", quoted(&log)).key("admin_socket", quoted(&socket)));
    let _client = client(&server, options(), &[table("site", "http", &["*.a.example"], echo.addr())]);
    let at: SocketAddr = server.hosts("http");
    let words = request("x.a.example");
    assert_eq!(ask(at, &words), words.as_bytes());
    let _told = ask(at, request("b.example"));
    let _told = ask(at, b"\x16\x03\x01");
    let ask_status = |json: &[&str]| {
        let status = Command::new(directory().join("cproxy-server"));
        let mut status = status;
        let said = status.arg("status").arg("--socket").arg(&socket).args(json).output().expect("it runs");
        String::from_utf8(said.stdout).expect("text")
    };
    until("the visit is over", || {
        let said: serde_json::Value = serde_json::from_str(&ask_status(&["--json"])).expect("JSON");
        let tunnel = &said["sessions"][0]["tunnels"][0];
        tunnel["url"] == format!("http://*.a.example:{}", at.port())
            && tunnel["finished"] == 1
            && said["not_routed"]["nobodys_host"] == 1
            && said["not_routed"]["tls_on_http"] == 1
    });
    assert!(ask_status(&[]).contains("http://*.a.example:"));
    let record = eventually("the visit is logged", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains('\n') { Ok(text) } else { Err(text) }
    });
    assert!(record.contains("site") && record.contains(&words.len().to_string()), "{record}");
    std::io::stderr().flush().expect("it is there");
}
