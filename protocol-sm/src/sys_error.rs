//! The errors of system calls, as far as the protocol tells them apart.

use crate::codes::TlsFailure;
use core::fmt;

/// Why a system call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SysError {
    /// It cannot be done now; readiness will be reported (EAGAIN, EINPROGRESS).
    WouldBlock,
    /// The connection was reset, or is gone (ECONNRESET, ECONNABORTED).
    Reset,
    /// The connection was reset behind the end of its stream: a reader still sees that end. So say all calls, too, after
    /// one that was told [`SysError::Reset`], and a write behind the own shutdown (EPIPE). To a Unix socket it says no more
    /// than that its peer takes nothing: what it says can be read, and a reader is told how that ends.
    ResetBehindEnd,
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
    /// No local port is left to connect there from (EADDRNOTAVAIL).
    NoPort,
    /// This machine does not have the address, or the interface, to listen or to connect from (EADDRNOTAVAIL, ENODEV).
    NoAddress,
    /// The system lacks this call, or forbids it altogether: this says nothing of the connection.
    Unsupported,
    /// TLS failed, and the connection is lost.
    Tls(TlsFailure),
    /// Any other error, by the system's number.
    Other(i32),
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("would block"),
            Self::Reset => f.write_str("connection reset"),
            Self::ResetBehindEnd => f.write_str("broken pipe"),
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Exhausted => f.write_str("out of descriptors or memory"),
            Self::InUse => f.write_str("address in use"),
            Self::Denied => f.write_str("permission denied"),
            Self::NoPort => f.write_str("no local port left"),
            Self::NoAddress => f.write_str("this machine has no such address or interface"),
            Self::Unsupported => f.write_str("refused by this system"),
            Self::Tls(failure) => write!(f, "TLS: {failure}"),
            Self::Other(errno) => write!(f, "system error {errno}"),
        }
    }
}
