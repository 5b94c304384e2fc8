//! `check-config FILE`: what counts of a good file, every fault of a bad one named; and `init`, which writes one.

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
        assert_eq!((ended.err.as_str(), ended.out.lines().next()), ("", Some(&*format!("{file}: ok"))));
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

/// The line of `out` about a setting: what counts, and who says so.
fn line<'o>(out: &'o str, key: &str) -> (&'o str, &'o str) {
    let line =
        out.lines().find(|line| line.split(' ').next() == Some(key)).unwrap_or_else(|| panic!("no {key}: {out}"));
    let rest = line[key.len()..].trim_start();
    rest.split_once("  ").map(|(counts, by)| (counts, by.trim_start())).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn what_counts_is_shown_and_who_says_so() {
    let text = "ctl_port = 1\nproxy_port = 2\ntoken = \"s3cr3t-s3cr3t\"\nallow_ports = [\n  9000,\n]\n[[clients]]\nname = \"office\"\ntoken = \"s3cr3t-of-another\"\n";
    let files = Files::new(&[("s.toml", text), ("token", "a long random text")]);
    let file = files.path("s.toml");
    let mut command = server(&format!("check-config --ctl-port 3 {file} --log_level=debug"));
    command.env("CPROXY_CTL_PORT", "4").env("CPROXY_PROXY_PORT", "5").env("CPROXY_WAIT_TIMEOUT", "");
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let said = |key| line(&ended.out, key);
    assert_eq!(said("ctl_port"), ("3", &*format!("--ctl-port, which beats CPROXY_CTL_PORT (4), {file}:1 (1)")));
    assert_eq!(said("proxy_port"), ("5", &*format!("CPROXY_PROXY_PORT, which beats {file}:2 (2)")));
    assert_eq!(said("log_level"), ("debug", "--log-level"));
    assert_eq!(said("wait_timeout"), ("10", "default"));
    assert_eq!(said("allow_ports"), ("[ 9000, ]", &*format!("{file}:4")));
    assert_eq!(said("token"), ("(hidden)", &*format!("{file}:3")));
    assert_eq!(said("clients[0].name"), ("\"office\"", &*format!("{file}:8")));
    assert_eq!(said("clients[0].token"), ("(hidden)", &*format!("{file}:9")));
    let mut by_file = server(&format!("check-config {file}"));
    by_file.env("CPROXY_TOKEN_FILE", files.path("token"));
    let ended = run(by_file);
    assert_eq!(line(&ended.out, "token").0, "-");
    assert!(line(&ended.out, "token").1.ends_with("gives way to `token_file`"), "{}", ended.out);
    assert!(!ended.out.contains("s3cr3t") && !ended.err.contains("s3cr3t"), "{} {}", ended.out, ended.err);
}

#[test]
fn a_client_needs_no_file_where_the_environment_says_all() {
    let mut command = client("check-config");
    command.env("CPROXY_SERVER", "tunnel.example.com").env("CPROXY_LOCAL_SERVER", "unix:/run/app.sock");
    command.env("CPROXY_OUTBOUND_PROXY", "http://me:s3cr3t@proxy.example:1").env("CPROXY_SERVR", "x");
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.starts_with("no file: ok\n"), "{}", ended.out);
    assert_eq!(line(&ended.out, "server"), ("tunnel.example.com", "CPROXY_SERVER"));
    assert_eq!(line(&ended.out, "local_server"), ("unix:/run/app.sock", "CPROXY_LOCAL_SERVER"));
    assert_eq!(line(&ended.out, "outbound_proxy"), ("(hidden)", "CPROXY_OUTBOUND_PROXY"));
    assert!(ended.err.contains("CPROXY_SERVR is no setting; did you mean CPROXY_SERVER?"), "{}", ended.err);
    assert!(!ended.out.contains("s3cr3t"));
}

#[test]
fn what_is_wrong_with_the_environment_is_said_of_it() {
    let mut command = server("check-config");
    command.env("CPROXY_CTL_PORT", "tcp://10.0.0.1:80").env("CPROXY_HEARTBEAT_TIMEOUT", "1");
    let ended = run(command);
    assert_eq!(ended.code, Some(2));
    let said: Vec<_> = ended.err.lines().collect();
    assert!(
        said[0].starts_with("error: the environment variable CPROXY_CTL_PORT: `ctl_port` is a text"),
        "{}",
        ended.err
    );
    assert!(said[1].starts_with("error: the environment variable CPROXY_HEARTBEAT_TIMEOUT: "), "{}", ended.err);
}

#[test]
fn what_init_writes_passes_check_config_and_is_not_overwritten() {
    let files = Files::new(&[]);
    for (command, name) in [(server as fn(&str) -> _, "s.toml"), (client, "c.toml")] {
        let file = files.path(name);
        let written = run(command(&format!("init {file}")));
        assert_eq!(written.code, Some(0), "{}", written.err);
        assert!(written.out.contains(&format!("--config {file}")), "{}", written.out);
        let checked = run(command(&format!("check-config {file}")));
        assert_eq!(checked.code, Some(0), "{}", checked.err);
        let text = std::fs::read_to_string(&file).unwrap();
        let again = run(command(&format!("init {file}")));
        assert_eq!(again.code, Some(1));
        assert!(again.err.contains("there is a file already, which stays as it is"), "{}", again.err);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
    let nowhere = run(server(&format!("init {}", files.path("no/s.toml"))));
    assert!(nowhere.err.contains("its directory is not there"), "{}", nowhere.err);
}
