//! A map from block ranges to values in which a later insertion hides what it overlaps.
//! Serves the overlay (newest bytes for reads) and the coalescing of a write-back round.

use std::collections::BTreeMap;

use crate::units::BlockRange;

/// A value that covers a range of blocks and can be cut to a part of it.
pub trait Extent: Clone {
    /// The part of this value that starts `skip` blocks in and covers `count` blocks.
    #[must_use]
    fn slice(&self, skip: u64, count: u64) -> Self;
}

/// Disjoint extents in block order.
#[derive(Clone, Debug)]
pub struct ExtentMap<V> {
    /// First block → (number of blocks, value).
    extents: BTreeMap<u64, (u64, V)>,
}

impl<V> Default for ExtentMap<V> {
    fn default() -> Self {
        Self { extents: BTreeMap::new() }
    }
}

/// A part of a range as the map knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<V> {
    /// The map holds this.
    Held(BlockRange, V),
    /// The map holds nothing here.
    Gap(BlockRange),
}

impl<V: Extent> ExtentMap<V> {
    /// Puts `value` over `range`, hiding what was there.
    pub fn insert(&mut self, range: BlockRange, value: V) {
        self.remove(range);
        self.extents.insert(range.first, (range.count, value));
    }

    /// Takes away what lies in `range`; extents that reach over its edges are cut.
    pub fn remove(&mut self, range: BlockRange) {
        if let Some((first, count)) = self.reaching_into(range.first) {
            let (_, value) = self.extents.remove(&first).expect("it was just found");
            let end = first + count;
            self.extents.insert(first, (range.first - first, value.slice(0, range.first - first)));
            if end > range.end() {
                self.extents.insert(
                    range.end(),
                    (end - range.end(), value.slice(range.end() - first, end - range.end())),
                );
            }
        }
        while let Some((&first, &(count, _))) = self.extents.range(range.first..range.end()).next() {
            let (_, value) = self.extents.remove(&first).expect("it was just found");
            let end = first + count;
            if end > range.end() {
                self.extents.insert(
                    range.end(),
                    (end - range.end(), value.slice(range.end() - first, end - range.end())),
                );
            }
        }
    }

    /// The extent that starts before `block` and reaches beyond it.
    fn reaching_into(&self, block: u64) -> Option<(u64, u64)> {
        let (&first, &(count, _)) = self.extents.range(..block).next_back()?;
        (first + count > block).then_some((first, count))
    }

    /// The extents that overlap `range`, whole, in block order.
    pub fn overlapping(&self, range: BlockRange) -> impl Iterator<Item = (BlockRange, &V)> {
        let start = self.reaching_into(range.first).map_or(range.first, |(first, _)| first);
        self.extents
            .range(start..range.end())
            .map(|(first, (count, value))| (BlockRange::new(*first, *count), value))
    }

    /// `range` cut into what the map holds and gaps, in block order, without overlap, nothing missing.
    pub fn pieces(&self, range: BlockRange) -> Vec<Piece<V>> {
        let mut pieces = Vec::new();
        let mut at = range.first;
        for (extent, value) in self.overlapping(range) {
            let first = extent.first.max(range.first);
            let end = extent.end().min(range.end());
            if at < first {
                pieces.push(Piece::Gap(BlockRange::new(at, first - at)));
            }
            pieces.push(Piece::Held(
                BlockRange::new(first, end - first),
                value.slice(first - extent.first, end - first),
            ));
            at = end;
        }
        if at < range.end() {
            pieces.push(Piece::Gap(BlockRange::new(at, range.end() - at)));
        }
        pieces
    }

    /// Every extent in block order.
    pub fn iter(&self) -> impl Iterator<Item = (BlockRange, &V)> {
        self.extents.iter().map(|(first, (count, value))| (BlockRange::new(*first, *count), value))
    }

    /// Keeps the extents for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        self.extents.retain(|_, (_, value)| keep(value));
    }

    /// Whether the map holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Number of extents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.extents.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Remembers where its first block was inserted, so that slicing can be checked.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Tagged {
        tag: u64,
        block: u64,
    }

    impl Extent for Tagged {
        fn slice(&self, skip: u64, _count: u64) -> Self {
            Self { tag: self.tag, block: self.block + skip }
        }
    }

    proptest! {
        #[test]
        fn the_map_equals_an_array_of_blocks(steps in prop::collection::vec((0u64..40, 1u64..20, any::<bool>()), 1..60)) {
            let mut model = vec![None; 64];
            let mut map = ExtentMap::default();
            for (tag, (first, count, insert)) in (0u64..).zip(steps) {
                let range = BlockRange::new(first, count);
                if insert {
                    map.insert(range, Tagged { tag, block: first });
                } else {
                    map.remove(range);
                }
                for block in range.first..range.end() {
                    model[usize::try_from(block).unwrap()] = insert.then_some(tag);
                }
            }
            let mut at = 0;
            for piece in map.pieces(BlockRange::new(0, 64)) {
                let (range, held) = match piece {
                    Piece::Held(range, value) => {
                        prop_assert_eq!(value.block, range.first, "a slice knows where it begins");
                        (range, Some(value.tag))
                    }
                    Piece::Gap(range) => (range, None),
                };
                prop_assert_eq!(range.first, at);
                for block in range.first..range.end() {
                    prop_assert_eq!(model[usize::try_from(block).unwrap()], held);
                }
                at = range.end();
            }
            prop_assert_eq!(at, 64);
        }
    }
}
