//! What is written and not flushed: whoever may lose it with its power counts on nobody but on those who have it.

use replicator::config::ReplicationProtocol;
use replicator::event::Durability;
use replicator::state::{DiskState, ReplicationState, Role};
use replicator::units::{BLOCK_BYTES, ByteRange, Span};
use sim::node::{DiskHealth, NodeOptions};
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, World, WorldOptions};

use crate::{in_sync, lsn, pass, promoted, promoted_with};

/// A world whose journals are soon full, and whose disks may hang for a minute.
fn patient_on(seed: u64, protocol: ReplicationProtocol) -> World {
    let disk_timeout = Span::from_millis(60_000);
    let node = NodeOptions { ring_bytes: 4 << 20, disk_timeout, protocol, ..NodeOptions::default() };
    promoted_with(seed, WorldOptions { node, ..WorldOptions::default() })
}

fn patient(seed: u64) -> World {
    patient_on(seed, ReplicationProtocol::C)
}

const PROTOCOLS: [ReplicationProtocol; 3] =
    [ReplicationProtocol::A, ReplicationProtocol::B, ReplicationProtocol::C];

/// Beta was away while alpha's ring went round, and is being resynced.
fn resyncing(seed: u64) -> World {
    let mut world = patient(seed);
    for round in 0..200 {
        world.write_now(ALPHA, round % 32 * 16_384, 16_384);
    }
    world.kill(BETA);
    for round in 0..400 {
        world.write_now(ALPHA, round % 64 * 16_384, 16_384);
    }
    pass(&mut world, 1000);
    world.start(BETA);
    let has_begun = |world: &World| world.disk(BETA) == DiskState::Inconsistent;
    assert!(world.run_until(Span::from_millis(5000), has_begun), "{}", world.summaries());
    world
}

/// Whoever can be promoted is, and serves what it must.
fn promote_either(world: &mut World, first: replicator::units::NodeId) {
    let second = sim::world::other(first);
    let primary = if world.promote(first, 20_000).is_ok() { first } else { second };
    if primary == second {
        world.promote(second, 20_000).unwrap_or_else(|refused| panic!("{refused:?}\n{}", world.summaries()));
    }
    world.read_everything(primary);
    world.assert_converges();
}

#[test]
fn a_peer_that_has_caught_up_enters_the_set_only_with_what_it_has_flushed() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 500);
        world.kill(BETA);
        for block in 0..40 {
            world.write_now(ALPHA, block * 65_536, 65_536);
        }
        world.ask_now(ALPHA, Ask::Flush);
        world.start(BETA);
        // From the moment on in which it knows whose records follow.
        let newest = |world: &World, node| world.status(node).lineage.last().map(|generation| generation.id);
        let knows = |world: &World| newest(world, BETA) == newest(world, ALPHA);
        assert!(world.run_until(Span::from_millis(5000), knows), "{}", world.summaries());
        world.set_health(BETA, DiskHealth::FlushesStuck);
        pass(&mut world, 5000);
        assert_eq!(lsn(&world, BETA).journaled, lsn(&world, ALPHA).assigned, "it has caught up");
        assert_eq!(in_sync(&world, ALPHA), ["alpha"], "seed {seed}: a power cut takes it all back");
        world.cut_power(BETA);
        world.set_health(BETA, DiskHealth::Good);
        world.kill(ALPHA);
        world.start(BETA);
        let refused = world.promote(BETA, 10_000).expect_err("alpha alone has what was flushed");
        assert!(["member-missing", "disk-outdated"].contains(&refused.name), "{refused:?}");
        world.start(ALPHA);
        promote_either(&mut world, ALPHA);
    }
}

#[test]
fn a_primary_that_lost_power_is_not_promoted_over_the_member_that_kept_what_it_lost() {
    for seed in 0..20 {
        let mut world = patient(seed);
        world.set_health(ALPHA, DiskHealth::FlushesStuck);
        for block in 0..10 {
            world.write_now(ALPHA, block * 4096, 4096);
        }
        world.cut_power(ALPHA);
        world.set_health(ALPHA, DiskHealth::Good);
        world.set_cut_both([ALPHA, BETA], true);
        world.start(ALPHA);
        let refused = world.promote(ALPHA, 15_000).expect_err("beta may hold what was completed");
        assert_eq!(refused.name, "member-missing", "seed {seed}");
        world.set_cut_both([ALPHA, BETA], false);
        world.promote(BETA, 20_000).expect("it lives, as the member that it was");
        world.read_everything(BETA);
        world.assert_converges();
    }
}

