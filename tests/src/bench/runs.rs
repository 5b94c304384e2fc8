//! One case on one peer, once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::cases::{Load, Routed, Scale, Udp};
use super::crowd::{Crowd, Limits, Measured};
use super::datagrams::{Flows, Then, one_way};
use super::link::Link;
use super::outcome::{Run, Unit};
use super::peers::{Extra, Kind, LOOPBACK, Running};
use super::procs::{Proc, cores, pin_self};
use super::settle::{settle, tally};
use super::stats::percentile;
use super::visits;
use super::wire::Op;
use super::{bulk, routes, service_bulk::STALL};

/// Bytes of a small message.
const SMALL: usize = 64;
/// The most visits or requests of one load, whatever the time.
const MOST: u64 = 500_000;
/// The most short visits of one load: each leaves a port in TIME_WAIT, and there are 28,000.
const MOST_VISITS: u64 = 10_000;
/// The most flows that a load begins: those before stay for half a minute.
const MOST_FLOWS: u64 = 1_000;
/// Bytes of a datagram that fills a packet.
const MTU_SIZED: usize = 1200;
/// Bytes per visit of the bulk streams that others have to live beside.
const BACKGROUND: u64 = 32 << 20;
/// How long the background streams run before the measurement begins.
const SATURATE: Duration = Duration::from_millis(200);
/// How long a peer may take to close connections whose end the service has seen.
const CLOSING: Duration = Duration::from_millis(20);
/// How long a delayed line holds each packet.
const ONE_WAY: Duration = Duration::from_millis(10);

/// Visitors that ask and are answered on a line that loses packets.
const BESIDE_LOSS: usize = 50;
/// By then the bulk stream beside them has filled the buffers on its way.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// How many of a thousand packets such a line loses.
const LOST_PER_MILLE: u32 = 10;
/// When the kernel sends a lost packet again behind which no other came: 200 ms and the way there and back.
const REPEAT: Duration = Duration::from_millis(220);

/// A peer, started when first needed and again after a failure.
pub(super) struct Contestant {
    pub(super) kind: Kind,
    pub(super) extra: Extra,
    running: Option<Running>,
    /// What is running carries UDP.
    udp: bool,
}

impl Contestant {
    pub(super) fn new(kind: Kind, extra: Extra) -> Self {
        Self { kind, extra, running: None, udp: false }
    }

    /// Runs one load. After a failure the peer's processes are gone, and the next run starts new ones.
    pub(super) fn run(&mut self, load: Load, scale: &Scale) -> Result<Run, String> {
        let alone = matches!(
            load,
            Load::FirstByteCold
                | Load::Idle
                | Load::FirstByteLink
                | Load::LossyLink
                | Load::VisitsAmong(_)
                | Load::Udp(Udp::Idle)
                | Load::Routed(_)
        );
        if alone || self.udp != load.is_udp() {
            // These start their own, and some peers insist on a port.
            self.running = None;
        }
        self.udp = load.is_udp();
        let result = match load {
            Load::Routed(routed) => self.routed(routed, scale),
            Load::FirstByteCold => self.cold(scale),
            Load::FirstByteLink => self.over_link(scale),
            Load::LossyLink => self.over_lossy_link(scale),
            Load::Idle => self.start().and_then(|peer| idle(&peer, scale)),
            Load::Bulk { op, streams } => self.warm().and_then(|peer| bulk_case(peer, op, streams, scale)),
            Load::PingPong { size, visitors, one_core: false } => {
                self.warm().and_then(|peer| ping_pong(peer, size, visitors, scale))
            }
            Load::PingPong { size, visitors, one_core: true } => {
                self.warm().and_then(|peer| on_one_core(peer, |peer| ping_pong(peer, size, visitors, scale)))
            }
            Load::Visits { at_once } => self.warm().and_then(|peer| visit(peer, visits::Kind::Short, at_once, scale)),
            Load::VisitsAmong(fleet) => Running::start_fleet(&self.kind, &LOOPBACK, &self.extra, false, fleet)
                .and_then(|peer| visit(&peer, visits::Kind::Short, 16, scale)),
            Load::HalfClose { at_once } => {
                self.warm().and_then(|peer| visit(peer, visits::Kind::HalfClose, at_once, scale))
            }
            Load::ResetAfterAnswer => self.warm().and_then(|peer| reset_after_answer(peer, scale)),
            Load::FirstByteWarm => self.warm().and_then(|peer| first_byte(peer, scale)),
            Load::Fairness { op } => self.warm().and_then(|peer| fairness(peer, op, scale)),
            Load::Udp(Udp::PingPong { flows }) => self.warm().and_then(|peer| datagram_ping_pong(peer, flows, scale)),
            Load::Udp(Udp::OneWay) => self.warm().and_then(|peer| datagrams_one_way(peer, scale)),
            Load::Udp(Udp::NewFlows { at_once }) => self.warm().and_then(|peer| new_flows(peer, at_once, scale)),
            Load::Udp(Udp::Idle) => self.start().and_then(|peer| idle_flows(&peer, scale)),
        };
        if result.is_err() {
            self.running = None;
        }
        result
    }

