//! The target's half of a resync.

use std::collections::{BTreeMap, VecDeque};

use crate::block_set::BlockSet;
use crate::event::IoId;
use crate::record::Record;
use crate::resync::{COPY_BLOCKS_MAX, IN_FLIGHT_BYTES_MAX};
use crate::units::{BLOCK_BYTES, BlockRange, Lsn};

/// A copy that is being written.
#[derive(Clone, Copy, Debug)]
struct Writing {
    number: u64,
    range: BlockRange,
}

/// A record that must not be written back before a copy has arrived.
#[derive(Clone, Copy, Debug)]
struct Held {
    lsn: Lsn,
    copy: IoId,
}

/// What arrives, and what counts for more.
#[derive(Clone, Debug, Default)]
pub struct Receiving {
    /// Blocks that records have brought since the start.
    recorded: BlockSet,
    writing: BTreeMap<IoId, Writing>,
    held: Vec<Held>,
    /// Newest copy received.
    received: u64,
    /// Bytes of the copies that are not flushed: number and length of each, and all together.
    unflushed: VecDeque<(u64, u64)>,
    unflushed_bytes: u64,
    flushed: u64,
    /// Up to where the journal must reach for the disk to be consistent; known when every copy was sent.
    consistent_at: Option<Lsn>,
}

/// Why a copy is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyRefusal {
    /// One is missing, or comes again.
    #[error("copy {number} came after {received}")]
    Number {
        /// The one that came.
        number: u64,
        /// The one before.
        received: u64,
    },
    /// The source sends more than may be on its way.
    #[error("copy {0} was sent without room for it")]
    Window(u64),
}

impl Receiving {
    /// A record arrived: copies of its blocks count no more.
    pub fn on_record(&mut self, record: &Record) {
        self.recorded.add(record.range);
        let copies = self.writing.iter().filter(|(_, writing)| writing.range.overlaps(record.range));
        self.held.extend(copies.map(|(copy, _)| Held { lsn: record.lsn, copy: *copy }));
    }

    /// A copy arrived. Returns the blocks of it that are wanted.
    ///
    /// # Errors
    /// It is not the next one, or there is no room for it.
    pub fn on_copy(&mut self, copy: &Record) -> Result<Vec<BlockRange>, CopyRefusal> {
        let number = copy.lsn.0;
        if number != self.received + 1 {
            return Err(CopyRefusal::Number { number, received: self.received });
        }
        // The source looks before it reads, and may read one copy more than there is room for.
        let room = IN_FLIGHT_BYTES_MAX + COPY_BLOCKS_MAX * BLOCK_BYTES;
        if self.unflushed_bytes >= room {
            return Err(CopyRefusal::Window(number));
        }
        self.received = number;
        self.unflushed_bytes += copy.range.bytes();
        self.unflushed.push_back((number, copy.range.bytes()));
        Ok(self.recorded.missing(copy.range))
    }

    /// Blocks of the newest copy are being written.
    pub fn on_write_ordered(&mut self, io: IoId, range: BlockRange) {
        self.writing.insert(io, Writing { number: self.received, range });
    }

    /// A write is done. Returns whether it was of a copy.
    pub fn on_written(&mut self, io: IoId) -> bool {
        self.held.retain(|held| held.copy != io);
        self.writing.remove(&io).is_some()
    }

    /// The oldest record that must wait with its write-back.
    #[must_use]
    pub fn oldest_held(&self) -> Option<Lsn> {
        self.held.iter().map(|held| held.lsn).min()
    }

    /// Up to which copy a flush of the data area that begins now covers everything, if that is news.
    #[must_use]
    pub fn flush_wanted(&self) -> Option<u64> {
        let written = self.writing.values().map(|writing| writing.number - 1).min().unwrap_or(self.received);
        (written > self.flushed).then_some(written)
    }

    /// Every copy up to this one is flushed.
    pub fn on_flushed(&mut self, up_to: u64) {
        self.flushed = self.flushed.max(up_to);
        while let Some((_, bytes)) = self.unflushed.pop_front_if(|(number, _)| *number <= up_to) {
            self.unflushed_bytes -= bytes;
        }
    }

    /// Every copy was sent.
    pub fn on_end(&mut self, consistent_at: Lsn) {
        self.consistent_at = Some(consistent_at);
    }

    /// When every copy is here and flushed: up to where the journal must reach.
    #[must_use]
    pub fn finished(&self) -> Option<Lsn> {
        self.consistent_at.filter(|_| self.flushed == self.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordKind;

    fn zeroes(lsn: u64, first: u64, count: u64) -> Record {
        Record::zero(Lsn(lsn), RecordKind::Trim, BlockRange::new(first, count))
    }

    #[test]
    fn a_record_wins_over_a_copy_in_whatever_order_they_come() {
        let mut receiving = Receiving::default();
        receiving.on_record(&zeroes(101, 5, 1));
        assert_eq!(
            receiving.on_copy(&zeroes(1, 4, 3)),
            Ok(vec![BlockRange::new(4, 1), BlockRange::new(6, 1)])
        );
        receiving.on_write_ordered(IoId(1), BlockRange::new(4, 1));
        receiving.on_write_ordered(IoId(2), BlockRange::new(6, 1));
        assert_eq!(receiving.oldest_held(), None);
        receiving.on_record(&zeroes(102, 9, 1));
        receiving.on_record(&zeroes(103, 6, 1));
        assert_eq!(receiving.oldest_held(), Some(Lsn(103)), "the copy is under way");
        assert!(receiving.on_written(IoId(2)));
        assert_eq!(receiving.oldest_held(), None);
    }

    #[test]
    fn a_copy_is_flushed_when_it_and_all_before_it_were_written_before_the_flush() {
        let mut receiving = Receiving::default();
        for number in 1..=2 {
            receiving.on_copy(&zeroes(number, number, 1)).expect("in order");
            receiving.on_write_ordered(IoId(number), BlockRange::new(number, 1));
        }
        receiving.on_end(Lsn(50));
        assert!(receiving.on_written(IoId(2)));
        assert_eq!(receiving.flush_wanted(), None, "the first one is missing");
        assert!(receiving.on_written(IoId(1)));
        assert_eq!(receiving.flush_wanted(), Some(2));
        assert_eq!(receiving.finished(), None);
        receiving.on_flushed(2);
        assert_eq!((receiving.flush_wanted(), receiving.finished()), (None, Some(Lsn(50))));
    }

    #[test]
    fn copies_come_in_order_and_no_more_than_may_be_under_way() {
        let mut receiving = Receiving::default();
        let missing = CopyRefusal::Number { number: 2, received: 0 };
        assert_eq!(receiving.on_copy(&zeroes(2, 0, 1)), Err(missing));
        for number in 1..=17 {
            receiving.on_copy(&zeroes(number, number * 256, 256)).expect("there is room");
        }
        assert_eq!(receiving.on_copy(&zeroes(18, 0, 1)), Err(CopyRefusal::Window(18)));
    }
}
