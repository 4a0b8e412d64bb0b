//! Copying blocks to a node that the journal cannot bring up to date: what is left to copy, what is on its way, what
//! has arrived. Both halves; who talks to whom and what is durable when is the business of `replica`.
//!
//! The rule that keeps old bytes from winning: from the start of a resync on, the target gets every record too, and a
//! record brings whole blocks. So a block for which the target has received a record is never taken from a copy, and
//! a record is not written back before a copy that was under way to the same block has arrived.
//!
//! Where the target may hold a block already, it is asked first: a comparison is a copy that brings digests. Blocks that
//! it calls equal are proved so when it has flushed them, and are left to records like copies.

pub mod digest;
pub mod expectation;
pub mod pace;
pub mod source;
pub mod target;
pub mod throttle;

use crate::record::{Record, RecordKind};
use crate::units::{BLOCK_BYTES, BlockRange, bytes_u64, bytes_usize};

/// Most bytes of copies that are sent and not flushed by the target.
pub const IN_FLIGHT_BYTES_MAX: u64 = 64 << 20;
/// Blocks of a copy or a comparison, at most.
pub const COPY_BLOCKS_MAX: u64 = crate::record::RECORD_BLOCKS_MAX;
/// Blocks of a copy of zeroes, at most: a disk that has to write them does so within `disk-timeout`.
pub const ZERO_BLOCKS_MAX: u64 = (16 << 20) / BLOCK_BYTES;
/// A copy of zeroes counts as so many times fewer bytes than it has: as much as there may be on its way, a slow disk
/// can write within `disk-timeout`.
const ZERO_DISCOUNT: u64 = 4;

/// What a copy counts as while it is on its way.
#[must_use]
pub fn cost(copy: &Record) -> u64 {
    match copy.kind {
        RecordKind::Write => bytes_u64(copy.payload.len()),
        RecordKind::Zeroes | RecordKind::Trim => (copy.range.bytes() / ZERO_DISCOUNT).max(BLOCK_BYTES),
    }
}

/// The blocks of a comparison that differ: one bit each, the lowest bit of the first byte for the first block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Differing(pub [u8; Self::BYTES]);

impl Differing {
    /// Bytes of the bits.
    pub const BYTES: usize = 32;

    /// This block of the comparison differs.
    pub fn insert(&mut self, place: u64) {
        self.0[bytes_usize(place / 8)] |= 1 << (place % 8);
    }

    /// Whether this block of the comparison differs.
    #[must_use]
    pub fn has(&self, place: u64) -> bool {
        self.0[bytes_usize(place / 8)] & (1 << (place % 8)) != 0
    }

    /// How many differ.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// The equal and the different runs of blocks of a comparison of `range`.
    #[must_use]
    pub fn split(&self, range: BlockRange) -> (Vec<BlockRange>, Vec<BlockRange>) {
        let (mut equal, mut different) = (Vec::new(), Vec::new());
        for place in 0..range.count {
            let runs: &mut Vec<BlockRange> = if self.has(place) { &mut different } else { &mut equal };
            let block = range.first + place;
            match runs.last_mut() {
                Some(run) if run.end() == block => run.count += 1,
                Some(_) | None => runs.push(BlockRange::new(block, 1)),
            }
        }
        (equal, different)
    }
}

const _: () = assert!(COPY_BLOCKS_MAX == 8 * 32, "a bit for each block");
