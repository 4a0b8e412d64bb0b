//! Client requests: admission, numbers, answers.

use bytes::Bytes;

use crate::effect::{Completion, Effect, Effects, RequestError};
use crate::event::{AllocatedExtent, Durability, IoId, Request};
use crate::read::pending_block;
use crate::record::Record;
use crate::state::Role;
use crate::units::{BlockRange, ByteRange, Lsn, RequestId, Tick, bytes_u64};
use crate::write::edit::{Edit, EditKind, payload_records, zero_kind};

use super::{IoPurpose, Replica};

/// Bytes of accepted records that may wait for a journal batch before clients are slowed.
const JOURNAL_QUEUE_BYTES_MAX: u64 = 16 << 20;

impl Replica {
    pub(super) fn on_request(&mut self, id: RequestId, request: Request, effects: &mut Effects) {
        if !self.serves(&request) {
            let outcome = Completion::Failed(RequestError::Demoted);
            effects.push(Effect::CompleteRequest { id, outcome });
            return;
        }
        // The server of clients knows the size too; but nothing beyond it may ever become a record.
        if request.range().is_some_and(|range| range.end() > self.config.volume_bytes) {
            let outcome = Completion::Failed(RequestError::Invalid);
            effects.push(Effect::CompleteRequest { id, outcome });
            return;
        }
        match request {
            Request::Read { .. } | Request::BlockStatus { .. } => {
                let blocks = request.range().and_then(ByteRange::covering_blocks);
                match blocks.is_some_and(|blocks| self.writes.is_about_to_change(blocks)) {
                    true => self.writes.arrive(id, request, self.now),
                    false => self.read(id, &request, effects),
                }
            }
            // Of what nobody writes nothing is missing on stable storage.
            Request::Flush if self.serves_as_was => {
                effects.push(Effect::CompleteRequest { id, outcome: Completion::Done });
            }
            Request::Flush => self.writes.wait_for_flush(id, self.complete),
            Request::Write { .. } | Request::Trim { .. } | Request::WriteZeroes { .. } => {
                self.writes.arrive(id, request, self.now);
            }
        }
    }

    /// Takes in a read or a query. If it overlaps an accepted write it waits until that write is complete.
    fn read(&mut self, id: RequestId, request: &Request, effects: &mut Effects) {
        let range = request.range().expect("a read is of something");
        let blocks = range.covering_blocks();
        let newest = blocks.and_then(|blocks| self.write_back.newest_overlapping(blocks));
        let newest = newest.unwrap_or(Lsn::ZERO);
        if matches!(request, Request::Read { .. }) {
            self.reads.arrive(id, range, newest);
        } else if blocks.is_some() {
            self.reads.query(id, range, newest);
        } else {
            let outcome = Completion::Failed(RequestError::Invalid);
            effects.push(Effect::CompleteRequest { id, outcome });
        }
    }

    /// Gives numbers to what waits, as far as there is room.
    pub(super) fn admit_requests(&mut self, effects: &mut Effects) {
        self.finish_edits();
        while self.may_admit() {
            let Some(request) = self.writes.next_waiting() else { return };
            let is_write = request.is_write();
            if let Some(blocks) = request.range().and_then(ByteRange::covering_blocks) {
                let is_edited = self.writes.edits().iter().any(|edit| edit.blocks().overlaps(blocks));
                if is_edited || (is_write && self.reads.wait_for(blocks)) {
                    return; // A ragged write is still being merged, or a read came first.
                }
            }
            let (id, request, since) = self.writes.take_waiting().expect("it was just looked at");
            self.admit(id, request, since, effects);
        }
    }

    fn may_admit(&self) -> bool {
        // A demotion waits for what had arrived before it.
        self.role == Role::Primary
            && !self.is_ending()
            && !self.is_frozen()
            && self.has_a_copy()
            && self.generation_is_durable()
            && self.write_back.has_room()
            && (self.disk_fault.is_some() || self.journal_has_room())
    }

    fn journal_has_room(&self) -> bool {
        self.journal.queue_bytes() < JOURNAL_QUEUE_BYTES_MAX && !self.journal.is_short_of_room()
    }

    fn admit(&mut self, id: RequestId, request: Request, since: Tick, effects: &mut Effects) {
        match request {
            Request::Write { offset, payload, durability } => {
                let range = ByteRange::new(offset, bytes_u64(payload.len()));
                match range.covering_blocks() {
                    Some(blocks) if range.is_block_aligned() => {
                        let records = payload_records(self.assigned().next(), blocks, &payload);
                        self.accept_own(id, records, durability, since);
                    }
                    Some(_) => {
                        let kind = EditKind::Write(payload);
                        self.begin_edit(Edit::new(id, durability, range, kind, since), effects);
                    }
                    None => effects.push(Effect::CompleteRequest { id, outcome: Completion::Done }),
                }
            }
            Request::WriteZeroes { range, allocation, durability } => match range.whole_blocks() {
                Some(blocks) if range.is_block_aligned() => {
                    let record = Record::zero(self.assigned().next(), zero_kind(allocation), blocks);
                    self.accept_own(id, vec![record], durability, since);
                }
                _ if range.length > 0 => {
                    let kind = EditKind::Zeroes(allocation);
                    self.begin_edit(Edit::new(id, durability, range, kind, since), effects);
                }
                _ => effects.push(Effect::CompleteRequest { id, outcome: Completion::Done }),
            },
            Request::Trim { range, durability } => match range.whole_blocks() {
                Some(blocks) => {
                    let record =
                        Record::zero(self.assigned().next(), crate::record::RecordKind::Trim, blocks);
                    self.accept_own(id, vec![record], durability, since);
                }
                // Ragged edges stay as they are, and there is nothing else.
                None => effects.push(Effect::CompleteRequest { id, outcome: Completion::Done }),
            },
            Request::Read { .. } | Request::BlockStatus { .. } => self.read(id, &request, effects),
            Request::Flush => unreachable!("a flush is about what was answered, and waits for no admission"),
        }
    }

