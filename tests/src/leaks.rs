//! Descriptors back where they were: what a load must leave behind is nothing.

use crate::process::Descriptors;
use crate::programs::Program;
use crate::wait::{eventually, until_still};
use std::ops::Deref;

/// What programs may keep for later use in pools of pipes, in descriptors.
const POOLED_PIPES: usize = 128;

/// The open descriptors of some programs at rest.
#[derive(Debug)]
pub struct Baseline<'p>(Vec<(&'p Program, Descriptors)>);

impl<'p> Baseline<'p> {
    /// Waits until these programs open and close nothing any more, and notes what they have open.
    #[must_use]
    #[track_caller]
    pub fn of<P: Deref<Target = Program>, Q: Deref<Target = Program>>(server: &'p P, client: &'p Q) -> Self {
        let programs = [&**server, &**client];
        until_still("descriptors at rest", || {
            programs.iter().map(|program| program.process().descriptors().total() as u64).sum()
        });
        Self(programs.map(|program| (program, program.process().descriptors())).into())
    }

    /// Waits until no program has more open than before, but for a bounded pool of pipes.
    #[track_caller]
    pub fn expect_again(&self) {
        for (program, before) in &self.0 {
            eventually("no more descriptors open than before", || {
                let now = program.process().descriptors();
                let leaked = now.sockets > before.sockets
                    || now.others > before.others
                    || now.pipes > before.pipes + POOLED_PIPES;
                if leaked { Err(format!("{now:?}, before {before:?}")) } else { Ok(()) }
            });
        }
    }
}
