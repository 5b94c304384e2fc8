//! Frames: a two-byte little-endian length, then one postcard-encoded message (PROTOCOL.md, "Frames").
//!
//! Decoding is incremental and takes from the input only the bytes of whole frames it returns, plus a
//! partial one that it keeps: what follows a `Start` in the same read stays with the caller, as payload.

use crate::sent::{Label, sent};
use alloc::vec::Vec;
use core::marker::PhantomData;
use postcard::experimental::serialized_size;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of the length that precedes each message.
pub const FRAME_HEADER: usize = 2;

/// A message that travels in a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// The longest encoding, in bytes, without the frame's header. Longer frames are refused unread.
    const MAX: usize;

    /// What it is, without its fields.
    fn label(&self) -> Label;

    /// Encodes `self` as one frame at the start of `out` and returns the frame's length.
    ///
    /// # Panics
    /// If `out` is shorter than `FRAME_HEADER + MAX`: the caller's misuse.
    // PROTOCOL.md: P-FRAME-1, P-ENC-1.
    fn encode(&self, out: &mut [u8]) -> usize {
        assert!(out.len() >= FRAME_HEADER + Self::MAX, "frame buffer too short");
        sent(self.label());
        let (header, body) = out.split_at_mut(FRAME_HEADER);
        let written = postcard::to_slice(self, &mut body[..Self::MAX])
            .expect("every message fits its MAX: strings are bounded by their constructors")
            .len();
        let length = u16::try_from(written).expect("MAX is below 64 KiB");
        header.copy_from_slice(&length.to_le_bytes());
        FRAME_HEADER + written
    }

    /// Appends `self` as one frame to `out`.
    fn encode_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + FRAME_HEADER + Self::MAX, 0);
        let length = self.encode(&mut out[start..]);
        out.truncate(start + length);
    }

    /// Decodes the body of one frame.
    ///
    /// # Errors
    /// [`WireError::Malformed`] if `body` is not exactly one message in its only encoding.
    // PROTOCOL.md: P-FRAME-3, P-ENC-2, P-ENC-3, P-EVO-1.
    fn decode(body: &[u8]) -> Result<Self, WireError> {
        match postcard::take_from_bytes(body) {
            // Postcard takes overlong varints. Without them a message has one encoding, the shortest, so
            // that the bytes that a proof covers are the bytes that were sent.
            Ok((message, [])) if serialized_size(&message) == Ok(body.len()) => Ok(message),
            Ok(_) | Err(_) => Err(WireError::Malformed),
        }
    }
}

/// Why bytes are not messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireError {
    /// A length of zero or above the message type's maximum.
    Length,
    /// A body that is not exactly one message.
    Malformed,
    /// A preface that is not ours.
    NotCproxy,
    /// Not a preface, but the TLS handshake of one of our clients.
    Tls,
}

/// Cuts a byte stream into messages of type `M`. Allocates only while a frame is incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Framer<M> {
    partial: Vec<u8>,
    message: PhantomData<fn() -> M>,
}

impl<M> Default for Framer<M> {
    fn default() -> Self {
        Self { partial: Vec::new(), message: PhantomData }
    }
}

impl<M: Message> Framer<M> {
    /// Takes the next whole message off the front of `input`. `Ok(None)`: all of `input` was taken and
    /// more is needed.
    ///
    /// # Errors
    /// A frame that is too long, empty, or no message. The stream cannot be read any further.
    // PROTOCOL.md: P-FRAME-4.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<M>, WireError> {
        if self.partial.is_empty()
            && let Some(total) = frame_len::<M>(input)?
            && input.len() >= total
        {
            let (frame, rest) = input.split_at(total);
            *input = rest;
            return M::decode(&frame[FRAME_HEADER..]).map(Some);
        }
        while !input.is_empty() {
            let want = frame_len::<M>(&self.partial)?.unwrap_or(FRAME_HEADER);
            let take = (want - self.partial.len()).min(input.len());
            let (now, rest) = input.split_at(take);
            self.partial.extend_from_slice(now);
            *input = rest;
            if frame_len::<M>(&self.partial)? == Some(self.partial.len()) {
                let message = M::decode(&self.partial[FRAME_HEADER..]);
                self.partial = Vec::new();
                return message.map(Some);
            }
        }
        Ok(None)
    }

    /// Whether no partial frame is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }
}

/// The whole length of the frame that `bytes` starts, once its header is there.
// PROTOCOL.md: P-FRAME-2.
fn frame_len<M: Message>(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    match bytes {
        [low, high, ..] => {
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            if length == 0 || length > M::MAX {
                return Err(WireError::Length);
            }
            Ok(Some(FRAME_HEADER + length))
        }
        [] | [_] => Ok(None),
    }
}
