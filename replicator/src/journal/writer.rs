//! Writes the journal: gathers accepted records into batches, keeps several batches in flight, and knows
//! how far the journal is written and how far it is flushed. Decides nothing about peers or clients.
//!
//! Batches form by themselves: a batch starts as soon as one of a few slots is free and takes all that has
//! gathered by then. At depth 1 a record never waits; under load batches grow.

use std::collections::VecDeque;

use crate::config::{BACKGROUND_FLUSH_AFTER, BACKGROUND_FLUSH_BYTES, JOURNAL_WRITES_MAX};
use crate::effect::{Effect, Effects};
use crate::event::IoId;
use crate::journal::ring::Ring;
use crate::layout::journal_batch::{BATCH_BYTES_MAX, descriptor_blocks};
use crate::layout::record_table::{BATCH_PAYLOAD_BLOCKS_MAX, BATCH_RECORDS_MAX};
use crate::record::{RECORD_BLOCKS_MAX, Record};
use crate::units::{BLOCK_BYTES, GenerationId, Lsn, Tick, bytes_u64};

/// A batch that is being written.
#[derive(Debug)]
struct BatchInFlight {
    io: IoId,
    last_lsn: Lsn,
    bytes: u64,
    is_written: bool,
}

/// What the next batch would hold.
#[derive(Clone, Copy, Debug)]
struct NextBatch {
    records: usize,
    payload_blocks: u64,
}

impl NextBatch {
    fn total_blocks(self) -> u64 {
        descriptor_blocks(self.records, self.payload_blocks) + self.payload_blocks
    }
}

/// A flush in progress.
#[derive(Debug)]
struct FlushInFlight {
    io: IoId,
    covers: Lsn,
}

/// The writing end of the journal.
#[derive(Debug)]
pub struct JournalWriter {
    ring: Ring,
    /// Where the ring begins in the metadata area, bytes.
    zone_offset: u64,
    /// Accepted, in no batch yet.
    queue: VecDeque<(GenerationId, Record)>,
    queue_bytes: u64,
    in_flight: VecDeque<BatchInFlight>,
    journaled: Lsn,
    flushed: Lsn,
    flush: Option<FlushInFlight>,
    flush_wanted: Lsn,
    unflushed_bytes: u64,
    unflushed_since: Tick,
    batches_written: u64,
}

impl JournalWriter {
    /// A journal as recovery found it. Only what was flushed before the crash counts as flushed.
    #[must_use]
    pub fn new(ring: Ring, zone_offset: u64, flushed_up_to: Lsn) -> Self {
        let end = ring.head_lsn();
        Self {
            ring,
            zone_offset,
            queue: VecDeque::new(),
            queue_bytes: 0,
            in_flight: VecDeque::new(),
            journaled: end,
            flushed: flushed_up_to.min(end),
            flush: None,
            flush_wanted: Lsn::ZERO,
            unflushed_bytes: 0,
            unflushed_since: Tick(0),
            batches_written: 0,
        }
    }

    /// The ring's bookkeeping.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The ring's bookkeeping, to move the tail.
    pub fn ring_mut(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Where the ring begins in the metadata area, bytes.
    #[must_use]
    pub fn zone_offset(&self) -> u64 {
        self.zone_offset
    }

    /// Everything up to here is written, without a gap.
    #[must_use]
    pub fn journaled(&self) -> Lsn {
        self.journaled
    }

    /// Everything up to here is flushed.
    #[must_use]
    pub fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// The newest record taken in.
    #[must_use]
    pub fn accepted(&self) -> Lsn {
        self.queue.back().map_or(self.ring.head_lsn(), |(_, record)| record.lsn)
    }

    /// Bytes that wait for a batch.
    #[must_use]
    pub fn queue_bytes(&self) -> u64 {
        self.queue_bytes
    }

    /// Whether nothing waits and nothing is being written or flushed.
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty() && self.flush.is_none()
    }

