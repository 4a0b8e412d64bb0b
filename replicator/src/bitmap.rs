//! The dirty bitmaps: for each peer the blocks in which it may differ from this node. All of it is in memory (32 MiB
//! for each TiB and peer that has ever been away that long); pages that changed go to disk in rounds.
//!
//! Rule: a set bit counts when it is durable: whoever leaves something behind keeps the [`BitmapRevision`] of the change
//! and asks. Nobody waits for a cleared bit to be: blocks that count as dirty once too often are compared once more.

use std::collections::{BTreeMap, BTreeSet};

use crate::block_set::{BlockSet, page_parts};
use crate::effect::{Effect, Effects};
use crate::event::IoId;
use crate::layout::bitmap_page::{BITMAP_PAGE_BLOCKS, BitmapPage};
use crate::layout::zones::Zones;
use crate::units::{BLOCK_BYTES, BlockRange, bytes_u64};

/// Blocks that may be called equal before that goes to disk by itself (256 MiB): what is lost of it with the power is
/// compared again.
const CLEARED_BLOCKS_MAX: u64 = (256 << 20) / BLOCK_BYTES;
/// Bitmap pages that are written at a time.
const PAGES_AT_A_TIME: usize = 1024;

/// Number of a change. Durable once every page that it touched has been written and flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitmapRevision(u64);

/// Pages on their way to disk, in parts.
#[derive(Debug)]
struct Round {
    /// Every change up to here is in the pages of this round, or was in an earlier one.
    revision: BitmapRevision,
    /// Not ordered yet.
    todo: BTreeSet<(u8, u64)>,
    io: IoId,
}

/// The bitmaps and how much of them is on disk.
#[derive(Debug)]
pub struct DirtyBitmap {
    pages: BTreeMap<(u8, u64), BitmapPage>,
    changed: BTreeSet<(u8, u64)>,
    /// Pages in which bits were only cleared, and how many blocks since they were written.
    cleared: BTreeSet<(u8, u64)>,
    cleared_blocks: u64,
    revision: BitmapRevision,
    durable: BitmapRevision,
    round: Option<Round>,
    pages_written: u64,
}

impl DirtyBitmap {
    /// The bitmaps as the disk holds them: bitmap slot and page are in the headers.
    #[must_use]
    pub fn new(pages: impl IntoIterator<Item = BitmapPage>) -> Self {
        let place = |page: &BitmapPage| (page.header.peer_slot, page.header.page_index);
        Self {
            pages: pages.into_iter().map(|page| (place(&page), page)).collect(),
            changed: BTreeSet::new(),
            cleared: BTreeSet::new(),
            cleared_blocks: 0,
            revision: BitmapRevision::default(),
            durable: BitmapRevision::default(),
            round: None,
            pages_written: 0,
        }
    }

    /// Marks blocks as perhaps different on the peer with this slot.
    pub fn set(&mut self, slot: u8, range: BlockRange) -> BitmapRevision {
        for (page, part) in page_parts(range) {
            self.pages.entry((slot, page)).or_insert_with(|| BitmapPage::clean(slot, page)).set(part);
            self.changed.insert((slot, page));
        }
        self.next_revision()
    }

    /// Marks blocks as equal on the peer with this slot.
    pub fn clear(&mut self, slot: u8, range: BlockRange) {
        for (page, part) in page_parts(range) {
            if let Some(content) = self.pages.get_mut(&(slot, page)) {
                content.clear(part);
                self.cleared.insert((slot, page));
            }
        }
        self.cleared_blocks += range.count;
    }

    /// The newest change.
    #[must_use]
    pub fn newest(&self) -> BitmapRevision {
        self.revision
    }

    fn next_revision(&mut self) -> BitmapRevision {
        self.revision = BitmapRevision(self.revision.0 + 1);
        self.revision
    }

    /// Whether the change with this number is on disk, flushed.
    #[must_use]
    pub fn is_durable(&self, revision: BitmapRevision) -> bool {
        self.durable >= revision
    }

    /// Marks every block as equal on the peer with this slot.
    pub fn clear_all(&mut self, slot: u8) -> BitmapRevision {
        for (place, page) in self.pages.range_mut((slot, 0)..=(slot, u64::MAX)) {
            page.clear(0..BITMAP_PAGE_BLOCKS);
            self.changed.insert(*place);
        }
        self.next_revision()
    }

    /// The dirty blocks of a slot, as they are now.
    #[must_use]
    pub fn blocks(&self, slot: u8) -> BlockSet {
        BlockSet::of_pages(self.pages.range((slot, 0)..=(slot, u64::MAX)).map(|(_, page)| page.clone()))
    }

    /// Number of dirty blocks of a slot.
    #[must_use]
    pub fn count(&self, slot: u8) -> u64 {
        self.pages.range((slot, 0)..=(slot, u64::MAX)).map(|(_, page)| page.count()).sum()
    }

    /// Pages written since the start.
    #[must_use]
    pub fn pages_written(&self) -> u64 {
        self.pages_written
    }

    /// Writes what has changed, one part after the other.
    pub fn advance(&mut self, zones: &Zones, next_io: &mut impl FnMut() -> IoId, effects: &mut Effects) {
        if self.round.is_some() {
            return;
        }
        let mut todo = std::mem::take(&mut self.changed);
        if self.cleared_blocks >= CLEARED_BLOCKS_MAX || !todo.is_empty() {
            todo.append(&mut self.cleared);
            self.cleared_blocks = 0;
        }
        match todo {
            todo if todo.is_empty() => self.durable = self.revision,
            todo => self.write_part(todo, self.revision, zones, next_io, effects),
        }
    }

