//! The configuration files: from text to values, with every problem named by file, line and key.
//!
//! Parsing is pure (text in, value out), so that it can be fuzzed; only [`load`] touches the disk. The
//! files are read through `section.rs` instead of derived deserialisers: those stop at the first problem
//! and speak of Rust's types.

mod client;
mod environment;
mod ranges;
mod said;
mod section;
mod server;
mod service;
pub mod settings;
mod tls;
mod transport;

pub use client::{ClientFile, Protocol, TunnelEntry, parse_client};
pub use environment::Environment;
pub use ranges::Ports;
pub use said::{Said, said_in};
pub(crate) use section::nearest;
pub use server::{ClientEntry, ServerFile, parse_server};
pub use tls::{CertificateEntry, Named, TlsEntry};

use crate::access_log::Destination;
use crate::admin::{self, Doors, Place};
use crate::logging::Logs;
use crate::problem::{Problem, way_to_read};
use crate::token::{self, TokenSource};
use protocol_sm::bandwidth::{self, Rate};
use protocol_sm::routes::Host;
use protocol_sm::settings::Timings;
use protocol_sm::sources::Network;
use section::{Section, SwitchOrText};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use toml::de::DeValue;
use transport::datagram_transport;

/// A configuration file larger than this is some other file.
const MAX_FILE: u64 = 1 << 20;

/// Everything that is wrong with a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(Vec<Problem>);

impl ConfigError {
    /// The problems, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }

    /// `value` if there are no problems, else all of them.
    pub(crate) fn unless_none<T>(problems: Vec<Problem>, value: T) -> Result<T, Self> {
        if problems.is_empty() { Ok(value) } else { Err(Self(problems)) }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let line_end = if i == 0 { "" } else { "\n" };
            write!(f, "{line_end}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// What the files of both programs may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Common {
    /// Event-loop threads.
    pub work_threads: Option<NonZeroUsize>,
    /// The shared secret; several while a server changes it.
    pub tokens: Vec<TokenSource>,
    /// How to log.
    pub logs: Logs,
    /// Where visits are logged.
    pub access_log: Destination,
    /// Where the program can be asked.
    pub doors: Doors,
    /// What is legal but poor, as sentences.
    pub warnings: Vec<String>,
}

/// Files with tokens.
const TOKEN_FILES: &str = "token_files";
/// Who may visit.
const ALLOW_SOURCES: &str = "allow_sources";
/// Who may not.
const DENY_SOURCES: &str = "deny_sources";
/// How often one source address may visit.
const MAX_CONNECTION_RATE: &str = "max_connection_rate";
/// What a tunnel may move.
const MAX_BANDWIDTH: &str = "max_bandwidth";

/// The most event-loop threads that can be meant.
pub const MAX_THREADS: usize = 1024;

/// Reads the file at `path` and gives its text to `parse`.
///
/// # Errors
/// The file cannot be read or is no text, or what `parse` says.
pub fn load<T>(path: &Path, parse: impl Fn(&str, &Path) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
    let shown = path.display();
    let problem = |what: String| Problem::new(format!("{shown}: {what}"));
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(|error| {
        problem(format!("cannot read this configuration file: {error}; {}", way_to_read(path, &error)))
    })?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(problem("larger than 1 MiB, so this is no configuration file; check the path".into()).into());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = section::line_at(error.as_bytes(), error.utf8_error().valid_up_to());
        Problem::new(format!("{shown}:{line}: not UTF-8 text; save the file as UTF-8"))
    })?;
    parse(&text, path)
}

fn common(top: &Section<'_>, t: &mut Timings) -> Common {
    let mut common = Common::default();
    common.work_threads = top
        .integer("work_thread_nums", 1..=MAX_THREADS as u64)
        .and_then(|threads| usize::try_from(threads).ok())
        .and_then(NonZeroUsize::new);
    common.tokens = tokens(top, &mut common.warnings);
    top.seconds("heartbeat_interval", &mut t.heartbeat_interval);
    top.seconds("heartbeat_timeout", &mut t.heartbeat_timeout);
    top.seconds("handshake_timeout", &mut t.handshake_timeout);
    top.seconds("session_grace", &mut t.session_grace);
    top.seconds("transfer_grace", &mut t.transfer_grace);
    top.seconds("dial_timeout", &mut t.dial_timeout);
    top.seconds("half_open_timeout", &mut t.half_open_timeout);
    top.seconds("reset_linger", &mut t.reset_linger);
    top.seconds_or_zero("drain_timeout", &mut t.drain_timeout);
    top.ordered(
        "heartbeat_interval",
        t.heartbeat_interval,
        "heartbeat_timeout",
        t.heartbeat_timeout,
        section::Order::Below,
    );
    common.doors = Doors { socket: socket(top), metrics: top.parsed_or_number("metrics_addr", admin::address) };
    top.choice("log_format", &mut common.logs.format);
    top.choice("log_level", &mut common.logs.level);
    common.access_log = access_log(top);
    common
}

