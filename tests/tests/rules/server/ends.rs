//! Ends that are resets, as a client by hand and its visitors make them: each keeps its place behind the bytes, and
//! the conn carries the next visitor.

use super::*;
use std::time::Instant;
use tests::sockets::{reset, small_receive_buffer};

const E2: Epoch = Epoch(2);

impl Stage {
    fn say_started(&mut self) {
        self.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    }

    /// The next visitor is given the same conn, and served on it.
    #[track_caller]
    fn expect_reuse(&mut self) {
        let mut visitor = connect(self.public);
        visitor.write_all(b"next").expect("send");
        finish(&visitor);
        let start = self.conn.start();
        assert!(matches!(start, ProxyToClient::Start { epoch: E2, .. }), "{start:?}");
        assert_eq!(self.conn.wire.bytes(4).expect("the visitor's words"), b"next");
        assert_eq!(self.server_fin(E2), 4);
        self.conn.wire.send(&ProxyToServer::Started { epoch: E2 });
        self.conn.wire.send_raw(b"served");
        self.fin(E2, 6);
        self.done(E2);
        assert_eq!(read_all(&mut visitor), b"served");
    }
}

fn fin(total: u64, how: How) -> Fin {
    Fin { total, how }
}

/// P-FIN-1, P-DONE-2: a visitor's reset is told behind its bytes, before `Started` and after it; what the service still
/// says reaches nobody, and is accounted for.
#[test]
fn a_visitors_reset_is_an_end() {
    for started_before in [false, true] {
        let mut stage = Stage::set();
        let visitor = stage.visitor(b"words");
        if started_before {
            stage.say_started();
            stage.conn.wire.send_raw(b"!");
            (&visitor).read_exact(&mut [0]).expect("it is being served");
        }
        reset(visitor);
        assert_eq!(stage.server_end(E1), fin(5, How::Reset));
        if !started_before {
            stage.say_started();
            stage.conn.wire.send_raw(b"!");
        }
        stage.conn.wire.send_raw(b"for nobody");
        stage.end(E1, 11, How::Reset);
        stage.done(E1);
        stage.expect_reuse();
    }
}

/// P-FIN-1, P-FIN-7: a visitor resets behind the service's end: the end was good, and the reset is told.
#[test]
fn a_visitor_resets_after_the_services_end() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"words");
    stage.say_started();
    stage.conn.wire.send_raw(b"answer");
    stage.fin(E1, 6);
    assert_eq!(read_all(&mut visitor), b"answer");
    reset(visitor);
    assert_eq!(stage.server_end(E1), fin(5, How::Reset));
    stage.done(E1);
    stage.expect_reuse();
}

/// P-FIN-1, P-FIN-5: a visitor resets behind its own end: a second `Fin` says so, with the same total.
#[test]
fn a_visitor_resets_behind_its_own_end() {
    for started_before in [false, true] {
        let mut stage = Stage::set();
        let visitor = stage.visitor(b"words");
        finish(&visitor);
        assert_eq!(stage.server_fin(E1), 5);
        if started_before {
            stage.say_started();
            stage.client.expect_alive();
        }
        reset(visitor);
        assert_eq!(stage.server_end(E1), fin(5, How::Reset));
        if !started_before {
            stage.say_started();
        }
        stage.conn.wire.send_raw(b"for nobody");
        stage.end(E1, 10, How::Reset);
        stage.done(E1);
        stage.expect_reuse();
    }
}

/// P-FIN-1, P-XFER-7: a visitor that has not read for long resets: all that waits for it is dropped and counted.
#[test]
fn a_visitor_resets_under_a_stalled_download() {
    const DOWN: usize = 64 << 20;
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"words");
    stage.say_started();
    let mut sending = stage.conn.wire.try_clone();
    let download = std::thread::spawn(move || sending.send_raw(&vec![7; DOWN]));
    visitor.read_exact(&mut [0; 1000]).expect("the download has begun");
    std::thread::sleep(Duration::from_millis(100));
    assert!(!download.is_finished(), "nobody reads");
    reset(visitor);
    assert_eq!(stage.server_end(E1), fin(5, How::Reset));
    download.join().expect("all of it is taken");
    stage.end(E1, DOWN as u64, How::Reset);
    stage.done(E1);
    stage.expect_reuse();
}

