//! The PROXY header that a service expects in front of a visitor's bytes.

use protocol_sm::proxy_protocol::ProxyProtocol;

/// No header is longer.
const LONGEST: usize = 512;

/// What has come of one.
#[derive(Debug)]
pub(super) struct Header {
    version: ProxyProtocol,
    bytes: Vec<u8>,
}

impl Header {
    pub(super) fn new(version: ProxyProtocol) -> Self {
        Self { version, bytes: Vec::new() }
    }

    /// Takes what belongs to it, and returns the rest.
    pub(super) fn take<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while !self.is_whole()
            && let Some((first, rest)) = bytes.split_first()
        {
            self.bytes.push(*first);
            bytes = rest;
        }
        bytes
    }

    pub(super) fn is_whole(&self) -> bool {
        let ends = match self.version {
            ProxyProtocol::V1 => self.bytes.ends_with(b"\r\n"),
            ProxyProtocol::V2 => self
                .bytes
                .get(14..16)
                .is_some_and(|length| self.bytes.len() - 16 == usize::from(u16::from_be_bytes([length[0], length[1]]))),
        };
        ends || self.bytes.len() == LONGEST
    }

    /// Something of it has come, and something is missing.
    pub(super) fn is_split(&self) -> bool {
        !self.bytes.is_empty() && !self.is_whole()
    }

    /// Whether it is this one.
    pub(super) fn is(&self, expected: &[u8]) -> bool {
        self.bytes == expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn a_header_ends_where_it_ends_in_any_pieces() {
        let [visitor, public]: [SocketAddr; 2] =
            ["192.0.2.7:50000", "[2001:db8::1]:6000"].map(|at| at.parse().unwrap());
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let header = version.header(visitor, public);
            let sent = [&header[..], b"GET"].concat();
            for piece in 1..sent.len() {
                let mut expected = Header::new(version);
                let rest: Vec<u8> = sent.chunks(piece).flat_map(|bytes| expected.take(bytes).to_vec()).collect();
                assert_eq!(rest, b"GET", "in pieces of {piece}");
                assert!(expected.is_whole() && !expected.is_split() && expected.is(&header));
                assert!(!expected.is(&version.header(public, visitor)));
            }
            let mut expected = Header::new(version);
            assert!(!expected.is_split());
            assert!(expected.take(&header[..5]).is_empty() && expected.is_split());
        }
    }
}