    fn start(&self) -> Result<Running, String> {
        Running::start(&self.kind, &LOOPBACK, &self.extra, self.udp)
    }

    fn warm(&mut self) -> Result<&Running, String> {
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        self.running.as_ref().ok_or_else(|| "not running".to_owned())
    }

    fn routed(&self, routed: Routed, scale: &Scale) -> Result<Run, String> {
        let Kind::Cproxy { dir, .. } = &self.kind else { return Err("it has no routes".to_owned()) };
        routes::run(routed, dir, &self.extra, scale)
    }

    fn cold(&self, scale: &Scale) -> Result<Run, String> {
        let mut first = Vec::new();
        for _ in 0..scale.cold_starts {
            let peer = self.start()?;
            let before = tally(peer.service)?;
            first.extend(one_by_one(peer.target, 1)?.first_bytes);
            settle(peer.service, before, 1)?;
        }
        let mut run = Run::default();
        run.tail(["p50", "max"], "first byte", Unit::Micros, first);
        Ok(run)
    }

    fn over_link(&self, scale: &Scale) -> Result<Run, String> {
        let link = Link::open(ONE_WAY)?;
        let peer = Running::start(&self.kind, &link.site(), &self.extra, false)?;
        let (target, service) = (peer.target, peer.service);
        let (first, warm) = link.visit(|| {
            let before = tally(service)?;
            let first = one_by_one(target, 1)?;
            let warm = one_by_one(target, scale.link_visits)?;
            settle(service, before, 1 + scale.link_visits)?;
            Ok((first, warm))
        })?;
        let mut run = Run::default();
        run.tail(["warm p50", "warm max"], "first byte", Unit::Millis, warm.first_bytes);
        run.figure("very first", "ms", percentile(&first.first_bytes, 1.0) as f64 / 1e6);
        Ok(run)
    }

    fn over_lossy_link(&self, scale: &Scale) -> Result<Run, String> {
        let link = Link::open(ONE_WAY)?;
        let peer = Running::start(&self.kind, &link.site(), &self.extra, false)?;
        let (target, service) = (peer.target, peer.service);
        let limits = Limits { count: MOST, time: scale.slice * 5 };
        let ([without, with], bytes, elapsed) = link.visit(|| {
            let (stream, stop, begun) = (bulk::connect(target)?, AtomicBool::new(false), Instant::now());
            let (measured, bytes) = std::thread::scope(|s| {
                let bulk = s.spawn(|| bulk::down_until(&stream, &stop));
                let measure = || {
                    std::thread::sleep(UNDER_WAY);
                    let before = tally(service)?;
                    let mut crowd = Crowd::gather(target, BESIDE_LOSS, SMALL)?;
                    let without = crowd.exchange(limits)?;
                    link.lose(LOST_PER_MILLE);
                    let with = crowd.exchange(limits)?;
                    link.lose(0);
                    drop(crowd);
                    settle(service, before, BESIDE_LOSS as u64)?;
                    Ok::<_, String>([without, with])
                };
                let measured = measure();
                stop.store(true, Relaxed);
                Ok::<_, String>((measured, bulk.join().map_err(|_| "the bulk visitor panicked".to_owned())??))
            })?;
            Ok((measured?, bytes, begun.elapsed()))
        })?;
        let mut run = Run::default();
        run.tail(["p50", "p99"], "request beside losses", Unit::Millis, with.latencies);
        run.tail(["p50 without", "p99 without"], "request without losses", Unit::Millis, without.latencies);
        let [with, without] = [1, 3].map(|nth: usize| run.figures[nth].value);
        run.figure("of one repeat", "×", with / (without + REPEAT.as_secs_f64() * 1e3));
        run.figure("bulk", "MB/s", bytes as f64 / 1e6 / elapsed.as_secs_f64());
        Ok(run)
    }
}

