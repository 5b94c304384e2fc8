//! Simulation of CProxy: production's own event loops over a simulated kernel.
//!
//! One seed decides everything: topology, load, faults, the order in which threads run, and how payload is moved
//! (copied, spliced, or both: `Strategy`). The same seed gives the same trace, which is checked.
//!
//! | ring | module | what it runs |
//! |---|---|---|
//! | 1 exhaustive | [`explore`] | every interleaving of event loops and whole programs, breadth-first |
//! | 2 model-based | [`explore`] | random long walks over the same, from a choice tape |
//! | 3 simulated kernel | [`world`] over [`kernel`] | whole systems, Linux's socket semantics, thousands of seeds |
//! | 4 turmoil | [`swarm`] | whole systems as independent hosts on another network |
//!
//! What must hold stands by name in [`oracle::Property`], what must happen sometimes in [`oracle::Sometimes`]. Strangers
//! with a wrong token, with an overheard hello or in somebody else's name come in rings 3 and 4. `cproxy-sim` runs
//! [`campaign`]s.
//!
//! # Planted faults
//!
//! A checker that cannot fail checks nothing. `cargo test -p runtime-sim --test canaries -- --nocapture` plants each of
//! these in the core, looks for it in all rings, and prints this table: the states that were searched and the length of the shortest
//! path in ring 1, the first tape in ring 2, the first seed in rings 3 and 4 that shows it.
//!
//! TABLE
#![forbid(unsafe_code)]

pub mod campaign;
pub mod explore;
mod impostor;
pub mod kernel;
pub mod oracle;
pub mod swarm;
pub mod trace;
pub mod world;
