//! `Linux` against the real kernel, over loopback: the promises of `Streams`, `Splice`, `Listen` and `Entropy`.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, PATIENCE};
use nix::sys::socket::{GetSockOpt, MsgFlags, SockaddrIn, getsockname, getsockopt, send, sockopt};
use protocol_sm::driver::{Entropy, Listen, Received, Role, Splice, Streams, SysError, Token};
use protocol_sm::settings::Origin;
use runtime_epoll::Stream;
use std::fmt::Debug;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

#[test]
fn a_short_read_says_that_nothing_is_left_and_a_full_one_does_not() {
    let mut bench = Bench::new();
    let ((near, _), (far, token)) = bench.pair();
    assert_eq!(bench.linux.recv(&far, &mut [0; 8]), Err(SysError::WouldBlock));
    bench.send_all(&near, b"12345678abc");
    bench.wait_ready(token, |ready| ready.readable);
    let mut buffer = [0; 8];
    assert_eq!(bench.recv(&far, &mut buffer), Ok(Received { bytes: 8, drained: false }));
    assert_eq!(bench.recv(&far, &mut buffer), Ok(Received { bytes: 3, drained: true }));
    assert_eq!(&buffer[..3], b"abc");
}

#[test]
fn an_end_is_read_after_all_bytes_and_the_other_half_still_flows() {
    let mut bench = Bench::new();
    let ((near, _), (far, token)) = bench.pair();
    bench.send_all(&near, b"the last words");
    bench.linux.shut_write(&near);
    bench.wait_ready(token, |ready| ready.readable && ready.hup && !ready.error);
    assert_eq!(bench.recv_all(&far), (b"the last words".to_vec(), Ok(())));
    bench.send_all(&far, b"and the answer");
    bench.linux.close(far);
    assert_eq!(bench.recv_all(&near), (b"and the answer".to_vec(), Ok(())));
}

#[test]
fn an_urgent_byte_is_a_byte_of_the_stream_and_hides_nothing_behind_it() {
    let mut bench = Bench::new();
    let ((near, _), (far, token)) = bench.pair();
    send_with_urgent_byte(&mut bench, &near);
    bench.wait_ready(token, |ready| ready.readable);
    let mut all = Vec::new();
    let mut buffer = [0; 64];
    // As a driver reads: no further than to a read that says that nothing is left.
    while all.len() < 7 {
        let got = bench.recv(&far, &mut buffer).unwrap();
        all.extend_from_slice(&buffer[..got.bytes]);
        assert!(!got.drained || all.len() == 7, "only {all:?} when nothing should be left");
    }
    assert_eq!(all, b"abc!def");
}

#[test]
fn splice_gets_past_an_urgent_byte_even_if_it_was_not_reported_yet() {
    let mut bench = Bench::new();
    let ((near, _), (far, _)) = bench.pair();
    let ((sink, _), (end, _)) = bench.pair();
    // From here on nothing is polled, so `far` is not known to have an urgent byte.
    send_with_urgent_byte(&mut bench, &near);
    bench.linux.shut_write(&near);
    let (pipe, capacity) = bench.linux.pipe().expect("a pipe");
    wait_until("all seven bytes and the end have come", || has_come(&far, 7));
    let mut moved = 0;
    loop {
        match bench.linux.splice_in(&far, &pipe, capacity).unwrap() {
            0 => break,
            n => moved += n,
        }
        while bench.linux.splice_out(&pipe, &sink, capacity).is_ok() {}
    }
    assert_eq!(moved, 7, "the end came after all bytes");
    bench.linux.recycle(pipe, true);
    bench.linux.close(sink);
    assert_eq!(bench.recv_all(&end), (b"abc!def".to_vec(), Ok(())));
}

#[test]
fn close_lets_everything_arrive_and_reset_is_an_error() {
    for reset in [false, true] {
        let mut bench = Bench::new();
        let ((near, _), (far, token)) = bench.pair();
        bench.send_all(&near, b"bytes");
        if reset {
            bench.wait_ready(token, |ready| ready.readable);
            bench.linux.reset(near);
            bench.wait_ready(token, |ready| ready.error && ready.hup);
            assert_eq!(bench.linux.take_error(&far), Err(SysError::Reset));
        } else {
            bench.linux.close(near);
            assert_eq!(bench.recv_all(&far), (b"bytes".to_vec(), Ok(())));
        }
    }
}

#[test]
fn the_port_of_a_connection_that_we_made_can_be_listened_on() {
    let mut bench = Bench::new();
    // Another program's connection to another address may have the same local port: not each of them is ours alone.
    let listens = (0..50).any(|_| {
        let ((near, _), (_far, _)) = bench.pair();
        let local = getsockname::<SockaddrIn>(near.as_fd().as_raw_fd()).unwrap();
        let token = bench.token();
        bench.linux.listen(SocketAddr::from(([127, 0, 0, 1], local.port())), token).is_ok()
    });
    assert!(listens);
}

