//! A server and a client with all their threads, in one process.
#![allow(clippy::unwrap_used)]

use protocol_sm::driver::Strategy;
use protocol_sm::settings::{
    ClientSettings, DatagramTransport, ServerSettings, Serving, Timings, TunnelLimits, TunnelSpec,
};
use runtime_epoll::inherit::Inherited;
use runtime_epoll::{Stopper, client, server};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const THREADS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

fn server_config(ctl_port: u16) -> server::Config {
    server::Config {
        bind_addr: Some(loopback().into()),
        public_bind_addr: None,
        ctl_port,
        proxy_port: 0,
        host_ports: [None; 2],
        work_threads: THREADS,
        relay: Strategy::default(),
        tls: None,
        visitor_tls: None,
        acme_webroot: None,
        access_log: None,
        settings: ServerSettings::default(),
    }
}

fn client_config(server: SocketAddr, local: String) -> client::Config {
    client::Config {
        server: server.to_string(),
        work_threads: THREADS,
        relay: Strategy::default(),
        tls: None,
        access_log: None,
        settings: ClientSettings {
            max_proxy_conns: 64,
            datagram_transport: DatagramTransport::Auto,
            timings: Timings { reconnect_min: Duration::from_millis(20), ..Timings::default() },
            ..ClientSettings::new(
                [7; 16],
                vec![TunnelSpec {
                    name: "echo".into(),
                    public_port: 0,
                    bind_addr: None,
                    site: None,
                    local,
                    local_sources: Vec::new(),
                    limits: TunnelLimits::default(),
                    serving: Serving::default(),
                }],
            )
        },
    }
}

fn start_server() -> (SocketAddr, Stopper, JoinHandle<server::Summary>) {
    let server = server::start(server_config(0), &mut Inherited::default()).unwrap();
    let (ctl, stopper) = (server.ctl_addr(), server.stopper());
    (ctl, stopper, std::thread::spawn(|| server.run().unwrap()))
}

/// Sends back what it gets, then ends, for each visitor on a thread of its own.
fn echo_service() -> SocketAddr {
    let service = TcpListener::bind((loopback(), 0)).unwrap();
    let at = service.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in service.incoming() {
            std::thread::spawn(move || {
                let stream = stream.unwrap();
                let _ = std::io::copy(&mut &stream, &mut &stream);
            });
        }
    });
    at
}

fn visit(public: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(public).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let sent = bytes.to_vec();
    let sending = std::thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    sending.join().unwrap();
    assert_eq!(got.len(), bytes.len());
    assert!(got == bytes, "the bytes are those that were sent");
}

#[test]
fn visitors_are_served_and_counted_and_both_programs_stop() {
    let (ctl, server_stopper, server) = start_server();
    // A name, not an address: it goes through the resolver's thread.
    let local = format!("localhost:{}", echo_service().port());
    let client = client::start(client_config(ctl, local.clone())).unwrap();
    let client_stopper = client.stopper();
    let (reachable, announced) = channel();
    let main = std::thread::current().id();
    let client = std::thread::spawn(move || {
        client.run(|tunnel| {
            assert_ne!(std::thread::current().id(), main);
            reachable.send(tunnel.clone()).unwrap();
        })
    });
    let tunnel = announced.recv_timeout(PATIENCE).expect("the tunnel is announced");
    assert_eq!((tunnel.tunnel.as_str(), &tunnel.local), ("echo", &local));
    visit(tunnel.public, b"hello");
    let long: Vec<u8> = (0..8_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    visit(tunnel.public, &long);
    client_stopper.stop();
    let summary = client.join().unwrap().unwrap();
    assert_eq!((summary.finished, summary.aborted), (2, 0));
    assert!(summary.proxy_conns > 0);
    server_stopper.stop();
    server_stopper.stop();
    let summary = server.join().unwrap();
    assert_eq!((summary.visitors, summary.finished, summary.aborted), (2, 2, 0));
}

#[test]
fn a_stop_before_the_run_is_not_lost() {
    let server = server::start(server_config(0), &mut Inherited::default()).unwrap();
    server.stopper().stop();
    assert_eq!(server.run().unwrap(), server::Summary::default());
    let nobody = SocketAddr::new(loopback(), 1);
    let client = client::start(client_config(nobody, nobody.to_string())).unwrap();
    client.stopper().stop();
    assert_eq!(client.run(|_| {}).unwrap(), client::Summary::default());
}

#[test]
fn a_taken_port_is_named_with_the_way_out() {
    let taken = TcpListener::bind((loopback(), 0)).unwrap();
    let at = taken.local_addr().unwrap();
    let error = server::start(server_config(at.port()), &mut Inherited::default()).unwrap_err().to_string();
    let expected = format!(
        "cannot listen on {at} (ctl port): address in use; stop the other program or choose another --ctl-port"
    );
    assert_eq!(error, expected);
    let proxy = server::Config { ctl_port: 0, proxy_port: at.port(), ..server_config(0) };
    let error = server::start(proxy, &mut Inherited::default()).unwrap_err().to_string();
    assert!(error.contains("(proxy port)") && error.contains("--proxy-port"), "{error}");
}
