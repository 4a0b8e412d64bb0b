//! Three replicas: who counts when one of them is on a slower protocol, behind, or away.

use replicator::config::ReplicationProtocol;
use replicator::event::{Durability, Order, Warrant};
use replicator::state::{DiskState, ReplicationState, Role};
use replicator::units::{ByteRange, Span};
use sim::node::{DiskHealth, NodeOptions};
use sim::workload::Ask;
use sim::world::{ALPHA, BETA, GAMMA, World, WorldOptions};

use crate::{in_sync, lsn, pass, promoted_with};

/// Alpha is Primary, beta on protocol C, gamma on the given one; all follow along.
fn three(seed: u64, third: ReplicationProtocol) -> World {
    let node = NodeOptions { replicas: 3, third, ..NodeOptions::default() };
    promoted_with(seed, WorldOptions { node, ..WorldOptions::default() })
}

/// The same, all on C, with journals that are soon full.
fn three_with_short_rings(seed: u64) -> World {
    let node = NodeOptions { replicas: 3, ring_bytes: 4 << 20, ..NodeOptions::default() };
    promoted_with(seed, WorldOptions { node, ..WorldOptions::default() })
}

const SLOWER: [ReplicationProtocol; 2] = [ReplicationProtocol::A, ReplicationProtocol::B];

/// More than a short ring holds, on an eighth of the volume.
fn fill_the_ring(world: &mut World) {
    for round in 0..400 {
        world.write_now(ALPHA, round % 32 * 16_384, 16_384);
    }
}

#[test]
fn a_third_node_on_a_or_b_votes_and_is_never_in_the_set() {
    for third in SLOWER {
        let mut world = three(1, third);
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"], "{third:?}");
        world.set_health(GAMMA, DiskHealth::FlushesStuck);
        let flushed = world.ask(ALPHA, Ask::Write(ByteRange::new(0, 4096), Durability::Flushed));
        assert!(world.wait_for(flushed, 1000), "{third:?}: nobody waits for its flush");
        world.set_health(GAMMA, DiskHealth::Good);
        pass(&mut world, 500);
        world.kill(BETA);
        let write = world.write(ALPHA, 4096, 4096);
        assert!(world.wait_for(write, 5000), "alpha and gamma are a majority\n{}", world.summaries());
        assert_eq!(in_sync(&world, ALPHA), ["alpha"]);
        world.start(BETA);
        world.assert_converges();
        assert_eq!(in_sync(&world, ALPHA), ["alpha", "beta"]);
    }
}

#[test]
fn a_third_node_on_a_or_b_that_asks_first_is_refused_and_the_survivor_on_c_is_promoted() {
    for third in SLOWER {
        for seed in 0..5 {
            let mut world = three(seed, third);
            world.write_now(ALPHA, 0, 4096);
            pass(&mut world, 500);
            world.set_cut(ALPHA, GAMMA, true);
            if third == ReplicationProtocol::B {
                // Nothing completes without its receipt until it counts as lost.
                pass(&mut world, 4000);
            }
            for block in 1..9 {
                world.write_now(ALPHA, block * 4096, 4096);
            }
            world.kill(ALPHA);
            let refused = world.promote(GAMMA, 15_000).expect_err("it lacks what was completed");
            assert_eq!(world.role(GAMMA), Role::Secondary, "{refused:?}");
            world.promote(BETA, 20_000).expect("it holds every completed write");
            world.read_everything(BETA);
            world.set_cut(ALPHA, GAMMA, false);
            world.start(ALPHA);
            world.assert_converges();
            assert_eq!(in_sync(&world, BETA), ["alpha", "beta"]);
        }
    }
}

#[test]
fn a_third_node_that_holds_what_nobody_completed_does_not_keep_the_survivor_from_being_promoted() {
    for third in SLOWER {
        for seed in 0..10 {
            let mut world = three(seed, third);
            world.write_now(ALPHA, 0, 4096);
            pass(&mut world, 500);
            world.set_cut(ALPHA, BETA, true);
            let write = world.write(ALPHA, 4096, 4096);
            pass(&mut world, 500);
            assert!(!world.is_done(write), "beta has not got it");
            assert!(lsn(&world, GAMMA).journaled > lsn(&world, BETA).journaled, "{third:?}");
            world.kill(ALPHA);
            world.set_cut(ALPHA, BETA, false);
            // At once, before beta can take from gamma what it lacks; or after the lease.
            let warrant = if seed % 2 == 0 { Warrant::PeerIsFenced } else { Warrant::Known };
            let promoted = world.promote_with(BETA, 20_000, warrant);
            promoted.expect("gamma is no member, and compares nothing");
            world.read_everything(BETA);
            world.start(ALPHA);
            world.assert_converges();
            world.read_everything(BETA);
        }
    }
}

#[test]
fn promoting_the_third_node_takes_force_and_says_how_many_writes_and_how_much_time_are_lost() {
    for third in SLOWER {
        let mut world = three(3, third);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 500);
        world.set_cut(ALPHA, GAMMA, true);
        pass(&mut world, 4000);
        for block in 1..9 {
            world.write_now(ALPHA, block * 4096, 4096);
        }
        // Both hosts of the pair are gone a little later; gamma has met beta before.
        world.kill(ALPHA);
        world.set_cut(BETA, GAMMA, true);
        pass(&mut world, 5000);
        world.kill(BETA);
        pass(&mut world, 4000);
        assert!(world.promote(GAMMA, 5000).is_err(), "no majority, no member");
        let cost = world.ask_operator(GAMMA, Order::WeighForce).expect("a question");
        for name in ["alpha", "beta"] {
            assert!(cost.contains(&format!("whatever {name} has completed in the ")), "{cost}");
        }
        assert!(cost.contains("write") && cost.contains(" s since it was last heard"), "{cost}");
        let text = world.promote_with(GAMMA, 1000, Warrant::Force).expect("forced");
        assert!(text.contains("by force: this node holds every write up to"), "{text}");
        assert!(world.status(GAMMA).lineage.last().is_some_and(|newest| !newest.granted));
    }
}

