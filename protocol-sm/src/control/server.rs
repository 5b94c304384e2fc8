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
//! - K5 all sessions of a holder leave no more unacknowledged than one may, and 128 for each.

use super::{loop_of, narrow};
use crate::auth::{Channel, ReplayWindow, SessionKey};
use crate::canary::{PlantedBug, planted};
use crate::codes::{HandshakeRefusal, TunnelRefusal, Violation};
use crate::gate::Gate;
use crate::ids::{ClientId, ConnId, ControlKey, Registration, SessionId, TunnelId};
use crate::ledger::{Good, Holder, Ledger};
use crate::pool::Pool;
use crate::routes::Site;
use crate::session::NumberedMessages;
use crate::settings::{Scope, Token, TunnelLimits};
use crate::sources::SourceLists;
use crate::sys_error::SysError;
use crate::transfer::Fin;
use crate::wire::{ClientBody, ClientMsg, ConnHello, FRUGAL, Proof, ServerMsg, TransferMsg};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;

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
    name: String,
    wanted: u16,
    site: Option<Site>,
    limits: TunnelLimits,
    serial: u64,
    stage: TunnelStage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TunnelStage {
    Waiting { random: u32 },
    Binding,
    Open(SocketAddr),
}

/// A tunnel that a client has registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelView<'a> {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Its name.
    pub name: &'a str,
    /// The public port that its client wants; 0: any, or it has a host.
    pub wanted: u16,
    /// Its host, if it has one instead of a port.
    pub site: Option<&'a Site>,
    /// Its public address, if it is open.
    pub public: Option<SocketAddr>,
}

/// Where a tunnel's visitors are to come in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At a public port of its own: ports to try in this order, at least one.
    Ports(VecDeque<u16>),
    /// At the port of hosts, those of this one.
    Site(Site),
}

/// A public port that is to be opened, or a host that is to be led to its tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bind {
    /// What was registered.
    pub registration: Registration,
    /// Where.
    pub place: Place,
    /// Who may visit.
    pub gate: Box<Gate>,
}

/// A tunnel whose visitors are judged anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Admitted {
    /// What was registered.
    pub registration: Registration,
    /// Who may visit.
    pub gate: Box<Gate>,
}

/// A tunnel that was taken from its client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Withdrawn {
    /// Which.
    pub tunnel: TunnelId,
    /// What its client has asked for.
    pub asked: Asked,
    /// Its registration, if its public port is open: that is to be closed. If not, its registration is still to be
    /// answered.
    pub open: Option<Registration>,
}

/// What a client has asked for with a tunnel: for logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Its name.
    pub name: String,
    /// The public port; 0: any, or it has a host.
    pub wanted: u16,
    /// The host, if it has one instead of a port.
    pub site: Option<Site>,
}

/// What follows from the listener's answer to a [`Bind`].
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bound {
    /// What to send to the client. Nothing if it has closed the tunnel meanwhile.
    pub reply: Option<ServerMsg>,
    /// The port that was opened is to be closed again.
    pub close: bool,
    /// What to open next.
    pub next: Option<Bind>,
}

/// What a client's message asks of the main thread.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reaction {
    /// Nothing.
    Nothing,
    /// Send this.
    Reply(ServerMsg),
    /// Open a public port.
    Bind(Bind),
    /// Judge a tunnel's visitors anew.
    Admit(Admitted),
    /// Close these public ports; their waiting visitors are reset.
    Unbind(Vec<Registration>),
    /// Pass the message to this event loop.
    Pass(usize, TransferMsg<ClientBody>),
    /// Tell these event loops that so many of the conns they asked for will not come.
    Failed(Vec<(usize, u32)>),
}

