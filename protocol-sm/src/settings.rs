//! What a server and a client can be told: the numbers and names that the machines work with.
//! The defaults here are the programs' defaults (PROTOCOL.md, "Timers and limits").

use crate::bandwidth::Rate;
use crate::budget::Budget;
use crate::datagrams::MAX_FLOWS;
use crate::ledger::Holder;
use crate::outbound::{OutboundProxy, Target};
use crate::ports::PortSet;
use crate::proxy_protocol::ProxyProtocol;
use crate::routes::{HostSet, Service, Site};
use crate::sources::{Network, SourceLists};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// A shared secret. Never printed: its `Debug` shows only the length. Its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(Vec<u8>);

impl Token {
    /// Takes the secret's bytes as they are; the caller trims a trailing newline, and lets no 0 in: with zeros behind it
    /// a token of up to 64 bytes is the same key of the HMAC.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The secret, for keying the HMAC.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

/// How the datagrams of flows go between client and server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DatagramTransport {
    /// By UDP where it gets through, otherwise by conns.
    #[default]
    Auto,
    /// By conns alone.
    Tcp,
    /// As [`DatagramTransport::Auto`], also where each byte is paid for; and it is a warning where UDP does not get through.
    Udp,
}

impl DatagramTransport {
    /// Whether it is a warning where UDP does not get through.
    #[must_use]
    pub fn insists(self) -> bool {
        self == Self::Udp
    }
}

/// Deadlines and intervals. Both sides have one; each field says which side uses it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Timings {
    /// Both: a ctl_conn with nothing heard for this long is pinged (default 5 s).
    pub heartbeat_interval: Duration,
    /// Both: a ctl_conn with nothing heard for this long is given up (default 15 s).
    pub heartbeat_timeout: Duration,
    /// Both: a connection must finish its handshake within this (default 10 s).
    pub handshake_timeout: Duration,
    /// Server: a session without a ctl_conn keeps its public ports this long (default 30 s).
    /// Client: it hurries to be back within this.
    pub session_grace: Duration,
    /// Server: a visitor at a port of hosts must have named one within this (default 10 s).
    pub route_timeout: Duration,
    /// Both: a session without a ctl_conn may be resumed, and its transfers go on, for this long (default 5 min), but
    /// never shorter than `session_grace`.
    pub transfer_grace: Duration,
    /// Server: a visitor waits at most this long for a proxy_conn (default 10 s).
    pub wait_timeout: Duration,
    /// Client: dialling the LocalServer or the server takes at most this (default 5 s). The server
    /// allows twice this, with a Start that nobody answers, before it gives the visitor up.
    pub dial_timeout: Duration,
    /// Server: a `Start` that shows no sign of life for this long is asked about (default 1 s).
    pub start_patience: Duration,
    /// Client: `Started` may be kept back this long for the LocalServer's first bytes, to go out with them
    /// (default 20 ms; never longer than `dial_timeout`).
    pub answer_delay: Duration,
    /// Server: an idle proxy_conn is pinged after this long (default 20 s).
    pub idle_ping_interval: Duration,
    /// Server: an idle proxy_conn that has not answered a ping within this is dropped (default 5 s).
    pub idle_ping_timeout: Duration,
    /// Server: an idle proxy_conn beyond `idle_conns` is closed after this long unused (default 60 s).
    pub idle_conn_lifetime: Duration,
    /// Both: a transfer with one direction shut may make no progress on the other for this long
    /// (default 1 h).
    pub half_open_timeout: Duration,
    /// How long an outer socket that is to be reset may make no progress with what it has been given.
    pub reset_linger: Duration,
    /// Server: a visitor's connection that is silent for this long is probed (default 30 s); zero: never.
    pub visitor_keepalive: Duration,
    /// Both: how long transfers may go on after a request to stop (default 8 s: container runtimes kill after 10 s).
    pub drain_timeout: Duration,
    /// Server: a flow of a UDP tunnel in which both sides have spoken twice may be silent for this long (default 180 s);
    /// others for 30 s, if that is less.
    pub udp_idle_timeout: Duration,
    /// Client: first pause before a reconnect; doubles up to `reconnect_max`, with jitter (default 250 ms).
    pub reconnect_min: Duration,
    /// Client: longest pause before a reconnect, and the pause before a LocalServer's name that did not resolve
    /// is looked up again (default 15 s).
    pub reconnect_max: Duration,
}

