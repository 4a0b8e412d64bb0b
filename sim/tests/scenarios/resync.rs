//! A peer that the journal cannot bring up to date any more: blocks are copied to it, and only those that may differ.

use replicator::event::Order;
use replicator::state::{ConnectionState, DiskState, Role};
use replicator::units::Span;
use sim::node::DiskHealth;
use sim::world::{ALPHA, BETA, Delays, World, WorldOptions};

use crate::{pass, promoted, promoted_with};

/// Beta is away so long that alpha's journal has left records behind that beta lacks. They touch less than a quarter of
/// the volume.
fn away_for_long(seed: u64) -> World {
    let mut world = promoted(seed);
    for block in 0..200 {
        world.write(ALPHA, block * 16_384, 4096);
    }
    pass(&mut world, 2000);
    world.kill(BETA);
    for round in 0..256 {
        world.write_now(ALPHA, (round * 7) % 8 * 131_072, 131_072);
    }
    assert!(world.has_noticed(ALPHA, "journal-full"));
    world
}

/// KiB that a node has sent to its peer.
fn sent(world: &World) -> u64 {
    world.status(ALPHA).connections[0].peer_devices[0].sent
}

#[test]
fn a_peer_that_was_away_for_long_gets_the_blocks_that_may_differ_and_no_others() {
    for seed in 0..10 {
        let mut world = away_for_long(seed);
        let before = sent(&world);
        world.start(BETA);
        world.assert_converges();
        assert!(world.has_noticed(BETA, "resync-ended"), "{}", world.summaries());
        let sent = sent(&world) - before;
        assert!((1024..2048).contains(&sent), "{sent} KiB were sent for 1 MiB that differ");
        world.kill(ALPHA);
        world.promote(BETA, 20_000).expect("it holds every completed write");
        world.read_everything(BETA);
    }
}

