//! Who says what where, and programs whose output nobody reads.

use crate::program::{Program, client, local_server};
use nix::sys::signal::Signal::SIGTERM;

#[test]
fn a_server_without_a_token_warns_on_standard_error_alone() {
    let mut server = Program::start(local_server(""));
    server.says("Listening ctl 127.0.0.1:");
    let warning = server.logs("no token is set, so only clients on this machine (loopback) are taken");
    assert!(warning.contains("WARN") && warning.contains("--token-file FILE"), "{warning}");
    server.signal(SIGTERM);
    assert_eq!(server.end().out.lines().count(), 1);
}

#[test]
fn the_token_is_never_logged() {
    let mut command = local_server("--log-level trace");
    command.env("CPROXY_TOKEN", "hush-hush-hush");
    let mut server = Program::start(command);
    let line = server.says("Listening ctl ");
    let ctl = line.split(' ').nth(2).unwrap();
    let mut command = client(&format!("--cproxy-server {ctl} --local-server 127.0.0.1:1 --log-level trace"));
    command.env("CPROXY_TOKEN", "hush-hush-hush");
    let mut client = Program::start(command);
    client.says("Forwarding tcp://");
    for program in [client, server] {
        program.signal(SIGTERM);
        let ended = program.end();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(!ended.err.contains("hush-hush"), "{}", ended.err);
    }
}

#[test]
fn programs_that_nobody_listens_to_go_on() {
    let mut server = Program::start_heard(local_server("--log-level trace"), true, false);
    let line = server.says("Listening ctl ");
    let ctl = line.split(' ').nth(2).unwrap();
    let args = format!("--cproxy-server {ctl} --local-server 127.0.0.1:1 --tunnel-name unheard --log-level trace");
    let mut client = Program::start_heard(client(&args), false, true);
    client.logs("unheard");
    for program in [client, server] {
        program.signal(SIGTERM);
        assert_eq!(program.end().code, Some(0));
    }
}
