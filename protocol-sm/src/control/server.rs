//! One client's session on the server: its numbered messages, tunnels and conns.
//!
//! ```text
//!   attached (a ctl_conn) ──lost──▶ detached until `grace` ──▶ over
//!        ▲                              │
//!        └────────── resumed ───────────┘        replaced, closed, violation: over at once
//! ```
//! It decides; the server's main thread owns the sockets and carries out what is returned.
//!
//! Invariants:
//! - K1 a tunnel is told ready or refused once per registration, and refused once the client drains;
//! - K2 a conn's number is admitted once, and belongs to one event loop until it is gone;
//! - K3 what a loop asked for is answered by a conn or by a failure, never by both.

use super::{loop_of, narrow};
use crate::auth::{ReplayWindow, SessionKey};
use crate::canary::{PlantedBug, planted};
use crate::codes::{HandshakeRefusal, TunnelRefusal, Violation};
use crate::gate::Gate;
use crate::ids::{ClientId, ConnId, ControlKey, SessionId, TunnelId};
use crate::ports::PortSet;
use crate::session::NumberedMessages;
use crate::settings::{Scope, TunnelLimits};
use crate::sources::SourceLists;
use crate::sys_error::SysError;
use crate::transfer::Fin;
use crate::wire::{ClientBody, ClientMsg, ConnHello, Proof, ServerMsg, TransferMsg};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
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
    pub credential: Option<usize>,
    /// Its numbered messages.
    pub session: NumberedMessages<ServerMsg>,
    secret: SessionKey,
    scope: Scope,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    /// The client has said `Drain`: it gets no more tunnels.
    draining: bool,
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
    public: Option<SocketAddr>,
}

/// What a client's message asks of the main thread.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reaction {
    /// Nothing.
    Nothing,
    /// Send this.
    Reply(ServerMsg),
    /// Open a public port: the first of these that can be bound, for the visitors that the gate lets in.
    Bind(TunnelId, Vec<u16>, Box<Gate>),
    /// Close these public ports; their waiting visitors are reset.
    Unbind(Vec<TunnelId>),
    /// Pass the message to this event loop.
    Pass(usize, TransferMsg<ClientBody>),
    /// Tell these event loops that so many of the conns they asked for will not come.
    Failed(Vec<(usize, u32)>),
}

impl Control {
    /// Conns that a client may have beyond those that its visitors can need and those that were asked for.
    const UNASKED: u32 = 64;
    /// Ports tried when the server picks one.
    const CANDIDATES: u32 = 64;

    /// A new session with nothing in it; `loop_count` is the number of event loops.
    #[must_use]
    pub fn new(
        key: ControlKey,
        id: SessionId,
        client: ClientId,
        credential: Option<usize>,
        secret: SessionKey,
        scope: Scope,
        loop_count: usize,
    ) -> Self {
        Self {
            key,
            id,
            client,
            credential,
            session: NumberedMessages::default(),
            secret,
            scope,
            tunnels: BTreeMap::new(),
            draining: false,
            conns: BTreeMap::new(),
            window: ReplayWindow::default(),
            asked: vec![0; loop_count],
        }
    }

