//! This node as the source of a resync: gathers what may differ, makes that durable, copies it, and calls it equal
//! when the target says that it is one disk again.

use bytes::Bytes;

use crate::bitmap::BitmapRevision;
use crate::effect::{Effect, Effects};
use crate::event::{AllocatedExtent, IoId, LinkId};
use crate::generation::compare::{Course, SyncMethod};
use crate::generation::rule::SyncRule;
use crate::layout::record_table::BATCH_RECORDS_MAX;
use crate::notice::Notice;
use crate::peer::message::{Message, PeerState};
use crate::record::Record;
use crate::resync::expectation::{Expectation, TargetBefore};
use crate::resync::pace::SyncCounts;
use crate::resync::source::{Copying, Outcome, Outgoing};
use crate::resync::target::Compared;
use crate::state::DiskState;
use crate::superblock_keeper::Revision;
use crate::units::{BLOCK_BYTES, BlockRange, Lsn, NodeId, Tick};
use crate::write_back::extent_map::Piece;

use super::mark_reader::{MarkRead, MarkReader};
use super::sending::Outbound;
use super::{IoPurpose, Replica};

/// A resync in which a peer is the target.
#[derive(Debug)]
pub(super) struct ResyncSource {
    stage: Stage,
    /// Every block is copied, not only those that are marked.
    is_full: bool,
    /// What is known of the target's blocks.
    expectation: Expectation,
    /// The newest write that the target keeps; none if it gets every block.
    target_keeps: Lsn,
}

/// How far it has come.
#[derive(Debug)]
enum Stage {
    /// The target says which blocks it has marked itself.
    Gathering,
    /// The blocks of records that the target lacks are being marked; they go up to this one.
    Marking { reader: MarkReader, start: Lsn },
    /// The marks are on their way to disk.
    Marked { revision: BitmapRevision, start: Lsn },
    /// The superblock that says how far they go is.
    Recording { revision: Revision, start: Lsn },
    /// The target was told where its journal begins.
    Offered { start: Lsn },
    /// Blocks are copied, and records go besides.
    Copying(Box<Copying>),
    /// The target was told that it has every block, and says when it is consistent.
    Ended { consistent_at: Lsn, counts: SyncCounts },
}

impl ResyncSource {
    pub(super) fn new(rule: SyncRule, course: Course, target: TargetBefore) -> Self {
        // A full resync that goes on has every block marked that is left. A disk that went back was never resynced.
        let (is_full, target_keeps) = match course.method {
            SyncMethod::FullResync => (target != TargetBefore::Interrupted, Lsn::ZERO),
            SyncMethod::FullResyncWentBack => (true, Lsn::ZERO),
            SyncMethod::BitmapResync | SyncMethod::CatchUp => (false, course.target_keeps),
        };
        let expectation = Expectation::of(rule, course.method, target);
        Self { stage: Stage::Gathering, is_full, expectation, target_keeps }
    }

    /// Up to where the target will ask for no record: everything before it is marked, or about to be.
    pub(super) fn needs_nothing_up_to(&self, journaled: Lsn, accounted: Lsn) -> Lsn {
        match &self.stage {
            Stage::Gathering => Lsn(u64::MAX),
            Stage::Marking { .. } => accounted,
            Stage::Marked { start, .. } | Stage::Recording { start, .. } | Stage::Offered { start } => *start,
            Stage::Copying(copying) => journaled.max(copying.start()),
            Stage::Ended { .. } => journaled,
        }
    }

    /// Blocks that the target lacks; known as soon as they are copied.
    pub(super) fn left(&self) -> Option<u64> {
        match &self.stage {
            Stage::Copying(copying) => Some(copying.left()),
            Stage::Ended { .. } => Some(0),
            Stage::Gathering
            | Stage::Marking { .. }
            | Stage::Marked { .. }
            | Stage::Recording { .. }
            | Stage::Offered { .. } => None,
        }
    }

