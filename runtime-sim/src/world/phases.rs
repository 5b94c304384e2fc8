//! After the faults: everything must converge, probes must round-trip, descriptors must be back at their baseline,
//! and an orderly stop must leave nothing behind.

use super::actors::{Actor, Who};
use super::tasks::Task;
use super::{Event, Phase, Role, World};
use crate::oracle::{Kind, Property};
use crate::scenario::{HOSTS, Outcome, PROXY};
use protocol_sm::time::Instant;
use std::time::Duration;

/// By then everything has converged: the longest of the kernel's own patience (a connection whose packets vanish).
const CONVERGE: Duration = Duration::from_secs(2_500);
/// By then keepalive has found every end whose peer is gone.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(75);
/// What a slow network and a busy thread may add to a deadline.
const LAG: Duration = Duration::from_secs(5);
const PROBE: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(500);

impl World {
    pub(super) fn next_phase(&mut self) {
        self.reap();
        if self.may_have_moved() {
            self.find_publics();
            self.find_flows();
        }
        match self.phase {
            Phase::Faults => {
                self.remark("the faults stop");
                self.phase = Phase::Healing(self.now() + CONVERGE);
                self.heal();
            }
            Phase::Healing(until) => {
                if self.has_converged() {
                    self.phase = Phase::Resting(until);
                } else if self.now() >= until {
                    self.explain_divergence();
                }
            }
            Phase::Resting(until) => {
                if self.has_converged() {
                    self.remark("converged");
                    self.phase = Phase::Probing(self.now() + PROBE);
                    self.visit(0, true);
                } else {
                    self.phase = Phase::Healing(until);
                }
            }
            Phase::Probing(until) => self.check_probes(until),
            Phase::Settling => {
                self.check_direct();
                self.check_baseline();
                self.check_books();
                self.stop_everybody();
            }
            Phase::Stopping(until) => self.check_stop(until),
            Phase::Over => return,
        }
        let pause = match self.phase {
            Phase::Resting(_) => {
                let timings = self.plan.scenario.longest_timings();
                timings.heartbeat_timeout * 2 + timings.idle_ping_interval + timings.idle_ping_timeout
            }
            Phase::Settling => self.rest(),
            Phase::Faults | Phase::Healing(_) | Phase::Probing(_) | Phase::Stopping(_) | Phase::Over => TICK,
        };
        self.later(pause, Event::Phase);
    }

    /// By then every pool has shrunk.
    fn rest(&self) -> Duration {
        let timings = self.plan.scenario.longest_timings();
        timings.idle_conn_lifetime + timings.idle_ping_interval * 2 + KEEPALIVE
    }

    fn remark(&mut self, text: &str) {
        let now = self.now();
        self.kernel.trace.remark(now, None, || text.to_owned());
    }

    /// Processes whose main thread has ended are gone, once their threads have nothing left to do.
    pub(super) fn reap(&mut self) {
        for process in 0..self.processes.len() {
            if self.processes[process].alive && self.is_over(process) && self.is_quiet(process) {
                self.check_end(process);
                self.kill(process);
                if matches!(self.phase, Phase::Healing(_) | Phase::Resting(_)) {
                    // It ended because of a fault (replaced by a rival, or asked to stop): somebody starts it again.
                    match self.processes[process].role {
                        Role::Server if process == self.server => self.start_server(),
                        Role::Server => {}
                        Role::Client { client, rival: false } => self.start_client(client),
                        Role::Client { rival: true, .. } => {}
                    }
                }
            }
        }
    }

