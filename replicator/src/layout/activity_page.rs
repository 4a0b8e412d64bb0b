//! A page of the activity log: extents to treat as dirty after a crash. The zone's state is `unused` in
//! this version: it is zeroed at creation and nothing reads it.

pub use crate::layout::page::{PAGE_BODY_BYTES, PageError, PageHeader};

use crate::layout::page::{encode_page, parse_page};

/// First bytes of an activity log page.
pub const ACTIVITY_MAGIC: [u8; 8] = *b"TBLKACTV";
/// Length of the activity log.
pub const ACTIVITY_LOG_BYTES: u64 = 128 << 10;
/// Length of an extent.
pub const ACTIVITY_EXTENT_BYTES: u64 = 4 << 20;
/// Slots in one page.
pub const ACTIVITY_PAGE_SLOTS: usize = 1008;

const _: () = assert!(ACTIVITY_PAGE_SLOTS == PAGE_BODY_BYTES / 4);
// A slot stores the extent's number plus one in 32 bits.
const _: () = assert!(crate::units::VOLUME_BYTES_MAX / ACTIVITY_EXTENT_BYTES < 1 << 32);

/// One page of active extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivityPage {
    /// Which page.
    pub header: PageHeader,
    /// The active extents, at most [`ACTIVITY_PAGE_SLOTS`].
    pub extents: Vec<u32>,
}

impl ActivityPage {
    /// The block to write.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.extents.len() <= ACTIVITY_PAGE_SLOTS, "{} extents in one page", self.extents.len());
        let mut body = [0; PAGE_BODY_BYTES];
        for (place, extent) in body.chunks_exact_mut(4).zip(&self.extents) {
            // Zero marks a free slot, so the number is stored plus one.
            place.copy_from_slice(&(extent + 1).to_le_bytes());
        }
        encode_page(ACTIVITY_MAGIC, self.header, &body)
    }

    /// The page at place `page_index` of the log.
    ///
    /// # Errors
    /// The block is damaged, of another version, or belongs elsewhere.
    pub fn parse(block: &[u8], page_index: u64) -> Result<Self, PageError> {
        let (header, body) = parse_page(ACTIVITY_MAGIC, block, 0, page_index)?;
        let (words, _) = body.as_chunks::<4>();
        let extents = words.iter().filter_map(|word| u32::from_le_bytes(*word).checked_sub(1)).collect();
        Ok(Self { header, extents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_comes_back_as_written() {
        let header = PageHeader { peer_slot: 0, page_index: 1, sequence: 3 };
        let page = ActivityPage { header, extents: vec![0, 7, 4_194_303] };
        assert_eq!(ActivityPage::parse(&page.encode(), 1), Ok(page));
    }
}
