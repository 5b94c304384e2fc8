//! One QUIC connection: its proofs, its datagrams, and whether it answers.

use crate::sys::PathSocket;
use crate::thread::Clock;
use protocol_sm::auth::{Channel, PATH_HELLO};
use protocol_sm::datagrams::{Beat, Lost, PATIENCE, PathDatagram, PathId, PathState, Pulse, ROOM};
use protocol_sm::driver::Address;
use protocol_sm::driver::paths::FromPaths;
use protocol_sm::report::Counts;
use protocol_sm::time::Instant;
use quinn_proto::{Connection, ConnectionHandle, Dir, Event, SendDatagramError, StreamId, VarInt};
use std::collections::VecDeque;
use std::net::Ipv4Addr;

/// Packets that one path sends before others get their turn.
const BATCH: usize = 64;

/// What QUIC counts for each datagram that it holds, and more.
const OVERHEAD: usize = 64;

/// Which side of it we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// The time of a turn, as the drivers have it and as QUIC does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    pub(super) now: Instant,
    pub(super) at: std::time::Instant,
}

/// See the module.
pub(super) struct Carried {
    pub(super) port: u64,
    pub(super) handle: ConnectionHandle,
    pub(super) connection: Connection,
    pub(super) role: Role,
    /// What its peer must have proved itself by.
    until: Option<Instant>,
    stage: Stage,
    stream: Option<StreamId>,
    /// What the peer has said first.
    said: Vec<u8>,
    /// What is to be said.
    unsaid: Vec<u8>,
    pulse: Pulse,
    /// Acknowledgements that came, and what was sent that is to be acknowledged.
    counted: [u64; 2],
    told: PathState,
    /// What waits for room.
    waiting: VecDeque<(Instant, PathDatagram)>,
    bytes: usize,
    /// It has more to send, and others come first.
    again: bool,
    /// When it is looked at next, as its owner has noted.
    pub(super) scheduled: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Proving,
    Passing,
    /// Nothing more is said of it.
    Closed,
}

impl Carried {
    pub(super) fn new(
        port: u64,
        handle: ConnectionHandle,
        connection: Connection,
        role: Role,
        until: Option<Instant>,
    ) -> Self {
        Self {
            port,
            handle,
            connection,
            role,
            until,
            stage: Stage::Opening,
            stream: None,
            said: Vec::new(),
            unsaid: Vec::new(),
            pulse: Pulse::default(),
            counted: [0; 2],
            told: PathState::Down,
            waiting: VecDeque::new(),
            bytes: 0,
            again: false,
            scheduled: None,
        }
    }

