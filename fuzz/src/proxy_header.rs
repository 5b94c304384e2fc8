//! A PROXY header from a stranger, read by us and by the crate `proxy-header`.

use protocol_sm::proxy_protocol::{Ends, Header, HeaderReader, LONGEST_HEADER, Malformed, Sender, split};
use proxy_header::{ParseConfig, Protocol, ProxyHeader, Tlv};
use std::net::SocketAddr;

/// Any bytes as the beginning of a connection from a trusted proxy, and as a datagram of one.
pub fn proxy_header(data: &[u8]) {
    datagram(data);
    let mut rest = data;
    let whole = HeaderReader::default().next(&mut rest);
    let taken = data.len() - rest.len();
    assert!(taken <= LONGEST_HEADER, "what is kept is bounded");
    let mut reader = HeaderReader::default();
    let slowly = data.iter().find_map(|byte| reader.next(&mut [*byte].as_slice()).transpose()).transpose();
    assert_eq!(slowly, whole, "byte by byte");
    let theirs = ProxyHeader::parse(data, ParseConfig::default());
    match (whole, theirs) {
        (Ok(Some(Header { ends })), Ok((header, length))) => {
            assert_eq!(length, taken, "the payload begins behind it");
            assert_eq!(ends.map(both), named(&header, Protocol::Stream), "who it is");
        }
        (Ok(Some(Header { ends })), Err(_)) => {
            // Of LOCAL they read the addresses, and of UNKNOWN what stands before its end, none of which counts.
            let says_nobody = is_local(data) || data.starts_with(b"PROXY UNKNOWN ");
            assert!(says_nobody && ends.is_none(), "they refuse it");
        }
        (Ok(None), theirs) => assert!(theirs.is_err(), "we wait for what is not needed"),
        (Err(Malformed), Ok((header, length))) => {
            let fields_lie = header.tlvs().any(|tlv| matches!(tlv, Err(_) | Ok(Tlv::Crc32c(_))));
            let too_long = length > if data[0] == b'P' { 107 } else { LONGEST_HEADER };
            // `PROXY?TCP4`, `UNKNOWNS`, `+80`.
            let loose = data[0] == b'P';
            assert!(fields_lie || too_long || loose, "they read {header:?}");
        }
        (Err(Malformed), Err(_)) => {}
    }
}

/// What we take of a datagram is what they take of it.
fn datagram(data: &[u8]) {
    let Ok((sender, sent)) = split(data) else { return };
    match ProxyHeader::parse(data, ParseConfig::default()) {
        Ok((header, length)) => {
            assert_eq!(sent, &data[length..], "what was sent begins behind it");
            let ends = if let Sender::Visitor(ends) = sender { Some(ends) } else { None };
            assert_eq!(ends.map(both), named(&header, Protocol::Datagram), "who has sent it");
        }
        Err(_) => assert!(is_local(data) && sender == Sender::Relay, "they refuse it"),
    }
}

fn is_local(data: &[u8]) -> bool {
    data.get(12) == Some(&0x20)
}

fn both(ends: Ends) -> [SocketAddr; 2] {
    [ends.visitor, ends.public]
}

fn named(header: &ProxyHeader<'_>, protocol: Protocol) -> Option<[SocketAddr; 2]> {
    let address = header.proxied_address().filter(|address| address.protocol == protocol)?;
    Some([address.source, address.destination].map(|at| SocketAddr::new(at.ip().to_canonical(), at.port())))
}
