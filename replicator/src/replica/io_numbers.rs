//! What I/Os are ordered for, and since when they have been under way.

use std::collections::BTreeMap;

use crate::event::{IoId, LinkId};
use crate::units::{Lsn, NodeId, RequestId, Tick};

/// What an I/O was ordered for, where the part that ordered it does not keep that itself.
#[derive(Clone, Debug)]
pub(super) enum IoPurpose {
    /// A flush of the data area that covers everything up to here.
    DataFlush(Lsn),
    /// An edge block of a ragged write.
    Edge(RequestId, u64),
    /// Journal records for a peer that catches up.
    CatchUp(NodeId, LinkId),
    /// Journal records that the tail is about to leave behind.
    Tail,
    /// Journal records whose blocks a peer lacks.
    ResyncMarks(NodeId, LinkId),
    /// Journal records that an operator is told of.
    Inquiry,
    /// Journal records that this node forgets when it is resynced.
    OwnMarks,
    /// Blocks to be copied to a peer.
    CopyRead(NodeId, LinkId),
    /// Which blocks that are to be copied to a peer are holes.
    HoleSearch(NodeId, LinkId),
    /// Blocks of this node that a peer has asked about.
    CompareRead,
    /// Blocks of this node that a Primary without a disk reads.
    Lending,
    /// Blocks that were copied to this node.
    CopyWrite,
    /// A flush of the data area that covers every copy up to this one.
    CopyFlush(u64),
    /// Journal records that are about to be discarded, for a list.
    DiscardList(u64),
    /// Blocks that are about to be discarded: which discard, which piece.
    RescueRead(u64, usize),
}

/// Numbers for I/Os, and when those that are under way were ordered.
#[derive(Debug, Default)]
pub(super) struct IoNumbers {
    last: u64,
    pub(super) now: Tick,
    /// The lower its number, the older an I/O is.
    pub(super) ordered: BTreeMap<IoId, Tick>,
}

impl IoNumbers {
    pub(super) fn next(&mut self) -> IoId {
        self.last += 1;
        let io = IoId(self.last);
        self.ordered.insert(io, self.now);
        io
    }

    /// When the oldest I/O that is under way was ordered.
    pub(super) fn oldest(&self) -> Option<Tick> {
        self.ordered.first_key_value().map(|(_, ordered)| *ordered)
    }
}
