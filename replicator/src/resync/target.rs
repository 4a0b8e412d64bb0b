//! The target's half of a resync.

use std::collections::{BTreeMap, VecDeque};

use crate::block_set::BlockSet;
use crate::event::IoId;
use crate::record::Record;
use crate::resync::digest::{BlockDigest, Comparison};
use crate::resync::{COPY_BLOCKS_MAX, Differing, IN_FLIGHT_BYTES_MAX, ZERO_BLOCKS_MAX, cost};
use crate::units::{BLOCK_BYTES, BlockRange, Lsn, bytes_usize};

/// What is flushed while more is being written: a flush for each copy would cost more than the copies.
const FLUSH_BYTES: u64 = 8 << 20;

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

/// A copy or a comparison that is not flushed.
#[derive(Clone, Copy, Debug)]
struct Unflushed {
    number: u64,
    cost: u64,
    /// What everything up to and with this one has cost when it arrived.
    arrived_bytes: u64,
}

/// Blocks that are being compared.
#[derive(Clone, Debug)]
struct Comparing {
    question: Comparison,
    differing: Differing,
    /// Reads that have not come back.
    reads: usize,
}

/// The answer to a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Which one.
    pub number: u64,
    /// The blocks that the source should copy.
    pub differing: Differing,
}

/// What arrives, and what counts for more.
#[derive(Clone, Debug, Default)]
pub struct Receiving {
    /// Blocks that records have brought since the start.
    recorded: BlockSet,
    writing: BTreeMap<IoId, Writing>,
    held: Vec<Held>,
    comparing: BTreeMap<u64, Comparing>,
    /// Reads for comparisons: which one, which blocks.
    reading: BTreeMap<IoId, (u64, BlockRange)>,
    /// Newest copy or comparison received.
    received: u64,
    unflushed: VecDeque<Unflushed>,
    /// What all of them cost.
    unflushed_bytes: u64,
    arrived_bytes: u64,
    /// Blocks that were brought, or turned out to be here.
    brought: u64,
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
    /// More zeroes than a disk can be sure to write in time.
    #[error("copy {number} is of {blocks} blocks")]
    Length {
        /// The one that came.
        number: u64,
        /// How many blocks it has.
        blocks: u64,
    },
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
        if copy.range.count > ZERO_BLOCKS_MAX {
            return Err(CopyRefusal::Length { number: copy.lsn.0, blocks: copy.range.count });
        }
        self.receive(copy.lsn.0, cost(copy))?;
        self.brought += copy.range.count;
        Ok(self.recorded.missing(copy.range))
    }

    /// The source asks which of some blocks differ. Returns the blocks to read; where there is none,
    /// [`Self::answer`] has the answer at once.
    ///
    /// # Errors
    /// It is not the next one, or there is no room for it.
    pub fn on_comparison(&mut self, question: Comparison) -> Result<Vec<BlockRange>, CopyRefusal> {
        let (number, range) = (question.number, question.range);
        self.receive(number, range.bytes())?;
        // Blocks that a record has brought are not wanted, whatever the source holds.
        let wanted = self.recorded.missing(range);
        let comparing = Comparing { question, differing: Differing::default(), reads: wanted.len() };
        self.comparing.insert(number, comparing);
        Ok(wanted)
    }

    fn receive(&mut self, number: u64, cost: u64) -> Result<(), CopyRefusal> {
        if number != self.received + 1 {
            return Err(CopyRefusal::Number { number, received: self.received });
        }
        // The source looks before it reads, and may read one copy more than there is room for.
        let room = IN_FLIGHT_BYTES_MAX + COPY_BLOCKS_MAX * BLOCK_BYTES;
        if self.unflushed_bytes >= room {
            return Err(CopyRefusal::Window(number));
        }
        self.received = number;
        self.unflushed_bytes += cost;
        self.arrived_bytes += cost;
        let arrived_bytes = self.arrived_bytes;
        self.unflushed.push_back(Unflushed { number, cost, arrived_bytes });
        Ok(())
    }

    /// Blocks of the newest copy are being written.
    pub fn on_write_ordered(&mut self, io: IoId, range: BlockRange) {
        self.writing.insert(io, Writing { number: self.received, range });
    }

    /// Blocks of the newest comparison are being read.
    pub fn on_read_ordered(&mut self, io: IoId, range: BlockRange) {
        self.reading.insert(io, (self.received, range));
    }

    /// Blocks of a comparison were read.
    pub fn on_read(&mut self, io: IoId, bytes: &[u8]) {
        let Some((number, range)) = self.reading.remove(&io) else { return };
        let comparing = self.comparing.get_mut(&number).expect("it ends with its last read");
        comparing.reads -= 1;
        let skip = range.first - comparing.question.range.first;
        let digests = BlockDigest::of_blocks(bytes);
        for (place, digest) in (skip..).zip(digests) {
            if comparing.question.digests[bytes_usize(place)] != digest {
                comparing.differing.insert(place);
            }
        }
    }

    /// The answer to a comparison that is over. What it calls equal is proved when it is flushed.
    pub fn answer(&mut self) -> Option<Compared> {
        let over = self.comparing.iter().find(|(_, comparing)| comparing.reads == 0);
        let number = *over?.0;
        let Comparing { question, mut differing, .. } = self.comparing.remove(&number)?;
        // What a record has brought meanwhile need not be copied any more.
        let (_, different) = differing.split(question.range);
        let wanted: Vec<BlockRange> = different.iter().flat_map(|run| self.recorded.missing(*run)).collect();
        differing = Differing::default();
        for run in wanted {
            let first = run.first - question.range.first;
            (first..first + run.count).for_each(|place| differing.insert(place));
        }
        // The copies that follow cost what these blocks have cost until now.
        let moved = differing.count() * BLOCK_BYTES;
        self.brought += question.range.count - differing.count();
        let at = self.unflushed.binary_search_by_key(&number, |unflushed| unflushed.number);
        self.unflushed[at.expect("it is not flushed before it is over")].cost -= moved;
        self.unflushed_bytes -= moved;
        Some(Compared { number, differing })
    }

    /// Bytes that were brought, or turned out to be here.
    #[must_use]
    pub fn brought_bytes(&self) -> u64 {
        self.brought * BLOCK_BYTES
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
        let writing = self.writing.values().map(|writing| writing.number);
        // What was equal when it was read must be so after a power cut.
        let oldest = writing.chain(self.comparing.keys().copied()).min();
        let done = oldest.map_or(self.received, |number| number - 1);
        (done > self.flushed && (oldest.is_none() || self.is_worth_a_flush(done))).then_some(done)
    }

    /// Whether so much has arrived up to here that it is flushed while more is being written.
    fn is_worth_a_flush(&self, done: u64) -> bool {
        let arrived = |number: u64| {
            let at = self.unflushed.front().and_then(|front| number.checked_sub(front.number));
            at.and_then(|at| self.unflushed.get(bytes_usize(at)))
        };
        let first = self.unflushed.front();
        let before = first.map_or(0, |first| first.arrived_bytes - first.cost.min(first.arrived_bytes));
        arrived(done).is_some_and(|done| done.arrived_bytes - before >= FLUSH_BYTES)
    }

    /// Every copy up to this one is flushed.
    pub fn on_flushed(&mut self, up_to: u64) {
        self.flushed = self.flushed.max(up_to);
        while let Some(unflushed) = self.unflushed.pop_front_if(|unflushed| unflushed.number <= up_to) {
            self.unflushed_bytes -= unflushed.cost;
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
mod tests;
