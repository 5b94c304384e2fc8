//! The sessions that there are, and every way to find one: by key, by its name on the wire, by its client, by the address
//! that it comes from, by the end of its grace; and what the holder of each token has in them. One place changes them
//! all.
//!
//! A client has one session, but for those that its former processes *leave*: another one has taken over from them, and
//! they let their transfers finish. In between, the session that takes over and the one before it know each other:
//!
//! ```text
//!   (the client's) ──take_over──▶ hands its tunnels over ──all of them, or HANDOVER──▶ leaves ──▶ over
//!         ▲                            │
//!         └──── the newcomer is over ──┘
//! ```

use super::super::messages::{ControlKey, Former};
use super::super::slab::Token;
use crate::codes::{TunnelRefusal, Violation};
use crate::control::server::{Asked, Control, Place};
use crate::ids::{ClientId, SessionId, TunnelId};
use crate::ledger::{Good, Holder, Ledger};
use crate::report::Counted;
use crate::sources::Source;
use crate::takeovers::Takeovers;
use crate::time::Instant;
use crate::wire::ClientHello;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionTable {
    entries: BTreeMap<ControlKey, SessionEntry>,
    by_id: BTreeMap<SessionId, ControlKey>,
    by_client: BTreeMap<(Holder, ClientId), ControlKey>,
    /// Sessions by the source address of their last ctl_conn. No set is empty.
    by_source: BTreeMap<Source, BTreeSet<ControlKey>>,
    /// The sessions without a ctl_conn, by when they are released or over.
    graces: BTreeSet<(Instant, ControlKey)>,
    /// The sessions that take over, by until when.
    handovers: BTreeSet<(Instant, ControlKey)>,
    /// What each holder has: the sum over its sessions.
    ledger: Ledger,
    last_key: u64,
}

/// A session and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionEntry {
    pub(super) control: Control,
    /// The connection of a newcomer with the same identity, which waits until this session's client answers or not.
    pub(super) rival: Option<Token>,
    attachment: Attachment,
    /// The session that its client's last process had, if it took over from that, and that is not over.
    pub(super) former: Option<ControlKey>,
    /// It takes over.
    pub(super) handover: Option<Handover>,
    /// The last session that was over before it had taken everything over from this one.
    pub(super) lost_heir: Option<SessionId>,
    /// Another process has taken over from its client: no visitors come any more.
    pub(super) leaves: bool,
    pub(super) takeovers: Takeovers,
    /// Refusals of its tunnels that were reported, at most [`SessionEntry::REPORTED`]: each is reported once.
    refused: BTreeSet<(TunnelId, TunnelRefusal)>,
    /// The last session that had begun when something was heard on its ctl_conn.
    heard_beside: ControlKey,
    /// The source address of its last ctl_conn.
    source: Source,
    /// The whole of it.
    pub(super) peer: Counted<Option<SocketAddr>>,
    pub(super) began: Counted<Instant>,
}

/// Whether a session has a ctl_conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Attachment {
    /// It has this ctl_conn.
    Attached(Token),
    /// It lost its last one. Unless it is resumed before that, its ports are released at `released`.
    Detached { released: Instant, over: Instant },
    /// Its ports are released. Unless it is resumed before that, it is over at `over`.
    Asleep { over: Instant },
}

/// A session that takes the tunnels of its [former](SessionEntry::former) one over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Handover {
    /// What is not registered by then is closed.
    until: Instant,
    /// What it has taken over, by the numbers that its former session gave.
    pub(super) taken: Vec<TunnelId>,
}

impl Attachment {
    /// When the next thing becomes of a session without a ctl_conn.
    fn grace(self) -> Option<Instant> {
        match self {
            Self::Attached(_) => None,
            Self::Detached { released, .. } => Some(released),
            Self::Asleep { over } => Some(over),
        }
    }
}

impl SessionEntry {
    /// Refusals that are remembered. More are not reported: it is no tunnel that is wanted.
    const REPORTED: usize = 64;

