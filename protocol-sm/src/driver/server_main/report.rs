//! Reports: the other drivers are asked for their parts, and all is put together.

use super::super::messages::{ControlKey, ToListener, ToLoop, ToOperator, ToServerLoop};
use super::super::thread::Cx;
use super::session_table::{Attachment, SessionEntry};
use super::{MainSys, ServerMain};
use crate::ids::TunnelId;
use crate::report::{
    CredentialReport, ListenerPart, LoopPart, PathReport, Report, SessionReport, SessionState, ShardPart, TunnelReport,
    TunnelState, short,
};
use crate::settings::Credential;
use crate::time::Instant;
use crate::wire::ServerMsg;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// What one driver tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Loop(Box<LoopPart>),
    Listener(Box<ListenerPart>),
}

impl<T, L> ServerMain<T, L> {
    pub(super) fn ask_for_report<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, tag: u64) {
        if self.reports.ask(tag) {
            self.begin_round(cx);
        }
    }

    fn begin_round<S: MainSys<T, L>>(&self, cx: &mut Cx<'_, S>) {
        let asked = cx.now;
        cx.sys.tell(ToListener::Report);
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Report { asked } });
        }
    }

    pub(super) fn on_part<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, part: Part) {
        let Some(gathered) = self.reports.on_part(part) else { return };
        let report = Box::new(self.report(cx.now, gathered.parts));
        cx.sys.tell(ToOperator::Report { tags: gathered.tags, report });
        if gathered.again {
            self.begin_round(cx);
        }
    }

    fn report(&self, now: Instant, parts: Vec<Part>) -> Report {
        let mut report = Report {
            stopping: self.stopping.is_some(),
            healing: *self.healing,
            handshakes_refused: self.turned_away.refused,
            handshakes_dropped: self.turned_away.dropped,
            ..Report::default()
        };
        let mut loops = Vec::new();
        let mut shards = BTreeMap::<ControlKey, Vec<ShardPart>>::new();
        let mut turned_away = BTreeMap::new();
        for part in parts {
            match part {
                Part::Loop(part) => loops.push(part),
                Part::Listener(part) => {
                    report.visitors.total += part.dropped.sum();
                    report.visitors.dropped.add_all(&part.dropped);
                    report.visitors.turned_away = part.turned_away;
                    (report.unrouted, report.not_routed) = (part.unrouted, part.not_routed);
                    turned_away.extend(part.tunnels.into_iter().map(|(key, tunnel, count)| ((key, tunnel), count)));
                }
            }
        }
        report.datagrams_lost.add_all(&self.paths.lost);
        [report.path_datagrams_in, report.path_datagrams_out] = *self.paths.carried;
        loops.sort_by_key(|part| part.loop_index);
        for part in loops {
            for (key, shard) in report.add(*part) {
                shards.entry(key).or_default().push(shard);
            }
        }
        // By their places; one that is gone from the configuration keeps its own, and counts while it has something.
        let named = |credential: &Credential| CredentialReport {
            credential: credential.name.clone(),
            ..CredentialReport::default()
        };
        let all = &self.settings.credentials;
        let valid = all.iter().enumerate().filter(|(_, credential)| !credential.tokens.is_empty());
        let mut credentials: BTreeMap<_, _> = valid.map(|(place, credential)| (place, named(credential))).collect();
        for (key, entry) in self.sessions.iter() {
            let shards = shards.remove(&key).unwrap_or_default();
            let turned_away = |tunnel| turned_away.get(&(key, tunnel)).copied().unwrap_or(0);
            let session = self.session_report(now, entry, shards, turned_away);
            if let Some(place) = entry.control.credential {
                let messages = entry.control.session.unacked();
                let of_it = credentials.entry(place).or_insert_with(|| named(&all[place]));
                of_it.add(&session, (messages * size_of::<ServerMsg>()) as u64);
            }
            report.sessions.push(session);
        }
        report.credentials = credentials.into_values().collect();
        report
    }

    fn session_report(
        &self,
        now: Instant,
        entry: &SessionEntry,
        shards: Vec<ShardPart>,
        turned_away: impl Fn(TunnelId) -> u64,
    ) -> SessionReport {
        let control = &entry.control;
        let (conns, tallies) = ShardPart::sum(shards);
        let tunnels = control.tunnels().map(|view| {
            let state = if view.public.is_some() { TunnelState::Open } else { TunnelState::Opening };
            let mut tunnel = TunnelReport::new(String::from(view.name), state, view.wanted);
            tunnel.locate(view.site, view.udp, view.bind_addr, view.public);
            tunnel.turned_away = turned_away(view.tunnel);
            if let Some(tally) = tallies.get(&view.tunnel) {
                tunnel.fill(tally, now);
            }
            tunnel
        });
        SessionReport {
            client: short(control.client.0),
            credential: self.settings.name_of(control.credential),
            peer: *entry.peer,
            through: None,
            state: match entry.attachment() {
                _ if entry.leaves => SessionState::Leaving,
                Attachment::Attached(_) => SessionState::Up,
                Attachment::Detached { .. } | Attachment::Asleep { .. } => SessionState::Detached,
            },
            error: None,
            age_ms: crate::report::millis(now.since(*entry.began)),
            datagram_path: PathReport::of(self.paths.state(control.key)),
            conns,
            tunnels: tunnels.collect(),
        }
    }
}
