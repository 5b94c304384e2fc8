//! A whole system in one thread: a server, clients, visitors, local services, and what goes wrong between them.
//!
//! The server's and the clients' threads run production's own drivers. Which thread runs next, how many events it is
//! handed at once, whether it loses the processor, and when faults strike comes from the seed. A fault phase, then a heal
//! phase in which everything must converge, then probes, then an orderly stop.

mod actors;
mod books;
#[cfg(test)]
mod dead_flow;
mod direct;
mod faults;
mod flows;
#[cfg(test)]
mod forgotten;
mod inquirers;
mod lines;
mod phases;
mod plan;
mod proxy;
mod reload;
mod silence;
mod sys;
mod tasks;
mod threads;
mod throttles;
mod upgrade;
#[cfg(test)]
mod violations;
mod visits;
mod watch;

pub use plan::{Place, Plan, faults};
pub use sys::{Pipe, Socket, Stream};

use crate::impostor::Overheard;
use crate::kernel::{HostId, Kernel, PollId, ProcId, Rng};
use crate::oracle::{Breach, Coverage, Kind, Property, Sometimes};
use crate::scenario::{CTL, HOSTS, Outcome, PROXY, tunnel_called};
use crate::trace::Trace;
use actors::{Actors, Service};
use books::Asked;
use core::net::SocketAddr;
use flows::Flows;
use lines::{LineEvent, Lines};
use protocol_sm::driver::{Lookup, Note, Token};
use protocol_sm::reload::ClientReload;
use protocol_sm::routes::Web;
use protocol_sm::sources::Network;
use protocol_sm::time::Instant;
use silence::Silence;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;
use tasks::{Task, Thread};
use throttles::Throttles;
use upgrade::Upgrade;
use visits::Visits;
use watch::Watch;

/// The result of one run.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash over everything that happened.
    pub hash: u64,
    /// How long it was, in simulated time.
    pub simulated: Duration,
    /// Events that happened.
    pub events: u64,
    /// What broke, if something did.
    pub breach: Option<Breach>,
    /// What was seen.
    pub coverage: Coverage,
    /// Visitors that were served whole.
    pub served: usize,
    /// The story, if it was asked for.
    pub trace: Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Run(usize),
    /// A thread that had lost the processor has it again.
    GoOn(usize),
    Actors,
    Actor(usize),
    Visitor(usize),
    Inquirer(Option<usize>),
    FaultBegins(usize),
    FaultEnds(usize),
    StartClient(usize),
    Resolved {
        process: usize,
        lookup: usize,
    },
    /// The answer to a challenge was looked for.
    Found {
        process: usize,
        newcomer: Token,
        met: bool,
    },
    Phase,
    Look,
    Ask,
    /// Something happens on a path.
    Line(LineEvent),
    /// A visitor of a UDP tunnel says something.
    Speak(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Server,
    /// Of this client; `rival` is a second one with the same identity.
    Client {
        client: usize,
        rival: bool,
    },
}

#[derive(Debug)]
struct Process {
    role: Role,
    proc: ProcId,
    threads: Vec<usize>,
    alive: bool,
    frozen: bool,
    /// Since when it runs without a break.
    awake: Instant,
    /// Its descriptors were closed by the kernel at this time.
    killed: Option<Instant>,
    /// Asked to stop at.
    stopping: Option<Instant>,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Load and faults.
    Faults,
    /// Faults have stopped: everything converges until this time.
    Healing(Instant),
    /// Everything seems to have converged. Pings and heartbeats find the connections that have died unnoticed.
    Resting(Instant),
    /// One visitor per tunnel, who must be served whole.
    Probing(Instant),
    /// Nothing happens: pools shrink to their target.
    Settling,
    /// Everybody was asked to stop.
    Stopping(Instant),
    Over,
}

