//! A flow as the relay sees it: a stream in each direction, in which each datagram has its length in front.

use crate::datagrams::{Deframer, Front, Lost, Queue};
use crate::report::Counts;
use crate::sys_error::SysError;
use crate::time::Instant;
use alloc::boxed::Box;
use core::net::SocketAddr;

/// See the module. `T` is a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Datagrams<T> {
    /// The flow's own; without one, whoever has the public port sends and hears for it.
    pub(crate) socket: Option<T>,
    /// Datagrams may be there to be read from it.
    pub(crate) may_hear: bool,
    /// Where the next one goes, if the socket is not connected.
    pub(crate) to: Option<SocketAddr>,
    /// What stands in front of what is sent.
    pub(crate) front: Option<Box<Front>>,
    /// From the outer side, for the conn.
    pub(crate) waiting: Queue,
    /// From the conn, for the outer side.
    pub(crate) out: Deframer,
    end: Option<End>,
}

/// How a flow has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    Silent,
    Refused,
}

impl<T> Datagrams<T> {
    pub(super) fn new(socket: Option<T>) -> Self {
        let (waiting, out) = (Queue::default(), Deframer::default());
        Self { socket, may_hear: true, to: None, front: None, waiting, out, end: None }
    }

    /// No datagram comes any more.
    pub(crate) fn end(&mut self) {
        self.end.get_or_insert(End::Silent);
    }

    /// Nobody is there at the LocalServer's port.
    // PROTOCOL.md: P-UDP-4.
    pub(crate) fn refuse(&mut self) {
        self.end = Some(End::Refused);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// A datagram of the outer side's that the path has given back goes by the conn, behind what waits there.
    // PROTOCOL.md: P-PATH-6.
    pub(crate) fn on_back(&mut self, now: Instant, datagram: &[u8], lost: &mut Counts<Lost>) {
        if self.has_ended() {
            lost.add(Lost::Ended);
        } else {
            self.waiting.push(now, datagram, lost);
        }
    }

    pub(super) fn is_readable(&self) -> bool {
        self.has_ended() || !self.waiting.is_empty()
    }

    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, SysError> {
        match (self.waiting.read(into), self.end) {
            (0, None) => Err(SysError::WouldBlock),
            (0, Some(End::Silent)) => Ok(0),
            (0, Some(End::Refused)) => Err(SysError::Reset),
            (read, _) => Ok(read),
        }
    }
}
