//! Who comes to the ports of hosts and is answered by the server itself, in this ring.

use super::sys::Mail;
use super::{Event, Phase, World};
use crate::scenario::{ANSWER, HOSTS};
use core::net::SocketAddr;
use protocol_sm::driver::Token;
use protocol_sm::driver::messages::ToListener;
use protocol_sm::routes::Web;
use std::time::Duration;

impl World {
    /// Some runs have them.
    pub(super) fn lay_inquiries(&mut self, length: u64) {
        for (at, tunnel) in self.plan.scenario.draw_inquiries(self.plan.seed, Duration::from_nanos(length)) {
            self.later(Duration::from_millis(500) + at, Event::Inquirer(tunnel));
        }
    }

    /// Somebody comes to ask of a tunnel's host, once that is up, or of nobody's.
    pub(super) fn inquire(&mut self, tunnel: Option<usize>) {
        if tunnel.is_some_and(|tunnel| self.publics[tunnel].is_none()) {
            if matches!(self.phase, Phase::Faults) {
                self.later(Duration::from_millis(700), Event::Inquirer(tunnel));
            }
            return;
        }
        let to = SocketAddr::new(self.kernel.ip(self.server_host), HOSTS[Web::Http as usize]);
        self.actors.inquire(&mut self.kernel, &self.plan, self.visitors, to, tunnel);
    }

    /// What is found for an authority that asks.
    pub(super) fn on_found(&mut self, process: usize, newcomer: Token, met: bool) {
        let answer = met.then(|| ANSWER.to_vec());
        let listener = self.processes[process].threads[1];
        self.post(listener, Mail::Listener(ToListener::Challenge { newcomer, answer }));
    }
}
