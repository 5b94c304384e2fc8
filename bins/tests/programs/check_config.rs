//! `check-config FILE`: silent trust for a good file, every fault of a bad one named.

use crate::program::{Files, client, run, server};

const SERVER: &str = r#"
bind_addr = "0.0.0.0"
ctl_port = 8080
proxy_port = 8090
work_thread_nums = 4
token_file = "token"
allow_ports = ["6000-7000", 9000]

[[clients]]
name = "office"
token_file = "office.token"
allow_ports = ["6000-6010"]
max_connections = 1000
"#;

const CLIENT: &str = r#"
server = "tunnel.example.com:8080"
token_file = "token"
work_thread_nums = 2

[[tunnels]]
name = "ssh"
local = "127.0.0.1:22"
public_port = 6022

[[tunnels]]
name = "web"
local = "127.0.0.1:8000"
"#;

#[test]
fn good_files_are_ok_and_their_token_files_stand_beside_them() {
    let files = Files::new(&[
        ("server.toml", SERVER),
        ("client.toml", CLIENT),
        ("token", "a token for all\n"),
        ("office.token", "a token for the office\n"),
    ]);
    for (command, name) in [(server as fn(&str) -> _, "server.toml"), (client, "client.toml")] {
        let file = files.path(name);
        let ended = run(command(&format!("check-config {file}")));
        assert_eq!((ended.err.as_str(), ended.out), ("", format!("{file}: ok")));
        assert_eq!(ended.code, Some(0));
    }
}

/// What a program says about a bad file, after `error: FILE`, line by line.
fn complaints(command: fn(&str) -> std::process::Command, text: &str) -> Vec<String> {
    let files = Files::new(&[("bad.toml", text)]);
    let file = files.path("bad.toml");
    let ended = run(command(&format!("check-config {file}")));
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{}", ended.err);
    let start = format!("error: {file}");
    ended.err.lines().map(|line| line.strip_prefix(&start).expect(line).replace(&file, "FILE")).collect()
}

#[test]
fn every_fault_of_a_file_is_named_with_its_line_and_the_way_out() {
    assert_eq!(
        complaints(server, "ctl_prt = 1\nproxy_port = \"x\"\nheartbeat_timeout = 5\nwork_thread_nums = 0\n"),
        [
            ":1: unknown key `ctl_prt`: did you mean `ctl_port`?",
            ":2: `proxy_port` is a text in quotes; write a whole number from 0 to 65535",
            ":3: `heartbeat_timeout` (5 s) must be longer than `heartbeat_interval` (5 s, the default); raise the one or \
             lower the other",
            ":4: `work_thread_nums` is 0; write a whole number from 1 to 1024",
        ]
    );
    assert_eq!(
        complaints(client, "server = \"example.com:\"\n[[tunnels]]\nname = \"a\"\nlocal = \"::1:80\"\nport = 1\n"),
        [
            ":1: `server` = \"example.com:\": its port `` is not a number from 1 to 65535",
            ":4: `local` in [[tunnels]] = \"::1:80\": it may be an IPv6 address without a port, or one with a port but \
             without brackets; write [::1:80]:8080, with your port",
            ":5: unknown key `port` in [[tunnels]]: did you mean `public_port`?",
        ]
    );
    assert_eq!(
        complaints(client, "server = \"example.com:1\"\n"),
        [
            ": no tunnel, so nothing to expose; give --local-server HOST:PORT, or [[tunnels]] with `name` and `local` in a \
          configuration file"
        ]
    );
}

#[test]
fn malformed_toml_is_named_with_its_line() {
    let [complaint] = &complaints(server, "ctl_port = 1\nallow_ports = [1,\n")[..] else { panic!() };
    assert!(
        complaint.starts_with(":2: not valid TOML: ") || complaint.starts_with(":3: not valid TOML: "),
        "{complaint}"
    );
}

#[test]
fn token_files_are_read_too() {
    let [complaint] = &complaints(server, "\ntoken_file = \"no/such/token\"")[..] else { panic!() };
    assert!(complaint.starts_with(":2: `token_file`: cannot read `"), "{complaint}");
    assert!(complaint.contains("no/such/token`: No such file or directory"), "{complaint}");
}

#[test]
fn a_directory_that_can_hold_no_certificate_is_named_and_a_good_one_stays_empty() {
    let files = Files::new(&[("s.toml", "tls = true"), ("no-directory", "")]);
    let check = |state: &str| {
        let mut command = server(&format!("check-config {}", files.path("s.toml")));
        command.env("STATE_DIRECTORY", state);
        let ended = run(command);
        (ended.code, ended.err)
    };
    let (code, said) = check(&files.path("no-directory/state"));
    assert!(
        code == Some(2) && said.contains("certificate cannot be kept in") && said.contains("Not a directory"),
        "{said}"
    );
    let fresh = files.path("fresh/state");
    assert_eq!(check(&fresh).0, Some(0));
    assert!(!std::path::Path::new(&fresh).exists());
}

#[test]
fn files_that_cannot_be_read_are_named() {
    for (file, what) in
        [("/no/such.toml", "No such file or directory"), ("/", "Is a directory"), ("/dev/zero", "larger than 1 MiB")]
    {
        for command in [server as fn(&str) -> _, client] {
            for args in [format!("check-config {file}"), format!("--config {file}")] {
                let ended = run(command(&args));
                assert_eq!(ended.code, Some(2));
                let start = format!("error: {file}: ");
                assert!(ended.err.starts_with(&start) && ended.err.contains(what), "{}", ended.err);
            }
        }
    }
}

#[test]
fn poor_tokens_are_warned_of_and_never_shown() {
    let files = Files::new(&[("s.toml", "token = \"s3cr3t\"")]);
    let ended = run(server(&format!("check-config {}", files.path("s.toml"))));
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.err.starts_with("warning: ") && ended.err.contains(":1: `token` holds a token of 6 bytes"),
        "{}",
        ended.err
    );
    assert!(!ended.err.contains("s3cr3t") && !ended.out.contains("s3cr3t"));
}
