//! Paths: what production's QUIC does between the clients and the server, as far as their main drivers see it. Lines lose
//! packets, take a size that changes, are dead at times, and come back; a server's UDP port is busy now and then. What QUIC
//! promises is taken for granted: nothing comes twice, and nothing forged.

use super::sys::Mail;
use super::{Event, Phase, Role, World};
use crate::kernel::{HostId, Rng};
use crate::oracle::{Kind, Property, Sometimes};
use protocol_sm::auth::Channel;
use protocol_sm::datagrams::{Beat, PathDatagram, PathId, PathState, Pulse};
use protocol_sm::driver::SysError;
use protocol_sm::driver::messages::{ToClientMain, ToServerMain};
use protocol_sm::driver::paths::{FromPaths, ToPaths};
use protocol_sm::time::Instant;
use protocol_sm::wire::Pin;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// A path over which nothing is heard is over.
const IDLE: Duration = Duration::from_secs(30);
/// A client's sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// What must come is sent again after this.
const AGAIN: Duration = Duration::from_millis(300);
/// It is known by then what a line takes.
const DISCOVERY: Duration = Duration::from_secs(1);

/// The end of a line, as an index.
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// What happens on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LineEvent {
    /// The client's first packet comes to the server's machine.
    Knock(usize),
    /// The handshake is through at the client.
    Stands(usize),
    /// A packet arrives.
    Packet(u64),
    /// What an end has sent is acknowledged.
    Answered(usize, usize),
    /// An end looks whether it is.
    Beat(usize, usize),
    /// Both say that they are there.
    KeepAlive(usize),
    /// It is known what it takes.
    Discovered(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Proving,
    Passing,
    Closed,
}

/// One end of a line.
#[derive(Debug)]
struct End {
    process: usize,
    path: PathId,
    stage: Stage,
    pulse: Pulse,
    /// When it is looked at next.
    beat: Option<Instant>,
    told: PathState,
    heard: Instant,
    /// What has come before anything may pass.
    held: Vec<PathDatagram>,
}

impl End {
    fn new(process: usize, path: PathId, now: Instant) -> Self {
        let (stage, pulse) = (Stage::Proving, Pulse::default());
        Self { process, path, stage, pulse, beat: None, told: PathState::Down, heard: now, held: Vec::new() }
    }
}

#[derive(Debug)]
struct Line {
    hosts: [HostId; 2],
    to: SocketAddr,
    pin: Pin,
    channel: Channel,
    ends: [Option<End>; 2],
    size: usize,
    rtt: Duration,
}

/// What is in a packet.
#[derive(Debug)]
enum Content {
    Said(Vec<u8>),
    Datagram(PathDatagram),
    Closed,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lines {
    all: Vec<Line>,
    /// Which of them, from which end, and what.
    packets: BTreeMap<u64, (usize, usize, Content)>,
    last_packet: u64,
    /// Server processes that take paths, and the key that they show.
    doors: BTreeMap<usize, Pin>,
    last_path: BTreeMap<usize, u64>,
    /// Clients whose lines carry nothing.
    dead: BTreeSet<usize>,
    /// Datagrams that have crossed since the faults stopped, by client: to it, and from it.
    crossed: BTreeMap<usize, [u64; 2]>,
    rng: Rng,
}

impl Lines {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            all: Vec::new(),
            packets: BTreeMap::new(),
            last_packet: 0,
            doors: BTreeMap::new(),
            last_path: BTreeMap::new(),
            dead: BTreeSet::new(),
            crossed: BTreeMap::new(),
            rng: Rng::new(seed ^ 0x11e5_0000),
        }
    }

    fn find(&self, process: usize, path: PathId) -> Option<(usize, usize)> {
        let is_it = |end: &Option<End>| end.as_ref().is_some_and(|it| (it.process, it.path) == (process, path));
        let lines = self.all.iter().enumerate().rev();
        lines.filter_map(|(line, of)| Some((line, of.ends.iter().position(is_it)?))).next()
    }

    fn end(&mut self, line: usize, end: usize) -> Option<&mut End> {
        self.all[line].ends[end].as_mut().filter(|end| end.stage != Stage::Closed)
    }

    /// A number of its own: other draws of a seed stay what they are.
    pub(super) fn draw(&mut self, low: u64, high: u64) -> u64 {
        self.rng.range(low, high)
    }

    /// The line of a client is dead from now on, or not any more.
    pub(super) fn set_dead(&mut self, client: usize, dead: bool) {
        if dead {
            self.dead.insert(client)
        } else {
            self.dead.remove(&client)
        };
    }
}

