//! The end-to-end tests as one program: they wait more than they work, and so several files run side by side.
//!
//! `cargo test -p tests --test end_to_end killed::` runs one file.
//!
//! Tests begin in the order of their names. One that takes minutes has a name that comes early: the others then run
//! beside it, and nobody waits for it alone at the end.

mod access_log;
mod authentication;
mod bad_input;
mod bandwidth;
mod beyond_4_gib;
mod browser;
mod buffer_memory;
mod bulk;
mod command_line;
mod containers;
mod conversations;
mod ctl_loss;
mod dead_flows;
mod documents;
mod drain;
mod examples;
mod fail2ban;
mod failing_calls;
mod fairness;
mod fd_limit;
mod floods;
mod frozen_peer;
mod frugal;
mod half_close;
mod hardening;
mod host_names;
mod hostile_holder;
mod idle;
mod ipv6;
mod kernel_surprises;
mod killed;
mod limits;
mod log_events;
mod lost_idle_conn;
mod many_visits;
mod metrics;
mod netns;
mod never_gives_up;
mod one_port;
mod operate;
mod outbound;
mod packages;
mod port_conflicts;
mod proxy_port;
mod proxy_protocol;
mod public_address;
mod python_client;
mod ranges;
mod rates;
mod real_services;
mod recipes;
mod refusal;
mod refused_calls;
mod relays;
mod reload;
mod resets;
mod resets_in_order;
mod reuse;
mod routes;
mod server_restart;
mod several_clients;
mod slow_reader;
mod small_writes;
mod source_lists;
mod stale_conns;
mod status;
mod strangers;
mod strict_network;
mod systemd;
mod takeover;
mod threats;
mod time_limits;
mod tls;
mod tls_relay;
mod tokens;
mod trusted_proxies;
mod udp;
mod udp_headers;
mod udp_limits;
mod udp_path;
mod udp_programs;
mod unix_sockets;
mod unread_output;
mod upgrade;
mod uplinks;

/// A file that is not named above would never run.
#[test]
fn every_file_is_part_of_this_program() {
    tests::limit::arm();
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).unwrap();
    let names = files.filter_map(|file| Some(file.unwrap().file_name().to_str()?.strip_suffix(".rs")?.to_owned()));
    for name in names.filter(|name| name != "end_to_end") {
        assert!(include_str!("end_to_end.rs").contains(&format!("\nmod {name};\n")), "`mod {name};` is missing");
    }
}
