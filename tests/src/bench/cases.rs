//! What is measured: the cases, how large each is in a quick and in a full run, and what we aim for.

use std::time::Duration;

use super::wire::Op;

/// One line of the comparison.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) load: Load,
    /// Left out of a quick run, unless asked for.
    pub(super) full_only: bool,
}

/// What a case does to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Streams that carry as much as they can.
    Bulk { op: Op, streams: usize },
    /// Request and answer of `size` bytes on connections that stay.
    PingPong { size: usize, visitors: usize, one_core: bool },
    /// Connect, one request, one answer, close.
    Visits { at_once: usize },
    /// The same 16 at once, to each of so many tunnels of each of so many clients by turns. Peers that are not ours have one.
    VisitsAmong(Fleet),
    /// Half-closed visits, by either side in turn.
    HalfClose { at_once: usize },
    /// Short visits that end in a reset, beside as many that close.
    ResetAfterAnswer,
    /// From connect to the first byte of the answer, one visit after the other.
    FirstByteWarm,
    /// The same for the first visit after the peer has started.
    FirstByteCold,
    /// The same with a line of 20 ms round-trip time between the peer's two processes.
    FirstByteLink,
    /// Small requests beside one bulk stream over such a line, first while it loses nothing, then while it loses 1 %.
    LossyLink,
    /// Visitors that say nothing, and one that does.
    Idle,
    /// Small visitors while four bulk streams saturate the peer.
    Fairness { op: Op },
    /// Over UDP, with H in the place of S.
    Udp(Udp),
    /// By name, or over TLS that ends at the server; beside another way of the same run.
    Routed(Routed),
}

/// What a case of routes does to our programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routed {
    /// Short visits by the host of a request, beside visits by port.
    Host { at_once: usize },
    /// The same by the name in TLS that is passed on.
    Name { at_once: usize },
    /// A stream down, by the host of a request, beside one by port.
    Bulk,
    /// Short visits over TLS that ends at the server, each with a new connection, beside another program's.
    Tls(Beside),
    /// A stream down over such TLS, beside another program's.
    TlsBulk(Beside),
    /// Visitors who have not said which host they are for.
    Silent,
}

/// Whose TLS stands beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    Haproxy,
    Nginx,
}

/// How many tunnels a peer of ours has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fleet {
    pub(super) clients: usize,
    /// Of each client.
    pub(super) tunnels: usize,
}

/// One tunnel.
pub(super) const ALONE: Fleet = Fleet { clients: 1, tunnels: 1 };

/// What a case of UDP does to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Udp {
    /// Request and answer of 64 bytes in flows that stay.
    PingPong { flows: usize },
    /// One flow that carries datagrams of 1,200 bytes one way, as fast as 1 % of loss allows.
    OneWay,
    /// A flow for each request.
    NewFlows { at_once: usize },
    /// Flows that say nothing any more.
    Idle,
}

impl Load {
    pub(super) fn is_udp(self) -> bool {
        matches!(self, Self::Udp(_))
    }
}

/// How much of each load a run takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) rounds: usize,
    /// Time per load that is bounded by time.
    pub(super) slice: Duration,
    /// Bytes per direction in a bulk case, over all its streams.
    pub(super) bulk: u64,
    pub(super) idle_visitors: usize,
    /// How long the idle visitors are watched.
    pub(super) idle_watch: Duration,
    pub(super) cold_starts: usize,
    pub(super) link_visits: u64,
    /// Time per load under bulk.
    pub(super) fairness: Duration,
}

/// A little of everything, in under three minutes for six peers.
pub(super) const QUICK: Scale = Scale {
    rounds: 3,
    slice: Duration::from_millis(200),
    bulk: 192 << 20,
    idle_visitors: 1000,
    idle_watch: Duration::from_millis(400),
    cold_starts: 3,
    link_visits: 8,
    fairness: Duration::from_millis(500),
};

/// What published figures should come from.
pub(super) const FULL: Scale = Scale {
    rounds: 5,
    slice: Duration::from_secs(1),
    bulk: 1 << 30,
    idle_visitors: 2000,
    idle_watch: Duration::from_secs(2),
    cold_starts: 10,
    link_visits: 30,
    fairness: Duration::from_secs(3),
};

