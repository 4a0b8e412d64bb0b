//! `twinblk demo`: two replicas and a tiebreaker on this machine, for the first minute with twinblk. Mail-like
//! traffic, a Primary that is killed in the middle of it, and a check that no acknowledged byte is missing; or, with
//! `--serve`, a disk to play with.
//!
//! Rule: it uses only what everybody has: the executable's own commands, the control socket, and NBD.

mod compare;
mod figures;
mod interruption;
mod lease_watch;
mod mailbox;
mod message;
mod pair;
mod playground;
mod process;
mod room;
mod site;
mod trial;
mod volume;
mod writers;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use self::figures::Figures;
use self::interruption::Interruption;
use self::pair::Pair;
use self::playground::Announcement;
use self::site::Site;
use super::args::DemoArgs;
use super::exit::{Ended, Status};
use crate::config_file::values::show_size;

pub use self::process::end_with;

/// Size of the disk if none is asked for: filled a few times in the default time.
const SIZE_BYTES: u64 = 256 << 20;
/// Smallest disk on which the writers have room.
const SIZE_BYTES_MIN: u64 = 4 << 20;

/// `twinblk demo`
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let size_bytes = args.size.unwrap_or(SIZE_BYTES).next_multiple_of(replicator::units::BLOCK_BYTES);
    if size_bytes < SIZE_BYTES_MIN {
        let text = format!(
            "--size: {} is too small; write {} or more",
            show_size(size_bytes),
            show_size(SIZE_BYTES_MIN)
        );
        return Err(Ended::with(Status::Given(2), text));
    }
    super::host::require_io_uring()?;
    let interruption = Interruption::watch()?;
    let folder = make_folder(args.dir.as_deref())?;
    room::check(folder.path(), size_bytes)?;
    let socket = args.socket.as_deref().map(std::path::absolute).transpose()?;
    let outcome = run_in(folder.path(), size_bytes, socket, args, &interruption);
    let has_failed = outcome.is_err() && !interruption.has_come();
    if args.keep || has_failed {
        // What went wrong is in the logs.
        eprintln!("disks and logs: {}", folder.keep().display());
    }
    outcome
}

fn run_in(
    folder: &Path,
    size_bytes: u64,
    socket: Option<PathBuf>,
    args: &DemoArgs,
    interruption: &Interruption,
) -> anyhow::Result<()> {
    let site = Site::make(folder, size_bytes, socket)?;
    let mut pair = Pair::make(site, interruption)?;
    if args.serve {
        let announcement = if args.json { Announcement::Json } else { Announcement::Text };
        return playground::run(pair, announcement, interruption);
    }
    let seed = match args.seed {
        Some(seed) => seed,
        None => u64::from(getrandom::u32().context("the kernel gives no random numbers")?),
    };
    let plan = trial::Plan { writing: Duration::from_secs(args.seconds), kills: args.kills, seed };
    pair.start()?;
    let figures = trial::run(pair, plan, interruption)?;
    report(&figures, args.json)
}

fn report(figures: &Figures, json: bool) -> anyhow::Result<()> {
    if json {
        super::status::print_json(&serde_json::to_value(figures)?)?;
    } else {
        print!("{}", figures.render());
    }
    if figures.is_good() {
        return Ok(());
    }
    let text = format!(
        "{} of {} acknowledged messages were read back, {} are missing; {} of {} blocks differ between the replicas",
        figures.checked_messages,
        figures.acknowledged_messages,
        figures.lost_messages,
        figures.different_blocks,
        figures.compared_blocks
    );
    Err(Ended::with(Status::Failed, text))
}

fn make_folder(within: Option<&Path>) -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("twinblk-demo-");
    match within {
        None => builder.tempdir().context("cannot make a temporary folder"),
        Some(dir) => {
            let dir = std::path::absolute(dir)?;
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            builder.tempdir_in(&dir).with_context(|| format!("cannot make a folder in {}", dir.display()))
        }
    }
}
