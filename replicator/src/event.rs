//! What can happen to a replica: facts, in the past tense. The only way in (`Replica::handle`).

use bytes::Bytes;

use crate::peer::frame::ReceivedFrame;
use crate::rescue::{Giving, RescueStep};
use crate::units::{ByteRange, NodeId, RequestId, Span, VoterId, bytes_u64};

/// Names one I/O from the effect that orders it to the event that reports it. Never reused within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoId(pub u64);

/// Names one established link to a peer. A later link to the same peer has a greater number,
/// so that a late frame of a dead link is never taken for one of the new link. The shell chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Names one run of a fence command. Never reused within a run of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FenceRun(pub u64);

/// How a fence command ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FenceEnd {
    /// By itself, with this exit status.
    #[error("it ended with exit status {0}")]
    Exited(i32),
    /// By this signal.
    #[error("it was ended by signal {0}")]
    Signalled(i32),
    /// It took longer than it may, and was killed.
    #[error("it took longer than {0} and was killed")]
    TimedOut(Span),
    /// It could not be run.
    #[error("it could not be run: {0}")]
    NotRun(String),
}

/// Names one order of an operator until it is answered. The shell chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderId(pub u64);

/// Whether a request must be on stable storage before it is answered (NBD_CMD_FLAG_FUA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Complete by the replication protocol.
    Complete,
    /// Complete and flushed on every in-sync replica.
    Flushed,
}

/// What a client asks for. Ranges are inside the volume: the NBD session has checked that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read these bytes.
    Read {
        /// Which.
        range: ByteRange,
    },
    /// Replace the bytes from `offset` on.
    Write {
        /// First byte.
        offset: u64,
        /// The new bytes. If offset and length are whole blocks the memory is 4 KiB aligned.
        payload: Bytes,
        /// What the answer promises.
        durability: Durability,
    },
    /// Put everything that was answered on stable storage.
    Flush,
    /// Zero the whole blocks inside the range and give their space back; ragged edges stay as they are.
    Trim {
        /// Which bytes.
        range: ByteRange,
        /// What the answer promises.
        durability: Durability,
    },
    /// Make the bytes read as zero.
    WriteZeroes {
        /// Which bytes.
        range: ByteRange,
        /// Whether the space may be given back.
        allocation: Allocation,
        /// What the answer promises.
        durability: Durability,
    },
    /// Which parts of the range hold data (NBD_CMD_BLOCK_STATUS).
    BlockStatus {
        /// Which bytes.
        range: ByteRange,
    },
}

impl Request {
    /// Where on the volume; nothing for one that is about all of it.
    #[must_use]
    pub fn range(&self) -> Option<ByteRange> {
        match self {
            Self::Read { range }
            | Self::BlockStatus { range }
            | Self::Trim { range, .. }
            | Self::WriteZeroes { range, .. } => Some(*range),
            Self::Write { offset, payload, .. } => Some(ByteRange::new(*offset, bytes_u64(payload.len()))),
            Self::Flush => None,
        }
    }

    /// Whether it changes what the volume holds.
    #[must_use]
    pub fn is_write(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Trim { .. } | Self::WriteZeroes { .. } => true,
            Self::Read { .. } | Self::BlockStatus { .. } | Self::Flush => false,
        }
    }
}

/// Whether zeroed blocks keep their space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// They keep it (NBD_CMD_FLAG_NO_HOLE).
    Keep,
    /// It may be given back.
    Release,
}

/// A run of bytes of the data area that either holds data or is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocatedExtent {
    /// Which bytes.
    pub range: ByteRange,
    /// Whether they are a hole, which reads as zero.
    pub is_hole: bool,
}

/// Why there is no link, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoLink {
    /// Why.
    pub reason: String,
    /// What to do about it, a sentence, if more is known than to look there.
    pub action: Option<String>,
}

/// Why a link ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkLoss {
    /// The peer closed it.
    #[error("the peer closed the link")]
    Closed,
    /// The socket failed with this errno.
    #[error("the socket failed with errno {0}")]
    Socket(i32),
    /// A frame header was damaged or foreign.
    #[error("a frame header was refused")]
    BadFrame,
    /// The replica asked for it.
    #[error("this node dropped the link")]
    Dropped,
}

