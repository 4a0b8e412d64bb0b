//! The target's half of a link: takes records in order, journals them, reports how far it has come.
//! A generation is durable before its first record is journaled (I5), so records behind one wait here.

use std::collections::VecDeque;

use crate::bitmap::BitmapRevision;
use crate::config::{PEER_WINDOW_BYTES, ReplicationProtocol, WRITE_BACK_BYTES_MAX};
use crate::effect::{Effect, Effects};
use crate::generation::compare::{Course, SyncMethod};
use crate::generation::lineage::{GENERATIONS_MAX, Generation, Lineage};
use crate::layout::superblock::DurableDisk;
use crate::notice::Notice;
use crate::peer::message::{Message, Progress, RecordBatch};
use crate::promotion::membership::MembershipRecord;
use crate::record::Record;
use crate::state::{DiskState, Role};
use crate::superblock_keeper::Revision;
use crate::units::{BLOCK_BYTES, BlockRange, GenerationId, Lsn, NodeId, Term, bytes_u64};

use super::Replica;
use super::lending::Lending;
use super::links::Replication;
use super::resync_target::ResyncTarget;

/// Growth of the window that is worth a report of its own, bytes.
const WINDOW_NEWS_BYTES: u64 = 1 << 20;

/// Records on their way to this node.
#[derive(Debug)]
pub(super) struct Inbound {
    /// The source.
    pub(super) from: NodeId,
    pub(super) stage: Stage,
    /// Arrived, not taken in yet: something before them must be durable first.
    queue: VecDeque<Arrived>,
    queue_bytes: u64,
    /// Newest record that arrived.
    pub(super) received: Lsn,
    /// What all records that arrived cost, and up to where that may grow by what was granted.
    received_bytes: u64,
    granted_bytes: u64,
    /// What was reported last.
    reported: Option<Progress>,
    /// Records taken in since the start.
    pub(super) records: u64,
    /// Blocks that are copied besides.
    pub(super) resync: Option<Box<ResyncTarget>>,
    /// What the source reads from this node, if it has no disk.
    pub(super) lending: Lending,
}

/// What the target waits for.
#[derive(Debug)]
pub(super) enum Stage {
    /// The end of what is agreed with the source before its resync.
    AwaitingResync,
    /// What it holds beyond the fork is being cut off, or its state recorded; then it asks for records.
    Preparing { superblock: Revision, marks: BitmapRevision },
    /// Records.
    Streaming,
    /// The generation at the front of the queue is being recorded.
    RecordingGeneration(Revision),
}

#[derive(Debug)]
enum Arrived {
    Records(RecordBatch),
    Generation(Generation, Lineage),
}

impl Inbound {
    fn new(from: NodeId, stage: Stage, received: Lsn) -> Self {
        Self {
            from,
            stage,
            queue: VecDeque::new(),
            queue_bytes: 0,
            received,
            received_bytes: 0,
            granted_bytes: 0,
            reported: None,
            records: 0,
            resync: None,
            lending: Lending::default(),
        }
    }

    /// Records follow when the resync has begun.
    pub(super) fn of_resync(from: NodeId, resync: Box<ResyncTarget>) -> Self {
        Self { resync: Some(resync), ..Self::new(from, Stage::AwaitingResync, Lsn::ZERO) }
    }

    /// Records that arrived and are not in the journal yet.
    pub(super) fn unacknowledged(&self, journaled: Lsn) -> u64 {
        self.received.since(journaled)
    }

    /// Bytes that have arrived: of blocks in a resync, of records in a catch-up.
    pub(super) fn brought_bytes(&self) -> u64 {
        self.resync.as_ref().map_or(self.received_bytes, |resync| resync.brought_bytes())
    }

    /// The newest generation that was announced and is not recorded yet.
    fn announced(&self) -> Option<GenerationId> {
        self.queue.iter().rev().find_map(|arrived| match arrived {
            Arrived::Generation(generation, _) => Some(generation.id),
            Arrived::Records(_) => None,
        })
    }
}