    /// Takes in records that this Primary has made; from here on reads and peers see them.
    fn accept_own(&mut self, id: RequestId, records: Vec<Record>, durability: Durability, since: Tick) {
        let generation = self.superblock.content().lineage.newest_id();
        let last = records.last().expect("a request makes at least one record").lsn;
        for record in records {
            self.written_bytes += record.range.bytes();
            if self.disk_fault.is_none() {
                self.journal.accept(generation, record.clone());
            }
            self.write_back.accept(record, self.now);
        }
        self.writes.submitted(id, last, durability, since);
    }

    fn begin_edit(&mut self, edit: Edit, effects: &mut Effects) {
        self.writes.edits().push(edit);
        if self.disk_fault.is_none() {
            self.read_edges(effects);
        }
        self.finish_edits();
    }

    /// Fetches the edges that nobody fetches yet.
    pub(super) fn read_edges(&mut self, effects: &mut Effects) {
        let is_fetched = |id: RequestId, block: u64| {
            let is_it = |purpose: &IoPurpose| matches!(purpose, IoPurpose::Edge(of, edge) if (*of, *edge) == (id, block));
            self.purposes.values().any(is_it)
        };
        let edits = self.writes.edits().iter();
        let edges = edits.flat_map(|edit| edit.missing().map(|block| (edit.id, block)));
        let missing: Vec<(RequestId, u64)> = edges.filter(|(id, block)| !is_fetched(*id, *block)).collect();
        for (id, block) in missing {
            match pending_block(&self.write_back, block) {
                Some(content) => self.on_edge_read(id, block, content),
                None => {
                    let io = self.numbers.next();
                    self.purposes.insert(io, IoPurpose::Edge(id, block));
                    effects.push(Effect::ReadData { io, range: BlockRange::new(block, 1) });
                }
            }
        }
    }

    pub(super) fn on_edge_read(&mut self, id: RequestId, block: u64, content: Bytes) {
        if let Some(edit) = self.writes.edits().iter_mut().find(|edit| edit.id == id) {
            edit.on_edge(block, content);
        }
        self.finish_edits();
    }

    /// Gives numbers to edits whose edges are known, once the generation that they belong to is durable (I5).
    fn finish_edits(&mut self) {
        if !self.generation_is_durable() || !self.has_a_copy() {
            return;
        }
        while let Some(at) = self.writes.edits().iter().position(Edit::is_ready) {
            let edit = self.writes.edits().remove(at);
            let records = edit.records(self.assigned().next());
            self.accept_own(edit.id, records, edit.durability, edit.since);
        }
    }

    /// Moves the marks of complete and stable as far as journal and peers allow.
    pub(super) fn advance_marks(&mut self) {
        if self.role != Role::Primary || self.reign.is_none() || !self.has_a_copy() {
            return;
        }
        let (journaled, flushed) = match self.disk_fault {
            None => (self.journal.journaled(), self.journal.flushed()),
            Some(_) => (self.assigned(), self.assigned()),
        };
        self.complete = self.complete.max(self.complete_by_peers().min(journaled));
        self.stable = self.stable.max(self.stable_by_peers().min(flushed));
    }

    /// Answers whom an answer is due.
    pub(super) fn answer_clients(&mut self, effects: &mut Effects) {
        if self.role != Role::Primary {
            return self.answer_as_was(effects);
        }
        let mut done = |id| effects.push(Effect::CompleteRequest { id, outcome: Completion::Done });
        let (now, throttle) = (self.now, &mut self.throttle);
        let mut took = |since| throttle.on_write(now.since(since));
        self.writes.completed(self.complete, &mut took, &mut done);
        // A flush that has nothing to wait for waits all the same: whoever is frozen may be Primary no more.
        if self.frozen_since.is_none() {
            self.writes.flushed(self.stable, &mut took, &mut done);
        }
        let numbers = &mut self.numbers;
        if self.disk_fault.is_none() {
            self.reads.advance(self.complete, &self.write_back, &mut || numbers.next(), effects);
        }
        if self.may_answer_reads() {
            self.reads.answer(effects);
        }
    }

    /// Whatever this node holds may be read, complete or not: nobody writes, and nothing is promised.
    fn answer_as_was(&mut self, effects: &mut Effects) {
        if self.serves_as_was {
            let (newest, numbers) = (self.journal.accepted(), &mut self.numbers);
            self.reads.advance(newest, &self.write_back, &mut || numbers.next(), effects);
            self.reads.answer(effects);
        }
    }

    pub(super) fn on_allocation_found(
        &mut self,
        io: IoId,
        extents: &[AllocatedExtent],
        effects: &mut Effects,
    ) {
        if let Some(IoPurpose::HoleSearch(node, link)) = self.purposes.remove(&io) {
            return self.on_holes_found(node, link, io, extents, effects);
        }
        let known = if self.serves_as_was { self.assigned() } else { self.complete };
        self.reads.on_allocation(io, extents, known, &self.write_back);
    }
}
