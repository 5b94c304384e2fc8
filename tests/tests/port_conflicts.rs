//! Two clients who want one public port: whoever has it keeps it, the other is told why, waits, and gets it
//! when it is free; its other tunnels work meanwhile.

use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::free_port;
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
fn the_same_client_twice_does_not_push_itself_out() {
    let (first_says, second_says) = (Service::greeter("first"), Service::greeter("second"));
    let server = Server::start(options().brisk());
    let port = free_port();
    let client =
        |service: &Service| options().brisk().flag("client-id", "one and the same").tunnel_at(service.addr(), port);
    let first = Client::start(&server, client(&first_says));
    let second = Client::spawn(&server, client(&second_says));
    // Refused while the first one answers for itself: it says why, and keeps trying.
    second.log_line("another");
    for _ in 0..20 {
        assert_eq!(greeting(first.public()), "first");
    }
    assert_eq!(first.forwardings().len(), 1, "the first one's session was never in doubt");
    assert!(second.is_running());
    first.kill();
    until_greeted((server.ctl().ip(), port).into(), |text| text == "second");
}
