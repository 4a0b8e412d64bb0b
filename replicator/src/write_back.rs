//! Write-back: records that are accepted but not yet in the data area, what reads see of them, and which
//! go to the data area next. Keeps I3: nothing that is not stable leaves the journal.
//!
//! Records wait in Lsn order. A *round* takes the stable ones from the front, keeps the newest for each
//! block, and writes them in block order; the next round starts when the last write of this one is done,
//! so two writes to one block never race.

pub mod extent_map;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use crate::config::{WRITE_BACK_BYTES_MAX, WRITE_BACK_ROUND_BYTES};
use crate::effect::{Effect, Effects, ZeroMethod};
use crate::event::IoId;
use crate::record::{Record, RecordKind};
use crate::units::{BLOCK_BYTES, BlockRange, Lsn, Span, Tick, bytes_usize, index_range};
use extent_map::{Extent, ExtentMap, Piece};

/// Largest single write to the data area, bytes.
const DATA_WRITE_BYTES_MAX: u64 = 1 << 20;
/// Largest range that is zeroed at once, blocks: a disk that has to write the zeroes does so within `disk-timeout`.
const DATA_ZERO_BLOCKS_MAX: u64 = (16 << 20) / BLOCK_BYTES;
/// Ranges that are being zeroed at a time: each has to be done within `disk-timeout`.
const DATA_ZEROES_MAX: usize = 4;
/// Writes to the data area in flight at a time.
const DATA_WRITES_MAX: usize = 32;
/// More are ordered only when no more than this many are in flight: writes that are ordered together cost the
/// device one notification.
const DATA_WRITES_LOW: usize = 16;
/// Stable bytes that start a round at once.
const ROUND_START_BYTES: u64 = 4 << 20;
/// Time after which a round starts however little there is to write.
const ROUND_START_AFTER: Span = Span::from_millis(300);

/// The newest content of some blocks.
#[derive(Clone, Debug)]
pub struct Content {
    /// The record that wrote it.
    pub lsn: Lsn,
    /// Its bytes.
    pub bytes: ContentBytes,
}

/// Bytes of some blocks.
#[derive(Clone, Debug)]
pub enum ContentBytes {
    /// These.
    Payload(Bytes),
    /// Zeroes.
    Zero(ZeroMethod),
}

impl Extent for Content {
    fn slice(&self, skip: u64, count: u64) -> Self {
        let bytes = match &self.bytes {
            ContentBytes::Payload(payload) => ContentBytes::Payload(
                payload.slice(index_range(skip * BLOCK_BYTES..(skip + count) * BLOCK_BYTES)),
            ),
            ContentBytes::Zero(method) => ContentBytes::Zero(*method),
        };
        Self { lsn: self.lsn, bytes }
    }
}

impl Content {
    fn of(record: &Record) -> Self {
        let bytes = match record.kind {
            RecordKind::Write => ContentBytes::Payload(record.payload.clone()),
            RecordKind::Zeroes => ContentBytes::Zero(ZeroMethod::KeepSpace),
            RecordKind::Trim => ContentBytes::Zero(ZeroMethod::ReleaseSpace),
        };
        Self { lsn: record.lsn, bytes }
    }
}

/// One I/O of a round that has not been ordered yet.
#[derive(Debug)]
enum DataIo {
    Write(BlockRange, Vec<Bytes>),
    Zero(BlockRange, ZeroMethod),
}

/// Writes in progress.
#[derive(Debug)]
struct Round {
    /// Everything up to here is in the data area when the round ends.
    up_to: Lsn,
    /// Not ordered yet, in block order.
    todo: VecDeque<DataIo>,
    /// Ordered and not reported yet.
    in_flight: BTreeSet<IoId>,
    /// Those of them that zero.
    zeroes_in_flight: BTreeSet<IoId>,
}

/// Records between journal and data area.
#[derive(Debug)]
pub struct WriteBack {
    /// In Lsn order, without gaps; the first is `written_back` + 1.
    pending: VecDeque<Record>,
    /// Cost of `pending` in memory.
    pending_bytes: u64,
    /// The newest content of every block that some pending record touches.
    overlay: ExtentMap<Content>,
    round: Option<Round>,
    written_back: Lsn,
    /// When the oldest pending record was accepted, as far as rounds are concerned.
    waiting_since: Tick,
    /// Bytes written to the data area since its last flush.
    unflushed_bytes: u64,
}