impl World {
    /// A main driver asks something of whoever carries its paths.
    pub(super) fn on_to_paths(&mut self, process: usize, message: ToPaths) {
        match message {
            ToPaths::Listen(_) => {
                let other = self.lines.doors.keys().any(|&other| other != process && self.processes[other].alive);
                let busy = other || self.phase == Phase::Faults && self.lines.rng.chance(15);
                let listening = if busy {
                    self.coverage.saw(Sometimes::PathPortBusy);
                    Err(SysError::InUse)
                } else {
                    let mut pin = Pin::default();
                    pin[..8].copy_from_slice(&(process as u64).to_le_bytes());
                    self.lines.doors.insert(process, pin);
                    Ok(pin)
                };
                self.tell_main(process, FromPaths::Listening(listening));
            }
            ToPaths::Unlisten => {
                self.lines.doors.remove(&process);
                for line in 0..self.lines.all.len() {
                    if self.lines.end(line, SERVER).is_some_and(|end| end.process == process) {
                        self.close_line(line, SERVER);
                    }
                }
            }
            ToPaths::Open { path, to, pin, .. } => self.open_line(process, path, to, pin),
            ToPaths::Say(path, bytes) => {
                if let Some((line, end)) = self.lines.find(process, path) {
                    self.send_packet(line, end, Content::Said(bytes));
                }
            }
            ToPaths::Pass(path) => self.pass_line(process, path),
            ToPaths::Send(path, datagram) => self.send_by_line(process, path, datagram),
            ToPaths::Close(path) => {
                if let Some((line, end)) = self.lines.find(process, path) {
                    self.close_line(line, end);
                }
            }
        }
    }

    fn tell_main(&mut self, process: usize, message: FromPaths) {
        if self.processes[process].alive {
            let main = self.processes[process].threads[0];
            let mail = match self.processes[process].role {
                Role::Server => Mail::ServerMain(ToServerMain::Paths(message)),
                Role::Client { .. } => Mail::ClientMain(ToClientMain::Paths(message)),
            };
            self.post(main, mail);
        }
    }

    pub(super) fn open_line(&mut self, process: usize, path: PathId, to: SocketAddr, pin: Pin) {
        let hosts = [self.kernel.host_of(self.processes[process].proc), self.server_host];
        let rtt = self.kernel.longest_way(hosts[0], hosts[1]) * 2 + Duration::from_micros(50);
        let mut channel = Channel([0; 32]);
        channel.0[..8].copy_from_slice(&(self.lines.all.len() as u64 + 1).to_le_bytes());
        let size = self.lines.rng.log_size(30, 1_162);
        let ends = [Some(End::new(process, path, self.now())), None];
        self.lines.all.push(Line { hosts, to, pin, channel, ends, size, rtt });
        self.on_line_later(rtt / 2, LineEvent::Knock(self.lines.all.len() - 1));
    }

    fn on_line_later(&mut self, by: Duration, event: LineEvent) {
        self.later(by, Event::Line(event));
    }

    /// Whether packets from this end get nowhere now.
    fn is_line_dead(&self, line: usize, end: usize) -> bool {
        let hosts = self.lines.all[line].hosts;
        let client = self.lines.all[line].ends[CLIENT].as_ref().map(|end| self.processes[end.process].role);
        let blocked = matches!(client, Some(Role::Client { client, .. }) if self.lines.dead.contains(&client));
        blocked || self.kernel.is_way_dead(hosts[end], hosts[1 - end])
    }

