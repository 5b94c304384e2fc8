//! [`Linux`]: the drivers' system calls, answered by the kernel.

mod datagram;
mod errno;
mod mtu;
mod needed;
mod options;
mod pipe;
mod poll;
pub(crate) mod ports;
mod random;
mod secure;
mod socket;
pub(crate) mod unix;

pub(crate) use datagram::PathSocket;
pub use mtu::path_mtu;
pub use needed::{Refused, check as check_calls};
pub(crate) use options::Limits;
pub use pipe::{BUDGET as PIPE_BYTES, Pipe};
pub use poll::Poller;
pub(crate) use poll::{Event, Registrar, Timer};
pub use random::fetch as random_bytes;
pub(crate) use socket::every_address;
pub use socket::{Listener, Stream};
pub use unix::unix_trouble;

use crate::challenges::Challenges;
use crate::inherit::Lent;
use crate::notes::Notes;
use crate::tls::{TlsInUse, VisitorTlsInUse};
use nix::errno::Errno;
use protocol_sm::auth::Channel;
use protocol_sm::driver::{
    Address, BULK, Datagrams, Entropy, Given, Listen, Log, Lookup, Note, Readiness, Received, Resolve, Role, Splice,
    Streams, SysError, Tell, Token, Unacked,
};
use protocol_sm::routes::{Agreed, Speaks};
use protocol_sm::settings::{Datagrams as Kind, Origin, Timings};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Once;
use std::time::Duration;

/// Bytes copied at once into the pipe of a stream with urgent bytes: they fit into any pipe that is used.
const BOUNCE: usize = 16 * 1024;

/// The kernel, as one driver sees it: a way into its thread's epoll set, and pipes to splice through. A socket
/// belongs to the holder of its [`Stream`]. `O` takes the messages for other drivers; `()` does where there are none.
#[derive(Debug)]
pub struct Linux<O = ()> {
    registrar: Registrar,
    pipes: pipe::Pool,
    /// Streams in which an urgent byte is or was. A read stops before an urgent byte, so a short read does not mean
    /// that nothing is left, and splice(2) never gets past the byte. So these streams are copied.
    urgent: BTreeSet<Token>,
    secure: secure::Secure,
    limits: Limits,
    random: random::Random,
    notes: Notes,
    /// For one datagram; empty until there is one.
    datagram: Vec<u8>,
    /// Listeners for another process.
    lent: Lent,
    /// Who answers an authority's challenges, if anybody.
    challenges: Option<Challenges>,
    outbox: O,
}

