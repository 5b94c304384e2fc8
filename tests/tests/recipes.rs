//! The recipes of docs/recipes.md, as they stand there but for ports and paths: web servers on the public machine, with a
//! site and WebSockets behind them, a gRPC service, and an FTP server in passive mode.

use rcgen::DnType;
use std::io::{BufReader, Write, copy};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use tests::foreign::{Foreign, find};
use tests::papers::Papers;
use tests::programs::{Client, Server, options};
use tests::services::{Service, read_head};
use tests::sockets::{free_port, visit_end_from};
use tests::visits::ip;
use tests::wait::{eventually, until};

const DOCUMENT: &str = include_str!("../../docs/recipes.md");

/// The block of this language, with what stands in its place in this test.
fn recipe(language: &str, places: &[(&str, String)]) -> String {
    let begin = format!("```{language}\n");
    let (_, rest) = DOCUMENT.split_once(&begin).expect("the block is there");
    let (block, _) = rest.split_once("```").expect("it ends");
    places.iter().fold(block.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{language}: {from}");
        text.replace(from, to)
    })
}

/// Answers a request with its path and where it comes from; one that wants another protocol hears its own bytes.
fn site() -> Service {
    Service::start(|mut stream| {
        let mut lines = BufReader::new(stream.try_clone().expect("a second handle"));
        let Some(head) = read_head(&mut lines) else { return };
        let header = |name: &str| {
            let mut found = head.lines().filter_map(|line| line.split_once(": "));
            found.find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        if header("upgrade").is_some() {
            // To the one key that is asked with; haproxy checks it.
            let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            stream.write_all(answer.as_bytes()).expect("sent");
            let _ = copy(&mut lines, &mut stream);
            return;
        }
        let path = head.split(' ').nth(1).expect("a path");
        let body = format!("{path} for {} from {:?}", header("host").unwrap_or_default(), header("x-forwarded-for"));
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).expect("sent");
    })
}

/// A browser: asks over TLS for a page, and then for a WebSocket whose bytes come back.
const BROWSER: &str = r#"
import socket, ssl, sys
port = int(sys.argv[1])
context = ssl._create_unverified_context()
def connect():
    plain = socket.create_connection(("127.0.0.1", port), 30)
    return context.wrap_socket(plain, server_hostname="app.example.com")
def head(stream):
    read = b""
    while not read.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        assert byte, read
        read += byte
    return read
page = connect()
page.sendall(b"GET /page HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n")
assert b" 200 " in head(page)
body = b""
while (more := page.recv(1000)):
    body += more
socket = connect()
socket.sendall(b"GET /chat HTTP/1.1\r\nHost: app.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
               b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
assert b" 101 " in head(socket)
for message in [b"hello", b"x" * 5000]:
    socket.sendall(message)
    back = b""
    while len(back) < len(message):
        back += socket.recv(10000)
    assert back == message
print(body.decode())
"#;

/// Has `start` start the recipe's web server, and visits the site through it.
fn is_served(language: &str, program: &str, start: impl FnOnce(&mut Foreign, &str, String)) {
    let (Some(program), Some(openssl), Some(python)) = (find(program), find("openssl"), find("python3")) else {
        return;
    };
    let service = site();
    let server = Server::start(options().threads(1));
    let private = options().threads(1).tunnel(service.addr()).tunnel_key("allow_sources", r#"["127.0.0.1/32"]"#);
    let client = Client::start(&server, private);
    let mut front = Foreign::new();
    let pem = front.dir().join("app.pem").display().to_string();
    let key = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let files = ["-keyout", &pem, "-out", &format!("{pem}.crt"), "-subj", "/CN=app.example.com"];
    assert!(Command::new(openssl).args(key).args(files).output().expect("openssl").status.success());
    let both = std::fs::read(format!("{pem}.crt")).expect("read");
    std::fs::OpenOptions::new().append(true).open(&pem).and_then(|mut pem| pem.write_all(&both)).expect("append");
    let port = free_port();
    let tunnel = client.public().port().to_string();
    let places = [("443", port.to_string()), ("7000", tunnel), ("/etc/ssl/app.pem", pem)];
    start(&mut front, &program, recipe(language, &places));
    until("the web server listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    eventually("the site is there", || {
        let run = Command::new(&python).args(["-c", BROWSER, &port.to_string()]).output().expect("python");
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        if said == "/page for app.example.com from Some(\"127.0.0.1\")\n" {
            return Ok(());
        }
        Err(format!("{said}{}", String::from_utf8_lossy(&run.stderr)))
    });
    assert_eq!(visit_end_from(ip(2), client.public()).0, 0, "nobody goes around it");
}

#[test]
fn nginx_in_front() {
    is_served("nginx", "nginx", |front, program, recipe| {
        let dir = front.dir().display().to_string();
        let paths =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|of| format!("{of}_temp_path {dir}/{of};"));
        let config = front.file(
            "conf",
            format!(
                "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/log;\nevents {{}}\nhttp {{\n\
                 access_log off;\n{}\n{recipe}}}\n",
                paths.concat()
            ),
        );
        front.start(program, &["-p", &dir, "-e", &format!("{dir}/log"), "-c", &config]);
    });
}