    pub(super) fn is_unproved(&self) -> bool {
        matches!(self.stage, Stage::Opening | Stage::Proving)
    }

    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.unsaid.extend_from_slice(bytes);
    }

    pub(super) fn pass(&mut self) {
        self.stage = Stage::Passing;
        self.until = None;
    }

    /// Takes a datagram for sending, or gives it back.
    pub(super) fn push(
        &mut self,
        now: Instant,
        datagram: PathDatagram,
        lost: &mut Counts<Lost>,
    ) -> Option<PathDatagram> {
        let size = self.connection.datagrams().max_size().unwrap_or(0);
        if self.stage != Stage::Passing || self.pulse.is_silent() || datagram.len() > size {
            return Some(datagram);
        }
        self.bytes += datagram.len();
        self.waiting.push_back((now, datagram));
        while self.bytes > ROOM {
            self.drop_oldest(Lost::NoRoom, lost);
        }
        None
    }

    fn drop_oldest(&mut self, why: Lost, lost: &mut Counts<Lost>) {
        if let Some((_, datagram)) = self.waiting.pop_front() {
            self.bytes -= datagram.len();
            lost.add(why);
        }
    }

    /// Closes it; what waits is given back.
    pub(super) fn close(&mut self, now: std::time::Instant) -> Vec<PathDatagram> {
        if self.stage != Stage::Closed {
            self.connection.close(now, VarInt::from_u32(0), Vec::new().into());
        }
        self.stage = Stage::Closed;
        self.give_back()
    }

    fn give_back(&mut self) -> Vec<PathDatagram> {
        self.bytes = 0;
        self.waiting.drain(..).map(|(_, datagram)| datagram).collect()
    }

    /// What waits and does not fit any more, because the path takes less than it did, is given back.
    fn give_back_longer(&mut self, path: PathId, tell: &mut impl FnMut(FromPaths)) {
        let size = self.connection.datagrams().max_size().unwrap_or(0);
        if matches!(self.told, PathState::Up { size: told } if size < told) {
            for (since, datagram) in std::mem::take(&mut self.waiting) {
                if datagram.len() > size {
                    self.bytes -= datagram.len();
                    tell(FromPaths::Back(path, datagram));
                } else {
                    self.waiting.push_back((since, datagram));
                }
            }
        }
    }

    pub(super) fn deadline(&mut self, clock: Clock) -> Option<Instant> {
        if self.again {
            return Some(Instant::ZERO);
        }
        let quic = self.connection.poll_timeout().map(|at| clock.of_std(at));
        let pulse = self.pulse.next_deadline(self.connection.rtt()).filter(|_| self.stage == Stage::Passing);
        [quic, pulse, self.until].into_iter().flatten().min()
    }

    pub(super) fn drive(
        &mut self,
        Time { now, at }: Time,
        path: PathId,
        socket: &mut PathSocket,
        buffer: &mut Vec<u8>,
        lost: &mut Counts<Lost>,
        tell: &mut impl FnMut(FromPaths),
    ) {
        if self.connection.poll_timeout().is_some_and(|due| due <= at) {
            self.connection.handle_timeout(at);
        }
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            self.stage = Stage::Closed;
            self.connection.close(at, VarInt::from_u32(0), Vec::new().into());
        }
        self.on_events(path, tell);
        self.exchange_proofs(path, tell);
        if self.stage == Stage::Passing {
            while let Some(bytes) = self.connection.datagrams().recv() {
                match PathDatagram::decode(bytes.to_vec()) {
                    Some(datagram) => tell(FromPaths::Came(path, datagram)),
                    None => lost.add(Lost::Stale),
                }
            }
        }
        self.give_back_longer(path, tell);
        self.transmit(now, at, socket, buffer, lost);
        self.on_events(path, tell);
        self.look(now, path, tell);
        if self.pulse.is_silent() {
            self.give_back().into_iter().for_each(|datagram| tell(FromPaths::Back(path, datagram)));
            self.transmit(now, at, socket, buffer, lost);
        }
    }

    fn on_events(&mut self, path: PathId, tell: &mut impl FnMut(FromPaths)) {
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected if self.stage == Stage::Opening => {
                    self.stage = Stage::Proving;
                    if self.role == Role::Client {
                        self.stream = self.connection.streams().open(Dir::Bi);
                        if let Some(channel) = self.channel() {
                            tell(FromPaths::Open(path, channel));
                        }
                    }
                }
                Event::ConnectionLost { .. } => {
                    if self.stage != Stage::Closed {
                        self.give_back().into_iter().for_each(|datagram| tell(FromPaths::Back(path, datagram)));
                        tell(FromPaths::Gone(path));
                    }
                    self.stage = Stage::Closed;
                    self.until = None;
                }
                Event::Connected
                | Event::HandshakeDataReady
                | Event::Stream(_)
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
    }

    /// Reads what the peer says first, and says what is to be said.
    fn exchange_proofs(&mut self, path: PathId, tell: &mut impl FnMut(FromPaths)) {
        if self.stage == Stage::Proving && self.stream.is_none() {
            self.stream = self.connection.streams().accept(Dir::Bi);
        }
        let Some(stream) = self.stream else { return };
        let wanted = if self.role == Role::Client { 32 } else { PATH_HELLO };
        if self.stage == Stage::Proving && self.said.len() < wanted {
            if let Ok(mut chunks) = self.connection.recv_stream(stream).read(true) {
                while self.said.len() < wanted
                    && let Ok(Some(chunk)) = chunks.next(wanted - self.said.len())
                {
                    self.said.extend_from_slice(&chunk.bytes);
                }
                let _sent_below = chunks.finalize();
            }
            if self.said.len() == wanted
                && let Some(channel) = self.channel()
            {
                let (from, bytes) = (self.connection.remote_address(), self.said.clone());
                tell(FromPaths::Said { path, from, channel, bytes });
            }
        }
        while !self.unsaid.is_empty()
            && let Ok(written) = self.connection.send_stream(stream).write(&self.unsaid)
        {
            self.unsaid.drain(..written);
        }
    }

    fn channel(&self) -> Option<Channel> {
        let mut channel = Channel([0; 32]);
        let session = self.connection.crypto_session();
        session.export_keying_material(&mut channel.0, b"EXPORTER-Channel-Binding", b"").ok()?;
        Some(channel)
    }

    /// Sends what there is to send, a bounded number of packets.
    fn transmit(
        &mut self,
        now: Instant,
        at: std::time::Instant,
        socket: &mut PathSocket,
        buffer: &mut Vec<u8>,
        lost: &mut Counts<Lost>,
    ) {
        while self.waiting.front().is_some_and(|(since, _)| now.since(*since) > PATIENCE) {
            self.drop_oldest(Lost::Late, lost);
        }
        self.again = false;
        for nth in 0..BATCH {
            self.fill(lost);
            buffer.clear();
            let Some(transmit) = self.connection.poll_transmit(at, 1, buffer) else { return };
            let own = transmit.src_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            let to = Address { peer: transmit.destination, own };
            // One that is not sent is lost, as on any line.
            let _lost = socket.say(to, &buffer[..transmit.size]);
            self.again = nth + 1 == BATCH;
        }
    }

    /// Gives QUIC what waits, as far as it has room.
    fn fill(&mut self, lost: &mut Counts<Lost>) {
        while let Some((_, datagram)) = self.waiting.front()
            && self.connection.datagrams().send_buffer_space() >= datagram.len() + OVERHEAD
            && let Some((_, datagram)) = self.waiting.pop_front()
        {
            self.bytes -= datagram.len();
            match self.connection.datagrams().send(datagram.into_bytes().into(), false) {
                Ok(()) => {}
                // What it takes has shrunk since.
                Err(
                    SendDatagramError::TooLarge
                    | SendDatagramError::UnsupportedByPeer
                    | SendDatagramError::Disabled
                    | SendDatagramError::Blocked(_),
                ) => lost.add(Lost::TooLong),
            }
        }
    }

    /// Looks whether it answers, and what it takes.
    fn look(&mut self, now: Instant, path: PathId, tell: &mut impl FnMut(FromPaths)) {
        let stats = self.connection.stats();
        let sent = &stats.frame_tx;
        let eliciting =
            sent.datagram + sent.ping + sent.stream + sent.crypto + sent.path_challenge + sent.path_response;
        let [answers, asked] = std::mem::replace(&mut self.counted, [stats.frame_rx.acks, eliciting]);
        if stats.frame_rx.acks > answers {
            self.pulse.on_answer();
        }
        if eliciting > asked {
            self.pulse.on_sent(now);
        }
        if self.stage != Stage::Passing {
            return;
        }
        match self.pulse.on_deadline(now, self.connection.rtt()) {
            Beat::Fine => {}
            Beat::Ask | Beat::Silent => {
                self.connection.ping();
                self.again = true;
            }
        }
        let size = self.connection.datagrams().max_size().unwrap_or(0);
        let state = if self.pulse.is_silent() { PathState::Down } else { PathState::Up { size } };
        if std::mem::replace(&mut self.told, state) != state {
            tell(FromPaths::State(path, state));
        }
    }
}
