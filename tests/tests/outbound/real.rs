//! The proxies of Debian, as far as they are installed: tinyproxy, squid, privoxy and apache with CONNECT, microsocks and
//! dante with SOCKS5. None of them passes everything on as it came; nothing of it shows.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use tests::between::Between;
use tests::cable::Cables;
use tests::foreign::{Foreign, find};
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::free_port;
use tests::visits::short_visit;
use tests::wait::until;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn listening(port: u16, proxy: Foreign) -> Foreign {
    until("the proxy listens", || TcpStream::connect((HERE, port)).is_ok());
    proxy
}

/// Visits, conversations, resets and a restart through the proxy that `start` starts at a port, for the client that
/// knows it by `scheme`, a URL up to the host.
fn through(scheme: &str, start: impl Fn(u16, [u16; 2]) -> Option<Foreign>) {
    let port = free_port();
    let url = format!("\"{scheme}{HERE}:{port}\"");
    let between = Between {
        start: |ports| Some(listening(port, start(port, ports)?)),
        tell: |client: Options, _| client.key("outbound_proxy", &url),
    };
    between.changes_nothing();
    between.resets_keep_their_place();
}

fn tinyproxy(port: u16, [ctl, proxy]: [u16; 2], more: &str) -> Option<Foreign> {
    let program = find("tinyproxy")?;
    let mut process = Foreign::new();
    let allowed = format!("ConnectPort {ctl}\nConnectPort {proxy}\n");
    let config = process.file("conf", format!("Port {port}\nListen {HERE}\nMaxClients 500\n{allowed}{more}"));
    process.start(&program, &["-d", "-c", &config]);
    Some(process)
}

#[test]
fn tinyproxy_with_a_login() {
    through("http://me:s3cret@", |port, ports| tinyproxy(port, ports, "BasicAuth me s3cret\n"));
}

#[test]
fn squid() {
    through("http://", |port, _| {
        let program = find("squid")?;
        let mut process = Foreign::new();
        let files = "pid_filename none\naccess_log none\ncache_log /dev/null\ncoredump_dir none\nnetdb_filename none\n";
        let more = "shutdown_lifetime 0 seconds\npinger_enable off\n";
        let config = process.file("conf", format!("http_port {HERE}:{port}\nhttp_access allow all\n{files}{more}"));
        // A name of its own, so that its shared memory is nobody else's.
        process.start(&program, &["-n", &format!("test{port}"), "-N", "-f", &config]);
        Some(process)
    });
}

#[test]
fn privoxy() {
    through("http://", |port, _| {
        let program = find("privoxy")?;
        let mut process = Foreign::new();
        let config =
            process.file("conf", format!("listen-address {HERE}:{port}\ntoggle 0\nmax-client-connections 500\n"));
        process.start(&program, &["--no-daemon", &config]);
        Some(process)
    });
}

#[test]
fn apache() {
    through("http://", |port, [ctl, proxy]| {
        let program = find("apache2")?;
        let modules = Path::new("/usr/lib/apache2/modules");
        let mut process = Foreign::new();
        let dir = process.dir().display().to_string();
        let load = ["mpm_event", "authz_core", "proxy", "proxy_connect"]
            .map(|name| format!("LoadModule {name}_module {}/mod_{name}.so\n", modules.display()));
        let config = process.file(
            "conf",
            format!(
                "ServerRoot {dir}\nServerName proxy.test\nListen {HERE}:{port}\nPidFile {dir}/pid\nErrorLog {dir}/log\n\
                 {}DefaultRuntimeDir {dir}\nProxyRequests On\nAllowCONNECT {ctl} {proxy}\n",
                load.concat()
            ),
        );
        process.start(&program, &["-D", "FOREGROUND", "-f", &config]);
        Some(process)
    });
}

fn microsocks(port: u16, more: &[&str]) -> Option<Foreign> {
    let program = find("microsocks")?;
    let mut process = Foreign::new();
    process.start(&program, &[&["-i", "127.0.0.1", "-p", &port.to_string()], more].concat());
    Some(process)
}

