//! What `status` says to do about what is out of the ordinary.

use replicator::units::{NodeId, Span};
use sim::world::{ALPHA, BETA, World};

use crate::{pass, promoted};

/// Names of everything that is out of the ordinary.
fn states(world: &World, node: NodeId) -> Vec<&'static str> {
    world.status(node).advice.into_iter().map(|advice| advice.state).collect()
}

/// Beta was away and is on its way back, as a node says.
fn catching_up(seed: u64, node: NodeId, state: &str) -> World {
    let mut world = promoted(seed);
    world.kill(BETA);
    for at in 0..40 {
        world.write_now(ALPHA, at * 131_072, 131_072);
    }
    world.start(BETA);
    let says_so = |world: &World| states(world, node) == [state];
    assert!(world.run_until(Span::from_millis(5000), says_so), "{}", world.summaries());
    world
}

#[test]
fn a_pair_in_order_needs_no_advice() {
    let world = promoted(1);
    assert_eq!(states(&world, ALPHA), [""; 0]);
    assert_eq!(states(&world, BETA), [""; 0]);
}

#[test]
fn a_primary_names_the_node_that_is_away_and_the_one_that_catches_up() {
    let mut world = promoted(2);
    world.kill(BETA);
    let write = world.write(ALPHA, 0, 4096);
    assert!(world.wait_for(write, 5000), "{}", world.summaries());
    assert_eq!(states(&world, ALPHA), ["not-connected"]);
    catching_up(3, ALPHA, "catching-up");
}

#[test]
fn a_secondary_says_that_it_catches_up_and_that_it_is_outdated_if_it_never_gets_there() {
    let mut world = catching_up(4, BETA, "sync-target");
    world.kill(ALPHA);
    pass(&mut world, 5000);
    assert_eq!(states(&world, BETA), ["not-connected", "disk-outdated"]);
}

#[test]
fn a_secondary_that_lost_its_primary_says_that_its_copy_may_be_old_and_that_it_cannot_ask_anybody() {
    let mut world = promoted(5);
    world.kill(ALPHA);
    pass(&mut world, 5000);
    assert_eq!(states(&world, BETA), ["not-connected", "disk-consistent"]);
    world.kill_tiebreaker();
    pass(&mut world, 5000);
    assert_eq!(states(&world, BETA), ["quorum-lost", "not-connected", "not-connected", "disk-consistent"]);
}
