//! The parts of a report: what one driver tells the main driver.

use super::{ConnReport, Counts, Histogram, LastError, LoopReport, Reason, Report, TunnelReport, TunnelState, millis};
use crate::codes::{AbortCode, RefuseCode};
use crate::datagrams::Lost;
use crate::ids::{ControlKey, TunnelId};
use crate::notes::Dropped;
use crate::routes::{Refusal, Site};
use crate::time::Instant;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

/// What an event loop counts of visitors. The sum of what it counts by reason, and those that have finished, is that of
/// those that are through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoopTally {
    /// Transfers cut short.
    pub aborted: Counts<AbortCode>,
    /// Visitors whose LocalServer could not be reached.
    pub refused: Counts<RefuseCode>,
    /// Visitors never served.
    pub dropped: Counts<Dropped>,
    /// Datagrams of flows that went no further.
    pub lost: Counts<Lost>,
    /// Transfers that were given a conn that had carried one before.
    pub reused: u64,
    /// Bytes of transfers that are over, from visitors.
    pub bytes_in: u64,
    /// Bytes of transfers that are over, to visitors.
    pub bytes_out: u64,
    /// See [`super::Report::waits`].
    pub waits: Histogram,
    /// See [`super::Report::dials`].
    pub dials: Histogram,
    /// See [`super::Report::lifetimes`].
    pub lifetimes: Histogram,
}

impl LoopTally {
    /// Visitors that did not end well.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.aborted.sum() + self.refused.sum() + self.dropped.sum()
    }

    /// A transfer is over.
    pub(crate) fn on_over(&mut self, bytes_in: u64, bytes_out: u64, lasted: Duration) {
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
        self.lifetimes.add(lasted);
    }

    /// One more that did not end well.
    pub(crate) fn on_trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Aborted(code) => self.aborted.add(code),
            Trouble::Refused(code) => self.refused.add(code),
            Trouble::Dropped(why) => self.dropped.add(why),
        }
    }
}

/// Why a visitor's stream did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Its transfer was cut short.
    Aborted(AbortCode),
    /// Its LocalServer could not be reached.
    Refused(RefuseCode),
    /// It was never served.
    Dropped(Dropped),
}

/// What an event loop counts of one tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TunnelTally {
    /// Visitors now. Only in a report.
    pub visitors: u64,
    /// Visitors that came.
    pub total: u64,
    /// Those whose transfers ended well.
    pub finished: u64,
    /// The others that are through.
    pub failed: u64,
    /// Bytes from visitors.
    pub bytes_in: u64,
    /// Bytes to visitors.
    pub bytes_out: u64,
    /// What went wrong last, and when.
    pub last: Option<(Trouble, Instant)>,
}

impl TunnelTally {
    /// A transfer is over.
    pub(crate) fn on_over(&mut self, bytes_in: u64, bytes_out: u64, finished: bool) {
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
        self.finished += u64::from(finished);
    }

    /// One more that did not end well.
    pub(crate) fn on_trouble(&mut self, trouble: Trouble, now: Instant) {
        self.failed += 1;
        self.last = Some((trouble, now));
    }

    /// All of `other`, too.
    pub(crate) fn add_all(&mut self, other: &Self) {
        self.visitors += other.visitors;
        self.total += other.total;
        self.finished += other.finished;
        self.failed += other.failed;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        let last = [self.last, other.last].into_iter().flatten();
        self.last = last.max_by_key(|&(_, at)| at);
    }

    /// What went wrong last, for people.
    pub(crate) fn last_error(&self, now: Instant) -> Option<LastError> {
        let (trouble, at) = self.last?;
        let (label, text) = match trouble {
            Trouble::Aborted(code) => (code.label(), format!("a transfer was cut short: {code}")),
            Trouble::Refused(code) => (code.label(), format!("a visitor was refused: {code}")),
            Trouble::Dropped(why) => (why.label(), format!("a visitor was dropped: {why}")),
        };
        Some(LastError { reason: label.to_string(), text, ago_ms: millis(now.since(at)) })
    }
}

/// What one event loop tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoopPart {
    /// The loop's index.
    pub loop_index: usize,
    /// Visitors that came.
    pub total: u64,
    /// Those that wait.
    pub waiting: u64,
    /// Those that are served.
    pub active: u64,
    /// Those whose transfers ended well.
    pub finished: u64,
    /// What it has counted.
    pub tally: LoopTally,
    /// All proxy_conns that it ever had.
    pub opened: u64,
    /// Each session; on a client under its serial number, with all tunnels in the current one.
    pub shards: Vec<(ControlKey, ShardPart)>,
    /// Itself.
    pub own: LoopReport,
}

