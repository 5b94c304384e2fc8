//! Paths: QUIC connections that carry the datagrams of flows, by quinn-proto (PROTOCOL.md, "Paths"). One per session, on the
//! main thread: its driver decides when there is one, and what goes by it; here packets are read and sent.
//!
//! Measured with quinn-proto 0.11.19: it takes 1,162 bytes right behind the handshake and 1,414 after it has found out what
//! the line carries, and that can shrink, so each datagram asks; packets of others at the shared port disturb nothing.

mod carried;

use crate::mail::{Address as MailAddress, Mailbox, Outgoing};
use crate::sys::{Event, PathSocket, Registrar};
use crate::thread::{Clock, DriverSlot, Work};
use crate::tls;
use carried::{Carried, Role, Time};
use protocol_sm::datagrams::{Lost, PathDatagram, PathId};
use protocol_sm::driver::paths::{FromPaths, ToPaths};
use protocol_sm::driver::{Address, SysError, Tell, Token};
use protocol_sm::report::Counts;
use protocol_sm::settings::Origin;
use protocol_sm::time::Instant;
use quinn_proto::{
    ClientConfig, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig,
    TransportConfig, VarInt,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Datagrams that are read at one socket before others get their turn.
const BATCH: usize = 64;
/// A path over which nothing is heard is over.
const IDLE: Duration = Duration::from_secs(30);
/// A client's sign of life, so that a NAT keeps its path.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A path whose peer has not proved itself by then is closed.
const PROOF: Duration = Duration::from_secs(4);
/// Paths at a server whose peers have proved nothing.
const UNPROVED: usize = 64;
/// From so many on, a newcomer must show first that it is where it says.
const CROWDED: usize = 8;
/// Paths that are let in within a second.
const PER_SECOND: u32 = 100;
/// Bytes of datagrams that came and were not read; they are read at once.
const RECEIVED: usize = 1024 * 1024;
/// Bytes of datagrams that QUIC holds for sending: what waits for longer, waits in [`carried`].
const SENDING: usize = 16 * 1024;

/// The paths of a process. `M` is what its main driver is told.
pub(crate) struct Paths<M> {
    registrar: Registrar,
    mailbox: Mailbox<ToPaths>,
    out: Outgoing<M>,
    wrap: fn(FromPaths) -> M,
    clock: Clock,
    messages: Vec<ToPaths>,
    ready: BTreeSet<u64>,
    /// Sockets and what they are the ends of, by their tokens.
    ports: BTreeMap<u64, Port>,
    last_port: u64,
    /// The server's.
    listener: Option<u64>,
    /// A server's key, once it was made.
    key: Option<(Arc<ServerConfig>, [u8; 32])>,
    paths: BTreeMap<PathId, Carried>,
    /// Those on which something may be to be done.
    stirred: BTreeSet<PathId>,
    /// When each of them is looked at next: a turn costs nothing for paths on which nothing happens.
    deadlines: BTreeSet<(Instant, PathId)>,
    /// A server's, whose clients have proved nothing.
    unproved: BTreeSet<PathId>,
    last_path: u64,
    /// Paths let in within this second.
    admitted: (u64, u32),
    lost: Counts<Lost>,
    buffer: Vec<u8>,
}

impl<M> fmt::Debug for Paths<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paths").field("paths", &self.paths.len()).finish_non_exhaustive()
    }
}

/// A socket, and QUIC's view of it.
struct Port {
    socket: PathSocket,
    endpoint: Endpoint,
    handles: BTreeMap<ConnectionHandle, PathId>,
}

