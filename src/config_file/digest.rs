//! A number that is equal on two voters exactly if they agree on who votes about what.
//!
//! The first 8 bytes, big-endian, of SHA-256 over lines of `key=value`: resource, size, on-peer-lost,
//! peer-timeout (the lease depends on it), the nodes' names in order, the protocol of every pair, the
//! policies for a split brain that are not `disconnect`, and whether a tiebreaker votes. Left out, because nodes may differ in them for a while or for good: paths, addresses,
//! NBD sockets, journal sizes, heartbeat, disk-timeout and where rescues
//! are kept.

use std::fmt::Write;

use replicator::config::OnPeerLost;
use replicator::generation::split_brain::{Policy, Primaries};
use sha2::{Digest, Sha256};

use super::ResourceConfig;

impl ResourceConfig {
    /// The number that all voters must share.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let hash = Sha256::digest(self.agreed_lines().as_bytes());
        u64::from_be_bytes(hash[..8].try_into().expect("SHA-256 has 32 bytes"))
    }

    fn agreed_lines(&self) -> String {
        let on_peer_lost = match self.on_peer_lost {
            OnPeerLost::Quorum => "quorum",
            OnPeerLost::Fence => "fence",
            OnPeerLost::Continue => "continue",
        };
        let mut lines = format!(
            "twinblk configuration 1\nresource={}\nsize={}\non-peer-lost={on_peer_lost}\npeer-timeout-us={}\n",
            self.resource, self.size_bytes, self.peer_timeout.0
        );
        for id in self.node_ids() {
            writeln!(lines, "node={}", self.node(id).name).expect("a string takes everything");
            for other in self.node_ids().filter(|other| *other > id) {
                let protocol = self.protocol_between(id, other);
                writeln!(lines, "link={}-{}:{protocol:?}", id.0, other.0).expect("a string takes everything");
            }
        }
        for (case, key, _) in Primaries::ALL {
            let policy = self.split_brain.of(case);
            if policy != Policy::default() {
                writeln!(lines, "split-brain-{key}={}", policy.name()).expect("a string takes everything");
            }
        }
        writeln!(lines, "tiebreaker={}", self.tiebreaker.is_some()).expect("a string takes everything");
        lines
    }
}
