//! The pair that is measured: `twinblk demo --serve`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A pair that serves.
#[derive(Debug)]
pub struct Playground {
    /// Where it serves.
    pub uri: String,
    child: Child,
    daemons: Vec<u64>,
}

impl Playground {
    /// Starts one, and waits until it serves.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(binary: &Path, folder: &Path, size_bytes: u64) -> anyhow::Result<Self> {
        let child = Command::new(binary)
            .args(["demo", "--serve", "--json", "--size", &size_bytes.to_string(), "--dir"])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn();
        let child = child.with_context(|| format!("cannot start {}", binary.display()))?;
        // From here on it is ended however this function is left.
        let mut playground = Self { uri: String::new(), child, daemons: Vec::new() };
        let output = playground.child.stdout.take().context("the output was asked for")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).context("the pair did not come up")?;
        playground.uri = said["uri"].as_str().context("it says where it serves")?.to_owned();
        let nodes = said["nodes"].as_array().context("it names its nodes")?;
        playground.daemons = nodes.iter().filter_map(|node| node["pid"].as_u64()).collect();
        Ok(playground)
    }

    /// CPU time that both daemons have used, microseconds.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn cpu_time_us(&self) -> anyhow::Result<f64> {
        self.daemons.iter().map(|pid| cpu_time_us(*pid)).sum()
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It does not end in order.
    pub fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "the pair did not end in order: {status}");
        Ok(())
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        // Has no effect on one that has ended; the daemons end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time that a process has used, microseconds.
///
/// # Errors
/// It is gone.
pub fn cpu_time_us(pid: u64) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("a daemon has ended")?;
    // Behind the name, which stands in brackets: state, then numbers; user and system time are 12th and 13th.
    let behind = text.rsplit_once(')').context("a name in brackets")?.1;
    let times = behind.split_whitespace().skip(11).take(2);
    let ticks = times.filter_map(|time| time.parse::<u32>().ok()).sum::<u32>();
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
    Ok(f64::from(ticks) * 1e6 / f64::from(per_second))
}
