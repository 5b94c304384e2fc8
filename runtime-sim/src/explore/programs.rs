//! Whole programs: the server's three threads and one or two clients' two threads, with their mailboxes, handshakes,
//! numbered sessions, resume, replacement and drain.
//!
//! Mailboxes are ordered per receiver. Each delivery is a step of its own with [`Programs::lazy`]; without it mail is
//! read before anything else happens, which leaves out orders between threads but reaches further.

mod parties;

use super::deadlines::NEVER;
use super::fingerprint::{Part, Parts};
use super::net::{CTL_PORT, Door, End, Kernel, Net, PROXY_PORT, PUBLIC_PORT, Pipe, Stream, Visit, Who, Window, at};
use super::peers::{Grain, Move, Script, Whims, assert_ended, play};
use super::search::Model;
use super::story::Story;
use protocol_sm::driver::client_loop::ClientLoop;
use protocol_sm::driver::client_main::ClientMain;
use protocol_sm::driver::listener::Listener;
use protocol_sm::driver::messages::{Order, ToClientLoop, ToClientMain, ToListener, ToServerLoop, ToServerMain};
use protocol_sm::driver::server_loop::ServerLoop;
use protocol_sm::driver::server_main::{ServerMain, Wanted};
use protocol_sm::driver::{Driver, Role, Use};
use protocol_sm::ids::TunnelId;
use protocol_sm::purposes::{Purpose, Purposes};
use protocol_sm::reload::ClientReload;
use protocol_sm::time::Instant;
use std::collections::VecDeque;
use std::hash::Hash;
use std::time::Duration;

/// How long a server lets a newcomer register what it takes over.
const HANDOVER: Duration = Duration::from_secs(10);
/// Every client's, and how the operator calls it.
const IDENTITY: [u8; 16] = [7; 16];
const NAME: &str = "07070707";
/// What visitors say first: for the tunnel's host, and for a host that nobody has.
const HEADS: [&[u8]; 2] = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"];
/// How long a visitor may take to name its host, where that passes.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(3);
/// A client's only tunnel.
const TUNNEL: TunnelId = TunnelId(0);

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// Visitors that may come, with one byte each way.
    pub visits: usize,
    /// How finely the peers' moves are cut.
    pub grain: Grain,
    /// Idle conns that the server keeps.
    pub keep: u32,
    /// proxy_conns that may be lost.
    pub proxy_losses: usize,
    /// ctl_conns that may be lost.
    pub ctl_losses: usize,
    /// Whether the server may give a detached session up.
    pub server_grace: bool,
    /// Whether its transfers, and the session, outlive its ports.
    pub asleep: bool,
    /// Whether the client may give its session up.
    pub client_grace: bool,
    /// Whether a second client with the first one's identity comes.
    pub newcomer: bool,
    /// Whether the first client may freeze before the newcomer comes, which there must be.
    pub freeze: bool,
    /// Whether the server may be asked to stop.
    pub server_stops: bool,
    /// Whether the first client may be asked to stop.
    pub client_stops: bool,
    /// Whether the first client may close its tunnel.
    pub client_closes: bool,
    /// Whether the first client may be told other limits, and to connect anew.
    pub client_reloads: bool,
    /// Whether the server may be told that the client may not have its port any more.
    pub server_shrinks: bool,
    /// Whether the operator may end the client's session.
    pub kicks: bool,
    /// Whether the operator may close the public port.
    pub closes_port: bool,
    /// Whether the time to drain may pass.
    pub impatient: bool,
    /// Whether mail may wait.
    pub lazy: bool,
    /// Whether the tunnel has a host, which visitors name first, instead of a public port.
    pub host: bool,
    /// Whether the last visitor names a host that nobody has.
    pub nobodys: bool,
    /// Whether the time to name a host may pass, and visitors may leave.
    pub slow: bool,
}

