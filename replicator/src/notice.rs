//! What a replica tells whoever watches: one line in the log, one event in the stream. Never a control flow.

use serde::Serialize;

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A change of state.
    Info,
    /// Something an operator should know.
    Warning,
    /// Something an operator must act upon.
    Error,
}

/// One notice: a stable name to search for, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// How much it matters.
    pub severity: Severity,
    /// Stable name, for example `role-changed`.
    pub name: &'static str,
    /// For people, with values.
    pub text: String,
}

impl Notice {
    /// A change of state.
    #[must_use]
    pub fn info(name: &'static str, text: String) -> Self {
        Self { severity: Severity::Info, name, text }
    }

    /// Something an operator should know.
    #[must_use]
    pub fn warning(name: &'static str, text: String) -> Self {
        Self { severity: Severity::Warning, name, text }
    }

    /// Something an operator must act upon.
    #[must_use]
    pub fn error(name: &'static str, text: String) -> Self {
        Self { severity: Severity::Error, name, text }
    }
}