    /// Whether the process at an end hears what comes: `None`: not now, but perhaps later.
    fn hears(&mut self, line: usize, end: usize) -> Option<bool> {
        let process = self.lines.end(line, end).map(|end| end.process);
        match process.map(|process| &self.processes[process]) {
            Some(process) if process.alive && process.frozen => None,
            Some(process) => Some(process.alive),
            None => Some(false),
        }
    }

    pub(super) fn on_line(&mut self, event: LineEvent) {
        match event {
            LineEvent::Knock(line) => self.knock(line),
            LineEvent::Stands(line) => match self.hears(line, CLIENT) {
                None => self.on_line_later(AGAIN, event),
                Some(false) => {}
                Some(true) if self.is_line_dead(line, SERVER) => self.on_line_later(AGAIN, event),
                Some(true) => {
                    let channel = self.lines.all[line].channel;
                    let Some(End { process, path, .. }) = self.lines.end(line, CLIENT) else { return };
                    let (process, path) = (*process, *path);
                    self.tell_main(process, FromPaths::Open(path, channel));
                    self.on_line_later(KEEP_ALIVE, LineEvent::KeepAlive(line));
                }
            },
            LineEvent::Packet(number) => self.on_packet(number),
            LineEvent::Answered(line, end) => self.on_answered(line, end),
            LineEvent::Beat(line, end) => self.on_line_beat(line, end),
            LineEvent::KeepAlive(line) => self.keep_line_alive(line),
            LineEvent::Discovered(line) => {
                let shrinks = self.lines.rng.chance(40);
                let size = &mut self.lines.all[line].size;
                *size = if shrinks { *size / 2 } else { *size + 252 };
                [CLIENT, SERVER].into_iter().for_each(|end| self.tell_line(line, end));
            }
        }
    }

    /// The server's machine has the client's first packet: somebody listens there, and shows a key.
    fn knock(&mut self, line: usize) {
        if self.hears(line, CLIENT) == Some(false) {
            return;
        }
        let Line { to, pin, rtt, .. } = &self.lines.all[line];
        let (port, pin, rtt) = (to.port(), *pin, *rtt);
        let own = [self.plan.scenario.proxy_port(), crate::scenario::CTL];
        let door = self.lines.doors.iter().find(|&(&process, _)| own.contains(&port) && self.is_alive(process));
        let Some((process, shown)) = door.map(|(&process, &shown)| (process, shown)) else {
            return self.on_line_later(AGAIN, LineEvent::Knock(line));
        };
        if self.processes[process].frozen || self.is_line_dead(line, CLIENT) {
            return self.on_line_later(AGAIN, LineEvent::Knock(line));
        }
        if shown != pin {
            // Another process of the server: the client closes it.
            self.coverage.saw(Sometimes::PathOfAnother);
            return self.lose_line(line, CLIENT);
        }
        let last = self.lines.last_path.entry(process).or_default();
        *last += 1;
        let path = PathId(*last);
        let now = self.now();
        self.lines.all[line].ends[SERVER] = Some(End::new(process, path, now));
        self.on_line_later(rtt / 2, LineEvent::Stands(line));
    }

    fn send_packet(&mut self, line: usize, end: usize, content: Content) {
        let late = self.lines.all[line].rtt / 2;
        let late = late * u32::try_from(self.lines.rng.range(50, 100)).expect("small") / 100;
        self.lines.last_packet += 1;
        self.lines.packets.insert(self.lines.last_packet, (line, end, content));
        self.on_line_later(late, LineEvent::Packet(self.lines.last_packet));
    }

