//! What a seed decides here: the scenario, the network's pace, and which faults happen when.

use crate::kernel::Rng;
use crate::scenario::{
    CTL, Front, Scenario, SimFault, TimingRanges, TurmoilFault, draw_clients, draw_no_pipe, draw_no_splice,
    draw_one_port, draw_scratch, draw_strategy, draw_tight, draw_turn,
};
use protocol_sm::settings::Timings;
use std::time::Duration;

/// Most faults, in the order in which a seed draws whether they are on.
const FAULTS: [TurmoilFault; 22] = [
    TurmoilFault::Sim(SimFault::ResetCtl),
    TurmoilFault::Sim(SimFault::ResetProxy),
    TurmoilFault::Sim(SimFault::ResetPublic),
    TurmoilFault::Sim(SimFault::ResetLocal),
    TurmoilFault::Sim(SimFault::BlackholeCtl),
    TurmoilFault::Sim(SimFault::BlackholeProxy),
    TurmoilFault::Sim(SimFault::Cut),
    TurmoilFault::Hold,
    TurmoilFault::Sim(SimFault::KillClient),
    TurmoilFault::Sim(SimFault::KillServer),
    TurmoilFault::Sim(SimFault::PowerOffClient),
    TurmoilFault::Sim(SimFault::PowerOffServer),
    TurmoilFault::Sim(SimFault::StopClient),
    TurmoilFault::Sim(SimFault::StopServer),
    TurmoilFault::KillService,
    TurmoilFault::Sim(SimFault::ServiceDown),
    TurmoilFault::Sim(SimFault::ServiceAcceptsNothing),
    TurmoilFault::Sim(SimFault::FewDescriptors),
    TurmoilFault::NoNames,
    TurmoilFault::Lag,
    TurmoilFault::Sim(SimFault::Rival),
    TurmoilFault::Sim(SimFault::Stranger),
];

/// Those that came later: they are drawn from numbers of their own, so that the seeds without them mean what they
/// meant before.
const LATER: [(TurmoilFault, u64); 7] = [
    (TurmoilFault::Sim(SimFault::Impostor), 0x1a7e),
    (TurmoilFault::Sim(SimFault::Holder), 0x401d),
    (TurmoilFault::Sim(SimFault::NoMemory), 0x3e3),
    (TurmoilFault::ForgetfulNat, 0x2a7),
    (TurmoilFault::Sim(SimFault::ReloadClient), 0x4e10_adc1),
    (TurmoilFault::Sim(SimFault::ReloadServer), 0x4e10_ad5e),
    (UPGRADE, 0x0b5e_55ed),
];

const UPGRADE: TurmoilFault = TurmoilFault::Sim(SimFault::Upgrade);

/// All faults that a seed can have.
pub fn faults() -> impl Iterator<Item = TurmoilFault> {
    FAULTS.into_iter().chain(LATER.map(|(fault, _)| fault))
}

/// Those that `seed` has.
pub fn faults_of(seed: u64) -> impl Iterator<Item = TurmoilFault> {
    Plan::new(seed, &mut Rng::new(seed)).blows.into_iter().map(|blow| blow.fault)
}

/// Whether transfers must survive it. A hostile holder's own need not.
fn is_gentle(fault: TurmoilFault) -> bool {
    match fault {
        TurmoilFault::Sim(fault) => {
            let gentle = [SimFault::ResetCtl, SimFault::Stranger, SimFault::Impostor, SimFault::Upgrade];
            gentle.contains(&fault) || matches!(fault, SimFault::ReloadClient | SimFault::ReloadServer)
        }
        TurmoilFault::Lag => true,
        TurmoilFault::Hold | TurmoilFault::ForgetfulNat | TurmoilFault::KillService | TurmoilFault::NoNames => false,
    }
}

/// One fault of the plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blow {
    pub(super) fault: TurmoilFault,
    /// After the load has begun.
    pub(super) at: Duration,
    /// How long it lasts, where it lasts.
    pub(super) lasts: Duration,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// The system that runs.
    pub(super) scenario: Scenario,
    /// Every program is asked all the time what it does.
    pub(super) asks: bool,
    pub(super) blows: Vec<Blow>,
    /// A relay stands in front of the server: visitors say who they are.
    pub(super) fronted: bool,
    /// Simulated time per turn of a host.
    pub(super) tick: Duration,
    /// Slowest message.
    pub(super) latency: Duration,
    /// Bytes that a sender may be ahead of its reader.
    pub(super) window: usize,
    /// After how long a silent path is given up by the sockets themselves.
    pub(super) keepalive: Duration,
}