#[test]
fn an_acknowledgement_that_a_power_cut_takes_back_lets_no_record_go() {
    for (seed, protocol) in (0..10).flat_map(|seed| PROTOCOLS.map(|protocol| (seed, protocol))) {
        let mut world = patient_on(seed, protocol);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 1000);
        world.set_health(BETA, DiskHealth::FlushesStuck);
        let flushed = lsn(&world, BETA).durable;
        let writes: Vec<u64> =
            (0..400).map(|round| world.write(ALPHA, round % 64 * 16_384, 16_384)).collect();
        pass(&mut world, 10_000);
        assert!(world.is_done(writes[0]), "beta's journal has it");
        assert!(!world.is_done(writes[399]), "clients are slowed before a record goes that beta may lose");
        let kept = lsn(&world, ALPHA).oldest_kept;
        assert!(kept <= flushed.next(), "{protocol:?}, seed {seed}\n{}", world.summaries());
        world.cut_power(BETA);
        world.set_health(BETA, DiskHealth::Good);
        world.start(BETA);
        world.assert_converges();
        assert!(writes.iter().all(|write| world.is_done(*write)), "slowed, never failed");
        world.read_everything(ALPHA);
    }
}

#[test]
fn what_one_member_has_not_flushed_is_in_no_data_area() {
    for (lazy, other) in [(ALPHA, BETA), (BETA, ALPHA)] {
        for seed in 0..10 {
            let mut world = patient(seed);
            world.write_now(ALPHA, 0, 4096);
            pass(&mut world, 2000);
            let before = lsn(&world, other).written_back;
            let image = world.nodes[other.index()].data.image();
            world.set_health(lazy, DiskHealth::FlushesStuck);
            for block in 0..10 {
                world.write_now(ALPHA, block * 4096, 4096);
            }
            pass(&mut world, 3000);
            assert_eq!(lsn(&world, other).written_back, before, "seed {seed}: {lazy} may lose it");
            assert!(world.nodes[other.index()].data.image() == image);
            for node in [ALPHA, BETA] {
                world.cut_power(node);
            }
            world.set_health(lazy, DiskHealth::Good);
            for node in [ALPHA, BETA] {
                world.start(node);
            }
            pass(&mut world, 1000);
            promote_either(&mut world, ALPHA);
        }
    }
}

#[test]
fn a_resync_copies_nothing_that_its_source_may_still_lose() {
    for seed in 0..20 {
        let mut world = resyncing(seed);
        world.set_health(ALPHA, DiskHealth::FlushesStuck);
        for block in 0..16 {
            world.write_now(ALPHA, block * 65_536, 4096);
        }
        world.run_for(Span(seed * 20_000));
        world.cut_power(ALPHA);
        world.set_health(ALPHA, DiskHealth::Good);
        world.start(ALPHA);
        pass(&mut world, 500);
        promote_either(&mut world, ALPHA);
    }
}

