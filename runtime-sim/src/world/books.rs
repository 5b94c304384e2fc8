//! What the programs tell of themselves, against what was seen of them.
//!
//! Whoever asks is told what was true at some moment between the question and the answer. At rest there is one truth, and
//! it is told to the last number.

use super::sys::Mail;
use super::{Event, Phase, Process, Role, World};
use crate::kernel::Rng;
use crate::oracle::{Books, Kind, Property, Sometimes};
use crate::scenario::flow_called;
use protocol_sm::driver::Note;
use protocol_sm::driver::messages::{ToClientMain, ToOperator, ToServerMain};
use protocol_sm::report::{Report, SessionState, TunnelState};
use std::collections::BTreeMap;
use std::time::Duration;

/// Questions in a run that has them.
const QUESTIONS: u64 = 30;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Asked {
    last_tag: u64,
    /// What was seen of each process so far.
    pub(super) books: BTreeMap<usize, Books>,
    /// Questions without an answer, and what was seen of the process when each was asked.
    open: BTreeMap<(usize, u64), Books>,
    /// The last answer of each process.
    last: BTreeMap<usize, Report>,
}

impl World {
    /// Some runs are asked all the time.
    pub(super) fn lay_questions(&mut self, length: u64) {
        if self.plan.seed % 4 != 3 {
            return;
        }
        // From numbers of their own: the other runs mean what they meant before.
        let mut rng = Rng::new(self.plan.seed ^ 0xb00c);
        for _ in 0..QUESTIONS {
            let at = Duration::from_nanos(rng.below(length));
            // Two at once, or almost.
            let apart = Duration::from_micros(rng.log_size(1, 20_000) as u64);
            self.later(at, Event::Ask);
            self.later(at + apart, Event::Ask);
        }
    }

    /// A process has noted something. One that gathers an answer is asked once more: what it has gathered is old.
    pub(super) fn see_counted(&mut self, process: usize, note: &Note) {
        self.asked.books.entry(process).or_default().on_note(note);
        let is_asked = self.asked.open.range((process, 0)..=(process, u64::MAX)).next().is_some();
        let begins = matches!(note, Note::Started { .. });
        if self.plan.seed % 4 == 3 && self.phase == Phase::Faults && (is_asked || begins) {
            self.ask(process);
        }
    }

    /// Every process is asked.
    pub(super) fn ask_all(&mut self) {
        for process in std::iter::once(self.server).chain(self.clients.clone()) {
            if self.processes.get(process).is_some_and(|process| process.alive) {
                self.ask(process);
            }
        }
    }

    pub(super) fn ask(&mut self, process: usize) {
        self.asked.last_tag += 1;
        let tag = self.asked.last_tag;
        let seen = self.asked.books.get(&process).cloned().unwrap_or_default();
        self.asked.open.insert((process, tag), seen);
        let Process { role, threads, .. } = &self.processes[process];
        let mail = match role {
            Role::Server => Mail::ServerMain(ToServerMain::Report { tag }),
            Role::Client { .. } => Mail::ClientMain(ToClientMain::Report { tag }),
        };
        self.post(threads[0], mail);
    }

    /// A program answers.
    pub(super) fn see_answer(&mut self, process: usize, answer: ToOperator) {
        let (tags, report) = match answer {
            ToOperator::Report { tags, report } => (tags, report),
            ToOperator::Done { tag, count } => return self.go_on_upgrading(process, tag, count),
        };
        if tags.len() > 1 {
            self.coverage.saw(Sometimes::AskedAtOnce);
        }
        let now = self.asked.books.get(&process).cloned().unwrap_or_default();
        for tag in tags {
            let told = match self.asked.open.remove(&(process, tag)) {
                None => Err("a question is answered that was not asked, or twice".to_owned()),
                Some(then) => then.up_to(&now, &report),
            };
            if let Err(what) = told {
                let role = self.processes[process].role;
                self.fail(Kind::Safety, Property::BooksAgree, format!("{role:?}: {what}"));
            }
        }
        self.asked.last.insert(process, *report);
    }

    /// At rest: what was told last is what there is.
    pub(super) fn check_books(&mut self) {
        let found = std::iter::once(self.server).chain(self.clients.clone()).find_map(|process| {
            let seen = self.asked.books.get(&process).cloned().unwrap_or_default();
            let role = self.processes[process].role;
            let told = self.asked.last.get(&process).ok_or_else(|| "nothing is told".to_owned());
            let checked = told.and_then(|report| {
                seen.up_to(&seen, report)?;
                self.check_rest(process, report)
            });
            checked.err().map(|what| format!("{role:?}: {what}"))
        });
        let unanswered = self.asked.open.keys().find(|(process, _)| self.processes[*process].alive);
        let found = found.or_else(|| {
            unanswered.map(|&(process, _)| format!("{:?}: a question is not answered", self.processes[process].role))
        });
        if let Some(what) = found {
            self.fail(Kind::Safety, Property::BooksAgree, what);
        }
    }

    fn check_rest(&self, process: usize, report: &Report) -> Result<(), String> {
        let role = self.processes[process].role;
        let mut pools: Vec<_> = self.plan.scenario.pools().map(|idle| idle as u64).collect();
        if let Role::Client { client, .. } = role {
            pools = vec![pools[client]];
        }
        let idle: u64 = pools.iter().sum();
        let expect = |right: bool, what: &str| if right { Ok(()) } else { Err(format!("{what}: {report:?}")) };
        let (visitors, conns) = (&report.visitors, &report.conns);
        expect((visitors.waiting, visitors.active) == (0, 0), "nobody is there")?;
        expect((conns.idle, conns.active) == (idle, 0), "idle conns are those of the pools")?;
        expect(report.sessions.len() == pools.len(), "each client has a session")?;
        expect(report.sessions.iter().all(|session| session.state == SessionState::Up), "each session is up")?;
        let mut told: Vec<_> = report.sessions.iter().map(|session| session.conns.idle).collect();
        told.sort_unstable();
        pools.sort_unstable();
        expect(told == pools, "each has its pool")?;
        expect(report.sessions.iter().all(|session| session.conns.active == 0), "no conn is in use")?;
        let told = report.sessions.iter().flat_map(|session| &session.tunnels);
        let open = told.filter(|tunnel| tunnel.state == TunnelState::Open && flow_called(&tunnel.name).is_none());
        let open = open.filter_map(|tunnel| tunnel.public);
        let mut open: Vec<_> = open.map(|public| public.port()).collect();
        let mine = |&(tunnel, _): &(usize, _)| match role {
            Role::Server => true,
            Role::Client { client, .. } => self.plan.scenario.tunnels[tunnel].client == client,
        };
        let publics = self.publics.iter().enumerate().filter(mine).filter_map(|(_, public)| *public);
        let mut expected: Vec<_> = publics.map(|public| public.port()).collect();
        open.sort_unstable();
        expected.sort_unstable();
        expect(open == expected, "the public ports are those of the tunnels")?;
        let sockets: u64 = report.loops.iter().map(|event_loop| event_loop.sockets).sum();
        let ports = if role == Role::Server && self.plan.flows { self.clients.len() as u64 } else { 0 };
        expect(sockets == idle + ports, "the loops' sockets are the idle conns, and the public ones of UDP")
    }
}