    /// A process that ended by itself has closed everything.
    pub(super) fn check_end(&mut self, process: usize) {
        let proc = self.processes[process].proc;
        let role = self.processes[process].role;
        let socks: Vec<_> = self.kernel.open_socks(proc).collect();
        if !socks.is_empty() {
            let sock = socks[0];
            let what = format!(
                "{role:?} ended with {} sockets open, the first from {} to {}",
                socks.len(),
                self.kernel.local(sock),
                self.kernel.remote(sock)
            );
            self.fail(Kind::Safety, Property::ClosedOnce, what);
        }
        let threads = self.processes[process].threads.clone();
        let pooled: usize = threads.iter().map(|&thread| self.threads[thread].pool.len()).sum();
        if pooled != self.kernel.open_pipes(proc) {
            let what = format!("{role:?}: {pooled} pipes in the pools, {} open", self.kernel.open_pipes(proc));
            self.fail(Kind::Safety, Property::ClosedOnce, what);
        }
        for thread in threads {
            if let Task::ServerLoop(task) = &self.threads[thread].task {
                let totals = task.totals();
                if totals.visitors != totals.finished + totals.aborted {
                    self.fail(Kind::Safety, Property::VisitorsAccountedFor, format!("{totals:?}"));
                }
            }
        }
        self.check_visits(process);
        self.check_lines(process, 0);
    }

    /// Streams under way.
    pub(super) fn transfers_in_flight(&self) -> usize {
        let open = |actor: &&Actor| actor.who == Who::Service && actor.outcome.is_none();
        self.actors.all.iter().filter(open).count()
    }

    /// Streams under way through one tunnel.
    pub(super) fn transfers_of(&self, tunnel: usize) -> usize {
        let open = |actor: &&Actor| actor.who == Who::Service && actor.outcome.is_none();
        let mine = |actor: &&super::actors::Actor| self.actors.streams.tunnel(actor.stream) == tunnel;
        self.actors.all.iter().filter(open).filter(mine).count()
    }

    fn has_converged(&self) -> bool {
        self.actors.all.iter().all(|actor| actor.outcome.is_some())
            && self.clients_up()
            && self.rivals_forgotten()
            && self.flows_returned()
            && (0..self.plan.scenario.tunnels.len()).all(|tunnel| self.port_listens(tunnel))
    }

    fn clients_up(&self) -> bool {
        self.clients.iter().all(|&process| {
            let Some(process) = self.processes.get(process).filter(|process| process.alive) else { return false };
            matches!(&self.threads[process.threads[0]].task, Task::ClientMain(task) if task.is_up())
        })
    }

    /// What a rival has taken over, and not kept, is the client's again.
    fn rivals_forgotten(&self) -> bool {
        let server = &self.processes[self.server];
        let Task::ServerMain(main) = &self.threads[server.threads[0]].task else { return false };
        !self.may_have_moved() || main.sessions() == self.plan.scenario.clients.len()
    }

    fn port_listens(&self, tunnel: usize) -> bool {
        let server = self.processes[self.server].proc;
        let client = self.clients[self.plan.scenario.tunnels[tunnel].client];
        // Where no conns are kept ready, a client whose first one failed knows nothing until a visitor comes.
        let may_not_know = self.plan.scenario.idle_conns == 0;
        let Task::Listener(listener) = &self.threads[self.processes[self.server].threads[1]].task else { return false };
        let site = self.plan.scenario.tunnels[tunnel].site.as_ref();
        site.is_none_or(|site| listener.leads(site))
            && self.publics[tunnel].is_some_and(|at| {
                self.kernel.listener_at(self.server_host, at) == Some(server)
                    && (may_not_know || self.forwarding.get(&(client, tunnel)) == Some(&at))
            })
    }

    fn explain_divergence(&mut self) {
        let (property, what) = if let Some(actor) = self.actors.all.iter().find(|actor| actor.outcome.is_none()) {
            let text = format!(
                "{:?} {} still waits, socket {}",
                actor.who,
                self.actors.streams.show(actor.stream),
                actor.sock.0
            );
            (Property::TransfersEnd, text)
        } else if !self.flows_returned() {
            (Property::PathsReturn, self.explain_flows())
        } else if self.clients_up() {
            (Property::PortsListen, format!("public {:?}, told {:?}", self.publics, self.forwarding))
        } else {
            (Property::ClientsReturn, "a client is not up".into())
        };
        self.fail(Kind::Liveness, property, what);
    }