    /// How far it has come, bytes; known as soon as blocks are copied.
    pub(super) fn counts(&self) -> Option<SyncCounts> {
        match &self.stage {
            Stage::Copying(copying) => Some(copying.counts()),
            Stage::Ended { counts, .. } => Some(*counts),
            Stage::Gathering
            | Stage::Marking { .. }
            | Stage::Marked { .. }
            | Stage::Recording { .. }
            | Stage::Offered { .. } => None,
        }
    }

    fn copying(&mut self) -> Option<&mut Copying> {
        match &mut self.stage {
            Stage::Copying(copying) => Some(copying),
            Stage::Gathering
            | Stage::Marking { .. }
            | Stage::Marked { .. }
            | Stage::Recording { .. }
            | Stage::Offered { .. }
            | Stage::Ended { .. } => None,
        }
    }

    /// The journal has left a record behind that the target has not flushed: its blocks stay marked.
    pub(super) fn mark_anew(&mut self, range: BlockRange) {
        if let Some(copying) = self.copying() {
            copying.mark_anew(range);
        }
    }
}

impl Replica {
    fn resync_of(&mut self, node: NodeId) -> Option<&mut ResyncSource> {
        self.peer_mut(node).outbound_mut()?.resync_mut()
    }

    /// Puts the resync of `node` into another stage.
    fn set_stage(&mut self, node: NodeId, stage: Stage) {
        if let Some(resync) = self.resync_of(node) {
            resync.stage = stage;
        }
    }

    pub(super) fn on_dirty_runs(
        &mut self,
        node: NodeId,
        runs: &[BlockRange],
        is_last: bool,
        effects: &mut Effects,
    ) {
        // The peer's state may have arrived in this very round, so that the verdict is still due here.
        self.reach_verdict(node, effects);
        let volume = BlockRange::new(0, self.config.volume_bytes / BLOCK_BYTES);
        let Some(ResyncSource { stage: Stage::Gathering, is_full, target_keeps, .. }) = self.resync_of(node)
        else {
            return; // Of an earlier introduction.
        };
        let (is_full, target_keeps) = (*is_full, *target_keeps);
        if let Some(beyond) = runs.iter().find(|run| run.end() > volume.end()) {
            let reason = format!("it marks {beyond}, beyond the end of the volume");
            self.drop_link(node, &reason, effects);
            return;
        }
        let slot = self.bitmap_slot(node);
        for run in runs {
            self.bitmap.set(slot, *run);
        }
        if !is_last {
            return;
        }
        if is_full {
            self.bitmap.set(slot, volume);
        }
        let peer = self.peer(node);
        let lacks = peer.flushed.min(target_keeps).max(peer.marked).next();
        // What is flushed keeps its number: what is lost with the power is written again as something else. And what is
        // stable gets into the data area, from where it is copied; the rest goes as records.
        let start = self.write_back_limit();
        let lacks = if is_full { start.next() } else { lacks };
        let reader = MarkReader::new(self.journal.ring(), lacks, start);
        self.set_stage(node, Stage::Marking { reader, start });
    }

    /// Whatever can be done for resyncs in which peers are targets.
    pub(super) fn advance_resyncs(&mut self, effects: &mut Effects) {
        let is_target = |peer: &&super::links::Peer| peer.outbound().is_some_and(|it| it.resync().is_some());
        let targets: Vec<NodeId> = self.peers.iter().filter(is_target).map(|peer| peer.node).collect();
        // Whoever was served last is served after the others: what may be read is little sometimes, and for all.
        let last = targets.iter().position(|node| Some(*node) == self.copied_last).map_or(0, |at| at + 1);
        let (before, after) = targets.split_at(last);
        for node in after.iter().chain(before) {
            self.advance_resync_of(*node, effects);
        }
    }

