//! The file of `cproxy-server`.

use super::section::Section;
use super::settings::{Home, Of, keys_of};
use super::{
    CertificateEntry, Common, ConfigError, DENY_SOURCES, Environment, MAX_CONNECTION_RATE, TOKEN_FILES, TlsEntry,
    allow_sources, bandwidth, check_name, common, datagram_transport, hosts, networks, tls, tokens,
};
use crate::address::bind_addr;
use crate::token::TokenSource;
use protocol_sm::bandwidth::Rate;
use protocol_sm::ports::PortSet;
use protocol_sm::routes::HostSet;
use protocol_sm::settings::{Scope, ServerSettings};
use protocol_sm::sources::{Network, SourceLists};
use runtime_epoll::ScopedIp;
use std::path::{Path, PathBuf};
use toml::de::DeValue;

/// What a server's file says; where it says nothing, the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFile {
    /// What both programs' files may say.
    pub common: Common,
    /// Address of the ctl, proxy and public ports; none: every address of this machine.
    pub bind_addr: Option<ScopedIp>,
    /// Address of the ports for visitors, if that is another.
    pub public_bind_addr: Option<ScopedIp>,
    /// ctl port; 0 lets the kernel pick.
    pub ctl_port: u16,
    /// proxy port; 0 lets the kernel pick.
    pub proxy_port: u16,
    /// The ports of hosts, for plain HTTP and for TLS, where they are wanted; 0 lets the kernel pick.
    pub host_ports: [Option<u16>; 2],
    /// Counts, deadlines, and as `open_scope` what the top level allows. `credentials` is empty until
    /// the tokens are read.
    pub settings: ServerSettings,
    /// The `[[clients]]`.
    pub clients: Vec<ClientEntry>,
    /// How connections to clients are encrypted, if they are.
    pub tls: TlsEntry,
    /// The `[[certificates]]`.
    pub certificates: Vec<CertificateEntry>,
    /// Where an authority's challenges are answered from.
    pub acme_webroot: Option<PathBuf>,
}

/// One of the `[[clients]]`: a token of its own and what its holder may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientEntry {
    /// Its name, for logs.
    pub name: String,
    /// Its tokens, at least one; more while it is changed.
    pub tokens: Vec<TokenSource>,
    /// What it says about its scope.
    pub scope: ScopeEntry,
}

/// What a part of the file says about a [`Scope`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeEntry {
    /// Public ports that may be asked for.
    pub allow_ports: Option<PortSet>,
    /// Hosts that may be asked for.
    pub allow_hosts: Option<HostSet>,
    /// At which of the server's addresses it may have public ports.
    pub allow_bind_addrs: Option<Vec<Network>>,
    /// Sessions at once: at the top level those of all clients, which are no part of a scope.
    pub max_sessions: Option<u32>,
    /// Tunnels at once.
    pub max_tunnels: Option<u32>,
    /// Transfers at once.
    pub max_connections: Option<u32>,
    /// Visitors waiting at once.
    pub max_waiting: Option<u32>,
    /// Visitors of one source address at once.
    pub max_connections_per_source: Option<u32>,
    /// Flows of one UDP tunnel at once.
    pub max_flows: Option<u32>,
    /// Networks that may visit.
    pub allow_sources: Option<Vec<Network>>,
    /// Networks that may not visit.
    pub deny_sources: Option<Vec<Network>>,
    /// Visitors per minute of a tunnel from one source address.
    pub max_connection_rate: Option<u32>,
    /// What each tunnel may move in each direction.
    pub max_bandwidth: Option<Rate>,
}

impl ScopeEntry {
    /// The whole scope: what the file leaves out here is as in `outer`.
    #[must_use]
    pub fn within(&self, outer: &Scope) -> Scope {
        Scope {
            allow_ports: self.allow_ports.clone().unwrap_or_else(|| outer.allow_ports.clone()),
            allow_hosts: self.allow_hosts.clone().unwrap_or_else(|| outer.allow_hosts.clone()),
            allow_bind_addrs: self.allow_bind_addrs.clone().unwrap_or_else(|| outer.allow_bind_addrs.clone()),
            max_sessions: self.max_sessions.unwrap_or(outer.max_sessions),
            max_tunnels: self.max_tunnels.unwrap_or(outer.max_tunnels),
            max_connections: self.max_connections.unwrap_or(outer.max_connections),
            max_waiting: self.max_waiting.unwrap_or(outer.max_waiting),
            max_connections_per_source: self.max_connections_per_source.or(outer.max_connections_per_source),
            max_flows: self.max_flows.unwrap_or(outer.max_flows),
            sources: SourceLists {
                allow: self.allow_sources.clone().unwrap_or_else(|| outer.sources.allow.clone()),
                deny: self.deny_sources.clone().unwrap_or_else(|| outer.sources.deny.clone()),
            },
            max_connection_rate: self.max_connection_rate.unwrap_or(outer.max_connection_rate),
            max_bandwidth: self.max_bandwidth.unwrap_or(outer.max_bandwidth),
        }
    }
}

