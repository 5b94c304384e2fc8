//! The table itself.

use super::ByItself::{Required, Value, Words};
use super::Kind::{Choice, List, Number, Path, Seconds, Secret, Sections, Switch, SwitchOrText, Text};
use super::Of::{Both, Client, Server};
use super::{ByItself, Home, Kind, Of, Setting, Topic};
use crate::config::MAX_THREADS;
use protocol_sm::bandwidth;

const BANDWIDTH: Kind = Number("bytes a second", 0, bandwidth::MOST);
const NONE: ByItself = Words("none");
const NO_LIMIT: ByItself = Words("no limit");
const EVERYBODY: ByItself = Words("everybody");
const NOBODY: ByItself = Words("nobody");

const fn top(of: Of, topic: Topic, key: &'static str, kind: Kind, default: ByItself, what: &'static str) -> Setting {
    Setting::new(of, Home::Top, topic, key, kind, default, what)
}

const fn place(of: Of, key: &'static str, kind: Kind, default: ByItself, what: &'static str) -> Setting {
    top(of, Topic::Places, key, kind, default, what)
}

const fn holder(key: &'static str, kind: Kind, default: ByItself, what: &'static str) -> Setting {
    top(Server, Topic::Use, key, kind, default, what)
}

const fn tls(of: Of, key: &'static str, kind: Kind, default: ByItself, what: &'static str) -> Setting {
    top(of, Topic::Tls, key, kind, default, what)
}

const fn time(of: Of, key: &'static str, default: &'static str, what: &'static str) -> Setting {
    top(of, Topic::Times, key, Seconds(false), Value(default), what)
}

const fn tunnel(key: &'static str, kind: Kind, default: ByItself, what: &'static str) -> Setting {
    Setting::new(Client, Home::Tunnels, Topic::Tunnels, key, kind, default, what)
}

const fn service(key: &'static str, kind: Kind, default: ByItself, what: &'static str) -> Setting {
    Setting::new(Client, Home::Tunnels, Topic::Services, key, kind, default, what)
}

const fn certificate(key: &'static str, kind: Kind, default: ByItself, what: &'static str) -> Setting {
    Setting::new(Server, Home::Certificates, Topic::Certificates, key, kind, default, what)
}

const fn flag(of: Of, key: &'static str, kind: Kind, default: ByItself, what: &'static str) -> Setting {
    Setting::new(of, Home::Flag, Topic::Flags, key, kind, default, what).flag(key)
}

