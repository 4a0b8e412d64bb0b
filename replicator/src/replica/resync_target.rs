//! This node as the target of a resync: says what it has marked itself, forgets its journal, takes blocks and records,
//! and is one disk again when both have arrived.
//!
//! From the beginning to the end, whatever happens in between, it reports the point where the resync began.

use bytes::Bytes;

use crate::bitmap::BitmapRevision;
use crate::block_set::BlockSet;
use crate::effect::{Effect, Effects, ZeroMethod};
use crate::event::IoId;
use crate::generation::compare::{Course, SyncMethod};
use crate::generation::lineage::Lineage;
use crate::layout::superblock::{DurableDisk, ResyncPosition};
use crate::notice::Notice;
use crate::peer::codec::RUNS_MAX;
use crate::peer::message::Message;
use crate::record::{Record, RecordKind};
use crate::resync::digest::Comparison;
use crate::resync::target::Receiving;
use crate::state::DiskState;
use crate::superblock_keeper::Revision;
use crate::units::{BLOCK_BYTES, BlockRange, GenerationId, Lsn, NodeId, index_range};
use crate::write_back::WriteBack;

use super::mark_reader::{MarkRead, MarkReader};
use super::receiving::{Inbound, Stage as InboundStage};
use super::{IoPurpose, Replica};

/// Most runs that are sent; where there are more, near ones are sent as one.
const RUNS_SENT_MAX: usize = 1 << 16;

/// A resync in which this node is the target.
#[derive(Debug)]
pub(super) struct ResyncTarget {
    course: Course,
    stage: Stage,
}

/// How far it has come.
#[derive(Debug)]
enum Stage {
    /// What is under way to the disks comes to an end.
    Settling,
    /// The blocks of records that are about to be forgotten are being marked.
    Marking { reader: MarkReader, keeps: Lsn },
    /// The marks are on their way to disk.
    Marked { revision: BitmapRevision, keeps: Lsn },
    /// The superblock that calls the disk Inconsistent is.
    Recording(Revision),
    /// The source knows what is marked here, and says where the journal begins anew.
    Waiting,
    /// Blocks and records arrive.
    Receiving { receiving: Box<Receiving>, is_flushing: bool },
    /// Everything is here; the superblock that says so is on its way to disk.
    Finishing(Revision),
}

impl ResyncTarget {
    fn receiving(&mut self) -> Option<&mut Receiving> {
        match &mut self.stage {
            Stage::Receiving { receiving, .. } => Some(receiving),
            Stage::Settling
            | Stage::Marking { .. }
            | Stage::Marked { .. }
            | Stage::Recording(_)
            | Stage::Waiting
            | Stage::Finishing(_) => None,
        }
    }

    /// Bytes of blocks that were brought, or turned out to be here.
    pub(super) fn brought_bytes(&self) -> u64 {
        match &self.stage {
            Stage::Receiving { receiving, .. } => receiving.brought_bytes(),
            Stage::Settling
            | Stage::Marking { .. }
            | Stage::Marked { .. }
            | Stage::Recording(_)
            | Stage::Waiting
            | Stage::Finishing(_) => 0,
        }
    }

    /// A record arrived: copies of its blocks count no more.
    pub(super) fn on_record(&mut self, record: &Record) {
        if let Some(receiving) = self.receiving() {
            receiving.on_record(record);
        }
    }

    /// Whether the journal is about to be forgotten: nothing of it may be on its way to disk then.
    pub(super) fn forgets_journal(&self) -> bool {
        match &self.stage {
            Stage::Settling
            | Stage::Marking { .. }
            | Stage::Marked { .. }
            | Stage::Recording(_)
            | Stage::Waiting => true,
            Stage::Receiving { .. } | Stage::Finishing(_) => false,
        }
    }

    /// Whether records may go to the data area, and up to which one.
    pub(super) fn write_back_limit(&self) -> Lsn {
        match &self.stage {
            Stage::Receiving { receiving, .. } => {
                receiving.oldest_held().map_or(Lsn(u64::MAX), Lsn::previous)
            }
            Stage::Finishing(_) => Lsn(u64::MAX),
            Stage::Settling
            | Stage::Marking { .. }
            | Stage::Marked { .. }
            | Stage::Recording(_)
            | Stage::Waiting => Lsn::ZERO,
        }
    }
}

impl Replica {
    fn resync_target(&mut self) -> Option<&mut ResyncTarget> {
        self.inbound.as_mut()?.resync.as_deref_mut()
    }

