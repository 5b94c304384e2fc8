//! The keys of the top level, by the program whose file has them: each parser tells a user which of the two files a key
//! belongs in. Keys of TLS stand in `tls.rs`.

/// Keys of both programs.
pub(super) const COMMON: [&str; 17] = [
    "work_thread_nums",
    "token",
    "token_file",
    "heartbeat_interval",
    "heartbeat_timeout",
    "handshake_timeout",
    "session_grace",
    "transfer_grace",
    "dial_timeout",
    "half_open_timeout",
    "reset_linger",
    "drain_timeout",
    "log_format",
    "log_level",
    "access_log",
    "admin_socket",
    "metrics_addr",
];

/// Keys of `cproxy-client`'s file.
pub(super) const CLIENT: [&str; 13] = [
    "server",
    "proxy_port",
    "proxy_addr",
    "source_addr",
    "bind_interface",
    OUTBOUND_PROXY,
    OUTBOUND_PROXY_FILE,
    "client_id",
    FRUGAL,
    "reconnect_min",
    "reconnect_max",
    "max_proxy_conns",
    "tunnels",
];

/// Keys of `cproxy-server`'s file.
pub(super) const SERVER: [&str; 35] = [
    "bind_addr",
    "public_bind_addr",
    "ctl_port",
    "proxy_port",
    "advertise_proxy_port",
    "http_port",
    "https_port",
    "certificates",
    "acme_webroot",
    TRUSTED_PROXIES,
    "allow_ports",
    ALLOW_BIND_ADDRS,
    ALLOW_HOSTS,
    "max_tunnels",
    "max_connections",
    "max_waiting",
    PER_SOURCE,
    MAX_FLOWS,
    "idle_conns",
    "max_handshakes",
    "max_handshakes_per_source",
    "max_sessions",
    TOKEN_FILES,
    ALLOW_SOURCES,
    DENY_SOURCES,
    MAX_CONNECTION_RATE,
    MAX_BANDWIDTH,
    "route_timeout",
    "wait_timeout",
    "idle_ping_interval",
    "idle_ping_timeout",
    "idle_conn_lifetime",
    "visitor_keepalive",
    "udp_idle_timeout",
    "clients",
];

/// Keys of the server that count from the start only: all others a reload changes, too.
pub(crate) const SERVER_AT_START: [&str; 13] = [
    "bind_addr",
    "public_bind_addr",
    "ctl_port",
    "proxy_port",
    "http_port",
    "https_port",
    "acme_webroot",
    "work_thread_nums",
    "log_format",
    "access_log",
    "admin_socket",
    "metrics_addr",
    "tls",
];

/// Keys of the client that count from the start only.
pub(crate) const CLIENT_AT_START: [&str; 6] =
    ["client_id", "work_thread_nums", "log_format", "access_log", "admin_socket", "metrics_addr"];

/// Little is sent while nobody visits.
pub(super) const FRUGAL: &str = "frugal";
/// The proxy on the way to the server.
pub(super) const OUTBOUND_PROXY: &str = "outbound_proxy";
/// The file that names it.
pub(super) const OUTBOUND_PROXY_FILE: &str = "outbound_proxy_file";
/// The key that names several token files, in a server's file.
pub(super) const TOKEN_FILES: &str = "token_files";
/// At which addresses a client may have public ports.
pub(super) const ALLOW_BIND_ADDRS: &str = "allow_bind_addrs";
/// Which hosts a client may have.
pub(super) const ALLOW_HOSTS: &str = "allow_hosts";
/// Relays in front of the server.
pub(super) const TRUSTED_PROXIES: &str = "trusted_proxies";
/// Who may visit.
pub(super) const ALLOW_SOURCES: &str = "allow_sources";
/// Who may not.
pub(super) const DENY_SOURCES: &str = "deny_sources";
/// How many visitors one source address may have.
pub(super) const PER_SOURCE: &str = "max_connections_per_source";
/// How many flows a UDP tunnel may have.
pub(super) const MAX_FLOWS: &str = "max_flows";
/// How often one source address may visit.
pub(super) const MAX_CONNECTION_RATE: &str = "max_connection_rate";
/// What a tunnel may move.
pub(super) const MAX_BANDWIDTH: &str = "max_bandwidth";

#[cfg(test)]
mod tests {
    use super::super::tls;
    use super::*;
    use std::collections::BTreeSet;

    const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

    /// The keys in the document's tables: the program, the key, and whether it counts from the start only.
    fn documented() -> BTreeSet<(&'static str, &'static str, bool)> {
        let mut found = BTreeSet::new();
        for line in DOCUMENT.lines().filter(|line| line.starts_with("| `")) {
            let mut cells = line.split('|').skip(1);
            let (keys, program) = (cells.next().expect("keys"), cells.next().expect("a program").trim());
            // Other tables have other columns.
            let keys = keys.split(',').filter(|_| ["server", "client", "both"].contains(&program));
            for key in keys {
                let name = key.split('`').nth(1).expect("a key in backticks");
                for of in ["server", "client"] {
                    if program == of || program == "both" {
                        found.insert((of, name, key.contains('†')));
                    }
                }
            }
        }
        found
    }

    #[test]
    fn every_key_is_documented_and_whether_a_reload_changes_it() {
        // The README has those of the tables.
        let top = |keys: &[&'static str]| -> Vec<_> {
            keys.iter().copied().filter(|&key| key != "tunnels" && key != "clients").collect()
        };
        let mut expected = BTreeSet::new();
        let mut expect = |program, keys: Vec<&'static str>, at_start: &[&str]| {
            for key in keys {
                expected.insert((program, key, at_start.contains(&key)));
            }
        };
        for keys in [&COMMON[..], &SERVER, &tls::KEYS, &tls::SERVER_KEYS] {
            expect("server", top(keys), &SERVER_AT_START);
        }
        for keys in [&COMMON[..], &CLIENT, &tls::KEYS, &tls::CLIENT_KEYS] {
            expect("client", top(keys), &CLIENT_AT_START);
        }
        assert_eq!(documented(), expected);
    }
}
