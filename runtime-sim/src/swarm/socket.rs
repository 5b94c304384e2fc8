//! A non-blocking socket over turmoil's TcpStream, and what its two ends share beside it.
//!
//! turmoil moves the bytes, with latency, holds and losses. What it has not is added here, by a [`Line`] that both
//! ends of a connection know:
//! - **a reset on purpose.** turmoil resets only where data comes to a closed socket or lies unread in one. Here an
//!   end that is reset says so on the line, and the FIN that turmoil sends is read as that reset: in order, after the
//!   bytes sent before it. If the FIN was sent before, the other end sees the reset as soon as it has read the FIN.
//! - **a window in bytes.** turmoil counts writes. Here a sender may be so many bytes ahead of its reader; that the
//!   reader took some is known at once, without latency.
//! - **death from outside.** A line can be reset as if by a middlebox (both ends see it at once, and may still read
//!   what had come), or turned into a black hole: nothing comes any more, and both ends time out after a while, as
//!   with keepalive or TCP_USER_TIMEOUT.
//!
//! So this ring tells a clean end from a reset, and a reset from silence. It cannot tell *which* reset overtook
//! what: ours never overtake data, turmoil's own may. Nor does it know half-filled segments, retransmission, or an
//! acknowledgement that is late: those belong to the simulated kernel.

use super::lines::{self, Fate, Line};
use super::options::Lie;
use super::stage::Stage;
use crate::kernel::{ProcId, SockId};
use crate::oracle::{Kind, Property};
use protocol_sm::driver::{Readiness, Role, SysError};
use protocol_sm::time::Instant;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

/// What a slow network and a busy host may add to a deadline.
const SLACK: Duration = Duration::from_secs(10);

enum State {
    Connecting(Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>),
    Up(TcpStream),
    Dead,
}

/// See the module.
pub(super) struct Socket {
    stage: Rc<Stage>,
    owner: ProcId,
    role: Option<Role>,
    state: State,
    line: Option<Rc<RefCell<Line>>>,
    /// The connecting end's port: what charts call it.
    name: SockId,
    /// Which end of the line: 0 connected, 1 accepted.
    end: usize,
    inbox: VecDeque<u8>,
    /// When something came last.
    heard: Instant,
    eof: bool,
    /// The pending error: told once.
    error: Option<SysError>,
    shut: bool,
    /// A send found no room: say when there is some.
    blocked: bool,
    /// Something has changed since the last report.
    edge: bool,
    /// What the death of the process does: it resets our programs' connections (SO_LINGER of zero seconds), and ends
    /// others' cleanly.
    dies_by_reset: bool,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("owner", &self.owner).field("role", &self.role).finish_non_exhaustive()
    }
}

impl Socket {
    fn new(stage: &Rc<Stage>, owner: ProcId, role: Option<Role>, state: State) -> Self {
        Self {
            stage: Rc::clone(stage),
            owner,
            role,
            state,
            line: None,
            name: SockId(0),
            end: 0,
            inbox: VecDeque::new(),
            heard: stage.now(),
            eof: false,
            error: None,
            shut: false,
            blocked: false,
            edge: false,
            dies_by_reset: role.is_some(),
        }
    }

    /// Begins to connect. `role` is `None` for those who are not our programs.
    pub(super) fn connect(stage: &Rc<Stage>, owner: ProcId, role: Option<Role>, to: SocketAddr) -> Self {
        let mut connecting: Pin<Box<dyn Future<Output = _>>> = Box::pin(TcpStream::connect(to));
        // The SYN goes out now; whether it is answered is seen at the next pull.
        let begun = connecting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(begun.is_pending() || matches!(begun, Poll::Ready(Err(_))), "nobody can have accepted yet");
        let mut socket = Self::new(stage, owner, role, State::Connecting(connecting));
        if begun.is_ready() {
            socket.fail(SysError::Refused);
        }
        socket
    }

    /// Takes what a listener accepted, one of our programs' or another.
    pub(super) fn accepted(stage: &Rc<Stage>, owner: ProcId, ours: bool, stream: TcpStream) -> Self {
        let mut socket = Self::new(stage, owner, None, State::Dead);
        socket.end = 1;
        socket.dies_by_reset = ours;
        socket.attach(stream);
        socket
    }

    /// The address that the peer is connected to.
    pub(super) fn own_address(&self) -> SocketAddr {
        let Some(line) = &self.line else { return SocketAddr::from(([0, 0, 0, 0], 0)) };
        let (connected, accepted) = line.borrow().key;
        if self.end == 0 { connected } else { accepted }
    }

