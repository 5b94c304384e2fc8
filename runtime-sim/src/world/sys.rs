//! The system as production's drivers see it, answered by the simulated kernel.

use super::plan::Plan;
use super::proxy::{Proxy, Said};
use crate::impostor::Overheard;
use crate::kernel::{Errno, Kernel, PipeId, PollId, ProcId, Rng, SockId};
use crate::oracle::{Property, Sometimes};
use crate::scenario::{MET, PROXY, agreed};
use core::cell::RefCell;
use core::net::SocketAddr;
use protocol_sm::auth::Channel;
use protocol_sm::driver::messages::{
    FromClientLoop, FromListener, FromServerLoop, ToClientLoop, ToClientMain, ToListener, ToLoop, ToOperator,
    ToServerLoop, ToServerMain,
};
use protocol_sm::driver::paths::ToPaths;
use protocol_sm::driver::{
    Address, Datagrams, Entropy, Given, Listen, Log, Lookup, Note, Received, Resolve, Role, Splice, Streams, SysError,
    Tell, Token, Unacked,
};
use protocol_sm::routes::{Agreed, Speaks};
use protocol_sm::settings::{Datagrams as Kind, Origin};
use protocol_sm::time::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;

/// A TCP connection. There is one handle per socket, so the type alone keeps anyone from closing it twice.
#[derive(Debug)]
pub struct Stream(pub(super) SockId, Role, RefCell<Owed>);

/// What production's encrypted connections owe their driver: a chunk that the socket has in part, and that is not
/// counted before the socket has all of it.
#[derive(Debug, Default)]
struct Owed {
    /// The handshake of a stream that was dialled is not through.
    handshake_due: bool,
    /// The way through an outbound proxy is not behind it.
    proxy: Option<Box<Proxy>>,
    /// A visitor's TLS ends here.
    sealed: Option<Sealed>,
    chunk: Vec<u8>,
    sent: usize,
}

/// TLS that ends here. What it makes of bytes is nothing: only when they come and go is like it.
#[derive(Debug)]
struct Sealed {
    /// The handshake is not through.
    handshake_due: bool,
    /// What is agreed on in it.
    agreed: Option<Agreed>,
    /// Its end was said inside.
    said: bool,
    /// What came behind the hello that began it, and was read with it.
    behind: VecDeque<u8>,
}

/// A listening socket.
#[derive(Debug)]
pub struct Socket(pub(super) SockId);

/// A pipe.
#[derive(Debug)]
pub struct Pipe(pub(super) PipeId);

/// A message for a thread of the same process.
#[derive(Debug)]
pub(super) enum Mail {
    ServerMain(ToServerMain<Stream>),
    Listener(ToListener<Stream>),
    ServerLoop(ToServerLoop<Stream>),
    ClientMain(ToClientMain),
    ClientLoop(ToClientLoop),
}

/// The threads of a process, by their place: the main thread is 0. A server's listening thread is 1, its loops
/// follow; a client's loops follow the main thread.
pub(super) const SERVER_LOOPS: usize = 2;
pub(super) const CLIENT_LOOPS: usize = 1;

