//! What a port of the server is there for: one thing, or several. Who has come to one that is there for several is told by
//! the first bytes, which are looked at and left where they are.
//!
//! ```text
//!   untold ──`CPXY`, or a ClientHello that offers `cproxy/1`──▶ a client; ctl_conn or proxy_conn, as its preface says
//!      ├──another ClientHello──▶ a visitor of the https port; where that is another port, of the http port
//!      └──anything else────────▶ a visitor of the http port; where that is another port, of the https port
//! ```
//! Where no more can come, it is decided by what is there. One who is untold for too long is dropped by whoever waits.
//!
//! Invariants:
//! - U1 what is decided depends on the bytes, and not on the pieces in which they come;
//! - U2 no more than [`HEAD_MAX`] bytes are looked at, and none is kept.
// PROTOCOL.md: P-CONN-6.

use crate::routes::{HEAD_MAX, Web, hello};
use crate::wire::{ConnKind, MAGIC};

/// One thing that a port is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// ctl_conns.
    Ctl,
    /// proxy_conns.
    Proxy,
    /// Visitors of hosts that speak plain HTTP.
    Http,
    /// Visitors of hosts that speak TLS.
    Https,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ctl, Self::Proxy, Self::Http, Self::Https];

    /// As `LISTEN_FDNAMES` calls the port.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ctl => "ctl",
            Self::Proxy => "proxy",
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl From<ConnKind> for Purpose {
    fn from(kind: ConnKind) -> Self {
        match kind {
            ConnKind::Ctl => Self::Ctl,
            ConnKind::Proxy => Self::Proxy,
        }
    }
}

impl From<Web> for Purpose {
    fn from(web: Web) -> Self {
        match web {
            Web::Http => Self::Http,
            Web::Https => Self::Https,
        }
    }
}

/// All that a port is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Purposes([bool; Purpose::ALL.len()]);

impl FromIterator<Purpose> for Purposes {
    fn from_iter<I: IntoIterator<Item = Purpose>>(purposes: I) -> Self {
        purposes.into_iter().fold(Self::default(), Self::with)
    }
}

/// Who has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comer {
    /// A client of ours.
    Client,
    /// A visitor.
    Visitor(Web),
}

impl Purposes {
    /// Whether this is one of them.
    #[must_use]
    pub fn has(self, purpose: Purpose) -> bool {
        self.0[purpose as usize]
    }

    /// They and one more.
    #[must_use]
    pub fn with(mut self, purpose: Purpose) -> Self {
        self.0[purpose as usize] = true;
        self
    }

