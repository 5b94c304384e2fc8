//! The client's main thread: the ctl_conn, the session that survives it, and the tunnels that survive the session.
//!
//! ```text
//!   Pausing ──▶ Resolving ──▶ Dialling ──▶ Challenged ──▶ Proved ──▶ Up
//!      ▲            │             │            │            │        │
//!      └────────────┴─────────────┴────────────┴────────────┴────────┘
//! ```
//! The states and the invariants are in `client_main/stage.rs`, those of tunnels in [`crate::control::tunnels`]. Sessions
//! that the server has told to leave go on beside it, in `client_main/left.rs`.

mod check;
mod connecting;
mod dialling;
mod left;
mod paths;
mod receive;
mod reload;
mod report;
mod session;
mod stage;
mod stopping;
mod tunnels;

use super::ctl_link::CtlLink;
use super::messages::{ToClientLoop, ToClientMain, ToLoop, ToOperator};
use super::paths::ToPaths;
use super::slab::{Slab, Token};
use super::sys::{Entropy, Log, Readiness, Resolve, Streams};
use super::thread::{Cx, Driver, Tell};
use crate::bandwidth::Buckets;
use crate::carriage::Carriage;
use crate::control::client::Control;
use crate::control::tunnels::Tunnels;
use crate::gather::Gather;
use crate::ids::TunnelId;
use crate::names::{Name, is_address};
use crate::notes::Note;
use crate::outbound::Target;
use crate::reconnect::Reconnect;
use crate::report::{Counted, LoopPart};
use crate::settings::{ClientSettings, TunnelSpec};
use crate::time::Instant;
use crate::wire::ToClient;
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;
use left::Left;
use paths::Paths;
use report::Story;
use stage::Stage;

/// How a client ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was asked to stop.
    Stopped,
    /// The server refused for good before it ever worked. A whole sentence for the user.
    Refused(String),
    /// Another client with the same identity took over, as this one did not answer.
    Replaced,
    /// Another process of this client took over, and its own transfers have ended.
    TakenOver,
}

/// See the module. `T` is a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientMain<T> {
    settings: ClientSettings,
    server: String,
    /// The same for a proxy.
    target: Target,
    /// The name that is dialled: the server's, or that of the proxy in between.
    server_name: Name,
    /// How many servers there were before: answers about their names count no more.
    servers: u32,
    loop_count: usize,
    slots: Slab<CtlLink<T, ToClient>>,
    stage: Stage,
    reconnect: Reconnect,
    control: Option<Control>,
    serial: u64,
    /// Sessions beside it, whose transfers go on.
    left: Vec<Left>,
    /// When the session lost its ctl_conn, if it has none.
    lost: Option<Instant>,
    /// Where the server answered: proxy_conns go to the same host, or to the same proxy.
    server_at: Option<SocketAddr>,
    proxy_port: u16,
    /// What the server has chosen on this ctl_conn.
    features: u64,
    tunnels: Tunnels,
    /// What they may move.
    buckets: Buckets<TunnelId>,
    carriage: Carriage,
    paths: Paths,
    busy: bool,
    stopping: Option<Stopping>,
    outcome: Option<Outcome>,
    /// Reports that were asked for.
    reports: Gather<LoopPart>,
    story: Counted<Story>,
}

/// What this thread needs of its system.
pub trait MainSys<T>:
    Streams<Stream = T> + Resolve + Entropy + Log + Tell<ToLoop<ToClientLoop>> + Tell<ToOperator> + Tell<ToPaths>
{
}

impl<T, S> MainSys<T> for S where
    S: Streams<Stream = T> + Resolve + Entropy + Log + Tell<ToLoop<ToClientLoop>> + Tell<ToOperator> + Tell<ToPaths>
{
}

/// A client that was asked to stop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stopping {
    until: Instant,
    /// Event loops that have no transfer left.
    drained: BTreeSet<usize>,
    /// `Close` was sent.
    leaving: bool,
    /// How it ends then.
    outcome: Outcome,
}

impl<T> ClientMain<T> {
    /// A client of `server` (`HOST:PORT`) with `loop_count` event loops. The ids of `settings.tunnels` are 0, 1, 2, … in
    /// their order.
    #[must_use]
    pub fn new(mut settings: ClientSettings, server: String, loop_count: usize) -> Self {
        let tunnels = core::mem::take(&mut settings.tunnels);
        let timings = &settings.timings;
        Self {
            reconnect: Reconnect::new(timings.reconnect_min, timings.reconnect_max),
            tunnels: Tunnels::new(tunnels, timings),
            buckets: Buckets::default(),
            carriage: Carriage::default(),
            paths: Paths::default(),
            server_name: Name::new(is_address(dialled(&settings, &server))),
            target: Target::new(&server),
            settings,
            servers: 0,
            server,
            loop_count,
            slots: Slab::default(),
            stage: Stage::Pausing(None),
            control: None,
            serial: 0,
            left: Vec::new(),
            lost: None,
            server_at: None,
            proxy_port: 0,
            features: 0,
            busy: false,
            stopping: None,
            outcome: None,
            reports: Gather::new(loop_count),
            story: Counted::default(),
        }
    }

