//! Certificates from an authority: Let's Encrypt's own test server, pebble, asks at our port, and the programs that people
//! use have them issued, and renewed, while the server serves. These run where they are installed; docs/recipes.md says how.

use super::tls_ends::{Visitor, say_all, trusting, visit_as};
use super::{ask, client, named_echo, request, server, table};
use rcgen::DnType;
use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tests::foreign::{Foreign, find};
use tests::papers::Papers;
use tests::programs::{Server, options};
use tests::services::Service;
use tests::sockets::{LOOPBACK, free_port};
use tests::wait::until;

const HOST: &str = "app.example";

/// A name server to which every name is this machine.
fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind((LOOPBACK, 0)).expect("a port");
    let at = socket.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let mut query = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            // A name ends with an empty label; type and class follow.
            let Some(name) = query[12..length].iter().position(|&byte| byte == 0) else { continue };
            let question = &query[12..(12 + name + 5).min(length)];
            let is_address = question.ends_with(&[0, 1, 0, 1]);
            let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0], question].concat();
            if is_address {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    at
}

/// An authority that asks at a server's port for plain HTTP.
struct Authority {
    papers: Papers,
    _pebble: Foreign,
    at: SocketAddr,
    /// What has signed the certificates that it issues.
    root: Vec<u8>,
}

impl Authority {
    fn start(program: &str, server: &Server) -> Self {
        let papers = Papers::new();
        // A name of its own: one like the authority's looks as if it had signed itself.
        papers.issue_with("pebble", &["localhost"], |params| {
            params.distinguished_name.push(DnType::CommonName, "pebble")
        });
        let [directory, management] = [(); 2].map(|()| SocketAddr::from((LOOPBACK, free_port())));
        let mut pebble = Foreign::new();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": directory.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": papers.path("pebble.pem"),
            "privateKey": papers.path("pebble-key.pem"),
            "httpPort": server.hosts("http").port(),
            "tlsPort": server.hosts("https").port(),
        }});
        let config = pebble.file("pebble.json", config);
        // It pauses at random before it asks, and refuses every twentieth request, if it is not told otherwise.
        let names = name_server().to_string();
        let told = ["PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0", program];
        let args = ["-config", &config, "-strict", "-dnsserver", &names];
        pebble.start("env", &[&told[..], &args].concat());
        until("pebble listens", || [directory, management].iter().all(|at| TcpStream::connect(at).is_ok()));
        let trusts = trusting(&fs::read(papers.path("ca.pem")).expect("it is there"), &[]);
        let answer = {
            let mut asks = visit_as(trusts, management, "localhost");
            say_all(&mut asks, "GET /roots/0 HTTP/1.0\r\nHost: localhost\r\n\r\n")
        };
        let (_, root) = answer.split_once("\r\n\r\n").expect("a response");
        Self { papers, _pebble: pebble, at: directory, root: root.as_bytes().to_vec() }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/dir", self.at.port())
    }

    fn ca(&self) -> PathBuf {
        self.papers.path("ca.pem")
    }

    /// A visitor who trusts the certificates of this authority.
    fn visit(&self, server: &Server) -> Visitor {
        visit_as(trusting(&self.root, &["http/1.1"]), server.hosts("https"), HOST)
    }
}

/// Runs a program to its end.
#[track_caller]
fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A certificate is issued by `issue`, which is given the authority, the webroot and a folder for its own files, and returns
/// where certificate and key are; then it is renewed.
fn issued_and_renewed(
    pebble: &str,
    issue: impl Fn(&Authority, &Path, &Path) -> [PathBuf; 2],
    renew: impl Fn(&Authority, &Path, &Path),
) {
    let [webroot, own] = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let server = server(options().key("acme_webroot", format!("{:?}", webroot.path())));
    let app: Service = named_echo("app");
    let tables = [table("app", "http", &[HOST], app.addr()) + "redirect_to_https = true\n"];
    let _client = client(&server, options(), &tables);
    let authority = Authority::start(pebble, &server);
    let files = issue(&authority, webroot.path(), own.path());
    // The server has not known of a certificate: it is told by a reload.
    let [cert, key] = &files;
    let text = fs::read_to_string(server.config_file()).expect("it is there");
    server.reload(&format!("{text}[[certificates]]\ncert = {cert:?}\nkey = {key:?}\n"));
    let words = request(HOST);
    let shown = |visitor: &Visitor| visitor.conn.peer_certificates().expect("it is through")[0].to_vec();
    let mut visitor = authority.visit(&server);
    assert_eq!(say_all(&mut visitor, &words), format!("app{words}"));
    let first = shown(&visitor);
    assert!(ask(server.hosts("http"), &words).starts_with(b"HTTP/1.1 308 "), "all else goes on");
    renew(&authority, webroot.path(), own.path());
    until("the new certificate is shown, and nobody has told the server", || {
        let mut visitor = authority.visit(&server);
        say_all(&mut visitor, &words) == format!("app{words}") && shown(&visitor) != first
    });
}

/// P-HOST-12.
#[test]
fn lego_has_a_certificate_issued_and_renewed() {
    let (Some(pebble), Some(program)) = (find("pebble"), find("lego")) else { return };
    let lego = |authority: &Authority, webroot: &Path, own: &Path, order: &[&str]| {
        let mut command = Command::new(&program);
        command.env("LEGO_CA_CERTIFICATES", authority.ca());
        command.args(["--server", &authority.url(), "--accept-tos", "--email", "me@example.com"]);
        command.arg("--path").arg(own).args(["--domains", HOST, "--http", "--http.webroot"]).arg(webroot);
        run(command.args(order));
    };
    issued_and_renewed(
        &pebble,
        |authority, webroot, own| {
            lego(authority, webroot, own, &["run"]);
            ["crt", "key"].map(|kind| own.join(format!("certificates/{HOST}.{kind}")))
        },
        |authority, webroot, own| lego(authority, webroot, own, &["renew", "--days", "10000", "--no-random-sleep"]),
    );
}

/// P-HOST-12: a hook puts its files where the server may read them.
#[test]
fn certbot_has_a_certificate_issued_and_renewed() {
    let (Some(pebble), Some(program)) = (find("pebble"), find("certbot")) else { return };
    let certbot = |authority: &Authority, webroot: &Path, own: &Path, more: &[&str]| {
        let mut command = Command::new(&program);
        command.env("REQUESTS_CA_BUNDLE", authority.ca());
        command.args(["certonly", "--webroot", "--webroot-path"]).arg(webroot).args(["-d", HOST]);
        command.args(["--server", &authority.url(), "--agree-tos", "--email", "me@example.com", "--non-interactive"]);
        for (flag, folder) in [("--config-dir", "config"), ("--work-dir", "work"), ("--logs-dir", "logs")] {
            command.arg(flag).arg(own.join(folder));
        }
        let files = "$RENEWED_LINEAGE/fullchain.pem $RENEWED_LINEAGE/privkey.pem";
        let hook = format!("install -D -m 640 -t {} {files}", own.join("app").display());
        run(command.args(["--deploy-hook", &hook]).args(more));
    };
    issued_and_renewed(
        &pebble,
        |authority, webroot, own| {
            certbot(authority, webroot, own, &[]);
            ["app/fullchain.pem", "app/privkey.pem"].map(|file| own.join(file))
        },
        |authority, webroot, own| certbot(authority, webroot, own, &["--force-renewal"]),
    );
}
