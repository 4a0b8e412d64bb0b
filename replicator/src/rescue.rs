//! What a node is about to throw away: the blocks that it changed alone, which write each of them holds, and what is
//! to be kept of them. Knows neither files nor peers.

use std::fmt::Write;
use std::path::PathBuf;

use bytes::Bytes;

use crate::block_set::BlockSet;
use crate::generation::split_brain::Discards;
use crate::layout::rescue_image::{RescueHead, RescuedRange};
use crate::record::Record;
use crate::units::{BLOCK_BYTES, BlockRange, Lsn};
use crate::write_back::extent_map::{Extent, ExtentMap, Piece};

/// Ranges whose writes are remembered; of more, the blocks alone.
const WRITES_KNOWN_MAX: usize = 1 << 20;
/// Ranges that a summary names.
const RANGES_NAMED_MAX: usize = 8;

/// Names one step of one rescue. Neither number is reused within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RescueStep {
    /// Which rescue: there is one at a time, and one that begins ends the one before.
    pub rescue: u64,
    /// Which step of it.
    pub step: u64,
}

/// Where what is discarded is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Save {
    /// In a new file in the configured folder.
    #[default]
    ByDefault,
    /// In this new file.
    To(PathBuf),
    /// Nowhere: it is lost.
    No,
}

/// What is asked of a node that is to give way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Giving {
    /// Whether only its own changes, or everything, is discarded.
    pub what: Discards,
    /// What becomes of it.
    pub save: Save,
    /// Whether only to say what would be done.
    pub is_rehearsal: bool,
}

/// What is to be done with the file that keeps what is discarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RescueWork {
    /// Say which file it would be. Refused if it exists, or if so much does not fit.
    Check {
        /// Where.
        save: Save,
        /// How much will be written at most, bytes.
        bytes: u64,
    },
    /// Make it, on the same terms.
    Begin {
        /// Where.
        save: Save,
        /// How much will be written at most, bytes.
        bytes: u64,
        /// What it is about.
        head: Box<RescueHead>,
    },
    /// Put blocks at their place, and these ranges into the index.
    Write {
        /// Which blocks.
        range: BlockRange,
        /// Their content: pieces that follow one another and fill the range.
        pieces: Vec<Bytes>,
        /// What they are.
        ranges: Vec<RescuedRange>,
    },
    /// Write the index, and put everything on stable storage, the file's name too.
    End,
    /// Take the file of this rescue away again: nothing is discarded. There is no answer.
    Drop,
}

/// The write that a range holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WrittenBy(Lsn);

impl Extent for WrittenBy {
    fn slice(&self, _: u64, _: u64) -> Self {
        *self
    }
}

/// Blocks that a node changed alone.
#[derive(Debug, Default)]
pub struct Changed {
    blocks: BlockSet,
    writes: ExtentMap<WrittenBy>,
}

impl Changed {
    /// Blocks of which only a bitmap remembers that they were changed.
    #[must_use]
    pub fn marked(blocks: BlockSet) -> Self {
        Self { blocks, writes: ExtentMap::default() }
    }

    /// A later record.
    pub fn on_record(&mut self, record: &Record) {
        self.blocks.add(record.range);
        self.writes.remove(record.range);
        if self.writes.len() < WRITES_KNOWN_MAX {
            self.writes.insert(record.range, WrittenBy(record.lsn));
        }
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.blocks.count()
    }

    /// The first run from block `from` on, at most `count_max` long.
    #[must_use]
    pub fn next_run(&self, from: u64, count_max: u64) -> Option<BlockRange> {
        self.blocks.next_run(from, count_max)
    }

    /// What an index says of the changed blocks in `range`.
    #[must_use]
    pub fn ranges_in(&self, range: BlockRange) -> Vec<RescuedRange> {
        let mut ranges = Vec::new();
        let mut from = range.first;
        while let Some(run) = self.next_run(from, range.end().saturating_sub(from).max(1))
            && run.first < range.end()
        {
            let run = BlockRange::new(run.first, run.count.min(range.end() - run.first));
            ranges.extend(self.writes.pieces(run).into_iter().map(|piece| match piece {
                Piece::Held(blocks, WrittenBy(lsn)) => RescuedRange { blocks, lsn: Some(lsn) },
                Piece::Gap(blocks) => RescuedRange { blocks, lsn: None },
            }));
            from = run.end();
        }
        ranges
    }

