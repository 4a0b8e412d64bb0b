//! A disk that does what it is told when the script says so, and may lie about what it holds. What was written is
//! written; a power cut is not its business.

use std::collections::BTreeMap;

use bytes::Bytes;
use replicator::effect::{Effect, ZeroMethod};
use replicator::event::{AllocatedExtent, Event, IoId};
use replicator::units::{BLOCK_BYTES, BLOCK_SIZE, BlockRange, ByteRange, bytes_u64, bytes_usize};

use super::script::Script;

static ZEROES: [u8; 16 << 20] = [0; 16 << 20];

/// Blocks by their place, in blocks.
#[derive(Default)]
pub struct Area(BTreeMap<u64, Bytes>);

impl Area {
    pub fn write(&mut self, first: u64, bytes: &Bytes) {
        for at in 0..bytes.len() / BLOCK_SIZE {
            let block = bytes.slice(at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE);
            if block.iter().all(|byte| *byte == 0) {
                self.0.remove(&(first + bytes_u64(at)));
            } else {
                self.0.insert(first + bytes_u64(at), block);
            }
        }
    }

    pub fn read(&self, first: u64, count: u64) -> Bytes {
        // A journal is looked through at every start, and mostly there is next to nothing in it.
        let is_zero = self.0.range(first..first + count).next().is_none();
        if let Some(zeroes) = ZEROES.get(..bytes_usize(count * BLOCK_BYTES)).filter(|_| is_zero) {
            return Bytes::from_static(zeroes);
        }
        let mut bytes = vec![0; bytes_usize(count * BLOCK_BYTES)];
        for (at, block) in self.0.range(first..first + count) {
            let at = bytes_usize((at - first) * BLOCK_BYTES);
            bytes[at..at + BLOCK_SIZE].copy_from_slice(block);
        }
        Bytes::from(bytes)
    }
}

/// An I/O that was ordered and is not reported.
pub enum Work {
    Metadata(Vec<(u64, Bytes)>),
    Data(u64, Bytes),
    Zero(BlockRange),
    Flush,
    ReadMetadata(u64, u64),
    ReadData(BlockRange),
    FindAllocated(BlockRange),
}

/// The work that an effect orders.
pub fn work_of(effect: Effect) -> Result<(IoId, Work), Effect> {
    let blocks = |offset: u64| offset / BLOCK_BYTES;
    Ok(match effect {
        Effect::WriteJournal { io, offset, descriptor, payloads } => {
            let bytes = Bytes::from([&descriptor[..], &payloads.concat()].concat());
            (io, Work::Metadata(vec![(blocks(offset), bytes)]))
        }
        Effect::WriteSuperblock { io, offset, bytes } => {
            (io, Work::Metadata(vec![(blocks(offset), Bytes::from(bytes))]))
        }
        Effect::WriteBitmapPages { io, pages } => {
            let pages = pages.into_iter().map(|(offset, page)| (blocks(offset), Bytes::from(page)));
            (io, Work::Metadata(pages.collect()))
        }
        Effect::WriteData { io, range, pieces } => {
            let bytes = Bytes::from(pieces.concat());
            assert_eq!(bytes_u64(bytes.len()), range.bytes(), "the pieces fill the range");
            (io, Work::Data(range.first, bytes))
        }
        Effect::ZeroData { io, range, method: ZeroMethod::KeepSpace | ZeroMethod::ReleaseSpace } => {
            (io, Work::Zero(range))
        }
        Effect::FlushJournal { io } | Effect::FlushData { io } => (io, Work::Flush),
        Effect::ReadJournal { io, offset, length } => {
            (io, Work::ReadMetadata(blocks(offset), blocks(length)))
        }
        Effect::ReadData { io, range } => (io, Work::ReadData(range)),
        Effect::FindAllocated { io, range } => (io, Work::FindAllocated(range)),
        other => return Err(other),
    })
}

/// Metadata area and data area.
#[derive(Default)]
pub struct Disk {
    pub metadata: Area,
    pub data: Area,
}

impl Disk {
    /// Does the work, or only as much of it as the script says, and reports it.
    pub fn carry_out(&mut self, io: IoId, work: Work, script: &mut Script<'_>) -> Event {
        match work {
            Work::Metadata(pieces) => {
                pieces.iter().for_each(|(first, bytes)| self.metadata.write(*first, bytes));
                Event::IoCompleted { io }
            }
            Work::Data(first, bytes) => {
                self.data.write(first, &bytes);
                Event::IoCompleted { io }
            }
            Work::Zero(range) => {
                self.data.write(range.first, &Bytes::from(vec![0; bytes_usize(range.bytes())]));
                Event::IoCompleted { io }
            }
            Work::Flush => Event::IoCompleted { io },
            Work::ReadMetadata(first, count) => read(io, self.metadata.read(first, count), script),
            Work::ReadData(range) => read(io, self.data.read(range.first, range.count), script),
            Work::FindAllocated(range) => {
                let range = ByteRange::new(range.byte_offset(), range.bytes());
                Event::AllocationFound { io, extents: extents(range, script) }
            }
        }
    }
}

/// What a read finds: now and then bytes that were never written.
fn read(io: IoId, bytes: Bytes, script: &mut Script<'_>) -> Event {
    let bytes = match script.below(32) {
        31 => {
            let (value, length) = (script.byte(), bytes.len());
            Bytes::from(vec![value; length])
        }
        30 => {
            let mut damaged = bytes.to_vec();
            for _ in 0..4 {
                let at = bytes_usize(script.number()) % damaged.len();
                damaged[at] ^= script.byte();
            }
            Bytes::from(damaged)
        }
        _ => bytes,
    };
    Event::BytesRead { io, bytes }
}

/// Extents that cover a range in order.
fn extents(range: ByteRange, script: &mut Script<'_>) -> Vec<AllocatedExtent> {
    let mut extents = Vec::new();
    let mut offset = range.offset;
    while offset < range.end() {
        let is_hole = script.flag();
        // Devices tell of ranges that do not begin or end with a block.
        let length = u64::from(script.byte()) * 512 * 8 + u64::from(script.below(2)) * 512;
        let length = if length == 0 { range.end() - offset } else { length.min(range.end() - offset) };
        extents.push(AllocatedExtent { range: ByteRange::new(offset, length), is_hole });
        offset += length;
    }
    extents
}
