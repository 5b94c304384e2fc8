//! A server with many clients and visitors, all of whom `status` tells of.
//!
//! For the figures: `CPROXY_CROWD=5000 cargo test --release -p tests --test rules crowd -- --nocapture`. It prints how long
//! `status` took to answer, and how long a visitor's requests took with and without it. `CPROXY_CROWD` are the visitors,
//! each of whom takes two of the server's descriptors.

use super::{Client, Options, RawClient, Server, Service, connect, options, ping};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CLIENTS: usize = 1000;
const QUESTIONS: u32 = 10;
/// Longer than an answer is kept for others who ask.
const PAUSE: Duration = Duration::from_millis(250);

/// What a server answers, and how long that took.
fn status(socket: &Path) -> (Value, Duration) {
    let begun = Instant::now();
    let mut stream = UnixStream::connect(socket).expect("connect");
    stream.write_all(b"{\"version\":1,\"do\":\"status\"}\n").expect("ask");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    let took = begun.elapsed();
    (serde_json::from_str(&line).expect("JSON"), took)
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable();
    times
}

fn told(what: &str, times: &[Duration]) {
    let at = |thousandths: usize| times[(times.len() - 1) * thousandths / 1000];
    let (median, p99, p999) = (at(500), at(990), at(999));
    println!(
        "{what}: {} times, {median:?} (median), {p99:?} (p99), {p999:?} (p99.9), {:?} (most)",
        times.len(),
        at(1000)
    );
}

#[test]
fn a_status_tells_of_a_thousand_clients_and_all_their_visitors() {
    let visitors = std::env::var("CPROXY_CROWD").map_or(500_u32, |count| count.parse().expect("a number"));
    let folder = TempDir::new().expect("a directory");
    let socket = folder.path().join("admin");
    let patient = |options: Options| {
        options.key("heartbeat_interval", 600).key("heartbeat_timeout", 1800).key("session_grace", 1800)
    };
    let keys = patient(options()).key("idle_conns", 0).key("max_sessions", 2000).key("max_tunnels", 2000);
    let server = Server::start(keys.threads(2).key("admin_socket", format!("{:?}", socket.display().to_string())));
    let service = Service::echo();
    let client = Client::start(&server, patient(options()).threads(2).tunnel(service.addr()));
    let crowd: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut raw = RawClient::start(server.ctl());
            raw.tunnel(1);
            raw
        })
        .collect();
    let stay: Vec<_> = (0..visitors)
        .map(|_| {
            let mut visitor = client.visit();
            ping(&mut visitor, b"one who stays");
            visitor
        })
        .collect();
    let over = AtomicBool::new(false);
    let requests = || {
        let (mut visitor, mut times) = (connect(client.public()), Vec::new());
        while !over.load(Ordering::SeqCst) {
            let begun = Instant::now();
            ping(&mut visitor, b"are you there?");
            times.push(begun.elapsed());
        }
        sorted(times)
    };
    let beside = |work: &dyn Fn()| {
        over.store(false, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let times = scope.spawn(requests);
            work();
            over.store(true, Ordering::SeqCst);
            times.join().expect("each is answered")
        })
    };
    let undisturbed = beside(&|| std::thread::sleep(PAUSE * QUESTIONS));
    let mut answers = Vec::new();
    let asked = std::sync::Mutex::new(&mut answers);
    let disturbed = beside(&|| {
        for _ in 0..QUESTIONS {
            std::thread::sleep(PAUSE);
            asked.lock().expect("no panic while locked").push(status(&socket));
        }
    });
    told("requests while nobody asks", &undisturbed);
    told("requests while status is asked", &disturbed);
    told("status", &sorted(answers.iter().map(|(_, took)| *took).collect()));
    for (answer, _) in &answers {
        let status = &answer["status"];
        let sessions = status["sessions"].as_array().expect("sessions");
        assert_eq!((sessions.len(), &status["visitors"]["active"]), (CLIENTS + 1, &Value::from(visitors + 1)));
        assert!(sessions.iter().all(|session| session["tunnels"][0]["state"] == "open"));
    }
    drop((stay, crowd));
}
