//! The configuration file of a resource, `/etc/twinblk/RES.toml`: the same on every node.
//!
//! Rule: a [`ResourceConfig`] that exists is complete and consistent; every mistake of the file was reported
//! at once, each with its line and with what to write instead. Does not look at disks, secrets or hosts.

mod digest;
mod problem;
mod reader;
mod reading;
mod secret;
mod section;
pub mod values;

use std::path::{Path, PathBuf};

use replicator::config::{Address, Config, OnNoData, OnPeerLost, ReplicaConfig, ReplicationProtocol};
use replicator::generation::split_brain::Policies;
use replicator::resync::throttle::ThrottleLimits;
use replicator::units::{NodeId, Span};

pub use problem::{ConfigProblems, Problem};
use reading::Reading;
pub use secret::SecretError;
pub use values::HostPort;

/// A resource as its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceConfig {
    /// The file.
    pub file: PathBuf,
    /// Name of the resource and of its NBD export.
    pub resource: String,
    /// Size of the volume, bytes, a multiple of 4096.
    pub size_bytes: u64,
    /// What happens when a peer is lost.
    pub on_peer_lost: OnPeerLost,
    /// What clients get while no copy can be reached.
    pub on_no_data: OnNoData,
    /// What proves a lost peer silent; there exactly if `on_peer_lost` is fence.
    pub fence: Option<FenceConfig>,
    /// File with the shared secret; read it with [`ResourceConfig::load_secret`].
    pub secret_file: PathBuf,
    /// Line of `secret-file`.
    pub secret_line: usize,
    /// Time between two frames of an idle link.
    pub heartbeat: Span,
    /// Silence after which a peer counts as lost.
    pub peer_timeout: Span,
    /// Time after which an unfinished read, write or flush of either disk counts as failed.
    pub disk_timeout: Span,
    /// What is done about a split brain without asking.
    pub split_brain: Policies,
    /// Where what a split brain costs is kept.
    pub rescue: RescueConfig,
    /// What clients may be made to feel of a resync.
    pub resync: ThrottleLimits,
    /// How long the data plane looks for completions before it sleeps, while they follow one another closely.
    pub busy_poll: Span,
    /// The replicas; a [`NodeId`] is an index into it.
    pub nodes: Vec<NodeConfig>,
    /// Links that are configured; every other pair of nodes has protocol C.
    pub links: Vec<LinkConfig>,
    /// The vote without data, if there is one.
    pub tiebreaker: Option<TiebreakerConfig>,
    /// What is legal and yet worth knowing.
    pub warnings: Vec<Problem>,
}

/// The command that makes sure that a lost peer is silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceConfig {
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    /// When it is killed.
    pub timeout: Span,
}

/// Where what a node discards after a split brain is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RescueConfig {
    /// The folder for files that nobody has named.
    pub folder: PathBuf,
    /// Most bytes that a file may take; nothing: as many as there is room for.
    pub bytes_max: Option<u64>,
}

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name: the host name, unless `--node` says otherwise.
    pub name: String,
    /// Where it listens for peers.
    pub address: HostPort,
    /// Data area: a file or a block device.
    pub data: PathBuf,
    /// Where its metadata is.
    pub metadata: MetadataPlace,
    /// Size of the journal that `create-metadata` makes; nothing: by the size of the volume.
    pub journal_bytes: Option<u64>,
    /// How many peers `create-metadata` makes room for, 1 to 7.
    pub max_peers: u8,
    /// Where it serves clients.
    pub nbd: NbdConfig,
}

/// Where metadata is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataPlace {
    /// At the end of the data device.
    Internal,
    /// In a file or block device of its own.
    Separate(PathBuf),
}

/// Where clients are served; at least one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NbdConfig {
    /// On a Unix socket.
    pub unix: Option<PathBuf>,
    /// On TCP.
    pub tcp: Option<HostPort>,
}

/// The protocol between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// The two ends, the lower number first.
    pub nodes: [NodeId; 2],
    /// When a write is complete with regard to the other end.
    pub protocol: ReplicationProtocol,
}

/// A vote without data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TiebreakerConfig {
    /// Where it listens.
    pub address: HostPort,
    /// The file with its record.
    pub state: PathBuf,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file has mistakes.
    #[error(transparent)]
    Problems(#[from] ConfigProblems),
}

/// Whether a command is of no use without the shared secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretUse {
    /// It is.
    Needed,
    /// It does without.
    NotNeeded,
}