/// What a callback has brought about.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// To which thread of the process, and what.
    pub(super) mail: Vec<(usize, Mail)>,
    pub(super) notes: Vec<Note>,
    pub(super) lookups: Vec<(Lookup, String)>,
    pub(super) answers: Vec<ToOperator>,
    /// To whoever carries paths.
    pub(super) paths: Vec<ToPaths>,
    pub(super) sometimes: Vec<Sometimes>,
    pub(super) breaches: Vec<(Property, String)>,
    /// Answers to challenges that are looked for, and who asks.
    pub(super) challenges: Vec<(Token, String)>,
    /// Listeners put aside for another process.
    pub(super) lent: Vec<(Given, SockId)>,
    /// Tries to open a port.
    pub(super) listens: usize,
    /// Bytes that were taken, by the connection that they came from.
    pub(super) taken: BTreeMap<SockId, (Role, usize)>,
    /// Connections begun: for which role, as which socket.
    pub(super) dialled: Vec<(Role, SockId)>,
    /// A service could not be dialled now: it is tried again, upon no `Start`.
    pub(super) put_off: bool,
    /// Frames or payload were sent into proxy_conns.
    pub(super) sent_to_conn: bool,
    /// A proxy_conn was closed in good order although nothing was wrong with it.
    pub(super) closed_healthy: bool,
    /// A connection was closed or reset.
    pub(super) parted: bool,
    /// Read from a ctl_conn or a proxy_conn, and worth being overheard.
    pub(super) heard: Vec<(SockId, Vec<u8>)>,
    /// Outer connections that were up and are reset.
    pub(super) resets: Vec<OuterReset>,
    /// Outer connections that are to be reset, and have something to send still.
    pub(super) lingering: RefCell<Vec<SockId>>,
    /// Visitors that were accepted, by their public sockets.
    pub(super) accepted: Vec<(SockId, SocketAddr)>,
    /// Bytes read from outer sockets, and written to them.
    pub(super) moved: Vec<(SockId, usize, usize)>,
    /// Bytes of headers that were taken off public sockets.
    pub(super) skipped: Vec<(SockId, usize)>,
    /// Bytes that began TLS, and were read as if they were a visitor's own, and those behind them, which are read again.
    pub(super) unread: Vec<(SockId, usize, usize)>,
    /// Sockets whose write half was shut, or would have been: one that is gone cannot be.
    pub(super) shut: Vec<SockId>,
    /// The conn whose socket was read last.
    pub(super) last_read: Option<SockId>,
}

/// A program has reset a visitor's or a local service's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct OuterReset {
    pub(super) sock: SockId,
    /// Bytes that were written into it.
    pub(super) written: u64,
    /// Bytes that its peer had not acknowledged, or the end that it had not.
    pub(super) unsent: usize,
}

/// See the module: what one thread's callbacks are handed.
pub(super) struct ThreadSys<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) plan: &'a Plan,
    pub(super) proc: ProcId,
    pub(super) poll: PollId,
    /// Empty pipes kept for later.
    pub(super) pool: &'a mut Vec<PipeId>,
    pub(super) rng: &'a mut Rng,
    pub(super) effects: &'a mut Effects,
}

impl ThreadSys<'_> {
    /// Production watches for room once a write has found none.
    fn wrote(&mut self, stream: &Stream, result: Result<usize, Errno>) -> Result<usize, Errno> {
        if result == Err(Errno::EAGAIN) {
            self.kernel.watch_room(stream.0);
        }
        result
    }

    fn is_encrypted(&self, stream: &Stream) -> bool {
        self.plan.encrypts(stream.1) || stream.2.borrow().sealed.is_some()
    }

    fn took(&mut self, stream: &Stream, bytes: usize) {
        self.effects.taken.entry(stream.0).or_insert((stream.1, 0)).1 += bytes;
    }

    fn moved(&mut self, stream: &Stream, read: usize, written: usize) {
        if matches!(stream.1, Role::Public | Role::Local) {
            self.effects.moved.push((stream.0, read, written));
        }
    }

    #[cfg_attr(test, track_caller)]
    fn breach(&mut self, property: Property, what: String) {
        #[cfg(test)]
        super::violations::saw(std::panic::Location::caller());
        self.effects.breaches.push((property, what));
    }
}

