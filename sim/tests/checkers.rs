//! The checkers themselves, one test for each invariant: a rule is broken between a replica and its disk or its peer, and
//! the checker of that rule must be the one that notices.

use replicator::event::Durability;
use replicator::layout::superblock::DurableDisk;
use replicator::units::{ByteRange, Span};
use sim::node::DiskHealth;
use sim::sabotage::Sabotage;
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, TIE, World, WorldOptions};

/// Alpha is Primary, both are in sync.
fn promoted(seed: u64) -> World {
    let mut world = World::started(seed, WorldOptions::default());
    world.promote(ALPHA, 0).expect("nothing stands against it");
    assert!(world.run_until(Span::from_millis(5000), World::is_in_sync), "{}", world.summaries());
    world
}

fn pass(world: &mut World, milliseconds: u64) {
    world.run_for(Span::from_millis(milliseconds));
}

/// Beta is away, and alpha writes until its tail moves.
fn tail_moves_without_beta(world: &mut World) {
    for block in 0..200 {
        world.write(ALPHA, block * 16_384, 4096);
    }
    pass(world, 2000);
    world.kill(BETA);
    for round in 0..256 {
        world.write_now(ALPHA, (round * 7) % 30 * 131_072, 131_072);
    }
}

/// Alpha goes on alone and writes. The tiebreaker then gets an old copy of its file back, in which beta is a member.
fn an_amnesia(world: &mut World) {
    let old = world.tiebreaker.back_up();
    world.set_cut_both([ALPHA, BETA], true);
    let write = world.write(ALPHA, 0, 4096);
    assert!(world.wait_for(write, 8000), "{}", world.summaries());
    world.write_now(ALPHA, 16_384, 4096);
    pass(world, 1000);
    world.set_cut_both([ALPHA, TIE], true);
    world.kill_tiebreaker();
    world.tiebreaker.restore(old);
    world.start_tiebreaker();
}

#[test]
#[should_panic(expected = "violation: unit 0")]
fn i1_flushes_that_are_reported_and_not_done_are_noticed_when_the_power_fails() {
    for seed in 0..20 {
        let mut world = promoted(seed);
        world.sabotage = Some(Sabotage::JournalFlushesAreLost);
        world.ask_now(ALPHA, Ask::Write(ByteRange::new(0, 4096), Durability::Flushed));
        // I3 would notice what is written back of it.
        for node in [ALPHA, BETA] {
            world.set_health(node, DiskHealth::DataStuck);
            world.cut_power(node);
        }
        world.sabotage = None;
        for node in [ALPHA, BETA] {
            world.set_health(node, DiskHealth::Good);
            world.start(node);
        }
        pass(&mut world, 2000);
        let primary = if world.promote(ALPHA, 20_000).is_ok() { ALPHA } else { BETA };
        let _ = world.promote(primary, 20_000);
        world.read_everything(primary);
    }
}

#[test]
#[should_panic(expected = "violation of I2")]
fn i2_a_deposed_primary_that_goes_on_is_noticed() {
    let mut world = promoted(2);
    an_amnesia(&mut world);
    world.promote(BETA, 20_000).expect("the tiebreaker has forgotten that beta is out");
    pass(&mut world, 1);
    world.write_now(ALPHA, 4096, 4096);
}

#[test]
#[should_panic(expected = "violation of I3")]
fn i3_a_write_back_of_what_another_member_has_not_flushed_is_noticed() {
    let mut world = promoted(3);
    world.sabotage = Some(Sabotage::EverythingIsCalledStable);
    world.set_health(ALPHA, DiskHealth::Stuck);
    for block in 0..10 {
        world.write(ALPHA, block * 4096, 4096);
        pass(&mut world, 100);
    }
    pass(&mut world, 2000);
}

#[test]
#[should_panic(expected = "violation of I4")]
fn i4_a_mark_that_vanishes_from_the_disk_is_noticed() {
    let mut world = promoted(4);
    tail_moves_without_beta(&mut world);
    pass(&mut world, 2000);
    world.clear_marks(ALPHA);
    world.cut_power(ALPHA);
}

#[test]
#[should_panic(expected = "violation of I5")]
fn i5_a_write_in_a_generation_that_is_not_on_the_disk_is_noticed() {
    let mut world = World::started(5, WorldOptions::default());
    world.sabotage = Some(Sabotage::SuperblocksAreLost(ALPHA));
    world.promote(ALPHA, 1000).expect("its disk lies");
    world.write(ALPHA, 0, 4096);
    pass(&mut world, 100);
}

#[test]
#[should_panic(expected = "violation of I6")]
fn i6_a_promotion_of_an_inconsistent_disk_is_noticed() {
    let disks = [DurableDisk::Inconsistent, DurableDisk::UpToDate];
    let mut world = World::new(6, WorldOptions { disks, ..WorldOptions::default() });
    let lineage = world.nodes[BETA.index()].superblock().lineage;
    world.forge_superblock(ALPHA, |superblock| {
        superblock.disk = DurableDisk::UpToDate;
        superblock.lineage = lineage;
    });
    world.start_tiebreaker();
    world.start(ALPHA);
    world.start(BETA);
    pass(&mut world, 1500);
    world.promote(ALPHA, 10_000).expect("its disk lies");
}

#[test]
#[should_panic(expected = "violation of I7")]
fn i7_a_tail_that_moves_before_the_marks_are_on_the_disk_is_noticed() {
    let mut world = promoted(7);
    world.sabotage = Some(Sabotage::BitmapPagesAreLost(ALPHA));
    tail_moves_without_beta(&mut world);
}

#[test]
#[should_panic(expected = "violation of I7")]
fn i7_a_tail_that_moves_before_the_data_area_is_flushed_is_noticed() {
    let mut world = promoted(8);
    world.sabotage = Some(Sabotage::DataFlushesAreLost(ALPHA));
    for round in 0..256 {
        world.write_now(ALPHA, (round * 7) % 8 * 131_072, 131_072);
    }
}

#[test]
#[should_panic(expected = "violation of I8")]
fn i8_completed_writes_that_are_taken_back_without_an_order_are_noticed() {
    let mut world = promoted(9);
    an_amnesia(&mut world);
    world.kill(ALPHA);
    world.promote(BETA, 20_000).expect("the tiebreaker has forgotten that beta is out");
    world.write_now(BETA, 8192, 4096);
    world.set_cut_both([ALPHA, BETA], false);
    world.set_cut_both([ALPHA, TIE], false);
    world.start(ALPHA);
    pass(&mut world, 10_000);
}
