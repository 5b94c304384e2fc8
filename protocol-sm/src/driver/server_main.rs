//! The server's main thread: the ctl and proxy ports, handshakes, and every client's session.
//!
//! A connection is nobody's until its handshake is through; until then it costs one slot, a fixed number of
//! bytes and a deadline, and the oldest makes room when there are too many.

use super::Cx;
use super::ctl_link::CtlLink;
use super::listener::accept_batch;
use super::messages::{
    ControlKey, FromListener, FromServerLoop, Limits, ToLane, ToListener, ToServerLoop, ToServerMain,
};
use super::relay::Port;
use super::slab::{Slab, Token};
use super::sys::{Driver, Listen, Note, Readiness, Role, SysError, Tell, random_u32};
use super::timers::Timers;
use crate::codes::{AbortCode, CloseCode, HandshakeRefusal, Violation};
use crate::control::challenge::{Access, Challenge};
use crate::control::server::{Control, Reaction};
use crate::ids::{ClientId, SessionId, TunnelId};
use crate::liveness::{Liveness, Pulse};
use crate::session::Arrival;
use crate::settings::ServerSettings;
use crate::time::Instant;
use crate::wire::{
    ClientHandshake, ConnHello, Ctl, Framer, Message, Port as Kind, Preface, PrefaceReader, ProxyToClient,
    ProxyToServer, Reply, ServerHandshake, ServerMsg, ToServer, Welcome,
};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

/// How long accepting rests when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a client that seems connected may take to show that it is, when another with its identity comes.
const PROBE: Duration = Duration::from_secs(2);
/// Reads from one ctl_conn before others get their turn.
const READS: usize = 8;

/// See the module. `T` is a stream, `L` a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerMain<T, L> {
    settings: ServerSettings,
    lanes: usize,
    bind_ip: IpAddr,
    proxy_port: u16,
    slots: Slab<Slot<T, L>>,
    doors: Vec<Token>,
    controls: BTreeMap<ControlKey, Seat>,
    by_session: BTreeMap<SessionId, ControlKey>,
    by_client: BTreeMap<ClientId, ControlKey>,
    next_key: u64,
    /// Connections whose handshake is not through, by deadline.
    handshakes: Timers,
    /// Sessions without a ctl_conn, by the end of their grace.
    graces: BTreeSet<(Instant, ControlKey)>,
    /// Heartbeats of the ctl_conns that are up.
    heartbeats: Timers,
    /// Doors with connections left to accept, and ctl_conns with messages left to read or send.
    busy: VecDeque<Token>,
    paused_until: Option<Instant>,
    stopping: Option<Stopping>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stopping {
    until: Instant,
    drained: BTreeSet<usize>,
    over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Slot<T, L> {
    Door(Door<L>),
    Ctl(Box<CtlConn<T>>),
    Proxy(ProxyHand<T>),
}

/// The ctl port or the proxy port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Door<L> {
    listener: L,
    role: Role,
    queued: bool,
}

/// A connection on the ctl port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CtlConn<T> {
    link: CtlLink<T, ToServer>,
    from: SocketAddr,
    stage: Stage,
    queued: bool,
    deadline: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Preface(PrefaceReader),
    Hello(Preface),
    Proof(Challenge),
    /// It has proved itself; a session with its identity is being probed.
    Parked {
        challenge: Challenge,
        access: Access,
        rival: ControlKey,
    },
    Up(ControlKey, Liveness),
}

/// A connection on the proxy port, until its hello is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ProxyHand<T> {
    port: Port<T>,
    framer: Framer<ProxyToServer>,
    reader: PrefaceReader,
    preface: Option<Preface>,
    deadline: Option<Instant>,
}

/// A session and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seat {
    control: Control,
    /// Its ctl_conn, or the end of its grace.
    at: Result<Token, Instant>,
    /// A newcomer with its identity waits for it to show that it lives.
    rival: Option<Token>,
}