impl<O> Linux<O> {
    /// A view of the kernel that watches nothing yet, and the epoll set that it alone uses.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new(outbox: O) -> io::Result<(Poller, Self)> {
        let mut poller = Poller::new()?;
        let registrar = poller.registrar()?;
        Ok((poller, Self::with_registrar(registrar, outbox)))
    }

    pub(crate) fn with_registrar(registrar: Registrar, outbox: O) -> Self {
        Self {
            registrar,
            pipes: pipe::Pool::default(),
            urgent: BTreeSet::new(),
            secure: secure::Secure::default(),
            limits: Limits::new(&Timings::default()),
            random: random::Random::default(),
            notes: Notes::default(),
            datagram: Vec::new(),
            lent: Lent::default(),
            challenges: None,
            outbox,
        }
    }

    /// Waits until a watched socket is ready, at most as long as `timeout` (rounded up to milliseconds;
    /// `None`: for ever), and puts what is ready in place of what `ready` held. It may come back early with
    /// nothing. `poller` is the one that this came with.
    ///
    /// # Errors
    /// None that a correct program could see.
    pub fn poll(
        &mut self,
        poller: &mut Poller,
        timeout: Option<Duration>,
        ready: &mut Vec<(Token, Readiness)>,
    ) -> io::Result<()> {
        poller.wait(timeout)?;
        ready.clear();
        ready.extend(poller.events().map(|(_, event)| self.on_event(event)));
        Ok(())
    }

    /// Sets how long connections made from now on may be silent.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Puts listeners that are lent aside there.
    pub(crate) fn lend_to(&mut self, lent: Lent) {
        self.lent = lent;
    }

    /// Encrypts connections between client and server from now on.
    pub(crate) fn use_tls(&mut self, tls: TlsInUse) {
        self.secure.tls = tls;
    }

    /// Answers an authority's challenges from now on.
    pub(crate) fn meet_challenges(&mut self, challenges: Option<Challenges>) {
        self.challenges = challenges;
    }

    /// Ends the TLS of visitors from now on, where these have certificates for them.
    pub(crate) fn end_visitors_tls(&mut self, tls: VisitorTlsInUse) {
        self.secure.visitors = tls;
    }

    /// The socket that an event is about, and what it means for the driver.
    pub(crate) fn on_event(&mut self, event: Event) -> (Token, Readiness) {
        if event.urgent {
            self.urgent.insert(event.token);
        }
        (event.token, self.secure.ready(event.token, event.ready))
    }

    /// What has become ready without an event: see [`secure`].
    pub(crate) fn take_woken(&mut self, ready: &mut Vec<(Token, Readiness)>) {
        self.secure.take_woken(ready);
    }

    /// Whether [`Linux::take_woken`] has something to give.
    pub(crate) fn has_woken(&self) -> bool {
        self.secure.has_woken()
    }

    pub(crate) fn outbox(&mut self) -> &mut O {
        &mut self.outbox
    }

    pub(crate) fn notes(&mut self) -> &mut Notes {
        &mut self.notes
    }

    fn add(&self, fd: impl AsFd, token: Token, room: bool) -> Result<(), SysError> {
        self.registrar.add(fd, token, room).map_err(errno::io_error)
    }

    /// Looks at the `result` of a write of up to `wanted` bytes. After one that found no room, the socket is also
    /// registered for EPOLLOUT.
    fn wrote(&self, stream: &Stream, wanted: usize, result: Result<usize, SysError>) -> Result<usize, SysError> {
        let full = result == Err(SysError::WouldBlock);
        // A write of so many bytes comes of a read that has shown a bulk stream. With TLS, a write also finds no room
        // while the handshake is under way.
        if wanted >= BULK || full && stream.tls.get().is_none() {
            stream.on_bulk();
        }
        if full {
            self.want_room(stream)?;
        }
        result
    }

    /// The socket is also registered for EPOLLOUT from now on.
    fn want_room(&self, stream: &Stream) -> Result<(), SysError> {
        if !stream.for_room.replace(true)
            && let Some(token) = stream.token.get()
        {
            // Where that fails for want of memory, the next write tries again.
            let added = self.registrar.add_room(stream, token);
            added.inspect_err(|_| stream.for_room.set(false)).map_err(errno::io_error)?;
        }
        Ok(())
    }

    /// Once splice(2) was found not to work, this thread copies.
    fn spliced(&mut self, way: &str, result: Result<usize, Errno>) -> Result<usize, SysError> {
        result.map_err(|errno| {
            let error = errno::splice_error(errno);
            if error == SysError::Unsupported {
                self.pipes.give_up();
                static SAID: Once = Once::new();
                SAID.call_once(|| {
                    tracing::warn!(
                        event = "splice_refused",
                        "this system refuses splice(2) {way} ({errno}), so bulk data is copied, which takes more \
                         processor time; if a container's seccomp profile is the reason, allow splice there"
                    );
                });
            }
            error
        })
    }

    fn is_urgent(&self, stream: &Stream) -> bool {
        !self.urgent.is_empty() && stream.token.get().is_some_and(|token| self.urgent.contains(&token))
    }

    fn forget(&mut self, stream: &Stream) {
        if let Some(token) = stream.token.take() {
            self.urgent.remove(&token);
            self.secure.forget(token);
        }
    }
}

impl<O> Streams for Linux<O> {
    type Stream = Stream;

    fn keep_to(&mut self, timings: &Timings) {
        self.limits = self.limits.with(timings);
    }

    fn probe(&mut self, stream: &Stream, timings: &Timings) {
        options::probe(stream, timings);
    }

    fn assign(&mut self, stream: &mut Stream, role: Role) {
        stream.assign(role, &self.limits);
        self.secure.accepted(stream);
    }

    fn watch(&mut self, stream: &Stream, token: Token) -> Result<(), SysError> {
        self.add(stream, token, stream.for_room.get())?;
        stream.token.set(Some(token));
        self.secure.watch(stream, token);
        Ok(())
    }

