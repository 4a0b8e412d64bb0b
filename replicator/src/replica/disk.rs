//! Completions of I/O and what they move: journal, superblock, write-back. And the end of a disk.

use bytes::Bytes;

use crate::config::WRITE_BACK_BYTES_MAX;
use crate::effect::{Effect, Effects};
use crate::event::IoId;
use crate::notice::Notice;
use crate::state::{DiskState, Role};
use crate::units::Lsn;
use crate::write_back::Urgency;

use super::{IoPurpose, Replica};

/// Bytes written to the data area that make a flush of it worth while: it bounds what recovery replays.
const DATA_FLUSH_BYTES: u64 = 32 << 20;

impl Replica {
    pub(super) fn on_io_completed(&mut self, io: IoId, effects: &mut Effects) {
        if self.disk_fault.is_some() {
            return; // The disk is poisoned: nothing that it says counts any more.
        }
        if self.journal.on_io_completed(io, self.now) {
            return;
        }
        if self.superblock.on_io_completed(io) {
            self.on_superblock_durable(effects);
            return;
        }
        let (zones, numbers) = (&self.superblock.content().zones, &mut self.numbers);
        if self.bitmap.on_io_completed(io, zones, &mut || numbers.next(), effects) {
            return;
        }
        match self.purposes.remove(&io) {
            None => {
                self.write_back.on_data_written(io, self.now);
                self.journal.ring_mut().note_written_back(self.write_back.written_back());
            }
            Some(IoPurpose::DataFlush(up_to)) => {
                self.data_flush_in_flight = false;
                self.data_flushed = self.data_flushed.max(up_to);
            }
            Some(IoPurpose::CopyWrite) => self.on_copy_written(io),
            Some(IoPurpose::CopyFlush(up_to)) => self.on_copies_in_data_area(up_to, effects),
            Some(
                other @ (IoPurpose::Edge(..)
                | IoPurpose::CatchUp(..)
                | IoPurpose::Tail
                | IoPurpose::ResyncMarks(..)
                | IoPurpose::OwnMarks
                | IoPurpose::DiscardList(_)
                | IoPurpose::RescueRead(..)
                | IoPurpose::Inquiry
                | IoPurpose::CopyRead(..)
                | IoPurpose::CompareRead
                | IoPurpose::Lending
                | IoPurpose::HoleSearch(..)),
            ) => panic!("{other:?} is a read"),
        }
    }

    fn on_superblock_durable(&mut self, effects: &mut Effects) {
        let recorded = self.superblock.durable_session();
        self.journal.ring_mut().note_session_recorded(recorded);
        self.on_tail_durable(effects);
    }

    pub(super) fn on_bytes_read(&mut self, io: IoId, bytes: Bytes, effects: &mut Effects) {
        if self.reads.on_bytes(io, vec![bytes.clone()]) {
            return;
        }
        match self.purposes.remove(&io) {
            Some(IoPurpose::Edge(id, block)) => self.on_edge_read(id, block, bytes),
            Some(IoPurpose::CatchUp(node, link)) => self.on_catch_up_read(node, link, io, bytes, effects),
            Some(IoPurpose::Tail) => self.on_tail_read(io, bytes, effects),
            Some(IoPurpose::ResyncMarks(node, link)) => self.on_marks_read(node, link, io, bytes, effects),
            Some(IoPurpose::OwnMarks) => self.on_own_marks_read(io, bytes, effects),
            Some(IoPurpose::DiscardList(number)) => self.on_discard_list_read(number, bytes, effects),
            Some(IoPurpose::RescueRead(number, at)) => self.on_rescue_read(number, at, bytes, effects),
            Some(IoPurpose::Inquiry) => self.on_inquiry_read(io, bytes),
            Some(IoPurpose::CopyRead(node, link)) => self.on_copy_read(node, link, io, &bytes, effects),
            Some(IoPurpose::CompareRead) => self.on_compare_read(io, &bytes, effects),
            Some(IoPurpose::Lending) => self.on_lent_bytes(io, bytes, effects),
            // What was asked of the disk before it failed is asked of others by now.
            None if self.disk_fault.is_some() => {}
            Some(
                other @ (IoPurpose::DataFlush(_)
                | IoPurpose::CopyWrite
                | IoPurpose::CopyFlush(_)
                | IoPurpose::HoleSearch(..)),
            ) => panic!("{other:?} is no read"),
            None => panic!("nobody asked for I/O {}", io.0),
        }
    }

    pub(super) fn on_io_failed(&mut self, io: IoId, errno: i32, effects: &mut Effects) {
        self.purposes.remove(&io);
        self.fail_disk(format!("I/O error {errno}"), effects);
    }

    /// A disk that failed once is not used again: a later success would prove nothing.
    pub(super) fn fail_disk(&mut self, reason: String, effects: &mut Effects) {
        if self.disk_fault.is_some() {
            return;
        }
        effects
            .push(Effect::Notify(Notice::error("disk-failed", format!("the local disk failed: {reason}"))));
        self.disk_fault = Some(reason);
        self.set_disk(DiskState::Failed, effects);
        match self.role {
            Role::Primary => self.begin_diskless(),
            Role::Secondary | Role::Unknown => self.reintroduce(),
        }
    }

    /// Batches and flushes of the journal.
    pub(super) fn advance_journal(&mut self, effects: &mut Effects) {
        if self.disk_fault.is_some() || self.is_cutting() {
            return;
        }
        self.journal.want_flush(self.writes.flush_wanted());
        let numbers = &mut self.numbers;
        self.journal.advance(self.now, self.data_flushed, &mut || numbers.next(), effects);
        // Without a source nothing moves the tail, so what does not fit now never will. It was not
        // acknowledged: whoever becomes Primary ships it again, or never completed it.
        let is_stranded = self.role != Role::Primary && self.inbound.is_none();
        if is_stranded && self.journal.is_short_of_room() {
            self.journal.drop_queue();
            self.write_back.cut(self.journal.accepted());
        }
    }

    /// Up to where records may leave the journal for the data area: stable, and flushed here (I3).
    pub(super) fn write_back_limit(&self) -> Lsn {
        self.stable.min(self.journal.flushed())
    }

    /// Moves stable records to the data area, and flushes it from time to time.
    pub(super) fn advance_write_back(&mut self, effects: &mut Effects) {
        if self.disk_fault.is_some() || !self.is_started() || self.is_cutting() {
            return;
        }
        let is_tight =
            self.write_back.pending_bytes() >= WRITE_BACK_BYTES_MAX / 2 || self.tail_waits_for_write_back();
        let urgency = if is_tight || self.is_stopping { Urgency::Now } else { Urgency::CanWait };
        let resync = self.inbound.as_ref().and_then(|inbound| inbound.resync.as_ref());
        let limit = self.write_back_limit().min(resync.map_or(Lsn(u64::MAX), |it| it.write_back_limit()));
        let numbers = &mut self.numbers;
        self.write_back.advance(self.now, limit, urgency, &mut || numbers.next(), effects);
        if self.write_back.unflushed_bytes() >= DATA_FLUSH_BYTES
            || self.tail_waits_for_write_back()
            || self.is_stopping
        {
            self.flush_data(effects);
        }
    }

    pub(super) fn flush_data(&mut self, effects: &mut Effects) {
        if self.data_flush_in_flight || self.data_flushed == self.write_back.written_back() {
            return;
        }
        let up_to = self.write_back.on_flush_started();
        let io = self.numbers.next();
        self.data_flush_in_flight = true;
        self.purposes.insert(io, IoPurpose::DataFlush(up_to));
        effects.push(Effect::FlushData { io });
    }
}
