//! The version of the on-disk format. One number for all structures of a node; every change of a byte's
//! meaning makes a new one and a line in the history.

/// The version that this program writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// One line of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatChange {
    /// The version that the change made.
    pub version: u32,
    /// What a node of an older version would have misread.
    pub change: &'static str,
}

/// Every version so far, oldest first; docs/FORMAT.md shows the same lines.
pub const HISTORY: &[FormatChange] = &[FormatChange { version: 1, change: "The first format." }];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_ends_with_the_version_that_is_written() {
        assert_eq!(HISTORY.last().map(|line| line.version), Some(FORMAT_VERSION));
    }
}