    /// The blocks in a few words: how many, how much, and the first runs.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = self.count();
        let mut text = format!("{count} blocks ({} KiB)", count * (BLOCK_BYTES >> 10));
        let (mut from, mut named) = (0, 0);
        while let Some(run) = self.next_run(from, u64::MAX) {
            let separator = if named == 0 { ": " } else { ", " };
            if named == RANGES_NAMED_MAX {
                text.push_str(", …");
                break;
            }
            let last = run.end() - 1;
            match run.count {
                1 => write!(text, "{separator}{last}"),
                _ => write!(text, "{separator}{}-{last}", run.first),
            }
            .expect("a string takes everything");
            (from, named) = (run.end(), named + 1);
        }
        text
    }
}

/// The parts of `ranges` and of what they leave out of `range` that are worth keeping: what was changed always, the rest
/// only where it is not zero.
#[must_use]
pub fn with_what_is_not_zero(
    range: BlockRange,
    changed: Vec<RescuedRange>,
    pieces: &[Bytes],
) -> Vec<RescuedRange> {
    let mut kept: Vec<RescuedRange> = Vec::new();
    let blocks = pieces.iter().flat_map(|piece| piece.chunks(crate::units::BLOCK_SIZE));
    let mut listed = BlockSet::default();
    changed.iter().for_each(|known| listed.add(known.blocks));
    for (block, content) in (range.first..range.end()).zip(blocks) {
        let is_listed = listed.next_run(block, 1).is_some_and(|run| run.first == block);
        if is_listed || content.iter().all(|byte| *byte == 0) {
            continue;
        }
        match kept.last_mut() {
            Some(last) if last.blocks.end() == block => {
                last.blocks = BlockRange::new(last.blocks.first, last.blocks.count + 1);
            }
            Some(_) | None => kept.push(RescuedRange { blocks: BlockRange::new(block, 1), lsn: None }),
        }
    }
    kept.extend(changed);
    kept.sort_by_key(|range| range.blocks.first);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(lsn: u64, first: u64, count: u64) -> Record {
        let bytes = usize::try_from(count * BLOCK_BYTES).unwrap();
        Record::write(Lsn(lsn), BlockRange::new(first, count), vec![1; bytes].into())
    }

    fn changed() -> Changed {
        let mut marked = BlockSet::default();
        marked.add(BlockRange::new(1, 3));
        let mut changed = Changed::marked(marked);
        changed.on_record(&write(7, 3, 4));
        changed.on_record(&write(8, 5, 1));
        changed
    }

    fn range(first: u64, count: u64, lsn: Option<u64>) -> RescuedRange {
        RescuedRange { blocks: BlockRange::new(first, count), lsn: lsn.map(Lsn) }
    }

    #[test]
    fn each_block_is_of_the_newest_write_that_touched_it_or_of_one_that_only_a_bitmap_remembers() {
        let expected = [range(1, 2, None), range(3, 2, Some(7)), range(5, 1, Some(8)), range(6, 1, Some(7))];
        assert_eq!(changed().ranges_in(BlockRange::new(0, 100)), expected);
        assert_eq!(changed().ranges_in(BlockRange::new(2, 2)), [range(2, 1, None), range(3, 1, Some(7))]);
        assert_eq!(changed().ranges_in(BlockRange::new(7, 2)), []);
        assert_eq!(changed().count(), 6);
    }

    #[test]
    fn a_summary_names_the_first_ranges_only() {
        assert_eq!(changed().summary(), "6 blocks (24 KiB): 1-6");
        let mut scattered = Changed::default();
        (0..20).for_each(|at| scattered.on_record(&write(at + 1, at * 2, 1)));
        assert_eq!(scattered.summary(), "20 blocks (80 KiB): 0, 2, 4, 6, 8, 10, 12, 14, …");
    }

    #[test]
    fn beyond_what_was_changed_only_what_is_not_zero_is_kept() {
        let content = [0_u8, 0, 9, 9, 0, 9].map(|byte| Bytes::from(vec![byte; 4096]));
        let kept = with_what_is_not_zero(
            BlockRange::new(0, 6),
            changed().ranges_in(BlockRange::new(0, 2)),
            &content,
        );
        assert_eq!(kept, [range(1, 1, None), range(2, 2, None), range(5, 1, None)]);
    }
}
