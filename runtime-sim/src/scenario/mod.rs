//! What the two rings that run whole systems have in common: which system a seed describes, what its visitors and
//! services do, and what goes wrong.
//!
//! Nothing here knows a network. The simulated kernel ([`crate::world`]) and turmoil ([`crate::swarm`]) each put a
//! [`Scenario`] into a plan of their own, beside what only their network has, and draw it in their own order, so that
//! a seed goes on meaning what it meant.

mod faults;
mod front;
mod greeting;
mod inquiry;
mod left;
mod reload;
mod script;
mod timings;

pub use faults::{KernelFault, SimFault, TurmoilFault};
pub(crate) use front::Front;
pub(crate) use inquiry::Inquiry;
pub(crate) use left::sort_left;
pub(crate) use reload::{Reach, draw_client, draw_server, flow_called, tunnel_called};
pub(crate) use script::{Fate, Habits, Outcome, Script, Shut};
pub(crate) use timings::TimingRanges;

use crate::holder;
use crate::kernel::Rng;
use greeting::greeting;
use greeting::visited;
pub(crate) use greeting::{ANSWER, MET, Manner};
use protocol_sm::bandwidth::Rate;
use protocol_sm::budget::Budget;
use protocol_sm::driver::{BULK, Strategy, TURN};
use protocol_sm::proxy_protocol::{ProxyProtocol, header_with_fields};
use protocol_sm::routes::{Agreed, Secured, Site, Speaks, Web};
use protocol_sm::settings::{Credential, Scope, ServerSettings, Serving, Timings, Token, TunnelLimits};
use protocol_sm::sources::Network;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Duration;

/// The server's port for ctl_conns.
pub(crate) const CTL: u16 = 8080;
/// The server's port for proxy_conns.
pub(crate) const PROXY: u16 = 8090;
/// The ports of hosts, for plain HTTP and for TLS.
pub(crate) const HOSTS: [u16; 2] = [80, 443];
/// A public port that several tunnels may have, each at an address of its own.
pub(crate) const SHARED: u16 = 6600;

/// The system that a seed describes, on whatever network it runs.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Nothing happens that may cost a transfer: everybody must be served whole.
    pub calm: bool,
    /// The server's event loops.
    pub loop_count: usize,
    /// Idle conns per client.
    pub idle_conns: u32,
    /// Visitors of a tunnel who may wait for a conn.
    pub max_waiting: u32,
    /// Visitors served at once.
    pub max_connections: u32,
    /// What the server's descriptors and one address's part allow, where that is little.
    pub tight: Option<Tight>,
    /// What the server lets each tunnel move in each direction.
    pub max_bandwidth: Rate,
    /// Deadlines of both sides.
    pub timings: Timings,
    /// Clients.
    pub clients: Vec<ClientPlan>,
    /// Tunnels of all clients.
    pub tunnels: Vec<TunnelPlan>,
    /// Visitors in the fault phase.
    pub visitors: usize,
    /// Longest stream in bytes.
    pub largest: usize,
    /// Length of the fault phase.
    pub length: Duration,
    /// Read buffer of a thread.
    pub scratch: usize,
    /// How payload is moved.
    pub strategy: Strategy,
    /// Bytes that one direction of a transfer may move in a turn.
    pub turn: usize,
    /// Chance in a hundred that a call moves less than it could.
    pub short_calls: u64,
    /// Chance in a hundred that there is no pipe to be had.
    pub no_pipe: u64,
    /// Chance in a hundred that a splice(2) is refused as a system refuses it that lacks the call.
    pub no_splice: u64,
    /// Who speaks for visitors, in front of the server.
    pub trusted_proxies: Vec<Network>,
    /// The server has one port, `CTL`, for clients and for visitors of hosts. At this one, it says, is its proxy port.
    pub one_port: Option<u16>,
}

/// Limits that are far above what a simulation loads, made small enough to be met.
#[derive(Clone, Copy, Debug)]
pub struct Tight {
    /// Visitors of all holders.
    pub visitors: u32,
    /// Visitors of one holder from one address.
    pub per_source: u32,
    /// Conns of all holders, beyond those that are kept ready.
    pub conns: u32,
}

/// A client's part of the scenario.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// Its event loops.
    pub loop_count: usize,
    /// Its tunnels: indices into [`Scenario::tunnels`].
    pub tunnels: Vec<usize>,
    /// Little is sent in its sessions while nobody visits.
    pub frugal: bool,
}

