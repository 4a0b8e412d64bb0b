//! What a client feels of a resync: how long its writes take while the target is down, on a pair that is in sync, and
//! during a resync, all in the same round.
//!
//! Seconds are looked at one by one, because it is over one second that the latency is aimed at.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Serialize;

use crate::ResyncArgs;
use crate::duo::{Duo, Looker};
use crate::fio::{self, Answered, Client, Job, Subject, Way};
use crate::measurement::{self, Origin};

/// How long one resync may take.
const DEADLINE: Duration = Duration::from_secs(600);
/// How long a client runs where nothing else ends it.
const CLIENT_SECONDS: u64 = 8;
/// Between two looks at the limit that the source sets itself.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What is aimed at, unless configured otherwise: the 99th percentile over one second.
const LATENCY_AIM_US: f64 = 20_000.0;
/// A limit of the source that counts as its floor, MiB a second: the floor, unless configured otherwise, and what a
/// figure may be rounded by.
const FLOOR_MIB: f64 = 10.1;
/// Writes of which a second needs as many for its 99th percentile to be looked at.
const WRITES_MIN: usize = 10;

/// How long the writes of a client took, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Felt {
    p50_us: f64,
    p99_us: f64,
    /// The highest 99th percentile over one second.
    worst_second_p99_us: f64,
    per_second: f64,
}

/// What one round found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Round {
    /// The target is down.
    alone: Felt,
    /// Both hold the same.
    mirrored: Felt,
    /// The target is resynced.
    during: Felt,
    /// Of the 99th percentile during a resync to the one on a pair that is in sync.
    p99_ratio: f64,
    /// Without a client, megabytes (1e6) each second.
    resync_alone: f64,
    /// Beside the client.
    resync: f64,
    /// Seconds of the client during the resync whose 99th percentile is above what is aimed at.
    seconds_above: usize,
    /// Those of them in which the resync was not at its floor.
    seconds_above_not_at_floor: usize,
    /// All of its seconds.
    seconds: Vec<Second>,
}

/// A second of a client, during a resync.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Second {
    number: u64,
    writes: usize,
    p99_us: f64,
    /// The limits that the resync set itself in it, MiB a second; 0 for none.
    limits: Vec<f64>,
}

impl Second {
    /// Whether clients felt more than is aimed at.
    fn is_above(&self) -> bool {
        self.writes >= WRITES_MIN && self.p99_us > LATENCY_AIM_US
    }

    fn is_at_floor(&self) -> bool {
        self.limits.iter().any(|limit| *limit > 0.0 && *limit <= FLOOR_MIB)
    }
}

/// A run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Run {
    #[serde(flatten)]
    origin: Origin,
    job: String,
    size_bytes: u64,
    rounds: Vec<Round>,
    p99_ratio_median: f64,
}

/// The limit of a resync at a moment.
#[derive(Clone, Copy, Debug)]
struct Limit {
    at_ms: u64,
    /// 0 if there is none.
    mib_per_second: f64,
}

/// `bench resync --with-client`
pub fn run(args: &ResyncArgs, job: &str) -> anyhow::Result<()> {
    let origin = Origin::here()?;
    let job = fio::jobs(job)?.into_iter().next().with_context(|| format!("no job is called {job}"))?;
    let mut duo = args.make_duo()?;
    let scratch = args.place.folder()?;
    let size_bytes = args.size_bytes();
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        eprintln!("round {number} of {}", args.rounds);
        rounds.push(measure(&mut duo, &job, scratch.path(), size_bytes)?);
    }
    let p99_ratio_median = measurement::median(&rounds, |round: &Round| round.p99_ratio);
    let run = Run { origin, job: job.name, size_bytes, rounds, p99_ratio_median };
    args.place.tell(&render(&run), &run)
}

fn measure(duo: &mut Duo, job: &Job, scratch: &Path, size_bytes: u64) -> anyhow::Result<Round> {
    duo.start_source()?;
    let served = Subject::Nbd(duo.promote_source()?);
    let client = |seconds| Client::start(job, &served, scratch, size_bytes, seconds);
    let alone = client(CLIENT_SECONDS)?.writes()?;
    // What is written is not what the source holds: the resync has to copy all of it.
    fio::transfer(Way::Write, &duo.data(1), size_bytes)?;
    let (quiet, ()) = duo.resync_target(DEADLINE, |_| Ok(()))?;
    let mirrored = client(CLIENT_SECONDS)?.writes()?;
    duo.stop(1)?;
    fio::transfer(Way::Write, &duo.data(1), size_bytes)?;
    let (during, resynced, limits) = std::thread::scope(|scope| {
        let (over, is_over) = mpsc::channel();
        let begin = |duo: &Duo| {
            let mut looker = duo.looker();
            Ok((now_ms()?, scope.spawn(move || limits(&mut looker, &is_over))))
        };
        // It writes already when the resync begins, as most clients do.
        let client = client(DEADLINE.as_secs())?;
        let (resynced, (begun_ms, limits)) = duo.resync_target(DEADLINE, begin)?;
        client.interrupt()?;
        drop(over);
        let limits = limits.join().map_err(|_| anyhow::anyhow!("whoever looked died"))??;
        let mut writes = client.writes()?;
        writes.retain(|write| write.at_ms >= begun_ms);
        anyhow::Ok((writes, resynced, limits))
    })?;
    duo.stop(1)?;
    duo.stop(0)?;
    let seconds = seconds_of(&during, &limits);
    let above: Vec<&Second> = seconds.iter().filter(|second| second.is_above()).collect();
    let (alone, mirrored, during) = (felt(&alone)?, felt(&mirrored)?, felt(&during)?);
    let megabytes = measurement::megabytes(size_bytes);
    Ok(Round {
        alone,
        mirrored,
        during,
        p99_ratio: during.p99_us / mirrored.p99_us,
        resync_alone: megabytes / quiet.took.as_secs_f64(),
        resync: megabytes / resynced.took.as_secs_f64(),
        seconds_above: above.len(),
        seconds_above_not_at_floor: above.iter().filter(|second| !second.is_at_floor()).count(),
        seconds,
    })
}

