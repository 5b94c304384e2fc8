//! The sessions that there are, and every way to find one: by key, by its name on the wire, by its client, by the address
//! that it comes from, by the end of its grace; and what the holder of each token has in them. One place changes them
//! all.

use super::super::messages::ControlKey;
use super::super::slab::Token;
use crate::codes::{TunnelRefusal, Violation};
use crate::control::server::Control;
use crate::ids::{ClientId, SessionId, TunnelId};
use crate::ledger::{Holder, Ledger};
use crate::sources::Source;
use crate::time::Instant;
use crate::wire::ClientHello;
use alloc::collections::{BTreeMap, BTreeSet};
use core::net::SocketAddr;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionTable {
    entries: BTreeMap<ControlKey, SessionEntry>,
    by_id: BTreeMap<SessionId, ControlKey>,
    by_client: BTreeMap<(Holder, ClientId), ControlKey>,
    /// Sessions by the source address of their last ctl_conn. No set is empty.
    by_source: BTreeMap<Source, BTreeSet<ControlKey>>,
    /// The detached sessions, by the end of their grace.
    graces: BTreeSet<(Instant, ControlKey)>,
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
    /// Refusals of its tunnels that were reported, at most [`SessionEntry::REPORTED`]: each is reported once.
    refused: BTreeSet<(TunnelId, TunnelRefusal)>,
    /// The last session that had begun when something was heard on its ctl_conn.
    heard_beside: ControlKey,
    /// The source address of its last ctl_conn.
    source: Source,
}

/// Whether a session has a ctl_conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Attachment {
    /// It has this ctl_conn.
    Attached(Token),
    /// It lost its last one, and is over unless it is resumed before its grace ends.
    Detached { grace_ends: Instant },
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
    pub(super) fn insert(&mut self, control: Control, ctl_conn: Token, source: Source) {
        let key = control.key;
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
            refused: BTreeSet::new(),
            heard_beside: ControlKey(self.last_key),
            source,
        };
        self.entries.insert(key, entry);
    }

    /// A session is over.
    pub(super) fn remove(&mut self, key: ControlKey) -> Option<SessionEntry> {
        let entry = self.entries.remove(&key)?;
        self.by_id.remove(&entry.control.id);
        self.by_client.remove(&(entry.control.credential, entry.control.client));
        for (good, count) in entry.control.held() {
            self.ledger.remove(entry.control.credential, good, count);
        }
        self.leave_source(key, entry.source);
        self.leave_grace(key, entry.attachment);
        Some(entry)
    }

    /// A session has another ctl_conn now. Returns what it had before.
    pub(super) fn attach(&mut self, key: ControlKey, ctl_conn: Token, source: Source) -> Option<Attachment> {
        let entry = self.entries.get_mut(&key)?;
        entry.heard_beside = ControlKey(self.last_key);
        let from = core::mem::replace(&mut entry.source, source);
        let before = core::mem::replace(&mut entry.attachment, Attachment::Attached(ctl_conn));
        self.leave_source(key, from);
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

    /// The session that has `port` and makes room for a newcomer of the same holder: it has no ctl_conn, and nothing was
    /// heard of it since the newcomer's session began.
    pub(super) fn ghost(&self, newcomer: ControlKey, port: u16) -> Option<ControlKey> {
        let holder = self.entries.get(&newcomer)?.control.credential;
        let gone = self.graces.iter().filter_map(|(_, key)| self.entries.get(key));
        let ghost = gone.filter(|entry| entry.control.credential == holder && entry.heard_beside < newcomer);
        ghost.map(|entry| &entry.control).find(|control| control.has_port(port)).map(|control| control.key)
    }

    /// A session has lost its ctl_conn.
    pub(super) fn detach(&mut self, key: ControlKey, grace_ends: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let before = core::mem::replace(&mut entry.attachment, Attachment::Detached { grace_ends });
        self.leave_grace(key, before);
        self.graces.insert((grace_ends, key));
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
        match before {
            Attachment::Detached { grace_ends } => {
                self.graces.remove(&(grace_ends, key));
            }
            Attachment::Attached(_) => {}
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

    /// The session whose grace ends first, and when.
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
        let mut detached = 0;
        self.ledger.assert_holds(
            self.entries
                .values()
                .flat_map(|entry| entry.control.held().map(|(good, count)| (entry.control.credential, good, count))),
        );
        for (&key, entry) in &self.entries {
            assert_eq!(entry.control.key, key);
            entry.control.assert_consistent(&self.ledger);
            assert!(key.0 <= self.last_key, "M2: a key is used once");
            assert_eq!(self.by_id.get(&entry.control.id), Some(&key), "M2: its name finds it");
            let client = (entry.control.credential, entry.control.client);
            assert_eq!(self.by_client.get(&client), Some(&key), "M2: its client finds it");
            assert!(
                self.by_source.get(&entry.source).is_some_and(|keys| keys.contains(&key)),
                "M2: its source finds it"
            );
            match entry.attachment {
                Attachment::Attached(_) => {}
                Attachment::Detached { grace_ends } => {
                    assert!(self.graces.contains(&(grace_ends, key)), "M4: its grace ends");
                    detached += 1;
                }
            }
        }
        let count = self.entries.len();
        assert_eq!((self.by_id.len(), self.by_client.len()), (count, count), "M2: no name without its session");
        assert_eq!(
            self.by_source.values().map(BTreeSet::len).sum::<usize>(),
            count,
            "M2: no source without its session"
        );
        assert!(self.by_source.values().all(|keys| !keys.is_empty()), "M2: no source without its session");
        assert_eq!(self.graces.len(), detached, "M4: no grace without its session");
    }
}
