//! How far the ctl_conn is.

use super::super::slab::Token;
use crate::auth::Transcript;
use crate::codes::StateName;
use crate::liveness::Liveness;
use crate::notes::Disconnect;
use crate::time::Instant;
use crate::wire::{ClientHello, Reply, ReplyReader};
use alloc::collections::VecDeque;
use core::net::SocketAddr;

/// How far the ctl_conn is. From every state with a ctl_conn its loss, a deadline or a refusal leads back to Pausing.
///
/// ```text
///            start                 addresses
///   Pausing ───────▶ Resolving ─────────────▶ Connecting ──▶ the next address, or Pausing
///      ▲  └── pause over ─▲                       │ connected: preface and Hello
///      │                                          ▼
///      │                                       Greeting
///      │                                          │ reply
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
/// - M1 there is at most one ctl_conn, and it is the stage's;
/// - M2 a client that is up has a session;
/// - M3 a session that has no ctl_conn is given up at the end of its grace;
/// - M4 a client that has an outcome has neither ctl_conn nor session;
/// - M5 nothing follows a `Close` on a ctl_conn.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// There is no ctl_conn until then; without a time it has not begun yet, or has an outcome.
    Pausing(Option<Instant>),
    /// The server's name is looked up.
    Resolving,
    Connecting {
        token: Token,
        rest: VecDeque<SocketAddr>,
        until: Instant,
    },
    Greeting {
        token: Token,
        reader: ReplyReader,
        hello: ClientHello,
        until: Instant,
    },
    Challenged {
        token: Token,
        hello: ClientHello,
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

impl Stage {
    pub(super) fn token(&self) -> Option<Token> {
        match self {
            Self::Pausing(_) | Self::Resolving => None,
            Self::Connecting { token, .. }
            | Self::Greeting { token, .. }
            | Self::Challenged { token, .. }
            | Self::Proved { token, .. }
            | Self::Up { token, .. } => Some(*token),
        }
    }

    pub(super) fn name(&self) -> StateName {
        match self {
            Self::Pausing(_) | Self::Resolving | Self::Connecting { .. } | Self::Greeting { .. } => {
                StateName::PrefaceDue
            }
            Self::Challenged { .. } => StateName::HelloDue,
            Self::Proved { .. } => StateName::WelcomeDue,
            Self::Up { .. } => StateName::SessionUp,
        }
    }

    /// What it means that the ctl_conn has ended.
    pub(super) fn lost(&self) -> Disconnect {
        match self {
            Self::Greeting { .. } => Disconnect::NoAnswer,
            Self::Pausing(_)
            | Self::Resolving
            | Self::Connecting { .. }
            | Self::Challenged { .. }
            | Self::Proved { .. }
            | Self::Up { .. } => Disconnect::Lost,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Pausing(until) => *until,
            Self::Resolving => None,
            Self::Connecting { until, .. }
            | Self::Greeting { until, .. }
            | Self::Challenged { until, .. }
            | Self::Proved { until, .. } => Some(*until),
            Self::Up { liveness, .. } => Some(liveness.next_deadline()),
        }
    }
}