impl Streams for ThreadSys<'_> {
    type Stream = Stream;

    fn assign(&mut self, stream: &mut Stream, role: Role) {
        stream.1 = role;
        if role == Role::Public {
            self.effects.accepted.push((stream.0, self.kernel.remote(stream.0)));
            self.effects.sometimes.push(Sometimes::VisitorAtOnePort);
        } else {
            self.effects.sometimes.push(Sometimes::ClientAtOnePort);
        }
    }

    fn watch(&mut self, stream: &Stream, token: Token) -> Result<(), SysError> {
        self.kernel.watch(stream.0, self.poll, token, false);
        Ok(())
    }

    fn unwatch(&mut self, stream: &Stream) {
        self.kernel.unwatch(stream.0);
    }

    fn connect(&mut self, _: &Origin, to: SocketAddr, role: Role, token: Token) -> Result<Stream, SysError> {
        let no_port = self.kernel.no_port(self.proc);
        if role == Role::Local && no_port > 0 && self.rng.chance(no_port) {
            self.effects.sometimes.push(Sometimes::NoLocalPort);
            self.effects.put_off = true;
            return Err(SysError::NoPort);
        }
        let (proxy, to) = self.through_proxy(role, to);
        let sock = self.kernel.connect(self.proc, to, self.plan.options(role))?;
        self.kernel.watch(sock, self.poll, token, true);
        self.effects.dialled.push((role, sock));
        let owed = Owed { handshake_due: self.plan.encrypts(role), proxy, ..Owed::default() };
        Ok(Stream(sock, role, RefCell::new(owed)))
    }

    fn connect_unix(&mut self, path: &str, token: Token) -> Result<Stream, SysError> {
        let path = path.trim_start_matches("./").parse().expect("a path is a number here");
        let options = self.plan.options(Role::Local);
        let sock = self.kernel.connect_unix(self.proc, path, options).inspect_err(|_| self.effects.put_off = true)?;
        self.kernel.watch(sock, self.poll, token, true);
        self.effects.dialled.push((Role::Local, sock));
        Ok(Stream(sock, Role::Local, RefCell::default()))
    }

    fn take_error(&mut self, stream: &Stream) -> Result<(), SysError> {
        Ok(self.kernel.take_error(stream.0)?)
    }

    fn recv(&mut self, stream: &Stream, into: &mut [u8]) -> Result<Received, SysError> {
        assert!(!into.is_empty(), "the contract: never an empty buffer");
        self.effects.last_read = Some(stream.0);
        self.find_memory(stream)?;
        if stream.2.borrow().proxy.is_some() {
            return self.hear_proxy(stream, into);
        }
        if let Some(sealed) = &mut stream.2.borrow_mut().sealed
            && !sealed.behind.is_empty()
        {
            let bytes = sealed.behind.read(into).expect("it is memory");
            self.moved(stream, bytes, 0);
            return Ok(Received { bytes, drained: false });
        }
        let bytes = self.kernel.recv(stream.0, into)?;
        self.moved(stream, bytes, 0);
        if matches!(stream.1, Role::Ctl | Role::Proxy) && Overheard::is_of_use(&into[..bytes]) {
            self.effects.heard.push((stream.0, into[..bytes].to_vec()));
        }
        self.took(stream, bytes);
        Ok(Received { bytes, drained: bytes < into.len() })
    }

    fn peek(&mut self, stream: &Stream, into: &mut [u8]) -> Result<usize, SysError> {
        Ok(self.kernel.peek(stream.0, into)?)
    }

    fn skip(&mut self, stream: &Stream, bytes: usize) {
        // A reset has taken them: the next call tells.
        let _ = self.kernel.recv(stream.0, &mut vec![0; bytes]);
        self.effects.skipped.push((stream.0, bytes));
    }

    fn send(&mut self, stream: &Stream, from: &[u8]) -> Result<usize, SysError> {
        assert!(!from.is_empty(), "the contract: never nothing");
        self.check_shut(stream);
        self.find_memory(stream)?;
        if stream.2.borrow().proxy.is_some() {
            return Ok(self.tell_proxy(stream, from));
        }
        let sent = if self.is_encrypted(stream) {
            self.send_chunk(stream, from)?
        } else {
            let sent = self.kernel.send(stream.0, from);
            self.wrote(stream, sent)?
        };
        self.moved(stream, 0, sent);
        self.effects.sent_to_conn |= stream.1 == Role::Proxy;
        if sent < from.len() {
            self.effects.sometimes.push(Sometimes::ShortWrite);
        }
        Ok(sent)
    }

    fn channel(&mut self, stream: &Stream) -> Result<Option<Channel>, SysError> {
        if !self.plan.encrypts(stream.1) {
            return Ok(None);
        }
        if core::mem::take(&mut stream.2.borrow_mut().handshake_due) {
            // Its end is an event of its own.
            self.kernel.watch_room(stream.0);
            return Err(SysError::WouldBlock);
        }
        let ends = [Some(stream.0), self.kernel.peer(stream.0)].map(|end| end.map_or(0, |end| end.0 as u64));
        let ends = [ends[0].min(ends[1]), ends[0].max(ends[1])];
        let mut channel = [0; 32];
        channel[..8].copy_from_slice(&ends[0].to_le_bytes());
        channel[8..16].copy_from_slice(&ends[1].to_le_bytes());
        Ok(Some(Channel(channel)))
    }

    fn own_address(&self, stream: &Stream) -> SocketAddr {
        self.kernel.local(stream.0)
    }

    fn unsent(&self, stream: &Stream) -> usize {
        let unsent = self.kernel.unsent(stream.0);
        // A Unix socket has sent what it took; what it does not take is the tunnel's to keep.
        if unsent > 0 || self.kernel.is_unix(stream.0) {
            self.effects.lingering.borrow_mut().push(stream.0);
        }
        unsent
    }

    fn unacked(&self, stream: &Stream) -> Option<Unacked> {
        self.kernel.unacked(stream.0)
    }

    fn finish(&mut self, stream: &Stream) -> Result<(), SysError> {
        let full = self.rng.chance(30);
        let mut owed = stream.2.borrow_mut();
        let Some(sealed) = owed.sealed.as_mut().filter(|sealed| !sealed.said) else { return Ok(()) };
        if full {
            self.kernel.watch_room(stream.0);
            return Err(SysError::WouldBlock);
        }
        sealed.said = true;
        Ok(())
    }

    fn shut_write(&mut self, stream: &Stream) {
        if stream.2.borrow().sealed.as_ref().is_some_and(|sealed| !sealed.said) {
            self.breach(Property::ChunksWhole, "an end that was not said inside of TLS".into());
        }
        if self.kernel.is_shut(stream.0) {
            self.breach(Property::ShutOnce, format!("socket {} is shut twice", stream.0.0));
        }
        self.effects.shut.push(stream.0);
        // ENOTCONN: it is gone, and readiness will say so.
        let _ = self.kernel.shut_write(stream.0);
    }

    fn close(&mut self, stream: Stream) {
        // As production does it: unread bytes would turn the close of a ctl_conn into a reset, which could overtake
        // our last message.
        let mut unread = [0; 4096];
        while stream.1 == Role::Ctl && matches!(self.kernel.recv(stream.0, &mut unread), Ok(1..)) {}
        self.effects.closed_healthy |= stream.1 == Role::Proxy && self.kernel.is_healthy(stream.0);
        self.effects.parted = true;
        self.kernel.close(stream.0, false);
    }

    fn reset(&mut self, stream: Stream) {
        let sock = stream.0;
        if matches!(stream.1, Role::Public | Role::Local) && self.kernel.is_up(sock) {
            let (written, unsent) = (self.kernel.written(sock), self.kernel.unsent(sock));
            self.effects.resets.push(OuterReset { sock, written, unsent });
        }
        self.effects.parted = true;
        self.kernel.close(sock, true);
    }
}