    fn check_probes(&mut self, until: Instant) {
        let probe = |actor: &&Actor| actor.who == Who::Visitor { probe: true };
        let failed = self.actors.all.iter().rposition(|actor| {
            actor.who == Who::Visitor { probe: true } && !matches!(actor.outcome, None | Some(Outcome::Whole))
        });
        if let Some(index) = failed {
            // The pool may be empty and the way longer than `wait_timeout`. The conn that was asked for is there next
            // time, if that is all.
            let from = self.kernel.local(self.actors.all[index].sock);
            if self.watch.waited_too_long.remove(&from) {
                let tunnel = self.actors.all[..index].iter().filter(probe).count();
                self.actors.all[index].who = Who::Visitor { probe: false };
                return self.visit(tunnel, true);
            }
            let actor = &self.actors.all[index];
            let what = format!("{}: {:?}", self.actors.streams.show(actor.stream), actor.outcome);
            self.fail(Kind::Liveness, Property::ProbesRoundTrip, what);
            return;
        }
        if self.plan.scenario.calm {
            self.check_calm();
        }
        if self.actors.all.iter().all(|actor| actor.outcome.is_some()) {
            // One after the other: a small queue may turn a crowd away.
            let probed = self.actors.all.iter().filter(probe).count();
            if probed < self.plan.scenario.tunnels.len() {
                self.phase = Phase::Probing(self.now() + PROBE);
                self.visit(probed, true);
            } else {
                self.phase = Phase::Settling;
                let until_rest = self.rest() - LAG;
                self.later(until_rest, Event::Ask);
            }
        } else if self.now() >= until {
            self.fail(Kind::Liveness, Property::ProbesRoundTrip, "a probe has not ended".into());
        }
    }

    /// Where nothing harmed anybody, everybody was served whole, and strangers were gone in time.
    fn check_calm(&mut self) {
        let honest_and_strangers = self.actors.all.iter().filter(|actor| actor.who != Who::Holder);
        let (strangers, others): (Vec<_>, Vec<_>) = honest_and_strangers.partition(|actor| actor.who == Who::Stranger);
        let timings = &self.plan.scenario.timings;
        let handshake = timings.handshake_timeout + LAG;
        // One who proved a token of his own is a client that says nothing more.
        let patience = |inside: bool| if inside { handshake + timings.heartbeat_timeout } else { handshake };
        let late = |actor: &&&Actor| actor.ended.since(actor.began) > patience(actor.is_inside());
        if let Some(actor) = strangers.iter().find(late) {
            let what = format!("one came at {:?} and was there until {:?}", actor.began, actor.ended);
            return self.fail(Kind::Safety, Property::StrangersHoldNothing, what);
        }
        // Who asks for nobody's host may wait for it in vain.
        let in_vain = |actor: &&Actor| actor.who == Who::Inquirer && actor.outcome == Some(Outcome::Own);
        let mut served = others.into_iter().filter(|actor| !in_vain(actor));
        let bad = served.find(|actor| !matches!(actor.outcome, None | Some(Outcome::Whole)));
        if let Some(actor) = bad {
            let what = format!("{}: {:?} at {:?}", self.actors.streams.show(actor.stream), actor.outcome, actor.ended);
            self.fail(Kind::Safety, Property::NoUnprovokedReset, what);
        }
    }

