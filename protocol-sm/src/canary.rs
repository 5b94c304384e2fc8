//! Planted bugs: a checker that cannot fail checks nothing.
//!
//! Without the feature `canary`, which only tests enable, `planted` is a constant false and nothing can be planted; in
//! a release build neither, whatever it enables. Nothing is planted until a test asks for it, and then in the whole
//! process: such tests have a process of their own.

#[cfg(feature = "canary")]
use core::sync::atomic::{AtomicU8, Ordering};

/// A bug that can be planted. The first five leave out what the protocol needs (PROTOCOL.md, "Reuse").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PlantedBug {
    /// The server takes a conn for idle before the client's `Done`.
    NoDoneGate = 1,
    /// A `Done` that overtook `Started` or the drain is taken for a violation.
    DoneNotKept,
    /// A `Fin` that overtook its `Start` is dropped.
    EarlyFinDropped,
    /// An ingress takes more than its total.
    IngressNotCapped,
    /// The `Fin` of a refused transfer is not sent.
    RefusalNotAccounted,
    /// SHUT_WR as soon as the total is known.
    ShutTooEarly,
    /// The shutdown is not noted.
    ShutTwice,
    /// A visitor that was cut short is closed, not reset.
    AbortClosesCleanly,
    /// An outer socket is closed when one direction is over.
    OuterClosedEarly,
    /// A pipe is not given back when its transfer is cut short.
    PipeLeaked,
    /// Payload that came in one read with `Start` is dropped.
    FirstBytesDropped,
    /// The end of a stream behind a short read is not looked for.
    HupForgotten,
    /// The last visitor that came is served first.
    WaitersOutOfOrder,
    /// An idle conn stays in the pool when it is given.
    ConnGivenTwice,
    /// Conns that could not be opened are not asked for again.
    RetryForgotten,
    /// A conn's next transfer has the same number.
    EpochReused,
    /// The first message to be replayed is left out.
    ReplayDropped,
    /// An acknowledgement counts for one message more.
    AckedTooMuch,
    /// A session that is over leaves its conns open.
    SessionLeftOpen,
    /// Any proof is taken for a client's.
    AnyToken,
    /// Any proof is taken for a conn's.
    AnyConnProof,
    /// A conn's number is taken a second time.
    ConnReplayed,
    /// A stream that was reset is announced as one that was shut.
    ResetLooksShut,
    /// An outer socket is reset as soon as the peer's is, whatever was to be delivered before.
    ResetOvertakes,
    /// What a lost outer socket still holds is not read.
    LastWordsDropped,
    /// A visitor whose conn is lost goes to another one without asking whether the client has seen its `Start`.
    StartNotAsked,
    /// A visitor that has left while it waited for a conn is forgotten.
    GoneWaiterForgotten,
    /// The heartbeat is not armed again after the first ping was answered.
    HeartbeatOnce,
    /// A public port that was opened for a tunnel closed meanwhile stays open.
    LateBindKept,
    /// A port that was opened for somebody who only asks stays open.
    ExaminedKept,
    /// An outer socket is reset while its kernel still holds bytes of it.
    NotLingered,
    /// What a client leaves unacknowledged is bounded for each of its sessions only.
    UnackedPerSession,
    /// One address may have all visitors of a holder.
    SourceUnbounded,
    /// Conns are let in where no descriptors are left for them.
    ConnsUnbounded,
    /// One direction of a transfer moves 64 times as much in a turn.
    LongTurn,
    /// A ctl_conn is read until nothing is left.
    CtlTurnEndless,
    /// A transfer for which there was no memory is not tried again.
    StarvedForgotten,
    /// A visit leaves no record where the visitor was gone before its transfer was over.
    GoneVisitForgotten,
    /// What a lost outer socket was not given is recorded as given.
    DroppedCounted,
    /// What a limited tunnel has moved is not taken off what it may move.
    BandwidthNotCharged,
    /// A client that is told its settings anew begins a new session.
    ReloadCutsSession,
    /// A server leaves the public ports open that a client may not have any more.
    ShrunkScopeKept,
    /// A tunnel that has moved is not closed.
    MovedTunnelKept,
    /// A client is not told that its ports were released.
    ReleaseUntold,
    /// Who asks for a report while one is gathered is told what was gathered before.
    OldReport,
    /// A client that is told to leave ends its session, and does not serve it to its end.
    LeftSessionCut,
    /// A client is not told that another process of it took over.
    TakenOverUntold,
    /// A visitor from a trusted proxy goes on under the proxy's address.
    NameForgotten,
    /// A service is told that a relay's visitor has connected to the server itself.
    DialledForgotten,
    /// A tunnel's port is opened at the server's own address, and not at the tunnel's.
    AnyAddress,
    /// A client goes on as if a proxy had let it through, and has not read its answer.
    ProxyNotAwaited,
    /// A visitor who has named a host is given to any tunnel that has one.
    AnyHost,
    /// What was read of a visitor to find its host is not given to the service.
    HeadLost,
    /// The bytes that tell a client from a visitor are taken off the connection.
    LookTakes,
    /// The end of a stream is not said inside of what encrypts it.
    EndUnsaid,
    /// Of a datagram that has come in part that part is delivered.
    StumpDelivered,
    /// A datagram is given to any flow of its port.
    FlowsMixedUp,
    /// A flow that is silent does not end.
    FlowForever,
    /// A datagram that has waited for too long is dropped, and not counted.
    DroppedUncounted,
    /// A relay's visitor and somebody who comes directly from his address have one flow.
    RelayForgotten,
    /// A ctl_conn ends before the event loops know what was said on it.
    FarewellEarly,
    /// A datagram that goes by the path goes by the conn, too.
    SentByBoth,
    /// A datagram that has come by the path is delivered to whichever flow its conn carries now.
    EpochForgotten,
    /// A path that does not answer is never silent.
    SilenceUnseen,
    /// A path that was silent stays so when it answers.
    SilentForEver,
    /// A visitor in the clear is given to the tunnel whose visitors are to be sent to TLS.
    RedirectForgotten,
    /// A visitor is sent to TLS at another place than it has asked for.
    RedirectElsewhere,
    /// The challenge of an authority to which there is an answer goes to the tunnel of its host.
    ChallengePassedOn,
    /// The challenge to which there is none does not.
    ChallengeKept,
    /// What a visitor has said of itself is told to a service that is told for whom it comes.
    ForgedKept,
    /// A service is told so twice.
    ToldTwice,
    /// A service that reads no more is taken for one that is broken.
    ReadShutCuts,
    /// A path stays when its session is over.
    PathKept,
    /// Sessions that were there before the server takes paths are not told that it does.
    OfferForgotten,
    /// A client that wants no path for a moment, of which the server never hears, forgets what it was offered.
    OfferDropped,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 75] = [
        Self::NoDoneGate,
        Self::DoneNotKept,
        Self::EarlyFinDropped,
        Self::IngressNotCapped,
        Self::RefusalNotAccounted,
        Self::ShutTooEarly,
        Self::ShutTwice,
        Self::AbortClosesCleanly,
        Self::OuterClosedEarly,
        Self::PipeLeaked,
        Self::FirstBytesDropped,
        Self::HupForgotten,
        Self::WaitersOutOfOrder,
        Self::ConnGivenTwice,
        Self::RetryForgotten,
        Self::EpochReused,
        Self::ReplayDropped,
        Self::AckedTooMuch,
        Self::SessionLeftOpen,
        Self::AnyToken,
        Self::AnyConnProof,
        Self::ConnReplayed,
        Self::ResetLooksShut,
        Self::ResetOvertakes,
        Self::LastWordsDropped,
        Self::StartNotAsked,
        Self::GoneWaiterForgotten,
        Self::HeartbeatOnce,
        Self::LateBindKept,
        Self::ExaminedKept,
        Self::NotLingered,
        Self::UnackedPerSession,
        Self::SourceUnbounded,
        Self::ConnsUnbounded,
        Self::LongTurn,
        Self::CtlTurnEndless,
        Self::StarvedForgotten,
        Self::GoneVisitForgotten,
        Self::DroppedCounted,
        Self::BandwidthNotCharged,
        Self::ReloadCutsSession,
        Self::ShrunkScopeKept,
        Self::MovedTunnelKept,
        Self::ReleaseUntold,
        Self::OldReport,
        Self::LeftSessionCut,
        Self::TakenOverUntold,
        Self::NameForgotten,
        Self::DialledForgotten,
        Self::AnyAddress,
        Self::ProxyNotAwaited,
        Self::AnyHost,
        Self::HeadLost,
        Self::LookTakes,
        Self::EndUnsaid,
        Self::StumpDelivered,
        Self::FlowsMixedUp,
        Self::FlowForever,
        Self::DroppedUncounted,
        Self::RelayForgotten,
        Self::FarewellEarly,
        Self::SentByBoth,
        Self::EpochForgotten,
        Self::SilenceUnseen,
        Self::SilentForEver,
        Self::RedirectForgotten,
        Self::RedirectElsewhere,
        Self::ChallengePassedOn,
        Self::ChallengeKept,
        Self::ForgedKept,
        Self::ToldTwice,
        Self::ReadShutCuts,
        Self::PathKept,
        Self::OfferForgotten,
        Self::OfferDropped,
    ];
}

#[cfg(feature = "canary")]
static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Plants a bug in this process, or none. Not there in a release build.
#[cfg(all(feature = "canary", debug_assertions))]
pub fn plant(bug: Option<PlantedBug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
}

/// Whether this bug is planted.
#[cfg(feature = "canary")]
pub(crate) fn planted(bug: PlantedBug) -> bool {
    cfg!(debug_assertions) && PLANTED.load(Ordering::Relaxed) == bug as u8
}

/// Whether this bug is planted: never without the feature.
#[cfg(not(feature = "canary"))]
pub(crate) const fn planted(_: PlantedBug) -> bool {
    false
}
