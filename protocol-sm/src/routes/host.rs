//! Names of hosts: what a tunnel asks for, what a client may ask for, and what a visitor says.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// What the visitors of a host speak: each has a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Web {
    /// HTTP/1.1 in the clear: its `Host` says which host it is for.
    Http,
    /// TLS, which is passed on as it is: the name in its first message (SNI) says which host it is for.
    Https,
}

impl Web {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Http, Self::Https];

    /// The scheme of its URLs.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that its URLs leave out.
    #[must_use]
    pub fn usual_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A host that a tunnel may have: `app.example.com`, or `*.example.com` for every name below `example.com`, or `*` for
/// every visitor whom nobody else has. In lower case, without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(
    /// Without the `*`: what a name must end with, or be.
    String,
);

impl Host {
    /// The longest, in bytes: one message holds it beside all else that a tunnel may ask for.
    pub const MAX: usize = 120;

    /// Whether every name that this host stands for is among those of `self`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let Self(own) = self;
        if own.is_empty() || own == &other.0 {
            return true;
        }
        own.starts_with('.') && other.0.ends_with(own.as_str())
    }

    /// The keys of all hosts that `name` may belong to, the nearest first: see [`Host::key`].
    pub fn keys_of(name: &str) -> impl Iterator<Item = &str> {
        let below = name.match_indices('.').map(|(at, _)| &name[at..]);
        core::iter::once(name).chain(below).chain(core::iter::once("")).filter(move |key| {
            // An address has no domain above it.
            !name.starts_with('[') || *key == name || key.is_empty()
        })
    }

    /// As [`Host::keys_of`] names it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.0
    }

    /// Whether it is one name.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.0.is_empty() && !self.0.starts_with('.')
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_exact() {
            f.write_str("*")?;
        }
        f.write_str(&self.0)
    }
}

/// A text is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHost;

impl core::error::Error for NoHost {}

impl fmt::Display for NoHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "is not a host of at most {} bytes; write it like \"app.example.com\", \"*.example.com\" for every name below \
             it, or \"*\" for whatever no other tunnel has, without a port, and other letters than a to z as DNS has \
             them (\"xn--mnchen-3ya.example\")",
            Host::MAX
        )
    }
}

impl FromStr for Host {
    type Err = NoHost;

    fn from_str(text: &str) -> Result<Self, NoHost> {
        if text.len() > Self::MAX {
            return Err(NoHost);
        }
        let name = match text.strip_prefix('*') {
            Some("") => return Ok(Self(String::new())),
            Some(below) => below.strip_prefix('.').ok_or(NoHost)?,
            None => text,
        };
        let key = canonical(name).ok_or(NoHost)?;
        Ok(Self(if text.starts_with('*') { format!(".{key}") } else { key }))
    }
}

// On the wire it is its key.
impl Serialize for Host {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = String::deserialize(deserializer)?;
        let name = key.strip_prefix('.').unwrap_or(&key);
        // There is one way to write each.
        let is_host = key.is_empty() || canonical(name).is_some_and(|canonical| canonical == name);
        if is_host && key.len() <= Self::MAX { Ok(Self(key)) } else { Err(serde::de::Error::custom("not a host")) }
    }
}

/// Hosts that a client may have: each of its tunnels' hosts must be covered by one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostSet(Vec<Host>);

impl HostSet {
    /// Exactly these.
    #[must_use]
    pub fn new(hosts: Vec<Host>) -> Self {
        Self(hosts)
    }

    /// Every host.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![Host(String::new())])
    }

    /// Whether it has `host`.
    #[must_use]
    pub fn covers(&self, host: &Host) -> bool {
        self.0.iter().any(|own| own.covers(host))
    }

    /// Its hosts that are one name each.
    pub fn exact(&self) -> impl Iterator<Item = &Host> {
        self.0.iter().filter(|host| host.is_exact())
    }
}

/// A host at one of the two ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Site {
    /// The port.
    pub web: Web,
    /// The host.
    pub host: Host,
}

impl Site {
    /// Where it is reached, if its port is `port`.
    #[must_use]
    pub fn url(&self, port: u16) -> String {
        let usual = port == self.web.usual_port();
        let port = if usual { String::new() } else { format!(":{port}") };
        format!("{self}{port}")
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.web.scheme(), self.host)
    }
}

/// A name as it is compared: in lower case, without one dot at its end. `None` if it is no name.
pub(super) fn canonical(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(fits);
    (name.len() <= 253 && name.split('.').all(is_label)).then(|| name.to_ascii_lowercase())
}

/// The host of a `Host` header or of an authority, without its port: a name as it is compared, or an IPv6 address in
/// brackets. `None` if it is neither.
pub(super) fn of_authority(text: &str) -> Option<String> {
    let is_port =
        |port: &str| port.is_empty() || port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let port = rest.strip_prefix(':');
        if !rest.is_empty() && !port.is_some_and(is_port) {
            return None;
        }
        let address: Ipv6Addr = address.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    if port.is_some_and(|port| !is_port(port)) {
        return None;
    }
    canonical(name)
}

