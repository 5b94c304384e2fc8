//! What is seen of a run: every stream, what happened, and the first promise that was broken.

use crate::holder::Past;
use crate::impostor::Overheard;
use crate::kernel::ProcId;
use crate::oracle::{Breach, Coverage, Finding, Kind, Property, Sometimes, Streams};
use crate::trace::Trace;
use protocol_sm::codes::{AbortCode, CloseCode, HandshakeRefusal, RefuseCode, Violation};
use protocol_sm::driver::{Dropped, Note};
use protocol_sm::ids::{ClientId, ConnId, Epoch};
use protocol_sm::time::Instant;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// See the module.
#[derive(Debug)]
pub(super) struct Oracle {
    pub(super) streams: RefCell<Streams>,
    pub(super) seen: RefCell<Coverage>,
    pub(super) trace: RefCell<Trace>,
    pub(super) breach: RefCell<Option<Breach>>,
    pub(super) overheard: RefCell<Overheard>,
    /// The session that a hostile holder has left.
    pub(super) past: Cell<Option<Past>>,
    pub(super) races: Cell<Races>,
    /// Visitors behind a relay who have said who they are.
    pub(super) introduced: RefCell<BTreeSet<SocketAddr>>,
    /// Visitors that came, and those that were served whole.
    pub(super) visitors: Cell<u64>,
    pub(super) whole: Cell<u64>,
    /// The time that a host has set last. Whatever is seen gets this time.
    pub(super) now: Cell<Instant>,
    /// Faults have an effect until then.
    trouble_until: Cell<Instant>,
    /// Transfers by conn and epoch that go on; several sessions may use the same numbers.
    live: RefCell<BTreeMap<(ConnId, Epoch), u32>>,
    /// Clients whose session waits for a resume.
    detached: RefCell<BTreeSet<ClientId>>,
    /// Those of them whose ports are released.
    asleep: RefCell<BTreeSet<ClientId>>,
}

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

impl Oracle {
    pub(super) fn new(keep_trace: bool) -> Self {
        Self {
            streams: RefCell::default(),
            seen: RefCell::default(),
            trace: RefCell::new(Trace::new(keep_trace)),
            breach: RefCell::default(),
            overheard: RefCell::default(),
            past: Cell::default(),
            races: Cell::default(),
            introduced: RefCell::default(),
            visitors: Cell::default(),
            whole: Cell::default(),
            now: Cell::default(),
            trouble_until: Cell::default(),
            live: RefCell::default(),
            detached: RefCell::default(),
            asleep: RefCell::default(),
        }
    }

    pub(super) fn saw(&self, what: Sometimes) {
        self.seen.borrow_mut().saw(what);
    }

    pub(super) fn remark(&self, who: Option<ProcId>, what: impl FnOnce() -> String) {
        self.trace.borrow_mut().remark(self.now.get(), who, what);
    }

    /// Keeps the first broken promise.
    pub(super) fn breach(&self, kind: Kind, property: Property, what: String) {
        self.remark(None, || format!("BREACH {property}: {what}"));
        self.breach.borrow_mut().get_or_insert(Breach { kind, property, at: self.now.get(), what });
    }

    pub(super) fn check(&self, checked: Result<(), Finding>) {
        if let Err((property, what)) = checked {
            self.breach(Kind::Safety, property, what);
        }
    }

    /// Trouble lasts until `until` at least.
    pub(super) fn trouble(&self, until: Instant) {
        self.trouble_until.set(self.trouble_until.get().max(until));
    }

    /// Transfers that the server has started and not ended.
    pub(super) fn live(&self) -> usize {
        self.live.borrow().len()
    }

    /// The server is gone, with all its transfers.
    pub(super) fn forget_transfers(&self) {
        self.live.borrow_mut().clear();
        self.detached.borrow_mut().clear();
        self.asleep.borrow_mut().clear();
    }

