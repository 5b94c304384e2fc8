//! What the deployed programs may do, and what not: they need no privilege, and gain none.

use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::visits::short_visit;
use tests::wait::until;

#[test]
fn both_programs_renounce_new_privileges() {
    let service = Service::echo();
    let server = Server::start(options());
    let client = Client::start(&server, options().tunnel(service.addr()));
    // Their work has begun by now.
    for process in [server.process(), client.process()] {
        assert!(process.no_new_privileges());
    }
}

#[test]
fn no_privilege_is_needed() {
    let service = Service::echo();
    let server = Server::start(options().without_privileges());
    let client = Client::start(&server, options().without_privileges().tunnel(service.addr()));
    for process in [server.process(), client.process()] {
        until("it has no capability", || process.capabilities() == 0);
    }
    for number in 0..20 {
        short_visit(client.public(), number);
    }
    client.stop();
    assert_eq!(server.stop().finished, 20);
}
