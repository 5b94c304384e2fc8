//! A Transfer: its number and its two halves, counted byte by byte and blind to the bytes (PROTOCOL.md, "Ends").
//!
//! The runtime asks a half for a [`Budget`], moves bytes, and reports counts. `taken - forwarded` is exactly what it
//! holds on the way, in a pipe or a buffer. Client and server follow the same rules here; what differs between them is
//! in [`conn`](crate::conn).

mod egress;
mod end;
mod half;
mod ingress;
mod linger;

pub use egress::{Egress, FIRST_BYTES};
pub use end::{Fin, How, PeerEnd};
pub use half::{Budget, Half};
pub use ingress::Ingress;
pub use linger::Linger;

use crate::canary::{PlantedBug, planted};
use crate::codes::Violation;
use crate::ids::Epoch;
use crate::visit::Way;

/// One transfer, as either side counts it.
///
/// ```text
///            one half is over          both are over for the outer socket       every byte is in the proxy_conn
///   flowing ──────────────────▶ half-open ────────────────────────▶ outer closed ─────────────────▶ through
/// ```
/// Invariants:
/// - T1 a message about an earlier transfer changes nothing, one about a later transfer is a violation;
/// - T2 the outer socket's write half is shut once, when every byte of the ingress is in it;
/// - T3 the outer socket is closed when its own stream has ended and its write half is shut;
/// - T4 the transfer is through when, besides, every byte of the egress is in the proxy_conn;
/// - T5 an outer socket that is lost ends the egress as a reset, behind all that could still be read of it, and what
///   still comes for it is dropped;
/// - T6 nothing more is taken from an outer socket once the peer's is known to be reset;
/// - T7 an outer socket that takes nothing more, and lives, ends as it would without that; what comes for it behind its
///   end finds nobody, which is a reset behind that end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transfer {
    epoch: Epoch,
    /// From the outer socket into the proxy_conn.
    pub egress: Egress,
    /// From the proxy_conn to the outer socket.
    pub ingress: Ingress,
    /// A call that does not read has taken the outer socket's error: a clean end of its stream is not to be believed.
    error_taken: bool,
}

/// What must be done to the outer socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterDuty {
    /// Shut its write half, and tell [`Ingress::on_shut`].
    ShutWrite,
    /// Reset it as soon as its kernel has nothing unacknowledged ([`Linger`]), and tell [`Ingress::on_reset`].
    Reset,
    /// Close it: both its directions are over. Tell [`Ingress::on_sink_lost`].
    Close,
    /// It is lost, and all that could be read of it is taken.
    Drop,
}

/// Ends that are to be announced on another conn.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    fin: Option<Fin>,
    behind: Option<Fin>,
}