    /// Whether everything taken in is flushed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.is_idle() && self.flushed == self.accepted()
    }

    /// I/Os in flight, and batches written since the start.
    #[must_use]
    pub fn counters(&self) -> (u64, u64) {
        (bytes_u64(self.in_flight.len()) + u64::from(self.flush.is_some()), self.batches_written)
    }

    /// Takes a record in.
    pub fn accept(&mut self, generation: GenerationId, record: Record) {
        assert_eq!(record.lsn, self.accepted().next(), "the journal has no gaps");
        self.queue_bytes += bytes_u64(record.payload.len());
        self.queue.push_back((generation, record));
    }

    /// Asks for a flush that covers `up_to`, which may not have been taken in yet: a peer asks behind its records.
    pub fn want_flush(&mut self, up_to: Lsn) {
        self.flush_wanted = self.flush_wanted.max(up_to);
    }

    /// Orders batches and flushes, as many as may be in flight.
    pub fn advance(
        &mut self,
        now: Tick,
        data_flushed: Lsn,
        next_io: &mut impl FnMut() -> IoId,
        effects: &mut Effects,
    ) {
        while self.in_flight.len() < JOURNAL_WRITES_MAX && self.start_batch(data_flushed, next_io, effects) {}
        self.start_flush(now, next_io, effects);
    }

    /// Whether a batch waits for room in the ring.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        !self.queue.is_empty() && !self.ring.fits(self.next_batch().total_blocks())
    }

    /// The next batch: as many records of one generation as the limits allow.
    fn next_batch(&self) -> NextBatch {
        let generation = self.queue.front().map(|(generation, _)| *generation);
        let mut next = NextBatch { records: 0, payload_blocks: 0 };
        // A batch that takes most of a small ring would wait for its tail for ever.
        let payload_blocks_max =
            BATCH_PAYLOAD_BLOCKS_MAX.min(self.ring.capacity_bytes() / BLOCK_BYTES / 4).max(RECORD_BLOCKS_MAX);
        for (of, record) in self.queue.iter().take(BATCH_RECORDS_MAX) {
            let payload_blocks = next.payload_blocks + record.payload_blocks();
            if Some(*of) != generation || payload_blocks > payload_blocks_max {
                break;
            }
            next = NextBatch { records: next.records + 1, payload_blocks };
        }
        next
    }

    fn start_batch(
        &mut self,
        data_flushed: Lsn,
        next_io: &mut impl FnMut() -> IoId,
        effects: &mut Effects,
    ) -> bool {
        let Some((generation, _)) = self.queue.front() else { return false };
        let generation = *generation;
        let next = self.next_batch();
        assert!(next.records > 0, "one record always fits into a batch");
        if !self.ring.fits(next.total_blocks()) {
            return false;
        }
        let records: Vec<Record> = self.queue.drain(..next.records).map(|(_, record)| record).collect();
        let placed = self.ring.append(generation, &records, self.flushed, data_flushed);
        let payloads: Vec<_> =
            records.into_iter().map(|record| record.payload).filter(|payload| !payload.is_empty()).collect();
        self.queue_bytes -= payloads.iter().map(|payload| bytes_u64(payload.len())).sum::<u64>();
        let io = next_io();
        self.in_flight.push_back(BatchInFlight {
            io,
            last_lsn: placed.last_lsn,
            bytes: placed.total_bytes,
            is_written: false,
        });
        let offset = self.zone_offset + placed.ring_offset;
        effects.push(Effect::WriteJournal { io, offset, descriptor: placed.descriptor, payloads });
        true
    }

    fn start_flush(&mut self, now: Tick, next_io: &mut impl FnMut() -> IoId, effects: &mut Effects) {
        let holds_what_is_asked = self.journaled >= self.flush_wanted || self.journaled == self.accepted();
        let is_asked = self.flush_wanted > self.flushed && holds_what_is_asked;
        if self.flush.is_some()
            || self.flushed == self.journaled
            || !(is_asked || self.background_flush_is_due(now))
        {
            return;
        }
        let io = next_io();
        self.flush = Some(FlushInFlight { io, covers: self.journaled });
        self.unflushed_bytes = 0;
        effects.push(Effect::FlushJournal { io });
    }

    fn background_flush_is_due(&self, now: Tick) -> bool {
        self.unflushed_bytes >= BACKGROUND_FLUSH_BYTES
            || now >= self.unflushed_since.plus(BACKGROUND_FLUSH_AFTER)
    }

    /// When the background flush is due by time.
    #[must_use]
    pub fn flush_due_at(&self) -> Option<Tick> {
        let is_due = self.flush.is_none() && self.flushed < self.journaled;
        is_due.then(|| self.unflushed_since.plus(BACKGROUND_FLUSH_AFTER))
    }

    /// Reports an I/O done. Returns whether it was the journal's.
    pub fn on_io_completed(&mut self, io: IoId, now: Tick) -> bool {
        if self.flush.as_ref().is_some_and(|flush| flush.io == io) {
            let flush = self.flush.take().expect("it was just looked at");
            assert!(flush.covers <= self.journaled, "a flush covers what was written");
            self.flushed = self.flushed.max(flush.covers);
            self.unflushed_since = now;
            return true;
        }
        let Some(batch) = self.in_flight.iter_mut().find(|batch| batch.io == io) else { return false };
        batch.is_written = true;
        self.batches_written += 1;
        if self.flushed == self.journaled && self.flush.is_none() {
            self.unflushed_since = now;
        }
        // Writes complete in any order; what counts is the prefix without a gap.
        while let Some(batch) = self.in_flight.pop_front_if(|batch| batch.is_written) {
            self.journaled = batch.last_lsn;
            self.unflushed_bytes += batch.bytes;
        }
        true
    }

    /// Discards every record after `last`; the journal continues in a new session.
    pub fn cut(&mut self, last: Lsn, session: u64) {
        assert!(self.is_clean(), "a journal is cut only while nothing is on its way");
        self.ring.cut(last, session);
        self.journaled = last;
        self.flushed = last;
        self.flush_wanted = Lsn::ZERO;
    }

    /// Forgets everything; the journal continues behind `last`, in a new session.
    pub fn restart(&mut self, last: Lsn, generation: GenerationId, session: u64) {
        assert!(self.is_clean(), "a journal is begun anew only while nothing is on its way");
        self.ring.restart(last, generation, session);
        (self.journaled, self.flushed, self.flush_wanted) = (last, last, Lsn::ZERO);
    }

    /// Forgets records that are in no batch yet.
    pub fn drop_queue(&mut self) {
        self.queue.clear();
        self.queue_bytes = 0;
        self.flush_wanted = self.flush_wanted.min(self.ring.head_lsn());
    }

    /// Bytes of payload that the ring has room for, whatever the tail does: one batch may have to leave a gap
    /// at the ring's end, and at worst every block of payload has a descriptor of its own.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        let free = self.ring.capacity_bytes() - self.ring.used_bytes();
        let gap = BATCH_BYTES_MAX.min(self.ring.capacity_bytes() / 4);
        (free.saturating_sub(gap) / 2).saturating_sub(self.queue_bytes)
    }
}

#[cfg(test)]
mod tests;
