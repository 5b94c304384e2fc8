//! When the threads of servers and clients run, and what comes of it.

use super::sys::{Effects, Mail, Socket, ThreadSys};
use super::tasks::{Held, Said, Task, Thread};
use super::{Event, Role, World};
use crate::kernel::{SockId, mix};
use crate::oracle::{Kind, Property, Sometimes};
use crate::scenario::{CTL, HOSTS, MET, PROXY, sort_left};
use core::net::SocketAddr;
use protocol_sm::driver::messages::{Order, ToClientMain, ToServerLoop, ToServerMain};
use protocol_sm::driver::server_main::Wanted;
use protocol_sm::driver::{Cx, Given, Lookup, Role as ConnRole, Token};
use protocol_sm::ids::TunnelId;
use protocol_sm::purposes::{Purpose, Purposes};
use protocol_sm::routes::Web;
use protocol_sm::time::Instant;
use std::time::Duration;

/// Tries to open a port that a driver makes in one go.
const MOST_LISTENS: usize = 4;
/// Bytes that a server takes from one ctl_conn in one go, and from how many of them.
const CTL_TURN: usize = 4 << 10;
const CTL_TURNS: usize = 8;
/// Bytes in which a visitor has named its host, and reads in one go from one that was refused and goes on.
const NAMED_IN: usize = 16 << 10;
const FAREWELL_READS: usize = 16;
/// Microseconds after which whoever has lost the processor has it again, at the latest.
const LONGEST_WAIT: usize = 300_000;
/// A thread that has run so often in a row with neither mail nor events spins.
const SPINS: u32 = 10_000;

impl World {
    /// A server begins, with what another process has left to it.
    pub(super) fn begin_server(&mut self, process: usize, left: Vec<(Given, SockId)>) {
        let (main, listener) = (self.processes[process].threads[0], self.processes[process].threads[1]);
        let left = left.into_iter().map(|(given, sock)| (given, self.kernel.local(sock), Socket(sock)));
        let ([ctl, proxy, http, https], held) = sort_left(left);
        let (one_port, adopted) = (self.plan.scenario.one_port.is_some(), ctl.is_some());
        let until = self.now() + self.plan.scenario.timings.session_grace;
        let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let routing = self.plan.scenario.server(self.plan.token).routing();
        self.with(listener, |task, cx| {
            if let Task::Listener(task) = task {
                let at = HOSTS.map(|port| (!one_port).then_some(any(port)));
                task.open_doors(cx, at, [http, https], routing).expect("the ports of hosts are free");
                for web in Web::ALL.into_iter().filter(|_| one_port) {
                    task.expect(web, any(HOSTS[web as usize]), adopted);
                }
                task.hold(held, until);
            }
        });
        self.tell(listener);
        self.sleep(listener);
        self.with(main, |task, cx| {
            if let Task::ServerMain(task) = task {
                let mut listen = |port, purposes, left| {
                    task.listen(cx, Wanted { at: any(port), purposes, left }).expect("the server's ports are free");
                };
                if one_port {
                    listen(CTL, Purpose::ALL.into_iter().collect(), ctl);
                } else {
                    listen(CTL, Purposes::default().with(Purpose::Ctl), ctl);
                    listen(PROXY, Purposes::default().with(Purpose::Proxy), proxy);
                }
            }
        });
        self.tell(main);
    }

    pub(super) fn begin_client(&mut self, process: usize) {
        let main = self.processes[process].threads[0];
        self.with(main, |task, cx| {
            if let Task::ClientMain(task) = task {
                task.start(cx);
            }
        });
        self.tell(main);
    }

    pub(super) fn deliver_resolved(&mut self, main: usize, tag: Lookup, addresses: Vec<SocketAddr>) {
        self.post(main, Mail::ClientMain(ToClientMain::Resolved { tag, addresses }));
    }

    /// Asks a process to stop.
    pub(super) fn ask_to_stop(&mut self, process: usize) {
        let now = self.now();
        let process = &mut self.processes[process];
        if !process.alive || process.stopping.is_some() {
            return;
        }
        process.stopping = Some(now);
        let (main, role) = (process.threads[0], process.role);
        self.post(
            main,
            match role {
                Role::Server => Mail::ServerMain(ToServerMain::Stop),
                Role::Client { .. } => Mail::ClientMain(ToClientMain::Stop),
            },
        );
    }

