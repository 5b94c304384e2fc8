//! `proxy_protocol_tlvs`: a service is told what is known of its visitor's TLS.

use super::tls_ends::{Visitor, certified, config, say_all, visit_as};
use super::{ask, client, request, table};
use protocol_sm::proxy_protocol::{ProxyProtocol, header_with_fields};
use protocol_sm::routes::{Agreed, Secured};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use tests::foreign::{Foreign, find};
use tests::programs::options;
use tests::services::Service;
use tests::sockets::{LOOPBACK, connect};
use tests::wait::PATIENCE;

/// What turns the header on.
const TOLD: &str = "proxy_protocol = \"v2\"\nproxy_protocol_tlvs = true\n";

/// A service that tells the header in front of what comes, and reads on: one that went would reset its visitor, who may be about
/// to say more.
fn listener() -> (Service, Receiver<Vec<u8>>) {
    let (tell, told) = channel();
    let service = Service::start(move |mut stream| {
        let mut header = vec![0; 16];
        stream.read_exact(&mut header).expect("a header");
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[14], header[15]]))];
        stream.read_exact(&mut body).expect("all of it");
        let _ = tell.send([header, body].concat());
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    (service, told)
}

/// P-XFER-13.
#[test]
fn a_service_is_told_the_host_that_tls_has_named_and_what_was_agreed_on() {
    let (service, told) = listener();
    let (papers, server) = certified(&["app.example"], options());
    let tables = [
        table("ended", "http", &["app.example"], service.addr()) + TOLD + "alpn = [\"h2\", \"http/1.1\"]\n",
        table("passed", "https", &["*.sealed.example"], service.addr()) + TOLD,
    ];
    let _client = client(&server, options(), &tables);
    let hear = |sock: &TcpStream, host: Option<&str>, agreed| {
        let [visitor, public] = [sock.local_addr(), sock.peer_addr()].map(|at| at.expect("connected"));
        let host = host.map(|host| host.parse().expect("a host"));
        let expected = if host.is_some() {
            header_with_fields(visitor, public, &Secured { host, agreed })
        } else {
            ProxyProtocol::V2.header(visitor, public)
        };
        assert_eq!(told.recv_timeout(PATIENCE).expect("the service is told"), expected);
    };
    let come = |host: &str, alpn: &[&str]| -> Visitor {
        let mut visitor = visit_as(config(&papers, alpn), server.hosts("https"), host);
        let _ = std::io::Write::write_all(&mut visitor, request(host).as_bytes());
        visitor
    };
    for (alpn, agreed) in
        [(&["http/1.1"][..], Some(Agreed::Http1)), (&["h2", "http/1.1"], Some(Agreed::Http2)), (&[], None)]
    {
        hear(&come("APP.example", alpn).sock, Some("app.example"), agreed);
    }
    // What is passed on is agreed on with the service. It says nothing here.
    let mut sealed = connect(server.hosts("https"));
    let name = "a.sealed.example".try_into().expect("a name");
    let mut tls = rustls::ClientConnection::new(config(&papers, &["h2"]).into(), name).expect("a connection");
    tls.write_tls(&mut sealed).expect("sent");
    hear(&sealed, Some("a.sealed.example"), None);
    let plain = connect(server.hosts("http"));
    let mut sock = plain.try_clone().expect("a descriptor");
    super::say(&mut sock, request("app.example"));
    hear(&plain, None, None);
}

#[test]
fn haproxy_knows_the_host_that_tls_has_named() {
    let Some(program) = find("haproxy") else { return };
    let (_haproxy, port) = Foreign::haproxy_that_says(&program, "<%[fc_pp_authority]>");
    let (papers, server) = certified(&["app.example"], options());
    let tables = [table("ended", "http", &["app.example"], SocketAddr::new(LOOPBACK, port)) + TOLD];
    let _client = client(&server, options(), &tables);
    let mut visitor = visit_as(config(&papers, &["http/1.1"]), server.hosts("https"), "app.example");
    let words = "GET / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n";
    let said = say_all(&mut visitor, words);
    assert!(said.ends_with("<app.example>"), "{said}");
    let said = ask(server.hosts("http"), words);
    assert!(said.ends_with(b"<>"), "nothing is known of who comes in the clear: {}", String::from_utf8_lossy(&said));
}