impl Datagrams for ThreadSys<'_> {
    fn associate(&mut self, _: &Origin, to: SocketAddr, _: Kind, token: Token) -> Result<Stream, SysError> {
        let sock = self.kernel.connect_udp(self.proc, to, self.plan.options(Role::Local))?;
        self.kernel.watch(sock, self.poll, token, false);
        Ok(Stream(sock, Role::Local, RefCell::default()))
    }

    fn hear(&mut self, socket: &Stream, into: &mut Vec<u8>) -> Result<Address, SysError> {
        let (address, bytes) = self.kernel.hear(socket.0)?;
        into.extend_from_slice(&bytes);
        Ok(address)
    }

    fn say(&mut self, socket: &Stream, to: Option<Address>, datagram: &[u8]) -> Result<(), SysError> {
        Ok(self.kernel.say(socket.0, to, datagram)?)
    }
}

impl Splice for ThreadSys<'_> {
    type Pipe = Pipe;

    fn splice_in(&mut self, stream: &Stream, pipe: &Pipe, max: usize) -> Result<usize, SysError> {
        if self.kernel.pipe_bytes(pipe.0) != 0 {
            self.breach(Property::PipesEmptyAtRest, "a splice into a pipe that holds bytes".into());
        }
        if self.is_encrypted(stream) {
            self.breach(Property::ChunksWhole, "a splice out of an encrypted connection".into());
        }
        self.may_splice()?;
        self.find_memory(stream)?;
        let moved = self.kernel.splice_in(stream.0, pipe.0, max)?;
        self.took(stream, moved);
        self.moved(stream, moved, 0);
        self.effects.sometimes.push(Sometimes::Spliced);
        if self.kernel.is_full(pipe.0) {
            self.effects.sometimes.push(Sometimes::PipeFull);
        }
        Ok(moved)
    }

    fn splice_out(&mut self, pipe: &Pipe, stream: &Stream, max: usize) -> Result<usize, SysError> {
        if self.kernel.pipe_bytes(pipe.0) != max {
            let held = self.kernel.pipe_bytes(pipe.0);
            self.breach(Property::PipesEmptyAtRest, format!("the pipe holds {held} bytes, the core counts {max}"));
        }
        if self.is_encrypted(stream) {
            self.breach(Property::ChunksWhole, "a splice into an encrypted connection".into());
        }
        self.check_shut(stream);
        self.may_splice()?;
        self.find_memory(stream)?;
        let moved = self.kernel.splice_out(pipe.0, stream.0, max);
        let moved = self.wrote(stream, moved)?;
        self.moved(stream, 0, moved);
        if moved < max {
            self.effects.sometimes.push(Sometimes::PipeHeldBytes);
        }
        Ok(moved)
    }

    fn read_pipe(&mut self, pipe: &Pipe, into: &mut [u8]) -> Result<(), SysError> {
        if self.kernel.pipe_bytes(pipe.0) != into.len() {
            let held = self.kernel.pipe_bytes(pipe.0);
            self.breach(
                Property::PipesEmptyAtRest,
                format!("the pipe holds {held} bytes, the core counts {}", into.len()),
            );
        }
        self.kernel.read_pipe(pipe.0, into);
        Ok(())
    }

    fn can_splice(&self, stream: &Stream) -> bool {
        !self.is_encrypted(stream)
    }

    fn pipe(&mut self) -> Option<(Pipe, usize)> {
        if self.plan.scenario.no_pipe > 0 && self.rng.chance(self.plan.scenario.no_pipe) {
            self.effects.sometimes.push(Sometimes::NoPipe);
            return None;
        }
        let pipe = self.pool.pop().or_else(|| self.kernel.pipe(self.proc).ok())?;
        Some((Pipe(pipe), 64 * 1024))
    }

    fn recycle(&mut self, pipe: Pipe, empty: bool) {
        let held = self.kernel.pipe_bytes(pipe.0);
        if empty && held > 0 {
            self.breach(Property::PipesEmptyAtRest, format!("a pipe with {held} bytes was given back as empty"));
        }
        if held == 0 {
            self.pool.push(pipe.0);
        } else {
            self.kernel.close_pipe(self.proc, pipe.0);
        }
    }
}