impl Untold {
    /// What to announce, in this order.
    pub fn fins(self) -> impl Iterator<Item = Fin> {
        self.fin.into_iter().chain(self.behind)
    }
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
        Self { epoch, egress: Egress::default(), ingress: Ingress::default(), error_taken: false }
    }

    /// The same visitor's transfer on another conn: what was taken goes out once more, and nothing has come back.
    pub(crate) fn again(&self, epoch: Epoch) -> Self {
        Self { epoch, egress: self.egress.again(), ingress: self.ingress.again(), error_taken: self.error_taken }
    }

    /// The ends of its egress: on another conn they are announced once more.
    pub(crate) fn untold(&self) -> Untold {
        let (fin, behind) = self.egress.told();
        Untold { fin, behind }
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
    /// For a transfer not yet started, a `Fin` too many, or a total below what was received.
    pub fn on_fin(&mut self, epoch: Epoch, fin: Fin) -> Result<Heard, Violation> {
        match self.compare_epoch(epoch)? {
            Heard::Current => self.ingress.on_fin(fin).map(|()| Heard::Current),
            Heard::Stale => Ok(Heard::Stale),
        }
    }

    /// The outer socket's stream has ended in this manner. Returns what to announce.
    // PROTOCOL.md: P-FIN-9.
    pub fn on_source_end(&mut self, how: How) -> Fin {
        let how = if self.error_taken { How::Reset } else { how };
        if how == How::Reset {
            self.ingress.on_sink_lost();
        }
        self.egress.on_source_end(how)
    }

    /// The outer socket has failed. `error_taken`: a write, or whatever else does not read, was told so. The system keeps
    /// one error: a reader would see a clean end now (T5). Returns what to announce, if the stream has ended before.
    // PROTOCOL.md: P-FIN-8, P-FIN-11.
    #[must_use]
    pub fn on_outer_lost(&mut self, error_taken: bool) -> Option<Fin> {
        self.error_taken |= error_taken;
        self.ingress.on_sink_lost();
        if self.egress.ended() { self.egress.on_reset_behind() } else { None }
    }

    /// The outer socket takes nothing more, and has not failed: its own stream goes on (T7).
    // PROTOCOL.md: P-FIN-15.
    pub fn on_outer_lives(&mut self) {
        self.ingress.on_sink_lives();
    }

    /// Bytes came that are dropped. Returns what to announce, if they are the first behind the end of an outer socket (T7).
    // PROTOCOL.md: P-FIN-15.
    #[must_use]
    pub fn on_dropped(&mut self) -> Option<Fin> {
        if self.egress.ended() { self.egress.on_reset_behind() } else { None }
    }

    /// Ends the egress if the peer's outer socket is reset (T6). Returns what to announce.
    // PROTOCOL.md: P-FIN-12.
    #[must_use]
    pub fn end_for_peer(&mut self) -> Option<Fin> {
        self.ingress.peer_is_reset().then(|| self.end_egress()).flatten()
    }

    /// Nothing more is taken from the outer socket. Returns what to announce, unless an end was announced before.
    #[must_use]
    pub fn end_egress(&mut self) -> Option<Fin> {
        (!self.egress.ended()).then(|| self.egress.on_source_end(How::Reset))
    }

    /// What must be done to the outer socket now, if it is there (T2, T3, T5).
    #[must_use]
    pub fn outer_duty(&self) -> Option<OuterDuty> {
        let ended = self.egress.ended() || planted(PlantedBug::OuterClosedEarly);
        match self.ingress.due() {
            Some(How::Shut) => Some(OuterDuty::ShutWrite),
            Some(How::Reset) => Some(OuterDuty::Reset),
            None if ended && self.ingress.drops() => Some(OuterDuty::Drop),
            None if ended && self.ingress.through() => Some(OuterDuty::Close),
            None => None,
        }
    }

    /// Whether one direction is over: the other must make progress.
    #[must_use]
    pub fn is_half_open(&self) -> bool {
        self.egress.ended() || self.ingress.through() || self.ingress.is_lost()
    }

    /// Whether both halves are through here (T4).
    // PROTOCOL.md: P-FIN-14.
    #[must_use]
    pub fn through(&self) -> bool {
        self.egress.through() && self.ingress.through()
    }

    /// What the outer socket has given and was given, and how each ended: of the egress, then of the ingress.
    #[must_use]
    pub fn ways(&self) -> [Way; 2] {
        [self.egress.way(), self.ingress.way()]
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

    fn shut(total: u64) -> Fin {
        Fin { total, how: How::Shut }
    }

    fn reset(total: u64) -> Fin {
        Fin { total, how: How::Reset }
    }

    fn new() -> Transfer {
        Transfer::new(Epoch(2))
    }

    fn hear(transfer: &mut Transfer, fin: Fin) {
        assert_eq!(transfer.on_fin(Epoch(2), fin), Ok(Heard::Current));
    }

    #[test]
    fn t1_only_messages_about_this_transfer_are_taken_in() {
        let mut transfer = new();
        assert_eq!(transfer.on_fin(Epoch(1), shut(7)), Ok(Heard::Stale));
        assert!(!transfer.ingress.capped());
        assert_eq!(transfer.on_fin(Epoch(3), shut(7)), Err(Violation::FutureEpoch));
        hear(&mut transfer, shut(7));
        assert!(transfer.ingress.capped());
    }

    #[test]
    fn t2_the_outer_socket_is_shut_once() {
        let mut transfer = new();
        hear(&mut transfer, shut(1));
        assert_eq!(transfer.outer_duty(), None);
        transfer.ingress.on_taken(1);
        transfer.ingress.on_forwarded(1);
        assert_eq!(transfer.outer_duty(), Some(OuterDuty::ShutWrite));
        transfer.ingress.on_shut();
        assert_eq!(transfer.outer_duty(), None);
    }

    #[test]
    fn t3_t4_the_outer_socket_may_be_closed_before_the_transfer_is_through() {
        let mut transfer = new();
        transfer.egress.on_taken(3);
        assert_eq!(transfer.on_source_end(How::Shut), shut(3));
        assert!(transfer.is_half_open() && transfer.outer_duty().is_none());
        hear(&mut transfer, shut(0));
        transfer.ingress.on_shut();
        assert_eq!(transfer.outer_duty(), Some(OuterDuty::Close));
        assert!(!transfer.through());
        transfer.egress.on_forwarded(3);
        assert!(transfer.through());
        assert_eq!(transfer.moved(), 3);
    }

    #[test]
    fn t5_a_failed_write_says_nothing_about_what_can_still_be_read() {
        let mut transfer = new();
        transfer.ingress.on_taken(9);
        transfer.ingress.on_forwarded(4);
        assert_eq!(transfer.on_outer_lost(true), None);
        assert_eq!(transfer.egress.budget(5).take, 5, "what came before the reset");
        transfer.egress.on_taken(5);
        // The failed write took the error: the reader sees a clean end.
        assert_eq!(transfer.on_source_end(How::Shut), reset(5));
        assert_eq!(transfer.outer_duty(), Some(OuterDuty::Drop));
        transfer.egress.on_forwarded(5);
        hear(&mut transfer, reset(12));
        assert!(!transfer.through());
        transfer.ingress.on_taken(3);
        assert!(transfer.through());
    }

    #[test]
    fn t5_an_error_that_only_a_read_will_take_leaves_the_end_as_it_was() {
        let mut transfer = new();
        assert_eq!(transfer.on_outer_lost(false), None);
        transfer.egress.on_taken(1);
        assert_eq!(transfer.on_source_end(How::Shut), shut(1));
        assert_eq!(transfer.on_outer_lost(false), Some(reset(1)));
    }

    #[test]
    fn t5_a_socket_that_is_lost_behind_its_end_is_announced_as_well() {
        let mut transfer = new();
        assert_eq!(transfer.on_source_end(How::Shut), shut(0));
        assert_eq!(transfer.on_outer_lost(true), Some(reset(0)));
        assert_eq!(transfer.on_outer_lost(true), None);
        assert_eq!(transfer.outer_duty(), Some(OuterDuty::Drop));
    }

    /// P-FIN-15.
    #[test]
    fn t7_a_socket_that_takes_nothing_more_goes_on_to_its_own_end() {
        let mut transfer = new();
        transfer.ingress.on_taken(9);
        transfer.ingress.on_forwarded(4);
        assert_eq!(transfer.on_outer_lost(false), None);
        transfer.on_outer_lives();
        transfer.ingress.on_taken(1);
        assert_eq!(transfer.on_dropped(), None, "it speaks");
        assert!(transfer.ingress.drops() && !transfer.is_half_open() && transfer.outer_duty().is_none());
        transfer.egress.on_taken(5);
        assert_eq!(transfer.on_source_end(How::Shut), shut(5));
        assert_eq!(transfer.outer_duty(), Some(OuterDuty::Drop));
        transfer.egress.on_forwarded(5);
        hear(&mut transfer, shut(10));
        assert!(transfer.through(), "all is accounted for");
        assert_eq!(transfer.ways()[1].bytes, 4, "what it was given");
    }

    /// P-FIN-15, P-FIN-11.
    #[test]
    fn t7_what_comes_behind_the_end_of_such_a_socket_is_told_once_that_nobody_is_there() {
        let mut transfer = new();
        assert_eq!(transfer.on_outer_lost(false), None);
        transfer.on_outer_lives();
        assert_eq!(transfer.on_source_end(How::Shut), shut(0));
        for told in [Some(reset(0)), None] {
            transfer.ingress.on_taken(1);
            assert_eq!(transfer.on_dropped(), told);
        }
    }

    #[test]
    fn t7_such_a_socket_may_still_fail() {
        let mut transfer = new();
        assert_eq!(transfer.on_outer_lost(false), None);
        transfer.on_outer_lives();
        assert_eq!(transfer.on_source_end(How::Reset), reset(0));
        assert!(transfer.is_half_open());
        transfer.ingress.on_taken(1);
        assert_eq!(transfer.on_dropped(), None, "that was told");
    }

    #[test]
    fn t6_a_reset_of_the_peers_socket_ends_the_own_half() {
        let mut transfer = new();
        transfer.egress.on_taken(2);
        assert_eq!(transfer.end_for_peer(), None);
        hear(&mut transfer, reset(1));
        assert_eq!(transfer.end_for_peer(), Some(reset(2)));
        assert_eq!(transfer.end_for_peer(), None);
        assert_eq!(transfer.outer_duty(), None, "a byte is still to be delivered");
        transfer.ingress.on_taken(1);
        transfer.ingress.on_forwarded(1);
        assert_eq!(transfer.outer_duty(), Some(OuterDuty::Reset));
        transfer.ingress.on_reset();
        transfer.egress.on_forwarded(2);
        assert!(transfer.through());
    }
}