    /// When more may be copied, if time is what it waits for.
    pub(super) fn resync_wakeup(&self) -> Option<Tick> {
        let is_copying = |peer: &super::links::Peer| {
            let resync = peer.outbound().and_then(Outbound::resync);
            resync
                .is_some_and(|resync| matches!(&resync.stage, Stage::Copying(copying) if copying.has_room()))
        };
        let waits = |peer: &super::links::Peer| !self.is_paused_towards(peer.node) && is_copying(peer);
        let waits = self.disk_fault.is_none() && self.peers.iter().any(waits);
        waits.then(|| self.throttle.next_leave())
    }

    fn advance_resync_of(&mut self, node: NodeId, effects: &mut Effects) {
        if self.disk_fault.is_some() {
            self.give_up_shipping_from_disk(node);
            return;
        }
        let Some(resync) = self.peer(node).outbound().and_then(Outbound::resync) else { return };
        match &resync.stage {
            Stage::Marking { .. } => self.read_marks(node, effects),
            Stage::Marked { revision, start } if self.bitmap.is_durable(*revision) => {
                let (start, target_keeps) = (*start, resync.target_keeps);
                let peer = self.peer_mut(node);
                // What the target has beyond this point counts for nothing from here on. Not before: as long as the marks
                // are not durable, its base is what tells that one disk went back.
                peer.flushed = peer.flushed.min(target_keeps);
                peer.acknowledged = peer.acknowledged.min(target_keeps);
                (peer.has_dirty_bits, peer.marked) = (true, peer.marked.max(start));
                self.remember_peers();
                let revision = self.superblock.newest();
                self.set_stage(node, Stage::Recording { revision, start });
            }
            Stage::Recording { revision, start } if self.superblock.is_durable(*revision) => {
                let start = *start;
                self.offer(node, start, effects);
            }
            Stage::Copying(copying) => match copying.finished() {
                Some(consistent_at) => {
                    let counts = copying.counts();
                    self.send(node, &Message::ResyncEnd { consistent_at }, effects);
                    self.set_stage(node, Stage::Ended { consistent_at, counts });
                }
                None => self.copy_blocks(node, effects),
            },
            Stage::Gathering
            | Stage::Marked { .. }
            | Stage::Recording { .. }
            | Stage::Offered { .. }
            | Stage::Ended { .. } => {}
        }
    }

    fn read_marks(&mut self, node: NodeId, effects: &mut Effects) {
        let Some(link) = self.peer(node).link.as_ref().map(|link| link.id) else { return };
        let Some(Stage::Marking { reader, start }) = self.resync_of(node).map(|resync| &mut resync.stage)
        else {
            return;
        };
        let start = *start;
        match reader.next() {
            MarkRead::Order(offset, length) => {
                let io = self.read_journal(IoPurpose::ResyncMarks(node, link), offset, length, effects);
                if let Some(Stage::Marking { reader, .. }) = self.resync_of(node).map(|it| &mut it.stage) {
                    reader.awaits(io);
                }
            }
            MarkRead::Wait => {}
            MarkRead::Done => {
                let revision = self.bitmap.newest();
                self.set_stage(node, Stage::Marked { revision, start });
            }
        }
    }

    pub(super) fn on_marks_read(
        &mut self,
        node: NodeId,
        link: LinkId,
        io: IoId,
        bytes: Bytes,
        effects: &mut Effects,
    ) {
        if self.peer(node).link.as_ref().is_none_or(|current| current.id != link) {
            return;
        }
        let slot = self.bitmap_slot(node);
        let Some(Stage::Marking { reader, .. }) = self.resync_of(node).map(|resync| &mut resync.stage) else {
            return;
        };
        match reader.on_bytes(io, bytes) {
            Ok(records) => {
                for (_, range) in records {
                    self.bitmap.set(slot, range);
                }
            }
            Err(error) if error.lsn < self.journal.ring().oldest_kept() => {
                self.drop_link(node, "the journal has moved on; the verdict is reached anew", effects);
            }
            Err(error) => self.fail_disk(format!("the journal cannot be read back: {error}"), effects),
        }
    }

