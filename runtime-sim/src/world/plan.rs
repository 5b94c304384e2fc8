//! What a seed decides: topology, sizes, load, and which faults are on.

use crate::kernel::{Options, Path, Rng};
use protocol_sm::driver::{Role, SCRATCH, Strategy};
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
    Cut,
    CutOneWay,
    FreezeServer,
    FreezeClient,
    KillClient,
    KillServer,
    PowerOffClient,
    PowerOffServer,
    ServiceDown,
    ServiceBlackholed,
    ServiceAcceptsNothing,
    FewDescriptors,
    StopClient,
    StopServer,
    Rival,
    Stranger,
    Nudge,
    Impostor,
}

impl Fault {
    const ALL: [Self; 23] = [
        Self::ResetCtl,
        Self::ResetProxy,
        Self::ResetPublic,
        Self::ResetLocal,
        Self::BlackholeCtl,
        Self::BlackholeProxy,
        Self::Cut,
        Self::CutOneWay,
        Self::FreezeServer,
        Self::FreezeClient,
        Self::KillClient,
        Self::KillServer,
        Self::PowerOffClient,
        Self::PowerOffServer,
        Self::ServiceDown,
        Self::ServiceBlackholed,
        Self::ServiceAcceptsNothing,
        Self::FewDescriptors,
        Self::StopClient,
        Self::StopServer,
        Self::Rival,
        Self::Stranger,
        Self::Nudge,
    ];

    /// Those that came later: they are drawn from numbers of their own, so that the seeds without them mean what they
    /// meant before.
    const LATER: [Self; 1] = [Self::Impostor];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain(Self::LATER)
    }

    /// Whether nobody else may notice anything of it.
    fn is_harmless(self) -> bool {
        self == Self::Impostor
    }
}

/// A client's part of the plan.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// Its event loops.
    pub loop_count: usize,
    /// Its tunnels: indices into [`Plan::tunnels`].
    pub tunnels: Vec<usize>,
    /// Whether it runs on the server's machine.
    pub on_server: bool,
    /// Whether its services run elsewhere.
    pub remote_services: bool,
}

/// A tunnel's part of the plan.
#[derive(Clone, Debug)]
pub struct TunnelPlan {
    /// Which client's.
    pub client: usize,
    /// Public port; 0 lets the server pick.
    pub public_port: u16,
    /// Where its service listens.
    pub service_port: u16,
    /// Services shut when they have sent all; if not, some wait for the visitor's end (and visitors never for theirs).
    pub service_first: bool,
    /// Accept queue of the service.
    pub backlog: usize,
}

