//! Runs seeds and prints how to repeat what fails. Every seed runs in a child process or is reported by it
//! before it begins, so that a broken assert ends that seed and no other.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "usage: sim --seeds N [--start S] | --seed X [--trace]";

/// What the command line asks for.
struct Asked {
    first: u64,
    count: u64,
    trace: bool,
    is_child: bool,
}

fn parse(arguments: &[String]) -> Option<Asked> {
    let mut asked = Asked { first: 0, count: 0, trace: false, is_child: false };
    let mut left = arguments.iter();
    while let Some(argument) = left.next() {
        let mut number = || left.next().and_then(|value| value.parse::<u64>().ok());
        match argument.as_str() {
            "--seeds" => asked.count = number()?,
            "--start" => asked.first = number()?,
            "--seed" => {
                (asked.first, asked.count, asked.is_child) = (number()?, 1, true);
            }
            "--trace" => asked.trace = true,
            "--child" => asked.is_child = true,
            _ => return None,
        }
    }
    (asked.count > 0).then_some(asked)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(asked) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if asked.is_child {
        for seed in asked.first..asked.first + asked.count {
            println!("seed {seed}");
            let _ = std::io::stdout().flush();
            sim::random_run::run(seed, asked.trace);
        }
        return ExitCode::SUCCESS;
    }
    let failed = run_in_children(&asked);
    println!("{} seeds, {} violations", asked.count, failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One child runs seeds until one fails; the next child goes on behind it.
fn run_in_children(asked: &Asked) -> Vec<u64> {
    let (mut next, end) = (asked.first, asked.first + asked.count);
    let mut failed = Vec::new();
    let program = std::env::current_exe().expect("the program has a path");
    while next < end {
        let mut child = Command::new(&program)
            .args(["--child", "--start", &next.to_string(), "--seeds", &(end - next).to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child process can be started");
        let errors = child.stderr.take().expect("it is a pipe");
        let reasons = std::thread::spawn(move || {
            BufReader::new(errors).lines().map_while(Result::ok).take(400).collect::<Vec<_>>()
        });
        let output = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let begun =
            output.lines().map_while(Result::ok).filter_map(|line| line.strip_prefix("seed ")?.parse().ok());
        let last = begun.last().unwrap_or(next);
        let reasons = reasons.join().expect("reading lines does not fail");
        if child.wait().expect("the child was started").success() {
            return failed;
        }
        let reason: Vec<_> =
            reasons.iter().filter(|line| !line.trim().is_empty()).take(10).cloned().collect();
        println!("{}\n  repeat: cargo run --release -p sim -- --seed {last} --trace", reason.join("\n  "));
        failed.push(last);
        next = last + 1;
    }
    failed
}
