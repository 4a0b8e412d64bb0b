//! Before a replica runs: opens its disks, finds the metadata, and reads what the replica starts from. Everything
//! here is synchronous, with large reads; the time it takes grows with the journal, not with the volume.

use std::path::PathBuf;

use bytes::Bytes;
use replicator::config::Config;
use replicator::journal::recovery::{RecoveryPlan, RecoveryScan};
use replicator::layout::bitmap_page::{BitmapPage, PageError};
use replicator::layout::locator::CandidateAreas;
use replicator::layout::superblock::{ChooseError, Superblock, SuperblockError, choose_newest};
use replicator::layout::zones::{SUPERBLOCK_0_OFFSET, SUPERBLOCK_1_OFFSET, Zones};
use replicator::units::{BLOCK_SIZE, NodeId, bytes_u64, bytes_usize};
use thiserror::Error;

use crate::data_plane::backing_device::BackingDevice;
use crate::data_plane::backing_device::device::{Device, DeviceError};

/// Bytes of one read of a bitmap.
const BITMAP_READ_BYTES: u64 = 1 << 20;

/// Where the metadata of a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataPlace {
    /// In a file or on a device of its own.
    Own(PathBuf),
    /// At the end of the data device.
    Internal,
}

/// The disks of a replica, as the configuration names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPaths {
    /// The data area.
    pub data: PathBuf,
    /// The metadata.
    pub metadata: MetadataPlace,
}

/// Why a replica cannot start from its disks.
#[derive(Debug, Error)]
pub enum StartError {
    /// A disk cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// There is no metadata.
    #[error("no metadata on {}: create it with `twinblk create-metadata {resource}`", path.display())]
    NoMetadata {
        /// Where it was looked for.
        path: PathBuf,
        /// For which resource.
        resource: String,
    },
    /// There is metadata that cannot be read.
    #[error("metadata on {} cannot be used: {reason}", path.display())]
    Superblock {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: ChooseError,
    },
    /// The metadata was made for another resource.
    #[error("metadata on {} belongs to resource {found}, not {expected}", path.display())]
    OtherResource {
        /// Where it is.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The metadata was made for another node.
    #[error("metadata on {} belongs to {found} of the resource, this is {expected}", path.display())]
    OtherNode {
        /// Where it is.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who this is.
        expected: NodeId,
    },
    /// The metadata was made for a volume of another size.
    #[error(
        "metadata on {} is for a volume of {found} bytes, the configuration says {expected}", path.display()
    )]
    OtherSize {
        /// Where it is.
        path: PathBuf,
        /// Its size of the volume.
        found: u64,
        /// Size by the configuration.
        expected: u64,
    },
    /// The configuration has more peers than the metadata has room for.
    #[error(
        "metadata on {} has room for {room} peers, the configuration has {peers}: make it anew with a larger --max-peers",
        path.display()
    )]
    TooFewPeers {
        /// Where it is.
        path: PathBuf,
        /// Room.
        room: u8,
        /// Needed.
        peers: usize,
    },
    /// A page of a dirty bitmap is damaged: what differs from that peer is not known.
    #[error("page {page} of the dirty bitmap in slot {slot} on {}: {reason}", path.display())]
    BitmapPage {
        /// Where it is.
        path: PathBuf,
        /// Which bitmap.
        slot: u8,
        /// Which page.
        page: u64,
        /// What is wrong with it.
        reason: PageError,
    },
}

/// The disks, opened and locked, and where the metadata area begins.
#[derive(Debug)]
pub struct OpenDisks {
    /// The data area.
    pub data: Device,
    /// The metadata; the same device if it is internal.
    pub metadata: Device,
    /// Where the metadata area begins on its device.
    pub metadata_offset: u64,
}

/// What a replica starts from, as far as its disks tell.
#[derive(Debug)]
pub struct FoundOnDisk {
    /// The newest valid superblock.
    pub superblock: Superblock,
    /// What the journal holds.
    pub recovery: RecoveryPlan,
    /// Every written page of the bitmaps that have bits set.
    pub bitmap_pages: Vec<BitmapPage>,
}

impl OpenDisks {
    /// Opens both disks and locks them. The metadata area begins where the metadata device does, unless it is
    /// internal; then [`OpenDisks::find_area`] or [`OpenDisks::place_area`] says where.
    ///
    /// # Errors
    /// A disk cannot be used.
    pub fn open(paths: &DiskPaths) -> Result<Self, DeviceError> {
        if let MetadataPlace::Own(path) = &paths.metadata
            && same_file(&paths.data, path)
        {
            return Err(DeviceError::Same { path: path.clone() });
        }
        let data = Device::open(&paths.data)?;
        let metadata = match &paths.metadata {
            MetadataPlace::Internal => data.clone(),
            MetadataPlace::Own(path) => Device::open(path)?,
        };
        Ok(Self { data, metadata, metadata_offset: 0 })
    }

