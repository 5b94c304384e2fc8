//! Sessions: what clients and event loops say to each other through this thread, and how a session ends.

use super::super::inherit::Owner;
use super::super::messages::{ControlKey, FromServerLoop, ToListener, ToLoop, ToServerLoop};
use super::super::sys::random_u32;
use super::super::thread::Cx;
use super::report::Part;
use super::session_table::{Attachment, SessionEntry};
use super::{MainSys, ServerMain, Slot, Stage, Stop};
use crate::canary::{PlantedBug, planted};
use crate::codes::{AbortCode, CloseCode, StateName, TunnelRefusal, Violation};
use crate::control::server::{Admitted, Asked, Bind, Bound, Reaction};
use crate::ids::{Registration, TunnelId};
use crate::notes::{Expiry, Note};
use crate::session::Delivery;
use crate::sys_error::SysError;
use crate::visit::Label;
use crate::wire::{ClientMsg, Ctl, ServerHandshake, ServerMsg, ToClient, ToServer};
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::time::Duration;

impl<T, L> ServerMain<T, L> {
    pub(super) fn on_session_frame<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        key: ControlKey,
        message: ToServer,
    ) -> Result<(), Stop> {
        self.sessions.on_heard(key);
        let Some(entry) = self.sessions.get_mut(key) else { return Ok(()) };
        let session = &mut entry.control.session;
        match message {
            Ctl::Numbered { seq, msg } => {
                let Delivery::Deliver { ack } = session.on_numbered(seq)? else { return Ok(()) };
                if ack {
                    let received = session.mark_acked();
                    self.push(key, &Ctl::Ack { received });
                }
                self.on_client_msg(cx, key, msg)
            }
            Ctl::Ping { received } => {
                let answer = session.mark_acked();
                self.sessions.on_ack(key, received)?;
                self.push(key, &Ctl::Pong { received: answer });
                Ok(())
            }
            Ctl::Pong { received } | Ctl::Ack { received } => Ok(self.sessions.on_ack(key, received)?),
            Ctl::Close { code } => Err(Stop::Session(code)),
            message @ Ctl::Handshake(_) => {
                Err(Violation::Unexpected { message: message.name(), state: StateName::SessionUp }.into())
            }
        }
    }

    pub(super) fn on_client_msg<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        key: ControlKey,
        msg: ClientMsg,
    ) -> Result<(), Stop> {
        let random = random_u32(cx.sys);
        let reaction = self.sessions.act(key, |control, ledger| control.on_msg(msg, random, ledger));
        match reaction.unwrap_or(Ok(Reaction::Nothing))? {
            Reaction::Nothing => {}
            Reaction::Refuse(tunnel, asked, code) => {
                let code = self.examined(key, &asked, code);
                let reply = ServerMsg::TunnelRefused { tunnel, code };
                self.note_tunnel(cx, key, asked, &reply);
                self.send(cx, key, reply);
            }
            Reaction::Bind(bind) => self.bind(cx, key, bind),
            Reaction::Admit(admitted) => self.admit_anew(cx, key, admitted),
            Reaction::Unbind(open) => {
                for registration in open {
                    // The listening thread tells the event loops.
                    cx.sys.tell(ToListener::Close { control: key, registration });
                }
            }
            Reaction::Pass(loop_index, msg) => {
                cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Transfer { control: key, msg } });
            }
            Reaction::Failed(shares) => {
                for (loop_index, count) in shares {
                    cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::ConnFailed { control: key, count } });
                }
            }
        }
        Ok(())
    }

    /// Reports what a client is told of one of its tunnels, for which it has `asked`.
    pub(super) fn note_tunnel<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        key: ControlKey,
        asked: Asked,
        told: &ServerMsg,
    ) {
        let (tunnel, outcome) = match *told {
            ServerMsg::TunnelReady { tunnel, public } => (tunnel, Ok(public)),
            ServerMsg::TunnelRefused { tunnel, code } | ServerMsg::TunnelClosed { tunnel, code } => (tunnel, Err(code)),
            ServerMsg::NeedConn { .. }
            | ServerMsg::Fin { .. }
            | ServerMsg::Abort { .. }
            | ServerMsg::AskStart { .. }
            | ServerMsg::Drain
            | ServerMsg::Leave { .. }
            | ServerMsg::DatagramPath { .. } => return,
        };
        if let Some(entry) = self.sessions.get_mut(key).filter(|entry| !entry.control.examines())
            && entry.is_news(tunnel, outcome)
        {
            let (client, credential) = (entry.control.client, self.settings.name_of(entry.control.credential));
            cx.sys.note(Note::Tunnel { client, credential, tunnel, asked, outcome });
        }
    }

    fn bind<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, bind: Bind) {
        // No more visitors: the answer is the end of the session, soon.
        if self.stopping.is_some() {
            return;
        }
        let Some(entry) = self.sessions.get(control) else { return };
        let holder = entry.control.credential;
        let owner = Owner { client: entry.control.client, credential: self.settings.name_of(holder) };
        let Bind { registration, place, bind_addr, mut gate, examined } = bind;
        gate.label = self.label(control, registration.tunnel);
        // PROTOCOL.md: P-EXAM-2.
        if !examined && let Some(former) = self.take_tunnel(control, registration.tunnel) {
            cx.sys.tell(ToListener::HandOver { former, control, registration, gate });
            return self.end_handover_if_through(cx, former.control);
        }
        // PROTOCOL.md: P-REPL-6. The listener closes before it opens.
        if !examined && let Some(ghost) = self.sessions.ghost(control, &place, bind_addr) {
            self.release(cx, ghost, CloseCode::Replaced);
        }
        let bind_addr = bind_addr.filter(|_| !planted(PlantedBug::AnyAddress));
        let at = bind_addr.map_or(self.bind_at, |address| SocketAddr::new(address, 0));
        cx.sys.tell(ToListener::Bind { control, holder, owner, registration, at, place, gate, examined });
    }

    /// Who may visit a tunnel is changed, or its name.
    pub(super) fn admit_anew<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, admitted: Admitted) {
        let Admitted { registration, mut gate } = admitted;
        gate.label = self.label(control, registration.tunnel);
        cx.sys.tell(ToListener::Admit { control, registration, gate });
    }

    /// What the access log calls a tunnel; none where that is off.
    fn label(&self, control: ControlKey, tunnel: TunnelId) -> Option<Arc<Label>> {
        let control = &self.sessions.get(control).filter(|_| self.settings.access_log)?.control;
        let credential = self.settings.name_of(control.credential);
        Some(Arc::new(Label { tunnel: control.tunnel_name(tunnel).into(), client: control.client, credential }))
    }

    /// The listener has opened a public port, or could not.
    // PROTOCOL.md: P-TUN-10.
    pub(super) fn on_bound<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        key: ControlKey,
        registration: Registration,
        bound: Result<SocketAddr, SysError>,
    ) {
        let answer = self.sessions.act(key, |control, _| {
            let asked = control.asked_for(registration.tunnel);
            (asked, control.on_bound(registration, bound))
        });
        // A session that is over has had all its ports closed.
        let Some((asked, Bound { reply, close, next })) = answer else { return };
        if close {
            cx.sys.tell(ToListener::Close { control: key, registration });
        }
        if let Some(bind) = next {
            self.bind(cx, key, bind);
        }
        if let Some(mut reply) = reply {
            if let ServerMsg::TunnelRefused { code, .. } = &mut reply {
                *code = self.examined(key, &asked, *code);
            }
            self.note_tunnel(cx, key, asked, &reply);
            self.send(cx, key, reply);
            self.offer_path(cx, key);
        }
    }

    /// The code for a tunnel that is refused. Who only asks is told if that is because of another session of the same
    /// holder, which has it.
    // PROTOCOL.md: P-EXAM-3.
    fn examined(&self, key: ControlKey, asked: &Asked, code: TunnelRefusal) -> TunnelRefusal {
        let taken = matches!(
            code,
            TunnelRefusal::PortInUse
                | TunnelRefusal::HostInUse
                | TunnelRefusal::NoFreePort
                | TunnelRefusal::TooManyTunnels
        );
        let examines = self.sessions.get(key).is_some_and(|entry| entry.control.examines());
        if taken && examines && self.sessions.is_held_beside(key, asked) { TunnelRefusal::HeldByHolder } else { code }
    }

    // PROTOCOL.md: P-VIOL-5.
    pub(super) fn on_loop<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, message: FromServerLoop<T>) {
        match message {
            FromServerLoop::Message { control, msg } => self.send(cx, control, msg),
            FromServerLoop::Left { loop_index, guest } => cx.sys.tell(ToListener::Left { loop_index, guest }),
            FromServerLoop::Datagram { control, datagram } => self.send_by_path(cx, control, datagram),
            FromServerLoop::PortClosed => cx.sys.tell(ToListener::PortClosed),
            FromServerLoop::PassOn { loop_index: from, arrival } => {
                let loop_index = (from + 1) % self.loop_count;
                cx.sys.tell(ToListener::Moved { from, to: loop_index });
                cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Visitor(*arrival) });
            }
            FromServerLoop::WantBandwidth { control, tunnel, direction, rate, loop_index } => {
                self.buckets.ask(cx.now, (control, tunnel), direction, rate, loop_index);
                self.deal_bandwidth(cx);
            }
            FromServerLoop::AskLine { control, loop_index, conn } => {
                let ctl_conn = self.sessions.get(control).and_then(SessionEntry::ctl_conn);
                let slot = ctl_conn.and_then(|token| self.slots.get(token));
                if let Some(Slot::Ctl(ctl_conn)) = slot
                    && let Stage::Up(_, liveness) = &ctl_conn.stage
                {
                    let message = ToServerLoop::Line { control, conn, line: liveness.line() };
                    cx.sys.tell(ToLoop { loop_index, message });
                }
            }
            FromServerLoop::Ask { control, loop_index, count } => {
                // Of one that leaves the loop wants nothing, and has not heard that yet. PROTOCOL.md: P-LEAVE-3.
                let may = !self.was_upgraded();
                if let Some(entry) = self.sessions.get_mut(control).filter(|entry| may && !entry.leaves) {
                    let msg = entry.control.on_ask(loop_index, count);
                    self.send(cx, control, msg);
                }
            }
            FromServerLoop::ConnGone { control, conn } => {
                let _gone = self.sessions.act(control, |control, _| control.on_conn_gone(conn));
                self.end_if_deserted(cx, control);
            }
            FromServerLoop::Violation { control, .. } => {
                self.end_session(cx, control, CloseCode::Violation, AbortCode::SessionOver);
            }
            FromServerLoop::Settled { loop_index } => self.on_loop_settled(cx, loop_index),
            FromServerLoop::Report(part) => self.on_part(cx, Part::Loop(part)),
            FromServerLoop::Drained { loop_index } => {
                if let Some(stopping) = &mut self.stopping {
                    stopping.drained.insert(loop_index);
                    if stopping.drained.len() == self.loop_count && !stopping.over {
                        self.finish_stop(cx);
                    }
                }
            }
        }
    }

    /// A session without a ctl_conn has waited for as long as its ports, or its transfers, are kept.
    // PROTOCOL.md: P-RES-6.
    pub(super) fn on_grace<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey) {
        match self.sessions.get(key).map(SessionEntry::attachment) {
            Some(Attachment::Detached { over, .. }) if over > cx.now => self.release(cx, key, CloseCode::Bye),
            Some(Attachment::Attached(_) | Attachment::Detached { .. } | Attachment::Asleep { .. }) | None => {
                self.end_session(cx, key, CloseCode::Bye, AbortCode::SessionOver);
            }
        }
    }

    /// Closes the public ports of a session without a ctl_conn. Its transfers go on for `transfer_grace`; if it has no
    /// conn, it ends, for the reason `close`.
    // PROTOCOL.md: P-RES-8, P-REPL-6.
    fn release<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey, close: CloseCode) {
        let Some(entry) = self.sessions.get(key) else { return };
        if !entry.control.has_conns() || entry.handover.is_some() {
            return self.end_session(cx, key, close, AbortCode::SessionOver);
        }
        let (client, credential) = (entry.control.client, self.settings.name_of(entry.control.credential));
        cx.sys.note(Note::SessionAsleep { client, credential, waited: self.waited(close) });
        self.sessions.sleep(key);
        for withdrawn in self.sessions.act(key, |control, _| control.release()).unwrap_or_default() {
            self.withdraw(cx, key, withdrawn, TunnelRefusal::Released);
        }
    }

    /// The time within which nobody resumed a session, if that is why it goes.
    fn waited(&self, close: CloseCode) -> Option<Duration> {
        (close == CloseCode::Bye).then_some(self.settings.timings.session_grace)
    }

    /// Ends a session that has no ctl_conn, no conn left, and no right to its ports: they are released, or it was still
    /// taking them over. There is nothing to keep.
    // PROTOCOL.md: P-TAKE-4.
    pub(super) fn end_if_deserted<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey) {
        let Some(entry) = self.sessions.get(key).filter(|entry| !entry.control.has_conns()) else { return };
        let deserted = match entry.attachment() {
            Attachment::Attached(_) => false,
            Attachment::Detached { .. } => entry.handover.is_some(),
            Attachment::Asleep { .. } => true,
        };
        if deserted {
            self.end_session(cx, key, CloseCode::Bye, AbortCode::SessionOver);
        }
    }

    /// Numbers a message and sends it, now or when the session is resumed.
    pub(super) fn send<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey, msg: ServerMsg) {
        let Some(sent) = self.sessions.act(key, |control, ledger| control.send(msg.clone(), ledger)) else { return };
        match sent {
            Ok(seq) => self.push(key, &Ctl::Numbered { seq, msg }),
            Err(violation) => {
                cx.sys.note(Note::Violation { conn: None, violation });
                self.end_session(cx, key, CloseCode::Violation, AbortCode::SessionOver);
            }
        }
    }

    /// Queues a message on a session's ctl_conn, if it has one; it goes out with the rest of the batch.
    pub(super) fn push(&mut self, key: ControlKey, message: &ToClient) {
        let Some(token) = self.sessions.get(key).and_then(SessionEntry::ctl_conn) else { return };
        if let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) {
            conn.link.push(message);
            self.enqueue(token);
        }
    }

    /// Ends a session: ports, conns and visitors go with it, and a newcomer that waited for that comes in.
    // PROTOCOL.md: P-END-1, P-END-3, P-TUN-7.
    pub(super) fn end_session<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        key: ControlKey,
        close: CloseCode,
        code: AbortCode,
    ) {
        let Some(entry) = self.sessions.remove(key) else { return };
        self.forget_path(cx, key);
        // No client says goodbye on a ctl_conn that it does not have.
        let expiry = match entry.attachment() {
            Attachment::Detached { .. } if close == CloseCode::Bye => {
                Some(Expiry::Grace(self.settings.timings.session_grace))
            }
            Attachment::Asleep { over } if close == CloseCode::Bye && over <= cx.now => {
                Some(Expiry::Transfers(self.settings.timings.kept()))
            }
            Attachment::Asleep { .. } if close == CloseCode::Bye && entry.control.has_conns() => Some(Expiry::Full),
            Attachment::Asleep { .. } if close == CloseCode::Bye => Some(Expiry::Deserted),
            Attachment::Attached(_) | Attachment::Detached { .. } | Attachment::Asleep { .. } => None,
        };
        let credential = self.settings.name_of(entry.control.credential);
        cx.sys.note(Note::SessionOver { client: entry.control.client, credential, code: close, expiry });
        cx.sys.tell(ToListener::CloseAll { control: key });
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Close { control: key, code } });
        }
        match entry.attachment() {
            Attachment::Detached { .. } | Attachment::Asleep { .. } => {}
            Attachment::Attached(token) => {
                if let Some(Slot::Ctl(mut conn)) = self.slots.remove(token) {
                    self.timers.set(token, &mut conn.deadline, None);
                    conn.link.push(&Ctl::<ServerHandshake, ServerMsg>::Close { code: close });
                    if planted(PlantedBug::FarewellEarly) {
                        conn.link.close(cx.sys);
                    } else {
                        self.farewells.push(conn.link);
                    }
                }
            }
        }
        if let (Some(handover), Some(former)) = (entry.handover, entry.former) {
            self.give_back(cx, former, handover);
        }
        if let Some(rival) = entry.rival
            && let Some(Slot::Ctl(conn)) = self.slots.get_mut(rival)
            && let Stage::Parked { challenge, access, .. } = &conn.stage
        {
            let (challenge, access) = (challenge.clone(), access.clone());
            if let Err(stop) = self.on_proved(cx, rival, challenge, access) {
                self.stop_ctl(cx, rival, stop);
            }
        }
    }
}
