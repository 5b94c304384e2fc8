//! UDP sockets: the public ones, and a flow's own.
//!
//! A public one is bound to a port and not connected: a table says whose each datagram is. Its datagrams say which address
//! of this machine they were sent to, and what is sent says from which it is to leave (IP_PKTINFO, IPV6_PKTINFO). It does
//! not ask for errors of what it has sent (IP_RECVERR): that of one visitor would be the next one's.

use super::errno::{retried, sys_error};
use super::options;
use super::poll::Registrar;
use super::socket::{Listener, Stream, begin_at, family, socket_addr};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, getsockname,
    recv, recvmsg, send, sendmsg, sendto, socket,
};
use protocol_sm::driver::{Address, SysError, Token};
use protocol_sm::settings::{Datagrams, Origin};
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Longer than any datagram.
pub(super) const BUFFER: usize = 65_536;

/// Which calls a UDP socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Public { v6: bool },
    Connected { to: SocketAddr },
    Follow,
}

/// Binds a public socket.
pub(super) fn open(at: SocketAddr) -> Result<(Listener, SocketAddr), SysError> {
    let open = || {
        let fd = udp_socket(at)?;
        options::on_public_udp(&fd, at);
        bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
        let real = getsockname::<SockaddrStorage>(fd.as_raw_fd())?;
        Ok((Listener::of_udp(fd), socket_addr(&real).unwrap_or(at)))
    };
    open().map_err(sys_error)
}

/// A copy of it, for who reads it.
pub(super) fn share(listener: &Listener) -> Result<Stream, SysError> {
    let v6 = listener.address()?.is_ipv6();
    let copy = listener.as_fd().try_clone_to_owned().map_err(super::errno::io_error)?;
    Ok(Stream::of_udp(copy, Kind::Public { v6 }))
}

/// A socket that carries paths, and a buffer for what comes there.
#[derive(Debug)]
pub(crate) struct PathSocket {
    fd: OwnedFd,
    kind: Kind,
    buffer: Vec<u8>,
}

impl PathSocket {
    /// One at which paths come in.
    pub(crate) fn listen(at: SocketAddr) -> Result<Self, SysError> {
        let open = || {
            let fd = udp_socket(at)?;
            options::on_public_udp(&fd, at);
            options::on_path_udp(&fd, at);
            bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
            Ok(Self { fd, kind: Kind::Public { v6: at.is_ipv6() }, buffer: vec![0; BUFFER] })
        };
        open().map_err(sys_error)
    }

    /// One from which a path goes to a server.
    pub(crate) fn connect(from: &Origin, to: SocketAddr) -> Result<Self, SysError> {
        let fd = udp_socket(to).map_err(sys_error)?;
        options::on_udp(&fd);
        options::on_path_udp(&fd, to);
        begin_at(&fd, from, to)?;
        connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).map_err(sys_error)?;
        Ok(Self { fd, kind: Kind::Connected { to }, buffer: vec![0; BUFFER] })
    }

    pub(crate) fn watch(&self, registrar: &Registrar, token: Token) -> Result<(), SysError> {
        registrar.add(&self.fd, token, false).map_err(super::errno::io_error)
    }

    /// The next datagram, and its addresses.
    pub(crate) fn hear(&mut self) -> Result<(&[u8], Address), SysError> {
        let (bytes, address) = hear(&self.fd, self.kind, &mut self.buffer)?;
        Ok((&self.buffer[..bytes], address))
    }

    pub(crate) fn say(&self, to: Address, datagram: &[u8]) -> Result<(), SysError> {
        say(&self.fd, self.kind, Some(to), datagram)
    }
}

/// A flow's own socket.
pub(super) fn associate(from: &Origin, to: SocketAddr, kind: Datagrams) -> Result<Stream, SysError> {
    let fd = udp_socket(to).map_err(sys_error)?;
    options::on_udp(&fd);
    begin_at(&fd, from, to)?;
    let kind = match kind {
        Datagrams::Follow => Kind::Follow,
        Datagrams::Connected => {
            connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).map_err(sys_error)?;
            Kind::Connected { to }
        }
    };
    Ok(Stream::of_udp(fd, kind))
}

/// Reads one datagram into `buffer`, which holds [`BUFFER`] bytes. Returns how many it has.
pub(super) fn hear(fd: &impl AsFd, kind: Kind, buffer: &mut [u8]) -> Result<(usize, Address), SysError> {
    let fd = fd.as_fd().as_raw_fd();
    if let Kind::Connected { to } = kind {
        let read = retried(|| recv(fd, buffer, MsgFlags::empty())).map_err(sys_error)?;
        return Ok((read, Address { peer: to, own: Ipv4Addr::UNSPECIFIED.into() }));
    }
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let read = loop {
        match recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty()) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(sys_error(errno)),
            Ok(read) => {
                let mut own = IpAddr::from(Ipv4Addr::UNSPECIFIED);
                for message in read.cmsgs().into_iter().flatten() {
                    if let ControlMessageOwned::Ipv4PacketInfo(info) = message {
                        own = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into();
                    } else if let ControlMessageOwned::Ipv6PacketInfo(info) = message {
                        own = IpAddr::from(info.ipi6_addr.s6_addr).to_canonical();
                    }
                }
                break (read.bytes, read.address.as_ref().and_then(socket_addr), own);
            }
        }
    };
    let (bytes, Some(peer), own) = read else { return Err(SysError::Unsupported) };
    Ok((bytes, Address { peer: canonical(peer), own }))
}

/// Sends one.
pub(super) fn say(fd: &impl AsFd, kind: Kind, to: Option<Address>, datagram: &[u8]) -> Result<(), SysError> {
    let fd = fd.as_fd().as_raw_fd();
    let sent = match (kind, to) {
        (Kind::Connected { .. }, _) | (_, None) => retried(|| send(fd, datagram, MsgFlags::MSG_NOSIGNAL)),
        (Kind::Follow, Some(Address { peer, .. })) => {
            let peer = SockaddrStorage::from(peer);
            retried(|| sendto(fd, datagram, &peer, MsgFlags::MSG_NOSIGNAL))
        }
        (Kind::Public { v6 }, Some(Address { peer, own })) => {
            let peer = SockaddrStorage::from(if v6 { mapped(peer) } else { peer });
            let parts = [IoSlice::new(datagram)];
            let flags = MsgFlags::MSG_NOSIGNAL;
            if v6 {
                let from = match own {
                    IpAddr::V4(own) => own.to_ipv6_mapped(),
                    IpAddr::V6(own) => own,
                };
                let ipi6_addr = libc::in6_addr { s6_addr: from.octets() };
                let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
                retried(|| sendmsg(fd, &parts, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&peer)))
            } else {
                let IpAddr::V4(own) = own else { return Err(SysError::NoAddress) };
                // Of these only `ipi_spec_dst` counts where a datagram is sent.
                let own = libc::in_addr { s_addr: u32::from(own).to_be() };
                let info =
                    libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: own, ipi_addr: libc::in_addr { s_addr: 0 } };
                retried(|| sendmsg(fd, &parts, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&peer)))
            }
        }
    };
    sent.map(drop).map_err(sys_error)
}

/// An IPv4 peer of an IPv6 socket has an address `::ffff:a.b.c.d`; it is reported as `a.b.c.d`. Others keep their scope.
fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, peer.port()),
        IpAddr::V6(_) => peer,
    }
}

fn mapped(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => peer,
    }
}

fn udp_socket(peer: SocketAddr) -> nix::Result<OwnedFd> {
    socket(family(peer), SockType::Datagram, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)
}
