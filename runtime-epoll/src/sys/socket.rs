//! Sockets: connections and listeners, and the calls on them.
#![expect(unsafe_code, reason = "system calls that no safe crate offers; each says why it is sound")]

use super::datagram;
use super::errno::{accept_error, retried, sys_error};
use super::options::{self, Limits};
use crate::tls::session::Session;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, Shutdown, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, connect,
    getpeername, getsockname, getsockopt, listen, recv, send, setsockopt, shutdown, socket, sockopt,
};
use protocol_sm::driver::{Role, SysError, Token, Unacked};
use protocol_sm::settings::Origin;
use std::cell::{Cell, OnceCell, RefCell};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// A connection. Dropping it resets the connection; [`Streams::close`] ends it well.
///
/// [`Streams::close`]: protocol_sm::driver::Streams::close
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    role: Role,
    /// The token that its readiness is reported as, while it is watched.
    pub(super) token: Cell<Option<Token>>,
    dial: Cell<Dial>,
    /// Whether it is, or will be, registered for EPOLLOUT too.
    pub(super) for_room: Cell<bool>,
    /// Whether [`Stream::on_bulk`] has been called.
    bulk: Cell<bool>,
    /// It is no connection, but a UDP socket.
    pub(super) udp: Option<Box<datagram::Kind>>,
    /// How its bytes are encrypted, if they are.
    pub(super) tls: OnceCell<Box<RefCell<Session>>>,
}

/// What is known of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    /// It has not succeeded yet, as far as is known.
    Pending,
    /// It has succeeded, and the driver has not asked yet.
    Through,
    /// The socket is connected to itself (see [`Stream::is_its_own_peer`]): the driver is told that nobody listens.
    Itself,
    /// The driver knows that it has succeeded, or the connection was accepted.
    Over,
    /// It was to a Unix socket, and has succeeded at once.
    Unix,
}

