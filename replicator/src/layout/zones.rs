//! Where each zone of the metadata area starts and how long it is, from the volume's size alone.
//! Sizes are fixed at creation; the superblock stores the result, so that a later formula changes nothing.

use crate::layout::activity_page::ACTIVITY_LOG_BYTES;
use crate::layout::bitmap_page::BITMAP_PAGE_BLOCKS;
use crate::layout::checksum_page::CHECKSUM_PAGE_BLOCKS;
use crate::units::{BLOCK_BYTES, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN};

/// Most peers of one node: the format has a bitmap for each.
pub const PEERS_MAX: usize = 7;
/// Offset of superblock copy 0 in the metadata area.
pub const SUPERBLOCK_0_OFFSET: u64 = 0;
/// Offset of superblock copy 1: far enough from copy 0 that no torn run of sectors hits both.
pub const SUPERBLOCK_1_OFFSET: u64 = 64 << 10;
/// Bytes at the start of the area that belong to the superblock copies.
pub const SUPERBLOCK_ZONE_BYTES: u64 = 128 << 10;
/// Bytes at the end of the area that belong to the two locators.
pub const LOCATOR_ZONE_BYTES: u64 = 128 << 10;
/// Largest journal, bytes.
pub const JOURNAL_BYTES_MAX: u64 = 64 << 30;
/// Smallest journal that may be asked for, unless the volume's default is smaller.
pub const JOURNAL_BYTES_MIN: u64 = 64 << 20;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What a zone holds now. Space is set aside for every zone from the first day, so that using it later
/// moves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneState {
    /// In use.
    Used,
    /// Set aside and zeroed; nothing reads it.
    Unused,
    /// Set aside, content undefined; nothing reads it.
    Absent,
}

impl ZoneState {
    /// Every state, with its number on disk.
    pub const ALL: [(Self, u8); 3] = [(Self::Used, 1), (Self::Unused, 2), (Self::Absent, 3)];

    /// The number on disk.
    #[must_use]
    pub fn code(self) -> u8 {
        Self::ALL.iter().find(|(state, _)| *state == self).expect("the table has every state").1
    }

    /// The state with number `code`, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, number)| *number == code).map(|(state, _)| *state)
    }
}

/// What a zone is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ZoneKind {
    /// Superblock copy 0.
    Superblock0,
    /// Superblock copy 1.
    Superblock1,
    /// Extents to treat as dirty after a crash.
    ActivityLog,
    /// Dirty bitmap for the peer in this slot.
    Bitmap(u8),
    /// One CRC32C for each block of the volume.
    Checksums,
    /// The write-ahead ring.
    Journal,
    /// The two blocks from which the area is found at the end of a device.
    Locator,
}

impl ZoneKind {
    /// The number on disk and, for a bitmap, the slot.
    #[must_use]
    pub fn code(self) -> (u8, u8) {
        match self {
            Self::Superblock0 => (1, 0),
            Self::Superblock1 => (2, 0),
            Self::ActivityLog => (3, 0),
            Self::Bitmap(slot) => (4, slot),
            Self::Checksums => (5, 0),
            Self::Journal => (6, 0),
            Self::Locator => (7, 0),
        }
    }

    /// The name in messages and in docs/FORMAT.md.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Superblock0 => "superblock copy 0",
            Self::Superblock1 => "superblock copy 1",
            Self::ActivityLog => "activity log",
            Self::Bitmap(_) => "dirty bitmap",
            Self::Checksums => "checksums",
            Self::Journal => "journal",
            Self::Locator => "locators",
        }
    }

    /// The one state that this version knows for the zone.
    #[must_use]
    pub fn known_state(self) -> ZoneState {
        match self {
            Self::Superblock0 | Self::Superblock1 | Self::Bitmap(_) | Self::Journal | Self::Locator => {
                ZoneState::Used
            }
            Self::ActivityLog => ZoneState::Unused,
            Self::Checksums => ZoneState::Absent,
        }
    }
}

