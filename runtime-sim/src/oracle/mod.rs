//! What must hold: each property by its name, and what a run has seen of the things that must happen sometimes.

mod books;
mod ends;
mod header;
mod sometimes;
mod streams;

pub(crate) use books::Books;
pub(crate) use ends::Ends;
pub use sometimes::{Coverage, Sometimes};
pub use streams::{Finding, Side, StreamId, Streams};

use protocol_sm::time::Instant;
use std::fmt;

/// What kind of promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something happened that never may.
    Safety,
    /// Something that must happen did not, although the faults had stopped.
    Liveness,
    /// The code under test panicked.
    Crash,
}

/// The properties, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // their text says it
pub enum Property {
    PrefixDelivered,
    NothingLost,
    NothingInvented,
    NothingReordered,
    NoCrossTalk,
    CleanEndIsWhole,
    CleanEndWasSent,
    BeforeResetDelivered,
    AsDirect,
    OneServicePerVisitor,
    NoUnprovokedReset,
    ResetCostsNoConn,
    HonestPeersNeverViolate,
    EpochsGrow,
    StartOnlyToIdle,
    FinOnce,
    ShutOnce,
    NothingAfterShut,
    PipesEmptyAtRest,
    ChunksWhole,
    ClosedOnce,
    VisitorsAccountedFor,
    VisitsRecorded,
    VisitorsAreNamed,
    AnswersAreOurs,
    BandwidthKept,
    PortsAccountedFor,
    BooksAgree,
    StrangersHoldNothing,
    SilentPeersGivenUp,
    StrangersGetNothing,
    ScopesAreKept,
    CrowdsAreBounded,
    ReloadsSpareOthers,
    ClosedTakesNobody,
    TurnsAreShort,
    NoPanic,
    TransfersEnd,
    ClientsReturn,
    PortsListen,
    ProbesRoundTrip,
    PoolsAtTarget,
    DescriptorsAtBaseline,
    DrainEnds,
    OnlyFutureTimers,
    NoSpinning,
    DatagramsInPlace,
    PathsClosed,
    PathsReturn,
}

impl Property {
    /// All of them.
    pub const ALL: [Self; 49] = [
        Self::PrefixDelivered,
        Self::NothingLost,
        Self::NothingInvented,
        Self::NothingReordered,
        Self::NoCrossTalk,
        Self::CleanEndIsWhole,
        Self::CleanEndWasSent,
        Self::BeforeResetDelivered,
        Self::AsDirect,
        Self::OneServicePerVisitor,
        Self::NoUnprovokedReset,
        Self::ResetCostsNoConn,
        Self::HonestPeersNeverViolate,
        Self::EpochsGrow,
        Self::StartOnlyToIdle,
        Self::FinOnce,
        Self::ShutOnce,
        Self::NothingAfterShut,
        Self::PipesEmptyAtRest,
        Self::ChunksWhole,
        Self::ClosedOnce,
        Self::VisitorsAccountedFor,
        Self::VisitsRecorded,
        Self::VisitorsAreNamed,
        Self::AnswersAreOurs,
        Self::BandwidthKept,
        Self::PortsAccountedFor,
        Self::BooksAgree,
        Self::StrangersHoldNothing,
        Self::SilentPeersGivenUp,
        Self::StrangersGetNothing,
        Self::ScopesAreKept,
        Self::CrowdsAreBounded,
        Self::ReloadsSpareOthers,
        Self::ClosedTakesNobody,
        Self::TurnsAreShort,
        Self::NoPanic,
        Self::TransfersEnd,
        Self::ClientsReturn,
        Self::PortsListen,
        Self::ProbesRoundTrip,
        Self::PoolsAtTarget,
        Self::DescriptorsAtBaseline,
        Self::DrainEnds,
        Self::OnlyFutureTimers,
        Self::NoSpinning,
        Self::DatagramsInPlace,
        Self::PathsClosed,
        Self::PathsReturn,
    ];