#[test]
fn a_stream_that_is_only_dropped_is_reset_on_either_end() {
    let mut bench = Bench::new();
    let ((near, _), (far, _)) = bench.pair();
    drop(near);
    assert_eq!(bench.recv_all(&far).1, Err(SysError::Reset), "the end that connected");
    let ((near, _), (far, _)) = bench.pair();
    drop(far);
    assert_eq!(bench.recv_all(&near).1, Err(SysError::Reset), "the end that was accepted");
}

#[test]
fn a_closed_ctl_conn_ends_well_although_something_was_unread() {
    let mut bench = Bench::new();
    let (listener, listening, at) = bench.listen();
    let mut peer = TcpStream::connect(at).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    bench.wait_ready(listening, |ready| ready.readable);
    let (ctl, _) = bench.linux.accept(&listener, Role::Ctl).unwrap();
    std::io::Write::write_all(&mut peer, &[7; 10_000]).unwrap();
    wait_until("the peer's bytes have come", || has_come(&ctl, 10_000));
    bench.send_all(&ctl, b"refused, because");
    bench.linux.close(ctl);
    let mut text = String::new();
    peer.read_to_string(&mut text).expect("an end, not a reset");
    assert_eq!(text, "refused, because");
}

#[test]
fn sending_to_a_reset_connection_is_an_error_and_no_signal() {
    let mut bench = Bench::new();
    let ((near, token), (far, _)) = bench.pair();
    bench.linux.reset(far);
    bench.wait_ready(token, |ready| ready.error);
    assert_eq!(bench.linux.send(&near, b"x"), Err(SysError::Reset), "ECONNRESET");
    assert_eq!(bench.linux.send(&near, b"x"), Err(SysError::ResetBehindEnd), "EPIPE");
}

#[test]
fn a_refused_connect_is_reported_as_ready_with_an_error() {
    let mut bench = Bench::new();
    let (listener, _, at) = bench.listen();
    bench.linux.unlisten(listener);
    let token = bench.token();
    let stream = bench.linux.connect(&Origin::default(), at, Role::Local, token).unwrap();
    bench.wait_ready(token, |ready| ready.error);
    assert_eq!(bench.linux.take_error(&stream), Err(SysError::Refused));
}

#[test]
fn a_connect_that_meets_itself_is_refused() {
    let mut bench = Bench::new();
    // Somebody else may have taken the port meanwhile: then another one.
    assert!((0..10).any(|_| has_met_itself(&mut bench)), "one of 200,000 connections met itself");
}

/// Whether one of 20,000 connections to a port where nobody listens came from that port, and was refused as the others.
fn has_met_itself(bench: &mut Bench) -> bool {
    // A port as the kernel gives them to connections. For one destination it goes through them in turn, so it
    // comes to the destination's own soon.
    let ((near, _), far) = bench.pair();
    let own: SocketAddr = local_addr(&near);
    bench.linux.reset(near);
    drop(far);
    let token = bench.token();
    (0..20_000).any(|_| {
        let Ok(stream) = bench.linux.connect(&Origin::default(), own, Role::Local, token) else { return false };
        let end = loop {
            match bench.linux.take_error(&stream) {
                Err(SysError::WouldBlock) => std::thread::yield_now(),
                end => break end,
            }
        };
        assert_eq!(end, Err(SysError::Refused), "nobody listens there");
        local_addr(&stream) == own
    })
}

fn local_addr(stream: &Stream) -> SocketAddr {
    let stream = TcpStream::from(stream.as_fd().try_clone_to_owned().unwrap());
    stream.local_addr().unwrap()
}