#[test]
fn of_three_on_c_nobody_is_promoted_with_fewer_records_than_a_member_that_lives() {
    for seed in 0..20 {
        let mut world = three(seed, ReplicationProtocol::C);
        world.write_now(ALPHA, 0, 4096);
        pass(&mut world, 500);
        world.set_cut(ALPHA, GAMMA, true);
        for block in 1..5 {
            world.write(ALPHA, block * 4096, 4096);
        }
        pass(&mut world, 500);
        let [at_beta, at_gamma] = [BETA, GAMMA].map(|node| lsn(&world, node).journaled);
        assert!(at_beta > at_gamma, "gamma was to be behind");
        world.kill(ALPHA);
        world.set_cut(ALPHA, GAMMA, false);
        // The one with fewer is asked first, at once or after the lease. It is refused, or has caught up before.
        let warrant = if seed % 2 == 0 { Warrant::PeerIsFenced } else { Warrant::Known };
        let primary = if world.promote_with(GAMMA, 20_000, warrant).is_ok() { GAMMA } else { BETA };
        if primary == BETA {
            world.promote(BETA, 20_000).expect("it holds the most");
        }
        assert!(lsn(&world, primary).assigned >= at_beta, "seed {seed}: what a member held is gone");
        world.read_everything(primary);
        world.start(ALPHA);
        world.assert_converges();
    }
}

#[test]
fn blocks_that_a_third_node_missed_are_known_to_whoever_becomes_primary_next() {
    for seed in 0..5 {
        let mut world = three_with_short_rings(seed);
        fill_the_ring(&mut world);
        world.kill(GAMMA);
        for round in 0..400 {
            world.write_now(ALPHA, 1_048_576 + round % 32 * 16_384, 16_384);
        }
        pass(&mut world, 2000);
        assert!(lsn(&world, BETA).oldest_kept.0 > 401, "beta's ring went on");
        world.kill(ALPHA);
        world.start(GAMMA);
        world.promote(BETA, 20_000).expect("it holds every completed write");
        let is_whole = |world: &World| world.is_in_sync_without(Some(ALPHA));
        assert!(world.run_until(Span::from_millis(30_000), is_whole), "{}", world.summaries());
        assert_eq!(world.disk(GAMMA), DiskState::UpToDate);
        world.demote(BETA).expect("no client is connected");
        world.promote(GAMMA, 20_000).expect("it is in the set");
        world.read_everything(GAMMA);
        world.start(ALPHA);
        world.assert_converges();
    }
}

#[test]
fn a_resync_copies_nothing_that_another_member_may_still_lose() {
    for seed in 0..20 {
        let mut world = three_with_short_rings(seed);
        fill_the_ring(&mut world);
        world.kill(BETA);
        fill_the_ring(&mut world);
        pass(&mut world, 1000);
        world.set_health(GAMMA, DiskHealth::FlushesStuck);
        world.start(BETA);
        let has_begun = |world: &World| world.disk(BETA) == DiskState::Inconsistent;
        assert!(world.run_until(Span::from_millis(5000), has_begun), "{}", world.summaries());
        // Complete on alpha and gamma, flushed on alpha alone.
        for block in 0..16 {
            world.write_now(ALPHA, block * 32_768, 4096);
        }
        world.run_for(Span(seed * 5000));
        world.cut_power(GAMMA);
        world.cut_power(ALPHA);
        world.set_health(GAMMA, DiskHealth::Good);
        world.start(GAMMA);
        world.start(ALPHA);
        pass(&mut world, 2000);
        let primary = [GAMMA, ALPHA, BETA].into_iter().find(|node| world.promote(*node, 20_000).is_ok());
        let primary = primary.expect("all members have reported");
        world.assert_converges();
        world.read_everything(primary);
    }
}

/// Gamma goes after this long, and comes back after more reigns than a lineage holds.
fn away_for_many_reigns(settled: u64) {
    let mut world = three(1, ReplicationProtocol::C);
    world.write_now(ALPHA, 0, 4096);
    pass(&mut world, settled);
    world.kill(GAMMA);
    world.write_now(ALPHA, 4096, 4096);
    for round in 0..70 {
        let (from, to) = if round % 2 == 0 { (ALPHA, BETA) } else { (BETA, ALPHA) };
        world.demote(from).expect("no client is connected");
        world.promote(to, 10_000).expect("it is in sync");
        world.write_now(to, round % 16 * 4096, 4096);
    }
    assert!(world.status(ALPHA).lineage.len() <= 64);
    world.start(GAMMA);
    world.assert_converges();
    let state = world.status(ALPHA).connections[1].peer_devices[0].replication_state;
    assert_eq!(state, ReplicationState::Established);
    world.read_everything(ALPHA);
}

#[test]
fn a_node_that_was_away_for_more_reigns_than_a_lineage_holds_is_brought_up_to_date() {
    away_for_many_reigns(500);
}

#[test]
fn a_node_that_went_before_it_was_known_to_have_flushed_anything_is_still_known_after_many_reigns() {
    away_for_many_reigns(0);
}
