//! Law I5: a generation is on the node's disk before its first record is on the way there, and it gets there only when
//! every record before it is flushed.

use replicator::layout::journal_batch::BatchHeader;
use replicator::layout::superblock::Superblock;
use replicator::units::{Lsn, NodeId};

use super::watch::Seen;

/// A batch is on its way to a node's journal.
///
/// # Panics
/// The superblock on the disk does not know its generation.
pub fn assert_known(seen: &Seen, node: NodeId, batch: &BatchHeader) {
    let known = seen.superblock.lineage.generation_of(batch.first_lsn).map(|generation| generation.id);
    assert!(
        known == Some(batch.generation),
        "violation of I5: {node} journals {} of generation {}, its disk knows {known:?}",
        batch.first_lsn,
        batch.generation
    );
}

/// A superblock is on its way to a node's disk.
///
/// # Panics
/// It brings a generation before everything that precedes it is flushed.
pub fn assert_follows(seen: &Seen, node: NodeId, next: &Superblock) {
    let Some(newest) = next.lineage.newest() else { return };
    if seen.superblock.lineage.find(newest.id).is_some() || newest.first_lsn == Lsn(1) {
        return;
    }
    // A journal that begins anew, or is cut, is flushed up to where the superblock says so itself.
    let begins_anew = next.journal.session > seen.superblock.journal.session;
    let own = if begins_anew { next.journal.session_first_lsn.previous() } else { Lsn::ZERO };
    let durable = seen.journal.durable().max(own);
    assert!(
        durable >= newest.first_lsn.previous(),
        "violation of I5: {node} begins generation {} at {}, flushed is {durable}",
        newest.id,
        newest.first_lsn
    );
}
