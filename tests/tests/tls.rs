//! Encrypted connections: the same bytes, ends and resets as in the clear; who is trusted, who is not, and what either
//! side says about it; what somebody on the way can see and change.
//!
//! `CPROXY_TEST_TLS=1 cargo test -p tests --test end_to_end -- half_close:: resets:: …` runs other tests of the programs
//! over TLS; not those that start a server again (its key would be another) or speak the protocol by hand.

use protocol_sm::ids::ClientId;
use protocol_sm::wire::{ClientHandshake, ClientHello, ConnKind, Message, Preface, ToServer};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;
use tests::exchange::{Exchange, Exchanges, Order, send_part};
use tests::gate::{Between, Gate};
use tests::leaks::Baseline;
use tests::papers::{NOW, Papers};
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Options, Server, expect_calm, options};
use tests::services::Service;
use tests::sockets::{End, connect, read_all, read_each, read_end, reset, small_receive_buffer};
use tests::visits::{greeting, ping, short_visit};
use tests::wait::{PATIENCE, until, until_still};

fn setup(service: SocketAddr, threads: usize) -> (Server, Client) {
    let server = Server::start(options().brisk().threads(threads).tls());
    let client = Client::start(&server, options().brisk().threads(threads).tunnel(service));
    (server, client)
}

#[test]
fn bytes_and_ends_are_those_of_the_clear() {
    const SIZES: [(u64, u64); 5] = [(0, 0), (0, 1), (70_000, 300_000), (2 << 20, 1 << 20), (32 << 20, 32 << 20)];
    for threads in [1, 3] {
        let service = Exchanges::start();
        let (server, client) = setup(service.addr(), threads);
        let mut visits = 0;
        for order in [Order::Together, Order::VisitorFirst, Order::ServiceFirst] {
            for (up, down) in SIZES {
                let exchange = Exchange::new(visits).up(up).down(down).order(order);
                exchange.run(client.public());
                visits += 1;
                if up < 1 << 20 {
                    exchange.slow_visitor().slow_service().run(client.public());
                    visits += 1;
                }
            }
        }
        service.expect(visits.into());
        assert_eq!(client.stop().aborted, 0);
        assert_eq!(server.stop().finished, u64::from(visits));
    }
}

#[test]
fn many_streams_at_once_do_not_mix() {
    let service = Exchanges::start();
    let (_server, client) = setup(service.addr(), 2);
    let public = client.public();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let exchange = Exchange::new(number).up(3 << 20).down(3 << 20);
            scope.spawn(move || exchange.run(public));
        }
    });
    service.expect(16);
}

#[test]
fn handshakes_are_paid_for_conns_and_not_for_visitors() {
    let service = Service::echo();
    let (server, client) = setup(service.addr(), 1);
    for number in 0..500 {
        short_visit(client.public(), number);
    }
    client.stop();
    let total = server.stop();
    assert_eq!(total.visitors, 500);
    assert!(total.proxy_conns < 100, "{} conns for 500 visitors one after another", total.proxy_conns);
}

#[test]
fn resets_stay_resets_and_nothing_leaks() {
    let (ends, seen) = channel();
    let service = Service::start(move |mut stream| {
        let mut first = [0; 4];
        if stream.read_exact(&mut first).is_ok() {
            let _ = stream.write_all(&first);
        }
        let _ = ends.send(read_end(&mut stream).1);
    });
    let (server, client) = setup(service.addr(), 1);
    let baseline = Baseline::of(&server, &client);
    for round in 0..20 {
        let mut visitor = client.visit();
        ping(&mut visitor, b"here");
        if round % 2 == 0 {
            visitor.write_all(&[1; 100_000]).expect("send");
        }
        reset(visitor);
        assert_eq!(seen.recv_timeout(PATIENCE), Ok(End::Reset), "round {round}");
    }
    baseline.expect_again();

    let resetting = Service::resetting();
    let client = Client::start(&server, options().brisk().tunnel(resetting.addr()));
    assert_eq!(read_end(&mut connect(client.public())).1, End::Reset);
}

