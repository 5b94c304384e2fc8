//! Numbered, acknowledged messages that survive the loss of a ctl_conn (PROTOCOL.md, "Sessions").
//!
//! One of these on each side of a session. It keeps what the peer has not acknowledged, so that a
//! resumed ctl_conn can replay it, and drops what it has already seen. It knows nothing of what the
//! messages mean.
//!
//! Invariants:
//! - S1 every message is delivered exactly once, in order, however often the ctl_conn breaks;
//! - S2 `acked <= sent`, and `unacked` holds exactly the messages `acked+1 ..= sent`.

use crate::canary::{PlantedBug, planted};
use crate::codes::Violation;
use alloc::collections::VecDeque;

/// The numbered messages of a session: ours (`M`) not yet acknowledged, and how many of the peer's came.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NumberedMessages<M> {
    unacked: VecDeque<M>,
    /// Messages that may be in `unacked`.
    max_unacked: usize,
    acked: u64,
    received: u64,
    /// `received` as the peer was last told.
    told: u64,
}

/// What to do with a numbered message that came.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// New: act on it. Where `ack` is set, acknowledge now: the peer holds many.
    Deliver {
        /// Whether an `Ack` is due.
        ack: bool,
    },
    /// A replay of something seen: ignore it.
    Duplicate,
}

impl<M> Default for NumberedMessages<M> {
    fn default() -> Self {
        Self::bounded(Self::MAX_UNACKED)
    }
}

impl<M> NumberedMessages<M> {
    /// Unacknowledged messages that may pile up, if nobody says less.
    pub const MAX_UNACKED: usize = 1 << 18;
    /// An acknowledgement goes out after this many messages without one.
    pub const ACK_EVERY: u64 = 64;

    /// Those of a session in which `max_unacked` may pile up without an acknowledgement. An honest peer acknowledges
    /// every [`NumberedMessages::ACK_EVERY`], and while there is no ctl_conn each proxy_conn can cause only a few.
    #[must_use]
    pub fn bounded(max_unacked: usize) -> Self {
        Self { unacked: VecDeque::new(), max_unacked, acked: 0, received: 0, told: 0 }
    }

    /// At least `max_unacked` may pile up from now on. A bound is never lowered: what has piled up would exceed it.
    pub fn bear(&mut self, max_unacked: usize) {
        self.max_unacked = self.max_unacked.max(max_unacked);
    }

    /// Messages that may pile up.
    #[must_use]
    pub fn max_unacked(&self) -> usize {
        self.max_unacked
    }

    /// Takes a message to send and returns its number. The caller writes it to the ctl_conn, if there
    /// is one; if not, the replay will.
    ///
    /// # Errors
    /// [`Violation::Unacknowledged`]: the peer acknowledges nothing.
    // PROTOCOL.md: P-SESS-1, P-SESS-5, P-SESS-7.
    pub fn send(&mut self, msg: M) -> Result<u64, Violation> {
        if self.unacked.len() >= self.max_unacked {
            return Err(Violation::Unacknowledged);
        }
        self.unacked.push_back(msg);
        Ok(self.sent())
    }

    /// The number of the last message sent; 0 before the first.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.acked + self.unacked.len() as u64
    }

    /// The number of the last message received; 0 before the first. Goes into the next unnumbered
    /// message: call [`NumberedMessages::mark_acked`] for that.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// `received`, noted as told to the peer.
    pub fn mark_acked(&mut self) -> u64 {
        self.told = self.received;
        self.received
    }

    /// Messages that the peer has not acknowledged.
    #[must_use]
    pub fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// A numbered message came.
    ///
    /// # Errors
    /// [`Violation::Sequence`] if a number was skipped.
    // PROTOCOL.md: P-SESS-2, P-SESS-3, P-SESS-6.
    pub fn on_numbered(&mut self, seq: u64) -> Result<Delivery, Violation> {
        if seq == 0 || seq > self.received + 1 {
            return Err(Violation::Sequence);
        }
        if seq <= self.received {
            return Ok(Delivery::Duplicate);
        }
        self.received = seq;
        Ok(Delivery::Deliver { ack: self.received - self.told >= Self::ACK_EVERY })
    }

    /// The peer says that it has received everything up to `received`.
    ///
    /// # Errors
    /// [`Violation::Sequence`] if that was never sent, or takes back an earlier acknowledgement.
    // PROTOCOL.md: P-SESS-4.
    pub fn on_ack(&mut self, received: u64) -> Result<(), Violation> {
        if received < self.acked || received > self.sent() {
            return Err(Violation::Sequence);
        }
        let received = (received + u64::from(planted(PlantedBug::AckedTooMuch))).min(self.sent());
        while self.acked < received {
            self.unacked.pop_front();
            self.acked += 1;
        }
        Ok(())
    }

    /// What to write, with its numbers, to a resumed ctl_conn after [`NumberedMessages::on_ack`] with what the
    /// peer said it has.
    // PROTOCOL.md: P-RES-3.
    pub fn replay(&self) -> impl Iterator<Item = (u64, &M)> {
        let left_out = usize::from(planted(PlantedBug::ReplayDropped));
        (self.acked + 1..).zip(self.unacked.iter()).skip(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn s1_a_replay_closes_exactly_the_gap() {
        let mut ours = NumberedMessages::default();
        let mut theirs = NumberedMessages::<char>::default();
        for msg in ['a', 'b', 'c'] {
            ours.send(msg).unwrap();
        }
        // Only 'a' and 'b' arrive before the ctl_conn breaks.
        assert_eq!(theirs.on_numbered(1), Ok(Delivery::Deliver { ack: false }));
        assert_eq!(theirs.on_numbered(2), Ok(Delivery::Deliver { ack: false }));
        ours.on_ack(theirs.mark_acked()).unwrap();
        assert_eq!(ours.replay().collect::<Vec<_>>(), [(3, &'c')]);
        assert_eq!(theirs.on_numbered(2), Ok(Delivery::Duplicate));
        assert_eq!(theirs.on_numbered(3), Ok(Delivery::Deliver { ack: false }));
    }

    #[test]
    fn s2_lies_about_numbers_are_violations() {
        let mut session = NumberedMessages::default();
        session.send('a').unwrap();
        assert_eq!(session.on_ack(2), Err(Violation::Sequence));
        session.on_ack(1).unwrap();
        assert_eq!(session.on_ack(0), Err(Violation::Sequence));
        assert_eq!(session.on_numbered(2), Err(Violation::Sequence));
        assert_eq!(session.on_numbered(0), Err(Violation::Sequence));
    }

    #[test]
    fn acknowledgements_fall_due_by_count() {
        let mut session = NumberedMessages::<()>::default();
        for seq in 1..NumberedMessages::<()>::ACK_EVERY {
            assert_eq!(session.on_numbered(seq), Ok(Delivery::Deliver { ack: false }));
        }
        let last = session.on_numbered(NumberedMessages::<()>::ACK_EVERY);
        assert_eq!(last, Ok(Delivery::Deliver { ack: true }));
        session.mark_acked();
        let next = session.on_numbered(NumberedMessages::<()>::ACK_EVERY + 1);
        assert_eq!(next, Ok(Delivery::Deliver { ack: false }));
    }
}