/// Beside the times that the protocol waits, what a reconnect and the kernel's own pauses take.
const SLACK: Duration = Duration::from_secs(10);

impl Timings {
    /// The same where little is to be sent while nothing happens, because somebody pays for each byte: with the
    /// defaults, each side asks for a sign of life after 50 s, and gives up after 110 s without one.
    // PROTOCOL.md: P-LIVE-3.
    #[must_use]
    pub fn frugal(&self) -> Self {
        let heartbeat_interval = self.heartbeat_interval.saturating_mul(10);
        Self {
            heartbeat_interval,
            // Time for a second ping, if the first one is lost.
            heartbeat_timeout: self.heartbeat_timeout.max(heartbeat_interval.saturating_mul(11) / 5),
            idle_ping_interval: self.idle_ping_interval.saturating_mul(5) / 2,
            ..self.clone()
        }
    }

    /// Those of a session, which is frugal or not.
    #[must_use]
    pub fn of(&self, frugal: bool) -> Self {
        if frugal { self.frugal() } else { self.clone() }
    }

    /// How long nothing may be heard on a connection between client and server before its system asks: a little longer
    /// than until the programs do.
    #[must_use]
    pub fn probe_after(&self) -> Duration {
        self.heartbeat_interval.max(self.idle_ping_interval).saturating_add(SLACK)
    }

    /// How long a session without a ctl_conn is kept for a resume.
    // PROTOCOL.md: P-RES-6.
    #[must_use]
    pub fn kept(&self) -> Duration {
        self.transfer_grace.max(self.session_grace)
    }

    /// How long the kernel lets a proxy_conn hear nothing from its peer, although it asks, before it fails: as long as
    /// the session outlives a cut of the whole line, so that no transfer is lost which the protocol would have kept.
    // PROTOCOL.md: P-XFER-10.
    #[must_use]
    pub fn conn_silence(&self) -> Duration {
        self.heartbeat_timeout.saturating_add(self.kept()).saturating_add(SLACK)
    }

    /// How long nothing of what was given to a proxy_conn may be acknowledged while its ctl_conn is heard. Half of it is
    /// longer than a peer takes to give up a ctl_conn of which one direction is cut.
    // PROTOCOL.md: P-XFER-12.
    #[must_use]
    pub fn path_patience(&self) -> Duration {
        self.heartbeat_timeout.saturating_mul(2).saturating_add(SLACK)
    }
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(5),
            heartbeat_timeout: Duration::from_secs(15),
            handshake_timeout: Duration::from_secs(10),
            session_grace: Duration::from_secs(30),
            route_timeout: Duration::from_secs(10),
            transfer_grace: Duration::from_secs(300),
            wait_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(5),
            start_patience: Duration::from_secs(1),
            answer_delay: Duration::from_millis(20),
            idle_ping_interval: Duration::from_secs(20),
            idle_ping_timeout: Duration::from_secs(5),
            idle_conn_lifetime: Duration::from_secs(60),
            half_open_timeout: Duration::from_secs(3600),
            reset_linger: Duration::from_secs(5),
            visitor_keepalive: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(8),
            udp_idle_timeout: Duration::from_secs(180),
            reconnect_min: Duration::from_millis(250),
            reconnect_max: Duration::from_secs(15),
        }
    }
}

/// What the holder of one token may use, over all its sessions together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Public ports it may ask for (default 1024 to 65535); port 0 ("server picks") is picked from these too.
    pub allow_ports: PortSet,
    /// The server's addresses at which it may ask for public ports (default: none but the server's own choice).
    pub allow_bind_addrs: Vec<Network>,
    /// Hosts it may ask for (default: all).
    pub allow_hosts: HostSet,
    /// Sessions at once (default 4096, as many as a server has; where there are several credentials, a quarter).
    pub max_sessions: u32,
    /// Tunnels at once (default 1024).
    pub max_tunnels: u32,
    /// Transfers at once (default 10 000); more visitors are reset.
    pub max_connections: u32,
    /// Visitors waiting for a proxy_conn at once (default 4096); more are reset.
    pub max_waiting: u32,
    /// Visitors of one source address at once, waiting and served (default a quarter of `max_connections`, but 64 at
    /// least); more are reset.
    pub max_connections_per_source: Option<u32>,
    /// Flows of one UDP tunnel at once (default 4096).
    pub max_flows: u32,
    /// Who may visit its tunnels (default: everybody).
    pub sources: SourceLists,
    /// Visitors per minute that each source address may send to one of its tunnels; 0: no limit (default).
    pub max_connection_rate: u32,
    /// What each of its tunnels may move in each direction (default: no limit).
    pub max_bandwidth: Rate,
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            allow_ports: PortSet::unprivileged(),
            allow_bind_addrs: Vec::new(),
            allow_hosts: HostSet::all(),
            max_sessions: 4096,
            max_tunnels: 1024,
            max_connections: 10_000,
            max_waiting: 4096,
            max_connections_per_source: None,
            max_flows: MAX_FLOWS,
            sources: SourceLists::default(),
            max_connection_rate: 0,
            max_bandwidth: None,
        }
    }
}