    /// What became of a tunnel is to be reported: a refusal once for each reason, until the tunnel is opened.
    pub(super) fn is_news(&mut self, tunnel: TunnelId, outcome: Result<SocketAddr, TunnelRefusal>) -> bool {
        match outcome {
            Ok(_) => {
                self.refused.retain(|&(refused, _)| refused != tunnel);
                true
            }
            Err(code) => self.refused.len() < Self::REPORTED && self.refused.insert((tunnel, code)),
        }
    }

    pub(super) fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Its ctl_conn, if it has one.
    pub(super) fn ctl_conn(&self) -> Option<Token> {
        match self.attachment {
            Attachment::Attached(token) => Some(token),
            Attachment::Detached { .. } | Attachment::Asleep { .. } => None,
        }
    }
}

impl SessionTable {
    /// No sessions. `ledger` knows what all of them together may have.
    pub(super) fn new(ledger: Ledger) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_client: BTreeMap::new(),
            by_source: BTreeMap::new(),
            graces: BTreeSet::new(),
            handovers: BTreeSet::new(),
            ledger,
            last_key: 0,
        }
    }

    /// A key that no session had before.
    pub(super) fn new_key(&mut self) -> ControlKey {
        self.last_key += 1;
        ControlKey(self.last_key)
    }

    /// A session begins on this ctl_conn. Its client has no other.
    pub(super) fn insert(&mut self, control: Control, ctl_conn: Token, from: SocketAddr, now: Instant) {
        let (key, source) = (control.key, Source::of(from.ip()));
        self.by_id.insert(control.id, key);
        let before = self.by_client.insert((control.credential, control.client), key);
        assert!(before.is_none(), "a holder's client has one session");
        self.by_source.entry(source).or_default().insert(key);
        let attachment = Attachment::Attached(ctl_conn);
        for (good, count) in control.held() {
            self.ledger.add(control.credential, good, count);
        }
        let entry = SessionEntry {
            control,
            rival: None,
            attachment,
            former: None,
            handover: None,
            lost_heir: None,
            leaves: false,
            takeovers: Takeovers::default(),
            refused: BTreeSet::new(),
            heard_beside: ControlKey(self.last_key),
            source,
            peer: Counted(Some(from)),
            began: Counted(now),
        };
        self.entries.insert(key, entry);
    }

    /// A session is over.
    pub(super) fn remove(&mut self, key: ControlKey) -> Option<SessionEntry> {
        let entry = self.entries.remove(&key)?;
        self.by_id.remove(&entry.control.id);
        let client = (entry.control.credential, entry.control.client);
        if self.by_client.get(&client) == Some(&key) {
            self.by_client.remove(&client);
        }
        for (good, count) in entry.control.held() {
            self.ledger.remove(entry.control.credential, good, count);
        }
        self.leave_source(key, entry.source);
        self.leave_grace(key, entry.attachment);
        self.leave_handover(key, entry.handover.as_ref());
        if let Some(heir) = entry.control.heir() {
            self.forget_former(heir);
        }
        if let Some(former) = entry.former {
            self.act(former, |control, _| control.set_heir(None));
            if entry.handover.is_some() {
                self.by_client.insert(client, former);
                if let Some(former) = self.entries.get_mut(&former) {
                    former.lost_heir = Some(entry.control.id);
                }
            }
        }
        Some(entry)
    }

    /// The session of a client's new process begins on this ctl_conn. It takes over from `former`, which is the client's
    /// until now and hands its tunnels over until `until`.
    pub(super) fn take_over(
        &mut self,
        former: ControlKey,
        control: Control,
        ctl_conn: Token,
        from: SocketAddr,
        now: Instant,
        until: Instant,
    ) {
        let (key, client) = (control.key, (control.credential, control.client));
        let before = self.by_client.remove(&client);
        assert_eq!(before, Some(former), "it is the client's");
        self.act(former, |control, _| control.set_heir(Some(key)));
        self.insert(control, ctl_conn, from, now);
        if let Some(earlier) = self.former(former) {
            self.forget_former(former);
            self.act(earlier, |control, _| control.set_heir(None));
        }
        let takeovers = self.entries.get(&former).map(|entry| entry.takeovers.clone()).unwrap_or_default();
        let entry = self.entries.get_mut(&key).expect("it was inserted");
        (entry.former, entry.takeovers) = (Some(former), takeovers);
        entry.handover = Some(Handover { until, taken: Vec::new() });
        self.handovers.insert((until, key));
    }

    /// The session that this one's client had before it took over, if that is not over.
    pub(super) fn former(&self, key: ControlKey) -> Option<ControlKey> {
        self.entries.get(&key)?.former
    }

    /// A session registers a tunnel: if it takes over, and the one before it has that open, it gets it with its port.
    pub(super) fn take_tunnel(&mut self, key: ControlKey, asked: &Asked) -> Option<Former> {
        let entry = self.entries.get(&key)?;
        let former = entry.former.filter(|_| entry.handover.is_some())?;
        let (registration, public) = self.act(former, |control, _| control.hand_over(asked))??;
        if let Some(handover) = self.entries.get_mut(&key).and_then(|entry| entry.handover.as_mut()) {
            handover.taken.push(registration.tunnel);
        }
        Some(Former { control: former, registration, public })
    }

    /// Whether a session has still to take tunnels over.
    pub(super) fn takes_over(&self, key: ControlKey) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.handover.is_some())
    }

    /// The session that has to take its tunnels over first, and until when.
    pub(super) fn next_handover(&self) -> Option<(Instant, ControlKey)> {
        self.handovers.first().copied()
    }

    /// A session has until `until` to take its tunnels over.
    pub(super) fn prolong_handover(&mut self, key: ControlKey, until: Instant) {
        if let Some(handover) = self.entries.get_mut(&key).and_then(|entry| entry.handover.as_mut()) {
            let before = core::mem::replace(&mut handover.until, until);
            self.handovers.remove(&(before, key));
            self.handovers.insert((until, key));
        }
    }

    /// A session has taken over what it wants. Returns the one before it, which leaves from now on.
    pub(super) fn end_handover(&mut self, key: ControlKey) -> Option<ControlKey> {
        let entry = self.entries.get_mut(&key)?;
        let handover = entry.handover.take()?;
        let former = entry.former?;
        self.leave_handover(key, Some(&handover));
        self.entries.get_mut(&former)?.leaves = true;
        Some(former)
    }

    fn leave_handover(&mut self, key: ControlKey, handover: Option<&Handover>) {
        if let Some(handover) = handover {
            self.handovers.remove(&(handover.until, key));
        }
    }

    /// The session before `key` is over, or has nothing to do with it any more.
    fn forget_former(&mut self, key: ControlKey) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.former = None;
            let handover = entry.handover.take();
            self.leave_handover(key, handover.as_ref());
        }
    }

    /// A session has another ctl_conn now. Returns what it had before.
    pub(super) fn attach(&mut self, key: ControlKey, ctl_conn: Token, from: SocketAddr) -> Option<Attachment> {
        let entry = self.entries.get_mut(&key)?;
        entry.heard_beside = ControlKey(self.last_key);
        let source = Source::of(from.ip());
        entry.peer = Counted(Some(from));
        let before_source = core::mem::replace(&mut entry.source, source);
        let before = core::mem::replace(&mut entry.attachment, Attachment::Attached(ctl_conn));
        self.leave_source(key, before_source);
        self.by_source.entry(source).or_default().insert(key);
        self.leave_grace(key, before);
        Some(before)
    }

    /// Something was heard on a session's ctl_conn.
    pub(super) fn on_heard(&mut self, key: ControlKey) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.heard_beside = ControlKey(self.last_key);
        }
    }

    /// The session that has what is at `place` and makes room for a newcomer of the same holder: it has no ctl_conn, and
    /// nothing was heard of it since the newcomer's session began.
    pub(super) fn ghost(&self, newcomer: ControlKey, place: &Place, bind_addr: Option<IpAddr>) -> Option<ControlKey> {
        let holder = self.entries.get(&newcomer)?.control.credential;
        let gone = self.graces.iter().filter_map(|(_, key)| self.entries.get(key));
        let ghost = gone.filter(|entry| entry.control.credential == holder && entry.heard_beside < newcomer);
        ghost.map(|entry| &entry.control).find(|control| control.has(place, bind_addr)).map(|control| control.key)
    }

    /// Whether another session of the same holder has open what this one asks for.
    // PROTOCOL.md: P-EXAM-3.
    pub(super) fn is_held_beside(&self, key: ControlKey, asked: &Asked) -> bool {
        let Some(holder) = self.entries.get(&key).map(|entry| entry.control.credential) else { return false };
        let mut others = self.entries.iter().filter(|(other, _)| **other != key).map(|(_, entry)| &entry.control);
        others.any(|control| control.credential == holder && control.serves(asked))
    }

    /// A session of `holder` whose ports are released.
    pub(super) fn asleep(&self, holder: Holder) -> Option<ControlKey> {
        let gone = self.graces.iter().filter_map(|(_, key)| self.entries.get(key));
        let mut asleep = gone.filter(|entry| matches!(entry.attachment, Attachment::Asleep { .. }));
        asleep.find(|entry| entry.control.credential == holder).map(|entry| entry.control.key)
    }

    /// A session has lost its ctl_conn.
    pub(super) fn detach(&mut self, key: ControlKey, released: Instant, over: Instant) {
        self.wait(key, Attachment::Detached { released, over });
    }

    /// The ports of a session without a ctl_conn are released.
    pub(super) fn sleep(&mut self, key: ControlKey) {
        if let Some(Attachment::Detached { over, .. }) = self.entries.get(&key).map(SessionEntry::attachment) {
            self.wait(key, Attachment::Asleep { over });
        }
    }

    fn wait(&mut self, key: ControlKey, attachment: Attachment) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let before = core::mem::replace(&mut entry.attachment, attachment);
        self.leave_grace(key, before);
        self.graces.extend(attachment.grace().map(|at| (at, key)));
    }

    fn leave_source(&mut self, key: ControlKey, source: Source) {
        if let Some(keys) = self.by_source.get_mut(&source) {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_source.remove(&source);
            }
        }
    }

    fn leave_grace(&mut self, key: ControlKey, before: Attachment) {
        if let Some(at) = before.grace() {
            self.graces.remove(&(at, key));
        }
    }

    pub(super) fn get(&self, key: ControlKey) -> Option<&SessionEntry> {
        self.entries.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: ControlKey) -> Option<&mut SessionEntry> {
        self.entries.get_mut(&key)
    }

    /// Lets a session do what may change how many tunnels or conns it has, or what is unacknowledged. `act` is told what
    /// its holder has.
    pub(super) fn act<R>(&mut self, key: ControlKey, act: impl FnOnce(&mut Control, &Ledger) -> R) -> Option<R> {
        let control = &mut self.entries.get_mut(&key)?.control;
        let before = control.held();
        let result = act(control, &self.ledger);
        for ((good, before), (_, after)) in before.into_iter().zip(control.held()) {
            self.ledger.settle(control.credential, good, before, after);
        }
        Some(result)
    }

    /// The client of a session that is there has received everything up to `received`.
    pub(super) fn on_ack(&mut self, key: ControlKey, received: u64) -> Result<(), Violation> {
        self.act(key, |control, _| control.session.on_ack(received)).unwrap_or(Ok(()))
    }

    /// From now on all holders together may have `cap` of `good`.
    pub(super) fn set_cap(&mut self, good: Good, cap: u32) {
        self.ledger.set_cap(good, cap);
    }

    /// What each holder has.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn find_id(&self, id: &SessionId) -> Option<ControlKey> {
        self.by_id.get(id).copied()
    }

    /// The holder of the session that a hello wants to resume, if that is there and is this client's.
    pub(super) fn named_by(&self, hello: &ClientHello) -> Option<Holder> {
        let control = &self.entries.get(self.by_id.get(&hello.resume?.session)?)?.control;
        (control.client == hello.client).then_some(control.credential)
    }

    /// The session of this client. The same client id of another holder is another client.
    // PROTOCOL.md: P-REPL-5.
    pub(super) fn find_client(&self, holder: Holder, client: ClientId) -> Option<ControlKey> {
        self.by_client.get(&(holder, client)).copied()
    }

    /// The session without a ctl_conn that is released or over next, and when.
    pub(super) fn next_grace(&self) -> Option<(Instant, ControlKey)> {
        self.graces.first().copied()
    }

    /// Conns that the clients at `source` were asked for, and that have not come yet.
    pub(super) fn expected(&self, source: Source) -> usize {
        let keys = self.by_source.get(&source).into_iter().flatten();
        keys.filter_map(|key| self.entries.get(key)).map(|entry| entry.control.expected()).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ControlKey, &SessionEntry)> {
        self.entries.iter().map(|(&key, entry)| (key, entry))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = ControlKey> {
        self.entries.keys().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Checks that every way to find a session leads to those that there are, and to no other.
    ///
    /// # Panics
    /// If one does not.
    pub(super) fn assert_consistent(&self) {
        let (mut detached, mut current, mut handovers) = (0, 0, 0);
        self.ledger.assert_holds(
            self.entries
                .values()
                .flat_map(|entry| entry.control.held().map(|(good, count)| (entry.control.credential, good, count))),
        );
        for (&key, entry) in &self.entries {
            assert_eq!(entry.control.key, key);
            // Who has more sessions may have been told other limits meanwhile: the loosest of them counts.
            let holder = entry.control.credential;
            let same = self.entries.values().map(|other| &other.control).filter(|other| other.credential == holder);
            let loosest = same.max_by_key(|control| control.session.max_unacked());
            loosest.unwrap_or(&entry.control).assert_consistent(&self.ledger);
            assert!(key.0 <= self.last_key, "M2: a key is used once");
            assert_eq!(self.by_id.get(&entry.control.id), Some(&key), "M2: its name finds it");
            let client = (entry.control.credential, entry.control.client);
            let heir = entry.control.heir();
            if heir.is_none() && !entry.leaves {
                assert_eq!(self.by_client.get(&client), Some(&key), "M2: its client finds it");
                current += 1;
            }
            if let Some(heir) = heir {
                assert_eq!(self.former(heir), Some(key), "M10: the session that takes over knows it");
            }
            if let Some(former) = entry.former {
                let before = self.entries.get(&former).expect("M10: the session before it is there");
                assert_eq!(before.control.heir(), Some(key), "M10: it knows its heir");
                assert_eq!(before.leaves, entry.handover.is_none(), "M10: what has nothing to hand over leaves");
            }
            if let Some(handover) = &entry.handover {
                assert!(entry.former.is_some(), "M10: it takes over from a session");
                assert!(self.handovers.contains(&(handover.until, key)), "M10: that ends");
                handovers += 1;
            }
            assert!(
                self.by_source.get(&entry.source).is_some_and(|keys| keys.contains(&key)),
                "M2: its source finds it"
            );
            if let Some(at) = entry.attachment.grace() {
                assert!(self.graces.contains(&(at, key)), "M4: its grace ends");
                detached += 1;
            }
            if let Attachment::Asleep { .. } = entry.attachment {
                assert!(entry.control.has_conns(), "M9: what sleeps has something to keep");
                assert_eq!(entry.control.held()[1].1, 0, "M9: what sleeps has no tunnel");
            }
        }
        let count = self.entries.len();
        assert_eq!((self.by_id.len(), self.by_client.len()), (count, current), "M2: no name without its session");
        assert_eq!(self.handovers.len(), handovers, "M10: no handover without its session");
        assert_eq!(
            self.by_source.values().map(BTreeSet::len).sum::<usize>(),
            count,
            "M2: no source without its session"
        );
        assert!(self.by_source.values().all(|keys| !keys.is_empty()), "M2: no source without its session");
        assert_eq!(self.graces.len(), detached, "M4: no grace without its session");
    }
}

#[cfg(test)]
mod tests;
