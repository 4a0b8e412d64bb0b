//! What `status` says to do about what is out of the ordinary.

use replicator::config::ReplicationProtocol;
use replicator::event::Order;
use replicator::state::ReplicationState;
use replicator::units::{NodeId, Span};
use sim::world::{ALPHA, BETA, World};

use crate::{in_sync, pass, promoted, with_protocol};

/// Names of everything that is out of the ordinary.
fn states(world: &World, node: NodeId) -> Vec<&'static str> {
    world.status(node).advice.into_iter().map(|advice| advice.state).collect()
}

/// Beta was away and is on its way back, as a node says.
fn catching_up(seed: u64, node: NodeId, state: &'static str) -> World {
    let mut world = promoted(seed);
    world.kill(BETA);
    for at in 0..40 {
        world.write_now(ALPHA, at % 30 * 131_072, 131_072);
    }
    world.start(BETA);
    let says_so = |world: &World| states(world, node).contains(&state);
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
fn a_pair_on_protocol_a_or_b_that_is_in_order_needs_no_advice_on_either_node() {
    for protocol in [ReplicationProtocol::A, ReplicationProtocol::B] {
        let mut world = World::started(7, with_protocol(protocol));
        world.promote(ALPHA, 0).expect("nothing stands against it");
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 2000);
        for node in [ALPHA, BETA] {
            assert_eq!(states(&world, node), [""; 0], "{}", world.summaries());
            let peer = &world.status(node).connections[0].peer_devices[0];
            assert_eq!(peer.replication_state, ReplicationState::Established);
            assert_eq!(peer.out_of_sync, 0);
            world
                .ask_operator(node, Order::WaitSync { wait: Span::from_millis(1000) })
                .expect("it is in sync");
        }
        world.kill(BETA);
        for at in 0..40 {
            world.write_now(ALPHA, at % 30 * 131_072, 131_072);
        }
        world.start(BETA);
        let catches_up = |world: &World| states(world, BETA).contains(&"sync-target");
        assert!(world.run_until(Span::from_millis(5000), catches_up), "{}", world.summaries());
        world.ask_operator(BETA, Order::WaitSync { wait: Span::from_millis(9000) }).expect("it gets there");
        pass(&mut world, 3000);
        assert_eq!(states(&world, BETA), [""; 0]);
        world.kill(ALPHA);
        pass(&mut world, 5000);
        let refused = world.promote(BETA, 1000).expect_err("it may lack the last writes");
        assert!(!refused.cure.contains("wait-sync"), "{}", refused.cure);
    }
}

#[test]
fn an_operators_disconnect_is_the_reason_for_having_no_link_until_he_connects_again() {
    let mut world = promoted(6);
    world.kill(BETA);
    world.order(ALPHA, Order::Disconnect { peer: Some(BETA) });
    pass(&mut world, 100);
    let reason = |world: &World| world.status(ALPHA).connections[0].reason.clone();
    assert_eq!(reason(&world).as_deref(), Some("disconnected by an operator"));
    world.order(ALPHA, Order::Connect { peer: Some(BETA) });
    pass(&mut world, 100);
    assert_eq!(reason(&world), None);
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

/// Alpha dies right after it has proposed to go on without beta, which died before it; both come back.
fn back_after_a_proposal(seed: u64, is_recorded: bool) -> World {
    let mut world = promoted(seed);
    world.write_now(ALPHA, 0, 4096);
    pass(&mut world, 3000);
    if !is_recorded {
        world.kill_tiebreaker();
    }
    world.kill(BETA);
    let is_alone = |world: &World| in_sync(world, ALPHA) == ["alpha"];
    assert!(world.run_until(Span::from_millis(1000), is_alone), "alpha proposes to go on alone");
    pass(&mut world, 100);
    world.kill(ALPHA);
    if !is_recorded {
        world.start_tiebreaker();
    }
    world.start(ALPHA);
    world.start(BETA);
    world
}

#[test]
fn a_node_that_the_voters_have_recorded_out_of_the_set_does_not_say_that_it_can_be_promoted() {
    for seed in 0..20 {
        let mut world = back_after_a_proposal(seed, true);
        let alpha_alone =
            |world: &World| [ALPHA, BETA].map(|node| world.status(node).can_promote.yes) == [true, false];
        assert!(world.run_until(Span::from_millis(5000), alpha_alone), "{}", world.summaries());
        pass(&mut world, 5000);
        assert!(alpha_alone(&world), "{}", world.summaries());
        assert_eq!(world.promote(BETA, 5000).expect_err("as it says").name, "not-in-sync");
        world.promote(ALPHA, 5000).expect("as it says");
        world.assert_converges();
    }
}

#[test]
fn a_node_that_only_a_lost_proposal_leaves_out_says_that_it_can_be_promoted() {
    for seed in 0..20 {
        let mut world = back_after_a_proposal(seed, false);
        let both =
            |world: &World| [ALPHA, BETA].map(|node| world.status(node).can_promote.yes) == [true, true];
        assert!(world.run_until(Span::from_millis(20_000), both), "{}", world.summaries());
        pass(&mut world, 5000);
        assert!(both(&world), "{}", world.summaries());
        world.promote(BETA, 5000).expect("as it says");
        world.assert_converges();
    }
}
