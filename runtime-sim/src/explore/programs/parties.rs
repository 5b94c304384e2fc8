//! The programs' threads: how they are set up and called, and what becomes of what they tell.

use super::{Client, HEADS, IDENTITY, Programs, ROUTE_TIMEOUT, State, doom};
use crate::explore::deadlines::{NEVER, endless};
use crate::explore::fingerprint::Part;
use crate::explore::net::{CTL_PORT, Door, Kernel, LOCAL_PORT, Net, PUBLIC_PORT, Pipe, Stream, Told, Who, at};
use crate::explore::peers::{assign_dials, visit_at};
use crate::explore::story::Story;
use protocol_sm::codes::{CloseCode, TunnelRefusal};
use protocol_sm::driver::client_loop::ClientLoop;
use protocol_sm::driver::client_main::ClientMain;
use protocol_sm::driver::listener::Listener;
use protocol_sm::driver::messages::{ToClientMain, ToServerMain};
use protocol_sm::driver::server_loop::ServerLoop;
use protocol_sm::driver::server_main::ServerMain;
use protocol_sm::driver::{Cx, Driver, Dropped, Lookup, Note, Strategy, TURN, Use};
use protocol_sm::routes::{Refusal, Site, Web};
use protocol_sm::settings::{ClientSettings, ServerSettings, Serving, Timings, TunnelLimits, TunnelSpec};
use protocol_sm::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

const SCRATCH: usize = 4 * 512;

impl Programs {
    fn timings(grace: bool, asleep: bool, impatient: bool) -> Timings {
        Timings {
            session_grace: if grace { Duration::from_secs(1) } else { NEVER },
            transfer_grace: Duration::from_secs(if asleep { 2 } else { 0 }),
            drain_timeout: if impatient { Duration::from_secs(1) } else { NEVER },
            reconnect_min: Duration::from_secs(2),
            reconnect_max: Duration::from_secs(2),
            ..endless()
        }
    }

    pub(super) fn client_settings(&self) -> ClientSettings {
        ClientSettings {
            max_proxy_conns: 16,
            timings: Self::timings(self.client_grace, false, self.impatient),
            ..ClientSettings::new(
                IDENTITY,
                vec![TunnelSpec {
                    name: "t".into(),
                    public_port: if self.host { 0 } else { PUBLIC_PORT },
                    bind_addr: None,
                    site: self.host.then(|| Site { web: Web::Http, host: "a".parse().expect("a host") }),
                    local: at(LOCAL_PORT).to_string(),
                    local_sources: Vec::new(),
                    limits: TunnelLimits::default(),
                    serving: Serving::default(),
                }],
            )
        }
    }

    pub(super) fn server_settings(&self) -> ServerSettings {
        let timings = Self::timings(self.server_grace, self.asleep, self.impatient);
        let route_timeout = if self.slow { ROUTE_TIMEOUT } else { timings.route_timeout };
        let timings = Timings { route_timeout, ..timings };
        ServerSettings { idle_conns: self.keep, timings, ..ServerSettings::default() }
    }

    pub(super) fn client(&self) -> Client {
        let settings = self.client_settings();
        let timings = settings.timings.clone();
        Client {
            main: Part::new(ClientMain::new(settings, "server".into(), 1)),
            loop_index: Part::new(ClientLoop::new(0, timings)),
            to_main: VecDeque::new(),
            to_loop: VecDeque::new(),
            started: false,
            frozen: false,
            // After a kick the pause, and the wait for the first conn of the next session.
            deadlines: self.ctl_losses + 2 * usize::from(self.kicks) + 1,
            retries: self.closes_port.then_some(1),
        }
    }

