//! One client's session on the server: its numbered messages, tunnels and conns.
//!
//! ```text
//!   attached (a ctl_conn) ──lost──▶ detached ──▶ asleep: no tunnels ──▶ over
//!        ▲                              │          │
//!        └────────── resumed ───────────┴──────────┘        replaced, closed, violation: over at once
//! ```
//! It decides; the server's main thread owns the sockets and carries out what is returned.
//!
//! Invariants:
//! - K1 a tunnel is told ready or refused once per registration, and refused once the client drains, or when the server's
//!   operator has closed it; one that was told ready is told refused once when it is released;
//! - K2 a conn's number is admitted once, and belongs to one event loop until it is gone;
//! - K3 what a loop asked for is answered by a conn or by a failure, never by both;
//! - K4 one public port at most is being opened, for the registration that came first; what comes of it concerns no
//!   other registration, and one that was closed meanwhile leaves no port open;
//! - K5 all sessions of a holder leave no more unacknowledged than one may, and 128 for each;
//! - K6 a tunnel that was only asked about has no public port, and takes nothing of what its holder may have.

mod answers;
mod conns;

pub use answers::{Admitted, Asked, Bind, Bound, Place, Reaction, TunnelView, Withdrawn};
pub use conns::Admission;

use crate::auth::{ReplayWindow, SessionKey};
use crate::canary::{PlantedBug, planted};
use crate::codes::{TunnelRefusal, Violation};
use crate::gate::Gate;
use crate::ids::{ClientId, ConnId, ControlKey, Registration, SessionId, TunnelId};
use crate::ledger::{Good, Holder, Ledger};
use crate::pool::Pool;
use crate::ports::may_clash;
use crate::routes::Service;
use crate::session::NumberedMessages;
use crate::settings::{Scope, Token, TunnelLimits};
use crate::sources::SourceLists;
use crate::sys_error::SysError;
use crate::transfer::Fin;
use crate::wire::{ClientBody, ClientMsg, EXAMINE, FRUGAL, ServerMsg, TransferMsg};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Control {
    /// The server's serial number for it.
    pub key: ControlKey,
    /// Its name on the wire.
    pub id: SessionId,
    /// Who the client says it is.
    pub client: ClientId,
    /// The credential that its client proved.
    pub credential: Holder,
    /// The token that its client has proved last; none where the server has none.
    pub token: Option<Token>,
    /// The features that were chosen on its last ctl_conn.
    pub features: u64,
    /// Its numbered messages.
    pub session: NumberedMessages<ServerMsg>,
    secret: SessionKey,
    scope: Scope,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    /// How many of the tunnels it was only asked about: each message is held against what it has.
    examined: u32,
    /// Tunnels whose public port is yet to be opened, by the serial numbers of their registrations.
    waiting: BTreeMap<u64, TunnelId>,
    /// The registration whose public port is being opened.
    binding: Option<Registration>,
    last_serial: u64,
    /// Tunnels that the server's operator has closed.
    closed: BTreeSet<TunnelId>,
    /// The client has said `Drain`, or another process of it took over: it gets no more tunnels.
    draining: bool,
    /// The session of the process that takes over from its client, or has. Until that is over, this session takes no
    /// place among those that its holder may have, and neither do its tunnels.
    heir: Option<ControlKey>,
    /// Which event loop has a conn.
    conns: BTreeMap<ConnId, u16>,
    window: ReplayWindow,
    /// Conns asked for and not yet come, per event loop.
    asked: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tunnel {
    asked: Asked,
    service: Service,
    limits: TunnelLimits,
    serial: u64,
    /// Its client only wants to know whether it could have it.
    examined: bool,
    stage: TunnelStage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TunnelStage {
    Waiting {
        random: u32,
    },
    Binding,
    Open(SocketAddr),
    /// It could be, and is not.
    Examined,
}

impl Control {
    /// Ports tried when the server picks one.
    const CANDIDATES: usize = 64;
    /// Messages that a session may leave unacknowledged whatever the others of its holder do: twice what an honest
    /// client, who acknowledges every 64, leaves while nothing is lost.
    const OWN_UNACKED: usize = 128;

    /// A new session with nothing in it; `loop_count` is the number of event loops.
    #[must_use]
    pub fn new(
        key: ControlKey,
        id: SessionId,
        client: ClientId,
        credential: Holder,
        secret: SessionKey,
        scope: Scope,
        loop_count: usize,
    ) -> Self {
        Self {
            key,
            id,
            client,
            credential,
            token: None,
            features: 0,
            session: NumberedMessages::bounded(max_unacked(scope.max_connections, loop_count)),
            secret,
            scope,
            tunnels: BTreeMap::new(),
            examined: 0,
            waiting: BTreeMap::new(),
            binding: None,
            last_serial: 0,
            closed: BTreeSet::new(),
            draining: false,
            heir: None,
            conns: BTreeMap::new(),
            window: ReplayWindow::default(),
            asked: vec![0; loop_count],
        }
    }

    /// Whether little is to be sent in it while nobody visits.
    #[must_use]
    pub fn is_frugal(&self) -> bool {
        self.features & FRUGAL != 0
    }

    /// What it may use.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The registrations whose public ports are open.
    pub fn open_tunnels(&self) -> impl Iterator<Item = Registration> {
        self.tunnels.iter().filter_map(|(&tunnel, state)| state.open(tunnel))
    }

    /// Its tunnels, open or not, in the order of their numbers.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelView<'_>> {
        self.tunnels.iter().map(|(&tunnel, state)| TunnelView {
            tunnel,
            name: &state.asked.name,
            wanted: state.asked.wanted,
            bind_addr: state.asked.bind_addr,
            udp: state.asked.udp,
            site: state.asked.site.as_ref(),
            public: match state.stage {
                TunnelStage::Open(public) => Some(public),
                TunnelStage::Waiting { .. } | TunnelStage::Binding | TunnelStage::Examined => None,
            },
        })
    }

    /// The registration whose public port is being opened.
    #[must_use]
    pub fn binding(&self) -> Option<Registration> {
        self.binding
    }

    /// Whether it has the port or the host at this place, or is opening it. Where there are several ports, none is meant.
    #[must_use]
    pub fn has(&self, place: &Place, bind_addr: Option<IpAddr>) -> bool {
        let has = |stage: &TunnelStage| match stage {
            TunnelStage::Binding | TunnelStage::Open(_) => true,
            TunnelStage::Waiting { .. } | TunnelStage::Examined => false,
        };
        let is_there = |asked: &Asked| match place {
            Place::Ports(ports) | Place::Udp(ports) => {
                asked.site.is_none()
                    && asked.udp == matches!(place, Place::Udp(_))
                    && ports.len() == 1
                    && ports.front() == Some(&asked.wanted)
                    && may_clash(asked.bind_addr, bind_addr)
            }
            Place::Site(site) => asked.site.as_ref() == Some(site),
        };
        self.tunnels.values().any(|tunnel| is_there(&tunnel.asked) && has(&tunnel.stage))
    }

    /// Whether any of its conns is left.
    #[must_use]
    pub fn has_conns(&self) -> bool {
        !self.conns.is_empty()
    }

    /// It is to have no tunnel any more, as it has had no ctl_conn for long. A port that is being opened is closed by its
    /// answer.
    // PROTOCOL.md: P-RES-8.
    pub fn release(&mut self) -> Vec<Withdrawn> {
        let all: Vec<_> = self.tunnels.keys().copied().collect();
        all.into_iter().filter_map(|tunnel| self.withdraw(tunnel)).collect()
    }

    /// A tunnel's name, for logs.
    #[must_use]
    pub fn tunnel_name(&self, tunnel: TunnelId) -> &str {
        self.tunnels.get(&tunnel).map_or("", |tunnel| &tunnel.asked.name)
    }

    /// What a tunnel's client has asked for.
    #[must_use]
    pub fn asked_for(&self, tunnel: TunnelId) -> Asked {
        self.tunnels.get(&tunnel).map(|state| state.asked.clone()).unwrap_or_default()
    }

    /// The session of the process that takes over from its client, or has.
    #[must_use]
    pub fn heir(&self) -> Option<ControlKey> {
        self.heir
    }

    /// The session `heir` begins, or is over: see [`Control::heir`].
    pub fn set_heir(&mut self, heir: Option<ControlKey>) {
        self.heir = heir;
    }

    /// Whether it gets no more tunnels.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Gives an open tunnel to another session of the same client, which registers it: the one at this host or port, or,
    /// where any port will do, the one of this name. Returns its registration here, and its public address.
    // PROTOCOL.md: P-TAKE-2.
    pub fn hand_over(&mut self, asked: &Asked) -> Option<(Registration, SocketAddr)> {
        let mut open = self.tunnels.iter().filter_map(|(&tunnel, state)| {
            let public = state.serves(asked)?;
            Some((Registration { tunnel, serial: state.serial }, public))
        });
        let found = open.next()?;
        self.remove(found.0.tunnel);
        Some(found)
    }

    /// Whether it has this open: see [`Control::hand_over`].
    #[must_use]
    pub fn serves(&self, asked: &Asked) -> bool {
        self.tunnels.values().any(|state| state.serves(asked).is_some())
    }

    /// Whether its client only asks what it could have.
    #[must_use]
    pub fn examines(&self) -> bool {
        self.features & EXAMINE != 0
    }

    /// Whether a UDP tunnel of it is open, or could be, where it only asks.
    #[must_use]
    pub fn has_udp(&self) -> bool {
        self.tunnels
            .values()
            .any(|state| state.asked.udp && matches!(state.stage, TunnelStage::Open(_) | TunnelStage::Examined))
    }

    fn remove(&mut self, tunnel: TunnelId) -> Option<Tunnel> {
        let state = self.tunnels.remove(&tunnel)?;
        self.examined -= u32::from(state.examined);
        Some(state)
    }

    /// How many it has of what the main driver counts.
    // PROTOCOL.md: P-EXAM-2.
    #[must_use]
    pub fn held(&self) -> [(Good, u32); 4] {
        let unacked = self.session.unacked().saturating_sub(Self::OWN_UNACKED);
        let (sessions, tunnels) =
            if self.heir.is_some() { (0, 0) } else { (1, count(self.tunnels.len()) - self.examined) };
        [
            (Good::Session, sessions),
            (Good::Tunnel, tunnels),
            (Good::Conn, count(self.conns.len())),
            (Good::Unacked, count(unacked)),
        ]
    }

    /// Takes a message to send and returns its number, as [`NumberedMessages::send`] does. `ledger` knows what its
    /// holder has.
    ///
    /// # Errors
    /// [`Violation::Unacknowledged`]: the client acknowledges nothing, or all clients of its holder too little.
    // PROTOCOL.md: P-SESS-7, P-LIM-2.
    pub fn send(&mut self, msg: ServerMsg, ledger: &Ledger) -> Result<u64, Violation> {
        let most = count(self.session.max_unacked());
        let full = self.session.unacked() >= Self::OWN_UNACKED
            && ledger.room(self.credential, Good::Unacked, most) == 0
            && !planted(PlantedBug::UnackedPerSession);
        if full { Err(Violation::Unacknowledged) } else { self.session.send(msg) }
    }

    /// Checks the invariants K5 and K6.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn assert_consistent(&self, ledger: &Ledger) {
        let (unacked, most) = (ledger.count(self.credential, Good::Unacked), count(self.session.max_unacked()));
        assert!(unacked <= most, "K5: a holder leaves {unacked} messages unacknowledged, and may {most}");
        let examined = self.tunnels.values().filter(|state| state.examined).count();
        assert_eq!(count(examined), self.examined, "K6: the tunnels that it was only asked about are counted");
    }

    /// A numbered message came. `random` picks among allowed ports; `ledger` knows what its holder has.
    ///
    /// # Errors
    /// What no honest client sends.
    pub fn on_msg(&mut self, msg: ClientMsg, random: u32, ledger: &Ledger) -> Result<Reaction, Violation> {
        match msg {
            ClientMsg::RegisterTunnel { tunnel, public_port, bind_addr, name, limits } => {
                let asked = Asked { name, wanted: public_port, bind_addr, udp: false, site: None };
                self.register(tunnel, asked, Service::default(), limits, random, ledger)
            }
            ClientMsg::RegisterUdp { tunnel, public_port, bind_addr, name, limits } => {
                let asked = Asked { name, wanted: public_port, bind_addr, udp: true, site: None };
                self.register(tunnel, asked, Service::default(), limits, random, ledger)
            }
            ClientMsg::RegisterHost { tunnel, site, service, name, limits } => {
                let asked = Asked { name, wanted: 0, bind_addr: None, udp: false, site: Some(*site) };
                self.register(tunnel, asked, service, limits, random, ledger)
            }
            ClientMsg::ChangeTunnel { tunnel, name, limits } => self.change(tunnel, name, limits),
            ClientMsg::CloseTunnel { tunnel } => {
                let Some(state) = self.remove(tunnel) else { return Ok(Reaction::Nothing) };
                self.waiting.remove(&state.serial);
                Ok(state.open(tunnel).map_or(Reaction::Nothing, |open| Reaction::Unbind(vec![open])))
            }
            ClientMsg::Drain => {
                self.draining = true;
                let open = self.open_tunnels().collect();
                self.tunnels.clear();
                self.examined = 0;
                self.waiting.clear();
                Ok(Reaction::Unbind(open))
            }
            ClientMsg::ConnFailed { count } => Ok(self.on_failed(count)),
            ClientMsg::Fin { conn, epoch, total, how } => {
                Ok(self.pass(TransferMsg { conn, epoch, body: ClientBody::Fin(Fin { total, how }) }))
            }
            ClientMsg::Done { conn, epoch } => Ok(self.pass(TransferMsg { conn, epoch, body: ClientBody::Done })),
            ClientMsg::Abort { conn, epoch, code } => {
                Ok(self.pass(TransferMsg { conn, epoch, body: ClientBody::Abort { code } }))
            }
            ClientMsg::StartSeen { conn, epoch, seen } => {
                Ok(self.pass(TransferMsg { conn, epoch, body: ClientBody::StartSeen { seen } }))
            }
        }
    }

    fn pass(&self, msg: TransferMsg<ClientBody>) -> Reaction {
        // One that is gone: stale.
        let loop_index = self.conns.get(&msg.conn);
        loop_index.map_or(Reaction::Nothing, |&loop_index| Reaction::Pass(usize::from(loop_index), msg))
    }

    // PROTOCOL.md: P-TUN-5, P-LIM-2.
    fn register(
        &mut self,
        tunnel: TunnelId,
        mut asked: Asked,
        service: Service,
        limits: TunnelLimits,
        random: u32,
        ledger: &Ledger,
    ) -> Result<Reaction, Violation> {
        check_limits(&asked.name, &limits)?;
        if self.tunnels.contains_key(&tunnel) {
            return Err(Violation::Repeated);
        }
        // PROTOCOL.md: P-ENC-4.
        asked.bind_addr = asked.bind_addr.map(|address| address.to_canonical());
        let room = ledger.room(self.credential, Good::Tunnel, self.scope.max_tunnels);
        let room = room.saturating_sub(self.examined);
        // P-STOP-2: no more visitors come to a client that drains, and soon to one that is taken over from.
        let refused = if self.draining || self.heir.is_some() || room == 0 {
            Some(TunnelRefusal::TooManyTunnels)
        } else if self.closed.contains(&tunnel) {
            // PROTOCOL.md: P-TUN-14.
            Some(TunnelRefusal::Closed)
        } else {
            self.denied(&asked, asked.wanted)
        };
        if let Some(code) = refused {
            return Ok(Reaction::Refuse(tunnel, asked, code));
        }
        self.last_serial += 1;
        let serial = self.last_serial;
        let stage = TunnelStage::Waiting { random };
        let examined = self.examines();
        self.tunnels.insert(tunnel, Tunnel { asked, service, limits, serial, examined, stage });
        self.examined += u32::from(examined);
        self.waiting.insert(serial, tunnel);
        Ok(self.next_bind().map_or(Reaction::Nothing, Reaction::Bind))
    }

    /// Why a client may not have what it asks for, which is this port, if it may not.
    // PROTOCOL.md: P-HOST-3, P-TUN-16.
    fn denied(&self, asked: &Asked, port: u16) -> Option<TunnelRefusal> {
        let Scope { allow_ports, allow_hosts, allow_bind_addrs, .. } = &self.scope;
        if let Some(site) = &asked.site {
            return (!allow_hosts.covers(&site.host)).then_some(TunnelRefusal::HostNotAllowed);
        }
        let is_allowed = |address| allow_bind_addrs.iter().any(|network| network.contains(address));
        if !asked.bind_addr.is_none_or(is_allowed) {
            return Some(TunnelRefusal::AddressNotAllowed);
        }
        let may = if port == 0 { !allow_ports.is_empty() } else { allow_ports.contains(port) };
        (!may).then_some(TunnelRefusal::PortNotAllowed)
    }

    /// The server's operator closes a public port, if it is open for this session. Its client has it again in its next one.
    pub fn close_port(&mut self, port: u16) -> Option<Withdrawn> {
        let is_it = |state: &Tunnel| {
            state.asked.site.is_none() && matches!(state.stage, TunnelStage::Open(public) if public.port() == port)
        };
        let tunnel = self.tunnels.iter().find(|(_, state)| is_it(state)).map(|(&tunnel, _)| tunnel)?;
        self.closed.insert(tunnel);
        self.withdraw(tunnel)
    }

    /// The next public port to open, if none is being opened (K4).
    // PROTOCOL.md: P-TUN-3.
    fn next_bind(&mut self) -> Option<Bind> {
        if self.binding.is_some() {
            return None;
        }
        let (serial, tunnel) = self.waiting.pop_first()?;
        let state = self.tunnels.get_mut(&tunnel).expect("what waits is there");
        let TunnelStage::Waiting { random } = core::mem::replace(&mut state.stage, TunnelStage::Binding) else {
            unreachable!("it waits")
        };
        let place = match (&state.asked.site, state.asked.wanted) {
            (Some(site), _) => Place::Site(site.clone()),
            (None, wanted) => {
                let ports = match wanted {
                    0 => self.scope.allow_ports.pick(random, Self::CANDIDATES),
                    port => [port].into(),
                };
                if state.asked.udp { Place::Udp(ports) } else { Place::Ports(ports) }
            }
        };
        let registration = Registration { tunnel, serial };
        self.binding = Some(registration);
        let gate = state.gate(self.credential, &self.scope);
        Some(Bind { registration, place, bind_addr: state.asked.bind_addr, gate, examined: state.examined })
    }

    /// A registered tunnel has another name or other limits. One that is not registered (any more) has none.
    // PROTOCOL.md: P-TUN-12.
    fn change(&mut self, tunnel: TunnelId, name: String, limits: TunnelLimits) -> Result<Reaction, Violation> {
        check_limits(&name, &limits)?;
        let Some(state) = self.tunnels.get_mut(&tunnel) else { return Ok(Reaction::Nothing) };
        (state.asked.name, state.limits) = (name, limits);
        Ok(self.admitted(tunnel).map_or(Reaction::Nothing, Reaction::Admit))
    }

    /// Who may visit a tunnel now. Nothing if it waits for its port: whoever opens that is told.
    fn admitted(&self, tunnel: TunnelId) -> Option<Admitted> {
        let state = self.tunnels.get(&tunnel)?;
        match state.stage {
            TunnelStage::Waiting { .. } | TunnelStage::Examined => None,
            TunnelStage::Binding | TunnelStage::Open(_) => Some(Admitted {
                registration: Registration { tunnel, serial: state.serial },
                gate: state.gate(self.credential, &self.scope),
            }),
        }
    }

    /// It may use `scope` from now on. Returns the tunnels that are not in it, which it has no more, and who may visit
    /// the others. Tunnels beyond `max_tunnels` stay: they are counted over all sessions.
    // PROTOCOL.md: P-TUN-13.
    pub fn rescope(&mut self, scope: Scope) -> (Vec<(Withdrawn, TunnelRefusal)>, Vec<Admitted>) {
        self.session.bear(max_unacked(scope.max_connections, self.asked.len()));
        self.scope = scope;
        let outside = |(&tunnel, state): (&TunnelId, &Tunnel)| {
            let port = match state.stage {
                TunnelStage::Open(public) => public.port(),
                // What is picked for it is looked at when it is bound.
                TunnelStage::Waiting { .. } | TunnelStage::Binding | TunnelStage::Examined => state.asked.wanted,
            };
            self.denied(&state.asked, port).map(|code| (tunnel, code))
        };
        let outside: Vec<_> = self.tunnels.iter().filter_map(outside).collect();
        let withdrawn = outside.into_iter().filter_map(|(tunnel, code)| Some((self.withdraw(tunnel)?, code))).collect();
        let admitted = self.tunnels.keys().filter_map(|&tunnel| self.admitted(tunnel)).collect();
        (withdrawn, admitted)
    }

    /// Takes the tunnel from it that it has registered last.
    pub fn withdraw_newest(&mut self) -> Option<Withdrawn> {
        let newest = self.tunnels.iter().max_by_key(|(_, state)| state.serial).map(|(&tunnel, _)| tunnel)?;
        self.withdraw(newest)
    }

    fn withdraw(&mut self, tunnel: TunnelId) -> Option<Withdrawn> {
        let state = self.remove(tunnel)?;
        self.waiting.remove(&state.serial);
        let examined = (state.stage == TunnelStage::Examined).then_some(Registration { tunnel, serial: state.serial });
        let open = state.open(tunnel).or(examined);
        Some(Withdrawn { tunnel, asked: state.asked, open })
    }

    /// The listener answered a [`Bind`].
    // PROTOCOL.md: P-TUN-1, P-TUN-2, P-TUN-10.
    pub fn on_bound(&mut self, registration: Registration, bound: Result<SocketAddr, SysError>) -> Bound {
        assert_eq!(self.binding.take(), Some(registration), "what is being opened is answered, once");
        let opened = bound.is_ok();
        let reply = self.answer(registration, bound);
        let ready = matches!(reply, Some(ServerMsg::TunnelReady { .. }));
        let close = opened && !ready && !planted(PlantedBug::LateBindKept);
        Bound { reply, close, next: self.next_bind() }
    }

    /// What to say of a registration; nothing if it was closed meanwhile.
    fn answer(&mut self, registration: Registration, bound: Result<SocketAddr, SysError>) -> Option<ServerMsg> {
        let tunnel = registration.tunnel;
        let state = self.tunnels.get(&tunnel).filter(|state| state.serial == registration.serial)?;
        let asked = &state.asked;
        let code = match bound {
            // What it may use may have changed while the port was being opened.
            Ok(public) => match self.denied(asked, public.port()) {
                None => {
                    let stage = if state.examined { TunnelStage::Examined } else { TunnelStage::Open(public) };
                    self.tunnels.get_mut(&tunnel)?.stage = stage;
                    return Some(ServerMsg::TunnelReady { tunnel, public });
                }
                Some(code) => code,
            },
            Err(error) => match error {
                SysError::InUse if asked.site.is_some() => TunnelRefusal::HostInUse,
                SysError::NoAddress if asked.site.is_some() => TunnelRefusal::NoHosts,
                SysError::NoAddress if asked.bind_addr.is_some() => TunnelRefusal::NoAddress,
                SysError::InUse if asked.wanted == 0 => TunnelRefusal::NoFreePort,
                SysError::InUse => TunnelRefusal::PortInUse,
                SysError::Denied => TunnelRefusal::PortDenied,
                SysError::Exhausted
                | SysError::WouldBlock
                | SysError::Reset
                | SysError::ResetBehindEnd
                | SysError::Refused
                | SysError::Unreachable
                | SysError::TimedOut
                | SysError::Unsupported
                | SysError::NoPort
                | SysError::NoAddress
                | SysError::Tls(_)
                | SysError::Other(_) => TunnelRefusal::Resources,
            },
        };
        self.remove(tunnel);
        Some(ServerMsg::TunnelRefused { tunnel, code })
    }
}

