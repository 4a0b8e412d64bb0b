//! Rows of the verdict, and verdicts where others drop marks, copy half a volume, or change their mind.

use replicator::event::Order;
use replicator::layout::superblock::DurableDisk;
use replicator::state::{DiskState, ReplicationState, Role};
use replicator::units::{BLOCK_BYTES, GenerationId, Span};
use sim::world::{ALPHA, BETA, World, WorldOptions};

use crate::{lsn, pass, promoted, promoted_with, rule};

/// Whether both ends have decided by these rows at one moment, within five seconds.
fn decided_by(world: &mut World, at_alpha: &str, at_beta: &str) -> bool {
    let is_decided = |world: &World| {
        let rules = [rule(world, ALPHA, BETA), rule(world, BETA, ALPHA)];
        rules.iter().map(Option::as_deref).eq([Some(at_alpha), Some(at_beta)])
    };
    world.run_until(Span::from_millis(5000), is_decided)
}

#[test]
fn both_ends_name_the_row_that_decided_each_from_its_own_side() {
    let mut world = World::started(1, WorldOptions::default());
    assert!(decided_by(&mut world, "BothNew", "BothNew"), "{}", world.summaries());
    world.promote(ALPHA, 1000).expect("nothing stands against it");
    world.write_now(ALPHA, 0, 4096);
    world.assert_converges();
    world.reset([ALPHA, BETA]);
    assert!(decided_by(&mut world, "SameGeneration", "SameGeneration"), "{}", world.summaries());
    world.assert_converges();
    world.kill(BETA);
    world.write_now(ALPHA, 0, 4096);
    world.start(BETA);
    assert!(decided_by(&mut world, "WeMovedOn", "PeerMovedOn"), "{}", world.summaries());
    world.assert_converges();

    let disks = [DurableDisk::UpToDate, DurableDisk::Inconsistent];
    let mut world = World::started(1, WorldOptions { disks, ..WorldOptions::default() });
    world.promote(ALPHA, 1000).expect("its disk is called UpToDate");
    assert!(decided_by(&mut world, "NewPeer", "NewSelf"), "{}", world.summaries());
}

#[test]
fn two_equal_ends_with_marks_are_compared_and_the_marks_are_never_dropped() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        for block in 0..10 {
            world.write_now(ALPHA, block * 4096, 4096);
        }
        world.assert_converges();
        world.demote(ALPHA).expect("no client is connected");
        pass(&mut world, 1000);
        world.kill(ALPHA);
        world.kill(BETA);
        // Of one generation and one end, and a block that differs. Alpha knows which.
        let other = bytes::Bytes::from(vec![7; 4096]);
        world.nodes[BETA.index()].data.write_through(3 * BLOCK_BYTES, &other);
        world.mark_all(ALPHA, BETA);
        for node in [ALPHA, BETA] {
            world.watch.seen[node.index()].is_damaged = true;
            world.start(node);
        }
        assert!(world.run_until(Span::from_millis(20_000), World::is_in_sync), "{}", world.summaries());
        assert!(world.has_noticed(BETA, "resync-ended"), "seed {seed}: the marks were dropped");
        world.promote(ALPHA, 20_000).expect("both hold the same");
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_tie_is_decided_alike_however_often_the_two_meet() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        world.assert_converges();
        world.demote(ALPHA).expect("no client is connected");
        pass(&mut world, 1000);
        world.kill(ALPHA);
        world.kill(BETA);
        world.mark_all(ALPHA, BETA);
        world.mark_all(BETA, ALPHA);
        let pause = |world: &mut World, is_paused| {
            for node in [ALPHA, BETA] {
                if !world.is_up(node) {
                    world.start(node);
                }
                world.ask_operator(node, Order::PauseResync { is_paused }).expect("any time");
            }
        };
        let state = |world: &World| world.status(ALPHA).connections[0].peer_devices[0].replication_state;
        let has_met = |world: &World| {
            [ReplicationState::SyncSource, ReplicationState::SyncTarget].contains(&state(world))
        };
        let mut directions = Vec::new();
        for round in 0..6 {
            pause(&mut world, true);
            assert!(world.run_until(Span::from_millis(5000), has_met), "{}", world.summaries());
            directions.push(state(&world));
            match round % 3 {
                0 => world.reset([ALPHA, BETA]),
                1 => world.kill(ALPHA),
                _ => world.kill(BETA),
            }
            pass(&mut world, 100);
        }
        assert!(directions.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}: {directions:?}");
        pause(&mut world, false);
        assert!(world.run_until(Span::from_millis(20_000), World::is_in_sync), "{}", world.summaries());
    }
}

#[test]
fn volumes_of_different_origin_never_meet() {
    let mut world = promoted(1);
    world.kill(BETA);
    world.forge_superblock(BETA, |superblock| {
        let mut generations = superblock.lineage.generations().to_vec();
        for (number, generation) in generations.iter_mut().enumerate() {
            generation.id = GenerationId(0x7000 + u64::try_from(number).expect("small"));
        }
        superblock.lineage =
            replicator::generation::lineage::Lineage::parse(generations).expect("it was one");
    });
    world.watch.seen[BETA.index()].is_damaged = true;
    world.write_now(ALPHA, 0, 4096);
    let before = world.nodes[BETA.index()].data.image();
    world.start(BETA);
    pass(&mut world, 5000);
    for (node, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
        assert_eq!(rule(&world, node, peer).as_deref(), Some("Unrelated"), "{}", world.summaries());
    }
    assert!(world.nodes[BETA.index()].data.image() == before);
    assert_eq!(world.role(ALPHA), Role::Primary);
}

#[test]
fn a_source_that_dies_while_records_are_shipped_leaves_an_older_copy_that_force_can_promote() {
    let mut cases = 0;
    for seed in 0..10 {
        let mut world = promoted_with(seed, WorldOptions::default());
        for block in 0..10 {
            world.write_now(ALPHA, block * 4096, 4096);
        }
        pass(&mut world, 1000);
        world.kill(BETA);
        for round in 0..60 {
            world.write_now(ALPHA, round % 30 * 65_536, 65_536);
        }
        world.start(BETA);
        let is_target = |world: &World| {
            let state = world.status(BETA).connections[0].peer_devices[0].replication_state;
            state == ReplicationState::SyncTarget
        };
        assert!(world.run_until(Span::from_millis(5000), is_target), "{}", world.summaries());
        world.run_for(Span(seed * 1000));
        if world.disk(BETA) == DiskState::UpToDate {
            continue;
        }
        assert_eq!(world.disk(BETA), DiskState::Outdated, "it is whole all the time");
        let total = lsn(&world, ALPHA).assigned;
        world.cut_power(ALPHA);
        pass(&mut world, 5000);
        let refused = world.promote(BETA, 1000).expect_err("newer data exists");
        assert_eq!(refused.name, "disk-outdated", "{refused:?}");
        let cost = world.ask_operator(BETA, Order::WeighForce).expect("a question");
        let lost = total.since(lsn(&world, BETA).durable);
        if lost == 0 {
            continue;
        }
        cases += 1;
        assert!(cost.contains(&format!("at least {lost} writes")), "seed {seed}: {cost}, of {lost}");
        world.promote_with(BETA, 1000, replicator::event::Warrant::Force).expect("forced");
        world.write_now(BETA, 3_145_728, 4096);
    }
    assert!(cases > 0, "it always died too late");
}
