//! Ring 4 in every `cargo test`: whole systems on turmoil.
//!
//! `SIM_SEED=N cargo test -p runtime-sim --test swarm` runs one seed, and tells its story if it fails.

use runtime_sim::campaign::{self, Ring, Settings, Total};
use runtime_sim::oracle::Coverage;
use runtime_sim::swarm::{Lie, Options, Races, UNSEEN, faults, run_seed};
use std::process::Command;
use std::time::{Duration, Instant};

/// Seeds per test run.
const SEEDS: u64 = 300;
/// Transfers that must have been started where they could collide with something.
const RACES: u64 = 2_000;
/// Lines of a failing seed's story.
const LINES: usize = 200;

/// Runs one seed and panics with its story if it breaks a promise.
fn one(seed: u64) {
    let report = run_seed(seed, Options { trace: true, ..Options::default() });
    println!("{}\n{:?}\n{:?}", report.run, report.races, report.run.coverage.faults());
    if report.run.breach.is_some() {
        panic!(
            "\n{}\n{}\n\nonce more: SIM_SEED={seed} cargo test -p runtime-sim --test swarm\n{}",
            report.run.trace.chart(LINES),
            report.run,
            campaign::replay(Ring::Turmoil, seed)
        );
    }
}

#[test]
fn systems_converge_and_every_stream_is_whole_or_reset() {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        return one(seed.parse().expect("SIM_SEED is a number"));
    }
    let began = Instant::now();
    let (mut races, mut seen) = (Races::default(), Coverage::default());
    let (mut simulated, mut visitors, mut whole) = (Duration::ZERO, 0, 0);
    for seed in 0..SEEDS {
        let report = run_seed(seed, Options::default());
        if let Some(breach) = report.run.breach {
            one(seed);
            panic!("seed {seed} broke a promise, and then kept it: {breach}");
        }
        seen.add(&report.run.coverage);
        races.add(report.races);
        simulated += report.run.simulated;
        visitors += report.visitors;
        whole += report.run.served;
    }
    println!(
        "{SEEDS} seeds in {:.1?}: {visitors} visitors, {whole} served whole, {simulated:.0?} simulated\n\
         transfers started on a reused conn or amid a fault: {races:?}\n{:?}",
        began.elapsed(),
        seen.faults(),
    );
    assert!(races.all >= RACES, "{RACES} races are wanted: {races:?}");
    let missing: Vec<_> = seen.missing().filter(|what| !UNSEEN.contains(what)).collect();
    assert!(missing.is_empty(), "{SEEDS} seeds never saw {missing:?}");
    let idle: Vec<_> = faults().filter(|fault| !seen.faults().contains_key(&fault.to_string())).collect();
    assert!(idle.is_empty(), "{SEEDS} seeds never had {idle:?}");
}

/// Seeds that failed once, and why. A change of what a seed means takes their meaning, not their place.
#[test]
fn seeds_that_failed_once() {
    // A local name that did not resolve was not looked up again: see `a_name_that_did_not_resolve_is_looked_up_again`
    // in `explore::programs` too.
    one(3392);
    // One lost ctl_conn after the other, and a visitor outwaited by the pauses was taken for a breach.
    one(5_000_417);
    // Failures of long ago made a visitor wait for longer than it may, although nothing had been missing since.
    one(1_410_001_094);
    one(1_410_004_492);
}

fn seeds(first: u64, count: u64) -> Total {
    let settings = Settings { ring: Ring::Turmoil, first, count, fault: None, jobs: 1, limit: None, keep_going: true };
    campaign::run(&settings, |_| {})
}

#[test]
fn the_same_seed_gives_the_same_trace_in_one_process_and_across_processes() {
    let (first, count) = (1_000, 15);
    let here = seeds(first, count);
    assert_eq!(here.hash, seeds(first, count).hash, "twice in one process");
    assert_ne!(here.hash, seeds(first + count, count).hash, "other seeds, other traces");
    let (first, count) = (first.to_string(), count.to_string());
    let there = Command::new(env!("CARGO_BIN_EXE_cproxy-sim"))
        .args(["--ring", "turmoil", "--first-seed", &first, "--seeds", &count, "--jobs", "2", "--keep-going"])
        .output()
        .expect("the campaign program starts");
    let text = String::from_utf8(there.stdout).expect("it prints text");
    let expected = format!("trace hash {:016x}", here.hash);
    assert!(text.contains(&expected), "{expected} is not in:\n{text}");
}

/// A checker that cannot fail checks nothing: on a system that does one thing wrong, something must be noticed.
#[test]
fn a_system_that_lies_is_caught() {
    const WITHIN: u64 = 60;
    for lie in [
        Lie::ResetLooksClean,
        Lie::ByteLost,
        Lie::BytesRepeated,
        Lie::EndLost,
        Lie::FinLost,
        Lie::DoneLost,
        Lie::SocketLeaked,
    ] {
        let options = Options { lie: Some(lie), ..Options::default() };
        let caught = (0..WITHIN).find_map(|seed| run_seed(seed, options).run.breach.map(|breach| (seed, breach)));
        let (seed, breach) = caught.unwrap_or_else(|| panic!("{lie:?} was not noticed in {WITHIN} seeds"));
        println!("{lie:?}: seed {seed}: {breach:.200}");
    }
}
