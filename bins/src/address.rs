//! `HOST:PORT` and `unix:PATH`, as people type them. Nothing is resolved here: that happens at each dial.

use protocol_sm::names::LocalAt;
use runtime_epoll::{ScopedIp, ScopedIpError};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

/// A host name, IPv4 or IPv6 address and a port from 1 to 65535. Prints as `HOST:PORT`, an IPv6
/// address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host, an IPv6 address in brackets.
    host: String,
    port: u16,
}

impl HostPort {
    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host, this many ports later. There must be such a port.
    #[must_use]
    pub fn later(&self, ports: u16) -> Self {
        Self { host: self.host.clone(), port: self.port + ports }
    }

    /// The host as it stands in a certificate: an IPv6 address without brackets and without its zone.
    #[must_use]
    pub fn host(&self) -> &str {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        bare.split_once('%').map_or(bare, |(ip, _)| ip)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Where a LocalServer is. Prints as `HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LocalAddress {
    /// Somewhere over TCP or UDP.
    Net(HostPort),
    /// At the Unix socket of this path; behind an `@`, of this name in the abstract namespace.
    Unix(String),
}

impl LocalAddress {
    /// The same, this many ports later. There must be such a port; a Unix socket has none, and stays.
    #[must_use]
    pub fn later(&self, ports: u16) -> Self {
        match self {
            Self::Net(at) => Self::Net(at.later(ports)),
            Self::Unix(path) => Self::Unix(path.clone()),
        }
    }

    /// A relative path starts at `directory`.
    ///
    /// # Errors
    /// It gets too long with it.
    pub fn within(self, directory: &Path) -> Result<Self, AddressError> {
        match self {
            Self::Unix(path) if !path.starts_with('@') => unix_path(&directory.join(path).to_string_lossy()),
            Self::Net(_) | Self::Unix(_) => Ok(self),
        }
    }

    /// Whether it is a Unix socket.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(at) => at.fmt(f),
            Self::Unix(path) => write!(f, "{}{path}", LocalAt::UNIX),
        }
    }
}

/// The kernel takes no more bytes for the path of a Unix socket.
const LONGEST_PATH: usize = 107;

fn unix_path(path: &str) -> Result<LocalAddress, AddressError> {
    if path.is_empty() || path == "@" {
        return Err(AddressError("it names no socket; write unix:/run/app.sock, or unix:@NAME".into()));
    }
    if let Some(bad) = path.chars().find(|c| c.is_control()) {
        return Err(AddressError(format!("the path of a socket cannot contain `{}` here", bad.escape_debug())));
    }
    if path.len() > LONGEST_PATH {
        return Err(AddressError(format!(
            "the path `{path}` has {} bytes, and the kernel takes {LONGEST_PATH} at most; move the socket, or name it by \
             a shorter path (a symbolic link will do)",
            path.len()
        )));
    }
    Ok(LocalAddress::Unix(path.to_owned()))
}

/// Why a text is not an address: a sentence that says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError(String);

impl AddressError {
    pub(crate) fn new(sentence: &str) -> Self {
        Self(sentence.to_owned())
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for AddressError {}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError("it is empty; write HOST:PORT, such as 127.0.0.1:8080".into()));
        }
        // What follows quotes the text, and must not disturb a terminal.
        if let Some(bad) = text.chars().find(|c| c.is_control()) {
            return Err(AddressError(format!("an address cannot contain `{}`", bad.escape_debug())));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let rest = rest.split('/').next().unwrap_or_default();
            return Err(AddressError(format!("it is a URL; leave out `{scheme}://` and any path, and write `{rest}`")));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(AddressError(format!(
                "it may be an IPv6 address without a port, or one with a port but without brackets; write [{text}]:8080, \
                 with your port"
            )));
        }
        if let Ok(port @ 1..) = text.parse::<u16>() {
            return Err(AddressError(format!(
                "it is a port without a host; write HOST:{port}, such as 127.0.0.1:{port}"
            )));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(AddressError(format!("it has no port; write `{text}:8080`, with your port")));
        };
        let port = match port.parse::<u16>() {
            Ok(port) if port > 0 && !text.ends_with(&format!("+{port}")) => port,
            Ok(_) | Err(_) => {
                return Err(AddressError(format!("its port `{port}` is not a number from 1 to 65535")));
            }
        };
        check_host(host, port)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

