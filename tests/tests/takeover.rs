//! A second process of a client takes over from the first: no visitor is refused, no transfer is lost, and the first one
//! ends by itself when its transfers have.

use nix::sys::signal::Signal;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tests::gate::Between;
use tests::programs::{Client, Options, Program, Server, options};
use tests::services::Service;
use tests::sockets::{End, LOOPBACK, connect, finish, free_port, read_end};
use tests::visits::{Visits, ping, until_greeted, until_served};
use tests::wait::{eventually, until};

/// A client of which each process has the same identity, and waits long for its transfers.
fn process(service: &Service, port: u16) -> Options {
    options().brisk().flag("drain-timeout", 120).tunnel_at(service.addr(), port)
}

fn at(port: u16) -> SocketAddr {
    (LOOPBACK, port).into()
}

/// It was taken over, and ends when nothing is left, with exit code 0 and without having cut anything short.
#[track_caller]
fn expect_gone(old: &Program) {
    old.log_line("took over");
    assert_eq!(old.stopped().aborted, 0);
}

/// A transfer of a process that was taken over from goes on, to its end.
#[track_caller]
fn expect_served_to_its_end(mut long: TcpStream) {
    ping(&mut long, b"it goes on where it began");
    finish(&long);
    assert_eq!(read_end(&mut long), (0, End::Clean));
}

/// P-TAKE-1, P-TAKE-2, P-TAKE-3, with short visits all the time and a transfer for each process.
#[test]
fn twenty_take_over_one_after_the_other_and_nobody_notices() {
    for threads in [1, 4] {
        let service = Service::echo();
        let server = Server::start(options().brisk().threads(threads));
        let port = free_port();
        let start = || Client::start(&server, process(&service, port).threads(threads));
        let mut client = start();
        let visits = Visits::begin(at(port));
        let mut old = Vec::new();
        for _ in 0..20 {
            visits.more(20);
            let mut long = client.visit();
            ping(&mut long, b"a transfer that outlasts its client's time");
            let next = start();
            client.log_line("took over");
            old.push((std::mem::replace(&mut client, next), long));
        }
        for (process, long) in old {
            assert!(process.is_running(), "it waits for its transfer");
            expect_served_to_its_end(long);
            expect_gone(&process);
        }
        visits.more(20);
        visits.expect_none_failed();
        assert_eq!(client.stop().aborted, 0);
        assert_eq!(server.stop().aborted, 0);
    }
}

#[test]
fn one_that_has_nothing_to_wait_for_ends_at_once() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let port = free_port();
    let old = Client::start(&server, process(&service, port));
    let _new = Client::start(&server, process(&service, port));
    expect_gone(&old);
    server.log_line("session taken over");
}

/// P-TAKE-2.
#[test]
fn a_port_of_the_servers_choice_stays_the_same() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let start = || Client::start(&server, options().brisk().flag("client-id", "me").tunnel(service.addr()));
    let old = start();
    let new = start();
    assert_eq!(new.public(), old.public());
    expect_gone(&old);
}

/// P-TAKE-5.
#[test]
fn one_session_and_one_tunnel_are_enough() {
    let service = Service::echo();
    let server = Server::start(options().brisk().key("max_sessions", 1).key("max_tunnels", 1).key("idle_conns", 1));
    let port = free_port();
    let mut client = Client::start(&server, process(&service, port));
    let mut old = Vec::new();
    for _ in 0..3 {
        let mut long = client.visit();
        ping(&mut long, b"it stays");
        let next = Client::start(&server, process(&service, port));
        old.push((std::mem::replace(&mut client, next), long));
    }
    // The one before this has no place of its own; those before that would need one.
    let (last, mut long) = old.pop().expect("three");
    ping(&mut long, b"still");
    for (process, mut long) in old {
        assert_eq!(read_end(&mut long), (0, End::Reset));
        process.log_line("another client with the same identity took over");
    }
    drop(long);
    expect_gone(&last);
}