/// An order of an operator or a cluster manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Become Primary, waiting at most this long for what a promotion may wait for (the lease, a voter).
    Promote {
        /// How long.
        wait: Span,
        /// On whose word.
        warrant: Warrant,
    },
    /// Say what a promotion by force would cost. Changes nothing.
    WeighForce,
    /// Let a new voter take the seat of one that was replaced, although too few others can tell what that one had
    /// recorded.
    AcceptNewVoter {
        /// The identity of the new one.
        voter: VoterId,
        /// Whether only to say what may be lost.
        is_rehearsal: bool,
    },
    /// Call this copy older than others, so that it cannot be promoted until it has been brought up to date.
    Outdate,
    /// Become Secondary.
    Demote {
        /// Whether to disconnect clients.
        clients: ConnectedClients,
    },
    /// Connect to a peer, or to all, after StandAlone.
    Connect {
        /// Which.
        peer: Option<NodeId>,
    },
    /// Say the verdict that connecting to a peer, or to all, would reach. Changes nothing.
    Foresee {
        /// Which.
        peer: Option<NodeId>,
    },
    /// Disconnect from a peer, or from all, until told otherwise.
    Disconnect {
        /// Which.
        peer: Option<NodeId>,
    },
    /// Answer when every peer is connected.
    WaitConnect {
        /// How long at most.
        wait: Span,
    },
    /// Answer when every replica is UpToDate and Established.
    WaitSync {
        /// How long at most.
        wait: Span,
    },
    /// Copy no blocks to peers from this node, or go on copying. It lasts until the daemon ends.
    PauseResync {
        /// Whether to pause; else to go on.
        is_paused: bool,
    },
    /// Give way after a split brain: throw away what this node wrote on its own. Answered when that is durable.
    ResolveSplitBrain {
        /// In whose favour; may be left out if there is only one split.
        peer: Option<NodeId>,
        /// What is thrown away, and what is kept of it.
        giving: Giving,
    },
    /// Serve this node's own side read-only, as it was left, or end that.
    ServeAsWas {
        /// Whether to serve it.
        is_wanted: bool,
    },
    /// Say why everything is as it is, and what leads on. Changes nothing.
    Explain,
    /// Stop: flush, tell the peers, record a clean end. The answer comes when the daemon may exit.
    Stop,
}

/// What a promotion may go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Warrant {
    /// What the nodes know.
    #[default]
    Known,
    /// A cluster manager has proof that every node that cannot be reached is silent (`--peer-is-fenced`). It does not
    /// prove that this node holds the newest data.
    PeerIsFenced,
    /// An operator accepts the loss of what this node lacks (`--force`).
    Force,
}

/// What a demotion does with connected clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectedClients {
    /// The demotion is refused while there are any.
    Refuse,
    /// What they have in flight fails and they are disconnected (`--force`).
    Disconnect,
}

/// A fact that a replica is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed; nothing else.
    TimePassed,
    /// A client asked for something.
    RequestReceived {
        /// Comes back in the answer.
        id: RequestId,
        /// What.
        request: Request,
    },
    /// So many clients are connected now.
    ClientsCounted {
        /// How many.
        clients: usize,
    },
    /// A write to the journal, bitmap or data area completed. It is not flushed yet, unless the effect says so.
    IoCompleted {
        /// The effect's.
        io: IoId,
    },
    /// A read completed.
    BytesRead {
        /// The effect's.
        io: IoId,
        /// Exactly as many bytes as were asked for, 4 KiB aligned in memory.
        bytes: Bytes,
    },
    /// An allocation query completed.
    AllocationFound {
        /// The effect's.
        io: IoId,
        /// Covers the range that was asked for, in order.
        extents: Vec<AllocatedExtent>,
    },
    /// An I/O failed. The disk is poisoned from here on.
    IoFailed {
        /// The effect's.
        io: IoId,
        /// The kernel's error number.
        errno: i32,
    },
    /// An authenticated link to a voter exists.
    PeerConnected {
        /// Which voter.
        peer: NodeId,
        /// Its link.
        link: LinkId,
        /// The random identity that the voter proved to have.
        voter: crate::units::VoterId,
    },
    /// A frame arrived whole, its header verified.
    FrameReceived {
        /// From whom.
        peer: NodeId,
        /// On which link.
        link: LinkId,
        /// The frame.
        frame: ReceivedFrame,
    },
    /// Frames were handed to the kernel.
    FramesSent {
        /// To whom.
        peer: NodeId,
        /// On which link.
        link: LinkId,
        /// How many frames in all since the link began.
        frames: u64,
    },
    /// A link ended.
    PeerLost {
        /// Whose.
        peer: NodeId,
        /// Which.
        link: LinkId,
        /// Why.
        reason: LinkLoss,
    },
    /// The control plane could not set up a link; for status only.
    PeerUnreachable {
        /// Whose.
        peer: NodeId,
        /// Why, and what to do.
        reason: NoLink,
    },
    /// A fence command ended.
    FenceCommandEnded {
        /// The effect's.
        run: FenceRun,
        /// How.
        end: FenceEnd,
    },
    /// A step of a rescue is done.
    RescueDone {
        /// The effect's.
        step: RescueStep,
        /// The file.
        file: String,
    },
    /// A step of a rescue failed: the file is as good as not there.
    RescueFailed {
        /// The effect's.
        step: RescueStep,
        /// Why, with the file's name.
        reason: String,
    },
    /// An operator asked for something.
    OperatorAsked {
        /// Comes back in the answer.
        order: OrderId,
        /// What.
        what: Order,
    },
}
