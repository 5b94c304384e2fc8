//! What main drivers and whoever carries the paths say to each other. Production carries them by QUIC, on the main thread
//! (`runtime-epoll`); it decides nothing: when to open one, who may use it, and what goes by it is decided by the drivers.

use crate::auth::Channel;
use crate::datagrams::{Lost, PathDatagram, PathId, PathState};
use crate::report::Counts;
use crate::settings::Origin;
use crate::sys_error::SysError;
use crate::wire::Pin;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// To whoever carries paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToPaths {
    /// Server: take clients' paths at this address. Answered by [`FromPaths::Listening`].
    Listen(SocketAddr),
    /// Server: take none any more; all are closed.
    Unlisten,
    /// Client: open a path to a server that shows a key with this pin. Answered by [`FromPaths::Open`] or
    /// [`FromPaths::Gone`].
    Open {
        /// Its number.
        path: PathId,
        /// Where it begins.
        from: Origin,
        /// Where it goes.
        to: SocketAddr,
        /// The server's key.
        pin: Pin,
    },
    /// Says this to the peer, before any datagram, all of it and nothing more.
    Say(PathId, Vec<u8>),
    /// Both sides have proved themselves: datagrams may pass. Answered by [`FromPaths::State`], again and again.
    Pass(PathId),
    /// Send this, or give it back.
    Send(PathId, PathDatagram),
    /// Close it. Nothing more is said of it.
    Close(PathId),
}

/// From whoever carries paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FromPaths {
    /// The answer to [`ToPaths::Listen`]: the pin of the key that is shown there, or why it cannot be.
    Listening(Result<Pin, SysError>),
    /// Client: the path stands, and this is its channel. Nobody has proved anything.
    Open(PathId, Channel),
    /// The peer has said this to begin with. At a server that is the first that is heard of a path.
    Said {
        /// The path.
        path: PathId,
        /// Where the peer is.
        from: SocketAddr,
        /// Its channel.
        channel: Channel,
        /// What was said.
        bytes: Vec<u8>,
    },
    /// What the path takes now.
    State(PathId, PathState),
    /// A datagram came.
    Came(PathId, PathDatagram),
    /// One that was to be sent does not go by the path now.
    Back(PathId, PathDatagram),
    /// It is over.
    Gone(PathId),
    /// So many were dropped since this was said last.
    Lost(Counts<Lost>),
}