/// Reads `access_log`.
fn access_log(top: &Section<'_>) -> Destination {
    const KEY: &str = "access_log";
    match top.switch_or_text(KEY) {
        None | Some(SwitchOrText::Switch(false)) => Destination::Nowhere,
        Some(SwitchOrText::Switch(true)) => Destination::Log,
        Some(SwitchOrText::Text("")) => {
            top.problem(KEY, "is empty; write the path of a file, or true for standard error".into());
            Destination::Nowhere
        }
        Some(SwitchOrText::Text(path)) => Destination::File(top.directory(KEY).join(path)),
    }
}

/// Reads `admin_socket`.
fn socket(top: &Section<'_>) -> Place {
    let Some(text) = top.text("admin_socket") else { return Place::default() };
    if text.is_empty() {
        top.problem("admin_socket", "is empty; write a path, or \"off\"".into());
    }
    Place::new(text, top.directory("admin_socket"))
}

/// Reads `token`, `token_file` or, where it may stand, `token_files`.
fn tokens(section: &Section<'_>, warnings: &mut Vec<String>) -> Vec<TokenSource> {
    let given: Vec<_> = ["token", "token_file", TOKEN_FILES].into_iter().filter(|key| section.has(key)).collect();
    if let [one, more @ ..] = &given[..] {
        for other in more {
            section.problem(other, format!("stands beside `{one}`; keep one of the two"));
        }
    }
    if let Some(secret) = section.text("token") {
        return match token::from_bytes(secret.as_bytes(), &section.locate("token"), warnings) {
            Ok(token) => vec![TokenSource::Inline(token)],
            Err(problem) => {
                section.push("token", problem);
                Vec::new()
            }
        };
    }
    let source = |key: &str, file: &str| {
        if file.is_empty() {
            section.problem(key, "is empty; write the path of the file that holds the token".into());
        }
        TokenSource::File { path: section.directory(key).join(file), named_by: section.locate(key) }
    };
    if let Some(file) = section.text("token_file") {
        return vec![source("token_file", file)];
    }
    if !section.has(TOKEN_FILES) {
        return Vec::new();
    }
    let expected = "a list of paths in quotes, such as [\"token\", \"token.old\"]";
    let Some(items) = section.list(TOKEN_FILES, expected) else { return Vec::new() };
    if items.is_empty() {
        section.problem(TOKEN_FILES, format!("names no file; write {expected}"));
    }
    let mut sources = Vec::new();
    for (line, item) in items {
        match item.as_str() {
            Some(file) => sources.push(source(TOKEN_FILES, file)),
            None => section.item_problem(TOKEN_FILES, line, &format!("expected {expected}")),
        }
    }
    sources
}

/// Reads [`MAX_BANDWIDTH`]; 0 is no limit.
fn bandwidth(section: &Section<'_>) -> Option<Rate> {
    let bytes = section.integer(MAX_BANDWIDTH, 0..=bandwidth::MOST)?;
    if (1..bandwidth::LEAST).contains(&bytes) {
        let least = bandwidth::LEAST;
        section.problem(
            MAX_BANDWIDTH,
            format!("is too small; write bytes per second, {least} at least, or 0 for no limit"),
        );
    }
    Some(NonZeroU64::new(bytes))
}

/// Reads [`ALLOW_SOURCES`].
fn allow_sources(section: &Section<'_>) -> Option<Vec<Network>> {
    let (problems, allow) = (section.problems(), networks(section, ALLOW_SOURCES)?);
    if allow.is_empty() && section.problems() == problems {
        let what = "is an empty list, so nobody could visit; list networks, or leave the key out";
        section.problem(ALLOW_SOURCES, what.into());
    }
    Some(allow)
}

/// Reads a list of networks.
fn networks(section: &Section<'_>, key: &str) -> Option<Vec<Network>> {
    let expected = "a list of networks in quotes, such as [\"192.0.2.0/24\", \"2001:db8::/32\"]";
    let mut networks = Vec::new();
    for (line, item) in section.list(key, expected)? {
        let DeValue::String(text) = item else {
            section.item_problem(key, line, &format!("expected {expected}"));
            continue;
        };
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(error) => section.item_problem(key, line, &format!("\"{}\": {error}", text.escape_debug())),
        }
    }
    Some(networks)
}

/// Reads a list of hosts. `so` ends the sentence that says that it is empty.
fn hosts(section: &Section<'_>, key: &str, so: &str) -> Option<Vec<Host>> {
    let problems = section.problems();
    let expected = "a list of hosts in quotes, such as [\"app.example.com\", \"*.example.com\"]";
    let mut hosts = Vec::new();
    for (line, text) in section.texts(key, expected)? {
        match text.parse() {
            Ok(host) => hosts.push(host),
            Err(error) => section.item_problem(key, line, &format!("\"{}\" {error}", text.escape_debug())),
        }
    }
    if hosts.is_empty() && section.problems() == problems {
        section.problem(key, format!("is an empty list{so}"));
    }
    Some(hosts)
}

/// Whether `name` can stand in a log line: 1 to 64 bytes, no control characters. If not, the sentence's
/// end that says so.
///
/// # Errors
/// The name is empty, too long or contains a control character.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    match name.len() {
        0 => Err("is empty; write a name of 1 to 64 bytes"),
        1..=64 if name.chars().any(char::is_control) => {
            Err("contains a control character; use letters, digits, - and _")
        }
        1..=64 => Ok(()),
        _ => Err("is longer than 64 bytes; shorten it"),
    }
}
