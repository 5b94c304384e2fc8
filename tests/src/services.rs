//! LocalServers: small services in threads of the test, one thread per connection.

use crate::limit;
use crate::sockets::{LOOPBACK, bounded, reset};
use crate::wait::PATIENCE;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket};
use nix::sys::socket::{Backlog, listen, sockopt};
use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};

/// A running service. Dropping it stops listening; connections it has go on.
#[derive(Debug)]
pub struct Service {
    addr: SocketAddr,
    listener: TcpListener,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    accepted: AtomicU64,
    ended: AtomicU64,
    panicked: AtomicU64,
    stop: AtomicBool,
}

impl Service {
    /// Serves each connection with `handler` in a thread of its own, on a free port of 127.0.0.1.
    #[must_use]
    pub fn start(handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::new(LOOPBACK, 0), handler)
    }

    /// The same at an address of the caller's choice.
    ///
    /// # Panics
    /// If the address is taken.
    #[must_use]
    pub fn start_at(addr: SocketAddr, handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = listener_at(addr).unwrap_or_else(|error| panic!("listen on {addr}: {error}"));
        Self::serve(listener, handler)
    }

    /// The same on a listener that is there already.
    ///
    /// # Panics
    /// If no thread can be started.
    #[must_use]
    pub fn serve(listener: TcpListener, handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        limit::arm();
        let addr = listener.local_addr().expect("the listener's address");
        let accepting = listener.try_clone().expect("a second handle");
        let state = Arc::new(State::default());
        let (shared, handler) = (Arc::clone(&state), Arc::new(handler));
        let acceptor = small_thread("an acceptor", move || {
            for stream in accepting.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                bounded(&stream, PATIENCE);
                let (shared, handler) = (Arc::clone(&shared), Arc::clone(&handler));
                small_thread("a service", move || {
                    // A panic has printed its message; the test asks for the count.
                    if catch_unwind(AssertUnwindSafe(|| handler(stream))).is_err() {
                        shared.panicked.fetch_add(1, Ordering::SeqCst);
                    }
                    shared.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { addr, listener, state, acceptor: Some(acceptor) }
    }

    /// Sends back what comes, and ends when the visitor has ended; a reset is answered by a reset.
    #[must_use]
    pub fn echo() -> Self {
        Self::start(echo)
    }

    /// [`Service::echo`] at an address of the caller's choice.
    #[must_use]
    pub fn echo_at(addr: SocketAddr) -> Self {
        Self::start_at(addr, echo)
    }

    /// Says `text` to each visitor and ends: for telling services apart.
    #[must_use]
    pub fn greeter(text: &str) -> Self {
        let text = text.to_owned();
        Self::start(move |mut stream| {
            // A visitor who has gone already is the visitor's business.
            let _ = stream.write_all(text.as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 64]);
        })
    }

    /// Takes connections, and neither reads nor writes nor closes.
    #[must_use]
    pub fn silent() -> Self {
        Self::start(|stream| {
            std::thread::park_timeout(10 * PATIENCE);
            drop(stream);
        })
    }

    /// Takes connections and resets each at once.
    #[must_use]
    pub fn resetting() -> Self {
        Self::start(reset)
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Connections that it has not finished with.
    #[must_use]
    pub fn open(&self) -> u64 {
        let ended = self.state.ended.load(Ordering::SeqCst);
        self.accepted() - ended
    }

    /// Connections whose handler panicked.
    #[must_use]
    pub fn panicked(&self) -> u64 {
        self.state.panicked.load(Ordering::SeqCst)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        stop_listening(&self.listener);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// An address that refuses connections and that nobody else can take: bound, not listening.
#[derive(Debug)]
pub struct Refusing {
    socket: OwnedFd,
    addr: SocketAddr,
}

impl Refusing {
    /// Reserves a free port of 127.0.0.1.
    ///
    /// # Panics
    /// If the kernel has no socket left.
    #[must_use]
    pub fn reserve() -> Self {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        let any: SockaddrIn = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into();
        bind(socket.as_raw_fd(), &any).expect("a free port");
        let addr: SockaddrIn = nix::sys::socket::getsockname(socket.as_raw_fd()).expect("its address");
        Self { socket, addr: SocketAddr::V4(addr.into()) }
    }

    /// The address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to listen there, for as many connections as `backlog` says.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn listen(self, backlog: i32) -> TcpListener {
        listen(&self.socket, Backlog::new(backlog).expect("a backlog")).expect("listen");
        self.socket.into()
    }
}

/// Sends back what comes until the end, then ends; a reset is answered by a reset.
fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) if stream.write_all(&buffer[..n]).is_ok() => {}
            Ok(_) | Err(_) => return reset(stream),
        }
    }
}

/// Makes `accept` fail and new connections be refused, whoever else holds the socket.
pub(crate) fn stop_listening(listener: &TcpListener) {
    // Fails only if that has happened already.
    let _ = nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Read);
}

/// A listener with a backlog for thousands, which std does not offer.
fn listener_at(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(addr)?;
    setsockopt(&listener, sockopt::ReuseAddr, &true)?;
    listen(&listener, Backlog::new(4096)?)?;
    Ok(listener)
}

/// A thread with a stack that lets thousands stand side by side.
fn small_thread(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = Builder::new().name(name.to_owned()).stack_size(1 << 20);
    thread.spawn(body).expect("a thread")
}

/// The head of an HTTP request, with the empty line at its end. `None`: whoever asks has ended before.
///
/// # Panics
/// If it cannot be read, or is no text.
#[must_use]
pub fn read_head(from: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).expect("a head") == 0 {
            return None;
        }
    }
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::{End, connect, finish, read_all, read_end};
    use crate::wait::until;

    #[test]
    fn echo_returns_what_it_got_and_passes_ends_on() {
        let service = Service::echo();
        let mut visitor = connect(service.addr());
        visitor.write_all(b"hello").unwrap();
        finish(&visitor);
        assert_eq!(read_all(&mut visitor), b"hello");
        until("the service has ended", || service.open() == 0);
        assert_eq!(service.accepted(), 1);
    }

    #[test]
    fn a_reserved_port_refuses_until_it_listens() {
        let reserved = Refusing::reserve();
        let addr = reserved.addr();
        let refused = TcpStream::connect(addr).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let service = Service::serve(reserved.listen(16), reset);
        assert_eq!(read_end(&mut connect(service.addr())), (0, End::Reset));
        assert_eq!(service.addr(), addr);
    }

    #[test]
    fn a_stopped_service_refuses() {
        let service = Service::greeter("hi");
        let addr = service.addr();
        assert_eq!(read_all(&mut connect(addr)), b"hi");
        drop(service);
        let refused = TcpStream::connect(addr).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
