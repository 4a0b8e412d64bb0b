//! How an outcome of the server becomes an error number on the wire: the one place where that is decided.
//!
//! Only the numbers of the document exist on the wire [Error values]. What a failure means for the volume is not
//! known here. `NBD_ENOMEM` is never sent: this server waits for memory instead.

use crate::constants::{
    NBD_EINVAL, NBD_EIO, NBD_ENOSPC, NBD_ENOTSUP, NBD_EOVERFLOW, NBD_EPERM, NBD_ESHUTDOWN,
};

/// Why a request has no success, in the words of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The request breaks a rule, or reads outside the export.
    InvalidRequest,
    /// A write would go beyond the end of the export.
    NoSpace,
    /// A write to an export that may only be read.
    ReadOnly,
    /// A disk or a peer failed; the state of the range is unknown.
    IoFault,
    /// `NBD_CMD_FLAG_FAST_ZERO` was set and zeroing would be slow; nothing was changed. For no other request.
    NotSupported,
    /// A reply under `NBD_CMD_FLAG_DF` would be too large. For no other request.
    Overflow,
    /// The volume is no longer served here: the node stops or was demoted by force.
    ShuttingDown,
}

/// An error number of the protocol [Error values].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(u32);

impl Errno {
    /// The number as it stands in a reply; never zero.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl Failure {
    /// All failures, for tables and tests.
    pub const ALL: [Self; 7] = [
        Self::InvalidRequest,
        Self::NoSpace,
        Self::ReadOnly,
        Self::IoFault,
        Self::NotSupported,
        Self::Overflow,
        Self::ShuttingDown,
    ];

    /// The number that tells a client [Error values].
    pub fn errno(self) -> Errno {
        Errno(match self {
            Self::InvalidRequest => NBD_EINVAL,
            Self::NoSpace => NBD_ENOSPC,
            Self::ReadOnly => NBD_EPERM,
            Self::IoFault => NBD_EIO,
            Self::NotSupported => NBD_ENOTSUP,
            Self::Overflow => NBD_EOVERFLOW,
            Self::ShuttingDown => NBD_ESHUTDOWN,
        })
    }

    /// The sentence that goes with the number in an error chunk [Structured reply types].
    pub fn text(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid request",
            Self::NoSpace => "beyond the end of the export",
            Self::ReadOnly => "the export is read-only",
            Self::IoFault => "input or output failed",
            Self::NotSupported => "zeroing would not be fast",
            Self::Overflow => "too large for one chunk",
            Self::ShuttingDown => "the server no longer serves this export",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_the_number_that_the_document_gives_it() {
        let expected = [22, 28, 1, 5, 95, 75, 108];
        let actual = Failure::ALL.map(|failure| failure.errno().number());
        assert_eq!(actual, expected);
    }

    #[test]
    fn only_numbers_of_the_document_but_never_enomem_go_on_the_wire() {
        for failure in Failure::ALL {
            assert!([1, 5, 22, 28, 75, 95, 108].contains(&failure.errno().number()), "{failure:?}");
        }
    }

    #[test]
    fn every_text_fits_the_small_header_buffer() {
        for failure in Failure::ALL {
            assert!(failure.text().len() <= crate::reply::ERROR_TEXT_BYTES_MAX, "{failure:?}");
        }
    }
}
