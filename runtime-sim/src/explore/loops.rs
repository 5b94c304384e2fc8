//! The two event loops, face to face: what carries payload, reuses conns and decides about ends.
//!
//! The ctl_conn between them is an ordered queue of messages in each direction, as the main threads make it: with
//! one event loop on each side a main thread passes `Fin`, `Done` and `Abort` on in order and answers asks for conns,
//! and a chain of ordered queues is an ordered queue. What the main threads themselves do is explored in `programs`.

use super::fingerprint::{Part, Parts};
use super::net::{End, Kernel, LOCAL_PORT, Net, PROXY_PORT, Pipe, Side, Stream, Told, Visit, Who, Window, at};
use super::peers::{Grain, Move, Script, Whims, address, assert_ended, assign_dials, doom_if_seen, play, visit_at};
use super::search::Model;
use super::story::{Party, Story};
use protocol_sm::auth::{Prover, SessionKey, Transcript};
use protocol_sm::codes::AbortCode;
use protocol_sm::crowd::Guest;
use protocol_sm::driver::client_loop::ClientLoop;
use protocol_sm::driver::messages::{
    Arrival, ControlKey, FromClientLoop, FromServerLoop, Limits, ToClientLoop, ToServerLoop,
};
use protocol_sm::driver::server_loop::ServerLoop;
use protocol_sm::driver::{Cx, Driver, Dropped, Note, Strategy, TURN, Use};
use protocol_sm::ids::{ConnId, SessionId, TunnelId};
use protocol_sm::outbound::Destination;
use protocol_sm::settings::{Origin, Serving, Timings};
use protocol_sm::sources::Source;
use protocol_sm::time::Instant;
use protocol_sm::transfer::Fin;
use protocol_sm::wire::{
    ClientBody, ClientMsg, ConnKind, Ctl, Framer, Message, Preface, PrefaceReader, ProxyToClient, ProxyToServer, Reply,
    ServerBody, ServerMsg, TransferMsg,
};
use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::Duration;