impl<M> Paths<M> {
    /// No path yet. `wrap` makes a message for `main` of what there is to tell.
    pub(crate) fn new(seat: DriverSlot<ToPaths>, main: MailAddress<M>, wrap: fn(FromPaths) -> M, clock: Clock) -> Self {
        Self {
            registrar: seat.registrar,
            mailbox: seat.mailbox,
            out: Outgoing::new(main),
            wrap,
            clock,
            messages: Vec::new(),
            ready: BTreeSet::new(),
            ports: BTreeMap::new(),
            last_port: 0,
            listener: None,
            key: None,
            paths: BTreeMap::new(),
            stirred: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            unproved: BTreeSet::new(),
            last_path: 0,
            admitted: (0, 0),
            lost: Counts::default(),
            buffer: Vec::new(),
        }
    }

    /// Says goodbye: the main driver has ended.
    pub(crate) fn finish(&mut self) {
        let _through = self.turn(self.clock.now());
    }

    fn tell(&mut self, message: FromPaths) {
        self.out.tell((self.wrap)(message));
    }

    fn on_message(&mut self, now: Instant, message: ToPaths) {
        match message {
            ToPaths::Listen(at) => {
                let listening = self.listen(at);
                self.tell(FromPaths::Listening(listening));
            }
            ToPaths::Unlisten => {
                for path in self.paths.keys().copied().collect::<Vec<_>>() {
                    self.close(now, path);
                }
                if let Some(port) = self.listener.take() {
                    self.ports.remove(&port);
                    for path in self.paths.keys().copied().collect::<Vec<_>>() {
                        if self.paths.get(&path).is_some_and(|carried| carried.port == port) {
                            self.forget(path);
                        }
                    }
                }
            }
            ToPaths::Open { path, from, to, pin } => {
                if self.open(now, path, &from, to, pin).is_err() {
                    self.tell(FromPaths::Gone(path));
                }
            }
            ToPaths::Say(path, bytes) => self.with(path, |carried| carried.say(&bytes)),
            ToPaths::Pass(path) => self.with(path, Carried::pass),
            ToPaths::Send(path, datagram) => self.send(now, path, datagram),
            ToPaths::Close(path) => self.close(now, path),
        }
    }

    fn with(&mut self, path: PathId, act: impl FnOnce(&mut Carried)) {
        if let Some(carried) = self.paths.get_mut(&path) {
            act(carried);
            self.stirred.insert(path);
        }
    }

    fn listen(&mut self, at: SocketAddr) -> Result<[u8; 32], SysError> {
        if self.key.is_none() {
            let (crypto, pin) = tls::path::server().map_err(|_| SysError::Unsupported)?;
            let mut config = ServerConfig::with_crypto(Arc::new(crypto));
            config.transport_config(Arc::new(transport(None)));
            self.key = Some((Arc::new(config), pin));
        }
        let (config, pin) = self.key.clone().expect("it was made");
        let port = self.add_port(PathSocket::listen(at)?, Some(config))?;
        self.listener = Some(port);
        Ok(pin)
    }

