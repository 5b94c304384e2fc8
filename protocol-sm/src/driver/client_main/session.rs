//! The session: what the server and the event loops say in it, and its end.

use super::super::messages::{FromClientLoop, ToClientLoop, ToLoop};
use super::super::sys::Streams;
use super::super::thread::{Cx, Tell};
use super::{ClientMain, MainSys, Stage};
use crate::codes::{AbortCode, CloseCode, Violation};
use crate::control::client::Reaction;
use crate::notes::Disconnect;
use crate::wire::{ClientMsg, Ctl, ServerMsg, ToServer};

impl<T> ClientMain<T> {
    // PROTOCOL.md: P-CONN-1, P-STOP-4.
    pub(super) fn on_server_msg<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, msg: ServerMsg) -> Result<(), Violation> {
        let Some(control) = &mut self.control else { return Ok(()) };
        match control.on_msg(msg)? {
            Reaction::Nothing | Reaction::Drain => {}
            Reaction::Pass(loop_index, msg) => cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::Transfer(msg) }),
            Reaction::Reply(reply) => self.send(cx, reply),
            Reaction::Open { count, failed } => {
                let server = self.server_at.expect("connected to it");
                let to = self.settings.proxy.address(server, self.proxy_port);
                self.carriage.on_asked();
                for _ in 0..count {
                    let (loop_index, conn) = control.open();
                    let (session, secret) = (control.id, control.secret().clone());
                    let from = self.settings.uplink.clone();
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
        }
        Ok(())
    }

    // PROTOCOL.md: P-VIOL-6.
    pub(super) fn on_loop<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, message: FromClientLoop) {
        let current = self.control.as_ref().map(|control| control.serial);
        match message {
            FromClientLoop::Message { serial, msg } if Some(serial) == current => self.send(cx, msg),
            FromClientLoop::ConnUp { serial } if Some(serial) == current => {
                self.carriage.on_up();
                self.announce(cx);
            }
            FromClientLoop::ConnGone { serial, conn } if Some(serial) == current => {
                if let Some(control) = &mut self.control {
                    control.on_conn_gone(conn);
                }
            }
            FromClientLoop::Violation { serial, violation } if Some(serial) == current => {
                self.leave(cx, CloseCode::Violation);
                self.disconnect(cx, Disconnect::Violation(violation));
            }
            FromClientLoop::AskLine { serial, loop_index, conn } if Some(serial) == current => {
                if let Stage::Up { liveness, .. } = &self.stage {
                    let message = ToClientLoop::Line { conn, line: liveness.line() };
                    cx.sys.tell(ToLoop { loop_index, message });
                }
            }
            // About a session that is over.
            FromClientLoop::Message { .. }
            | FromClientLoop::AskLine { .. }
            | FromClientLoop::ConnUp { .. }
            | FromClientLoop::ConnGone { .. }
            | FromClientLoop::Violation { .. } => {}
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

    /// Numbers a message and sends it, now or when the session is resumed.
    pub(super) fn send<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, msg: ClientMsg) {
        let Some(control) = &mut self.control else { return };
        match control.session.send(msg.clone()) {
            Ok(seq) => {
                if self.is_up() {
                    self.push(&Ctl::Numbered { seq, msg });
                }
            }
            Err(violation) => {
                self.leave(cx, CloseCode::Violation);
                self.disconnect(cx, Disconnect::Violation(violation));
            }
        }
    }

    /// Queues a message on the ctl_conn; it goes out with the rest of the batch.
    pub(super) fn push(&mut self, message: &ToServer) {
        if self.stopping.as_ref().is_some_and(|stopping| stopping.leaving) {
            // Nothing follows a `Close`.
            return;
        }
        if let Some(link) = self.stage.token().and_then(|token| self.slots.get_mut(token)) {
            link.push(message);
            self.busy = true;
        }
    }

    /// The session is over: what belongs to it is reset.
    pub(super) fn end_session<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Tell<ToLoop<ToClientLoop>>,
    {
        self.lost = None;
        if self.control.take().is_some() {
            self.story.on_over(cx.now);
            for loop_index in 0..self.loop_count {
                cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::End { code: AbortCode::SessionOver } });
            }
        }
    }

    /// Closes every connection to the server.
    pub(super) fn hang_up<S: Streams<Stream = T>>(&mut self, cx: &mut Cx<'_, S>) {
        for token in core::mem::replace(&mut self.stage, Stage::Pausing(None)).tokens() {
            if let Some(link) = self.slots.remove(token) {
                cx.sys.close(link.port.stream);
            }
        }
    }

    /// Tells the server, if it can, that the session is over, and ends it.
    pub(super) fn leave<S>(&mut self, cx: &mut Cx<'_, S>, code: CloseCode)
    where
        S: Streams<Stream = T> + Tell<ToLoop<ToClientLoop>>,
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