fn check_host(host: &str, port: u16) -> Result<(), AddressError> {
    if host.is_empty() {
        return Err(AddressError(format!("it has no host; write `127.0.0.1:{port}` for this machine")));
    }
    if host.starts_with('[') || host.ends_with(']') {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        return match bare.map(str::parse::<ScopedIp>) {
            Some(Ok(ip)) if ip.ip().is_ipv6() => Ok(()),
            Some(Err(error @ (ScopedIpError::Zone(_) | ScopedIpError::NoZone(_)))) => {
                Err(AddressError(format!("`{host}`: {error}")))
            }
            Some(Ok(_) | Err(ScopedIpError::NoAddress)) | None => Err(AddressError(format!(
                "`{host}` is not an IPv6 address in brackets, such as [::1], or [fe80::1%eth0] with its interface"
            ))),
        };
    }
    if host.contains(':') {
        return Err(AddressError(format!("an IPv6 address stands in brackets; write `[{host}]:{port}`")));
    }
    let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(AddressError(format!("`{host}` is not an IPv4 address, which is four numbers from 0 to 255")));
    }
    if let Some(bad) = host.chars().find(|c| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))) {
        return Err(AddressError(format!("a host name cannot contain `{}`", bad.escape_debug())));
    }
    let labels = host.strip_suffix('.').unwrap_or(host);
    if host.len() > 253 || labels.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err(AddressError(
            "a host name is at most 253 bytes long, in parts of 1 to 63 bytes joined by single dots".into(),
        ));
    }
    Ok(())
}

/// The ctl port of a server that nobody told another.
pub const CTL_PORT: u16 = 8080;

/// Reads a server's address. Without a port it is [`CTL_PORT`].
///
/// # Errors
/// What is no address.
pub fn server_address(text: &str) -> Result<HostPort, AddressError> {
    let is_host = text.parse::<u16>().is_err() && check_host(text, CTL_PORT).is_ok();
    if is_host { Ok(HostPort { host: text.to_owned(), port: CTL_PORT }) } else { text.parse() }
}

/// Reads the address of a service, where the name of a command may stand as well.
///
/// # Errors
/// What is neither.
pub fn service(text: &str) -> Result<LocalAddress, AddressError> {
    local_address(text).map_err(|error| {
        let word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && !text.contains(':');
        let what = "it is neither a service, such as 8000 or 127.0.0.1:8000, nor a command; see --help";
        if word { AddressError::new(what) } else { error }
    })
}

/// Reads a LocalServer's address: `unix:PATH`, or `HOST:PORT`, or a port alone, which is one of this machine.
///
/// # Errors
/// What is neither.
pub fn local_address(text: &str) -> Result<LocalAddress, AddressError> {
    if let Some(path) = text.strip_prefix(LocalAt::UNIX) {
        return unix_path(path);
    }
    if text.starts_with(['/', '.']) && !text.contains(':') {
        return Err(AddressError(format!("a Unix socket is written `{}{text}`", LocalAt::UNIX)));
    }
    let port = text.parse::<u16>().ok().filter(|&port| port > 0 && !text.starts_with('+'));
    if port.is_none() && !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(AddressError::new("it is no port; write a number from 1 to 65535"));
    }
    let at = port.map(|port| HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port });
    at.map_or_else(|| text.parse(), Ok).map(LocalAddress::Net)
}

/// Reads the address to listen on: IPv4 or IPv6, with or without brackets.
///
/// # Errors
/// Anything else, host names included: a name may stand for several addresses.
pub fn bind_addr(text: &str) -> Result<ScopedIp, AddressError> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|error| match error {
        ScopedIpError::NoAddress => AddressError(format!(
            "{error}; write 0.0.0.0 (every IPv4 address of this machine), :: (IPv6 and IPv4), 127.0.0.1 (this machine \
             only) or one address of this machine"
        )),
        ScopedIpError::Zone(_) | ScopedIpError::NoZone(_) => AddressError(error.to_string()),
    })
}

