//! Refusals: what the state of the node forbids, with the reason and the cure. One row per case.

use serde::Serialize;

/// Exit status of a refused command, as drbdadm has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RefusalCode {
    /// 11: the state does not allow it.
    StateChange,
    /// 17: there is no UpToDate data to be had.
    NoUpToDateData,
    /// 5: it did not come true in the time given.
    TimedOut,
    /// 5: the disk is Inconsistent or worse (`outdate`).
    DiskUnusable,
}

impl RefusalCode {
    /// The exit status.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::StateChange => 11,
            Self::NoUpToDateData => 17,
            Self::TimedOut | Self::DiskUnusable => 5,
        }
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Decides the exit status.
    pub code: RefusalCode,
    /// Stable name, for example `peer-is-primary`.
    pub name: &'static str,
    /// Why, with values.
    pub reason: String,
    /// What to do about it.
    pub cure: String,
}
