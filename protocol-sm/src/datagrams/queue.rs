//! Datagrams of one flow that wait for a conn, or for room in it: late is worse than lost.
//!
//! Invariants:
//! - Q1 at most [`ROOM`] bytes wait, with their headers, and each for at most [`PATIENCE`];
//! - Q2 the oldest is dropped first, and whole: of one that is being read all is read;
//! - Q3 what goes in comes out, in order, or is counted as dropped;
//! - Q4 where nothing waits, little memory is kept: a burst is not paid for as long as its flow lives.

use super::Lost;
use super::framing::{HEADER, KEPT, frame};
use crate::canary::{PlantedBug, planted};
use crate::report::Counts;
use crate::time::Instant;
use alloc::collections::VecDeque;
use core::time::Duration;

/// Bytes of a flow that may wait.
// PROTOCOL.md: P-UDP-6.
pub const ROOM: usize = 256 * 1024;
/// How long.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Queue {
    /// Each with its header, one behind the other.
    bytes: VecDeque<u8>,
    /// How many of `bytes` each has, and when it came.
    each: VecDeque<(u32, Instant)>,
    /// Of the first one something was read: this many of its bytes are left.
    begun: Option<u32>,
}

impl Queue {
    /// A datagram has come. Who was dropped for it, or before it, is counted in `lost`.
    // PROTOCOL.md: P-UDP-6.
    pub fn push(&mut self, now: Instant, datagram: &[u8], lost: &mut Counts<Lost>) {
        self.expire(now, lost);
        let whole = HEADER + datagram.len();
        while self.bytes.len() + whole > ROOM && self.drop_oldest() {
            lost.add(Lost::NoRoom);
        }
        self.bytes.extend(frame(datagram.len()));
        self.bytes.extend(datagram);
        self.each.push_back((u32::try_from(whole).expect("short"), now));
    }

    /// Drops what has waited for too long.
    pub fn expire(&mut self, now: Instant, lost: &mut Counts<Lost>) {
        while let Some(&(_, at)) = self.each.get(usize::from(self.begun.is_some()))
            && now.since(at) > PATIENCE
            && self.drop_oldest()
        {
            if !planted(PlantedBug::DroppedUncounted) {
                lost.add(Lost::Late);
            }
        }
    }

    /// When the newest will have waited for too long; `None` if nothing waits.
    #[must_use]
    pub fn patience(&self) -> Option<Instant> {
        self.each.back().map(|&(_, at)| at + PATIENCE)
    }

    /// Reads the stream that the datagrams are on a conn. Returns how many bytes.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let length = into.len().min(self.bytes.len());
        for (to, byte) in into.iter_mut().zip(self.bytes.drain(..length)) {
            *to = byte;
        }
        let mut left = u32::try_from(length).expect("at most ROOM");
        while left > 0 {
            let (whole, _) = *self.each.front().expect("each byte is a datagram's");
            let of_it = self.begun.unwrap_or(whole);
            if left < of_it {
                self.begun = Some(of_it - left);
                return length;
            }
            left -= of_it;
            self.begun = None;
            self.each.pop_front();
        }
        self.tidy();
        length
    }

    /// Nothing comes any more: only what was begun is left.
    pub fn close(&mut self, lost: &mut Counts<Lost>) {
        while self.drop_oldest() {
            lost.add(Lost::Ended);
        }
        self.tidy();
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Datagrams that wait, one that was begun among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.each.len()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// A small buffer is used again, so that a flow in which little waits at a time allocates nothing.
    fn tidy(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT {
            *self = Self::default();
        }
    }

    /// Drops the oldest of which nothing was read. `false`: there is none.
    fn drop_oldest(&mut self) -> bool {
        let nth = usize::from(self.begun.is_some());
        let Some((whole, _)) = self.each.remove(nth) else { return false };
        let from = self.begun.unwrap_or(0) as usize;
        self.bytes.drain(from..from + whole as usize);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::framing::{Deframer, MAX_DATAGRAM};
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn drained(queue: &mut Queue, piece: usize) -> Vec<u8> {
        let (mut out, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            match queue.read(&mut buffer) {
                0 => return out,
                n => out.extend_from_slice(&buffer[..n]),
            }
        }
    }

    fn first_bytes(stream: &[u8]) -> Vec<u8> {
        let mut deframer = Deframer::default();
        deframer.push(stream);
        let mut firsts = Vec::new();
        while let Some(datagram) = deframer.pop().unwrap() {
            firsts.push(datagram[0]);
        }
        assert!(deframer.is_empty(), "whole");
        firsts
    }

    /// P-UDP-6, Q1, Q2, Q3.
    #[test]
    fn the_oldest_makes_room_and_one_that_was_begun_is_never_cut() {
        for begun in [0, 1, 2, 500] {
            let (mut queue, mut lost) = (Queue::default(), Counts::default());
            queue.push(at(0), &[0; 1000], &mut lost);
            let mut out = vec![0; begun];
            assert_eq!(queue.read(&mut out), begun);
            for nth in 1..=8 {
                queue.push(at(0), &vec![nth; MAX_DATAGRAM], &mut lost);
                assert!(queue.bytes() <= ROOM);
            }
            out.extend(drained(&mut queue, 777));
            let kept = first_bytes(&out);
            let expected: &[u8] = if begun == 0 { &[5, 6, 7, 8] } else { &[0, 6, 7, 8] };
            assert_eq!(kept, expected, "{begun} bytes were read");
            assert_eq!(lost.get(Lost::NoRoom) as usize + kept.len(), 9, "each is there or counted");
            assert!(queue.is_empty());
        }
    }

    /// Q4: a burst leaves no memory behind; what comes one by one needs none anew.
    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let (mut queue, mut lost) = (Queue::default(), Counts::default());
        for _ in 0..100 {
            queue.push(at(0), &[7; 1200], &mut lost);
        }
        assert_eq!(drained(&mut queue, 1000).len(), 100 * 1202);
        assert!(queue.bytes.capacity() + queue.each.capacity() <= KEPT, "{queue:?}");
        queue.push(at(0), &[7; 1200], &mut lost);
        assert_eq!(drained(&mut queue, 2000).len(), 1202);
        let kept = queue.bytes.capacity();
        assert!((1202..=KEPT).contains(&kept), "{kept}");
        for _ in 0..9 {
            queue.push(at(0), &[7; 1200], &mut lost);
            assert_eq!((drained(&mut queue, 2000).len(), queue.bytes.capacity()), (1202, kept), "the same buffer");
        }
    }

    /// P-UDP-6, Q1.
    #[test]
    fn what_has_waited_for_too_long_is_dropped_and_counted() {
        let (mut queue, mut lost) = (Queue::default(), Counts::default());
        for (nth, millis) in [(1, 0), (2, 100), (3, 200)] {
            queue.push(at(millis), &[nth; 10], &mut lost);
        }
        assert_eq!(queue.patience(), Some(at(400)));
        queue.expire(at(200), &mut lost);
        assert_eq!(queue.len(), 3, "200 ms are not too long");
        let mut begun = vec![0; 5];
        assert_eq!(queue.read(&mut begun), 5);
        queue.expire(at(301), &mut lost);
        assert_eq!((queue.len(), lost.get(Lost::Late)), (2, 1), "the first one was begun");
        begun.extend(drained(&mut queue, 64));
        assert_eq!(first_bytes(&begun), [1, 3]);
        queue.push(at(400), &[4], &mut lost);
        queue.close(&mut lost);
        assert_eq!((queue.is_empty(), lost.get(Lost::Ended)), (true, 1));
    }
}
