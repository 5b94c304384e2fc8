//! A conn that alone gets nothing through, in the middle of a transfer, and a cut of the whole line: the one is found
//! within a minute, the other costs nothing. Only a simulated clock can say how soon.

use super::World;
use super::actors::{Actor, Who};
use super::forgotten::{forget_all, quiet_world};
use crate::scenario::Outcome;
use protocol_sm::time::Instant;
use std::time::Duration;

/// By then both ends of a transfer know that it is over. The kernels would find out after 60 s.
const FOUND: Duration = Duration::from_secs(55);
/// Longer than a conn that alone gets nothing through is given, and not so long that a silent conn is given up here. Its
/// kernels may need as long again to send what was held up.
const CUT: Duration = Duration::from_secs(55);

/// A world with one visit under way, both ends of which have read bytes and are not through, or `None` where `seed` has
/// made a visit that ends too soon.
fn under_way(seed: u64) -> Option<World> {
    let mut world = quiet_world(seed, Duration::from_millis(20));
    run_until(&mut world, Duration::from_secs(10), |_| false);
    world.visit(0, false);
    let under_way = |world: &World| {
        let ends = || world.actors.all.iter().filter(|actor| actor.who == Who::Service || actor.who == VISITOR);
        let moves = |actor: &Actor| actor.outcome.is_none() && world.kernel.received(actor.sock) > 0;
        ends().count() == 2 && ends().all(moves)
    };
    run_until(&mut world, Duration::from_secs(5), under_way);
    under_way(&world).then_some(world)
}

const VISITOR: Who = Who::Visitor { probe: false };

fn run_until(world: &mut World, at_most: Duration, done: impl Fn(&World) -> bool) -> Instant {
    let end = world.now() + at_most;
    while world.now() < end && !done(world) {
        world.turn();
    }
    world.now()
}

fn is_over(world: &World) -> bool {
    world.actors.all.iter().all(|actor| actor.outcome.is_some())
}

fn worlds() -> impl Iterator<Item = (u64, World)> {
    (0..600).filter_map(|seed| Some((seed, under_way(seed)?))).take(20)
}

#[test]
fn a_conn_that_alone_gets_nothing_through_is_found_within_a_minute() {
    let mut found = 0;
    for (seed, mut world) in worlds() {
        assert!(forget_all(&mut world) > 0, "there is a conn");
        let begun = world.now();
        let took = run_until(&mut world, FOUND, is_over).since(begun);
        assert!(is_over(&world), "seed {seed}: not over after {took:?}");
        assert!(world.breach.is_none(), "seed {seed}: {:?}", world.breach);
        found += usize::from(took > FOUND / 2);
    }
    assert!(found > 5, "in the others all that was left was on its way already: {found}");
}

#[test]
fn a_cut_of_the_whole_line_costs_no_transfer_however_late_its_conn_is_heard_again() {
    let mut worlds_seen = 0;
    for (seed, mut world) in worlds() {
        let (client, server) = (world.client_hosts[0], world.server_host);
        world.kernel.cut(client, server);
        run_until(&mut world, CUT, |_| false);
        world.kernel.heal(client, server);
        run_until(&mut world, Duration::from_secs(300), is_over);
        let outcomes: Vec<_> = world.actors.all.iter().map(|actor| actor.outcome).collect();
        assert_eq!(outcomes, [Some(Outcome::Whole); 2], "seed {seed}: {:?}", world.breach);
        worlds_seen += 1;
    }
    assert_eq!(worlds_seen, 20);
}
