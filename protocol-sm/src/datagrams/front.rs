//! What stands in front of what a LocalServer is sent, so that it learns who its visitor is: a PROXY header, which is a part
//! of each datagram, or of the first one alone.

use super::framing::MAX_DATAGRAM;
use crate::proxy_protocol::datagram_header;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Front {
    header: Vec<u8>,
    first_alone: bool,
    /// The first datagram is sent.
    begun: bool,
}

impl Front {
    /// That of a visitor who speaks to `public`. `first_alone`: only in front of the first datagram.
    #[must_use]
    pub fn new(visitor: SocketAddr, public: SocketAddr, first_alone: bool) -> Self {
        Self { header: datagram_header(visitor, public), first_alone, begun: false }
    }

    /// What is sent of `datagram`: itself, or, behind the header, put together in `buffer`. `None`: that is too long.
    // PROTOCOL.md: P-UDP-9.
    pub fn put<'a>(&self, datagram: &'a [u8], buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        if self.first_alone && self.begun {
            return Some(datagram);
        }
        buffer.clear();
        buffer.extend_from_slice(&self.header);
        buffer.extend_from_slice(datagram);
        (buffer.len() <= MAX_DATAGRAM).then_some(buffer)
    }

    /// One was sent.
    pub fn on_sent(&mut self) {
        self.begun = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// P-UDP-9: in front of each, or of the first that is sent; and no datagram is cut for it.
    #[test]
    fn a_header_stands_in_front_of_each_datagram_or_of_the_first() {
        let [visitor, public]: [SocketAddr; 2] = ["192.0.2.7:4711", "198.51.100.9:53"].map(|at| at.parse().unwrap());
        let header = datagram_header(visitor, public);
        let longest = MAX_DATAGRAM - header.len();
        let mut buffer = Vec::new();
        for first_alone in [false, true] {
            let mut front = Front::new(visitor, public, first_alone);
            assert_eq!(front.put(&vec![7; longest + 1], &mut buffer), None, "too long");
            for size in [0, 1, longest] {
                let (datagram, with) = (vec![7; size], [&header[..], &vec![7; size]].concat());
                for _ in 0..2 {
                    assert_eq!(front.put(&datagram, &mut buffer), Some(&with[..]), "nothing was sent");
                }
                front.on_sent();
                let then = if first_alone { &datagram } else { &with };
                assert_eq!(front.put(&datagram, &mut buffer), Some(&then[..]));
                front = Front::new(visitor, public, first_alone);
            }
        }
    }
}
