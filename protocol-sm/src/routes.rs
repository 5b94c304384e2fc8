//! Visitors of a port that many tunnels share: a host, which a visitor's first bytes name, leads to one of them.
//!
//! ```text
//!            more bytes       names a host
//!   Unrouted ◀────────▶ … ──────────────────▶ to the tunnel that has it, with every byte that was read
//!      │                                      (nobody has it: [`Refusal::NobodysHost`], [`Refusal::Away`])
//!      └─ names none, too much, too late ──▶ refused: an answer in the visitor's own protocol
//! ```
//!
//! Invariants:
//! - R1 no more than [`HEAD_MAX`] bytes of a visitor are held before it is known where it goes;
//! - R2 a byte that was read is given to the service, unchanged and once, or to nobody;
//! - R3 a connection belongs to its first host: what stands behind the head is never looked at.
// PROTOCOL.md: P-HOST-1, P-HOST-2.

mod answers;
mod challenge;
mod forwarded;
mod head;
pub(crate) mod hello;
mod host;
mod service;

pub(crate) use answers::challenge_met;
pub use challenge::{CHALLENGES, is_challenge};
pub(crate) use forwarded::forwarded;
pub use host::{Host, HostSet, NoHost, Site, Web};
pub use service::{Agreed, Secured, Service, Speaks};

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Bytes of a visitor that are read before it has named a host.
pub const HEAD_MAX: usize = 16 << 10;

/// What a visitor has said so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unrouted {
    web: Web,
    scan: head::Scan,
    bytes: Vec<u8>,
}

impl Unrouted {
    /// A visitor of this port who has said nothing.
    #[must_use]
    pub fn new(web: Web) -> Self {
        Self { web, scan: head::Scan::default(), bytes: Vec::new() }
    }

    /// Bytes that may be read before it names a host.
    #[must_use]
    pub fn room(&self) -> usize {
        HEAD_MAX - self.bytes.len()
    }

    /// More bytes came: no more than there was room for. Returns the host that it names, once it has.
    ///
    /// # Errors
    /// It is refused.
    pub fn on_bytes(&mut self, bytes: &[u8]) -> Result<Option<Named>, Refusal> {
        assert!(bytes.len() <= self.room(), "R1: no more than there is room for");
        self.bytes.extend_from_slice(bytes);
        let name = match self.web {
            Web::Http => self.scan.host(&self.bytes)?,
            Web::Https => match hello::name(&self.bytes) {
                Err(Refusal::NoName) => return Ok(Some(Named(None))),
                read => read?,
            },
        };
        match name {
            Some(name) => Ok(Some(Named(Some(name)))),
            None if self.room() == 0 => Err(Refusal::TooLarge),
            None => Ok(None),
        }
    }

    /// Its time is up.
    #[must_use]
    pub fn on_timeout(&self) -> Refusal {
        if self.bytes.is_empty() { Refusal::Silent } else { Refusal::TooSlow }
    }

    /// Whether what it has said begins like something in the clear.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.bytes.first().is_some_and(u8::is_ascii_alphabetic)
    }

    /// What an authority asks for in the clear, if it is one.
    // PROTOCOL.md: P-HOST-12.
    #[must_use]
    pub fn challenge(&self) -> Option<&str> {
        challenge::asked(&self.bytes).filter(|_| self.web == Web::Http)
    }

    /// Sends it to the same place over TLS, at this port of the host that it has named.
    // PROTOCOL.md: P-HOST-10.
    #[must_use]
    pub fn redirect(&self, named: &Named, port: u16) -> Vec<u8> {
        answers::redirect(&self.bytes, named.name().unwrap_or_default(), port)
    }

    /// All that was read of it.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// What a visitor has named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named(
    /// A name in lower case; none in TLS that names nobody, or an address.
    Option<String>,
);