impl WriteBack {
    /// Nothing is pending; the data area holds everything up to `written_back`.
    #[must_use]
    pub fn new(written_back: Lsn) -> Self {
        Self {
            pending: VecDeque::new(),
            pending_bytes: 0,
            overlay: ExtentMap::default(),
            round: None,
            written_back,
            waiting_since: Tick(0),
            unflushed_bytes: 0,
        }
    }

    /// Takes a record in. From here on reads see it.
    pub fn accept(&mut self, record: Record, now: Tick) {
        assert_eq!(record.lsn, self.newest().next(), "records are accepted without gaps");
        if self.pending.is_empty() {
            self.waiting_since = now;
        }
        self.pending_bytes += record.cost();
        self.overlay.insert(record.range, Content::of(&record));
        self.pending.push_back(record);
    }

    /// The newest record taken in.
    #[must_use]
    pub fn newest(&self) -> Lsn {
        self.pending.back().map_or(self.written_back, |record| record.lsn)
    }

    /// Everything up to here is in the data area (not necessarily flushed there), or was released.
    #[must_use]
    pub fn written_back(&self) -> Lsn {
        self.written_back
    }

    /// Bytes that pending records hold in memory.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Whether there is room for more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.pending_bytes < WRITE_BACK_BYTES_MAX
    }

    /// Whether writes to the data area are under way.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.round.is_some()
    }

    /// The pending record with this number.
    #[must_use]
    pub fn record(&self, lsn: Lsn) -> Option<&Record> {
        let first = self.pending.front()?.lsn;
        if lsn < first {
            return None;
        }
        let at = usize::try_from(lsn.since(first)).expect("an index into memory");
        self.pending.get(at)
    }

    /// The newest record that touches `range` and is not in the data area yet.
    #[must_use]
    pub fn newest_overlapping(&self, range: BlockRange) -> Option<Lsn> {
        self.overlay.overlapping(range).map(|(_, content)| content.lsn).max()
    }

    /// `range` cut into what is pending and what the data area holds.
    #[must_use]
    pub fn pieces(&self, range: BlockRange) -> Vec<Piece<Content>> {
        self.overlay.pieces(range)
    }

    /// Forgets every record after `last`.
    pub fn cut(&mut self, last: Lsn) {
        assert!(last >= self.written_back, "I3: {last} is cut off, {} is written back", self.written_back);
        if let Some(round) = &self.round {
            assert!(round.up_to <= last, "I3: {last} is cut off, {} is being written back", round.up_to);
        }
        while let Some(record) = self.pending.pop_back_if(|record| record.lsn > last) {
            self.pending_bytes -= record.cost();
        }
        self.overlay.clear();
        for record in &self.pending {
            self.overlay.insert(record.range, Content::of(record));
        }
    }

    /// Starts a round if one is due, and orders as many writes of the current one as may be in flight.
    /// `stable` is flushed in the journal of every in-sync replica, this one included.
    pub fn advance(
        &mut self,
        now: Tick,
        stable: Lsn,
        urgent: Urgency,
        next_io: &mut impl FnMut() -> IoId,
        effects: &mut Effects,
    ) {
        if self.round.is_none() && self.is_due(now, stable, urgent) {
            self.start_round(stable);
        }
        let Some(round) = &mut self.round else { return };
        if round.in_flight.len() > DATA_WRITES_LOW {
            return;
        }
        while round.in_flight.len() < DATA_WRITES_MAX {
            let is_zero = matches!(round.todo.front(), Some(DataIo::Zero(..)));
            if is_zero && round.zeroes_in_flight.len() >= DATA_ZEROES_MAX {
                break;
            }
            let Some(data_io) = round.todo.pop_front() else { break };
            let io = next_io();
            round.in_flight.insert(io);
            effects.push(match data_io {
                DataIo::Write(range, pieces) => {
                    self.unflushed_bytes += range.bytes();
                    Effect::WriteData { io, range, pieces }
                }
                DataIo::Zero(range, method) => {
                    round.zeroes_in_flight.insert(io);
                    self.unflushed_bytes += BLOCK_BYTES;
                    Effect::ZeroData { io, range, method }
                }
            });
        }
    }

    fn is_due(&self, now: Tick, stable: Lsn, urgent: Urgency) -> bool {
        let Some(first) = self.pending.front() else { return false };
        if first.lsn > stable {
            return false;
        }
        urgent == Urgency::Now
            || self.pending_bytes >= ROUND_START_BYTES
            || now >= self.waiting_since.plus(ROUND_START_AFTER)
    }

    /// When a round becomes due by time alone, if anything stable waits.
    #[must_use]
    pub fn due_at(&self, stable: Lsn) -> Option<Tick> {
        let first = self.pending.front()?;
        (self.round.is_none() && first.lsn <= stable).then(|| self.waiting_since.plus(ROUND_START_AFTER))
    }

    fn start_round(&mut self, stable: Lsn) {
        let mut newest = ExtentMap::default();
        let mut bytes = 0;
        let mut up_to = self.written_back;
        for record in self.pending.iter().take_while(|record| record.lsn <= stable) {
            if bytes >= WRITE_BACK_ROUND_BYTES {
                break;
            }
            newest.insert(record.range, Content::of(record));
            bytes += record.cost();
            up_to = record.lsn;
        }
        assert!(up_to <= stable, "I3: {up_to} is written back, {stable} is stable");
        let todo = data_ios(&newest);
        self.round =
            Some(Round { up_to, todo, in_flight: BTreeSet::new(), zeroes_in_flight: BTreeSet::new() });
    }

    /// A write of the current round is in the data area.
    pub fn on_data_written(&mut self, io: IoId, now: Tick) {
        let round = self.round.as_mut().expect("only a round writes to the data area");
        assert!(round.in_flight.remove(&io), "a write is reported once");
        round.zeroes_in_flight.remove(&io);
        if !round.in_flight.is_empty() || !round.todo.is_empty() {
            return;
        }
        let up_to = round.up_to;
        self.round = None;
        while let Some(record) = self.pending.pop_front_if(|record| record.lsn <= up_to) {
            self.pending_bytes -= record.cost();
        }
        self.overlay.retain(|content| content.lsn > up_to);
        self.written_back = up_to;
        self.waiting_since = now;
    }

    /// The data area is not used any more: from here on records are only held, until [`Self::release`].
    pub fn give_up_disk(&mut self) {
        self.round = None;
    }

    /// Everything up to here is safe elsewhere and need not be held, but for the newest `keep_bytes`. Only where the data
    /// area is not used any more.
    pub fn release(&mut self, up_to: Lsn, keep_bytes: u64) {
        assert!(self.round.is_none(), "nothing is on its way to a data area that is not used");
        let before = self.written_back;
        while self.pending_bytes > keep_bytes
            && let Some(record) = self.pending.pop_front_if(|record| record.lsn <= up_to)
        {
            self.pending_bytes -= record.cost();
            self.written_back = record.lsn;
        }
        if self.written_back > before {
            let released = self.written_back;
            self.overlay.retain(|content| content.lsn > released);
        }
    }

    /// Bytes written to the data area since its last flush began.
    #[must_use]
    pub fn unflushed_bytes(&self) -> u64 {
        self.unflushed_bytes
    }

    /// A flush of the data area begins; it covers everything up to the Lsn returned.
    pub fn on_flush_started(&mut self) -> Lsn {
        self.unflushed_bytes = 0;
        self.written_back
    }
}

