//! `doctor`: what is in order is `ok`, what is not is named with the way out, and nobody is disturbed.

use crate::program::{Ended, Files, Program, client, local_server, run, server};
use nix::sys::signal::Signal::{self, SIGTERM};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread;

/// What comes behind `word` in a server's line on standard output.
fn behind(line: &str, word: &str) -> String {
    line.split(' ').skip_while(|&w| w != word).nth(1).unwrap().to_owned()
}

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    (listener, at)
}

/// A port of this machine at which nobody listens, for as long as the first value lives.
fn closed() -> (OwnedFd, String) {
    let held = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(held.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let at = getsockname::<SockaddrIn>(held.as_raw_fd()).unwrap().to_string();
    (held, at)
}

/// The lines of one state about one thing.
#[track_caller]
fn says<'e>(ended: &'e Ended, state: &str, check: &str) -> &'e str {
    let start = format!("{state:8}{check}");
    ended.out.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no `{start}` in\n{}", ended.out))
}

#[track_caller]
fn fails(command: std::process::Command, check: &str, parts: &[&str]) {
    let ended = run(command);
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), ""), "{}", ended.out);
    let line = says(&ended, "FAILED", check);
    for part in parts {
        assert!(line.contains(part), "`{part}` is missing: {line}");
    }
}

