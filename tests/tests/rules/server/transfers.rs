//! Visits by the book, and against it, of clients made by hand.

use super::*;

/// P-POOL-7: whoever speaks first on an idle conn breaks the protocol, whatever it is.
#[test]
fn an_idle_conn_only_answers() {
    let words: [&[u8]; 4] = [&[1, 0, 1], &[2, 0, 2, 1], &[3, 0, 3, 1, 0], b"GET / HTTP/1.1\r\n"];
    for word in words {
        let mut stage = Stage::set();
        stage.conn.wire.send_raw(word);
        stage.expect_violation(None);
    }
}

/// P-TUN-2, P-XFER-1, P-XFER-2, P-XFER-6, P-FIN-1, P-FIN-2, P-DONE-2: a visitor's words come right behind `Start`, the end is
/// told by number, and the conn is used again after `Done`, with the next epoch.
#[test]
fn a_visit_goes_by_the_book_twice() {
    let mut stage = Stage::set();
    for epoch in [1, 2].map(Epoch) {
        let mut visitor = connect(stage.public);
        visitor.write_all(b"question").expect("send");
        finish(&visitor);
        let start = stage.conn.start();
        let from = visitor.local_addr().unwrap();
        let expected = ProxyToClient::Start { epoch, tunnel: TunnelId(1), visitor: from, public: stage.public };
        assert_eq!(start, expected);
        assert_eq!(stage.conn.wire.bytes(8).unwrap(), b"question");
        assert_eq!(stage.server_fin(epoch), 8);
        stage.conn.wire.send(&ProxyToServer::Started { epoch });
        stage.conn.wire.send_raw(b"answer");
        stage.fin(epoch, 6);
        stage.done(epoch);
        assert_eq!(read_all(&mut visitor), b"answer");
    }
}

/// P-DONE-3, P-FIN-3: `Fin` and `Done` may come before `Started` and the bytes; nothing is shut too early.
#[test]
fn what_overtakes_the_conn_is_kept() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"");
    finish(&visitor);
    assert_eq!(stage.server_fin(E1), 0);
    stage.fin(E1, 6);
    stage.done(E1);
    stage.client.expect_alive();
    visitor.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(visitor.read(&mut [0]).is_err(), "neither bytes nor an end yet");
    bounded(&visitor, tests::wait::PATIENCE);
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"answer");
    assert_eq!(read_all(&mut visitor), b"answer");
    let _next = stage.visitor(b"next");
}

/// P-FIN-5: a `Fin` below what came, and a second one. P-FIN-4: nothing beyond the total reaches the visitor.
#[test]
fn totals_are_kept_to() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"");
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"six bytes too many");
    visitor.read_exact(&mut [0; 18]).expect("all of it");
    stage.fin(E1, 12);
    stage.expect_violation(Some(visitor));

    let mut stage = Stage::set();
    let visitor = stage.visitor(b"");
    stage.fin(E1, 5);
    stage.fin(E1, 5);
    stage.expect_violation(Some(visitor));

    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"");
    stage.fin(E1, 5);
    stage.client.expect_alive();
    // What the event loop says of the visitor's end, it says after it has heard of the total.
    finish(&visitor);
    stage.server_fin(E1);
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"exactand much more");
    let mut words = Vec::new();
    let _ = visitor.read_to_end(&mut words);
    assert!(b"exact".starts_with(&words), "{words:?}");
}

/// P-FIN-3, P-ABORT-4, P-ABORT-5: a total that never comes is waited for, and a conn that ends before it is a loss.
#[test]
fn a_promise_that_is_not_kept_is_a_reset() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"");
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"half");
    stage.fin(E1, 8);
    let mut half = [0; 4];
    visitor.read_exact(&mut half).expect("what there is");
    stage.client.expect_alive();
    stage.conn.wire.finish();
    assert_eq!(stage.server_abort(E1), AbortCode::ConnLost);
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
}

/// P-DONE-4, P-STATE-2: a `Done` for nothing, too early, or twice.
#[test]
fn a_done_that_cannot_be_is_a_violation() {
    let mut stage = Stage::set();
    stage.done(E1);
    stage.expect_violation(None);

    let mut stage = Stage::set();
    let visitor = stage.visitor(b"x");
    stage.done(E1);
    stage.expect_violation(Some(visitor));

    let mut stage = Stage::set();
    let visitor = stage.visitor(b"x");
    finish(&visitor);
    stage.server_fin(E1);
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"y");
    let mut byte = [0];
    (&visitor).read_exact(&mut byte).expect("it is being served");
    stage.done(E1);
    stage.expect_violation(Some(visitor));

    let mut stage = Stage::set();
    let visitor = stage.visitor(b"x");
    finish(&visitor);
    stage.server_fin(E1);
    stage.fin(E1, 1);
    stage.done(E1);
    stage.done(E1);
    stage.expect_violation(Some(visitor));
}

