//! The rescue image: a sparse file as large as the volume that holds each discarded block at its own place, followed by
//! the ranges and, in its last block, what it is about. It ends with that block, so a file without it was never
//! finished. Knows bytes; which blocks are discarded is `rescue`'s business.

use std::mem::size_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::checksum::Crc32c;
use crate::generation::lineage::{GENERATIONS_MAX, Generation, Lineage, LineageError};
use crate::layout::disk_struct;
use crate::layout::format_version::FORMAT_VERSION;
use crate::layout::superblock::ResourceName;
use crate::layout::superblock::bytes::GenerationBytes;
use crate::units::{
    BLOCK_BYTES, BLOCK_SIZE, BlockRange, GenerationId, Lsn, NodeId, REPLICAS_MAX, Term, VOLUME_BYTES_MAX,
    VOLUME_BYTES_MIN, bytes_u64, bytes_usize,
};

/// First bytes of the last block of a rescue image.
pub const RESCUE_MAGIC: [u8; 8] = *b"TBLKRESC";
/// Most bytes of a node's name.
pub const NODE_NAME_BYTES_MAX: usize = 64;

disk_struct! {
    /// The last block of a rescue image.
    pub struct RescueImageBytes {
        /// [`RESCUE_MAGIC`].
        magic: [u8; 8],
        /// Format version.
        version: U32,
        /// CRC32C of the whole block with this field zero.
        crc: U32,
        /// Size of the volume: where the ranges begin.
        volume_bytes: U64,
        /// Number of ranges.
        range_count: U64,
        /// Blocks in all ranges.
        block_count: U64,
        /// CRC32C of all ranges.
        ranges_crc: U32,
        /// Zero.
        reserved_1: [u8; 4],
        /// When it was begun, seconds since 1970 UTC, by the clock of the node.
        begun: U64,
        /// Generation up to which the peer has the same.
        common: U64,
        /// Last write that the peer has too.
        fork: U64,
        /// Newest write that was discarded.
        end: U64,
        /// Number of the node that discarded.
        node: u8,
        /// Number of the peer that it gave way to.
        peer: u8,
        /// Entries of the lineage.
        generation_count: u8,
        /// Length of the resource's name.
        resource_length: u8,
        /// Length of the node's name.
        node_name_length: u8,
        /// Length of the peer's name.
        peer_name_length: u8,
        /// 1 if the disk was damaged: its blocks may be of different moments.
        is_damaged: u8,
        /// Zero.
        reserved_2: u8,
        /// Name of the resource, zero padded.
        resource: [u8; 64],
        /// Name of the node, zero padded.
        node_name: [u8; NODE_NAME_BYTES_MAX],
        /// Name of the peer, zero padded.
        peer_name: [u8; NODE_NAME_BYTES_MAX],
        /// Bit n: entry n of the lineage is granted.
        granted: U64,
        /// The lineage of the node before it discarded, oldest first.
        generations: [GenerationBytes; GENERATIONS_MAX],
        /// Zero.
        reserved_3: [u8; 1760],
    }
}
const _: () = assert!(size_of::<RescueImageBytes>() == BLOCK_SIZE);

disk_struct! {
    /// One range.
    pub struct RescueRangeBytes {
        /// First block.
        first: U64,
        /// Number of blocks.
        count: U64,
        /// The write that they hold; 0 if it is not known.
        lsn: U64,
    }
}

/// Blocks that an image holds, all of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RescuedRange {
    /// Which.
    pub blocks: BlockRange,
    /// The write; not known where only a bitmap remembered that they were changed.
    pub lsn: Option<Lsn>,
}