    /// The server's operator orders something.
    pub(super) fn order(&mut self, order: Order) {
        let server = &self.processes[self.server];
        if server.alive {
            let main = server.threads[0];
            self.post(main, Mail::ServerMain(ToServerMain::Order { tag: 0, order }));
        }
    }

    pub(super) fn ask_to_close(&mut self, process: usize, tunnel: TunnelId) {
        let main = self.processes[process].threads[0];
        self.post(main, Mail::ClientMain(ToClientMain::CloseTunnel { tunnel }));
    }

    pub(super) fn post(&mut self, thread: usize, mail: Mail) {
        self.threads[thread].mail.push_back(mail);
        self.wake(thread);
    }

    /// Something is there for a thread: it runs soon.
    pub(super) fn wake(&mut self, thread: usize) {
        let lag = u64::try_from(self.plan.lag.as_nanos()).expect("short");
        let lag = if self.rng.chance(80) { lag / 20 } else { lag };
        let at = self.now() + Duration::from_nanos(1_000 + self.rng.below(lag + 1));
        self.schedule(thread, at);
    }

    fn schedule(&mut self, thread: usize, at: Instant) {
        let next = &mut self.threads[thread].next_run;
        if next.is_none_or(|next| at < next) {
            *next = Some(at);
            self.at(at, Event::Run(thread));
        }
    }

    /// Calls into a thread's driver, and carries out what came of it.
    pub(super) fn with<R>(&mut self, index: usize, call: impl FnOnce(&mut Task, &mut Cx<'_, ThreadSys<'_>>) -> R) -> R {
        let mut effects = Effects::default();
        let now = self.now();
        let thread = &mut self.threads[index];
        let mut sys = ThreadSys {
            kernel: &mut self.kernel,
            plan: &self.plan,
            proc: thread.proc,
            poll: thread.poll,
            pool: &mut thread.pool,
            rng: &mut thread.rng,
            effects: &mut effects,
        };
        let mut cx = Cx {
            sys: &mut sys,
            now,
            scratch: &mut thread.scratch,
            strategy: self.plan.scenario.strategy,
            turn: self.plan.scenario.turn,
        };
        let result = call(&mut thread.task, &mut cx);
        self.see_effects(index, &effects);
        self.carry_out(index, effects);
        result
    }

    /// One turn does little, so that the others of its thread have theirs soon.
    fn check_turn(&mut self, index: usize, effects: &Effects) {
        let scenario = &self.plan.scenario;
        let is_server = matches!(self.threads[index].task, Task::ServerMain(_));
        let most = |role| match role {
            ConnRole::Ctl if is_server => CTL_TURN,
            // Its server is the only one that a client's main driver reads from.
            ConnRole::Ctl => 8 * scenario.scratch,
            ConnRole::Public if matches!(self.threads[index].task, Task::Listener(_)) => {
                NAMED_IN + FAREWELL_READS * scenario.scratch
            }
            // Nothing is taken before it is known what it is for.
            ConnRole::Untold => 0,
            // What is taken last may be more than is left of the turn; and a transfer that begins has its first turn at
            // once, behind what was read before.
            ConnRole::Proxy | ConnRole::Public | ConnRole::Local => {
                2 * (scenario.turn + scenario.turn.max(scenario.scratch))
            }
        };
        let of_ctl: usize = effects
            .taken
            .values()
            .filter(|(role, _)| is_server && *role == ConnRole::Ctl)
            .map(|(_, bytes)| bytes)
            .sum();
        let long = effects.taken.iter().find(|&(_, &(role, bytes))| bytes > most(role));
        let what = if effects.listens > MOST_LISTENS {
            format!("{} tries to open a port", effects.listens)
        } else if let Some((sock, (role, bytes))) = long {
            format!("{bytes} bytes of {role:?}, socket {}", sock.0)
        } else if of_ctl > CTL_TURNS * CTL_TURN {
            format!("{of_ctl} bytes of ctl_conns")
        } else {
            return;
        };
        self.fail(Kind::Safety, Property::TurnsAreShort, what);
    }

