//! The two event loops, face to face: what carries payload, reuses conns and decides about ends.
//!
//! The ctl_conn between them is an ordered queue of messages in each direction, as the main threads make it: with
//! one event loop on each side a main thread passes `Fin`, `Done` and `Abort` on in order and answers asks for conns,
//! and a chain of ordered queues is an ordered queue. What the main threads themselves do is explored in `programs`.

mod parties;

use super::deadlines::NEVER;
use super::fingerprint::{Part, Parts};
use super::mains::{about_a_transfer, to_server_loop};
use super::net::{End, Kernel, LOCAL_PORT, Net, PROXY_PORT, Pipe, Side, Stream, Visit, Who, Window, at};
use super::peers::{Grain, Move, Script, Whims, address, assert_ended, doom_if_seen, play};
use super::search::Model;
use super::story::{Party, Story};
use protocol_sm::auth::{Prover, SessionKey, Transcript};
use protocol_sm::crowd::Guest;
use protocol_sm::driver::client_loop::ClientLoop;
use protocol_sm::driver::messages::{Arrival, ControlKey, Limits, ToClientLoop, ToServerLoop};
use protocol_sm::driver::server_loop::ServerLoop;
use protocol_sm::driver::{Driver, Strategy, Use};
use protocol_sm::ids::{ConnId, SessionId, TunnelId};
use protocol_sm::names::LocalAt;
use protocol_sm::outbound::Destination;
use protocol_sm::settings::{Origin, Serving};
use protocol_sm::sources::Source;
use protocol_sm::time::Instant;
use protocol_sm::wire::{
    ClientMsg, ConnKind, Ctl, Framer, Message, Preface, PrefaceReader, ProxyToClient, ProxyToServer, Reply, ServerMsg,
};
use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::Duration;

const CONTROL: ControlKey = ControlKey(1);
const SERIAL: u64 = 1;
pub(crate) const SESSION: SessionId = SessionId([1; 16]);
const TUNNEL: TunnelId = TunnelId(0);

/// Deadlines before this are looks at an outer socket that is to be reset.
const PATIENCE: Duration = Duration::from_millis(50);

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Visitors that may come.
    pub visits: usize,
    /// proxy_conns that the client opens at most.
    pub conns: usize,
    /// Bytes that a visitor sends.
    pub up: usize,
    /// Bytes that a LocalServer sends.
    pub down: usize,
    /// How finely the peers' moves are cut.
    pub grain: Grain,
    /// Conns are there and idle when it begins; otherwise they are opened when they are needed.
    pub ready: bool,
    /// Idle conns that the server keeps.
    pub keep: u32,
    /// Visitors that may wait.
    pub max_waiting: u32,
    /// A LocalServer may refuse.
    pub refusals: usize,
    /// Peers that may reset their connection.
    pub resets: usize,
    /// proxy_conns that may be lost.
    pub losses: usize,
    /// Bytes that a hostile client may send behind a transfer's total.
    pub strays: usize,
    /// Whether a wait may take too long.
    pub timeouts: bool,
    /// What fits into a proxy_conn.
    pub window: Window,
    /// How payload is moved.
    pub strategy: Strategy,
    /// What a pipe holds.
    pub pipe: usize,
    /// Bytes that a peer sends at once, where it does not send all.
    pub chunk: usize,
    /// This side's peers acknowledge and read late.
    pub late: Option<Side>,
    /// How often a deadline may pass while something is not acknowledged.
    pub looks: usize,
}

impl Config {
    /// `visits` visitors over at most `conns` conns, with one byte each way and no faults.
    #[must_use]
    pub const fn new(visits: usize, conns: usize, grain: Grain) -> Self {
        Self {
            visits,
            conns,
            up: 1,
            down: 1,
            grain,
            ready: true,
            keep: 0,
            max_waiting: 8,
            refusals: 0,
            resets: 0,
            losses: 0,
            strays: 0,
            timeouts: false,
            window: Window::WIDE,
            strategy: Strategy::Copy,
            pipe: 8,
            chunk: 1,
            late: None,
            looks: 0,
        }
    }
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// An outer peer moves.
    Peer(Move),
    /// Segments in flight on a proxy_conn arrive.
    Arrive { end: End, count: usize, hasty: bool },
    /// A driver is told of readiness.
    Wake { end: End },
    /// A new proxy_conn's hello is read and answered.
    Admit { end: End },
    /// The next message on the ctl_conn arrives at the server.
    CtlToServer,
    /// The next message on the ctl_conn arrives at the client.
    CtlToClient,
    /// A proxy_conn is lost.
    Lose { end: End },
    /// A hostile client sends a byte behind a transfer's total.
    Stray { end: End },
    /// The server's next deadline passes.
    ServerDeadline,
    /// The client's next deadline passes.
    ClientDeadline,
}

