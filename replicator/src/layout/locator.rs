//! The locator: how metadata at the end of a data device is found from the device's size alone.
//! Two equal copies in the area's last 128 KiB; written once at creation and never again, so no crash of a
//! running node can tear them.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::checksum::Crc32c;
use crate::layout::disk_struct;
use crate::layout::format_version::FORMAT_VERSION;
use crate::layout::zones::{LOCATOR_ZONE_BYTES, SUPERBLOCK_0_OFFSET, SUPERBLOCK_1_OFFSET};
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

/// Where on a device metadata areas may begin. Whoever starts from one, shows one or makes old ones unusable asks here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateAreas {
    device_bytes: u64,
    located: Vec<u64>,
}

impl CandidateAreas {
    /// Looks for locators at the end of a device of `device_bytes`. `read_block` gives the block at an offset; it is
    /// only asked for blocks that the device has, whatever its size.
    ///
    /// # Errors
    /// Those of `read_block`.
    pub fn find<B: AsRef<[u8]>, E>(
        device_bytes: u64,
        mut read_block: impl FnMut(u64) -> Result<B, E>,
    ) -> Result<Self, E> {
        let mut areas = Self { device_bytes, located: Vec::new() };
        for offset in Locator::offsets(device_bytes) {
            if !areas.has_block(offset) {
                continue;
            }
            // If one copy is damaged the other one is enough; if both are, there is nothing to be found.
            let locator = Locator::parse(read_block(offset)?.as_ref()).ok();
            let area = locator.and_then(|locator| locator.area_offset(device_bytes));
            areas.located.extend(area.filter(|area| !areas.located.contains(area)));
        }
        Ok(areas)
    }

    /// The areas that locators name: internal metadata is found by them alone. Two only if the copies differ.
    #[must_use]
    pub fn located(&self) -> &[u64] {
        &self.located
    }

    /// Every block that may make somebody take an area for metadata: locators and superblocks of the areas that are
    /// located, and superblocks at the beginning, where metadata on a device of its own is.
    #[must_use]
    pub fn telling_blocks(&self) -> Vec<u64> {
        let superblocks = |area: u64| [area + SUPERBLOCK_0_OFFSET, area + SUPERBLOCK_1_OFFSET];
        let areas = std::iter::once(0).chain(self.located.iter().copied());
        let mut blocks: Vec<u64> = areas.flat_map(superblocks).collect();
        blocks.extend(Locator::offsets(self.device_bytes));
        blocks.retain(|offset| self.has_block(*offset));
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }

    fn has_block(&self, offset: u64) -> bool {
        offset.checked_add(BLOCK_BYTES).is_some_and(|end| end <= self.device_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA_BYTES: u64 = 20 << 20;

    /// What is found on a device that holds these locators, which say how long an area is, and nothing else.
    fn areas(device_bytes: u64, locators: [Option<u64>; 2]) -> CandidateAreas {
        let found = CandidateAreas::find(device_bytes, |offset| {
            assert!(offset + BLOCK_BYTES <= device_bytes, "the device has no block at {offset}");
            let index =
                Locator::offsets(device_bytes).iter().position(|at| *at == offset).expect("a locator's");
            let locator =
                |metadata_bytes| Locator { voter: VoterId(7), metadata_bytes, volume_bytes: 1 << 30 };
            Ok::<_, ()>(locators[index].map_or(vec![0; BLOCK_SIZE], |bytes| locator(bytes).encode()))
        });
        found.expect("it can be read")
    }

    #[test]
    fn either_locator_is_enough_and_none_finds_nothing() {
        let bytes = (1 << 30) + AREA_BYTES;
        for locators in [[Some(AREA_BYTES); 2], [None, Some(AREA_BYTES)], [Some(AREA_BYTES), None]] {
            assert_eq!(areas(bytes, locators).located(), [1 << 30]);
        }
        assert_eq!(areas(bytes, [None; 2]).located(), [0; 0]);
        assert_eq!(
            areas(bytes, [Some(AREA_BYTES), Some(2 * AREA_BYTES)]).located(),
            [1 << 30, (1 << 30) - AREA_BYTES]
        );
        // It would begin before the device.
        assert_eq!(areas(AREA_BYTES, [Some(2 * AREA_BYTES); 2]).located(), [0; 0]);
    }

    #[test]
    fn a_device_too_short_for_a_locator_or_a_superblock_is_never_read_beyond_its_end() {
        for bytes in [0, 1, 4095, 4096, 4097, SUPERBLOCK_1_OFFSET, LOCATOR_ZONE_BYTES - 1, LOCATOR_ZONE_BYTES]
        {
            let found = areas(bytes, [None; 2]);
            assert!(found.telling_blocks().iter().all(|offset| offset + BLOCK_BYTES <= bytes), "{bytes}");
        }
    }

    #[test]
    fn what_tells_of_an_area_is_at_the_beginning_in_the_area_and_at_the_end() {
        let bytes = (1 << 30) + AREA_BYTES;
        let expected = [0, 64 << 10, 1 << 30, (1 << 30) + (64 << 10), bytes - (128 << 10), bytes - 4096];
        assert_eq!(areas(bytes + 5, [Some(AREA_BYTES), None]).telling_blocks(), expected);
    }

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
