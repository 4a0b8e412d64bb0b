//! Client reads: the newest bytes, from memory where a record is not in the data area yet, else from disk; and
//! queries of what is allocated, which say as much about the bytes. Both wait for a write that they overlap and that
//! is not complete. Knows nothing of leases: it is told when it may answer.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::effect::{Completion, Effect, Effects};
use crate::event::{AllocatedExtent, IoId};
use crate::units::{BLOCK_BYTES, BlockRange, ByteRange, Lsn, RequestId, bytes_usize, index_range};
use crate::write_back::extent_map::Piece;
use crate::write_back::{ContentBytes, WriteBack};

/// Zeroes to answer with.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// What a client wants to know of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Bytes,
    Allocation,
}

/// A read that waits for a write to be complete, or a query that waits for its turn besides.
#[derive(Clone, Copy, Debug)]
struct Parked {
    id: RequestId,
    wanted: Wanted,
    range: ByteRange,
    until: Lsn,
}

/// A query that the disk is being asked.
#[derive(Clone, Copy, Debug)]
struct Query {
    id: RequestId,
    io: IoId,
    range: ByteRange,
}

/// A read whose bytes are being fetched, or which waits for the leave to answer.
#[derive(Debug)]
struct Fetching {
    id: RequestId,
    range: ByteRange,
    /// Whole blocks, in order; `None` while the disk is being read.
    pieces: Vec<Option<Vec<Bytes>>>,
    missing: usize,
}

/// Client reads.
#[derive(Debug, Default)]
pub struct Reads {
    parked: Vec<Parked>,
    fetching: BTreeMap<u64, Fetching>,
    /// Read of the data area → which read, which piece.
    disk: BTreeMap<IoId, (u64, usize)>,
    /// The query that the disk is being asked: one at a time, because the answer may take it a while.
    query: Option<Query>,
    /// Answers to queries, which wait for the leave to go.
    allocations: Vec<(RequestId, Completion)>,
    answered_bytes: u64,
    next: u64,
}

impl Reads {
    /// A read arrived. It may start when everything up to `until` is complete.
    pub fn arrive(&mut self, id: RequestId, range: ByteRange, until: Lsn) {
        self.parked.push(Parked { id, wanted: Wanted::Bytes, range, until });
    }

    /// A query of what is allocated arrived. It may start when everything up to `until` is complete.
    pub fn query(&mut self, id: RequestId, range: ByteRange, until: Lsn) {
        self.parked.push(Parked { id, wanted: Wanted::Allocation, range, until });
    }

    /// Starts what may start.
    pub fn advance(
        &mut self,
        complete: Lsn,
        write_back: &WriteBack,
        next_io: &mut impl FnMut() -> IoId,
        effects: &mut Effects,
    ) {
        if self.parked.is_empty() {
            return;
        }
        let parked = std::mem::take(&mut self.parked);
        for mut read in parked {
            if read.until <= complete {
                // Writes that were accepted since the read arrived may still come to nothing.
                let blocks = read.range.covering_blocks();
                let newest = blocks.and_then(|blocks| write_back.newest_overlapping(blocks));
                read.until = newest.unwrap_or(Lsn::ZERO);
            }
            match read.wanted {
                _ if read.until > complete => self.parked.push(read),
                Wanted::Bytes => self.start(read, write_back, next_io, effects),
                Wanted::Allocation if self.query.is_some() => self.parked.push(read),
                Wanted::Allocation => self.ask_disk(read, next_io, effects),
            }
        }
    }

    /// Whether a read of some of these blocks waits. New writes to them wait behind it, so that it ends.
    #[must_use]
    pub fn wait_for(&self, blocks: BlockRange) -> bool {
        let ranges = self.parked.iter().filter_map(|read| read.range.covering_blocks());
        ranges.into_iter().any(|range| range.overlaps(blocks))
    }