/// Every case, in the order in which they run.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, load| cases.push(Case { name, load, full_only: false });
    for (way, op) in [("down", Op::Down), ("up", Op::Up), ("both", Op::Both)] {
        for streams in [1, 4] {
            add(format!("bulk-{way}-x{streams}"), Load::Bulk { op, streams });
        }
    }
    let (size, visitors) = (64, 1);
    add("pingpong-64B-x1-onecore".to_owned(), Load::PingPong { size, visitors, one_core: true });
    for (label, size) in [("64B", 64), ("4KiB", 4096), ("64KiB", 65_536)] {
        for visitors in [1, 16, 64] {
            let load = Load::PingPong { size, visitors, one_core: false };
            add(format!("pingpong-{label}-x{visitors}"), load);
        }
    }
    for at_once in [1, 16, 128] {
        add(format!("visits-x{at_once}"), Load::Visits { at_once });
    }
    add("visits-x16-1000-tunnels".to_owned(), Load::VisitsAmong(Fleet { clients: 1, tunnels: 1000 }));
    for clients in [10, 100, 1000] {
        add(format!("visits-x16-{clients}-clients"), Load::VisitsAmong(Fleet { clients, tunnels: 1 }));
    }
    add("halfclose-x16".to_owned(), Load::HalfClose { at_once: 16 });
    add("reset-after-answer".to_owned(), Load::ResetAfterAnswer);
    add("firstbyte-warm".to_owned(), Load::FirstByteWarm);
    add("firstbyte-cold".to_owned(), Load::FirstByteCold);
    add("idle".to_owned(), Load::Idle);
    add("fairness-down".to_owned(), Load::Fairness { op: Op::Down });
    add("fairness-up".to_owned(), Load::Fairness { op: Op::Up });
    add("firstbyte-20ms-link".to_owned(), Load::FirstByteLink);
    add("loss-20ms-link".to_owned(), Load::LossyLink);
    for flows in [1, 64] {
        add(format!("udp-pingpong-64B-x{flows}"), Load::Udp(Udp::PingPong { flows }));
    }
    add("udp-oneway-1200B".to_owned(), Load::Udp(Udp::OneWay));
    add("udp-newflows-x16".to_owned(), Load::Udp(Udp::NewFlows { at_once: 16 }));
    add("udp-idle".to_owned(), Load::Udp(Udp::Idle));
    add("routes-host-x16".to_owned(), Load::Routed(Routed::Host { at_once: 16 }));
    add("routes-sni-x16".to_owned(), Load::Routed(Routed::Name { at_once: 16 }));
    add("routes-bulk-down".to_owned(), Load::Routed(Routed::Bulk));
    for (name, beside) in [("", Beside::Haproxy), ("-nginx", Beside::Nginx)] {
        add(format!("routes-tls-x8{name}"), Load::Routed(Routed::Tls(beside)));
        add(format!("routes-tls-bulk-down{name}"), Load::Routed(Routed::TlsBulk(beside)));
    }
    add("routes-silent".to_owned(), Load::Routed(Routed::Silent));
    for case in &mut cases {
        case.full_only = matches!(case.load, Load::Fairness { op: Op::Up } | Load::VisitsAmong(_) | Load::LossyLink);
    }
    cases
}

/// What our figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// At least this multiple of S's (or H's) figure in the same run.
    RatioAtLeast(f64),
    /// At most this multiple of S's (or H's) figure in the same run.
    RatioAtMost(f64),
    /// At most this, whatever S reaches.
    AtMost(f64),
    /// At least this, whatever S reaches.
    AtLeast(f64),
}

/// The target for a figure of a case, if it has one. Those of UDP are for flows that have a conn.
pub(super) fn target(case: &str, figure: &str) -> Option<Target> {
    use Target::{AtLeast, AtMost, RatioAtLeast, RatioAtMost};
    Some(match (case, figure) {
        ("bulk-down-x1" | "bulk-up-x1", "throughput") => RatioAtLeast(1.1),
        ("bulk-down-x4" | "bulk-up-x4", "throughput") => RatioAtLeast(1.2),
        ("bulk-down-x4" | "bulk-up-x4", "CPU") => RatioAtMost(0.75),
        ("pingpong-64B-x1-onecore", "CPU") => RatioAtMost(0.85),
        ("pingpong-64B-x64", "requests") => RatioAtLeast(1.17),
        ("pingpong-4KiB-x16", "requests") => RatioAtLeast(1.05),
        ("pingpong-64KiB-x16", "requests") => RatioAtLeast(1.0),
        ("visits-x1" | "visits-x16" | "visits-x128", "visits") => RatioAtLeast(1.25),
        ("visits-x16", "CPU") => RatioAtMost(0.8),
        ("visits-x16", "p99") => RatioAtMost(1.0),
        ("halfclose-x16", "visits") => RatioAtLeast(1.25),
        ("reset-after-answer", "of ordinary") => AtLeast(0.9),
        ("firstbyte-warm", "p50") => RatioAtMost(0.8),
        ("firstbyte-20ms-link", "warm p50") => RatioAtMost(0.6),
        ("loss-20ms-link", "of one repeat") => AtMost(1.2),
        ("fairness-down", "request p50" | "request p99") => RatioAtMost(0.2),
        ("idle", "memory near" | "memory far") => AtMost(0.5),
        ("idle", "fds near" | "fds far") => AtMost(2.0),
        ("idle", "CPU") => AtMost(0.1),
        ("udp-pingpong-64B-x1", "p50" | "p99") => RatioAtMost(1.2),
        ("udp-pingpong-64B-x64", "replies") => RatioAtLeast(0.8),
        ("udp-pingpong-64B-x64", "CPU") => RatioAtMost(1.6),
        ("udp-oneway-1200B", "throughput") => RatioAtLeast(0.6),
        ("udp-newflows-x16", "flows") => RatioAtLeast(0.8),
        ("udp-newflows-x16", "p99") => RatioAtMost(2.0),
        ("udp-idle", "memory") => AtMost(1.3),
        ("routes-host-x16" | "routes-sni-x16" | "routes-bulk-down", "of by port") => AtLeast(0.95),
        ("routes-tls-x8" | "routes-tls-bulk-down", "of haproxy") => AtLeast(1.0),
        ("routes-tls-x8-nginx", "of nginx") => AtLeast(1.5),
        ("routes-silent", "memory") => AtMost(0.6),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = all().into_iter().map(|case| case.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
