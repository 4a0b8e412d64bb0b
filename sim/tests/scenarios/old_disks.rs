//! Disks that are older than anybody thinks, damaged, or gone.

use replicator::journal::recovery_case::RecoveryCase;
use replicator::layout::superblock::DurableDisk;
use replicator::state::{ConnectionState, DiskState};
use replicator::units::{NodeId, Span};
use sim::node::{DiskHealth, NodeOptions};
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, BackUp, World, WorldOptions};

use crate::{in_sync, lsn, pass, promoted, promoted_with, rule};

/// Beta's disks as they were before alpha's newest writes. Neither daemon has been down since.
fn yesterday(world: &mut World) -> BackUp {
    for block in 0..10 {
        world.write_now(ALPHA, block * 4096, 4096);
    }
    world.assert_converges();
    let copy = world.back_up(BETA);
    for block in 0..10 {
        world.write_now(ALPHA, block * 4096, 4096);
    }
    world.ask_now(ALPHA, Ask::Flush);
    copy
}

#[test]
fn a_member_whose_disks_were_put_back_is_not_promoted_when_the_primary_dies() {
    for reboots in [false, true] {
        for seed in 0..10 {
            let mut world = promoted(seed);
            let copy = yesterday(&mut world);
            // Nobody takes beta out of the set: alpha dies at once.
            world.kill(BETA);
            world.kill(ALPHA);
            if reboots {
                world.cut_power(BETA);
            }
            world.put_back(&copy);
            world.start(BETA);
            let refused = world.promote(BETA, 15_000).expect_err("alpha alone has what was flushed");
            assert_eq!(refused.name, "member-missing", "seed {seed}");
            world.start(ALPHA);
            pass(&mut world, 2000);
            world.promote(ALPHA, 20_000).expect("it is the only member that lost nothing");
            world.read_everything(ALPHA);
            world.assert_converges();
        }
    }
}

#[test]
fn a_disk_that_was_put_back_behind_its_peers_journal_is_compared_block_by_block_and_not_called_equal() {
    for seed in 0..5 {
        let node = NodeOptions { ring_bytes: 4 << 20, ..NodeOptions::default() };
        let mut world = promoted_with(seed, WorldOptions { node, ..WorldOptions::default() });
        let copy = yesterday(&mut world);
        // What beta flushed since is in no journal any more, and in no bitmap.
        for round in 0..400 {
            world.write_now(ALPHA, round % 64 * 16_384, 16_384);
        }
        world.assert_converges();
        assert!(lsn(&world, ALPHA).oldest_kept.0 > 30, "the ring has gone round");
        world.kill(BETA);
        world.put_back(&copy);
        world.start(BETA);
        let went_back =
            |world: &World| rule(world, ALPHA, BETA).is_some_and(|rule| rule.ends_with("WentBack"));
        assert!(world.run_until(Span::from_millis(5000), went_back), "seed {seed}\n{}", world.summaries());
        world.assert_converges();
        world.kill(ALPHA);
        world.promote(BETA, 20_000).expect("it is in the set");
        world.read_everything(BETA);
    }
}

/// Alpha has written alone, and its journal has a hole below what it had flushed. Beta is whole and older.
fn a_hole_in_what_was_written_alone(seed: u64) -> World {
    let mut world = promoted(seed);
    for round in 0..400 {
        world.write_now(ALPHA, round % 30 * 131_072, 131_072);
    }
    world.kill(BETA);
    world.write_now(ALPHA, 0, 4096);
    world.ask_now(ALPHA, Ask::Flush);
    pass(&mut world, 2000);
    world.kill(ALPHA);
    punch(&mut world, ALPHA);
    assert_eq!(world.start_whatever_it_holds(ALPHA), RecoveryCase::Corrupt);
    world
}

fn punch(world: &mut World, node: NodeId) {
    let journal = world.nodes[node.index()].superblock().zones.journal();
    let tail = world.nodes[node.index()].superblock().journal.tail_offset;
    world.nodes[node.index()].metadata.write_through(journal.offset + tail, &[0; 4096]);
}

