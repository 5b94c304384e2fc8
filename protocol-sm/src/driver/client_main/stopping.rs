//! How a client stops: it says `Drain`, lets transfers finish, says `Close`, and waits for the server to close the
//! ctl_conn (PROTOCOL.md, "Stopping").

use super::super::messages::{ToClientLoop, ToLoop};
use super::super::thread::Cx;
use super::{ClientMain, MainSys, Outcome, Stopping};
use crate::codes::CloseCode;
use crate::notes::{Disconnect, Note};
use crate::wire::{ClientMsg, ToServer};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

/// How long a client that leaves waits for the server to close the ctl_conn.
const FAREWELL: Duration = Duration::from_secs(2);

impl<T> ClientMain<T> {
    /// The user asks to stop: no new visitors, transfers may finish for `drain_timeout`.
    // PROTOCOL.md: P-STOP-1.
    pub(super) fn stop<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        self.begin_stop(cx, Outcome::Stopped);
    }

    /// Another process of this client has its tunnels: the same as a stop, but for who closes the idle conns. The server
    /// does, as a `Start` may be on its way.
    // PROTOCOL.md: P-TAKE-3.
    pub(super) fn give_way<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        self.begin_stop(cx, Outcome::TakenOver);
    }

    fn begin_stop<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, outcome: Outcome) {
        if self.stopping.is_some() {
            return;
        }
        let until = cx.now + self.settings.timings.drain_timeout;
        if outcome == Outcome::TakenOver {
            cx.sys.note(Note::TakenOver);
        }
        let idle_too = outcome == Outcome::TakenOver && self.control.is_some();
        self.stopping = Some(Stopping { until, drained: BTreeSet::new(), leaving: false, outcome });
        self.send(cx, ClientMsg::Drain);
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::Drain { idle_too } });
        }
    }

    /// An event loop has no transfer left.
    pub(super) fn on_drained<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, loop_index: usize) {
        let all = self.stopping.as_mut().is_some_and(|stopping| {
            stopping.drained.insert(loop_index);
            stopping.drained.len() == self.loop_count && !stopping.leaving
        });
        if all {
            self.finish_stop(cx);
        }
    }

    /// Nothing is left to be finished, or no time for it. The server closes the ctl_conn once it has read our last
    /// `Done` and `Close`. The proxy_conns must not end before that: their end might overtake the `Fin` of a
    /// transfer, and would cut it short.
    pub(super) fn finish_stop<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        let connected = self.is_up() || !self.left.is_empty();
        if let Some(stopping) = self.stopping.as_mut().filter(|stopping| connected && !stopping.leaving) {
            stopping.until = cx.now + FAREWELL;
            let current = self.stage.token().filter(|_| self.is_up());
            for token in current.into_iter().chain(self.left.iter().map(|left| left.token)).collect::<Vec<_>>() {
                self.push_on(token, &ToServer::Close { code: CloseCode::Bye });
            }
            self.stopping.iter_mut().for_each(|stopping| stopping.leaving = true);
            if !self.is_up() {
                self.leave(cx, CloseCode::Bye);
            }
            return;
        }
        self.end_all_left(cx);
        if self.is_up() {
            return self.disconnect(cx, Disconnect::Silent);
        }
        self.leave(cx, CloseCode::Bye);
        self.have_stopped();
    }

    /// It ends as it was asked to.
    fn have_stopped(&mut self) {
        self.outcome = self.stopping.as_ref().map(|stopping| stopping.outcome.clone());
    }

    /// The server has closed a ctl_conn of a client that leaves: was it the last?
    pub(super) fn stop_if_alone(&mut self) {
        if self.control.is_none() && self.left.is_empty() {
            self.have_stopped();
        }
    }
}