/// P-TAKE-2. No conn of the old process ever comes: whoever waits for one is served by the new process.
#[test]
fn visitors_that_wait_change_over() {
    let service = Service::echo();
    let nowhere = tests::services::Refusing::reserve();
    let server = Server::start(options().brisk().key("wait_timeout", 60));
    let port = free_port();
    let cut_off = process(&service, port).flag("client-id", "me").key("proxy_addr", format!("\"{}\"", nowhere.addr()));
    let old = Client::spawn(&server, cut_off);
    server.log_line("tunnel open");
    let mut visitors: Vec<_> = (0..20).map(|_| connect(at(port))).collect();
    until("they wait", || old.log().contains("proxy_conn not opened"));
    let _new = Client::start(&server, process(&service, port).flag("client-id", "me"));
    visitors.iter_mut().for_each(|visitor| ping(visitor, b"at last"));
    expect_gone(&old);
}

/// P-TAKE-3. The newcomer has one of two tunnels. The other one is served by the old process for as long as it may take the new
/// one to register it.
#[test]
fn what_the_newcomer_does_not_have_is_served_for_a_while_and_closed() {
    let [kept, left] = [Service::greeter("kept"), Service::greeter("left")];
    let server = Server::start(options().brisk());
    let ports = [free_port(), free_port()];
    let one = || options().brisk().flag("client-id", "me").tunnel_at(kept.addr(), ports[0]);
    let old = Client::start(&server, one().tunnel_at(left.addr(), ports[1]));
    let _new = Client::start(&server, one());
    until_greeted(at(ports[1]), |text| text == "left");
    until("it is closed", || TcpStream::connect(at(ports[1])).is_err());
    expect_gone(&old);
    until_greeted(at(ports[0]), |text| text == "kept");
}

/// P-TAKE-4. The same, but the newcomer is killed in between.
#[test]
fn what_a_newcomer_has_taken_over_is_given_back_when_it_is_killed_before_it_has_all() {
    let [one, two] = [Service::greeter("one"), Service::greeter("two")];
    let server = Server::start(options().brisk());
    let ports = [free_port(), free_port()];
    let first = || options().brisk().flag("client-id", "me").tunnel_at(one.addr(), ports[0]);
    let old = Client::start(&server, first().tunnel_at(two.addr(), ports[1]));
    for _ in 0..3 {
        let new = Client::start(&server, first());
        new.kill();
        until_greeted(at(ports[0]), |text| text == "one");
        until_greeted(at(ports[1]), |text| text == "two");
        assert!(old.is_running());
    }
    // Then somebody has both.
    let _new = Client::start(&server, first().tunnel_at(two.addr(), ports[1]));
    expect_gone(&old);
}

/// P-TAKE-4. It has no data connection, and loses its ctl_conn before it has taken everything over: its port goes back, and it
/// gets it again when it is there again.
#[test]
fn a_newcomer_that_loses_its_connection_in_between_takes_over_again() {
    let [one, two] = [Service::greeter("one"), Service::greeter("two")];
    let server = Server::start(options().brisk().key("idle_conns", 0));
    let ports = [free_port(), free_port()];
    let first = || options().brisk().flag("client-id", "me").tunnel_at(one.addr(), ports[0]);
    let old = Client::start(&server, first().tunnel_at(two.addr(), ports[1]));
    let between = Between::new(server.ctl(), server.proxy());
    let new = Client::start(&server, first().via(between.ctl.addr()));
    between.ctl.cut();
    old.log_line("not reachable");
    expect_gone(&old);
    assert!(new.is_running() && !new.log().contains("the same identity"), "it was refused");
    until_greeted(at(ports[0]), |text| text == "one");
}

#[test]
fn either_may_be_killed_at_any_time() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let port = free_port();
    for round in 0..12 {
        let old = Client::start(&server, process(&service, port));
        let new = Client::spawn(&server, process(&service, port));
        // Sooner or later within the handshake, the registration and the first conns.
        std::thread::sleep(Duration::from_millis(round * 5));
        if round % 2 == 0 {
            old.kill();
            until_served(at(port));
        } else {
            new.kill();
        }
        let last = Client::start(&server, process(&service, port));
        until_served(at(port));
        last.stop();
    }
}