    pub(super) fn server_main(
        state: &mut State,
        now: Instant,
        story: &mut Story,
        call: impl FnOnce(&mut ServerMain<Stream, Door>, &mut Cx<'_, Kernel<'_>>),
    ) {
        let told = drive(&mut state.net, &mut state.main, Who::ServerMain, now, story, call);
        state.main.assert_consistent();
        for told in told {
            match told {
                Told::ToServerLoop(msg) => state.to_loop.push_back(msg),
                Told::ToListener(msg) => state.to_listener.push_back(msg),
                Told::Note(note) => Self::on_server_note(state, note),
                told => unreachable!("the server's main thread does not say {told:?}"),
            }
        }
        state.main.assert_ports(&state.listener, state.to_listener.iter());
    }

    pub(super) fn server_loop(
        &self,
        state: &mut State,
        now: Instant,
        story: &mut Story,
        call: impl FnOnce(&mut ServerLoop<Stream, Pipe>, &mut Cx<'_, Kernel<'_>>),
    ) {
        let told = drive(&mut state.net, &mut state.loop_index, Who::ServerLoop, now, story, call);
        state.loop_index.assert_consistent();
        for told in told {
            match told {
                Told::FromServerLoop(msg) => state.to_main.push_back(ToServerMain::Loop(msg)),
                Told::Note(note) => Self::on_server_note(state, note),
                told => unreachable!("a server's loop does not say {told:?}"),
            }
        }
    }

    pub(super) fn listener(
        &self,
        state: &mut State,
        now: Instant,
        story: &mut Story,
        call: impl FnOnce(&mut Listener<Stream, Door>, &mut Cx<'_, Kernel<'_>>),
    ) {
        let told = drive(&mut state.net, &mut state.listener, Who::Listener, now, story, call);
        state.listener.assert_consistent();
        for told in told {
            match told {
                Told::ToServerLoop(msg) => state.to_loop.push_back(msg),
                Told::FromListener(msg) => state.to_main.push_back(ToServerMain::Listener(msg)),
                Told::Note(note) => self.on_listener_note(state, &note),
                told => unreachable!("the listening thread does not say {told:?}"),
            }
        }
        state.main.assert_ports(&state.listener, state.to_listener.iter());
    }

    pub(super) fn client_main(
        state: &mut State,
        which: u8,
        now: Instant,
        story: &mut Story,
        call: impl FnOnce(&mut ClientMain<Stream>, &mut Cx<'_, Kernel<'_>>),
    ) {
        let State { net, clients, .. } = state;
        let client = &mut clients[usize::from(which)];
        let told = drive(net, &mut client.main, Who::ClientMain(which), now, story, call);
        client.main.assert_consistent();
        for told in told {
            match told {
                Told::ToClientLoop(msg) => client.to_loop.push_back(msg),
                Told::Resolve(tag) => {
                    let port = if matches!(tag, Lookup::Server(_)) { CTL_PORT } else { LOCAL_PORT };
                    client.to_main.push_back(ToClientMain::Resolved { tag, addresses: vec![at(port)] });
                }
                Told::Note(Note::Violation { violation, .. }) => {
                    panic!("honest peers never cause a Violation: {violation}")
                }
                Told::Note(_) => {}
                told => unreachable!("a client's main thread does not say {told:?}"),
            }
        }
    }

    pub(super) fn client_loop(
        state: &mut State,
        which: u8,
        now: Instant,
        story: &mut Story,
        call: impl FnOnce(&mut ClientLoop<Stream, Pipe>, &mut Cx<'_, Kernel<'_>>),
    ) {
        let State { net, clients, .. } = state;
        let client = &mut clients[usize::from(which)];
        let told = drive(net, &mut client.loop_index, Who::ClientLoop(which), now, story, call);
        client.loop_index.assert_consistent();
        for told in told {
            match told {
                Told::FromClientLoop(msg) => client.to_main.push_back(ToClientMain::Loop(msg)),
                Told::Note(Note::Violation { violation, .. }) => {
                    panic!("honest peers never cause a Violation: {violation}")
                }
                Told::Note(_) => {}
                told => unreachable!("a client's loop does not say {told:?}"),
            }
        }
        assign_dials(net, client.loop_index.conns());
    }

