//! Payload whose every byte says where it belongs: which stream, which direction, which offset. What
//! arrives is compared as it arrives, and a difference is named for what it is: bytes lost, repeated,
//! foreign (of another stream or direction) or garbage.

use std::fmt;

/// Which way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the PublicClient to the LocalServer.
    Up,
    /// From the LocalServer to the PublicClient.
    Down,
}

/// One direction of one stream: the source of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Number of the stream, below 2^20; the test gives a different one to every stream.
    pub stream: u32,
    /// Which half of it.
    pub direction: Direction,
}

const WORD: u64 = 8;
const STREAM_SHIFT: u32 = 44;
const DIRECTION_BIT: u64 = 1 << 43;
const MASK: u64 = 0x5bd1_e995_9d1c_0ffe;
const MULTIPLY: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

impl Flow {
    /// The half of stream `stream` that goes to the LocalServer.
    #[must_use]
    pub fn up(stream: u32) -> Self {
        Self { stream, direction: Direction::Up }
    }

    /// The half of stream `stream` that goes to the PublicClient.
    #[must_use]
    pub fn down(stream: u32) -> Self {
        Self { stream, direction: Direction::Down }
    }

    /// Fills `buffer` with the bytes from `offset` on.
    pub fn fill(self, offset: u64, buffer: &mut [u8]) {
        let (mut index, skip) = (offset / WORD, (offset % WORD) as usize);
        let head = buffer.len().min((WORD as usize - skip) % WORD as usize);
        let (head, rest) = buffer.split_at_mut(head);
        if !head.is_empty() {
            head.copy_from_slice(&self.word(index)[skip..skip + head.len()]);
            index += 1;
        }
        let mut words = rest.chunks_exact_mut(WORD as usize);
        for word in &mut words {
            word.copy_from_slice(&self.word(index));
            index += 1;
        }
        let tail = words.into_remainder();
        tail.copy_from_slice(&self.word(index)[..tail.len()]);
    }

    /// The bytes `offset..offset + len`.
    #[must_use]
    pub fn bytes(self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(offset, &mut bytes);
        bytes
    }

    /// The eight bytes at `8 * index`: stream, direction and index, stirred by a bijection so that no
    /// two flows share a run of bytes and [`Place::of`] can read them back.
    fn word(self, index: u64) -> [u8; WORD as usize] {
        assert!(self.stream < 1 << 20, "stream numbers are below 2^20");
        let direction = match self.direction {
            Direction::Up => 0,
            Direction::Down => DIRECTION_BIT,
        };
        stir(u64::from(self.stream) << STREAM_SHIFT | direction | index).to_le_bytes()
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Up => "up",
            Direction::Down => "down",
        };
        write!(f, "stream {} {direction}", self.stream)
    }
}

/// The receiving end of a [`Flow`].
#[derive(Clone, Debug)]
pub struct Arrival {
    flow: Flow,
    offset: u64,
}

impl Arrival {
    /// Expects `flow` from its first byte.
    #[must_use]
    pub fn of(flow: Flow) -> Self {
        Self { flow, offset: 0 }
    }

    /// Bytes arrived so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The first byte that is not the expected one, with what was found in its place.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut expected = [0; 4096];
        let starts = (0..).step_by(expected.len());
        for (start, chunk) in starts.zip(bytes.chunks(expected.len())) {
            let expected = &mut expected[..chunk.len()];
            self.flow.fill(self.offset, expected);
            if let Some(at) = chunk.iter().zip(&*expected).position(|(found, good)| found != good) {
                return Err(self.diagnose(self.offset + at as u64, &bytes[start + at..]));
            }
            self.offset += chunk.len() as u64;
        }
        Ok(())
    }

    /// Checks, at the end of the stream, that exactly `total` bytes came.
    ///
    /// # Errors
    /// How many are missing or too many.
    pub fn end(&self, total: u64) -> Result<(), String> {
        match self.offset {
            n if n < total => Err(format!("{}: ended after {n} of {total} bytes ({} lost)", self.flow, total - n)),
            n if n > total => Err(format!("{}: {} bytes too many, {n} in all", self.flow, n - total)),
            _ => Ok(()),
        }
    }

    fn diagnose(&self, offset: u64, found: &[u8]) -> String {
        let what = match Place::of(found) {
            Some(place) if place.flow != self.flow => {
                format!("foreign bytes: offset {} of {}", place.offset, place.flow)
            }
            Some(place) if place.offset > offset => {
                format!("{} bytes lost: what belongs at {} came", place.offset - offset, place.offset)
            }
            Some(place) => {
                format!("{} bytes repeated: what belongs at {} came", offset - place.offset, place.offset)
            }
            None => {
                let shown = &found[..found.len().min(32)];
                format!("bytes that nobody sent: {shown:02x?} ({:?})", String::from_utf8_lossy(shown))
            }
        };
        format!("{} at offset {offset}: {what}", self.flow)
    }
}