fn one_by_one(target: SocketAddr, count: u64) -> Result<Measured, String> {
    visits::run(target, visits::Kind::Short, 1, SMALL, Limits { count, time: STALL })
}

fn bulk_case(peer: &Running, op: Op, streams: usize, scale: &Scale) -> Result<Run, String> {
    let (before, cpu) = (tally(peer.service)?, peer.cpu()?);
    let elapsed = bulk::run(peer.target, op, streams, scale.bulk / streams as u64)?;
    settle(peer.service, before, streams as u64)?;
    let bytes = scale.bulk as f64 * if op == Op::Both { 2.0 } else { 1.0 };
    let mut run = Run::default();
    run.figure("throughput", "MB/s", bytes / 1e6 / elapsed.as_secs_f64());
    if !peer.procs.is_empty() {
        run.figure("CPU", "s/GB", (peer.cpu()? - cpu).as_secs_f64() / (bytes / 1e9));
    }
    Ok(run)
}

fn ping_pong(peer: &Running, size: usize, visitors: usize, scale: &Scale) -> Result<Run, String> {
    let before = tally(peer.service)?;
    let mut crowd = Crowd::gather(peer.target, visitors, size)?;
    crowd.exchange(Limits { count: MOST, time: scale.slice / 10 })?;
    let cpu = peer.cpu()?;
    let measured = crowd.exchange(Limits { count: MOST, time: scale.slice })?;
    let cpu = peer.cpu()? - cpu;
    drop(crowd);
    settle(peer.service, before, visitors as u64)?;
    let mut run = Run::default();
    run.figure("requests", "/s", measured.rate());
    report_cpu(&mut run, peer, cpu, measured.latencies.len());
    run.tail(["p50", "p99"], "request", Unit::Micros, measured.latencies);
    Ok(run)
}

/// With everything, load and peer, on one core: no wake-up crosses cores, so CPU time per request is what the work costs.
fn on_one_core(peer: &Running, load: impl FnOnce(&Running) -> Result<Run, String>) -> Result<Run, String> {
    let (all, one) = cores()?;
    let pin = |cores| {
        pin_self(cores)?;
        peer.procs.iter().chain([&peer.service_proc]).try_for_each(|proc| proc.pin(cores))
    };
    pin(&one)?;
    let result = load(peer);
    pin(&all)?;
    result
}

fn visit(peer: &Running, kind: visits::Kind, at_once: usize, scale: &Scale) -> Result<Run, String> {
    let load = |time| visits::run_among(&peer.targets, &[], kind, at_once, SMALL, Limits { count: MOST_VISITS, time });
    let before = tally(peer.service)?;
    let warmed = load(scale.slice / 10)?.latencies.len() as u64;
    settle(peer.service, before, warmed)?;
    let (before, cpu) = (tally(peer.service)?, peer.cpu()?);
    let measured = load(scale.slice)?;
    settle(peer.service, before, measured.latencies.len() as u64)?;
    let cpu = peer.cpu()? - cpu;
    let mut run = Run::default();
    run.figure("visits", "/s", measured.rate());
    report_cpu(&mut run, peer, cpu, measured.latencies.len());
    run.tail(["p50", "p99"], "visit", Unit::Micros, measured.latencies);
    Ok(run)
}

