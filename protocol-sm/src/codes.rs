//! Why something ended, as told to the peer (PROTOCOL.md, "Codes") and, by `Display`, to people.

mod unexpected;

use core::fmt;
use serde::{Deserialize, Serialize};

pub use unexpected::{MessageName, StateName};

/// Why a Transfer was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AbortCode {
    /// The LocalServer's connection was reset or failed, and the client cannot account for its end. Ours never say it.
    // PROTOCOL.md: P-ABORT-7.
    OuterReset,
    /// The proxy_conn was lost.
    ConnLost,
    /// A deadline passed.
    Deadline,
    /// The session ended: not resumed in time, replaced, or closed.
    SessionOver,
    /// Out of descriptors or memory.
    Resources,
    /// The side that says so is stopping.
    Stopping,
}

impl fmt::Display for AbortCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OuterReset => "the outer connection was reset",
            Self::ConnLost => "the proxy_conn was lost",
            Self::Deadline => "a deadline passed",
            Self::SessionOver => "the session ended",
            Self::Resources => "out of descriptors or memory",
            Self::Stopping => "the peer is stopping",
        })
    }
}

/// Why a client could not serve a visitor at all: the visitor is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefuseCode {
    /// The LocalServer's port is closed.
    ConnectionRefused,
    /// No route to the LocalServer, or its name does not resolve.
    Unreachable,
    /// The LocalServer did not answer within `dial_timeout`.
    TimedOut,
    /// The client has no such tunnel (any more).
    UnknownTunnel,
    /// The client is out of descriptors, memory or local ports.
    Resources,
}

impl fmt::Display for RefuseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectionRefused => "the local service refuses connections",
            Self::Unreachable => "the local service cannot be reached",
            Self::TimedOut => "the local service did not answer in time",
            Self::UnknownTunnel => "the client has no such tunnel",
            Self::Resources => "the client is out of descriptors, memory or local ports",
        })
    }
}

/// Why a server does not take a connection.
// PROTOCOL.md: P-EVO-3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HandshakeRefusal {
    /// No protocol version in common.
    Version,
    /// The server wants a token and the client has none.
    TokenRequired,
    /// The client has a token and the server has none configured.
    TokenUnexpected,
    /// The proof does not match: the tokens differ.
    WrongToken,
    /// The server has no token configured and the client is not on the same machine.
    LoopbackOnly,
    /// A live client with the same identity is connected, and answers.
    IdentityInUse,
    /// The server, or the token's holder, has as many sessions as it may have.
    Full,
    /// The server is stopping.
    Stopping,
    /// A proxy_conn for a session that the server does not know (any more).
    UnknownSession,
    /// A proxy_conn whose number was used before.
    ReplayedConn,
    /// Too many wrong proofs came from this source address of late.
    TooManyFailures,
    /// The server takes TLS only, and the client speaks in the clear.
    TlsRequired,
}

impl HandshakeRefusal {
    /// Whether trying again cannot help: the user must change something.
    // PROTOCOL.md: P-REPL-4.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Version
            | Self::TokenRequired
            | Self::TokenUnexpected
            | Self::WrongToken
            | Self::LoopbackOnly
            | Self::TlsRequired => true,
            Self::IdentityInUse
            | Self::Full
            | Self::Stopping
            | Self::UnknownSession
            | Self::ReplayedConn
            | Self::TooManyFailures => false,
        }
    }
}

impl fmt::Display for HandshakeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => {
                "client and server have no protocol version in common; update the older one"
            }
            Self::TokenRequired => {
                "the server wants a token; give this client the server's token with --token-file or CPROXY_TOKEN"
            }
            Self::TokenUnexpected => {
                "this client has a token but the server has none; start the server with --token-file too, or remove it here"
            }
            Self::WrongToken => {
                "the token is wrong: client and server must be given the same one (check --token-file and CPROXY_TOKEN on both sides); or, with TLS, somebody between them ends it (if that is a relay of yours: tls_relay = true)"
            }
            Self::LoopbackOnly => {
                "the server has no token configured and so takes clients from its own machine only; give both sides the same token (--token-file FILE)"
            }
            Self::IdentityInUse => {
                "another client with the same identity (same machine, same tunnels) is connected and answers; stop that one, or give this one its own --client-id and ports"
            }
            Self::Full => "the server, or this token, has as many clients as it may have (max_sessions)",
            Self::Stopping => "the server is stopping",
            Self::UnknownSession => "the server does not know this session",
            Self::ReplayedConn => "this proxy_conn's number was used before",
            Self::TooManyFailures => {
                "too many wrong tokens came from this address of late; the server takes another in a few seconds"
            }
            Self::TlsRequired => {
                "the server takes TLS only; copy the tls_pin line that it prints when it starts into this client's file (or give --tls-pin)"
            }
        })
    }
}

