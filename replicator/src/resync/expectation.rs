//! Whether blocks are compared before they are copied: where the target may hold them already. What a comparison saves is
//! the way and a write of the target; what it costs is a read of the target and digests on both sides. So what is not
//! known is tried, now and then, and done as long as it pays.

use crate::generation::compare::SyncMethod;
use crate::generation::rule::SyncRule;
use crate::units::BLOCK_BYTES;

/// Blocks over which it is judged whether comparing pays.
const WINDOW_BLOCKS: u64 = (8 << 20) / BLOCK_BYTES;
/// Blocks that are copied between two trials.
const TRIAL_AFTER_BLOCKS: u64 = (64 << 20) / BLOCK_BYTES;
/// One block in so many must be equal for comparing to pay.
const EQUAL_ONE_IN: u64 = 8;

/// What is known of the blocks of a target before it gets any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// They were marked because they were written: most of them differ.
    Different,
    /// They are in doubt, and most of them may be equal.
    Equal,
    /// The volume was made of zeroes and nothing was written to it.
    Zero,
}

impl Expectation {
    /// What follows from the verdict.
    #[must_use]
    pub fn of(rule: SyncRule, method: SyncMethod, target: TargetBefore) -> Self {
        match (target, method) {
            (TargetBefore::Zeroed, _) => Self::Zero,
            (TargetBefore::Interrupted, _) => Self::Equal,
            (TargetBefore::Other, SyncMethod::FullResync | SyncMethod::FullResyncWentBack) => Self::Equal,
            (TargetBefore::Other, SyncMethod::BitmapResync | SyncMethod::CatchUp) => match rule {
                // Nothing says that anything differs, and marks are never dropped.
                SyncRule::SameGeneration => Self::Equal,
                SyncRule::BothNew
                | SyncRule::BothDamaged
                | SyncRule::NewSelf
                | SyncRule::NewPeer
                | SyncRule::Unrelated
                | SyncRule::Damaged
                | SyncRule::BothPrimary
                | SyncRule::PeerMovedOn
                | SyncRule::WeMovedOn
                | SyncRule::Superseded
                | SyncRule::SplitBrain => Self::Different,
            },
        }
    }
}

/// What a target was before its resync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetBefore {
    /// Made with `--uptodate-zeroed`, and never written.
    Zeroed,
    /// Resynced by this very node, not to the end: whatever it lacks is marked here.
    Interrupted,
    /// Anything else.
    Other,
}

/// What is done with blocks that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// The target is asked which of them differ.
    Compare,
    /// They are sent.
    Copy,
}

/// Decides, from what comparisons have found so far.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Whether it pays, as far as is known; never where the target is known to be of zeroes.
    pays: Option<bool>,
    /// Blocks compared in this window, and those of them that were equal.
    compared: u64,
    equal: u64,
    /// Blocks copied since the last comparison.
    copied: u64,
}

impl Judgement {
    /// Before the first block.
    #[must_use]
    pub fn new(expectation: Expectation) -> Self {
        let pays = match expectation {
            Expectation::Different => Some(false),
            Expectation::Equal => Some(true),
            Expectation::Zero => None,
        };
        Self { pays, compared: 0, equal: 0, copied: 0 }
    }

    /// What to do with the next blocks.
    pub fn next(&mut self, blocks: u64) -> Treatment {
        match self.pays {
            None => Treatment::Copy,
            Some(true) => Treatment::Compare,
            Some(false) if self.copied >= TRIAL_AFTER_BLOCKS => {
                self.copied = 0;
                Treatment::Compare
            }
            Some(false) => {
                self.copied += blocks;
                Treatment::Copy
            }
        }
    }

    /// So many blocks were compared, and so many of them were equal.
    pub fn on_compared(&mut self, compared: u64, equal: u64) {
        self.compared += compared;
        self.equal += equal;
        // A trial is judged at once, a window when it is over.
        if self.pays == Some(true) && self.compared < WINDOW_BLOCKS {
            return;
        }
        self.pays = self.pays.map(|_| self.equal * EQUAL_ONE_IN >= self.compared);
        (self.compared, self.equal) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Treats so many runs of 1 MiB, of which one in `equal_one_in` is equal; returns how many were compared.
    fn compared(judgement: &mut Judgement, runs: u64, equal_one_in: u64) -> u64 {
        let mut compared = 0;
        for run in 0..runs {
            if judgement.next(256) == Treatment::Compare {
                compared += 1;
                judgement.on_compared(256, if run % equal_one_in == 0 { 256 } else { 0 });
            }
        }
        compared
    }

    #[test]
    fn comparing_stops_while_nearly_nothing_is_equal_and_begins_again_when_something_is() {
        let mut judgement = Judgement::new(Expectation::Equal);
        assert_eq!(compared(&mut judgement, 100, 2), 100, "every other one is equal");
        let tried = compared(&mut judgement, 660, 1_000_000);
        assert!((10..30).contains(&tried), "a window, and then one in 65: {tried}");
        let compared = compared(&mut judgement, 165, 1);
        assert!(compared >= 100, "from the next trial on: {compared}");
    }

    #[test]
    fn blocks_that_were_written_are_copied_but_for_a_trial_now_and_then() {
        let mut judgement = Judgement::new(Expectation::Different);
        assert_eq!(compared(&mut judgement, 64, 1), 0);
        assert_eq!(compared(&mut judgement, 10, 1), 10, "they are equal after all");
    }

    #[test]
    fn a_target_of_zeroes_is_never_asked() {
        assert_eq!(compared(&mut Judgement::new(Expectation::Zero), 1000, 1), 0);
    }

    #[test]
    fn what_is_expected_follows_from_the_verdict() {
        let of = |rule, method| Expectation::of(rule, method, TargetBefore::Other);
        assert_eq!(of(SyncRule::SameGeneration, SyncMethod::BitmapResync), Expectation::Equal);
        assert_eq!(of(SyncRule::WeMovedOn, SyncMethod::BitmapResync), Expectation::Different);
        assert_eq!(of(SyncRule::WeMovedOn, SyncMethod::FullResyncWentBack), Expectation::Equal);
        assert_eq!(of(SyncRule::NewPeer, SyncMethod::FullResync), Expectation::Equal);
        let zeroed = Expectation::of(SyncRule::NewPeer, SyncMethod::FullResync, TargetBefore::Zeroed);
        assert_eq!(zeroed, Expectation::Zero);
        let goes_on =
            Expectation::of(SyncRule::WeMovedOn, SyncMethod::BitmapResync, TargetBefore::Interrupted);
        assert_eq!(goes_on, Expectation::Equal);
    }
}
