//! The smallest system that the drivers run on: sockets whose other ends the fuzz input holds, pipes, mail
//! between the threads of one process, and readiness as an edge-triggered poll reports it.
//!
//! It is not one with `runtime-sim/src/explore/net.rs`, because here one process meets a hostile peer's bytes, in one
//! run that is changed in place and must be fast, while there both ends are drivers and the net is part of a state
//! that is copied, hashed and compared. Edit this one for what a fuzz input may do to a process, that one for what
//! the explorer interleaves; a new call of the drivers goes into both.

use protocol_sm::auth::Channel;
use protocol_sm::driver::messages::{
    FromClientLoop, FromListener, FromServerLoop, ToClientLoop, ToClientMain, ToListener, ToLoop, ToOperator,
    ToServerLoop, ToServerMain,
};
use protocol_sm::driver::paths::ToPaths;
use protocol_sm::driver::{
    Cx, Datagrams, Driver, Entropy, Given, Listen, Log, Lookup, Note, Readiness, Received, Resolve, Role, SCRATCH,
    Splice, Strategy, Streams, SysError, TURN, Tell, Token,
};
use protocol_sm::settings::Origin;
use protocol_sm::time::Instant;
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// A socket of the process under test. Not `Clone`: the types see to it that it is closed once.
#[derive(Debug)]
pub(crate) struct Stream(usize);

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listening(usize);

/// A pipe.
#[derive(Debug)]
pub(crate) struct Pipe(usize);

/// What the other end of a socket holds: the fuzz input's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) usize);

/// How the process under test has ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its write half is shut.
    Shut,
    /// Closed in good order.
    Closed,
    /// Reset.
    Reset,
}

#[derive(Debug)]
struct Socket {
    role: Role,
    /// For a socket that the process has connected.
    to: Option<SocketAddr>,
    dial: Dial,
    /// From the peer.
    input: VecDeque<u8>,
    eof: bool,
    error: Option<SysError>,
    /// To the peer.
    output: Vec<u8>,
    /// What the peer's window takes now.
    room: usize,
    ended: Option<Ended>,
    watch: Option<(usize, Token)>,
    news: Readiness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    Up,
    Pending,
}

#[derive(Debug)]
struct Port {
    at: SocketAddr,
    backlog: VecDeque<(usize, SocketAddr)>,
    watch: (usize, Token),
    open: bool,
}

/// A message for a thread of the process.
#[derive(Debug)]
pub(crate) enum Mail {
    ServerMain(ToServerMain<Stream>),
    Listener(ToListener<Stream>),
    ServerLoop(ToServerLoop<Stream>),
    ClientMain(ToClientMain),
    ClientLoop(ToClientLoop),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(crate) now: Instant,
    sockets: Vec<Socket>,
    ports: Vec<Port>,
    pipes: Vec<VecDeque<u8>>,
    ready: BTreeSet<(usize, Token)>,
    mail: VecDeque<Mail>,
    /// Sockets that the process has begun to connect, for the input to answer.
    pub(crate) dialled: VecDeque<Peer>,
    /// Whether the process said that its peer broke the protocol.
    pub(crate) violations: u64,
    /// A client was told that another process of it has its tunnels: it stops.
    pub(crate) taken_over: bool,
    random: u64,
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            role: Role::Ctl,
            to: None,
            dial: Dial::Up,
            input: VecDeque::new(),
            eof: false,
            error: None,
            output: Vec::new(),
            room: Net::WINDOW,
            ended: None,
            watch: None,
            news: Readiness::default(),
        }
    }
}

/// The peer's side.
impl Net {
    /// Bytes that a peer takes before it must read.
    const WINDOW: usize = 64 << 10;

    fn tell_news(&mut self, socket: usize, news: Readiness) {
        let it = &mut self.sockets[socket];
        let old = it.news;
        it.news = Readiness {
            readable: old.readable | news.readable,
            writable: old.writable | news.writable,
            hup: old.hup | news.hup,
            error: old.error | news.error,
        };
        if let Some(watch) = it.watch {
            self.ready.insert(watch);
        }
    }

    fn insert(&mut self, socket: Socket) -> usize {
        self.sockets.push(socket);
        self.sockets.len() - 1
    }

    /// A connection to a port of the process; `None` if nobody listens there.
    pub(crate) fn visit(&mut self, port: u16, from: SocketAddr) -> Option<Peer> {
        let index = self.ports.iter().position(|listener| listener.open && listener.at.port() == port)?;
        let socket = self.insert(Socket::default());
        let listener = &mut self.ports[index];
        listener.backlog.push_back((socket, from));
        self.ready.insert(listener.watch);
        Some(Peer(socket))
    }

