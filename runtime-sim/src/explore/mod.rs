//! Rings 1 and 2: the production drivers under every interleaving, and under choice tapes.

// A story tells some of the notes, and whatever a driver may not say is a failure of its own.
#![allow(clippy::wildcard_enum_match_arm)]

mod catalog;
mod deadlines;
mod fingerprint;
mod guard;
mod loops;
pub(crate) mod mains;
mod net;
mod peers;
mod programs;
mod search;
mod story;
mod tape;

pub use catalog::{CATALOG, Entry, Search, Topic};
pub use loops::Config;
pub(crate) use loops::{KEY, SESSION};
pub use net::{Side, Window};
pub use peers::Grain;
pub use programs::Programs;
pub use search::{Counterexample, Report};
pub use tape::{Failure, Stats, run_tape};

/// Explores every interleaving of `config`, up to `limit` states.
///
/// # Errors
/// The shortest path to what must not be.
pub fn explore_loops(config: Config, limit: usize) -> Result<Report, Box<Counterexample>> {
    search::explore(&loops::Loops::new(config), limit)
}

/// Explores every interleaving of whole programs, up to `limit` states.
///
/// # Errors
/// The shortest path to what must not be.
pub fn explore_programs(config: Programs, limit: usize) -> Result<Report, Box<Counterexample>> {
    search::explore(&config, limit)
}
