//! A disk that is older than its peer knows it to be: every block is copied, whatever happens in between, and nothing
//! that was known of the old disk is believed of it.

use replicator::state::DiskState;
use replicator::units::{BLOCK_BYTES, Span};
use sim::world::{ALPHA, BETA, World};

use crate::{pass, promoted};

/// Blocks that are written before beta's disk is copied away, and again after that.
const REWRITTEN: u64 = 60;

fn written_once(seed: u64) -> World {
    let mut world = promoted(seed);
    for block in 0..REWRITTEN {
        world.write_now(ALPHA, (600 + block * 3) * BLOCK_BYTES, BLOCK_BYTES);
    }
    assert!(world.run_until(Span::from_millis(10_000), World::is_idle), "{}", world.summaries());
    world
}

/// Beta has had everything once, was then away so long that alpha's journal has left records behind, and comes back
/// with the disk that it had long before. It does not run yet.
fn gone_back(seed: u64) -> World {
    let mut earlier = written_once(seed);
    earlier.kill(BETA);
    let mut world = written_once(seed);
    for block in 0..REWRITTEN {
        world.write_now(ALPHA, (600 + block * 3) * BLOCK_BYTES, BLOCK_BYTES);
    }
    assert!(world.run_until(Span::from_millis(10_000), World::is_idle), "{}", world.summaries());
    world.kill(BETA);
    for round in 0..256 {
        world.write_now(ALPHA, (round * 7) % 8 * 131_072, 131_072);
    }
    assert!(world.has_noticed(ALPHA, "journal-full"));
    std::mem::swap(&mut world.nodes[1].metadata, &mut earlier.nodes[1].metadata);
    std::mem::swap(&mut world.nodes[1].data, &mut earlier.nodes[1].data);
    world.nodes[1].mark = None;
    world
}

#[test]
fn a_disk_that_went_back_gets_every_block_and_it_is_told() {
    for seed in 0..3 {
        let mut world = gone_back(seed);
        world.start(BETA);
        world.assert_converges();
        assert!(world.notices.iter().any(|(_, name, text)| *name == "verdict" && text.contains("WentBack")));
        world.read_everything(ALPHA);
    }
}

#[test]
fn a_disk_that_went_back_gets_every_block_even_if_the_link_is_lost_before_the_source_has_marked_them() {
    for seed in 0..8 {
        let mut world = gone_back(seed);
        world.start(BETA);
        let has_begun = |world: &World| world.disk(BETA) == DiskState::Inconsistent;
        assert!(world.run_until(Span::from_millis(5000), has_begun), "{}", world.summaries());
        world.run_for(Span(seed * 60));
        world.reset([ALPHA, BETA]);
        pass(&mut world, 2000);
        world.assert_converges();
        world.read_everything(ALPHA);
    }
}
