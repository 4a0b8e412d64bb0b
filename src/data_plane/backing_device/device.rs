//! One file or block device, opened for this process alone, past the page cache. The synchronous half: what
//! start and creation need before there is a ring.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use replicator::units::{BLOCK_BYTES, bytes_u64};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use thiserror::Error;
use tracing::info;

use crate::data_plane::buffers::{PoolBuffer, is_aligned};

/// Largest logical block size: what O_DIRECT must be able to write is one block of the volume.
const LOGICAL_BLOCK_BYTES_MAX: u64 = BLOCK_BYTES;

/// How long a disk that is in use is waited for.
const IN_USE_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is tried meanwhile.
const IN_USE_RETRY: Duration = Duration::from_millis(10);

/// Why a disk cannot be used.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// It cannot be opened.
    #[error("cannot open {}: {errno}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// Somebody else uses it.
    #[error(
        "{} is in use by another process, perhaps another twinblk daemon or a mount; waited {} s for it",
        path.display(),
        IN_USE_PATIENCE.as_secs()
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// It is neither.
    #[error("{} is neither a regular file nor a block device", path.display())]
    Kind {
        /// Which.
        path: PathBuf,
    },
    /// The file system cannot bypass the page cache.
    #[error("the file system of {} does not support O_DIRECT; put it on a disk, in ext4 or XFS, or give a block device", path.display())]
    NoDirectIo {
        /// Which.
        path: PathBuf,
    },
    /// Its sectors are larger than the volume's blocks.
    #[error("{} has logical blocks of {bytes} bytes; more than {LOGICAL_BLOCK_BYTES_MAX} cannot be used", path.display())]
    LogicalBlock {
        /// Which.
        path: PathBuf,
        /// Their size.
        bytes: u32,
    },
    /// It is shorter than it must be.
    #[error("{} has {bytes} bytes, {needed} are needed", path.display())]
    TooSmall {
        /// Which.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What it must have.
        needed: u64,
    },
    /// Data and metadata are one and the same.
    #[error("{} is given for data and for metadata; write metadata = \"internal\" to keep both on it", path.display())]
    Same {
        /// Which.
        path: PathBuf,
    },
    /// Reading, writing or flushing failed.
    #[error("cannot {what} {} at byte {offset}: {errno}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Where.
        offset: u64,
        /// Why not.
        errno: Errno,
    },
}

/// What a disk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A file in a file system.
    File,
    /// A block device.
    BlockDevice,
}

/// A disk that nobody else uses while this value lives.
#[derive(Clone, Debug)]
pub struct Device {
    /// Where it was found; for messages.
    pub path: PathBuf,
    /// Opened with O_DIRECT and locked.
    pub file: Arc<OwnedFd>,
    /// What it is.
    pub kind: DeviceKind,
    /// Its size.
    pub bytes: u64,
    /// Device number and inode, or the number of the block device.
    identity: (u64, u64),
}

impl Device {
    /// Opens `path` past the page cache and locks it against other processes, and against this one.
    ///
    /// The kernel keeps the files of a process that died open until what its ring had under way has ended: for a
    /// moment after a crash the disk is rightly in use, and that is waited for.
    ///
    /// # Errors
    /// It does not exist, is in use, or is of a kind that cannot be used.
    pub fn open(path: &Path) -> Result<Self, DeviceError> {
        let deadline = Instant::now() + IN_USE_PATIENCE;
        let mut has_said_so = false;
        loop {
            match Self::try_open(path) {
                Err(DeviceError::InUse { .. }) if Instant::now() < deadline => {
                    if !std::mem::replace(&mut has_said_so, true) {
                        info!(
                            path = %path.display(),
                            "in use; waits at most {} s, in case a daemon has just died there",
                            IN_USE_PATIENCE.as_secs()
                        );
                    }
                    // The kernel tells nobody when it lets go of the dead process's files; there is no thread to
                    // hold up yet, and the wait is bounded.
                    std::thread::sleep(IN_USE_RETRY);
                }
                outcome => return outcome,
            }
        }
    }

