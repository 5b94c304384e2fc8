//! What a driver reports about its work, in values: a runtime logs, counts or draws them. Nothing here changes what a
//! driver does.

use crate::codes::{
    AbortCode, CloseCode, HandshakeRefusal, LeaveCode, RefuseCode, TlsFailure, TunnelRefusal, Violation,
};
use crate::control::server::Asked;
use crate::datagrams::PathState;
use crate::ids::{ClientId, ConnId, ControlKey, Epoch, TunnelId};
use crate::outbound::{Destination, PassageFailure};
use crate::reload::Changes;
use crate::routes::{Refusal, Web};
use crate::sys_error::SysError;
use crate::visit::Visit;
use crate::wire::{ConnKind, Foreign};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

/// What a runtime may want to log, count or draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A transfer began.
    Started {
        /// The session.
        control: ControlKey,
        /// The conn.
        conn: ConnId,
        /// The number of the transfer on its conn.
        epoch: Epoch,
        /// The tunnel.
        tunnel: TunnelId,
        /// The visitor's address.
        visitor: SocketAddr,
    },
    /// A LocalServer could not be dialled, as no local port is left to connect to it from.
    NoLocalPort {
        /// The LocalServer's address.
        to: SocketAddr,
    },
    /// A LocalServer's Unix socket could not be connected to.
    UnixUnreachable {
        /// Where it is.
        path: Arc<str>,
        /// Why; [`SysError::WouldBlock`]: as many wait there already as may, and visitors wait for that to end.
        error: SysError,
    },
    /// A LocalServer could not be dialled from an address that this machine does not have.
    NoLocalSource {
        /// The address.
        source: IpAddr,
    },
    /// A transfer ended well, in both directions and on both sides.
    Finished {
        /// The conn.
        conn: ConnId,
        /// The number of the transfer on its conn.
        epoch: Epoch,
        /// Bytes into the proxy_conn.
        egress: u64,
        /// Bytes out of it.
        ingress: u64,
    },
    /// A transfer was cut short.
    Aborted {
        /// The conn.
        conn: ConnId,
        /// The number of the transfer on its conn.
        epoch: Epoch,
        /// The reason.
        code: AbortCode,
        /// Whether the peer said so first.
        by_peer: bool,
    },
    /// The client never saw a `Start`: its conn is closed, and the visitor gets another one.
    TakenBack {
        /// The conn.
        conn: ConnId,
        /// The number of the transfer on its conn.
        epoch: Epoch,
        /// The visitor's address.
        visitor: SocketAddr,
        /// Whether the conn was lost; otherwise nothing of the `Start` had arrived.
        lost: bool,
    },
    /// Idle proxy_conns of a client die before they are pinged: they are pinged more often from now on.
    IdleConnsDie {
        /// The conn that shows it.
        conn: ConnId,
        /// How long it was silent.
        silence: Duration,
        /// How long one may be silent from now on before it is pinged.
        interval: Duration,
    },
    /// A conn is given up in mid-transfer: nothing of what it was given is acknowledged, although the ctl_conn is well.
    PathDead {
        /// The conn.
        conn: ConnId,
        /// For how long that is known.
        silence: Duration,
    },
    /// The client could not reach its LocalServer.
    Refused {
        /// The conn.
        conn: ConnId,
        /// The number of the transfer on its conn.
        epoch: Epoch,
        /// The reason.
        code: RefuseCode,
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// A visitor was reset without a transfer.
    VisitorDropped {
        /// The visitor's address.
        visitor: SocketAddr,
        /// The tunnel.
        tunnel: TunnelId,
        /// The reason.
        why: Dropped,
    },
    /// A visitor at a port of hosts was refused before it was anybody's.
    NotRouted {
        /// The visitor's address.
        visitor: SocketAddr,
        /// The port.
        web: Web,
        /// The host that it has named, if it has.
        host: Option<String>,
        /// The reason.
        why: Refusal,
    },
    /// A visit is over: for the access log, where it is on.
    Visit(Visit),
    /// A proxy_conn became idle for the first time.
    ConnUp {
        /// The conn.
        conn: ConnId,
    },
    /// An idle proxy_conn is gone.
    ConnDown {
        /// The conn.
        conn: ConnId,
    },
    /// A proxy_conn could not be opened.
    ConnFailed {
        /// The conn.
        conn: ConnId,
        /// Where it was to go.
        to: Destination,
        /// The reason.
        why: ConnFailure,
    },
    /// A message about something that is gone was ignored.
    Stale {
        /// The conn.
        conn: ConnId,
    },
    /// A client's session began, or goes on over a new ctl_conn.
    SessionUp {
        /// The client.
        client: ClientId,
        /// The name of the credential that the client proved; none where the server has no tokens, or on a client.
        credential: Option<String>,
        /// The address that the connection comes from; on a client, the one that it goes to.
        from: SocketAddr,
        /// On a client: the proxy that has that address, if it is not the server's.
        through: Option<String>,
        /// Whether it goes on.
        resumed: bool,
    },
    /// A session lost its ctl_conn and waits for a resume.
    SessionDetached {
        /// The client.
        client: ClientId,
        /// The name of the credential that the client proved; none where the server has no tokens, or on a client.
        credential: Option<String>,
    },
    /// A session ended.
    SessionOver {
        /// The client.
        client: ClientId,
        /// The name of the credential that the client proved; none where the server has no tokens, or on a client.
        credential: Option<String>,
        /// The reason.
        code: CloseCode,
        /// What it had waited for, if its client was lost and nobody resumed it.
        expiry: Option<Expiry>,
    },
    /// A session without a ctl_conn gave its public ports up; its transfers go on.
    SessionAsleep {
        /// The client.
        client: ClientId,
        /// The name of the credential that the client proved; none where the server has no tokens.
        credential: Option<String>,
        /// Nobody resumed it within this time. None: another client of the same holder asks for its port.
        waited: Option<Duration>,
    },
    /// On the client: its session is gone, and with it the transfers.
    SessionLost {
        /// The server could not be reached for this long. None: it was, and did not know the session any more.
        waited: Option<Duration>,
    },
    /// On the client: the server takes data connections at a port that was not expected.
    ProxyPort {
        /// The port.
        port: u16,
    },
    /// On the client: no new visitors come in its session, whose transfers go on; another session begins beside it.
    Left {
        /// The reason.
        code: LeaveCode,
    },
    /// A path works, or works again: datagrams go by UDP.
    PathUp {
        /// The client; on a client, none.
        client: Option<ClientId>,
        /// Where the other side was when it proved itself.
        peer: SocketAddr,
        /// Bytes that it takes at once, with the two numbers in front of each datagram.
        size: usize,
    },
    /// A path that is up takes another size.
    PathSize {
        /// The client; on a client, none.
        client: Option<ClientId>,
        /// Bytes.
        size: usize,
    },
    /// A path does not work any more: datagrams go by conns.
    PathDown {
        /// The client; on a client, none.
        client: Option<ClientId>,
        /// The reason.
        why: PathEnd,
        /// Whoever runs this program insists on one.
        wanted: bool,
    },
    /// On the client: there is no path to the server; it tries again.
    PathFailed {
        /// The reason.
        why: PathEnd,
        /// Its user insists on one.
        wanted: bool,
    },
    /// On the server: paths cannot come in where the proxy port is.
    PathPort {
        /// Where.
        at: SocketAddr,
        /// Why.
        error: SysError,
        /// Whoever runs the server insists on them.
        wanted: bool,
    },
    /// On the client: another process of it has its tunnels now. It stops when its transfers have ended.
    TakenOver,
    /// On the server: another process of this client has its tunnels now. What is left of the session is its transfers.
    SessionTakenOver {
        /// The client.
        client: ClientId,
        /// The name of the credential, if it has one.
        credential: Option<String>,
    },
    /// A tunnel was opened at this address, or refused.
    Tunnel {
        /// The client.
        client: ClientId,
        /// The name of the credential that the client proved; none where the server has no tokens, or on a client.
        credential: Option<String>,
        /// The tunnel.
        tunnel: TunnelId,
        /// What its client has asked for.
        asked: Asked,
        /// The public address, or why there is none.
        outcome: Result<SocketAddr, TunnelRefusal>,
    },
    /// On the client: a tunnel is reachable at this address.
    Forwarding {
        /// The tunnel.
        tunnel: TunnelId,
        /// The public address.
        public: SocketAddr,
    },
    /// On the client: a tunnel was not opened; the client will try again.
    NotForwarding {
        /// The tunnel.
        tunnel: TunnelId,
        /// The reason.
        code: TunnelRefusal,
        /// The pause.
        pause: Duration,
    },
    /// A connection was turned away in its handshake.
    HandshakeRefused {
        /// The address that the connection comes from.
        from: SocketAddr,
        /// The name of the credential that it had proved by then, if it had.
        credential: Option<String>,
        /// The reason.
        refusal: HandshakeRefusal,
    },
    /// A connection was closed, without an answer, before its handshake was complete.
    HandshakeDropped {
        /// The address that the connection comes from.
        from: SocketAddr,
        /// The reason.
        why: HandshakeEnd,
    },
    /// Something came to the ctl or the proxy port that is not ours, and of which a person should hear.
    Foreign {
        /// The address that the connection comes from.
        from: SocketAddr,
        /// Which port.
        port: ConnKind,
        /// What.
        what: Foreign,
    },
    /// Accepting rests: the system has no room for another connection.
    CannotAccept {
        /// Why, mostly because there are no descriptors left.
        error: SysError,
    },
    /// The client could not reach the server, or lost it, and tries again after a pause.
    Reconnecting {
        /// The server, as configured.
        server: String,
        /// The proxy in between, if there is one.
        through: Option<String>,
        /// What happened.
        why: Disconnect,
        /// The pause.
        pause: Duration,
    },
    /// What the user has said anew was carried out.
    Reloaded {
        /// What was changed. `None`: nothing, as the program stops.
        changes: Option<Box<Changes>>,
    },
    /// The peer broke the protocol.
    Violation {
        /// On this conn, if it was on one.
        conn: Option<ConnId>,
        /// What it did.
        violation: Violation,
    },
}