#[test]
fn a_paused_visitor_bounds_memory_and_disturbs_nobody() {
    const TOTAL: u64 = 64 << 20;
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let download = Service::start(move |mut stream| {
        stream.set_write_timeout(None).expect("no write timeout");
        for offset in (0..TOTAL).step_by(64 << 10) {
            send_part(&mut stream, Flow::down(1), offset, offset + (64 << 10)).expect("send");
            counter.fetch_add(64 << 10, Ordering::SeqCst);
        }
    });
    let echo = Service::echo();
    let server = Server::start(options().threads(1).tls());
    let client = Client::start(&server, options().threads(1).tunnel(download.addr()).tunnel(echo.addr()));
    let mut neighbour = connect(client.public_of(echo.addr()));
    ping(&mut neighbour, b"before");
    let before = [server.process().memory(), client.process().memory()];
    let mut visitor = connect(client.public_of(download.addr()));
    small_receive_buffer(&visitor);
    let stuck_at = until_still("bytes sent by the service", || sent.load(Ordering::SeqCst));
    assert!(stuck_at < TOTAL);
    expect_calm([&server, &client]);
    for (program, before) in [&*server, &*client].into_iter().zip(before) {
        let after = program.process().memory();
        assert!(after < before + (8 << 20), "{before} bytes before, {after} while nobody reads");
    }
    ping(&mut neighbour, &[1; 100_000]);
    let mut arrival = Arrival::of(Flow::down(1));
    let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
    assert_eq!((end, arrival.end(TOTAL)), (End::Clean, Ok(())));
}

/// A visitor whose download has begun, and what came of it so far.
fn begin_download(client: &Client) -> (TcpStream, Arrival) {
    let mut visitor = client.visit();
    let mut arrival = Arrival::of(Flow::down(1));
    let mut first = [0; 1000];
    visitor.read_exact(&mut first).expect("the download begins");
    arrival.take(&first).expect("byte for byte");
    (visitor, arrival)
}

#[test]
fn a_session_is_resumed_over_a_new_handshake() {
    const TOTAL: u64 = 32 << 20;
    let service = Service::start(|mut stream| send_part(&mut stream, Flow::down(1), 0, TOTAL).expect("send all of it"));
    let server = Server::start(options().brisk().tls());
    let gate = Gate::before(server.ctl());
    let client = Client::start(&server, options().brisk().tunnel(service.addr()).via(gate.addr()));
    for loss in [Gate::cut, Gate::hang_up, Gate::freeze_present] {
        let (mut visitor, mut arrival) = begin_download(&client);
        let before = gate.accepted();
        loss(&gate);
        until("the client is back", || gate.accepted() > before);
        let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
        assert_eq!((end, arrival.end(TOTAL)), (End::Clean, Ok(())));
    }
    assert_eq!(client.forwardings().len(), 1, "the port stays");
}

/// Whoever reads along sees no token, and nothing that visitors and services say.
#[test]
fn an_eavesdropper_sees_nothing_of_it() {
    const SECRET: &[u8] = b"nobody else is to know this";
    for encrypted in [true, false] {
        let service = Service::echo();
        let server = Server::start(if encrypted { options().tls() } else { options().in_the_clear() });
        let between = Between::new(server.ctl(), server.proxy());
        let tunnel = options().tunnel(service.addr()).via(between.ctl.addr());
        let client = Client::start(&server, tunnel);
        ping(&mut connect(client.public()), SECRET);
        let heard = [between.ctl.recordings(), between.proxy.recordings()].concat();
        let heard_of = |words: &[u8]| heard.iter().any(|bytes| bytes.windows(words.len()).any(|part| part == words));
        assert_eq!(heard_of(b"CPXY"), !encrypted, "the preface");
        // What the client's side says: the echo.
        assert_eq!(heard_of(SECRET), !encrypted, "what the service says");
    }
}