    /// A program has something to say: the `server`, or another.
    pub(super) fn note(&self, who: ProcId, server: bool, note: &Note) {
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
            Note::Aborted { conn, epoch, code: AbortCode::OuterReset, .. } => {
                let what = format!("{who:?}: {conn:?} {epoch:?}");
                self.breach(Kind::Safety, Property::ResetCostsNoConn, what);
            }
            Note::Aborted { conn, epoch, code, by_peer } if server => {
                if *code == AbortCode::Resources && !by_peer {
                    self.saw(Sometimes::StarvedOut);
                }
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
                Dropped::Resources => self.saw(Sometimes::OutOfDescriptors),
                Dropped::SourceFull => self.saw(Sometimes::SourceFull),
                Dropped::Gone | Dropped::SourceDenied | Dropped::TooOften | Dropped::NoHeader => {}
            },
            Note::TakenBack { conn, epoch, lost, .. } => {
                self.ended((*conn, *epoch));
                self.saw(if *lost { Sometimes::StartLost } else { Sometimes::StartUnheard });
            }
            Note::Visit(_) => {}
            Note::PathDead { .. } => unreachable!("turmoil does not tell what is acknowledged"),
            Note::IdleConnsDie { .. } => self.saw(Sometimes::IdleConnsDie),
            Note::Stale { .. } => self.saw(Sometimes::StaleMessage),
            Note::SessionAsleep { client, .. } => {
                self.asleep.borrow_mut().insert(*client);
                if self.live() > 0 {
                    self.saw(Sometimes::ReleasedWithTransfers);
                }
            }
            Note::SessionUp { client, resumed, .. } if server => {
                self.detached.borrow_mut().remove(client);
                let asleep = self.asleep.borrow_mut().remove(client);
                if *resumed {
                    self.saw(Sometimes::Resumed);
                    if asleep {
                        self.saw(Sometimes::ResumedAsleep);
                    }
                    if self.live() > 0 {
                        self.saw(Sometimes::ResumedWithTransfers);
                    }
                }
            }
            Note::SessionDetached { client, .. } => {
                self.detached.borrow_mut().insert(*client);
            }
            Note::SessionOver { client, code: CloseCode::Bye, .. } if self.detached.borrow_mut().remove(client) => {
                self.saw(Sometimes::SessionExpired);
            }
            Note::SessionOver { code: CloseCode::Replaced, .. } => {
                self.saw(Sometimes::Replaced);
                if self.live() > 0 {
                    self.saw(Sometimes::ReplacedWithTransfers);
                }
            }
            Note::SessionTakenOver { .. } => {
                let live = self.live() > 0;
                self.saw(if live { Sometimes::TakenOverWithTransfers } else { Sometimes::TakenOver });
            }
            Note::HandshakeRefused { refusal: HandshakeRefusal::IdentityInUse, .. } => {
                self.saw(Sometimes::RivalRefused);
            }
            Note::Reloaded { changes: None } => self.saw(Sometimes::ReloadedStopping),
            Note::Reloaded { .. } => {
                self.saw(if server { Sometimes::ReloadedServer } else { Sometimes::ReloadedClient });
            }
            // Only a hostile holder acknowledges nothing.
            Note::Violation { violation: Violation::Unacknowledged, .. } if server => {}
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
            | Note::NotRouted { .. }
            | Note::NoLocalPort { .. }
            | Note::NoLocalSource { .. }
            | Note::UnixUnreachable { .. }
            | Note::SessionUp { .. }
            | Note::SessionOver { .. }
            | Note::SessionLost { .. }
            | Note::ProxyPort { .. }
            | Note::Left { .. }
            | Note::TakenOver
            | Note::PathUp { .. }
            | Note::PathSize { .. }
            | Note::PathDown { .. }
            | Note::PathFailed { .. }
            | Note::PathPort { .. }
            | Note::Tunnel { .. }
            | Note::Forwarding { .. }
            | Note::NotForwarding { .. }
            | Note::HandshakeRefused { .. }
            | Note::HandshakeDropped { .. }
            | Note::CannotAccept { .. }
            | Note::Foreign { .. }
            | Note::Reconnecting { .. } => {}
        }
    }

    /// A note in the words of a trace.
    pub(super) fn show(note: &Note) -> String {
        if let Note::Aborted { conn, epoch, code, by_peer } = note {
            let whose = if *by_peer { "peer" } else { "own" };
            return format!("c{} e{} aborted ({whose}): {code}", conn.0, epoch.0);
        }
        if let Note::Started { conn, epoch, tunnel, visitor, .. } = note {
            return format!("c{} e{} started, tunnel {}, {visitor}", conn.0, epoch.0, tunnel.0);
        }
        if let Note::Finished { conn, epoch, egress, ingress } = note {
            return format!("c{} e{} finished, {egress} in, {ingress} out", conn.0, epoch.0);
        }
        format!("{note:?}")
    }

    /// The server has ended a transfer.
    fn ended(&self, key: (ConnId, Epoch)) {
        let mut live = self.live.borrow_mut();
        if let Some(count) = live.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                live.remove(&key);
            }
        }
    }

    fn on_started(&self, conn: ConnId, epoch: Epoch) {
        *self.live.borrow_mut().entry((conn, epoch)).or_default() += 1;
        let (reuse, fault) = (epoch > Epoch(1), self.now.get() <= self.trouble_until.get());
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
