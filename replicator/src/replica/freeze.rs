//! When a Primary may not answer: its lease is over, or somebody is lost whom it may not go on without. All I/O waits
//! then, nothing fails, and status says why, since when, and what ends it.

use crate::config::OnPeerLost;
use crate::effect::{Effect, Effects};
use crate::notice::Notice;
use crate::state::Role;
use crate::units::{NodeId, Tick};

use super::Replica;
use super::links::{Peer, Replication};

impl Replica {
    /// When the lease ends; `None` if nobody else could be promoted meanwhile.
    pub(super) fn lease_ends(&self) -> Option<Tick> {
        let reign = self.reign.as_ref()?;
        if self.config.on_peer_lost == OnPeerLost::Continue {
            return None; // Others may be promoted whatever this node does.
        }
        let timeout = self.config.peer_timeout;
        let members = self.peers.iter().filter(|peer| reign.requires(peer.node));
        // A member that never echoed during this link gives no lease at all.
        members
            .map(|peer| {
                // Whoever is new in its place has not promised to wait.
                let link = peer.link.as_ref().filter(|_| self.is_itself(peer));
                link.and_then(|link| link.echoed).map_or(Tick(0), |echoed| echoed.plus(timeout))
            })
            .min()
    }

    /// Whether this node may answer reads now: it is Primary and nobody else can be.
    pub(super) fn may_answer_reads(&self) -> bool {
        let is_serving = self.role == Role::Primary && self.has_a_copy() && self.reign.is_some();
        is_serving && self.lease_ends().is_none_or(|ends| self.now < ends)
    }

    /// Whether a member can be waited for: it is linked, not somebody new in its place, and replication has not been
    /// refused.
    pub(super) fn is_following(&self, peer: &Peer) -> bool {
        peer.link.as_ref().filter(|_| self.is_itself(peer)).is_some_and(|link| match &link.replication {
            Replication::Introducing => !link.is_tentative,
            // What is being resynced is no copy yet.
            Replication::Source(outbound) => outbound.resync().is_none(),
            Replication::Idle | Replication::Stopped | Replication::Target => false,
        })
    }

    /// Why all I/O waits, and what ends it.
    pub(super) fn frozen(&self) -> Option<(String, String)> {
        if self.role != Role::Primary {
            return None;
        }
        if let Some(frozen) = self.disk_fault.as_ref().and_then(|fault| self.frozen_without_disk(fault)) {
            return Some(frozen);
        }
        let reign = self.reign.as_ref()?;
        let lost = self.peers.iter().filter(|peer| reign.requires(peer.node) && !self.is_following(peer));
        let lost: Vec<NodeId> = lost.map(|peer| peer.node).collect();
        if let Some(first) = lost.first() {
            return Some(self.waits_for(*first, &lost));
        }
        let lease_is_over = self.lease_ends().is_some_and(|ends| self.now >= ends);
        lease_is_over.then(|| {
            (
                "the lease is over: a member has not echoed in time".to_owned(),
                "an answer of that member".to_owned(),
            )
        })
    }

    /// What a Primary waits for that has lost a member.
    fn waits_for(&self, first: NodeId, lost: &[NodeId]) -> (String, String) {
        let names = lost.iter().map(|node| self.name_of(*node)).collect::<Vec<_>>().join(", ");
        match self.config.on_peer_lost {
            OnPeerLost::Quorum => (
                format!("{names} is lost, and no majority has recorded the in-sync set without it"),
                "a vote of the tiebreaker or another replica, or the return of the lost node".to_owned(),
            ),
            OnPeerLost::Fence => self.fencing_in_words(first),
            OnPeerLost::Continue => (
                format!("{names} is lost, and the in-sync set without it is being recorded here"),
                "the local disk, in a moment".to_owned(),
            ),
        }
    }

    pub(super) fn note_frozen(&mut self, effects: &mut Effects) {
        match (self.frozen(), self.frozen_since) {
            (Some((reason, ends)), None) => {
                self.frozen_since = Some(self.now);
                effects.push(Effect::Notify(Notice::warning(
                    "frozen",
                    format!("all I/O waits: {reason}; ends by {ends}"),
                )));
            }
            (None, Some(since)) => {
                self.frozen_since = None;
                let text = format!("I/O goes on after {}", self.now.since(since));
                effects.push(Effect::Notify(Notice::info("thawed", text)));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen_since.is_some()
    }
}