/// What a rescue is about, known before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RescueHead {
    /// The resource.
    pub resource: ResourceName,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// The node that discards, and its name.
    pub node: (NodeId, String),
    /// The peer that it gives way to, and its name.
    pub peer: (NodeId, String),
    /// Generation up to which the peer has the same.
    pub common: GenerationId,
    /// Last write that the peer has too.
    pub fork: Lsn,
    /// Newest write that is discarded.
    pub end: Lsn,
    /// Whether the disk is damaged, so that its blocks may be of different moments.
    pub is_damaged: bool,
    /// Generations of the node's data.
    pub lineage: Lineage,
}

/// The last block of an image: what it is about, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RescueImage {
    /// What it is about.
    pub head: RescueHead,
    /// When it was begun, seconds since 1970 UTC.
    pub begun: u64,
    /// What it holds.
    pub totals: RangeTotals,
}

/// All ranges of an image in sum, counted up while they are written or read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeTotals {
    /// How many.
    pub ranges: u64,
    /// Blocks in all of them.
    pub blocks: u64,
    /// CRC32C of their bytes.
    pub crc: Crc32c,
    /// Where the last one ends.
    end: u64,
}

impl RangeTotals {
    /// The bytes of further ranges, which are in block order, and count them.
    #[must_use]
    pub fn encode(&mut self, ranges: &[RescuedRange]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ranges.len() * size_of::<RescueRangeBytes>());
        for RescuedRange { blocks, lsn } in ranges {
            assert!(blocks.first >= self.end && blocks.count > 0, "ranges are in order");
            let stored = RescueRangeBytes {
                first: U64::new(blocks.first),
                count: U64::new(blocks.count),
                lsn: U64::new(lsn.unwrap_or_default().0),
            };
            bytes.extend_from_slice(stored.as_bytes());
            self.ranges += 1;
            self.blocks += blocks.count;
            self.end = blocks.end();
        }
        self.crc = self.crc.append(&bytes);
        bytes
    }

    /// The ranges in `bytes`, which are whole ranges, counted.
    ///
    /// # Errors
    /// One of them is empty, out of order, or lies beyond the volume.
    pub fn parse(&mut self, volume_bytes: u64, bytes: &[u8]) -> Result<Vec<RescuedRange>, RescueImageError> {
        let mut ranges = Vec::new();
        for stored in bytes.chunks(size_of::<RescueRangeBytes>()) {
            let stored = RescueRangeBytes::read_from_bytes(stored)
                .map_err(|_| RescueImageError::Length(stored.len()))?;
            let (first, count, lsn) = (stored.first.get(), stored.count.get(), stored.lsn.get());
            let end = first.checked_add(count).filter(|end| *end <= volume_bytes / BLOCK_BYTES);
            let end = end.filter(|_| first >= self.end && count > 0);
            self.end = end.ok_or(RescueImageError::Range(self.ranges))?;
            self.ranges += 1;
            self.blocks += count;
            let lsn = (lsn > 0).then_some(Lsn(lsn));
            ranges.push(RescuedRange { blocks: BlockRange::new(first, count), lsn });
        }
        self.crc = self.crc.append(bytes);
        Ok(ranges)
    }
}

