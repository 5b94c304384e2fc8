//! Ring 2: random choice tapes over the production drivers. A failing tape is shrunk by proptest; its path is
//! printed as a sequence chart. `SIM_SEED=N` plays other tapes.

#[cfg(debug_assertions)]
mod cells;

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use runtime_sim::explore::{Stats, run_tape};

const CASES: u32 = 10_000;

/// `SIM_SEED`, or always the same.
fn seed() -> [u8; 32] {
    let number = std::env::var("SIM_SEED").map_or(1, |text| text.parse::<u64>().expect("SIM_SEED is a number"));
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}

#[test]
fn every_tape_comes_to_a_quiet_end_with_every_invariant_kept() {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed()));
    let seen = std::cell::Cell::new(Stats::default());
    let result = runner.run(&vec(any::<u16>(), 0..300), |tape| {
        let stats = run_tape(&tape).map_err(|failure| TestCaseError::fail(failure.to_string()))?;
        let sum = seen.get();
        seen.set(Stats {
            steps: sum.steps + stats.steps,
            visits: sum.visits + stats.visits,
            complete: sum.complete + stats.complete,
            bytes: sum.bytes + stats.bytes,
        });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let seen = seen.get();
    println!("{CASES} tapes: {seen:?}");
    assert!(seen.complete > seen.visits / 5 && seen.complete < seen.visits, "tapes lead to good ends and to bad ones");
    #[cfg(debug_assertions)]
    if std::env::var_os("SIM_SEED").is_none() {
        cells::check(true);
    }
}

#[test]
fn a_tape_replays_exactly() {
    // Two visitors on one conn, everything else as small as it gets.
    let setup = [0, 1, 0].into_iter().chain([0; 14]);
    let tape: Vec<u16> = setup.chain((0..100).map(|step| step * step)).collect();
    let first = run_tape(&tape).unwrap();
    assert!(first.steps > 10 && first.complete > 0, "{first:?}");
    assert_eq!(run_tape(&tape).unwrap(), first);
}