impl Programs {
    /// `visits` visitors, and nothing goes wrong.
    #[must_use]
    pub const fn new(visits: usize, grain: Grain) -> Self {
        Self {
            visits,
            grain,
            keep: 0,
            proxy_losses: 0,
            ctl_losses: 0,
            server_grace: false,
            asleep: false,
            client_grace: false,
            newcomer: false,
            freeze: false,
            server_stops: false,
            client_stops: false,
            client_closes: false,
            client_reloads: false,
            server_shrinks: false,
            kicks: false,
            closes_port: false,
            impatient: false,
            lazy: false,
            host: false,
            nobodys: false,
            slow: false,
        }
    }
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// An outer peer moves.
    Peer(Move),
    /// Segments in flight between two drivers arrive.
    Arrive { end: End, count: usize, hasty: bool },
    /// A thread reads its next message.
    Mail { to: Who },
    /// A thread's next deadline passes; `last` if nothing else is left to do.
    Deadline { of: Who, last: bool },
    /// A connection between server and client is lost.
    Lose { end: End },
    /// The second client begins; surely, to the rescue, if the first is frozen.
    Newcomer { rescue: bool },
    /// The first client freezes.
    Freeze,
    /// The server is asked to stop.
    StopServer,
    /// The first client is asked to stop.
    StopClient,
    /// The first client's tunnel is closed.
    CloseTunnel,
    /// The first client is told other limits, and to connect anew.
    ReloadClient,
    /// The server is told that the client may not have its port any more.
    ReloadServer,
    /// The operator ends the client's session.
    Kick,
    /// The operator closes the public port.
    ClosePort,
}

/// A client's process.
#[derive(Clone, Hash)]
struct Client {
    main: Part<ClientMain<Stream>>,
    loop_index: Part<ClientLoop<Stream, Pipe>>,
    to_main: VecDeque<ToClientMain>,
    to_loop: VecDeque<ToClientLoop>,
    started: bool,
    frozen: bool,
    /// Deadlines that may still pass: pauses before a reconnect would come for ever.
    deadlines: usize,
    /// How often it may ask again, while it is up, for a port that was closed: that would come for ever, too.
    retries: Option<usize>,
}

impl Client {
    /// Of the deadlines that come next, how many may still pass.
    fn left(&self) -> usize {
        self.retries.filter(|_| self.main.is_up()).unwrap_or(self.deadlines)
    }

    fn on_deadline(&mut self) {
        let up = self.main.is_up();
        let left = self.retries.as_mut().filter(|_| up).unwrap_or(&mut self.deadlines);
        *left = left.saturating_sub(1);
    }
}

/// All of it at one moment.
#[derive(Clone, Hash)]
pub(super) struct State {
    net: Net,
    main: Part<ServerMain<Stream, Door>>,
    loop_index: Part<ServerLoop<Stream, Pipe>>,
    listener: Part<Listener<Stream, Door>>,
    to_main: VecDeque<ToServerMain<Stream>>,
    to_loop: VecDeque<ToServerLoop<Stream>>,
    to_listener: VecDeque<ToListener<Stream>>,
    clients: Vec<Client>,
    whims: Whims,
    proxy_losses: usize,
    ctl_losses: usize,
    server_stopping: bool,
    client_stopping: bool,
    tunnel_closed: bool,
    client_reloaded: bool,
    /// Orders of the operator that were given.
    kicked: bool,
    port_ordered_closed: bool,
    /// The operator has closed the port of the session that is there.
    port_closed: bool,
    /// A session or a tunnel ended, or is to end: visitors may be turned away.
    ending: bool,
}

impl Programs {
    fn script(&self) -> Script {
        let head = if self.host { HEADS[0].len() } else { 0 };
        Script { visits: self.visits, up: head + 1, down: 1, chunk: 1, grain: self.grain, head }
    }

