//! What a program tells of itself.

use super::Program;
use nix::sys::resource::{Resource, getrlimit};
use protocol_sm::report::{Report, SessionState, TunnelReport, TunnelState};
use serde::{Deserialize, Serialize};
use std::fs;

/// The answer to [`Question::Status`](super::Question::Status).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `cproxy-server` or `cproxy-client`.
    pub program: String,
    /// What tells it from others of its name: the ctl port, or the process.
    pub instance: String,
    /// Its release.
    pub release: String,
    /// Its process.
    pub pid: u32,
    /// Its descriptors.
    pub descriptors: Descriptors,
    /// What it does.
    #[serde(flatten)]
    pub report: Report,
}

/// How many descriptors a process has, and may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptors {
    /// It has.
    pub open: u64,
    /// It may have.
    pub limit: u64,
}

impl Descriptors {
    /// Those of this process.
    #[must_use]
    pub fn here() -> Self {
        // Reading the folder takes one, too.
        let open = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1));
        Self { open: open as u64, limit: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft) }
    }
}

impl Status {
    /// Why the program does not do what it is for, if so: a server takes clients and visitors, a client's tunnels are all
    /// reachable.
    #[must_use]
    pub fn ailment(&self) -> Option<String> {
        let ailing = |tunnel: &&TunnelReport| tunnel.state != TunnelState::Open;
        let own = || self.report.sessions.first();
        match self.program.as_str() {
            _ if self.report.stopping => Some("it was asked to stop".to_owned()),
            super::CLIENT => match own()? {
                session if session.state != SessionState::Up => {
                    Some(session.error.clone().unwrap_or_else(|| "it is not connected yet".to_owned()))
                }
                session => session.tunnels.iter().find(ailing).map(|tunnel| {
                    let why = tunnel.refused.as_deref().unwrap_or("it is being opened");
                    format!("tunnel {:?} is not reachable: {why}", tunnel.name)
                }),
            },
            _ => None,
        }
    }

    /// That of `program`, which has told `report`.
    pub(super) fn of(program: &Program, report: &Report) -> Self {
        Self {
            program: program.name.to_owned(),
            instance: program.instance.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            descriptors: Descriptors::here(),
            report: report.clone(),
        }
    }
}