#[test]
fn a_damaged_disk_that_wrote_alone_overwrites_nobody_and_is_not_overwritten_unasked() {
    for seed in 0..3 {
        let mut world = a_hole_in_what_was_written_alone(seed);
        let before = world.nodes[ALPHA.index()].data.image();
        world.start(BETA);
        let whole = world.nodes[BETA.index()].data.image();
        pass(&mut world, 10_000);
        assert_eq!(rule(&world, BETA, ALPHA).as_deref(), Some("Damaged"), "{}", world.summaries());
        let state = world.status(BETA).connections[0].connection_state;
        assert_eq!(state, ConnectionState::StandAlone, "it stops, and says so");
        assert_eq!(world.disk(ALPHA), DiskState::Inconsistent);
        assert!(world.nodes[BETA.index()].data.image() == whole, "seed {seed}: beta took from a broken disk");
        assert!(
            world.nodes[ALPHA.index()].data.image() == before,
            "seed {seed}: completed writes went unasked"
        );
        for node in [ALPHA, BETA] {
            assert!(world.promote(node, 5000).is_err(), "neither holds everything, whole");
        }
    }
}

#[test]
fn two_nodes_without_a_usable_disk_copy_nothing_and_say_so() {
    let mut world = promoted(1);
    world.write_now(ALPHA, 0, 4096);
    for node in [ALPHA, BETA] {
        world.kill(node);
        world.forge_superblock(node, |superblock| superblock.disk = DurableDisk::Inconsistent);
        world.watch.seen[node.index()].is_damaged = true;
    }
    for node in [ALPHA, BETA] {
        world.start(node);
    }
    pass(&mut world, 5000);
    for (node, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
        assert_eq!(rule(&world, node, peer).as_deref(), Some("BothDamaged"), "{}", world.summaries());
        assert_eq!(world.status(node).connections[0].connection_state, ConnectionState::StandAlone);
        assert_eq!(world.promote(node, 1000).expect_err("I6").name, "disk-inconsistent");
    }
}

#[test]
fn a_new_disk_of_unknown_content_is_filled_from_the_one_that_was_written() {
    for seed in 0..5 {
        let disks = [DurableDisk::UpToDate, DurableDisk::Inconsistent];
        let mut world = World::started(seed, WorldOptions { disks, ..WorldOptions::default() });
        // Whatever lay on it before.
        let old = bytes::Bytes::from(vec![7; 4096]);
        world.nodes[BETA.index()].data.write(40_960, [&old]);
        world.watch.seen[BETA.index()].is_damaged = true;
        assert_eq!(world.promote(BETA, 1000).expect_err("I6").name, "disk-inconsistent");
        world.promote(ALPHA, 10_000).expect("its disk is called UpToDate");
        world.write_now(ALPHA, 0, 4096);
        world.assert_converges();
        world.kill(ALPHA);
        world.promote(BETA, 20_000).expect("it is in the set");
        world.read_everything(BETA);
    }
}

#[test]
fn two_new_disks_of_unknown_content_wait_for_a_decision() {
    let disks = [DurableDisk::Inconsistent; 2];
    let mut world = World::started(1, WorldOptions { disks, ..WorldOptions::default() });
    pass(&mut world, 3000);
    for (node, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
        assert_eq!(rule(&world, node, peer).as_deref(), Some("BothNew"), "{}", world.summaries());
        assert_eq!(world.status(node).connections[0].connection_state, ConnectionState::StandAlone);
        assert_eq!(world.promote(node, 1000).expect_err("I6").name, "disk-inconsistent");
    }
}

#[test]
fn the_set_is_never_empty_when_the_disk_of_its_last_member_fails() {
    for seed in 0..5 {
        let mut world = promoted(seed);
        world.kill(BETA);
        world.write_now(ALPHA, 0, 4096);
        world.ask_now(ALPHA, Ask::Flush);
        world.set_health(ALPHA, DiskHealth::Failing);
        let write = world.write(ALPHA, 4096, 4096);
        pass(&mut world, 5000);
        assert!(!world.is_done(write));
        assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
        world.kill(ALPHA);
        world.start(BETA);
        pass(&mut world, 8000);
        assert!(world.promote(BETA, 5000).is_err(), "seed {seed}: it lacks a flushed write");
        // The disk was only unplugged: it comes back with its node.
        world.set_health(ALPHA, DiskHealth::Good);
        world.start(ALPHA);
        pass(&mut world, 1000);
        world.promote(ALPHA, 20_000).expect("it is the set");
        world.read_everything(ALPHA);
        world.assert_converges();
    }
}
