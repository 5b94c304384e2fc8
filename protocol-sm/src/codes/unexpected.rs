//! The names that [`Violation::Unexpected`](super::Violation::Unexpected) is told with: which message, in which state.

use core::fmt;

/// A message, by its name in PROTOCOL.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is documented where the message is defined
pub enum MessageName {
    Abort,
    Accepted,
    Ack,
    AskStart,
    ChangeTunnel,
    Close,
    CloseTunnel,
    ConnFailed,
    DatagramPath,
    Done,
    Drain,
    Fin,
    Hello,
    Leave,
    NeedConn,
    Ping,
    Pong,
    Proof,
    Refused,
    RegisterHost,
    RegisterTunnel,
    RegisterUdp,
    Secured,
    Start,
    StartSeen,
    Started,
    TunnelClosed,
    TunnelReady,
    TunnelRefused,
    Welcome,
}

impl fmt::Display for MessageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the receiver of an unexpected message was waiting for, or what it has had already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateName {
    /// The preface, or the reply to it, is awaited on the ctl_conn.
    PrefaceDue,
    /// The ctl_conn's `Hello` is awaited.
    HelloDue,
    /// The client's `Proof` is awaited.
    ProofDue,
    /// The server's `Welcome` is awaited.
    WelcomeDue,
    /// The session is up: its handshake is over.
    SessionUp,
    /// The server chose a feature that the client did not offer.
    FeatureNotOffered,
    /// The server resumes a session that the client did not ask for.
    ResumeNotAsked,
    /// The tunnel has no registration that is still to be answered.
    TunnelNotAsked,
    /// The tunnel is not open.
    TunnelNotOpen,
    /// The proxy_conn's handshake is not through.
    ConnOpening,
    /// The proxy_conn is idle.
    ConnIdle,
    /// The proxy_conn is idle, and the answer to its last `Ping` has not been read.
    PongNotRead,
    /// The proxy_conn is idle, and what is known of a visitor's TLS has come, behind which there is his `Start`.
    StartDue,
    /// The proxy_conn was not pinged.
    NotPinged,
    /// `Start` is to be answered, with that transfer's number.
    AnswerDue,
    /// `Start` is to be answered, and the `Fin` that came says that the transfer was started.
    FinReceived,
    /// The proxy_conn carries a transfer whose `Start` was answered.
    Transferring,
    /// The client was not asked whether it has seen a `Start`.
    StartNotAsked,
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PrefaceDue => "the ctl_conn's preface is awaited",
            Self::HelloDue => "the ctl_conn's Hello is awaited",
            Self::ProofDue => "the client's Proof is awaited",
            Self::WelcomeDue => "the server's Welcome is awaited",
            Self::SessionUp => "the session is up",
            Self::FeatureNotOffered => "the feature that it chooses was not offered",
            Self::ResumeNotAsked => "the session that it resumes was not asked for",
            Self::TunnelNotAsked => "the tunnel has no registration to be answered",
            Self::TunnelNotOpen => "the tunnel is not open",
            Self::ConnOpening => "the proxy_conn's handshake is not through",
            Self::ConnIdle => "the proxy_conn is idle",
            Self::StartDue => "the Start of the visitor is awaited of whose TLS it was told",
            Self::PongNotRead => "the answer to the last Ping has not been read",
            Self::NotPinged => "no Ping is to be answered",
            Self::AnswerDue => "Start of this transfer is to be answered",
            Self::FinReceived => "a Fin came, which only a started transfer has",
            Self::Transferring => "the proxy_conn carries a transfer",
            Self::StartNotAsked => "it was not asked about a Start",
        })
    }
}
