//! One session on the client: its numbered messages and conns.
//!
//! It decides; the client's main thread owns the socket and carries out what is returned.
//!
//! Invariants:
//! - L1 a conn's number is used once in a session, and belongs to one event loop until it is gone;
//! - L2 each conn asked for is opened or counted as failed.

use super::{loop_of, narrow};
use crate::auth::SessionKey;
use crate::codes::{LeaveCode, TunnelRefusal, Violation};
use crate::ids::{ConnId, SessionId, TunnelId};
use crate::session::NumberedMessages;
use crate::transfer::Fin;
use crate::wire::{ClientMsg, Pin, ServerBody, ServerMsg, TransferMsg};
use alloc::collections::BTreeMap;
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
    /// Answer this.
    Reply(ClientMsg),
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
    /// A tunnel that was open is not any more.
    Closed(TunnelId, TunnelRefusal),
    /// The server stops: no new visitors will come.
    Drain,
    /// No new visitors will come in this session.
    Leave(LeaveCode),
    /// Datagrams may go beside the conns, to a server with this key.
    Path(Pin),
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
    // PROTOCOL.md: P-POOL-1, P-STATE-3, P-STALE-3.
    pub fn on_msg(&mut self, msg: ServerMsg) -> Result<Reaction, Violation> {
        match msg {
            ServerMsg::TunnelReady { tunnel, public } => Ok(Reaction::Ready(tunnel, public)),
            ServerMsg::TunnelRefused { tunnel, code } => Ok(Reaction::Refused(tunnel, code)),
            ServerMsg::TunnelClosed { tunnel, code } => Ok(Reaction::Closed(tunnel, code)),
            ServerMsg::NeedConn { count: 0 } => Err(Violation::Limit),
            ServerMsg::NeedConn { count } => {
                let room = u32::try_from(self.max_conns.saturating_sub(self.conns.len())).unwrap_or(u32::MAX);
                let open = count.min(room);
                Ok(Reaction::Open { count: open, failed: count - open })
            }
            ServerMsg::Fin { conn, epoch, total, how } => {
                self.pass(TransferMsg { conn, epoch, body: ServerBody::Fin(Fin { total, how }) })
            }
            ServerMsg::Abort { conn, epoch, code } => {
                self.pass(TransferMsg { conn, epoch, body: ServerBody::Abort { code } })
            }
            ServerMsg::AskStart { conn, epoch } => self.pass(TransferMsg { conn, epoch, body: ServerBody::AskStart }),
            ServerMsg::Drain => Ok(Reaction::Drain),
            ServerMsg::Leave { code } => Ok(Reaction::Leave(code)),
            ServerMsg::DatagramPath { pin } => Ok(Reaction::Path(pin)),
        }
    }

    fn pass(&self, msg: TransferMsg<ServerBody>) -> Result<Reaction, Violation> {
        if msg.conn.0 == 0 || msg.conn.0 >= self.next_conn {
            return Err(Violation::FutureEpoch);
        }
        let TransferMsg { conn, epoch, body } = msg;
        Ok(match (self.conns.get(&conn), body) {
            (Some(&loop_index), _) => Reaction::Pass(usize::from(loop_index), msg),
            // Whatever was seen on a conn that is gone, an earlier message has told the end of it.
            (None, ServerBody::AskStart) => Reaction::Reply(ClientMsg::StartSeen { conn, epoch, seen: false }),
            // One that is gone: stale.
            (None, ServerBody::Fin(_) | ServerBody::Abort { .. }) => Reaction::Nothing,
        })
    }

    /// The key of the session.
    #[must_use]
    pub fn secret(&self) -> &SessionKey {
        &self.secret
    }

    /// Numbers a new conn, and says which event loop opens it.
    // PROTOCOL.md: P-ID-2.
    pub fn open(&mut self) -> (usize, ConnId) {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let loop_index = loop_of(conn, self.loop_count);
        self.conns.insert(conn, narrow(loop_index));
        (loop_index, conn)
    }

    /// The event loop that has this conn, if it is there.
    #[must_use]
    pub fn loop_with(&self, conn: ConnId) -> Option<usize> {
        self.conns.get(&conn).map(|&loop_index| loop_index.into())
    }

    /// As many conns may be open at once from now on.
    pub fn open_at_most(&mut self, max_conns: u32) {
        self.max_conns = max_conns as usize;
    }

    /// A conn is closed.
    pub fn on_conn_gone(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
    }
}
