//! A LocalServer at a Unix socket. A direct connection to the same socket is the measure: what a service, and who visits it,
//! see of each other's ends through the tunnel is what they see without it.

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use protocol_sm::proxy_protocol::ProxyProtocol;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use tempfile::TempDir;
use tests::leaks::Baseline;
use tests::programs::{Client, Options, Server, expect_calm, options};
use tests::sockets::{End, finish, read_end, reset, visit_end};
use tests::visits::{greeting, until_served};
use tests::wait::{PATIENCE, until};

/// A directory for sockets, and what leads to the one called `app`.
fn place() -> (TempDir, PathBuf, String) {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("app");
    let local = format!("unix:{}", path.display());
    (directory, path, local)
}

/// Serves each connection with `handler`, for as long as the test runs.
fn serve(listener: UnixListener, handler: impl Fn(UnixStream) + Send + Copy + 'static) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
            thread::spawn(move || handler(stream));
        }
    });
}

fn serve_at(path: &Path, handler: impl Fn(UnixStream) + Send + Copy + 'static) {
    serve(UnixListener::bind(path).expect("a free path"), handler);
}

fn greets(mut stream: UnixStream) {
    let _ = stream.write_all(b"hello");
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read(&mut [0; 64]);
}

fn setup(more: Options, local: &str) -> (Server, Client) {
    let server = Server::start(options().brisk().threads(1));
    let client = Client::start(&server, more.brisk().threads(1).tunnel(local));
    (server, client)
}

/// Reads until the stream ends: what came, and how it ended.
fn end_of(stream: &mut impl Read) -> (Vec<u8>, End) {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => (all, End::Clean),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => (all, End::Reset),
        Err(error) => panic!("neither an end nor a reset: {error}"),
    }
}

#[test]
fn bytes_come_back_and_each_half_ends_by_itself() {
    let (_directory, path, local) = place();
    serve_at(&path, |mut stream| {
        // The answer comes behind the visitor's end.
        let (all, end) = end_of(&mut stream);
        assert_eq!(end, End::Clean);
        stream.write_all(&all).expect("the other half is open");
    });
    let (server, client) = setup(options(), &local);
    let baseline = Baseline::of(&server, &client);
    for length in [0, 5, 3 << 20] {
        let sent: Vec<u8> = (0..length).map(|at: u32| (at >> 3) as u8).collect();
        let mut visitor = client.visit();
        visitor.write_all(&sent).expect("send");
        finish(&visitor);
        assert!(end_of(&mut visitor) == (sent, End::Clean), "{length} bytes");
    }
    expect_calm([&server, &client]);
    baseline.expect_again();
}

/// A service that closes with something unread resets, behind what it has said; one that has read all ends. A visitor who
/// is told so directly is told so through the tunnel.
#[test]
fn a_services_close_is_what_it_is_without_the_tunnel() {
    let (_directory, path, local) = place();
    serve_at(&path, |mut stream| {
        let mut word = [0; 4];
        stream.read_exact(&mut word).expect("what is wanted");
        let _ = stream.write_all(&[7; 100_000]);
        if &word == b"read" {
            let _ = end_of(&mut stream);
        }
        // What came behind the first word is unread now, or not.
        thread::sleep(std::time::Duration::from_millis(20));
    });
    let (server, client) = setup(options(), &local);
    let baseline = Baseline::of(&server, &client);
    for (word, end) in [(b"read", End::Clean), (b"left", End::Reset)] {
        let mut direct = UnixStream::connect(&path).expect("it listens");
        direct.write_all(&[&word[..], b"and more"].concat()).expect("send");
        direct.shutdown(Shutdown::Write).expect("shut");
        assert!(end_of(&mut direct) == (vec![7; 100_000], end), "directly, {end:?}");
        for _ in 0..10 {
            let mut visitor = client.visit();
            visitor.write_all(&[&word[..], b"and more"].concat()).expect("send");
            finish(&visitor);
            assert_eq!(read_end(&mut visitor), (100_000, end));
        }
    }
    baseline.expect_again();
}

/// What the service sees of a visitor who resets: over a Unix socket the kernel has a reset only for who left bytes unread.
#[test]
fn a_visitors_reset_is_what_leaving_is_without_the_tunnel() {
    let (_directory, path, local) = place();
    let (tell, told): (_, Receiver<(Vec<u8>, End)>) = channel();
    let listener = UnixListener::bind(&path).expect("a free path");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
            let _ = stream.write_all(b"hello");
            tell.send(end_of(&mut stream)).expect("the test waits");
        }
    });
    let mut direct = UnixStream::connect(&path).expect("it listens");
    direct.write_all(b"bytes").expect("send");
    direct.read_exact(&mut [0; 5]).expect("greeted");
    drop(direct);
    let directly = told.recv_timeout(PATIENCE).expect("it ends");
    assert_eq!(directly, (b"bytes".to_vec(), End::Clean));
    let (server, client) = setup(options(), &local);
    let baseline = Baseline::of(&server, &client);
    for _ in 0..20 {
        let mut visitor = client.visit();
        visitor.write_all(b"bytes").expect("send");
        visitor.read_exact(&mut [0; 5]).expect("greeted");
        until("all is acknowledged", || tests::sockets::unacknowledged(&visitor) == 0);
        reset(visitor);
        assert_eq!(told.recv_timeout(PATIENCE).expect("it ends"), directly);
    }
    baseline.expect_again();
}