    fn carry_out(&mut self, index: usize, effects: Effects) {
        self.check_turn(index, &effects);
        let process = self.threads[index].process;
        for what in effects.sometimes {
            self.coverage.saw(what);
        }
        for (property, what) in effects.breaches {
            self.fail(Kind::Safety, property, what);
        }
        if effects.put_off {
            self.see_put_off(process);
        }
        self.see_dials(index, effects.last_read, &effects.dialled);
        self.on_notes(process, effects.notes);
        for reset in effects.resets {
            self.see_reset(reset);
        }
        for (_, mail) in &effects.mail {
            self.see_said_at_reload(mail);
            if let (Task::Listener(_), Mail::ServerLoop(ToServerLoop::Visitor(arrival))) =
                (&self.threads[index].task, mail)
            {
                self.see_arrival(process, arrival.control, arrival.tunnel);
            }
        }
        self.threads[index].parted |= effects.parted;
        let mail = effects.mail.into_iter().map(|(place, mail)| Said::To(place, mail));
        let others = effects.answers.into_iter().map(Said::Answer).chain(effects.paths.into_iter().map(Said::Paths));
        self.threads[index].outgoing.extend(mail.chain(others));
        self.upgrade.lend(process, effects.lent);
        self.look_for(process, effects.challenges);
        for (tag, name) in effects.lookups {
            let addresses = name.parse().into_iter().collect();
            self.lookups.push((tag, addresses));
            let lookup = self.lookups.len() - 1;
            let delay = Duration::from_micros(self.rng.range(10, 5_000));
            self.later(delay, Event::Resolved { process, lookup });
        }
    }

    /// What authorities have asked for is looked for.
    fn look_for(&mut self, process: usize, challenges: Vec<(Token, String)>) {
        for (newcomer, name) in challenges {
            let met = name == MET;
            if !met {
                self.coverage.saw(Sometimes::ChallengePassedOn);
            }
            // Mixed, not drawn: so that what a seed draws stays the same.
            let delay = mix(self.plan.seed ^ newcomer.number()) % 20_000;
            self.later(Duration::from_micros(delay), Event::Found { process, newcomer, met });
        }
    }

    /// What a thread has said is known from now on.
    fn tell(&mut self, index: usize) {
        let process = self.threads[index].process;
        self.threads[index].parted = false;
        for said in std::mem::take(&mut self.threads[index].outgoing) {
            match said {
                Said::Answer(answer) => self.see_answer(process, answer),
                Said::Paths(message) => self.on_to_paths(process, message),
                Said::To(place, mail) => {
                    self.see_sent(process, &mail);
                    self.post(self.processes[process].threads[place], mail);
                }
            }
        }
    }

    /// Whether a thread that has something to say loses the processor before it does.
    fn loses_the_processor(&mut self, index: usize, at: Held) -> bool {
        let Thread { task, outgoing, parted, .. } = &self.threads[index];
        // A main thread that parts with a connection has said why.
        let is_main = matches!(task, Task::ServerMain(_) | Task::ClientMain(_));
        let chance = if *parted && is_main { 90 } else { 5 };
        let lost = self.preempts && !outgoing.is_empty() && self.preemption.chance(chance);
        if lost {
            self.threads[index].held = Some(at);
            let time = self.preemption.log_size(1, LONGEST_WAIT) as u64;
            self.later(Duration::from_micros(time), Event::GoOn(index));
            self.coverage.saw(Sometimes::Preempted);
        }
        lost
    }

    /// A thread has the processor again.
    pub(super) fn go_on(&mut self, index: usize) {
        let process = &self.processes[self.threads[index].process];
        if !process.alive {
            return;
        }
        if process.frozen {
            return self.later(Duration::from_millis(1), Event::GoOn(index));
        }
        match self.threads[index].held.take() {
            Some(Held::Heard) => self.run_busy(index),
            Some(Held::Done) => self.end_batch(index),
            None => unreachable!("it was held"),
        }
    }

    /// One batch of a thread, in the order that production keeps.
    pub(super) fn run_thread(&mut self, index: usize) {
        let now = self.now();
        let thread = &mut self.threads[index];
        if thread.next_run != Some(now) {
            return;
        }
        // When it goes on, it sees for itself what has come.
        if thread.held.is_some() {
            thread.next_run = None;
            return;
        }
        thread.next_run = None;
        let process = &self.processes[thread.process];
        if !process.alive || process.frozen {
            return;
        }
        let batch = thread.rng.size(1, self.plan.batch);
        let events = self.kernel.poll(thread.poll, batch);
        // All that is there: what follows from it must be known before what the world made of it is seen.
        let mail = std::mem::take(&mut thread.mail);
        thread.spins = if events.is_empty() && mail.is_empty() { thread.spins + 1 } else { 0 };
        if thread.spins > SPINS {
            self.fail(Kind::Liveness, Property::NoSpinning, format!("thread {index} is run again and again"));
        }
        for mail in mail {
            self.see_delivered(index, &mail);
            self.begin_reload(index, &mail);
            self.with(index, |task, cx| task.on_message(cx, mail));
            self.watch.reloading = None;
        }
        for (token, ready) in events {
            self.with(index, |task, cx| task.on_ready(cx, token, ready));
        }
        if self.threads[index].task.next_deadline().is_some_and(|at| at <= now) {
            self.watch.deadline = true;
            self.with(index, |task, cx| task.on_deadline(cx));
            self.watch.deadline = false;
        }
        if !self.loses_the_processor(index, Held::Heard) {
            self.run_busy(index);
        }
    }

