//! The verdict when two nodes meet: who brings whom up to date, from where, and by which rule (semantics §4).
//! A pure function of the two states that were exchanged. Both ends compute it and reach mirrored results.

use std::cmp::Reverse;
use std::fmt;

use serde::Serialize;

use crate::generation::lineage::{Generation, Lineage};
pub use crate::generation::rule::SyncRule;
use crate::generation::split_brain::Discards;
use crate::peer::message::PeerState;
use crate::state::{DiskState, Role};
use crate::units::{GenerationId, Lsn};

/// What the rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncAction {
    /// Nothing: both hold the same.
    NoSync,
    /// This node brings the peer up to date.
    Source(Course),
    /// The peer brings this node up to date.
    Target(Course),
    /// No replication until an operator has decided.
    Stop(StopReason),
}

/// From where and how a target is brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// The newest generation that both have; zero if there is none.
    pub common: GenerationId,
    /// The newest write that the target keeps; what it holds beyond is cut off.
    pub target_keeps: Lsn,
    /// How.
    pub method: SyncMethod,
}

/// How a target is brought up to date, cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum SyncMethod {
    /// Records in order; the target stays a consistent older state all the time.
    CatchUp,
    /// The blocks that either side marked or wrote since the common point.
    BitmapResync,
    /// Every allocated block.
    FullResync,
    /// Every allocated block, because one disk is older than its peer knows it to be.
    FullResyncWentBack,
}

/// Why there is no replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum StopReason {
    /// Two new volumes of unknown content.
    NothingDecided,
    /// No usable copy on either side.
    NoUsableDisk,
    /// The volumes have nothing to do with each other.
    Unrelated,
    /// The damaged side wrote on its own after the fork.
    DamagedBranch,
    /// Both sides wrote on their own.
    SplitBrain,
    /// Both sides have orders to throw away what they wrote on their own.
    BothDiscard,
    /// One side has orders to throw away what it changed, and which blocks that are is not known for certain.
    BlocksUnknown,
    /// The Primary has no disk, and not all in memory that the other side lacks.
    SourceIsDiskless,
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The row.
    pub rule: SyncRule,
    /// What it asks for.
    pub action: SyncAction,
}

impl Verdict {
    /// From where and how the target is brought up to date, if there is one.
    #[must_use]
    pub fn course(&self) -> Option<Course> {
        match self.action {
            SyncAction::Source(course) | SyncAction::Target(course) => Some(course),
            SyncAction::NoSync | SyncAction::Stop(_) => None,
        }
    }
}

/// The names that operators see: the row, and whether one disk went back in time.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let went_back = self.course().is_some_and(|course| course.method == SyncMethod::FullResyncWentBack);
        let went_back = if went_back { ", WentBack" } else { "" };
        write!(f, "{}{went_back}", self.rule)
    }
}

/// Compares this node's state with the peer's, as both were exchanged.
#[must_use]
pub fn compare(ours: &PeerState, theirs: &PeerState) -> Verdict {
    let pair = Pair::new(ours, theirs);
    let rule = pair.rule();
    Verdict { rule, action: pair.action(rule) }
}

/// Where two histories part, and how far each went on alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The newest generation that both have.
    pub common: GenerationId,
    /// The last write before the first generation after it, on either side.
    pub fork: Lsn,
    /// Writes that this node has beyond the fork.
    pub our_writes: u64,
    /// Writes that the peer has beyond it.
    pub their_writes: u64,
}

/// Where the two part; nothing if they have no common generation.
#[must_use]
pub fn divergence(ours: &PeerState, theirs: &PeerState) -> Option<Divergence> {
    let pair = Pair::new(ours, theirs);
    let fork = pair.fork().min(ours.end).min(theirs.end);
    let beyond = |state: &PeerState| state.end.since(fork);
    Some(Divergence { common: pair.common?, fork, our_writes: beyond(ours), their_writes: beyond(theirs) })
}

