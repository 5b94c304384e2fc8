//! What a seed decides: topology, timings, load, and which faults happen when.

use crate::kernel::Rng;
use protocol_sm::driver::{SCRATCH, Strategy};
use protocol_sm::settings::Timings;
use std::time::Duration;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // their names say it
pub enum Fault {
    ResetCtl,
    ResetProxy,
    ResetPublic,
    ResetLocal,
    BlackholeCtl,
    BlackholeProxy,
    Partition,
    Hold,
    KillClient,
    KillServer,
    PowerOffClient,
    PowerOffServer,
    StopClient,
    StopServer,
    KillService,
    ServiceDown,
    ServiceAcceptsNothing,
    FewDescriptors,
    NoNames,
    Lag,
    Rival,
    Stranger,
    Impostor,
}

impl Fault {
    /// Most of them.
    const ALL: [Self; 22] = [
        Self::ResetCtl,
        Self::ResetProxy,
        Self::ResetPublic,
        Self::ResetLocal,
        Self::BlackholeCtl,
        Self::BlackholeProxy,
        Self::Partition,
        Self::Hold,
        Self::KillClient,
        Self::KillServer,
        Self::PowerOffClient,
        Self::PowerOffServer,
        Self::StopClient,
        Self::StopServer,
        Self::KillService,
        Self::ServiceDown,
        Self::ServiceAcceptsNothing,
        Self::FewDescriptors,
        Self::NoNames,
        Self::Lag,
        Self::Rival,
        Self::Stranger,
    ];
    /// Those that came later: they are drawn from numbers of their own, so that the seeds without them mean what they
    /// meant before.
    const LATER: [Self; 1] = [Self::Impostor];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain(Self::LATER)
    }

    /// Whether transfers must survive it.
    fn is_gentle(self) -> bool {
        matches!(self, Self::ResetCtl | Self::Lag | Self::Stranger | Self::Impostor)
    }
}

/// One fault of the plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blow {
    pub(super) fault: Fault,
    /// After the load has begun.
    pub(super) at: Duration,
    /// How long it lasts, where it lasts.
    pub(super) lasts: Duration,
}

/// A client's part of the plan.
#[derive(Clone, Debug)]
pub(super) struct ClientPlan {
    pub(super) loop_count: usize,
    /// Its tunnels: indices into [`Plan::tunnels`].
    pub(super) tunnels: Vec<usize>,
}

/// A tunnel's part of the plan.
#[derive(Clone, Debug)]
pub(super) struct TunnelPlan {
    /// 0 lets the server pick.
    pub(super) public_port: u16,
    pub(super) service_port: u16,
    /// Services shut when they have sent all; visitors may wait for that. If not, the reverse.
    pub(super) service_first: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) loop_count: usize,
    pub(super) idle_conns: u32,
    pub(super) max_waiting: u32,
    pub(super) max_connections: u32,
    pub(super) timings: Timings,
    pub(super) clients: Vec<ClientPlan>,
    pub(super) tunnels: Vec<TunnelPlan>,
    /// Visitors in the fault phase.
    pub(super) visitors: usize,
    /// Longest stream in bytes.
    pub(super) largest: usize,
    /// Length of the fault phase.
    pub(super) length: Duration,
    pub(super) blows: Vec<Blow>,
    /// Nothing that happens may cost a transfer.
    pub(super) gentle: bool,
    /// Simulated time per turn of a host.
    pub(super) tick: Duration,
    /// Slowest message.
    pub(super) latency: Duration,
    /// Bytes that a sender may be ahead of its reader.
    pub(super) window: usize,
    /// After how long a silent path is given up by the sockets themselves.
    pub(super) keepalive: Duration,
    pub(super) scratch: usize,
    pub(super) strategy: Strategy,
    /// Chance in a hundred that a call moves less than it could.
    pub(super) short: u64,
    /// Chance in a hundred that there is no pipe to be had.
    pub(super) no_pipe: u64,
}

