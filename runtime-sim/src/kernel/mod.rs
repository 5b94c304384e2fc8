//! A network of hosts and processes in one thread: discrete events, Linux's socket semantics.
//!
//! Time moves only from event to event. Everything is in ordered containers and every choice comes from one
//! [`Rng`], so a seed decides everything. What a call does and what an edge-triggered poll reports follows
//! Linux's `net/ipv4/tcp*.c`, of UDP `net/ipv4/udp.c`, of Unix sockets `net/unix/af_unix.c`; `tests/conformance.rs` states each rule once and holds
//! this kernel and the real one to it.
//!
//! What is simplified: segments are never reordered (retransmission after a loss is a delay), there is no
//! congestion window, a connection is identified by its two ends and not by its four addresses (so there is
//! no TIME_WAIT), and a handshake whose accept queue is full is always repeated by its SYN.

mod calls;
mod datagrams;
mod faults;
mod ids;
mod net;
mod rng;
mod sock;
mod unix;

pub use ids::{Errno, HostId, PipeId, PollId, ProcId, SockId};
pub use rng::{Rng, mix};
pub use sock::Options;

use crate::trace::Trace;
use core::net::{IpAddr, SocketAddr};
use datagrams::{Crossing, Datagrams};
use protocol_sm::time::Instant;
use sock::Sock;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

/// How packets travel between two hosts.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// One way.
    pub latency: Duration,
    /// The most that is added to `latency`.
    pub jitter: Duration,
    /// Bytes per second and connection.
    pub rate: u64,
    /// Packets of ten thousand that are lost and come a retransmission timeout later.
    pub loss: u64,
    /// Largest segment in bytes.
    pub segment: usize,
}

impl Default for Path {
    fn default() -> Self {
        Self { latency: Duration::from_micros(50), jitter: Duration::ZERO, rate: 1 << 30, loss: 0, segment: 16 * 1024 }
    }
}

#[derive(Debug)]
struct Host {
    ip: IpAddr,
    /// Listening sockets by port and address: the unspecified one is all of them.
    ports: BTreeMap<(u16, IpAddr), SockId>,
    /// Whoever comes to this port is given to that one's listener, and keeps the address that it came to.
    redirects: BTreeMap<u16, u16>,
    /// Listening Unix sockets by path.
    paths: BTreeMap<u16, SockId>,
    next_port: u16,
    next_udp_port: u16,
    /// Lost power, since.
    down: Option<Instant>,
}

#[derive(Debug)]
struct Proc {
    host: HostId,
    alive: bool,
    socks: BTreeSet<SockId>,
    pipes: BTreeSet<PipeId>,
    polls: usize,
    fd_limit: usize,
    /// Chance in a hundred that a call finds no memory.
    no_memory: u64,
    /// Chance in a hundred that a dial to a LocalServer finds no local port.
    no_port: u64,
}

impl Proc {
    fn fds(&self) -> usize {
        self.socks.len() + 2 * self.pipes.len() + self.polls
    }
}

#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<Vec<u8>>,
    front_read: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Poll {
    ready: VecDeque<SockId>,
    /// Stands in [`Kernel::woken`].
    woken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The next packet on the wire of this socket arrives.
    Arrive(SockId),
    /// TCP_USER_TIMEOUT, or the patience for an orphan.
    Stuck(SockId),
    /// SYN again, or the end of trying.
    Syn(SockId),
    /// A keepalive has gone unanswered, if the path was cut all the time.
    Silent(SockId, Instant),
    /// A keepalive probe finds that the peer forgot the connection.
    Probe(SockId),
    /// A datagram arrives.
    Datagram(u64),
}

/// See the module.
#[derive(Debug)]
pub struct Kernel {
    now: Instant,
    seq: u64,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    hosts: Vec<Host>,
    procs: Vec<Proc>,
    socks: Vec<Sock>,
    udp: Vec<Datagrams>,
    /// Datagrams on their way.
    crossing: BTreeMap<u64, Crossing>,
    last_crossing: u64,
    pipes: Vec<Pipe>,
    polls: Vec<Poll>,
    woken: VecDeque<PollId>,
    paths: BTreeMap<(HostId, HostId), Path>,
    cuts: BTreeMap<(HostId, HostId), Instant>,
    /// Chance in a hundred that a write takes less than there is room for.
    pub short_writes: u64,
    /// Where randomness comes from.
    pub rng: Rng,
    /// What happened.
    pub trace: Trace,
}

/// An orphan that makes no progress is given up after this long (tcp_orphan_retries).
const ORPHAN: Duration = Duration::from_secs(100);
/// `tcp_syn_retries`: seven SYNs, 127 seconds.
const SYN_RETRIES: u32 = 6;
/// `PIPE_DEF_BUFFERS`.
const PIPE_SLOTS: usize = 16;

impl Kernel {
    /// An empty network.
    #[must_use]
    pub fn new(seed: u64, trace: Trace) -> Self {
        Self {
            now: Instant::ZERO,
            seq: 0,
            events: BinaryHeap::new(),
            hosts: Vec::new(),
            procs: Vec::new(),
            socks: Vec::new(),
            udp: Vec::new(),
            crossing: BTreeMap::new(),
            last_crossing: 0,
            pipes: Vec::new(),
            polls: Vec::new(),
            woken: VecDeque::new(),
            paths: BTreeMap::new(),
            cuts: BTreeMap::new(),
            short_writes: 0,
            rng: Rng::new(seed),
            trace,
        }
    }

    /// Adds a machine at `10.0.0.n`.
    pub fn host(&mut self) -> HostId {
        let id = HostId(self.hosts.len());
        let last = u8::try_from(id.0 + 1).expect("fewer than 255 hosts");
        self.hosts.push(Host {
            ip: IpAddr::from([10, 0, 0, last]),
            ports: BTreeMap::new(),
            redirects: BTreeMap::new(),
            paths: BTreeMap::new(),
            next_port: 20_000,
            next_udp_port: 20_000,
            down: None,
        });
        id
    }

