//! Visitors and services that speak UDP. Any datagram may be lost: who asks does so again until it is answered, and knows
//! its answer by what it says.

use crate::programs::{Options, Server};
use crate::wait::eventually;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Longer than any datagram.
const BUFFER: usize = 65_536;
/// How long an answer is awaited before it is asked for again.
const AGAIN: Duration = Duration::from_millis(300);

/// A service on a thread of its own. Dropped, it ends.
#[derive(Debug)]
pub struct DatagramService {
    addr: SocketAddr,
    heard: Arc<Mutex<BTreeMap<SocketAddr, u64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DatagramService {
    /// One that answers each datagram with the same.
    #[must_use]
    pub fn echo() -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), |socket, datagram, from| {
            let _ = socket.send_to(datagram, from);
        })
    }

    /// One at this address that does `serve` with each datagram.
    ///
    /// # Panics
    /// The address is in use.
    #[must_use]
    pub fn at(addr: SocketAddr, mut serve: impl FnMut(&UdpSocket, &[u8], SocketAddr) + Send + 'static) -> Self {
        let socket = UdpSocket::bind(addr).expect("a free port");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let addr = socket.local_addr().expect("its address");
        let (heard, stop) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicBool::new(false)));
        let (its_heard, stopped) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; BUFFER];
            while !stopped.load(Ordering::SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                *its_heard.lock().unwrap_or_else(PoisonError::into_inner).entry(from).or_default() += 1;
                serve(&socket, &buffer[..length], from);
            }
        });
        Self { addr, heard, stop, thread: Some(thread) }
    }

    /// Where it is.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From where it has heard, and how many datagrams.
    #[must_use]
    pub fn heard(&self) -> BTreeMap<SocketAddr, u64> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for DatagramService {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().expect("it runs").join();
        assert!(ended.is_ok() || thread::panicking(), "the service went on to the end");
    }
}

/// A server at whose proxy port no other test has the UDP port of the same number.
///
/// # Panics
/// It does not start.
#[must_use]
#[track_caller]
pub fn serving(options: &Options) -> Server {
    loop {
        let server = Server::start(options.clone());
        if UdpSocket::bind(server.proxy()).is_ok() {
            return server;
        }
    }
}

/// A visitor of `public`: a connected socket, which hears nobody else.
///
/// # Panics
/// There is no socket to be had.
#[must_use]
#[track_caller]
pub fn visitor(public: SocketAddr) -> UdpSocket {
    visitor_from(if public.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { public.ip() }, public)
}

/// The same from this address.
///
/// # Panics
/// There is no socket to be had.
#[must_use]
#[track_caller]
pub fn visitor_from(ip: IpAddr, public: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a free port");
    socket.connect(public).expect("UDP connects at once");
    socket.set_read_timeout(Some(AGAIN)).expect("a timeout");
    socket
}

/// Sends `question` until an answer comes that `is_it` takes. Whatever else comes is left to `is_it`, too.
///
/// # Panics
/// None comes in time.
#[track_caller]
pub fn ask(socket: &UdpSocket, question: &[u8], mut is_it: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut buffer = vec![0; BUFFER];
    eventually("an answer", || {
        socket.send(question).map_err(|error| format!("send: {error}"))?;
        loop {
            match socket.recv(&mut buffer) {
                Ok(length) if is_it(&buffer[..length]) => return Ok(buffer[..length].to_vec()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err("silence".to_owned());
                }
                Err(error) => return Err(format!("recv: {error}")),
            }
        }
    })
}

/// Sends `datagram` until it comes back.
///
/// # Panics
/// It does not.
#[track_caller]
pub fn echoed(socket: &UdpSocket, datagram: &[u8]) {
    ask(socket, datagram, |answer| answer == datagram);
}

/// A datagram of so many bytes that no other number makes.
#[must_use]
pub fn pattern(number: u64, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(|at| (at as u64 * 31 + number) as u8).collect();
    let head = number.to_be_bytes();
    let marked = length.min(head.len());
    bytes[..marked].copy_from_slice(&head[8 - marked..]);
    bytes
}
