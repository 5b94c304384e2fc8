//! A ctl_conn's socket: whole messages in, a bounded queue of messages out.

use super::relay::Endpoint;
use super::sys::Streams;
use crate::sys_error::SysError;
use crate::wire::{Framer, Message};
use alloc::vec::Vec;

/// See the module. `In` is what the peer sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CtlLink<T, In> {
    pub(crate) port: Endpoint<T>,
    pub(crate) framer: Framer<In>,
    out: Vec<u8>,
    sent: usize,
    /// Bytes that may wait to be sent: a peer that reads nothing for so long is given up.
    max_queued: usize,
}

impl<T, In> CtlLink<T, In> {
    /// Bytes that may wait to be sent beside numbered messages: handshakes, pings and acknowledgements.
    const MAX_OTHERS: usize = 64 << 10;
    /// The longest numbered message of a server, with its frame.
    const MESSAGE: usize = 48;

    pub(crate) fn new(port: Endpoint<T>) -> Self {
        Self { port, framer: Framer::default(), out: Vec::new(), sent: 0, max_queued: Self::MAX_OTHERS }
    }

    /// A session begins or goes on here, in which so many messages are unacknowledged, or may be: all of them may have to
    /// be sent at once.
    // PROTOCOL.md: P-LIM-1.
    pub(crate) fn on_session(&mut self, unacked: usize) {
        self.max_queued = unacked.saturating_mul(Self::MESSAGE).saturating_add(Self::MAX_OTHERS);
    }

    /// Queues bytes that are no message.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Queues a message.
    pub(crate) fn push(&mut self, message: &impl Message) {
        message.encode_to(&mut self.out);
    }

    /// Sends what is queued as far as the socket takes it.
    pub(crate) fn flush<S: Streams<Stream = T>>(&mut self, sys: &mut S) -> Result<(), SysError> {
        while self.sent < self.out.len() && self.port.writable {
            match sys.send(self.port.stream(), &self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(SysError::WouldBlock) => self.port.writable = false,
                Err(error) => return Err(error),
            }
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        } else if self.out.len() - self.sent > self.max_queued {
            return Err(SysError::Exhausted);
        } else if self.sent >= self.out.len() / 2 {
            // A queue that never runs empty must not keep what was sent.
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// Sends what it can and closes in good order.
    pub(crate) fn close<S: Streams<Stream = T>>(mut self, sys: &mut S) {
        // The peer may be gone already: then there is nobody to tell.
        let _ = self.flush(sys);
        sys.close(self.port.into_stream());
    }
}
