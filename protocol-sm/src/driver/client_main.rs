//! The client's main thread: the ctl_conn, and the session that survives it.
//!
//! ```text
//!   Pausing ──▶ Resolving ──▶ Connecting ──▶ Greeting ──▶ Challenged ──▶ Proved ──▶ Up
//!      ▲            │             │              │             │            │        │
//!      └────────────┴─────────────┴──────────────┴─────────────┴────────────┴────────┘
//! ```

mod check;
mod connecting;

use super::ctl_link::CtlLink;
use super::messages::{FromClientLoop, ToClientLoop, ToClientMain, ToLoop};
use super::slab::{Slab, Token};
use super::sys::{Entropy, Log, Lookup, Readiness, Resolve, Streams, random_u32};
use super::thread::{Cx, Driver, Tell};
use crate::auth::{Prover, Transcript};
use crate::backoff::Backoff;
use crate::codes::{AbortCode, CloseCode, MessageName, StateName, Violation};
use crate::control::client::{Control, Reaction, Tunnels};
use crate::ids::TunnelId;
use crate::liveness::Liveness;
use crate::notes::{Disconnect, Note};
use crate::session::Delivery;
use crate::settings::ClientSettings;
use crate::sys_error::SysError;
use crate::time::Instant;
use crate::wire::{
    ClientHandshake, ClientHello, ClientMsg, ConnKind, Ctl, Preface, Reply, ReplyReader, ServerHandshake, ToClient,
    ToServer,
};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

/// Reads from the ctl_conn before others get their turn.
const READS: usize = 8;

/// How long a client that leaves waits for the server to close the ctl_conn.
const FAREWELL: Duration = Duration::from_secs(2);

/// How a client ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was asked to stop.
    Stopped,
    /// The server refused for good. A whole sentence for the user.
    Refused(String),
    /// Another client with the same identity took over.
    Replaced,
}

/// See the module. `T` is a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientMain<T> {
    settings: ClientSettings,
    server: String,
    locals: Vec<String>,
    loop_count: usize,
    slots: Slab<CtlLink<T, ToClient>>,
    stage: Stage,
    backoff: Backoff,
    control: Option<Control>,
    serial: u64,
    /// When a session that has lost its ctl_conn is given up.
    grace: Option<Instant>,
    /// Where the server answered: proxy_conns go to the same host.
    server_at: Option<SocketAddr>,
    proxy_port: u16,
    tunnels: Tunnels,
    /// Lookups under way.
    looking: BTreeSet<Lookup>,
    /// LocalServers whose names did not resolve, and when they are looked up again.
    unresolved: BTreeSet<TunnelId>,
    look_again: Option<Instant>,
    busy: bool,
    stopping: Option<Stopping>,
    outcome: Option<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stopping {
    until: Instant,
    drained: BTreeSet<usize>,
    /// `Close` was sent.
    leaving: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Pausing(Option<Instant>),
    Resolving,
    Connecting { token: Token, rest: VecDeque<SocketAddr>, until: Instant },
    Greeting { token: Token, reader: ReplyReader, hello: ClientHello, until: Instant },
    Challenged { token: Token, hello: ClientHello, reply: Reply, until: Instant },
    Proved { token: Token, transcript: Transcript, until: Instant },
    Up { token: Token, liveness: Liveness },
}

impl Stage {
    fn token(&self) -> Option<Token> {
        match self {
            Self::Pausing(_) | Self::Resolving => None,
            Self::Connecting { token, .. }
            | Self::Greeting { token, .. }
            | Self::Challenged { token, .. }
            | Self::Proved { token, .. }
            | Self::Up { token, .. } => Some(*token),
        }
    }

    fn name(&self) -> StateName {
        match self {
            Self::Pausing(_) | Self::Resolving | Self::Connecting { .. } | Self::Greeting { .. } => {
                StateName::PrefaceDue
            }
            Self::Challenged { .. } => StateName::HelloDue,
            Self::Proved { .. } => StateName::WelcomeDue,
            Self::Up { .. } => StateName::SessionUp,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Pausing(until) => *until,
            Self::Resolving => None,
            Self::Connecting { until, .. }
            | Self::Greeting { until, .. }
            | Self::Challenged { until, .. }
            | Self::Proved { until, .. } => Some(*until),
            Self::Up { liveness, .. } => Some(liveness.next_deadline()),
        }
    }
}

