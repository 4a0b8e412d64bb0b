//! What a replica is told before it starts, and every limit of the core in one place.

use crate::generation::split_brain::Policies;
use crate::resync::throttle::ThrottleLimits;
use crate::units::{NodeId, Span};

/// When a write is complete, for one peer (DRBD's protocols A, B, C).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum ReplicationProtocol {
    /// Handed to the peer's socket.
    A,
    /// Received by the peer, checksums verified.
    B,
    /// In the peer's journal.
    #[default]
    C,
}

/// What a Primary does when a peer in the in-sync set is lost. There is no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPeerLost {
    /// Freeze until a majority of the voters has recorded the in-sync set without the peer.
    Quorum,
    /// Freeze until a fence command proves that the peer is silent or outdated. Nobody votes.
    Fence,
    /// Go on at once. Two nodes may then be Primary after a partition: their histories are told apart when they
    /// meet, and never merged.
    Continue,
}

impl OnPeerLost {
    /// Whether a majority of voters decides, or every Primary for itself.
    #[must_use]
    pub fn asks_a_majority(self) -> bool {
        match self {
            Self::Quorum => true,
            Self::Fence | Self::Continue => false,
        }
    }
}

/// What clients of a Primary get while neither its own disk nor another copy can be reached (DRBD's
/// on-no-data-accessible).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNoData {
    /// Nothing: they wait.
    #[default]
    Freeze,
    /// EIO.
    Fail,
}

/// Where a replica listens for its peers. For status only: the core connects to nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Address {
    /// Name or address of the host.
    #[serde(rename = "address")]
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A replica as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// Its name, unique in the resource.
    pub name: String,
    /// The protocol between this node and that one. Without meaning for the local node.
    pub protocol: ReplicationProtocol,
    /// Where it listens.
    pub address: Address,
}

/// Everything a replica is told before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of the resource, `[a-z0-9][a-z0-9_-]{0,63}`.
    pub resource: String,
    /// Size of the volume, bytes, a multiple of 4096.
    pub volume_bytes: u64,
    /// Which of the replicas this node is.
    pub local: NodeId,
    /// All replicas in configuration order; a [`NodeId`] is an index into it.
    pub replicas: Vec<ReplicaConfig>,
    /// Whether a tiebreaker votes; its number is the one after the last replica.
    pub has_tiebreaker: bool,
    /// What happens when a peer is lost.
    pub on_peer_lost: OnPeerLost,
    /// What happens when no copy can be reached.
    pub on_no_data: OnNoData,
    /// Time between two frames of an idle link.
    pub heartbeat: Span,
    /// Silence after which a peer counts as lost; the lease of a Primary.
    pub peer_timeout: Span,
    /// What is done about a split brain without asking.
    pub split_brain: Policies,
    /// Digest of the parts of the configuration that must be equal on every voter.
    pub digest: u64,
    /// Time after which an unfinished read, write or flush of either disk counts as failed.
    pub disk_timeout: Span,
    /// What clients may be made to feel of a resync.
    pub resync: ThrottleLimits,
}

/// What clients may be made to feel of a resync, unless something else is configured.
pub const RESYNC_DEFAULT: ThrottleLimits =
    ThrottleLimits { write_latency: Span::from_millis(20), rate_min: 10 << 20 };

impl Config {
    /// Number of the tiebreaker, if there is one.
    #[must_use]
    pub fn tiebreaker(&self) -> Option<NodeId> {
        let number = u8::try_from(self.replicas.len()).expect("at most REPLICAS_MAX replicas");
        self.has_tiebreaker.then_some(NodeId(number))
    }

    /// How many vote.
    #[must_use]
    pub fn voters(&self) -> usize {
        self.replicas.len() + usize::from(self.has_tiebreaker)
    }

    /// How many votes are a majority.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters() / 2 + 1
    }

    /// The other replicas.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        let numbered = (0u8..).take(self.replicas.len()).map(NodeId);
        numbered.filter(|node| *node != self.local)
    }

    /// Every other voter: the other replicas and the tiebreaker.
    pub fn other_voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers().chain(self.tiebreaker())
    }

    /// The name of a voter, for people.
    #[must_use]
    pub fn name_of(&self, node: NodeId) -> &str {
        self.replicas.get(node.index()).map_or("tiebreaker", |replica| replica.name.as_str())
    }
}

/// Largest client request with a payload, bytes (advertised as NBD maximum block size).
pub const REQUEST_BYTES_MAX: u64 = 32 << 20;
/// Bytes of accepted records that wait for write-back before clients are slowed.
pub const WRITE_BACK_BYTES_MAX: u64 = 48 << 20;
/// Journal writes in flight at a time; while all are busy the next batch grows.
pub const JOURNAL_WRITES_MAX: usize = 4;
/// Bytes that the Primary may have on the way to one peer before clients are slowed.
pub const PEER_WINDOW_BYTES: u64 = 32 << 20;
/// Bytes journaled since the last flush that start a background flush.
pub const BACKGROUND_FLUSH_BYTES: u64 = 8 << 20;
/// Time since the oldest unflushed record that starts a background flush.
pub const BACKGROUND_FLUSH_AFTER: Span = Span::from_millis(200);
/// Bytes of one write-back round.
pub const WRITE_BACK_ROUND_BYTES: u64 = 8 << 20;
/// Bytes of one journal read for a peer that catches up.
pub const CATCH_UP_READ_BYTES: u64 = 1 << 20;

const _: () = assert!(PEER_WINDOW_BYTES <= WRITE_BACK_BYTES_MAX, "what a peer may be sent, it can hold");
