//! What the loop counts, and its part of a report. Nothing here decides anything.

use super::{Active, ClientLoop, Slot, Stage, State, active};
use crate::driver::slab::Token;
use crate::ids::{ControlKey, Epoch, TunnelId};
use crate::report::{LoopPart, ShardPart, Trouble};
use crate::time::Instant;
use alloc::collections::BTreeMap;
use core::time::Duration;

/// A transfer that is over.
pub(super) struct Over {
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    lasted: Duration,
}

impl Over {
    pub(super) fn of(active: &Active, now: Instant) -> Self {
        let [to_local, from_local] = active.by_path();
        Self {
            bytes_in: active.conn.transfer.ingress.forwarded() + to_local,
            bytes_out: active.conn.transfer.egress.forwarded() + from_local,
            lasted: now.since(*active.began),
        }
    }
}

impl<T, P> ClientLoop<T, P> {
    /// A conn carries a transfer. One for a tunnel that there is not is a hostile server's, and no tunnel's.
    pub(super) fn count_start(&mut self, token: Token) {
        let Some(active) = active(&mut self.slots, token) else { return };
        self.core.tally.reused += u64::from(active.conn.transfer.epoch() > Epoch(1));
        if self.locals.contains_key(&active.tunnel) {
            self.tallies.entry(active.tunnel).or_default().total += 1;
        }
    }

    /// A transfer did not end well.
    pub(super) fn count_trouble(&mut self, now: Instant, tunnel: TunnelId, trouble: Trouble) {
        self.core.on_trouble(trouble);
        if let Some(tally) = self.tallies.get_mut(&tunnel) {
            tally.on_trouble(trouble, now);
        }
    }

    /// A transfer is over, one way or the other.
    pub(super) fn count_over(&mut self, tunnel: TunnelId, over: &Over, finished: bool) {
        self.core.tally.on_over(over.bytes_in, over.bytes_out, over.lasted);
        if let Some(tally) = self.tallies.get_mut(&tunnel) {
            tally.on_over(over.bytes_in, over.bytes_out, finished);
        }
    }

    /// Its part of a report that was asked for at `asked`.
    pub(super) fn report(&self, now: Instant, asked: Instant) -> LoopPart {
        let mut tunnels = self.tallies.clone();
        let mut shards = BTreeMap::from([(self.serial, ShardPart::default())]);
        let mut part = self.core.part(now, asked);
        part.own.sockets = self.slots.len() as u64;
        for (&(serial, _), &token) in &self.conns {
            let Some(Slot::Conn(conn)) = self.slots.get(token) else { continue };
            let conns = &mut shards.entry(serial).or_default().conns;
            match &conn.state {
                State::Opening { .. } => conns.coming += 1,
                State::Idle(_) => conns.idle += 1,
                State::Active(active) => {
                    conns.active += 1;
                    let over = Over::of(active, now);
                    part.tally.bytes_in += over.bytes_in;
                    part.tally.bytes_out += over.bytes_out;
                    // Who was refused is counted already.
                    let served = active.conn.stage() != Stage::Refused;
                    part.active += u64::from(served);
                    if let Some(tally) = tunnels.get_mut(&active.tunnel) {
                        tally.visitors += u64::from(served);
                        tally.bytes_in += over.bytes_in;
                        tally.bytes_out += over.bytes_out;
                    }
                }
            }
        }
        let own = shards.entry(self.serial).or_default();
        own.conns.opened = part.opened;
        own.conns.reused = part.tally.reused;
        own.tunnels = tunnels.0.into_iter().collect();
        part.shards.extend(shards.into_iter().map(|(serial, shard)| (ControlKey(serial), shard)));
        part
    }
}
