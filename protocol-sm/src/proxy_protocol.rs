//! The PROXY protocol's header, by which a LocalServer learns who its visitor is: it stands in front of the visitor's
//! first byte, or of a flow's datagrams. Versions 1 and 2 of the specification at haproxy.org, as every server that knows
//! it takes them: without optional fields, unless they are asked for, so that nobody's limit on its length is met. What
//! relays in front of the server write is read by [`HeaderReader`], and in front of a datagram by [`split`].

mod read;

pub use read::{Ends, Header, HeaderReader, LONGEST_HEADER, Malformed, Sender, split};

use crate::routes::Secured;
use alloc::format;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// The first bytes of a header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, on behalf of somebody else.
const V2_PROXY: u8 = 0x21;
/// TCP over IPv4, TCP over IPv6.
const STREAM: [u8; 2] = [0x11, 0x21];
/// UDP over IPv4, UDP over IPv6.
const DATAGRAM: [u8; 2] = [0x12, 0x22];

/// Optional fields of version 2: what was agreed on in TLS, and the host that it has named (`PP2_TYPE_ALPN`,
/// `PP2_TYPE_AUTHORITY`).
const ALPN: u8 = 1;
const AUTHORITY: u8 = 2;

/// Which header a LocalServer expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyProtocol {
    /// The header of a visitor that comes from `visitor` and connected to `public`: at most 107 bytes. An IPv4 address in
    /// IPv6 form is written as what it is.
    #[must_use]
    pub fn header(self, visitor: SocketAddr, public: SocketAddr) -> Vec<u8> {
        let (from, to) = one_family(visitor.ip().to_canonical(), public.ip().to_canonical());
        let ports = [visitor.port(), public.port()];
        match self {
            Self::V1 => {
                let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
                format!("PROXY {family} {from} {to} {} {}\r\n", ports[0], ports[1]).into_bytes()
            }
            Self::V2 => binary(STREAM, [from, to], ports, &[]),
        }
    }
}

/// The same of version 2, with what is known of the visitor's TLS: at most 186 bytes.
#[must_use]
pub fn header_with_fields(visitor: SocketAddr, public: SocketAddr, secured: &Secured) -> Vec<u8> {
    let (from, to) = one_family(visitor.ip().to_canonical(), public.ip().to_canonical());
    let mut fields = Vec::new();
    let mut field = |kind, text: &str| {
        let length = u16::try_from(text.len()).expect("120 at most");
        fields.extend([&[kind], &length.to_be_bytes()[..], text.as_bytes()].concat());
    };
    if let Some(agreed) = secured.agreed {
        field(ALPN, agreed.alpn());
    }
    if let Some(host) = &secured.host {
        field(AUTHORITY, host.key());
    }
    binary(STREAM, [from, to], [visitor.port(), public.port()], &fields)
}

/// The same of version 2 for a datagram, of which it is a part: at most 52 bytes. (Version 1 has none.)
#[must_use]
pub fn datagram_header(visitor: SocketAddr, public: SocketAddr) -> Vec<u8> {
    let (from, to) = one_family(visitor.ip().to_canonical(), public.ip().to_canonical());
    binary(DATAGRAM, [from, to], [visitor.port(), public.port()], &[])
}

/// A header of version 2. `families`: that of IPv4, and that of IPv6.
fn binary(families: [u8; 2], ips: [IpAddr; 2], ports: [u16; 2], fields: &[u8]) -> Vec<u8> {
    let mut addresses = Vec::new();
    for ip in ips {
        match ip {
            IpAddr::V4(ip) => addresses.extend(ip.octets()),
            IpAddr::V6(ip) => addresses.extend(ip.octets()),
        }
    }
    addresses.extend(ports.into_iter().flat_map(u16::to_be_bytes));
    let length = u16::try_from(addresses.len() + fields.len()).expect("a few hundred at most");
    let front = [V2_PROXY, families[usize::from(ips[0].is_ipv6())]];
    [&SIGNATURE[..], &front, &length.to_be_bytes(), &addresses, fields].concat()
}

