//! What the world sees of the machines from outside: the order of messages, epochs, and who was idle when.

use super::sys::{Effects, Mail};
use super::tasks::Task;
use super::{Role, World};
use crate::kernel::SockId;
use crate::oracle::{Kind, Property, Sometimes};
use core::net::SocketAddr;
use protocol_sm::codes::{AbortCode, CloseCode, HandshakeRefusal, RefuseCode};
use protocol_sm::driver::messages::{
    Arrival, ControlKey, FromClientLoop, FromServerLoop, ToClientLoop, ToClientMain, ToServerLoop, ToServerMain,
};
use protocol_sm::driver::{Dropped, Note, Role as Purpose};
use protocol_sm::ids::{ConnId, Epoch};
use protocol_sm::wire::{ClientBody, ClientMsg, ServerBody, ServerMsg, TransferMsg};
use std::collections::{BTreeMap, BTreeSet};

/// A conn as one process knows it: the process, its session there, and the conn's number.
type Key = (usize, u64, ConnId);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The socket of each conn, at either end.
    socks: BTreeMap<Key, SockId>,
    conns: BTreeMap<SockId, Key>,
    /// The session that a client's thread is in.
    serials: BTreeMap<usize, u64>,
    /// The conn that a client's thread was just told to open.
    opening: Option<Key>,
    /// A visitor was just handed to a loop.
    arriving: bool,
    /// A loop is handling deadlines.
    pub(super) deadline: bool,
    /// Visitors who were dropped because no conn came in time.
    pub(super) waited_too_long: BTreeSet<SocketAddr>,
    /// The session whose tunnel a visitor came to.
    visitors: BTreeMap<(usize, SocketAddr), u64>,
    /// The last transfer that a server has started on a conn.
    started: BTreeMap<Key, u32>,
    /// The last transfer that a client has begun on a conn.
    begun: BTreeMap<Key, u32>,
    /// Halves whose end was announced, by the process that announced.
    fins: BTreeSet<(Key, Epoch)>,
    dones: BTreeSet<(Key, Epoch)>,
    /// The last `Abort` of a conn, by the process that announced.
    aborts: BTreeSet<(Key, Epoch)>,
}

impl World {
    /// A message is handed to a thread of the same process.
    pub(super) fn see_sent(&mut self, process: usize, mail: &Mail) {
        let (key, epoch) = match mail {
            Mail::ServerMain(ToServerMain::Loop(FromServerLoop::Message {
                control,
                msg: ServerMsg::Fin { conn, epoch, .. },
            })) => ((process, control.0, *conn), *epoch),
            Mail::ClientMain(ToClientMain::Loop(FromClientLoop::Message {
                serial,
                msg: ClientMsg::Fin { conn, epoch, .. },
            })) => ((process, *serial, *conn), *epoch),
            Mail::ClientMain(ToClientMain::Loop(FromClientLoop::Message {
                serial,
                msg: ClientMsg::Done { conn, epoch },
            })) => {
                if !self.watch.dones.insert(((process, *serial, *conn), *epoch)) {
                    self.fail(Kind::Safety, Property::FinOnce, format!("Done twice for {conn:?} {epoch:?}"));
                }
                return;
            }
            Mail::ServerMain(ToServerMain::Loop(FromServerLoop::Message {
                control,
                msg: ServerMsg::Abort { conn, epoch, .. },
            })) => {
                self.watch.aborts.insert(((process, control.0, *conn), *epoch));
                return;
            }
            Mail::ServerMain(_)
            | Mail::Listener(_)
            | Mail::ServerLoop(_)
            | Mail::ClientMain(_)
            | Mail::ClientLoop(_) => {
                return;
            }
        };
        if !self.watch.fins.insert((key, epoch)) {
            self.fail(Kind::Safety, Property::FinOnce, format!("Fin twice for {:?} {epoch:?}", key.2));
        }
    }

