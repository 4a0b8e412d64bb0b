//! What this node has that each peer lacks, for an operator who asks: the blocks of records that the journal still holds,
//! and the blocks that are marked dirty. Reads the journal like a peer that catches up, and changes nothing.

use bytes::Bytes;

use crate::block_set::BlockSet;
use crate::config::CATCH_UP_READ_BYTES;
use crate::effect::{Answer, Effect, Effects};
use crate::event::{IoId, OrderId};
use crate::explain_report::{AloneReport, RANGES_MAX, RangeReport};
use crate::journal::reader::RingReader;
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::units::{BLOCK_BYTES, BlockRange, Lsn, NodeId, bytes_u64};

use super::links::{Peer, Replication};
use super::{IoPurpose, Replica};

/// Questions that wait for an answer, at most.
const INQUIRIES_MAX: usize = 16;
/// How often the journal is read again from where it begins by then.
const ATTEMPTS: u32 = 3;

/// A question, and what is known for the answer.
#[derive(Debug)]
pub(super) struct Inquiry {
    order: OrderId,
    attempts: u32,
    gathering: Option<Gathering>,
}

/// The journal being read.
#[derive(Debug)]
struct Gathering {
    reader: Option<Box<RingReader>>,
    in_flight: Option<IoId>,
    /// Everything up to here comes from the journal, the rest from memory.
    last: Lsn,
    sides: Vec<Alone>,
    trouble: Option<String>,
}

/// What this node has that one peer lacks.
#[derive(Debug)]
pub(super) struct Alone {
    pub(super) node: NodeId,
    /// It has everything up to here.
    pub(super) after: Lsn,
    blocks: BlockSet,
    marked_blocks: u64,
    /// The oldest record that was there to be read.
    oldest_kept: Lsn,
}

impl Replica {
    pub(super) fn on_explain(&mut self, order: OrderId, effects: &mut Effects) {
        if self.inquiries.len() >= INQUIRIES_MAX {
            let refused = Refused {
                code: RefusalCode::StateChange,
                name: "busy",
                reason: format!("{INQUIRIES_MAX} others wait for an explanation"),
                cure: "ask again in a moment".to_owned(),
            };
            self.answer(order, Answer::Refused(refused), effects);
            return;
        }
        self.inquiries.push_back(Inquiry { order, attempts: 0, gathering: None });
    }

    /// Takes the oldest question a step further.
    pub(super) fn advance_inquiries(&mut self, effects: &mut Effects) {
        let Some(mut inquiry) = self.inquiries.pop_front() else { return };
        let mut gathering = inquiry.gathering.take().unwrap_or_else(|| self.begin_gathering());
        if self.disk_fault.is_some() {
            (gathering.reader, gathering.in_flight) = (None, None);
        }
        if gathering.in_flight.is_none()
            && let Some(read) = gathering.reader.as_mut().and_then(|reader| reader.next_read())
        {
            let io = self.numbers.next();
            gathering.in_flight = Some(io);
            self.purposes.insert(io, IoPurpose::Inquiry);
            let offset = self.journal.zone_offset() + read.ring_offset;
            effects.push(Effect::ReadJournal { io, offset, length: read.length });
        }
        if gathering.in_flight.is_some() {
            inquiry.gathering = Some(gathering);
            self.inquiries.push_front(inquiry);
            return;
        }
        self.add_from_memory(&mut gathering);
        let report = self.explanation(&gathering.sides, gathering.trouble.as_deref());
        self.answer(inquiry.order, Answer::Explained(Box::new(report)), effects);
    }

    fn begin_gathering(&self) -> Gathering {
        let oldest_kept = self.journal.ring().oldest_kept();
        let last = self.journal.journaled();
        let replicas = self.peers.iter().filter(|peer| peer.is_replica());
        let sides: Vec<Alone> = replicas.map(|peer| self.begin_side(peer, oldest_kept)).collect();
        let first = sides.iter().map(|side| side.after.next().max(oldest_kept)).min();
        let is_readable = self.is_started() && self.disk_fault.is_none();
        let first = first.filter(|first| *first <= last && is_readable);
        let reader = first.and_then(|first| self.journal.ring().reader(first, last, CATCH_UP_READ_BYTES));
        let trouble = match &self.disk_fault {
            Some(fault) => Some(format!("the local disk failed ({fault}): its journal was not read")),
            None if first.is_some() && reader.is_none() => Some("its journal could not be read".to_owned()),
            None => None,
        };
        Gathering { reader: reader.map(Box::new), in_flight: None, last, sides, trouble }
    }

