//! The path: datagrams of a session that go beside its conns, in packets of UDP that QUIC protects (PROTOCOL.md,
//! "Paths"). What QUIC does (keys, loss, rebinding, sizes) is the runtime's; here is whose a datagram is, which way it
//! goes, and whether the path still works.
//!
//! Invariants:
//! - W1 a datagram goes one way: by the path, or by its flow's conn;
//! - W2 what comes by the path is its flow's, and of no former flow of the same conn;
//! - W3 a path that leaves something unanswered for [`Pulse::PATIENCE`] is silent until it answers.

use crate::canary::{PlantedBug, planted};
use crate::ids::{ConnId, Epoch};
use crate::time::Instant;
use alloc::vec::Vec;
use core::time::Duration;
use postcard::experimental::serialized_size;

/// Bytes of two numbers, at most.
const FRONT: usize = 15;

/// A path, by a number that is never used twice in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u64);

/// What is known of a session's path where its datagrams begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PathState {
    /// There is none, or it is silent: datagrams go by conns.
    #[default]
    Down,
    /// It takes what is no longer than this now, in bytes, with what stands in front.
    Up {
        /// Bytes.
        size: usize,
    },
}

impl PathState {
    /// Whether a datagram of `length` bytes goes by it.
    // PROTOCOL.md: P-PATH-6.
    #[must_use]
    pub fn takes(self, conn: ConnId, epoch: Epoch, length: usize) -> bool {
        match self {
            Self::Down => false,
            Self::Up { size } => front_size(conn, epoch) + length <= size,
        }
    }
}

/// A datagram on the path: which flow's it is, and then its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathDatagram {
    /// The conn of its flow.
    pub conn: ConnId,
    /// Which of the transfers of this conn the flow is.
    pub epoch: Epoch,
    bytes: Vec<u8>,
    /// Of `bytes`, what stands in front.
    front: usize,
}

impl PathDatagram {
    /// A datagram of this flow.
    // PROTOCOL.md: P-PATH-5.
    #[must_use]
    pub fn new(conn: ConnId, epoch: Epoch, payload: &[u8]) -> Self {
        let mut numbers = [0; FRONT];
        let front = postcard::to_slice(&(conn, epoch), &mut numbers).expect("it has room for two numbers");
        Self { conn, epoch, bytes: [front, payload].concat(), front: front.len() }
    }

    /// What came by the path. `None`: it is no datagram of a flow.
    // PROTOCOL.md: P-PATH-5.
    #[must_use]
    pub fn decode(bytes: Vec<u8>) -> Option<Self> {
        let ((conn, epoch), rest) = postcard::take_from_bytes(&bytes).ok()?;
        let front = front_size(conn, epoch);
        // As in messages: no number is longer than it must be.
        (bytes.len() - rest.len() == front).then_some(Self { conn, epoch, bytes, front })
    }

    /// The flow's datagram.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.front..]
    }

    /// Bytes on the path.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it always says whose it is")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// As it stands on the path.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Bytes in front of a datagram of this flow.
fn front_size(conn: ConnId, epoch: Epoch) -> usize {
    serialized_size(&(conn, epoch)).expect("two numbers have a size")
}

/// Whether a path answers.
///
/// ```text
///            something was sent             PATIENCE without an answer
///   quiet ────────────────────▶ waiting ──────────────────────────────▶ silent
///     ▲                            │ asks twice in between                 │ asks again and again
///     └──────── an answer ─────────┴───────────────── an answer ───────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pulse {
    /// The first thing that was sent and not answered.
    since: Option<Instant>,
    /// How often it has asked since.
    asked: u32,
    silent: bool,
}

/// What is to be done about a path now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Nothing.
    Fine,
    /// Ask for a sign of life.
    Ask,
    /// It has become silent: what is sent from now on goes by conns. Ask, too.
    Silent,
}

impl Pulse {
    /// How long something may be unanswered on a line that is faster than that.
    // PROTOCOL.md: P-PATH-7.
    pub const PATIENCE: Duration = Duration::from_millis(450);
    /// How often a silent path is asked for a sign of life.
    pub const PROBE: Duration = Duration::from_secs(1);
    /// It is asked so often before it counts as silent.
    const ASKS: u32 = 2;

