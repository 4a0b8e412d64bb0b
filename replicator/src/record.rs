//! A record: one write as journal, peers and write-back see it. Whole blocks, one Lsn, immutable payload.

use bytes::Bytes;

use crate::checksum::BlockSums;
use crate::units::{BLOCK_BYTES, BlockRange, Lsn, bytes_u64};

/// Most blocks that one record with payload carries (1 MiB); larger writes become several records.
pub const RECORD_BLOCKS_MAX: u64 = 256;
/// What a record costs besides its payload, bytes.
const RECORD_OVERHEAD_BYTES: u64 = 256;

/// What a record does to its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKind {
    /// The payload replaces the blocks.
    Write,
    /// The blocks read as zero and stay allocated.
    Zeroes,
    /// The blocks read as zero and their space is given back.
    Trim,
}

impl RecordKind {
    /// Every kind, with its number on disk and on the wire.
    pub const ALL: [(Self, u8); 3] = [(Self::Write, 1), (Self::Zeroes, 2), (Self::Trim, 3)];

    /// The number on disk and on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        Self::ALL.iter().find(|(kind, _)| *kind == self).expect("the table has every kind").1
    }

    /// The kind with number `code`, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, number)| *number == code).map(|(kind, _)| *kind)
    }
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub lsn: Lsn,
    /// What it does.
    pub kind: RecordKind,
    /// Where.
    pub range: BlockRange,
    /// The bytes (whole blocks) for [`RecordKind::Write`], else empty.
    pub payload: Bytes,
    /// One checksum for each block of the payload.
    pub sums: BlockSums,
}

impl Record {
    /// A write of `payload` at `range`, its checksums computed here, once.
    #[must_use]
    pub fn write(lsn: Lsn, range: BlockRange, payload: Bytes) -> Self {
        assert_eq!(bytes_u64(payload.len()), range.bytes(), "payload and range differ in length");
        assert!(range.count <= RECORD_BLOCKS_MAX, "a record carries at most {RECORD_BLOCKS_MAX} blocks");
        let sums = BlockSums::of(&payload);
        Self { lsn, kind: RecordKind::Write, range, payload, sums }
    }

    /// Bytes of memory that it takes: what queues and windows count, so that records without a payload are bounded
    /// in number too.
    #[must_use]
    pub fn cost(&self) -> u64 {
        bytes_u64(self.payload.len()) + RECORD_OVERHEAD_BYTES
    }

    /// A record without payload.
    #[must_use]
    pub fn zero(lsn: Lsn, kind: RecordKind, range: BlockRange) -> Self {
        assert!(kind != RecordKind::Write, "a write has a payload");
        Self { lsn, kind, range, payload: Bytes::new(), sums: BlockSums::None }
    }

    /// Blocks of payload.
    #[must_use]
    pub fn payload_blocks(&self) -> u64 {
        bytes_u64(self.payload.len()) / BLOCK_BYTES
    }

    /// Whether the payload matches its checksums.
    #[must_use]
    pub fn verify(&self) -> bool {
        self.sums.verify(&self.payload)
    }
}