impl Replica {
    /// Becomes the target of `node`: first cut, durably, then ask for records.
    pub(super) fn start_target(&mut self, node: NodeId, course: Course, effects: &mut Effects) {
        if course.method != SyncMethod::CatchUp {
            self.start_resync_target(node, course, effects);
            if let Some(link) = &mut self.peer_mut(node).link {
                link.replication = Replication::Target;
            }
            return;
        }
        let end = self.assigned();
        let keeps = course.target_keeps;
        assert!(keeps <= end, "a target keeps what it has");
        let has_to_cut = keeps < end || self.superblock.content().lineage.newest_id() != course.common;
        let stage = if has_to_cut {
            // A tail on its way to disk would be taken back by the anchor that the cut writes.
            if !self.journal.is_clean() || self.tail_move.is_some() {
                self.drop_link(node, "the journal is busy; the verdict is reached anew", effects);
                return;
            }
            let text =
                format!("cut writes {}..={end}: they were never completed on the other side", keeps.next());
            effects.push(Effect::Notify(Notice::warning("journal-cut", text)));
            let superblock = self.cut_after(course.common, keeps);
            Stage::Preparing { superblock, marks: self.bitmap.newest() }
        } else {
            Stage::Preparing { superblock: self.superblock.change(|_| {}), marks: self.bitmap.newest() }
        };
        self.inbound = Some(Inbound::new(node, stage, keeps));
        if let Some(link) = &mut self.peer_mut(node).link {
            link.replication = Replication::Target;
        }
        self.judge_own_disk(effects);
    }

    /// A target's disk is UpToDate while it is in the in-sync set of the Primary that it follows, else
    /// Outdated: consistent, but newer data exists.
    pub(super) fn judge_own_disk(&mut self, effects: &mut Effects) {
        let Some(inbound) = &self.inbound else { return };
        // I6: what is being resynced is Inconsistent on disk before this node calls it so.
        if self.disk <= DiskState::Inconsistent || self.superblock.content().resync.is_some() {
            return;
        }
        let record = self.record_followed(inbound.from);
        // The end of a reign takes nothing from a member: whoever was in sync is.
        let is_followed = record.primary == Some(inbound.from)
            || (record.primary.is_none() && self.disk == DiskState::UpToDate);
        let is_member =
            is_followed && record.in_sync.incarnation_of(self.config.local) == Some(self.incarnation);
        let (disk, durable) = match is_member {
            true => (DiskState::UpToDate, DurableDisk::UpToDate),
            false => (DiskState::Outdated, DurableDisk::Outdated),
        };
        self.set_disk(disk, effects);
        if self.superblock.content().disk != durable {
            self.superblock.change(|content| content.disk = durable);
        }
    }

    /// The record that says whether a target is in sync. Where no majority keeps it the source may have made a newer one
    /// without this node, and have ended its reign before they met: then nobody else passes it on.
    fn record_followed(&self, source: NodeId) -> MembershipRecord {
        let shown = self.peer(source).introduced().map(|state| state.record);
        let is_news = |shown: &MembershipRecord| shown.order() > self.record().order();
        let counts = !self.config.on_peer_lost.asks_a_majority();
        shown.filter(|shown| counts && is_news(shown)).unwrap_or(*self.record())
    }

    /// The source is gone, or begins anew.
    pub(super) fn end_inbound_from(&mut self, node: NodeId, effects: &mut Effects) {
        if self.inbound.take_if(|inbound| inbound.from == node).is_some() && self.disk == DiskState::UpToDate
        {
            // Nobody confirms any more that this is the newest copy.
            self.set_disk(DiskState::Consistent, effects);
        }
    }

    /// Frames that carry data count only from the source of the current introduction, and never from a
    /// Primary of a lower term than this node's record (I2). A Secondary writes nothing of its own: it ships
    /// what the verdict said, whatever record it has stored.
    pub(super) fn is_from_source(&self, node: NodeId, term: Term) -> bool {
        let is_writer = self.peer(node).introduced().is_none_or(|state| state.role == Role::Primary);
        let is_source = self.inbound.as_ref().is_some_and(|inbound| inbound.from == node);
        is_source && (!is_writer || term >= self.record().term)
    }

