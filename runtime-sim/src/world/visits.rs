//! What the access logs say is held against the programs' own calls: each visit leaves one record, with the bytes that
//! were moved and with ends that there were.

use super::actors::{Actor, Who};
use super::flows::FIRST_VISITOR;
use super::tasks::Task;
use super::{Role, World};
use crate::kernel::SockId;
use crate::oracle::{Kind, Property};
use crate::scenario::Front;
use core::net::SocketAddr;
use protocol_sm::visit::{Visit, VisitEnd, Way, WayEnd};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Visits {
    /// Bytes that the programs have read from their outer sockets, and written to them.
    moved: BTreeMap<SockId, [u64; 2]>,
    /// Bytes of headers in front of visitors.
    skipped: BTreeMap<SockId, u64>,
    /// Outer sockets whose write half a program has shut.
    shut: BTreeSet<SockId>,
    /// Public sockets that a server has accepted, and of which it has said nothing yet, by visitor.
    unsaid: BTreeMap<(usize, SocketAddr), VecDeque<SockId>>,
    /// Records of each process.
    said: BTreeMap<usize, u64>,
}

impl Visits {
    /// A server has accepted a visitor.
    pub(super) fn on_accepted(&mut self, server: usize, visitor: SocketAddr, public: SockId) {
        self.unsaid.entry((server, visitor)).or_default().push_back(public);
    }

    /// A program has moved bytes between itself and an outer socket.
    pub(super) fn on_moved(&mut self, sock: SockId, read: usize, written: usize) {
        let [before_read, before_written] = self.moved.entry(sock).or_default();
        *before_read += read as u64;
        *before_written += written as u64;
    }

    /// A program has shut the write halves of these sockets.
    pub(super) fn on_shut(&mut self, socks: &[SockId]) {
        self.shut.extend(socks);
    }

    /// A program has taken what its connection began with off a public socket.
    pub(super) fn on_skipped(&mut self, sock: SockId, bytes: usize) {
        *self.skipped.entry(sock).or_default() += bytes as u64;
    }

    /// What a program has read of a public socket began its TLS, which ends there, and what is `behind` is kept inside of
    /// that, to be read once more.
    pub(super) fn on_unread(&mut self, sock: SockId, hello: usize, behind: usize) {
        self.moved.entry(sock).or_default()[0] -= (hello + behind) as u64;
        self.on_skipped(sock, hello);
    }

    /// So many bytes.
    pub(super) fn skipped(&self, sock: SockId) -> u64 {
        self.skipped.get(&sock).copied().unwrap_or(0)
    }

    fn moved(&self, sock: SockId) -> [u64; 2] {
        self.moved.get(&sock).copied().unwrap_or_default()
    }
}

impl World {
    /// The address that whoever says that he is `name` has in truth.
    pub(super) fn in_truth(&self, name: SocketAddr) -> SocketAddr {
        let relay = self.kernel.ip(self.visitor_host);
        if Front::is_name(name) { SocketAddr::new(relay, name.port()) } else { name }
    }

    /// A program says of a visit that it is over.
    pub(super) fn see_visit(&mut self, process: usize, visit: &Visit) {
        *self.visits.said.entry(process).or_default() += 1;
        if visit.visitor.port() >= FIRST_VISITOR {
            // A flow's: its datagrams are looked at one by one.
            return;
        }
        let found = match self.processes[process].role {
            Role::Server => self.check_public(process, visit),
            Role::Client { .. } => self.check_local(process, visit),
        };
        if let Err(what) = found {
            self.fail(Kind::Safety, Property::VisitsRecorded, format!("{what}: {visit:?}"));
        }
    }

    fn check_public(&mut self, server: usize, visit: &Visit) -> Result<(), String> {
        let visitor = self.in_truth(visit.visitor);
        let unsaid = self.visits.unsaid.get_mut(&(server, visitor));
        let Some(public) = unsaid.and_then(VecDeque::pop_front) else {
            return Err("nobody came from there, or it was said before".into());
        };
        // A service may be told more than its visitor has said.
        let grown = self.actors.streams.grown(visit.visitor);
        let up = Way { bytes: visit.up.bytes.saturating_sub(grown), ..visit.up };
        self.check_ways(public, up, visit.down, 0, visit)
    }

    fn check_local(&self, client: usize, visit: &Visit) -> Result<(), String> {
        let Some(local) = self.watch.local_of(&self.kernel, client, self.in_truth(visit.visitor)) else {
            let may = visit.up.bytes + visit.down.bytes == 0 || self.watch.has_awaited(client);
            return if may { Ok(()) } else { Err("bytes without a local_conn".into()) };
        };
        // Its service is told who it is before its bytes.
        let header = self.actors.streams.header_of(visit.visitor).map_or(0, <[u8]>::len);
        self.check_ways(local, visit.down, visit.up, header as u64, visit)
    }

    /// `taken` is what the outer socket has given, `given` what it was given behind a header of so many bytes.
    fn check_ways(&self, outer: SockId, taken: Way, given: Way, header: u64, visit: &Visit) -> Result<(), String> {
        let [read, written] = self.visits.moved(outer);
        let moved = [read, written.saturating_sub(header)];
        if [taken.bytes, given.bytes] != moved {
            return Err(format!("{} read and {} written in truth", moved[0], moved[1]));
        }
        if taken.end == WayEnd::Shut && self.actor_behind(outer).is_some_and(|actor| actor.sent as u64 != taken.bytes) {
            return Err("not all was read that was sent before the end".into());
        }
        if given.end == WayEnd::Shut && !self.visits.shut.contains(&outer) {
            return Err("its write half was not shut".into());
        }
        let served = visit.outcome == VisitEnd::Served;
        if served && (taken.end == WayEnd::Cut || given.end == WayEnd::Cut || visit.served_after.is_none()) {
            return Err("a visit that was served is whole".into());
        }
        Ok(())
    }

    /// The visitor or service at the other end of an outer socket.
    fn actor_behind(&self, outer: SockId) -> Option<&Actor> {
        let peer = self.kernel.peer(outer)?;
        let ordinary = |actor: &&Actor| matches!(actor.who, Who::Visitor { .. } | Who::Service) && actor.sock == peer;
        self.actors.all.iter().rev().find(ordinary)
    }

    /// A process that has ended by itself has said all.
    pub(super) fn check_visits(&mut self, process: usize) {
        let threads = &self.processes[process].threads;
        let visits = threads.iter().map(|&thread| match &self.threads[thread].task {
            Task::ServerLoop(task) => task.totals().visitors,
            Task::Listener(task) => task.totals().visitors + task.turned_away().sum(),
            Task::ClientLoop(task) => task.totals().visitors,
            Task::ServerMain(_) | Task::ClientMain(_) => 0,
        });
        let (visits, said) = (visits.sum(), self.visits.said.get(&process).copied().unwrap_or(0));
        if said != visits {
            self.fail(Kind::Safety, Property::VisitsRecorded, format!("{said} records of {visits} visits"));
        }
    }
}
