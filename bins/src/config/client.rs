//! The file of `cproxy-client`.

use super::ranges::{self, Ports};
use super::section::{Order, Section};
use super::service;
use super::settings::{Home, Of, keys_of};
use super::{
    ALLOW_SOURCES, Common, ConfigError, DENY_SOURCES, Environment, MAX_CONNECTION_RATE, TlsEntry, allow_sources,
    bandwidth, check_name, common, datagram_transport, hosts, networks, tls,
};
use crate::address::{AddressError, HostPort, LocalAddress, server_address, socket_addr};
use crate::flags::NO_UDP_AT_A_UNIX_SOCKET;
use crate::outbound::OutboundSource;
use protocol_sm::ports::may_clash;
use protocol_sm::proxy_protocol::ProxyProtocol;
use protocol_sm::routes::{Site, Web};
use protocol_sm::settings::{
    DatagramTransport, Datagrams, Origin, ProxyAt, Serving, Timings, TunnelLimits, TunnelSpec,
};
use protocol_sm::sources::SourceLists;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

/// What a client's file says; where it says nothing, the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFile {
    /// What both programs' files may say.
    pub common: Common,
    /// The server's ctl port.
    pub server: Option<HostPort>,
    /// Where data connections go.
    pub proxy: ProxyAt,
    /// Where connections to the server begin.
    pub uplink: Origin,
    /// The proxy that they go through, if there is one.
    pub outbound: Option<OutboundSource>,
    /// Who this client is, in the user's words.
    pub client_id: Option<String>,
    /// Little is to be sent while nobody visits.
    pub frugal: bool,
    /// How datagrams go to the server.
    pub datagram_transport: DatagramTransport,
    /// proxy_conns open at once.
    pub max_proxy_conns: u32,
    /// Deadlines and intervals.
    pub timings: Timings,
    /// The `[[tunnels]]`.
    pub tunnels: Vec<TunnelEntry>,
    /// How the server is known, if connections to it are encrypted.
    pub tls: TlsEntry,
}

/// One of the `[[tunnels]]`: a service to expose, or several whose ports follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelEntry {
    /// Its name, for logs.
    pub name: String,
    /// Where the LocalServer is; of several, the first.
    pub local: LocalAddress,
    /// The client's own addresses from which it is dialled; none: the system chooses.
    pub local_sources: Vec<IpAddr>,
    /// The public ports wanted, each a tunnel; 0 lets the server pick.
    pub public_ports: Ports,
    /// The server's address where they are wanted; none: the server's choice.
    pub bind_addr: Option<IpAddr>,
    /// The hosts whose visitors it has instead: each is a tunnel.
    pub sites: Vec<Site>,
    /// What the server is to enforce for it.
    pub limits: TunnelLimits,
    /// How its visitors are served.
    pub serving: Serving,
}

impl TunnelEntry {
    /// Its tunnels: of several ports or hosts each has a number.
    #[must_use]
    pub fn parts(&self) -> Vec<TunnelSpec> {
        let part = |nth: u16, site: Option<&Site>| TunnelSpec {
            name: self.name.clone(),
            public_port: self.public_ports.first + nth,
            bind_addr: self.bind_addr,
            site: site.cloned(),
            local: self.local.later(nth).to_string(),
            local_sources: self.local_sources.clone(),
            limits: self.limits.clone(),
            serving: self.serving,
        };
        let mut parts: Vec<_> = match &self.sites[..] {
            [] => (0..self.public_ports.count.get()).map(|nth| part(nth, None)).collect(),
            sites => sites.iter().map(|site| part(0, Some(site))).collect(),
        };
        if parts.len() > 1 {
            parts.iter_mut().enumerate().for_each(|(nth, part)| part.name = format!("{}-{nth}", self.name));
        }
        parts
    }
}

