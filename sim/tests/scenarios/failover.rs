//! The loss of the Primary, and what becomes of it when it returns.

use replicator::state::Role;
use sim::world::{ALPHA, BETA, World};

use crate::{in_sync, pass, promoted};

fn busy(world: &mut World) {
    for at in 0..40 {
        world.write(ALPHA, at * 4096, 4096);
        if at % 8 == 7 {
            pass(world, 1);
        }
    }
}

#[test]
fn a_promotion_after_the_primarys_death_waits_for_the_lease_and_loses_nothing_acknowledged() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        busy(&mut world);
        world.kill(ALPHA);
        let dead_since = world.now;
        world.promote(BETA, 20_000).expect("beta is in the set");
        let waited = world.now - dead_since;
        assert!((4_900_000..7_000_000).contains(&waited), "twice the timeout: {waited}");
        world.read_everything(BETA);
        world.write_now(BETA, 0, 4096);
        world.start(ALPHA);
        world.assert_converges();
        assert_eq!(in_sync(&world, BETA), ["alpha", "beta"]);
        world.read_everything(BETA);
    }
}

#[test]
fn without_the_tiebreaker_the_survivor_is_not_promoted() {
    let mut world = promoted(1);
    // A tiebreaker that has not stored a record yet helps nobody: it may have lost one.
    pass(&mut world, 1000);
    world.kill_tiebreaker();
    world.kill(ALPHA);
    assert_eq!(world.promote(BETA, 10_000).expect_err("one of three").name, "no-quorum");
    world.start_tiebreaker();
    world.promote(BETA, 20_000).expect("two of three");
}

#[test]
fn the_hello_of_a_restarted_primary_ends_its_lease() {
    let mut world = promoted(2);
    busy(&mut world);
    world.kill(ALPHA);
    pass(&mut world, 100);
    world.start(ALPHA);
    pass(&mut world, 500);
    let before = world.now;
    world.promote(BETA, 20_000).expect("beta is in the set");
    assert!(world.now - before < 2_000_000, "it waited {} us", world.now - before);
    world.read_everything(BETA);
    world.assert_converges();
}

#[test]
fn after_a_power_cut_of_both_either_is_promoted_once_both_are_back() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        busy(&mut world);
        for node in [ALPHA, BETA] {
            world.cut_power(node);
        }
        let (first, second) = if seed % 2 == 0 { (ALPHA, BETA) } else { (BETA, ALPHA) };
        world.start(first);
        pass(&mut world, 8000);
        let refused = world.promote(first, 2000).expect_err("the other may hold more");
        assert_eq!(refused.name, "member-missing");
        world.start(second);
        pass(&mut world, 2000);
        let promoted = world.promote(first, 10_000).is_ok() || world.promote(second, 10_000).is_ok();
        assert!(promoted, "seed {seed}\n{}", world.summaries());
        let primary = if world.role(first) == Role::Primary { first } else { second };
        world.read_everything(primary);
        world.assert_converges();
    }
}

#[test]
fn what_the_old_primary_alone_held_is_cut_and_never_returns() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        // Alpha journals what beta never gets, and dies.
        world.set_cut(ALPHA, BETA, true);
        busy(&mut world);
        pass(&mut world, 300);
        world.kill(ALPHA);
        world.promote(BETA, 20_000).expect("beta is in the set");
        world.set_cut(ALPHA, BETA, false);
        world.read_everything(BETA);
        world.start(ALPHA);
        world.assert_converges();
        assert!(world.has_noticed(ALPHA, "journal-cut"), "seed {seed}");
        // Whatever power cuts leave of what was cut, it stays away.
        for _ in 0..3 {
            world.cut_power(ALPHA);
            world.start(ALPHA);
            world.write_now(BETA, 8192, 4096);
            world.assert_converges();
        }
        world.read_everything(BETA);
    }
}

#[test]
fn a_new_primary_that_loses_power_with_an_unflushed_inheritance_loses_nothing() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        busy(&mut world);
        world.kill(ALPHA);
        world.promote(BETA, 20_000).expect("beta is in the set");
        world.read_everything(BETA);
        world.cut_power(BETA);
        world.start(ALPHA);
        world.start(BETA);
        pass(&mut world, 8000);
        let promoted = world.promote(BETA, 10_000).is_ok() || world.promote(ALPHA, 10_000).is_ok();
        assert!(promoted, "seed {seed}\n{}", world.summaries());
        let primary = if world.role(ALPHA) == Role::Primary { ALPHA } else { BETA };
        world.read_everything(primary);
        world.assert_converges();
    }
}
