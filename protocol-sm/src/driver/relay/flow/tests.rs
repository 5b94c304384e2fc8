//! One direction over two sockets that hold as much as a test says: how much a turn moves, and who has another.

use super::super::{Link, Mode};
use super::*;
use crate::auth::Channel;
use crate::bandwidth::Meter;
use crate::driver::TURN;
use crate::driver::slab::Token;
use crate::driver::sys::{Received, Role, Streams};
use crate::driver::thread::{BULK, SCRATCH};
use crate::ids::Epoch;
use crate::settings::Origin;
use crate::time::Instant;
use crate::transfer::{Fin, How, Transfer};
use alloc::collections::BTreeMap;
use core::cell::RefCell;
use core::net::SocketAddr;

/// A source with so many bytes to come, and a sink with so much room. It notes the largest call.
#[derive(Default)]
struct Sockets {
    /// Bytes that have come and are not read.
    there: usize,
    /// Bytes that the sink takes before it is full.
    room: usize,
    /// A call takes no more than this.
    largest: usize,
    /// Bytes in the pipes.
    pipes: RefCell<BTreeMap<u32, usize>>,
    delivered: usize,
    most_in_a_call: usize,
    /// So many calls find no memory before one does.
    starved: usize,
    /// How many have found none since.
    starving: usize,
    /// Sinks that were shut.
    shut: usize,
}

const SOURCE: u8 = 0;
const SINK: u8 = 1;

impl Sockets {
    fn find_memory(&mut self) -> Result<(), SysError> {
        self.starving = (self.starving + 1) % (self.starved + 1);
        if self.starving > 0 { Err(SysError::Exhausted) } else { Ok(()) }
    }

    fn take(&mut self, most: usize) -> Result<usize, SysError> {
        self.find_memory()?;
        let n = self.there.min(most).min(self.largest);
        self.there -= n;
        self.most_in_a_call = self.most_in_a_call.max(n);
        if n == 0 { Err(SysError::WouldBlock) } else { Ok(n) }
    }

    fn give(&mut self, most: usize) -> Result<usize, SysError> {
        self.find_memory()?;
        let n = self.room.min(most).min(self.largest);
        self.room -= n;
        self.delivered += n;
        self.most_in_a_call = self.most_in_a_call.max(n);
        if n == 0 { Err(SysError::WouldBlock) } else { Ok(n) }
    }
}

impl Streams for Sockets {
    type Stream = u8;

    fn watch(&mut self, _: &u8, _: Token) -> Result<(), SysError> {
        unreachable!()
    }
    fn unwatch(&mut self, _: &u8) {}
    fn connect(&mut self, _: &Origin, _: SocketAddr, _: Role, _: Token) -> Result<u8, SysError> {
        unreachable!()
    }
    fn take_error(&mut self, _: &u8) -> Result<(), SysError> {
        Ok(())
    }
    fn recv(&mut self, stream: &u8, into: &mut [u8]) -> Result<Received, SysError> {
        assert_eq!(*stream, SOURCE);
        let bytes = self.take(into.len())?;
        Ok(Received { bytes, drained: self.there == 0 })
    }
    fn peek(&mut self, _: &u8, _: &mut [u8]) -> Result<usize, SysError> {
        unreachable!("a flow does not look ahead")
    }
    fn skip(&mut self, _: &u8, _: usize) {}
    fn send(&mut self, stream: &u8, from: &[u8]) -> Result<usize, SysError> {
        assert_eq!(*stream, SINK);
        self.give(from.len())
    }
    fn channel(&mut self, _: &u8) -> Result<Option<Channel>, SysError> {
        Ok(None)
    }
    fn own_address(&self, _: &u8) -> SocketAddr {
        unreachable!("a flow does not ask")
    }
    fn unsent(&self, _: &u8) -> usize {
        0
    }
    fn shut_write(&mut self, _: &u8) {
        self.shut += 1;
    }
    fn close(&mut self, _: u8) {}
    fn reset(&mut self, _: u8) {}
}

impl Splice for Sockets {
    type Pipe = u32;