    /// Every block that may differ is durably marked: the target may forget what it has.
    fn offer(&mut self, node: NodeId, start: Lsn, effects: &mut Effects) {
        if !self.lineage_is_durable() {
            return;
        }
        let lineage = self.superblock.content().lineage.up_to(start.next());
        let announced = lineage.newest_id();
        let slot = self.bitmap_slot(node);
        let left = (self.bitmap.count(slot) * BLOCK_BYTES) >> 20;
        let text = format!("resync of {}: {left} MiB may differ", self.name_of(node));
        effects.push(Effect::Notify(Notice::info("resync-begins", text)));
        self.send(node, &Message::ResyncFrom { start, lineage }, effects);
        if let Some(outbound) = self.peer_mut(node).outbound_mut() {
            outbound.announce(announced);
        }
        self.set_stage(node, Stage::Offered { start });
    }

    /// The target's journal begins anew where it was told.
    pub(super) fn begin_copying(&mut self, node: NodeId, end: Lsn) {
        let slot = self.bitmap_slot(node);
        let volume_blocks = self.config.volume_bytes / BLOCK_BYTES;
        if let Some(ResyncSource { stage: Stage::Offered { start }, expectation, .. }) = self.resync_of(node)
            && *start == end
        {
            let expectation = *expectation;
            let todo = self.bitmap.blocks(slot);
            // Every block is marked where nothing is known of any.
            let expectation = match expectation {
                Expectation::Different if todo.count() == volume_blocks => Expectation::Equal,
                other @ (Expectation::Different | Expectation::Equal | Expectation::Zero) => other,
            };
            let copying = Copying::new(todo, end, expectation);
            self.set_stage(node, Stage::Copying(Box::new(copying)));
        }
    }

    /// Reads what is next to be copied. Only what is in the data area is read: it is stable (I3), and the newest there
    /// is of its block unless a record, which goes to the target itself, is newer.
    fn copy_blocks(&mut self, node: NodeId, effects: &mut Effects) {
        let Some(link) = self.peer(node).link.as_ref().map(|link| link.id) else { return };
        let (now, written_back) = (self.now, self.write_back.written_back());
        let bytes_max = self.throttle.in_flight_bytes_max(now);
        if let Some(copying) = self.copying_to(node) {
            copying.limit_in_flight(bytes_max);
            if copying.may_find_more(written_back) {
                copying.begin_pass();
            }
        }
        while !self.is_paused_towards(node) && self.throttle.may_read(self.now) {
            self.search_holes(node, link, effects);
            let Some(copying) = self.copying_to(node) else { return };
            let Some(run) = copying.next_run() else { return };
            let start = copying.start();
            for piece in self.write_back.pieces(run) {
                match piece {
                    Piece::Held(range, content) if content.lsn > start => {
                        if let Some(copying) = self.copying_to(node) {
                            copying.leave_to_records(range, content.lsn);
                        }
                    }
                    Piece::Held(..) => {} // It will be in the data area soon.
                    Piece::Gap(range) => {
                        let io = self.numbers.next();
                        self.purposes.insert(io, IoPurpose::CopyRead(node, link));
                        effects.push(Effect::ReadData { io, range });
                        self.throttle.on_read(range.bytes());
                        self.copied_last = Some(node);
                        if let Some(copying) = self.copying_to(node) {
                            copying.on_read_ordered(io, range);
                        }
                    }
                }
            }
        }
    }

    fn copying_to(&mut self, node: NodeId) -> Option<&mut Copying> {
        self.resync_of(node)?.copying()
    }

    /// Finds out which of the next blocks are holes. The data area knows nothing of what is only in memory yet.
    fn search_holes(&mut self, node: NodeId, link: LinkId, effects: &mut Effects) {
        let Some(range) = self.copying_to(node).and_then(Copying::next_search) else { return };
        let gaps = self.write_back.pieces(range).into_iter().filter_map(|piece| match piece {
            Piece::Gap(gap) => Some(gap),
            Piece::Held(..) => None,
        });
        let gaps = gaps.collect();
        let io = self.numbers.next();
        self.purposes.insert(io, IoPurpose::HoleSearch(node, link));
        effects.push(Effect::FindAllocated { io, range });
        if let Some(copying) = self.copying_to(node) {
            copying.on_search_ordered(io, range, gaps);
        }
    }