impl Entropy for ThreadSys<'_> {
    fn random(&mut self, into: &mut [u8]) {
        for chunk in into.chunks_mut(8) {
            let bytes = self.rng.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

impl Log for ThreadSys<'_> {
    fn note(&mut self, note: Note) {
        self.effects.notes.push(note);
    }
}

impl ThreadSys<'_> {
    /// The proxy in between, if there is one, and where the connection beneath goes: the server is where the proxy is.
    fn through_proxy(&mut self, role: Role, mut to: SocketAddr) -> (Option<Box<Proxy>>, SocketAddr) {
        let ours = matches!(role, Role::Ctl | Role::Proxy);
        let Some(scheme) = self.plan.outbound().filter(|_| ours) else { return (None, to) };
        if role == Role::Proxy {
            to.set_port(PROXY);
        }
        let faulty = !self.plan.scenario.calm && self.kernel.now() < Instant::ZERO + self.plan.scenario.length;
        (Some(Box::new(Proxy::new(scheme, self.rng, faulty))), to)
    }

    /// Any part of it may be taken at once.
    fn tell_proxy(&mut self, stream: &Stream, from: &[u8]) -> usize {
        let mut owed = stream.2.borrow_mut();
        let Some(proxy) = &mut owed.proxy else { return 0 };
        let sent = if self.rng.chance(30) { self.rng.size(1, from.len()) } else { from.len() };
        if proxy.hear(&from[..sent]) {
            self.kernel.watch_room(stream.0);
        }
        sent
    }

    fn hear_proxy(&mut self, stream: &Stream, into: &mut [u8]) -> Result<Received, SysError> {
        let mut owed = stream.2.borrow_mut();
        let Some(proxy) = &mut owed.proxy else { return Err(SysError::WouldBlock) };
        match proxy.say(self.rng, into) {
            Said::Bytes(bytes) => {
                if proxy.is_passed() {
                    owed.proxy = None;
                    self.effects.sometimes.push(Sometimes::ProxyPassed);
                }
                Ok(Received { bytes, drained: true })
            }
            Said::End => {
                self.effects.sometimes.push(Sometimes::ProxyRefused);
                Ok(Received { bytes: 0, drained: true })
            }
            Said::Later => {
                self.kernel.watch_room(stream.0);
                Err(SysError::WouldBlock)
            }
            // Whether the connection beneath lives.
            Said::Nothing => Ok(Received { bytes: self.kernel.recv(stream.0, into)?, drained: true }),
        }
    }

    /// Sends as an encrypted connection does: all of a chunk or, as far as the driver knows, nothing.
    fn send_chunk(&mut self, stream: &Stream, from: &[u8]) -> Result<usize, SysError> {
        let mut owed = stream.2.borrow_mut();
        if owed.chunk.is_empty() {
            (owed.chunk, owed.sent) = (from.to_vec(), 0);
        } else if !from.starts_with(&owed.chunk) {
            self.breach(Property::ChunksWhole, format!("{} other bytes", from.len()));
        }
        while owed.sent < owed.chunk.len() {
            let sent = self.kernel.send(stream.0, &owed.chunk[owed.sent..]);
            let sent = self.wrote(stream, sent);
            if sent.is_err() && owed.sent > 0 {
                self.effects.sometimes.push(Sometimes::ChunkCut);
            }
            owed.sent += sent?;
        }
        Ok(core::mem::take(&mut owed.chunk).len())
    }

    /// Whether this call of splice(2) is let through: where the system refuses it, it may do so at any call.
    fn may_splice(&mut self) -> Result<(), SysError> {
        if self.plan.scenario.no_splice > 0 && self.rng.chance(self.plan.scenario.no_splice) {
            self.effects.sometimes.push(Sometimes::SpliceRefused);
            return Err(SysError::Unsupported);
        }
        Ok(())
    }

    /// Whether this call finds memory (ENOMEM, ENOBUFS). For a ctl_conn it always does: one that does not is lost, as by
    /// a reset.
    fn find_memory(&mut self, stream: &Stream) -> Result<(), SysError> {
        let chance = self.kernel.no_memory(self.proc);
        if chance > 0 && stream.1 != Role::Ctl && self.rng.chance(chance) {
            self.effects.sometimes.push(Sometimes::NoMemory);
            return Err(SysError::Exhausted);
        }
        Ok(())
    }

    fn check_shut(&mut self, stream: &Stream) {
        if self.kernel.is_shut(stream.0) {
            self.breach(Property::NothingAfterShut, format!("a write to socket {} after its shutdown", stream.0.0));
        }
    }
}

