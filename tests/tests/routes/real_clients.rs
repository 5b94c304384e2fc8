//! Other people's clients, where they are installed: what they really send as a host, and what they make of refusals.

use super::{client, server, table};
use rcgen::DnType;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};
use tests::foreign::{Foreign, find};
use tests::papers::Papers;
use tests::programs::{Client, Server, options};
use tests::sockets::free_port;
use tests::wait::until;

/// A server, a client, and behind it OpenSSL's own service for two hosts over TLS.
struct Sites {
    papers: Papers,
    _service: Foreign,
    _client: Client,
    server: Server,
}

/// `None`: OpenSSL is not installed.
fn sites(hosts: &[&str]) -> Option<Sites> {
    let openssl = find("openssl")?;
    let papers = Papers::new();
    papers.issue_with("site", &["app.example", "*.dev.example"], |params| {
        // A name of its own: one like the authority's looks as if it had signed itself.
        params.distinguished_name.push(DnType::CommonName, "site");
    });
    let port = free_port();
    let mut service = Foreign::new();
    let [cert, key] = ["site.pem", "site-key.pem"].map(|name| papers.path(name).display().to_string());
    service
        .start(&openssl, &["s_server", "-www", "-accept", &port.to_string(), "-cert", &cert, "-key", &key, "-quiet"]);
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    until("the service listens", || TcpStream::connect(local).is_ok());
    let server = server(options());
    let client = client(&server, options(), &[table("site", "https", hosts, local)]);
    Some(Sites { papers, _service: service, _client: client, server })
}

impl Sites {
    fn at(&self) -> SocketAddr {
        self.server.hosts("https")
    }

    fn ca(&self) -> String {
        self.papers.path("ca.pem").display().to_string()
    }
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The service keeps its certificate, which curl checks.
#[test]
fn curl_reaches_a_host_over_tls_that_ends_at_the_service() {
    let (Some(curl), Some(sites)) = (find("curl"), sites(&["app.example", "*.dev.example"])) else { return };
    let port = sites.at().port();
    for (host, served) in [("app.example", true), ("APP.Example.", true), ("x.dev.example", true), ("b.example", false)]
    {
        let bare = host.trim_end_matches('.').to_lowercase();
        let resolve = [format!("{host}:{port}:127.0.0.1"), format!("{bare}:{port}:127.0.0.1")];
        let url = format!("https://{host}:{port}/");
        let args = [
            "-sS",
            "--noproxy",
            "*",
            "--cacert",
            &sites.ca(),
            "--resolve",
            &resolve[0],
            "--resolve",
            &resolve[1],
            &url,
        ];
        let output = run(&curl, &args);
        assert_eq!(output.status.success(), served, "{host}: {}", told(&output));
        let said = if served { "Ciphers supported" } else { "unrecognized name" };
        assert!(told(&output).contains(said), "{host}: {}", told(&output));
    }
}

/// Small records, no name, an address as a name: `s_client` sends what it is told to.
#[test]
fn s_client_is_understood_and_told() {
    let (Some(openssl), Some(sites)) = (find("openssl"), sites(&["app.example"])) else { return };
    let (connect, ca) = (sites.at().to_string(), sites.ca());
    let say = |more: &[&str]| {
        let args = [&["s_client", "-connect", &connect, "-CAfile", &ca][..], more].concat();
        told(&run(&openssl, &args))
    };
    let verified = "Verify return code: 0 (ok)";
    assert!(say(&["-servername", "app.example"]).contains(verified));
    assert!(say(&["-servername", "App.Example"]).contains(verified));
    let small = say(&["-servername", "app.example", "-max_send_frag", "512", "-alpn", &"x,".repeat(300)]);
    assert!(small.contains(verified), "{small}");
    let nobody = say(&["-noservername"]);
    assert!(nobody.contains("missing extension") || nobody.contains("alert number 109"), "{nobody}");
    let other = say(&["-servername", "b.example"]);
    assert!(other.contains("unrecognized name") || other.contains("alert number 112"), "{other}");
}

/// Python and node send names as they stand in the URL, Chromium's hello takes two segments.
#[test]
fn python_and_node_reach_a_host_over_tls() {
    let Some(sites) = sites(&["app.example"]) else { return };
    let (port, ca) = (sites.at().port(), sites.ca());
    if let Some(python) = find("python3") {
        for host in ["app.example", "APP.EXAMPLE", "app.example."] {
            let script = format!(
                "import socket, ssl\nc = ssl.create_default_context(cafile={ca:?})\nc.check_hostname = False\n\
                 s = c.wrap_socket(socket.create_connection(('127.0.0.1', {port})), server_hostname={host:?})\n\
                 s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\nprint(s.recv(100))"
            );
            let output = run(&python, &["-c", &script]);
            assert!(told(&output).contains("200"), "{host}: {}", told(&output));
        }
    }
    if let Some(node) = find("node") {
        let script = format!(
            "const s = require('tls').connect({{port: {port}, host: '127.0.0.1', servername: 'App.example', \
             ca: require('fs').readFileSync({ca:?})}}, () => s.write('GET / HTTP/1.0\\r\\n\\r\\n'));\n\
             s.on('data', d => {{ console.log(d.toString().slice(0, 20)); s.destroy(); }});"
        );
        let output = run(&node, &["-e", &script]);
        assert!(told(&output).contains("200"), "{}", told(&output));
    }
}
