//! Holders of a token who keep to the protocol and mean harm, in Python, beside honest clients: every honest visit is
//! served over the first session, and when the others are gone, so is all that they cost.
//!
//! For longer:
//! `CPROXY_ABUSE_SECONDS=60 CPROXY_ABUSE_SEED=7 cargo test -p tests --test end_to_end hostile_holder:: -- --nocapture`.
//! It prints how long honest visits take undisturbed, while the hostile ones are at another server of the same machine
//! (which takes its processors, and nothing else), and while they are at this one.

use serde::Deserialize;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::leaks::Baseline;
use tests::programs::{Client, Program, Server, options};
use tests::services::Service;
use tests::sockets::free_port;
use tests::visits::ping;

/// Memory that may stay with the server's allocator.
const KEPT: u64 = 32 << 20;

/// What the hostile ones say that they have done.
#[derive(Debug, Deserialize)]
struct Did {
    acts: u64,
    sessions: u64,
    ready: u64,
    refused: u64,
    conns: u64,
    unacknowledged: u64,
    wronged: u64,
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Honest clients of one server, and visitors who stay.
struct Honest<'a> {
    clients: &'a [Client],
    stays: Vec<TcpStream>,
}

impl<'a> Honest<'a> {
    fn new(clients: &'a [Client]) -> Self {
        Self { clients, stays: clients.iter().map(Client::visit).collect() }
    }

    /// Each is visited once; how long each visit took.
    fn visit_all(&mut self) -> Vec<Duration> {
        let Self { clients, stays } = self;
        let visit = |(client, stays): (&Client, &mut TcpStream)| {
            ping(stays, b"the one who stays");
            let begun = Instant::now();
            ping(&mut client.visit(), b"a newcomer");
            begun.elapsed()
        };
        clients.iter().zip(stays).map(visit).collect()
    }

    /// Visits for as long as `going`, and prints how long they took.
    fn visit_while(&mut self, what: &str, mut going: impl FnMut() -> bool) {
        let mut took = Vec::new();
        while going() {
            took.extend(self.visit_all());
        }
        took.sort();
        let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
        println!("{what}: {} visits, p50 {:?}, p99 {:?}", took.len(), at(50), at(99));
    }
}

/// Hostile holders, at work for `seconds`.
fn harm(server: &Server, ports: &str, seconds: u64) -> Program {
    let directory = tempfile::tempdir().expect("a directory");
    let token = directory.path().join("token");
    std::fs::write(&token, "a token for harm\n").expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/hostile_holder.py");
    let (seconds, seed) = (seconds.to_string(), setting("CPROXY_ABUSE_SEED", 1).to_string());
    let (script, ctl, token) = (script.display().to_string(), server.ctl().to_string(), token.display().to_string());
    let mut words = vec!["python3", "-B", &script, "--server", &ctl, "--token-file", &token, "--ports", ports];
    words.extend(["--seconds", &seconds, "--seed", &seed]);
    let hostile = Program::with_words("/usr/bin/env", &words);
    hostile.output_line("Ready");
    hostile
}

/// What hostile holders say at their end.
fn done(hostile: &Program) -> Did {
    assert_eq!(hostile.exit_code(), 0, "{}", hostile.log());
    let line = hostile.output_line("Stopped ");
    println!("{line}");
    serde_json::from_str(line.trim_start_matches("Stopped ")).expect("its figures")
}

#[test]
fn hostile_holders_of_a_token_disturb_nobody() {
    let probe = Command::new("python3").args(["-c", "import sys; sys.exit(sys.version_info < (3, 8))"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("{}: SKIPPED: needs python3, 3.8 or later", module_path!());
        return;
    }
    let seconds = setting("CPROXY_ABUSE_SECONDS", 2);
    let service = Service::echo();
    let [(server, ports), (neighbour, its_ports)] = [(); 2].map(|()| {
        let first = free_port();
        let ports = format!("{first}-{}", first + 7);
        let clients = format!(
            "[[clients]]\nname = \"hostile\"\ntoken = \"a token for harm\"\nallow_ports = [\"{ports}\"]\n\
             max_tunnels = 4\nmax_connections = 8\nmax_waiting = 8\n"
        );
        (Server::start(options().brisk().key("token", "\"honest\"").tables(&clients)), ports)
    });
    let client = || Client::start(&server, options().env("CPROXY_TOKEN", "honest").tunnel(service.addr()));
    let clients: Vec<_> = (0..3).map(|_| client()).collect();
    let mut honest = Honest::new(&clients);
    honest.visit_all();
    let baseline = Baseline::of(&server, &clients[0]);
    let before = server.process().memory();

    let begun = Instant::now();
    honest.visit_while("undisturbed", || begun.elapsed() < Duration::from_secs(seconds));
    let elsewhere = harm(&neighbour, &its_ports, seconds);
    honest.visit_while("beside another server's", || elsewhere.is_running());
    let _did = done(&elsewhere);
    let hostile = harm(&server, &ports, seconds);
    honest.visit_while("beside hostile holders", || hostile.is_running());
    let did = done(&hostile);
    assert!(did.acts > 0 && did.sessions > 0 && did.ready > 0 && did.refused > 0 && did.conns > 0, "{did:?}");
    assert_eq!(did.wronged, 0, "who keeps to the protocol is not sent away: {did:?}");

    honest.visit_all();
    for client in &clients {
        assert_eq!(client.forwardings().len(), 1, "its session is the first one");
    }
    baseline.expect_again();
    let after = server.process().memory();
    println!("memory: {} kB before, {} kB after", before >> 10, after >> 10);
    let grown = after.saturating_sub(before);
    assert!(grown < KEPT, "{grown} bytes more than before, {} sessions ended for it", did.unacknowledged);
}
