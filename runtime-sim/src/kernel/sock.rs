//! One end of a connection, a listening socket, or a descriptor of a UDP socket, and what `poll` says of it.

use super::ids::{Errno, HostId, PollId, ProcId, SockId};
use core::net::SocketAddr;
use protocol_sm::driver::{Readiness, Token};
use protocol_sm::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Listening,
    /// SYN sent, no answer yet.
    Connecting,
    /// SYN received and answered; the peer has not confirmed.
    Answering,
    Up,
    /// A descriptor of a UDP socket, by its number. A `copy` has been made of another descriptor, or is connected.
    Datagrams {
        socket: usize,
        copy: bool,
    },
    /// TCP_CLOSE: nothing is sent or received any more.
    Dead,
}

/// Our FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fin {
    None,
    /// The write half is shut; the FIN goes out behind what is queued.
    Queued,
    Sent,
    Acked,
}

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    Syn,
    SynAck,
    Ack { received: u64, edge: u64, fin: bool },
    Data(Vec<u8>),
    Fin,
    Rst,
}

impl Packet {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::Syn | Self::SynAck | Self::Ack { .. } | Self::Fin | Self::Rst => 0,
        }
    }
}

/// How a socket is set up: its role decides (as production sets socket options).
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// SO_SNDBUF: bytes accepted and not yet acknowledged.
    pub send_buffer: usize,
    /// SO_RCVBUF: bytes received and not yet read.
    pub receive_buffer: usize,
    /// TCP_USER_TIMEOUT: for unacknowledged bytes, and for a window that stays closed.
    pub user_timeout: Option<Duration>,
    /// How long a dead path is tried with unacknowledged bytes (tcp_retries2, TCP_RTO_MAX_MS).
    pub dead_path: Duration,
    /// SO_KEEPALIVE: a silent peer is given up after this long.
    pub keepalive: Option<Duration>,
    /// SO_LINGER of zero seconds: the death of the process resets the connection.
    pub linger0: bool,
}

#[derive(Debug)]
pub(super) struct Sock {
    pub(super) stage: Stage,
    /// A Unix socket, and not one of TCP.
    pub(super) unix: bool,
    pub(super) host: HostId,
    pub(super) proc: ProcId,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) remote_host: HostId,
    pub(super) peer: Option<SockId>,
    /// Its descriptor is closed; the kernel finishes what was sent.
    pub(super) orphan: bool,
    pub(super) err: Option<Errno>,
    /// It has had an error, whoever has taken that.
    pub(super) failed: bool,
    /// The network has broken the connection, or kept something of it: nothing that its peer did.
    pub(super) struck: bool,
    pub(super) options: Options,

    // Sending.
    pub(super) sendq: VecDeque<u8>,
    pub(super) sent: u64,
    pub(super) acked: u64,
    /// The peer takes bytes up to here.
    pub(super) edge: u64,
    pub(super) fin: Fin,
    /// The peer takes nothing more (SEND_SHUTDOWN): of a Unix socket alone.
    pub(super) refused: bool,
    /// A writer found no room: tell when there is some (SOCK_NOSPACE).
    pub(super) nospace: bool,
    /// When something unacknowledged last made progress.
    pub(super) progress: Instant,
    /// How often that had been sent again in vain when its path was mended.
    pub(super) repeats: u32,
    pub(super) timer_armed: bool,
    pub(super) syn_retries: u32,

    // The wire towards the peer: in order, with arrival times.
    pub(super) wire: VecDeque<Packet>,
    pub(super) last_arrival: Instant,
    pub(super) link_free: Instant,
    /// Packets that should have arrived while the path was cut.
    pub(super) owed: usize,
    /// This connection's packets vanish for ever (a NAT forgot it).
    pub(super) blackholed: Option<Instant>,

    // Receiving.
    pub(super) recvq: VecDeque<Vec<u8>>,
    /// Bytes of `recvq.front()` that were read.
    pub(super) front_read: usize,
    pub(super) unread: usize,
    pub(super) received: u64,
    pub(super) advertised: u64,
    /// The peer's FIN came (SOCK_DONE, RCV_SHUTDOWN).
    pub(super) eof: bool,
    pub(super) last_heard: Instant,

    // Polling.
    pub(super) watch: Option<(PollId, Token)>,
    pub(super) queued: bool,
    /// Watched for room to write, too (EPOLLOUT).
    pub(super) for_room: bool,

    // Listening.
    pub(super) backlog: usize,
    pub(super) answering: usize,
    pub(super) children: VecDeque<SockId>,
    /// The listener that it came to, until it is accepted.
    pub(super) parent: Option<SockId>,
}

