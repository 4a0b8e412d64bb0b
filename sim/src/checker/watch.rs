//! What the checkers have seen: for each node the newest superblock on its disk, what its journal holds, and what it last
//! said of its disk. Fed by the world with what goes to the disks and what got there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use replicator::checksum::Crc32c;
use replicator::event::IoId;
use replicator::layout::bitmap_page::BitmapPage;
use replicator::layout::journal_batch::parse_descriptor;
use replicator::layout::superblock::{DurableDisk, Superblock};
use replicator::promotion::membership::InSyncSet;
use replicator::units::{BLOCK_BYTES, BLOCK_SIZE, NodeId};

use super::journal_view::{Content, JournalView};
use super::split_brain::SplitBrain;
use super::{generations, inconsistent_disk, marked_blocks, stable_data, tail};
use crate::node::{Found, IoWork, SimNode};

/// What is seen of one node.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The newest superblock on its disk.
    pub superblock: Superblock,
    /// Its journal.
    pub journal: JournalView,
    /// What it has last written of its own disk, whatever stands there now.
    pub own_word: DurableDisk,
    /// Its newest generation was not the newest before this moment.
    pub newest_since: u64,
    /// Blocks have been copied to it in this run: its data area holds more than its own records.
    pub is_copied_to: bool,
    /// Its disk was made to rot, and it has not been mended yet.
    pub is_damaged: bool,
}

impl Seen {
    /// The node has written a superblock. A disk that it called Inconsistent is so until a resync of it is over.
    fn takes(&mut self, next: Superblock) {
        let is_mended = self.superblock.resync.is_some();
        if self.own_word != DurableDisk::Inconsistent || is_mended {
            self.own_word = next.disk;
        }
        self.journal.anchored(&next.journal);
        self.superblock = next;
    }
}

/// The blocks that a node has marked for a peer on its disk, by this superblock.
#[must_use]
pub fn marks(superblock: &Superblock, node: &SimNode, peer: NodeId) -> BTreeSet<u64> {
    let mut marked = BTreeSet::new();
    let Some(slot) = superblock.peer(peer).filter(|slot| slot.has_dirty_bits) else { return marked };
    let Some(zone) = superblock.zones.bitmap(slot.bitmap_slot) else { return marked };
    for index in 0..zone.length / BLOCK_BYTES {
        let block = node.metadata.read(zone.offset + index * BLOCK_BYTES, BLOCK_BYTES);
        let Ok(page) = BitmapPage::recover(&block, slot.bitmap_slot, index) else { continue };
        let mut from = 0;
        while let Some(run) = page.next_run(from) {
            from = run.end;
            marked.extend(run.map(|block| index * PAGE_BLOCKS + block));
        }
    }
    marked
}

const PAGE_BLOCKS: u64 = replicator::layout::bitmap_page::BITMAP_PAGE_BLOCKS;

/// Everything that is seen.
#[derive(Debug)]
pub struct Watch {
    /// By node.
    pub seen: Vec<Seen>,
    /// Superblocks on their way to the disk.
    superblocks: BTreeMap<(NodeId, IoId), Superblock>,
    /// In which generations writes were completed.
    split_brain: SplitBrain,
    /// An operator has forced something, and was told what it may cost.
    is_loss_named: bool,
}

/// What the bytes of a block are.
#[must_use]
pub fn content_of(block: &[u8]) -> Content {
    match block.iter().all(|byte| *byte == 0) {
        true => Content::Zeroes,
        false => Content::Bytes(Crc32c::of(block)),
    }
}

impl Watch {
    /// Nodes that were just made.
    #[must_use]
    pub fn new(nodes: &[SimNode]) -> Self {
        let seen = |node: &SimNode| {
            let superblock = node.superblock();
            let own_word = superblock.disk;
            let journal = JournalView::default();
            Seen { superblock, journal, own_word, newest_since: 0, is_copied_to: false, is_damaged: false }
        };
        let seen = nodes.iter().map(seen).collect();
        Self { seen, superblocks: BTreeMap::new(), split_brain: SplitBrain::default(), is_loss_named: false }
    }

    /// An I/O was ordered. `in_sync` is the set that a majority has recorded.
    ///
    /// # Panics
    /// It breaks I3 or I5.
    pub fn ordered(&mut self, node: NodeId, io: IoId, work: &IoWork, in_sync: &InSyncSet) {
        let seen = &mut self.seen[node.index()];
        match work {
            IoWork::Journal(_, pieces) => {
                let batch = parse_descriptor(&pieces[0]).expect("a node writes whole descriptors");
                generations::assert_known(seen, node, &batch.header);
                seen.journal.ordered(io, &batch);
            }
            IoWork::Superblock(_, bytes) => {
                let next = Superblock::parse(bytes).expect("a node writes whole superblocks");
                generations::assert_follows(seen, node, &next);
                self.superblocks.insert((node, io), next);
            }
            IoWork::Data(offset, pieces) => {
                let blocks = pieces.iter().flat_map(|piece| piece.chunks(BLOCK_SIZE));
                for (block, content) in (offset / BLOCK_BYTES..).zip(blocks) {
                    self.writes_data(node, in_sync, block, &content_of(content));
                }
            }
            IoWork::Zero(range) => {
                for block in range.first..range.end() {
                    self.writes_data(node, in_sync, block, &Content::Zeroes);
                }
            }
            IoWork::BitmapPages(_)
            | IoWork::ReadJournal(..)
            | IoWork::ReadData(_)
            | IoWork::FlushJournal(_)
            | IoWork::FlushData(_)
            | IoWork::FindAllocated(_) => {}
        }
    }