    fn add_port(&mut self, socket: PathSocket, server: Option<Arc<ServerConfig>>) -> Result<u64, SysError> {
        self.last_port += 1;
        socket.watch(&self.registrar, token(self.last_port))?;
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), server, true, None);
        self.ports.insert(self.last_port, Port { socket, endpoint, handles: BTreeMap::new() });
        Ok(self.last_port)
    }

    fn open(
        &mut self,
        now: Instant,
        path: PathId,
        from: &Origin,
        to: SocketAddr,
        pin: [u8; 32],
    ) -> Result<(), SysError> {
        let crypto = tls::path::client(pin).map_err(|_| SysError::Unsupported)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(Some(KEEP_ALIVE))));
        let port = self.add_port(PathSocket::connect(from, to)?, None)?;
        let of = self.ports.get_mut(&port).expect("just made");
        let made = of.endpoint.connect(self.clock.to_std(now), config, to, tls::path::NAME);
        let Ok((handle, connection)) = made else {
            self.ports.remove(&port);
            return Err(SysError::Unreachable);
        };
        of.handles.insert(handle, path);
        self.paths.insert(path, Carried::new(port, handle, connection, Role::Client, None));
        self.stirred.insert(path);
        Ok(())
    }

    fn send(&mut self, now: Instant, path: PathId, datagram: PathDatagram) {
        let given_back = match self.paths.get_mut(&path) {
            Some(carried) => carried.push(now, datagram, &mut self.lost),
            None => Some(datagram),
        };
        match given_back {
            Some(datagram) => self.tell(FromPaths::Back(path, datagram)),
            None => {
                self.stirred.insert(path);
            }
        }
    }

    /// Closes a path. A client's socket goes with it.
    fn close(&mut self, now: Instant, path: PathId) {
        let Some(carried) = self.paths.get_mut(&path) else { return };
        for datagram in carried.close(self.clock.to_std(now)) {
            self.out.tell((self.wrap)(FromPaths::Back(path, datagram)));
        }
        self.drive(now, path);
        if let Some(carried) = self.paths.get(&path)
            && carried.role == Role::Client
        {
            self.ports.remove(&carried.port);
            self.forget(path);
        }
    }

    fn forget(&mut self, path: PathId) {
        if let Some(deadline) = self.paths.remove(&path).and_then(|carried| carried.scheduled) {
            self.deadlines.remove(&(deadline, path));
        }
        self.unproved.remove(&path);
    }

    /// Reads packets, a bounded number of them. `true`: more may be there.
    fn hear(&mut self, now: Instant, of: u64) -> bool {
        let mut heard = false;
        for _ in 0..BATCH {
            let Some(port) = self.ports.get_mut(&of) else { return false };
            let (packet, address) = match port.socket.hear() {
                Ok(heard) => heard,
                Err(SysError::WouldBlock) => return false,
                // What became of one that was sent before: QUIC finds out by itself.
                Err(_) => continue,
            };
            heard = true;
            let own = Some(address.own).filter(|own| !own.is_unspecified());
            self.buffer.clear();
            let at = self.clock.to_std(now);
            let event = port.endpoint.handle(at, address.peer, own, None, packet.into(), &mut self.buffer);
            match event {
                None => {}
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    if let Some(&path) = port.handles.get(&handle)
                        && let Some(carried) = self.paths.get_mut(&path)
                    {
                        carried.connection.handle_event(event);
                        self.stirred.insert(path);
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => self.admit(now, of, incoming),
                Some(DatagramEvent::Response(transmit)) => {
                    let to = back(transmit.destination, transmit.src_ip);
                    let _lost = port.socket.say(to, &self.buffer[..transmit.size]);
                }
            }
        }
        heard
    }

    /// Somebody wants a path at the server.
    // PROTOCOL.md: P-PATH-10.
    fn admit(&mut self, now: Instant, of: u64, incoming: Incoming) {
        let unproved = self.unproved.len();
        let second = now.since(Instant::ZERO).as_secs();
        if self.admitted.0 != second {
            self.admitted = (second, 0);
        }
        let Some(port) = self.ports.get_mut(&of) else { return };
        if unproved >= UNPROVED || self.admitted.1 >= PER_SECOND {
            return port.endpoint.ignore(incoming);
        }
        self.buffer.clear();
        if unproved >= CROWDED && incoming.may_retry() {
            if let Ok(transmit) = port.endpoint.retry(incoming, &mut self.buffer) {
                let to = back(transmit.destination, transmit.src_ip);
                let _lost = port.socket.say(to, &self.buffer[..transmit.size]);
            }
            return;
        }
        self.admitted.1 += 1;
        match port.endpoint.accept(incoming, self.clock.to_std(now), &mut self.buffer, None) {
            Ok((handle, connection)) => {
                self.last_path += 1;
                let path = PathId(self.last_path);
                port.handles.insert(handle, path);
                self.paths.insert(path, Carried::new(of, handle, connection, Role::Server, Some(now + PROOF)));
                self.stirred.insert(path);
                self.unproved.insert(path);
            }
            Err(error) => {
                if let Some(transmit) = error.response {
                    let to = back(transmit.destination, transmit.src_ip);
                    let _lost = port.socket.say(to, &self.buffer[..transmit.size]);
                }
            }
        }
    }

    /// Does all that can be done on a path now.
    fn drive(&mut self, now: Instant, path: PathId) {
        let (time, wrap) = (Time { now, at: self.clock.to_std(now) }, self.wrap);
        let Some(carried) = self.paths.get_mut(&path) else { return };
        let Some(port) = self.ports.get_mut(&carried.port) else { return };
        let out = &mut self.out;
        let mut tell = |message| out.tell(wrap(message));
        carried.drive(time, path, &mut port.socket, &mut self.buffer, &mut self.lost, &mut tell);
        while let Some(event) = carried.connection.poll_endpoint_events() {
            if let Some(event) = port.endpoint.handle_event(carried.handle, event) {
                carried.connection.handle_event(event);
            }
        }
        if carried.connection.is_drained() {
            port.handles.remove(&carried.handle);
            if carried.role == Role::Client {
                self.ports.remove(&carried.port);
            }
            self.forget(path);
        } else {
            self.schedule(path);
        }
    }

    /// Notes when it is looked at next.
    fn schedule(&mut self, path: PathId) {
        let Some(carried) = self.paths.get_mut(&path) else { return };
        if !carried.is_unproved() {
            self.unproved.remove(&path);
        }
        let deadline = carried.deadline(self.clock);
        let before = std::mem::replace(&mut carried.scheduled, deadline);
        if before != deadline {
            before.map(|at| self.deadlines.remove(&(at, path)));
            self.deadlines.extend(deadline.map(|at| (at, path)));
        }
    }
}