impl Control {
    /// Conns that a holder may have beyond those that its visitors can need and those that were asked for.
    const UNASKED: u32 = 64;
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
            name: &state.name,
            wanted: state.wanted,
            site: state.site.as_ref(),
            public: match state.stage {
                TunnelStage::Open(public) => Some(public),
                TunnelStage::Waiting { .. } | TunnelStage::Binding => None,
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
    pub fn has(&self, place: &Place) -> bool {
        let has = |stage: &TunnelStage| match stage {
            TunnelStage::Binding | TunnelStage::Open(_) => true,
            TunnelStage::Waiting { .. } => false,
        };
        let is_there = |tunnel: &Tunnel| match place {
            Place::Ports(ports) => tunnel.site.is_none() && ports.len() == 1 && ports.front() == Some(&tunnel.wanted),
            Place::Site(site) => tunnel.site.as_ref() == Some(site),
        };
        self.tunnels.values().any(|tunnel| is_there(tunnel) && has(&tunnel.stage))
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
        self.tunnels.get(&tunnel).map_or("", |tunnel| &tunnel.name)
    }

    /// What a tunnel's client has asked for.
    #[must_use]
    pub fn asked_for(&self, tunnel: TunnelId) -> Asked {
        self.tunnels.get(&tunnel).map(Tunnel::asked).unwrap_or_default()
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
            let TunnelStage::Open(public) = state.stage else { return None };
            let is_it = state.site == asked.site
                && match (&asked.site, asked.wanted) {
                    (Some(_), _) => true,
                    (None, 0) => state.name == asked.name,
                    (None, port) => public.port() == port,
                };
            is_it.then_some((Registration { tunnel, serial: state.serial }, public))
        });
        let found = open.next()?;
        self.tunnels.remove(&found.0.tunnel);
        Some(found)
    }

    /// How many it has of what the main driver counts.
    #[must_use]
    pub fn held(&self) -> [(Good, u32); 4] {
        let unacked = self.session.unacked().saturating_sub(Self::OWN_UNACKED);
        let (sessions, tunnels) = if self.heir.is_some() { (0, 0) } else { (1, count(self.tunnels.len())) };
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

    /// Checks the invariant K5.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn assert_consistent(&self, ledger: &Ledger) {
        let (unacked, most) = (ledger.count(self.credential, Good::Unacked), count(self.session.max_unacked()));
        assert!(unacked <= most, "K5: a holder leaves {unacked} messages unacknowledged, and may {most}");
    }

    /// A numbered message came. `random` picks among allowed ports; `ledger` knows what its holder has.
    ///
    /// # Errors
    /// What no honest client sends.
    pub fn on_msg(&mut self, msg: ClientMsg, random: u32, ledger: &Ledger) -> Result<Reaction, Violation> {
        match msg {
            ClientMsg::RegisterTunnel { tunnel, public_port, name, limits } => {
                let room = ledger.room(self.credential, Good::Tunnel, self.scope.max_tunnels);
                self.register(tunnel, Asked { name, wanted: public_port, site: None }, limits, random, room)
            }
            ClientMsg::RegisterHost { tunnel, site, name, limits } => {
                let room = ledger.room(self.credential, Good::Tunnel, self.scope.max_tunnels);
                self.register(tunnel, Asked { name, wanted: 0, site: Some(*site) }, limits, random, room)
            }
            ClientMsg::ChangeTunnel { tunnel, name, limits } => self.change(tunnel, name, limits),
            ClientMsg::CloseTunnel { tunnel } => {
                let Some(state) = self.tunnels.remove(&tunnel) else { return Ok(Reaction::Nothing) };
                self.waiting.remove(&state.serial);
                Ok(state.open(tunnel).map_or(Reaction::Nothing, |open| Reaction::Unbind(vec![open])))
            }
            ClientMsg::Drain => {
                self.draining = true;
                let open = self.open_tunnels().collect();
                self.tunnels.clear();
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
        asked: Asked,
        limits: TunnelLimits,
        random: u32,
        room: u32,
    ) -> Result<Reaction, Violation> {
        check_limits(&asked.name, &limits)?;
        if self.tunnels.contains_key(&tunnel) {
            return Err(Violation::Repeated);
        }
        let refused = |code| Ok(Reaction::Reply(ServerMsg::TunnelRefused { tunnel, code }));
        // P-STOP-2: no more visitors come to a client that drains, and soon to one that is taken over from.
        if self.draining || self.heir.is_some() || room == 0 {
            return refused(TunnelRefusal::TooManyTunnels);
        }
        // PROTOCOL.md: P-TUN-14.
        if self.closed.contains(&tunnel) {
            return refused(TunnelRefusal::Closed);
        }
        let Asked { name, wanted, site } = asked;
        let allowed = &self.scope.allow_ports;
        // PROTOCOL.md: P-HOST-3.
        let may = match (&site, wanted) {
            (Some(site), _) => self.scope.allow_hosts.covers(&site.host),
            (None, 0) => !allowed.is_empty(),
            (None, port) => allowed.contains(port),
        };
        if !may {
            return refused(not_allowed(site.as_ref()));
        }
        self.last_serial += 1;
        let serial = self.last_serial;
        let stage = TunnelStage::Waiting { random };
        self.tunnels.insert(tunnel, Tunnel { name, wanted, site, limits, serial, stage });
        self.waiting.insert(serial, tunnel);
        Ok(self.next_bind().map_or(Reaction::Nothing, Reaction::Bind))
    }

    /// The server's operator closes a public port, if it is open for this session. Its client has it again in its next one.
    pub fn close_port(&mut self, port: u16) -> Option<Withdrawn> {
        let is_it = |state: &Tunnel| {
            state.site.is_none() && matches!(state.stage, TunnelStage::Open(public) if public.port() == port)
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
        let place = match (&state.site, state.wanted) {
            (Some(site), _) => Place::Site(site.clone()),
            (None, 0) => Place::Ports(self.scope.allow_ports.pick(random, Self::CANDIDATES)),
            (None, port) => Place::Ports([port].into()),
        };
        let registration = Registration { tunnel, serial };
        self.binding = Some(registration);
        let gate = Box::new(Gate::new(self.credential, &self.scope, state.limits.clone()));
        Some(Bind { registration, place, gate })
    }

    /// A registered tunnel has another name or other limits. One that is not registered (any more) has none.
    // PROTOCOL.md: P-TUN-12.
    fn change(&mut self, tunnel: TunnelId, name: String, limits: TunnelLimits) -> Result<Reaction, Violation> {
        check_limits(&name, &limits)?;
        let Some(state) = self.tunnels.get_mut(&tunnel) else { return Ok(Reaction::Nothing) };
        (state.name, state.limits) = (name, limits);
        Ok(self.admitted(tunnel).map_or(Reaction::Nothing, Reaction::Admit))
    }

    /// Who may visit a tunnel now. Nothing if it waits for its port: whoever opens that is told.
    fn admitted(&self, tunnel: TunnelId) -> Option<Admitted> {
        let state = self.tunnels.get(&tunnel)?;
        match state.stage {
            TunnelStage::Waiting { .. } => None,
            TunnelStage::Binding | TunnelStage::Open(_) => Some(Admitted {
                registration: Registration { tunnel, serial: state.serial },
                gate: Box::new(Gate::new(self.credential, &self.scope, state.limits.clone())),
            }),
        }
    }

    /// It may use `scope` from now on. Returns the tunnels that are not in it, which it has no more, and who may visit
    /// the others. Tunnels beyond `max_tunnels` stay: they are counted over all sessions.
    // PROTOCOL.md: P-TUN-13.
    pub fn rescope(&mut self, scope: Scope) -> (Vec<Withdrawn>, Vec<Admitted>) {
        self.session.bear(max_unacked(scope.max_connections, self.asked.len()));
        self.scope = scope;
        let allowed = &self.scope.allow_ports;
        let hosts = &self.scope.allow_hosts;
        let outside = |state: &Tunnel| match (&state.stage, state.wanted) {
            _ if state.site.is_some() => state.site.as_ref().is_some_and(|site| !hosts.covers(&site.host)),
            (TunnelStage::Open(public), _) => !allowed.contains(public.port()),
            // What is picked for it is looked at when it is bound.
            (TunnelStage::Waiting { .. } | TunnelStage::Binding, 0) => allowed.is_empty(),
            (TunnelStage::Waiting { .. } | TunnelStage::Binding, port) => !allowed.contains(port),
        };
        let outside: Vec<_> =
            self.tunnels.iter().filter_map(|(&tunnel, state)| outside(state).then_some(tunnel)).collect();
        let withdrawn = outside.into_iter().filter_map(|tunnel| self.withdraw(tunnel)).collect();
        let admitted = self.tunnels.keys().filter_map(|&tunnel| self.admitted(tunnel)).collect();
        (withdrawn, admitted)
    }

    /// Takes the tunnel from it that it has registered last.
    pub fn withdraw_newest(&mut self) -> Option<Withdrawn> {
        let newest = self.tunnels.iter().max_by_key(|(_, state)| state.serial).map(|(&tunnel, _)| tunnel)?;
        self.withdraw(newest)
    }

    fn withdraw(&mut self, tunnel: TunnelId) -> Option<Withdrawn> {
        let state = self.tunnels.remove(&tunnel)?;
        self.waiting.remove(&state.serial);
        let open = state.open(tunnel);
        Some(Withdrawn { tunnel, asked: state.asked(), open })
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
        let state = self.tunnels.get_mut(&tunnel).filter(|state| state.serial == registration.serial)?;
        match bound {
            // What it may use has changed while the port was being opened.
            Ok(public) if state.site.is_none() && !self.scope.allow_ports.contains(public.port()) => {
                self.tunnels.remove(&tunnel);
                Some(ServerMsg::TunnelRefused { tunnel, code: TunnelRefusal::PortNotAllowed })
            }
            Ok(public) => {
                state.stage = TunnelStage::Open(public);
                Some(ServerMsg::TunnelReady { tunnel, public })
            }
            Err(error) => {
                let code = match error {
                    SysError::InUse if state.site.is_some() => TunnelRefusal::HostInUse,
                    SysError::NoAddress if state.site.is_some() => TunnelRefusal::NoHosts,
                    SysError::InUse if state.wanted == 0 => TunnelRefusal::NoFreePort,
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
                };
                self.tunnels.remove(&tunnel);
                Some(ServerMsg::TunnelRefused { tunnel, code })
            }
        }
    }

    /// An event loop wants `count` more conns.
    #[must_use]
    pub fn on_ask(&mut self, loop_index: usize, count: u32) -> ServerMsg {
        self.asked[loop_index] += count;
        ServerMsg::NeedConn { count }
    }

    /// Conns that were asked for and have not come yet.
    #[must_use]
    pub fn expected(&self) -> usize {
        self.asked.iter().map(|&asked| asked as usize).sum()
    }

    /// The client could not open `count` conns. They are subtracted from what the event loops asked for, beginning with
    /// the loop that asked for most.
    // PROTOCOL.md: P-POOL-3.
    fn on_failed(&mut self, count: u32) -> Reaction {
        let mut left = count;
        let mut failed = Vec::new();
        while let Some((loop_index, asked)) = self.neediest().filter(|_| left > 0) {
            let share = asked.min(left);
            self.asked[loop_index] -= share;
            left -= share;
            failed.push((loop_index, share));
        }
        if failed.is_empty() { Reaction::Nothing } else { Reaction::Failed(failed) }
    }

    fn neediest(&self) -> Option<(usize, u32)> {
        let loop_count = self.asked.iter().copied().enumerate();
        loop_count
            .filter(|&(_, asked)| asked > 0)
            .max_by_key(|&(loop_index, asked)| (asked, core::cmp::Reverse(loop_index)))
    }

    /// A new proxy_conn names this session: returns what to answer and which event loop gets it.
    ///
    /// # Errors
    /// Its proof is wrong, its number was used, or its holder has more conns than its visitors can need.
    // PROTOCOL.md: P-PROXY-1, P-LIM-2.
    pub fn admit(
        &mut self,
        hello: &ConnHello,
        channel: Option<&Channel>,
        ledger: &Ledger,
    ) -> Result<Admission, HandshakeRefusal> {
        let secret = self.secret.over(channel);
        let proved = secret.hello_matches(hello);
        let proved = proved || planted(PlantedBug::AnyConnProof);
        if !proved {
            return Err(HandshakeRefusal::WrongToken);
        }
        let fresh = self.window.take(hello.conn);
        let fresh = fresh || planted(PlantedBug::ConnReplayed);
        if !fresh {
            return Err(HandshakeRefusal::ReplayedConn);
        }
        let asked = self.asked.iter().fold(0, |sum: u32, asked| sum.saturating_add(*asked));
        let may = self.scope.max_connections.saturating_add(self.scope.max_waiting).saturating_add(Self::UNASKED);
        // What was not asked for must not take what is kept for others.
        let unasked =
            asked == 0 && (ledger.room(self.credential, Good::Conn, may) == 0 || ledger.is_scarce(Good::Conn));
        let none_left = ledger.left(Good::Conn) == 0 && !planted(PlantedBug::ConnsUnbounded);
        if unasked || none_left {
            return Err(HandshakeRefusal::Full);
        }
        let same_index = loop_of(hello.conn, self.asked.len());
        let waits = if self.asked[same_index] > 0 {
            Some(same_index)
        } else {
            self.neediest().map(|(loop_index, _)| loop_index)
        };
        if let Some(loop_index) = waits {
            self.asked[loop_index] -= 1;
        }
        let (loop_index, asked) = (waits.unwrap_or(same_index), waits.is_some());
        self.conns.insert(hello.conn, narrow(loop_index));
        Ok(Admission { proof: secret.accept(self.id, hello.conn), loop_index, asked })
    }

    /// A conn was admitted, and lost before its event loop had it. If a loop had asked for it, it counts as asked for
    /// again until the client says that it failed (K3).
    pub fn on_conn_lost(&mut self, conn: ConnId, admission: &Admission) {
        self.conns.remove(&conn);
        self.asked[admission.loop_index] += u32::from(admission.asked);
    }

    /// A conn is closed.
    pub fn on_conn_gone(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
    }
}

impl Tunnel {
    fn asked(&self) -> Asked {
        Asked { name: self.name.clone(), wanted: self.wanted, site: self.site.clone() }
    }

    /// Its registration, if its public port is open.
    fn open(&self, tunnel: TunnelId) -> Option<Registration> {
        let open = matches!(self.stage, TunnelStage::Open(_));
        open.then_some(Registration { tunnel, serial: self.serial })
    }
}

/// What becomes of a proxy_conn that may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// What to answer.
    pub proof: Proof,
    /// The event loop that gets it.
    pub loop_index: usize,
    /// Whether that loop had asked for it.
    asked: bool,
}

/// Why a tunnel is refused whose place is not its client's.
pub(crate) fn not_allowed(site: Option<&Site>) -> TunnelRefusal {
    site.map_or(TunnelRefusal::PortNotAllowed, |_| TunnelRefusal::HostNotAllowed)
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
mod tests {
    use super::*;
    use crate::auth::{Prover, Transcript};
    use crate::wire::{Ctl, Preface, Reply};

    fn control(allow: &str, loop_count: usize) -> Control {
        let hello = Ctl::Ping { received: 0 };
        let answer = Ctl::Ping { received: 0 };
        let preface = Preface::ours(crate::wire::ConnKind::Ctl);
        let transcript = Transcript::new(preface.encode(), Reply::to(preface).encode(), &hello, &answer);
        let id = SessionId([1; 16]);
        let secret = Prover::new(None, transcript).session_key(id);
        let scope = Scope { allow_ports: allow.parse().unwrap(), max_tunnels: 2, ..Scope::default() };
        Control::new(ControlKey(1), id, ClientId([2; 16]), None, secret, scope, loop_count)
    }

    /// What a holder has whose only session this is.
    fn ledger(control: &Control) -> Ledger {
        let mut ledger = Ledger::default();
        for (good, count) in control.held() {
            ledger.add(control.credential, good, count);
        }
        ledger
    }

    fn register(control: &mut Control, tunnel: u32, public_port: u16) -> Result<Reaction, Violation> {
        let limits = TunnelLimits::default();
        let name = String::new();
        let ledger = ledger(control);
        control.on_msg(ClientMsg::RegisterTunnel { tunnel: TunnelId(tunnel), public_port, name, limits }, 5, &ledger)
    }

    fn registration(tunnel: u32, serial: u64) -> Registration {
        Registration { tunnel: TunnelId(tunnel), serial }
    }

    fn bind(control: &Control, tunnel: u32, serial: u64, ports: &[u16]) -> Bind {
        let gate = Box::new(Gate::new(None, &control.scope, TunnelLimits::default()));
        let place = Place::Ports(ports.iter().copied().collect());
        Bind { registration: registration(tunnel, serial), place, gate }
    }

    fn close(control: &mut Control, tunnel: u32) -> Reaction {
        control.on_msg(ClientMsg::CloseTunnel { tunnel: TunnelId(tunnel) }, 0, &Ledger::default()).unwrap()
    }

    fn opened(port: u16) -> Result<SocketAddr, SysError> {
        Ok(SocketAddr::from(([0, 0, 0, 0], port)))
    }

    fn ready(tunnel: u32, port: u16) -> ServerMsg {
        ServerMsg::TunnelReady { tunnel: TunnelId(tunnel), public: opened(port).unwrap() }
    }

    /// The listener's answer is all that follows.
    fn said(reply: ServerMsg) -> Bound {
        Bound { reply: Some(reply), close: false, next: None }
    }

    fn refused(tunnel: u32, code: TunnelRefusal) -> ServerMsg {
        ServerMsg::TunnelRefused { tunnel: TunnelId(tunnel), code }
    }

    #[test]
    fn k1_each_registration_is_answered_once() {
        let mut control = control("6001-6003", 1);
        assert_eq!(register(&mut control, 1, 6001), Ok(Reaction::Bind(bind(&control, 1, 1, &[6001]))));
        assert_eq!(register(&mut control, 1, 6001), Err(Violation::Repeated));
        let bound = control.on_bound(registration(1, 1), Err(SysError::InUse));
        assert_eq!(bound, said(refused(1, TunnelRefusal::PortInUse)));
        assert_eq!(register(&mut control, 1, 0), Ok(Reaction::Bind(bind(&control, 1, 2, &[6003, 6001, 6002]))));
        let bound = control.on_bound(registration(1, 2), Err(SysError::InUse));
        assert_eq!(bound, said(refused(1, TunnelRefusal::NoFreePort)));
    }

    #[test]
    fn p_take_2_a_tunnel_is_handed_over_by_its_port_and_where_any_will_do_by_its_name() {
        let mut control = control("6001-6004", 1);
        for (tunnel, port, name) in [(1, 6001, "a"), (2, 6002, "b")] {
            let (limits, ledger) = (TunnelLimits::default(), ledger(&control));
            let (tunnel, name) = (TunnelId(tunnel), name.into());
            let msg = ClientMsg::RegisterTunnel { tunnel, public_port: port, name, limits };
            let _ = control.on_msg(msg, 5, &ledger);
            let _ = control.on_bound(registration(tunnel.0, u64::from(tunnel.0)), opened(port));
        }
        let port = |found: Option<(Registration, SocketAddr)>| found.map(|(_, public)| public.port());
        let asked = |name: &str, wanted| Asked { name: name.into(), wanted, site: None };
        assert_eq!(port(control.hand_over(&asked("c", 0))), None);
        assert_eq!(port(control.hand_over(&asked("a", 6003))), None);
        assert_eq!(port(control.hand_over(&asked("b", 0))), Some(6002));
        assert_eq!(port(control.hand_over(&asked("b", 6001))), Some(6001));
        assert_eq!(port(control.hand_over(&asked("a", 0))), None, "it is handed over once");
    }

    #[test]
    fn p_res_8_a_session_that_is_released_has_no_tunnel_left() {
        let mut control = control("6001-6004", 1);
        let _ = register(&mut control, 1, 6001);
        let _ = control.on_bound(registration(1, 1), opened(6001));
        let _ = register(&mut control, 2, 6002);
        let withdrawn = control.release();
        let each: Vec<_> = withdrawn.iter().map(|tunnel| (tunnel.tunnel, tunnel.open)).collect();
        assert_eq!(each, [(TunnelId(1), Some(registration(1, 1))), (TunnelId(2), None)]);
        assert_eq!(control.release(), []);
        assert_eq!(control.held()[1], (Good::Tunnel, 0));
        let late = Bound { reply: None, close: true, next: None };
        assert_eq!(control.on_bound(registration(2, 2), opened(6002)), late, "what was being opened is closed");
        assert_eq!(register(&mut control, 1, 6001), Ok(Reaction::Bind(bind(&control, 1, 3, &[6001]))));
    }

    #[test]
    fn k4_one_port_is_opened_at_a_time_in_the_order_of_registration() {
        let mut control = control("6001-6003", 1);
        assert_eq!(register(&mut control, 7, 6001), Ok(Reaction::Bind(bind(&control, 7, 1, &[6001]))));
        assert_eq!(register(&mut control, 1, 6002), Ok(Reaction::Nothing));
        assert_eq!(control.open_tunnels().count(), 0);
        let next = bind(&control, 1, 2, &[6002]);
        let bound = control.on_bound(registration(7, 1), opened(6001));
        assert_eq!(bound, Bound { reply: Some(ready(7, 6001)), close: false, next: Some(next) });
        assert_eq!(control.on_bound(registration(1, 2), opened(6002)), said(ready(1, 6002)));
        assert_eq!(control.open_tunnels().collect::<Vec<_>>(), [registration(1, 2), registration(7, 1)]);
        assert_eq!(close(&mut control, 7), Reaction::Unbind(vec![registration(7, 1)]));
    }

    #[test]
    fn k4_what_becomes_of_a_closed_registration_concerns_no_other() {
        for outcome in [opened(6001), Err(SysError::InUse)] {
            let mut control = control("6001-6003", 1);
            let _ = register(&mut control, 1, 6001);
            assert_eq!(close(&mut control, 1), Reaction::Nothing, "it is closed when it was opened");
            assert_eq!(register(&mut control, 1, 6002), Ok(Reaction::Nothing));
            let next = Some(bind(&control, 1, 2, &[6002]));
            let bound = control.on_bound(registration(1, 1), outcome);
            assert_eq!(bound, Bound { reply: None, close: outcome.is_ok(), next });
            assert_eq!(control.on_bound(registration(1, 2), opened(6002)), said(ready(1, 6002)));
        }
    }

    #[test]
    fn k4_what_is_closed_while_it_waits_is_never_opened() {
        let mut control = control("6001-6003", 1);
        let _ = register(&mut control, 1, 6001);
        for _ in 0..100 {
            assert_eq!(register(&mut control, 2, 6002), Ok(Reaction::Nothing));
            assert_eq!(close(&mut control, 2), Reaction::Nothing);
        }
        assert_eq!(control.on_bound(registration(1, 1), opened(6001)), said(ready(1, 6001)));
    }

    #[test]
    fn the_scope_is_kept() {
        let mut control = control("6000-6002", 1);
        let not_allowed = Reaction::Reply(refused(1, TunnelRefusal::PortNotAllowed));
        assert_eq!(register(&mut control, 1, 5999), Ok(not_allowed));
        let _ = register(&mut control, 1, 6000);
        let _ = register(&mut control, 2, 6001);
        let too_many = Reaction::Reply(refused(3, TunnelRefusal::TooManyTunnels));
        assert_eq!(register(&mut control, 3, 6002), Ok(too_many));
        let _ = control.on_bound(registration(1, 1), opened(6000));
        // One is open, the other is being opened.
        let closed = control.on_msg(ClientMsg::Drain, 0, &Ledger::default());
        assert_eq!(closed, Ok(Reaction::Unbind(vec![registration(1, 1)])));
        assert_eq!(control.on_bound(registration(2, 2), opened(6001)), Bound { reply: None, close: true, next: None });
    }

    #[test]
    fn k1_a_client_that_drains_gets_no_more_tunnels() {
        let mut control = control("6000-6002", 1);
        let _ = register(&mut control, 1, 6001);
        let _ = control.on_bound(registration(1, 1), opened(6001));
        let closed = control.on_msg(ClientMsg::Drain, 0, &Ledger::default());
        assert_eq!(closed, Ok(Reaction::Unbind(vec![registration(1, 1)])));
        for tunnel in [1, 2] {
            let reply = Reaction::Reply(refused(tunnel, TunnelRefusal::TooManyTunnels));
            assert_eq!(register(&mut control, tunnel, 6001), Ok(reply));
        }
        assert_eq!(control.on_msg(ClientMsg::Drain, 0, &Ledger::default()), Ok(Reaction::Unbind(vec![])));
    }

    fn rescoped(control: &mut Control, allow: &str) -> (Vec<(u32, bool)>, Vec<u32>) {
        let scope = Scope { allow_ports: allow.parse().unwrap(), ..control.scope.clone() };
        let (withdrawn, admitted) = control.rescope(scope);
        let withdrawn = withdrawn.iter().map(|tunnel| (tunnel.tunnel.0, tunnel.open.is_some())).collect();
        (withdrawn, admitted.iter().map(|admitted| admitted.registration.tunnel.0).collect())
    }

    #[test]
    fn what_a_client_may_not_have_any_more_is_taken_and_the_rest_stays() {
        let mut control = control("6001-6009", 1);
        control.scope.max_tunnels = 9;
        let _ = register(&mut control, 1, 6001);
        let _ = control.on_bound(registration(1, 1), opened(6001));
        let _ = register(&mut control, 2, 0);
        let _ = control.on_bound(registration(2, 2), opened(6002));
        // Being opened, and two that wait.
        let _ = register(&mut control, 3, 6003);
        let _ = register(&mut control, 4, 6004);
        let _ = register(&mut control, 5, 6005);
        assert_eq!(rescoped(&mut control, "6001-6009"), (vec![], vec![1, 2, 3]));
        assert_eq!(rescoped(&mut control, "6001,6005"), (vec![(2, true), (3, false), (4, false)], vec![1]));
        let bound = control.on_bound(registration(3, 3), opened(6003));
        assert_eq!((bound.reply, bound.close), (None, true), "K1: it was answered");
        assert_eq!(bound.next.map(|bind| bind.registration), Some(registration(5, 5)));
    }

    #[test]
    fn a_port_that_was_picked_while_the_scope_changed_is_looked_at_again() {
        let mut control = control("6001-6009", 1);
        let _ = register(&mut control, 1, 0);
        assert_eq!(rescoped(&mut control, "6001"), (vec![], vec![1]));
        let bound = control.on_bound(registration(1, 1), opened(6005));
        assert_eq!(bound, Bound { close: true, ..said(refused(1, TunnelRefusal::PortNotAllowed)) });
        assert_eq!(control.held()[1], (Good::Tunnel, 0));
    }

    #[test]
    fn the_newest_tunnel_goes_first() {
        let mut control = control("6001-6009", 1);
        let _ = register(&mut control, 7, 6001);
        let _ = control.on_bound(registration(7, 1), opened(6001));
        let _ = register(&mut control, 3, 6002);
        let newest = |control: &mut Control| control.withdraw_newest().map(|gone| (gone.tunnel.0, gone.open.is_some()));
        assert_eq!(
            [newest(&mut control), newest(&mut control), newest(&mut control)],
            [Some((3, false)), Some((7, true)), None]
        );
    }

    #[test]
    fn a_tunnels_limits_are_changed_wherever_it_stands() {
        let mut control = control("6001-6009", 1);
        let _ = register(&mut control, 1, 6001);
        let _ = register(&mut control, 2, 6002);
        let limits = || TunnelLimits { max_connections: 7, ..TunnelLimits::default() };
        let mut change = |tunnel: u32, name: &str, limits| {
            let msg = ClientMsg::ChangeTunnel { tunnel: TunnelId(tunnel), name: name.into(), limits };
            control.on_msg(msg, 0, &Ledger::default())
        };
        let Ok(Reaction::Admit(admitted)) = change(1, "new", limits()) else { panic!("it is being opened") };
        assert_eq!((admitted.registration, admitted.gate.max_connections), (registration(1, 1), 7));
        assert_eq!(change(2, "new", limits()), Ok(Reaction::Nothing), "whoever opens it is told");
        assert_eq!(change(3, "new", limits()), Ok(Reaction::Nothing), "it is gone");
        assert_eq!(change(3, &"x".repeat(65), limits()), Err(Violation::Limit));
        assert_eq!(control.tunnel_name(TunnelId(1)), "new");
        let next = control.on_bound(registration(1, 1), opened(6001)).next.unwrap();
        assert_eq!(next.gate.max_connections, 7);
    }

    #[test]
    fn what_a_client_leaves_unacknowledged_is_bounded() {
        assert_eq!(size_of::<ServerMsg>(), 40, "PROTOCOL.md names it");
        let mut control = control("6001", 1);
        control.scope.max_connections = 10;
        let most = max_unacked(10, 1);
        assert_eq!(most, 30 + 2048 + 1638);
        assert_eq!(max_unacked(10_000, 2), 30_000 + 4096 + 1638);
        assert!(max_unacked(u32::MAX, 64) > 0, "it does not overflow");
    }

    #[test]
    fn k5_sessions_of_a_holder_share_what_they_may_leave_unacknowledged() {
        let drain = || ServerMsg::Drain;
        let (mut hoarder, mut other) = (control("6001", 1), control("6001", 1));
        let mut ledger = Ledger::default();
        while hoarder.send(drain(), &ledger).is_ok() {}
        assert_eq!(hoarder.session.unacked(), hoarder.session.max_unacked());
        for (good, count) in hoarder.held() {
            ledger.add(hoarder.credential, good, count);
        }
        ledger.add(hoarder.credential, Good::Unacked, count(Control::OWN_UNACKED));
        other.assert_consistent(&ledger);
        for seq in 1..=128 {
            assert_eq!(other.send(drain(), &ledger), Ok(seq), "what is its own");
        }
        assert_eq!(other.send(drain(), &ledger), Err(Violation::Unacknowledged));
        assert_eq!(other.send(drain(), &Ledger::default()), Ok(129), "the others have acknowledged");
    }

    #[test]
    #[should_panic(expected = "K5")]
    fn k5_whoever_leaves_more_is_seen() {
        let control = control("6001", 1);
        let mut ledger = Ledger::default();
        ledger.add(control.credential, Good::Unacked, count(control.session.max_unacked()) + 1);
        control.assert_consistent(&ledger);
    }

    #[test]
    fn k2_a_conn_goes_to_a_loop_that_waits_its_same_index_if_it_does_and_once() {
        let mut control = control("6000", 3);
        let _ = control.on_ask(0, 1);
        let _ = control.on_ask(1, 1);
        let _ = control.on_ask(2, 2);
        let hellos: Vec<_> = (1..=7).map(|n| control.secret.hello(control.id, ConnId(n))).collect();
        let mut loop_of = |n: usize| {
            control
                .admit(&hellos[n - 1], None, &Ledger::default())
                .map(|admission| (admission.loop_index, admission.asked))
        };
        assert_eq!(loop_of(2), Ok((1, true)), "its same_index waits");
        assert_eq!(loop_of(1), Ok((0, true)));
        assert_eq!(loop_of(5), Ok((2, true)), "its same_index has all that it asked for");
        assert_eq!(loop_of(4), Ok((2, true)));
        assert_eq!(loop_of(6), Ok((2, false)), "nobody waits");
        assert_eq!(loop_of(2), Err(HandshakeRefusal::ReplayedConn));
        let forged = ConnHello { proof: hellos[1].proof, ..hellos[6] };
        assert_eq!(control.admit(&forged, None, &Ledger::default()), Err(HandshakeRefusal::WrongToken));
        let msg = ClientMsg::Done { conn: ConnId(1), epoch: crate::ids::Epoch(1) };
        let passed = TransferMsg { conn: ConnId(1), epoch: crate::ids::Epoch(1), body: ClientBody::Done };
        assert_eq!(control.on_msg(msg.clone(), 0, &Ledger::default()), Ok(Reaction::Pass(0, passed)));
        control.on_conn_gone(ConnId(1));
        assert_eq!(control.on_msg(msg, 0, &Ledger::default()), Ok(Reaction::Nothing));
    }

    #[test]
    fn k3_a_conn_lost_before_its_loop_had_it_is_answered_by_the_clients_failure() {
        let mut control = control("6000", 2);
        let _ = control.on_ask(1, 1);
        let hello = control.secret.hello(control.id, ConnId(1));
        let admission = control.admit(&hello, None, &Ledger::default()).unwrap();
        control.on_conn_lost(ConnId(1), &admission);
        let failed = ClientMsg::ConnFailed { count: 1 };
        assert_eq!(control.on_msg(failed, 0, &Ledger::default()), Ok(Reaction::Failed(vec![(1, 1)])));
    }

    #[test]
    fn k3_a_conn_that_comes_after_its_failure_and_is_lost_was_not_asked_for() {
        let mut control = control("6000", 2);
        let _ = control.on_ask(1, 1);
        let failed = ClientMsg::ConnFailed { count: 1 };
        assert_eq!(control.on_msg(failed.clone(), 0, &Ledger::default()), Ok(Reaction::Failed(vec![(1, 1)])));
        let admission = control.admit(&control.secret.hello(control.id, ConnId(1)), None, &Ledger::default()).unwrap();
        control.on_conn_lost(ConnId(1), &admission);
        assert_eq!(control.on_msg(failed, 0, &Ledger::default()), Ok(Reaction::Nothing));
    }

    #[test]
    fn k3_failures_are_shared_among_those_that_asked() {
        let mut control = control("6000", 2);
        let _ = control.on_ask(0, 1);
        let _ = control.on_ask(1, 3);
        let failed = |count| ClientMsg::ConnFailed { count };
        assert_eq!(control.on_msg(failed(2), 0, &Ledger::default()), Ok(Reaction::Failed(vec![(1, 2)])));
        assert_eq!(control.on_msg(failed(9), 0, &Ledger::default()), Ok(Reaction::Failed(vec![(0, 1), (1, 1)])));
        assert_eq!(control.on_msg(failed(1), 0, &Ledger::default()), Ok(Reaction::Nothing));
    }
}