    fn writes_data(&mut self, node: NodeId, in_sync: &InSyncSet, block: u64, content: &Content) {
        let seen = &mut self.seen[node.index()];
        if seen.superblock.resync.is_some() {
            seen.is_copied_to = true; // Of the source's data area, where only stable blocks are.
            return;
        }
        stable_data::assert_stable(&self.seen, node, in_sync, block, content);
    }

    /// An I/O has reached the disk.
    ///
    /// # Panics
    /// It breaks I7 or I8.
    pub fn done(&mut self, nodes: &[SimNode], node: NodeId, io: IoId, work: &Done, now: u64) {
        let mark = nodes[node.index()].metadata.flush_mark();
        match work {
            Done::Journal => self.seen[node.index()].journal.written(io, mark),
            Done::FlushJournal(mark) => self.seen[node.index()].journal.flushed(*mark),
            Done::Superblock => {
                let Some(next) = self.superblocks.remove(&(node, io)) else { return };
                if !self.is_loss_named {
                    self.split_brain.observe(&self.seen, node, &next);
                }
                let is_resynced =
                    next.resync.is_some() || self.seen[node.index()].superblock.resync.is_some();
                if !is_resynced && next.journal.session == self.seen[node.index()].superblock.journal.session
                {
                    tail::assert_needless(nodes, &self.seen, node, &next);
                }
                let seen = &mut self.seen[node.index()];
                if next.lineage.newest_id() != seen.superblock.lineage.newest_id() {
                    seen.newest_since = now;
                }
                seen.takes(next);
            }
            Done::Other => {}
        }
    }

    /// A daemon is gone; what its disk says now is looked up when it starts. Nothing is on its way any more.
    ///
    /// # Panics
    /// The disks break I4.
    pub fn stopped(&mut self, nodes: &[SimNode], node: NodeId) {
        self.superblocks.retain(|(other, _), _| *other != node);
        let on_disk = nodes[node.index()].superblock();
        let seen = &mut self.seen[node.index()];
        if on_disk.sequence > seen.superblock.sequence {
            // It was on its way, and got there.
            seen.takes(on_disk);
        } else {
            seen.superblock = on_disk;
        }
        self.compare(nodes);
    }

    /// A node has got another disk. Until it is in sync it differs from all others.
    pub fn replaced(&mut self, nodes: &[SimNode], node: NodeId) {
        let superblock = nodes[node.index()].superblock();
        let (own_word, journal) = (superblock.disk, JournalView::default());
        let (newest_since, is_copied_to, is_damaged) = (0, false, true);
        self.seen[node.index()] =
            Seen { superblock, journal, own_word, newest_since, is_copied_to, is_damaged };
    }

    /// A daemon has started and found this on its disk.
    pub fn started(&mut self, nodes: &[SimNode], node: NodeId, found: &Found) {
        let mark = nodes[node.index()].metadata.flush_mark();
        let seen = &mut self.seen[node.index()];
        seen.superblock = nodes[node.index()].superblock();
        seen.is_copied_to = seen.superblock.resync.is_some();
        seen.journal.found(found.end, &found.replay, found.lost_power, mark);
    }

    /// Holds all nodes against each other.
    ///
    /// # Panics
    /// The disks break I4.
    pub fn compare(&self, nodes: &[SimNode]) {
        for (at, first) in nodes.iter().enumerate() {
            for (other, second) in nodes.iter().enumerate().skip(at + 1) {
                if !self.seen[at].is_damaged && !self.seen[other].is_damaged {
                    let numbered = |at: usize| NodeId(u8::try_from(at).expect("at most three"));
                    marked_blocks::assert_marked([
                        (numbered(at), first, &self.seen[at]),
                        (numbered(other), second, &self.seen[other]),
                    ]);
                }
            }
        }
    }

    /// A write was completed that a node was asked for at `asked`: it belongs to the newest generation if that one was
    /// the newest then.
    pub fn completed(&mut self, node: NodeId, asked: u64) {
        let seen = &self.seen[node.index()];
        if asked > seen.newest_since {
            self.split_brain.completed(seen.superblock.lineage.newest_id());
        }
    }

    /// A node begins to serve, or answers a read.
    ///
    /// # Panics
    /// It breaks I6.
    pub fn serves(&self, node: NodeId) {
        if !self.is_loss_named {
            inconsistent_disk::assert_servable(&self.seen[node.index()], node);
        }
    }

    /// An operator names a loss: from here on I6 and I8 allow it.
    pub fn loss_named(&mut self) {
        self.is_loss_named = true;
    }
}

/// What is left to be known of an I/O that has reached the disk.
#[derive(Clone, Copy, Debug)]
pub enum Done {
    /// A batch.
    Journal,
    /// A flush that began at this mark.
    FlushJournal(u64),
    /// A superblock.
    Superblock,
    /// Anything else.
    Other,
}

impl Done {
    /// Of this I/O.
    #[must_use]
    pub fn of(work: &IoWork) -> Self {
        match work {
            IoWork::Journal(..) => Self::Journal,
            IoWork::FlushJournal(mark) => Self::FlushJournal(*mark),
            IoWork::Superblock(..) => Self::Superblock,
            IoWork::BitmapPages(_)
            | IoWork::Data(..)
            | IoWork::Zero(_)
            | IoWork::ReadJournal(..)
            | IoWork::ReadData(_)
            | IoWork::FlushData(_)
            | IoWork::FindAllocated(_) => Self::Other,
        }
    }
}

/// What a block of a data area holds.
#[must_use]
pub fn content(block: Option<&Bytes>) -> Content {
    block.map_or(Content::Zeroes, |block| content_of(block))
}
