//! The disks of a running replica: carries out its orders to journal, metadata and data area through the ring.
//!
//! Rule: the first failure poisons the disk it happened on. From then on every order to that disk fails, and what
//! was under way counts as failed, because a flush that succeeds after a failed write proves nothing. Nothing is
//! ever tried again. What the orders mean is not known here.

pub mod create;
pub mod device;
pub mod signatures;
pub mod start;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use replicator::effect::ZeroMethod;
use replicator::event::{AllocatedExtent, Event, IoId};
use replicator::units::{BLOCK_BYTES, BlockRange, ByteRange, bytes_u64, bytes_usize};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::data_plane::backing_device::device::{Device, DeviceKind};
use crate::data_plane::buffers::{PoolBuffer, is_aligned};
use crate::data_plane::ring::{Operation, Outcome};
use crate::data_plane::round::{Round, Tag};

/// Most extents that one allocation query looks for; what is behind them is reported as data.
const EXTENTS_MAX: usize = 256;
/// Bytes of zeroes that one write takes where the kernel cannot zero by itself.
const ZERO_WRITE_BYTES_MAX: u64 = 8 << 20;
/// Bytes of the zeroes that are kept for that.
const ZERO_PIECE_BYTES: usize = 256 << 10;

/// Which of the two disks of a replica; with internal metadata both are one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Journal, superblock and bitmap.
    Metadata,
    /// The volume.
    Data,
}

/// An operation of this module, in the ring.
#[derive(Clone, Copy, Debug)]
pub struct DiskTag {
    io: IoId,
    disk: Disk,
    step: Step,
}

/// Which part of its order an operation is.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The only or the last one.
    Last,
    /// A write that must be flushed before it is reported; perhaps one of several.
    WriteBeforeFlush,
    /// Zeroing by this method.
    Zero { attempt: ZeroAttempt, range: BlockRange },
}

/// Ways to make blocks read as zero, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ZeroAttempt {
    /// Give the space back.
    PunchHole,
    /// Let the kernel or the device zero it.
    ZeroRange,
    /// Write zeroes, `done` blocks so far.
    Write { done: u64 },
}

/// Data and metadata disk of one replica.
#[derive(Debug)]
pub struct BackingDevice {
    data: Device,
    metadata: Device,
    /// Where the metadata area begins on its device.
    metadata_offset: u64,
    poison: [Option<Errno>; 2],
    /// Writes that are left before the flush of an order with several.
    writes_before_flush: BTreeMap<IoId, usize>,
    zeroes: Option<Bytes>,
}

impl BackingDevice {
    /// The disks, as `start` has opened and checked them.
    #[must_use]
    pub fn new(data: Device, metadata: Device, metadata_offset: u64) -> Self {
        Self {
            data,
            metadata,
            metadata_offset,
            poison: [None; 2],
            writes_before_flush: BTreeMap::new(),
            zeroes: None,
        }
    }

    /// Writes `descriptor` and `payloads`, one behind the other, to the metadata area.
    pub fn write_journal(
        &mut self,
        round: &mut Round,
        io: IoId,
        offset: u64,
        descriptor: &[u8],
        payloads: Vec<Bytes>,
    ) {
        let mut pieces = Vec::with_capacity(payloads.len() + 1);
        pieces.push(PoolBuffer::copy_of(descriptor).freeze());
        pieces.extend(payloads);
        self.write(round, DiskTag { io, disk: Disk::Metadata, step: Step::Last }, offset, pieces);
    }

    /// Writes pages of the metadata area, each at its own offset, and flushes them before it reports.
    pub fn write_pages(&mut self, round: &mut Round, io: IoId, pages: &[(u64, &[u8])]) {
        assert!(!pages.is_empty(), "an order to write names at least one page");
        if let Some(errno) = self.poison_of(Disk::Metadata) {
            return self.fail(round, DiskTag { io, disk: Disk::Metadata, step: Step::Last }, errno);
        }
        self.writes_before_flush.insert(io, pages.len());
        for (offset, bytes) in pages {
            let pieces = vec![PoolBuffer::copy_of(bytes).freeze()];
            let tag = DiskTag { io, disk: Disk::Metadata, step: Step::WriteBeforeFlush };
            self.write(round, tag, *offset, pieces);
        }
    }

    /// Writes `pieces`, which fill `range`, to the data area.
    pub fn write_data(&mut self, round: &mut Round, io: IoId, range: BlockRange, pieces: Vec<Bytes>) {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        assert_eq!(bytes_u64(length), range.bytes(), "pieces and range differ in length");
        let tag = DiskTag { io, disk: Disk::Data, step: Step::Last };
        self.write(round, tag, range.byte_offset(), pieces);
    }

