//! Moving the journal's tail, only when room is needed: the whole ring is the window in which a peer can
//! catch up. Before a record is left behind, every other replica has flushed it or its blocks are durably
//! marked dirty for that replica (I7).

use bytes::Bytes;

use crate::bitmap::BitmapRevision;
use crate::effect::{Effect, Effects};
use crate::event::IoId;
use crate::journal::ring::SegmentStart;
use crate::layout::journal_batch::BATCH_BYTES_MAX;
use crate::notice::Notice;
use crate::state::{DiskState, Role};
use crate::superblock_keeper::Revision;
use crate::units::{Lsn, NodeId};

use super::links::{Peer, Replication};
use super::mark_reader::{MarkRead, MarkReader};
use super::{IoPurpose, Replica};

/// A move of the tail in progress.
#[derive(Debug)]
pub(super) struct TailMove {
    to: SegmentStart,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Records that some replica lacks are read, to mark their blocks.
    Marking { reader: MarkReader, behind: Vec<(NodeId, u8, Lsn)> },
    /// The marks are on their way to disk.
    Marked { behind: Vec<NodeId>, revision: BitmapRevision },
    /// The superblock that names the new tail is on its way to disk.
    Recording(Revision),
}

impl Replica {
    /// Whether the ring has so little room left that the tail should move.
    fn room_is_short(&self) -> bool {
        let ring = self.journal.ring();
        let free = ring.capacity_bytes() - ring.used_bytes();
        free < wanted_room(ring.capacity_bytes())
    }

    /// Whether the tail cannot move because the data area lags behind.
    pub(super) fn tail_waits_for_write_back(&self) -> bool {
        self.room_is_short() && self.tail_move.is_none() && self.data_flushed < self.write_back_limit()
    }

    pub(super) fn advance_tail(&mut self, effects: &mut Effects) {
        self.watch_clients_share(effects);
        self.note_marks_durable();
        let is_ready = self.is_started() && self.disk_fault.is_none() && !self.is_cutting();
        // Whoever takes in nothing needs no room: a node that has just started leaves nobody behind.
        let is_kept = |inbound: &super::receiving::Inbound| {
            inbound.resync.as_ref().is_none_or(|resync| !resync.forgets_journal())
        };
        let takes_in = self.role == Role::Primary || self.inbound.as_ref().is_some_and(is_kept);
        if self.tail_move.is_some() || !is_ready || !takes_in || !self.room_is_short() {
            return;
        }
        let ring = self.journal.ring();
        let tail = ring.tail();
        let Some(to) = ring.nearest_tail(self.tail_limit(), wanted_room(ring.capacity_bytes())) else {
            return;
        };
        if to.first_lsn <= tail.first_lsn {
            return;
        }
        let last = to.first_lsn.previous();
        let behind = self.replicas_behind(last);
        let oldest_missing = behind.iter().map(|(_, _, flushed)| flushed.next()).min();
        let Some(first) = oldest_missing else {
            self.record_tail(to);
            return;
        };
        let reader = MarkReader::new(self.journal.ring(), first, last);
        self.tail_move = Some(TailMove { to, stage: Stage::Marking { reader, behind } });
        self.read_on(effects);
    }

    /// How far the tail may go: what is flushed in the data area, and what the replicas that follow along have
    /// flushed. Clients are slowed rather than a follower being left behind.
    fn tail_limit(&self) -> Lsn {
        let following = self.peers.iter().filter(|peer| self.holds_tail(peer));
        following.map(Peer::has_no_need_of).min().unwrap_or(Lsn(u64::MAX)).min(self.data_flushed)
    }

    /// Whether the tail waits for a peer.
    pub(super) fn holds_tail(&self, peer: &Peer) -> bool {
        self.replicates_with(peer) && !self.may_be_passed(peer)
    }

    fn replicates_with(&self, peer: &Peer) -> bool {
        // Whose disk has failed takes nothing more from a journal: if it answers again, its blocks are marked.
        peer.is_replica()
            && peer.disk >= DiskState::Inconsistent
            && peer.link.as_ref().is_some_and(|link| match &link.replication {
                // A Secondary that never asks is one that follows a Primary instead.
                Replication::Source(outbound) => outbound.is_started() || self.role == Role::Primary,
                Replication::Target | Replication::Introducing => true,
                Replication::Idle | Replication::Stopped => false,
            })
    }

    /// Replicas that are not known to have flushed everything up to `last`, with their bitmap slots.
    fn replicas_behind(&mut self, last: Lsn) -> Vec<(NodeId, u8, Lsn)> {
        let lagging: Vec<(NodeId, Lsn)> = self
            .peers
            .iter()
            .filter(|peer| peer.is_replica() && peer.accounted() < last)
            .map(|peer| (peer.node, peer.accounted()))
            .collect();
        lagging.into_iter().map(|(node, flushed)| (node, self.bitmap_slot(node), flushed)).collect()
    }