/// See the module.
struct World {
    plan: Plan,
    kernel: Kernel,
    rng: Rng,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    seq: u64,
    processes: Vec<Process>,
    threads: Vec<Thread>,
    polls: BTreeMap<PollId, usize>,
    actors: Actors,
    actors_due: bool,
    server_host: HostId,
    client_hosts: Vec<HostId>,
    service_hosts: Vec<HostId>,
    visitor_host: HostId,
    visitors: (ProcId, PollId),
    server: usize,
    clients: Vec<usize>,
    rivals: Vec<usize>,
    /// Where each tunnel was opened last.
    publics: Vec<Option<SocketAddr>>,
    /// What each client process has told its user.
    forwarding: BTreeMap<(usize, usize), SocketAddr>,
    lookups: Vec<(Lookup, Vec<SocketAddr>)>,
    faults: Vec<faults::Struck>,
    watch: Watch,
    visits: Visits,
    throttles: Throttles,
    asked: Asked,
    upgrade: Upgrade,
    silence: Silence,
    overheard: Overheard,
    lines: Lines,
    flows: Flows,
    /// Threads lose the processor now and then: in every other run.
    preempts: bool,
    /// Numbers of its own: the other runs mean what they meant before.
    preemption: Rng,
    coverage: Coverage,
    breach: Option<Breach>,
    phase: Phase,
}

/// Runs one seed to its end.
#[must_use]
pub fn run(seed: u64, keep_trace: bool) -> Report {
    run_plan(Plan::new(seed), keep_trace)
}

/// Runs one plan to its end.
#[must_use]
pub fn run_plan(plan: Plan, keep_trace: bool) -> Report {
    let mut world = World::new(plan, keep_trace);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
    if let Err(panic) = outcome {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.fail(Kind::Crash, Property::NoPanic, what.unwrap_or_else(|| "a panic".into()));
    }
    world.report()
}

impl World {
    fn new(mut plan: Plan, keep_trace: bool) -> Self {
        let mut rng = Rng::new(plan.seed ^ 0x5157_0000);
        let mut kernel = Kernel::new(rng.next(), Trace::new(keep_trace));
        kernel.short_writes = plan.scenario.short_calls;
        let server_host = kernel.host();
        if plan.scenario.one_port.is_some() {
            kernel.redirect(server_host, HOSTS.into_iter().chain([PROXY]), CTL);
        }
        let visitor_host = kernel.host();
        if plan.fronted {
            let relay = Network::new(kernel.ip(visitor_host), 32).expect("one address");
            plan.scenario.trusted_proxies = vec![relay];
        }
        let client_hosts: Vec<_> =
            plan.places.iter().map(|place| if place.on_server { server_host } else { kernel.host() }).collect();
        let service_hosts: Vec<_> = plan
            .places
            .iter()
            .zip(&client_hosts)
            .map(|(place, &host)| if place.remote_services { kernel.host() } else { host })
            .collect();
        kernel.set_path(visitor_host, server_host, plan.public);
        for (&client, &service) in client_hosts.iter().zip(&service_hosts) {
            if client != server_host {
                kernel.set_path(client, server_host, plan.wan);
            }
            if client != service {
                kernel.set_path(client, service, plan.lan);
            }
        }
        let visitors = kernel.spawn(visitor_host, 10_000);
        let visitors = (visitors, kernel.epoll(visitors));
        kernel.trace.name(visitors.0, "visitors".into());
        let actors = Actors::new(rng.fork(), plan.seed);
        let mut world = Self {
            kernel,
            rng,
            events: BinaryHeap::new(),
            seq: 0,
            processes: Vec::new(),
            threads: Vec::new(),
            polls: BTreeMap::new(),
            actors,
            actors_due: false,
            server_host,
            client_hosts,
            service_hosts,
            visitor_host,
            visitors,
            server: 0,
            clients: vec![usize::MAX; plan.scenario.clients.len()],
            rivals: Vec::new(),
            publics: vec![None; plan.scenario.tunnels.len()],
            forwarding: BTreeMap::new(),
            lookups: Vec::new(),
            faults: Vec::new(),
            watch: Watch::default(),
            visits: Visits::default(),
            throttles: Throttles::default(),
            asked: Asked::default(),
            upgrade: Upgrade::default(),
            silence: Silence::new(),
            overheard: Overheard::default(),
            lines: Lines::new(plan.seed),
            flows: Flows::default(),
            preempts: plan.seed.is_multiple_of(2),
            preemption: Rng::new(plan.seed ^ 0xc2a9),
            coverage: Coverage::default(),
            breach: None,
            phase: Phase::Faults,
            plan,
        };
        if [world.plan.wan, world.plan.public, world.plan.lan].iter().any(|path| path.loss > 0) {
            world.coverage.saw(Sometimes::Loss);
        }
        world.set_out();
        world
    }

