//! Visitors that come and go: connect, one request, one answer, close; and the same with half-closed connections
//! and with a reset for the close. One
//! thread, level-triggered epoll, every byte and every end checked, every wait bounded.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::crowd::{Limits, Measured, Waiter, write};
use super::pattern::{self, Way};
use super::wire::{HEADER_LEN, Header, Op};
use super::{seeds, sock};

/// The kinds of visit, taken in turn.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Request, answer, close.
    Short,
    /// Half-closed by the visitor first, by the service first, and so on.
    HalfClose,
    /// Request, answer, reset.
    Reset,
}

struct Visit {
    stream: TcpStream,
    interest: EpollFlags,
    op: Op,
    seed: u32,
    begun: Instant,
    first_byte: Option<Duration>,
    /// What is to be sent in this step of the visit, and how much of it has been.
    outgoing: Vec<u8>,
    sent: usize,
    received: u64,
    /// The answer ended with end-of-file.
    eof: bool,
}

struct Load<'a> {
    waiter: Waiter,
    preamble: &'a [u8],
    size: usize,
    visits: Vec<Option<Visit>>,
    measured: Measured,
    buffer: Vec<u8>,
}

/// Keeps `at_once` visits going, with messages of `size` bytes, until the limits; then the last ones are awaited.
pub(super) fn run(
    target: SocketAddr,
    kind: Kind,
    at_once: usize,
    size: usize,
    limits: Limits,
) -> Result<Measured, String> {
    run_among(&[target], &[], kind, at_once, size, limits)
}

/// The same, to each of `targets` by turns; each visit begins with `preamble`, which is a whole one or nothing.
pub(super) fn run_among(
    targets: &[SocketAddr],
    preamble: &[u8],
    kind: Kind,
    at_once: usize,
    size: usize,
    limits: Limits,
) -> Result<Measured, String> {
    let buffer = vec![0; size.max(4096)];
    let visits = (0..at_once).map(|_| None).collect();
    let (waiter, measured) = (Waiter::new()?, Measured::default());
    let mut load = Load { waiter, preamble, size, visits, measured, buffer };
    let begun = Instant::now();
    let mut count = 0;
    let mut next = |load: &mut Load<'_>, slot| {
        if count == limits.count || begun.elapsed() >= limits.time {
            return Ok(false);
        }
        let op = match kind {
            Kind::Short => Op::Echo,
            Kind::Reset => Op::EchoThenReset,
            Kind::HalfClose if count % 2 == 0 => Op::VisitorShutsFirst,
            Kind::HalfClose => Op::ServiceShutsFirst,
        };
        let target = targets[count as usize % targets.len()];
        count += 1;
        load.begin(target, slot, op).map(|()| true)
    };
    let mut open = 0;
    for slot in 0..at_once {
        open += usize::from(next(&mut load, slot)?);
    }
    let mut events = [EpollEvent::empty(); 256];
    while open > 0 {
        let n = load.waiter.wait(&mut events)?;
        for event in &events[..n] {
            let slot = event.data() as usize;
            if load.serve(slot)? {
                open -= 1;
                open += usize::from(next(&mut load, slot)?);
            }
        }
    }
    load.measured.elapsed = begun.elapsed();
    Ok(load.measured)
}

impl Load<'_> {
    fn begin(&mut self, target: SocketAddr, slot: usize, op: Op) -> Result<(), String> {
        let begun = Instant::now();
        let stream = TcpStream::from(sock::connect(target).map_err(|e| format!("cannot connect: {e}"))?);
        let seed = seeds::next();
        let mut outgoing = Vec::with_capacity(self.preamble.len() + HEADER_LEN + self.size);
        outgoing.extend_from_slice(self.preamble);
        outgoing.extend_from_slice(&Header { op, seed, size: self.size as u64 }.encode());
        if op != Op::ServiceShutsFirst {
            outgoing.extend_from_slice(pattern::bytes(seed, Way::Up, 0, self.size));
        }
        let mut visit = Visit {
            stream,
            interest: EpollFlags::EPOLLIN,
            op,
            seed,
            begun,
            first_byte: None,
            outgoing,
            sent: 0,
            received: 0,
            eof: false,
        };
        // On loopback the connection is up by now; where it is not, it is writable later.
        visit.send()?;
        visit.interest = visit.wants();
        let event = EpollEvent::new(visit.interest, slot as u64);
        self.waiter.0.add(&visit.stream, event).map_err(|e| format!("epoll: {e}"))?;
        self.visits[slot] = Some(visit);
        Ok(())
    }

    /// Goes on with one visit. True when it has ended.
    fn serve(&mut self, slot: usize) -> Result<bool, String> {
        let Some(visit) = &mut self.visits[slot] else { return Ok(false) };
        visit.send()?;
        visit.receive(&mut self.buffer, self.size)?;
        if visit.eof && visit.op == Op::ServiceShutsFirst && visit.outgoing.len() == HEADER_LEN {
            visit.outgoing.extend_from_slice(pattern::bytes(visit.seed, Way::Up, 0, self.size));
            visit.send()?;
        }
        let answered = visit.received == self.size as u64 && (visit.eof || visit.op.echoes());
        if answered && visit.sent == visit.outgoing.len() {
            if visit.op == Op::EchoThenReset {
                sock::reset_on_close(&visit.stream);
            }
            self.measured.latencies.push(visit.begun.elapsed().as_nanos() as u64);
            self.measured.first_bytes.extend(visit.first_byte.map(|t| t.as_nanos() as u64));
            self.visits[slot] = None;
            return Ok(true);
        }
        let want = visit.wants();
        if want != visit.interest {
            visit.interest = want;
            let event = &mut EpollEvent::new(want, slot as u64);
            self.waiter.0.modify(&visit.stream, event).map_err(|e| format!("epoll: {e}"))?;
        }
        Ok(false)
    }
}

impl Visit {
    fn wants(&self) -> EpollFlags {
        let mut want = EpollFlags::empty();
        want.set(EpollFlags::EPOLLIN, !self.eof);
        want.set(EpollFlags::EPOLLOUT, self.sent < self.outgoing.len());
        want
    }

    fn send(&mut self) -> Result<(), String> {
        if self.sent == self.outgoing.len() {
            return Ok(());
        }
        self.sent += write(&self.stream, &self.outgoing[self.sent..])?;
        if self.op == Op::VisitorShutsFirst && self.sent == self.outgoing.len() {
            self.stream.shutdown(Shutdown::Write).map_err(|e| format!("cannot half-close: {e}"))?;
        }
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8], size: usize) -> Result<(), String> {
        let progress = |got: u64| format!("{:?}, after {got} of {size} bytes", self.op);
        while !self.eof {
            match (&self.stream).read(buffer) {
                Ok(0) if self.op.echoes() || self.received < size as u64 => {
                    return Err(format!("the visit ended early ({})", progress(self.received)));
                }
                Ok(0) => self.eof = true,
                Ok(n) => {
                    self.first_byte.get_or_insert_with(|| self.begun.elapsed());
                    if !pattern::matches(self.seed, Way::Down, self.received, &buffer[..n]) {
                        return Err(format!("wrong bytes ({})", progress(self.received)));
                    }
                    self.received += n as u64;
                    if self.received > size as u64 {
                        return Err(format!("bytes too many ({})", progress(self.received)));
                    }
                    // An answer's last byte ends a short visit; only a half-closed one goes on to end-of-file.
                    if self.op.echoes() && self.received == size as u64 {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(format!("broken: {e} ({})", progress(self.received))),
            }
        }
        Ok(())
    }
}