#[test]
fn a_way_that_is_open_is_ok_at_each_step() {
    let files = Files::new(&[("token", "the right token")]);
    let (_service, local) = listener();
    let mut command = local_server(&format!("--tls --token-file {}", files.path("token")));
    command.env("STATE_DIRECTORY", files.path("."));
    let mut server = Program::start(command);
    let ctl = behind(&server.says("Listening ctl "), "ctl");
    let pin = server.says("tls_pin").split('"').nth(1).unwrap().to_owned();
    let ended = run(client(&format!(
        "doctor {local} --cproxy_server {ctl} --token_file {} --tls_pin {pin}",
        files.path("token")
    )));
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
    for check in
        ["configuration", "clock", "descriptors", "server name", "server ", "tls", "token", "mtu", "proxy port"]
    {
        says(&ended, "ok", check);
    }
    assert!(says(&ended, "ok", "service").contains(&format!("{local} answers")));
    assert!(says(&ended, "ok", "public port").contains("a port of the server's choice: it can be had"));

    // The same for a program.
    let ended =
        run(client(&format!("doctor --json {local} --cproxy-server {ctl} --token-file {}", files.path("token"))));
    let all: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((ended.code, &all["well"], &all["program"]), (Some(1), &false.into(), &"cproxy-client".into()), "{all}");
    let failed: Vec<_> =
        all["findings"].as_array().unwrap().iter().filter(|finding| finding["state"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{all}");
    assert!(failed[0]["says"].as_str().unwrap().contains("the server takes TLS only"), "{all}");
}

/// P-PATH-2, P-EXAM-1: it is tried, where both files allow it, also beside a client that has it; and if it does not get
/// through, that is only a warning.
#[test]
fn the_way_by_udp_is_tried() {
    let files =
        Files::new(&[("auto.toml", "datagram_transport = \"auto\""), ("tcp.toml", "datagram_transport = \"tcp\"")]);
    let service = UdpSocket::bind("127.0.0.1:0").unwrap();
    let local = format!("--local-server {} --protocol udp", service.local_addr().unwrap());
    let with = |file: &str| format!("--config {}", files.path(file));
    let doctor = |ctl: &str, file: &str| run(client(&format!("doctor {local} --cproxy-server {ctl} {}", with(file))));
    let mut server = Program::start(local_server(&with("auto.toml")));
    let ctl = behind(&server.says("Listening ctl "), "ctl");
    let ended = doctor(&ctl, "auto.toml");
    let size = behind(says(&ended, "ok", "UDP path"), "to").parse::<u32>().unwrap();
    assert!(ended.code == Some(0) && size > 1_100, "{}", ended.out);
    assert!(!doctor(&ctl, "tcp.toml").out.contains("UDP path"), "it is not wanted");

    let mut server = Program::start(local_server(&with("tcp.toml")));
    let ctl = behind(&server.says("Listening ctl "), "ctl");
    let ended = doctor(&ctl, "auto.toml");
    assert!(says(&ended, "note", "UDP path").contains("the server offers no way by UDP"));
    assert_eq!(ended.code, Some(0), "{}", ended.out);
}

/// P-REPL-2, P-REPL-6, P-EXAM-2.
#[test]
fn a_client_that_runs_with_the_same_flags_keeps_its_session_its_port_and_its_visitors() {
    let (service, local) = listener();
    let mut server = Program::start(local_server("--log-level debug"));
    let ctl = behind(&server.says("Listening ctl "), "ctl");
    let flags = format!("{local} --cproxy-server {ctl} --client-id home");
    let mut runs = Program::start(client(&flags));
    let line = runs.says("Forwarding tcp://");
    let public = line.strip_prefix("Forwarding tcp://").unwrap().split(' ').next().unwrap().to_owned();
    let port = public.rsplit_once(':').unwrap().1;
    server.logs("session began");
    let mut visitor = TcpStream::connect(&public).unwrap();
    visitor.write_all(b"before").unwrap();
    let (mut served, _) = service.accept().unwrap();

    let ended = run(client(&format!("doctor {flags} --public-port {port}")));
    assert_eq!(ended.code, Some(0), "{}", ended.out);
    // Whether it is told apart from others of the token depends on what else runs here, and who may ask it.
    let line = ended.out.lines().find(|line| line.contains(&format!("port {port}: "))).expect("a line");
    assert!(line.contains("has it"), "{line}");
    // The doctor's dial of the service, which says nothing.
    assert_eq!(service.accept().unwrap().0.read(&mut [0]).unwrap(), 0);

    visitor.write_all(b" and behind").unwrap();
    let mut read = [0; 17];
    served.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"before and behind");
    let mut another = TcpStream::connect(&public).unwrap();
    another.write_all(b"x").unwrap();
    service.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    for program in [runs, server] {
        program.signal(SIGTERM);
        drop((visitor.shutdown(std::net::Shutdown::Both), another.shutdown(std::net::Shutdown::Both)));
        let ended = program.end();
        for disturbed in ["trying again", "taken over", "replaced", "lost"] {
            assert!(!ended.err.contains(disturbed), "{disturbed}: {}", ended.err);
        }
    }
}

#[test]
fn whatever_is_no_cproxy_is_told_from_one_that_is_away() {
    let (_service, local) = listener();
    let files = Files::new(&[("brisk.toml", "handshake_timeout = 1\ndial_timeout = 1")]);
    let brisk = format!("--config {} {local}", files.path("brisk.toml"));

    let (web, at) = listener();
    thread::spawn(move || {
        for visit in web.incoming() {
            let mut visit = visit.unwrap();
            let _said = visit.read(&mut [0; 512]);
            let _gone = visit.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    fails(client(&format!("doctor {brisk} --cproxy-server {at}")), "server", &[&at, "is no cproxy-server's ctl port"]);

    let (_silent, at) = listener();
    fails(client(&format!("doctor {brisk} --cproxy-server {at}")), "server", &[&at, "does not answer", "check that"]);

    let (_held, at) = closed();
    fails(
        client(&format!("doctor {brisk} --cproxy-server {at}")),
        "server",
        &[&at, "refused", "check that cproxy-server"],
    );

    let name = "no-such-host.invalid:8080";
    fails(client(&format!("doctor {brisk} --cproxy-server {name}")), "server name", &[name, "does not resolve", "DNS"]);
    let proxied = format!("doctor {brisk} --cproxy-server a.example --outbound-proxy http://no-such-host.invalid:1");
    fails(client(&proxied), "proxy name", &["no-such-host.invalid:1", "`outbound_proxy`"]);

    let no_port = run(client(&format!("doctor {local} --cproxy-server example.com:99999")));
    assert_eq!(no_port.code, Some(2), "{}", no_port.out);
    assert!(no_port.err.contains("its port `99999` is not a number from 1 to 65535"), "{}", no_port.err);
}

#[test]
fn a_wrong_token_a_wrong_pin_and_a_closed_proxy_port_are_named() {
    let (_service, local) = listener();
    let (_held, away) = closed();
    let files = Files::new(&[
        ("right", "the right token"),
        ("wrong", "the wrong token"),
        ("away.toml", &format!("proxy_port = {}\ntoken_file = \"right\"", away.rsplit_once(':').unwrap().1)),
    ]);
    let right = format!("--token-file {}", files.path("right"));
    let mut server = Program::start(local_server(&right));
    let ctl = behind(&server.says("Listening ctl "), "ctl");
    let wrong = format!("doctor {local} --cproxy-server {ctl} --token-file {}", files.path("wrong"));
    fails(client(&wrong), "server", &[&ctl, "the token is wrong", "--token-file"]);
    let mut none = client(&format!("doctor {local} --cproxy-server {ctl}"));
    none.env("XDG_STATE_HOME", files.path("."));
    fails(none, "server", &[&ctl, "the server wants a token"]);
    let pin = format!("sha256:{}", "0".repeat(64));
    fails(client(&format!("doctor {local} --cproxy-server {ctl} {right} --tls-pin {pin}")), "server", &[&ctl, "TLS"]);
    let away_from = format!("doctor {local} --cproxy-server {ctl} --config {}", files.path("away.toml"));
    fails(client(&away_from), "proxy port", &[&away, "refused", "advertise_proxy_port"]);

    let mut command = local_server(&format!("--tls {right}"));
    command.env("STATE_DIRECTORY", files.path("."));
    let mut server = Program::start(command);
    let ctl = behind(&server.says("Listening ctl "), "ctl");
    let pinned = format!("doctor {local} --cproxy-server {ctl} {right} --tls-pin {pin}");
    fails(client(&pinned), "server", &[&ctl, "the server's key is not the one that tls_pin names"]);
}

#[test]
fn services_that_are_not_there_are_named_and_where_they_are_instead() {
    let mut server = Program::start(local_server(""));
    let ctl = behind(&server.says("Listening ctl "), "ctl");
    let ((_held, tcp), udp) = (closed(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let datagrams = udp.local_addr().unwrap();
    let doctor = |service: &str, more: &str| client(&format!("doctor {service} --cproxy-server {ctl} {more}"));
    fails(doctor(&tcp, ""), "service", &[&tcp, "refused", "start the service"]);
    fails(doctor("no-such-host.invalid:1", ""), "service", &["no-such-host.invalid:1", "does not resolve"]);
    let ended = run(doctor(&datagrams.to_string(), "--protocol udp"));
    assert_eq!(ended.code, Some(0), "{}", ended.out);
    assert!(says(&ended, "ok", "service").contains("nobody refuses datagrams"), "{}", ended.out);
    drop(udp);
    fails(doctor(&datagrams.to_string(), "--protocol udp"), "service", &[&datagrams.to_string(), "refused"]);
    let files = Files::new(&[]);
    let path = files.path("app.sock");
    fails(doctor(&format!("unix:{path}"), ""), "service", &[&path, "there is no socket", "start the service"]);
    let directory = files.path(".");
    fails(doctor(&format!("unix:{directory}"), ""), "service", &[&directory, "is a directory; name the socket in it"]);
    let _service = UnixListener::bind(&path).unwrap();
    let ended = run(doctor(&format!("unix:{path}"), ""));
    assert_eq!(ended.code, Some(0), "{}", ended.out);
    assert!(says(&ended, "ok", "service").contains(&path), "{}", ended.out);
    // Where this machine has IPv6, and its port is nobody's over IPv4.
    if let Ok(other) = TcpListener::bind(tcp.replace("127.0.0.1", "[::1]")) {
        let at = other.local_addr().unwrap();
        fails(doctor(&at.port().to_string(), ""), "service", &[&format!("the service listens at {at}: write that")]);
    }
}

#[test]
fn a_server_that_could_start_is_ok_and_nothing_is_made_for_it() {
    let files = Files::new(&[]);
    let doctor = |args: &str| {
        let mut command = server(&format!("doctor --bind-addr 127.0.0.1 --ctl-port 0 --proxy-port 0 {args}"));
        command.env("STATE_DIRECTORY", files.path("state"));
        command
    };
    let ended = run(doctor("--tls"));
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
    for check in ["configuration", "clock", "pipes", "memory"] {
        says(&ended, "ok", check);
    }
    assert!(says(&ended, "ok", "ports").contains("free: ctl 127.0.0.1:"), "{}", ended.out);
    assert!(says(&ended, "note", "tokens").contains("the first start makes one"), "{}", ended.out);
    assert!(!std::path::Path::new(&files.path("state")).exists(), "it has made something");

    let mut command = local_server("--tls");
    command.env("STATE_DIRECTORY", files.path("state"));
    let mut runs = Program::start(command);
    let pin = runs.says("tls_pin");
    assert!(says(&run(doctor("--tls")), "ok", "tls").ends_with(&pin));
}

#[test]
fn what_a_server_lacks_is_named() {
    let (_holder, taken) = listener();
    let port = taken.rsplit_once(':').unwrap().1;
    fails(
        server(&format!("doctor --bind-addr 127.0.0.1 --proxy-port 0 --ctl-port {port}")),
        "ports",
        &[&taken, "in use", "--ctl-port"],
    );
    let away = "doctor --bind-addr 192.0.2.1 --proxy-port 0 --ctl-port 0";
    fails(server(away), "ports", &["192.0.2.1", "does not have the address"]);

    let files = Files::new(&[("open", "a token for all"), ("bad.toml", "ctl_prt = 1\ntoken_file = \"none\"")]);
    let open = files.path("open");
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let ended = run(server(&format!("doctor --bind-addr 127.0.0.1 --ctl-port 0 --proxy-port 0 --token-file {open}")));
    assert_eq!(ended.code, Some(0), "{}", ended.out);
    assert!(says(&ended, "warning", "configuration").contains(&format!("chmod 600 {open}")), "{}", ended.out);

    let ended = run(server(&format!("doctor --config {}", files.path("bad.toml"))));
    assert_eq!((ended.code, ended.err.as_str()), (Some(2), ""), "{}", ended.out);
    assert!(says(&ended, "FAILED", "configuration").contains("did you mean `ctl_port`?"), "{}", ended.out);

    let mut few = std::process::Command::new("sh");
    let exec = "ulimit -n 600 && exec \"$0\" doctor --bind-addr 127.0.0.1 --ctl-port 0 --proxy-port 0";
    few.args(["-c", exec, env!("CARGO_BIN_EXE_cproxy-server")]).env("STATE_DIRECTORY", files.path("state"));
    let ended = run(few);
    assert_eq!(ended.code, Some(0), "{}", ended.out);
    assert!(says(&ended, "warning", "descriptors").contains("raise the limit"), "{}", ended.out);
}

/// P-EXAM-1, P-EXAM-3: exit code 0 says that a visitor would be served.
#[test]
fn what_the_server_would_not_give_is_named() {
    let (_service, local) = listener();
    let (_taken, busy) = listener();
    let busy = busy.rsplit_once(':').unwrap().1.to_owned();
    let (held, free) = closed();
    let free = free.rsplit_once(':').unwrap().1.to_owned();
    drop(held);
    let files = Files::new(&[
        ("token", "the server's token"),
        ("office.token", "a token of its own"),
        (
            "server.toml",
            &format!(
                "bind_addr = \"127.0.0.1\"\nctl_port = 0\nproxy_port = 0\nhttp_port = 0\ntoken_file = \"token\"\n\
                 allow_ports = [{busy}, {free}]\n[[clients]]\nname = \"office\"\ntoken_file = \"office.token\"\n\
                 max_tunnels = 1\nallow_hosts = [\"a.example\"]\n"
            ),
        ),
        (
            "two.toml",
            &format!(
                "token_file = \"office.token\"\n[[tunnels]]\nname = \"one\"\nlocal = \"{local}\"\npublic_port = {free}\n\
                 [[tunnels]]\nname = \"two\"\nlocal = \"{local}\"\n"
            ),
        ),
    ]);
    let mut server = Program::start(server(&format!("--config {}", files.path("server.toml"))));
    let ctl = behind(&server.says("Listening ctl "), "ctl");
    let doctor = |more: &str| {
        client(&format!("doctor {local} --cproxy-server {ctl} --token-file {} {more}", files.path("office.token")))
    };
    let ended = run(doctor(&format!("--public-port {free}")));
    assert_eq!(ended.code, Some(0), "{}", ended.out);
    assert!(says(&ended, "ok", "public port").contains(&format!("port {free}: it can be had")), "{}", ended.out);
    fails(
        doctor("--public-port 1"),
        "public port",
        &["port 1: ", "the server does not allow this port", "allow_ports"],
    );
    fails(doctor(&format!("--public-port {busy}")), "public port", &["the port is in use on the server"]);
    fails(doctor("--protocol http --host b.example"), "public port", &["http://b.example", "allow_hosts"]);
    let ended = run(doctor("--protocol http --host a.example"));
    assert_eq!(ended.code, Some(0), "{}", ended.out);
    fails(
        client(&format!("doctor --config {} --cproxy-server {ctl}", files.path("two.toml"))),
        "public port",
        &["two: ", "as many tunnels as the server allows them together (max_tunnels)"],
    );
    let udp = run(doctor(&format!("--protocol udp --public-port {free}")));
    assert!(says(&udp, "ok", "public port").contains("up to the server's firewall"), "{}", udp.out);
}

/// P-EXAM-2: a client that is frozen, or cut off, has its port still when it is back.
#[test]
fn a_client_that_cannot_answer_keeps_its_port() {
    let (service, local) = listener();
    let (held, free) = closed();
    let port = free.rsplit_once(':').unwrap().1.to_owned();
    drop(held);
    let files = Files::new(&[("server.toml", "heartbeat_interval = 1\nheartbeat_timeout = 2")]);
    let mut server = Program::start(local_server(&format!("--config {}", files.path("server.toml"))));
    let ctl = behind(&server.says("Listening ctl "), "ctl");
    let flags = format!("{local} --cproxy-server {ctl} --public-port {port}");
    let mut runs = Program::start(client(&flags));
    runs.says("Forwarding tcp://");
    runs.signal(Signal::SIGSTOP);
    server.logs("lost its ctl_conn");
    let ended = run(client(&format!("doctor {flags}")));
    assert!(says(&ended, "warning", "public port").contains("a client with the same token has it"), "{}", ended.out);
    runs.signal(Signal::SIGCONT);
    // Its port was never closed: whoever came meanwhile is served.
    let mut visitor = TcpStream::connect(&free).unwrap();
    visitor.write_all(b"x").unwrap();
    loop {
        let mut read = [0];
        if service.accept().unwrap().0.read(&mut read).unwrap() == 1 {
            break;
        }
    }
    server.signal(SIGTERM);
    assert!(!server.end().err.contains("replaced"));
}
