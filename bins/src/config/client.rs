//! The file of `cproxy-client`.

use super::keys::{
    ALLOW_SOURCES, DENY_SOURCES, MAX_BANDWIDTH, MAX_CONNECTION_RATE, OUTBOUND_PROXY, OUTBOUND_PROXY_FILE,
};
use super::ranges::{self, Ports};
use super::section::{Order, Section};
use super::service;
use super::{Common, ConfigError, TlsEntry, allow_sources, bandwidth, check_name, common, hosts, keys, networks, tls};
use crate::address::{AddressError, HostPort, socket_addr};
use crate::outbound::OutboundSource;
use protocol_sm::proxy_protocol::ProxyProtocol;
use protocol_sm::routes::{Site, Web};
use protocol_sm::settings::{Origin, ProxyAt, Serving, Timings, TunnelLimits, TunnelSpec};
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
    pub local: HostPort,
    /// The client's own addresses from which it is dialled; none: the system chooses.
    pub local_sources: Vec<IpAddr>,
    /// The public ports wanted, each a tunnel; 0 lets the server pick.
    pub public_ports: Ports,
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
            max_proxy_conns: 16_384,
            timings: Timings::default(),
            tunnels: Vec::new(),
            tls: TlsEntry::default(),
        }
    }
}

const LOCAL_SOURCES: &str = "local_sources";
/// The hosts whose visitors a tunnel has.
pub(super) const HOSTS: &str = "hosts";
const TUNNEL_KEYS: [&str; 12] = [
    "name",
    "local",
    LOCAL_SOURCES,
    "public_port",
    "protocol",
    HOSTS,
    ALLOW_SOURCES,
    DENY_SOURCES,
    "max_connections",
    MAX_CONNECTION_RATE,
    MAX_BANDWIDTH,
    PROXY_PROTOCOL,
];
/// The header that tells a service who its visitor is.
const PROXY_PROTOCOL: &str = "proxy_protocol";

/// More are a mistake, and each costs a dial that finds no port a look at all of them.
const MOST_SOURCES: usize = 64;

/// More are a mistake, and a client goes through all of them for each of them.
const MOST_TUNNELS: usize = 10_000;

