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
//! On connections to other machines and to the LocalServer, keepalive: it finds a peer that is gone while no data is in
//! flight. While data is in flight, it finds nothing; see [`dead_path`]. How long it takes follows from how long the
//! protocol would wait: [`Limits`].
//!
//! Accepted sockets inherit the options of their listener, so the common ones cost a visitor no call.
//!
//! [`Streams::reset`]: protocol_sm::driver::Streams::reset
#![expect(unsafe_code, reason = "system calls that no safe crate offers; each says why it is sound")]

use nix::sys::socket::{SetSockOpt, getsockopt, setsockopt, sockopt};
use protocol_sm::driver::Role;
use protocol_sm::settings::Timings;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Once;
use std::time::Duration;

/// A proxy_conn with nothing under way is probed after this long.
const CONN_IDLE: Duration = Duration::from_secs(30);
/// The same for a local_conn. A service that closes first is forgotten by its kernel after 60 s, without a word: the
/// second probe, after 70 s, is told.
const LOCAL_IDLE: Duration = Duration::from_secs(35);
/// The pause between two keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// After this many probes without an answer, an outer connection is given up.
const KEEPALIVE_PROBES: u32 = 3;
/// The kernel counts no more.
const MOST_PROBES: u32 = 127;
/// What is sent on a ctl_conn must be acknowledged within this, or within `heartbeat_timeout` if that is longer.
const CTL_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest pause between two retransmissions on a ctl_conn. By itself the kernel doubles it each time, and goes on
/// waiting for as long again as the line was cut.
const CTL_RETRY_MAX: Duration = Duration::from_secs(3);
/// Before its first retransmission the kernel waits this long at least.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// The longest pause between two retransmissions that the kernel knows, and takes by itself.
const RETRY_MAX: Duration = Duration::from_secs(120);
/// As many retransmissions are not answered before the kernel gives a connection up (net.ipv4.tcp_retries2).
const RETRIES: u32 = 15;
/// The send buffer that [`cap_send_buffer`] sets, in bytes. The kernel doubles it.
const LOOPBACK_SEND_BUFFER: usize = 256 * 1024;
/// A socket option that Linux has since 6.15.
const TCP_RTO_MAX_MS: libc::c_int = 44;
/// A socket option that Linux has since 6.3.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// How long connections may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// What is sent on a ctl_conn must be acknowledged within this.
    ctl: Duration,
    /// Probes of a proxy_conn.
    conn: Keepalive,
    /// The longest pause between two retransmissions on a proxy_conn.
    retry_max: Duration,
    /// Probes of all that is accepted.
    accepted: Option<Keepalive>,
    /// Whether those are visitors.
    of_visitors: bool,
}

/// When a silent connection is probed, and how often without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Keepalive {
    idle: Duration,
    interval: Duration,
    probes: u32,
}

impl Limits {
    /// Those of the connections between client and server.
    pub(crate) fn new(timings: &Timings) -> Self {
        let conn = Keepalive::of_ours(timings);
        Self {
            ctl: timings.heartbeat_timeout.max(CTL_USER_TIMEOUT),
            conn,
            retry_max: retry_max(timings.conn_silence()),
            accepted: Some(conn),
            of_visitors: false,
        }
    }

    /// The same, where visitors are accepted.
    pub(crate) fn for_visitors(timings: &Timings) -> Self {
        let idle = timings.visitor_keepalive;
        let accepted = (!idle.is_zero()).then(|| Keepalive::outer(idle));
        Self { accepted, of_visitors: true, ..Self::new(timings) }
    }

    /// Those of the same connections with other `timings`.
    pub(crate) fn with(self, timings: &Timings) -> Self {
        if self.of_visitors { Self::for_visitors(timings) } else { Self::new(timings) }
    }
}

impl Keepalive {
    fn outer(idle: Duration) -> Self {
        Self { idle, interval: KEEPALIVE_INTERVAL, probes: KEEPALIVE_PROBES }
    }

