//! What `twinblk status` prints: one snapshot of a replica. The JSON keys are an interface (docs/status.schema.json).

use serde::Serialize;

use crate::config::Address;
use crate::generation::lineage::Generation;
use crate::promotion::membership::Member;
use crate::resync::pace::SyncDetails;
use crate::state::{ConnectionState, DiskState, ReplicationState, Role};
use crate::units::{Lsn, NodeId, Term};

/// A snapshot. Keys that DRBD's `status --json` has too keep its names.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StatusReport {
    /// Version of this format.
    pub schema: u32,
    /// Name of the resource.
    pub name: String,
    /// Number of this node.
    pub node_id: NodeId,
    /// Name of this node.
    pub node_name: String,
    /// Role of this node.
    pub role: Role,
    /// Whether all I/O waits.
    pub suspended: bool,
    /// Always false: no operator order suspends I/O.
    pub suspended_user: bool,
    /// Whether I/O waits because no copy of the data can be reached.
    pub suspended_no_data: bool,
    /// Whether I/O waits for a fence command.
    pub suspended_fencing: bool,
    /// Whether I/O waits for a majority.
    pub suspended_quorum: bool,
    /// Whether this node's own side is served read-only, as it was left.
    pub serves_as_was: bool,
    /// Whether failed I/O is reported to clients instead of waiting.
    pub force_io_failures: bool,
    /// How order is kept between writes: `flush`.
    pub write_ordering: &'static str,
    /// The volume; always one.
    pub devices: Vec<DeviceReport>,
    /// One entry for each other replica.
    pub connections: Vec<ConnectionReport>,
    /// The tiebreaker, if one is configured.
    pub tiebreaker: Option<TiebreakerReport>,
    /// The reign that this node has stored.
    pub term: Term,
    /// Version of the voters' record within the term.
    pub record_version: u64,
    /// Who is Primary by the record.
    pub record_primary: Option<String>,
    /// Members of the in-sync set by the record.
    pub in_sync: Vec<InSyncReport>,
    /// Generations of the data, oldest first.
    pub lineage: Vec<Generation>,
    /// How far writes have come here.
    pub lsn: LsnReport,
    /// Why, since when and until when all I/O waits.
    pub frozen: Option<FrozenReport>,
    /// Whether `promote` would be tried.
    pub can_promote: CanPromote,
    /// The journal.
    pub journal: JournalReport,
    /// What is out of the ordinary, and what to do. Empty when all is well.
    pub advice: Vec<Advice>,
}

/// A volume.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceReport {
    /// Always 0.
    pub volume: u32,
    /// State of the local disk.
    pub disk_state: DiskState,
    /// Whether the node serves without a disk of its own.
    pub client: bool,
    /// Whether clients are connected.
    pub open: bool,
    /// Number of connected clients.
    pub clients: usize,
    /// Whether a majority of the voters is behind this node's view.
    pub quorum: bool,
    /// Size of the volume in KiB (DRBD's unit).
    pub size: u64,
    /// KiB read by clients since the start.
    pub read: u64,
    /// KiB written by clients since the start.
    pub written: u64,
    /// Journal writes since the start (DRBD counts activity log writes here).
    pub al_writes: u64,
    /// Bitmap pages written since the start.
    pub bm_writes: u64,
    /// Client requests that are not answered yet.
    pub upper_pending: u64,
    /// I/Os on the local disk that have not completed yet.
    pub lower_pending: u64,
}

/// A link to another replica and that replica's disk.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConnectionReport {
    /// Number of the peer.
    pub peer_node_id: NodeId,
    /// Name of the peer.
    pub name: String,
    /// State of the link.
    pub connection_state: ConnectionState,
    /// Whether writes wait for room in the peer's window.
    pub congested: bool,
    /// Role of the peer.
    pub peer_role: Role,
    /// Whether the link is encrypted.
    pub tls: bool,
    /// Bytes sent and not yet acknowledged.
    pub ap_in_flight: u64,
    /// Bytes of resync sent and not yet acknowledged.
    pub rs_in_flight: u64,
    /// `A`, `B` or `C`.
    pub protocol: crate::config::ReplicationProtocol,
    /// Why the link is down or refused, for people.
    pub reason: Option<String>,
    /// How the two are connected; always one way.
    pub paths: Vec<PathReport>,
    /// The rule that decided at the last handshake.
    pub rule: Option<String>,
    /// How far the two went on alone, if replication stands because of that.
    pub split_brain: Option<SplitBrainReport>,
    /// Frames from the peer that were damaged or made no sense, since the daemon's start. Each ended the link.
    pub refused_frames: u64,
    /// The peer's volume; always one. DRBD writes this key with an underscore.
    #[serde(rename = "peer_devices")]
    pub peer_devices: Vec<PeerDeviceReport>,
}

