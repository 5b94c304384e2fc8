//! The user says anew what this server is to do: what differs is carried out, and everything else goes on.
//!
//! A session stays as long as the token that its client has proved is taken. Of what a client may not have any more it
//! loses the newest, and is told.

use super::super::messages::{ControlKey, Limits, ToListener, ToLoop, ToServerLoop, share};
use super::super::thread::Cx;
use super::{MainSys, ServerMain, Slot, Stage, Stop};
use crate::budget::Budget;
use crate::canary::{PlantedBug, planted};
use crate::codes::{AbortCode, CloseCode, HandshakeRefusal, TunnelRefusal};
use crate::control::credentials::follow;
use crate::control::server::{Control, Withdrawn};
use crate::ledger::{Good, Holder};
use crate::notes::Note;
use crate::reload::server_settings;
use crate::settings::{Scope, ServerSettings, Timings};
use crate::wire::{FRUGAL, SECURED, ServerMsg};
use alloc::boxed::Box;
use alloc::vec::Vec;

impl<T, L> ServerMain<T, L> {
    /// Takes what differs over. A server that stops changes nothing any more.
    pub(super) fn reload<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, new: ServerSettings) {
        if self.stopping.is_some() {
            return cx.sys.note(Note::Reloaded { changes: None });
        }
        let (credentials, mut changes) = follow(&self.settings.credentials, &new.credentials);
        changes.settings = server_settings(&self.settings, &new);
        let ServerSettings { budget, tls_required, access_log, .. } = self.settings;
        let before = core::mem::replace(
            &mut self.settings,
            ServerSettings { credentials, budget, tls_required, access_log, ..new },
        );
        let max_sessions = fit(&mut self.settings);
        self.sessions.set_cap(Good::Session, max_sessions);
        if before.timings != self.settings.timings || before.routing() != self.settings.routing() {
            let timings = self.settings.timings.clone();
            self.keep_to(cx, &timings);
        }
        if before.trusted_proxies != self.settings.trusted_proxies {
            cx.sys.tell(ToListener::Trust(self.settings.trusted_proxies.clone()));
        }
        changes.sessions_ended = self.end_revoked(cx);
        let keys: Vec<_> = self.sessions.keys().collect();
        for &key in &keys {
            self.rescope(cx, key, before.idle_conns, &mut changes.tunnels_closed);
        }
        changes.tunnels_closed += self.close_surplus(cx);
        self.review_paths(cx);
        cx.sys.note(Note::Reloaded { changes: Some(Box::new(changes)) });
    }

    fn keep_to<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, timings: &Timings) {
        cx.sys.keep_to(timings);
        cx.sys.tell(ToListener::KeepTo(Box::new(timings.clone()), Box::new(self.settings.routing())));
        for loop_index in 0..self.loop_count {
            let message = ToServerLoop::KeepTo(Box::new(timings.clone()));
            cx.sys.tell(ToLoop { loop_index, message });
        }
    }

    /// Ends the sessions, and the handshakes, of those whose token is not taken any more.
    // PROTOCOL.md: P-AUTH-16.
    fn end_revoked<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) -> usize {
        let settings = &self.settings;
        let revoked = |slot: &Slot<T, L>| match slot {
            Slot::Ctl(conn) => match &conn.stage {
                Stage::Parked { access, .. } => !settings.takes(access.credential, access.token.as_ref()),
                Stage::Preface(_) | Stage::Hello(_) | Stage::Proof(_) | Stage::Up(..) => false,
            },
            Slot::Door(_) | Slot::Proxy(_) | Slot::Fronted(_) | Slot::Untold(_) => false,
        };
        let parked: Vec<_> = self.slots.iter().filter_map(|(token, slot)| revoked(slot).then_some(token)).collect();
        for token in parked {
            self.stop_ctl(cx, token, Stop::Refused(HandshakeRefusal::WrongToken));
        }
        let settings = &self.settings;
        let revoked = |control: &Control| !settings.takes(control.credential, control.token.as_ref());
        let sessions = self.sessions.iter();
        let ended: Vec<_> = sessions.filter_map(|(key, entry)| revoked(&entry.control).then_some(key)).collect();
        for &key in &ended {
            self.end_session(cx, key, CloseCode::Revoked, AbortCode::SessionOver);
        }
        ended.len()
    }

    /// A session may do what its holder may do now.
    fn rescope<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey, idle_conns: u32, closed: &mut usize) {
        let Some(entry) = self.sessions.get(key) else { return };
        let holder = entry.control.credential;
        let scope = self.settings.scope_of(holder).clone();
        let before = entry.control.scope();
        let counts = |scope: &Scope| (scope.max_waiting, scope.max_connections, scope.max_bandwidth);
        let limited = counts(before) != counts(&scope) || idle_conns != self.settings.idle_conns;
        if *before == scope && !limited {
            return;
        }
        let rescoped = self.sessions.act(key, |control, _| control.rescope(scope.clone()));
        let Some((withdrawn, admitted)) = rescoped else { return };
        for (withdrawn, code) in withdrawn {
            *closed += usize::from(withdrawn.open.is_some());
            self.withdraw(cx, key, withdrawn, code);
        }
        for admitted in admitted {
            self.admit_anew(cx, key, admitted);
        }
        if limited {
            self.bear(key);
            self.tell_limits(cx, key);
        }
    }

    /// Tells the event loops what a session may use now.
    pub(super) fn tell_limits<S: MainSys<T, L>>(&self, cx: &mut Cx<'_, S>, key: ControlKey) {
        let Some(entry) = self.sessions.get(key) else { return };
        let control = &entry.control;
        for loop_index in 0..self.loop_count {
            let limits = self.limits(control.credential, control.scope(), control.features, loop_index);
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Limits { control: key, limits } });
        }
    }

    /// A session's ctl_conn holds as many messages as the session may leave unacknowledged now.
    fn bear(&mut self, key: ControlKey) {
        let Some(entry) = self.sessions.get(key) else { return };
        let max_unacked = entry.control.session.max_unacked();
        if let Some(token) = entry.ctl_conn()
            && let Some(Slot::Ctl(conn)) = self.slots.get_mut(token)
        {
            conn.link.on_session(max_unacked);
        }
    }

    /// The share of `loop_index` in what a session of `holder` may use.
    // PROTOCOL.md: P-LIVE-3.
    pub(super) fn limits(&self, holder: Holder, scope: &Scope, features: u64, loop_index: usize) -> Limits {
        let (frugal, secured) = (features & FRUGAL != 0, features & SECURED != 0);
        let idle_conns = if frugal { self.settings.idle_conns.min(1) } else { self.settings.idle_conns };
        let narrow = |count| u32::try_from(count).unwrap_or(u32::MAX);
        let (loop_index, loop_count) = (narrow(loop_index), narrow(self.loop_count));
        Limits {
            holder,
            frugal,
            secured,
            keep: share(idle_conns, loop_index, loop_count),
            max_waiting: share(scope.max_waiting, loop_index, loop_count),
            max_connections: share(scope.max_connections, loop_index, loop_count),
            max_bandwidth: scope.max_bandwidth,
            loop_count,
        }
    }

    /// Closes the tunnels that a holder has beyond what it may have: those of the newest sessions first, and of these
    /// what was registered last.
    // PROTOCOL.md: P-TUN-13.
    fn close_surplus<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) -> usize {
        let mut closed = 0;
        let counted = self.sessions.iter().filter(|(_, entry)| entry.control.heir().is_none());
        let keys: Vec<_> = counted.map(|(key, _)| key).collect();
        for &key in keys.iter().rev() {
            while let Some(control) = self.sessions.get(key).map(|entry| &entry.control)
                && self.sessions.ledger().count(control.credential, Good::Tunnel) > control.scope().max_tunnels
                && let Some(Some(withdrawn)) = self.sessions.act(key, |control, _| control.withdraw_newest())
            {
                closed += usize::from(withdrawn.open.is_some());
                self.withdraw(cx, key, withdrawn, TunnelRefusal::TooManyTunnels);
            }
        }
        closed
    }

    /// Closes a tunnel that its client may not have any more, and tells it.
    pub(super) fn withdraw<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        key: ControlKey,
        withdrawn: Withdrawn,
        code: TunnelRefusal,
    ) {
        let Withdrawn { tunnel, asked, open } = withdrawn;
        if let Some(registration) = open
            && !planted(PlantedBug::ShrunkScopeKept)
        {
            cx.sys.tell(ToListener::Close { control: key, registration });
        }
        let told = match open {
            Some(_) => ServerMsg::TunnelClosed { tunnel, code },
            // It is the answer to its registration.
            None => ServerMsg::TunnelRefused { tunnel, code },
        };
        self.note_tunnel(cx, key, asked, &told);
        if code != TunnelRefusal::Released || !planted(PlantedBug::ReleaseUntold) {
            self.send(cx, key, told);
        }
    }
}

/// Fits `settings` into what the process's descriptors allow. Returns how many sessions there may be.
pub(super) fn fit(settings: &mut ServerSettings) -> u32 {
    let Budget { handshakes, sessions, .. } = settings.budget;
    settings.max_handshakes = settings.max_handshakes.min(handshakes);
    // Half at most: one address does not take the room of all others.
    settings.max_handshakes_per_source = settings.max_handshakes_per_source.min((handshakes / 2).max(1));
    settings.max_sessions.min(sessions)
}
