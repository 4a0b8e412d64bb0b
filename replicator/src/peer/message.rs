//! The messages of a link, decoded. Who sends what to whom, and when, stands in docs/PROTOCOL.md.
//! Knows no bytes: those are `codec`'s business.

use crate::generation::lineage::{Generation, Lineage, Position};
use crate::generation::split_brain::Discards;
use crate::promotion::membership::MembershipRecord;
use crate::record::Record;
use crate::remote_read::ReadRequest;
use crate::resync::digest::Comparison;
use crate::resync::pace::SyncCounts;
use crate::resync::target::Compared;
use crate::state::{DiskState, Role};
use crate::units::{BlockRange, GenerationId, Incarnation, Lsn, NodeId, REPLICAS_MAX, Span, Term};

/// Everything that decides about two nodes when they meet; both sides compare the same two of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Which introduction of this link this is, from 1. After a change that a verdict depends on, a node
    /// sends its state again with the next number, and the peer answers with its own of that number.
    pub introduction: u32,
    /// Who says this: what is alike in everything else is decided by it, on both sides and every time.
    pub node: NodeId,
    /// Size of the volume, bytes.
    pub volume_bytes: u64,
    /// Role at this moment.
    pub role: Role,
    /// Disk at this moment.
    pub disk: DiskState,
    /// Generations of the data.
    pub lineage: Lineage,
    /// Newest write in the journal; for a running Primary the newest it has assigned.
    pub end: Lsn,
    /// Newest write that is flushed.
    pub flushed: Lsn,
    /// Newest write that cannot be cut off, no further than `end`: the sender was told that it is stable, so that it may
    /// be in its data area, or a resync has left it to the journal.
    pub stable: Lsn,
    /// Oldest write that the journal still holds; `end` + 1 if it holds none.
    pub oldest_kept: Lsn,
    /// Up to where the sender knows the receiver to have flushed.
    pub base: (GenerationId, Lsn),
    /// Whether the sender has blocks marked dirty for the receiver.
    pub has_dirty_bits: bool,
    /// In whose bitmap everything is marked that the sender lacks, while a resync from there is not over: its end is then
    /// where the resync began.
    pub resync_from: Option<NodeId>,
    /// Whether the sender takes records from a third node now: what it says of its end does not hold for long, so
    /// that nothing follows from it.
    pub follows_another: bool,
    /// What the sender has orders to throw away of what it changed alone, towards the receiver.
    pub discards: Discards,
    /// Whether the link is for a dry run: both ends compare the states and do nothing.
    pub is_tentative: bool,
    /// The voters' record that the sender has stored.
    pub record: MembershipRecord,
    /// This run of the sender's daemon.
    pub incarnation: Incarnation,
    /// The incarnation in the voters' record that the sender can prove to continue, if any.
    pub continues: Option<Incarnation>,
    /// Digest of the parts of the configuration that must be equal on all voters.
    pub configuration_digest: u64,
}

/// How far the receiver of records has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Received, checksums verified.
    pub received: Lsn,
    /// Written to the journal.
    pub journaled: Lsn,
    /// Flushed in the journal.
    pub flushed: Lsn,
    /// Flushed in the data area.
    pub data_flushed: Lsn,
    /// Bytes that the receiver can take from now on, beyond what it has received.
    pub window_bytes: u64,
}

/// Records with the stretch of history they belong to, as they arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBatch {
    /// Their generation.
    pub generation: GenerationId,
    /// Everything up to here is flushed by every in-sync replica; zero if the sender is no Primary.
    pub stable_up_to: Lsn,
    /// The records, Lsns without gaps.
    pub records: Vec<Record>,
}

/// Why a candidate believes that it may be promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// First promotion: every voter's record is empty.
    First,
    /// It is a living member of the newest record's in-sync set.
    Member {
        /// The recorded incarnation that its own is, or continues.
        continues: Incarnation,
    },
    /// No member of the newest record lives on; all have reported, and it is the newest of them.
    AllReported,
    /// No majority is asked (`on-peer-lost` fence and continue): only whether this replica has anything against it.
    Agreement,
}

impl Basis {
    /// Whether a majority of the voters decides.
    #[must_use]
    pub fn is_put_to_a_majority(self) -> bool {
        match self {
            Self::First | Self::Member { .. } | Self::AllReported => true,
            Self::Agreement => false,
        }
    }
}