    fn start(
        &mut self,
        read: Parked,
        write_back: &WriteBack,
        next_io: &mut impl FnMut() -> IoId,
        effects: &mut Effects,
    ) {
        let number = self.next;
        self.next += 1;
        let blocks = read.range.covering_blocks();
        let found = blocks.map_or(Vec::new(), |blocks| write_back.pieces(blocks));
        let mut pieces = Vec::with_capacity(found.len());
        for piece in found {
            pieces.push(match piece {
                Piece::Held(range, content) => Some(match content.bytes {
                    ContentBytes::Payload(bytes) => vec![bytes],
                    ContentBytes::Zero(_) => zeroes(range.bytes()),
                }),
                Piece::Gap(range) => {
                    let io = next_io();
                    self.disk.insert(io, (number, pieces.len()));
                    effects.push(Effect::ReadData { io, range });
                    None
                }
            });
        }
        let missing = pieces.iter().filter(|piece| piece.is_none()).count();
        self.fetching.insert(number, Fetching { id: read.id, range: read.range, pieces, missing });
    }

    fn ask_disk(&mut self, query: Parked, next_io: &mut impl FnMut() -> IoId, effects: &mut Effects) {
        let Parked { id, range, .. } = query;
        let blocks = range.covering_blocks().expect("a query covers something");
        let io = next_io();
        self.query = Some(Query { id, io, range });
        effects.push(Effect::FindAllocated { io, range: blocks });
    }

    /// Bytes arrived from the data area, in pieces that follow one another. Returns whether they were for a client.
    pub fn on_bytes(&mut self, io: IoId, pieces: Vec<Bytes>) -> bool {
        let Some((number, piece)) = self.disk.remove(&io) else { return false };
        if let Some(fetching) = self.fetching.get_mut(&number) {
            fetching.pieces[piece] = Some(pieces);
            fetching.missing -= 1;
        }
        true
    }

    /// Answers every read whose bytes are there. Called only while this node may serve reads.
    pub fn answer(&mut self, effects: &mut Effects) {
        for (id, outcome) in self.allocations.drain(..) {
            effects.push(Effect::CompleteRequest { id, outcome });
        }
        if self.fetching.values().all(|fetching| fetching.missing > 0) {
            return;
        }
        let ready: Vec<u64> = self
            .fetching
            .iter()
            .filter(|(_, fetching)| fetching.missing == 0)
            .map(|(number, _)| *number)
            .collect();
        for number in ready {
            let fetching = self.fetching.remove(&number).expect("it was just found");
            let skip = fetching.range.offset % BLOCK_BYTES;
            let blocks = fetching.pieces.into_iter().flatten().flatten();
            let bytes = part_of(blocks, skip, fetching.range.length);
            self.answered_bytes += fetching.range.length;
            effects.push(Effect::CompleteRequest { id: fetching.id, outcome: Completion::Bytes(bytes) });
        }
    }

    /// The disk's answer to a query, corrected by what is not in the data area yet.
    pub fn on_allocation(
        &mut self,
        io: IoId,
        extents: &[AllocatedExtent],
        complete: Lsn,
        write_back: &WriteBack,
    ) {
        if let Some(query) = self.query.take_if(|query| query.io == io) {
            let extents = corrected_extents(query.range, extents, complete, write_back);
            self.allocations.push((query.id, Completion::Allocation(extents)));
        }
    }

    /// Bytes that clients have read.
    #[must_use]
    pub fn answered_bytes(&self) -> u64 {
        self.answered_bytes
    }

    /// Number of unanswered reads and queries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parked.len() + self.fetching.len() + usize::from(self.query.is_some()) + self.allocations.len()
    }

    /// Whether nothing is unanswered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads of the disk that have not come back.
    #[must_use]
    pub fn disk_reads(&self) -> usize {
        self.disk.len()
    }

    /// Lets whatever waits for bytes begin anew: they come from elsewhere now.
    pub fn restart(&mut self) {
        self.disk.clear();
        let begun: Vec<u64> =
            self.fetching.iter().filter(|(_, it)| it.missing > 0).map(|(at, _)| *at).collect();
        for number in begun {
            let Fetching { id, range, .. } = self.fetching.remove(&number).expect("it was just found");
            self.parked.push(Parked { id, wanted: Wanted::Bytes, range, until: Lsn::ZERO });
        }
        if let Some(Query { id, range, .. }) = self.query.take() {
            self.parked.push(Parked { id, wanted: Wanted::Allocation, range, until: Lsn::ZERO });
        }
    }

    /// Forgets every read, and says whose they were.
    pub fn take_all(&mut self) -> Vec<RequestId> {
        let parked = self.parked.iter().map(|read| read.id);
        let fetching = self.fetching.values().map(|read| read.id);
        let queries = self.query.iter().map(|query| query.id);
        let allocations = self.allocations.iter().map(|(id, _)| *id);
        let all = parked.chain(fetching).chain(queries).chain(allocations).collect();
        self.forget();
        all
    }

    /// Forgets every read. What comes from the disk later finds nobody.
    pub fn forget(&mut self) {
        self.parked.clear();
        self.fetching.clear();
        self.query = None;
        self.allocations.clear();
    }
}

