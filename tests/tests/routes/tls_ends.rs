//! TLS of a visitor that ends at the server, behind which the tunnel of a host serves plain HTTP.

use super::{ask, client, named_echo, request, server, table};
use rcgen::DnType;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use tests::foreign::find;
use tests::papers::{NOW, Papers};
use tests::programs::{Options, Server, options};
use tests::services::Service;
use tests::sockets::{End, connect, connect_from, finish, read_end, reset};
use tests::wait::{eventually, until};

/// A visitor's TLS.
pub(super) type Visitor = StreamOwned<ClientConnection, TcpStream>;

/// A section of the server's file.
fn certificate(papers: &Papers, who: &str, more: &str) -> String {
    let [cert, key] = [format!("{who}.pem"), format!("{who}-key.pem")].map(|name| papers.path(&name));
    format!("[[certificates]]\ncert = {cert:?}\nkey = {key:?}\n{more}")
}

/// A server that has a certificate for these names, and who has signed it.
pub(super) fn certified(names: &[&str], more: Options) -> (Papers, Server) {
    let papers = Papers::new();
    // A name of its own: one like the authority's looks as if it had signed itself.
    papers.issue_with("site", names, |params| params.distinguished_name.push(DnType::CommonName, "site"));
    let server = server(more.tables(&certificate(&papers, "site", "")));
    (papers, server)
}

pub(super) fn config(papers: &Papers, alpn: &[&str]) -> ClientConfig {
    trusting(&fs::read(papers.path("ca.pem")).expect("it is there"), alpn)
}

/// Trusts this authority.
pub(super) fn trusting(pem: &[u8], alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem).expect("a certificate")).expect("an authority");
    let config = ClientConfig::builder_with_provider(ring::default_provider().into());
    let config = config.with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12]).expect("both");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.resumption = Resumption::disabled();
    config
}

/// A visitor whose TLS names `host`.
pub(super) fn visit_as(config: ClientConfig, at: SocketAddr, host: &str) -> Visitor {
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("a connection"), connect(at))
}

fn visit(papers: &Papers, server: &Server, host: &str) -> Visitor {
    visit_as(config(papers, &["http/1.1"]), server.hosts("https"), host)
}

/// Says `words` and that no more comes, and returns all that comes back, up to an end that is said inside of TLS.
#[track_caller]
pub(super) fn say_all(visitor: &mut Visitor, words: &str) -> String {
    visitor.write_all(words.as_bytes()).expect("said");
    visitor.conn.send_close_notify();
    visitor.flush().expect("said");
    let mut all = String::new();
    visitor.read_to_string(&mut all).expect("all of it, and its end");
    all
}

/// Why nothing was said to a visitor.
fn refused(visitor: &mut Visitor) -> String {
    let said = visitor.write_all(request("a").as_bytes()).and_then(|()| visitor.read(&mut [0; 100]));
    said.expect_err("nobody serves it").to_string()
}

/// P-HOST-8: the tunnel of a host serves visitors in the clear, and over TLS where the server has its certificate.
#[test]
fn a_host_is_reached_over_tls_too_where_the_server_has_its_certificate() {
    let [app, dev] = ["app", "dev"].map(named_echo);
    let (papers, server) = certified(&["app.example", "*.dev.example"], options());
    let tables = [
        table("app", "http", &["app.example"], app.addr()),
        table("dev", "http", &["*.dev.example", "other.example"], dev.addr()),
    ];
    let _client = client(&server, options(), &tables);
    for (host, service) in [("app.example", "app"), ("APP.Example", "app"), ("x.dev.example", "dev")] {
        let words = request(host);
        assert_eq!(say_all(&mut visit(&papers, &server, host), &words), service.to_owned() + &words);
        assert_eq!(ask(server.hosts("http"), &words), (service.to_owned() + &words).into_bytes());
    }
    // Nobody's; without a certificate; one label more than the certificate is for.
    for host in ["b.example", "other.example", "x.y.dev.example"] {
        let why = refused(&mut visit(&papers, &server, host));
        assert!(why.contains("UnrecognisedName"), "{host}: {why}");
    }
}

