//! What a program says of itself when it is asked: counts, and what there is now. The field names are those of the
//! programs' JSON (`docs/operating.md`). Nothing here decides anything.
//!
//! Each driver counts what it does, in plain integers; who wants to see them asks the main driver
//! ([`ToServerMain::Report`], [`ToClientMain::Report`]), which gathers the others' parts ([`crate::gather`]).
//!
//! [`ToServerMain::Report`]: crate::driver::messages::ToServerMain::Report
//! [`ToClientMain::Report`]: crate::driver::messages::ToClientMain::Report

mod counted;
mod counts;
mod histogram;
mod part;

pub(crate) use counted::Counted;
pub use counts::{Counts, Reason};
pub use histogram::Histogram;
pub(crate) use part::short;
pub use part::{ListenerPart, LoopPart, LoopTally, ShardPart, Trouble, TunnelTally};

use crate::codes::{AbortCode, HandshakeRefusal, RefuseCode};
use crate::datagrams::{Lost, PathState};
use crate::notes::{Dropped, HandshakeEnd};
use crate::routes::Refusal;
use crate::time::Instant;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// A program at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Report {
    /// It was asked to stop, and lets transfers finish.
    pub stopping: bool,
    /// The server's sessions, the oldest first; on a client its own, which is there even while it has no connection, and
    /// then those that it has left.
    pub sessions: Vec<SessionReport>,
    /// Server: what each credential has, over all its sessions, in the order of the configuration; empty where it has none.
    #[serde(default)]
    pub credentials: Vec<CredentialReport>,
    /// What became of visitors.
    pub visitors: VisitorReport,
    /// proxy_conns.
    pub conns: ConnReport,
    /// Server: visitors at the ports of hosts that have named none yet. They are not among the others.
    pub unrouted: u64,
    /// Server: those that were refused before they were anybody's.
    pub not_routed: Counts<Refusal>,
    /// Datagrams of UDP tunnels that went no further.
    #[serde(default)]
    pub datagrams_lost: Counts<Lost>,
    /// Datagrams from visitors that were given to a path on the server, or came by one on the client. When a path fails,
    /// a few of the former go by conns after all.
    #[serde(default)]
    pub path_datagrams_in: u64,
    /// The same of those to visitors.
    #[serde(default)]
    pub path_datagrams_out: u64,
    /// Bytes from visitors to LocalServers, of all transfers so far.
    pub bytes_in: u64,
    /// Bytes from LocalServers to visitors.
    pub bytes_out: u64,
    /// Server: how long visitors waited for a proxy_conn, those that got one.
    pub waits: Histogram,
    /// How long it took to reach the LocalServer; on the server the way to the client and back is in it.
    pub dials: Histogram,
    /// How long transfers lasted.
    pub lifetimes: Histogram,
    /// How long sessions were without a ctl_conn, those that went on.
    pub healing: Histogram,
    /// Server: connections refused in their handshake with a message.
    pub handshakes_refused: Counts<HandshakeRefusal>,
    /// Server: connections closed before their handshake was through.
    pub handshakes_dropped: Counts<HandshakeEnd>,
    /// The event loops.
    pub loops: Vec<LoopReport>,
}

/// What became of visitors: `total` is the sum of all others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VisitorReport {
    /// All that came. Those whom the listener turned away by address or rate are not among them.
    pub total: u64,
    /// Those that wait for a proxy_conn.
    pub waiting: u64,
    /// Those that are being served.
    pub active: u64,
    /// Transfers that ended well.
    pub finished: u64,
    /// Transfers cut short.
    pub aborted: Counts<AbortCode>,
    /// Visitors whose LocalServer could not be reached.
    pub refused: Counts<RefuseCode>,
    /// Visitors never served.
    pub dropped: Counts<Dropped>,
    /// Visitors turned away at the public port: not among `total`.
    pub turned_away: Counts<Dropped>,
}

impl VisitorReport {
    /// Whether every visitor that came is accounted for.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let lost = self.aborted.sum() + self.refused.sum() + self.dropped.sum();
        self.total == self.waiting + self.active + self.finished + lost
    }
}

/// proxy_conns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnReport {
    /// Those that carry nothing.
    pub idle: u64,
    /// Those that carry a transfer.
    pub active: u64,
    /// Those on their way: asked for, or being opened.
    pub coming: u64,
    /// All that were ever opened.
    pub opened: u64,
    /// Transfers that were given a conn that had carried one before.
    pub reused: u64,
}

