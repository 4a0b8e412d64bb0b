//! The files in which a machine keeps what it discards: they outlive the daemon, and are there only when finished.

use std::collections::BTreeMap;

use bytes::Bytes;
use replicator::event::Event;
use replicator::layout::rescue_image::{RescueHead, RescuedRange};
use replicator::rescue::{RescueStep, RescueWork};
use replicator::units::{BLOCK_SIZE, BlockRange};

/// A file.
#[derive(Clone, Debug)]
pub struct RescueFile {
    /// What it is about.
    pub head: RescueHead,
    /// Blocks that it holds.
    pub blocks: BTreeMap<u64, Bytes>,
    /// Its index.
    pub ranges: Vec<RescuedRange>,
}

/// All of a machine's.
#[derive(Clone, Debug, Default)]
pub struct Rescues {
    /// Those that are finished.
    pub files: Vec<RescueFile>,
    /// Blocks that there is room for; no limit if left out.
    pub room: Option<usize>,
    begun: Option<(u64, RescueFile)>,
}

impl Rescues {
    /// Carries out a step, and says what has become of it.
    pub fn carry_out(&mut self, step: RescueStep, work: RescueWork) -> Option<Event> {
        let done = Event::RescueDone { step, file: format!("rescue-{}", self.files.len()) };
        match work {
            RescueWork::Check { .. } => Some(done),
            RescueWork::Begin { head, .. } => {
                let (blocks, ranges) = (BTreeMap::new(), Vec::new());
                self.begun = Some((step.rescue, RescueFile { head: *head, blocks, ranges }));
                Some(done)
            }
            RescueWork::Write { range, pieces, ranges } => {
                let (_, begun) = self.begun.as_mut().expect("it was begun");
                begun.put(range, &pieces, ranges);
                let is_full = self.room.is_some_and(|room| begun.blocks.len() > room);
                Some(match is_full {
                    true => Event::RescueFailed { step, reason: "no space left on device".to_owned() },
                    false => done,
                })
            }
            RescueWork::End => {
                self.files.extend(self.begun.take().map(|(_, file)| file));
                Some(done)
            }
            RescueWork::Drop => {
                self.begun.take_if(|(rescue, _)| *rescue == step.rescue);
                None
            }
        }
    }

    /// The daemon dies.
    pub fn kill(&mut self) {
        self.begun = None;
    }
}

impl RescueFile {
    fn put(&mut self, range: BlockRange, pieces: &[Bytes], ranges: Vec<RescuedRange>) {
        let blocks = pieces.iter().flat_map(|piece| piece.chunks(BLOCK_SIZE));
        let mut filled = range.first;
        for (block, content) in (range.first..range.end()).zip(blocks) {
            self.blocks.insert(block, Bytes::copy_from_slice(content));
            filled = block + 1;
        }
        assert_eq!(filled, range.end(), "violation: the pieces of a rescue do not fill their range");
        let ends = self.ranges.last().map_or(0, |last| last.blocks.end());
        let is_in_order = ranges.first().is_none_or(|first| first.blocks.first >= ends);
        assert!(is_in_order, "violation: the ranges of a rescue are out of order");
        self.ranges.extend(ranges);
    }
}
