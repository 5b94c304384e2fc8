//! Visitors that stay: connections that exchange request and answer over and over, or sit idle. One thread,
//! level-triggered epoll, every byte checked, every wait bounded.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::pattern::{self, Way};
use super::seeds;
use super::sock;
use super::wire::{Header, Op};

/// Nothing heard from a peer for so long means that it hangs.
pub(super) const STALL: Duration = Duration::from_secs(10);

/// Visitors that may be connecting at once while a crowd gathers, so that no listen queue overflows.
const GATHERING: usize = 32;

/// When a load stops starting new requests or visits: at whichever comes first.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) count: u64,
    pub(super) time: Duration,
}

/// What a load has measured.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) elapsed: Duration,
    /// Nanoseconds per request or visit.
    pub(super) latencies: Vec<u64>,
    /// Nanoseconds to the first byte; empty where that is no question.
    pub(super) first_bytes: Vec<u64>,
}

impl Measured {
    /// Requests or visits per second.
    pub(super) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// Epoll with a wait that fails when nothing happens for [`STALL`].
pub(super) struct Waiter(pub(super) Epoll);

impl Waiter {
    pub(super) fn new() -> Result<Self, String> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(Self).map_err(|e| format!("epoll: {e}"))
    }

    /// The number of events; never 0.
    pub(super) fn wait(&self, events: &mut [EpollEvent]) -> Result<usize, String> {
        loop {
            match self.0.wait(events, STALL.as_millis() as u16) {
                Ok(0) => return Err(format!("hangs: nothing arrived for {} s", STALL.as_secs())),
                Ok(n) => return Ok(n),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(format!("epoll: {e}")),
            }
        }
    }
}

struct Visitor {
    stream: TcpStream,
    interest: EpollFlags,
    seed: u32,
    /// Not sent yet of the header and the current request.
    unsent: Unsent,
    /// Bytes of requests sent and of answers received, since the visit began.
    sent: u64,
    received: u64,
    asked: Instant,
}

struct Unsent {
    header: Vec<u8>,
    request: usize,
}

/// Connections to one peer that speak [`Op::Echo`].
pub(super) struct Crowd {
    waiter: Waiter,
    visitors: Vec<Visitor>,
    size: usize,
    buffer: Vec<u8>,
}

impl Crowd {
    /// Connects `n` visitors, each of which has had one answer of `size` bytes when this returns.
    pub(super) fn gather(target: SocketAddr, n: usize, size: usize) -> Result<Self, String> {
        let buffer = vec![0; size.max(4096)];
        let mut crowd = Self { waiter: Waiter::new()?, visitors: Vec::with_capacity(n), size, buffer };
        while crowd.visitors.len() < n {
            let batch = GATHERING.min(n - crowd.visitors.len());
            for _ in 0..batch {
                crowd.join(target)?;
            }
            crowd.pump(batch, |_| false)?;
        }
        Ok(crowd)
    }

    /// The visitors that are connected.
    pub(super) fn len(&self) -> u64 {
        self.visitors.len() as u64
    }

    /// Every visitor asks, is answered, and asks again, until the limits; then the last answers are awaited.
    pub(super) fn exchange(&mut self, limits: Limits) -> Result<Measured, String> {
        let begun = Instant::now();
        let mut measured = Measured::default();
        let first = (self.visitors.len() as u64).min(limits.count);
        let mut asked = first;
        for index in 0..first as usize {
            self.ask(index)?;
        }
        self.pump(first as usize, |latency| {
            measured.latencies.push(latency.as_nanos() as u64);
            let more = asked < limits.count && begun.elapsed() < limits.time;
            asked += u64::from(more);
            more
        })?;
        measured.elapsed = begun.elapsed();
        Ok(measured)
    }

