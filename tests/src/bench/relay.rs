//! S, the yardstick: one hop of a minimal splice relay. Two of them in a chain have our topology and nothing else: no
//! framing, no control connection, no reuse. What such a chain reaches is what the kernel allows to a relay that dials a
//! fresh middle leg for each visit.
//!
//! One thread, epoll, pipes of the default 64 KiB held only while bytes are in them. It honours half-close and turns a
//! reset on one side into a reset on the other. Both ways to use epoll are here, because each is better at something: see
//! [`Trigger`].

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use clap::ValueEnum;
use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{Shutdown, SockFlag, accept4, setsockopt, shutdown, sockopt};
use nix::unistd::pipe2;

use super::sock;

/// What one splice call may move: the size of a pipe.
const TURN: usize = 64 * 1024;
/// Empty pipes kept for the next direction that needs one.
const SPARE_PIPES: usize = 64;
/// Visits accepted per wake-up, so that a burst of visitors does not hold up those who are in.
const ACCEPTS: usize = 64;
const LISTENER: u64 = u64::MAX;

/// The bytes on their way in one direction. Reading end, writing end.
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    held: usize,
}

/// One socket of a visit and the direction that starts at it.
struct Leg {
    fd: OwnedFd,
    /// What epoll watches it for; `None` once it is shut both ways and watched no more. Edge-triggered, it stays.
    interest: Option<EpollFlags>,
    /// Connected for certain.
    up: bool,
    /// Bytes read from this leg that the other one has not taken yet.
    pipe: Option<Pipe>,
    /// This leg's reads are over.
    eof: bool,
    /// The other leg has been told so.
    shut: bool,
}

struct Visit {
    legs: [Leg; 2],
}

/// How epoll reports readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Trigger {
    /// Once per change: every leg is registered once for its life, and each event is served until EAGAIN.
    Edge,
    /// As long as it lasts: one pipe full per event, so the visits take turns, and the registration follows what is
    /// wanted.
    Level,
}

/// Why a visit ends.
enum End {
    /// Both directions reached their end.
    Clean,
    /// One side was reset, or could not be reached.
    Abort,
}

/// One hop, bound to its address.
pub(super) struct Relay {
    epoll: Epoll,
    pub(super) listener: TcpListener,
    to: SocketAddr,
    trigger: Trigger,
    visits: Vec<Option<Visit>>,
    free: Vec<usize>,
    /// Visits closed during this batch of events. Their slots are free again only after it, or a late event of the
    /// batch would hit the next visit in the same slot.
    closed: Vec<usize>,
    pipes: Vec<Pipe>,
    /// Out of file descriptors: the listener is not watched until a visit ends.
    full: bool,
}

/// Relays whatever connects to `listen` to `to`, until killed. Prints `Listening ADDR` once it does.
pub(super) fn run(listen: SocketAddr, to: SocketAddr, trigger: Trigger) -> Result<(), String> {
    let relay = Relay::bind(listen, to, trigger)?;
    sock::announce(&relay.listener)?;
    relay.serve_for_ever()
}

impl Relay {
    pub(super) fn bind(listen: SocketAddr, to: SocketAddr, trigger: Trigger) -> Result<Self, String> {
        let listener = sock::listen(listen)?;
        let epoll = sock::watching(&listener, LISTENER)?;
        let (visits, free, closed, pipes) = Default::default();
        Ok(Self { epoll, listener, to, trigger, visits, free, closed, pipes, full: false })
    }

    pub(super) fn serve_for_ever(mut self) -> Result<(), String> {
        loop {
            self.turn().map_err(|e| format!("relay: {e}"))?;
        }
    }

    fn turn(&mut self) -> Result<(), Errno> {
        let mut events = [EpollEvent::empty(); 256];
        let n = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        for event in &events[..n] {
            if event.data() == LISTENER {
                self.accept()?;
            } else {
                let (index, side) = ((event.data() >> 1) as usize, (event.data() & 1) as usize);
                self.serve(index, side, event.events());
            }
        }
        if !self.closed.is_empty() {
            self.free.append(&mut self.closed);
            if std::mem::take(&mut self.full) {
                self.epoll.modify(&self.listener, &mut EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
            }
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
                Err(Errno::EMFILE | Errno::ENFILE) => {
                    self.full = true;
                    self.epoll.modify(&self.listener, &mut EpollEvent::new(EpollFlags::empty(), LISTENER))?;
                    break;
                }
                Err(e) => return Err(e),
            };
            // A visitor whose second leg cannot be made sees a reset; the others go on.
            match sock::connect(self.to) {
                Ok(second) => self.admit(fd, second)?,
                Err(_) => sock::reset_on_close(&fd),
            }
        }
        Ok(())
    }

    /// Takes a visit in and moves what its visitor has sent already: on loopback the second leg is up by now.
    fn admit(&mut self, first: OwnedFd, second: OwnedFd) -> Result<(), Errno> {
        setsockopt(&first, sockopt::TcpNoDelay, &true)?;
        let index = self.free.pop().unwrap_or_else(|| {
            self.visits.push(None);
            self.visits.len() - 1
        });
        let interest = match self.trigger {
            Trigger::Level => EpollFlags::EPOLLIN,
            Trigger::Edge => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET,
        };
        let leg = |fd, up| Leg { fd, interest: Some(interest), up, pipe: None, eof: false, shut: false };
        let legs = [leg(first, true), leg(second, false)];
        for (side, leg) in legs.iter().enumerate() {
            let token = (index as u64) << 1 | side as u64;
            self.epoll.add(&leg.fd, EpollEvent::new(interest, token))?;
        }
        self.visits[index] = Some(Visit { legs });
        self.serve(index, 0, EpollFlags::EPOLLIN);
        Ok(())
    }

