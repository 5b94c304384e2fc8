//! TLS as this crate sees it (PROTOCOL.md, "TLS"): the name that both sides agree on, and how a server without TLS
//! recognises a client of ours that begins with it. TLS itself is the runtime's business: everything in the other
//! files of this module then travels inside of it, unchanged.

use super::frame::WireError;

/// The protocol that client and server agree on inside of the TLS handshake (ALPN).
pub const ALPN: [u8; 8] = *b"cproxy/1";

/// A ClientHello is searched for [`ALPN`] up to here.
const LONGEST_HELLO: u16 = 1024;
/// Type, version and length of a TLS record.
const RECORD_HEADER: u16 = 5;
const HANDSHAKE: u8 = 0x16;

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

    /// Whether what was read is the beginning of TLS.
    pub(super) fn is_tls(self) -> bool {
        self.read > 1
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
    use super::super::preface::PrefaceReader;
    use super::*;
    use alloc::vec::Vec;

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