    /// Whether data and metadata share a device.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.data.is_same(&self.metadata)
    }

    /// Finds internal metadata by its locators. Metadata of its own begins at the beginning.
    ///
    /// # Errors
    /// The device cannot be read, or holds no metadata.
    pub fn find_area(&mut self, resource: &str) -> Result<(), StartError> {
        if !self.is_internal() {
            return Ok(());
        }
        let areas =
            CandidateAreas::find(self.metadata.bytes, |offset| self.metadata.read_at(offset, BLOCK_SIZE))?;
        let Some(area) = areas.located().first() else { return Err(self.no_metadata(resource)) };
        self.metadata_offset = *area;
        Ok(())
    }

    /// Where new metadata with these zones goes.
    ///
    /// # Errors
    /// Data and metadata do not fit.
    pub fn place_area(&mut self, zones: &Zones, volume_bytes: u64) -> Result<(), DeviceError> {
        let needed = zones.metadata_bytes();
        if !self.is_internal() {
            self.data.require_bytes(volume_bytes)?;
            return self.metadata.require_bytes(needed);
        }
        match zones.internal_offset(self.data.bytes, volume_bytes) {
            Some(offset) => self.metadata_offset = offset,
            None => self.data.require_bytes(volume_bytes.saturating_add(needed))?,
        }
        Ok(())
    }

    /// Reads both copies of the superblock; the newest valid one counts. None if there is none of this or another
    /// version.
    ///
    /// # Errors
    /// The disk cannot be read, or what is there contradicts itself.
    pub fn read_superblock(&self) -> Result<Option<Superblock>, StartError> {
        let end = self.metadata_offset + SUPERBLOCK_1_OFFSET + bytes_u64(BLOCK_SIZE);
        if self.metadata.bytes < end {
            return Ok(None);
        }
        let read = |offset| self.metadata.read_at(self.metadata_offset + offset, BLOCK_SIZE);
        match choose_newest(&read(SUPERBLOCK_0_OFFSET)?, &read(SUPERBLOCK_1_OFFSET)?) {
            Ok((superblock, _copy)) => Ok(Some(superblock)),
            Err(ChooseError::Neither { first: SuperblockError::Magic, second: SuperblockError::Magic }) => {
                Ok(None)
            }
            Err(reason) => Err(StartError::Superblock { path: self.metadata.path.clone(), reason }),
        }
    }

    /// Finds metadata, checks that it is this node's, and reads everything that a replica starts from.
    ///
    /// # Errors
    /// There is no metadata, it belongs elsewhere, or a disk does not give it.
    pub fn read(&mut self, config: &Config) -> Result<FoundOnDisk, StartError> {
        self.find_area(&config.resource)?;
        let superblock = self.read_superblock()?.ok_or_else(|| self.no_metadata(&config.resource))?;
        self.check_identity(&superblock, config)?;
        self.data.require_bytes(superblock.volume_bytes)?;
        self.metadata.require_bytes(self.metadata_offset + superblock.zones.metadata_bytes())?;
        let recovery = self.scan_journal(&superblock)?;
        let bitmap_pages = self.read_bitmaps(&superblock)?;
        Ok(FoundOnDisk { superblock, recovery, bitmap_pages })
    }

    /// The disks for a running replica.
    #[must_use]
    pub fn into_backing_device(self) -> BackingDevice {
        BackingDevice::new(self.data, self.metadata, self.metadata_offset)
    }

    fn check_identity(&self, superblock: &Superblock, config: &Config) -> Result<(), StartError> {
        let path = self.metadata.path.clone();
        if superblock.resource.as_str() != config.resource {
            let (found, expected) = (superblock.resource.to_string(), config.resource.clone());
            return Err(StartError::OtherResource { path, found, expected });
        }
        if superblock.node != config.local {
            return Err(StartError::OtherNode { path, found: superblock.node, expected: config.local });
        }
        if superblock.volume_bytes != config.volume_bytes {
            let (found, expected) = (superblock.volume_bytes, config.volume_bytes);
            return Err(StartError::OtherSize { path, found, expected });
        }
        let peers = config.peers().count();
        if usize::from(superblock.max_peers) < peers {
            return Err(StartError::TooFewPeers { path, room: superblock.max_peers, peers });
        }
        Ok(())
    }

    fn scan_journal(&self, superblock: &Superblock) -> Result<RecoveryPlan, DeviceError> {
        let ring_offset = self.metadata_offset + superblock.zones.journal().offset;
        let mut scan = RecoveryScan::new(superblock);
        while let Some(read) = scan.next_read() {
            let bytes = self.metadata.read_at(ring_offset + read.ring_offset, bytes_usize(read.length))?;
            scan.on_bytes(Bytes::from_owner(bytes));
        }
        Ok(scan.finish())
    }

    fn read_bitmaps(&self, superblock: &Superblock) -> Result<Vec<BitmapPage>, StartError> {
        let mut pages = Vec::new();
        for peer in superblock.peers.iter().filter(|peer| peer.node.is_some() && peer.has_dirty_bits) {
            let slot = peer.bitmap_slot;
            let zone = superblock.zones.bitmap(slot).expect("parse() has checked the slots");
            for from in (0..zone.length).step_by(bytes_usize(BITMAP_READ_BYTES)) {
                let length = BITMAP_READ_BYTES.min(zone.length - from);
                let offset = self.metadata_offset + zone.offset + from;
                let bytes = self.metadata.read_at(offset, bytes_usize(length))?;
                for (block, page) in bytes.chunks_exact(BLOCK_SIZE).zip(from / bytes_u64(BLOCK_SIZE)..) {
                    let parsed = BitmapPage::recover(block, slot, page).map_err(|reason| {
                        StartError::BitmapPage { path: self.metadata.path.clone(), slot, page, reason }
                    })?;
                    // A page that was never written has no bit set.
                    pages.extend((parsed.header.sequence > 0).then_some(parsed));
                }
            }
        }
        Ok(pages)
    }

    fn no_metadata(&self, resource: &str) -> StartError {
        StartError::NoMetadata { path: self.metadata.path.clone(), resource: resource.to_owned() }
    }
}

/// Whether two paths lead to the same file; the second opening would call it "in use", which would mislead.
fn same_file(first: &std::path::Path, second: &std::path::Path) -> bool {
    match (std::fs::canonicalize(first), std::fs::canonicalize(second)) {
        (Ok(first), Ok(second)) => first == second,
        (Err(_), _) | (_, Err(_)) => false,
    }
}