/// Whether the volume was made and never written. A Primary is about to write, and whoever has marked blocks as dirty
/// knows of writes: neither is taken for new.
pub(super) fn is_new(state: &PeerState) -> bool {
    let generations = state.lineage.generations();
    let is_untouched = match generations {
        [] => true,
        [only] => only.id == GenerationId::ZEROED && state.end == Lsn::ZERO && !state.has_dirty_bits,
        _ => false,
    };
    is_untouched && state.role != Role::Primary
}

pub(super) fn is_damaged(state: &PeerState) -> bool {
    has_no_usable_disk(state) && !is_diskless_primary(state)
}

fn has_no_usable_disk(state: &PeerState) -> bool {
    state.disk <= DiskState::Inconsistent
}

/// A Primary that serves without a disk, through the members of its in-sync set: it holds in memory whatever may be
/// missing on one of them, and nothing else.
pub(super) fn is_diskless_primary(state: &PeerState) -> bool {
    state.role == Role::Primary && state.disk < DiskState::Inconsistent
}

/// What the rules look at.
pub(crate) struct Pair<'a> {
    pub(super) ours: &'a PeerState,
    pub(super) theirs: &'a PeerState,
    pub(super) common: Option<GenerationId>,
    pub(super) our_branch: &'a [Generation],
    pub(super) their_branch: &'a [Generation],
}

impl<'a> Pair<'a> {
    pub(crate) fn new(ours: &'a PeerState, theirs: &'a PeerState) -> Self {
        let common = newest_common(&ours.lineage, &theirs.lineage);
        let after = |lineage: &'a Lineage| common.map_or(lineage.generations(), |id| lineage.after(id));
        Self { ours, theirs, common, our_branch: after(&ours.lineage), their_branch: after(&theirs.lineage) }
    }

    /// The first row of the table whose condition holds.
    fn rule(&self) -> SyncRule {
        let holds = |rule: &SyncRule| self.holds(*rule);
        SyncRule::IN_ORDER.into_iter().find(holds).expect("the last row always holds")
    }

    /// The condition of one row, where no row before it holds.
    fn holds(&self, rule: SyncRule) -> bool {
        let (ours, theirs) = (self.ours, self.theirs);
        let usable = |state| !is_damaged(state) && !is_new(state);
        match rule {
            SyncRule::BothNew => is_new(ours) && is_new(theirs),
            SyncRule::BothDamaged => !usable(ours) && !usable(theirs),
            SyncRule::NewSelf => is_new(ours),
            SyncRule::NewPeer => is_new(theirs),
            SyncRule::Unrelated => self.common.is_none(),
            SyncRule::Damaged => is_damaged(ours) != is_damaged(theirs),
            SyncRule::BothPrimary => {
                ours.role == Role::Primary && theirs.role == Role::Primary && !self.is_superseded()
            }
            SyncRule::SameGeneration => self.our_branch.is_empty() && self.their_branch.is_empty(),
            SyncRule::PeerMovedOn => self.our_branch.is_empty() && ours.role != Role::Primary,
            SyncRule::WeMovedOn => self.their_branch.is_empty() && theirs.role != Role::Primary,
            SyncRule::Superseded => self.is_superseded(),
            SyncRule::SplitBrain => true,
        }
    }

    fn is_superseded(&self) -> bool {
        match (self.our_branch.last(), self.their_branch.last()) {
            (Some(ours), Some(theirs)) => {
                ours.term != theirs.term
                    && self.our_branch.iter().chain(self.their_branch).all(|entry| entry.granted)
            }
            _ => false,
        }
    }

