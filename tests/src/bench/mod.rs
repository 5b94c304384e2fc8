//! The benchmark: what it costs to go through cproxy, measured side by side with other ways through.
//!
//! A load (`bulk`, `crowd`, `visits`) plays the visitors, in this process; a `service` in a process of its own plays the
//! LocalServer; a peer (`peers`) stands between them. The load and the service are the same for every peer, check every
//! byte (`pattern`) and every end (`settle`), and bound every wait: a peer that loses something or hangs fails the case.
//! `runs` is one case on one peer; `summary`, `report` and `svg` bring the rounds together.
//!
//! To add a case: a line in `cases`, and its load in `runs`. To add a peer: a kind in `peers`, and its name in `args`.

mod args;
mod bulk;
mod cases;
mod crowd;
mod datagrams;
mod exchange;
mod house;
mod link;
mod outcome;
mod pattern;
mod peers;
mod procs;
mod relay;
mod report;
mod routes;
mod runs;
mod seeds;
mod service;
mod service_bulk;
mod settle;
mod sock;
mod stats;
mod summary;
mod svg;
#[cfg(test)]
mod tests;
mod udp_relay;
mod visits;
mod wire;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use args::{Args, Role};
use cases::{Case, Load, Scale};
use outcome::Run;
use peers::{How, Kind};
use report::Lines;
use runs::Contestant;
use summary::{CaseSummary, PeerSummary};

/// Runs the program `cproxy-bench`. Exit code 1 if a peer failed a case, 2 if nothing could be measured.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.role {
        Some(Role::Serve { listen }) => service::run(listen).map(|()| true),
        Some(Role::Relay { listen, to, trigger }) => relay::run(listen, to, trigger).map(|()| true),
        Some(Role::DatagramRelay { listen, to }) => udp_relay::run(listen, to).map(|()| true),
        None => compare(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            eprintln!("cproxy-bench: {why}");
            ExitCode::from(2)
        }
    }
}

/// The whole comparison. False if something failed.
fn compare(args: &Args) -> Result<bool, String> {
    if args.list {
        cases::all().iter().for_each(|case| println!("{}", case.name));
        return Ok(true);
    }
    let cases: Vec<Case> = cases::all().into_iter().filter(|case| args.wants(case)).collect();
    if cases.is_empty() {
        return Err("no case has such a name; see --list".to_owned());
    }
    let (kinds, absent) = args.contestants()?;
    for why in &absent {
        println!("SKIPPED: {why}");
    }
    if kinds.is_empty() {
        return Err("no peer is here".to_owned());
    }
    let scale = args.scale();
    raise_fd_limit(&scale)?;
    let names: Vec<String> = kinds.iter().map(Kind::to_string).collect();
    let ours: Vec<String> = kinds
        .iter()
        .filter(|kind| matches!(kind, Kind::Cproxy { how: How::Plain | How::Watched, .. }))
        .map(Kind::to_string)
        .collect();
    let mut lines = Lines::create(args.json.as_deref())?;
    let machine = machine();
    println!("{machine}; {} mode, {} rounds; median (min–max) ratio to relay\n", args.mode(), scale.rounds);
    lines.line(&json!({ "kind": "machine", "machine": machine, "mode": args.mode(), "rounds": scale.rounds, "skipped": absent }))?;
    let mut contestants: Vec<_> = kinds.into_iter().map(|kind| Contestant::new(kind, args.extra())).collect();
    let mut summaries = Vec::new();
    for case in cases {
        if matches!(case.load, Load::FirstByteLink | Load::LossyLink)
            && let Err(why) = link::Link::open(Duration::ZERO)
        {
            println!("SKIPPED: {}: {why}\n", case.name);
            continue;
        }
        if let Load::Routed(routed) = case.load
            && let Some(why) = routes::absent(routed)
        {
            println!("SKIPPED: {}: {why}\n", case.name);
            continue;
        }
        let (mut taking, mut absent) = (Vec::new(), Vec::new());
        for contestant in &mut contestants {
            let routed = matches!(case.load, Load::Routed(_));
            let is_out =
                if case.load.is_udp() { !contestant.kind.carries_udp() } else { contestant.kind.only_carries_udp() };
            if is_out {
                absent.push(contestant.kind.to_string());
            } else if !routed || contestant.kind.has_routes() {
                taking.push(contestant);
            }
        }
        if !absent.is_empty() {
            let other = if case.load.is_udp() { "without UDP" } else { "for UDP alone" };
            println!("SKIPPED: {}: {} {other}", case.name, absent.join(" and "));
        }
        if taking.is_empty() {
            println!("SKIPPED: {}: none of these peers takes part", case.name);
            continue;
        }
        let summary = rounds(&case, &mut taking, &scale, &mut lines)?;
        println!("{}", report::case_table(&summary));
        lines.summary(&summary)?;
        summaries.push(summary);
    }
    println!("{}", report::markdown(&summaries, &names, &ours));
    if let Some(dir) = &args.svg {
        svg::write(dir, &summaries, &names)?;
    }
    Ok(summaries.iter().flat_map(|summary| &summary.peers).all(|peer| peer.failure.is_none()))
}

/// One case on every peer, round by round. Who begins changes from round to round, so that nobody always comes right
/// after the same neighbour's closing connections.
fn rounds(
    case: &Case,
    contestants: &mut [&mut Contestant],
    scale: &Scale,
    lines: &mut Lines,
) -> Result<CaseSummary, String> {
    let mut runs: Vec<(Vec<Run>, Option<String>)> = contestants.iter().map(|_| Default::default()).collect();
    for round in 0..scale.rounds {
        for turn in 0..contestants.len() {
            let index = (round + turn) % contestants.len();
            let (peer, (done, failure)) = (&mut contestants[index], &mut runs[index]);
            if failure.is_some() {
                continue;
            }
            let result = peer.run(case.load, scale);
            lines.run(case, &peer.kind.to_string(), round, &result)?;
            match result {
                Ok(run) => done.push(run),
                Err(why) => *failure = Some(format!("round {}: {why}", round + 1)),
            }
        }
    }
    let peers = contestants.iter().zip(runs);
    let peers = peers.map(|(peer, (done, failure))| PeerSummary::new(peer.kind.to_string(), done, failure));
    Ok(CaseSummary { case: case.name.clone(), peers: peers.collect() })
}

/// The children inherit the limit. A visitor is one descriptor here and two in each process of a peer.
fn raise_fd_limit(scale: &Scale) -> Result<(), String> {
    let fail = |e| format!("cannot raise the limit of open files: {e}");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(fail)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(fail)?;
    let needed = scale.idle_visitors as u64 * 2 + 500;
    if needed > hard {
        return Err(format!("{} idle visitors need {needed} open files, the limit is {hard}", scale.idle_visitors));
    }
    Ok(())
}

/// Where this runs, in a few words.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
    let model = model.trim_start_matches([' ', '\t', ':']).to_owned();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} cores of {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