    fn set_target_stage(&mut self, stage: Stage) {
        if let Some(resync) = self.resync_target() {
            resync.stage = stage;
        }
    }

    /// Becomes the target of a resync from `node`.
    pub(super) fn start_resync_target(&mut self, node: NodeId, course: Course, effects: &mut Effects) {
        let text = format!("resync from {} by {:?} begins", self.name_of(node), course.method);
        effects.push(Effect::Notify(Notice::warning("resync-begins", text)));
        let resync = Box::new(ResyncTarget { course, stage: Stage::Settling });
        self.inbound = Some(Inbound::of_resync(node, resync));
        if self.disk > DiskState::Inconsistent {
            // As long as nothing was copied it is an older state, and a consistent one.
            self.set_disk(DiskState::Outdated, effects);
        }
    }

    pub(super) fn advance_resync_target(&mut self, effects: &mut Effects) {
        if self.disk_fault.is_some() {
            return;
        }
        let Some(resync) = self.inbound.as_ref().and_then(|inbound| inbound.resync.as_ref()) else { return };
        let course = resync.course;
        match &resync.stage {
            Stage::Settling => self.settle_for_resync(course, effects),
            Stage::Marking { .. } => self.mark_own_records(effects),
            Stage::Marked { revision, keeps } if self.bitmap.is_durable(*revision) => {
                let keeps = *keeps;
                self.record_resync(course, keeps, effects);
            }
            Stage::Recording(revision) if self.superblock.is_durable(*revision) => {
                self.tell_marks(course, effects);
            }
            Stage::Receiving { .. } => self.take_in_copies(effects),
            Stage::Finishing(revision) if self.superblock.is_durable(*revision) => {
                if let Some(from) = self.inbound.as_ref().map(|inbound| inbound.from) {
                    effects
                        .push(Effect::Notify(Notice::info("resync-ended", "the resync is over".to_owned())));
                    self.reintroduce_to(from);
                }
            }
            Stage::Marked { .. } | Stage::Recording(_) | Stage::Waiting | Stage::Finishing(_) => {}
        }
    }

    /// Nothing may be under way to the disks when what it belongs to is forgotten.
    fn settle_for_resync(&mut self, course: Course, effects: &mut Effects) {
        self.journal.want_flush(self.journal.accepted());
        // Copies of an earlier attempt too: they are old by now, and their numbers mean nothing in this one.
        let is_of_copies =
            |purpose: &IoPurpose| matches!(purpose, IoPurpose::CopyWrite | IoPurpose::CopyFlush(_));
        let is_writing = self.write_back.is_writing() || self.purposes.values().any(is_of_copies);
        if is_writing || self.data_flush_in_flight || self.tail_move.is_some() {
            return;
        }
        if self.data_flushed < self.write_back.written_back() {
            self.flush_data(effects);
            return;
        }
        if !self.journal.is_clean() {
            return;
        }
        // What is here only in the journal is forgotten with it: it is marked like what is to be taken back.
        let keeps = course.target_keeps;
        let first = keeps.min(self.data_flushed).next();
        let reader = MarkReader::new(self.journal.ring(), first, self.journal.accepted());
        self.set_target_stage(Stage::Marking { reader, keeps });
    }

    fn mark_own_records(&mut self, effects: &mut Effects) {
        let Some(Stage::Marking { reader, keeps }) = self.resync_target().map(|resync| &mut resync.stage)
        else {
            return;
        };
        let keeps = *keeps;
        match reader.next() {
            MarkRead::Order(offset, length) => {
                let io = self.read_journal(IoPurpose::OwnMarks, offset, length, effects);
                if let Some(Stage::Marking { reader, .. }) = self.resync_target().map(|it| &mut it.stage) {
                    reader.awaits(io);
                }
            }
            MarkRead::Wait => {}
            MarkRead::Done => {
                let revision = self.bitmap.newest();
                self.set_target_stage(Stage::Marked { revision, keeps });
            }
        }
    }

    pub(super) fn on_own_marks_read(&mut self, io: IoId, bytes: Bytes, effects: &mut Effects) {
        // Whoever will be the source in the end, a third node perhaps, has to know.
        let replicas: Vec<NodeId> =
            self.peers.iter().filter(|peer| peer.is_replica()).map(|peer| peer.node).collect();
        let slots: Vec<u8> = replicas.into_iter().map(|node| self.bitmap_slot(node)).collect();
        let Some(Stage::Marking { reader, .. }) = self.resync_target().map(|resync| &mut resync.stage) else {
            return;
        };
        match reader.on_bytes(io, bytes) {
            Ok(records) => {
                for (_, range) in records {
                    for slot in &slots {
                        self.bitmap.set(*slot, range);
                    }
                }
            }
            Err(error) => self.fail_disk(format!("the journal cannot be read back: {error}"), effects),
        }
    }

