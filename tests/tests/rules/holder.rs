//! A client that knows its token and speaks by the book, and means harm: what it can do to the server and to the other
//! clients is nothing.

use super::peer::RawClient;
use protocol_sm::codes::{CloseCode, TunnelRefusal};
use protocol_sm::ids::TunnelId;
use protocol_sm::settings::TunnelLimits;
use protocol_sm::wire::{ClientMsg, Message, ServerMsg, ToServer};
use std::net::{SocketAddr, TcpListener, TcpStream};
use tests::programs::{Options, Server, options};
use tests::sockets::{LOOPBACK, free_port};
use tests::wait::eventually;

fn register(tunnel: u32, public_port: u16) -> ClientMsg {
    let (name, limits) = ("raw".into(), TunnelLimits::default());
    ClientMsg::RegisterTunnel { tunnel: TunnelId(tunnel), public_port, bind_addr: None, name, limits }
}

fn close(tunnel: u32) -> ClientMsg {
    ClientMsg::CloseTunnel { tunnel: TunnelId(tunnel) }
}

/// Sends all of them in one piece.
fn send_at_once(client: &mut RawClient, messages: impl IntoIterator<Item = ClientMsg>) {
    let mut bytes = Vec::new();
    for msg in messages {
        client.sent += 1;
        ToServer::Numbered { seq: client.sent, msg }.encode_to(&mut bytes);
    }
    client.wire.send_raw(&bytes);
}

/// What the server says about a tunnel next.
#[track_caller]
fn answer(client: &mut RawClient) -> Result<SocketAddr, TunnelRefusal> {
    client.find("an answer about a tunnel", |msg| match msg {
        ServerMsg::TunnelReady { public, .. } => Some(Ok(*public)),
        ServerMsg::TunnelRefused { code, .. } => Some(Err(*code)),
        _ => None,
    })
}

/// P-SESS-7, P-LIM-1, P-VIOL-5: what a client leaves unacknowledged is bounded by what its conns can explain, and a
/// little more: beyond, its session ends.
#[test]
fn a_client_that_acknowledges_nothing_is_held_to_little() {
    let server = Server::start(few_visitors());
    let mut honest = RawClient::start(server.ctl());
    let mut client = RawClient::start(server.ctl());
    not_allowed(&mut client, 3000);
    client.expect_alive();
    client.wire.send(&ToServer::Pong { received: client.heard / 2 });
    not_allowed(&mut client, 1000);
    client.expect_alive();
    client.wire.send(&ToServer::Pong { received: client.heard });
    not_allowed(&mut client, 8192);
    client.expect_close(CloseCode::Violation);
    honest.expect_alive();
}

/// P-SESS-7, P-LIM-2: all sessions of a holder together may leave little more unacknowledged than one. A session that
/// leaves little itself is not ended for what the others left.
#[test]
fn more_sessions_leave_no_more_unacknowledged() {
    let server = Server::start(few_visitors());
    let before = server.process().memory();
    let mut honest = RawClient::start(server.ctl());
    let mut hoarder = RawClient::start(server.ctl());
    not_allowed(&mut hoarder, 3000);
    hoarder.expect_alive();
    for _ in 0..20 {
        let mut client = RawClient::start(server.ctl());
        not_allowed(&mut client, 3000);
        client.expect_close(CloseCode::Violation);
    }
    not_allowed(&mut honest, 100);
    honest.expect_alive();
    let grown = server.process().memory().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes for 21 clients that acknowledge nothing");
    hoarder.wire.send(&ToServer::Pong { received: hoarder.heard });
    hoarder.expect_alive();
    not_allowed(&mut honest, 3000);
    honest.expect_alive();
}

fn few_visitors() -> Options {
    options().threads(1).key("max_connections", 10)
}

/// Asks for ports that are not allowed: each time the server answers with a message of a few bytes.
fn not_allowed(client: &mut RawClient, count: u32) {
    send_at_once(client, (0..count).map(|tunnel| register(tunnel, 80)));
}

#[track_caller]
fn until_closed(port: u16) {
    eventually("the public port is closed", || match TcpStream::connect((LOOPBACK, port)) {
        Err(_) => Ok(()),
        Ok(_) => Err("it takes visitors".to_owned()),
    });
}

/// P-TUN-6, P-TUN-10, P-END-2: the failure of a registration that is closed already says nothing about the next one
/// under the same number, and whatever a session has opened is closed with it.
#[test]
fn a_registration_answers_for_itself_alone() {
    let server = Server::start(options().threads(1));
    let busy = TcpListener::bind((LOOPBACK, 0)).expect("a port");
    let busy_port = busy.local_addr().expect("bound").port();
    for round in 0..5 {
        let free = free_port();
        let mut client = RawClient::start(server.ctl());
        send_at_once(&mut client, [register(1, busy_port), close(1), register(1, free)]);
        let public = answer(&mut client).unwrap_or_else(|code| panic!("round {round}: refused with {code:?}"));
        assert_eq!(public.port(), free);
        client.expect_alive();
        client.send(close(1));
        until_closed(free);
        send_at_once(&mut client, [register(1, free), close(1), register(1, 0), close(1), register(1, busy_port)]);
        assert_eq!(answer(&mut client), Err(TunnelRefusal::PortInUse));
        until_closed(free);
        send_at_once(&mut client, [register(1, busy_port), close(1), register(1, free)]);
        client.wire.send(&ToServer::Close { code: CloseCode::Bye });
        client.expect_close(CloseCode::Bye);
        until_closed(free);
    }
}
