//! The page that proves, after the daemon died and came back in the same boot, that nothing was lost meanwhile: it
//! lies where a reboot erases it, and names the run and the newest write that the run acknowledged.
//!
//! Rule: a mark is published before anything that it covers leaves this node. A page that is missing, damaged or of
//! another boot is no proof, and never an error.

use std::os::fd::OwnedFd;
use std::path::Path;

use replicator::checksum::Crc32c;
use replicator::replica::ContinuityMark;
use replicator::units::{Incarnation, Lsn};
use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use tracing::warn;

/// Names the boot of the machine.
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";
/// First bytes of the page, with its version.
const MAGIC: [u8; 8] = *b"TBLKRUN1";
/// Bytes of a boot id: a UUID in text.
const BOOT_ID_BYTES: usize = 36;
/// Magic, boot id, incarnation, the one that it continues or zero, Lsn, checksum.
const PAGE_BYTES: usize = 8 + BOOT_ID_BYTES + 8 + 8 + 8 + 4;

/// Why no marks can be published, nor an older one taken back.
#[derive(Debug, Error)]
pub enum ContinuityError {
    /// The page cannot be opened or written.
    #[error("cannot write {path}: {errno}")]
    Write {
        /// Where it is.
        path: String,
        /// Why.
        errno: rustix::io::Errno,
    },
    /// The boot has no name.
    #[error("cannot read {BOOT_ID_PATH}: {0}")]
    BootId(std::io::Error),
}

/// The page, open for writing.
#[derive(Debug)]
pub struct Continuity {
    file: OwnedFd,
    path: String,
    boot_id: [u8; BOOT_ID_BYTES],
    published: Option<ContinuityMark>,
    /// Whether marks can be published at all.
    is_void: bool,
}

impl Continuity {
    /// Opens or makes the page, and returns the mark of an earlier run of this boot if there is one.
    ///
    /// # Errors
    /// The page cannot be opened.
    pub fn open(path: &Path) -> Result<(Self, Option<ContinuityMark>), ContinuityError> {
        let boot_id = boot_id()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let name = path.display().to_string();
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| ContinuityError::Write { path: name.clone(), errno })?;
        let mut page = [0; PAGE_BYTES];
        let earlier = match rustix::io::pread(&file, &mut page, 0) {
            Ok(PAGE_BYTES) => decode(&page, &boot_id),
            Ok(_) | Err(_) => None,
        };
        Ok((Self { file, path: name, boot_id, published: None, is_void: false }, earlier))
    }

    /// Publishes a mark, if it is a new one. Where that fails, the page is emptied: the next run then has no proof,
    /// which costs time, while an old mark would be a false proof.
    ///
    /// # Errors
    /// The page can be neither written nor emptied.
    pub fn publish(&mut self, mark: ContinuityMark) -> Result<(), ContinuityError> {
        if self.is_void || self.published == Some(mark) {
            return Ok(());
        }
        let page = encode(&mark, &self.boot_id);
        let errno = match rustix::io::pwrite(&self.file, &page, 0) {
            Ok(PAGE_BYTES) => {
                self.published = Some(mark);
                return Ok(());
            }
            Ok(_) => rustix::io::Errno::NOSPC,
            Err(errno) => errno,
        };
        rustix::fs::ftruncate(&self.file, 0).map_err(|errno| self.failure(errno))?;
        warn!("{}; after a crash this node has to catch up before it is in sync", self.failure(errno));
        self.is_void = true;
        Ok(())
    }

    fn failure(&self, errno: rustix::io::Errno) -> ContinuityError {
        ContinuityError::Write { path: self.path.clone(), errno }
    }
}

fn boot_id() -> Result<[u8; BOOT_ID_BYTES], ContinuityError> {
    let text = std::fs::read(BOOT_ID_PATH).map_err(ContinuityError::BootId)?;
    text.first_chunk().copied().ok_or_else(|| ContinuityError::BootId(std::io::ErrorKind::InvalidData.into()))
}

fn encode(mark: &ContinuityMark, boot_id: &[u8; BOOT_ID_BYTES]) -> [u8; PAGE_BYTES] {
    let numbers = [mark.incarnation.0, mark.continues.unwrap_or_default().0, mark.acknowledged.0];
    let content = [&MAGIC[..], boot_id, &numbers.map(u64::to_le_bytes).concat()].concat();
    let sum = Crc32c::of(&content).0.to_le_bytes();
    [&content[..], &sum].concat().try_into().expect("the fields add up to a page")
}

fn decode(page: &[u8; PAGE_BYTES], boot_id: &[u8; BOOT_ID_BYTES]) -> Option<ContinuityMark> {
    let number = |at: usize| page[at..].first_chunk().copied().map(u64::from_le_bytes);
    let numbers_at = MAGIC.len() + BOOT_ID_BYTES;
    let mark = ContinuityMark {
        incarnation: Incarnation(number(numbers_at)?),
        continues: Some(Incarnation(number(numbers_at + 8)?)).filter(|run| *run != Incarnation::default()),
        acknowledged: Lsn(number(numbers_at + 16)?),
    };
    // Equal as a whole, so also in magic, boot id and checksum.
    (encode(&mark, boot_id) == *page).then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: ContinuityMark = ContinuityMark {
        incarnation: Incarnation(0xfeed),
        continues: Some(Incarnation(0xfe)),
        acknowledged: Lsn(42),
    };

    #[test]
    fn the_newest_mark_of_this_boot_is_found_by_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mail.run");
        let (mut continuity, earlier) = Continuity::open(&path).unwrap();
        assert_eq!(earlier, None);
        continuity.publish(MARK).unwrap();
        let newer = ContinuityMark { continues: None, acknowledged: Lsn(43), ..MARK };
        continuity.publish(newer).unwrap();
        drop(continuity);
        assert_eq!(Continuity::open(&path).unwrap().1, Some(newer));
    }

    #[test]
    fn a_mark_of_another_boot_is_no_proof() {
        let (this, other) = ([b'a'; BOOT_ID_BYTES], [b'b'; BOOT_ID_BYTES]);
        assert_eq!(decode(&encode(&MARK, &this), &this), Some(MARK));
        assert_eq!(decode(&encode(&MARK, &other), &this), None);
    }

    #[test]
    fn every_flipped_bit_makes_the_page_void() {
        let boot_id = boot_id().unwrap();
        let mut page = encode(&MARK, &boot_id);
        for bit in 0..PAGE_BYTES * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&page, &boot_id), None, "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
