//! Visitors, local services and strangers: scripted ends of connections, with seeded lengths, chunks, pauses and
//! ways to end.

use super::plan::Plan;
use crate::holder::{Act, Holder, Past};
use crate::impostor::{Impostor, Overheard};
use crate::kernel::{Errno, HostId, Kernel, Options, PollId, ProcId, Rng, SockId, mix};
use crate::oracle::{Coverage, Finding, Side, Sometimes, StreamId, Streams};
use crate::scenario::{CTL, Fate, Front, Habits, Inquiry, Outcome, PROXY, Script, Shut};
use core::net::{IpAddr, SocketAddr};
use protocol_sm::driver::Token;
use protocol_sm::time::Instant;
use protocol_sm::wire::ConnKind;
use std::time::Duration;

/// How this ring's visitors and services behave.
const HABITS: Habits = Habits {
    empty: 2,
    short_total: 4096,
    short_pause: (10, 200_000),
    pause_unit: Duration::from_micros(1),
    long_pause: 3_000,
    paused_chunk: |total, _| (total / 20).max(256),
    largest_chunk: 128 * 1024,
    resets: 8,
    early_closes: 4,
    reset_part: 4,
};

fn script(rng: &mut Rng, plan: &Plan, side: Side, service_first: bool) -> Script {
    let (calm, largest) = (plan.scenario.calm, plan.scenario.largest);
    HABITS.draw(rng, largest, side, service_first, |rng, total| {
        if calm {
            // One number all the same, as it always was.
            rng.below(100);
            Fate::Normal
        } else {
            HABITS.draw_fate(rng, largest, total)
        }
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Visitor {
        probe: bool,
    },
    Service,
    Stranger,
    /// A hostile holder of a token: its ctl_conn, its conns, and its own visitors.
    Holder,
    /// A visitor whom the server itself answers.
    Inquirer,
}

/// What a hostile holder needs beside its words.
#[derive(Debug)]
struct Abuse {
    holder: Holder,
    from: (ProcId, PollId),
    server: IpAddr,
    options: Options,
    /// Said, and not yet taken by the socket.
    unsent: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Actor {
    pub(super) who: Who,
    pub(super) sock: SockId,
    pub(super) stream: StreamId,
    pub(super) script: Script,
    pub(super) sent: usize,
    connected: bool,
    pub(super) shut: bool,
    eof: bool,
    /// It shuts its reading half when it has received so many bytes.
    unheard_after: Option<u64>,
    /// It has.
    pub(super) unheard: bool,
    /// After a failed write it reads what is left.
    patient: bool,
    /// A write has failed.
    failed: Option<Errno>,
    /// It has read until an end or an error.
    pub(super) heard_out: bool,
    next_write: Instant,
    next_read: Instant,
    pub(super) outcome: Option<Outcome<Errno>>,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// A stranger who knows what to say.
    impostor: Option<Impostor>,
    /// A hostile holder's ctl_conn.
    abuse: Option<Box<Abuse>>,
    /// What its connection begins with, if it comes through a relay.
    pub(super) front: Option<Front>,
    /// What the server itself is asked.
    inquiry: Option<Inquiry>,
    /// It says this and waits, until its time is over.
    mute: Option<(Vec<u8>, Instant)>,
}

impl Actor {
    /// Whether it is an impostor who has a session of his own.
    pub(super) fn is_inside(&self) -> bool {
        self.impostor.as_ref().is_some_and(Impostor::is_inside)
    }

    /// No more pauses.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next_write = now;
        self.next_read = now;
    }
}

/// A service's listening socket, and how it behaves now.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) proc: ProcId,
    pub(super) poll: PollId,
    pub(super) listener: Option<SockId>,
    pub(super) accepts: bool,
}

/// Marks the tokens of listeners.
const LISTENER: u64 = 1 << 32;
/// Marks the tokens of actors.
const ACTOR: u64 = 2 << 32;

fn token(kind: u64, index: usize) -> Token {
    Token::from_number(kind | index as u64).expect("a kind is not 0")
}

/// All of them.
#[derive(Debug)]
pub(super) struct Actors {
    pub(super) all: Vec<Actor>,
    pub(super) services: Vec<Service>,
    pub(super) streams: Streams,
    /// No more pauses.
    pub(super) hurry: bool,
    rng: Rng,
    /// Decides who is patient.
    salt: u64,
    /// Actors that want to be driven at a time.
    pub(super) timers: Vec<(Instant, usize)>,
    /// The session that a hostile holder has left.
    past: Option<Past>,
}

impl Actors {
    pub(super) fn new(rng: Rng, salt: u64) -> Self {
        Self {
            all: Vec::new(),
            services: Vec::new(),
            streams: Streams::default(),
            hurry: false,
            rng,
            salt,
            timers: Vec::new(),
            past: None,
        }
    }

    /// Opens a service's listening socket.
    pub(super) fn serve(&mut self, kernel: &mut Kernel, plan: &Plan, tunnel: usize) {
        let service = &mut self.services[tunnel];
        if service.listener.is_some() || !kernel.is_alive(service.proc) {
            return;
        }
        let spec = &plan.scenario.tunnels[tunnel];
        let (port, backlog) = (spec.service_port, plan.backlogs[tunnel]);
        let sock = if plan.unix[tunnel] {
            kernel.listen_unix(service.proc, port, backlog, plan.foreign()).expect("its own path")
        } else {
            let at = SocketAddr::from(([0, 0, 0, 0], port));
            kernel.listen(service.proc, at, backlog, plan.foreign()).expect("its own port").0
        };
        kernel.watch(sock, service.poll, token(LISTENER, tunnel), false);
        service.listener = Some(sock);
    }

    /// Closes it: connections are refused.
    pub(super) fn unserve(&mut self, kernel: &mut Kernel, tunnel: usize) {
        if let Some(sock) = self.services[tunnel].listener.take() {
            kernel.close(sock, true);
        }
    }

    fn add(
        &mut self,
        kernel: &mut Kernel,
        who: Who,
        sock: SockId,
        tunnel: usize,
        script: Script,
        poll: PollId,
    ) -> usize {
        let side = if who == Who::Service { Side::Service } else { Side::Visitor };
        let stream = self.streams.open(side, tunnel);
        kernel.watch(sock, poll, token(ACTOR, self.all.len()), true);
        let now = kernel.now();
        // From no generator, so that what a seed draws stays the same.
        let patient = mix(self.salt ^ self.all.len() as u64).is_multiple_of(2);
        self.all.push(Actor {
            who,
            sock,
            stream,
            script,
            sent: 0,
            connected: false,
            shut: false,
            eof: false,
            unheard_after: None,
            unheard: false,
            patient,
            failed: None,
            heard_out: false,
            next_write: now,
            next_read: now,
            outcome: None,
            began: now,
            ended: now,
            impostor: None,
            abuse: None,
            front: None,
            inquiry: None,
            mute: None,
        });
        self.all.len() - 1
    }

    /// A visitor comes to `to`.
    pub(super) fn visit(
        &mut self,
        kernel: &mut Kernel,
        plan: &Plan,
        from: (ProcId, PollId),
        to: SocketAddr,
        tunnel: usize,
        probe: bool,
    ) {
        let mut script = script(&mut self.rng, plan, Side::Visitor, plan.scenario.tunnels[tunnel].service_first);
        if probe {
            script.fate = Fate::Normal;
            script.total = script.total.max(8);
        }
        let head = plan.scenario.tunnels[tunnel].head();
        script.total += head.len();
        let sock = kernel.connect(from.0, to, plan.foreign()).expect("visitors have descriptors");
        let mut front = self.front(kernel, plan, sock, to, probe || plan.scenario.calm);
        let mut ends = [kernel.local(sock), to];
        if let Some(front) = &front {
            ends = [front.name, front.public];
            if front.check {
                (script.total, script.fate) = (0, Fate::CloseEarly);
            } else if script.shut == Shut::AfterSending {
                // Without a byte it would be a check.
                script.total = script.total.max(1);
            }
        }
        if let Some(hello) = plan.scenario.tunnels[tunnel].hello() {
            front = Some(Front::saying(front, ends, [hello]));
        }
        let index = self.add(kernel, Who::Visitor { probe }, sock, tunnel, script, from.1);
        self.streams.begin_with(self.all[index].stream, head);
        self.all[index].front = front;
        let header = plan.scenario.tunnels[tunnel].proxy_header(ends[0], ends[1]);
        self.streams.on_connected(self.all[index].stream, ends[0], header);
        if let Some(told) = plan.scenario.tunnels[tunnel].told(ends[0]) {
            self.streams.tell_instead(self.all[index].stream, told);
        }
    }

    /// Somebody comes to `to` who is answered by the server itself, about a tunnel's host, or nobody's.
    pub(super) fn inquire(
        &mut self,
        kernel: &mut Kernel,
        plan: &Plan,
        from: (ProcId, PollId),
        to: SocketAddr,
        tunnel: Option<usize>,
    ) {
        let sock = kernel.connect(from.0, to, plan.foreign()).expect("visitors have descriptors");
        let front = self.front(kernel, plan, sock, to, true);
        let ends = front.as_ref().map_or([kernel.local(sock), to], |front| [front.name, front.public]);
        let spec = tunnel.map(|tunnel| &plan.scenario.tunnels[tunnel]);
        let (inquiry, words) = Inquiry::draw(plan.seed, self.all.len(), spec);
        let mut front = Front::saying(front, ends, words);
        front.pause = Inquiry::pause(front.pause);
        let index = self.add(kernel, Who::Inquirer, sock, usize::MAX, Script::SILENT, from.1);
        self.all[index].front = Some(front);
        self.all[index].inquiry = Some(inquiry);
    }

    /// It reads until it was told all.
    fn listen(&mut self, kernel: &mut Kernel, index: usize, seen: &mut Coverage) -> Result<(), Finding> {
        let actor = &mut self.all[index];
        let (sock, Some(inquiry)) = (actor.sock, &mut actor.inquiry) else { return Ok(()) };
        let mut buffer = [0; 1024];
        let outcome = loop {
            match kernel.recv(sock, &mut buffer) {
                Ok(0) => {
                    let served = inquiry.on_eof()?;
                    seen.saw(served.unwrap_or(Sometimes::HostRefused));
                    break if served.is_some() { Outcome::Whole } else { Outcome::Reset(Errno::ECONNRESET) };
                }
                Ok(n) => inquiry.on_bytes(&buffer[..n])?,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(_) if inquiry.may_wait_in_vain() => break Outcome::Own,
                Err(errno) => break Outcome::Reset(errno),
            }
        };
        self.end(kernel, index, outcome, false);
        Ok(())
    }

    /// What the next one's connection begins with, if a relay is between.
    fn front(&self, kernel: &Kernel, plan: &Plan, sock: SockId, to: SocketAddr, honest: bool) -> Option<Front> {
        plan.fronted.then(|| Front::draw(plan.seed, self.all.len(), kernel.local(sock), to, honest))
    }

    /// Somebody who is no client connects to one of the server's own ports.
    pub(super) fn intrude(&mut self, kernel: &mut Kernel, plan: &Plan, from: (ProcId, PollId), to: SocketAddr) {
        let mut script = script(&mut self.rng, plan, Side::Visitor, false);
        script.total = script.total.min(4096);
        script.fate = Fate::Normal;
        script.shut = if self.rng.chance(50) { Shut::AfterPeer } else { Shut::AfterSending };
        let sock = kernel.connect(from.0, to, plan.foreign()).expect("strangers have descriptors");
        let front = self.front(kernel, plan, sock, to, plan.scenario.calm);
        let index = self.add(kernel, Who::Stranger, sock, usize::MAX, script, from.1);
        self.all[index].front = front;
    }

    /// Somebody who is no client speaks like one.
    pub(super) fn impersonate(
        &mut self,
        kernel: &mut Kernel,
        plan: &Plan,
        from: (ProcId, PollId),
        server: IpAddr,
        overheard: &Overheard,
    ) {
        let impostor = Impostor::new(&mut self.rng, overheard);
        let to = SocketAddr::new(server, if impostor.port() == ConnKind::Ctl { CTL } else { PROXY });
        let now = kernel.now();
        kernel.trace.remark(now, Some(from.0), || format!("{impostor:.40?}"));
        let script = script(&mut self.rng, plan, Side::Visitor, false);
        let sock = kernel.connect(from.0, to, plan.foreign()).expect("strangers have descriptors");
        let front = self.front(kernel, plan, sock, to, plan.scenario.calm);
        let index = self.add(kernel, Who::Stranger, sock, usize::MAX, script, from.1);
        self.all[index].front = front;
        self.all[index].impostor = Some(impostor);
    }

    /// He says what he has to say, and looks at the answers until the server hangs up.
    fn deceive(&mut self, kernel: &mut Kernel, index: usize, seen: &mut Coverage) -> Result<(), Finding> {
        let actor = &mut self.all[index];
        let (sock, Some(impostor)) = (actor.sock, &mut actor.impostor) else { return Ok(()) };
        let mut buffer = [0; 1024];
        let outcome = loop {
            let words = impostor.speak();
            // A few words: they fit, or the connection is gone, which the next read tells.
            if !words.is_empty() {
                let _ = kernel.send(sock, &words);
            }
            match kernel.recv(sock, &mut buffer) {
                Ok(0) => break Outcome::Own,
                Ok(n) => {
                    if let Some(what) = impostor.on_bytes(&buffer[..n])? {
                        seen.saw(what);
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => break Outcome::Reset(errno),
            }
        };
        self.end(kernel, index, outcome, false);
        Ok(())
    }

    /// A client with a token of its own comes, which means harm.
    pub(super) fn abuse(&mut self, kernel: &mut Kernel, plan: &Plan, from: (ProcId, PollId), server: IpAddr) {
        let past = self.past.take().filter(|_| self.rng.chance(60));
        let abuse = Abuse {
            holder: Holder::new(self.rng.fork(), past),
            from,
            server,
            options: plan.foreign(),
            unsent: Vec::new(),
        };
        let sock = kernel.connect(from.0, SocketAddr::new(server, CTL), plan.foreign()).expect("it has descriptors");
        let index = self.add(kernel, Who::Holder, sock, usize::MAX, Script::SILENT, from.1);
        self.all[index].abuse = Some(Box::new(abuse));
    }

    /// A connection of a hostile holder's on which it says this and no more, for a while.
    fn hold(&mut self, kernel: &mut Kernel, from: (ProcId, PollId), to: SocketAddr, options: Options, words: Vec<u8>) {
        let Ok(sock) = kernel.connect(from.0, to, options) else { return };
        let index = self.add(kernel, Who::Holder, sock, usize::MAX, Script::SILENT, from.1);
        let until = kernel.now() + Duration::from_micros(self.rng.log_size(100, 5_000_000) as u64);
        self.all[index].mute = Some((words, until));
        self.timers.push((until, index));
    }

    /// A hostile holder speaks, listens, and does something when it is time.
    fn misuse(&mut self, kernel: &mut Kernel, index: usize, seen: &mut Coverage) -> Result<(), Finding> {
        let now = kernel.now();
        loop {
            let actor = &mut self.all[index];
            let (sock, Some(abuse)) = (actor.sock, &mut actor.abuse) else { return Ok(()) };
            abuse.unsent.extend(abuse.holder.speak());
            while !abuse.unsent.is_empty() {
                match kernel.send(sock, &abuse.unsent) {
                    Ok(sent) => drop(abuse.unsent.drain(..sent)),
                    // The connection is gone, or full: the next read tells, or there will be room.
                    Err(_) => break,
                }
            }
            let mut buffer = [0; 1024];
            let outcome = match kernel.recv(sock, &mut buffer) {
                Ok(0) => Outcome::Own,
                Ok(n) => {
                    if let Some(what) = abuse.holder.on_bytes(&buffer[..n])? {
                        seen.saw(what);
                    }
                    continue;
                }
                Err(Errno::EAGAIN) if actor.next_write > now => return Ok(()),
                Err(Errno::EAGAIN) => {
                    let (act, pause) = (abuse.holder.act(), abuse.holder.pause());
                    let (from, server, options) = (abuse.from, abuse.server, abuse.options);
                    actor.next_write = now + pause;
                    self.timers.push((now + pause, index));
                    match act {
                        Act::Speak => continue,
                        Act::Conns(conns) => {
                            for words in conns {
                                self.hold(kernel, from, SocketAddr::new(server, PROXY), options, words);
                            }
                            continue;
                        }
                        Act::Visit(port) => {
                            self.hold(kernel, from, SocketAddr::new(server, port), options, b"a visitor".to_vec());
                            continue;
                        }
                        Act::Leave => {
                            let _ = kernel.send(sock, &self.last_words(index));
                            Outcome::Own
                        }
                    }
                }
                Err(errno) => Outcome::Reset(errno),
            };
            self.past = self.all[index].abuse.as_ref().and_then(|abuse| abuse.holder.past());
            self.end(kernel, index, outcome, false);
            return Ok(());
        }
    }

    fn last_words(&mut self, index: usize) -> Vec<u8> {
        let Some(abuse) = &mut self.all[index].abuse else { return Vec::new() };
        abuse.unsent.extend(abuse.holder.speak());
        std::mem::take(&mut abuse.unsent)
    }

    /// It says what it has to say, once, and waits.
    fn wait_mutely(&mut self, kernel: &mut Kernel, index: usize) {
        let actor = &mut self.all[index];
        let Some((words, until)) = &mut actor.mute else { return };
        let words = std::mem::take(words);
        if !words.is_empty() {
            // A few words: they fit, or the connection is gone, which the next read tells.
            let _ = kernel.send(actor.sock, &words);
        }
        let outcome = match kernel.recv(actor.sock, &mut [0; 1024]) {
            Ok(1..) if *until > kernel.now() => return self.wait_mutely(kernel, index),
            Err(Errno::EAGAIN) if *until > kernel.now() => return,
            Ok(_) | Err(Errno::EAGAIN) => Outcome::Own,
            Err(errno) => Outcome::Reset(errno),
        };
        self.end(kernel, index, outcome, false);
    }

    /// A machine lost its power: whoever was on it is gone.
    pub(super) fn forget(&mut self, kernel: &Kernel, host: HostId) {
        for actor in &mut self.all {
            if actor.outcome.is_none() && kernel.ends(actor.sock).0 == host {
                actor.outcome = Some(Outcome::Own);
                actor.ended = kernel.now();
            }
        }
    }

    /// Readiness of an actor's socket, or of a service's.
    pub(super) fn on_ready(
        &mut self,
        kernel: &mut Kernel,
        plan: &Plan,
        token: Token,
        seen: &mut Coverage,
    ) -> Result<(), Finding> {
        let index = usize::try_from(token.number() & !(ACTOR | LISTENER)).expect("an index");
        if token.number() & ACTOR != 0 {
            return self.drive(kernel, index, seen);
        }
        self.accept(kernel, plan, index, seen)
    }

    /// Takes the connections that wait at a service.
    pub(super) fn accept(
        &mut self,
        kernel: &mut Kernel,
        plan: &Plan,
        tunnel: usize,
        seen: &mut Coverage,
    ) -> Result<(), Finding> {
        let service = &self.services[tunnel];
        let (Some(listener), true, poll) = (service.listener, service.accepts, service.poll) else { return Ok(()) };
        while let Ok((sock, _)) = kernel.accept(listener) {
            let mut script = script(&mut self.rng, plan, Side::Service, plan.scenario.tunnels[tunnel].service_first);
            if self.hurry {
                script.fate = Fate::Normal;
            }
            let index = self.add(kernel, Who::Service, sock, tunnel, script, poll);
            // From no generator, either.
            let dice = mix(self.salt ^ 0x0a1f_0002 ^ index as u64);
            let unheard = plan.unix[tunnel] && !plan.scenario.calm && !self.hurry && script.fate == Fate::Normal;
            self.all[index].unheard_after = (unheard && dice.is_multiple_of(3)).then(|| dice / 3 % 4 * 100);
            self.streams.expect_prefix(self.all[index].stream, plan.scenario.tunnels[tunnel].head());
            if plan.scenario.tunnels[tunnel].serving.service.forwarded {
                self.streams.expect_another_prefix(self.all[index].stream);
            }
            if let Some(version) = plan.scenario.tunnels[tunnel].serving.proxy_protocol {
                self.streams.expect_header(self.all[index].stream, version);
            }
            self.drive(kernel, index, seen)?;
        }
        Ok(())
    }

    fn pause(&mut self, index: usize, now: Instant, longest: Duration) -> Instant {
        if self.hurry || longest.is_zero() {
            return now;
        }
        let nanos = u64::try_from(longest.as_nanos()).expect("short");
        let until = now + Duration::from_nanos(self.rng.range(nanos / 4, nanos));
        self.timers.push((until, index));
        until
    }

    fn end(&mut self, kernel: &mut Kernel, index: usize, outcome: Outcome<Errno>, linger0: bool) {
        let actor = &mut self.all[index];
        actor.outcome = Some(outcome);
        actor.ended = kernel.now();
        kernel.close(actor.sock, linger0);
    }

    /// Does what the script says and the socket allows.
    pub(super) fn drive(&mut self, kernel: &mut Kernel, index: usize, seen: &mut Coverage) -> Result<(), Finding> {
        let actor = &mut self.all[index];
        if actor.outcome.is_some() {
            return Ok(());
        }
        if !actor.connected {
            match kernel.take_error(actor.sock) {
                Ok(()) => actor.connected = true,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => {
                    self.end(kernel, index, Outcome::NotConnected(errno), false);
                    return Ok(());
                }
            }
        }
        if let Err(errno) = self.introduce(kernel, index) {
            self.end(kernel, index, Outcome::Reset(errno), false);
            return Ok(());
        }
        if self.all[index].front.as_ref().is_some_and(|front| !front.pieces.is_empty()) {
            return Ok(());
        }
        if self.all[index].impostor.is_some() {
            return self.deceive(kernel, index, seen);
        }
        if self.all[index].inquiry.is_some() {
            return self.listen(kernel, index, seen);
        }
        if self.all[index].abuse.is_some() {
            return self.misuse(kernel, index, seen);
        }
        if self.all[index].mute.is_some() {
            self.wait_mutely(kernel, index);
            return Ok(());
        }
        if let Err(errno) = self.write(kernel, index) {
            let actor = &mut self.all[index];
            if !actor.patient || actor.eof {
                self.end(kernel, index, Outcome::Reset(errno), false);
                return Ok(());
            }
            actor.failed = Some(errno);
        }
        match self.read(kernel, index, seen) {
            Ok(()) => {}
            Err(Stop::Errno(errno)) => {
                self.all[index].heard_out = true;
                self.end(kernel, index, Outcome::Reset(errno), false);
                return Ok(());
            }
            Err(Stop::Finding(finding)) => return Err(finding),
        }
        let actor = &self.all[index];
        if let (true, Some(errno)) = (actor.eof, actor.failed) {
            // It wants to hear no more, and cannot speak.
            self.end(kernel, index, Outcome::Reset(errno), false);
            return Ok(());
        }
        self.conclude(kernel, index, seen);
        Ok(())
    }

    /// Sends what its connection begins with.
    fn introduce(&mut self, kernel: &mut Kernel, index: usize) -> Result<(), Errno> {
        let now = kernel.now();
        while let Actor { sock, front: Some(front), next_write, .. } = &mut self.all[index]
            && *next_write <= now
            && let Some(piece) = front.pieces.front_mut()
        {
            match kernel.send(*sock, piece) {
                Ok(sent) => {
                    piece.drain(..sent);
                    let pause = front.pause;
                    if piece.is_empty() {
                        front.pieces.pop_front();
                        if !front.pieces.is_empty() {
                            self.all[index].next_write = self.pause(index, now, pause);
                        }
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn write(&mut self, kernel: &mut Kernel, index: usize) -> Result<(), Errno> {
        let now = kernel.now();
        let mut buffer = [0; 8192];
        loop {
            let actor = &self.all[index];
            let left = actor.script.total - actor.sent;
            if left == 0 || actor.next_write > now || actor.failed.is_some() {
                break;
            }
            let n = left.min(actor.script.write_chunk).min(buffer.len());
            let stream = actor.stream;
            self.streams.next_bytes(stream, &mut buffer[..n]);
            let actor = &mut self.all[index];
            match kernel.send(actor.sock, &buffer[..n]) {
                Ok(sent) => {
                    actor.sent += sent;
                    let pause = actor.script.write_pause;
                    self.streams.on_sent(stream, sent);
                    self.all[index].next_write = self.pause(index, now, pause);
                }
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn read(&mut self, kernel: &mut Kernel, index: usize, seen: &mut Coverage) -> Result<(), Stop> {
        let now = kernel.now();
        let mut buffer = [0; 8192];
        loop {
            let actor = &mut self.all[index];
            if !actor.eof && actor.unheard_after.is_some_and(|after| self.streams.received(actor.stream) >= after) {
                // ENOTCONN: its client has left, and the next write says so.
                actor.unheard = kernel.shut_read(actor.sock).is_ok();
                actor.eof = true;
            }
            if actor.eof || actor.next_read > now {
                return Ok(());
            }
            let n = actor.script.read_chunk.min(buffer.len());
            let (stream, stranger) = (actor.stream, actor.who == Who::Stranger);
            match kernel.recv(actor.sock, &mut buffer[..n]) {
                Ok(0) => {
                    if let Some(errno) = actor.failed {
                        // An error is told once, and the write was told: this end is none.
                        return Err(Stop::Errno(errno));
                    }
                    (actor.eof, actor.heard_out) = (true, true);
                    // Over a Unix socket whoever is lost is read as an end.
                    if !stranger && !kernel.is_unix(actor.sock) {
                        self.streams.on_eof(stream).map_err(Stop::Finding)?;
                        if self.streams.was_refused(stream) {
                            seen.saw(Sometimes::HostRefused);
                            return Err(Stop::Errno(Errno::ECONNRESET));
                        }
                    }
                }
                Ok(n) => {
                    let pause = actor.script.read_pause;
                    if !stranger {
                        self.streams.on_received(stream, &buffer[..n]).map_err(Stop::Finding)?;
                        if self.streams.header_is_split(stream) {
                            seen.saw(Sometimes::HeaderSplit);
                        }
                        if self.streams.was_told_instead(stream) {
                            seen.saw(Sometimes::ToldForWhom);
                        }
                    }
                    self.all[index].next_read = self.pause(index, now, pause);
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(Stop::Errno(errno)),
            }
        }
    }

    /// Shuts, closes or resets when it is time.
    fn conclude(&mut self, kernel: &mut Kernel, index: usize, seen: &mut Coverage) {
        let actor = &mut self.all[index];
        let received = self.streams.received(actor.stream);
        let all_sent = actor.sent == actor.script.total;
        match actor.script.fate {
            Fate::Reset { sent, received: least } if actor.sent >= sent && (received >= least || actor.eof) => {
                seen.saw(match actor.who {
                    Who::Service => Sometimes::ServiceReset,
                    Who::Visitor { .. } | Who::Stranger | Who::Holder | Who::Inquirer => Sometimes::VisitorReset,
                });
                if kernel.is_unix(actor.sock) && kernel.unread(actor.sock) == 0 {
                    // It cannot reset.
                    self.streams.on_ended(actor.stream);
                }
                self.end(kernel, index, Outcome::Own, true);
                return;
            }
            Fate::CloseEarly if all_sent => {
                if kernel.unread(actor.sock) == 0 {
                    self.streams.on_ended(actor.stream);
                }
                self.end(kernel, index, Outcome::Own, false);
                return;
            }
            Fate::Reset { .. } | Fate::CloseEarly | Fate::Normal => {}
        }
        let may_shut = actor.script.shut == Shut::AfterSending || actor.eof;
        if all_sent && !actor.shut && may_shut && actor.failed.is_none() {
            actor.shut = true;
            self.streams.on_ended(actor.stream);
            // ENOTCONN: it was reset meanwhile, and the next read says so.
            let _ = kernel.shut_write(actor.sock);
        }
        let actor = &self.all[index];
        if actor.shut && actor.eof {
            let outcome = if actor.unheard { Outcome::Own } else { Outcome::Whole };
            self.end(kernel, index, outcome, false);
        }
    }
}

enum Stop {
    Errno(Errno),
    Finding(Finding),
}