impl Scope {
    /// Visitors of one source address at once.
    #[must_use]
    pub fn per_source(&self) -> u32 {
        self.max_connections_per_source.unwrap_or((self.max_connections / 4).max(64))
    }
}

/// What a client asks the server to enforce for one of its tunnels, besides what the server does by itself: the
/// narrower of the two counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TunnelLimits {
    /// Who may visit it; at most [`SourceLists::MAX_SENT`] networks.
    pub sources: SourceLists,
    /// Visitors served at once; 0: no limit of its own.
    pub max_connections: u32,
    /// Visitors per minute from each source address; 0: no limit of its own.
    pub max_connection_rate: u32,
}

/// Whoever knows one of these tokens, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Credential {
    /// For logs: the `[[clients]]` name, or `default` for the server's own token.
    pub name: String,
    /// The secrets of which this credential's clients must prove to know one: more than one while they are changed.
    pub tokens: Vec<Token>,
    /// What they may do.
    pub scope: Scope,
}

/// What the ports of hosts must know of a server's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Routing {
    /// How long a visitor may take to name a host.
    pub timeout: Duration,
    /// How many visitors there may be who have named none, and how many of one source address.
    pub most: [u32; 2],
    /// The hosts that are somebody's by name, whether he is there or not.
    pub known: BTreeSet<String>,
}

/// The server's settings.
// PROTOCOL.md: P-LIM-1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerSettings {
    /// Accepted credentials. Without any token clients are taken from loopback addresses only. In a running server a
    /// credential keeps its place, and one that was taken away stays there without tokens.
    pub credentials: Vec<Credential>,
    /// Clients of this machine are taken without a token although there are some (default: they are not).
    pub open_to_loopback: bool,
    /// What clients may do that have proved no token.
    pub open_scope: Scope,
    /// Idle proxy_conns kept ready per client (default 4; spread over the event loops).
    pub idle_conns: u32,
    /// Connections that have not finished their handshake, at once; the oldest of the source address that has most
    /// makes room (default 1024).
    pub max_handshakes: u32,
    /// Connections of one source address that have not finished their handshake, at once; its oldest makes room
    /// (default 512).
    pub max_handshakes_per_source: u32,
    /// Sessions at once, of all clients (default 4096).
    pub max_sessions: u32,
    /// What the process's descriptors allow, whatever is said above (default: no bound).
    pub budget: Budget,
    /// The proxy port that clients are told, where it is mapped to another number on the way (default: the real one).
    pub advertise_proxy_port: Option<u16>,
    /// Relays in front of the server: connections from there begin with a PROXY header that says who is behind them
    /// (default: none).
    pub trusted_proxies: Vec<Network>,
    /// Clients that speak in the clear are refused (default: they are taken).
    pub tls_required: bool,
    /// How datagrams go to clients.
    pub datagram_transport: DatagramTransport,
    /// Each visit leaves a record at its end (default: none does).
    pub access_log: bool,
    /// Deadlines.
    pub timings: Timings,
}

