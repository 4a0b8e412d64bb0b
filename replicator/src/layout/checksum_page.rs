//! A page of the checksum zone: one CRC32C for each block of the volume. The zone's state is `absent` in
//! this version: its space is set aside, nothing reads or writes it.

pub use crate::layout::page::{PAGE_BODY_BYTES, PageError, PageHeader};

use crate::checksum::Crc32c;
use crate::layout::page::{encode_page, parse_page};

/// First bytes of a checksum page.
pub const CHECKSUM_MAGIC: [u8; 8] = *b"TBLKCSUM";
/// Blocks of the volume that one page covers.
pub const CHECKSUM_PAGE_BLOCKS: u64 = 1008;

const _: () = assert!(CHECKSUM_PAGE_BLOCKS == 4032 / 4);

/// One page of checksums, in block order. A page that was never written has no sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChecksumPage {
    /// Which page.
    pub header: PageHeader,
    /// The sums of its blocks.
    pub sums: Vec<Crc32c>,
}

impl ChecksumPage {
    /// The block to write.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = [0; PAGE_BODY_BYTES];
        assert_eq!(self.sums.len(), PAGE_BODY_BYTES / 4, "a page has a sum for each of its blocks");
        for (place, sum) in body.chunks_exact_mut(4).zip(&self.sums) {
            place.copy_from_slice(&sum.0.to_le_bytes());
        }
        encode_page(CHECKSUM_MAGIC, self.header, &body)
    }

    /// The page at place `page_index` of the zone.
    ///
    /// # Errors
    /// The block is damaged, of another version, or belongs elsewhere.
    pub fn parse(block: &[u8], page_index: u64) -> Result<Self, PageError> {
        let (header, body) = parse_page(CHECKSUM_MAGIC, block, 0, page_index)?;
        if header.sequence == 0 {
            return Ok(Self { header, sums: Vec::new() });
        }
        let (words, _) = body.as_chunks::<4>();
        Ok(Self { header, sums: words.iter().map(|word| Crc32c(u32::from_le_bytes(*word))).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BLOCK_SIZE;

    #[test]
    fn a_page_comes_back_as_written_and_a_blank_one_has_no_sums() {
        let header = PageHeader { peer_slot: 0, page_index: 4, sequence: 1 };
        let page = ChecksumPage { header, sums: (0..1008).map(Crc32c).collect() };
        assert_eq!(ChecksumPage::parse(&page.encode(), 4), Ok(page));
        assert!(ChecksumPage::parse(&[0; BLOCK_SIZE], 4).unwrap().sums.is_empty());
    }
}