    /// Answers a connect of the process.
    pub(crate) fn answer(&mut self, peer: Peer, outcome: Result<(), SysError>) {
        let socket = &mut self.sockets[peer.0];
        socket.dial = Dial::Up;
        socket.error = outcome.err();
        let error = socket.error.is_some();
        self.tell_news(peer.0, Readiness { writable: true, error, hup: error, readable: error });
    }

    /// The role of a socket that the process has connected.
    pub(crate) fn role(&self, peer: Peer) -> Role {
        self.sockets[peer.0].role
    }

    /// Where the process connected it to.
    pub(crate) fn destination(&self, peer: Peer) -> Option<SocketAddr> {
        self.sockets[peer.0].to
    }

    pub(crate) fn send(&mut self, peer: Peer, bytes: &[u8]) {
        let socket = &mut self.sockets[peer.0];
        if !socket.eof && socket.ended.is_none_or(|ended| ended == Ended::Shut) && !bytes.is_empty() {
            socket.input.extend(bytes);
            self.tell_news(peer.0, Readiness { readable: true, ..Readiness::default() });
        }
    }

    pub(crate) fn finish(&mut self, peer: Peer) {
        self.sockets[peer.0].eof = true;
        self.tell_news(peer.0, Readiness { readable: true, hup: true, ..Readiness::default() });
    }

    pub(crate) fn reset(&mut self, peer: Peer) {
        let socket = &mut self.sockets[peer.0];
        // What was sent before can still be read, and then the error.
        socket.eof = true;
        socket.error = Some(SysError::Reset);
        self.tell_news(peer.0, Readiness { readable: true, writable: true, hup: true, error: true });
    }

    /// Takes what the process has sent; its window opens again.
    pub(crate) fn receive(&mut self, peer: Peer) -> Vec<u8> {
        let socket = &mut self.sockets[peer.0];
        let was_full = socket.room == 0;
        socket.room = Self::WINDOW;
        let output = std::mem::take(&mut socket.output);
        if was_full {
            self.tell_news(peer.0, Readiness { writable: true, ..Readiness::default() });
        }
        output
    }

    /// How the process has ended the stream, if it has.
    pub(crate) fn ended(&self, peer: Peer) -> Option<Ended> {
        self.sockets[peer.0].ended
    }

    /// Sockets and ports of the process that it has not closed.
    pub(crate) fn open(&self) -> usize {
        let waiting: BTreeSet<_> = self.ports.iter().flat_map(|port| port.backlog.iter().map(|&(it, _)| it)).collect();
        let is_open = |(index, socket): &(usize, &Socket)| {
            !waiting.contains(index) && !matches!(socket.ended, Some(Ended::Closed | Ended::Reset))
        };
        self.sockets.iter().enumerate().filter(is_open).count() + self.ports.iter().filter(|port| port.open).count()
    }

    pub(crate) fn post(&mut self, mail: Mail) {
        self.mail.push_back(mail);
    }

    pub(crate) fn next_mail(&mut self) -> Option<Mail> {
        self.mail.pop_front()
    }

    /// The next thread that has an event, and the event.
    pub(crate) fn next_event(&mut self) -> Option<(usize, Token, Readiness)> {
        let (thread, token) = self.ready.pop_first()?;
        let watched = self.sockets.iter_mut().find(|socket| socket.watch == Some((thread, token)));
        let news = match watched {
            Some(socket) => std::mem::take(&mut socket.news),
            None => Readiness { readable: true, ..Readiness::default() },
        };
        Some((thread, token, news))
    }
}

/// The system as one thread's driver sees it.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) net: &'a mut Net,
    pub(crate) thread: usize,
}