impl Default for ServerFile {
    fn default() -> Self {
        Self {
            common: Common::default(),
            bind_addr: None,
            public_bind_addr: None,
            ctl_port: 8080,
            proxy_port: 8090,
            host_ports: [None; 2],
            settings: ServerSettings::default(),
            clients: Vec::new(),
            tls: TlsEntry::default(),
            certificates: Vec::new(),
            acme_webroot: None,
        }
    }
}

/// At which addresses a client may have public ports.
const ALLOW_BIND_ADDRS: &str = "allow_bind_addrs";
/// Which hosts a client may have.
const ALLOW_HOSTS: &str = "allow_hosts";
/// Relays in front of the server.
const TRUSTED_PROXIES: &str = "trusted_proxies";
/// How many visitors one source address may have.
const PER_SOURCE: &str = "max_connections_per_source";
/// How many flows a UDP tunnel may have.
const MAX_FLOWS: &str = "max_flows";

/// Reads a server's file from its `text`, with what `environment` says put over it. `origin` is its path: it begins
/// every message, and relative paths in the file start at its directory.
///
/// # Errors
/// Every problem of the text at once.
pub fn parse_server(text: &str, origin: &Path, environment: &Environment) -> Result<ServerFile, ConfigError> {
    let top = Section::top(text, origin, environment, keys_of(Of::Server, Home::Top))?;
    let mut file = ServerFile::default();
    file.common = common(&top, &mut file.settings.timings);
    file.tls = tls::server(&top);
    file.certificates = tls::certificates(&top);
    file.acme_webroot = acme_webroot(&top);
    file.bind_addr = top.parsed_by("bind_addr", bind_addr);
    file.public_bind_addr = top.parsed_by("public_bind_addr", bind_addr);
    file.ctl_port = top.port("ctl_port").unwrap_or(file.ctl_port);
    file.proxy_port = top.port("proxy_port").unwrap_or(file.proxy_port);
    file.host_ports = ["http_port", "https_port"].map(|key| top.port(key));
    file.settings.datagram_transport = datagram_transport(&top);
    file.settings.advertise_proxy_port = top.port("advertise_proxy_port");
    if file.settings.advertise_proxy_port == Some(0) {
        let what = "is 0; write the port at which clients reach the proxy port";
        top.problem("advertise_proxy_port", what.into());
    }
    let settings = &mut file.settings;
    settings.trusted_proxies = networks(&top, TRUSTED_PROXIES).unwrap_or_default();
    settings.open_scope = scope(&top).within(&settings.open_scope);
    settings.idle_conns = top.count("idle_conns", 0).unwrap_or(settings.idle_conns);
    settings.max_handshakes = top.count("max_handshakes", 1).unwrap_or(settings.max_handshakes);
    settings.max_handshakes_per_source =
        top.count("max_handshakes_per_source", 1).unwrap_or(settings.max_handshakes_per_source);
    settings.max_sessions = top.count("max_sessions", 1).unwrap_or(settings.max_sessions);
    // Where there are several holders, none has more than a quarter unless the file says so.
    let holders = if top.has("clients") { 4 } else { 1 };
    settings.open_scope.max_sessions = (settings.max_sessions / holders).max(1);
    let timings = &mut settings.timings;
    top.seconds("route_timeout", &mut timings.route_timeout);
    top.seconds("wait_timeout", &mut timings.wait_timeout);
    top.seconds("idle_ping_interval", &mut timings.idle_ping_interval);
    top.seconds("idle_ping_timeout", &mut timings.idle_ping_timeout);
    top.seconds("idle_conn_lifetime", &mut timings.idle_conn_lifetime);
    top.seconds_or_zero("visitor_keepalive", &mut timings.visitor_keepalive);
    top.seconds("udp_idle_timeout", &mut timings.udp_idle_timeout);
    for section in top.tables("clients", &keys_of(Of::Server, Home::Clients)) {
        client_entry(&section, &mut file);
    }
    top.reject_unknown(|key| {
        let there = |of, place| keys_of(of, place).contains(&key);
        if there(Of::Client, Home::Top) {
            Some("in a file for cproxy-client")
        } else if there(Of::Server, Home::Clients) {
            Some("in a [[clients]] section")
        } else {
            there(Of::Server, Home::Certificates).then_some("in a [[certificates]] section")
        }
    });
    top.finish(file)
}

