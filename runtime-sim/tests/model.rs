//! Ring 2: random choice tapes over the production drivers. A failing tape is shrunk by proptest; its path is
//! printed as a sequence chart.

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestRunner};
use runtime_sim::explore::{Stats, run_tape};

const CASES: u32 = 10_000;

#[test]
fn every_tape_comes_to_a_quiet_end_with_every_invariant_kept() {
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let seen = std::cell::Cell::new(Stats::default());
    let result = runner.run(&vec(any::<u16>(), 0..300), |tape| {
        let stats = run_tape(&tape).map_err(|failure| proptest::test_runner::TestCaseError::fail(failure.to_string()))?;
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
    assert!(seen.complete > seen.visits / 4 && seen.complete < seen.visits, "tapes lead to good ends and to bad ones");
}

#[test]
fn a_tape_replays_exactly() {
    let tape: Vec<u16> = (0..200_u16).map(|i| (i.wrapping_mul(40_503) >> 3) + i / 7).collect();
    let first = run_tape(&tape).unwrap();
    assert!(first.steps > 20 && first.visits > 0);
    assert_eq!(run_tape(&tape).unwrap(), first);
}
