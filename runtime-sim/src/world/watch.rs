//! What the world sees of the machines from outside: the order of messages, epochs, and who was idle when.

use super::actors::Actor;
use super::reload::Reloading;
use super::sys::{Effects, Mail, OuterReset};
use super::tasks::Task;
use super::{Role, World};
use crate::kernel::{Kernel, SockId};
use crate::oracle::{Ends, Kind, Property, Sometimes};
use core::net::SocketAddr;
use core::time::Duration;
use protocol_sm::codes::{AbortCode, CloseCode, HandshakeRefusal, RefuseCode, TunnelRefusal, Violation};
use protocol_sm::crowd::Guest;
use protocol_sm::driver::messages::{
    Arrival, ControlKey, FromClientLoop, FromServerLoop, ToClientLoop, ToClientMain, ToServerLoop, ToServerMain,
};
use protocol_sm::driver::{Dropped, Note, Role as Purpose};
use protocol_sm::ids::{ClientId, ConnId, Epoch, TunnelId};
use protocol_sm::time::Instant;
use protocol_sm::transfer::{Fin, How};
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
    /// The next conn whose client dials for a transfer is reset.
    pub(super) ambush: bool,
    /// Visitors who were dropped because no conn came in time.
    pub(super) waited_too_long: BTreeSet<SocketAddr>,
    /// The session and the tunnel whose visitor somebody is.
    visitors: BTreeMap<(usize, SocketAddr), (u64, TunnelId)>,
    /// The last transfer that a server has started on a conn.
    started: BTreeMap<Key, u32>,
    /// The last transfer that a client has begun on a conn.
    begun: BTreeMap<Key, u32>,
    /// Halves whose end was announced, by the process that announced.
    fins: Ends<(Key, Epoch)>,
    dones: BTreeSet<(Key, Epoch)>,
    /// Halves whose end was told to the other side's loop, by that.
    told: BTreeSet<(Key, Epoch)>,
    /// Every transfer that a server has started.
    transfers: Vec<Transfer>,
    /// Visitors that a server's loop has taken, by their public sockets: which process, which session, whence.
    taken: BTreeMap<SockId, (usize, u64, SocketAddr)>,
    /// Visitors that were dropped for a reason of the tunnel's.
    dropped: BTreeSet<(usize, SocketAddr)>,
    /// What a server's listener counts a visitor as, by its public socket.
    guests: BTreeMap<SockId, Guest>,
    /// Sessions and processes that may drop who waits.
    closing: BTreeSet<(usize, Option<u64>)>,
    /// Clients, of these server processes, whose session has released its ports.
    asleep: BTreeSet<(usize, ClientId)>,
    /// Outer sockets that are to be reset and have not sent everything: since when.
    lingering: BTreeMap<SockId, Instant>,
    /// A driver is told its settings anew.
    pub(super) reloading: Option<Reloading>,
    /// Clients that have dialled other than upon a `Start`.
    awaited: BTreeSet<usize>,
    /// Tunnels whose port the listener was told to close.
    pub(super) closed: BTreeSet<(usize, ControlKey, TunnelId)>,
}

/// A transfer, by the outer sockets of the two programs.
#[derive(Debug)]
struct Transfer {
    /// The server's conn.
    conn: Key,
    /// The client process, once it has dialled.
    client: Option<usize>,
    epoch: Epoch,
    public: SockId,
    local: Option<SockId>,
    /// The tunnel itself has ended it: it was aborted or refused, or an end read nothing for `reset_linger`.
    struck: bool,
    /// Its `Start` came when the client had been asked to stop: it may say goodbye before its last `Done`.
    late: bool,
    /// The client is through with it.
    finished: bool,
}

/// What the tunnel has done with a visitor.
#[derive(Debug)]
pub(super) struct Carried {
    /// The client's socket towards the service.
    pub(super) local: Option<SockId>,
    /// The server and the client that carry it.
    pub(super) programs: [Option<usize>; 2],
    /// The tunnel has broken it, or never took it.
    pub(super) exempt: bool,
}

impl Watch {
    /// The transfer of this outer socket no longer needs to be whole.
    fn strike(&mut self, sock: SockId) {
        if let Some(transfer) = self.transfers.iter_mut().rev().find(|transfer| transfer.other(sock).is_some()) {
            transfer.struck = true;
        }
    }