/// What this thread needs of its system.
trait MainSys<T>: Streams<Stream = T> + Resolve + Entropy + Log + Tell<ToLoop<ToClientLoop>> {}

impl<T, S: Streams<Stream = T> + Resolve + Entropy + Log + Tell<ToLoop<ToClientLoop>>> MainSys<T> for S {}

impl<T> ClientMain<T> {
    /// A client of `server` (`HOST:PORT`) with `loop_count` event loops. `locals` are the LocalServers
    /// (`HOST:PORT`) of `settings.tunnels`, in their order.
    #[must_use]
    pub fn new(settings: ClientSettings, server: String, locals: Vec<String>, loop_count: usize) -> Self {
        let timings = &settings.timings;
        Self {
            backoff: Backoff::new(timings.reconnect_min, timings.reconnect_max),
            tunnels: Tunnels::new(&settings.tunnels, timings),
            settings,
            server,
            locals,
            loop_count,
            slots: Slab::default(),
            stage: Stage::Pausing(None),
            control: None,
            serial: 0,
            grace: None,
            server_at: None,
            proxy_port: 0,
            looking: BTreeSet::new(),
            unresolved: BTreeSet::new(),
            look_again: None,
            busy: false,
            stopping: None,
            outcome: None,
        }
    }

    /// How it ended, once it has: the other threads may end once they have handled their messages.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Whether its session is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Up { .. })
    }

    /// Begins: looks up names and connects.
    pub fn start<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Streams<Stream = T> + Resolve + Entropy + Log + Tell<ToLoop<ToClientLoop>>,
    {
        for index in 0..self.locals.len() {
            let tunnel = TunnelId(u32::try_from(index).expect("fewer than 2^32 tunnels"));
            self.look_up(cx, Lookup::Local(tunnel));
        }
        self.begin(cx);
    }
}

impl<T, S> Driver<S> for ClientMain<T>
where
    S: Streams<Stream = T> + Resolve + Entropy + Log + Tell<ToLoop<ToClientLoop>>,
{
    type Message = ToClientMain;

    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: ToClientMain) {
        if self.outcome.is_some() {
            return;
        }
        match message {
            ToClientMain::Loop(message) => self.on_loop(cx, message),
            ToClientMain::Resolved { tag, addresses } => self.on_resolved(cx, tag, addresses),
            ToClientMain::Stop => self.stop(cx),
        }
    }

    fn on_ready(&mut self, cx: &mut Cx<'_, S>, token: Token, ready: Readiness) {
        let Some(link) = self.slots.get_mut(token) else { return };
        link.port.on_ready(ready);
        if let Stage::Connecting { .. } = self.stage {
            self.on_connecting(cx, token);
        } else {
            // A failed socket too: what the server said before it failed (a refusal, a `Close`) is read first.
            self.drive(cx);
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_, S>) {
        if self.outcome.is_some() {
            return;
        }
        if self.stopping.as_ref().is_some_and(|stopping| stopping.until <= cx.now) {
            return self.finish_stop(cx);
        }
        if self.grace.is_some_and(|at| at <= cx.now) {
            self.end_session(cx);
        }
        if self.stage.deadline().is_some_and(|at| at <= cx.now) {
            self.on_stage_deadline(cx);
        }
        if self.look_again.is_some_and(|at| at <= cx.now) {
            self.look_again(cx);
        }
        self.register(cx);
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.outcome.is_some() {
            return None;
        }
        let stop = self.stopping.as_ref().map(|stopping| stopping.until);
        let registers = self.is_up() && self.stopping.is_none();
        let tunnels = self.tunnels.next_deadline().filter(|_| registers);
        [self.stage.deadline(), self.grace, stop, tunnels, self.look_again].into_iter().flatten().min()
    }

    fn run_busy(&mut self, cx: &mut Cx<'_, S>) {
        if core::mem::take(&mut self.busy) {
            self.drive(cx);
        }
    }

    fn is_busy(&self) -> bool {
        self.busy
    }
}

