//! The voters' record: {term, version, Primary, in-sync set, voters}. What it says, and when one may replace another.

use serde::Serialize;

use crate::units::{Incarnation, NodeId, REPLICAS_MAX, Term, VOTERS_MAX, VoterId};

/// The replicas that hold every completed write, each as (node, incarnation).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InSyncSet {
    members: [Option<Incarnation>; REPLICAS_MAX],
}

impl InSyncSet {
    /// The set of one member.
    #[must_use]
    pub fn of(node: NodeId, incarnation: Incarnation) -> Self {
        Self::default().with(node, incarnation)
    }

    /// This set with `node` in it as `incarnation`.
    #[must_use]
    pub fn with(mut self, node: NodeId, incarnation: Incarnation) -> Self {
        assert!(incarnation.0 != 0, "a member has an incarnation");
        self.members[node.index()] = Some(incarnation);
        self
    }

    /// This set without `node`.
    #[must_use]
    pub fn without(mut self, node: NodeId) -> Self {
        self.members[node.index()] = None;
        self
    }

    /// The incarnation as which `node` is a member.
    #[must_use]
    pub fn incarnation_of(&self, node: NodeId) -> Option<Incarnation> {
        self.members.get(node.index()).copied().flatten()
    }

    /// Whether `node` is a member, whatever its incarnation.
    #[must_use]
    pub fn has_node(&self, node: NodeId) -> bool {
        self.incarnation_of(node).is_some()
    }

    /// Whether `node` lives on as the very member that the set names: as that run of its daemon, or as one that can
    /// prove to continue it without loss.
    #[must_use]
    pub fn is_continued_by(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        continues: Option<Incarnation>,
    ) -> bool {
        self.incarnation_of(node)
            .is_some_and(|recorded| recorded == incarnation || Some(recorded) == continues)
    }

    /// The members in node order.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Incarnation)> + '_ {
        let numbered = (0u8..).zip(self.members.iter());
        numbered.filter_map(|(node, member)| member.map(|incarnation| (NodeId(node), incarnation)))
    }

    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether nobody is a member: only before the first promotion.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Identities of all voters; an identity of zero is one that nobody has met yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VoterList {
    /// Identity of the voter with each node number.
    pub ids: [VoterId; VOTERS_MAX],
}

/// What a majority of the voters agrees on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MembershipRecord {
    /// The reign.
    pub term: Term,
    /// Grows within the reign with every change.
    pub version: u64,
    /// The Primary of this reign; nobody after a demotion.
    pub primary: Option<NodeId>,
    /// Who holds every completed write.
    pub in_sync: InSyncSet,
    /// Who votes.
    pub voters: VoterList,
}

impl MembershipRecord {
    /// Whether this is the record of a voter that never took part in a promotion.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.term == Term::ZERO
    }

    /// The record that ends its reign, or its term if that never became one.
    #[must_use]
    pub fn ended(&self) -> Self {
        Self { version: self.version + 1, primary: None, ..*self }
    }

    /// The nodes that it says something of.
    pub fn named(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.in_sync.iter().map(|(node, _)| node).chain(self.primary)
    }

    /// Whether both are of terms with one number, taken by two candidates: a majority has granted one of them at most.
    #[must_use]
    pub fn is_rival_of(&self, other: &Self) -> bool {
        self.term.number == other.term.number && self.term != other.term
    }

    /// Law I2: what a voter may have stored after this record.
    #[must_use]
    pub fn may_give_way_to(&self, next: &Self) -> bool {
        next.order() > self.order() || next.is_rival_of(self)
    }

    /// Its age: a voter stores a record only if this is greater than its own, or if its own is of a term that was never
    /// granted.
    #[must_use]
    pub fn order(&self) -> (Term, u64) {
        (self.term, self.version)
    }
}

/// A member of the in-sync set, for status and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The run of its daemon.
    pub incarnation: Incarnation,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_leaves_and_returns_as_another_incarnation() {
        let set = InSyncSet::of(NodeId(0), Incarnation(7)).with(NodeId(1), Incarnation(8));
        assert_eq!(set.len(), 2);
        let alone = set.without(NodeId(1));
        assert!(!alone.has_node(NodeId(1)));
        assert_eq!(alone.with(NodeId(1), Incarnation(9)).incarnation_of(NodeId(1)), Some(Incarnation(9)));
    }
}
