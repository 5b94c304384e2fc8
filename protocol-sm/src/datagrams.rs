//! Datagrams that stay datagrams: what a *flow*, the datagrams of one visitor at one tunnel, is made of (PROTOCOL.md,
//! "Flows"). No sockets and no clock: the event loops hand both in.
//!
//! | part | what it decides |
//! |---|---|
//! | [`Deframer`], [`frame`] | where one datagram ends and the next begins, on a conn |
//! | [`Queue`] | what waits for room, for how long, and what of it is dropped |
//! | [`Front`] | what stands in front of what a LocalServer is sent |
//! | [`Lifetime`] | when a flow that is silent is over |
//! | [`FlowTable`] | whose datagram it is, and which flow makes room for another |
//! | [`PathState`], [`PathDatagram`] | what goes beside the conns, by UDP |
//! | [`Pulse`] | whether that way still works |

mod framing;
mod front;
mod lifetime;
mod path;
mod queue;
mod table;

pub use framing::{Deframer, HEADER, MAX_DATAGRAM, TooLong, frame};
pub use front::Front;
pub use lifetime::{FRESH, Lifetime};
pub use path::{Beat, PathDatagram, PathId, PathState, Pulse};
pub use queue::{PATIENCE, Queue, ROOM};
pub(crate) use table::Speaker;
pub use table::{FlowTable, MAX_FLOWS, Party};

/// Why a datagram went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// It has waited for too long.
    Late,
    /// Too much of its flow waited.
    NoRoom,
    /// It is longer than [`MAX_DATAGRAM`].
    TooLong,
    /// Its flow has ended.
    Ended,
    /// The system did not send it.
    NotSent,
    /// It comes from somebody else than the LocalServer.
    Foreign,
    /// No flow was begun for it: its visitor may not visit, or there is no room for one more flow.
    NoFlow,
    /// It comes from a trusted proxy, without a PROXY header that is one.
    NoHeader,
    /// It has come by the path for a flow that is not there, or not any more.
    Stale,
}