impl Default for ClientFile {
    fn default() -> Self {
        Self {
            common: Common::default(),
            server: None,
            proxy: ProxyAt::default(),
            uplink: Origin::default(),
            outbound: None,
            client_id: None,
            frugal: false,
            datagram_transport: DatagramTransport::default(),
            max_proxy_conns: 16_384,
            timings: Timings::default(),
            tunnels: Vec::new(),
            tls: TlsEntry::default(),
        }
    }
}

const LOCAL_SOURCES: &str = "local_sources";
/// The server's address where a tunnel's public port is wanted.
const BIND_ADDR: &str = "bind_addr";
/// The hosts whose visitors a tunnel has.
pub(super) const HOSTS: &str = "hosts";
/// The proxy on the way to the server.
const OUTBOUND_PROXY: &str = "outbound_proxy";
/// The file that names it.
const OUTBOUND_PROXY_FILE: &str = "outbound_proxy_file";
/// A LocalServer of UDP may answer from any of its ports.
const UDP_FOLLOW: &str = "udp_follow";
/// The header that tells a service who its visitor is.
const PROXY_PROTOCOL: &str = "proxy_protocol";
/// It stands in front of a flow's first datagram alone.
const PROXY_PROTOCOL_FIRST: &str = "proxy_protocol_first";
/// The key of what is told of the visitor's TLS.
const PROXY_PROTOCOL_TLVS: &str = "proxy_protocol_tlvs";

/// More are a mistake, and each costs a dial that finds no port a look at all of them.
const MOST_SOURCES: usize = 64;

/// More are a mistake, and a client goes through all of them for each of them.
const MOST_TUNNELS: usize = 10_000;

/// Reads a client's file from its `text`, with what `environment` says put over it. `origin` is its path: it begins
/// every message, and relative paths in the file start at its directory.
///
/// # Errors
/// Every problem of the text at once.
pub fn parse_client(text: &str, origin: &Path, environment: &Environment) -> Result<ClientFile, ConfigError> {
    let top = Section::top(text, origin, environment, keys_of(Of::Client, Home::Top))?;
    let mut file = ClientFile::default();
    file.common = common(&top, &mut file.timings);
    file.tls = tls::client(&top);
    file.server = top.parsed_by("server", server_address);
    file.proxy = proxy(&top);
    file.uplink = uplink(&top);
    file.outbound = outbound(&top);
    file.client_id = top.text("client_id").map(str::to_owned);
    if file.client_id.as_deref() == Some("") {
        top.problem("client_id", "is empty; write a text that no other client uses, or leave the key out".into());
    }
    file.frugal = top.boolean("frugal").unwrap_or(false);
    file.datagram_transport = datagram_transport(&top);
    file.max_proxy_conns = top.count("max_proxy_conns", 1).unwrap_or(file.max_proxy_conns);
    let timings = &mut file.timings;
    top.seconds("reconnect_min", &mut timings.reconnect_min);
    top.seconds("reconnect_max", &mut timings.reconnect_max);
    top.ordered("reconnect_min", timings.reconnect_min, "reconnect_max", timings.reconnect_max, Order::AtMost);
    let keys = keys_of(Of::Client, Home::Tunnels);
    for section in top.tables("tunnels", &keys) {
        tunnel(&section, &mut file.tunnels);
    }
    top.reject_unknown(|key| {
        if keys.contains(&key) {
            Some("in a [[tunnels]] section")
        } else {
            keys_of(Of::Server, Home::Top).contains(&key).then_some("in a file for cproxy-server")
        }
    });
    top.finish(file)
}

fn proxy(top: &Section<'_>) -> ProxyAt {
    let address = |text: &str| {
        let at = socket_addr(text)?.filter(|at| at.port() != 0);
        at.ok_or_else(|| AddressError::new("is not an IP address and a port; write it like \"192.0.2.1:8090\""))
    };
    let port = top.port("proxy_port");
    if port == Some(0) {
        top.problem("proxy_port", "is 0; write the port at which this client reaches the server's proxy port".into());
    }
    match (port, top.parsed_by("proxy_addr", address)) {
        (Some(_), Some(_)) => {
            top.problem("proxy_addr", "stands beside `proxy_port`; give one of the two".into());
            ProxyAt::AsTold
        }
        (Some(port), None) => ProxyAt::Port(port),
        (None, Some(address)) => ProxyAt::Address(address),
        (None, None) => ProxyAt::AsTold,
    }
}

