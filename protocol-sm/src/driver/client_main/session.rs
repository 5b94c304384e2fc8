//! The session: what the server and the event loops say in it, and its end.

use super::super::messages::{FromClientLoop, ToClientLoop, ToLoop};
use super::super::paths::ToPaths;
use super::super::slab::Token;
use super::super::sys::Streams;
use super::super::thread::{Cx, Tell};
use super::{ClientMain, MainSys, Stage};
use crate::codes::{AbortCode, CloseCode, LeaveCode, Violation};
use crate::control::client::{Control, Reaction};
use crate::liveness::Liveness;
use crate::notes::Disconnect;
use crate::outbound::Destination;
use crate::settings::ClientSettings;
use crate::wire::{ClientMsg, Ctl, ServerMsg, ToServer};
use alloc::sync::Arc;
use alloc::vec::Vec;

impl<T> ClientMain<T> {
    // PROTOCOL.md: P-CONN-1, P-STOP-4.
    pub(super) fn on_server_msg<S: MainSys<T>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        serial: u64,
        msg: ServerMsg,
    ) -> Result<(), Violation> {
        let is_left = self.is_left(serial);
        let Some(control) = self.session(serial) else { return Ok(()) };
        match control.on_msg(msg)? {
            Reaction::Nothing | Reaction::Drain => {}
            Reaction::Pass(loop_index, msg) => {
                cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::Transfer { serial, msg } });
            }
            Reaction::Reply(reply) => self.send_in(cx, serial, reply),
            // A conn would come to another process.
            Reaction::Open { count, failed } if is_left => {
                self.send_in(cx, serial, ClientMsg::ConnFailed { count: count + failed });
            }
            // They are the next session's.
            Reaction::Ready(..)
            | Reaction::Refused(..)
            | Reaction::Closed(..)
            | Reaction::Leave(_)
            | Reaction::Path(_)
                if is_left => {}
            Reaction::Open { count, failed } => {
                let opened: Vec<_> = (0..count).map(|_| control.open()).collect();
                let (session, secret) = (control.id, control.secret().clone());
                let server = self.server_at.expect("connected to it");
                let ClientSettings { proxy, outbound, .. } = &self.settings;
                let to = match outbound {
                    None => Destination { to: proxy.address(server, self.proxy_port), through: None },
                    Some(outbound) => {
                        let target = proxy.target(&self.target, self.proxy_port);
                        Destination { to: server, through: Some(Arc::new((outbound.clone(), target))) }
                    }
                };
                self.carriage.on_asked();
                for (loop_index, conn) in opened {
                    let (from, to, secret) = (self.settings.uplink.clone(), to.clone(), secret.clone());
                    let message = ToClientLoop::Open { from, to, conn, session, secret };
                    cx.sys.tell(ToLoop { loop_index, message });
                }
                if failed > 0 {
                    self.send(cx, ClientMsg::ConnFailed { count: failed });
                }
            }
            Reaction::Ready(tunnel, public) => self.on_tunnel_ready(cx, tunnel, public)?,
            Reaction::Refused(tunnel, code) => self.on_tunnel_refused(cx, tunnel, code)?,
            Reaction::Closed(tunnel, code) => self.on_tunnel_closed(cx, tunnel, code)?,
            Reaction::Path(pin) => self.on_offer(cx, serial, pin),
            Reaction::Leave(LeaveCode::TakenOver) => self.give_way(cx),
            Reaction::Leave(code @ LeaveCode::Upgraded) => self.come_anew(cx, code),
        }
        Ok(())
    }

    // PROTOCOL.md: P-VIOL-6.
    pub(super) fn on_loop<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, message: FromClientLoop) {
        match message {
            FromClientLoop::Message { serial, msg } => self.send_in(cx, serial, msg),
            FromClientLoop::Datagram { serial, datagram } => self.send_by_path(cx, serial, datagram),
            FromClientLoop::ConnUp { serial } => {
                if self.control.as_ref().is_some_and(|control| control.serial == serial) {
                    self.carriage.on_up();
                    self.announce(cx);
                }
            }
            FromClientLoop::ConnGone { serial, conn } => {
                if let Some(control) = self.session(serial) {
                    control.on_conn_gone(conn);
                }
            }
            FromClientLoop::Violation { serial, violation } => self.on_violation(cx, serial, violation),
            FromClientLoop::AskLine { serial, loop_index, conn } => {
                if let Some(liveness) = self.liveness_of(serial) {
                    let message = ToClientLoop::Line { serial, conn, line: liveness.line() };
                    cx.sys.tell(ToLoop { loop_index, message });
                }
            }
            FromClientLoop::WantBandwidth { tunnel, direction, rate, loop_index } => {
                self.buckets.ask(cx.now, tunnel, direction, rate, loop_index);
                self.deal_bandwidth(cx);
            }
            FromClientLoop::LookUp { tunnel } | FromClientLoop::LocalFailed { tunnel, .. } => {
                self.look_up_local(cx, tunnel);
            }
            FromClientLoop::Report(part) => self.on_part(cx, *part),
            FromClientLoop::Drained { loop_index } => self.on_drained(cx, loop_index),
        }
    }

    /// A session that is not over: the current one, or one beside it.
    pub(super) fn session(&mut self, serial: u64) -> Option<&mut Control> {
        let left = self.left.iter_mut().map(|left| &mut left.control);
        self.control.iter_mut().chain(left).find(|control| control.serial == serial)
    }

    /// How a session's ctl_conn is, if it has one.
    fn liveness_of(&self, serial: u64) -> Option<&Liveness> {
        if let Some(left) = self.left.iter().find(|left| left.control.serial == serial) {
            return Some(&left.liveness);
        }
        let Stage::Up { liveness, .. } = &self.stage else { return None };
        (serial == self.serial).then_some(liveness)
    }

    /// A server has broken the protocol in a session, or leaves too much of it unacknowledged.
    fn on_violation<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, serial: u64, violation: Violation) {
        if let Some(index) = self.left.iter().position(|left| left.control.serial == serial) {
            self.end_left(cx, index, Some(CloseCode::Violation));
        } else if self.session(serial).is_some() {
            self.leave(cx, CloseCode::Violation);
            self.disconnect(cx, Disconnect::Violation(violation));
        }
    }

    /// Numbers a message and sends it in the current session, now or when that is resumed.
    pub(super) fn send<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, msg: ClientMsg) {
        self.send_in(cx, self.serial, msg);
    }

    /// The same in any session that is not over.
    fn send_in<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, serial: u64, msg: ClientMsg) {
        let Some(control) = self.session(serial) else { return };
        match control.session.send(msg.clone()) {
            Ok(seq) => self.push(serial, &Ctl::Numbered { seq, msg }),
            Err(violation) => self.on_violation(cx, serial, violation),
        }
    }

    /// Queues a message on a session's ctl_conn, if it has one; it goes out with the rest of the batch.
    pub(super) fn push(&mut self, serial: u64, message: &ToServer) {
        let left = self.left.iter().find(|left| left.control.serial == serial);
        let current = self.stage.token().filter(|_| self.is_up() && serial == self.serial);
        if let Some(token) = left.map(|left| left.token).or(current) {
            self.push_on(token, message);
        }
    }

    /// Queues a message on a ctl_conn.
    pub(super) fn push_on(&mut self, token: Token, message: &ToServer) {
        if self.stopping.as_ref().is_some_and(|stopping| stopping.leaving) {
            // Nothing follows a `Close`.
            return;
        }
        if let Some(link) = self.slots.get_mut(token) {
            link.push(message);
            self.busy = true;
        }
    }

    /// The session is over: what belongs to it is reset.
    pub(super) fn end_session<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Tell<ToLoop<ToClientLoop>> + Tell<ToPaths>,
    {
        self.lost = None;
        self.close_path(cx);
        if let Some(control) = self.control.take() {
            self.story.on_over(cx.now);
            self.tell_over(cx, control.serial);
        }
    }

    /// Tells the event loops that a session is over.
    pub(super) fn tell_over<S: Tell<ToLoop<ToClientLoop>>>(&self, cx: &mut Cx<'_, S>, serial: u64) {
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::End { serial, code: AbortCode::SessionOver } });
        }
    }

    /// Closes the ctl_conn, or what was to become one.
    pub(super) fn hang_up<S: Streams<Stream = T>>(&mut self, cx: &mut Cx<'_, S>) {
        for token in core::mem::replace(&mut self.stage, Stage::Pausing(None)).tokens() {
            if let Some(link) = self.slots.remove(token) {
                cx.sys.close(link.port.into_stream());
            }
        }
    }

    /// Tells the server, if it can, that the session is over, and ends it.
    pub(super) fn leave<S>(&mut self, cx: &mut Cx<'_, S>, code: CloseCode)
    where
        S: Streams<Stream = T> + Tell<ToLoop<ToClientLoop>> + Tell<ToPaths>,
    {
        let up = self.is_up();
        if let Some(mut link) = self.stage.token().and_then(|token| self.slots.remove(token)) {
            if up {
                link.push(&ToServer::Close { code });
            }
            link.close(cx.sys);
        }
        self.hang_up(cx);
        self.end_session(cx);
    }
}
