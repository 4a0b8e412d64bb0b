//! Walks the ring from batch to batch: asks for bytes, judges what it gets, yields batches whose every
//! payload block is verified. Recovery walks to the end, a reader up to a known record.

use bytes::Bytes;

use super::RingRead;
use super::chain::{Break, ChainRules, Link};
use super::recovery_case::Found;
use crate::checksum::Crc32c;
use crate::layout::journal_batch::{
    BATCH_BYTES_MAX, BatchError, BatchHeader, ParsedDescriptor, parse_descriptor,
};
use crate::record::Record;
use crate::units::{BLOCK_BYTES, Lsn, bytes_u64, bytes_usize};

/// A batch that continues the chain.
#[derive(Debug)]
pub(super) struct Walked {
    pub header: BatchHeader,
    pub crc: Crc32c,
    /// Its length, and the gap at the ring's end that it left, if it did not fit there.
    pub total_bytes: u64,
    pub gap_bytes: u64,
    /// Its records that count, as far as this batch alone tells.
    pub records: Vec<Record>,
    pub last_lsn: Lsn,
}

/// What the walk does next.
#[derive(Debug)]
pub(super) enum Step {
    /// It needs these bytes.
    Read(RingRead),
    /// It accepted a batch.
    Batch(Box<Walked>),
    /// What stands in the next place does not continue the chain.
    End(Found),
}

/// What stands in one place of the ring.
#[derive(Debug)]
enum Examined {
    Unread(RingRead),
    Good(Box<Walked>),
    Bad(Found),
}

/// A run of bytes of the ring.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub ring_offset: u64,
    pub bytes: Bytes,
}

impl Chunk {
    /// The bytes from `ring_offset` on, if the chunk has it.
    pub fn from(&self, ring_offset: u64) -> Option<Bytes> {
        let within = ring_offset.checked_sub(self.ring_offset)?;
        (within < bytes_u64(self.bytes.len())).then(|| self.bytes.slice(bytes_usize(within)..))
    }
}

#[derive(Debug)]
pub(super) struct Walker {
    pub rules: ChainRules,
    pub previous: Link,
    /// Bytes of the ring between the start of the walk and the end of `previous`.
    pub used: u64,
    read_bytes: u64,
    /// What was read last, and what was read at the ring's start. Two, because near the ring's end the next
    /// batch may lie in either place.
    chunk: Chunk,
    start: Chunk,
    asked: Option<RingRead>,
}

impl Walker {
    pub fn new(rules: ChainRules, previous: Link, read_bytes: u64) -> Self {
        assert!(
            read_bytes >= BLOCK_BYTES && read_bytes.is_multiple_of(BLOCK_BYTES),
            "reads of {read_bytes} bytes"
        );
        let (chunk, start) = (Chunk::default(), Chunk::default());
        Self { rules, previous, used: 0, read_bytes, chunk, start, asked: None }
    }

    /// Takes the bytes that the last [`Step::Read`] asked for.
    pub fn on_bytes(&mut self, bytes: Bytes) {
        let asked = self.asked.take().expect("bytes come only after a read was asked for");
        assert_eq!(bytes_u64(bytes.len()), asked.length, "a read returns what was asked for");
        let chunk = Chunk { ring_offset: asked.ring_offset, bytes };
        if asked.ring_offset == 0 { self.start = chunk } else { self.chunk = chunk }
    }

    /// Forgets what was read: the ring has changed there.
    pub fn forget_bytes(&mut self) {
        (self.chunk, self.start) = (Chunk::default(), Chunk::default());
    }

    /// Where the next batch starts if it fits before the ring's end.
    pub fn next_offset(&self) -> u64 {
        self.previous.end_offset % self.rules.ring_bytes
    }

