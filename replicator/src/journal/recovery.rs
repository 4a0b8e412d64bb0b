//! What a node's journal holds after a crash. Walks the chain of batches from the superblock's tail to its
//! end, then looks through the rest of the ring for proof that more had been flushed.
//! Total: whatever bytes the ring holds, one case applies and nothing panics.

use std::collections::VecDeque;

use bytes::Bytes;

use super::RingRead;
use super::chain::{ChainRules, Link};
use super::recovery_case::{Evidence, Found, RecoveryCase, classify};
use super::ring::Ring;
use super::walk::{Chunk, Step, Walked, Walker};
use crate::generation::lineage::Lineage;
use crate::layout::journal_batch::{BATCH_BYTES_MAX, BATCH_MAGIC, BatchError, BatchHeader, parse_descriptor};
use crate::layout::superblock::{JournalAnchor, Superblock};
use crate::record::Record;
use crate::units::{BLOCK_BYTES, GenerationId, Lsn, VoterId, bytes_u64};

/// Bytes of one read: twice the largest batch, so that a batch on the edge of two reads costs little.
pub const RECOVERY_READ_BYTES: u64 = 2 * BATCH_BYTES_MAX;

/// What recovery found.
#[derive(Debug)]
pub struct RecoveryPlan {
    /// The last record that is there.
    pub end: Lsn,
    /// Its generation.
    pub end_generation: GenerationId,
    /// The highest Lsn that this node ever called flushed in its journal, as far as anything tells.
    pub flushed_up_to: Lsn,
    /// Everything up to here is written and flushed in the data area.
    pub written_back_up_to: Lsn,
    /// Every record after `written_back_up_to`, in order: to be written to the data area once stable.
    pub replay: Vec<(GenerationId, Record)>,
    /// The ring behind `end`, in a new session. Before the first append the journal is flushed (so that what
    /// was found stays) and then a superblock with [`Ring::anchor`] is made durable.
    pub ring: Ring,
    /// Which case ended the journal. [`RecoveryCase::Corrupt`] makes the disk Inconsistent, in the very superblock
    /// that begins the new session: that superblock is the last that knows of the loss.
    pub verdict: RecoveryCase,
}

#[derive(Debug)]
enum Stage {
    /// From batch to batch.
    Walk,
    /// Block by block through the rest of the ring, for proof about the record that is missing.
    Search {
        at: u64,
        remaining: u64,
        chunk: Chunk,
        asked: Option<RingRead>,
    },
    Done,
}

/// The scan: says what to read, takes the bytes, ends in a plan.
#[derive(Debug)]
pub struct RecoveryScan {
    walker: Walker,
    ring: Ring,
    stage: Stage,
    data_flushed: Lsn,
    consistent_at: Lsn,
    flushed_up_to: Lsn,
    written_back_up_to: Lsn,
    replay: VecDeque<(GenerationId, Record)>,
    lineage_generation: Vec<(Lsn, GenerationId)>,
    accepted: bool,
    found: Found,
    evidence: Evidence,
}

impl RecoveryScan {
    /// A scan of the journal that this superblock describes.
    #[must_use]
    pub fn new(superblock: &Superblock) -> Self {
        Self::of_ring(superblock.zones.journal().length, superblock)
    }

    /// The same for a ring of another length than the superblock says.
    #[must_use]
    pub fn of_ring(ring_bytes: u64, superblock: &Superblock) -> Self {
        let scan = Self::over(ring_bytes, superblock.voter, &superblock.journal, &superblock.lineage);
        Self { consistent_at: superblock.consistent_at, ..scan }
    }

    /// A scan of a ring of `ring_bytes` that belongs to the metadata `journal`.
    #[must_use]
    pub fn over(ring_bytes: u64, journal: VoterId, anchor: &JournalAnchor, lineage: &Lineage) -> Self {
        let rules = ChainRules::of(ring_bytes, journal, anchor);
        let generations = lineage.generations();
        Self {
            walker: Walker::new(rules, Link::before(anchor), RECOVERY_READ_BYTES),
            ring: Ring::new(ring_bytes, journal, anchor),
            stage: Stage::Walk,
            data_flushed: anchor.data_flushed,
            consistent_at: Lsn::ZERO,
            flushed_up_to: anchor.session_first_lsn.previous().max(anchor.data_flushed),
            written_back_up_to: anchor.data_flushed,
            replay: VecDeque::new(),
            lineage_generation: generations.iter().map(|entry| (entry.first_lsn, entry.id)).collect(),
            accepted: false,
            found: Found::Nothing,
            evidence: Evidence::None,
        }
    }

    /// What to read next; `None` when the scan is over.
    #[must_use]
    pub fn next_read(&mut self) -> Option<RingRead> {
        loop {
            match &mut self.stage {
                Stage::Walk => match self.walker.step() {
                    Step::Read(read) => return Some(read),
                    Step::Batch(batch) => self.on_batch(*batch),
                    Step::End(found) => self.on_end(found),
                },
                Stage::Search { at, remaining, asked, .. } => {
                    if *remaining == 0 {
                        self.stage = Stage::Done;
                        continue;
                    }
                    let before_end = self.walker.rules.ring_bytes - *at;
                    let length = RECOVERY_READ_BYTES.min(before_end);
                    let read = RingRead { ring_offset: *at, length };
                    *asked = Some(read);
                    return Some(read);
                }
                Stage::Done => return None,
            }
        }
    }

