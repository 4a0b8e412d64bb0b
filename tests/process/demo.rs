//! `twinblk demo` as a user types it: the trial, and the playground.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{SOON, TWINBLK};
use crate::volume::Volume;

const LOOK_EVERY: Duration = Duration::from_millis(10);
const LINES_MAX: usize = 1000;

/// The demo, which ends with the process of the tests however that ends.
fn demo() -> Command {
    let mut command = Command::new(TWINBLK);
    command.args(["end-with", &std::process::id().to_string(), "--", "demo"]).stdin(Stdio::null());
    command
}

/// What is in a folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("listed").path()).collect()
}

/// Processes whose command lines name `path`.
fn processes_that_name(path: &Path) -> Vec<String> {
    let path = path.to_str().expect("temporary folders have plain names");
    // A process may end between being listed and being looked at.
    let lines = entries(Path::new("/proc")).into_iter();
    let lines = lines.filter_map(|process| std::fs::read(process.join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(path)).collect()
}

fn wait_for_end(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().expect("asked") {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

#[test]
fn a_trial_with_a_death_loses_nothing_says_so_in_json_and_leaves_its_disks_behind_if_asked_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = ["--seconds", "4", "--kills", "1", "--seed", "7", "--json", "--keep", "--dir"];
    let output = demo().args(args).arg(folder.path()).output().expect("the executable");
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}\n{told}");
    let figures: Value = serde_json::from_str(&said).expect("JSON and nothing else");
    assert_eq!(figures["seed"], 7, "{figures:#}");
    assert_eq!(figures["lost-messages"], 0, "{figures:#}");
    assert_eq!(figures["different-blocks"], 0, "{figures:#}");
    assert_eq!(figures["checked-messages"], figures["acknowledged-messages"], "{figures:#}");
    assert!(figures["acknowledged-messages"].as_u64().is_some_and(|messages| messages > 0), "{figures:#}");
    assert_eq!(figures["takeovers"].as_array().map(Vec::len), Some(1), "{figures:#}");
    assert_eq!(figures["takeovers"][0]["killed"], "a", "{figures:#}");

    let kept = entries(folder.path());
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(told.contains(&format!("disks and logs: {}\n", kept[0].display())), "{told}");
    for node in ["a", "b"] {
        for file in ["data", "metadata", "log"] {
            assert!(kept[0].join(node).join(file).is_file(), "{node}/{file}");
        }
    }
    assert_eq!(processes_that_name(folder.path()), [""; 0]);
}

/// Waits until a playground has said where it serves.
fn uri_of(playground: &mut Child) -> String {
    let output = BufReader::new(playground.stdout.take().expect("asked for"));
    let (sender, lines) = sync_channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in output.lines() {
            // Nobody listens any more once the place is known.
            let _ = sender.send(line.expect("text"));
        }
    });
    loop {
        let line = lines.recv_timeout(4 * SOON).expect("it comes up");
        if let Some(uri) = line.trim_start().strip_prefix("the disk ") {
            return uri.trim().to_owned();
        }
    }
}

#[test]
fn a_playground_serves_where_it_says_until_it_is_interrupted_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let sockets = tempfile::tempdir().expect("a folder");
    let socket = sockets.path().join("playground");
    let mut command = demo();
    command.arg("--serve").arg("--socket").arg(&socket).args(["--size", "64M", "--dir"]).arg(folder.path());
    let mut playground = command.stdout(Stdio::piped()).spawn().expect("room for a process");
    let uri = uri_of(&mut playground);
    assert_eq!(uri, format!("nbd+unix:///demo?socket={}", socket.display()));

    let mut volume = Volume::connect(&socket, "demo").expect("it serves");
    for offset in [0, 1000, (64 << 20) - 9000] {
        volume.write_and_flush(offset, &[9; 9000]).expect("written");
        assert_eq!(volume.read(offset, 9000).expect("readable"), [9; 9000]);
    }
    assert!(volume.read(64 << 20, 1).is_err(), "the disk is as large as was asked for");
    drop(volume);
    assert!(!processes_that_name(folder.path()).is_empty());

    kill_process(Pid::from_child(&playground), Signal::INT).expect("it runs");
    let status = wait_for_end(&mut playground);
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(entries(folder.path()), [""; 0].map(PathBuf::from));
    assert_eq!(entries(sockets.path()), [""; 0].map(PathBuf::from));
    assert_eq!(processes_that_name(folder.path()), [""; 0]);
}