impl Named {
    /// The keys of the hosts that it may belong to, the nearest first: see [`Host::key`].
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        Host::keys_of(self.0.as_deref().unwrap_or_default())
    }

    /// Why it is refused where nobody has it. `known`: it is somebody's who is not there.
    #[must_use]
    pub fn refusal(&self, known: impl FnOnce(&str) -> bool) -> Refusal {
        match &self.0 {
            None => Refusal::NoName,
            Some(name) if known(name) => Refusal::Away,
            Some(_) => Refusal::NobodysHost,
        }
    }

    /// The name as a host's, which is none if it is longer than a host may be.
    #[must_use]
    pub fn host(&self) -> Option<Host> {
        self.name()?.parse().ok().filter(Host::is_exact)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// Why a visitor's first bytes lead nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// It has said nothing for `route_timeout`.
    Silent,
    /// It has not said all of it within `route_timeout`.
    TooSlow,
    /// It has said more than [`HEAD_MAX`] bytes, or has too many header lines.
    TooLarge,
    /// HTTP: not a request for exactly one host.
    BadRequest,
    /// HTTP: TLS came.
    TlsOnHttp,
    /// HTTP: HTTP/2 came, which needs TLS.
    Http2,
    /// TLS: something else came, or TLS that cannot be read.
    NotTls,
    /// TLS: it names no host, and no tunnel takes everybody.
    NoName,
    /// No tunnel has this host.
    NobodysHost,
    /// The client that may have this host is not there.
    Away,
    /// There are too many that have named no host yet.
    Crowded,
    /// The server stops, or another process of it has taken over.
    Stopping,
    /// It comes from a trusted proxy, without the PROXY header that says for whom.
    NoHeader,
    /// TLS that ends at the server: no handshake came about.
    TlsFailed,
    /// TLS that ends at the server: the host inside of it is another holder's than the one that TLS has named.
    Misdirected,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "it said nothing in time",
            Self::TooSlow => "it did not say in time which host it is for",
            Self::TooLarge => "it said too much before it was clear which host it is for",
            Self::BadRequest => "what it said is not an HTTP/1.1 request for exactly one host",
            Self::TlsOnHttp => "it speaks TLS at the port for plain HTTP",
            Self::Http2 => "it speaks HTTP/2 at the port for plain HTTP/1.1",
            Self::NotTls => "it does not speak TLS, or what cannot be understood",
            Self::NoName => "its TLS names no host",
            Self::NobodysHost => "no tunnel has this host",
            Self::Away => "the client that has this host is not connected",
            Self::Stopping => "the server stops",
            Self::NoHeader => "a trusted proxy has sent no PROXY header, or a malformed one",
            Self::TlsFailed => "its TLS handshake with this server failed",
            Self::Misdirected => "the host that it asks for is not the one that its TLS has named",
            Self::Crowded => "too many visitors at once have not said which host they are for",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(named: &Named) -> Vec<&str> {
        named.keys().collect()
    }

    #[test]
    fn r1_no_more_than_16_kib_are_held() {
        for web in Web::ALL {
            let mut visitor = Unrouted::new(web);
            let first: &[u8] = match web {
                Web::Http => b"GET / HTTP/1.1\r\nX: ",
                // Its cipher suites are longer than that.
                Web::Https => &[&[0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 35], &[0xf0, 0]].concat(),
            };
            assert_eq!(visitor.on_bytes(first), Ok(None));
            while visitor.room() > 1 {
                assert_eq!(visitor.on_bytes(b"y"), Ok(None));
            }
            assert_eq!(visitor.on_bytes(b"y"), Err(Refusal::TooLarge));
            assert_eq!(visitor.into_bytes().len(), 16_384);
        }
    }

    #[test]
    fn r2_every_byte_that_was_read_goes_on() {
        let head = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\nGET / HTTP/1.1\r\nHost: b.example\r\n\r\n";
        let mut visitor = Unrouted::new(Web::Http);
        assert_eq!(visitor.on_bytes(&head[..20]), Ok(None));
        let named = visitor.on_bytes(&head[20..]).unwrap().unwrap();
        assert_eq!(keys(&named), ["a.example", ".example", ""]);
        assert_eq!(visitor.into_bytes(), head);
    }

    #[test]
    fn whose_tls_names_nobody_is_for_whoever_takes_everybody() {
        let mut visitor = Unrouted::new(Web::Https);
        let named = visitor.on_bytes(&hello::tests::hello(b"192.0.2.1")).unwrap().unwrap();
        assert!(keys(&named).iter().all(|key| key.is_empty()));
        assert_eq!(named.refusal(|_| true), Refusal::NoName);
        let named = Unrouted::new(Web::Https).on_bytes(&hello::tests::hello(b"a.b")).unwrap().unwrap();
        assert_eq!(
            [named.refusal(|name| name == "a.b"), named.refusal(|_| false)],
            [Refusal::Away, Refusal::NobodysHost]
        );
    }

    #[test]
    fn who_is_late_has_said_something_or_not() {
        let mut visitor = Unrouted::new(Web::Http);
        assert_eq!(visitor.on_timeout(), Refusal::Silent);
        assert_eq!(visitor.on_bytes(b"G"), Ok(None));
        assert_eq!(visitor.on_timeout(), Refusal::TooSlow);
    }
}
