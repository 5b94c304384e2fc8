//! What all hosts of a run share: the oracle, the trace, and the lines between them.

use super::actors::{Intrusion, Visit};
use super::line::{Line, LineKey};
use super::plan::Plan;
use super::{Lie, Options};
use crate::impostor::Overheard;
use crate::kernel::{ProcId, Rng};
use crate::oracle::{Breach, Coverage, Finding, Kind, Property, Sometimes, Streams};
use crate::trace::Trace;
use protocol_sm::codes::{AbortCode, CloseCode, HandshakeRefusal, RefuseCode};
use protocol_sm::driver::{Dropped, Note, Role};
use protocol_sm::ids::{ClientId, ConnId, Epoch};
use protocol_sm::time::Instant;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// The server's place among the parties of a trace; clients, the rival, services and visitors follow.
pub(super) const SERVER: ProcId = ProcId(0);

/// Transfers that were started where something could go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Races {
    /// On a proxy_conn that had carried another transfer before.
    pub reuse: u64,
    /// While a fault was active or had just ended.
    pub fault: u64,
    /// Either of them.
    pub all: u64,
}

impl Races {
    /// Adds another run's.
    pub fn add(&mut self, other: Self) {
        self.reuse += other.reuse;
        self.fault += other.fault;
        self.all += other.all;
    }
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
    pub(super) no_names: bool,
    orders: Vec<Order>,
    waker: Option<Waker>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) plan: Plan,
    pub(super) lie: Option<Lie>,
    pub(super) streams: RefCell<Streams>,
    pub(super) seen: RefCell<Coverage>,
    pub(super) trace: RefCell<Trace>,
    pub(super) breach: RefCell<Option<Breach>>,
    pub(super) status: RefCell<BTreeMap<ProcId, Status>>,
    pub(super) races: Cell<Races>,
    /// Where visitors find each tunnel.
    pub(super) public: RefCell<Vec<Option<u16>>>,
    /// No more faults and pauses.
    pub(super) hurry: Cell<bool>,
    /// The programs are asked to stop.
    pub(super) leaving: Cell<bool>,
    /// Services that do not listen, and that do not accept.
    pub(super) closed: RefCell<Vec<bool>>,
    pub(super) deaf: RefCell<Vec<bool>>,
    /// Visitors, and connections of services, that have not ended.
    pub(super) actors: Cell<usize>,
    /// Visits and intrusions asked for and not over.
    pub(super) to_come: Cell<usize>,
    pub(super) visits: RefCell<Vec<Visit>>,
    /// What strangers try.
    pub(super) intrusions: RefCell<Vec<Intrusion>>,
    pub(super) overheard: RefCell<Overheard>,
    pub(super) visitors: Cell<u64>,
    pub(super) whole: Cell<u64>,
    /// Faults have an effect until then.
    pub(super) trouble_until: Cell<Instant>,
    lines: RefCell<BTreeMap<LineKey, Rc<RefCell<Line>>>>,
    live: RefCell<BTreeMap<(ConnId, Epoch), u32>>,
    /// Clients whose session waits for a resume.
    detached: RefCell<BTreeSet<ClientId>>,
    clock: Cell<Instant>,
    rng: RefCell<Rng>,
}

impl Stage {
    pub(super) fn new(plan: Plan, rng: Rng, options: Options) -> Rc<Self> {
        let tunnels = plan.tunnels.len();
        Rc::new(Self {
            public: RefCell::new(vec![None; tunnels]),
            plan,
            lie: options.lie,
            streams: RefCell::default(),
            seen: RefCell::default(),
            trace: RefCell::new(Trace::new(options.trace)),
            breach: RefCell::default(),
            status: RefCell::default(),
            races: Cell::default(),
            hurry: Cell::new(false),
            leaving: Cell::new(false),
            closed: RefCell::new(vec![false; tunnels]),
            deaf: RefCell::new(vec![false; tunnels]),
            actors: Cell::default(),
            to_come: Cell::default(),
            visits: RefCell::default(),
            intrusions: RefCell::default(),
            overheard: RefCell::default(),
            visitors: Cell::default(),
            whole: Cell::default(),
            trouble_until: Cell::default(),
            lines: RefCell::default(),
            live: RefCell::default(),
            detached: RefCell::default(),
            clock: Cell::default(),
            rng: RefCell::new(rng),
        })
    }

    /// A stream of random numbers for one party.
    pub(super) fn fork(&self) -> Rng {
        self.rng.borrow_mut().fork()
    }

