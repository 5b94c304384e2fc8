//! What a socket does, stated once, and held against the simulated kernel and against Linux.
//!
//! Each rule is a function over [`Net`], which has what production's drivers can see. So the simulation cannot drift
//! away from what it stands for.

#![allow(clippy::unwrap_used)] // a rule that cannot be set up fails

mod net;

use core::net::SocketAddr;
use net::{Linux, Net, Simulated, token};
use protocol_sm::driver::{SysError, Token};

/// A connection: both ends watched, with these tokens.
const NEAR: Token = token(1);
const FAR: Token = token(2);
const DOOR: Token = token(3);

struct Pair<N: Net> {
    net: N,
    near: N::Stream,
    far: N::Stream,
    door: N::Listener,
}

impl<N: Net> Pair<N> {
    fn new() -> Self {
        let mut net = N::new();
        let (door, at) = net.listen(DOOR);
        let near = net.connect(at, NEAR).unwrap();
        net.until(DOOR, |ready| ready.readable);
        let far = net.accept(&door).unwrap();
        net.watch(&far, FAR);
        net.connected(&near);
        Self { net, near, far, door }
    }

    /// Writes `n` bytes, waiting for room as often as it takes.
    fn write(&mut self, n: usize) {
        write(&mut self.net, &self.near, NEAR, n);
    }

    /// Writes until the socket is full.
    fn fill(&mut self) -> usize {
        let chunk = [7; 64 * 1024];
        let (mut total, mut blocked) = (0, 0);
        // What is under way when it blocks first may make room once more.
        while blocked < 3 {
            match self.net.send(&self.near, &chunk) {
                Ok(n) => (total, blocked) = (total + n, 0),
                Err(SysError::WouldBlock) => {
                    blocked += 1;
                    self.net.gather();
                }
                Err(error) => panic!("a write failed: {error}"),
            }
        }
        self.net.seen().remove(&NEAR);
        total
    }
}

fn write<N: Net>(net: &mut N, to: &N::Stream, token: Token, n: usize) {
    let chunk = vec![7; n.min(64 * 1024)];
    let mut left = n;
    while left > 0 {
        match net.send(to, &chunk[..left.min(chunk.len())]) {
            Ok(n) => left -= n,
            Err(SysError::WouldBlock) => drop(net.until(token, |ready| ready.writable)),
            Err(error) => panic!("a write failed: {error}"),
        }
    }
}

/// Reads to the end, or to an error.
fn read_all<N: Net>(net: &mut N, from: &N::Stream, token: Token) -> (usize, Result<(), SysError>) {
    let mut total = 0;
    let mut buffer = [0; 16 * 1024];
    loop {
        match net.recv(from, &mut buffer) {
            Ok(0) => return (total, Ok(())),
            Ok(n) => total += n,
            Err(SysError::WouldBlock) => drop(net.until(token, |ready| ready.readable || ready.hup)),
            Err(error) => return (total, Err(error)),
        }
    }
}