/// `length` zero bytes, in pieces.
fn zeroes(length: u64) -> Vec<Bytes> {
    let mut left = bytes_usize(length);
    let mut pieces = Vec::new();
    while left > 0 {
        let part = left.min(ZEROES.len());
        pieces.push(Bytes::from_static(&ZEROES[..part]));
        left -= part;
    }
    pieces
}

/// `length` bytes of `pieces`, after `skip` bytes.
fn part_of(pieces: impl Iterator<Item = Bytes>, skip: u64, length: u64) -> Vec<Bytes> {
    let mut skip = bytes_usize(skip);
    let mut left = bytes_usize(length);
    let mut part = Vec::new();
    for piece in pieces {
        if skip >= piece.len() {
            skip -= piece.len();
            continue;
        }
        let take = left.min(piece.len() - skip);
        if take > 0 {
            part.push(piece.slice(skip..skip + take));
        }
        skip = 0;
        left -= take;
    }
    assert_eq!(left, 0, "a read is answered whole");
    part
}

/// What the disk says of `range`, overridden by pending records; neighbours of one kind are joined. Zeroes that may
/// still come to nothing make no hole.
fn corrected_extents(
    range: ByteRange,
    extents: &[AllocatedExtent],
    complete: Lsn,
    write_back: &WriteBack,
) -> Vec<AllocatedExtent> {
    let Some(blocks) = range.covering_blocks() else { return Vec::new() };
    let mut corrected: Vec<AllocatedExtent> = Vec::new();
    let mut add = |start: u64, end: u64, is_hole: bool| {
        let (start, end) = (start.max(range.offset), end.min(range.end()));
        if start >= end {
            return;
        }
        match corrected.last_mut() {
            Some(last) if last.is_hole == is_hole => last.range.length += end - start,
            _ => corrected.push(AllocatedExtent { range: ByteRange::new(start, end - start), is_hole }),
        }
    };
    for piece in write_back.pieces(blocks) {
        match piece {
            Piece::Held(held, content) => {
                let is_hole = matches!(content.bytes, ContentBytes::Zero(_)) && content.lsn <= complete;
                add(held.byte_offset(), held.byte_offset() + held.bytes(), is_hole);
            }
            Piece::Gap(gap) => {
                let (start, end) = (gap.byte_offset(), gap.byte_offset() + gap.bytes());
                for extent in extents {
                    add(extent.range.offset.max(start), extent.range.end().min(end), extent.is_hole);
                }
            }
        }
    }
    corrected
}

