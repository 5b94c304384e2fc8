//! Puts flag over environment over file over default, reads the tokens, and gives what the runtime runs
//! with.

use crate::access_log::Destination;
use crate::address::HostPort;
use crate::admin;
use crate::config::settings::{Of, keys_at_start};
use crate::config::{self, ConfigError, Environment, Named, Ports, ServerFile, TlsEntry, TunnelEntry};
use crate::flags::{Aim, ClientFlags, CommonFlags, ServerFlags};
use crate::identity::{self, Machine};
use crate::logging::Logs;
use crate::outbound::{self, OutboundSource};
use crate::problem::Problem;
use crate::reload::Said;
use crate::tls::{self, Besides};
use crate::token::{self, TokenSource};
use protocol_sm::driver::Strategy;
use protocol_sm::settings::{ClientSettings, Credential, Datagrams, Serving, Timings, Token, TunnelLimits};
use runtime_epoll::{client, server};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// A program's whole configuration.
#[derive(Clone, Debug)]
pub struct Assembled<C> {
    /// What the runtime runs with.
    pub config: C,
    /// How to log.
    pub logs: Logs,
    /// Where visits are logged.
    pub access_log: Destination,
    /// What is legal but poor, as sentences for the log.
    pub warnings: Vec<String>,
    /// What is good to know of one's own certificate, and to be done about it.
    pub besides: Besides,
    /// What a reload does not change.
    pub fixed: Said,
    /// What a reload changes, and only this crate can compare.
    pub told: Said,
    /// Where the program can be asked.
    pub doors: admin::Doors,
}

/// The most event-loop threads that are started unasked.
const DEFAULT_MAX_THREADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);
/// The credential's name in logs for the server's own token.
const OWN_TOKEN: &str = "default";
/// The name of a tunnel that the flags define without naming it.
const DEFAULT_TUNNEL: &str = "default";

/// Assembles the server's configuration. `variable` is the value of [`token::VARIABLE`].
///
/// # Errors
/// Everything that is wrong with the file or, if that is in order, with the whole.
pub fn server(flags: &ServerFlags, variable: Option<OsString>) -> Result<Assembled<server::Config>, ConfigError> {
    let path = flags.common.config.as_deref();
    let mut file = read(path, Of::Server, config::parse_server)?;
    put_over(&flags.common, &mut file.common, &mut file.settings.timings);
    file.bind_addr = flags.bind_addr.clone().or(file.bind_addr);
    file.ctl_port = flags.ctl_port.unwrap_or(file.ctl_port);
    file.proxy_port = flags.proxy_port.unwrap_or(file.proxy_port);
    if let Some(ports) = &flags.allow_ports {
        file.settings.open_scope.allow_ports = ports.clone();
    }

    let mut found = Findings::of(path, &mut file.common);
    let sources = file.common.tokens.iter().chain(file.clients.iter().flat_map(|client| &client.tokens));
    found.secrets_in_the_open(sources, false);
    let mut own = own_tokens(&flags.common, variable, &file.common.tokens, &mut found);
    if let Some(file) = flags.own_token.as_ref().filter(|file| flags.aim == Aim::Run || file.exists()) {
        let source = TokenSource::File { path: file.clone(), named_by: "the token that this server made".to_owned() };
        own.extend(found.keep(|warnings| source.read(warnings)));
    }
    // It is for others: who is on this machine needs none, as before there was one.
    file.settings.open_to_loopback = flags.own_token.is_some();
    file.settings.credentials = credentials(own, &file, &mut found);
    if file.settings.credentials.is_empty() && flags.own_token.is_none() {
        found.warnings.push(format!(
            "no token is set, so only clients on this machine (loopback) are taken; set one with --token-file FILE, \
             with the environment variable {} or with `token_file` in the configuration file",
            token::VARIABLE
        ));
    }
    file.tls.on = flags.common.tls.or(file.tls.on);
    let directory = tls::directory(path, |name| std::env::var_os(name));
    let make = flags.aim == Aim::Run;
    let mut besides = Besides::default();
    let encryption = found.keep(|warnings| tls::server(&file.tls, directory.as_deref(), make, warnings, &mut besides));
    let visitor_tls = found.keep(|warnings| tls::visitors(&file.certificates, warnings, &mut besides));
    found.besides = besides;
    let config = server::Config {
        bind_addr: file.bind_addr,
        public_bind_addr: file.public_bind_addr,
        ctl_port: file.ctl_port,
        proxy_port: file.proxy_port,
        host_ports: file.host_ports,
        work_threads: file.common.work_threads.unwrap_or_else(default_threads),
        relay: relay(),
        tls: encryption.flatten(),
        visitor_tls: visitor_tls.flatten(),
        acme_webroot: file.acme_webroot,
        access_log: None,
        settings: file.settings,
    };
    let fixed = keys_at_start(Of::Server).map(|key| match key {
        "bind_addr" => (key, format!("{:?}", config.bind_addr)),
        "public_bind_addr" => (key, format!("{:?}", config.public_bind_addr)),
        "ctl_port" => (key, config.ctl_port.to_string()),
        "proxy_port" => (key, config.proxy_port.to_string()),
        "http_port" => (key, format!("{:?}", config.host_ports[0])),
        "https_port" => (key, format!("{:?}", config.host_ports[1])),
        "acme_webroot" => (key, format!("{:?}", config.acme_webroot)),
        "tls" => (key, config.tls.is_some().to_string()),
        _ => fixed_of_both(key, config.work_threads, &file.common),
    });
    let fixed = fixed.collect();
    let mut told = told(&file.tls, "tls_client_ca", &file.common);
    let pairs = file.certificates.iter().map(|entry| (&entry.certificate.value, &entry.key.value, entry.default));
    told.push(("certificates", format!("{:?}", pairs.collect::<Vec<_>>())));
    found.conclude(config, file.common, fixed, told)
}

