//! Reports: the event loops are asked for their parts, and all is put together.

use super::super::messages::{ToClientLoop, ToLoop, ToOperator};
use super::super::thread::{Cx, Tell};
use super::{ClientMain, Outcome};
use crate::notes::Disconnect;
use crate::report::{
    ConnReport, Histogram, LoopPart, PathReport, Report, SessionReport, SessionState, ShardPart, millis, short,
};
use crate::time::Instant;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// What is only told of the way to the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    /// When the session began, or since when there is none.
    since: Instant,
    /// When the ctl_conn was lost.
    lost: Option<Instant>,
    /// Why there is none.
    why: Option<Disconnect>,
    healing: Histogram,
}

impl Story {
    /// There is a ctl_conn.
    pub(super) fn on_up(&mut self, now: Instant, resumed: bool) {
        if let Some(lost) = self.lost.take() {
            self.healing.add(now.since(lost));
        }
        self.why = None;
        if !resumed {
            self.since = now;
        }
    }

    /// There is none.
    pub(super) fn on_down(&mut self, now: Instant, was_up: bool, why: Disconnect) {
        if was_up {
            self.lost = Some(now);
        }
        self.why = Some(why);
    }

    /// The session is over, or goes on beside the next one. Returns when it began.
    pub(super) fn on_over(&mut self, now: Instant) -> Instant {
        core::mem::replace(&mut self.since, now)
    }
}

impl<T> ClientMain<T> {
    pub(super) fn ask_for_report<S: Tell<ToLoop<ToClientLoop>>>(&mut self, cx: &mut Cx<'_, S>, tag: u64) {
        if self.reports.ask(tag) {
            self.begin_round(cx);
        }
    }

    fn begin_round<S: Tell<ToLoop<ToClientLoop>>>(&self, cx: &mut Cx<'_, S>) {
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::Report { asked: cx.now } });
        }
    }

    pub(super) fn on_part<S>(&mut self, cx: &mut Cx<'_, S>, part: LoopPart)
    where
        S: Tell<ToLoop<ToClientLoop>> + Tell<ToOperator>,
    {
        let Some(gathered) = self.reports.on_part(part) else { return };
        let report = Box::new(self.report(cx.now, gathered.parts));
        cx.sys.tell(ToOperator::Report { tags: gathered.tags, report });
        if gathered.again {
            self.begin_round(cx);
        }
    }

    fn report(&self, now: Instant, mut parts: Vec<LoopPart>) -> Report {
        let mut report = Report { stopping: self.stopping.is_some(), healing: self.story.healing, ..Report::default() };
        report.datagrams_lost.add_all(&self.paths.lost);
        [report.path_datagrams_in, report.path_datagrams_out] = *self.paths.carried;
        parts.sort_by_key(|part| part.loop_index);
        let shards: Vec<_> = parts.into_iter().flat_map(|part| report.add(part)).collect();
        let conns_of = |of: &dyn Fn(u64) -> bool| {
            let of_them = shards.iter().filter(|(key, _)| of(key.0));
            of_them.fold(ConnReport::default(), |mut sum, (_, shard)| {
                sum.add(shard.conns);
                sum
            })
        };
        let session = |state, since, conns| SessionReport {
            client: short(self.settings.client_id),
            credential: None,
            peer: self.server_at,
            state,
            through: self.through(),
            error: None,
            age_ms: millis(now.since(since)),
            datagram_path: None,
            conns,
            tunnels: Vec::new(),
        };
        let state = match (self.is_up(), &self.control) {
            _ if self.stopping.as_ref().is_some_and(|stopping| stopping.outcome == Outcome::TakenOver) => {
                SessionState::Leaving
            }
            (true, _) => SessionState::Up,
            (false, Some(_)) => SessionState::Detached,
            (false, None) => SessionState::Connecting,
        };
        let mut own = session(state, self.story.since, conns_of(&|serial| !self.is_left(serial)));
        own.datagram_path = PathReport::of(self.paths.state);
        own.error = self.story.why.map(|why| why.sentence(&self.server, self.through().as_deref()));
        let left = self
            .left
            .iter()
            .map(|left| session(SessionState::Leaving, *left.began, conns_of(&|serial| serial == left.control.serial)));
        report.sessions = [own].into_iter().chain(left).collect();
        let tallies = ShardPart::sum(shards.into_iter().map(|(_, shard)| shard).collect()).1;
        report.sessions[0].tunnels = self.tunnels.report(self.control.is_some(), &tallies, now);
        report
    }
}