    /// Of a connection between client and server. It is asked about when the programs themselves should have spoken, and
    /// given up when its session would be, or a little later.
    fn of_ours(timings: &Timings) -> Self {
        let idle = CONN_IDLE.max(timings.probe_after());
        let left = timings.conn_silence().saturating_sub(idle).as_secs() as u32;
        let interval = KEEPALIVE_INTERVAL.max(Duration::from_secs(left.div_ceil(MOST_PROBES).into()));
        let probes = left.div_ceil(interval.as_secs() as u32).clamp(KEEPALIVE_PROBES, MOST_PROBES);
        Self { idle, interval, probes }
    }
}

/// The shortest pause with which [`RETRIES`] retransmissions take `silence` at least: they begin at [`RETRY_MIN`] and
/// double. So a path that heals is noticed as soon as possible.
fn retry_max(silence: Duration) -> Duration {
    let takes = |max: Duration| (0..=RETRIES).map(|nth| RETRY_MIN.saturating_mul(1 << nth).min(max)).sum::<Duration>();
    (2..RETRY_MAX.as_secs()).map(Duration::from_secs).find(|&max| takes(max) >= silence).unwrap_or(RETRY_MAX)
}

/// Options of a listener, and of all that is accepted from it. `any_v6`: it listens on `::`, and takes IPv4 too.
pub(super) fn on_listener(fd: &impl AsFd, any_v6: bool, limits: &Limits) {
    set(fd, sockopt::ReuseAddr, &true);
    if any_v6 {
        set(fd, sockopt::Ipv6V6Only, &false);
    }
    on_every_connection(fd);
    if let Some(accepted) = limits.accepted {
        keepalive(fd, accepted);
    }
}

/// The receive buffer of a UDP socket, in bytes. By itself it holds 92 datagrams of 1,200 bytes.
const DATAGRAMS: usize = 4 << 20;

/// Options of a public UDP socket at `at`.
pub(super) fn on_public_udp(fd: &impl AsFd, at: SocketAddr) {
    if at.is_ipv6() {
        set(fd, sockopt::Ipv6RecvPacketInfo, &true);
        if at.ip().is_unspecified() {
            set(fd, sockopt::Ipv6V6Only, &false);
        }
    } else {
        set(fd, sockopt::Ipv4PacketInfo, &true);
    }
    on_udp(fd);
    let room = getsockopt(fd, sockopt::RcvBuf).unwrap_or(0);
    static SAID: Once = Once::new();
    if room < 2 * DATAGRAMS {
        SAID.call_once(|| {
            tracing::warn!(
                event = "udp_buffer_small",
                "the kernel gives UDP sockets {room} bytes to receive into, of {}: bursts are lost; raise it with \
                 sysctl net.core.rmem_max={DATAGRAMS}",
                2 * DATAGRAMS
            );
        });
    }
}

/// Options of every UDP socket.
pub(super) fn on_udp(fd: &impl AsFd) {
    // Whoever has the privilege goes beyond net.core.rmem_max.
    if setsockopt(fd, sockopt::RcvBufForce, &DATAGRAMS).is_err() {
        set(fd, sockopt::RcvBuf, &DATAGRAMS);
    }
}

/// Options of a socket that carries paths: what is too long for the line is lost, and not cut (QUIC finds out what fits).
pub(super) fn on_path_udp(fd: &impl AsFd, at: SocketAddr) {
    set_int(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE);
    if at.is_ipv6() {
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE);
    }
}

/// Options of a connection that is about to be opened.
pub(super) fn on_connecting(fd: &impl AsFd, role: Role, peer: IpAddr, limits: &Limits) {
    set(fd, sockopt::ReuseAddr, &true);
    on_every_connection(fd);
    match role {
        Role::Local => {
            keepalive(fd, Keepalive::outer(LOCAL_IDLE));
            any_port(fd);
        }
        // A peer on this machine needs no keepalive: its kernel is ours.
        Role::Ctl | Role::Proxy if !peer.is_loopback() => keepalive(fd, limits.conn),
        Role::Ctl | Role::Proxy | Role::Public | Role::Untold => {}
    }
    dead_path(fd, role, limits);
}

