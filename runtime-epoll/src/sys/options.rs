//! Socket options: which, where, and why. Nothing else in the crate sets one.
//!
//! On every connection:
//! - TCP_NODELAY: without it on all four sockets of a transfer, 64 KiB messages stall for 87 ms.
//! - SO_OOBINLINE: an urgent byte is a byte of the stream; without this it would be lost.
//! - SO_LINGER of zero seconds, until [`let_linger`]: so a socket that is dropped, whether by
//!   [`Streams::reset`], by an unwinding thread or by the death of the process, *resets* its connection. A
//!   truncated stream never looks complete, not even after kill -9.
//!
//! On listeners and on connections that we open, SO_REUSEADDR: the kernel gives a connection a local port of its choice,
//! which may be the public port that a client wants next. Whoever listens there is not kept out by it.
//!
//! On connections to other machines, keepalive: it finds a peer that is gone while no data is in flight. While data
//! is in flight, it finds nothing; see [`dead_path`].
//!
//! Accepted sockets inherit the options of their listener, so the common ones cost a visitor no call.
//!
//! [`Streams::reset`]: protocol_sm::driver::Streams::reset
#![expect(unsafe_code, reason = "system calls that no safe crate offers; each says why it is sound")]

use nix::sys::socket::{SetSockOpt, setsockopt, sockopt};
use protocol_sm::driver::Role;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// A connection with nothing under way is probed after this long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// The pause between two keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// After this many probes without an answer, the connection is given up.
const KEEPALIVE_PROBES: u32 = 3;
/// What is sent on a ctl_conn must be acknowledged within this.
const CTL_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest pause between two retransmissions, or two probes of a closed window, on a proxy_conn. With
/// the kernel's 15 of them (tcp_retries2), a dead path is found within half a minute.
const PROXY_RETRY_MAX: Duration = Duration::from_secs(2);
/// The send buffer that [`cap_send_buffer`] sets, in bytes. The kernel doubles it.
const LOOPBACK_SEND_BUFFER: usize = 256 * 1024;
/// A socket option that Linux has since 6.15.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// Options of a listener, and of all that is accepted from it. `any_v6`: it listens on `::`, and takes IPv4 too.
pub(super) fn on_listener(fd: &impl AsFd, any_v6: bool) {
    set(fd, sockopt::ReuseAddr, &true);
    if any_v6 {
        set(fd, sockopt::Ipv6V6Only, &false);
    }
    on_every_connection(fd);
    keepalive(fd);
}

/// Options of a connection that is about to be opened.
pub(super) fn on_connecting(fd: &impl AsFd, role: Role, peer: IpAddr) {
    set(fd, sockopt::ReuseAddr, &true);
    on_every_connection(fd);
    // A peer on this machine needs no keepalive: its kernel is ours.
    if !peer.is_loopback() {
        keepalive(fd);
    }
    dead_path(fd, role);
}

/// Switches SO_LINGER off before a close in good order, so that what was sent still arrives.
pub(super) fn let_linger(fd: &impl AsFd) {
    set(fd, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
}

// PROTOCOL.md: P-CONN-3, P-ABORT-5.
fn on_every_connection(fd: &impl AsFd) {
    set(fd, sockopt::TcpNoDelay, &true);
    set(fd, sockopt::OobInline, &true);
    set(fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

fn keepalive(fd: &impl AsFd) {
    set(fd, sockopt::KeepAlive, &true);
    set(fd, sockopt::TcpKeepIdle, &(KEEPALIVE_IDLE.as_secs() as u32));
    set(fd, sockopt::TcpKeepInterval, &(KEEPALIVE_INTERVAL.as_secs() as u32));
    set(fd, sockopt::TcpKeepCount, &KEEPALIVE_PROBES);
}

/// Makes the kernel find a path that drops everything within half a minute, not within a quarter of an hour. An
/// accepted connection needs nothing else beyond the options of its listener.
///
/// A ctl_conn has TCP_USER_TIMEOUT for that: its peer always reads. A proxy_conn's need not: a visitor who
/// pauses a download closes the window for as long as they like, and TCP_USER_TIMEOUT would reset the
/// connection although its peer answers every probe (seen on Linux 6.18, after 3.5 s at 3 s). Shorter
/// retries tell the two apart: a probe that is answered starts the count again. Where the kernel is too
/// old for them, the heartbeats on the ctl_conn find a dead path first.
pub(super) fn dead_path(fd: &impl AsFd, role: Role) {
    match role {
        Role::Ctl => set(fd, sockopt::TcpUserTimeout, &(CTL_USER_TIMEOUT.as_millis() as u32)),
        Role::Proxy => retry_max(fd),
        Role::Local | Role::Public => {}
    }
}

fn retry_max(fd: &impl AsFd) {
    let millis = PROXY_RETRY_MAX.as_millis() as libc::c_int;
    // SAFETY: the descriptor is open for as long as `fd` is borrowed, and the pointer and the length name
    // one c_int that outlives the call. An older kernel says ENOPROTOOPT and changes nothing.
    unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const millis).cast(),
            size_of_val(&millis) as libc::socklen_t,
        );
    }
}

/// Sets a small send buffer, for bulk data to a peer on this machine. Bytes that wait in the buffer delay every small
/// message behind them: beside 4 bulk streams, a small request took 3.5 ms with this and 19.8 ms without it. Over
/// loopback a large buffer also costs rate: once it had grown, one stream ran at 1700 MB/s instead of 2000. Towards
/// other machines the buffer must not be set, because that ends its automatic growth, without which a path with a
/// large bandwidth-delay product cannot be filled.
pub(super) fn cap_send_buffer(fd: &impl AsFd) {
    set(fd, sockopt::SndBuf, &LOOPBACK_SEND_BUFFER);
}

/// Sets an option. Where that fails because the connection is gone already, the next call on the socket says so.
fn set<O: SetSockOpt>(fd: &impl AsFd, option: O, value: &O::Val) {
    if let Err(error) = setsockopt(fd, option, value) {
        tracing::debug!("a socket option was not set: {error}");
    }
}
