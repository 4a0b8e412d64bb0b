//! Measurements, so that every change can be compared with the one before: `cargo run --release -p bench -- pair`, or
//! `-- resync`.
//!
//! Rule: what is measured is the released executable from outside, beside the raw disk in the same run.

mod duo;
mod fio;
mod machine;
mod pair;
mod playground;
mod resync;
mod stream;
mod table;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
    /// File for the figures as JSON, which are printed below the table otherwise
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the disks are made; a folder for temporary files if left out
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The executable to measure; built in release if left out
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
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
    /// File for the figures as JSON, which are printed below the table otherwise
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the disks are made; a folder for temporary files if left out
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The executable to measure; built in release if left out
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    match CommandLine::parse().command {
        Command::Pair(args) => pair::run(&args),
        Command::Resync(args) => resync::run(&args),
    }
}
