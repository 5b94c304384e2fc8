//! SIGHUP: a program goes on as its configuration file says now, and whoever it still serves notices nothing.

use nix::sys::signal::Signal;
use std::fs;
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tests::exchange::send_part;
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Options, Program, Server, directory, options};
use tests::services::Service;
use tests::sockets::{End, connect, connect_without_asking, free_port, read_each, read_end};
use tests::visits::{greeting, ping, short_visit, until_greeted};
use tests::wait::until;

const A: &str = "the token of a, long enough";
const B: &str = "the token of b, long enough";

fn tunnel(name: &str, service: &Service, port: u16) -> String {
    format!("[[tunnels]]\nname = \"{name}\"\nlocal = \"{}\"\npublic_port = {port}\n", service.addr())
}

/// A client whose file says no more than these tunnels. `locals` are waited for.
fn client(server: &Server, options: Options, tunnels: &str) -> Client {
    Client::spawn(server, options.brisk().tables(tunnels))
}

fn addr(port: u16) -> std::net::SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[track_caller]
fn until_refused(port: u16) {
    until("nobody listens any more", || TcpStream::connect(addr(port)).is_err());
}

#[test]
fn tunnels_come_go_move_and_change_while_the_others_are_served() {
    let [one, two, echo] = [Service::greeter("one"), Service::greeter("two"), Service::echo()];
    let [stays, goes, moves, comes, moved] = [(); 5].map(|()| free_port());
    let server = Server::start(options().brisk());
    let before = tunnel("stays", &echo, stays) + &tunnel("goes", &echo, goes) + &tunnel("moves", &one, moves);
    let client = client(&server, options(), &before);
    until_greeted(addr(moves), |text| text == "one");
    let mut visitors = [stays, goes].map(|port| connect(addr(port)));
    visitors.iter_mut().for_each(|visitor| ping(visitor, b"before"));

    let after = tunnel("stays", &echo, stays) + &tunnel("comes", &two, comes) + &tunnel("moves", &one, moved);
    let said = client.reload(&after);
    let expected = "1 tunnel added (\\\"comes\\\"), 1 removed (\\\"goes\\\"), 1 moved (\\\"moves\\\"); unchanged: 1";
    assert!(said.contains(expected), "{said}");
    until_greeted(addr(comes), |text| text == "two");
    until_greeted(addr(moved), |text| text == "one");
    until_refused(goes);
    until_refused(moves);
    visitors.iter_mut().for_each(|visitor| ping(visitor, b"who was there is served to the end"));
    ping(&mut connect(addr(stays)), b"and newcomers are");

    // Another service on the same port: for newcomers.
    let after = tunnel("stays", &two, stays) + &tunnel("two", &one, comes);
    let said = client.reload(&after);
    assert!(said.contains("1 tunnel removed (\\\"moves\\\"), 2 changed (\\\"stays\\\", \\\"two\\\")"), "{said}");
    until_greeted(addr(stays), |text| text == "two");
    until_greeted(addr(comes), |text| text == "one");
    visitors.iter_mut().for_each(|visitor| ping(visitor, b"still"));
    drop(visitors);
    assert_eq!(client.stop().aborted, 0);
}

#[test]
fn a_tunnel_whose_new_port_is_taken_stays_where_it_was_until_that_is_free() {
    let service = Service::greeter("hi");
    let (port, taken) = (free_port(), free_port());
    let server = Server::start(options().brisk());
    let other = Client::start(&server, options().brisk().tunnel_at(service.addr(), taken));
    let client = client(&server, options(), &tunnel("a", &service, port));
    until_greeted(addr(port), |text| text == "hi");
    let said = client.reload(&tunnel("a", &service, taken));
    assert!(said.contains("1 tunnel moved"), "{said}");
    client.log_line("not reachable: the port is in use on the server");
    assert_eq!(greeting(addr(port)), "hi");
    other.stop_by_signal();
    until_refused(port);
    until_greeted(addr(taken), |text| text == "hi");
}

/// Two tunnels change ports with each other.
#[test]
fn ports_are_swapped() {
    let [one, two] = [Service::greeter("one"), Service::greeter("two")];
    let (first, second) = (free_port(), free_port());
    let server = Server::start(options().brisk());
    let client = client(&server, options(), &(tunnel("a", &one, first) + &tunnel("b", &two, second)));
    until_greeted(addr(first), |text| text == "one");
    client.reload(&(tunnel("a", &one, second) + &tunnel("b", &two, first)));
    until_greeted(addr(first), |text| text == "two");
    until_greeted(addr(second), |text| text == "one");
}

