//! What the end of a journal means: one row for each case, exactly one for every input.

use super::chain::Break;

/// What stands where the next batch would start. Ordered by how much it tells: where two places are looked
/// at, the greater counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// No valid descriptor.
    Nothing,
    /// A descriptor that does not belong here.
    Foreign,
    /// A batch with records from before: an earlier lap of the ring.
    EarlierLap,
    /// A batch of an older session, discarded by a cut or by an earlier recovery.
    OtherSession,
    /// The right descriptor, but not all of its payload.
    Torn,
    /// A batch of a session that the superblock does not know yet.
    LaterSession,
    /// The right batch.
    Continues,
}

impl Found {
    /// Everything that can be found.
    pub const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Foreign,
        Self::EarlierLap,
        Self::OtherSession,
        Self::Torn,
        Self::LaterSession,
        Self::Continues,
    ];
}

impl From<Break> for Found {
    fn from(reason: Break) -> Self {
        match reason {
            Break::Foreign | Break::Predecessor | Break::Gap | Break::SessionOrder => Self::Foreign,
            Break::OtherSession => Self::OtherSession,
            Break::LaterSession => Self::LaterSession,
            Break::EarlierLap => Self::EarlierLap,
        }
    }
}

/// What the superblock and the rest of the ring say about the first record that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// Nothing.
    None,
    /// Later batches of this session are there, but none says that the record was flushed.
    LaterUnflushed,
    /// The record was flushed: a later batch or the superblock says so.
    Flushed,
}

impl Evidence {
    /// Everything that can be said.
    pub const ALL: [Self; 3] = [Self::None, Self::LaterUnflushed, Self::Flushed];
}

/// What recovery makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecoveryCase {
    /// The batch is taken and the walk goes on.
    Replay,
    /// The journal ends here; nothing suggests that there was more.
    EndOfJournal,
    /// An unflushed batch is torn or lost, which a power cut may do. It is dropped with all behind it.
    UnflushedBatch,
    /// A record that this node had flushed is gone. The disk becomes Inconsistent.
    Corrupt,
    /// The journal ends here; behind it lies an earlier lap of the ring.
    PreviousLap,
    /// The journal ends here; behind it lies what a cut or an earlier recovery discarded.
    CutBySession,
}

/// When a case applies.
type Applies = fn(Found, Evidence) -> bool;

/// One row for each case. The rows exclude one another, so their order means nothing.
pub const CASES: [(RecoveryCase, Applies); 6] = [
    (RecoveryCase::Replay, |found, _| found == Found::Continues),
    (RecoveryCase::Corrupt, |found, evidence| {
        found != Found::Continues && (evidence == Evidence::Flushed || found == Found::LaterSession)
    }),
    (RecoveryCase::UnflushedBatch, |found, evidence| match evidence {
        Evidence::None => found == Found::Torn,
        Evidence::LaterUnflushed => found < Found::LaterSession,
        Evidence::Flushed => false,
    }),
    (RecoveryCase::CutBySession, |found, evidence| {
        found == Found::OtherSession && evidence == Evidence::None
    }),
    (RecoveryCase::PreviousLap, |found, evidence| found == Found::EarlierLap && evidence == Evidence::None),
    (RecoveryCase::EndOfJournal, |found, evidence| {
        matches!(found, Found::Nothing | Found::Foreign) && evidence == Evidence::None
    }),
];

/// The case that applies.
#[must_use]
pub fn classify(found: Found, evidence: Evidence) -> RecoveryCase {
    let case = CASES.iter().find(|(_, applies)| applies(found, evidence));
    case.expect("exactly one case matches every input").0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_case_matches_every_input() {
        for found in Found::ALL {
            for evidence in Evidence::ALL {
                let matching = CASES.iter().filter(|(_, applies)| applies(found, evidence)).count();
                assert_eq!(matching, 1, "{found:?} {evidence:?}");
            }
        }
    }

    #[test]
    fn every_case_is_reached() {
        for (case, _) in CASES {
            let reached = |found| Evidence::ALL.iter().any(|evidence| classify(found, *evidence) == case);
            assert!(Found::ALL.into_iter().any(reached), "{case:?}");
        }
    }

    #[test]
    fn a_hole_is_corruption_only_with_proof_that_the_record_was_flushed() {
        assert_eq!(classify(Found::Torn, Evidence::LaterUnflushed), RecoveryCase::UnflushedBatch);
        assert_eq!(classify(Found::Torn, Evidence::Flushed), RecoveryCase::Corrupt);
        assert_eq!(classify(Found::Nothing, Evidence::Flushed), RecoveryCase::Corrupt);
    }
}
