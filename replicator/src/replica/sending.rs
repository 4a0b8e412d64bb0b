//! The source's half of a link: ships records in order, from memory where they are still there, else from
//! the journal. Live mirroring and catch-up are the same thing at different distances from the end.

use std::collections::VecDeque;

use crate::config::{CATCH_UP_READ_BYTES, PEER_WINDOW_BYTES};
use crate::effect::Effects;
use crate::event::{IoId, LinkId};
use crate::generation::compare::Course;
use crate::journal::reader::RingReader;
use crate::layout::record_table::{BATCH_PAYLOAD_BLOCKS_MAX, BATCH_RECORDS_MAX};
use crate::peer::message::{Message, Progress, RecordBatch};
use crate::record::Record;
use crate::state::Role;
use crate::units::{GenerationId, Lsn, NodeId, Span, Tick, bytes_u64};
use crate::write::protocol_abc::Acknowledged;

use super::resync_source::ResyncSource;
use super::{IoPurpose, Replica};

/// Growth of `stable_up_to` that is worth a frame of its own, in writes.
const STABLE_NEWS_WRITES: u64 = 256;

/// Records on their way to one peer.
#[derive(Debug)]
pub(super) struct Outbound {
    /// Next record to send; `None` until the target has said where it stands.
    next: Option<Lsn>,
    /// The newest generation that the target knows of.
    announced: GenerationId,
    /// What the target reported last.
    progress: Progress,
    /// Sent and not yet received: last Lsn of each frame, and what its records cost.
    unreceived: VecDeque<(Lsn, u64)>,
    unreceived_bytes: u64,
    /// Sent and not yet handed to the kernel: number of the frame, its last Lsn. For protocol A.
    unhanded: VecDeque<(u64, Lsn)>,
    handed: Lsn,
    /// Reads the journal for a target that is behind what memory holds.
    reader: Option<CatchUpReader>,
    flush_asked: Lsn,
    stable_told: Lsn,
    /// Since when the target owes its position, or progress with what was sent.
    waiting_since: Option<Tick>,
    /// Whether everything that there was had been shipped once.
    is_live: bool,
    caught_up_bytes: u64,
    /// Blocks that are copied besides.
    resync: Option<Box<ResyncSource>>,
}

/// A journal read for a target.
#[derive(Debug)]
struct CatchUpReader {
    reader: RingReader,
    in_flight: Option<IoId>,
    /// Read and not yet sent.
    records: VecDeque<Record>,
}

impl Outbound {
    /// Records after what the target keeps, as soon as it asks.
    pub(super) fn new(course: Course, deadline_from: Option<Tick>) -> Self {
        Self {
            next: None,
            announced: course.common,
            progress: Progress::default(),
            unreceived: VecDeque::new(),
            unreceived_bytes: 0,
            unhanded: VecDeque::new(),
            handed: course.target_keeps,
            reader: None,
            flush_asked: Lsn::ZERO,
            stable_told: Lsn::ZERO,
            waiting_since: deadline_from,
            is_live: false,
            caught_up_bytes: 0,
            resync: None,
        }
    }

    /// Blocks first, and records from where the target then asks for them.
    pub(super) fn with_resync(course: Course, resync: ResyncSource) -> Self {
        Self { resync: Some(Box::new(resync)), ..Self::new(course, None) }
    }

    pub(super) fn resync(&self) -> Option<&ResyncSource> {
        self.resync.as_deref()
    }

    pub(super) fn resync_mut(&mut self) -> Option<&mut ResyncSource> {
        self.resync.as_deref_mut()
    }

    /// The target knows this generation by other means than a message of its own.
    pub(super) fn announce(&mut self, generation: GenerationId) {
        self.announced = generation;
    }

