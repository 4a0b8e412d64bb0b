//! Which history a node's clients see. As long as nobody may go on without asking those who may know more there is one, and
//! a completed write is in it for ever (I1). Where that may happen - under `on-peer-lost = "continue"`, or after an operator
//! forced a promotion, or a fence command lied - every reign begins a history of its own: what its node had for certain
//! stays certain, anything else that was asked for before may be there or not, and what other nodes are asked for from
//! then on never is (two histories are never merged). A node goes over to another history when it becomes a member of
//! the set of a node that follows that one; what it had completed alone is gone then, and only an order excuses that (I8).

use std::collections::BTreeMap;

use replicator::units::{ByteRange, NodeId};

use super::durability::Durability;
use crate::workload::Ask;

/// Some of the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeSet(u8);

impl NodeSet {
    /// Every node.
    pub const ALL: Self = Self(u8::MAX);

    /// One node.
    #[must_use]
    pub fn of(node: NodeId) -> Self {
        Self(1 << node.index())
    }

    /// Whether a node is one of them.
    #[must_use]
    pub fn has(self, node: NodeId) -> bool {
        self.0 & Self::of(node).0 != 0
    }

    /// With others.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Those that are in both.
    #[must_use]
    pub fn common(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Without one.
    #[must_use]
    pub fn without(self, node: NodeId) -> Self {
        Self(self.0 & !Self::of(node).0)
    }
}

/// All histories.
#[derive(Debug)]
pub struct Branches {
    histories: BTreeMap<u64, Durability>,
    next: u64,
    /// The one that each node follows.
    of: [u64; 3],
    /// The one that a node is about to follow: a verdict has made it a target.
    follows: [Option<u64>; 3],
    /// Whether every reign begins a history of its own.
    is_parting: bool,
    /// Who was ordered to give up what it wrote alone.
    may_discard: [bool; 3],
    /// Who is about to reign by force.
    is_forced: [bool; 3],
    /// Whether a policy may order it at any time.
    is_resolved_by_policy: bool,
}

impl Branches {
    /// One history; `is_parting` says that any reign may begin another one.
    #[must_use]
    pub fn new(is_parting: bool) -> Self {
        let histories = BTreeMap::from([(0, Durability::default())]);
        let (of, follows, may_discard, is_forced) = ([0; 3], [None; 3], [false; 3], [false; 3]);
        let is_resolved_by_policy = false;
        Self { histories, next: 1, of, follows, is_parting, may_discard, is_forced, is_resolved_by_policy }
    }

    /// From here on any reign may begin another history: somebody has said that something may be lost, or has lied.
    pub fn part_from_now_on(&mut self) {
        self.is_parting = true;
    }

    /// Whether any reign may begin another history.
    #[must_use]
    pub fn are_parting(&self) -> bool {
        self.is_parting
    }

    /// Whether a write that a client was told to be there would be gone if a node gave way to another one. In a world that
    /// has parted each has its own history.
    #[must_use]
    pub fn would_lose(&self, node: NodeId, to: NodeId) -> bool {
        let own = &self.histories[&self.of[node.index()]];
        !self.is_parting && own.only_on(node, to).is_some()
    }

    /// An operator wrote a policy for split brains.
    pub fn resolved_by_policy(&mut self) {
        self.is_resolved_by_policy = true;
    }

    /// A node was ordered to give up what it wrote alone.
    pub fn may_discard(&mut self, node: NodeId) {
        self.may_discard[node.index()] = true;
    }

    /// A node has said what its promotion by force loses, and goes on with it.
    pub fn forces(&mut self, node: NodeId) {
        self.is_forced[node.index()] = true;
    }

    /// Nothing comes of that any more.
    pub fn forces_no_more(&mut self, node: NodeId) {
        self.is_forced[node.index()] = false;
    }

    fn own(&mut self, node: NodeId) -> &mut Durability {
        let own = self.of[node.index()];
        self.histories.get_mut(&own).expect("every node follows one that is kept")
    }

    /// A write was asked for.
    pub fn asked(&mut self, node: NodeId, operation: u64, ask: Ask, now: u64) {
        self.own(node).asked(operation, ask, now);
    }

    /// A write was answered, while these held everything.
    pub fn completed(&mut self, node: NodeId, operation: u64, now: u64, is_flushed: bool, members: NodeSet) {
        self.own(node).completed(operation, now, is_flushed, members);
    }

    /// The client of a write gets no answer any more, or nobody can take it over any more.
    pub fn lost(&mut self, node: NodeId, operation: u64, now: u64) {
        self.own(node).lost(operation, now);
    }

