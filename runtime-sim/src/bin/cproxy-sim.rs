//! Campaigns: many seeds of a simulation, until the first that breaks a promise.
#![forbid(unsafe_code)]

use clap::{Parser, ValueEnum};
use runtime_sim::campaign::{self, Settings, Told};
use runtime_sim::explore::CATALOG;
use runtime_sim::oracle::Kind;
use runtime_sim::world::{self, Plan};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Runs production's state machines through simulated networks, one seed after the other.
///
/// Exit codes: 0 nothing found; 1 safety; 2 bad flags; 3 liveness; 4 a crash of the code under test;
/// 5 something that must happen sometimes never did.
#[derive(Debug, Parser)]
#[command(name = "cproxy-sim")]
struct Flags {
    /// How many seeds to run. Of the exhaustive ring: how many configurations.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Which simulation.
    #[arg(long, value_enum, default_value_t = Ring::Kernel)]
    ring: Ring,
    /// Of these seeds, only those that can have this fault.
    #[arg(long, value_name = "FAULT")]
    fault: Option<String>,
    /// Seeds at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Stop after this long, however many seeds are left.
    #[arg(long)]
    minutes: Option<f64>,
    /// Go on after a failure, and list them all.
    #[arg(long)]
    keep_going: bool,
    /// Fail if something on the list of things that must happen sometimes never did.
    #[arg(long)]
    require_coverage: bool,
    /// Run only the first seed, and print its sequence chart.
    #[arg(long)]
    trace: bool,
    /// Run only the first seed, and draw its sequence chart.
    #[arg(long, value_name = "FILE")]
    trace_svg: Option<PathBuf>,
    /// Events that a chart shows: the last so many.
    #[arg(long, default_value_t = 400)]
    events: usize,
    /// Measure: every seed is the benchmark's scenario, 5 simulated minutes with 20 connections.
    #[arg(long)]
    bench: bool,
}

/// Which simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ring {
    /// Production's event loops over a simulated kernel.
    Kernel,
    /// Whole systems on turmoil.
    Turmoil,
    /// Every interleaving of small configurations; a configuration's number stands for the seed.
    Exhaustive,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let ring = match flags.ring {
        Ring::Kernel => campaign::Ring::Kernel,
        Ring::Turmoil => campaign::Ring::Turmoil,
        Ring::Exhaustive => return exhaust(&flags),
    };
    if flags.bench {
        return bench(&flags);
    }
    if flags.trace || flags.trace_svg.is_some() {
        return one(&flags, ring);
    }
    if let Some(fault) = flags.fault.as_ref().filter(|fault| !ring.faults().contains(fault)) {
        eprintln!("there is no fault {fault}; there are {}", ring.faults().join(", "));
        return ExitCode::from(2);
    }
    let settings = Settings {
        ring,
        first: flags.first_seed,
        count: flags.seeds,
        fault: flags.fault,
        jobs: flags.jobs.max(1),
        limit: flags.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        keep_going: flags.keep_going,
    };
    let total = campaign::run(&settings, |told| match told {
        Told::Progress(progress) => eprint!("\r{progress}"),
        Told::Failure(seed, breach) => eprintln!("\nseed {seed}: {breach}"),
    });
    eprintln!();
    println!("{total}");
    match total.failures.first().map(|(_, breach)| breach.kind) {
        Some(kind) => ExitCode::from(code(kind)),
        None if flags.require_coverage && !total.missing().is_empty() => ExitCode::from(5),
        None => ExitCode::SUCCESS,
    }
}

/// One seed, with its story.
fn one(flags: &Flags, ring: campaign::Ring) -> ExitCode {
    let report = ring.run(flags.first_seed, true);
    if flags.trace {
        print!("{}", report.trace.chart(flags.events));
    }
    if let Some(file) = &flags.trace_svg {
        let title = format!("seed {}", report.seed);
        if let Err(error) = std::fs::write(file, report.trace.svg(&title, flags.events)) {
            eprintln!("cannot write {}: {error}", file.display());
            return ExitCode::from(2);
        }
    }
    println!("{report}");
    report.breach.map_or(ExitCode::SUCCESS, |breach| ExitCode::from(code(breach.kind)))
}