/// Somebody between the two can end a stream, and can neither change it nor make it look whole.
#[test]
fn a_changed_bit_ends_the_stream_and_is_never_delivered() {
    const TOTAL: u64 = 256 << 20;
    let service = Service::start(|mut stream| {
        let _ = send_part(&mut stream, Flow::down(1), 0, TOTAL);
    });
    let server = Server::start(options().brisk().tls());
    let between = Between::new(server.ctl(), server.proxy());
    let client = Client::start(&server, options().brisk().tunnel(service.addr()).via(between.ctl.addr()));
    for gate in [&between.ctl, &between.proxy] {
        let (mut visitor, mut arrival) = begin_download(&client);
        let before = gate.accepted();
        gate.tamper();
        if std::ptr::eq(gate, &between.ctl) {
            until("the client gives the ctl_conn up, and comes back", || gate.accepted() > before);
            reset(visitor);
        } else {
            let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte, as far as it goes"));
            assert_eq!(end, End::Reset);
            assert!(arrival.offset() < TOTAL);
        }
    }
    until("a new visitor is served", || {
        let visitor = tests::sockets::connect_unless_reset(client.public());
        visitor.is_some_and(|mut visitor| visitor.read(&mut [0; 10]).is_ok_and(|n| n > 0))
    });
}

/// Starts a client that is refused for good, and expects each of `words` in what it says.
#[track_caller]
fn refused(server: &Server, options: Options, words: &[&str]) {
    let client = Client::spawn(server, options.tunnel("127.0.0.1:1"));
    assert_eq!(client.exit_code(), 2);
    let log = client.log();
    for word in words {
        assert!(log.contains(word), "it says `{word}`: {log}");
    }
    assert_eq!(client.output(), [""; 0]);
}

#[test]
fn servers_are_known_by_an_authority_and_a_name() {
    let papers = Papers::new();
    papers.issue("good", &["tunnel.example", "127.0.0.1"], NOW);
    papers.issue("other-name", &["other.example"], NOW);
    papers.issue("expired", &["127.0.0.1"], (2000, 2001));
    papers.issue("future", &["127.0.0.1"], (2090, 2091));
    let service = Service::greeter("hi");
    let trusting = papers.file(&options(), "tls_ca", "ca.pem");

    let good = Server::start(papers.identity(options(), "good"));
    assert_eq!(greeting(Client::start(&good, trusting.clone().tunnel(service.addr())).public()), "hi");
    let named = trusting.clone().key("tls_server_name", "\"tunnel.example\"").tunnel(service.addr());
    assert_eq!(greeting(Client::start(&good, named).public()), "hi");
    refused(&good, trusting.clone().key("tls_server_name", "\"wrong.example\""), &["tls_server_name", "another name"]);
    // The machine's own authorities know nothing of it.
    refused(&good, options().flag("tls", true), &["tls_pin", "tls_ca", "that this machine trusts"]);

    let cases: [(&str, &[&str]); 3] = [
        ("other-name", &["another name", "tls_server_name"]),
        ("expired", &["expired", "clock"]),
        ("future", &["not valid yet", "clock"]),
    ];
    for (who, words) in cases {
        let server = Server::start(papers.identity(options(), who));
        refused(&server, trusting.clone(), words);
        refused(&server, trusting.clone(), &["tls_ca", "ca.pem"]);
    }

    let strangers = Papers::new();
    refused(&good, strangers.file(&options(), "tls_ca", "ca.pem"), &["signed by nobody that this client trusts"]);
}

/// A certificate for 127.0.0.1 as `openssl req -x509` makes it: signed by itself, and an authority's.
fn own_authority(papers: &Papers, who: &str, years: (i32, i32)) {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    std::fs::write(papers.path(&format!("{who}.pem")), certificate.pem()).expect("write");
    std::fs::write(papers.path(&format!("{who}-key.pem")), key.serialize_pem()).expect("write");
}