    /// Whether this node holds the newer data, where the rule names a direction.
    fn we_are_source(&self, rule: SyncRule) -> bool {
        let (ours, theirs) = (self.ours, self.theirs);
        match rule {
            SyncRule::NewPeer | SyncRule::WeMovedOn => true,
            SyncRule::Damaged => is_damaged(theirs),
            SyncRule::SameGeneration if ours.role == Role::Primary || theirs.role == Role::Primary => {
                ours.role == Role::Primary
            }
            // Equal ends with blocks in doubt: not from a copy that was called outdated to one that was not; then from
            // the side that holds the marks; then a choice that both make alike, and again the next time.
            SyncRule::SameGeneration => {
                let rank = |state: &PeerState| {
                    (state.end, state.disk > DiskState::Outdated, state.has_dirty_bits, Reverse(state.node))
                };
                rank(ours) > rank(theirs)
            }
            SyncRule::Superseded => {
                self.our_branch.last().map(|g| g.term) > self.their_branch.last().map(|g| g.term)
            }
            SyncRule::NewSelf | SyncRule::PeerMovedOn => false,
            SyncRule::BothNew
            | SyncRule::BothDamaged
            | SyncRule::Unrelated
            | SyncRule::BothPrimary
            | SyncRule::SplitBrain => false,
        }
    }

    fn action(&self, rule: SyncRule) -> SyncAction {
        let stop = match rule {
            SyncRule::BothNew if self.are_zeroes() => return SyncAction::NoSync,
            SyncRule::BothNew => Some(StopReason::NothingDecided),
            SyncRule::BothDamaged => Some(StopReason::NoUsableDisk),
            SyncRule::Unrelated => Some(StopReason::Unrelated),
            SyncRule::BothPrimary | SyncRule::SplitBrain => {
                return self.by_order(StopReason::SplitBrain, |_| true);
            }
            SyncRule::Damaged => {
                let branch = if is_damaged(self.ours) { self.our_branch } else { self.their_branch };
                if !branch.is_empty() && !self.damaged_side_is_superseded() {
                    return self.by_order(StopReason::DamagedBranch, is_damaged);
                }
                None
            }
            SyncRule::SameGeneration if self.is_equal() => return SyncAction::NoSync,
            SyncRule::SameGeneration
            | SyncRule::NewSelf
            | SyncRule::NewPeer
            | SyncRule::PeerMovedOn
            | SyncRule::WeMovedOn
            | SyncRule::Superseded => None,
        };
        let (source, course) = match stop {
            Some(reason) => return SyncAction::Stop(reason),
            None if self.we_are_source(rule) => {
                (self.ours, self.course(self.ours, self.theirs, self.our_branch, self.their_branch))
            }
            None => (self.theirs, self.course(self.theirs, self.ours, self.their_branch, self.our_branch)),
        };
        match () {
            () if is_diskless_primary(source) && course.method != SyncMethod::CatchUp => {
                SyncAction::Stop(StopReason::SourceIsDiskless)
            }
            () if self.we_are_source(rule) => SyncAction::Source(course),
            () => SyncAction::Target(course),
        }
    }

    /// What an order to discard makes of a stop: the one Secondary that has it gives way. Whatever it wrote alone has to
    /// be known, or every block is copied, in so many words.
    fn by_order(&self, unless: StopReason, may_give_way: fn(&PeerState) -> bool) -> SyncAction {
        let gives_way = |state: &PeerState| {
            state.discards != Discards::Nothing && state.role != Role::Primary && may_give_way(state)
        };
        let (we_give_way, course) = match (gives_way(self.ours), gives_way(self.theirs)) {
            (false, false) => return SyncAction::Stop(unless),
            (true, true) => return SyncAction::Stop(StopReason::BothDiscard),
            (true, false) => {
                (true, self.discarding_course(self.theirs, self.ours, self.their_branch, self.our_branch))
            }
            (false, true) => {
                (false, self.discarding_course(self.ours, self.theirs, self.our_branch, self.their_branch))
            }
        };
        let source = if we_give_way { self.theirs } else { self.ours };
        match course {
            _ if is_diskless_primary(source) => SyncAction::Stop(StopReason::SourceIsDiskless),
            None => SyncAction::Stop(StopReason::BlocksUnknown),
            Some(course) if we_give_way => SyncAction::Target(course),
            Some(course) => SyncAction::Source(course),
        }
    }