    /// Whether the conn with this socket on the server carries a transfer, of which both outer connections are up.
    pub(super) fn is_serving(&self, kernel: &Kernel, sock: SockId) -> bool {
        let Some(key) = self.conns.get(&sock) else { return false };
        let last = self.transfers.iter().rev().find(|transfer| transfer.conn == *key);
        last.is_some_and(|it| kernel.is_up(it.public) && it.local.is_some_and(|local| kernel.is_up(local)))
    }

    /// Whether who waits may be told that his tunnel is gone.
    fn is_closing(&self, process: usize, visitor: SocketAddr) -> bool {
        let session = self.visitors.get(&(process, visitor)).map(|at| at.0);
        [None, session].into_iter().any(|session| self.closing.contains(&(process, session)))
    }

    /// The socket by which a client carries a visitor to its service, if it has dialled.
    pub(super) fn local_of(&self, kernel: &Kernel, client: usize, visitor: SocketAddr) -> Option<SockId> {
        let of = |it: &&Transfer| it.client == Some(client) && kernel.remote(it.public) == visitor;
        self.transfers.iter().rev().find(of)?.local
    }

    /// Whether a client has dialled for visitors who had waited for an address: for whom, is not seen.
    pub(super) fn has_awaited(&self, client: usize) -> bool {
        self.awaited.contains(&client)
    }

    /// What became of the visitor with this public socket.
    pub(super) fn ends_of(&self, public: SockId) -> Carried {
        let Some(&(server, _, from)) = self.taken.get(&public) else {
            return Carried { local: None, programs: [None; 2], exempt: true };
        };
        let transfer = self.transfers.iter().rev().find(|transfer| transfer.public == public);
        Carried {
            local: transfer.and_then(|transfer| transfer.local),
            programs: [Some(server), transfer.and_then(|transfer| transfer.client)],
            // Whose dial it was that was begun other than upon a `Start` is not known.
            exempt: self.dropped.contains(&(server, from))
                || transfer.is_some_and(|it| it.struck || it.local.is_none() && !self.awaited.is_empty()),
        }
    }
}

impl Transfer {
    /// The other one's end.
    fn other(&self, sock: SockId) -> Option<SockId> {
        let local = self.local?;
        if sock == self.public { Some(local) } else { (sock == local).then_some(self.public) }
    }
}