#[test]
fn a_certificate_that_is_trusted_itself_is_taken_though_it_is_an_authoritys() {
    let papers = Papers::new();
    ["server", "client", "stranger"].iter().for_each(|who| own_authority(&papers, who, NOW));
    own_authority(&papers, "expired", (2000, 2001));
    let service = Service::greeter("hi");
    let server = Server::start(papers.file(&papers.identity(options(), "server"), "tls_client_ca", "client.pem"));
    let trusting = papers.file(&options(), "tls_ca", "server.pem");
    let client = papers.identity(trusting.clone(), "client");
    assert_eq!(greeting(Client::start(&server, client.clone().tunnel(service.addr())).public()), "hi");

    // All else is as with any other certificate: who it is, its name, its dates.
    refused(&server, papers.identity(trusting.clone(), "stranger"), &["does not accept this client's certificate"]);
    let other_name = client.key("tls_server_name", "\"other.example\"");
    refused(&server, other_name, &["another name", "tls_server_name"]);
    refused(&server, papers.file(&options(), "tls_ca", "client.pem"), &["CA:TRUE"]);
    let expired = Server::start(papers.identity(options(), "expired"));
    refused(&expired, papers.file(&options(), "tls_ca", "expired.pem"), &["expired", "clock"]);
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_with_the_usual_reason() {
    let papers = Papers::new();
    // Issued by an authority that the trusted one signed, and shown without that one.
    let mut between = CertificateParams::new(Vec::new()).expect("no names");
    between.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    between.distinguished_name.push(DnType::CommonName, "between");
    let between_key = KeyPair::generate().expect("a key");
    let chain = between.signed_by(&between_key, &papers.issuer).expect("a certificate").pem();
    let issuer = Issuer::new(between, between_key);
    let leaf = |purpose: &[ExtendedKeyUsagePurpose], issuer: &Issuer<'static, KeyPair>, who: &str| {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("names");
        params.extended_key_usages = purpose.to_vec();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, issuer).expect("a certificate").pem();
        std::fs::write(papers.path(&format!("{who}-key.pem")), key.serialize_pem()).expect("write");
        std::fs::write(papers.path(&format!("{who}.pem")), &certificate).expect("write");
        certificate
    };
    let trusting = papers.file(&options(), "tls_ca", "ca.pem");
    let certificate = leaf(&[], &issuer, "short");
    let server = Server::start(papers.identity(options(), "short"));
    refused(&server, trusting.clone(), &["signed by nobody that this client trusts", "fullchain.pem", "cert.pem"]);
    std::fs::write(papers.path("short.pem"), certificate + &chain).expect("write");
    let service = Service::greeter("hi");
    let server = Server::start(papers.identity(options(), "short"));
    assert_eq!(greeting(Client::start(&server, trusting.clone().tunnel(service.addr())).public()), "hi");

    leaf(&[ExtendedKeyUsagePurpose::ClientAuth], &papers.issuer, "purpose");
    let server = Server::start(papers.identity(options(), "purpose"));
    refused(&server, trusting, &["another purpose", "serverAuth"]);
}

#[test]
fn servers_are_known_by_a_pin_that_outlives_restarts() {
    let service = Service::greeter("hi");
    let with_tls = options().tls();
    let server = Server::start(with_tls.clone());
    let pin = server.pin().to_owned();
    assert_eq!(greeting(Client::start(&server, options().tunnel(service.addr())).public()), "hi");
    let in_the_file = options().key("tls_pin", format!("\"{pin}\"")).tunnel(service.addr());
    assert_eq!(greeting(Client::start(&server, in_the_file).public()), "hi");
    let wrong = format!("sha256:{}", "5a".repeat(32));
    refused(&server, options().flag("tls-pin", &wrong), &["tls_pin", "--tls-pin", &wrong, &pin]);
    server.stop();
    drop(server);
    assert_eq!(Server::start(with_tls).pin(), pin, "the certificate was kept");

    // A pin is enough for a certificate that has expired, and for any name.
    let papers = Papers::new();
    papers.issue("expired", &["other.example"], (2000, 2001));
    let server = Server::start(papers.identity(options(), "expired"));
    assert_eq!(greeting(Client::start(&server, options().tunnel(service.addr())).public()), "hi");
}