/// P-REF-2, P-REF-3: a visitor resets while its `Start` is on its way to a client that refuses it.
#[test]
fn a_visitor_resets_before_it_is_refused() {
    let mut stage = Stage::set();
    let visitor = stage.visitor(b"abc");
    reset(visitor);
    assert_eq!(stage.server_end(E1), fin(3, How::Reset));
    stage.conn.wire.send(&ProxyToServer::Refused { epoch: E1, code: RefuseCode::ConnectionRefused });
    stage.done(E1);
    stage.expect_reuse();
}

/// P-FIN-3, P-DONE-2: a service's reset reaches the visitor behind exactly the total; the server's half ends with it,
/// unless the visitor had ended it.
#[test]
fn a_services_reset_keeps_its_place() {
    for visitor_ends_first in [false, true] {
        for overtakes in [false, true] {
            let mut stage = Stage::set();
            let mut visitor = stage.visitor(b"words");
            if visitor_ends_first {
                finish(&visitor);
                assert_eq!(stage.server_fin(E1), 5);
            }
            if overtakes {
                stage.end(E1, 6, How::Reset);
                if visitor_ends_first {
                    stage.client.expect_alive();
                } else {
                    assert_eq!(stage.server_end(E1), fin(5, How::Reset));
                }
            }
            stage.say_started();
            stage.conn.wire.send_raw(b"ans");
            visitor.read_exact(&mut [0; 3]).expect("the first half");
            stage.conn.wire.send_raw(b"wer");
            if !overtakes {
                stage.end(E1, 6, How::Reset);
            }
            assert_eq!(read_end(&mut visitor), (3, End::Reset), "{visitor_ends_first} {overtakes}");
            if !visitor_ends_first && !overtakes {
                assert_eq!(stage.server_end(E1), fin(5, How::Reset));
            }
            stage.done(E1);
            stage.expect_reuse();
        }
    }
}

/// P-FIN-3, P-FIN-5: a reset behind a clean end: the end is seen, and then the socket is gone.
#[test]
fn a_services_reset_behind_its_end_is_no_end() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"words");
    stage.say_started();
    stage.conn.wire.send_raw(b"answer");
    stage.fin(E1, 6);
    assert_eq!(read_all(&mut visitor), b"answer");
    stage.end(E1, 6, How::Reset);
    assert_eq!(stage.server_end(E1), fin(5, How::Reset));
    until("the visitor's socket has an error", || visitor.take_error().expect("SO_ERROR").is_some());
    stage.done(E1);
    stage.expect_reuse();

    // Both before the first byte.
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"words");
    stage.fin(E1, 6);
    stage.end(E1, 6, How::Reset);
    assert_eq!(stage.server_end(E1), fin(5, How::Reset));
    stage.say_started();
    stage.conn.wire.send_raw(b"answer");
    assert_eq!(read_all(&mut visitor), b"answer");
    stage.done(E1);
    stage.expect_reuse();
}

/// P-FIN-1, P-FIN-2: a service resets while its visitor sends and nobody takes it: what the server took is told and
/// sent, and no more.
#[test]
fn a_service_resets_under_a_stalled_upload() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"");
    stage.say_started();
    let upload = std::thread::spawn(move || {
        while visitor.write_all(&[7; 64 << 10]).is_ok() {}
        visitor
    });
    std::thread::sleep(Duration::from_millis(200));
    assert!(!upload.is_finished(), "nobody reads");
    stage.conn.wire.send_raw(b"no");
    stage.end(E1, 2, How::Reset);
    let Fin { total, how } = stage.server_end(E1);
    assert_eq!(how, How::Reset);
    upload.join().expect("it cannot send any more");
    let total = usize::try_from(total).expect("a length");
    assert_eq!(stage.conn.wire.bytes(total).expect("all of it"), vec![7; total]);
    stage.done(E1);
    stage.expect_reuse();
}

/// P-FIN-3: a visitor that does not read holds its reset up for `reset_linger` at most.
#[test]
fn a_reset_is_not_held_up_for_ever() {
    const SENT: usize = 200_000;
    let quick = options().threads(1).key("idle_conns", 1).key("reset_linger", 0.4);
    let mut stage = Stage::set_on(Server::start(quick));
    let mut visitor = stage.visitor(b"");
    small_receive_buffer(&visitor);
    stage.say_started();
    stage.conn.wire.send_raw(&vec![7; SENT]);
    let begun = Instant::now();
    stage.end(E1, SENT as u64, How::Reset);
    assert_eq!(stage.server_end(E1), fin(0, How::Reset));
    stage.done(E1);
    stage.expect_reuse();
    assert!(begun.elapsed() >= Duration::from_millis(400), "the visitor had time to read");
    let (read, end) = read_end(&mut visitor);
    assert!(read < SENT as u64 && end == End::Reset, "{read} bytes and {end:?}");
}

