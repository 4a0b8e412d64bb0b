//! Law I7: the tail of a journal moves only past records that every other replica has flushed, or whose blocks are marked
//! for it on this node's disk; and that are flushed in this node's own data area.

use std::collections::BTreeSet;

use replicator::layout::superblock::Superblock;
use replicator::units::{Lsn, NodeId};

use super::journal_view::Held;
use super::watch::{Seen, content, marks};
use crate::node::SimNode;

#[cfg(test)]
mod tests;

/// A superblock that names a later tail is on a node's disk.
///
/// # Panics
/// A record is left behind that somebody may still need.
pub fn assert_needless(nodes: &[SimNode], seen: &[Seen], node: NodeId, next: &Superblock) {
    let own = &seen[node.index()];
    let left: Vec<_> = own.journal.records().take_while(|(lsn, _)| *lsn < next.journal.tail_lsn).collect();
    if left.is_empty() {
        return;
    }
    for (at, peer) in seen.iter().enumerate().filter(|(at, peer)| *at != node.index() && !peer.is_damaged) {
        let peer_node = NodeId(u8::try_from(at).expect("at most three"));
        let marked = marks(next, &nodes[node.index()], peer_node);
        let is_whole = peer.superblock.resync.is_none();
        // It has told what it had flushed, and forgets some of that now: first it marks those blocks itself, for everybody.
        let forgotten = match is_whole {
            true => BTreeSet::new(),
            false => marks(&peer.superblock, &nodes[at], node),
        };
        let needed = left.iter().find(|(lsn, held)| {
            let has_it = is_whole && peer.journal.has_flushed(*lsn, held.generation);
            // A mark is cleared by proof: the block was copied, and flushed there.
            let is_equal = |block: u64| {
                let [here, there] = [node, peer_node].map(|node| nodes[node.index()].data.durable(block));
                let is_there = || peer.journal.records().any(|(_, held)| held.covers(block));
                // What is newer is still in this journal.
                let is_newer = |(lsn, held): (Lsn, &Held)| lsn >= next.journal.tail_lsn && held.covers(block);
                here == there || is_there() || own.journal.records().any(is_newer)
            };
            let is_marked = |block: &u64| marked.contains(block) || forgotten.contains(block);
            let is_known = |block: u64| is_marked(&block) || is_equal(block);
            !has_it && !(held.range.first..held.range.end()).all(is_known)
        });
        let needed = needed.map(|(lsn, _)| *lsn);
        assert!(
            needed.is_none(),
            "violation of I7: {node} leaves {needed:?} behind, {peer_node} has flushed {}",
            peer.journal.durable()
        );
    }
    let in_data_area = next.journal.data_flushed;
    assert!(
        next.journal.tail_lsn.previous() <= in_data_area,
        "violation of I7: {node} has its data area flushed to {in_data_area}"
    );
    assert_flushed(&nodes[node.index()], own, node, next.journal.tail_lsn);
}

/// What is left behind is in the data area for good: no block of it waits for a flush there with older content below.
fn assert_flushed(machine: &SimNode, own: &Seen, node: NodeId, tail: Lsn) {
    for (lsn, held) in own.journal.records().take_while(|(lsn, _)| *lsn < tail) {
        for block in held.range.first..held.range.end() {
            // A later record of the block, or a copy, may lie on top of it.
            let is_newest = !own.journal.records().any(|(later, other)| later > lsn && other.covers(block));
            let content = content(machine.data.durable(block));
            assert!(
                !is_newest || own.is_copied_to || held.puts(block, &content),
                "violation of I7: {node} leaves {lsn} behind, block {block} of its data area is not flushed"
            );
        }
    }
}
