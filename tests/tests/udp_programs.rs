//! Programs that speak UDP, through a tunnel: by its conns alone, and by UDP between client and server. Each of those that
//! are installed.

use rcgen::DnType;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;
use tests::datagrams::serving;
use tests::exchange::{Exchange, Exchanges};
use tests::foreign::{Foreign, find};
use tests::link::{Link, Namespace};
use tests::papers::Papers;
use tests::programs::{Client, Options, Server, options};
use tests::root_only;
use tests::sockets::free_port;
use tests::wait::{eventually, until};

const WAYS: [&str; 2] = ["tcp", "udp"];
const TOKEN: (&str, &str) = ("CPROXY_TOKEN", "for all programs");
/// The two ends of a network inside of the tunnel.
const INSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2)];

/// A tunnel to `service` whose datagrams go one way.
struct Tunnel {
    _server: Server,
    client: Client,
}

impl Tunnel {
    fn new(way: &str, service: SocketAddr) -> Self {
        Self::between(way, service, serving(&options().brisk()), options())
    }

    /// The same, where the server is at the near end of a road and the client at the far one.
    fn over(link: &Link, way: &str, service: SocketAddr) -> Self {
        let far = |namespace| options().network(namespace).env(TOKEN.0, TOKEN.1);
        let server = Server::start(far(&link.near).brisk().flag("bind-addr", link.near.ip()));
        Self::between(way, service, server, far(&link.far))
    }

    fn between(way: &str, service: SocketAddr, server: Server, client: Options) -> Self {
        let client = client.key("datagram_transport", format!("\"{way}\""));
        let client = Client::start(&server, client.brisk().tunnel(service).tunnel_key("protocol", "\"udp\""));
        if way == "udp" {
            client.log_line("datagrams go by UDP");
            server.log_line("datagrams go by UDP");
        }
        Self { _server: server, client }
    }

    fn public(&self) -> (String, String) {
        let public = self.client.public();
        (public.ip().to_string(), public.port().to_string())
    }
}

/// A certificate whose subject is not its issuer's, which would be one that has signed itself.
fn issue(papers: &Papers, who: &str, name: &str) {
    papers.issue_with(who, &[name], |params| params.distinguished_name.push(DnType::CommonName, name));
}

