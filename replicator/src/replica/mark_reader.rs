//! Reads a stretch of the journal for one thing only: which blocks its records touch, so that they can be marked dirty.
//! Whose marks they become is the business of whoever reads.

use bytes::Bytes;

use crate::config::CATCH_UP_READ_BYTES;
use crate::effect::{Effect, Effects};
use crate::event::IoId;
use crate::journal::reader::{ReadError, RingReader};
use crate::journal::ring::Ring;
use crate::units::{BlockRange, Lsn};

use super::{IoPurpose, Replica};

/// A cursor over the records of a stretch of the journal.
#[derive(Debug)]
pub(super) struct MarkReader {
    /// Nothing to read if there is none.
    reader: Option<Box<RingReader>>,
    last: Lsn,
    /// The read that was ordered last: what an earlier reader has ordered is not for this one.
    awaited: Option<IoId>,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum MarkRead {
    /// This part of the ring is read: offset, length.
    Order(u64, u64),
    /// A read is under way.
    Wait,
    /// Every record was seen.
    Done,
}

impl MarkReader {
    /// The records from `first` to `last`, as far as the ring keeps them.
    pub(super) fn new(ring: &Ring, first: Lsn, last: Lsn) -> Self {
        let first = first.max(ring.oldest_kept());
        let reader = (first <= last).then(|| {
            let reader = ring.reader(first, last, CATCH_UP_READ_BYTES);
            Box::new(reader.expect("what is kept can be read"))
        });
        Self { reader, last, awaited: None }
    }

    /// What to read next.
    pub(super) fn next(&mut self) -> MarkRead {
        match &mut self.reader {
            Some(reader) if reader.next_lsn() <= self.last => match reader.next_read() {
                Some(read) => MarkRead::Order(read.ring_offset, read.length),
                None => MarkRead::Wait,
            },
            Some(_) | None => MarkRead::Done,
        }
    }

    /// What comes next was ordered as this read.
    pub(super) fn awaits(&mut self, io: IoId) {
        self.awaited = Some(io);
    }

    /// Takes what was read: the records that it completes, and the blocks that each of them touches. Nothing, if an earlier
    /// reader had ordered it.
    pub(super) fn on_bytes(&mut self, io: IoId, bytes: Bytes) -> Result<Vec<(Lsn, BlockRange)>, ReadError> {
        if self.awaited != Some(io) {
            return Ok(Vec::new());
        }
        let reader = self.reader.as_mut().expect("only what was ordered comes");
        let records = reader.on_bytes(bytes)?;
        Ok(records.into_iter().map(|(_, record)| (record.lsn, record.range)).collect())
    }
}

impl Replica {
    /// Orders a read of the journal.
    pub(super) fn read_journal(
        &mut self,
        purpose: IoPurpose,
        ring_offset: u64,
        length: u64,
        effects: &mut Effects,
    ) -> IoId {
        let io = self.numbers.next();
        self.purposes.insert(io, purpose);
        let offset = self.journal.zone_offset() + ring_offset;
        effects.push(Effect::ReadJournal { io, offset, length });
        io
    }
}
