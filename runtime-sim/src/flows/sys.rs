//! The system that both loops see: conns in memory, with windows and delays, and datagram sockets as Linux has them.

use protocol_sm::auth::Channel;
use protocol_sm::driver::messages::{FromClientLoop, FromServerLoop};
use protocol_sm::driver::{
    Address, Datagrams, Entropy, Log, Note, Readiness, Received, Role, Splice, Streams, SysError, Tell, Token,
};
use protocol_sm::settings::{Datagrams as Kind, Origin};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Which loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    /// Which client's.
    Client(usize),
}

/// A socket.
#[derive(Debug)]
pub(super) struct Stream(pub(super) usize);

/// There are no pipes here: datagrams are copied.
#[derive(Debug)]
pub(super) enum Pipe {}

#[derive(Debug)]
pub(super) enum Sock {
    Conn(Conn),
    Datagrams(Socket),
    Closed,
}

/// One end of a conn.
#[derive(Debug, Default)]
pub(super) struct Conn {
    pub(super) peer: usize,
    pub(super) inbox: VecDeque<u8>,
    /// What is in `inbox` is still on its way.
    pub(super) stuck: bool,
    eof: bool,
    pub(super) reset: bool,
    /// A write has found no room.
    starved: bool,
    watch: Option<(Side, Token)>,
}

/// A datagram socket: the public one, or a flow's own.
#[derive(Debug, Default)]
pub(super) struct Socket {
    pub(super) public: bool,
    pub(super) inbox: VecDeque<(Address, Vec<u8>)>,
    /// What it has sent found nobody, and it was not told yet.
    pub(super) refused: bool,
    watch: Option<(Side, Token)>,
}

/// A datagram that a loop has sent.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) socket: usize,
    pub(super) to: Option<Address>,
    pub(super) bytes: Vec<u8>,
}

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) socks: Vec<Sock>,
    /// Bytes that fit into a conn.
    pub(super) window: usize,
    pub(super) service_away: bool,
    pub(super) ready: Vec<(usize, Readiness)>,
    pub(super) said: Vec<Said>,
    /// Datagrams that the loops have read.
    pub(super) heard: u64,
    /// Server ends of conns whose hello is due.
    pub(super) newcomers: Vec<usize>,
    pub(super) from_server: VecDeque<FromServerLoop<Stream>>,
    /// From which of them, and what.
    pub(super) from_clients: VecDeque<(usize, FromClientLoop)>,
}

const READABLE: Readiness = Readiness { readable: true, writable: false, hup: false, error: false };
const WRITABLE: Readiness = Readiness { readable: false, writable: true, hup: false, error: false };
const ENDED: Readiness = Readiness { readable: true, writable: false, hup: true, error: false };
const FAILED: Readiness = Readiness { readable: true, writable: true, hup: true, error: true };

impl Net {
    pub(super) fn conn(&mut self, sock: usize) -> Option<&mut Conn> {
        match self.socks.get_mut(sock) {
            Some(Sock::Conn(conn)) => Some(conn),
            Some(Sock::Datagrams(_) | Sock::Closed) | None => None,
        }
    }

    pub(super) fn socket(&mut self, sock: usize) -> Option<&mut Socket> {
        match self.socks.get_mut(sock) {
            Some(Sock::Datagrams(socket)) => Some(socket),
            Some(Sock::Conn(_) | Sock::Closed) | None => None,
        }
    }

    /// Whose readiness that is.
    pub(super) fn watched(&mut self, sock: usize) -> Option<(Side, Token)> {
        match self.socks.get(sock)? {
            Sock::Conn(conn) => conn.watch,
            Sock::Datagrams(socket) => socket.watch,
            Sock::Closed => None,
        }
    }

    pub(super) fn public(&mut self) -> usize {
        self.socks.push(Sock::Datagrams(Socket { public: true, ..Socket::default() }));
        self.socks.len() - 1
    }

    /// A datagram arrives.
    pub(super) fn arrive(&mut self, sock: usize, address: Address, bytes: Vec<u8>) -> bool {
        let Some(socket) = self.socket(sock) else { return false };
        socket.inbox.push_back((address, bytes));
        self.ready.push((sock, READABLE));
        true
    }