    fn try_open(path: &Path) -> Result<Self, DeviceError> {
        let fail = |errno| DeviceError::Open { path: path.to_owned(), errno };
        let found = rustix::fs::stat(path).map_err(fail)?;
        let (kind, exclusive) = match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => (DeviceKind::File, OFlags::empty()),
            // On a block device O_EXCL keeps mounts and other exclusive users out.
            FileType::BlockDevice => (DeviceKind::BlockDevice, OFlags::EXCL),
            _ => return Err(DeviceError::Kind { path: path.to_owned() }),
        };
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC | exclusive;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::BUSY => DeviceError::InUse { path: path.to_owned() },
            Errno::INVAL => DeviceError::NoDirectIo { path: path.to_owned() },
            errno => fail(errno),
        })?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK => DeviceError::InUse { path: path.to_owned() },
            errno => fail(errno),
        })?;
        if kind == DeviceKind::BlockDevice {
            let bytes = rustix::fs::ioctl_blksszget(&file).map_err(fail)?;
            if u64::from(bytes) > LOGICAL_BLOCK_BYTES_MAX {
                return Err(DeviceError::LogicalBlock { path: path.to_owned(), bytes });
            }
        }
        let bytes = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(fail)?;
        let identity = match kind {
            DeviceKind::File => (found.st_dev, found.st_ino),
            DeviceKind::BlockDevice => (found.st_rdev, 0),
        };
        Ok(Self { path: path.to_owned(), file: Arc::new(file), kind, bytes, identity })
    }

    /// Makes sure that a regular file of at least `bytes` exists at `path`, unless a block device does. A new file
    /// is readable by its owner only.
    ///
    /// # Errors
    /// The file cannot be made or made longer, or a block device is too small.
    pub fn prepare_file(path: &Path, bytes: u64) -> Result<(), DeviceError> {
        let fail = |errno| DeviceError::Open { path: path.to_owned(), errno };
        let exists = rustix::fs::stat(path).is_ok();
        if !exists && path.starts_with("/dev") {
            // A file in /dev would vanish at the next boot: surely a misspelt device.
            return Err(fail(Errno::NOENT));
        }
        if !exists {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
            rustix::fs::ftruncate(&file, bytes).map_err(fail)?;
            rustix::fs::fsync(&file).map_err(fail)?;
            return sync_folder_of(path);
        }
        let device = Self::open(path)?;
        if device.bytes >= bytes {
            return Ok(());
        }
        match device.kind {
            DeviceKind::BlockDevice => device.require_bytes(bytes),
            DeviceKind::File => rustix::fs::ftruncate(&*device.file, bytes).map_err(fail),
        }
    }

    /// Whether the disk is large enough.
    ///
    /// # Errors
    /// It is not.
    pub fn require_bytes(&self, needed: u64) -> Result<(), DeviceError> {
        if self.bytes < needed {
            return Err(DeviceError::TooSmall { path: self.path.clone(), bytes: self.bytes, needed });
        }
        Ok(())
    }

    /// Whether any part of a file was ever written: a file of holes alone holds nothing. A device counts as written.
    ///
    /// # Errors
    /// The file system does not say.
    pub fn is_written(&self) -> Result<bool, DeviceError> {
        if self.kind == DeviceKind::BlockDevice {
            return Ok(true);
        }
        match rustix::fs::seek(&self.file, SeekFrom::Data(0)) {
            Ok(_) => Ok(true),
            Err(Errno::NXIO) => Ok(false),
            Err(errno) => Err(self.failure("look for data on", 0, errno)),
        }
    }

    /// Whether both are the same file or device, whatever their paths.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.identity == other.identity
    }

    /// The `length` bytes from `offset` on, both whole blocks.
    ///
    /// # Errors
    /// The disk does not give them.
    pub fn read_at(&self, offset: u64, length: usize) -> Result<PoolBuffer, DeviceError> {
        let mut buffer = PoolBuffer::with_length(length);
        let mut filled = 0;
        while filled < length {
            let at = offset + bytes_u64(filled);
            match rustix::io::pread(&self.file, &mut buffer[filled..], at) {
                Ok(0) => return Err(self.failure("read", at, Errno::IO)),
                Ok(bytes) => filled += bytes,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failure("read", at, errno)),
            }
        }
        Ok(buffer)
    }

    /// Writes whole blocks of aligned memory.
    ///
    /// # Errors
    /// The disk does not take them.
    pub fn write_at(&self, offset: u64, bytes: &PoolBuffer) -> Result<(), DeviceError> {
        assert!(is_aligned(bytes), "O_DIRECT takes whole blocks of aligned memory");
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + bytes_u64(done);
            match rustix::io::pwrite(&self.file, &bytes[done..], at) {
                Ok(0) => return Err(self.failure("write", at, Errno::IO)),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failure("write", at, errno)),
            }
        }
        Ok(())
    }

    /// Puts everything written so far on stable storage, the size of a file included.
    ///
    /// # Errors
    /// The disk does not confirm it.
    pub fn flush(&self) -> Result<(), DeviceError> {
        rustix::fs::fsync(self.file.as_fd()).map_err(|errno| self.failure("flush", 0, errno))
    }

    pub(super) fn failure(&self, what: &'static str, offset: u64, errno: Errno) -> DeviceError {
        DeviceError::Io { path: self.path.clone(), what, offset, errno }
    }
}