/// Why bytes are no rescue image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RescueImageError {
    /// Not as long as it must be.
    #[error("{0} bytes are no part of a rescue image")]
    Length(usize),
    /// Something else, or an image that was never finished.
    #[error("no rescue image: its magic is missing from the last block")]
    Magic,
    /// Written by another version.
    #[error("rescue image of format version {0}, this program knows {FORMAT_VERSION}")]
    Version(u32),
    /// Damaged.
    #[error("rescue image damaged: its checksum is {stored}, its content has {computed}")]
    Checksum {
        /// What it says.
        stored: Crc32c,
        /// What its bytes have.
        computed: Crc32c,
    },
    /// A field that no program writes.
    #[error("rescue image with impossible content in {0}")]
    Content(&'static str),
    /// Generations out of order.
    #[error("rescue image with an impossible lineage: {0}")]
    Lineage(#[from] LineageError),
    /// An empty range, or one out of order, or beyond the end.
    #[error("rescue image with an impossible range number {0}")]
    Range(u64),
    /// The ranges are not those that were counted.
    #[error("rescue image whose ranges are not those that its last block counts")]
    Ranges,
}

impl RescueImage {
    /// Where the ranges begin, and how long they are.
    #[must_use]
    pub fn ranges_place(&self) -> (u64, u64) {
        (self.head.volume_bytes, self.totals.ranges * bytes_u64(size_of::<RescueRangeBytes>()))
    }

    /// Where the last block begins.
    #[must_use]
    pub fn last_block_offset(&self) -> u64 {
        let (offset, length) = self.ranges_place();
        offset + length.next_multiple_of(BLOCK_BYTES)
    }

    /// Length of the file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.last_block_offset() + BLOCK_BYTES
    }

    /// Holds what was read against what the last block counts.
    ///
    /// # Errors
    /// They differ.
    pub fn check_ranges(&self, read: &RangeTotals) -> Result<(), RescueImageError> {
        let counted = (self.totals.ranges, self.totals.blocks, self.totals.crc);
        let is_same = counted == (read.ranges, read.blocks, read.crc);
        if is_same { Ok(()) } else { Err(RescueImageError::Ranges) }
    }

    /// The last block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let RescueHead { resource, volume_bytes, node, peer, common, fork, end, is_damaged, lineage } =
            &self.head;
        let (resource, resource_length) = padded(resource.as_str());
        let (node_name, node_name_length) = padded(&node.1);
        let (peer_name, peer_name_length) = padded(&peer.1);
        let mut granted = 0;
        let mut generations = [empty_generation(); GENERATIONS_MAX];
        for (at, generation) in lineage.generations().iter().enumerate() {
            granted |= u64::from(generation.granted) << at;
            generations[at] = GenerationBytes {
                id: U64::new(generation.id.0),
                term_number: U64::new(generation.term.number),
                term_taker: U64::new(generation.term.taker),
                first_lsn: U64::new(generation.first_lsn.0),
            };
        }
        let mut bytes = RescueImageBytes {
            magic: RESCUE_MAGIC,
            version: U32::new(FORMAT_VERSION),
            crc: U32::ZERO,
            volume_bytes: U64::new(*volume_bytes),
            range_count: U64::new(self.totals.ranges),
            block_count: U64::new(self.totals.blocks),
            ranges_crc: U32::new(self.totals.crc.0),
            reserved_1: [0; 4],
            begun: U64::new(self.begun),
            common: U64::new(common.0),
            fork: U64::new(fork.0),
            end: U64::new(end.0),
            node: node.0.0,
            peer: peer.0.0,
            generation_count: u8::try_from(lineage.generations().len()).expect("at most GENERATIONS_MAX"),
            resource_length,
            node_name_length,
            peer_name_length,
            is_damaged: u8::from(*is_damaged),
            reserved_2: 0,
            resource,
            node_name,
            peer_name,
            granted: U64::new(granted),
            generations,
            reserved_3: [0; 1760],
        };
        bytes.crc = U32::new(Crc32c::of(bytes.as_bytes()).0);
        bytes.as_bytes().to_vec()
    }

    /// The image whose last block this is.
    ///
    /// # Errors
    /// It is none, is damaged, or is of another version.
    pub fn parse(block: &[u8]) -> Result<Self, RescueImageError> {
        let mut bytes =
            RescueImageBytes::read_from_bytes(block).map_err(|_| RescueImageError::Length(block.len()))?;
        if bytes.magic != RESCUE_MAGIC {
            return Err(RescueImageError::Magic);
        }
        if bytes.version.get() != FORMAT_VERSION {
            return Err(RescueImageError::Version(bytes.version.get()));
        }
        let stored = Crc32c(bytes.crc.get());
        bytes.crc = U32::ZERO;
        let computed = Crc32c::of(bytes.as_bytes());
        if stored != computed {
            return Err(RescueImageError::Checksum { stored, computed });
        }
        decode(&bytes)
    }
}