    /// They, in the order of [`Purpose::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Purpose> {
        Purpose::ALL.into_iter().filter(move |&purpose| self.has(purpose))
    }

    /// Whether visitors of hosts come there.
    #[must_use]
    pub fn have_hosts(self) -> bool {
        Web::ALL.into_iter().any(|web| self.has(web.into()))
    }

    /// The kind of visitors that come there, where nobody else does.
    #[must_use]
    pub fn only_host(self) -> Option<Web> {
        Web::ALL.into_iter().find(|&web| self == Self::default().with(web.into()))
    }

    /// What a client's connection is there; where it may be either, a ctl_conn, with which a client begins.
    #[must_use]
    pub fn kind(self) -> ConnKind {
        if self.has(Purpose::Ctl) { ConnKind::Ctl } else { ConnKind::Proxy }
    }

    /// Who begins with these bytes; `None` while that depends on what follows. `ended`: nothing follows.
    #[must_use]
    pub fn tell(self, bytes: &[u8], ended: bool) -> Option<Comer> {
        let ended = ended || bytes.len() >= HEAD_MAX;
        let clients = self.has(Purpose::Ctl) || self.has(Purpose::Proxy);
        if clients && bytes.starts_with(&MAGIC) {
            return Some(Comer::Client);
        }
        if clients && MAGIC.starts_with(bytes) {
            return ended.then_some(Comer::Client);
        }
        let visitor = |wanted: Web, other| Comer::Visitor(if self.has(wanted.into()) { wanted } else { other });
        if bytes.is_empty() && !ended {
            return None;
        }
        if bytes.first() != Some(&hello::HANDSHAKE) {
            return Some(visitor(Web::Http, Web::Https));
        }
        match hello::read(bytes) {
            Ok(Some(hello)) if hello.is_ours && clients => Some(Comer::Client),
            Ok(None) if !ended => None,
            Ok(_) | Err(_) => Some(visitor(Web::Https, Web::Http)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::hello::tests::offering;
    use crate::wire::Preface;
    use alloc::vec::Vec;

    fn of(purposes: &[Purpose]) -> Purposes {
        purposes.iter().copied().collect()
    }

    fn all() -> Purposes {
        of(&Purpose::ALL)
    }

    /// P-CONN-6.
    #[test]
    fn u1_who_has_come_is_told_by_the_bytes_wherever_they_are_cut() {
        let (http, https) = (Comer::Visitor(Web::Http), Comer::Visitor(Web::Https));
        let preface = |kind| Preface::ours(kind).encode().to_vec();
        let cases: [(Vec<u8>, Comer); 9] = [
            (preface(ConnKind::Ctl), Comer::Client),
            (preface(ConnKind::Proxy), Comer::Client),
            (offering(&[b"cproxy/1"]), Comer::Client),
            (offering(&[&b"h2"[..], b"http/1.1"]), https),
            (b"CONNECT a:443 HTTP/1.1\r\n".to_vec(), http),
            (b"GET / HTTP/1.1\r\n".to_vec(), http),
            (b"CPX / HTTP/1.1\r\n".to_vec(), http),
            (b"\0\0".to_vec(), http),
            ([0x16, 3, 1, 0, 0].to_vec(), https),
        ];
        for (bytes, comer) in cases {
            assert_eq!(all().tell(&bytes, false), Some(comer), "{bytes:?}");
            for cut in 0..bytes.len() {
                let told = all().tell(&bytes[..cut], false);
                assert!(told.is_none_or(|told| told == comer), "{bytes:?}, cut at {cut}: {told:?}");
            }
        }
        assert_eq!(all().tell(b"", false), None);
    }

    #[test]
    fn what_a_port_is_not_there_for_is_not_told_there() {
        let client = Preface::ours(ConnKind::Ctl).encode();
        let http = of(&[Purpose::Http, Purpose::Https]);
        assert_eq!(http.tell(&client, false), Some(Comer::Visitor(Web::Http)));
        assert_eq!(http.tell(&offering(&[b"cproxy/1"]), false), Some(Comer::Visitor(Web::Https)));
        let tls = of(&[Purpose::Ctl, Purpose::Https]);
        assert_eq!(tls.tell(b"GET / HTTP/1.1\r\n", false), Some(Comer::Visitor(Web::Https)), "is told so there");
        let plain = of(&[Purpose::Proxy, Purpose::Http]);
        assert_eq!(plain.tell(&offering(&[b"h2"]), false), Some(Comer::Visitor(Web::Http)), "is told so there");
        assert_eq!((tls.kind(), plain.kind()), (ConnKind::Ctl, ConnKind::Proxy));
        assert_eq!([tls.have_hosts(), of(&[Purpose::Ctl, Purpose::Proxy]).have_hosts()], [true, false]);
    }

    #[test]
    fn u2_where_nothing_follows_it_is_decided_by_what_is_there() {
        let hello = offering(&[b"cproxy/1"]);
        for (bytes, comer) in
            [(&b""[..], Comer::Client), (b"CPX", Comer::Client), (&hello[..40], Comer::Visitor(Web::Https))]
        {
            assert_eq!([all().tell(bytes, false), all().tell(bytes, true)], [None, Some(comer)], "{bytes:?}");
        }
        // A hello that has no end.
        let mut endless = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 35], &[0xf0, 0]].concat();
        endless.resize(HEAD_MAX - 1, 0);
        assert_eq!(all().tell(&endless, false), None);
        endless.push(0);
        assert_eq!(all().tell(&endless, false), Some(Comer::Visitor(Web::Https)));
    }
}
