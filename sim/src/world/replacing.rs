//! What people do to machines whose daemon does not run: disks that are put back, and another configuration.

use replicator::config::OnPeerLost;
use replicator::layout::bitmap_page::BitmapPage;
use replicator::units::{BLOCK_BYTES, NodeId};

use super::World;
use crate::sim_disk::SimDisk;

/// A copy of both disks of a node.
#[derive(Clone, Debug)]
pub struct BackUp {
    node: NodeId,
    metadata: SimDisk,
    data: SimDisk,
}

impl World {
    /// Copies both disks of a node, as a snapshot below it would.
    #[must_use]
    pub fn back_up(&self, node: NodeId) -> BackUp {
        let machine = &self.nodes[node.index()];
        BackUp { node, metadata: machine.metadata.clone(), data: machine.data.clone() }
    }

    /// Puts back a copy that was made earlier. The machine has been up all the time. Checkers hold nothing of the node
    /// against the others from now on, but for what clients read, and for the disks when all are in sync again.
    ///
    /// # Panics
    /// Its daemon runs.
    pub fn put_back(&mut self, copy: &BackUp) {
        self.say(|| format!("-- the disks of {} are put back", copy.node));
        assert!(!self.is_up(copy.node), "a daemon keeps its disks for itself");
        let machine = &mut self.nodes[copy.node.index()];
        machine.broken.insert(machine.superblock().incarnation_recorded);
        machine.broken.extend(machine.mark.map(|mark| mark.incarnation));
        machine.metadata = copy.metadata.clone();
        machine.data = copy.data.clone();
        self.watch.seen[copy.node.index()].is_damaged = true;
        self.lose_unflushed(copy.node);
    }

    /// Marks every block of a node's volume as one that may differ from a peer's, on its disk.
    ///
    /// # Panics
    /// There is no slot for the peer.
    pub fn mark_all(&mut self, node: NodeId, peer: NodeId) {
        let volume_bytes = self.options.volume_bytes;
        let mut zone = None;
        self.forge_superblock(node, |superblock| {
            let zones = superblock.zones.clone();
            let known = superblock.peers.iter().position(|slot| slot.node == Some(peer));
            let free = superblock.peers.iter().position(|slot| slot.node.is_none());
            let at = known.or(free).expect("there are as many slots as peers");
            let slot = &mut superblock.peers[at];
            if known.is_none() {
                (slot.node, slot.bitmap_slot) = (Some(peer), u8::try_from(at).expect("few slots"));
            }
            slot.has_dirty_bits = true;
            zone = zones.bitmap(slot.bitmap_slot).map(|zone| (zone.offset, slot.bitmap_slot));
        });
        let (offset, slot) = zone.expect("every slot has a zone");
        let mut page = BitmapPage::clean(slot, 0);
        page.header.sequence = 1;
        page.set(0..volume_bytes / BLOCK_BYTES);
        self.nodes[node.index()].metadata.write_through(offset, &page.encode()[..]);
    }

    /// Writes another answer to the question what a Primary does that loses its peer into the configuration of every
    /// node; daemons that run do not know of it.
    pub fn reconfigure(&mut self, on_peer_lost: OnPeerLost) {
        self.say(|| format!("-- from now on {on_peer_lost:?}"));
        self.options.on_peer_lost = on_peer_lost;
        let has_tiebreaker = self.options.has_tiebreaker();
        for machine in &mut self.nodes {
            machine.config.on_peer_lost = on_peer_lost;
            machine.config.has_tiebreaker = has_tiebreaker;
        }
    }
}
