//! Ragged writes: requests that do not start or end on a block boundary. The blocks at their edges are read,
//! merged with the request's bytes, and written as whole blocks. While an edit waits for its edges, other
//! writes to its blocks wait for it, so that no byte of theirs is lost.

use bytes::Bytes;

use crate::event::{Allocation, Durability};
use crate::record::{RECORD_BLOCKS_MAX, Record, RecordKind};
use crate::units::{
    BLOCK_BYTES, BLOCK_SIZE, BlockRange, ByteRange, Lsn, RequestId, Tick, bytes_usize, index_range,
};

/// What a ragged request does.
#[derive(Clone, Debug)]
pub enum EditKind {
    /// Replaces the bytes.
    Write(Bytes),
    /// Zeroes the bytes.
    Zeroes(Allocation),
}

/// A ragged request whose edge blocks are being read.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Whose request.
    pub id: RequestId,
    /// What its answer promises.
    pub durability: Durability,
    /// Since when it has waited.
    pub since: Tick,
    /// Which bytes.
    pub range: ByteRange,
    /// What happens to them.
    pub kind: EditKind,
    /// The edge blocks, each with its content once it is known.
    pub edges: Vec<(u64, Option<Bytes>)>,
}

impl Edit {
    /// An edit of `range`, none of whose edges is known yet. The range is not empty.
    #[must_use]
    pub fn new(id: RequestId, durability: Durability, range: ByteRange, kind: EditKind, since: Tick) -> Self {
        let blocks = range.covering_blocks().expect("an edit is not empty");
        let mut edges = Vec::new();
        if !range.offset.is_multiple_of(BLOCK_BYTES) {
            edges.push((blocks.first, None));
        }
        let last = blocks.end() - 1;
        if !range.end().is_multiple_of(BLOCK_BYTES) && edges.first() != Some(&(last, None)) {
            edges.push((last, None));
        }
        Self { id, durability, since, range, kind, edges }
    }

    /// Every block that the edit touches.
    #[must_use]
    pub fn blocks(&self) -> BlockRange {
        self.range.covering_blocks().expect("an edit is not empty")
    }

    /// The content of an edge block arrived.
    pub fn on_edge(&mut self, block: u64, content: Bytes) {
        assert_eq!(content.len(), BLOCK_SIZE, "an edge is one block");
        let edge = self.edges.iter_mut().find(|(edge, _)| *edge == block).expect("only edges are read");
        edge.1 = Some(content);
    }

    /// The edge blocks whose content is not known.
    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        self.edges.iter().filter(|(_, content)| content.is_none()).map(|(block, _)| *block)
    }

    /// Whether every edge is known.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.edges.iter().all(|(_, content)| content.is_some())
    }

    /// The records of the edit, numbered from `first` on.
    #[must_use]
    pub fn records(&self, first: Lsn) -> Vec<Record> {
        match &self.kind {
            EditKind::Write(bytes) => {
                payload_records(first, self.blocks(), &self.merged(self.blocks(), Some(bytes)))
            }
            EditKind::Zeroes(allocation) => self.zero_records(first, *allocation),
        }
    }

    /// Edge blocks as writes of whole blocks, what lies between them as one record without payload.
    fn zero_records(&self, first: Lsn, allocation: Allocation) -> Vec<Record> {
        let middle = self.range.whole_blocks();
        let mut records = Vec::new();
        let mut lsn = first;
        for (block, _) in &self.edges {
            let edge = BlockRange::new(*block, 1);
            records.push(Record::write(lsn, edge, self.merged(edge, None)));
            lsn = lsn.next();
        }
        if let Some(middle) = middle {
            records.push(Record::zero(lsn, zero_kind(allocation), middle));
        }
        records
    }

    /// The content of `blocks` after the edit; `new` are the request's bytes, or zeroes.
    fn merged(&self, blocks: BlockRange, new: Option<&Bytes>) -> Bytes {
        let mut merged = vec![0; bytes_usize(blocks.bytes())];
        for (block, content) in &self.edges {
            if *block >= blocks.first && *block < blocks.end() {
                let at = bytes_usize((block - blocks.first) * BLOCK_BYTES);
                merged[at..at + BLOCK_SIZE].copy_from_slice(content.as_ref().expect("every edge is known"));
            }
        }
        let start = self.range.offset.max(blocks.byte_offset());
        let end = self.range.end().min(blocks.byte_offset() + blocks.bytes());
        let place = &mut merged[index_range(start - blocks.byte_offset()..end - blocks.byte_offset())];
        match new {
            Some(bytes) => {
                place.copy_from_slice(&bytes[index_range(start - self.range.offset..end - self.range.offset)])
            }
            None => place.fill(0),
        }
        Bytes::from(merged)
    }
}

/// The kind of record that zeroes whole blocks.
#[must_use]
pub fn zero_kind(allocation: Allocation) -> RecordKind {
    match allocation {
        Allocation::Keep => RecordKind::Zeroes,
        Allocation::Release => RecordKind::Trim,
    }
}

/// `payload` as records of at most [`RECORD_BLOCKS_MAX`] blocks, numbered from `first` on.
#[must_use]
pub fn payload_records(first: Lsn, range: BlockRange, payload: &Bytes) -> Vec<Record> {
    let mut records = Vec::new();
    let mut done = 0;
    let mut lsn = first;
    while done < range.count {
        let count = (range.count - done).min(RECORD_BLOCKS_MAX);
        let bytes = payload.slice(index_range(done * BLOCK_BYTES..(done + count) * BLOCK_BYTES));
        records.push(Record::write(lsn, BlockRange::new(range.first + done, count), bytes));
        lsn = lsn.next();
        done += count;
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_edit_changes_the_bytes_asked_for_and_no_other(offset in 0u64..20_000, length in 1u64..20_000, zeroes in any::<bool>()) {
            let volume: Vec<u8> = (0..49_152u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let range = ByteRange::new(offset, length);
            let new = Bytes::from(vec![0xEE; bytes_usize(length)]);
            let kind = if zeroes { EditKind::Zeroes(Allocation::Release) } else { EditKind::Write(new) };
            let mut edit = Edit::new(RequestId(1), Durability::Complete, range, kind, Tick(0));
            for (block, _) in edit.edges.clone() {
                let at = bytes_usize(block * BLOCK_BYTES);
                edit.on_edge(block, Bytes::copy_from_slice(&volume[at..at + BLOCK_SIZE]));
            }
            prop_assert!(edit.is_ready());
            let mut expected = volume.clone();
            expected[index_range(offset..range.end())].fill(if zeroes { 0 } else { 0xEE });
            let mut result = volume;
            for record in edit.records(Lsn(1)) {
                let place = &mut result[index_range(record.range.byte_offset()..record.range.byte_offset() + record.range.bytes())];
                match record.kind {
                    RecordKind::Write => place.copy_from_slice(&record.payload),
                    RecordKind::Zeroes | RecordKind::Trim => place.fill(0),
                }
            }
            prop_assert!(result == expected);
        }
    }

    #[test]
    fn a_large_write_becomes_records_of_at_most_a_megabyte() {
        let payload = Bytes::from(vec![1; BLOCK_SIZE * 600]);
        let records = payload_records(Lsn(5), BlockRange::new(10, 600), &payload);
        let shape: Vec<_> =
            records.iter().map(|record| (record.lsn.0, record.range.first, record.range.count)).collect();
        assert_eq!(shape, [(5, 10, 256), (6, 266, 256), (7, 522, 88)]);
    }
}