/// Whether a round may wait for more to coalesce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// It may.
    CanWait,
    /// Memory or journal is short, or the node stops.
    Now,
}

/// A range of zeroes, in parts.
fn zero_ios(range: BlockRange, method: ZeroMethod) -> impl Iterator<Item = DataIo> {
    let starts = (range.first..range.end()).step_by(bytes_usize(DATA_ZERO_BLOCKS_MAX));
    starts.map(move |first| {
        DataIo::Zero(BlockRange::new(first, DATA_ZERO_BLOCKS_MAX.min(range.end() - first)), method)
    })
}

/// The I/Os that bring `newest` into the data area: neighbours merged, in block order.
fn data_ios(newest: &ExtentMap<Content>) -> VecDeque<DataIo> {
    let mut ios: VecDeque<DataIo> = VecDeque::new();
    for (range, content) in newest.iter() {
        match &content.bytes {
            ContentBytes::Zero(method) => ios.extend(zero_ios(range, *method)),
            ContentBytes::Payload(payload) => match ios.back_mut() {
                Some(DataIo::Write(previous, pieces))
                    if previous.end() == range.first
                        && previous.bytes() + range.bytes() <= DATA_WRITE_BYTES_MAX =>
                {
                    *previous = BlockRange::new(previous.first, previous.count + range.count);
                    pieces.push(payload.clone());
                }
                _ => ios.push_back(DataIo::Write(range, vec![payload.clone()])),
            },
        }
    }
    ios
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(lsn: u64, first: u64, count: u64, byte: u8) -> Record {
        let payload = vec![byte; usize::try_from(count * BLOCK_BYTES).unwrap()];
        Record::write(Lsn(lsn), BlockRange::new(first, count), payload.into())
    }

    fn advance(write_back: &mut WriteBack, stable: u64) -> Vec<Effect> {
        let mut effects = Effects::default();
        let mut number = 0;
        let mut next_io = || {
            number += 1;
            IoId(number)
        };
        write_back.advance(Tick(0), Lsn(stable), Urgency::Now, &mut next_io, &mut effects);
        effects.drain().collect()
    }

    #[test]
    fn what_is_not_stable_stays_in_the_journal() {
        let mut write_back = WriteBack::new(Lsn(0));
        write_back.accept(write(1, 0, 1, 1), Tick(0));
        write_back.accept(write(2, 0, 1, 2), Tick(0));
        assert!(advance(&mut write_back, 0).is_empty());
        let effects = advance(&mut write_back, 1);
        assert!(matches!(&effects[..], [Effect::WriteData { pieces, .. }] if pieces[0][0] == 1));
        write_back.on_data_written(IoId(1), Tick(0));
        assert_eq!(write_back.written_back(), Lsn(1));
        assert!(
            matches!(&write_back.pieces(BlockRange::new(0, 1))[..], [Piece::Held(_, content)] if content.lsn == Lsn(2))
        );
    }

    #[test]
    fn overwritten_blocks_are_written_once_and_neighbours_together() {
        let mut write_back = WriteBack::new(Lsn(0));
        for (lsn, (block, byte)) in (1..).zip([(5, 1), (6, 2), (5, 3), (7, 4), (9, 5)]) {
            write_back.accept(write(lsn, block, 1, byte), Tick(0));
        }
        let effects = advance(&mut write_back, 5);
        let ranges: Vec<_> = effects
            .iter()
            .map(|effect| match effect {
                Effect::WriteData { range, pieces, .. } => {
                    (*range, pieces.iter().map(|piece| piece[0]).collect())
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let expected: [(BlockRange, Vec<u8>); 2] =
            [(BlockRange::new(5, 3), vec![3, 2, 4]), (BlockRange::new(9, 1), vec![5])];
        assert_eq!(ranges, expected);
    }

    #[test]
    fn a_cut_brings_back_what_the_cut_records_had_hidden() {
        let mut write_back = WriteBack::new(Lsn(0));
        write_back.accept(write(1, 0, 4, 1), Tick(0));
        write_back.accept(write(2, 1, 1, 2), Tick(0));
        write_back.cut(Lsn(1));
        assert_eq!(write_back.newest(), Lsn(1));
        assert!(
            matches!(&write_back.pieces(BlockRange::new(0, 4))[..], [Piece::Held(range, _)] if range.count == 4)
        );
    }

    #[test]
    #[should_panic(expected = "I3")]
    fn a_record_that_is_written_back_cannot_be_cut() {
        let mut write_back = WriteBack::new(Lsn(0));
        write_back.accept(write(1, 0, 1, 1), Tick(0));
        advance(&mut write_back, 1);
        write_back.on_data_written(IoId(1), Tick(0));
        write_back.cut(Lsn(0));
    }
}
