//! Child processes that run seeds, one on each processor. A child that dies, or says nothing for too long, is a violation
//! of the seed that it was running; another one goes on behind that.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use sim::coverage::Distribution;
use sim::swarm::Scope;

/// What a child says before a seed.
pub const BEGINS: &str = "seed ";
/// What it says after it, before what the seed got to.
pub const ENDS: &str = "reached ";

/// Seeds that one child runs.
const BATCH: u64 = 100;
/// How long one seed may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Lines of a child's last words that are printed.
const LINES_SHOWN: usize = 12;

/// What runs the seeds.
#[derive(Clone, Copy)]
struct Program<'a> {
    path: &'a Path,
    scope: Scope,
}

impl Program<'_> {
    fn scope_argument(self) -> Option<&'static str> {
        (self.scope == Scope::Everything).then_some("--everything")
    }
}

/// What is left to do and what came of the rest.
struct Work {
    next: u64,
    end: u64,
    failed: u64,
    distribution: Distribution,
}

/// Has a program run seeds on all processors. Returns how many failed, and what all got to.
pub fn run(program: &Path, scope: Scope, first: u64, count: u64) -> (u64, Distribution) {
    let program = Program { path: program, scope };
    let work = Mutex::new(Work {
        next: first,
        end: first + count,
        failed: 0,
        distribution: Distribution::default(),
    });
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|threads| {
        for _ in 0..processors {
            threads.spawn(|| run_batches(program, &work));
        }
    });
    let work = work.into_inner().expect("no thread dies");
    (work.failed, work.distribution)
}

fn run_batches(program: Program<'_>, work: &Mutex<Work>) {
    loop {
        let (mut next, end) = {
            let mut work = work.lock().expect("no thread dies");
            let next = work.next;
            work.next = (next + BATCH).min(work.end);
            (next, work.next)
        };
        if next == end {
            return;
        }
        while next < end {
            next = run_child(program, work, next, end);
        }
    }
}

/// Runs one child. Returns the seed that the next one begins with.
fn run_child(program: Program<'_>, work: &Mutex<Work>, first: u64, end: u64) -> u64 {
    let mut child = Command::new(program.path)
        .args(["--child", "--start", &first.to_string(), "--seeds", &(end - first).to_string()])
        .args(program.scope_argument())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child process can be started");
    let errors = child.stderr.take().expect("it is a pipe");
    let reasons = std::thread::spawn(move || lines_of(errors));
    let lines = follow(&mut child);
    let mut seed = first;
    let mut hangs = false;
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                if let Some(number) = line.strip_prefix(BEGINS).and_then(|number| number.parse().ok()) {
                    seed = number;
                } else if let Some(reached) = line.strip_prefix(ENDS) {
                    work.lock().expect("no thread dies").distribution.add(reached);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                hangs = true;
                let _ = child.kill();
                break;
            }
        }
    }
    let has_ended_well = child.wait().expect("the child was started").success();
    let mut reasons = reasons.join().expect("reading lines does not fail");
    if has_ended_well {
        return end;
    }
    if hangs {
        reasons.insert(0, format!("violation: no end after {} s", PATIENCE.as_secs()));
    }
    let mut work = work.lock().expect("no thread dies");
    work.failed += 1;
    println!(
        "{}\n  repeat: cargo run --release -p sim -- --seed {seed} --trace{}",
        reasons.join("\n  "),
        program.scope_argument().map_or(String::new(), |scope| format!(" {scope}"))
    );
    seed + 1
}

fn follow(child: &mut Child) -> Receiver<String> {
    let output = BufReader::new(child.stdout.take().expect("it is a pipe"));
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The last words of a child; all of them are read, so that it never waits.
fn lines_of(errors: impl Read) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        if !line.trim().is_empty() && lines.len() < LINES_SHOWN {
            lines.push(line);
        }
    }
    lines
}
