//! How large packets towards an address may be.
#![expect(unsafe_code, reason = "system calls that no safe crate offers; each says why it is sound")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// The MTU of the way to `at`, as far as the system knows it: that of the first link, or less where a router has said so
/// since. `None` if the system knows no way there.
#[must_use]
pub fn path_mtu(at: SocketAddr) -> Option<u32> {
    let (any, level, name): (IpAddr, _, _) = match at.ip() {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Of UDP nothing is sent by this.
    socket.connect(at).ok()?;
    let (mut value, mut length): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the descriptor is open, and `value` has room for `length` bytes; both outlive the call.
    let asked = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if asked < 0 { None } else { u32::try_from(value).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_tell_it() {
        let link: u32 = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap().trim().parse().unwrap();
        // No packet of IPv4 is larger.
        assert_eq!(path_mtu("127.0.0.1:9".parse().unwrap()), Some(link.min(65535)));
        // Where this machine has IPv6.
        if UdpSocket::bind("[::1]:0").is_ok() {
            assert_eq!(path_mtu("[::1]:9".parse().unwrap()), Some(link));
        }
    }
}