/// Why a connection on the ctl port goes no further.
enum Stop {
    /// The connection is lost or was never ours: no word.
    Lost,
    /// Its handshake is refused, with a word.
    Refused(HandshakeRefusal),
    /// Its session is over.
    Session(CloseCode),
    /// The client broke the protocol.
    Violation(Violation),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<HandshakeRefusal> for Stop {
    fn from(refusal: HandshakeRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<T, L> ServerMain<T, L> {
    /// A server with `lanes` event loops whose public ports are opened on `bind_ip`.
    #[must_use]
    pub fn new(settings: ServerSettings, lanes: usize, bind_ip: IpAddr) -> Self {
        Self {
            settings,
            lanes,
            bind_ip,
            proxy_port: 0,
            slots: Slab::default(),
            doors: Vec::new(),
            controls: BTreeMap::new(),
            by_session: BTreeMap::new(),
            by_client: BTreeMap::new(),
            next_key: 1,
            handshakes: Timers::default(),
            graces: BTreeSet::new(),
            heartbeats: Timers::default(),
            busy: VecDeque::new(),
            paused_until: None,
            stopping: None,
        }
    }

    /// Opens the ctl and the proxy port and returns their real addresses.
    ///
    /// # Errors
    /// The address that cannot be listened on, and why.
    pub fn listen<S>(
        &mut self,
        cx: &mut Cx<'_, S>,
        ctl: SocketAddr,
        proxy: SocketAddr,
    ) -> Result<(SocketAddr, SocketAddr), (SocketAddr, SysError)>
    where
        S: Listen<Stream = T, Listener = L>,
    {
        let mut open = |at: SocketAddr, role| {
            let mut real = at;
            self.slots
                .insert_with(|token| {
                    let (listener, address) = cx.sys.listen(at, token)?;
                    real = address;
                    Ok(Slot::Door(Door { listener, role, queued: false }))
                })
                .map(|token| {
                    self.doors.push(token);
                    real
                })
                .map_err(|error| (at, error))
        };
        let ctl = open(ctl, Role::Ctl)?;
        let proxy = open(proxy, Role::Proxy)?;
        self.proxy_port = proxy.port();
        Ok((ctl, proxy))
    }

    /// Whether a requested stop is complete: the other threads may end once they have handled their messages.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stopping.as_ref().is_some_and(|stopping| stopping.over)
    }

    /// Sessions, with or without a ctl_conn.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.controls.len()
    }

    /// Sockets that it owns, the two listening ones included.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.slots.len()
    }

    fn enqueue(&mut self, token: Token) {
        let queued = match self.slots.get_mut(token) {
            Some(Slot::Door(door)) => &mut door.queued,
            Some(Slot::Ctl(conn)) => &mut conn.queued,
            Some(Slot::Proxy(_)) | None => return,
        };
        if !*queued {
            *queued = true;
            self.busy.push_back(token);
        }
    }
}

impl<T, L, S> Driver<S> for ServerMain<T, L>
where
    S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
{
    type Message = ToServerMain;

    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: ToServerMain) {
        match message {
            ToServerMain::Loop(message) => self.on_loop(cx, message),
            ToServerMain::Listener(FromListener { control, tunnel, bound }) => {
                let Some(seat) = self.controls.get_mut(&control) else { return };
                let name = seat.control.tunnel_name(tunnel).into();
                let reply = seat.control.on_bound(tunnel, bound);
                let client = seat.control.client;
                if let Some(reply) = reply {
                    let outcome = match &reply {
                        ServerMsg::TunnelReady { public, .. } => Ok(*public),
                        ServerMsg::TunnelRefused { code, .. } => Err(*code),
                        ServerMsg::NeedConn { .. }
                        | ServerMsg::Fin { .. }
                        | ServerMsg::Abort { .. }
                        | ServerMsg::Drain => unreachable!("a bind is answered by ready or refused"),
                    };
                    cx.sys.note(Note::Tunnel { client, tunnel, name, outcome });
                    self.send(cx, control, reply);
                }
            }
            ToServerMain::Stop => self.stop(cx),
        }
    }

    fn on_ready(&mut self, cx: &mut Cx<'_, S>, token: Token, ready: Readiness) {
        match self.slots.get_mut(token) {
            None => {}
            Some(Slot::Door(_)) => self.accept(cx, token),
            Some(Slot::Ctl(conn)) => {
                conn.link.port.on_ready(ready);
                self.drive_ctl(cx, token);
            }
            Some(Slot::Proxy(hand)) => {
                hand.port.on_ready(ready);
                self.drive_proxy(cx, token);
            }
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_, S>) {
        if self.paused_until.is_some_and(|at| at <= cx.now) {
            self.paused_until = None;
            for door in self.doors.clone() {
                self.enqueue(door);
            }
        }
        while let Some(token) = self.handshakes.pop_due(cx.now) {
            self.on_handshake_deadline(cx, token);
        }
        while let Some(token) = self.heartbeats.pop_due(cx.now) {
            self.on_heartbeat(cx, token);
        }
        while let Some(&(at, key)) = self.graces.first()
            && at <= cx.now
        {
            self.end_session(cx, key, CloseCode::Bye, AbortCode::SessionOver);
        }
        if let Some(stopping) = &self.stopping
            && stopping.until <= cx.now
            && !stopping.over
        {
            self.finish_stop(cx);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let stop = self.stopping.as_ref().filter(|stopping| !stopping.over).map(|stopping| stopping.until);
        let grace = self.graces.first().map(|&(at, _)| at);
        let timers = [self.handshakes.next(), self.heartbeats.next(), grace, self.paused_until, stop];
        timers.into_iter().flatten().min()
    }

    fn run_busy(&mut self, cx: &mut Cx<'_, S>) {
        for _ in 0..self.busy.len() {
            let Some(token) = self.busy.pop_front() else { return };
            match self.slots.get_mut(token) {
                Some(Slot::Door(door)) => {
                    door.queued = false;
                    self.accept(cx, token);
                }
                Some(Slot::Ctl(conn)) => {
                    conn.queued = false;
                    self.drive_ctl(cx, token);
                }
                Some(Slot::Proxy(_)) | None => {}
            }
        }
    }

    fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }
}