/// All of it at one moment.
#[derive(Clone, Hash)]
pub(super) struct State {
    net: Net,
    server: Part<ServerLoop<Stream, Pipe>>,
    client: Part<ClientLoop<Stream, Pipe>>,
    to_server: VecDeque<ClientMsg>,
    to_client: VecDeque<ServerMsg>,
    /// The next conn's number.
    next_conn: u64,
    /// Conns that are open or being opened, as the client's main thread counts them.
    open: usize,
    /// Conns whose transfer was aborted: by which side.
    aborted: Vec<ConnId>,
    whims: Whims,
    losses: usize,
    strays: usize,
    looks: usize,
    /// The session was ended because of a violation.
    over: bool,
}

/// What the session's main threads agreed on.
pub(crate) static KEY: LazyLock<SessionKey> = LazyLock::new(|| {
    let preface = Preface::ours(ConnKind::Ctl);
    let said = Ctl::Ping { received: 0 };
    let answer = Ctl::Ping { received: 0 };
    let transcript = Transcript::new(preface.encode(), Reply::to(preface).encode(), &said, &answer);
    Prover::new(None, transcript).session_key(SESSION)
});

/// The model.
#[derive(Debug)]
pub(super) struct Loops {
    config: Config,
}

impl Loops {
    pub(super) fn new(config: Config) -> Self {
        Self { config }
    }

    /// Time stands still but for deadlines that are told to pass; visitors are a nanosecond apart, so that each
    /// waits for its own.
    fn now(state: &State) -> Instant {
        Instant::from_nanos(state.whims.came as u64)
    }

    /// Reads a new proxy_conn's hello and answers it, as the server's main thread does.
    fn admit(&self, state: &mut State, end: End, story: &mut Story) {
        let bytes = state.net.take_hello(end);
        let mut rest = &bytes[..];
        let mut reader = PrefaceReader::default();
        let preface = reader.next(&mut rest).ok().flatten().expect("a preface comes first");
        let hello = Framer::<ProxyToServer>::default().next(&mut rest).ok().flatten();
        let Some(ProxyToServer::Hello(hello)) = hello else { panic!("a hello comes second: {hello:?}") };
        assert!(rest.is_empty() && KEY.hello_matches(&hello));
        let mut answer = Reply::to(preface).encode().to_vec();
        ProxyToClient::Accepted { proof: KEY.accept(SESSION, hello.conn) }.encode_to(&mut answer);
        state.net.push(end, &answer);
        state.net.hand_over(end, Some(Who::ServerLoop));
        story.at(Party::Server, || format!("conn {} is admitted", hello.conn.0));
        let message = ToServerLoop::Conn { control: CONTROL, conn: hello.conn, stream: Stream(end) };
        self.server(state, None, story, |server, cx| server.on_message(cx, message));
    }

    fn wake(&self, state: &mut State, end: End, story: &mut Story) {
        match state.net.take_ready(end) {
            Some((Who::ServerLoop, token, ready)) => {
                self.server(state, None, story, |server, cx| server.on_ready(cx, token, ready));
            }
            Some((_, token, ready)) => self.client(state, None, story, |client, cx| client.on_ready(cx, token, ready)),
            None => {}
        }
    }

    fn ctl_to_client(&self, state: &mut State, msg: ServerMsg, story: &mut Story) {
        if let ServerMsg::NeedConn { count } = msg {
            return self.open_conns(state, count, story);
        }
        let msg = about_a_transfer(msg);
        self.client(state, None, story, |client, cx| {
            client.on_message(cx, ToClientLoop::Transfer { serial: SERIAL, msg })
        });
    }

    fn open_conns(&self, state: &mut State, count: u32, story: &mut Story) {
        for _ in 0..count {
            if state.open == self.config.conns {
                state.to_server.push_back(ClientMsg::ConnFailed { count: 1 });
                continue;
            }
            let conn = ConnId(state.next_conn);
            state.next_conn += 1;
            state.open += 1;
            let (from, to) = (Origin::default(), Destination { to: at(PROXY_PORT), through: None });
            let open = ToClientLoop::Open { from, to, conn, session: SESSION, secret: KEY.clone() };
            self.client(state, None, story, |client, cx| client.on_message(cx, open));
        }
    }

    fn script(&self) -> Script {
        let Config { visits, up, down, chunk, grain, .. } = self.config;
        Script { visits, up, down, chunk, grain, head: 0 }
    }
}

/// Enough for any handshake and frames; a read of a quarter makes a stream bulk.
const SCRATCH: usize = 4 * 512;

impl Model for Loops {
    type State = State;
    type Action = Action;

