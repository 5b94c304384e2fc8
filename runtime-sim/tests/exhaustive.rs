//! Ring 1: every interleaving of the production event loops and of whole programs, in small configurations
//! (`runtime_sim::explore::CATALOG`). The larger ones run with
//! `EXPLORE=full cargo test -p runtime-sim --test exhaustive -- --nocapture --test-threads 1`, or without tests with
//! `cproxy-sim --ring exhaustive`.

use runtime_sim::explore::{CATALOG, Topic};

/// Explores what is about `topic`. Returns how many states there were.
fn explore(topic: Topic) -> usize {
    let full = std::env::var("EXPLORE").is_ok_and(|which| which == "full");
    let mut states = 0;
    for entry in CATALOG.iter().filter(|entry| entry.topic == topic && (full || !entry.large)) {
        match entry.search.run() {
            Ok(report) => {
                println!("{}: {report}", entry.name);
                states += report.states;
            }
            Err(counterexample) => panic!("{}: {counterexample}", entry.name),
        }
    }
    states
}

#[test]
fn three_transfers_on_two_conns() {
    assert!(explore(Topic::Reuse) > 500_000, "it was once 842 120 states");
}

#[test]
fn every_cut_of_the_peers_streams() {
    explore(Topic::Cuts);
}

#[test]
fn aborts_from_either_end_and_refusals() {
    explore(Topic::Aborts);
}

#[test]
fn a_lost_proxy_conn() {
    explore(Topic::Loss);
}

#[test]
fn the_pool_and_its_waiters() {
    explore(Topic::Pool);
}

#[test]
fn back_pressure_and_pipes() {
    explore(Topic::Pressure);
}

#[test]
fn a_session_survives_its_ctl_conn() {
    explore(Topic::Resume);
}

#[test]
fn a_session_ends_after_its_grace() {
    explore(Topic::Grace);
}

#[test]
fn a_newcomer_replaces_the_session_of_a_client_that_is_gone() {
    explore(Topic::Replacement);
}

#[test]
fn stopping_drains_and_ends() {
    explore(Topic::Stopping);
}

#[test]
fn a_tunnel_is_closed_while_visitors_are_there() {
    explore(Topic::Closing);
}

#[test]
fn a_reload_costs_nobody_anything_that_may_stay() {
    explore(Topic::Reloading);
}

#[test]
fn a_visitor_of_a_host_is_its_tunnels_or_told() {
    explore(Topic::Hosts);
}

#[test]
fn an_operator_ends_a_session_or_closes_a_port() {
    explore(Topic::Orders);
}