    /// Reads `length` bytes, whole blocks, of a disk.
    pub fn read(&mut self, round: &mut Round, io: IoId, disk: Disk, offset: u64, length: u64) {
        let operation = Operation::Read {
            file: self.file(disk),
            offset: self.offset_on(disk, offset),
            buffer: PoolBuffer::with_length(bytes_usize(length)),
        };
        self.submit(round, DiskTag { io, disk, step: Step::Last }, operation);
    }

    /// Flushes a disk.
    pub fn flush(&mut self, round: &mut Round, io: IoId, disk: Disk) {
        let operation = Operation::Flush { file: self.file(disk) };
        self.submit(round, DiskTag { io, disk, step: Step::Last }, operation);
    }

    /// Makes blocks of the data area read as zero.
    pub fn zero_data(&mut self, round: &mut Round, io: IoId, range: BlockRange, method: ZeroMethod) {
        let attempt = match method {
            ZeroMethod::ReleaseSpace => ZeroAttempt::PunchHole,
            ZeroMethod::KeepSpace => ZeroAttempt::ZeroRange,
        };
        self.zero_by(round, io, range, attempt);
    }

    /// Reports which parts of the data area are holes. Only a file can tell; a device holds data everywhere.
    pub fn find_allocated(&mut self, round: &mut Round, io: IoId, range: BlockRange) {
        if let Some(errno) = self.poison_of(Disk::Data) {
            return self.fail(round, DiskTag { io, disk: Disk::Data, step: Step::Last }, errno);
        }
        let found = match self.data.kind {
            DeviceKind::BlockDevice => None,
            // A file system that cannot tell has lost no data.
            DeviceKind::File => find_holes(&self.data, range).ok(),
        };
        let all = ByteRange::new(range.byte_offset(), range.bytes());
        let extents = found.unwrap_or_else(|| vec![AllocatedExtent { range: all, is_hole: false }]);
        round.events.push_back(Event::AllocationFound { io, extents });
    }

    /// Takes the completion of an operation of this module.
    pub fn on_completion(&mut self, round: &mut Round, tag: DiskTag, outcome: Outcome) {
        let DiskTag { io, disk, step } = tag;
        if let (Outcome::Failed(Errno::OPNOTSUPP), Step::Zero { attempt, range }) = (&outcome, step)
            && let Some(next) = attempt.next()
        {
            return self.zero_by(round, io, range, next);
        }
        if let Outcome::Failed(errno) = outcome {
            return self.fail(round, tag, errno);
        }
        if let Some(errno) = self.poison_of(disk) {
            return self.fail(round, tag, errno);
        }
        match (outcome, step) {
            (Outcome::Read(buffer), Step::Last) => {
                round.events.push_back(Event::BytesRead { io, bytes: buffer.freeze() });
            }
            (Outcome::Written, Step::WriteBeforeFlush) => {
                let left = self.writes_before_flush.get_mut(&io).expect("it goes only when a write fails");
                *left -= 1;
                if *left == 0 {
                    self.writes_before_flush.remove(&io);
                    self.flush(round, io, disk);
                }
            }
            (Outcome::Written, Step::Zero { attempt: ZeroAttempt::Write { done }, range })
                if done + zero_write_blocks(range, done) < range.count =>
            {
                let done = done + zero_write_blocks(range, done);
                self.zero_by(round, io, range, ZeroAttempt::Write { done });
            }
            (Outcome::Written | Outcome::Flushed | Outcome::Allocated, Step::Last | Step::Zero { .. }) => {
                round.events.push_back(Event::IoCompleted { io })
            }
            (outcome, step) => panic!("a disk operation at step {step:?} ended as {outcome:?}"),
        }
    }

    fn write(&mut self, round: &mut Round, tag: DiskTag, offset: u64, mut pieces: Vec<Bytes>) {
        assert!(offset.is_multiple_of(BLOCK_BYTES), "a write begins on a block boundary, not at {offset}");
        for piece in &mut pieces {
            assert!(bytes_u64(piece.len()).is_multiple_of(BLOCK_BYTES), "a piece is whole blocks");
            // Only requests that were not aligned themselves lead here.
            if !is_aligned(piece) {
                *piece = PoolBuffer::copy_of(piece).freeze();
            }
        }
        let operation =
            Operation::Write { file: self.file(tag.disk), offset: self.offset_on(tag.disk, offset), pieces };
        self.submit(round, tag, operation);
    }

    fn zero_by(&mut self, round: &mut Round, io: IoId, range: BlockRange, attempt: ZeroAttempt) {
        let file = self.file(Disk::Data);
        let operation = match attempt {
            ZeroAttempt::PunchHole | ZeroAttempt::ZeroRange => {
                let mode = match attempt {
                    ZeroAttempt::PunchHole => libc::FALLOC_FL_PUNCH_HOLE,
                    ZeroAttempt::ZeroRange | ZeroAttempt::Write { .. } => libc::FALLOC_FL_ZERO_RANGE,
                };
                let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
                Operation::Allocate { file, mode, offset: range.byte_offset(), length: range.bytes() }
            }
            ZeroAttempt::Write { done } => {
                let length = bytes_usize(zero_write_blocks(range, done) * BLOCK_BYTES);
                let offset = range.byte_offset() + done * BLOCK_BYTES;
                Operation::Write { file, offset, pieces: self.zero_pieces(length) }
            }
        };
        let tag = DiskTag { io, disk: Disk::Data, step: Step::Zero { attempt, range } };
        self.submit(round, tag, operation);
    }

