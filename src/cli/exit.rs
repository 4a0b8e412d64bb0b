//! How a command ends: the exit statuses, and the text or JSON that goes with them.
//!
//! Rule: the numbers are drbdadm's, so that cluster scripts carry over. Every answer that is a text, and every refusal,
//! is printed here.

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

use crate::config_file::ConfigError;

/// Exit statuses. Most wrong usage ends in the parser already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 1: no number of its own.
    Failed,
    /// 2: wrong usage that the parser does not see.
    Usage,
    /// 5: it did not come true in the time given.
    TimedOut,
    /// 10: a mistake in the configuration, or no daemon.
    Configuration,
    /// 11: the state does not allow it.
    Refused,
    /// As the daemon says.
    Given(u8),
}

impl Status {
    /// What programs call an end that has no name of its own.
    fn name(self) -> &'static str {
        match self {
            Self::Failed | Self::Given(_) => "failed",
            Self::TimedOut => "timed-out",
            Self::Configuration => "configuration",
            Self::Refused => "refused",
            Self::Usage => "usage",
        }
    }

    /// The number.
    pub fn number(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::TimedOut => 5,
            Self::Configuration => 10,
            Self::Refused => 11,
            Self::Given(number) => number,
        }
    }
}

/// A command that did not do what was asked: why, and its exit status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.for_people())]
pub struct Ended {
    /// The exit status.
    pub status: Status,
    /// What people read before the reason: who refuses.
    prefix: String,
    /// A name of the case that never changes, for programs.
    name: String,
    /// Why.
    reason: String,
    /// What to type instead.
    action: Option<String>,
}

impl Ended {
    /// An end with this status.
    pub fn with(status: Status, reason: impl Into<String>) -> anyhow::Error {
        Self::new(status, reason.into(), None).into()
    }

    /// An end with this status, and what to type instead.
    pub fn advised(status: Status, reason: impl Into<String>, action: impl Into<String>) -> anyhow::Error {
        Self::new(status, reason.into(), Some(action.into())).into()
    }

    /// A refusal of the daemon of `resource`.
    pub fn refused(resource: &str, number: u8, name: String, reason: String, cure: String) -> anyhow::Error {
        let prefix = format!("{resource}: refused ({name}): ");
        Self { status: Status::Given(number), prefix, name, reason, action: Some(cure) }.into()
    }

    fn new(status: Status, reason: String, action: Option<String>) -> Self {
        Self { status, prefix: String::new(), name: status.name().to_owned(), reason, action }
    }

    fn for_people(&self) -> String {
        let action = self.action.as_ref().map(|action| format!("\n  action: {action}")).unwrap_or_default();
        format!("{}{}{action}", self.prefix, self.reason)
    }
}

/// What is left to be said when a command has done what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: the command has printed it all.
    Said,
    /// This text.
    Text(String),
}

/// How a command says what has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people: an answer on stdout, a refusal on stderr.
    Text,
    /// For programs: either as a line of JSON on stdout.
    Json,
}

/// A command that is over.
#[derive(Debug)]
pub struct Outcome {
    /// The resource that it was about, if it was about one.
    pub resource: Option<String>,
    /// How to say it.
    pub format: Format,
    /// What has become of it.
    pub result: anyhow::Result<Answer>,
}

/// The answer as programs read it.
#[derive(Serialize)]
struct Done<'a> {
    schema: u32,
    resource: Option<&'a str>,
    ok: bool,
    text: &'a str,
}

/// The refusal as programs read it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct NotDone<'a> {
    schema: u32,
    resource: Option<&'a str>,
    ok: bool,
    name: &'a str,
    reason: &'a str,
    action: Option<&'a str>,
    exit_status: u8,
}

