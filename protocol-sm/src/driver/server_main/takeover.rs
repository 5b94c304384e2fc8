//! A client's new process takes over from the one that is there: its session gets the tunnels, one after the other and
//! without a public port being closed, and the old session *leaves*: it lets its transfers finish (PROTOCOL.md,
//! "Takeover").

use super::super::messages::{ControlKey, Former, ToListener};
use super::super::slab::Token;
use super::super::thread::Cx;
use super::session_table::{Handover, SessionEntry};
use super::{MainSys, ServerMain, Slot, Stage, Stop};
use crate::canary::{PlantedBug, planted};
use crate::codes::{AbortCode, CloseCode, HandshakeRefusal, LeaveCode, TunnelRefusal};
use crate::control::challenge::{Access, Challenge};
use crate::ids::TunnelId;
use crate::ledger::Good;
use crate::notes::Note;
use crate::wire::{ClientHello, ClientMsg, LEAVE, ServerMsg, TAKEOVER};
use core::time::Duration;

/// How long a session may take to register the tunnels of the one that it takes over from. Until then that goes on.
const HANDOVER: Duration = Duration::from_secs(10);

impl<T, L> ServerMain<T, L> {
    /// A session has shown that its client lives: a newcomer with its identity takes over, or is refused.
    // PROTOCOL.md: P-REPL-2, P-TAKE-1.
    pub(super) fn answer_rival<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey) {
        let Some(rival) = self.sessions.get_mut(key).and_then(|entry| entry.rival.take()) else { return };
        let Some(Slot::Ctl(conn)) = self.slots.get(rival) else { return };
        let Stage::Parked { challenge, access, .. } = &conn.stage else {
            unreachable!("M5: it waits for this session")
        };
        let (challenge, access) = (challenge.clone(), access.clone());
        let taken_over = if self.may_take_over(cx, key, &challenge.hello, access.features) {
            self.take_over(cx, rival, key, &challenge, &access)
        } else {
            Err(HandshakeRefusal::IdentityInUse.into())
        };
        if let Err(stop) = taken_over {
            self.stop_ctl(cx, rival, stop);
        }
    }

    // PROTOCOL.md: P-TAKE-4, P-TAKE-6.
    pub(super) fn may_take_over<S>(
        &mut self,
        cx: &Cx<'_, S>,
        key: ControlKey,
        hello: &ClientHello,
        offered: u64,
    ) -> bool {
        let idle = !self.sessions.takes_over(key);
        let Some(entry) = self.sessions.get_mut(key) else { return false };
        let understood = entry.control.features & LEAVE != 0;
        // It was taking over already: with a tunnel that was open it offers that no more.
        let comes_back = hello.resume.is_some_and(|resume| entry.lost_heir == Some(resume.session));
        (offered & TAKEOVER != 0 || comes_back) && understood && entry.takeovers.ask(cx.now) && idle
    }

    /// A session begins that takes over from `former`.
    // PROTOCOL.md: P-TAKE-1, P-TAKE-5.
    fn take_over<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        former: ControlKey,
        challenge: &Challenge,
        access: &Access,
    ) -> Result<(), Stop> {
        if self.stopping.is_some() {
            return Err(HandshakeRefusal::Stopping.into());
        }
        // One that leaves takes no place, those before it do.
        let max = access.scope(&self.settings).max_sessions;
        if self.sessions.ledger().room(access.credential, Good::Session, max) == 0
            && let Some(earlier) = self.sessions.former(former)
        {
            self.end_session(cx, earlier, CloseCode::Replaced, AbortCode::SessionOver);
        }
        self.open_session(cx, token, challenge, access, Some((former, cx.now + HANDOVER)));
        self.end_handover_if_through(cx, former);
        Ok(())
    }

    /// A session takes no longer over than it must: as soon as nothing is left to be handed over, the one before it
    /// leaves.
    pub(super) fn end_handover_if_through<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, former: ControlKey) {
        let Some(former) = self.sessions.get(former) else { return };
        if let Some(heir) = former.control.heir()
            && former.control.tunnels().next().is_none()
        {
            self.end_handover(cx, heir);
        }
    }

    /// The open tunnel that a session takes over with this registration, if it takes over.
    pub(super) fn take_tunnel(&mut self, key: ControlKey, tunnel: TunnelId) -> Option<Former> {
        if !self.sessions.takes_over(key) {
            return None;
        }
        let control = &self.sessions.get(key)?.control;
        let asked = control.asked_for(tunnel);
        self.sessions.take_tunnel(key, &asked)
    }

    /// The time to take over is up. A newcomer that has no ctl_conn just then may be gone, and gets more of it.
    pub(super) fn on_handover<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey) {
        if self.sessions.get(key).and_then(SessionEntry::ctl_conn).is_some() {
            self.end_handover(cx, key);
        } else {
            self.sessions.prolong_handover(key, cx.now + HANDOVER);
        }
    }

    /// The session before this one leaves: it has no tunnels any more, and ends when its transfers have.
    // PROTOCOL.md: P-TAKE-3.
    pub(super) fn end_handover<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey) {
        let Some(former) = self.sessions.end_handover(key) else { return };
        let _closed = self.sessions.act(former, |control, ledger| control.on_msg(ClientMsg::Drain, 0, ledger));
        cx.sys.tell(ToListener::Retire { control: former });
        if let Some(entry) = self.sessions.get(former) {
            let (client, credential) = (entry.control.client, self.settings.name_of(entry.control.credential));
            cx.sys.note(Note::SessionTakenOver { client, credential });
        }
        if !planted(PlantedBug::TakenOverUntold) {
            self.send(cx, former, ServerMsg::Leave { code: LeaveCode::TakenOver });
        }
    }

    /// A session is over, or has lost its ports, before it has taken everything over: the one before it goes on, and
    /// registers anew what was taken.
    // PROTOCOL.md: P-TAKE-4.
    pub(super) fn give_back<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, former: ControlKey, handover: Handover) {
        for tunnel in handover.taken {
            self.send(cx, former, ServerMsg::TunnelClosed { tunnel, code: TunnelRefusal::PortInUse });
        }
    }
}
