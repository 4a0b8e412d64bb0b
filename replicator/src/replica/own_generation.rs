//! Whether a Primary's newest generation covers what it writes next: not after a member was taken out of the in-sync
//! set. Where that member comes back before anything was completed without it, no generation is made (semantics §3): a
//! generation tells apart what somebody has not seen. So what waits to be completed waits a moment for whoever is back.

use crate::effect::{Effect, Effects};
use crate::generation::lineage::Generation;
use crate::notice::Notice;
use crate::promotion::membership::InSyncSet;
use crate::superblock_keeper::Revision;
use crate::units::{GenerationId, NodeId, Span, Tick};

use super::Replica;

/// How long completions may be held back for lost members that are linked again, before they enter the set.
const RETURN_PATIENCE: Span = Span::from_millis(500);

/// Whether this Primary's newest generation covers what it writes next.
#[derive(Clone, Copy, Debug)]
pub(super) enum OwnGeneration {
    /// It does.
    Current,
    /// A peer will not see what comes next: a new one must be durable before anything more is completed.
    Due(Absence),
    /// It is being recorded.
    Recording(Revision),
}

/// Members that were taken out of the set, and without which nothing has been completed yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence {
    missing: InSyncSet,
    /// Since when something has waited for their return.
    awaited_since: Option<Tick>,
}

impl OwnGeneration {
    /// After the recorded set has changed.
    pub(super) fn of_another_set(self, before: &InSyncSet, after: &InSyncSet) -> Self {
        match (self, Absence::between(before, after)) {
            (Self::Due(absence), None) if absence.is_over(after) => Self::Current,
            (Self::Due(absence), Some(lost)) => Self::Due(absence.joined_with(&lost)),
            (Self::Current, Some(lost)) => Self::Due(lost),
            // What is being recorded begins behind everything that has a number: it covers this too.
            (Self::Recording(revision), Some(_)) => Self::Recording(revision),
            (generation, None) => generation,
        }
    }

    pub(super) fn absence(&self) -> Option<&Absence> {
        match self {
            Self::Due(absence) => Some(absence),
            Self::Current | Self::Recording(_) => None,
        }
    }

    fn absence_mut(&mut self) -> Option<&mut Absence> {
        match self {
            Self::Due(absence) => Some(absence),
            Self::Current | Self::Recording(_) => None,
        }
    }
}

impl Absence {
    /// Those of `before` that are not in `after`, if there are any.
    fn between(before: &InSyncSet, after: &InSyncSet) -> Option<Self> {
        let missing = after.iter().fold(*before, |missing, (node, _)| missing.without(node));
        (!missing.is_empty()).then_some(Self { missing, awaited_since: None })
    }

    /// This one and another.
    fn joined_with(self, other: &Self) -> Self {
        let missing = other.missing.iter().fold(self.missing, |all, (node, run)| all.with(node, run));
        Self { missing, ..self }
    }

    /// Whether everybody is a member again: whoever enters holds everything that is complete.
    fn is_over(&self, in_sync: &InSyncSet) -> bool {
        self.missing.iter().all(|(node, _)| in_sync.has_node(node))
    }

    /// Whether something waits for a return.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited_since.is_some()
    }

    /// Until when what waits may wait for more than a proposal.
    pub(super) fn awaited_until(&self) -> Option<Tick> {
        self.awaited_since.map(|since| since.plus(RETURN_PATIENCE))
    }
}

impl Replica {
    /// Whether everybody who has missed nothing yet is on the way back into the set. Whoever is not linked is not; and
    /// whoever takes its time with what it lacks is not waited for.
    pub(super) fn awaits_return(&mut self) -> bool {
        let now = self.now;
        let Some(absence) = self.reign.as_mut().and_then(|reign| reign.generation_mut().absence_mut()) else {
            return false;
        };
        let since = *absence.awaited_since.get_or_insert(now);
        let missing = absence.missing;
        let Some(reign) = &self.reign else { return false };
        let is_in_time = now < since.plus(RETURN_PATIENCE);
        let is_back = |node: NodeId| self.configured_peer(node).is_some_and(|peer| self.is_following(peer));
        missing.iter().all(|(node, _)| reign.lets_in(node) || (is_in_time && is_back(node)))
    }

    /// Appends a generation that begins with the next write. The caller has flushed everything before it.
    pub(super) fn append_generation(&mut self, is_granted: bool, effects: &mut Effects) -> Revision {
        assert!(
            self.disk_fault.is_some() || self.journal.flushed() == self.assigned(),
            "I5: a generation begins behind what is flushed"
        );
        let generation = Generation {
            id: GenerationId(self.random.identity()),
            term: self.record().term,
            granted: is_granted,
            first_lsn: self.assigned().next(),
        };
        let bases = self.base_generations();
        let text = format!("generation {} begins with write {}", generation.id, generation.first_lsn);
        effects.push(Effect::Notify(Notice::info("generation", text)));
        self.superblock.change(|content| content.lineage.append(generation, &bases))
    }

    /// The generations that peers may stand at: they must stay in the lineage. A peer may have begun the one behind what it
    /// is known to have flushed; of whom nothing is known it is the oldest.
    fn base_generations(&self) -> Vec<GenerationId> {
        let lineage = &self.superblock.content().lineage;
        let replicas = self.peers.iter().filter(|peer| peer.is_replica());
        let at = |lsn| lineage.generation_of(lsn).or(lineage.generations().first());
        let bases = replicas.flat_map(|peer| [at(peer.flushed), at(peer.flushed.next())]);
        bases.flatten().map(|generation| generation.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::units::Incarnation;

    use super::*;

    #[test]
    fn an_absence_is_over_when_the_last_of_the_missing_is_a_member_again_as_whichever_run() {
        let set = |nodes: &[u8]| {
            nodes.iter().fold(InSyncSet::default(), |set, node| set.with(NodeId(*node), Incarnation(1)))
        };
        let (all, some, one) = (set(&[0, 1, 2]), set(&[0, 1]), set(&[0]));
        assert!(Absence::between(&one, &all).is_none(), "nobody was lost");
        let absence = Absence::between(&all, &some).expect("node 2 was lost");
        let absence = absence.joined_with(&Absence::between(&some, &one).expect("and then node 1"));
        assert!(!absence.is_over(&some), "node 2 is not back");
        assert!(absence.is_over(&some.with(NodeId(2), Incarnation(9))));
    }
}
