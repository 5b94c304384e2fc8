//! What goes wrong, on demand.

use super::sock::{Packet, Stage};
use super::{Errno, Event, HostId, Kernel, ProcId, SockId};
use protocol_sm::time::Instant;
use std::time::Duration;

impl Kernel {
    /// Cuts the way from `a` to `b` and back. What is sent meanwhile is sent again after [`Kernel::heal`].
    pub fn cut(&mut self, a: HostId, b: HostId) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Cuts the way from `a` to `b` only.
    pub fn cut_one_way(&mut self, a: HostId, b: HostId) {
        self.cuts.entry((a, b)).or_insert(self.now);
        self.expect_silence(|kernel, sock| {
            let sock = &kernel.socks[sock.0];
            (sock.host, sock.remote_host) == (a, b) || (sock.host, sock.remote_host) == (b, a)
        });
    }

    /// Mends the way between `a` and `b` in both directions.
    pub fn heal(&mut self, a: HostId, b: HostId) {
        let since = [self.cuts.remove(&(a, b)), self.cuts.remove(&(b, a))].into_iter().flatten().min();
        if let Some(since) = since {
            self.resume(since);
        }
    }

    /// Mends every way, and loses no more packets.
    pub fn heal_all(&mut self) {
        for path in self.paths.values_mut() {
            path.loss = 0;
        }
        let cuts: Vec<_> = self.cuts.keys().copied().collect();
        for (a, b) in cuts {
            self.heal(a, b);
        }
    }

    /// Whether some way is cut.
    #[must_use]
    pub fn is_partitioned(&self) -> bool {
        !self.cuts.is_empty()
    }

    /// Packets that were held up are sent again; a peer that has forgotten a connection says so when probed.
    fn resume(&mut self, since: Instant) {
        let longest = u64::try_from(self.now.since(since).as_millis()).unwrap_or(u64::MAX).clamp(1, 60_000);
        for i in 0..self.socks.len() {
            let id = SockId(i);
            if self.is_cut(&self.socks[i]) {
                continue;
            }
            let repeats = self.repeats(&self.socks[i], since);
            let sock = &mut self.socks[i];
            sock.repeats = if sock.pending() { repeats } else { 0 };
            let owed = std::mem::take(&mut sock.owed);
            if owed > 0 {
                if sock.stage == Stage::Dead {
                    // Nobody is left who would send it again, and what is in flight behind a gap reaches no reader.
                    let lost: Vec<_> = sock.wire.drain(..owed.min(sock.wire.len())).collect();
                    sock.struck |= !lost.is_empty();
                    let in_stream = |packet: &Packet| matches!(packet, Packet::Data(_) | Packet::Fin);
                    if lost.iter().any(in_stream) {
                        sock.wire.retain(|packet| !in_stream(packet));
                    }
                } else {
                    let wait = self.rng.range(1, longest);
                    let at = sock_arrival(self, id, wait);
                    for _ in 0..owed {
                        self.at(at, Event::Arrive(id));
                    }
                }
            }
            let sock = &self.socks[i];
            if let (Stage::Up, Some(keepalive)) = (sock.stage, sock.options.keepalive) {
                self.at(self.now + keepalive, Event::Probe(id));
            }
        }
    }

    /// Connections that probe will find their peer silent, if nothing changes.
    fn expect_silence(&mut self, among: impl Fn(&Self, SockId) -> bool) {
        for i in 0..self.socks.len() {
            let sock = &self.socks[i];
            if let (Stage::Up, Some(keepalive), true) = (sock.stage, sock.options.keepalive, among(self, SockId(i))) {
                self.at(self.now + keepalive, Event::Silent(SockId(i), self.now));
            }
        }
    }

    /// A middlebox resets the connection at one end, which dies at once; the other end learns of it from what it
    /// sends. Returns whether it was up.
    pub fn reset_one_end(&mut self, sock: SockId) -> bool {
        // Between the ends of a Unix socket is nobody.
        if self.socks[sock.0].stage != Stage::Up || self.socks[sock.0].unix {
            return false;
        }
        self.socks[sock.0].fail(Errno::ECONNRESET);
        self.socks[sock.0].struck = true;
        self.die(sock);
        self.expect_probe(sock);
        true
    }

