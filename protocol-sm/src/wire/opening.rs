//! What the first bytes of a connection show of whoever sends them (PROTOCOL.md, "TLS").

use super::preface::MAGIC;

/// What a connection's first bytes show of whoever sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opening {
    /// A TLS record.
    Tls,
    /// A preface, or the reply to one.
    Cproxy,
    /// Neither of the two.
    Stranger,
}

impl Opening {
    /// Decides from the bytes received so far; `None`: more are needed.
    #[must_use]
    pub fn of(received: &[u8]) -> Option<Self> {
        match received {
            [] => None,
            // change_cipher_spec, alert, handshake, application_data.
            [0x14..=0x17, ..] => Some(Self::Tls),
            _ if received.starts_with(&MAGIC) => Some(Self::Cproxy),
            _ if MAGIC.starts_with(received) => None,
            _ => Some(Self::Stranger),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::preface::{ConnKind, Preface, Reply};
    use super::*;

    #[test]
    fn the_first_bytes_tell_tls_from_cproxy_from_strangers() {
        for (bytes, opening) in [
            (&b""[..], None),
            (b"\x16", Some(Opening::Tls)),
            (b"\x15\x03\x03", Some(Opening::Tls)),
            (b"C", None),
            (b"CPX", None),
            (b"CPXY", Some(Opening::Cproxy)),
            (&Preface::ours(ConnKind::Ctl).encode(), Some(Opening::Cproxy)),
            (&Reply::to(Preface::ours(ConnKind::Proxy)).encode(), Some(Opening::Cproxy)),
            (b"CONNECT", Some(Opening::Stranger)),
            (b"GET / HTTP/1.1", Some(Opening::Stranger)),
        ] {
            assert_eq!(Opening::of(bytes), opening, "{bytes:?}");
        }
    }
}
