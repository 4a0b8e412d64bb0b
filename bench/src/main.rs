//! Measurements, so that every change can be compared with the one before: `cargo run --release -p bench -- pair`, or
//! `-- resync`.
//!
//! Rule: what is measured is the released executable from outside, beside the raw disk in the same run.

mod client;
mod duo;
mod fio;
mod machine;
mod measurement;
mod pair;
mod playground;
mod process;
mod resync;
mod stream;
mod table;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use duo::Duo;
use measurement::Where;

/// Measures twinblk
#[derive(Debug, Parser)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run fio on a pair on this machine, and on a raw file beside it
    Pair(PairArgs),
    /// Resync a volume between two daemons on this machine, beside what its disk and one TCP stream give alone
    Resync(ResyncArgs),
}

/// What a measurement of a pair is told.
#[derive(Debug, Args)]
struct PairArgs {
    /// How long each job runs, on the pair and on the raw file each
    #[arg(long, value_name = "N", default_value_t = 5)]
    seconds: u64,
    #[command(flatten)]
    place: Where,
    /// Only jobs whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// What a measurement of a resync is told.
#[derive(Debug, Args)]
struct ResyncArgs {
    /// How many rounds; each measures everything once
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u32,
    /// MiB of data that cannot be compressed
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    size: u64,
    /// Where the target's disk is made; beside the source's if left out
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
    /// Measure how long the writes of a client take, without a resync and during one, instead of the parts; with the job
    /// of this name
    #[arg(long, value_name = "JOB", num_args = 0..=1, default_missing_value = "randwrite-4k-depth-1")]
    with_client: Option<String>,
    #[command(flatten)]
    place: Where,
}

impl ResyncArgs {
    fn size_bytes(&self) -> u64 {
        self.size << 20
    }

    /// Source and target, with different bytes.
    fn make_duo(&self) -> anyhow::Result<Duo> {
        anyhow::ensure!(self.rounds > 0, "no round measures nothing");
        let target = self.target_dir.as_deref().map(measurement::folder_in).transpose()?;
        Duo::new(&self.place.executable()?, self.place.folder()?, target, self.size_bytes())
    }
}

fn main() -> anyhow::Result<()> {
    match CommandLine::parse().command {
        Command::Pair(args) => pair::run(&args),
        Command::Resync(args) => match &args.with_client {
            Some(job) => client::run(&args, job),
            None => resync::run(&args),
        },
    }
}