/// The ports and the handshakes.
impl<T, L> ServerMain<T, L> {
    fn accept<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        if self.paused_until.is_some() {
            // Both doors are tried when the pause is over.
            return;
        }
        let Some(Slot::Door(door)) = self.slots.get_mut(token) else { return };
        let role = door.role;
        let mut came = Vec::new();
        let end = accept_batch(cx.sys, &door.listener, role, |_, stream, from| came.push((stream, from)));
        for (stream, from) in came {
            self.on_connection(cx, role, stream, from);
        }
        match end {
            Ok(true) => self.enqueue(token),
            Ok(false) => {}
            Err(_) => self.paused_until = Some(cx.now + PAUSE),
        }
    }

    fn on_connection<S>(&mut self, cx: &mut Cx<'_, S>, role: Role, stream: T, from: SocketAddr)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        if self.handshakes.len() >= self.settings.max_handshakes as usize
            && let Some(oldest) = self.handshakes.pop_first()
        {
            self.drop_handshake(cx, oldest);
        }
        let made = self.slots.insert_with(|token| {
            if cx.sys.watch(&stream, token).is_err() {
                return Err(stream);
            }
            let port = Port::new(stream);
            Ok(match role {
                Role::Ctl => Slot::Ctl(Box::new(CtlConn {
                    link: CtlLink::new(port),
                    from,
                    stage: Stage::Preface(PrefaceReader::default()),
                    queued: false,
                    deadline: None,
                })),
                Role::Proxy | Role::Local | Role::Public => Slot::Proxy(ProxyHand {
                    port,
                    framer: Framer::default(),
                    reader: PrefaceReader::default(),
                    preface: None,
                    deadline: None,
                }),
            })
        });
        match made {
            Ok(token) => {
                let at = Some(cx.now + self.settings.timings.handshake_timeout);
                match self.slots.get_mut(token) {
                    Some(Slot::Ctl(conn)) => self.handshakes.set(token, &mut conn.deadline, at),
                    Some(Slot::Proxy(hand)) => self.handshakes.set(token, &mut hand.deadline, at),
                    Some(Slot::Door(_)) | None => {}
                }
            }
            Err(stream) => cx.sys.close(stream),
        }
    }

    /// The handshake's deadline entry was taken: forget the connection.
    fn drop_handshake<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Stream = T, Listener = L>,
    {
        match self.slots.remove(token) {
            Some(Slot::Ctl(conn)) => {
                if let Stage::Parked { rival, .. } = conn.stage
                    && let Some(seat) = self.controls.get_mut(&rival)
                {
                    seat.rival = None;
                }
                cx.sys.close(conn.link.port.stream);
            }
            Some(Slot::Proxy(hand)) => cx.sys.close(hand.port.stream),
            Some(Slot::Door(_)) | None => {}
        }
    }

    fn on_handshake_deadline<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let rival = match self.slots.get_mut(token) {
            Some(Slot::Ctl(conn)) => {
                conn.deadline = None;
                match &conn.stage {
                    Stage::Parked { rival, .. } => Some(*rival),
                    Stage::Preface(_) | Stage::Hello(_) | Stage::Proof(_) | Stage::Up(..) => None,
                }
            }
            Some(Slot::Proxy(_) | Slot::Door(_)) | None => None,
        };
        match rival {
            // The session with its identity did not answer the probe.
            Some(rival) => self.end_session(cx, rival, CloseCode::Replaced, AbortCode::SessionOver),
            None => self.drop_handshake(cx, token),
        }
    }

    fn drive_proxy<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let Some(Slot::Proxy(hand)) = self.slots.get_mut(token) else { return };
        let hello = match read_hello(cx, hand) {
            Ok(None) => return,
            Ok(Some(hello)) => Ok(hello),
            Err(refusal) => Err(refusal),
        };
        let Some(Slot::Proxy(mut hand)) = self.slots.remove(token) else { return };
        self.handshakes.set(token, &mut hand.deadline, None);
        let admitted = match hello {
            Ok(hello) => self.admit(&hello).map_err(Some),
            Err(refusal) => Err(refusal),
        };
        let mut answer = Vec::new();
        match (&admitted, hand.preface) {
            (_, None) => {}
            (Ok((_, proof, _)), Some(preface)) => {
                answer.extend_from_slice(&Reply::to(preface).encode());
                ProxyToClient::Accepted { proof: *proof }.encode_to(&mut answer);
            }
            (Err(None | Some(HandshakeRefusal::Version)), Some(preface)) => {
                answer.extend_from_slice(&Reply::to(preface).encode());
            }
            (Err(Some(refusal)), Some(preface)) => {
                answer.extend_from_slice(&Reply::to(preface).encode());
                ProxyToClient::Refused(*refusal).encode_to(&mut answer);
            }
        }
        // A fresh socket takes these few bytes whole, or the peer is not worth waiting for.
        let sent = answer.is_empty() || cx.sys.send(&hand.port.stream, &answer) == Ok(answer.len());
        match admitted {
            Ok((control, _, lane)) if sent => {
                cx.sys.unwatch(&hand.port.stream);
                let conn = hello_conn(hello);
                let message = ToServerLoop::Conn { control, conn, stream: hand.port.stream };
                cx.sys.tell(ToLane { lane, message });
            }
            Ok((control, _, lane)) => {
                cx.sys.close(hand.port.stream);
                if let Some(seat) = self.controls.get_mut(&control) {
                    seat.control.on_conn_lost(hello_conn(hello), lane);
                }
            }
            Err(_) => cx.sys.close(hand.port.stream),
        }
    }

    fn admit(&mut self, hello: &ConnHello) -> Result<(ControlKey, crate::wire::Proof, usize), HandshakeRefusal> {
        let key = self.by_session.get(&hello.session).ok_or(HandshakeRefusal::UnknownSession)?;
        let seat = self.controls.get_mut(key).ok_or(HandshakeRefusal::UnknownSession)?;
        let (proof, lane) = seat.control.admit(hello)?;
        Ok((*key, proof, lane))
    }
}

