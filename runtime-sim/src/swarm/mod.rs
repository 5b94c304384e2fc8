//! Whole systems on turmoil: a server, clients, visitors and local services as hosts of their own, all from one seed.
//!
//! The programs are production's drivers over sockets made of turmoil's (`socket`, `sys`); everybody else is written
//! against those sockets directly. A run has a fault phase and then a heal phase, in which everything must converge:
//! every transfer ends, clients are back, a probe through every tunnel comes back whole, the pools agree, and a
//! request to stop is carried out.
//!
//! What this ring adds to the simulated kernel is independence: another network, other code for everything but the
//! programs, processes that are killed and started again by somebody else's runtime. What it cannot see stands in
//! `socket`.

mod actors;
mod faults;
mod lines;
mod options;
mod oracle;
mod orders;
mod plan;
mod program;
mod socket;
mod stage;
mod sys;
mod upgrade;
mod watch;

pub use options::{Lie, Options};
pub use oracle::Races;
pub use plan::{faults, faults_of};

use crate::kernel::Rng;
use crate::oracle::{Kind, Property, Sometimes};
use crate::world;
use faults::{Cast, Faults};
use orders::{Order, Question, Visit};
use plan::Plan;
use stage::{SERVER, Stage};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use turmoil::{Builder, Sim};

/// What a run has shown.
#[derive(Debug)]
pub struct Report {
    /// What every ring reports.
    pub run: world::Report,
    /// Transfers that could collide with something.
    pub races: Races,
    /// Visitors that came.
    pub visitors: u64,
}

/// What must happen sometimes, and what this ring has no eyes for or cannot bring about.
pub const UNSEEN: [Sometimes; 49] = [
    Sometimes::UnheardSpoke,
    Sometimes::Examined,
    Sometimes::SentToTls,
    Sometimes::PortShared,
    Sometimes::TlsEnded,
    Sometimes::ProxyPassed,
    Sometimes::ProxyRefused,
    Sometimes::Preempted,
    Sometimes::AskedAtOnce,
    Sometimes::HeaderSplit,
    Sometimes::HeaderRefused,
    Sometimes::ReleasedWithTransfers,
    Sometimes::ResumedAsleep,
    Sometimes::ReloadedDetached,
    Sometimes::ReloadedStopping,
    Sometimes::TunnelMoved,
    Sometimes::ScopeShrunk,
    Sometimes::TokenRevoked,
    Sometimes::UnacknowledgedEnded,
    Sometimes::ChunkCut,
    Sometimes::FinBeforeStart,
    Sometimes::FinBeforeLastByte,
    Sometimes::FinAfterLastByte,
    Sometimes::DoneBeforeStarted,
    Sometimes::AbortCrossesFin,
    Sometimes::StartUnheard,
    Sometimes::StartSeen,
    Sometimes::IdleConnsDie,
    Sometimes::ResetBeforeStart,
    Sometimes::Lingered,
    Sometimes::LingerTimedOut,
    Sometimes::ReusedAfterReset,
    Sometimes::ComparedWithDirect,
    Sometimes::PoolEmpty,
    Sometimes::CutOneWay,
    Sometimes::Loss,
    Sometimes::FreezeServer,
    Sometimes::FreezeClient,
    Sometimes::BacklogFull,
    Sometimes::SurplusClosed,
    Sometimes::IdlePinged,
    Sometimes::QueueFull,
    Sometimes::TunnelClosedWithTransfers,
    Sometimes::Kicked,
    Sometimes::KickedWithTransfers,
    Sometimes::PortClosed,
    Sometimes::PortClosedWithTransfers,
    Sometimes::StarvedOut,
    Sometimes::NoLocalPort,
];

