//! Datagrams on a conn: each is its length in two bytes, least significant first, and then its bytes.

use alloc::vec::Vec;

/// The longest datagram, in bytes: what fits into an IPv4 packet.
pub const MAX_DATAGRAM: usize = 65_507;
/// Bytes in front of each.
pub const HEADER: usize = 2;
/// A buffer that is larger is not kept while nothing is in it.
pub(super) const KEPT: usize = 4096;

/// The header of a datagram of so many bytes.
///
/// # Panics
/// It is longer than [`MAX_DATAGRAM`].
// PROTOCOL.md: P-UDP-2.
#[must_use]
pub fn frame(length: usize) -> [u8; HEADER] {
    assert!(length <= MAX_DATAGRAM, "a datagram that is too long is dropped before");
    u16::try_from(length).expect("at most MAX_DATAGRAM").to_le_bytes()
}

/// A length that no datagram has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Puts the datagrams of a stream together again, whole, each by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Deframer {
    bytes: Vec<u8>,
    /// Those of `bytes` that were given out.
    used: usize,
}

impl Deframer {
    /// More of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..core::mem::take(&mut self.used));
        self.bytes.extend_from_slice(bytes);
    }

    /// The next datagram, if all of it is there.
    ///
    /// # Errors
    /// Its length is above [`MAX_DATAGRAM`]; so it stays.
    // PROTOCOL.md: P-UDP-2.
    pub fn pop(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let rest = &self.bytes[self.used..];
        let Some((&header, rest)) = rest.split_first_chunk::<HEADER>() else {
            self.tidy();
            return Ok(None);
        };
        let length = usize::from(u16::from_le_bytes(header));
        if length > MAX_DATAGRAM {
            return Err(TooLong);
        }
        if rest.len() < length && !crate::canary::planted(crate::canary::PlantedBug::StumpDelivered) {
            return Ok(None);
        }
        let from = self.used + HEADER;
        let end = (from + length).min(self.bytes.len());
        self.used = end;
        Ok(Some(&self.bytes[from..end]))
    }

    /// Whether nothing of a datagram is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == self.bytes.len()
    }

    fn tidy(&mut self) {
        if self.is_empty() && self.bytes.capacity() > KEPT {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn stream(datagrams: &[Vec<u8>]) -> Vec<u8> {
        datagrams
            .iter()
            .flat_map(|datagram| frame(datagram.len()).into_iter().chain(datagram.iter().copied()))
            .collect()
    }

    /// P-UDP-2: in whatever pieces a stream arrives, each datagram comes out whole and by itself, empty ones too.
    #[test]
    fn datagrams_come_out_as_they_went_in() {
        let datagrams =
            vec![vec![], vec![1], vec![], vec![2; 1000], vec![3; MAX_DATAGRAM], vec![4; 255], vec![5; 256], vec![]];
        let stream = stream(&datagrams);
        for piece in [1, 2, 3, 7, 1000, 65_536, stream.len()] {
            let (mut deframer, mut out) = (Deframer::default(), Vec::new());
            for bytes in stream.chunks(piece) {
                deframer.push(bytes);
                while let Some(datagram) = deframer.pop().unwrap() {
                    out.push(datagram.to_vec());
                }
            }
            assert!(out == datagrams && deframer.is_empty(), "in pieces of {piece}");
        }
    }

    /// P-UDP-2: a length that no datagram has is refused as soon as it is there, and again.
    #[test]
    fn a_length_that_no_datagram_has_is_refused() {
        for (length, good) in [(MAX_DATAGRAM, true), (MAX_DATAGRAM + 1, false), (65_535, false)] {
            let mut deframer = Deframer::default();
            deframer.push(&u16::try_from(length).unwrap().to_le_bytes());
            for _ in 0..2 {
                assert_eq!(deframer.pop(), if good { Ok(None) } else { Err(TooLong) }, "{length}");
            }
        }
    }
}
