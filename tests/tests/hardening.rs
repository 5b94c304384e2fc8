//! What the deployed programs may do, and what not: they need no privilege, and gain none.

use std::process::{Command, Stdio};
use tests::process::Process;
use tests::programs::{Client, Options, Server, options};
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

/// Whether another process of the same user, without privileges, can see the environment of a server with these options.
fn environment_is_seen(server: Options) -> bool {
    let root = Process::this().user() == 0;
    let server = Server::start(if root { server.without_privileges() } else { server });
    let path = format!("/proc/{}/environ", server.pid());
    let words = if root { vec!["setpriv", "--bounding-set=-all", "--inh-caps=-all", "cat"] } else { vec!["cat"] };
    let output = Command::new(words[0]).args(&words[1..]).arg(path).stderr(Stdio::null()).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).contains("CPROXY_TOKEN")
}

#[test]
fn others_of_the_same_user_do_not_see_the_token() {
    let with_token = || options().env("CPROXY_TOKEN", "a token in the environment");
    assert!(environment_is_seen(with_token().env("CPROXY_TEST_DUMPABLE", "1")), "this is how it would be seen");
    assert!(!environment_is_seen(with_token().env("CPROXY_TEST_DUMPABLE", "0")));
}
