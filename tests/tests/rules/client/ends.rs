//! Ends that are resets, as a server by hand and the service make them: each keeps its place behind the bytes, and
//! the conn carries the next visitor.

use super::*;
use std::thread::sleep;
use std::time::Duration;
use tests::sockets::{finish, read_all, reset};

const E2: Epoch = Epoch(2);

impl Stage {
    fn expect_end(&mut self, total: u64, how: How) {
        let conn = self.conn.id;
        self.expect_msg(&ClientMsg::Fin { conn, epoch: E1, total, how });
    }

    /// The transfer is over, and the next goes by the book on the same conn.
    #[track_caller]
    fn expect_reuse(&mut self) {
        let conn = self.conn.id;
        self.expect_msg(&ClientMsg::Done { conn, epoch: E1 });
        self.start(E2, b"question");
        self.expect_started(E2);
        self.fin(E2, 8);
        let mut local = self.local();
        assert_eq!(read_all(&mut local), b"question");
        local.write_all(b"answer").expect("send");
        finish(&local);
        assert_eq!(self.conn.wire.bytes(6).expect("the answer"), b"answer");
        self.expect_msg(&ClientMsg::Fin { conn, epoch: E2, total: 6, how: How::Shut });
        self.expect_msg(&ClientMsg::Done { conn, epoch: E2 });
    }
}

/// P-FIN-1, P-DONE-1: a service's reset is told behind its bytes, before and after the visitor's end; what the visitor
/// still says reaches nobody, and is accounted for.
#[test]
fn a_services_reset_is_an_end() {
    for visitor_ends_first in [false, true] {
        let mut stage = Stage::set();
        stage.start(E1, b"x");
        stage.expect_started(E1);
        let mut local = stage.local();
        local.read_exact(&mut [0]).unwrap();
        if visitor_ends_first {
            stage.fin(E1, 1);
            assert_eq!(read_all(&mut local), b"");
        }
        local.write_all(b"answer").unwrap();
        reset(local);
        assert_eq!(stage.conn.wire.bytes(6).unwrap(), b"answer");
        stage.expect_end(6, How::Reset);
        if !visitor_ends_first {
            stage.conn.wire.send_raw(b"for nobody");
            stage.end_by(E1, 11, How::Reset);
        }
        stage.expect_reuse();
    }
}

/// P-FIN-1, P-FIN-5: a service resets behind its own end: a second `Fin` says so, with the same total.
#[test]
fn a_service_resets_behind_its_own_end() {
    let mut stage = Stage::set();
    stage.start(E1, b"");
    stage.expect_started(E1);
    let mut local = stage.local();
    local.write_all(b"answer").unwrap();
    finish(&local);
    assert_eq!(stage.conn.wire.bytes(6).unwrap(), b"answer");
    stage.expect_end(6, How::Shut);
    reset(local);
    stage.expect_end(6, How::Reset);
    stage.conn.wire.send_raw(b"for nobody");
    stage.end_by(E1, 10, How::Reset);
    stage.expect_reuse();
}

/// P-FIN-1, P-XFER-7: a service that has not read for long resets: all that waits for it is dropped and counted.
#[test]
fn a_service_resets_under_a_stalled_upload() {
    const UP: usize = 64 << 20;
    let mut stage = Stage::set();
    stage.start(E1, b"");
    stage.expect_started(E1);
    let local = stage.local();
    let mut sending = stage.conn.wire.try_clone();
    let upload = std::thread::spawn(move || sending.send_raw(&vec![7; UP]));
    sleep(Duration::from_millis(200));
    assert!(!upload.is_finished(), "nobody reads");
    reset(local);
    stage.expect_end(0, How::Reset);
    upload.join().expect("all of it is taken");
    stage.end_by(E1, UP as u64, How::Reset);
    stage.expect_reuse();
}

/// P-FIN-3, P-FIN-6: a visitor's reset reaches the service behind exactly the total, also where it overtook the bytes
/// or the `Start`; the client's half ends with it, unless the service had ended it.
#[test]
fn a_visitors_reset_keeps_its_place() {
    for overtakes in [false, true] {
        let mut stage = Stage::set();
        if overtakes {
            stage.end_by(E1, 4, How::Reset);
            stage.end.expect_alive();
        }
        stage.start(E1, b"wo");
        let mut local = stage.local();
        stage.expect_started(E1);
        local.read_exact(&mut [0; 2]).unwrap();
        stage.conn.wire.send_raw(b"rd");
        if !overtakes {
            stage.end_by(E1, 4, How::Reset);
        }
        assert_eq!(read_end(&mut local), (2, End::Reset), "overtakes: {overtakes}");
        stage.expect_end(0, How::Reset);
        stage.expect_reuse();
    }

    let mut stage = Stage::set();
    stage.start(E1, b"wo");
    stage.expect_started(E1);
    let mut local = stage.local();
    local.write_all(b"answer").unwrap();
    finish(&local);
    assert_eq!(stage.conn.wire.bytes(6).unwrap(), b"answer");
    stage.expect_end(6, How::Shut);
    stage.conn.wire.send_raw(b"rd");
    stage.end_by(E1, 4, How::Reset);
    assert_eq!(read_end(&mut local), (4, End::Reset));
    stage.expect_reuse();
}

