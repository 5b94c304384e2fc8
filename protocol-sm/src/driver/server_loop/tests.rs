//! A server's event loop alone: what it tells of a visitor, and a conn that gets nothing through.

use super::super::messages::{Arrival, Limits};
use super::super::stub::{Net, encoded};
use super::super::thread::{SCRATCH, Strategy};
use super::*;
use crate::dead_path::Unacked;
use crate::ids::Epoch;
use crate::liveness::Line;
use crate::routes::{Agreed, Secured};
use crate::sources::Source;
use crate::wire::{Framer, ProxyToClient, ServerMsg};
use alloc::format;
use alloc::vec;

mod thin_line;

const CONTROL: ControlKey = ControlKey(1);
const CONN: u32 = 1;
const VISITOR: u32 = 2;

struct Desk {
    server: ServerLoop<u32, ()>,
    net: Net,
    now: Instant,
}

impl Desk {
    fn with(&mut self, act: impl FnOnce(&mut ServerLoop<u32, ()>, &mut Cx<'_, Net>)) {
        let mut scratch = vec![0; SCRATCH];
        let Self { server, net, now } = self;
        let cx = &mut Cx { sys: net, now: *now, scratch: &mut scratch, strategy: Strategy::Copy, turn: usize::MAX };
        act(server, cx);
        while Driver::<Net>::is_busy(server) {
            server.run_busy(cx);
        }
        server.assert_consistent();
    }

    fn tell(&mut self, message: ToServerLoop<u32>) {
        self.with(|server, cx| server.on_message(cx, message));
    }

    /// A visitor comes on this stream.
    fn visit(&mut self, stream: u32) {
        self.visit_as(stream, SocketAddr::from(([192, 0, 2, 1], 1)).into());
    }

    fn visit_as(&mut self, stream: u32, who: Who) {
        self.net.put(stream, b"");
        let guest = Guest { holder: None, source: Source::of(who.from.ip()) };
        self.tell(ToServerLoop::Visitor(Arrival {
            control: CONTROL,
            tunnel: TunnelId(1),
            stream,
            who,
            guest,
            head: vec![],
            tunnel_max: 9,
            label: None,
            left: 0,
        }));
    }

    /// Something came on this stream.
    fn hear(&mut self, stream: u32, bytes: &[u8]) {
        self.net.put(stream, bytes);
        let token = self.net.inboxes[&stream].token.expect("watched");
        let ready = Readiness { readable: true, writable: true, ..Readiness::default() };
        self.with(|server, cx| server.on_ready(cx, token, ready));
    }
}

/// A visitor who is served.
fn serving() -> Desk {
    let mut desk = waiting(false);
    desk.visit(VISITOR);
    desk.hear(CONN, &encoded(&ProxyToServer::Started { epoch: Epoch(1) }));
    desk.hear(VISITOR, b"never acknowledged");
    desk
}

/// A session with one idle conn. `secured`: its client wants to be told of its visitors' TLS.
fn waiting(secured: bool) -> Desk {
    let (server, now) = (ServerLoop::new(0, Timings::default()), Instant::ZERO + Duration::from_secs(1000));
    let mut desk = Desk { server, net: Net::default(), now };
    let limits = Limits {
        holder: None,
        frugal: false,
        secured,
        keep: 0,
        max_waiting: 9,
        max_connections: 9,
        max_bandwidth: None,
        loop_count: 1,
    };
    desk.tell(ToServerLoop::Open { control: CONTROL, limits });
    desk.net.put(CONN, b"");
    desk.tell(ToServerLoop::Conn { control: CONTROL, conn: ConnId(1), stream: CONN });
    desk
}

/// P-XFER-13, P-EVO-1.
#[test]
fn a_client_that_asks_for_it_is_told_of_a_visitors_tls_right_before_its_start() {
    // The longest host.
    let host = format!("{}.{}", "a".repeat(60), "b".repeat(59)).parse().unwrap();
    let secured = Secured { host: Some(host), agreed: Some(Agreed::Http2) };
    let told = encoded(&ProxyToClient::Secured(Box::new(secured.clone())));
    for asks in [false, true] {
        let mut desk = waiting(asks);
        let from = SocketAddr::from(([192, 0, 2, 1], 1));
        let before = desk.net.sent.len();
        desk.visit_as(VISITOR, Who { secured: Some(Box::new(secured.clone())), ..from.into() });
        let sent = &desk.net.sent[before..];
        let start = sent.strip_prefix(&told[..]);
        assert_eq!(start.is_some(), asks);
        let mut start = start.unwrap_or(sent);
        let start = Framer::<ProxyToClient>::default().next(&mut start).unwrap();
        assert!(matches!(start, Some(ProxyToClient::Start { epoch: Epoch(1), .. })), "{start:?}");
    }
}

/// P-XFER-12.
#[test]
fn who_has_sent_and_is_not_heard_asks_for_the_line_and_gives_the_conn_up() {
    for is_well in [false, true] {
        let mut desk = serving();
        let began = desk.now;
        let asks = FromServerLoop::AskLine { control: CONTROL, loop_index: 0, conn: ConnId(1) };
        let mut repeats = 0;
        while !desk.net.from_server_loop.contains(&asks) {
            repeats += 1;
            let next = Driver::<Net>::next_deadline(&desk.server).expect("it looks");
            let heard = next.since(began);
            assert!(heard < Duration::from_secs(60), "nobody asks: {:?}", desk.net.from_server_loop);
            desk.net.unacked = Some(Unacked { repeats, heard });
            desk.now = next;
            desk.with(|server, cx| server.on_deadline(cx));
        }
        let line = Line { since: Instant::ZERO, heard: if is_well { desk.now } else { began } };
        desk.tell(ToServerLoop::Line { control: CONTROL, conn: ConnId(1), line });
        let msg = ServerMsg::Abort { conn: ConnId(1), epoch: Epoch(1), code: AbortCode::ConnLost };
        let abort = FromServerLoop::Message { control: CONTROL, msg };
        assert_eq!(desk.net.from_server_loop.contains(&abort), is_well);
        assert_eq!(desk.net.reset.contains(&VISITOR), is_well);
        assert_eq!(desk.server.sockets(), if is_well { 0 } else { 2 });
    }
}

/// As large as a connection of production, and a pipe.
type Socket = [u64; 4];
type PipeEnds = [u32; 3];

/// What an idle visitor costs, beside its place in the table and in those of conns and deadlines.
#[test]
fn a_visitor_and_the_conn_that_serves_it_take_so_many_bytes() {
    let sizes =
        [size_of::<Visitor<Socket>>(), size_of::<Conn<Socket, PipeEnds>>(), size_of::<Slot<Socket, PipeEnds>>()];
    assert_eq!(sizes, [216, 400, 16]);
}

/// Messages are moved several times on their way.
#[test]
fn a_message_of_a_loop_takes_so_many_bytes() {
    assert_eq!([size_of::<FromServerLoop<Socket>>(), size_of::<ToServerLoop<Socket>>()], [56, 176]);
}
