//! TLS from outside (PROTOCOL.md, "TLS"): what the first bytes of a connection show. TLS itself is the runtime's
//! business; everything in the other files of this module then travels inside of it, unchanged.

use super::frame::WireError;
use super::preface::MAGIC;

/// The protocol that client and server agree on inside of the TLS handshake (ALPN).
pub const ALPN: [u8; 8] = *b"cproxy/1";

/// A ClientHello is searched for [`ALPN`] up to here.
const LONGEST_HELLO: u16 = 1024;
/// Type, version and length of a TLS record.
const RECORD_HEADER: u16 = 5;
const HANDSHAKE: u8 = 0x16;

/// What a connection's first bytes show of whoever sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opening {
    /// A TLS record.
    Tls,
    /// A preface, or the reply to one.
    Cproxy,
    /// Neither.
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

/// Finds out whether a ClientHello on a server without TLS is that of one of our clients, who is to be told
/// (P-TLS-5), or a stranger's, who is not. Looks for the name alone: parses nothing, keeps nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ClientHelloScan {
    read: u16,
    /// The record's length, as far as it was read.
    length: u16,
    matched: u8,
}

impl ClientHelloScan {
    /// Whether a connection that begins with `first` is one for this.
    pub(super) fn begins_with(first: u8) -> bool {
        first == HANDSHAKE
    }

    pub(super) fn has_begun(self) -> bool {
        self.read > 0
    }

    /// Takes all of `input`, unless it can decide earlier.
    ///
    /// # Errors
    /// [`WireError::Tls`] or [`WireError::NotCproxy`]: it has decided.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<(), WireError> {
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            match self.read {
                0 if byte != HANDSHAKE => return Err(WireError::NotCproxy),
                1 if byte != 3 => return Err(WireError::NotCproxy),
                3 | 4 => self.length = self.length << 8 | u16::from(byte),
                _ => {}
            }
            self.read += 1;
            // No byte of the name comes twice in it: a mismatch can only be the start of another try.
            let wanted = ALPN[usize::from(self.matched)];
            self.matched = if byte == wanted { self.matched + 1 } else { u8::from(byte == ALPN[0]) };
            if usize::from(self.matched) == ALPN.len() {
                return Err(WireError::Tls);
            }
            let end = self.length.saturating_add(RECORD_HEADER).min(LONGEST_HELLO);
            if self.read >= RECORD_HEADER && self.read >= end {
                return Err(WireError::NotCproxy);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::preface::{ConnKind, Preface, PrefaceReader, Reply};
    use super::*;
    use alloc::vec::Vec;

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

    fn client_hello(name: &[u8]) -> Vec<u8> {
        let body = [&b"\x01\x00\x00\x80\x03\x03some random, ccproxy and then "[..], name, b" and more"].concat();
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[0x16, 3, 1], &length[..], &body].concat()
    }

    #[test]
    fn our_clients_hello_is_known_by_its_name_at_any_split_and_others_are_not() {
        let ours = client_hello(&ALPN);
        let http = client_hello(b"h2\x08http/1.1");
        let late = [&[0x16, 3, 1, 0x40, 0][..], &[0; 2000], &ALPN].concat();
        for (hello, answer) in [(&ours, WireError::Tls), (&http, WireError::NotCproxy), (&late, WireError::NotCproxy)] {
            for split in 0..hello.len() {
                let mut reader = PrefaceReader::default();
                let (mut front, mut back) = hello.split_at(split);
                let read = reader.next(&mut front).and_then(|_| reader.next(&mut back));
                assert_eq!(read, Err(answer), "split at {split}");
            }
        }
        assert_eq!(PrefaceReader::default().next(&mut &ours[..40]), Ok(None), "not before the name is whole");
        assert_eq!(PrefaceReader::default().next(&mut &b"\x16\x47"[..]), Err(WireError::NotCproxy));
    }
}