/// P-HOST-8: whoever takes TLS as it is keeps it, where its host is as near.
#[test]
fn tls_that_is_passed_on_goes_before() {
    let echo = named_echo("plain");
    let own = Service::start(|mut stream| {
        let mut byte = [0];
        // The first byte of a ClientHello.
        let _gone =
            stream.read_exact(&mut byte).and_then(|()| stream.write_all(&[0x15, 3, 3, 0, 2, 2, 40 + byte[0] - 0x16]));
    });
    let (papers, server) = certified(&["app.example", "b.example"], options());
    let tables = [
        table("plain", "http", &["app.example", "*.example"], echo.addr()),
        table("sealed", "https", &["app.example", "*.a.example"], own.addr()),
    ];
    let _client = client(&server, options(), &tables);
    let why = refused(&mut visit(&papers, &server, "app.example"));
    assert!(why.contains("HandshakeFailure"), "the service's own alert: {why}");
    let words = request("b.example");
    assert_eq!(say_all(&mut visit(&papers, &server, "b.example"), &words), "plain".to_owned() + &words);
}

/// Both halves end inside of TLS, in either order, and each byte comes through.
#[test]
fn streams_end_inside_of_tls_as_they_do_outside() {
    let words: String = request("app.example") + &"0123456789abcdef".repeat(1 << 16);
    let length = words.len();
    let echo = Service::echo();
    // Ends first, and reads on.
    let (sum, sums) = channel();
    let sum = Mutex::new(sum);
    let early = Service::start(move |mut stream| {
        stream.write_all(b"early").expect("said");
        finish(&stream);
        let (bytes, end) = read_end(&mut stream);
        sum.lock().expect("one at a time").send((bytes, end)).expect("somebody waits");
    });
    for relay in ["copy", "splice"] {
        let (papers, server) = certified(&["app.example", "early.example"], options().env("CPROXY_TEST_RELAY", relay));
        let tables =
            [table("app", "http", &["app.example"], echo.addr()), table("e", "http", &["early.example"], early.addr())];
        let _client = client(&server, options(), &tables);
        for _ in 0..3 {
            let mut visitor = visit(&papers, &server, "app.example");
            visitor.write_all(&words.as_bytes()[..100]).expect("said");
            let mut back = Vec::new();
            let mut at = 100;
            while at < length {
                let end = (at + 40_000).min(length);
                visitor.write_all(&words.as_bytes()[at..end]).expect("said");
                let mut piece = vec![0; end - at];
                visitor.read_exact(&mut piece).expect("echoed");
                back.extend_from_slice(&piece);
                at = end;
            }
            visitor.conn.send_close_notify();
            visitor.flush().expect("said");
            visitor.read_to_end(&mut back).expect("the rest, and its end");
            assert!(back == words.as_bytes(), "{relay}");
        }
        let mut visitor = visit(&papers, &server, "early.example");
        let head = request("early.example");
        visitor.write_all(head.as_bytes()).expect("said");
        let mut told = String::new();
        visitor.read_to_string(&mut told).expect("an end that is said");
        assert_eq!(told, "early");
        visitor.write_all(words.as_bytes()).expect("the other half goes on");
        visitor.conn.send_close_notify();
        visitor.flush().expect("said");
        assert_eq!(sums.recv().expect("it was counted"), ((head.len() + length) as u64, End::Clean), "{relay}");
    }
}

/// What is cut short never looks complete: neither a visitor's stream without the end that TLS has, nor a service's.
#[test]
fn what_is_cut_short_inside_of_tls_is_a_reset() {
    let (end, ends) = channel();
    let end = Mutex::new(end);
    let reads = Service::start(move |mut stream| {
        let end = end.lock().expect("one at a time").clone();
        end.send(read_end(&mut stream)).expect("somebody waits");
    });
    let resets = Service::start(|mut stream| {
        let _head = stream.read(&mut [0; 1000]);
        stream.write_all(b"some").expect("said");
        reset(stream);
    });
    let (papers, server) = certified(&["reads.example", "resets.example"], options());
    let tables =
        [table("r", "http", &["reads.example"], reads.addr()), table("x", "http", &["resets.example"], resets.addr())];
    let _client = client(&server, options(), &tables);
    let head = request("reads.example");
    let whole = head.len() as u64;
    let said = || {
        let mut visitor = visit(&papers, &server, "reads.example");
        visitor.write_all(head.as_bytes()).expect("said");
        visitor
    };
    let mut clean = said();
    clean.conn.send_close_notify();
    clean.flush().expect("said");
    assert_eq!(ends.recv().expect("it ended"), (whole, End::Clean));
    let cut = said();
    finish(&cut.sock);
    assert_eq!(ends.recv().expect("it ended"), (whole, End::Reset), "an end of TCP alone");
    let gone = said();
    reset(gone.sock);
    assert_eq!(ends.recv().expect("it ended"), (whole, End::Reset));
    let mut visitor = visit(&papers, &server, "resets.example");
    visitor.write_all(request("resets.example").as_bytes()).expect("said");
    let mut told = Vec::new();
    let error = visitor.read_to_end(&mut told).expect_err("a stream that was cut short");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{error}");
    assert_eq!(told, b"some", "what was said before comes through");
}

