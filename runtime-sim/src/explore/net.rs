//! The system under the drivers, small enough to be part of a hashed state: connections with their bytes in
//! flight, pipes, and the outer peers (visitors and LocalServers) with what they sent and got.
//!
//! Between two drivers each direction is an ordered queue of segments, delivered one by one or together, as an
//! action of the explorer. Outer peers have no queue: what they send arrives at once, and what is sent to them is
//! read at once, because nobody can see the time between and their choices do not depend on what they read. Only a
//! reset shows that time, since it drops what is not acknowledged: for it one side's peers may take late (`Net::late`).
//!
//! Checks here (names as in the design's list): every socket and pipe closed exactly once; nothing written after a
//! shutdown; SHUT_WR once; a clean end means equal length and content; delivered bytes are a prefix of those sent;
//! cross-talk and frames delivered as payload are seen by the byte.
//!
//! It is not one with `fuzz/src/net.rs`, because here both ends are drivers and the net is part of a state that is
//! copied, hashed and compared, while there one process meets a hostile peer's bytes, in one run that is changed in
//! place and must be fast. Edit this one for what the explorer interleaves, that one for what a fuzz input may do to
//! a process; a new call of the drivers goes into both.

mod kernel;
mod outer;

use super::fingerprint::{Part, Parts};
use super::story::{Party, Story};
use protocol_sm::driver::messages::{
    FromClientLoop, FromListener, FromServerLoop, ToClientLoop, ToListener, ToServerLoop,
};
use protocol_sm::driver::{Lookup, Note, Readiness, Role, SysError, Token};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The ctl port.
pub(super) const CTL_PORT: u16 = 8080;
/// The proxy port.
pub(super) const PROXY_PORT: u16 = 8090;
/// The public port.
pub(super) const PUBLIC_PORT: u16 = 6000;
/// The LocalServer's port.
pub(super) const LOCAL_PORT: u16 = 7777;
/// Visitor `i` comes from port `VISITORS + i`.
pub(super) const VISITORS: u16 = 1000;

/// An address of the only host.
pub(super) fn at(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// One end of a connection: connection `0 / 2`, end `0 % 2`. End 0 connected, end 1 accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct End(u16);

impl End {
    fn new(conn: usize, side: usize) -> Self {
        Self(u16::try_from(conn * 2 + side).expect("few connections"))
    }

    /// The connection's number.
    pub(super) fn conn(self) -> usize {
        usize::from(self.0 / 2)
    }

    fn side(self) -> usize {
        usize::from(self.0 % 2)
    }

    /// The other end.
    pub(super) fn other(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// A driver's stream. Not `Copy`: a driver hands it back once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stream(pub(super) End);

/// A driver's pipe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pipe(u16);

/// A driver's listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Door(u16);

/// Whose driver it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// The server's main thread.
    ServerMain,
    /// The server's event loop.
    ServerLoop,
    /// The server's listening thread.
    Listener,
    /// The client's main thread; of the n-th client process.
    ClientMain(u8),
    /// The client's event loop; of the n-th client process.
    ClientLoop(u8),
}

impl Who {
    /// Its column in charts.
    pub(super) fn party(self) -> Party {
        match self {
            Self::ServerMain | Self::ServerLoop | Self::Listener => Party::Server,
            Self::ClientMain(_) | Self::ClientLoop(_) => Party::Client,
        }
    }
}

/// What travels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    Bytes(Vec<u8>),
    Fin,
    Rst,
}

/// Who holds an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    /// A driver, which is told of readiness under this token, if it watches.
    Driver(Who, Option<Token>),
    /// An outer peer.
    Peer,
    /// The kernel, until it is accepted.
    Backlog,
    /// Nobody any more.
    Closed,
}

/// What is known at one end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Socket {
    holder: Holder,
    /// Arrived and not read.
    arrived: Vec<u8>,
    /// The peer's end of stream has arrived, behind `arrived`.
    ended: bool,
    /// An error to be taken, once.
    error: Option<SysError>,
    /// Segments in flight to this end.
    coming: VecDeque<Segment>,
    /// Its own end of stream was sent.
    shut: bool,
    /// It was reset: sends fail.
    dead: bool,
    connecting: bool,
    /// A send would have blocked since room was last reported.
    blocked: bool,
    /// Readiness that was not yet reported to its driver.
    ready: Readiness,
}