    /// Everything starts, and what is to come is laid down.
    fn set_out(&mut self) {
        for tunnel in 0..self.plan.scenario.tunnels.len() {
            let client = self.plan.scenario.tunnels[tunnel].client;
            let proc = self.kernel.spawn(self.service_hosts[client], 10_000);
            let poll = self.kernel.epoll(proc);
            self.kernel.trace.name(proc, format!("service{tunnel}"));
            self.actors.services.push(Service { proc, poll, listener: None, accepts: true });
            self.actors.serve(&mut self.kernel, &self.plan, tunnel);
        }
        self.set_out_flows();
        self.start_server();
        for client in 0..self.plan.scenario.clients.len() {
            let at = Duration::from_millis(self.rng.below(500));
            self.at(Instant::ZERO + at, Event::StartClient(client));
        }
        let length = u64::try_from(self.plan.scenario.length.as_nanos()).expect("short");
        for _ in 0..self.plan.scenario.visitors {
            let tunnel = self.rng.size(0, self.plan.scenario.tunnels.len() - 1);
            // Visitors come alone or in crowds.
            let at = if self.rng.chance(40) { self.rng.range(0, 8) * length / 8 } else { self.rng.below(length) };
            self.at(Instant::from_nanos(at + 500_000_000), Event::Visitor(tunnel));
        }
        self.lay_faults(length);
        self.lay_questions(length);
        self.lay_inquiries(length);
        self.at(Instant::ZERO + self.plan.scenario.length, Event::Phase);
        self.look_for_silence();
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.seq += 1;
        self.events.push(Reverse((at, self.seq, event)));
    }

    fn later(&mut self, by: Duration, event: Event) {
        self.at(self.kernel.now() + by, event);
    }

    fn now(&self) -> Instant {
        self.kernel.now()
    }

    #[cfg_attr(test, track_caller)]
    fn fail(&mut self, kind: Kind, property: Property, what: String) {
        #[cfg(test)]
        violations::saw(std::panic::Location::caller());
        if self.breach.is_none() {
            let at = self.now();
            self.kernel.trace.remark(at, None, || format!("{property}: {what}"));
            self.breach = Some(Breach { kind, property, at, what });
        }
    }

    fn run(&mut self) {
        while self.breach.is_none() && self.phase != Phase::Over {
            self.turn();
        }
    }

    /// Who was woken is told, and then the next event happens.
    fn turn(&mut self) {
        while let Some(poll) = self.kernel.next_woken() {
            self.on_woken(poll);
        }
        let ours = self.events.peek().map(|Reverse((at, ..))| *at);
        match (self.kernel.next_event(), ours) {
            (Some(theirs), Some(ours)) if theirs <= ours => drop(self.kernel.step()),
            (Some(_), None) => drop(self.kernel.step()),
            (_, Some(at)) => {
                self.kernel.advance(at);
                if let Some(Reverse((_, _, event))) = self.events.pop() {
                    self.on_event(event);
                }
            }
            (None, None) => unreachable!("the phases always have a next event"),
        }
    }