    /// The slot that keeps what is known of `node`; taken at first use.
    pub(super) fn bitmap_slot(&mut self, node: NodeId) -> u8 {
        let peers = &self.superblock.content().peers;
        if let Some(slot) = peers.iter().find(|slot| slot.node == Some(node)) {
            return slot.bitmap_slot;
        }
        let free =
            peers.iter().position(|slot| slot.node.is_none()).expect("there are as many slots as peers");
        let bitmap_slot = u8::try_from(free).expect("at most seven slots");
        assert!(
            bitmap_slot < self.superblock.content().max_peers,
            "the shell has compared max-peers with the configuration"
        );
        self.superblock.change(|content| {
            content.peers[free].node = Some(node);
            content.peers[free].bitmap_slot = bitmap_slot;
        });
        bitmap_slot
    }

    fn read_on(&mut self, effects: &mut Effects) {
        let Some(TailMove { stage: Stage::Marking { reader, .. }, .. }) = &mut self.tail_move else { return };
        match reader.next() {
            MarkRead::Order(offset, length) => {
                let io = self.read_journal(IoPurpose::Tail, offset, length, effects);
                if let Some(TailMove { stage: Stage::Marking { reader, .. }, .. }) = &mut self.tail_move {
                    reader.awaits(io);
                }
            }
            MarkRead::Wait => {}
            MarkRead::Done => self.note_all_marked(effects),
        }
    }

    pub(super) fn on_tail_read(&mut self, io: IoId, bytes: Bytes, effects: &mut Effects) {
        if self.disk_fault.is_some() {
            return;
        }
        let Some(TailMove { stage: Stage::Marking { reader, behind }, .. }) = &mut self.tail_move else {
            return;
        };
        // It is its own: a move is given up with the disk only, and nothing else begins before it is over.
        match reader.on_bytes(io, bytes) {
            Ok(records) => {
                let behind = behind.clone();
                for (lsn, range) in records {
                    for (node, slot, _) in behind.iter().filter(|(_, _, flushed)| *flushed < lsn) {
                        self.bitmap.set(*slot, range);
                        let outbound = self.peer_mut(*node).outbound_mut();
                        if let Some(resync) = outbound.and_then(super::sending::Outbound::resync_mut) {
                            resync.mark_anew(range);
                        }
                    }
                }
                self.read_on(effects);
            }
            Err(error) => self.fail_disk(format!("the journal cannot be read back: {error}"), effects),
        }
    }

    fn note_all_marked(&mut self, effects: &mut Effects) {
        let Some(TailMove { stage: Stage::Marking { behind, .. }, .. }) = &self.tail_move else { return };
        let behind: Vec<NodeId> = behind.iter().map(|(node, _, _)| *node).collect();
        for node in &behind {
            if !self.peer(*node).has_dirty_bits {
                let name = self.name_of(*node);
                let text = format!("the journal is full: {name} can no longer catch up by records");
                effects.push(Effect::Notify(Notice::warning("journal-full", text)));
            }
        }
        let revision = self.bitmap.newest();
        if let Some(tail_move) = &mut self.tail_move {
            tail_move.stage = Stage::Marked { behind, revision };
        }
    }

    fn note_marks_durable(&mut self) {
        let Some(TailMove { to, stage: Stage::Marked { behind, revision } }) = &mut self.tail_move else {
            return;
        };
        if !self.bitmap.is_durable(*revision) {
            return;
        }
        let (to, behind) = (*to, std::mem::take(behind));
        self.tail_move = None;
        let last = to.first_lsn.previous();
        let is_back = |node: NodeId| {
            let peer = self.peer(node);
            peer.has_no_need_of() < last && self.holds_tail(peer)
        };
        // A disk that went back in time was not behind when the marks were made.
        let has_fallen_back =
            |peer: &Peer| peer.is_replica() && peer.accounted() < last && !behind.contains(&peer.node);
        if behind.iter().any(|node| is_back(*node)) || self.peers.iter().any(has_fallen_back) {
            // It has come back meanwhile and may be reading just these records; bits that are set too many do no
            // harm. The move is tried again when the peer has them, or is gone.
            return;
        }
        for node in &behind {
            let peer = self.peer_mut(*node);
            peer.has_dirty_bits = true;
            peer.marked = peer.marked.max(last);
        }
        self.record_tail(to);
    }

