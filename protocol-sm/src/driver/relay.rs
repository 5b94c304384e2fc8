//! The relay's turn: moves bytes from one socket to another as far as both allow, and counts them.
//!
//! Small messages are read into the thread's buffer and sent at once; a stream that fills the buffer is
//! bulk, and is spliced through a pipe from then on, until several lean turns show that it no longer is.
//! Before anything is read, what is held is sent: so the pipe is empty at every read, and "would block"
//! is never ambiguous. A pipe is held only while bytes are in it.

mod datagrams;
mod endpoint;
mod flow;
mod link;

pub(crate) use datagrams::Datagrams;
pub(crate) use endpoint::{Endpoint, failed};
pub(crate) use flow::LONGEST_FRAME;
pub(crate) use link::{Exchanged, Link, Mode};

use crate::codes::{AbortCode, Violation};

/// Why a conn goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The transfer is aborted.
    Abort(AbortCode),
    /// The peer broke the protocol.
    Violation(Violation),
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<AbortCode> for End {
    fn from(code: AbortCode) -> Self {
        Self::Abort(code)
    }
}
