//! The LocalServer that every peer exposes: answers the visits of [`super::wire`], checks each byte that reaches it, and
//! keeps a tally of how the visits ended.
//!
//! Small visits are served by one level-triggered epoll loop; a bulk visit gets a blocking thread
//! ([`super::service_bulk`]), so that the small ones' latency under load is the peer's and not this program's.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{SockFlag, accept4};

use super::pattern::{self, Way};
use super::wire::{HEADER_LEN, Header, Op, Tally};
use super::{service_bulk, sock};

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

/// How a visit ended, as the service saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Clean,
    Reset,
    Wrong,
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
    state: State,
}

enum State {
    /// Collecting the header.
    Header { got: usize, bytes: [u8; HEADER_LEN] },
    Echo(Exchange),
    /// Answers only after end-of-file, then closes.
    VisitorShutsFirst(Exchange),
    /// Has answered and shut its half; takes `size` bytes and end-of-file.
    ServiceShutsFirst(Exchange),
}

/// Where the two directions of a small visit stand.
struct Exchange {
    seed: u32,
    size: u64,
    /// Bytes taken from the visitor.
    taken: u64,
    /// Bytes given to the visitor.
    given: u64,
    /// Bytes that may be given by now.
    owed: u64,
}

enum Step {
    Stay,
    End(Ending),
    /// Not a visit: answer with the tally and close.
    Tally,
    Bulk(Header),
}

struct Service {
    epoll: Epoll,
    listener: TcpListener,
    visits: Vec<Option<Visit>>,
    free: Vec<usize>,
    counts: Arc<Counts>,
    buffer: Vec<u8>,
}

/// Serves on `listen` until killed. Prints `Listening ADDR` once it does.
pub(super) fn run(listen: SocketAddr) -> Result<(), String> {
    let listener = sock::listen(listen)?;
    let address = listener.local_addr().map_err(|e| format!("cannot read the listener's address: {e}"))?;
    println!("Listening {address}");
    std::io::stdout().flush().map_err(|e| format!("cannot write to stdout: {e}"))?;
    let fail = |e: Errno| format!("service on {address}: {e}");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(fail)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER)).map_err(fail)?;
    let mut service = Service {
        epoll,
        listener,
        visits: Vec::new(),
        free: Vec::new(),
        counts: Arc::default(),
        buffer: vec![0; BUFFER],
    };
    loop {
        service.turn().map_err(fail)?;
    }
}