/// P-REF-1, P-REF-2, P-DONE-4: a refused visitor is reset, its bytes are accounted for, and the conn is used again.
#[test]
fn a_refusal_goes_by_the_book() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"abc");
    stage.conn.wire.send(&ProxyToServer::Refused { epoch: E1, code: RefuseCode::ConnectionRefused });
    assert_eq!(stage.server_end(E1), Fin { total: 3, how: How::Reset });
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
    stage.done(E1);

    // The second visitor's end was told before, and Done overtakes Refused.
    let epoch = Epoch(2);
    let mut visitor = stage.visitor(b"abc");
    finish(&visitor);
    assert_eq!(stage.server_fin(epoch), 3);
    stage.done(epoch);
    stage.client.expect_alive();
    stage.conn.wire.send(&ProxyToServer::Refused { epoch, code: RefuseCode::Unreachable });
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
    let _third = stage.visitor(b"third");
}

/// P-REF-4, P-STATE-2: a refusal of something else, or after an end.
#[test]
fn a_refusal_that_cannot_be_is_a_violation() {
    let mut stage = Stage::set();
    let visitor = stage.visitor(b"");
    stage.conn.wire.send(&ProxyToServer::Refused { epoch: Epoch(2), code: RefuseCode::TimedOut });
    stage.expect_violation(Some(visitor));

    let mut stage = Stage::set();
    let visitor = stage.visitor(b"");
    stage.fin(E1, 5);
    stage.client.expect_alive();
    stage.conn.wire.send(&ProxyToServer::Refused { epoch: E1, code: RefuseCode::TimedOut });
    stage.expect_violation(Some(visitor));
}

/// P-ABORT-1, P-ABORT-2, P-ABORT-3: an abort ends the conn, with a reset and without an echo.
#[test]
fn aborts_reset_and_are_not_answered() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"x");
    let (conn, epoch) = (stage.conn.id, E1);
    stage.client.send(ClientMsg::Abort { conn, epoch, code: AbortCode::OuterReset });
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
    stage.conn.wire.expect_end();
    stage.wire_is_quiet();
}

impl Stage {
    /// No `Abort` of the server's comes before the next `Pong`.
    #[track_caller]
    fn wire_is_quiet(&mut self) {
        let RawClient { wire, heard, .. } = &mut self.client;
        wire.send(&ToServer::Ping { received: *heard });
        wire.find("Pong", |_, message| match message {
            ToClient::Pong { .. } => Some(()),
            ToClient::Numbered { seq, msg } => {
                assert!(!matches!(msg, ServerMsg::Abort { .. }), "an abort is not answered");
                *heard = seq;
                None
            }
            other => panic!("expected Pong, found {other:?}"),
        });
    }
}

/// P-XFER-8: a `Start` that nobody answers.
#[test]
fn a_start_without_an_answer_is_given_up() {
    let quick = options().threads(1).key("idle_conns", 1).key("dial_timeout", 0.2);
    let mut stage = Stage::set_on(Server::start(quick));
    let mut visitor = stage.visitor(b"x");
    assert_eq!(stage.server_abort(E1), AbortCode::Deadline);
    assert_eq!(read_end(&mut visitor), (0, End::Reset));
}

/// P-STATE-3, P-VIOL-4: messages about what is gone, or never was there, change nothing.
#[test]
fn stale_messages_are_ignored() {
    let mut stage = Stage::set();
    let visitor = stage.visitor(b"");
    finish(&visitor);
    stage.server_fin(E1);
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.fin(E1, 0);
    stage.done(E1);
    let mut visitor = visitor;
    assert_eq!(read_all(&mut visitor), b"");
    let _next = stage.visitor(b"the second");
    stage.fin(E1, 0);
    stage.done(E1);
    let conn = stage.conn.id;
    stage.client.send(ClientMsg::Abort { conn, epoch: E1, code: AbortCode::OuterReset });
    let gone = ConnId(999);
    stage.client.send(ClientMsg::Fin { conn: gone, epoch: E1, total: 5, how: How::Shut });
    stage.client.send(ClientMsg::Done { conn: gone, epoch: Epoch(7) });
    stage.client.expect_alive();
}
