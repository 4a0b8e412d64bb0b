//! Runs the fence command of a resource: a program of the operator's that makes sure that a lost peer is silent, and
//! says by its exit status what it has achieved (DRBD's `fence-peer`).
//!
//! Rule: every run ends with an answer. A command that does not end in time is killed with everything that it has
//! started; what it prints goes to the log, bounded. Decides nothing: what an exit status proves is the replica's
//! business.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use replicator::event::FenceEnd;
use replicator::state::{DiskState, Role};
use replicator::units::NodeId;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::config_file::{FenceConfig, ResourceConfig};

/// Lines of the command's output that are logged; the rest is read and dropped.
const LINES_MAX: usize = 100;
/// Bytes of one of these lines.
const LINE_BYTES_MAX: u64 = 1000;
/// Time in which a command that was killed, or its output, comes to an end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The command of a resource on one node, and what its environment says of both.
#[derive(Clone, Debug)]
pub struct FenceCommand {
    fence: FenceConfig,
    resource: String,
    /// What is the same for every peer.
    environment: BTreeMap<String, String>,
    /// Name and address of each node.
    nodes: Vec<(String, String)>,
    local: NodeId,
}

/// What a command is told of this moment.
#[derive(Clone, Copy, Debug)]
pub struct FenceFacts {
    /// Whom it is run against.
    pub peer: NodeId,
    /// State of the local disk.
    pub disk: DiskState,
    /// Whether no copy can be newer than the local one: else shooting the peer does not help.
    pub knows_newest: bool,
    /// Role of this node.
    pub role: Role,
}

impl FenceCommand {
    /// The command of node `local`, if one is configured.
    pub fn of(config: &ResourceConfig, local: NodeId) -> Option<Self> {
        let fence = config.fence.clone()?;
        let node = config.node(local);
        let metadata = match &node.metadata {
            crate::config_file::MetadataPlace::Internal => "internal".to_owned(),
            crate::config_file::MetadataPlace::Separate(path) => path.display().to_string(),
        };
        let mut environment: BTreeMap<String, String> = [
            ("TWINBLK_RESOURCE", config.resource.clone()),
            ("TWINBLK_NODE", node.name.clone()),
            ("TWINBLK_CONFIG", config.file.display().to_string()),
            ("DRBD_RESOURCE", config.resource.clone()),
            ("DRBD_CONF", config.file.display().to_string()),
            ("DRBD_MY_NODE_ID", local.0.to_string()),
            ("DRBD_MY_ADDRESS", node.address.host.clone()),
            ("DRBD_MY_AF", "ipv4".to_owned()),
            ("DRBD_VOLUME", "0".to_owned()),
            ("DRBD_MINOR", "0".to_owned()),
            ("DRBD_LL_DISK", node.data.display().to_string()),
            ("DRBD_BACKING_DEV", node.data.display().to_string()),
            ("DRBD_MD_DISK", metadata),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        for id in config.node_ids() {
            environment.insert(format!("DRBD_NODE_ID_{}", id.0), config.node(id).name.clone());
        }
        let nodes = config.nodes.iter().map(|node| (node.name.clone(), node.address.host.clone())).collect();
        Some(Self { fence, resource: config.resource.clone(), environment, nodes, local })
    }

    /// Runs it and waits for its end.
    pub async fn run(&self, facts: FenceFacts) -> FenceEnd {
        let child = self.command(facts).spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => return FenceEnd::NotRun(format!("{}: {error}", self.fence.command[0])),
        };
        let logs = [log(&self.resource, child.stdout.take()), log(&self.resource, child.stderr.take())];
        let limit = Duration::from_micros(self.fence.timeout.0);
        let Ok(ended) = tokio::time::timeout(limit, child.wait()).await else {
            kill(&mut child).await;
            return FenceEnd::TimedOut(self.fence.timeout);
        };
        // What it has left behind may hold its output open for ever.
        for mut log in logs {
            if tokio::time::timeout(LAST_WORDS, &mut log).await.is_err() {
                log.abort();
            }
        }
        match ended {
            Err(error) => FenceEnd::NotRun(error.to_string()),
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => FenceEnd::Exited(code),
                (None, signal) => FenceEnd::Signalled(signal.unwrap_or_default()),
            },
        }
    }

    fn command(&self, facts: FenceFacts) -> Command {
        let FenceFacts { peer, disk, knows_newest, role } = facts;
        let (name, address) = &self.nodes[peer.index()];
        let others = self.nodes.iter().enumerate().filter(|(at, _)| *at != self.local.index());
        let others: Vec<&str> = others.map(|(_, (name, _))| name.as_str()).collect();
        // DRBD's mask of the nodes that are known to hold the newest data, this one at most.
        let newest = if knows_newest { 1_u64 << self.local.0 } else { 0 };
        let mut command = Command::new(&self.fence.command[0]);
        command
            .args(&self.fence.command[1..])
            .envs(&self.environment)
            .env("TWINBLK_PEER", name)
            .env("TWINBLK_PEER_ADDRESS", address)
            .env("TWINBLK_DISK", disk.name())
            .env("TWINBLK_NEWEST", if knows_newest { "yes" } else { "no" })
            .env("TWINBLK_ROLE", role.name())
            .env("DRBD_PEER", name)
            .env("DRBD_PEERS", others.join(" "))
            .env("DRBD_PEER_NODE_ID", peer.0.to_string())
            .env("DRBD_PEER_ADDRESS", address)
            .env("DRBD_PEER_AF", "ipv4")
            .env("UP_TO_DATE_NODES", format!("0x{newest:08X}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Of its own group, so that whatever it starts can be killed with it.
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// Logs what comes out, line by line, beside everything else.
fn log(resource: &str, output: Option<impl AsyncRead + Unpin + 'static>) -> JoinHandle<()> {
    let resource = resource.to_owned();
    tokio::task::spawn_local(async move {
        let Some(output) = output else { return };
        let mut output = BufReader::new(output);
        let (mut line, mut count) = (Vec::new(), 0);
        // A line without an end is cut into pieces, so that it costs no memory.
        while let Ok(1..) = (&mut output).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            count += 1;
            if count <= LINES_MAX {
                let text = String::from_utf8_lossy(&line);
                tracing::info!(resource, "fence command: {}", text.trim_end());
            }
            line.clear();
        }
    })
}

/// Kills a command and whatever it has started.
async fn kill(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in this moment.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = tokio::time::timeout(LAST_WORDS, child.wait()).await;
}

#[cfg(test)]
mod tests;
