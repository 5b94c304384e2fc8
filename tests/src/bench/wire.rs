//! What a visitor tells the service first: one small header that names the kind of visit.

const MAGIC: [u8; 4] = *b"CPB1";

/// Bytes of a [`Header`] on the wire.
pub(super) const HEADER_LEN: usize = 20;

/// Bytes of what stands in front of a header that was led here by a name: a request's head, or a ClientHello.
pub(super) const PREAMBLE_LEN: usize = 384;

/// Whether what begins with this byte is such a preamble.
pub(super) fn begins_preamble(byte: u8) -> bool {
    matches!(byte, b'G' | 0x16)
}

/// The kinds of visit the service knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Each message of `size` bytes is answered by one of `size` bytes, until the visitor closes.
    Echo = 1,
    /// The service sends `size` bytes and shuts its half; the visitor then closes.
    Down = 2,
    /// The visitor sends `size` bytes and shuts its half; the service answers with a [`RECEIPT`] and closes.
    Up = 3,
    /// [`Op::Down`] and [`Op::Up`] at once, without the receipt.
    Both = 4,
    /// Half-close, visitor first: `size` bytes up and a shut half, only then `size` bytes down and the end.
    VisitorShutsFirst = 5,
    /// Half-close, service first: `size` bytes down and a shut half, only then `size` bytes up and the end.
    ServiceShutsFirst = 6,
    /// The service answers with its [`Tally`] and closes. Not counted as a visit itself.
    Tally = 7,
    /// [`Op::Echo`] with one message, after whose answer the visitor resets.
    EchoThenReset = 8,
}

impl Op {
    /// Whether messages are answered.
    pub(super) fn echoes(self) -> bool {
        matches!(self, Self::Echo | Self::EchoThenReset)
    }
}

/// What the service answers once an upload has arrived complete and correct.
pub(super) const RECEIPT: &[u8; 8] = b"received";

/// The first bytes of every visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) op: Op,
    /// Selects the bytes that both directions of this visit carry.
    pub(super) seed: u32,
    /// Bytes per message or per direction, see [`Op`].
    pub(super) size: u64,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = self.op as u8;
        out[8..12].copy_from_slice(&self.seed.to_le_bytes());
        out[12..].copy_from_slice(&self.size.to_le_bytes());
        out
    }

    /// `None` if these bytes are no header: something else reached the service.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        if bytes[..4] != MAGIC || bytes[5..8] != [0; 3] {
            return None;
        }
        let op = match bytes[4] {
            1 => Op::Echo,
            2 => Op::Down,
            3 => Op::Up,
            4 => Op::Both,
            5 => Op::VisitorShutsFirst,
            6 => Op::ServiceShutsFirst,
            7 => Op::Tally,
            8 => Op::EchoThenReset,
            _ => return None,
        };
        let seed = u32::from_le_bytes(bytes[8..12].try_into().ok()?);
        let size = u64::from_le_bytes(bytes[12..].try_into().ok()?);
        Some(Self { op, seed, size })
    }
}

/// How the visits ended, as the service saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Visits whose header arrived.
    pub(super) begun: u64,
    /// Visits that brought every byte right and ended with a clean end-of-file where one belongs.
    pub(super) clean: u64,
    /// Visits that ended with a reset or another socket error.
    pub(super) reset: u64,
    /// Visits with wrong, missing or surplus bytes, or without a readable header.
    pub(super) wrong: u64,
}

/// Bytes of a [`Tally`] on the wire.
pub(super) const TALLY_LEN: usize = 32;

impl Tally {
    pub(super) fn encode(self) -> [u8; TALLY_LEN] {
        let mut out = [0; TALLY_LEN];
        for (slot, value) in out.chunks_exact_mut(8).zip([self.begun, self.clean, self.reset, self.wrong]) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8; TALLY_LEN]) -> Self {
        let field = |i: usize| u64::from_le_bytes(std::array::from_fn(|b| bytes[i * 8 + b]));
        Self { begun: field(0), clean: field(1), reset: field(2), wrong: field(3) }
    }

    /// Visits that are over.
    pub(super) fn ended(self) -> u64 {
        self.clean + self.reset + self.wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_tallies_survive_the_wire() {
        let header = Header { op: Op::ServiceShutsFirst, seed: 0xdead_beef, size: 1 << 40 };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        assert_eq!(Header::decode(b"GET / HTTP/1.1\r\nHost"), None);
        let tally = Tally { begun: 10, clean: 7, reset: 2, wrong: 1 };
        assert_eq!(Tally::decode(&tally.encode()), tally);
        assert_eq!(tally.ended(), tally.begun);
    }
}
