//! Runs seeds and prints how to repeat what fails. Seeds run in child processes, so that a broken assert ends that seed
//! and no other.
#![forbid(unsafe_code)]

mod children;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use sim::swarm::Scope;

const USAGE: &str =
    "usage: sim --seeds N [--start S] [--program PATH] [--everything] | --seed X [--trace] [--everything]";

/// What the command line asks for.
struct Asked {
    /// Nothing: fresh ones.
    first: Option<u64>,
    count: u64,
    trace: bool,
    scope: Scope,
    is_child: bool,
    /// What runs the seeds, for example an older build; this program if it is not said.
    program: Option<PathBuf>,
}

fn parse(arguments: &[String]) -> Option<Asked> {
    let scope = Scope::default();
    let mut asked = Asked { first: None, count: 0, trace: false, scope, is_child: false, program: None };
    let mut left = arguments.iter();
    while let Some(argument) = left.next() {
        if argument == "--program" {
            asked.program = Some(PathBuf::from(left.next()?));
            continue;
        }
        let mut number = || left.next().and_then(|value| value.parse::<u64>().ok());
        match argument.as_str() {
            "--seeds" => asked.count = number()?,
            "--start" => asked.first = Some(number()?),
            "--seed" => {
                (asked.first, asked.count, asked.is_child) = (Some(number()?), 1, true);
            }
            "--everything" => asked.scope = Scope::Everything,
            "--trace" => asked.trace = true,
            "--child" => asked.is_child = true,
            _ => return None,
        }
    }
    (asked.count > 0).then_some(asked)
}

/// Seeds that nobody has run before, in all likelihood.
fn fresh() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or_default() * 1000
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(asked) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let first = asked.first.unwrap_or_else(fresh);
    if asked.is_child {
        for seed in first..first + asked.count {
            println!("{}{seed}", children::BEGINS);
            let _ = std::io::stdout().flush();
            let coverage = sim::random_run::run(seed, asked.scope, asked.trace);
            println!("{}{}", children::ENDS, coverage.line());
        }
        return ExitCode::SUCCESS;
    }
    println!("seeds {first} to {}", first + asked.count - 1);
    let own = || std::env::current_exe().expect("the program has a path");
    let (failed, distribution) =
        children::run(&asked.program.unwrap_or_else(own), asked.scope, first, asked.count);
    print!("{}", distribution.table());
    println!("{} seeds, {failed} violations", asked.count);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