    pub(super) fn on_records(&mut self, node: NodeId, term: Term, batch: RecordBatch, effects: &mut Effects) {
        if !self.is_from_source(node, term) {
            return;
        }
        let own_generation = self.superblock.content().lineage.newest_id();
        let Some(inbound) = &mut self.inbound else { return };
        let first = batch.records.first().map_or(Lsn::ZERO, |record| record.lsn);
        if first != inbound.received.next() {
            let reason = format!("record {first} came after {}", inbound.received);
            self.drop_link(node, &reason, effects);
            return;
        }
        let announced = inbound.announced().unwrap_or(own_generation);
        let volume = BlockRange::new(0, self.config.volume_bytes / BLOCK_BYTES);
        let wrong = match batch.records.iter().find(|record| record.range.end() > volume.end()) {
            Some(record) => Some(format!("record {} lies beyond the end of the volume", record.lsn)),
            None if inbound.received_bytes >= inbound.granted_bytes => {
                Some(format!("record {first} was sent without room in the window"))
            }
            None if batch.generation != announced => {
                Some(format!("record {first} is of generation {}, not of {announced}", batch.generation))
            }
            None => None,
        };
        if let Some(reason) = wrong {
            self.drop_link(node, &reason, effects);
            return;
        }
        if let Some(resync) = &mut inbound.resync {
            batch.records.iter().for_each(|record| resync.on_record(record));
        }
        let last = batch.records.last().expect("a batch has records");
        inbound.received = last.lsn;
        inbound.records += bytes_u64(batch.records.len());
        let cost = batch.records.iter().map(Record::cost).sum::<u64>();
        inbound.queue_bytes += cost;
        inbound.received_bytes += cost;
        let stable_up_to = batch.stable_up_to;
        inbound.queue.push_back(Arrived::Records(batch));
        self.note_stable(stable_up_to);
    }

    pub(super) fn on_new_generation(
        &mut self,
        node: NodeId,
        term: Term,
        generation: Generation,
        lineage: Lineage,
        effects: &mut Effects,
    ) {
        if !self.is_from_source(node, term) {
            return;
        }
        let own = self.superblock.content().lineage.newest_id();
        let Some(inbound) = &mut self.inbound else { return };
        let before = inbound.announced().unwrap_or(own);
        let is_known = before == GenerationId::default() || lineage.find(before).is_some();
        let is_queued = |arrived: &&Arrived| matches!(arrived, Arrived::Generation(..));
        let has_room = inbound.queue.iter().filter(is_queued).count() < GENERATIONS_MAX;
        if generation.first_lsn != inbound.received.next() || !is_known || !has_room {
            let reason = format!("generation {} does not follow what this node holds", generation.id);
            self.drop_link(node, &reason, effects);
            return;
        }
        inbound.queue.push_back(Arrived::Generation(generation, lineage));
    }

    /// The source waits for a flush. It asks behind its records, so that some of them may not have been taken in yet.
    pub(super) fn on_flush(&mut self, node: NodeId, up_to: Lsn) {
        if let Some(inbound) = self.inbound.as_ref().filter(|inbound| inbound.from == node) {
            self.journal.want_flush(up_to.min(inbound.received));
        }
    }

    /// Takes in what arrived, in order.
    pub(super) fn advance_inbound(&mut self, effects: &mut Effects) {
        while self.take_in_next(effects) {}
        // However this node learned of a new set.
        self.judge_own_disk(effects);
        self.note_caught_up();
    }

    /// A target that has all that a Secondary had to give asks for a new verdict: the two are equal now. From a
    /// Primary it hears of its entry into the in-sync set instead.
    fn note_caught_up(&mut self) {
        let Some(inbound) = &self.inbound else { return };
        let is_streaming =
            matches!(inbound.stage, Stage::Streaming) && inbound.queue.is_empty() && inbound.resync.is_none();
        let from = inbound.from;
        let Some(link) = &self.peer(from).link else { return };
        let Some(source) = &link.introduction.received else { return };
        let has_all = source.role == Role::Secondary && self.journal.flushed() >= source.end;
        let knows_all = self.superblock.content().lineage.newest_id() == source.lineage.newest_id();
        if is_streaming && has_all && knows_all && self.journal.is_clean() {
            self.reintroduce_to(from);
        }
    }

    fn take_in_next(&mut self, effects: &mut Effects) -> bool {
        let Some(inbound) = &mut self.inbound else { return false };
        match inbound.stage {
            Stage::AwaitingResync => false,
            Stage::RecordingGeneration(revision) if !self.superblock.is_durable(revision) => false,
            // Marks too: what they say of third nodes must not be lost once anything is built on this.
            Stage::Preparing { superblock, marks }
                if !self.superblock.is_durable(superblock) || !self.bitmap.is_durable(marks) =>
            {
                false
            }
            Stage::Preparing { .. } => {
                inbound.stage = Stage::Streaming;
                let (from, end) = (inbound.from, inbound.received);
                self.send(from, &Message::CatchUpFrom { end }, effects);
                true
            }
            Stage::RecordingGeneration(_) => {
                inbound.stage = Stage::Streaming;
                true
            }
            Stage::Streaming => match inbound.queue.front() {
                None => false,
                Some(Arrived::Records(_)) => {
                    self.take_in_records();
                    true
                }
                Some(Arrived::Generation(..)) => self.record_generation(),
            },
        }
    }

