//! Who gets in: with a token only those who know it, and each only to the ports it may have. Whoever is
//! refused for good is told why and ends with exit code 2; the token itself never crosses the wire.

use std::path::PathBuf;
use tempfile::TempDir;
use tests::gate::Gate;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::free_port;
use tests::visits::greeting;

const TOKEN: &str = "a token that nobody guesses";
const OTHER: &str = "another token, just as long";

fn token_file(token: &str) -> (TempDir, PathBuf) {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("token");
    std::fs::write(&path, format!("{token}\n")).expect("write the token");
    (directory, path)
}

#[test]
fn the_right_token_opens_by_file_environment_and_configuration() {
    let service = Service::greeter("hi");
    let (_directory, path) = token_file(TOKEN);
    let server = Server::start(options().flag("token-file", path.display()));
    let by_file = options().flag("token-file", path.display());
    let by_environment = options().env("CPROXY_TOKEN", TOKEN);
    let by_configuration = options().key("token", format!("\"{TOKEN}\""));
    for options in [by_file, by_environment, by_configuration] {
        let client = Client::start(&server, options.tunnel(service.addr()));
        assert_eq!(greeting(client.public()), "hi");
    }
}

#[test]
fn a_wrong_or_missing_token_ends_the_client_for_good() {
    let server = Server::start(options().env("CPROXY_TOKEN", TOKEN));
    for options in [options().env("CPROXY_TOKEN", OTHER), options()] {
        let client = Client::spawn(&server, options.tunnel("127.0.0.1:1"));
        assert_eq!(client.exit_code(), 2);
        let log = client.log();
        assert!(log.contains("token"), "it says that the token is the reason: {log}");
        assert!(!log.contains(TOKEN) && !log.contains(OTHER), "secrets are not logged: {log}");
    }
    assert!(!server.log().contains(TOKEN), "secrets are not logged: {}", server.log());
}

#[test]
fn a_client_with_a_token_refuses_a_server_that_does_not_know_it() {
    let server = Server::start(options().env("CPROXY_TOKEN", OTHER));
    let client = Client::spawn(&server, options().env("CPROXY_TOKEN", TOKEN).tunnel("127.0.0.1:1"));
    assert_eq!(client.exit_code(), 2);
    assert_eq!(client.output(), [""; 0]);
}

#[test]
fn the_token_never_crosses_the_wire() {
    let service = Service::greeter("hi");
    let server = Server::start(options().env("CPROXY_TOKEN", TOKEN));
    let gate = Gate::before(server.ctl());
    let options = options().env("CPROXY_TOKEN", TOKEN).tunnel(service.addr()).via(gate.addr());
    let client = Client::start(&server, options);
    assert_eq!(greeting(client.public()), "hi");
    let sent = gate.recordings().concat();
    assert!(!sent.is_empty() && !sent.windows(TOKEN.len()).any(|bytes| bytes == TOKEN.as_bytes()));
}

#[test]
fn ports_outside_the_allowed_ones_are_refused_for_good() {
    let service = Service::greeter("hi");
    let (allowed, forbidden) = (free_port(), free_port());
    let server = Server::start(options().flag("allow-ports", format!("{allowed},1")));
    let client = Client::spawn(&server, options().tunnel_at(service.addr(), forbidden));
    assert_eq!(client.exit_code(), 2);
    let log = client.log();
    assert!(log.contains(&forbidden.to_string()), "the port is named: {log}");
    assert!(!log.contains("conn_not_opened"), "what ended with the session is no failure: {log}");

    let client = Client::start(&server, options().tunnel_at(service.addr(), allowed));
    assert_eq!((client.public().port(), greeting(client.public())), (allowed, "hi".to_owned()));
}

#[test]
fn a_port_picked_by_the_server_is_an_allowed_one() {
    let service = Service::greeter("hi");
    let only = free_port();
    let server = Server::start(options().flag("allow-ports", only));
    let client = Client::start(&server, options().tunnel(service.addr()));
    assert_eq!((client.public().port(), greeting(client.public())), (only, "hi".to_owned()));
}

#[test]
fn each_named_client_has_its_own_token_and_scope() {
    let service = Service::greeter("hi");
    let (office_port, lab_port) = (free_port(), free_port());
    let clients = format!(
        "[[clients]]\nname = \"office\"\ntoken = \"{TOKEN}\"\nallow_ports = [{office_port}]\n\
         [[clients]]\nname = \"lab\"\ntoken = \"{OTHER}\"\nallow_ports = [{lab_port}]\nmax_tunnels = 1\n"
    );
    let server = Server::start(options().tables(&clients));
    let client = |token: &str| options().env("CPROXY_TOKEN", token);
    let office = Client::start(&server, client(TOKEN).tunnel_at(service.addr(), office_port));
    assert_eq!(greeting(office.public()), "hi");
    let stranger = Client::spawn(&server, client(TOKEN).tunnel_at(service.addr(), lab_port));
    assert_eq!(stranger.exit_code(), 2, "another client's port");
    let lab = Client::start(&server, client(OTHER).tunnel_at(service.addr(), lab_port));
    assert_eq!(greeting(lab.public()), "hi");
}

#[test]
fn a_recorded_handshake_opens_nothing() {
    use std::io::Write;
    use tests::sockets::{connect, read_end};

    let service = Service::greeter("hi");
    let server = Server::start(options().brisk().env("CPROXY_TOKEN", TOKEN));
    let ctl = Gate::before(server.ctl());
    let options = options().brisk().env("CPROXY_TOKEN", TOKEN).tunnel(service.addr()).via(ctl.addr());
    let client = Client::start(&server, options);
    assert_eq!(greeting(client.public()), "hi");
    for recording in ctl.recordings() {
        let mut replay = connect(server.ctl());
        // The server may hang up before it has read all of it.
        let _ = replay.write_all(&recording);
        let _ = read_end(&mut replay);
    }
    assert_eq!(greeting(client.public()), "hi");
    assert_eq!(client.forwardings().len(), 1);
    assert_eq!(ctl.accepted(), 1, "the client did not have to come back");
}