impl Listen for ThreadSys<'_> {
    type Listener = Socket;

    fn listen(&mut self, at: SocketAddr, token: Token) -> Result<(Socket, SocketAddr), SysError> {
        self.effects.listens += 1;
        let (sock, address) = self.kernel.listen(self.proc, at, 1024, self.plan.options(Role::Public))?;
        self.kernel.watch(sock, self.poll, token, false);
        Ok((Socket(sock), address))
    }

    fn adopt(&mut self, listener: &Socket, token: Token) -> Result<SocketAddr, SysError> {
        self.kernel.watch(listener.0, self.poll, token, false);
        Ok(self.kernel.local(listener.0))
    }

    fn bind_udp(&mut self, at: SocketAddr) -> Result<(Socket, SocketAddr), SysError> {
        self.effects.listens += 1;
        let (sock, address) = self.kernel.bind_udp(self.proc, at, self.plan.options(Role::Public))?;
        Ok((Socket(sock), address))
    }

    fn share(&mut self, listener: &Socket) -> Result<Stream, SysError> {
        Ok(Stream(self.kernel.share_udp(listener.0)?, Role::Public, RefCell::default()))
    }

    fn lend(&mut self, listener: &Socket, given: &Given) {
        self.effects.lent.push((given.clone(), listener.0));
    }

    fn accept(&mut self, listener: &Socket, role: Role) -> Result<(Stream, SocketAddr), SysError> {
        let taken = self.kernel.accept(listener.0);
        if taken == Err(Errno::EMFILE) {
            self.effects.sometimes.push(Sometimes::OutOfDescriptors);
        }
        let (sock, from) = taken?;
        if role == Role::Public {
            self.effects.accepted.push((sock, from));
        }
        Ok((Stream(sock, role, RefCell::default()), from))
    }

    fn certified(&self, name: Option<&str>) -> bool {
        name.is_some()
    }

    fn end_tls(&mut self, stream: &Stream, hello: &[u8], speaks: Speaks) -> Result<(), SysError> {
        // It is in several records.
        let mut behind = hello;
        while let [0x16, _, _, high, low, rest @ ..] = behind {
            behind = &rest[usize::from(u16::from_be_bytes([*high, *low]))..];
        }
        self.effects.unread.push((stream.0, hello.len() - behind.len(), behind.len()));
        self.effects.sometimes.push(Sometimes::TlsEnded);
        // What is behind a handshake is read when that is through.
        let handshake_due = behind.is_empty() && self.rng.chance(50);
        let behind = behind.iter().copied().collect();
        let agreed = agreed(speaks, self.kernel.remote(stream.0).port());
        stream.2.borrow_mut().sealed = Some(Sealed { handshake_due, agreed, said: false, behind });
        Ok(())
    }

    fn agreed(&mut self, stream: &Stream) -> Result<Option<Agreed>, SysError> {
        let mut owed = stream.2.borrow_mut();
        let sealed = owed.sealed.as_mut().expect("its TLS ends here");
        if core::mem::take(&mut sealed.handshake_due) {
            // Its end is an event of its own.
            self.kernel.watch_room(stream.0);
            return Err(SysError::WouldBlock);
        }
        Ok(sealed.agreed)
    }

    fn find_challenge(&mut self, newcomer: Token, name: &str) -> bool {
        // Only so many are looked for at once.
        let looked_for = name == MET || self.rng.chance(70);
        if looked_for {
            self.effects.challenges.push((newcomer, name.to_owned()));
        }
        looked_for
    }

    fn unlisten(&mut self, listener: Socket) {
        // What another process has taken over is not closed with a copy.
        if self.kernel.open_socks(self.proc).any(|sock| sock == listener.0) {
            self.kernel.close(listener.0, true);
        }
    }
}

