//! What a tunnel says of the service behind its host: `Service` in PROTOCOL.md.

use super::host::Host;
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Service {
    /// What it speaks inside of TLS that ends at the server.
    pub speaks: Speaks,
    /// A visitor of its host in the clear is sent to the same place over TLS.
    pub redirect: bool,
    /// It is told by the first head of each connection for whom that comes, and reads no other head there.
    pub forwarded: bool,
}

/// The versions of HTTP that a service speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Speaks {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
    /// Both; who can chooses HTTP/2.
    Both,
}

impl Speaks {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Both];

    /// The names of its versions in TLS (ALPN), the preferred one first.
    #[must_use]
    pub fn alpn(self) -> &'static [&'static str] {
        match self {
            Self::Http1 => &["http/1.1"],
            Self::Http2 => &["h2"],
            Self::Both => &["h2", "http/1.1"],
        }
    }
}

/// What a visitor and the server have agreed on, in a handshake of TLS that ends at the server: it is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Agreed {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Agreed {
    /// Its name in TLS (ALPN).
    #[must_use]
    pub fn alpn(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

/// What the server knows of a visitor's TLS: `Secured` in PROTOCOL.md.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Secured {
    /// The host that it has named there.
    pub host: Option<Host>,
    /// None where TLS is passed on as it is, or nothing was agreed on.
    pub agreed: Option<Agreed>,
}