/// P-TAKE-1: a client with another holder's token is another client, whatever id it shows.
#[test]
fn nobody_takes_over_with_another_holders_token() {
    let [mine, yours] = [Service::greeter("mine"), Service::greeter("yours")];
    let tables = "[[clients]]\nname = \"a\"\ntoken = \"token a\"\n[[clients]]\nname = \"b\"\ntoken = \"token b\"\n";
    let server = Server::start(options().brisk().tables(tables));
    let port = free_port();
    let with = |token: &str| options().brisk().flag("client-id", "me").env("CPROXY_TOKEN", token);
    let owner = Client::start(&server, with("token a").tunnel_at(mine.addr(), port));
    let thief = Client::spawn(&server, with("token b").tunnel_at(yours.addr(), port));
    thief.log_line("the port is in use");
    until_greeted(at(port), |text| text == "mine");
    assert!(owner.is_running() && !owner.log().contains("took over"));
}

/// It says `Drain` first: its port is closed, and its last transfer goes on.
#[test]
fn one_that_was_asked_to_stop_is_taken_over_from_at_once() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let port = free_port();
    let old = Client::start(&server, process(&service, port));
    let mut long = old.visit();
    ping(&mut long, b"before");
    old.signal(Signal::SIGTERM);
    until("it takes no visitors", || TcpStream::connect(at(port)).is_err());
    let new = Client::start(&server, process(&service, port));
    ping(&mut new.visit(), b"served by the new one");
    expect_served_to_its_end(long);
    assert_eq!(old.stopped().aborted, 0);
}

#[test]
fn a_signal_behind_the_takeover_changes_nothing() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let port = free_port();
    let old = Client::start(&server, process(&service, port));
    let mut long = old.visit();
    ping(&mut long, b"before");
    let _new = Client::start(&server, process(&service, port));
    old.log_line("took over");
    old.signal(Signal::SIGTERM);
    ping(&mut long, b"after");
    drop(long);
    expect_gone(&old);
}

#[test]
fn a_reload_in_the_middle_of_it_costs_nobody_anything() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let port = free_port();
    let file =
        |more: &str| format!("[[tunnels]]\nname = \"a\"\nlocal = \"{}\"\npublic_port = {port}\n{more}", service.addr());
    let start = |text: &str| {
        let options = options().brisk().flag("client-id", "me").flag("drain-timeout", 120);
        Client::start(&server, options.tables(text))
    };
    let mut client = start(&file(""));
    until_served(at(port));
    let visits = Visits::begin(at(port));
    for round in 0..2 {
        visits.more(20);
        let other =
            format!("{}\n[[tunnels]]\nname = \"b\"\nlocal = \"{}\"\n", file("max_connections = 900"), service.addr());
        std::fs::write(client.config_file(), other).expect("write the configuration");
        server.signal(Signal::SIGHUP);
        if round % 2 == 0 {
            client.signal(Signal::SIGHUP);
        }
        let next = Client::spawn(&server, options().brisk().flag("client-id", "me").tables(&file("")));
        client.signal(Signal::SIGHUP);
        let old = std::mem::replace(&mut client, next);
        client.output_line("Forwarding");
        expect_gone(&old);
    }
    visits.expect_none_failed();
}

/// P-TAKE-6. Two machines with one identity, and something that starts each of them again whenever it ends: after some turns one
/// of them stays for good, and the other one is told why it is refused.
#[test]
fn two_that_are_kept_alive_with_one_identity_come_to_rest() {
    let service = Service::echo();
    let server = Server::start(options().brisk());
    let port = free_port();
    let start = || Client::spawn(&server, process(&service, port).key("reconnect_max", 0.5));
    let mut client = start();
    client.output_line("Forwarding");
    let mut turns = 0;
    let refused = loop {
        let newcomer = start();
        let settled = eventually("one of the two is refused or leaves", || {
            match (client.is_running(), newcomer.log().contains("the same identity")) {
                (_, true) => Ok(true),
                (false, _) => Ok(false),
                (true, false) => Err("both are there".to_owned()),
            }
        });
        if settled {
            break newcomer;
        }
        assert_eq!(client.exit_code(), 0);
        newcomer.output_line("Forwarding");
        client = newcomer;
        turns += 1;
    };
    assert!((20..=40).contains(&turns), "{turns} took over before one stayed");
    let attempts = || refused.log().matches("the same identity").count();
    let before = attempts();
    until("it has tried again and again", || attempts() > before + 5);
    assert!(client.is_running() && refused.is_running());
    ping(&mut client.visit(), b"the one that stays");
    client.stop();
    refused.output_line("Forwarding");
    until_served(at(port));
}