    fn take_in_records(&mut self) {
        let now = self.now;
        let Some(inbound) = &mut self.inbound else { return };
        let Some(Arrived::Records(batch)) = inbound.queue.pop_front() else { return };
        for record in batch.records {
            inbound.queue_bytes -= record.cost();
            self.journal.accept(batch.generation, record.clone());
            self.write_back.accept(record, now);
        }
    }

    /// Records the generation at the front of the queue once everything before it is flushed (I5).
    fn record_generation(&mut self) -> bool {
        self.journal.want_flush(self.journal.accepted());
        if !self.journal.is_clean() {
            return false;
        }
        let Some(inbound) = &mut self.inbound else { return false };
        let Some(Arrived::Generation(generation, lineage)) = inbound.queue.pop_front() else { return false };
        assert_eq!(
            generation.first_lsn,
            self.journal.flushed().next(),
            "I5: everything before the generation is flushed"
        );
        let revision = self.superblock.change(|content| content.lineage = lineage);
        inbound.stage = Stage::RecordingGeneration(revision);
        true
    }

    /// Everything up to here is flushed on every in-sync replica.
    pub(super) fn note_stable(&mut self, stable_up_to: Lsn) {
        if self.role == Role::Primary {
            return;
        }
        // Of what this node holds itself: a number beyond that may be of writes which it will never see, and must
        // not set free what another source ships in their place.
        self.stable = self.stable.max(stable_up_to.min(self.assigned()));
        // The Primary is one of them. Heartbeats say so too, but a second late: a Primary that dies in between would
        // seem to lack all that it had flushed since, and that would have to be kept or marked dirty for it.
        let own_end = self.journal.flushed();
        let Some(from) = self.inbound.as_ref().map(|inbound| inbound.from) else { return };
        // One without a disk is none of them, and its record says so before it calls anything stable without it.
        let is_member = self.record().in_sync.has_node(from);
        let primary = self.peer_mut(from);
        if is_member && primary.disk == DiskState::UpToDate {
            primary.flushed = primary.flushed.max(stable_up_to.min(own_end));
        }
    }

    /// Tells the source how far this node has come, if that is news.
    pub(super) fn report_progress(&mut self, effects: &mut Effects) {
        let (held, room_bytes) = (self.write_back.pending_bytes(), self.journal.room_bytes());
        let (journaled, flushed, data_flushed) =
            (self.journal.journaled(), self.journal.flushed(), self.data_flushed);
        let Some(from) = self.inbound.as_ref().map(|inbound| inbound.from) else { return };
        // Only protocol B waits for the receipt. The others hear of it with the journal write that follows at once.
        let is_receipt_awaited = self.peer(from).protocol == Some(ReplicationProtocol::B);
        let Some(inbound) = &mut self.inbound else { return };
        if matches!(inbound.stage, Stage::Preparing { .. } | Stage::AwaitingResync) {
            return;
        }
        // What is granted has room in memory and in the ring: should the source vanish, all of it gets flushed.
        let window_bytes = WRITE_BACK_BYTES_MAX
            .saturating_sub(held)
            .min(room_bytes)
            .saturating_sub(inbound.queue_bytes)
            .min(PEER_WINDOW_BYTES);
        let progress =
            Progress { received: inbound.received, journaled, flushed, data_flushed, window_bytes };
        let is_news = inbound.reported.is_none_or(|told| {
            (told.journaled, told.flushed) != (progress.journaled, progress.flushed)
                || (is_receipt_awaited && told.received != progress.received)
                || told.window_bytes.abs_diff(window_bytes) >= WINDOW_NEWS_BYTES
                // A source that has next to no room waits for any.
                || (told.window_bytes < WINDOW_NEWS_BYTES && window_bytes > 2 * told.window_bytes)
        });
        if is_news {
            inbound.reported = Some(progress);
            inbound.granted_bytes = inbound.granted_bytes.max(inbound.received_bytes + window_bytes);
            self.send(from, &Message::Progress(progress), effects);
        }
    }
}
