//! Messages about one transfer, by themselves. On the wire they are variants of [`ClientMsg`](super::ClientMsg) and
//! [`ServerMsg`](super::ServerMsg); inside a program they have this type, so that an event loop can be handed nothing
//! else.

use crate::codes::AbortCode;
use crate::ids::{ConnId, Epoch};
use crate::transfer::Fin;

/// A message about one transfer; its body is a [`ClientBody`] or a [`ServerBody`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransferMsg<B> {
    /// Which conn.
    pub conn: ConnId,
    /// Which transfer.
    pub epoch: Epoch,
    /// What is said of it.
    pub body: B,
}

/// What a client says of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientBody {
    /// The LocalServer's stream ended: `total` bytes in all go into the proxy_conn.
    Fin(Fin),
    /// Both directions are through on the client's side: the conn may be reused.
    Done,
    /// The transfer was cut short; the conn is closed.
    Abort {
        /// Why.
        code: AbortCode,
    },
    /// Answers [`ServerBody::AskStart`].
    StartSeen {
        /// Whether its `Start` has come. If not, the conn is closed, and it never will.
        seen: bool,
    },
}

/// What a server says of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerBody {
    /// The visitor's stream ended: `total` bytes in all go into the proxy_conn.
    Fin(Fin),
    /// The transfer was cut short; the conn is closed.
    Abort {
        /// Why.
        code: AbortCode,
    },
    /// Has its `Start` come? It is unanswered.
    AskStart,
}