impl Plan {
    /// What `seed` decides; `rng` is its stream of numbers.
    pub(super) fn new(seed: u64, rng: &mut Rng) -> Self {
        let gentle = rng.chance(20);
        let mut tunnels = Vec::new();
        let clients = (0..rng.size(1, 3))
            .map(|_| {
                let first = tunnels.len();
                for _ in 0..rng.size(1, 2) {
                    let index = u16::try_from(tunnels.len()).expect("few tunnels");
                    tunnels.push(TunnelPlan {
                        public_port: if rng.chance(70) { 6000 + index } else { 0 },
                        service_port: 7000 + index,
                        service_first: rng.chance(50),
                    });
                }
                ClientPlan { loop_count: rng.size(1, 3), tunnels: (first..tunnels.len()).collect() }
            })
            .collect();
        let length = Duration::from_millis(rng.range(4_000, 15_000));
        let mut on: Vec<_> =
            Fault::ALL.into_iter().filter(|fault| fault.is_gentle() || !gentle).filter(|_| rng.chance(35)).collect();
        let mut blows = if on.is_empty() { 0 } else { rng.size(1, 14) };
        let mut later = Rng::new(seed ^ 0x1a7e);
        on.extend(Fault::LATER.into_iter().filter(|_| later.chance(20)));
        if blows == 0 && !on.is_empty() {
            blows = later.size(1, 6);
        }
        let mut blows: Vec<_> = (0..blows)
            .map(|_| {
                let fault = rng.pick(&on);
                // A dial must be able to time out.
                let least = if fault == Fault::ServiceAcceptsNothing { 1_000 } else { 20 };
                Blow {
                    fault,
                    at: Duration::from_millis(rng.below(length.as_millis() as u64)),
                    lasts: Duration::from_millis(rng.log_size(least, 5_000) as u64),
                }
            })
            .collect();
        blows.sort_by_key(|blow| blow.at);
        let small = !gentle && rng.chance(20);
        let window = rng.log_size(512, 256 * 1024);
        Self {
            loop_count: rng.size(1, 3),
            idle_conns: u32::try_from(rng.range(0, 4)).expect("small"),
            max_waiting: if small { 2 } else { 4096 },
            max_connections: if small { 4 } else { 10_000 },
            timings: timings(rng, gentle),
            clients,
            tunnels,
            visitors: rng.log_size(20, 120),
            largest: (window * 8).clamp(2048, 400 * 1024),
            length,
            blows,
            gentle,
            tick: Duration::from_millis(rng.range(5, 10)),
            latency: Duration::from_millis(rng.log_size(1, 60) as u64),
            window,
            keepalive: Duration::from_millis(rng.range(2_000, 8_000)),
            scratch: if rng.chance(30) { SCRATCH } else { rng.log_size(1024, SCRATCH) },
            strategy: rng.pick(&[Strategy::Hybrid, Strategy::Hybrid, Strategy::Splice, Strategy::Copy]),
            short: if rng.chance(60) { rng.range(1, 60) } else { 0 },
            no_pipe: if rng.chance(20) { rng.range(5, 50) } else { 0 },
        }
    }

    /// How long after the last fault everything must have converged.
    pub(super) fn patience(&self) -> Duration {
        let t = &self.timings;
        let waits = t.heartbeat_timeout + t.handshake_timeout + t.session_grace + t.wait_timeout + t.dial_timeout * 3;
        waits + t.reconnect_max * 3 + t.idle_ping_timeout + self.keepalive * 2 + Duration::from_secs(30)
    }

    /// How long idle conns that died unseen may stay in a pool, and names unknown.
    pub(super) fn settling(&self) -> Duration {
        let t = &self.timings;
        t.idle_ping_interval + t.idle_ping_timeout + t.reconnect_max + self.keepalive + Duration::from_secs(6)
    }
}

fn timings(rng: &mut Rng, gentle: bool) -> Timings {
    if gentle {
        // A row of lost ctl_conns makes the pauses long: visitors outwait them.
        let wait_timeout = Duration::from_secs(60);
        return Timings { half_open_timeout: Duration::from_secs(600), wait_timeout, ..Timings::default() };
    }
    let ms = |rng: &mut Rng, low, high| Duration::from_millis(rng.range(low, high));
    let heartbeat_interval = ms(rng, 500, 2_000);
    let reconnect_min = ms(rng, 50, 300);
    Timings {
        heartbeat_interval,
        heartbeat_timeout: heartbeat_interval * 3,
        handshake_timeout: ms(rng, 1_000, 4_000),
        session_grace: ms(rng, 1_000, 8_000),
        wait_timeout: ms(rng, 500, 5_000),
        dial_timeout: ms(rng, 500, 2_000),
        // Of as many kinds as there are pauses: at once, and later than most services answer.
        answer_delay: if reconnect_min.subsec_millis() % 2 == 0 { Duration::ZERO } else { reconnect_min / 4 },
        idle_ping_interval: ms(rng, 1_000, 4_000),
        idle_ping_timeout: ms(rng, 500, 2_000),
        idle_conn_lifetime: ms(rng, 1_000, 10_000),
        half_open_timeout: ms(rng, 5_000, 60_000),
        drain_timeout: ms(rng, 500, 4_000),
        reconnect_min,
        reconnect_max: reconnect_min * 10,
    }
}