/// Reads exactly `n` bytes.
fn read_exactly<N: Net>(net: &mut N, from: &N::Stream, token: Token, n: usize) {
    let mut buffer = vec![0; n];
    let mut filled = 0;
    while filled < n {
        match net.recv(from, &mut buffer[filled..]) {
            Ok(0) => panic!("an end after {filled} of {n} bytes"),
            Ok(n) => filled += n,
            Err(SysError::WouldBlock) => drop(net.until(token, |ready| ready.readable)),
            Err(error) => panic!("a read failed: {error}"),
        }
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* fn $name:ident<$n:ident: $net:ident>() $body:block)*) => {
        $($(#[$doc])* fn $name<$n: $net>() $body)*

        mod simulated {
            $(#[test] fn $name() { super::$name::<super::Simulated>(); })*
        }

        mod linux {
            $(#[test] fn $name() { super::$name::<super::Linux>(); })*
        }
    };
}

mod udp;
mod unix;

rules! {
    fn a_port_at_two_addresses_is_two_and_at_all_of_them_it_is_each<N: Net>() {
        let mut net = N::new();
        let (door, at) = net.listen(DOOR);
        for address in [[127, 0, 0, 1], [0; 4]] {
            let again = net.listen_at((address, at.port()).into(), FAR);
            assert!(matches!(again, Err(SysError::InUse)), "{address:?}");
        }
        let elsewhere = SocketAddr::from(([127, 0, 0, 2], at.port()));
        let (other, _) = net.listen_at(elsewhere, FAR).unwrap();
        let near = net.connect(elsewhere, NEAR).unwrap();
        net.until(FAR, |ready| ready.readable);
        assert!(matches!(net.accept(&door), Err(SysError::WouldBlock)));
        let far = net.accept(&other).unwrap();
        [near, far].into_iter().for_each(|stream| net.close(stream));
        [door, other].into_iter().for_each(|door| net.unlisten(door));
    }

    fn a_refused_connect_is_an_error_that_is_taken_once<N: Net>() {
        let mut net = N::new();
        let (door, at) = net.listen(DOOR);
        net.unlisten(door);
        match net.connect(at, NEAR) {
            // Some systems say so at once.
            Err(error) => assert_eq!(error, SysError::Refused),
            Ok(near) => {
                let ready = net.until(NEAR, |ready| ready.error);
                assert!(ready.hup && ready.writable);
                assert_eq!(net.take_error(&near), Err(SysError::Refused));
                net.close(near);
            }
        }
    }

    fn what_is_peeked_stays_and_its_end_is_seen_once_it_is_read<N: Net>() {
        let mut pair = Pair::<N>::new();
        let mut buffer = [0; 1000];
        assert_eq!(pair.net.peek(&pair.far, &mut buffer), Err(SysError::WouldBlock));
        pair.write(100);
        pair.net.until(FAR, |ready| ready.readable);
        assert_eq!(pair.net.peek(&pair.far, &mut buffer[..40]), Ok(40));
        assert_eq!(pair.net.recv(&pair.far, &mut buffer[..40]), Ok(40));
        pair.net.shut_write(&pair.near);
        pair.net.until(FAR, |ready| ready.hup);
        assert_eq!(pair.net.peek(&pair.far, &mut buffer), Ok(60), "in front of the end");
        assert_eq!(pair.net.recv(&pair.far, &mut buffer), Ok(60));
        assert_eq!(pair.net.peek(&pair.far, &mut buffer), Ok(0));
    }

    fn a_read_finds_what_is_there_and_new_bytes_are_a_new_edge<N: Net>() {
        let mut pair = Pair::<N>::new();
        for round in 1..4 {
            pair.write(100 * round);
            pair.net.until(FAR, |ready| ready.readable);
            let mut buffer = [0; 1000];
            let mut found = 0;
            while found < 100 * round {
                match pair.net.recv(&pair.far, &mut buffer) {
                    Ok(n) => found += n,
                    Err(SysError::WouldBlock) => drop(pair.net.until(FAR, |ready| ready.readable)),
                    Err(error) => panic!("a read failed: {error}"),
                }
            }
            assert_eq!(found, 100 * round);
            assert_eq!(pair.net.recv(&pair.far, &mut buffer), Err(SysError::WouldBlock));
        }
    }

    fn without_news_there_is_no_edge<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.write(100);
        pair.net.until(FAR, |ready| ready.readable);
        assert!(pair.net.quiet(FAR), "unread bytes are reported once");
        read_exactly(&mut pair.net, &pair.far, FAR, 100);
        assert!(pair.net.quiet(FAR));
    }

    fn what_is_ready_already_is_reported_when_watched<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.net.unwatch(&pair.far);
        pair.write(10);
        assert!(pair.net.quiet(FAR), "nothing is reported of what is not watched");
        pair.net.watch(&pair.far, FAR);
        let ready = pair.net.until(FAR, |ready| ready.readable);
        assert!(!ready.hup && !ready.error);
        assert!(!ready.writable, "room is told to who found none");
    }

    fn a_full_socket_blocks_and_room_is_an_edge<N: Net>() {
        let mut pair = Pair::<N>::new();
        let sent = pair.fill();
        assert!(sent > 0);
        read_exactly(&mut pair.net, &pair.far, FAR, sent);
        pair.net.until(NEAR, |ready| ready.writable);
        assert!(pair.net.send(&pair.near, b"more").is_ok());
    }

    fn a_full_socket_that_changes_hands_is_watched_for_room<N: Net>() {
        let mut pair = Pair::<N>::new();
        let sent = pair.fill();
        pair.net.unwatch(&pair.near);
        pair.net.watch(&pair.near, NEAR);
        read_exactly(&mut pair.net, &pair.far, FAR, sent);
        pair.net.until(NEAR, |ready| ready.writable);
    }

    fn an_end_comes_behind_the_bytes_and_stays<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.write(1000);
        pair.net.shut_write(&pair.near);
        let ready = pair.net.until(FAR, |ready| ready.hup);
        assert!(ready.readable && !ready.error);
        read_exactly(&mut pair.net, &pair.far, FAR, 1000);
        for _ in 0..2 {
            assert_eq!(pair.net.recv(&pair.far, &mut [0; 10]), Ok(0));
        }
    }

    fn the_other_half_flows_on_after_an_end<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.net.shut_write(&pair.near);
        pair.net.until(FAR, |ready| ready.hup);
        write(&mut pair.net, &pair.far, FAR, 5000);
        read_exactly(&mut pair.net, &pair.near, NEAR, 5000);
        pair.net.shut_write(&pair.far);
        let ready = pair.net.until(NEAR, |ready| ready.hup);
        assert!(!ready.error);
        assert_eq!(pair.net.recv(&pair.near, &mut [0; 10]), Ok(0));
    }

    fn a_write_after_the_own_shutdown_fails<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.net.shut_write(&pair.near);
        assert_eq!(pair.net.send(&pair.near, b"late"), Err(SysError::ResetBehindEnd));
        assert_eq!(pair.net.recv(&pair.near, &mut [0; 10]), Err(SysError::WouldBlock), "the connection lives");
    }

    fn a_shutdown_wakes_its_own_poller<N: Net>() {
        let mut pair = Pair::<N>::new();
        let sent = pair.fill();
        read_exactly(&mut pair.net, &pair.far, FAR, sent);
        assert!(pair.net.quiet(NEAR), "a wake-up for its room, and no more");
        pair.net.shut_write(&pair.near);
        pair.net.until(NEAR, |ready| ready.writable);
    }

    fn a_reset_comes_behind_the_bytes_before_it_and_is_told_once<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.write(1000);
        pair.net.until(FAR, |ready| ready.readable);
        pair.net.reset(pair.near);
        let ready = pair.net.until(FAR, |ready| ready.error);
        assert!(ready.readable && ready.hup);
        read_exactly(&mut pair.net, &pair.far, FAR, 1000);
        assert_eq!(pair.net.recv(&pair.far, &mut [0; 10]), Err(SysError::Reset));
        assert_eq!(pair.net.recv(&pair.far, &mut [0; 10]), Ok(0), "the error was taken");
        assert_eq!(pair.net.send(&pair.far, b"late"), Err(SysError::ResetBehindEnd), "EPIPE from now on");
        assert_eq!(pair.net.take_error(&pair.far), Ok(()));
    }

    fn the_pending_error_of_a_reset_can_be_taken<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.net.reset(pair.near);
        pair.net.until(FAR, |ready| ready.error);
        assert_eq!(pair.net.take_error(&pair.far), Err(SysError::Reset));
        assert_eq!(pair.net.take_error(&pair.far), Ok(()));
        assert_eq!(pair.net.recv(&pair.far, &mut [0; 10]), Ok(0));
        pair.net.shut_write(&pair.far);
    }

    fn a_write_takes_the_pending_error_too<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.net.reset(pair.near);
        pair.net.until(FAR, |ready| ready.error);
        assert_eq!(pair.net.send(&pair.far, b"late"), Err(SysError::Reset));
        assert_eq!(pair.net.take_error(&pair.far), Ok(()));
    }

    fn a_failed_write_leaves_the_bytes_and_the_reader_sees_a_clean_end_behind_them<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.write(1000);
        pair.net.until(FAR, |ready| ready.readable);
        pair.net.reset(pair.near);
        pair.net.until(FAR, |ready| ready.error);
        assert_eq!(pair.net.send(&pair.far, b"late"), Err(SysError::Reset));
        read_exactly(&mut pair.net, &pair.far, FAR, 1000);
        assert_eq!(pair.net.recv(&pair.far, &mut [0; 10]), Ok(0), "the write took the one error");
    }

    fn an_error_that_was_asked_for_leaves_the_bytes_and_a_clean_end<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.write(1000);
        pair.net.until(FAR, |ready| ready.readable);
        pair.net.reset(pair.near);
        pair.net.until(FAR, |ready| ready.error);
        assert_eq!(pair.net.take_error(&pair.far), Err(SysError::Reset));
        read_exactly(&mut pair.net, &pair.far, FAR, 1000);
        assert_eq!(pair.net.recv(&pair.far, &mut [0; 10]), Ok(0));
    }

    fn splice_moves_the_bytes_before_a_reset_first<N: Net>() {
        let mut pair = Pair::<N>::new();
        let pipe = pair.net.pipe();
        pair.write(10);
        pair.net.until(FAR, |ready| ready.readable);
        pair.net.reset(pair.near);
        pair.net.until(FAR, |ready| ready.error);
        assert_eq!(pair.net.splice_in(&pair.far, &pipe, 100), Ok(10));
        assert_eq!(pair.net.splice_in(&pair.far, &pipe, 100), Err(SysError::Reset));
        assert_eq!(pair.net.splice_in(&pair.far, &pipe, 100), Ok(0));
    }

    fn a_reset_behind_an_end_is_told_to_a_writer_only<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.write(10);
        pair.net.shut_write(&pair.near);
        pair.net.until(FAR, |ready| ready.hup);
        pair.net.reset(pair.near);
        pair.net.until(FAR, |ready| ready.error);
        read_exactly(&mut pair.net, &pair.far, FAR, 10);
        for _ in 0..2 {
            assert_eq!(pair.net.recv(&pair.far, &mut [0; 10]), Ok(0));
        }
        assert_eq!(pair.net.take_error(&pair.far), Err(SysError::ResetBehindEnd), "EPIPE: no read has taken it");
        assert_eq!(pair.net.send(&pair.far, b"late"), Err(SysError::ResetBehindEnd));
    }

    fn a_close_with_unread_bytes_discards_what_is_queued<N: Net>() {
        let mut pair = Pair::<N>::new();
        let sent = pair.fill();
        write(&mut pair.net, &pair.far, FAR, 10);
        pair.net.until(NEAR, |ready| ready.readable);
        pair.net.close(pair.near);
        pair.net.until(FAR, |ready| ready.error);
        let (read, end) = read_all(&mut pair.net, &pair.far, FAR);
        assert_eq!(end, Err(SysError::Reset));
        assert!(read < sent, "{read} of {sent} bytes came");
    }

    fn unsent_bytes_are_those_that_the_peer_has_not_acknowledged_and_an_end<N: Net>() {
        let mut pair = Pair::<N>::new();
        assert_eq!(pair.net.unsent(&pair.near), 0);
        let sent = pair.fill();
        let unsent = pair.net.unsent(&pair.near);
        assert!(unsent > 0 && unsent < sent, "{unsent} of {sent}: what lies unread at the peer is acknowledged");
        pair.net.shut_write(&pair.near);
        assert_eq!(pair.net.unsent(&pair.near), unsent + 1, "the end counts");
        read_exactly(&mut pair.net, &pair.far, FAR, sent);
        let gone = (0..1000).any(|_| {
            pair.net.gather();
            pair.net.unsent(&pair.near) == 0
        });
        assert!(gone, "{} left", pair.net.unsent(&pair.near));
    }

    fn what_was_acknowledged_is_read_although_a_reset_follows_at_once<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.write(10_000);
        let gone = (0..1000).any(|_| {
            pair.net.gather();
            pair.net.unsent(&pair.near) == 0
        });
        assert!(gone);
        pair.net.reset(pair.near);
        pair.net.until(FAR, |ready| ready.error);
        assert_eq!(read_all(&mut pair.net, &pair.far, FAR), (10_000, Err(SysError::Reset)), "also by a late reader");
    }

    fn a_reset_behind_an_end_reads_as_an_end<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.net.shut_write(&pair.near);
        pair.net.until(FAR, |ready| ready.hup);
        pair.net.reset(pair.near);
        pair.net.until(FAR, |ready| ready.error);
        assert_eq!(pair.net.recv(&pair.far, &mut [0; 10]), Ok(0));
        assert_eq!(pair.net.send(&pair.far, b"late"), Err(SysError::ResetBehindEnd));
    }

    fn a_close_with_unread_bytes_resets_the_peer<N: Net>() {
        let mut pair = Pair::<N>::new();
        write(&mut pair.net, &pair.far, FAR, 10);
        pair.net.until(NEAR, |ready| ready.readable);
        pair.net.close(pair.near);
        pair.net.until(FAR, |ready| ready.error);
        assert_eq!(pair.net.recv(&pair.far, &mut [0; 10]), Err(SysError::Reset));
    }

    fn a_close_in_good_order_loses_nothing<N: Net>() {
        let mut pair = Pair::<N>::new();
        let sent = pair.fill();
        pair.net.close(pair.near);
        assert_eq!(read_all(&mut pair.net, &pair.far, FAR), (sent, Ok(())));
    }

    fn a_reset_discards_what_is_queued<N: Net>() {
        let mut pair = Pair::<N>::new();
        let sent = pair.fill();
        pair.net.reset(pair.near);
        let (read, end) = read_all(&mut pair.net, &pair.far, FAR);
        assert_eq!(end, Err(SysError::Reset));
        assert!(read < sent, "{read} of {sent} bytes came");
    }

    fn bytes_for_a_closed_socket_are_answered_with_a_reset<N: Net>() {
        let mut pair = Pair::<N>::new();
        pair.net.close(pair.near);
        pair.net.until(FAR, |ready| ready.hup);
        assert_eq!(pair.net.recv(&pair.far, &mut [0; 10]), Ok(0), "it was closed in good order");
        assert_eq!(pair.net.send(&pair.far, b"for nobody"), Ok(10));
        pair.net.until(FAR, |ready| ready.error);
        assert_eq!(pair.net.recv(&pair.far, &mut [0; 10]), Ok(0), "the end was there first");
        assert_eq!(pair.net.send(&pair.far, b"late"), Err(SysError::ResetBehindEnd));
    }

    fn bytes_for_a_closed_socket_discard_what_it_had_to_send<N: Net>() {
        let mut pair = Pair::<N>::new();
        let sent = pair.fill();
        pair.net.close(pair.near);
        // The end cannot come yet: the window is closed.
        assert_eq!(pair.net.send(&pair.far, b"for nobody"), Ok(10));
        pair.net.until(FAR, |ready| ready.error);
        let (read, end) = read_all(&mut pair.net, &pair.far, FAR);
        assert_eq!(end, Err(SysError::Reset));
        assert!(read < sent);
    }

    fn what_was_not_accepted_is_reset_with_its_listener<N: Net>() {
        let mut pair = Pair::<N>::new();
        let at = pair.net.local(&pair.door);
        let late = token(9);
        let stream = pair.net.connect(at, late).unwrap();
        pair.net.connected(&stream);
        pair.net.until(DOOR, |ready| ready.readable);
        pair.net.unlisten(pair.door);
        pair.net.until(late, |ready| ready.error);
        assert_eq!(pair.net.recv(&stream, &mut [0; 10]), Err(SysError::Reset));
    }

    fn a_connection_that_was_reset_while_it_waited_is_accepted<N: Net>() {
        let mut pair = Pair::<N>::new();
        let at = pair.net.local(&pair.door);
        let late = token(9);
        let stream = pair.net.connect(at, late).unwrap();
        pair.net.connected(&stream);
        pair.net.until(DOOR, |ready| ready.readable);
        pair.net.reset(stream);
        assert!(pair.net.quiet(late));
        let accepted = pair.net.accept(&pair.door).unwrap();
        assert_eq!(pair.net.recv(&accepted, &mut [0; 10]), Err(SysError::Reset));
        assert!(pair.net.accept(&pair.door).is_err());
    }

    fn splice_tells_nothing_from_an_end_and_from_a_reset<N: Net>() {
        let mut pair = Pair::<N>::new();
        let pipe = pair.net.pipe();
        assert_eq!(pair.net.splice_in(&pair.far, &pipe, 100), Err(SysError::WouldBlock));
        pair.write(10);
        pair.net.until(FAR, |ready| ready.readable);
        assert_eq!(pair.net.splice_in(&pair.far, &pipe, 100), Ok(10));
        assert_eq!(pair.net.splice_out(&pipe, &pair.far, 10), Ok(10));
        read_exactly(&mut pair.net, &pair.near, NEAR, 10);
        pair.net.shut_write(&pair.near);
        pair.net.until(FAR, |ready| ready.hup);
        assert_eq!(pair.net.splice_in(&pair.far, &pipe, 100), Ok(0));
        let mut other = Pair::<N>::new();
        let pipe = other.net.pipe();
        other.net.reset(other.near);
        other.net.until(FAR, |ready| ready.error);
        assert_eq!(other.net.splice_in(&other.far, &pipe, 100), Err(SysError::Reset));
        assert_eq!(other.net.splice_in(&other.far, &pipe, 100), Ok(0));
    }

    fn a_splice_into_a_full_socket_blocks_and_keeps_what_is_left<N: Net>() {
        let mut pair = Pair::<N>::new();
        let pipe = pair.net.pipe();
        write(&mut pair.net, &pair.far, FAR, 8192);
        pair.net.until(NEAR, |ready| ready.readable);
        let mut held = 0;
        while held < 8192 {
            match pair.net.splice_in(&pair.near, &pipe, 8192 - held) {
                Ok(n) => held += n,
                Err(SysError::WouldBlock) => drop(pair.net.until(NEAR, |ready| ready.readable)),
                Err(error) => panic!("a splice failed: {error}"),
            }
        }
        let before = pair.fill();
        let at_once = match pair.net.splice_out(&pipe, &pair.near, held) {
            Ok(n) => n,
            Err(error) => {
                assert_eq!(error, SysError::WouldBlock);
                0
            }
        };
        read_exactly(&mut pair.net, &pair.far, FAR, before + at_once);
        let mut left = held - at_once;
        while left > 0 {
            match pair.net.splice_out(&pipe, &pair.near, left) {
                Ok(n) => left -= n,
                Err(SysError::WouldBlock) => drop(pair.net.until(NEAR, |ready| ready.writable)),
                Err(error) => panic!("a splice failed: {error}"),
            }
        }
        read_exactly(&mut pair.net, &pair.far, FAR, held - at_once);
    }

    fn many_small_segments_pass_through_a_pipe_whole<N: Net>() {
        let mut pair = Pair::<N>::new();
        let pipe = pair.net.pipe();
        for _ in 0..100 {
            pair.write(3);
        }
        let mut passed = 0;
        while passed < 300 {
            match pair.net.splice_in(&pair.far, &pipe, 64 * 1024) {
                Ok(n) => {
                    assert_eq!(pair.net.splice_out(&pipe, &pair.far, n), Ok(n), "the pipe gives back what it took");
                    passed += n;
                }
                Err(SysError::WouldBlock) => drop(pair.net.until(FAR, |ready| ready.readable)),
                Err(error) => panic!("a splice failed: {error}"),
            }
        }
        read_exactly(&mut pair.net, &pair.near, NEAR, 300);
    }

    fn what_a_pipe_holds_can_be_read<N: Net>() {
        let mut pair = Pair::<N>::new();
        let pipe = pair.net.pipe();
        pair.write(10);
        pair.net.until(FAR, |ready| ready.readable);
        assert_eq!(pair.net.splice_in(&pair.far, &pipe, 100), Ok(10));
        assert_eq!(pair.net.splice_out(&pipe, &pair.far, 4), Ok(4));
        let mut rest = [0; 6];
        assert_eq!(pair.net.read_pipe(&pipe, &mut rest), Ok(()));
        assert_eq!(rest, [7; 6]);
        pair.write(3);
        pair.net.until(FAR, |ready| ready.readable);
        assert_eq!(pair.net.splice_in(&pair.far, &pipe, 100), Ok(3), "it is empty again");
    }

    fn who_finds_the_accept_queue_full_waits_for_room<N: Net>() {
        let mut net = N::new();
        let (door, at) = net.listen(DOOR);
        net.set_backlog(&door, 1);
        let (first, second, third) = (token(11), token(12), token(13));
        for token in [first, second] {
            let near = net.connect(at, token).unwrap();
            // One more than the backlog fits.
            net.connected(&near);
            // It stays open: dropping it would not tell the simulated kernel.
            std::mem::forget(near);
        }
        let near = net.connect(at, third).unwrap();
        assert!(net.quiet(third), "nobody answers");
        assert_eq!(net.take_error(&near), Err(SysError::WouldBlock));
        net.accept(&door).map(|far| net.close(far)).unwrap();
        // It asks again after a second.
        net.until(third, |ready| ready.writable);
        assert_eq!(net.take_error(&near), Ok(()));
    }

    fn a_new_connection_has_nothing_to_read<N: Net>() {
        let mut net = N::new();
        let (_door, at) = net.listen(DOOR);
        let near = net.connect(at, NEAR).unwrap();
        net.connected(&near);
        assert_eq!(net.recv(&near, &mut [0; 10]), Err(SysError::WouldBlock));
    }
}