/// Why a proxy_conn was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnFailure {
    /// No connection.
    Unreachable(SysError),
    /// The proxy in between lets nothing through.
    Proxy(PassageFailure),
    /// It was lost before the server had accepted it.
    Lost,
    /// The server refused it.
    Refused(HandshakeRefusal),
    /// What answers there does not speak our protocol.
    NotCproxy,
    /// It took longer than `handshake_timeout`.
    TooSlow,
}

impl fmt::Display for ConnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => error.fmt(f),
            Self::Proxy(failure) => write!(f, "the proxy {failure}"),
            Self::Lost => f.write_str("the connection was closed before the server had accepted it"),
            Self::Refused(refusal) => write!(f, "the server refused: {refusal}"),
            Self::NotCproxy => f.write_str("what answers there is no cproxy-server's proxy port"),
            Self::TooSlow => f.write_str("no answer within handshake_timeout"),
        }
    }
}

/// Why a client has no ctl_conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disconnect {
    /// The server's name does not resolve.
    Unresolved,
    /// No connection to the server.
    Unreachable(SysError),
    /// The proxy in between lets nothing through.
    Proxy(PassageFailure),
    /// What answers there does not speak our protocol.
    NotCproxy,
    /// The server refused, for now.
    Refused(HandshakeRefusal),
    /// The server's proof is wrong: it does not know the token.
    WrongServer,
    /// The server's proofs do not cover the TLS channel: TLS ends in front of it.
    Unbound,
    /// The server names a port for data connections that no client dials unless it expects it.
    ProxyPort(u16),
    /// The connection could not be encrypted as it must be.
    Tls(TlsFailure),
    /// The connection was lost before a server had answered.
    NoAnswer,
    /// The connection was lost.
    Lost,
    /// Nothing came for `heartbeat_timeout`, or the handshake took longer than `handshake_timeout`.
    Silent,
    /// The server ended the session.
    Closed(CloseCode),
    /// The server broke the protocol.
    Violation(Violation),
}