fn acme_webroot(top: &Section<'_>) -> Option<PathBuf> {
    const KEY: &str = "acme_webroot";
    let webroot = top.text(KEY)?;
    if webroot.is_empty() {
        top.problem(KEY, "is empty; write the path of the directory that certbot calls --webroot-path".into());
    }
    if !top.has("http_port") {
        top.problem(KEY, "stands without `http_port`: authorities ask at port 80".into());
    }
    Some(top.directory(KEY).join(webroot))
}

fn client_entry(section: &Section<'_>, file: &mut ServerFile) {
    let top_level = |key: &str| keys_of(Of::Server, Home::Top).contains(&key);
    section.reject_unknown(|key| top_level(key).then_some("at the top level: move it above the first [[clients]]"));
    let mut scope = scope(section);
    scope.max_sessions = section.count("max_sessions", 1);
    let tokens = tokens(section, &mut file.common.warnings);
    if !["token", "token_file", TOKEN_FILES].into_iter().any(|key| section.has(key)) {
        section
            .problem("token_file", "is missing; write `token_file = \"…\"`, with a token of this client's own".into());
    }
    let Some(name) = section.text("name") else {
        if !section.has("name") {
            section.problem("name", "is missing; write `name = \"…\"`, the client's name for the log".into());
        }
        return;
    };
    if let Err(what) = check_name(name) {
        section.problem("name", what.into());
    } else if file.clients.iter().any(|other| other.name == name) {
        let shown = name.escape_debug();
        section.problem("name", format!("= \"{shown}\" is there twice; give each of the [[clients]] its own name"));
    } else if !tokens.is_empty() {
        file.clients.push(ClientEntry { name: name.to_owned(), tokens, scope });
    }
}

fn scope(section: &Section<'_>) -> ScopeEntry {
    ScopeEntry {
        allow_ports: allow_ports(section),
        allow_bind_addrs: networks(section, ALLOW_BIND_ADDRS),
        allow_hosts: allow_hosts(section),
        max_sessions: None,
        max_tunnels: section.count("max_tunnels", 1),
        max_connections: section.count("max_connections", 1),
        max_waiting: section.count("max_waiting", 1),
        max_connections_per_source: section.count(PER_SOURCE, 1),
        max_flows: section.count(MAX_FLOWS, 1),
        allow_sources: allow_sources(section),
        deny_sources: networks(section, DENY_SOURCES),
        max_connection_rate: section.count(MAX_CONNECTION_RATE, 0),
        max_bandwidth: bandwidth(section),
    }
}

fn allow_ports(section: &Section<'_>) -> Option<PortSet> {
    const KEY: &str = "allow_ports";
    let items = section.list(KEY, "a list such as [\"6000-7000\", 9000]")?;
    if items.is_empty() {
        section.problem(KEY, "is an empty list, so no tunnel could be opened; list ports, or leave the key out".into());
    }
    let mut ports = PortSet::none();
    for (line, item) in items {
        let (shown, parsed) = match item {
            DeValue::String(text) => (format!("\"{}\"", text.escape_debug()), text.parse::<PortSet>()),
            // What the parser takes for a number may hold anything.
            DeValue::Integer(number) => {
                let number = number.to_string();
                (number.escape_debug().to_string(), number.parse::<PortSet>())
            }
            DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                section.item_problem(KEY, line, "expected ports (9000) and ranges in quotes (\"6000-7000\")");
                continue;
            }
        };
        let added = parsed.and_then(|set| set.ranges().iter().try_for_each(|&(first, last)| ports.insert(first, last)));
        if let Err(error) = added {
            section.item_problem(KEY, line, &format!("{shown}: {error}"));
        }
    }
    Some(ports)
}