    /// What it demands, in words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::PrefixDelivered => "delivered bytes are a prefix of those sent",
            Self::NothingLost => "no byte is lost within a stream",
            Self::NothingInvented => "every delivered byte was sent by somebody",
            Self::NothingReordered => "bytes are delivered in the order in which they were sent, once",
            Self::NoCrossTalk => "no byte crosses from one transfer into another",
            Self::CleanEndIsWhole => "a clean end means that every byte sent was delivered",
            Self::CleanEndWasSent => "a clean end is shown only if the other side ended its stream cleanly",
            Self::BeforeResetDelivered => "what came before a reset is delivered before it",
            Self::AsDirect => "each end of a visit sees what it could have seen over a direct connection",
            Self::OneServicePerVisitor => "a visitor is served by one local_conn of its own tunnel, and by no other",
            Self::NoUnprovokedReset => "without a fault nothing is reset or refused",
            Self::ResetCostsNoConn => "a reset of an outer connection aborts no transfer",
            Self::HonestPeersNeverViolate => "honest peers never cause a Violation",
            Self::EpochsGrow => "the epochs of a proxy_conn grow by one",
            Self::StartOnlyToIdle => "Start goes only to a peer that is idle",
            Self::FinOnce => "the total of a half is announced once, and a reset behind a shut end once more",
            Self::ShutOnce => "the write half of an outer socket is shut once",
            Self::NothingAfterShut => "nothing is written after the write half was shut",
            Self::PipesEmptyAtRest => "a pipe is taken empty and given back as it says",
            Self::ChunksWhole => {
                "an encrypted connection is never spliced, gets what it did not take whole once more, and its end inside"
            }
            Self::ClosedOnce => "every descriptor is closed exactly once",
            Self::VisitorsAccountedFor => "accepted visitors are finished or aborted, each once",
            Self::VisitsRecorded => {
                "each visit leaves one record, with the bytes that were moved and the ends that there were"
            }
            Self::VisitorsAreNamed => "who comes through a relay is served under the name that its header gives",
            Self::AnswersAreOurs => "who is answered by the server itself is told what it must be, and nothing else",
            Self::BandwidthKept => "a tunnel moves no more than its bandwidth, and a quarter of a second's at once",
            Self::PortsAccountedFor => {
                "the sockets that listen are those of the server's own ports and of open tunnels"
            }
            Self::BooksAgree => "what a program tells of itself was true between the question and the answer",
            Self::StrangersHoldNothing => "unauthenticated peers are dropped within the handshake's time",
            Self::SilentPeersGivenUp => "a peer that is silent for its time and some slack is given up",
            Self::StrangersGetNothing => "who proves nothing is told nothing but that he is refused",
            Self::ScopesAreKept => "a client gets no port but those that it may use",
            Self::CrowdsAreBounded => {
                "there are no more visitors than descriptors for them, and of one address no more than its part"
            }
            Self::ReloadsSpareOthers => "a reload ends no session and no tunnel that stays",
            Self::ClosedTakesNobody => "a tunnel that was closed takes no visitor",
            Self::TurnsAreShort => "one turn of a thread opens few ports and moves few bytes",
            Self::NoPanic => "nothing panics",
            Self::TransfersEnd => "every transfer ends after the faults have stopped",
            Self::ClientsReturn => "every client is back after the faults have stopped",
            Self::PortsListen => "every public port listens after the faults have stopped",
            Self::ProbesRoundTrip => "a probe through every tunnel comes back whole",
            Self::PoolsAtTarget => "idle conns are at their target, the same number on both sides",
            Self::DescriptorsAtBaseline => "descriptors are back at their baseline",
            Self::DrainEnds => "a request to stop is carried out within drain_timeout",
            Self::OnlyFutureTimers => "a thread with nothing to do has only future deadlines",
            Self::NoSpinning => "a thread that is run goes to sleep in the end",
            Self::DatagramsInPlace => "a datagram is delivered whole, in its own flow, and once",
            Self::PathsClosed => "a path ends with its session",
            Self::PathsReturn => "flows are answered, and go by their paths, after the faults have stopped",
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Breach {
    /// What kind.
    pub kind: Kind,
    /// Which.
    pub property: Property,
    /// When.
    pub at: Instant,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.since(Instant::ZERO);
        write!(f, "{:?} at {:.6}s: {}: {}", self.kind, at.as_secs_f64(), self.property, self.what)
    }
}
