//! How far the ctl_conn is.

use super::super::slab::Token;
use crate::auth::{Channel, Transcript};
use crate::codes::StateName;
use crate::liveness::Liveness;
use crate::notes::Disconnect;
use crate::outbound::Passage;
use crate::race::Race;
use crate::time::Instant;
use crate::wire::{ClientHello, Reply, ReplyReader};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// How far the ctl_conn is. From every state with a ctl_conn its loss, a deadline or a refusal leads back to Pausing.
///
/// ```text
///            start                 addresses
///   Pausing ───────▶ Resolving ─────────────▶ Dialling ──▶ none is left: Pausing
///      ▲  └── pause over ─▲                       │ the first reply
///      │                                          ▼
///      │                                      Challenged
///      │                                          │ the server's Hello: Proof
///      │                                          ▼
///      │                                        Proved
///      │                                          │ Welcome
///      │         lost, silent, closed             ▼
///      └───────────────────────────────────────── Up
/// ```
///
/// Invariants, between two events:
/// - M1 there is at most one ctl_conn, and it is the stage's, or there are those to addresses that race to be it; beside
///   it there is one for each session that was left;
/// - M2 a client that is up has a session;
/// - M3 a session that has no ctl_conn is given up at the end of its grace;
/// - M4 a client that has an outcome has neither ctl_conn nor session;
/// - M5 nothing follows a `Close` on a ctl_conn.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// There is no ctl_conn until then; without a time it has not begun yet, or has an outcome.
    Pausing(Option<Instant>),
    /// The server's name is looked up. From then on its last addresses are used, if there are any.
    Resolving(Option<Instant>),
    /// The server's addresses race. The first from which a reply comes wins: a connection alone may be a relay's.
    Dialling {
        race: Race,
        attempts: Vec<Attempt>,
        /// What was wrong with those that failed.
        why: Disconnect,
    },
    Challenged {
        token: Token,
        hello: ClientHello,
        channel: Option<Channel>,
        reply: Reply,
        until: Instant,
    },
    Proved {
        token: Token,
        transcript: Transcript,
        until: Instant,
    },
    Up {
        token: Token,
        liveness: Liveness,
    },
}

/// A connection to one of the server's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub(super) token: Token,
    pub(super) to: SocketAddr,
    /// Until when the handshake must be through, from when it is connected.
    pub(super) until: Option<Instant>,
    /// The way through the proxy that it is connected to, until that is behind it.
    pub(super) passage: Option<Box<Passage>>,
    /// From when it is encrypted, too, where it must be.
    pub(super) greeting: Option<Greeting>,
}

/// A connection whose reply is awaited.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Greeting {
    pub(super) reader: ReplyReader,
    pub(super) hello: ClientHello,
    /// The channel that its proofs are to cover.
    pub(super) channel: Option<Channel>,
}

impl Stage {
    /// The ctl_conn.
    pub(super) fn token(&self) -> Option<Token> {
        match self {
            Self::Pausing(_) | Self::Resolving(_) | Self::Dialling { .. } => None,
            Self::Challenged { token, .. } | Self::Proved { token, .. } | Self::Up { token, .. } => Some(*token),
        }
    }

    /// All connections: the ctl_conn, or those that race to be it.
    pub(super) fn tokens(&self) -> impl Iterator<Item = Token> {
        let attempts = match self {
            Self::Dialling { attempts, .. } => &attempts[..],
            Self::Pausing(_) | Self::Resolving(_) | Self::Challenged { .. } | Self::Proved { .. } | Self::Up { .. } => {
                &[]
            }
        };
        self.token().into_iter().chain(attempts.iter().map(|attempt| attempt.token))
    }

    /// Whether this is a connection that races to be the ctl_conn.
    pub(super) fn races(&self, token: Token) -> bool {
        matches!(self, Self::Dialling { attempts, .. } if attempts.iter().any(|attempt| attempt.token == token))
    }

    pub(super) fn name(&self) -> StateName {
        match self {
            Self::Pausing(_) | Self::Resolving(_) | Self::Dialling { .. } => StateName::PrefaceDue,
            Self::Challenged { .. } => StateName::HelloDue,
            Self::Proved { .. } => StateName::WelcomeDue,
            Self::Up { .. } => StateName::SessionUp,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Pausing(until) | Self::Resolving(until) => *until,
            Self::Dialling { race, .. } => Some(race.deadline()),
            Self::Challenged { until, .. } | Self::Proved { until, .. } => Some(*until),
            Self::Up { liveness, .. } => Some(liveness.next_deadline()),
        }
    }
}