impl Socket {
    fn new(holder: Holder) -> Self {
        Self {
            holder,
            arrived: Vec::new(),
            ended: false,
            error: None,
            coming: VecDeque::new(),
            shut: false,
            dead: false,
            connecting: false,
            blocked: false,
            ready: Readiness::default(),
        }
    }

    /// How many bytes more may be sent to it.
    fn room(&self, window: Window) -> usize {
        if window == Window::WIDE {
            return usize::MAX;
        }
        let bytes = |segment: &Segment| match segment {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::Fin | Segment::Rst => 0,
        };
        let unread = usize::from(!self.arrived.is_empty());
        let segments = self.coming.iter().filter(|segment| bytes(segment) > 0).count() + unread;
        if segments >= window.segments {
            return 0;
        }
        window.bytes.saturating_sub(self.coming.iter().map(bytes).sum::<usize>() + self.arrived.len())
    }

    fn is_pending(&self) -> bool {
        self.ready != Readiness::default()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Connection {
    role: Role,
    /// A number that no other connection has; 0 for outer ones.
    serial: u32,
    /// Which visit's outer connection it is; a local_conn learns it right after it was dialled.
    visit: Option<u8>,
    /// A fault has hit it.
    lost: bool,
    ends: [Socket; 2],
}

/// Which outer peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The PublicClient.
    Visitor,
    /// The LocalServer.
    Local,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Visitor => Self::Local,
            Self::Local => Self::Visitor,
        }
    }
}

/// One outer peer of a visit, and what it has seen: the reference that the drivers are held against.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    /// Its connection, from when it exists until both its ends are closed.
    pub(super) end: Option<End>,
    /// A LocalServer's connection that is being dialled.
    pub(super) dialling: bool,
    pub(super) sent: u16,
    pub(super) fin: bool,
    pub(super) got: u16,
    pub(super) eof: bool,
    /// It reset its connection.
    pub(super) left: bool,
    /// Its connection was reset by the other side.
    pub(super) was_reset: bool,
    /// Sent to it and not acknowledged, where it takes late: bytes, and then perhaps an end.
    pub(super) held: Vec<u8>,
    pub(super) held_fin: bool,
}

impl Peer {
    /// Both directions ended in good order.
    pub(super) fn is_complete(&self) -> bool {
        self.fin && self.eof
    }

    /// What the kernel of the other side holds for it.
    pub(super) fn unacknowledged(&self) -> usize {
        self.held.len() + usize::from(self.held_fin)
    }

    /// It can still act.
    pub(super) fn is_open(&self) -> bool {
        self.end.is_some() && !self.dialling && !self.left && !self.was_reset
    }
}

/// One visitor and its LocalServer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Visit {
    pub(super) came: bool,
    pub(super) visitor: Peer,
    pub(super) local: Peer,
    /// The connection and the epoch that carry it.
    pub(super) carrier: Option<(u32, u32)>,
    /// Its LocalServer was dialled.
    pub(super) served: bool,
    /// Something happened that may cut it short.
    pub(super) doomed: bool,
    /// What its visitor says before bytes of its own: for which host it comes.
    pub(super) head: &'static [u8],
    /// The server has told its visitor itself that it is nobody's.
    pub(super) answered: bool,
}

impl Visit {
    /// Both directions ended in good order, and both peers know.
    pub(super) fn is_complete(&self) -> bool {
        self.visitor.is_complete() && self.local.is_complete()
    }

    /// Bytes that arrived.
    pub(super) fn bytes(&self) -> usize {
        usize::from(self.visitor.got) + usize::from(self.local.got)
    }

    /// Whether all was said that names the host.
    pub(super) fn is_named(&self) -> bool {
        usize::from(self.visitor.sent) >= self.head.len()
    }

    pub(super) fn peer(&mut self, side: Side) -> &mut Peer {
        match side {
            Side::Visitor => &mut self.visitor,
            Side::Local => &mut self.local,
        }
    }
}

/// The byte at `offset` of what `side` of visit `visit` sends, behind a head: says where it belongs. The first eight are
/// unique.
pub(super) fn payload(visit: usize, side: Side, offset: usize) -> u8 {
    let side = usize::from(side == Side::Local);
    let byte = if offset < 8 {
        0x80 | side << 6 | (visit & 7) << 3 | offset
    } else {
        (visit * 31 + side * 17 + offset * 7 + (offset >> 8) * 13) & 0xff
    };
    u8::try_from(byte).expect("masked")
}