/// Reads an IP address and a port, `None` if it is something else. The interface of a zone must be there.
///
/// # Errors
/// It is not.
pub fn socket_addr(text: &str) -> Result<Option<SocketAddr>, AddressError> {
    let address = ScopedIp::with_port(text).map(|(ip, port)| ip.at(port));
    address.transpose().map_err(|missing| AddressError(missing.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<HostPort>().unwrap_err().to_string()
    }

    #[test]
    fn what_is_nearly_a_service_is_told_the_way_out() {
        for (text, way_out) in [
            ("0", "it is no port; write a number from 1 to 65535"),
            ("65536", "it is no port; write a number from 1 to 65535"),
            ("99999999999999999999", "it is no port; write a number from 1 to 65535"),
            ("/run/app.sock", "a Unix socket is written `unix:/run/app.sock`"),
            ("./app.sock", "a Unix socket is written `unix:./app.sock`"),
        ] {
            assert_eq!(local_address(text).unwrap_err().to_string(), way_out);
            assert_eq!(service(text).unwrap_err().to_string(), way_out);
        }
    }

    #[test]
    fn names_and_both_ip_versions_are_taken_as_written() {
        for text in [
            "localhost:1",
            "a-b.example.com:8080",
            "host_1.lan.:65535",
            "10.0.0.1:22",
            "[::1]:8080",
            "[fe80::1%eth0]:80",
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        let host = |text: &str| text.parse::<HostPort>().unwrap().host().to_owned();
        assert_eq!(host("[::1]:8080"), "::1");
        assert_eq!(host("[fe80::1%eth0]:80"), "fe80::1");
        assert_eq!(host("a.example:80"), "a.example");
    }

    #[test]
    fn a_port_alone_is_one_of_this_machine_where_a_local_server_is_named() {
        assert_eq!(local_address("7777").unwrap().to_string(), "127.0.0.1:7777");
        assert_eq!(local_address("localhost:7777").unwrap().to_string(), "localhost:7777");
        for bad in ["0", "65536", "+80", "-1"] {
            assert!(local_address(bad).is_err(), "{bad}");
        }
        assert_eq!(error("7777"), "it is a port without a host; write HOST:7777, such as 127.0.0.1:7777");
    }

    #[test]
    fn a_local_server_may_be_a_unix_socket() {
        let said = |text: &str| local_address(text).map_err(|error| error.to_string());
        for text in ["unix:/run/app.sock", "unix:@app", "unix:app.sock"] {
            assert_eq!(said(text).unwrap().to_string(), text);
            assert!(service(text).unwrap().is_unix());
        }
        let within = |text: &str| local_address(text).unwrap().within(Path::new("/etc/cproxy")).unwrap().to_string();
        assert_eq!(within("unix:app.sock"), "unix:/etc/cproxy/app.sock");
        assert_eq!(within("unix:/run/app.sock"), "unix:/run/app.sock");
        assert_eq!(within("unix:@app"), "unix:@app");
        assert_eq!(within("80"), "127.0.0.1:80");
        for bad in ["unix:", "unix:@"] {
            assert!(said(bad).unwrap_err().contains("names no socket"), "{bad}");
        }
        assert!(said("unix:/a\n").unwrap_err().contains("cannot contain `\\n`"));
        let longest = format!("unix:/{}", "x".repeat(LONGEST_PATH - 1));
        assert!(said(&longest).is_ok() && said(&format!("{longest}x")).unwrap_err().contains("107 at most"));
        assert!(said("unix:x").unwrap().within(Path::new(&longest)).is_err());
    }

    #[test]
    fn a_server_without_a_port_has_the_usual_one() {
        for (text, whole) in [
            ("tunnel.example.com", "tunnel.example.com:8080"),
            ("192.0.2.7", "192.0.2.7:8080"),
            ("[::1]", "[::1]:8080"),
            ("[fe80::1%eth0]", "[fe80::1%eth0]:8080"),
            ("localhost:1", "localhost:1"),
        ] {
            assert_eq!(server_address(text).unwrap().to_string(), whole);
        }
        for bad in ["", "8080", "::1", "a:", ":80", "https://a.example", "a b", "256.1.1.1", "[::1]:"] {
            assert_eq!(server_address(bad), bad.parse::<HostPort>(), "{bad}");
        }
    }

    #[test]
    fn what_may_be_a_misspelled_command_is_not_called_an_address_without_a_port() {
        assert_eq!(service("8000").unwrap().to_string(), "127.0.0.1:8000");
        assert!(service("statsu").unwrap_err().to_string().contains("nor a command"));
        assert!(service("a:x").unwrap_err().to_string().contains("is not a number"));
        assert!(service("70000").unwrap_err().to_string().contains("no port"));
    }

    #[test]
    fn malformed_addresses_say_what_to_write() {
        assert_eq!(error("localhost"), "it has no port; write `localhost:8080`, with your port");
        assert_eq!(error(":80"), "it has no host; write `127.0.0.1:80` for this machine");
        assert_eq!(error("a:99999"), "its port `99999` is not a number from 1 to 65535");
        assert_eq!(error("a:0"), "its port `0` is not a number from 1 to 65535");
        assert_eq!(error("a:+80"), "its port `+80` is not a number from 1 to 65535");
        assert_eq!(error("a:"), "its port `` is not a number from 1 to 65535");
        assert_eq!(
            error("http://a.example:80/x"),
            "it is a URL; leave out `http://` and any path, and write `a.example:80`"
        );
        assert_eq!(error("2001:db8::zz:80"), "an IPv6 address stands in brackets; write `[2001:db8::zz]:80`");
        assert_eq!(error("256.1.1.1:80"), "`256.1.1.1` is not an IPv4 address, which is four numbers from 0 to 255");
        assert_eq!(error("a b:80"), "a host name cannot contain ` `");
        assert_eq!(error("\t127.0.0.1:80:22"), "an address cannot contain `\\t`");
        assert_eq!(error("a:8\x1b0"), "an address cannot contain `\\u{1b}`");
        assert!(error("::1").contains("write [::1]:8080"));
        assert!(error("[::1:80").contains("is not an IPv6 address in brackets"));
        assert!(error("[]:80").contains("is not an IPv6 address in brackets"));
        assert!(error("[127.0.0.1]:80").contains("is not an IPv6 address in brackets"));
        assert!(error("[fe80::1%]:80").starts_with("`[fe80::1%]`: `` is not the name or the number of a network"));
        assert!(error("[fe80::1]:80").contains("write fe80::1%eth0"));
        assert!(error("a..b:80").contains("joined by single dots"));
        assert!(error(&format!("{}:80", "a".repeat(64))).contains("1 to 63 bytes"));
        assert!(error("").contains("write HOST:PORT"));
    }

    #[test]
    fn where_an_address_counts_at_once_its_interface_must_be_there() {
        assert_eq!(socket_addr("127.0.0.1:80").unwrap(), Some(SocketAddr::from(([127, 0, 0, 1], 80))));
        assert_eq!(socket_addr("relay:80"), Ok(None));
        let missing = socket_addr("[fe80::1%nowhere0]:80").unwrap_err().to_string();
        assert_eq!(missing, "this machine has no network interface `nowhere0`");
    }

    #[test]
    fn a_bind_address_is_an_ip_address() {
        for (text, shown) in [("[::]", "::"), ("127.0.0.1", "127.0.0.1"), ("fe80::1%eth0", "fe80::1%eth0")] {
            assert_eq!(bind_addr(text).unwrap().to_string(), shown);
        }
        assert!(bind_addr("fe80::1").unwrap_err().to_string().contains("write fe80::1%eth0"));
        assert!(bind_addr("localhost").unwrap_err().to_string().contains("not an IP address"));
    }
}
