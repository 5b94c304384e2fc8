//! Things that a long campaign must have seen: a search that never gets somewhere proves nothing about it.

use std::collections::BTreeMap;
use std::fmt;

/// What must happen sometimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
#[allow(missing_docs)] // their text says it
pub enum Sometimes {
    FinBeforeStart,
    FinBeforeLastByte,
    FinAfterLastByte,
    DoneBeforeStarted,
    ServerFinFirst,
    ClientFinFirst,
    FinsCross,
    ResetUp,
    ResetDown,
    ResetBeforeStart,
    ResetBeforeOtherEnd,
    ResetAfterOtherEnd,
    ResetBehindEnd,
    Lingered,
    LingerTimedOut,
    ReusedAfterReset,
    ComparedWithDirect,
    ConnReusedThrice,
    ZeroByteHalf,
    ZeroByteTransfer,
    Spliced,
    PipeFull,
    PipeHeldBytes,
    NoPipe,
    SpliceRefused,
    AbortCrossesFin,
    StartLost,
    StartUnheard,
    StartSeen,
    IdleConnsDie,
    StaleMessage,
    PoolEmpty,
    QueueFull,
    TooManyConnections,
    WaiterTimedOut,
    Refused,
    DialTimedOut,
    Resumed,
    ResumedWithTransfers,
    ReleasedWithTransfers,
    ResumedAsleep,
    Replaced,
    ReplacedWithTransfers,
    SessionExpired,
    RivalRefused,
    Examined,
    OutOfDescriptors,
    ShortWrite,
    ChunkCut,
    VisitorReset,
    ServiceReset,
    ResetCtl,
    ResetProxy,
    ResetPublic,
    ResetLocal,
    BlackholeCtl,
    BlackholeProxy,
    Cut,
    CutOneWay,
    Loss,
    FreezeServer,
    FreezeClient,
    KillClient,
    KillServer,
    PowerOffClient,
    PowerOffServer,
    ServiceDown,
    ServiceBlackholed,
    BacklogFull,
    StopClient,
    StopServer,
    DrainedWithTransfers,
    DrainTimedOut,
    Stranger,
    WrongTokenRefused,
    ForgedConnRefused,
    ReplayedConnRefused,
    NeighbourLetIn,
    SurplusClosed,
    IdlePinged,
    TunnelClosedWithTransfers,
    HolderCame,
    HolderPortInUse,
    UnacknowledgedEnded,
    SourceFull,
    PortShared,
    Throttled,
    NoMemory,
    StarvedOut,
    ReloadedClient,
    ReloadedServer,
    ReloadedWithTransfers,
    ReloadedDetached,
    ReloadedStopping,
    TunnelMoved,
    ScopeShrunk,
    TokenRevoked,
    Preempted,
    AskedAtOnce,
    Kicked,
    KickedWithTransfers,
    PortClosed,
    PortClosedWithTransfers,
    HeaderSplit,
    HeaderRefused,
    HostRefused,
    TlsEnded,
    SentToTls,
    ChallengeMet,
    ChallengePassedOn,
    ToldForWhom,
    NoLocalPort,
    Upgraded,
    UpgradedWithTransfers,
    UpgradeFailed,
    TakenOver,
    TakenOverWithTransfers,
    ProxyPassed,
    ProxyRefused,
    ClientAtOnePort,
    VisitorAtOnePort,
    UnheardSpoke,
    FlowAnswered,
    ByPath,
    PathGaveBack,
    PathSilent,
    PathBack,
    PathPortBusy,
    PathOfAnother,
}

