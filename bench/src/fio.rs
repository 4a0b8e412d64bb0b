//! Runs fio and reads its figures.
//!
//! Rule: a job file says what is done, never to whom; that comes from here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::Value;

use crate::process::Running;

/// Status of fio when a signal has ended its job.
const INTERRUPTED: i32 = 128;

/// A job file.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// The comment in its first line.
    pub question: String,
    text: String,
}

/// What is measured.
#[derive(Clone, Debug)]
pub enum Subject {
    /// An NBD export.
    Nbd(String),
    /// A file, past the page cache.
    File(PathBuf),
}

/// What fio found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measured {
    /// Reads, if there were any.
    pub read: Option<Direction>,
    /// Writes, if there were any.
    pub write: Option<Direction>,
    /// Flushes: latency of 50 and 99 of a hundred, microseconds, if there were any.
    pub flush_p50_us: Option<f64>,
    /// See above.
    pub flush_p99_us: Option<f64>,
    /// CPU time of fio itself, user's and system's, microseconds for each operation. The kernel's share of a request
    /// is in it as far as it is done in the name of fio; interrupts are in nobody's.
    pub client_cpu_us_per_operation: f64,
}

/// Figures of reads or of writes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Direction {
    /// How many in all.
    pub operations: f64,
    /// How many each second.
    pub iops: f64,
    /// Megabytes (1e6) each second.
    pub megabytes_per_second: f64,
    /// 50 of a hundred were faster, microseconds.
    pub p50_us: f64,
    /// 99 of a hundred were faster, microseconds.
    pub p99_us: f64,
}

impl Measured {
    fn directions(&self) -> impl Iterator<Item = &Direction> {
        self.read.iter().chain(&self.write)
    }

    /// Reads and writes in all.
    pub fn operations(&self) -> f64 {
        self.directions().map(|direction| direction.operations).sum()
    }

    /// Reads and writes each second.
    pub fn iops(&self) -> f64 {
        self.directions().map(|direction| direction.iops).sum()
    }

    /// Megabytes each second.
    pub fn megabytes_per_second(&self) -> f64 {
        self.directions().map(|direction| direction.megabytes_per_second).sum()
    }

    /// The direction whose latency is shown: writes, if there are any.
    pub fn shown(&self) -> Option<&Direction> {
        self.write.as_ref().or(self.read.as_ref())
    }
}

/// fio's version.
///
/// # Errors
/// It is not installed.
pub fn version() -> anyhow::Result<String> {
    let output = Command::new("fio").arg("--version").output();
    let output = output.context("fio is missing: `apt-get install fio` (it must have the nbd engine)")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The jobs whose name contains `only`, in the order of their names.
///
/// # Errors
/// Their folder cannot be read, or a file lacks its question.
pub fn jobs(only: &str) -> anyhow::Result<Vec<Job>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fio");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "fio"));
    files.sort();
    let mut jobs = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let question = text.lines().next().and_then(|line| line.strip_prefix("# "));
        let question =
            question.with_context(|| format!("{} does not begin with its question", file.display()))?;
        let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if name.contains(only) {
            jobs.push(Job { name, question: question.to_owned(), text });
        }
    }
    Ok(jobs)
}

/// Runs a job on a subject.
///
/// # Errors
/// fio fails, or says something unexpected.
pub fn run(
    job: &Job,
    on: &Subject,
    scratch: &Path,
    size_bytes: u64,
    seconds: u64,
) -> anyhow::Result<Measured> {
    let file = write_job(job, on, scratch, size_bytes, seconds, "")?;
    let output = Command::new("fio").arg("--output-format=json").arg(&file).current_dir(scratch).output()?;
    let complained = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "fio failed in {}: {complained}", job.name);
    // Messages may stand before the JSON.
    let said = String::from_utf8_lossy(&output.stdout);
    let json = said.find('{').and_then(|start| said.get(start..)).unwrap_or_default();
    let report: Value = serde_json::from_str(json).with_context(|| format!("fio said: {said}"))?;
    let found = report.pointer("/jobs/0").context("fio reports no job")?;
    anyhow::ensure!(found["error"] == 0, "fio met error {} in {}", found["error"], job.name);
    measured(found)
}

/// Writes a job's file for fio.
fn write_job(
    job: &Job,
    on: &Subject,
    scratch: &Path,
    size_bytes: u64,
    seconds: u64,
    more: &str,
) -> anyhow::Result<PathBuf> {
    let target = match on {
        Subject::Nbd(uri) => format!("ioengine=nbd\nuri={uri}\n"),
        Subject::File(path) => format!("ioengine=io_uring\ndirect=1\nfilename={}\n", path.display()),
    };
    let file = scratch.join("job.fio");
    let text = format!(
        "[global]\n{target}size={size_bytes}\nruntime={seconds}\ntime_based=1\nrandrepeat=0\nrefill_buffers=1\n{more}\n{}",
        job.text
    );
    std::fs::write(&file, text)?;
    Ok(file)
}

/// A write that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// How long it took, microseconds.
    pub latency_us: f64,
}

/// A client that runs beside something else, and remembers how long each write took.
#[derive(Debug)]
pub struct Client {
    fio: Running,
    log: PathBuf,
}