#[test]
fn a_node_that_is_half_a_copy_stays_the_target_though_its_journal_ends_later() {
    for seed in 0..10 {
        let mut world = resyncing(seed);
        world
            .ask_operator(ALPHA, replicator::event::Order::PauseResync { is_paused: true })
            .expect("any time");
        world.set_health(ALPHA, DiskHealth::FlushesStuck);
        for block in 0..16 {
            world.write_now(ALPHA, block * 65_536, 4096);
        }
        pass(&mut world, 500);
        let at_beta = lsn(&world, BETA).journaled;
        world.cut_power(ALPHA);
        world.set_health(ALPHA, DiskHealth::Good);
        world.start(ALPHA);
        pass(&mut world, 3000);
        assert!(lsn(&world, ALPHA).assigned <= at_beta);
        let state = world.status(BETA).connections[0].peer_devices[0].replication_state;
        assert_ne!(state, ReplicationState::SyncSource, "seed {seed}: half a copy is no source");
        let refused = world.promote(BETA, 1000).expect_err("half a copy");
        assert!(
            ["disk-inconsistent", "member-missing", "not-in-sync"].contains(&refused.name),
            "{refused:?}"
        );
        world.promote(ALPHA, 20_000).expect("it is the set");
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}

#[test]
fn writes_that_were_mirrored_during_a_resync_do_not_make_a_caught_up_copy_of_half_of_one() {
    for seed in 0..20 {
        let mut world = resyncing(seed);
        for block in 0..8 {
            world.write_now(ALPHA, 2_097_152 + block * 4096, 4096);
        }
        world.run_for(Span(seed * 300));
        if world.disk(BETA) != DiskState::Inconsistent {
            continue;
        }
        world.reset([ALPHA, BETA]);
        world.set_cut_both([ALPHA, BETA], true);
        world.write_now(ALPHA, 2_097_152, 4096);
        world.set_cut_both([ALPHA, BETA], false);
        let is_there = |world: &World| world.disk(BETA) == DiskState::UpToDate;
        assert!(world.run_until(Span::from_millis(20_000), is_there), "{}", world.summaries());
        assert!(world.has_noticed(BETA, "resync-ended"), "seed {seed}: by records alone it is half a copy");
        world.kill(ALPHA);
        world.promote(BETA, 20_000).expect("it is in the set");
        world.read_everything(BETA);
        world.start(ALPHA);
        world.assert_converges();
    }
}

#[test]
fn a_link_that_breaks_while_the_primarys_disk_is_slow_makes_the_primary_no_target() {
    for (primary, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
        for seed in 0..10 {
            let mut world = World::started(seed, WorldOptions::default());
            world.promote(primary, 1000).expect("nothing stands against it");
            world.write_now(primary, 0, 4096);
            pass(&mut world, 500);
            world.set_health(primary, DiskHealth::Stuck);
            let write = world.write(primary, 4096, 4096);
            pass(&mut world, 100);
            assert!(
                lsn(&world, peer).journaled > lsn(&world, primary).journaled,
                "it was faster to its disk"
            );
            world.reset([ALPHA, BETA]);
            pass(&mut world, 1000);
            assert_eq!(world.role(primary), Role::Primary);
            let state = world.status(primary).connections[0].peer_devices[0].replication_state;
            assert_ne!(state, ReplicationState::SyncTarget, "{primary}, seed {seed}");
            world.set_health(primary, DiskHealth::Good);
            assert!(world.wait_for(write, 5000), "{}", world.summaries());
            world.assert_converges();
            world.read_everything(primary);
        }
    }
}

#[test]
fn what_was_read_from_an_heir_outlives_it_though_the_dead_primary_never_had_it() {
    for seed in 0..10 {
        let mut world = promoted(seed);
        world.write_now(ALPHA, 0, 4096);
        world.set_health(ALPHA, DiskHealth::Stuck);
        world.write(ALPHA, 0, 4096);
        pass(&mut world, 100);
        world.kill(ALPHA);
        world.set_health(ALPHA, DiskHealth::Good);
        world.promote(BETA, 20_000).expect("it is a member");
        let read = world.ask(BETA, Ask::Read(ByteRange::new(0, BLOCK_BYTES)));
        assert!(world.wait_for(read, 1000), "{}", world.summaries());
        if seed % 2 == 0 {
            world.kill(BETA);
        } else {
            world.cut_power(BETA);
        }
        world.start(ALPHA);
        let refused = world.promote(ALPHA, 15_000).expect_err("beta alone has what was read");
        assert_eq!(refused.name, "member-missing", "seed {seed}");
        world.start(BETA);
        pass(&mut world, 1000);
        promote_either(&mut world, BETA);
    }
}

#[test]
fn a_peer_full_of_records_that_are_not_stable_still_hears_when_they_are() {
    for seed in 0..5 {
        let mut world = patient(seed);
        world.set_health(ALPHA, DiskHealth::FlushesStuck);
        let writes: Vec<u64> =
            (0..600).map(|round| world.write(ALPHA, round % 64 * 16_384, 16_384)).collect();
        pass(&mut world, 20_000);
        assert!(!world.is_done(writes[599]), "neither journal holds that much\n{}", world.summaries());
        assert!(
            world.status(ALPHA).connections[0].peer_devices[0].replication_state
                == ReplicationState::Established
        );
        world.set_health(ALPHA, DiskHealth::Good);
        assert!(world.wait_for(writes[599], 10_000), "seed {seed}\n{}", world.summaries());
        world.ask_now(ALPHA, Ask::Write(ByteRange::new(0, 4096), Durability::Flushed));
        world.assert_converges();
    }
}