    fn begin_side(&self, peer: &Peer, oldest_kept: Lsn) -> Alone {
        let slot = self.superblock.content().peer(peer.node).map(|slot| slot.bitmap_slot);
        let blocks = slot.map_or_else(BlockSet::default, |slot| self.bitmap.blocks(slot));
        let marked_blocks = blocks.count();
        Alone { node: peer.node, after: self.has_up_to(peer), blocks, marked_blocks, oldest_kept }
    }

    /// Up to where a peer has every write that this node has, as far as this node knows.
    fn has_up_to(&self, peer: &Peer) -> Lsn {
        let is_followed = peer.link.as_ref().is_some_and(|link| match link.replication {
            Replication::Source(_) | Replication::Target | Replication::Idle => true,
            Replication::Introducing | Replication::Stopped => false,
        });
        let live = if is_followed { peer.acknowledged.max(peer.flushed) } else { Lsn::ZERO };
        self.common_point_with(peer).max(live).min(self.assigned())
    }

    pub(super) fn on_inquiry_read(&mut self, io: IoId, bytes: Bytes) {
        let Some(inquiry) = self.inquiries.front_mut() else { return };
        let Some(gathering) = inquiry.gathering.as_mut().filter(|one| one.in_flight == Some(io)) else {
            return;
        };
        gathering.in_flight = None;
        let Some(reader) = &mut gathering.reader else { return };
        match reader.on_bytes(bytes) {
            Ok(records) => {
                for (_, record) in records {
                    gathering.add(record.lsn, record.range);
                }
            }
            // The tail has moved on, and what it passed is marked by now; or the journal was cut.
            Err(_) if inquiry.attempts < ATTEMPTS => {
                inquiry.attempts += 1;
                inquiry.gathering = None;
            }
            Err(error) => {
                gathering.reader = None;
                gathering.trouble = Some(format!("the journal changed while it was read: {error}"));
            }
        }
    }

    /// Records that are on their way to the journal.
    fn add_from_memory(&self, gathering: &mut Gathering) {
        let mut lsn = gathering.last.next();
        while let Some(record) = self.write_back.record(lsn) {
            gathering.add(lsn, record.range);
            lsn = lsn.next();
        }
    }
}

impl Gathering {
    fn add(&mut self, lsn: Lsn, range: BlockRange) {
        for side in self.sides.iter_mut().filter(|side| lsn > side.after) {
            side.blocks.add(range);
        }
    }
}

impl Alone {
    /// What is told of it. `end` is this node's newest write.
    pub(super) fn report(&self, end: Lsn, trouble: Option<&str>) -> AloneReport {
        let writes = end.since(self.after);
        let first_kept = self.after.next() >= self.oldest_kept;
        let ranges = ranges_of(&self.blocks);
        let told = ranges.iter().take(RANGES_MAX);
        let more: Vec<&RangeReport> = ranges.iter().skip(RANGES_MAX).collect();
        let marked = self.marked_blocks * BLOCK_BYTES;
        let note = match (trouble, first_kept, self.marked_blocks) {
            (Some(trouble), _, _) => format!("{trouble}; only blocks that are marked dirty are counted"),
            (None, true, 0) => "every block that these writes touch, from the journal".to_owned(),
            (None, _, _) => format!(
                "an upper bound: {marked} bytes are marked dirty, for writes that the journal has left behind or in \
                 doubt; the rest is from the journal, from write {} on",
                self.after.next().max(self.oldest_kept)
            ),
        };
        AloneReport {
            writes,
            bytes: Some(self.blocks.count() * BLOCK_BYTES),
            ranges: told.copied().collect(),
            ranges_more: bytes_u64(more.len()),
            bytes_more: more.iter().map(|range| range.length).sum(),
            is_exact: trouble.is_none() && first_kept && self.marked_blocks == 0,
            note,
        }
    }
}

/// The blocks as ranges of bytes that do not touch.
fn ranges_of(blocks: &BlockSet) -> Vec<RangeReport> {
    let mut ranges: Vec<RangeReport> = Vec::new();
    let mut from = 0;
    while let Some(run) = blocks.next_run(from, u64::MAX) {
        from = run.end();
        let (offset, length) = (run.first * BLOCK_BYTES, run.bytes());
        match ranges.last_mut() {
            Some(last) if last.offset + last.length == offset => last.length += length,
            _ => ranges.push(RangeReport { offset, length }),
        }
    }
    ranges
}