    /// What was on its way has come.
    pub(super) fn unstick(&mut self, sock: usize) {
        if let Some(conn) = self.conn(sock) {
            conn.stuck = false;
            self.ready.push((sock, READABLE));
        }
    }

    /// Bytes for whoever is not watched by a loop.
    pub(super) fn push(&mut self, sock: usize, bytes: &[u8]) {
        if let Some(conn) = self.conn(sock) {
            conn.inbox.extend(bytes);
            self.ready.push((sock, READABLE));
        }
    }

    /// A conn is lost, at both ends.
    pub(super) fn lose(&mut self, sock: usize) {
        let Some(peer) = self.conn(sock).map(|conn| conn.peer) else { return };
        for end in [sock, peer] {
            if let Some(conn) = self.conn(end) {
                conn.reset = true;
                self.ready.push((end, FAILED));
            }
        }
    }

    fn end(&mut self, sock: usize, reset: bool) {
        let before = std::mem::replace(&mut self.socks[sock], Sock::Closed);
        if let Sock::Conn(Conn { peer, .. }) = before
            && let Some(conn) = self.conn(peer)
        {
            if reset {
                conn.reset = true
            } else {
                conn.eof = true
            }
            self.ready.push((peer, if reset { FAILED } else { ENDED }));
        }
    }
}

/// What one loop's callbacks are handed.
pub(super) struct Sys<'a> {
    pub(super) net: &'a mut Net,
    pub(super) side: Side,
}

impl Streams for Sys<'_> {
    type Stream = Stream;

    fn watch(&mut self, stream: &Stream, token: Token) -> Result<(), SysError> {
        let watch = Some((self.side, token));
        match &mut self.net.socks[stream.0] {
            Sock::Conn(conn) => conn.watch = watch,
            Sock::Datagrams(socket) => socket.watch = watch,
            Sock::Closed => unreachable!("nobody watches what is closed"),
        }
        self.net.ready.push((stream.0, READABLE));
        Ok(())
    }

    fn unwatch(&mut self, _: &Stream) {}

    fn connect(&mut self, _: &Origin, _: SocketAddr, role: Role, token: Token) -> Result<Stream, SysError> {
        assert_eq!(role, Role::Proxy, "a UDP tunnel dials nobody over TCP");
        let ours = self.net.socks.len();
        let watch = Some((self.side, token));
        self.net.socks.push(Sock::Conn(Conn { peer: ours + 1, watch, ..Conn::default() }));
        self.net.socks.push(Sock::Conn(Conn { peer: ours, ..Conn::default() }));
        self.net.newcomers.push(ours + 1);
        Ok(Stream(ours))
    }

    fn take_error(&mut self, stream: &Stream) -> Result<(), SysError> {
        let lost = self.net.conn(stream.0).is_some_and(|conn| conn.reset);
        if lost { Err(SysError::Reset) } else { Ok(()) }
    }

    fn recv(&mut self, stream: &Stream, into: &mut [u8]) -> Result<Received, SysError> {
        let conn = self.net.conn(stream.0).expect("a conn");
        if conn.reset {
            return Err(SysError::Reset);
        }
        if conn.stuck || conn.inbox.is_empty() {
            return if conn.eof && !conn.stuck {
                Ok(Received { bytes: 0, drained: false })
            } else {
                Err(SysError::WouldBlock)
            };
        }
        let bytes = into.len().min(conn.inbox.len());
        for (to, byte) in into.iter_mut().zip(conn.inbox.drain(..bytes)) {
            *to = byte;
        }
        let peer = conn.peer;
        if let Some(conn) = self.net.conn(peer)
            && std::mem::take(&mut conn.starved)
        {
            self.net.ready.push((peer, WRITABLE));
        }
        Ok(Received { bytes, drained: bytes < into.len() })
    }

    fn peek(&mut self, _: &Stream, _: &mut [u8]) -> Result<usize, SysError> {
        unreachable!("nobody is behind a relay")
    }

    fn skip(&mut self, _: &Stream, _: usize) {}

    fn send(&mut self, stream: &Stream, from: &[u8]) -> Result<usize, SysError> {
        let window = self.net.window;
        let conn = self.net.conn(stream.0).expect("a conn");
        let peer = conn.peer;
        if conn.reset {
            return Err(SysError::Reset);
        }
        let Some(to) = self.net.conn(peer) else { return Err(SysError::Reset) };
        let room = window.saturating_sub(to.inbox.len()).min(from.len());
        to.inbox.extend(&from[..room]);
        if room == 0 {
            self.net.conn(stream.0).expect("a conn").starved = true;
            return Err(SysError::WouldBlock);
        }
        self.net.ready.push((peer, READABLE));
        Ok(room)
    }

    fn channel(&mut self, _: &Stream) -> Result<Option<Channel>, SysError> {
        Ok(None)
    }

    fn own_address(&self, _: &Stream) -> SocketAddr {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    }

    fn unsent(&self, _: &Stream) -> usize {
        0
    }

    fn shut_write(&mut self, _: &Stream) {
        unreachable!("a conn is never shut, and a flow has nothing to shut")
    }

    fn close(&mut self, stream: Stream) {
        self.net.end(stream.0, false);
    }

    fn reset(&mut self, stream: Stream) {
        self.net.end(stream.0, true);
    }
}

