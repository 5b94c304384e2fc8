//! The two systems that the rules are held against.

use core::net::SocketAddr;
use nix::sys::socket::Backlog;
use protocol_sm::driver::{Listen, Readiness, Role, Splice, Streams, SysError, Token};
use protocol_sm::settings::Origin;
use protocol_sm::time::Instant;
use runtime_sim::kernel::{Errno, Kernel, Options, PipeId, PollId, ProcId, SockId};
use runtime_sim::trace::Trace;
use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

pub(super) const fn token(number: u64) -> Token {
    Token::from_number(number).expect("not 0")
}

/// What the rules need of a system.
pub(super) trait Net {
    type Stream;
    type Listener;
    type Pipe;

    fn new() -> Self;
    fn listen_at(&mut self, at: SocketAddr, token: Token) -> Result<(Self::Listener, SocketAddr), SysError>;
    fn listen(&mut self, token: Token) -> (Self::Listener, SocketAddr) {
        self.listen_at(SocketAddr::from(([127, 0, 0, 1], 0)), token).unwrap()
    }
    fn local(&mut self, listener: &Self::Listener) -> SocketAddr;
    fn unlisten(&mut self, listener: Self::Listener);
    /// Lets so many connections wait, and one more.
    fn set_backlog(&mut self, listener: &Self::Listener, backlog: usize);
    /// Leaves the process no descriptor, or as many as before.
    #[allow(dead_code)] // only `descriptors.rs` has a process of its own
    fn exhaust(&mut self, exhausted: bool);
    fn connect(&mut self, to: SocketAddr, token: Token) -> Result<Self::Stream, SysError>;
    fn accept(&mut self, listener: &Self::Listener) -> Result<Self::Stream, SysError>;
    fn watch(&mut self, stream: &Self::Stream, token: Token);
    fn unwatch(&mut self, stream: &Self::Stream);
    fn take_error(&mut self, stream: &Self::Stream) -> Result<(), SysError>;
    fn recv(&mut self, stream: &Self::Stream, into: &mut [u8]) -> Result<usize, SysError>;
    fn peek(&mut self, stream: &Self::Stream, into: &mut [u8]) -> Result<usize, SysError>;
    fn send(&mut self, stream: &Self::Stream, from: &[u8]) -> Result<usize, SysError>;
    fn pipe(&mut self) -> Self::Pipe;
    fn splice_in(&mut self, stream: &Self::Stream, pipe: &Self::Pipe, max: usize) -> Result<usize, SysError>;
    fn splice_out(&mut self, pipe: &Self::Pipe, stream: &Self::Stream, max: usize) -> Result<usize, SysError>;
    fn read_pipe(&mut self, pipe: &Self::Pipe, into: &mut [u8]) -> Result<(), SysError>;
    /// SIOCOUTQ.
    fn unsent(&mut self, stream: &Self::Stream) -> usize;
    fn shut_write(&mut self, stream: &Self::Stream);
    fn close(&mut self, stream: Self::Stream);
    fn reset(&mut self, stream: Self::Stream);

    /// Lets a little time pass, and returns what was reported meanwhile.
    fn poll(&mut self) -> Vec<(Token, Readiness)>;
    /// What was reported and not looked at yet.
    fn seen(&mut self) -> &mut BTreeMap<Token, Readiness>;

    /// Waits until what was reported of `token`, all since the last time together, fits.
    fn until(&mut self, token: Token, fits: impl Fn(&Readiness) -> bool) -> Readiness {
        // Generous: 1000 rounds of 20 ms each.
        for _ in 0..1000 {
            if let Some(ready) = self.seen().get(&token).copied()
                && fits(&ready)
            {
                self.seen().remove(&token);
                return ready;
            }
            self.gather();
        }
        panic!("{token:?} did not become what was expected; it is {:?}", self.seen().get(&token));
    }

    /// Waits until a connect is through.
    fn connected(&mut self, stream: &Self::Stream) {
        for _ in 0..1000 {
            match self.take_error(stream) {
                Ok(()) => return,
                Err(SysError::WouldBlock) => self.gather(),
                Err(error) => panic!("a connect failed: {error}"),
            }
        }
        panic!("a connect is never through");
    }

    /// Whether nothing is reported of `token` for a while.
    fn quiet(&mut self, token: Token) -> bool {
        self.gather();
        self.seen().remove(&token);
        self.gather();
        !self.seen().contains_key(&token)
    }

    fn gather(&mut self) {
        for (token, ready) in self.poll() {
            let all = self.seen().entry(token).or_default();
            all.readable |= ready.readable;
            all.writable |= ready.writable;
            all.hup |= ready.hup;
            all.error |= ready.error;
        }
    }
}

