//! A client that has once been connected comes back, whatever it was told meanwhile; what can only be mended by
//! somebody is said as an error. And no tunnel's refusal is another's end.

use tests::gate::Gate;
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::{connect, free_port, read_end};
use tests::visits::{greeting, ping, until_served};
use tests::wait::until;

const TOKEN: &str = "a token that nobody guesses";
const OTHER: &str = "another token, just as long";

/// Options for a server that is always found at the same two ports.
fn at_fixed_ports() -> impl Fn() -> Options {
    let (ctl, proxy) = (free_port(), free_port());
    move || options().flag("ctl-port", ctl).flag("proxy-port", proxy).in_the_clear()
}

/// How often an error line with `text` is in the log of `client`.
fn errors(client: &Client, text: &str) -> usize {
    client.log().lines().filter(|line| line.contains("\"ERROR\"") && line.contains(text)).count()
}

#[test]
fn a_wrong_token_ends_no_client_that_has_worked() {
    let service = Service::greeter("hi");
    let server_options = at_fixed_ports();
    let server = Server::start(server_options().env("CPROXY_TOKEN", TOKEN));
    let (local, port) = (service.addr(), free_port());
    let client = Client::start(&server, options().env("CPROXY_TOKEN", TOKEN).tunnel_at(local, port));
    server.kill();
    let server = Server::start(server_options().env("CPROXY_TOKEN", OTHER));
    until("it says what is wrong", || errors(&client, "--token-file") > 0);
    assert!(client.is_running());
    assert!(errors(&client, &server.ctl().to_string()) > 0, "the server is named: {}", client.log());
    server.kill();
    let _server = Server::start(server_options().env("CPROXY_TOKEN", TOKEN));
    client.forwarding_after(1, &local.to_string());
    assert_eq!(greeting(client.public()), "hi");
}

#[test]
fn ports_that_are_taken_away_end_no_client_that_has_worked() {
    let service = Service::echo();
    let server_options = at_fixed_ports();
    let server = Server::start(server_options());
    let port = free_port();
    let client = Client::start(&server, options().tunnel_at(service.addr(), port));
    server.kill();
    let server = Server::start(server_options().flag("allow-ports", free_port()));
    until("it says what is wrong", || errors(&client, "allow_ports") > 0);
    assert!(client.is_running());
    server.kill();
    let _server = Server::start(server_options());
    until_served(client.public());
}

#[test]
fn another_key_of_the_server_ends_no_client_that_has_worked() {
    let service = Service::echo();
    let (ctl, proxy) = (free_port(), free_port());
    let at_fixed_ports = || options().flag("ctl-port", ctl).flag("proxy-port", proxy);
    // Each has a state directory of its own, and so a key of its own.
    let (kept, other) = (at_fixed_ports().tls(), at_fixed_ports().tls());
    let server = Server::start(kept.clone());
    let client = Client::start(&server, options().tunnel_at(service.addr(), free_port()));
    server.kill();
    let server = Server::start(other);
    until("it says what is wrong", || errors(&client, "tls_pin") > 0);
    assert!(client.is_running());
    server.kill();
    let _server = Server::start(kept);
    until_served(client.public());
}

#[test]
fn a_transfer_survives_a_wrong_token_of_a_few_seconds() {
    let service = Service::echo();
    let clear = || options().in_the_clear();
    let server = Server::start(clear().env("CPROXY_TOKEN", TOKEN));
    let stranger = Server::start(clear().env("CPROXY_TOKEN", OTHER));
    let gate = Gate::before(server.ctl());
    let behind_gate = options().env("CPROXY_TOKEN", TOKEN).tunnel(service.addr()).via(gate.addr());
    let client = Client::start(&server, behind_gate);
    let mut visitor = client.visit();
    ping(&mut visitor, b"before");
    gate.lead_to(stranger.ctl());
    gate.cut();
    until("the stranger refuses it", || errors(&client, "--token-file") > 0);
    gate.lead_to(server.ctl());
    client.log_line("session resumed");
    ping(&mut visitor, b"after");
}

#[test]
fn one_tunnel_that_is_refused_leaves_the_others_alone() {
    let service = Service::echo();
    let (good, forbidden) = (free_port(), free_port());
    let server = Server::start(options().flag("allow-ports", format!("{good},1")).key("max_tunnels", 2));
    let tunnels = options()
        .tunnel_at(Service::echo().addr(), forbidden)
        .tunnel_at(service.addr(), good)
        .tunnel_at("127.0.0.1:1", 1)
        .tunnel_at("127.0.0.1:2", free_port());
    let client = Client::spawn(&server, tunnels);
    client.forwarding_after(0, &service.addr().to_string());
    let mut visitor = connect(client.public_of(service.addr()));
    ping(&mut visitor, b"served");
    until("the refused one is said", || errors(&client, &forbidden.to_string()) > 0);
    assert_eq!(errors(&client, &forbidden.to_string()), 1, "once: {}", client.log());
    ping(&mut visitor, b"still served");
    assert!(client.is_running());
}

#[test]
fn a_client_that_could_never_serve_a_tunnel_ends() {
    let forbidden = [free_port(), free_port()];
    let server = Server::start(options().flag("allow-ports", "1"));
    let tunnels = forbidden.iter().fold(options(), |options, &port| options.tunnel_at("127.0.0.1:1", port));
    let client = Client::spawn(&server, tunnels);
    assert_eq!(client.exit_code(), 2);
    for port in forbidden {
        assert!(client.log().contains(&port.to_string()), "each is named: {}", client.log());
    }
}

#[test]
fn a_client_that_has_worked_is_stopped_as_any_other_while_it_waits() {
    let service = Service::echo();
    let server_options = at_fixed_ports();
    let server = Server::start(server_options().env("CPROXY_TOKEN", TOKEN));
    let short = options().env("CPROXY_TOKEN", TOKEN).key("session_grace", 0.2);
    let client = Client::start(&server, short.tunnel(service.addr()));
    let mut visitor = client.visit();
    ping(&mut visitor, b"before");
    server.kill();
    let _server = Server::start(server_options().env("CPROXY_TOKEN", OTHER));
    until("it says what is wrong", || errors(&client, "--token-file") > 0);
    let _ = read_end(&mut visitor);
    client.stop();
}