    fn initial(&self, story: &mut Story) -> State {
        let config = self.config;
        let mut net = Net::new(config.visits, config.window, config.pipe);
        net.late = config.late;
        let mut state = State {
            net,
            server: Part::new(ServerLoop::new(0, self.timings())),
            client: Part::new(ClientLoop::new(0, self.timings())),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            next_conn: 1,
            open: 0,
            aborted: Vec::new(),
            whims: Whims { came: 0, refusals: config.refusals, resets: config.resets },
            losses: config.losses,
            strays: config.strays,
            looks: config.looks,
            over: false,
        };
        self.client(&mut state, None, story, |client, cx| {
            client.on_message(cx, ToClientLoop::Session { serial: SERIAL });
            client.on_message(
                cx,
                ToClientLoop::Tunnel {
                    tunnel: TUNNEL,
                    locals: vec![at(LOCAL_PORT)],
                    sources: Vec::new(),
                    place: LocalAt::Address,
                    serving: Serving::default(),
                    label: None,
                },
            );
        });
        let limits = Limits {
            frugal: false,
            secured: false,
            holder: None,
            keep: config.keep,
            max_waiting: config.max_waiting,
            max_connections: u32::MAX,
            max_bandwidth: None,
            loop_count: 1,
        };
        let open = ToServerLoop::Open { control: CONTROL, limits };
        self.server(&mut state, None, story, |server, cx| server.on_message(cx, open));
        if config.ready {
            if config.keep == 0 {
                let count = u32::try_from(config.conns).expect("few conns");
                state.to_client.push_back(ServerMsg::NeedConn { count });
            }
            let mut actions = Vec::new();
            loop {
                actions.clear();
                self.actions(&state, &mut actions);
                let opening = |action: &&Action| {
                    !matches!(
                        action,
                        Action::Peer(_) | Action::Lose { .. } | Action::ServerDeadline | Action::ClientDeadline
                    )
                };
                let Some(&action) = actions.iter().find(opening) else { break };
                self.step(&mut state, action, story);
            }
        }
        state
    }

    fn actions(&self, state: &State, into: &mut Vec<Action>) {
        self.script().moves(&state.net, &state.whims, true, |made| into.push(Action::Peer(made)));
        for end in state.net.pending() {
            into.push(Action::Wake { end });
        }
        for (end, count, hasty) in state.net.deliverable() {
            into.push(Action::Arrive { end, count: 1, hasty: false });
            if count > 1 {
                into.push(Action::Arrive { end, count, hasty: false });
            }
            if hasty {
                into.push(Action::Arrive { end, count, hasty: true });
            }
        }
        into.extend(state.net.unaccepted().map(|end| Action::Admit { end }));
        if !state.to_server.is_empty() {
            into.push(Action::CtlToServer);
        }
        if !state.to_client.is_empty() {
            into.push(Action::CtlToClient);
        }
        if state.losses > 0 {
            into.extend(state.net.links().map(|(end, _)| Action::Lose { end }));
        }
        if state.strays > 0 {
            let ended = |visit: &&Visit| visit.local.fin && usize::from(visit.local.sent) == self.config.down;
            for carrier in state.net.visits.iter().filter(ended).filter_map(|visit| visit.carrier) {
                let view = state.client.conns().find(|view| (state.net.serial(view.stream.0), view.epoch.0) == carrier);
                into.extend(view.map(|view| Action::Stray { end: view.stream.0 }));
            }
        }
        let deadline = Driver::<Kernel<'_>>::next_deadline(&*state.server);
        let comes = deadline.is_some_and(|at| at < Instant::ZERO + NEVER);
        // A server that may have more conns than its client asks for ever. Here it asks when nothing else is left to
        // do and there is room; with a limit on waiting also at any time while somebody waits.
        let waits = state.server.waiting().count() > 0;
        let room = state.open < self.config.conns;
        let rest = || !into.iter().any(|&action| self.is_due(action));
        if comes && (self.config.timeouts && waits || (waits || room) && rest()) {
            into.push(Action::ServerDeadline);
        }
        // Who is late is looked at until he is not, and a few times before.
        let held = |visit: &Visit| visit.visitor.unacknowledged() + visit.local.unacknowledged() > 0;
        let looks = state.looks > 0 || !state.net.visits.iter().any(held);
        let is_look = |deadline: Option<Instant>| looks && deadline.is_some_and(|at| at < Instant::ZERO + PATIENCE);
        if self.config.late.is_some() && is_look(deadline) && into.last() != Some(&Action::ServerDeadline) {
            into.push(Action::ServerDeadline);
        }
        if self.config.late.is_some() && is_look(Driver::<Kernel<'_>>::next_deadline(&*state.client)) {
            into.push(Action::ClientDeadline);
        }
    }