/// What comes on the ctl_conn.
impl<T> ClientMain<T> {
    /// Reads, acts on and answers what came.
    fn drive<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        let Some(token) = self.stage.token() else { return };
        if let Stage::Connecting { .. } = self.stage {
            return;
        }
        let mut bytes = Vec::new();
        for reads in 0.. {
            let Some(link) = self.slots.get_mut(token) else { return };
            if !link.port.readable {
                break;
            }
            if reads == READS {
                self.busy = true;
                break;
            }
            match link.port.recv(cx.sys, cx.scratch) {
                Ok(0) => return self.disconnect(cx, Disconnect::Lost),
                Ok(n) => {
                    bytes.clear();
                    bytes.extend_from_slice(&cx.scratch[..n]);
                }
                Err(SysError::WouldBlock) => break,
                Err(error) => return self.disconnect(cx, lost(error)),
            }
            if let Err(why) = self.on_bytes(cx, &bytes) {
                return self.on_broken(cx, why);
            }
        }
        if let Some(link) = self.slots.get_mut(token)
            && let Err(error) = link.flush(cx.sys)
        {
            self.disconnect(cx, lost(error));
        }
    }

    fn on_broken<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, why: Disconnect) {
        match why {
            Disconnect::Violation(violation) if self.is_up() => {
                cx.sys.note(Note::Violation { conn: None, violation });
                self.leave(cx, CloseCode::Violation);
            }
            Disconnect::Closed(CloseCode::Replaced) => {
                self.end_session(cx);
                self.outcome = Some(Outcome::Replaced);
            }
            Disconnect::Closed(_) => self.end_session(cx),
            Disconnect::Unresolved
            | Disconnect::Unreachable(_)
            | Disconnect::NotCproxy
            | Disconnect::Refused(_)
            | Disconnect::WrongServer
            | Disconnect::Tls(_)
            | Disconnect::Lost
            | Disconnect::Silent
            | Disconnect::Violation(_) => {}
        }
        self.disconnect(cx, why);
    }

    fn on_bytes<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, mut bytes: &[u8]) -> Result<(), Disconnect> {
        while !bytes.is_empty() {
            if let Stage::Greeting { token, reader, hello, until } = &mut self.stage {
                let reply = reader.next(Preface::ours(ConnKind::Ctl), &mut bytes).map_err(|_| Disconnect::NotCproxy)?;
                let Some(reply) = reply else { return Ok(()) };
                if let Some(refusal) = reply.refusal() {
                    return Err(Disconnect::Refused(refusal));
                }
                self.stage = Stage::Challenged { token: *token, hello: hello.clone(), reply, until: *until };
                continue;
            }
            let Some(link) = self.stage.token().and_then(|token| self.slots.get_mut(token)) else { return Ok(()) };
            match link.framer.next(&mut bytes) {
                Ok(Some(message)) => self.on_frame(cx, message)?,
                Ok(None) => {}
                Err(_) => return Err(Disconnect::Violation(Violation::Malformed)),
            }
        }
        Ok(())
    }

    fn on_frame<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, message: ToClient) -> Result<(), Disconnect> {
        match (&mut self.stage, message) {
            (Stage::Challenged { .. } | Stage::Proved { .. }, Ctl::Handshake(ServerHandshake::Refused(refusal))) => {
                Err(Disconnect::Refused(refusal))
            }
            (Stage::Challenged { token, hello, reply, until }, Ctl::Handshake(ServerHandshake::Hello(server))) => {
                if server.features & !hello.features != 0 {
                    let (message, state) = (MessageName::Hello, StateName::FeatureNotOffered);
                    return Err(Disconnect::Violation(Violation::Unexpected { message, state }));
                }
                let preface = Preface::ours(ConnKind::Ctl);
                let said = ToServer::Handshake(ClientHandshake::Hello(hello.clone()));
                let answer = Ctl::Handshake(ServerHandshake::Hello(server));
                let transcript = Transcript::new(preface.encode(), reply.encode(), &said, &answer);
                let proof = Prover::new(self.settings.token.as_ref(), transcript).client();
                let (token, until) = (*token, *until);
                self.stage = Stage::Proved { token, transcript, until };
                self.push(&ToServer::Handshake(ClientHandshake::Proof(proof)));
                Ok(())
            }
            (Stage::Proved { token, transcript, .. }, Ctl::Handshake(ServerHandshake::Welcome(welcome))) => {
                let (token, transcript) = (*token, *transcript);
                self.on_welcome(cx, token, transcript, &welcome)
            }
            (Stage::Up { liveness, .. }, message) => {
                liveness.on_heard(cx.now);
                self.on_session_frame(cx, message)
            }
            (
                stage @ (Stage::Pausing(_)
                | Stage::Resolving
                | Stage::Connecting { .. }
                | Stage::Greeting { .. }
                | Stage::Challenged { .. }
                | Stage::Proved { .. }),
                message,
            ) => {
                let (message, state) = (message.name(), stage.name());
                Err(Disconnect::Violation(Violation::Unexpected { message, state }))
            }
        }
    }

    fn on_session_frame<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, message: ToClient) -> Result<(), Disconnect> {
        let Some(control) = &mut self.control else { return Ok(()) };
        let session = &mut control.session;
        let done = match message {
            Ctl::Numbered { seq, msg } => match session.on_numbered(seq) {
                Ok(Delivery::Deliver { ack }) => {
                    if ack {
                        let received = session.mark_acked();
                        self.push(&Ctl::Ack { received });
                    }
                    self.on_server_msg(cx, msg)
                }
                Ok(Delivery::Duplicate) => Ok(()),
                Err(violation) => Err(violation),
            },
            Ctl::Ping { received } => {
                let acked = session.on_ack(received);
                let received = session.mark_acked();
                self.push(&Ctl::Pong { received });
                acked
            }
            Ctl::Pong { received } | Ctl::Ack { received } => session.on_ack(received),
            Ctl::Close { code } => return Err(Disconnect::Closed(code)),
            message @ Ctl::Handshake(_) => {
                Err(Violation::Unexpected { message: message.name(), state: StateName::SessionUp })
            }
        };
        done.map_err(Disconnect::Violation)
    }
}

