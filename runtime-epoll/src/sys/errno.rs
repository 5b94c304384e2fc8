//! The kernel's error numbers as the drivers' errors.

use nix::errno::Errno;
use protocol_sm::driver::SysError;

/// Repeats `call` while it is interrupted (EINTR).
pub(super) fn retried<T>(mut call: impl FnMut() -> nix::Result<T>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// The drivers' error for an error number; [`SysError`] lists which.
pub(super) fn sys_error(errno: Errno) -> SysError {
    match errno as i32 {
        libc::EAGAIN | libc::EINPROGRESS => SysError::WouldBlock,
        libc::ECONNRESET | libc::ECONNABORTED => SysError::Reset,
        libc::EPIPE => SysError::ResetBehindEnd,
        libc::ECONNREFUSED => SysError::Refused,
        // EAFNOSUPPORT: a kernel without IPv6 has no way to an IPv6 address.
        libc::ENETUNREACH
        | libc::EHOSTUNREACH
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::ENONET
        | libc::EAFNOSUPPORT => SysError::Unreachable,
        libc::ETIMEDOUT => SysError::TimedOut,
        // ENOSPC: as many descriptors are in epoll sets as the user may have (max_user_watches).
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC => SysError::Exhausted,
        libc::EADDRINUSE => SysError::InUse,
        libc::EACCES | libc::EPERM => SysError::Denied,
        // ENODEV: an interface is gone.
        libc::EADDRNOTAVAIL | libc::ENODEV => SysError::NoAddress,
        other => SysError::Other(other),
    }
}

/// The drivers' error for an error of the standard library or mio.
pub(super) fn io_error(error: std::io::Error) -> SysError {
    sys_error(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// The error of a splice(2). No socket fails with the first of these: they come from a kernel that lacks the call, from a
/// seccomp profile, or from a sandbox that has it for other descriptors only.
pub(super) fn splice_error(errno: Errno) -> SysError {
    match errno as i32 {
        libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP => SysError::Unsupported,
        _ => sys_error(errno),
    }
}

/// The error of an accept(2). The errors of a connection that failed while it waited in the backlog come
/// out there too: they say nothing of the listener, and the next connection may be good.
pub(super) fn accept_error(errno: Errno) -> SysError {
    match errno as i32 {
        libc::EPROTO
        | libc::ENOPROTOOPT
        | libc::EOPNOTSUPP
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::ENONET
        | libc::EHOSTUNREACH
        | libc::ENETUNREACH
        | libc::ETIMEDOUT => SysError::Reset,
        _ => sys_error(errno),
    }
}
