//! How another process of the server takes over: it is lent the listeners; when it can serve, nobody is accepted here
//! until it does; then the clients are told to leave, and what they have here ends (PROTOCOL.md, "Leaving").
//!
//! ```text
//!   no ──Lend──▶ Lent ──Settle──▶ Settling ──nobody waits for a conn, or 2 s──▶ Settled ──Leave──▶ stopping
//!    ▲             │                  │                                           │
//!    └──── GoOn ───┴──────────────────┴───────────────────────────────────────────┘
//! ```
//! Clients' new conns are let in while it settles. So where visitors come by the same port, some may come behind the question
//! whether anybody waits: then it is asked again.

use super::super::inherit::Given;
use super::super::messages::{Step, ToListener, ToLoop, ToOperator, ToServerLoop};
use super::super::thread::Cx;
use super::{MainSys, ServerMain, Slot};
use crate::codes::{AbortCode, CloseCode, LeaveCode};
use crate::time::Instant;
use crate::wire::{LEAVE, ServerMsg};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

/// How long visitors that wait for a conn may hold up the others. Those that wait longer are given one that comes back.
const SETTLE: Duration = Duration::from_secs(2);

/// See the module. The tags are of those who wait for the step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Upgrade {
    Lent {
        /// Until the listener has lent its ports.
        tag: Option<u64>,
    },
    Settling {
        tag: u64,
        until: Instant,
        settled: BTreeSet<usize>,
        /// Visitors were passed on since that was asked.
        again: bool,
    },
    Settled,
    /// The other process serves.
    Left,
}

impl Upgrade {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Settling { until, .. } => Some(*until),
            Self::Lent { .. } | Self::Settled | Self::Left => None,
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Settled)
    }
}

impl<T, L> ServerMain<T, L> {
    pub(super) fn on_upgrade<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, tag: u64, step: Step) {
        match (step, &self.upgrade) {
            (Step::Lend, None) if self.stopping.is_none() => {
                self.upgrade = Some(Upgrade::Lent { tag: Some(tag) });
                for (_, slot) in self.slots.iter() {
                    if let Slot::Door(door) = slot {
                        let first = door.purposes.iter().next().expect("a port is there for something");
                        cx.sys.lend(&door.listener, &Given::Door(first));
                    }
                }
                cx.sys.tell(ToListener::Upgrade(step));
            }
            (Step::Settle, Some(Upgrade::Lent { tag: None })) if self.stopping.is_none() => {
                let until = cx.now + SETTLE;
                self.upgrade = Some(Upgrade::Settling { tag, until, settled: BTreeSet::new(), again: false });
                cx.sys.tell(ToListener::Upgrade(step));
            }
            (Step::Leave, Some(Upgrade::Settled)) if self.stopping.is_none() => {
                self.upgrade = Some(Upgrade::Left);
                let count = self.leave(cx);
                cx.sys.tell(ToOperator::Done { tag, count });
            }
            (Step::GoOn, Some(Upgrade::Lent { .. } | Upgrade::Settling { .. } | Upgrade::Settled)) => {
                self.upgrade = None;
                cx.sys.tell(ToListener::Upgrade(step));
                self.enqueue_doors();
                cx.sys.tell(ToOperator::Done { tag, count: 0 });
            }
            (Step::Lend | Step::Settle | Step::Leave | Step::GoOn, _) => {
                cx.sys.tell(ToOperator::Done { tag, count: 0 })
            }
        }
    }

    /// Whether another process serves newcomers.
    pub(super) fn was_upgraded(&self) -> bool {
        self.upgrade == Some(Upgrade::Left)
    }

    pub(super) fn on_lent<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, count: usize) {
        if let Some(Upgrade::Lent { tag: tag @ Some(_) }) = &mut self.upgrade
            && let Some(tag) = tag.take()
        {
            cx.sys.tell(ToOperator::Done { tag, count: count + self.doors().len() });
        }
    }

    pub(super) fn on_loop_settled<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, loop_index: usize) {
        if let Some(Upgrade::Settling { settled, .. }) = &mut self.upgrade {
            settled.insert(loop_index);
            self.settle(cx);
        }
    }

    /// A visitor is given to the listener.
    pub(super) fn on_visitor_passed(&mut self) {
        if let Some(Upgrade::Settling { again, .. }) = &mut self.upgrade {
            *again = true;
        }
    }

    /// Whether all event loops have said that nobody waits, and nobody can have come since.
    pub(super) fn settle<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) {
        let just_now = |slot: &Slot<T, L>| match slot {
            Slot::Untold(untold) => untold.caller.came + SETTLE > cx.now,
            Slot::Fronted(fronted) => fronted.purposes.have_hosts() && fronted.came + SETTLE > cx.now,
            Slot::Door(_) | Slot::Ctl(_) | Slot::Proxy(_) => false,
        };
        if let Some(Upgrade::Settling { settled, again, .. }) = &mut self.upgrade
            && settled.len() == self.loop_count
            && !self.slots.iter().any(|(_, slot)| just_now(slot))
        {
            if core::mem::take(again) {
                settled.clear();
                cx.sys.tell(ToListener::Upgrade(Step::Settle));
            } else {
                self.on_settled(cx);
            }
        }
    }

    /// Nobody waits for a conn, or that has taken too long: the other process may serve.
    pub(super) fn on_settled<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) {
        if let Some(Upgrade::Settling { tag, .. }) = self.upgrade.replace(Upgrade::Settled) {
            cx.sys.tell(ToOperator::Done { tag, count: 1 });
        }
    }

    /// The other process serves newcomers. Returns how many sessions go on.
    // PROTOCOL.md: P-LEAVE-1.
    fn leave<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) -> usize {
        self.begin_drain(cx.now);
        self.close_paths(cx);
        for token in self.doors() {
            if let Some(Slot::Door(door)) = self.slots.remove(token) {
                cx.sys.unlisten(door.listener);
            }
        }
        // Of two processes of a client the new one comes to the other server.
        while let Some((_, key)) = self.sessions.next_handover() {
            self.end_handover(cx, key);
        }
        cx.sys.tell(ToListener::Upgrade(Step::Leave));
        let keys: Vec<_> = self.sessions.keys().collect();
        for key in keys {
            let Some(entry) = self.sessions.get(key).filter(|entry| !entry.leaves) else { continue };
            let msg = match entry.control.features & LEAVE {
                0 => ServerMsg::Drain,
                _ => ServerMsg::Leave { code: LeaveCode::Upgraded },
            };
            if entry.ctl_conn().is_some() {
                self.send(cx, key, msg);
            } else {
                // It would be resumed at the other process, which does not know it.
                self.end_session(cx, key, CloseCode::Stopping, AbortCode::SessionOver);
            }
        }
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Leave });
        }
        self.sessions.len()
    }
}