    /// How far the peer has come, for the protocols.
    pub(super) fn acknowledged(&self) -> Acknowledged {
        Acknowledged {
            handed: self.handed,
            received: self.progress.received,
            journaled: self.progress.journaled,
        }
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether the target has said where it stands.
    pub(super) fn is_started(&self) -> bool {
        self.next.is_some()
    }

    /// Whether it has been shipped everything since the link began: from then on it is mirrored, not caught up.
    pub(super) fn is_live(&self) -> bool {
        self.is_live && self.resync.is_none()
    }

    /// The next record to be sent.
    pub(super) fn next(&self) -> Lsn {
        self.next.unwrap_or(Lsn::ZERO)
    }

    pub(super) fn unreceived_bytes(&self) -> u64 {
        self.unreceived_bytes
    }

    /// Bytes that were shipped before the target was in sync.
    pub(super) fn caught_up_bytes(&self) -> u64 {
        self.caught_up_bytes
    }

    /// Whether records wait for room in the target's window.
    pub(super) fn is_congested(&self) -> bool {
        self.is_started() && self.unreceived_bytes >= self.progress.window_bytes
    }

    /// Whether the target has been silent about its progress for too long.
    pub(super) fn is_overdue(&self, now: Tick, limit: Span) -> bool {
        self.waiting_since.is_some_and(|since| now >= since.plus(limit))
    }

    /// Gives the target more time to report progress.
    pub(super) fn wait_longer(&mut self, span: Span) {
        self.waiting_since = self.waiting_since.map(|since| since.plus(span));
    }

    fn on_progress(&mut self, progress: Progress, now: Tick) {
        // However much it grants: what is on its way is held in memory here.
        self.progress = Progress { window_bytes: progress.window_bytes.min(PEER_WINDOW_BYTES), ..progress };
        while let Some((_, bytes)) = self.unreceived.pop_front_if(|(last, _)| *last <= progress.received) {
            self.unreceived_bytes -= bytes;
        }
        let sent = self.next.map_or(Lsn::ZERO, Lsn::previous);
        self.waiting_since = (progress.journaled < sent).then_some(now);
    }

    fn on_sent(&mut self, last: Lsn, cost: u64, frame_number: u64, now: Tick) {
        self.next = Some(last.next());
        self.unreceived.push_back((last, cost));
        self.unreceived_bytes += cost;
        self.unhanded.push_back((frame_number, last));
        self.waiting_since = self.waiting_since.or(Some(now));
    }
}

impl Replica {
    /// The target says up to where its journal reaches.
    pub(super) fn on_catch_up_from(&mut self, node: NodeId, end: Lsn, effects: &mut Effects) {
        // The peer's state may have arrived in this very round, so that the verdict is still due here.
        self.reach_verdict(node, effects);
        let is_legal = end <= self.assigned() && end.next() >= self.oldest_kept();
        if !is_legal && self.peer(node).is_target_of_us() {
            self.drop_link(
                node,
                &format!("it wants records after {end}, which this journal does not hold"),
                effects,
            );
            return;
        }
        let now = self.now;
        if let Some(outbound) = self.peer_mut(node).outbound_mut() {
            outbound.next = Some(end.next());
            outbound.handed = end;
            outbound.progress = Progress { received: end, journaled: end, flushed: end, ..outbound.progress };
            outbound.waiting_since = None;
            outbound.on_progress(outbound.progress, now);
        }
        self.begin_copying(node, end);
    }

    pub(super) fn on_progress(&mut self, node: NodeId, progress: Progress) {
        let (now, own_end) = (self.now, self.flushed_in_common());
        let assigned = self.assigned();
        let peer = self.peer_mut(node);
        let Some(outbound) = peer.outbound_mut() else { return };
        if !outbound.is_started() || progress.journaled > assigned {
            return; // Of an earlier introduction: its numbers mean nothing here.
        }
        outbound.on_progress(progress, now);
        if outbound.resync.is_some() {
            return; // Until the resync is over its journal counts for nothing (I7).
        }
        peer.acknowledged = progress.journaled;
        // Never beyond what this node has flushed itself: after a fork the peer may lose what lies beyond.
        peer.flushed = peer.flushed.max(progress.flushed.min(own_end));
    }

    pub(super) fn on_frames_sent(&mut self, node: NodeId, link: LinkId, frames: u64) {
        let peer = self.peer_mut(node);
        if peer.link.as_ref().is_none_or(|current| current.id != link) {
            return;
        }
        if let Some(outbound) = peer.outbound_mut() {
            while let Some((_, last)) = outbound.unhanded.pop_front_if(|(frame, _)| *frame <= frames) {
                outbound.handed = last;
            }
        }
    }

    /// Ships what may be shipped to every target.
    pub(super) fn advance_outbound(&mut self, effects: &mut Effects) {
        let targets: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|peer| peer.outbound().is_some_and(Outbound::is_started))
            .map(|peer| peer.node)
            .collect();
        for node in targets {
            while self.ship_next(node, effects) {}
            let shippable = self.shippable();
            if let Some(outbound) = self.peer_mut(node).outbound_mut() {
                outbound.is_live |= outbound.next() > shippable;
            }
            self.ask_for_flush(node, effects);
        }
    }