/// Why a TLS connection does not come about, or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsFailure {
    /// The server speaks our protocol, but in the clear.
    NotTls,
    /// The server's key is not the pinned one.
    WrongPin,
    /// The server's certificate is signed by nobody that the client trusts.
    UnknownIssuer,
    /// The server's certificate is for other names.
    WrongName,
    /// The server's certificate has expired.
    Expired,
    /// The server's certificate is not valid yet.
    NotYetValid,
    /// There is something else about the peer's certificate.
    BadCertificate,
    /// The server wants a certificate, and the client has none.
    CertificateWanted,
    /// The server does not take the client's certificate.
    CertificateRefused,
    /// Anything else: not TLS 1.3, or bytes that were changed on their way.
    Broken,
}

impl TlsFailure {
    /// Whether trying again cannot help: the user must change something.
    // PROTOCOL.md: P-TLS-3.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::NotTls
            | Self::WrongPin
            | Self::UnknownIssuer
            | Self::WrongName
            | Self::Expired
            | Self::NotYetValid
            | Self::BadCertificate
            | Self::CertificateWanted
            | Self::CertificateRefused => true,
            Self::Broken => false,
        }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTls => {
                "the server speaks no TLS; set `tls = true` in its file, or take the tls keys out of this client's"
            }
            Self::WrongPin => {
                "the server's key is not the one that tls_pin names; if the server's certificate was made anew, copy the tls_pin line that it prints when it starts; if not, somebody else answers there"
            }
            Self::UnknownIssuer => {
                "the server's certificate is signed by nobody that this client trusts; for a certificate that the server made itself use tls_pin, for one of your own authority tls_ca"
            }
            Self::WrongName => {
                "the server's certificate is for another name; reach the server by a name in its certificate, or set tls_server_name"
            }
            Self::Expired => "the server's certificate has expired, or this machine's clock is ahead",
            Self::NotYetValid => "the server's certificate is not valid yet, or this machine's clock is behind",
            Self::BadCertificate => "the certificate is not acceptable",
            Self::CertificateWanted => "the server wants a certificate from this client; set tls_cert and tls_key",
            Self::CertificateRefused => {
                "the server does not accept this client's certificate; tls_cert must be signed by the server's tls_client_ca and not have expired"
            }
            Self::Broken => "the TLS connection failed",
        })
    }
}

/// Why a tunnel is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TunnelRefusal {
    /// Another client's tunnel, or another program on the server, holds the port.
    PortInUse,
    /// The port is outside `allow_ports`.
    PortNotAllowed,
    /// The operating system does not let the server bind the port.
    PortDenied,
    /// No allowed port is free.
    NoFreePort,
    /// The token's holder has as many tunnels as it may have.
    TooManyTunnels,
    /// The server is out of descriptors or memory.
    Resources,
    /// The session had no ctl_conn for so long that the server gave the port up. It may be registered again.
    Released,
    /// The server's operator has closed it, until this session is over.
    Closed,
    /// Another tunnel has the host.
    HostInUse,
    /// The host is outside `allow_hosts`.
    HostNotAllowed,
    /// The server has no port for hosts of this kind.
    NoHosts,
    /// The server knows no UDP tunnels.
    NoUdp,
    /// The address is outside `allow_bind_addrs`.
    AddressNotAllowed,
    /// The server's machine does not have the address.
    NoAddress,
    /// It could be had, but a client with the same token has it: only somebody who examines is told so.
    HeldByHolder,
    /// The server knows nobody who examines.
    NoExamine,
}

impl TunnelRefusal {
    /// Whether trying again cannot help: the user must change something.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::PortNotAllowed
            | Self::PortDenied
            | Self::Closed
            | Self::HostNotAllowed
            | Self::NoHosts
            | Self::NoUdp
            | Self::AddressNotAllowed
            | Self::NoExamine => true,
            Self::PortInUse
            | Self::NoFreePort
            | Self::TooManyTunnels
            | Self::Resources
            | Self::Released
            | Self::HostInUse
            | Self::NoAddress
            | Self::HeldByHolder => false,
        }
    }
}

