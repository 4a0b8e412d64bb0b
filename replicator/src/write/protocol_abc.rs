//! When a write is complete for one peer: DRBD's protocols A, B and C, in one place.

use crate::config::ReplicationProtocol;
use crate::units::Lsn;

/// How far one peer has come with this node's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Handed to the socket.
    pub handed: Lsn,
    /// Received, checksums verified.
    pub received: Lsn,
    /// In the journal.
    pub journaled: Lsn,
}

impl ReplicationProtocol {
    /// Up to where writes are complete as far as this peer is concerned.
    /// A: handed to the peer's socket. B: received by the peer. C: in the peer's journal.
    #[must_use]
    pub fn complete_up_to(self, acknowledged: Acknowledged) -> Lsn {
        match self {
            Self::A => acknowledged.handed,
            Self::B => acknowledged.received,
            Self::C => acknowledged.journaled,
        }
    }

    /// Whether a peer on this protocol can be in the in-sync set.
    #[must_use]
    pub fn can_be_in_sync(self) -> bool {
        match self {
            Self::A | Self::B => false,
            Self::C => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_waits_for_its_own_mark_and_no_other() {
        let acknowledged = Acknowledged { handed: Lsn(30), received: Lsn(20), journaled: Lsn(10) };
        assert_eq!(ReplicationProtocol::A.complete_up_to(acknowledged), Lsn(30));
        assert_eq!(ReplicationProtocol::B.complete_up_to(acknowledged), Lsn(20));
        assert_eq!(ReplicationProtocol::C.complete_up_to(acknowledged), Lsn(10));
    }
}