    /// Takes the bytes of the last read, all of them.
    pub fn on_bytes(&mut self, bytes: Bytes) {
        match &mut self.stage {
            Stage::Walk => self.walker.on_bytes(bytes),
            Stage::Search { chunk, asked, .. } => {
                let asked = asked.take().expect("bytes come only after a read was asked for");
                assert_eq!(bytes_u64(bytes.len()), asked.length, "a read returns what was asked for");
                *chunk = Chunk { ring_offset: asked.ring_offset, bytes };
                self.search_chunk();
            }
            Stage::Done => panic!("a scan that is over asks for nothing"),
        }
    }

    /// The plan, once [`Self::next_read`] has nothing more to read.
    #[must_use]
    pub fn finish(self) -> RecoveryPlan {
        assert!(matches!(self.stage, Stage::Done), "the scan is not over");
        let end = self.ring.head_lsn();
        let lineage = self.lineage_generation.iter().rfind(|(first_lsn, _)| *first_lsn <= end);
        let end_generation = match lineage {
            Some((_, generation)) if !self.accepted => *generation,
            _ => self.ring.head_generation(),
        };
        let mut ring = self.ring;
        ring.begin_session(self.walker.rules.session + 1);
        ring.note_written_back(self.written_back_up_to.min(end));
        RecoveryPlan {
            end,
            end_generation,
            flushed_up_to: self.flushed_up_to,
            // Where a damaged journal ends before what the data area holds, this node counts on neither.
            written_back_up_to: self.written_back_up_to.min(end),
            replay: self.replay.into(),
            ring,
            verdict: classify(self.found, self.evidence),
        }
    }

    fn on_batch(&mut self, batch: Walked) {
        assert_eq!(
            classify(Found::Continues, Evidence::None),
            RecoveryCase::Replay,
            "the walk yields what continues"
        );
        let header = batch.header;
        self.accepted = true;
        // A batch that starts within its predecessor discards the rest of it.
        while self.replay.back().is_some_and(|(_, record)| record.lsn >= header.first_lsn) {
            self.replay.pop_back();
        }
        self.ring.adopt(&batch);
        self.flushed_up_to = self.flushed_up_to.max(header.flushed_up_to);
        self.written_back_up_to = self.written_back_up_to.max(header.written_back_up_to);
        self.ring.note_written_back(self.written_back_up_to.min(self.ring.head_lsn()));
        self.replay.extend(batch.records.into_iter().map(|record| (header.generation, record)));
        while self.replay.front().is_some_and(|(_, record)| record.lsn <= self.written_back_up_to) {
            self.replay.pop_front();
        }
    }

    fn on_end(&mut self, found: Found) {
        self.found = found;
        let missing = self.missing();
        // When its session began, everything before it was flushed here; what is flushed in the data area was
        // flushed here before (I3), and so was what a resync left to the journal when it ended.
        let superblock_proves = missing < self.walker.rules.session_first_lsn
            || missing <= self.data_flushed.max(self.consistent_at);
        if superblock_proves {
            self.evidence = Evidence::Flushed;
            self.stage = Stage::Done;
            return;
        }
        let at = self.walker.next_offset();
        let remaining = self.walker.rules.ring_bytes - self.walker.used;
        self.walker.forget_bytes();
        self.stage = Stage::Search { at, remaining, chunk: Chunk::default(), asked: None };
    }

    /// The first record that is not there.
    fn missing(&self) -> Lsn {
        self.walker.previous.last_lsn.next()
    }

    /// Looks at every block of the chunk. A descriptor that goes on behind the chunk is read again from its
    /// own start.
    fn search_chunk(&mut self) {
        let missing = self.missing();
        let rules = self.walker.rules;
        let Stage::Search { at, remaining, chunk, .. } = &mut self.stage else {
            panic!("only a search has a chunk");
        };
        while let Some(bytes) = chunk.from(*at).filter(|_| *remaining > 0) {
            if bytes.starts_with(&BATCH_MAGIC) {
                match parse_descriptor(&bytes) {
                    // At the ring's end there is no more to read: no batch wraps, so this is none.
                    Err(BatchError::Short { need, .. })
                        if *at + bytes_u64(need) <= rules.ring_bytes && *at != chunk.ring_offset =>
                    {
                        break;
                    }
                    Err(_) => {}
                    Ok(parsed) if parsed.header.ring_offset != *at => {}
                    Ok(parsed) => {
                        let said = evidence_of(&parsed.header, &rules, missing);
                        if said == Evidence::Flushed {
                            self.flushed_up_to = self.flushed_up_to.max(parsed.header.flushed_up_to);
                        }
                        self.evidence = self.evidence.max(said);
                    }
                }
            }
            *at = (*at + BLOCK_BYTES) % rules.ring_bytes;
            *remaining -= BLOCK_BYTES;
            if *at == 0 {
                break;
            }
        }
        if self.evidence == Evidence::Flushed {
            self.stage = Stage::Done;
        }
    }
}

/// What a descriptor behind the end says of the record that is missing there. Only the newest session's word
/// counts: what older ones flushed may have been cut since, and their own end is in the superblock.
fn evidence_of(header: &BatchHeader, rules: &ChainRules, missing: Lsn) -> Evidence {
    if header.journal != rules.journal || header.session < rules.session {
        return Evidence::None;
    }
    let superblock_is_older = header.session > rules.session;
    if superblock_is_older || (header.first_lsn > missing && header.flushed_up_to >= missing) {
        return Evidence::Flushed;
    }
    if header.first_lsn > missing { Evidence::LaterUnflushed } else { Evidence::None }
}