#[test]
fn haproxy_in_front() {
    is_served("haproxy", "haproxy", |front, program, recipe| {
        let config = front.file("conf", recipe);
        front.start(program, &["-db", "-f", &config]);
    });
}

#[test]
fn caddy_in_front() {
    is_served("caddy", "caddy", |front, program, recipe| {
        // No other port is taken, and nothing is kept elsewhere.
        let config = front.file("Caddyfile", format!("{{\n admin off\n auto_https off\n}}\n{recipe}"));
        let dir = front.dir().display().to_string();
        let (kept, data) = (format!("XDG_CONFIG_HOME={dir}"), format!("XDG_DATA_HOME={dir}"));
        front.start("env", &[&kept, &data, program, "run", "--adapter", "caddyfile", "--config", &config]);
    });
}

/// A visitor of an FTP server: more transfers, one after the other, than there are ports, and two at once.
const FTP_VISITOR: &str = r#"
import ftplib, io, sys
def visit():
    ftp = ftplib.FTP()
    ftp.trust_server_pasv_ipv4_address = True
    ftp.connect(sys.argv[1], 2121, 30)
    ftp.login()
    return ftp
one, other = visit(), visit()
expected = b"what is in it\n" * 100000
for ftp in [one, other] * 8:
    read = io.BytesIO()
    ftp.retrbinary("RETR file", read.write)
    assert read.getvalue() == expected
first, second = one.transfercmd("RETR file"), other.transfercmd("RETR file")
for ftp, data in [(other, second), (one, first)]:
    read = b""
    while (more := data.recv(65536)):
        read += more
    assert read == expected
    data.close()
    assert ftp.voidresp().startswith("226")
print("served")
"#;

/// Python, if it has this module. If not, says so past the test runner's capture.
fn python_with(module: &str) -> Option<String> {
    let python = find("python3")?;
    let run = Command::new(&python).args(["-c", &format!("import {module}")]).output().expect("python");
    if !run.status.success() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs {module} for {python}");
    }
    run.status.success().then_some(python)
}

/// A service in gRPC, without TLS: it answers calls, echoes streams, and fails with a status of its own.
const GRPC_SERVICE: &str = r#"
import grpc, sys, threading
from concurrent.futures import ThreadPoolExecutor
def say(request, context):
    return b"heard " + request
def chat(requests, context):
    for request in requests:
        yield request
def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as it should")
methods = {"Say": grpc.unary_unary_rpc_method_handler(say), "Chat": grpc.stream_stream_rpc_method_handler(chat),
           "Fail": grpc.unary_unary_rpc_method_handler(fail)}