impl Service {
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
            let state = State::Header { got: 0, bytes: [0; HEADER_LEN] };
            self.visits[index] = Some(Visit { stream, interest, state });
            // What the visitor says first has often arrived with it.
            self.serve(index);
        }
        Ok(())
    }

    fn serve(&mut self, index: usize) {
        let Some(visit) = self.visits.get_mut(index).and_then(Option::as_mut) else { return };
        let (step, rest) = visit.turn(&mut self.buffer);
        match step {
            Step::Stay => visit.watch(&self.epoll, index, &self.counts),
            Step::End(ending) => {
                if matches!(visit.state, State::Header { .. }) && ending == Ending::Clean {
                    // Came and went without a word, like a probe of the port: no visit.
                } else {
                    self.counts.ended(ending);
                }
                if ending != Ending::Clean {
                    sock::reset_on_close(&visit.stream);
                }
                self.forget(index);
            }
            Step::Tally => {
                // A fresh socket has room for it; if not, the asker sees it missing.
                let _ = visit.stream.write(&self.counts.tally().encode());
                self.forget(index);
            }
            Step::Bulk(header) => {
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
    /// One read and whatever follows from it. For [`Step::Bulk`], the range of the buffer that came after the header.
    fn turn(&mut self, buffer: &mut [u8]) -> (Step, std::ops::Range<usize>) {
        // While an answer is blocked nothing is read, so that memory stays bounded whatever the visitor does.
        if let State::Echo(x) | State::VisitorShutsFirst(x) | State::ServiceShutsFirst(x) = &mut self.state
            && x.owed > x.given
        {
            return (self.answer(), 0..0);
        }
        let n = match (&self.stream).read(buffer) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return (Step::Stay, 0..0),
            Err(_) => return (Step::End(Ending::Reset), 0..0),
        };
        let mut start = 0;
        if let State::Header { got, bytes } = &mut self.state {
            let part = n.min(HEADER_LEN - *got);
            bytes[*got..*got + part].copy_from_slice(&buffer[..part]);
            *got += part;
            start = part;
            if *got < HEADER_LEN {
                let ending = match (n, *got) {
                    (0, 0) => Some(Ending::Clean),
                    (0, _) => Some(Ending::Wrong),
                    _ => None,
                };
                return (ending.map_or(Step::Stay, Step::End), 0..0);
            }
            let Some(header) = Header::decode(bytes) else { return (Step::End(Ending::Wrong), 0..0) };
            let x = Exchange { seed: header.seed, size: header.size, taken: 0, given: 0, owed: 0 };
            self.state = match header.op {
                Op::Echo => State::Echo(x),
                Op::VisitorShutsFirst => State::VisitorShutsFirst(x),
                Op::ServiceShutsFirst => State::ServiceShutsFirst(Exchange { owed: x.size, ..x }),
                Op::Tally => return (Step::Tally, 0..0),
                Op::Down | Op::Up | Op::Both => return (Step::Bulk(header), start..n),
            };
        }
        (self.take(&buffer[start..n], n == 0), 0..0)
    }

    /// Checks what came and answers if the moment has come.
    fn take(&mut self, got: &[u8], eof: bool) -> Step {
        let at_header = matches!(&self.state, State::Header { .. });
        debug_assert!(!at_header, "the header is consumed before");
        let (x, ended) = match &mut self.state {
            State::Header { .. } => return Step::Stay,
            State::Echo(x) => {
                let whole = x.taken % x.size == 0;
                (x, eof.then_some(if whole { Ending::Clean } else { Ending::Wrong }))
            }
            State::VisitorShutsFirst(x) => {
                if eof {
                    if x.taken != x.size {
                        return Step::End(Ending::Wrong);
                    }
                    x.owed = x.size;
                }
                (x, None)
            }
            State::ServiceShutsFirst(x) => {
                let whole = x.taken == x.size;
                (x, eof.then_some(if whole { Ending::Clean } else { Ending::Wrong }))
            }
        };
        if let Some(ending) = ended {
            return Step::End(ending);
        }
        if !pattern::matches(x.seed, Way::Up, x.taken, got) {
            return Step::End(Ending::Wrong);
        }
        x.taken += got.len() as u64;
        let limit = match &mut self.state {
            State::Echo(x) => {
                // Answers whole messages only; a second message before the answer to the first is no echo.
                x.owed = x.taken - x.taken % x.size;
                x.given + x.size
            }
            State::Header { .. } => return Step::Stay,
            State::VisitorShutsFirst(x) | State::ServiceShutsFirst(x) => x.size,
        };
        let State::Echo(x) | State::VisitorShutsFirst(x) | State::ServiceShutsFirst(x) = &self.state else {
            return Step::Stay;
        };
        if x.taken > limit {
            return Step::End(Ending::Wrong);
        }
        self.answer()
    }

    /// Gives what is owed, as far as the socket takes it.
    fn answer(&mut self) -> Step {
        let State::Echo(x) | State::VisitorShutsFirst(x) | State::ServiceShutsFirst(x) = &mut self.state else {
            return Step::Stay;
        };
        if x.owed == x.given {
            return Step::Stay;
        }
        while x.owed > x.given {
            let len = (x.owed - x.given).min(pattern::LONGEST as u64) as usize;
            match (&self.stream).write(pattern::bytes(x.seed, Way::Down, x.given, len)) {
                Ok(n) => x.given += n as u64,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Step::Stay,
                Err(_) => return Step::End(Ending::Reset),
            }
        }
        match self.state {
            State::Header { .. } | State::Echo(_) => Step::Stay,
            State::VisitorShutsFirst(_) => Step::End(Ending::Clean),
            State::ServiceShutsFirst(_) => match self.stream.shutdown(Shutdown::Write) {
                Ok(()) => Step::Stay,
                Err(_) => Step::End(Ending::Reset),
            },
        }
    }

    fn watch(&mut self, epoll: &Epoll, index: usize, _counts: &Counts) {
        let blocked = match &self.state {
            State::Header { .. } => false,
            State::Echo(x) | State::VisitorShutsFirst(x) | State::ServiceShutsFirst(x) => x.owed > x.given,
        };
        let want = if blocked { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        if want != self.interest {
            self.interest = want;
            let _ = epoll.modify(&self.stream, &mut EpollEvent::new(want, index as u64));
        }
    }
}
