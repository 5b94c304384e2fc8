//! The command line and the configuration files are a contract: the original's spelling, the two lines on
//! standard output, flags over files, `check-config` and exit codes.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tests::foreign::find;
use tests::limit::arm;
use tests::programs::{Client, Program, Server, directory, options};
use tests::services::Service;
use tests::sockets::{LOOPBACK, free_port};
use tests::visits::{greeting, short_visit};

/// A file named `name` in a directory that lives as long as the first value.
fn file(name: &str, text: &str) -> (TempDir, PathBuf) {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("write the file");
    (directory, path)
}

#[test]
fn the_original_spelling_works() {
    let service = Service::echo();
    let server = Server::listening(Program::with_words(
        "cproxy-server",
        &["--proxy_port=0", "--work_thread_nums=4", "--ctl_port", "0", "--bind_addr=127.0.0.1"],
    ));
    let client = Program::with_words(
        "cproxy-client",
        &[&format!("--local_server={}", service.addr()), &format!("--cproxy_server={}", server.ctl())],
    );
    let line = client.output_line("Forwarding");
    let (public, local) = line.split_once(" -> ").expect("an arrow");
    assert_eq!(local, service.addr().to_string());
    let public = public.strip_prefix("Forwarding tcp://").expect("the contract's words");
    short_visit(public.parse().expect("an address and a port"), 1);
}

#[test]
fn a_files_settings_hold_unless_a_flag_says_otherwise() {
    let (from_file, from_flag) = (Service::greeter("file"), Service::greeter("flag"));
    let server = Server::start(options().key("work_thread_nums", 2).key("proxy_port", 1).flag("proxy-port", 0));
    assert_ne!(server.proxy().port(), 1, "the flag wins");

    let port = free_port();
    let tunnels = format!(
        "server = \"{}\"\n[[tunnels]]\nname = \"greeter\"\nlocal = \"{}\"\npublic_port = {port}\n",
        server.ctl(),
        from_file.addr()
    );
    let (_directory, path) = file("client.toml", &tunnels);
    let config = format!("--config={}", path.display());
    let client = Program::with_words("cproxy-client", &[&config]);
    let line = client.output_line("Forwarding");
    assert_eq!(line, format!("Forwarding tcp://127.0.0.1:{port} -> {}", from_file.addr()));
    assert_eq!(greeting((LOOPBACK, port).into()), "file");
    client.stop_by_signal();

    let local = format!("--local-server={}", from_flag.addr());
    let client = Program::with_words("cproxy-client", &[&config, &local]);
    let line = client.output_line("Forwarding");
    assert!(line.ends_with(&format!(" -> {}", from_flag.addr())), "{line}");
}

#[test]
fn the_lines_on_standard_output_are_all_there_is() {
    let service = Service::echo();
    // With a file: one that is told nothing says what to type beside the service, too.
    let server = Server::start(options().key("drain_timeout", 1));
    let client = Client::start(&server, options().tunnel(service.addr()));
    short_visit(client.public(), 1);
    client.stop();
    server.stop();
    let listening = format!("Listening ctl {} proxy {}", server.ctl(), server.proxy());
    assert_eq!(server.output(), [listening]);
    let forwarding = format!("Forwarding tcp://{} -> {}", client.public(), service.addr());
    assert_eq!(client.output(), [forwarding]);
}

#[test]
fn log_lines_are_text_or_json() {
    let server = Server::start(options().flag("log-format", "text").flag("log-level", "debug"));
    server.stop_by_signal();
    assert!(server.log().contains("stopped"), "{}", server.log());
    assert!(!server.log().lines().any(|line| line.starts_with('{')), "{}", server.log());

    let server = Server::start(options().flag("log-format", "json"));
    server.stop();
    for line in server.log().lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("every line is JSON");
        for field in ["timestamp", "level", "message"] {
            assert!(value[field].is_string(), "`{field}` in {line}");
        }
    }
}

#[test]
fn lines_on_a_terminal_are_coloured_but_for_those_who_want_none() {
    arm();
    let Some(script) = find("script") else { return };
    let taken = TcpListener::bind((LOOPBACK, 0)).expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let server = directory().join("cproxy-server");
    let fails = format!("{} --bind-addr=127.0.0.1 --proxy-port=0 --ctl-port={port}", server.display());
    for (no_color, coloured) in [(None, true), (Some(""), true), (Some("1"), false)] {
        let mut command = Command::new(&script);
        command.args(["-qec", &fails, "/dev/null"]).stdin(Stdio::null()).env_remove("NO_COLOR");
        command.envs(no_color.map(|value| ("NO_COLOR", value)));
        let said = String::from_utf8(command.output().expect("script").stdout).expect("UTF-8");
        assert!(said.contains("ERROR") && said.contains("in use"), "{said:?}");
        assert_eq!(said.contains('\x1b'), coloured, "NO_COLOR {no_color:?}: {said:?}");
    }
}

#[test]
fn a_good_file_passes_its_check() {
    let (_directory, path) = file("server.toml", "ctl_port = 0\nallow_ports = [\"6000-7000\", 9000]\n");
    let path = path.to_str().expect("UTF-8");
    assert_eq!(Program::with_words("cproxy-server", &["check-config", path]).exit_code(), 0);

    let tunnels = "server = \"localhost:1\"\n[[tunnels]]\nname = \"a\"\nlocal = \"localhost:2\"\n";
    let (_directory, path) = file("client.toml", tunnels);
    let path = path.to_str().expect("UTF-8");
    assert_eq!(Program::with_words("cproxy-client", &["check-config", path]).exit_code(), 0);
}

#[test]
fn a_check_names_the_key_its_line_and_the_nearest_valid_key() {
    let text = "# a comment\nctl_port = 0\nwork_thread_numz = 4\n";
    let (_directory, path) = file("server.toml", text);
    let words = ["check-config", path.to_str().expect("UTF-8")];
    let check = Program::with_words("cproxy-server", &words);
    assert_eq!(check.exit_code(), 2);
    let log = check.log();
    for wanted in ["work_thread_numz", "work_thread_nums", "server.toml", "3"] {
        assert!(log.contains(wanted), "expected `{wanted}` in: {log}");
    }
}
