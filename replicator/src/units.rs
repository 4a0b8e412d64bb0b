//! Newtypes for every number that has a unit, and the only conversions between them.
//! A bare integer in the core is a bug waiting for its twin: an Lsn is not a block, a tick is not a length.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Bytes of one block: the unit of journal, bitmap, checksums and resync.
pub const BLOCK_BYTES: u64 = 4096;
/// [`BLOCK_BYTES`] for lengths in memory.
pub const BLOCK_SIZE: usize = 4096;

/// Smallest volume, bytes.
pub const VOLUME_BYTES_MIN: u64 = 1 << 20;
/// Largest volume, bytes.
pub const VOLUME_BYTES_MAX: u64 = 16 << 40;

/// Number of a write. Starts at 1 on a new volume, has no gaps, and goes on across generations.
/// `Lsn::ZERO` stands for "nothing yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first write.
    pub const ZERO: Self = Self(0);

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("2^64 writes are never reached"))
    }

    /// The number before this one; `ZERO` stays `ZERO`.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// This number moved on by `count` writes.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("2^64 writes are never reached"))
    }

    /// How many writes lie between `earlier` (excluded) and this one (included); 0 if there are none.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run of whole blocks of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockRange {
    /// First block.
    pub first: u64,
    /// Number of blocks, at least 1.
    pub count: u64,
}

impl BlockRange {
    /// `count` blocks from `first` on.
    #[must_use]
    pub fn new(first: u64, count: u64) -> Self {
        assert!(count > 0, "a block range is never empty");
        assert!(first.checked_add(count).is_some(), "a block range ends below 2^64");
        Self { first, count }
    }

    /// The first block behind the range.
    #[must_use]
    pub fn end(self) -> u64 {
        self.first + self.count
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.count * BLOCK_BYTES
    }

    /// Byte offset of the first block in the volume.
    #[must_use]
    pub fn byte_offset(self) -> u64 {
        self.first * BLOCK_BYTES
    }

    /// Whether the two ranges share a block.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }
}

impl fmt::Display for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocks {}..{}", self.first, self.end())
    }
}

/// A run of bytes of the volume, as clients ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes; 0 is legal.
    pub length: u64,
}

impl ByteRange {
    /// `length` bytes from `offset` on.
    #[must_use]
    pub fn new(offset: u64, length: u64) -> Self {
        assert!(offset.checked_add(length).is_some(), "a byte range ends below 2^64");
        Self { offset, length }
    }

    /// The first byte behind the range.
    #[must_use]
    pub fn end(self) -> u64 {
        self.offset + self.length
    }

    /// Every block that the range touches; `None` if it is empty.
    #[must_use]
    pub fn covering_blocks(self) -> Option<BlockRange> {
        let first = self.offset / BLOCK_BYTES;
        let end = self.end().div_ceil(BLOCK_BYTES);
        (self.length > 0).then(|| BlockRange::new(first, end - first))
    }

    /// Every block that lies inside the range as a whole; `None` if there is none.
    #[must_use]
    pub fn whole_blocks(self) -> Option<BlockRange> {
        let first = self.offset.div_ceil(BLOCK_BYTES);
        let end = self.end() / BLOCK_BYTES;
        (first < end).then(|| BlockRange::new(first, end - first))
    }

    /// Whether the range starts and ends on block boundaries.
    #[must_use]
    pub fn is_block_aligned(self) -> bool {
        self.offset.is_multiple_of(BLOCK_BYTES) && self.length.is_multiple_of(BLOCK_BYTES)
    }
}

/// A length in memory as a length on disk.
#[must_use]
pub fn bytes_u64(length: usize) -> u64 {
    u64::try_from(length).expect("usize has at most 64 bits")
}

/// A length on disk as a length in memory.
#[must_use]
pub fn bytes_usize(length: u64) -> usize {
    usize::try_from(length).expect("twinblk runs on 64-bit machines")
}

/// `range` of `u64` as a range of indices.
#[must_use]
pub fn index_range(range: Range<u64>) -> Range<usize> {
    bytes_usize(range.start)..bytes_usize(range.end)
}

/// A moment of this node's clock (`CLOCK_BOOTTIME`, which counts suspend), in microseconds.
/// Ticks of two nodes are never compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tick(pub u64);

/// A length of time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(pub u64);

impl Span {
    /// `milliseconds` as a span.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds * 1000)
    }

    /// In whole milliseconds, rounded up, for people and JSON.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// Both spans together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// `factor` times this span.
    #[must_use]
    pub fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1_000_000 {
            write!(f, "{} ms", self.as_millis())
        } else {
            write!(f, "{}.{} s", self.0 / 1_000_000, self.0 / 100_000 % 10)
        }
    }
}

impl Tick {
    /// The moment `span` later.
    #[must_use]
    pub fn plus(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// Time from `earlier` to this moment; nothing if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// Place of a replica in the configuration, from 0; the tiebreaker has the number after the last replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u8);

impl NodeId {
    /// As an index into per-node tables.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// Most replicas of one resource.
pub const REPLICAS_MAX: usize = 8;
/// Most voters of one resource: the replicas and a tiebreaker.
pub const VOTERS_MAX: usize = REPLICAS_MAX + 1;

/// Declares a random 64-bit identity that prints as 16 hexadecimal digits. Zero means "none".
macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

identity! {
    /// Identity of a stretch of history: the writes of one Primary from its promotion, or from the
    /// moment it went on without a peer, to the next such moment.
    GenerationId
}
identity! {
    /// Random identity of a voter, drawn when its metadata is made and pinned by the others at first contact.
    VoterId
}
identity! {
    /// One run of a node's daemon. A member of the in-sync set is (node, incarnation).
    Incarnation
}

impl GenerationId {
    /// The generation of a volume that is known to hold nothing but zeroes (`--uptodate-zeroed`).
    /// Every such volume is equal, wherever it was made, so they share this ancestor.
    pub const ZEROED: Self = Self(0x5a45_524f_4544_0000);
}

/// Number of one Primary's reign, and the random id of the node that took it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Term {
    /// Grows with every promotion; 0 before the first.
    pub number: u64,
    /// Random id that tells two candidates of one number apart; its lowest bit is set where an operator forced the
    /// promotion, so that no majority was asked. 16 hexadecimal digits in JSON, because many readers round large numbers.
    #[serde(serialize_with = "as_hexadecimal")]
    pub taker: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn as_hexadecimal<S: serde::Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:016x}"))
}

impl Term {
    /// Before the first promotion.
    pub const ZERO: Self = Self { number: 0, taker: 0 };

    /// A term that is put to the others, with a random id.
    #[must_use]
    pub fn asked(number: u64, id: u64) -> Self {
        Self { number, taker: id & !1 }
    }

    /// A term that is taken by force, with a random id.
    #[must_use]
    pub fn forced(number: u64, id: u64) -> Self {
        Self { number, taker: id | 1 }
    }

    /// Whether an operator forced the promotion.
    #[must_use]
    pub fn is_forced(self) -> bool {
        self.taker & 1 == 1
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)
    }
}

/// Names one client request from its arrival to its completion; the shell chooses it and it comes back as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_leave_ragged_edges_out_and_covering_blocks_take_them_in() {
        let range = ByteRange::new(4095, 4098);
        assert_eq!(range.whole_blocks(), Some(BlockRange::new(1, 1)));
        assert_eq!(range.covering_blocks(), Some(BlockRange::new(0, 3)));
        assert_eq!(ByteRange::new(1, 4096).whole_blocks(), None);
        assert_eq!(ByteRange::new(8192, 0).covering_blocks(), None);
    }
}
