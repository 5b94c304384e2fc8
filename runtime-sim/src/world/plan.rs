//! What a seed decides here: the scenario, the network, and which faults are on.

use crate::kernel::{Options, Path, Rng};
use crate::scenario::{
    Front, KernelFault, PROXY, Scenario, SimFault, TimingRanges, TunnelPlan, draw_clients, draw_no_pipe,
    draw_no_splice, draw_one_port, draw_scratch, draw_strategy, draw_tight, draw_turn,
};
use protocol_sm::driver::Role;
use protocol_sm::outbound::Scheme;
use protocol_sm::settings::Timings;
use std::time::Duration;

/// Most faults, in the order in which a seed draws whether they are on.
const FAULTS: [KernelFault; 23] = [
    KernelFault::Sim(SimFault::ResetCtl),
    KernelFault::Sim(SimFault::ResetProxy),
    KernelFault::Sim(SimFault::ResetPublic),
    KernelFault::Sim(SimFault::ResetLocal),
    KernelFault::Sim(SimFault::BlackholeCtl),
    KernelFault::Sim(SimFault::BlackholeProxy),
    KernelFault::Sim(SimFault::Cut),
    KernelFault::CutOneWay,
    KernelFault::FreezeServer,
    KernelFault::FreezeClient,
    KernelFault::Sim(SimFault::KillClient),
    KernelFault::Sim(SimFault::KillServer),
    KernelFault::Sim(SimFault::PowerOffClient),
    KernelFault::Sim(SimFault::PowerOffServer),
    KernelFault::Sim(SimFault::ServiceDown),
    KernelFault::ServiceBlackholed,
    KernelFault::Sim(SimFault::ServiceAcceptsNothing),
    KernelFault::Sim(SimFault::FewDescriptors),
    KernelFault::Sim(SimFault::StopClient),
    KernelFault::Sim(SimFault::StopServer),
    KernelFault::Sim(SimFault::Rival),
    KernelFault::Sim(SimFault::Stranger),
    KernelFault::Nudge,
];

/// Those that came later: each is drawn from numbers of its own, which begin with the one beside it, so that the seeds
/// without it mean what they meant before.
const LATER: [(KernelFault, u64); 12] = [
    (KernelFault::Sim(SimFault::Impostor), 0x1a7e),
    (KernelFault::CloseTunnel, 0xc105e),
    (KernelFault::Sim(SimFault::Holder), 0x401d),
    (KernelFault::Sim(SimFault::NoMemory), 0x3e3),
    (KernelFault::Sim(SimFault::ReloadClient), 0x4e10_adc1),
    (KernelFault::Sim(SimFault::ReloadServer), 0x4e10_ad5e),
    (KernelFault::Kick, 0x61c4),
    (KernelFault::ClosePort, 0xc1052),
    (KernelFault::NoLocalPort, 0xadd9),
    (KernelFault::Sim(SimFault::Upgrade), 0x0b5e_55ed),
    (KernelFault::Examine, 0xd0c7_0425),
    (KernelFault::DeadLine, 0xdead_11e5),
];

/// All faults that a seed can have.
pub fn faults() -> impl Iterator<Item = KernelFault> {
    FAULTS.into_iter().chain(LATER.map(|(fault, _)| fault))
}

/// Whether nobody else may notice anything of it.
fn is_harmless(fault: KernelFault) -> bool {
    let harmless =
        [SimFault::Impostor, SimFault::Holder, SimFault::ReloadClient, SimFault::ReloadServer, SimFault::Upgrade];
    matches!(fault, KernelFault::Examine | KernelFault::DeadLine)
        || matches!(fault, KernelFault::Sim(fault) if harmless.contains(&fault))
}

/// Where a client and its services run.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The client runs on the server's machine.
    pub on_server: bool,
    /// Its services run elsewhere than the client.
    pub remote_services: bool,
}