    fn record_resync(&mut self, course: Course, keeps: Lsn, effects: &mut Effects) {
        let Some(source) = self.inbound.as_ref().map(|inbound| inbound.from) else { return };
        // So that the marks are read again after a restart.
        for node in
            self.peers.iter().filter(|peer| peer.is_replica()).map(|peer| peer.node).collect::<Vec<_>>()
        {
            let slot = self.bitmap_slot(node);
            let has_marks = self.bitmap.count(slot) > 0;
            self.peer_mut(node).has_dirty_bits |= has_marks;
        }
        let earlier = self.superblock.content().resync;
        let (generation, lsn) = match course.method {
            // Nothing that is here counts: whoever resyncs this node next copies every block, too.
            SyncMethod::FullResync | SyncMethod::FullResyncWentBack => (GenerationId::default(), Lsn::ZERO),
            // A resync that goes on began where it began.
            SyncMethod::BitmapResync | SyncMethod::CatchUp => {
                (course.common, earlier.map_or(keeps, |earlier| earlier.lsn.min(keeps)))
            }
        };
        // What another source has copied, and is about to be taken back, that one has cleared.
        let other = earlier.and_then(|earlier| earlier.source).filter(|other| *other != source);
        if let Some(other) = other.and_then(|other| self.peers.iter_mut().find(|peer| peer.node == other)) {
            other.has_cleared = true;
        }
        let is_same = |earlier: &ResyncPosition| (earlier.generation, earlier.lsn) == (generation, lsn);
        let goes_on = earlier.filter(|earlier| earlier.source == Some(source) && is_same(earlier));
        self.forget_peers_beyond(lsn);
        self.remember_peers();
        let revision = self.superblock.change(|content| {
            content.disk = DurableDisk::Inconsistent;
            // The source has marked nothing for this one yet, and may never come to it.
            content.resync = goes_on.or(Some(ResyncPosition { generation, lsn, source: None }));
            content.consistent_at = Lsn::ZERO;
        });
        self.set_target_stage(Stage::Recording(revision));
        // From here on nothing may be built on what this disk holds, whatever becomes of the link.
        self.set_disk(DiskState::Inconsistent, effects);
        self.note_discard_under_way(source, revision);
    }

    fn tell_marks(&mut self, course: Course, effects: &mut Effects) {
        let Some(from) = self.inbound.as_ref().map(|inbound| inbound.from) else { return };
        let slot = self.bitmap_slot(from);
        let runs = match course.method {
            SyncMethod::FullResync | SyncMethod::FullResyncWentBack => Vec::new(),
            SyncMethod::BitmapResync | SyncMethod::CatchUp => runs_of(&self.bitmap.blocks(slot)),
        };
        let mut parts = runs.chunks(RUNS_MAX).map(<[BlockRange]>::to_vec).collect::<Vec<_>>();
        let last = parts.pop().unwrap_or_default();
        for runs in parts {
            self.send(from, &Message::DirtyRuns { runs, is_last: false }, effects);
        }
        self.send(from, &Message::DirtyRuns { runs: last, is_last: true }, effects);
        self.set_target_stage(Stage::Waiting);
    }

    /// Every block that may differ is marked at the source: the journal is forgotten and begins anew.
    pub(super) fn on_resync_from(
        &mut self,
        node: NodeId,
        start: Lsn,
        lineage: Lineage,
        effects: &mut Effects,
    ) {
        let is_from_source = self.inbound.as_ref().is_some_and(|inbound| inbound.from == node);
        let is_waiting = matches!(self.resync_target(), Some(ResyncTarget { stage: Stage::Waiting, .. }));
        if !is_from_source || !is_waiting {
            return; // Of an earlier introduction.
        }
        if lineage.newest().is_none_or(|newest| newest.first_lsn > start.next()) {
            let reason = format!("write {} would be of no generation of its lineage", start.next());
            self.drop_link(node, &reason, effects);
            return;
        }
        let generation = lineage.newest_id();
        let session = self.journal.ring().session() + 1;
        self.write_back = WriteBack::new(start);
        self.journal.restart(start, generation, session);
        (self.data_flushed, self.stable, self.complete) = (start, start, start);
        self.doubt_others(node, start);
        // What the source has, it has flushed up to here.
        self.peer_mut(node).flushed = start;
        self.remember_peers();
        let ring = self.journal.ring();
        let anchor = ring.anchor(ring.tail(), start);
        let revision = self.superblock.change(|content| {
            content.journal = anchor;
            content.lineage = lineage;
            // Every block that this node lacks is marked there by now.
            content.resync = content.resync.map(|resync| ResyncPosition { source: Some(node), ..resync });
        });
        let receiving = Box::<Receiving>::default();
        self.set_target_stage(Stage::Receiving { receiving, is_flushing: false });
        let marks = self.bitmap.newest();
        if let Some(inbound) = &mut self.inbound {
            inbound.received = start;
            inbound.stage = InboundStage::Preparing { superblock: revision, marks };
        }
    }

