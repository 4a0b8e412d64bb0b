//! The ring's bookkeeping: where the next batch goes, where a record is found, how far the tail may move,
//! and what a cut leaves. In memory only; the bytes on disk are written by whoever gets [`Placed`].
//!
//! Positions inside grow without end (lap times length plus offset), so that "between" is a comparison.

use std::collections::VecDeque;

use super::chain::{ChainRules, Link};
use super::reader::RingReader;
use super::walk::Walked;
use crate::checksum::Crc32c;
use crate::layout::journal_batch::{BatchHeader, batch_blocks, encode_descriptor};
use crate::layout::superblock::JournalAnchor;
use crate::record::Record;
use crate::units::{BLOCK_BYTES, GenerationId, Lsn, VoterId};

/// Segments that the index divides the largest ring into.
pub const SEGMENTS_MAX: u64 = 1024;
/// Shortest segment of an ordinary ring.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// The start of a batch from which the ring can be walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentStart {
    /// Where the batch lies.
    pub ring_offset: u64,
    /// Its first record.
    pub first_lsn: Lsn,
    /// Its generation.
    pub generation: GenerationId,
    /// Checksum of the descriptor before it.
    pub predecessor: Crc32c,
}

/// A batch with its place. The shell writes descriptor and payloads there in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where the batch goes.
    pub ring_offset: u64,
    /// Its length with payload.
    pub total_bytes: u64,
    /// Its descriptor: whole blocks, not aligned in memory.
    pub descriptor: Vec<u8>,
    /// Its first record.
    pub first_lsn: Lsn,
    /// Its last record.
    pub last_lsn: Lsn,
}

/// A batch in the ring.
#[derive(Clone, Copy, Debug)]
struct Batch {
    position: u64,
    end: u64,
    first_lsn: Lsn,
    /// Its last record that counts.
    last_lsn: Lsn,
    generation: GenerationId,
    predecessor: Crc32c,
    crc: Crc32c,
}

/// The start of a segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    position: u64,
    first_lsn: Lsn,
    generation: GenerationId,
    predecessor: Crc32c,
}

/// The newest session.
#[derive(Clone, Copy, Debug)]
struct Session {
    number: u64,
    first_lsn: Lsn,
    /// Checksum of the last descriptor before the session.
    predecessor: Crc32c,
    /// Whether a superblock that names it is durable.
    recorded: bool,
}

/// The write-ahead ring.
#[derive(Clone, Debug)]
pub struct Ring {
    ring_bytes: u64,
    journal: VoterId,
    tail: Segment,
    /// End of the newest batch, and what the next one attaches to.
    head: u64,
    head_lsn: Lsn,
    head_generation: GenerationId,
    head_crc: Crc32c,
    session: Session,
    written_back: Lsn,
    /// Every batch that may be cut and the one before it, oldest first.
    recent: VecDeque<Batch>,
    /// Starts of segments behind the tail, oldest first.
    segments: VecDeque<Segment>,
}

impl Ring {
    /// A ring in which nothing lies behind the anchor's tail, in the anchor's session, which counts as recorded.
    /// Only creation and tests start here; every other ring comes from recovery.
    #[must_use]
    pub fn new(ring_bytes: u64, journal: VoterId, anchor: &JournalAnchor) -> Self {
        assert!(
            ring_bytes >= 4 * BLOCK_BYTES && ring_bytes.is_multiple_of(BLOCK_BYTES),
            "ring of {ring_bytes} bytes"
        );
        assert!(anchor.tail_offset < ring_bytes, "the tail lies in the ring");
        let tail = Segment {
            position: anchor.tail_offset,
            first_lsn: anchor.tail_lsn,
            generation: anchor.tail_generation,
            predecessor: anchor.predecessor,
        };
        let session = Session {
            number: anchor.session,
            first_lsn: anchor.session_first_lsn,
            predecessor: anchor.predecessor,
            recorded: true,
        };
        Self {
            ring_bytes,
            journal,
            tail,
            head: tail.position,
            head_lsn: tail.first_lsn.previous(),
            head_generation: tail.generation,
            head_crc: tail.predecessor,
            session,
            written_back: anchor.data_flushed.min(tail.first_lsn.previous()),
            recent: VecDeque::new(),
            segments: VecDeque::new(),
        }
    }