impl Sometimes {
    /// All of them.
    pub const ALL: [Self; 129] = [
        Self::FinBeforeStart,
        Self::FinBeforeLastByte,
        Self::FinAfterLastByte,
        Self::DoneBeforeStarted,
        Self::ServerFinFirst,
        Self::ClientFinFirst,
        Self::FinsCross,
        Self::ResetUp,
        Self::ResetDown,
        Self::ResetBeforeStart,
        Self::ResetBeforeOtherEnd,
        Self::ResetAfterOtherEnd,
        Self::ResetBehindEnd,
        Self::Lingered,
        Self::LingerTimedOut,
        Self::ReusedAfterReset,
        Self::ComparedWithDirect,
        Self::ConnReusedThrice,
        Self::ZeroByteHalf,
        Self::ZeroByteTransfer,
        Self::Spliced,
        Self::PipeFull,
        Self::PipeHeldBytes,
        Self::NoPipe,
        Self::SpliceRefused,
        Self::AbortCrossesFin,
        Self::StartLost,
        Self::StartUnheard,
        Self::StartSeen,
        Self::IdleConnsDie,
        Self::StaleMessage,
        Self::PoolEmpty,
        Self::QueueFull,
        Self::TooManyConnections,
        Self::WaiterTimedOut,
        Self::Refused,
        Self::DialTimedOut,
        Self::Resumed,
        Self::ResumedWithTransfers,
        Self::ReleasedWithTransfers,
        Self::ResumedAsleep,
        Self::Replaced,
        Self::ReplacedWithTransfers,
        Self::SessionExpired,
        Self::RivalRefused,
        Self::Examined,
        Self::OutOfDescriptors,
        Self::ShortWrite,
        Self::ChunkCut,
        Self::VisitorReset,
        Self::ServiceReset,
        Self::ResetCtl,
        Self::ResetProxy,
        Self::ResetPublic,
        Self::ResetLocal,
        Self::BlackholeCtl,
        Self::BlackholeProxy,
        Self::Cut,
        Self::CutOneWay,
        Self::Loss,
        Self::FreezeServer,
        Self::FreezeClient,
        Self::KillClient,
        Self::KillServer,
        Self::PowerOffClient,
        Self::PowerOffServer,
        Self::ServiceDown,
        Self::ServiceBlackholed,
        Self::BacklogFull,
        Self::StopClient,
        Self::StopServer,
        Self::DrainedWithTransfers,
        Self::DrainTimedOut,
        Self::Stranger,
        Self::WrongTokenRefused,
        Self::ForgedConnRefused,
        Self::ReplayedConnRefused,
        Self::NeighbourLetIn,
        Self::SurplusClosed,
        Self::IdlePinged,
        Self::TunnelClosedWithTransfers,
        Self::HolderCame,
        Self::HolderPortInUse,
        Self::UnacknowledgedEnded,
        Self::SourceFull,
        Self::PortShared,
        Self::Throttled,
        Self::NoMemory,
        Self::StarvedOut,
        Self::ReloadedClient,
        Self::ReloadedServer,
        Self::ReloadedWithTransfers,
        Self::ReloadedDetached,
        Self::ReloadedStopping,
        Self::TunnelMoved,
        Self::ScopeShrunk,
        Self::TokenRevoked,
        Self::Preempted,
        Self::AskedAtOnce,
        Self::Kicked,
        Self::KickedWithTransfers,
        Self::PortClosed,
        Self::PortClosedWithTransfers,
        Self::HeaderSplit,
        Self::HeaderRefused,
        Self::HostRefused,
        Self::TlsEnded,
        Self::SentToTls,
        Self::ChallengeMet,
        Self::ChallengePassedOn,
        Self::ToldForWhom,
        Self::NoLocalPort,
        Self::Upgraded,
        Self::UpgradedWithTransfers,
        Self::UpgradeFailed,
        Self::TakenOver,
        Self::TakenOverWithTransfers,
        Self::ProxyPassed,
        Self::ProxyRefused,
        Self::ClientAtOnePort,
        Self::VisitorAtOnePort,
        Self::UnheardSpoke,
        Self::FlowAnswered,
        Self::ByPath,
        Self::PathGaveBack,
        Self::PathSilent,
        Self::PathBack,
        Self::PathPortBusy,
        Self::PathOfAnother,
    ];
}

/// How often each thing was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    seen: [u64; Sometimes::ALL.len()],
    faults: BTreeMap<String, u64>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { seen: [0; Sometimes::ALL.len()], faults: BTreeMap::new() }
    }
}

impl Coverage {
    /// It happened.
    pub fn saw(&mut self, what: Sometimes) {
        self.seen[what as usize] += 1;
    }

    /// A fault struck.
    pub fn struck(&mut self, fault: impl fmt::Display) {
        *self.faults.entry(fault.to_string()).or_default() += 1;
    }

    /// How often each fault struck that did.
    #[must_use]
    pub fn faults(&self) -> &BTreeMap<String, u64> {
        &self.faults
    }

    /// Adds what another run saw.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.seen.iter_mut().zip(other.seen) {
            *mine += theirs;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(fault.clone()).or_default() += count;
        }
    }

    /// How often it happened.
    #[must_use]
    pub fn count(&self, what: Sometimes) -> u64 {
        self.seen[what as usize]
    }

    /// How many of them happened at all.
    #[must_use]
    pub fn reached(&self) -> usize {
        self.seen.iter().filter(|&&count| count > 0).count()
    }

    /// What never happened.
    pub fn missing(&self) -> impl Iterator<Item = Sometimes> {
        Sometimes::ALL.into_iter().filter(|&what| self.count(what) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_its_own_place() {
        let mut coverage = Coverage::default();
        for (i, what) in Sometimes::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, i);
            coverage.saw(what);
        }
        assert_eq!((coverage.reached(), coverage.missing().count()), (Sometimes::ALL.len(), 0));
    }
}