    /// How it ended, if it has ended. The other threads may then end, once they have handled their messages.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Whether its session is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Up { .. })
    }

    /// `HOST:PORT` of its server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The proxy in between, if there is one, for people.
    fn through(&self) -> Option<String> {
        self.settings.outbound.as_ref().map(ToString::to_string)
    }

    /// When a session that has lost its ctl_conn is given up.
    // PROTOCOL.md: P-RES-6.
    fn given_up(&self) -> Option<Instant> {
        self.lost.map(|at| at + self.settings.timings.kept())
    }

    /// A tunnel that was not closed.
    #[must_use]
    pub fn tunnel(&self, tunnel: TunnelId) -> Option<&TunnelSpec> {
        self.tunnels.spec(tunnel)
    }

    /// Begins: looks up names and connects.
    pub fn start<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: MainSys<T>,
    {
        self.look_up_locals(cx);
        self.begin(cx);
    }

    /// Closes a tunnel for good: its public port closes, transfers go on. One that there is not (any more) is ignored.
    /// In a session that has no ctl_conn the server hears of it after the resume. (PROTOCOL.md, P-TUN-6.)
    pub fn close_tunnel<S>(&mut self, cx: &mut Cx<'_, S>, tunnel: TunnelId)
    where
        S: MainSys<T>,
    {
        if self.outcome.is_none() {
            self.forget_tunnel(cx, tunnel);
        }
    }
}

/// The `HOST:PORT` that connections to `server` are made to.
fn dialled<'a>(settings: &'a ClientSettings, server: &'a str) -> &'a str {
    settings.outbound.as_ref().map_or(server, |proxy| &proxy.at)
}

impl<T, S> Driver<S> for ClientMain<T>
where
    S: MainSys<T>,
{
    type Message = ToClientMain;

    fn on_message(&mut self, cx: &mut Cx<'_, S>, message: ToClientMain) {
        if self.outcome.is_some() {
            return;
        }
        match message {
            ToClientMain::Loop(message) => self.on_loop(cx, message),
            ToClientMain::Paths(message) => self.on_path(cx, message),
            ToClientMain::Resolved { tag, addresses } => self.on_resolved(cx, tag, addresses),
            ToClientMain::CloseTunnel { tunnel } => self.close_tunnel(cx, tunnel),
            ToClientMain::Reload(new) => self.reload(cx, *new),
            ToClientMain::Report { tag } => self.ask_for_report(cx, tag),
            ToClientMain::Stop => self.stop(cx),
        }
    }

    fn on_ready(&mut self, cx: &mut Cx<'_, S>, token: Token, ready: Readiness) {
        let Some(link) = self.slots.get_mut(token) else { return };
        link.port.on_ready(ready);
        if self.stage.races(token) {
            self.on_attempt(cx, token);
        } else {
            // A failed socket too: what the server said before it failed (a refusal, a `Close`) is read first.
            self.drive(cx, token);
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_, S>) {
        if self.outcome.is_some() {
            return;
        }
        if self.stopping.as_ref().is_some_and(|stopping| stopping.until <= cx.now) {
            return self.finish_stop(cx);
        }
        if self.given_up().is_some_and(|at| at <= cx.now) {
            cx.sys.note(Note::SessionLost { waited: Some(self.settings.timings.kept()) });
            self.end_session(cx);
        }
        if self.stage.deadline().is_some_and(|at| at <= cx.now) {
            self.on_stage_deadline(cx);
        }
        self.on_left_deadlines(cx);
        self.deal_bandwidth(cx);
        self.look_up_again(cx);
        self.register(cx);
        self.on_path_deadline(cx);
        self.carriage.on_deadline(cx.now);
        self.announce(cx);
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.outcome.is_some() {
            return None;
        }
        let stop = self.stopping.as_ref().map(|stopping| stopping.until);
        let registers = self.is_up() && self.stopping.is_none();
        let registration = self.tunnels.next_registration().filter(|_| registers);
        let slice = self.buckets.next_deadline();
        let others =
            [stop, registration, self.tunnels.next_lookup(), self.carriage.deadline(), slice, self.paths.deadline()];
        let left = self.left.iter().map(|left| Some(left.liveness.next_deadline()));
        [self.stage.deadline(), self.given_up()].into_iter().chain(others).chain(left).flatten().min()
    }

    fn run_busy(&mut self, cx: &mut Cx<'_, S>) {
        if core::mem::take(&mut self.busy) {
            let ctl_conns = self.stage.token().into_iter().chain(self.left.iter().map(|left| left.token));
            for token in ctl_conns.collect::<Vec<_>>() {
                self.drive(cx, token);
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.busy
    }
}