    fn record_tail(&mut self, to: SegmentStart) {
        assert!(
            to.first_lsn.previous() <= self.data_flushed,
            "I7: tail to {}, data flushed {}",
            to.first_lsn,
            self.data_flushed
        );
        for peer in self.peers.iter().filter(|peer| peer.is_replica()) {
            assert!(peer.accounted() >= to.first_lsn.previous(), "I7: {} lacks records", peer.node);
        }
        self.remember_peers();
        let anchor = self.journal.ring().anchor(to, self.data_flushed);
        let revision = self.superblock.change(|content| content.journal = anchor);
        self.tail_move = Some(TailMove { to, stage: Stage::Recording(revision) });
    }

    /// What is marked for a peer that has flushed everything up to where the marks go is equal there: another node has
    /// brought it up to date.
    pub(super) fn forget_marks(&mut self) {
        let is_proved = |peer: &&Peer| !peer.has_cleared && self.are_needless(peer, peer.flushed);
        let proved: Vec<NodeId> = self.peers.iter().filter(is_proved).map(|peer| peer.node).collect();
        if proved.is_empty() {
            return;
        }
        for node in proved {
            self.drop_marks(node);
        }
        self.remember_peers();
    }

    /// The same by the peer's own word: it stands in the newest generation of this node, whole, and has flushed what is
    /// marked for it. Without a Primary nobody else would ever say so. Returns whether marks were dropped.
    pub(super) fn forget_marks_by_introduction(&mut self, node: NodeId) -> bool {
        let peer = self.peer(node);
        let Some(said) = peer.introduced() else { return false };
        let is_whole = said.disk > DiskState::Inconsistent && said.resync_from.is_none();
        let is_same = said.lineage.newest_id() == self.superblock.content().lineage.newest_id();
        // Older than it is known to be: it went back in time, and its word proves nothing.
        let has_gone_back = said.flushed < peer.flushed;
        // Marks that it should not have cleared are of writes that only it has.
        let lacks_something = peer.has_cleared && said.end > self.flushed_end();
        if !is_whole || !is_same || has_gone_back || lacks_something || !self.are_needless(peer, said.flushed)
        {
            return false;
        }
        self.drop_marks(node);
        self.remember_peers();
        true
    }

    /// Whether everything that is marked for a peer is there, if it has flushed that much.
    fn are_needless(&self, peer: &Peer, flushed: Lsn) -> bool {
        // Marks of a node that is being resynced, or is about to be and marks what it will forget, say what it lacks
        // itself, too; and a tail that is about to move has marked more than `marked` says.
        let is_target = self.inbound.as_ref().is_some_and(|inbound| inbound.resync.is_some());
        if is_target || self.superblock.content().resync.is_some() || self.tail_move.is_some() {
            return false;
        }
        let is_being_resynced = peer.outbound().is_some_and(|outbound| outbound.resync().is_some());
        peer.has_dirty_bits && peer.marked > Lsn::ZERO && flushed >= peer.marked && !is_being_resynced
    }

    pub(super) fn drop_marks(&mut self, node: NodeId) {
        let slot = self.bitmap_slot(node);
        self.bitmap.clear_all(slot);
        let peer = self.peer_mut(node);
        (peer.has_dirty_bits, peer.has_cleared) = (false, false);
    }

    /// Puts into the superblock what is known of the peers.
    pub(super) fn remember_peers(&mut self) {
        let replicas: Vec<NodeId> =
            self.peers.iter().filter(|peer| peer.is_replica()).map(|peer| peer.node).collect();
        for node in replicas {
            let slot = self.bitmap_slot(node);
            let peer = self.peer(node);
            let (flushed, acknowledged) = (peer.flushed, peer.acknowledged);
            let (has_dirty_bits, marked, has_cleared) = (peer.has_dirty_bits, peer.marked, peer.has_cleared);
            self.superblock.change(|content| {
                let generation = content.lineage.generation_of(flushed).map(|generation| generation.id);
                let slot =
                    content.peers.iter_mut().find(|peer| peer.node == Some(node) && peer.bitmap_slot == slot);
                let slot = slot.expect("it was just taken");
                slot.base_lsn = flushed;
                slot.base_generation = generation.unwrap_or_default();
                slot.acknowledged = acknowledged.max(flushed);
                slot.has_dirty_bits = has_dirty_bits;
                slot.marked_up_to = marked;
                slot.has_cleared = has_cleared;
            });
        }
    }

    pub(super) fn on_tail_durable(&mut self, effects: &mut Effects) {
        if let Some(TailMove { to, stage: Stage::Recording(revision) }) = &self.tail_move
            && self.superblock.is_durable(*revision)
        {
            self.journal.ring_mut().set_tail(*to);
            self.tail_move = None;
            self.drop_overtaken(effects);
        }
    }
}

/// Room that the ring should have: some batches of the largest size, but never most of a small ring.
pub(super) fn wanted_room(capacity: u64) -> u64 {
    (capacity / 8).max(3 * BATCH_BYTES_MAX).min(capacity / 2)
}
