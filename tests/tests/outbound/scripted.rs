//! A proxy that answers as it is told.

use std::io::{ErrorKind, Read, Write, copy};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::visits::{short_visit, until_served};
use tests::wait::until;

/// What it does with whoever has asked for a connection.
#[derive(Clone, Debug)]
enum Way {
    /// Connects it, and says so byte by byte.
    Serves,
    /// The same for one port; to others it says that it does not allow them.
    ServesOnly(u16),
    /// Says this, and closes.
    Says(&'static str),
    /// Says nothing.
    Hangs,
    /// Says that it has connected it, and then nothing.
    Pretends,
    /// Begins an answer so, and goes on with this and again this, so many milliseconds apart, for as long as it is heard.
    GoesOn(&'static str, &'static str, u64),
}

/// The proxy. Every name is one of this machine to it.
struct Proxy {
    service: Service,
    way: Arc<Mutex<Way>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(way: Way) -> Self {
        let (way, asked) = (Arc::new(Mutex::new(way)), Arc::new(Mutex::new(Vec::new())));
        let (told, heard) = (Arc::clone(&way), Arc::clone(&asked));
        let service = Service::start(move |stream| serve(stream, &told, &heard));
        Self { service, way, asked }
    }

    fn becomes(&self, way: Way) {
        *self.way.lock().expect("no panic while locked") = way;
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic while locked").clone()
    }

    /// The key of a client that goes through it.
    fn url(&self, login: &str) -> String {
        format!("\"http://{login}{}\"", self.service.addr())
    }
}

/// Serves one connection; when the client leaves, that is no failure.
fn serve(mut stream: TcpStream, way: &Mutex<Way>, asked: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) | Err(_) => return,
        }
    }
    let head = String::from_utf8(head).expect("text");
    let port: u16 = head.split([':', ' ']).nth(2).expect("a port").parse().expect("a number");
    asked.lock().expect("no panic while locked").push(head);
    let way = way.lock().expect("no panic while locked").clone();
    match way {
        Way::Says(what) => drop(stream.write_all(what.as_bytes())),
        Way::Hangs => drop(stream.read(&mut byte)),
        Way::GoesOn(begin, more, pause) => {
            let mut said = stream.write_all(begin.as_bytes());
            while said.is_ok() {
                thread::sleep(Duration::from_millis(pause));
                said = stream.write_all(more.as_bytes());
            }
        }
        Way::Pretends => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let _ = copy(&mut stream, &mut std::io::sink());
        }
        Way::ServesOnly(allowed) if allowed != port => {
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        }
        Way::Serves | Way::ServesOnly(_) => connect(stream, port),
    }
}

fn connect(mut stream: TcpStream, port: u16) {
    let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
    for byte in b"HTTP/1.0 200 Connection established\r\nProxy-agent: a test\r\n\r\n" {
        // Nothing may come before the answer is whole.
        stream.set_nonblocking(true).expect("set");
        match stream.peek(&mut [0]) {
            Ok(early) => assert_eq!(early, 0, "the client waits for the whole answer"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        stream.set_nonblocking(false).expect("set");
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_micros(100));
    }
    let (mut from, mut to) = (stream.try_clone().expect("a copy"), far.try_clone().expect("a copy"));
    let up = thread::spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = copy(&mut far, &mut stream);
    let _ = stream.shutdown(Shutdown::Both);
    up.join().expect("no panic");
}

/// A client that knows its server by a name that only the proxy knows.
fn behind(server: &Server, proxy: &Proxy, login: &str) -> Options {
    options().threads(1).via(format!("server.invalid:{}", server.ctl().port())).key("outbound_proxy", proxy.url(login))
}

#[test]
fn names_are_the_proxys_and_nothing_is_said_before_its_answer_is_whole() {
    let service = Service::echo();
    for tls in [false, true] {
        let proxy = Proxy::start(Way::Serves);
        let server = options().threads(1);
        let server = Server::start(if tls { server.tls() } else { server.in_the_clear() });
        let client = Client::start(&server, behind(&server, &proxy, "me:s3%40cret@").tunnel(service.addr()));
        (0..20).for_each(|number| short_visit(client.public(), number));
        for port in [server.ctl(), server.proxy()].map(|at| at.port()) {
            let request = format!(
                "CONNECT server.invalid:{port} HTTP/1.1\r\nHost: server.invalid:{port}\r\n\
                 Proxy-Authorization: Basic bWU6czNAY3JldA==\r\n\r\n"
            );
            assert!(proxy.asked().contains(&request), "{:?}", proxy.asked());
        }
        let log = client.log_line(&format!("session began through http://{}", proxy.service.addr()));
        assert!(log.contains("outbound_proxy"), "{log}");
        let log = client.log();
        assert!(!log.contains("s3@cret") && !log.contains("s3%40") && !log.contains("bWU6"), "{log}");
        client.stop();
        assert_eq!(proxy.service.panicked(), 0);
    }
}

#[test]
fn what_somebody_must_change_ends_a_client_that_never_worked() {
    let service = Service::echo();
    let server = Server::start(options().threads(1));
    for (answer, login, said) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "", "wants a user and a password"),
        ("HTTP/1.0 401 Unauthorized\r\n\r\n<html>", "me:s3cret@", "wants other credentials"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "", "does not allow port"),
    ] {
        let proxy = Proxy::start(Way::Says(answer));
        let client = Client::spawn(&server, behind(&server, &proxy, login).tunnel(service.addr()));
        assert_eq!(client.exit_code(), 2, "{answer}");
        let line = client.log_line(said);
        assert!(line.contains(answer.split("\r\n").next().expect("a line")), "{line}");
        assert!(line.contains(&proxy.service.addr().to_string()), "{line}");
        assert!(!client.log().contains("s3cret"));
    }
}

