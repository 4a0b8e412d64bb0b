//! A disk that forgets: it records every write and flush, and makes the image that a power cut at any of them
//! may leave, down to single sectors of a torn write.

use std::collections::BTreeSet;

/// Smallest piece that a disk writes as a whole.
pub const SECTOR: usize = 512;

/// What the disk was told to do.
#[derive(Clone, Debug)]
pub enum Op {
    Write { offset: usize, bytes: Vec<u8> },
    Flush,
}

/// A disk whose operations are remembered.
#[derive(Clone, Debug)]
pub struct FakeDisk {
    /// Its content when it was switched on.
    base: Vec<u8>,
    /// Its content as the running node sees it.
    pub live: Vec<u8>,
    pub ops: Vec<Op>,
}

/// A seeded generator, so that a failure is repeated by its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }
}

impl FakeDisk {
    pub fn new(base: Vec<u8>) -> Self {
        Self { live: base.clone(), base, ops: Vec::new() }
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let offset = usize::try_from(offset).unwrap();
        self.live[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.ops.push(Op::Write { offset, bytes: bytes.to_vec() });
    }

    pub fn flush(&mut self) {
        self.ops.push(Op::Flush);
    }

    /// Calls `check` with every image that a power cut after the first `cut` operations may leave. Of up to
    /// eight unflushed groups (blocks of `group` bytes) every subset is tried; of more, those with one group,
    /// those without one, and `samples` drawn from `random`.
    pub fn images(
        &self,
        cut: usize,
        group: usize,
        samples: usize,
        random: &mut Random,
        mut check: impl FnMut(Vec<u8>),
    ) {
        let flushed = self.ops[..cut].iter().rposition(|op| matches!(op, Op::Flush)).map_or(0, |at| at + 1);
        let mut durable = self.base.clone();
        for op in &self.ops[..flushed] {
            if let Op::Write { offset, bytes } = op {
                durable[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
        let mut groups = Vec::new();
        for op in &self.ops[flushed..cut] {
            if let Op::Write { offset, bytes } = op {
                groups
                    .extend((0..bytes.len()).step_by(group).map(|at| (offset + at, &bytes[at..at + group])));
            }
        }
        for subset in subsets(groups.len(), samples, random) {
            let mut image = durable.clone();
            for (offset, bytes) in
                groups.iter().zip(&subset).filter(|(_, kept)| **kept).map(|(group, _)| group)
            {
                image[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            check(image);
        }
    }
}

fn subsets(count: usize, samples: usize, random: &mut Random) -> BTreeSet<Vec<bool>> {
    if count <= 8 {
        return (0..1usize << count).map(|bits| (0..count).map(|at| bits >> at & 1 == 1).collect()).collect();
    }
    let mut subsets = BTreeSet::from([vec![false; count], vec![true; count]]);
    for at in 0..count {
        subsets.insert((0..count).map(|other| other == at).collect());
        subsets.insert((0..count).map(|other| other != at).collect());
    }
    for _ in 0..samples {
        subsets.insert((0..count).map(|_| random.next() & 4 == 0).collect());
    }
    subsets
}
