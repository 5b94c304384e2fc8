//! Reads the header that a relay puts in front of a connection, or of a datagram (PROTOCOL.md, "Relays in front of the
//! server").
//!
//! It takes the header off the front of what comes, in whatever pieces, and not a byte behind it. What it keeps is bounded
//! by the longest header: 107 bytes of version 1, 16 + 4,096 of version 2.

use super::{DATAGRAM, SIGNATURE, STREAM};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::str::FromStr;

/// How version 1 begins.
const WORD: &[u8; 6] = b"PROXY ";
/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;
/// Signature, version and command, family, and the length of what follows.
const FRONT: usize = 16;
/// Most bytes behind the front of version 2.
const LONGEST_BODY: usize = 4096;
/// Commands of version 2: for the relay itself, whatever follows; on behalf of somebody else.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// The optional field that holds the checksum of the header.
const CRC32C: u8 = 3;

/// The longest header.
pub const LONGEST_HEADER: usize = FRONT + LONGEST_BODY;

/// It is no header, or one that nobody may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What a whole header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who is behind the relay; none if the relay does not say: `UNKNOWN`, `LOCAL`, no family, one that is not TCP.
    pub ends: Option<Ends>,
}

/// The two ends of a connection to a relay. An IPv4 address in IPv6 form is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Who has connected.
    pub visitor: SocketAddr,
    /// The address that it has connected to.
    pub public: SocketAddr,
}

impl Ends {
    fn new(ips: [IpAddr; 2], ports: [u16; 2]) -> Self {
        let [visitor, public] = [0, 1].map(|end| SocketAddr::new(ips[end].to_canonical(), ports[end]));
        Self { visitor, public }
    }
}

/// Who has sent a datagram, as the header in front of it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// This visitor.
    Visitor(Ends),
    /// Somebody whom it does not name: it has no family, or one that is not UDP.
    Unnamed,
    /// The relay itself, which looks whether the service answers: `LOCAL`.
    Relay,
}

/// Splits a datagram of a relay's into what its header says and what was sent.
///
/// # Errors
/// It has no header of version 2, or one that nobody may send.
// PROTOCOL.md: P-FRONT-6.
pub fn split(datagram: &[u8]) -> Result<(Sender, &[u8]), Malformed> {
    let front = datagram.first_chunk::<FRONT>().filter(|front| front.starts_with(&SIGNATURE)).ok_or(Malformed)?;
    let (header, sent) = datagram.split_at_checked(whole(front)?).ok_or(Malformed)?;
    let sender = match binary(header, DATAGRAM)? {
        Some(ends) => Sender::Visitor(ends),
        None if front[12] == LOCAL => Sender::Relay,
        None => Sender::Unnamed,
    };
    Ok((sender, sent))
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderReader {
    bytes: Vec<u8>,
}

impl HeaderReader {
    /// Takes what belongs to the header off the front of `input`; `Ok(None)` until it is whole.
    ///
    /// # Errors
    /// At the first byte that shows it, or once all bytes are there that the header announced.
    // PROTOCOL.md: P-FRONT-2.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Header>, Malformed> {
        while let Some((&byte, rest)) = input.split_first() {
            self.bytes.push(byte);
            *input = rest;
            if self.is_whole()? {
                let ends = if self.is_binary() { binary(&self.bytes, STREAM)? } else { line(&self.bytes)? };
                return Ok(Some(Header { ends }));
            }
        }
        Ok(None)
    }

    fn is_binary(&self) -> bool {
        self.bytes[0] == SIGNATURE[0]
    }

    fn is_whole(&self) -> Result<bool, Malformed> {
        let bytes = &self.bytes[..];
        let known: &[u8] = if self.is_binary() { &SIGNATURE } else { WORD };
        let common = known.len().min(bytes.len());
        if known[..common] != bytes[..common] {
            return Err(Malformed);
        }
        if !self.is_binary() {
            let whole = bytes.ends_with(b"\r\n");
            return if whole || bytes.len() < LONGEST_LINE { Ok(whole) } else { Err(Malformed) };
        }
        let Some(front) = bytes.first_chunk::<FRONT>() else { return Ok(false) };
        Ok(bytes.len() == whole(front)?)
    }
}

