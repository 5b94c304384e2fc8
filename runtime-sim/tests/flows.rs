//! Flows of a UDP tunnel, simulated. `SIM_SEED=4711 cargo test -p runtime-sim --test flows` runs one seed.

use runtime_sim::flows::{Sometimes, run};
use std::collections::BTreeSet;

const SEEDS: u64 = 3_000;

/// P-UDP-2, P-UDP-3, P-UDP-4, P-UDP-5, P-UDP-6: each datagram is delivered whole, in its own flow and once, or is counted.
#[test]
fn flows_keep_their_promises() {
    let only = std::env::var("SIM_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    let mut seen = BTreeSet::new();
    for seed in only.map_or(0..SEEDS, |seed| seed..seed + 1) {
        match run(seed) {
            Ok(more) => seen.extend(more),
            Err(what) => panic!("{what}\nSIM_SEED={seed} cargo test -p runtime-sim --test flows"),
        }
    }
    if only.is_none() {
        let missed: Vec<_> = Sometimes::ALL.into_iter().filter(|what| !seen.contains(what)).collect();
        assert!(missed.is_empty(), "never happened: {missed:?}");
    }
}