    fn on_listener_note(&self, state: &mut State, note: &Note) {
        let Note::NotRouted { visitor, why, .. } = *note else {
            unreachable!("the listening thread does not note {note:?}")
        };
        let (stopping, somebodys) = (state.server_stopping, state.is_somebodys());
        let visit = &mut state.net.visits[visit_at(visitor)];
        let may = match why {
            Refusal::NobodysHost => visit.is_named() && (visit.head == HEADS[1] || !somebodys),
            Refusal::Silent | Refusal::TooSlow => self.slow && !visit.is_named(),
            Refusal::Stopping => stopping,
            other => unreachable!("nobody is refused because {other}"),
        };
        assert!(may, "a visitor was refused without a cause: {why}");
        visit.doomed = true;
    }

    fn on_server_note(state: &mut State, note: Note) {
        match note {
            Note::Violation { violation, .. } => panic!("honest peers never cause a Violation: {violation}"),
            Note::Started { conn, epoch, visitor, .. } => {
                let visit = visit_at(visitor);
                let serves = |used: &Use<'_, Stream>| match used {
                    Use::Active { outer: Some(outer) } => state.net.visit_of(outer.0) == Some(visit),
                    Use::Active { outer: None } | Use::Idle | Use::Opening => false,
                };
                let server = state.loop_index.conns().find(|view| view.id == conn && serves(&view.used));
                let server = server.map(|view| view.stream.0);
                let carrier = server.map(|end| (state.net.serial(end), epoch.0));
                let lost = server.is_none_or(|end| {
                    let frozen =
                        |who| matches!(who, Who::ClientLoop(which) if state.clients[usize::from(which)].frozen);
                    state.net.is_lost(end) || state.net.holder(end.other()).is_some_and(frozen)
                });
                let visit = &mut state.net.visits[visit];
                assert!(visit.carrier.is_none(), "a visitor is served once");
                assert!(visit.head != HEADS[1], "nobody serves whoever comes for nobody's host");
                visit.carrier = carrier;
                visit.doomed |= lost;
            }
            Note::TakenBack { visitor, .. } => {
                let given = state.net.visits[visit_at(visitor)].carrier.take();
                assert!(given.is_some(), "only what was given can be taken back");
            }
            Note::VisitorDropped { visitor, why, .. } => {
                let may = match why {
                    Dropped::Gone => state.ending,
                    Dropped::WaitedTooLong
                    | Dropped::QueueFull
                    | Dropped::TooMany
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
            Note::SessionAsleep { .. } => state.ending = true,
            Note::Tunnel { outcome: Err(TunnelRefusal::Closed), .. } => {
                state.port_closed = true;
                state.ending = true;
                doom(state, |visit| visit.local.end.is_none());
            }
            Note::SessionOver { code, .. } => {
                state.ending = true;
                // The next one may have the tunnel again.
                state.port_closed = false;
                let graceful = matches!(code, CloseCode::Bye | CloseCode::Stopping)
                    && (state.server_stopping || state.client_stopping);
                doom(state, |visit| !graceful || visit.local.end.is_none());
            }
            _ => {}
        }
    }
}

/// Calls a driver and lets it finish its turn. Returns what it told others.
pub(super) fn drive<D>(
    net: &mut Net,
    part: &mut Part<D>,
    who: Who,
    now: Instant,
    story: &mut Story,
    call: impl FnOnce(&mut D, &mut Cx<'_, Kernel<'_>>),
) -> Vec<Told>
where
    D: Clone + for<'k> Driver<Kernel<'k>>,
{
    let mut told = Vec::new();
    let mut scratch = [0; SCRATCH];
    let mut kernel = Kernel { net, who, told: &mut told, story };
    let mut cx = Cx { sys: &mut kernel, now, scratch: &mut scratch, strategy: Strategy::Copy, turn: TURN };
    let driver = part.change();
    call(driver, &mut cx);
    while driver.is_busy() {
        driver.run_busy(&mut cx);
    }
    told
}
