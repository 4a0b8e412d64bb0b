//! When one batch continues another. Recovery and readers ask the same question here, so they never disagree
//! about what the journal holds. docs/FORMAT.md has the argument why nothing that was discarded returns.

use crate::checksum::Crc32c;
use crate::layout::journal_batch::ParsedDescriptor;
use crate::layout::superblock::JournalAnchor;
use crate::units::{Lsn, VoterId};

/// What holds for the whole ring while it is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainRules {
    /// Length of the ring.
    pub ring_bytes: u64,
    /// Identity of the node's metadata.
    pub journal: VoterId,
    /// The newest session.
    pub session: u64,
    /// Its first Lsn. This one and every higher one counts only in batches of this session.
    pub session_first_lsn: Lsn,
}

/// The newest batch that is accepted, to which the next one must attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Checksum of its descriptor.
    pub crc: Crc32c,
    /// Its first record.
    pub first_lsn: Lsn,
    /// Its last record that counts.
    pub last_lsn: Lsn,
    /// Session that wrote it.
    pub session: u64,
    /// Where it ends in the ring.
    pub end_offset: u64,
}

impl Link {
    /// What the first batch behind an anchor attaches to.
    #[must_use]
    pub fn before(anchor: &JournalAnchor) -> Self {
        let last = anchor.tail_lsn.previous();
        let (crc, end_offset) = (anchor.predecessor, anchor.tail_offset);
        Self { crc, first_lsn: last, last_lsn: last, session: 0, end_offset }
    }
}

/// Why a valid descriptor does not continue the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// It belongs to another journal or to another place in this one.
    Foreign,
    /// It is of an older session, of which nothing counts from the session's first Lsn on: it was
    /// discarded by a cut or by a recovery.
    OtherSession,
    /// It is of a session that this superblock does not know yet: the superblock is older than the journal.
    LaterSession,
    /// It holds records from before the previous batch: an earlier lap of the ring.
    EarlierLap,
    /// Its predecessor is another batch than the one before it.
    Predecessor,
    /// Records are missing between the previous batch and this one.
    Gap,
    /// It is older than the previous batch's session, or discards records without being of a later one.
    SessionOrder,
}

impl ChainRules {
    /// The rules of a node with this anchor.
    #[must_use]
    pub fn of(ring_bytes: u64, journal: VoterId, anchor: &JournalAnchor) -> Self {
        Self { ring_bytes, journal, session: anchor.session, session_first_lsn: anchor.session_first_lsn }
    }

    /// Whether `batch`, which lies at `ring_offset`, continues the chain behind `previous`.
    ///
    /// # Errors
    /// The first reason why it does not.
    pub fn judge(&self, previous: &Link, batch: &ParsedDescriptor, ring_offset: u64) -> Result<(), Break> {
        let header = &batch.header;
        if header.journal != self.journal || header.ring_offset != ring_offset {
            return Err(Break::Foreign);
        }
        if header.session > self.session {
            return Err(Break::LaterSession);
        }
        if header.session < self.session && header.first_lsn >= self.session_first_lsn {
            return Err(Break::OtherSession);
        }
        if header.first_lsn <= previous.first_lsn {
            return Err(Break::EarlierLap);
        }
        if header.predecessor != previous.crc {
            return Err(Break::Predecessor);
        }
        if header.first_lsn > previous.last_lsn.next() {
            return Err(Break::Gap);
        }
        let discards = header.first_lsn <= previous.last_lsn;
        let before_its_session = header.session == self.session && header.first_lsn < self.session_first_lsn;
        let out_of_order =
            header.session < previous.session || (discards && header.session == previous.session);
        if before_its_session || out_of_order {
            return Err(Break::SessionOrder);
        }
        Ok(())
    }

    /// The last record of `batch` that counts, as far as the batch alone tells: a later batch may discard more.
    #[must_use]
    pub fn last_counted(&self, batch: &ParsedDescriptor) -> Lsn {
        let last = batch.last_lsn();
        if batch.header.session == self.session { last } else { last.min(self.session_first_lsn.previous()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::journal_batch::{BatchHeader, encode_descriptor, parse_descriptor};
    use crate::record::{Record, RecordKind};
    use crate::units::{BlockRange, GenerationId};

    const RULES: ChainRules =
        ChainRules { ring_bytes: 1 << 20, journal: VoterId(1), session: 5, session_first_lsn: Lsn(21) };
    /// Records 10 to 14, written in session 3.
    const PREVIOUS: Link =
        Link { crc: Crc32c(77), first_lsn: Lsn(10), last_lsn: Lsn(14), session: 3, end_offset: 8192 };
    const NEXT: BatchHeader = BatchHeader {
        journal: VoterId(1),
        ring_offset: 8192,
        session: 4,
        generation: GenerationId(1),
        first_lsn: Lsn(15),
        predecessor: Crc32c(77),
        flushed_up_to: Lsn(0),
        written_back_up_to: Lsn(0),
    };

    /// What becomes of a batch of two records with this header.
    fn judge(header: BatchHeader) -> Result<(), Break> {
        let record = |lsn| Record::zero(lsn, RecordKind::Trim, BlockRange::new(0, 1));
        let records = [record(header.first_lsn), record(header.first_lsn.next())];
        let (descriptor, _) = encode_descriptor(&header, &records);
        RULES.judge(&PREVIOUS, &parse_descriptor(&descriptor).unwrap(), 8192)
    }

    #[test]
    fn the_next_batch_continues_the_chain_and_may_discard_the_end_of_the_one_before() {
        assert_eq!(judge(NEXT), Ok(()));
        assert_eq!(judge(BatchHeader { session: 3, ..NEXT }), Ok(()));
        assert_eq!(judge(BatchHeader { first_lsn: Lsn(11), ..NEXT }), Ok(()));
    }

    #[test]
    fn every_rule_alone_breaks_the_chain() {
        let broken = [
            (BatchHeader { journal: VoterId(2), ..NEXT }, Break::Foreign),
            (BatchHeader { ring_offset: 4096, ..NEXT }, Break::Foreign),
            (BatchHeader { session: 6, ..NEXT }, Break::LaterSession),
            (BatchHeader { first_lsn: Lsn(21), ..NEXT }, Break::OtherSession),
            (BatchHeader { first_lsn: Lsn(10), ..NEXT }, Break::EarlierLap),
            (BatchHeader { predecessor: Crc32c(78), ..NEXT }, Break::Predecessor),
            (BatchHeader { first_lsn: Lsn(16), ..NEXT }, Break::Gap),
            (BatchHeader { session: 2, ..NEXT }, Break::SessionOrder),
            (BatchHeader { session: 3, first_lsn: Lsn(14), ..NEXT }, Break::SessionOrder),
            (BatchHeader { session: 5, ..NEXT }, Break::SessionOrder),
        ];
        for (header, reason) in broken {
            assert_eq!(judge(header), Err(reason), "{header:?}");
        }
    }
}