/// The simulated kernel: two machines would do the same, so all is on one.
pub(super) struct Simulated {
    pub(super) kernel: Kernel,
    pub(super) proc: ProcId,
    pub(super) poll: PollId,
    seen: BTreeMap<Token, Readiness>,
}

pub(super) const OPTIONS: Options = Options {
    send_buffer: 50_000,
    receive_buffer: 30_000,
    user_timeout: None,
    dead_path: Duration::from_secs(900),
    keepalive: None,
    linger0: false,
};

impl Simulated {
    /// Production watches for room once a write has found none.
    fn wrote(&mut self, stream: SockId, result: Result<usize, Errno>) -> Result<usize, SysError> {
        if result == Err(Errno::EAGAIN) {
            self.kernel.watch_room(stream);
        }
        Ok(result?)
    }
}

impl Net for Simulated {
    type Stream = SockId;
    type Listener = SockId;
    type Pipe = PipeId;

    fn new() -> Self {
        let mut kernel = Kernel::new(1, Trace::new(false));
        let host = kernel.host();
        let proc = kernel.spawn(host, 1000);
        let poll = kernel.epoll(proc);
        Self { kernel, proc, poll, seen: BTreeMap::new() }
    }

    fn listen_at(&mut self, at: SocketAddr, token: Token) -> Result<(SockId, SocketAddr), SysError> {
        let (sock, at) = self.kernel.listen(self.proc, at, 128, OPTIONS)?;
        self.kernel.watch(sock, self.poll, token, false);
        Ok((sock, at))
    }

    fn local(&mut self, listener: &SockId) -> SocketAddr {
        self.kernel.local(*listener)
    }

    fn unlisten(&mut self, listener: SockId) {
        self.kernel.close(listener, false);
    }

    fn set_backlog(&mut self, listener: &SockId, backlog: usize) {
        self.kernel.set_backlog(*listener, backlog);
    }

    fn exhaust(&mut self, exhausted: bool) {
        let limit = if exhausted { self.kernel.open_fds(self.proc) } else { 1000 };
        self.kernel.set_fd_limit(self.proc, limit);
    }

    fn connect(&mut self, to: SocketAddr, token: Token) -> Result<SockId, SysError> {
        let sock = self.kernel.connect(self.proc, to, OPTIONS)?;
        self.kernel.watch(sock, self.poll, token, true);
        Ok(sock)
    }

    fn accept(&mut self, listener: &SockId) -> Result<SockId, SysError> {
        Ok(self.kernel.accept(*listener)?.0)
    }

    fn watch(&mut self, stream: &SockId, token: Token) {
        self.kernel.watch(*stream, self.poll, token, false);
    }

    fn unwatch(&mut self, stream: &SockId) {
        self.kernel.unwatch(*stream);
    }

    fn take_error(&mut self, stream: &SockId) -> Result<(), SysError> {
        Ok(self.kernel.take_error(*stream)?)
    }

    fn recv(&mut self, stream: &SockId, into: &mut [u8]) -> Result<usize, SysError> {
        Ok(self.kernel.recv(*stream, into)?)
    }

    fn peek(&mut self, stream: &SockId, into: &mut [u8]) -> Result<usize, SysError> {
        Ok(self.kernel.peek(*stream, into)?)
    }

    fn send(&mut self, stream: &SockId, from: &[u8]) -> Result<usize, SysError> {
        let sent = self.kernel.send(*stream, from);
        self.wrote(*stream, sent)
    }

    fn pipe(&mut self) -> PipeId {
        self.kernel.pipe(self.proc).unwrap()
    }

    fn splice_in(&mut self, stream: &SockId, pipe: &PipeId, max: usize) -> Result<usize, SysError> {
        Ok(self.kernel.splice_in(*stream, *pipe, max)?)
    }

    fn read_pipe(&mut self, pipe: &PipeId, into: &mut [u8]) -> Result<(), SysError> {
        self.kernel.read_pipe(*pipe, into);
        Ok(())
    }

    fn splice_out(&mut self, pipe: &PipeId, stream: &SockId, max: usize) -> Result<usize, SysError> {
        let moved = self.kernel.splice_out(*pipe, *stream, max);
        self.wrote(*stream, moved)
    }

    fn unsent(&mut self, stream: &SockId) -> usize {
        self.kernel.unsent(*stream)
    }

    fn shut_write(&mut self, stream: &SockId) {
        self.kernel.shut_write(*stream).ok();
    }

    fn close(&mut self, stream: SockId) {
        self.kernel.close(stream, false);
    }

    fn reset(&mut self, stream: SockId) {
        self.kernel.close(stream, true);
    }

    fn poll(&mut self) -> Vec<(Token, Readiness)> {
        let until: Instant = self.kernel.now() + Duration::from_millis(20);
        while self.kernel.next_event().is_some_and(|at| at <= until) {
            self.kernel.step();
        }
        self.kernel.advance(until);
        self.kernel.poll(self.poll, usize::MAX)
    }

