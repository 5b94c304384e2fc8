//! Two clients who want one public port: whoever has it keeps it, the other is told why, waits, and gets it
//! when it is free; its other tunnels work meanwhile.

use std::net::{TcpListener, TcpStream};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{LOOPBACK, free_port};
use tests::visits::{greeting, until_greeted};

#[test]
fn the_second_client_waits_until_the_first_has_gone() {
    let (first_says, second_says) = (Service::greeter("first"), Service::greeter("second"));
    let other = Service::greeter("other");
    let server = Server::start(options().brisk());
    let port = free_port();
    let client = |id: &str| options().brisk().flag("client-id", id);
    let first = Client::start(&server, client("first").tunnel_at(first_says.addr(), port));
    let tunnels = client("second").tunnel_at(second_says.addr(), port).tunnel(other.addr());
    let second = Client::spawn(&server, tunnels);
    assert_eq!(greeting(second.public_of(other.addr())), "other");
    let line = second.log_line("in use");
    assert!(line.contains(&port.to_string()), "the port is named: {line}");
    for _ in 0..20 {
        assert_eq!(greeting(first.public()), "first");
    }
    first.stop();
    until_greeted((server.ctl().ip(), port).into(), |text| text == "second");
    assert_eq!(second.public().port(), port, "and it says so");
}

#[test]
fn the_servers_log_says_what_holds_a_port() {
    let service = Service::greeter("hi");
    let server = Server::start(options().brisk());
    let listener = TcpListener::bind((LOOPBACK, 0)).expect("a port");
    let listened = listener.local_addr().expect("bound").port();
    // A connection of another program, which the server must not take for a listener.
    let connection = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let connected = connection.local_addr().expect("connected").port();
    let _client = Client::spawn(
        &server,
        options().brisk().tunnel_at(service.addr(), listened).tunnel_at(service.addr(), connected),
    );
    server.log_line(&format!("port {listened}: a program or another tunnel listens on it"));
    server.log_line(&format!("port {connected}: a connection of this machine uses it"));
}

#[test]
fn a_tunnel_that_leads_to_itself_is_named() {
    let server = Server::start(options());
    let port = free_port();
    let client = Client::start(&server, options().tunnel_at(format!("127.0.0.1:{port}"), port));
    client.log_line("its `local` is its own public port");
}

#[test]
fn both_programs_say_when_browsers_refuse_a_port() {
    let service = Service::greeter("hi");
    // An address of its own: nobody else listens on this port there.
    let [.., high, low] = std::process::id().to_be_bytes();
    let server = Server::start(options().flag("bind-addr", format!("127.66.{high}.{low}")));
    let client = Client::start(&server, options().tunnel_at(service.addr(), 6000));
    assert_eq!(client.public().port(), 6000);
    for program in [&*server, &*client] {
        program.log_line("browsers refuse to open a web page on this port");
    }
}
