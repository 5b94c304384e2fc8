//! What the first bytes of a connection show of whoever sends them (PROTOCOL.md, "TLS").

use super::preface::MAGIC;
use core::fmt;

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

/// What a stranger on a port of the server speaks, where a person should hear of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Foreign {
    /// A relay's PROXY header, of version 1 or 2.
    ProxyHeader,
    /// An HTTP request.
    Http,
    /// TLS, where the server has none.
    Tls,
}

impl Foreign {
    /// What the first bytes that were received show; `None`: nothing that is known here.
    #[must_use]
    pub fn of(received: &[u8]) -> Option<Self> {
        const METHODS: [&[u8]; 6] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTIONS ", b"CONNECT "];
        match received {
            [0x16, 3, ..] => Some(Self::Tls),
            _ if received.starts_with(b"PROXY ") || received.starts_with(b"\r\n\r\n\0\r\nQUIT\n") => {
                Some(Self::ProxyHeader)
            }
            _ if METHODS.iter().any(|method| received.starts_with(method)) => Some(Self::Http),
            _ => None,
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProxyHeader => {
                "a PROXY header came, from a relay that `trusted_proxies` does not name; name it there, or switch the header \
                 off in the relay (haproxy: send-proxy, nginx: proxy_protocol)"
            }
            Self::Http => {
                "an HTTP request came; this port is for cproxy-client, and web pages are reached at a tunnel's public port"
            }
            Self::Tls => {
                "TLS came, and this server has none; set `tls = true` here, or take the tls keys out of that client's file"
            }
        })
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

    #[test]
    fn what_a_person_should_hear_of_is_known_by_its_beginning() {
        for (bytes, foreign) in [
            (&b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n"[..], Some(Foreign::ProxyHeader)),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", Some(Foreign::ProxyHeader)),
            (b"GET / HTTP/1.1\r\n", Some(Foreign::Http)),
            (b"CONNECT example.com:443 HTTP/1.1\r\n", Some(Foreign::Http)),
            (b"\x16\x03\x01\x02\0", Some(Foreign::Tls)),
            (b"\x16\x05", None),
            (b"SSH-2.0-OpenSSH_9.9\r\n", None),
            (b"PROXYCHAIN", None),
            (b"", None),
        ] {
            assert_eq!(Foreign::of(bytes), foreign, "{bytes:?}");
        }
    }
}