impl Client {
    /// Begins a job, which ends by itself after so many seconds.
    ///
    /// # Errors
    /// fio cannot be started.
    pub fn start(
        job: &Job,
        on: &Subject,
        scratch: &Path,
        size_bytes: u64,
        seconds: u64,
    ) -> anyhow::Result<Self> {
        let log = "write_lat_log=client\nlog_unix_epoch=1\n";
        let file = write_job(job, on, scratch, size_bytes, seconds, log)?;
        let mut command = Command::new("fio");
        command.arg("--output=client.out").arg(&file).current_dir(scratch);
        Ok(Self { fio: Running(command.spawn()?), log: scratch.join("client_lat.1.log") })
    }

    /// Ends it before its time.
    ///
    /// # Errors
    /// It cannot be told to.
    pub fn interrupt(&self) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.fio.0), Signal::INT)?)
    }

    /// Waits for its end; the writes in the order of their answers.
    ///
    /// # Errors
    /// It failed.
    pub fn writes(mut self) -> anyhow::Result<Vec<Answered>> {
        let status = self.fio.0.wait()?;
        let is_good = [Some(0), Some(INTERRUPTED)].contains(&status.code());
        anyhow::ensure!(is_good, "the client failed: {status}");
        let text = std::fs::read_to_string(&self.log).context("the client has no log")?;
        Ok(text.lines().filter_map(answered_write).collect())
    }
}

/// A line of fio's log of latencies: milliseconds, nanoseconds, direction and more; none if it is not of a write.
fn answered_write(line: &str) -> Option<Answered> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [at_ms, latency_ns, "1", ..] = fields[..] else { return None };
    Some(Answered { at_ms: at_ms.parse().ok()?, latency_us: latency_ns.parse::<f64>().ok()? / 1000.0 })
}

/// Which way a whole file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the disk.
    Read,
    /// To the disk, with a flush at the end.
    Write,
}

/// Moves a whole file past the page cache, 1 MiB at a time, eight at once; megabytes each second.
///
/// # Errors
/// fio fails, or says something unexpected.
pub fn transfer(way: Way, file: &Path, size_bytes: u64) -> anyhow::Result<f64> {
    let kind = match way {
        Way::Read => "read",
        Way::Write => "write",
    };
    let output = Command::new("fio")
        .args(["--output-format=json", "--name=transfer", "--ioengine=io_uring", "--direct=1"])
        .args(["--bs=1m", "--iodepth=8", "--end_fsync=1", "--randrepeat=0", "--fallocate=none"])
        .args([format!("--rw={kind}"), format!("--size={size_bytes}")])
        .arg(format!("--filename={}", file.display()))
        .output()?;
    let complained = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "fio failed: {complained}");
    let said = String::from_utf8_lossy(&output.stdout);
    let json = said.find('{').and_then(|start| said.get(start..)).unwrap_or_default();
    let report: Value = serde_json::from_str(json).with_context(|| format!("fio said: {said}"))?;
    let bytes = report.pointer(&format!("/jobs/0/{kind}/io_bytes")).and_then(Value::as_f64);
    let runtime_ms = report.pointer("/jobs/0/job_runtime").and_then(Value::as_f64);
    let (bytes, runtime_ms) = bytes.zip(runtime_ms).context("fio reports no transfer")?;
    Ok(bytes / runtime_ms.max(1.0) / 1000.0)
}

fn measured(job: &Value) -> anyhow::Result<Measured> {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let percentile_us =
        |latency: &Value, percentile: &str| number(&latency["percentile"][percentile]) / 1000.0;
    let direction = |name: &str| {
        let found = &job[name];
        let operations = number(&found["total_ios"]);
        (operations > 0.0).then(|| Direction {
            operations,
            iops: number(&found["iops"]),
            megabytes_per_second: number(&found["bw_bytes"]) / 1e6,
            p50_us: percentile_us(&found["clat_ns"], "50.000000"),
            p99_us: percentile_us(&found["clat_ns"], "99.000000"),
        })
    };
    let flush = &job["sync"]["lat_ns"];
    let flush = |percentile| flush["percentile"].is_object().then(|| percentile_us(flush, percentile));
    let (read, write) = (direction("read"), direction("write"));
    let operations: f64 = read.iter().chain(&write).map(|direction| direction.operations).sum();
    Ok(Measured {
        read,
        write,
        flush_p50_us: flush("50.000000"),
        flush_p99_us: flush("99.000000"),
        client_cpu_us_per_operation: cpu_time_us(job)? / operations.max(1.0),
    })
}

/// CPU time of fio: it says how many of a hundred parts of a job's time, milliseconds, went there.
fn cpu_time_us(job: &Value) -> anyhow::Result<f64> {
    let number = |name: &str| job[name].as_f64().with_context(|| format!("fio does not say its {name}"));
    Ok((number("usr_cpu")? + number("sys_cpu")?) / 100.0 * number("job_runtime")? * 1000.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_log_of_latencies_the_writes_count_alone() {
        let found = answered_write("2138, 353000, 1, 4096, 0").expect("a write");
        assert_eq!((found.at_ms, found.latency_us), (2138, 353.0));
        assert!(answered_write("2138, 353000, 0, 4096, 0").is_none(), "a read");
    }

    #[test]
    fn the_clients_cpu_time_is_shared_among_reads_and_writes() {
        let job = json!({
            "usr_cpu": 12.5, "sys_cpu": 37.5, "job_runtime": 2000,
            "read": {"total_ios": 30_000}, "write": {"total_ios": 70_000},
        });
        let found = measured(&job).expect("figures").client_cpu_us_per_operation;
        assert!((found - 10.0).abs() < 1e-9, "1 s for 100000 operations, not {found} µs each");
        assert!(measured(&json!({"usr_cpu": 12.5, "sys_cpu": 37.5})).is_err(), "of what time?");
    }
}