    fn on_woken(&mut self, poll: PollId) {
        if let Some(&thread) = self.polls.get(&poll) {
            self.wake(thread);
        } else if !self.actors_due {
            self.actors_due = true;
            self.later(Duration::from_micros(5), Event::Actors);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Run(thread) => self.run_thread(thread),
            Event::GoOn(thread) => self.go_on(thread),
            Event::Actors => {
                self.actors_due = false;
                self.run_actors();
            }
            Event::Actor(index) => self.drive_actor(index),
            Event::Visitor(tunnel) => self.visit(tunnel, false),
            Event::Inquirer(tunnel) => self.inquire(tunnel),
            Event::FaultBegins(index) => self.fault_begins(index),
            Event::FaultEnds(index) => self.fault_ends(index),
            Event::StartClient(client) => self.start_client(client),
            Event::Resolved { process, lookup } => self.on_resolved(process, lookup),
            Event::Found { process, newcomer, met } => self.on_found(process, newcomer, met),
            Event::Phase => self.next_phase(),
            Event::Look => self.look_for_silence(),
            Event::Ask => self.ask_all(),
            Event::Line(event) => self.on_line(event),
            Event::Speak(visitor) => self.speak(visitor),
        }
    }

    fn run_actors(&mut self) {
        let polls = std::iter::once(self.visitors.1).chain(self.actors.services.iter().map(|service| service.poll));
        let polls: Vec<_> = polls.collect();
        for poll in polls {
            for (token, _) in self.kernel.poll(poll, usize::MAX) {
                let found = self.actors.on_ready(&mut self.kernel, &self.plan, token, &mut self.coverage);
                self.after_actor(found);
            }
        }
        self.run_flows();
    }

    fn drive_actor(&mut self, index: usize) {
        let found = self.actors.drive(&mut self.kernel, index, &mut self.coverage);
        self.after_actor(found);
    }

    fn after_actor(&mut self, found: Result<(), crate::oracle::Finding>) {
        if let Err((property, what)) = found {
            self.fail(Kind::Safety, property, what);
        }
        for (at, index) in std::mem::take(&mut self.actors.timers) {
            self.at(at, Event::Actor(index));
        }
    }

    fn visit(&mut self, tunnel: usize, probe: bool) {
        let Some(public) = self.publics[tunnel] else {
            // Not up (yet): later, if it is worth it.
            if matches!(self.phase, Phase::Faults) {
                self.later(Duration::from_millis(700), Event::Visitor(tunnel));
            }
            return;
        };
        let sealed = self.plan.scenario.tunnels[tunnel].sealed;
        let port = if sealed { HOSTS[Web::Https as usize] } else { public.port() };
        let own = self.plan.scenario.tunnels[tunnel].bind_addr;
        if own.is_some() && self.publics.iter().flatten().filter(|other| other.port() == port).count() > 1 {
            self.coverage.saw(Sometimes::PortShared);
        }
        let to = SocketAddr::new(own.unwrap_or(self.kernel.ip(self.server_host)), port);
        self.actors.visit(&mut self.kernel, &self.plan, self.visitors, to, tunnel, probe);
    }

    fn start_server(&mut self) {
        self.spawn_server();
        self.begin_server(self.server, Vec::new());
    }

    fn spawn_server(&mut self) {
        let proc = self.kernel.spawn(self.server_host, 10_000);
        self.kernel.trace.name(proc, "server".into());
        let settings = self.server_settings();
        let timings = settings.timings.clone();
        let tasks = Task::server(settings, &timings, self.plan.scenario.loop_count);
        self.server = self.add_process(Role::Server, proc, tasks);
    }

    fn start_client(&mut self, client: usize) {
        if self.clients.get(client).is_some_and(|&process| self.processes.get(process).is_some_and(|p| p.alive)) {
            return;
        }
        self.clients[client] = self.spawn_client(client, false);
    }

    fn spawn_client(&mut self, client: usize, rival: bool) -> usize {
        let name = if rival { format!("rival{client}") } else { format!("client{client}") };
        self.spawn_as(client, rival, name, self.client_settings(client))
    }

