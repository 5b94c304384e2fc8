//! Other people's relays between client and server: nginx, haproxy, stunnel, socat and ssh, as far as they are installed.
//! Each ends connections in its own manner, and none passes a reset on as it came. What was sent before a reset of a
//! visitor or a service arrives all the same, and the reset behind it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use tests::foreign::{Foreign, find};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{End, free_port, read_end, reset, unacknowledged};
use tests::wait::{PATIENCE, until};

/// Visits in each direction.
const VISITS: usize = 20;
/// Where the server is, and where the client believes it to be, with the same ports.
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Between the two halves of a relay that has two.
const MIDDLE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Waits until a relay for these ports is there.
fn await_ports(ports: [u16; 2]) {
    for port in ports {
        until("the relay listens", || TcpStream::connect((RELAY, port)).is_ok());
    }
}

fn nginx(program: &str, ports: [u16; 2]) -> Foreign {
    let mut relay = Foreign::new();
    let servers = ports.map(|port| format!("server {{ listen {RELAY}:{port}; proxy_pass {SERVER}:{port}; }}")).concat();
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load = if Path::new(module).exists() { format!("load_module {module};") } else { String::new() };
    let dir = relay.dir().display().to_string();
    let config = relay.file(
        "nginx.conf",
        format!(
            "{load}\ndaemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/log;\nevents {{}}\n\
             stream {{ {servers} }}\n"
        ),
    );
    relay.start(program, &["-p", &dir, "-e", &format!("{dir}/log"), "-c", &config]);
    relay
}

fn haproxy(program: &str, ports: [u16; 2]) -> Foreign {
    let mut relay = Foreign::new();
    let listens =
        ports.map(|port| format!("listen p{port}\n bind {RELAY}:{port}\n server s {SERVER}:{port}\n")).concat();
    let times = "timeout connect 5s\n timeout client 1h\n timeout server 1h\n";
    let config = relay.file("haproxy.cfg", format!("defaults\n mode tcp\n {times}{listens}"));
    relay.start(program, &["-db", "-f", &config]);
    relay
}

fn stunnel(program: &str, ports: [u16; 2]) -> Foreign {
    let mut relay = Foreign::new();
    let secrets = relay.file("psk", "relay:0123456789abcdef0123456789abcdef\n");
    for (name, client, [from, to]) in [("far", "no", [MIDDLE, SERVER]), ("near", "yes", [RELAY, MIDDLE])] {
        let service = |port| format!("[p{port}]\naccept = {from}:{port}\nconnect = {to}:{port}\n");
        let services =
            ports.map(|port| service(port) + &format!("client = {client}\nPSKsecrets = {secrets}\n")).concat();
        let config = relay.file(
            name,
            format!("foreground = yes\npid =\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n{services}"),
        );
        relay.start(program, &[&config]);
    }
    relay
}

fn socat(program: &str, ports: [u16; 2]) -> Foreign {
    let mut relay = Foreign::new();
    for port in ports {
        let listen = format!("TCP-LISTEN:{port},bind={RELAY},fork,reuseaddr,nodelay");
        relay.start(program, &[&listen, &format!("TCP:{SERVER}:{port},nodelay")]);
    }
    relay
}

/// A server of ssh's for whoever runs the test, and a client with its ports forwarded.
fn ssh(program: &str, ports: [u16; 2]) -> Option<Foreign> {
    let (sshd, keygen) = (find("sshd")?, find("ssh-keygen")?);
    let mut relay = Foreign::new();
    let key = relay.dir().join("key").display().to_string();
    let made = Command::new(keygen).args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status();
    assert!(made.expect("ssh-keygen").success());
    // Where it runs as root it wants this directory.
    let _ = std::fs::create_dir("/run/sshd");
    let port = free_port().to_string();
    let config = relay.file(
        "sshd_config",
        format!(
            "ListenAddress {SERVER}\nPort {port}\nHostKey {key}\nAuthorizedKeysFile {key}.pub\nStrictModes no\n\
             PidFile none\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n"
        ),
    );
    relay.start(&sshd, &["-D", "-f", &config]);
    until("sshd listens", || TcpStream::connect((SERVER, port.parse().expect("a port"))).is_ok());
    let user = Command::new("id").arg("-un").output().expect("id").stdout;
    let user = String::from_utf8(user).expect("a name");
    let [ctl, proxy] = ports.map(|port| format!("{RELAY}:{port}:{SERVER}:{port}"));
    let (at, nobody) = (format!("{}@{SERVER}", user.trim()), "-oUserKnownHostsFile=/dev/null");
    let (accept, fail) = ("-oStrictHostKeyChecking=no", "-oExitOnForwardFailure=yes");
    relay.start(
        program,
        &["-N", "-F", "none", accept, nobody, fail, "-i", &key, "-p", &port, "-L", &ctl, "-L", &proxy, &at],
    );
    Some(relay)
}

/// The programs with a relay between them. Resets go up and down, each right behind what was sent.
fn resets_keep_their_place(start: impl FnOnce([u16; 2]) -> Option<Foreign>) {
    const UP: usize = 100;
    const DOWN: usize = 64 << 10;
    let (ends, seen) = channel();
    // Who says nothing wants to be sent something.
    let service = Service::start(move |mut stream| {
        let mut first = [0];
        stream.read_exact(&mut first).expect("a visitor says what it wants");
        if first[0] == b'u' {
            let (more, end) = read_end(&mut stream);
            let _ = ends.send((1 + more, end));
        } else {
            stream.write_all(&[7; DOWN]).expect("sent");
            until("all is acknowledged", || unacknowledged(&stream) == 0);
            reset(stream);
        }
    });
    let server = Server::start(options().threads(1));
    let ports = [server.ctl(), server.proxy()].map(|at| at.port());
    let Some(_relay) = start(ports) else { return };
    await_ports(ports);
    let through = options().threads(1).tunnel(service.addr()).via(format!("{}:{}", IpAddr::V4(RELAY), ports[0]));
    let client = Client::start(&server, through);
    for visit in 0..VISITS {
        let mut visitor = client.visit();
        visitor.write_all(&[b'u'; UP]).expect("sent");
        reset(visitor);
        assert_eq!(seen.recv_timeout(PATIENCE), Ok((UP as u64, End::Reset)), "up, visit {visit}");
        let mut visitor = client.visit();
        visitor.write_all(b"d").expect("sent");
        assert_eq!(read_end(&mut visitor), (DOWN as u64, End::Reset), "down, visit {visit}");
    }
}

#[test]
fn behind_nginx() {
    resets_keep_their_place(|ports| Some(nginx(&find("nginx")?, ports)));
}

#[test]
fn behind_haproxy() {
    resets_keep_their_place(|ports| Some(haproxy(&find("haproxy")?, ports)));
}

#[test]
fn behind_stunnel() {
    resets_keep_their_place(|ports| Some(stunnel(&find("stunnel")?, ports)));
}

#[test]
fn behind_socat() {
    resets_keep_their_place(|ports| Some(socat(&find("socat")?, ports)));
}

#[test]
fn behind_ssh() {
    resets_keep_their_place(|ports| ssh(&find("ssh")?, ports));
}