    fn discarding_course(
        &self,
        source: &PeerState,
        target: &PeerState,
        source_branch: &[Generation],
        target_branch: &[Generation],
    ) -> Option<Course> {
        let course = self.course(source, target, source_branch, target_branch);
        // A damaged journal may have lost the records of blocks that are in the data area already.
        let are_blocks_known = course.method != SyncMethod::FullResyncWentBack && !has_no_usable_disk(target);
        match target.discards {
            Discards::Everything => {
                Some(Course { method: course.method.max(SyncMethod::FullResync), ..course })
            }
            Discards::Changes if are_blocks_known => {
                Some(Course { method: SyncMethod::BitmapResync, ..course })
            }
            Discards::Changes | Discards::Nothing => None,
        }
    }

    fn damaged_side_is_superseded(&self) -> bool {
        let our_term = self.our_branch.last().map(|generation| generation.term);
        let their_term = self.their_branch.last().map(|generation| generation.term);
        self.is_superseded() && (is_damaged(self.ours) == (our_term < their_term))
    }

    /// Two volumes of zeroes, of which none was lost or half overwritten by a resync.
    fn are_zeroes(&self) -> bool {
        self.common == Some(GenerationId::ZEROED) && !is_damaged(self.ours) && !is_damaged(self.theirs)
    }

    /// Same generation, nobody Primary, same end, no block in doubt.
    fn is_equal(&self) -> bool {
        let (ours, theirs) = (self.ours, self.theirs);
        let idle = ours.role != Role::Primary && theirs.role != Role::Primary;
        idle && ours.end == theirs.end && !ours.has_dirty_bits && !theirs.has_dirty_bits
    }

    /// The last write before the first generation after the common one, on either side.
    pub(super) fn fork(&self) -> Lsn {
        let first_of =
            |branch: &[Generation]| branch.first().map(|generation| generation.first_lsn.previous());
        let forks = [first_of(self.our_branch), first_of(self.their_branch)];
        forks.into_iter().flatten().min().unwrap_or(Lsn(u64::MAX))
    }

    fn course(
        &self,
        source: &PeerState,
        target: &PeerState,
        source_branch: &[Generation],
        target_branch: &[Generation],
    ) -> Course {
        let Some(common) = self.common else {
            return Course {
                common: GenerationId::default(),
                target_keeps: Lsn::ZERO,
                method: SyncMethod::FullResync,
            };
        };
        let fork = self.fork().min(source.end);
        let target_keeps = target.end.min(fork);
        // What the target holds beyond the fork was never stable if every generation that the source made
        // since is granted: it is in the target's journal and nowhere else (I3), and a cut takes it back. What the
        // target was told to be stable may be in its data area, whatever the grants say; and of what a resync left to
        // the journal it has nothing else.
        let cut_is_enough = target.end <= fork || source_branch.iter().all(|generation| generation.granted);
        let cut_is_enough = cut_is_enough && target.stable <= target_keeps;
        let cut_is_enough = cut_is_enough && (target_branch.is_empty() || self.is_superseded());
        // Marks say where two disks may differ.
        let are_marks_of_use = !is_diskless_primary(source);
        let method = match () {
            () if target_keeps < source.base.1 || target_keeps < target.base.1 => {
                SyncMethod::FullResyncWentBack
            }
            () if has_no_usable_disk(target)
                || (are_marks_of_use && (source.has_dirty_bits || target.has_dirty_bits)) =>
            {
                SyncMethod::BitmapResync
            }
            () if !cut_is_enough || target_keeps.next() < source.oldest_kept => SyncMethod::BitmapResync,
            () => SyncMethod::CatchUp,
        };
        Course { common, target_keeps, method }
    }
}

/// The newest generation that both lineages have.
fn newest_common(ours: &Lineage, theirs: &Lineage) -> Option<GenerationId> {
    let in_theirs = |generation: &&Generation| theirs.find(generation.id).is_some();
    ours.generations().iter().rev().find(in_theirs).map(|generation| generation.id)
}

#[cfg(test)]
pub(super) mod laws;
#[cfg(test)]
mod tests;