#[test]
fn a_renewed_certificate_is_shown_to_new_connections_and_old_ones_stay() {
    let papers = Papers::new();
    papers.issue("server", &["127.0.0.1"], NOW);
    papers.issue("client", &["client"], NOW);
    let service = Service::echo();
    let server = Server::start(papers.file(&papers.identity(options(), "server"), "tls_client_ca", "ca.pem"));
    let trusting = papers.identity(papers.file(&options(), "tls_ca", "ca.pem"), "client");
    let client = Client::start(&server, trusting.clone().tunnel(service.addr()));
    let mut visitor = client.visit();
    ping(&mut visitor, b"before");

    // Half of a renewal is none.
    std::fs::write(papers.path("server.pem"), "no certificate").expect("write");
    server.log_line("cannot be used; the one before stays in use");
    papers.issue("server", &["127.0.0.1", "new.example"], NOW);
    server.log_line("was renewed with another key");
    let by_new_name = trusting.key("tls_server_name", "\"new.example\"").tunnel(service.addr());
    ping(&mut Client::start(&server, by_new_name).visit(), b"new");
    ping(&mut visitor, b"after");
    papers.issue("client", &["client"], NOW);
    client.log_line("was renewed with another key");
}

#[test]
fn the_end_of_a_certificate_is_announced_at_the_start() {
    let papers = Papers::new();
    papers.issue("expired", &["127.0.0.1"], (2000, 2001));
    let server = Server::start(papers.identity(options(), "expired"));
    server.log_line("expired.pem` has expired");
    let soon = std::time::SystemTime::now() + Duration::from_secs(5 * 24 * 60 * 60);
    papers.issue_with("soon", &["127.0.0.1"], |params| params.not_after = soon.into());
    let server = Server::start(papers.identity(options(), "soon"));
    server.log_line("soon.pem` expires in less than 7 days");
    papers.issue("good", &["127.0.0.1"], NOW);
    let server = Server::start(papers.identity(options(), "good"));
    assert!(!server.log().contains("expires"), "{}", server.log());
}

#[test]
fn a_key_is_changed_without_cutting_clients_that_pinned_both() {
    let papers = Papers::new();
    papers.issue("now", &["a.example"], NOW);
    papers.issue("next", &["b.example"], NOW);
    let service = Service::echo();
    let server = Server::start(papers.file(&papers.identity(options(), "now"), "tls_next_key", "next-key.pem"));
    let line = server.log_line("the next key");
    let next = format!("sha256:{}", &line.split("sha256:").nth(1).expect("a pin")[..64]);
    let both = options().key("tls_pin", format!("[\"{}\", \"{next}\"]", server.pin())).tunnel(service.addr());
    let client = Client::start(&server, both.clone());
    let mut visitor = client.visit();
    ping(&mut visitor, b"before");

    std::fs::copy(papers.path("next.pem"), papers.path("now.pem")).expect("copy");
    std::fs::copy(papers.path("next-key.pem"), papers.path("now-key.pem")).expect("copy");
    assert!(server.log_line("was renewed with another key").contains(&next), "it tells the new pin");
    ping(&mut visitor, b"after");
    ping(&mut Client::start(&server, both).visit(), b"both");
    let only_next = format!("{},{next}", "sha256:".to_owned() + &"5a".repeat(32));
    ping(&mut Client::start(&server, options().flag("tls-pin", only_next).tunnel(service.addr())).visit(), b"next");
    refused(&server, options().flag("tls-pin", server.pin()), &["tls_pin", &next]);
}