fn decode(bytes: &RescueImageBytes) -> Result<RescueImage, RescueImageError> {
    let wrong = |field| RescueImageError::Content(field);
    let reserved = [&bytes.reserved_1[..], &[bytes.reserved_2], &bytes.reserved_3[..]];
    if reserved.concat().iter().any(|byte| *byte != 0) {
        return Err(wrong("reserved bytes"));
    }
    let volume_bytes = bytes.volume_bytes.get();
    let is_legal = (VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&volume_bytes)
        && volume_bytes.is_multiple_of(BLOCK_BYTES)
        && bytes.block_count.get() <= volume_bytes / BLOCK_BYTES
        && bytes.range_count.get() <= bytes.block_count.get();
    if !is_legal {
        return Err(wrong("volume_bytes"));
    }
    let replica = |number: u8, field| match usize::from(number) < REPLICAS_MAX {
        true => Ok(NodeId(number)),
        false => Err(wrong(field)),
    };
    let resource = unpadded(&bytes.resource, bytes.resource_length, "resource")?;
    let head = RescueHead {
        resource: ResourceName::parse(&resource).ok_or(wrong("resource"))?,
        volume_bytes,
        node: (
            replica(bytes.node, "node")?,
            unpadded(&bytes.node_name, bytes.node_name_length, "node_name")?,
        ),
        peer: (
            replica(bytes.peer, "peer")?,
            unpadded(&bytes.peer_name, bytes.peer_name_length, "peer_name")?,
        ),
        common: GenerationId(bytes.common.get()),
        fork: Lsn(bytes.fork.get()),
        end: Lsn(bytes.end.get()),
        is_damaged: match bytes.is_damaged {
            0 => false,
            1 => true,
            _ => return Err(wrong("is_damaged")),
        },
        lineage: lineage(bytes)?,
    };
    let totals = RangeTotals {
        ranges: bytes.range_count.get(),
        blocks: bytes.block_count.get(),
        crc: Crc32c(bytes.ranges_crc.get()),
        end: 0,
    };
    Ok(RescueImage { head, begun: bytes.begun.get(), totals })
}

fn lineage(bytes: &RescueImageBytes) -> Result<Lineage, RescueImageError> {
    let count = usize::from(bytes.generation_count);
    let granted = bytes.granted.get();
    let (used, unused) =
        bytes.generations.split_at_checked(count).ok_or(RescueImageError::Content("generation_count"))?;
    let is_zero = |generation: &GenerationBytes| generation.as_bytes().iter().all(|byte| *byte == 0);
    let is_beyond = count < GENERATIONS_MAX && granted >> count != 0;
    if is_beyond || !unused.iter().all(is_zero) {
        return Err(RescueImageError::Content("generations"));
    }
    let generation = |(at, stored): (usize, &GenerationBytes)| Generation {
        id: GenerationId(stored.id.get()),
        term: Term { number: stored.term_number.get(), taker: stored.term_taker.get() },
        granted: granted >> at & 1 != 0,
        first_lsn: Lsn(stored.first_lsn.get()),
    };
    Ok(Lineage::parse(used.iter().enumerate().map(generation).collect())?)
}

fn empty_generation() -> GenerationBytes {
    GenerationBytes { id: U64::ZERO, term_number: U64::ZERO, term_taker: U64::ZERO, first_lsn: U64::ZERO }
}

fn padded(name: &str) -> ([u8; 64], u8) {
    let mut bytes = [0; 64];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    (bytes, u8::try_from(name.len()).expect("the configuration bounds names"))
}

