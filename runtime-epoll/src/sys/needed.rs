//! The system calls that nothing can stand in for, tried before a program starts. A server that may not accept, for
//! example, would look as if it ran, and be deaf.

use super::random;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, SockFlag, SockaddrStorage};
use nix::sys::socket::{accept4, connect, getpeername, getsockname, recv, send, shutdown};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

/// The system refuses a call that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    call: &'static str,
    errno: Errno,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, errno } = self;
        let why = errno.desc();
        write!(f, "this system refuses {call}(2): {why}; allow it, perhaps in a container's seccomp profile")
    }
}

impl std::error::Error for Refused {}

/// Tries them, on a descriptor that is none: who has the call says EBADF.
///
/// # Errors
/// The first that is refused.
pub fn check() -> Result<(), Refused> {
    const NONE: i32 = -1;
    let nowhere = SockaddrStorage::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    let tried = [
        ("accept4", accept4(NONE, SockFlag::SOCK_CLOEXEC).err()),
        ("connect", connect(NONE, &nowhere).err()),
        ("recvfrom", recv(NONE, &mut [0], MsgFlags::empty()).err()),
        ("sendto", send(NONE, &[0], MsgFlags::MSG_NOSIGNAL).err()),
        ("shutdown", shutdown(NONE, Shutdown::Write).err()),
        ("getsockname", getsockname::<SockaddrStorage>(NONE).err()),
        ("getpeername", getpeername::<SockaddrStorage>(NONE).err()),
        ("getrandom", random::fetch(&mut [0]).err()),
    ];
    for (call, error) in tried {
        if let Some(errno) = error.filter(|&errno| errno != Errno::EBADF) {
            return Err(Refused { call, errno });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_system_refuses_nothing() {
        assert_eq!(check(), Ok(()));
    }
}
