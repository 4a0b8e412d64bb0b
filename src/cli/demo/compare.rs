//! Are two files equal? Block by block, after their daemons have ended.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use replicator::units::{BLOCK_BYTES, bytes_u64, bytes_usize};

const CHUNK_BYTES: u64 = 1 << 20;

/// What a comparison finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Blocks that were compared.
    pub blocks: u64,
    /// How many of them differ.
    pub different: u64,
    /// The first of those.
    pub first: Option<u64>,
}

/// Compares the first `bytes` of two files.
///
/// # Errors
/// One of them cannot be read, or is shorter.
pub fn compare(one: &Path, other: &Path, bytes: u64) -> anyhow::Result<Differences> {
    let open = |path: &Path| File::open(path).with_context(|| format!("cannot read {}", path.display()));
    let mut files = [open(one)?, open(other)?];
    let mut chunks = [vec![0; bytes_usize(CHUNK_BYTES)], vec![0; bytes_usize(CHUNK_BYTES)]];
    let mut found = Differences::default();
    let mut done = 0;
    while done < bytes {
        let length = bytes_usize(CHUNK_BYTES.min(bytes - done));
        for (file, chunk) in files.iter_mut().zip(&mut chunks) {
            file.read_exact(&mut chunk[..length]).context("a data file is shorter than the volume")?;
        }
        let [ours, theirs] = &chunks;
        let block = bytes_usize(BLOCK_BYTES);
        for (ours, theirs) in ours[..length].chunks(block).zip(theirs[..length].chunks(block)) {
            if ours != theirs {
                found.different += 1;
                found.first.get_or_insert(found.blocks);
            }
            found.blocks += 1;
        }
        done += bytes_u64(length);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_is_one_different_block() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("1"), folder.path().join("2"));
        let mut bytes = vec![7; (2 << 20) + 4096];
        std::fs::write(&one, &bytes).expect("written");
        bytes[(1 << 20) + 5000] = 8;
        std::fs::write(&other, &bytes).expect("written");
        let found = compare(&one, &other, bytes_u64(bytes.len())).expect("compared");
        assert_eq!(found, Differences { blocks: 513, different: 1, first: Some(257) });
        assert!(compare(&one, &other, 3 << 20).is_err(), "shorter than asked for");
    }
}
