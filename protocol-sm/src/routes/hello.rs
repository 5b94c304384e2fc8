//! What a TLS ClientHello says: the server's name, and whether it is one of our clients'. Read as far as it has come, and
//! never kept.
//!
//! It may come in several records, and they in pieces. Nothing is understood but where the name stands: values that
//! nobody knows (GREASE, new extensions) are passed over, and whatever is wrong with the rest is the service's to say.

use super::Refusal;
use super::host::of_sni;
use crate::wire::ALPN;
use alloc::string::String;
use core::ops::Range;

/// The first byte of a handshake record.
pub(crate) const HANDSHAKE: u8 = 0x16;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const APPLICATION_PROTOCOLS: u16 = 16;
const HOST_NAME: u8 = 0;
/// A record's type, version and length.
const RECORD_HEADER: usize = 5;
const LONGEST_RECORD: usize = 1 << 14;

/// What is read of a ClientHello.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The server's name; none where it says none, or an address.
    pub(crate) name: Option<String>,
    /// It offers the protocol of this crate.
    pub(crate) is_ours: bool,
}

/// Reads a ClientHello at the front of `bytes`; `Ok(None)` if it is not whole yet.
///
/// # Errors
/// [`Refusal::NotTls`]: it is none.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Hello>, Refusal> {
    let mut hello = Handshake { bytes, record: 0..0, length: usize::MAX };
    match hello.read() {
        Ok(hello) => Ok(Some(hello)),
        Err(Stop::Incomplete) => Ok(None),
        Err(Stop::Malformed) => Err(Refusal::NotTls),
    }
}

/// The name that a ClientHello at the front of `bytes` says; `Ok(None)` if it is not whole yet.
///
/// # Errors
/// It says none, or is no ClientHello.
pub(super) fn name(bytes: &[u8]) -> Result<Option<String>, Refusal> {
    match read(bytes)? {
        Some(hello) => hello.name.map(Some).ok_or(Refusal::NoName),
        None => Ok(None),
    }
}

/// Why reading stops.
enum Stop {
    Incomplete,
    Malformed,
}

/// A handshake message, over the records that it comes in.
struct Handshake<'a> {
    bytes: &'a [u8],
    /// What is left of the record.
    record: Range<usize>,
    /// What is left of the innermost part.
    length: usize,
}