/// tcp_retries2.
const RETRIES: Duration = Duration::from_secs(924);

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Nothing happens that anybody could be harmed by: everybody must be served whole.
    pub calm: bool,
    /// The server's event loops.
    pub loop_count: usize,
    /// Idle conns per client.
    pub idle_conns: u32,
    /// `max_waiting` and `max_connections`.
    pub max_waiting: u32,
    /// Visitors served at once.
    pub max_connections: u32,
    /// Deadlines of both sides.
    pub timings: Timings,
    /// Whether a token is configured.
    pub token: bool,
    /// Clients.
    pub clients: Vec<ClientPlan>,
    /// Tunnels.
    pub tunnels: Vec<TunnelPlan>,
    /// Visitors in the fault phase.
    pub visitors: usize,
    /// Longest stream in bytes.
    pub largest: usize,
    /// Length of the fault phase.
    pub length: Duration,
    /// Faults that are on.
    pub faults: Vec<Fault>,
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
    /// Read buffer of a thread.
    pub scratch: usize,
    /// How payload is moved.
    pub strategy: Strategy,
    /// Chance in a hundred of a short write.
    pub short_writes: u64,
    /// Chance in a hundred that there is no pipe to be had.
    pub no_pipe: u64,
    /// Longest time until a thread that has something to do runs.
    pub lag: Duration,
    /// At most so many messages and events per batch.
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
        let mut tunnels = Vec::new();
        let clients: Vec<_> = (0..rng.size(1, 3))
            .map(|client| {
                let count = rng.size(1, 2);
                let first = tunnels.len();
                for _ in 0..count {
                    let index = u16::try_from(tunnels.len()).expect("few tunnels");
                    tunnels.push(TunnelPlan {
                        client,
                        public_port: if rng.chance(70) { 6000 + index } else { 0 },
                        service_port: 7000 + index,
                        service_first: rng.chance(50),
                        backlog: if calm { 64 } else { rng.size(1, 16) },
                    });
                }
                ClientPlan {
                    loop_count: rng.size(1, 3),
                    tunnels: (first..tunnels.len()).collect(),
                    on_server: !token || rng.chance(10),
                    remote_services: rng.chance(50),
                }
            })
            .collect();
        let mut faults: Vec<_> = Fault::ALL.into_iter().filter(|_| !calm && rng.chance(25)).collect();
        let mut fault_count = if faults.is_empty() { 0 } else { rng.size(1, 12) };
        let mut later = Rng::new(seed ^ 0x1a7e);
        faults.extend(Fault::LATER.into_iter().filter(|fault| later.chance(15) && (!calm || fault.is_harmless())));
        if fault_count == 0 && !faults.is_empty() {
            fault_count = later.size(1, 6);
        }
        let small = !calm && rng.chance(25);
        let buffers = (rng.log_size(4 * 1024, 256 * 1024), rng.log_size(4 * 1024, 256 * 1024));
        let wan = path(rng, Duration::from_millis(80));
        let window = buffers.0.min(buffers.1);
        let visitors = rng.log_size(3, 40);
        Self {
            seed,
            calm,
            loop_count: rng.size(1, 3),
            idle_conns: u32::try_from(rng.range(0, 4)).expect("small"),
            max_waiting: if small { 2 } else { 4096 },
            max_connections: if small { 4 } else { 10_000 },
            timings: timings(rng, calm),
            token,
            clients,
            tunnels,
            visitors,
            largest: (window * 20).min(512 * 1024) / if visitors > 20 { 8 } else { 1 },
            length: Duration::from_millis(rng.range(3_000, 40_000)),
            faults,
            fault_count,
            wan,
            public: path(rng, Duration::from_millis(50)),
            lan: path(rng, Duration::from_millis(5)),
            buffers,
            scratch: if rng.chance(30) { SCRATCH } else { rng.log_size(1024, SCRATCH) },
            strategy: rng.pick(&[Strategy::Hybrid, Strategy::Hybrid, Strategy::Splice, Strategy::Copy]),
            short_writes: if rng.chance(50) { rng.range(1, 60) } else { 0 },
            no_pipe: if rng.chance(20) { rng.range(5, 50) } else { 0 },
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

    /// Visitors of [`Plan::bench`].
    pub const BENCH_CONNECTIONS: usize = 20;

    /// The benchmark's scenario: what `seed` decides of topology, network and sizes, but five minutes without faults
    /// and always as many visitors.
    #[must_use]
    pub fn bench(seed: u64) -> Self {
        Self {
            calm: true,
            visitors: Self::BENCH_CONNECTIONS,
            length: Duration::from_secs(300),
            faults: Vec::new(),
            fault_count: 0,
            max_waiting: 4096,
            max_connections: 10_000,
            timings: Timings { half_open_timeout: Duration::from_secs(600), ..Timings::default() },
            ..Self::new(seed)
        }
    }

    /// How production sets up a socket of this role.
    #[must_use]
    pub fn options(&self, role: Role) -> Options {
        let (user_timeout, dead_path) = match role {
            Role::Ctl => (Some(Duration::from_secs(30)), RETRIES),
            Role::Proxy => (None, Duration::from_secs(30)),
            Role::Public | Role::Local => (None, RETRIES),
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

fn timings(rng: &mut Rng, calm: bool) -> Timings {
    if calm || rng.chance(30) {
        return Timings { half_open_timeout: Duration::from_secs(600), ..Timings::default() };
    }
    let ms = |rng: &mut Rng, low, high| Duration::from_millis(rng.range(low, high));
    let heartbeat_interval = ms(rng, 500, 5_000);
    let reconnect_min = ms(rng, 50, 500);
    Timings {
        heartbeat_interval,
        heartbeat_timeout: heartbeat_interval * 3,
        handshake_timeout: ms(rng, 2_000, 10_000),
        session_grace: ms(rng, 1_000, 30_000),
        wait_timeout: ms(rng, 500, 10_000),
        dial_timeout: ms(rng, 500, 5_000),
        // Of as many kinds as there are pauses: at once, and later than most services answer.
        answer_delay: if reconnect_min.subsec_millis() % 2 == 0 { Duration::ZERO } else { reconnect_min / 4 },
        idle_ping_interval: ms(rng, 1_000, 20_000),
        idle_ping_timeout: ms(rng, 1_000, 5_000),
        idle_conn_lifetime: ms(rng, 1_000, 60_000),
        half_open_timeout: ms(rng, 20_000, 600_000),
        drain_timeout: ms(rng, 500, 10_000),
        reconnect_min,
        reconnect_max: reconnect_min * 30,
    }
}
