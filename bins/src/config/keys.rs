//! The keys of the top level, by the program whose file has them: each parser tells a user which of the two files a key
//! belongs in. Keys of TLS stand in `tls.rs`.

/// Keys of both programs.
pub(super) const COMMON: [&str; 15] = [
    "work_thread_nums",
    "token",
    "token_file",
    "heartbeat_interval",
    "heartbeat_timeout",
    "handshake_timeout",
    "session_grace",
    "dial_timeout",
    "half_open_timeout",
    "reset_linger",
    "drain_timeout",
    "log_format",
    "log_level",
    "access_log",
    "admin_socket",
];

/// Keys of `cproxy-client`'s file.
pub(super) const CLIENT: [&str; 8] =
    ["server", "proxy_port", "proxy_addr", "client_id", "reconnect_min", "reconnect_max", "max_proxy_conns", "tunnels"];

/// Keys of `cproxy-server`'s file.
pub(super) const SERVER: [&str; 23] = [
    "bind_addr",
    "ctl_port",
    "proxy_port",
    "advertise_proxy_port",
    "allow_ports",
    "max_tunnels",
    "max_connections",
    "max_waiting",
    PER_SOURCE,
    "idle_conns",
    "max_handshakes",
    "max_handshakes_per_source",
    "max_sessions",
    TOKEN_FILES,
    ALLOW_SOURCES,
    DENY_SOURCES,
    MAX_CONNECTION_RATE,
    "wait_timeout",
    "idle_ping_interval",
    "idle_ping_timeout",
    "idle_conn_lifetime",
    "visitor_keepalive",
    "clients",
];

/// The key that names several token files, in a server's file.
pub(super) const TOKEN_FILES: &str = "token_files";
/// Who may visit.
pub(super) const ALLOW_SOURCES: &str = "allow_sources";
/// Who may not.
pub(super) const DENY_SOURCES: &str = "deny_sources";
/// How many visitors one source address may have.
pub(super) const PER_SOURCE: &str = "max_connections_per_source";
/// How often one source address may visit.
pub(super) const MAX_CONNECTION_RATE: &str = "max_connection_rate";