impl Tunnel {
    fn gate(&self, holder: Holder, scope: &Scope) -> Box<Gate> {
        let mut gate = Box::new(Gate::new(holder, scope, self.limits.clone()));
        gate.service = self.service;
        gate
    }

    /// Its public address, if it is open and is what is asked for: the one at this host or port, or, where any port will do,
    /// the one of this name.
    fn serves(&self, asked: &Asked) -> Option<SocketAddr> {
        let TunnelStage::Open(public) = self.stage else { return None };
        let own = &self.asked;
        let is_it = (&own.site, own.udp, own.bind_addr) == (&asked.site, asked.udp, asked.bind_addr)
            && match (&asked.site, asked.wanted) {
                (Some(_), _) => true,
                (None, 0) => own.name == asked.name,
                (None, port) => public.port() == port,
            };
        is_it.then_some(public)
    }

    /// Its registration, if its public port is open.
    fn open(&self, tunnel: TunnelId) -> Option<Registration> {
        let open = matches!(self.stage, TunnelStage::Open(_));
        open.then_some(Registration { tunnel, serial: self.serial })
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// What no honest client says of a tunnel.
// PROTOCOL.md: P-TUN-5.
fn check_limits(name: &str, limits: &TunnelLimits) -> Result<(), Violation> {
    let fits = name.len() <= ClientMsg::MAX_NAME && limits.sources.len() <= SourceLists::MAX_SENT;
    if fits { Ok(()) } else { Err(Violation::Limit) }
}

/// Messages that a client may leave unacknowledged: what its transfers explain, however long its ctl_conn is away (a
/// `Fin`, a second one for a reset behind it, an `Abort`), the same for the conns that it may be asked for meanwhile and
/// the asking itself, and 64 KiB of others.
// PROTOCOL.md: P-SESS-7.
fn max_unacked(max_connections: u32, loop_count: usize) -> usize {
    const OTHERS: usize = (64 << 10) / size_of::<ServerMsg>();
    const PER_CONN: usize = 3;
    let asked = Pool::<(), ()>::MAX_ASKED as usize * loop_count;
    let explained = (max_connections as usize).saturating_mul(PER_CONN).saturating_add(asked * (PER_CONN + 1));
    explained.saturating_add(OTHERS)
}

#[cfg(test)]
mod tests;
