//! A disk that forgets: what is written is seen at once and is safe only after a flush. A power cut keeps any
//! part of what was not flushed, down to single sectors of a torn block; a killed process loses only parts of
//! what it had in flight.

use std::collections::BTreeMap;

use bytes::Bytes;
use replicator::units::{BLOCK_BYTES, BLOCK_SIZE, BlockRange, bytes_usize};

use crate::random::Random;

/// Smallest piece that a disk writes as a whole.
const SECTOR: usize = 512;

type Block = Bytes;

/// One area of a disk: blocks of zeroes until something is written.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    live: BTreeMap<u64, Block>,
    durable: BTreeMap<u64, Block>,
    /// Written since the last flush, in order: number, block, content.
    unflushed: Vec<(u64, u64, Option<Block>)>,
    next: u64,
}

static ZEROES: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

fn block_of(bytes: Bytes) -> Option<Block> {
    assert_eq!(bytes.len(), BLOCK_SIZE, "whole blocks");
    (bytes[..] != ZEROES).then_some(bytes)
}

/// The blocks of pieces that follow one another, each sharing its piece's memory.
fn blocks_of<'a>(pieces: impl IntoIterator<Item = &'a Bytes>) -> impl Iterator<Item = Option<Block>> {
    pieces.into_iter().flat_map(|piece| {
        (0..piece.len()).step_by(BLOCK_SIZE).map(|at| block_of(piece.slice(at..at + BLOCK_SIZE)))
    })
}

impl SimDisk {
    /// Writes pieces that follow one another from byte `offset` on.
    pub fn write<'a>(&mut self, offset: u64, pieces: impl IntoIterator<Item = &'a Bytes>) {
        for (block, content) in (offset / BLOCK_BYTES..).zip(blocks_of(pieces)) {
            self.put(block, content);
        }
    }

    /// Makes blocks read as zero.
    pub fn zero(&mut self, range: BlockRange) {
        for block in range.first..range.end() {
            self.put(block, None);
        }
    }

    fn put(&mut self, block: u64, content: Option<Block>) {
        set(&mut self.live, block, content.clone());
        self.unflushed.push((self.next, block, content));
        self.next += 1;
    }

    /// `length` bytes from `offset` on, as a running process sees them.
    #[must_use]
    pub fn read(&self, offset: u64, length: u64) -> Bytes {
        let (first, end) = (offset / BLOCK_BYTES, (offset + length) / BLOCK_BYTES);
        if end - first == 1 {
            return self.live.get(&first).cloned().unwrap_or(Bytes::from_static(&ZEROES));
        }
        let mut bytes = vec![0; bytes_usize(length)];
        for (block, content) in self.live.range(first..end) {
            let at = bytes_usize((block - first) * BLOCK_BYTES);
            bytes[at..at + BLOCK_SIZE].copy_from_slice(content);
        }
        bytes.into()
    }

    /// Whether a block holds nothing but zeroes.
    #[must_use]
    pub fn is_hole(&self, block: u64) -> bool {
        !self.live.contains_key(&block)
    }

    /// A flush that begins now covers what was written before: this says up to where.
    #[must_use]
    pub fn flush_mark(&self) -> u64 {
        self.next
    }

    /// A flush that began at `mark` is done.
    pub fn flush(&mut self, mark: u64) {
        let covered = self.unflushed.partition_point(|(number, _, _)| *number < mark);
        for (_, block, content) in self.unflushed.drain(..covered) {
            set(&mut self.durable, block, content);
        }
    }

    /// A write that is safe when it is reported, alone.
    pub fn write_through(&mut self, offset: u64, bytes: &[u8]) {
        let bytes = &Bytes::copy_from_slice(bytes);
        self.write(offset, [bytes]);
        let block = offset / BLOCK_BYTES;
        for (block, content) in (block..).zip(blocks_of([bytes])) {
            self.unflushed.retain(|(_, other, _)| *other != block);
            set(&mut self.durable, block, content);
        }
    }

    /// Writes what a crash leaves of a write in flight: any of its sectors.
    pub fn write_partly<'a>(
        &mut self,
        offset: u64,
        pieces: impl IntoIterator<Item = &'a Bytes>,
        random: &mut Random,
    ) {
        let keeps = random.below(4);
        for (block, content) in (offset / BLOCK_BYTES..).zip(blocks_of(pieces)) {
            let old = self.live.get(&block).cloned();
            if let Some(mixed) = mix(old.as_ref(), content.as_ref(), keeps, random) {
                self.put(block, mixed);
            }
        }
    }

    /// The power fails: of what was not flushed, any part stays.
    pub fn cut_power(&mut self, random: &mut Random) {
        let keeps = random.below(4);
        for (_, block, content) in std::mem::take(&mut self.unflushed) {
            let old = self.durable.get(&block).cloned();
            if let Some(mixed) = mix(old.as_ref(), content.as_ref(), keeps, random) {
                set(&mut self.durable, block, mixed);
            }
        }
        self.live = self.durable.clone();
    }

    /// A flush fails: of what it should have covered, any part is gone, for those who read too.
    pub fn fail_flush(&mut self, random: &mut Random) {
        self.cut_power(random);
    }

    /// Flips a bit in one of the blocks between two offsets that hold anything.
    pub fn flip_a_bit(&mut self, bytes: std::ops::Range<u64>, random: &mut Random) {
        let Some(block) = self.any_block(bytes, random) else { return };
        let mut content = self.durable.get(&block).map_or(ZEROES.to_vec(), |content| content.to_vec());
        content[random.index(BLOCK_SIZE)] ^= 1 << random.below(8);
        self.replace(block, block_of(content.into()));
    }

    /// One of the blocks between two offsets that hold anything turns up in the place of another, too.
    pub fn misplace_a_block(&mut self, bytes: std::ops::Range<u64>, random: &mut Random) {
        let (Some(from), Some(to)) = (self.any_block(bytes.clone(), random), self.any_block(bytes, random))
        else {
            return;
        };
        let content = self.durable.get(&from).cloned();
        self.replace(to, content);
    }

    fn any_block(&self, bytes: std::ops::Range<u64>, random: &mut Random) -> Option<u64> {
        let blocks = self.durable.range(bytes.start / BLOCK_BYTES..bytes.end / BLOCK_BYTES);
        let blocks: Vec<u64> = blocks.map(|(block, _)| *block).collect();
        (!blocks.is_empty()).then(|| blocks[random.index(blocks.len())])
    }

    fn replace(&mut self, block: u64, content: Option<Block>) {
        set(&mut self.durable, block, content.clone());
        set(&mut self.live, block, content);
    }

    /// Every block that is not zero, as a running process sees them.
    #[must_use]
    pub fn image(&self) -> BTreeMap<u64, Bytes> {
        self.live.clone()
    }

    /// What a block holds for good.
    #[must_use]
    pub fn durable(&self, block: u64) -> Option<&Bytes> {
        self.durable.get(&block)
    }

    /// Every block in which the two differ.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<u64> {
        let only_there = other.live.keys().filter(|block| !self.live.contains_key(block));
        let here = self.live.iter().filter(|(block, content)| other.live.get(block) != Some(content));
        here.map(|(block, _)| *block).chain(only_there.copied()).collect()
    }

    /// First block in which the two differ.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<u64> {
        let blocks = self.live.keys().chain(other.live.keys());
        blocks.copied().filter(|block| self.live.get(block) != other.live.get(block)).min()
    }
}

