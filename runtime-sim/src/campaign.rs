//! Many seeds, on several threads.

use crate::kernel::mix;
use crate::oracle::{Breach, Coverage, Sometimes};
use crate::swarm;
use crate::world::{self, Report};
use clap::ValueEnum;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Which simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Ring {
    /// Production's event loops over a simulated kernel.
    #[default]
    Kernel,
    /// Whole systems on turmoil.
    Turmoil,
}

impl Ring {
    /// Runs one seed.
    #[must_use]
    pub fn run(self, seed: u64, keep_trace: bool) -> Report {
        match self {
            Self::Kernel => world::run(seed, keep_trace),
            Self::Turmoil => swarm::run_seed(seed, swarm::Options { trace: keep_trace, lie: None }).run,
        }
    }

    /// The faults that it knows, by name.
    #[must_use]
    pub fn faults(self) -> Vec<String> {
        match self {
            Self::Kernel => world::faults().map(|fault| fault.to_string()).collect(),
            Self::Turmoil => swarm::faults().map(|fault| fault.to_string()).collect(),
        }
    }

    /// Whether a seed can have this fault.
    fn has(self, seed: u64, fault: &str) -> bool {
        match self {
            Self::Kernel => world::Plan::new(seed).faults.iter().any(|on| on.to_string() == fault),
            Self::Turmoil => swarm::faults_of(seed).any(|on| on.to_string() == fault),
        }
    }

    /// Whether it can see this happen.
    fn sees(self, what: Sometimes) -> bool {
        self == Self::Kernel || !swarm::UNSEEN.contains(&what)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Turmoil => "turmoil",
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which simulation.
    pub ring: Ring,
    /// The first seed.
    pub first: u64,
    /// The number of seeds.
    pub count: u64,
    /// Pass over those that cannot have this fault.
    pub fault: Option<String>,
    /// Seeds that run at once, each in a thread.
    pub jobs: usize,
    /// Stop after this long.
    pub limit: Option<Duration>,
    /// Go on after a failure.
    pub keep_going: bool,
}

/// What came of it, so far.
#[derive(Debug, Default)]
pub struct Total {
    /// Which simulation.
    pub ring: Ring,
    /// Seeds that were run.
    pub seeds: u64,
    /// Seeds that are to be run.
    pub of: u64,
    /// Simulated time in all.
    pub simulated: Duration,
    /// Events in all.
    pub events: u64,
    /// Visitors served whole.
    pub served: u64,
    /// What was seen.
    pub coverage: Coverage,
    /// Seeds that broke a promise, in the order of their numbers.
    pub failures: Vec<(u64, Breach)>,
    /// A hash over all traces, whatever the order in which they were run.
    pub hash: u64,
    /// How long it took.
    pub took: Duration,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.simulated += report.simulated;
        self.events += report.events;
        self.served += report.served as u64;
        self.coverage.add(&report.coverage);
        self.hash = self.hash.wrapping_add(mix(report.seed ^ report.hash));
        if let Some(breach) = &report.breach {
            self.failures.push((report.seed, breach.clone()));
            self.failures.sort_by_key(|(seed, _)| *seed);
        }
    }

    /// What never happened, of all that the ring can see, and which faults never struck.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let seen = self.coverage.missing().filter(|&what| self.ring.sees(what)).map(|what| format!("{what:?}"));
        let idle = |fault: &String| !self.coverage.faults().contains_key(fault);
        seen.chain(self.ring.faults().into_iter().filter(idle).map(|fault| format!("fault {fault}"))).collect()
    }

    /// Seeds per second.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // a figure for people
    pub fn rate(&self) -> f64 {
        self.seeds as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// The command that runs one seed again.
#[must_use]
pub fn replay(ring: Ring, seed: u64) -> String {
    let ring = ring.name();
    format!("cargo run --release -p runtime-sim --bin cproxy-sim -- --ring {ring} --first-seed {seed} --trace")
}

/// One line.
#[derive(Debug)]
pub struct Progress<'a>(&'a Total);

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Total { seeds, of, simulated, coverage, failures, .. } = self.0;
        let filled = usize::try_from(20 * seeds / of.max(&1)).unwrap_or(20).min(20);
        write!(
            f,
            "[{:<20}] {seeds}/{of} seeds, {:.0}/s, {:.1} h simulated, {}/{} things seen, {} failures",
            "#".repeat(filled),
            self.0.rate(),
            simulated.as_secs_f64() / 3600.0,
            coverage.reached(),
            Sometimes::ALL.len(),
            failures.len()
        )
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} seeds in {:.1} s ({:.0}/s), {:.2} h simulated, {} events, {} visitors served whole",
            self.seeds,
            self.took.as_secs_f64(),
            self.rate(),
            self.simulated.as_secs_f64() / 3600.0,
            self.events,
            self.served
        )?;
        writeln!(f, "trace hash {:016x}", self.hash)?;
        let missing = self.missing();
        let seen = self.coverage.reached();
        writeln!(f, "{seen} of {} things that must happen sometimes were seen", Sometimes::ALL.len())?;
        if !missing.is_empty() {
            writeln!(f, "  never: {}", missing.join(", "))?;
        }
        for (seed, breach) in &self.failures {
            writeln!(f, "seed {seed}: {breach}\n  {}", replay(self.ring, *seed))?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {:.1} s simulated, {} events, {} visitors served whole, hash {:016x}",
            self.seed,
            self.simulated.as_secs_f64(),
            self.events,
            self.served,
            self.hash
        )?;
        match &self.breach {
            Some(breach) => write!(f, "\n{breach}"),
            None => Ok(()),
        }
    }
}

/// What a campaign has to tell while it runs.
#[derive(Debug)]
pub enum Told<'a> {
    /// How far it is, now and then.
    Progress(Progress<'a>),
    /// A seed that broke a promise.
    Failure(u64, &'a Breach),
}

/// Runs the seeds, lower ones first.
pub fn run(settings: &Settings, mut tell: impl FnMut(Told<'_>)) -> Total {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let mut total = Total { ring: settings.ring, of: settings.count, ..Total::default() };
    let hook = std::panic::take_hook();
    // A panic of the code under test is a finding, reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        let (sender, reports) = mpsc::channel();
        for _ in 0..settings.jobs {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= settings.count {
                        return;
                    }
                    let seed = settings.first + index;
                    if settings.fault.as_ref().is_some_and(|fault| !settings.ring.has(seed, fault)) {
                        continue;
                    }
                    if sender.send(settings.ring.run(seed, false)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut shown = Instant::now();
        for report in reports {
            total.add(&report);
            total.took = began.elapsed();
            if let Some(breach) = &report.breach {
                tell(Told::Failure(report.seed, breach));
            }
            let failed = report.breach.is_some() && !settings.keep_going;
            if failed || settings.limit.is_some_and(|limit| total.took >= limit) {
                stop.store(true, Ordering::Relaxed);
            }
            if shown.elapsed() >= Duration::from_millis(500) {
                shown = Instant::now();
                tell(Told::Progress(Progress(&total)));
            }
        }
    });
    std::panic::set_hook(hook);
    tell(Told::Progress(Progress(&total)));
    total
}
