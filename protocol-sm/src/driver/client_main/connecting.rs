//! The way to a ctl_conn, from the server's name to the welcome, but for the race of its addresses.

use super::super::messages::{ToClientLoop, ToLoop};
use super::super::slab::Token;
use super::super::sys::{Lookup, random_u32};
use super::super::thread::Cx;
use super::{ClientMain, MainSys, Outcome, Stage, dialled};
use crate::auth::{Prover, Transcript};
use crate::carriage::Carriage;
use crate::codes::{CloseCode, HandshakeRefusal, MessageName, StateName, Violation};
use crate::control::client::Control;
use crate::ids::ClientId;
use crate::liveness::{Liveness, Pulse};
use crate::names::Wait;
use crate::notes::{Disconnect, Note};
use crate::reconnect::AfterFailure;
use crate::settings::{ProxyAt, Timings};
use crate::wire::{ClientMsg, Ctl, ToServer, Welcome};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// The proxy port of a server whose configuration names none.
const USUAL_PROXY_PORT: u16 = 8090;
/// Below it are the ports of services that others trust by their number.
const FIRST_UNPRIVILEGED: u16 = 1024;

impl<T> ClientMain<T> {
    pub(super) fn begin<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        let wanted = self.server_name.want(cx.now);
        if wanted.look_up {
            cx.sys.resolve(Lookup::Server(self.servers), dialled(&self.settings, &self.server));
        }
        match wanted.wait {
            Wait::Not => self.dial(cx),
            Wait::Until(until) => self.stage = Stage::Resolving(Some(until)),
            Wait::ForIt => self.stage = Stage::Resolving(None),
        }
    }

    pub(super) fn on_resolved<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, tag: Lookup, addresses: Vec<SocketAddr>) {
        match tag {
            Lookup::Local(tunnel, which) => self.on_located(cx, tunnel, which, addresses),
            // About the name of a server that is not ours any more.
            Lookup::Server(which) if which != self.servers => {}
            Lookup::Server(_) => {
                self.server_name.on_answer(&addresses, cx.now);
                if matches!(self.stage, Stage::Resolving(_)) {
                    self.dial(cx);
                }
            }
        }
    }

    pub(super) fn on_stage_deadline<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        match &mut self.stage {
            Stage::Pausing(_) => self.begin(cx),
            // The look-up hangs.
            Stage::Resolving(_) => self.dial(cx),
            Stage::Dialling { .. } => self.run_race(cx),
            Stage::Challenged { .. } | Stage::Proved { .. } => self.disconnect(cx, Disconnect::Silent),
            Stage::Up { liveness, .. } => match liveness.on_deadline(cx.now) {
                Pulse::Fine => {}
                Pulse::Dead => self.disconnect(cx, Disconnect::Silent),
                Pulse::Ping => {
                    if let Some(control) = &mut self.control {
                        let received = control.session.mark_acked();
                        self.push(self.serial, &Ctl::Ping { received });
                    }
                }
            },
        }
    }

    /// The server, which has proved itself, says where its data connections go.
    // PROTOCOL.md: P-CONN-5.
    fn on_proxy_port<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, port: u16) -> Result<(), Disconnect> {
        let expected = [self.proxy_port, self.target.port(), USUAL_PROXY_PORT].contains(&port);
        if self.settings.proxy == ProxyAt::AsTold && !expected {
            if port < FIRST_UNPRIVILEGED {
                return Err(Disconnect::ProxyPort(port));
            }
            cx.sys.note(Note::ProxyPort { port });
        }
        self.proxy_port = port;
        Ok(())
    }

    // PROTOCOL.md: P-AUTH-8, P-AUTH-9, P-RES-5.
    pub(super) fn on_welcome<S: MainSys<T>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        transcript: Transcript,
        welcome: &Welcome,
    ) -> Result<(), Disconnect> {
        let prover = Prover::new(self.settings.token.as_ref(), transcript);
        if !prover.welcome_matches(welcome) {
            return Err(Disconnect::WrongServer);
        }
        let secret = prover.session_key(welcome.session);
        self.on_proxy_port(cx, welcome.proxy_port)?;
        let not_asked = Violation::Unexpected { message: MessageName::Welcome, state: StateName::ResumeNotAsked };
        let resumed = match &mut self.control {
            Some(control) if welcome.resumed => {
                if control.id != welcome.session {
                    return Err(Disconnect::Violation(not_asked));
                }
                if let Err(violation) = control.session.on_ack(welcome.received) {
                    self.end_session(cx);
                    return Err(Disconnect::Violation(violation));
                }
                true
            }
            Some(_) | None if welcome.resumed => return Err(Disconnect::Violation(not_asked)),
            Some(_) | None => false,
        };
        self.story.on_up(cx.now, resumed);
        let timings = &self.settings.timings;
        let liveness = Liveness::new(cx.now, timings.heartbeat_interval, timings.heartbeat_timeout);
        self.stage = Stage::Up { token, liveness };
        self.lost = None;
        if self.reconnect.on_up() {
            self.tunnels.forget_announced();
        }
        if resumed {
            if let (Some(link), Some(control)) = (self.slots.get_mut(token), &self.control) {
                for (seq, msg) in control.session.replay() {
                    link.push(&ToServer::Numbered { seq, msg: msg.clone() });
                }
            }
            self.on_resumed_path(cx);
        } else {
            if self.control.is_some() {
                cx.sys.note(Note::SessionLost { waited: None });
                self.end_session(cx);
            }
            self.serial += 1;
            let max = self.settings.max_proxy_conns;
            self.control = Some(Control::new(welcome.session, self.serial, secret, self.loop_count, max));
            self.forget_moved(cx);
            self.tunnels.on_new_session();
            self.carriage = Carriage::default();
            for loop_index in 0..self.loop_count {
                cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::Session { serial: self.serial } });
            }
            // Names may have moved since the last session.
            self.look_up_locals(cx);
        }
        if let (Some(link), Some(control)) = (self.slots.get_mut(token), &self.control) {
            link.on_session(control.session.max_unacked());
        }
        if let Some(stopping) = &self.stopping
            && !resumed
            && stopping.drained.len() < self.loop_count
        {
            self.send(cx, ClientMsg::Drain);
        }
        cx.sys.note(Note::SessionUp {
            client: ClientId(self.settings.client_id),
            credential: None,
            from: self.server_at.expect("connected to it"),
            through: self.through(),
            resumed,
        });
        self.announce(cx);
        self.register(cx);
        Ok(())
    }

    /// There is no ctl_conn (any more): tries again after a pause, unless that is hopeless. The session, if there is
    /// one, goes on for its grace.
    // PROTOCOL.md: P-RES-1.
    pub(super) fn disconnect<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, why: Disconnect) {
        let was_up = self.is_up();
        self.hang_up(cx);
        self.story.on_down(cx.now, was_up, why);
        if self.outcome.is_some() {
            return;
        }
        if self.stopping.as_ref().is_some_and(|stopping| stopping.leaving) {
            self.end_session(cx);
            self.stop_if_alone();
            return;
        }
        if was_up && self.control.is_some() {
            self.lost = Some(cx.now);
        }
        let grace_left = self.lost.map(|at| {
            // First it is about the ports, then about the transfers.
            let Timings { session_grace, .. } = self.settings.timings;
            let graces = [session_grace, self.settings.timings.kept()].map(|grace| (at + grace).since(cx.now));
            graces.into_iter().find(|left| !left.is_zero()).unwrap_or_default()
        });
        // The server was upgraded, and another process of this client came to the new one first.
        if why == Disconnect::Refused(HandshakeRefusal::IdentityInUse) && !self.left.is_empty() {
            self.give_way(cx);
        }
        match self.reconnect.on_failed(why.is_lasting(), grace_left, random_u32(cx.sys)) {
            AfterFailure::GiveUp => {
                self.refused_for_good(cx, why.sentence(&self.server, self.through().as_deref()));
            }
            AfterFailure::Retry(pause) => {
                self.stage = Stage::Pausing(Some(cx.now + pause));
                let (server, through) = (self.server.clone(), self.through());
                cx.sys.note(Note::Reconnecting { server, through, why, pause });
            }
        }
    }

    pub(super) fn refused_for_good<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, sentence: String) {
        self.leave(cx, CloseCode::Bye);
        self.end_all_left(cx);
        self.outcome = Some(Outcome::Refused(sentence));
    }
}