impl Plan {
    /// What `seed` decides; `rng` is its stream of numbers.
    pub(super) fn new(seed: u64, rng: &mut Rng) -> Self {
        let calm = rng.chance(20);
        let (clients, tunnels) = draw_clients(rng, |_| {}, |_| {});
        let length = Duration::from_millis(rng.range(4_000, 15_000));
        let mut on: Vec<_> =
            FAULTS.into_iter().filter(|&fault| is_gentle(fault) || !calm).filter(|_| rng.chance(35)).collect();
        let mut blows = if on.is_empty() { 0 } else { rng.size(1, 14) };
        for (fault, salt) in LATER {
            let mut later = Rng::new(seed ^ salt);
            // A session that has no ctl_conn while its server is upgraded is over, and what it carries (P-LEAVE-4).
            let cuts = fault == UPGRADE && on.contains(&TurmoilFault::Sim(SimFault::ResetCtl));
            if later.chance(20) && (is_gentle(fault) && !cuts || !calm) {
                on.push(fault);
            }
            if blows == 0 && !on.is_empty() {
                blows = later.size(1, 6);
            }
        }
        let mut blows: Vec<_> = (0..blows)
            .map(|_| {
                let fault = rng.pick(&on);
                // A dial must be able to time out.
                let least = if fault == TurmoilFault::Sim(SimFault::ServiceAcceptsNothing) { 1_000 } else { 20 };
                Blow {
                    fault,
                    at: Duration::from_millis(rng.below(length.as_millis() as u64)),
                    lasts: Duration::from_millis(rng.log_size(least, 5_000) as u64),
                }
            })
            .collect();
        blows.sort_by_key(|blow| blow.at);
        let small = !calm && rng.chance(20);
        let window = rng.log_size(512, 256 * 1024);
        let loop_count = rng.size(1, 3);
        let idle_conns = u32::try_from(rng.range(0, 4)).expect("small");
        let mut timings = timings(rng, calm);
        if calm && on.contains(&UPGRADE) {
            // Then nobody's transfer is cut.
            timings.drain_timeout = Duration::from_secs(600);
        }
        let visitors = rng.log_size(20, 120);
        let tick = Duration::from_millis(rng.range(5, 10));
        let latency = Duration::from_millis(rng.log_size(1, 60) as u64);
        let keepalive = Duration::from_millis(rng.range(2_000, 8_000));
        let mut scenario = Scenario {
            calm,
            loop_count,
            idle_conns,
            max_waiting: if small { 2 } else { 4096 },
            max_connections: if small { 4 } else { 10_000 },
            tight: draw_tight(seed, calm),
            max_bandwidth: None,
            timings,
            clients,
            tunnels,
            visitors,
            largest: (window * 8).clamp(2048, 400 * 1024),
            length,
            scratch: draw_scratch(rng),
            strategy: draw_strategy(rng),
            turn: draw_turn(seed),
            short_calls: if rng.chance(60) { rng.range(1, 60) } else { 0 },
            no_pipe: draw_no_pipe(rng),
            no_splice: draw_no_splice(seed),
            trusted_proxies: Vec::new(),
            one_port: draw_one_port(seed).then_some(CTL),
        };
        scenario.draw_sites(seed);
        scenario.draw_serving(seed);
        scenario.draw_heads(seed);
        scenario.draw_frugal(seed);
        Self {
            seed,
            scenario,
            asks: seed % 4 == 3,
            blows,
            fronted: Front::draw_whether(seed),
            tick,
            latency,
            window,
            keepalive,
        }
    }

    /// How long after the last fault everything must have converged.
    pub(super) fn patience(&self) -> Duration {
        let t = self.scenario.longest_timings();
        let waits = t.heartbeat_timeout + t.handshake_timeout + t.kept() + t.wait_timeout + t.dial_timeout * 3;
        waits + t.reconnect_max * 3 + t.idle_ping_timeout + self.keepalive * 2 + Duration::from_secs(30)
    }

    /// How long idle conns that died unseen may stay in a pool, and names unknown.
    pub(super) fn settling(&self) -> Duration {
        let t = self.scenario.longest_timings();
        t.idle_ping_interval + t.idle_ping_timeout + t.reconnect_max + self.keepalive + Duration::from_secs(6)
    }
}

const TIMINGS: TimingRanges = TimingRanges {
    heartbeat_interval: (500, 2_000),
    reconnect_min: (50, 300),
    handshake_timeout: (1_000, 4_000),
    session_grace: (1_000, 8_000),
    wait_timeout: (500, 5_000),
    dial_timeout: (500, 2_000),
    idle_ping_interval: (1_000, 4_000),
    idle_ping_timeout: (500, 2_000),
    idle_conn_lifetime: (1_000, 10_000),
    half_open_timeout: (5_000, 60_000),
    drain_timeout: (500, 4_000),
    reconnect_factor: 10,
};

fn timings(rng: &mut Rng, calm: bool) -> Timings {
    if !calm {
        return TIMINGS.draw(rng);
    }
    // A row of lost ctl_conns makes the pauses long: visitors outwait them.
    let wait_timeout = Duration::from_secs(60);
    Timings { half_open_timeout: Duration::from_secs(600), wait_timeout, ..Timings::default() }
}