/// P-HOST-9: TLS names one holder's host, and the request inside another's.
#[test]
fn the_host_inside_is_of_the_holder_that_tls_has_named() {
    let [one, two, other] = ["one", "two", "other"].map(named_echo);
    let scopes =
        "[[clients]]\nname = \"a\"\ntoken = \"token of a\"\n[[clients]]\nname = \"b\"\ntoken = \"token of b\"\n";
    let (papers, server) = certified(&["one.example"], options().tables(scopes));
    let [a, b] = ["token of a", "token of b"].map(|token| options().env("CPROXY_TOKEN", token));
    let tables = [table("1", "http", &["one.example"], one.addr()), table("2", "http", &["two.example"], two.addr())];
    let _a = client(&server, a, &tables);
    let _b = client(&server, b, &[table("o", "http", &["other.example"], other.addr())]);
    let ask = |sni: &str, host: &str| say_all(&mut visit(&papers, &server, sni), &request(host));
    assert!(ask("one.example", "one.example").starts_with("oneGET"));
    assert!(ask("one.example", "two.example").starts_with("twoGET"), "of the same holder");
    for host in ["other.example", "nobody.example"] {
        assert!(ask("one.example", host).starts_with("HTTP/1.1 421 Misdirected Request"), "{host}");
    }
    assert!(ask("one.example", "a b").starts_with("HTTP/1.1 400"), "a refusal comes through TLS, too");
    assert_eq!(other.accepted(), 0);
}

/// HTTP/2 is agreed on where the service speaks it, and then what TLS names leads to the service.
#[test]
fn a_service_that_speaks_http_2_gets_it() {
    let [both, two] = ["both", "two"].map(named_echo);
    let (papers, server) = certified(&["both.example", "two.example"], options());
    let tables = [
        table("both", "http", &["both.example"], both.addr()) + "alpn = [\"h2\", \"http/1.1\"]\n",
        table("two", "http", &["two.example"], two.addr()) + "alpn = [\"h2\"]\n",
    ];
    let _client = client(&server, options(), &tables);
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}";
    let at = server.hosts("https");
    for (host, offered, agreed) in [
        ("both.example", &["h2", "http/1.1"][..], Some(&b"h2"[..])),
        ("both.example", &["http/1.1"], Some(b"http/1.1")),
        ("both.example", &[], None),
        ("two.example", &["h2", "http/1.1"], Some(b"h2")),
    ] {
        let mut visitor = visit_as(config(&papers, offered), at, host);
        let words = if agreed == Some(b"h2") { preface.to_owned() } else { request(host) };
        let told = say_all(&mut visitor, &words);
        assert_eq!(visitor.conn.alpn_protocol(), agreed, "{host} {offered:?}");
        assert_eq!(told, host.split('.').next().expect("a name").to_owned() + &words);
    }
    let why = refused(&mut visit_as(config(&papers, &["http/1.1"]), at, "two.example"));
    assert!(why.contains("NoApplicationProtocol"), "{why}");
}