    fn run_busy(&mut self, index: usize) {
        self.tell(index);
        self.with(index, Task::run_busy);
        if !self.loses_the_processor(index, Held::Done) {
            self.end_batch(index);
        }
    }

    fn end_batch(&mut self, index: usize) {
        self.tell(index);
        self.threads[index].task.assert_consistent();
        if let Task::ServerMain(main) = &self.threads[index].task {
            let (process, sessions) = (self.threads[index].process, main.sessions());
            self.check_lines(process, sessions);
        }
        if matches!(self.threads[index].task, Task::ServerMain(_) | Task::Listener(_)) {
            self.check_ports(self.threads[index].process);
            self.check_crowd(self.threads[index].process);
        }
        self.sleep(index);
    }

    /// The public ports that a server has open are those of its clients' tunnels.
    fn check_ports(&mut self, process: usize) {
        if self.upgrade.has_given(process) {
            return;
        }
        let process = &self.processes[process];
        let [main, listener] = [process.threads[0], process.threads[1]].map(|thread| &self.threads[thread]);
        let said = main.outgoing.iter().filter_map(|said| match said {
            Said::To(_, mail) => Some(mail),
            Said::Answer(_) | Said::Paths(_) => None,
        });
        let on_the_way = listener.mail.iter().chain(said).filter_map(|mail| match mail {
            Mail::Listener(message) => Some(message),
            Mail::ServerMain(_) | Mail::ServerLoop(_) | Mail::ClientMain(_) | Mail::ClientLoop(_) => None,
        });
        let (Task::ServerMain(main), Task::Listener(listener)) = (&main.task, &listener.task) else {
            unreachable!("a server's first two threads")
        };
        main.assert_ports(listener, on_the_way);
        let socks = self.kernel.open_socks(process.proc).filter(|&sock| self.kernel.is_listening(sock)).count();
        let own = if self.plan.scenario.one_port.is_some() { 1 } else { 2 };
        let known = if main.is_over() { 0 } else { own } + listener.doors() + listener.ports() + listener.held();
        if socks != known {
            let what = format!("{socks} sockets listen, and {known} should");
            self.fail(Kind::Safety, Property::PortsAccountedFor, what);
        }
    }

    /// After a batch: when to run next.
    fn sleep(&mut self, index: usize) {
        let thread = &self.threads[index];
        let more = thread.task.is_busy() || !thread.mail.is_empty() || self.kernel.has_ready(thread.poll);
        let deadline = thread.task.next_deadline();
        if more {
            let cost = Duration::from_micros(self.threads[index].rng.range(2, 50));
            self.schedule(index, self.now() + cost);
        } else if let Some(at) = deadline {
            let late = Duration::from_micros(self.threads[index].rng.range(1, 1_000));
            self.schedule(index, at.max(self.now()) + late);
        }
    }

    /// Whether a main thread has ended: the server's or a client's.
    pub(super) fn is_over(&self, process: usize) -> bool {
        match &self.threads[self.processes[process].threads[0]].task {
            Task::ServerMain(task) => task.is_over(),
            Task::ClientMain(task) => task.outcome().is_some(),
            Task::Listener(_) | Task::ServerLoop(_) | Task::ClientLoop(_) => false,
        }
    }

    /// Whether nothing waits for any thread of a process.
    pub(super) fn is_quiet(&self, process: usize) -> bool {
        self.processes[process].threads.iter().all(|&thread| {
            let thread = &self.threads[thread];
            let at_rest = thread.held.is_none() && thread.mail.is_empty();
            at_rest && !self.kernel.has_ready(thread.poll) && !thread.task.is_busy()
        })
    }
}
