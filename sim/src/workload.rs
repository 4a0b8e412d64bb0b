//! What clients ask for: blocks that say who wrote them, so that every read can be held against what was
//! acknowledged.

use bytes::Bytes;
use replicator::event::{Allocation, Durability, Request};
use replicator::units::{BLOCK_BYTES, ByteRange, NodeId, bytes_usize};

use crate::random::Random;
use crate::swarm::ClientMix;

/// Smallest piece that a client writes, bytes: an eighth of a block, so that ragged writes are common.
pub const UNIT_BYTES: u64 = 512;
const WORDS: u64 = UNIT_BYTES / 8;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Write its own mark.
    Write(ByteRange, Durability),
    /// Zero whole blocks.
    Trim(ByteRange, Durability),
    /// Zero bytes.
    Zeroes(ByteRange, Durability),
    /// Read.
    Read(ByteRange),
    /// Make everything answered so far safe.
    Flush,
}

/// A client's request.
#[derive(Clone, Debug)]
pub struct Operation {
    /// To which node it went.
    pub node: NodeId,
    /// What was asked.
    pub ask: Ask,
    /// When.
    pub asked_at: u64,
    /// When the answer came.
    pub answered_at: Option<u64>,
    /// Whether the answer was an error.
    pub has_failed: bool,
    /// When its connection ended without an answer.
    pub lost_at: Option<u64>,
}

impl Operation {
    /// Whether the client still waits.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.answered_at.is_none() && self.lost_at.is_none()
    }
}

impl Ask {
    /// The units whose content changes; trims leave ragged edges alone.
    #[must_use]
    pub fn changes(self) -> Option<ByteRange> {
        match self {
            Self::Write(range, _) | Self::Zeroes(range, _) => Some(range),
            Self::Trim(range, _) => {
                range.whole_blocks().map(|blocks| ByteRange::new(blocks.byte_offset(), blocks.bytes()))
            }
            Self::Read(_) | Self::Flush => None,
        }
    }

    /// Whether the answer promises safety from a power cut.
    #[must_use]
    pub fn durability(self) -> Durability {
        match self {
            Self::Write(_, durability) | Self::Trim(_, durability) | Self::Zeroes(_, durability) => {
                durability
            }
            Self::Read(_) | Self::Flush => Durability::Complete,
        }
    }

    /// As the replica is asked.
    #[must_use]
    pub fn request(self, operation: u64) -> Request {
        match self {
            Self::Write(range, durability) => {
                Request::Write { offset: range.offset, payload: payload(operation, range), durability }
            }
            Self::Trim(range, durability) => Request::Trim { range, durability },
            Self::Zeroes(range, durability) => {
                let allocation =
                    if operation.is_multiple_of(2) { Allocation::Keep } else { Allocation::Release };
                Request::WriteZeroes { range, allocation, durability }
            }
            Self::Read(range) => Request::Read { range },
            Self::Flush => Request::Flush,
        }
    }
}

fn payload(operation: u64, range: ByteRange) -> Bytes {
    let units = range.offset / UNIT_BYTES..range.end() / UNIT_BYTES;
    let mut bytes = Vec::with_capacity(bytes_usize(range.length));
    for unit in units {
        bytes.extend(content(operation, unit));
    }
    bytes.into()
}

/// What `operation` writes into `unit`.
fn content(operation: u64, unit: u64) -> Vec<u8> {
    let word = |at: u64| if at == 0 { operation } else { operation.rotate_left(17) ^ unit << 8 ^ at };
    (0..WORDS).flat_map(|at| word(at).to_le_bytes()).collect()
}

/// Who wrote what a unit holds: `None` for zeroes.
///
/// # Panics
/// Nobody did: the content is damaged, or belongs elsewhere.
#[must_use]
pub fn writer_of(bytes: &[u8], unit: u64) -> Option<u64> {
    if bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    let operation = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert!(bytes == content(operation, unit), "violation: unit {unit} holds what nobody wrote there");
    Some(operation)
}

/// A request that a client may have.
#[must_use]
pub fn any_ask(random: &mut Random, volume_bytes: u64, clients: &ClientMix) -> Ask {
    let volume_units = volume_bytes / UNIT_BYTES;
    let block_units = BLOCK_BYTES / UNIT_BYTES;
    let is_hot = random.chance(clients.hot);
    let hot_units = if is_hot { 64 * block_units } else { volume_units };
    let (mut first, mut count) = (random.below(hot_units), random.between(1, clients.largest_units));
    if random.chance(60) {
        first -= first % block_units;
        count = count.next_multiple_of(block_units);
    }
    let count = count.min(volume_units - first);
    let range = ByteRange::new(first * UNIT_BYTES, count * UNIT_BYTES);
    let is_flushed = random.chance(clients.flushed_writes);
    let durability = if is_flushed { Durability::Flushed } else { Durability::Complete };
    let (reads, flushes) = (clients.reads, clients.reads + clients.flushes);
    match random.below(100) {
        at if at < reads => Ask::Read(range),
        at if at < flushes => Ask::Flush,
        at if at < flushes + clients.zeroes / 2 => Ask::Trim(range, durability),
        at if at < flushes + clients.zeroes => Ask::Zeroes(range, durability),
        _ => Ask::Write(range, durability),
    }
}
