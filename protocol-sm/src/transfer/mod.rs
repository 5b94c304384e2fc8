//! A Transfer: its number and its two halves, counted byte by byte and blind to the bytes (PROTOCOL.md, "Half-close").
//!
//! The runtime asks a half for a [`Budget`], moves bytes, and reports counts. `taken - forwarded` is exactly what it
//! holds on the way, in a pipe or a buffer. Client and server follow the same rules here; what differs between them is
//! in [`conn`](crate::conn).

mod egress;
mod half;
mod ingress;

pub use egress::Egress;
pub use half::{Budget, Half};
pub use ingress::Ingress;

use crate::canary::{PlantedBug, planted};
use crate::codes::Violation;
use crate::ids::Epoch;

/// One transfer, as either side counts it.
///
/// ```text
///            one half is over          both are over for the outer socket       every byte is in the proxy_conn
///   flowing ──────────────────▶ half-open ────────────────────────▶ outer through ─────────────────▶ through
/// ```
/// Invariants:
/// - T1 a message about an earlier transfer changes nothing, one about a later transfer is a violation;
/// - T2 the outer socket's write half is shut once, when every byte of the ingress is in it;
/// - T3 the outer socket is closed when its own stream has ended and its write half is shut;
/// - T4 the transfer is through when, besides, every byte of the egress is in the proxy_conn.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transfer {
    epoch: Epoch,
    /// From the outer socket into the proxy_conn.
    pub egress: Egress,
    /// From the proxy_conn to the outer socket.
    pub ingress: Ingress,
}

/// What a message about a transfer meant.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was taken in.
    Current,
    /// It is about an earlier transfer of this conn: counted and ignored.
    Stale,
}

impl Transfer {
    /// A transfer that has moved nothing yet.
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self { epoch, egress: Egress::default(), ingress: Ingress::default() }
    }

    /// Its number.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Which transfer of this conn a message about `epoch` is about (T1).
    ///
    /// # Errors
    /// [`Violation::FutureEpoch`] for a transfer not yet started.
    pub fn compare_epoch(&self, epoch: Epoch) -> Result<Heard, Violation> {
        match epoch.cmp(&self.epoch) {
            core::cmp::Ordering::Less => Ok(Heard::Stale),
            core::cmp::Ordering::Equal => Ok(Heard::Current),
            core::cmp::Ordering::Greater => Err(Violation::FutureEpoch),
        }
    }

    /// `Fin` came on the ctl_conn.
    ///
    /// # Errors
    /// For a transfer not yet started, a second `Fin`, or a total below what was received.
    pub fn on_fin(&mut self, epoch: Epoch, total: u64) -> Result<Heard, Violation> {
        match self.compare_epoch(epoch)? {
            Heard::Current => self.ingress.on_fin(total).map(|()| Heard::Current),
            Heard::Stale => Ok(Heard::Stale),
        }
    }

    /// Nothing more is taken from the outer socket. Returns the total to announce, unless it was announced before.
    #[must_use]
    pub fn end_egress(&mut self) -> Option<u64> {
        (!self.egress.ended()).then(|| self.egress.on_source_eof())
    }

    /// Whether the outer socket's write half must be shut now; it is taken for shut from then on (T2).
    #[must_use]
    pub fn shut_outer(&mut self) -> bool {
        let due = self.ingress.shutdown_due();
        if due {
            self.ingress.on_shutdown();
        }
        due
    }

    /// Whether the outer socket has nothing more to do: both its directions are shut (T3).
    #[must_use]
    pub fn outer_is_through(&self) -> bool {
        if planted(PlantedBug::OuterClosedEarly) {
            return self.ingress.through();
        }
        self.egress.ended() && self.ingress.through()
    }

    /// Whether one direction is over: the other must make progress.
    #[must_use]
    pub fn is_half_open(&self) -> bool {
        self.egress.ended() || self.ingress.through()
    }

    /// Whether both halves are through here (T4).
    #[must_use]
    pub fn through(&self) -> bool {
        self.egress.through() && self.ingress.through()
    }

    /// Bytes forwarded so far, in both directions.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.egress.forwarded() + self.ingress.forwarded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t1_only_messages_about_this_transfer_are_taken_in() {
        let mut transfer = Transfer::new(Epoch(2));
        assert_eq!(transfer.on_fin(Epoch(1), 7), Ok(Heard::Stale));
        assert!(!transfer.ingress.capped());
        assert_eq!(transfer.on_fin(Epoch(3), 7), Err(Violation::FutureEpoch));
        assert_eq!(transfer.on_fin(Epoch(2), 7), Ok(Heard::Current));
        assert!(transfer.ingress.capped());
    }

    #[test]
    fn t2_the_outer_socket_is_shut_once() {
        let mut transfer = Transfer::new(Epoch(1));
        assert_eq!(transfer.on_fin(Epoch(1), 1), Ok(Heard::Current));
        assert!(!transfer.shut_outer());
        transfer.ingress.on_taken(1);
        transfer.ingress.on_forwarded(1);
        assert!(transfer.shut_outer());
        assert!(!transfer.shut_outer());
    }

    #[test]
    fn t3_t4_the_outer_socket_may_be_through_before_the_transfer() {
        let mut transfer = Transfer::new(Epoch(1));
        transfer.egress.on_taken(3);
        assert_eq!(transfer.egress.on_source_eof(), 3);
        assert!(transfer.is_half_open() && !transfer.outer_is_through());
        assert_eq!(transfer.on_fin(Epoch(1), 0), Ok(Heard::Current));
        assert!(transfer.shut_outer());
        assert!(transfer.outer_is_through() && !transfer.through());
        transfer.egress.on_forwarded(3);
        assert!(transfer.through());
        assert_eq!(transfer.moved(), 3);
    }
}