#[test]
fn clients_show_certificates_where_the_server_wants_them() {
    let (papers, strangers) = (Papers::new(), Papers::new());
    papers.issue("server", &["127.0.0.1"], NOW);
    papers.issue("office", &["office"], NOW);
    papers.issue("late", &["late"], (2000, 2001));
    strangers.issue("stranger", &["office"], NOW);
    let service = Service::greeter("hi");
    let server = papers.file(&papers.identity(options(), "server"), "tls_client_ca", "ca.pem");
    let server = Server::start(server);
    let trusting = papers.file(&options(), "tls_ca", "ca.pem");
    let office = papers.identity(trusting.clone(), "office").tunnel(service.addr());
    assert_eq!(greeting(Client::start(&server, office).public()), "hi");
    refused(&server, trusting.clone(), &["tls_cert", "tls_key", "wants a certificate"]);
    refused(&server, strangers.identity(trusting.clone(), "stranger"), &["tls_client_ca", "tls_cert"]);
    refused(&server, papers.identity(trusting, "late"), &["tls_client_ca", "tls_cert"]);
    assert!(server.log_line("tls_client_ca").contains("ca.pem"), "the server says what it goes by");
}

/// P-TLS-4, P-TLS-5, P-TLS-6: one speaks TLS and the other does not, and the user is told which.
#[test]
fn plain_and_encrypted_refuse_each_other_with_a_sentence() {
    let encrypted = Server::start(options().tls());
    refused(&encrypted, options().in_the_clear(), &["takes TLS only", "tls_pin"]);
    let plain = Server::start(options().in_the_clear());
    let pin = encrypted.pin();
    refused(&plain, options().flag("tls-pin", pin), &["speaks no TLS", "tls = true"]);
}

/// P-TLS-4 and P-TLS-5, byte for byte.
#[test]
fn what_each_says_to_the_other_in_the_clear() {
    let plain = Server::start(options().in_the_clear());
    let body = b"\x01\x00\x00\x20\x03\x03 a random value, and then \x08cproxy/1 and more";
    let hello = [&[0x16, 3, 1, 0, body.len() as u8][..], body].concat();
    for (port, kind) in [(plain.ctl(), b'C'), (plain.proxy(), b'P')] {
        let mut client = connect(port);
        client.write_all(&hello).expect("send");
        let mut answer = [0; 8];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [b'C', b'P', b'X', b'Y', kind, 0, 1, 1]);
        let _ = read_end(&mut client);
        let mut stranger = connect(port);
        stranger.write_all(&hello[..hello.len() - 11]).expect("send");
        stranger.write_all(b" other names").expect("send");
        assert_eq!(read_end(&mut stranger).0, 0, "nothing for a stranger");
    }

    let encrypted = Server::start(options().tls());
    let mut client = connect(encrypted.ctl());
    let mut hello = Preface::ours(ConnKind::Ctl).encode().to_vec();
    let nobody = ClientHello { nonce: [1; 32], client: ClientId([1; 16]), token: false, features: 0, resume: None };
    ToServer::Handshake(ClientHandshake::Hello(nobody)).encode_to(&mut hello);
    client.write_all(&hello).expect("send");
    let answer = read_all(&mut client);
    assert_eq!(answer, b"CPXYC\x01\x01\x01\x03\x00\x00\x02\x0b", "the reply, and Refused(TlsRequired)");
}