/// Listening sockets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Listening {
    port: u16,
    who: Who,
    token: Token,
    backlog: VecDeque<End>,
}

/// What fits between two drivers per direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Bytes sent and not read.
    pub bytes: usize,
    /// Calls of `send` whose bytes were not read.
    pub segments: usize,
}

impl Window {
    /// No limit.
    pub const WIDE: Self = Self { bytes: usize::MAX, segments: usize::MAX };
}

/// The whole net.
#[derive(Clone, Debug, Hash)]
pub(super) struct Net {
    conns: Vec<Option<Part<Connection>>>,
    pipes: Vec<Option<Vec<u8>>>,
    doors: Vec<Option<Listening>>,
    /// Numbers drawn, where randomness is only for names.
    draws: u32,
    /// Connections made between drivers.
    made: u32,
    pub(super) visits: Vec<Visit>,
    /// A peer has broken the protocol: more may come than was sent, but never a clean end behind it.
    pub(super) hostile: bool,
    window: Window,
    /// What a pipe holds; 0: no pipes.
    pipe_capacity: usize,
    /// Outer peers who acknowledge and read what is sent to them later.
    pub(super) late: Option<Side>,
}

/// What a driver did besides its calls, in order.
#[derive(Debug)]
pub(super) enum Told {
    FromServerLoop(FromServerLoop<Stream>),
    FromClientLoop(FromClientLoop),
    ToServerLoop(ToServerLoop<Stream>),
    ToClientLoop(ToClientLoop),
    ToListener(ToListener<Stream>),
    FromListener(FromListener),
    Resolve(Lookup),
    Note(Note),
}

/// What the drivers see.
pub(super) struct Kernel<'a> {
    pub(super) net: &'a mut Net,
    pub(super) who: Who,
    pub(super) told: &'a mut Vec<Told>,
    pub(super) story: &'a mut Story,
}

impl Net {
    pub(super) fn new(visits: usize, window: Window, pipe_capacity: usize) -> Self {
        Self {
            conns: Vec::new(),
            pipes: Vec::new(),
            doors: Vec::new(),
            draws: 0,
            made: 0,
            visits: vec![Visit::default(); visits],
            hostile: false,
            window,
            pipe_capacity,
            late: None,
        }
    }

    /// Shares the connections with other states.
    pub(super) fn share(&mut self, parts: &mut Parts) {
        self.conns.iter_mut().flatten().for_each(|conn| parts.share(conn));
    }

    fn conn(&self, end: End) -> &Connection {
        self.conns.get(end.conn()).and_then(Option::as_ref).expect("every fd closed exactly once: it is gone")
    }

    fn conn_mut(&mut self, end: End) -> &mut Connection {
        let conn = self.conns.get_mut(end.conn()).and_then(Option::as_mut);
        conn.expect("every fd closed exactly once: it is gone").change()
    }

    fn sock(&self, end: End) -> &Socket {
        &self.conn(end).ends[end.side()]
    }

    fn sock_mut(&mut self, end: End) -> &mut Socket {
        &mut self.conn_mut(end).ends[end.side()]
    }

    fn add(&mut self, role: Role, from: Holder, to: Holder) -> End {
        let inner = matches!(role, Role::Ctl | Role::Proxy);
        self.made += u32::from(inner);
        let serial = if inner { self.made } else { 0 };
        let conn = Connection { role, serial, visit: None, lost: false, ends: [Socket::new(from), Socket::new(to)] };
        let free = self.conns.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        self.conns[index] = Some(Part::new(conn));
        End::new(index, 0)
    }

    /// Forgets a connection that neither end holds any more.
    fn sweep(&mut self, end: End) {
        let conn = self.conn(end);
        if conn.ends.iter().all(|sock| sock.holder == Holder::Closed) {
            self.conns[end.conn()] = None;
        }
    }

    /// Connections that exist.
    pub(super) fn open(&self) -> usize {
        self.conns.iter().flatten().count()
    }

    /// Pipes handed out.
    pub(super) fn pipes(&self) -> usize {
        self.pipes.iter().flatten().count()
    }

    /// Whether somebody listens at this port.
    pub(super) fn listens(&self, port: u16) -> bool {
        self.doors.iter().flatten().any(|door| door.port == port)
    }