thread_local! {
    /// Every driver's buffer for reads: an input makes thousands of calls, and to clear it each time would cost more
    /// than the calls.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// Calls into a driver.
pub(crate) fn with<R>(net: &mut Net, thread: usize, call: impl FnOnce(&mut Cx<'_, View<'_>>) -> R) -> R {
    let now = net.now;
    let mut sys = View { net, thread };
    BUFFER.with_borrow_mut(|scratch| {
        call(&mut Cx { sys: &mut sys, now, scratch, strategy: Strategy::default(), turn: TURN })
    })
}

/// Lets a driver do what is due, and says whether anything was.
pub(crate) fn run<D: for<'a> Driver<View<'a>, Message = M>, M>(net: &mut Net, thread: usize, driver: &mut D) -> bool {
    let due = Driver::<View<'_>>::next_deadline(driver).is_some_and(|at| at <= net.now);
    if due {
        with(net, thread, |cx| driver.on_deadline(cx));
    }
    let busy = Driver::<View<'_>>::is_busy(driver);
    if busy {
        with(net, thread, |cx| driver.run_busy(cx));
    }
    due || busy
}

/// Time passes.
pub(crate) fn pass(net: &mut Net, time: Duration) {
    net.now = net.now + time;
}

impl Streams for View<'_> {
    type Stream = Stream;

    fn watch(&mut self, stream: &Stream, token: Token) -> Result<(), SysError> {
        let thread = self.thread;
        let socket = &mut self.net.sockets[stream.0];
        assert!(socket.watch.is_none(), "watched by one thread at a time");
        socket.watch = Some((thread, token));
        socket.news = Readiness::default();
        let readable = !socket.input.is_empty() || socket.eof;
        let news = Readiness { readable, writable: socket.room > 0, hup: socket.eof, error: socket.error.is_some() };
        self.net.tell_news(stream.0, news);
        Ok(())
    }

    fn unwatch(&mut self, stream: &Stream) {
        if let Some(watch) = self.net.sockets[stream.0].watch.take() {
            self.net.ready.remove(&watch);
        }
    }

    fn connect(&mut self, _: &Origin, to: SocketAddr, role: Role, token: Token) -> Result<Stream, SysError> {
        let watch = Some((self.thread, token));
        let socket = self.net.insert(Socket { role, to: Some(to), dial: Dial::Pending, watch, ..Socket::default() });
        self.net.dialled.push_back(Peer(socket));
        Ok(Stream(socket))
    }

    fn take_error(&mut self, stream: &Stream) -> Result<(), SysError> {
        let socket = &mut self.net.sockets[stream.0];
        match socket.error.take() {
            Some(error) => Err(error),
            None if socket.dial == Dial::Pending => Err(SysError::WouldBlock),
            None => Ok(()),
        }
    }

    fn recv(&mut self, stream: &Stream, into: &mut [u8]) -> Result<Received, SysError> {
        assert!(!into.is_empty(), "never into an empty buffer");
        let socket = &mut self.net.sockets[stream.0];
        let bytes = into.len().min(socket.input.len());
        if bytes == 0 {
            if let Some(error) = socket.error.take() {
                return Err(error);
            }
            if !socket.eof {
                return Err(SysError::WouldBlock);
            }
        }
        into.iter_mut().zip(socket.input.drain(..bytes)).for_each(|(to, byte)| *to = byte);
        Ok(Received { bytes, drained: bytes < into.len() })
    }

    fn peek(&mut self, _: &Stream, _: &mut [u8]) -> Result<usize, SysError> {
        unreachable!("nobody is in front of the server here")
    }

    fn skip(&mut self, _: &Stream, _: usize) {}

    fn send(&mut self, stream: &Stream, from: &[u8]) -> Result<usize, SysError> {
        assert!(!from.is_empty(), "never nothing");
        let socket = &mut self.net.sockets[stream.0];
        assert!(socket.ended.is_none(), "nothing is sent after the end");
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let bytes = from.len().min(socket.room);
        if bytes == 0 {
            return Err(SysError::WouldBlock);
        }
        socket.room -= bytes;
        socket.output.extend_from_slice(&from[..bytes]);
        Ok(bytes)
    }

    fn channel(&mut self, _: &Stream) -> Result<Option<Channel>, SysError> {
        Ok(None)
    }

    fn own_address(&self, _: &Stream) -> SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, 6000).into()
    }

    fn unsent(&self, _: &Stream) -> usize {
        // The outer peers take everything at once.
        0
    }

    fn shut_write(&mut self, stream: &Stream) {
        let before = self.net.sockets[stream.0].ended.replace(Ended::Shut);
        assert_eq!(before, None, "shut once");
    }

    fn close(&mut self, stream: Stream) {
        self.unwatch(&stream);
        self.net.sockets[stream.0].ended = Some(Ended::Closed);
    }

    fn reset(&mut self, stream: Stream) {
        self.unwatch(&stream);
        self.net.sockets[stream.0].ended = Some(Ended::Reset);
    }
}

/// No UDP here: such tunnels are refused.
impl Datagrams for View<'_> {}

impl Splice for View<'_> {
    type Pipe = Pipe;

    fn splice_in(&mut self, stream: &Stream, pipe: &Pipe, max: usize) -> Result<usize, SysError> {
        assert!(self.net.pipes[pipe.0].is_empty(), "into an empty pipe");
        let mut bytes = vec![0; max.min(self.net.sockets[stream.0].input.len() + 1)];
        let received = self.recv(stream, &mut bytes)?.bytes;
        self.net.pipes[pipe.0].extend(&bytes[..received]);
        Ok(received)
    }

    fn splice_out(&mut self, pipe: &Pipe, stream: &Stream, max: usize) -> Result<usize, SysError> {
        let bytes: Vec<_> = self.net.pipes[pipe.0].iter().copied().take(max).collect();
        let sent = self.send(stream, &bytes)?;
        self.net.pipes[pipe.0].drain(..sent);
        Ok(sent)
    }

    fn read_pipe(&mut self, pipe: &Pipe, into: &mut [u8]) -> Result<(), SysError> {
        into.iter_mut().zip(self.net.pipes[pipe.0].drain(..)).for_each(|(to, byte)| *to = byte);
        Ok(())
    }

    fn can_splice(&self, _: &Stream) -> bool {
        true
    }

    fn pipe(&mut self) -> Option<(Pipe, usize)> {
        self.net.pipes.push(VecDeque::new());
        Some((Pipe(self.net.pipes.len() - 1), 64 << 10))
    }

    fn recycle(&mut self, pipe: Pipe, empty: bool) {
        assert!(!empty || self.net.pipes[pipe.0].is_empty(), "a pipe that goes back is empty");
    }
}