    /// What third nodes lack of the history that this node has just skipped is neither in its journal nor in its
    /// bitmaps: all of theirs may differ, until the Primary says that they have flushed it.
    fn doubt_others(&mut self, source: NodeId, start: Lsn) {
        let volume = BlockRange::new(0, self.config.volume_bytes / BLOCK_BYTES);
        let others = self.peers.iter().filter(|peer| peer.is_replica() && peer.node != source);
        for node in others.map(|peer| peer.node).collect::<Vec<_>>() {
            let slot = self.bitmap_slot(node);
            self.bitmap.set(slot, volume);
            let peer = self.peer_mut(node);
            // Where no write was skipped the first one will tell: marks up to nowhere would prove nothing, and stay.
            (peer.has_dirty_bits, peer.marked) = (true, start.max(Lsn::ZERO.next()));
        }
    }

    pub(super) fn on_copies(&mut self, node: NodeId, copies: Vec<Record>, effects: &mut Effects) {
        if self.inbound.as_ref().is_none_or(|inbound| inbound.from != node) {
            return;
        }
        let volume_end = self.config.volume_bytes / BLOCK_BYTES;
        for copy in copies {
            let Some(receiving) = self.resync_target().and_then(ResyncTarget::receiving) else { return };
            let wanted = match receiving.on_copy(&copy) {
                _ if copy.range.end() > volume_end => {
                    Err("a copy lies beyond the end of the volume".to_owned())
                }
                Err(refusal) => Err(refusal.to_string()),
                Ok(wanted) => Ok(wanted),
            };
            match wanted {
                Ok(wanted) => {
                    for range in wanted {
                        self.write_copy(&copy, range, effects);
                    }
                }
                Err(reason) => {
                    self.drop_link(node, &reason, effects);
                    return;
                }
            }
        }
    }

