//! Ring 4: whole systems on turmoil. `SIM_SEED=N cargo test -p runtime-sim --test swarm` replays one seed and
//! tells its story.

use runtime_sim::oracle::Coverage;
use runtime_sim::swarm::{Options, Races, Report, run_seed};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 60;

fn wanted() -> Option<u64> {
    std::env::var("SIM_SEED").ok().map(|seed| seed.parse().expect("SIM_SEED is a number"))
}

fn check(report: &Report) {
    if let Some(breach) = &report.breach {
        let story = run_seed(report.seed, Options { trace: true }).chart;
        panic!(
            "{story}\nseed {}: {breach}\nreplay: SIM_SEED={} cargo test -p runtime-sim --test swarm",
            report.seed, report.seed
        );
    }
}

#[test]
fn systems_converge_and_every_stream_is_whole_or_reset() {
    if let Some(seed) = wanted() {
        let report = run_seed(seed, Options { trace: true });
        println!("{}", report.chart);
        println!("{:?}", Report { chart: String::new(), ..report.clone() });
        return check(&report);
    }
    let begin = Instant::now();
    let (mut races, mut seen, mut faults) = (Races::default(), Coverage::default(), BTreeMap::new());
    let (mut simulated, mut visitors, mut whole) = (Duration::ZERO, 0, 0);
    for seed in 0..SEEDS {
        let report = run_seed(seed, Options::default());
        check(&report);
        seen.add(&report.seen);
        races.add(report.races);
        simulated += report.simulated;
        visitors += report.visitors;
        whole += report.whole;
        for (fault, count) in report.faults {
            *faults.entry(fault).or_insert(0) += count;
        }
    }
    println!(
        "{SEEDS} seeds, {visitors} visitors ({whole} whole), {simulated:?} simulated in {:?}\n{races:?}\n{faults:?}\n\
         never seen: {:?}",
        begin.elapsed(),
        seen.missing().collect::<Vec<_>>()
    );
    assert!(races.all >= 2_000, "at least 2000 races: {races:?}");
}
