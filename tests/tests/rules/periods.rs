//! Deadlines beyond their first period: whoever answers, or makes progress, is waited for again and again; whoever
//! stops is found out in whichever period that is; and what was lost once and came back starts from the beginning.

use super::peer::{Identity, RawClient, RawServer};
use protocol_sm::codes::AbortCode;
use protocol_sm::ids::{Epoch, TunnelId};
use protocol_sm::wire::{ClientMsg, FRUGAL, ProxyToClient, ProxyToServer, ServerMsg, ToClient, ToServer};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::{End, LOOPBACK, finish, read_end};
use tests::wait::{PATIENCE, until};

/// How many periods are lived through.
const PERIODS: u32 = 4;

/// P-LIVE-1, P-LIVE-2: a client is pinged in each period, and given up in the first in which it says nothing.
#[test]
fn a_server_pings_again_and_again_and_gives_up_whoever_falls_silent_later() {
    let server = Server::start(options().key("heartbeat_interval", 0.2).key("heartbeat_timeout", 5));
    let mut client = RawClient::start(server.ctl());
    for _ in 0..PERIODS {
        client.wire.find("a ping", |_, message| matches!(message, ToClient::Ping { .. }).then_some(()));
        client.wire.send(&ToServer::Pong { received: 0 });
    }
    client.expect_lost();
}

/// P-LIVE-1, P-LIVE-2: the same of a server.
#[test]
fn a_client_pings_again_and_again_and_gives_up_whoever_falls_silent_later() {
    let service = Service::echo();
    let server = RawServer::start();
    let brisk = options().threads(1).key("heartbeat_interval", 0.2).key("heartbeat_timeout", 5);
    let _client = Client::spawn_alone(LOOPBACK, brisk.tunnel(service.addr()).via(server.addr()));
    let mut end = server.serve();
    for _ in 0..PERIODS {
        end.wire.find("a ping", |_, message| matches!(message, ToServer::Ping { .. }).then_some(()));
        end.wire.send(&ToClient::Pong { received: 1 });
    }
    while end.wire.next::<ToServer>().is_some() {}
    assert!(server.greet().hello.resume.is_some(), "the session goes on over another ctl_conn");
}

/// P-LIVE-3: ten times as rarely as others, and a resume decides anew.
#[test]
fn a_frugal_client_is_pinged_rarely_has_one_idle_conn_and_is_given_up_all_the_same() {
    const INTERVAL: Duration = Duration::from_millis(200);
    let brisk = options().threads(1).key("heartbeat_interval", INTERVAL.as_secs_f64()).key("heartbeat_timeout", 0.6);
    let server = Server::start(brisk.key("idle_conns", 4));
    let frugal = Identity { features: FRUGAL, ..Identity::new() };
    let mut client = RawClient::with(server.ctl(), &frugal).expect("let in");
    let asked = |msg: &ServerMsg| match msg {
        ServerMsg::NeedConn { count } => Some(*count),
        _ => None,
    };
    assert_eq!(client.find("a request for conns", asked), 1);
    for _ in 0..2 {
        let heard = Instant::now();
        client.wire.find("a ping", |_, message| matches!(message, ToClient::Ping { .. }).then_some(()));
        assert!(heard.elapsed() > 10 * INTERVAL, "after {:?}", heard.elapsed());
        client.wire.send(&ToServer::Pong { received: client.heard });
    }
    client.expect_lost();
    let usual = Identity { features: 0, ..frugal.resuming(client.welcome.session, client.heard) };
    let mut resumed = RawClient::with(server.ctl(), &usual).expect("let in");
    assert!(resumed.welcome.resumed);
    assert_eq!(resumed.find("a request for the others", asked), 3);
}

/// P-POOL-6: an idle conn is pinged in each period, and dropped in the first without an answer.
#[test]
fn an_idle_conn_is_pinged_again_and_again_and_dropped_once_it_is_dead() {
    let brisk = options().threads(1).key("idle_conns", 1).key("idle_ping_interval", 0.2).key("idle_ping_timeout", 2);
    let server = Server::start(brisk);
    let mut client = RawClient::start(server.ctl());
    let need = |msg: &ServerMsg| matches!(msg, ServerMsg::NeedConn { count: 1 }).then_some(());
    client.find("a request for a conn", need);
    let mut conn = client.conn(server.proxy());
    for _ in 0..PERIODS {
        assert_eq!(conn.wire.expect::<ProxyToClient>("a ping"), ProxyToClient::Ping);
        conn.wire.send(&ProxyToServer::Pong);
    }
    assert_eq!(conn.wire.expect::<ProxyToClient>("a ping"), ProxyToClient::Ping);
    conn.wire.expect_end();
    client.find("a request for another", need);
}