    fn on_packet(&mut self, number: u64) {
        let Some((line, from, content)) = self.lines.packets.remove(&number) else { return };
        let to = 1 - from;
        let dead = self.is_line_dead(line, from);
        match self.hears(line, to) {
            Some(false) => return,
            Some(true) if !dead => {}
            None | Some(true) => {
                // It is in the socket's buffer, or is said again.
                if !dead || matches!(content, Content::Said(_)) {
                    self.lines.packets.insert(number, (line, from, content));
                    self.on_line_later(AGAIN, LineEvent::Packet(number));
                }
                return;
            }
        }
        let now = self.now();
        let from_at = SocketAddr::new(self.kernel.ip(self.lines.all[line].hosts[from]), 40_000);
        let channel = self.lines.all[line].channel;
        let Some(end) = self.lines.end(line, to) else { return };
        end.heard = now;
        let (process, path) = (end.process, end.path);
        match content {
            Content::Said(bytes) => {
                self.tell_main(process, FromPaths::Said { path, from: from_at, channel, bytes });
            }
            Content::Datagram(datagram) if end.stage == Stage::Passing => self.come(line, to, datagram),
            Content::Datagram(datagram) => end.held.push(datagram),
            Content::Closed => self.lose_line(line, to),
        }
    }

    fn come(&mut self, line: usize, to: usize, datagram: PathDatagram) {
        let Some(End { process, path, .. }) = self.lines.end(line, to) else { return };
        let (process, path) = (*process, *path);
        self.coverage.saw(Sometimes::ByPath);
        if self.phase != Phase::Faults
            && let Some(Role::Client { client, rival: false }) =
                self.lines.all[line].ends[CLIENT].as_ref().map(|end| self.processes[end.process].role)
        {
            self.lines.crossed.entry(client).or_default()[to] += 1;
        }
        self.tell_main(process, FromPaths::Came(path, datagram));
    }

    /// Datagrams may pass.
    pub(super) fn pass_line(&mut self, process: usize, path: PathId) {
        let Some((line, at)) = self.lines.find(process, path) else { return };
        let Some(end) = self.lines.end(line, at) else { return };
        end.stage = Stage::Passing;
        for datagram in std::mem::take(&mut end.held) {
            self.come(line, at, datagram);
        }
        self.tell_line(line, at);
        if at == CLIENT {
            self.on_line_later(DISCOVERY, LineEvent::Discovered(line));
        }
    }

    fn tell_line(&mut self, line: usize, at: usize) {
        let size = self.lines.all[line].size;
        let Some(end) = self.lines.end(line, at).filter(|end| end.stage == Stage::Passing) else { return };
        let state = if end.pulse.is_silent() { PathState::Down } else { PathState::Up { size } };
        if std::mem::replace(&mut end.told, state) != state {
            let (process, path) = (end.process, end.path);
            self.tell_main(process, FromPaths::State(path, state));
        }
    }

    fn send_by_line(&mut self, process: usize, path: PathId, datagram: PathDatagram) {
        let at = self.lines.find(process, path);
        let takes = at.is_some_and(|(line, at)| {
            let size = self.lines.all[line].size;
            let end = self.lines.end(line, at);
            end.is_some_and(|end| end.stage == Stage::Passing && !end.pulse.is_silent() && datagram.len() <= size)
        });
        let Some((line, end)) = at.filter(|_| takes) else {
            self.coverage.saw(Sometimes::PathGaveBack);
            return self.tell_main(process, FromPaths::Back(path, datagram));
        };
        let lost = self.lines.rng.chance(3) || self.is_line_dead(line, end);
        self.send_answered(line, end, lost);
        if !lost {
            self.send_packet(line, end, Content::Datagram(datagram));
        }
    }

    /// An end sends what is to be answered.
    fn send_answered(&mut self, line: usize, at: usize, lost: bool) {
        let (now, rtt) = (self.now(), self.lines.all[line].rtt);
        let Some(end) = self.lines.end(line, at) else { return };
        end.pulse.on_sent(now);
        if !lost {
            self.on_line_later(rtt, LineEvent::Answered(line, at));
        }
        self.set_line_beat(line, at);
    }

    fn on_answered(&mut self, line: usize, at: usize) {
        if self.hears(line, 1 - at) != Some(true) || self.hears(line, at) != Some(true) {
            return;
        }
        if self.is_line_dead(line, at) || self.is_line_dead(line, 1 - at) {
            return;
        }
        let now = self.now();
        let Some(end) = self.lines.end(line, at) else { return };
        end.heard = now;
        if end.pulse.on_answer() {
            self.coverage.saw(Sometimes::PathBack);
            self.tell_line(line, at);
        }
    }

