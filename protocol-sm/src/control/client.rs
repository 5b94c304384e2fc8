//! One session on the client: its numbered messages, tunnels and conns.
//!
//! ```text
//!   tunnel:  Idle ──register──▶ Asked ──ready──▶ Open
//!             ▲                   │ refused, for now
//!             └──── back-off ─────┘
//! ```
//! It decides; the client's main thread owns the socket and carries out what is returned.
//!
//! Invariants:
//! - L1 a conn's number is used once in a session, and belongs to one event loop until it is gone;
//! - L2 each conn asked for is opened or counted as failed.

use super::{loop_of, narrow};
use crate::auth::SessionKey;
use crate::backoff::Backoff;
use crate::codes::{MessageName, StateName, TunnelRefusal, Violation};
use crate::ids::{ConnId, SessionId, TunnelId};
use crate::session::NumberedMessages;
use crate::settings::{Timings, TunnelSpec};
use crate::time::Instant;
use crate::wire::{ClientMsg, ConnHello, Proof, ServerBody, ServerMsg, TransferMsg};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Control {
    /// Its name on the wire.
    pub id: SessionId,
    /// Its serial number in this process.
    pub serial: u64,
    /// Its numbered messages.
    pub session: NumberedMessages<ClientMsg>,
    secret: SessionKey,
    /// Which event loop has a conn.
    conns: BTreeMap<ConnId, u16>,
    next_conn: u64,
    loop_count: usize,
    max_conns: usize,
}

/// What a server's message asks of the main thread.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reaction {
    /// Nothing.
    Nothing,
    /// Pass the message to this event loop.
    Pass(usize, TransferMsg<ServerBody>),
    /// Open this many proxy_conns, each by [`Control::open`], and tell the server that as many failed.
    Open {
        /// To be opened.
        count: u32,
        /// More than may be open at once.
        failed: u32,
    },
    /// A tunnel is reachable here.
    Ready(TunnelId, SocketAddr),
    /// A tunnel was not opened.
    Refused(TunnelId, TunnelRefusal),
    /// The server stops: no new visitors will come.
    Drain,
}

impl Control {
    /// A new session with nothing in it; `loop_count` is the number of event loops.
    #[must_use]
    pub fn new(id: SessionId, serial: u64, secret: SessionKey, loop_count: usize, max_conns: u32) -> Self {
        Self {
            id,
            serial,
            session: NumberedMessages::default(),
            secret,
            conns: BTreeMap::new(),
            next_conn: 1,
            loop_count,
            max_conns: max_conns as usize,
        }
    }

    /// A numbered message came.
    ///
    /// # Errors
    /// What no honest server sends.
    pub fn on_msg(&mut self, msg: ServerMsg) -> Result<Reaction, Violation> {
        match msg {
            ServerMsg::TunnelReady { tunnel, public } => Ok(Reaction::Ready(tunnel, public)),
            ServerMsg::TunnelRefused { tunnel, code } => Ok(Reaction::Refused(tunnel, code)),
            ServerMsg::NeedConn { count: 0 } => Err(Violation::Limit),
            ServerMsg::NeedConn { count } => {
                let room = u32::try_from(self.max_conns.saturating_sub(self.conns.len())).unwrap_or(u32::MAX);
                let open = count.min(room);
                Ok(Reaction::Open { count: open, failed: count - open })
            }
            ServerMsg::Fin { conn, epoch, total } => {
                self.pass(TransferMsg { conn, epoch, body: ServerBody::Fin { total } })
            }
            ServerMsg::Abort { conn, epoch, code } => {
                self.pass(TransferMsg { conn, epoch, body: ServerBody::Abort { code } })
            }
            ServerMsg::Drain => Ok(Reaction::Drain),
        }
    }

    fn pass(&self, msg: TransferMsg<ServerBody>) -> Result<Reaction, Violation> {
        if msg.conn.0 == 0 || msg.conn.0 >= self.next_conn {
            return Err(Violation::FutureEpoch);
        }
        // One that is gone: stale.
        let loop_index = self.conns.get(&msg.conn);
        Ok(loop_index.map_or(Reaction::Nothing, |&loop_index| Reaction::Pass(usize::from(loop_index), msg)))
    }

    /// Numbers a new conn: which event loop opens it, what it says, and what the server must answer.
    pub fn open(&mut self) -> (usize, ConnHello, Proof) {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let loop_index = loop_of(conn, self.loop_count);
        self.conns.insert(conn, narrow(loop_index));
        (loop_index, self.secret.hello(self.id, conn), self.secret.accept(self.id, conn))
    }

    /// A conn is closed.
    pub fn on_conn_gone(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
    }
}

/// The tunnels of a client, over all its sessions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnels(Vec<Tunnel>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tunnel {
    spec: TunnelSpec,
    /// The public address of the last session: asked for again where the server picked it.
    last: Option<SocketAddr>,
    /// Its LocalServer's name was looked up.
    located: bool,
    state: State,
    retry: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle,
    Asked,
    Open,
    RetryAt(Instant),
}

