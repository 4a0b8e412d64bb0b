//! Reads records back out of the ring, for a peer that catches up. Sees exactly what recovery would see:
//! records that were discarded never come out, and every payload is verified.

use std::collections::VecDeque;

use bytes::Bytes;

use super::RingRead;
use super::chain::{ChainRules, Link};
use super::recovery_case::Found;
use super::walk::{Step, Walked, Walker};
use crate::checksum::Crc32c;
use crate::record::Record;
use crate::units::{GenerationId, Lsn};

/// The ring does not hold what it should: a block is damaged, or the tail has passed the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journal record {lsn} cannot be read back: {found:?} at ring offset {ring_offset}")]
pub struct ReadError {
    /// The record that was to come next.
    pub lsn: Lsn,
    /// Where it should start.
    pub ring_offset: u64,
    /// What stands there.
    pub found: Found,
}

/// A cursor over the ring: says what to read, takes the bytes, yields records.
#[derive(Debug)]
pub struct RingReader {
    walker: Walker,
    /// Checksum of the last descriptor before the newest session.
    session_predecessor: Crc32c,
    /// The record to yield next.
    wanted: Lsn,
    limit: Lsn,
    /// The limit when the bytes at hand were asked for: what lies beyond was perhaps not written yet.
    limit_when_read: Lsn,
    reading: bool,
    /// A batch of an older session. The one after it, which must be there, says how much of it counts.
    held: Option<Box<Walked>>,
    /// Records beyond the limit.
    ready: VecDeque<(GenerationId, Record)>,
}

impl RingReader {
    pub(super) fn new(
        rules: ChainRules,
        previous: Link,
        session_predecessor: Crc32c,
        wanted: Lsn,
        limit: Lsn,
        read_bytes: u64,
    ) -> Self {
        let walker = Walker::new(rules, previous, read_bytes);
        let (reading, held, ready) = (false, None, VecDeque::new());
        Self { walker, session_predecessor, wanted, limit, limit_when_read: limit, reading, held, ready }
    }

    /// The record that comes out next.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.wanted
    }

    /// Moves the limit to `limit`, which is journaled by now; yields what was read before and waits only for it.
    pub fn extend(&mut self, limit: Lsn) -> Vec<(GenerationId, Record)> {
        self.limit = self.limit.max(limit);
        self.take_ready()
    }

    /// What to read next; `None` while a read is outstanding, and when everything up to the limit is out.
    #[must_use]
    pub fn next_read(&mut self) -> Option<RingRead> {
        if self.reading || !self.wants_more() {
            return None;
        }
        // Bytes that were read before the limit moved may be older than what lies there now.
        if !self.bytes_hold_more() {
            self.limit_when_read = self.limit;
            self.walker.forget_bytes();
        }
        match self.walker.step() {
            Step::Read(read) => {
                self.reading = true;
                Some(read)
            }
            Step::Batch(_) | Step::End(_) => panic!("a walk without bytes asks for some"),
        }
    }

    /// Takes the bytes of the last read and yields the records that they complete.
    ///
    /// # Errors
    /// The ring does not hold what it should. The reader is void.
    pub fn on_bytes(&mut self, bytes: Bytes) -> Result<Vec<(GenerationId, Record)>, ReadError> {
        assert!(self.reading, "bytes come only after a read was asked for");
        self.reading = false;
        self.walker.on_bytes(bytes);
        while self.bytes_hold_more() {
            match self.walker.step() {
                Step::Read(_) => break,
                Step::Batch(batch) => {
                    // A reader follows the head for as long as its peer is behind, round after round; what keeps it
                    // from lapping is its limit.
                    self.walker.used = 0;
                    self.on_batch(batch);
                }
                Step::End(found) => {
                    let (lsn, ring_offset) =
                        (self.walker.previous.last_lsn.next(), self.walker.next_offset());
                    return Err(ReadError { lsn, ring_offset, found });
                }
            }
        }
        Ok(self.take_ready())
    }

    fn wants_more(&self) -> bool {
        self.held.is_some() || self.walker.previous.last_lsn < self.limit
    }

    fn bytes_hold_more(&self) -> bool {
        self.held.is_some() || self.walker.previous.last_lsn < self.limit_when_read
    }

    fn on_batch(&mut self, batch: Box<Walked>) {
        if let Some(mut held) = self.held.take() {
            held.records.retain(|record| record.lsn < batch.header.first_lsn);
            self.release(*held);
        }
        // A batch of the newest session is whole. So is the last one before it, but for what the session's
        // first Lsn takes away, which the walk has done. Any other may be shortened by its successor.
        let is_newest_session = batch.header.session == self.walker.rules.session;
        if is_newest_session || batch.crc == self.session_predecessor {
            self.release(*batch);
        } else {
            self.held = Some(batch);
        }
    }

    fn release(&mut self, batch: Walked) {
        let generation = batch.header.generation;
        let wanted = self.wanted;
        let records = batch.records.into_iter().filter(|record| record.lsn >= wanted);
        self.ready.extend(records.map(|record| (generation, record)));
    }

    fn take_ready(&mut self) -> Vec<(GenerationId, Record)> {
        let count = self.ready.iter().take_while(|(_, record)| record.lsn <= self.limit).count();
        let records: Vec<_> = self.ready.drain(..count).collect();
        for (_, record) in &records {
            assert_eq!(record.lsn, self.wanted, "a reader yields records without gaps");
            self.wanted = self.wanted.next();
        }
        records
    }
}
