//! What the parts of the data plane share while they work: the ring, and what the replica is to be told.

use std::collections::VecDeque;

use replicator::event::{Event, LinkId};
use replicator::units::NodeId;

use crate::data_plane::backing_device::DiskTag;
use crate::data_plane::ring::Ring;

/// Names one client connection; never reused within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// Whose operation it is.
#[derive(Clone, Copy, Debug)]
pub enum Tag {
    /// The backing device's.
    Disk(DiskTag),
    /// Bytes from a client.
    ClientReceive(ClientId),
    /// Bytes to a client.
    ClientSend(ClientId),
    /// Bytes from a voter.
    PeerReceive(NodeId, LinkId),
    /// Bytes to a voter.
    PeerSend(NodeId, LinkId),
    /// The control plane has sent something.
    Wake,
}

/// One round of the event loop.
pub struct Round {
    /// Where operations go.
    pub ring: Ring<Tag>,
    /// What the replica has not been told yet.
    pub events: VecDeque<Event>,
}

impl Round {
    /// A round with a ring for the calling thread.
    ///
    /// # Errors
    /// The kernel has no `io_uring`, or forbids it.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { ring: Ring::new()?, events: VecDeque::new() })
    }
}