/// Where a run of bytes belongs.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    flow: Flow,
    offset: u64,
}

impl Place {
    /// Reads back where `bytes` come from: two neighbouring words that agree, at any alignment.
    fn of(bytes: &[u8]) -> Option<Self> {
        (0..WORD as usize).find_map(|skip| {
            let mut words = bytes
                .get(skip..)?
                .chunks_exact(WORD as usize)
                .map(|word| unstir(u64::from_le_bytes(word.try_into().expect("chunks of eight"))));
            let (first, second) = (words.next()?, words.next()?);
            let index = first & (DIRECTION_BIT - 1);
            let offset = (index * WORD).checked_sub(skip as u64)?;
            (second == first + 1).then_some(Self {
                flow: Flow {
                    stream: (first >> STREAM_SHIFT) as u32,
                    direction: if first & DIRECTION_BIT == 0 { Direction::Up } else { Direction::Down },
                },
                offset,
            })
        })
    }
}

fn stir(mut z: u64) -> u64 {
    z ^= MASK;
    z = (z ^ (z >> 30)).wrapping_mul(MULTIPLY[0]);
    z = (z ^ (z >> 27)).wrapping_mul(MULTIPLY[1]);
    z ^ (z >> 31)
}

fn unstir(mut z: u64) -> u64 {
    z = unshift(z, 31).wrapping_mul(inverse(MULTIPLY[1]));
    z = unshift(z, 27).wrapping_mul(inverse(MULTIPLY[0]));
    unshift(z, 30) ^ MASK
}

/// Undoes `z ^ (z >> shift)`.
fn unshift(z: u64, shift: u32) -> u64 {
    let mut out = z;
    for _ in 0..64 / shift {
        out = z ^ (out >> shift);
    }
    out
}

/// The inverse of an odd number modulo 2^64, by Newton's iteration.
fn inverse(odd: u64) -> u64 {
    (0..6).fold(odd, |x, _| x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_a_flow_is_the_same_flow() {
        let flow = Flow::down(7);
        let whole = flow.bytes(0, 100);
        for from in 0..100 {
            for to in from..100 {
                assert_eq!(flow.bytes(from as u64, to - from), whole[from..to]);
            }
        }
        assert_ne!(whole, Flow::up(7).bytes(0, 100));
        assert_ne!(whole, Flow::down(8).bytes(0, 100));
    }

    #[test]
    fn stirring_can_be_undone() {
        for z in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            assert_eq!(unstir(stir(z)), z);
        }
    }

    #[test]
    fn what_is_whole_is_accepted_in_any_pieces() {
        let flow = Flow::up(3);
        let whole = flow.bytes(0, 10_000);
        for piece in [1, 7, 4096, 5000, 10_000] {
            let mut arrival = Arrival::of(flow);
            for chunk in whole.chunks(piece) {
                arrival.take(chunk).unwrap();
            }
            arrival.end(10_000).unwrap();
        }
    }

    #[test]
    fn every_kind_of_damage_is_named() {
        let flow = Flow::up(3);
        let damage = |bytes: Vec<u8>| {
            let mut arrival = Arrival::of(flow);
            arrival.take(&flow.bytes(0, 5001)).unwrap();
            arrival.take(&bytes).unwrap_err()
        };
        let lost = damage(flow.bytes(5013, 64));
        assert_eq!(lost, "stream 3 up at offset 5001: 12 bytes lost: what belongs at 5013 came");
        let repeated = damage([flow.bytes(5001, 4990), flow.bytes(9000, 50)].concat());
        assert_eq!(repeated, "stream 3 up at offset 9991: 991 bytes repeated: what belongs at 9000 came");
        let foreign = damage(Flow::down(9).bytes(123, 40));
        assert_eq!(foreign, "stream 3 up at offset 5001: foreign bytes: offset 123 of stream 9 down");
        let garbage = damage(b"Start!".to_vec());
        assert!(garbage.starts_with("stream 3 up at offset 5001: bytes that nobody sent"), "{garbage}");
        assert!(garbage.contains("Start!"), "{garbage}");
    }

    #[test]
    fn a_short_or_long_stream_is_named() {
        let mut arrival = Arrival::of(Flow::up(3));
        arrival.take(&Flow::up(3).bytes(0, 10)).unwrap();
        assert_eq!(arrival.end(12).unwrap_err(), "stream 3 up: ended after 10 of 12 bytes (2 lost)");
        assert_eq!(arrival.end(9).unwrap_err(), "stream 3 up: 1 bytes too many, 10 in all");
    }
}
