//! Whether two nodes hold the very same volume for good: what their journals hold on top of their data areas, block by block.
//! No law by itself: it tells `branches` who has everything that somebody else has.

use super::journal_view::Content;
use super::watch::{Seen, content_of};
use crate::node::SimNode;
use replicator::layout::superblock::DurableDisk;
use replicator::units::BLOCK_BYTES;

/// Whether each of two nodes holds what the other one holds, with all of it flushed. What is left to be flushed in a data area
/// is in the journal still (I7).
#[must_use]
pub fn hold_the_same(first: (&SimNode, &Seen), second: (&SimNode, &Seen)) -> bool {
    let is_whole = |(_, seen): &(&SimNode, &Seen)| {
        let is_usable = seen.superblock.disk != DurableDisk::Inconsistent && seen.superblock.resync.is_none();
        is_usable && !seen.is_damaged && seen.journal.is_flushed()
    };
    is_whole(&first) && is_whole(&second) && volume(first) == volume(second)
}

fn volume((node, seen): (&SimNode, &Seen)) -> Vec<Content> {
    let blocks = 0..node.config.volume_bytes / BLOCK_BYTES;
    let in_data_area = |block| content_of(&node.data.read(block * BLOCK_BYTES, BLOCK_BYTES));
    let mut volume: Vec<Option<Content>> = vec![None; blocks.clone().count()];
    for (_, held) in seen.journal.records() {
        for block in held.range.first..held.range.end() {
            if let Some(at) = usize::try_from(block).ok().and_then(|at| volume.get_mut(at)) {
                *at = held.content(block);
            }
        }
    }
    blocks.zip(volume).map(|(block, content)| content.unwrap_or_else(|| in_data_area(block))).collect()
}
