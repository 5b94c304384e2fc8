//! The bytes every load sends, so that a lost, repeated, invented or crossed byte is seen at once.
//!
//! A stream is a window that slides over one block of noise, starting at a place drawn from the stream's seed: both ends
//! know what stands at each offset without generating anything. Sending is a write from the block, checking is one
//! comparison with it, so that verifying costs the load little beside the system calls.

use std::sync::LazyLock;

/// Prime, so that no shift by a buffer size or a page makes a stream look like itself.
const PERIOD: usize = 65_521;

/// The longest run of bytes [`bytes`] can hand out at once.
pub(super) const LONGEST: usize = 256 * 1024;

static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(PERIOD)
    .collect();
    noise.extend_from_within(..);
    while noise.len() < PERIOD + LONGEST {
        noise.extend_from_within(..PERIOD);
    }
    noise
});

/// Which way a stream flows; the two directions of a visit carry different bytes.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// From the visitor to the service.
    Up,
    /// From the service to the visitor.
    Down,
}

/// The `len` bytes (at most [`LONGEST`]) that stand at `offset` of the stream of this seed and direction.
pub(super) fn bytes(seed: u32, way: Way, offset: u64, len: usize) -> &'static [u8] {
    let stream = u64::from(seed) * 2 + u64::from(matches!(way, Way::Down));
    let start = ((stream * 40_503 + offset) % PERIOD as u64) as usize;
    &NOISE[start..start + len]
}

/// Whether `got` is what stands at `offset` of the stream.
pub(super) fn matches(seed: u32, way: Way, offset: u64, got: &[u8]) -> bool {
    got.chunks(LONGEST).enumerate().all(|(i, chunk)| {
        let at = offset + (i * LONGEST) as u64;
        chunk == bytes(seed, way, at, chunk.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_or_foreign_stream_does_not_match() {
        let sent = bytes(7, Way::Up, 1_000_000, 4096);
        assert!(matches(7, Way::Up, 1_000_000, sent));
        assert!(!matches(7, Way::Up, 1_000_001, sent));
        assert!(!matches(7, Way::Down, 1_000_000, sent));
        assert!(!matches(8, Way::Up, 1_000_000, sent));
    }

    #[test]
    fn the_block_is_seamless() {
        let long = bytes(3, Way::Down, 0, LONGEST);
        let late = bytes(3, Way::Down, 200_000, 1000);
        assert_eq!(&long[200_000..201_000], late);
    }
}
