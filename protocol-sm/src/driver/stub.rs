//! A system without sockets, for tests of one driver: what has come is put there, and what the driver has
//! done and said can be looked at.

use super::inherit::Given;
use super::messages::{
    Arrival, FromClientLoop, FromListener, FromServerLoop, ToClientLoop, ToListener, ToLoop, ToOperator, ToServerLoop,
};
use super::paths::ToPaths;
use super::slab::Token;
use super::sys::{Datagrams, Entropy, Listen, Log, Lookup, Received, Resolve, Role, Splice, Streams};
use super::thread::Tell;
use crate::auth::{Channel, Prover, SessionKey, Transcript};
use crate::dead_path::Unacked;
use crate::ids::SessionId;
use crate::notes::{Dropped, Note};
use crate::settings::{ClientSettings, Origin};
use crate::sys_error::SysError;
use crate::wire::{ConnKind, Ctl, Message, Preface, Reply};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;

/// Where everybody comes from.
pub(super) const PROXY: [u8; 4] = [10, 0, 0, 1];

/// What has come of a connection, and whether its peer has ended.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) bytes: VecDeque<u8>,
    pub(super) ended: bool,
    pub(super) token: Option<Token>,
}

/// Connections by number, what became of them, and what a driver has said to others.
#[derive(Default)]
pub(super) struct Net {
    pub(super) inboxes: BTreeMap<u32, Inbox>,
    pub(super) backlog: VecDeque<u32>,
    pub(super) visitors: Vec<(u32, SocketAddr)>,
    pub(super) dropped: Vec<Dropped>,
    pub(super) reset: Vec<u32>,
    pub(super) sent: Vec<u8>,
    /// Why nobody is connected to; without a reason everybody is.
    pub(super) unreachable: Option<SysError>,
    /// How often somebody was to be connected to.
    pub(super) connects: u32,
    pub(super) unacked: Option<Unacked>,
    /// What each stream has taken and its peer has not.
    pub(super) unsent: usize,
    pub(super) lent: Vec<Given>,
    /// Addresses of listeners that were closed.
    pub(super) closed: Vec<SocketAddr>,
    /// All but visitors.
    pub(super) to_loops: Vec<(usize, ToServerLoop<u32>)>,
    pub(super) to_listener: Vec<ToListener<u32>>,
    pub(super) to_operator: Vec<ToOperator>,
    pub(super) to_paths: Vec<ToPaths>,
    pub(super) to_client_loops: Vec<ToClientLoop>,
    /// What was said of paths.
    pub(super) path_notes: Vec<Note>,
    pub(super) from_listener: Vec<FromListener>,
    pub(super) from_server_loop: Vec<FromServerLoop<u32>>,
    pub(super) from_client_loop: Vec<FromClientLoop>,
    draws: u8,
}

impl Net {
    /// Somebody's connection, on which this has come.
    pub(super) fn put(&mut self, stream: u32, bytes: &[u8]) {
        self.inboxes.entry(stream).or_default().bytes.extend(bytes);
    }
}

/// Those of a client that wants all that it can have.
pub(super) fn client_settings() -> ClientSettings {
    ClientSettings { max_proxy_conns: 16, ..ClientSettings::new([7; 16], Vec::new()) }
}

/// A message as it is sent.
pub(super) fn encoded(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode_to(&mut bytes);
    bytes
}

impl Streams for Net {
    type Stream = u32;

    fn watch(&mut self, &stream: &u32, token: Token) -> Result<(), SysError> {
        self.inboxes.get_mut(&stream).expect("open").token = Some(token);
        Ok(())
    }
    fn unwatch(&mut self, stream: &u32) {
        self.inboxes.get_mut(stream).expect("open").token = None;
    }
    fn connect(&mut self, _: &Origin, _: SocketAddr, _: Role, token: Token) -> Result<u32, SysError> {
        self.connects += 1;
        if let Some(error) = self.unreachable {
            return Err(error);
        }
        let stream = u32::MAX - self.connects;
        self.inboxes.insert(stream, Inbox { token: Some(token), ..Inbox::default() });
        Ok(stream)
    }
    fn connect_unix(&mut self, _: &str, token: Token) -> Result<u32, SysError> {
        self.connect(&Origin::default(), SocketAddr::from(([127, 0, 0, 1], 1)), Role::Local, token)
    }
    fn take_error(&mut self, _: &u32) -> Result<(), SysError> {
        Ok(())
    }
    fn recv(&mut self, stream: &u32, into: &mut [u8]) -> Result<Received, SysError> {
        let bytes = self.peek(stream, into)?;
        self.skip(stream, bytes);
        Ok(Received { bytes, drained: true })
    }
    fn peek(&mut self, stream: &u32, into: &mut [u8]) -> Result<usize, SysError> {
        let inbox = &self.inboxes[stream];
        let length = into.iter_mut().zip(&inbox.bytes).map(|(to, &byte)| *to = byte).count();
        if length == 0 && !inbox.ended { Err(SysError::WouldBlock) } else { Ok(length) }
    }
    fn skip(&mut self, stream: &u32, bytes: usize) {
        self.inboxes.get_mut(stream).expect("open").bytes.drain(..bytes);
    }
    fn send(&mut self, _: &u32, from: &[u8]) -> Result<usize, SysError> {
        self.sent.extend(from);
        Ok(from.len())
    }
    fn channel(&mut self, _: &u32) -> Result<Option<Channel>, SysError> {
        Ok(None)
    }
    fn own_address(&self, _: &u32) -> SocketAddr {
        ([192, 0, 2, 1], 443).into()
    }
    fn unsent(&self, _: &u32) -> usize {
        self.unsent
    }
    fn unacked(&self, _: &u32) -> Option<Unacked> {
        self.unacked
    }
    fn shut_write(&mut self, _: &u32) {}
    fn close(&mut self, _: u32) {}
    fn reset(&mut self, stream: u32) {
        self.inboxes.remove(&stream).expect("once");
        self.reset.push(stream);
    }
}

