//! A status report as people see it: the part of the JSON that is shown, read back.
//!
//! Rule: only what is shown is demanded, so that a newer daemon's additions do no harm. The full report is
//! `replicator::status_report`; `status --json` passes it on untouched.

use serde::Deserialize;

/// A snapshot of a node.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    pub name: String,
    pub node_name: String,
    pub role: String,
    pub suspended: bool,
    pub serves_as_was: bool,
    pub devices: Vec<Device>,
    pub connections: Vec<Connection>,
    pub tiebreaker: Option<Tiebreaker>,
    pub in_sync: Vec<InSync>,
    pub frozen: Option<Frozen>,
    pub can_promote: CanPromote,
    pub advice: Vec<Advice>,
}

/// The volume.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Device {
    pub disk_state: String,
    pub clients: u64,
    pub quorum: bool,
    /// In KiB.
    pub size: u64,
}

/// A link and the disk behind it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Connection {
    pub peer_node_id: u8,
    pub name: String,
    pub connection_state: String,
    pub congested: bool,
    pub peer_role: String,
    pub protocol: String,
    pub reason: Option<String>,
    pub rule: Option<String>,
    #[serde(rename = "peer_devices")]
    pub peer_devices: Vec<PeerDevice>,
}

/// A volume on a peer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerDevice {
    pub replication_state: String,
    pub peer_disk_state: String,
    /// In KiB.
    pub out_of_sync: u64,
    pub percent_in_sync: f64,
    /// `no`, or who has paused resyncs.
    pub resync_suspended: String,
    /// Of what goes on; absent if nothing does.
    pub percent_resync_done: Option<f64>,
    pub estimated_seconds_to_finish: Option<u64>,
    #[serde(rename = "db1/dt1 [MiB/s]")]
    pub recent_rate: Option<f64>,
}

/// The tiebreaker.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tiebreaker {
    pub connection_state: String,
    pub reason: Option<String>,
}

/// A member of the in-sync set.
#[derive(Clone, Debug, Deserialize)]
pub struct InSync {
    pub name: String,
}

/// Why all I/O waits.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Frozen {
    pub reason: String,
    pub since_ms: u64,
    pub ends_by: String,
}

/// Whether a promotion would be tried.
#[derive(Clone, Debug, Deserialize)]
pub struct CanPromote {
    pub yes: bool,
    pub because: String,
}

/// What to do about something.
#[derive(Clone, Debug, Deserialize)]
pub struct Advice {
    pub state: String,
    pub status: String,
    pub action: String,
    pub see: String,
}

impl Report {
    /// The volume, if the report has one.
    pub fn device(&self) -> Option<&Device> {
        self.devices.first()
    }
}
