//! A twinblk process of the demo: its own executable again, its log in a file. It ends with the demo, however
//! the demo ends.
//!
//! Rule: only processes that were started here are ended, by their handle.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::interruption::Interruption;

/// Lines of a log that are shown when its process misbehaves.
const LOG_LINES_SHOWN: usize = 20;
/// How long an orderly end may take.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A process that runs until it is stopped or killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `twinblk ARGS` as `name`; what it says goes to the end of `log`.
    ///
    /// # Errors
    /// There is no such file, or no room for a process.
    pub fn start(name: &str, log: &Path, args: &[OsString]) -> anyhow::Result<Self> {
        let opened = File::options().create(true).append(true).open(log);
        let output = opened.with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(own_executable()?)
            .arg("end-with")
            .arg(std::process::id().to_string())
            .arg("--")
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C is for the demo, which then ends everything in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Refuses if the process has ended although nobody asked it to.
    ///
    /// # Errors
    /// It has.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} ended by itself ({status})", self.name),
        }
    }

    /// Ends it in the middle of whatever it does, as a power cut would: SIGKILL.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end in order, and waits until it has.
    ///
    /// # Errors
    /// It takes too long, or ends with an error.
    pub fn stop(mut self, interruption: &Interruption) -> anyhow::Result<()> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).context("a process has a number")?;
        kill_process(pid, Signal::TERM)?;
        let what = format!("{} ends after SIGTERM", self.name);
        let ended = interruption.wait_until(&what, STOP_LIMIT, || Ok(self.ended()?.is_some()));
        ended.with_context(|| self.log_end())?;
        match self.ended()? {
            Some(status) if status.success() => Ok(()),
            status => anyhow::bail!("{} did not end in order: {status:?}\n{}", self.name, self.log_end()),
        }
    }

    fn log_end(&self) -> String {
        log_end(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // On the way out after a failure; the process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a log, for people.
pub fn log_end(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LOG_LINES_SHOWN);
    format!("the end of {}:\n  {}", log.display(), lines[first..].join("\n  "))
}

/// Runs `twinblk ARGS` to its end.
///
/// # Errors
/// It fails; with what it said.
pub fn run_to_end(args: &[OsString]) -> anyhow::Result<()> {
    let output = Command::new(own_executable()?).args(args).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    anyhow::bail!(
        "`twinblk {}` failed: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr).trim_end()
    )
}

/// `twinblk end-with`: becomes `twinblk ARGS`, which the kernel kills when the process `parent` is gone.
///
/// # Errors
/// The parent is gone already, or the kernel refuses.
pub fn end_with(parent: u32, args: &[OsString]) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before the kernel was told to watch it.
    let is_there =
        rustix::process::getppid().is_some_and(|pid| u32::try_from(pid.as_raw_pid()) == Ok(parent));
    anyhow::ensure!(is_there, "process {parent} is not the parent of this one");
    let error = Command::new(own_executable()?).args(args).exec();
    Err(error).context("cannot become the command")
}

fn own_executable() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find the own executable")
}

/// Words of a command line.
pub fn words(list: &[&dyn AsRef<OsStr>]) -> Vec<OsString> {
    list.iter().map(|word| word.as_ref().to_owned()).collect()
}