/// P-XFER-9: progress renews the patience with a half-open stream in every period, on both sides, and only progress.
#[test]
fn a_half_open_stream_lives_as_long_as_it_makes_progress_and_one_period_longer() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let hasty = || options().threads(1).key("half_open_timeout", TIMEOUT.as_secs());
    let (ends, seen) = channel();
    let service = Service::start(move |mut stream| {
        assert_eq!(read_end(&mut stream), (2, End::Clean));
        let began = Instant::now();
        while began.elapsed() < 3 * TIMEOUT {
            stream.write_all(b".").expect("the stream is not reset while it moves");
            std::thread::sleep(TIMEOUT / 10);
        }
        // From here on nothing moves, and it is cut short: by a reset, as it has not ended.
        until("the stream is reset", || stream.take_error().expect("SO_ERROR").is_some());
        let _ = ends.send(());
    });
    let server = Server::start(hasty());
    let client = Client::start(&server, hasty().tunnel(service.addr()));
    let mut visitor = client.visit();
    visitor.write_all(b"hi").expect("send");
    finish(&visitor);
    let (bytes, end) = read_end(&mut visitor);
    assert!(bytes >= 5, "it lived for several periods: {bytes} bytes came");
    assert_eq!(end, End::Reset);
    seen.recv_timeout(PATIENCE).expect("the service's stream is reset, too");
}

/// P-RES-2, P-RES-6: the grace of a loss that was mended is over with it: the session lives, and has all of its grace
/// at the next loss.
#[test]
fn a_loss_that_was_mended_leaves_no_deadline_behind() {
    const GRACE: Duration = Duration::from_secs(2);
    let server = Server::start(options().threads(1).key("session_grace", GRACE.as_secs()));
    let mut client = RawClient::start(server.ctl());
    client.tunnel(1);
    let session = client.welcome.session;
    for round in 0..3 {
        let identity = client.identity.clone().resuming(session, client.heard);
        let (sent, heard) = (client.sent, client.heard);
        drop(client);
        client = RawClient::with(server.ctl(), &identity).expect("let in");
        assert!(client.welcome.resumed, "round {round}");
        (client.sent, client.heard) = (sent, heard);
        let mended = Instant::now();
        while mended.elapsed() < GRACE + GRACE / 2 {
            client.expect_alive();
            std::thread::sleep(GRACE / 10);
        }
    }
}

/// P-RES-1: whoever was connected begins with the shortest pause, however often that was. Pauses that went on growing
/// would be minutes long here.
#[test]
fn a_client_that_loses_its_server_again_and_again_is_back_at_once_each_time() {
    let service = Service::echo();
    let server = RawServer::start();
    let growing = options().threads(1).key("reconnect_min", 0.05).key("reconnect_max", 3600);
    let _client = Client::spawn_alone(LOOPBACK, growing.tunnel(service.addr()).via(server.addr()));
    for _ in 0..14 {
        let end = server.serve();
        end.wire.reset();
    }
}

/// A client by hand with a tunnel, on a server whose clients are asked for one idle conn.
fn with_tunnel(server: &Server) -> (RawClient, SocketAddr) {
    let mut client = RawClient::start(server.ctl());
    let public = client.tunnel(1);
    (client, public)
}

/// P-XFER-8: each `Start` has its own deadline, also on a conn that was used before.
#[test]
fn the_deadline_for_an_answer_belongs_to_one_start() {
    let brisk: Options = options().threads(1).key("idle_conns", 1).key("dial_timeout", 1);
    let server = Server::start(brisk);
    let (mut client, public) = with_tunnel(&server);
    let mut conn = client.conn(server.proxy());
    for epoch in 1..=PERIODS {
        let epoch = Epoch(epoch);
        let mut visitor = tests::sockets::connect(public);
        let ProxyToClient::Start { epoch: started, tunnel, .. } = conn.start() else { panic!("a Start") };
        assert_eq!((started, tunnel), (epoch, TunnelId(1)));
        if epoch.0 == PERIODS {
            // Not this time.
            let code = client.find("an Abort", |msg| match msg {
                ServerMsg::Abort { epoch: of, code, .. } if *of == epoch => Some(*code),
                _ => None,
            });
            assert_eq!(code, AbortCode::Deadline);
            assert_eq!(read_end(&mut visitor), (0, End::Reset));
            return;
        }
        conn.wire.send(&ProxyToServer::Started { epoch });
        conn.wire.send_raw(b"x");
        let mut one = [0];
        visitor.read_exact(&mut one).expect("the service's byte");
        // Longer than the deadline for an answer, which has been given.
        std::thread::sleep(Duration::from_millis(2500));
        finish(&visitor);
        client.find("the visitor's end", |msg| matches!(msg, ServerMsg::Fin { .. }).then_some(()));
        client.send(ClientMsg::Fin { conn: conn.id, epoch, total: 1, how: protocol_sm::transfer::How::Shut });
        client.send(ClientMsg::Done { conn: conn.id, epoch });
        assert_eq!(read_end(&mut visitor), (0, End::Clean));
    }
}
