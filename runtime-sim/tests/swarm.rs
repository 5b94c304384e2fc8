//! Ring 4: whole systems on turmoil.
//!
//! `SIM_SEED=N cargo test -p runtime-sim --test swarm` runs one seed, and tells its story if it fails.

use runtime_sim::oracle::Coverage;
use runtime_sim::swarm::{Options, Races, run_seed};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Seeds per test run.
const SEEDS: u64 = 400;
/// Transfers that must have been started where they could collide with something.
const RACES: u64 = 2_000;
/// Lines of a failing seed's story.
const LINES: usize = 200_000;

/// Runs one seed and panics with its story if it breaks a promise.
fn one(seed: u64) {
    let report = run_seed(seed, Options { trace: true });
    println!("{}; {:?}; {:?}", report.run, report.races, report.faults);
    if report.run.breach.is_some() {
        panic!(
            "\n{}\n{}\n\nonce more: SIM_SEED={seed} cargo test -p runtime-sim --test swarm",
            report.run.trace.chart(LINES),
            report.run
        );
    }
}

#[test]
fn systems_converge_and_every_stream_is_whole_or_reset() {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        return one(seed.parse().expect("SIM_SEED is a number"));
    }
    let began = Instant::now();
    let (mut races, mut seen, mut faults) = (Races::default(), Coverage::default(), BTreeMap::new());
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
        for (fault, count) in report.faults {
            *faults.entry(fault).or_insert(0) += count;
        }
    }
    println!(
        "{SEEDS} seeds in {:.1?}: {visitors} visitors, {whole} served whole, {simulated:.0?} simulated\n\
         transfers started on a reused conn or amid a fault: {races:?}\n{faults:?}\nnever seen: {:?}",
        began.elapsed(),
        seen.missing().collect::<Vec<_>>()
    );
    assert!(races.all >= RACES, "{RACES} races are wanted: {races:?}");
}
