//! The source's half of a resync.

use std::collections::{BTreeMap, VecDeque};

use crate::block_set::BlockSet;
use crate::event::IoId;
use crate::resync::{COPY_BLOCKS_MAX, IN_FLIGHT_BYTES_MAX};
use crate::units::{BlockRange, Lsn};

/// Reads of the local disk at a time.
const READS_MAX: usize = 8;

/// A copy that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u64,
    range: BlockRange,
}

/// What is left to copy, and what is on its way.
#[derive(Debug)]
pub struct Copying {
    /// From here on the target receives records.
    start: Lsn,
    todo: BlockSet,
    cursor: u64,
    /// Marked dirty again since the start, by records that the journal has left behind: their marks must stay.
    marked_anew: BlockSet,
    reading: BTreeMap<IoId, BlockRange>,
    sent: VecDeque<Sent>,
    in_flight_bytes: u64,
    newest_number: u64,
    /// Newest record that may be in a copy.
    consistent_at: Lsn,
}

impl Copying {
    /// Everything in `todo` is to be copied; records after `start` go to the target besides.
    #[must_use]
    pub fn new(todo: BlockSet, start: Lsn) -> Self {
        Self {
            start,
            todo,
            cursor: 0,
            marked_anew: BlockSet::default(),
            reading: BTreeMap::new(),
            sent: VecDeque::new(),
            in_flight_bytes: 0,
            newest_number: 0,
            consistent_at: start,
        }
    }

    /// From where on the target receives records.
    #[must_use]
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// The next blocks to look at; `None` while as much is under way as may be, and at the end of a pass over the
    /// volume, of which `is_new_pass` begins another.
    pub fn next_run(&mut self, is_new_pass: bool) -> Option<BlockRange> {
        if is_new_pass {
            self.cursor = 0;
        }
        if !self.has_room() {
            return None;
        }
        let run = self.todo.next_run(self.cursor, COPY_BLOCKS_MAX)?;
        self.cursor = run.end();
        Some(run)
    }

    /// Whether more may be under way than is.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let is_left = !self.todo.is_empty();
        is_left && self.reading.len() < READS_MAX && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX
    }

    /// These blocks are being read.
    pub fn on_read_ordered(&mut self, io: IoId, range: BlockRange) {
        self.todo.remove(range);
        self.in_flight_bytes += range.bytes();
        self.reading.insert(io, range);
    }

    /// A record that the target receives brings these blocks.
    pub fn leave_to_records(&mut self, range: BlockRange) {
        self.todo.remove(range);
    }

    /// Blocks were read while `newest` was the newest record taken in; the copy gets the number returned, if the read
    /// belongs to this resync.
    pub fn on_read(&mut self, io: IoId, newest: Lsn) -> Option<(Lsn, BlockRange)> {
        let range = self.reading.remove(&io)?;
        self.consistent_at = self.consistent_at.max(newest);
        self.newest_number += 1;
        self.sent.push_back(Sent { number: self.newest_number, range });
        Some((Lsn(self.newest_number), range))
    }

    /// Blocks were marked dirty again: a copy that was made before does not make them equal.
    pub fn mark_anew(&mut self, range: BlockRange) {
        self.marked_anew.add(range);
    }

    /// The target has flushed every copy up to this one. Returns the blocks that are proved equal by it.
    pub fn on_flushed(&mut self, up_to: u64) -> Vec<BlockRange> {
        let mut equal = Vec::new();
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.number <= up_to) {
            self.in_flight_bytes -= sent.range.bytes();
            equal.extend(self.marked_anew.missing(sent.range));
        }
        equal
    }

    /// When every block is copied: up to where the target's journal must reach for its disk to be consistent.
    #[must_use]
    pub fn finished(&self) -> Option<Lsn> {
        let is_over = self.reading.is_empty() && self.sent.is_empty() && self.todo.is_empty();
        is_over.then_some(self.consistent_at)
    }

    /// Blocks that are not flushed by the target yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.todo.count() + self.in_flight_bytes / crate::units::BLOCK_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u64) -> BlockRange {
        BlockRange::new(first, count)
    }

    #[test]
    fn blocks_are_equal_only_when_flushed_and_not_if_marked_again() {
        let mut todo = BlockSet::default();
        todo.add(run(10, 4));
        let mut copying = Copying::new(todo, Lsn(7));
        assert_eq!(copying.next_run(true), Some(run(10, 4)));
        copying.on_read_ordered(IoId(1), run(10, 4));
        assert_eq!(copying.next_run(true), None);
        assert_eq!(copying.on_read(IoId(2), Lsn(9)), None, "another read");
        assert_eq!(copying.on_read(IoId(1), Lsn(9)), Some((Lsn(1), run(10, 4))));
        assert_eq!(copying.finished(), None);
        copying.mark_anew(run(11, 1));
        assert_eq!(copying.on_flushed(0), []);
        assert_eq!(copying.on_flushed(1), [run(10, 1), run(12, 2)]);
        assert_eq!(copying.finished(), Some(Lsn(9)), "a copy may have what was written until it was read");
    }

    #[test]
    fn no_more_is_under_way_than_the_target_takes() {
        let mut todo = BlockSet::default();
        todo.add(run(0, 100_000));
        let mut copying = Copying::new(todo, Lsn(0));
        let mut io = 0;
        let mut read = |copying: &mut Copying| {
            while let Some(range) = copying.next_run(false) {
                io += 1;
                copying.on_read_ordered(IoId(io), range);
                copying.on_read(IoId(io), Lsn(0));
            }
        };
        read(&mut copying);
        assert_eq!(copying.in_flight_bytes, IN_FLIGHT_BYTES_MAX);
        assert_eq!(copying.left(), 100_000);
        copying.on_flushed(1);
        read(&mut copying);
        assert_eq!(copying.in_flight_bytes, IN_FLIGHT_BYTES_MAX);
    }
}
