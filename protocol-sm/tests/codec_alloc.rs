//! The messages of every transfer are encoded and decoded without touching the allocator, the machines carry a visit
//! without it, and no hostile length makes the decoder reserve memory.

use protocol_sm::codes::AbortCode;
use protocol_sm::conn::{client, server};
use protocol_sm::ids::{ConnId, Epoch, TunnelId};
use protocol_sm::pool::Pool;
use protocol_sm::session::{Delivery, NumberedMessages};
use protocol_sm::time::Instant;
use protocol_sm::transfer::{Half, How};
use protocol_sm::wire::{
    ClientMsg, FRAME_HEADER, Framer, Message, ProxyToClient, ProxyToServer, ServerMsg, ToClient, ToServer,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

thread_local! {
    static ALLOCATED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Counts this thread's allocations and their bytes.
struct Counting;

// SAFETY: every call is passed on to `System` unchanged; counting touches a thread-local without a
// destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (count, bytes) = ALLOCATED.get();
        ALLOCATED.set((count + 1, bytes + layout.size()));
        // SAFETY: the caller's obligations are those of `System.alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's obligations are those of `System.dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and allocated bytes while `work` runs.
fn allocated(work: impl FnOnce()) -> (usize, usize) {
    let before = ALLOCATED.get();
    work();
    let after = ALLOCATED.get();
    (after.0 - before.0, after.1 - before.1)
}

fn round_trip<M: Message + PartialEq>(message: &M) {
    let mut frame = [0; FRAME_HEADER + 512];
    let mut framer = Framer::<M>::default();
    let used = allocated(|| {
        let length = black_box(message).encode(&mut frame);
        let mut input = black_box(&frame[..length]);
        let decoded = framer.next(&mut input);
        assert!(matches!(&decoded, Ok(Some(same)) if same == message) && input.is_empty());
    });
    assert_eq!(used, (0, 0));
}

#[test]
fn a_transfers_messages_allocate_nothing() {
    let (conn, epoch, seq) = (ConnId(u64::MAX), Epoch(u32::MAX), u64::MAX);
    for visitor in ["192.0.2.7:50000", "[2001:db8::7]:443"] {
        let visitor = visitor.parse().unwrap();
        round_trip(&ProxyToClient::Start { epoch, tunnel: TunnelId(1), visitor, public: visitor });
    }
    round_trip(&ProxyToClient::Ping);
    round_trip(&ProxyToServer::Pong);
    round_trip(&ProxyToServer::Started { epoch });
    let total = u64::MAX;
    for how in [How::Shut, How::Reset] {
        round_trip(&ToServer::Numbered { seq, msg: ClientMsg::Fin { conn, epoch, total, how } });
        round_trip(&ToClient::Numbered { seq, msg: ServerMsg::Fin { conn, epoch, total, how } });
    }
    round_trip(&ToServer::Numbered { seq, msg: ClientMsg::Done { conn, epoch } });
    let code = AbortCode::OuterReset;
    round_trip(&ToServer::Numbered { seq, msg: ClientMsg::Abort { conn, epoch, code } });
    round_trip(&ToClient::Numbered { seq, msg: ServerMsg::NeedConn { count: 4 } });
    round_trip(&ToServer::Numbered { seq, msg: ClientMsg::StartSeen { conn, epoch, seen: true } });
    round_trip(&ToClient::Numbered { seq, msg: ServerMsg::AskStart { conn, epoch } });
    round_trip(&ToServer::Ping { received: u64::MAX });
}

/// One visit through both machines: 3 bytes there, 5 back.
fn visit(server: server::IdleConn, client: client::IdleConn) -> (server::IdleConn, client::IdleConn) {
    let mut server = server.start().expect("by the book");
    let epoch = server.transfer.epoch();
    server.transfer.egress.on_taken(3);
    server.transfer.egress.on_forwarded(3);
    let mut client = client.on_start(epoch).expect("by the book");
    client.on_dialed();
    server.on_started(epoch).expect("by the book");
    client.transfer.ingress.on_taken(3);
    client.transfer.ingress.on_forwarded(3);
    let _ = client.on_fin(epoch, server.transfer.on_source_end(How::Shut)).expect("by the book");
    client.transfer.ingress.on_shut();
    client.transfer.egress.on_taken(5);
    client.transfer.egress.on_forwarded(5);
    let _ = server.on_fin(epoch, client.transfer.on_source_end(How::Shut)).expect("by the book");
    server.transfer.ingress.on_taken(5);
    server.transfer.ingress.on_forwarded(5);
    server.transfer.ingress.on_shut();
    let client = client.finish().expect("by the book");
    let _ = server.on_done(epoch).expect("by the book");
    (server.finish().expect("by the book"), client)
}

#[test]
fn a_visit_on_an_idle_conn_allocates_nothing() {
    let mut pool = Pool::<u32, u32>::new(1);
    let (mut ours, mut theirs) = (NumberedMessages::default(), NumberedMessages::<()>::default());
    let mut conns = (server::IdleConn::default(), client::IdleConn::default());
    assert_eq!((pool.ask(Instant::ZERO), pool.on_new(1)), (1, None));
    let mut round = || {
        assert_eq!(pool.on_visitor(2), Some(1));
        conns = visit(std::mem::take(&mut conns.0), std::mem::take(&mut conns.1));
        let seq = ours.send(ServerMsg::NeedConn { count: 1 }).unwrap();
        assert_eq!(theirs.on_numbered(seq), Ok(Delivery::Deliver { ack: false }));
        ours.on_ack(theirs.mark_acked()).unwrap();
        assert_eq!(pool.on_idle(1), None);
    };
    // The first one makes room for what is kept.
    round();
    assert_eq!(allocated(|| (0..100).for_each(|_| round())), (0, 0));
}

#[test]
fn the_counter_counts() {
    let (count, bytes) = allocated(|| drop(black_box(Vec::<u8>::with_capacity(100))));
    assert_eq!((count, bytes), (1, 100));
}

#[test]
fn lengths_reserve_nothing_and_partial_frames_little() {
    // Every length that is too long is refused with nothing kept, however it is cut.
    for length in [0, 513, u16::MAX] {
        let [low, high] = length.to_le_bytes();
        let (_, bytes) = allocated(|| {
            let mut framer = Framer::<ToServer>::default();
            assert_eq!(framer.next(&mut [low].as_slice()), Ok(None));
            assert!(framer.next(&mut [high].as_slice()).is_err());
        });
        assert!(bytes <= 64, "{bytes} bytes for a length of {length}");
    }
    // The longest frame, byte by byte, and a name or a list that claims to be longer than everything.
    for before in [&[1, 1, 0, 1, 0][..], &[1, 1, 0, 1, 0, 0]] {
        let mut frame = [0; FRAME_HEADER + 512];
        frame[..2].copy_from_slice(&512u16.to_le_bytes());
        frame[2..][..before.len()].copy_from_slice(before);
        frame[2 + before.len()..][..5].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
        let (_, bytes) = allocated(|| {
            let mut framer = Framer::<ToServer>::default();
            let (last, rest) = frame.split_last().unwrap();
            for byte in rest {
                assert_eq!(framer.next(&mut [*byte].as_slice()), Ok(None));
            }
            assert!(framer.next(&mut [*last].as_slice()).is_err());
        });
        assert!(bytes <= 6 * frame.len(), "{bytes} bytes for a frame of {}", frame.len());
    }
}