    /// A flush that was asked for at `asked` was answered.
    pub fn flushed(&mut self, node: NodeId, asked: u64, members: NodeSet) {
        self.own(node).flushed(asked, members);
    }

    /// Holds what a read returned against what it may be.
    pub fn read(
        &mut self,
        node: NodeId,
        range: ByteRange,
        bytes: &[u8],
        [asked, now]: [u64; 2],
        members: NodeSet,
    ) {
        self.own(node).read(range, bytes, asked, now, members);
    }

    /// What a node has not flushed is gone. `was_last` says that nobody else held it by the newest record.
    pub fn loses_unflushed(&mut self, node: NodeId, was_last: bool) {
        for history in self.histories.values_mut() {
            history.loses_unflushed(node);
        }
        if was_last && !self.is_parting {
            self.own(node).forget_unflushed();
        }
    }

    /// A verdict makes a node the target of another one; of whom that one follows itself, if it does: it may have got
    /// something of that.
    pub fn follows(&mut self, node: NodeId, source: NodeId) {
        let (own, theirs) = (self.of[node.index()], self.of[source.index()]);
        let theirs = self.follows[source.index()].unwrap_or(theirs);
        if own != theirs {
            self.follows[node.index()] = Some(theirs);
        }
    }

    /// These are members of the set that `source` has stored: they hold what it holds.
    ///
    /// # Panics
    /// One of them gives up what it had completed alone, and nobody has ordered that.
    pub fn gathers(&mut self, source: NodeId, members: NodeSet) {
        self.own(source).copied(source, members);
        let joined = self.of[source.index()];
        for node in (0..3).map(NodeId).filter(|node| members.has(*node)) {
            let left = std::mem::replace(&mut self.of[node.index()], joined);
            self.follows[node.index()] = None;
            let is_ordered = std::mem::take(&mut self.may_discard[node.index()]);
            let is_excused = is_ordered || self.is_resolved_by_policy;
            if left != joined && !is_excused {
                let lost = self.histories[&left].lost_to(&self.histories[&joined], node);
                assert!(
                    lost.is_none(),
                    "violation of I8: {node} gives up write {lost:?} for what {source} holds, and nobody has ordered it"
                );
            }
        }
        self.forget_the_abandoned();
    }

    /// Nodes that hold the same, by the record that `maker` has stored, none of them a Primary. If the maker was a target
    /// until now, it is that of the others whose history it has taken over.
    pub fn are_equal(&mut self, maker: NodeId, members: NodeSet) {
        let followed = self.follows[maker.index()];
        let mut others = (0..3).map(NodeId).filter(|node| *node != maker && members.has(*node));
        let leader = others.find(|node| Some(self.of[node.index()]) == followed);
        self.gathers(leader.unwrap_or(maker), members);
    }

    /// Two nodes hold the very same, flushed. Whoever was brought up to date from the other one has got there.
    pub fn hold_the_same(&mut self, nodes: [NodeId; 2]) {
        let [first, second] = nodes;
        let [own, other] = nodes.map(|node| self.of[node.index()]);
        let follows = nodes.map(|node| self.follows[node.index()]);
        match follows {
            [Some(followed), None] if followed == other => self.gathers(second, NodeSet::of(first)),
            [None, Some(followed)] if followed == own => self.gathers(first, NodeSet::of(second)),
            [one, another] if one == another && own == other => {
                self.own(first).copied(second, NodeSet::of(first));
                self.own(first).copied(first, NodeSet::of(second));
            }
            _ => {} // What they hold is of a third history, or nobody can tell.
        }
    }

    /// A node has flushed whatever it holds.
    pub fn has_flushed(&mut self, node: NodeId) {
        self.own(node).has_flushed(node);
    }

    /// A node begins a reign, with these as members.
    pub fn reigns(&mut self, node: NodeId, members: NodeSet, now: u64) {
        if !self.is_parting {
            self.own(node).inherited(node);
            return;
        }
        let own = &self.histories[&self.of[node.index()]];
        let mut history = own.parted(node, now);
        if let Some(followed) = self.follows[node.index()].take() {
            history = self.histories[&followed].parted(node, now).mixed(&history, now);
        }
        if std::mem::take(&mut self.is_forced[node.index()]) {
            history.is_forced(now);
        }
        history.inherited(node);
        history.copied(node, members);
        self.histories.insert(self.next, history);
        self.of[node.index()] = self.next;
        self.next += 1;
        self.gathers(node, members);
    }

    fn forget_the_abandoned(&mut self) {
        let (of, follows) = (&self.of, &self.follows);
        self.histories.retain(|history, _| of.contains(history) || follows.contains(&Some(*history)));
    }
}