/// A candidate asks for a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteRequest {
    /// Names the round; the reply repeats it.
    pub round: u64,
    /// What is asked: only an opinion, or the vote.
    pub stage: VoteStage,
    /// Who asks.
    pub candidate: NodeId,
    /// This run of its daemon.
    pub incarnation: Incarnation,
    /// Why it may be promoted.
    pub basis: Basis,
    /// Its flushed position.
    pub position: Position,
    /// The record it wants to be stored. Its term is the term asked for.
    pub record: MembershipRecord,
    /// Whether a cluster manager vouches that the old Primary is fenced (the lease need not be waited for).
    pub peer_is_fenced: bool,
}

/// The two stages of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteStage {
    /// Would you? Nothing changes anywhere.
    Ask,
    /// Store the record.
    Take,
}

/// A voter's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReply {
    /// The request's.
    pub round: u64,
    /// The request's.
    pub stage: VoteStage,
    /// Yes, or why not.
    pub vote: Result<(), Denial>,
    /// The record that the voter has stored now.
    pub record: MembershipRecord,
    /// The voter's flushed position; zero for the tiebreaker.
    pub position: Position,
    /// The voter's run; zero for the tiebreaker.
    pub incarnation: Incarnation,
    /// The recorded incarnation that the voter can prove to continue, if any.
    pub continues: Option<Incarnation>,
}

/// Why a voter says no. One row each in docs/STATES.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The Primary may still hold its lease. Ends by itself after `remaining`.
    #[error("the lease of the last Primary ends in {remaining} at the latest")]
    Lease {
        /// How long.
        remaining: Span,
    },
    /// This node is Primary, or is linked to a living one.
    #[error("{primary} is Primary")]
    PrimaryLives {
        /// Which.
        primary: NodeId,
    },
    /// The candidate is not in the in-sync set of the voter's record.
    #[error("the candidate is not in the in-sync set of term {term}")]
    NotAMember {
        /// Term of the record.
        term: Term,
    },
    /// The voter holds writes that the candidate lacks.
    #[error("the voter is ahead: it holds writes up to {lsn}")]
    Behind {
        /// Newest flushed write of the voter.
        lsn: Lsn,
    },
    /// The voter has stored an equal or newer record.
    #[error("the voter has stored a record of term {term}")]
    OlderTerm {
        /// Its term.
        term: Term,
    },
    /// The voter's record is empty, and not every voter's is.
    #[error("the voter has no record; it votes only in a round that all voters answer with none")]
    EmptyRecord,
    /// A member of the in-sync set lives on, so that nobody else may be chosen from reports.
    #[error("{member} is a living member of the in-sync set")]
    MemberLives {
        /// Which.
        member: NodeId,
    },
    /// The request names the voter in sync, but the voter stands elsewhere than the candidate.
    #[error("the request names the voter in sync, but it holds writes up to {lsn}")]
    NotInSync {
        /// Newest flushed write of the voter.
        lsn: Lsn,
    },
    /// The voters in the record are others than those in the request.
    #[error("the voters differ from those in the voter's record")]
    OtherVoters,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// First on every link to a replica, and again after a change that a verdict depends on.
    State(Box<PeerState>),
    /// Keeps the lease and the link alive. A Primary's carries its reign.
    Heartbeat {
        /// Role of the sender.
        role: Role,
        /// Disk of the sender.
        disk: DiskState,
        /// From a Primary: everything up to here is flushed by every in-sync replica. Else zero.
        stable_up_to: Lsn,
        /// From a Primary: up to where it knows each replica to have flushed its journal, by node number.
        /// Receivers need it to let their own journal's tail move (I7). Zeroes from others.
        flushed: [Lsn; REPLICAS_MAX],
    },
    /// Records, in order, without gaps.
    Records(RecordBatch),
    /// A generation begins: durable before its first record is journaled.
    NewGeneration {
        /// It.
        generation: Generation,
        /// The lineage of the sender up to and with it, for a receiver that missed some.
        lineage: Lineage,
    },
    /// How far the sender has come with the receiver's records.
    Progress(Progress),
    /// Flush the journal up to here, then report progress.
    Flush {
        /// Up to where.
        up_to: Lsn,
    },
    /// The target of a catch-up has cut what it had to and wants the records after `end`.
    CatchUpFrom {
        /// Newest write that the target keeps.
        end: Lsn,
    },
    /// The target of a resync says in which blocks it may differ from the source, by its own marks.
    DirtyRuns {
        /// In block order.
        runs: Vec<BlockRange>,
        /// Whether these are the last ones.
        is_last: bool,
    },
    /// The source of a resync has marked every block that may differ: the target's journal begins anew behind
    /// `start`, in the newest generation of this lineage, and the records after it follow when it has.
    ResyncFrom {
        /// Newest write whose blocks are marked, if the target lacks them.
        start: Lsn,
        /// The generations of the source up to there.
        lineage: Lineage,
    },
    /// Blocks of the source as they are now: whoever has received a record for one of them after the start of the
    /// resync keeps that instead. The Lsn of each piece is its number within this resync, from 1.
    Copies(Vec<Record>),
    /// Every piece up to here is in the target's data area, flushed, or was not needed.
    CopiesFlushed {
        /// Number of the piece.
        up_to: u64,
    },
    /// Every block was copied: the target is consistent when its journal holds everything up to here.
    ResyncEnd {
        /// Newest write that a copied block may have in it.
        consistent_at: Lsn,
    },
    /// Digests of blocks of the source: which of them differ? Numbered like copies, and among them.
    Compare(Comparison),
    /// The target's answer. What it does not call different is equal, or was brought by a record, as soon as it
    /// says that everything up to this number is flushed.
    Compared(Compared),
    /// A Primary without a disk asks a member of the in-sync set for blocks.
    ReadBlocks(ReadRequest),
    /// The answer: the blocks as they were when the question came. The Lsn is the number of the question.
    BlocksRead(Box<Record>),
    /// How far a resync or a catch-up has come, as its source counts, for operators of the other end; and, from either
    /// end, whether an operator has paused resyncs there.
    SyncStatus {
        /// Zeroes from a target.
        counts: SyncCounts,
        /// Whether.
        is_paused: bool,
    },
    /// A candidate asks.
    VoteRequest(Box<VoteRequest>),
    /// A voter answers.
    VoteReply(Box<VoteReply>),
    /// From the Primary of its term: store this.
    RecordUpdate(Box<MembershipRecord>),
    /// What the voter has stored now.
    RecordStored(Box<MembershipRecord>),
    /// From whoever holds it: the Primary of this record reigned, or the receiver never stored any; store this.
    RecordPassedOn(Box<MembershipRecord>),
    /// The sender ends the link on purpose.
    Farewell {
        /// Why, for the log.
        reason: FarewellReason,
    },
}