/// P-FIN-13: nor longer than `reset_linger` for a visitor that does not read, however much is still to be given to it.
#[test]
fn a_visitor_that_reads_nothing_is_reset_with_more_behind() {
    const SENT: usize = 32 << 20;
    let quick = options().threads(1).key("idle_conns", 1).key("reset_linger", 0.4);
    let mut stage = Stage::set_on(Server::start(quick));
    let mut visitor = stage.visitor(b"");
    small_receive_buffer(&visitor);
    stage.say_started();
    let mut conn = stage.conn.wire.try_clone();
    let sender = std::thread::spawn(move || conn.send_raw(&vec![7; SENT]));
    stage.end(E1, SENT as u64, How::Reset);
    assert_eq!(stage.server_end(E1), fin(0, How::Reset));
    sender.join().expect("the server takes all of it, and drops what it cannot deliver");
    stage.done(E1);
    stage.expect_reuse();
    let (read, end) = read_end(&mut visitor);
    assert!(read < SENT as u64 && end == End::Reset, "{read} bytes and {end:?}");
}

/// P-FIN-5: a second end, unless it is a reset right behind a shut one with the same total.
#[test]
fn a_second_end_is_a_violation() {
    use How::{Reset, Shut};
    let wrongs: [&[Fin]; 6] = [
        &[fin(5, Reset), fin(5, Reset)],
        &[fin(5, Reset), fin(5, Shut)],
        &[fin(5, Shut), fin(5, Reset), fin(5, Reset)],
        &[fin(5, Shut), fin(6, Reset)],
        &[fin(5, Shut), fin(4, Reset)],
        &[fin(5, Shut), fin(5, Reset), fin(5, Shut)],
    ];
    for ends in wrongs {
        let mut stage = Stage::set();
        let visitor = stage.visitor(b"");
        for Fin { total, how } in ends {
            stage.end(E1, *total, *how);
        }
        stage.expect_violation(Some(visitor));
    }
}

/// P-FIN-5: a reset before what came already.
#[test]
fn a_reset_cannot_be_earlier_than_what_came() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"");
    stage.say_started();
    stage.conn.wire.send_raw(b"answer");
    visitor.read_exact(&mut [0; 6]).expect("all of it");
    stage.end(E1, 5, How::Reset);
    stage.expect_violation(Some(visitor));
}

/// P-REF-4: a refused transfer has no end of its own, whatever its manner.
#[test]
fn a_refused_transfer_does_not_end_twice() {
    let mut stage = Stage::set();
    let visitor = stage.visitor(b"abc");
    stage.conn.wire.send(&ProxyToServer::Refused { epoch: E1, code: RefuseCode::ConnectionRefused });
    assert_eq!(stage.server_end(E1), fin(3, How::Reset));
    stage.end(E1, 0, How::Reset);
    stage.expect_violation(Some(visitor));
}

/// P-FRAME-3: a manner that is neither.
#[test]
fn an_unknown_manner_is_malformed() {
    let mut stage = Stage::set();
    let visitor = stage.visitor(b"");
    let (conn, epoch) = (stage.conn.id, E1);
    let msg = ClientMsg::Fin { conn, epoch, total: 5, how: How::Reset };
    let mut bytes = Vec::new();
    ToServer::Numbered { seq: stage.client.sent + 1, msg }.encode_to(&mut bytes);
    let manner = bytes.last_mut().expect("a message");
    assert_eq!(*manner, 1, "the manner is its last byte");
    *manner = 2;
    stage.client.wire.send_raw(&bytes);
    stage.expect_violation(Some(visitor));
}

/// P-XFER-9, P-ABORT-5: a reset behind bytes that never come is waited for as any half is.
#[test]
fn a_reset_whose_bytes_never_come_is_given_up() {
    let quick = options().threads(1).key("idle_conns", 1).key("half_open_timeout", 0.5);
    let mut stage = Stage::set_on(Server::start(quick));
    let mut visitor = stage.visitor(b"");
    stage.say_started();
    stage.conn.wire.send_raw(b"half");
    stage.end(E1, 8, How::Reset);
    visitor.read_exact(&mut [0; 4]).expect("what there is");
    assert_eq!(stage.server_abort(E1), AbortCode::Deadline);
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
    stage.conn.wire.expect_end();
}
