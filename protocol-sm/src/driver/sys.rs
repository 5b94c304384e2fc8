//! The system calls that the drivers make, as a trait.

use super::Cx;
use super::slab::Token;
use crate::codes::{AbortCode, CloseCode, HandshakeRefusal, RefuseCode, TlsFailure, TunnelRefusal, Violation};
use crate::ids::{ClientId, ConnId, Epoch, TunnelId};
use crate::time::Instant;
use alloc::string::String;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

/// Why a call did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SysError {
    /// Not now: readiness will be reported (EAGAIN, EINPROGRESS).
    WouldBlock,
    /// The connection was reset, or is gone (ECONNRESET, EPIPE, ECONNABORTED).
    Reset,
    /// Nobody listens there (ECONNREFUSED).
    Refused,
    /// No way to get there (ENETUNREACH, EHOSTUNREACH, …).
    Unreachable,
    /// The peer stopped answering (ETIMEDOUT).
    TimedOut,
    /// Out of descriptors, buffers or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM).
    Exhausted,
    /// The address is taken (EADDRINUSE).
    InUse,
    /// Not permitted (EACCES, EPERM).
    Denied,
    /// The connection is encrypted, and that went wrong. It is lost.
    Tls(TlsFailure),
    /// Anything else: the system's number.
    Other(i32),
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("would block"),
            Self::Reset => f.write_str("connection reset"),
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Exhausted => f.write_str("out of descriptors or memory"),
            Self::InUse => f.write_str("address in use"),
            Self::Denied => f.write_str("permission denied"),
            Self::Tls(failure) => write!(f, "TLS: {failure}"),
            Self::Other(errno) => write!(f, "system error {errno}"),
        }
    }
}

/// The outcome of a [`Sys::recv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes read; 0 is the end of the stream.
    pub bytes: usize,
    /// Nothing more was there: the next bytes will be reported as readiness.
    pub drained: bool,
}

/// What an edge-triggered poll reported of a socket since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Readiness {
    /// Bytes, an end or an error can be read.
    pub readable: bool,
    /// There is room to write, or a connect has ended.
    pub writable: bool,
    /// The peer has shut its write half, or the connection is gone.
    pub hup: bool,
    /// The socket has an error to take.
    pub error: bool,
}

/// What a connection is for: decides its socket options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A ctl_conn.
    Ctl,
    /// A proxy_conn.
    Proxy,
    /// A local_conn.
    Local,
    /// A public_conn.
    Public,
}

/// The system, as a driver sees it. Every stream is non-blocking. Calls that were interrupted (EINTR) are
/// repeated by the implementation. Streams and pipes are handed back exactly once, to `close`, `reset` or
/// `recycle`.
pub trait Sys {
    /// A TCP connection.
    type Stream;
    /// A pipe that is empty when handed out.
    type Pipe;

    /// Reports readiness of `stream` as `token` from now on, edge-triggered, until it is closed or unwatched. What
    /// can be read already is reported once; room to write need not be before a write found none (`WouldBlock`).
    ///
    /// # Errors
    /// [`SysError::Exhausted`].
    fn watch(&mut self, stream: &Self::Stream, token: Token) -> Result<(), SysError>;

    /// Stops reporting, so that another thread can watch the stream.
    fn unwatch(&mut self, stream: &Self::Stream);

    /// Begins to connect, and watches the new stream as `token`. The caller asks [`Sys::take_error`] at once whether it
    /// is through: of one that is, nothing is reported; any other becomes writable then, or has an error.
    ///
    /// # Errors
    /// The connect failed at once.
    fn connect(&mut self, to: SocketAddr, role: Role, token: Token) -> Result<Self::Stream, SysError>;

    /// Takes the socket's pending error; after a connect, `WouldBlock` while it is not through.
    ///
    /// # Errors
    /// The pending error.
    fn take_error(&mut self, stream: &Self::Stream) -> Result<(), SysError>;

    /// Reads up to `into.len()` bytes, which is not 0.
    ///
    /// # Errors
    /// As the system says.
    fn recv(&mut self, stream: &Self::Stream, into: &mut [u8]) -> Result<Received, SysError>;

