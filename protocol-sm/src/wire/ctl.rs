//! Messages on the ctl_conn (PROTOCOL.md, "Messages on the ctl_conn"). The order of the variants is
//! the wire's numbering: append, never reorder.

use super::frame::Message;
use crate::codes::{AbortCode, CloseCode, HandshakeRefusal, LeaveCode, MessageName, TunnelRefusal};
use crate::ids::{ClientId, ConnId, Epoch, SessionId, TunnelId};
use crate::routes::{Service, Site};
use crate::sent::{Channel, Code, Label};
use crate::settings::TunnelLimits;
use crate::transfer::How;
use alloc::boxed::Box;
use alloc::string::String;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// 32 fresh random bytes.
pub type Nonce = [u8; 32];
/// An HMAC-SHA-256 value.
pub type Proof = [u8; 32];
/// The SHA-256 of a public key.
pub type Pin = [u8; 32];

/// Everything that travels on a ctl_conn in one direction: its handshake `H`, numbered messages `M`,
/// and what keeps the connection itself alive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ctl<H, M> {
    /// Before the session is up.
    Handshake(H),
    /// A session message, numbered 1, 2, 3, … in each direction over the whole session.
    Numbered {
        /// Its number.
        seq: u64,
        /// The message.
        msg: M,
    },
    /// Asks for a [`Ctl::Pong`]. Like every unnumbered message it tells how many numbered ones came.
    Ping {
        /// Highest number received.
        received: u64,
    },
    /// Answers a [`Ctl::Ping`].
    Pong {
        /// Highest number received.
        received: u64,
    },
    /// Nothing but an acknowledgement.
    Ack {
        /// Highest number received.
        received: u64,
    },
    /// Ends the session, and then the connection.
    Close {
        /// Why.
        code: CloseCode,
    },
}

/// What a client sends on a ctl_conn.
pub type ToServer = Ctl<ClientHandshake, ClientMsg>;
/// What a server sends on a ctl_conn.
pub type ToClient = Ctl<ServerHandshake, ServerMsg>;

impl Message for ToServer {
    const MAX: usize = 512;

    fn label(&self) -> Label {
        let code = match self {
            Self::Close { code } => Some(Code::Close(*code)),
            Self::Numbered { msg: ClientMsg::Abort { code, .. }, .. } => Some(Code::Abort(*code)),
            Self::Handshake(_) | Self::Numbered { .. } | Self::Ping { .. } | Self::Pong { .. } | Self::Ack { .. } => {
                None
            }
        };
        Label { channel: Channel::ToServer, name: self.name(), code }
    }
}

impl Message for ToClient {
    const MAX: usize = 512;

    fn label(&self) -> Label {
        let code = match self {
            Self::Close { code } => Some(Code::Close(*code)),
            Self::Handshake(ServerHandshake::Refused(code)) => Some(Code::Handshake(*code)),
            Self::Numbered { msg: ServerMsg::Abort { code, .. }, .. } => Some(Code::Abort(*code)),
            Self::Numbered {
                msg: ServerMsg::TunnelRefused { code, .. } | ServerMsg::TunnelClosed { code, .. },
                ..
            } => Some(Code::Tunnel(*code)),
            Self::Numbered { msg: ServerMsg::Leave { code }, .. } => Some(Code::Leave(*code)),
            Self::Handshake(_) | Self::Numbered { .. } | Self::Ping { .. } | Self::Pong { .. } | Self::Ack { .. } => {
                None
            }
        };
        Label { channel: Channel::ToClient, name: self.name(), code }
    }
}