/// The limits that a source sets itself, until the channel closes.
fn limits(looker: &mut Looker, is_over: &mpsc::Receiver<()>) -> anyhow::Result<Vec<Limit>> {
    let mut limits = Vec::new();
    while is_over.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        let at_ms = now_ms()?;
        let status = looker.status()?;
        let peer = status.pointer("/connections/0/peer_devices/0").context("it tells of no peer")?;
        // There is none when the resync is over meanwhile.
        let want = peer["want"].as_f64();
        limits.extend(want.map(|mib_per_second| Limit { at_ms, mib_per_second }));
    }
    Ok(limits)
}

/// Milliseconds since 1970, as fio counts them.
fn now_ms() -> anyhow::Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// The seconds of a client in which it was answered, from the first of them on.
fn seconds_of(writes: &[Answered], limits: &[Limit]) -> Vec<Second> {
    let begun_ms = writes.first().map_or(0, |write| write.at_ms);
    let second_of = |at_ms: u64| at_ms.checked_sub(begun_ms).map(|after_ms| after_ms / 1000);
    let seconds = writes.chunk_by(|one, next| second_of(one.at_ms) == second_of(next.at_ms));
    let second = |writes: &[Answered]| {
        let number = second_of(writes[0].at_ms).unwrap_or_default();
        let limits = limits.iter().filter(|limit| second_of(limit.at_ms) == Some(number));
        Second {
            number,
            writes: writes.len(),
            p99_us: percentile_us(writes, 99),
            limits: limits.map(|limit| limit.mib_per_second).collect(),
        }
    };
    seconds.map(second).collect()
}

fn felt(writes: &[Answered]) -> anyhow::Result<Felt> {
    let (first, last) = writes.first().zip(writes.last()).context("the client wrote nothing")?;
    let took_ms = u32::try_from(last.at_ms - first.at_ms)?.max(1);
    let full = seconds_of(writes, &[]).into_iter().filter(|second| second.writes >= WRITES_MIN);
    let worst = full.map(|second| second.p99_us).fold(0.0, f64::max);
    Ok(Felt {
        p50_us: percentile_us(writes, 50),
        p99_us: percentile_us(writes, 99),
        worst_second_p99_us: worst,
        per_second: f64::from(u32::try_from(writes.len())?) * 1000.0 / f64::from(took_ms),
    })
}

/// So many of a hundred were not slower.
fn percentile_us(writes: &[Answered], percent: usize) -> f64 {
    let mut latencies: Vec<f64> = writes.iter().map(|write| write.latency_us).collect();
    latencies.sort_by(f64::total_cmp);
    latencies[(latencies.len() * percent).div_ceil(100).max(1) - 1]
}

fn render(run: &Run) -> String {
    let mut text = format!(
        "{}, {} MiB, client {}, µs and MB/s\n\n\
         | round | alone p50 | p99 | mirrored p50 | p99 | during p50 | p99 | worst second | p99 ratio | writes/s before | during | resync alone | resync | seconds | above 20 ms | not at floor |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        run.origin.line(),
        run.size_bytes >> 20,
        run.job,
    );
    for (number, round) in (1..).zip(&run.rounds) {
        text.push_str(&format!(
            "| {number} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {} | {} |\n",
            round.alone.p50_us,
            round.alone.p99_us,
            round.mirrored.p50_us,
            round.mirrored.p99_us,
            round.during.p50_us,
            round.during.p99_us,
            round.during.worst_second_p99_us,
            round.p99_ratio,
            round.mirrored.per_second,
            round.during.per_second,
            round.resync_alone,
            round.resync,
            round.seconds.len(),
            round.seconds_above,
            round.seconds_above_not_at_floor,
        ));
    }
    text.push_str(&format!("\nMedian of the ratios of p99: {:.2}\n", run.p99_ratio_median));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(at_ms: u64, latencies_us: &[f64]) -> Vec<Answered> {
        latencies_us.iter().map(|latency_us| Answered { at_ms, latency_us: *latency_us }).collect()
    }

    #[test]
    fn a_second_is_judged_by_its_own_slowest_write_in_a_hundred() {
        let mut all = writes(0, &[1.0; 100]);
        all.extend(writes(1000, &[1.0; 98]));
        all.extend(writes(1999, &[50_000.0; 2]));
        all.extend(writes(2000, &[50_000.0; WRITES_MIN - 1]));
        let above: Vec<bool> = seconds_of(&all, &[]).iter().map(Second::is_above).collect();
        assert_eq!(above, [false, true, false], "of the last one there are too few");
    }

    #[test]
    fn a_resync_is_at_its_floor_in_a_second_if_its_limit_was_so_low_in_it() {
        let limits = [(400, 0.0), (1400, 40.0), (1900, 10.0)]
            .map(|(at_ms, mib_per_second)| Limit { at_ms, mib_per_second });
        let all = [0, 1000, 2000].map(|at_ms| Answered { at_ms, latency_us: 1.0 });
        let at_floor: Vec<bool> = seconds_of(&all, &limits).iter().map(Second::is_at_floor).collect();
        assert_eq!(at_floor, [false, true, false]);
    }
}
