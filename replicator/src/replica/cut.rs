//! Taking back: records that were never complete are cut off the journal's end, durably, before anything
//! else is appended. I3 says that they are nowhere else.

use crate::layout::superblock::DurableDisk;
use crate::superblock_keeper::Revision;
use crate::units::{GenerationId, Lsn, NodeId};

use super::Replica;
use super::receiving::Stage;

impl Replica {
    /// Keeps writes up to `last` and generations up to `common`. Durable when the revision is.
    pub(super) fn cut_after(&mut self, common: GenerationId, last: Lsn) -> Revision {
        let kept = self.stable.max(self.superblock.content().consistent_at);
        assert!(kept <= last, "I3: writes behind {last} are cut off, the disk needs those up to {kept}");
        let session = self.journal.ring().session() + 1;
        self.write_back.cut(last);
        self.journal.cut(last, session);
        self.complete = self.complete.min(last);
        self.forget_peers_beyond(last);
        // Whoever this node ships to holds some of what is taken back, or has it on the way.
        let targets: Vec<NodeId> =
            self.peers.iter().filter(|peer| peer.is_target_of_us()).map(|peer| peer.node).collect();
        for node in targets {
            self.reintroduce_to(node);
        }
        let ring = self.journal.ring();
        let anchor = ring.anchor(ring.tail(), self.data_flushed);
        self.superblock.change(|content| {
            content.journal = anchor;
            content.lineage.cut_after(common);
            if content.disk == DurableDisk::UpToDate {
                content.disk = DurableDisk::Outdated;
            }
        });
        // With the cut: a peer remembered beyond it would seem to have gone back.
        self.remember_peers();
        self.superblock.change(|_| {})
    }

    /// What is known of the peers beyond `last` is of writes that this node gives up: the same numbers come again for
    /// others.
    pub(super) fn forget_peers_beyond(&mut self, last: Lsn) {
        for peer in &mut self.peers {
            peer.flushed = peer.flushed.min(last);
            peer.acknowledged = peer.acknowledged.min(last);
            peer.marked = peer.marked.min(last);
        }
    }

    /// Whether a cut is on its way to disk.
    pub(super) fn is_cutting(&self) -> bool {
        self.inbound.as_ref().is_some_and(|inbound| matches!(inbound.stage, Stage::Preparing { .. }))
    }
}