/// A header has addresses of one family.
fn one_family(from: IpAddr, to: IpAddr) -> (IpAddr, IpAddr) {
    let wide = |ip| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    };
    if from.is_ipv4() == to.is_ipv4() { (from, to) } else { (wide(from), wide(to)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::Agreed;
    use alloc::string::String;

    fn v1(visitor: &str, public: &str) -> String {
        let header = ProxyProtocol::V1.header(visitor.parse().unwrap(), public.parse().unwrap());
        String::from_utf8(header).unwrap()
    }

    fn v2(visitor: &str, public: &str) -> Vec<u8> {
        let header = ProxyProtocol::V2.header(visitor.parse().unwrap(), public.parse().unwrap());
        assert_eq!(header[..12], SIGNATURE);
        header[12..].to_vec()
    }

    #[test]
    fn version_1_is_a_line() {
        assert_eq!(v1("203.0.113.7:50000", "192.0.2.1:443"), "PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n");
        assert_eq!(v1("[2001:db8::7]:1", "[2001:db8::1]:443"), "PROXY TCP6 2001:db8::7 2001:db8::1 1 443\r\n");
    }

    #[test]
    fn version_2_is_binary() {
        let header = v2("203.0.113.7:50000", "192.0.2.1:443");
        assert_eq!(header, [0x21, 0x11, 0, 12, 203, 0, 113, 7, 192, 0, 2, 1, 195, 80, 1, 187]);
        let header = v2("[2001:db8::7]:1", "[2001:db8::1]:443");
        assert_eq!(header[..4], [0x21, 0x21, 0, 36]);
        assert_eq!((header[4], header[19], header[35]), (0x20, 7, 1));
        assert_eq!(header[36..], [0, 1, 1, 187]);
    }

    /// What dnsdist, PowerDNS, Knot and CoreDNS take: DGRAM, and PROXY.
    #[test]
    fn a_datagrams_header_says_that_it_is_one() {
        for (visitor, public, family) in
            [("203.0.113.7:50000", "192.0.2.1:53", 0x12), ("[2001:db8::7]:1", "[2001:db8::1]:53", 0x22)]
        {
            let header = datagram_header(visitor.parse().unwrap(), public.parse().unwrap());
            assert_eq!(header[12..14], [0x21, family]);
            assert_eq!(header[14..], v2(visitor, public)[2..], "all else is as in front of a stream");
        }
    }

    /// A socket that listens on both families tells IPv4 addresses so.
    #[test]
    fn an_ipv4_address_in_ipv6_form_is_one() {
        let plain = v1("203.0.113.7:50000", "192.0.2.1:443");
        assert_eq!(v1("[::ffff:203.0.113.7]:50000", "[::ffff:192.0.2.1]:443"), plain);
        assert_eq!(v1("[::ffff:203.0.113.7]:50000", "192.0.2.1:443"), plain);
        assert_eq!(v2("[::ffff:203.0.113.7]:50000", "192.0.2.1:443"), v2("203.0.113.7:50000", "192.0.2.1:443"));
    }

    #[test]
    fn addresses_of_two_families_are_told_in_the_wider_one() {
        assert_eq!(v1("203.0.113.7:1", "[2001:db8::1]:2"), "PROXY TCP6 ::ffff:203.0.113.7 2001:db8::1 1 2\r\n");
        assert_eq!(v2("203.0.113.7:1", "[2001:db8::1]:2")[..4], [0x21, 0x21, 0, 36]);
    }

    #[test]
    fn what_is_known_of_tls_stands_in_fields_behind_the_addresses() {
        let [visitor, public] = ["203.0.113.7:50000", "192.0.2.1:443"].map(|at| at.parse().unwrap());
        let plain = ProxyProtocol::V2.header(visitor, public);
        let with = |host: Option<&str>, agreed| {
            let secured = Secured { host: host.map(|host| host.parse().unwrap()), agreed };
            let header = header_with_fields(visitor, public, &secured);
            assert_eq!((&header[..14], &header[16..28]), (&plain[..14], &plain[16..]), "all else is as ever");
            assert_eq!(usize::from(header[15]), header.len() - 16);
            let ends = HeaderReader::default().next(&mut &header[..]).unwrap().unwrap().ends;
            assert_eq!(ends, Some(Ends { visitor, public }), "a reader reads it");
            header[28..].to_vec()
        };
        assert_eq!(with(Some("a.example"), Some(Agreed::Http2)), b"\x01\0\x02h2\x02\0\x09a.example");
        assert_eq!(with(None, Some(Agreed::Http1)), b"\x01\0\x08http/1.1");
        assert_eq!(with(Some("a.example"), None), b"\x02\0\x09a.example");
    }

    /// haproxy takes what fits its buffer, nginx's http module 1,024 bytes.
    #[test]
    fn with_fields_it_has_at_most_186_bytes() {
        let longest = SocketAddr::from(([0xffff; 8], u16::MAX));
        let host = format!("{}.{}", "a".repeat(60), "b".repeat(59)).parse().unwrap();
        let secured = Secured { host: Some(host), agreed: Some(Agreed::Http1) };
        assert_eq!(header_with_fields(longest, longest, &secured).len(), 186);
    }

    /// Some servers refuse what is longer.
    #[test]
    fn no_header_is_longer_than_107_bytes() {
        let longest = SocketAddr::from(([0xffff; 8], u16::MAX));
        assert!(ProxyProtocol::V1.header(longest, longest).len() <= 107);
        assert_eq!(ProxyProtocol::V2.header(longest, longest).len(), 52);
    }
}
