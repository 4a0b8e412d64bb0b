//! `on-peer-lost = "fence"`: the command that proves a lost peer silent or outdated. Runs at most once at a time for
//! each peer; what it proves counts until that peer is linked again.

use crate::config::OnPeerLost;
use crate::effect::{Effect, Effects};
use crate::event::{FenceEnd, FenceRun};
use crate::layout::superblock::DurableDisk;
use crate::notice::Notice;
use crate::promotion::agreement::Standing;
use crate::promotion::fence::{self, Fenced};
use crate::state::{DiskState, Role};
use crate::units::{Incarnation, NodeId, Tick};

use super::Replica;
use super::links::{Link, Peer, Replication};

/// What is known of a peer by its fence command.
#[derive(Clone, Debug)]
pub(super) enum Fencing {
    /// The command runs. What it proves does not count if the peer has been linked since it was started.
    Running { run: FenceRun, since: Tick, is_void: bool },
    /// It has ended, or the peer has said goodbye.
    Ended(Fenced, String),
}

impl Replica {
    /// Whether a fence command is what opens the way without a peer.
    pub(super) fn fences(&self) -> bool {
        self.config.on_peer_lost == OnPeerLost::Fence
    }

    /// A peer is linked again: what was proved of its absence holds no more, nor what was said of it.
    pub(super) fn forget_fencing(&mut self, node: NodeId) {
        if self.peer(node).is_replica() {
            self.doubt_proof();
        }
        match self.fencing.get_mut(&node) {
            Some(Fencing::Running { is_void, .. }) => *is_void = true,
            Some(Fencing::Ended(..)) => {
                self.fencing.remove(&node);
            }
            None => {}
        }
    }

    /// Forgets how earlier commands ended: a candidate goes by what is true now.
    pub(super) fn forget_ended_fencing(&mut self) {
        self.fencing.retain(|_, fencing| matches!(fencing, Fencing::Running { .. }));
    }

    /// Runs the command against a peer, unless it runs already.
    pub(super) fn fence(&mut self, node: NodeId, effects: &mut Effects) {
        if matches!(self.fencing.get(&node), Some(Fencing::Running { .. })) {
            return;
        }
        self.last_fence_run += 1;
        let run = FenceRun(self.last_fence_run);
        let text = format!("running the fence command against {}", self.name_of(node));
        effects.push(Effect::Notify(Notice::warning("fencing", text)));
        self.fencing.insert(node, Fencing::Running { run, since: self.now, is_void: false });
        let knows_newest = self.role == Role::Primary || self.knows_newest(self.record()).is_ok();
        let (disk, role) = (self.disk, self.role);
        effects.push(Effect::RunFenceCommand { run, peer: node, disk, knows_newest, role });
    }

    pub(super) fn on_fence_command_ended(&mut self, run: FenceRun, end: &FenceEnd, effects: &mut Effects) {
        let ran_for =
            |fencing: &Fencing| matches!(fencing, Fencing::Running { run: other, .. } if *other == run);
        let found = self.fencing.iter().find(|(_, fencing)| ran_for(fencing));
        let Some((node, Fencing::Running { is_void, .. })) = found else { return };
        let (node, is_void) = (*node, *is_void);
        let (fenced, why) = fence::meaning(end);
        let text = format!("fence command against {}: {why}", self.name_of(node));
        self.fencing.remove(&node);
        if is_void {
            let text = format!("{text}; it is linked again, so that this does not count");
            effects.push(Effect::Notify(Notice::info("fenced", text)));
            return;
        }
        let notice = match fenced {
            Fenced::Unknown => Notice::error("fence-failed", text),
            Fenced::Inconsistent | Fenced::Outdated | Fenced::Down | Fenced::Primary | Fenced::Shot => {
                Notice::warning("fenced", text)
            }
        };
        effects.push(Effect::Notify(notice));
        self.fencing.insert(node, Fencing::Ended(fenced, why));
        if fenced == Fenced::Primary {
            self.give_way(node, effects);
        }
    }

    /// The peer is Primary: this node's data is not the newest, or will not be for long.
    fn give_way(&mut self, to: NodeId, effects: &mut Effects) {
        if self.role == Role::Primary {
            let text = format!("{} is Primary by the fence command; this node steps down", self.name_of(to));
            effects.push(Effect::Notify(Notice::error("stepped-down", text)));
            self.resign(effects);
            self.end_reign(effects);
        }
        self.outdate(effects);
    }

