//! On what was measured: figures of different machines, kernels or commits are not compared.

use std::process::Command;

use serde::Serialize;

/// A machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Machine {
    /// Its processor.
    pub processor: String,
    /// How many processors this process may use.
    pub processors: usize,
    /// Kernel release.
    pub kernel: String,
}

/// This machine.
pub fn describe() -> Machine {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    Machine {
        processor: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned()),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
    }
}

/// The commit that is checked out, `+` behind it if files differ from it.
pub fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let is_changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    if is_changed { format!("{commit}+") } else { commit }
}
