//! Source addresses: networks as written in `allow_sources` (`192.0.2.0/24`, `2001:db8::/32`), lists of them, and
//! what counts as one source where something is bounded per source.

use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A network: the addresses that share its first `length` bits. An IPv4-mapped IPv6 network is the IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    ip: IpAddr,
    length: u8,
}

impl Network {
    /// The network of the first `length` bits of `ip`.
    ///
    /// # Errors
    /// [`NetworkError::TooLong`] if there are not so many bits, [`NetworkError::BitsBehind`] if `ip` has bits set
    /// behind them: most likely one of the two is a slip.
    pub fn new(ip: IpAddr, length: u8) -> Result<Self, NetworkError> {
        let (ip, length) = match ip.to_canonical() {
            canonical @ IpAddr::V4(_) if ip.is_ipv6() && length >= 96 => (canonical, length - 96),
            IpAddr::V4(_) | IpAddr::V6(_) => (ip, length),
        };
        let width = if ip.is_ipv4() { 32 } else { 128 };
        if length > width {
            return Err(NetworkError::TooLong(width));
        }
        let network = Self { ip: first_bits(ip, length), length };
        if network.ip == ip { Ok(network) } else { Err(NetworkError::BitsBehind(network)) }
    }

    /// Whether `ip` is in it; an IPv4-mapped address is the IPv4 address.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.ip.is_ipv4() && first_bits(ip, self.length) == self.ip
    }
}

/// `ip` with everything behind its first `length` bits cleared.
fn first_bits(ip: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkError {
    /// Not an IP address, or not one and a number joined by `/`.
    NotANetwork,
    /// More bits than an address of this kind has; holds how many it has.
    TooLong(u8),
    /// The address has bits set behind the network's; holds the network.
    BitsBehind(Network),
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotANetwork => {
                f.write_str("expected an address (192.0.2.7, 2001:db8::7) or a network such as 192.0.2.0/24")
            }
            Self::TooLong(width) => {
                write!(f, "the number behind / is larger than {width}, the bits of such an address")
            }
            Self::BitsBehind(network) => {
                write!(f, "the address has bits set behind the network's; write {network}, or the address alone")
            }
        }
    }
}

impl core::error::Error for NetworkError {}

impl FromStr for Network {
    type Err = NetworkError;

    /// Parses `192.0.2.0/24`, `2001:db8::/32`, or an address, which is the network of that address alone.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (ip, length) = match text.split_once('/') {
            Some((ip, length)) => (ip, Some(length)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| NetworkError::NotANetwork)?;
        let length = match length {
            // As written by people: no sign, nothing in front of it.
            Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().map_err(|_| NetworkError::NotANetwork)?
            }
            Some(_) => return Err(NetworkError::NotANetwork),
            None if ip.is_ipv4() => 32,
            None => 128,
        };
        Self::new(ip, length)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.length)
    }
}

impl Serialize for Network {
    /// As the address and the length; as text where people read it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.ip, self.length).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Network {
    // PROTOCOL.md: P-ENC-5.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return alloc::string::String::deserialize(deserializer)?.parse().map_err(D::Error::custom);
        }
        let (ip, length) = <(IpAddr, u8)>::deserialize(deserializer)?;
        match Self::new(ip, length) {
            // One encoding per value.
            Ok(network) if network.ip == ip => Ok(network),
            Ok(_) | Err(_) => Err(D::Error::custom("not a network")),
        }
    }
}

/// Who may come: nobody of `deny`, and of the others those of `allow`, or all where `allow` is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceLists {
    /// These may come; empty: everybody.
    #[serde(deserialize_with = "few")]
    pub allow: Vec<Network>,
    /// These may not, whatever `allow` says.
    #[serde(deserialize_with = "few")]
    pub deny: Vec<Network>,
}

impl SourceLists {
    /// The most networks that the two lists of one message hold together.
    pub const MAX_SENT: usize = 16;

    /// Networks in both lists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.allow.len() + self.deny.len()
    }

    /// Whether both are empty: everybody may come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a visitor from `ip` may come.
    #[must_use]
    pub fn permit(&self, ip: IpAddr) -> bool {
        let names = |list: &[Network]| list.iter().any(|network| network.contains(ip));
        !names(&self.deny) && (self.allow.is_empty() || names(&self.allow))
    }
}

