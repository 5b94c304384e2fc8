//! Datagrams: the service that answers them, and the loads of the cases of UDP. A datagram says what is to be done with
//! it and which it is, so that an answer is known by what it says, and one that is lost is asked for again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};

use super::crowd::Limits;

/// Longer than any datagram.
pub(super) const LONGEST: usize = 65_536;
/// What a socket may hold that nobody has read, if the system lets it.
const ROOM: usize = 4 << 20;
/// How long an answer is awaited before it counts as lost.
const AGAIN: Duration = Duration::from_millis(200);
/// What is lost of a load that must lose little: one in so many.
const MAY_BE_LOST: u64 = 100;
/// The kind, and the number.
const HEAD: usize = 9;

/// It comes back as it is.
const ECHO: u8 = 1;
/// It is counted.
const SINK: u8 = 2;
/// It comes back with how many were counted.
const COUNT: u8 = 3;

/// A socket at this address that never blocks.
pub(super) fn bound(at: SocketAddr) -> Result<UdpSocket, String> {
    let open = || {
        let socket = UdpSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &ROOM).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &ROOM)?;
        }
        Ok::<_, std::io::Error>(socket)
    };
    open().map_err(|e| format!("no UDP socket at {at}: {e}"))
}

/// One of a visitor of `to`, or of a relay's. `from`: which of several addresses of the machine, on loopback.
pub(super) fn connected(to: SocketAddr, from: Option<u8>) -> Result<UdpSocket, String> {
    let ip = match (to.ip(), from) {
        (IpAddr::V4(ip), Some(from)) if ip.is_loopback() => Ipv4Addr::new(127, 0, 1, 1 + from % 8).into(),
        (IpAddr::V4(_), _) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        (IpAddr::V6(_), _) => IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let socket = bound(SocketAddr::new(ip, 0))?;
    socket.connect(to).map_err(|e| format!("cannot connect to {to}: {e}"))?;
    Ok(socket)
}

/// Answers datagrams at `at` from a thread of its own.
pub(super) fn serve(at: SocketAddr) -> Result<(), String> {
    let socket = bound(at)?;
    socket.set_nonblocking(false).map_err(|e| format!("{at}: {e}"))?;
    thread::spawn(move || {
        let (mut buffer, mut counts) = (vec![0; LONGEST], BTreeMap::<SocketAddr, u64>::new());
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let datagram = &mut buffer[..length];
            match datagram.first() {
                Some(&SINK) => *counts.entry(from).or_default() += 1,
                Some(&COUNT) if length >= 2 * HEAD => {
                    datagram[HEAD..HEAD + 8].copy_from_slice(&counts.get(&from).copied().unwrap_or(0).to_be_bytes());
                    let _ = socket.send_to(datagram, from);
                }
                Some(_) | None => drop(socket.send_to(datagram, from)),
            }
        }
    });
    Ok(())
}

/// What a flow does when it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    AskAgain,
    /// It is over, and another one begins.
    BeginAnew,
    BeSilent,
}

/// What a load of questions has shown.
pub(super) struct Answered {
    /// In nanoseconds.
    pub(super) latencies: Vec<u64>,
    pub(super) elapsed: Duration,
    lost: u64,
}

impl Answered {
    /// Answers a second.
    ///
    /// # Errors
    /// More than one in a hundred was lost.
    pub(super) fn rate(&self) -> Result<f64, String> {
        let answered = self.latencies.len() as u64;
        if self.lost * MAY_BE_LOST > answered {
            return Err(format!("{} of {} datagrams were lost", self.lost, answered + self.lost));
        }
        Ok(answered as f64 / self.elapsed.as_secs_f64())
    }
}

struct Flow {
    socket: UdpSocket,
    number: u64,
    asked: Instant,
    silent: bool,
}

/// Visitors who ask, each by itself.
pub(super) struct Flows {
    epoll: Epoll,
    target: SocketAddr,
    flows: Vec<Flow>,
    buffer: Vec<u8>,
    size: usize,
    last: u64,
}

