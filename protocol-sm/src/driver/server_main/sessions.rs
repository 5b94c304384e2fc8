//! Sessions: what clients and event loops say to each other through this thread, and how a session ends.

use super::super::messages::{ControlKey, FromListener, FromServerLoop, ToListener, ToLoop, ToServerLoop};
use super::super::sys::random_u32;
use super::super::thread::Cx;
use super::session_table::{Attachment, SessionEntry};
use super::{MainSys, ServerMain, Slot, Stage, Stop};
use crate::codes::{AbortCode, CloseCode, StateName, Violation};
use crate::control::server::{Bind, Bound, Reaction};
use crate::notes::Note;
use crate::session::Delivery;
use crate::wire::{ClientMsg, Ctl, ServerHandshake, ServerMsg, ToClient, ToServer};
use alloc::string::String;

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
        let asked = match &msg {
            ClientMsg::RegisterTunnel { name, public_port, .. } => (name.clone(), *public_port),
            ClientMsg::CloseTunnel { .. }
            | ClientMsg::ConnFailed { .. }
            | ClientMsg::Fin { .. }
            | ClientMsg::Done { .. }
            | ClientMsg::Abort { .. }
            | ClientMsg::StartSeen { .. }
            | ClientMsg::Drain => (String::new(), 0),
        };
        let reaction = self.sessions.act(key, |control, ledger| control.on_msg(msg, random, ledger));
        match reaction.unwrap_or(Ok(Reaction::Nothing))? {
            Reaction::Nothing => {}
            Reaction::Reply(reply) => {
                self.note_tunnel(cx, key, asked, &reply);
                self.send(cx, key, reply);
            }
            Reaction::Bind(bind) => self.bind(cx, key, bind),
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

    /// Reports what a client is told of one of its tunnels; `asked` is its name, and the port that was wanted.
    fn note_tunnel<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        key: ControlKey,
        asked: (String, u16),
        told: &ServerMsg,
    ) {
        let (name, wanted) = asked;
        let (tunnel, outcome) = match *told {
            ServerMsg::TunnelReady { tunnel, public } => (tunnel, Ok(public)),
            ServerMsg::TunnelRefused { tunnel, code } => (tunnel, Err(code)),
            ServerMsg::NeedConn { .. }
            | ServerMsg::Fin { .. }
            | ServerMsg::Abort { .. }
            | ServerMsg::AskStart { .. }
            | ServerMsg::Drain => return,
        };
        if let Some(entry) = self.sessions.get_mut(key)
            && entry.is_news(tunnel, outcome)
        {
            let (client, credential) = (entry.control.client, self.settings.name_of(entry.control.credential));
            cx.sys.note(Note::Tunnel { client, credential, tunnel, name, wanted, outcome });
        }
    }

    fn bind<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey, bind: Bind) {
        // No more visitors: the answer is the end of the session, soon.
        if self.stopping.is_some() {
            return;
        }
        let Some(holder) = self.sessions.get(control).map(|entry| entry.control.credential) else { return };
        let Bind { registration, ports, gate } = bind;
        // PROTOCOL.md: P-REPL-6. The listener closes before it opens.
        if let (Some(&port), 1) = (ports.front(), ports.len())
            && let Some(ghost) = self.sessions.ghost(control, port)
        {
            self.end_session(cx, ghost, CloseCode::Replaced, AbortCode::SessionOver);
        }
        cx.sys.tell(ToListener::Bind { control, holder, registration, ip: self.bind_ip, ports, gate });
    }

    /// The listener has opened a public port, or could not.
    // PROTOCOL.md: P-TUN-10.
    pub(super) fn on_bound<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, message: FromListener) {
        let FromListener { control: key, registration, bound } = message;
        let answer = self.sessions.act(key, |control, _| {
            let asked =
                (String::from(control.tunnel_name(registration.tunnel)), control.wanted_port(registration.tunnel));
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
        if let Some(reply) = reply {
            self.note_tunnel(cx, key, asked, &reply);
            self.send(cx, key, reply);
        }
    }

    // PROTOCOL.md: P-VIOL-5.
    pub(super) fn on_loop<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, message: FromServerLoop<T>) {
        match message {
            FromServerLoop::Message { control, msg } => self.send(cx, control, msg),
            FromServerLoop::Left { loop_index, guest } => cx.sys.tell(ToListener::Left { loop_index, guest }),
            FromServerLoop::PassOn { loop_index: from, arrival } => {
                let loop_index = (from + 1) % self.loop_count;
                cx.sys.tell(ToListener::Moved { from, to: loop_index });
                cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Visitor(arrival) });
            }
            FromServerLoop::Ask { control, loop_index, count } => {
                if let Some(entry) = self.sessions.get_mut(control) {
                    let msg = entry.control.on_ask(loop_index, count);
                    self.send(cx, control, msg);
                }
            }
            FromServerLoop::ConnGone { control, conn } => {
                let _gone = self.sessions.act(control, |control, _| control.on_conn_gone(conn));
            }
            FromServerLoop::Violation { control, .. } => {
                self.end_session(cx, control, CloseCode::Violation, AbortCode::SessionOver);
            }
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
        let Some(Attachment::Attached(token)) = self.sessions.get(key).map(SessionEntry::attachment) else { return };
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
        // No client says goodbye on a ctl_conn that it does not have.
        let expired = close == CloseCode::Bye && matches!(entry.attachment(), Attachment::Detached { .. });
        let waited = expired.then_some(self.settings.timings.session_grace);
        let credential = self.settings.name_of(entry.control.credential);
        cx.sys.note(Note::SessionOver { client: entry.control.client, credential, code: close, waited });
        cx.sys.tell(ToListener::CloseAll { control: key });
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Close { control: key, code } });
        }
        match entry.attachment() {
            Attachment::Detached { .. } => {}
            Attachment::Attached(token) => {
                if let Some(Slot::Ctl(mut conn)) = self.slots.remove(token) {
                    self.timers.set(token, &mut conn.deadline, None);
                    conn.link.push(&Ctl::<ServerHandshake, ServerMsg>::Close { code: close });
                    conn.link.close(cx.sys);
                }
            }
        }
        if let Some(rival) = entry.rival
            && let Some(Slot::Ctl(conn)) = self.slots.get_mut(rival)
            && let Stage::Parked { challenge, access, .. } = &conn.stage
        {
            let (challenge, access) = (challenge.clone(), access.clone());
            if let Err(stop) = self.begin(cx, rival, &challenge, &access) {
                self.stop_ctl(cx, rival, stop);
            }
        }
    }
}
