//! What every transfer costs in pure code: the codec on its messages, and a whole visit through the machines of
//! both sides.
//!
//! ```text
//! cargo run --release -p protocol-sm --example hot                  # nanoseconds, the median of many rounds
//! cargo run --release -p protocol-sm --example hot -- visit 1000    # one of them so often, for a profiler
//! .ci/instructions                                                  # instructions, compared with those committed
//! ```
//! None of it allocates (`tests/codec_alloc.rs`).

use protocol_sm::conn::{client, server};
use protocol_sm::ids::{ConnId, Epoch, TunnelId};
use protocol_sm::pool::Pool;
use protocol_sm::session::{Delivery, NumberedMessages};
use protocol_sm::time::Instant as Now;
use protocol_sm::transfer::{Fin, Half, How, OuterDuty};
use protocol_sm::wire::{ClientMsg, FRAME_HEADER, Framer, Message, ProxyToClient, ServerMsg, ToClient, ToServer};
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

// Short rounds: most of them fit between two interruptions.
const ROUNDS: usize = 2001;
const CALLS: u32 = 500;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        for (name, mut work) in works() {
            println!("{name:<16}{:>8.1} ns", median(&mut work));
        }
        return ExitCode::SUCCESS;
    };
    if name == "--list" {
        works().iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let times = arguments.next().and_then(|times| times.parse().ok());
    let work = works().into_iter().find(|(known, _)| *known == name);
    let (Some(times), Some((_, mut work))) = (times, work) else {
        eprintln!("usage: hot [--list | NAME TIMES]");
        return ExitCode::from(2);
    };
    (0u64..times).for_each(|_| work());
    ExitCode::SUCCESS
}

type Work = Box<dyn FnMut()>;

fn works() -> Vec<(&'static str, Work)> {
    let (conn, epoch, seq) = (ConnId(70_000), Epoch(300), 1_000_000);
    let start = |visitor: &str| ProxyToClient::Start {
        epoch,
        tunnel: TunnelId(1),
        visitor: visitor.parse().expect("an address"),
        public: visitor.parse().expect("an address"),
    };
    let fin = ToClient::Numbered { seq, msg: ServerMsg::Fin { conn, epoch, total: 1 << 33, how: How::Shut } };
    let done = ToServer::Numbered { seq, msg: ClientMsg::Done { conn, epoch } };
    vec![
        ("encode-start", encode(start("192.0.2.7:50000"))),
        ("decode-start", decode(start("192.0.2.7:50000"))),
        ("encode-start-v6", encode(start("[2001:db8::7]:443"))),
        ("decode-start-v6", decode(start("[2001:db8::7]:443"))),
        ("encode-fin", encode(fin.clone())),
        ("decode-fin", decode(fin)),
        ("encode-done", encode(done.clone())),
        ("decode-done", decode(done)),
        ("number", number()),
        ("pool", pool()),
        ("server-visit", server_visit()),
        ("client-visit", client_visit()),
        ("visit", visit()),
    ]
}

fn encode<M: Message + 'static>(message: M) -> Work {
    let mut frame = [0; FRAME_HEADER + 512];
    Box::new(move || {
        black_box(black_box(&message).encode(&mut frame));
    })
}

fn decode<M: Message + 'static>(message: M) -> Work {
    let mut frame = Vec::new();
    message.encode_to(&mut frame);
    let mut framer = Framer::<M>::default();
    Box::new(move || {
        let _ = black_box(framer.next(&mut black_box(frame.as_slice())));
    })
}

/// A message is numbered, comes, and is acknowledged.
fn number() -> Work {
    let mut ours = NumberedMessages::default();
    let mut theirs = NumberedMessages::<ClientMsg>::default();
    let msg = ServerMsg::Fin { conn: ConnId(70_000), epoch: Epoch(300), total: 1 << 33, how: How::Shut };
    Box::new(move || {
        let seq = black_box(&mut ours).send(black_box(&msg).clone()).expect("it is acknowledged");
        assert!(matches!(black_box(&mut theirs).on_numbered(seq), Ok(Delivery::Deliver { .. })));
        let received = black_box(&mut theirs).mark_acked();
        black_box(&mut ours).on_ack(received).expect("that many were sent");
    })
}

/// A visitor gets an idle conn and gives it back; another has to wait for it.
fn pool() -> Work {
    let mut pool = Pool::<u32, u32>::new(1);
    assert_eq!(pool.ask(Now::ZERO), 1);
    assert_eq!(pool.on_new(1), None);
    Box::new(move || {
        assert_eq!(black_box(&mut pool).on_visitor(2), Some(1));
        assert_eq!(black_box(&mut pool).on_visitor(3), None);
        assert_eq!(black_box(&mut pool).on_idle(1), Some(3));
        assert_eq!(black_box(&mut pool).on_idle(1), None);
    })
}