/// A split brain, and what this node does about it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SplitBrainReport {
    /// Last write that both have.
    pub fork: Lsn,
    /// Writes that this node has beyond it.
    pub own_writes: u64,
    /// Writes that the peer has beyond it.
    pub peer_writes: u64,
    /// What goes on if this node discards its own: `listing`, `saving` or `announced`.
    pub discarding: Option<&'static str>,
    /// KiB that are saved already.
    pub saved: u64,
    /// KiB that will be, as far as is known.
    pub to_save: u64,
    /// Why a policy that makes this node give way was not carried out.
    pub policy_failed: Option<String>,
}

/// A way between two nodes. DRBD writes these keys with an underscore.
#[derive(Clone, Debug, Serialize)]
pub struct PathReport {
    /// Where this node listens.
    pub this_host: Address,
    /// Where the peer listens.
    pub remote_host: Address,
    /// Whether there is a link.
    pub established: bool,
}

/// A volume on a peer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerDeviceReport {
    /// Always 0.
    pub volume: u32,
    /// What goes on.
    pub replication_state: ReplicationState,
    /// The peer's disk.
    pub peer_disk_state: DiskState,
    /// Whether the peer has no disk.
    pub peer_client: bool,
    /// `no`, or who has paused resyncs with the peer: `user` here, `peer` there, `user,peer` both.
    pub resync_suspended: &'static str,
    /// KiB received from the peer.
    pub received: u64,
    /// KiB sent to the peer.
    pub sent: u64,
    /// KiB that the peer lacks, as far as is known: records to ship and dirty blocks.
    pub out_of_sync: u64,
    /// KiB of records shipped to the peer on this link before it was in sync.
    pub caught_up: u64,
    /// Records sent and not yet acknowledged.
    pub pending: u64,
    /// Records received and not yet acknowledged.
    pub unacked: u64,
    /// Whether a resync or a catch-up goes on, and it is known how far it has come.
    pub has_sync_details: bool,
    /// The details, if there are any.
    #[serde(flatten)]
    pub details: Option<SyncDetails>,
    /// Always false: there is no online verify.
    pub has_online_verify_details: bool,
    /// How much of the peer is in sync, percent.
    pub percent_in_sync: f64,
    /// Newest write that the peer has in its journal.
    pub acknowledged: Lsn,
    /// Newest write that the peer has flushed.
    pub flushed: Lsn,
    /// Whether blocks are marked dirty for the peer.
    pub has_dirty_bits: bool,
}

/// The tiebreaker as seen from here.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TiebreakerReport {
    /// State of the link.
    pub connection_state: ConnectionState,
    /// Why the link is down, for people.
    pub reason: Option<String>,
}

/// A member of the in-sync set.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct InSyncReport {
    /// Name of the node.
    pub name: String,
    /// Node and run of its daemon.
    #[serde(flatten)]
    pub member: Member,
}

/// How far writes have come on this node.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LsnReport {
    /// Newest write that has a number.
    pub assigned: Lsn,
    /// Newest write in the journal, without a gap before it.
    pub journaled: Lsn,
    /// Newest write that is flushed in the journal (durable).
    pub durable: Lsn,
    /// Newest write that is complete.
    pub complete: Lsn,
    /// Newest write that is flushed on every in-sync replica.
    pub stable: Lsn,
    /// Newest write that is in the data area.
    pub written_back: Lsn,
    /// Oldest write that the journal still holds.
    pub oldest_kept: Lsn,
}

/// Why all I/O waits.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FrozenReport {
    /// Why.
    pub reason: String,
    /// For how long already, milliseconds.
    pub since_ms: u64,
    /// What ends it.
    pub ends_by: String,
}

/// Whether a promotion would be tried.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CanPromote {
    /// Whether.
    pub yes: bool,
    /// Why, or why not.
    pub because: String,
}

/// The journal.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct JournalReport {
    /// Bytes of the ring.
    pub size: u64,
    /// Bytes between tail and head.
    pub used: u64,
}

/// What is out of the ordinary, what it means, what to type, where to read on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Advice {
    /// What is out of the ordinary, as a stable name.
    pub state: &'static str,
    /// What it means.
    pub status: String,
    /// What to do.
    pub action: String,
    /// Page of the documentation.
    pub see: &'static str,
}
