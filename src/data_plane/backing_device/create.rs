//! Makes new metadata, and makes old metadata unusable. The superblocks are written last: a disk whose creation was
//! cut short has none.

use replicator::layout::locator::{CandidateAreas, LOCATOR_MAGIC, Locator};
use replicator::layout::superblock::Superblock;
use replicator::layout::superblock::bytes::SUPERBLOCK_MAGIC;
use replicator::layout::zones::{Zone, ZoneKind};
use replicator::units::{BLOCK_BYTES, BLOCK_SIZE, bytes_u64, bytes_usize};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::data_plane::backing_device::device::{Device, DeviceError};
use crate::data_plane::backing_device::start::OpenDisks;
use crate::data_plane::buffers::PoolBuffer;

/// Bytes of one write of zeroes.
const ZERO_WRITE_BYTES: u64 = 4 << 20;

/// What happens to the data area when metadata is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataArea {
    /// It stays as it is.
    Keep,
    /// It is made to read as zero (`--uptodate-zeroed`).
    Zero,
}

/// Writes new metadata to the place that [`OpenDisks::place_area`] has found: every zone, then the locators, then
/// both superblock copies, each step flushed before the next. `progress` is told how many bytes of how many are
/// written.
///
/// # Errors
/// A disk does not take it.
pub fn create(
    disks: &OpenDisks,
    superblock: &Superblock,
    data_area: DataArea,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), DeviceError> {
    let base = disks.metadata_offset;
    // An older superblock must not outlive the zones that it describes.
    for zone in superblock.zones.superblocks() {
        zero_by_writing(&disks.metadata, base + zone.offset, zone.length, &mut |_| {})?;
    }
    disks.metadata.flush()?;
    for zone in superblock.zones.all() {
        create_zone(&disks.metadata, base, zone, progress)?;
    }
    if data_area == DataArea::Zero {
        zero(&disks.data, 0, superblock.volume_bytes)?;
        disks.data.flush()?;
    }
    let metadata_bytes = superblock.zones.metadata_bytes();
    let locator = Locator { voter: superblock.voter, metadata_bytes, volume_bytes: superblock.volume_bytes };
    // On a device that ends with a part of a block the area, and so the locators, end before that part.
    for offset in Locator::offsets(base + metadata_bytes) {
        disks.metadata.write_at(offset, &PoolBuffer::copy_of(&locator.encode()))?;
    }
    disks.metadata.flush()?;
    for sequence in [superblock.sequence, superblock.sequence + 1] {
        let copy = Superblock { sequence, ..superblock.clone() };
        let zone = copy.zones.superblocks()[copy.copy_index()];
        disks.metadata.write_at(base + zone.offset, &PoolBuffer::copy_of(&copy.encode()[..]))?;
    }
    disks.metadata.flush()
}

/// Makes every metadata area that a device holds unusable, wherever it lies: an area that was replaced is never
/// started from again. Touches nothing but its locators and superblocks.
///
/// # Errors
/// The disk does not give or take them.
pub fn forget_old_areas(device: &Device) -> Result<(), DeviceError> {
    let read = |offset| device.read_at(offset, BLOCK_SIZE);
    for offset in CandidateAreas::find(device.bytes, read)?.telling_blocks() {
        let block = read(offset)?;
        if block.starts_with(&SUPERBLOCK_MAGIC) || block.starts_with(&LOCATOR_MAGIC) {
            zero_by_writing(device, offset, BLOCK_BYTES, &mut |_| {})?;
        }
    }
    device.flush()
}

fn create_zone(
    metadata: &Device,
    base: u64,
    zone: &Zone,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), DeviceError> {
    match zone.kind {
        ZoneKind::Superblock0 | ZoneKind::Superblock1 => Ok(()),
        // Real zeroes: later writes then replace blocks that exist, and the file system has nothing to record.
        ZoneKind::Journal => zero_by_writing(metadata, base + zone.offset, zone.length, &mut |done| {
            progress(done, zone.length);
        }),
        ZoneKind::ActivityLog | ZoneKind::Bitmap(_) | ZoneKind::Checksums | ZoneKind::Locator => {
            zero(metadata, base + zone.offset, zone.length)
        }
    }
}

/// Makes a range read as zero, in the cheapest way that the disk knows.
fn zero(device: &Device, offset: u64, length: u64) -> Result<(), DeviceError> {
    let ways = [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE];
    for way in ways {
        match rustix::fs::fallocate(&*device.file, way | FallocateFlags::KEEP_SIZE, offset, length) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(device.failure("zero", offset, errno)),
        }
    }
    zero_by_writing(device, offset, length, &mut |_| {})
}

fn zero_by_writing(
    device: &Device,
    offset: u64,
    length: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<(), DeviceError> {
    let mut zeroes = PoolBuffer::with_length(bytes_usize(length.min(ZERO_WRITE_BYTES)));
    zeroes.fill(0);
    let mut done = 0;
    while done < length {
        zeroes.truncate(zeroes.len().min(bytes_usize(length - done)));
        device.write_at(offset + done, &zeroes)?;
        done += bytes_u64(zeroes.len());
        progress(done);
    }
    Ok(())
}

/// A superblock as the CLI makes it, in the tests of this module and of `start`.
#[cfg(test)]
mod tests;