/// Visits that end in a reset and ordinary ones by turns, so that both meet the same machine.
fn reset_after_answer(peer: &Running, scale: &Scale) -> Result<Run, String> {
    const TURNS: u32 = 10;
    let load = |kind, time| {
        let before = tally(peer.service)?;
        let measured = visits::run(peer.target, kind, 1, SMALL, Limits { count: MOST_VISITS, time })?;
        settle(peer.service, before, measured.latencies.len() as u64)?;
        Ok::<_, String>((measured.latencies, measured.elapsed))
    };
    let mut both =
        [(visits::Kind::Reset, Vec::new(), Duration::ZERO), (visits::Kind::Short, Vec::new(), Duration::ZERO)];
    for turn in 0..=TURNS {
        for (kind, latencies, elapsed) in &mut both {
            let (these, time) = load(*kind, scale.slice / TURNS)?;
            // The first turn warms the peer up.
            if turn > 0 {
                latencies.extend(these);
                *elapsed += time;
            }
        }
    }
    let [(_, latencies, elapsed), (_, ordinary, ordinary_elapsed)] = both;
    let rate = |count: usize, elapsed: Duration| count as f64 / elapsed.as_secs_f64();
    let (resets, ordinary) = (rate(latencies.len(), elapsed), rate(ordinary.len(), ordinary_elapsed));
    let mut run = Run::default();
    run.figure("visits", "/s", resets);
    run.figure("ordinary visits", "/s", ordinary);
    run.figure("of ordinary", "×", resets / ordinary);
    run.tail(["p50", "p99"], "visit that ends in a reset", Unit::Micros, latencies);
    Ok(run)
}

fn report_cpu(run: &mut Run, peer: &Running, cpu: Duration, count: usize) {
    if !peer.procs.is_empty() {
        run.figure("CPU", "µs each", cpu.as_secs_f64() * 1e6 / count as f64);
    }
}

fn first_byte(peer: &Running, scale: &Scale) -> Result<Run, String> {
    let before = tally(peer.service)?;
    let load = |time| visits::run(peer.target, visits::Kind::Short, 1, SMALL, Limits { count: MOST_VISITS, time });
    let warmed = load(scale.slice / 10)?.latencies.len();
    let first_bytes = load(scale.slice)?.first_bytes;
    settle(peer.service, before, (warmed + first_bytes.len()) as u64)?;
    let mut run = Run::default();
    run.tail(["p50", "p99"], "first byte", Unit::Micros, first_bytes);
    Ok(run)
}

fn idle(peer: &Running, scale: &Scale) -> Result<Run, String> {
    const NAMES: [[&str; 2]; 2] = [["memory near", "fds near"], ["memory far", "fds far"]];
    let start = tally(peer.service)?;
    // Gone again before the idle ones come: what a process allocates once is not theirs.
    let early = Limits { count: 200, time: scale.slice };
    let early = visits::run(peer.target, visits::Kind::Short, 16, SMALL, early)?.latencies.len() as u64;
    settle(peer.service, start, early)?;
    // The service has seen them leave; the peer's processes may need a moment more to close the last of them.
    std::thread::sleep(CLOSING);
    let state = |proc: &Proc| Ok::<_, String>((proc.memory()?, proc.fds()?));
    let empty = peer.procs.iter().map(state).collect::<Result<Vec<_>, _>>()?;
    let sitting = Crowd::gather(peer.target, scale.idle_visitors, SMALL)?;
    let full = peer.procs.iter().map(state).collect::<Result<Vec<_>, _>>()?;
    let cpu = peer.cpu()?;
    std::thread::sleep(scale.idle_watch);
    let cpu = peer.cpu()? - cpu;
    let mut active = Crowd::gather(peer.target, 1, SMALL)?;
    let measured = active.exchange(Limits { count: MOST, time: scale.slice })?;
    let visits = early + sitting.len() + active.len();
    drop((sitting, active));
    settle(peer.service, start, visits)?;
    let mut run = Run::default();
    let each = |full: u64, empty: u64| (full as f64 - empty as f64) / scale.idle_visitors as f64;
    for ((names, empty), full) in NAMES.into_iter().zip(&empty).zip(&full) {
        run.figure(names[0], "kB each", each(full.0, empty.0) / 1e3);
        run.figure(names[1], "each", each(full.1, empty.1));
    }
    if !peer.procs.is_empty() {
        run.figure("CPU", "ms/s", cpu.as_secs_f64() * 1e3 / scale.idle_watch.as_secs_f64());
    }
    run.tail(["active p50", "active p99"], "request of one active visitor", Unit::Micros, measured.latencies);
    Ok(run)
}

fn datagram_ping_pong(peer: &Running, flows: usize, scale: &Scale) -> Result<Run, String> {
    let mut flows = Flows::open(peer.target, flows, SMALL)?;
    flows.exchange(Limits { count: MOST, time: STALL }, Then::BeSilent)?;
    flows.exchange(Limits { count: MOST, time: scale.slice / 10 }, Then::AskAgain)?;
    let limits = Limits { count: MOST, time: scale.slice };
    answers(peer, &mut flows, limits, Then::AskAgain, ["replies", "reply"])
}

