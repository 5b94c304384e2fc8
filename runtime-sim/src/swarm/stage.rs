//! What all hosts of a run share: the plan, and three rooms for what is seen, what is wanted, and what lies between
//! them.

use super::lines::Lines;
use super::options::{Lie, Options};
use super::oracle::Oracle;
use super::orders::Orders;
use super::plan::Plan;
use crate::kernel::{ProcId, Rng};
use crate::oracle::{Finding, Kind, Property, Sometimes};
use crate::scenario::tunnel_called;
use protocol_sm::driver::Note;
use protocol_sm::time::Instant;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// The server's place among the parties of a trace; clients, the rival, services and visitors follow.
pub(super) const SERVER: ProcId = ProcId(0);

/// See the module.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) plan: Plan,
    pub(super) lie: Option<Lie>,
    pub(super) oracle: Oracle,
    pub(super) orders: Orders,
    pub(super) lines: Lines,
    rng: RefCell<Rng>,
    numbers: Cell<u64>,
}

impl Stage {
    pub(super) fn new(plan: Plan, rng: Rng, options: Options) -> Rc<Self> {
        Rc::new(Self {
            orders: Orders::new(plan.scenario.tunnels.len()),
            oracle: Oracle::new(options.trace),
            lines: Lines::default(),
            lie: options.lie,
            rng: RefCell::new(rng),
            numbers: Cell::default(),
            plan,
        })
    }

    /// A stream of random numbers for one party.
    pub(super) fn fork(&self) -> Rng {
        self.rng.borrow_mut().fork()
    }

    /// A number that no socket of any process had before.
    pub(super) fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// The time, asked by a host while it runs.
    pub(super) fn now(&self) -> Instant {
        if let Some(since) = turmoil::sim_elapsed() {
            self.set_clock(since);
        }
        self.oracle.now.get()
    }

    pub(super) fn set_clock(&self, since: Duration) {
        self.oracle.now.set(Instant::ZERO + since);
    }

    /// The time that a host has set last. It can be read where no host runs.
    pub(super) fn last_now(&self) -> Instant {
        self.oracle.now.get()
    }

    /// What must happen sometimes has happened.
    pub(super) fn saw(&self, what: Sometimes) {
        self.oracle.saw(what);
    }

    /// A promise is broken.
    pub(super) fn breach(&self, kind: Kind, property: Property, what: String) {
        self.oracle.breach(kind, property, what);
    }

    /// A line for the trace.
    pub(super) fn remark(&self, who: Option<ProcId>, what: impl FnOnce() -> String) {
        self.oracle.remark(who, what);
    }

    /// A checked promise was kept, or not.
    pub(super) fn check(&self, checked: Result<(), Finding>) {
        self.oracle.check(checked);
    }

    /// A host was killed.
    pub(super) fn on_crash(&self, who: ProcId) {
        self.orders.on_crash(who);
        if who == SERVER {
            self.oracle.forget_transfers();
        }
    }

    /// A program has something to say.
    pub(super) fn note(&self, who: ProcId, note: &Note) {
        self.remark(Some(who), || Oracle::show(note));
        if let Note::Aborted { .. } | Note::Refused { .. } = note
            && self.plan.scenario.calm
            && !self.orders.leaving.get()
        {
            self.breach(Kind::Safety, Property::NoUnprovokedReset, Oracle::show(note));
        }
        if let Note::Tunnel { client, asked, outcome: Ok(public), .. } = note
            && self.plan.scenario.clients.get(usize::from(client.0[0])).is_some()
            && let Some(tunnel) = tunnel_called(&asked.name)
        {
            self.orders.public.borrow_mut()[tunnel] = Some(public.port());
        }
        if let Note::Started { visitor, .. } = note
            && self.plan.fronted
            && !self.oracle.introduced.borrow().contains(visitor)
        {
            self.breach(Kind::Safety, Property::VisitorsAreNamed, format!("{visitor} is served"));
        }
        self.oracle.note(who, who == SERVER, note);
    }
}