/// How long a header of version 2 is, its front included.
fn whole(front: &[u8; FRONT]) -> Result<usize, Malformed> {
    let body = usize::from(u16::from_be_bytes([front[14], front[15]]));
    if body > LONGEST_BODY { Err(Malformed) } else { Ok(FRONT + body) }
}

/// Reads a line of version 1.
fn line(bytes: &[u8]) -> Result<Option<Ends>, Malformed> {
    let words = bytes[WORD.len()..].strip_suffix(b"\r\n").ok_or(Malformed)?;
    let mut words = core::str::from_utf8(words).map_err(|_| Malformed)?.split(' ');
    match words.next() {
        // Whatever stands behind it.
        Some("UNKNOWN") => Ok(None),
        Some("TCP4") => addresses::<Ipv4Addr>(words).map(Some),
        Some("TCP6") => addresses::<Ipv6Addr>(words).map(Some),
        Some(_) | None => Err(Malformed),
    }
}

/// Two addresses and two ports, of which the first of each are the visitor's.
fn addresses<'a, A: FromStr + Into<IpAddr>>(mut words: impl Iterator<Item = &'a str>) -> Result<Ends, Malformed> {
    let mut word = || words.next().ok_or(Malformed);
    let address = |word: &str| word.parse::<A>().map(Into::into).map_err(|_| Malformed);
    let port = |word: &str| {
        let digits = word.bytes().all(|byte| byte.is_ascii_digit());
        word.parse::<u16>().ok().filter(|_| digits).ok_or(Malformed)
    };
    let ips = [address(word()?)?, address(word()?)?];
    let ports = [port(word()?)?, port(word()?)?];
    if words.next().is_some() { Err(Malformed) } else { Ok(Ends::new(ips, ports)) }
}

/// Reads a header of version 2, which is as long as it says. Of the `families`, that of IPv4 and that of IPv6, it says who
/// is behind the relay.
fn binary(bytes: &[u8], families: [u8; 2]) -> Result<Option<Ends>, Malformed> {
    let (front, body) = bytes.split_at(FRONT);
    match front[12] {
        LOCAL => return Ok(None),
        PROXY => {}
        _ => return Err(Malformed),
    }
    let length = match front[13] {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(Malformed),
    };
    let (addresses, fields) = body.split_at_checked(length).ok_or(Malformed)?;
    check_fields(bytes, fields)?;
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    Ok(if front[13] == families[0] {
        let ips = [0, 4].map(|at| octets::<4>(&addresses[at..]).into());
        Some(Ends::new(ips, [port(8), port(10)]))
    } else if front[13] == families[1] {
        let ips = [0, 16].map(|at| octets::<16>(&addresses[at..]).into());
        Some(Ends::new(ips, [port(32), port(34)]))
    } else {
        None
    })
}

fn octets<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("the family's length")
}

/// The optional fields end where the header does, and the checksum, where there is one, is that of the header `whole`
/// with zeros in its place.
fn check_fields(whole: &[u8], mut fields: &[u8]) -> Result<(), Malformed> {
    while let [kind, high, low, rest @ ..] = fields {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, behind) = rest.split_at_checked(length).ok_or(Malformed)?;
        if *kind == CRC32C {
            let said = u32::from_be_bytes(value.try_into().map_err(|_| Malformed)?);
            let at = whole.len() - behind.len() - value.len();
            let bytes = whole.iter().enumerate().map(|(n, &byte)| if (at..at + 4).contains(&n) { 0 } else { byte });
            if crc32c(bytes) != said {
                return Err(Malformed);
            }
        }
        fields = behind;
    }
    if fields.is_empty() { Ok(()) } else { Err(Malformed) }
}