    /// The source asks which of some blocks it should copy.
    pub(super) fn on_compare(&mut self, node: NodeId, question: Comparison, effects: &mut Effects) {
        if self.inbound.as_ref().is_none_or(|inbound| inbound.from != node) {
            return;
        }
        let is_within = question.range.end() <= self.config.volume_bytes / BLOCK_BYTES;
        let Some(receiving) = self.resync_target().and_then(ResyncTarget::receiving) else { return };
        let wanted = match receiving.on_comparison(question) {
            _ if !is_within => Err("a comparison lies beyond the end of the volume".to_owned()),
            Err(refusal) => Err(refusal.to_string()),
            Ok(wanted) => Ok(wanted),
        };
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(reason) => return self.drop_link(node, &reason, effects),
        };
        for range in wanted {
            let io = self.numbers.next();
            self.purposes.insert(io, IoPurpose::CompareRead);
            effects.push(Effect::ReadData { io, range });
            if let Some(receiving) = self.resync_target().and_then(ResyncTarget::receiving) {
                receiving.on_read_ordered(io, range);
            }
        }
        self.answer_comparisons(effects);
    }

    pub(super) fn on_compare_read(&mut self, io: IoId, bytes: &[u8], effects: &mut Effects) {
        if let Some(receiving) = self.resync_target().and_then(ResyncTarget::receiving) {
            receiving.on_read(io, bytes);
        }
        self.answer_comparisons(effects);
    }

    fn answer_comparisons(&mut self, effects: &mut Effects) {
        let Some(from) = self.inbound.as_ref().map(|inbound| inbound.from) else { return };
        while let Some(receiving) = self.resync_target().and_then(ResyncTarget::receiving)
            && let Some(compared) = receiving.answer()
        {
            self.send(from, &Message::Compared(compared), effects);
        }
    }

    fn write_copy(&mut self, copy: &Record, range: BlockRange, effects: &mut Effects) {
        let io = self.numbers.next();
        self.purposes.insert(io, IoPurpose::CopyWrite);
        if let Some(receiving) = self.resync_target().and_then(ResyncTarget::receiving) {
            receiving.on_write_ordered(io, range);
        }
        effects.push(match copy.kind {
            RecordKind::Write => {
                let skip = (range.first - copy.range.first) * BLOCK_BYTES;
                let bytes = copy.payload.slice(index_range(skip..skip + range.bytes()));
                Effect::WriteData { io, range, pieces: vec![bytes] }
            }
            RecordKind::Zeroes | RecordKind::Trim => {
                Effect::ZeroData { io, range, method: ZeroMethod::ReleaseSpace }
            }
        });
    }

    pub(super) fn on_copy_written(&mut self, io: IoId) {
        if let Some(receiving) = self.resync_target().and_then(ResyncTarget::receiving) {
            receiving.on_written(io);
        }
    }

    pub(super) fn on_copies_in_data_area(&mut self, up_to: u64, effects: &mut Effects) {
        let Some(inbound) = &mut self.inbound else { return };
        let from = inbound.from;
        let Some(Stage::Receiving { receiving, is_flushing }) =
            inbound.resync.as_deref_mut().map(|resync| &mut resync.stage)
        else {
            return;
        };
        *is_flushing = false;
        receiving.on_flushed(up_to);
        self.send(from, &Message::CopiesFlushed { up_to }, effects);
    }

    pub(super) fn on_resync_end(&mut self, node: NodeId, consistent_at: Lsn) {
        if self.inbound.as_ref().is_some_and(|inbound| inbound.from == node)
            && let Some(receiving) = self.resync_target().and_then(ResyncTarget::receiving)
        {
            receiving.on_end(consistent_at);
        }
    }

    /// Flushes what has arrived; when that is all, the disk is one disk again.
    fn take_in_copies(&mut self, effects: &mut Effects) {
        let Some(Stage::Receiving { receiving, is_flushing }) = self
            .inbound
            .as_mut()
            .and_then(|inbound| inbound.resync.as_deref_mut())
            .map(|resync| &mut resync.stage)
        else {
            return;
        };
        if let Some(up_to) = receiving.flush_wanted()
            && !*is_flushing
        {
            *is_flushing = true;
            let io = self.numbers.next();
            self.purposes.insert(io, IoPurpose::CopyFlush(up_to));
            effects.push(Effect::FlushData { io });
        }
        let Some(consistent_at) = receiving.finished() else { return };
        self.journal.want_flush(consistent_at);
        if self.journal.flushed() < consistent_at {
            return;
        }
        let Some(from) = self.inbound.as_ref().map(|inbound| inbound.from) else { return };
        self.drop_marks(from);
        self.remember_peers();
        let revision = self.superblock.change(|content| {
            content.disk = DurableDisk::Outdated;
            content.resync = None;
            content.consistent_at = consistent_at;
        });
        self.set_disk(DiskState::Outdated, effects);
        self.set_target_stage(Stage::Finishing(revision));
    }
}

/// The runs of a set; where there are too many, near ones become one: more than is dirty may be copied, never less.
fn runs_of(blocks: &BlockSet) -> Vec<BlockRange> {
    let mut gap = 0;
    loop {
        let mut runs: Vec<BlockRange> = Vec::new();
        let mut from = 0;
        while let Some(run) = blocks.next_run(from, u64::MAX) {
            from = run.end();
            match runs.last_mut() {
                Some(last) if run.first - last.end() <= gap => {
                    *last = BlockRange::new(last.first, run.end() - last.first);
                }
                _ => runs.push(run),
            }
            if runs.len() > RUNS_SENT_MAX {
                break;
            }
        }
        if runs.len() <= RUNS_SENT_MAX {
            return runs;
        }
        gap = 2 * gap + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_runs_are_joined_and_none_is_lost() {
        let mut blocks = BlockSet::default();
        for at in 0..100_000 {
            blocks.add(BlockRange::new(at * 5, 1));
        }
        let runs = runs_of(&blocks);
        assert!(runs.len() <= RUNS_SENT_MAX && !runs.is_empty());
        let mut left = blocks.clone();
        runs.iter().for_each(|run| left.remove(*run));
        assert!(left.is_empty());
    }
}
