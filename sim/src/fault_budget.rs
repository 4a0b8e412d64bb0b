//! What may coincide, so that the oracle stays honest: no acknowledged write is lost that nobody could have kept.
//!
//! Three rules. Crashes, cuts and orders have no limit: the design promises to stand them all. When the last copy of
//! what was not flushed goes with the power, only what was flushed must survive ([`last_copy_goes`]). Rot is allowed
//! while every other copy is whole, and nothing else happens until it is mended ([`may_rot`]): a rotten end of a
//! journal looks like a torn one, so only the other copy can tell. A disk is replaced under the same conditions. Blocks of the data area do not rot at all: they
//! have no checksums on disk.

use replicator::layout::superblock::DurableDisk;
use replicator::state::DiskState;
use replicator::units::NodeId;

use crate::node::{DiskHealth, SimNode};
use crate::world::World;

/// Whether a node whose memory, or whose unflushed writes, are about to be lost holds the last copy of what was completed
/// and not flushed. Whoever is a member of the recorded in-sync set, as the run that it names or one that continues it,
/// has it all in its journal.
#[must_use]
pub fn last_copy_goes(world: &World, node: NodeId) -> bool {
    // Where nobody votes, a copy that was called Outdated, or is about to be, has left, whether the Primary has written that
    // down yet or not.
    let has_left = |other: NodeId| {
        let is_called_so = world.is_up(other) && world.disk(other) == DiskState::Outdated;
        let is_outdated = world.nodes[other.index()].superblock().disk == DurableDisk::Outdated;
        (is_outdated || is_called_so) && !world.options.on_peer_lost.asks_a_majority()
    };
    !world.replicas().any(|other| other != node && world.holds_everything(other) && !has_left(other))
}

/// Whether every replica that a node cannot reach is down: then `--peer-is-fenced` is the truth, and excuses nothing.
#[must_use]
pub fn is_proved_silent(world: &World, node: NodeId) -> bool {
    world.replicas().filter(|peer| *peer != node).all(|peer| !world.is_up(peer))
}

/// Whether an operator may call a copy outdated without a lie: somebody else holds everything that it holds, and was not
/// called outdated itself.
#[must_use]
pub fn may_be_outdated(world: &World, node: NodeId) -> bool {
    let is_usable = |other: NodeId| {
        let says_so = !world.is_up(other) || world.disk(other) > DiskState::Outdated;
        says_so && world.nodes[other.index()].superblock().disk == DurableDisk::UpToDate
    };
    world.replicas().any(|other| other != node && is_usable(other) && world.holds_everything(other))
}

/// Whether an operator may have a node give way to another one after a split brain: not where a majority, or honest fence
/// commands, have left one history, and this node alone holds a part of it.
#[must_use]
pub fn may_give_way(world: &World, node: NodeId, to: NodeId) -> bool {
    !world.branches.would_lose(node, to)
}

/// Whether blocks of a node may rot, or its disk be replaced: nothing else is broken, and another one holds it all.
#[must_use]
pub fn may_rot(world: &World, node: NodeId) -> bool {
    is_whole(world) && !last_copy_goes(world, node)
}

/// Whether everybody is up and in sync, and nothing is cut off or about to fail.
#[must_use]
pub fn is_whole(world: &World) -> bool {
    let is_quiet = world.network.cuts.is_empty() && world.voters().all(|voter| world.is_up(voter));
    let is_sound = |node: &SimNode| {
        let works = node.health == DiskHealth::Good && node.next_failure.is_none();
        works && node.unwanted.is_empty() && !node.is_resync_paused && node.stands_still_until <= world.now
    };
    is_quiet
        && world.options.on_peer_lost.asks_a_majority()
        && world.has_one_primary()
        && world.nodes.iter().all(is_sound)
        && world.doomed.is_none()
        && world.is_in_sync()
}

#[cfg(test)]
mod tests {
    use replicator::event::Order;
    use replicator::units::Span;

    use super::may_be_outdated;
    use crate::world::{ALPHA, BETA, World, WorldOptions};

    #[test]
    fn the_last_copy_that_was_not_called_outdated_is_not_called_so_by_an_honest_operator() {
        let mut world = World::started(3, WorldOptions::default());
        world.promote(ALPHA, 0).expect("nothing stands against it");
        world.write_now(ALPHA, 0, 4096);
        assert!(world.run_until(Span::from_millis(5000), World::is_in_sync), "{}", world.summaries());
        world.demote(ALPHA).expect("it has no clients");
        world.run_for(Span::from_millis(1000));
        assert!(may_be_outdated(&world, ALPHA) && may_be_outdated(&world, BETA));
        world.ask_operator(BETA, Order::Outdate).expect("it follows nobody");
        assert!(!may_be_outdated(&world, ALPHA), "{}", world.summaries());
        world.promote(ALPHA, 10_000).expect("it is the copy that is left");
    }
}