/// The feature of a client that understands [`ServerMsg::Leave`].
// PROTOCOL.md: P-EVO-2.
pub const LEAVE: u64 = 1;
/// The feature of a client that is a new process, and takes over from one of the same identity that is there.
// PROTOCOL.md: P-TAKE-1.
pub const TAKEOVER: u64 = 2;
/// The feature that the proofs cover the TLS channel: chosen where there is one.
// PROTOCOL.md: P-EVO-2.
pub const CHANNEL: u64 = 4;
/// The feature of a client that pays for each byte: little is sent while nobody visits.
// PROTOCOL.md: P-LIVE-3.
pub const FRUGAL: u64 = 8;
/// The feature of a server that knows [`ClientMsg::RegisterHost`], and of a client that may send it.
// PROTOCOL.md: P-EVO-2.
pub const HOSTS: u64 = 16;
/// The feature of a server that knows [`ClientMsg::RegisterUdp`], and of a client that may send it.
// PROTOCOL.md: P-EVO-2.
pub const UDP: u64 = 32;
/// The feature of a server that may send [`ProxyToClient::Secured`](super::ProxyToClient::Secured), and of a client that
/// knows it.
// PROTOCOL.md: P-EVO-2.
pub const SECURED: u64 = 64;
/// The feature of a client that only asks what it could have: whatever it registers is answered, and is never open.
// PROTOCOL.md: P-EXAM-1.
pub const EXAMINE: u64 = 128;
/// The feature of a server that may send [`ServerMsg::DatagramPath`], and of a client that knows it.
// PROTOCOL.md: P-EVO-2, P-PATH-1.
pub const PATHS: u64 = 256;
/// The features of this version that are chosen on every connection.
pub const FEATURES: u64 = LEAVE | TAKEOVER | FRUGAL | HOSTS | UDP | SECURED | EXAMINE | PATHS;

/// A client's half of the handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ClientHandshake {
    /// First, right behind the preface.
    Hello(ClientHello),
    /// Second: proves the token over both hellos.
    Proof(Proof),
}

/// Who the client is and what it wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClientHello {
    /// Fresh.
    pub nonce: Nonce,
    /// Who it is across restarts.
    pub client: ClientId,
    /// Whether it has a token.
    pub token: bool,
    /// Features offered, one bit each: [`LEAVE`], [`TAKEOVER`], [`CHANNEL`], [`FRUGAL`], [`HOSTS`], [`UDP`],
    /// [`SECURED`], [`EXAMINE`], [`PATHS`].
    pub features: u64,
    /// The session to go on with, if any.
    pub resume: Option<Resume>,
}

/// A session to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resume {
    /// Which.
    pub session: SessionId,
    /// Highest number of the server's messages that the client received.
    pub received: u64,
}

/// A server's half of the handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServerHandshake {
    /// Answers [`ClientHandshake::Hello`].
    Hello(ServerHello),
    /// Answers a good proof: the session is up.
    Welcome(Welcome),
    /// Ends the handshake; the connection closes.
    Refused(HandshakeRefusal),
}

/// The server's challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServerHello {
    /// Fresh.
    pub nonce: Nonce,
    /// Features chosen among those offered.
    pub features: u64,
}

/// The session is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Welcome {
    /// The session: the one to be resumed, or a new one.
    pub session: SessionId,
    /// Whether the session asked for goes on. If not, nothing of it exists any more.
    pub resumed: bool,
    /// Highest number of the client's messages that the server received; 0 in a new session.
    pub received: u64,
    /// Where to open proxy_conns: this port, at the ctl_conn's host.
    pub proxy_port: u16,
    /// Proves the token over both hellos and the fields above.
    pub proof: Proof,
}