fn uplink(top: &Section<'_>) -> Origin {
    let interface = top.parsed_by("bind_interface", |text: &str| {
        // As the kernel judges names.
        let fits = (1..=15).contains(&text.len()) && !text.contains(|c: char| c.is_whitespace() || "/:".contains(c));
        if fits {
            Ok(text.to_owned())
        } else {
            Err("is not the name of a network interface, such as \"eth0\" or \"wg0\"")
        }
    });
    let address = top.parsed_by("source_addr", |text: &str| {
        own_address(text).map_err(|()| "is not one IP address of this machine; write it like \"192.0.2.7\"")
    });
    Origin { address, interface }
}

/// What stands there may hold a password: it is not shown.
fn outbound(top: &Section<'_>) -> Option<OutboundSource> {
    if top.has(OUTBOUND_PROXY) && top.has(OUTBOUND_PROXY_FILE) {
        top.problem(OUTBOUND_PROXY_FILE, format!("stands beside `{OUTBOUND_PROXY}`; keep one of the two"));
    }
    if let Some(text) = top.text(OUTBOUND_PROXY) {
        return OutboundSource::parse(text).map_err(|what| top.problem(OUTBOUND_PROXY, what)).ok();
    }
    let file = top.text(OUTBOUND_PROXY_FILE)?;
    if file.is_empty() {
        top.problem(OUTBOUND_PROXY_FILE, "is empty; write the path of the file that holds the proxy's URL".into());
    }
    let path = top.directory(OUTBOUND_PROXY_FILE).join(file);
    Some(OutboundSource::File { path, named_by: top.locate(OUTBOUND_PROXY_FILE) })
}

/// An address that a connection can begin at.
fn own_address(text: &str) -> Result<IpAddr, ()> {
    text.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast()).ok_or(())
}

fn local_sources(section: &Section<'_>) -> Vec<IpAddr> {
    let expected = "a list of addresses of this machine in quotes, such as [\"127.0.0.2\", \"127.0.0.3\"]";
    let mut sources = Vec::new();
    for (line, text) in section.texts(LOCAL_SOURCES, expected).unwrap_or_default() {
        let shown = text.escape_debug();
        match own_address(text) {
            Ok(ip) if sources.contains(&ip) => {
                section.item_problem(LOCAL_SOURCES, line, &format!("\"{shown}\" is there twice; name it once"));
            }
            Ok(ip) => sources.push(ip),
            Err(()) => section.item_problem(LOCAL_SOURCES, line, &format!("\"{shown}\": expected {expected}")),
        }
    }
    if sources.len() > MOST_SOURCES {
        section.problem(LOCAL_SOURCES, format!("names {} addresses; {MOST_SOURCES} are enough", sources.len()));
    }
    sources
}