    fn set_line_beat(&mut self, line: usize, at: usize) {
        let (now, rtt) = (self.now(), self.lines.all[line].rtt);
        let Some(end) = self.lines.end(line, at) else { return };
        let next = end.pulse.next_deadline(rtt);
        if next.is_some() && next != end.beat {
            end.beat = next;
            let by = next.map_or(Duration::ZERO, |next| next.since(now));
            self.on_line_later(by, LineEvent::Beat(line, at));
        }
    }

    fn on_line_beat(&mut self, line: usize, at: usize) {
        match self.hears(line, at) {
            None => return self.on_line_later(AGAIN, LineEvent::Beat(line, at)),
            Some(false) => return,
            Some(true) => {}
        }
        let (now, rtt) = (self.now(), self.lines.all[line].rtt);
        let Some(end) = self.lines.end(line, at).filter(|end| end.stage == Stage::Passing) else { return };
        if now.since(end.heard) > IDLE {
            return self.lose_line(line, at);
        }
        match end.pulse.on_deadline(now, rtt) {
            Beat::Fine => return self.set_line_beat(line, at),
            Beat::Ask => {}
            Beat::Silent => {
                self.coverage.saw(Sometimes::PathSilent);
                self.tell_line(line, at);
            }
        }
        let lost = self.is_line_dead(line, at);
        self.send_answered(line, at, lost);
    }

    /// Both say that they are there, as far as they are.
    fn keep_line_alive(&mut self, line: usize) {
        let now = self.now();
        for at in [CLIENT, SERVER] {
            let lost = self.is_line_dead(line, at) || self.is_line_dead(line, 1 - at);
            let there = !lost && self.hears(line, 1 - at) == Some(true);
            let awake = self.hears(line, at) == Some(true);
            let Some(end) = self.lines.end(line, at) else { continue };
            if there {
                end.heard = now;
            } else if awake && now.since(end.heard) > IDLE {
                self.lose_line(line, at);
                continue;
            }
            if awake && at == CLIENT {
                self.send_answered(line, at, !there);
            }
        }
        let open = |end: &Option<End>| {
            end.as_ref().is_some_and(|end| end.stage != Stage::Closed && self.processes[end.process].alive)
        };
        if self.lines.all[line].ends.iter().any(open) {
            self.on_line_later(KEEP_ALIVE, LineEvent::KeepAlive(line));
        }
    }

    /// An end is closed by its driver; the other end is told, once.
    fn close_line(&mut self, line: usize, at: usize) {
        let Some(end) = self.lines.end(line, at) else { return };
        end.stage = Stage::Closed;
        if !self.is_line_dead(line, at) {
            self.send_packet(line, at, Content::Closed);
        }
    }

    /// It is over at this end.
    fn lose_line(&mut self, line: usize, at: usize) {
        let Some(end) = self.lines.end(line, at) else { return };
        end.stage = Stage::Closed;
        let (process, path) = (end.process, end.path);
        self.tell_main(process, FromPaths::Gone(path));
    }

    /// A process with so many sessions has no more paths that carry datagrams.
    pub(super) fn check_lines(&mut self, process: usize, most: usize) {
        let open = |end: &&End| end.process == process && end.stage == Stage::Passing;
        let open = self.lines.all.iter().flat_map(|line| line.ends.iter().flatten()).filter(open).count();
        if open > most {
            let what = format!("{:?} has {open} paths, not {most}", self.processes[process].role);
            self.fail(Kind::Safety, Property::PathsClosed, what);
        }
    }

    /// Whether datagrams have gone by a client's path, both ways, since the faults stopped.
    pub(super) fn has_crossed(&self, client: usize) -> bool {
        self.lines.crossed.get(&client).is_some_and(|ways| ways.iter().all(|&datagrams| datagrams > 0))
    }
}
