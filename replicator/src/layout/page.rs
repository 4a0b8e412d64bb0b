//! What the pages of bitmap, checksum zone and activity log have in common: a header and 4032 bytes of body.
//! A page that was never written is all zeroes and stands for "nothing here".

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::checksum::Crc32c;
use crate::layout::disk_struct;
use crate::layout::format_version::FORMAT_VERSION;
use crate::units::BLOCK_SIZE;

/// Bytes of a page behind its header.
pub const PAGE_BODY_BYTES: usize = 4032;

disk_struct! {
    /// The first 64 bytes of a page.
    pub struct PageHeaderBytes {
        /// Names the kind of page.
        magic: [u8; 8],
        /// Format version.
        version: U32,
        /// CRC32C of the whole page with this field zero.
        crc: U32,
        /// Place of the page in its zone, from 0.
        page_index: U64,
        /// Grows with every write of the page.
        sequence: U64,
        /// Slot of the peer (bitmap), else zero.
        peer_slot: u8,
        /// Zero.
        reserved: [u8; 31],
    }
}
const _: () = assert!(size_of::<PageHeaderBytes>() + PAGE_BODY_BYTES == BLOCK_SIZE);

/// Which page of which zone, and how often it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageHeader {
    /// Slot of the peer (bitmap), else zero.
    pub peer_slot: u8,
    /// Place of the page in its zone, from 0.
    pub page_index: u64,
    /// Grows with every write of the page; 0 on a page that was never written.
    pub sequence: u64,
}

/// Why a block is not the page that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Not one block long.
    #[error("{0} bytes are no page")]
    Length(usize),
    /// Another kind of page, or none.
    #[error("page of another kind: its magic is missing")]
    Magic,
    /// Written by another version.
    #[error("page of format version {0}, this program knows {FORMAT_VERSION}")]
    Version(u32),
    /// Damaged.
    #[error("page damaged: its checksum is {stored}, its content has {computed}")]
    Checksum {
        /// What the page says.
        stored: Crc32c,
        /// What its bytes have.
        computed: Crc32c,
    },
    /// A reserved byte is set.
    #[error("page with reserved bytes that are not zero")]
    Reserved,
    /// A page of another place: a write went astray.
    #[error("page {found} of slot {found_slot} where page {wanted} of slot {wanted_slot} belongs")]
    Misplaced {
        /// Index in the page.
        found: u64,
        /// Slot in the page.
        found_slot: u8,
        /// Index of the place.
        wanted: u64,
        /// Slot of the place.
        wanted_slot: u8,
    },
}

/// A page of header and body.
pub(crate) fn encode_page(magic: [u8; 8], header: PageHeader, body: &[u8; PAGE_BODY_BYTES]) -> Vec<u8> {
    assert!(header.sequence > 0, "a written page has a sequence number");
    let mut first = PageHeaderBytes {
        magic,
        version: U32::new(FORMAT_VERSION),
        crc: U32::ZERO,
        page_index: U64::new(header.page_index),
        sequence: U64::new(header.sequence),
        peer_slot: header.peer_slot,
        reserved: [0; 31],
    };
    first.crc = U32::new(Crc32c::of(first.as_bytes()).append(body).0);
    [first.as_bytes(), body].concat()
}

/// Header and body of the page that lies where page `page_index` of slot `peer_slot` belongs.
pub(crate) fn parse_page(
    magic: [u8; 8],
    page: &[u8],
    peer_slot: u8,
    page_index: u64,
) -> Result<(PageHeader, &[u8]), PageError> {
    if page.len() != BLOCK_SIZE {
        return Err(PageError::Length(page.len()));
    }
    let (mut first, body) =
        PageHeaderBytes::read_from_prefix(page).map_err(|_| PageError::Length(page.len()))?;
    if page.iter().all(|byte| *byte == 0) {
        return Ok((PageHeader { peer_slot, page_index, sequence: 0 }, body));
    }
    if first.magic != magic {
        return Err(PageError::Magic);
    }
    if first.version.get() != FORMAT_VERSION {
        return Err(PageError::Version(first.version.get()));
    }
    let stored = Crc32c(first.crc.get());
    first.crc = U32::ZERO;
    let computed = Crc32c::of(first.as_bytes()).append(body);
    if stored != computed {
        return Err(PageError::Checksum { stored, computed });
    }
    if first.reserved != [0; 31] || first.sequence.get() == 0 {
        return Err(PageError::Reserved);
    }
    let header = PageHeader {
        peer_slot: first.peer_slot,
        page_index: first.page_index.get(),
        sequence: first.sequence.get(),
    };
    if (header.page_index, header.peer_slot) != (page_index, peer_slot) {
        let (found, found_slot) = (header.page_index, header.peer_slot);
        return Err(PageError::Misplaced { found, found_slot, wanted: page_index, wanted_slot: peer_slot });
    }
    Ok((header, body))
}
