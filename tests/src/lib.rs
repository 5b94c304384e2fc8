//! End-to-end tests and benchmarks of `cproxy-server` and `cproxy-client`: the real programs, real sockets,
//! this machine only.
//!
//! This library is the harness; `tests/` holds one file per behaviour. A test starts LocalServers
//! ([`services`], [`exchange`]), the two programs ([`programs`]), sometimes a [`gate`] or a [`link`] between
//! them, and plays the PublicClient with plain sockets ([`sockets`], [`visits`]). Every byte is derived from
//! its place ([`payload`]); every wait is for a condition and ends with a message ([`wait`]), and every test
//! ends in time ([`limit`]).
//!
//! `cargo test -p tests --test end_to_end killed::` runs one file. The programs are built if they are out of date or
//! another work tree's; `CPROXY_BIN_DIR=target/release` takes others as they are.
//!
//! What went wrong in the original program, and the test that would show it again:
//!
//! | failure | test |
//! |---|---|
//! | 1,000 sequential requests never completed; a descriptor leaked per connection | `many_visits::a_thousand_one_after_another` |
//! | a slow reader made the relay spin; a paused reader blocked everyone on its loop | `slow_reader::a_paused_visitor_stops_only_its_own_download` |
//! | bytes left in a pipe at EOF were dropped and the end looked clean | `half_close::all_that_a_service_sent_before_closing_arrives`, `…_a_visitor_…` |
//! | after reuse the service received the literal bytes of a `Start` | `reuse::nothing_of_a_visit_shows_in_the_next` |
//! | a Fin that overtook other messages was dropped | `half_close::either_end_first_with_fast_and_slow_readers`, `ctl_loss::ends_that_nobody_could_tell_are_told_after_the_resume` |
//! | a reset in mid-download made both workers spin | `resets::a_visitors_reset_in_mid_download_stops_the_service` |
//! | a refused local connect crashed the client | `refusal::visitors_of_a_refusing_service_are_reset_until_it_is_there` |
//! | a lost idle proxy_conn hung the next visitor or crashed the server | all of `lost_idle_conn` |
//! | after `kill -9` of the client the old port stayed and the new one was never served | `killed::a_client_killed_and_started_again_has_its_port_back` |
//! | two clients starved each other in a blocking accept | `several_clients::every_visitor_reaches_its_own_service`, `strangers::half_finished_handshakes_leave_room_for_honest_ones` |
//! | a lost server killed the client for good | `server_restart::a_client_returns_after_its_server_was_killed` |
//! | a frozen peer was never noticed | all of `frozen_peer` |
//! | one stray byte blocked every registration, or the data plane | `strangers::one_stray_byte_blocks_nobody` |
//! | an unauthenticated oversized message crashed the server | `strangers::garbage_on_either_port_is_dropped` |
//! | silent connections were held for ever | `strangers::silent_and_dribbling_connections_are_closed_in_time` |
//! | hitting the descriptor limit left both spinning | all of `fd_limit` |
//! | 32-bit byte counts wrapped | `beyond_4_gib::counts_do_not_wrap_at_32_bits` |
pub mod bench;
pub mod between;
pub mod cable;
pub mod conversation;
pub mod datagrams;
pub mod exchange;
pub mod foreign;
pub mod gate;
pub mod group;
pub mod leaks;
pub mod limit;
pub mod link;
pub mod papers;
pub mod payload;
pub mod process;
pub mod programs;
pub mod scrape;
pub mod services;
pub mod soak;
pub mod sockets;
pub mod systemd;
pub mod udp_line;
pub mod visits;
pub mod wait;

use std::io::Write;
use std::path::Path;

/// Ends the test early, loudly, where it is not run by root: what needs namespaces needs root.
#[macro_export]
macro_rules! root_only {
    () => {
        if !$crate::namespaces_allowed() {
            return;
        }
    };
}

/// Whether this process may make namespaces and TUN devices. If not, says on standard error, past the test
/// runner's capture, that the calling test is skipped.
#[must_use]
pub fn namespaces_allowed() -> bool {
    let probe = std::process::Command::new("unshare").args(["--mount", "--net", "true"]).output();
    let allowed = probe.is_ok_and(|probe| probe.status.success()) && Path::new("/dev/net/tun").exists();
    if !allowed {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: needs root, `unshare` and /dev/net/tun");
    }
    allowed
}