/// Runs the system that `seed` describes.
#[must_use]
pub fn run_seed(seed: u64, options: Options) -> Report {
    let mut rng = Rng::new(seed);
    let plan = Plan::new(seed, &mut rng);
    let cast = Cast { clients: plan.scenario.clients.len() };
    let stage = Stage::new(plan, rng.fork(), options);
    let mut run = Run {
        sim: build(&stage, rng.next()),
        faults: Faults::new(&stage, cast, rng.fork()),
        stage: Rc::clone(&stage),
        rng,
    };
    let ended = catch_unwind(AssertUnwindSafe(|| run.play()));
    match ended {
        Ok(Ok(()) | Err(Stop::Breach)) => {}
        Ok(Err(Stop::Died(why))) => stage.breach(Kind::Crash, Property::NoPanic, why),
        Err(panic) => stage.breach(Kind::Crash, Property::NoPanic, words(panic.as_ref())),
    }
    let trace = stage.oracle.trace.take();
    Report {
        run: world::Report {
            seed,
            hash: trace.hash(),
            simulated: run.sim.elapsed(),
            events: trace.events(),
            breach: stage.oracle.breach.take(),
            coverage: stage.oracle.seen.take(),
            served: usize::try_from(stage.oracle.whole.get()).expect("fits memory"),
            trace,
        },
        races: stage.oracle.races.get(),
        visitors: stage.oracle.visitors.get(),
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}

fn build(stage: &Rc<Stage>, seed: u64) -> Sim<'static> {
    let latency = stage.plan.latency;
    Builder::new()
        .rng_seed(seed)
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .simulation_duration(Duration::from_secs(24 * 3600))
        .tick_duration(stage.plan.tick)
        .min_message_latency(latency.min(Duration::from_millis(1)))
        .max_message_latency(latency)
        // As many segments as a window has bytes, and more: turmoil must never refuse or withhold one.
        .tcp_capacity(1 << 20)
        .enable_random_order()
        .build()
}

/// A fault that finds nothing to hit is tried again after this.
const RETRY: Duration = Duration::from_millis(60);

/// Why a run ends early.
#[derive(Debug)]
enum Stop {
    /// A promise was broken, and is noted.
    Breach,
    /// A host died of itself.
    Died(String),
}

struct Run {
    sim: Sim<'static>,
    faults: Faults,
    stage: Rc<Stage>,
    rng: Rng,
}

impl Run {
    fn play(&mut self) -> Result<(), Stop> {
        self.raise();
        let patience = self.stage.plan.patience();
        let ready = |stage: &Stage| all_up(stage) && stage.orders.public.borrow().iter().all(Option::is_some);
        self.until(patience, Property::PortsListen, ready)?;
        self.load()?;
        self.stage.orders.hurry.set(true);
        self.faults.remedy_all(&mut self.sim);
        self.until(patience, Property::TransfersEnd, nobody_talks)?;
        self.until(patience, Property::ClientsReturn, all_up)?;
        self.advance(self.stage.plan.settling())?;
        self.until(patience, Property::ClientsReturn, all_up)?;
        self.probe()?;
        self.until(patience, Property::PoolsAtTarget, pools_agree)?;
        self.drain()
    }

    /// Registers every host.
    fn raise(&mut self) {
        let cast = &self.faults.cast;
        for who in cast.all() {
            self.stage.oracle.trace.borrow_mut().name(who, cast.name(who));
        }
        let stage = Rc::clone(&self.stage);
        self.sim.host(cast.name(SERVER), move || program::server(Rc::clone(&stage)));
        for identity in 0..cast.clients {
            let (stage, who) = (Rc::clone(&self.stage), Cast::client(identity));
            self.sim.host(cast.name(who), move || program::client(Rc::clone(&stage), who, identity));
        }
        let (stage, rival) = (Rc::clone(&self.stage), cast.rival());
        stage.orders.with_status(rival, |status| status.asleep = true);
        self.sim.host(cast.name(rival), move || program::client(Rc::clone(&stage), rival, 0));
        let (stage, who) = (Rc::clone(&self.stage), cast.service());
        self.sim.host(cast.name(who), move || actors::services(Rc::clone(&stage), who));
        let (stage, who) = (Rc::clone(&self.stage), cast.visitors());
        self.sim.host(cast.name(who), move || actors::visitors(Rc::clone(&stage), who));
    }

    fn step(&mut self) -> Result<(), Stop> {
        let stepped = self.sim.step();
        self.stage.set_clock(self.sim.elapsed());
        stepped.map_err(|error| Stop::Died(error.to_string()))?;
        if self.stage.oracle.breach.borrow().is_some() { Err(Stop::Breach) } else { Ok(()) }
    }

    fn advance(&mut self, by: Duration) -> Result<(), Stop> {
        let until = self.sim.elapsed() + by;
        while self.sim.elapsed() < until {
            self.step()?;
        }
        Ok(())
    }

