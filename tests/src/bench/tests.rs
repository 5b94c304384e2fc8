//! The yardstick is true, and the load sees what goes wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::crowd::{Crowd, Limits};
use super::datagrams::{Flows, Then, one_way};
use super::pattern::{self, Way};
use super::relay::{Relay, Trigger};
use super::service::Service;
use super::udp_relay::DatagramRelay;
use super::wire::{HEADER_LEN, Op};
use super::{bulk, datagrams, settle, sock, visits};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const WAIT: Duration = Duration::from_secs(30);
const FEW: Limits = Limits { count: 300, time: WAIT };

fn service() -> SocketAddr {
    let service = Service::bind(ANY).unwrap();
    let address = service.listener.local_addr().unwrap();
    std::thread::spawn(|| service.serve_for_ever());
    address
}

fn two_hops(to: SocketAddr, trigger: Trigger) -> SocketAddr {
    [(); 2].iter().fold(to, |to, ()| {
        let relay = Relay::bind(ANY, to, trigger).unwrap();
        let address = relay.listener.local_addr().unwrap();
        std::thread::spawn(|| relay.serve_for_ever());
        address
    })
}

/// Every kind of load through two hops, with every byte and end checked on both sides.
fn carries_everything(trigger: Trigger) {
    let service = service();
    let target = two_hops(service, trigger);
    let before = settle::tally(service).unwrap();
    for kind in [visits::Kind::Short, visits::Kind::HalfClose, visits::Kind::Reset] {
        assert_eq!(visits::run(target, kind, 16, 1000, FEW).unwrap().latencies.len(), 300);
    }
    for op in [Op::Down, Op::Up, Op::Both] {
        bulk::run(target, op, 4, 5_000_001).unwrap();
    }
    let mut crowd = Crowd::gather(target, 40, 65_536).unwrap();
    assert_eq!(crowd.exchange(FEW).unwrap().latencies.len(), 300);
    drop(crowd);
    settle::settle(service, before, 300 + 300 + 300 + 3 * 4 + 40).unwrap();
}

#[test]
fn two_hops_carry_datagrams() {
    let socket = std::net::UdpSocket::bind(ANY).unwrap();
    let service = socket.local_addr().unwrap();
    drop(socket);
    datagrams::serve(service).unwrap();
    let target = [(); 2].iter().fold(service, |to, ()| {
        let relay = DatagramRelay::bind(ANY, to).unwrap();
        let address = relay.socket.local_addr().unwrap();
        std::thread::spawn(|| relay.serve_for_ever());
        address
    });
    let mut flows = Flows::open(target, 20, 64).unwrap();
    for (then, count) in [(Then::BeSilent, 20), (Then::AskAgain, 300), (Then::BeginAnew, 300), (Then::BeSilent, 20)] {
        let answered = flows.exchange(FEW, then).unwrap();
        assert!(answered.latencies.len() >= count, "{then:?}: {}", answered.latencies.len());
    }
    assert!(one_way(target, 1200, Duration::from_millis(50)).unwrap() > 0.0);
}

#[test]
fn the_edge_triggered_relay_carries_everything() {
    carries_everything(Trigger::Edge);
}

#[test]
fn the_level_triggered_relay_carries_everything() {
    carries_everything(Trigger::Level);
}

/// A plain server for one visit; returns what its visitor sees next.
fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || serve(listener.accept().unwrap().0));
    address
}

fn end_seen_by_visitor(target: SocketAddr) -> std::io::Result<usize> {
    let mut visitor = TcpStream::connect(target).unwrap();
    visitor.set_read_timeout(Some(WAIT)).unwrap();
    visitor.read(&mut [0; 16])
}

#[test]
fn the_relay_passes_a_reset_on() {
    for trigger in [Trigger::Edge, Trigger::Level] {
        let end = end_seen_by_visitor(two_hops(server(|stream| sock::reset_on_close(&stream)), trigger));
        assert_eq!(end.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset), "{trigger:?}");
    }
}

#[test]
fn the_relay_resets_a_visitor_it_cannot_connect() {
    let closed = TcpListener::bind(ANY).unwrap().local_addr().unwrap();
    for trigger in [Trigger::Edge, Trigger::Level] {
        let end = end_seen_by_visitor(two_hops(closed, trigger));
        assert_eq!(end.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset), "{trigger:?}");
    }
}

/// A service that answers one visit of 64 bytes with `answer` and closes; what the load makes of it.
fn verdict_on(answer: impl FnOnce(&mut Vec<u8>) + Send + 'static) -> Result<usize, String> {
    let liar = server(|mut stream| {
        let mut request = [0; HEADER_LEN + 64];
        stream.read_exact(&mut request).unwrap();
        let seed = u32::from_le_bytes(request[8..12].try_into().unwrap());
        let mut bytes = pattern::bytes(seed, Way::Down, 0, 64).to_vec();
        answer(&mut bytes);
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read(&mut request);
    });
    let once = Limits { count: 1, time: WAIT };
    visits::run(liar, visits::Kind::Short, 1, 64, once).map(|measured| measured.latencies.len())
}

#[test]
fn the_load_sees_lost_wrong_and_surplus_bytes() {
    assert_eq!(verdict_on(|_| {}), Ok(1));
    assert!(verdict_on(|bytes| bytes.truncate(63)).unwrap_err().contains("ended early"));
    assert!(verdict_on(|bytes| bytes[40] ^= 1).unwrap_err().contains("wrong bytes"));
    assert!(verdict_on(|bytes| bytes.rotate_left(1)).unwrap_err().contains("wrong bytes"));
    assert!(verdict_on(|bytes| bytes.push(0)).is_err());
}

#[test]
fn a_visit_that_ended_badly_at_the_service_does_not_settle() {
    let service = service();
    let before = settle::tally(service).unwrap();
    let mut stranger = TcpStream::connect(service).unwrap();
    stranger.write_all(b"SSH-2.0-another protocol, and no header of ours\r\n").unwrap();
    let why = settle::settle(service, before, 1).unwrap_err();
    assert!(why.contains("1 with wrong bytes"), "{why}");
}