/// aioquic's streams and datagrams, in packets of its own sizes, which go whole or not at all.
#[test]
fn quic_has_its_own_datagrams_echoed() {
    tests::limit::arm();
    let probe = Command::new("python3").args(["-c", "import aioquic"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs python3 with aioquic");
        return;
    }
    let papers = Papers::new();
    issue(&papers, "quic", "echo.example");
    let file = |name: &str| papers.path(name).display().to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/quic_echo.py").display().to_string();
    for (way, size) in WAYS.into_iter().flat_map(|way| [(way, "1280"), (way, "4000")]) {
        let port = free_port();
        let mut service = Foreign::new();
        let (own, key) = (file("quic.pem"), file("quic-key.pem"));
        service.start("python3", &["-B", &script, "serve", "127.0.0.1", &port.to_string(), size, &own, &key]);
        let tunnel = Tunnel::new(way, (Ipv4Addr::LOCALHOST, port).into());
        let (ip, port) = tunnel.public();
        eventually("all of it comes back", || {
            let mut ask = Command::new("python3");
            ask.args(["-B", &script, "ask", &ip, &port, size, &file("ca.pem")]);
            let output = ask.output().expect("run python3");
            output.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
        });
    }
}

/// One of OpenSSL's programs, which sends what it is told and says what it has heard.
struct Talker {
    process: Child,
    says: ChildStdin,
    hears: Receiver<String>,
}

impl Talker {
    fn start(openssl: &str, args: &[&str]) -> Self {
        let mut command = Command::new(openssl);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("start openssl");
        let (says, hears) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        let (heard, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(hears).split(b'\n').map_while(Result::ok) {
                let _ = heard.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Self { process, says, hears: lines }
    }

    fn say(&mut self, text: &str) {
        self.says.write_all(format!("{text}\n").as_bytes()).expect("it listens");
    }

    fn hears(&self, text: &str) -> bool {
        let mut heard = self.hears.recv_timeout(Duration::from_millis(300)).into_iter().chain(self.hears.try_iter());
        heard.any(|line| line.contains(text))
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// OpenSSL's DTLS, whose server ties a handshake to the address that it came from.
#[test]
fn dtls_goes_both_ways() {
    tests::limit::arm();
    let Some(openssl) = find("openssl") else { return };
    let papers = Papers::new();
    issue(&papers, "dtls", "dtls.example");
    let file = |name: &str| papers.path(name).display().to_string();
    for way in WAYS {
        let service = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let (own, key, authority) = (file("dtls.pem"), file("dtls-key.pem"), file("ca.pem"));
        let mut served = Talker::start(
            &openssl,
            &["s_server", "-dtls", "-listen", "-quiet", "-accept", &service.to_string(), "-cert", &own, "-key", &key],
        );
        let tunnel = Tunnel::new(way, service);
        let public = tunnel.client.public().to_string();
        let mut visitor = Talker::start(
            &openssl,
            &["s_client", "-dtls", "-quiet", "-verify_return_error", "-connect", &public, "-CAfile", &authority],
        );
        // Each may be lost, and the first ones come before the handshake is through.
        for (nth, length) in [1, 500, 1_100, 1_300, 4_000].into_iter().enumerate() {
            let text = format!("{nth}{}", "x".repeat(length));
            until("the service hears it", || {
                visitor.say(&text);
                served.hears(&text)
            });
            until("the visitor hears it", || {
                served.say(&text);
                visitor.hears(&text)
            });
        }
    }
}

/// Makes the ends of a network inside of the tunnel, and sends streams through it.
fn network_inside(link: &Link) {
    let service = link.far.run(|| Exchanges::start_on(IpAddr::V4(INSIDE[1])));
    link.near.run(|| Exchange::new(1).up(400_000).down(400_000).run(service.addr()));
    service.expect(1);
}

/// Whether the far end of a network inside of the tunnel can be reached: it says that nobody listens there.
fn reaches(link: &Link) -> bool {
    let nobody = SocketAddr::from((INSIDE[1], 1));
    let connected = link.near.run(|| TcpStream::connect_timeout(&nobody, Duration::from_secs(1)));
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// OpenVPN, point to point: it keeps to the port that it has heard from first.
#[test]
fn openvpn_carries_a_network() {
    tests::limit::arm();
    root_only!();
    let (Some(openvpn), Some(_)) = (find("openvpn"), find("ip")) else { return };
    let papers = Papers::new();
    issue(&papers, "vpn", "vpn.example");
    let [authority, own, key] =
        ["ca", "vpn", "vpn-key"].map(|name| papers.path(&format!("{name}.pem")).display().to_string());
    for way in WAYS {
        let link = Link::new(Duration::from_millis(2));
        let mut foreign = Foreign::new();
        let service = SocketAddr::new(link.far.ip(), 1194);
        let tunnel = Tunnel::over(&link, way, service);
        let (ip, port) = tunnel.public();
        let [near, far] = INSIDE.map(|ip| ip.to_string());
        let common =
            ["--dev", "tun7", "--proto", "udp", "--ping", "1", "--ca", &authority, "--cert", &own, "--key", &key];
        let its_port = service.port().to_string();
        let ends = [
            (&link.far, vec!["--tls-server", "--dh", "none", "--lport", &its_port, "--ifconfig", &far, &near]),
            (&link.near, vec!["--tls-client", "--remote", &ip, &port, "--nobind", "--ifconfig", &near, &far]),
        ];
        for (namespace, own) in ends {
            namespace.run(|| foreign.start(&openvpn, &[&common[..], &own].concat()));
        }
        until("the network inside stands", || reaches(&link));
        network_inside(&link);
    }
}

/// WireGuard, as the kernel has it, or else as a program.
#[test]
fn wireguard_carries_a_network() {
    tests::limit::arm();
    root_only!();
    let (Some(wireguard), Some(wg), Some(ip)) = (find("wireguard-go"), find("wg"), find("ip")) else { return };
    for way in WAYS {
        let link = Link::new(Duration::from_millis(2));
        let mut foreign = Foreign::new();
        let service = SocketAddr::new(link.far.ip(), 51_820);
        let tunnel = Tunnel::over(&link, way, service);
        let public = tunnel.client.public().to_string();
        let run = |namespace: &Namespace, program: &str, args: &[&str]| {
            let output = namespace.run(|| Command::new(program).args(args).output().expect("it runs"));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
            } else {
                Err(said)
            }
        };
        let keys = ["near", "far"].map(|name| {
            let private = run(&link.near, &wg, &["genkey"]).expect("a key");
            let file = foreign.file(name, &private);
            let derive = Command::new(&wg).arg("pubkey").stdin(File::open(&file).expect("it is there")).output();
            let public = String::from_utf8(derive.expect("run wg").stdout).expect("text");
            (file, public.trim().to_owned())
        });
        // Programs of all namespaces have their sockets in one folder.
        let devices = ["n", "f"].map(|end| format!("wg{end}{}{}", std::process::id(), &way[..1]));
        let more = [vec!["endpoint", &public], vec!["listen-port", "51820"]];
        for (nth, namespace) in [&link.near, &link.far].into_iter().enumerate() {
            let device = &*devices[nth];
            namespace.run(|| foreign.start(&wireguard, &["-f", device]));
            let (peer, other) = (&keys[1 - nth].1, INSIDE[1 - nth].to_string());
            let mut words = vec!["set", device, "private-key", &keys[nth].0];
            if nth == 1 {
                words.extend(&more[1]);
            }
            words.extend(["peer", peer, "allowed-ips", &other]);
            if nth == 0 {
                words.extend(&more[0]);
            }
            eventually("the device is there", || run(namespace, &wg, &words));
            let own = INSIDE[nth].to_string();
            run(namespace, &ip, &["address", "add", &own, "peer", &other, "dev", device]).expect("an address");
            run(namespace, &ip, &["link", "set", device, "up", "mtu", "1420"]).expect("it is up");
        }
        until("the network inside stands", || reaches(&link));
        network_inside(&link);
    }
}
