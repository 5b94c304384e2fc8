//! A client's event loop alone.

use super::super::stub::{Net, encoded, session_key};
use super::super::thread::{SCRATCH, Strategy};
use super::*;
use crate::codes::RefuseCode;
use crate::dead_path::Unacked;
use crate::ids::Epoch;
use crate::liveness::Line;
use crate::local_ports::PAUSE;
use crate::names::LocalAt;
use crate::settings::Origin;
use crate::sys_error::SysError;
use crate::transfer::{Fin, Heard, How};
use crate::wire::{ClientMsg, ProxyToServer};
use alloc::vec;
use core::time::Duration;

mod dead_path;
mod ports;
mod thin_line;
mod unix;

const TUNNEL: TunnelId = TunnelId(0);
const SERIAL: u64 = 1;

fn address(last: u8) -> SocketAddr {
    ([127, 0, 0, last], 22).into()
}

struct Desk {
    client: ClientLoop<u32, ()>,
    net: Net,
    now: Instant,
}

impl Desk {
    /// A tunnel to a LocalServer with these addresses.
    fn new(locals: &[SocketAddr]) -> Self {
        let client = ClientLoop::new(0, Timings::default());
        let mut desk = Self { client, net: Net::default(), now: Instant::ZERO + Duration::from_secs(1000) };
        desk.tell(ToClientLoop::Session { serial: SERIAL });
        let (locals, serving) = (locals.to_vec(), Serving::default());
        desk.tell(ToClientLoop::Tunnel {
            tunnel: TUNNEL,
            locals,
            place: LocalAt::Address,
            sources: vec![],
            serving,
            label: None,
        });
        desk
    }

    fn with(&mut self, act: impl FnOnce(&mut ClientLoop<u32, ()>, &mut Cx<'_, Net>)) {
        let mut scratch = vec![0; SCRATCH];
        let Self { client, net, now } = self;
        let cx = &mut Cx { sys: net, now: *now, scratch: &mut scratch, strategy: Strategy::Copy, turn: usize::MAX };
        act(client, cx);
        while Driver::<Net>::is_busy(client) {
            client.run_busy(cx);
        }
        client.assert_consistent();
    }

    fn tell(&mut self, message: ToClientLoop) {
        self.with(|client, cx| client.on_message(cx, message));
    }

    /// A visitor is started on a conn of its own, which has this number.
    fn visit(&mut self, number: u32) {
        let id = ConnId(number.into());
        let (visitor, public) = (address(1), address(2));
        let start = ProxyToClient::Start { epoch: Epoch(1), tunnel: TUNNEL, visitor, public };
        self.net.put(number, &encoded(&start));
        let ClientLoop { slots, conns, .. } = &mut self.client;
        let made = slots.insert_with(|_| {
            let (link, state) = (Link::new(Endpoint::new(number)), State::Idle(IdleConn::default()));
            let framer = Framer::default();
            let conn = Conn { serial: SERIAL, id, link, framer, secured: None, state, queued: false, deadline: None };
            Ok::<_, ()>(Slot::Conn(Box::new(conn)))
        });
        let token = made.unwrap();
        conns.insert((SERIAL, id), token);
        let ready = Readiness { readable: true, writable: true, ..Readiness::default() };
        self.with(|client, cx| client.on_ready(cx, token, ready));
    }

    fn next(&self) -> Instant {
        Driver::<Net>::next_deadline(&self.client).expect("it waits for something")
    }

    /// The next deadline passes.
    fn pass(&mut self) {
        self.now = self.next();
        self.with(|client, cx| client.on_deadline(cx));
    }

    /// The one LocalServer that is connected says this. Returns its stream.
    fn local_says(&mut self, bytes: &[u8]) -> u32 {
        let local = self.client.slots.iter().find_map(|(token, slot)| match slot {
            Slot::Local(local) => Some((token, *local.port.stream())),
            Slot::Conn(_) => None,
        });
        let (token, stream) = local.expect("it is served");
        self.net.put(stream, bytes);
        let ready = Readiness { readable: true, ..Readiness::default() };
        self.with(|client, cx| client.on_ready(cx, token, ready));
        stream
    }

    /// Visitors that have their LocalServer.
    fn served(&self) -> usize {
        self.client.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Local(_))).count()
    }
}

#[test]
fn started_waits_for_the_answer_although_the_visitor_has_ended() {
    let mut conn = IdleConn::default().on_start(Epoch(1)).unwrap();
    let after = |conn: &ActiveConn, phase, unanswered| {
        let conn = conn.clone();
        let mut pace = Pace::new();
        pace.phase = phase;
        let began = Counted::default();
        Active {
            conn,
            tunnel: TunnelId(1),
            dial: None,
            local: None,
            pace,
            path: Path::default(),
            began,
            max_bandwidth: None,
            throttled: [false; 2],
            flow: None,
            visitor: None,
            served: Counted(None),
        }
        .phase(unanswered)
    };
    assert_eq!(after(&conn, Phase::Dial, true), Phase::Dial);
    conn.on_dialed();
    assert_eq!(conn.on_fin(Epoch(1), Fin { total: 0, how: How::Shut }), Ok(Heard::Current));
    assert_eq!(conn.transfer.ingress.due(), Some(How::Shut));
    conn.transfer.ingress.on_shut();
    assert!(conn.transfer.ingress.through(), "the visitor has sent all there is");
    assert_eq!(after(&conn, Phase::Dial, true), Phase::Answer);
    assert_eq!(after(&conn, Phase::Answer, true), Phase::Answer);
    assert_eq!(after(&conn, Phase::Answer, false), Phase::HalfOpen, "it has gone out, with the first bytes");
    assert_eq!(after(&conn, Phase::Flowing, true), Phase::HalfOpen, "it has waited long enough");
    assert_eq!(conn.transfer.on_source_end(How::Shut).total, 0);
    assert_eq!(after(&conn, Phase::Answer, true), Phase::HalfOpen, "there will be no bytes");
}

/// What an idle visitor costs, beside its place in the tables of conns and deadlines: its local_conn is in the slot. An
/// allocator that counts in 16 bytes gives so much to 384 bytes, too; and for its address, where there is an access log,
/// 32 with its own eight.
#[test]
fn the_conn_that_serves_a_visitor_takes_so_many_bytes() {
    type Socket = [u64; 4];
    type PipeEnds = [u32; 3];
    assert_eq!([size_of::<Conn<Socket, PipeEnds>>(), size_of::<Slot<Socket, PipeEnds>>()], [392, 56]);
    assert!(size_of::<Peer>() <= 24);
}

/// P-POOL-2: what was being opened for a session that is over has not failed.
#[test]
fn a_conn_that_is_being_opened_ends_with_its_session_without_a_word() {
    let mut desk = Desk::new(&[]);
    let (session, conn) = (SessionId([1; 16]), ConnId(2));
    let (to, secret) = (Destination { to: address(3), through: None }, session_key(session));
    desk.tell(ToClientLoop::Open { from: Origin::default(), to, conn, session, secret });
    desk.tell(ToClientLoop::End { serial: SERIAL, code: AbortCode::SessionOver });
    let gone = |told: &FromClientLoop| matches!(told, FromClientLoop::ConnGone { serial: SERIAL, conn: ConnId(2) });
    let failed =
        |told: &FromClientLoop| matches!(told, FromClientLoop::Message { msg: ClientMsg::ConnFailed { .. }, .. });
    let told = &desk.net.from_client_loop;
    assert!(told.iter().any(gone) && !told.iter().any(failed), "{told:?}");
}
