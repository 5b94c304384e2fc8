//! Nobody keeps a ctl_conn on which nothing comes: a peer that was silent for its time and some slack is given up.

use super::{Event, Phase, Role, World};
use crate::kernel::SockId;
use crate::oracle::{Kind, Property};
use crate::scenario::CTL;
use protocol_sm::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// What a slow network and a busy thread may add.
const SLACK: Duration = Duration::from_secs(5);

/// What each end of a ctl_conn had received, and since when it is no more.
pub(super) type Silence = BTreeMap<SockId, (u64, Instant)>;

impl World {
    /// Looks at every ctl_conn, and looks again soon.
    pub(super) fn look_for_silence(&mut self) {
        let timings = self.plan.scenario.longest_timings();
        // Who is in its handshake has another time.
        let patience = timings.heartbeat_timeout.max(timings.handshake_timeout) + SLACK;
        let now = self.now();
        let before = std::mem::take(&mut self.silence);
        for process in self.processes.iter().filter(|process| process.alive && !process.frozen) {
            let is_ctl = |&sock: &SockId| {
                let end = match process.role {
                    Role::Server => self.kernel.local(sock),
                    Role::Client { .. } => self.kernel.remote(sock),
                };
                end.port() == CTL && self.kernel.is_up(sock)
            };
            for sock in self.kernel.open_socks(process.proc).filter(is_ctl) {
                let received = self.kernel.received(sock);
                let since = before.get(&sock).filter(|&&(had, _)| had == received).map_or(now, |&(_, since)| since);
                self.silence.insert(sock, (received, since.max(process.awake)));
            }
        }
        let silent = self.silence.iter().find(|(_, (_, since))| now.since(*since) > patience);
        if let Some((&sock, &(_, since))) = silent {
            let what = format!("socket {} at {} has heard nothing since {since:?}", sock.0, self.kernel.local(sock));
            self.fail(Kind::Safety, Property::SilentPeersGivenUp, what);
        }
        if self.phase != Phase::Over {
            self.later(LOOK, Event::Look);
        }
    }
}