/// One zone: its place within the metadata area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// What it is for.
    pub kind: ZoneKind,
    /// What it holds.
    pub state: ZoneState,
    /// Offset from the start of the metadata area.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

impl Zone {
    /// The first byte behind the zone.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// Why no metadata can be laid out for what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZonesError {
    /// The volume is too small or too large.
    #[error("a volume of {0} bytes: it must have {VOLUME_BYTES_MIN} to {VOLUME_BYTES_MAX} bytes")]
    VolumeSize(u64),
    /// The volume does not end on a block boundary.
    #[error("a volume of {0} bytes is not a whole number of {BLOCK_BYTES}-byte blocks")]
    VolumeRagged(u64),
    /// The journal is too small or too large for this volume.
    #[error("a journal of {asked} bytes: for this volume it must have {min} to {JOURNAL_BYTES_MAX} bytes")]
    JournalSize {
        /// What was asked for.
        asked: u64,
        /// The least for this volume.
        min: u64,
    },
    /// The journal does not end on a block boundary.
    #[error("a journal of {0} bytes is not a whole number of {BLOCK_BYTES}-byte blocks")]
    JournalRagged(u64),
    /// No peer, or more than the format has bitmaps for.
    #[error("room for {0} peers: it must be 1 to {PEERS_MAX}")]
    Peers(u8),
}

/// Journal size for a volume when none is asked for: 1 GiB from 4 GiB on; below that a quarter of the
/// volume, rounded up to MiB, and at least 16 MiB.
#[must_use]
pub fn journal_bytes_default(volume_bytes: u64) -> u64 {
    if volume_bytes >= 4 * GIB {
        return GIB;
    }
    volume_bytes.div_ceil(4).next_multiple_of(MIB).max(16 * MIB)
}

/// Smallest journal that may be asked for: 64 MiB, or the default where that is less.
#[must_use]
pub fn journal_bytes_min(volume_bytes: u64) -> u64 {
    JOURNAL_BYTES_MIN.min(journal_bytes_default(volume_bytes))
}

/// Where every zone of a metadata area lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zones {
    zones: Vec<Zone>,
}