impl ServerSettings {
    /// Whether there are no tokens, and clients are taken from loopback addresses only.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.credentials.iter().all(|credential| credential.tokens.is_empty())
    }

    /// Whether clients of this machine are taken without a token.
    #[must_use]
    pub fn takes_without_token(&self) -> bool {
        self.open_to_loopback || self.is_open()
    }

    /// What a holder may do.
    #[must_use]
    pub fn scope_of(&self, holder: Holder) -> &Scope {
        holder.map_or(&self.open_scope, |index| &self.credentials[index].scope)
    }

    /// What the ports of hosts must know.
    #[must_use]
    pub fn routing(&self) -> Routing {
        let share = self.budget.handshakes;
        let scopes = self.credentials.iter().map(|credential| &credential.scope).chain([&self.open_scope]);
        Routing {
            timeout: self.timings.route_timeout,
            most: [self.max_handshakes.min(share), self.max_handshakes_per_source.min((share / 2).max(1))],
            known: scopes.flat_map(|scope| scope.allow_hosts.exact()).map(|host| String::from(host.key())).collect(),
        }
    }

    /// Whether whoever has proved `token` as `holder` is still taken.
    // PROTOCOL.md: P-AUTH-16.
    #[must_use]
    pub fn takes(&self, holder: Holder, token: Option<&Token>) -> bool {
        match (holder, token) {
            (Some(index), Some(token)) => self.credentials[index].tokens.contains(token),
            (None, None) => self.takes_without_token(),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// The name of a credential, for logs; `None` where there are none.
    #[must_use]
    pub fn name_of(&self, holder: Holder) -> Option<String> {
        holder.and_then(|index| self.credentials.get(index)).map(|credential| credential.name.clone())
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            credentials: Vec::new(),
            open_to_loopback: false,
            open_scope: Scope::default(),
            idle_conns: 4,
            max_handshakes: 1024,
            max_handshakes_per_source: 512,
            max_sessions: 4096,
            budget: Budget::default(),
            advertise_proxy_port: None,
            trusted_proxies: Vec::new(),
            tls_required: false,
            datagram_transport: DatagramTransport::default(),
            access_log: false,
            timings: Timings::default(),
        }
    }
}

/// One service to expose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelSpec {
    /// Name for logs, at most 64 bytes.
    pub name: String,
    /// Public port wanted; 0 lets the server pick, and where there is a `site`.
    pub public_port: u16,
    /// The server's address where it is wanted (default: the server's choice).
    pub bind_addr: Option<IpAddr>,
    /// The host whose visitors it wants, instead of those of a port of its own.
    pub site: Option<Site>,
    /// `HOST:PORT` of its LocalServer, or `unix:PATH`.
    pub local: String,
    /// The client's own addresses from which it is dialled, one after the other as their ports are used up; none: the
    /// system chooses.
    pub local_sources: Vec<IpAddr>,
    /// What the server is asked to enforce for it.
    pub limits: TunnelLimits,
    /// How its visitors are served.
    pub serving: Serving,
}

impl TunnelSpec {
    /// Whether its visitors come over UDP.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        self.serving.datagrams.is_some()
    }
}

/// How a client serves the visitors of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Serving {
    /// It is a UDP tunnel (default: a TCP one).
    pub datagrams: Option<Datagrams>,
    /// What it lets the tunnel move in each direction (default: no limit).
    pub max_bandwidth: Rate,
    /// The header in front of a visitor's bytes that tells where it comes from (default: none).
    pub proxy_protocol: Option<ProxyProtocol>,
    /// It also tells what is known of the visitor's TLS; only of version 2, and not over UDP (default: it does not).
    pub proxy_protocol_tlvs: bool,
    /// It stands in front of the first datagram of a flow alone (default: of each).
    pub proxy_protocol_first: bool,
    /// What the server is told of the service of a host.
    pub service: Service,
}

/// How a client speaks to a LocalServer over UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Datagrams {
    /// Each flow's socket is connected to it: only what comes from that address and port is heard.
    #[default]
    Connected,
    /// It may answer from any port of its address, and is spoken to where it was heard last.
    Follow,
}

/// Where a connection begins; by itself the system chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin {
    /// This address of the machine.
    pub address: Option<IpAddr>,
    /// This network interface, and no other, whatever the routes say.
    pub interface: Option<String>,
}

/// Where a client's proxy_conns go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProxyAt {
    /// To the port that the server tells, at the address that the ctl_conn is connected to.
    #[default]
    AsTold,
    /// To this port instead.
    Port(u16),
    /// Elsewhere.
    Address(SocketAddr),
}

