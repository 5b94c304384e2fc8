//! Sockets as the tests need them: every wait bounded, resets told apart from clean ends.

use crate::wait::PATIENCE;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::connect as connect_socket;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// The loopback address that nearly everything here is bound to.
pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How a stream ended for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer shut its writing half: everything it sent has arrived.
    Clean,
    /// A reset: the stream was cut short.
    Reset,
}

/// Connects, with all waits bounded by [`PATIENCE`]. Whoever is reset before `connect` has returned reads the reset later, as
/// others do.
///
/// # Panics
/// If the connection is refused.
#[track_caller]
pub fn connect(addr: SocketAddr) -> TcpStream {
    connect_unless_reset(addr).unwrap_or_else(has_been_reset)
}

/// A stream that nothing but its reset can be read from.
fn has_been_reset() -> TcpStream {
    let listener = TcpListener::bind((LOOPBACK, 0)).expect("a listener");
    let near = TcpStream::connect(listener.local_addr().expect("its address")).expect("connect");
    bounded(&near, PATIENCE);
    reset(listener.accept().expect("a connection").0);
    near
}

/// Connects to a port that may reset its visitors at once: `None` if `connect` itself saw the reset.
///
/// # Panics
/// If the connection is refused.
#[track_caller]
pub fn connect_unless_reset(addr: SocketAddr) -> Option<TcpStream> {
    match TcpStream::connect_timeout(&addr, PATIENCE) {
        Ok(stream) => {
            bounded(&stream, PATIENCE);
            Some(stream)
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("connect to {addr}: {error}"),
    }
}

/// Connects to a port of 127.0.0.1 that may reset its visitors at once, and leaves the socket's one error to the first
/// read or write: `connect` would take it, and all that came before it would be lost.
///
/// # Panics
/// If there is no socket to be had, or the connection neither comes to be nor fails.
#[must_use]
pub fn connect_without_asking(addr: SocketAddr) -> TcpStream {
    let kind = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Stream, kind, None).expect("a socket");
    match connect_socket(socket.as_raw_fd(), &SockaddrStorage::from(addr)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => panic!("connect to {addr}: {error}"),
    }
    let patience = PollTimeout::try_from(PATIENCE).expect("a short time");
    let mut up = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    assert_eq!(poll(&mut up, patience), Ok(1), "connect to {addr}");
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false).expect("blocking");
    bounded(&stream, PATIENCE);
    stream
}

/// Connects from another address of this machine, such as 127.0.0.2: `None` if `connect` itself saw a reset.
///
/// # Panics
/// If the connection is refused, or the address is not this machine's.
#[track_caller]
pub fn connect_from(from: Ipv4Addr, to: SocketAddr) -> Option<TcpStream> {
    let SocketAddr::V4(to) = to else { panic!("{to} cannot be reached from {from}") };
    let kind = (AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC);
    let socket = socket(kind.0, kind.1, kind.2, None).expect("a socket");
    // Not one of the few ports that only one connection of this address may have.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).expect("IP_BIND_ADDRESS_NO_PORT");
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0))).expect("bind to an address of loopback");
    match connect_socket(socket.as_raw_fd(), &SockaddrIn::from(to)) {
        Ok(()) => {}
        Err(Errno::ECONNRESET) => return None,
        Err(error) => panic!("connect from {from} to {to}: {error}"),
    }
    let stream = TcpStream::from(socket);
    bounded(&stream, PATIENCE);
    Some(stream)
}

/// Visits `addr` from another address of this machine without a word: how many bytes come, and how it ends.
///
/// # Panics
/// If the connection is refused, or neither bytes nor an end come.
#[track_caller]
pub fn visit_end_from(from: Ipv4Addr, addr: SocketAddr) -> (u64, End) {
    connect_from(from, addr).map_or((0, End::Reset), |mut visitor| read_end(&mut visitor))
}

/// Visits `addr` without a word: how many bytes come, and how it ends.
///
/// # Panics
/// If the connection is refused, or neither bytes nor an end come.
#[track_caller]
pub fn visit_end(addr: SocketAddr) -> (u64, End) {
    connect_unless_reset(addr).map_or((0, End::Reset), |mut visitor| read_end(&mut visitor))
}

/// Bounds every wait on `stream`, and sends without delay.
///
/// # Panics
/// If the socket refuses its options.
pub fn bounded(stream: &TcpStream, patience: Duration) {
    crate::limit::arm();
    // Some kernels refuse this on a connection that has been reset already.
    let _ = stream.set_nodelay(true);
    stream.set_read_timeout(Some(patience)).expect("read timeout");
    stream.set_write_timeout(Some(patience)).expect("write timeout");
}