    /// Moves what can be moved after an event on one leg.
    fn serve(&mut self, index: usize, side: usize, events: EpollFlags) {
        let Some(visit) = self.visits.get_mut(index).and_then(Option::as_mut) else { return };
        let mut step = || {
            if events.contains(EpollFlags::EPOLLERR) {
                return Err(End::Abort);
            }
            if events.contains(EpollFlags::EPOLLOUT) {
                visit.legs[side].up = true;
                if visit.legs[1 - side].waits() {
                    visit.flow(1 - side, self.trigger, &mut self.pipes)?;
                }
            }
            if events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP) {
                visit.flow(side, self.trigger, &mut self.pipes)?;
            }
            if visit.legs.iter().all(|leg| leg.shut) {
                return Err(End::Clean);
            }
            match self.trigger {
                Trigger::Level => visit.watch(&self.epoll, index),
                Trigger::Edge => Ok(()),
            }
        };
        if let Err(end) = step() {
            self.close(index, end);
        }
    }

    fn close(&mut self, index: usize, end: End) {
        let Some(mut visit) = self.visits[index].take() else { return };
        for leg in &mut visit.legs {
            if matches!(end, End::Abort) {
                sock::reset_on_close(&leg.fd);
            }
            // A pipe that still holds bytes is dropped: they belong to nobody else.
            if let Some(pipe) = leg.pipe.take() {
                give_back(&mut self.pipes, pipe);
            }
        }
        self.closed.push(index);
    }
}

impl Leg {
    /// Something read from this leg, bytes or their end, waits for the other one.
    fn waits(&self) -> bool {
        self.pipe.is_some() || self.eof && !self.shut
    }
}

impl Visit {
    /// The direction that starts at leg `from`: read up to a pipe full, write it, and so on as the trigger demands, and
    /// pass the end on.
    fn flow(&mut self, from: usize, trigger: Trigger, pipes: &mut Vec<Pipe>) -> Result<(), End> {
        let [a, b] = &mut self.legs;
        let (source, sink) = if from == 0 { (a, b) } else { (b, a) };
        loop {
            // Only into an empty pipe: with bytes inside, EAGAIN would not tell an empty source from a full pipe.
            if source.pipe.is_none() && !source.eof {
                let mut pipe = take(pipes)?;
                match moved(&source.fd, &pipe.into)? {
                    Some(0) => source.eof = true,
                    Some(n) => pipe.held = n,
                    None => {}
                }
                if pipe.held == 0 {
                    give_back(pipes, pipe);
                    break;
                }
                source.pipe = Some(pipe);
            }
            let Some(pipe) = &mut source.pipe else { break };
            while pipe.held > 0
                && let Some(n) = moved(&pipe.out, &sink.fd)?
            {
                pipe.held -= n;
                sink.up = true;
            }
            if pipe.held > 0 {
                break;
            }
            source.pipe.take().into_iter().for_each(|pipe| give_back(pipes, pipe));
            if trigger == Trigger::Level {
                break;
            }
        }
        // Shutting a socket that is still connecting would break the connection off.
        if source.eof && source.pipe.is_none() && !source.shut && sink.up {
            source.shut = true;
            shutdown(sink.fd.as_raw_fd(), Shutdown::Write).map_err(|_| End::Abort)?;
        }
        Ok(())
    }

    /// Asks epoll for exactly what the next step of each leg needs.
    fn watch(&mut self, epoll: &Epoll, index: usize) -> Result<(), End> {
        for side in 0..2 {
            let blocked = self.legs[1 - side].waits();
            let finished = self.legs[1 - side].shut;
            let leg = &mut self.legs[side];
            // Shut both ways it would report EPOLLHUP for ever, while the other leg still takes its last bytes.
            let mut want = (!(leg.eof && finished)).then(EpollFlags::empty);
            if let Some(want) = &mut want {
                want.set(EpollFlags::EPOLLIN, !leg.eof && leg.pipe.is_none());
                want.set(EpollFlags::EPOLLOUT, blocked);
            }
            if want == leg.interest {
                continue;
            }
            leg.interest = want;
            let token = (index as u64) << 1 | side as u64;
            let done = match want {
                Some(want) => epoll.modify(&leg.fd, &mut EpollEvent::new(want, token)),
                None => epoll.delete(&leg.fd),
            };
            done.map_err(|_| End::Abort)?;
        }
        Ok(())
    }
}

/// One splice call. `None`: not now.
fn moved(from: &impl AsFd, to: &impl AsFd) -> Result<Option<usize>, End> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(from, None, to, None, TURN, flags) {
            Ok(n) => return Ok(Some(n)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(_) => return Err(End::Abort),
        }
    }
}

fn take(pipes: &mut Vec<Pipe>) -> Result<Pipe, End> {
    if let Some(pipe) = pipes.pop() {
        return Ok(pipe);
    }
    let (out, into) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).map_err(|_| End::Abort)?;
    Ok(Pipe { out, into, held: 0 })
}

fn give_back(pipes: &mut Vec<Pipe>, pipe: Pipe) {
    if pipe.held == 0 && pipes.len() < SPARE_PIPES {
        pipes.push(pipe);
    }
}
