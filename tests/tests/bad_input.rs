//! Wrong flags, files, addresses and ports: each ends with the right exit code and a sentence that names
//! the thing; a name that does not resolve is tried again.

use std::net::TcpListener;
use tempfile::TempDir;
use tests::programs::{Client, Program, Server, options};
use tests::sockets::LOOPBACK;

const SERVER: &str = "cproxy-server";
const CLIENT: &str = "cproxy-client";

/// Runs a program that must end with `code`, naming each of `named` on standard error.
#[track_caller]
fn refused(code: i32, program: &'static str, words: &[&str], named: &[&str]) {
    let run = Program::with_words(program, words);
    assert_eq!(run.exit_code(), code, "exit code of {program} {words:?}");
    let log = run.log();
    for name in named {
        assert!(log.contains(name), "{program} {words:?}: expected `{name}` in: {log}");
    }
    assert_eq!(run.output(), [""; 0], "nothing on standard output");
}

#[test]
fn flags_that_do_not_exist_or_hold_nonsense_are_named() {
    refused(2, SERVER, &["--no-such-flag=1"], &["--no-such-flag"]);
    refused(2, SERVER, &["--ctl-port=70000"], &["--ctl-port", "70000"]);
    refused(2, SERVER, &["--work-thread-nums=0"], &["work-thread-nums"]);
    refused(2, SERVER, &["--bind-addr=here"], &["--bind-addr", "here"]);
    refused(2, SERVER, &["--allow-ports=7000-6000"], &["--allow-ports", "7000-6000"]);
    refused(2, SERVER, &["--log-format=xml"], &["--log-format", "xml"]);
    refused(2, CLIENT, &["--cproxy-server=nowhere:", "--local-server=localhost:1"], &["nowhere:"]);
    refused(2, CLIENT, &["--cproxy-server=localhost:1", "--local-server=x:y"], &["x:y"]);
    refused(2, CLIENT, &["--cproxy-server=localhost:1", "--drain-timeout=-1"], &["drain-timeout"]);
}

#[test]
fn what_is_missing_is_named() {
    refused(2, CLIENT, &["--cproxy-server=localhost:1"], &["local"]);
    refused(2, CLIENT, &["--local-server=localhost:1"], &["server"]);
    refused(2, SERVER, &["--config=/no/such/file.toml"], &["/no/such/file.toml"]);
    refused(2, SERVER, &["--token-file=/no/such/token"], &["/no/such/token"]);
    refused(2, SERVER, &["check-config", "/no/such/file.toml"], &["/no/such/file.toml"]);
}

#[test]
fn a_file_with_a_mistake_is_refused_with_its_line() {
    let directory = TempDir::new().expect("a temporary directory");
    let check = |program: &'static str, text: &[u8], named: &[&str]| {
        let path = directory.path().join("file.toml");
        std::fs::write(&path, text).expect("write the file");
        let path = path.to_str().expect("UTF-8");
        let named = [named, &["file.toml"]].concat();
        refused(2, program, &["check-config", path], &named);
        refused(2, program, &[&format!("--config={path}")], &named);
    };
    check(SERVER, b"ctl_port = 0\nproxy_port = \n", &["2"]);
    check(SERVER, b"\n\nctl_port = \"many\"\n", &["ctl_port", "3"]);
    check(SERVER, b"ctl_port = 123456\n", &["ctl_port", "1"]);
    check(SERVER, b"allow_ports = [\"x\"]\n", &["allow_ports"]);
    check(SERVER, b"heartbeat_interval = -1\n", &["heartbeat_interval"]);
    check(SERVER, b"[[clients]]\nname = \"a\"\ntokn = \"t\"\n", &["tokn", "token", "3"]);
    check(SERVER, b"bind_addr = \"\xff\"\n", &[]);
    check(CLIENT, b"[[tunnels]]\nname = \"a\"\nlocl = \"localhost:1\"\n", &["locl", "local", "3"]);
    check(CLIENT, b"server = \"localhost:1\"\n", &["tunnels"]);
    let a_directory = directory.path().to_str().expect("UTF-8");
    refused(2, SERVER, &[&format!("--config={a_directory}")], &[a_directory]);
}

#[test]
fn a_port_in_use_is_named() {
    let holder = TcpListener::bind((LOOPBACK, 0)).expect("a port");
    let port = holder.local_addr().expect("its address").port().to_string();
    let bind = "--bind-addr=127.0.0.1";
    let (ctl, proxy) = (format!("--ctl-port={port}"), format!("--proxy-port={port}"));
    refused(1, SERVER, &[bind, &ctl, "--proxy-port=0"], &[&port, "ctl"]);
    refused(1, SERVER, &[bind, "--ctl-port=0", &proxy], &[&port, "proxy"]);
}

#[test]
fn a_server_name_that_does_not_resolve_is_tried_again() {
    let name = "no-such-host.invalid:1";
    let options = options().brisk().tunnel("127.0.0.1:1").via(name);
    let client = Client::spawn_alone(LOOPBACK, options);
    client.log_line("no-such-host.invalid");
    assert!(client.is_running(), "a name may resolve later");
    client.stop();
}

#[test]
fn a_public_port_that_may_not_be_bound_is_not_fatal_for_the_others() {
    let service = tests::services::Service::greeter("hi");
    let holder = TcpListener::bind((LOOPBACK, 0)).expect("a port");
    let taken = holder.local_addr().expect("its address").port();
    let server = Server::start(options().brisk());
    let other = format!("localhost:{}", service.addr().port());
    let options = options().brisk().tunnel_at(&other, taken).tunnel(service.addr());
    let client = Client::spawn(&server, options);
    assert_eq!(tests::visits::greeting(client.public_of(service.addr())), "hi");
    let line = client.log_line("in use");
    assert!(line.contains(&taken.to_string()), "the port is named: {line}");
    drop(holder);
    let forwarding = client.forwarding_after(0, &other);
    assert_eq!(forwarding.port, taken, "once the port is free, it is taken");
}