    /// Its first address. It has `10.n.0.0/16`, too.
    #[must_use]
    pub fn ip(&self, host: HostId) -> IpAddr {
        self.hosts[host.0].ip
    }

    /// Starts a process that may have `fd_limit` descriptors.
    pub fn spawn(&mut self, host: HostId, fd_limit: usize) -> ProcId {
        let id = ProcId(self.procs.len());
        let (socks, pipes) = (BTreeSet::new(), BTreeSet::new());
        self.procs.push(Proc { host, alive: true, socks, pipes, polls: 0, fd_limit, no_memory: 0, no_port: 0 });
        id
    }

    /// An epoll instance of `proc`.
    pub fn epoll(&mut self, proc: ProcId) -> PollId {
        self.procs[proc.0].polls += 1;
        self.polls.push(Poll { ready: VecDeque::new(), woken: false });
        PollId(self.polls.len() - 1)
    }

    /// Sets how packets travel between two hosts, in both directions.
    pub fn set_path(&mut self, a: HostId, b: HostId, path: Path) {
        self.paths.insert((a, b), path);
        self.paths.insert((b, a), path);
    }

    /// Lets calls of a process find no memory with this chance in a hundred. Who answers a call asks.
    pub fn set_no_memory(&mut self, proc: ProcId, chance: u64) {
        self.procs[proc.0].no_memory = chance;
    }

    /// The chance in a hundred that a call of the process finds no memory.
    #[must_use]
    pub fn no_memory(&self, proc: ProcId) -> u64 {
        self.procs[proc.0].no_memory
    }

    /// Dials of `proc` to a LocalServer find no local port, with this chance in a hundred.
    pub fn set_no_port(&mut self, proc: ProcId, chance: u64) {
        self.procs[proc.0].no_port = chance;
    }

    /// That chance.
    #[must_use]
    pub fn no_port(&self, proc: ProcId) -> u64 {
        self.procs[proc.0].no_port
    }

    /// Sets how many descriptors a process may have from now on.
    pub fn set_fd_limit(&mut self, proc: ProcId, limit: usize) {
        self.procs[proc.0].fd_limit = limit;
    }

    /// Descriptors that a process has open.
    #[must_use]
    pub fn open_fds(&self, proc: ProcId) -> usize {
        self.procs[proc.0].fds()
    }

    /// The process's sockets that are open.
    pub fn open_socks(&self, proc: ProcId) -> impl Iterator<Item = SockId> {
        self.procs[proc.0].socks.iter().copied()
    }

    /// The process's pipes that are open.
    #[must_use]
    pub fn open_pipes(&self, proc: ProcId) -> usize {
        self.procs[proc.0].pipes.len()
    }

    /// Whether a process lives.
    #[must_use]
    pub fn is_alive(&self, proc: ProcId) -> bool {
        self.procs[proc.0].alive
    }

    /// The machine that a process runs on.
    #[must_use]
    pub fn host_of(&self, proc: ProcId) -> HostId {
        self.procs[proc.0].host
    }

    /// The machine that a socket is on, and its peer's.
    #[must_use]
    pub fn ends(&self, sock: SockId) -> (HostId, HostId) {
        let sock = &self.socks[sock.0];
        (sock.host, sock.remote_host)
    }

    /// Its own address.
    #[must_use]
    pub fn local(&self, sock: SockId) -> SocketAddr {
        self.socks[sock.0].local
    }

    /// Its peer's address.
    #[must_use]
    pub fn remote(&self, sock: SockId) -> SocketAddr {
        self.socks[sock.0].remote
    }

    /// Sockets made so far.
    #[must_use]
    pub fn sockets_made(&self) -> usize {
        self.socks.len()
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// When the next event is due.
    #[must_use]
    pub fn next_event(&self) -> Option<Instant> {
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    /// Moves time forward to `to`, before which nothing is due.
    ///
    /// # Panics
    /// If something is due before it, or time would go back.
    pub fn advance(&mut self, to: Instant) {
        assert!(to >= self.now, "time goes forward");
        assert!(self.next_event().is_none_or(|at| at >= to), "no event is skipped");
        self.now = to;
    }

    /// Lets the next event happen. `false`: there is none.
    pub fn step(&mut self) -> bool {
        let Some(Reverse((at, _, event))) = self.events.pop() else { return false };
        self.now = at;
        match event {
            Event::Arrive(from) => self.arrive(from),
            Event::Stuck(sock) => self.on_stuck(sock),
            Event::Syn(sock) => self.on_syn_timer(sock),
            Event::Silent(sock, cut) => self.on_silent(sock, cut),
            Event::Probe(sock) => self.on_probe(sock),
            Event::Datagram(number) => self.arrive_whole(number),
        }
        true
    }

    /// The next epoll instance that something became ready in, since the last time.
    pub fn next_woken(&mut self) -> Option<PollId> {
        let poll = self.woken.pop_front()?;
        self.polls[poll.0].woken = false;
        Some(poll)
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.seq += 1;
        self.events.push(Reverse((at, self.seq, event)));
    }

    /// The socket's state changed: its poller looks again.
    fn wake(&mut self, id: SockId) {
        let sock = &mut self.socks[id.0];
        let Some((poll, _)) = sock.watch else { return };
        if !sock.queued {
            sock.queued = true;
            self.polls[poll.0].ready.push_back(id);
        }
        let instance = &mut self.polls[poll.0];
        if !instance.woken {
            instance.woken = true;
            self.woken.push_back(poll);
        }
    }
}
