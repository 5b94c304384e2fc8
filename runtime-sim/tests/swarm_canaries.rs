//! Planted faults in the machines: ring 4 must find these. This test has a process of its own, because a fault is
//! planted in the whole process.

#![cfg(debug_assertions)]

use protocol_sm::canary::{Fault, plant};
use runtime_sim::swarm::{Options, run_seed};

/// Seeds until a fault must have been found.
const WITHIN: u64 = 60;

#[test]
fn planted_faults_are_found() {
    let found_here = [
        Fault::NoDoneGate,
        Fault::DoneNotKept,
        Fault::EarlyFinDropped,
        Fault::ShutTooEarly,
        Fault::ShutTwice,
        Fault::AbortClosesCleanly,
        Fault::OuterClosedEarly,
        Fault::FirstBytesDropped,
        Fault::HupForgotten,
        Fault::ConnGivenTwice,
        Fault::EpochReused,
        Fault::ReplayDropped,
        Fault::SessionLeftOpen,
    ];
    println!("| fault | ring 4: seeds until found | what it shows |\n|---|---|---|");
    let mut missed = Vec::new();
    for fault in found_here {
        plant(Some(fault));
        let find = |seed| run_seed(seed, Options::default()).run.breach.map(|breach| (seed, breach));
        match (0..WITHIN).find_map(find) {
            Some((seed, breach)) => println!("| {fault:?} | {} | {} |", seed + 1, breach.property),
            None => missed.push(fault),
        }
    }
    plant(None);
    assert!(missed.is_empty(), "not found in {WITHIN} seeds: {missed:?}");
}