/// The server's credentials: its own tokens', then those of the `[[clients]]`.
fn credentials(own: Vec<Token>, file: &ServerFile, found: &mut Findings<'_>) -> Vec<Credential> {
    let scope = file.settings.open_scope.clone();
    let mut credentials = Vec::new();
    if !own.is_empty() {
        let own = Credential { name: OWN_TOKEN.to_owned(), tokens: own, scope };
        add_credential(own, &mut credentials, found);
    }
    for client in &file.clients {
        let (name, scope) = (client.name.clone(), client.scope.within(&file.settings.open_scope));
        if name == OWN_TOKEN {
            found.problem(format!(
                "[[clients]] \"{OWN_TOKEN}\": this is what the log calls the server's own token; choose another name"
            ));
        }
        let tokens: Vec<_> =
            client.tokens.iter().filter_map(|token| found.keep(|warnings| token.read(warnings))).collect();
        if !tokens.is_empty() {
            add_credential(Credential { name, tokens, scope }, &mut credentials, found);
        }
    }
    credentials
}

/// Adds `new`, whose tokens must be nobody else's, and each another.
fn add_credential(new: Credential, credentials: &mut Vec<Credential>, found: &mut Findings<'_>) {
    let name = new.name.escape_debug();
    for (nth, token) in new.tokens.iter().enumerate() {
        if new.tokens[..nth].contains(token) {
            found.problem(format!("two of the `token_files` of \"{name}\" hold the same token; name it once"));
        }
        if let Some(other) = credentials.iter().find(|other| other.tokens.contains(token)) {
            found.problem(format!(
                "[[clients]] \"{name}\" has the same token as \"{}\"; give each its own, so that it is known which one comes",
                other.name.escape_debug()
            ));
        }
    }
    credentials.push(new);
}