/// Explores the configurations, all at once that `jobs` allows.
fn exhaust(flags: &Flags) -> ExitCode {
    if flags.trace_svg.is_some() || flags.bench {
        eprintln!("the exhaustive ring has no drawings and no benchmark: --trace prints the path to a quiet end");
        return ExitCode::from(2);
    }
    let first = usize::try_from(flags.first_seed).unwrap_or(usize::MAX);
    let count = if flags.trace { 1 } else { usize::try_from(flags.seeds).unwrap_or(usize::MAX) };
    let entries: Vec<_> = CATALOG.iter().enumerate().skip(first).take(count).collect();
    if entries.is_empty() {
        eprintln!("there are {} configurations, numbered from 0", CATALOG.len());
        return ExitCode::from(2);
    }
    let limit = flags.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let (began, next) = (Instant::now(), AtomicUsize::new(0));
    let total = Mutex::new((0, 0, 0, Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..flags.jobs.clamp(1, entries.len()) {
            scope.spawn(|| {
                while let Some(&(number, entry)) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = !total.lock().unwrap_or_else(PoisonError::into_inner).3.is_empty();
                    if limit.is_some_and(|limit| began.elapsed() >= limit) || found && !flags.keep_going {
                        return;
                    }
                    let result = entry.search.run();
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(report) => {
                            if flags.trace {
                                println!("{}", report.chart);
                            }
                            println!("{number} {}: {report}", entry.name);
                            total.0 += 1;
                            total.1 += report.states;
                            total.2 += report.transitions;
                        }
                        Err(found) => {
                            println!("{number} {}: {:?}: {found}\n  {}", entry.name, found.kind, again(number));
                            total.3.push(found.kind);
                        }
                    }
                }
            });
        }
    });
    let (done, states, transitions, found) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{done} of {} configurations in {:.1} s: {states} states, {transitions} transitions, {} failures",
        entries.len(),
        began.elapsed().as_secs_f64(),
        found.len()
    );
    found.first().map_or(ExitCode::SUCCESS, |&kind| ExitCode::from(code(kind)))
}

fn again(number: usize) -> String {
    format!("cargo run --release -p runtime-sim --bin cproxy-sim -- --ring exhaustive --first-seed {number} --trace")
}

/// The benchmark figure: simulations of a fixed size per second and core.
fn bench(flags: &Flags) -> ExitCode {
    let limit = Duration::from_secs_f64(flags.minutes.unwrap_or(0.5) * 60.0);
    let (began, mut runs, mut events, mut simulated) = (Instant::now(), 0_u32, 0, Duration::ZERO);
    let busy = cpu_time();
    for seed in flags.first_seed.. {
        if began.elapsed() >= limit {
            break;
        }
        let report = world::run_plan(Plan::bench(seed), false);
        if let Some(breach) = report.breach {
            println!("seed {seed}: {breach}");
            return ExitCode::from(code(breach.kind));
        }
        runs += 1;
        events += report.events;
        simulated += report.simulated;
    }
    let seconds = (cpu_time() - busy).as_secs_f64();
    println!(
        "{runs} simulations in {seconds:.1} s of one core: {:.0} per second, each {:.0} s simulated with {} connections, {} events",
        f64::from(runs) / seconds,
        simulated.as_secs_f64() / f64::from(runs.max(1)),
        Plan::BENCH_CONNECTIONS,
        events / u64::from(runs.max(1)),
    );
    ExitCode::SUCCESS
}

/// What this thread has used of its core: other programs may use it too.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("Linux tells what a thread has used");
    Duration::from_nanos(text.split(' ').next().and_then(|first| first.parse().ok()).expect("nanoseconds first"))
}

fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Safety => 1,
        Kind::Liveness => 3,
        Kind::Crash => 4,
    }
}