impl Tunnels {
    /// The tunnels that `specs` describes, numbered from 0 in that order.
    #[must_use]
    pub fn new(specs: &[TunnelSpec], timings: &Timings) -> Self {
        let tunnel = |spec: &TunnelSpec| Tunnel {
            spec: spec.clone(),
            last: None,
            located: false,
            state: State::Idle,
            retry: Backoff::new(timings.reconnect_min, timings.reconnect_max),
        };
        Self(specs.iter().map(tunnel).collect())
    }

    fn get(&mut self, tunnel: TunnelId) -> Option<&mut Tunnel> {
        self.0.get_mut(usize::try_from(tunnel.0).ok()?)
    }

    /// A tunnel's specification.
    #[must_use]
    pub fn spec(&self, tunnel: TunnelId) -> Option<&TunnelSpec> {
        self.0.get(usize::try_from(tunnel.0).ok()?).map(|tunnel| &tunnel.spec)
    }

    /// Its LocalServer's addresses are known, or known to be unknown: visitors may come.
    pub fn on_located(&mut self, tunnel: TunnelId) {
        if let Some(tunnel) = self.get(tunnel) {
            tunnel.located = true;
        }
    }

    /// A new session knows no tunnels.
    pub fn on_new_session(&mut self) {
        for tunnel in &mut self.0 {
            tunnel.state = State::Idle;
        }
    }

    /// The next tunnel to register now, noted as asked for.
    pub fn register(&mut self, now: Instant) -> Option<ClientMsg> {
        let due = |tunnel: &Tunnel| match tunnel.state {
            State::Idle => tunnel.located,
            State::RetryAt(at) => at <= now,
            State::Asked | State::Open => false,
        };
        let index = self.0.iter().position(due)?;
        let tunnel = &mut self.0[index];
        tunnel.state = State::Asked;
        let port = if tunnel.spec.public_port == 0 {
            tunnel.last.map_or(0, |last| last.port())
        } else {
            tunnel.spec.public_port
        };
        Some(ClientMsg::RegisterTunnel {
            tunnel: TunnelId(u32::try_from(index).expect("fewer than 2^32 tunnels")),
            public_port: port,
            name: tunnel.spec.name.clone(),
            limits: tunnel.spec.limits.clone(),
        })
    }

    /// It is reachable. `Ok(true)`: at another address than last time.
    ///
    /// # Errors
    /// It was not asked for.
    pub fn on_ready(&mut self, tunnel: TunnelId, public: SocketAddr) -> Result<bool, Violation> {
        let unexpected = Violation::Unexpected { message: MessageName::TunnelReady, state: StateName::TunnelNotAsked };
        let tunnel = self.get(tunnel).filter(|tunnel| tunnel.state == State::Asked).ok_or(unexpected)?;
        tunnel.state = State::Open;
        tunnel.retry.reset();
        Ok(tunnel.last.replace(public) != Some(public))
    }

    /// It was not opened: tries again after a pause. `Ok(true)`: at once, with any port instead of the one that the
    /// server picked last time, whatever was wrong with that.
    ///
    /// # Errors
    /// It was not asked for.
    pub fn on_refused(&mut self, tunnel: TunnelId, now: Instant, random: u32) -> Result<bool, Violation> {
        let unexpected =
            Violation::Unexpected { message: MessageName::TunnelRefused, state: StateName::TunnelNotAsked };
        let tunnel = self.get(tunnel).filter(|tunnel| tunnel.state == State::Asked).ok_or(unexpected)?;
        // The port that the server picked last time is gone: let it pick another, at once.
        let again = tunnel.spec.public_port == 0 && tunnel.last.take().is_some();
        tunnel.state = if again { State::Idle } else { State::RetryAt(now + tunnel.retry.next(random)) };
        Ok(again)
    }

    /// When to call [`Tunnels::register`] again.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let retry = |tunnel: &Tunnel| match tunnel.state {
            State::RetryAt(at) => Some(at),
            State::Idle | State::Asked | State::Open => None,
        };
        self.0.iter().filter_map(retry).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::TunnelLimits;
    use core::net::Ipv4Addr;

    #[test]
    fn a_picked_port_that_is_refused_is_let_go_before_anything_else() {
        let spec = TunnelSpec { name: "web".into(), public_port: 0, limits: TunnelLimits::default() };
        let mut tunnels = Tunnels::new(&[spec], &Timings::default());
        let (id, now) = (TunnelId(0), Instant::ZERO);
        let port = |msg| match msg {
            Some(ClientMsg::RegisterTunnel { public_port, .. }) => Some(public_port),
            _ => None,
        };
        tunnels.on_located(id);
        assert_eq!(port(tunnels.register(now)), Some(0));
        assert_eq!(tunnels.on_ready(id, (Ipv4Addr::LOCALHOST, 7000).into()), Ok(true));
        tunnels.on_new_session();
        assert_eq!(port(tunnels.register(now)), Some(7000));
        assert_eq!(tunnels.on_refused(id, now, 0), Ok(true));
        assert_eq!(port(tunnels.register(now)), Some(0));
        assert_eq!(tunnels.on_refused(id, now, 0), Ok(false));
        assert_eq!(port(tunnels.register(now)), None, "not before its pause is over");
    }
}
