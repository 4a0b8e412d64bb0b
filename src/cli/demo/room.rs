//! Can a folder hold the disks of a demo? Asked before anything is made: a temporary folder is often in memory, and
//! small. Leaves nothing behind, whatever the answer.

use std::path::Path;

use anyhow::Context;
use replicator::layout::zones::Zones;
use replicator::units::bytes_u64;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::figures;
use super::site::{Side, journal_bytes};
use super::wishes::refused;

/// Logs, and what a file system needs for itself.
const SPARE_BYTES: u64 = 32 << 20;
/// Peers that there is room for, unless a configuration says otherwise.
const PEERS: u8 = 2;

/// Refuses a folder without room for the disks, or whose file system cannot bypass the page cache.
///
/// # Errors
/// That, with what to type instead.
pub fn check(folder: &Path, size_bytes: u64) -> anyhow::Result<()> {
    let zones = Zones::for_volume(size_bytes, journal_bytes(size_bytes), PEERS);
    let zones = zones.expect("the size was checked, and the journal follows from it");
    let each = size_bytes + zones.metadata_bytes();
    let needed = each * bytes_u64(Side::BOTH.len()) + SPARE_BYTES;
    let unknown = |errno| refused(format!("cannot look at {}: {errno}; write --dir DIR", folder.display()));
    let found = rustix::fs::statvfs(folder).map_err(unknown)?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    // A file system without a size, in memory say, tells nothing.
    if found.f_blocks > 0 && free < needed {
        let text = format!(
            "{} has {} free, and the demo needs {}: write --dir with a folder on a larger disk",
            folder.display(),
            figures::size(free),
            figures::size(needed)
        );
        return Err(refused(text));
    }
    check_direct_io(folder)
}

fn check_direct_io(folder: &Path) -> anyhow::Result<()> {
    // In a folder of its own: what is there may have any name.
    let probe = tempfile::Builder::new().prefix("twinblk-demo-").tempdir_in(folder);
    let cannot = |error| refused(format!("cannot make a folder in {}: {error}", folder.display()));
    let probe = probe.map_err(cannot)?;
    let file = probe.path().join("direct-io");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::DIRECT | OFlags::CLOEXEC;
    match rustix::fs::open(&file, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => Ok(()),
        Err(Errno::INVAL) => {
            let text = format!(
                "the file system of {} does not support O_DIRECT, as tmpfs on older kernels: write --dir with a folder on a disk",
                folder.display()
            );
            Err(refused(text))
        }
        Err(errno) => Err(errno).with_context(|| format!("cannot make a file in {}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_room_is_refused_before_anything_is_made() {
        let folder = tempfile::tempdir().expect("a folder");
        check(folder.path(), 4 << 20).expect("room for a small one");
        let refused = check(folder.path(), 16 << 40).expect_err("nobody has that much").to_string();
        assert!(refused.contains(" free, and the demo needs ") && refused.contains("--dir"), "{refused}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 0);
    }
}