    pub(super) fn on_holes_found(
        &mut self,
        node: NodeId,
        link: LinkId,
        io: IoId,
        extents: &[AllocatedExtent],
        effects: &mut Effects,
    ) {
        if self.peer(node).link.as_ref().is_none_or(|current| current.id != link) {
            return;
        }
        let newest = self.assigned();
        let Some(copying) = self.copying_to(node) else { return };
        let outcome = copying.on_found(io, extents, newest);
        self.follow_up(node, outcome, effects);
    }

    pub(super) fn on_copy_read(
        &mut self,
        node: NodeId,
        link: LinkId,
        io: IoId,
        bytes: &Bytes,
        effects: &mut Effects,
    ) {
        if self.peer(node).link.as_ref().is_none_or(|current| current.id != link) {
            return;
        }
        let newest = self.assigned();
        let Some(copying) = self.copying_to(node) else { return };
        let outcome = copying.on_read(io, bytes, newest);
        self.follow_up(node, outcome, effects);
    }

    fn follow_up(&mut self, node: NodeId, outcome: Outcome, effects: &mut Effects) {
        self.clear_marks(node, &outcome.equal);
        match outcome.outgoing {
            Some(Outgoing::Copies(copies)) => self.send_copies(node, &copies, effects),
            Some(Outgoing::Question(question)) => self.send(node, &Message::Compare(question), effects),
            None => {}
        }
    }

    fn send_copies(&mut self, node: NodeId, copies: &[Record], effects: &mut Effects) {
        for part in copies.chunks(BATCH_RECORDS_MAX) {
            self.send(node, &Message::Copies(part.to_vec()), effects);
        }
    }

    fn clear_marks(&mut self, node: NodeId, equal: &[BlockRange]) {
        let slot = self.bitmap_slot(node);
        for range in equal {
            self.bitmap.clear(slot, *range);
        }
    }

    /// The target has compared blocks: it is sent those that differ.
    pub(super) fn on_compared(&mut self, node: NodeId, compared: &Compared, effects: &mut Effects) {
        let newest = self.assigned();
        let Some(copying) = self.copying_to(node) else { return };
        match copying.on_compared(compared.number, &compared.differing, newest) {
            Ok(copies) => self.send_copies(node, &copies, effects),
            Err(refusal) => self.drop_link(node, &refusal.to_string(), effects),
        }
    }

    pub(super) fn on_copies_flushed(&mut self, node: NodeId, up_to: u64, effects: &mut Effects) {
        let Some(copying) = self.copying_to(node) else { return };
        match copying.on_flushed(up_to) {
            Ok(equal) => self.clear_marks(node, &equal),
            Err(refusal) => self.drop_link(node, &refusal.to_string(), effects),
        }
    }

    /// The target of a resync introduces itself anew. If it is one disk again, durably, it holds every block and every
    /// record up to its end: nothing of it is dirty any more.
    pub(super) fn note_resync_over(&mut self, node: NodeId, state: &PeerState, effects: &mut Effects) {
        let Some(ResyncSource { stage: Stage::Ended { consistent_at, .. }, .. }) = self.resync_of(node)
        else {
            return;
        };
        let is_over = state.resync_from.is_none()
            && state.disk > DiskState::Inconsistent
            && state.end >= *consistent_at
            && self.superblock.content().lineage.find(state.lineage.newest_id()).is_some();
        if !is_over {
            return;
        }
        self.drop_marks(node);
        let own_end = self.journal.flushed();
        let peer = self.peer_mut(node);
        peer.flushed = state.flushed.min(own_end);
        self.remember_peers();
        let text = format!("resync of {} is over", self.name_of(node));
        effects.push(Effect::Notify(Notice::info("resync-ended", text)));
    }
}
