//! Messages on an idle proxy_conn (PROTOCOL.md, "Messages on a proxy_conn"). While it is transferring,
//! its bytes are payload and nobody parses them. The order of the variants is the wire's numbering.

use super::ctl::Proof;
use super::frame::Message;
use crate::codes::{HandshakeRefusal, MessageName, RefuseCode};
use crate::ids::{ConnId, Epoch, SessionId, TunnelId};
use crate::routes::Secured;
use crate::sent::{Channel, Code, Label};
use alloc::boxed::Box;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// What a client sends. In idle mode it only ever answers: the server cannot tell a frame sent on the
/// client's own initiative from the payload of a transfer whose `Fin` it has not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProxyToServer {
    /// First, right behind the preface.
    Hello(ConnHello),
    /// Answers a ping.
    Pong,
    /// Answers `Start`: the LocalServer is connected, and its bytes follow.
    Started {
        /// The epoch of the `Start`.
        epoch: Epoch,
    },
    /// Answers `Start`: the LocalServer cannot be reached, and no bytes follow.
    Refused {
        /// The epoch of the `Start`.
        epoch: Epoch,
        /// Why.
        code: RefuseCode,
    },
}

/// Ties a new proxy_conn to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnHello {
    /// The session.
    pub session: SessionId,
    /// Its number in that session, never used before.
    pub conn: ConnId,
    /// Proves the session's key over both.
    pub proof: Proof,
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProxyToClient {
    /// The conn is taken and idle.
    Accepted {
        /// Proves the session's key to the client.
        proof: Proof,
    },
    /// The conn is not taken and closes.
    Refused(HandshakeRefusal),
    /// Asks for a pong.
    Ping,
    /// A visitor has come; its bytes follow.
    Start {
        /// One more than this conn's last.
        epoch: Epoch,
        /// Which tunnel it came to.
        tunnel: TunnelId,
        /// Where it comes from.
        visitor: SocketAddr,
        /// The address that it connected to.
        public: SocketAddr,
    },
    /// What is known of the TLS of the visitor whose `Start` is right behind it. Only to a client with the feature
    /// [`SECURED`](super::SECURED). Boxed: the messages of each visit are no larger for it.
    Secured(Box<Secured>),
}

impl ProxyToServer {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> MessageName {
        match self {
            Self::Hello(_) => MessageName::Hello,
            Self::Pong => MessageName::Pong,
            Self::Started { .. } => MessageName::Started,
            Self::Refused { .. } => MessageName::Refused,
        }
    }
}

impl ProxyToClient {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> MessageName {
        match self {
            Self::Accepted { .. } => MessageName::Accepted,
            Self::Refused(_) => MessageName::Refused,
            Self::Ping => MessageName::Ping,
            Self::Start { .. } => MessageName::Start,
            Self::Secured(_) => MessageName::Secured,
        }
    }
}

impl Message for ProxyToServer {
    const MAX: usize = 128;

    fn label(&self) -> Label {
        let code = match self {
            Self::Refused { code, .. } => Some(Code::Refuse(*code)),
            Self::Hello(_) | Self::Pong | Self::Started { .. } => None,
        };
        Label { channel: Channel::ProxyToServer, name: self.name(), code }
    }
}

impl Message for ProxyToClient {
    const MAX: usize = 128;

    fn label(&self) -> Label {
        let code = match self {
            Self::Refused(code) => Some(Code::Handshake(*code)),
            Self::Accepted { .. } | Self::Ping | Self::Start { .. } | Self::Secured(_) => None,
        };
        Label { channel: Channel::ProxyToClient, name: self.name(), code }
    }
}
