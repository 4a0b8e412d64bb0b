//! Foreign programs: whether they are there, and running them.

use std::process::{Command, Output, Stdio};

use crate::harness::skips;

/// The system's Python: Debian's libnbd belongs to it, and another one may come first in the path.
pub const PYTHON: &str = "/usr/bin/python3";

/// Whether a tool is installed. Says so if not, and fails where skipping is not allowed.
pub fn is_there(tool: &str) -> bool {
    let answers = |tool: &str, args: &[&str]| {
        let output = Command::new(tool).args(args).stdin(Stdio::null()).output();
        output.is_ok_and(|output| output.status.success())
    };
    let (found, package) = match tool {
        PYTHON => (answers(PYTHON, &["-c", "import nbd"]), "python3-libnbd"),
        other => (answers(other, &["--version"]), other),
    };
    if found {
        return true;
    }
    skips::skip(&format!("{package} is missing or broken"));
    false
}

/// Runs a tool to its end.
pub fn run(tool: &str, args: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("120").arg(tool).args(args).stdin(Stdio::null());
    command.output().expect("timeout is part of every Debian")
}

/// Runs a tool that must succeed; gives what it says.
pub fn expect(tool: &str, args: &[&str]) -> String {
    let output = run(tool, args);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {args:?}: {}\n{said}\n{complained}", output.status);
    said
}

/// Runs a tool that must fail; gives what it complains of.
pub fn expect_failure(tool: &str, args: &[&str]) -> String {
    let output = run(tool, args);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{tool} {args:?} succeeded: {said}");
    assert_ne!(output.status.code(), Some(124), "{tool} {args:?} hung");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