/// A listening TCP socket, or a public UDP socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    /// It is one of UDP, which nobody watches.
    pub(super) udp: bool,
    /// The last accept took a connection: it is not known whether another one waits.
    took: Cell<bool>,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Stream {
    fn new(fd: OwnedFd, role: Role, dial: Dial) -> Self {
        let (for_room, tls) = (Cell::new(false), OnceCell::new());
        let (dial, bulk) = (Cell::new(dial), Cell::new(false));
        Self { fd, role, token: Cell::new(None), dial, for_room, bulk, udp: None, tls }
    }

    pub(super) fn of_udp(fd: OwnedFd, kind: datagram::Kind) -> Self {
        Self { udp: Some(Box::new(kind)), ..Self::new(fd, Role::Local, Dial::Over) }
    }

    pub(super) fn of_unix(fd: OwnedFd) -> Self {
        Self::new(fd, Role::Local, Dial::Unix)
    }

    /// Begins to connect. A connection to the same machine is established already when this returns.
    pub(super) fn connect(from: &Origin, to: SocketAddr, role: Role, limits: &Limits) -> Result<Self, SysError> {
        let fd = tcp_socket(to).map_err(sys_error)?;
        options::on_connecting(&fd, role, to.ip(), limits);
        begin_at(&fd, from, to)?;
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => {}
            Err(Errno::EADDRNOTAVAIL) => {
                return Err(if has_way(from, to) { SysError::NoPort } else { SysError::Unreachable });
            }
            Err(errno) => return Err(sys_error(errno)),
        }
        let stream = Self::new(fd, role, Dial::Pending);
        if to.ip().to_canonical().is_loopback() {
            stream.look_if_through();
        }
        // EPOLLOUT reports that a connect has succeeded.
        stream.for_room.set(stream.dial.get() == Dial::Pending);
        Ok(stream)
    }

    fn look_if_through(&self) {
        if let Ok(peer) = getpeername::<SockaddrStorage>(self.fd.as_raw_fd()) {
            self.dial.set(if self.is_its_own_peer(&peer) { Dial::Itself } else { Dial::Through });
        }
    }

    /// Takes the pending error; `WouldBlock` while the connect is under way.
    pub(super) fn take_error(&self) -> Result<(), SysError> {
        if self.dial.get() == Dial::Pending {
            self.look_if_through();
        }
        match self.dial.get() {
            Dial::Through => {
                self.dial.set(Dial::Over);
                return Ok(());
            }
            Dial::Itself => return Err(SysError::Refused),
            Dial::Pending | Dial::Over | Dial::Unix => {}
        }
        match getsockopt(&self.fd, sockopt::SocketError) {
            Ok(0) if self.dial.get() == Dial::Pending => Err(SysError::WouldBlock),
            Ok(0) => Ok(()),
            Ok(number) => Err(sys_error(Errno::from_raw(number))),
            Err(errno) => Err(sys_error(errno)),
        }
    }

    /// Whether this socket is connected to itself. The kernel may choose, as the local port of a connect to this
    /// machine, the very port that is connected to; if nobody listens there, the socket receives all that it sends.
    fn is_its_own_peer(&self, peer: &SockaddrStorage) -> bool {
        getsockname(self.fd.as_raw_fd()).as_ref() == Ok(peer)
    }

    /// It is known now what it is for.
    pub(super) fn assign(&mut self, role: Role, limits: &Limits) {
        self.role = role;
        options::on_assigned(&self.fd, role, limits);
    }

    /// Whether this is a connection between client and server.
    pub(super) fn is_ours(&self) -> bool {
        match self.role {
            Role::Ctl | Role::Proxy => true,
            Role::Local | Role::Public | Role::Untold => false,
        }
    }

    /// The peer's address.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        getpeername::<SockaddrStorage>(self.fd.as_raw_fd()).ok().as_ref().and_then(socket_addr)
    }

    /// The address that the peer is connected to.
    pub(super) fn own_address(&self) -> SocketAddr {
        let own = getsockname::<SockaddrStorage>(self.fd.as_raw_fd());
        let own = own.ok().as_ref().and_then(socket_addr).unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into());
        SocketAddr::new(own.ip().to_canonical(), own.port())
    }

    /// 0 is the end of the stream.
    pub(super) fn recv(&self, into: &mut [u8]) -> Result<usize, SysError> {
        retried(|| recv(self.fd.as_raw_fd(), into, MsgFlags::empty())).map_err(sys_error)
    }

    /// Reads, and leaves it there. 0 is the end of the stream.
    pub(super) fn peek(&self, into: &mut [u8]) -> Result<usize, SysError> {
        retried(|| recv(self.fd.as_raw_fd(), into, MsgFlags::MSG_PEEK)).map_err(sys_error)
    }

    /// Takes away what was peeked.
    pub(super) fn skip(&self, mut bytes: usize) {
        let mut taken = [0; 512];
        while bytes > 0 {
            let most = bytes.min(taken.len());
            match self.recv(&mut taken[..most]) {
                Ok(n @ 1..) => bytes -= n,
                // A reset has taken them: the next call tells.
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Whether there is something to read, which stays unread.
    pub(super) fn has_more(&self) -> bool {
        self.peek(&mut [0]).is_ok_and(|n| n > 0)
    }

    pub(super) fn send(&self, from: &[u8]) -> Result<usize, SysError> {
        retried(|| send(self.fd.as_raw_fd(), from, MsgFlags::MSG_NOSIGNAL)).map_err(sys_error)
    }

    /// Notes that the connection carries bulk data: caps the send buffer, if the peer is on this machine.
    pub(super) fn on_bulk(&self) {
        if !self.bulk.replace(true) && self.peer().is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
            options::cap_send_buffer(&self.fd);
        }
    }

    /// What the peer's kernel has not acknowledged, with a FIN counted as one.
    pub(super) fn unsent(&self) -> usize {
        if self.dial.get() == Dial::Unix {
            // What was written is in the peer's hands, and SIOCOUTQ says how much of it was not read.
            return 0;
        }
        let mut bytes: libc::c_int = 0;
        // SAFETY: SIOCOUTQ, which has the number of TIOCOUTQ, writes one int; it outlives the call, and the socket is open
        // while it is borrowed.
        let asked = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        match Errno::result(asked) {
            Ok(_) => usize::try_from(bytes).unwrap_or(0),
            Err(errno) => {
                tracing::debug!(event = "call_failed", "SIOCOUTQ: {errno}");
                0
            }
        }
    }

    /// What the peer's kernel has not acknowledged, and how it is asked for that.
    pub(super) fn unacked(&self) -> Option<Unacked> {
        if self.unsent() == 0 {
            return None;
        }
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: `info` has room for `length` bytes, both outlive the call, and the socket is open while it is borrowed.
        let asked = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if let Err(errno) = Errno::result(asked) {
            tracing::debug!(event = "call_failed", "TCP_INFO: {errno}");
            return None;
        }
        // SAFETY: all its fields are integers, and the kernel or zeros have filled it.
        let info = unsafe { info.assume_init() };
        // The first counts while packets are under way, the second while the peer's window is closed.
        let repeats = info.tcpi_retransmits.max(info.tcpi_probes).into();
        let heard = info.tcpi_last_ack_recv.min(info.tcpi_last_data_recv);
        Some(Unacked { repeats, heard: Duration::from_millis(heard.into()) })
    }

    /// Shuts the write half. This fails only for a connection that is gone already, whose error is reported as
    /// readiness.
    pub(super) fn shut_write(&self) {
        if let Err(errno) = shutdown(self.fd.as_raw_fd(), Shutdown::Write) {
            tracing::debug!(event = "call_failed", "shutdown: {errno}");
        }
    }

    /// Closes in good order: what was sent still arrives.
    pub(super) fn close(self) {
        options::let_linger(&self.fd, self.role);
        if self.role == Role::Ctl {
            self.discard();
        }
    }

    /// Reads and discards what has come, up to a limit. Where something is unread, the kernel answers a close with a
    /// reset, and the reset may overtake our last message, which says why we close.
    fn discard(&self) {
        for _ in 0..16 {
            if !matches!(self.recv(&mut [0; 4096]), Ok(1..)) {
                return;
            }
        }
    }
}

impl Listener {
    pub(super) fn bind(at: SocketAddr, limits: &Limits) -> Result<(Self, SocketAddr), SysError> {
        let open = || {
            let fd = tcp_socket(at)?;
            options::on_listener(&fd, at.is_ipv6() && at.ip().is_unspecified(), limits);
            bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
            listen(&fd, Backlog::new(BACKLOG)?)?;
            let real = getsockname::<SockaddrStorage>(fd.as_raw_fd())?;
            Ok((Self::new(fd, false), socket_addr(&real).unwrap_or(at)))
        };
        open().map_err(sys_error)
    }

    fn new(fd: OwnedFd, udp: bool) -> Self {
        Self { fd, udp, took: Cell::new(false) }
    }

    pub(super) fn of_udp(fd: OwnedFd) -> Self {
        Self::new(fd, true)
    }

    /// A listener that another process has opened, of UDP or of TCP.
    pub(crate) fn inherited(fd: OwnedFd, udp: bool) -> Result<Self, SysError> {
        let fits = if getsockopt(&fd, sockopt::SockType).map_err(sys_error)? == SockType::Datagram {
            udp
        } else {
            !udp && getsockopt(&fd, sockopt::AcceptConn).map_err(sys_error)?
        };
        if !fits {
            return Err(SysError::Unsupported);
        }
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(sys_error)?;
        Ok(Self::new(fd, udp))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Result<SocketAddr, SysError> {
        let real = getsockname::<SockaddrStorage>(self.fd.as_raw_fd()).map_err(sys_error)?;
        socket_addr(&real).ok_or(SysError::Unsupported)
    }

    pub(super) fn accept(&self, role: Role, limits: &Limits) -> Result<(Stream, SocketAddr), SysError> {
        // accept4(2) makes a socket before it looks whether anybody waits: where nobody does, that takes several times as
        // long as poll(2). After an event somebody does, and behind the last of them nobody.
        if self.took.replace(false) && !self.somebody_waits() {
            return Err(SysError::WouldBlock);
        }
        let (fd, from) = retried(|| accept4(self.fd.as_fd())).map_err(accept_error)?;
        self.took.set(true);
        // An IPv4 peer of an IPv6 socket has an address ::ffff:a.b.c.d; it is reported as a.b.c.d.
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        options::dead_path(&fd, role, limits);
        Ok((Stream::new(fd, role, Dial::Over), from))
    }

    /// Whether a connection waits to be accepted. Where the system does not say, an accept must tell.
    fn somebody_waits(&self) -> bool {
        let mut asked = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut asked, PollTimeout::ZERO) != Ok(0)
    }
}

/// What stands for every address of this machine, of both families where it has both.
pub(crate) fn every_address() -> IpAddr {
    match socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) {
        // As the kernel says without IPv6, and a sandbox that keeps a program to IPv4.
        Err(Errno::EAFNOSUPPORT) => Ipv4Addr::UNSPECIFIED.into(),
        Ok(_) | Err(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Whether this machine could send to `to`. A connect(2) says the same (EADDRNOTAVAIL) of the want of a port as of the
/// want of any address to send from, as there is none for IPv6 where a machine has no IPv6 address. UDP has ports of its
/// own, and connecting sends nothing.
fn has_way(from: &Origin, to: SocketAddr) -> bool {
    let Ok(fd) = socket(family(to), SockType::Datagram, SockFlag::SOCK_CLOEXEC, None) else { return true };
    begin_at(&fd, from, to).is_ok() && connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) != Err(Errno::EADDRNOTAVAIL)
}

/// The connection to `to` will begin at `from`.
pub(super) fn begin_at(fd: &OwnedFd, from: &Origin, to: SocketAddr) -> Result<(), SysError> {
    if let Some(interface) = &from.interface {
        setsockopt(fd, sockopt::BindToDevice, &interface.into()).map_err(sys_error)?;
    }
    match from.address {
        Some(address) if address.is_ipv6() != to.is_ipv6() => Err(SysError::Unreachable),
        Some(address) => {
            // The port is chosen when the peer is known: so there are as many for each peer.
            options::port_at_connect(fd);
            bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 0))).map_err(sys_error)
        }
        None => Ok(()),
    }
}