    /// A thread takes a message.
    pub(super) fn see_delivered(&mut self, thread: usize, mail: &Mail) {
        let process = self.threads[thread].process;
        match mail {
            Mail::ServerLoop(ToServerLoop::Conn { control, conn, stream }) => {
                let key = (process, control.0, *conn);
                self.watch.socks.insert(key, stream.0);
                self.watch.conns.insert(stream.0, key);
                self.overheard.on_admitted(stream.0.0);
            }
            Mail::ServerLoop(ToServerLoop::Transfer { control, msg }) => self.see_transfer_msg(process, *control, *msg),
            Mail::ServerLoop(ToServerLoop::Visitor(Arrival { control, from, .. })) => {
                self.watch.visitors.insert((process, *from), control.0);
                self.watch.arriving = true;
            }
            Mail::ClientLoop(ToClientLoop::Open { hello, .. }) => {
                let serial = self.watch.serials.get(&thread).copied().unwrap_or(0);
                self.watch.opening = Some((process, serial, hello.conn));
            }
            Mail::ClientLoop(ToClientLoop::Session { serial }) => {
                self.watch.serials.insert(thread, *serial);
            }
            Mail::ClientLoop(ToClientLoop::Transfer(TransferMsg { conn, epoch, body: ServerBody::Fin { .. } })) => {
                let serial = self.watch.serials.get(&thread).copied().unwrap_or(0);
                let key = (process, serial, *conn);
                let begun = self.watch.begun.get(&key).copied().unwrap_or(0);
                if begun < epoch.0 {
                    self.coverage.saw(Sometimes::FinBeforeStart);
                }
                self.see_fin(key, *epoch, Sometimes::ServerFinFirst);
            }
            Mail::ServerLoop(_)
            | Mail::ServerMain(_)
            | Mail::Listener(_)
            | Mail::ClientMain(_)
            | Mail::ClientLoop(_) => {}
        }
    }

    fn see_transfer_msg(&mut self, process: usize, control: ControlKey, msg: TransferMsg<ClientBody>) {
        let key = (process, control.0, msg.conn);
        match msg.body {
            ClientBody::Fin { .. } => {
                if self.watch.aborts.contains(&(key, msg.epoch)) {
                    self.coverage.saw(Sometimes::AbortCrossesFin);
                }
                self.see_fin(key, msg.epoch, Sometimes::ClientFinFirst);
            }
            ClientBody::Done => {
                // `Started` is the answer's first frame: while the conn's socket has unread bytes and none was read
                // since, it has been overtaken.
                let sock = self.watch.socks.get(&key).copied();
                if sock.is_some_and(|sock| self.kernel.incoming(sock) > 0) {
                    self.coverage.saw(Sometimes::DoneBeforeStarted);
                }
            }
            ClientBody::Abort { .. } => {}
        }
    }

    /// A `Fin` reaches the loop of the other side: `key` is how that side knows the conn.
    fn see_fin(&mut self, key: Key, epoch: Epoch, first: Sometimes) {
        let own = self.watch.fins.contains(&(key, epoch));
        self.coverage.saw(if own { Sometimes::FinsCross } else { first });
        let Some(&sock) = self.watch.socks.get(&key) else { return };
        let before = self.kernel.incoming(sock) > 0;
        self.coverage.saw(if before { Sometimes::FinBeforeLastByte } else { Sometimes::FinAfterLastByte });
    }

    /// A callback has begun connections.
    pub(super) fn see_dials(&mut self, thread: usize, last_read: Option<SockId>, dialled: &[(Purpose, SockId)]) {
        let Task::ClientLoop(_) = self.threads[thread].task else { return };
        for &(purpose, sock) in dialled {
            if purpose == Purpose::Proxy
                && let Some(key) = self.watch.opening.take()
            {
                self.watch.socks.insert(key, sock);
                self.watch.conns.insert(sock, key);
            }
            let key = last_read.and_then(|sock| self.watch.conns.get(&sock)).copied();
            if let (Purpose::Local, Some(key)) = (purpose, key) {
                *self.watch.begun.entry(key).or_default() += 1;
            }
        }
    }

    /// What a callback did, beyond its messages and notes.
    pub(super) fn see_effects(&mut self, thread: usize, effects: &Effects) {
        if self.processes[self.threads[thread].process].role == Role::Server {
            for (sock, bytes) in &effects.heard {
                self.overheard.on_read(sock.0, bytes);
            }
        }
        let Task::ServerLoop(_) = self.threads[thread].task else { return };
        let placed = |note: &Note| matches!(note, Note::Started { .. } | Note::VisitorDropped { .. });
        let passed = |(_, mail): &(usize, Mail)| matches!(mail, Mail::ServerLoop(ToServerLoop::Visitor { .. }));
        let arrived = std::mem::take(&mut self.watch.arriving);
        if arrived && !effects.notes.iter().any(placed) && !effects.mail.iter().any(passed) {
            self.coverage.saw(Sometimes::PoolEmpty);
        }
        if self.watch.deadline && effects.sent_to_conn {
            self.coverage.saw(Sometimes::IdlePinged);
        }
        if self.watch.deadline && effects.closed_healthy {
            self.coverage.saw(Sometimes::SurplusClosed);
        }
    }