/// A tunnel's part of the scenario.
#[derive(Clone, Debug)]
pub struct TunnelPlan {
    /// Which client's.
    pub client: usize,
    /// Public port; 0 lets the server pick.
    pub public_port: u16,
    /// The address of the server's machine where that is; none: all of them.
    pub bind_addr: Option<IpAddr>,
    /// Where its service listens.
    pub service_port: u16,
    /// Services shut when they have sent all, and some visitors wait for that. If not, the reverse.
    pub service_first: bool,
    /// How its client serves visitors.
    pub serving: Serving,
    /// The host whose visitors it has, instead of a public port.
    pub site: Option<Site>,
    /// They come over TLS, which ends at the server.
    pub sealed: bool,
    /// What their heads are like.
    pub(crate) manner: Manner,
}

impl TunnelPlan {
    /// What a visitor who comes to it says before anything else: what leads to its host.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        self.site.as_ref().map_or_else(Vec::new, |site| match site.web {
            Web::Http => self.manner.head(site),
            Web::Https => greeting(site, Web::Https),
        })
    }

    /// What its service is told instead of the head, where it is told by that for whom a visitor comes.
    #[must_use]
    pub(crate) fn told(&self, visitor: SocketAddr) -> Option<Vec<u8>> {
        let site = self.site.as_ref().filter(|_| self.serving.service.forwarded)?;
        // Of HTTP/2 no head is read.
        let read = !self.sealed || agreed(self.serving.service.speaks, visitor.port()) != Some(Agreed::Http2);
        let scheme = if self.sealed { "https" } else { "http" };
        read.then(|| self.manner.told(site, visitor.ip(), scheme))
    }

    /// What begins a visitor's TLS, if that ends at the server.
    #[must_use]
    pub fn hello(&self) -> Option<Vec<u8>> {
        self.site.as_ref().filter(|_| self.sealed).map(|site| greeting(site, Web::Https))
    }

    /// What the server knows of the TLS of a visitor who comes to it from this port.
    #[must_use]
    pub(crate) fn secured(&self, port: u16) -> Option<Secured> {
        let site = self.site.as_ref().filter(|site| self.sealed || site.web == Web::Https)?;
        let agreed = agreed(self.serving.service.speaks, port).filter(|_| self.sealed);
        Some(Secured { host: Some(visited(site).parse().expect("a host")), agreed })
    }

    /// The header that tells its service who a visitor is, who has come to `public`.
    #[must_use]
    pub(crate) fn proxy_header(&self, visitor: SocketAddr, public: SocketAddr) -> Option<Vec<u8>> {
        let version = self.serving.proxy_protocol?;
        let secured = self.secured(visitor.port()).filter(|_| self.serving.proxy_protocol_tlvs);
        Some(match secured {
            Some(secured) => header_with_fields(visitor, public, &secured),
            None => version.header(visitor, public),
        })
    }
}

/// What is agreed on in TLS that ends at the server, by a visitor who comes from this port.
pub(crate) fn agreed(speaks: Speaks, port: u16) -> Option<Agreed> {
    match (speaks, port % 3) {
        (_, 0) => None,
        (Speaks::Both, 1) | (Speaks::Http2, _) => Some(Agreed::Http2),
        (Speaks::Both | Speaks::Http1, _) => Some(Agreed::Http1),
    }
}

impl Scenario {
    /// Draws which tunnels have hosts instead of public ports. Its dice are its own, too.
    pub(crate) fn draw_sites(&mut self, seed: u64) {
        let mut rng = Rng::new(seed ^ 0x5173_0000);
        for (index, tunnel) in self.tunnels.iter_mut().enumerate() {
            let (web, all_below) = (rng.pick(&Web::ALL), rng.chance(30));
            let host = format!("{}tunnel{index}.example", if all_below { "*." } else { "" });
            if rng.chance(20) {
                tunnel.public_port = 0;
                tunnel.site = Some(Site { web, host: host.parse().expect("a host") });
            }
        }
    }

    /// Draws which tunnels have their public port at an address of their own, most of them the same port. Its dice are its own,
    /// too.
    pub(crate) fn draw_addresses(&mut self, seed: u64) {
        let mut rng = Rng::new(seed ^ 0xadd2_0000);
        let some = rng.chance(25);
        for (index, tunnel) in (1..).zip(&mut self.tunnels) {
            let (own, shared) = (rng.chance(70), rng.chance(80));
            if some && own && tunnel.site.is_none() {
                tunnel.bind_addr = Some(IpAddr::from([10, 1, 0, index]));
                tunnel.public_port = if shared { SHARED } else { tunnel.public_port };
            }
        }
    }

    /// Draws of which hosts visitors come over TLS that ends at the server. Its dice are its own, too.
    pub(crate) fn draw_sealed(&mut self, seed: u64) {
        let mut rng = Rng::new(seed ^ 0x7153_0000);
        for tunnel in &mut self.tunnels {
            let plain = tunnel.site.as_ref().is_some_and(|site| site.web == Web::Http);
            tunnel.sealed = rng.chance(50) && plain;
            if tunnel.sealed && rng.chance(50) {
                tunnel.serving.service.speaks = Speaks::Both;
            }
        }
    }