/// What flows are answered within the limits. `named`: what is counted, and what is waited for.
fn answers(
    peer: &Running,
    flows: &mut Flows,
    limits: Limits,
    then: Then,
    named: [&'static str; 2],
) -> Result<Run, String> {
    let cpu = peer.cpu()?;
    let answered = flows.exchange(limits, then)?;
    let cpu = peer.cpu()? - cpu;
    let mut run = Run::default();
    run.figure(named[0], "/s", answered.rate()?);
    report_cpu(&mut run, peer, cpu, answered.latencies.len());
    run.tail(["p50", "p99"], named[1], Unit::Micros, answered.latencies);
    Ok(run)
}

fn datagrams_one_way(peer: &Running, scale: &Scale) -> Result<Run, String> {
    let mut run = Run::default();
    run.figure("throughput", "MB/s", one_way(peer.target, MTU_SIZED, scale.slice)? / 1e6);
    Ok(run)
}

fn new_flows(peer: &Running, at_once: usize, scale: &Scale) -> Result<Run, String> {
    let mut flows = Flows::open(peer.target, at_once, SMALL)?;
    flows.exchange(Limits { count: MOST, time: STALL }, Then::BeSilent)?;
    let limits = Limits { count: MOST_FLOWS, time: scale.slice };
    answers(peer, &mut flows, limits, Then::BeginAnew, ["flows", "first reply of a flow"])
}

fn idle_flows(peer: &Running, scale: &Scale) -> Result<Run, String> {
    let answered = |count: usize| {
        let mut flows = Flows::open(peer.target, count, SMALL)?;
        let answered = flows.exchange(Limits { count: MOST, time: STALL }, Then::BeSilent)?.latencies.len();
        if answered == count { Ok(flows) } else { Err(format!("{answered} of {count} flows were answered")) }
    };
    // What a process allocates once is not theirs.
    let _early = answered(100)?;
    let memory = || peer.procs.iter().map(Proc::memory).sum::<Result<u64, _>>();
    let before = memory()?;
    let _sitting = answered(scale.idle_visitors)?;
    let mut run = Run::default();
    if !peer.procs.is_empty() {
        run.figure("memory", "kB each", (memory()? as f64 - before as f64) / 1e3 / scale.idle_visitors as f64);
    }
    Ok(run)
}

fn fairness(peer: &Running, op: Op, scale: &Scale) -> Result<Run, String> {
    let (target, service) = (peer.target, peer.service);
    let before = tally(service)?;
    let (stop, streams) = (AtomicBool::new(false), AtomicU64::new(0));
    let stream_on = || {
        while !stop.load(Relaxed) {
            bulk::visit(&bulk::connect(target)?, op, BACKGROUND)?;
            streams.fetch_add(1, Relaxed);
        }
        Ok::<_, String>(())
    };
    let measure = || {
        std::thread::sleep(SATURATE);
        let (begun, already) = (Instant::now(), streams.load(Relaxed));
        let limits = Limits { count: MOST_VISITS, time: scale.fairness };
        let requests = Crowd::gather(target, 1, SMALL)?.exchange(limits)?;
        let visits = visits::run(target, visits::Kind::Short, 1, SMALL, limits)?;
        let bytes = (streams.load(Relaxed) - already) * BACKGROUND;
        Ok::<_, String>((requests, visits, bytes as f64 / 1e6 / begun.elapsed().as_secs_f64()))
    };
    let (requests, visits, rate) = std::thread::scope(|s| {
        let background: Vec<_> = (0..4).map(|_| s.spawn(stream_on)).collect();
        let measured = measure();
        stop.store(true, Relaxed);
        for thread in background {
            thread.join().map_err(|_| "a bulk visitor panicked".to_owned())??;
        }
        measured
    })?;
    let small = 1 + visits.latencies.len() as u64;
    settle(service, before, streams.load(Relaxed) + small)?;
    let mut run = Run::default();
    run.tail(["request p50", "request p99"], "request under bulk", Unit::Millis, requests.latencies);
    run.tail(["visit p50", "visit p99"], "visit under bulk", Unit::Millis, visits.latencies);
    run.figure("bulk", "MB/s", rate);
    Ok(run)
}
