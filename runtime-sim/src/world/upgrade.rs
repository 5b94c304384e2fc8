//! A server is upgraded: another process of it takes the listeners over, or fails to, while everything goes on.

use super::World;
use super::sys::Mail;
use crate::kernel::SockId;
use crate::oracle::Sometimes;
use protocol_sm::driver::Given;
use protocol_sm::driver::messages::{Step, ToServerMain};
use protocol_sm::time::Instant;
use std::collections::BTreeMap;

/// Whoever sees to an upgrade asks by this name.
const TAG: u64 = u64::MAX;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    /// The process that is being upgraded, and the step that it takes.
    under_way: Option<(usize, Step)>,
    /// What it has lent.
    lent: Vec<(Given, SockId)>,
    /// Processes that have given their listeners on, and when.
    given: BTreeMap<usize, Instant>,
}

impl Upgrade {
    pub(super) fn has_given(&self, process: usize) -> bool {
        self.given.contains_key(&process)
    }

    pub(super) fn lend(&mut self, process: usize, lent: Vec<(Given, SockId)>) {
        if self.under_way == Some((process, Step::Lend)) {
            self.lent.extend(lent);
        }
    }
}

impl World {
    /// Whether this server has let its transfers finish for as long as it must.
    pub(super) fn has_drained(&self, process: usize) -> bool {
        let since = [self.processes[process].stopping, self.upgrade.given.get(&process).copied()];
        let patience = self.plan.scenario.timings.drain_timeout;
        since.into_iter().flatten().any(|since| self.now().since(since) >= patience)
    }

    pub(super) fn begin_upgrade(&mut self) {
        let lost = self.upgrade.under_way.is_some_and(|(process, _)| !self.processes[process].alive);
        if self.is_alive(self.server) && (self.upgrade.under_way.is_none() || lost) {
            self.upgrade.lent.clear();
            self.take_step(self.server, Step::Lend);
        }
    }

    fn take_step(&mut self, process: usize, step: Step) {
        self.upgrade.under_way = Some((process, step));
        let main = self.processes[process].threads[0];
        self.post(main, Mail::ServerMain(ToServerMain::Upgrade { tag: TAG, step }));
    }

    /// A step is done.
    pub(super) fn go_on_upgrading(&mut self, process: usize, tag: u64, count: usize) {
        let Some((old, step)) = self.upgrade.under_way.filter(|&(old, _)| tag == TAG && old == process) else { return };
        match step {
            Step::Lend | Step::Settle if count == 0 => {
                // It stops.
                self.upgrade.under_way = None;
            }
            Step::Lend => self.take_step(old, Step::Settle),
            // The other one may fail at any time before.
            Step::Settle if self.rng.chance(30) => {
                self.coverage.saw(Sometimes::UpgradeFailed);
                self.take_step(old, Step::GoOn);
            }
            Step::Settle => {
                self.coverage.saw(Sometimes::Upgraded);
                if self.transfers_in_flight() > 0 {
                    self.coverage.saw(Sometimes::UpgradedWithTransfers);
                }
                let mut left = std::mem::take(&mut self.upgrade.lent);
                // A port that was closed meanwhile is another's, or nobody's.
                let from = self.processes[old].proc;
                let open: Vec<_> = self.kernel.open_socks(from).collect();
                left.retain(|(_, sock)| open.contains(sock));
                self.spawn_server();
                let to = self.processes[self.server].proc;
                left.iter().for_each(|&(_, sock)| self.kernel.give(sock, to));
                self.upgrade.given.insert(old, self.now());
                self.begin_server(self.server, left);
                self.take_step(old, Step::Leave);
            }
            Step::Leave | Step::GoOn => self.upgrade.under_way = None,
        }
    }
}
