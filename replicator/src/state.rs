//! The state of a node on four separate axes, with DRBD's names.

use serde::Serialize;

/// Role of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Role {
    /// Serves clients.
    Primary,
    /// Mirrors and serves nobody.
    Secondary,
    /// Not known: there is no link.
    Unknown,
}

/// State of a disk, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum DiskState {
    /// No disk.
    Diskless,
    /// A write or flush failed; the disk is not used any more.
    Failed,
    /// Holds no usable content: new, or in the middle of a resync.
    Inconsistent,
    /// A consistent older state; newer data is known to exist.
    Outdated,
    /// A peer's disk of which nothing is known. Never a node's own.
    DUnknown,
    /// Usable, but nobody has confirmed that it is the newest.
    Consistent,
    /// Usable and known to be the newest.
    UpToDate,
}

/// State of the link to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ConnectionState {
    /// Not replicating until an operator acts. The reason is in the advice.
    StandAlone,
    /// Trying to reach the peer.
    Connecting,
    /// Linked.
    Connected,
}

/// What goes on between a node and one peer's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ReplicationState {
    /// Nothing.
    Off,
    /// Writes are mirrored.
    Established,
    /// This node ships records to a peer that catches up.
    SyncSource,
    /// This node catches up from the peer.
    SyncTarget,
}

macro_rules! display_as_named {
    ($($name:ident),*) => {$(
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    )*};
}

impl Role {
    /// The word that users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "Primary",
            Self::Secondary => "Secondary",
            Self::Unknown => "Unknown",
        }
    }
}

impl DiskState {
    /// The word that users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Diskless => "Diskless",
            Self::Failed => "Failed",
            Self::Inconsistent => "Inconsistent",
            Self::Outdated => "Outdated",
            Self::DUnknown => "DUnknown",
            Self::Consistent => "Consistent",
            Self::UpToDate => "UpToDate",
        }
    }
}

impl ConnectionState {
    /// The word that users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StandAlone => "StandAlone",
            Self::Connecting => "Connecting",
            Self::Connected => "Connected",
        }
    }
}

impl ReplicationState {
    /// The word that users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "Off",
            Self::Established => "Established",
            Self::SyncSource => "SyncSource",
            Self::SyncTarget => "SyncTarget",
        }
    }
}

display_as_named!(Role, DiskState, ConnectionState, ReplicationState);