/// ctl_conns and sessions.
impl<T, L> ServerMain<T, L> {
    /// Reads, acts on and answers what came on a ctl_conn.
    fn drive_ctl<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let mut bytes = Vec::new();
        for reads in 0.. {
            let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return };
            if !conn.link.port.readable {
                break;
            }
            if reads == READS {
                self.enqueue(token);
                break;
            }
            match conn.link.port.recv(cx.sys, cx.scratch) {
                Ok(0) => return self.stop_ctl(cx, token, Stop::Lost),
                Ok(n) => {
                    bytes.clear();
                    bytes.extend_from_slice(&cx.scratch[..n]);
                }
                Err(SysError::WouldBlock) => break,
                Err(_) => return self.stop_ctl(cx, token, Stop::Lost),
            }
            if let Err(stop) = self.on_bytes(cx, token, &bytes) {
                return self.stop_ctl(cx, token, stop);
            }
        }
        if let Some(Slot::Ctl(conn)) = self.slots.get_mut(token)
            && conn.link.flush(cx.sys).is_err()
        {
            self.stop_ctl(cx, token, Stop::Lost);
        }
    }

    fn on_bytes<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, mut bytes: &[u8]) -> Result<(), Stop>
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        while !bytes.is_empty() {
            let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return Ok(()) };
            if let Stage::Preface(reader) = &mut conn.stage {
                let Some(preface) = reader.next(&mut bytes).map_err(|_| Stop::Lost)? else { return Ok(()) };
                if preface.port != Kind::Ctl {
                    return Err(Stop::Lost);
                }
                let reply = Reply::to(preface);
                conn.link.push_bytes(&reply.encode());
                if let Some(refusal) = reply.refusal() {
                    cx.sys.note(Note::HandshakeRefused { from: conn.from, refusal });
                    return Err(Stop::Lost);
                }
                conn.stage = Stage::Hello(preface);
                continue;
            }
            if let Stage::Parked { .. } = conn.stage {
                // It must wait for its welcome.
                return Err(Stop::Lost);
            }
            match conn.link.framer.next(&mut bytes) {
                Ok(Some(message)) => self.on_frame(cx, token, message)?,
                Ok(None) => {}
                Err(_) => return Err(Violation::Malformed.into()),
            }
        }
        Ok(())
    }

    fn on_frame<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, message: ToServer) -> Result<(), Stop>
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return Ok(()) };
        match (&mut conn.stage, message) {
            (Stage::Hello(preface), Ctl::Handshake(ClientHandshake::Hello(hello))) => {
                let mut nonce = [0; 32];
                cx.sys.random(&mut nonce);
                let loopback = conn.from.ip().to_canonical().is_loopback();
                let (challenge, answer) = Challenge::new(&self.settings, loopback, *preface, hello, nonce)?;
                conn.link.push(&answer);
                conn.stage = Stage::Proof(challenge);
                Ok(())
            }
            (Stage::Proof(challenge), Ctl::Handshake(ClientHandshake::Proof(proof))) => {
                let access = challenge.check(&self.settings, &proof)?;
                let challenge = challenge.clone();
                self.on_proved(cx, token, challenge, access)
            }
            (Stage::Up(key, liveness), message) => {
                let key = *key;
                liveness.on_heard(cx.now);
                let next = Some(liveness.next_deadline());
                self.heartbeats.set(token, &mut conn.deadline, next);
                self.refuse_rival(cx, key);
                self.on_session_frame(cx, key, message)
            }
            (Stage::Preface(_) | Stage::Hello(_) | Stage::Proof(_) | Stage::Parked { .. }, _) => {
                Err(Violation::Unexpected.into())
            }
        }
    }

    /// A client has proved itself: resume, replace, probe, or begin a session.
    fn on_proved<S>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        challenge: Challenge,
        access: Access,
    ) -> Result<(), Stop>
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let hello = &challenge.hello;
        if let Some(resume) = hello.resume
            && let Some(&key) = self.by_session.get(&resume.session)
            && let Some(seat) = self.controls.get(&key)
            && (seat.control.client, seat.control.credential) == (hello.client, access.credential)
        {
            return self.resume(cx, token, key, resume.received, &access);
        }
        if self.stopping.is_some() {
            return Err(HandshakeRefusal::Stopping.into());
        }
        if let Some(&rival) = self.by_client.get(&hello.client)
            && let Some(seat) = self.controls.get_mut(&rival)
        {
            match seat.at {
                _ if seat.control.credential != access.credential => return Err(HandshakeRefusal::IdentityInUse.into()),
                Ok(_) if seat.rival.is_some() => return Err(HandshakeRefusal::IdentityInUse.into()),
                Ok(link) => {
                    seat.rival = Some(token);
                    let received = seat.control.session.tell();
                    if let Some(Slot::Ctl(conn)) = self.slots.get_mut(link) {
                        conn.link.push(&Ctl::<ServerHandshake, ServerMsg>::Ping { received });
                        self.enqueue(link);
                    }
                    if let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) {
                        conn.stage = Stage::Parked { challenge, access, rival };
                        self.handshakes.set(token, &mut conn.deadline, Some(cx.now + PROBE));
                    }
                    return Ok(());
                }
                Err(_) => self.end_session(cx, rival, CloseCode::Replaced, AbortCode::SessionOver),
            }
        }
        self.begin(cx, token, &challenge, &access)
    }

    /// A new session.
    fn begin<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, challenge: &Challenge, access: &Access) -> Result<(), Stop>
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        if self.stopping.is_some() {
            return Err(HandshakeRefusal::Stopping.into());
        }
        if self.controls.len() >= self.settings.max_sessions as usize {
            return Err(HandshakeRefusal::Full.into());
        }
        let mut id = [0; 16];
        cx.sys.random(&mut id);
        let id = SessionId(id);
        let key = ControlKey(self.next_key);
        self.next_key += 1;
        let secret = access.session_key(&self.settings, id);
        let scope = access.scope(&self.settings).clone();
        let lanes = u32::try_from(self.lanes).unwrap_or(u32::MAX);
        let limits = Limits {
            keep: self.settings.idle_conns.div_ceil(lanes),
            max_waiting: scope.max_waiting.div_ceil(lanes),
            max_connections: scope.max_connections.div_ceil(lanes),
        };
        let client = challenge.hello.client;
        let control = Control::new(key, id, client, access.credential, secret, scope, self.lanes);
        self.controls.insert(key, Seat { control, at: Ok(token), rival: None });
        self.by_session.insert(id, key);
        self.by_client.insert(client, key);
        for lane in 0..self.lanes {
            cx.sys.tell(ToLane { lane, message: ToServerLoop::Open { control: key, limits } });
        }
        self.welcome(cx, token, key, access, false);
        Ok(())
    }

    /// A session goes on over a new ctl_conn.
    fn resume<S>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        key: ControlKey,
        received: u64,
        access: &Access,
    ) -> Result<(), Stop>
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let Some(seat) = self.controls.get_mut(&key) else { return Err(Stop::Lost) };
        seat.control.session.on_ack(received)?;
        match core::mem::replace(&mut seat.at, Ok(token)) {
            Ok(old) => {
                if let Some(Slot::Ctl(mut conn)) = self.slots.remove(old) {
                    self.heartbeats.set(old, &mut conn.deadline, None);
                    cx.sys.close(conn.link.port.stream);
                }
            }
            Err(grace) => {
                self.graces.remove(&(grace, key));
            }
        }
        self.welcome(cx, token, key, access, true);
        self.refuse_rival(cx, key);
        Ok(())
    }

    fn welcome<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, key: ControlKey, access: &Access, resumed: bool)
    where
        S: Listen<Stream = T, Listener = L>,
    {
        let Some(seat) = self.controls.get_mut(&key) else { return };
        let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return };
        self.handshakes.set(token, &mut conn.deadline, None);
        let timings = &self.settings.timings;
        let liveness = Liveness::new(cx.now, timings.heartbeat_interval, timings.heartbeat_timeout);
        let next = Some(liveness.next_deadline());
        self.heartbeats.set(token, &mut conn.deadline, next);
        conn.stage = Stage::Up(key, liveness);
        let control = &mut seat.control;
        let received = control.session.tell();
        let welcome = Welcome { session: control.id, resumed, received, proxy_port: self.proxy_port, proof: [0; 32] };
        conn.link.push(&access.welcome(&self.settings, welcome));
        for (seq, msg) in control.session.replay() {
            conn.link.push(&Ctl::<ServerHandshake, _>::Numbered { seq, msg: msg.clone() });
        }
        cx.sys.note(Note::SessionUp { client: control.client, from: conn.from, resumed });
        self.enqueue(token);
    }

    /// A session has shown that it lives: a newcomer with its identity is refused.
    fn refuse_rival<S>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let rival = self.controls.get_mut(&key).and_then(|seat| seat.rival.take());
        if let Some(rival) = rival {
            self.stop_ctl(cx, rival, Stop::Refused(HandshakeRefusal::IdentityInUse));
        }
    }

    fn on_session_frame<S>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey, message: ToServer) -> Result<(), Stop>
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let Some(seat) = self.controls.get_mut(&key) else { return Ok(()) };
        let session = &mut seat.control.session;
        match message {
            Ctl::Numbered { seq, msg } => {
                let Arrival::Deliver { ack } = session.on_numbered(seq)? else { return Ok(()) };
                if ack {
                    let received = session.tell();
                    self.push(key, &Ctl::Ack { received });
                }
                self.on_client_msg(cx, key, msg)
            }
            Ctl::Ping { received } => {
                session.on_ack(received)?;
                let received = session.tell();
                self.push(key, &Ctl::Pong { received });
                Ok(())
            }
            Ctl::Pong { received } | Ctl::Ack { received } => Ok(session.on_ack(received)?),
            Ctl::Close { code } => Err(Stop::Session(code)),
            Ctl::Handshake(_) => Err(Violation::Unexpected.into()),
        }
    }

    fn on_client_msg<S>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey, msg: crate::wire::ClientMsg) -> Result<(), Stop>
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let Some(seat) = self.controls.get_mut(&key) else { return Ok(()) };
        let random = random_u32(cx.sys);
        match seat.control.on_msg(msg, random)? {
            Reaction::Nothing => {}
            Reaction::Reply(reply) => self.send(cx, key, reply),
            // No more visitors: the answer is the end of the session, soon.
            Reaction::Bind(..) if self.stopping.is_some() => {}
            Reaction::Bind(tunnel, ports) => {
                cx.sys.tell(ToListener::Bind { control: key, tunnel, ip: self.bind_ip, ports });
            }
            Reaction::Unbind(tunnels) => {
                for tunnel in tunnels {
                    self.unbind(cx, key, tunnel);
                }
            }
            Reaction::Pass(lane, msg) => {
                cx.sys.tell(ToLane { lane, message: ToServerLoop::Message { control: key, msg } });
            }
            Reaction::Failed(shares) => {
                for (lane, count) in shares {
                    let msg = crate::wire::ClientMsg::ConnFailed { count };
                    cx.sys.tell(ToLane { lane, message: ToServerLoop::Message { control: key, msg } });
                }
            }
        }
        Ok(())
    }

    fn unbind<S>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, tunnel: TunnelId)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        cx.sys.tell(ToListener::Close { control, tunnel });
        for lane in 0..self.lanes {
            let message = ToServerLoop::CloseTunnel { control, tunnel: Some(tunnel) };
            cx.sys.tell(ToLane { lane, message });
        }
    }

    fn on_loop<S>(&mut self, cx: &mut Cx<'_, S>, message: FromServerLoop)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        match message {
            FromServerLoop::Message { control, msg } => self.send(cx, control, msg),
            FromServerLoop::Ask { control, lane, count } => {
                if let Some(seat) = self.controls.get_mut(&control) {
                    let msg = seat.control.on_ask(lane, count);
                    self.send(cx, control, msg);
                }
            }
            FromServerLoop::ConnGone { control, conn } => {
                if let Some(seat) = self.controls.get_mut(&control) {
                    seat.control.on_conn_gone(conn);
                }
            }
            FromServerLoop::Violation { control, .. } => {
                self.end_session(cx, control, CloseCode::Violation, AbortCode::SessionOver);
            }
            FromServerLoop::Drained { lane } => {
                if let Some(stopping) = &mut self.stopping {
                    stopping.drained.insert(lane);
                    if stopping.drained.len() == self.lanes && !stopping.over {
                        self.finish_stop(cx);
                    }
                }
            }
        }
    }

    /// Numbers a message and sends it, now or when the session is resumed.
    fn send<S>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey, msg: ServerMsg)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let Some(seat) = self.controls.get_mut(&key) else { return };
        match seat.control.session.send(msg.clone()) {
            Ok(seq) => self.push(key, &Ctl::Numbered { seq, msg }),
            Err(violation) => {
                cx.sys.note(Note::Violation { conn: None, violation });
                self.end_session(cx, key, CloseCode::Violation, AbortCode::SessionOver);
            }
        }
    }

    /// Queues a message on a session's ctl_conn, if it has one; it goes out with the rest of the batch.
    fn push(&mut self, key: ControlKey, message: &crate::wire::ToClient) {
        let Some(Ok(token)) = self.controls.get(&key).map(|seat| seat.at) else { return };
        if let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) {
            conn.link.push(message);
            self.enqueue(token);
        }
    }

    fn on_heartbeat<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return };
        conn.deadline = None;
        let Stage::Up(key, liveness) = &mut conn.stage else { return };
        let key = *key;
        let pulse = liveness.on_deadline(cx.now);
        let next = Some(liveness.next_deadline());
        if pulse == Pulse::Dead {
            return self.stop_ctl(cx, token, Stop::Lost);
        }
        self.heartbeats.set(token, &mut conn.deadline, next);
        if pulse == Pulse::Ping
            && let Some(seat) = self.controls.get_mut(&key)
        {
            let received = seat.control.session.tell();
            self.push(key, &Ctl::Ping { received });
        }
    }

    /// A connection on the ctl port goes no further.
    fn stop_ctl<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, stop: Stop)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return };
        let up = match conn.stage {
            Stage::Up(key, _) => Some(key),
            Stage::Preface(_) | Stage::Hello(_) | Stage::Proof(_) | Stage::Parked { .. } => None,
        };
        if let Stop::Violation(violation) = stop {
            cx.sys.note(Note::Violation { conn: None, violation });
        }
        match (up, stop) {
            (Some(key), Stop::Session(code)) => self.end_session(cx, key, code, AbortCode::SessionOver),
            (Some(key), Stop::Violation(_)) => self.end_session(cx, key, CloseCode::Violation, AbortCode::SessionOver),
            (Some(key), Stop::Lost | Stop::Refused(_)) => self.detach(cx, token, key),
            (None, stop) => {
                if let Stop::Refused(refusal) = stop {
                    cx.sys.note(Note::HandshakeRefused { from: conn.from, refusal });
                    conn.link.push(&Ctl::<_, ServerMsg>::Handshake(ServerHandshake::Refused(refusal)));
                }
                let Some(Slot::Ctl(mut conn)) = self.slots.remove(token) else { return };
                self.handshakes.set(token, &mut conn.deadline, None);
                if let Stage::Parked { rival, .. } = conn.stage
                    && let Some(seat) = self.controls.get_mut(&rival)
                {
                    seat.rival = None;
                }
                conn.link.close(cx.sys);
            }
        }
    }

    /// A session has lost its ctl_conn: it waits for a resume, unless a newcomer is there to replace it.
    fn detach<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, key: ControlKey)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        if let Some(Slot::Ctl(mut conn)) = self.slots.remove(token) {
            self.heartbeats.set(token, &mut conn.deadline, None);
            cx.sys.close(conn.link.port.stream);
        }
        let Some(seat) = self.controls.get_mut(&key) else { return };
        cx.sys.note(Note::SessionDetached { client: seat.control.client });
        let until = cx.now + self.settings.timings.session_grace;
        seat.at = Err(until);
        self.graces.insert((until, key));
        if seat.rival.is_some() {
            self.end_session(cx, key, CloseCode::Replaced, AbortCode::SessionOver);
        }
    }

    /// Ends a session: ports, conns and visitors go with it, and a newcomer that waited for that comes in.
    fn end_session<S>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey, close: CloseCode, code: AbortCode)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let Some(seat) = self.controls.remove(&key) else { return };
        self.by_session.remove(&seat.control.id);
        if self.by_client.get(&seat.control.client) == Some(&key) {
            self.by_client.remove(&seat.control.client);
        }
        cx.sys.note(Note::SessionOver { client: seat.control.client, code: close });
        for tunnel in seat.control.tunnels() {
            cx.sys.tell(ToListener::Close { control: key, tunnel });
        }
        for lane in 0..self.lanes {
            cx.sys.tell(ToLane { lane, message: ToServerLoop::Close { control: key, code } });
        }
        match seat.at {
            Err(grace) => {
                self.graces.remove(&(grace, key));
            }
            Ok(token) => {
                if let Some(Slot::Ctl(mut conn)) = self.slots.remove(token) {
                    self.heartbeats.set(token, &mut conn.deadline, None);
                    conn.link.push(&Ctl::<ServerHandshake, ServerMsg>::Close { code: close });
                    conn.link.close(cx.sys);
                }
            }
        }
        if let Some(rival) = seat.rival
            && let Some(Slot::Ctl(conn)) = self.slots.get_mut(rival)
            && let Stage::Parked { challenge, access, .. } = &conn.stage
        {
            let (challenge, access) = (challenge.clone(), access.clone());
            if let Err(stop) = self.begin(cx, rival, &challenge, &access) {
                self.stop_ctl(cx, rival, stop);
            }
        }
    }

    /// The user asks to stop: no new visitors and sessions, transfers may finish for `drain_timeout`.
    fn stop<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        if self.stopping.is_some() {
            return;
        }
        let until = cx.now + self.settings.timings.drain_timeout;
        self.stopping = Some(Stopping { until, drained: BTreeSet::new(), over: false });
        let keys: Vec<_> = self.controls.keys().copied().collect();
        for key in keys {
            let tunnels: Vec<_> =
                self.controls.get(&key).map(|seat| seat.control.tunnels().collect()).unwrap_or_default();
            for tunnel in tunnels {
                cx.sys.tell(ToListener::Close { control: key, tunnel });
            }
            self.send(cx, key, ServerMsg::Drain);
        }
        for lane in 0..self.lanes {
            cx.sys.tell(ToLane { lane, message: ToServerLoop::Drain });
        }
    }

    fn finish_stop<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Listen<Stream = T, Listener = L> + Tell<ToLane<ToServerLoop<T>>> + Tell<ToListener>,
    {
        let keys: Vec<_> = self.controls.keys().copied().collect();
        for key in keys {
            self.end_session(cx, key, CloseCode::Stopping, AbortCode::Stopping);
        }
        for lane in 0..self.lanes {
            cx.sys.tell(ToLane { lane, message: ToServerLoop::Stop });
        }
        let tokens: Vec<_> = self.slots.keys().collect();
        for token in tokens {
            match self.slots.remove(token) {
                Some(Slot::Door(door)) => cx.sys.unlisten(door.listener),
                Some(Slot::Ctl(conn)) => conn.link.close(cx.sys),
                Some(Slot::Proxy(hand)) => cx.sys.close(hand.port.stream),
                None => {}
            }
        }
        self.handshakes = Timers::default();
        self.heartbeats = Timers::default();
        if let Some(stopping) = &mut self.stopping {
            stopping.over = true;
        }
    }
}