    /// The last record appended; the one before the tail if the ring is empty.
    #[must_use]
    pub fn head_lsn(&self) -> Lsn {
        self.head_lsn
    }

    /// Generation of the last record appended; of the tail if the ring is empty.
    #[must_use]
    pub fn head_generation(&self) -> GenerationId {
        self.head_generation
    }

    /// The first record that is still in the ring; one more than [`Self::head_lsn`] if it is empty.
    #[must_use]
    pub fn oldest_kept(&self) -> Lsn {
        self.tail.first_lsn
    }

    /// Length of the ring.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// Bytes between tail and head, gaps included.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.head - self.tail.position
    }

    /// The newest session.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session.number
    }

    /// Whether a batch of this many blocks (see [`batch_blocks`]) has room, the gap at the ring's end included.
    #[must_use]
    pub fn fits(&self, blocks: u64) -> bool {
        let bytes = blocks * BLOCK_BYTES;
        self.place(bytes) + bytes - self.tail.position <= self.ring_bytes
    }

    /// Places a batch behind the newest. The caller has checked [`Self::fits`] and has made the session
    /// durable ([`Self::note_session_recorded`]). `flushed_up_to` and `written_back_up_to` are this node's own.
    #[must_use]
    pub fn append(
        &mut self,
        generation: GenerationId,
        records: &[Record],
        flushed_up_to: Lsn,
        written_back_up_to: Lsn,
    ) -> Placed {
        assert!(self.session.recorded, "session {} is durable before its first append", self.session.number);
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            panic!("a batch has records");
        };
        assert_eq!(first.lsn, self.head_lsn.next(), "records are appended without gaps");
        let blocks = batch_blocks(records);
        assert!(self.fits(blocks), "I7: a batch of {blocks} blocks would overwrite the tail");
        let (total_bytes, first_lsn, last_lsn) = (blocks * BLOCK_BYTES, first.lsn, last.lsn);
        let position = self.place(total_bytes);
        let ring_offset = position % self.ring_bytes;
        let header = BatchHeader {
            journal: self.journal,
            ring_offset,
            session: self.session.number,
            generation,
            first_lsn,
            predecessor: self.head_crc,
            flushed_up_to,
            written_back_up_to,
        };
        let (descriptor, crc) = encode_descriptor(&header, records);
        let (predecessor, end) = (self.head_crc, position + total_bytes);
        self.push(Batch { position, end, first_lsn, last_lsn, generation, predecessor, crc });
        Placed { ring_offset, total_bytes, descriptor, first_lsn, last_lsn }
    }

    /// Where a reader finds `lsn`: the nearest known batch at or before it.
    #[must_use]
    pub fn locate(&self, lsn: Lsn) -> Option<SegmentStart> {
        if lsn < self.tail.first_lsn || lsn > self.head_lsn {
            return None;
        }
        let batch =
            self.recent.iter().rfind(|batch| batch.first_lsn <= lsn).map(|batch| self.start_of_batch(batch));
        let segment = self.segments.iter().rfind(|segment| segment.first_lsn <= lsn);
        let segment = self.start_of(segment.unwrap_or(&self.tail));
        batch.filter(|batch| batch.first_lsn >= segment.first_lsn).or(Some(segment))
    }

    /// A reader of the records from `from` on up to `limit`, which is journaled; it asks for `read_bytes` at a
    /// time. It is void as soon as the tail passes it or the ring is cut.
    #[must_use]
    pub fn reader(&self, from: Lsn, limit: Lsn, read_bytes: u64) -> Option<RingReader> {
        let start = self.locate(from)?;
        let rules = ChainRules {
            ring_bytes: self.ring_bytes,
            journal: self.journal,
            session: self.session.number,
            session_first_lsn: self.session.first_lsn,
        };
        let last = start.first_lsn.previous();
        let (crc, end_offset) = (start.predecessor, start.ring_offset);
        let previous = Link { crc, first_lsn: last, last_lsn: last, session: 0, end_offset };
        Some(RingReader::new(rules, previous, self.session.predecessor, from, limit, read_bytes))
    }

    /// The furthest segment start, if the tail can move at all: every record before it, and its own first
    /// one, has an Lsn of at most `up_to`. (Its own first one too, so that no cut ever takes the tail away.)
    #[must_use]
    pub fn next_tail(&self, up_to: Lsn) -> Option<SegmentStart> {
        self.tail_candidates(up_to).next_back().map(|segment| self.start_of(segment))
    }

    /// The nearest segment start that gives back at least `bytes`, else the furthest. The rest of the ring
    /// stays for peers that catch up.
    #[must_use]
    pub fn nearest_tail(&self, up_to: Lsn, bytes: u64) -> Option<SegmentStart> {
        let enough = |segment: &&Segment| segment.position - self.tail.position >= bytes;
        let nearest = self.tail_candidates(up_to).find(enough).map(|segment| self.start_of(segment));
        nearest.or_else(|| self.next_tail(up_to))
    }

    /// The tail as the superblock names it.
    #[must_use]
    pub fn tail(&self) -> SegmentStart {
        self.start_of(&self.tail)
    }

    /// What the next superblock says of the journal, with the tail at `tail` ([`Self::tail`], or the next one).
    #[must_use]
    pub fn anchor(&self, tail: SegmentStart, data_flushed: Lsn) -> JournalAnchor {
        assert!(
            tail.first_lsn.previous() <= data_flushed,
            "I7: tail at {}, flushed {data_flushed}",
            tail.first_lsn
        );
        JournalAnchor {
            tail_offset: tail.ring_offset,
            tail_lsn: tail.first_lsn,
            tail_generation: tail.generation,
            predecessor: tail.predecessor,
            session: self.session.number,
            session_first_lsn: self.session.first_lsn,
            data_flushed,
        }
    }

    /// Moves the tail. Called when the superblock that names it is durable, not earlier: until then recovery
    /// starts at the old one.
    pub fn set_tail(&mut self, tail: SegmentStart) {
        if tail == self.tail() {
            return;
        }
        let found = self.segments.iter().position(|segment| self.start_of(segment) == tail);
        let at = found.expect("the tail moves to a segment start that next_tail() gave");
        self.tail = self.segments[at];
        self.segments.drain(..=at);
        while self.recent.front().is_some_and(|batch| batch.position < self.tail.position) {
            self.recent.pop_front();
        }
        assert!(self.tail.first_lsn <= self.head_lsn, "I7: the tail stays behind the newest record");
    }

    /// Every record up to `lsn` is written in the data area (I3 says that it is stable): it is never cut.
    pub fn note_written_back(&mut self, lsn: Lsn) {
        assert!(lsn <= self.head_lsn, "written back {lsn}, the newest record is {}", self.head_lsn);
        self.written_back = self.written_back.max(lsn);
        // The batch that holds the last such record stays: a cut may make it the newest.
        while self.recent.len() > 1
            && self.recent.front().is_some_and(|batch| batch.last_lsn < self.written_back)
        {
            self.recent.pop_front();
        }
    }

    /// Discards everything after `last` and begins `session`. Only records that are not written back can be
    /// cut (I3). The caller has let every write of the ring complete and has flushed it. The next append waits
    /// until a superblock with the new session is durable, so that what is cut can never return.
    pub fn cut(&mut self, last: Lsn, session: u64) {
        assert!(last >= self.written_back, "I3: cut to {last}, written back {}", self.written_back);
        assert!(last <= self.head_lsn, "cut to {last}, the newest record is {}", self.head_lsn);
        while self.recent.back().is_some_and(|batch| batch.first_lsn > last) {
            self.recent.pop_back();
        }
        while self.segments.back().is_some_and(|segment| segment.first_lsn > last) {
            self.segments.pop_back();
        }
        if let Some(newest) = self.recent.back_mut() {
            newest.last_lsn = last;
            (self.head, self.head_crc, self.head_generation) = (newest.end, newest.crc, newest.generation);
        } else {
            assert_eq!(
                last,
                self.tail.first_lsn.previous(),
                "the batch of a record that may be newest is known"
            );
            (self.head, self.head_crc) = (self.tail.position, self.tail.predecessor);
            self.head_generation = self.tail.generation;
        }
        self.head_lsn = last;
        self.begin_session(session);
    }

    /// Empties the ring and goes on behind `last`, in a new session: the data area was brought up to there by
    /// other means than records.
    pub fn restart(&mut self, last: Lsn, generation: GenerationId, session: u64) {
        // No batch names this predecessor, so nothing that still lies in the ring can follow the new tail.
        let predecessor = Crc32c::of(&session.to_le_bytes());
        let position = self.head;
        self.tail = Segment { position, first_lsn: last.next(), generation, predecessor };
        self.recent.clear();
        self.segments.clear();
        (self.head_lsn, self.head_generation, self.head_crc) = (last, generation, predecessor);
        self.written_back = last;
        self.begin_session(session);
    }

    /// A superblock with `session` is durable: appending may begin.
    pub fn note_session_recorded(&mut self, session: u64) {
        assert!(session <= self.session.number, "session {session} never began");
        self.session.recorded |= session == self.session.number;
    }

    /// Begins a session behind the newest record. Appending waits until a superblock that names it is durable.
    pub(super) fn begin_session(&mut self, number: u64) {
        assert!(number > self.session.number, "session {number} after {}", self.session.number);
        self.session =
            Session { number, first_lsn: self.head_lsn.next(), predecessor: self.head_crc, recorded: false };
    }

    /// Takes in a batch that recovery found behind the newest one.
    pub(super) fn adopt(&mut self, walked: &Walked) {
        let (header, total_bytes) = (&walked.header, walked.total_bytes);
        if let Some(newest) = self.recent.back_mut() {
            newest.last_lsn = newest.last_lsn.min(header.first_lsn.previous());
        }
        self.head_lsn = header.first_lsn.previous();
        let position = self.head + walked.gap_bytes;
        assert_eq!(position % self.ring_bytes, header.ring_offset, "the walk and the ring agree on places");
        self.push(Batch {
            position,
            end: position + total_bytes,
            first_lsn: header.first_lsn,
            last_lsn: walked.last_lsn,
            generation: header.generation,
            predecessor: self.head_crc,
            crc: walked.crc,
        });
        self.written_back = self.written_back.min(self.head_lsn);
    }

    fn push(&mut self, batch: Batch) {
        let segment_start = self.segments.back().unwrap_or(&self.tail).position;
        if batch.position - segment_start >= self.segment_bytes() {
            let Batch { position, first_lsn, generation, predecessor, .. } = batch;
            self.segments.push_back(Segment { position, first_lsn, generation, predecessor });
        }
        (self.head, self.head_crc, self.head_generation) = (batch.end, batch.crc, batch.generation);
        self.head_lsn = batch.last_lsn;
        self.recent.push_back(batch);
        assert!(
            self.used_bytes() <= self.ring_bytes,
            "I7: head {} laps the tail {}",
            self.head,
            self.tail.position
        );
    }

    /// Position of a batch of `bytes` behind the newest: a batch never wraps.
    fn place(&self, bytes: u64) -> u64 {
        let offset = self.head % self.ring_bytes;
        if offset + bytes <= self.ring_bytes {
            self.head
        } else {
            self.head.next_multiple_of(self.ring_bytes)
        }
    }

    fn segment_bytes(&self) -> u64 {
        (self.ring_bytes / SEGMENTS_MAX).max(SEGMENT_BYTES_MIN.min(self.ring_bytes / 16))
    }

    fn tail_candidates(&self, up_to: Lsn) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.iter().filter(move |segment| segment.first_lsn <= up_to)
    }

    fn start_of(&self, segment: &Segment) -> SegmentStart {
        let Segment { position, first_lsn, generation, predecessor } = *segment;
        SegmentStart { ring_offset: position % self.ring_bytes, first_lsn, generation, predecessor }
    }

    fn start_of_batch(&self, batch: &Batch) -> SegmentStart {
        let Batch { position, first_lsn, generation, predecessor, .. } = *batch;
        self.start_of(&Segment { position, first_lsn, generation, predecessor })
    }

    /// Entries of both indexes, for the test that they stay few.
    #[must_use]
    pub fn index_entries(&self) -> usize {
        self.recent.len() + self.segments.len()
    }
}

#[cfg(test)]
mod tests;