/// P-TUN-12.
#[test]
fn a_tunnels_limits_count_from_the_reload_on() {
    let echo = Service::echo();
    let port = free_port();
    let server = Server::start(options().brisk());
    let client = client(&server, options(), &tunnel("a", &echo, port));
    client.forwarding_after(0, &echo.addr().to_string());
    let mut visitor = connect(addr(port));
    ping(&mut visitor, b"before");
    let said = client.reload(&(tunnel("a", &echo, port) + "deny_sources = [\"127.0.0.0/8\"]\n"));
    assert!(said.contains("1 tunnel changed"), "{said}");
    until("visitors are kept out", || {
        let mut newcomer = connect_without_asking(addr(port));
        // One who came before the server heard of it is echoed to the end.
        let _ = newcomer.shutdown(Shutdown::Write);
        read_end(&mut newcomer) == (0, End::Reset)
    });
    ping(&mut visitor, b"who was there stays");
    client.reload(&tunnel("a", &echo, port));
    until("visitors are let in", || served(addr(port)));
}

fn served(at: std::net::SocketAddr) -> bool {
    use std::io::{Read, Write};
    let mut stream = connect_without_asking(at);
    let mut echo = [0; 1];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut echo).is_ok()
}

#[test]
fn a_file_with_an_error_changes_nothing() {
    let service = Service::greeter("hi");
    let port = free_port();
    let server = Server::start(options().brisk().key("idle_conns", 1));
    let good = tunnel("a", &service, port);
    let client = client(&server, options(), &good);
    until_greeted(addr(port), |text| text == "hi");
    let file = client.config_file();
    let twice = good.clone() + &good;
    let bad = [
        (good.clone() + "loca = 1\n", ":5: unknown key `loca`"),
        (twice, "is there twice"),
        ("not toml".into(), ":1: not valid TOML"),
        (String::new(), "this file is empty"),
        ("\n".into(), "no tunnel, so nothing to expose"),
    ];
    for (text, problem) in bad {
        let said = client.reload(&text);
        assert!(said.contains("not reloaded, and nothing is changed: ") && said.contains(problem), "{said}");
        assert!(said.contains(file.to_str().expect("a path in UTF-8")), "{said}");
    }
    fs::remove_file(&file).expect("remove the file");
    assert!(client.hang_up().contains("cannot read this configuration file: No such file"));
    fs::create_dir(&file).expect("a directory in its place");
    assert!(client.hang_up().contains("this is a directory"));
    fs::remove_dir(&file).expect("remove it");
    assert_eq!(greeting(addr(port)), "hi");
    assert!(client.reload(&good).contains("reloaded "), "and then it is put right");
    let said = server.reload("idle_conns = 1\nallow_ports = [\"9-8\"]\n");
    assert!(said.contains(":2: `allow_ports`: \\\"9-8\\\""), "{said}");
    assert_eq!(greeting(addr(port)), "hi");
    assert_eq!((client.forwardings().len(), client.stop().aborted), (1, 0));
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let service = Service::greeter("hi");
    let server = Server::start(options());
    let client = Client::start(&server, options().tunnel(service.addr()));
    for program in [&*server, &*client] {
        assert!(program.hang_up().contains("there is no configuration file (--config FILE) to read again"));
    }
    assert_eq!(greeting(client.public()), "hi");
}

#[test]
fn what_only_a_restart_changes_is_named_and_the_rest_is_applied() {
    let service = Service::greeter("hi");
    let server = Server::start(options().key("idle_conns", 1));
    let said = server.reload("idle_conns = 2\nctl_port = 1\nwork_thread_nums = 3\n");
    assert!(said.contains("settings changed: idle_conns"), "{said}");
    server.log_line("`work_thread_nums` counts from the next start on");
    assert!(!server.log().contains("`ctl_port` counts"), "a flag beats the file, then and now");
    let port = free_port();
    let client = client(&server, options(), &tunnel("a", &service, port));
    until_greeted(addr(port), |text| text == "hi");
    let said = client.reload(&format!("client_id = \"x\"\nmax_proxy_conns = 9\n{}", tunnel("a", &service, port)));
    assert!(said.contains("settings changed: max_proxy_conns"), "{said}");
    client.log_line("`client_id` counts from the next start on");
    assert_eq!(greeting(addr(port)), "hi");
}

