//! Ring 1: every interleaving of the production event loops and of whole programs, in small configurations.
//! The larger ones run with `EXPLORE=full cargo test -p runtime-sim --test exhaustive`, which takes half an hour and
//! a few GB.

use protocol_sm::driver::Strategy;
use runtime_sim::explore::{Config, Counterexample, Grain, Mains, Report, Window, explore_loops, explore_mains};

/// More states than any configuration here has: 100 bytes each are kept.
const LIMIT: usize = 20_000_000;

fn explore(name: &str, config: Config) -> Report {
    report(name, explore_loops(config, LIMIT))
}

fn explore_programs(name: &str, config: Mains) -> Report {
    report(name, explore_mains(config, LIMIT))
}

fn report(name: &str, result: Result<Report, Box<Counterexample>>) -> Report {
    match result {
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
        explore("4 transfers, 2 conns", Config::new(4, 2, Grain::Coarse));
        explore("2 transfers, 2 bytes", Config { up: 2, down: 2, ..Config::new(2, 1, Grain::Fine) });
    }
}

#[test]
fn aborts_from_either_end_and_refusals() {
    explore("refusal", Config { refusals: 1, ..Config::new(2, 1, Grain::Fine) });
    explore("refusals", Config { refusals: 2, ..Config::new(2, 2, Grain::Medium) });
    explore("reset", Config { resets: 1, ..Config::new(2, 2, Grain::Medium) });
    explore("two resets", Config { resets: 2, ..Config::new(2, 1, Grain::Medium) });
    if wants_full() {
        explore("resets and refusals", Config { resets: 2, refusals: 1, ..Config::new(2, 2, Grain::Coarse) });
        explore("reset, fine", Config { resets: 1, ..Config::new(2, 1, Grain::Fine) });
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
        explore("loss and refusal", Config { losses: 1, refusals: 1, ..Config::new(2, 2, Grain::Coarse) });
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

#[test]
fn a_session_survives_its_ctl_conn() {
    explore_programs("one ctl_conn lost", Mains { ctl_losses: 1, ..Mains::new(1, Grain::Medium) });
    let lost = Mains { ctl_losses: 1, proxy_losses: 1, ..Mains::new(1, Grain::Medium) };
    explore_programs("a ctl_conn and a proxy_conn lost", lost);
    explore_programs("two ctl_conns lost", Mains { ctl_losses: 2, keep: 1, ..Mains::new(1, Grain::Coarse) });
    if wants_full() {
        explore_programs("2 transfers, a ctl_conn lost", Mains { ctl_losses: 1, ..Mains::new(2, Grain::Coarse) });
        explore_programs("with slow mail", Mains { ctl_losses: 1, lazy: true, ..Mains::new(1, Grain::Medium) });
        explore_programs("fine", Mains { ctl_losses: 2, proxy_losses: 1, ..Mains::new(1, Grain::Fine) });
    }
}

#[test]
fn a_session_ends_after_its_grace() {
    let server = Mains { ctl_losses: 1, server_grace: true, ..Mains::new(1, Grain::Medium) };
    explore_programs("the server's grace", server);
    explore_programs("the client's grace", Mains { client_grace: true, server_grace: false, ..server });
    explore_programs("both", Mains { client_grace: true, proxy_losses: 1, ..server });
    if wants_full() {
        explore_programs("both, slow mail", Mains { client_grace: true, lazy: true, grain: Grain::Coarse, ..server });
    }
}

#[test]
fn a_newcomer_replaces_the_session_of_a_client_that_is_gone() {
    let newcomer = Mains { newcomer: true, ..Mains::new(0, Grain::Coarse) };
    explore_programs("a newcomer, nobody visits", newcomer);
    explore_programs("a newcomer and a visitor", Mains { visits: 1, ..newcomer });
    explore_programs("the first freezes, nobody visits", Mains { freeze: true, ..newcomer });
    if wants_full() {
        explore_programs("the first freezes", Mains { visits: 1, freeze: true, ..newcomer });
        explore_programs("a ctl_conn is lost", Mains { ctl_losses: 1, ..newcomer });
    }
}

#[test]
fn stopping_drains_and_ends() {
    explore_programs("the server stops", Mains { server_stops: true, ..Mains::new(2, Grain::Coarse) });
    let client = Mains { client_stops: true, server_grace: true, ..Mains::new(1, Grain::Medium) };
    explore_programs("the client stops", client);
    let hasty = Mains { server_stops: true, impatient: true, ..Mains::new(1, Grain::Medium) };
    explore_programs("the server does not wait", hasty);
    explore_programs("the client does not wait", Mains { impatient: true, ..client });
    explore_programs("the server stops, a ctl_conn is lost", Mains { ctl_losses: 1, ..hasty });
    explore_programs("both stop", Mains { server_stops: true, impatient: true, ..client });
    let mail = Mains { lazy: true, ..Mains::new(1, Grain::Coarse) };
    explore_programs("slow mail", Mains { visits: 2, ..mail });
    explore_programs("slow mail, the server stops", Mains { server_stops: true, ..mail });
    explore_programs("a newcomer, and the server stops", Mains { newcomer: true, visits: 0, ..hasty });
}