    /// Writes some of `from`, which is not empty. After `WouldBlock`, the next call on this stream must begin with
    /// the same bytes: some of them may have been encrypted already.
    ///
    /// # Errors
    /// As the system says.
    fn send(&mut self, stream: &Self::Stream, from: &[u8]) -> Result<usize, SysError>;

    /// Moves up to `max` bytes from the stream into the empty `pipe`; 0 is the end of the stream.
    ///
    /// # Errors
    /// As the system says; as the pipe is empty, `WouldBlock` always means the stream.
    fn splice_in(&mut self, stream: &Self::Stream, pipe: &Self::Pipe, max: usize) -> Result<usize, SysError>;

    /// Moves up to `max` bytes, all that it holds, from the pipe into the stream.
    ///
    /// # Errors
    /// As the system says; as the pipe holds bytes, `WouldBlock` always means the stream.
    fn splice_out(&mut self, pipe: &Self::Pipe, stream: &Self::Stream, max: usize) -> Result<usize, SysError>;

    /// Whether [`Sys::splice_in`] and [`Sys::splice_out`] work on `stream`: not where its bytes are encrypted in
    /// user space. The answer never changes during a transfer.
    fn can_splice(&self, stream: &Self::Stream) -> bool;

    /// Whether whoever reads along on the way sees nothing of what `stream` carries. Known once something has been
    /// received.
    fn is_encrypted(&self, stream: &Self::Stream) -> bool;

    /// An empty pipe and how many bytes it is good for, or `None` if there is none worth having: copy instead.
    fn pipe(&mut self) -> Option<(Self::Pipe, usize)>;

    /// Gives a pipe back. Where it still holds bytes it is destroyed.
    fn recycle(&mut self, pipe: Self::Pipe, empty: bool);

    /// Shuts the write half: the peer reads an end after everything sent.
    fn shut_write(&mut self, stream: &Self::Stream);

    /// Closes in good order: what was sent still arrives.
    fn close(&mut self, stream: Self::Stream);

    /// Closes with a reset: the peer sees an error, never an end.
    fn reset(&mut self, stream: Self::Stream);

    /// Fills `into` with random bytes fit for secrets.
    fn random(&mut self, into: &mut [u8]);

    /// Something worth a log line or a place in a trace.
    fn note(&mut self, note: Note);
}

/// Listening sockets, for the threads that accept.
pub trait Listen: Sys {
    /// A listening TCP socket.
    type Listener;

    /// Binds and listens at `at` (port 0: any free one), and reports its readiness as `token`, edge-triggered.
    /// Returns the real address too.
    ///
    /// # Errors
    /// [`SysError::InUse`], [`SysError::Denied`], [`SysError::Exhausted`], or another.
    fn listen(&mut self, at: SocketAddr, token: Token) -> Result<(Self::Listener, SocketAddr), SysError>;

    /// Takes one connection; not watched yet.
    ///
    /// # Errors
    /// [`SysError::WouldBlock`] when there is none; [`SysError::Reset`] if it went away meanwhile;
    /// [`SysError::Exhausted`].
    fn accept(&mut self, listener: &Self::Listener, role: Role) -> Result<(Self::Stream, SocketAddr), SysError>;

    /// Closes a listener; connections not yet accepted are reset.
    fn unlisten(&mut self, listener: Self::Listener);
}

/// Names, looked up off the loops.
pub trait Resolve {
    /// Looks up `name`, a `HOST:PORT`, and answers with a message that carries `tag`.
    fn resolve(&mut self, tag: Lookup, name: &str);
}

/// What a name is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lookup {
    /// The server.
    Server,
    /// A tunnel's LocalServer.
    Local(TunnelId),
}

