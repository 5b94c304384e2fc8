//! What a tunnel says of the service behind its host: `Service` in PROTOCOL.md.

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

/// What a visitor speaks inside of TLS that ends at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Agreed {
    /// HTTP/1.1, or nothing was agreed on.
    Http1,
    /// HTTP/2.
    Http2,
}
