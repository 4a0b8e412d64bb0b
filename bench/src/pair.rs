//! Every job of `bench/fio` on a fresh pair and on a raw file of the same size in the same folder, one after the
//! other, so that both see the same disk at nearly the same time.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::PairArgs;
use crate::fio::{self, Job, Measured, Subject};
use crate::measurement::Origin;
use crate::playground::Playground;
use crate::table;

/// Size of the volume: more than the caches of a disk's controller.
const SIZE_BYTES: u64 = 1 << 30;

/// A job on both.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Compared {
    /// Name of the job.
    pub job: String,
    /// What it asks.
    pub question: String,
    /// The pair.
    pub pair: Measured,
    /// CPU time of both daemons for each operation, microseconds; the client's is in `pair`.
    pub pair_cpu_us_per_operation: f64,
    /// The raw file.
    pub raw: Measured,
    /// Operations of the pair for each of the raw file's.
    pub ratio: f64,
}

/// A run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Run {
    #[serde(flatten)]
    origin: Origin,
    seconds: u64,
    size_bytes: u64,
    jobs: Vec<Compared>,
}

/// `bench pair`
pub fn run(args: &PairArgs) -> anyhow::Result<()> {
    let origin = Origin::here()?;
    let jobs = fio::jobs(&args.only)?;
    let (binary, folder) = (args.place.executable()?, args.place.folder()?);
    let raw = Subject::File(make_raw_file(folder.path())?);
    let playground = Playground::start(&binary, folder.path(), SIZE_BYTES)?;
    let pair = Subject::Nbd(playground.uri.clone());
    let mut compared = Vec::new();
    for job in jobs {
        eprintln!("{}: {}", job.name, job.question);
        compared.push(compare(job, &pair, &raw, &playground, folder.path(), args.seconds)?);
    }
    playground.stop()?;
    let table = table::render(&origin, &compared);
    args.place.tell(&table, &Run { origin, seconds: args.seconds, size_bytes: SIZE_BYTES, jobs: compared })
}

fn compare(
    job: Job,
    pair: &Subject,
    raw: &Subject,
    playground: &Playground,
    scratch: &Path,
    seconds: u64,
) -> anyhow::Result<Compared> {
    let raw = fio::run(&job, raw, scratch, SIZE_BYTES, seconds)?;
    let before = playground.cpu_time_us()?;
    let pair = fio::run(&job, pair, scratch, SIZE_BYTES, seconds)?;
    let cpu_us = playground.cpu_time_us()? - before;
    Ok(Compared {
        pair_cpu_us_per_operation: cpu_us / pair.operations().max(1.0),
        ratio: pair.iops() / raw.iops().max(0.001),
        job: job.name,
        question: job.question,
        pair,
        raw,
    })
}

/// A file that has all of its space and was written once.
fn make_raw_file(folder: &Path) -> anyhow::Result<PathBuf> {
    use std::io::Write;
    let path = folder.join("raw");
    let mut file = std::fs::File::create_new(&path)?;
    let chunk = vec![0; 4 << 20];
    for _ in 0..SIZE_BYTES / (4 << 20) {
        file.write_all(&chunk).with_context(|| format!("cannot write {}", path.display()))?;
    }
    file.sync_all()?;
    Ok(path)
}