const CONTROL: ControlKey = ControlKey(1);
const SERIAL: u64 = 1;
const SESSION: SessionId = SessionId([1; 16]);
const TUNNEL: TunnelId = TunnelId(0);
/// Deadlines from here on never come.
const NEVER: Duration = Duration::from_secs(1_000_000_000);

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
static KEY: LazyLock<SessionKey> = LazyLock::new(|| {
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

    fn timings(&self) -> Timings {
        Timings {
            heartbeat_interval: NEVER,
            // So that looks at what is acknowledged come no sooner.
            heartbeat_timeout: 2 * NEVER,
            handshake_timeout: NEVER,
            session_grace: NEVER,
            route_timeout: NEVER,
            transfer_grace: NEVER,
            wait_timeout: if self.config.timeouts { Duration::from_secs(1) } else { NEVER },
            dial_timeout: NEVER,
            start_patience: NEVER,
            answer_delay: Duration::ZERO,
            idle_ping_interval: NEVER,
            idle_ping_timeout: NEVER,
            idle_conn_lifetime: NEVER,
            half_open_timeout: NEVER,
            reset_linger: NEVER,
            visitor_keepalive: NEVER,
            drain_timeout: NEVER,
            reconnect_min: NEVER,
            reconnect_max: NEVER,
        }
    }

    fn server<R>(
        &self,
        state: &mut State,
        now: Option<Instant>,
        story: &mut Story,
        call: impl FnOnce(&mut ServerLoop<Stream, Pipe>, &mut Cx<'_, Kernel<'_>>) -> R,
    ) {
        let before = Before::new(&state.server, &state.net);
        let now = now.unwrap_or_else(|| Self::now(state));
        let mut told = Vec::new();
        let State { net, server, .. } = state;
        let mut scratch = [0; SCRATCH];
        let mut kernel = Kernel { net, who: Who::ServerLoop, told: &mut told, story };
        let mut cx = Cx { sys: &mut kernel, now, scratch: &mut scratch, strategy: self.config.strategy, turn: TURN };
        let server = server.change();
        call(server, &mut cx);
        while Driver::<Kernel<'_>>::is_busy(server) {
            server.run_busy(&mut cx);
        }
        server.assert_consistent();
        for told in told {
            match told {
                Told::FromServerLoop(msg) => self.on_server_said(state, msg, story),
                Told::Note(note) => self.on_server_note(state, &before, note),
                told => unreachable!("a server's loop does not say {told:?}"),
            }
        }
    }

    fn client<R>(
        &self,
        state: &mut State,
        now: Option<Instant>,
        story: &mut Story,
        call: impl FnOnce(&mut ClientLoop<Stream, Pipe>, &mut Cx<'_, Kernel<'_>>) -> R,
    ) {
        let mut told = Vec::new();
        let now = now.unwrap_or_else(|| Self::now(state));
        let State { net, client, .. } = state;
        let mut scratch = [0; SCRATCH];
        let mut kernel = Kernel { net, who: Who::ClientLoop(0), told: &mut told, story };
        let mut cx = Cx { sys: &mut kernel, now, scratch: &mut scratch, strategy: self.config.strategy, turn: TURN };
        let client = client.change();
        call(client, &mut cx);
        while Driver::<Kernel<'_>>::is_busy(client) {
            client.run_busy(&mut cx);
        }
        client.assert_consistent();
        for told in told {
            match told {
                Told::FromClientLoop(FromClientLoop::Message { msg, .. }) => {
                    if !state.over {
                        state.to_server.push_back(msg);
                    }
                }
                Told::FromClientLoop(FromClientLoop::ConnGone { .. }) => state.open -= 1,
                Told::FromClientLoop(FromClientLoop::Violation { violation, .. }) => {
                    panic!("honest peers never cause a Violation: {violation}")
                }
                Told::FromClientLoop(
                    FromClientLoop::ConnUp { .. } | FromClientLoop::LocalFailed { .. } | FromClientLoop::Drained { .. },
                ) => {}
                Told::Note(note) => self.on_client_note(state, note),
                told => unreachable!("a client's loop does not say {told:?}"),
            }
        }
        let State { net, client, .. } = state;
        assign_dials(net, client.conns());
    }

    fn on_server_said(&self, state: &mut State, msg: FromServerLoop<Stream>, story: &mut Story) {
        match msg {
            _ if state.over => {}
            FromServerLoop::Message { msg, .. } => state.to_client.push_back(msg),
            FromServerLoop::Ask { count, .. } => state.to_client.push_back(ServerMsg::NeedConn { count }),
            FromServerLoop::Violation { violation, .. } => {
                assert!(state.net.hostile, "honest peers never cause a Violation: {violation}");
                self.end_session(state, story);
            }
            FromServerLoop::WantBandwidth { .. } => unreachable!("nothing is limited here"),
            FromServerLoop::AskLine { .. } => unreachable!("this system does not tell what is acknowledged"),
            FromServerLoop::Report(_)
            | FromServerLoop::ConnGone { .. }
            | FromServerLoop::Drained { .. }
            | FromServerLoop::Settled { .. }
            | FromServerLoop::Left { .. }
            | FromServerLoop::PassOn { .. } => {}
        }
    }

    /// The client broke the protocol: the main threads end the session.
    fn end_session(&self, state: &mut State, story: &mut Story) {
        state.over = true;
        state.whims.came = self.config.visits;
        state.to_client.clear();
        let code = AbortCode::SessionOver;
        self.server(state, None, story, |server, cx| {
            server.on_message(cx, ToServerLoop::Close { control: CONTROL, code });
        });
        self.client(state, None, story, |client, cx| client.on_message(cx, ToClientLoop::End { serial: SERIAL, code }));
        state.to_server.clear();
    }

    fn on_server_note(&self, state: &mut State, before: &Before, note: Note) {
        match note {
            Note::Started { conn, epoch, visitor, .. } => {
                let visit = visit_at(visitor);
                assert!(!state.aborted.contains(&conn), "an aborted conn never returns to the pool");
                // First come, first served.
                for &other in &before.waiting {
                    assert!(other >= visit, "waiters FIFO: visit {visit} was served before {other}");
                }
                let server = state.server.conns().find(|view| view.id == conn).map(|view| view.stream.0);
                if let Some(client) = state.client.conns().find(|view| view.id == conn) {
                    let idle = matches!(client.used, Use::Idle | Use::Opening);
                    assert!(
                        idle && client.epoch.next() == Some(epoch),
                        "Start only to a peer that is idle: {:?} {:?}",
                        client.used,
                        client.epoch
                    );
                    if let Some(server) = server.filter(|&end| !state.net.is_lost(end) && !state.net.hostile) {
                        assert!(state.net.is_silent(server), "Start only on a conn on which nothing is coming");
                    }
                }
                let lost = server.is_none_or(|end| state.net.is_lost(end));
                let carrier = server.map(|end| (state.net.serial(end), epoch.0));
                let visit = &mut state.net.visits[visit];
                assert!(visit.carrier.is_none(), "a visitor is served once");
                visit.carrier = carrier;
                // One that has not been noticed: the client will not see this Start.
                visit.doomed |= lost && self.config.timeouts;
            }
            Note::TakenBack { conn, visitor, .. } => {
                let visit = &mut state.net.visits[visit_at(visitor)];
                assert!(visit.carrier.take().is_some(), "only what was given can be taken back");
                assert!(self.may_abort(state), "an honest net loses no Start");
                state.aborted.push(conn);
            }
            Note::Aborted { conn, .. } => self.on_aborted(state, conn),
            Note::VisitorDropped { visitor, why, .. } => {
                let may = match why {
                    Dropped::WaitedTooLong => self.config.timeouts,
                    Dropped::QueueFull => state.server.waiting().count() >= self.config.max_waiting as usize,
                    Dropped::Gone => state.over,
                    Dropped::TooMany
                    | Dropped::TunnelFull
                    | Dropped::SourceDenied
                    | Dropped::TooOften
                    | Dropped::SourceFull
                    | Dropped::NoHeader
                    | Dropped::Resources => false,
                };
                assert!(may, "a visitor was dropped without a cause: {why}");
                state.net.visits[visit_at(visitor)].doomed = true;
            }
            Note::Violation { violation, .. } => {
                assert!(state.net.hostile, "honest peers never cause a Violation: {violation}");
            }
            Note::Stale { .. } => {
                assert_eq!(before.totals, quiet_totals(&state.server), "stale messages change nothing");
            }
            _ => {}
        }
    }

    fn on_client_note(&self, state: &mut State, note: Note) {
        match note {
            Note::Aborted { conn, .. } => self.on_aborted(state, conn),
            Note::Violation { violation, .. } => panic!("honest peers never cause a Violation: {violation}"),
            _ => {}
        }
    }

    /// Only what the tunnel itself breaks costs a conn: an outer peer's reset does not.
    fn on_aborted(&self, state: &mut State, conn: ConnId) {
        assert!(self.may_abort(state), "a reset costs no conn: {conn:?} was aborted");
        state.aborted.push(conn);
    }

    fn may_abort(&self, state: &State) -> bool {
        state.losses < self.config.losses || state.net.hostile || state.over
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
        let msg = match msg {
            ServerMsg::NeedConn { count } => return self.open_conns(state, count, story),
            ServerMsg::Fin { conn, epoch, total, how } => {
                TransferMsg { conn, epoch, body: ServerBody::Fin(Fin { total, how }) }
            }
            ServerMsg::Abort { conn, epoch, code } => TransferMsg { conn, epoch, body: ServerBody::Abort { code } },
            ServerMsg::AskStart { conn, epoch } => TransferMsg { conn, epoch, body: ServerBody::AskStart },
            ServerMsg::TunnelReady { .. }
            | ServerMsg::TunnelRefused { .. }
            | ServerMsg::TunnelClosed { .. }
            | ServerMsg::Drain
            | ServerMsg::Leave { .. } => {
                unreachable!("no loop says it")
            }
        };
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
        Script { visits, up, down, chunk, grain }
    }
}