#[test]
fn what_may_pass_is_tried_again_and_the_log_says_who_failed() {
    let service = Service::echo();
    let server = Server::start(options().threads(1).brisk());
    for (way, said) in [
        (
            Way::Says("HTTP/1.1 502 Bad \x1bGateway\r\n\r\n"),
            "does not reach the server (it said \\\"HTTP/1.1 502 Bad ?Gat",
        ),
        (Way::Says("HTTP/1.1 429 Later\r\n\r\n"), "refuses (it said \\\"HTTP/1.1 429 Later"),
        (Way::Says("SSH-2.0-OpenSSH_9.2\r\n"), "is no proxy of this kind"),
        (Way::Says(""), "closed the connection without an answer"),
        (Way::Hangs, "does not answer"),
        (Way::Pretends, "(through the outbound proxy http://"),
        // A head without an end: one that is long before it is late, and one that is late before it is long.
        (Way::GoesOn("HTTP/1.1 200 OK\r\n", "X: y\r\n", 0), "is no proxy of this kind"),
        (Way::GoesOn("HTTP/1.1 200 OK\r\n", "X: y\r\n", 50), "does not answer"),
        // And a page of an error that has none, which nobody reads.
        (Way::GoesOn("HTTP/1.1 503 Busy\r\n\r\n", "and so on", 1), "HTTP/1.1 503 Busy"),
    ] {
        let proxy = Proxy::start(way.clone());
        let client = Client::spawn(&server, behind(&server, &proxy, "").brisk().tunnel(service.addr()));
        let line = client.log_line(said);
        assert!(line.contains("server_lost") && line.contains(&proxy.service.addr().to_string()), "{way:?}: {line}");
        proxy.becomes(Way::Serves);
        until_served(client.public());
    }
}

#[test]
fn a_proxy_that_is_away_is_named() {
    let service = Service::echo();
    let server = Server::start(options().threads(1));
    let nobody = tests::sockets::free_port();
    let away = options().tunnel(service.addr()).key("outbound_proxy", format!("\"http://127.0.0.1:{nobody}\""));
    let client = Client::spawn(&server, away);
    client.log_line(&format!("the outbound proxy http://127.0.0.1:{nobody} cannot be reached: "));
    let unknown = options().tunnel(service.addr()).key("outbound_proxy", "\"socks5://proxy.invalid:1\"");
    Client::spawn(&server, unknown)
        .log_line("the outbound proxy socks5://proxy.invalid:1 has a name that does not resolve");
}

#[test]
fn a_port_that_is_forbidden_for_data_alone_is_named() {
    let service = Service::echo();
    let server = Server::start(options().threads(1));
    let proxy = Proxy::start(Way::ServesOnly(server.ctl().port()));
    let client = Client::spawn(&server, behind(&server, &proxy, "").tunnel(service.addr()));
    let port = server.proxy().port();
    let line = client.log_line("conn_not_opened");
    assert!(line.contains(&format!("server.invalid:{port} through http://{}", proxy.service.addr())), "{line}");
    assert!(line.contains(&format!("the proxy does not allow port {port}")), "{line}");
    proxy.becomes(Way::Serves);
    until_served(client.public());
}

#[test]
fn a_reload_changes_the_proxy_and_a_client_that_worked_never_gives_up() {
    let service = Service::echo();
    let server = Server::start(options().threads(1).brisk());
    let (one, other) = (Proxy::start(Way::Serves), Proxy::start(Way::Says("HTTP/1.1 407 No\r\n\r\n")));
    let client = behind(&server, &one, "").brisk().tunnel(service.addr()).tunnel_key("max_connections", 9);
    let client = Client::start(&server, client);
    short_visit(client.public(), 0);
    let text = std::fs::read_to_string(client.config_file()).expect("read");
    let line = client.reload(&text.replace(&one.url(""), &other.url("me:s3cret@")));
    assert!(line.contains("settings changed: outbound_proxy"), "{line}");
    client.log_line("wants other credentials");
    assert!(client.is_running());
    client.reload(&text);
    until("it is back through the first proxy", || client.log().matches("session resumed through").count() == 1);
    until_served(client.public());
    client.reload(&text.replace(&format!("outbound_proxy = {}\n", one.url("")), ""));
    assert!(!client.log().contains("s3cret"));
}

#[test]
fn the_environment_is_asked_where_the_user_says_so() {
    let service = Service::echo();
    let server = Server::start(options().threads(1));
    let proxy = Proxy::start(Way::Serves);
    let client = || options().threads(1).tunnel(service.addr());
    let named = |proxy: &Proxy| client().env("HTTPS_PROXY", proxy.url("").trim_matches('"'));
    let through = Client::start(&server, named(&proxy).flag("outbound-proxy", "environment"));
    short_visit(through.public(), 0);
    assert!(proxy.asked().len() >= 2, "both ports: {:?}", proxy.asked());
    let unused = Proxy::start(Way::Serves);
    let exempt = named(&unused).env("NO_PROXY", "127.0.0.0/8").env("CPROXY_OUTBOUND_PROXY", "environment");
    for direct in [named(&unused), exempt] {
        short_visit(Client::start(&server, direct).public(), 0);
    }
    assert_eq!(unused.asked(), Vec::<String>::new());
}
