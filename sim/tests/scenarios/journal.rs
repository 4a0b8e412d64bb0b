//! The ring: wraps, tails, and what happens when it is full.

use sim::node::NodeOptions;
use sim::world::{ALPHA, BETA, Delays, WorldOptions};

use crate::promoted_with;

#[test]
fn a_ring_that_wraps_under_load_with_the_peer_connected_never_stalls_or_leaves_the_peer_behind() {
    for ring_bytes in [4 << 20, 16 << 20] {
        let node = NodeOptions { ring_bytes, ..NodeOptions::default() };
        let mut world = promoted_with(1, WorldOptions { node, ..WorldOptions::default() });
        for round in 0..ring_bytes / 65_536 * 3 {
            world.write_now(ALPHA, round % 60 * 65_536, 65_536);
        }
        assert!(!world.has_noticed(ALPHA, "journal-full"));
        assert!(world.status(ALPHA).lsn.oldest_kept.0 > 1, "the tail has moved");
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_peer_that_catches_up_for_longer_than_the_ring_is_long_costs_no_disk() {
    for seed in 0..5 {
        let node = NodeOptions { ring_bytes: 4 << 20, ..NodeOptions::default() };
        let mut world = promoted_with(seed, WorldOptions { node, ..WorldOptions::default() });
        world.reset([ALPHA, BETA]);
        world.set_cut_both([ALPHA, BETA], true);
        for round in 0..180 {
            world.write_now(ALPHA, round % 60 * 16_384, 16_384);
        }
        world.set_cut_both([ALPHA, BETA], false);
        for round in 0..600 {
            world.write_now(ALPHA, round % 60 * 16_384, 16_384);
        }
        assert!(!world.has_noticed(ALPHA, "disk-failed"), "seed {seed}: a healthy disk was given up");
    }
}

#[test]
fn a_peer_that_returns_while_the_tail_is_about_to_leave_it_behind_is_waited_for() {
    let mut cases = 0;
    for seed in 0..60 {
        let node = NodeOptions { ring_bytes: 4 << 20, ..NodeOptions::default() };
        let delays = Delays { io: 20_000, ..Delays::default() };
        let mut world = promoted_with(seed, WorldOptions { node, delays, ..WorldOptions::default() });
        world.kill(BETA);
        for round in 0..400 {
            if world.has_noticed(ALPHA, "journal-full") {
                break;
            }
            if round == 190 + seed / 2 {
                world.start(BETA);
            }
            world.write_now(ALPHA, round % 60 * 16_384, 16_384);
        }
        cases += u64::from(world.has_noticed(ALPHA, "journal-full"));
        for round in 0..50 {
            world.write_now(ALPHA, round % 60 * 16_384, 16_384);
        }
        assert!(!world.has_noticed(ALPHA, "disk-failed"), "seed {seed}: a healthy disk was given up");
    }
    assert!(cases > 0, "it always returned early");
}
