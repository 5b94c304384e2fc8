//! Unix sockets, where they are not as TCP (`net/unix/af_unix.c`): nothing travels. What one end writes, shuts or leaves, the
//! other has at once, and what was written stays readable whatever becomes of who wrote it.
//!
//! A path is a number here, and stands as a port of loopback where an address is asked for.

use super::sock::{Fin, Packet, Sock, Stage};
use super::{Errno, Kernel, Options, ProcId, SockId};
use core::net::{Ipv4Addr, SocketAddr};

impl Kernel {
    /// Binds and listens at a path of the process's machine; what is accepted gets `options`.
    ///
    /// # Errors
    /// `EMFILE`, `EADDRINUSE`.
    pub fn listen_unix(&mut self, proc: ProcId, path: u16, backlog: usize, options: Options) -> Result<SockId, Errno> {
        self.take_fd(proc, 1)?;
        let host = self.procs[proc.0].host;
        if self.hosts[host.0].paths.contains_key(&path) {
            return Err(Errno::EADDRINUSE);
        }
        let id = self.add_unix(proc, path, options);
        let sock = &mut self.socks[id.0];
        (sock.stage, sock.backlog) = (Stage::Listening, backlog);
        self.hosts[host.0].paths.insert(path, id);
        self.procs[proc.0].socks.insert(id);
        Ok(id)
    }

    /// Connects to who listens at a path: at once, or not at all.
    ///
    /// # Errors
    /// `EMFILE`; `ECONNREFUSED` where nobody listens; `EAGAIN` where as many wait as may.
    pub fn connect_unix(&mut self, proc: ProcId, path: u16, options: Options) -> Result<SockId, Errno> {
        self.take_fd(proc, 1)?;
        let host = self.procs[proc.0].host;
        let listener = self.hosts[host.0].paths.get(&path).copied().ok_or(Errno::ECONNREFUSED)?;
        let door = &self.socks[listener.0];
        if door.children.len() > door.backlog {
            return Err(Errno::EAGAIN);
        }
        let (service, theirs) = (door.proc, door.options);
        let ends = [self.add_unix(proc, path, options), self.add_unix(service, path, theirs)];
        for (id, peer) in ends.into_iter().zip([ends[1], ends[0]]) {
            let sock = &mut self.socks[id.0];
            (sock.stage, sock.peer) = (Stage::Up, Some(peer));
        }
        self.socks[ends[1].0].parent = Some(listener);
        self.socks[listener.0].children.push_back(ends[1]);
        self.procs[proc.0].socks.insert(ends[0]);
        self.wake(listener);
        Ok(ends[0])
    }

    fn add_unix(&mut self, proc: ProcId, path: u16, options: Options) -> SockId {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, path));
        let sock = Sock::new(self.procs[proc.0].host, proc, options);
        self.socks.push(Sock { unix: true, local: at, remote: at, ..sock });
        SockId(self.socks.len() - 1)
    }

    /// shutdown(SHUT_RD) of a Unix socket: its peer can write nothing more.
    ///
    /// # Errors
    /// `ENOTCONN`.
    ///
    /// # Panics
    /// If it is one of TCP, where this means nothing to the peer.
    pub fn shut_read(&mut self, id: SockId) -> Result<(), Errno> {
        let sock = &mut self.socks[id.0];
        assert!(sock.unix, "of a Unix socket");
        let peer = sock.peer.filter(|_| sock.stage == Stage::Up).ok_or(Errno::ENOTCONN)?;
        sock.eof = true;
        self.socks[peer.0].refused = true;
        self.wake(id);
        self.wake(peer);
        Ok(())
    }

    /// Whether nothing can be written to it any more: its peer has shut its reading half, or has gone.
    #[must_use]
    pub fn is_refused(&self, id: SockId) -> bool {
        self.socks[id.0].refused
    }

    /// Whether its peer will neither say nor take anything any more, although nothing has failed.
    #[must_use]
    pub fn is_abandoned(&self, id: SockId) -> bool {
        let sock = &self.socks[id.0];
        sock.refused && sock.eof
    }

    /// Whether it is a Unix socket.
    #[must_use]
    pub fn is_unix(&self, id: SockId) -> bool {
        self.socks[id.0].unix
    }

    /// What was written, and the end behind it, is the peer's.
    pub(super) fn deliver(&mut self, id: SockId) {
        let sock = &mut self.socks[id.0];
        let Some(peer) = sock.peer else { return };
        let bytes = Vec::from(std::mem::take(&mut sock.sendq));
        sock.sent += bytes.len() as u64;
        let ends = sock.fin == Fin::Queued;
        if ends {
            sock.fin = Fin::Acked;
        }
        if bytes.is_empty() && !ends {
            return;
        }
        let to = &mut self.socks[peer.0];
        to.eof |= ends;
        if !bytes.is_empty() {
            to.received += bytes.len() as u64;
            to.unread += bytes.len();
            let packet = Packet::Data(bytes);
            self.record(id, &packet);
            if let Packet::Data(bytes) = packet {
                self.socks[peer.0].recvq.push_back(bytes);
            }
        }
        if ends {
            self.record(id, &Packet::Fin);
        }
        self.wake(peer);
    }

    /// After a read: what was read takes no more room of who wrote it.
    pub(super) fn make_room(&mut self, id: SockId) {
        let sock = &self.socks[id.0];
        let read = sock.received - sock.unread as u64;
        let Some(peer) = sock.peer.filter(|peer| self.socks[peer.0].stage == Stage::Up) else { return };
        let writer = &mut self.socks[peer.0];
        writer.acked = read;
        if writer.nospace && writer.writable() {
            writer.nospace = false;
            self.wake(peer);
        }
    }

    /// Closes it. Who left something unread, or never accepted it, resets its peer, behind what that can still read.
    pub(super) fn part(&mut self, id: SockId) {
        let sock = &self.socks[id.0];
        let resets = sock.unread > 0 || sock.parent.is_some();
        let peer = sock.peer.filter(|peer| self.socks[peer.0].stage == Stage::Up);
        self.die(id);
        let Some(peer) = peer else { return };
        self.record(id, if resets { &Packet::Rst } else { &Packet::Fin });
        let left = &mut self.socks[peer.0];
        (left.eof, left.refused, left.acked) = (true, true, left.sent);
        if resets {
            left.fail(Errno::ECONNRESET);
        }
        self.wake(peer);
    }
}