/// tcp_retries2.
const RETRIES: Duration = Duration::from_secs(924);

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The system that runs.
    pub scenario: Scenario,
    /// Whether a token is configured.
    pub token: bool,
    /// Visitors come through a relay, which says who they are.
    pub fronted: bool,
    /// Where each client runs.
    pub places: Vec<Place>,
    /// Accept queue of each tunnel's service.
    pub backlogs: Vec<usize>,
    /// Whether each tunnel's service listens at a Unix socket.
    pub unix: Vec<bool>,
    /// Each client has a tunnel of UDP, too, whose visitors speak all the time.
    pub flows: bool,
    /// Faults that are on.
    pub faults: Vec<KernelFault>,
    /// How many of them happen.
    pub fault_count: usize,
    /// Between client and server.
    pub wan: Path,
    /// Between visitors and server.
    pub public: Path,
    /// Between client and services.
    pub lan: Path,
    /// Socket buffers.
    pub buffers: (usize, usize),
    /// Longest time until a thread that has something to do runs.
    pub lag: Duration,
    /// At most so many events per batch.
    pub batch: usize,
}

fn path(rng: &mut Rng, slowest: Duration) -> Path {
    let latency = Duration::from_micros(rng.log_size(20, usize::try_from(slowest.as_micros()).expect("short")) as u64);
    let jitter = if rng.chance(50) { latency * u32::try_from(rng.range(0, 3)).expect("small") } else { Duration::ZERO };
    let loss = if rng.chance(15) { rng.range(1, 200) } else { 0 };
    let rate = 1 << rng.range(17, 30);
    Path { latency, jitter, rate, loss, segment: rng.log_size(500, 32 * 1024) }
}

