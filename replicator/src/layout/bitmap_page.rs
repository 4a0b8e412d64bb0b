//! A page of a dirty bitmap: one bit for each block that may differ from one peer.
//! A page that was never written is all zeroes and parses as clean.

use std::ops::Range;

pub use crate::layout::page::{PAGE_BODY_BYTES, PageError, PageHeader};

use crate::layout::page::{encode_page, parse_page};
use crate::units::bytes_usize;

/// First bytes of a bitmap page.
pub const BITMAP_MAGIC: [u8; 8] = *b"TBLKBITM";
/// Blocks of the volume that one page covers.
pub const BITMAP_PAGE_BLOCKS: u64 = 32_256;

const _: () = assert!(BITMAP_PAGE_BLOCKS == 8 * 4032);

/// What a disk writes whole, at least.
const SECTOR_BYTES: usize = 512;

/// One page of bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapPage {
    /// Which page, for which peer.
    pub header: PageHeader,
    /// The bits: block `n` of the page is bit `n % 8` of byte `n / 8`.
    pub bits: Box<[u8; PAGE_BODY_BYTES]>,
}

impl BitmapPage {
    /// The page as a crash has left it. Pages are rewritten in place, so a power cut may tear one. Every block of it
    /// counts as dirty then: that costs a copy of them, and never a difference that nobody knows of.
    ///
    /// # Errors
    /// What is there is no torn page, but something that does not belong there.
    pub fn recover(block: &[u8], peer_slot: u8, page_index: u64) -> Result<Self, PageError> {
        match Self::parse(block, peer_slot, page_index) {
            Err(PageError::Checksum { .. }) => Ok(Self::all_dirty(peer_slot, page_index)),
            // Of the first write of a page everything arrived but the sector with the header.
            Err(PageError::Magic) if block.iter().take(SECTOR_BYTES).all(|byte| *byte == 0) => {
                Ok(Self::all_dirty(peer_slot, page_index))
            }
            outcome => outcome,
        }
    }

    /// A page with every bit set, in place of one that cannot be read.
    fn all_dirty(peer_slot: u8, page_index: u64) -> Self {
        let header = PageHeader { peer_slot, page_index, sequence: 1 };
        Self { header, bits: Box::new([0xFF; PAGE_BODY_BYTES]) }
    }

    /// A page without a set bit.
    #[must_use]
    pub fn clean(peer_slot: u8, page_index: u64) -> Self {
        let header = PageHeader { peer_slot, page_index, sequence: 0 };
        Self { header, bits: Box::new([0; PAGE_BODY_BYTES]) }
    }

    /// The page that covers `block` and the block's place in it.
    #[must_use]
    pub fn place_of(block: u64) -> (u64, u64) {
        (block / BITMAP_PAGE_BLOCKS, block % BITMAP_PAGE_BLOCKS)
    }

    /// Whether block `at` of the page is dirty.
    #[must_use]
    pub fn is_set(&self, at: u64) -> bool {
        self.bits[bytes_usize(at / 8)] & (1 << (at % 8)) != 0
    }

    /// Marks blocks `range` of the page as dirty.
    pub fn set(&mut self, range: Range<u64>) {
        let (mut at, end) = (range.start, range.end);
        while at < end {
            // A whole byte where there is one: a trim may cover a million blocks.
            if at.is_multiple_of(8) && end - at >= 8 {
                self.bits[bytes_usize(at / 8)] = 0xFF;
                at += 8;
            } else {
                self.bits[bytes_usize(at / 8)] |= 1 << (at % 8);
                at += 1;
            }
        }
    }

    /// Marks blocks `range` of the page as equal.
    pub fn clear(&mut self, range: Range<u64>) {
        let (mut at, end) = (range.start, range.end);
        while at < end {
            if at.is_multiple_of(8) && end - at >= 8 {
                self.bits[bytes_usize(at / 8)] = 0;
                at += 8;
            } else {
                self.bits[bytes_usize(at / 8)] &= !(1 << (at % 8));
                at += 1;
            }
        }
    }

    /// The first run of dirty blocks of the page, from block `from` of it on.
    #[must_use]
    pub fn next_run(&self, from: u64) -> Option<Range<u64>> {
        let start = self.first_where(from, true)?;
        let end = self.first_where(start, false).unwrap_or(BITMAP_PAGE_BLOCKS);
        Some(start..end)
    }

    /// The first block from `from` on whose bit is so.
    fn first_where(&self, from: u64, is_set: bool) -> Option<u64> {
        let skipped = if is_set { 0 } else { 0xFF };
        let mut at = from;
        while at < BITMAP_PAGE_BLOCKS {
            if at.is_multiple_of(8) && self.bits[bytes_usize(at / 8)] == skipped {
                at += 8;
            } else if self.is_set(at) == is_set {
                return Some(at);
            } else {
                at += 1;
            }
        }
        None
    }