/// Bytes of a visitor's question and of the answer.
const QUESTION: usize = 100;
const ANSWER: usize = 1000;

fn moved(half: &mut impl Half, bytes: usize) {
    let half = black_box(half);
    assert!(half.budget(1 << 16).take >= bytes);
    half.on_taken(bytes);
    half.on_forwarded(black_box(&*half).budget(0).forward);
}

fn shut(bytes: usize) -> Fin {
    Fin { total: bytes as u64, how: How::Shut }
}

// In a program there is an event of its own behind each step, and the conn lies in memory between them.

fn serve(idle: server::IdleConn) -> server::IdleConn {
    let mut conn = idle.start().expect("epochs are left");
    let epoch = conn.transfer.epoch();
    moved(&mut conn.transfer.egress, QUESTION);
    assert_eq!(black_box(&mut conn).transfer.on_source_end(How::Shut), shut(QUESTION));
    black_box(&mut conn).on_started(epoch).expect("it is awaited");
    moved(&mut conn.transfer.ingress, ANSWER);
    let _ = black_box(black_box(&mut conn).on_fin(epoch, shut(ANSWER)));
    black_box(&mut conn).transfer.ingress.on_shut();
    assert_eq!(black_box(&conn).transfer.outer_duty(), Some(OuterDuty::Close));
    let _ = black_box(black_box(&mut conn).on_done(epoch));
    black_box(conn).finish().expect("it is over")
}

fn use_service(idle: client::IdleConn) -> client::IdleConn {
    let mut idle = black_box(idle);
    let epoch = idle.last().next().expect("epochs are left");
    let _ = black_box(idle.on_fin(epoch, shut(QUESTION)));
    let mut conn = black_box(idle).on_start(epoch).expect("it is the next");
    black_box(&mut conn).on_dialed();
    moved(&mut conn.transfer.ingress, QUESTION);
    black_box(&mut conn).transfer.ingress.on_shut();
    moved(&mut conn.transfer.egress, ANSWER);
    assert_eq!(black_box(&mut conn).transfer.on_source_end(How::Shut), shut(ANSWER));
    assert_eq!(black_box(&conn).transfer.outer_duty(), Some(OuterDuty::Close));
    black_box(conn).finish().expect("it is over")
}

fn server_visit() -> Work {
    let mut idle = Some(server::IdleConn::default());
    Box::new(move || idle = idle.take().map(serve))
}

fn client_visit() -> Work {
    let mut idle = Some(client::IdleConn::default());
    Box::new(move || idle = idle.take().map(use_service))
}

/// All of it: pool, both machines, and every message encoded, decoded, numbered and acknowledged.
fn visit() -> Work {
    let conn = ConnId(70_000);
    let epoch = Epoch(300);
    let mut pool = pool();
    let mut server = server_visit();
    let mut client = client_visit();
    let [visitor, public] = ["192.0.2.7:50000", "192.0.2.1:6000"].map(|at| at.parse().expect("an address"));
    let mut band = wire(ProxyToClient::Start { epoch, tunnel: TunnelId(1), visitor, public });
    let mut end = wire(ToClient::Numbered {
        seq: 1_000_000,
        msg: ServerMsg::Fin { conn, epoch, total: 1 << 33, how: How::Shut },
    });
    let mut answered = wire(ToServer::Numbered {
        seq: 1_000_000,
        msg: ClientMsg::Fin { conn, epoch, total: 1 << 33, how: How::Shut },
    });
    let mut done = wire(ToServer::Numbered { seq: 1_000_001, msg: ClientMsg::Done { conn, epoch } });
    let mut numbers = number();
    Box::new(move || {
        pool();
        server();
        client();
        [&mut band, &mut end, &mut answered, &mut done].into_iter().for_each(|message| message());
        (0..3).for_each(|_| numbers());
    })
}

fn wire<M: Message + Clone + 'static>(message: M) -> Work {
    let (mut encode, mut decode) = (encode(message.clone()), decode(message));
    Box::new(move || {
        encode();
        decode();
    })
}

/// Nanoseconds per call.
fn median(call: &mut impl FnMut()) -> f64 {
    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..CALLS).for_each(|_| call());
            start.elapsed().as_nanos()
        })
        .collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2] as f64 / f64::from(CALLS)
}
