//! System calls, as a process makes them.

use super::sock::{Fin, Packet, Sock, Stage};
use super::{Errno, Event, Host, HostId, Kernel, Options, PIPE_SLOTS, Pipe, PipeId, PollId, ProcId, SockId};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use protocol_sm::driver::{Readiness, Token, Unacked};
use protocol_sm::ports::may_clash;
use protocol_sm::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// A write of so few bytes is never cut short: a fresh socket takes them.
const SMALL: usize = 256;

impl Host {
    /// Whoever listens on this port, at which address.
    fn listeners(&self, port: u16) -> impl Iterator<Item = (IpAddr, SockId)> {
        let of_port = self.ports.range((port, Ipv4Addr::UNSPECIFIED.into())..);
        of_port.take_while(move |((of, _), _)| *of == port).map(|(&(_, at), &listener)| (at, listener))
    }
}

impl Kernel {
    pub(super) fn take_fd(&self, proc: ProcId, count: usize) -> Result<(), Errno> {
        let proc = &self.procs[proc.0];
        assert!(proc.alive, "a dead process calls nothing");
        if proc.fds() + count > proc.fd_limit { Err(Errno::EMFILE) } else { Ok(()) }
    }

    pub(super) fn host_at(&self, from: HostId, to: SocketAddr) -> Option<HostId> {
        if to.ip().is_loopback() || to.ip().is_unspecified() {
            return Some(from);
        }
        let first = match to.ip().to_canonical() {
            IpAddr::V4(ip) if ip.octets()[1] > 0 => IpAddr::from([10, 0, 0, ip.octets()[1]]),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        self.hosts.iter().position(|host| host.ip == first).map(HostId)
    }

    fn free_port(&mut self, host: HostId) -> u16 {
        let host = &mut self.hosts[host.0];
        loop {
            host.next_port = if host.next_port == u16::MAX { 20_000 } else { host.next_port + 1 };
            if host.listeners(host.next_port).next().is_none() {
                return host.next_port;
            }
        }
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// `EMFILE`, `EHOSTUNREACH`.
    pub fn connect(&mut self, proc: ProcId, to: SocketAddr, options: Options) -> Result<SockId, Errno> {
        self.take_fd(proc, 1)?;
        let host = self.procs[proc.0].host;
        let target = self.host_at(host, to).ok_or(Errno::EHOSTUNREACH)?;
        let ip = if target == host { to.ip() } else { self.hosts[host.0].ip };
        let port = self.free_port(host);
        let id = SockId(self.socks.len());
        let mut sock = Sock::new(host, proc, options);
        sock.stage = Stage::Connecting;
        sock.local = SocketAddr::new(ip, port);
        sock.remote = to;
        sock.remote_host = target;
        self.socks.push(sock);
        self.procs[proc.0].socks.insert(id);
        self.emit(id, Packet::Syn);
        let at = self.now + Duration::from_secs(1);
        self.at(at, Event::Syn(id));
        Ok(id)
    }

    /// Binds and listens; what is accepted gets `options`.
    ///
    /// # Errors
    /// `EMFILE`, `EADDRINUSE`.
    pub fn listen(
        &mut self,
        proc: ProcId,
        at: SocketAddr,
        backlog: usize,
        options: Options,
    ) -> Result<(SockId, SocketAddr), Errno> {
        self.take_fd(proc, 1)?;
        let host = self.procs[proc.0].host;
        let port = if at.port() == 0 { self.free_port(host) } else { at.port() };
        let clashes = |other| may_clash(Some(other), Some(at.ip()));
        if self.hosts[host.0].listeners(port).any(|(other, _)| clashes(other)) {
            return Err(Errno::EADDRINUSE);
        }
        let id = SockId(self.socks.len());
        let mut sock = Sock::new(host, proc, options);
        sock.stage = Stage::Listening;
        sock.local = SocketAddr::new(at.ip(), port);
        sock.backlog = backlog;
        let local = sock.local;
        self.socks.push(sock);
        self.hosts[host.0].ports.insert((port, at.ip()), id);
        self.procs[proc.0].socks.insert(id);
        Ok((id, local))
    }

    /// A listener goes from its process to another, with all that waits there, and is watched by nobody.
    pub fn give(&mut self, listener: SockId, to: ProcId) {
        let from = std::mem::replace(&mut self.socks[listener.0].proc, to);
        assert!(self.procs[from.0].socks.remove(&listener), "its process has it");
        self.procs[to.0].socks.insert(listener);
        self.unwatch(listener);
    }

    /// Who gets what comes to this port at this address.
    pub(super) fn listener_for(&self, host: HostId, to: SocketAddr) -> Option<SockId> {
        let host = &self.hosts[host.0];
        let port = host.redirects.get(&to.port()).copied().unwrap_or(to.port());
        host.listeners(port).find(|(at, _)| at.is_unspecified() || *at == to.ip()).map(|(_, listener)| listener)
    }

    /// Whoever comes to one of these ports of `host` is given to the listener at `to`, as by a router on the machine.
    pub fn redirect(&mut self, host: HostId, ports: impl IntoIterator<Item = u16>, to: u16) {
        self.hosts[host.0].redirects.extend(ports.into_iter().map(|port| (port, to)));
    }

    /// listen(2) once more: so many may wait from now on, and one more.
    pub fn set_backlog(&mut self, listener: SockId, backlog: usize) {
        self.socks[listener.0].backlog = backlog;
    }

    /// Takes a connection off the accept queue.
    ///
    /// # Errors
    /// `EMFILE`, and the connection stays; `EAGAIN`.
    pub fn accept(&mut self, listener: SockId) -> Result<(SockId, SocketAddr), Errno> {
        let proc = self.socks[listener.0].proc;
        if self.socks[listener.0].children.is_empty() {
            return Err(Errno::EAGAIN);
        }
        self.take_fd(proc, 1)?;
        let child = self.socks[listener.0].children.pop_front().ok_or(Errno::EAGAIN)?;
        let sock = &mut self.socks[child.0];
        sock.parent = None;
        // It may have come while another process had the listener.
        sock.proc = proc;
        let remote = sock.remote;
        self.procs[proc.0].socks.insert(child);
        Ok((child, remote))
    }

    /// SO_ERROR; `EAGAIN` while a connect is not through.
    ///
    /// # Errors
    /// The pending error, once.
    pub fn take_error(&mut self, id: SockId) -> Result<(), Errno> {
        let sock = &mut self.socks[id.0];
        match sock.err.take() {
            Some(errno) => Err(errno),
            None if sock.stage == Stage::Connecting => Err(Errno::EAGAIN),
            None => Ok(()),
        }
    }

    /// What a read finds when no byte is there.
    fn nothing_to_read(&mut self, id: SockId) -> Result<usize, Errno> {
        let sock = &mut self.socks[id.0];
        if sock.eof && !sock.unix {
            return Ok(0);
        }
        if let Some(errno) = sock.err.take() {
            return Err(errno);
        }
        match sock.stage {
            Stage::Dead => Ok(0),
            Stage::Up if sock.eof => Ok(0),
            Stage::Listening | Stage::Datagrams { .. } => Err(Errno::ENOTCONN),
            Stage::Connecting | Stage::Answering | Stage::Up => Err(Errno::EAGAIN),
        }
    }

    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    /// `EAGAIN`; a pending error, once, and only behind what came before it.
    pub fn recv(&mut self, id: SockId, into: &mut [u8]) -> Result<usize, Errno> {
        let sock = &mut self.socks[id.0];
        if sock.unread == 0 {
            return self.nothing_to_read(id);
        }
        let mut filled = 0;
        while filled < into.len()
            && let Some(front) = sock.recvq.front()
        {
            let rest = &front[sock.front_read..];
            let n = rest.len().min(into.len() - filled);
            into[filled..filled + n].copy_from_slice(&rest[..n]);
            filled += n;
            sock.front_read += n;
            if sock.front_read == front.len() {
                sock.recvq.pop_front();
                sock.front_read = 0;
            }
        }
        sock.unread -= filled;
        self.open_window(id);
        Ok(filled)
    }

    /// recv(2) with MSG_PEEK: reads what is there, and leaves it there; 0 is the end.
    ///
    /// # Errors
    /// As for [`Kernel::recv`].
    pub fn peek(&mut self, id: SockId, into: &mut [u8]) -> Result<usize, Errno> {
        let sock = &self.socks[id.0];
        if sock.unread == 0 {
            return self.nothing_to_read(id);
        }
        let mut unread = sock.front_read;
        let bytes = sock.recvq.iter().flat_map(|segment| segment[std::mem::take(&mut unread)..].iter());
        Ok(into.iter_mut().zip(bytes).map(|(to, &byte)| *to = byte).count())
    }

    /// After a read: tells the sender, once the window has grown by enough to be worth it.
    fn open_window(&mut self, id: SockId) {
        let sock = &self.socks[id.0];
        if sock.unix {
            return self.make_room(id);
        }
        if sock.stage != Stage::Up || sock.eof {
            return;
        }
        let segment = self.path(sock.remote_host, sock.host).segment;
        let sock = &mut self.socks[id.0];
        let edge = sock.received - sock.unread as u64 + sock.options.receive_buffer as u64;
        let worth = segment.min(sock.options.receive_buffer / 2).max(1) as u64;
        if edge >= sock.advertised + worth {
            sock.advertised = edge;
            self.acknowledge(id);
        }
    }

    /// Whether a write can be tried.
    fn check_writable(&mut self, id: SockId) -> Result<usize, Errno> {
        let sock = &mut self.socks[id.0];
        match sock.stage {
            Stage::Connecting | Stage::Answering => return Err(Errno::EAGAIN),
            Stage::Listening | Stage::Datagrams { .. } => return Err(Errno::ENOTCONN),
            Stage::Dead => return Err(sock.err.take().unwrap_or(Errno::EPIPE)),
            // The error is left to a reader.
            Stage::Up if sock.refused => return Err(Errno::EPIPE),
            Stage::Up => {}
        }
        if let Some(errno) = sock.err.take() {
            return Err(errno);
        }
        if sock.fin != Fin::None {
            return Err(Errno::EPIPE);
        }
        let room = sock.room();
        if room == 0 {
            sock.nospace = true;
            return Err(Errno::EAGAIN);
        }
        Ok(room)
    }

    /// How much of `wanted` a write takes.
    fn admit(&mut self, id: SockId, room: usize, wanted: usize) -> usize {
        let mut n = room.min(wanted);
        if n > SMALL && self.short_writes > 0 && self.rng.chance(self.short_writes) {
            n = self.rng.size(1, n);
        }
        let sock = &mut self.socks[id.0];
        if !sock.pending() {
            sock.progress = self.now;
        }
        // A write cut short has found no room: there will be an edge, if it is watched for room.
        sock.nospace |= n < wanted;
        n
    }

    /// Writes some of `from`.
    ///
    /// # Errors
    /// `EAGAIN`; a pending error, once; then `EPIPE`.
    pub fn send(&mut self, id: SockId, from: &[u8]) -> Result<usize, Errno> {
        let room = self.check_writable(id)?;
        let n = self.admit(id, room, from.len());
        self.socks[id.0].sendq.extend(&from[..n]);
        self.transmit(id);
        Ok(n)
    }

    /// A new pipe.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn pipe(&mut self, proc: ProcId) -> Result<PipeId, Errno> {
        self.take_fd(proc, 2)?;
        self.pipes.push(Pipe::default());
        let id = PipeId(self.pipes.len() - 1);
        self.procs[proc.0].pipes.insert(id);
        Ok(id)
    }

    /// Bytes in a pipe.
    #[must_use]
    pub fn pipe_bytes(&self, pipe: PipeId) -> usize {
        self.pipes[pipe.0].bytes
    }

    /// Whether a pipe has no slot left.
    #[must_use]
    pub fn is_full(&self, pipe: PipeId) -> bool {
        self.pipes[pipe.0].chunks.len() >= PIPE_SLOTS
    }

    /// The socket at the other end, once there is one.
    #[must_use]
    pub fn peer(&self, id: SockId) -> Option<SockId> {
        self.socks[id.0].peer
    }

    /// Bytes received and not read.
    #[must_use]
    pub fn unread(&self, id: SockId) -> usize {
        self.socks[id.0].unread
    }

    /// Who listens there on a host.
    #[must_use]
    pub fn listener_at(&self, host: HostId, at: SocketAddr) -> Option<ProcId> {
        self.listener_for(host, at).map(|id| self.socks[id.0].proc)
    }

    /// Whether the socket listens, or is one of UDP that was bound and is no copy.
    #[must_use]
    pub fn is_listening(&self, id: SockId) -> bool {
        matches!(self.socks[id.0].stage, Stage::Listening | Stage::Datagrams { copy: false, .. })
    }

    /// SIOCOUTQ: bytes that the peer has not acknowledged; a FIN counts as one. Of a Unix socket production does not ask:
    /// what was written is in the peer's hands.
    #[must_use]
    pub fn unsent(&self, id: SockId) -> usize {
        let sock = &self.socks[id.0];
        if sock.unix {
            return 0;
        }
        sock.held() + usize::from(matches!(sock.fin, Fin::Queued | Fin::Sent))
    }

    /// TCP_INFO: what the peer has not acknowledged.
    #[must_use]
    pub fn unacked(&self, id: SockId) -> Option<Unacked> {
        let sock = &self.socks[id.0];
        let repeats = self.dead_since(sock).map_or(sock.repeats, |dead| self.repeats(sock, dead));
        (self.unsent(id) > 0).then(|| Unacked { repeats, heard: self.now.since(sock.last_heard) })
    }

    /// How often the oldest of what is not acknowledged has been sent again since its path was `dead`: the first pause is
    /// 200 ms, and each is twice the one before.
    pub(super) fn repeats(&self, sock: &Sock, dead: Instant) -> u32 {
        (self.now.since(dead.max(sock.progress)).as_millis() / 200 + 1).ilog2()
    }

    /// Bytes that have come to a socket, read or not.
    #[must_use]
    pub fn received(&self, id: SockId) -> u64 {
        self.socks[id.0].received
    }

    /// Bytes that were written into a socket.
    #[must_use]
    pub fn written(&self, id: SockId) -> u64 {
        let sock = &self.socks[id.0];
        sock.sent + sock.sendq.len() as u64
    }

    /// Whether it has had an error, although perhaps somebody has taken that.
    #[must_use]
    pub fn has_failed(&self, id: SockId) -> bool {
        self.socks[id.0].failed
    }

    /// Whether the network has broken the connection at this end, or lost something that it had sent.
    #[must_use]
    pub fn was_struck(&self, id: SockId) -> bool {
        self.socks[id.0].struck
    }

    /// Whether it can send or receive.
    #[must_use]
    pub fn is_up(&self, id: SockId) -> bool {
        let sock = &self.socks[id.0];
        sock.stage == Stage::Up && !(self.is_abandoned(id) && sock.unread == 0)
    }

    /// Whether a socket's write half was shut.
    #[must_use]
    pub fn is_shut(&self, id: SockId) -> bool {
        self.socks[id.0].fin != Fin::None
    }

    /// Bytes on their way to a socket, or in it and unread.
    #[must_use]
    pub fn incoming(&self, id: SockId) -> usize {
        let sock = &self.socks[id.0];
        let on_wire = sock.peer.map_or(0, |peer| {
            let peer = &self.socks[peer.0];
            peer.sendq.len() + usize::try_from(peer.sent.saturating_sub(sock.received)).expect("in flight fits memory")
        });
        on_wire + sock.unread
    }

    /// Closes both ends of a pipe.
    ///
    /// # Panics
    /// If it is closed already.
    pub fn close_pipe(&mut self, proc: ProcId, pipe: PipeId) {
        assert!(self.procs[proc.0].pipes.remove(&pipe), "a pipe is closed once");
        self.pipes[pipe.0] = Pipe::default();
    }

    /// A pipe that holds so many bytes.
    #[cfg(test)]
    pub(crate) fn fill_pipe(&mut self, pipe: PipeId, bytes: usize) {
        self.pipes[pipe.0] = Pipe { bytes, front_read: 0, chunks: VecDeque::from_iter([vec![0; bytes]]) };
    }

    /// splice(2) from a socket: each segment takes a slot of the pipe, however small.
    ///
    /// # Errors
    /// `EAGAIN` for an empty source *or* a full pipe; as [`Kernel::recv`].
    pub fn splice_in(&mut self, id: SockId, pipe: PipeId, max: usize) -> Result<usize, Errno> {
        let sock = &mut self.socks[id.0];
        let into = &mut self.pipes[pipe.0];
        if into.chunks.len() >= PIPE_SLOTS {
            return Err(Errno::EAGAIN);
        }
        if sock.unread == 0 {
            return self.nothing_to_read(id);
        }
        let mut moved = 0;
        while moved < max
            && into.chunks.len() < PIPE_SLOTS
            && let Some(front) = sock.recvq.front_mut()
        {
            let left = front.len() - sock.front_read;
            let n = left.min(max - moved);
            let chunk = if n == left && sock.front_read == 0 {
                std::mem::take(front)
            } else {
                front[sock.front_read..sock.front_read + n].to_vec()
            };
            into.chunks.push_back(chunk);
            sock.front_read += n;
            if n == left {
                sock.recvq.pop_front();
                sock.front_read = 0;
            }
            moved += n;
        }
        into.bytes += moved;
        sock.unread -= moved;
        self.open_window(id);
        Ok(moved)
    }

    /// splice(2) into a socket.
    ///
    /// # Errors
    /// `EAGAIN` for an empty pipe *or* a full socket; as [`Kernel::send`].
    pub fn splice_out(&mut self, pipe: PipeId, id: SockId, max: usize) -> Result<usize, Errno> {
        let bytes = self.pipes[pipe.0].bytes;
        if bytes == 0 {
            return Err(Errno::EAGAIN);
        }
        let room = self.check_writable(id)?;
        let n = self.admit(id, room, bytes.min(max));
        let from = &mut self.pipes[pipe.0];
        let sock = &mut self.socks[id.0];
        let mut moved = 0;
        while moved < n
            && let Some(front) = from.chunks.front()
        {
            let rest = &front[from.front_read..];
            let take = rest.len().min(n - moved);
            sock.sendq.extend(&rest[..take]);
            from.front_read += take;
            moved += take;
            if from.front_read == front.len() {
                from.chunks.pop_front();
                from.front_read = 0;
            }
        }
        from.bytes -= moved;
        self.transmit(id);
        Ok(moved)
    }

    /// read(2) from a pipe that holds as much as `into` has.
    ///
    /// # Panics
    /// If it holds less.
    pub fn read_pipe(&mut self, pipe: PipeId, into: &mut [u8]) {
        let from = &mut self.pipes[pipe.0];
        let mut bytes = from.chunks.iter().flatten().skip(from.front_read).copied();
        into.fill_with(|| bytes.next().expect("it holds as much"));
        let left: Vec<_> = bytes.collect();
        *from = Pipe { bytes: left.len(), front_read: 0, chunks: VecDeque::from_iter([left]) };
        from.chunks.retain(|chunk| !chunk.is_empty());
    }

    /// shutdown(SHUT_WR).
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn shut_write(&mut self, id: SockId) -> Result<(), Errno> {
        let sock = &mut self.socks[id.0];
        if sock.stage != Stage::Up {
            return Err(Errno::ENOTCONN);
        }
        if sock.fin == Fin::None {
            if !sock.pending() {
                sock.progress = self.now;
            }
            sock.fin = Fin::Queued;
            self.transmit(id);
        }
        // `inet_shutdown` wakes its own pollers.
        self.wake(id);
        Ok(())
    }

    /// close(2); `linger0`: with SO_LINGER {on, 0}.
    ///
    /// # Panics
    /// If it is closed already.
    pub fn close(&mut self, id: SockId, linger0: bool) {
        let proc = self.socks[id.0].proc;
        assert!(self.procs[proc.0].socks.remove(&id), "a socket is closed once");
        self.unwatch(id);
        self.release(id, linger0);
    }

    /// What closing the last descriptor does.
    pub(super) fn release(&mut self, id: SockId, linger0: bool) {
        let sock = &mut self.socks[id.0];
        sock.orphan = true;
        match sock.stage {
            Stage::Dead => self.die(id),
            Stage::Datagrams { socket, .. } => self.release_udp(id, socket),
            Stage::Connecting => {
                let answered = sock.peer.is_some();
                self.die(id);
                if answered {
                    self.emit(id, Packet::Rst);
                }
            }
            Stage::Listening => {
                let at = sock.local;
                let host = sock.host;
                sock.stage = Stage::Dead;
                let children = std::mem::take(&mut sock.children);
                self.hosts[host.0].ports.remove(&(at.port(), at.ip()));
                self.hosts[host.0].paths.retain(|_, listener| *listener != id);
                for child in children {
                    self.release(child, true);
                }
                let half_made: Vec<_> = (0..self.socks.len())
                    .map(SockId)
                    .filter(|s| self.socks[s.0].parent == Some(id) && self.socks[s.0].stage == Stage::Answering)
                    .collect();
                for child in half_made {
                    self.release(child, true);
                }
            }
            Stage::Answering => {
                self.die(id);
                self.emit(id, Packet::Rst);
            }
            Stage::Up if sock.unix => self.part(id),
            Stage::Up if linger0 || sock.unread > 0 => {
                // Unread bytes, or SO_LINGER 0: what is queued is discarded, and the peer learns of it.
                self.die(id);
                self.emit(id, Packet::Rst);
            }
            Stage::Up => {
                sock.progress = self.now;
                if sock.fin == Fin::None {
                    sock.fin = Fin::Queued;
                }
                let through = sock.fin == Fin::Acked && sock.eof;
                if through {
                    self.die(id);
                } else {
                    // The patience for an orphan counts from here.
                    self.socks[id.0].timer_armed = false;
                    self.transmit(id);
                }
            }
        }
    }

    /// Reports the socket's readiness as `token`, edge-triggered; what is ready already, once. Room to write is
    /// reported if `room`, or after [`Kernel::watch_room`].
    ///
    /// # Panics
    /// If it is watched already.
    pub fn watch(&mut self, id: SockId, poll: PollId, token: Token, room: bool) {
        let sock = &mut self.socks[id.0];
        assert!(sock.watch.is_none(), "watched once (EEXIST)");
        sock.watch = Some((poll, token));
        sock.for_room |= room;
        if sock.watched() != Readiness::default() {
            self.wake(id);
        }
    }

    /// Room to write is reported from now on, whoever watches (EPOLL_CTL_MOD).
    pub fn watch_room(&mut self, id: SockId) {
        let sock = &mut self.socks[id.0];
        sock.for_room = true;
        if sock.watched() != Readiness::default() {
            self.wake(id);
        }
    }

    /// Stops reporting.
    pub fn unwatch(&mut self, id: SockId) {
        let sock = &mut self.socks[id.0];
        sock.watch = None;
        sock.queued = false;
    }

    /// epoll_wait(2) with no timeout: up to `max` sockets that became ready since they were last reported.
    pub fn poll(&mut self, poll: PollId, max: usize) -> Vec<(Token, Readiness)> {
        let mut found = Vec::new();
        while found.len() < max
            && let Some(id) = self.polls[poll.0].ready.pop_front()
        {
            let sock = &mut self.socks[id.0];
            let Some((_, token)) = sock.watch.filter(|&(at, _)| at == poll && sock.queued) else { continue };
            sock.queued = false;
            let ready = sock.watched();
            if ready != Readiness::default() {
                found.push((token, ready));
            }
        }
        found
    }

    /// Whether a poll would find something.
    #[must_use]
    pub fn has_ready(&self, poll: PollId) -> bool {
        !self.polls[poll.0].ready.is_empty()
    }
}
