//! The loss of the Secondary: freeze, a majority without it, its return.

use replicator::event::Durability;
use replicator::state::{DiskState, Role};
use replicator::units::{ByteRange, Span};
use sim::node::DiskHealth;
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, TIE, World};

use crate::{in_sync, pass, promoted};

#[test]
fn a_lost_secondary_is_taken_out_of_the_set_by_a_majority_before_anything_completes_without_it() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        let generations = world.status(ALPHA).lineage.len();
        world.kill(BETA);
        let write = world.write(ALPHA, 0, 4096);
        assert!(world.wait_for(write, 5000), "{}", world.summaries());
        assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
        let recorded = world.tiebreaker.running.as_ref().expect("it runs").record().in_sync;
        assert!(!recorded.has_node(BETA), "the majority is alpha and the tiebreaker");
        assert_eq!(world.status(ALPHA).lineage.len(), generations + 1);
        world.start(BETA);
        world.assert_converges();
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"]);
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_silent_secondary_is_waited_for_no_longer_than_the_timeout() {
    let mut world = promoted(1);
    world.set_cut_both([ALPHA, BETA], true);
    let write = world.write(ALPHA, 0, 4096);
    pass(&mut world, 1500);
    assert!(!world.is_done(write));
    assert!(world.wait_for(write, 4000), "{}", world.summaries());
    world.set_cut_both([ALPHA, BETA], false);
    world.assert_converges();
    world.read_everything(ALPHA);
}

#[test]
fn without_a_majority_everything_waits_until_the_tiebreaker_returns() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.kill_tiebreaker();
        pass(&mut world, 50);
        world.kill(BETA);
        let write = world.write(ALPHA, 0, 4096);
        pass(&mut world, 100);
        let read = world.ask(ALPHA, Ask::Read(ByteRange::new(0, 4096)));
        pass(&mut world, 20_000);
        assert!(!world.is_done(write) && !world.is_done(read), "seed {seed}");
        assert!(world.status(ALPHA).frozen.is_some());
        world.start_tiebreaker();
        assert!(world.wait_for(write, 2000) && world.wait_for(read, 1000), "{}", world.summaries());
        world.start(BETA);
        world.assert_converges();
    }
}

#[test]
fn frozen_writes_are_sent_again_when_the_peer_returns_first_and_no_generation_is_made() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.kill_tiebreaker();
        pass(&mut world, 50);
        let generations = world.status(ALPHA).lineage.len();
        world.kill(BETA);
        let write = world.write(ALPHA, 0, 4096);
        pass(&mut world, 10_000);
        assert!(!world.is_done(write));
        world.start(BETA);
        assert!(world.wait_for(write, 5000), "seed {seed}\n{}", world.summaries());
        world.start_tiebreaker();
        world.assert_converges();
        assert_eq!(world.status(ALPHA).lineage.len(), generations, "seed {seed}");
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_link_that_flaps_while_the_tiebreaker_is_away_makes_no_generation_and_takes_nobody_out_for_good() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        world.kill_tiebreaker();
        pass(&mut world, 50);
        let generations = world.status(ALPHA).lineage.len();
        for flap in 0..4 {
            world.set_cut_both([ALPHA, BETA], true);
            let write = world.write(ALPHA, flap * 4096, 4096);
            pass(&mut world, 4000 + 100 * seed);
            assert!(!world.is_done(write), "seed {seed}");
            world.set_cut_both([ALPHA, BETA], false);
            assert!(world.wait_for(write, 4000), "seed {seed}, flap {flap}\n{}", world.summaries());
            assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"], "it was completed with beta");
            assert_eq!(world.status(ALPHA).lineage.len(), generations, "seed {seed}, flap {flap}");
        }
        world.start_tiebreaker();
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_member_that_was_away_while_nobody_wrote_makes_no_generation() {
    let mut world = promoted(3);
    world.write_now(ALPHA, 0, 4096);
    let generations = world.status(ALPHA).lineage.len();
    world.set_cut_both([ALPHA, BETA], true);
    pass(&mut world, 8000);
    assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
    world.set_cut_both([ALPHA, BETA], false);
    world.assert_converges();
    world.write_now(ALPHA, 0, 4096);
    assert_eq!(world.status(ALPHA).lineage.len(), generations);
}

