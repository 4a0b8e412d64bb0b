//! What one node leaves behind while another one is in the middle of a resync, on disks that are made up.

use bytes::Bytes;
use replicator::layout::bitmap_page::BitmapPage;
use replicator::layout::superblock::{DurableDisk, ResyncPosition, Superblock};
use replicator::record::Record;
use replicator::units::{BLOCK_BYTES, BLOCK_SIZE, BlockRange, GenerationId, Lsn, NodeId};

use super::assert_needless;
use crate::checker::watch::Watch;
use crate::node::SimNode;
use crate::world::{ALPHA, BETA, World, WorldOptions};

const BLOCK: u64 = 7;

/// Alpha's tail goes past a write of a block that it holds in its data area too; beta's data area does not.
fn leave_behind(beta_is_resynced: bool, beta_has_marked: bool) {
    let mut world = World::started(1, WorldOptions::default());
    let payload = Bytes::from(vec![1; BLOCK_SIZE]);
    let record = Record::write(Lsn(1), BlockRange::new(BLOCK, 1), payload.clone());
    world.nodes[ALPHA.index()].data.write_through(BLOCK * BLOCK_BYTES, &payload);
    let mut seen = Watch::new(&world.nodes).seen;
    if beta_has_marked {
        mark(&mut world.nodes[BETA.index()], &mut seen[BETA.index()].superblock, ALPHA);
    }
    seen[ALPHA.index()].journal.found(Lsn(1), &[(GenerationId(1), record)], false, 0);
    if beta_is_resynced {
        let from = &mut seen[BETA.index()].superblock;
        from.disk = DurableDisk::Inconsistent;
        from.resync = Some(ResyncPosition { generation: GenerationId(1), lsn: Lsn(1), source: None });
    }
    let mut next: Superblock = seen[ALPHA.index()].superblock.clone();
    (next.journal.tail_lsn, next.journal.data_flushed) = (Lsn(2), Lsn(1));
    assert_needless(&world.nodes, &seen, ALPHA, &next);
}

/// A node marks the block for a peer on its disk, by this superblock.
fn mark(node: &mut SimNode, superblock: &mut Superblock, peer: NodeId) {
    let mut slots = superblock.peers.iter_mut();
    let slot = slots.find(|slot| slot.node.is_none_or(|other| other == peer)).expect("one for each peer");
    (slot.node, slot.has_dirty_bits) = (Some(peer), true);
    let bitmap_slot = slot.bitmap_slot;
    let zone = superblock.zones.bitmap(bitmap_slot).expect("every slot has a zone");
    let mut page = BitmapPage::clean(bitmap_slot, 0);
    page.header.sequence = 1;
    page.set(BLOCK..BLOCK + 1);
    node.metadata.write_through(zone.offset, &page.encode());
}

#[test]
fn what_a_target_forgets_is_known_by_its_own_marks() {
    leave_behind(true, true);
}

#[test]
#[should_panic(expected = "violation of I7: node 0 leaves")]
fn what_a_target_forgets_without_a_mark_is_not_left_behind() {
    leave_behind(true, false);
}

#[test]
#[should_panic(expected = "violation of I7: node 0 leaves")]
fn marks_of_a_node_that_is_whole_do_not_stand_for_those_of_the_node_that_leaves_records_behind() {
    leave_behind(false, true);
}
