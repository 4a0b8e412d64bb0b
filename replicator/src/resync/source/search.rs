//! Finding out which blocks that are left to copy are holes: those are not read.

use crate::block_set::BlockSet;
use crate::event::{AllocatedExtent, IoId};
use crate::resync::COPY_BLOCKS_MAX;
use crate::units::{BLOCK_BYTES, BlockRange};

/// Blocks looked at at a time.
const SEARCH_BLOCKS_MAX: u64 = (64 << 20) / BLOCK_BYTES;
/// Shortest run of blocks for which it is worth asking.
const SEARCH_BLOCKS_MIN: u64 = COPY_BLOCKS_MAX;

/// Up to where holes are known, and a question under way.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Of everything before this block it is known, or not worth asking.
    known_up_to: u64,
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    io: IoId,
    range: BlockRange,
    /// The parts that nothing in memory hides.
    gaps: Vec<BlockRange>,
}

impl Search {
    pub(super) fn is_under_way(&self) -> bool {
        self.asked.is_some()
    }

    /// What to ask about next, if blocks from `cursor` on are to be read before it is known.
    pub(super) fn next(&mut self, todo: &BlockSet, cursor: u64) -> Option<BlockRange> {
        if self.is_under_way() {
            return None;
        }
        loop {
            let run = todo.next_run(cursor.max(self.known_up_to), SEARCH_BLOCKS_MAX)?;
            let next = todo.next_run(cursor, COPY_BLOCKS_MAX)?;
            if next.end() <= self.known_up_to {
                return None; // There is enough to read.
            }
            if run.count >= SEARCH_BLOCKS_MIN {
                return Some(run);
            }
            self.known_up_to = run.end();
        }
    }

    pub(super) fn on_ordered(&mut self, io: IoId, range: BlockRange, gaps: Vec<BlockRange>) {
        self.asked = Some(Asked { io, range, gaps });
    }

    /// The holes among what was asked about, if this is the answer. A hole was one when the question was put, unless
    /// something in memory hid it: what has been written since, a record brings.
    pub(super) fn on_found(&mut self, io: IoId, extents: &[AllocatedExtent]) -> Option<Vec<BlockRange>> {
        let Asked { range, gaps, .. } = self.asked.take_if(|asked| asked.io == io)?;
        self.known_up_to = range.end();
        let mut holes = Vec::new();
        for extent in extents.iter().filter(|extent| extent.is_hole) {
            let first = extent.range.offset.div_ceil(BLOCK_BYTES);
            let end = extent.range.end() / BLOCK_BYTES;
            for gap in &gaps {
                let (first, end) = (first.max(gap.first), end.min(gap.end()));
                if first < end {
                    holes.push(BlockRange::new(first, end - first));
                }
            }
        }
        Some(holes)
    }

    /// The part of a run of which it is known what it is.
    pub(super) fn known_part(&self, run: BlockRange) -> Option<BlockRange> {
        let count = self.known_up_to.saturating_sub(run.first).min(run.count);
        (count > 0).then(|| BlockRange::new(run.first, count))
    }
}