    /// Says what our program uses an accepted connection for.
    pub(super) fn set_role(&self, role: Role) {
        if let Some(line) = &self.line {
            line.borrow_mut().role = Some(role);
        }
    }

    /// What our program uses it for.
    pub(super) fn role(&self) -> Option<Role> {
        self.role.or(self.line.as_ref()?.borrow().role)
    }

    /// A middlebox resets it.
    pub(super) fn strike(&self) {
        if let Some(line) = &self.line {
            line.borrow_mut().kill(Fate::Reset);
        }
    }

    fn attach(&mut self, stream: TcpStream) {
        let line = self.stage.lines.get(lines::key(&stream, self.end == 0), self.end);
        {
            let mut line = line.borrow_mut();
            line.role = line.role.or(self.role);
            self.name = SockId(line.key.0.port().into());
        }
        self.line = Some(line);
        self.state = State::Up(stream);
        self.heard = self.stage.now();
        self.edge = true;
    }

    /// Whether it is connecting still.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting(_))
    }

    /// When it dies by itself, if it is on a silent line.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (&self.state, self.line.as_ref()?.borrow().fate?) {
            (State::Up(_), Fate::Silent(since)) => Some(since + self.stage.plan.keepalive),
            _ => None,
        }
    }

    /// Takes in what has come, and asks to be woken when more does.
    pub(super) fn pull(&mut self, cx: &mut Context<'_>) {
        if let State::Connecting(connecting) = &mut self.state {
            match connecting.as_mut().poll(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(stream)) => self.attach(stream),
                Poll::Ready(Err(_)) => return self.fail(SysError::Refused),
            }
        }
        let Some(line) = self.line.clone() else { return };
        let mut line = line.borrow_mut();
        line.ends[self.end].waker = Some(cx.waker().clone());
        self.check_silence(line.role);
        match line.fate {
            Some(Fate::Reset) => return self.fail(SysError::Reset),
            Some(Fate::Silent(since)) => {
                if self.stage.now() >= since + self.stage.plan.keepalive {
                    self.fail(SysError::TimedOut);
                }
                return;
            }
            None => {}
        }
        self.take_in(cx, &line);
        if self.blocked && self.room(&line) > self.stage.plan.window / 3 {
            self.blocked = false;
            self.edge = true;
        }
    }

    fn take_in(&mut self, cx: &mut Context<'_>, line: &Line) {
        let other = &line.ends[1 - self.end];
        while let (State::Up(stream), false) = (&mut self.state, self.eof) {
            let mut bytes = [0; 16 * 1024];
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(stream).poll_read(cx, &mut buf) {
                Poll::Pending => return,
                Poll::Ready(Err(_)) => self.fail(SysError::Reset),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    if other.reset && !other.fin {
                        self.fail(SysError::Reset);
                    } else {
                        self.eof = true;
                        self.trace("FIN", &[]);
                    }
                    self.edge = true;
                }
                Poll::Ready(Ok(())) => {
                    let came = buf.filled();
                    self.inbox.extend(came);
                    self.heard = self.stage.now();
                    self.edge = true;
                    self.trace("data", came);
                }
            }
        }
        if self.eof && other.reset {
            self.fail(SysError::Reset);
        }
    }

    /// None of our programs keeps a ctl_conn on which nothing comes.
    fn check_silence(&self, role: Option<Role>) {
        let timings = self.stage.plan.scenario.longest_timings();
        // Who is in its handshake has another time.
        let patience = timings.heartbeat_timeout.max(timings.handshake_timeout) + SLACK;
        let ctl = self.dies_by_reset && role == Some(Role::Ctl) && matches!(self.state, State::Up(_)) && !self.eof;
        if ctl && self.stage.now().since(self.heard) > patience {
            let what = format!("{:?} on #{} has heard nothing since {:?}", self.owner, self.name.0, self.heard);
            self.stage.breach(Kind::Safety, Property::SilentPeersGivenUp, what);
        }
    }

    fn trace(&self, name: &'static str, bytes: &[u8]) {
        self.stage.oracle.trace.borrow_mut().packet(self.stage.now(), self.owner, None, self.name, name, bytes);
    }

    fn fail(&mut self, error: SysError) {
        if !matches!(self.state, State::Dead) {
            self.state = State::Dead;
            self.error = Some(error);
            self.edge = true;
            self.trace("RST", &[]);
        }
    }

    fn room(&self, line: &Line) -> usize {
        let (mine, other) = (&line.ends[self.end], &line.ends[1 - self.end]);
        // What is sent to somebody who is gone is answered by a reset, and never read.
        let ahead = if other.gone { 0 } else { usize::try_from(mine.written - other.read).expect("fits a window") };
        self.stage.plan.window.saturating_sub(ahead)
    }

    /// Whether there is something to report.
    pub(super) fn has_edge(&self) -> bool {
        self.edge
    }

    /// What a poll says of it; the edge is spent.
    pub(super) fn take_edge(&mut self) -> Option<Readiness> {
        std::mem::take(&mut self.edge).then(|| self.readiness())
    }

    /// It is watched from now on: what is ready already is reported.
    pub(super) fn arm(&mut self) {
        self.edge = !self.is_connecting();
    }

    fn readiness(&self) -> Readiness {
        let dead = matches!(self.state, State::Dead);
        let room = self.line.as_ref().is_some_and(|line| self.room(&line.borrow()) > 0);
        Readiness {
            readable: !self.inbox.is_empty() || self.eof || dead,
            writable: dead || room,
            hup: self.eof || dead,
            error: self.error.is_some(),
        }
    }

    /// As `SO_ERROR`, and `WouldBlock` while connecting.
    pub(super) fn take_error(&mut self) -> Result<(), SysError> {
        match self.error.take() {
            Some(error) => Err(error),
            None if self.is_connecting() => Err(SysError::WouldBlock),
            None => Ok(()),
        }
    }

    /// Reads; 0 is the end.
    pub(super) fn recv(&mut self, into: &mut [u8]) -> Result<usize, SysError> {
        let n = self.peek(into)?;
        self.inbox.drain(..n);
        if let Some(line) = &self.line {
            let line = &mut *line.borrow_mut();
            line.ends[self.end].read += n as u64;
            line.ends[1 - self.end].wake();
        }
        Ok(n)
    }

    /// Reads, and leaves it there.
    pub(super) fn peek(&mut self, into: &mut [u8]) -> Result<usize, SysError> {
        if self.inbox.is_empty() {
            return match self.error.take_if(|_| !self.eof) {
                Some(error) => Err(error),
                None if self.eof || matches!(self.state, State::Dead) => Ok(0),
                None => Err(SysError::WouldBlock),
            };
        }
        Ok(into.iter_mut().zip(&self.inbox).map(|(to, &byte)| *to = byte).count())
    }

    /// Writes some.
    pub(super) fn send(&mut self, from: &[u8]) -> Result<usize, SysError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.shut {
            self.stage.breach(
                Kind::Safety,
                Property::NothingAfterShut,
                format!("{:?} on #{}", self.owner, self.name.0),
            );
            return Err(SysError::Reset);
        }
        let (State::Up(stream), Some(line)) = (&self.state, self.line.clone()) else {
            return Err(if self.is_connecting() { SysError::WouldBlock } else { SysError::Reset });
        };
        let mut line = line.borrow_mut();
        let n = self.room(&line).min(from.len());
        if n == 0 {
            self.blocked = true;
            return Err(SysError::WouldBlock);
        }
        if line.fate.is_none() && stream.try_write(&from[..n]).is_err() {
            self.fail(SysError::Reset);
            self.error = None;
            return Err(SysError::Reset);
        }
        line.ends[self.end].written += n as u64;
        line.moved = self.stage.now();
        Ok(n)
    }

    /// Shuts the write half.
    pub(super) fn shut_write(&mut self) {
        if std::mem::replace(&mut self.shut, true) {
            self.stage.breach(Kind::Safety, Property::ShutOnce, format!("{:?} on #{}", self.owner, self.name.0));
            return;
        }
        let (State::Up(stream), Some(line)) = (&mut self.state, &self.line) else { return };
        line.borrow_mut().ends[self.end].fin = true;
        // It fails where the connection is gone already: the next read tells.
        let _ = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }

    /// Closes in good order, or with a reset. `false`: it is a reset, perhaps because something was unread.
    pub(super) fn close(&mut self, reset: bool) -> bool {
        let reset = reset && self.stage.lie != Some(Lie::ResetLooksClean);
        // A connection that was made just now, and that nobody noticed, must end as well.
        if let State::Connecting(connecting) = &mut self.state
            && let Poll::Ready(Ok(stream)) = connecting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            self.attach(stream);
        }
        let clean = !reset && self.inbox.is_empty() && matches!(self.state, State::Up(_));
        if let Some(line) = self.line.take() {
            let line = &mut *line.borrow_mut();
            let mine = &mut line.ends[self.end];
            mine.reset |= !clean;
            mine.fin |= clean;
            mine.gone = true;
            line.ends[1 - self.end].wake();
        }
        self.state = State::Dead;
        clean
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.close(self.dies_by_reset);
    }
}