/// What one event loop tells of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ShardPart {
    /// Its proxy_conns.
    pub conns: ConnReport,
    /// Its tunnels.
    pub tunnels: Vec<(TunnelId, TunnelTally)>,
}

impl ShardPart {
    /// All of them together.
    pub(crate) fn sum(shards: Vec<Self>) -> (ConnReport, BTreeMap<TunnelId, TunnelTally>) {
        let mut conns = ConnReport::default();
        let mut tallies = BTreeMap::<_, TunnelTally>::new();
        for shard in shards {
            conns.add(shard.conns);
            for (tunnel, tally) in shard.tunnels {
                tallies.entry(tunnel).or_default().add_all(&tally);
            }
        }
        (conns, tallies)
    }
}

impl TunnelReport {
    /// That of a tunnel to which nobody has come.
    pub(crate) fn new(name: String, state: TunnelState, wanted: u16) -> Self {
        Self {
            name,
            state,
            wanted,
            url: None,
            public: None,
            local: None,
            refused: None,
            visitors: 0,
            total: 0,
            finished: 0,
            failed: 0,
            turned_away: 0,
            bytes_in: 0,
            bytes_out: 0,
            last_error: None,
        }
    }

    /// Where it is reached: at `public`, over UDP or not, at an address of its own or not, or at its host there.
    pub(crate) fn locate(
        &mut self,
        site: Option<&Site>,
        udp: bool,
        bind_addr: Option<IpAddr>,
        public: Option<SocketAddr>,
    ) {
        self.public = public;
        let host = site.map(|site| public.map_or_else(|| site.to_string(), |public| site.url(public.port())));
        let scheme = if udp { "udp" } else { "tcp" };
        self.url = host.or(public.filter(|_| udp || bind_addr.is_some()).map(|public| format!("{scheme}://{public}")));
    }

    /// What was counted of it.
    pub(crate) fn fill(&mut self, tally: &TunnelTally, now: Instant) {
        self.visitors = tally.visitors;
        self.total = tally.total;
        self.finished = tally.finished;
        self.failed = tally.failed;
        self.bytes_in = tally.bytes_in;
        self.bytes_out = tally.bytes_out;
        self.last_error = tally.last_error(now);
    }
}

impl Report {
    /// What an event loop tells, but for its part of each session, which is given back.
    pub(crate) fn add(&mut self, part: LoopPart) -> Vec<(ControlKey, ShardPart)> {
        let LoopPart { loop_index: _, total, waiting, active, finished, tally, opened, shards, own } = part;
        let visitors = &mut self.visitors;
        visitors.total += total;
        visitors.waiting += waiting;
        visitors.active += active;
        visitors.finished += finished;
        visitors.aborted.add_all(&tally.aborted);
        visitors.refused.add_all(&tally.refused);
        visitors.dropped.add_all(&tally.dropped);
        self.datagrams_lost.add_all(&tally.lost);
        for (_, shard) in &shards {
            // What was opened in sessions that are over counts as well.
            self.conns.add(ConnReport { opened: 0, reused: 0, ..shard.conns });
        }
        self.conns.opened += opened;
        self.conns.reused += tally.reused;
        self.bytes_in += tally.bytes_in;
        self.bytes_out += tally.bytes_out;
        self.waits.add_all(&tally.waits);
        self.dials.add_all(&tally.dials);
        self.lifetimes.add_all(&tally.lifetimes);
        self.loops.push(own);
        shards
    }
}

/// What the listener tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenerPart {
    /// Visitors that were counted and dropped at once.
    pub dropped: Counts<Dropped>,
    /// Visitors that were turned away by address or rate.
    pub turned_away: Counts<Dropped>,
    /// See [`super::Report::unrouted`].
    pub unrouted: u64,
    /// See [`super::Report::not_routed`].
    pub not_routed: Counts<Refusal>,
    /// Visitors that were dropped or turned away, by tunnel, since it was opened.
    pub tunnels: Vec<(ControlKey, TunnelId, u64)>,
}

/// A client's identity: enough of it to tell clients apart, as in the log.
pub(crate) fn short(client: [u8; 16]) -> String {
    client.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