/// P-FIN-3, P-FIN-5: a reset behind a clean end, also where both overtook the `Start`: the end is seen, and then the
/// socket is gone.
#[test]
fn a_visitors_reset_behind_its_end_is_no_end() {
    let mut stage = Stage::set();
    stage.start(E1, b"word");
    stage.expect_started(E1);
    let mut local = stage.local();
    stage.fin(E1, 4);
    assert_eq!(read_all(&mut local), b"word");
    stage.end_by(E1, 4, How::Reset);
    stage.expect_end(0, How::Reset);
    until("the service's socket has an error", || local.take_error().expect("SO_ERROR").is_some());
    stage.expect_reuse();

    let mut stage = Stage::set();
    stage.fin(E1, 4);
    stage.end_by(E1, 4, How::Reset);
    stage.end.expect_alive();
    stage.start(E1, b"word");
    stage.expect_started(E1);
    assert_eq!(read_all(&mut stage.local()), b"word");
    stage.expect_end(0, How::Reset);
    stage.expect_reuse();
}

/// P-FIN-1, P-FIN-2: a visitor resets while the service sends and nobody takes it: what the client took is told and
/// sent, and no more.
#[test]
fn a_visitor_resets_under_a_stalled_download() {
    let mut stage = Stage::set();
    stage.start(E1, b"word");
    stage.expect_started(E1);
    let mut local = stage.local();
    local.read_exact(&mut [0; 4]).unwrap();
    let download = std::thread::spawn(move || while local.write_all(&[7; 64 << 10]).is_ok() {});
    sleep(Duration::from_millis(200));
    assert!(!download.is_finished(), "nobody reads");
    stage.end_by(E1, 4, How::Reset);
    download.join().expect("it cannot send any more");
    let conn = stage.conn.id;
    let said = stage.end.msg("Fin");
    let ClientMsg::Fin { conn: of, epoch: E1, total, how: How::Reset } = said else { panic!("a Fin: {said:?}") };
    assert_eq!(of, conn);
    let total = usize::try_from(total).expect("a length");
    assert_eq!(stage.conn.wire.bytes(total).expect("all of it"), vec![7; total]);
    stage.expect_reuse();
}

/// P-REF-3: a refused visitor's reset is accounted for like its end, before and behind it.
#[test]
fn a_refused_visitor_may_have_reset() {
    let refusing = Refusing::reserve();
    let server = RawServer::start();
    let _client = client(&server, refusing.addr());
    let mut end = server.serve();
    let mut conn = server.accepted(&mut end);
    let id = conn.id;
    let ends: [&[How]; 2] = [&[How::Reset], &[How::Shut, How::Reset]];
    for (epoch, ends) in [1, 2].map(Epoch).into_iter().zip(ends) {
        let mut bytes = Vec::new();
        start(epoch).encode_to(&mut bytes);
        bytes.extend_from_slice(b"abc");
        conn.wire.send_raw(&bytes);
        let refused = ProxyToServer::Refused { epoch, code: RefuseCode::ConnectionRefused };
        assert_eq!(conn.wire.expect::<ProxyToServer>("Refused"), refused);
        for &how in ends {
            end.send(ServerMsg::Fin { conn: id, epoch, total: 6, how });
        }
        end.expect_alive();
        conn.wire.send_raw(b"def");
        assert_eq!(end.msg("Done, and no Fin"), ClientMsg::Done { conn: id, epoch });
    }
}

/// P-FIN-5: a second end, unless it is a reset right behind a shut one with the same total; on a conn that is idle, too.
#[test]
fn a_second_end_is_a_violation() {
    use How::{Reset, Shut};
    let wrongs: [&[(u64, How)]; 6] = [
        &[(5, Reset), (5, Reset)],
        &[(5, Reset), (5, Shut)],
        &[(5, Shut), (5, Reset), (5, Reset)],
        &[(5, Shut), (6, Reset)],
        &[(5, Shut), (4, Reset)],
        &[(5, Shut), (5, Reset), (5, Shut)],
    ];
    for ends in wrongs {
        for idle in [false, true] {
            let mut stage = Stage::set();
            let local = (!idle).then(|| {
                stage.start(E1, b"");
                stage.expect_started(E1);
                stage.local()
            });
            for &(total, how) in ends {
                stage.end_by(E1, total, how);
            }
            stage.expect_violation(local);
        }
    }
}

/// P-FRAME-3: a manner that is neither.
#[test]
fn an_unknown_manner_is_malformed() {
    let mut stage = Stage::set();
    let msg = ServerMsg::Fin { conn: stage.conn.id, epoch: E1, total: 5, how: How::Reset };
    let mut bytes = Vec::new();
    ToClient::Numbered { seq: stage.end.sent + 1, msg }.encode_to(&mut bytes);
    let manner = bytes.last_mut().expect("a message");
    assert_eq!(*manner, 1, "the manner is its last byte");
    *manner = 2;
    stage.end.wire.send_raw(&bytes);
    stage.expect_violation(None);
}

/// P-XFER-9, P-ABORT-5: a reset behind bytes that never come is waited for as any half is.
#[test]
fn a_reset_whose_bytes_never_come_is_given_up() {
    let mut stage = Stage::set_with(eager().key("half_open_timeout", 0.5));
    let conn = stage.conn.id;
    stage.start(E1, b"half");
    stage.expect_started(E1);
    let mut local = stage.local();
    stage.end_by(E1, 8, How::Reset);
    local.read_exact(&mut [0; 4]).unwrap();
    stage.expect_end(0, How::Reset);
    stage.expect_msg(&ClientMsg::Abort { conn, epoch: E1, code: AbortCode::Deadline });
    assert_eq!(read_end(&mut local), (0, End::Reset));
    stage.conn.wire.expect_end();
}