#[test]
fn a_connect_is_not_through_while_the_backlog_is_full() {
    let mut bench = Bench::new();
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    nix::sys::socket::listen(&full, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let at = full.local_addr().unwrap();
    let streams: Vec<_> = (0..4)
        .map(|_| {
            let token = bench.token();
            (bench.linux.connect(&Origin::default(), at, Role::Proxy, token).unwrap(), token)
        })
        .collect();
    bench.connected(&streams[0].0, streams[0].1);
    assert_eq!(bench.linux.take_error(&streams[3].0), Err(SysError::WouldBlock));
}

#[test]
fn a_port_that_is_taken_is_in_use_and_a_foreign_address_is_an_error() {
    let mut bench = Bench::new();
    let (_listener, _, at) = bench.listen();
    let token = bench.token();
    assert_eq!(bench.linux.listen(at, token).err(), Some(SysError::InUse));
    let foreign = "192.0.2.1:0".parse().unwrap();
    assert_eq!(bench.linux.listen(foreign, token).err(), Some(SysError::NoAddress));
}

#[test]
fn a_port_can_be_bound_again_at_once_although_a_connection_of_it_lingers() {
    let mut bench = Bench::new();
    let (listener, listening, at) = bench.listen();
    let peer = TcpStream::connect(at).unwrap();
    bench.wait_ready(listening, |ready| ready.readable);
    let (stream, _) = bench.linux.accept(&listener, Role::Public).unwrap();
    // Our end closes first: it stays in TIME_WAIT, or FIN_WAIT.
    bench.linux.close(stream);
    bench.linux.unlisten(listener);
    let token = bench.token();
    bench.linux.listen(at, token).expect("bound again");
    drop(peer);
}

#[test]
fn an_ipv6_listener_on_any_address_takes_ipv4_visitors_and_names_them_so() {
    let mut bench = Bench::new();
    let token = bench.token();
    let (listener, at) = bench.linux.listen("[::]:0".parse().unwrap(), token).unwrap();
    let v4 = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], at.port()))).unwrap();
    bench.wait_ready(token, |ready| ready.readable);
    let (_, from) = bench.linux.accept(&listener, Role::Public).unwrap();
    assert_eq!(from, v4.local_addr().unwrap());
    let v6 = TcpStream::connect(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], at.port()))).unwrap();
    let (_, from) = accepted(&mut bench, &listener, Role::Public);
    assert_eq!(from, v6.local_addr().unwrap());
}

#[test]
fn every_role_has_its_options_whichever_way_the_connection_came_about() {
    let mut bench = Bench::new();
    let (listener, _, at) = bench.listen();
    for role in [Role::Ctl, Role::Proxy, Role::Public] {
        let _peer = TcpStream::connect(at).unwrap();
        let (stream, _) = accepted(&mut bench, &listener, role);
        check_options(&stream, role);
        option_is(&stream, sockopt::KeepAlive, true);
        option_is(&stream, sockopt::TcpKeepIdle, 30);
        option_is(&stream, sockopt::TcpKeepInterval, 10);
        option_is(&stream, sockopt::TcpKeepCount, 30);
    }
    for role in [Role::Ctl, Role::Proxy, Role::Local] {
        let token = bench.token();
        let stream = bench.linux.connect(&Origin::default(), at, role, token).unwrap();
        check_options(&stream, role);
    }
}

fn check_options(stream: &Stream, role: Role) {
    option_is(stream, sockopt::TcpNoDelay, true);
    option_is(stream, sockopt::OobInline, true);
    // Zero for a proxy_conn: a visitor's pause must not end its transfer.
    let user_timeout = if role == Role::Ctl { 30_000 } else { 0 };
    option_is(stream, sockopt::TcpUserTimeout, user_timeout);
    // As long as heartbeat_timeout and transfer_grace. A kernel before 6.15 does not know it.
    let retries = retry_max(stream);
    assert!(retries.is_none_or(|millis| (millis == 35_000) == (role == Role::Proxy)), "{role:?}: {retries:?}");
}

#[test]
fn the_send_buffer_is_capped_with_the_first_bulk_and_not_before() {
    let mut bench = Bench::new();
    let ((_near, _), (far, _)) = bench.pair();
    let size = |stream: &Stream| getsockopt(stream, sockopt::SndBuf).unwrap();
    let before = size(&far);
    assert_eq!(bench.linux.send(&far, &[7; 1000]), Ok(1000));
    assert_eq!(size(&far), before, "a small message changes nothing");
    assert!(bench.linux.send(&far, &[7; 32 * 1024]).is_ok());
    // The kernel doubles what it is given, up to what the machine allows.
    assert!(size(&far) != before && size(&far) <= 512 * 1024, "{} after {before}", size(&far));
}

fn option_is<O: GetSockOpt<Val: PartialEq + Debug>>(stream: &Stream, option: O, value: O::Val) {
    assert_eq!(getsockopt(stream, option).unwrap(), value);
}