    fn unwatch(&mut self, stream: &Stream) {
        self.forget(stream);
        if let Err(error) = self.registrar.remove(stream) {
            tracing::debug!(event = "call_failed", "a socket was not watched: {error}");
        }
    }

    fn connect(&mut self, from: &Origin, to: SocketAddr, role: Role, token: Token) -> Result<Stream, SysError> {
        // It is watched only now, because epoll reports a socket that has not begun to connect as hung up.
        let stream = Stream::connect(from, to, role, &self.limits)?;
        self.watch(&stream, token)?;
        Ok(stream)
    }

    fn connect_unix(&mut self, path: &str, token: Token) -> Result<Stream, SysError> {
        let stream = Stream::of_unix(unix::connect_to(path)?);
        self.watch(&stream, token)?;
        Ok(stream)
    }

    fn take_error(&mut self, stream: &Stream) -> Result<(), SysError> {
        stream.take_error()
    }

    fn recv(&mut self, stream: &Stream, into: &mut [u8]) -> Result<Received, SysError> {
        assert!(!into.is_empty(), "a read of nothing would look like the end of the stream");
        let urgent = self.is_urgent(stream);
        if let Some(session) = stream.tls.get() {
            return self.secure.recv(stream, session, urgent, into);
        }
        let bytes = stream.recv(into)?;
        Ok(Received { bytes, drained: bytes < into.len() && !urgent })
    }

    fn peek(&mut self, stream: &Stream, into: &mut [u8]) -> Result<usize, SysError> {
        stream.peek(into)
    }

    fn skip(&mut self, stream: &Stream, bytes: usize) {
        stream.skip(bytes);
    }

    fn send(&mut self, stream: &Stream, from: &[u8]) -> Result<usize, SysError> {
        let sent = match stream.tls.get() {
            Some(session) => self.secure.send(stream, session, from),
            None => stream.send(from),
        };
        self.wrote(stream, from.len(), sent)
    }

    fn channel(&mut self, stream: &Stream) -> Result<Option<Channel>, SysError> {
        if stream.tls.get().is_none() {
            self.secure.begin(stream)?;
            if stream.tls.get().is_some() {
                // A session may have to write while its driver only reads.
                self.want_room(stream)?;
            }
        }
        match stream.tls.get() {
            Some(session) => self.secure.channel(stream, session),
            None => Ok(None),
        }
    }

    fn finish(&mut self, stream: &Stream) -> Result<(), SysError> {
        let Some(session) = stream.tls.get() else { return Ok(()) };
        let said = self.secure.finish(stream, session);
        self.wrote(stream, 0, said.map(|()| 0)).map(drop)
    }

    fn own_address(&self, stream: &Stream) -> SocketAddr {
        stream.own_address()
    }

    fn unsent(&self, stream: &Stream) -> usize {
        stream.unsent()
    }

    fn unacked(&self, stream: &Stream) -> Option<Unacked> {
        stream.unacked()
    }

    fn shut_write(&mut self, stream: &Stream) {
        stream.shut_write();
    }

    fn close(&mut self, stream: Stream) {
        self.forget(&stream);
        self.secure.close(&stream);
        stream.close();
    }

    fn reset(&mut self, stream: Stream) {
        self.forget(&stream);
        // A socket that is dropped is reset: see `options`.
        drop(stream);
    }
}

impl<O> Splice for Linux<O> {
    type Pipe = Pipe;

    fn splice_in(&mut self, stream: &Stream, pipe: &Pipe, max: usize) -> Result<usize, SysError> {
        if !self.is_urgent(stream) {
            let moved = self.spliced("out of a socket", pipe.fill(stream, max))?;
            // At an urgent byte, splice moves nothing, and once the peer has shut its half, it reports the end of
            // the stream.
            if moved > 0 || !stream.has_more() {
                return Ok(moved);
            }
            self.urgent.extend(stream.token.get());
        }
        let mut bounce = [0; BOUNCE];
        let bytes = stream.recv(&mut bounce[..max.min(BOUNCE)])?;
        if bytes > 0 {
            pipe.put(&bounce[..bytes])?;
        }
        Ok(bytes)
    }

    fn splice_out(&mut self, pipe: &Pipe, stream: &Stream, max: usize) -> Result<usize, SysError> {
        let moved = self.spliced("into a socket", pipe.drain(stream, max));
        self.wrote(stream, max, moved)
    }