    fn join(&mut self, target: SocketAddr) -> Result<(), String> {
        let index = self.visitors.len();
        let asked = Instant::now();
        let stream = TcpStream::from(sock::connect(target).map_err(|e| format!("cannot connect: {e}"))?);
        let interest = EpollFlags::EPOLLIN;
        let joined = self.waiter.0.add(&stream, EpollEvent::new(interest, index as u64));
        joined.map_err(|e| format!("epoll: {e}"))?;
        let seed = seeds::next();
        let header = Header { op: Op::Echo, seed, size: self.size as u64 };
        let unsent = Unsent { header: header.encode().to_vec(), request: 0 };
        self.visitors.push(Visitor { stream, interest, seed, unsent, sent: 0, received: 0, asked });
        self.ask(index)
    }

    fn ask(&mut self, index: usize) -> Result<(), String> {
        let visitor = &mut self.visitors[index];
        visitor.asked = Instant::now();
        visitor.unsent.request = self.size;
        self.send(index)
    }

    /// Sends what the socket takes and watches it for what comes next.
    fn send(&mut self, index: usize) -> Result<(), String> {
        let visitor = &mut self.visitors[index];
        let blocked = visitor.send()?;
        let want = if blocked { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        if want != visitor.interest {
            visitor.interest = want;
            let event = &mut EpollEvent::new(want, index as u64);
            self.waiter.0.modify(&visitor.stream, event).map_err(|e| format!("epoll: {e}"))?;
        }
        Ok(())
    }

    /// Waits for the answers to `open` requests. `again` hears each latency and says whether that visitor asks again.
    fn pump(&mut self, mut open: usize, mut again: impl FnMut(Duration) -> bool) -> Result<(), String> {
        let mut events = [EpollEvent::empty(); 256];
        while open > 0 {
            let n = self.waiter.wait(&mut events)?;
            for event in &events[..n] {
                let index = event.data() as usize;
                if event.events().contains(EpollFlags::EPOLLOUT) {
                    self.send(index)?;
                }
                if event.events() == EpollFlags::EPOLLOUT || !self.visitors[index].receive(&mut self.buffer)? {
                    continue;
                }
                if self.visitors[index].received == self.visitors[index].sent {
                    open -= 1;
                    if again(self.visitors[index].asked.elapsed()) {
                        open += 1;
                        self.ask(index)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Visitor {
    /// Whether something is left unsent.
    fn send(&mut self) -> Result<bool, String> {
        if !self.unsent.header.is_empty() {
            // In one segment with the request, as a client that writes its first message would.
            let mut first = std::mem::take(&mut self.unsent.header);
            let header_len = first.len();
            first.extend_from_slice(pattern::bytes(self.seed, Way::Up, 0, self.unsent.request));
            match write(&self.stream, &first)? {
                0 => {
                    first.truncate(header_len);
                    self.unsent.header = first;
                    return Ok(true);
                }
                n if n < header_len => return Err("the first write took half a header".to_owned()),
                n => self.sent_request(n - header_len),
            }
        }
        while self.unsent.request > 0 {
            let len = self.unsent.request.min(pattern::LONGEST);
            match write(&self.stream, pattern::bytes(self.seed, Way::Up, self.sent, len))? {
                0 => return Ok(true),
                n => self.sent_request(n),
            }
        }
        Ok(false)
    }

    fn sent_request(&mut self, n: usize) {
        self.sent += n as u64;
        self.unsent.request -= n;
    }

    /// One read. False if nothing was there.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<bool, String> {
        match (&self.stream).read(buffer) {
            Ok(0) => Err(format!("the connection ended after {} of {} bytes", self.received, self.sent)),
            Ok(n) => {
                if !pattern::matches(self.seed, Way::Down, self.received, &buffer[..n]) {
                    return Err(format!("wrong bytes after {} right ones", self.received));
                }
                self.received += n as u64;
                if self.received > self.sent {
                    return Err(format!("{} bytes too many", self.received - self.sent));
                }
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(e) => Err(format!("broken after {} of {} bytes: {e}", self.received, self.sent)),
        }
    }
}

/// One write; 0 if the socket takes nothing now.
pub(super) fn write(mut stream: &TcpStream, bytes: &[u8]) -> Result<usize, String> {
    loop {
        match stream.write(bytes) {
            Ok(n) => return Ok(n),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(e) => return Err(format!("cannot send: {e}")),
        }
    }
}
