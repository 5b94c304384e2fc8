//! Packets: how they leave, travel and arrive, and the timers behind them.

use super::sock::{Fin, Packet, Sock, Stage};
use super::{Errno, Event, HostId, Kernel, ORPHAN, Path, SYN_RETRIES, SockId};
use protocol_sm::time::Instant;
use std::time::Duration;

impl Kernel {
    pub(super) fn path(&self, from: HostId, to: HostId) -> Path {
        self.paths.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Whether packets from `sock` to its peer get nowhere now.
    pub(super) fn is_cut(&self, sock: &Sock) -> bool {
        self.cut_since(sock).is_some()
    }

    /// Since when.
    fn cut_since(&self, sock: &Sock) -> Option<Instant> {
        let cut = self.cuts.get(&(sock.host, sock.remote_host)).copied();
        let downs = [self.hosts[sock.host.0].down, self.hosts[sock.remote_host.0].down];
        [sock.blackholed, cut].into_iter().chain(downs).flatten().min()
    }

    /// Since when bytes or acknowledgements get nowhere.
    pub(super) fn dead_since(&self, sock: &Sock) -> Option<Instant> {
        let back = self.cuts.get(&(sock.remote_host, sock.host)).copied();
        self.cut_since(sock).into_iter().chain(back).min()
    }

    /// Puts a packet on the wire from `from` to its peer.
    pub(super) fn emit(&mut self, from: SockId, packet: Packet) {
        let now = self.now;
        let sock = &mut self.socks[from.0];
        if let (Packet::Ack { .. }, Some(last @ Packet::Ack { .. })) = (&packet, sock.wire.back_mut()) {
            // One that is still on its way says it all.
            *last = packet;
            return;
        }
        let path = self.paths.get(&(sock.host, sock.remote_host)).copied().unwrap_or_default();
        let length = packet.len() as u64;
        sock.link_free = sock.link_free.max(now) + Duration::from_nanos(length * 1_000_000_000 / path.rate);
        let mut at = sock.link_free + path.latency;
        if !path.jitter.is_zero() {
            let jitter = u64::try_from(path.jitter.as_nanos()).unwrap_or(u64::MAX);
            at = at + Duration::from_nanos(self.rng.below(jitter));
        }
        if path.loss > 0 && self.rng.below(10_000) < path.loss {
            at = at + Duration::from_millis(200 << self.rng.below(3));
        }
        let sock = &mut self.socks[from.0];
        sock.last_arrival = sock.last_arrival.max(at);
        sock.wire.push_back(packet);
        let at = sock.last_arrival;
        self.at(at, Event::Arrive(from));
    }

    /// Sends what the peer's window allows, then the FIN.
    pub(super) fn transmit(&mut self, id: SockId) {
        let sock = &self.socks[id.0];
        if sock.unix {
            return self.deliver(id);
        }
        let segment = self.path(sock.host, sock.remote_host).segment;
        loop {
            let sock = &mut self.socks[id.0];
            if sock.stage != Stage::Up {
                return;
            }
            let window = usize::try_from(sock.edge.saturating_sub(sock.sent)).unwrap_or(usize::MAX);
            let n = sock.sendq.len().min(window).min(segment);
            if n == 0 {
                break;
            }
            let bytes = take_front(&mut sock.sendq, n);
            sock.sent += n as u64;
            self.emit(id, Packet::Data(bytes));
        }
        let sock = &mut self.socks[id.0];
        if sock.sendq.is_empty() && sock.fin == Fin::Queued {
            sock.fin = Fin::Sent;
            self.emit(id, Packet::Fin);
        }
        self.arm(id);
    }

    /// Watches over what the peer has to acknowledge.
    fn arm(&mut self, id: SockId) {
        let now = self.now;
        let sock = &mut self.socks[id.0];
        if sock.timer_armed || !sock.pending() {
            return;
        }
        sock.timer_armed = true;
        sock.progress = now;
        let patience = patience(sock);
        self.at(now + patience, Event::Stuck(id));
    }

    pub(super) fn on_stuck(&mut self, id: SockId) {
        let dead = self.dead_since(&self.socks[id.0]);
        let sock = &mut self.socks[id.0];
        sock.timer_armed = false;
        if sock.stage != Stage::Up || !sock.pending() {
            return;
        }
        // TCP_USER_TIMEOUT and an orphan's patience end for a peer too that answers but opens no window.
        let strict = sock.orphan || sock.options.user_timeout.is_some();
        let since = if strict { Some(sock.progress) } else { dead.map(|dead| dead.max(sock.progress)) };
        let at = since.unwrap_or(self.now) + patience(sock);
        if at <= self.now {
            self.give_up(id, Errno::ETIMEDOUT);
            return;
        }
        sock.timer_armed = true;
        self.at(at, Event::Stuck(id));
    }

    /// The connection is dead at this end; what the peer sends is answered with a RST.
    pub(super) fn give_up(&mut self, id: SockId, errno: Errno) {
        self.remark(id, "gives up");
        let sock = &mut self.socks[id.0];
        sock.fail(errno);
        sock.struck = true;
        self.die(id);
        self.expect_probe(id);
    }

    /// A socket has died and its peer was not told. The peer's keepalive finds that out, or what the peer sends does so
    /// first.
    pub(super) fn expect_probe(&mut self, id: SockId) {
        if let Some(peer) = self.socks[id.0].peer
            && let Some(keepalive) = self.socks[peer.0].options.keepalive
        {
            self.at(self.now + keepalive, Event::Probe(peer));
        }
    }

    /// TCP_CLOSE.
    pub(super) fn die(&mut self, id: SockId) {
        let sock = &mut self.socks[id.0];
        sock.stage = Stage::Dead;
        sock.sendq = std::collections::VecDeque::new();
        sock.sent = sock.acked;
        if sock.orphan {
            sock.recvq.clear();
            sock.unread = 0;
        }
        self.wake(id);
    }

    /// The next packet from `from` arrives at its peer, if the path is there.
    pub(super) fn arrive(&mut self, from: SockId) {
        let sock = &self.socks[from.0];
        if sock.owed > 0 || self.is_cut(sock) {
            self.socks[from.0].owed += 1;
            return;
        }
        let Some(packet) = self.socks[from.0].wire.pop_front() else { return };
        self.record(from, &packet);
        if let Packet::Syn = packet {
            self.on_syn(from);
            return;
        }
        let Some(to) = self.socks[from.0].peer else { return };
        let was_dead = self.socks[to.0].stage == Stage::Dead;
        if was_dead {
            // Nobody there: a RST, unless this was one.
            if !matches!(packet, Packet::Rst) {
                self.refuse(from, Errno::ECONNRESET);
            }
            return;
        }
        self.socks[to.0].last_heard = self.now;
        match packet {
            Packet::Syn => {}
            Packet::SynAck => self.on_syn_ack(to),
            Packet::Rst => self.on_rst(to),
            Packet::Ack { received, edge, fin } => self.on_ack(to, received, edge, fin),
            Packet::Data(bytes) => self.on_data(to, bytes),
            Packet::Fin => self.on_fin(to),
        }
    }

    pub(super) fn record(&mut self, from: SockId, packet: &Packet) {
        let sock = &self.socks[from.0];
        let to = sock.peer.map(|peer| self.socks[peer.0].proc);
        let (name, bytes): (_, &[u8]) = match packet {
            Packet::Syn => ("SYN", &[]),
            Packet::SynAck => ("SYN-ACK", &[]),
            Packet::Ack { .. } => ("ACK", &[]),
            Packet::Data(bytes) => ("DATA", bytes),
            Packet::Fin => ("FIN", &[]),
            Packet::Rst => ("RST", &[]),
        };
        self.trace.packet(self.now, sock.proc, to, from, name, bytes);
    }

    fn remark(&mut self, id: SockId, what: &str) {
        self.trace.remark(self.now, Some(self.socks[id.0].proc), || format!("{what} (socket {})", id.0));
    }

    /// Sends `to` a RST from a machine that does not know its connection. It arrives after one way's latency.
    fn refuse(&mut self, to: SockId, errno: Errno) {
        let Some(peer) = self.socks[to.0].peer else {
            self.on_refused(to, errno);
            return;
        };
        if !self.socks[peer.0].wire.iter().any(|packet| matches!(packet, Packet::Rst)) {
            self.emit(peer, Packet::Rst);
        }
    }

    fn on_refused(&mut self, id: SockId, errno: Errno) {
        if self.socks[id.0].stage == Stage::Connecting {
            self.socks[id.0].fail(errno);
            self.die(id);
        }
    }

    fn on_syn(&mut self, from: SockId) {
        let client = &self.socks[from.0];
        if client.stage != Stage::Connecting || client.peer.is_some() {
            return;
        }
        let (remote, local, host) = (client.remote, client.local, client.remote_host);
        let client_host = client.host;
        let Some(listener) = self.listener_for(host, remote) else {
            // The RST takes its way back.
            let ghost = self.ghost(host, client_host, from);
            self.socks[from.0].peer = Some(ghost);
            self.emit(ghost, Packet::Rst);
            return;
        };
        if self.is_crowded(listener) {
            self.forget_half_made(listener);
        }
        if self.is_crowded(listener) {
            // Accept queue full: the SYN is dropped, and sent again.
            self.remark(listener, "backlog full");
            return;
        }
        let parent = &mut self.socks[listener.0];
        parent.answering += 1;
        let (proc, options) = (parent.proc, parent.options);
        let id = SockId(self.socks.len());
        let mut child = Sock::new(host, proc, options);
        child.stage = Stage::Answering;
        child.local = remote;
        child.remote = local;
        child.remote_host = client_host;
        child.peer = Some(from);
        child.parent = Some(listener);
        child.edge = self.socks[from.0].advertised;
        child.last_heard = self.now;
        self.socks.push(child);
        self.socks[from.0].peer = Some(id);
        self.socks[from.0].edge = self.socks[id.0].advertised;
        self.emit(id, Packet::SynAck);
    }

    fn is_crowded(&self, listener: SockId) -> bool {
        let listener = &self.socks[listener.0];
        listener.children.len() + listener.answering > listener.backlog
    }

    /// Drops half-made connections whose peer is gone and could not say so. They would stay in the accept queue for
    /// ever.
    fn forget_half_made(&mut self, listener: SockId) {
        let lost = |sock: &Sock| {
            let gone = |peer: SockId| self.socks[peer.0].stage == Stage::Dead;
            sock.parent == Some(listener) && sock.stage == Stage::Answering && sock.peer.is_some_and(gone)
        };
        let lost: Vec<_> = (0..self.socks.len()).filter(|&i| lost(&self.socks[i])).map(SockId).collect();
        for id in lost {
            self.socks[listener.0].answering -= 1;
            self.socks[id.0].orphan = true;
            self.die(id);
        }
    }

    /// An end without a socket, for the RST that it sends.
    fn ghost(&mut self, host: HostId, to: HostId, peer: SockId) -> SockId {
        let id = SockId(self.socks.len());
        let options = self.socks[peer.0].options;
        let mut ghost = Sock::new(host, self.socks[peer.0].proc, options);
        ghost.remote_host = to;
        ghost.peer = Some(peer);
        ghost.orphan = true;
        self.socks.push(ghost);
        id
    }

    fn on_syn_ack(&mut self, id: SockId) {
        let sock = &mut self.socks[id.0];
        if sock.stage != Stage::Connecting {
            return;
        }
        sock.stage = Stage::Up;
        let (received, edge) = (sock.received, sock.advertised);
        self.emit(id, Packet::Ack { received, edge, fin: false });
        self.transmit(id);
        self.wake(id);
    }

    /// The peer of a half-made connection is there: it can be accepted.
    fn complete(&mut self, id: SockId) {
        let sock = &mut self.socks[id.0];
        if sock.stage != Stage::Answering {
            return;
        }
        sock.stage = Stage::Up;
        if let Some(listener) = sock.parent {
            self.socks[listener.0].answering -= 1;
            self.socks[listener.0].children.push_back(id);
            self.wake(listener);
        }
    }

    fn on_rst(&mut self, id: SockId) {
        let sock = &mut self.socks[id.0];
        let errno = match sock.stage {
            Stage::Connecting => Errno::ECONNREFUSED,
            // CLOSE_WAIT: the end was read already.
            Stage::Up if sock.eof => Errno::EPIPE,
            Stage::Listening | Stage::Answering | Stage::Up | Stage::Datagrams { .. } | Stage::Dead => {
                Errno::ECONNRESET
            }
        };
        if sock.stage == Stage::Answering
            && let Some(listener) = sock.parent
        {
            sock.orphan = true;
            self.socks[listener.0].answering -= 1;
        }
        let sock = &mut self.socks[id.0];
        sock.fail(errno);
        self.die(id);
    }

    fn on_ack(&mut self, id: SockId, received: u64, edge: u64, fin: bool) {
        self.complete(id);
        let now = self.now;
        let sock = &mut self.socks[id.0];
        if received > sock.acked || edge > sock.edge || fin {
            sock.progress = now;
            sock.repeats = 0;
        }
        sock.acked = sock.acked.max(received);
        sock.edge = sock.edge.max(edge);
        if fin && sock.fin == Fin::Sent {
            sock.fin = Fin::Acked;
            self.wake(id);
        }
        self.transmit(id);
        let sock = &mut self.socks[id.0];
        if sock.nospace && sock.writable() {
            sock.nospace = false;
            self.wake(id);
        }
        self.bury(id);
    }

    /// A closed connection whose both directions are through is forgotten.
    fn bury(&mut self, id: SockId) {
        let sock = &mut self.socks[id.0];
        if sock.orphan && sock.stage == Stage::Up && sock.fin == Fin::Acked && sock.eof {
            self.die(id);
        }
    }

    fn on_data(&mut self, id: SockId, bytes: Vec<u8>) {
        self.complete(id);
        let sock = &mut self.socks[id.0];
        if sock.orphan {
            // Data for a closed socket: the connection is aborted, and what it had to send is lost.
            let Some(peer) = sock.peer else { return };
            self.die(id);
            self.refuse(peer, Errno::ECONNRESET);
            return;
        }
        assert!(!sock.eof, "nothing comes behind a FIN");
        sock.received += bytes.len() as u64;
        sock.unread += bytes.len();
        assert!(sock.received <= sock.advertised, "the window holds");
        sock.recvq.push_back(bytes);
        self.acknowledge(id);
        self.wake(id);
    }

    pub(super) fn acknowledge(&mut self, id: SockId) {
        let sock = &self.socks[id.0];
        let (received, edge, fin) = (sock.received, sock.advertised, sock.eof);
        self.emit(id, Packet::Ack { received, edge, fin });
    }

    fn on_fin(&mut self, id: SockId) {
        self.complete(id);
        let sock = &mut self.socks[id.0];
        sock.eof = true;
        self.acknowledge(id);
        self.wake(id);
        self.bury(id);
    }

    pub(super) fn on_syn_timer(&mut self, id: SockId) {
        let answered = self.socks[id.0].peer;
        let forgotten = answered.map(|peer| &self.socks[peer.0]);
        let forgotten = forgotten.is_some_and(|peer| peer.stage == Stage::Dead && peer.wire.is_empty());
        let sock = &mut self.socks[id.0];
        if sock.stage != Stage::Connecting {
            return;
        }
        if forgotten {
            // Its machine lost power before the answer came.
            sock.peer = None;
        }
        if sock.syn_retries == SYN_RETRIES {
            self.give_up(id, Errno::ETIMEDOUT);
            return;
        }
        sock.syn_retries += 1;
        let pause = Duration::from_secs(1 << sock.syn_retries);
        if sock.wire.is_empty() && sock.peer.is_none() {
            self.emit(id, Packet::Syn);
        }
        let at = self.now + pause;
        self.at(at, Event::Syn(id));
    }

    /// `sock` has not heard of its peer since the path was cut at `cut`.
    pub(super) fn on_silent(&mut self, id: SockId, cut: Instant) {
        let sock = &self.socks[id.0];
        if sock.stage == Stage::Up && sock.last_heard <= cut && self.is_cut(sock) {
            self.give_up(id, Errno::ETIMEDOUT);
        }
    }

    pub(super) fn on_probe(&mut self, id: SockId) {
        let sock = &self.socks[id.0];
        let Some(peer) = sock.peer.filter(|_| !sock.unix) else { return };
        if sock.stage == Stage::Up && !self.is_cut(sock) && self.socks[peer.0].stage == Stage::Dead {
            self.socks[id.0].struck = true;
            self.on_rst(id);
        }
    }
}

/// How long unacknowledged bytes may make no progress.
fn patience(sock: &Sock) -> Duration {
    if sock.orphan { ORPHAN } else { sock.options.user_timeout.unwrap_or(sock.options.dead_path) }
}

/// The first `n` bytes of a queue.
fn take_front(queue: &mut std::collections::VecDeque<u8>, n: usize) -> Vec<u8> {
    let (a, b) = queue.as_slices();
    let mut bytes = Vec::with_capacity(n);
    let of_a = n.min(a.len());
    bytes.extend_from_slice(&a[..of_a]);
    bytes.extend_from_slice(&b[..n - of_a]);
    queue.drain(..n);
    bytes
}
