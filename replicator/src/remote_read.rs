//! Reads of a Primary without a disk: what is asked of a member of the in-sync set, in parts, and what has come back.
//! Bounded in number and bytes on the way. Knows neither links nor who is asked: whoever changes that forgets everything
//! here and asks anew.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::event::IoId;
use crate::record::{RECORD_BLOCKS_MAX, Record};
use crate::units::BlockRange;

/// Most blocks of one question (1 MiB).
pub const READ_BLOCKS_MAX: u64 = RECORD_BLOCKS_MAX;
/// Most questions without an answer on one link.
pub const READS_MAX: usize = 64;
/// Most bytes that those may ask for.
pub const READ_BYTES_MAX: u64 = 8 << 20;

/// Which blocks are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The answer repeats it. From 1, never used twice on a link.
    pub number: u64,
    /// They.
    pub range: BlockRange,
}

/// An answer that answers something else than what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer to read {number} is of {found:?}, asked for was {asked:?}")]
pub struct WrongBlocks {
    number: u64,
    found: BlockRange,
    asked: BlockRange,
}

/// A read in parts.
#[derive(Debug)]
struct Gathering {
    /// By first block.
    parts: BTreeMap<u64, Bytes>,
    missing: u64,
}

/// Reads on their way.
#[derive(Debug, Default)]
pub struct RemoteReads {
    /// Parts that were not asked for yet.
    waiting: VecDeque<(IoId, BlockRange)>,
    asked: BTreeMap<u64, (IoId, BlockRange)>,
    asked_bytes: u64,
    gathering: BTreeMap<IoId, Gathering>,
    last_number: u64,
}

impl RemoteReads {
    /// Somebody wants these blocks.
    pub fn want(&mut self, io: IoId, range: BlockRange) {
        let mut first = range.first;
        while first < range.end() {
            let part = BlockRange::new(first, READ_BLOCKS_MAX.min(range.end() - first));
            self.waiting.push_back((io, part));
            first = part.end();
        }
        self.gathering.insert(io, Gathering { parts: BTreeMap::new(), missing: range.count });
    }

    /// The next question, if there is one and it may go.
    pub fn next_request(&mut self) -> Option<ReadRequest> {
        let (_, range) = self.waiting.front()?;
        if self.asked.len() >= READS_MAX || self.asked_bytes + range.bytes() > READ_BYTES_MAX {
            return None;
        }
        let (io, range) = self.waiting.pop_front().expect("it was just looked at");
        self.last_number += 1;
        self.asked_bytes += range.bytes();
        self.asked.insert(self.last_number, (io, range));
        Some(ReadRequest { number: self.last_number, range })
    }

    /// An answer. Returns the read that is whole now, in pieces that follow one another.
    ///
    /// # Errors
    /// It is of other blocks.
    pub fn on_blocks(&mut self, blocks: &Record) -> Result<Option<(IoId, Vec<Bytes>)>, WrongBlocks> {
        let number = blocks.lsn.0;
        let Some((_, asked)) = self.asked.get(&number) else {
            return Ok(None); // It was forgotten, and is asked for anew.
        };
        if *asked != blocks.range {
            return Err(WrongBlocks { number, found: blocks.range, asked: *asked });
        }
        let (io, range) = self.asked.remove(&number).expect("it was just looked at");
        self.asked_bytes -= range.bytes();
        let gathering = self.gathering.get_mut(&io).expect("a part is of a read");
        gathering.missing -= range.count;
        gathering.parts.insert(range.first, blocks.payload.clone());
        if gathering.missing > 0 {
            return Ok(None);
        }
        let whole = self.gathering.remove(&io).expect("it was just looked at");
        Ok(Some((io, whole.parts.into_values().collect())))
    }

    /// Forgets every read; answers that are still to come find nothing. Returns the reads.
    pub fn forget(&mut self) -> Vec<IoId> {
        self.waiting.clear();
        self.asked.clear();
        self.asked_bytes = 0;
        std::mem::take(&mut self.gathering).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BLOCK_SIZE, Lsn, bytes_usize};

    fn answer(request: ReadRequest, byte: u8) -> Record {
        let bytes = vec![byte; bytes_usize(request.range.count) * BLOCK_SIZE];
        Record::write(Lsn(request.number), request.range, bytes.into())
    }

    #[test]
    fn a_large_read_is_asked_for_in_parts_and_is_whole_in_order_however_they_come() {
        let mut reads = RemoteReads::default();
        reads.want(IoId(7), BlockRange::new(100, 2 * READ_BLOCKS_MAX + 3));
        let parts: Vec<_> = std::iter::from_fn(|| reads.next_request()).collect();
        assert_eq!(parts.iter().map(|part| part.range.count).collect::<Vec<_>>(), [256, 256, 3]);
        assert_eq!(reads.on_blocks(&answer(parts[2], 3)), Ok(None));
        assert_eq!(reads.on_blocks(&answer(parts[0], 1)), Ok(None));
        let (io, pieces) = reads.on_blocks(&answer(parts[1], 2)).expect("as asked").expect("whole");
        assert_eq!((io, pieces.iter().map(|piece| piece[0]).collect::<Vec<_>>()), (IoId(7), vec![1, 2, 3]));
    }

    #[test]
    fn no_more_is_on_its_way_than_the_limits_allow() {
        let mut reads = RemoteReads::default();
        (0..100).for_each(|io| reads.want(IoId(io), BlockRange::new(io, READ_BLOCKS_MAX)));
        let large: Vec<_> = std::iter::from_fn(|| reads.next_request()).collect();
        assert_eq!(large.iter().map(|part| part.range.bytes()).sum::<u64>(), READ_BYTES_MAX);
        assert!(reads.on_blocks(&answer(large[0], 1)).expect("as asked").is_some());
        assert!(reads.next_request().is_some(), "there is room again");
        let mut reads = RemoteReads::default();
        (0..100).for_each(|io| reads.want(IoId(io), BlockRange::new(io, 1)));
        assert_eq!(std::iter::from_fn(|| reads.next_request()).count(), READS_MAX);
    }

    #[test]
    fn an_answer_of_other_blocks_is_refused_and_one_that_comes_too_late_changes_nothing() {
        let mut reads = RemoteReads::default();
        reads.want(IoId(1), BlockRange::new(5, 1));
        let first = reads.next_request().expect("there is room");
        let other = ReadRequest { range: BlockRange::new(6, 1), ..first };
        assert!(reads.on_blocks(&answer(other, 1)).is_err());
        assert_eq!(reads.forget(), [IoId(1)]);
        reads.want(IoId(2), BlockRange::new(6, 1));
        let second = reads.next_request().expect("there is room");
        assert_eq!(reads.on_blocks(&answer(first, 1)), Ok(None));
        assert!(
            second.number > first.number && reads.on_blocks(&answer(second, 2)).expect("as asked").is_some()
        );
    }
}
