//! Law I6: a disk that its own node has called Inconsistent is not served before the node has called it something else.

use replicator::layout::superblock::DurableDisk;
use replicator::units::NodeId;

use super::watch::Seen;

/// A node begins to serve clients, or answers a read.
///
/// # Panics
/// Its disk is Inconsistent by the last that the node itself has written about it, whatever is on the disk now.
pub fn assert_servable(seen: &Seen, node: NodeId) {
    assert!(
        seen.own_word != DurableDisk::Inconsistent,
        "violation of I6: {node} serves an Inconsistent disk"
    );
}