    /// Connections between two drivers on which neither end is closed: a fault may hit them.
    pub(super) fn links(&self) -> impl Iterator<Item = (End, Role)> {
        self.live().filter_map(|(index, conn)| {
            let driven = |sock: &Socket| matches!(sock.holder, Holder::Driver(..));
            (conn.ends.iter().all(driven) && !conn.lost).then(|| (End::new(index, 0), conn.role))
        })
    }

    fn live(&self) -> impl Iterator<Item = (usize, &Connection)> {
        self.conns.iter().enumerate().filter_map(|(index, conn)| Some((index, &**conn.as_ref()?)))
    }

    /// Ends with something in flight to them, how many segments, and whether a reset is not the first of them.
    pub(super) fn deliverable(&self) -> impl Iterator<Item = (End, usize, bool)> {
        self.live().flat_map(|(index, conn)| {
            conn.ends.iter().enumerate().filter_map(move |(side, sock)| {
                let coming = &sock.coming;
                let hasty = coming.len() > 1 && coming.back() == Some(&Segment::Rst);
                let held = matches!(sock.holder, Holder::Driver(..));
                (held && !coming.is_empty()).then(|| (End::new(index, side), coming.len(), hasty))
            })
        })
    }

    /// Ends with readiness to report.
    pub(super) fn pending(&self) -> impl Iterator<Item = End> {
        self.live().flat_map(|(index, conn)| {
            let ends = conn.ends.iter().enumerate();
            ends.filter(|(_, sock)| sock.is_pending()).map(move |(side, _)| End::new(index, side))
        })
    }

    /// Takes the readiness to report of an end: whom to tell, and under which token.
    pub(super) fn take_ready(&mut self, end: End) -> Option<(Who, Token, Readiness)> {
        let sock = self.sock_mut(end);
        let ready = std::mem::take(&mut sock.ready);
        match sock.holder {
            Holder::Driver(who, Some(token)) => Some((who, token, ready)),
            Holder::Driver(_, None) | Holder::Peer | Holder::Backlog | Holder::Closed => None,
        }
    }

    /// The connection's number, which no other has.
    pub(super) fn serial(&self, end: End) -> u32 {
        self.conn(end).serial
    }

    /// Who holds an end, if it is a driver.
    pub(super) fn holder(&self, end: End) -> Option<Who> {
        match self.sock(end).holder {
            Holder::Driver(who, _) => Some(who),
            Holder::Peer | Holder::Backlog | Holder::Closed => None,
        }
    }

    /// Visits that a connection carries may be cut short.
    pub(super) fn doom(&mut self, end: End) {
        let serial = self.serial(end);
        for visit in &mut self.visits {
            visit.doomed |= visit.carrier.is_some_and(|(carrier, _)| carrier == serial);
        }
    }

    /// Whether the end was reset or lost, or its connection was.
    pub(super) fn is_lost(&self, end: End) -> bool {
        self.conn(end).lost
    }

    /// Whether something has arrived at an end and is unread.
    pub(super) fn has_arrived(&self, end: End) -> bool {
        !self.sock(end).arrived.is_empty()
    }

    /// Whether nothing is in flight to or unread at an end.
    pub(super) fn is_silent(&self, end: End) -> bool {
        let sock = self.sock(end);
        sock.coming.is_empty() && sock.arrived.is_empty()
    }

    /// The first `count` segments in flight arrive; with `hasty`, a reset overtakes what was sent before it.
    pub(super) fn arrive(&mut self, end: End, count: usize, hasty: bool, story: &mut Story) {
        let (from, to) = self.parties(end);
        let sock = self.sock_mut(end);
        if hasty {
            sock.coming.drain(..sock.coming.len() - 1);
        }
        for segment in sock.coming.drain(..count.min(sock.coming.len())) {
            story.arrow(from, to, || format!("#{} {}", end.conn(), describe(&segment)));
            match segment {
                Segment::Bytes(bytes) => {
                    sock.arrived.extend(bytes);
                    sock.ready.readable = true;
                }
                Segment::Fin => {
                    sock.ended = true;
                    sock.ready.readable = true;
                    sock.ready.hup = true;
                }
                Segment::Rst => {
                    sock.error = Some(SysError::Reset);
                    sock.dead = true;
                    sock.ready = Readiness { readable: true, writable: true, hup: true, error: true };
                }
            }
        }
    }

