//! System calls that fail: with every error that their manual pages name and that can come to a working program, again
//! and again, in programs that run. Whatever stream meets it may be cut short; none is shorter than it looks, and
//! afterwards everybody is served.
//!
//! `FAILING_CALLS=20 cargo test -p tests --test end_to_end failing_calls::` takes each call and error 20 times, with
//! other counts between two failures, instead of once.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use tests::leaks::Baseline;
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Program, Server, expect_calm, options};
use tests::services::Service;
use tests::sockets::{End, bounded, free_port, read_each};
use tests::visits::until_served;
use tests::wait::PATIENCE;

/// What fails, and how. Left out: what would not happen to such a socket (ENOTCONN of a `shutdown`), what the kernel
/// follows up with an event that an injected error has not (EAGAIN), and what only a bug brings about (EBADF, EINVAL).
/// After ECONNRESET of a write the kernel lets the reads end, which it does not here: a stream that goes on is aborted
/// then. So it does after EPIPE, but for a Unix socket whose peer reads no more and goes on speaking, which is heard to its
/// end: an injected one would be taken for that.
const BOTH: [(&str, &[&str]); 8] = [
    ("recvfrom", &["EINTR", "ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOMEM", "ENOBUFS"]),
    ("sendto", &["EINTR", "ENOMEM", "ENOBUFS", "ECONNRESET"]),
    ("splice", &["EINTR", "ENOMEM", "ENOBUFS", "ECONNRESET"]),
    ("epoll_wait", &["EINTR"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("setsockopt", &["ENOMEM", "ENOBUFS"]),
    ("pipe2", &["EMFILE", "ENFILE"]),
    ("fcntl", &["EPERM", "ENOMEM"]),
];

const OF_THE_SERVER: [(&str, &[&str]); 2] = [
    ("accept4", &["EINTR", "ECONNABORTED", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM"]),
    ("poll", &["EINTR", "ENOMEM"]),
];

const OF_THE_CLIENT: [(&str, &[&str]); 2] = [
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]),
    ("connect", &["EADDRNOTAVAIL", "ENETUNREACH", "ECONNREFUSED", "ETIMEDOUT", "EINTR"]),
];

/// What the logs name of it: what is no single stream's affair.
const SAID_BY_THE_SERVER: [&str; 2] = [
    "no connection is accepted for a moment: out of descriptors or memory",
    "no connection is accepted for a moment: permission denied",
];
const SAID_BY_THE_CLIENT: [&str; 5] = [
    "visitor refused: the local service refuses connections",
    "visitor refused: the local service cannot be reached",
    "visitor refused: the local service did not answer in time",
    "visitor refused: the client is out of descriptors, memory or local ports",
    "\"event\":\"no_local_port\"",
];

/// Visits while calls fail.
const VISITS: u32 = 6;

/// strace on a running program's main thread, which has all connections; dropped, it lets the program go.
struct Injection(Child);

impl Injection {
    /// Lets the `first` of these calls fail, and then each `step`th.
    fn into(program: &Program, call: &str, error: &str, first: u32, step: u32) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-o", "/dev/null", "-e", &format!("trace={call}"), "-e"]);
        strace.arg(format!("inject={call}:error={error}:when={first}+{step}"));
        strace.args(["-p", &program.pid().to_string()]).stderr(Stdio::piped());
        let mut strace = strace.spawn().expect("strace");
        let stderr = BufReader::new(strace.stderr.take().expect("piped"));
        let mut lines = stderr.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("attached")), "strace does not attach");
        std::thread::spawn(move || lines.for_each(drop));
        Self(strace)
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let _ = self.0.wait();
    }
}

/// Whether strace is there and may look at other processes. If not, says so past the test runner's capture.
fn strace_works() -> bool {
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let works = probe.is_ok_and(|probe| probe.status.success());
    if !works {
        let _ = writeln!(std::io::stderr(), "SKIPPED failing_calls: needs strace, and the right to trace");
    }
    works
}

/// Whether no stream may notice this error: the call is repeated, or there is another way.
fn is_harmless(call: &str, error: &str) -> bool {
    error == "EINTR" && call != "connect" || call == "pipe2"
}

/// A visit to an echo service: every byte that comes is the right one, and an end that looks good is one. Says whether
/// it was served to its end.
fn visit(public: SocketAddr, number: u32) -> bool {
    // A port that is gone with its session is back later.
    let Ok(mut visitor) = TcpStream::connect_timeout(&public, PATIENCE) else { return false };
    bounded(&visitor, PATIENCE);
    let flow = Flow::up(number);
    let total = if number.is_multiple_of(2) { 100 } else { 400_000 };
    let mut sender = visitor.try_clone().expect("a second handle");
    let sending = std::thread::spawn(move || {
        // It may be cut short at any time. Whichever call meets a reset first takes it: a read sees an end then.
        sender.write_all(&flow.bytes(0, total)).is_ok() && sender.shutdown(Shutdown::Write).is_ok()
    });
    let mut arrival = Arrival::of(flow);
    let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte, as far as it goes"));
    drop(visitor);
    let sent = sending.join().expect("the sender ends");
    let whole = sent && end == End::Clean;
    if whole {
        assert_eq!(arrival.end(total as u64), Ok(()), "a stream that was cut short does not look whole");
    }
    whole
}

/// How often each call is made to fail in each way.
fn rounds() -> u32 {
    std::env::var("FAILING_CALLS").map_or(1, |text| text.parse().expect("FAILING_CALLS is a number"))
}

fn suffer(of_the_server: bool, calls: &[(&str, &[&str])], said: &[&str]) {
    if !strace_works() {
        return;
    }
    let service = Service::echo();
    let server = Server::start(options().brisk().threads(1));
    let tunnel = options().brisk().threads(1).tunnel_at(service.addr(), free_port());
    let client = Client::start(&server, tunnel);
    let public = client.public();
    until_served(public);
    let baseline = Baseline::of(&server, &client);
    for round in 0..rounds() {
        for (at, (call, errors)) in (0..).zip(calls) {
            for (which, error) in (0..).zip(*errors) {
                let step = 5 + (round + at + which) % 7;
                println!("{call}: {error}, each {step}th");
                {
                    let program: &Program = if of_the_server { &server } else { &client };
                    let _injection = Injection::into(program, call, error, 1 + (round + which) % 3, step);
                    for number in 0..VISITS {
                        let served = visit(public, number);
                        assert!(served || !is_harmless(call, error), "{call}: {error} is nothing to end a stream for");
                    }
                }
                until_served(public);
                assert!(server.is_running() && client.is_running(), "{call}: {error}");
            }
        }
    }
    let log = if of_the_server { server.log() } else { client.log() };
    said.iter().for_each(|words| assert!(log.contains(words), "the log names `{words}`: {log}"));
    expect_calm([&server, &client]);
    baseline.expect_again();
}

#[test]
fn a_server_survives_its_failing_calls() {
    suffer(true, &[&OF_THE_SERVER[..], &BOTH].concat(), &SAID_BY_THE_SERVER);
}

#[test]
fn a_client_survives_its_failing_calls() {
    suffer(false, &[&OF_THE_CLIENT[..], &BOTH].concat(), &SAID_BY_THE_CLIENT);
}
