//! A connection from a trusted proxy, until its PROXY header has said who is behind it (PROTOCOL.md, "Relays in front of
//! the server").
//!
//! ```text
//! header due ──header──▶ quiet ──a byte, or silent for [`QUIET`]──▶ it goes on as who it is
//!   │  └── malformed, or late: reset       └── ended: a check, dropped
//!   └── ended: dropped
//! ```
//! Only the header is taken off the connection; what stands behind it is left to whoever has the connection next.

use super::sys::Streams;
use super::thread::Cx;
use crate::proxy_protocol::{Ends, Header, HeaderReader, LONGEST_HEADER};
use crate::sys_error::SysError;
use crate::time::Instant;
use core::net::SocketAddr;
use core::time::Duration;

/// How long a header may take.
// PROTOCOL.md: P-FRONT-2.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may be silent behind its header before it is taken for somebody who waits to be greeted. A
/// relay's check ends at once.
// PROTOCOL.md: P-FRONT-3.
const QUIET: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Unnamed<T> {
    pub(super) stream: T,
    /// The proxy's address.
    pub(super) from: SocketAddr,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Due { reader: HeaderReader, until: Instant },
    Quiet { ends: Option<Ends>, until: Instant },
}

/// What came of looking at one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing yet: there is more to wait for.
    Nothing,
    /// Somebody is there, and it is known who.
    Visitor,
    /// It has ended: nobody was there.
    Gone,
    /// It sends no header.
    Malformed,
}

impl<T> Unnamed<T> {
    /// One that was accepted just now.
    pub(super) fn new(stream: T, from: SocketAddr, now: Instant) -> Self {
        let stage = Stage::Due { reader: HeaderReader::default(), until: now + HEADER_TIMEOUT };
        Self { stream, from, stage }
    }

    /// When to stop waiting.
    pub(super) fn deadline(&self) -> Instant {
        match self.stage {
            Stage::Due { until, .. } | Stage::Quiet { until, .. } => until,
        }
    }

    /// Whether its header has come.
    pub(super) fn is_named(&self) -> bool {
        matches!(self.stage, Stage::Quiet { .. })
    }

    /// Who is behind it and where he has connected to, if its header has come and says so.
    pub(super) fn ends(&self) -> Option<Ends> {
        match self.stage {
            Stage::Due { .. } => None,
            Stage::Quiet { ends, .. } => ends,
        }
    }

    /// Looks at what has come.
    pub(super) fn hear<S: Streams<Stream = T>>(&mut self, cx: &mut Cx<'_, S>) -> Heard {
        let most = cx.scratch.len().min(LONGEST_HEADER);
        loop {
            let length = match cx.sys.peek(&self.stream, &mut cx.scratch[..most]) {
                Ok(0) => return Heard::Gone,
                Ok(length) => length,
                Err(SysError::WouldBlock) => return Heard::Nothing,
                Err(_) => return Heard::Gone,
            };
            let Stage::Due { reader, .. } = &mut self.stage else { return Heard::Visitor };
            let mut rest = &cx.scratch[..length];
            let read = reader.next(&mut rest);
            let taken = length - rest.len();
            cx.sys.skip(&self.stream, taken);
            match read {
                Ok(None) => {}
                Ok(Some(Header { ends })) => {
                    self.stage = Stage::Quiet { ends, until: cx.now + QUIET };
                }
                Err(_) => return Heard::Malformed,
            }
        }
    }
}