/// A client's numbered messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ClientMsg {
    /// Expose a service.
    RegisterTunnel {
        /// New in this session, or one that was refused before.
        tunnel: TunnelId,
        /// Public port wanted; 0 lets the server pick.
        public_port: u16,
        /// The server's address where it is wanted; none: where the server's public ports are by themselves.
        bind_addr: Option<IpAddr>,
        /// For the server's logs; at most [`ClientMsg::MAX_NAME`] bytes.
        name: String,
        /// What the server is to enforce for it.
        limits: TunnelLimits,
    },
    /// Stop exposing it: no new visitors, running transfers go on.
    CloseTunnel {
        /// Which.
        tunnel: TunnelId,
    },
    /// This many proxy_conns asked for by `NeedConn` could not be opened.
    ConnFailed {
        /// How many.
        count: u32,
    },
    /// The LocalServer's stream ended: `total` bytes in all go into the proxy_conn.
    Fin {
        /// Which conn.
        conn: ConnId,
        /// Which transfer.
        epoch: Epoch,
        /// Bytes, exactly.
        total: u64,
        /// By a shutdown or by a reset.
        how: How,
    },
    /// Both directions are through on the client's side: the conn may be reused.
    Done {
        /// Which conn.
        conn: ConnId,
        /// Which transfer.
        epoch: Epoch,
    },
    /// The transfer was cut short; the conn is closed.
    Abort {
        /// Which conn.
        conn: ConnId,
        /// Which transfer.
        epoch: Epoch,
        /// Why.
        code: AbortCode,
    },
    /// The client stops: close its public ports, let transfers finish.
    Drain,
    /// Answers [`ServerMsg::AskStart`].
    StartSeen {
        /// Which conn.
        conn: ConnId,
        /// Which transfer.
        epoch: Epoch,
        /// Whether its `Start` has come. If not, the conn is closed, and it never will.
        seen: bool,
    },
    /// A registered tunnel has another name or other limits from now on.
    ChangeTunnel {
        /// Which.
        tunnel: TunnelId,
        /// As in [`ClientMsg::RegisterTunnel`].
        name: String,
        /// As in [`ClientMsg::RegisterTunnel`].
        limits: TunnelLimits,
    },
    /// Expose a service to the visitors of a host. Only to a server with the feature [`HOSTS`].
    RegisterHost {
        /// As in [`ClientMsg::RegisterTunnel`].
        tunnel: TunnelId,
        /// The host. Boxed: the messages of each visit are no larger for it.
        site: Box<Site>,
        /// What the service is like.
        service: Service,
        /// As in [`ClientMsg::RegisterTunnel`].
        name: String,
        /// As in [`ClientMsg::RegisterTunnel`].
        limits: TunnelLimits,
    },
    /// Expose a service that speaks UDP. Only to a server with the feature [`UDP`].
    RegisterUdp {
        /// As in [`ClientMsg::RegisterTunnel`].
        tunnel: TunnelId,
        /// The public UDP port wanted; 0 lets the server pick.
        public_port: u16,
        /// As in [`ClientMsg::RegisterTunnel`].
        bind_addr: Option<IpAddr>,
        /// As in [`ClientMsg::RegisterTunnel`].
        name: String,
        /// As in [`ClientMsg::RegisterTunnel`].
        limits: TunnelLimits,
    },
}

impl ClientMsg {
    /// Longest tunnel name, in bytes.
    pub const MAX_NAME: usize = 64;
}

/// A server's numbered messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServerMsg {
    /// The tunnel's public port listens.
    TunnelReady {
        /// Which.
        tunnel: TunnelId,
        /// Where it listens.
        public: SocketAddr,
    },
    /// The tunnel is not opened.
    TunnelRefused {
        /// Which.
        tunnel: TunnelId,
        /// Why.
        code: TunnelRefusal,
    },
    /// Open this many proxy_conns.
    NeedConn {
        /// How many, from 1.
        count: u32,
    },
    /// The visitor's stream ended: `total` bytes in all go into the proxy_conn.
    Fin {
        /// Which conn.
        conn: ConnId,
        /// Which transfer.
        epoch: Epoch,
        /// Bytes, exactly.
        total: u64,
        /// By a shutdown or by a reset.
        how: How,
    },
    /// The transfer was cut short; the conn is closed.
    Abort {
        /// Which conn.
        conn: ConnId,
        /// Which transfer.
        epoch: Epoch,
        /// Why.
        code: AbortCode,
    },
    /// The server stops: no new visitors come, transfers may finish.
    Drain,
    /// Has this transfer's `Start` come? It is unanswered.
    AskStart {
        /// Which conn.
        conn: ConnId,
        /// Which transfer.
        epoch: Epoch,
    },
    /// The client may not have an open tunnel any more: its public port is closed, transfers go on.
    TunnelClosed {
        /// Which.
        tunnel: TunnelId,
        /// Why.
        code: TunnelRefusal,
    },
    /// No new visitors come in this session, transfers may finish. Only to a client with the feature [`LEAVE`].
    Leave {
        /// Why, and what the client is to do.
        code: LeaveCode,
    },
    /// Datagrams may go beside the conns, by UDP to the proxy port's number. Only to a client with the feature [`PATHS`].
    DatagramPath {
        /// SHA-256 of the public key (SubjectPublicKeyInfo) that the server shows there.
        pin: Pin,
    },
}