#[test]
fn a_lost_member_that_is_linked_again_but_stuck_holds_nobody_up_for_long() {
    let mut world = promoted(4);
    world.write_now(ALPHA, 0, 4096);
    let generations = world.status(ALPHA).lineage.len();
    world.set_cut_both([ALPHA, BETA], true);
    pass(&mut world, 8000);
    world.set_health(BETA, DiskHealth::Stuck);
    world.set_cut_both([ALPHA, BETA], false);
    pass(&mut world, 3000);
    let write = world.write(ALPHA, 0, 4096);
    assert!(world.wait_for(write, 1500), "{}", world.summaries());
    assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
    assert_eq!(world.status(ALPHA).lineage.len(), generations + 1, "beta has not seen it");
    world.set_health(BETA, DiskHealth::Good);
    world.assert_converges();
    world.read_everything(ALPHA);
}

#[test]
fn a_member_that_lost_power_is_no_member_however_soon_it_returns() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        for at in 0..10 {
            world.write(ALPHA, at * 4096, 4096);
        }
        pass(&mut world, 1);
        world.cut_power(BETA);
        world.start(BETA);
        world.assert_converges();
        let versions = world.status(ALPHA).record_version;
        assert!(versions >= 3, "seed {seed}: it left the set and entered it as another run: {versions}");
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"]);
        world.read_everything(ALPHA);
    }
}

#[test]
fn an_excluded_node_that_tries_to_be_promoted_again_and_again_does_not_depose_the_primary() {
    let mut world = promoted(7);
    world.set_cut_both([ALPHA, BETA], true);
    world.write(ALPHA, 0, 4096);
    pass(&mut world, 8000);
    let term = world.status(ALPHA).term;
    for _ in 0..5 {
        let refused = world.promote(BETA, 500).expect_err("it is not in the set");
        assert_eq!(refused.name, "member-missing", "{refused:?}");
    }
    world.set_cut_both([ALPHA, BETA], false);
    world.assert_converges();
    assert_eq!((world.role(ALPHA), world.status(ALPHA).term), (Role::Primary, term));
    world.kill(ALPHA);
    pass(&mut world, 100);
    world.promote(BETA, 20_000).expect("it is in the set again");
}

#[test]
fn an_excluded_node_is_refused_after_the_primary_has_died() {
    let mut world = promoted(8);
    world.set_cut_both([ALPHA, BETA], true);
    let write = world.write(ALPHA, 0, 4096);
    assert!(world.wait_for(write, 8000));
    world.kill(ALPHA);
    pass(&mut world, 10_000);
    assert_eq!(world.promote(BETA, 10_000).expect_err("alpha alone has the write").name, "member-missing");
    world.set_cut_both([ALPHA, BETA], false);
    world.start(ALPHA);
    pass(&mut world, 1000);
    world.promote(ALPHA, 20_000).expect("it is the set");
    world.read_everything(ALPHA);
    world.assert_converges();
}

#[test]
fn a_peer_that_was_proposed_for_the_set_counts_from_then_on() {
    for seed in 0..30 {
        let mut world = promoted(seed);
        world.kill(BETA);
        world.write_now(ALPHA, 0, 4096);
        world.start(BETA);
        // Beta catches up and is proposed while the answers of the tiebreaker do not arrive.
        world.set_cut(TIE, ALPHA, true);
        pass(&mut world, 700);
        let late: Vec<u64> = (0..8)
            .map(|at| world.ask(ALPHA, Ask::Write(ByteRange::new(at * 4096, 4096), Durability::Flushed)))
            .collect();
        pass(&mut world, seed * 10);
        world.kill(ALPHA);
        world.set_cut(TIE, ALPHA, false);
        pass(&mut world, 100);
        if world.promote(BETA, 20_000).is_ok() {
            world.read_everything(BETA);
        }
        assert!(late.iter().all(|id| world.is_done(*id) || world.operations[id].lost_at.is_some()));
    }
}

