//! Questions about a `Start`, as a server by hand asks them: a client that says that it never saw one never will.

use super::*;
use std::io::Write;

impl Stage {
    fn ask(&mut self, epoch: Epoch) {
        self.end.send(ServerMsg::AskStart { conn: self.conn.id, epoch });
    }

    #[track_caller]
    fn expect_seen(&mut self, epoch: Epoch, seen: bool) {
        let conn = self.conn.id;
        self.expect_msg(&ClientMsg::StartSeen { conn, epoch, seen });
    }
}

/// P-STALE-3: about an idle conn: not seen, and the conn is closed; a `Start` that comes later is served by nobody.
#[test]
fn a_start_that_was_not_seen_never_will_be() {
    let mut stage = Stage::set();
    stage.ask(E1);
    stage.expect_seen(E1, false);
    let mut bytes = Vec::new();
    start(E1).encode_to(&mut bytes);
    stage.conn.wire.tries_to_send(&bytes);
    stage.conn.wire.expect_end();
    // About a conn that is gone, whatever the epoch.
    stage.ask(E1);
    stage.expect_seen(E1, false);
    stage.end.expect_alive();
    assert!(stage.locals.try_recv().is_err(), "nobody dials");
    // It goes on with other conns.
    let again = stage.server.accepted(&mut stage.end);
    assert_eq!(again.id, ConnId(2));
}

/// P-STALE-3, P-VIOL-4: about a running transfer: seen, and it goes on; about one that is over: stale.
#[test]
fn a_start_that_was_seen_is_served() {
    let mut stage = Stage::set();
    stage.start(E1, b"question");
    let mut local = stage.local();
    stage.ask(E1);
    stage.expect_seen(E1, true);
    stage.expect_started(E1);
    let mut question = [0; 8];
    local.read_exact(&mut question).expect("the question");
    local.write_all(b"answer").expect("send");
    drop(local);
    assert_eq!(stage.conn.wire.bytes(6).expect("the answer"), b"answer");
    let conn = stage.conn.id;
    stage.expect_msg(&ClientMsg::Fin { conn, epoch: E1, total: 6, how: How::Shut });
    stage.fin(E1, 8);
    stage.expect_msg(&ClientMsg::Done { conn, epoch: E1 });
    let heard = stage.end.heard;
    stage.ask(E1);
    stage.end.expect_alive();
    assert_eq!(stage.end.heard, heard, "it is not answered");
}

/// P-STALE-3, P-PROXY-7, P-POOL-2: about a conn that is still being opened: as an `Abort`, it is not counted as failed.
#[test]
fn a_question_may_come_before_accepted() {
    let service = Service::echo();
    let server = RawServer::start();
    let client = client(&server, service.addr());
    let mut end = server.serve();
    end.send(ServerMsg::NeedConn { count: 1 });
    let (mut wire, hello) = server.conn();
    end.send(ServerMsg::AskStart { conn: hello.conn, epoch: E1 });
    assert_eq!(end.msg("StartSeen"), ClientMsg::StartSeen { conn: hello.conn, epoch: E1, seen: false });
    wire.expect_end();
    let heard = end.heard;
    end.expect_alive();
    assert_eq!(end.heard, heard, "nothing more is said of it");
    assert!(client.is_running());
}

/// P-STATE-2, P-STATE-3: about what was never started, and a conn that was never opened.
#[test]
fn questions_that_cannot_be_are_violations() {
    let mut stage = Stage::set();
    stage.ask(Epoch(2));
    stage.expect_violation(None);

    let mut stage = Stage::set();
    stage.end.send(ServerMsg::AskStart { conn: ConnId(77), epoch: E1 });
    stage.expect_violation(None);
}