/// Options of a connection to a Unix socket: of those of every connection, the ones that it has.
pub(super) fn on_unix(fd: &impl AsFd) {
    set(fd, sockopt::OobInline, &true);
}

/// Options of a connection that was accepted before its role was known, with the options that clients' have.
pub(super) fn on_assigned(fd: &impl AsFd, role: Role, limits: &Limits) {
    match (role, limits.accepted) {
        (Role::Public, Some(accepted)) => keepalive(fd, accepted),
        (Role::Public, None) => set(fd, sockopt::KeepAlive, &false),
        (Role::Ctl | Role::Proxy | Role::Local | Role::Untold, _) => {}
    }
    dead_path(fd, role, limits);
}

/// Another pace of keepalive for a connection between client and server, which has been accepted with its listener's.
pub(super) fn probe(fd: &impl AsFd, timings: &Timings) {
    keepalive(fd, Keepalive::of_ours(timings));
}

/// Makes all local ports equal. By itself, connect(2) tries every second port first, all of them: once those are in use
/// (or in TIME_WAIT) with one address, each connect to it took 6.5 ms of processor time instead of 30 µs.
fn any_port(fd: &impl AsFd) {
    // The high half is the last port, the low half the first; the kernel narrows both to its own range.
    set_int(fd, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, 0xffff_0001_u32.cast_signed());
}

/// Lets connect(2) choose the port of a socket that is bound to an address only. bind(2) would choose one that nobody has,
/// whoever the peer is.
pub(super) fn port_at_connect(fd: &impl AsFd) {
    set(fd, sockopt::IpBindAddressNoPort, &true);
}

