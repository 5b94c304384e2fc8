//! What the loop counts, and its part of a report. Nothing here decides anything.

use super::{Active, ServerLoop, Slot, State};
use crate::conn::server::Answer;
use crate::driver::messages::ControlKey;
use crate::ids::TunnelId;
use crate::report::{ConnReport, LoopPart, ShardPart, Trouble, TunnelTally, time_since};
use crate::settings::Timings;
use crate::time::Instant;
use core::time::Duration;

/// Tunnels of a session that are counted one by one: as many as it can have, and those that were closed and have
/// visitors still.
const TUNNELS: usize = 4096;

/// A transfer that is over.
pub(super) struct Over {
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    lasted: Duration,
}

impl Over {
    pub(super) fn of(active: &Active, now: Instant, timings: &Timings) -> Self {
        let [from_visitor, to_visitor] = active.by_path();
        Self {
            bytes_in: active.conn.transfer.egress.forwarded() + from_visitor,
            bytes_out: active.conn.transfer.ingress.forwarded() + to_visitor,
            lasted: active.lasts(now, timings),
        }
    }
}

impl Active {
    /// How long it has lasted so far.
    pub(super) fn lasts(&self, now: Instant, timings: &Timings) -> Duration {
        time_since(now, self.answer_by, timings.dial_timeout.saturating_mul(2))
    }
}

impl<T, P> ServerLoop<T, P> {
    fn tally(&mut self, control: ControlKey, tunnel: TunnelId) -> Option<&mut TunnelTally> {
        self.controls.get_mut(&control)?.tally.tunnels.get_mut(&tunnel)
    }

    /// A visitor has come.
    pub(super) fn count(&mut self, control: ControlKey, tunnel: TunnelId) {
        let Some(shard) = self.controls.get_mut(&control) else { return };
        let tunnels = &mut shard.tally.tunnels;
        if let Some(tally) = tunnels.get_mut(&tunnel) {
            tally.total += 1;
        } else if tunnels.len() < TUNNELS {
            tunnels.insert(tunnel, TunnelTally { total: 1, ..TunnelTally::default() });
        }
    }

    /// A visitor's stream did not end well.
    pub(super) fn count_trouble(&mut self, now: Instant, control: ControlKey, tunnel: TunnelId, trouble: Trouble) {
        self.core.on_trouble(trouble);
        if let Some(tally) = self.tally(control, tunnel) {
            tally.on_trouble(trouble, now);
        }
    }

    /// A transfer is over, one way or the other.
    pub(super) fn count_over(&mut self, control: ControlKey, tunnel: TunnelId, over: &Over, finished: bool) {
        self.core.tally.on_over(over.bytes_in, over.bytes_out, over.lasted);
        if let Some(tally) = self.tally(control, tunnel) {
            tally.on_over(over.bytes_in, over.bytes_out, finished);
        }
    }

    /// A tunnel was closed; `None`: all of the session.
    pub(super) fn forget_tally(&mut self, control: ControlKey, tunnel: Option<TunnelId>) {
        let Some(shard) = self.controls.get_mut(&control) else { return };
        match tunnel {
            Some(tunnel) => {
                shard.tally.tunnels.remove(&tunnel);
            }
            None => shard.tally.tunnels.clear(),
        }
    }

    /// Its part of a report that was asked for at `asked`.
    pub(super) fn report(&self, now: Instant, asked: Instant) -> LoopPart {
        let mut part = self.core.part(now, asked);
        part.own.sockets = self.slots.len() as u64;
        for (&control, shard) in &self.controls {
            let mut tunnels = shard.tally.tunnels.clone();
            for (tunnel, &visits) in &shard.visits {
                tunnels.entry(*tunnel).or_default().visitors = visits.into();
            }
            let mut idle = 0;
            for &token in shard.conns.values() {
                let Some(Slot::Conn(conn)) = self.slots.get(token) else { continue };
                let State::Active(active) = &conn.state else {
                    idle += 1;
                    continue;
                };
                let Over { bytes_in, bytes_out, .. } = Over::of(active, now, &self.core.timings);
                part.tally.bytes_in += bytes_in;
                part.tally.bytes_out += bytes_out;
                // Who was refused is counted already.
                part.active += u64::from(active.visitor.is_some() || active.conn.answer() != Answer::Refused);
                let tally = tunnels.entry(active.tunnel).or_default();
                tally.bytes_in += bytes_in;
                tally.bytes_out += bytes_out;
            }
            part.waiting += shard.pool.waits() as u64;
            let conns = ConnReport {
                idle,
                active: shard.active.into(),
                coming: shard.pool.asked().into(),
                opened: shard.tally.opened,
                reused: shard.tally.reused,
            };
            part.shards.push((control, ShardPart { conns, tunnels: tunnels.into_iter().collect() }));
        }
        part
    }
}
