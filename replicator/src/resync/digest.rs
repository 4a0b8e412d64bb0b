//! Strong digests of blocks: what two nodes compare instead of the blocks. A checksum that guards against damage is too
//! weak to call two blocks equal for good: among the blocks of two volumes, CRC32C finds pairs that only look alike.

use crate::units::{BLOCK_SIZE, BlockRange, bytes_u64};

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;

/// Blocks with equal digests are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDigest(pub [u8; DIGEST_BYTES]);

impl BlockDigest {
    /// The digest of one block.
    #[must_use]
    pub fn of(block: &[u8]) -> Self {
        Self(*blake3::hash(block).as_bytes())
    }

    /// The digests of blocks that follow one another.
    #[must_use]
    pub fn of_blocks(bytes: &[u8]) -> Vec<Self> {
        bytes.chunks_exact(BLOCK_SIZE).map(Self::of).collect()
    }
}

/// A question of the source: are these blocks of the target the same?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Its place among the copies.
    pub number: u64,
    /// Which blocks.
    pub range: BlockRange,
    /// A digest of each.
    pub digests: Vec<BlockDigest>,
}

impl Comparison {
    /// The question about `range`, which holds `bytes` at the source.
    #[must_use]
    pub fn of(number: u64, range: BlockRange, bytes: &[u8]) -> Self {
        let digests = BlockDigest::of_blocks(bytes);
        assert_eq!(bytes_u64(digests.len()), range.count, "a digest for each block");
        Self { number, range, digests }
    }
}
