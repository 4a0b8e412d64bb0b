//! What is wrong with a world in which the checkers themselves are tried: a rule is broken between a replica and its disk
//! or its peer, never in the replica. A checker that does not notice is worth nothing.

use replicator::peer::frame::{OutboundFrame, ReceivedFrame};
use replicator::peer::message::{Message, RecordBatch};
use replicator::units::{Lsn, NodeId};

use crate::node::IoWork;
use crate::sim_network::over_the_wire;

/// A broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Flushes of journals are reported and not done.
    JournalFlushesAreLost,
    /// Flushes of the data area of this node are reported and not done.
    DataFlushesAreLost(NodeId),
    /// Superblocks of this node are reported and not written.
    SuperblocksAreLost(NodeId),
    /// Bitmap pages of this node are reported and not written.
    BitmapPagesAreLost(NodeId),
    /// Records that are sent claim that everything is stable.
    EverythingIsCalledStable,
}

impl Sabotage {
    /// Whether an I/O is reported to its node without being done.
    #[must_use]
    pub fn swallows(self, node: NodeId, work: &IoWork) -> bool {
        match (self, work) {
            (Self::JournalFlushesAreLost, IoWork::FlushJournal(_)) => true,
            (Self::DataFlushesAreLost(whose), IoWork::FlushData(_))
            | (Self::SuperblocksAreLost(whose), IoWork::Superblock(..))
            | (Self::BitmapPagesAreLost(whose), IoWork::BitmapPages(_)) => whose == node,
            _ => false,
        }
    }

    /// The frame as it arrives.
    #[must_use]
    pub fn alters(self, frame: ReceivedFrame) -> ReceivedFrame {
        if self != Self::EverythingIsCalledStable {
            return frame;
        }
        match Message::parse(&frame) {
            Ok(Message::Records(batch)) => {
                let claims = RecordBatch { stable_up_to: Lsn(u64::MAX >> 1), ..batch };
                let forged: OutboundFrame = Message::Records(claims).encode(frame.stamp);
                over_the_wire(&forged)
            }
            Ok(_) | Err(_) => frame,
        }
    }
}
