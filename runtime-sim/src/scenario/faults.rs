//! What can go wrong. A fault that both rings know is a [`SimFault`]; one that only the simulated kernel can bring
//! about is a [`KernelFault`], and one that only turmoil can is a [`TurmoilFault`].
//!
//! What each of them does, and how it is undone, stands in the ring's `faults.rs`; which of them a seed has, in its
//! `plan.rs`.

use crate::oracle::Sometimes;
use std::fmt;

/// A kind of fault that both rings know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // their names say it
pub enum SimFault {
    ResetCtl,
    ResetProxy,
    ResetPublic,
    ResetLocal,
    BlackholeCtl,
    BlackholeProxy,
    Cut,
    KillClient,
    KillServer,
    PowerOffClient,
    PowerOffServer,
    StopClient,
    StopServer,
    ServiceDown,
    ServiceAcceptsNothing,
    FewDescriptors,
    Rival,
    Stranger,
    Impostor,
    Holder,
    /// Calls of a program's event loops find no memory.
    NoMemory,
    ReloadClient,
    ReloadServer,
    /// Another process of the server takes the listeners over, or fails to.
    Upgrade,
}

/// A kind of fault of the simulated kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // their names say it
pub enum KernelFault {
    Sim(SimFault),
    CutOneWay,
    FreezeServer,
    FreezeClient,
    ServiceBlackholed,
    Nudge,
    CloseTunnel,
    Kick,
    ClosePort,
    /// No local port is left for a client's dials to its LocalServers.
    NoLocalPort,
    /// Somebody asks what a client could have, beside it and with its token.
    Examine,
    /// The line of a client's path is dead.
    DeadLine,
}

/// A kind of fault on turmoil.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // their names say it
pub enum TurmoilFault {
    Sim(SimFault),
    Hold,
    KillService,
    NoNames,
    Lag,
    /// Every proxy_conn of a client that has been silent for a while is forgotten on its way.
    ForgetfulNat,
}

impl SimFault {
    /// What has happened when it struck, where that is the same in both rings and follows from nothing else.
    pub(crate) fn counts_as(self) -> Option<Sometimes> {
        Some(match self {
            Self::ResetCtl => Sometimes::ResetCtl,
            Self::ResetProxy => Sometimes::ResetProxy,
            Self::ResetPublic => Sometimes::ResetPublic,
            Self::ResetLocal => Sometimes::ResetLocal,
            Self::BlackholeCtl => Sometimes::BlackholeCtl,
            Self::BlackholeProxy => Sometimes::BlackholeProxy,
            Self::Cut => Sometimes::Cut,
            Self::KillClient => Sometimes::KillClient,
            Self::KillServer => Sometimes::KillServer,
            Self::PowerOffClient => Sometimes::PowerOffClient,
            Self::PowerOffServer => Sometimes::PowerOffServer,
            Self::StopClient => Sometimes::StopClient,
            Self::StopServer => Sometimes::StopServer,
            Self::ServiceDown => Sometimes::ServiceDown,
            Self::ServiceAcceptsNothing | Self::FewDescriptors | Self::NoMemory => return None,
            Self::Rival | Self::Stranger | Self::Impostor | Self::Holder => return None,
            Self::ReloadClient | Self::ReloadServer | Self::Upgrade => return None,
        })
    }
}

impl KernelFault {
    /// Whether no connection between client and server is lost by it, or by its end if it has `ended`: at most its programs
    /// close them.
    pub(crate) fn spares_conns(self, ended: bool) -> bool {
        match self {
            Self::Sim(
                SimFault::ResetPublic
                | SimFault::ResetLocal
                | SimFault::StopClient
                | SimFault::StopServer
                | SimFault::ServiceDown
                | SimFault::ServiceAcceptsNothing
                | SimFault::Upgrade,
            )
            | Self::ServiceBlackholed
            | Self::Nudge
            | Self::NoLocalPort
            | Self::Examine
            | Self::DeadLine => true,
            // It ends with a client that is killed.
            Self::Sim(SimFault::Rival) | Self::CloseTunnel => !ended,
            Self::Sim(_) | Self::CutOneWay | Self::FreezeServer | Self::FreezeClient | Self::Kick | Self::ClosePort => {
                false
            }
        }
    }
}

impl fmt::Display for SimFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for KernelFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Sim(fault) = self { fault.fmt(f) } else { fmt::Debug::fmt(self, f) }
    }
}

impl fmt::Display for TurmoilFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Sim(fault) = self { fault.fmt(f) } else { fmt::Debug::fmt(self, f) }
    }
}
