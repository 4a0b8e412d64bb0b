//! The tiebreaker's file: made once, locked while it is used, written so that one copy is whole at any moment.
//!
//! Rule: [`StateFile::store`] returns after both copies are written and flushed, one after the other. Writes go
//! through the ring (tokio-uring's `File`): they never block the links, nobody else uses the descriptor, and none is
//! dropped half-way, which is where the ring has traps. What the bytes mean is `replicator`'s business
//! (`promotion::tiebreaker_file`).

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use replicator::promotion::tiebreaker_file::{
    TIEBREAKER_FILE_BYTES, TiebreakerChooseError, TiebreakerState, choose_newest,
};
use replicator::units::{BLOCK_BYTES, BLOCK_SIZE, NodeId, bytes_u64};
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

/// Why the file is of no use.
#[derive(Debug, Error)]
pub enum StateError {
    /// There is one already; it may hold a vote.
    #[error("{} exists already; a tiebreaker's file is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is none.
    #[error("{} does not exist; `--init` makes it, once in the life of the resource", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("{} is locked: another tiebreaker runs on it", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be believed.
    #[error("{}: {reason}; this tiebreaker must not vote", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: TiebreakerChooseError,
    },
    /// It belongs to something else.
    #[error("{} is of resource `{}` as {}, not of `{resource}` as {node}", path.display(), found.0, found.1)]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Resource and number in the file.
        found: (String, NodeId),
        /// The configured resource.
        resource: String,
        /// The configured number.
        node: NodeId,
    },
    /// The kernel failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
}

/// The file, locked for as long as this lives.
pub struct StateFile {
    file: tokio_uring::fs::File,
    /// The lock has a descriptor of its own: it ends with this, and not when the ring has closed the file.
    _lock: fs::File,
    path: PathBuf,
}

impl StateFile {
    /// Makes the file of a new voter, and its folder if that is missing.
    ///
    /// # Errors
    /// There is a file already, or the kernel failed; then there is none.
    pub fn create(path: &Path, state: &TiebreakerState) -> Result<(), StateError> {
        let failed = |source| StateError::Io { path: path.to_owned(), source };
        let bytes = state.encode().repeat(TIEBREAKER_FILE_BYTES / BLOCK_SIZE);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        make_folder(folder).map_err(failed)?;
        // Under its name only when it is whole: an interrupted attempt leaves nothing that looks like a voter.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist_noclobber(path).map_err(|refused| match refused.error.kind() {
            io::ErrorKind::AlreadyExists => StateError::Exists { path: path.to_owned() },
            _ => failed(refused.error),
        })?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Locks and reads the file of the voter `node` of `resource`. What it says is stored again before it is used.
    ///
    /// # Errors
    /// It is missing, locked, unreadable, of something else, or the kernel failed.
    pub fn open(path: &Path, resource: &str, node: NodeId) -> Result<(Self, TiebreakerState), StateError> {
        let path = path.to_owned();
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let lock = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::Missing { path });
            }
            Err(source) => return Err(StateError::Io { path, source }),
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::Locked { path }),
            Err(error) => return Err(StateError::Io { path, source: error.into() }),
        }
        let mut bytes = Vec::new();
        if let Err(source) = (&lock).take(bytes_u64(TIEBREAKER_FILE_BYTES)).read_to_end(&mut bytes) {
            return Err(StateError::Io { path, source });
        }
        let (first, second) = bytes.split_at(bytes.len().min(BLOCK_SIZE));
        let state = match choose_newest(first, second) {
            Ok(state) => state,
            Err(reason) => return Err(StateError::Refused { path, reason }),
        };
        if state.resource.as_str() != resource || state.node != node {
            let found = (state.resource.as_str().to_owned(), state.node);
            return Err(StateError::NotOurs { path, found, resource: resource.to_owned(), node });
        }
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => Ok((Self { file: tokio_uring::fs::File::from_std(file), _lock: lock, path }, state)),
            Err(source) => Err(StateError::Io { path, source }),
        }
    }

    /// Writes `page` to both copies; it is durable when this returns. Must run to its end.
    ///
    /// # Errors
    /// The kernel failed. What the file holds is then unknown until it is opened again.
    pub async fn store(&mut self, page: &[u8; BLOCK_SIZE]) -> Result<(), StateError> {
        for offset in [0, BLOCK_BYTES] {
            // The first is durable before the second is touched.
            let (written, _) = self.file.write_all_at(page.to_vec(), offset).await;
            let flushed = match written {
                Ok(()) => self.file.sync_data().await,
                Err(error) => Err(error),
            };
            flushed.map_err(|source| StateError::Io { path: self.path.clone(), source })?;
        }
        Ok(())
    }
}

