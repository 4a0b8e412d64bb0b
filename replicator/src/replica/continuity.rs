//! Whether a node's membership outlives a restart.

use super::{ContinuityMark, Incarnation, Lsn, Superblock};

/// The recorded incarnation that this start continues, if every start since was without loss: a clean
/// stop; or the same boot, with a journal that reaches what was acknowledged in it; or a journal that
/// does not forget (semantics §3).
pub(super) fn continued(
    superblock: &Superblock,
    journal_end: Lsn,
    mark: Option<ContinuityMark>,
    is_corrupt: bool,
) -> Option<Incarnation> {
    let recorded = superblock.incarnation_recorded;
    if recorded == Incarnation::default() || is_corrupt {
        return None;
    }
    let same_boot = mark.is_some_and(|mark| {
        let is_of_mark = [Some(mark.incarnation), mark.continues].contains(&Some(superblock.incarnation));
        is_of_mark && journal_end >= mark.acknowledged
    });
    let flags = superblock.flags;
    (flags.stopped_cleanly || same_boot || flags.journal_nonvolatile).then_some(recorded)
}
