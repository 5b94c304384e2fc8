//! A NAT that forgets every idle conn, and drops what comes on them: who finds only dead ones is served all the same, and
//! soon. Only a simulated clock can say how soon.

use super::actors::Who;
use super::{Plan, World};
use crate::kernel::Path;
use crate::scenario::{Outcome, PROXY, Scenario};
use protocol_sm::driver::Strategy;
use std::time::Duration;

/// Visitors, one after the other.
const VISITORS: usize = 10;
/// By then each is connected to its service.
const SOON: Duration = Duration::from_secs(3);

/// One client on a line of this latency, and nobody but the visitors that the test sends.
pub(super) fn quiet_world(seed: u64, latency: Duration) -> World {
    let plan = Plan::bench(seed);
    let scenario = Scenario { length: Duration::from_secs(3600), visitors: 0, idle_conns: 4, ..plan.scenario };
    let scenario = Scenario { strategy: Strategy::Hybrid, no_pipe: 0, no_splice: 0, ..scenario };
    let mut plan = Plan { scenario, wan: Path { latency, ..Path::default() }, public: Path::default(), ..plan };
    plan.places.iter_mut().for_each(|place| place.on_server = false);
    World::new(plan, false)
}

/// Every proxy_conn that the server has: a NAT forgets it now.
pub(super) fn forget_all(world: &mut World) -> usize {
    let proc = world.processes[world.server].proc;
    let conns: Vec<_> =
        world.kernel.open_socks(proc).filter(|&sock| world.kernel.local(sock).port() == PROXY).collect();
    conns.into_iter().filter(|&sock| world.kernel.blackhole(sock)).count()
}

#[test]
fn who_finds_only_conns_that_a_router_drops_silently_is_served_within_3_seconds() {
    for (seed, latency) in [(1, 1), (2, 20), (3, 60)] {
        let mut world = quiet_world(seed, Duration::from_millis(latency));
        world.actors.hurry = true;
        let end = world.now() + Duration::from_secs(10);
        while world.now() < end {
            world.turn();
        }
        for visit in 0..VISITORS {
            assert!(forget_all(&mut world) > 0, "there are idle conns");
            let (begun, before) = (world.now(), world.actors.all.len());
            world.visit(0, true);
            let services = |world: &World| world.actors.all[before..].iter().filter(|a| a.who == Who::Service).count();
            while services(&world) == 0 {
                world.turn();
                let waited = world.now().since(begun);
                assert!(waited < SOON, "seed {seed}, visit {visit}: no service after {waited:?}, {:?}", world.breach);
            }
            while world.actors.all[before..].iter().any(|actor| actor.outcome.is_none()) {
                world.turn();
            }
            let outcomes: Vec<_> = world.actors.all[before..].iter().map(|actor| actor.outcome).collect();
            assert_eq!(outcomes, [Some(Outcome::Whole); 2], "seed {seed}, visit {visit}: served, and by one service");
            assert!(world.breach.is_none(), "{:?}", world.breach);
        }
    }
}