impl Plan {
    /// What `seed` decides.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let calm = rng.chance(15);
        let token = rng.chance(80);
        let (mut backlogs, mut places) = (Vec::new(), Vec::new());
        let (clients, tunnels) = draw_clients(
            rng,
            |rng| backlogs.push(if calm { 64 } else { rng.size(1, 16) }),
            |rng| {
                let on_server = !token || rng.chance(10);
                places.push(Place { on_server, remote_services: rng.chance(50) });
            },
        );
        let mut faults: Vec<_> = FAULTS.into_iter().filter(|_| !calm && rng.chance(25)).collect();
        let mut fault_count = if faults.is_empty() { 0 } else { rng.size(1, 12) };
        let fronted = Front::draw_whether(seed);
        let tight = draw_tight(seed, calm);
        // Where there is room for all.
        let flows = Rng::new(seed ^ 0xf10e_5000).chance(25) && !fronted && tight.is_none();
        for (fault, salt) in LATER {
            let mut later = Rng::new(seed ^ salt);
            // A holder of what nobody has is a stranger.
            let may = token || fault != KernelFault::Sim(SimFault::Holder);
            let (may, chance) = if fault == KernelFault::DeadLine { (flows, 50) } else { (may, 15) };
            if later.chance(chance) && may && (!calm || is_harmless(fault)) {
                faults.push(fault);
                if fault_count == 0 {
                    fault_count = later.size(1, 6);
                }
            }
        }
        let small = !calm && rng.chance(25);
        let buffers = (rng.log_size(4 * 1024, 256 * 1024), rng.log_size(4 * 1024, 256 * 1024));
        let wan = path(rng, Duration::from_millis(80));
        let window = buffers.0.min(buffers.1);
        let visitors = rng.log_size(3, 40);
        let loop_count = rng.size(1, 3);
        let idle_conns = u32::try_from(rng.range(0, 4)).expect("small");
        let mut timings = timings(rng, calm);
        if calm && faults.contains(&KernelFault::Sim(SimFault::Upgrade)) {
            // Then nobody's transfer is cut.
            timings.drain_timeout = Duration::from_secs(600);
        }
        let length = Duration::from_millis(rng.range(3_000, 40_000));
        let (public, lan) = (path(rng, Duration::from_millis(50)), path(rng, Duration::from_millis(5)));
        let mut scenario = Scenario {
            calm,
            loop_count,
            idle_conns,
            max_waiting: if small { 2 } else { 4096 },
            max_connections: if small { 4 } else { 10_000 },
            tight,
            max_bandwidth: None,
            timings,
            clients,
            tunnels,
            visitors,
            largest: (window * 20).min(512 * 1024) / if visitors > 20 { 8 } else { 1 },
            length,
            scratch: draw_scratch(rng),
            strategy: draw_strategy(rng),
            turn: draw_turn(seed),
            short_calls: if rng.chance(50) { rng.range(1, 60) } else { 0 },
            no_pipe: draw_no_pipe(rng),
            no_splice: draw_no_splice(seed),
            // A router maps it: so what is a conn is known by its port.
            one_port: draw_one_port(seed).then_some(PROXY),
            trusted_proxies: Vec::new(),
        };
        scenario.draw_serving(seed);
        scenario.draw_frugal(seed);
        scenario.draw_sites(seed);
        scenario.draw_sealed(seed);
        scenario.draw_heads(seed);
        scenario.draw_addresses(seed);
        let mut dice = Rng::new(seed ^ 0x0a1f_0001);
        let at_path = |tunnel: &TunnelPlan| dice.chance(25) && !places[tunnel.client].remote_services;
        let unix = scenario.tunnels.iter().map(at_path).collect();
        Self {
            seed,
            scenario,
            token,
            fronted,
            places,
            backlogs,
            unix,
            flows: flows && !small,
            faults,
            fault_count,
            wan,
            public,
            lan,
            buffers,
            lag: Duration::from_micros(rng.log_size(5, 20_000) as u64),
            batch: rng.log_size(1, 64),
        }
    }

    /// Whether production encrypts the connections of this role: for the drivers, they take and give bytes at other
    /// times, and cannot be spliced.
    #[must_use]
    pub fn encrypts(&self, role: Role) -> bool {
        self.seed % 4 == 1 && matches!(role, Role::Ctl | Role::Proxy)
    }

    /// How the clients ask the proxy that is between them and the server, if one is.
    #[must_use]
    pub fn outbound(&self) -> Option<Scheme> {
        let mut rng = Rng::new(self.seed ^ 0x0b0d_4e55);
        rng.chance(15).then(|| if rng.chance(50) { Scheme::Http } else { Scheme::Socks5 })
    }

    /// Visitors of [`Plan::bench`].
    pub const BENCH_CONNECTIONS: usize = 20;

    /// The benchmark's scenario: what `seed` decides of topology, network and sizes, but five minutes without faults
    /// and always as many visitors.
    #[must_use]
    pub fn bench(seed: u64) -> Self {
        let plan = Self::new(seed);
        let scenario = Scenario {
            calm: true,
            visitors: Self::BENCH_CONNECTIONS,
            length: Duration::from_secs(300),
            max_waiting: 4096,
            max_connections: 10_000,
            tight: None,
            max_bandwidth: None,
            timings: unhurried(),
            ..plan.scenario
        };
        Self { scenario, fronted: false, flows: false, faults: Vec::new(), fault_count: 0, ..plan }
    }

    /// How production sets up a socket of this role.
    #[must_use]
    pub fn options(&self, role: Role) -> Options {
        let (user_timeout, dead_path) = match role {
            Role::Ctl => (Some(Duration::from_secs(30)), RETRIES),
            Role::Proxy => (None, self.scenario.longest_timings().conn_silence().max(Duration::from_secs(30))),
            Role::Public | Role::Local | Role::Untold => (None, RETRIES),
        };
        Options { user_timeout, dead_path, linger0: true, ..self.foreign() }
    }

    /// How visitors and services set up theirs.
    #[must_use]
    pub fn foreign(&self) -> Options {
        Options {
            send_buffer: self.buffers.0,
            receive_buffer: self.buffers.1,
            user_timeout: None,
            dead_path: RETRIES,
            keepalive: Some(Duration::from_secs(60)),
            linger0: false,
        }
    }
}

const TIMINGS: TimingRanges = TimingRanges {
    heartbeat_interval: (500, 5_000),
    reconnect_min: (50, 500),
    handshake_timeout: (2_000, 10_000),
    session_grace: (1_000, 30_000),
    wait_timeout: (500, 10_000),
    dial_timeout: (500, 5_000),
    idle_ping_interval: (1_000, 20_000),
    idle_ping_timeout: (1_000, 5_000),
    idle_conn_lifetime: (1_000, 60_000),
    half_open_timeout: (20_000, 600_000),
    drain_timeout: (500, 10_000),
    reconnect_factor: 30,
};

fn timings(rng: &mut Rng, calm: bool) -> Timings {
    if calm || rng.chance(30) { unhurried() } else { TIMINGS.draw(rng) }
}

/// The defaults, with time for a half that stays open.
fn unhurried() -> Timings {
    Timings { half_open_timeout: Duration::from_secs(600), ..Timings::default() }
}