    /// What it may use.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Its tunnels.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelId> {
        self.tunnels.keys().copied()
    }

    /// A tunnel's name, for logs.
    #[must_use]
    pub fn tunnel_name(&self, tunnel: TunnelId) -> &str {
        self.tunnels.get(&tunnel).map_or("", |tunnel| &tunnel.name)
    }

    /// A numbered message came. `random` picks among allowed ports.
    ///
    /// # Errors
    /// What no honest client sends.
    pub fn on_msg(&mut self, msg: ClientMsg, random: u32) -> Result<Reaction, Violation> {
        match msg {
            ClientMsg::RegisterTunnel { tunnel, public_port, name, limits } => {
                self.register(tunnel, public_port, name, limits, random)
            }
            ClientMsg::CloseTunnel { tunnel } => {
                let known = self.tunnels.remove(&tunnel);
                Ok(known.map_or(Reaction::Nothing, |_| Reaction::Unbind(vec![tunnel])))
            }
            ClientMsg::Drain => {
                self.draining = true;
                Ok(Reaction::Unbind(core::mem::take(&mut self.tunnels).into_keys().collect()))
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

    // PROTOCOL.md: P-TUN-5.
    fn register(
        &mut self,
        tunnel: TunnelId,
        port: u16,
        name: String,
        limits: TunnelLimits,
        random: u32,
    ) -> Result<Reaction, Violation> {
        if name.len() > ClientMsg::MAX_NAME || limits.sources.len() > SourceLists::MAX_SENT {
            return Err(Violation::Limit);
        }
        if self.tunnels.contains_key(&tunnel) {
            return Err(Violation::Repeated);
        }
        let refused = |code| Ok(Reaction::Reply(ServerMsg::TunnelRefused { tunnel, code }));
        // P-STOP-2: no more visitors come to a client that drains.
        if self.draining || self.tunnels.len() >= self.scope.max_tunnels as usize {
            return refused(TunnelRefusal::TooManyTunnels);
        }
        let candidates = match port {
            0 => pick(&self.scope.allow_ports, random, Self::CANDIDATES),
            port if self.scope.allow_ports.contains(port) => vec![port],
            _ => return refused(TunnelRefusal::PortNotAllowed),
        };
        if candidates.is_empty() {
            return refused(TunnelRefusal::PortNotAllowed);
        }
        self.tunnels.insert(tunnel, Tunnel { name, wanted: port, public: None });
        Ok(Reaction::Bind(tunnel, candidates, Box::new(Gate::new(&self.scope, limits))))
    }

    /// The listener answered a [`Reaction::Bind`]. `None` if the tunnel was closed meanwhile.
    // PROTOCOL.md: P-TUN-1, P-TUN-2.
    #[must_use]
    pub fn on_bound(&mut self, tunnel: TunnelId, bound: Result<SocketAddr, SysError>) -> Option<ServerMsg> {
        let state = self.tunnels.get_mut(&tunnel)?;
        match bound {
            Ok(public) => {
                state.public = Some(public);
                Some(ServerMsg::TunnelReady { tunnel, public })
            }
            Err(error) => {
                let code = match error {
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
    /// Its proof is wrong, its number was used, or the client has more conns than its visitors can need.
    // PROTOCOL.md: P-PROXY-1.
    pub fn admit(&mut self, hello: &ConnHello) -> Result<Admission, HandshakeRefusal> {
        let proved = self.secret.hello_matches(hello);
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
        if self.conns.len() >= may as usize && asked == 0 {
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
        Ok(Admission { proof: self.secret.accept(self.id, hello.conn), loop_index, asked })
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

/// Up to `most` allowed ports to try, from a random one on; any free port where all are allowed.
fn pick(allowed: &PortSet, random: u32, most: u32) -> Vec<u16> {
    if *allowed == PortSet::all() {
        return vec![0];
    }
    let ports = allowed.ranges().iter().flat_map(|&(first, last)| first..=last);
    let total = u32::try_from(ports.clone().count()).expect("ports fit");
    let start = random.checked_rem(total).unwrap_or(0);
    ports.clone().chain(ports).skip(start as usize).take(most.min(total) as usize).collect()
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

    fn register(control: &mut Control, tunnel: u32, public_port: u16) -> Result<Reaction, Violation> {
        let limits = TunnelLimits::default();
        let name = String::new();
        control.on_msg(ClientMsg::RegisterTunnel { tunnel: TunnelId(tunnel), public_port, name, limits }, 5)
    }

    fn bind(control: &Control, ports: Vec<u16>) -> Reaction {
        Reaction::Bind(TunnelId(1), ports, Box::new(Gate::new(&control.scope, TunnelLimits::default())))
    }

    fn refused(tunnel: u32, code: TunnelRefusal) -> ServerMsg {
        ServerMsg::TunnelRefused { tunnel: TunnelId(tunnel), code }
    }

    #[test]
    fn k1_each_registration_is_answered_once() {
        let mut control = control("6000-6002", 1);
        assert_eq!(register(&mut control, 1, 6001), Ok(bind(&control, vec![6001])));
        assert_eq!(register(&mut control, 1, 6001), Err(Violation::Repeated));
        assert_eq!(control.on_bound(TunnelId(1), Err(SysError::InUse)), Some(refused(1, TunnelRefusal::PortInUse)));
        assert_eq!(control.on_bound(TunnelId(1), Err(SysError::InUse)), None);
        assert_eq!(register(&mut control, 1, 0), Ok(bind(&control, vec![6002, 6000, 6001])));
        assert_eq!(control.on_bound(TunnelId(1), Err(SysError::InUse)), Some(refused(1, TunnelRefusal::NoFreePort)));
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
        let closed = control.on_msg(ClientMsg::Drain, 0);
        assert_eq!(closed, Ok(Reaction::Unbind(vec![TunnelId(1), TunnelId(2)])));
    }

    #[test]
    fn k1_a_client_that_drains_gets_no_more_tunnels() {
        let mut control = control("6000-6002", 1);
        let _ = register(&mut control, 1, 6001);
        assert_eq!(control.on_msg(ClientMsg::Drain, 0), Ok(Reaction::Unbind(vec![TunnelId(1)])));
        for tunnel in [1, 2] {
            let reply = Reaction::Reply(refused(tunnel, TunnelRefusal::TooManyTunnels));
            assert_eq!(register(&mut control, tunnel, 6001), Ok(reply));
        }
        assert_eq!(control.on_msg(ClientMsg::Drain, 0), Ok(Reaction::Unbind(vec![])));
    }

    #[test]
    fn k2_a_conn_goes_to_a_loop_that_waits_its_same_index_if_it_does_and_once() {
        let mut control = control("6000", 3);
        let _ = control.on_ask(0, 1);
        let _ = control.on_ask(1, 1);
        let _ = control.on_ask(2, 2);
        let hellos: Vec<_> = (1..=7).map(|n| control.secret.hello(control.id, ConnId(n))).collect();
        let mut loop_of =
            |n: usize| control.admit(&hellos[n - 1]).map(|admission| (admission.loop_index, admission.asked));
        assert_eq!(loop_of(2), Ok((1, true)), "its same_index waits");
        assert_eq!(loop_of(1), Ok((0, true)));
        assert_eq!(loop_of(5), Ok((2, true)), "its same_index has all that it asked for");
        assert_eq!(loop_of(4), Ok((2, true)));
        assert_eq!(loop_of(6), Ok((2, false)), "nobody waits");
        assert_eq!(loop_of(2), Err(HandshakeRefusal::ReplayedConn));
        let forged = ConnHello { proof: hellos[1].proof, ..hellos[6] };
        assert_eq!(control.admit(&forged), Err(HandshakeRefusal::WrongToken));
        let msg = ClientMsg::Done { conn: ConnId(1), epoch: crate::ids::Epoch(1) };
        let passed = TransferMsg { conn: ConnId(1), epoch: crate::ids::Epoch(1), body: ClientBody::Done };
        assert_eq!(control.on_msg(msg.clone(), 0), Ok(Reaction::Pass(0, passed)));
        control.on_conn_gone(ConnId(1));
        assert_eq!(control.on_msg(msg, 0), Ok(Reaction::Nothing));
    }

    #[test]
    fn k3_a_conn_lost_before_its_loop_had_it_is_answered_by_the_clients_failure() {
        let mut control = control("6000", 2);
        let _ = control.on_ask(1, 1);
        let hello = control.secret.hello(control.id, ConnId(1));
        let admission = control.admit(&hello).unwrap();
        control.on_conn_lost(ConnId(1), &admission);
        let failed = ClientMsg::ConnFailed { count: 1 };
        assert_eq!(control.on_msg(failed, 0), Ok(Reaction::Failed(vec![(1, 1)])));
    }

    #[test]
    fn k3_a_conn_that_comes_after_its_failure_and_is_lost_was_not_asked_for() {
        let mut control = control("6000", 2);
        let _ = control.on_ask(1, 1);
        let failed = ClientMsg::ConnFailed { count: 1 };
        assert_eq!(control.on_msg(failed.clone(), 0), Ok(Reaction::Failed(vec![(1, 1)])));
        let admission = control.admit(&control.secret.hello(control.id, ConnId(1))).unwrap();
        control.on_conn_lost(ConnId(1), &admission);
        assert_eq!(control.on_msg(failed, 0), Ok(Reaction::Nothing));
    }

    #[test]
    fn k3_failures_are_shared_among_those_that_asked() {
        let mut control = control("6000", 2);
        let _ = control.on_ask(0, 1);
        let _ = control.on_ask(1, 3);
        let failed = |count| ClientMsg::ConnFailed { count };
        assert_eq!(control.on_msg(failed(2), 0), Ok(Reaction::Failed(vec![(1, 2)])));
        assert_eq!(control.on_msg(failed(9), 0), Ok(Reaction::Failed(vec![(0, 1), (1, 1)])));
        assert_eq!(control.on_msg(failed(1), 0), Ok(Reaction::Nothing));
    }
}