    /// A middlebox resets the connection at both ends.
    pub fn reset_both_ends(&mut self, sock: SockId) -> bool {
        let peer = self.socks[sock.0].peer;
        let up = self.reset_one_end(sock);
        up && peer.is_some_and(|peer| self.reset_one_end(peer))
    }

    /// Whether both ends are up, and nothing keeps them from hearing of each other.
    #[must_use]
    pub fn is_healthy(&self, id: SockId) -> bool {
        let up = |id: SockId| self.socks[id.0].stage == Stage::Up && !self.is_cut(&self.socks[id.0]);
        up(id) && self.socks[id.0].peer.is_some_and(up)
    }

    /// A NAT forgets the connection: its packets vanish, and nobody is told.
    pub fn blackhole(&mut self, sock: SockId) -> bool {
        let Some(peer) = self.socks[sock.0].peer else { return false };
        if self.socks[sock.0].stage != Stage::Up || self.socks[sock.0].unix {
            return false;
        }
        for end in [sock, peer] {
            self.socks[end.0].blackholed = Some(self.now);
            self.socks[end.0].struck = true;
        }
        self.expect_silence(|_, id| id == sock || id == peer);
        true
    }

    /// kill -9: every descriptor is closed, as close(2) does it, SO_LINGER heeded.
    pub fn kill(&mut self, proc: ProcId) {
        let socks = std::mem::take(&mut self.procs[proc.0].socks);
        for id in socks {
            self.unwatch(id);
            let linger0 = self.socks[id.0].options.linger0;
            self.release(id, linger0);
        }
        let pipes = std::mem::take(&mut self.procs[proc.0].pipes);
        for pipe in pipes {
            self.pipes[pipe.0] = super::Pipe::default();
        }
        self.procs[proc.0].polls = 0;
        self.procs[proc.0].alive = false;
    }

    /// A machine loses its power: its processes and connections are gone, and nobody is told.
    pub fn power_off(&mut self, host: HostId) {
        self.hosts[host.0].down = Some(self.now);
        for id in (0..self.socks.len()).map(SockId) {
            if let Stage::Datagrams { socket, .. } = self.socks[id.0].stage
                && self.socks[id.0].host == host
            {
                self.release_udp(id, socket);
            }
            let sock = &mut self.socks[id.0];
            if sock.host == host {
                sock.stage = Stage::Dead;
                sock.struck = true;
                sock.orphan = true;
                sock.wire.clear();
                sock.owed = 0;
                sock.sendq.clear();
                sock.recvq.clear();
                sock.unread = 0;
                sock.watch = None;
                sock.children.clear();
            }
        }
        for i in 0..self.procs.len() {
            if self.procs[i].host == host {
                self.kill(ProcId(i));
            }
        }
        self.hosts[host.0].ports.clear();
        self.hosts[host.0].paths.clear();
        self.expect_silence(|kernel, sock| kernel.socks[sock.0].remote_host == host);
    }

    /// Whether a machine has no power.
    #[must_use]
    pub fn is_down(&self, host: HostId) -> bool {
        self.hosts[host.0].down.is_some()
    }

    /// Power is back.
    pub fn power_on(&mut self, host: HostId, since: Instant) {
        self.hosts[host.0].down = None;
        self.resume(since);
    }

    /// A spurious wake-up: the socket's poller looks, whether there is something or not.
    pub fn nudge(&mut self, sock: SockId) {
        self.wake(sock);
    }
}

/// Held-up packets arrive together, behind what was to arrive before.
fn sock_arrival(kernel: &mut Kernel, id: SockId, wait_ms: u64) -> Instant {
    let at = kernel.now + Duration::from_millis(wait_ms);
    let sock = &mut kernel.socks[id.0];
    sock.last_arrival = sock.last_arrival.max(at);
    sock.last_arrival
}