fn allow_hosts(section: &Section<'_>) -> Option<HostSet> {
    hosts(section, ALLOW_HOSTS, ", so no host could be had; list hosts, or leave the key out").map(HostSet::new)
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Topic, settings_of};
    use super::*;
    use crate::access_log::Destination;
    use crate::admin::{Doors, Place};
    use protocol_sm::settings::{DatagramTransport, Token};
    use std::num::{NonZeroU64, NonZeroUsize};
    use std::time::Duration;

    fn parse(text: &str) -> Result<ServerFile, ConfigError> {
        parse_server(text, Path::new("etc/server.toml"), &Environment::default())
    }

    /// The one problem of `text`, without the file's name.
    fn problem(text: &str) -> String {
        let error = parse(text).unwrap_err();
        let [problem] = error.problems() else { panic!("expected one problem: {error}") };
        problem.to_string().strip_prefix("etc/server.toml:").unwrap().to_owned()
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(parse("").unwrap(), ServerFile::default());
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            bind_addr = "fe80::1%eth0"
            public_bind_addr = "192.0.2.1"
            ctl_port = 18080
            proxy_port = 0
            advertise_proxy_port = 18090
            trusted_proxies = ["127.0.0.1", "10.1.0.0/16"]
            work_thread_nums = 4
            datagram_transport = "auto"
            token_files = ["token", "/etc/token.old"]
            allow_ports = ["6000-7000", 9000]
            allow_bind_addrs = ["127.0.0.1", "192.0.2.0/24"]
            allow_hosts = ["*.example.com", "example.com"]
            http_port = 80
            https_port = 0
            acme_webroot = "webroot"
            route_timeout = 4.25
            max_tunnels = 1
            max_connections = 2
            max_waiting = 3
            max_connections_per_source = 2
            max_flows = 7
            allow_sources = ["10.0.0.0/8", "2001:db8::/32"]
            deny_sources = ["10.9.0.0/16"]
            max_connection_rate = 60
            max_bandwidth = 1_000_000
            idle_conns = 0
            max_handshakes = 5
            max_handshakes_per_source = 4
            max_sessions = 6
            heartbeat_interval = 1
            heartbeat_timeout = 2.5
            handshake_timeout = 3
            session_grace = 4
            transfer_grace = 4.5
            wait_timeout = 5
            dial_timeout = 6
            idle_ping_interval = 7
            idle_ping_timeout = 8
            idle_conn_lifetime = 9
            half_open_timeout = 10
            reset_linger = 0.5
            drain_timeout = 0
            visitor_keepalive = 0.25
            udp_idle_timeout = 11
            log_format = "json"
            log_level = "trace"
            access_log = "visits.log"
            admin_socket = "run/admin"
            metrics_addr = 9464

            [[clients]]
            name = "office"
            token_file = "office.token"
            allow_ports = [6001]
            allow_hosts = ["office.example.com"]
            allow_bind_addrs = []
            max_sessions = 10
            max_tunnels = 11
            max_connections = 12
            max_waiting = 13
            max_connections_per_source = 14
            max_flows = 15
            deny_sources = []
            max_connection_rate = 0
            max_bandwidth = 0

            [[clients]]
            name = "home"
            token = "another secret"

            [[certificates]]
            cert = "site.pem"
            key = "/etc/site-key.pem"
            default = true
        "#;
        for setting in settings_of(Of::Server, Home::Top).chain(settings_of(Of::Server, Home::Clients)) {
            let there = setting.topic == Topic::Tls || text.contains(setting.key);
            assert!(there, "`{}` is not in this test's file", setting.key);
        }
        let file = parse(text).unwrap();
        assert_eq!(file.public_bind_addr, Some("192.0.2.1".parse().unwrap()));
        assert_eq!((file.bind_addr, file.ctl_port, file.proxy_port), (Some("fe80::1%eth0".parse().unwrap()), 18080, 0));
        assert_eq!(file.common.work_threads, NonZeroUsize::new(4));
        let metrics = Some("127.0.0.1:9464".parse().unwrap());
        assert_eq!(file.common.doors, Doors { socket: Place::At("etc/run/admin".into()), metrics });
        let read = |path: &str| TokenSource::File {
            path: path.into(),
            named_by: "etc/server.toml:10: `token_files`".to_owned(),
        };
        assert_eq!(file.common.tokens, [read("etc/token"), read("/etc/token.old")]);
        let settings = &file.settings;
        assert_eq!(settings.advertise_proxy_port, Some(18090));
        let trusted: Vec<_> = settings.trusted_proxies.iter().map(ToString::to_string).collect();
        assert_eq!(trusted, ["127.0.0.1/32", "10.1.0.0/16"]);
        assert_eq!(settings.datagram_transport, DatagramTransport::Auto);
        assert_eq!((settings.idle_conns, settings.max_sessions), (0, 6));
        assert_eq!((settings.max_handshakes, settings.max_handshakes_per_source), (5, 4));
        let top = &settings.open_scope;
        assert_eq!(top.allow_ports.to_string(), "6000-7000,9000");
        assert_eq!(file.host_ports, [Some(80), Some(0)]);
        let may = |scope: &Scope, host: &str| scope.allow_hosts.covers(&host.parse().unwrap());
        assert_eq!(["a.example.com", "example.com", "example.org"].map(|host| may(top, host)), [true, true, false]);
        let office = file.clients[0].scope.within(top);
        assert_eq!(["office.example.com", "example.com"].map(|host| may(&office, host)), [true, false]);
        assert_eq!((top.max_tunnels, top.max_connections, top.max_waiting), (1, 2, 3));
        assert_eq!(top.max_bandwidth, NonZeroU64::new(1_000_000));
        assert_eq!((top.max_flows, office.max_flows, file.clients[1].scope.within(top).max_flows), (7, 15, 7));
        assert_eq!(top.max_sessions, 1, "a quarter of the server's, and one at least");
        let shown = |list: &[Network]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&top.sources.allow), ["10.0.0.0/8", "2001:db8::/32"]);
        assert_eq!((shown(&top.sources.deny), top.max_connection_rate), (vec!["10.9.0.0/16".to_owned()], 60));
        let t = &settings.timings;
        let read = [
            t.heartbeat_interval,
            t.heartbeat_timeout,
            t.handshake_timeout,
            t.session_grace,
            t.transfer_grace,
            t.wait_timeout,
            t.dial_timeout,
            t.idle_ping_interval,
            t.idle_ping_timeout,
            t.idle_conn_lifetime,
            t.half_open_timeout,
            t.reset_linger,
            t.drain_timeout,
            t.visitor_keepalive,
            t.udp_idle_timeout,
        ];
        assert_eq!(
            read,
            [1.0, 2.5, 3.0, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 0.5, 0.0, 0.25, 11.0].map(Duration::from_secs_f64)
        );
        assert_eq!(format!("{:?}", file.common.logs), "Logs { format: Json, level: Trace }");
        assert_eq!(file.common.access_log, Destination::File("etc/visits.log".into()));

        let [certificate] = &file.certificates[..] else { panic!("{:?}", file.certificates) };
        let files = [&certificate.certificate.value, &certificate.key.value];
        assert_eq!(files, [Path::new("etc/site.pem"), Path::new("/etc/site-key.pem")]);
        assert!(certificate.default);

        let [office, home] = &file.clients[..] else { panic!("{:?}", file.clients) };
        assert_eq!(office.name, "office");
        let [TokenSource::File { path, named_by }] = &office.tokens[..] else { panic!("{:?}", office.tokens) };
        assert_eq!(path, Path::new("etc/office.token"));
        assert_eq!(named_by, "etc/server.toml:54: `token_file` in [[clients]]");
        assert_eq!(home.tokens, [TokenSource::Inline(Token::new(b"another secret".to_vec()))]);
        let scope = office.scope.within(top);
        assert_eq!(scope.allow_ports.to_string(), "6001");
        assert_eq!((scope.max_sessions, scope.max_tunnels), (10, 11));
        assert_eq!(
            (scope.per_source(), top.per_source(), ServerFile::default().settings.open_scope.per_source()),
            (14, 2, 2500)
        );
        assert_eq!((scope.max_connections, scope.max_waiting), (12, 13));
        assert_eq!((&scope.sources.allow, scope.max_connection_rate), (&top.sources.allow, 0));
        assert!(scope.sources.deny.is_empty(), "a list of its own replaces that of the top level");
        assert_eq!(&home.scope.within(top), top, "what a client's entry leaves out is as at the top level");
    }

    #[test]
    fn unknown_keys_name_the_nearest_or_their_place() {
        assert_eq!(problem("\nctl-prt = 1"), "2: unknown key `ctl-prt`: did you mean `ctl_port`?");
        assert_eq!(problem("threads = 1"), "1: unknown key `threads`: did you mean `work_thread_nums`?");
        assert_eq!(problem("server = 'a:1'"), "1: unknown key `server`: it belongs in a file for cproxy-client");
        assert_eq!(problem("name = 'a'"), "1: unknown key `name`: it belongs in a [[clients]] section");
        let client = "[[clients]]\nname = 'a'\ntoken_file = 'a'\n";
        assert_eq!(
            problem(&format!("{client}ctl_port = 1")),
            "4: unknown key `ctl_port` in [[clients]]: it belongs at the top level: move it above the first [[clients]]"
        );
        assert_eq!(
            problem(&format!("{client}max_tunels = 1")),
            "4: unknown key `max_tunels` in [[clients]]: did you mean `max_tunnels`?"
        );
    }

    #[test]
    fn wrong_values_say_what_to_write() {
        assert_eq!(
            problem("ctl_port = '80'"),
            "1: `ctl_port` is a text in quotes; write a whole number from 0 to 65535"
        );
        assert_eq!(problem("ctl_port = 65536"), "1: `ctl_port` is 65536; write a whole number from 0 to 65535");
        assert_eq!(problem("ctl_port = -1"), "1: `ctl_port` is -1; write a whole number from 0 to 65535");
        assert_eq!(problem("work_thread_nums = 0"), "1: `work_thread_nums` is 0; write a whole number from 1 to 1024");
        assert_eq!(problem("max_tunnels = 0"), "1: `max_tunnels` is 0; write a whole number from 1 to 4294967295");
        assert_eq!(problem("token = 12345678"), "1: `token` is a whole number; write a text in quotes");
        assert_eq!(problem("clients = 1"), "1: `clients` is a whole number; write [[clients]] above each entry");
        assert_eq!(
            problem("clients = [1]"),
            "1: `clients`: an entry is a whole number; write [[clients]] above each entry"
        );
        assert_eq!(
            problem("log_level = 'loud'"),
            "1: `log_level` = \"loud\": write one of error, warn, info, debug, trace"
        );
        for bad in ["nan", "inf", "-1", "0", "0.0", "1e300", "99999999999999999999"] {
            assert_eq!(
                problem(&format!("wait_timeout = {bad}")),
                "1: `wait_timeout` is out of range; write seconds from 0.001 to 31536000, such as 2.5"
            );
        }
        assert!(
            problem("bind_addr = 'localhost'")
                .starts_with("1: `bind_addr` = \"localhost\": it is not an IP address; write")
        );
    }

    #[test]
    fn the_access_log_is_off_on_or_a_file() {
        let read = |value: &str| parse(&format!("access_log = {value}")).unwrap().common.access_log;
        assert_eq!((read("true"), read("false")), (Destination::Log, Destination::Nowhere));
        assert_eq!(read("'/var/log/x'"), Destination::File("/var/log/x".into()));
        assert!(problem("access_log = 1").contains("write true or false without quotes, or a text in quotes"));
        assert!(problem("access_log = ''").starts_with("1: `access_log` is empty; write the path"));
    }

    #[test]
    fn ports_are_read_strictly() {
        assert_eq!(
            problem("allow_ports = ['9-8']"),
            "1: `allow_ports`: \"9-8\": the range's first port is larger than its last"
        );
        assert_eq!(
            problem("allow_ports = [\n1,\n0]"),
            "3: `allow_ports`: 0: port 0 cannot be allowed; ports are 1-65535"
        );
        assert_eq!(
            problem("allow_ports = [1.5]"),
            "1: `allow_ports`: expected ports (9000) and ranges in quotes (\"6000-7000\")"
        );
        assert!(problem("allow_ports = []").contains("no tunnel could be opened"));
        assert!(problem("allow_ports = '1-2'").contains("write a list such as [\"6000-7000\", 9000]"));
    }

    #[test]
    fn networks_are_read_strictly() {
        assert_eq!(
            problem("allow_sources = ['10.1.0.0/8']"),
            "1: `allow_sources`: \"10.1.0.0/8\": the address has bits set behind the network's; write 10.0.0.0/8, or the \
             address alone"
        );
        assert_eq!(
            problem("deny_sources = [\n'::/0',\n'10.0.0.0/33']"),
            "3: `deny_sources`: \"10.0.0.0/33\": the number behind / is larger than 32, the bits of such an address"
        );
        assert!(
            problem("deny_sources = ['office']").contains("\"office\": expected an address (192.0.2.7, 2001:db8::7)")
        );
        assert!(
            problem("deny_sources = [7]").contains("expected a list of networks in quotes, such as [\"192.0.2.0/24\"")
        );
        assert!(problem("allow_sources = '10.0.0.0/8'").contains("write a list of networks in quotes"));
        assert!(problem("allow_sources = []").contains("nobody could visit"));
        assert!(parse("deny_sources = []").is_ok());
    }

    #[test]
    fn several_token_files_are_a_list_of_paths() {
        assert!(problem("token_files = 'a'").contains("`token_files` is a text in quotes; write a list of paths"));
        assert!(problem("token_files = ['a', 1]").contains("`token_files`: expected a list of paths in quotes"));
        assert!(problem("token_files = []").contains("names no file"));
        assert!(problem("token_files = ['']").contains("is empty; write the path"));
        let beside = "token_file = 'x'\ntoken_files = ['y']";
        assert_eq!(problem(beside), "2: `token_files` stands beside `token_file`; keep one of the two");
    }

    #[test]
    fn a_heartbeat_must_fit_into_its_timeout() {
        assert_eq!(
            problem("heartbeat_interval = 20"),
            "1: `heartbeat_timeout` (15 s, the default) must be longer than `heartbeat_interval` (20 s); raise the one or \
             lower the other"
        );
        assert!(problem("heartbeat_interval = 2\nheartbeat_timeout = 2").starts_with("2: `heartbeat_timeout` (2 s)"));
    }

    #[test]
    fn certificates_need_both_files_and_both_ports() {
        let port = "https_port = 443\n";
        let ports = "http_port = 443\nhttps_port = 443\n";
        let both = "[[certificates]]\ncert = 'a'\nkey = 'b'\n";
        assert!(problem(both).starts_with("1: `certificates` stands without `https_port`"));
        assert!(problem(&format!("{port}{both}")).starts_with("2: `certificates` stands without `http_port`"));
        assert!(
            problem(&format!("{ports}[[certificates]]\ncert = 'a'"))
                .starts_with("3: `key` in [[certificates]] is missing")
        );
        let default = format!("{ports}{both}default = true\n{both}default = true");
        assert!(problem(&default).starts_with("10: `default` in [[certificates]] is there twice"));
    }

    #[test]
    fn clients_need_a_name_and_a_token_of_their_own() {
        assert!(problem("[[clients]]\nname = 'a'").starts_with("1: `token_file` in [[clients]] is missing"));
        assert!(problem("[[clients]]\ntoken = 'long enough'").starts_with("1: `name` in [[clients]] is missing"));
        assert!(
            problem("[[clients]]\ntoken = 'long enough'\nname = ''").starts_with("3: `name` in [[clients]] is empty")
        );
        let twice = "[[clients]]\nname = 'a'\ntoken_file = 'x'\n".repeat(2);
        assert_eq!(
            problem(&twice),
            "5: `name` in [[clients]] = \"a\" is there twice; give each of the [[clients]] its own name"
        );
        let both = "token = 'long enough'\ntoken_file = 'x'";
        assert_eq!(problem(both), "2: `token_file` stands beside `token`; keep one of the two");
    }

    #[test]
    fn secrets_stay_out_of_messages() {
        assert!(problem("token = ''").starts_with("1: `token` holds an empty token"));
        assert!(problem("token = 'x'").starts_with("1: `token` holds a token of 1 byte"));
        let file = parse("token = 's3cr3t'").unwrap();
        assert!(file.common.warnings[0].starts_with("etc/server.toml:1: `token` holds a token of 6 bytes"));
        assert!(!format!("{file:?}").contains("s3cr3t"));
        assert!(!problem("token = 's3cr3t' junk").contains("s3cr3t"));
    }

    #[test]
    fn all_problems_are_told_at_once_in_the_files_order() {
        let error = parse("ctl_port = 'x'\nfoo = 1\nlog_level = 1").unwrap_err();
        let lines: Vec<_> = error.problems().iter().map(|p| p.to_string()[..18].to_owned()).collect();
        assert_eq!(lines, ["etc/server.toml:1:", "etc/server.toml:2:", "etc/server.toml:3:"]);
    }

    #[test]
    fn malformed_toml_is_named_with_its_line() {
        assert!(problem("ctl_port = 1\nctl_port = ").starts_with("2: not valid TOML: "));
        assert_eq!(problem("a = 1\na = 2"), "2: not valid TOML: duplicate key");
    }
}
