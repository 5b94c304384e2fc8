//! Names of things, most of them on the wire. None of them is ever used twice for two things, so an old message
//! can never name a new thing (PROTOCOL.md, P-ID-1).

use core::fmt;
use serde::{Deserialize, Serialize};

/// One session of one client: random, drawn by the server, survives its ctl_conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

/// A client's session on the server, by a serial number that is never used twice in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ControlKey(pub u64);

/// One registration of a tunnel: of the same number there may be several in a session, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registration {
    /// The tunnel's number.
    pub tunnel: TunnelId,
    /// The server's serial number for it, which is used once in a session.
    pub serial: u64,
}

/// Who a client is across restarts; chosen by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId(pub [u8; 16]);

/// Enough of it to tell clients apart.
impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One proxy_conn of a session: the client counts up from 1 and never reuses a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnId(pub u64);

/// One tunnel of a session; chosen by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TunnelId(pub u32);

/// The number of a Transfer on its proxy_conn: 1, 2, 3, … 0 means that there has been none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The next transfer's number, or `None` where it would wrap: such a conn is retired.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}