    /// Calls this copy older than others, durably with the next superblock.
    pub(super) fn outdate(&mut self, effects: &mut Effects) {
        if self.disk > DiskState::Inconsistent {
            self.set_disk(DiskState::Outdated, effects);
            self.superblock.change(|content| content.disk = DurableDisk::Outdated);
        }
    }

    /// A Secondary says goodbye: it has called itself outdated before, if it could be a competitor.
    pub(super) fn note_farewell(&mut self, node: NodeId) {
        if self.fences() && self.peer(node).is_replica() {
            let why = "it has called itself Outdated before it left".to_owned();
            self.fencing.insert(node, Fencing::Ended(Fenced::Outdated, why));
        }
    }

    /// Somebody with proof says that every peer that cannot be reached is silent.
    pub(super) fn note_fenced_by_order(&mut self) {
        let unreachable: Vec<NodeId> = self.unreachable_replicas().collect();
        for node in unreachable {
            let why = "it was said to be fenced, with --peer-is-fenced".to_owned();
            self.fencing.insert(node, Fencing::Ended(Fenced::Shot, why));
        }
    }

    /// Whether a replica cannot be asked for its agreement: it is not linked, or replicates nothing by a verdict, or it is
    /// a member in whose place somebody new is linked.
    fn is_unreachable(&self, peer: &Peer) -> bool {
        let is_stopped = |link: &Link| matches!(link.replication, Replication::Stopped);
        let is_replaced = self.record().in_sync.has_node(peer.node) && !self.is_holder(self.record(), peer);
        peer.is_replica() && (is_replaced || peer.link.as_ref().is_none_or(is_stopped))
    }

    /// Replicas that cannot be asked.
    pub(super) fn unreachable_replicas(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.iter().filter(|peer| self.is_unreachable(peer)).map(|peer| peer.node)
    }

    /// What is known of a replica that cannot be asked.
    pub(super) fn standing_by_fencing(&self, node: NodeId) -> Standing {
        match self.fencing.get(&node) {
            None | Some(Fencing::Running { is_void: true, .. }) => Standing::NotFenced,
            Some(Fencing::Running { is_void: false, .. }) => Standing::BeingFenced,
            Some(Fencing::Ended(fenced, why)) => Standing::Fenced(*fenced, why.clone()),
        }
    }

    /// Whether a member says itself, on its link, that nobody can take it for the newest copy: it is another run than the
    /// recorded one, which alone can prove to be that, or its disk is old or broken. A link is no proof by itself: one
    /// for a dry run leaves the member what it was, and a new disk does not speak for the old one, which another machine
    /// may still serve.
    fn has_stood_back(&self, node: NodeId, recorded: Incarnation) -> bool {
        let peer = self.peer(node);
        if !self.has_seat(node) {
            return false;
        }
        let is_another_run = peer.introduced().is_some_and(|state| state.incarnation != recorded);
        is_another_run || peer.disk <= DiskState::Outdated
    }

    /// Whether this Primary may go on without a member that is lost; runs the fence command where that decides.
    pub(super) fn may_go_on_without(
        &mut self,
        node: NodeId,
        recorded: Incarnation,
        effects: &mut Effects,
    ) -> bool {
        if !self.fences() || self.has_stood_back(node, recorded) {
            return true; // A majority decides, or nobody, or the member itself.
        }
        if !self.is_unreachable(self.peer(node)) {
            return false; // It is linked, and about to follow or to say more.
        }
        match self.standing_by_fencing(node) {
            Standing::NotFenced => {
                self.fence(node, effects);
                false
            }
            Standing::BeingFenced => false,
            // A Primary knows that no copy is newer than its own.
            Standing::Fenced(fenced, _) => fenced.frees(true),
        }
    }

    /// What a frozen Primary in fence mode waits for, and what ends it.
    pub(super) fn fencing_in_words(&self, node: NodeId) -> (String, String) {
        let name = self.name_of(node);
        let by_hand = format!(
            "the return of {name}, or `twinblk promote {} --peer-is-fenced` when it is certain that {name} is silent",
            self.config.resource
        );
        match self.fencing.get(&node) {
            Some(Fencing::Ended(_, why)) => {
                (format!("{name} is lost, and the fence command did not open the way: {why}"), by_hand)
            }
            Some(Fencing::Running { since, .. }) => {
                let reason =
                    format!("{name} is lost; the fence command runs since {}", self.now.since(*since));
                (reason, format!("its success; {by_hand}"))
            }
            None => (format!("{name} is lost"), format!("the fence command; {by_hand}")),
        }
    }
}