/// Switches SO_LINGER off before a close in good order, so that what was sent still arrives, however long the peer does
/// not read.
pub(super) fn let_linger(fd: &impl AsFd, role: Role) {
    set(fd, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
    match role {
        // With a shorter pause the kernel gives a closed connection up after a few seconds of a closed window or of
        // silence.
        Role::Ctl | Role::Proxy => retry_within(fd, RETRY_MAX),
        Role::Local | Role::Public | Role::Untold => {}
    }
}

/// The longest pause between two retransmissions.
fn retry_within(fd: &impl AsFd, pause: Duration) {
    set_int(fd, libc::IPPROTO_TCP, TCP_RTO_MAX_MS, pause.as_millis() as libc::c_int);
}

// PROTOCOL.md: P-CONN-3, P-ABORT-5.
fn on_every_connection(fd: &impl AsFd) {
    set(fd, sockopt::TcpNoDelay, &true);
    set(fd, sockopt::OobInline, &true);
    set(fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

fn keepalive(fd: &impl AsFd, Keepalive { idle, interval, probes }: Keepalive) {
    // The kernel takes whole seconds, from 1 to 32767.
    let seconds = |time: Duration| time.as_secs().clamp(1, 32_767) as u32;
    set(fd, sockopt::KeepAlive, &true);
    set(fd, sockopt::TcpKeepIdle, &seconds(idle));
    set(fd, sockopt::TcpKeepInterval, &seconds(interval));
    set(fd, sockopt::TcpKeepCount, &probes);
}

/// Makes the kernel find a path that drops everything when the protocol would give it up, not within a quarter of an
/// hour. An accepted connection needs nothing else beyond the options of its listener.
///
/// A ctl_conn has TCP_USER_TIMEOUT for that: its peer always reads. A proxy_conn's need not: a visitor who
/// pauses a download closes the window for as long as they like, and TCP_USER_TIMEOUT would reset the
/// connection although its peer answers every probe (seen on Linux 6.18, after 3.5 s at 3 s). The pause between
/// retries tells the two apart: a probe that is answered starts the count again. A kernel that is too old for it takes
/// a quarter of an hour. Where the ctl_conn is well meanwhile, the event loops find such a conn sooner
/// ([`protocol_sm::dead_path`]).
pub(super) fn dead_path(fd: &impl AsFd, role: Role, limits: &Limits) {
    match role {
        Role::Ctl => {
            set(fd, sockopt::TcpUserTimeout, &(limits.ctl.as_millis().min(i32::MAX as u128) as u32));
            retry_within(fd, CTL_RETRY_MAX);
        }
        Role::Proxy => retry_within(fd, limits.retry_max),
        Role::Local | Role::Public | Role::Untold => {}
    }
}

/// Sets an option that nix does not know. An older kernel says ENOPROTOOPT and changes nothing.
fn set_int(fd: &impl AsFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) {
    // SAFETY: the descriptor is open for as long as `fd` is borrowed, and the pointer and the length name one c_int that
    // outlives the call.
    unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
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
        tracing::debug!(event = "call_failed", "a socket option was not set: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

    fn timings(heartbeat_timeout: u64, transfer_grace: u64) -> Timings {
        Timings {
            heartbeat_timeout: Duration::from_secs(heartbeat_timeout),
            transfer_grace: Duration::from_secs(transfer_grace),
            ..Timings::default()
        }
    }

    #[test]
    fn no_limit_of_the_kernel_ends_what_the_protocol_would_keep() {
        for (heartbeat, grace) in [(15, 30), (15, 60), (15, 300), (1, 1), (60, 1200), (15, 31_536_000)] {
            let timings = timings(heartbeat, grace);
            let Limits { ctl, conn, retry_max, .. } = Limits::new(&timings);
            let retries: Duration = (0..=RETRIES).map(|nth| (RETRY_MIN * (1 << nth)).min(retry_max)).sum();
            let known = retry_max == RETRY_MAX;
            assert!(known || retries >= timings.conn_silence(), "{heartbeat} {grace}: {retry_max:?}, {retries:?}");
            assert!(retries < timings.conn_silence() + Duration::from_secs(20) || retry_max.as_secs() == 2);
            assert!(
                conn.idle + conn.interval * conn.probes >= timings.conn_silence() || conn.interval.as_secs() > 32_767
            );
            assert!(conn.probes <= MOST_PROBES && ctl >= timings.heartbeat_timeout);
        }
    }

    /// How long a cut of the line lasts beyond its end.
    #[test]
    fn a_ctl_conn_is_tried_every_few_seconds_until_it_is_closed() {
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("a socket");
        let limits = Limits::new(&Timings::default());
        for (role, pause) in [(Role::Ctl, CTL_RETRY_MAX), (Role::Proxy, limits.retry_max)] {
            dead_path(&fd, role, &limits);
            let Some(set) = retries_within(&fd) else { return };
            assert_eq!(set, pause);
            let_linger(&fd, role);
            assert_eq!(retries_within(&fd), Some(RETRY_MAX));
        }
    }

    /// `None`, said loudly, on a kernel that does not know the option.
    fn retries_within(fd: &impl AsFd) -> Option<Duration> {
        let (mut value, mut length) = (0, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: the descriptor is open while it is borrowed, and `value` has room for `length` bytes; both outlive the call.
        let asked = unsafe {
            libc::getsockopt(
                fd.as_fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                TCP_RTO_MAX_MS,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        if asked < 0 {
            eprintln!("SKIPPED: this kernel has no TCP_RTO_MAX_MS");
            return None;
        }
        Some(Duration::from_millis(u64::try_from(value).expect("a pause")))
    }

    #[test]
    fn with_the_defaults_the_kernel_keeps_a_dead_flow_for_as_long_as_its_session_may_be_resumed() {
        let Limits { conn, retry_max, .. } = Limits::new(&Timings::default());
        assert_eq!(conn.idle + conn.interval * conn.probes, Duration::from_secs(330));
        assert_eq!(retry_max, Duration::from_secs(35));
    }
}