fn set(blocks: &mut BTreeMap<u64, Block>, block: u64, content: Option<Block>) {
    match content {
        Some(content) => blocks.insert(block, content),
        None => blocks.remove(&block),
    };
}

/// What is left of `new` written over `old`; `None` if nothing. `keeps`: 0 nothing, 1 everything, 2 whole
/// blocks or nothing, 3 any sectors.
fn mix(old: Option<&Block>, new: Option<&Block>, keeps: u64, random: &mut Random) -> Option<Option<Block>> {
    match keeps {
        0 => None,
        1 => Some(new.cloned()),
        2 => random.chance(50).then(|| new.cloned()),
        _ => {
            let mut mixed = old.map_or(ZEROES.to_vec(), |block| block.to_vec());
            let new = new.map_or(&ZEROES[..], |block| &block[..]);
            for (place, sector) in mixed.chunks_mut(SECTOR).zip(new.chunks(SECTOR)) {
                if random.chance(50) {
                    place.copy_from_slice(sector);
                }
            }
            Some(block_of(mixed.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_flushed_survives_a_power_cut_and_what_was_not_may_not() {
        let mut kept = 0;
        for seed in 0..20 {
            let (mut disk, mut random) = (SimDisk::default(), Random::new(seed));
            disk.write(0, [&Bytes::from(vec![1; BLOCK_SIZE])]);
            let mark = disk.flush_mark();
            disk.write(4096, [&Bytes::from(vec![2; BLOCK_SIZE])]);
            disk.flush(mark);
            disk.cut_power(&mut random);
            assert_eq!(disk.read(0, 4096)[..], [1; BLOCK_SIZE]);
            kept += u64::from(disk.read(4096, 4096)[..] == [2; BLOCK_SIZE]);
        }
        assert!((1..20).contains(&kept), "{kept} of 20 kept it");
    }
}
