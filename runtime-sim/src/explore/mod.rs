//! Rings 1 and 2: the production drivers under every interleaving, and under choice tapes.

mod fingerprint;
mod guard;
mod loops;
mod net;
mod search;
mod story;

pub use loops::{Config, Grain};
pub use net::Window;
pub use search::{Counterexample, Report};

/// Explores every interleaving of `config`, up to `limit` states.
///
/// # Errors
/// The shortest path to what must not be.
pub fn explore_loops(config: Config, limit: usize) -> Result<Report, Box<Counterexample>> {
    search::explore(&loops::Loops::new(config), limit)
}
