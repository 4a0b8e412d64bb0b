//! A process that was started here.
//!
//! Rule: only such a one is ended, by its handle, however the function is left that holds it.

use std::process::Child;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

/// One that runs.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    /// Tells it to end, and waits for that.
    ///
    /// # Errors
    /// It does not end in order.
    pub fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        let status = self.0.wait()?;
        anyhow::ensure!(status.success(), "a process did not end in order: {status}");
        Ok(())
    }

    /// CPU time that it has used, microseconds.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu_time_us(&self) -> anyhow::Result<f64> {
        cpu_time_us(u64::from(self.0.id()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Has no effect on one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
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