/// The name that a visitor's TLS says, if that is one: an address is none.
pub(super) fn of_sni(name: &[u8]) -> Option<Option<String>> {
    let name = core::str::from_utf8(name).ok()?;
    if name.parse::<IpAddr>().is_ok() {
        return Some(None);
    }
    canonical(name).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TunnelId;
    use crate::routes::Service;
    use crate::settings::TunnelLimits;
    use crate::sources::SourceLists;
    use crate::wire::{ClientMsg, Framer, Message, ToServer};
    use alloc::boxed::Box;
    use alloc::string::ToString;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_is_a_name_a_domain_or_all() {
        for (text, shown) in [
            ("app.example.com", "app.example.com"),
            ("App.Example.COM.", "app.example.com"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("localhost", "localhost"),
            ("*.Dev.example.com", "*.dev.example.com"),
            ("*", "*"),
            ("_dns.example", "_dns.example"),
        ] {
            assert_eq!(host(text).to_string(), shown);
        }
        let long = "a.".repeat(60) + "b";
        for text in
            ["", ".", "*.", "a..b", ".a", "**.a", "a.*.b", "*a.b", "a b", "a:80", "[::1]", "bücher.example", &long]
        {
            assert_eq!(text.parse::<Host>(), Err(NoHost), "{text}");
        }
    }

    #[test]
    fn a_domain_covers_all_names_below_it_and_not_itself() {
        let covers = |own: &str, other: &str| host(own).covers(&host(other));
        for (own, other) in [
            ("*", "*"),
            ("*", "a.b"),
            ("*", "*.b"),
            ("*.b.c", "a.b.c"),
            ("*.b.c", "x.a.b.c"),
            ("*.b.c", "*.b.c"),
            ("*.b.c", "*.a.b.c"),
            ("a.b", "A.b."),
        ] {
            assert!(covers(own, other), "{own} {other}");
        }
        for (own, other) in [
            ("a.b", "*"),
            ("*.b", "*"),
            ("*.b.c", "b.c"),
            ("*.b.c", "xb.c"),
            ("b.c", "a.b.c"),
            ("a.b", "*.a.b"),
            ("*.a.b", "*.b"),
        ] {
            assert!(!covers(own, other), "{own} {other}");
        }
        let set = HostSet::new(vec![host("a.b"), host("*.c")]);
        assert!(set.covers(&host("a.b")) && set.covers(&host("x.c")) && !set.covers(&host("b")));
        assert_eq!(set.exact().collect::<Vec<_>>(), [&host("a.b")]);
        assert!(HostSet::all().covers(&host("*")));
    }

    #[test]
    fn the_nearest_host_comes_first() {
        assert_eq!(
            Host::keys_of("x.dev.example").collect::<Vec<_>>(),
            ["x.dev.example", ".dev.example", ".example", ""]
        );
        assert_eq!(Host::keys_of("[::ffff:1.2.3.4]").collect::<Vec<_>>(), ["[::ffff:1.2.3.4]", ""]);
        assert_eq!([host("x.y").key(), host("*.y").key(), host("*").key()], ["x.y", ".y", ""]);
    }

    #[test]
    fn a_port_and_one_dot_are_no_part_of_a_name() {
        for (text, name) in [
            ("app.example", Some("app.example")),
            ("APP.example.:8080", Some("app.example")),
            ("app.example:", Some("app.example")),
            ("[2001:DB8::1]:80", Some("[2001:db8::1]")),
            ("[::1]", Some("[::1]")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("", None),
            (".", None),
            ("a..", None),
            ("a:65536", None),
            ("a:+1", None),
            ("a:1:2", None),
            ("::1", None),
            ("[::1]x", None),
            ("[::1", None),
            ("[fe80::1%eth0]", None),
            ("a b", None),
            ("user@a", None),
            ("a/b", None),
            ("b\u{fc}cher", None),
        ] {
            assert_eq!(of_authority(text).as_deref(), name, "{text}");
        }
        assert_eq!(of_sni(b"App.Example."), Some(Some("app.example".into())));
        assert_eq!([of_sni(b"127.0.0.1"), of_sni(b"::1")], [Some(None), Some(None)]);
        assert_eq!([of_sni(b""), of_sni(b"a b"), of_sni(b"\xff")], [None, None, None]);
    }

    #[test]
    fn one_message_holds_the_longest_host_beside_all_else_that_may_be_asked_for() {
        let host = host(&("a".repeat(63) + "." + &"b".repeat(Host::MAX - 64)));
        let networks = (0..SourceLists::MAX_SENT).map(|n| format!("2001:db8::{n}/128").parse().unwrap()).collect();
        let sources = SourceLists { allow: networks, ..SourceLists::default() };
        let limits = TunnelLimits { sources, max_connections: u32::MAX, max_connection_rate: u32::MAX };
        let (site, name) = (Box::new(Site { web: Web::Https, host }), "n".repeat(ClientMsg::MAX_NAME));
        let (tunnel, service) = (TunnelId(u32::MAX), Service::default());
        let msg = ClientMsg::RegisterHost { tunnel, site, service, name, limits };
        let message = ToServer::Numbered { seq: u64::MAX, msg };
        let mut frame = Vec::new();
        message.encode_to(&mut frame);
        let mut rest = frame.as_slice();
        assert_eq!(Framer::default().next(&mut rest), Ok(Some(message)));
    }

    #[test]
    fn a_url_leaves_the_usual_port_out() {
        let site = |web, text| Site { web, host: host(text) };
        assert_eq!(site(Web::Http, "a.b").url(80), "http://a.b");
        assert_eq!(site(Web::Https, "*.b").url(443), "https://*.b");
        assert_eq!(site(Web::Https, "*").url(80), "https://*:80");
    }
}