#[test]
fn a_hundred_signals_in_a_second_are_a_few_reloads_and_do_no_harm() {
    let service = Service::greeter("hi");
    let port = free_port();
    let server = Server::start(options().key("idle_conns", 1));
    let client = client(&server, options(), &tunnel("a", &service, port));
    until_greeted(addr(port), |text| text == "hi");
    for _ in 0..100 {
        for program in [&*server, &*client] {
            program.signal(Signal::SIGHUP);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for program in [&*server, &*client] {
        program.hang_up();
    }
    assert_eq!(greeting(addr(port)), "hi");
    assert_eq!((client.stop().aborted, client.forwardings().len()), (0, 1));
}

#[test]
fn a_program_that_stops_reloads_nothing() {
    let echo = Service::echo();
    let server = Server::start(options().key("drain_timeout", 60));
    let client = client(&server, options().key("drain_timeout", 60), &tunnel("a", &echo, 0));
    client.forwarding_after(0, &echo.addr().to_string());
    let mut visitor = client_visit(&client, &echo);
    ping(&mut visitor, b"before");
    for program in [&*client, &*server] {
        program.signal(Signal::SIGTERM);
        program.log_line("stopping; a second signal");
        assert!(program.hang_up().contains("not reloaded, and nothing is changed: the program is stopping"));
        ping(&mut visitor, b"it is served to the end");
    }
    drop(visitor);
    assert_eq!(client.stopped().aborted, 0);
}

fn client_visit(client: &Client, service: &Service) -> TcpStream {
    connect(client.public_of(service.addr()))
}

fn credential(name: &str, token: &str, more: &str) -> String {
    format!("[[clients]]\nname = \"{name}\"\ntoken = \"{token}\"\n{more}")
}

/// P-AUTH-16.
#[test]
fn a_client_whose_token_is_taken_away_is_cut_off_and_nobody_else() {
    let echo = Service::echo();
    let server = Server::start(options().brisk().tables(&(credential("a", A, "") + &credential("b", B, ""))));
    let clients =
        [A, B].map(|token| Client::start(&server, options().brisk().env("CPROXY_TOKEN", token).tunnel(echo.addr())));
    let [mut a, mut b] = [0, 1].map(|nth| clients[nth].visit());
    for visitor in [&mut a, &mut b] {
        ping(visitor, b"before");
    }
    let said = server.reload(&credential("b", B, ""));
    assert!(said.contains("1 client removed (\\\"a\\\"); unchanged: 1; sessions ended: 1"), "{said}");
    assert_eq!(read_end(&mut a).1, End::Reset);
    clients[0].log_line("the token is wrong");
    ping(&mut b, b"undisturbed");
    ping(&mut clients[1].visit(), b"and newcomers");
    // It is let in again: a reload of the client tries at once.
    server.reload(&(credential("b", B, "") + &credential("a", A, "")));
    until("it is back", || clients[0].forwardings().len() == 2);
    assert_eq!(clients[1].forwardings().len(), 1);
}

/// P-AUTH-16, P-RES-9: whoever has proved the new token meanwhile stays.
#[test]
fn a_token_is_changed_on_both_sides_and_nobody_is_cut_off() {
    let echo = Service::echo();
    let port = free_port();
    let server = Server::start(options().brisk().tables(&credential("a", A, "")));
    let said = |token| format!("token = \"{token}\"\n{}", tunnel("t", &echo, port));
    let client = client(&server, options().key("token", format!("\"{A}\"")), &tunnel("t", &echo, port));
    client.forwarding_after(0, &echo.addr().to_string());
    let mut visitor = connect(addr(port));
    ping(&mut visitor, b"before");
    let files = tempfile::TempDir::new().expect("a directory");
    for (name, token) in [("a", A), ("b", B)] {
        fs::write(files.path().join(name), token).expect("write a token");
    }
    let both = files.path().display();
    server.reload(&format!("[[clients]]\nname = \"a\"\ntoken_files = [\"{both}/a\", \"{both}/b\"]\n"));
    client.reload(&said(B));
    server.log_line("session resumed");
    let last = server.reload(&credential("a", B, ""));
    assert!(!last.contains("sessions ended"), "{last}");
    ping(&mut visitor, b"after");
    ping(&mut connect(addr(port)), b"after");
    assert_eq!(client.forwardings().len(), 1);
    // And one that proves the old token only is out.
    server.reload(&credential("a", A, ""));
    assert_eq!(read_end(&mut visitor).1, End::Reset);
}

/// P-TUN-13.
#[test]
fn a_client_whose_scope_shrinks_loses_what_it_may_not_have_and_nothing_else() {
    let echo = Service::echo();
    let ports = [(); 3].map(|()| free_port());
    let server = Server::start(options().brisk().tables(&credential("a", A, "")));
    let [first, second, third] = ports;
    let tunnels = tunnel("first", &echo, first) + &tunnel("second", &echo, second) + &tunnel("third", &echo, third);
    let client = client(&server, options().env("CPROXY_TOKEN", A), &tunnels);
    until("all are there", || client.forwardings().len() == 3);
    let mut visitors = ports.map(|port| connect(addr(port)));
    visitors.iter_mut().for_each(|visitor| ping(visitor, b"before"));
    let said = server.reload(&credential("a", A, &format!("allow_ports = [{first}, {second}]\n")));
    assert!(said.contains("1 client changed (\\\"a\\\"); unchanged: 0; tunnels closed: 1"), "{said}");
    until_refused(third);
    client.log_line("not reachable: the server does not allow this port");
    let said = server.reload(&credential("a", A, "max_tunnels = 1\n"));
    assert!(said.contains("tunnels closed: 1"), "{said}");
    until_refused(second);
    client.log_line("not reachable: the clients with this token have as many tunnels");
    visitors.iter_mut().for_each(|visitor| ping(visitor, b"who was there stays"));
    ping(&mut connect(addr(first)), b"what it may have stays");
    server.reload(&credential("a", A, ""));
    // It asks again after a long pause, or when it is told that something has changed.
    client.hang_up();
    for port in ports {
        until("it listens", || TcpStream::connect(addr(port)).is_ok());
    }
    visitors.iter_mut().for_each(|visitor| ping(visitor, b"to the end"));
}

#[test]
fn the_log_level_is_reloaded() {
    let files = tempfile::TempDir::new().expect("a directory");
    let path = files.path().join("server.toml");
    let write = |level| fs::write(&path, format!("log_level = \"{level}\"\n")).expect("write it");
    write("error");
    let config = path.to_str().expect("a path in UTF-8");
    let words = ["--bind-addr=127.0.0.1", "--ctl-port=0", "--proxy-port=0", "--config", config];
    let server = Server::listening(Program::with_words("cproxy-server", &words));
    write("error\"\nbad = \"");
    assert!(server.hang_up().contains(":2: unknown key `bad`"), "an error is shown at each level");
    assert!(!server.log().contains("INFO"), "and nothing else");
    write("info");
    assert!(server.hang_up().contains("clients unchanged: 0; settings changed: log_level"), "which is no error");
}

#[test]
fn the_command_says_what_was_changed_or_why_nothing_was() {
    let files = tempfile::TempDir::new().expect("a directory");
    let folder = files.path().to_str().expect("a path in UTF-8");
    let server = Server::start(options().key("idle_conns", 1).env("RUNTIME_DIRECTORY", folder));
    server.log_line("admin socket");
    let reload = || {
        let command = directory().join("cproxy-server");
        let output = Command::new(command).arg("reload").env("RUNTIME_DIRECTORY", folder).output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).expect("text"))
    };
    let write = |text: &str| fs::write(server.config_file(), text).expect("write it");
    write("idle_conns = 2\n");
    let (code, said) = reload();
    assert!(code == Some(0) && said.contains("clients unchanged: 0; settings changed: idle_conns"), "{said}");
    write("idle_conns = 2\nidle_cons = 3\n");
    let (code, said) = reload();
    assert!(code == Some(1) && said.contains(":2: unknown key `idle_cons`"), "{said}");
    server.log_line("not reloaded, and nothing is changed");
}

