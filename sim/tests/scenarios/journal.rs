//! The ring: wraps, tails, and what happens when it is full.

use replicator::state::ConnectionState;
use sim::node::NodeOptions;
use sim::world::{ALPHA, BETA, WorldOptions};

use crate::{pass, promoted, promoted_with};

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
fn a_ring_that_is_full_while_the_peer_is_away_marks_its_blocks_and_says_so_when_it_returns() {
    let mut world = promoted(2);
    world.kill(BETA);
    for round in 0..16 * 8 * 2 {
        world.write_now(ALPHA, round % 30 * 131_072, 131_072);
    }
    assert!(world.has_noticed(ALPHA, "journal-full"));
    world.start(BETA);
    pass(&mut world, 2000);
    let connection = &world.status(ALPHA).connections[0];
    assert_eq!(connection.connection_state, ConnectionState::StandAlone);
    let reason = connection.reason.clone().unwrap_or_default();
    assert!(reason.contains("NeedsBitmapResync"), "{reason}");
    world.write_now(ALPHA, 0, 4096);
    world.read_everything(ALPHA);
    // The marks outlive a restart.
    world.kill(ALPHA);
    world.start(ALPHA);
    pass(&mut world, 1000);
    world.promote(ALPHA, 20_000).expect("it is the set");
    world.read_everything(ALPHA);
    let reason = world.status(ALPHA).connections[0].reason.clone().unwrap_or_default();
    assert!(reason.contains("NeedsBitmapResync"), "{reason}");
}