impl World {
    /// A message is handed to a thread of the same process.
    pub(super) fn see_sent(&mut self, process: usize, mail: &Mail) {
        if let Mail::ServerMain(ToServerMain::Loop(FromServerLoop::WantBandwidth { .. }))
        | Mail::ClientMain(ToClientMain::Loop(FromClientLoop::WantBandwidth { .. })) = mail
        {
            self.coverage.saw(Sometimes::Throttled);
        }
        let (key, epoch, fin) = match mail {
            Mail::ServerMain(ToServerMain::Loop(FromServerLoop::Message {
                control,
                msg: ServerMsg::Fin { conn, epoch, total, how },
            })) => ((process, control.0, *conn), *epoch, Fin { total: *total, how: *how }),
            Mail::ClientMain(ToClientMain::Loop(FromClientLoop::Message {
                serial,
                msg: ClientMsg::Fin { conn, epoch, total, how },
            })) => ((process, *serial, *conn), *epoch, Fin { total: *total, how: *how }),
            Mail::ClientMain(ToClientMain::Loop(FromClientLoop::Message {
                serial,
                msg: ClientMsg::Done { conn, epoch },
            })) => {
                if !self.watch.dones.insert(((process, *serial, *conn), *epoch)) {
                    self.fail(Kind::Safety, Property::FinOnce, format!("Done twice for {conn:?} {epoch:?}"));
                }
                return;
            }
            Mail::ServerLoop(ToServerLoop::Visitor(Arrival { stream, guest, .. })) => {
                self.watch.guests.insert(stream.0, *guest);
                return;
            }
            // Where the `Start` may not have been seen, the question takes the place of the `Abort`.
            Mail::ServerMain(ToServerMain::Loop(FromServerLoop::Message {
                control,
                msg: ServerMsg::Abort { conn, epoch, .. } | ServerMsg::AskStart { conn, epoch },
            })) => {
                self.see_abort((process, control.0, *conn), *epoch);
                return;
            }
            Mail::ClientMain(ToClientMain::Loop(FromClientLoop::Message {
                serial,
                msg: ClientMsg::Abort { conn, epoch, .. },
            })) => {
                self.see_abort((process, *serial, *conn), *epoch);
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
        if let Err((property, what)) = self.watch.fins.on_fin((key, epoch), fin) {
            self.fail(Kind::Safety, property, what);
        } else if self.watch.fins.count((key, epoch)) > 1 {
            self.coverage.saw(Sometimes::ResetBehindEnd);
        }
    }

    /// A transfer is announced to be broken, and perhaps its other end's `Fin` is on its way.
    fn see_abort(&mut self, key: Key, epoch: Epoch) {
        let peer = self.watch.socks.get(&key).and_then(|&sock| self.kernel.peer(sock));
        let other = peer.and_then(|peer| self.watch.conns.get(&peer));
        let said = other.is_some_and(|&other| self.watch.fins.contains((other, epoch)));
        if said && !self.watch.told.contains(&(key, epoch)) {
            self.coverage.saw(Sometimes::AbortCrossesFin);
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
            Mail::ServerLoop(ToServerLoop::Visitor(Arrival { control, tunnel, who, stream, .. })) => {
                self.limit_public(stream.0, (process, Some(control.0), tunnel.0));
                self.watch.taken.insert(stream.0, (process, control.0, who.from));
                self.watch.visitors.insert((process, who.from), (control.0, *tunnel));
                self.watch.arriving = true;
            }
            Mail::ServerLoop(ToServerLoop::HandOver { from, to }) => {
                // Who was taken back waits again.
                let served = self.watch.transfers.iter().filter(|transfer| !transfer.struck);
                let served: BTreeSet<_> = served.map(|transfer| transfer.public).collect();
                for (&public, &(of, _, visitor)) in &self.watch.taken {
                    let at = self.watch.visitors.get_mut(&(process, visitor)).filter(|_| of == process);
                    if let Some(at) = at.filter(|at| **at == (from.0.0, from.1) && !served.contains(&public)) {
                        *at = (to.0.0, to.1);
                    }
                }
            }
            Mail::ClientLoop(ToClientLoop::Open { conn, .. }) => {
                let serial = self.watch.serials.get(&thread).copied().unwrap_or(0);
                self.watch.opening = Some((process, serial, *conn));
            }
            Mail::ClientLoop(ToClientLoop::Session { serial }) => {
                self.watch.serials.insert(thread, *serial);
            }
            Mail::ClientLoop(ToClientLoop::Transfer {
                serial,
                msg: TransferMsg { conn, epoch, body: ServerBody::Fin(fin) },
            }) => {
                let key = (process, *serial, *conn);
                let begun = self.watch.begun.get(&key).copied().unwrap_or(0);
                if begun < epoch.0 {
                    self.coverage.saw(Sometimes::FinBeforeStart);
                    if fin.how == How::Reset {
                        self.coverage.saw(Sometimes::ResetBeforeStart);
                    }
                }
                self.see_fin(key, *epoch, fin.how, [Sometimes::ServerFinFirst, Sometimes::ResetUp]);
            }
            Mail::ServerLoop(ToServerLoop::Close { control, .. } | ToServerLoop::CloseTunnel { control, .. }) => {
                self.watch.closing.insert((process, Some(control.0)));
            }
            Mail::ServerLoop(ToServerLoop::Drain | ToServerLoop::Stop) => {
                self.watch.closing.insert((process, None));
            }
            Mail::Listener(message) => self.see_listener_told(process, message),
            Mail::ServerLoop(_) | Mail::ServerMain(_) | Mail::ClientMain(_) | Mail::ClientLoop(_) => {}
        }
    }

    fn see_transfer_msg(&mut self, process: usize, control: ControlKey, msg: TransferMsg<ClientBody>) {
        let key = (process, control.0, msg.conn);
        match msg.body {
            ClientBody::Fin(fin) => {
                self.see_fin(key, msg.epoch, fin.how, [Sometimes::ClientFinFirst, Sometimes::ResetDown]);
            }
            ClientBody::Done => {
                // `Started` is the answer's first frame: while the conn's socket has unread bytes and none was read
                // since, it has been overtaken.
                let sock = self.watch.socks.get(&key).copied();
                if sock.is_some_and(|sock| self.kernel.incoming(sock) > 0) {
                    self.coverage.saw(Sometimes::DoneBeforeStarted);
                }
            }
            ClientBody::StartSeen { seen: true } => self.coverage.saw(Sometimes::StartSeen),
            ClientBody::StartSeen { seen: false } | ClientBody::Abort { .. } => {}
        }
    }

    /// A `Fin` reaches the loop of the other side: `key` is how that side knows the conn.
    fn see_fin(&mut self, key: Key, epoch: Epoch, how: How, [first, reset]: [Sometimes; 2]) {
        self.watch.told.insert((key, epoch));
        let own = self.watch.fins.contains((key, epoch));
        self.coverage.saw(if own { Sometimes::FinsCross } else { first });
        if how == How::Reset {
            self.coverage.saw(reset);
            self.coverage.saw(if own { Sometimes::ResetAfterOtherEnd } else { Sometimes::ResetBeforeOtherEnd });
        }
        let Some(&sock) = self.watch.socks.get(&key) else { return };
        let before = self.kernel.incoming(sock) > 0;
        self.coverage.saw(if before { Sometimes::FinBeforeLastByte } else { Sometimes::FinAfterLastByte });
    }

    /// A client dials for a visitor later.
    pub(super) fn see_put_off(&mut self, process: usize) {
        self.watch.awaited.insert(process);
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
            match (purpose, key) {
                (Purpose::Local, Some(key)) => {
                    *self.watch.begun.entry(key).or_default() += 1;
                    self.see_dialled(key, sock);
                }
                (Purpose::Local, None) => {
                    self.watch.awaited.insert(self.threads[thread].process);
                }
                (Purpose::Ctl | Purpose::Proxy | Purpose::Public | Purpose::Untold, _) => {}
            }
        }
    }

    /// A client has dialled for the last transfer that was started on this conn.
    fn see_dialled(&mut self, client: Key, local: SockId) {
        let server = self.watch.socks.get(&client).and_then(|&sock| self.kernel.peer(sock));
        if let Some(sock) = server
            && std::mem::take(&mut self.watch.ambush)
        {
            self.kernel.reset_both_ends(sock);
        }
        let Some(&server) = server.and_then(|server| self.watch.conns.get(&server)) else { return };
        let Some(at) = self.watch.transfers.iter().rposition(|transfer| transfer.conn == server) else { return };
        let transfer = &mut self.watch.transfers[at];
        transfer.late = self.processes[client.0].stopping.is_some();
        transfer.client = Some(client.0);
        transfer.local = Some(local);
        let (public, conn, epoch) = (transfer.public, transfer.conn.2, transfer.epoch);
        let before = self.watch.transfers[..at].iter().find(|before| before.public == public && before.local.is_some());
        if let Some(before) = before {
            let what = format!("{conn:?} {epoch:?}: dialled, and was for {:?} {:?}", before.conn.2, before.epoch);
            self.fail(Kind::Safety, Property::OneServicePerVisitor, what);
        }
    }

    /// The tunnel itself has ended a transfer of this process.
    fn see_struck(&mut self, process: usize, conn: ConnId, epoch: Epoch) {
        for transfer in &mut self.watch.transfers {
            let ours = transfer.conn.0 == process || transfer.client == Some(process);
            transfer.struck |= ours && (transfer.conn.2, transfer.epoch) == (conn, epoch);
        }
    }

    /// A client is through with a transfer. Another session of it may have, or have had, one with the same numbers.
    fn see_finished(&mut self, process: usize, conn: ConnId, epoch: Epoch) {
        let Self { watch, kernel, .. } = self;
        let is_it = |transfer: &&mut Transfer| {
            let ours = transfer.client == Some(process) && (transfer.conn.2, transfer.epoch) == (conn, epoch);
            let closed = transfer.local.is_some_and(|local| !kernel.is_up(local));
            ours && closed && !transfer.finished
        };
        if let Some(transfer) = watch.transfers.iter_mut().rev().find(is_it) {
            transfer.finished = !transfer.struck && !transfer.late;
        }
    }

    /// A program has given a conn up whose path is dead: something must have broken that, and not the whole line.
    fn see_path_dead(&mut self, process: usize, conn: ConnId, silence: Duration) {
        let socks = self.watch.socks.iter().filter(|((of, _, id), _)| (*of, *id) == (process, conn));
        if !socks.into_iter().any(|(_, &sock)| self.kernel.was_struck(sock)) {
            let what = format!("{conn:?} is given up after {silence:?}, and no fault has struck it");
            self.fail(Kind::Safety, Property::NoUnprovokedReset, what);
        }
    }

    /// A program has reset an outer connection that was up: because the other one has failed, and behind all that had
    /// come there before.
    pub(super) fn see_reset(&mut self, OuterReset { sock, written, unsent }: OuterReset) {
        let lingering = self.watch.lingering.remove(&sock);
        let of = |transfer: &&Transfer| transfer.other(sock).is_some();
        let Some(transfer) = self.watch.transfers.iter().rev().find(of) else { return };
        let Some(other) = transfer.other(sock) else { return };
        let which = format!("{:?} {:?}, socket {}", transfer.conn.2, transfer.epoch, sock.0);
        let well = !self.kernel.has_failed(other) && !self.kernel.is_abandoned(other);
        let may_go = self.has_drained(transfer.conn.0);
        if transfer.finished && sock == transfer.public && well && !may_go && self.nothing_breaks() {
            let what = format!("{which} is reset, and its client is through with it");
            return self.fail(Kind::Safety, Property::NoUnprovokedReset, what);
        }
        if transfer.struck {
            return;
        }
        if well {
            let what = format!("{which} is reset, and socket {} is well", other.0);
            return self.fail(Kind::Safety, Property::NoUnprovokedReset, what);
        }
        if self.kernel.is_refused(sock) {
            // It took nothing more.
            return;
        }
        let patience = self.plan.scenario.timings.reset_linger;
        let impatient = lingering.is_none_or(|since| self.now().since(since) < patience);
        let came = self.kernel.received(other) - self.visits.skipped(other);
        if written < came && impatient {
            let what = format!("{which}: {written} of {came} bytes");
            return self.fail(Kind::Safety, Property::BeforeResetDelivered, what);
        }
        if unsent == 0 && written >= came {
            return;
        }
        if impatient {
            let what = format!("{which}: {unsent} bytes are not sent, lingering since {lingering:?}");
            return self.fail(Kind::Safety, Property::BeforeResetDelivered, what);
        }
        self.coverage.saw(Sometimes::LingerTimedOut);
        self.watch.strike(sock);
    }

    /// What a callback did, beyond its messages and notes.
    pub(super) fn see_effects(&mut self, thread: usize, effects: &Effects) {
        if self.processes[self.threads[thread].process].role == Role::Server {
            for (sock, bytes) in &effects.heard {
                self.overheard.on_read(sock.0, bytes);
            }
        }
        let process = self.threads[thread].process;
        for &(purpose, sock) in &effects.dialled {
            if purpose == Purpose::Local {
                self.limit_local(process, sock);
            }
        }
        for &(sock, read, written) in &effects.moved {
            self.see_moved(sock, read, written);
        }
        self.visits.on_shut(&effects.shut);
        for &(sock, bytes) in &effects.skipped {
            self.visits.on_skipped(sock, bytes);
        }
        for &(sock, hello, behind) in &effects.unread {
            self.visits.on_unread(sock, hello, behind);
        }
        for &(sock, visitor) in &effects.accepted {
            self.visits.on_accepted(process, visitor, sock);
        }
        for &sock in effects.lingering.borrow().iter() {
            let now = self.now();
            self.watch.lingering.entry(sock).or_insert(now);
            if self.kernel.unsent(sock) > 0 {
                self.coverage.saw(Sometimes::Lingered);
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

    /// The visitors who are there are no more than there may be.
    pub(super) fn check_crowd(&mut self, process: usize) {
        let Some(tight) = self.plan.scenario.tight else { return };
        let proc = self.processes[process].proc;
        let open: Vec<_> =
            self.kernel.open_socks(proc).filter_map(|sock| self.watch.guests.get(&sock)).copied().collect();
        let most = open.iter().map(|guest| open.iter().filter(|other| *other == guest).count()).max().unwrap_or(0);
        if open.len() > tight.visitors as usize || most > tight.per_source as usize {
            let what = format!("{} visitors, {most} of one address, with {tight:?}", open.len());
            self.fail(Kind::Safety, Property::CrowdsAreBounded, what);
        }
    }

    /// A server starts a transfer: its number is the next, and the client is done with the one before.
    fn see_started(&mut self, key: Key, epoch: Epoch, visitor: SocketAddr) {
        if epoch.0 >= 4 {
            self.coverage.saw(Sometimes::ConnReusedThrice);
        }
        let at = self.in_truth(visitor);
        let came = self.actors.all.iter().rev().find(|actor| self.kernel.local(actor.sock) == at);
        let is_named = |actor: &Actor| actor.front.as_ref().is_some_and(|it| it.introduces() && it.name == visitor);
        let unnamed = self.plan.fronted && !came.is_some_and(is_named);
        if let Some(public) = came.and_then(|actor| self.kernel.peer(actor.sock)) {
            self.watch.transfers.push(Transfer {
                conn: key,
                client: None,
                epoch,
                public,
                local: None,
                struck: false,
                late: false,
                finished: false,
            });
        }
        if unnamed {
            self.fail(Kind::Safety, Property::VisitorsAreNamed, format!("{visitor} is served"));
        }
        let before = self.watch.started.insert(key, epoch.0).unwrap_or(0);
        if epoch.0 != before + 1 {
            self.fail(Kind::Safety, Property::EpochsGrow, format!("{epoch:?} after {before} on {:?}", key.2));
        }
        let peer = self.watch.socks.get(&key).and_then(|&sock| self.kernel.peer(sock));
        let client = peer.and_then(|peer| self.watch.conns.get(&peer)).copied();
        let reset = |half| self.watch.fins.is_reset((half, Epoch(before)));
        if before > 0 && (reset(key) || client.is_some_and(reset)) {
            self.coverage.saw(Sometimes::ReusedAfterReset);
        }
        if let Some(client) = client
            && before > 0
            && !self.watch.dones.contains(&(client, Epoch(before)))
        {
            let what = format!("{:?} {epoch:?}: the client is not done with {before}", key.2);
            self.fail(Kind::Safety, Property::StartOnlyToIdle, what);
        }
    }

    fn see_dropped(&mut self, why: Dropped, visitor: SocketAddr) {
        match why {
            Dropped::WaitedTooLong => {
                self.coverage.saw(Sometimes::WaiterTimedOut);
                self.watch.waited_too_long.insert(self.in_truth(visitor));
            }
            Dropped::QueueFull => self.coverage.saw(Sometimes::QueueFull),
            Dropped::TooMany | Dropped::TunnelFull => self.coverage.saw(Sometimes::TooManyConnections),
            Dropped::Resources => self.coverage.saw(Sometimes::OutOfDescriptors),
            Dropped::SourceFull => self.coverage.saw(Sometimes::SourceFull),
            Dropped::NoHeader => self.coverage.saw(Sometimes::HeaderRefused),
            Dropped::Gone | Dropped::SourceDenied | Dropped::TooOften => {}
        }
    }

    /// A driver had something to say.
    pub(super) fn see_note(&mut self, process: usize, note: &Note) {
        let role = self.processes[process].role;
        if let Note::Aborted { conn, epoch, .. }
        | Note::Refused { conn, epoch, .. }
        | Note::TakenBack { conn, epoch, .. } = note
        {
            self.see_struck(process, *conn, *epoch);
        }
        if let Note::Aborted { code: AbortCode::OuterReset, conn, epoch, .. } = note {
            let what = format!("{role:?}: {conn:?} {epoch:?}");
            self.fail(Kind::Safety, Property::ResetCostsNoConn, what);
        }
        if let Note::Aborted { code: AbortCode::Resources, by_peer: false, conn, epoch } = note {
            self.coverage.saw(Sometimes::StarvedOut);
            if self.kernel.no_memory(self.processes[process].proc) == 0 {
                let what = format!("{role:?}: {conn:?} {epoch:?}: there is memory");
                self.fail(Kind::Safety, Property::NoUnprovokedReset, what);
            }
        }
        let live = |world: &Self| world.transfers_in_flight() > 0;
        match note {
            Note::Started { control, conn, epoch, tunnel, visitor } => {
                self.watch.visitors.insert((process, *visitor), (control.0, *tunnel));
                self.see_started((process, control.0, *conn), *epoch, *visitor);
            }
            Note::Finished { conn, epoch, egress, ingress } => {
                self.see_finished(process, *conn, *epoch);
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
            Note::VisitorDropped { why, visitor, .. } => {
                if *why != Dropped::Gone || self.watch.is_closing(process, *visitor) {
                    self.watch.dropped.insert((process, *visitor));
                }
                self.see_dropped(*why, *visitor);
            }
            Note::NotRouted { visitor, .. } => {
                self.watch.dropped.insert((process, *visitor));
            }
            Note::TakenBack { lost, .. } => {
                self.coverage.saw(if *lost { Sometimes::StartLost } else { Sometimes::StartUnheard });
            }
            Note::Visit(visit) => self.see_visit(process, visit),
            Note::PathDead { conn, silence } => self.see_path_dead(process, *conn, *silence),
            Note::IdleConnsDie { .. } => self.coverage.saw(Sometimes::IdleConnsDie),
            Note::Stale { .. } => self.coverage.saw(Sometimes::StaleMessage),
            Note::SessionAsleep { client, .. } => {
                self.watch.asleep.insert((process, *client));
                if live(self) {
                    self.coverage.saw(Sometimes::ReleasedWithTransfers);
                }
            }
            Note::SessionUp { resumed: true, client, .. } => {
                self.coverage.saw(Sometimes::Resumed);
                if self.watch.asleep.remove(&(process, *client)) {
                    self.coverage.saw(Sometimes::ResumedAsleep);
                }
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
                CloseCode::Kicked => {
                    self.coverage.saw(if live(self) { Sometimes::KickedWithTransfers } else { Sometimes::Kicked });
                }
                CloseCode::Violation | CloseCode::Stopping | CloseCode::Revoked => {}
            },
            Note::SessionTakenOver { .. } => {
                self.coverage.saw(if live(self) { Sometimes::TakenOverWithTransfers } else { Sometimes::TakenOver });
            }
            Note::HandshakeRefused { refusal: HandshakeRefusal::IdentityInUse, .. } => {
                self.coverage.saw(Sometimes::RivalRefused);
            }
            Note::NotForwarding { code: TunnelRefusal::HeldByHolder, .. } => self.coverage.saw(Sometimes::Examined),
            Note::Reloaded { changes } => self.see_reloaded(process, changes.as_deref()),
            Note::Violation { violation, conn } => {
                // A stranger's bytes are no session's.
                let strange = conn.is_none() && role == Role::Server && self.strangers_came();
                // Only who acknowledges nothing; that the honest ones do is seen by their sessions going on.
                let strange = strange || role == Role::Server && *violation == Violation::Unacknowledged;
                if !strange {
                    let what = format!("{role:?}: {violation} (conn {conn:?})");
                    self.fail(Kind::Safety, Property::HonestPeersNeverViolate, what);
                }
            }
            Note::Aborted { .. }
            | Note::ConnUp { .. }
            | Note::ConnDown { .. }
            | Note::ConnFailed { .. }
            | Note::NoLocalPort { .. }
            | Note::NoLocalSource { .. }
            | Note::UnixUnreachable { .. }
            | Note::SessionUp { .. }
            | Note::SessionDetached { .. }
            | Note::SessionLost { .. }
            | Note::ProxyPort { .. }
            | Note::Left { .. }
            | Note::TakenOver
            | Note::PathUp { .. }
            | Note::PathSize { .. }
            | Note::PathDown { .. }
            | Note::PathFailed { .. }
            | Note::PathPort { .. }
            | Note::Tunnel { .. }
            | Note::Forwarding { .. }
            | Note::NotForwarding { .. }
            | Note::HandshakeRefused { .. }
            | Note::HandshakeDropped { .. }
            | Note::CannotAccept { .. }
            | Note::Foreign { .. }
            | Note::Reconnecting { .. } => {}
        }
    }
}

/// A transfer whose client has dialled.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialled {
    pub(super) server: usize,
    pub(super) session: u64,
    pub(super) conn: ConnId,
    pub(super) epoch: Epoch,
    pub(super) public: SockId,
    pub(super) local: SockId,
    pub(super) client: usize,
    /// The conn's socket at the server.
    pub(super) sock: SockId,
}

#[cfg(test)]
impl Watch {
    /// The conn with this socket at the server is another one.
    pub(super) fn rename(&mut self, sock: SockId, key: Key) {
        self.conns.insert(sock, key);
    }

    /// The last one.
    pub(super) fn last_dialled(&self) -> Option<Dialled> {
        let transfer = self.transfers.last()?;
        let (server, session, conn) = transfer.conn;
        let (epoch, public) = (transfer.epoch, transfer.public);
        let (local, client, sock) = (transfer.local?, transfer.client?, *self.socks.get(&transfer.conn)?);
        Some(Dialled { server, session, conn, epoch, public, local, client, sock })
    }
}