/// Version of both; it grows when a key changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// Says what has become of a command, and gives its exit status.
pub fn report(outcome: &Outcome) -> ExitCode {
    match &outcome.result {
        Ok(Answer::Said) => ExitCode::SUCCESS,
        Ok(Answer::Text(text)) => {
            let line = match outcome.format {
                Format::Text => text.clone(),
                Format::Json => done_as_json(outcome.resource.as_deref(), text),
            };
            printed(&line, ExitCode::SUCCESS)
        }
        Err(error) => report_error(outcome, error),
    }
}

fn report_error(outcome: &Outcome, error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<std::io::Error>().is_some_and(is_closed_pipe) {
        return ExitCode::SUCCESS;
    }
    let status = ExitCode::from(status_of(error).number());
    match outcome.format {
        Format::Json => printed(&error_as_json(outcome.resource.as_deref(), error), status),
        Format::Text => {
            // Mistakes in a file begin with file and line, so that editors find them.
            if matches!(error.downcast_ref::<ConfigError>(), Some(ConfigError::Problems(_))) {
                eprintln!("{error:#}");
            } else {
                eprintln!("twinblk: {error:#}");
            }
            status
        }
    }
}

fn done_as_json(resource: Option<&str>, text: &str) -> String {
    as_json(&Done { schema: SCHEMA, resource, ok: true, text })
}

fn error_as_json(resource: Option<&str>, error: &anyhow::Error) -> String {
    let other;
    let ended = match error.downcast_ref::<Ended>() {
        Some(ended) => ended,
        None => {
            other = Ended::new(status_of(error), format!("{error:#}"), None);
            &other
        }
    };
    as_json(&NotDone {
        schema: SCHEMA,
        resource,
        ok: false,
        name: &ended.name,
        reason: &ended.reason,
        action: ended.action.as_deref(),
        exit_status: ended.status.number(),
    })
}

fn as_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("it has only string keys")
}

/// Prints a line, and gives `status` unless that fails.
fn printed(line: &str, status: ExitCode) -> ExitCode {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => status,
        Err(error) if is_closed_pipe(&error) => status,
        Err(error) => {
            eprintln!("twinblk: cannot print the answer: {error}");
            ExitCode::from(Status::Failed.number())
        }
    }
}

/// Whoever read our output (`head`, say) has seen enough.
fn is_closed_pipe(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::BrokenPipe
}

fn status_of(error: &anyhow::Error) -> Status {
    if let Some(ended) = error.downcast_ref::<Ended>() {
        return ended.status;
    }
    if error.is::<ConfigError>() { Status::Configuration } else { Status::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_the_configuration_is_10_and_an_unknown_error_is_1() {
        let unreadable = ConfigError::Unreadable { file: "x".into(), error: std::io::Error::other("no") };
        assert_eq!(status_of(&unreadable.into()).number(), 10);
        assert_eq!(status_of(&anyhow::anyhow!("else")).number(), 1);
        assert_eq!(status_of(&Ended::with(Status::Given(17), "no data")).number(), 17);
    }

    #[test]
    fn an_answer_and_a_refusal_are_one_line_of_json_with_the_parts_that_people_read() {
        assert_eq!(
            done_as_json(Some("mail"), "mail is \"Primary\""),
            r#"{"schema":1,"resource":"mail","ok":true,"text":"mail is \"Primary\""}"#
        );
        let refused = Ended::refused("mail", 11, "in-use".into(), "clients: 2".into(), "go".into());
        assert_eq!(refused.to_string(), "mail: refused (in-use): clients: 2\n  action: go");
        assert_eq!(
            error_as_json(Some("mail"), &refused),
            r#"{"schema":1,"resource":"mail","ok":false,"name":"in-use","reason":"clients: 2","action":"go","exit-status":11}"#
        );
        let other = anyhow::anyhow!("inner").context("outer");
        assert_eq!(
            error_as_json(None, &other),
            r#"{"schema":1,"resource":null,"ok":false,"name":"failed","reason":"outer: inner","action":null,"exit-status":1}"#
        );
    }
}