    /// `length` bytes of zeroes, all of them the same memory.
    fn zero_pieces(&mut self, length: usize) -> Vec<Bytes> {
        let zeroes = self.zeroes.get_or_insert_with(|| {
            let mut buffer = PoolBuffer::with_length(ZERO_PIECE_BYTES);
            buffer.fill(0);
            buffer.freeze()
        });
        let whole = std::iter::repeat_n(zeroes.clone(), length / ZERO_PIECE_BYTES);
        let rest = zeroes.slice(..length % ZERO_PIECE_BYTES);
        whole.chain((!rest.is_empty()).then_some(rest)).collect()
    }

    /// Hands an operation to the ring, unless its disk has failed.
    fn submit(&mut self, round: &mut Round, tag: DiskTag, operation: Operation) {
        match self.poison_of(tag.disk) {
            Some(errno) => self.fail(round, tag, errno),
            None => round.ring.submit(Tag::Disk(tag), operation),
        }
    }

    /// Poisons a disk and reports an order as failed.
    fn fail(&mut self, round: &mut Round, tag: DiskTag, errno: Errno) {
        let first = *self.poison[tag.disk.index()].get_or_insert(errno);
        if self.data.is_same(&self.metadata) {
            self.poison = [Some(first); 2];
        }
        let is_reported = match tag.step {
            Step::Last | Step::Zero { .. } => false,
            // An order of several writes fails once, with the first of them.
            Step::WriteBeforeFlush => self.writes_before_flush.remove(&tag.io).is_none(),
        };
        if !is_reported {
            round.events.push_back(Event::IoFailed { io: tag.io, errno: errno.raw_os_error() });
        }
    }

    fn poison_of(&self, disk: Disk) -> Option<Errno> {
        self.poison[disk.index()]
    }

    fn file(&self, disk: Disk) -> Arc<std::os::fd::OwnedFd> {
        match disk {
            Disk::Metadata => self.metadata.file.clone(),
            Disk::Data => self.data.file.clone(),
        }
    }

    fn offset_on(&self, disk: Disk, offset: u64) -> u64 {
        match disk {
            Disk::Metadata => self.metadata_offset + offset,
            Disk::Data => offset,
        }
    }
}

impl Disk {
    fn index(self) -> usize {
        match self {
            Self::Metadata => 0,
            Self::Data => 1,
        }
    }
}

impl ZeroAttempt {
    /// What to try when the disk does not know this way.
    fn next(self) -> Option<Self> {
        match self {
            Self::PunchHole => Some(Self::ZeroRange),
            Self::ZeroRange => Some(Self::Write { done: 0 }),
            Self::Write { .. } => None,
        }
    }
}

/// How many blocks the next write of zeroes takes.
fn zero_write_blocks(range: BlockRange, done: u64) -> u64 {
    (range.count - done).min(ZERO_WRITE_BYTES_MAX / BLOCK_BYTES)
}

/// The holes and data of a part of a file, in order, covering the range. Holes are cut to whole blocks.
fn find_holes(file: &Device, range: BlockRange) -> Result<Vec<AllocatedExtent>, Errno> {
    let (start, end) = (range.byte_offset(), range.byte_offset() + range.bytes());
    let mut extents = Vec::new();
    let mut at = start;
    while at < end {
        let data_start = match rustix::fs::seek(&*file.file, SeekFrom::Data(at)) {
            // No data behind `at`.
            Err(Errno::NXIO) => end,
            other => other?,
        };
        // The block in which data begins counts as data as a whole.
        let data_start = (data_start - data_start % BLOCK_BYTES).clamp(at, end);
        if data_start > at {
            extents.push(AllocatedExtent { range: ByteRange::new(at, data_start - at), is_hole: true });
        }
        if data_start == end {
            break;
        }
        let data_end = if extents.len() + 1 >= EXTENTS_MAX {
            end
        } else {
            let found = rustix::fs::seek(&*file.file, SeekFrom::Hole(data_start))?;
            found.next_multiple_of(BLOCK_BYTES).clamp(data_start + BLOCK_BYTES, end)
        };
        let range = ByteRange::new(data_start, data_end - data_start);
        extents.push(AllocatedExtent { range, is_hole: false });
        at = data_end;
    }
    Ok(extents)
}

#[cfg(test)]
mod tests;