impl Entropy for View<'_> {
    fn random(&mut self, into: &mut [u8]) {
        for byte in into {
            // Never the same twice is all that is asked of it here.
            self.net.random =
                self.net.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = self.net.random.to_be_bytes()[0];
        }
    }
}

impl Log for View<'_> {
    fn note(&mut self, note: Note) {
        self.net.violations += u64::from(matches!(note, Note::Violation { .. }));
        self.net.taken_over |= note == Note::TakenOver;
    }
}

impl Listen for View<'_> {
    type Listener = Listening;

    fn listen(&mut self, at: SocketAddr, token: Token) -> Result<(Listening, SocketAddr), SysError> {
        let taken = |port: u16| self.net.ports.iter().any(|listener| listener.open && listener.at.port() == port);
        let mut at = at;
        if at.port() == 0 {
            at.set_port((40_000..).find(|&port| !taken(port)).ok_or(SysError::Exhausted)?);
        } else if taken(at.port()) {
            return Err(SysError::InUse);
        }
        let watch = (self.thread, token);
        self.net.ports.push(Port { at, backlog: VecDeque::new(), watch, open: true });
        Ok((Listening(self.net.ports.len() - 1), at))
    }

    fn adopt(&mut self, listener: &Listening, token: Token) -> Result<SocketAddr, SysError> {
        let port = &mut self.net.ports[listener.0];
        port.watch = (self.thread, token);
        Ok(port.at)
    }

    fn lend(&mut self, _: &Listening, _: &Given) {}

    fn accept(&mut self, listener: &Listening, role: Role) -> Result<(Stream, SocketAddr), SysError> {
        let (socket, from) = self.net.ports[listener.0].backlog.pop_front().ok_or(SysError::WouldBlock)?;
        self.net.sockets[socket].role = role;
        Ok((Stream(socket), from))
    }

    fn unlisten(&mut self, listener: Listening) {
        let port = &mut self.net.ports[listener.0];
        port.open = false;
        for (socket, _) in port.backlog.drain(..) {
            self.net.sockets[socket].ended = Some(Ended::Reset);
        }
    }
}

impl Resolve for View<'_> {
    fn resolve(&mut self, tag: Lookup, name: &str) {
        let addresses = name.parse().into_iter().collect();
        self.net.post(Mail::ClientMain(ToClientMain::Resolved { tag, addresses }));
    }
}

impl Tell<ToLoop<ToServerLoop<Stream>>> for View<'_> {
    fn tell(&mut self, msg: ToLoop<ToServerLoop<Stream>>) {
        self.net.post(Mail::ServerLoop(msg.message));
    }
}

impl Tell<ToLoop<ToClientLoop>> for View<'_> {
    fn tell(&mut self, msg: ToLoop<ToClientLoop>) {
        self.net.post(Mail::ClientLoop(msg.message));
    }
}

impl Tell<ToPaths> for View<'_> {
    /// Nobody carries paths here: the client waits for one in vain, and conns have all datagrams.
    fn tell(&mut self, _: ToPaths) {}
}

impl Tell<ToOperator> for View<'_> {
    fn tell(&mut self, _: ToOperator) {
        unreachable!("nobody asks here");
    }
}

impl Tell<ToListener<Stream>> for View<'_> {
    fn tell(&mut self, msg: ToListener<Stream>) {
        self.net.post(Mail::Listener(msg));
    }
}

impl Tell<FromServerLoop<Stream>> for View<'_> {
    fn tell(&mut self, msg: FromServerLoop<Stream>) {
        self.net.post(Mail::ServerMain(ToServerMain::Loop(msg)));
    }
}

impl Tell<FromListener> for View<'_> {
    fn tell(&mut self, msg: FromListener) {
        self.net.post(Mail::ServerMain(ToServerMain::Listener(msg)));
    }
}

impl Tell<FromClientLoop> for View<'_> {
    fn tell(&mut self, msg: FromClientLoop) {
        self.net.post(Mail::ClientMain(ToClientMain::Loop(msg)));
    }
}