    fn pipe(&mut self) -> Option<(u32, usize)> {
        let mut pipes = self.pipes.borrow_mut();
        let pipe = u32::try_from(pipes.len()).expect("few");
        pipes.insert(pipe, 0);
        // As large as production asks for.
        Some((pipe, 1 << 20))
    }
    fn splice_in(&mut self, _: &u8, pipe: &u32, max: usize) -> Result<usize, SysError> {
        let n = self.take(max)?;
        *self.pipes.borrow_mut().get_mut(pipe).expect("handed out") += n;
        Ok(n)
    }
    fn splice_out(&mut self, pipe: &u32, _: &u8, max: usize) -> Result<usize, SysError> {
        let n = self.give(max)?;
        *self.pipes.borrow_mut().get_mut(pipe).expect("handed out") -= n;
        Ok(n)
    }
    fn read_pipe(&mut self, _: &u32, _: &mut [u8]) -> Result<(), SysError> {
        unreachable!("splice works here")
    }
    fn can_splice(&self, _: &u8) -> bool {
        true
    }
    fn recycle(&mut self, pipe: u32, empty: bool) {
        let held = self.pipes.borrow_mut().remove(&pipe).expect("handed out");
        assert!(!empty || held == 0, "a pipe with bytes in it is not given back as empty");
    }
}

/// One direction, and both its ends.
struct Direction {
    sockets: Sockets,
    flow: Flow<u32>,
    transfer: Transfer,
    from: Endpoint<u8>,
    to: Endpoint<u8>,
    scratch: Vec<u8>,
    strategy: Strategy,
}

impl Direction {
    fn new(strategy: Strategy, scratch: usize) -> Self {
        Self {
            sockets: Sockets { largest: usize::MAX, ..Sockets::default() },
            flow: Flow::default(),
            transfer: Transfer::new(Epoch(1)),
            from: Endpoint::new(SOURCE),
            to: Endpoint::new(SINK),
            scratch: alloc::vec![0; scratch],
            strategy,
        }
    }

    /// A turn, and what it delivered.
    fn pump(&mut self) -> (Turn, usize) {
        let before = self.sockets.delivered;
        let strategy = self.strategy;
        let mut cx =
            Cx { sys: &mut self.sockets, now: Instant::ZERO, scratch: &mut self.scratch, strategy, turn: TURN };
        let turn = self.flow.pump(&mut cx, &mut self.transfer.egress, Some(&mut self.from), &mut self.to, false, None);
        (turn, self.sockets.delivered - before)
    }

    fn could_move(&self) -> bool {
        self.flow.could_move(&self.transfer.egress, Some(&self.from), &self.to, false)
    }
}

/// A stream without bytes is shut behind what is told of it, however little room there is for that.
#[test]
fn the_header_of_a_stream_comes_before_its_end() {
    let mut sockets = Sockets { largest: usize::MAX, ..Sockets::default() };
    let mut link = Link::new(Endpoint::connecting(SOURCE));
    let mut transfer = Transfer::new(Epoch(1));
    let heard = transfer.on_fin(Epoch(1), Fin { total: 0, how: How::Shut });
    assert!(heard.is_ok());
    link.ingress_flow.push_frame(&[7; 25]);
    for (room, shut) in [(10, 0), (10, 0), (0, 0), (10, 1), (10, 1)] {
        sockets.room = room;
        let mut cx =
            Cx { sys: &mut sockets, now: Instant::ZERO, scratch: &mut [0; 64], strategy: Strategy::Hybrid, turn: TURN };
        let mut sink = Endpoint::connecting(SINK);
        sink.writable = true;
        let mode = Mode { incoming_is_payload: true, hold_frames: false };
        let result = link.exchange(&mut cx, &mut transfer, Some(&mut sink), mode, None, &mut Meter::default());
        assert!(result.is_ok());
        assert_eq!(sockets.shut, shut);
    }
    assert_eq!(sockets.delivered, 25);
}

const STRATEGIES: [Strategy; 3] = [Strategy::Hybrid, Strategy::Copy, Strategy::Splice];