    /// The newest record that may be shipped: a Primary need not have it in its own journal yet.
    fn shippable(&self) -> Lsn {
        match self.role {
            // What belongs to a generation that is not durable yet has not been announced (I5).
            Role::Primary if !self.lineage_is_durable() => {
                let newest = self.superblock.content().lineage.newest();
                newest.map_or(Lsn::ZERO, |generation| generation.first_lsn.previous()).min(self.assigned())
            }
            Role::Primary => self.assigned(),
            Role::Secondary | Role::Unknown => self.journal.journaled(),
        }
    }

    /// Ships one frame. Returns whether there may be more to ship.
    fn ship_next(&mut self, node: NodeId, effects: &mut Effects) -> bool {
        let shippable = self.shippable();
        let Some(outbound) = self.peer(node).outbound() else { return false };
        let (next, announced) = (outbound.next(), outbound.announced);
        let lineage = &self.superblock.content().lineage;
        if let Some(generation) = lineage.generation_of(next)
            && generation.id != announced
            && self.lineage_is_durable()
        {
            let generation = *generation;
            let lineage = lineage.up_to(next);
            self.send(node, &Message::NewGeneration { generation, lineage }, effects);
            if let Some(outbound) = self.peer_mut(node).outbound_mut() {
                outbound.announced = generation.id;
            }
            return true;
        }
        if next > shippable || outbound.is_congested() {
            return false;
        }
        let records = self.records_from(node, next, shippable, effects);
        if records.is_empty() {
            return false;
        }
        self.ship(node, records, effects);
        true
    }

    fn ship(&mut self, node: NodeId, records: Vec<Record>, effects: &mut Effects) {
        let last = records.last().expect("it is not empty").lsn;
        // A peer that is further behind than the lineage reaches was brought here by a state that was not its own.
        let Some(generation) = self.superblock.content().lineage.generation_of(last).map(|entry| entry.id)
        else {
            let reason = format!("it wants write {last}, whose generation this node does not know any more");
            self.drop_link(node, &reason, effects);
            return;
        };
        let cost = records.iter().map(Record::cost).sum();
        let bytes = records.iter().map(|record| bytes_u64(record.payload.len())).sum::<u64>();
        let stable_up_to = if self.role == Role::Primary { self.stable } else { Lsn::ZERO };
        self.send(node, &Message::Records(RecordBatch { generation, stable_up_to, records }), effects);
        self.note_stable_told(node);
        let is_catch_up = self.reign.as_ref().is_none_or(|reign| !reign.requires(node));
        let now = self.now;
        let peer = self.peer_mut(node);
        let frame_number = peer.link.as_ref().map_or(0, |link| link.frames_queued);
        if let Some(outbound) = peer.outbound_mut() {
            outbound.on_sent(last, cost, frame_number, now);
            outbound.caught_up_bytes += if is_catch_up { bytes } else { 0 };
        }
    }

    /// The next records for a target: one frame's worth of one generation. Empty if they must be read first.
    fn records_from(
        &mut self,
        node: NodeId,
        next: Lsn,
        shippable: Lsn,
        effects: &mut Effects,
    ) -> Vec<Record> {
        let generations = self.superblock.content().lineage.generations();
        let generation_ends =
            generations.iter().find(|entry| entry.first_lsn > next).map(|entry| entry.first_lsn.previous());
        let last = generation_ends.unwrap_or(shippable).min(shippable);
        if self.write_back.record(next).is_some() {
            let write_back = &self.write_back;
            let records = gather(|lsn| write_back.record(lsn).cloned(), next, last);
            if let Some(outbound) = self.peer_mut(node).outbound_mut() {
                outbound.reader = None;
            }
            return records;
        }
        self.read_for(node, next, effects);
        let Some(outbound) = self.peer_mut(node).outbound_mut() else { return Vec::new() };
        let Some(reader) = &mut outbound.reader else { return Vec::new() };
        while reader.records.pop_front_if(|record| record.lsn < next).is_some() {}
        gather(|lsn| reader.records.pop_front_if(|record| record.lsn == lsn), next, last)
    }

