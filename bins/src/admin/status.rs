//! What a program tells of itself.

use super::Program;
use nix::sys::resource::{Resource, getrlimit};
use protocol_sm::report::Report;
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
