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
mod wishes;
mod writers;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use self::figures::Figures;
use self::interruption::Interruption;
use self::pair::Pair;
use self::playground::Announcement;
use self::site::Site;
use self::wishes::Wishes;
use super::args::DemoArgs;
use super::exit::{Ended, Status};
use crate::config_file::values::show_size;

pub use self::process::end_with;

/// `twinblk demo`
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    super::host::require_io_uring()?;
    let interruption = Interruption::watch()?;
    let Wishes { size_bytes, socket, folder } = Wishes::check(args)?;
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
    report(&figures, args)
}

fn report(figures: &Figures, args: &DemoArgs) -> anyhow::Result<()> {
    let text = if args.json {
        serde_json::to_string_pretty(figures)? + "\n"
    } else {
        figures.render(&again(figures, args))
    };
    std::io::stdout().write_all(text.as_bytes())?;
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

/// The command that does the same again.
fn again(figures: &Figures, args: &DemoArgs) -> String {
    format!(
        "twinblk demo --seed {} --seconds {} --kills {} --size {}",
        figures.seed,
        args.seconds,
        args.kills,
        show_size(figures.size_bytes)
    )
}
