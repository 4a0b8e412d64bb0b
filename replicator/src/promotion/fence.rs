//! What the end of a fence command proves (semantics §3; the numbers are those of DRBD's `fence-peer`).
//!
//! Rule: what is not in the table proves nothing. Statuses 5 and 7 prove that the peer is silent, never that the data
//! here is the newest.

use crate::event::FenceEnd;

/// What is known of a peer that cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// Its disk is Inconsistent or worse: it cannot be promoted.
    Inconsistent,
    /// It is outdated, or kept from being promoted; or it asked to leave before it stopped.
    Outdated,
    /// It cannot be reached, and is taken for down.
    Down,
    /// It is Primary: this node is the one to give way.
    Primary,
    /// It was shot.
    Shot,
    /// Nothing.
    Unknown,
}

/// One exit status.
#[derive(Clone, Copy, Debug)]
pub struct FenceRow {
    /// The status.
    pub exit_status: i32,
    /// What it proves.
    pub fenced: Fenced,
    /// In words.
    pub text: &'static str,
}

/// Every exit status that proves something.
pub const FENCE_ROWS: [FenceRow; 5] = [
    FenceRow {
        exit_status: 3,
        fenced: Fenced::Inconsistent,
        text: "the peer's disk is Inconsistent or worse",
    },
    FenceRow {
        exit_status: 4,
        fenced: Fenced::Outdated,
        text: "the peer is outdated, or kept from being promoted",
    },
    FenceRow {
        exit_status: 5,
        fenced: Fenced::Down,
        text: "the peer cannot be reached and is taken for down",
    },
    FenceRow { exit_status: 6, fenced: Fenced::Primary, text: "the peer is Primary" },
    FenceRow { exit_status: 7, fenced: Fenced::Shot, text: "the peer was shot" },
];

/// What the end of a fence command proves, and a sentence about it.
#[must_use]
pub fn meaning(end: &FenceEnd) -> (Fenced, String) {
    let row = FENCE_ROWS.iter().find(|row| *end == FenceEnd::Exited(row.exit_status));
    match row {
        Some(row) => (row.fenced, format!("exit status {}: {}", row.exit_status, row.text)),
        None => (Fenced::Unknown, format!("{end}, which proves nothing")),
    }
}

impl Fenced {
    /// Whether a node may be Primary without the peer: `knows_newest` says whether it is known by other means that no
    /// copy is newer than its own.
    #[must_use]
    pub fn frees(self, knows_newest: bool) -> bool {
        match self {
            Self::Inconsistent | Self::Outdated => true,
            Self::Down | Self::Shot => knows_newest,
            Self::Primary | Self::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;

    #[test]
    fn only_the_statuses_of_the_table_prove_anything() {
        for status in -1..=255 {
            let (fenced, _) = meaning(&FenceEnd::Exited(status));
            assert_eq!(fenced != Fenced::Unknown, (3..=7).contains(&status), "{status}");
        }
        for end in [
            FenceEnd::Signalled(9),
            FenceEnd::TimedOut(Span::from_millis(1)),
            FenceEnd::NotRun("no such file".to_owned()),
        ] {
            assert!(!meaning(&end).0.frees(true), "{end}");
        }
    }

    #[test]
    fn a_silent_peer_proves_nothing_about_the_data_here() {
        for fenced in [Fenced::Down, Fenced::Shot] {
            assert!(fenced.frees(true) && !fenced.frees(false));
        }
        for fenced in [Fenced::Inconsistent, Fenced::Outdated] {
            assert!(fenced.frees(false));
        }
        assert!(!Fenced::Primary.frees(true) && !Fenced::Unknown.frees(true));
    }
}
