//! The few socket calls that std does not offer: sockets that never block from birth, and resets; and what the two small
//! servers share.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

fn stream_socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)
}

/// A listener that never blocks, with room for a burst of visitors.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let open = || -> Result<TcpListener, Errno> {
        let fd = stream_socket(address)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        nix::sys::socket::listen(&fd, Backlog::new(4096)?)?;
        Ok(TcpListener::from(fd))
    };
    open().map_err(|e| format!("cannot listen on {address}: {e}"))
}

/// Tells whoever started this process where it listens.
pub(super) fn announce(listener: &TcpListener) -> Result<(), String> {
    let announce = || {
        println!("Listening {}", listener.local_addr()?);
        std::io::stdout().flush()
    };
    announce().map_err(|e| format!("cannot say where this listens: {e}"))
}

/// An epoll instance that watches a listener under this token.
pub(super) fn watching(listener: &TcpListener, token: u64) -> Result<Epoll, String> {
    let open = || {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        Ok(epoll)
    };
    open().map_err(|e: Errno| format!("epoll: {e}"))
}

/// A socket on its way to `address`, without Nagle's delay. On loopback it is connected when this returns, elsewhere the
/// first write may have to wait.
pub(super) fn connect(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let fd = stream_socket(address)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    match nix::sys::socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(e) => Err(e),
    }
}

/// Makes closing this socket a reset.
pub(super) fn reset_on_close(fd: &impl AsFd) {
    // Only fails on something that is no socket; then there is nothing to reset either.
    let _ = setsockopt(fd, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 });
}