/// A certificate that is renewed is shown by itself, and one that is added after a reload.
#[test]
fn certificates_change_while_the_server_runs() {
    let echo = Service::echo();
    let (papers, server) = certified(&["a.example"], options());
    let tables = [table("a", "http", &["a.example", "b.example"], echo.addr())];
    let _client = client(&server, options(), &tables);
    let mut stays = visit(&papers, &server, "a.example");
    stays.write_all(request("a.example").as_bytes()).expect("said");
    let shown = |host: &str| {
        let mut visitor = visit(&papers, &server, host);
        match visitor.write_all(request(host).as_bytes()) {
            Ok(()) => Ok(visitor.conn.peer_certificates().expect("it was checked")[0].to_vec()),
            Err(error) => Err(error.to_string()),
        }
    };
    let first = shown("a.example").expect("it is served");
    papers.issue("site", &["a.example"], NOW);
    eventually("the renewed certificate is shown", || match shown("a.example") {
        Ok(now) if now != first => Ok(()),
        other => Err(format!("{other:.40?}")),
    });
    server.log_line("certificate_renewed");
    assert!(shown("b.example").expect_err("it has none").contains("UnrecognisedName"));
    papers.issue("other", &["b.example"], NOW);
    let text = fs::read_to_string(server.config_file()).expect("its file");
    server.reload(&(text + &certificate(&papers, "other", "default = true\n")));
    assert!(shown("b.example").is_ok(), "{:?}", shown("b.example"));
    let mut back = vec![0; request("a.example").len()];
    stays.read_exact(&mut back).expect("whoever was there stays");
    server.reload("http_port = 0\nhttps_port = 0\n");
    assert!(shown("a.example").expect_err("there is none any more").contains("UnrecognisedName"));
}