    /// The time, asked by a host while it runs.
    pub(super) fn now(&self) -> Instant {
        if let Some(since) = turmoil::sim_elapsed() {
            self.set_clock(since);
        }
        self.clock.get()
    }

    pub(super) fn set_clock(&self, since: Duration) {
        self.clock.set(Instant::ZERO + since);
    }

    /// The time when somebody last looked: also where no host runs.
    pub(super) fn last_now(&self) -> Instant {
        self.clock.get()
    }

    pub(super) fn saw(&self, what: Sometimes) {
        self.seen.borrow_mut().saw(what);
    }

    pub(super) fn remark(&self, who: Option<ProcId>, what: impl FnOnce() -> String) {
        self.trace.borrow_mut().remark(self.last_now(), who, what);
    }

    /// Keeps the first broken promise.
    pub(super) fn breach(&self, kind: Kind, property: Property, what: String) {
        self.remark(None, || format!("BREACH {property}: {what}"));
        self.breach.borrow_mut().get_or_insert(Breach { kind, property, at: self.last_now(), what });
    }

    pub(super) fn check(&self, checked: Result<(), Finding>) {
        if let Err((property, what)) = checked {
            self.breach(Kind::Safety, property, what);
        }
    }

    /// The line between two addresses; the first of its two ends makes it. The other may come when the first has
    /// gone already.
    pub(super) fn line(&self, key: LineKey, end: usize) -> Rc<RefCell<Line>> {
        let mut lines = self.lines.borrow_mut();
        let line = lines.entry(key).or_insert_with(|| Rc::new(RefCell::new(Line::new(key))));
        line.borrow_mut().attach(end);
        Rc::clone(line)
    }

    /// Every line that still has an end.
    pub(super) fn lines(&self) -> Vec<Rc<RefCell<Line>>> {
        let mut lines = self.lines.borrow_mut();
        lines.retain(|_, line| !line.borrow().is_over());
        lines.values().cloned().collect()
    }

    /// Lines with this role.
    pub(super) fn lines_of(&self, role: Role) -> Vec<Rc<RefCell<Line>>> {
        self.lines().into_iter().filter(|line| line.borrow().role == Some(role)).collect()
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

    pub(super) fn with_status<R>(&self, who: ProcId, with: impl FnOnce(&mut Status) -> R) -> R {
        with(self.status.borrow_mut().entry(who).or_default())
    }

    /// Trouble lasts until `until` at least.
    pub(super) fn trouble(&self, until: Instant) {
        self.trouble_until.set(self.trouble_until.get().max(until));
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

    fn rouse(&self, who: ProcId) {
        if let Some(waker) = self.with_status(who, |status| status.waker.take()) {
            waker.wake();
        }
    }

    /// Transfers that the server has started and not ended.
    pub(super) fn live(&self) -> usize {
        self.live.borrow().len()
    }

    fn ended(&self, key: (ConnId, Epoch)) {
        let mut live = self.live.borrow_mut();
        if let Some(count) = live.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                live.remove(&key);
            }
        }
    }

    /// A host was killed.
    pub(super) fn on_crash(&self, who: ProcId) {
        self.with_status(who, |status| {
            status.up = false;
            status.orders.clear();
        });
        if who == SERVER {
            self.forget_transfers();
        }
    }

    /// The server is gone, with all its transfers.
    pub(super) fn forget_transfers(&self) {
        self.live.borrow_mut().clear();
        self.detached.borrow_mut().clear();
    }