    /// Steps until `holds`, which must be within `patience`.
    fn until(&mut self, patience: Duration, or: Property, holds: impl Fn(&Stage) -> bool) -> Result<(), Stop> {
        let until = self.sim.elapsed() + patience;
        while !holds(&self.stage) {
            if self.sim.elapsed() >= until {
                let stage = &self.stage;
                let lines: Vec<_> = stage.lines.all().iter().map(|line| line.borrow().show()).collect();
                let what = format!(
                    "not within {patience:?}: {} visits, {} of their ends and {} transfers go on; {}",
                    stage.orders.to_come.get(),
                    stage.orders.actors.get(),
                    stage.oracle.live(),
                    lines.join("; ")
                );
                stage.breach(Kind::Liveness, or, what);
                return Err(Stop::Breach);
            }
            self.step()?;
        }
        Ok(())
    }

    /// The fault phase.
    fn load(&mut self) -> Result<(), Stop> {
        let plan = &self.stage.plan;
        for _ in 0..plan.scenario.visitors {
            let after = Duration::from_millis(self.rng.below(plan.scenario.length.as_millis() as u64));
            let tunnel = self.rng.size(0, plan.scenario.tunnels.len() - 1);
            self.stage.orders.visit(self.faults.cast.visitors(), Visit { after, tunnel, probe: false });
        }
        let questions = plan.scenario.draw_inquiries(plan.seed, plan.scenario.length);
        for (number, (after, tunnel)) in questions.into_iter().enumerate() {
            self.stage.orders.ask(self.faults.cast.visitors(), Question { after, tunnel, number });
        }
        let mut blows = plan.blows.clone();
        let (begin, length) = (self.sim.elapsed(), plan.scenario.length);
        while self.sim.elapsed() < begin + length {
            let since = self.sim.elapsed() - begin;
            self.faults.remedy(&mut self.sim);
            for mut blow in blows.extract_if(.., |blow| blow.at <= since).collect::<Vec<_>>() {
                if !self.faults.apply(&mut self.sim, blow) {
                    blow.at += RETRY;
                    blows.push(blow);
                }
            }
            self.step()?;
        }
        Ok(())
    }

    /// One visitor after the other, because few may wait at once.
    fn probe(&mut self) -> Result<(), Stop> {
        for tunnel in 0..self.stage.plan.scenario.tunnels.len() {
            let visit = Visit { after: Duration::ZERO, tunnel, probe: true };
            self.stage.orders.visit(self.faults.cast.visitors(), visit);
            self.until(self.stage.plan.patience(), Property::ProbesRoundTrip, nobody_talks)?;
        }
        Ok(())
    }

    /// Asks everybody to stop, in any order, sometimes amid visits.
    fn drain(&mut self) -> Result<(), Stop> {
        self.stage.orders.leaving.set(true);
        let plan = &self.stage.plan;
        if !plan.scenario.calm {
            for _ in 0..self.rng.size(0, 5) {
                let after = Duration::from_millis(self.rng.below(50));
                let tunnel = self.rng.size(0, plan.scenario.tunnels.len() - 1);
                self.stage.orders.visit(self.faults.cast.visitors(), Visit { after, tunnel, probe: false });
            }
        }
        let mut programs: Vec<_> = (0..plan.scenario.clients.len()).map(Cast::client).collect();
        programs.push(SERVER);
        sys::shuffle(&mut self.rng, &mut programs);
        let patience = plan.scenario.timings.drain_timeout + Duration::from_secs(2);
        for &who in &programs {
            self.stage.orders.with_status(who, |status| status.stopped = false);
            self.stage.orders.order(who, Order::Stop);
            let pause = Duration::from_millis(self.rng.below(100));
            self.advance(pause)?;
        }
        self.until(patience, Property::DrainEnds, |stage| {
            programs.iter().all(|&who| stage.orders.with_status(who, |status| status.stopped))
        })?;
        self.until(self.stage.plan.patience(), Property::TransfersEnd, nobody_talks)
    }
}

fn nobody_talks(stage: &Stage) -> bool {
    stage.orders.to_come.get() == 0 && stage.orders.actors.get() == 0 && stage.oracle.live() == 0
}

fn all_up(stage: &Stage) -> bool {
    let clients = (0..stage.plan.scenario.clients.len()).map(Cast::client);
    clients.chain([SERVER]).all(|who| stage.orders.with_status(who, |status| status.up))
}

/// Both sides know the same idle conns, as many as are kept ready.
fn pools_agree(stage: &Stage) -> bool {
    let sockets = |who| stage.orders.with_status(who, |status| status.loop_sockets);
    let clients = stage.plan.scenario.clients.len();
    let theirs: usize = (0..clients).map(|client| sockets(Cast::client(client))).sum();
    theirs == sockets(SERVER) && theirs >= stage.plan.scenario.pools().sum()
}