    /// Number of dirty blocks of the page.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// The block to write.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_page(BITMAP_MAGIC, self.header, &self.bits)
    }

    /// The page at place `page_index` of the bitmap in slot `peer_slot`.
    ///
    /// # Errors
    /// The block is damaged, of another version, or belongs elsewhere.
    pub fn parse(block: &[u8], peer_slot: u8, page_index: u64) -> Result<Self, PageError> {
        let (header, body) = parse_page(BITMAP_MAGIC, block, peer_slot, page_index)?;
        let bits = body.try_into().map_err(|_| PageError::Length(block.len()))?;
        Ok(Self { header, bits: Box::new(bits) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BLOCK_SIZE;

    #[test]
    fn a_page_that_was_never_written_is_clean() {
        assert_eq!(BitmapPage::parse(&[0; BLOCK_SIZE], 3, 9), Ok(BitmapPage::clean(3, 9)));
    }

    #[test]
    fn a_page_comes_back_as_written_and_only_in_its_own_place() {
        let mut page = BitmapPage::clean(1, 2);
        page.header.sequence = 5;
        page.set(0..1);
        page.set(BITMAP_PAGE_BLOCKS - 1..BITMAP_PAGE_BLOCKS);
        let block = page.encode();
        let again = BitmapPage::parse(&block, 1, 2).unwrap();
        assert_eq!(again, page);
        assert!(again.is_set(0) && again.is_set(BITMAP_PAGE_BLOCKS - 1) && !again.is_set(1));
        assert!(matches!(BitmapPage::parse(&block, 1, 3), Err(PageError::Misplaced { .. })));
        assert!(matches!(BitmapPage::parse(&block, 0, 2), Err(PageError::Misplaced { .. })));
    }

    #[test]
    fn a_page_torn_anywhere_is_the_old_one_the_new_one_or_dirty_all_over() {
        let page = |sequence: u64, blocks: [u64; 2]| {
            let mut page = BitmapPage::clean(1, 2);
            page.header.sequence = sequence;
            blocks.into_iter().for_each(|block| page.set(block..block + 1));
            page
        };
        let never = BitmapPage::clean(1, 2);
        let (first, second) = (page(1, [3, 31_000]), page(2, [9_000, 20_000]));
        let rows = [
            (vec![0; BLOCK_SIZE], never, first.encode(), first.clone()),
            (first.encode(), first, second.encode(), second),
        ];
        for (old_block, old, new_block, new) in rows {
            for arrived in 0..1_u32 << (BLOCK_SIZE / SECTOR_BYTES) {
                let sector = |at: usize| {
                    let block = if arrived & (1 << at) == 0 { &old_block } else { &new_block };
                    &block[at * SECTOR_BYTES..(at + 1) * SECTOR_BYTES]
                };
                let torn: Vec<u8> = (0..BLOCK_SIZE / SECTOR_BYTES).flat_map(sector).copied().collect();
                let found = BitmapPage::recover(&torn, 1, 2).expect("a start is never refused for it");
                let is_dirty_all_over = found.bits.iter().all(|byte| *byte == 0xFF);
                assert!(found == old || found == new || is_dirty_all_over, "sectors {arrived:08b}");
            }
        }
    }

    #[test]
    fn a_range_of_bits_is_set_and_none_beside_it() {
        for (start, end) in [(0, 1), (3, 5), (7, 9), (8, 16), (5, 29), (0, BITMAP_PAGE_BLOCKS)] {
            let mut page = BitmapPage::clean(0, 0);
            page.set(start..end);
            for at in 0..BITMAP_PAGE_BLOCKS {
                assert_eq!(page.is_set(at), (start..end).contains(&at), "block {at} of {start}..{end}");
            }
        }
    }

    #[test]
    fn what_does_not_belong_there_is_refused_after_a_crash_too() {
        assert_eq!(BitmapPage::recover(&[1; BLOCK_SIZE], 1, 2), Err(PageError::Magic));
        let mut elsewhere = BitmapPage::clean(1, 3);
        elsewhere.header.sequence = 1;
        let refused = BitmapPage::recover(&elsewhere.encode(), 1, 2);
        assert!(matches!(refused, Err(PageError::Misplaced { .. })));
    }

    #[test]
    fn every_flipped_bit_of_a_page_is_refused() {
        let mut page = BitmapPage::clean(1, 2);
        page.header.sequence = 5;
        let mut block = page.encode();
        for bit in 0..BLOCK_SIZE * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(BitmapPage::parse(&block, 1, 2).is_err(), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