#[test]
fn marks_outlive_a_restart_of_the_source() {
    for seed in 0..10 {
        let mut world = away_for_long(seed);
        world.cut_power(ALPHA);
        world.start(ALPHA);
        pass(&mut world, 1000);
        world.promote(ALPHA, 20_000).expect("it is the set");
        world.start(BETA);
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}

#[test]
fn clients_write_during_a_resync_and_old_bytes_never_win() {
    for seed in 0..30 {
        let mut world = away_for_long(seed);
        world.start(BETA);
        for round in 0..200 {
            world.write(ALPHA, (round * 13 + seed) % 300 * 4096, 4096 * (1 + round % 5));
            world.run_for(Span(200 + seed * 40));
        }
        world.assert_converges();
        world.kill(ALPHA);
        world.promote(BETA, 20_000).expect("it holds every completed write");
        world.read_everything(BETA);
    }
}

#[test]
fn whoever_is_being_resynced_is_inconsistent_and_never_promoted() {
    for seed in 0..20 {
        let mut world = away_for_long(seed);
        world.start(BETA);
        let has_begun = |world: &World| world.disk(BETA) == DiskState::Inconsistent;
        assert!(world.run_until(Span::from_millis(5000), has_begun), "{}", world.summaries());
        world.run_for(Span(seed * 100));
        if world.disk(BETA) != DiskState::Inconsistent {
            continue;
        }
        world.kill(ALPHA);
        pass(&mut world, 8000);
        assert!(world.promote(BETA, 5000).is_err(), "it is half a copy");
        world.kill(BETA);
        world.start(BETA);
        pass(&mut world, 1000);
        // Unless the last of it was under way when alpha died, it is half a copy still.
        assert!(world.disk(BETA) <= DiskState::Outdated, "{}", world.summaries());
        world.start(ALPHA);
        pass(&mut world, 1000);
        world.promote(ALPHA, 20_000).expect("it is the set");
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_resync_goes_on_after_either_side_has_lost_power_at_any_moment() {
    for seed in 0..40 {
        let mut world = away_for_long(seed);
        world.start(BETA);
        for round in 0..4 {
            world.write(ALPHA, (round * 17 + seed) % 300 * 4096, 8192);
            world.run_for(Span(1 + seed * 1500 + round * 700));
            if (seed + round) % 2 == 0 {
                world.cut_power(BETA);
                world.start(BETA);
            } else {
                world.cut_power(ALPHA);
                world.start(ALPHA);
                pass(&mut world, 100);
                // If beta was whole again, it is beta that cannot do without a vote.
                if world.promote(ALPHA, 20_000).is_err() {
                    world.promote(BETA, 20_000).expect("one of the two holds everything");
                    break;
                }
            }
        }
        world.assert_converges();
        let primary = if world.role(ALPHA) == Role::Primary { ALPHA } else { BETA };
        world.read_everything(primary);
    }
}

#[test]
fn an_operator_pauses_a_resync_and_lets_it_go_on() {
    let mut world = away_for_long(1);
    world.ask_operator(ALPHA, Order::PauseResync { is_paused: true }).expect("any time");
    world.start(BETA);
    pass(&mut world, 10_000);
    let report = |world: &World| world.status(ALPHA).connections[0].peer_devices[0].clone();
    assert_eq!(report(&world).resync_suspended, "user");
    let left = report(&world).out_of_sync;
    assert!((1024..2048).contains(&left), "{left} KiB are left of 1 MiB, and what beta had not written back");
    assert_eq!(world.disk(BETA), DiskState::Inconsistent);
    world.write_now(ALPHA, 0, 4096);
    world.ask_operator(ALPHA, Order::PauseResync { is_paused: false }).expect("any time");
    world.assert_converges();
    assert_eq!((report(&world).resync_suspended, report(&world).out_of_sync), ("no", 0));
}

#[test]
fn copies_and_flushes_of_a_resync_that_broke_off_count_for_nothing_in_the_next_one() {
    for seed in 0..40 {
        let mut world = away_for_long(seed);
        world.start(BETA);
        let has_begun = |world: &World| world.disk(BETA) == DiskState::Inconsistent;
        assert!(world.run_until(Span::from_millis(5000), has_begun), "{}", world.summaries());
        world.run_for(Span(seed * 150));
        world.set_health(BETA, DiskHealth::DataStuck);
        pass(&mut world, 20);
        world.set_cut_both([ALPHA, BETA], true);
        for block in 0..8 {
            world.write_now(ALPHA, block * 131_072, 131_072);
        }
        pass(&mut world, 5000);
        world.set_cut_both([ALPHA, BETA], false);
        pass(&mut world, 5000);
        // What was under way on the old link comes to its end now.
        world.set_health(BETA, DiskHealth::Good);
        if seed % 2 == 0 {
            world.run_for(Span(100 + seed * 50));
            world.cut_power(BETA);
            world.start(BETA);
        }
        world.assert_converges();
    }
}

#[test]
fn a_node_that_becomes_the_target_of_a_resync_while_it_asks_for_votes_is_not_promoted_on_half_a_copy() {
    let options = WorldOptions {
        delays: Delays { io: 100, frame: 2000, ..Delays::default() },
        ..WorldOptions::default()
    };
    let (mut granted, mut refused) = (0, 0);
    for seed in 0..60 {
        let mut world = promoted_with(seed, options.clone());
        for block in 0..20 {
            world.write_now(ALPHA, block * 4096, 4096);
        }
        world.demote(ALPHA).expect("no clients");
        pass(&mut world, 2000);
        world.kill(BETA);
        // Blocks in doubt: of two equal nodes the one that holds the marks is the source.
        world.forge_superblock(BETA, |content| {
            let slot = &mut content.peers[0];
            (slot.node, slot.has_dirty_bits) = (Some(ALPHA), true);
        });
        world.start(BETA);
        world.run_for(Span(3000));
        let is_linked =
            |world: &World| world.status(ALPHA).connections[0].connection_state == ConnectionState::Connected;
        assert!(world.run_until(Span::from_millis(5000), is_linked), "{}", world.summaries());
        world.run_for(Span(seed * 100));
        match world.promote(ALPHA, 3000) {
            Ok(_) => granted += 1,
            Err(_) => refused += 1,
        }
        assert!(world.run_until(Span::from_millis(20_000), World::is_in_sync), "{}", world.summaries());
        if world.role(ALPHA) != Role::Primary {
            world.promote(ALPHA, 20_000).expect("both hold the same");
        }
        world.assert_converges();
        world.read_everything(ALPHA);
    }
    assert!(granted > 5 && refused > 0, "{granted} {refused}");
}