/// Reads a list without reserving room for the length that it claims.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Network>, D::Error> {
    struct Few;
    impl<'de> Visitor<'de> for Few {
        type Value = Vec<Network>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {} networks", SourceLists::MAX_SENT)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Network>, A::Error> {
            let mut list = Vec::new();
            while let Some(network) = items.next_element()? {
                if list.len() == SourceLists::MAX_SENT {
                    return Err(A::Error::custom("too many networks"));
                }
                list.push(network);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(Few)
}

/// One source, where something is bounded per source address: an IPv4 address, or the /64 of an IPv6 address, which
/// is what one machine is usually given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The source that `ip` belongs to.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        Self(first_bits(ip, if ip.is_ipv4() { 32 } else { 64 }))
    }

    /// The site that `ip` belongs to: an IPv4 address, or the /48 of an IPv6 address, which is what one customer is
    /// given at most.
    #[must_use]
    pub fn site_of(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        Self(first_bits(ip, if ip.is_ipv4() { 32 } else { 48 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_hold_what_shares_their_first_bits() {
        for (text, inside, outside) in [
            ("192.0.2.0/24", ["192.0.2.0", "192.0.2.255"], ["192.0.1.255", "192.0.3.0"]),
            ("192.0.2.7", ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.2.6", "192.0.2.8"]),
            ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255"], ["::", "2001:db8::1"]),
            ("::/0", ["::1", "2001:db8::1"], ["0.0.0.0", "::ffff:192.0.2.7"]),
            ("2001:db8::/33", ["2001:db8::", "2001:db8:7fff::1"], ["2001:db8:8000::", "2001:db7::"]),
            ("::ffff:0.0.0.0/96", ["10.0.0.1", "::ffff:10.255.0.1"], ["::10.0.0.1", "::fffe:10.0.0.1"]),
            ("::ffff:10.0.0.0/104", ["10.0.0.1", "::ffff:10.255.0.1"], ["11.0.0.1", "::10.0.0.1"]),
        ] {
            for inside in inside {
                assert!(network(text).contains(ip(inside)), "{inside} is in {text}");
            }
            for outside in outside {
                assert!(!network(text).contains(ip(outside)), "{outside} is not in {text}");
            }
        }
        assert_eq!(network("::ffff:10.0.0.0/104").to_string(), "10.0.0.0/8");
        assert_eq!(network("2001:db8::7").to_string(), "2001:db8::7/128");
    }

    #[test]
    fn nonsense_is_named() {
        for nonsense in ["", "/8", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/8/8", "10.0.0/8", "localhost", "10.0.0.0/999"]
        {
            assert_eq!(nonsense.parse::<Network>(), Err(NetworkError::NotANetwork), "{nonsense}");
        }
        assert_eq!("10.0.0.0/33".parse::<Network>(), Err(NetworkError::TooLong(32)));
        assert_eq!("::/129".parse::<Network>(), Err(NetworkError::TooLong(128)));
        let error = "10.1.0.0/8".parse::<Network>().unwrap_err();
        assert_eq!(error, NetworkError::BitsBehind(network("10.0.0.0/8")));
        assert!(error.to_string().contains("write 10.0.0.0/8"), "{error}");
    }

    #[test]
    fn deny_beats_allow_and_no_allow_list_means_everybody() {
        let lists = |allow: &[&str], deny: &[&str]| SourceLists {
            allow: allow.iter().map(|text| network(text)).collect(),
            deny: deny.iter().map(|text| network(text)).collect(),
        };
        assert!(lists(&[], &[]).permit(ip("192.0.2.7")));
        let office = lists(&["192.0.2.0/24", "2001:db8::/32"], &["192.0.2.128/25"]);
        assert!(office.permit(ip("192.0.2.7")) && office.permit(ip("2001:db8::1")));
        assert!(!office.permit(ip("192.0.2.200")) && !office.permit(ip("198.51.100.1")));
        assert!(lists(&[], &["::/0"]).permit(ip("192.0.2.7")), "IPv6 networks hold no IPv4 address");
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        assert_eq!(Source::of(ip("2001:db8::1")), Source::of(ip("2001:db8::ffff:0:1")));
        assert_eq!(Source::of(ip("2001:db8::1")), Source::of(ip("2001:db8::8000:0:0:1")));
        assert_ne!(Source::of(ip("2001:db8::1")), Source::of(ip("2001:db8:0:1::1")));
        assert_eq!(Source::of(ip("192.0.2.7")), Source::of(ip("::ffff:192.0.2.7")));
        assert_ne!(Source::of(ip("192.0.2.7")), Source::of(ip("192.0.2.8")));
    }
}