impl Listen for Net {
    type Listener = SocketAddr;

    fn listen(&mut self, at: SocketAddr, _: Token) -> Result<(SocketAddr, SocketAddr), SysError> {
        Ok((at, at))
    }
    fn adopt(&mut self, &at: &SocketAddr, _: Token) -> Result<SocketAddr, SysError> {
        Ok(at)
    }
    fn lend(&mut self, _: &SocketAddr, given: &Given) {
        self.lent.push(given.clone());
    }
    fn accept(&mut self, _: &SocketAddr, _: Role) -> Result<(u32, SocketAddr), SysError> {
        let stream = self.backlog.pop_front().ok_or(SysError::WouldBlock)?;
        Ok((stream, (PROXY, 1000).into()))
    }
    fn bind_udp(&mut self, at: SocketAddr) -> Result<(SocketAddr, SocketAddr), SysError> {
        Ok((at, at))
    }
    fn unlisten(&mut self, at: SocketAddr) {
        self.closed.push(at);
    }
}

/// There is no UDP.
impl Datagrams for Net {}

/// Nothing is spliced.
impl Splice for Net {
    type Pipe = ();

    fn pipe(&mut self) -> Option<((), usize)> {
        None
    }
    fn splice_in(&mut self, _: &u32, (): &(), _: usize) -> Result<usize, SysError> {
        unreachable!("there is no pipe")
    }
    fn splice_out(&mut self, (): &(), _: &u32, _: usize) -> Result<usize, SysError> {
        unreachable!("there is no pipe")
    }
    fn read_pipe(&mut self, (): &(), _: &mut [u8]) -> Result<(), SysError> {
        unreachable!("there is no pipe")
    }
    fn can_splice(&self, _: &u32) -> bool {
        false
    }
    fn recycle(&mut self, (): (), _: bool) {}
}

impl Entropy for Net {
    fn random(&mut self, into: &mut [u8]) {
        self.draws += 1;
        into.fill(0x80 | self.draws);
    }
}

impl Resolve for Net {
    fn resolve(&mut self, _: Lookup, _: &str) {}
}

impl Log for Net {
    fn note(&mut self, note: Note) {
        if let Note::VisitorDropped { why, .. } = note {
            self.dropped.push(why);
        } else if let Note::PathUp { .. } | Note::PathDown { .. } | Note::PathFailed { .. } | Note::PathPort { .. } =
            note
        {
            self.path_notes.push(note);
        }
    }
}

impl Tell<ToLoop<ToServerLoop<u32>>> for Net {
    fn tell(&mut self, told: ToLoop<ToServerLoop<u32>>) {
        if let ToServerLoop::Visitor(Arrival { stream, who, .. }) = &told.message {
            self.visitors.push((*stream, who.from));
        } else {
            self.to_loops.push((told.loop_index, told.message));
        }
    }
}

impl Tell<FromListener> for Net {
    fn tell(&mut self, msg: FromListener) {
        self.from_listener.push(msg);
    }
}

impl Tell<ToListener<u32>> for Net {
    fn tell(&mut self, told: ToListener<u32>) {
        self.to_listener.push(told);
    }
}

impl Tell<ToOperator> for Net {
    fn tell(&mut self, told: ToOperator) {
        self.to_operator.push(told);
    }
}

impl Tell<ToPaths> for Net {
    fn tell(&mut self, told: ToPaths) {
        self.to_paths.push(told);
    }
}

impl Tell<FromServerLoop<u32>> for Net {
    fn tell(&mut self, told: FromServerLoop<u32>) {
        self.from_server_loop.push(told);
    }
}

impl Tell<FromClientLoop> for Net {
    fn tell(&mut self, told: FromClientLoop) {
        self.from_client_loop.push(told);
    }
}

impl Tell<ToLoop<ToClientLoop>> for Net {
    fn tell(&mut self, told: ToLoop<ToClientLoop>) {
        self.to_client_loops.push(told.message);
    }
}

/// The key of a session between two that have no token.
pub(super) fn session_key(session: SessionId) -> SessionKey {
    let ping = Ctl::Ping { received: 0 };
    let preface = Preface::ours(ConnKind::Ctl);
    let transcript = Transcript::new(preface.encode(), Reply::to(preface).encode(), &ping, &Ctl::Ping { received: 0 });
    Prover::new(None, transcript).session_key(session)
}