/// A client goes over to a server under another name, and its session goes on.
#[test]
fn a_server_under_another_name_resumes_the_session() {
    let echo = Service::echo();
    let port = free_port();
    let server = Server::start(options().brisk());
    let ctl = server.ctl().port();
    let tunnels = tunnel("t", &echo, port);
    let file = |host: &str| format!("server = \"{host}:{ctl}\"\n{tunnels}");
    let files = tempfile::TempDir::new().expect("a directory");
    let path = files.path().join("client.toml");
    fs::write(&path, file("127.0.0.1")).expect("write it");
    let client = Program::with_words("cproxy-client", &["--config", path.to_str().expect("a path in UTF-8")]);
    client.output_line("Forwarding tcp://127.0.0.1:");
    let mut visitor = connect(addr(port));
    ping(&mut visitor, b"before");
    fs::write(&path, file("localhost")).expect("write it");
    assert!(client.hang_up().contains("settings changed: server"));
    server.log_line("session resumed");
    ping(&mut visitor, b"after");
    ping(&mut connect(addr(port)), b"after");
}

/// Whom a client trusts counts for its next connection, and nothing that it has is cut.
#[test]
fn a_server_with_another_key_is_trusted_once_the_file_says_so() {
    let echo = Service::echo();
    let [ctl, proxy, port] = [(); 3].map(|()| free_port());
    // Each has a state directory of its own, and so a key of its own.
    let [first, second] = [(); 2].map(|()| options().brisk().tls().flag("ctl-port", ctl).flag("proxy-port", proxy));
    let pin_of = |options: &Options| Server::start(options.clone()).pin().to_owned();
    let tunnels = tunnel("t", &echo, port);
    let files = tempfile::TempDir::new().expect("a directory");
    let path = files.path().join("client.toml");
    let trust = |pin: &str| {
        let text = format!("server = \"127.0.0.1:{ctl}\"\ntls_pin = \"{pin}\"\n{tunnels}");
        fs::write(&path, text).expect("write it");
    };
    trust(&pin_of(&first));
    let new = pin_of(&second);
    let server = Server::start(first);
    let client = Program::with_words("cproxy-client", &["--config", path.to_str().expect("a path in UTF-8")]);
    client.output_line("Forwarding tcp://127.0.0.1:");
    let mut visitor = connect(addr(port));
    ping(&mut visitor, b"before");
    trust(&new);
    let said = client.hang_up();
    assert!(said.contains("settings changed: tls_pin"), "{said}");
    ping(&mut visitor, b"after");
    server.kill();
    let _server = Server::start(second);
    until("the other server is trusted", || TcpStream::connect(addr(port)).is_ok() && served(addr(port)));
}