impl Handshake<'_> {
    fn read(&mut self) -> Result<Hello, Stop> {
        if self.number(1)? != usize::from(CLIENT_HELLO) {
            return Err(Stop::Malformed);
        }
        self.length = usize::MAX;
        self.length = self.number(3)?;
        // The version, and the random bytes.
        self.skip(2 + 32)?;
        for size in [1, 2, 1] {
            // The session's id, cipher suites, compression.
            let length = self.number(size)?;
            self.skip(length)?;
        }
        if self.length == 0 {
            return Ok(Hello { name: None, is_ours: false });
        }
        let mut left = self.number(2)?;
        if left != self.length {
            return Err(Stop::Malformed);
        }
        let (mut found, mut is_ours) = (None, false);
        while left > 0 {
            let (kind, length) = (self.number(2)?, self.number(2)?);
            left = left.checked_sub(4 + length).ok_or(Stop::Malformed)?;
            if kind == usize::from(SERVER_NAME) {
                // It says two, and whoever reads it takes one of them.
                if found.is_some() {
                    return Err(Stop::Malformed);
                }
                found = Some(self.server_name(length)?);
            } else if kind == usize::from(APPLICATION_PROTOCOLS) {
                is_ours |= self.offers_ours(length)?;
            } else {
                self.skip(length)?;
            }
        }
        Ok(Hello { name: found.flatten(), is_ours })
    }

    /// Whether our protocol is in this list. Where the list makes no sense, that is the service's to say.
    fn offers_ours(&mut self, mut left: usize) -> Result<bool, Stop> {
        if left < 2 {
            return self.skip(left).map(|()| false);
        }
        self.skip(2)?;
        left -= 2;
        let mut is_ours = false;
        while left > 0 {
            let length = self.number(1)?.min(left - 1);
            left -= 1 + length;
            let mut matches = length == ALPN.len();
            for at in 0..length {
                let byte = self.byte()?;
                matches &= ALPN.get(at) == Some(&byte);
            }
            is_ours |= matches;
        }
        Ok(is_ours)
    }

    /// The list in the extension: one name.
    fn server_name(&mut self, length: usize) -> Result<Option<String>, Stop> {
        let list = self.number(2)?;
        let kind = self.number(1)?;
        let size = self.number(2)?;
        if list + 2 != length || size + 3 != list || kind != usize::from(HOST_NAME) || size > 255 {
            return Err(Stop::Malformed);
        }
        let mut name = [0; 255];
        for byte in &mut name[..size] {
            *byte = self.byte()?;
        }
        of_sni(&name[..size]).ok_or(Stop::Malformed)
    }

    /// A number of `size` bytes.
    fn number(&mut self, size: usize) -> Result<usize, Stop> {
        (0..size).try_fold(0, |number, _| Ok(number << 8 | usize::from(self.byte()?)))
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        self.count(1)?;
        self.enter_record()?;
        let byte = *self.bytes.get(self.record.start).ok_or(Stop::Incomplete)?;
        self.record.start += 1;
        Ok(byte)
    }

    fn skip(&mut self, length: usize) -> Result<(), Stop> {
        self.count(length)?;
        let mut left = length;
        while left > 0 {
            self.enter_record()?;
            let here = left.min(self.record.len());
            self.record.start += here;
            left -= here;
            if self.record.start > self.bytes.len() {
                return Err(Stop::Incomplete);
            }
        }
        Ok(())
    }

    fn count(&mut self, length: usize) -> Result<(), Stop> {
        self.length = self.length.checked_sub(length).ok_or(Stop::Malformed)?;
        Ok(())
    }

    /// Goes to the next record, if this one is through.
    fn enter_record(&mut self) -> Result<(), Stop> {
        if !self.record.is_empty() {
            return Ok(());
        }
        let at = self.record.end;
        let header = self.bytes.get(at..).unwrap_or_default();
        let is_tls =
            header.first().is_none_or(|&kind| kind == HANDSHAKE) && header.get(1).is_none_or(|&major| major == 3);
        if !is_tls {
            return Err(Stop::Malformed);
        }
        let &[_, _, _, high, low, ..] = header else { return Err(Stop::Incomplete) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(1..=LONGEST_RECORD).contains(&length) {
            return Err(Stop::Malformed);
        }
        self.record = at + RECORD_HEADER..at + RECORD_HEADER + length;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    use alloc::vec::Vec;

    fn sized(size: usize, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length[4 - size..], body].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &sized(2, body)].concat()
    }

    pub(in super::super) fn sni(name: &[u8]) -> Vec<u8> {
        extension(SERVER_NAME, &sized(2, &[&[HOST_NAME][..], &sized(2, name)].concat()))
    }

    /// A ClientHello with these extensions, without its records.
    fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
        let grease = [0x0a, 0x0a, 0x13, 0x01];
        let fixed = [&[3, 3][..], &[7; 32], &sized(1, &[9; 32]), &sized(2, &grease), &sized(1, &[0])].concat();
        let body = [fixed, sized(2, &extensions.concat())].concat();
        [&[CLIENT_HELLO][..], &sized(3, &body)].concat()
    }

    pub(crate) fn offering(protocols: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = protocols.iter().flat_map(|protocol| sized(1, protocol)).collect();
        records(&message(&[sni(b"a.example"), extension(APPLICATION_PROTOCOLS, &sized(2, &list))]), 60)
    }

    /// In records of so many bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|chunk| [&[HANDSHAKE, 3, 1][..], &sized(2, chunk)].concat()).collect()
    }

    pub(in super::super) fn hello(server: &[u8]) -> Vec<u8> {
        let grease = extension(0x7a7a, &[]);
        let ech = extension(0xfe0d, &[0; 200]);
        records(&message(&[grease, ech, sni(server), extension(0x3a3a, &[0])]), usize::MAX)
    }

    #[test]
    fn a_name_is_found_wherever_records_and_segments_end() {
        let message = message(&[extension(0x7a7a, &[]), sni(b"App.Example.com."), extension(16, &[1, 2])]);
        for size in [1, 2, 7, 100, 10_000] {
            let bytes = records(&message, size);
            // What stands behind the hello is not looked at.
            let more = [&bytes[..], &[0xff; 9]].concat();
            assert_eq!(name(&more).unwrap().as_deref(), Some("app.example.com"), "{size}");
            assert_eq!(name(&bytes).unwrap().as_deref(), Some("app.example.com"), "{size}");
            for cut in 0..bytes.len() {
                assert_eq!(name(&bytes[..cut]), Ok(None), "{size} {cut}");
            }
        }
    }

    #[test]
    fn whoever_names_nobody_is_told_apart_from_what_is_not_tls() {
        let with = |extensions: &[Vec<u8>]| name(&records(&message(extensions), 50));
        assert_eq!(with(&[]), Err(Refusal::NoName));
        assert_eq!(with(&[extension(5, b"abc")]), Err(Refusal::NoName));
        assert_eq!(with(&[sni(b"192.0.2.1")]), Err(Refusal::NoName));
        assert_eq!(with(&[sni(b"::1")]), Err(Refusal::NoName));
        for (bad, why) in [
            (sni(b""), "an empty name"),
            (sni(b"a b"), "no name"),
            (sni(b"a\0"), "a zero"),
            (sni(&[b'a'; 256]), "too long"),
            ([sni(b"a"), sni(b"b")].concat(), "twice"),
            (extension(SERVER_NAME, &[]), "no list"),
            (extension(SERVER_NAME, &[0, 0]), "an empty list"),
            (extension(SERVER_NAME, &[0, 9, 0, 0, 1, b'a']), "a length that lies"),
        ] {
            assert_eq!(with(&[bad]), Err(Refusal::NotTls), "{why}");
        }
    }

    #[test]
    fn without_extensions_there_is_no_name() {
        let mut old = message(&[]);
        old.truncate(old.len() - 2);
        let body = old.len() - 4;
        old[3] = u8::try_from(body).unwrap();
        assert_eq!(name(&records(&old, 1000)), Err(Refusal::NoName));
    }

    #[test]
    fn our_clients_are_known_by_what_they_offer() {
        let is_ours = |hello: &[u8]| read(hello).map(|hello| hello.expect("it is whole").is_ours);
        assert_eq!(is_ours(&offering(&[b"cproxy/1"])), Ok(true));
        assert_eq!(is_ours(&offering(&[&b"h2"[..], b"cproxy/1", b"http/1.1"])), Ok(true));
        for others in [&[&b"h2"[..], b"http/1.1"][..], &[b"cproxy/2"], &[b"xcproxy/1"], &[b"cproxy/11"], &[b""], &[]] {
            assert_eq!(is_ours(&offering(others)), Ok(false), "{others:?}");
        }
        // Nor does a list that lies name anybody, or keep the name from being found.
        for list in [&[][..], &[0], &[0, 9], &[0, 2, 200, 1], b"\0\x09\x08cproxy/"] {
            let hello = records(&message(&[extension(APPLICATION_PROTOCOLS, list), sni(b"a.b")]), 1000);
            assert_eq!(read(&hello), Ok(Some(Hello { name: Some("a.b".into()), is_ours: false })), "{list:?}");
        }
    }

    #[test]
    fn what_is_not_a_hello_is_told_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            &[0x15, 3, 3, 0, 2, 2, 40],
            &[HANDSHAKE, 2],
            &[HANDSHAKE, 3, 1, 0, 0],
            &[HANDSHAKE, 3, 1, 0x40, 1],
            &[HANDSHAKE, 3, 1, 0, 9, 2],
            &[0x80, 0x2e, 1, 3, 1],
        ] {
            assert_eq!(name(bytes), Err(Refusal::NotTls), "{bytes:?}");
        }
        let mut lies = hello(b"a.example");
        for at in 5 + 4 + 34..lies.len() {
            let right = core::mem::replace(&mut lies[at], 0xff);
            // No number that lies makes it read beyond the end.
            let _read = name(&lies);
            lies[at] = right;
        }
    }
}
