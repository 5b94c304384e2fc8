//! The two event loops: how they are called, and whether what they tell may be.

use super::{CONTROL, Loops, SCRATCH, SERIAL, State};
use crate::explore::deadlines::{NEVER, endless};
use crate::explore::net::{Kernel, Net, Pipe, Stream, Told, Who};
use crate::explore::peers::{assign_dials, visit_at};
use crate::explore::story::Story;
use protocol_sm::codes::AbortCode;
use protocol_sm::driver::client_loop::ClientLoop;
use protocol_sm::driver::messages::{FromClientLoop, FromServerLoop, ToClientLoop, ToServerLoop};
use protocol_sm::driver::server_loop::ServerLoop;
use protocol_sm::driver::{Cx, Driver, Dropped, Note, TURN, Use};
use protocol_sm::ids::ConnId;
use protocol_sm::settings::Timings;
use protocol_sm::time::Instant;
use protocol_sm::wire::ServerMsg;
use std::time::Duration;

impl Loops {
    pub(super) fn timings(&self) -> Timings {
        let wait_timeout = if self.config.timeouts { Duration::from_secs(1) } else { NEVER };
        Timings { wait_timeout, ..endless() }
    }

    pub(super) fn server<R>(
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

    pub(super) fn client<R>(
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
            FromServerLoop::Datagram { .. } => unreachable!("no path is here"),
            FromServerLoop::AskLine { .. } => unreachable!("this system does not tell what is acknowledged"),
            FromServerLoop::Report(_)
            | FromServerLoop::ConnGone { .. }
            | FromServerLoop::Drained { .. }
            | FromServerLoop::Settled { .. }
            | FromServerLoop::Left { .. }
            | FromServerLoop::PortClosed
            | FromServerLoop::PassOn { .. } => {}
        }
    }

    /// The client broke the protocol: the main threads end the session.
    pub(super) fn end_session(&self, state: &mut State, story: &mut Story) {
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

    pub(super) fn may_abort(&self, state: &State) -> bool {
        state.losses < self.config.losses || state.net.hostile || state.over
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