fn tunnel(section: &Section<'_>, tunnels: &mut Vec<TunnelEntry>) {
    let top_level = |key: &str| keys_of(Of::Client, Home::Top).contains(&key);
    section.reject_unknown(|key| top_level(key).then_some("at the top level: move it above the first [[tunnels]]"));
    let ports = ranges::ports(section);
    let local_sources = local_sources(section);
    let limits = limits(section);
    let proxy_protocol = section.parsed_by(PROXY_PROTOCOL, |version| match version {
        "v1" => Ok(ProxyProtocol::V1),
        "v2" => Ok(ProxyProtocol::V2),
        _ => Err("is no version of the PROXY protocol; write \"v1\" or \"v2\", or leave the key out"),
    });
    let protocol = section.parsed_by("protocol", |text| {
        Protocol::of(text).ok_or("is no protocol of a tunnel; write \"tcp\", \"udp\", \"http\" or \"https\"")
    });
    let datagrams = datagrams(section, protocol);
    let proxy_protocol_first = first_alone(section, datagrams.is_some(), proxy_protocol);
    let proxy_protocol_tlvs = with_tlvs(section, proxy_protocol);
    let bind_addr = section.parsed_by(BIND_ADDR, |text| {
        let address = text.parse().map(|ip: IpAddr| ip.to_canonical());
        address.map_err(|_| "is no IP address; write one of the server's, such as \"127.0.0.1\"")
    });
    let sites = sites(section, protocol, tunnels);
    let service = service::service(section, sites.first().map(|site| site.web));
    let max_bandwidth = bandwidth(section).flatten();
    let serving =
        Serving { datagrams, max_bandwidth, proxy_protocol, proxy_protocol_tlvs, proxy_protocol_first, service };
    let Some(name) = section.text("name") else {
        if !section.has("name") {
            section.problem("name", "is missing; write `name = \"…\"`, the tunnel's name for the log".into());
        }
        return;
    };
    let Some((local, public_ports)) = ports else { return };
    if local.is_unix() && datagrams.is_some() {
        section.problem("protocol", format!("is \"udp\": {NO_UDP_AT_A_UNIX_SOCKET}"));
    }
    if local.is_unix() && !local_sources.is_empty() {
        section.problem(LOCAL_SOURCES, "is for services at a port: a Unix socket is dialled from no address".into());
    }
    let name = name.to_owned();
    let tunnel = TunnelEntry { name, local, local_sources, public_ports, bind_addr, sites, limits, serving };
    let before: Vec<_> = tunnels.iter().flat_map(TunnelEntry::parts).collect();
    let parts = tunnel.parts();
    if before.len() + parts.len() > MOST_TUNNELS {
        let what = format!("makes {} tunnels of one client; it has {MOST_TUNNELS} at most", before.len() + parts.len());
        section.problem("public_port", what);
        return;
    }
    let is_udp = datagrams.is_some();
    let has_it = |other: &&TunnelSpec| {
        other.is_udp() == is_udp && public_ports.contains(other.public_port) && may_clash(other.bind_addr, bind_addr)
    };
    if let Some(other) = before.iter().find(has_it) {
        let (port, name) = (other.public_port, other.name.escape_debug());
        let has = if parts.len() == 1 { "which".to_owned() } else { format!("and {port} of them is what") };
        section.problem(
            "public_port",
            format!("is {public_ports}, {has} tunnel \"{name}\" has; give each tunnel its own"),
        );
    }
    let names: BTreeSet<_> = before.iter().map(|other| &other.name).collect();
    if let Err(what) = parts.iter().try_for_each(|part| check_name(&part.name)) {
        section.problem("name", what.into());
    } else if let Some(part) = parts.iter().find(|part| names.contains(&part.name)) {
        let shown = part.name.escape_debug();
        section.problem("name", format!("= \"{shown}\" is there twice; give each of the [[tunnels]] its own name"));
    } else {
        tunnels.push(tunnel);
    }
}

/// What the visitors of a tunnel speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Anything over TCP.
    Tcp,
    /// Anything over UDP.
    Udp,
    /// What names a host.
    Web(Web),
}

impl Protocol {
    /// The one that is called so.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        match text {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            _ => Web::ALL.into_iter().find(|web| web.scheme() == text).map(Self::Web),
        }
    }
}

