//! A set of blocks in memory, one bit each, in pages that exist where something was ever in it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::layout::bitmap_page::{BITMAP_PAGE_BLOCKS, BitmapPage};
use crate::units::BlockRange;

/// Blocks. A page without any is not kept, so that nobody walks over what is done.
#[derive(Clone, Debug, Default)]
pub struct BlockSet {
    pages: BTreeMap<u64, BitmapPage>,
}

impl BlockSet {
    /// The blocks that these pages call dirty.
    #[must_use]
    pub fn of_pages(pages: impl IntoIterator<Item = BitmapPage>) -> Self {
        let pages = pages.into_iter().filter(|page| page.next_run(0).is_some());
        Self { pages: pages.map(|page| (page.header.page_index, page)).collect() }
    }

    /// Takes blocks in.
    pub fn add(&mut self, range: BlockRange) {
        for (index, part) in page_parts(range) {
            self.pages.entry(index).or_insert_with(|| BitmapPage::clean(0, index)).set(part);
        }
    }

    /// Takes blocks out.
    pub fn remove(&mut self, range: BlockRange) {
        for (index, part) in page_parts(range) {
            let Entry::Occupied(mut page) = self.pages.entry(index) else { continue };
            page.get_mut().clear(part);
            if page.get().next_run(0).is_none() {
                page.remove();
            }
        }
    }

    /// The first run of blocks of the set from block `from` on, at most `count_max` long.
    #[must_use]
    pub fn next_run(&self, from: u64, count_max: u64) -> Option<BlockRange> {
        let (first_page, first_at) = BitmapPage::place_of(from);
        self.pages.range(first_page..).find_map(|(index, page)| {
            let run = page.next_run(if *index == first_page { first_at } else { 0 })?;
            let count = (run.end - run.start).min(count_max);
            Some(BlockRange::new(index * BITMAP_PAGE_BLOCKS + run.start, count))
        })
    }

    /// The parts of `range` that are not in the set.
    #[must_use]
    pub fn missing(&self, range: BlockRange) -> Vec<BlockRange> {
        let mut missing = Vec::new();
        let mut from = range.first;
        while from < range.end() {
            let run = self.next_run(from, u64::MAX).filter(|run| run.first < range.end());
            let end = run.map_or(range.end(), |run| run.first);
            if from < end {
                missing.push(BlockRange::new(from, end - from));
            }
            from = run.map_or(end, BlockRange::end);
        }
        missing
    }

    /// Number of blocks.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.pages.values().map(BitmapPage::count).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}

/// The pages that cover `range`, and which of their blocks.
pub(crate) fn page_parts(range: BlockRange) -> impl Iterator<Item = (u64, std::ops::Range<u64>)> {
    let mut block = range.first;
    std::iter::from_fn(move || {
        (block < range.end()).then(|| {
            let (page, at) = BitmapPage::place_of(block);
            let count = (range.end() - block).min(BITMAP_PAGE_BLOCKS - at);
            block += count;
            (page, at..at + count)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_across_pages_and_no_longer_than_asked() {
        let mut set = BlockSet::default();
        set.add(BlockRange::new(BITMAP_PAGE_BLOCKS - 2, 5));
        assert_eq!(set.next_run(0, 100), Some(BlockRange::new(BITMAP_PAGE_BLOCKS - 2, 2)));
        assert_eq!(
            set.next_run(BITMAP_PAGE_BLOCKS - 1, 100),
            Some(BlockRange::new(BITMAP_PAGE_BLOCKS - 1, 1))
        );
        assert_eq!(set.next_run(BITMAP_PAGE_BLOCKS, 2), Some(BlockRange::new(BITMAP_PAGE_BLOCKS, 2)));
        assert_eq!(set.next_run(BITMAP_PAGE_BLOCKS + 3, 2), None);
        assert_eq!(set.count(), 5);
        set.remove(BlockRange::new(BITMAP_PAGE_BLOCKS - 1, 2));
        assert_eq!(set.next_run(BITMAP_PAGE_BLOCKS - 1, 9), Some(BlockRange::new(BITMAP_PAGE_BLOCKS + 1, 2)));
        assert!(!set.is_empty());
        set.remove(BlockRange::new(0, 2 * BITMAP_PAGE_BLOCKS));
        assert!(set.is_empty() && set.next_run(0, 1).is_none());
    }

    #[test]
    fn what_is_missing_of_a_range_is_what_is_not_in_the_set() {
        let mut set = BlockSet::default();
        let range = |first, count| BlockRange::new(first, count);
        assert_eq!(set.missing(range(5, 10)), [range(5, 10)]);
        set.add(range(0, 7));
        set.add(range(9, 2));
        set.add(range(14, 5));
        assert_eq!(set.missing(range(5, 10)), [range(7, 2), range(11, 3)]);
        assert_eq!(set.missing(range(0, 7)), []);
    }
}