impl<M> Work for Paths<M> {
    fn on_event(&mut self, event: Event) {
        self.ready.insert(event.token.number());
    }

    fn has_work(&self, now: Instant) -> bool {
        self.has_mail() || self.is_busy() || self.next_deadline().is_some_and(|at| at <= now)
    }

    fn turn(&mut self, now: Instant) -> ControlFlow<()> {
        let mut messages = std::mem::take(&mut self.messages);
        let open = self.mailbox.take(&mut messages);
        for message in messages.drain(..) {
            self.on_message(now, message);
        }
        self.messages = messages;
        for token in std::mem::take(&mut self.ready) {
            if self.hear(now, port_of(token)) {
                self.ready.insert(token);
            }
        }
        let due = self.deadlines.iter().take_while(|&&(at, _)| at <= now);
        self.stirred.extend(due.map(|&(_, path)| path));
        for path in std::mem::take(&mut self.stirred) {
            self.drive(now, path);
        }
        if self.lost.sum() > 0 {
            let lost = std::mem::take(&mut self.lost);
            self.tell(FromPaths::Lost(lost));
        }
        self.out.flush();
        if open { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn has_mail(&self) -> bool {
        self.mailbox.has_mail()
    }

    fn is_busy(&self) -> bool {
        !self.ready.is_empty() || !self.stirred.is_empty()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(at, _)| at)
    }
}

fn back(peer: SocketAddr, own: Option<IpAddr>) -> Address {
    Address { peer, own: own.unwrap_or(Ipv4Addr::UNSPECIFIED.into()) }
}

/// The number of a port, as an epoll set names it: its low bits below those that name the driver.
fn token(port: u64) -> Token {
    Token::from_number(port & 0xff_ffff | port >> 24 << 32).expect("ports are numbered from 1")
}

fn port_of(token: u64) -> u64 {
    token & 0xff_ffff | token >> 32 << 24
}

fn transport(keep_alive: Option<Duration>) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE).expect("short")))
        .keep_alive_interval(keep_alive)
        .datagram_receive_buffer_size(Some(RECEIVED))
        .datagram_send_buffer_size(SENDING)
        .enable_segmentation_offload(false);
    config
}