    fn is_due(&self, action: Action) -> bool {
        match action {
            Action::Peer(made) => made.is_due(),
            Action::Lose { .. } | Action::Stray { .. } => false,
            Action::Arrive { .. }
            | Action::Wake { .. }
            | Action::Admit { .. }
            | Action::CtlToServer
            | Action::CtlToClient
            | Action::ServerDeadline
            | Action::ClientDeadline => true,
        }
    }

    fn step(&self, state: &mut State, action: Action, story: &mut Story) {
        match action {
            Action::Peer(made) => {
                let end = play(made, &mut state.net, &mut state.whims, story);
                let Some(end) = end else { return };
                let Move::Come { .. } = made else {
                    return self.wake(state, end, story);
                };
                state.net.hand_over(end, Some(Who::ServerLoop));
                let from = address(state.whims.came - 1);
                let arrival = Arrival {
                    control: CONTROL,
                    tunnel: TUNNEL,
                    stream: Stream(end),
                    who: from.into(),
                    guest: Guest { holder: None, source: Source::of(from.ip()) },
                    head: Vec::new(),
                    tunnel_max: u32::MAX,
                    label: None,
                    left: 0,
                };
                self.server(state, None, story, |server, cx| server.on_message(cx, ToServerLoop::Visitor(arrival)));
            }
            Action::Arrive { end, count, hasty } => {
                state.net.arrive(end, count, hasty, story);
                self.wake(state, end, story);
            }
            Action::Wake { end } => self.wake(state, end, story),
            Action::Admit { end } => self.admit(state, end, story),
            Action::CtlToServer => {
                let msg = state.to_server.pop_front().expect("offered only then");
                story.arrow(Party::Client, Party::Server, || format!("{msg:?}"));
                self.server(state, None, story, |server, cx| server.on_message(cx, to_server_loop(CONTROL, msg)));
            }
            Action::CtlToClient => {
                let msg = state.to_client.pop_front().expect("offered only then");
                story.arrow(Party::Server, Party::Client, || format!("{msg:?}"));
                self.ctl_to_client(state, msg, story);
            }
            Action::Lose { end } => {
                state.losses -= 1;
                let State { net, client, .. } = state;
                if self.config.timeouts {
                    net.doom(end);
                } else {
                    doom_if_seen(net, client.conns(), end);
                }
                net.lose(end);
            }
            Action::Stray { end } => {
                state.strays -= 1;
                state.net.stray(end);
                for visit in &mut state.net.visits {
                    visit.doomed = true;
                }
            }
            Action::ServerDeadline => {
                let now = Driver::<Kernel<'_>>::next_deadline(&*state.server);
                state.looks = state.looks.saturating_sub(1);
                story.remark(|| "a deadline passes".to_owned());
                self.server(state, now, story, |server, cx| server.on_deadline(cx));
            }
            Action::ClientDeadline => {
                let now = Driver::<Kernel<'_>>::next_deadline(&*state.client);
                state.looks = state.looks.saturating_sub(1);
                story.remark(|| "a deadline of the client's passes".to_owned());
                self.client(state, now, story, |client, cx| client.on_deadline(cx));
            }
        }
    }

    fn assert_quiet(&self, state: &State) {
        assert_ended(&state.net.visits);
        assert_eq!(state.server.waiting().count(), 0, "every wait ends");
        let mut server: Vec<_> =
            state.server.conns().map(|view| (view.id, view.epoch, view.used == Use::Idle)).collect();
        let mut client: Vec<_> =
            state.client.conns().map(|view| (view.id, view.epoch, view.used == Use::Idle)).collect();
        server.sort_unstable();
        client.sort_unstable();
        assert!(server.iter().all(|&(.., idle)| idle), "every transfer ends: {server:?}");
        assert_eq!(server, client, "both sides have the same idle conns");
        assert_eq!(state.open, client.len(), "every conn is counted until it is gone");
        let opened = usize::try_from(state.next_conn - 1).expect("few conns");
        assert!(self.may_abort(state) || state.open == opened, "a conn is used again whatever its visitors did");
        assert_eq!(state.net.open(), client.len(), "every fd is closed");
        assert_eq!(state.server.sockets(), server.len(), "every fd is closed");
        assert_eq!(state.client.sockets(), client.len(), "every fd is closed");
        assert_eq!(state.net.pipes(), 0, "every pipe is closed");
    }

    fn share(&self, state: &mut State, parts: &mut Parts) {
        state.net.share(parts);
        parts.share(&mut state.server);
        parts.share(&mut state.client);
    }

    fn visits<'a>(&self, state: &'a State) -> &'a [Visit] {
        &state.net.visits
    }
}