impl ProxyAt {
    /// The address to dial, where the ctl_conn is connected to `server`, which tells the port `told`.
    // PROTOCOL.md: P-CONN-1.
    #[must_use]
    pub fn address(self, mut server: SocketAddr, told: u16) -> SocketAddr {
        match self {
            Self::AsTold => server.set_port(told),
            Self::Port(port) => server.set_port(port),
            Self::Address(address) => server = address,
        }
        server
    }

    /// The same for a proxy that is asked for it, where the server's ctl port is at `server`.
    #[must_use]
    pub fn target(self, server: &Target, told: u16) -> Target {
        match self {
            Self::AsTold => server.at_port(told),
            Self::Port(port) => server.at_port(port),
            Self::Address(address) => address.into(),
        }
    }
}

/// The client's settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientSettings {
    /// Who this client is across restarts: a client with the same identity replaces the session it
    /// left behind (PROTOCOL.md, "Replacement"). 16 bytes, usually a hash or random.
    pub client_id: [u8; 16],
    /// The shared secret, if the server wants one.
    pub token: Option<Token>,
    /// Services to expose; at least one.
    pub tunnels: Vec<TunnelSpec>,
    /// proxy_conns open at once (default 16 384): protects the client from a server that asks too much.
    pub max_proxy_conns: u32,
    /// Where proxy_conns go.
    pub proxy: ProxyAt,
    /// Where connections to the server begin.
    pub uplink: Origin,
    /// The proxy that they go through, if one is in between.
    pub outbound: Option<OutboundProxy>,
    /// TLS ends at a relay in front of the server: the proofs do not cover its channel.
    pub tls_relay: bool,
    /// Little is to be sent while nobody visits; `timings` are [`Timings::frugal`] then.
    pub frugal: bool,
    /// How datagrams go to the server.
    pub datagram_transport: DatagramTransport,
    /// It only asks what it could have: none of its tunnels is ever open. Its `client_id` is to be nobody else's.
    pub examines: bool,
    /// Each visit leaves a record at its end.
    pub access_log: bool,
    /// Deadlines.
    pub timings: Timings,
}

impl ClientSettings {
    /// Those of a client that is told nothing else.
    #[must_use]
    pub fn new(client_id: [u8; 16], tunnels: Vec<TunnelSpec>) -> Self {
        Self {
            client_id,
            token: None,
            tunnels,
            max_proxy_conns: 16_384,
            proxy: ProxyAt::AsTold,
            uplink: Origin::default(),
            outbound: None,
            tls_relay: false,
            frugal: false,
            datagram_transport: DatagramTransport::default(),
            examines: false,
            access_log: false,
            timings: Timings::default(),
        }
    }

    /// Whether a client with these tunnels wants a path. It costs bytes while nobody visits, a proxy in between carries none,
    /// and what a tunnel may move is measured on its conns.
    // PROTOCOL.md: P-PATH-1.
    #[must_use]
    pub fn wants_path<'t>(&self, tunnels: impl IntoIterator<Item = &'t TunnelSpec>) -> bool {
        let is_limited = |spec: &TunnelSpec| spec.is_udp() && spec.serving.max_bandwidth.is_some();
        self.outbound.is_none()
            && !tunnels.into_iter().any(is_limited)
            && match self.datagram_transport {
                DatagramTransport::Auto => !self.frugal,
                DatagramTransport::Tcp => false,
                DatagramTransport::Udp => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P-LIVE-3: with the defaults, a peer that is gone is found within two minutes, after a second ping.
    #[test]
    fn a_frugal_session_is_silent_for_longer_and_otherwise_as_any() {
        let usual = Timings::default();
        let frugal = usual.of(true);
        let secs =
            [frugal.heartbeat_interval, frugal.heartbeat_timeout, frugal.idle_ping_interval].map(|t| t.as_secs());
        assert_eq!(secs, [50, 110, 50]);
        assert!(frugal.probe_after() > frugal.heartbeat_interval.max(frugal.idle_ping_interval));
        let Timings { heartbeat_interval, heartbeat_timeout, idle_ping_interval, .. } = usual.of(false);
        assert_eq!(Timings { heartbeat_interval, heartbeat_timeout, idle_ping_interval, ..frugal.clone() }, usual);
        // Who waits longer by himself does.
        let patient = Timings { heartbeat_timeout: Duration::from_secs(600), ..usual };
        assert_eq!(patient.frugal().heartbeat_timeout.as_secs(), 600);
    }
}
