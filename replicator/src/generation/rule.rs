//! The rows of the table of verdicts (semantics §4): their names, in the order in which they are checked, and what each
//! of them says in a sentence. docs/STATES.md has the same table and is compared with this one.

use std::fmt;

use serde::Serialize;

/// Which row of the table decided. Names are stable: operators search for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum SyncRule {
    /// Both were just created.
    BothNew,
    /// Neither disk is usable.
    BothDamaged,
    /// This node was just created.
    NewSelf,
    /// The peer was just created.
    NewPeer,
    /// No common generation.
    Unrelated,
    /// Exactly one disk is damaged.
    Damaged,
    /// Both run as Primary.
    BothPrimary,
    /// Both are at the same generation.
    SameGeneration,
    /// The peer has newer generations.
    PeerMovedOn,
    /// This node has newer generations.
    WeMovedOn,
    /// Both moved on, all by majority: the later reign knew what the earlier had completed.
    Superseded,
    /// Both moved on, and no rule says who is right.
    SplitBrain,
}

impl SyncRule {
    /// Every row in the order in which they are checked: the first whose condition holds decides, the last one always
    /// holds.
    pub const IN_ORDER: [Self; 12] = [
        Self::BothNew,
        Self::BothDamaged,
        Self::NewSelf,
        Self::NewPeer,
        Self::Unrelated,
        Self::Damaged,
        Self::BothPrimary,
        Self::SameGeneration,
        Self::PeerMovedOn,
        Self::WeMovedOn,
        Self::Superseded,
        Self::SplitBrain,
    ];

    /// When the row holds, if none before it does.
    #[must_use]
    pub fn condition(self) -> &'static str {
        match self {
            Self::BothNew => "neither volume was ever written",
            Self::BothDamaged => "neither disk holds a usable copy (a new volume is none)",
            Self::NewSelf => "this volume was never written, the peer's was",
            Self::NewPeer => "the peer's volume was never written, this one was",
            Self::Unrelated => "the two have no generation in common",
            Self::Damaged => {
                "exactly one disk is Inconsistent, or Failed or Diskless on a node that is no Primary"
            }
            Self::BothPrimary => "both run as Primary, and Superseded does not hold",
            Self::SameGeneration => "neither has a generation after the common one",
            Self::PeerMovedOn => {
                "only the peer has generations after the common one, and this node is no running Primary"
            }
            Self::WeMovedOn => {
                "only this node has generations after the common one, and the peer is no running Primary"
            }
            Self::Superseded => {
                "both have generations after the common one, a majority granted each of them, and the last terms differ"
            }
            Self::SplitBrain => "anything else",
        }
    }

    /// What the row asks for.
    #[must_use]
    pub fn consequence(self) -> &'static str {
        match self {
            Self::BothNew => {
                "nothing to do if both were made with `--uptodate-zeroed` and their disks work; else no replication"
            }
            Self::BothDamaged | Self::Unrelated => "no replication",
            Self::NewSelf => "this node is the target",
            Self::NewPeer => "the peer is the target",
            Self::Damaged => {
                "it is the target, whatever its newest write; but no replication if it has generations after the common \
                 one that are not superseded"
            }
            Self::BothPrimary | Self::SplitBrain => "no replication: split brain",
            Self::SameGeneration => {
                "a running Primary is the source, else the longer journal; equal and nothing marked dirty: nothing to do"
            }
            Self::PeerMovedOn => "this node is the target from the fork",
            Self::WeMovedOn => "the peer is the target from the fork",
            Self::Superseded => "the branch with the lower last term is the target from the fork",
        }
    }

    /// The row as the peer sees it.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::NewSelf => Self::NewPeer,
            Self::NewPeer => Self::NewSelf,
            Self::PeerMovedOn => Self::WeMovedOn,
            Self::WeMovedOn => Self::PeerMovedOn,
            Self::BothNew
            | Self::BothDamaged
            | Self::Unrelated
            | Self::Damaged
            | Self::BothPrimary
            | Self::SameGeneration
            | Self::Superseded
            | Self::SplitBrain => self,
        }
    }
}

impl fmt::Display for SyncRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