    fn write_part(
        &mut self,
        mut todo: BTreeSet<(u8, u64)>,
        revision: BitmapRevision,
        zones: &Zones,
        next_io: &mut impl FnMut() -> IoId,
        effects: &mut Effects,
    ) {
        let mut pages = Vec::with_capacity(todo.len().min(PAGES_AT_A_TIME));
        while pages.len() < PAGES_AT_A_TIME
            && let Some(place) = todo.pop_first()
        {
            let zone = zones.bitmap(place.0).expect("every slot has a zone");
            let page = self.pages.get_mut(&place).expect("what has changed is there");
            page.header.sequence += 1;
            pages.push((zone.offset + place.1 * BLOCK_BYTES, page.encode()));
        }
        self.pages_written += bytes_u64(pages.len());
        let io = next_io();
        self.round = Some(Round { revision, todo, io });
        effects.push(Effect::WriteBitmapPages { io, pages });
    }

    /// Reports an I/O done. Returns whether it was one of these.
    pub fn on_io_completed(
        &mut self,
        io: IoId,
        zones: &Zones,
        next_io: &mut impl FnMut() -> IoId,
        effects: &mut Effects,
    ) -> bool {
        let Some(round) = self.round.take_if(|round| round.io == io) else { return false };
        if round.todo.is_empty() {
            self.durable = round.revision;
        } else {
            self.write_part(round.todo, round.revision, zones, next_io, effects);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::zones::Zones;

    fn zones() -> Zones {
        Zones::for_volume(16 << 30, 64 << 20, 2).expect("legal sizes")
    }

    /// Carries writes out until there are none; returns how many there were.
    fn write_all(bitmap: &mut DirtyBitmap) -> usize {
        let (zones, mut effects, mut number) = (zones(), Effects::default(), 0);
        let mut next_io = || {
            number += 1;
            IoId(number)
        };
        bitmap.advance(&zones, &mut next_io, &mut effects);
        let mut writes = 0;
        loop {
            let orders: Vec<Effect> = effects.drain().collect();
            let [Effect::WriteBitmapPages { io, .. }] = orders[..] else { return writes };
            writes += 1;
            assert!(bitmap.on_io_completed(io, &zones, &mut next_io, &mut effects));
        }
    }

    #[test]
    fn each_slot_has_blocks_of_its_own() {
        let mut bitmap = DirtyBitmap::new([]);
        bitmap.set(1, BlockRange::new(BITMAP_PAGE_BLOCKS - 2, 5));
        bitmap.set(0, BlockRange::new(7, 1));
        assert_eq!((bitmap.count(0), bitmap.count(1)), (1, 5));
        bitmap.clear(1, BlockRange::new(BITMAP_PAGE_BLOCKS - 1, 2));
        assert_eq!(bitmap.count(1), 3);
        assert_eq!(bitmap.blocks(1).next_run(0, 9), Some(BlockRange::new(BITMAP_PAGE_BLOCKS - 2, 1)));
        bitmap.clear_all(1);
        assert_eq!((bitmap.count(0), bitmap.count(1)), (1, 0));
    }

    #[test]
    fn a_change_is_durable_when_every_page_that_it_touched_has_been_written() {
        let mut bitmap = DirtyBitmap::new([]);
        // More pages than are written at a time.
        let wide = BlockRange::new(0, (bytes_u64(PAGES_AT_A_TIME) + 1) * BITMAP_PAGE_BLOCKS);
        let wide = bitmap.set(0, wide);
        let (zones, mut effects, mut number) = (zones(), Effects::default(), 0);
        let mut next_io = || {
            number += 1;
            IoId(number)
        };
        bitmap.advance(&zones, &mut next_io, &mut effects);
        // A change while a round is under way belongs to the next one.
        let later = bitmap.set(0, BlockRange::new(0, 1));
        assert!(bitmap.on_io_completed(IoId(1), &zones, &mut next_io, &mut effects));
        assert!(!bitmap.is_durable(wide), "one page is missing");
        assert!(bitmap.on_io_completed(IoId(2), &zones, &mut next_io, &mut effects));
        assert!(bitmap.is_durable(wide) && !bitmap.is_durable(later));
        assert_eq!(write_all(&mut bitmap), 1);
        assert!(bitmap.is_durable(later));
    }

    #[test]
    fn cleared_bits_go_to_disk_with_set_ones_or_when_there_are_many() {
        let mut bitmap = DirtyBitmap::new([]);
        bitmap.set(1, BlockRange::new(0, 3 * BITMAP_PAGE_BLOCKS));
        assert_eq!(write_all(&mut bitmap), 1);
        bitmap.clear(1, BlockRange::new(0, 8));
        bitmap.clear(0, BlockRange::new(0, 8));
        assert_eq!(write_all(&mut bitmap), 0, "a flush for each copy would cost more than the copy");
        let set = bitmap.set(1, BlockRange::new(BITMAP_PAGE_BLOCKS, 1));
        assert_eq!((write_all(&mut bitmap), bitmap.is_durable(set)), (1, true));
        bitmap.clear(1, BlockRange::new(8, CLEARED_BLOCKS_MAX - 1));
        assert_eq!(write_all(&mut bitmap), 0);
        bitmap.clear(1, BlockRange::new(CLEARED_BLOCKS_MAX + 7, 1));
        let written = bitmap.pages_written();
        assert_eq!(write_all(&mut bitmap), 1);
        assert_eq!(bitmap.pages_written() - written, 3, "every page that has changed");
        bitmap.clear_all(1);
        assert_eq!(write_all(&mut bitmap), 1, "the end of a resync is written at once");
    }
}