/// Assembles the client's configuration. `variable` is the value of [`token::VARIABLE`].
///
/// # Errors
/// Everything that is wrong with the file or, if that is in order, with the whole.
pub fn client(flags: &ClientFlags, variable: Option<OsString>) -> Result<Assembled<client::Config>, ConfigError> {
    let path = flags.common.config.as_deref();
    let mut file = read(path, Of::Client, config::parse_client)?;
    put_over(&flags.common, &mut file.common, &mut file.timings);
    let frugal = flags.frugal.unwrap_or(file.frugal);
    if let Some(local) = flags.local() {
        file.tunnels = vec![TunnelEntry {
            name: flags.tunnel_name.clone().unwrap_or_else(|| DEFAULT_TUNNEL.to_owned()),
            local: local.clone(),
            local_sources: Vec::new(),
            public_ports: Ports::one(flags.public_port.unwrap_or(0)),
            bind_addr: None,
            sites: flags.sites(),
            limits: TunnelLimits::default(),
            serving: Serving { datagrams: flags.is_udp().then(Datagrams::default), ..Serving::default() },
        }];
    }

    let mut found = Findings::of(path, &mut file.common);
    if let Some(what) = flags.protocol_problem() {
        found.problem(what);
    }
    let server = flags.cproxy_server.as_ref().or(file.server.as_ref());
    if server.is_none() {
        found.problem(
            "no server to connect to; give --cproxy-server HOST:PORT, or `server = \"HOST:PORT\"` in a \
             configuration file",
        );
    }
    if file.tunnels.is_empty() {
        found.problem(
            "no tunnel, so nothing to expose; give --local-server HOST:PORT, or [[tunnels]] with `name` and \
             `local` in a configuration file",
        );
    }
    let inline = file.outbound.as_ref().is_some_and(OutboundSource::holds_secret);
    found.secrets_in_the_open(&file.common.tokens, inline);
    let get = |name: &str| std::env::var_os(name);
    let said = found
        .keep(|warnings| outbound::over_the_file(flags.outbound_proxy.as_ref(), get(outbound::VARIABLE), warnings));
    let host = server.map(HostPort::host).unwrap_or_default();
    let outbound = said.flatten().or(file.outbound);
    let outbound = outbound.and_then(|source| found.keep(|warnings| source.proxy(host, &get, warnings))).flatten();
    let token = own_tokens(&flags.common, variable, &file.common.tokens, &mut found).pop();
    let chosen = flags.client_id.clone().or(file.client_id);
    let client_id = found.keep(|_| {
        identity::client_id(chosen.as_deref(), &Machine::here(), &file.tunnels).map_err(|error| {
            Problem::new(format!("no randomness for this client's identity: {error}; give --client-id TEXT"))
        })
    });
    file.tls.on = flags.common.tls.or(file.tls.on);
    if !flags.tls_pin.is_empty() {
        // The flag says how the server is known, and so that it is to be: whatever the file says.
        file.tls.on = flags.common.tls.or(Some(true));
        file.tls.authority = None;
        file.tls.pins = Some(Named { value: flags.tls_pin.clone(), by: "--tls-pin".to_owned() });
    }
    let mut besides = Besides::default();
    let encryption = found.keep(|warnings| tls::client(&file.tls, host, warnings, &mut besides));
    found.besides = besides;
    let config = client::Config {
        server: server.map(ToString::to_string).unwrap_or_default(),
        work_threads: file.common.work_threads.unwrap_or_else(default_threads),
        relay: relay(),
        access_log: None,
        settings: ClientSettings {
            client_id: client_id.unwrap_or_default(),
            token,
            tunnels: file.tunnels.iter().flat_map(TunnelEntry::parts).collect(),
            max_proxy_conns: file.max_proxy_conns,
            proxy: file.proxy,
            uplink: file.uplink,
            outbound,
            tls_relay: file.tls.relay,
            frugal,
            datagram_transport: file.datagram_transport,
            examines: false,
            access_log: false,
            timings: file.timings.of(frugal),
        },
        tls: encryption.flatten(),
    };
    let fixed = keys_at_start(Of::Client).map(|key| match key {
        "client_id" => (key, chosen.clone().unwrap_or_default()),
        _ => fixed_of_both(key, config.work_threads, &file.common),
    });
    let fixed = fixed.collect();
    let mut told = told(&file.tls, "tls_ca", &file.common);
    told.push(("tls", file.tls.is_on().to_string()));
    found.conclude(config, file.common, fixed, told)
}

/// What the runtime cannot compare: it has no words for what it trusts. `authority` is the key that names whom.
fn told(tls: &TlsEntry, authority: &'static str, common: &config::Common) -> Said {
    let path = |named: Option<&Named<PathBuf>>| format!("{:?}", named.map(|named| &named.value));
    let identity = tls.identity.as_ref();
    vec![
        ("tls_pin", format!("{:?}", tls.pins.as_ref().map(|pins| &pins.value))),
        (authority, path(tls.authority.as_ref())),
        ("tls_server_name", format!("{:?}", tls.server_name.as_ref().map(|name| &name.value))),
        ("tls_cert", path(identity.map(|(certificate, _)| certificate))),
        ("tls_key", path(identity.map(|(_, key)| key))),
        ("tls_next_key", path(tls.next_key.as_ref())),
        ("log_level", format!("{:?}", common.logs.level)),
    ]
}

fn fixed_of_both(key: &'static str, work_threads: NonZeroUsize, common: &config::Common) -> (&'static str, String) {
    match key {
        "work_thread_nums" => (key, work_threads.to_string()),
        "log_format" => (key, format!("{:?}", common.logs.format)),
        "access_log" => (key, format!("{:?}", common.access_log)),
        "admin_socket" => (key, format!("{:?}", common.doors.socket)),
        "metrics_addr" => (key, format!("{:?}", common.doors.metrics)),
        key => unreachable!("{key} counts from the start only, and nobody says what it was"),
    }
}