/// What its notes say of the server's loop is held against what it was.
struct Before {
    /// The visits that waited.
    waiting: Vec<usize>,
    totals: QuietTotals,
}

impl Before {
    fn new(server: &ServerLoop<Stream, Pipe>, net: &Net) -> Self {
        let waiting = server.waiting().filter_map(|stream| net.visit_of(stream.0));
        Self { waiting: waiting.collect(), totals: quiet_totals(server) }
    }
}

type QuietTotals = (usize, [u64; 4], u32);

/// What of a loop a stale message may not change.
fn quiet_totals(server: &ServerLoop<Stream, Pipe>) -> QuietTotals {
    let totals = server.totals();
    (server.sockets(), [totals.visitors, totals.finished, totals.aborted, totals.proxy_conns], server.asked())
}

/// What the server's main thread makes of a message from the client's loop.
fn to_server_loop(msg: ClientMsg) -> ToServerLoop<Stream> {
    let control = CONTROL;
    let msg = match msg {
        ClientMsg::ConnFailed { count } => return ToServerLoop::ConnFailed { control, count },
        ClientMsg::Fin { conn, epoch, total, how } => {
            TransferMsg { conn, epoch, body: ClientBody::Fin(Fin { total, how }) }
        }
        ClientMsg::Done { conn, epoch } => TransferMsg { conn, epoch, body: ClientBody::Done },
        ClientMsg::Abort { conn, epoch, code } => TransferMsg { conn, epoch, body: ClientBody::Abort { code } },
        ClientMsg::StartSeen { conn, epoch, seen } => TransferMsg { conn, epoch, body: ClientBody::StartSeen { seen } },
        ClientMsg::RegisterTunnel { .. }
        | ClientMsg::RegisterHost { .. }
        | ClientMsg::RegisterSite { .. }
        | ClientMsg::ChangeTunnel { .. }
        | ClientMsg::CloseTunnel { .. }
        | ClientMsg::Drain => {
            unreachable!("no loop says it")
        }
    };
    ToServerLoop::Transfer { control, msg }
}

/// Enough for any handshake and frames; a read that fills it makes a stream bulk.
const SCRATCH: usize = 512;

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
                    fixed: true,
                    serving: Serving::default(),
                    label: None,
                },
            );
        });
        let limits = Limits {
            frugal: false,
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
                    from,
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
                self.server(state, None, story, |server, cx| server.on_message(cx, to_server_loop(msg)));
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