/// Reads until the stream ends, handing every piece to `on_bytes`.
///
/// # Panics
/// If neither bytes nor an end come within the stream's read timeout.
#[track_caller]
pub fn read_each(stream: &mut TcpStream, mut on_bytes: impl FnMut(&[u8])) -> End {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return End::Clean,
            Ok(n) => {
                total += n;
                on_bytes(&buffer[..n]);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return End::Reset,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("neither more bytes nor an end after {total} bytes")
            }
            Err(error) => panic!("after {total} bytes: {error}"),
        }
    }
}

/// Reads until the stream ends: how many bytes, and how it ended.
#[track_caller]
pub fn read_end(stream: &mut TcpStream) -> (u64, End) {
    let mut total = 0;
    let end = read_each(stream, |bytes| total += bytes.len() as u64);
    (total, end)
}

/// Reads to the clean end of the stream.
///
/// # Panics
/// If it is reset, or hangs.
#[track_caller]
pub fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let end = read_each(stream, |bytes| all.extend_from_slice(bytes));
    assert_eq!(end, End::Clean, "the stream was reset after {} bytes", all.len());
    all
}

/// Closes with a reset: the peer reads ECONNRESET after what it has been sent, or instead of it.
///
/// # Panics
/// If the socket refuses SO_LINGER.
pub fn reset(stream: TcpStream) {
    linger_zero(&stream);
    drop(stream);
}

/// Makes the last close of this socket a reset.
///
/// # Panics
/// If the socket refuses SO_LINGER.
pub fn linger_zero(stream: &TcpStream) {
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, sockopt::Linger, &now).expect("SO_LINGER");
}

/// Bytes that were sent on it and that the peer's kernel has not confirmed.
///
/// # Panics
/// If the kernel does not say.
#[must_use]
pub fn unacknowledged(stream: &TcpStream) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ writes one int, which outlives the call; the descriptor is open while it is borrowed.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    Errno::result(result).expect("SIOCOUTQ");
    usize::try_from(bytes).expect("not negative")
}

/// Gives the socket a small receive buffer, so that a reader who pauses stops the sender soon.
///
/// # Panics
/// If the socket refuses SO_RCVBUF.
pub fn small_receive_buffer(stream: &TcpStream) {
    setsockopt(stream, sockopt::RcvBuf, &(32 << 10)).expect("SO_RCVBUF");
}

/// Shuts the writing half: "I have sent everything".
///
/// # Panics
/// If the stream is gone.
#[track_caller]
pub fn finish(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).expect("shut the writing half");
}

/// A port of 127.0.0.1 that nobody listens on, for programs that must be told a number in advance. Taken
/// below the range from which the kernel picks, so that no passing connection occupies it meanwhile, and from numbers that
/// are this process's alone, so that no other run of tests does. UDP's is free, too.
///
/// # Panics
/// If no such port is left.
#[must_use]
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const BLOCKS: u16 = 20;
    const BLOCK: u16 = 600;
    /// Whoever listens at the first port of a block has the others.
    static OWN: OnceLock<TcpListener> = OnceLock::new();
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = OWN.get_or_init(|| {
        let mut blocks = (0..BLOCKS).map(|block| FIRST + block * BLOCK);
        blocks.find_map(|first| TcpListener::bind((LOOPBACK, first)).ok()).expect("fewer runs of tests at once")
    });
    let first = own.local_addr().expect("bound").port();
    for _ in 1..BLOCK {
        let port = first + 1 + NEXT.fetch_add(11, Ordering::Relaxed) % (BLOCK - 1);
        if TcpListener::bind((LOOPBACK, port)).is_ok() && UdpSocket::bind((LOOPBACK, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {first} to {}", first + BLOCK);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let near = connect(listener.local_addr().unwrap());
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn who_was_reset_within_connect_reads_it() {
        assert_eq!(read_end(&mut has_been_reset()), (0, End::Reset));
    }

    #[test]
    fn a_reset_and_a_clean_end_are_told_apart() {
        let (mut near, mut far) = pair();
        far.write_all(b"all").unwrap();
        drop(far);
        assert_eq!(read_end(&mut near), (3, End::Clean));

        let (mut near, far) = pair();
        reset(far);
        assert_eq!(read_end(&mut near), (0, End::Reset));
    }

    #[test]
    fn free_ports_differ_and_are_free() {
        let (one, other) = (free_port(), free_port());
        assert_ne!(one, other);
        TcpListener::bind((LOOPBACK, one)).unwrap();
        TcpListener::bind((LOOPBACK, other)).unwrap();
    }
}
