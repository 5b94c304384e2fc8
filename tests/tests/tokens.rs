//! Tokens over time: a new one beside the old, files that others can read, tokens that are none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use tests::programs::{Client, Options, Program, Server, options};
use tests::services::Service;
use tests::sockets::free_port;
use tests::visits::{greeting, until_greeted};
use tests::wait::until;

const OLD: &str = "the old token, long enough";
const NEW: &str = "the new token, long enough";

/// A directory with token files that nobody else may read.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        for (name, content) in files {
            let path = directory.path().join(name);
            fs::write(&path, content).expect("write the file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        }
        Self(directory)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn both(&self) -> String {
        format!("[\"{}\", \"{}\"]", self.path("new"), self.path("old"))
    }
}

fn with_token(token: &str) -> Options {
    options().brisk().env("CPROXY_TOKEN", token)
}

#[test]
fn the_new_and_the_old_token_are_valid_at_once() {
    let service = Service::greeter("hi");
    let files = Files::new(&[("new", NEW), ("old", OLD)]);
    let own = options().brisk().key("token_files", files.both());
    let clients = format!("[[clients]]\nname = \"office\"\ntoken_files = {}\n", files.both());
    for server in [own, options().brisk().tables(&clients)] {
        let server = Server::start(server);
        for token in [OLD, NEW] {
            let client = Client::start(&server, with_token(token).tunnel(service.addr()));
            assert_eq!(greeting(client.public()), "hi");
        }
        let stranger = Client::spawn(&server, with_token("a third one, long enough").tunnel(service.addr()));
        assert_eq!(stranger.exit_code(), 2);
    }
}

#[test]
fn a_client_that_comes_back_with_the_new_token_gets_its_port_back() {
    let service = Service::greeter("hi");
    let files = Files::new(&[("new", NEW), ("old", OLD)]);
    let server = Server::start(options().brisk().key("token_files", files.both()).key("session_grace", 600));
    let port = free_port();
    let office = |token| with_token(token).flag("client-id", "office").tunnel_at(service.addr(), port);
    let before = Client::start(&server, office(OLD));
    assert_eq!(greeting(before.public()), "hi");
    before.kill();
    let after = Client::start(&server, office(NEW));
    assert_eq!(after.public().port(), port);
    until_greeted(after.public(), |text| text == "hi");
}

#[test]
fn an_old_token_is_refused_once_it_is_taken_away() {
    let server = Server::start(with_token(NEW));
    let client = Client::spawn(&server, with_token(OLD).tunnel("127.0.0.1:1"));
    assert_eq!(client.exit_code(), 2);
    assert_eq!(server.stop().handshakes_refused, 1);
}

/// Every line about a session names whose token its client has, and each refusal is there once.
#[test]
fn the_log_names_the_holder_of_each_session() {
    let service = Service::greeter("hi");
    let (office, lab, more) = (free_port(), free_port(), free_port());
    let clients = format!(
        "[[clients]]\nname = \"office\"\ntoken = \"{OLD}\"\nallow_ports = [{office}]\nmax_sessions = 1\n\
         [[clients]]\nname = \"lab\"\ntoken = \"{NEW}\"\nallow_ports = [{lab}, {more}]\nmax_tunnels = 1\n"
    );
    let server = Server::start(options().brisk().tables(&clients));
    let first = Client::start(&server, with_token(OLD).tunnel_at(service.addr(), office));
    let second = Client::spawn(&server, with_token(OLD).flag("client-id", "second").tunnel_at(service.addr(), office));
    server.log_line("max_sessions");
    drop(second);
    let forbidden = Client::spawn(&server, with_token(NEW).tunnel_at(service.addr(), office));
    assert_eq!(forbidden.exit_code(), 2);
    let crowded = with_token(NEW).tunnel_at(service.addr(), lab).tunnel_at("127.0.0.1:1", more);
    let crowded = Client::spawn(&server, crowded);
    until("it has asked again", || crowded.log().matches("max_tunnels").count() > 1);
    for program in [&*first, &*crowded] {
        program.stop();
    }
    server.stop();
    let log = server.log();
    let lines = |text: &'static str| log.lines().filter(move |line| line.contains(text));
    for text in ["session began", "session over", "tunnel open", "tunnel refused", "max_sessions"] {
        assert!(lines(text).count() > 0, "no line says `{text}`: {log}");
        let named =
            |line: &str| ["office", "lab"].iter().any(|name| line.contains(&format!("\"credential\":\"{name}\"")));
        assert!(lines(text).all(named), "a line with `{text}` does not say whose it is: {log}");
    }
    for text in ["does not allow", "max_tunnels"] {
        assert_eq!(lines(text).filter(|line| line.contains("tunnel refused")).count(), 1, "`{text}`, once: {log}");
    }
}

#[test]
fn token_files_that_others_can_read_are_reported() {
    let files = Files::new(&[("new", NEW), ("old", OLD)]);
    fs::set_permissions(files.path("old"), fs::Permissions::from_mode(0o644)).expect("chmod");
    let server = Server::start(options().key("token_files", files.both()));
    let line = server.log_line("chmod 600");
    assert!(line.contains(&files.path("old")) && line.contains("mode 0644"), "{line}");
    assert!(!server.log().contains(&files.path("new")), "the other one is private: {}", server.log());
}

#[test]
fn tokens_that_are_none_are_named_with_their_key_and_file() {
    for (token, what) in [("", "an empty token"), ("\n", "an empty token"), ("x\n", "a token of 1 byte")] {
        let files = Files::new(&[("token", token)]);
        let text = format!("ctl_port = 0\ntoken_files = [\n\"{}\"]\n", files.path("token"));
        let config = Files::new(&[("server.toml", &text)]);
        let path = config.path("server.toml");
        let program = Program::with_words("cproxy-server", &["--config", &path]);
        assert_eq!(program.exit_code(), 2);
        let log = program.log();
        let named = [&format!("{path}:2: `token_files`"), &files.path("token"), what];
        assert!(named.iter().all(|part| log.contains(*part)), "{log}");
    }
}