impl Sock {
    pub(super) fn new(host: HostId, proc: ProcId, options: Options) -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            stage: Stage::Dead,
            unix: false,
            host,
            proc,
            local: nowhere,
            remote: nowhere,
            remote_host: host,
            peer: None,
            orphan: false,
            err: None,
            failed: false,
            struck: false,
            options,
            sendq: VecDeque::new(),
            sent: 0,
            acked: 0,
            edge: 0,
            fin: Fin::None,
            refused: false,
            nospace: false,
            progress: Instant::ZERO,
            repeats: 0,
            timer_armed: false,
            syn_retries: 0,
            wire: VecDeque::new(),
            last_arrival: Instant::ZERO,
            link_free: Instant::ZERO,
            owed: 0,
            blackholed: None,
            recvq: VecDeque::new(),
            front_read: 0,
            unread: 0,
            received: 0,
            advertised: options.receive_buffer as u64,
            eof: false,
            last_heard: Instant::ZERO,
            watch: None,
            queued: false,
            for_room: false,
            backlog: 0,
            answering: 0,
            children: VecDeque::new(),
            parent: None,
        }
    }

    /// Bytes accepted and not yet acknowledged.
    pub(super) fn held(&self) -> usize {
        self.sendq.len() + usize::try_from(self.sent - self.acked).expect("in flight fits memory")
    }

    /// An error: kept once, for the first call that asks.
    pub(super) fn fail(&mut self, errno: Errno) {
        self.err = Some(errno);
        self.failed = true;
    }

    pub(super) fn room(&self) -> usize {
        self.options.send_buffer.saturating_sub(self.held())
    }

    /// `sk_stream_is_writeable`: at least a third of the buffer is free. `unix_writable`: three quarters.
    pub(super) fn writable(&self) -> bool {
        if self.unix {
            return self.held() * 4 <= self.options.send_buffer;
        }
        self.room() >= self.held() / 2 && self.room() > 0
    }

    /// Something that the peer must acknowledge is waiting.
    pub(super) fn pending(&self) -> bool {
        self.held() > 0 || matches!(self.fin, Fin::Queued | Fin::Sent)
    }

    /// What is reported of [`Sock::poll`].
    pub(super) fn watched(&mut self) -> Readiness {
        let ready = self.poll();
        Readiness { writable: ready.writable && self.for_room, ..ready }
    }

    /// `tcp_poll`, `unix_poll`. Looking for room and finding none asks to be told (SOCK_NOSPACE).
    pub(super) fn poll(&mut self) -> Readiness {
        match self.stage {
            Stage::Listening => Readiness { readable: !self.children.is_empty(), ..Readiness::default() },
            Stage::Connecting | Stage::Answering => Readiness { error: self.err.is_some(), ..Readiness::default() },
            Stage::Datagrams { .. } => {
                let error = self.err.is_some();
                Readiness { readable: self.unread > 0 || error, writable: true, hup: false, error }
            }
            Stage::Dead => Readiness { readable: true, writable: true, hup: true, error: self.err.is_some() },
            Stage::Up => {
                let shut = self.fin != Fin::None && !self.unix;
                let writable = shut || self.writable();
                self.nospace |= !writable;
                Readiness { readable: self.unread > 0 || self.eof, writable, hup: self.eof, error: self.err.is_some() }
            }
        }
    }
}
