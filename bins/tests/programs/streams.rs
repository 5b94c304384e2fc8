//! Who says what where, and programs whose output nobody reads.

use crate::program::{Files, Program, client, local_server, run, server};
use nix::sys::signal::Signal::SIGTERM;
use std::net::TcpListener;
use std::process::Command;

#[test]
fn a_server_without_a_token_warns_on_standard_error_alone() {
    let files = Files::new(&[("server.toml", "")]);
    let mut server = Program::start(local_server(&format!("--config {}", files.path("server.toml"))));
    server.says("Listening ctl 127.0.0.1:");
    let warning = server.logs("no token is set, so only clients on this machine (loopback) are taken");
    assert!(warning.contains("WARN") && warning.contains("--token-file FILE"), "{warning}");
    server.signal(SIGTERM);
    assert_eq!(server.end().out.lines().count(), 1);
}

#[test]
fn a_server_that_is_told_nothing_says_what_to_type_beside_the_service() {
    let state = Files::new(&[]);
    let start = || {
        let mut command = local_server("");
        command.env("STATE_DIRECTORY", state.path("made"));
        let mut server = Program::start(command);
        server.says("Listening ctl 127.0.0.1:");
        let kept = server.says("(the token is kept in");
        assert!(kept.contains(&state.path("made/cproxy-token")), "{kept}");
        (server.says("CPROXY_TOKEN=… cproxy-client 8000 --cproxy-server 127.0.0.1:"), server)
    };
    // With the token, as on another machine; without one, as before there was one; with another token not at all.
    let (line, server) = start();
    let token = std::fs::read_to_string(state.path("made/cproxy-token")).unwrap();
    let typed = line.split_once("cproxy-client ").unwrap().1;
    for token in [token.trim(), ""] {
        let mut command = client(typed);
        command.env("CPROXY_TOKEN", token);
        let mut client = Program::start(command);
        client.says("Forwarding tcp://127.0.0.1:");
        client.signal(SIGTERM);
        assert_eq!(client.end().code, Some(0));
    }
    let mut command = client(typed);
    command.env("CPROXY_TOKEN", "another token");
    assert_eq!(run(command).code, Some(2));
    server.signal(SIGTERM);
    let ended = server.end();
    assert!(!ended.err.contains("no token is set"), "{}", ended.err);
    assert!(!(ended.err + &ended.out).contains(token.trim()), "what is no terminal may be read by others");
    drop(start());
    assert_eq!(std::fs::read_to_string(state.path("made/cproxy-token")).unwrap(), token, "made once");
}

#[test]
fn a_server_that_can_keep_no_token_takes_who_is_on_its_machine() {
    let mut command = local_server("");
    command.env("STATE_DIRECTORY", "/proc/nowhere");
    let mut server = Program::start(command);
    server.says("Listening ctl 127.0.0.1:");
    server.logs("no token can be made and kept in `/proc/nowhere`");
    server.logs("no token is set");
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

#[test]
fn what_is_wrong_with_the_configuration_is_json_where_the_log_is() {
    let ended = run(server("--config /nowhere.toml --log-format json"));
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    let line: serde_json::Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().unwrap().contains("/nowhere.toml"), "{line}");
    let ended = run(server("--config /nowhere.toml"));
    assert!(ended.err.starts_with("error: "), "{}", ended.err);
}

#[test]
fn a_terminal_sees_colours_unless_no_color_is_set() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    // script(1) runs a command on a terminal of its own.
    let log_of = |no_color: Option<&str>| {
        let path = env!("CARGO_BIN_EXE_cproxy-server");
        let mut command = Command::new("script");
        command.args(["-qec", &format!("{path} --bind-addr 127.0.0.1 --ctl-port {port} --proxy-port 0"), "/dev/null"]);
        command.env_remove("NO_COLOR").envs(no_color.map(|value| ("NO_COLOR", value)));
        let ended = run(command);
        assert!(ended.out.contains("address in use"), "{} {}", ended.out, ended.err);
        ended.out
    };
    for (no_color, coloured) in [(None, true), (Some(""), true), (Some("1"), false)] {
        assert_eq!(log_of(no_color).contains('\x1b'), coloured, "NO_COLOR={no_color:?}");
    }
}