/// What a thread runs: a driver over a system `S`. The thread polls, then calls [`Driver::on_message`] for
/// each message, [`Driver::on_ready`] for each event, [`Driver::on_deadline`] if [`Driver::next_deadline`]
/// has passed, and [`Driver::run_busy`]; it polls without waiting while [`Driver::is_busy`].
pub trait Driver<S: Sys> {
    /// What other threads tell it.
    type Message;
    /// Another thread's message.
    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: Self::Message);
    /// A socket became ready. A token of something that is gone is ignored.
    fn on_ready(&mut self, cx: &mut Cx<'_, S>, token: Token, ready: Readiness);
    /// Time has passed.
    fn on_deadline(&mut self, cx: &mut Cx<'_, S>);
    /// When to call [`Driver::on_deadline`] next.
    fn next_deadline(&self) -> Option<Instant>;
    /// Goes on with what was cut short so that others get their turn.
    fn run_busy(&mut self, cx: &mut Cx<'_, S>);
    /// Whether [`Driver::run_busy`] has something to do at once.
    fn is_busy(&self) -> bool;
}

/// 32 random bits from `sys`.
pub(crate) fn random_u32(sys: &mut impl Sys) -> u32 {
    let mut bytes = [0; 4];
    sys.random(&mut bytes);
    u32::from_le_bytes(bytes)
}

/// Sends a message to another thread, in order per receiver. Never blocks.
pub trait Tell<M> {
    /// Sends `msg`.
    fn tell(&mut self, msg: M);
}

/// What a runtime may want to log, count or draw. `control` is the server's serial number of a client's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A transfer began.
    Started {
        /// On this conn.
        conn: ConnId,
        /// Its number there.
        epoch: Epoch,
        /// Through this tunnel.
        tunnel: TunnelId,
        /// For this visitor.
        visitor: SocketAddr,
    },
    /// A transfer ended well, in both directions and on both sides.
    Finished {
        /// On this conn.
        conn: ConnId,
        /// Its number there.
        epoch: Epoch,
        /// Bytes into the proxy_conn.
        egress: u64,
        /// Bytes out of it.
        ingress: u64,
    },
    /// A transfer was cut short.
    Aborted {
        /// On this conn.
        conn: ConnId,
        /// Its number there.
        epoch: Epoch,
        /// Why.
        code: AbortCode,
        /// Whether the peer said so first.
        by_peer: bool,
    },
    /// The client could not reach its LocalServer.
    Refused {
        /// On this conn.
        conn: ConnId,
        /// Its number there.
        epoch: Epoch,
        /// Why.
        code: RefuseCode,
        /// Through this tunnel.
        tunnel: TunnelId,
    },
    /// A visitor was reset without a transfer.
    VisitorDropped {
        /// Who.
        visitor: SocketAddr,
        /// Which tunnel.
        tunnel: TunnelId,
        /// Why.
        why: Dropped,
    },
    /// A proxy_conn became idle for the first time.
    ConnUp {
        /// Which.
        conn: ConnId,
    },
    /// An idle proxy_conn is gone.
    ConnDown {
        /// Which.
        conn: ConnId,
    },
    /// A proxy_conn could not be opened.
    ConnFailed {
        /// Which.
        conn: ConnId,
        /// What the system said, if it was the system.
        error: Option<SysError>,
    },
    /// A message about something that is gone: ignored.
    Stale {
        /// About this conn.
        conn: ConnId,
    },
    /// A client's session began, or goes on over a new ctl_conn.
    SessionUp {
        /// Who.
        client: ClientId,
        /// From where.
        from: SocketAddr,
        /// Whether it goes on.
        resumed: bool,
    },
    /// A session lost its ctl_conn and waits for a resume.
    SessionDetached {
        /// Whose.
        client: ClientId,
    },
    /// A session ended.
    SessionOver {
        /// Whose.
        client: ClientId,
        /// Why.
        code: CloseCode,
    },
    /// A tunnel was opened at this address, or refused.
    Tunnel {
        /// Whose.
        client: ClientId,
        /// Which.
        tunnel: TunnelId,
        /// Its name.
        name: String,
        /// Where, or why not.
        outcome: Result<SocketAddr, TunnelRefusal>,
    },
    /// The client's side of that: reachable at this address.
    Forwarding {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Where.
        public: SocketAddr,
    },
    /// The client's side of that: not opened; it will be tried again.
    NotForwarding {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Why.
        code: TunnelRefusal,
    },
    /// A connection was turned away in its handshake.
    HandshakeRefused {
        /// From where.
        from: SocketAddr,
        /// Why.
        refusal: HandshakeRefusal,
    },
    /// A connection was closed without a word before its handshake was through.
    HandshakeDropped {
        /// From where.
        from: SocketAddr,
        /// Why.
        why: HandshakeEnd,
    },
    /// The client could not reach the server, or lost it, and tries again after a pause.
    Reconnecting {
        /// What happened.
        why: Disconnect,
        /// The pause.
        pause: Duration,
    },
    /// The peer broke the protocol.
    Violation {
        /// On this conn, if it was on one.
        conn: Option<ConnId>,
        /// How.
        violation: Violation,
    },
}

/// Why a client has no ctl_conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disconnect {
    /// The server's name does not resolve.
    Unresolved,
    /// No connection to the server.
    Unreachable(SysError),
    /// Whoever answers there does not speak our protocol.
    NotCproxy,
    /// The server refused, for now.
    Refused(HandshakeRefusal),
    /// The server's proof is wrong: it does not know the token.
    WrongServer,
    /// The connection could not be encrypted as it must be.
    Tls(TlsFailure),
    /// The connection was lost.
    Lost,
    /// Nothing came for `heartbeat_timeout`, or the handshake took longer than `handshake_timeout`.
    Silent,
    /// The server ended the session.
    Closed(CloseCode),
    /// The server broke the protocol.
    Violation(Violation),
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved => f.write_str("the server's name does not resolve"),
            Self::Unreachable(error) => write!(f, "cannot connect to the server: {error}"),
            Self::NotCproxy => f.write_str("what listens there is no cproxy-server's ctl port"),
            Self::Refused(refusal) => write!(f, "the server refused: {refusal}"),
            Self::WrongServer => f.write_str("the server does not know the token"),
            Self::Tls(failure) => failure.fmt(f),
            Self::Lost => f.write_str("the connection to the server was lost"),
            Self::Silent => f.write_str("the server does not answer"),
            Self::Closed(code) => write!(f, "the session was closed: {code}"),
            Self::Violation(violation) => write!(f, "the server broke the protocol: {violation}"),
        }
    }
}

