//! What a system call says when it does not do what it was asked.

use crate::codes::TlsFailure;
use core::fmt;

/// Why a call did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SysError {
    /// Not now: readiness will be reported (EAGAIN, EINPROGRESS).
    WouldBlock,
    /// The connection was reset, or is gone (ECONNRESET, EPIPE, ECONNABORTED).
    Reset,
    /// Nobody listens there (ECONNREFUSED).
    Refused,
    /// No way to get there (ENETUNREACH, EHOSTUNREACH, …).
    Unreachable,
    /// The peer stopped answering (ETIMEDOUT).
    TimedOut,
    /// Out of descriptors, buffers or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM).
    Exhausted,
    /// The address is taken (EADDRINUSE).
    InUse,
    /// Not permitted (EACCES, EPERM).
    Denied,
    /// The connection is encrypted, and that went wrong. It is lost.
    Tls(TlsFailure),
    /// Anything else: the system's number.
    Other(i32),
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("would block"),
            Self::Reset => f.write_str("connection reset"),
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Exhausted => f.write_str("out of descriptors or memory"),
            Self::InUse => f.write_str("address in use"),
            Self::Denied => f.write_str("permission denied"),
            Self::Tls(failure) => write!(f, "TLS: {failure}"),
            Self::Other(errno) => write!(f, "system error {errno}"),
        }
    }
}
