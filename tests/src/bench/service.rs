//! The LocalServer that every peer exposes: answers the visits of [`super::wire`], checks each byte that reaches it, and
//! keeps a tally of how the visits ended.
//!
//! Small visits are served by one level-triggered epoll loop; a bulk visit gets a blocking thread
//! ([`super::service_bulk`]), so that the small ones' latency under load is the peer's and not this program's.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{SockFlag, accept4};

use super::exchange::{Ending, Exchange};
use super::wire::{HEADER_LEN, Header, Op, PREAMBLE_LEN, Tally, begins_preamble};
use super::{datagrams, service_bulk, sock};

const LISTENER: u64 = u64::MAX;
const ACCEPTS: usize = 64;
const BUFFER: usize = 128 * 1024;

/// The tally, shared with the bulk threads.
#[derive(Default)]
pub(super) struct Counts {
    begun: AtomicU64,
    clean: AtomicU64,
    reset: AtomicU64,
    wrong: AtomicU64,
}

impl Counts {
    pub(super) fn ended(&self, ending: Ending) {
        let counter = match ending {
            Ending::Clean => &self.clean,
            Ending::Reset => &self.reset,
            Ending::Wrong => &self.wrong,
        };
        counter.fetch_add(1, Relaxed);
    }

    fn tally(&self) -> Tally {
        Tally {
            begun: self.begun.load(Relaxed),
            clean: self.clean.load(Relaxed),
            reset: self.reset.load(Relaxed),
            wrong: self.wrong.load(Relaxed),
        }
    }
}

/// A small visit on the loop.
struct Visit {
    stream: TcpStream,
    interest: EpollFlags,
    /// Bytes of a preamble that are still to come.
    preamble: usize,
    header: [u8; HEADER_LEN],
    header_got: usize,
    /// Known once the header is complete.
    exchange: Option<Exchange>,
}

/// What the visit wants of the loop after a turn.
enum Step {
    Stay,
    End(Ending),
    /// Not a visit: answer with the tally and close.
    Tally,
    /// Not for the loop. What followed the header is in this range of the buffer.
    Bulk(Header, Range<usize>),
}

/// The service, bound to its address.
pub(super) struct Service {
    epoll: Epoll,
    pub(super) listener: TcpListener,
    visits: Vec<Option<Visit>>,
    free: Vec<usize>,
    counts: Arc<Counts>,
    buffer: Vec<u8>,
}

/// Serves on `listen` until killed, over UDP, too. Prints `Listening ADDR` once it does.
pub(super) fn run(listen: SocketAddr) -> Result<(), String> {
    let service = Service::bind(listen)?;
    datagrams::serve(service.listener.local_addr().map_err(|e| format!("no address: {e}"))?)?;
    sock::announce(&service.listener)?;
    service.serve_for_ever()
}

impl Service {
    pub(super) fn bind(listen: SocketAddr) -> Result<Self, String> {
        let listener = sock::listen(listen)?;
        let epoll = sock::watching(&listener, LISTENER)?;
        let buffer = vec![0; BUFFER];
        Ok(Self { epoll, listener, visits: Vec::new(), free: Vec::new(), counts: Arc::default(), buffer })
    }

    pub(super) fn serve_for_ever(mut self) -> Result<(), String> {
        loop {
            self.turn().map_err(|e| format!("service: {e}"))?;
        }
    }