    /// A program has something to say.
    pub(super) fn note(&self, who: ProcId, note: &Note) {
        self.remark(Some(who), || show(note));
        let server = who == SERVER;
        if let Note::Aborted { .. } | Note::Refused { .. } = note
            && self.plan.gentle
            && !self.leaving.get()
        {
            self.breach(Kind::Safety, Property::NoUnprovokedReset, show(note));
        }
        match note {
            Note::Started { conn, epoch, .. } => self.on_started(*conn, *epoch),
            Note::Finished { conn, epoch, egress, ingress } if server => {
                self.ended((*conn, *epoch));
                match (egress, ingress) {
                    (0, 0) => self.saw(Sometimes::ZeroByteTransfer),
                    (0, _) | (_, 0) => self.saw(Sometimes::ZeroByteHalf),
                    _ => {}
                }
            }
            Note::Aborted { conn, epoch, code, .. } if server => {
                self.ended((*conn, *epoch));
                if *code == AbortCode::Stopping {
                    self.saw(Sometimes::DrainTimedOut);
                }
            }
            Note::Refused { conn, epoch, code, .. } if server => {
                self.ended((*conn, *epoch));
                self.saw(if *code == RefuseCode::TimedOut { Sometimes::DialTimedOut } else { Sometimes::Refused });
            }
            Note::VisitorDropped { why, .. } => match why {
                Dropped::WaitedTooLong => self.saw(Sometimes::WaiterTimedOut),
                Dropped::QueueFull => self.saw(Sometimes::QueueFull),
                Dropped::TooMany | Dropped::TunnelFull => self.saw(Sometimes::TooManyConnections),
                Dropped::Left => self.saw(Sometimes::WaiterLeft),
                Dropped::Resources => self.saw(Sometimes::OutOfDescriptors),
                Dropped::Gone | Dropped::SourceDenied | Dropped::TooOften => {}
            },
            Note::Stale { .. } => self.saw(Sometimes::StaleMessage),
            Note::SessionUp { client, resumed, .. } if server => {
                self.detached.borrow_mut().remove(client);
                if *resumed {
                    self.saw(Sometimes::Resumed);
                    if self.live() > 0 {
                        self.saw(Sometimes::ResumedWithTransfers);
                    }
                }
            }
            Note::SessionDetached { client } => {
                self.detached.borrow_mut().insert(*client);
            }
            Note::SessionOver { client, code: CloseCode::Bye } if self.detached.borrow_mut().remove(client) => {
                self.saw(Sometimes::SessionExpired);
            }
            Note::SessionOver { code: CloseCode::Replaced, .. } => {
                self.saw(Sometimes::Replaced);
                if self.live() > 0 {
                    self.saw(Sometimes::ReplacedWithTransfers);
                }
            }
            Note::HandshakeRefused { refusal: HandshakeRefusal::IdentityInUse, .. } => {
                self.saw(Sometimes::RivalRefused);
            }
            Note::Tunnel { client, tunnel, outcome: Ok(public), .. } => {
                let tunnels = &self.plan.clients[usize::from(client.0[0])].tunnels;
                self.public.borrow_mut()[tunnels[tunnel.0 as usize]] = Some(public.port());
            }
            Note::Violation { conn, violation } => {
                let what = format!("{who:?} noted {violation:?} on {conn:?}");
                self.breach(Kind::Safety, Property::HonestPeersNeverViolate, what);
            }
            Note::Finished { .. }
            | Note::Aborted { .. }
            | Note::Refused { .. }
            | Note::ConnUp { .. }
            | Note::ConnDown { .. }
            | Note::ConnFailed { .. }
            | Note::SessionUp { .. }
            | Note::SessionOver { .. }
            | Note::Tunnel { .. }
            | Note::Forwarding { .. }
            | Note::NotForwarding { .. }
            | Note::HandshakeRefused { .. }
            | Note::HandshakeDropped { .. }
            | Note::Reconnecting { .. } => {}
        }
    }

    fn on_started(&self, conn: ConnId, epoch: Epoch) {
        *self.live.borrow_mut().entry((conn, epoch)).or_default() += 1;
        let (reuse, fault) = (epoch > Epoch(1), self.last_now() <= self.trouble_until.get());
        let mut races = self.races.get();
        races.reuse += u64::from(reuse);
        races.fault += u64::from(fault);
        races.all += u64::from(reuse || fault);
        self.races.set(races);
        if epoch >= Epoch(3) {
            self.saw(Sometimes::ConnReusedThrice);
        }
    }
}

fn show(note: &Note) -> String {
    if let Note::Aborted { conn, epoch, code, by_peer } = note {
        let whose = if *by_peer { "peer" } else { "own" };
        return format!("c{} e{} aborted ({whose}): {code}", conn.0, epoch.0);
    }
    if let Note::Started { conn, epoch, tunnel, visitor } = note {
        return format!("c{} e{} started, tunnel {}, {visitor}", conn.0, epoch.0, tunnel.0);
    }
    if let Note::Finished { conn, epoch, egress, ingress } = note {
        return format!("c{} e{} finished, {egress} in, {ingress} out", conn.0, epoch.0);
    }
    format!("{note:?}")
}

/// Both ends of a connection, the one that connected first.
pub(super) fn key(stream: &turmoil::net::TcpStream, connected: bool) -> LineKey {
    let local: SocketAddr = stream.local_addr().expect("turmoil knows");
    let peer: SocketAddr = stream.peer_addr().expect("turmoil knows");
    if connected { (local, peer) } else { (peer, local) }
}
