//! Holders of a token who keep to the protocol and mean harm, in Python, beside honest clients: every honest visit is
//! served over the first session, and when the others are gone, so is all that they cost.
//!
//! For longer: `CPROXY_ABUSE_SECONDS=60 CPROXY_ABUSE_SEED=7 cargo test -p tests --test hostile_holder`.

use serde::Deserialize;
use std::path::Path;
use std::process::Command;
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

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

#[test]
fn hostile_holders_of_a_token_disturb_nobody() {
    let probe = Command::new("python3").args(["-c", "import sys; sys.exit(sys.version_info < (3, 8))"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("{}: SKIPPED: needs python3, 3.8 or later", module_path!());
        return;
    }
    let first = free_port();
    let ports = format!("{first}-{}", first + 7);
    let clients = format!(
        "[[clients]]\nname = \"hostile\"\ntoken = \"a token for harm\"\nallow_ports = [\"{ports}\"]\nmax_tunnels = 4\n\
         max_connections = 8\nmax_waiting = 8\n"
    );
    let server = Server::start(options().brisk().key("token", "\"honest\"").tables(&clients));
    let service = Service::echo();
    let honest: Vec<_> = (0..3)
        .map(|_| Client::start(&server, options().env("CPROXY_TOKEN", "honest").tunnel(service.addr())))
        .collect();
    let mut stays: Vec<_> = honest.iter().map(Client::visit).collect();
    let visit_all = |stays: &mut Vec<_>| {
        for (client, stays) in honest.iter().zip(stays) {
            ping(stays, b"the one who stays");
            ping(&mut client.visit(), b"a newcomer");
        }
    };
    visit_all(&mut stays);
    let baseline = Baseline::of(&server, &honest[0]);
    let before = server.process().memory();

    let directory = tempfile::tempdir().expect("a directory");
    let token = directory.path().join("token");
    std::fs::write(&token, "a token for harm\n").expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/hostile_holder.py");
    let (seconds, seed) = (setting("CPROXY_ABUSE_SECONDS", "3"), setting("CPROXY_ABUSE_SEED", "1"));
    let (script, ctl, token) = (script.display().to_string(), server.ctl().to_string(), token.display().to_string());
    let mut words = vec!["python3", "-B", &script, "--server", &ctl, "--token-file", &token, "--ports", &ports];
    words.extend(["--seconds", &seconds, "--seed", &seed]);
    let hostile = Program::with_words("/usr/bin/env", &words);
    while hostile.is_running() {
        visit_all(&mut stays);
    }
    assert_eq!(hostile.exit_code(), 0, "{}", hostile.log());
    let line = hostile.output_line("Stopped ");
    let did: Did = serde_json::from_str(line.trim_start_matches("Stopped ")).expect("its figures");
    println!("{line}");
    assert!(did.acts > 0 && did.sessions > 0 && did.ready > 0 && did.refused > 0 && did.conns > 0, "{did:?}");
    assert_eq!(did.wronged, 0, "who keeps to the protocol is not sent away: {did:?}");

    visit_all(&mut stays);
    for client in &honest {
        assert_eq!(client.forwardings().len(), 1, "its session is the first one");
    }
    baseline.expect_again();
    let grown = server.process().memory().saturating_sub(before);
    assert!(grown < KEPT, "{grown} bytes more than before, {} sessions ended for it", did.unacknowledged);
}