/// The hosts of a tunnel. Without `protocol` they speak plain HTTP.
fn sites(section: &Section<'_>, protocol: Option<Protocol>, tunnels: &[TunnelEntry]) -> Vec<Site> {
    let Some(hosts) = hosts(section, HOSTS, "; name a host, or leave the key out") else {
        if let Some(Protocol::Web(web)) = protocol {
            let what =
                format!("is \"{}\", which needs `hosts = [\"…\"]`: the names that lead to the service", web.scheme());
            section.problem("protocol", what);
        }
        return Vec::new();
    };
    for key in ["public_port", BIND_ADDR].into_iter().filter(|key| section.has(key)) {
        section.problem(key, "stands beside `hosts`, whose port is the server's; give one of the two".into());
    }
    let web = match protocol {
        Some(Protocol::Web(web)) => web,
        None => Web::Http,
        Some(Protocol::Tcp | Protocol::Udp) => {
            let named = if protocol == Some(Protocol::Udp) { "udp" } else { "tcp" };
            section.problem(HOSTS, format!("stands beside `protocol = \"{named}\"`; write \"http\" or \"https\""));
            Web::Http
        }
    };
    let sites: Vec<_> = hosts.into_iter().map(|host| Site { web, host }).collect();
    for (nth, site) in sites.iter().enumerate() {
        let before = tunnels.iter().flat_map(|other| &other.sites).chain(&sites[..nth]);
        if before.into_iter().any(|other| other == site) {
            section.problem(HOSTS, format!("has {site} twice; give each host to one tunnel"));
        }
    }
    sites
}

/// How a tunnel of UDP is served; none for another one.
fn datagrams(section: &Section<'_>, protocol: Option<Protocol>) -> Option<Datagrams> {
    let follows = section.boolean(UDP_FOLLOW);
    if protocol == Some(Protocol::Udp) {
        return Some(if follows == Some(true) { Datagrams::Follow } else { Datagrams::Connected });
    }
    if follows.is_some() {
        section.problem(UDP_FOLLOW, "is for tunnels with `protocol = \"udp\"`".into());
    }
    None
}

/// Whether the header stands in front of a flow's first datagram alone.
fn first_alone(section: &Section<'_>, is_udp: bool, version: Option<ProxyProtocol>) -> bool {
    if is_udp && version == Some(ProxyProtocol::V1) {
        let what = "is \"v1\", a line of text in front of a stream; a datagram needs \"v2\"";
        section.problem(PROXY_PROTOCOL, what.into());
    }
    let first = section.boolean(PROXY_PROTOCOL_FIRST);
    if first.is_some() && !(is_udp && section.has(PROXY_PROTOCOL)) {
        let what = "is for tunnels with `protocol = \"udp\"` and `proxy_protocol = \"v2\"`";
        section.problem(PROXY_PROTOCOL_FIRST, what.into());
    }
    first == Some(true)
}

/// Whether the header also tells what is known of the visitor's TLS.
fn with_tlvs(section: &Section<'_>, version: Option<ProxyProtocol>) -> bool {
    let tlvs = section.boolean(PROXY_PROTOCOL_TLVS);
    if tlvs.is_some() && !(section.has(HOSTS) && version == Some(ProxyProtocol::V2)) {
        let what = "is for tunnels with `hosts` and `proxy_protocol = \"v2\"`: of others no TLS is known";
        section.problem(PROXY_PROTOCOL_TLVS, what.into());
    }
    tlvs == Some(true)
}

fn limits(section: &Section<'_>) -> TunnelLimits {
    let sources = SourceLists {
        allow: allow_sources(section).unwrap_or_default(),
        deny: networks(section, DENY_SOURCES).unwrap_or_default(),
    };
    if sources.len() > SourceLists::MAX_SENT {
        let key = if section.has(ALLOW_SOURCES) { ALLOW_SOURCES } else { DENY_SOURCES };
        let what = format!(
            "makes {} networks with its sibling; a tunnel may ask for {} in all: put more into the server's file",
            sources.len(),
            SourceLists::MAX_SENT
        );
        section.problem(key, what);
    }
    TunnelLimits {
        sources,
        max_connections: section.count("max_connections", 1).unwrap_or(0),
        max_connection_rate: section.count(MAX_CONNECTION_RATE, 1).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests;