impl fmt::Display for TunnelRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PortInUse => {
                "the port is in use on the server, by another client's tunnel or another program; choose another --public-port, or 0 to let the server pick"
            }
            Self::PortNotAllowed => {
                "the server does not allow this port to this client; choose one that its allow_ports lists"
            }
            Self::PortDenied => {
                "the server may not bind this port (ports below 1024 need a privilege); choose another --public-port"
            }
            Self::NoFreePort => "no port that the server allows to this client is free",
            Self::TooManyTunnels => {
                "the clients with this token have as many tunnels as the server allows them together (max_tunnels)"
            }
            Self::Resources => "the server is out of descriptors or memory",
            Self::Released => "the connection was lost for longer than the server's session_grace",
            Self::Closed => "the server's operator has closed it; it comes back with this client's next session",
            Self::HostInUse => "another tunnel has this host on the server",
            Self::HostNotAllowed => {
                "the server does not allow this host to this client; choose one that its allow_hosts covers"
            }
            Self::NoUdp => "the server is too old for tunnels of UDP",
            Self::AddressNotAllowed => {
                "the server does not allow this bind_addr to this client; choose one that its allow_bind_addrs lists"
            }
            Self::NoAddress => "the server's machine does not have this bind_addr (yet)",
            Self::HeldByHolder => "a client with the same token has it",
            Self::NoExamine => "the server is too old to be asked without being given a tunnel",
            Self::NoHosts => "the server has no port for hosts of this protocol (its http_port, https_port)",
        })
    }
}

/// Why one side closes the ctl_conn for good: the session ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CloseCode {
    /// The client is done: it was asked to stop and its transfers have ended.
    Bye,
    /// Another client with the same identity took over.
    Replaced,
    /// The peer broke the protocol.
    Violation,
    /// The server stops.
    Stopping,
    /// The server does not take the client's token any more.
    Revoked,
    /// The server's operator has ended the session.
    Kicked,
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bye => "the client ended its session",
            Self::Replaced => "another client with the same identity took over",
            Self::Violation => "the peer broke the protocol",
            Self::Stopping => "the server is stopping",
            Self::Revoked => "the server does not take the client's token any more",
            Self::Kicked => "the server's operator has ended it",
        })
    }
}

/// Why a session takes no new visitors, and what its client is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LeaveCode {
    /// Another process of the server listens now: the client opens a session there beside this one.
    Upgraded,
    /// Another process of the client has its tunnels now: the client stops when its transfers have ended.
    TakenOver,
}

impl fmt::Display for LeaveCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upgraded => "the server was upgraded",
            Self::TakenOver => "another process of this client took over",
        })
    }
}

/// What a peer did that no honest peer does. Sticky: its session is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// Bytes that are no frame, or a frame that is no message.
    Malformed,
    /// A message that may not come in this state.
    Unexpected {
        /// The message.
        message: MessageName,
        /// The state that it came in.
        state: StateName,
    },
    /// A number that was skipped, or an acknowledgement of something never sent.
    Sequence,
    /// A message about a transfer that was never started.
    FutureEpoch,
    /// A second Fin or Done for one transfer.
    Repeated,
    /// A Fin whose total is smaller than what was already received.
    TotalTooSmall,
    /// A Done before the sender could have had all bytes.
    DoneTooEarly,
    /// More unacknowledged messages than an honest peer can cause.
    Unacknowledged,
    /// A proof that does not match.
    BadProof,
    /// More tunnels, names or connections than the documented limit.
    Limit,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unexpected { message, state } => return write!(f, "{message} may not come now: {state}"),
            Self::Malformed => "malformed frame",
            Self::Sequence => "message number skipped or acknowledgement of nothing",
            Self::FutureEpoch => "message about a transfer that was never started",
            Self::Repeated => "second Fin or Done for one transfer",
            Self::TotalTooSmall => "Fin with a total below what was received",
            Self::DoneTooEarly => "Done before both directions could be through",
            Self::Unacknowledged => "too many messages left unacknowledged",
            Self::BadProof => "proof does not match",
            Self::Limit => "a documented limit was exceeded",
        })
    }
}

impl core::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_unexpected_message_is_shown_with_the_state_that_it_came_in() {
        let violation = Violation::Unexpected { message: MessageName::Pong, state: StateName::NotPinged };
        assert_eq!(violation.to_string(), "Pong may not come now: no Ping is to be answered");
        assert!(size_of::<Violation>() <= 4, "it is returned in a register");
    }
}
