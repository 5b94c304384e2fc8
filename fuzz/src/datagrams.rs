//! What a peer sends on a conn that carries a flow, and what a flow lets wait.

use protocol_sm::datagrams::{Deframer, HEADER, Lost, MAX_DATAGRAM, Queue, ROOM};
use protocol_sm::report::Counts;
use protocol_sm::time::Instant;
use std::time::Duration;

/// The bytes are a stream from a peer, which is read in the same way however it is cut; and then steps of a queue.
pub fn datagrams(data: &[u8]) {
    let whole = read(data, usize::MAX);
    for at_once in [1, 2, 7, 300] {
        assert_eq!(read(data, at_once), whole, "{at_once} bytes at once");
    }
    wait(data);
}

/// Its datagrams, and whether it goes on: not behind a length that none has.
fn read(data: &[u8], at_once: usize) -> (Vec<Vec<u8>>, bool) {
    let (mut deframer, mut out) = (Deframer::default(), Vec::new());
    for bytes in data.chunks(at_once.min(data.len()).max(1)) {
        deframer.push(bytes);
        loop {
            match deframer.pop() {
                Ok(Some(datagram)) => out.push(datagram.to_vec()),
                Ok(None) => break,
                Err(_) => return (out, false),
            }
        }
    }
    (out, true)
}

/// Each step has three bytes: what is done, and how long a datagram is, how much is read, or how much time passes.
fn wait(data: &[u8]) {
    let (mut queue, mut lost, mut now) = (Queue::default(), Counts::<Lost>::default(), Instant::ZERO);
    let (mut pushed, mut stream, mut buffer) = (0, Vec::new(), vec![0; 1 << 16]);
    for (number, step) in (0_u8..).zip(data.chunks_exact(3).take(256)) {
        let size = usize::from(u16::from_le_bytes([step[1], step[2]]));
        match step[0] % 4 {
            0 | 1 => {
                pushed += 1;
                queue.push(now, &vec![number; size.min(MAX_DATAGRAM)], &mut lost);
            }
            2 => {
                let read = queue.read(&mut buffer[..size]);
                stream.extend_from_slice(&buffer[..read]);
            }
            _ => now = now + Duration::from_millis(size as u64),
        }
        assert!(queue.bytes() <= ROOM);
    }
    queue.close(&mut lost);
    loop {
        match queue.read(&mut buffer) {
            0 => break,
            read => stream.extend_from_slice(&buffer[..read]),
        }
    }
    let (out, good) = read(&stream, usize::MAX);
    assert!(good && out.iter().map(|datagram| HEADER + datagram.len()).sum::<usize>() == stream.len(), "whole");
    assert!(out.iter().all(|datagram| datagram.windows(2).all(|pair| pair[0] == pair[1])), "never mixed");
    assert_eq!(out.len() as u64 + lost.sum(), pushed, "each came out or was counted");
}
