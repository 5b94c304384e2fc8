//! Simulation of CProxy: production's own event loops over a simulated kernel.
//!
//! One seed decides everything: topology, load, faults, the order in which threads run. The same seed gives the
//! same trace, which is checked.
#![forbid(unsafe_code)]

pub mod campaign;
pub mod explore;
mod impostor;
pub mod kernel;
pub mod oracle;
pub mod swarm;
pub mod trace;
pub mod world;
