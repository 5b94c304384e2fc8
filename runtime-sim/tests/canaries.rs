//! Planted faults: rings 1 and 2 must find each of them. This test has a process of its own, because a fault is
//! planted in the whole process.

#![cfg(debug_assertions)]

use protocol_sm::canary::{Fault, plant};
use protocol_sm::driver::Strategy;
use runtime_sim::explore::{
    Config, Counterexample, Grain, Mains, Report, Window, explore_loops, explore_mains, run_tape,
};

/// What is searched.
enum Place {
    Loops(Config),
    Mains(Mains),
}

impl Place {
    fn explore(&self) -> Result<Report, Box<Counterexample>> {
        match *self {
            Self::Loops(config) => explore_loops(config, 1_000_000),
            Self::Mains(config) => explore_mains(config, 1_000_000),
        }
    }
}

/// Where the search looks for a fault, smallest first.
fn haunts() -> Vec<(&'static str, Place)> {
    let narrow = Window { segments: 1, ..Window::WIDE };
    vec![
        ("2 transfers", Place::Loops(Config::new(2, 1, Grain::Medium))),
        ("fine", Place::Loops(Config::new(2, 1, Grain::Fine))),
        ("refusal", Place::Loops(Config { refusals: 1, ..Config::new(2, 1, Grain::Medium) })),
        ("reset", Place::Loops(Config { resets: 1, ..Config::new(1, 1, Grain::Fine) })),
        ("stray byte", Place::Loops(Config { strays: 1, ..Config::new(2, 1, Grain::Fine) })),
        ("3 transfers", Place::Loops(Config::new(3, 1, Grain::Medium))),
        ("narrow", Place::Loops(Config { window: narrow, ..Config::new(2, 1, Grain::Fine) })),
        ("ctl loss", Place::Mains(Mains { ctl_losses: 1, ..Mains::new(1, Grain::Medium) })),
        ("grace", Place::Mains(Mains { ctl_losses: 1, server_grace: true, ..Mains::new(1, Grain::Coarse) })),
        (
            "splice, reset",
            Place::Loops(Config {
                window: narrow,
                strategy: Strategy::Splice,
                resets: 1,
                ..Config::new(2, 1, Grain::Medium)
            }),
        ),
        (
            "splice",
            Place::Loops(Config { window: narrow, strategy: Strategy::Splice, ..Config::new(2, 1, Grain::Fine) }),
        ),
        ("loss, cold", Place::Loops(Config { losses: 1, ready: false, ..Config::new(2, 1, Grain::Medium) })),
    ]
}

/// A plain sequence of tapes, the same every time.
fn tape(number: u64) -> Vec<u16> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u16
    };
    let length = 20 + usize::from(next()) % 300;
    (0..length).map(|_| next()).collect()
}

const TAPES: u64 = 3_000;

#[test]
fn every_planted_fault_is_found() {
    println!("| fault | ring 1: where, states, steps | ring 2: tapes | what it shows |\n|---|---|---|---|");
    // Without a fault the same searches and tapes find nothing.
    plant(None);
    for (name, place) in haunts() {
        place.explore().unwrap_or_else(|found| panic!("nothing is planted; {name}: {found}"));
    }
    for number in 1..=TAPES {
        run_tape(&tape(number)).unwrap_or_else(|found| panic!("nothing is planted; tape {number}: {found}"));
    }
    let mut missed = Vec::new();
    for fault in Fault::ALL {
        plant(Some(fault));
        let mut states = 0;
        let searched = haunts().into_iter().find_map(|(name, place)| match place.explore() {
            Ok(report) => {
                states += report.states;
                None
            }
            Err(found) => Some((name, states + found.states, found)),
        });
        let played = (1..=TAPES).find_map(|number| run_tape(&tape(number)).err().map(|failure| (number, failure)));
        plant(None);
        let ring1 = searched
            .as_ref()
            .map_or("-".to_owned(), |(name, states, found)| format!("{name}, {states}, {}", found.steps));
        let ring2 = played.as_ref().map_or("-".to_owned(), |(number, _)| number.to_string());
        let what = searched.map(|(.., found)| found.what).or(played.map(|(_, failure)| failure.what));
        println!("| {fault:?} | {ring1} | {ring2} | {} |", what.as_deref().unwrap_or("-").replace('\n', " "));
        if what.is_none() {
            missed.push(fault);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