    /// Somebody with a client's token asks what it could have.
    fn examine(&mut self, client: usize) -> usize {
        let mut told = self.client_settings(client);
        (told.settings.examines, told.settings.client_id) = (true, [0xe0; 16]);
        let process = self.spawn_as(client, true, format!("doctor{client}"), told);
        self.rivals.push(process);
        process
    }

    fn spawn_as(&mut self, client: usize, rival: bool, name: String, told: ClientReload) -> usize {
        let proc = self.kernel.spawn(self.client_hosts[client], 10_000);
        self.kernel.trace.name(proc, name);
        let ClientReload { server, settings, .. } = told;
        let loop_count = self.plan.scenario.clients[client].loop_count;
        let tasks = Task::client(settings, server, loop_count);
        let process = self.add_process(Role::Client { client, rival }, proc, tasks);
        self.begin_client(process);
        process
    }

    fn address(&self, host: HostId, port: u16) -> String {
        format!("{}:{port}", self.kernel.ip(host))
    }

    fn add_process(&mut self, role: Role, proc: ProcId, tasks: Vec<Task>) -> usize {
        let index = self.processes.len();
        let mut threads = Vec::new();
        for task in tasks {
            let poll = self.kernel.epoll(proc);
            self.polls.insert(poll, self.threads.len());
            threads.push(self.threads.len());
            let rng = self.rng.fork();
            self.threads.push(Thread::new(index, proc, poll, task, rng, self.plan.scenario.scratch));
        }
        let awake = self.now();
        let process = Process { role, proc, threads, alive: true, frozen: false, awake, killed: None, stopping: None };
        self.processes.push(process);
        index
    }

    /// The process is gone, with its descriptors.
    fn kill(&mut self, process: usize) {
        let process = &mut self.processes[process];
        if process.alive {
            process.alive = false;
            process.frozen = false;
            process.killed = Some(self.kernel.now());
            self.kernel.kill(process.proc);
        }
    }

    fn on_resolved(&mut self, process: usize, lookup: usize) {
        let (tag, addresses) = self.lookups[lookup].clone();
        let main = self.processes[process].threads[0];
        self.deliver_resolved(main, tag, addresses);
    }

    fn on_notes(&mut self, process: usize, notes: Vec<Note>) {
        let (proc, role) = (self.processes[process].proc, self.processes[process].role);
        for note in notes {
            let now = self.now();
            self.kernel.trace.remark(now, Some(proc), || format!("{note:?}"));
            if let (Note::Forwarding { tunnel, public }, Role::Client { .. }) = (&note, role)
                && let Task::ClientMain(task) = &self.threads[self.processes[process].threads[0]].task
                && let Some(name) = task.tunnel(*tunnel).map(|spec| spec.name.clone())
            {
                self.see_flow_told(process, &name, *public);
                if let Some(tunnel) = tunnel_called(&name) {
                    self.forwarding.insert((process, tunnel), *public);
                }
            }
            if let Note::Tunnel { client, asked, outcome: Ok(public), .. } = &note
                && self.plan.scenario.clients.get(usize::from(client.0[0] - 1)).is_some()
                && let Some(tunnel) = tunnel_called(&asked.name)
            {
                self.publics[tunnel] = Some(*public);
            }
            if let Note::Tunnel { asked, outcome: Ok(public), .. } = &note
                && role == Role::Server
            {
                self.see_flow_public(&asked.name, *public);
            }
            self.see_counted(process, &note);
            self.see_note(process, &note);
        }
    }

    fn report(self) -> Report {
        let served = self.actors.all.iter().filter(|actor| actor.outcome == Some(Outcome::Whole)).count();
        Report {
            seed: self.plan.seed,
            hash: self.kernel.trace.hash(),
            simulated: self.kernel.now().since(Instant::ZERO),
            events: self.kernel.trace.events(),
            breach: self.breach,
            coverage: self.coverage,
            served,
            trace: self.kernel.trace,
        }
    }
}