    fn seen(&mut self) -> &mut BTreeMap<Token, Readiness> {
        &mut self.seen
    }
}

/// Linux, through production's own system calls.
pub(super) struct Linux {
    pub(super) sys: runtime_epoll::Linux<()>,
    poller: runtime_epoll::Poller,
    /// Descriptors that only take up room.
    #[allow(dead_code)] // as `exhaust`
    ballast: Vec<File>,
    doors: BTreeMap<u64, SocketAddr>,
    seen: BTreeMap<Token, Readiness>,
}

impl Net for Linux {
    type Stream = <runtime_epoll::Linux<()> as Streams>::Stream;
    type Listener = (<runtime_epoll::Linux<()> as Listen>::Listener, u64);
    type Pipe = <runtime_epoll::Linux<()> as Splice>::Pipe;

    fn new() -> Self {
        let (poller, sys) = runtime_epoll::Linux::new(()).unwrap();
        Self { sys, poller, ballast: Vec::new(), doors: BTreeMap::new(), seen: BTreeMap::new() }
    }

    fn listen_at(&mut self, at: SocketAddr, token: Token) -> Result<(Self::Listener, SocketAddr), SysError> {
        let (listener, at) = self.sys.listen(at, token)?;
        self.doors.insert(token.number(), at);
        Ok(((listener, token.number()), at))
    }

    fn local(&mut self, listener: &Self::Listener) -> SocketAddr {
        self.doors[&listener.1]
    }

    fn unlisten(&mut self, listener: Self::Listener) {
        self.sys.unlisten(listener.0);
    }

    fn set_backlog(&mut self, listener: &Self::Listener, backlog: usize) {
        let backlog = Backlog::new(i32::try_from(backlog).unwrap()).unwrap();
        nix::sys::socket::listen(&listener.0, backlog).unwrap();
    }

    fn exhaust(&mut self, exhausted: bool) {
        self.ballast.clear();
        while exhausted && let Ok(file) = File::open("/dev/null") {
            self.ballast.push(file);
        }
    }

    fn connect(&mut self, to: SocketAddr, token: Token) -> Result<Self::Stream, SysError> {
        self.sys.connect(&Origin::default(), to, Role::Local, token)
    }

    fn accept(&mut self, listener: &Self::Listener) -> Result<Self::Stream, SysError> {
        Ok(self.sys.accept(&listener.0, Role::Public)?.0)
    }

    fn watch(&mut self, stream: &Self::Stream, token: Token) {
        self.sys.watch(stream, token).unwrap();
    }

    fn unwatch(&mut self, stream: &Self::Stream) {
        self.sys.unwatch(stream);
    }

    fn take_error(&mut self, stream: &Self::Stream) -> Result<(), SysError> {
        self.sys.take_error(stream)
    }

    fn recv(&mut self, stream: &Self::Stream, into: &mut [u8]) -> Result<usize, SysError> {
        Ok(self.sys.recv(stream, into)?.bytes)
    }

    fn peek(&mut self, stream: &Self::Stream, into: &mut [u8]) -> Result<usize, SysError> {
        self.sys.peek(stream, into)
    }

    fn send(&mut self, stream: &Self::Stream, from: &[u8]) -> Result<usize, SysError> {
        self.sys.send(stream, from)
    }

    fn pipe(&mut self) -> Self::Pipe {
        self.sys.pipe().expect("a pipe is to be had").0
    }

    fn splice_in(&mut self, stream: &Self::Stream, pipe: &Self::Pipe, max: usize) -> Result<usize, SysError> {
        self.sys.splice_in(stream, pipe, max)
    }

    fn splice_out(&mut self, pipe: &Self::Pipe, stream: &Self::Stream, max: usize) -> Result<usize, SysError> {
        self.sys.splice_out(pipe, stream, max)
    }

    fn read_pipe(&mut self, pipe: &Self::Pipe, into: &mut [u8]) -> Result<(), SysError> {
        self.sys.read_pipe(pipe, into)
    }

    fn unsent(&mut self, stream: &Self::Stream) -> usize {
        self.sys.unsent(stream)
    }

    fn shut_write(&mut self, stream: &Self::Stream) {
        self.sys.shut_write(stream);
    }

    fn close(&mut self, stream: Self::Stream) {
        self.sys.close(stream);
    }

    fn reset(&mut self, stream: Self::Stream) {
        self.sys.reset(stream);
    }

    fn poll(&mut self) -> Vec<(Token, Readiness)> {
        let mut ready = Vec::new();
        self.sys.poll(&mut self.poller, Some(Duration::from_millis(20)), &mut ready).unwrap();
        ready
    }

    fn seen(&mut self) -> &mut BTreeMap<Token, Readiness> {
        &mut self.seen
    }
}