impl Disconnect {
    /// Whether it goes on until somebody changes something.
    #[must_use]
    pub fn is_lasting(self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_final(),
            Self::WrongServer | Self::Unbound | Self::ProxyPort(_) => true,
            Self::Proxy(failure) => failure.is_lasting(),
            Self::Tls(failure) => failure.is_final(),
            // PROTOCOL.md: P-END-4.
            Self::Closed(code) => code == CloseCode::Kicked,
            Self::Unresolved
            | Self::Unreachable(_)
            | Self::NotCproxy
            | Self::NoAnswer
            | Self::Lost
            | Self::Silent
            | Self::Violation(_) => false,
        }
    }

    /// A sentence about this `server`, and the proxy that it is reached `through`: what happened, and what to do.
    #[must_use]
    pub fn sentence(self, server: &str, through: Option<&str>) -> String {
        let behind = through.map(|proxy| format!("{server} (through the outbound proxy {proxy})"));
        let (place, server) = (server, behind.as_deref().unwrap_or(server));
        match self {
            Self::Proxy(failure) => failure.sentence(through.unwrap_or_default(), place),
            Self::Unresolved if server.contains('%') => format!(
                "this machine does not have the network interface in {server}, behind the %; check `server` \
                 (--cproxy-server)"
            ),
            Self::Unresolved => format!(
                "the name of the server {server} does not resolve; check `server` (--cproxy-server) and this machine's DNS"
            ),
            Self::Unreachable(SysError::NoAddress) => format!(
                "cannot connect to the server {server} from here: this machine does not have the address in `source_addr`, \
                 or the interface in `bind_interface`"
            ),
            Self::Unreachable(error) => format!(
                "cannot connect to the server {server}: {error}; check that cproxy-server runs there, that this is its \
                 ctl port, and that no firewall is between"
            ),
            Self::NotCproxy => format!(
                "what answers at {server} is no cproxy-server's ctl port; `server` (--cproxy-server) must name that port"
            ),
            Self::NoAnswer => format!(
                "no cproxy-server answered at {server}: the connection was closed; check that this is its ctl port (not \
                 the proxy port), and if a relay is between, that the server behind it runs"
            ),
            Self::Refused(refusal) => format!("the server {server} refused: {refusal}"),
            Self::WrongServer => {
                format!("the server {server} did not prove itself: {}", HandshakeRefusal::WrongToken)
            }
            Self::Unbound => format!(
                "TLS ends in front of the server {server}, and whoever ends it could read and change everything; if that is \
                 a relay of yours, set `tls_relay = true`"
            ),
            Self::ProxyPort(port) => format!(
                "the server {server} wants data connections at its port {port}, where another service may be: below 1024 \
                 only its ctl port is dialled unasked; if it is meant, set `proxy_port = {port}`"
            ),
            Self::Tls(failure) => format!("the server {server}: {failure}"),
            Self::Lost => format!("the connection to the server {server} was lost"),
            Self::Silent => format!("the server {server} does not answer"),
            Self::Closed(code) => format!("the server {server} closed the session: {code}"),
            Self::Violation(violation) => format!("the server {server} broke the protocol: {violation}"),
        }
    }
}