impl ToServer {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> MessageName {
        match self {
            Self::Handshake(ClientHandshake::Hello(_)) => MessageName::Hello,
            Self::Handshake(ClientHandshake::Proof(_)) => MessageName::Proof,
            Self::Numbered { msg: ClientMsg::RegisterTunnel { .. }, .. } => MessageName::RegisterTunnel,
            Self::Numbered { msg: ClientMsg::CloseTunnel { .. }, .. } => MessageName::CloseTunnel,
            Self::Numbered { msg: ClientMsg::ConnFailed { .. }, .. } => MessageName::ConnFailed,
            Self::Numbered { msg: ClientMsg::Fin { .. }, .. } => MessageName::Fin,
            Self::Numbered { msg: ClientMsg::Done { .. }, .. } => MessageName::Done,
            Self::Numbered { msg: ClientMsg::Abort { .. }, .. } => MessageName::Abort,
            Self::Numbered { msg: ClientMsg::Drain, .. } => MessageName::Drain,
            Self::Numbered { msg: ClientMsg::StartSeen { .. }, .. } => MessageName::StartSeen,
            Self::Numbered { msg: ClientMsg::ChangeTunnel { .. }, .. } => MessageName::ChangeTunnel,
            Self::Numbered { msg: ClientMsg::RegisterHost { .. }, .. } => MessageName::RegisterHost,
            Self::Numbered { msg: ClientMsg::RegisterUdp { .. }, .. } => MessageName::RegisterUdp,
            Self::Ping { .. } => MessageName::Ping,
            Self::Pong { .. } => MessageName::Pong,
            Self::Ack { .. } => MessageName::Ack,
            Self::Close { .. } => MessageName::Close,
        }
    }
}

impl ToClient {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> MessageName {
        match self {
            Self::Handshake(ServerHandshake::Hello(_)) => MessageName::Hello,
            Self::Handshake(ServerHandshake::Welcome(_)) => MessageName::Welcome,
            Self::Handshake(ServerHandshake::Refused(_)) => MessageName::Refused,
            Self::Numbered { msg: ServerMsg::TunnelReady { .. }, .. } => MessageName::TunnelReady,
            Self::Numbered { msg: ServerMsg::TunnelRefused { .. }, .. } => MessageName::TunnelRefused,
            Self::Numbered { msg: ServerMsg::NeedConn { .. }, .. } => MessageName::NeedConn,
            Self::Numbered { msg: ServerMsg::Fin { .. }, .. } => MessageName::Fin,
            Self::Numbered { msg: ServerMsg::Abort { .. }, .. } => MessageName::Abort,
            Self::Numbered { msg: ServerMsg::Drain, .. } => MessageName::Drain,
            Self::Numbered { msg: ServerMsg::AskStart { .. }, .. } => MessageName::AskStart,
            Self::Numbered { msg: ServerMsg::TunnelClosed { .. }, .. } => MessageName::TunnelClosed,
            Self::Numbered { msg: ServerMsg::Leave { .. }, .. } => MessageName::Leave,
            Self::Numbered { msg: ServerMsg::DatagramPath { .. }, .. } => MessageName::DatagramPath,
            Self::Ping { .. } => MessageName::Ping,
            Self::Pong { .. } => MessageName::Pong,
            Self::Ack { .. } => MessageName::Ack,
            Self::Close { .. } => MessageName::Close,
        }
    }
}
