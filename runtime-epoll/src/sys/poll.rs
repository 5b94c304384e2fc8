//! epoll, edge-triggered: each socket is registered once, for both directions.

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Waker};
use protocol_sm::driver::{Readiness, Token};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Events taken at once. The messages and deadlines of a thread wait for as long as these take.
const BATCH: usize = 256;
/// Not a token of the slab: that has fewer than 2^32 entries.
const WAKER: mio::Token = mio::Token(usize::MAX);

/// Readiness of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) token: Token,
    pub(super) ready: Readiness,
    /// An urgent byte is in the stream.
    pub(super) urgent: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Poller {
    poll: Poll,
    events: Events,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { poll: Poll::new()?, events: Events::with_capacity(BATCH) })
    }

    /// What ends a [`Poller::wait`] from another thread. At most one per poller.
    pub(crate) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKER)
    }

    pub(super) fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        self.poll.registry().register(&mut SourceFd(&fd.as_fd().as_raw_fd()), to_mio(token), interest)
    }

    pub(super) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&fd.as_fd().as_raw_fd()))
    }

    /// Waits for events, at most as long as `timeout`, rounded up to milliseconds.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            result => result,
        }
    }

    /// What the last wait found.
    pub(super) fn events(&self) -> impl Iterator<Item = Event> {
        self.events.iter().filter(|event| event.token() != WAKER).map(|event| Event {
            token: Token(event.token().0 as u64),
            ready: Readiness {
                readable: event.is_readable(),
                writable: event.is_writable(),
                hup: event.is_read_closed(),
                error: event.is_error(),
            },
            urgent: event.is_priority(),
        })
    }
}

/// Tokens are 64 bits wide, and mio's a word: so are the machines that this runs on.
fn to_mio(token: Token) -> mio::Token {
    const { assert!(usize::BITS == 64) };
    mio::Token(token.0 as usize)
}