/// Where the configuration of `resource` is.
#[must_use]
pub fn file_of(config_dir: &Path, resource: &str) -> PathBuf {
    config_dir.join(format!("{resource}.toml"))
}

impl ResourceConfig {
    /// Reads the configuration of `resource` in `config_dir` for a node: the one called `asked`, or else the one with
    /// the name of this host.
    ///
    /// # Errors
    /// The file cannot be read; or it has mistakes, there is no such node, or the secret cannot be used: all of that.
    pub fn load_for_node(
        config_dir: &Path,
        resource: &str,
        asked: Option<&str>,
        secret: SecretUse,
    ) -> Result<(Self, NodeId), ConfigError> {
        let mut local = None;
        let config = Self::load(config_dir, resource, secret, |reading| local = reading.check_local(asked))?;
        Ok((config, local.expect("who this is not is a mistake")))
    }

    /// Reads the configuration of `resource` in `config_dir` for its tiebreaker.
    ///
    /// # Errors
    /// The file cannot be read; or it has mistakes, no tiebreaker, or the secret cannot be used: all of that.
    pub fn load_for_tiebreaker(
        config_dir: &Path,
        resource: &str,
    ) -> Result<(Self, TiebreakerConfig), ConfigError> {
        let config = Self::load(config_dir, resource, SecretUse::Needed, Reading::check_tiebreaker)?;
        let tiebreaker = config.tiebreaker.clone().expect("that there is none is a mistake");
        Ok((config, tiebreaker))
    }

    fn load(
        config_dir: &Path,
        resource: &str,
        secret: SecretUse,
        check: impl FnOnce(&Reading),
    ) -> Result<Self, ConfigError> {
        let file = file_of(config_dir, resource);
        let text = std::fs::read_to_string(&file)
            .map_err(|error| ConfigError::Unreadable { file: file.clone(), error })?;
        let reading = reader::read(&file, &text);
        check(&reading);
        if secret == SecretUse::Needed {
            reading.check_secret(&file);
        }
        Ok(reading.finish(&file)?)
    }

    /// The configuration with this text. `file` is named in mistakes; its stem must be the resource's name.
    ///
    /// # Errors
    /// Every mistake of the text.
    #[cfg(test)]
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigProblems> {
        reader::read(file, text).finish(file)
    }

    /// The node with this number.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &NodeConfig {
        &self.nodes[id.index()]
    }

    /// The numbers of all replicas.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        (0u8..).take(self.nodes.len()).map(NodeId)
    }

    /// The number of the tiebreaker: the one after the last replica.
    #[must_use]
    pub fn tiebreaker_id(&self) -> Option<NodeId> {
        let number = u8::try_from(self.nodes.len()).expect("at most 8 replicas");
        self.tiebreaker.as_ref().map(|_| NodeId(number))
    }

    /// Where the voter with this number listens for peers.
    #[must_use]
    pub fn address_of(&self, voter: NodeId) -> Option<&HostPort> {
        let replica = self.nodes.get(voter.index()).map(|node| &node.address);
        let tiebreaker = || self.tiebreaker.as_ref().filter(|_| self.tiebreaker_id() == Some(voter));
        replica.or_else(|| tiebreaker().map(|tiebreaker| &tiebreaker.address))
    }

    /// The protocol between two nodes.
    #[must_use]
    pub fn protocol_between(&self, one: NodeId, other: NodeId) -> ReplicationProtocol {
        let ends = [one.min(other), one.max(other)];
        let link = self.links.iter().find(|link| link.nodes == ends);
        link.map_or(ReplicationProtocol::default(), |link| link.protocol)
    }

    /// What the replica `local` is told.
    #[must_use]
    pub fn to_core(&self, local: NodeId) -> Config {
        let replica = |id: NodeId| ReplicaConfig {
            name: self.node(id).name.clone(),
            protocol: self.protocol_between(local, id),
            address: Address { host: self.node(id).address.host.clone(), port: self.node(id).address.port },
        };
        Config {
            resource: self.resource.clone(),
            volume_bytes: self.size_bytes,
            local,
            replicas: self.node_ids().map(replica).collect(),
            has_tiebreaker: self.tiebreaker.is_some(),
            on_peer_lost: self.on_peer_lost,
            on_no_data: self.on_no_data,
            heartbeat: self.heartbeat,
            peer_timeout: self.peer_timeout,
            disk_timeout: self.disk_timeout,
            split_brain: self.split_brain,
            resync: self.resync,
            digest: self.digest(),
        }
    }
}

#[cfg(test)]
mod tests;
