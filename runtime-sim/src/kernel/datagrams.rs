//! UDP (`net/ipv4/udp.c`): a datagram arrives whole, or not at all. Copies of a socket share what has come.

use super::sock::{Sock, Stage};
use super::{Errno, Event, HostId, Kernel, Options, ProcId, SockId};
use core::net::{IpAddr, SocketAddr};
use protocol_sm::driver::Address;
use protocol_sm::ports::may_clash;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// `net.core.rmem_default`, and what a datagram takes of it beside its bytes.
const ROOM: usize = 212_992;
const OVERHEAD: usize = 512;

/// A UDP socket, whoever has it.
#[derive(Debug)]
pub(super) struct Datagrams {
    host: HostId,
    local: SocketAddr,
    /// Where it is connected to.
    remote: Option<SocketAddr>,
    /// Its descriptors; without any, it is closed.
    holders: BTreeSet<SockId>,
    heard: VecDeque<(Address, Vec<u8>)>,
    bytes: usize,
    /// What it has sent has found nobody, and nobody was told yet.
    refused: bool,
}

/// A datagram on its way.
#[derive(Debug)]
pub(super) struct Crossing {
    hosts: [HostId; 2],
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl Kernel {
    /// A UDP socket that is bound there; port 0 is any free one.
    ///
    /// # Errors
    /// `EMFILE`, `EADDRINUSE`.
    pub fn bind_udp(&mut self, proc: ProcId, at: SocketAddr, options: Options) -> Result<(SockId, SocketAddr), Errno> {
        self.take_fd(proc, 1)?;
        let host = self.procs[proc.0].host;
        let local = SocketAddr::new(at.ip(), if at.port() == 0 { self.free_udp_port(host) } else { at.port() });
        let clashes = |other: &Datagrams| may_clash(Some(other.local.ip()), Some(at.ip()));
        if self.udp_at(host, local.port()).any(|(_, other)| other.remote.is_none() && clashes(other)) {
            return Err(Errno::EADDRINUSE);
        }
        Ok((self.add_udp(proc, local, None, options), local))
    }

    /// A UDP socket that is connected to `to`, at a port of its own.
    ///
    /// # Errors
    /// `EMFILE`, `EHOSTUNREACH`.
    pub fn connect_udp(&mut self, proc: ProcId, to: SocketAddr, options: Options) -> Result<SockId, Errno> {
        self.take_fd(proc, 1)?;
        let host = self.procs[proc.0].host;
        let target = self.host_at(host, to).ok_or(Errno::EHOSTUNREACH)?;
        let ip = if target == host { to.ip() } else { self.hosts[host.0].ip };
        let local = SocketAddr::new(ip, self.free_udp_port(host));
        let id = self.add_udp(proc, local, Some(to), options);
        (self.socks[id.0].remote, self.socks[id.0].remote_host) = (to, target);
        Ok(id)
    }

    /// dup(2) of a UDP socket; the copy is watched by nobody.
    ///
    /// # Errors
    /// `EMFILE`.
    ///
    /// # Panics
    /// If it is none.
    pub fn share_udp(&mut self, of: SockId) -> Result<SockId, Errno> {
        let (proc, options) = (self.socks[of.0].proc, self.socks[of.0].options);
        self.take_fd(proc, 1)?;
        let Stage::Datagrams { socket, .. } = self.socks[of.0].stage else { panic!("a UDP socket") };
        let id = self.describe_udp(proc, socket, true, self.socks[of.0].local, options);
        self.udp[socket].holders.insert(id);
        self.tell_holders(socket);
        Ok(id)
    }

    fn add_udp(&mut self, proc: ProcId, local: SocketAddr, remote: Option<SocketAddr>, options: Options) -> SockId {
        let host = self.procs[proc.0].host;
        let id = self.describe_udp(proc, self.udp.len(), remote.is_some(), local, options);
        let (holders, heard) = (BTreeSet::from([id]), VecDeque::new());
        self.udp.push(Datagrams { host, local, remote, holders, heard, bytes: 0, refused: false });
        id
    }

    /// A descriptor of a UDP socket.
    fn describe_udp(&mut self, proc: ProcId, socket: usize, copy: bool, local: SocketAddr, options: Options) -> SockId {
        let id = SockId(self.socks.len());
        let stage = Stage::Datagrams { socket, copy };
        self.socks.push(Sock { stage, local, ..Sock::new(self.procs[proc.0].host, proc, options) });
        self.procs[proc.0].socks.insert(id);
        id
    }

    fn udp_at(&self, host: HostId, port: u16) -> impl Iterator<Item = (usize, &Datagrams)> {
        let all = self.udp.iter().enumerate();
        all.filter(move |(_, it)| !it.holders.is_empty() && it.host == host && it.local.port() == port)
    }

    fn free_udp_port(&mut self, host: HostId) -> u16 {
        loop {
            let next = &mut self.hosts[host.0].next_udp_port;
            *next = if *next == u16::MAX { 20_000 } else { *next + 1 };
            let port = *next;
            if self.udp_at(host, port).next().is_none() {
                return port;
            }
        }
    }

    /// sendto(2), or send(2) where no address is given: whole, from the address that `to` says.
    ///
    /// # Errors
    /// `ECONNREFUSED`: one that a connected socket has sent before has found nobody, and this one is not sent.
    ///
    /// # Panics
    /// If it is no UDP socket.
    pub fn say(&mut self, id: SockId, to: Option<Address>, bytes: &[u8]) -> Result<(), Errno> {
        let Stage::Datagrams { socket, .. } = self.socks[id.0].stage else { panic!("a UDP socket") };
        if self.take_refusal(socket) {
            return Err(Errno::ECONNREFUSED);
        }
        let socket = &self.udp[socket];
        let Some(peer) = to.map(|to| to.peer).or(socket.remote) else { return Err(Errno::ENOTCONN) };
        let (host, mut from) = (socket.host, socket.local);
        let Some(target) = self.host_at(host, peer) else { return Ok(()) };
        if from.ip().is_unspecified() {
            let own = to.map(|to| to.own).filter(|own| !own.is_unspecified());
            from.set_ip(own.unwrap_or(if target == host { peer.ip() } else { self.hosts[host.0].ip }));
        }
        let path = self.path(host, target);
        if path.loss > 0 && self.rng.below(10_000) < path.loss {
            return Ok(());
        }
        let jitter = u64::try_from(path.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = if jitter == 0 { 0 } else { self.rng.below(jitter) };
        let at = self.now + path.latency + Duration::from_nanos(jitter);
        self.last_crossing += 1;
        let crossing = Crossing { hosts: [host, target], from, to: peer, bytes: bytes.to_vec() };
        self.crossing.insert(self.last_crossing, crossing);
        self.at(at, Event::Datagram(self.last_crossing));
        Ok(())
    }

    /// recvmsg(2): the next datagram.
    ///
    /// # Errors
    /// `EAGAIN`; `ECONNREFUSED`, once, where one that was sent has found nobody.
    ///
    /// # Panics
    /// If it is no UDP socket.
    pub fn hear(&mut self, id: SockId) -> Result<(Address, Vec<u8>), Errno> {
        let Stage::Datagrams { socket, .. } = self.socks[id.0].stage else { panic!("a UDP socket") };
        if self.take_refusal(socket) {
            return Err(Errno::ECONNREFUSED);
        }
        let (address, bytes) = self.udp[socket].heard.pop_front().ok_or(Errno::EAGAIN)?;
        self.udp[socket].bytes -= bytes.len() + OVERHEAD;
        self.tell_holders(socket);
        Ok((address, bytes))
    }

    /// Whether what was sent before has found nobody: that is told once.
    fn take_refusal(&mut self, socket: usize) -> bool {
        let refused = std::mem::take(&mut self.udp[socket].refused);
        if refused {
            self.tell_holders(socket);
        }
        refused
    }

    /// The longest that a packet takes from one machine to another, if none is lost.
    #[must_use]
    pub fn longest_way(&self, from: HostId, to: HostId) -> Duration {
        let path = self.path(from, to);
        path.latency + path.jitter
    }

    /// Whether packets get nowhere from one machine to another now.
    #[must_use]
    pub fn is_way_dead(&self, from: HostId, to: HostId) -> bool {
        self.cuts.contains_key(&(from, to)) || [from, to].iter().any(|host| self.hosts[host.0].down.is_some())
    }

    /// A datagram arrives.
    pub(super) fn arrive_whole(&mut self, number: u64) {
        let Some(Crossing { hosts: [host, target], from, to, bytes }) = self.crossing.remove(&number) else { return };
        if self.is_way_dead(host, target) {
            return;
        }
        let fits = |socket: &Datagrams| socket.local.ip().is_unspecified() || socket.local.ip() == to.ip();
        let mut all: Vec<_> = self.udp_at(target, to.port()).filter(|(_, socket)| fits(socket)).collect();
        all.retain(|(_, socket)| socket.remote.is_none_or(|remote| remote == from));
        let Some(index) = all.iter().max_by_key(|(_, socket)| socket.remote.is_some()).map(|(index, _)| *index) else {
            return self.refuse_datagram(host, from, to);
        };
        let socket = &mut self.udp[index];
        if socket.bytes + bytes.len() + OVERHEAD > ROOM {
            return;
        }
        socket.bytes += bytes.len() + OVERHEAD;
        let own = if socket.remote.is_some() { IpAddr::from([0, 0, 0, 0]) } else { to.ip() };
        socket.heard.push_back((Address { peer: from, own }, bytes));
        self.wake_holders(index);
    }

    /// Nobody is there: a connected socket is told.
    fn refuse_datagram(&mut self, host: HostId, from: SocketAddr, to: SocketAddr) {
        let sender = self.udp_at(host, from.port()).find(|(_, socket)| socket.remote == Some(to));
        if let Some(index) = sender.map(|(index, _)| index) {
            self.udp[index].refused = true;
            self.wake_holders(index);
        }
    }

    fn wake_holders(&mut self, socket: usize) {
        self.tell_holders(socket);
        for holder in self.udp[socket].holders.clone() {
            self.wake(holder);
        }
    }

    /// What is to be reported of it, to whoever has it.
    fn tell_holders(&mut self, socket: usize) {
        let Datagrams { holders, heard, refused, .. } = &self.udp[socket];
        for holder in holders {
            let sock = &mut self.socks[holder.0];
            (sock.unread, sock.err) = (heard.len(), refused.then_some(Errno::ECONNREFUSED));
        }
    }

    /// A descriptor of it is closed.
    pub(super) fn release_udp(&mut self, id: SockId, socket: usize) {
        let sock = &mut self.socks[id.0];
        (sock.stage, sock.unread, sock.err) = (Stage::Dead, 0, None);
        self.udp[socket].holders.remove(&id);
    }
}
