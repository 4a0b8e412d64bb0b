//! What a daemon needs of its host before it starts: `io_uring`, and the folder of its sockets.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::Context;

use super::args::RUN_DIR;
use super::exit::{Ended, Status};
use crate::data_plane::ring::Ring;

/// Everybody may look in; the sockets in it have modes of their own.
const RUN_DIR_MODE: u32 = 0o755;

/// Refuses to start where there is no `io_uring`: the runtime would only abort.
///
/// # Errors
/// The kernel has none, or forbids it; with what to do.
pub fn require_io_uring() -> anyhow::Result<()> {
    Ring::<()>::new().map(drop).map_err(|error| {
        let action =
            "Linux 5.11 or later is needed; `sysctl kernel.io_uring_disabled` must be 0; a container must allow \
             the system calls io_uring_setup, io_uring_enter and io_uring_register \
             (docker run --security-opt seccomp=PROFILE)\n  \
             see: docs/operating/install.md";
        Ended::advised(Status::Failed, format!("io_uring cannot be used here: {error}"), action)
    })
}

/// Makes the folder of the control sockets if it is the usual one, which every boot takes away. One that somebody
/// has asked for must exist: it may be misspelt.
///
/// # Errors
/// It cannot be made.
pub fn make_run_dir(run_dir: &Path) -> anyhow::Result<()> {
    if run_dir == Path::new(RUN_DIR) {
        return make_folder(run_dir);
    }
    Ok(())
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().mode(RUN_DIR_MODE).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make {}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_usual_folder_is_made_and_one_that_is_there_stays() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("twinblk");
        make_run_dir(&folder).expect("nothing to do");
        assert!(!folder.exists(), "it may be misspelt");
        for _ in 0..2 {
            make_folder(&folder).expect("it is there afterwards");
            assert!(folder.is_dir());
        }
        assert!(make_folder(&parent.path().join("none/twinblk")).is_err());
    }
}