    /// Something was sent that is to be answered.
    pub fn on_sent(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// An answer has come. `true`: it was silent until now.
    pub fn on_answer(&mut self) -> bool {
        let Self { silent, .. } = core::mem::take(self);
        self.silent = silent && planted(PlantedBug::SilentForEver);
        silent
    }

    /// Whether it is silent.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// How long something may be unanswered where an answer takes `rtt`.
    fn patience(rtt: Duration) -> Duration {
        Self::PATIENCE.max(rtt.saturating_mul(2))
    }

    /// When to look at it next. `rtt`: how long an answer takes.
    #[must_use]
    pub fn next_deadline(&self, rtt: Duration) -> Option<Instant> {
        let since = self.since?;
        let patience = Self::patience(rtt);
        Some(match self.asked {
            asked @ 0..Self::ASKS => since + patience * (asked + 1) / (Self::ASKS + 1),
            Self::ASKS => since + patience,
            asked => since + patience + Self::PROBE * (asked - Self::ASKS),
        })
    }

    /// Looks at it.
    // PROTOCOL.md: P-PATH-7.
    pub fn on_deadline(&mut self, now: Instant, rtt: Duration) -> Beat {
        if self.next_deadline(rtt).is_none_or(|at| at > now) {
            return Beat::Fine;
        }
        self.asked = self.asked.saturating_add(1);
        if planted(PlantedBug::SilenceUnseen) {
            return Beat::Ask;
        }
        if self.asked <= Self::ASKS || core::mem::replace(&mut self.silent, true) { Beat::Ask } else { Beat::Silent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// P-PATH-5: what goes in comes out, and nothing else is taken for a datagram.
    #[test]
    fn a_datagram_says_whose_it_is() {
        for (conn, epoch, front) in [(0, 0, 2), (1, 1, 2), (127, 128, 3), (300, 70_000, 5), (u64::MAX, u32::MAX, 15)] {
            for length in [0, 1, 1200] {
                let payload = vec![7; length];
                let datagram = PathDatagram::new(ConnId(conn), Epoch(epoch), &payload);
                assert_eq!((datagram.payload(), datagram.front), (&payload[..], front));
                let bytes = datagram.clone().into_bytes();
                assert_eq!(bytes.len(), front_size(ConnId(conn), Epoch(epoch)) + length);
                assert_eq!(PathDatagram::decode(bytes), Some(datagram));
            }
        }
        for none in [&[][..], &[1], &[0x80], &[0x80, 0, 1], &[1, 0xff, 0xff, 0xff, 0xff, 0x1f], &[0xff; 12]] {
            assert_eq!(PathDatagram::decode(none.to_vec()), None, "{none:?}");
        }
    }

    /// P-PATH-6, W1.
    #[test]
    fn what_is_too_long_for_the_path_goes_by_the_conn() {
        let (conn, epoch) = (ConnId(200), Epoch(3));
        for (size, length, takes) in [(1200, 1197, true), (1200, 1198, false), (3, 0, true), (2, 0, false)] {
            assert_eq!(PathState::Up { size }.takes(conn, epoch, length), takes, "{length} of {size}");
        }
        assert!(!PathState::Down.takes(conn, epoch, 0));
    }

    /// P-PATH-7, W3.
    #[test]
    fn a_path_that_does_not_answer_is_silent_within_its_patience_and_asked_until_it_does() {
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        for (rtt, asks, silent) in [(1, [150, 300], 450), (300, [200, 400], 600)] {
            let rtt = Duration::from_millis(rtt);
            let mut pulse = Pulse::default();
            assert_eq!((pulse.next_deadline(rtt), pulse.on_deadline(at(9), rtt)), (None, Beat::Fine));
            pulse.on_sent(at(0));
            pulse.on_sent(at(100));
            for millis in asks {
                assert_eq!(pulse.next_deadline(rtt), Some(at(millis)));
                assert_eq!(pulse.on_deadline(at(millis - 1), rtt), Beat::Fine);
                assert_eq!(pulse.on_deadline(at(millis), rtt), Beat::Ask);
            }
            assert!(!pulse.is_silent());
            assert_eq!(pulse.on_deadline(at(silent), rtt), Beat::Silent);
            for more in 1..4 {
                assert!(pulse.is_silent());
                assert_eq!(pulse.on_deadline(at(silent + 1000 * more - 1), rtt), Beat::Fine);
                assert_eq!(pulse.on_deadline(at(silent + 1000 * more), rtt), Beat::Ask);
            }
            assert!(pulse.on_answer() && !pulse.is_silent());
            assert_eq!(pulse.next_deadline(rtt), None);
            assert!(!pulse.on_answer());
        }
    }
}