/// The session.
impl<T> ClientMain<T> {
    fn on_server_msg<S: MainSys<T>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        msg: crate::wire::ServerMsg,
    ) -> Result<(), Violation> {
        let Some(control) = &mut self.control else { return Ok(()) };
        match control.on_msg(msg)? {
            Reaction::Nothing | Reaction::Drain => {}
            Reaction::Pass(loop_index, msg) => cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::Transfer(msg) }),
            Reaction::Open { count, failed } => {
                let mut to = self.server_at.expect("connected to it");
                to.set_port(self.proxy_port);
                for _ in 0..count {
                    let (loop_index, hello, accept) = control.open();
                    cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::Open { to, hello, accept } });
                }
                if failed > 0 {
                    self.send(cx, ClientMsg::ConnFailed { count: failed });
                }
            }
            Reaction::Ready(tunnel, public) => {
                if self.tunnels.on_ready(tunnel, public)? {
                    cx.sys.note(Note::Forwarding { tunnel, public });
                }
            }
            Reaction::Refused(tunnel, code) => {
                let random = random_u32(cx.sys);
                let again = self.tunnels.on_refused(tunnel, cx.now, random)?;
                if code.is_final() && !again {
                    let (message, state) = (MessageName::TunnelRefused, StateName::TunnelNotAsked);
                    let spec = self.tunnels.spec(tunnel).ok_or(Violation::Unexpected { message, state })?;
                    let sentence = format!("tunnel {:?}, public port {}: {code}", spec.name, spec.public_port);
                    self.refused_for_good(cx, sentence);
                    return Ok(());
                }
                cx.sys.note(Note::NotForwarding { tunnel, code });
                self.register(cx);
            }
        }
        Ok(())
    }

    /// Registers what is due.
    fn register<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        while self.is_up()
            && self.stopping.is_none()
            && let Some(msg) = self.tunnels.register(cx.now)
        {
            self.send(cx, msg);
        }
    }

    fn on_loop<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, message: FromClientLoop) {
        let current = self.control.as_ref().map(|control| control.serial);
        match message {
            FromClientLoop::Message { serial, msg } if Some(serial) == current => self.send(cx, msg),
            FromClientLoop::ConnGone { serial, conn } if Some(serial) == current => {
                if let Some(control) = &mut self.control {
                    control.on_conn_gone(conn);
                }
            }
            FromClientLoop::Violation { serial, violation } if Some(serial) == current => {
                self.leave(cx, CloseCode::Violation);
                self.disconnect(cx, Disconnect::Violation(violation));
            }
            // About a session that is over.
            FromClientLoop::Message { .. } | FromClientLoop::ConnGone { .. } | FromClientLoop::Violation { .. } => {}
            FromClientLoop::LocalFailed { tunnel, .. } => self.look_up(cx, Lookup::Local(tunnel)),
            FromClientLoop::Drained { loop_index } => {
                let all = self.stopping.as_mut().is_some_and(|stopping| {
                    stopping.drained.insert(loop_index);
                    stopping.drained.len() == self.loop_count && !stopping.leaving
                });
                if all {
                    self.finish_stop(cx);
                }
            }
        }
    }

    /// Numbers a message and sends it, now or when the session is resumed.
    fn send<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, msg: ClientMsg) {
        let Some(control) = &mut self.control else { return };
        match control.session.send(msg.clone()) {
            Ok(seq) => {
                if self.is_up() {
                    self.push(&Ctl::Numbered { seq, msg });
                }
            }
            Err(violation) => {
                self.leave(cx, CloseCode::Violation);
                self.disconnect(cx, Disconnect::Violation(violation));
            }
        }
    }

    /// Queues a message on the ctl_conn; it goes out with the rest of the batch.
    fn push(&mut self, message: &ToServer) {
        if self.stopping.as_ref().is_some_and(|stopping| stopping.leaving) {
            // Nothing follows a `Close`.
            return;
        }
        if let Some(link) = self.stage.token().and_then(|token| self.slots.get_mut(token)) {
            link.push(message);
            self.busy = true;
        }
    }

    /// The session is over: what belongs to it is reset.
    fn end_session<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Tell<ToLoop<ToClientLoop>>,
    {
        self.grace = None;
        if self.control.take().is_some() {
            for loop_index in 0..self.loop_count {
                cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::End { code: AbortCode::SessionOver } });
            }
        }
    }

    /// Tells the server, if it can, that the session is over, and ends it.
    fn leave<S>(&mut self, cx: &mut Cx<'_, S>, code: CloseCode)
    where
        S: Streams<Stream = T> + Tell<ToLoop<ToClientLoop>>,
    {
        let up = self.is_up();
        if let Some(mut link) = self.stage.token().and_then(|token| self.slots.remove(token)) {
            if up {
                link.push(&ToServer::Close { code });
            }
            link.close(cx.sys);
        }
        self.stage = Stage::Pausing(None);
        self.end_session(cx);
    }

    /// The user asks to stop: no new visitors, transfers may finish for `drain_timeout`.
    fn stop<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        if self.stopping.is_some() {
            return;
        }
        let until = cx.now + self.settings.timings.drain_timeout;
        self.stopping = Some(Stopping { until, drained: BTreeSet::new(), leaving: false });
        self.send(cx, ClientMsg::Drain);
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::Drain });
        }
    }

    /// Nothing is left to be finished, or no time for it. The server closes the ctl_conn once it has read our last
    /// `Done` and `Close`. The proxy_conns must not end before that: their end might overtake the `Fin` of a
    /// transfer, and would cut it short.
    fn finish_stop<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        if self.is_up()
            && let Some(stopping) = self.stopping.as_mut().filter(|stopping| !stopping.leaving)
        {
            stopping.until = cx.now + FAREWELL;
            self.push(&ToServer::Close { code: CloseCode::Bye });
            self.stopping.iter_mut().for_each(|stopping| stopping.leaving = true);
            return;
        }
        if self.is_up() {
            return self.disconnect(cx, Disconnect::Silent);
        }
        self.leave(cx, CloseCode::Bye);
        self.outcome = Some(Outcome::Stopped);
    }
}

/// What a failed read or write says of the ctl_conn.
fn lost(error: SysError) -> Disconnect {
    match error {
        SysError::Tls(failure) => Disconnect::Tls(failure),
        SysError::WouldBlock
        | SysError::Reset
        | SysError::Refused
        | SysError::Unreachable
        | SysError::TimedOut
        | SysError::Exhausted
        | SysError::InUse
        | SysError::Denied
        | SysError::Other(_) => Disconnect::Lost,
    }
}