/// P-LIVE-3: the server is told with a resume, and nobody is cut off.
#[test]
fn a_client_becomes_frugal_and_its_session_goes_on() {
    let echo = Service::echo();
    let port = free_port();
    let server = Server::start(options());
    let client = client(&server, options(), &tunnel("t", &echo, port));
    client.forwarding_after(0, &echo.addr().to_string());
    let mut visitor = connect(addr(port));
    ping(&mut visitor, b"before");
    let said = client.reload(&format!("frugal = true\n{}", tunnel("t", &echo, port)));
    assert!(said.contains("settings changed: frugal"), "{said}");
    server.log_line("session resumed");
    ping(&mut visitor, b"after");
    ping(&mut connect(addr(port)), b"after");
}

/// Short visits all the time, and long transfers, while both sides are reloaded again and again: nobody notices.
#[test]
fn nobody_notices_a_reload_under_load() {
    const ROUNDS: u16 = 20;
    const LONG: u64 = 24 << 20;
    let (echo, extra) = (Service::echo(), Service::greeter("extra"));
    let slow = Service::start(|mut stream| {
        let mut from = 0;
        while from < LONG && send_part(&mut stream, Flow::down(1), from, from + LONG / 96).is_ok() {
            from += LONG / 96;
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let [short, long, other] = [(); 3].map(|()| free_port());
    let server = Server::start(options().tables(&credential("a", A, "")));
    let kept = tunnel("short", &echo, short) + &tunnel("long", &slow, long);
    let client = client(&server, options().env("CPROXY_TOKEN", A), &kept);
    until("both are there", || client.forwardings().len() == 2);
    let (over, visits) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let long_ones: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(move || {
                    let mut arrival = Arrival::of(Flow::down(1));
                    let mut visitor = connect(addr(long));
                    let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
                    assert_eq!((end, arrival.end(LONG)), (End::Clean, Ok(())));
                })
            })
            .collect();
        let short_ones: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        short_visit(addr(short), 7);
                        visits.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(15));
                    }
                })
            })
            .collect();
        for round in 0..ROUNDS {
            let more = if round % 2 == 0 { tunnel("other", &extra, other) } else { String::new() };
            let said = client.reload(&format!("max_proxy_conns = {}\n{kept}{more}", 1000 + round));
            assert!(said.contains("unchanged: 2"), "{said}");
            let more = format!("max_connections = {}\n{}", 5000 + round, credential("b", B, ""));
            let said = server.reload(&credential("a", A, &more));
            assert!(said.contains("reloaded ") && !said.contains("ended"), "{said}");
            std::thread::sleep(Duration::from_millis(80));
        }
        let long_ones: Vec<_> = long_ones.into_iter().map(|visitor| visitor.join()).collect();
        over.store(true, Ordering::Relaxed);
        assert!(long_ones.iter().all(Result::is_ok), "a transfer that nobody cuts");
        for visitor in short_ones {
            visitor.join().expect("a visit that nobody refuses");
        }
    });
    println!("{} short visits, 6 long ones, {ROUNDS} reloads of each side", visits.load(Ordering::Relaxed));
    assert!(visits.load(Ordering::Relaxed) > 50, "there was a load");
    assert_eq!(client.stop().aborted, 0);
    assert_eq!(server.stop().aborted, 0);
}
