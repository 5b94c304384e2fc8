//! Ring 1: every interleaving of the production event loops, in small configurations. The larger ones run with
//! `EXPLORE=full cargo test -p runtime-sim --test exhaustive`.

use runtime_sim::explore::{Config, Grain, Report, Window, explore_loops};
use protocol_sm::driver::Strategy;

/// More states than any configuration here has: 100 bytes each are kept.
const LIMIT: usize = 20_000_000;

fn explore(name: &str, config: Config) -> Report {
    match explore_loops(config, LIMIT) {
        Ok(report) => {
            println!("{name}: {report}");
            report
        }
        Err(counterexample) => panic!("{name}: {counterexample}"),
    }
}

fn wants_full() -> bool {
    std::env::var("EXPLORE").is_ok_and(|which| which == "full")
}

#[test]
fn three_transfers_on_two_conns() {
    let report = explore("3 transfers, 2 conns, 1 byte each way", Config::new(3, 2, Grain::Medium));
    assert!(report.states > 500_000, "it was once 842 120");
}

#[test]
fn every_cut_of_the_peers_streams() {
    explore("3 transfers, 1 conn, fine", Config::new(3, 1, Grain::Fine));
    explore("1 transfer, 2 bytes", Config { up: 2, down: 2, ..Config::new(1, 1, Grain::Fine) });
    explore("2 transfers, empty halves", Config { up: 0, down: 0, ..Config::new(2, 2, Grain::Fine) });
    if wants_full() {
        explore("2 transfers, 2 conns, fine", Config::new(2, 2, Grain::Fine));
        explore("3 transfers, 2 conns, fine", Config::new(3, 2, Grain::Fine));
        explore("2 transfers, 2 bytes", Config { up: 2, down: 2, ..Config::new(2, 2, Grain::Fine) });
    }
}

#[test]
fn aborts_from_either_end_and_refusals() {
    explore("refusal", Config { refusals: 1, ..Config::new(2, 1, Grain::Fine) });
    explore("refusals", Config { refusals: 2, ..Config::new(2, 2, Grain::Medium) });
    explore("reset", Config { resets: 1, ..Config::new(2, 2, Grain::Medium) });
    explore("two resets", Config { resets: 2, ..Config::new(2, 1, Grain::Medium) });
    if wants_full() {
        explore("resets and refusals", Config { resets: 2, refusals: 1, ..Config::new(3, 2, Grain::Medium) });
        explore("reset, fine", Config { resets: 1, ..Config::new(2, 2, Grain::Fine) });
    }
}

#[test]
fn a_lost_proxy_conn() {
    explore("loss", Config { losses: 1, ..Config::new(2, 1, Grain::Medium) });
    explore("loss on two conns", Config { losses: 1, ..Config::new(2, 2, Grain::Medium) });
    explore("loss, cold", Config { losses: 1, ready: false, ..Config::new(2, 1, Grain::Medium) });
    if wants_full() {
        explore("loss, cold, two conns", Config { losses: 1, ready: false, ..Config::new(2, 2, Grain::Medium) });
        explore("loss and reset", Config { losses: 1, resets: 1, ..Config::new(2, 2, Grain::Medium) });
        explore("loss and refusal", Config { losses: 1, refusals: 1, ..Config::new(3, 2, Grain::Coarse) });
    }
}

#[test]
fn the_pool_and_its_waiters() {
    explore("conns are opened on demand", Config { ready: false, ..Config::new(2, 2, Grain::Medium) });
    explore("one is kept", Config { ready: false, keep: 1, ..Config::new(2, 2, Grain::Coarse) });
    explore("one may wait", Config { max_waiting: 1, ..Config::new(3, 1, Grain::Medium) });
    explore("waits end", Config { timeouts: true, ready: false, ..Config::new(2, 1, Grain::Medium) });
    if wants_full() {
        explore("three on demand", Config { ready: false, ..Config::new(3, 2, Grain::Coarse) });
        explore("waits end, with a loss", Config { timeouts: true, losses: 1, ..Config::new(2, 1, Grain::Medium) });
    }
}

#[test]
fn back_pressure_and_pipes() {
    let narrow = Window { segments: 1, ..Window::WIDE };
    explore("narrow", Config { window: narrow, ..Config::new(2, 1, Grain::Fine) });
    let bytes = Window { bytes: 1, ..Window::WIDE };
    explore("byte by byte", Config { window: bytes, ..Config::new(1, 1, Grain::Fine) });
    let splice = Config { strategy: Strategy::Splice, pipe: 1, ..Config::new(2, 1, Grain::Fine) };
    explore("splice", splice);
    explore("splice, narrow, reset", Config { window: narrow, resets: 1, grain: Grain::Medium, ..splice });
    explore("splice, 2 bytes", Config { window: narrow, up: 2, down: 2, visits: 1, ..splice });
    if wants_full() {
        explore("splice, narrow, two conns", Config { window: narrow, conns: 2, grain: Grain::Medium, ..splice });
        explore("splice, narrow, loss", Config { window: narrow, losses: 1, grain: Grain::Medium, ..splice });
    }
}
