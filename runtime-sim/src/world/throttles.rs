//! What limited tunnels move is held against their limits: in any time no more than that time's worth, and what a quarter
//! of a second brings.

use super::World;
use crate::holder;
use crate::kernel::SockId;
use crate::oracle::{Kind, Property};
use protocol_sm::bandwidth::Rate;
use protocol_sm::time::Instant;
use std::collections::BTreeMap;

/// A tunnel as one process knows it: the process, its session there if it is a server's, and a number.
pub(super) type Tunnel = (usize, Option<u64>, u32);

/// What may come in a burst, in seconds.
const BURST: f64 = 0.25;
/// What rounding adds, in bytes.
const SLACK: f64 = 64.0;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Throttles {
    /// Whose outer sockets these are, and what they may move together in each direction, in bytes per second.
    limited: BTreeMap<SockId, (Tunnel, f64)>,
    /// What each tunnel has moved lately, in and out: bytes that its rate has not brought by then.
    ahead: BTreeMap<Tunnel, [(f64, Instant); 2]>,
    /// What each tunnel has moved in all.
    #[cfg(test)]
    moved: BTreeMap<Tunnel, [usize; 2]>,
}

impl Throttles {
    /// This outer socket belongs to a tunnel that may move so much.
    pub(super) fn limit(&mut self, sock: SockId, tunnel: Tunnel, rate: Rate) {
        if let Some(rate) = rate {
            self.limited.insert(sock, (tunnel, rate.get() as f64));
        }
    }

    /// An outer socket has moved so many bytes. Returns how much its tunnel is ahead of its rate, if that is too much.
    fn on_moved(&mut self, now: Instant, sock: SockId, bytes: [usize; 2]) -> Option<String> {
        let &(tunnel, rate) = self.limited.get(&sock)?;
        let ways = self.ahead.entry(tunnel).or_insert([(0.0, now); 2]);
        #[cfg(test)]
        self.moved.entry(tunnel).or_default().iter_mut().zip(bytes).for_each(|(sum, bytes)| *sum += bytes);
        let mut found = None;
        for ((ahead, at), bytes) in ways.iter_mut().zip(bytes) {
            *ahead = (*ahead - rate * now.since(*at).as_secs_f64()).max(0.0) + bytes as f64;
            *at = now;
            if *ahead > rate * BURST + SLACK {
                found = Some(format!("{tunnel:?} is {ahead:.0} bytes ahead of {rate} B/s"));
            }
        }
        found
    }
}

impl World {
    /// A server takes a visitor.
    pub(super) fn limit_public(&mut self, public: SockId, tunnel: Tunnel) {
        // The hostile holder's credential has no limit.
        if !holder::has_port(self.kernel.local(public).port()) {
            self.throttles.limit(public, tunnel, self.plan.scenario.max_bandwidth);
        }
    }

    /// A client has dialled a service.
    pub(super) fn limit_local(&mut self, client: usize, local: SockId) {
        let to = self.kernel.remote(local).port();
        let tunnels = &self.plan.scenario.tunnels;
        if let Some(index) = tunnels.iter().position(|tunnel| tunnel.service_port == to) {
            let number = u32::try_from(index).expect("few tunnels");
            self.throttles.limit(local, (client, None, number), tunnels[index].serving.max_bandwidth);
        }
    }

    /// A program has moved bytes between itself and an outer socket.
    pub(super) fn see_moved(&mut self, sock: SockId, read: usize, written: usize) {
        self.visits.on_moved(sock, read, written);
        let now = self.now();
        if let Some(what) = self.throttles.on_moved(now, sock, [read, written]) {
            self.fail(Kind::Safety, Property::BandwidthKept, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Path;
    use crate::scenario::Scenario;
    use crate::world::{Phase, Plan};
    use protocol_sm::driver::Strategy;
    use std::num::NonZeroU64;
    use std::time::Duration;

    const RATE: u64 = 24 * 1024;

    /// A world of many visitors in a hurry, whose tunnels are limited on the server or on their clients.
    fn busy(strategy: Strategy, on_server: bool) -> World {
        let plan = Plan::bench(5);
        let rate = |limited: bool| NonZeroU64::new(RATE).filter(|_| limited);
        let mut scenario = Scenario {
            length: Duration::from_secs(60),
            visitors: 300,
            largest: 4 << 20,
            strategy,
            max_bandwidth: rate(on_server),
            ..plan.scenario
        };
        scenario.tunnels.iter_mut().for_each(|tunnel| tunnel.serving.max_bandwidth = rate(!on_server));
        // Nothing else holds the payload up.
        let (buffers, lag) = ((256 * 1024, 256 * 1024), Duration::from_millis(2));
        let path = Path { latency: Duration::from_millis(1), rate: 1 << 30, segment: 16 * 1024, ..plan.wan };
        let (wan, public, lan) = (path, path, path);
        let mut world = World::new(Plan { scenario, buffers, lag, wan, public, lan, ..plan }, false);
        world.actors.hurry = true;
        world
    }

    /// The tunnel and direction that have moved most.
    fn busiest(world: &World) -> Option<(Tunnel, usize, usize)> {
        let each =
            world.throttles.moved.iter().flat_map(|(&tunnel, moved)| [(tunnel, 0, moved[0]), (tunnel, 1, moved[1])]);
        each.max_by_key(|&(_, _, moved)| moved)
    }

    #[test]
    fn ten_seconds_of_a_busy_tunnel_are_exact_to_five_per_cent() {
        for strategy in [Strategy::Copy, Strategy::Splice, Strategy::Hybrid] {
            for on_server in [true, false] {
                let mut world = busy(strategy, on_server);
                let mut step = || {
                    assert!(world.breach.is_none() && world.phase == Phase::Faults, "{:?}", world.breach);
                    world.turn();
                    (world.now(), busiest(&world))
                };
                let (began, tunnel, way, before) = loop {
                    if let (now, Some((tunnel, way, moved))) = step()
                        && moved as u64 > 2 * RATE
                    {
                        break (now, tunnel, way, moved);
                    }
                };
                while step().0 < began + Duration::from_secs(10) {}
                let moved = (world.throttles.moved[&tunnel][way] - before) as f64;
                let (time, rate) = (world.now().since(began).as_secs_f64(), RATE as f64);
                let what = format!("{strategy:?}, on_server {on_server}: {moved} bytes in {time} s");
                assert!((moved / time / rate - 1.0).abs() < 0.05, "{what}");
            }
        }
    }
}