    /// What happens without anybody's choice: readiness is reported, knocks are answered, mail is read unless it
    /// may wait.
    fn settle(&self, state: &mut State, story: &mut Story) {
        loop {
            let frozen = |who: Option<Who>| match who {
                Some(Who::ClientMain(which) | Who::ClientLoop(which)) => state.clients[usize::from(which)].frozen,
                Some(Who::ServerMain | Who::ServerLoop | Who::Listener) | None => false,
            };
            let ready = state.net.pending().find(|&end| !frozen(state.net.holder(end)));
            if let Some(end) = ready {
                self.wake(state, end, story);
            } else if let Some((who, token)) = state.net.knocks() {
                let ready = protocol_sm::driver::Readiness { readable: true, ..Default::default() };
                if who == Who::Listener {
                    self.listener(state, Instant::ZERO, story, |listener, cx| listener.on_ready(cx, token, ready));
                } else {
                    Self::server_main(state, Instant::ZERO, story, |main, cx| main.on_ready(cx, token, ready));
                }
            } else {
                let Some(to) = Self::receivers(state).next().filter(|_| !self.lazy) else { return };
                self.read_mail(state, to, story);
            }
        }
    }

    /// Threads with mail.
    fn receivers(state: &State) -> impl Iterator<Item = Who> {
        let servers = [
            (!state.to_main.is_empty(), Who::ServerMain),
            (!state.to_loop.is_empty(), Who::ServerLoop),
            (!state.to_listener.is_empty(), Who::Listener),
        ];
        let clients = (0_u8..).zip(&state.clients).filter(|(_, client)| !client.frozen);
        let clients = clients.flat_map(|(which, client)| {
            [(!client.to_main.is_empty(), Who::ClientMain(which)), (!client.to_loop.is_empty(), Who::ClientLoop(which))]
        });
        servers.into_iter().chain(clients).filter_map(|(mail, who)| mail.then_some(who))
    }

    fn read_mail(&self, state: &mut State, to: Who, story: &mut Story) {
        let now = Instant::ZERO;
        match to {
            Who::ServerMain => {
                let msg = state.to_main.pop_front().expect("it has mail");
                story.at(to.party(), || format!("main: {msg:?}"));
                Self::server_main(state, now, story, |main, cx| main.on_message(cx, msg));
            }
            Who::ServerLoop => {
                let msg = state.to_loop.pop_front().expect("it has mail");
                story.at(to.party(), || format!("loop: {msg:?}"));
                self.server_loop(state, now, story, |loop_index, cx| loop_index.on_message(cx, msg));
            }
            Who::Listener => {
                let msg = state.to_listener.pop_front().expect("it has mail");
                story.at(to.party(), || format!("listener: {msg:?}"));
                self.listener(state, now, story, |listener, cx| listener.on_message(cx, msg));
            }
            Who::ClientMain(which) => {
                let msg = state.clients[usize::from(which)].to_main.pop_front().expect("it has mail");
                story.at(to.party(), || format!("main: {msg:?}"));
                Self::client_main(state, which, now, story, |main, cx| main.on_message(cx, msg));
            }
            Who::ClientLoop(which) => {
                let msg = state.clients[usize::from(which)].to_loop.pop_front().expect("it has mail");
                story.at(to.party(), || format!("loop: {msg:?}"));
                Self::client_loop(state, which, now, story, |loop_index, cx| loop_index.on_message(cx, msg));
            }
        }
    }

    fn wake(&self, state: &mut State, end: End, story: &mut Story) {
        let Some((who, token, ready)) = state.net.take_ready(end) else { return };
        let now = Instant::ZERO;
        match who {
            Who::ServerMain => Self::server_main(state, now, story, |main, cx| main.on_ready(cx, token, ready)),
            Who::ServerLoop => {
                self.server_loop(state, now, story, |loop_index, cx| loop_index.on_ready(cx, token, ready))
            }
            Who::Listener => self.listener(state, now, story, |listener, cx| listener.on_ready(cx, token, ready)),
            Who::ClientMain(which) => {
                Self::client_main(state, which, now, story, |main, cx| main.on_ready(cx, token, ready));
            }
            Who::ClientLoop(which) => {
                Self::client_loop(state, which, now, story, |loop_index, cx| loop_index.on_ready(cx, token, ready));
            }
        }
    }