/// Makes the name of a new file durable.
fn sync_folder_of(path: &Path) -> Result<(), DeviceError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let fail = |errno| DeviceError::Open { path: folder.to_owned(), errno };
    let opened =
        rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    rustix::fs::fsync(opened.map_err(fail)?).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opening_is_refused_until_the_first_one_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        Device::prepare_file(&path, 1 << 20).unwrap();
        let first = Device::open(&path).unwrap();
        let refused = Device::open(&path).unwrap_err();
        assert!(matches!(refused, DeviceError::InUse { .. }));
        assert!(refused.to_string().contains(path.to_str().unwrap()));
        drop(first);
        Device::open(&path).unwrap();
    }

    #[test]
    fn what_is_written_is_read_back_and_a_file_grows_but_never_shrinks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        Device::prepare_file(&path, 8192).unwrap();
        Device::prepare_file(&path, 16_384).unwrap();
        Device::prepare_file(&path, 4096).unwrap();
        let device = Device::open(&path).unwrap();
        assert_eq!(device.bytes, 16_384);
        assert!(!device.is_written().unwrap(), "it has holes only");
        device.require_bytes(16_384).unwrap();
        assert!(matches!(device.require_bytes(16_385), Err(DeviceError::TooSmall { .. })));

        device.write_at(4096, &PoolBuffer::copy_of(&[9; 8192])).unwrap();
        device.flush().unwrap();
        assert!(device.is_written().unwrap());
        assert_eq!(&device.read_at(8192, 4096).unwrap()[..], [9; 4096]);
        assert!(matches!(device.read_at(12_288, 8192), Err(DeviceError::Io { what: "read", .. })));
    }

    #[test]
    fn folders_missing_files_and_misspelt_devices_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Device::open(folder.path()), Err(DeviceError::Kind { .. })));
        assert!(matches!(Device::open(&folder.path().join("none")), Err(DeviceError::Open { .. })));
        let misspelt = Path::new("/dev/twinblk-no-such-device");
        assert!(matches!(Device::prepare_file(misspelt, 4096), Err(DeviceError::Open { .. })));
    }

    #[test]
    fn two_paths_to_one_file_are_the_same_device() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        Device::prepare_file(&path, 4096).unwrap();
        std::fs::hard_link(&path, folder.path().join("other")).unwrap();
        let first = Device::open(&path).unwrap();
        assert!(matches!(Device::open(&folder.path().join("other")), Err(DeviceError::InUse { .. })));
        assert!(first.is_same(&first.clone()));
    }
}
