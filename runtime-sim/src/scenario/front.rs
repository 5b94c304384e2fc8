//! A relay in front of the server: visitors and strangers come from the relay's address, and say by a PROXY header who
//! they are.

use crate::kernel::{Rng, mix};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use protocol_sm::proxy_protocol::ProxyProtocol;
use std::collections::VecDeque;
use std::time::Duration;

/// A quarter of it is longer than the server waits for a header: so long is the shortest pause.
const TOO_LATE: Duration = Duration::from_secs(24);
/// The first bytes of the network that visitors say they come from.
const NAMED: [u8; 3] = [203, 0, 113];
/// The relay's address that they have connected to.
const RELAY: [u8; 4] = [198, 51, 100, 1];

/// What one visitor's connection begins with.
#[derive(Debug)]
pub(crate) struct Front {
    /// Who it says it is.
    pub(crate) name: SocketAddr,
    /// Where it says that it has connected to.
    pub(crate) public: SocketAddr,
    /// What is to be sent still, and how long to wait in front of the second piece and the next.
    pub(crate) pieces: VecDeque<Vec<u8>>,
    pub(crate) pause: Duration,
    /// It has, or will have, a header that counts.
    pub(crate) valid: bool,
    /// It ends behind the header: the relay's check.
    pub(crate) check: bool,
}

impl Front {
    /// Draws it for the visitor number `index`, at `from`, to `public` by the relay. Some who need not be served do not send what they
    /// should. Its dice are its own.
    pub(crate) fn draw(seed: u64, index: usize, from: SocketAddr, public: SocketAddr, honest: bool) -> Self {
        let mut rng = Rng::new(seed ^ mix(0xf207 + index as u64));
        let version = rng.pick(&[ProxyProtocol::V1, ProxyProtocol::V2]);
        let [a, b, c] = NAMED;
        let last = u8::try_from(1 + from.port() % 3).expect("small");
        let mut name = SocketAddr::new(Ipv4Addr::new(a, b, c, last).into(), from.port());
        let mut relay = SocketAddr::from((RELAY, 443));
        let mut header = version.header(name, relay);
        if rng.chance(10) {
            (name, relay) = (from, public);
            header = match version {
                ProxyProtocol::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
                ProxyProtocol::V2 => [&header[..12], &[0x20, 0, 0, 0]].concat(),
            };
        }
        let (mut late, mut malformed, mut check) = (false, false, false);
        match rng.below(10) {
            0 => late = !honest,
            1 => malformed = !honest,
            2 => check = !honest,
            _ => {}
        }
        if malformed {
            header[rng.size(0, 5)] ^= 0x20;
        }
        let size = if late { header.len() / 2 } else { rng.size(1, header.len()).max(header.len() / 4) };
        let pause = Duration::from_millis(rng.range(0, 300));
        Self {
            name,
            public: relay,
            pieces: header.chunks(size).map(<[u8]>::to_vec).collect(),
            pause: if late { TOO_LATE } else { pause },
            valid: !malformed,
            check,
        }
    }

    /// The same, or nothing, and behind it what is said first: it begins TLS that ends at the server, or asks that. It is not
    /// waited for behind a check.
    pub(crate) fn saying(
        before: Option<Self>,
        [name, public]: [SocketAddr; 2],
        words: impl IntoIterator<Item = Vec<u8>>,
    ) -> Self {
        let nothing = Self { name, public, pieces: VecDeque::new(), pause: Duration::ZERO, valid: true, check: false };
        let mut front = before.unwrap_or(nothing);
        if !front.check {
            front.pieces.extend(words);
        }
        front
    }

    /// Whether a seed has a relay in front of its server. Its dice are its own.
    pub(crate) fn draw_whether(seed: u64) -> bool {
        Rng::new(seed ^ 0xf207_7ed0).chance(15)
    }

    /// Whether this is who somebody says he is.
    pub(crate) fn is_name(name: SocketAddr) -> bool {
        matches!(name.ip(), IpAddr::V4(ip) if ip.octets()[..3] == NAMED)
    }

    /// Whether its header has been sent, and counts.
    pub(crate) fn introduces(&self) -> bool {
        self.valid && self.pieces.is_empty()
    }
}