    /// Reads ahead in the journal for a target, one read at a time.
    fn read_for(&mut self, node: NodeId, next: Lsn, effects: &mut Effects) {
        if self.disk_fault.is_some() {
            // Nothing is read from a disk that failed; a reader that found it out is void.
            self.give_up_shipping_from_disk(node);
            return;
        }
        let journaled = self.journal.journaled();
        let start = self.journal.ring().reader(next, journaled, CATCH_UP_READ_BYTES);
        let peer = self.peer_mut(node);
        let Some(link) = peer.link.as_ref().map(|link| link.id) else { return };
        let Some(outbound) = peer.outbound_mut() else { return };
        if outbound.reader.is_none() {
            outbound.reader =
                start.map(|reader| CatchUpReader { reader, in_flight: None, records: VecDeque::new() });
        }
        let Some(catch_up) = &mut outbound.reader else {
            self.drop_link(node, "the journal no longer holds what it lacks", effects);
            return;
        };
        catch_up.records.extend(catch_up.reader.extend(journaled).into_iter().map(|(_, record)| record));
        if catch_up.in_flight.is_some() || catch_up.records.back().is_some_and(|record| record.lsn >= next) {
            return;
        }
        let Some(read) = catch_up.reader.next_read() else { return };
        let io = self.read_journal(IoPurpose::CatchUp(node, link), read.ring_offset, read.length, effects);
        if let Some(catch_up) =
            self.peer_mut(node).outbound_mut().and_then(|outbound| outbound.reader.as_mut())
        {
            catch_up.in_flight = Some(io);
        }
    }

    pub(super) fn on_catch_up_read(
        &mut self,
        node: NodeId,
        link: LinkId,
        io: IoId,
        bytes: bytes::Bytes,
        effects: &mut Effects,
    ) {
        let peer = self.peer_mut(node);
        if peer.link.as_ref().is_none_or(|current| current.id != link) {
            return;
        }
        let Some(reader) = peer.outbound_mut().and_then(|outbound| outbound.reader.as_mut()) else { return };
        if reader.in_flight != Some(io) {
            return;
        }
        reader.in_flight = None;
        match reader.reader.on_bytes(bytes) {
            Ok(records) => reader.records.extend(records.into_iter().map(|(_, record)| record)),
            Err(error) if error.lsn < self.journal.ring().oldest_kept() => {
                self.drop_link(node, "the journal no longer holds what it lacks", effects);
            }
            Err(error) => self.fail_disk(format!("the journal cannot be read back: {error}"), effects),
        }
    }

    /// Asks a target to flush what somebody waits for: a client's flush, or its own entry into the in-sync set.
    fn ask_for_flush(&mut self, node: NodeId, effects: &mut Effects) {
        let wanted = self.flush_wanted_from(node);
        let Some(outbound) = self.peer_mut(node).outbound_mut() else { return };
        let Some(wanted) = wanted.map(|lsn| lsn.min(outbound.next().previous())) else { return };
        if wanted > outbound.flush_asked && wanted > outbound.progress.flushed {
            outbound.flush_asked = wanted;
            self.send(node, &Message::Flush { up_to: wanted }, effects);
        }
    }

    /// Whether the peer waits to hear that much more is stable.
    pub(super) fn stable_is_news_to(&self, peer: &super::links::Peer) -> bool {
        let news = |outbound: &Outbound| {
            let writes = self.stable.since(outbound.stable_told);
            // A target without room waits for just this.
            writes >= STABLE_NEWS_WRITES || (writes > 0 && outbound.is_congested())
        };
        self.role == Role::Primary && peer.outbound().is_some_and(news)
    }

    pub(super) fn note_stable_told(&mut self, node: NodeId) {
        let stable = self.stable;
        if let Some(outbound) = self.peer_mut(node).outbound_mut() {
            outbound.stable_told = stable;
        }
    }
}

/// Consecutive records from `first` to at most `last`, as many as one frame carries.
fn gather(mut record: impl FnMut(Lsn) -> Option<Record>, first: Lsn, last: Lsn) -> Vec<Record> {
    let mut records = Vec::new();
    let mut blocks = 0;
    let mut lsn = first;
    while lsn <= last
        && records.len() < BATCH_RECORDS_MAX
        && blocks + crate::record::RECORD_BLOCKS_MAX <= BATCH_PAYLOAD_BLOCKS_MAX
    {
        let Some(record) = record(lsn) else { break };
        blocks += record.payload_blocks();
        records.push(record);
        lsn = lsn.next();
    }
    records
}