fn unpadded(bytes: &[u8; 64], length: u8, field: &'static str) -> Result<String, RescueImageError> {
    let wrong = RescueImageError::Content(field);
    let (name, rest) = bytes.split_at_checked(usize::from(length)).ok_or(wrong)?;
    let is_legal =
        !name.is_empty() && name.iter().all(u8::is_ascii_graphic) && rest.iter().all(|byte| *byte == 0);
    let name = std::str::from_utf8(name).ok().filter(|_| is_legal);
    name.map(str::to_owned).ok_or(wrong)
}

/// Bytes of ranges to read at a time: whole ranges.
pub const RANGES_READ_BYTES: usize = 4096 * size_of::<RescueRangeBytes>();

/// The parts in which the ranges of an image are read: offset, length.
pub fn range_reads(image: &RescueImage) -> impl Iterator<Item = (u64, usize)> {
    let (offset, length) = image.ranges_place();
    let step = bytes_u64(RANGES_READ_BYTES);
    (0..length.div_ceil(step))
        .map(move |part| (offset + part * step, bytes_usize(step.min(length - part * step))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> RescueHead {
        RescueHead {
            resource: ResourceName::parse("mail").expect("a name"),
            volume_bytes: 1 << 20,
            node: (NodeId(1), "beta".to_owned()),
            peer: (NodeId(0), "alpha".to_owned()),
            common: GenerationId::ZEROED,
            fork: Lsn(98),
            end: Lsn(120),
            is_damaged: false,
            lineage: Lineage::zeroed(),
        }
    }

    fn range(first: u64, count: u64, lsn: Option<u64>) -> RescuedRange {
        RescuedRange { blocks: BlockRange::new(first, count), lsn: lsn.map(Lsn) }
    }

    #[test]
    fn an_image_reads_back_as_it_was_written() {
        let ranges = [range(3, 2, Some(99)), range(9, 1, None), range(255, 1, Some(120))];
        let mut totals = RangeTotals::default();
        let bytes = totals.encode(&ranges);
        assert_eq!((totals.ranges, totals.blocks), (3, 4));
        let image = RescueImage { head: head(), begun: 1_700_000_000, totals };
        let parsed = RescueImage::parse(&image.encode()).expect("own image");
        assert_eq!((&parsed.head, parsed.begun), (&image.head, image.begun));
        assert_eq!(parsed.encode(), image.encode());
        assert_eq!(parsed.ranges_place(), (1 << 20, 72));
        assert_eq!(parsed.file_bytes(), (1 << 20) + 8192);
        let mut read = RangeTotals::default();
        assert_eq!(read.parse(1 << 20, &bytes).expect("ranges"), ranges);
        assert_eq!(parsed.check_ranges(&read), Ok(()));
        assert_eq!(range_reads(&parsed).collect::<Vec<_>>(), [(1 << 20, 72)]);
    }

    #[test]
    fn no_bit_of_the_last_block_or_of_a_range_may_differ() {
        let mut totals = RangeTotals::default();
        let bytes = totals.encode(&[range(3, 2, Some(99))]);
        let image = RescueImage { head: head(), begun: 1, totals };
        let block = image.encode();
        for bit in 0..block.len() * 8 {
            let mut damaged = block.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(RescueImage::parse(&damaged).is_err(), "bit {bit}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut read = RangeTotals::default();
            let is_refused = read.parse(1 << 20, &damaged).is_err() || image.check_ranges(&read).is_err();
            assert!(is_refused, "bit {bit}");
        }
    }

    #[test]
    fn ranges_out_of_order_or_beyond_the_volume_are_refused() {
        let parse = |first: u64, count: u64| {
            let stored = RescueRangeBytes { first: U64::new(first), count: U64::new(count), lsn: U64::ZERO };
            let mut totals = RangeTotals { end: 5, ..RangeTotals::default() };
            totals.parse(1 << 20, stored.as_bytes())
        };
        assert!(parse(5, 251).is_ok());
        for (first, count) in [(4, 1), (5, 0), (5, 252), (u64::MAX, 2)] {
            assert!(parse(first, count).is_err(), "{first} {count}");
        }
    }
}