fn tcp_socket(peer: SocketAddr) -> nix::Result<OwnedFd> {
    socket(family(peer), SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)
}

pub(super) fn family(peer: SocketAddr) -> AddressFamily {
    if peer.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// accept4(2) with the peer's address, which nix's wrapper leaves out.
fn accept4(listener: BorrowedFd<'_>) -> nix::Result<(OwnedFd, SocketAddr)> {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `address` has room for `length` bytes, both outlive the call, and the listener is open while
    // it is borrowed.
    let fd = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            address.as_mut_ptr().cast(),
            &raw mut length,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: accept4 returned this descriptor just now, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the kernel filled in an address of `length` bytes; the rest of the storage is zero.
    let address = unsafe { SockaddrStorage::from_raw(address.as_ptr().cast(), Some(length)) };
    match address.as_ref().and_then(socket_addr) {
        Some(from) => Ok((fd, from)),
        None => Err(Errno::EPROTO),
    }
}

// PROTOCOL.md: P-ENC-4.
pub(super) fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddrV4::from(*v4).into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Pipe;

    /// The sizes of what `protocol-sm` holds of an idle visitor are tested with these.
    #[test]
    fn a_connection_takes_32_bytes_and_a_pipe_12() {
        assert_eq!([size_of::<Stream>(), size_of::<Pipe>()], [32, 12]);
    }
}
