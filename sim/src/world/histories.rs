//! Tells the oracle what decides which history a node follows: records on disks, reigns, verdicts, orders, lies.

use replicator::event::{Order, Warrant};
use replicator::layout::superblock::Superblock;
use replicator::notice::Notice;
use replicator::promotion::membership::MembershipRecord;
use replicator::state::{ConnectionState, DiskState, Role};
use replicator::status_report::ConnectionReport;
use replicator::units::NodeId;

use super::{GAMMA, World};
use crate::checker::branches::NodeSet;
use crate::checker::same_volume;
use crate::fault_budget;
use crate::node::NAMES;

impl World {
    /// Whether at most one node may be Primary at a time, and it holds everything: a majority, or honest fence commands
    /// see to that, and nobody has forced anything.
    #[must_use]
    pub fn has_one_primary(&self) -> bool {
        !self.branches.are_parting()
    }

    /// Who holds everything that a node which serves has completed: itself, and the members of the set that is on its
    /// disk, as the runs that are named there. A disk that has failed holds nothing, and what is on it is old: then it is
    /// the members who have stored the record.
    pub(super) fn members_by(&self, node: NodeId) -> NodeSet {
        let own = &self.watch.seen[node.index()].superblock.membership;
        let has_disk = self.disk(node) > DiskState::Failed;
        let stored = self.stored_records().into_iter().map(|(_, record)| record);
        let is_told = |record: &MembershipRecord| !has_disk && record.primary == Some(node);
        let newest = stored.filter(is_told).chain([*own]).max_by_key(MembershipRecord::order);
        let record = newest.expect("its own is one");
        let members = record.in_sync.iter().map(|(member, _)| member);
        let alive = members.filter(|member| self.is_replica(*member) && self.lives_on(*member, &record));
        let own = if has_disk { NodeSet::of(node) } else { NodeSet::default() };
        alive.fold(own, |set, member| set.and(NodeSet::of(member)))
    }

    /// Those who have not gone on since a record was made: two Secondaries find out that they are equal, and the one that
    /// writes that down may stand still meanwhile.
    fn those_that_go_by(&self, record: &MembershipRecord, members: NodeSet) -> NodeSet {
        let stored = |node: NodeId| self.watch.seen[node.index()].superblock.membership;
        let gone_on = self.replicas().filter(|node| stored(*node).order() > record.order());
        gone_on.fold(members, NodeSet::without)
    }

    fn is_replica(&self, node: NodeId) -> bool {
        node.index() < self.nodes.len()
    }

    /// A superblock is on a node's disk. If it has a new record of its own making, its members hold what the node holds.
    pub(super) fn note_record(&mut self, node: NodeId, before: &Superblock) {
        let now = &self.watch.seen[node.index()].superblock;
        if now.journal.session == before.journal.session && now.journal.tail_lsn > before.journal.tail_lsn {
            self.coverage.count("tails moved");
        }
        let record = now.membership;
        // Whoever goes on without a member has flushed first what may be flushed on that one alone.
        let drops_a_member = before.membership.in_sync.iter().any(|(it, _)| !record.in_sync.has_node(it));
        let is_own = record.primary.is_none_or(|primary| primary == node) && record.in_sync.has_node(node);
        if is_own && record.order() > before.membership.order() && self.lives_on(node, &record) {
            let members = self.members_by(node);
            match record.primary {
                Some(_) if self.role(node) == Role::Primary => {
                    if drops_a_member && record.term == before.membership.term {
                        self.branches.has_flushed(node);
                    }
                    self.branches.gathers(node, members);
                }
                Some(_) => {} // A candidate's: it counts if a reign comes of it.
                None => self.branches.are_equal(node, self.those_that_go_by(&record, members)),
            }
        }
    }

    /// What a node says about its place.
    pub(super) fn note_history(&mut self, node: NodeId, notice: &Notice) {
        if notice.name == "role-changed" && notice.text.contains("-> Primary") {
            if node == GAMMA {
                self.coverage.count("promotions of a third node");
            }
            let members = self.members_by(node);
            self.branches.reigns(node, members, self.now);
            if self.branches.are_parting() {
                self.coverage.count("histories of a world that parted");
            }
        }
        match notice.name {
            "promoted-by-force" => self.branches.forces(node),
            "promotion-refused" => self.branches.forces_no_more(node),
            _ => {}
        }
        if notice.name == "verdict" {
            self.note_verdict(node, &notice.text);
        }
    }

    fn note_verdict(&mut self, node: NodeId, text: &str) {
        let Some(at) = NAMES.iter().position(|name| text.starts_with(&format!("{name}:"))) else { return };
        let peer = NodeId(u8::try_from(at).expect("at most three"));
        if text.contains("it brings this node") {
            self.branches.follows(node, peer);
        }
        // They say so; what counts is what is on their disks.
        if text.contains("both hold the same") {
            let [first, second] =
                [node, peer].map(|node| (&self.nodes[node.index()], &self.watch.seen[node.index()]));
            if same_volume::hold_the_same(first, second) {
                self.branches.hold_the_same([node, peer]);
            }
        }
    }

    /// Whether a node stands apart from another one because both went on alone.
    #[must_use]
    pub fn is_split(&self, node: NodeId) -> bool {
        self.is_up(node) && self.split_from(node).is_some()
    }

    /// A node from which another one stands apart by a verdict.
    #[must_use]
    pub fn split_from(&self, node: NodeId) -> Option<NodeId> {
        let status = self.status(node);
        let is_apart = |connection: &&ConnectionReport| {
            connection.connection_state == ConnectionState::StandAlone && connection.rule.is_some()
        };
        status.connections.iter().find(is_apart).map(|connection| connection.peer_node_id)
    }

    /// What an order excuses.
    pub(super) fn note_warrant(&mut self, node: NodeId, order: &Order) {
        match order {
            Order::ResolveSplitBrain { giving, .. } if !giving.is_rehearsal => {
                self.branches.may_discard(node);
                self.watch.loss_named();
            }
            Order::Promote { warrant: Warrant::Force, .. }
            | Order::AcceptNewVoter { is_rehearsal: false, .. } => self.loss_is_named(),
            Order::Promote { warrant: Warrant::PeerIsFenced, .. }
                if !fault_budget::is_proved_silent(self, node) =>
            {
                self.loss_is_named();
            }
            _ => {}
        }
    }

    /// From here on two may serve, and what one of them completed may be missing on the other.
    pub(super) fn loss_is_named(&mut self) {
        self.watch.loss_named();
        self.branches.part_from_now_on();
    }
}