impl Message {
    /// Whether it may pass on a tentative link: it makes nobody store or write anything.
    #[must_use]
    pub fn is_for_a_dry_run(&self) -> bool {
        matches!(self, Self::State(_) | Self::Heartbeat { .. } | Self::Farewell { .. })
    }

    /// The record that its sender has stored, where it says so.
    #[must_use]
    pub fn record_shown(&self) -> Option<&MembershipRecord> {
        match self {
            Self::State(state) => Some(&state.record),
            Self::VoteReply(reply) => Some(&reply.record),
            Self::RecordStored(record) => Some(record),
            Self::Heartbeat { .. }
            | Self::Records(_)
            | Self::NewGeneration { .. }
            | Self::Progress(_)
            | Self::Flush { .. }
            | Self::CatchUpFrom { .. }
            | Self::DirtyRuns { .. }
            | Self::ResyncFrom { .. }
            | Self::Copies(_)
            | Self::CopiesFlushed { .. }
            | Self::ResyncEnd { .. }
            | Self::Compare(_)
            | Self::Compared(_)
            | Self::ReadBlocks(_)
            | Self::BlocksRead(_)
            | Self::SyncStatus { .. }
            | Self::VoteRequest(_)
            | Self::RecordUpdate(_)
            | Self::RecordPassedOn(_)
            | Self::Farewell { .. } => None,
        }
    }
}

impl FarewellReason {
    /// The same, from a node whose copy is Outdated on its disk.
    #[must_use]
    pub fn outdated(self) -> Self {
        match self {
            Self::Stopping => Self::StoppingOutdated,
            Self::Disconnected => Self::DisconnectedOutdated,
            other @ (Self::StoppingOutdated | Self::DisconnectedOutdated | Self::UnknownVoter) => other,
        }
    }

    /// Whether the sender has called its copy Outdated.
    #[must_use]
    pub fn is_of_an_outdated_copy(self) -> bool {
        match self {
            Self::StoppingOutdated | Self::DisconnectedOutdated => true,
            Self::Stopping | Self::Disconnected | Self::UnknownVoter => false,
        }
    }
}

/// Why a node ends a link on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FarewellReason {
    /// Its daemon stops cleanly.
    Stopping,
    /// An operator disconnected it.
    Disconnected,
    /// Its daemon stops; on its disk it has called its copy Outdated, so that it cannot be promoted.
    StoppingOutdated,
    /// An operator disconnected it; on its disk it has called its copy Outdated.
    DisconnectedOutdated,
    /// The receiver's voter identity is not the one that the sender met first.
    UnknownVoter,
}
