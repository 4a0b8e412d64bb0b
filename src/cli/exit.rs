//! How a command ends: the exit statuses, and the text that goes with them.
//!
//! Rule: the numbers are drbdadm's, so that cluster scripts carry over.

use std::process::ExitCode;

use crate::config_file::ConfigError;

/// Exit statuses; wrong usage (2) ends in the parser already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 1: no number of its own.
    Failed,
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
    /// The number.
    pub fn number(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::TimedOut => 5,
            Self::Configuration => 10,
            Self::Refused => 11,
            Self::Given(number) => number,
        }
    }
}

/// A command that did not do what was asked: why, and its exit status.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Ended {
    /// The exit status.
    pub status: Status,
    /// Why, and what to type instead.
    pub text: String,
}

impl Ended {
    /// An end with this status.
    pub fn with(status: Status, text: impl Into<String>) -> anyhow::Error {
        Self { status, text: text.into() }.into()
    }
}

/// Prints why a command ended and gives the exit status.
pub fn report(outcome: &anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let is_closed_pipe = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    if error.downcast_ref::<std::io::Error>().is_some_and(is_closed_pipe) {
        // Whoever read our output (`head`, say) has seen enough.
        return ExitCode::SUCCESS;
    }
    // Mistakes in a file begin with file and line, so that editors find them.
    let is_located = matches!(error.downcast_ref::<ConfigError>(), Some(ConfigError::Problems(_)));
    if is_located {
        eprintln!("{error:#}");
    } else {
        eprintln!("twinblk: {error:#}");
    }
    ExitCode::from(status_of(error).number())
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
}
