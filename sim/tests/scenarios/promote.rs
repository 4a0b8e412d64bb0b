//! Who may be Primary, and how it is handed over.

use replicator::effect::Answer;
use replicator::event::{ConnectedClients, Order};
use replicator::layout::superblock::DurableDisk;
use replicator::state::{DiskState, Role};
use replicator::units::Span;
use sim::world::{ALPHA, BETA, World, WorldOptions};

use crate::{pass, promoted};

#[test]
fn the_first_promotion_of_two_zeroed_nodes_needs_no_force_and_copies_nothing() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        assert_eq!(world.role(ALPHA), Role::Primary);
        world.assert_converges();
        assert_eq!(world.status(ALPHA).connections[0].peer_devices[0].caught_up, 0);
    }
}

#[test]
fn the_first_promotion_waits_for_every_voter() {
    let mut world = World::started(1, WorldOptions::default());
    world.kill_tiebreaker();
    pass(&mut world, 100);
    assert!(world.promote(ALPHA, 1000).is_err());
    world.start_tiebreaker();
    world.promote(ALPHA, 5000).expect("all are there");
}

#[test]
fn an_inconsistent_disk_is_not_promoted() {
    let disks = [DurableDisk::Inconsistent, DurableDisk::UpToDate];
    let mut world = World::started(1, WorldOptions { disks, ..WorldOptions::default() });
    assert_eq!(world.promote(ALPHA, 1000).expect_err("I6").name, "disk-inconsistent");
}

#[test]
fn a_second_primary_is_refused_while_the_first_is_linked() {
    let mut world = promoted(2);
    assert_eq!(world.promote(BETA, 1000).expect_err("one is enough").name, "peer-is-primary");
    assert_eq!(world.role(ALPHA), Role::Primary);
}

#[test]
fn the_role_is_handed_over_back_and_forth_with_writes_in_between() {
    for seed in 0..5 {
        let mut world = promoted(seed);
        for round in 0..6 {
            let (from, to) = if round % 2 == 0 { (ALPHA, BETA) } else { (BETA, ALPHA) };
            for at in 0..20 {
                world.write_now(from, at * 8192 + round * 512, 4096);
            }
            world.demote(from).expect("no client is connected");
            pass(&mut world, 50);
            world.promote(to, 2000).expect("it is in sync");
            world.read_everything(to);
        }
        world.assert_converges();
    }
}

#[test]
fn a_forced_demotion_in_the_middle_of_writes_leaves_equal_replicas() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        for at in 0..30 {
            world.write(ALPHA, at * 4096, 4096);
        }
        world
            .ask_operator(ALPHA, Order::Demote { clients: ConnectedClients::Disconnect })
            .expect("force is enough");
        pass(&mut world, 100);
        assert_eq!(world.disk(BETA), DiskState::UpToDate);
        world.promote(BETA, 2000).expect("it is in sync");
        world.read_everything(BETA);
        world.assert_converges();
    }
}

#[test]
fn a_node_with_a_client_is_demoted_only_by_force() {
    let mut world = promoted(4);
    world.write_now(ALPHA, 0, 4096);
    world.clients_connect(ALPHA, 1);
    let refused = world.demote(ALPHA).expect_err("a client is connected");
    assert_eq!((refused.name, refused.code.exit_status()), ("in-use", 11));
    assert_eq!(world.role(ALPHA), Role::Primary);
    world.write_now(ALPHA, 4096, 4096);
    let forced = Order::Demote { clients: ConnectedClients::Disconnect };
    world.ask_operator(ALPHA, forced).expect("force is enough");
    world.promote(BETA, 10_000).expect("it is in sync");
    world.read_everything(BETA);
}

#[test]
fn a_demotion_finishes_what_arrived_before_it() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        for at in 0..30 {
            world.write(ALPHA, at * 4096, 4096);
        }
        world.demote(ALPHA).expect("no client is connected");
        world.promote(BETA, 2000).expect("it is in sync");
        world.assert_converges();
    }
}

#[test]
fn a_demotion_lets_a_member_come_back_that_it_waits_for() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.kill_tiebreaker();
        pass(&mut world, 50);
        for at in 0..30 {
            world.write(ALPHA, at * 4096, 4096);
        }
        let order = world.order(ALPHA, Order::Demote { clients: ConnectedClients::Refuse });
        world.kill(BETA);
        world.start(BETA);
        let is_answered =
            world.run_until(Span::from_millis(6000), |world| world.answers.contains_key(&order));
        assert!(is_answered, "seed {seed}\n{}", world.summaries());
        assert!(matches!(world.answers[&order], Answer::Done { .. }), "{:?}", world.answers[&order]);
    }
}

#[test]
fn a_primary_that_lost_its_peer_and_wrote_nothing_since_is_demoted_at_once() {
    let mut world = promoted(31);
    world.write_now(ALPHA, 0, 4096);
    world.kill(BETA);
    pass(&mut world, 2000);
    world.demote(ALPHA).expect("nothing is in flight");
    // The tiebreaker has heard of it: the node may change its mind.
    world.promote(ALPHA, 1000).expect("it is the set, and nobody is Primary");
}

#[test]
fn a_promotion_waits_until_another_secondary_has_shipped_what_this_node_lacks() {
    let mut left_behind = 0;
    for seed in 0..20 {
        let mut world = promoted(seed);
        for at in 0..20 {
            world.write(ALPHA, at * 4096, 4096);
        }
        pass(&mut world, seed % 3);
        for node in [ALPHA, BETA] {
            world.cut_power(node);
        }
        for node in [ALPHA, BETA] {
            world.start(node);
        }
        let is_behind =
            |world: &World| [ALPHA, BETA].map(|node| world.disk(node)).contains(&DiskState::Outdated);
        if !world.run_until(Span::from_millis(3000), is_behind) {
            continue; // Both held the same.
        }
        let behind = if world.disk(ALPHA) == DiskState::Outdated { ALPHA } else { BETA };
        world.promote(behind, 20_000).unwrap_or_else(|refused| panic!("seed {seed}: {refused:?}"));
        left_behind += 1;
    }
    assert!(left_behind > 0, "no seed left one node behind");
}