    /// Threads whose next deadline comes, and when.
    fn deadlines(state: &State) -> impl Iterator<Item = (Who, Instant)> {
        let servers = [
            (Who::ServerMain, Driver::<Kernel<'_>>::next_deadline(&*state.main)),
            (Who::ServerLoop, Driver::<Kernel<'_>>::next_deadline(&*state.loop_index)),
            (Who::Listener, Driver::<Kernel<'_>>::next_deadline(&*state.listener)),
        ];
        let listens = state.net.listens(CTL_PORT);
        let clients = (0_u8..).zip(&state.clients).filter(move |&(which, client)| {
            let tries = client.left() > 0 || state.clients[0].frozen;
            let stops = which == 0 && state.client_stopping;
            client.started && !client.frozen && tries && (listens || stops)
        });
        let clients = clients.flat_map(|(which, client)| {
            [
                (Who::ClientMain(which), Driver::<Kernel<'_>>::next_deadline(&*client.main)),
                (Who::ClientLoop(which), Driver::<Kernel<'_>>::next_deadline(&*client.loop_index)),
            ]
        });
        let all = servers.into_iter().chain(clients);
        all.filter_map(|(who, at)| Some((who, at.filter(|&at| at < Instant::ZERO + NEVER)?)))
    }

    fn pass_deadline(&self, state: &mut State, of: Who, story: &mut Story) {
        let now = Self::deadlines(state).find(|&(who, _)| who == of).expect("offered only then").1;
        story.at(of.party(), || format!("{of:?}: a deadline passes, {:?}", now.since(Instant::ZERO)));
        // Grace and draining end transfers; pauses do not.
        let ends = now == Instant::ZERO + Duration::from_secs(1);
        if ends {
            state.ending = true;
            doom(state, |_| true);
        }
        // A newcomer that takes its time to register loses whoever waits until then (P-TAKE-3).
        state.ending |= self.newcomer && of == Who::ServerMain && now == Instant::ZERO + HANDOVER;
        match of {
            Who::ServerMain => Self::server_main(state, now, story, |main, cx| main.on_deadline(cx)),
            Who::ServerLoop => self.server_loop(state, now, story, |loop_index, cx| loop_index.on_deadline(cx)),
            Who::Listener => self.listener(state, now, story, |listener, cx| listener.on_deadline(cx)),
            Who::ClientMain(which) => {
                state.clients[usize::from(which)].on_deadline();
                Self::client_main(state, which, now, story, |main, cx| main.on_deadline(cx));
            }
            Who::ClientLoop(which) => {
                Self::client_loop(state, which, now, story, |loop_index, cx| loop_index.on_deadline(cx))
            }
        }
    }

    /// The server listens, and the first client begins.
    fn begin(&self, story: &mut Story) -> State {
        let settings = self.server_settings();
        let (timings, routing) = (settings.timings.clone(), settings.routing());
        let mut state = State {
            net: Net::new(self.visits, Window::WIDE, 0),
            main: Part::new(ServerMain::new(settings, 1, at(0))),
            loop_index: Part::new(ServerLoop::new(0, timings)),
            listener: Part::new(Listener::new(1, u32::MAX, Vec::new())),
            to_main: VecDeque::new(),
            to_loop: VecDeque::new(),
            to_listener: VecDeque::new(),
            clients: (0..=usize::from(self.newcomer)).map(|_| self.client()).collect(),
            whims: Whims { came: 0, refusals: 0, resets: usize::from(self.slow) },
            proxy_losses: self.proxy_losses,
            ctl_losses: self.ctl_losses,
            server_stopping: false,
            client_stopping: false,
            tunnel_closed: false,
            client_reloaded: false,
            kicked: false,
            port_ordered_closed: false,
            port_closed: false,
            ending: false,
        };
        for (index, visit) in state.net.visits.iter_mut().enumerate().filter(|_| self.host) {
            visit.head = HEADS[usize::from(self.nobodys && index + 1 == self.visits)];
        }
        if self.host {
            self.listener(&mut state, Instant::ZERO, story, |listener, cx| {
                let opened = listener.open_doors(cx, [Some(at(PUBLIC_PORT)), None], [None, None], routing);
                opened.expect("the port is free");
            });
        }
        Self::server_main(&mut state, Instant::ZERO, story, |main, cx| {
            for (port, purpose) in [(CTL_PORT, Purpose::Ctl), (PROXY_PORT, Purpose::Proxy)] {
                let wanted = Wanted { at: at(port), purposes: Purposes::default().with(purpose), left: None };
                main.listen(cx, wanted).expect("the ports are free");
            }
        });
        Self::start(&mut state, 0, story);
        state
    }

    /// Takes the first step that is due, if there is one.
    fn step_if_due(&self, state: &mut State, story: &mut Story) -> bool {
        let mut actions = Vec::new();
        self.settle(state, story);
        self.actions(state, &mut actions);
        let due = actions.into_iter().find(|&action| self.is_due(action));
        due.map(|action| self.step(state, action, story)).is_some()
    }

    fn start(state: &mut State, which: u8, story: &mut Story) {
        state.clients[usize::from(which)].started = true;
        Self::client_main(state, which, Instant::ZERO, story, |main, cx| main.start(cx));
    }
}

impl State {
    /// Whether somebody has the host.
    fn is_somebodys(&self) -> bool {
        self.listener.registrations().next().is_some()
    }
}

/// Marks visits that may be cut short from now on.
fn doom(state: &mut State, which: impl Fn(&Visit) -> bool) {
    for visit in &mut state.net.visits {
        visit.doomed |= visit.came && which(visit);
    }
}

impl Model for Programs {
    type State = State;
    type Action = Action;

    fn initial(&self, story: &mut Story) -> State {
        let mut state = self.begin(story);
        // It begins with a session that is up, a tunnel and idle conns.
        while self.step_if_due(&mut state, story) {}
        state
    }

    fn actions(&self, state: &State, into: &mut Vec<Action>) {
        let public = state.net.listens(PUBLIC_PORT);
        self.script().moves(&state.net, &state.whims, public, |made| into.push(Action::Peer(made)));
        let thawed = |who: Option<Who>| match who {
            Some(Who::ClientMain(which) | Who::ClientLoop(which)) => !state.clients[usize::from(which)].frozen,
            Some(Who::ServerMain | Who::ServerLoop | Who::Listener) | None => true,
        };
        into.retain(|action| match action {
            Action::Peer(Move::Send { visit, .. } | Move::Accept { visit, .. }) => {
                let local = state.net.visits[*visit].local.end.map(End::other);
                local.is_none_or(|end| thawed(state.net.holder(end)))
            }
            _ => true,
        });
        for (end, count, hasty) in state.net.deliverable().filter(|&(end, ..)| thawed(state.net.holder(end))) {
            into.push(Action::Arrive { end, count: 1, hasty: false });
            if count > 1 {
                into.push(Action::Arrive { end, count, hasty: false });
            }
            if hasty {
                into.push(Action::Arrive { end, count, hasty: true });
            }
        }
        into.extend(Self::receivers(state).map(|to| Action::Mail { to }));
        for (end, role) in state.net.links() {
            let left = if role == Role::Ctl { state.ctl_losses } else { state.proxy_losses };
            if left > 0 {
                into.push(Action::Lose { end });
            }
        }
        let first = &state.clients[0];
        if self.newcomer && !state.clients[1].started {
            into.push(Action::Newcomer { rescue: first.frozen });
        }
        // Time stands still: only a newcomer that is yet to come shows that a client is frozen.
        if self.freeze && !first.frozen && !state.clients[1].started {
            into.push(Action::Freeze);
        }
        if self.server_stops && !state.server_stopping {
            into.push(Action::StopServer);
        }
        if self.client_stops && !state.client_stopping && !first.frozen {
            into.push(Action::StopClient);
        }
        if self.client_closes && !state.tunnel_closed && !first.frozen {
            into.push(Action::CloseTunnel);
        }
        if self.client_reloads && !state.client_reloaded && !first.frozen {
            into.push(Action::ReloadClient);
        }
        if self.server_shrinks && !state.tunnel_closed {
            into.push(Action::ReloadServer);
        }
        if self.kicks && !state.kicked {
            into.push(Action::Kick);
        }
        if self.closes_port && !state.port_ordered_closed {
            into.push(Action::ClosePort);
        }
        let last = !into.iter().any(|&action| self.is_due(action));
        into.extend(Self::deadlines(state).map(|(of, _)| Action::Deadline { of, last }));
    }

    fn is_due(&self, action: Action) -> bool {
        match action {
            Action::Peer(made) => made.is_due(),
            Action::Arrive { .. } | Action::Mail { .. } => true,
            Action::Deadline { of, last } => last || matches!(of, Who::ClientMain(_)) && !self.client_grace,
            Action::Newcomer { rescue } => rescue,
            Action::Lose { .. }
            | Action::Freeze
            | Action::StopServer
            | Action::StopClient
            | Action::CloseTunnel
            | Action::ReloadClient
            | Action::ReloadServer
            | Action::Kick
            | Action::ClosePort => false,
        }
    }

    fn step(&self, state: &mut State, action: Action, story: &mut Story) {
        match action {
            Action::Peer(made) => {
                let Some(end) = play(made, &mut state.net, &mut state.whims, story) else { return };
                if let Move::Come { .. } = made {
                    state.net.knock(end);
                    let stopping = state.server_stopping || state.client_stopping || state.tunnel_closed;
                    // The port may be about to close.
                    let ordered = state.kicked || state.port_ordered_closed;
                    let closing = state.port_closed || ordered && !state.to_listener.is_empty();
                    let visit = state.whims.came - 1;
                    state.net.visits[visit].doomed |= stopping || closing;
                } else {
                    self.wake(state, end, story);
                }
            }
            Action::Arrive { end, count, hasty } => {
                state.net.arrive(end, count, hasty, story);
                self.wake(state, end, story);
            }
            Action::Mail { to } => self.read_mail(state, to, story),
            Action::Deadline { of, .. } => self.pass_deadline(state, of, story),
            Action::Lose { end } => {
                let ctl = matches!(state.net.holder(end), Some(Who::ClientMain(_)));
                *(if ctl { &mut state.ctl_losses } else { &mut state.proxy_losses }) -= 1;
                state.net.doom(end);
                state.net.lose(end);
            }
            Action::Newcomer { .. } => {
                Self::start(state, 1, story);
            }
            Action::Freeze => {
                state.clients[0].frozen = true;
                doom(state, |_| true);
            }
            Action::StopServer => {
                state.server_stopping = true;
                state.ending = true;
                doom(state, |visit| visit.local.end.is_none());
                state.to_main.push_back(ToServerMain::Stop);
            }
            Action::StopClient => {
                state.client_stopping = true;
                state.ending = true;
                doom(state, |visit| visit.local.end.is_none());
                state.clients[0].to_main.push_back(ToClientMain::Stop);
            }
            Action::CloseTunnel => {
                state.tunnel_closed = true;
                state.ending = true;
                doom(state, |visit| visit.local.end.is_none());
                state.clients[0].to_main.push_back(ToClientMain::CloseTunnel { tunnel: TUNNEL });
            }
            // Nobody loses anything by it.
            Action::ReloadClient => {
                state.client_reloaded = true;
                let mut settings = self.client_settings();
                settings.tunnels[0].limits.max_connections = 9;
                let new = ClientReload { server: "server".into(), settings, reconnect: true };
                state.clients[0].to_main.push_back(ToClientMain::Reload(Box::new(new)));
            }
            Action::ReloadServer => {
                state.tunnel_closed = true;
                state.ending = true;
                doom(state, |visit| visit.local.end.is_none());
                let mut settings = self.server_settings();
                settings.open_scope.allow_ports = "1".parse().expect("a port");
                state.to_main.push_back(ToServerMain::Reload(Box::new(settings)));
            }
            // What an order has done is told when it is carried out.
            Action::Kick => {
                state.kicked = true;
                state.to_main.push_back(ToServerMain::Order { tag: 0, order: Order::Kick(NAME.into()) });
            }
            Action::ClosePort => {
                state.port_ordered_closed = true;
                state.to_main.push_back(ToServerMain::Order { tag: 0, order: Order::Close(PUBLIC_PORT) });
            }
        }
        self.settle(state, story);
    }

    fn assert_quiet(&self, state: &State) {
        assert_ended_but_for_frozen(state);
        assert_eq!(state.loop_index.waiting().count(), 0, "every wait ends");
        let ups: Vec<_> = state
            .clients
            .iter()
            .filter(|client| client.main.is_up() && !client.frozen)
            .map(|c| &c.loop_index)
            .collect();
        assert!(ups.len() <= 1, "one client per identity");
        let server: Vec<_> =
            state.loop_index.conns().map(|view| (view.id, view.epoch, view.used == Use::Idle)).collect();
        assert!(server.iter().all(|&(.., idle)| idle), "every transfer ends: {server:?}");
        if state.main.is_over() {
            assert_eq!(state.main.sockets() + state.main.sessions(), 0, "a server that is over holds nothing");
            assert_eq!(state.loop_index.sockets() + state.listener.ports(), 0, "a server that is over holds nothing");
            let listens = [CTL_PORT, PROXY_PORT, PUBLIC_PORT].into_iter().any(|port| state.net.listens(port));
            assert!(!listens, "it listens no more");
        } else {
            for visit in state.net.visits.iter().filter(|visit| visit.came && visit.head == HEADS[1]) {
                let told = visit.answered || visit.visitor.left || self.slow && visit.visitor.was_reset;
                assert!(told, "whose host is nobody's is told so: {visit:?}");
            }
            assert!(!state.server_stopping, "drain terminates");
        }
        for (which, client) in state.clients.iter().enumerate() {
            if client.frozen {
                continue;
            }
            let over = client.main.outcome().is_some();
            assert!(over || !state.client_stopping || which != 0, "drain terminates");
            assert!(!over || state.client_stopping || self.newcomer, "a client goes on unless it is told to end");
            if over {
                assert_eq!(client.loop_index.sockets(), 0, "a client that is over holds nothing");
            }
        }
        let Some(client) = ups.first() else {
            let waits = |client: &Client| {
                let can = client.started && !client.frozen && client.main.outcome().is_none();
                can && (client.deadlines > 0 || state.clients[0].frozen)
            };
            let served = state.main.is_over() || !state.clients.iter().any(waits);
            assert!(served, "clients are back");
            assert!(server.is_empty(), "a session that is over holds no conn");
            return;
        };
        assert_eq!(state.main.sessions(), 1, "one session per client that is up");
        let closed = state.tunnel_closed || state.port_closed;
        let reached = if self.host { state.is_somebodys() } else { state.net.listens(PUBLIC_PORT) };
        assert!(reached || state.client_stopping || closed, "ports listen");
        assert!(!reached || !closed, "a closed tunnel's port is closed");
        let mut client: Vec<_> = client.conns().map(|view| (view.id, view.epoch, view.used == Use::Idle)).collect();
        let mut server = server;
        client.sort_unstable();
        server.sort_unstable();
        assert_eq!(server, client, "both sides have the same idle conns");
        assert!(server.len() >= self.keep as usize, "the pool is at its target");
        // A frozen client may have stopped in its handshake.
        let frozen = usize::from(state.clients[0].frozen);
        assert!((3..=3 + frozen).contains(&state.main.sockets()), "two doors and one ctl_conn");
        let own = usize::from(state.net.listens(PUBLIC_PORT) && !self.host);
        assert_eq!(state.listener.ports(), own, "one public port");
    }

    fn share(&self, state: &mut State, parts: &mut Parts) {
        state.net.share(parts);
        parts.share(&mut state.main);
        parts.share(&mut state.loop_index);
        parts.share(&mut state.listener);
        for client in &mut state.clients {
            parts.share(&mut client.main);
            parts.share(&mut client.loop_index);
        }
    }

    fn visits<'a>(&self, state: &'a State) -> &'a [Visit] {
        &state.net.visits
    }
}

/// A frozen client cannot tell its LocalServers.
fn assert_ended_but_for_frozen(state: &State) {
    let mut visits = state.net.visits.clone();
    for visit in &mut visits {
        let holder = visit.local.end.and_then(|end| state.net.holder(end.other()));
        if matches!(holder, Some(Who::ClientLoop(which)) if state.clients[usize::from(which)].frozen) {
            visit.local = super::net::Peer::default();
        }
    }
    assert_ended(&visits);
}

#[cfg(test)]
mod tests;
