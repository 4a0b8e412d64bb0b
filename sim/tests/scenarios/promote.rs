//! Who may be Primary, and how it is handed over.

use replicator::layout::superblock::DurableDisk;
use replicator::state::{DiskState, Role};
use replicator::units::Span;
use sim::world::{ALPHA, BETA, World, WorldOptions};

/// A world with alpha as Primary, in sync.
fn promoted(seed: u64) -> World {
    let mut world = World::started(seed, WorldOptions::default());
    world.promote(ALPHA, 0).expect("nothing stands against it");
    world
}

#[test]
fn the_first_promotion_of_two_zeroed_nodes_needs_no_force_and_copies_nothing() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        assert_eq!(world.role(ALPHA), Role::Primary);
        assert_eq!(world.disk(ALPHA), DiskState::UpToDate);
        world.assert_converges();
        assert_eq!(world.status(ALPHA).connections[0].peer_devices[0].caught_up, 0);
    }
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
    world.assert_converges();
    assert_eq!(world.promote(BETA, 1000).expect_err("one is enough").name, "peer-is-primary");
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
            world.run_for(Span::from_millis(50));
            world.promote(to, 2000).expect("it is in sync");
            world.read_everything(to);
        }
        world.assert_converges();
    }
}
