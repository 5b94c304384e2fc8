//! A client's new process takes tunnels over: their visitors become the new session's, and the old one *retires*. Its
//! transfers end where they began (PROTOCOL.md, "Takeover").

use super::super::messages::ControlKey;
use super::super::relay::End;
use super::super::slab::Token;
use super::super::thread::Cx;
use super::{LoopSys, ServerLoop, Slot};
use crate::codes::AbortCode;
use crate::ids::TunnelId;
use crate::ledger::Good;
use crate::notes::Dropped;
use alloc::vec::Vec;

impl<T, P> ServerLoop<T, P> {
    /// The visitors of the tunnel `from` are those of `to` from now on, but for those that have a conn.
    // PROTOCOL.md: P-TAKE-2.
    pub(super) fn hand_over<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        from: (ControlKey, TunnelId),
        to: (ControlKey, TunnelId),
    ) {
        self.hand_port_over(from, to);
        let Some(shard) = self.controls.get_mut(&from.0) else { return };
        shard.heirs.insert(from.1, to);
        if self.heir(from.0, from.1) == from {
            return;
        }
        let Some(shard) = self.controls.get(&from.0) else { return };
        let waiting: Vec<_> = shard.pool.waiting().collect();
        for token in waiting {
            if let Some(Slot::Visitor(visitor)) = self.slots.get(token)
                && (visitor.control, visitor.tunnel) == from
            {
                self.pass_on(cx, token, to);
            }
        }
    }

    /// Where a visitor of this tunnel belongs by now. A session that was over before it had taken everything over, of
    /// which this loop may hear first, is nobody's heir.
    pub(super) fn heir(&self, control: ControlKey, tunnel: TunnelId) -> (ControlKey, TunnelId) {
        let mut at = (control, tunnel);
        let is_there = |heir: &(ControlKey, TunnelId)| self.controls.get(&heir.0).is_some_and(|shard| !shard.closing);
        while let Some(shard) = self.controls.get(&at.0)
            && let Some(&heir) = shard.heirs.get(&at.1).filter(|&heir| is_there(heir))
        {
            at = heir;
        }
        at
    }

    /// A visitor that has no conn goes to another session, and waits there as long as it may.
    pub(super) fn pass_on<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, to: (ControlKey, TunnelId)) {
        let Some(Slot::Visitor(visitor)) = self.slots.get_mut(token) else { return };
        let from = (visitor.control, visitor.tunnel);
        (visitor.control, visitor.tunnel) = to;
        let returns = visitor.returns();
        if let Some(shard) = self.controls.get_mut(&from.0) {
            shard.pool.remove_waiting(token);
            shard.on_left(&mut self.ledger, from.1);
        }
        if let Some(shard) = self.controls.get_mut(&to.0) {
            *shard.visits.entry(to.1).or_default() += 1;
            self.ledger.add(shard.holder, Good::Visitor, 1);
        }
        if returns {
            self.place_again(cx, to.0, token);
        } else {
            self.place(cx, to.0, token);
        }
    }

    /// No more visitors come to this session: nothing is asked for, and what is idle is closed.
    // PROTOCOL.md: P-TAKE-3.
    pub(super) fn retire<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, control: ControlKey) {
        self.drop_waiting(cx, control, None, Dropped::Gone);
        self.close_ports(cx, |of, _| of == control);
        let Some(shard) = self.controls.get_mut(&control) else { return };
        shard.retired = true;
        shard.pool.close();
        let idle: Vec<_> = shard.pool.idle().collect();
        for token in idle {
            self.end(cx, token, End::Abort(AbortCode::SessionOver));
        }
    }
}