/// One block out of pending records, if they hold it.
#[must_use]
pub fn pending_block(write_back: &WriteBack, block: u64) -> Option<Bytes> {
    let pieces = write_back.pieces(crate::units::BlockRange::new(block, 1));
    match pieces.into_iter().next() {
        Some(Piece::Held(_, content)) => Some(match content.bytes {
            ContentBytes::Payload(bytes) => bytes,
            ContentBytes::Zero(_) => Bytes::from_static(&ZEROES[index_range(0..BLOCK_BYTES)]),
        }),
        Some(Piece::Gap(_)) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, RecordKind};
    use crate::units::{Tick, bytes_u64};

    #[test]
    fn a_read_takes_each_block_from_where_its_newest_bytes_are() {
        let mut write_back = WriteBack::new(Lsn(0));
        write_back.accept(Record::write(Lsn(1), BlockRange::new(1, 1), vec![7; 4096].into()), Tick(0));
        write_back.accept(Record::zero(Lsn(2), RecordKind::Trim, BlockRange::new(2, 1)), Tick(0));
        let (mut reads, mut effects, mut numbers) = (Reads::default(), Effects::default(), 0);
        let mut next_io = || {
            numbers += 1;
            IoId(numbers)
        };
        reads.arrive(RequestId(9), ByteRange::new(4000, 9000), Lsn(2));
        reads.advance(Lsn(1), &write_back, &mut next_io, &mut effects);
        assert!(effects.is_empty(), "record 2 is not complete");
        reads.advance(Lsn(2), &write_back, &mut next_io, &mut effects);
        let asked: Vec<_> = effects.drain().collect();
        assert!(matches!(asked[..], [Effect::ReadData { .. }, Effect::ReadData { .. }]), "{asked:?}");
        for io in 1..=2 {
            assert!(reads.on_bytes(IoId(io), vec![vec![5; 4096].into()]));
        }
        reads.answer(&mut effects);
        let answers: Vec<_> = effects.drain().collect();
        let [Effect::CompleteRequest { outcome: Completion::Bytes(bytes), .. }] = &answers[..] else {
            panic!("{answers:?}")
        };
        let mut expected = vec![5; 96];
        expected.extend([7; 4096]);
        expected.extend([0; 4096]);
        expected.extend([5; 712]);
        assert_eq!(bytes.concat(), expected);
        assert_eq!(bytes_u64(bytes.concat().len()), 9000);
    }

    #[test]
    fn a_query_of_what_is_allocated_waits_like_a_read_and_never_tells_of_a_trim_that_may_come_to_nothing() {
        let trim = |lsn, first| Record::zero(Lsn(lsn), RecordKind::Trim, BlockRange::new(first, 1));
        let mut write_back = WriteBack::new(Lsn(0));
        write_back.accept(trim(1, 0), Tick(0));
        let (mut reads, mut effects) = (Reads::default(), Effects::default());
        let range = ByteRange::new(0, 8192);
        reads.query(RequestId(9), range, Lsn(1));
        reads.advance(Lsn(0), &write_back, &mut || IoId(1), &mut effects);
        assert!(effects.is_empty(), "record 1 is not complete");
        reads.advance(Lsn(1), &write_back, &mut || IoId(1), &mut effects);
        assert!(matches!(effects.drain().next(), Some(Effect::FindAllocated { io: IoId(1), .. })));
        write_back.accept(trim(2, 1), Tick(0));
        reads.on_allocation(IoId(1), &[AllocatedExtent { range, is_hole: false }], Lsn(1), &write_back);
        assert!(effects.is_empty() && !reads.is_empty(), "it waits for the leave to answer");
        reads.answer(&mut effects);
        let answers: Vec<_> = effects.drain().collect();
        let [Effect::CompleteRequest { id: RequestId(9), outcome: Completion::Allocation(extents) }] =
            &answers[..]
        else {
            panic!("{answers:?}")
        };
        let expected = [(0, true), (4096, false)];
        assert_eq!(extents.len(), expected.len());
        for (extent, (start, is_hole)) in extents.iter().zip(expected) {
            assert_eq!((extent.range, extent.is_hole), (ByteRange::new(start, 4096), is_hole));
        }
    }

    #[test]
    fn a_read_that_waited_does_not_see_what_was_accepted_meanwhile_and_is_not_complete() {
        let write = |lsn| Record::write(Lsn(lsn), BlockRange::new(0, 1), vec![7; 4096].into());
        let mut write_back = WriteBack::new(Lsn(0));
        write_back.accept(write(1), Tick(0));
        let (mut reads, mut effects) = (Reads::default(), Effects::default());
        reads.arrive(RequestId(9), ByteRange::new(0, 4096), Lsn(1));
        assert!(reads.wait_for(BlockRange::new(0, 8)));
        write_back.accept(write(2), Tick(0));
        reads.advance(Lsn(1), &write_back, &mut || IoId(1), &mut effects);
        reads.answer(&mut effects);
        assert!(effects.is_empty(), "record 2 is not complete");
        reads.advance(Lsn(2), &write_back, &mut || IoId(1), &mut effects);
        reads.answer(&mut effects);
        assert!(!effects.is_empty());
    }
}