impl Splice for Sys<'_> {
    type Pipe = Pipe;

    fn splice_in(&mut self, _: &Stream, pipe: &Pipe, _: usize) -> Result<usize, SysError> {
        match *pipe {}
    }

    fn splice_out(&mut self, pipe: &Pipe, _: &Stream, _: usize) -> Result<usize, SysError> {
        match *pipe {}
    }

    fn read_pipe(&mut self, pipe: &Pipe, _: &mut [u8]) -> Result<(), SysError> {
        match *pipe {}
    }

    fn can_splice(&self, _: &Stream) -> bool {
        true
    }

    fn pipe(&mut self) -> Option<(Pipe, usize)> {
        None
    }

    fn recycle(&mut self, pipe: Pipe, _: bool) {
        match pipe {}
    }
}

impl Datagrams for Sys<'_> {
    fn associate(&mut self, _: &Origin, _: SocketAddr, _: Kind, token: Token) -> Result<Stream, SysError> {
        let watch = Some((self.side, token));
        self.net.socks.push(Sock::Datagrams(Socket { watch, ..Socket::default() }));
        Ok(Stream(self.net.socks.len() - 1))
    }

    fn hear(&mut self, socket: &Stream, into: &mut Vec<u8>) -> Result<Address, SysError> {
        let socket = self.net.socket(socket.0).expect("a datagram socket");
        if std::mem::take(&mut socket.refused) {
            return Err(SysError::Refused);
        }
        let (address, bytes) = socket.inbox.pop_front().ok_or(SysError::WouldBlock)?;
        self.net.heard += 1;
        into.extend_from_slice(&bytes);
        Ok(address)
    }

    /// As a connected socket does: where nobody is there, the next call is told, and does nothing itself.
    fn say(&mut self, stream: &Stream, to: Option<Address>, datagram: &[u8]) -> Result<(), SysError> {
        let away = self.net.service_away;
        let socket = self.net.socket(stream.0).expect("a datagram socket");
        if std::mem::take(&mut socket.refused) {
            return Err(SysError::Refused);
        }
        if away && !socket.public {
            socket.refused = true;
            self.net.ready.push((stream.0, FAILED));
        }
        self.net.said.push(Said { socket: stream.0, to, bytes: datagram.to_vec() });
        Ok(())
    }
}

impl Entropy for Sys<'_> {
    fn random(&mut self, into: &mut [u8]) {
        into.fill(7);
    }
}

impl Log for Sys<'_> {
    fn note(&mut self, _: Note) {}
}

impl Tell<FromServerLoop<Stream>> for Sys<'_> {
    fn tell(&mut self, msg: FromServerLoop<Stream>) {
        self.net.from_server.push_back(msg);
    }
}

impl Tell<FromClientLoop> for Sys<'_> {
    fn tell(&mut self, msg: FromClientLoop) {
        let Side::Client(of) = self.side else { unreachable!("a client's loop says it") };
        self.net.from_clients.push_back((of, msg));
    }
}

/// An address of the machine that visitors come from, or of the server's.
pub(super) fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}