impl Resolve for ThreadSys<'_> {
    fn resolve(&mut self, tag: Lookup, name: &str) {
        self.effects.lookups.push((tag, name.to_owned()));
    }
}

impl Tell<ToLoop<ToServerLoop<Stream>>> for ThreadSys<'_> {
    fn tell(&mut self, msg: ToLoop<ToServerLoop<Stream>>) {
        self.effects.mail.push((SERVER_LOOPS + msg.loop_index, Mail::ServerLoop(msg.message)));
    }
}

impl Tell<ToListener<Stream>> for ThreadSys<'_> {
    fn tell(&mut self, msg: ToListener<Stream>) {
        self.effects.mail.push((1, Mail::Listener(msg)));
    }
}

impl Tell<FromServerLoop<Stream>> for ThreadSys<'_> {
    fn tell(&mut self, msg: FromServerLoop<Stream>) {
        self.effects.mail.push((0, Mail::ServerMain(ToServerMain::Loop(msg))));
    }
}

impl Tell<FromListener> for ThreadSys<'_> {
    fn tell(&mut self, msg: FromListener) {
        self.effects.mail.push((0, Mail::ServerMain(ToServerMain::Listener(msg))));
    }
}

impl Tell<ToLoop<ToClientLoop>> for ThreadSys<'_> {
    fn tell(&mut self, msg: ToLoop<ToClientLoop>) {
        self.effects.mail.push((CLIENT_LOOPS + msg.loop_index, Mail::ClientLoop(msg.message)));
    }
}

impl Tell<ToPaths> for ThreadSys<'_> {
    fn tell(&mut self, msg: ToPaths) {
        self.effects.paths.push(msg);
    }
}

impl Tell<ToOperator> for ThreadSys<'_> {
    fn tell(&mut self, msg: ToOperator) {
        self.effects.answers.push(msg);
    }
}

impl Tell<FromClientLoop> for ThreadSys<'_> {
    fn tell(&mut self, msg: FromClientLoop) {
        self.effects.mail.push((0, Mail::ClientMain(ToClientMain::Loop(msg))));
    }
}
