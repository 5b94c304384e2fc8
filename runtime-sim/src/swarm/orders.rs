//! What the run wants of its hosts, and how they stand.

use crate::kernel::ProcId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Orders {
    status: RefCell<BTreeMap<ProcId, Status>>,
    /// Where visitors find each tunnel.
    pub(super) public: RefCell<Vec<Option<u16>>>,
    /// No more faults and pauses.
    pub(super) hurry: Cell<bool>,
    /// The programs are asked to stop.
    pub(super) leaving: Cell<bool>,
    /// Services that do not listen, and that do not accept.
    pub(super) closed: RefCell<Vec<bool>>,
    pub(super) deaf: RefCell<Vec<bool>>,
    /// The next proxy_conn at such a moment is reset.
    pub(super) ambush: Cell<Option<Moment>>,
    /// Visitors, and connections of services, that have not ended.
    pub(super) actors: Cell<usize>,
    /// Visits, intrusions and questions asked for and not over.
    pub(super) to_come: Cell<usize>,
    pub(super) visits: RefCell<Vec<Visit>>,
    /// What strangers try.
    pub(super) intrusions: RefCell<Vec<Intrusion>>,
    pub(super) questions: RefCell<Vec<Question>>,
}

/// What the world wants of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Stop in good order, and start again after this long.
    Restart(Duration),
    /// Stop in good order.
    Stop,
}

/// How a program stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    /// It has a session, or its ports are open.
    pub(super) up: bool,
    /// The process was killed, or is not started yet; the machine is there, and refuses connections.
    pub(super) asleep: bool,
    /// It stopped when it was told to.
    pub(super) stopped: bool,
    /// proxy_conns and everything else on its event loops.
    pub(super) loop_sockets: usize,
    pub(super) lag: Duration,
    pub(super) few_descriptors: bool,
    /// Chance in a hundred that a call finds no memory.
    pub(super) no_memory: u64,
    pub(super) no_names: bool,
    orders: Vec<Order>,
    /// Told anew: by these numbers, or as at the start.
    reloads: Vec<Option<u64>>,
    /// Another process is to have its place.
    upgrade: bool,
    waker: Option<Waker>,
}

/// A moment of a transfer that chance alone seldom meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Its client dials: it has seen a `Start`, and not answered.
    Dialling,
    /// A pipe holds bytes that it does not take.
    PipeHeld,
}

/// A visit to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit {
    pub(super) after: Duration,
    pub(super) tunnel: usize,
    /// It must come back whole.
    pub(super) probe: bool,
}

/// What the server itself is to be asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) after: Duration,
    /// Of the host of this tunnel, or of nobody's.
    pub(super) tunnel: Option<usize>,
    /// How many were asked before.
    pub(super) number: usize,
}

/// What a stranger tries at one of the server's own ports.
#[derive(Clone, Copy, Debug)]
pub(super) enum Intrusion {
    /// Bytes that mean nothing, or none, at this port.
    Noise(u16),
    /// To be taken for a client.
    Deceit,
    /// He is one, with a token of his own, and means harm.
    Abuse,
}

impl Orders {
    pub(super) fn new(tunnels: usize) -> Self {
        Self {
            status: RefCell::default(),
            public: RefCell::new(vec![None; tunnels]),
            hurry: Cell::new(false),
            leaving: Cell::new(false),
            closed: RefCell::new(vec![false; tunnels]),
            deaf: RefCell::new(vec![false; tunnels]),
            ambush: Cell::default(),
            actors: Cell::default(),
            to_come: Cell::default(),
            visits: RefCell::default(),
            intrusions: RefCell::default(),
            questions: RefCell::default(),
        }
    }

    pub(super) fn order(&self, who: ProcId, order: Order) {
        self.with_status(who, |status| status.orders.push(order));
        self.rouse(who);
    }

    pub(super) fn take_order(&self, who: ProcId, waker: &Waker) -> Option<Order> {
        let mut status = self.status.borrow_mut();
        let status = status.entry(who).or_default();
        status.waker = Some(waker.clone());
        status.orders.pop()
    }

    /// A program is told its settings anew: others that `draw` decides, or those of its start.
    pub(super) fn reload(&self, who: ProcId, draw: Option<u64>) {
        self.with_status(who, |status| status.reloads.push(draw));
        self.rouse(who);
    }

    /// What a program is to be told anew.
    pub(super) fn take_reloads(&self, who: ProcId) -> Vec<Option<u64>> {
        self.with_status(who, |status| std::mem::take(&mut status.reloads))
    }

    /// Another process is to have a program's place.
    pub(super) fn upgrade(&self, who: ProcId) {
        self.with_status(who, |status| status.upgrade = true);
        self.rouse(who);
    }

    /// Whether another process is to have a program's place.
    pub(super) fn take_upgrade(&self, who: ProcId) -> bool {
        self.with_status(who, |status| std::mem::take(&mut status.upgrade))
    }

    pub(super) fn with_status<R>(&self, who: ProcId, with: impl FnOnce(&mut Status) -> R) -> R {
        with(self.status.borrow_mut().entry(who).or_default())
    }

    /// Waits until the process may start.
    pub(super) async fn awake(&self, who: ProcId) {
        poll_fn(|cx| {
            self.with_status(who, |status| {
                status.waker = Some(cx.waker().clone());
                if status.asleep { Poll::Pending } else { Poll::Ready(()) }
            })
        })
        .await;
    }

    /// Lets a process start.
    pub(super) fn start(&self, who: ProcId) {
        self.with_status(who, |status| status.asleep = false);
        self.rouse(who);
    }

    /// Such a moment is there: whether somebody has waited for it.
    pub(super) fn is_ambushed(&self, moment: Moment) -> bool {
        let waited_for = self.ambush.get() == Some(moment);
        if waited_for {
            self.ambush.set(None);
        }
        waited_for
    }

    /// Sends a visitor.
    pub(super) fn visit(&self, host: ProcId, visit: Visit) {
        self.to_come.set(self.to_come.get() + 1);
        self.visits.borrow_mut().push(visit);
        self.rouse(host);
    }

    /// Sends a stranger to one of the server's own ports.
    pub(super) fn intrude(&self, host: ProcId, intrusion: Intrusion) {
        self.to_come.set(self.to_come.get() + 1);
        self.intrusions.borrow_mut().push(intrusion);
        self.rouse(host);
    }

    /// Sends somebody whom the server itself is to answer.
    pub(super) fn ask(&self, host: ProcId, question: Question) {
        self.to_come.set(self.to_come.get() + 1);
        self.questions.borrow_mut().push(question);
        self.rouse(host);
    }

    /// A host was killed.
    pub(super) fn on_crash(&self, who: ProcId) {
        self.with_status(who, |status| {
            status.up = false;
            status.orders.clear();
            status.reloads.clear();
            status.upgrade = false;
        });
    }

    fn rouse(&self, who: ProcId) {
        if let Some(waker) = self.with_status(who, |status| status.waker.take()) {
            waker.wake();
        }
    }
}