impl Zones {
    /// The zones for a volume, its journal and room for `max_peers` peers.
    ///
    /// # Errors
    /// A size or a number of peers out of its range.
    pub fn for_volume(volume_bytes: u64, journal_bytes: u64, max_peers: u8) -> Result<Self, ZonesError> {
        check_volume(volume_bytes)?;
        let min = journal_bytes_min(volume_bytes);
        if !(min..=JOURNAL_BYTES_MAX).contains(&journal_bytes) {
            return Err(ZonesError::JournalSize { asked: journal_bytes, min });
        }
        if !journal_bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(ZonesError::JournalRagged(journal_bytes));
        }
        if max_peers == 0 || usize::from(max_peers) > PEERS_MAX {
            return Err(ZonesError::Peers(max_peers));
        }
        let mut plan = Plan { zones: Vec::new(), end: 0 };
        plan.place(ZoneKind::Superblock0, BLOCK_BYTES);
        plan.end = SUPERBLOCK_1_OFFSET;
        plan.place(ZoneKind::Superblock1, BLOCK_BYTES);
        plan.end = SUPERBLOCK_ZONE_BYTES;
        plan.place(ZoneKind::ActivityLog, ACTIVITY_LOG_BYTES);
        for slot in 0..max_peers {
            plan.place(ZoneKind::Bitmap(slot), bitmap_bytes(volume_bytes));
        }
        plan.place(ZoneKind::Checksums, checksum_bytes(volume_bytes));
        plan.place(ZoneKind::Journal, journal_bytes);
        plan.place(ZoneKind::Locator, LOCATOR_ZONE_BYTES);
        Ok(Self { zones: plan.zones })
    }

    /// Zones as a superblock stores them; `None` unless they are what a volume of this size needs: every
    /// zone once, in order, aligned, apart from each other, and long enough.
    pub(crate) fn from_stored(zones: Vec<Zone>, volume_bytes: u64, max_peers: u8) -> Option<Self> {
        let find = |kind| zones.iter().find(|zone| zone.kind == kind);
        let journal_bytes = find(ZoneKind::Journal)?.length;
        let needed = Self::for_volume(volume_bytes, journal_bytes, max_peers).ok()?;
        let same_kinds = zones.iter().map(|zone| zone.kind).eq(needed.zones.iter().map(|zone| zone.kind));
        let long_enough = zones.iter().zip(&needed.zones).all(|(zone, least)| zone.length >= least.length);
        let in_range = |zone: &Zone| zone.offset.checked_add(zone.length).is_some_and(|end| end < 1 << 60);
        let aligned =
            |zone: &Zone| zone.offset.is_multiple_of(BLOCK_BYTES) && zone.length.is_multiple_of(BLOCK_BYTES);
        let placed = zones.iter().all(|zone| in_range(zone) && aligned(zone));
        if !(same_kinds && long_enough && placed) {
            return None;
        }
        let apart = zones.windows(2).all(|pair| pair[0].end() <= pair[1].offset);
        let superblocks =
            [(ZoneKind::Superblock0, SUPERBLOCK_0_OFFSET), (ZoneKind::Superblock1, SUPERBLOCK_1_OFFSET)];
        let found =
            superblocks.iter().all(|(kind, offset)| find(*kind).is_some_and(|zone| zone.offset == *offset));
        (apart && found).then_some(Self { zones })
    }

    /// Every zone, in the order of the area.
    #[must_use]
    pub fn all(&self) -> &[Zone] {
        &self.zones
    }

    /// The zone of this kind.
    #[must_use]
    pub fn zone(&self, kind: ZoneKind) -> Option<Zone> {
        self.zones.iter().find(|zone| zone.kind == kind).copied()
    }

    /// The journal ring.
    #[must_use]
    pub fn journal(&self) -> Zone {
        self.zone(ZoneKind::Journal).expect("every area has a journal")
    }

    /// The superblock copies.
    #[must_use]
    pub fn superblocks(&self) -> [Zone; 2] {
        [ZoneKind::Superblock0, ZoneKind::Superblock1]
            .map(|kind| self.zone(kind).expect("every area has both"))
    }

    /// The dirty bitmap in slot `slot`.
    #[must_use]
    pub fn bitmap(&self, slot: u8) -> Option<Zone> {
        self.zone(ZoneKind::Bitmap(slot))
    }

    /// Number of peers that there is room for.
    #[must_use]
    pub fn max_peers(&self) -> u8 {
        let bitmaps = self.zones.iter().filter(|zone| matches!(zone.kind, ZoneKind::Bitmap(_)));
        u8::try_from(bitmaps.count()).expect("at most PEERS_MAX bitmaps")
    }

    /// Length of the whole metadata area.
    #[must_use]
    pub fn metadata_bytes(&self) -> u64 {
        self.zones.last().expect("an area has zones").end()
    }

    /// Where the metadata area starts on a data device of `device_bytes` that holds it internally: its
    /// last [`Self::metadata_bytes`], rounded down to a block. `None` if data and metadata do not both fit.
    #[must_use]
    pub fn internal_offset(&self, device_bytes: u64, volume_bytes: u64) -> Option<u64> {
        let whole_blocks = device_bytes - device_bytes % BLOCK_BYTES;
        let offset = whole_blocks.checked_sub(self.metadata_bytes())?;
        (offset >= volume_bytes).then_some(offset)
    }
}

/// Whether a volume may have this size.
///
/// # Errors
/// The size is out of range or no whole number of blocks.
pub fn check_volume(volume_bytes: u64) -> Result<(), ZonesError> {
    if !(VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&volume_bytes) {
        return Err(ZonesError::VolumeSize(volume_bytes));
    }
    if !volume_bytes.is_multiple_of(BLOCK_BYTES) {
        return Err(ZonesError::VolumeRagged(volume_bytes));
    }
    Ok(())
}