#[test]
fn microsocks_with_a_login() {
    through("socks5://me:s3cret@", |port, _| microsocks(port, &["-u", "me", "-P", "s3cret"]));
}

#[test]
fn dante() {
    through("socks5h://", |port, _| {
        let program = find("danted")?;
        let mut process = Foreign::new();
        let dir = process.dir().display().to_string();
        let everybody = "{ from: 0.0.0.0/0 to: 0.0.0.0/0 }";
        let config = process.file(
            "conf",
            format!(
                "logoutput: {dir}/log\ninternal: {HERE} port = {port}\nexternal: lo\nclientmethod: none\n\
                 socksmethod: none\nuser.privileged: root\nuser.unprivileged: root\nclient pass {everybody}\n\
                 socks pass {everybody}\n"
            ),
        );
        process.start(&program, &["-f", &config, "-p", &format!("{dir}/pid")]);
        Some(process)
    });
}

/// What the proxies say to a wrong password, and to a port that they do not allow, ends a client that never worked.
#[test]
fn refusals_are_named() {
    let service = Service::echo();
    let server = Server::start(options().threads(1));
    let ports = [server.ctl(), server.proxy()].map(|at| at.port());
    let refused = |scheme: &str, said: &str, start: &dyn Fn(u16) -> Option<Foreign>| {
        let port = free_port();
        let Some(proxy) = start(port) else { return };
        let _proxy = listening(port, proxy);
        let url = format!("\"{scheme}{HERE}:{port}\"");
        let client = Client::spawn(&server, options().tunnel(service.addr()).key("outbound_proxy", url));
        assert_eq!(client.exit_code(), 2, "{scheme}: {}", client.log());
        client.log_line(said);
    };
    let closed = |port| tinyproxy(port, ports, "BasicAuth me s3cret\n");
    refused("http://", "wants a user and a password", &closed);
    refused("http://me:wrong@", "wants other credentials", &closed);
    refused("http://", &format!("does not allow port {}", ports[0]), &|port| tinyproxy(port, [443, 563], ""));
    let closed = |port| microsocks(port, &["-u", "me", "-P", "s3cret"]);
    refused("socks5://", "wants a user and a password", &closed);
    refused("socks5://me:wrong@", "wants other credentials", &closed);
}

/// A network without a way to the server but the proxy: the client's machine has no route to there, and the proxy's has.
#[test]
fn out_of_a_network_that_only_a_proxy_leaves() {
    const TOKEN: (&str, &str) = ("CPROXY_TOKEN", "out of a strict network");
    let Some(program) = find("tinyproxy") else { return };
    let Some(Cables { near, far }) = Cables::new(1) else { return };
    near.must("ip addr add 10.8.0.1/24 dev eth0 && ip addr add 10.9.0.1/32 dev lo");
    far.must("ip addr add 10.8.0.2/24 dev eth0");
    let server = options().threads(1).network(&near).flag("bind-addr", "10.9.0.1").env(TOKEN.0, TOKEN.1);
    let server = Server::start(server.flag("ctl-port", 443).flag("proxy-port", 563));
    let service = far.run(Service::echo);
    let client = || options().threads(1).network(&far).env(TOKEN.0, TOKEN.1).tunnel_at(service.addr(), 7000);
    let direct = Client::spawn(&server, client());
    direct.log_line("cannot connect to the server 10.9.0.1:443");
    drop(direct);
    let mut proxy = Foreign::new();
    let config = proxy.file("conf", "Port 3128\nListen 10.8.0.1\nConnectPort 443\nConnectPort 563\n");
    near.run(|| proxy.start(&program, &["-d", "-c", &config]));
    // Until it listens the client tries again.
    let through = client().brisk().key("outbound_proxy", "\"http://10.8.0.1:3128\"").key("proxy_port", 563);
    let through = Client::start(&server, through);
    near.run(|| (0..20).for_each(|number| short_visit(through.public(), number)));
    through.stop();
}
