//! Programs whose standard error, or standard output, is a full pipe that nobody reads: a logging driver that hangs, a
//! terminal after Ctrl-S. Traffic does not wait for it, nor does the end of the program.

use nix::sys::signal::Signal;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{connect, free_port};
use tests::visits::{ping, short_visit, until_served};

#[test]
fn a_server_whose_log_nobody_reads_takes_clients_and_visitors_and_stops() {
    let service = Service::echo();
    let server = Server::start(options().brisk().unread_stderr().flag("log-level", "trace"));
    for _ in 0..2 {
        let client = Client::start(&server, options().brisk().tunnel(service.addr()));
        for number in 0..20 {
            short_visit(client.public(), number);
        }
        client.stop_by_signal();
    }
    server.stop_by_signal();
}

#[test]
fn a_client_whose_log_and_output_nobody_reads_serves_visitors_and_stops() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let port = free_port();
    let unread = options().brisk().unread_stderr().unread_stdout().flag("log-level", "trace");
    let client = Client::spawn(&server, unread.tunnel_at(service.addr(), port));
    let public = (server.ctl().ip(), port).into();
    until_served(public);
    for number in 0..20 {
        short_visit(public, number);
    }
    client.stop_by_signal();
}

#[test]
fn a_second_signal_ends_a_program_whose_log_nobody_reads() {
    let service = Service::echo();
    let server = Server::start(options().brisk().unread_stderr().key("drain_timeout", 300));
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    let mut visitor = client.visit();
    ping(&mut visitor, b"a transfer that the drain waits for");
    server.signal(Signal::SIGTERM);
    tests::wait::until("it takes no visitors any more", || std::net::TcpStream::connect(client.public()).is_err());
    tests::wait::until("it ends", || {
        if server.is_running() {
            // Signals at short intervals may count as one.
            server.signal(Signal::SIGTERM);
            std::thread::sleep(std::time::Duration::from_millis(1500));
        }
        !server.is_running()
    });
    assert_eq!(server.exit_code(), 1);
}

#[test]
fn a_log_that_is_read_again_goes_on() {
    let service = Service::echo();
    let server = Server::start(options().brisk().unread_stderr());
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    ping(&mut connect(client.public()), b"served");
    server.read_stderr();
    server.log_line("tunnel_open");
    client.stop_by_signal();
    server.log_line("session over");
}