impl ConnReport {
    /// Adds `other`.
    pub fn add(&mut self, other: Self) {
        self.idle += other.idle;
        self.active += other.active;
        self.coming += other.coming;
        self.opened += other.opened;
        self.reused += other.reused;
    }
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionReport {
    /// The client: the first bytes of its identity, as in the log.
    pub client: String,
    /// The credential that the client proved, on a server that has some.
    pub credential: Option<String>,
    /// The other side's address: the last one where there is no connection now.
    pub peer: Option<SocketAddr>,
    /// On a client: the proxy that has this address, if one is in between.
    pub through: Option<String>,
    /// Whether there is a ctl_conn.
    pub state: SessionState,
    /// On a client without a ctl_conn: why, as a sentence.
    pub error: Option<String>,
    /// How long it has been there, in milliseconds. On a client without a session: how long it has had none.
    pub age_ms: u64,
    /// The way of its flows' datagrams by UDP, while there is one.
    #[serde(default)]
    pub datagram_path: Option<PathReport>,
    /// Its proxy_conns.
    pub conns: ConnReport,
    /// Its tunnels, in the order in which they were registered.
    pub tunnels: Vec<TunnelReport>,
}

/// What one credential has of the server, over all its sessions: its limits are for all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CredentialReport {
    /// Its name.
    pub credential: String,
    /// Sessions, with or without a ctl_conn.
    pub sessions: u64,
    /// Tunnels, open or being opened.
    pub tunnels: u64,
    /// proxy_conns, those on their way among them.
    pub conns: u64,
    /// Visitors now, waiting and served.
    pub visitors: u64,
    /// Descriptors that these take: ctl_conns, proxy_conns, public ports, and visitors but for flows. Pipes of transfers
    /// that are full are not counted.
    pub descriptors: u64,
    /// Memory of what its clients have not acknowledged, in bytes.
    pub unacknowledged_bytes: u64,
}

impl CredentialReport {
    /// One more session, with or without a ctl_conn, of which so much is not acknowledged.
    pub fn add(&mut self, session: &SessionReport, unacknowledged_bytes: u64) {
        let ConnReport { idle, active, coming, .. } = session.conns;
        self.sessions += 1;
        self.tunnels += session.tunnels.len() as u64;
        self.conns += idle + active + coming;
        self.unacknowledged_bytes += unacknowledged_bytes;
        self.descriptors += u64::from(session.state != SessionState::Detached) + idle + active;
        for tunnel in &session.tunnels {
            self.visitors += tunnel.visitors;
            self.descriptors += tunnel.descriptors();
        }
    }
}

/// A session's path that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PathReport {
    /// Bytes that it takes at once now, with the two numbers in front of each datagram.
    pub size: u64,
}

impl PathReport {
    /// That of a path in this state.
    #[must_use]
    pub fn of(state: PathState) -> Option<Self> {
        match state {
            PathState::Down => None,
            PathState::Up { size } => Some(Self { size: size as u64 }),
        }
    }
}

/// Whether a session has a ctl_conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// It has.
    Up,
    /// It lost it, and may be resumed.
    Detached,
    /// A client that has no session.
    Connecting,
    /// It lets its transfers finish: another process of the client, or of the server, has the tunnels.
    Leaving,
}

impl SessionState {
    /// As in the JSON.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Detached => "detached",
            Self::Connecting => "connecting",
            Self::Leaving => "leaving",
        }
    }
}

/// One tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TunnelReport {
    /// Its name.
    pub name: String,
    /// Whether it is reachable.
    pub state: TunnelState,
    /// The public port that was asked for; 0: any.
    pub wanted: u16,
    /// The host that was asked for instead, or an open port of UDP or at an address of its own: as a URL, with its port once
    /// that is known.
    pub url: Option<String>,
    /// The public address, while it is open.
    pub public: Option<SocketAddr>,
    /// On the client: where its LocalServer is, as configured.
    pub local: Option<String>,
    /// On the client: why the server refuses it.
    pub refused: Option<String>,
    /// Visitors now, waiting and served.
    pub visitors: u64,
    /// Visitors that came so far.
    pub total: u64,
    /// Those whose transfers ended well.
    pub finished: u64,
    /// Those whose transfers were cut short, who were refused, or never served.
    pub failed: u64,
    /// Server: those turned away at the public port by address, rate or number.
    pub turned_away: u64,
    /// Bytes from visitors.
    pub bytes_in: u64,
    /// Bytes to visitors.
    pub bytes_out: u64,
    /// What went wrong last.
    pub last_error: Option<LastError>,
}

impl TunnelReport {
    /// Descriptors of the server: of its port, unless that is the one of all hosts, and of its visitors.
    fn descriptors(&self) -> u64 {
        let scheme = self.url.as_deref().and_then(|url| url.split_once("://")).map(|(scheme, _)| scheme);
        let open = self.state == TunnelState::Open;
        match scheme {
            // An event loop has one of its own; flows have none.
            Some("udp") => 2 * u64::from(open),
            Some("http" | "https") => self.visitors,
            _ => u64::from(open) + self.visitors,
        }
    }
}

/// Whether a tunnel is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelState {
    /// Its public port is open.
    Open,
    /// It is being opened, or waits for that.
    Opening,
    /// The server refused it; the client asks again.
    Refused,
}

impl TunnelState {
    /// As in the JSON.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Opening => "opening",
            Self::Refused => "refused",
        }
    }
}

/// What went wrong last with a tunnel's visitors.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LastError {
    /// The reason, by its label.
    pub reason: String,
    /// A sentence.
    pub text: String,
    /// How long ago, in milliseconds.
    pub ago_ms: u64,
}

/// One event loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LoopReport {
    /// Sockets that it owns.
    pub sockets: u64,
    /// Conns that wait for another turn.
    pub queued: u64,
    /// How long this question lay in its mailbox, in microseconds.
    pub lag_us: u64,
    /// Messages about things that were gone.
    pub stale: u64,
}

/// The time since something that set a deadline, `patience` later.
#[must_use]
pub(crate) fn time_since(now: Instant, deadline: Instant, patience: Duration) -> Duration {
    (now + patience).since(deadline)
}

/// Whole microseconds.
#[must_use]
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Whole milliseconds.
#[must_use]
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
