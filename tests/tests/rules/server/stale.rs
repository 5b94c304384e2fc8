//! Conns that turn out to be dead under a `Start`, as a client by hand makes them: a visitor goes to another one if,
//! and only if, the client says that it never saw the `Start`.

use super::*;
use tests::sockets::reset;

impl Stage {
    /// The conn is lost, and the server asks about its transfer.
    #[track_caller]
    fn lose_conn(&mut self) -> ConnId {
        let id = self.conn.id;
        let next = self.client.conn(self.server.proxy());
        std::mem::replace(&mut self.conn, next).wire.reset();
        self.asked(id);
        id
    }

    #[track_caller]
    fn asked(&mut self, id: ConnId) {
        self.client.find("AskStart", |msg| match msg {
            ServerMsg::AskStart { conn, epoch: E1 } if *conn == id => Some(()),
            ServerMsg::Abort { .. } => panic!("the visitor is given up: {msg:?}"),
            _ => None,
        });
    }

    fn say_seen(&mut self, conn: ConnId, seen: bool) {
        self.client.send(ClientMsg::StartSeen { conn, epoch: E1, seen });
    }

    /// The visitor that was on its way is served by the present conn, with all that it said.
    #[track_caller]
    fn serve(&mut self, visitor: &mut TcpStream, words: &[u8]) {
        self.started(words);
        self.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
        self.conn.wire.send_raw(b"answer");
        self.fin(E1, 6);
        let mut answer = [0; 6];
        visitor.read_exact(&mut answer).expect("served");
        assert_eq!(&answer, b"answer");
    }
}

/// P-STALE-1, P-STALE-4, P-STALE-5: bytes and ends of a visitor, in either manner, go to another conn, all of them.
#[test]
fn a_visitor_whose_start_was_never_seen_gets_another_conn() {
    for how in [None, Some(How::Shut), Some(How::Reset)] {
        let mut stage = Stage::set();
        let visitor = stage.visitor(b"question");
        let mut visitor = match how {
            None => Some(visitor),
            Some(How::Shut) => {
                finish(&visitor);
                assert_eq!(stage.server_fin(E1), 8);
                Some(visitor)
            }
            Some(How::Reset) => {
                reset(visitor);
                assert_eq!(stage.server_end(E1), Fin { total: 8, how: How::Reset });
                None
            }
        };
        let lost = stage.lose_conn();
        stage.say_seen(lost, false);
        match &mut visitor {
            Some(visitor) => stage.serve(visitor, b"question"),
            None => {
                stage.started(b"question");
                stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
                stage.end(E1, 0, How::Reset);
            }
        }
        if let Some(visitor) = &mut visitor {
            if how.is_none() {
                finish(visitor);
            }
            assert_eq!(read_end(visitor), (0, End::Clean));
        }
        let how = how.unwrap_or(How::Shut);
        assert_eq!(stage.server_end(E1), Fin { total: 8, how }, "said once more");
        stage.done(E1);
        stage.client.expect_alive();
    }
}

/// P-STALE-6, P-ABORT-1: whatever shows that the `Start` was seen ends the transfer with its conn.
#[test]
fn a_visitor_whose_start_was_seen_is_reset() {
    let seen: [fn(ConnId) -> ClientMsg; 3] = [
        |conn| ClientMsg::StartSeen { conn, epoch: E1, seen: true },
        |conn| ClientMsg::Fin { conn, epoch: E1, total: 0, how: How::Shut },
        |conn| ClientMsg::Abort { conn, epoch: E1, code: AbortCode::ConnLost },
    ];
    for say in seen {
        let mut stage = Stage::set();
        let mut visitor = stage.visitor(b"question");
        let lost = stage.lose_conn();
        stage.client.send(say(lost));
        // Too late, and about a conn that is gone: stale.
        stage.say_seen(lost, false);
        assert_eq!(read_end(&mut visitor), (0, End::Reset));
        stage.client.expect_alive();
        let mut next = connect(stage.public);
        stage.serve(&mut next, b"");
    }
}

/// P-STALE-6, P-STATE-2, P-STATE-3: what nobody asked, or was answered before.
#[test]
fn answers_that_cannot_be_are_violations_and_old_ones_are_stale() {
    for seen in [false, true] {
        let mut stage = Stage::set();
        let conn = stage.conn.id;
        stage.client.send(ClientMsg::StartSeen { conn, epoch: Epoch(0), seen });
        stage.client.send(ClientMsg::StartSeen { conn: ConnId(77), epoch: E1, seen });
        stage.client.expect_alive();
        let visitor = stage.visitor(b"x");
        stage.say_seen(conn, seen);
        stage.expect_violation(Some(visitor));

        let mut stage = Stage::set();
        let conn = stage.conn.id;
        stage.say_seen(conn, seen);
        stage.expect_violation(None);
    }
}

/// P-STALE-1: nobody waits for the answer longer than for a conn.
#[test]
fn a_question_that_is_not_answered_ends_with_the_wait() {
    let mut stage = Stage::set_on(Server::start(options().threads(1).key("idle_conns", 1).key("wait_timeout", 0.5)));
    let mut visitor = stage.visitor(b"question");
    let lost = stage.lose_conn();
    let code = stage.client.find("Abort", |msg| match msg {
        ServerMsg::Abort { conn, epoch: E1, code } if *conn == lost => Some(*code),
        _ => None,
    });
    assert_eq!((code, read_end(&mut visitor)), (AbortCode::Deadline, (0, End::Reset)));
    stage.say_seen(lost, false);
    stage.client.expect_alive();
}

/// P-STALE-1, P-RES-3: without a ctl_conn the question waits for the resume.
#[test]
fn a_question_waits_for_the_ctl_conn() {
    let mut stage = Stage::set();
    let mut visitor = stage.visitor(b"question");
    let next = stage.client.conn(stage.server.proxy());
    let lost = std::mem::replace(&mut stage.conn, next);
    let (id, heard) = (lost.id, stage.client.heard);
    let resuming = Identity { client: stage.client.identity.client, ..Identity::new() };
    let resuming = resuming.resuming(stage.client.welcome.session, heard);
    let key = stage.client.key.clone();
    let sent = stage.client.sent;
    stage.client.wire.finish();
    lost.wire.reset();
    stage.client = RawClient::with(stage.server.ctl(), &resuming).expect("resumed");
    stage.client.key = key;
    stage.client.sent = sent;
    assert!(stage.client.welcome.resumed);
    stage.asked(id);
    stage.say_seen(id, false);
    stage.serve(&mut visitor, b"question");
}

/// P-STALE-7, P-POOL-6: the other idle conns are pinged at once, and have no visitor before they have answered.
#[test]
fn a_dead_conn_makes_the_others_suspect() {
    let mut stage = Stage::set_on(Server::start(options().threads(1).key("idle_conns", 2)));
    let mut suspect = stage.client.conn(stage.server.proxy());
    let newest = stage.client.conn(stage.server.proxy());
    let first = std::mem::replace(&mut stage.conn, newest);
    let mut visitor = stage.visitor(b"question");
    let lost = stage.lose_conn();
    assert_eq!(suspect.wire.expect::<ProxyToClient>("Ping"), ProxyToClient::Ping);
    stage.say_seen(lost, false);
    // It goes to the one that answers.
    stage.serve(&mut visitor, b"question");
    suspect.wire.send(&ProxyToServer::Pong);
    let mut next = connect(stage.public);
    next.write_all(b"next").expect("send");
    suspect.start();
    drop(first);
}