/// What came to light so far.
struct Findings<'p> {
    /// The configuration file, if there is one.
    path: Option<&'p Path>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    besides: Besides,
}

impl<'p> Findings<'p> {
    /// Goes on from what the parser of the file at `path` warned of.
    fn of(path: Option<&'p Path>, common: &mut config::Common) -> Self {
        let warnings = std::mem::take(&mut common.warnings);
        Self { path, problems: Vec::new(), warnings, besides: Besides::default() }
    }

    fn problem(&mut self, sentence: impl AsRef<str>) {
        let place = self.path.map_or(String::new(), |path| format!("{}: ", path.display()));
        self.problems.push(Problem::new(place + sentence.as_ref()));
    }

    /// What `fetch` gives; its problem, if it has one, is kept. `fetch` may add warnings.
    fn keep<T>(&mut self, fetch: impl FnOnce(&mut Vec<String>) -> Result<T, Problem>) -> Option<T> {
        fetch(&mut self.warnings).map_err(|problem| self.problems.push(problem)).ok()
    }

    /// Warns if the configuration file holds a secret and others may read it.
    fn secrets_in_the_open<'s>(&mut self, tokens: impl IntoIterator<Item = &'s TokenSource>, others: bool) {
        if others || tokens.into_iter().any(|source| matches!(source, TokenSource::Inline(_))) {
            self.warnings.extend(self.path.and_then(token::open_to_others));
        }
    }

    fn conclude<C>(
        self,
        config: C,
        common: config::Common,
        fixed: Said,
        told: Said,
    ) -> Result<Assembled<C>, ConfigError> {
        let Self { problems, warnings, besides, .. } = self;
        let config::Common { logs, access_log, doors, .. } = common;
        let assembled = Assembled { config, logs, access_log, warnings, besides, fixed, told, doors };
        ConfigError::unless_none(problems, assembled)
    }
}

/// What the file at `path` says, if there is one, with what the environment says put over it.
fn read<T>(
    path: Option<&Path>,
    program: Of,
    parse: fn(&str, &Path, &Environment) -> Result<T, ConfigError>,
) -> Result<T, ConfigError> {
    let environment = Environment::of(program, |name| std::env::var_os(name));
    match path {
        Some(path) => config::load(path, |text, origin| parse(text, origin, &environment)),
        None => parse("", Path::new(""), &environment),
    }
}

fn put_over(flags: &CommonFlags, file: &mut config::Common, timings: &mut Timings) {
    file.work_threads = flags.work_thread_nums.or(file.work_threads);
    file.logs.format = flags.log_format.unwrap_or(file.logs.format);
    file.logs.level = flags.log_level.unwrap_or(file.logs.level);
    timings.drain_timeout = flags.drain_timeout.unwrap_or(timings.drain_timeout);
}

/// The program's own tokens: from the flag, else the environment, else the file. An empty variable is none: that is how
/// scripts and container files leave one out.
fn own_tokens(
    flags: &CommonFlags,
    variable: Option<OsString>,
    file: &[TokenSource],
    found: &mut Findings<'_>,
) -> Vec<Token> {
    if let Some(path) = &flags.token_file {
        let source = TokenSource::File { path: path.clone(), named_by: "--token-file".to_owned() };
        found.keep(|warnings| source.read(warnings)).into_iter().collect()
    } else if let Some(value) = variable.filter(|value| !value.is_empty()) {
        found.keep(|warnings| token::from_variable(value, warnings)).into_iter().collect()
    } else {
        file.iter().filter_map(|source| found.keep(|warnings| source.read(warnings))).collect()
    }
}

fn default_threads() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).min(DEFAULT_MAX_THREADS)
}

/// How payload is moved. So that the end-to-end tests can run in each way, a debug build can be told by the environment.
fn relay() -> Strategy {
    if !cfg!(debug_assertions) {
        return Strategy::Hybrid;
    }
    match std::env::var("CPROXY_TEST_RELAY").as_deref() {
        Ok("copy") => Strategy::Copy,
        Ok("splice") => Strategy::Splice,
        Ok("hybrid") | Err(_) => Strategy::Hybrid,
        Ok(other) => panic!("CPROXY_TEST_RELAY={other}: copy, splice or hybrid"),
    }
}

#[cfg(test)]
mod tests;