#[test]
fn strangers_and_stalled_handshakes_are_dropped() {
    let service = Service::echo();
    let server = Server::start(options().brisk().key("handshake_timeout", 0.5).tls());
    let client = Client::start(&server, options().brisk().tunnel(service.addr()));
    short_visit(client.public(), 0);
    let baseline = Baseline::of(&server, &client);
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let long_hello = [&b"\x16\x03\x01\x40\x00\x01\x00\xff\xff\x03\x03"[..], &[0; 16_373]].concat();
    let words: [&[u8]; 7] =
        [b"", b"\x16", hello, &long_hello, b"GET / HTTP/1.1\r\n\r\n", &[0x16; 100_000], b"\x17\x03\x03\x00\x05hello"];
    for port in [server.ctl(), server.proxy()] {
        for word in words {
            let mut stranger = connect(port);
            // It may hang up before it has read all of it.
            let _ = stranger.write_all(word);
            let (answer, _) = read_end(&mut stranger);
            assert!(answer < 100, "{answer} bytes for a stranger");
        }
        // Byte by byte, for ever.
        let mut dribbling = connect(port);
        until("a dribbling handshake is dropped", || {
            std::thread::sleep(Duration::from_millis(5));
            dribbling.write_all(&[0x16]).is_err()
        });
    }
    short_visit(client.public(), 1);
    baseline.expect_again();
    assert_eq!(client.forwardings().len(), 1, "the client did not notice");
}

#[test]
fn a_handshake_in_single_bytes_is_a_handshake() {
    let service = Service::greeter("hi");
    let server = Server::start(options().tls());
    let between = Between::new(server.ctl(), server.proxy());
    between.ctl.dribble();
    between.proxy.dribble();
    let client = Client::start(&server, options().tunnel(service.addr()).via(between.ctl.addr()));
    assert_eq!(read_all(&mut connect(client.public())), b"hi");
}

#[test]
fn bad_keys_and_files_are_named() {
    let papers = Papers::new();
    papers.issue("one", &["one"], NOW);
    papers.issue("two", &["two"], NOW);
    let other_key = papers.file(&papers.file(&options(), "tls_cert", "one.pem"), "tls_key", "two-key.pem");
    let server = |options: Options, words: &[&str]| {
        let server = Server::spawn(options);
        assert_eq!(server.exit_code(), 2);
        let log = server.log();
        words.iter().for_each(|word| assert!(log.contains(word), "it says `{word}`: {log}"));
    };
    server(other_key, &["`tls_key`", "two-key.pem", "the key of another certificate"]);
    let swapped = papers.file(&papers.file(&options(), "tls_cert", "one-key.pem"), "tls_key", "one.pem");
    server(swapped, &["`tls_cert`", "one-key.pem", "no certificate (PEM)"]);
    let missing = papers.file(&papers.file(&options(), "tls_cert", "one.pem"), "tls_key", "none.pem");
    server(missing, &["`tls_key`", "none.pem", "No such file"]);
    server(papers.file(&options(), "tls_cert", "one.pem"), &["`tls_cert` stands alone", "`tls_key`"]);
    let empty_ca = papers.file(&papers.identity(options(), "one"), "tls_client_ca", "one-key.pem");
    server(empty_ca, &["`tls_client_ca`", "one-key.pem", "no certificate (PEM)"]);
    server(options().key("tls", "\"yes\""), &["`tls` is a text in quotes", "true or false"]);
    server(options().key("tls_pin", "\"sha256:00\""), &["unknown key `tls_pin`", "cproxy-client"]);
    let nowhere = options().flag("tls", true).env("STATE_DIRECTORY", "/proc/no/such/directory");
    server(nowhere, &["`tls`", "/proc/no/such/directory", "tls_cert"]);

    let plain = Server::start(options().in_the_clear());
    refused(&plain, options().key("tls_pin", "\"sha256:00\""), &["`tls_pin`", "64 hex digits"]);
    let pin = format!("\"sha256:{}\"", "00".repeat(32));
    let both = papers.file(&options().key("tls_pin", pin), "tls_ca", "ca.pem");
    refused(&plain, both, &["`tls_ca` stands beside `tls_pin`"]);
    refused(&plain, papers.file(&options(), "tls_ca", "none.pem"), &["`tls_ca`", "none.pem", "No such file"]);
}