server = grpc.server(ThreadPoolExecutor(8))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", methods)])
assert server.add_insecure_port(sys.argv[1])
server.start()
threading.Event().wait()
"#;

/// Its client: over TLS if it is given an authority, and else in the clear.
const GRPC_CLIENT: &str = r#"
import grpc, sys
at, ca = sys.argv[1:]
if ca:
    trusts = grpc.ssl_channel_credentials(open(ca, "rb").read())
    channel = grpc.secure_channel(at, trusts, [("grpc.ssl_target_name_override", "grpc.example.com")])
else:
    channel = grpc.insecure_channel(at)
call = lambda method, kind="unary_unary": getattr(channel, kind)("/test.Echo/" + method)
assert call("Say")(b"x" * 100000, timeout=60) == b"heard " + b"x" * 100000
words = [bytes([n]) * n * 100 for n in range(100)]
assert list(call("Chat", "stream_stream")(iter(words), timeout=60)) == words
try:
    call("Fail")(b"", timeout=60)
    assert False, "it fails"
except grpc.RpcError as error:
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "as it should"), error
print("served")
"#;

#[test]
fn grpc_by_port_and_over_tls_that_ends_at_the_server() {
    let Some(python) = python_with("grpc") else { return };
    let papers = Papers::new();
    // A name of its own: one like the authority's looks as if it had signed itself.
    papers.issue_with("site", &["grpc.example.com"], |site| site.distinguished_name.push(DnType::CommonName, "site"));
    let [cert, key, ca] = ["site.pem", "site-key.pem", "ca.pem"].map(|name| papers.path(name).display().to_string());
    let certificate = format!("[[certificates]]\ncert = {cert:?}\nkey = {key:?}\n");
    let mut service = Foreign::new();
    let at = format!("127.0.0.1:{}", free_port());
    service.start(&python, &["-c", GRPC_SERVICE, &at]);
    until("the service listens", || TcpStream::connect(&at).is_ok());
    let server = Server::start(options().key("https_port", 0).key("http_port", 0).tables(&certificate));
    let by_port = format!("[[tunnels]]\nname = \"port\"\nlocal = {at:?}\n");
    let tables = recipe("grpc", &[("127.0.0.1:50051", at)]) + &by_port;
    let client = Client::spawn(&server, options().tables(&tables));
    client.output_line("Forwarding http://grpc.example.com");
    client.output_line("Forwarding tcp://");
    for (port, ca) in [(client.forwardings()[0].port, ""), (server.hosts("https").port(), &*ca)] {
        let at = format!("127.0.0.1:{port}");
        let run = Command::new(&python).args(["-c", GRPC_CLIENT, &at, ca]).output().expect("python");
        assert!(run.stdout == b"served\n", "{at}: {}", String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn passive_ftp() {
    let Some(python) = python_with("pyftpdlib") else { return };
    // Addresses of this machine that no other test uses: all their ports are free.
    let (public, private) = ("127.66.4.1", "127.66.4.2");
    let mut ftp = Foreign::new();
    let _file = ftp.file("file", "what is in it\n".repeat(100_000));
    let words = recipe("pyftpdlib", &[("127.0.0.1", private.into()), ("203.0.113.7", public.into())]);
    let words: Vec<_> = words.split_whitespace().skip(1).collect();
    let dir = ftp.dir().display().to_string();
    ftp.start(&python, &[&words[..], &["-d", &dir]].concat());
    until("the FTP server listens", || TcpStream::connect((private, 2121)).is_ok());
    let server = Server::start(options().flag("bind-addr", public));
    let tunnels = recipe("ftp", &[("127.0.0.1", private.into())]);
    let client = Client::spawn(&server, options().tables(&tunnels));
    until("each tunnel is there", || client.forwardings().len() == 11);
    let run = Command::new(&python).args(["-c", FTP_VISITOR, public]).output().expect("python");
    assert!(run.stdout == b"served\n", "{}", String::from_utf8_lossy(&run.stderr));
}