fn hello_conn(hello: Result<ConnHello, Option<HandshakeRefusal>>) -> crate::ids::ConnId {
    hello.expect("only a hello is admitted").conn
}

/// Reads up to a proxy_conn's hello. `Err(None)`: not ours, or lost: no word.
fn read_hello<T, S>(cx: &mut Cx<'_, S>, hand: &mut ProxyHand<T>) -> Result<Option<ConnHello>, Option<HandshakeRefusal>>
where
    S: Listen<Stream = T>,
{
    while hand.port.readable {
        let length = match hand.port.recv(cx.sys, &mut cx.scratch[..512]) {
            Ok(0) => return Err(None),
            Ok(n) => n,
            Err(SysError::WouldBlock) => return Ok(None),
            Err(_) => return Err(None),
        };
        let mut bytes = &cx.scratch[..length];
        if hand.preface.is_none() {
            let Some(preface) = hand.reader.next(&mut bytes).map_err(|_| None)? else { continue };
            if preface.port != Kind::Proxy {
                return Err(None);
            }
            hand.preface = Some(preface);
            if Reply::to(preface).refusal().is_some() {
                return Err(Some(HandshakeRefusal::Version));
            }
        }
        match hand.framer.next(&mut bytes) {
            Ok(None) => {}
            // Nothing may follow the hello before it is accepted.
            Ok(Some(ProxyToServer::Hello(hello))) if bytes.is_empty() => return Ok(Some(hello)),
            Ok(Some(_)) | Err(_) => {
                hand.preface = None;
                return Err(None);
            }
        }
    }
    Ok(None)
}
