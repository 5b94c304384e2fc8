//! Placeholder: being written. The API that the programs use is here already.

pub mod client;
pub mod server;

/// Asks a running [`server::Server`] or [`client::Client`] to stop: from any thread, any number of times.
#[derive(Clone, Debug)]
pub struct Stopper;

impl Stopper {
    /// Stop accepting, let transfers finish for `drain_timeout`, then return from `run`.
    pub fn stop(&self) {}
}
