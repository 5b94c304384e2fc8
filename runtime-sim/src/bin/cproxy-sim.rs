//! Campaigns: many seeds of a simulation, until the first that breaks a promise.
#![forbid(unsafe_code)]

use clap::Parser;
use runtime_sim::campaign::{self, Ring, Settings};
use runtime_sim::oracle::Kind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Runs production's state machines through simulated networks, one seed after the other.
///
/// Exit codes: 0 nothing found; 1 safety; 2 bad flags; 3 liveness; 4 a crash of the code under test;
/// 5 something that must happen sometimes never did.
#[derive(Debug, Parser)]
#[command(name = "cproxy-sim")]
struct Flags {
    /// How many seeds to run.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Which simulation.
    #[arg(long, value_enum, default_value_t = Ring::Kernel)]
    ring: Ring,
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
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.trace || flags.trace_svg.is_some() {
        return one(&flags);
    }
    let settings = Settings {
        ring: flags.ring,
        first: flags.first_seed,
        count: flags.seeds,
        jobs: flags.jobs.max(1),
        limit: flags.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        keep_going: flags.keep_going,
    };
    let total = campaign::run(&settings, |progress| eprint!("\r{progress}"));
    eprintln!();
    println!("{total}");
    match total.failures.first().map(|(_, breach)| breach.kind) {
        Some(kind) => ExitCode::from(code(kind)),
        None if flags.require_coverage && total.missing().count() > 0 => ExitCode::from(5),
        None => ExitCode::SUCCESS,
    }
}

/// One seed, with its story.
fn one(flags: &Flags) -> ExitCode {
    let report = flags.ring.run(flags.first_seed, true);
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

fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Safety => 1,
        Kind::Liveness => 3,
        Kind::Crash => 4,
    }
}
