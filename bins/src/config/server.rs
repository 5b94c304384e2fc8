//! The file of `cproxy-server`.

use super::section::Section;
use super::{COMMON_KEYS, Common, ConfigError, check_name, client, common, token};
use crate::address::bind_addr;
use crate::token::TokenSource;
use protocol_sm::ports::PortSet;
use protocol_sm::settings::{Scope, ServerSettings};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use toml::de::DeValue;

/// What a server's file says; where it says nothing, the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFile {
    /// What both programs' files may say. Its timings count, those in `settings` do not.
    pub common: Common,
    /// Address of the ctl, proxy and public ports.
    pub bind_addr: IpAddr,
    /// ctl port; 0 lets the kernel pick.
    pub ctl_port: u16,
    /// proxy port; 0 lets the kernel pick.
    pub proxy_port: u16,
    /// Counts, and the scope of whoever has no `[[clients]]` entry. The credentials are still to be made.
    pub settings: ServerSettings,
    /// The `[[clients]]`.
    pub clients: Vec<ClientEntry>,
}

/// One of the `[[clients]]`: a token of its own and what its holder may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientEntry {
    /// Its name, for logs.
    pub name: String,
    /// Its token.
    pub token: TokenSource,
    /// What it may do.
    pub scope: Scope,
}

impl Default for ServerFile {
    fn default() -> Self {
        Self {
            common: Common::default(),
            bind_addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ctl_port: 8080,
            proxy_port: 8090,
            settings: ServerSettings::default(),
            clients: Vec::new(),
        }
    }
}

/// Keys of the top level, besides [`COMMON_KEYS`].
pub(super) const KEYS: [&str; 16] = [
    "bind_addr",
    "ctl_port",
    "proxy_port",
    "allow_ports",
    "max_tunnels",
    "max_connections",
    "max_waiting",
    "idle_conns",
    "max_handshakes",
    "max_sessions",
    "wait_timeout",
    "idle_ping_interval",
    "idle_ping_timeout",
    "idle_conn_lifetime",
    "clients",
    // Listed for the message of a client's file that was given to the server.
    "name",
];
const CLIENT_KEYS: [&str; 7] = ["name", "token", "token_file", "allow_ports", "max_tunnels", "max_connections", "max_waiting"];

/// Reads a server's file from its `text`. `origin` is its path: it begins every message, and relative
/// paths in the file start at its directory.
///
/// # Errors
/// Every problem of the text at once.
pub fn parse_server(text: &str, origin: &Path) -> Result<ServerFile, ConfigError> {
    let top = Section::top(text, origin, COMMON_KEYS.into_iter().chain(KEYS).collect())?;
    let mut file = ServerFile { common: common(&top), ..ServerFile::default() };
    top.finish(file)
}