/// Why a session whose client is lost is not kept any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expiry {
    /// Nobody resumed it within this time, `session_grace`, and it has no transfers.
    Grace(Duration),
    /// Nobody resumed it within this time, `transfer_grace`.
    Transfers(Duration),
    /// Its last conn is gone.
    Deserted,
    /// Its holder has as many sessions as it may have, and a newcomer needs its place.
    Full,
}

/// Why a connection was closed before its handshake was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeEnd {
    /// It took too long.
    TooSlow,
    /// It came from a trusted proxy, and no valid PROXY header that names a client in time.
    NoHeader,
    /// More handshakes from its source address were under way than allowed, and it was the oldest of them.
    SourceCrowded,
    /// More handshakes were under way than allowed, most of them from its source address, and it was the oldest of
    /// these.
    Crowded,
}

impl fmt::Display for HandshakeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooSlow => "it took longer than handshake_timeout",
            Self::NoHeader => NO_HEADER,
            Self::SourceCrowded => "more than max_handshakes_per_source from its address",
            Self::Crowded => "more than max_handshakes in all, and most of them from its address",
        })
    }
}

/// Why a path is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathEnd {
    /// Nothing answers.
    Silent,
    /// The other side has closed it, or its handshake has failed.
    Closed,
    /// The other side does not know the session's key.
    Unproved,
}