    fn read_pipe(&mut self, pipe: &Pipe, into: &mut [u8]) -> Result<(), SysError> {
        pipe.get(into)
    }

    fn can_splice(&self, stream: &Stream) -> bool {
        stream.tls.get().is_none()
    }

    fn pipe(&mut self) -> Option<(Pipe, usize)> {
        self.pipes.take()
    }

    fn recycle(&mut self, pipe: Pipe, empty: bool) {
        self.pipes.put_back(pipe, empty);
    }
}

impl<O> Datagrams for Linux<O> {
    fn associate(&mut self, from: &Origin, to: SocketAddr, kind: Kind, token: Token) -> Result<Stream, SysError> {
        let socket = datagram::associate(from, to, kind)?;
        self.watch(&socket, token)?;
        Ok(socket)
    }

    fn hear(&mut self, socket: &Stream, into: &mut Vec<u8>) -> Result<Address, SysError> {
        self.datagram.resize(datagram::BUFFER, 0);
        let kind = *socket.udp.as_deref().expect("a UDP socket");
        let (bytes, address) = datagram::hear(socket, kind, &mut self.datagram)?;
        into.extend_from_slice(&self.datagram[..bytes]);
        Ok(address)
    }

    fn say(&mut self, socket: &Stream, to: Option<Address>, datagram: &[u8]) -> Result<(), SysError> {
        datagram::say(socket, *socket.udp.as_deref().expect("a UDP socket"), to, datagram)
    }
}

impl<O> Entropy for Linux<O> {
    fn random(&mut self, into: &mut [u8]) {
        self.random.fill(into);
    }
}

impl<O> Log for Linux<O> {
    fn note(&mut self, note: Note) {
        self.notes.take(note);
    }
}

impl<O> Listen for Linux<O> {
    type Listener = Listener;

    fn listen(&mut self, at: SocketAddr, token: Token) -> Result<(Listener, SocketAddr), SysError> {
        let (listener, address) = Listener::bind(at, &self.limits)?;
        self.add(&listener, token, false)?;
        Ok((listener, address))
    }

    fn adopt(&mut self, listener: &Listener, token: Token) -> Result<SocketAddr, SysError> {
        self.add(listener, token, false)?;
        listener.address()
    }

    fn bind_udp(&mut self, at: SocketAddr) -> Result<(Listener, SocketAddr), SysError> {
        datagram::open(at)
    }

    fn share(&mut self, listener: &Listener) -> Result<Stream, SysError> {
        datagram::share(listener)
    }

    fn lend(&mut self, listener: &Listener, given: &Given) {
        self.lent.add(listener, given);
    }

    fn accept(&mut self, listener: &Listener, role: Role) -> Result<(Stream, SocketAddr), SysError> {
        let (stream, from) = listener.accept(role, &self.limits)?;
        self.secure.accepted(&stream);
        Ok((stream, from))
    }

    fn certified(&self, name: Option<&str>) -> bool {
        self.secure.visitors.certified(name)
    }

    fn end_tls(&mut self, stream: &Stream, hello: &[u8], speaks: Speaks) -> Result<(), SysError> {
        // A session may have to write while its driver only reads.
        self.want_room(stream)?;
        self.secure.end(stream, hello, speaks)
    }

    fn agreed(&mut self, stream: &Stream) -> Result<Option<Agreed>, SysError> {
        let session = stream.tls.get().ok_or(SysError::Unsupported)?;
        self.secure.agreed(stream, session)
    }

    fn find_challenge(&mut self, newcomer: Token, name: &str) -> bool {
        self.challenges.as_ref().is_some_and(|challenges| challenges.ask(newcomer, name))
    }

    fn unlisten(&mut self, listener: Listener) {
        if listener.udp {
            return;
        }
        // Another process may have a copy, for which this epoll set would be woken otherwise.
        if let Err(error) = self.registrar.remove(&listener) {
            tracing::debug!(event = "call_failed", "a listener was not watched: {error}");
        }
    }
}

impl<M, O: Tell<M>> Tell<M> for Linux<O> {
    fn tell(&mut self, msg: M) {
        self.outbox.tell(msg);
    }
}

impl<O: Resolve> Resolve for Linux<O> {
    fn resolve(&mut self, tag: Lookup, name: &str) {
        self.outbox.resolve(tag, name);
    }
}
