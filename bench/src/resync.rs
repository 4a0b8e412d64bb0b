//! How fast a volume without holes is resynced when no client writes, beside what its parts give: the source's disk
//! read, the target's disk written, one TCP stream on loopback, each alone and in the same round.
//!
//! Where both disks are one, a resync can never be as fast as the slower of the two alone: a fourth figure is what the
//! two give while one is read and the other written at once.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::ResyncArgs;
use crate::duo::Duo;
use crate::fio::{self, Way};
use crate::measurement::{self, Origin};
use crate::stream;

/// How long one resync may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// What one round found, megabytes (1e6) each second.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Round {
    read: f64,
    write: f64,
    stream: f64,
    /// The slower of both while they run at once.
    both_at_once: f64,
    resync: f64,
    /// Of the slowest of reading, writing and the stream.
    ratio_to_slowest: f64,
    /// Of the slowest of reading and writing at once, and the stream.
    ratio_on_one_disk: f64,
    /// CPU time of the source for each megabyte, microseconds.
    source_cpu_us_per_megabyte: f64,
    /// CPU time of the target for each megabyte, microseconds.
    target_cpu_us_per_megabyte: f64,
}

/// A run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Run {
    #[serde(flatten)]
    origin: Origin,
    size_bytes: u64,
    rounds: Vec<Round>,
    median: Round,
}

/// `bench resync`
pub fn run(args: &ResyncArgs) -> anyhow::Result<()> {
    let origin = Origin::here()?;
    let mut duo = args.make_duo()?;
    let size_bytes = args.size_bytes();
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        eprintln!("round {number} of {}", args.rounds);
        rounds.push(measure(&mut duo, size_bytes)?);
    }
    let median = median(&rounds);
    let run = Run { origin, size_bytes, rounds, median };
    args.place.tell(&render(&run), &run)
}

fn measure(duo: &mut Duo, size_bytes: u64) -> anyhow::Result<Round> {
    let (source, target) = (duo.data(0), duo.data(1));
    let read = fio::transfer(Way::Read, &source, size_bytes)?;
    // What is written is not what the source holds: the resync has to copy all of it.
    let write = fio::transfer(Way::Write, &target, size_bytes)?;
    let stream = stream::measure(size_bytes)?;
    let reading = {
        let source = source.clone();
        std::thread::spawn(move || fio::transfer(Way::Read, &source, size_bytes))
    };
    let written = fio::transfer(Way::Write, &target, size_bytes)?;
    let was_read = reading.join().map_err(|_| anyhow::anyhow!("the reader died"))??;
    let both_at_once = written.min(was_read);
    let resynced = duo.resync(DEADLINE)?;
    anyhow::ensure!(is_same(&source, &target)?, "the copy is not what was copied");
    let megabytes = measurement::megabytes(size_bytes);
    let resync = megabytes / resynced.took.as_secs_f64();
    Ok(Round {
        read,
        write,
        stream,
        both_at_once,
        resync,
        ratio_to_slowest: resync / read.min(write).min(stream),
        ratio_on_one_disk: resync / both_at_once.min(stream),
        source_cpu_us_per_megabyte: resynced.source_cpu_us / megabytes,
        target_cpu_us_per_megabyte: resynced.target_cpu_us / megabytes,
    })
}

/// Of each figure the one in the middle.
fn median(rounds: &[Round]) -> Round {
    let of = |figure: fn(&Round) -> f64| measurement::median(rounds, figure);
    Round {
        read: of(|round| round.read),
        write: of(|round| round.write),
        stream: of(|round| round.stream),
        both_at_once: of(|round| round.both_at_once),
        resync: of(|round| round.resync),
        ratio_to_slowest: of(|round| round.ratio_to_slowest),
        ratio_on_one_disk: of(|round| round.ratio_on_one_disk),
        source_cpu_us_per_megabyte: of(|round| round.source_cpu_us_per_megabyte),
        target_cpu_us_per_megabyte: of(|round| round.target_cpu_us_per_megabyte),
    }
}

fn render(run: &Run) -> String {
    let mut text = format!(
        "{}, {} MiB, MB/s\n\n\
         | round | read | write | TCP | both at once | resync | of the slowest | on one disk | source µs/MB | target µs/MB |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        run.origin.line(),
        run.size_bytes >> 20
    );
    let line = |name: &str, round: &Round| {
        format!(
            "| {name} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} |\n",
            round.read,
            round.write,
            round.stream,
            round.both_at_once,
            round.resync,
            round.ratio_to_slowest,
            round.ratio_on_one_disk,
            round.source_cpu_us_per_megabyte,
            round.target_cpu_us_per_megabyte,
        )
    };
    for (number, round) in (1..).zip(&run.rounds) {
        text.push_str(&line(&format!("{number}"), round));
    }
    text.push_str(&line("median", &run.median));
    text
}

fn is_same(one: &Path, other: &Path) -> anyhow::Result<bool> {
    let (mut one, mut other) = (std::fs::File::open(one)?, std::fs::File::open(other)?);
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let bytes = one.read(&mut ours)?;
        if bytes == 0 {
            return Ok(other.read(&mut theirs)? == 0);
        }
        other.read_exact(&mut theirs[..bytes])?;
        if ours[..bytes] != theirs[..bytes] {
            return Ok(false);
        }
    }
}