#[test]
fn splice_moves_a_stream_through_partial_writes_without_losing_a_byte() {
    const TOTAL: usize = 24 << 20;
    let mut bench = Bench::new();
    let ((source, source_token), (from, from_token)) = bench.pair();
    let ((to, to_token), (sink, sink_token)) = bench.pair();
    let (pipe, capacity) = bench.linux.pipe().expect("a pipe");
    let (mut produced, mut taken, mut forwarded, mut consumed, mut ended) = (0, 0, 0, 0, false);
    let mut partial = false;
    let until = Instant::now() + PATIENCE;
    while consumed < TOTAL || !ended {
        assert!(Instant::now() < until, "{consumed} of {TOTAL} bytes arrived within {PATIENCE:?}");
        let before = (produced, taken, forwarded, consumed, ended);
        if produced < TOTAL {
            let block: Vec<u8> = (produced..TOTAL.min(produced + 65_536)).map(byte_at).collect();
            produced += bench.linux.send(&source, &block).unwrap_or(0);
            if produced == TOTAL {
                bench.linux.shut_write(&source);
            }
        }
        if taken == forwarded && !ended {
            match bench.linux.splice_in(&from, &pipe, capacity) {
                Ok(0) => {
                    ended = true;
                    bench.linux.shut_write(&to);
                }
                Ok(n) => taken += n,
                Err(error) => assert_eq!(error, SysError::WouldBlock),
            }
        }
        if taken > forwarded {
            match bench.linux.splice_out(&pipe, &to, taken - forwarded) {
                Ok(n) => forwarded += n,
                Err(error) => assert_eq!(error, SysError::WouldBlock),
            }
            partial |= forwarded < taken;
        }
        // The sink is slow: it reads only when nothing else can be done.
        if before == (produced, taken, forwarded, consumed, ended) {
            let mut buffer = [0; 30_000];
            if let Ok(got) = bench.linux.recv(&sink, &mut buffer) {
                for (at, &byte) in buffer[..got.bytes].iter().enumerate() {
                    assert_eq!(byte, byte_at(consumed + at), "byte {}", consumed + at);
                }
                consumed += got.bytes;
            }
        }
        for token in [source_token, from_token, to_token, sink_token] {
            bench.forget(token);
        }
    }
    assert_eq!((taken, forwarded), (TOTAL, TOTAL));
    assert!(partial, "a full socket takes only a part of the pipe");
    bench.linux.recycle(pipe, true);
    assert_eq!(bench.recv(&sink, &mut [0; 8]).map(|got| got.bytes), Ok(0), "an end, and nothing before it");
}

#[test]
fn an_unwatched_stream_is_reported_to_its_new_owner_with_what_came_meanwhile() {
    let mut old = Bench::new();
    let ((near, _), (far, _)) = old.pair();
    old.linux.unwatch(&far);
    old.send_all(&near, b"in between");
    let mut new = Bench::new();
    let token = Token::from_number(7 << 32 | 1).unwrap();
    let far = std::thread::spawn(move || far).join().unwrap();
    new.linux.watch(&far, token).unwrap();
    new.wait_ready(token, |ready| ready.readable);
    let events = old.poll(std::time::Duration::ZERO);
    assert!(!events.iter().any(|&(_, ready)| ready.readable), "the old owner hears nothing: {events:?}");
}

#[test]
fn random_bytes_differ() {
    let mut bench = Bench::new();
    let (mut a, mut b) = ([0; 32], [0; 32]);
    bench.linux.random(&mut a);
    bench.linux.random(&mut b);
    assert_ne!(a, b);
    assert_ne!(a, [0; 32]);
}

fn send_with_urgent_byte(bench: &mut Bench, stream: &Stream) {
    bench.send_all(stream, b"abc");
    assert_eq!(send(stream.as_fd().as_raw_fd(), b"!", MsgFlags::MSG_OOB), Ok(1));
    bench.send_all(stream, b"def");
}

fn retry_max(stream: &Stream) -> Option<libc::c_int> {
    const TCP_RTO_MAX_MS: libc::c_int = 44;
    let (mut millis, mut length): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    let fd = stream.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open while `stream` is borrowed, and `length` is the size of `millis`.
    let done =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, TCP_RTO_MAX_MS, (&raw mut millis).cast(), &raw mut length) };
    (done == 0).then_some(millis)
}

/// Whether `count` bytes wait to be read.
fn has_come(stream: &Stream, count: usize) -> bool {
    let mut waiting: libc::c_int = 0;
    // SAFETY: the descriptor is open while `stream` is borrowed, and FIONREAD writes one c_int.
    let done = unsafe { libc::ioctl(stream.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut waiting) };
    assert_eq!(done, 0);
    waiting as usize >= count
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what} within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

fn accepted(bench: &mut Bench, listener: &runtime_epoll::Listener, role: Role) -> (Stream, SocketAddr) {
    let mut taken = None;
    wait_until("a connection to accept", || {
        taken = bench.linux.accept(listener, role).ok();
        taken.is_some()
    });
    taken.unwrap()
}

fn byte_at(offset: usize) -> u8 {
    (offset.wrapping_mul(2_654_435_761) >> 13) as u8
}
