//! epoll, edge-triggered: each socket is registered once for input, and once more when EPOLLOUT is needed too.

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Waker};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use protocol_sm::driver::{Readiness, Token};
use protocol_sm::time::Instant;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Events taken at once. The messages and deadlines of a thread wait for as long as these take.
const BATCH: usize = 256;
/// Not tokens of a driver: see [`to_mio`].
const WAKER: mio::Token = mio::Token(usize::MAX);
const TIMER: mio::Token = mio::Token(usize::MAX - 1);
/// Where the number of a driver stands in a token: between the index and the generation.
const SEAT_SHIFT: u32 = 24;
const SEAT_BITS: u64 = 0xff << SEAT_SHIFT;
/// Without EPOLLOUT: a new connection has room to write, so its event would wake the thread for nothing.
const FOR_INPUT: Interest = Interest::READABLE.add(Interest::PRIORITY);
const FOR_ALL: Interest = FOR_INPUT.add(Interest::WRITABLE);

/// Readiness of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) token: Token,
    pub(crate) ready: Readiness,
    /// An urgent byte is in the stream.
    pub(crate) urgent: bool,
}

/// The epoll set of a thread, which its drivers share: each registers its sockets by a `Registrar` of its own.
#[derive(Debug)]
pub struct Poller {
    poll: Poll,
    events: Events,
    seats: u8,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { poll: Poll::new()?, events: Events::with_capacity(BATCH), seats: 0 })
    }

    /// What ends a [`Poller::wait`] from another thread. At most one per poller.
    pub(crate) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKER)
    }

    /// One more driver's way into the set. The drivers are numbered from 0.
    pub(crate) fn registrar(&mut self) -> io::Result<Registrar> {
        let seat = self.seats;
        self.seats = seat.checked_add(1).expect("a thread has a handful of drivers");
        Ok(Registrar { registry: self.poll.registry().try_clone()?, seat })
    }

    /// Waits for events, at most as long as `timeout`, rounded up to milliseconds.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            result => result,
        }
    }

    /// What the last wait found, and for which driver.
    pub(crate) fn events(&self) -> impl Iterator<Item = (usize, Event)> {
        self.events.iter().filter(|event| event.token() != WAKER && event.token() != TIMER).map(|event| {
            let (seat, token) = from_mio(event.token());
            let ready = Readiness {
                readable: event.is_readable(),
                writable: event.is_writable(),
                hup: event.is_read_closed(),
                error: event.is_error(),
            };
            (seat, Event { token, ready, urgent: event.is_priority() })
        })
    }
}

/// Ends a [`Poller::wait`] at a deadline. Waits have no time limit of their own: that would cost each of them the
/// setting of a timer, while deadlines come and go and the next one that matters is mostly the same.
#[derive(Debug)]
pub(crate) struct Timer {
    timer: TimerFd,
    /// When it goes off; `None` if it is not set.
    set: Option<Instant>,
}

impl Timer {
    /// At most one per poller.
    pub(crate) fn new(poller: &Poller) -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        let fd = timer.as_fd().as_raw_fd();
        poller.poll.registry().register(&mut SourceFd(&fd), TIMER, Interest::READABLE)?;
        Ok(Self { timer, set: None })
    }

    /// Whether it goes off at `deadline` or earlier, as seen at `now`.
    pub(crate) fn wakes_before(&self, deadline: Instant, now: Instant) -> bool {
        self.set.is_some_and(|set| now < set && set <= deadline)
    }

    /// Sets it to go off at `deadline`, and no more for a deadline set before.
    pub(crate) fn wake_at(&mut self, deadline: Instant, now: Instant) -> io::Result<()> {
        // A duration of zero would disarm the timer.
        let left = deadline.since(now).max(Duration::from_nanos(1));
        let at = Expiration::OneShot(TimeSpec::from_duration(left));
        self.timer.set(at, TimerSetTimeFlags::empty())?;
        self.set = Some(deadline);
        Ok(())
    }
}

/// See [`Poller`].
#[derive(Debug)]
pub(crate) struct Registrar {
    registry: Registry,
    seat: u8,
}

impl Registrar {
    /// Registers `fd` for input, and for EPOLLOUT too if `room` is set.
    pub(super) fn add(&self, fd: impl AsFd, token: Token, room: bool) -> io::Result<()> {
        let interest = if room { FOR_ALL } else { FOR_INPUT };
        self.registry.register(&mut SourceFd(&fd.as_fd().as_raw_fd()), to_mio(self.seat, token), interest)
    }

    pub(super) fn add_room(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        self.registry.reregister(&mut SourceFd(&fd.as_fd().as_raw_fd()), to_mio(self.seat, token), FOR_ALL)
    }

    pub(super) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        self.registry.deregister(&mut SourceFd(&fd.as_fd().as_raw_fd()))
    }
}

/// Tokens are 64 bits wide, and mio's a word: so are the machines that this runs on.
fn to_mio(seat: u8, token: Token) -> mio::Token {
    const { assert!(usize::BITS == 64) };
    assert!(token.number() & SEAT_BITS == 0, "fewer than 2^24 sockets per driver");
    mio::Token((token.number() | u64::from(seat) << SEAT_SHIFT) as usize)
}

fn from_mio(token: mio::Token) -> (usize, Token) {
    let number = token.0 as u64;
    let token = Token::from_number(number & !SEAT_BITS).expect("only tokens are registered");
    (((number & SEAT_BITS) >> SEAT_SHIFT) as usize, token)
}