#[test]
fn a_primary_behind_a_one_way_cut_answers_no_read_after_its_lease() {
    for (from, to) in [(ALPHA, BETA), (BETA, ALPHA)] {
        let mut world = promoted(9);
        world.write_now(ALPHA, 0, 4096);
        world.set_cut(from, to, true);
        world.set_cut_both([ALPHA, TIE], true);
        pass(&mut world, 4000);
        let read = world.ask(ALPHA, Ask::Read(ByteRange::new(0, 4096)));
        pass(&mut world, 1000);
        assert!(!world.is_done(read), "beta may be Primary by now");
        assert!(world.promote(BETA, 20_000).is_ok(), "{}", world.summaries());
        world.write_now(BETA, 0, 4096);
        assert!(!world.is_done(read));
        world.set_cut(from, to, false);
        world.set_cut_both([ALPHA, TIE], false);
        assert!(world.run_until(Span::from_millis(5000), |world| world.role(ALPHA) == Role::Secondary));
        world.assert_converges();
        assert!(!world.is_done(read), "a deposed Primary answers nothing");
        world.read_everything(BETA);
        assert_eq!(world.disk(ALPHA), DiskState::UpToDate);
    }
}

#[test]
fn a_reset_link_costs_nothing_but_time() {
    for seed in 0..20 {
        let mut world: World = promoted(seed);
        for round in 0..10 {
            for at in 0..5 {
                world.write(ALPHA, at * 4096 + round * 512, 4096);
            }
            pass(&mut world, round);
            world.reset([ALPHA, BETA]);
            pass(&mut world, 300);
        }
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_smaller_set_that_no_majority_stored_promotes_nobody_after_a_power_cut() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        pass(&mut world, 3000);
        world.kill_tiebreaker();
        for at in 0..10 {
            world.write_now(ALPHA, at * 4096, 4096);
        }
        world.kill(BETA);
        // Alpha proposes itself alone; only its own disk ever hears of it.
        pass(&mut world, 50);
        world.cut_power(ALPHA);
        world.start_tiebreaker();
        world.start(ALPHA);
        pass(&mut world, 8000);
        assert_eq!(world.promote(ALPHA, 10_000).expect_err("beta has it all").name, "member-missing");
        world.start(BETA);
        pass(&mut world, 2000);
        let promoted = world.promote(BETA, 20_000).is_ok() || world.promote(ALPHA, 20_000).is_ok();
        assert!(promoted, "seed {seed}\n{}", world.summaries());
        let primary = if world.role(ALPHA) == Role::Primary { ALPHA } else { BETA };
        world.read_everything(primary);
        world.assert_converges();
    }
}

#[test]
fn whoever_is_recorded_in_the_set_can_prove_it_after_a_crash() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        world.kill(BETA);
        world.write_now(ALPHA, 0, 4096);
        world.delays.io = 20_000;
        world.start(BETA);
        let has_entered = |world: &World| in_sync(world, ALPHA).len() == 2 && world.is_in_sync();
        assert!(world.run_until(Span::from_millis(20_000), has_entered), "{}", world.summaries());
        world.kill(ALPHA);
        world.kill(BETA);
        world.start(BETA);
        world.promote(BETA, 20_000).unwrap_or_else(|refused| panic!("seed {seed}: {refused:?}"));
        world.read_everything(BETA);
    }
}

#[test]
fn a_flush_that_has_nothing_to_wait_for_waits_all_the_same_while_its_primary_is_frozen() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        let settles = world.ask(ALPHA, Ask::Flush);
        assert!(world.wait_for(settles, 5000), "{}", world.summaries());
        for peer in [BETA, TIE] {
            world.set_cut_both([ALPHA, peer], true);
        }
        pass(&mut world, 8000);
        let flush = world.ask(ALPHA, Ask::Flush);
        assert!(!world.wait_for(flush, 5000), "seed {seed}: another node may reign by now");
        for peer in [BETA, TIE] {
            world.set_cut_both([ALPHA, peer], false);
        }
        assert!(world.wait_for(flush, 10_000), "{}", world.summaries());
    }
}