    /// Tells a sender that was blocked that there is room again.
    fn unblock(&mut self, sender: End) {
        let room = self.sock(sender.other()).room(self.window) > 0;
        let sock = self.sock_mut(sender);
        if sock.blocked && room {
            sock.blocked = false;
            sock.ready.writable = true;
        }
    }

    fn parties(&self, to: End) -> (Party, Party) {
        let conn = self.conn(to);
        let party = |end: End| match (conn.ends[end.side()].holder, conn.role) {
            (Holder::Driver(who, _), _) => who.party(),
            (Holder::Peer, Role::Public) => Party::Visitors,
            (Holder::Peer, _) => Party::Locals,
            (Holder::Backlog | Holder::Closed, _) => {
                if end.side() == 0 {
                    Party::Client
                } else {
                    Party::Server
                }
            }
        };
        (party(to.other()), party(to))
    }

    /// A fault: both ends of a connection see a reset, and what was in flight is gone.
    pub(super) fn lose(&mut self, end: End) {
        let conn = self.conn_mut(end);
        conn.lost = true;
        for sock in &mut conn.ends {
            sock.coming.clear();
            sock.coming.push_back(Segment::Rst);
        }
    }

    /// A hostile client sends a byte behind the total of its transfer.
    pub(super) fn stray(&mut self, end: End) {
        self.hostile = true;
        self.pass_on(end, Segment::Bytes(vec![0xee]));
    }

    /// What end 1 of a new connection was sent, once some is there; the drivers' handshake threads read it.
    pub(super) fn take_hello(&mut self, end: End) -> Vec<u8> {
        let sock = self.sock_mut(end);
        let mut bytes = Vec::new();
        for segment in sock.coming.drain(..) {
            if let Segment::Bytes(more) = segment {
                bytes.extend(more);
            }
        }
        bytes
    }

    /// Ends held by the kernel with something in flight to them.
    pub(super) fn unaccepted(&self) -> impl Iterator<Item = End> {
        self.live()
            .filter(|(_, conn)| conn.ends[1].holder == Holder::Backlog && !conn.ends[1].coming.is_empty())
            .map(|(index, _)| End::new(index, 1))
    }

    /// An end of the kernel's becomes a driver's, or is closed.
    pub(super) fn hand_over(&mut self, end: End, to: Option<Who>) {
        self.sock_mut(end).holder = to.map_or(Holder::Closed, |who| Holder::Driver(who, None));
    }

    /// Sends from an end that no driver holds.
    pub(super) fn push(&mut self, from: End, bytes: &[u8]) {
        self.sock_mut(from.other()).coming.push_back(Segment::Bytes(bytes.to_vec()));
    }

    fn pass_on(&mut self, end: End, segment: Segment) {
        let other = self.sock_mut(end.other());
        // Nothing follows a reset.
        if other.holder != Holder::Closed && other.coming.back() != Some(&Segment::Rst) && !other.dead {
            other.coming.push_back(segment);
        }
    }
}

/// What one sees of a segment.
fn describe(segment: &Segment) -> String {
    match segment {
        Segment::Bytes(bytes) if bytes.len() <= 4 => format!("{bytes:02x?}"),
        Segment::Bytes(bytes) => format!("{} B {:02x?}..", bytes.len(), &bytes[..4]),
        Segment::Fin => "FIN".to_owned(),
        Segment::Rst => "RST".to_owned(),
    }
}

fn origin(byte: u8) -> String {
    if byte & 0x80 == 0 {
        return "part of a frame?".to_owned();
    }
    let side = if byte & 0x40 == 0 { Side::Visitor } else { Side::Local };
    format!("sent by {side:?} of visit {} at {}", byte >> 3 & 7, byte & 7)
}

impl Net {
    /// Doors with connections to accept: whom to tell, and under which token.
    pub(super) fn knocks(&self) -> Option<(Who, Token)> {
        let door = self.doors.iter().flatten().find(|door| !door.backlog.is_empty())?;
        Some((door.who, door.token))
    }

    /// A visitor's connection waits at the public port.
    pub(super) fn knock(&mut self, end: End) {
        let door = self.doors.iter_mut().flatten().find(|door| door.port == PUBLIC_PORT);
        door.expect("the public port listens").backlog.push_back(end);
    }
}