/// Bytes of one dirty bitmap for a volume.
#[must_use]
pub fn bitmap_bytes(volume_bytes: u64) -> u64 {
    (volume_bytes / BLOCK_BYTES).div_ceil(BITMAP_PAGE_BLOCKS) * BLOCK_BYTES
}

/// Bytes of the checksum zone for a volume.
#[must_use]
pub fn checksum_bytes(volume_bytes: u64) -> u64 {
    (volume_bytes / BLOCK_BYTES).div_ceil(CHECKSUM_PAGE_BLOCKS) * BLOCK_BYTES
}

struct Plan {
    zones: Vec<Zone>,
    end: u64,
}

impl Plan {
    fn place(&mut self, kind: ZoneKind, length: u64) {
        assert!(
            length.is_multiple_of(BLOCK_BYTES),
            "zone {} of {length} bytes is not whole blocks",
            kind.name()
        );
        self.zones.push(Zone { kind, state: kind.known_state(), offset: self.end, length });
        self.end += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_of_the_smallest_and_the_largest_volume_are_aligned_and_apart() {
        for (volume, journal, peers) in
            [(VOLUME_BYTES_MIN, 16 * MIB, 1), (VOLUME_BYTES_MAX, JOURNAL_BYTES_MAX, 7), (100 * GIB, GIB, 2)]
        {
            let zones = Zones::for_volume(volume, journal, peers).unwrap();
            assert_eq!(zones.max_peers(), peers);
            assert_eq!(Zones::from_stored(zones.zones.clone(), volume, peers), Some(zones));
        }
    }

    #[test]
    fn a_small_volume_gets_a_small_journal_and_no_less() {
        assert_eq!(journal_bytes_default(MIB), 16 * MIB);
        assert_eq!(journal_bytes_default(200 * MIB + 4096), 51 * MIB);
        assert_eq!(journal_bytes_default(4 * GIB), GIB);
        assert_eq!(journal_bytes_default(4 * GIB - 4096), GIB);
        assert_eq!(journal_bytes_min(MIB), 16 * MIB);
        assert_eq!(journal_bytes_min(GIB), 64 * MIB);
    }

    #[test]
    fn sizes_out_of_range_are_refused_with_value_and_range() {
        assert_eq!(Zones::for_volume(4096, 16 * MIB, 1), Err(ZonesError::VolumeSize(4096)));
        assert_eq!(Zones::for_volume(MIB + 512, 16 * MIB, 1), Err(ZonesError::VolumeRagged(MIB + 512)));
        let too_small = Zones::for_volume(GIB, 63 * MIB, 1);
        assert_eq!(too_small, Err(ZonesError::JournalSize { asked: 63 * MIB, min: 64 * MIB }));
        assert!(too_small.unwrap_err().to_string().contains("66060288"));
        assert!(Zones::for_volume(GIB, 65 * GIB, 1).is_err());
        assert_eq!(Zones::for_volume(GIB, 64 * MIB + 1, 1), Err(ZonesError::JournalRagged(64 * MIB + 1)));
        assert_eq!(Zones::for_volume(GIB, 64 * MIB, 0), Err(ZonesError::Peers(0)));
        assert_eq!(Zones::for_volume(GIB, 64 * MIB, 8), Err(ZonesError::Peers(8)));
    }

    #[test]
    fn internal_metadata_never_overlaps_the_data() {
        let zones = Zones::for_volume(GIB, 64 * MIB, 1).unwrap();
        let device = GIB + zones.metadata_bytes();
        assert_eq!(zones.internal_offset(device, GIB), Some(GIB));
        assert_eq!(zones.internal_offset(device + 100, GIB), Some(GIB));
        assert_eq!(zones.internal_offset(device - 1, GIB), None);
        assert_eq!(zones.internal_offset(0, GIB), None);
    }
}