/// Reads a client's file from its `text`. `origin` is its path: it begins every message, and relative
/// paths in the file start at its directory.
///
/// # Errors
/// Every problem of the text at once.
pub fn parse_client(text: &str, origin: &Path) -> Result<ClientFile, ConfigError> {
    let top = Section::top(
        text,
        origin,
        keys::COMMON.into_iter().chain(keys::CLIENT).chain(tls::KEYS).chain(tls::CLIENT_KEYS).collect(),
    )?;
    let mut file = ClientFile::default();
    file.common = common(&top, &mut file.timings);
    file.tls = tls::client(&top);
    file.server = top.parsed("server");
    file.proxy = proxy(&top);
    file.uplink = uplink(&top);
    file.outbound = outbound(&top);
    file.client_id = top.text("client_id").map(str::to_owned);
    if file.client_id.as_deref() == Some("") {
        top.problem("client_id", "is empty; write a text that no other client uses, or leave the key out".into());
    }
    file.frugal = top.boolean(keys::FRUGAL).unwrap_or(false);
    file.max_proxy_conns = top.count("max_proxy_conns", 1).unwrap_or(file.max_proxy_conns);
    let timings = &mut file.timings;
    top.seconds("reconnect_min", &mut timings.reconnect_min);
    top.seconds("reconnect_max", &mut timings.reconnect_max);
    top.ordered("reconnect_min", timings.reconnect_min, "reconnect_max", timings.reconnect_max, Order::AtMost);
    let keys = [&TUNNEL_KEYS[..], &service::KEYS].concat();
    for section in top.tables("tunnels", &keys) {
        tunnel(&section, &mut file.tunnels);
    }
    top.reject_unknown(|key| {
        if keys.contains(&key) {
            Some("in a [[tunnels]] section")
        } else {
            let there = keys::SERVER.contains(&key) || tls::SERVER_KEYS.contains(&key);
            there.then_some("in a file for cproxy-server")
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

/// What stands there may hold a password: it is not shown. A relative path starts at the configuration file's directory.
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
    let path = top.origin().parent().unwrap_or(Path::new("")).join(file);
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
    let top_level = |key: &str| {
        keys::COMMON.contains(&key)
            || keys::CLIENT.contains(&key)
            || tls::KEYS.contains(&key)
            || tls::CLIENT_KEYS.contains(&key)
    };
    section.reject_unknown(|key| top_level(key).then_some("at the top level: move it above the first [[tunnels]]"));
    let ports = ranges::ports(section);
    let local_sources = local_sources(section);
    let limits = limits(section);
    let proxy_protocol = section.parsed_by(PROXY_PROTOCOL, |version| match version {
        "v1" => Ok(ProxyProtocol::V1),
        "v2" => Ok(ProxyProtocol::V2),
        _ => Err("is no version of the PROXY protocol; write \"v1\" or \"v2\", or leave the key out"),
    });
    let sites = sites(section, tunnels);
    let service = service::service(section, sites.first().map(|site| site.web));
    let serving = Serving { max_bandwidth: bandwidth(section).flatten(), proxy_protocol, service };
    let Some(name) = section.text("name") else {
        if !section.has("name") {
            section.problem("name", "is missing; write `name = \"…\"`, the tunnel's name for the log".into());
        }
        return;
    };
    let Some((local, public_ports)) = ports else { return };
    let name = name.to_owned();
    let tunnel = TunnelEntry { name, local, local_sources, public_ports, sites, limits, serving };
    let before: Vec<_> = tunnels.iter().flat_map(TunnelEntry::parts).collect();
    let parts = tunnel.parts();
    if before.len() + parts.len() > MOST_TUNNELS {
        let what = format!("makes {} tunnels of one client; it has {MOST_TUNNELS} at most", before.len() + parts.len());
        section.problem("public_port", what);
        return;
    }
    if let Some(other) = before.iter().find(|other| public_ports.contains(other.public_port)) {
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

/// The hosts of a tunnel. Without `protocol` they speak plain HTTP.
fn sites(section: &Section<'_>, tunnels: &[TunnelEntry]) -> Vec<Site> {
    let protocol = section.parsed_by("protocol", |protocol| match protocol {
        "tcp" => Ok(None),
        "http" => Ok(Some(Web::Http)),
        "https" => Ok(Some(Web::Https)),
        _ => Err("is no protocol of a tunnel; write \"tcp\", \"http\" or \"https\""),
    });
    let Some(hosts) = hosts(section, HOSTS, "; name a host, or leave the key out") else {
        if let Some(Some(web)) = protocol {
            let what =
                format!("is \"{}\", which needs `hosts = [\"…\"]`: the names that lead to the service", web.scheme());
            section.problem("protocol", what);
        }
        return Vec::new();
    };
    if section.has("public_port") {
        section.problem("public_port", "stands beside `hosts`, whose port is the server's; give one of the two".into());
    }
    if protocol == Some(None) {
        section.problem(HOSTS, "stands beside `protocol = \"tcp\"`; write \"http\" or \"https\"".into());
    }
    let web = protocol.flatten().unwrap_or(Web::Http);
    let sites: Vec<_> = hosts.into_iter().map(|host| Site { web, host }).collect();
    for (nth, site) in sites.iter().enumerate() {
        let before = tunnels.iter().flat_map(|other| &other.sites).chain(&sites[..nth]);
        if before.into_iter().any(|other| other == site) {
            section.problem(HOSTS, format!("has {site} twice; give each host to one tunnel"));
        }
    }
    sites
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
mod tests {
    use super::*;
    use crate::token::TokenSource;
    use std::num::{NonZeroU64, NonZeroUsize};
    use std::time::Duration;

    fn parse(text: &str) -> Result<ClientFile, ConfigError> {
        parse_client(text, Path::new("client.toml"))
    }

    /// The one problem of `text`, without the file's name.
    fn problem(text: &str) -> String {
        let error = parse(text).unwrap_err();
        let [problem] = error.problems() else { panic!("expected one problem: {error}") };
        problem.to_string().strip_prefix("client.toml:").unwrap().to_owned()
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            server = "tunnel.example.com:8080"
            client_id = "laptop"
            token_file = "/etc/token"
            work_thread_nums = 2
            # Instead of proxy_port:
            proxy_addr = "192.0.2.1:18090"
            frugal = true
            max_proxy_conns = 7
            source_addr = "192.0.2.9"
            bind_interface = "wg0"
            outbound_proxy = "socks5://proxy.example"
            # Instead of outbound_proxy_file.
            reconnect_min = 0.5
            reconnect_max = 0.5

            [[tunnels]]
            name = "ssh"
            local = "127.0.0.1:22"
            local_sources = ["127.0.0.2", "127.0.0.3"]
            public_port = 6022
            allow_sources = ["192.0.2.0/24"]
            deny_sources = ["192.0.2.7", "::/0"]
            max_connections = 3
            max_connection_rate = 4
            max_bandwidth = 1_000_000
            proxy_protocol = "v2"

            [[tunnels]]
            name = "site"
            local = "127.0.0.1:8443"
            protocol = "https"
            hosts = ["App.Example.com.", "*.dev.example.com"]

            [[tunnels]]
            name = "web"
            local = "[::1]:8000"
        "#;
        for key in keys::CLIENT.iter().chain(&TUNNEL_KEYS) {
            assert!(text.contains(key), "`{key}` is not in this test's file");
        }
        let file = parse(text).unwrap();
        assert_eq!(file.server.unwrap().to_string(), "tunnel.example.com:8080");
        assert_eq!(file.client_id.as_deref(), Some("laptop"));
        let token = TokenSource::File { path: "/etc/token".into(), named_by: "client.toml:4: `token_file`".into() };
        assert_eq!(file.common.tokens, [token]);
        assert_eq!(file.common.work_threads, NonZeroUsize::new(2));
        assert_eq!((file.frugal, file.max_proxy_conns), (true, 7));
        assert_eq!(file.proxy, ProxyAt::Address("192.0.2.1:18090".parse().unwrap()));
        let uplink = Origin { address: "192.0.2.9".parse().ok(), interface: Some("wg0".to_owned()) };
        assert_eq!(file.uplink, uplink);
        assert_eq!(file.outbound, OutboundSource::parse("socks5://proxy.example:1080").ok());
        assert_eq!([file.timings.reconnect_min, file.timings.reconnect_max], [Duration::from_millis(500); 2]);
        let tunnels: Vec<_> =
            file.tunnels.iter().map(|t| (t.name.as_str(), t.local.to_string(), t.public_ports.first)).collect();
        assert_eq!(file.tunnels[0].local_sources, ["127.0.0.2", "127.0.0.3"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        let limits = &file.tunnels[0].limits;
        assert_eq!((limits.max_connections, limits.max_connection_rate), (3, 4));
        let (max_bandwidth, proxy_protocol) = (NonZeroU64::new(1_000_000), Some(ProxyProtocol::V2));
        let serving = Serving { max_bandwidth, proxy_protocol, ..Serving::default() };
        let all = [serving, Serving::default(), Serving::default()];
        assert_eq!(file.tunnels.iter().map(|t| t.serving).collect::<Vec<_>>(), all);
        let parts = file.tunnels[1].parts();
        let parts: Vec<_> = parts.iter().map(|part| format!("{} {}", part.name, part.site.as_ref().unwrap())).collect();
        assert_eq!(parts, ["site-0 https://app.example.com", "site-1 https://*.dev.example.com"]);
        let shown: Vec<_> = limits.sources.allow.iter().chain(&limits.sources.deny).map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.0/24", "192.0.2.7/32", "::/0"]);
        assert_eq!(file.tunnels[2].limits, TunnelLimits::default());
        let [ssh, site] = [("ssh", "127.0.0.1:22".into(), 6022), ("site", "127.0.0.1:8443".into(), 0)];
        assert_eq!(tunnels, [ssh, site, ("web", "[::1]:8000".into(), 0)]);
    }

    #[test]
    fn hosts_are_each_one_tunnels() {
        let tunnel = |name: &str, more: &str| format!("[[tunnels]]\nname = '{name}'\nlocal = 'a:1'\n{more}\n");
        let both =
            tunnel("a", "hosts = ['a.b']\nprotocol = 'http'") + &tunnel("b", "hosts = ['a.b']\nprotocol = 'https'");
        assert_eq!(parse(&both).unwrap().tunnels.len(), 2, "they have a port each");
        let twice = tunnel("a", "hosts = ['A.b.']") + &tunnel("b", "hosts = ['c', 'a.b']");
        assert!(problem(&twice).contains("has http://a.b twice"), "{}", problem(&twice));
        assert!(problem(&tunnel("a", "hosts = ['c', 'c']")).contains("has http://c twice"));
        for (more, said) in [
            ("hosts = []", "is an empty list"),
            ("hosts = ['a b']", "\"a b\" is not a host of at most 120 bytes; write it like"),
            ("hosts = ['a:80']", "without a port"),
            ("hosts = [1]", "expected a list of hosts in quotes"),
            ("protocol = 'http'", "needs `hosts"),
            ("protocol = 'ftp'", "is no protocol of a tunnel"),
            ("protocol = 'tcp'\nhosts = ['a']", "stands beside `protocol = \"tcp\"`"),
            ("public_port = 1\nhosts = ['a']", "stands beside `hosts`"),
        ] {
            assert!(problem(&tunnel("a", more)).contains(said), "{more}: {}", problem(&tunnel("a", more)));
        }
        let numbered = tunnel("a", "hosts = ['c', 'd']") + &tunnel("a-1", "");
        assert!(problem(&numbered).contains("\"a-1\" is there twice"));
    }

    #[test]
    fn data_connections_go_to_one_place() {
        assert_eq!(parse("proxy_port = 9").unwrap().proxy, ProxyAt::Port(9));
        assert!(problem("proxy_port = 0").starts_with("1: `proxy_port` is 0; write the port"));
        assert!(problem("proxy_addr = 'relay'").contains("is not an IP address and a port"));
        assert!(problem("proxy_port = 9\nproxy_addr = '192.0.2.1:9'").starts_with("2: `proxy_addr` stands beside"));
    }

    #[test]
    fn connections_begin_at_an_address_and_an_interface() {
        for bad in ["office", "0.0.0.0", "192.0.2.0/24", "::", "224.0.0.1", ""] {
            let said = problem(&format!("source_addr = '{bad}'"));
            assert!(said.contains("is not one IP address of this machine"), "{said}");
        }
        for bad in ["", "a b", "a/b", "sixteen-letters-"] {
            let said = problem(&format!("bind_interface = '{bad}'"));
            assert!(said.contains("is not the name of a network interface"), "{said}");
        }
    }

    #[test]
    fn a_proxy_is_named_once_and_what_is_wrong_with_it_shows_no_password() {
        assert_eq!(parse("outbound_proxy = 'environment'").unwrap().outbound, Some(OutboundSource::Environment));
        let named_by = "client.toml:1: `outbound_proxy_file`".to_owned();
        let file = Some(OutboundSource::File { path: "proxy".into(), named_by });
        assert_eq!(parse("outbound_proxy_file = 'proxy'").unwrap().outbound, file);
        let both = "outbound_proxy = 'environment'\noutbound_proxy_file = 'proxy'";
        assert_eq!(problem(both), "2: `outbound_proxy_file` stands beside `outbound_proxy`; keep one of the two");
        let wrong = problem("outbound_proxy = 'ftp://me:s3cret@host'");
        assert!(wrong.starts_with("1: `outbound_proxy` has a scheme that is neither") && !wrong.contains("s3cret"));
        assert!(problem("outbound_proxy = 3128").contains("a text in quotes"));
        assert!(problem("outbound_proxy_file = ''").contains("is empty; write the path"));
    }

    #[test]
    fn local_sources_are_addresses_each_once() {
        let sources = |list: &str| problem(&format!("[[tunnels]]\nname = 'a'\nlocal = 'a:1'\nlocal_sources = {list}"));
        assert!(
            sources("['127.0.0.2',\n'lo']").starts_with("5: `local_sources` in [[tunnels]]: \"lo\": expected a list")
        );
        assert!(sources("['0.0.0.0']").contains("\"0.0.0.0\": expected a list of addresses of this machine"));
        assert!(sources("['::1', '::1']").contains("\"::1\" is there twice"));
        assert!(sources("[1]").contains("expected a list of addresses"));
        let many = (2..=66).map(|last| format!("'127.0.0.{last}',")).collect::<String>();
        assert!(sources(&format!("[{many}]")).contains("names 65 addresses; 64 are enough"));
    }

    #[test]
    fn tunnels_must_be_whole_and_distinct() {
        assert!(problem("[[tunnels]]\nname = 'a'").starts_with("1: `local` in [[tunnels]] is missing"));
        assert!(problem("\n[[tunnels]]\nlocal = 'a:1'").starts_with("2: `name` in [[tunnels]] is missing"));
        assert!(problem("[tunnels]\nname = 'a'").starts_with("1: `tunnels` is a table; write [[tunnels]] above"));
        let tunnel =
            |name: &str, port: u16| format!("[[tunnels]]\nname = '{name}'\nlocal = 'a:1'\npublic_port = {port}\n");
        assert_eq!(
            problem(&(tunnel("a", 1) + &tunnel("a", 2))),
            "6: `name` in [[tunnels]] = \"a\" is there twice; give each of the [[tunnels]] its own name"
        );
        assert_eq!(
            problem(&(tunnel("a", 9) + &tunnel("b", 9))),
            "8: `public_port` in [[tunnels]] is 9, which tunnel \"a\" has; give each tunnel its own"
        );
        assert!(parse(&(tunnel("a", 0) + &tunnel("b", 0))).is_ok());
        assert!(problem(&tunnel(&"x".repeat(65), 1)).contains("longer than 64 bytes"));
    }

    #[test]
    fn ranges_of_ports_are_a_tunnel_for_each() {
        let tunnel = |name: &str, local: &str, public: &str| {
            format!("[[tunnels]]\nname = '{name}'\nlocal = '{local}'\npublic_port = {public}\n")
        };
        let parts = |local: &str, public: &str| {
            let file = parse(&tunnel("ftp", local, public)).unwrap();
            let parts = file.tunnels[0].parts().into_iter();
            parts.map(|part| format!("{} {} {}", part.name, part.public_port, part.local)).collect::<Vec<_>>()
        };
        assert_eq!(parts("[::1]:8-9", "'18-19'"), ["ftp-0 18 [::1]:8", "ftp-1 19 [::1]:9"]);
        assert_eq!(parts("65534-65535", "'1-2'"), ["ftp-0 1 127.0.0.1:65534", "ftp-1 2 127.0.0.1:65535"]);
        assert_eq!(parts("a-b.c:8-8", "'18-18'"), ["ftp 18 a-b.c:8"], "one is as without a range");
        assert_eq!(parts("a:8-8", "0"), ["ftp 0 a:8"]);
        let wrong = "a range of ports is two numbers from 1 to 65535";
        let backwards = "the range's first port is larger than its last";
        for (local, public, said) in [
            ("a:1-3", "'11-12'", "4: `public_port` in [[tunnels]] has 2 ports, and `local` 3; each leads to the one"),
            ("a:1", "'11-12'", "4: `public_port` in [[tunnels]] has 2 ports, and `local` 1; each leads to the one"),
            ("a:1-3", "11", "3: `local` in [[tunnels]] has 3 ports, and `public_port` none for each; write a range"),
            ("a:1-3", "0", "and `public_port` none for each; write a range"),
            ("a:1-2", "'12-11'", backwards),
            ("a:2-1", "'11-12'", backwards),
            ("a:0-1", "'11-12'", wrong),
            ("a:1-2", "'0-1'", wrong),
            ("a:1-2", "'65535-65536'", wrong),
            ("a:1-2", "'+1-2'", wrong),
            ("a:1-2", "'1-2-3'", wrong),
            ("a:1-2", "'1-2,5'", wrong),
            ("a:1-", "'11-12'", wrong),
            ("a:1", "'11'", "one port has no quotes"),
            ("1-host", "11", "it has no port; write `1-host:8080`"),
            ("::1:1-2", "'11-12'", "without brackets"),
            ("a:1-65535", "'1-65535'", "makes 65535 tunnels of one client; it has 10000 at most"),
        ] {
            let text = tunnel("ftp", local, public);
            assert!(problem(&text).contains(said), "{local} {public}: {}", problem(&text));
        }
        let hosts = "[[tunnels]]\nname = 'a'\nlocal = 'a:1-2'\nhosts = ['a']";
        assert!(problem(hosts).contains("`local` in [[tunnels]] has 2 ports beside `hosts`"), "{}", problem(hosts));
        let hosts = "[[tunnels]]\nname = 'a'\nlocal = 'a:1'\npublic_port = '1-2'\nhosts = ['a']";
        assert!(problem(hosts).contains("`public_port` in [[tunnels]] stands beside `hosts`"), "{}", problem(hosts));
        let missing = "[[tunnels]]\nname = 'a'\nlocal = 'a:1-2'";
        assert!(problem(missing).contains("and `public_port` none for each"));
        let ftp = tunnel("ftp", "a:1-9", "'11-19'");
        assert!(problem(&(ftp.clone() + &tunnel("ftp-1", "a:1", "0"))).contains("\"ftp-1\" is there twice"));
        let said = problem(&(tunnel("b", "a:1", "15") + &ftp));
        assert!(said.contains("is 11-19, and 15 of them is what tunnel \"b\" has; give each"), "{said}");
        let said = problem(&(ftp.clone() + &tunnel("b", "a:1", "15")));
        assert!(said.contains("is 15, which tunnel \"ftp-4\" has; give each"), "{said}");
        assert!(problem(&tunnel(&"x".repeat(63), "a:1-2", "'11-12'")).contains("longer than 64 bytes"));
        let half = tunnel("a", "a:1-5000", "'1-5000'") + &tunnel("b", "a:1-5000", "'5001-10000'");
        assert!(parse(&half).is_ok());
        let more = problem(&(half + &tunnel("c", "a:1", "0")));
        assert!(more.contains("makes 10001 tunnels of one client"), "{more}");
    }

    #[test]
    fn bandwidth_is_none_or_enough() {
        let tunnel = "[[tunnels]]\nname = 'a'\nlocal = 'a:1'\nmax_bandwidth = ";
        let read = |value: &str| parse(&format!("{tunnel}{value}")).unwrap().tunnels[0].serving.max_bandwidth;
        assert_eq!((read("4096"), read("0")), (NonZeroU64::new(4096), None));
        for wrong in ["1", "4095"] {
            assert!(problem(&format!("{tunnel}{wrong}")).starts_with("4: `max_bandwidth` in [[tunnels]] is too small"));
        }
        assert!(problem(&format!("{tunnel}'10MiB'")).contains("write a whole number"));
    }

    #[test]
    fn the_proxy_protocol_has_two_versions() {
        let tunnel = "[[tunnels]]\nname = 'a'\nlocal = 'a:1'\nproxy_protocol = ";
        let read = |value: &str| parse(&format!("{tunnel}{value}")).unwrap().tunnels[0].serving.proxy_protocol;
        assert_eq!((read("'v1'"), read("'v2'")), (Some(ProxyProtocol::V1), Some(ProxyProtocol::V2)));
        for wrong in ["''", "'v3'", "'V1'"] {
            assert!(problem(&format!("{tunnel}{wrong}")).contains("is no version of the PROXY protocol; write"));
        }
        assert!(problem(&format!("{tunnel}1")).contains("a text in quotes"));
    }

    #[test]
    fn a_tunnel_asks_for_no_more_networks_than_one_message_holds() {
        let lists = |allow: usize, deny: usize| {
            let list = |count| ["'192.0.2.0/24',"].repeat(count).concat();
            let tunnel = "[[tunnels]]\nname = 'a'\nlocal = 'a:1'\n";
            format!("{tunnel}allow_sources = [{}]\ndeny_sources = [{}]", list(allow), list(deny))
        };
        assert!(parse(&lists(8, 8)).is_ok());
        assert!(problem(&lists(8, 9)).starts_with("4: `allow_sources` in [[tunnels]] makes 17 networks"));
        assert!(problem("token_files = ['a']").contains("it belongs in a file for cproxy-server"));
        assert!(problem("max_connections = 1").contains("it belongs in a [[tunnels]] section"));
    }

    #[test]
    fn wrong_values_say_what_to_write() {
        assert_eq!(
            problem("server = 'localhost'"),
            "1: `server` = \"localhost\": it has no port; write `localhost:8080`, with your port"
        );
        assert_eq!(problem("ctl_port = 1"), "1: unknown key `ctl_port`: it belongs in a file for cproxy-server");
        assert_eq!(problem("local = 'a:1'"), "1: unknown key `local`: it belongs in a [[tunnels]] section");
        assert!(problem("client_id = ''").starts_with("1: `client_id` is empty"));
        assert_eq!(
            problem("reconnect_min = 16"),
            "1: `reconnect_max` (15 s, the default) must not be shorter than `reconnect_min` (16 s); raise the one or lower \
             the other"
        );
    }
}