    /// Draws of which hosts visitors in the clear are sent to TLS, which services are told by the head for whom it comes, and
    /// whose visitors ask for an authority's challenge. Its dice are its own, too.
    pub(crate) fn draw_heads(&mut self, seed: u64) {
        let mut rng = Rng::new(seed ^ 0x4ead_0000);
        for tunnel in &mut self.tunnels {
            let plain = tunnel.site.as_ref().is_some_and(|site| site.web == Web::Http);
            let [redirects, forwards, asks] = [50, 40, 30].map(|chance| rng.chance(chance) && plain);
            let service = &mut tunnel.serving.service;
            (service.redirect, service.forwarded) = (redirects && tunnel.sealed, forwards);
            tunnel.manner = Manner { asks, forges: forwards };
        }
    }

    /// Draws how tunnels are served. Its dice are its own, as those of [`draw_no_splice`].
    pub(crate) fn draw_serving(&mut self, seed: u64) {
        let mut rng = Rng::new(seed ^ 0xba4d_51d7);
        let mut draw = |chance| {
            let rate = rng.log_size(64 * 1024, 8 * 1024 * 1024) as u64;
            NonZeroU64::new(rate).filter(|_| rng.chance(chance))
        };
        self.max_bandwidth = draw(15);
        self.tunnels.iter_mut().for_each(|tunnel| tunnel.serving.max_bandwidth = draw(15));
        let mut rng = Rng::new(seed ^ 0x9806_4ead);
        for tunnel in &mut self.tunnels {
            let version = rng.pick(&[ProxyProtocol::V1, ProxyProtocol::V2]);
            tunnel.serving.proxy_protocol = Some(version).filter(|_| rng.chance(15));
        }
        let mut rng = Rng::new(seed ^ 0x71f5_0000);
        for tunnel in &mut self.tunnels {
            let fields = rng.chance(60) && tunnel.serving.proxy_protocol == Some(ProxyProtocol::V2);
            tunnel.serving.proxy_protocol_tlvs = fields;
        }
    }

    /// Draws which clients are frugal. Its dice are its own, as those of [`draw_no_splice`].
    pub(crate) fn draw_frugal(&mut self, seed: u64) {
        let mut rng = Rng::new(seed ^ 0xf209_a150);
        let one_is = !self.calm && rng.chance(20);
        self.clients.iter_mut().for_each(|client| client.frugal = one_is && rng.chance(60));
    }

    /// Where visitors of hosts come in who speak so.
    pub(crate) fn host_port(&self, web: Web) -> u16 {
        if self.one_port.is_some() { CTL } else { HOSTS[web as usize] }
    }

    /// Where conns go to.
    pub(crate) fn proxy_port(&self) -> u16 {
        self.one_port.unwrap_or(PROXY)
    }

    /// Idle conns that the server keeps of each client.
    pub(crate) fn pools(&self) -> impl Iterator<Item = usize> {
        let idle_conns = self.idle_conns as usize;
        self.clients.iter().map(move |client| if client.frugal { idle_conns.min(1) } else { idle_conns })
    }

    /// Deadlines of a client.
    pub(crate) fn timings_of(&self, client: usize) -> Timings {
        self.timings.of(self.clients[client].frugal)
    }

    /// Those of the client that takes its time.
    pub(crate) fn longest_timings(&self) -> Timings {
        self.timings.of(self.clients.iter().any(|client| client.frugal))
    }

    /// What `clients` who are one holder may use together: what each of them needs.
    fn scope(&self, clients: usize) -> Scope {
        let clients = u32::try_from(clients).expect("few clients");
        Scope {
            max_waiting: self.max_waiting * clients,
            max_connections: self.max_connections * clients,
            max_connections_per_source: self.tight.map(|tight| tight.per_source),
            max_bandwidth: self.max_bandwidth,
            allow_bind_addrs: vec![Network::new(IpAddr::from([10, 1, 0, 0]), 16).expect("a network")],
            ..Scope::default()
        }
    }

    /// What the server's descriptors allow.
    fn budget(&self) -> Budget {
        let Some(tight) = self.tight else { return Budget::default() };
        let ready = u32::try_from(self.clients.len()).expect("few clients") * self.idle_conns;
        Budget { visitors: tight.visitors, conns: ready + tight.conns, ..Budget::default() }
    }

