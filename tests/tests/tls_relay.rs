//! TLS that ends between client and server. Whoever has a certificate that the client trusts, and not the server's key,
//! can end it there and pass on all that is said. The proofs cover the channel, so that he is found out; where it is a
//! relay of one's own, the client is told.

use protocol_sm::wire::ALPN;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tests::papers::{NOW, Papers};
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::visits::greeting;

/// Where the relay is; the server is at 127.0.0.1, with the same ports.
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What is between client and server: it shows the certificate of `relay`, and goes on to the server.
#[derive(Clone)]
struct Relay {
    near: Arc<ServerConfig>,
    /// As a client of TLS, or in the clear.
    far: Option<Arc<ClientConfig>>,
}

impl Relay {
    fn new(papers: &Papers, encrypts: bool) -> Self {
        let read = |name: &str| std::fs::read(papers.path(name)).expect("read");
        let certificate = CertificateDer::from_pem_slice(&read("relay.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(&read("relay-key.pem")).expect("a key");
        let mut near =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).expect("own");
        near.alpn_protocols = vec![ALPN.to_vec()];
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&read("ca.pem")).expect("an authority")).expect("a root");
        let mut far = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        far.alpn_protocols = vec![ALPN.to_vec()];
        Self { near: near.into(), far: encrypts.then(|| far.into()) }
    }

    /// Relays what comes to `port` to the same port of the server.
    fn listen(&self, port: u16) -> SocketAddr {
        let listener = TcpListener::bind((RELAY, port)).expect("bind");
        let (relay, at) = (self.clone(), listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (relay, near) = (relay.clone(), stream.expect("accept"));
                std::thread::spawn(move || relay.carry(near, (Ipv4Addr::LOCALHOST, port).into()));
            }
        });
        at
    }

    fn carry(&self, near: TcpStream, server: SocketAddr) {
        let Ok(far) = TcpStream::connect(server) else { return };
        let tls = ServerConnection::new(Arc::clone(&self.near)).expect("a connection");
        let mut near = Side { stream: near, tls: Some(tls.into()) };
        let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
        let tls =
            self.far.as_ref().map(|far| ClientConnection::new(Arc::clone(far), name).expect("a connection").into());
        let mut far = Side { stream: far, tls };
        for side in [&near, &far] {
            side.stream.set_nonblocking(true).expect("non-blocking");
        }
        // Ends with either side: how they end is not what is tested here.
        while let (Some(up), Some(down)) = (near.take(), far.take()) {
            let idle = up.is_empty() && down.is_empty();
            if far.give(&up).is_none() || near.give(&down).is_none() {
                break;
            }
            if idle {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// One of the relay's two connections; `None` at its end.
struct Side {
    stream: TcpStream,
    tls: Option<Connection>,
}

impl Side {
    fn take(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 16 * 1024];
        let read = match &mut self.tls {
            None => self.stream.read(&mut bytes),
            Some(tls) => {
                match tls.read_tls(&mut self.stream) {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
                tls.process_new_packets().ok()?;
                tls.reader().read(&mut bytes)
            }
        };
        match read {
            Ok(0) => return None,
            Ok(length) => bytes.truncate(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => bytes.clear(),
            Err(_) => return None,
        }
        Some(bytes)
    }

    fn give(&mut self, bytes: &[u8]) -> Option<()> {
        match &mut self.tls {
            // A socket has room for what is said here.
            None => self.stream.write_all(bytes).ok(),
            Some(tls) => {
                tls.writer().write_all(bytes).ok()?;
                while tls.wants_write() {
                    tls.write_tls(&mut self.stream).ok()?;
                }
                Some(())
            }
        }
    }
}

/// An authority, and certificates for the server and the relay that it has signed.
fn papers() -> Papers {
    let papers = Papers::new();
    papers.issue("server", &["127.0.0.1"], NOW);
    papers.issue("relay", &["127.0.0.1", "127.0.0.2"], NOW);
    papers
}

fn trusting(papers: &Papers) -> Options {
    papers.file(&options().brisk(), "tls_ca", "ca.pem").env("CPROXY_TOKEN", TOKEN)
}

/// The client is refused for good, and says each of `words`.
#[track_caller]
fn refused(server: &Server, options: Options, words: &[&str]) {
    let client = Client::spawn(server, options.tunnel("127.0.0.1:1"));
    assert_eq!(client.exit_code(), 2, "{}", client.log());
    let log = client.log();
    words.iter().for_each(|word| assert!(log.contains(word), "it says `{word}`: {log}"));
}

const TOKEN: &str = "a token, long enough";

/// P-AUTH-17.
#[test]
fn proofs_that_pass_through_another_ones_tls_are_refused() {
    let papers = papers();
    let service = Service::greeter("hi");
    let server = Server::start(papers.identity(options().brisk().env("CPROXY_TOKEN", TOKEN), "server"));
    let relay = Relay::new(&papers, true);
    let [ctl, _proxy] = [server.ctl(), server.proxy()].map(|at| relay.listen(at.port()));
    assert_eq!(greeting(Client::start(&server, trusting(&papers).tunnel(service.addr())).public()), "hi");

    refused(&server, trusting(&papers).via(ctl), &["the token is wrong", "tls_relay"]);
    // The client agrees to it: as good as the relay.
    let told = trusting(&papers).via(ctl).key("tls_relay", true).tunnel(service.addr());
    assert_eq!(greeting(Client::start(&server, told).public()), "hi");
}

/// P-AUTH-18.
#[test]
fn conns_that_pass_through_another_ones_tls_are_refused() {
    let papers = papers();
    let service = Service::greeter("hi");
    let server = Server::start(papers.identity(options().brisk().env("CPROXY_TOKEN", TOKEN), "server"));
    let proxy = Relay::new(&papers, true).listen(server.proxy().port());
    let elsewhere = trusting(&papers).key("proxy_addr", format!("\"{proxy}\""));
    let client = Client::spawn(&server, elsewhere.tunnel(service.addr()));
    let line = client.log_line("proxy_conn not opened");
    assert!(line.contains("the token is wrong"), "{line}");
}

/// P-AUTH-17.
#[test]
fn tls_that_ends_in_front_of_the_server_is_taken_where_the_client_was_told() {
    let papers = papers();
    let service = Service::greeter("hi");
    let server = Server::start(options().brisk().in_the_clear().env("CPROXY_TOKEN", TOKEN));
    let relay = Relay::new(&papers, false);
    let [ctl, _proxy] = [server.ctl(), server.proxy()].map(|at| relay.listen(at.port()));
    refused(&server, trusting(&papers).via(ctl), &["TLS ends in front of the server", "tls_relay"]);
    let told = trusting(&papers).via(ctl).key("tls_relay", true).tunnel(service.addr());
    assert_eq!(greeting(Client::start(&server, told).public()), "hi");
}
