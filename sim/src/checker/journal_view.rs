//! What one node's journal holds, as it was seen on its way to the disk: which records, which of them are flushed, and
//! where the tail is. Knows nothing of what the node believes about it.

use std::collections::BTreeMap;

use replicator::checksum::Crc32c;
use replicator::event::IoId;
use replicator::layout::journal_batch::ParsedDescriptor;
use replicator::layout::superblock::JournalAnchor;
use replicator::record::Record;
use replicator::units::{BLOCK_SIZE, BlockRange, GenerationId, Lsn};

/// A record in a journal.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its generation.
    pub generation: GenerationId,
    /// Where.
    pub range: BlockRange,
    /// What the blocks hold; nothing if they are zeroed.
    sums: Vec<Crc32c>,
    session: u64,
}

impl Held {
    /// Whether it changes a block.
    #[must_use]
    pub fn covers(&self, block: u64) -> bool {
        (self.range.first..self.range.end()).contains(&block)
    }

    /// Whether it puts this into a block.
    #[must_use]
    pub fn puts(&self, block: u64, content: &Content) -> bool {
        if !self.covers(block) {
            return false;
        }
        match content {
            Content::Zeroes if self.sums.is_empty() => true,
            Content::Zeroes => self.sum_of(block) == Some(&Crc32c::of(&[0; BLOCK_SIZE])),
            Content::Bytes(sum) => self.sum_of(block) == Some(sum),
        }
    }

    /// What it puts into a block, if it changes it.
    #[must_use]
    pub fn content(&self, block: u64) -> Option<Content> {
        if !self.covers(block) {
            return None;
        }
        let is_zero = self.puts(block, &Content::Zeroes);
        Some(self.sum_of(block).filter(|_| !is_zero).map_or(Content::Zeroes, |sum| Content::Bytes(*sum)))
    }

    fn sum_of(&self, block: u64) -> Option<&Crc32c> {
        let at = usize::try_from(block - self.range.first).expect("a record is short");
        self.sums.get(at)
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zeroes.
    Zeroes,
    /// Bytes with this checksum.
    Bytes(Crc32c),
}

/// A batch that is not known to be flushed.
#[derive(Clone, Copy, Debug)]
struct Unflushed {
    io: IoId,
    session: u64,
    /// The disk's mark when it had been written.
    written: Option<u64>,
}

/// The journal of one node.
#[derive(Clone, Debug, Default)]
pub struct JournalView {
    records: BTreeMap<Lsn, Held>,
    /// By the first record of each.
    unflushed: BTreeMap<Lsn, Unflushed>,
    newest: Lsn,
    session: u64,
    /// The oldest record that is kept.
    pub tail: Lsn,
}

impl JournalView {
    /// A batch is on its way to the disk.
    pub fn ordered(&mut self, io: IoId, batch: &ParsedDescriptor) {
        let header = &batch.header;
        let (first, session) = (header.first_lsn, header.session);
        // A batch of a new session takes the place of what was cut off. Those of one session come in any order.
        self.records.retain(|lsn, held| *lsn < first || held.session == session);
        self.unflushed.retain(|lsn, other| *lsn < first || other.session == session);
        for head in &batch.records {
            let held = Held {
                generation: header.generation,
                range: head.range,
                sums: head.sums.as_slice().to_vec(),
                session: header.session,
            };
            self.records.insert(head.lsn, held);
        }
        let newest = self.records.last_key_value().map(|(lsn, _)| *lsn);
        self.newest = newest.unwrap_or_default();
        self.unflushed.insert(first, Unflushed { io, session, written: None });
    }

    /// That batch is written.
    pub fn written(&mut self, io: IoId, mark: u64) {
        for batch in self.unflushed.values_mut().filter(|batch| batch.io == io) {
            batch.written = Some(mark);
        }
    }

    /// A flush that began at this mark is done.
    pub fn flushed(&mut self, mark: u64) {
        self.unflushed.retain(|_, batch| batch.written.is_none_or(|written| written > mark));
    }

    /// Every record up to here is flushed.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.unflushed.first_key_value().map_or(self.newest, |(first, _)| first.previous())
    }

    /// Whether everything in it is flushed.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.unflushed.is_empty()
    }

    /// A superblock is on the disk: what it says of the journal holds from now on.
    pub fn anchored(&mut self, anchor: &JournalAnchor) {
        if anchor.session > self.session {
            self.session = anchor.session;
            let is_gone =
                |lsn: Lsn, session: u64| lsn >= anchor.session_first_lsn && session < anchor.session;
            self.records.retain(|lsn, held| !is_gone(*lsn, held.session));
            let records = &self.records;
            self.unflushed
                .retain(|first, _| *first >= anchor.session_first_lsn && records.contains_key(first));
            let newest = self.records.last_key_value().map(|(lsn, _)| *lsn);
            self.newest = newest.unwrap_or_default().max(anchor.session_first_lsn.previous());
        }
        self.tail = anchor.tail_lsn;
        self.records = self.records.split_off(&anchor.tail_lsn);
    }

    /// The daemon has started, and found this. After a power cut whatever is there is there for good.
    pub fn found(&mut self, end: Lsn, replay: &[(GenerationId, Record)], lost_power: bool, mark: u64) {
        self.records.split_off(&end.next());
        self.unflushed.split_off(&end.next());
        for (generation, record) in replay {
            self.records.entry(record.lsn).or_insert_with(|| Held {
                generation: *generation,
                range: record.range,
                sums: record.sums.as_slice().to_vec(),
                session: 0,
            });
        }
        self.newest = end;
        if lost_power {
            self.unflushed.clear();
        }
        for batch in self.unflushed.values_mut() {
            batch.written.get_or_insert(mark);
        }
    }

    /// A record that is kept.
    #[must_use]
    pub fn record(&self, lsn: Lsn) -> Option<&Held> {
        self.records.get(&lsn)
    }

    /// The records that are kept, oldest first.
    pub fn records(&self) -> impl Iterator<Item = (Lsn, &Held)> {
        self.records.iter().map(|(lsn, held)| (*lsn, held))
    }

    /// Whether the journal has flushed this very record, or had.
    #[must_use]
    pub fn has_flushed(&self, lsn: Lsn, generation: GenerationId) -> bool {
        self.durable() >= lsn && self.record(lsn).is_none_or(|held| held.generation == generation)
    }
}
