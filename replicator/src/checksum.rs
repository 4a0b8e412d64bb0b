//! CRC32C of blocks and headers, as a type of its own so that no sum is ever mistaken for a length.

use std::fmt;
use std::sync::Arc;

use crate::units::BLOCK_SIZE;

/// A CRC32C (Castagnoli) value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crc32c(pub u32);

impl Crc32c {
    /// The sum of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc32c::crc32c(bytes))
    }

    /// The sum of what this sum covers followed by `bytes`.
    #[must_use]
    pub fn append(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }
}

impl fmt::Display for Crc32c {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// One sum for each block of a payload, computed once where the payload is received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockSums {
    /// No payload (zeroes, trim).
    None,
    /// One block: the common write, kept without an allocation.
    One(Crc32c),
    /// Several blocks.
    Many(Arc<[Crc32c]>),
}

impl BlockSums {
    /// The sums of `payload`, whose length is a whole number of blocks.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        assert!(
            payload.len().is_multiple_of(BLOCK_SIZE),
            "payload of {} bytes is not whole blocks",
            payload.len()
        );
        Self::from_sums(payload.chunks_exact(BLOCK_SIZE).map(Crc32c::of))
    }

    /// The sums given, in block order.
    pub fn from_sums(mut sums: impl ExactSizeIterator<Item = Crc32c>) -> Self {
        match sums.len() {
            0 => Self::None,
            1 => Self::One(sums.next().expect("len is 1")),
            _ => Self::Many(sums.collect()),
        }
    }

    /// The sums in block order.
    #[must_use]
    pub fn as_slice(&self) -> &[Crc32c] {
        match self {
            Self::None => &[],
            Self::One(sum) => std::slice::from_ref(sum),
            Self::Many(sums) => sums,
        }
    }

    /// Whether `payload` has exactly these sums.
    #[must_use]
    pub fn verify(&self, payload: &[u8]) -> bool {
        let sums = self.as_slice();
        payload.len() == sums.len() * BLOCK_SIZE
            && payload.chunks_exact(BLOCK_SIZE).zip(sums).all(|(block, sum)| Crc32c::of(block) == *sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_in_any_block_is_noticed() {
        let mut payload = vec![7u8; 3 * BLOCK_SIZE];
        let sums = BlockSums::of(&payload);
        assert!(sums.verify(&payload));
        for at in [0, BLOCK_SIZE, 3 * BLOCK_SIZE - 1] {
            payload[at] ^= 1;
            assert!(!sums.verify(&payload));
            payload[at] ^= 1;
        }
        assert!(!sums.verify(&payload[..2 * BLOCK_SIZE]));
    }
}