    fn turn(&mut self) -> Result<(), Errno> {
        let mut events = [EpollEvent::empty(); 256];
        let n = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        let mut visitors = false;
        for event in &events[..n] {
            if event.data() == LISTENER {
                visitors = true;
            } else {
                self.serve(event.data() as usize);
            }
        }
        // Last, so that a slot freed in this batch cannot be taken while the batch still has events for it.
        if visitors {
            self.accept()?;
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<(), Errno> {
        for _ in 0..ACCEPTS {
            let accepted = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC);
            let fd = match accepted {
                // SAFETY: accept4 has just made this descriptor, and nobody else knows of it.
                Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
                Err(e) => return Err(e),
            };
            let stream = TcpStream::from(fd);
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            let index = self.free.pop().unwrap_or_else(|| {
                self.visits.push(None);
                self.visits.len() - 1
            });
            let interest = EpollFlags::EPOLLIN;
            self.epoll.add(&stream, EpollEvent::new(interest, index as u64))?;
            let visit = Visit { stream, interest, preamble: 0, header: [0; HEADER_LEN], header_got: 0, exchange: None };
            self.visits[index] = Some(visit);
            // What the visitor says first has often arrived with it.
            self.serve(index);
        }
        Ok(())
    }

    fn serve(&mut self, index: usize) {
        let Some(visit) = self.visits.get_mut(index).and_then(Option::as_mut) else { return };
        let known = visit.exchange.is_some();
        let step = visit.turn(&mut self.buffer);
        if !known && visit.exchange.is_some() {
            self.counts.begun.fetch_add(1, Relaxed);
        }
        match step {
            Step::Stay => visit.watch(&self.epoll, index),
            Step::End(ending) => {
                if ending != Ending::Clean {
                    sock::reset_on_close(&visit.stream);
                }
                // Who came and went without a word was a probe of the port; who spoke nonsense was no visitor of ours.
                if visit.exchange.is_some() {
                    self.counts.ended(ending);
                } else if visit.header_got > 0 {
                    self.counts.begun.fetch_add(1, Relaxed);
                    self.counts.ended(Ending::Wrong);
                }
                self.forget(index);
            }
            Step::Tally => {
                // A fresh socket has room for it; if not, the asker sees it missing.
                let _ = visit.stream.write(&self.counts.tally().encode());
                self.forget(index);
            }
            Step::Bulk(header, rest) => {
                let early = self.buffer[rest].to_vec();
                if let Some(visit) = self.forget(index) {
                    let counts = Arc::clone(&self.counts);
                    counts.begun.fetch_add(1, Relaxed);
                    std::thread::spawn(move || {
                        counts.ended(service_bulk::serve(visit.stream, header, &early));
                    });
                }
            }
        }
    }

    fn forget(&mut self, index: usize) -> Option<Visit> {
        let visit = self.visits[index].take()?;
        self.free.push(index);
        // Closing would do the same, but a bulk visit lives on elsewhere. Fails only on a descriptor that is not there.
        let _ = self.epoll.delete(&visit.stream);
        Some(visit)
    }
}

impl Visit {
    /// One read and whatever follows from it.
    fn turn(&mut self, buffer: &mut [u8]) -> Step {
        // While an answer is blocked nothing is read, so that memory stays bounded whatever the visitor does.
        if self.exchange.as_ref().is_some_and(Exchange::owes) {
            return self.answer();
        }
        let n = match (&self.stream).read(buffer) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Step::Stay,
            Err(_) => return Step::End(self.exchange.as_ref().map_or(Ending::Reset, Exchange::fail)),
        };
        let start = self.begin(&buffer[..n]);
        let exchange = match &mut self.exchange {
            Some(exchange) => exchange,
            None if n == 0 => return Step::End(Ending::Wrong),
            None if self.header_got < HEADER_LEN => return Step::Stay,
            None => match Header::decode(&self.header) {
                None => return Step::End(Ending::Wrong),
                Some(Header { op: Op::Tally, .. }) => return Step::Tally,
                Some(header @ Header { op: Op::Down | Op::Up | Op::Both, .. }) => {
                    return Step::Bulk(header, start..n);
                }
                Some(header) => self.exchange.insert(Exchange::new(header)),
            },
        };
        let ending = if n == 0 { exchange.finish() } else { exchange.take(&buffer[start..n]) };
        ending.map_or_else(|| self.answer(), Step::End)
    }

    /// Takes the header, and what may stand in front of it, off the front of what has come. Returns how much that was.
    fn begin(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if self.header_got == 0
            && self.preamble == 0
            && self.exchange.is_none()
            && bytes.first().is_some_and(|&byte| begins_preamble(byte))
        {
            self.preamble = PREAMBLE_LEN;
        }
        let skipped = self.preamble.min(bytes.len());
        self.preamble -= skipped;
        at += skipped;
        let taken = (bytes.len() - at).min(HEADER_LEN - self.header_got);
        self.header[self.header_got..self.header_got + taken].copy_from_slice(&bytes[at..at + taken]);
        self.header_got += taken;
        at + taken
    }

    /// Gives what is owed, as far as the socket takes it.
    fn answer(&mut self) -> Step {
        let Some(exchange) = self.exchange.as_mut().filter(|x| x.owes()) else { return Step::Stay };
        while exchange.owes() {
            match (&self.stream).write(exchange.next_bytes()) {
                Ok(n) => exchange.given(n),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Step::Stay,
                Err(_) => return Step::End(Ending::Reset),
            }
        }
        match exchange.op() {
            Op::VisitorShutsFirst => Step::End(Ending::Clean),
            Op::ServiceShutsFirst => match self.stream.shutdown(Shutdown::Write) {
                Ok(()) => Step::Stay,
                Err(_) => Step::End(Ending::Reset),
            },
            Op::Echo | Op::EchoThenReset | Op::Down | Op::Up | Op::Both | Op::Tally => Step::Stay,
        }
    }

    fn watch(&mut self, epoll: &Epoll, index: usize) {
        let blocked = self.exchange.as_ref().is_some_and(Exchange::owes);
        let want = if blocked { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        if want != self.interest {
            self.interest = want;
            // Fails only on a descriptor that is not there.
            let _ = epoll.modify(&self.stream, &mut EpollEvent::new(want, index as u64));
        }
    }
}
