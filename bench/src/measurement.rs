//! What every measurement is told, needs and prints.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use tempfile::TempDir;

use crate::fio;
use crate::machine::{self, Machine};

/// What every measurement is told.
#[derive(Debug, Args)]
pub struct Where {
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

/// What the figures of a run were found on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Origin {
    schema: u32,
    machine: Machine,
    commit: String,
    fio: String,
}

impl Origin {
    /// This machine and this commit.
    ///
    /// # Errors
    /// fio is not installed.
    pub fn here() -> anyhow::Result<Self> {
        let fio = fio::version()?;
        Ok(Self { schema: 2, machine: machine::describe(), commit: machine::commit(), fio })
    }

    /// The line above a table.
    pub fn line(&self) -> String {
        let Machine { processor, processors, kernel } = &self.machine;
        format!("{processor}, {processors} processors, Linux {kernel}, commit {}", self.commit)
    }
}

impl Where {
    /// A folder that goes with its handle.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self) -> anyhow::Result<TempDir> {
        folder_in(&self.dir.clone().unwrap_or_else(std::env::temp_dir))
    }

    /// What is measured.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn executable(&self) -> anyhow::Result<PathBuf> {
        self.binary.clone().map_or_else(build, Ok)
    }

    /// Prints the table, and writes or prints the figures.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tell(&self, table: &str, figures: &impl Serialize) -> anyhow::Result<()> {
        println!("{table}");
        let text = serde_json::to_string_pretty(figures)?;
        match &self.json {
            Some(file) => std::fs::write(file, text + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?,
            None => println!("{text}"),
        }
        Ok(())
    }
}

/// A folder within another one, which goes with its handle.
///
/// # Errors
/// It cannot be made.
pub fn folder_in(within: &Path) -> anyhow::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("twinblk-bench-").tempdir_in(within);
    folder.with_context(|| format!("cannot make a folder in {}", within.display()))
}

/// The released executable, beside this one.
fn build() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = Command::new(cargo)
        .args(["build", "--release", "--bin", "twinblk"])
        .current_dir(&workspace)
        .status()?;
    anyhow::ensure!(status.success(), "twinblk cannot be built");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    Ok(target.join("release/twinblk"))
}

/// The figure in the middle, of all rounds.
pub fn median<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// For rates only.
pub fn megabytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 20).expect("less than 4 PiB")) * 1.048_576
}
