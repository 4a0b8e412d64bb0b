//! `twinblk status` and `twinblk role`: what a daemon says of itself, for people or as JSON.

use std::io::Write;

use anyhow::Context;
use serde_json::Value;

use super::args::{Places, ResourceArgs, StatusArgs};
use super::client::{Client, no_daemon_at_all, resources_with_socket};
use super::exit::{Answer, Ended, Status};
use super::render::{self, Colour};
use super::report::Report;

/// `twinblk status`
pub fn run(places: &Places, args: &StatusArgs) -> anyhow::Result<()> {
    match &args.resource {
        Some(resource) => {
            let report = snapshot(places, resource)?;
            if args.json { print_json(&report) } else { print_for_people(report) }
        }
        None => all(places, args.json),
    }
}

/// `twinblk role`
pub fn role(places: &Places, args: &ResourceArgs) -> anyhow::Result<Answer> {
    let report = parse(snapshot(places, &args.resource)?)?;
    Ok(Answer::Text(report.role))
}

/// Every daemon that answers; the ones that do not are named at the end.
fn all(places: &Places, json: bool) -> anyhow::Result<()> {
    let resources = resources_with_socket(&places.run_dir);
    let mut reports = Vec::new();
    let mut silent = Vec::new();
    for resource in &resources {
        match snapshot(places, resource) {
            Ok(report) => reports.push(report),
            Err(error) => silent.push(format!("{error:#}")),
        }
    }
    if json {
        print_json(&Value::Array(reports))?;
    } else {
        for report in reports {
            print_for_people(report)?;
        }
    }
    if resources.is_empty() {
        return Err(no_daemon_at_all(places));
    }
    if silent.is_empty() { Ok(()) } else { Err(Ended::with(Status::Configuration, silent.join("\n"))) }
}

fn snapshot(places: &Places, resource: &str) -> anyhow::Result<Value> {
    Client::connect(places, resource)?.status()
}

/// The part of a report that people see.
pub fn parse(report: Value) -> anyhow::Result<Report> {
    serde_json::from_value(report).context("the daemon's report is of another release; try --json")
}

fn print_for_people(report: Value) -> anyhow::Result<()> {
    let text = render::status(&parse(report)?, Colour::for_stdout());
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Prints a value over several lines.
pub fn print_json(value: &Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
