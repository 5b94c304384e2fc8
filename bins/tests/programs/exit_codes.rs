//! 0 asked to stop; 2 bad configuration or refused for good; 1 anything else.
//! (Exit code 2 for flags and files is in `command_line` and `check_config`.)

use crate::program::{Files, Program, client, local_server, run, server};
use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// The address behind `word` in the server's line on standard output.
fn address(line: &str, word: &str) -> String {
    let mut words = line.split(' ').skip_while(|&w| w != word);
    words.nth(1).unwrap_or_else(|| panic!("no `{word} ADDRESS` in `{line}`")).to_owned()
}

#[test]
fn asked_to_stop_is_0_and_the_last_log_line_tells_the_totals() {
    for signal in [SIGTERM, SIGINT] {
        let mut server = Program::start(local_server("--log-format json"));
        let ctl = address(&server.says("Listening ctl "), "ctl");
        let mut client =
            Program::start(client(&format!("--cproxy-server {ctl} --local-server 127.0.0.1:1 --log-format=json")));
        client.says("Forwarding tcp://127.0.0.1:");

        for (program, counts) in [
            (client, &["finished", "aborted", "proxy_conns"][..]),
            (server, &["visitors", "finished", "aborted", "proxy_conns"]),
        ] {
            program.signal(signal);
            let ended = program.end();
            assert_eq!(ended.code, Some(0), "{}", ended.err);
            let last: serde_json::Value = serde_json::from_str(ended.err.lines().last().unwrap()).unwrap();
            assert_eq!((last["level"].as_str(), last["message"].as_str()), (Some("INFO"), Some("stopped")));
            for count in counts {
                assert!(last[count].is_u64(), "`{count}` is missing: {last}");
            }
        }
    }
}

#[test]
fn a_server_whose_port_is_in_use_says_which_and_ends_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for flags in [format!("--ctl-port {port} --proxy-port 0"), format!("--ctl-port 0 --proxy-port {port}")] {
        let ended = run(server(&format!("--bind-addr 127.0.0.1 {flags}")));
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{}", ended.err);
        let last = ended.err.lines().last().unwrap();
        assert!(last.contains("ERROR") && last.contains(&format!("127.0.0.1:{port}")), "{last}");
    }
}

#[test]
fn a_refusal_for_good_is_2_and_says_why() {
    let files = Files::new(&[("right", "the right token"), ("wrong", "the wrong token")]);
    let mut server = Program::start(local_server(&format!("--allow-ports 1 --token-file {}", files.path("right"))));
    let ctl = address(&server.says("Listening ctl "), "ctl");
    let to_it = format!("--cproxy-server {ctl} --local-server 127.0.0.1:1");
    let attempts = [
        (to_it.clone(), "token"),
        (format!("{to_it} --token-file {}", files.path("wrong")), "token"),
        (format!("{to_it} --public-port 2 --token-file {}", files.path("right")), "port 2"),
    ];
    for (args, why) in attempts {
        let ended = run(client(&args));
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{args}: {}", ended.err);
        let last = ended.err.lines().last().unwrap();
        assert!(last.contains("ERROR") && last.contains(why), "{args}: {last}");
        assert!(!ended.err.contains("the wrong token"), "{}", ended.err);
    }
}

#[test]
fn a_name_that_does_not_resolve_is_named_and_retried() {
    let mut client = Program::start(client("--cproxy-server no-such-host.invalid:8080 --local-server 127.0.0.1:1"));
    client.logs("no-such-host.invalid");
    client.logs("no-such-host.invalid");
    client.signal(SIGTERM);
    let ended = client.end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{}", ended.err);
}

#[test]
fn a_second_signal_ends_the_client_at_once_with_1() {
    a_second_signal_ends_at_once_with_1(|client, server| (client, server));
}

#[test]
fn a_second_signal_ends_the_server_at_once_with_1() {
    a_second_signal_ends_at_once_with_1(|client, server| (server, client));
}

/// `choose` says, of client and server, which one is signalled; the other stays, or the transfer would end with it.
fn a_second_signal_ends_at_once_with_1(choose: fn(Program, Program) -> (Program, Program)) {
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = Program::start(local_server("--drain-timeout 3600"));
    let ctl = address(&server.says("Listening ctl "), "ctl");
    let local_addr = local.local_addr().unwrap();
    let mut client =
        Program::start(client(&format!("--cproxy-server {ctl} --local-server {local_addr} --drain-timeout 3600")));
    let line = client.says("Forwarding tcp://");
    let (public, to) = line.strip_prefix("Forwarding tcp://").unwrap().split_once(" -> ").unwrap();
    assert_eq!(to, local_addr.to_string());

    // A transfer that does not end: the program drains until told otherwise.
    let mut visitor = TcpStream::connect(public).unwrap();
    visitor.write_all(b"x").unwrap();
    let (mut service, _) = local.accept().unwrap();
    service.read_exact(&mut [0]).unwrap();
    let (mut program, _other) = choose(client, server);
    program.signal(SIGTERM);
    program.logs("a second signal exits at once");
    // One that comes too soon is the same request. It ends with the first that is not.
    program.signal_until_it_ends(SIGTERM);
    let ended = program.end();
    assert_eq!(ended.code, Some(1), "{}", ended.err);
}

#[test]
fn requests_to_stop_that_come_together_are_one() {
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    for client_is_stopped in [true, false] {
        let mut server = Program::start(local_server("--drain-timeout 60"));
        let ctl = address(&server.says("Listening ctl "), "ctl");
        let local_addr = local.local_addr().unwrap();
        let to_it = format!("--cproxy-server {ctl} --local-server {local_addr} --drain-timeout 60");
        let mut client = Program::start(client(&to_it));
        let line = client.says("Forwarding tcp://");
        let (public, _) = line.strip_prefix("Forwarding tcp://").unwrap().split_once(" -> ").unwrap();
        let mut visitor = TcpStream::connect(public).unwrap();
        visitor.write_all(b"x").unwrap();
        let (mut service, _) = local.accept().unwrap();
        service.read_exact(&mut [0]).unwrap();
        let (mut stopped, _other) = if client_is_stopped { (client, server) } else { (server, client) };
        // As `timeout` does: the process, and then its group.
        stopped.signal(SIGTERM);
        stopped.signal(SIGINT);
        stopped.signal(SIGTERM);
        stopped.logs("a second signal exits at once");
        service.write_all(b"answer").unwrap();
        drop(service);
        let mut answer = Vec::new();
        visitor.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");
        drop(visitor);
        let ended = stopped.end();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    }
}

#[test]
fn signals_that_ask_for_something_else_end_no_program() {
    let mut server = Program::start(local_server(""));
    let ctl = address(&server.says("Listening ctl "), "ctl");
    let mut client = Program::start(client(&format!("--cproxy-server {ctl} --local-server 127.0.0.1:1")));
    client.says("Forwarding tcp://");
    // SIGUSR2 asks a server for an upgrade.
    for (mut program, signals) in [(client, [SIGUSR1, SIGUSR2, SIGHUP]), (server, [SIGUSR1, SIGHUP, SIGHUP])] {
        signals.into_iter().for_each(|signal| program.signal(signal));
        program.logs("not reloaded, and nothing is changed: there is no configuration file");
        program.signal(SIGTERM);
        let ended = program.end();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    }
}