impl Flows {
    /// So many visitors of `target`, whose datagrams have `size` bytes.
    pub(super) fn open(target: SocketAddr, count: usize, size: usize) -> Result<Self, String> {
        assert!(size >= HEAD, "a datagram has a head");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| format!("epoll: {e}"))?;
        let mut all = Self { epoll, target, flows: Vec::new(), buffer: vec![0; LONGEST], size, last: 0 };
        for index in 0..count {
            let socket = all.socket(index)?;
            all.flows.push(Flow { socket, number: 0, asked: Instant::now(), silent: false });
        }
        Ok(all)
    }

    fn socket(&self, index: usize) -> Result<UdpSocket, String> {
        let socket = connected(self.target, Some((index % 8) as u8))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        self.epoll.add(&socket, event).map_err(|e| format!("epoll: {e}"))?;
        Ok(socket)
    }

    fn ask(&mut self, index: usize) {
        self.last += 1;
        self.buffer[0] = ECHO;
        self.buffer[1..HEAD].copy_from_slice(&self.last.to_be_bytes());
        self.buffer[HEAD..self.size].fill(self.last as u8);
        let flow = &mut self.flows[index];
        (flow.number, flow.asked, flow.silent) = (self.last, Instant::now(), false);
        // One that is refused or finds no room is lost, and asked again.
        let _ = flow.socket.send(&self.buffer[..self.size]);
    }

    /// Lets everybody ask, until so many were answered, the time is over, or all are silent.
    pub(super) fn exchange(&mut self, limits: Limits, then: Then) -> Result<Answered, String> {
        let begun = Instant::now();
        let (mut latencies, mut lost, mut silent) = (Vec::new(), 0, 0);
        let mut looked = begun;
        (0..self.flows.len()).for_each(|index| self.ask(index));
        let mut events = [EpollEvent::empty(); 256];
        while begun.elapsed() < limits.time && (latencies.len() as u64) < limits.count && silent < self.flows.len() {
            let n = match self.epoll.wait(&mut events, EpollTimeout::from(20_u8)) {
                Ok(n) => n,
                Err(Errno::EINTR) => 0,
                Err(e) => return Err(format!("epoll: {e}")),
            };
            for event in &events[..n] {
                let index = event.data() as usize;
                if let Some(latency) = self.hear(index)? {
                    latencies.push(latency);
                    match then {
                        Then::AskAgain => self.ask(index),
                        Then::BeginAnew => {
                            self.flows[index].socket = self.socket(index)?;
                            self.ask(index);
                        }
                        Then::BeSilent => {
                            self.flows[index].silent = true;
                            silent += 1;
                        }
                    }
                }
            }
            if looked.elapsed() > AGAIN / 4 {
                looked = Instant::now();
                let late = |flow: &Flow| !flow.silent && flow.asked.elapsed() > AGAIN;
                let late: Vec<_> = (0..self.flows.len()).filter(|&index| late(&self.flows[index])).collect();
                lost += late.len() as u64;
                late.into_iter().for_each(|index| self.ask(index));
            }
        }
        Ok(Answered { latencies, elapsed: begun.elapsed(), lost })
    }

    /// What has come for a flow: how long its answer took, if that is there.
    ///
    /// # Errors
    /// It is not what was asked.
    fn hear(&mut self, index: usize) -> Result<Option<u64>, String> {
        let flow = &self.flows[index];
        let Ok(length) = flow.socket.recv(&mut self.buffer) else { return Ok(None) };
        let answer = &self.buffer[..length];
        let number = answer.get(1..HEAD).map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes")));
        let whole = |number: u64| length == self.size && answer[HEAD..].iter().all(|&byte| byte == number as u8);
        match number {
            Some(number) if number == flow.number && !flow.silent && whole(number) => {
                Ok(Some(flow.asked.elapsed().as_nanos() as u64))
            }
            // Late: it was counted as lost.
            Some(number) if number <= self.last && whole(number) => Ok(None),
            Some(_) | None => Err(format!("{length} bytes that nobody sent")),
        }
    }
}

/// Bytes a second that one flow carries one way, as fast as one datagram in a hundred may be lost.
pub(super) fn one_way(target: SocketAddr, size: usize, slice: Duration) -> Result<f64, String> {
    let (mut good, mut bad, mut rate) = (0.0_f64, f64::INFINITY, 4_000.0_f64);
    let mut best = 0.0_f64;
    while bad > good * 1.05 {
        let (sent, arrived, elapsed) = send_at(target, size, rate, slice)?;
        let seconds = elapsed.as_secs_f64();
        if arrived * MAY_BE_LOST >= sent * (MAY_BE_LOST - 1) {
            best = best.max((arrived * size as u64) as f64 / seconds);
            good = rate;
            // The sender itself goes no faster.
            if (sent as f64) < rate * seconds * 0.9 {
                break;
            }
        } else {
            bad = rate;
        }
        if bad < 100.0 {
            return Err("not even a hundred datagrams a second arrive".into());
        }
        rate = if bad.is_finite() { f64::midpoint(good, bad) } else { rate * 1.5 };
    }
    Ok(best)
}

/// Sends at this rate for so long: how many were sent and have arrived, and how long it took.
fn send_at(target: SocketAddr, size: usize, rate: f64, slice: Duration) -> Result<(u64, u64, Duration), String> {
    let socket = connected(target, None)?;
    let counted = |number: u64| -> Result<u64, String> {
        let mut buffer = [COUNT; 2 * HEAD];
        buffer[1..HEAD].copy_from_slice(&number.to_be_bytes());
        let (question, begun) = (buffer, Instant::now());
        while begun.elapsed() < Duration::from_secs(5) {
            let _ = socket.send(&question);
            thread::sleep(Duration::from_millis(20));
            while let Ok(length) = socket.recv(&mut buffer) {
                if length == buffer.len() && buffer[..HEAD] == question[..HEAD] {
                    return Ok(u64::from_be_bytes(buffer[HEAD..HEAD + 8].try_into().expect("eight bytes")));
                }
            }
        }
        Err("the service does not say how many have arrived".into())
    };
    counted(1)?;
    let datagram = vec![SINK; size];
    let (begun, mut sent) = (Instant::now(), 0_u64);
    while begun.elapsed() < slice {
        let due = (begun.elapsed().as_secs_f64() * rate) as u64;
        if sent >= due {
            thread::sleep(Duration::from_micros(100));
        }
        while sent < due && socket.send(&datagram).is_ok() {
            sent += 1;
        }
    }
    let elapsed = begun.elapsed();
    // What is on its way has arrived before the last answer but for what waits: until the number stands.
    let (mut number, mut arrived) = (2, counted(2)?);
    loop {
        number += 1;
        let now = counted(number)?;
        if now == arrived {
            return Ok((sent.max(1), arrived, elapsed));
        }
        arrived = now;
    }
}