/// The Castagnoli checksum.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::super::ProxyProtocol;
    use super::*;
    use alloc::vec;

    const PAYLOAD: &[u8] = b"\r\nSSH-2.0-x";

    /// What `header` says in pieces of every size, in front of a payload that must stay whole.
    fn read(header: &[u8]) -> Result<Option<Ends>, Malformed> {
        let sent = [header, PAYLOAD].concat();
        let pieces = |size: usize| {
            let mut reader = HeaderReader::default();
            let mut behind = Vec::new();
            let mut found = None;
            for mut piece in sent.chunks(size) {
                if found.is_none() {
                    found = reader.next(&mut piece)?;
                }
                behind.extend_from_slice(piece);
            }
            assert_eq!(behind, PAYLOAD, "in pieces of {size}");
            Ok(found.expect("a whole header").ends)
        };
        let whole = pieces(sent.len());
        assert!((1..=header.len().min(300)).all(|size| pieces(size) == whole));
        whole
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    /// The addresses of a visitor at 192.0.2.7:4711, who has connected to 198.51.100.9:22.
    const TCP4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 9, 0x12, 0x67, 0, 22];

    fn visitor() -> Result<Option<Ends>, Malformed> {
        Ok(Some(ends("198.51.100.9:22")))
    }

    fn ends(public: &str) -> Ends {
        Ends { visitor: "192.0.2.7:4711".parse().unwrap(), public: public.parse().unwrap() }
    }

    #[test]
    fn what_is_written_here_is_read_here() {
        for (from, to) in [
            ("192.0.2.7:4711", "198.51.100.9:22"),
            ("[2001:db8::7]:1", "[2001:db8::1]:65535"),
            ("[::ffff:192.0.2.7]:4711", "[2001:db8::1]:22"),
        ] {
            let [from, to]: [SocketAddr; 2] = [from, to].map(|at| at.parse().unwrap());
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let expected = Ends::new([from.ip(), to.ip()], [from.port(), to.port()]);
                assert_eq!(read(&version.header(from, to)), Ok(Some(expected)));
            }
        }
    }

    #[test]
    fn a_line_that_is_no_header_is_refused() {
        assert_eq!(read(b"PROXY TCP4 192.0.2.7 198.51.100.9 4711 22\r\n"), visitor());
        assert_eq!(read(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 22\r\n"), Ok(Some(ends("[::1]:22"))), "folded");
        assert_eq!(read(b"PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(read(b"PROXY UNKNOWN ffff:: 1 2 whatever\r\n"), Ok(None));
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXY\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP5 192.0.2.7 198.51.100.9 4711 22\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.9 4711\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.9 4711 22 \r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.9 4711 22\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.9 +4711 22\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.9 65536 22\r\n",
            "PROXY TCP4 192.0.2 198.51.100.9 4711 22\r\n",
            "PROXY TCP4 ::1 ::1 4711 22\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.9 4711 22\r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Err(Malformed), "{line}");
        }
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 91], b"\r\n"].concat();
        assert_eq!((long.len(), read(&long)), (LONGEST_LINE, Ok(None)));
        let longer = [&b"PROXY UNKNOWN "[..], &[b'x'; 92], b"\r\n"].concat();
        assert_eq!(HeaderReader::default().next(&mut &longer[..LONGEST_LINE]), Err(Malformed), "at its 107th byte");
    }

    #[test]
    fn who_is_not_named_is_nobody() {
        assert_eq!(read(&v2(0x21, 0x11, &TCP4)), visitor());
        for header in [
            v2(0x20, 0x00, &[]),
            v2(0x20, 0x11, &TCP4),
            v2(0x20, 0xff, &[1, 2, 3]),
            v2(0x21, 0x00, &[]),
            v2(0x21, 0x00, &[2, 0, 1, b'x']),
            v2(0x21, 0x12, &TCP4),
            v2(0x21, 0x31, &[b'/'; 216]),
        ] {
            assert_eq!(read(&header), Ok(None), "{header:?}");
        }
    }

    #[test]
    fn lengths_that_lie_are_malformed_once_all_is_there_that_was_announced() {
        for header in [
            v2(0x21, 0x11, &TCP4[..11]),
            v2(0x21, 0x21, &TCP4),
            v2(0x21, 0x31, &[0; 215]),
            v2(0x22, 0x11, &TCP4),
            v2(0x11, 0x11, &TCP4),
            v2(0x21, 0x41, &TCP4),
            v2(0x21, 0x11, &[&TCP4[..], &[2, 0]].concat()),
            v2(0x21, 0x11, &[&TCP4[..], &[2, 0, 9, b'x']].concat()),
        ] {
            let (last, rest) = header.split_last().unwrap();
            let mut reader = HeaderReader::default();
            assert_eq!(reader.next(&mut &rest[..]), Ok(None), "{header:?}");
            assert_eq!(reader.next(&mut &[*last][..]), Err(Malformed), "{header:?}");
        }
        let most = [&TCP4[..], &[4, 0x0f, 0xf1], &vec![0; 0xff1]].concat();
        assert_eq!((most.len(), read(&v2(0x21, 0x11, &most))), (LONGEST_BODY, visitor()));
        let more = v2(0x21, 0x11, &[0; LONGEST_BODY + 1]);
        assert_eq!(HeaderReader::default().next(&mut &more[..FRONT]), Err(Malformed), "nobody waits for it");
    }

    /// P-FRONT-6.
    #[test]
    fn a_datagram_says_who_has_sent_it() {
        let said = |header: Vec<u8>| {
            let datagram = [&header[..], PAYLOAD].concat();
            split(&datagram).map(|(sender, sent)| {
                assert_eq!(sent, PAYLOAD);
                sender
            })
        };
        for from in ["192.0.2.7:4711", "[2001:db8::7]:1"] {
            let [from, to]: [SocketAddr; 2] = [from, "198.51.100.9:53"].map(|at| at.parse().unwrap());
            let ends = Ends::new([from.ip(), to.ip()], [from.port(), to.port()]);
            assert_eq!(said(super::super::datagram_header(from, to)), Ok(Sender::Visitor(ends)));
        }
        let fields = [&TCP4[..], &[4, 0, 1, 0]].concat();
        assert_eq!(
            said(v2(PROXY, 0x12, &fields)).ok(),
            visitor().unwrap().map(Sender::Visitor),
            "fields are no payload"
        );
        for (header, sender) in [
            (v2(LOCAL, 0x00, &[]), Sender::Relay),
            (v2(LOCAL, 0x12, &TCP4), Sender::Relay),
            (v2(PROXY, 0x00, &[]), Sender::Unnamed),
            (v2(PROXY, 0x11, &TCP4), Sender::Unnamed),
        ] {
            assert_eq!(said(header.clone()), Ok(sender), "{header:?}");
        }
        let whole = v2(PROXY, 0x12, &TCP4);
        assert!((0..whole.len()).all(|cut| split(&whole[..cut]) == Err(Malformed)), "what is cut is no header");
        assert_eq!(split(&whole).map(|(_, sent)| sent.len()), Ok(0), "nothing is a datagram, too");
        for header in
            [v2(PROXY, 0x12, &TCP4[..11]), v2(0x22, 0x12, &TCP4), b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n".to_vec()]
        {
            assert_eq!(said(header.clone()), Err(Malformed), "{header:?}");
        }
    }

    #[test]
    fn a_checksum_is_checked_where_there_is_one() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
        let field = |crc: [u8; 4]| [&TCP4[..], &[4, 0, 1, 0, CRC32C, 0, 4], &crc, &[2, 0, 1, b'x']].concat();
        let right = crc32c(v2(0x21, 0x11, &field([0; 4])).into_iter());
        assert_eq!(read(&v2(0x21, 0x11, &field(right.to_be_bytes()))), visitor());
        assert_eq!(read(&v2(0x21, 0x11, &field((right ^ 1).to_be_bytes()))), Err(Malformed));
        assert_eq!(read(&v2(0x21, 0x11, &[&TCP4[..], &[CRC32C, 0, 3, 1, 2, 3]].concat())), Err(Malformed));
    }
}