    fn check_baseline(&mut self) {
        let targets: Vec<_> = self.plan.scenario.pools().collect();
        let target: usize = targets.iter().sum();
        let server = self.processes[self.server].proc;
        let count = |world: &Self, proc, port| {
            let socks = world.kernel.open_socks(proc).filter(|&sock| !world.kernel.is_listening(sock));
            let end = |&sock: &crate::kernel::SockId| {
                if proc == server { world.kernel.local(sock).port() } else { world.kernel.remote(sock).port() }
            };
            socks.filter(|sock| end(sock) == port).count()
        };
        let mut expected = vec![(server, count(self, server, PROXY), target, "server")];
        for (&process, &target) in self.clients.iter().zip(&targets) {
            let proc = self.processes[process].proc;
            expected.push((proc, count(self, proc, PROXY), target, "client"));
        }
        for &(_, found, expected, who) in &expected {
            if found != expected {
                let what = format!("{found} conns on the {who}, not {expected}");
                return self.fail(Kind::Liveness, Property::PoolsAtTarget, what);
            }
        }
        let open = |proc| self.kernel.open_socks(proc).count();
        let ports = self.plan.scenario.tunnels.iter().filter(|tunnel| tunnel.site.is_none()).count();
        let own = if self.plan.scenario.one_port.is_some() { 1 } else { 2 + HOSTS.len() };
        // A UDP port has two descriptors: the listener's, and that of the loop that reads there.
        let flows = if self.plan.flows { 2 * targets.len() } else { 0 };
        let servers = own + ports + targets.len() + target + flows;
        if open(server) != servers {
            let what = format!("the server has {} sockets, not {servers}", open(server));
            return self.fail(Kind::Liveness, Property::DescriptorsAtBaseline, what);
        }
        for (&process, target) in self.clients.iter().zip(targets) {
            let proc = self.processes[process].proc;
            if open(proc) != 1 + target {
                let what = format!("a client has {} sockets, not {}", open(proc), 1 + target);
                return self.fail(Kind::Liveness, Property::DescriptorsAtBaseline, what);
            }
        }
        self.clients.clone().into_iter().for_each(|client| self.check_lines(client, 1));
        self.check_timers();
    }

    fn check_timers(&mut self) {
        let late = self.now();
        for process in std::iter::once(self.server).chain(self.clients.iter().copied()).collect::<Vec<_>>() {
            for &thread in &self.processes[process].threads.clone() {
                // A deadline that has just passed is still being slept over.
                let due = self.threads[thread].task.next_deadline();
                if due.is_some_and(|at| at + Duration::from_secs(1) < late) {
                    self.fail(Kind::Liveness, Property::OnlyFutureTimers, format!("{due:?} is long past"));
                }
            }
        }
    }

    fn stop_everybody(&mut self) {
        let drain = self.plan.scenario.timings.drain_timeout + Duration::from_secs(20);
        self.phase = Phase::Stopping(self.now() + drain);
        let everybody: Vec<_> = match self.rng.below(3) {
            0 => vec![self.server],
            1 => self.clients.clone(),
            _ => std::iter::once(self.server).chain(self.clients.iter().copied()).collect(),
        };
        // Whoever ends between question and answer gives none.
        self.ask_all();
        for process in everybody {
            self.ask_to_stop(process);
        }
        self.ask_all();
    }

    fn check_stop(&mut self, until: Instant) {
        let stopping = |process: &super::Process| process.stopping.is_some() && process.alive;
        if self.processes.iter().any(stopping) {
            if self.now() >= until {
                self.fail(Kind::Liveness, Property::DrainEnds, "a process that was asked to stop goes on".into());
            }
            return;
        }
        // Who is left is asked in turn.
        let left: Vec<_> = std::iter::once(self.server).chain(self.clients.iter().copied()).collect();
        let left: Vec<_> = left.into_iter().filter(|&process| self.processes[process].alive).collect();
        if left.is_empty() {
            self.phase = Phase::Over;
            return;
        }
        let drain = self.plan.scenario.timings.drain_timeout + Duration::from_secs(20);
        self.phase = Phase::Stopping(self.now() + drain);
        for process in left {
            self.ask_to_stop(process);
        }
    }
}
