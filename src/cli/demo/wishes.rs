//! What the command line of the demo asks for, checked before anything is made.
//!
//! Rule: a wish that cannot come true ends with 2 and says what to write instead; nothing is left behind.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use replicator::units::{BLOCK_BYTES, VOLUME_BYTES_MAX};
use tempfile::TempDir;

use super::room;
use crate::cli::args::DemoArgs;
use crate::cli::exit::{Ended, Status};
use crate::config_file::values::{SOCKET_PATH_BYTES_MAX, show_size};

/// Size of the disk if none is asked for: filled a few times in the default time.
const SIZE_BYTES: u64 = 256 << 20;
/// Smallest disk on which the writers have room.
const SIZE_BYTES_MIN: u64 = 4 << 20;
/// The longest path of a socket within the folder given by `--dir`.
const SOCKET_IN_DIR: &str = "/twinblk-demo-XXXXXX/a/demo.sock";
/// What a takeover takes at least: the lease of the dead Primary, and traffic before and after.
const TAKEOVER_SECONDS: u64 = 8;

/// What was asked for, and can be had.
#[derive(Debug)]
pub struct Wishes {
    /// Bytes of the volume.
    pub size_bytes: u64,
    /// Where the playground listens.
    pub socket: Option<PathBuf>,
    /// A fresh folder for everything.
    pub folder: TempDir,
}

impl Wishes {
    /// Checks all of them, and makes the folder.
    ///
    /// # Errors
    /// One cannot come true.
    pub fn check(args: &DemoArgs) -> anyhow::Result<Self> {
        let size_bytes = size_of(args.size)?;
        let socket = args.socket.as_deref().map(check_socket).transpose()?;
        let folder = make_folder(args.dir.as_deref(), size_bytes)?;
        if let Some(text) = takes_longer(args).filter(|_| !args.serve) {
            eprintln!("{text}");
        }
        Ok(Self { size_bytes, socket, folder })
    }
}

/// A wish that cannot come true.
pub fn refused(text: String) -> anyhow::Error {
    Ended::with(Status::Usage, text)
}

fn size_of(asked: Option<u64>) -> anyhow::Result<u64> {
    let asked = asked.unwrap_or(SIZE_BYTES);
    if (SIZE_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&asked) {
        return Ok(asked.next_multiple_of(BLOCK_BYTES));
    }
    Err(refused(format!(
        "--size: {} is out of range; write {} to {}",
        show_size(asked),
        show_size(SIZE_BYTES_MIN),
        show_size(VOLUME_BYTES_MAX)
    )))
}

fn check_socket(asked: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(asked)?;
    let shown = path.display();
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let text =
            format!("--socket: {shown} is too long; write a path of at most {SOCKET_PATH_BYTES_MAX} bytes");
        return Err(refused(text));
    }
    if !path.parent().is_some_and(Path::is_dir) {
        return Err(refused(format!(
            "--socket: the folder of {shown} does not exist; make it, or write another path"
        )));
    }
    match std::fs::symlink_metadata(&path) {
        Ok(found) if !found.file_type().is_socket() => {
            Err(refused(format!("--socket: {shown} exists and is no socket; write another path")))
        }
        Ok(_) | Err(_) => Ok(path),
    }
}

/// The folder of the demo, made where there is room for it.
fn make_folder(asked: Option<&Path>, size_bytes: u64) -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("twinblk-demo-");
    let Some(asked) = asked else {
        room::check(&std::env::temp_dir(), size_bytes)?;
        return builder.tempdir().context("cannot make a temporary folder; write --dir DIR");
    };
    let dir = std::path::absolute(asked)?;
    let shown = dir.display();
    let bytes_max = SOCKET_PATH_BYTES_MAX - SOCKET_IN_DIR.len();
    if dir.as_os_str().len() > bytes_max {
        return Err(refused(format!(
            "--dir: {shown} is too long for the sockets in it; write a path of at most {bytes_max} bytes"
        )));
    }
    if dir.exists() && !dir.is_dir() {
        return Err(refused(format!("--dir: {shown} is no folder; write the path of one")));
    }
    // The folders in between stay when the demo ends: they are made once nothing speaks against it.
    let there = dir.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    room::check(there, size_bytes)?;
    let cannot = |error: std::io::Error| refused(format!("--dir: cannot make a folder in {shown}: {error}"));
    std::fs::create_dir_all(&dir).map_err(cannot)?;
    builder.tempdir_in(&dir).map_err(cannot)
}

/// Every kill is carried out, however long that takes.
fn takes_longer(args: &DemoArgs) -> Option<String> {
    let needed = u64::from(args.kills) * TAKEOVER_SECONDS;
    (needed > args.seconds).then(|| {
        format!(
            "{} kills take about {needed} s, longer than the {} s asked for: each waits for the lease of the dead Primary",
            args.kills, args.seconds
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Command, CommandLine};

    fn asked(words: &[&str]) -> Result<DemoArgs, clap::Error> {
        let line = CommandLine::try_parse_from(["twinblk", "demo"].iter().chain(words))?;
        match line.command {
            Command::Demo(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(words: &[&str]) -> String {
        let error = Wishes::check(&asked(words).expect("well-formed")).expect_err("refused");
        let ended = error.downcast_ref::<Ended>().expect("an end");
        assert_eq!(ended.status.number(), 2, "{error}");
        error.to_string()
    }

    #[test]
    fn a_wish_that_cannot_come_true_is_refused_with_what_to_write_instead_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_str().expect("plain").to_owned();
        let file = format!("{path}/file");
        std::fs::write(&file, "").expect("written");
        let long = format!("{path}/{}", "l".repeat(100));
        let missing = format!("{path}/missing/x.sock");
        let new = format!("{path}/new/place");
        let rows: [(&[&str], &str); 9] = [
            (&["--size", "1"], "is out of range; write 4MiB to 16TiB"),
            (&["--size", "17TiB"], "is out of range"),
            (&["--dir", &file], "is no folder"),
            (&["--dir", "/proc/none"], "cannot make a folder in /proc"),
            (&["--dir", &long], "is too long for the sockets in it"),
            (&["--serve", "--socket", &missing], "does not exist; make it"),
            (&["--serve", "--socket", &file], "exists and is no socket"),
            (&["--dir", &new, "--size", "16TiB"], "free, and the demo needs "),
            (&["--serve", "--dir", &new, "--size", "16TiB"], "write --dir with a folder on a larger disk"),
        ];
        for (words, text) in rows {
            let said = refusal(words);
            assert!(said.contains(text), "{words:?}: {said}");
        }
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("there").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn numbers_beyond_reason_are_wrong_usage() {
        let rows = [["--seconds", "0"], ["--seconds", "18446744073709551615"], ["--kills", "1001"]];
        for words in rows {
            assert_eq!(asked(&words).expect_err("refused").exit_code(), 2, "{words:?}");
        }
    }

    #[test]
    fn more_kills_than_fit_are_carried_out_and_announced() {
        let said =
            takes_longer(&asked(&["--kills", "5", "--seconds", "20"]).expect("good")).expect("announced");
        assert!(said.contains("5 kills take about 40 s"), "{said}");
        assert_eq!(takes_longer(&asked(&[]).expect("good")), None);
        assert_eq!(takes_longer(&asked(&["--kills", "0", "--seconds", "1"]).expect("good")), None);
    }
}
