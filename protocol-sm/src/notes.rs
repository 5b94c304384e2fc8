//! What a driver reports about its work, in values: a runtime logs, counts or draws them. Nothing here changes what a
//! driver does.

use crate::codes::{AbortCode, CloseCode, HandshakeRefusal, RefuseCode, TlsFailure, TunnelRefusal, Violation};
use crate::ids::{ClientId, ConnId, Epoch, TunnelId};
use crate::sys_error::SysError;
use alloc::string::String;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

/// What a runtime may want to log, count or draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A transfer began.
    Started {
        /// On this conn.
        conn: ConnId,
        /// Its number there.
        epoch: Epoch,
        /// Through this tunnel.
        tunnel: TunnelId,
        /// For this visitor.
        visitor: SocketAddr,
    },
    /// A transfer ended well, in both directions and on both sides.
    Finished {
        /// On this conn.
        conn: ConnId,
        /// Its number there.
        epoch: Epoch,
        /// Bytes into the proxy_conn.
        egress: u64,
        /// Bytes out of it.
        ingress: u64,
    },
    /// A transfer was cut short.
    Aborted {
        /// On this conn.
        conn: ConnId,
        /// Its number there.
        epoch: Epoch,
        /// Why.
        code: AbortCode,
        /// Whether the peer said so first.
        by_peer: bool,
    },
    /// The client could not reach its LocalServer.
    Refused {
        /// On this conn.
        conn: ConnId,
        /// Its number there.
        epoch: Epoch,
        /// Why.
        code: RefuseCode,
        /// Through this tunnel.
        tunnel: TunnelId,
    },
    /// A visitor was reset without a transfer.
    VisitorDropped {
        /// Who.
        visitor: SocketAddr,
        /// Which tunnel.
        tunnel: TunnelId,
        /// Why.
        why: Dropped,
    },
    /// A proxy_conn became idle for the first time.
    ConnUp {
        /// Which.
        conn: ConnId,
    },
    /// An idle proxy_conn is gone.
    ConnDown {
        /// Which.
        conn: ConnId,
    },
    /// A proxy_conn could not be opened.
    ConnFailed {
        /// Which.
        conn: ConnId,
        /// What the system said, if it was the system.
        error: Option<SysError>,
    },
    /// A message about something that is gone was ignored.
    Stale {
        /// About this conn.
        conn: ConnId,
    },
    /// A client's session began, or goes on over a new ctl_conn.
    SessionUp {
        /// Who.
        client: ClientId,
        /// From where.
        from: SocketAddr,
        /// Whether it goes on.
        resumed: bool,
    },
    /// A session lost its ctl_conn and waits for a resume.
    SessionDetached {
        /// Whose.
        client: ClientId,
    },
    /// A session ended.
    SessionOver {
        /// Whose.
        client: ClientId,
        /// Why.
        code: CloseCode,
    },
    /// A tunnel was opened at this address, or refused.
    Tunnel {
        /// Whose.
        client: ClientId,
        /// Which.
        tunnel: TunnelId,
        /// Its name.
        name: String,
        /// Where, or why not.
        outcome: Result<SocketAddr, TunnelRefusal>,
    },
    /// On the client: a tunnel is reachable at this address.
    Forwarding {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Where.
        public: SocketAddr,
    },
    /// On the client: a tunnel was not opened; the client will try again.
    NotForwarding {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Why.
        code: TunnelRefusal,
    },
    /// A connection was turned away in its handshake.
    HandshakeRefused {
        /// From where.
        from: SocketAddr,
        /// Why.
        refusal: HandshakeRefusal,
    },
    /// A connection was closed, without an answer, before its handshake was complete.
    HandshakeDropped {
        /// From where.
        from: SocketAddr,
        /// Why.
        why: HandshakeEnd,
    },
    /// The client could not reach the server, or lost it, and tries again after a pause.
    Reconnecting {
        /// What happened.
        why: Disconnect,
        /// The pause.
        pause: Duration,
    },
    /// The peer broke the protocol.
    Violation {
        /// On this conn, if it was on one.
        conn: Option<ConnId>,
        /// How.
        violation: Violation,
    },
}

/// Why a client has no ctl_conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disconnect {
    /// The server's name does not resolve.
    Unresolved,
    /// No connection to the server.
    Unreachable(SysError),
    /// What answers there does not speak our protocol.
    NotCproxy,
    /// The server refused, for now.
    Refused(HandshakeRefusal),
    /// The server's proof is wrong: it does not know the token.
    WrongServer,
    /// The connection could not be encrypted as it must be.
    Tls(TlsFailure),
    /// The connection was lost.
    Lost,
    /// Nothing came for `heartbeat_timeout`, or the handshake took longer than `handshake_timeout`.
    Silent,
    /// The server ended the session.
    Closed(CloseCode),
    /// The server broke the protocol.
    Violation(Violation),
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved => f.write_str("the server's name does not resolve"),
            Self::Unreachable(error) => write!(f, "cannot connect to the server: {error}"),
            Self::NotCproxy => f.write_str("what listens there is no cproxy-server's ctl port"),
            Self::Refused(refusal) => write!(f, "the server refused: {refusal}"),
            Self::WrongServer => f.write_str("the server does not know the token"),
            Self::Tls(failure) => failure.fmt(f),
            Self::Lost => f.write_str("the connection to the server was lost"),
            Self::Silent => f.write_str("the server does not answer"),
            Self::Closed(code) => write!(f, "the session was closed: {code}"),
            Self::Violation(violation) => write!(f, "the server broke the protocol: {violation}"),
        }
    }
}

/// Why a connection was closed before its handshake was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeEnd {
    /// It took too long.
    TooSlow,
    /// More handshakes from its source address were under way than allowed, and it was the oldest of them.
    SourceCrowded,
    /// More handshakes were under way than allowed, most of them from its source address, and it was the oldest of
    /// these.
    Crowded,
}

impl fmt::Display for HandshakeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooSlow => "it took longer than handshake_timeout",
            Self::SourceCrowded => "more than max_handshakes_per_source from its address",
            Self::Crowded => "more than max_handshakes in all, and most of them from its address",
        })
    }
}

/// Why a visitor was reset without a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// No proxy_conn came in time.
    WaitedTooLong,
    /// As many visitors wait already as are allowed to.
    QueueFull,
    /// As many visitors are served already as are allowed to be.
    TooMany,
    /// Its tunnel serves already as many visitors as its client asked for at most.
    TunnelFull,
    /// Its source address is not allowed to visit the tunnel.
    SourceDenied,
    /// More visitors came from its source address than the rate allows.
    TooOften,
    /// Its tunnel or client is gone.
    Gone,
    /// The server is out of descriptors or memory.
    Resources,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WaitedTooLong => "no proxy_conn came within wait_timeout",
            Self::QueueFull => "max_waiting visitors wait already",
            Self::TooMany => "the client serves max_connections already",
            Self::TunnelFull => "the tunnel serves its max_connections already",
            Self::SourceDenied => "its address is not one that may visit the tunnel (allow_sources, deny_sources)",
            Self::TooOften => "more came from its address than max_connection_rate a minute",
            Self::Gone => "the tunnel is gone",
            Self::Resources => "out of descriptors or memory",
        })
    }
}