/// One stream that could go on for ever holds others up for 256 KiB, and what one call brings on top of that.
#[test]
fn a_turn_is_over_after_its_share_however_much_there_is() {
    const SHARE: usize = 256 << 10;
    const MUCH: usize = 16 << 20;
    for strategy in STRATEGIES {
        let mut direction = Direction::new(strategy, SCRATCH);
        (direction.sockets.there, direction.sockets.room) = (MUCH, usize::MAX);
        let mut turns = 0;
        while direction.sockets.there > 0 {
            let (turn, moved) = direction.pump();
            turns += 1;
            assert!(moved < 2 * SHARE, "{strategy:?}: {moved} bytes in turn {turns}");
            if direction.sockets.there > 0 {
                assert!(moved >= SHARE, "{strategy:?}: {moved} bytes in turn {turns}");
                assert_eq!(turn, Turn::Again, "{strategy:?}: whoever has more is to have another turn");
                assert!(direction.could_move());
            }
        }
        assert_eq!(direction.sockets.delivered, MUCH);
        assert!(direction.sockets.most_in_a_call <= SHARE, "one call: {}", direction.sockets.most_in_a_call);
        assert_eq!(direction.pump(), (Turn::Wait, 0));
        assert!(!direction.could_move());
    }
}

/// What may end soon is read in small pieces; a stream that has filled one, and is copied, in larger ones.
#[test]
fn a_bulk_stream_that_is_copied_is_read_in_larger_pieces() {
    let mut direction = Direction::new(Strategy::Copy, SCRATCH);
    direction.sockets.room = usize::MAX;
    for (there, most) in [(BULK - 1, BULK - 1), (BULK, BULK), (SCRATCH + 1, SCRATCH)] {
        direction.sockets.there = there;
        direction.from.readable = true;
        assert_eq!(direction.pump(), (Turn::Wait, there));
        assert_eq!(direction.sockets.most_in_a_call, most, "{there} bytes");
    }
}

/// Whoever waits, waits for readiness: a turn that ends so has done all that could be done.
#[test]
fn a_turn_that_waits_leaves_nothing_that_could_be_moved() {
    for strategy in STRATEGIES {
        for seed in 1..400_u64 {
            let mut dice = seed;
            let mut below = |n: usize| {
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                usize::try_from(dice % n as u64).expect("small")
            };
            let mut direction = Direction::new(strategy, 512);
            direction.sockets.largest = 1 + below(2_000);
            let mut sent = 0;
            for _ in 0..40 {
                let (more, room) = (below(6_000), below(6_000));
                if more > 0 {
                    sent += more;
                    direction.sockets.there += more;
                    direction.from.readable = true;
                }
                if room > 0 {
                    direction.sockets.room += room;
                    direction.to.writable = true;
                }
                loop {
                    match direction.pump().0 {
                        Turn::Wait => break,
                        Turn::Again => assert!(direction.could_move(), "{strategy:?}, seed {seed}"),
                        other @ (Turn::Eof | Turn::SourceLost | Turn::SinkLost(_) | Turn::Starved) => {
                            panic!("{strategy:?}, seed {seed}: {other:?}")
                        }
                    }
                }
                assert!(!direction.could_move(), "{strategy:?}, seed {seed}");
            }
            direction.sockets.room = usize::MAX;
            direction.to.writable = true;
            while direction.pump().0 == Turn::Again {}
            assert_eq!(direction.sockets.delivered, sent, "{strategy:?}, seed {seed}");
        }
    }
}

/// A call that finds no memory has moved nothing, and says nothing of its socket: whatever it is, it is made again.
#[test]
fn a_turn_without_memory_is_taken_up_again_and_nothing_is_lost() {
    const MUCH: usize = 3 << 20;
    for strategy in STRATEGIES {
        for starved in [1, 2, 3, 7] {
            let mut direction = Direction::new(strategy, SCRATCH);
            (direction.sockets.starved, direction.sockets.largest) = (starved, 100_000);
            (direction.sockets.there, direction.sockets.room) = (MUCH, usize::MAX);
            let mut starving = 0;
            loop {
                match direction.pump().0 {
                    Turn::Starved => {
                        starving += 1;
                        assert!(direction.could_move(), "{strategy:?}: no event will tell");
                    }
                    Turn::Again => {}
                    Turn::Wait => break,
                    other @ (Turn::Eof | Turn::SourceLost | Turn::SinkLost(_)) => panic!("{strategy:?}: {other:?}"),
                }
            }
            assert_eq!(direction.sockets.delivered, MUCH, "{strategy:?}");
            assert!(starving > 0, "{strategy:?}, {starved}");
        }
    }
}
