//! System calls that the system lacks or forbids: an old kernel, gVisor, a container's seccomp profile.

use std::process::{Command, Stdio};
use tests::exchange::{Exchange, Exchanges};
use tests::programs::{Client, Options, Server, options};

const MIB: u64 = 1 << 20;

/// Whether strace(1) can stand for such a system here.
fn can_refuse() -> bool {
    let mut traced = Command::new("strace");
    traced.args(["-D", "--seccomp-bpf", "-f", "-qqq", "-o", "/dev/null", "true"]).stderr(Stdio::null());
    let can = traced.status().is_ok_and(|status| status.success());
    if !can {
        println!("SKIPPED: strace is not there, or may not trace");
    }
    can
}

/// Bulk data both ways, through a server and a client that may lack calls.
fn exchange(server: Options, client: Options) -> (Server, Client) {
    let service = Exchanges::start();
    // These calls are made by the programs' own way of moving payload, whichever way the other tests run in.
    let hybrid = |options: Options| options.env("CPROXY_TEST_RELAY", "hybrid").threads(1);
    let server = Server::start(hybrid(server));
    let client = Client::start(&server, hybrid(client).tunnel(service.addr()));
    for number in 0..2 {
        Exchange::new(number).up(6 * MIB).down(6 * MIB).run(client.public());
    }
    service.expect(2);
    (server, client)
}

#[test]
fn without_splice_bulk_data_is_copied_and_that_is_said_once() {
    if !can_refuse() {
        return;
    }
    // At the first call nothing is in the pipe. Those in between find it full as well as empty.
    for how in ["error=EPERM", "error=ENOSYS", "error=EINVAL:when=2+", "error=EPERM:when=7+", "error=ENOSYS:when=10+"] {
        let refused = || options().refused(&format!("splice:{how}"));
        for (server, client) in [(refused(), options()), (options(), refused())] {
            let (server, client) = exchange(server, client);
            let logs = server.log() + &client.log();
            assert_eq!(logs.matches("refuses splice(2)").count(), 1, "{how}: {logs}");
            let total = (server.stop(), client.stop());
            assert_eq!((total.0.aborted, total.1.aborted), (0, 0));
        }
    }
}

#[test]
fn without_pipes_bulk_data_is_copied_and_that_is_said_once() {
    if !can_refuse() {
        return;
    }
    let (server, client) = exchange(options().refused("pipe2:error=EMFILE"), options());
    let (log, total) = (server.log(), (server.stop(), client.stop()));
    assert_eq!(log.matches("no new pipe is to be had").count(), 1, "{log}");
    assert_eq!((total.0.aborted, total.1.aborted), (0, 0));
}

#[test]
fn without_splice_encrypted_bulk_data_passes_too() {
    if can_refuse() {
        let refused = |options: Options| options.refused("splice:error=EPERM");
        let (server, client) = exchange(refused(options()).tls(), refused(options()));
        assert_eq!((server.stop().aborted, client.stop().aborted), (0, 0));
    }
}

#[test]
fn a_program_that_lacks_a_call_it_needs_names_it_and_ends() {
    if !can_refuse() {
        return;
    }
    let server = Server::start(options());
    for (call, error) in [("accept4", "EPERM"), ("getrandom", "ENOSYS"), ("sendto", "EACCES")] {
        let refused = || options().refused(&format!("{call}:error={error}"));
        let client = Client::spawn(&server, refused().tunnel("127.0.0.1:1"));
        for program in [&Server::spawn(refused()), &*client] {
            program.log_line(&format!("this system refuses {call}(2)"));
            assert_eq!(program.exit_code(), 1, "{call}");
        }
    }
}
