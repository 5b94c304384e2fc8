//! Other people's relays between client and server: nginx, haproxy, stunnel, socat and ssh, as far as they are installed.
//! Each ends connections in its own manner, and none passes a reset on as it came. What was sent before a reset of a
//! visitor or a service arrives all the same, and the reset behind it. And those that end TLS, or look into it: as
//! docs/operating.md tells their users to.

use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::Command;
use tests::between::Between;
use tests::foreign::{Foreign, StreamingNginx, find};
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::free_port;
use tests::visits::ping;
use tests::wait::until;

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

fn nginx(nginx: &StreamingNginx, ports: [u16; 2], idle: &str) -> Foreign {
    let server =
        |port| format!("server {{ listen {RELAY}:{port}; proxy_pass {SERVER}:{port}; proxy_timeout {idle}; }}");
    let servers = ports.map(server).concat();
    serve_nginx(Foreign::new(), nginx, &servers)
}

fn serve_nginx(mut relay: Foreign, nginx: &StreamingNginx, servers: &str) -> Foreign {
    let StreamingNginx { program, load } = nginx;
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

fn haproxy(program: &str, ports: [u16; 2], idle: &str) -> Foreign {
    let mut relay = Foreign::new();
    let listens =
        ports.map(|port| format!("listen p{port}\n bind {RELAY}:{port}\n server s {SERVER}:{port}\n")).concat();
    let times = format!("timeout connect 5s\n timeout client {idle}\n timeout server {idle}\n");
    let config = relay.file("haproxy.cfg", format!("defaults\n mode tcp\n {times}{listens}"));
    relay.start(program, &["-db", "-f", &config]);
    relay
}

/// `idle` in seconds.
fn stunnel(program: &str, ports: [u16; 2], idle: u32) -> Foreign {
    let mut relay = Foreign::new();
    let secrets = relay.file("psk", "relay:0123456789abcdef0123456789abcdef\n");
    for (name, client, [from, to]) in [("far", "no", [MIDDLE, SERVER]), ("near", "yes", [RELAY, MIDDLE])] {
        let service =
            |port| format!("[p{port}]\naccept = {from}:{port}\nconnect = {to}:{port}\nTIMEOUTidle = {idle}\n");
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

/// `idle` in seconds; 0: for ever.
fn socat(program: &str, ports: [u16; 2], idle: u32) -> Foreign {
    let mut relay = Foreign::new();
    for port in ports {
        let listen = format!("TCP-LISTEN:{port},bind={RELAY},fork,reuseaddr,nodelay");
        relay.start(program, &[&format!("-T{idle}"), &listen, &format!("TCP:{SERVER}:{port},nodelay")]);
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

/// A certificate of the relay's own, with its key behind it, and the pin of that key.
fn certificate(relay: &Foreign) -> Option<(String, String)> {
    let openssl = find("openssl")?;
    let path = |name: &str| relay.dir().join(name).display().to_string();
    let (certificate, key, both) = (path("cert.pem"), path("key.pem"), path("both.pem"));
    let script = format!(
        "{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {certificate} \
         -subj /CN=relay.test && cat {certificate} {key} > {both} && {openssl} x509 -in {certificate} -pubkey -noout | \
         {openssl} pkey -pubin -outform der | {openssl} dgst -sha256 -r"
    );
    let made = Command::new("sh").args(["-c", &script]).output().expect("sh");
    let hash = String::from_utf8(made.stdout).expect("text");
    Some((both, format!("sha256:{}", hash.split(' ').next().expect("a hash"))))
}

/// As docs/operating.md has them: TLS ends at the relay, and the server behind it runs without.
fn haproxy_ending_tls(program: &str, ports: [u16; 2]) -> Option<(Foreign, String)> {
    let mut relay = Foreign::new();
    let (pem, pin) = certificate(&relay)?;
    let tls = format!("ssl crt {pem} alpn cproxy/1 ssl-min-ver TLSv1.3");
    let listens =
        ports.map(|port| format!("listen p{port}\n bind {RELAY}:{port} {tls}\n server s {SERVER}:{port}\n")).concat();
    let times = "timeout connect 5s\n timeout client 1m\n timeout server 1m\n timeout tunnel 1d\n";
    let config = relay.file("haproxy.cfg", format!("defaults\n mode tcp\n {times}{listens}"));
    relay.start(program, &["-db", "-f", &config]);
    Some((relay, pin))
}

fn nginx_ending_tls(nginx: &StreamingNginx, ports: [u16; 2]) -> Option<(Foreign, String)> {
    let relay = Foreign::new();
    let (pem, pin) = certificate(&relay)?;
    let tls = format!("ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.3; ssl_alpn cproxy/1;");
    let server = |port| format!("server {{ listen {RELAY}:{port} ssl; {tls} proxy_pass {SERVER}:{port}; }}");
    Some((serve_nginx(relay, nginx, &ports.map(server).concat()), pin))
}

/// The relay looks at the name in the client's first message, and passes the server's own TLS on.
fn haproxy_by_name(program: &str, ports: [u16; 2]) -> Foreign {
    let mut relay = Foreign::new();
    let look = "tcp-request inspect-delay 5s\n tcp-request content accept if { req_ssl_hello_type 1 }\n";
    let pair = |port| {
        format!(
            "frontend f{port}\n bind {RELAY}:{port}\n {look} use_backend b{port} if {{ req_ssl_sni {NAME} }}\nbackend \
             b{port}\n server s {SERVER}:{port}\n"
        )
    };
    let times = "timeout connect 5s\n timeout client 1m\n timeout server 1m\n timeout tunnel 1d\n";
    let config = relay.file("haproxy.cfg", format!("defaults\n mode tcp\n {times}{}", ports.map(pair).concat()));
    relay.start(program, &["-db", "-f", &config]);
    relay
}

fn nginx_by_name(nginx: &StreamingNginx, ports: [u16; 2]) -> Foreign {
    let server = |port| {
        format!(
            "map $ssl_preread_server_name $to{port} {{ {NAME} {SERVER}:{port}; }} server {{ listen {RELAY}:{port}; \
             ssl_preread on; proxy_pass $to{port}; }}"
        )
    };
    serve_nginx(Foreign::new(), nginx, &ports.map(server).concat())
}

/// The name that the relay knows the server by.
const NAME: &str = "tunnel.test";

/// The client speaks TLS to the relay, which ends it, or passes on by its name what the server ends.
fn tls_through(ends: bool, start: impl FnOnce([u16; 2]) -> Option<(Foreign, Option<String>)>) {
    let service = Service::echo();
    let options = || options().threads(1);
    let server = Server::start(if ends { options().in_the_clear() } else { options().tls() });
    let ports = [server.ctl(), server.proxy()].map(|at| at.port());
    let Some((_relay, pin)) = start(ports) else { return };
    await_ports(ports);
    let pin = pin.unwrap_or_else(|| server.pin().to_owned());
    let through = options().tunnel(service.addr()).via(format!("{}:{}", IpAddr::V4(RELAY), ports[0]));
    let through = through.flag("tls-pin", pin).key("tls_server_name", format!("\"{NAME}\""));
    let client = Client::start(&server, if ends { through.key("tls_relay", true) } else { through });
    ping(&mut client.visit(), b"through the relay's TLS, or past it");
}

#[test]
fn tls_ends_at_haproxy() {
    tls_through(true, |ports| haproxy_ending_tls(&find("haproxy")?, ports).map(|(relay, pin)| (relay, Some(pin))));
}

#[test]
fn tls_ends_at_nginx() {
    tls_through(true, |ports| nginx_ending_tls(&StreamingNginx::find()?, ports).map(|(relay, pin)| (relay, Some(pin))));
}

#[test]
fn haproxy_passes_tls_on_by_its_name() {
    tls_through(false, |ports| Some((haproxy_by_name(&find("haproxy")?, ports), None)));
}

#[test]
fn nginx_passes_tls_on_by_its_name() {
    tls_through(false, |ports| Some((nginx_by_name(&StreamingNginx::find()?, ports), None)));
}

/// The programs with a relay between them.
fn behind(start: impl Fn([u16; 2]) -> Option<Foreign>) -> Between<impl Fn([u16; 2]) -> Option<Foreign>, Tell> {
    let start = move |ports| {
        let relay = start(ports)?;
        await_ports(ports);
        Some(relay)
    };
    Between { start, tell: |client, [ctl, _]| client.via(format!("{RELAY}:{ctl}")) }
}

type Tell = fn(Options, [u16; 2]) -> Options;

fn is_passed_by(start: impl Fn([u16; 2]) -> Option<Foreign>) {
    let between = behind(start);
    between.changes_nothing();
    between.resets_keep_their_place();
}

#[test]
fn behind_nginx() {
    is_passed_by(|ports| Some(nginx(&StreamingNginx::find()?, ports, "1h")));
}

#[test]
fn behind_haproxy() {
    is_passed_by(|ports| Some(haproxy(&find("haproxy")?, ports, "1h")));
}

#[test]
fn behind_stunnel() {
    is_passed_by(|ports| Some(stunnel(&find("stunnel")?, ports, 3600)));
}

#[test]
fn behind_socat() {
    is_passed_by(|ports| Some(socat(&find("socat")?, ports, 0)));
}

#[test]
fn behind_ssh() {
    is_passed_by(|ports| ssh(&find("ssh")?, ports));
}

/// Relays that cut what is silent for two seconds: 30 s and `idle_ping_interval` as shipped, made small.
#[test]
fn relays_that_cut_what_is_silent() {
    behind(|ports| Some(nginx(&StreamingNginx::find()?, ports, "2s"))).what_it_cuts_is_reset();
    behind(|ports| Some(haproxy(&find("haproxy")?, ports, "2s"))).what_it_cuts_is_reset();
    behind(|ports| Some(stunnel(&find("stunnel")?, ports, 2))).what_it_cuts_is_reset();
    behind(|ports| Some(socat(&find("socat")?, ports, 2))).what_it_cuts_is_reset();
}
