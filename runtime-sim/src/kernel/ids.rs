//! The names of what there is in the simulated kernel, and what its calls fail with.

use protocol_sm::driver::SysError;

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// A process: owns descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcId(pub usize);

/// A socket: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SockId(pub usize);

/// A pipe: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipeId(pub usize);

/// An epoll instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PollId(pub usize);

/// What a call fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // errno(3) documents them
pub enum Errno {
    EAGAIN,
    ECONNRESET,
    EPIPE,
    ECONNREFUSED,
    ETIMEDOUT,
    EMFILE,
    EADDRINUSE,
    EHOSTUNREACH,
    ENOTCONN,
}

impl From<Errno> for SysError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EAGAIN => Self::WouldBlock,
            Errno::ECONNRESET => Self::Reset,
            Errno::EPIPE => Self::ResetBehindEnd,
            Errno::ECONNREFUSED => Self::Refused,
            Errno::ETIMEDOUT => Self::TimedOut,
            Errno::EMFILE => Self::Exhausted,
            Errno::EADDRINUSE => Self::InUse,
            Errno::EHOSTUNREACH => Self::Unreachable,
            Errno::ENOTCONN => Self::Other(107),
        }
    }
}