impl Note {
    /// What there is to say of a path that was in one state and is in another now, because of what comes, or does not come,
    /// from its peer.
    pub(crate) fn of_path(
        client: Option<ClientId>,
        peer: SocketAddr,
        [was, is]: [PathState; 2],
        wanted: bool,
    ) -> Option<Self> {
        match (was, is) {
            (PathState::Down, PathState::Up { size }) => Some(Self::PathUp { client, peer, size }),
            (PathState::Up { size: before }, PathState::Up { size }) => {
                (before != size).then_some(Self::PathSize { client, size })
            }
            (PathState::Up { .. }, PathState::Down) => Some(Self::PathDown { client, why: PathEnd::Silent, wanted }),
            (PathState::Down, PathState::Down) => None,
        }
    }
}

impl fmt::Display for PathEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "nothing answers",
            Self::Closed => "the other side has closed it",
            Self::Unproved => "the other side does not know the session's key",
        })
    }
}

/// What whoever sees [`Dropped::NoHeader`] or [`HandshakeEnd::NoHeader`] is to do.
const NO_HEADER: &str = "its address is in `trusted_proxies`, and it sent no valid PROXY header; switch that on there \
                         (haproxy: send-proxy, nginx: proxy_protocol on), or take it off the list";

/// Why a visitor was reset without a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// No proxy_conn came in time.
    WaitedTooLong,
    /// As many visitors wait already as are allowed to.
    QueueFull,
    /// As many visitors are served already as are allowed to be.
    TooMany,
    /// Its tunnel serves already as many visitors as its client asked for at most.
    TunnelFull,
    /// Its source address is not allowed to visit the tunnel.
    SourceDenied,
    /// More visitors came from its source address than the rate allows.
    TooOften,
    /// As many visitors of its source address are there already as are allowed to be.
    SourceFull,
    /// It came from a trusted proxy, and no valid PROXY header in time.
    NoHeader,
    /// Its tunnel or client is gone.
    Gone,
    /// The server is out of descriptors or memory.
    Resources,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WaitedTooLong => "no proxy_conn came within wait_timeout",
            Self::QueueFull => "max_waiting visitors wait already",
            Self::TooMany => "the client serves max_connections already",
            Self::TunnelFull => "the tunnel serves its max_connections already",
            Self::SourceDenied => "its address is not one that may visit the tunnel (allow_sources, deny_sources)",
            Self::TooOften => "more came from its address than max_connection_rate a minute",
            Self::SourceFull => "max_connections_per_source visitors from its address are there already",
            Self::NoHeader => NO_HEADER,
            Self::Gone => "the tunnel is gone",
            Self::Resources => "out of descriptors or memory",
        })
    }
}
