//! How a way through a proxy fails, and what to say of it.

use super::StatusLine;
use crate::sys_error::SysError;
use alloc::format;
use alloc::string::String;
use core::fmt;

/// Why there is no way through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassageFailure {
    /// The proxy's name does not resolve.
    Unresolved,
    /// No connection to the proxy.
    Unreachable(SysError),
    /// It closed the connection and had not answered.
    Closed,
    /// It did not answer in time.
    Silent,
    /// What answers there is no proxy of this kind, or its answer is longer than [`MAX_HEAD`](super::MAX_HEAD).
    NotAProxy,
    /// It takes no user and password, or only in a way that is not ours.
    NoMethod {
        /// A user and a password were there to send.
        known: bool,
    },
    /// It wants another user and password.
    Credentials {
        /// Some were sent.
        known: bool,
        /// What it said.
        answer: Answer,
    },
    /// It does not allow this.
    Forbidden {
        /// The port that it was asked for.
        port: u16,
        /// What it said.
        answer: Answer,
    },
    /// It does not reach the server.
    NoWay(Answer),
    /// It refuses for another reason.
    Refused(Answer),
}

/// What a proxy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// To CONNECT.
    Http(StatusLine),
    /// To a request of SOCKS5: its REP.
    Socks5(u8),
    /// To a user and password of SOCKS5: the status.
    Login(u8),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(line) => write!(f, "\"{line}\""),
            Self::Socks5(code) => {
                // RFC 1928, section 6.
                let meaning = match code {
                    1 => "general failure",
                    2 => "not allowed",
                    3 => "network unreachable",
                    4 => "host unreachable",
                    5 => "connection refused",
                    6 => "TTL expired",
                    7 => "command not supported",
                    8 => "address type not supported",
                    _ => "unknown",
                };
                write!(f, "reply {code}, {meaning}")
            }
            Self::Login(code) => write!(f, "status {code}"),
        }
    }
}

impl PassageFailure {
    /// Whether it goes on until somebody changes something.
    #[must_use]
    pub fn is_lasting(self) -> bool {
        match self {
            Self::NoMethod { .. } | Self::Credentials { .. } | Self::Forbidden { .. } => true,
            Self::Unresolved
            | Self::Unreachable(_)
            | Self::Closed
            | Self::Silent
            | Self::NotAProxy
            | Self::NoWay(_)
            | Self::Refused(_) => false,
        }
    }

    /// A sentence about this `proxy` on the way to `server`: what happened, and what to do.
    #[must_use]
    pub fn sentence(self, proxy: &str, server: &str) -> String {
        match self {
            Self::Unreachable(SysError::NoAddress) => format!(
                "cannot connect to the outbound proxy {proxy} from here: this machine does not have the address in \
                 `source_addr`, or the interface in `bind_interface`"
            ),
            Self::Unresolved
            | Self::Unreachable(_)
            | Self::Closed
            | Self::Silent
            | Self::NotAProxy
            | Self::NoMethod { .. }
            | Self::Credentials { .. }
            | Self::Forbidden { .. }
            | Self::Refused(_) => format!("the outbound proxy {proxy} {self}"),
            Self::NoWay(_) => format!(
                "the outbound proxy {proxy} {self}; check that cproxy-server runs at {server}, and that the proxy may \
                 connect to it"
            ),
        }
    }
}

/// Goes on behind the proxy's name.
impl fmt::Display for PassageFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved => f.write_str("has a name that does not resolve; check `outbound_proxy`"),
            Self::Unreachable(error) => write!(f, "cannot be reached: {error}"),
            Self::Closed => f.write_str("closed the connection without an answer"),
            Self::Silent => f.write_str("does not answer"),
            Self::NotAProxy => f.write_str("is no proxy of this kind; check `outbound_proxy`"),
            Self::NoMethod { known: true } => {
                f.write_str("takes no user and password, and nobody without; check `outbound_proxy`")
            }
            Self::NoMethod { known: false } | Self::Credentials { known: false, .. } => {
                f.write_str("wants a user and a password; give them in `outbound_proxy`")?;
                if let Self::Credentials { answer, .. } = self { write!(f, " (it said {answer})") } else { Ok(()) }
            }
            Self::Credentials { known: true, answer } => {
                write!(f, "wants other credentials than those in `outbound_proxy` (it said {answer})")
            }
            Self::Forbidden { port, answer } => write!(
                f,
                "does not allow port {port} (it said {answer}); let the server listen on one that it allows, mostly 443"
            ),
            Self::NoWay(answer) => write!(f, "does not reach the server (it said {answer})"),
            Self::Refused(answer) => write!(f, "refuses (it said {answer})"),
        }
    }
}