/// P-CONN-6: at a port that is there for clients, too, whether or not they speak TLS, visitors' TLS ends as at any other.
#[test]
fn tls_ends_at_the_one_port_that_is_there_for_everybody() {
    let relay = Ipv4Addr::new(127, 0, 0, 8);
    let [app, own] = ["app", "own"].map(named_echo);
    let papers = Papers::new();
    papers.issue("site", &["app.example"], NOW);
    let tables = [
        table("app", "http", &["app.example"], app.addr()),
        table("own", "https", &["own.example"], own.addr()),
        table("away", "http", &["away.example"], app.addr()) + "redirect_to_https = true\n",
    ];
    let words = request("app.example");
    let told = "app".to_owned() + &words;
    for tls in [false, true] {
        let options = options().one_port().key("trusted_proxies", format!("[\"{relay}\"]"));
        let options = if tls { options.tls() } else { options };
        let server = Server::start(options.tables(&certificate(&papers, "site", "")));
        let _client = client(&server, tests::programs::options(), &tables);
        let at = server.ctl();
        assert_eq!([server.proxy(), server.hosts("https")], [at; 2]);
        for alpn in [&[][..], &["http/1.1"], &["cproxy/2", "http/1.1"]] {
            assert_eq!(say_all(&mut visit_as(config(&papers, alpn), at, "app.example"), &words), told, "{alpn:?}");
        }
        let mut slow = visit(&papers, &server, "app.example");
        let mut hello = Vec::new();
        slow.conn.write_tls(&mut hello).expect("its hello");
        slow.sock.set_nodelay(true).expect("an option");
        hello.iter().for_each(|byte| slow.sock.write_all(&[*byte]).expect("said"));
        assert_eq!(say_all(&mut slow, &words), told, "byte by byte");
        let mut fronted = visit(&papers, &server, "app.example");
        fronted.sock = connect_from(relay, at).expect("not reset");
        fronted.sock.write_all(b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n").expect("said");
        assert_eq!(say_all(&mut fronted, &words), told, "behind a relay");
        assert!(refused(&mut visit(&papers, &server, "b.example")).contains("UnrecognisedName"));
        assert_eq!(ask(at, &words), told.as_bytes(), "in the clear");
        let away = String::from_utf8(ask(at, request("away.example"))).expect("text");
        assert!(away.contains(&format!("\r\nLocation: https://away.example:{}/\r\n", at.port())), "{away}");
    }
}

/// P-HOST-2: who begins a handshake and goes no further is bounded in time and number, as who says nothing is.
#[test]
fn slow_handshakes_are_bounded() {
    let echo = Service::echo();
    let (papers, server) =
        certified(&["a.example"], options().key("route_timeout", 1).key("max_handshakes_per_source", 8));
    let _client = client(&server, options(), &[table("a", "http", &["a.example"], echo.addr())]);
    let at = server.hosts("https");
    let hello = || {
        let mut visitor = visit(&papers, &server, "a.example");
        visitor.conn.write_tls(&mut visitor.sock).expect("said");
        visitor.sock
    };
    let mut slow: Vec<_> = (0..32).map(|_| hello()).collect();
    let words = request("a.example");
    assert_eq!(say_all(&mut visit(&papers, &server, "a.example"), &words), words, "others are served");
    let cut = |visitor: &mut TcpStream| read_end(visitor).1 == End::Reset;
    assert!(slow.iter_mut().all(cut), "each is reset, by others or by the time");
    let mut garbage = connect(at);
    let mut bytes = Vec::new();
    ClientConnection::new(Arc::new(config(&papers, &[])), ServerName::try_from("a.example").expect("a name"))
        .expect("a connection")
        .write_tls(&mut bytes)
        .expect("a hello");
    bytes.extend([0x16, 3, 3, 0, 3, 1, 2, 3]);
    garbage.write_all(&bytes).expect("said");
    let mut told = Vec::new();
    let _end = garbage.read_to_end(&mut told);
    // Behind the ServerHello alerts are encrypted: two bytes, their kind, and the tag.
    let alert = told.windows(5).any(|five| five == [0x17, 3, 3, 0, 2 + 1 + 16]);
    assert!(alert, "it is told why: {told:02x?}");
    let asks = || say_all(&mut visit(&papers, &server, "a.example"), &words) == words;
    let many: Vec<_> = (0..4).map(|_| asks()).collect();
    assert!(many.into_iter().all(|served| served));
}

/// P-HOST-10, P-HOST-11.
#[test]
fn plain_visitors_are_sent_to_https_and_services_told_who_comes() {
    let echo = Service::echo();
    let (papers, server) = certified(&["safe.example"], options());
    let told = "forwarded_headers = true\none_request_per_connection = true\n";
    let tables = [
        table("safe", "http", &["safe.example"], echo.addr()) + "redirect_to_https = true\n" + told,
        table("open", "http", &["open.example"], echo.addr()) + told,
    ];
    let _client = client(&server, options(), &tables);
    let (http, https) = (server.hosts("http"), server.hosts("https"));
    let answer = String::from_utf8(ask(http, "GET /a?b HTTP/1.1\r\nHost: Safe.example:80\r\n\r\n")).expect("text");
    assert!(answer.starts_with("HTTP/1.1 308 Permanent Redirect\r\n"), "{answer}");
    assert!(answer.contains(&format!("\r\nLocation: https://safe.example:{}/a?b\r\n", https.port())), "{answer}");
    let spoofed = "GET / HTTP/1.1\r\nHost: safe.example\r\nX-Forwarded-For: 10.0.0.1\r\n\r\nrest";
    let told = say_all(&mut visit(&papers, &server, "safe.example"), spoofed);
    assert_eq!(
        told,
        "GET / HTTP/1.1\r\nHost: safe.example\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: safe.example\r\nConnection: close\r\n\r\nrest"
    );
    let plain = String::from_utf8(ask(http, spoofed.replace("safe", "open"))).expect("text");
    assert!(plain.contains("X-Forwarded-Proto: http\r\n") && !plain.contains("10.0.0.1"), "{plain}");
}

/// curl checks the certificate, and speaks what was agreed on.
#[test]
fn curl_reaches_a_host_whose_tls_ends_at_the_server() {
    let Some(curl) = find("curl") else { return };
    let site = Service::start(|mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
            head.push(byte[0]);
        }
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    });
    let (papers, server) = certified(&["app.example"], options());
    let _client = client(&server, options(), &[table("a", "http", &["app.example"], site.addr())]);
    let port = server.hosts("https").port();
    let url = format!("https://app.example:{port}/");
    let get = |more: &[&str]| {
        let ca = papers.path("ca.pem").display().to_string();
        let resolve = format!("app.example:{port}:127.0.0.1");
        let fixed = ["-sS", "--noproxy", "*", "--cacert", &ca, "--resolve", &resolve, &url];
        Command::new(&curl).args(fixed).args(more).output().expect("curl runs")
    };
    for more in [&[][..], &["--tls-max", "1.2"], &["--http2"], &[&url, &url]] {
        let output = get(more);
        assert!(output.status.success() && output.stdout.starts_with(b"hello"), "{more:?}: {output:?}");
    }
    until("all are over", || site.open() == 0);
}