/// Why a connection was closed before its handshake was through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeEnd {
    /// It took too long.
    TooSlow,
    /// As many from its source address are under way as may be, and it was the oldest.
    SourceCrowded,
    /// As many are under way as may be, most of them from its source address, and it was the oldest of these.
    Crowded,
}

impl fmt::Display for HandshakeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooSlow => "it took longer than handshake_timeout",
            Self::SourceCrowded => "more than max_handshakes_per_source from its address",
            Self::Crowded => "more than max_handshakes in all, and most of them from its address",
        })
    }
}

/// Why a visitor was reset without a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// No proxy_conn came in time.
    WaitedTooLong,
    /// As many wait as may wait.
    QueueFull,
    /// As many are served as may be.
    TooMany,
    /// Its tunnel serves as many as its client asked for at most.
    TunnelFull,
    /// Who may visit the tunnel does not include its source address.
    SourceDenied,
    /// Too many came from its source address of late.
    TooOften,
    /// Its tunnel or client is gone.
    Gone,
    /// The server is out of descriptors or memory.
    Resources,
    /// It went away by itself while it waited.
    Left,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WaitedTooLong => "no proxy_conn came within wait_timeout",
            Self::QueueFull => "max_waiting visitors wait already",
            Self::TooMany => "the client serves max_connections already",
            Self::TunnelFull => "the tunnel serves its max_connections already",
            Self::SourceDenied => "its address is not one that may visit the tunnel (allow_sources, deny_sources)",
            Self::TooOften => "more came from its address than max_connection_rate a minute",
            Self::Gone => "the tunnel is gone",
            Self::Resources => "out of descriptors or memory",
            Self::Left => "it left while it waited",
        })
    }
}
