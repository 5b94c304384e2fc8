//! A session's conns: asked for by event loops, admitted, gone.

use super::super::{loop_of, narrow};
use super::{Control, Reaction};
use crate::auth::{Channel, SessionKey};
use crate::canary::{PlantedBug, planted};
use crate::codes::HandshakeRefusal;
use crate::ids::ConnId;
use crate::ledger::{Good, Ledger};
use crate::wire::{ConnHello, Proof, ServerMsg};
use alloc::vec::Vec;

impl Control {
    /// Conns that a holder may have beyond those that its visitors can need and those that were asked for.
    const UNASKED: u32 = 64;

    /// An event loop wants `count` more conns.
    #[must_use]
    pub fn on_ask(&mut self, loop_index: usize, count: u32) -> ServerMsg {
        self.asked[loop_index] += count;
        ServerMsg::NeedConn { count }
    }

    /// The key of the session.
    #[must_use]
    pub fn secret(&self) -> &SessionKey {
        &self.secret
    }

    /// The event loop that has this conn, if it is there.
    #[must_use]
    pub fn loop_with(&self, conn: ConnId) -> Option<usize> {
        self.conns.get(&conn).map(|&loop_index| loop_index.into())
    }

    /// Conns that were asked for and have not come yet.
    #[must_use]
    pub fn expected(&self) -> usize {
        self.asked.iter().map(|&asked| asked as usize).sum()
    }

    /// The client could not open `count` conns. They are subtracted from what the event loops asked for, beginning with
    /// the loop that asked for most.
    // PROTOCOL.md: P-POOL-3.
    pub(super) fn on_failed(&mut self, count: u32) -> Reaction {
        let mut left = count;
        let mut failed = Vec::new();
        while let Some((loop_index, asked)) = self.neediest().filter(|_| left > 0) {
            let share = asked.min(left);
            self.asked[loop_index] -= share;
            left -= share;
            failed.push((loop_index, share));
        }
        if failed.is_empty() { Reaction::Nothing } else { Reaction::Failed(failed) }
    }

    fn neediest(&self) -> Option<(usize, u32)> {
        let loop_count = self.asked.iter().copied().enumerate();
        loop_count
            .filter(|&(_, asked)| asked > 0)
            .max_by_key(|&(loop_index, asked)| (asked, core::cmp::Reverse(loop_index)))
    }

    /// A new proxy_conn names this session: returns what to answer and which event loop gets it.
    ///
    /// # Errors
    /// Its proof is wrong, its number was used, or its holder has more conns than its visitors can need.
    // PROTOCOL.md: P-PROXY-1, P-LIM-2.
    pub fn admit(
        &mut self,
        hello: &ConnHello,
        channel: Option<&Channel>,
        ledger: &Ledger,
    ) -> Result<Admission, HandshakeRefusal> {
        let secret = self.secret.over(channel);
        let proved = secret.hello_matches(hello);
        let proved = proved || planted(PlantedBug::AnyConnProof);
        if !proved {
            return Err(HandshakeRefusal::WrongToken);
        }
        let fresh = self.window.take(hello.conn);
        let fresh = fresh || planted(PlantedBug::ConnReplayed);
        if !fresh {
            return Err(HandshakeRefusal::ReplayedConn);
        }
        let asked = self.asked.iter().fold(0, |sum: u32, asked| sum.saturating_add(*asked));
        let may = self.scope.max_connections.saturating_add(self.scope.max_waiting).saturating_add(Self::UNASKED);
        // What was not asked for must not take what is kept for others.
        let unasked =
            asked == 0 && (ledger.room(self.credential, Good::Conn, may) == 0 || ledger.is_scarce(Good::Conn));
        let none_left = ledger.left(Good::Conn) == 0 && !planted(PlantedBug::ConnsUnbounded);
        if unasked || none_left {
            return Err(HandshakeRefusal::Full);
        }
        let same_index = loop_of(hello.conn, self.asked.len());
        let waits = if self.asked[same_index] > 0 {
            Some(same_index)
        } else {
            self.neediest().map(|(loop_index, _)| loop_index)
        };
        if let Some(loop_index) = waits {
            self.asked[loop_index] -= 1;
        }
        let (loop_index, asked) = (waits.unwrap_or(same_index), waits.is_some());
        self.conns.insert(hello.conn, narrow(loop_index));
        Ok(Admission { proof: secret.accept(self.id, hello.conn), loop_index, asked })
    }

    /// A conn was admitted, and lost before its event loop had it. If a loop had asked for it, it counts as asked for
    /// again until the client says that it failed (K3).
    pub fn on_conn_lost(&mut self, conn: ConnId, admission: &Admission) {
        self.conns.remove(&conn);
        self.asked[admission.loop_index] += u32::from(admission.asked);
    }

    /// A conn is closed.
    pub fn on_conn_gone(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
    }
}

/// What becomes of a proxy_conn that may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// What to answer.
    pub proof: Proof,
    /// The event loop that gets it.
    pub loop_index: usize,
    /// Whether that loop had asked for it.
    pub(super) asked: bool,
}
