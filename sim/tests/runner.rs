//! The program that runs seeds in children: whatever becomes of a child, its seed counts, and the last line says so.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A child that does this with each seed that it is to run, in place of the simulator.
fn child(name: &str, with_each: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let script = format!(
        "#!/bin/sh\nfor seed in $(seq $3 $(($3 + $5 - 1))); do\n  echo \"seed $seed\"\n  {with_each}\n  echo \"reached promotions=1\"\ndone\n"
    );
    std::fs::write(&path, script).expect("a scratch file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

fn run(arguments: &[&str]) -> (Output, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().expect("it runs");
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    let last = text.lines().last().unwrap_or_default().to_owned();
    (output, text, last)
}

fn run_children(name: &str, with_each: &str) -> (Output, String, String) {
    let program = child(name, with_each);
    run(&["--seeds", "9", "--start", "100", "--program", program.to_str().expect("text")])
}

#[test]
fn a_child_that_aborts_is_a_violation_of_the_seed_that_it_ran_and_of_no_other() {
    let (output, text, last) =
        run_children("aborts", "if [ $seed = 104 ]; then echo broken >&2; kill -ABRT $$; fi");
    assert!(!output.status.success());
    assert_eq!(last, "9 seeds, 1 violations", "{text}");
    assert!(text.contains("broken\n  repeat: cargo run --release -p sim -- --seed 104 --trace"), "{text}");
    let promotions = text.lines().find(|line| line.starts_with("promotions ")).expect("it is in the table");
    assert!(promotions.contains("in       8 seeds"), "{promotions}");
}

#[test]
fn a_child_that_ends_by_itself_with_an_error_is_a_violation_too_and_one_that_does_not_is_none() {
    let (output, text, last) = run_children("fails", "if [ $seed -gt 106 ]; then exit 3; fi");
    assert!(!output.status.success());
    assert_eq!(last, "9 seeds, 2 violations", "{text}");
    let (output, text, last) = run_children("works", "");
    assert!(output.status.success(), "{text}");
    assert_eq!(last, "9 seeds, 0 violations", "{text}");
}

#[test]
fn a_seed_runs_in_a_child_and_what_it_got_to_is_printed() {
    let (output, text, last) = run(&["--seeds", "1", "--start", "1"]);
    assert!(output.status.success(), "{text}");
    assert_eq!(last, "1 seeds, 0 violations", "{text}");
    let names = [
        "promotions",
        "forced promotions",
        "freezes",
        "catch-ups",
        "bitmap resyncs",
        "full resyncs",
        "split brains",
        "cuts",
        "fence runs",
    ];
    for name in names {
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name} is not in\n{text}");
    }
}
