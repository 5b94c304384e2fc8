//! Ranges of ports: one entry of a client's file, and a tunnel for each port.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use tests::programs::{Client, Program, Server, options};
use tests::services::Service;
use tests::sockets::connect;
use tests::visits::{Visits, greeting, until_greeted};
use tests::wait::until;

/// Below those from which the kernel picks.
const FIRST: u16 = 21_000;

/// An address of this machine that no other test uses: all its ports are free. The services have one, the server another.
fn at(test: u8, side: u8, port: u16) -> SocketAddr {
    ([127, 66, test, side], port).into()
}

fn entry(test: u8, name: &str, first: u16, last: u16) -> String {
    let local = at(test, 2, first);
    format!("[[tunnels]]\nname = \"{name}\"\nlocal = \"{local}-{last}\"\npublic_port = \"{first}-{last}\"\n")
}

/// A service at each of these ports, which greets with its number.
struct Numbers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Numbers {
    fn start(test: u8, first: u16, last: u16) -> Self {
        let listen = |port| TcpListener::bind(at(test, 2, port)).expect("free");
        let listeners: Vec<_> = (first..=last).map(listen).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let each = listeners.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN));
                let mut each: Vec<_> = each.collect();
                poll(&mut each, PollTimeout::from(100_u8)).expect("poll");
                for (listener, _) in listeners.iter().zip(&each).filter(|(_, polled)| polled.any() == Some(true)) {
                    let (mut visitor, _) = listener.accept().expect("it is there");
                    let port = listener.local_addr().expect("its address").port();
                    let _ = visitor.write_all(port.to_string().as_bytes());
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().expect("it runs").join();
        assert!(ended.is_ok() || thread::panicking(), "the services went on to the end");
    }
}

fn serves(test: u8, port: u16) {
    until_greeted(at(test, 1, port), |text| text == port.to_string());
}

fn server(test: u8, max_tunnels: u16) -> Server {
    Server::start(options().brisk().flag("bind-addr", at(test, 1, 0).ip()).key("max_tunnels", max_tunnels))
}

#[test]
fn a_range_grows_and_shrinks_at_both_ends_and_the_ports_that_stay_are_not_touched() {
    let _services = Numbers::start(1, FIRST, FIRST + 5);
    let server = server(1, 10);
    let folder = tempfile::TempDir::new().expect("a directory");
    let socket = folder.path().join("admin").display().to_string();
    let text = |first: u16, last: u16| entry(1, "ftp", FIRST + first, FIRST + last);
    let options =
        options().brisk().key("admin_socket", format!("{socket:?}")).key("server", format!("\"{}\"", server.ctl()));
    let client = Client::spawn(&server, options.tables(&text(1, 3)));
    (1..=3).for_each(|port| serves(1, FIRST + port));
    let path = client.config_file().display().to_string();
    assert_eq!(Program::with_words("cproxy-client", &["check-config", &path]).exit_code(), 0);
    let status = Program::with_words("cproxy-client", &["status", "--socket", &socket]);
    assert_eq!(status.exit_code(), 0);
    for nth in 0..3 {
        status.output_line(&format!("ftp-{nth}  "));
    }

    let head = std::fs::read_to_string(&path).expect("its file").replace(&text(1, 3), "");
    let steps = [
        (text(1, 4), "1 tunnel added (\\\"ftp-3\\\"); unchanged: 3"),
        (text(0, 4), "1 tunnel added (\\\"ftp-0\\\"), 4 changed (\\\"ftp-1\\\""),
        (text(2, 4), "2 tunnels removed (\\\"ftp-1\\\", \\\"ftp-0\\\"), 3 changed (\\\"ftp-0\\\","),
        (text(2, 2), "2 tunnels removed (\\\"ftp-1\\\", \\\"ftp-2\\\"), 1 changed (\\\"ftp\\\")"),
        (text(2, 5), "3 tunnels added (\\\"ftp-1\\\", \\\"ftp-2\\\", \\\"ftp-3\\\"), 1 changed (\\\"ftp-0\\\")"),
    ];
    let stays = at(1, 1, FIRST + 2);
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let visits = thread::spawn(move || {
        while !is_over.load(Ordering::SeqCst) {
            assert_eq!(greeting(stays), stays.port().to_string());
        }
    });
    for (text, expected) in steps {
        let said = client.reload(&format!("{head}{text}"));
        assert!(said.contains(expected), "{said}");
    }
    over.store(true, Ordering::SeqCst);
    visits.join().expect("it was served all the time");
    (2..=5).for_each(|port| serves(1, FIRST + port));
    until("the others are closed", || (0..2).all(|port| TcpStream::connect(at(1, 1, FIRST + port)).is_err()));
}

#[test]
fn what_is_beyond_max_tunnels_is_refused_and_the_others_are_served() {
    let _services = Numbers::start(2, FIRST, FIRST + 2);
    let server = server(2, 2);
    let client = Client::spawn(&server, options().brisk().tables(&entry(2, "ftp", FIRST, FIRST + 2)));
    let line = client.log_line("max_tunnels");
    assert!(line.contains("ftp-2"), "{line}");
    (0..2).for_each(|port| serves(2, FIRST + port));
}

/// Passes on what comes, and counts it.
fn pass(mut from: &TcpStream, mut to: &TcpStream, counted: &AtomicU64) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        counted.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Each is asked for once and answered once, and another client and its visitors are served meanwhile.
#[test]
fn a_thousand_tunnels_of_one_client_take_a_message_each_way() {
    const TUNNELS: u16 = 1000;
    /// For each tunnel in both directions: its name, port, number, limits and address in two frames. TLS takes the more.
    const MOST_BYTES: u64 = 100;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of open files");
    if hard < 17_000 {
        let _ = writeln!(std::io::stderr(), "SKIPPED: 1/16 of {hard} open files are not enough for {TUNNELS} tunnels");
        return;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("one's own limit");
    let last = FIRST + (TUNNELS - 1);
    let _services = Numbers::start(3, FIRST, last);
    let echo = Service::echo();
    let server = server(3, TUNNELS + 1);
    let ctl = server.ctl();
    let bytes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&bytes);
    let counter = Service::start_at(at(3, 1, 0), move |near| {
        let far = connect(ctl);
        thread::scope(|scope| {
            scope.spawn(|| pass(&near, &far, &counted));
            pass(&far, &near, &counted);
        });
    });
    let many = options().brisk().via(counter.addr()).tables(&entry(3, "many", FIRST, last));
    let many = Client::spawn(&server, many);
    let other = Client::start(&server, options().brisk().tunnel(echo.addr()));
    let visits = Visits::begin(other.public());
    until("each of them is there", || many.forwardings().len() == usize::from(TUNNELS));
    let counted = bytes.load(Ordering::SeqCst);
    println!("{counted} bytes on the ctl_conn, {} for each tunnel", counted / u64::from(TUNNELS));
    assert!(counted < MOST_BYTES * u64::from(TUNNELS), "{counted} bytes on the ctl_conn");
    visits.more(10);
    visits.expect_none_failed();
    for port in FIRST..=last {
        assert_eq!(greeting(at(3, 1, port)), port.to_string());
    }
}