/// All settings, in the order in which the document has them.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    // Where things are.
    place(Server, "bind_addr", Text, Words("every address, IPv6 and IPv4"), "IP address of all its ports, the public ones too; `0.0.0.0` is IPv4 alone").at_start().flag("bind_addr").eg(r#""0.0.0.0""#),
    place(Server, "public_bind_addr", Text, Words("`bind_addr`"), "IP address of the ports for visitors, if it is another: a second address of the machine, or `127.0.0.1` for a relay on it").at_start().eg(r#""192.0.2.1""#),
    place(Server, "ctl_port", Kind::PORT, Value("8080"), "where clients come for their control connection; may be [one port](#one-port) with the next three; 0: any free port, and another each time").at_start().flag("ctl_port"),
    place(Server, "proxy_port", Kind::PORT, Value("8090"), "where clients come for their data connections; 0 as for `ctl_port`").at_start().flag("proxy_port"),
    place(Server, "http_port", Kind::PORT, NONE, "[a port that hosts share](#hosts), for HTTP in the clear, such as 80; 0: any free port").at_start().eg("80"),
    place(Server, "https_port", Kind::PORT, NONE, "the same for TLS, such as 443").at_start().eg("443"),
    place(Server, "certificates", Sections, NONE, "`[[certificates]]`: [TLS that ends at the server](#tls-that-ends-at-the-server)"),
    place(Server, "acme_webroot", Path, NONE, "the directory from which [certbot or lego](#certificates-from-lets-encrypt) prove whose a name is").at_start().eg(r#""/var/lib/acme""#),
    place(Server, "advertise_proxy_port", Kind::REAL_PORT, Words("`proxy_port`"), "what clients are told, where the proxy port is mapped on the way").eg("18090"),
    place(Server, "trusted_proxies", List, NONE, "networks of relays in front of the server, which [say who comes](operating.md#behind-a-relay-with-the-visitors-address)").eg(r#"["192.0.2.10"]"#),
    place(Server, "clients", Sections, NONE, "`[[clients]]`: [tokens of their own](#tokens), and what their holders may do"),
    place(Client, "server", Text, Required, "the server's ctl port, `HOST:PORT`, or `HOST` for port 8080; a name is looked up anew when that is 5 s ago").flag("cproxy_server").eg(r#""tunnel.example.com:8080""#),
    place(Client, "proxy_port", Kind::REAL_PORT, Words("as the server says"), "dials this port for data connections, at the server's address").eg("8090"),
    place(Client, "proxy_addr", Text, Words("as the server says"), "dials this address and port (`\"192.0.2.1:8090\"`) for data connections").eg(r#""192.0.2.1:8090""#),
    place(Client, "source_addr", Text, Words("as the routes say"), "dials the server from this address of the machine").eg(r#""192.0.2.7""#),
    place(Client, "bind_interface", Text, Words("as the routes say"), "dials the server by this network interface alone, such as `wg0`; before Linux 5.7 for root only").eg(r#""wg0""#),
    place(Client, "frugal", Switch, Value("false"), "sends little while nobody visits: [below 1 MB a day](operating.md#a-line-that-is-paid-for-by-the-byte)").flag("frugal"),
    place(Both, "datagram_transport", Choice(&["auto", "tcp", "udp"]), Value("auto"), "how datagrams of UDP tunnels go between client and server: [by UDP](operating.md#datagrams-by-udp) where it gets through, or by TCP alone"),
    place(Client, "outbound_proxy", Secret, NONE, "goes [through a proxy](#through-a-proxy) to the server: `\"http://HOST:PORT\"`, `\"socks5://HOST:PORT\"`, `\"environment\"`").flag("outbound_proxy").eg(r#""http://proxy.example:3128""#),
    place(Client, "outbound_proxy_file", Path, NONE, "the same, in a file of its own, for a password").eg(r#""proxy.url""#),
    place(Client, "client_id", Text, Words("made from this machine and the tunnels"), "who this client is across restarts").at_start().flag("client_id").eg(r#""home""#),
    place(Client, "tunnels", Sections, Required, "`[[tunnels]]`: [the services](#tunnels); the flags can name one instead"),
    place(Both, "work_thread_nums", Number("threads", 1, MAX_THREADS as u64), Words("one per CPU, at most 4"), "event loops").at_start().flag("work_thread_nums").eg("2"),
    place(Both, "admin_socket", Text, Words("[found](operating.md#looking-at-a-running-program)"), "the socket for `status` and its like, 0600; a relative path starts at the file's directory; `\"off\"`: none").at_start().eg(r#""off""#),
    place(Both, "metrics_addr", Text, NONE, "HTTP for [metrics and a page](operating.md#metrics-and-a-page): a port for this machine alone (`9464`), or `\"IP:PORT\"`").at_start().eg("9464"),
    place(Both, "log_format", Choice(&["text", "json"]), Value("text"), "how log lines look; `text` is coloured on a terminal, unless `NO_COLOR` is set").at_start().flag("log_format"),
    place(Both, "log_level", Choice(&["error", "warn", "info", "debug", "trace"]), Value("info"), "the least important lines that are logged").flag("log_level"),
    place(Both, "access_log", SwitchOrText, Value("false"), "true: one line for each visit among the log lines; or the path of a file ([logging.md](logging.md))").at_start(),
    // Tokens.
    top(Both, Topic::Tokens, "token", Secret, NONE, "the secret itself").scoped().eg(r#""a long random text""#),
    top(Both, Topic::Tokens, "token_file", Path, NONE, "the file that holds the token; white space around it and a byte order mark do not count").scoped().flag("token_file").eg(r#""token""#),
    top(Server, Topic::Tokens, "token_files", List, NONE, "several such files, whose tokens are valid at once").scoped().eg(r#"["token.new", "token"]"#),
    Setting::new(Server, Home::Clients, Topic::Tokens, "name", Text, Required, "in `[[clients]]`: its holder's name, for logs and status").eg(r#""office""#),
    // What a token's holder may use.
    holder("allow_ports", List, Words("1024–65535"), "ports that clients may open: `[\"7000-7999\", 443]`").scoped().flag("allow_ports").eg(r#"["7000-7999", 443]"#),
    holder("allow_bind_addrs", List, NONE, "[addresses of the server](#addresses-of-the-server) at which clients may open ports besides: `[\"127.0.0.1\"]`").scoped().eg(r#"["127.0.0.1"]"#),
    holder("allow_hosts", List, Words("all"), "hosts that clients may have: `[\"app.example.com\", \"*.dev.example.com\"]`").scoped().eg(r#"["app.example.com", "*.dev.example.com"]"#),
    holder("max_tunnels", Kind::COUNT, Value("1024"), "tunnels; each port or host of one counts").scoped(),
    holder("max_connections", Kind::COUNT, Value("10000"), "visitors at once, served and waiting").scoped(),
    holder("max_waiting", Kind::COUNT, Value("4096"), "those of them that wait for a data connection").scoped(),
    holder("max_connections_per_source", Kind::COUNT, Words("a quarter of `max_connections`, but 64 at least"), "visitors at once from one address (IPv6: a /64)").scoped().eg("100"),
    holder("max_flows", Kind::COUNT, Value("4096"), "[flows](#udp) of one UDP tunnel at once; its own `max_connections` may say less").scoped(),
    holder("max_bandwidth", BANDWIDTH, Value("0"), "that each tunnel may move in each direction; 4096 at least, 0: no limit").scoped(),
    holder("max_sessions", Kind::COUNT, Value("4096"), "clients in all"),
    Setting::new(Server, Home::Clients, Topic::Use, "max_sessions", Kind::COUNT, Words("a quarter of all"), "in `[[clients]]`: clients with this token").eg("10"),
    holder("max_handshakes", Kind::COUNT, Value("1024"), "connections not yet authenticated; as many visitors who have not said which host they are for"),
    holder("max_handshakes_per_source", Kind::COUNT, Value("512"), "the same from one address"),
    top(Client, Topic::Use, "max_proxy_conns", Kind::COUNT, Value("16384"), "data connections that it opens at most"),
    // Who may visit.
    top(Server, Topic::Visitors, "allow_sources", List, EVERYBODY, "networks that may visit: `[\"192.0.2.0/24\", \"2001:db8::/32\"]`").scoped().eg(r#"["192.0.2.0/24", "2001:db8::/32"]"#),
    top(Server, Topic::Visitors, "deny_sources", List, NOBODY, "those that may not; it beats `allow_sources`").scoped().eg(r#"["192.0.2.66"]"#),
    top(Server, Topic::Visitors, "max_connection_rate", Kind::COUNT_OR_NONE, Value("0"), "visitors a minute from one address to one tunnel; 0: no limit").scoped(),
    // TLS.
    tls(Server, "tls", Switch, Words("false; true if another of these keys is set"), "encrypt the connections between client and server (TLS 1.3); without `tls_cert` the server makes a certificate for itself").at_start().flag("tls").eg("true"),
    tls(Client, "tls", Switch, Words("false; true if another of these keys is set"), "encrypt the connections between client and server (TLS 1.3); without `tls_pin` a server is trusted as this machine does").flag("tls").eg("true"),
    tls(Client, "tls_pin", List, NONE, "trust the server with this key (`sha256:…`, as it prints it), and only that; a list, while the key is changed").flag("tls_pin").eg(r#""sha256:0000000000000000000000000000000000000000000000000000000000000000""#),
    tls(Client, "tls_ca", Path, Words("what this machine trusts"), "trust servers whose certificate one of these authorities (PEM) signed").eg(r#""ca.pem""#),
    tls(Client, "tls_server_name", Text, Words("the host in `server`"), "the name in the server's certificate").eg(r#""tunnel.example.com""#),
    tls(Client, "tls_relay", Switch, Value("false"), "TLS ends at a relay in front of the server: its proofs need not cover the channel"),
    tls(Both, "tls_cert", Path, Words("none; the server makes its own"), "one's own certificate (PEM)").eg(r#""cert.pem""#),
    tls(Both, "tls_key", Path, Words("the same"), "its key (PEM)").eg(r#""key.pem""#),
    tls(Server, "tls_next_key", Path, NONE, "the key (PEM) that takes over some day: the log says its pin at start").eg(r#""next-key.pem""#),
    tls(Server, "tls_client_ca", Path, NONE, "clients need a certificate that one of these authorities (PEM) signed").eg(r#""clients-ca.pem""#),
    // Times.
    time(Both, "heartbeat_interval", "5", "silence on the ctl_conn before a ping"),
    time(Both, "heartbeat_timeout", "15", "silence on the ctl_conn before its end"),
    time(Both, "session_grace", "30", "how long the public ports of a client stay open while its control connection is lost"),
    time(Both, "transfer_grace", "300", "how long its transfers go on then (at least `session_grace`); the kernel's time limits follow"),
    time(Both, "handshake_timeout", "10", "for a connection that has not said who it is"),
    time(Server, "route_timeout", "10", "for a visitor that has not said which [host](#hosts) it is for"),
    time(Both, "dial_timeout", "5", "reaching LocalServer or server; the server waits twice as long for an answer"),
    time(Both, "half_open_timeout", "3600", "no progress on a transfer with one direction over"),
    time(Both, "reset_linger", "5", "no progress of what must be sent to a connection before it is reset"),
    top(Both, Topic::Times, "drain_timeout", Seconds(true), Value("8"), "how long transfers may go on after SIGTERM or SIGINT").flag("drain_timeout"),
    time(Server, "wait_timeout", "10", "a visitor's wait for a data connection"),
    top(Server, Topic::Times, "idle_conns", Kind::COUNT_OR_NONE, Value("4"), "no time: data connections kept ready for each client"),
    time(Server, "idle_conn_lifetime", "60", "how long surplus ones stay"),
    time(Server, "idle_ping_interval", "20", "silence of an idle data connection before it is asked whether a NAT forgot it; more often where that happens"),
    time(Server, "idle_ping_timeout", "5", "for its answer"),
    time(Server, "udp_idle_timeout", "180", "silence of a [flow](#udp) in which both sides have spoken twice; others: 30, if that is less"),
    top(Server, Topic::Times, "visitor_keepalive", Seconds(true), Value("30"), "silence on a visitor's connection before it is probed, which wakes a phone; 0: never"),
    time(Client, "reconnect_min", "0.25", "the first pause between attempts; they double, with jitter"),
    time(Client, "reconnect_max", "15", "the longest of them"),
    // The [[tunnels]].
    tunnel("name", Text, Required, "for the logs; 1 to 64 bytes, different for each tunnel").eg(r#""web""#),
    tunnel("local", Text, Required, "the service, `HOST:PORT`, or [`unix:PATH`](#unix-sockets); a name is looked up again and tried at all its addresses").eg(r#""127.0.0.1:8000""#),
    tunnel("local_sources", List, Words("the system's choice"), "addresses of this machine from which `local` is dialled; the next one when the ports of one are used up").eg(r#"["127.0.0.2", "127.0.0.3"]"#),
    tunnel("public_port", Kind::PORT, Value("0"), "the port wanted on the server, 0: any; or [a range](#ranges-of-ports)"),
    tunnel("bind_addr", Text, Words("the server's"), "[the server's address](#addresses-of-the-server) where the port is wanted").eg(r#""127.0.0.1""#),
    tunnel("hosts", List, NONE, "instead of a port, [names](#hosts): many sites behind one port").eg(r#"["app.example.com"]"#),
    tunnel("protocol", Choice(&["tcp", "udp", "http", "https"]), Words("tcp; with `hosts` http"), "what visitors speak; for [`udp`](#udp) the port is one of UDP").eg(r#""tcp""#),
    tunnel("allow_sources", List, EVERYBODY, "networks that may visit; with the next key 16 at most").eg(r#"["192.0.2.0/24"]"#),
    tunnel("deny_sources", List, NOBODY, "networks that may not, which wins").eg(r#"["192.0.2.66"]"#),
    tunnel("max_connections", Kind::COUNT, NO_LIMIT, "visitors at once; more are reset").eg("100"),
    tunnel("max_connection_rate", Kind::COUNT, NO_LIMIT, "visitors a minute from one address (IPv6: a /64); so many may come at once").eg("60"),
    tunnel("max_bandwidth", BANDWIDTH, NO_LIMIT, "in each direction, for all visitors together; 4096 at least").eg("1000000"),
    tunnel("proxy_protocol", Choice(&["v1", "v2"]), NONE, "[tells the service the visitor's address](#telling-the-service-who-visits)").eg(r#""v2""#),
    tunnel("proxy_protocol_tlvs", Switch, Value("false"), "with `hosts` and `\"v2\"`: [also tells](#telling-the-service-who-visits) the host that the visitor's TLS has named, and what was agreed on there"),
    tunnel("proxy_protocol_first", Switch, Value("false"), "with `\"udp\"` and `\"v2\"`: only in front of the first datagram of a [flow](#udp)"),
    tunnel("udp_follow", Switch, Value("false"), "the service may [answer from any of its ports](#udp)"),
    service("alpn", List, Words("`[\"http/1.1\"]`"), "what the service speaks behind TLS that ends at the server; `\"h2\"` is HTTP/2 without TLS (\"h2c\")").eg(r#"["h2", "http/1.1"]"#),
    service("redirect_to_https", Switch, Value("false"), "visitors over plain HTTP are sent to `https://` (308)"),
    service("forwarded_headers", Switch, Value("false"), "the service is told by `X-Forwarded-For`, `-Proto` and `-Host` who comes, and how"),
    service("one_request_per_connection", Switch, Value("false"), "must be true for `forwarded_headers`: the service is told to close behind its answer"),
    // The [[certificates]].
    certificate("cert", Path, Required, "the whole chain (PEM)").eg(r#""fullchain.pem""#),
    certificate("key", Path, Required, "its key (PEM), without a password").eg(r#""privkey.pem""#),
    certificate("default", Switch, Value("false"), "this one is shown to visitors for whose name there is none, too"),
    // Flags.
    flag(Both, "config", Path, NONE, "read settings from this TOML file"),
    flag(Client, "local_server", Text, NONE, "the service to expose: `HOST:PORT`, a port of this machine, or `unix:PATH`; replaces the tunnels of the configuration file"),
    flag(Client, "public_port", Kind::PORT, Value("0"), "public port wanted for that service; 0 lets the server pick"),
    flag(Client, "host", Text, NONE, "instead of a port of its own, have the visitors of this host, which leads to the server: `app.example.com`, `*.example.com`"),
    flag(Client, "protocol", Choice(&["tcp", "udp", "http", "https"]), Words("tcp, with --host http"), "what the visitors speak: tcp or udp; of --host http in the clear, or https, for which the service has the certificate"),
    flag(Client, "tunnel_name", Text, Value("default"), "the service's name, for logs"),
];