    pub fn step(&mut self) -> Step {
        let at = self.next_offset();
        let before_end = self.rules.ring_bytes - at;
        let here = self.examine(at, 0);
        // A batch that does not fit before the ring's end lies at its start. Both places are looked at: a
        // batch that was cut away may still stand in the place that its successor did not take.
        let there = if at != 0 && before_end < BATCH_BYTES_MAX {
            self.examine(0, before_end)
        } else {
            Examined::Bad(Found::Nothing)
        };
        match (here, there) {
            (Examined::Unread(read), _) | (_, Examined::Unread(read)) => {
                self.asked = Some(read);
                Step::Read(read)
            }
            (Examined::Good(here), Examined::Good(there)) if there.header.session > here.header.session => {
                self.accept(there)
            }
            (Examined::Good(batch), _) | (_, Examined::Good(batch)) => self.accept(batch),
            (Examined::Bad(here), Examined::Bad(there)) => Step::End(here.max(there)),
        }
    }

    fn accept(&mut self, batch: Box<Walked>) -> Step {
        self.used += batch.gap_bytes + batch.total_bytes;
        assert!(self.used <= self.rules.ring_bytes, "a walk never laps the ring");
        self.previous = Link {
            crc: batch.crc,
            first_lsn: batch.header.first_lsn,
            last_lsn: batch.last_lsn,
            session: batch.header.session,
            end_offset: batch.header.ring_offset + batch.total_bytes,
        };
        Step::Batch(batch)
    }

    /// Judges what stands at `ring_offset`, reached over a gap of `gap_bytes` at the ring's end.
    fn examine(&self, ring_offset: u64, gap_bytes: u64) -> Examined {
        let at_hand = [&self.start, &self.chunk].map(|chunk| chunk.from(ring_offset).unwrap_or_default());
        let bytes = at_hand.into_iter().max_by_key(Bytes::len).unwrap_or_default();
        let parsed = match parse_descriptor(&bytes) {
            Ok(parsed) => parsed,
            Err(BatchError::Short { need, .. }) => return self.ask(ring_offset, bytes_u64(need)),
            Err(
                BatchError::Magic
                | BatchError::Version(_)
                | BatchError::Blocks(_)
                | BatchError::Checksum { .. }
                | BatchError::Reserved
                | BatchError::Claims { .. }
                | BatchError::Table(_),
            ) => return Examined::Bad(Found::Nothing),
        };
        if let Err(reason) = self.rules.judge(&self.previous, &parsed, ring_offset) {
            return Examined::Bad(Found::from(reason));
        }
        let total_bytes = parsed.total_bytes();
        let needless_wrap = gap_bytes >= total_bytes;
        if needless_wrap || self.used + gap_bytes + total_bytes > self.rules.ring_bytes {
            return Examined::Bad(Found::from(Break::Foreign));
        }
        if bytes_u64(bytes.len()) < total_bytes {
            return self.ask(ring_offset, total_bytes);
        }
        self.verify(parsed, &bytes, gap_bytes)
    }

    fn verify(&self, parsed: ParsedDescriptor, bytes: &Bytes, gap_bytes: u64) -> Examined {
        let (header, crc, total_bytes) = (parsed.header, parsed.crc, parsed.total_bytes());
        let last_lsn = self.rules.last_counted(&parsed);
        let payload =
            bytes.slice(bytes_usize(parsed.descriptor_blocks * BLOCK_BYTES)..bytes_usize(total_bytes));
        let Ok(mut records) = parsed.into_records(payload) else {
            return Examined::Bad(Found::Torn);
        };
        records.retain(|record| record.lsn <= last_lsn);
        Examined::Good(Box::new(Walked { header, crc, total_bytes, gap_bytes, records, last_lsn }))
    }

    fn ask(&self, ring_offset: u64, least: u64) -> Examined {
        let before_end = self.rules.ring_bytes - ring_offset;
        if least > before_end {
            return Examined::Bad(Found::Nothing);
        }
        Examined::Unread(RingRead { ring_offset, length: self.read_bytes.max(least).min(before_end) })
    }
}
