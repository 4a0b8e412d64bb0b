//! The locator: how metadata at the end of a data device is found from the device's size alone.
//! Two equal copies in the area's last 128 KiB; written once at creation and never again, so no crash of a
//! running node can tear them.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::checksum::Crc32c;
use crate::layout::disk_struct;
use crate::layout::format_version::FORMAT_VERSION;
use crate::layout::zones::LOCATOR_ZONE_BYTES;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, VoterId};

/// First bytes of a locator.
pub const LOCATOR_MAGIC: [u8; 8] = *b"TBLKLOCA";

disk_struct! {
    /// A locator as it lies on disk, zero padded to one block.
    pub struct LocatorBytes {
        /// [`LOCATOR_MAGIC`].
        magic: [u8; 8],
        /// Format version.
        version: U32,
        /// CRC32C of the whole block with this field zero.
        crc: U32,
        /// Identity of the node's metadata.
        voter: U64,
        /// Length of the metadata area, which ends where the locator's block ends.
        metadata_bytes: U64,
        /// Length of the volume.
        volume_bytes: U64,
        /// Zero.
        reserved: [u8; 4056],
    }
}
const _: () = assert!(size_of::<LocatorBytes>() == BLOCK_SIZE);

/// Where the metadata area is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locator {
    /// Identity of the node's metadata.
    pub voter: VoterId,
    /// Length of the metadata area.
    pub metadata_bytes: u64,
    /// Length of the volume.
    pub volume_bytes: u64,
}

/// Why a block is no locator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocatorError {
    /// Not one block long.
    #[error("{0} bytes are no locator block")]
    Length(usize),
    /// Something else, or nothing.
    #[error("no locator: its magic is missing")]
    Magic,
    /// Written by another version.
    #[error("locator of format version {0}, this program knows {FORMAT_VERSION}")]
    Version(u32),
    /// Damaged.
    #[error("locator damaged: its checksum is {stored}, its content has {computed}")]
    Checksum {
        /// What the block says.
        stored: Crc32c,
        /// What its bytes have.
        computed: Crc32c,
    },
    /// A reserved byte is set, or a length is impossible.
    #[error("locator with impossible content")]
    Content,
}

impl Locator {
    /// Offsets of the two copies on a device (or in an area) of `end` bytes.
    #[must_use]
    pub fn offsets(end: u64) -> [u64; 2] {
        let end = end - end % BLOCK_BYTES;
        [end.saturating_sub(LOCATOR_ZONE_BYTES), end.saturating_sub(BLOCK_BYTES)]
    }

    /// The block to write at both offsets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = LocatorBytes {
            magic: LOCATOR_MAGIC,
            version: U32::new(FORMAT_VERSION),
            crc: U32::ZERO,
            voter: U64::new(self.voter.0),
            metadata_bytes: U64::new(self.metadata_bytes),
            volume_bytes: U64::new(self.volume_bytes),
            reserved: [0; 4056],
        };
        bytes.crc = U32::new(Crc32c::of(bytes.as_bytes()).0);
        bytes.as_bytes().to_vec()
    }

    /// The locator in a block.
    ///
    /// # Errors
    /// The block is no locator, is damaged, or is of another version.
    pub fn parse(block: &[u8]) -> Result<Self, LocatorError> {
        let mut bytes =
            LocatorBytes::read_from_bytes(block).map_err(|_| LocatorError::Length(block.len()))?;
        if bytes.magic != LOCATOR_MAGIC {
            return Err(LocatorError::Magic);
        }
        if bytes.version.get() != FORMAT_VERSION {
            return Err(LocatorError::Version(bytes.version.get()));
        }
        let stored = Crc32c(bytes.crc.get());
        bytes.crc = U32::ZERO;
        let computed = Crc32c::of(bytes.as_bytes());
        if stored != computed {
            return Err(LocatorError::Checksum { stored, computed });
        }
        let (metadata_bytes, volume_bytes) = (bytes.metadata_bytes.get(), bytes.volume_bytes.get());
        let lengths_fit = metadata_bytes > LOCATOR_ZONE_BYTES
            && metadata_bytes.is_multiple_of(BLOCK_BYTES)
            && crate::layout::zones::check_volume(volume_bytes).is_ok();
        if !lengths_fit || bytes.reserved.iter().any(|byte| *byte != 0) {
            return Err(LocatorError::Content);
        }
        Ok(Self { voter: VoterId(bytes.voter.get()), metadata_bytes, volume_bytes })
    }

    /// Where the metadata area starts on a device of `device_bytes`; `None` if it would start before the device.
    #[must_use]
    pub fn area_offset(&self, device_bytes: u64) -> Option<u64> {
        (device_bytes - device_bytes % BLOCK_BYTES).checked_sub(self.metadata_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locator_finds_the_area_again_and_a_flipped_bit_hides_it() {
        let locator = Locator { voter: VoterId(7), metadata_bytes: 20 << 20, volume_bytes: 1 << 30 };
        let mut block = locator.encode();
        assert_eq!(Locator::parse(&block), Ok(locator));
        assert_eq!(locator.area_offset((1 << 30) + (20 << 20) + 5), Some(1 << 30));
        for bit in 0..block.len() * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(Locator::parse(&block).is_err(), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