#[test]
fn the_visitors_address_is_told_in_front_of_its_bytes() {
    let (_directory, path, local) = place();
    serve_at(&path, |mut stream| {
        let (all, _) = end_of(&mut stream);
        let _ = stream.write_all(&all);
    });
    let server = Server::start(options());
    let client = Client::start(&server, options().tunnel(&local).tunnel_key("proxy_protocol", "\"v1\""));
    let mut visitor = client.visit();
    let (from, to) = (visitor.local_addr().expect("bound"), visitor.peer_addr().expect("connected"));
    visitor.write_all(b"words").expect("send");
    finish(&visitor);
    let header = ProxyProtocol::V1.header(from, to);
    assert_eq!(end_of(&mut visitor), ([header, b"words".to_vec()].concat(), End::Clean));
}

#[test]
fn who_cannot_be_reached_is_named_and_served_once_he_is_there() {
    let (directory, path, local) = place();
    fs::create_dir(&path).expect("a directory");
    let (_server, client) = setup(options(), &local);
    assert_eq!(visit_end(client.public()), (0, End::Reset));
    client.log_line("is a directory; name the socket in it");
    fs::remove_dir(&path).expect("an empty directory");
    assert_eq!(visit_end(client.public()), (0, End::Reset));
    // The log says it once in a while.
    serve_at(&path, |stream| {
        let mut stream = stream;
        let _ = std::io::copy(&mut stream.try_clone().expect("clone"), &mut stream);
    });
    until_served(client.public());
    assert!(client.is_running());
    drop(directory);
}

/// As many wait at the service as it lets: the next one waits as he would for TCP, and is served when there is room.
#[test]
fn a_visitor_waits_for_a_service_that_accepts_nobody() {
    let (_directory, path, local) = place();
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(socket.as_raw_fd(), &UnixAddr::new(&path).expect("short")).expect("a free path");
    listen(&socket, Backlog::new(0).expect("a backlog")).expect("listen");
    let _first = UnixStream::connect(&path).expect("one may wait");
    let server = Server::start(options().threads(1));
    let client = Client::start(&server, options().threads(1).tunnel(&local));
    let mut visitors = [client.visit(), client.visit()];
    client.log_line("accepts nobody");
    serve(UnixListener::from(socket), greets);
    for visitor in &mut visitors {
        assert_eq!(end_of(visitor), (b"hello".to_vec(), End::Clean));
    }
    // Who waits for longer than dial_timeout is refused.
    drop(server);
}

#[test]
fn a_socket_of_the_abstract_namespace_and_one_of_the_command_line() {
    let name = format!("cproxy-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    serve(UnixListener::bind_addr(&address).expect("a free name"), greets);
    let server = Server::start(options());
    // The only tunnel goes on the command line.
    let client = Client::start(&server, options().tunnel(format!("unix:@{name}")));
    assert_eq!(greeting(client.public()), "hello");
}

/// P-FIN-15, P-FIN-11: a service that reads no more (SHUT_RD) and goes on speaking is heard to its end, and what is said
/// to it is given to nobody. Who writes to it directly is told so at once (EPIPE), and reads on.
#[test]
fn a_service_that_reads_no_more_is_heard_to_its_end() {
    let (_directory, path, local) = place();
    let (go_on, may_go_on) = channel();
    let listener = UnixListener::bind(&path).expect("a free path");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.shutdown(Shutdown::Read).expect("it reads no more");
            stream.write_all(b"go").expect("it is heard");
            may_go_on.recv().expect("the test goes on");
            stream.write_all(&[7; 100_000]).expect("it is heard");
        }
    });
    let mut direct = UnixStream::connect(&path).expect("it listens");
    direct.read_exact(&mut [0; 2]).expect("go");
    assert_eq!(direct.write_all(b"words").unwrap_err().kind(), ErrorKind::BrokenPipe);
    go_on.send(()).expect("it waits");
    assert!(end_of(&mut direct) == (vec![7; 100_000], End::Clean));
    let server = Server::start(options().brisk().threads(1).key("idle_conns", 1));
    let client = Client::start(&server, options().brisk().threads(1).tunnel(&local));
    // More than sockets hold is taken although nobody reads it, by copy or by splice. Who ends his own half sees an end;
    // who goes on speaking to a service that has gone is reset behind that end, as over TCP.
    let visits = [[(5, false), (5, true)]; 8].concat();
    let visits = [&visits[..], &[(32 << 20, false), (32 << 20, true)]].concat();
    for &(length, goes_on) in &visits {
        let mut visitor = client.visit();
        visitor.read_exact(&mut [0; 2]).expect("go");
        visitor.write_all(&vec![1; length]).expect("somebody takes it");
        go_on.send(()).expect("it waits");
        assert_eq!(read_end(&mut visitor), (100_000, End::Clean), "{length} bytes were sent");
        if goes_on {
            until("who goes on speaking is reset", || visitor.write_all(b"more").is_err());
        } else {
            // It may be reset already, if it has spoken to a service that had gone.
            let _ = visitor.shutdown(Shutdown::Write);
        }
    }
    expect_calm([&server, &client]);
    let done = client.stop();
    assert_eq!((done.finished, done.aborted), (visits.len() as u64, 0));
    assert!(done.proxy_conns <= done.finished / 2, "conns are used again: {done:?}");
}