    /// A server starts a transfer: its number is the next, and the client is done with the one before.
    fn see_started(&mut self, process: usize, conn: ConnId, epoch: Epoch, visitor: SocketAddr) {
        if epoch.0 >= 4 {
            self.coverage.saw(Sometimes::ConnReusedThrice);
        }
        let Some(&control) = self.watch.visitors.get(&(process, visitor)) else { return };
        let key = (process, control, conn);
        let before = self.watch.started.insert(key, epoch.0).unwrap_or(0);
        if epoch.0 != before + 1 {
            self.fail(Kind::Safety, Property::EpochsGrow, format!("{epoch:?} after {before} on {conn:?}"));
        }
        let peer = self.watch.socks.get(&key).and_then(|&sock| self.kernel.peer(sock));
        let client = peer.and_then(|peer| self.watch.conns.get(&peer)).copied();
        if let Some(client) = client
            && before > 0
            && !self.watch.dones.contains(&(client, Epoch(before)))
        {
            let what = format!("{conn:?} {epoch:?}: the client is not done with {before}");
            self.fail(Kind::Safety, Property::StartOnlyToIdle, what);
        }
    }

    /// A driver had something to say.
    pub(super) fn see_note(&mut self, process: usize, note: &Note) {
        let role = self.processes[process].role;
        let live = |world: &Self| world.transfers_in_flight() > 0;
        match note {
            Note::Started { conn, epoch, visitor, .. } => self.see_started(process, *conn, *epoch, *visitor),
            Note::Finished { egress, ingress, .. } => {
                if *egress == 0 || *ingress == 0 {
                    self.coverage.saw(Sometimes::ZeroByteHalf);
                }
                if *egress == 0 && *ingress == 0 {
                    self.coverage.saw(Sometimes::ZeroByteTransfer);
                }
            }
            Note::Aborted { code: AbortCode::Stopping, .. } => self.coverage.saw(Sometimes::DrainTimedOut),
            Note::Refused { code, .. } => self.coverage.saw(match code {
                RefuseCode::TimedOut => Sometimes::DialTimedOut,
                RefuseCode::ConnectionRefused
                | RefuseCode::Unreachable
                | RefuseCode::UnknownTunnel
                | RefuseCode::Resources => Sometimes::Refused,
            }),
            Note::VisitorDropped { why, visitor, .. } => match why {
                Dropped::WaitedTooLong => {
                    self.coverage.saw(Sometimes::WaiterTimedOut);
                    self.watch.waited_too_long.insert(*visitor);
                }
                Dropped::QueueFull => self.coverage.saw(Sometimes::QueueFull),
                Dropped::TooMany | Dropped::TunnelFull => self.coverage.saw(Sometimes::TooManyConnections),
                Dropped::Resources => self.coverage.saw(Sometimes::OutOfDescriptors),
                Dropped::Gone | Dropped::SourceDenied | Dropped::TooOften => {}
            },
            Note::Stale { .. } => self.coverage.saw(Sometimes::StaleMessage),
            Note::SessionUp { resumed: true, .. } => {
                self.coverage.saw(Sometimes::Resumed);
                if live(self) {
                    self.coverage.saw(Sometimes::ResumedWithTransfers);
                }
            }
            Note::SessionOver { code, .. } => match code {
                CloseCode::Replaced => {
                    self.coverage.saw(Sometimes::Replaced);
                    if live(self) {
                        self.coverage.saw(Sometimes::ReplacedWithTransfers);
                    }
                }
                CloseCode::Bye => self.coverage.saw(Sometimes::SessionExpired),
                CloseCode::Violation | CloseCode::Stopping => {}
            },
            Note::HandshakeRefused { refusal: HandshakeRefusal::IdentityInUse, .. } => {
                self.coverage.saw(Sometimes::RivalRefused);
            }
            Note::Violation { violation, conn } => {
                // A stranger's bytes are no session's.
                let strange = conn.is_none() && role == Role::Server && self.strangers_came();
                if !strange {
                    let what = format!("{role:?}: {violation} (conn {conn:?})");
                    self.fail(Kind::Safety, Property::HonestPeersNeverViolate, what);
                }
            }
            Note::Aborted { .. }
            | Note::ConnUp { .. }
            | Note::ConnDown { .. }
            | Note::ConnFailed { .. }
            | Note::SessionUp { .. }
            | Note::SessionDetached { .. }
            | Note::Tunnel { .. }
            | Note::Forwarding { .. }
            | Note::NotForwarding { .. }
            | Note::HandshakeRefused { .. }
            | Note::HandshakeDropped { .. }
            | Note::Reconnecting { .. } => {}
        }
    }
}
