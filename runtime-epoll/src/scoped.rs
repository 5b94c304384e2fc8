//! IP addresses with the zone that a link-local one needs: the network interface on whose link it counts, by name or by
//! number, as in `fe80::1%eth0` (RFC 4007, section 11). An interface has its number only while it is there, and so a
//! name is looked up anew whenever the address is used.

use nix::net::if_::if_nametoindex;
use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// The longest name of an interface, in bytes.
const LONGEST_NAME: usize = 15;

/// An IP address, and of an IPv6 address the zone, if it was given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScopedIp {
    ip: IpAddr,
    zone: Option<String>,
}

/// Why a text is no [`ScopedIp`]: a sentence that says what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopedIpError {
    /// It is no IP address.
    NoAddress,
    /// What stands behind the `%`.
    Zone(String),
    /// Nothing stands behind a link-local address.
    NoZone(Ipv6Addr),
}

/// This machine has no interface of this name; it may have one later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoInterface(pub String);

impl ScopedIp {
    /// The address alone.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// This address with a port, on the interface that has the zone's name now.
    ///
    /// # Errors
    /// There is none.
    pub fn at(&self, port: u16) -> Result<SocketAddr, NoInterface> {
        match (self.ip, &self.zone) {
            (IpAddr::V6(ip), Some(zone)) => {
                let named = if_nametoindex(zone.as_str()).ok();
                let number = named.or_else(|| zone.parse().ok()).ok_or_else(|| NoInterface(zone.clone()))?;
                Ok(SocketAddrV6::new(ip, port, 0, number).into())
            }
            (ip, _) => Ok(SocketAddr::new(ip, port)),
        }
    }

    /// Reads an address and a port, an IPv6 address in brackets.
    #[must_use]
    pub fn with_port(text: &str) -> Option<(Self, u16)> {
        let (host, port) = text.rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let ip: Self = bare.unwrap_or(host).parse().ok()?;
        let port = port.parse().ok()?;
        (ip.ip.is_ipv6() == bare.is_some()).then_some((ip, port))
    }
}

impl From<IpAddr> for ScopedIp {
    fn from(ip: IpAddr) -> Self {
        Self { ip, zone: None }
    }
}

impl FromStr for ScopedIp {
    type Err = ScopedIpError;

    fn from_str(text: &str) -> Result<Self, ScopedIpError> {
        let no_address = |_: AddrParseError| ScopedIpError::NoAddress;
        let Some((ip, zone)) = text.split_once('%') else {
            let ip: IpAddr = text.parse().map_err(no_address)?;
            return match ip {
                IpAddr::V6(ip) if ip.is_unicast_link_local() => Err(ScopedIpError::NoZone(ip)),
                IpAddr::V4(_) | IpAddr::V6(_) => Ok(ip.into()),
            };
        };
        let ip: Ipv6Addr = ip.parse().map_err(no_address)?;
        let strange = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%' | '[' | ']');
        if zone.is_empty() || zone.len() > LONGEST_NAME || zone.contains(strange) {
            return Err(ScopedIpError::Zone(zone.to_owned()));
        }
        Ok(Self { ip: ip.into(), zone: Some(zone.to_owned()) })
    }
}

impl fmt::Display for ScopedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)?;
        self.zone.iter().try_for_each(|zone| write!(f, "%{zone}"))
    }
}

impl fmt::Display for ScopedIpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("it is not an IP address"),
            Self::Zone(zone) => write!(
                f,
                "`{}` is not the name or the number of a network interface, such as eth0",
                zone.escape_debug()
            ),
            Self::NoZone(ip) => write!(
                f,
                "a link-local address needs the network interface behind it; write {ip}%eth0, with the interface's name or \
                 number"
            ),
        }
    }
}

impl fmt::Display for NoInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this machine has no network interface `{}`", self.0)
    }
}

impl std::error::Error for ScopedIpError {}
impl std::error::Error for NoInterface {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_the_name_or_the_number_of_an_interface() {
        let at = |text: &str| text.parse::<ScopedIp>().unwrap().at(80).map(|at| at.to_string());
        let number = if_nametoindex("lo").unwrap();
        assert_eq!(at("fe80::1%lo").unwrap(), format!("[fe80::1%{number}]:80"));
        assert_eq!(at("fe80::1%7").unwrap(), "[fe80::1%7]:80", "it may come later");
        assert_eq!(at("fe80::1%nowhere0"), Err(NoInterface("nowhere0".to_owned())));
        assert_eq!(at("::1").unwrap(), "[::1]:80");
        assert_eq!(at("192.0.2.1").unwrap(), "192.0.2.1:80");
    }

    #[test]
    fn what_is_read_is_printed() {
        for text in ["192.0.2.1", "::", "fe80::1%eth0", "fe80::1%2", "2001:db8::1%wg0"] {
            assert_eq!(text.parse::<ScopedIp>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_ones_say_what_to_write() {
        let error = |text: &str| text.parse::<ScopedIp>().unwrap_err().to_string();
        assert_eq!(error("localhost"), "it is not an IP address");
        assert_eq!(error("192.0.2.1%eth0"), "it is not an IP address");
        assert_eq!(error("fe80::1%"), "`` is not the name or the number of a network interface, such as eth0");
        for zone in ["a b", "a/b", "sixteen-letters-", "a%b", "a:1", "\u{7f}"] {
            assert!(error(&format!("fe80::1%{zone}")).contains("is not the name or the number"), "{zone}");
        }
        assert!(error("fe80::1").contains("write fe80::1%eth0, with the interface's name or number"));
    }

    #[test]
    fn a_port_stands_behind_brackets() {
        let read = |text: &str| ScopedIp::with_port(text).map(|(ip, port)| (ip.to_string(), port));
        assert_eq!(read("[fe80::1%eth0]:80"), Some(("fe80::1%eth0".to_owned(), 80)));
        assert_eq!(read("192.0.2.1:80"), Some(("192.0.2.1".to_owned(), 80)));
        for none in ["a.example:80", "fe80::1%eth0:80", "[192.0.2.1]:80", "[fe80::1%eth0]", "[::1]:", "[::1]:65536"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