/// Makes a folder that only its owner looks into, durably. The folder around it must be there: the path may be
/// misspelt.
fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {
            let around = folder.parent().filter(|around| !around.as_os_str().is_empty());
            fs::File::open(around.unwrap_or(Path::new("."))).and_then(|around| around.sync_all())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use replicator::layout::superblock::ResourceName;
    use replicator::units::VoterId;

    use super::*;

    const NODE: NodeId = NodeId(2);

    fn created() -> (tempfile::TempDir, PathBuf, TiebreakerState) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mail.tiebreaker");
        let resource = ResourceName::parse("mail").expect("a name");
        let state = TiebreakerState::new(resource, NODE, VoterId(42));
        StateFile::create(&path, &state).expect("made");
        (folder, path, state)
    }

    #[test]
    fn a_file_is_never_overwritten() {
        tokio_uring::start(async {
            let (_folder, path, state) = created();
            let other = TiebreakerState { voter: VoterId(43), ..state.clone() };
            assert!(matches!(StateFile::create(&path, &other), Err(StateError::Exists { .. })));
            assert_eq!(StateFile::open(&path, "mail", NODE).expect("opens").1, state);
        });
    }

    #[test]
    fn the_folder_of_a_file_is_made_for_its_owner_alone_but_not_the_folders_around_it() {
        let around = tempfile::tempdir().expect("a folder");
        let resource = ResourceName::parse("mail").expect("a name");
        let state = TiebreakerState::new(resource, NODE, VoterId(42));
        let path = around.path().join("twinblk/mail.tiebreaker");
        StateFile::create(&path, &state).expect("made");
        let mode = fs::metadata(path.parent().expect("a folder")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let misspelt = around.path().join("none/twinblk/mail.tiebreaker");
        assert!(matches!(StateFile::create(&misspelt, &state), Err(StateError::Io { .. })));
    }

    #[test]
    fn what_was_stored_survives_the_process_in_both_copies() {
        tokio_uring::start(async {
            let (_folder, path, state) = created();
            let (mut file, _) = StateFile::open(&path, "mail", NODE).expect("opens");
            let newer = TiebreakerState { sequence: 2, ..state };
            file.store(&newer.encode()).await.expect("stored");
            drop(file);
            let bytes = fs::read(&path).expect("the file");
            assert_eq!(bytes[..BLOCK_SIZE], bytes[BLOCK_SIZE..]);
            assert_eq!(StateFile::open(&path, "mail", NODE).expect("opens").1, newer);
        });
    }

    #[test]
    fn a_file_without_a_usable_copy_is_refused() {
        tokio_uring::start(async {
            let (_folder, path, state) = created();
            for bytes in [Vec::new(), vec![0; TIEBREAKER_FILE_BYTES], state.encode()[..100].to_vec()] {
                fs::write(&path, bytes).expect("written");
                let refused = StateFile::open(&path, "mail", NODE).err();
                assert!(matches!(refused, Some(StateError::Refused { .. })));
            }
        });
    }

    #[test]
    fn a_second_process_is_refused_while_the_first_has_the_file() {
        tokio_uring::start(async {
            let (_folder, path, _) = created();
            let first = StateFile::open(&path, "mail", NODE).expect("opens");
            assert!(matches!(StateFile::open(&path, "mail", NODE), Err(StateError::Locked { .. })));
            drop(first);
            assert!(StateFile::open(&path, "mail", NODE).is_ok());
        });
    }

    #[test]
    fn a_file_of_another_voter_or_none_is_refused_by_name() {
        tokio_uring::start(async {
            let (folder, path, _) = created();
            let refused = StateFile::open(&path, "news", NODE).err().expect("refused").to_string();
            assert!(
                refused.ends_with("is of resource `mail` as node 2, not of `news` as node 2"),
                "{refused}"
            );
            assert!(matches!(StateFile::open(&path, "mail", NodeId(4)), Err(StateError::NotOurs { .. })));
            let nowhere = folder.path().join("nowhere");
            assert!(matches!(StateFile::open(&nowhere, "mail", NODE), Err(StateError::Missing { .. })));
        });
    }
}