    /// The server's settings. With `tokens` each client has its own, and so has a neighbour who runs no client, but may
    /// have sessions: [`client_token`], [`neighbour_token`]; and one who means harm. Without, all are one holder.
    pub(crate) fn server(&self, tokens: bool) -> ServerSettings {
        let credential = |client| Credential {
            name: format!("client{client}"),
            tokens: vec![if client == self.clients.len() { neighbour_token() } else { client_token(client) }],
            scope: self.scope(1),
        };
        let clients = (0..=self.clients.len()).map(credential);
        let mut hostile = holder::credential();
        hostile.scope.max_connections_per_source = self.tight.map(|tight| tight.per_source);
        ServerSettings {
            credentials: if tokens { clients.chain([hostile]).collect() } else { Vec::new() },
            budget: self.budget(),
            open_scope: self.scope(self.clients.len()),
            idle_conns: self.idle_conns,
            trusted_proxies: self.trusted_proxies.clone(),
            access_log: true,
            advertise_proxy_port: self.one_port,
            timings: self.timings.clone(),
            ..ServerSettings::default()
        }
    }

    /// What the client asks for a tunnel: where there is little room, every other tunnel asks for less.
    pub(crate) fn limits(&self, tunnel: usize) -> TunnelLimits {
        let max_connections = if self.max_connections < 10 && tunnel % 2 == 1 { 2 } else { 0 };
        TunnelLimits { max_connections, ..TunnelLimits::default() }
    }
}

/// A client's token, where it has one.
pub(crate) fn client_token(client: usize) -> Token {
    Token::new(format!("the token of client {client}").into_bytes())
}

/// The token of the neighbour, who has no client of ours.
pub(crate) fn neighbour_token() -> Token {
    Token::new(b"the token of a neighbour".to_vec())
}

/// Draws clients and their tunnels. `on_tunnel` and `on_client` draw what only one ring knows of each, right behind
/// what is drawn here.
pub(crate) fn draw_clients(
    rng: &mut Rng,
    mut on_tunnel: impl FnMut(&mut Rng),
    mut on_client: impl FnMut(&mut Rng),
) -> (Vec<ClientPlan>, Vec<TunnelPlan>) {
    let mut tunnels = Vec::new();
    let clients = (0..rng.size(1, 3))
        .map(|client| {
            let first = tunnels.len();
            for _ in 0..rng.size(1, 2) {
                let index = u16::try_from(tunnels.len()).expect("few tunnels");
                tunnels.push(TunnelPlan {
                    client,
                    public_port: if rng.chance(70) { 6000 + index } else { 0 },
                    bind_addr: None,
                    service_port: 7000 + index,
                    service_first: rng.chance(50),
                    serving: Serving::default(),
                    site: None,
                    sealed: false,
                    manner: Manner::default(),
                });
                on_tunnel(rng);
            }
            let client =
                ClientPlan { loop_count: rng.size(1, 3), tunnels: (first..tunnels.len()).collect(), frugal: false };
            on_client(rng);
            client
        })
        .collect();
    (clients, tunnels)
}

/// Draws the size of a thread's read buffer.
pub(crate) fn draw_scratch(rng: &mut Rng) -> usize {
    4 * if rng.chance(30) { BULK } else { rng.log_size(1024, BULK) }
}

/// Draws how much one direction of a transfer moves in a turn: production's, or less, so that streams of a simulation
/// take several turns. Its dice are its own.
pub(crate) fn draw_turn(seed: u64) -> usize {
    let mut rng = Rng::new(seed ^ 0x7024_0000);
    if rng.chance(50) { TURN } else { rng.log_size(1024, TURN) }
}

/// Draws how payload is moved.
pub(crate) fn draw_strategy(rng: &mut Rng) -> Strategy {
    rng.pick(&[Strategy::Hybrid, Strategy::Hybrid, Strategy::Splice, Strategy::Copy])
}

/// Draws the chance in a hundred that there is no pipe to be had.
pub(crate) fn draw_no_pipe(rng: &mut Rng) -> u64 {
    if rng.chance(20) { rng.range(5, 50) } else { 0 }
}

/// Draws limits that are met, for some seeds in which not everybody must be served. Its dice are its own, too.
pub(crate) fn draw_tight(seed: u64, calm: bool) -> Option<Tight> {
    let mut rng = Rng::new(seed ^ 0x7197_0000);
    let mut draw = |low, high| u32::try_from(rng.range(low, high)).expect("small");
    let (dice, visitors, per_source, conns) = (draw(0, 99), draw(3, 9), draw(2, 6), draw(1, 6));
    (!calm && dice < 15).then_some(Tight { visitors, per_source, conns })
}

/// Draws whether the server has one port. Its dice are its own.
pub(crate) fn draw_one_port(seed: u64) -> bool {
    Rng::new(seed ^ 0x0e09_0127).chance(15)
}

/// Draws the chance in a hundred that a splice(2) is refused. Its dice are its own, so that a seed's other choices are
/// what they were before this one came.
pub(crate) fn draw_no_splice(seed: u64) -> u64 {
    let mut rng = Rng::new(seed ^ 0x5911_ce04);
    if rng.chance(10) { rng.range(1, 60) } else { 0 }
}
