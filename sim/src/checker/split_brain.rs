//! Law I8: what clients were told to be written is taken back by order only. A generation in which a write was completed
//! leaves a node's lineage only while another node holds it too, or after an operator has named the loss.

use std::collections::BTreeSet;

use replicator::layout::superblock::Superblock;
use replicator::units::{GenerationId, NodeId};

use super::watch::Seen;

/// In which generations writes were completed.
#[derive(Debug, Default)]
pub struct SplitBrain {
    completed: BTreeSet<GenerationId>,
}

impl SplitBrain {
    /// A write was completed in this generation.
    pub fn completed(&mut self, generation: GenerationId) {
        self.completed.insert(generation);
    }

    /// A superblock is on a node's disk.
    ///
    /// # Panics
    /// It takes back what was completed and is nowhere else.
    pub fn observe(&self, seen: &[Seen], node: NodeId, next: &Superblock) {
        let before = seen[node.index()].superblock.lineage.generations();
        let dropped = before.iter().filter(|generation| next.lineage.find(generation.id).is_none());
        // Old ones are merged where there are too many; what is taken back is at the end.
        let last_kept = before.iter().rposition(|generation| next.lineage.find(generation.id).is_some());
        let is_end = |id: GenerationId| {
            before.iter().position(|generation| generation.id == id).is_some_and(|at| Some(at) > last_kept)
        };
        for generation in dropped.filter(|generation| is_end(generation.id)) {
            let is_elsewhere = seen.iter().enumerate().any(|(at, other)| {
                at != node.index() && other.superblock.lineage.find(generation.id).is_some()
            });
            assert!(
                is_elsewhere || !self.completed.contains(&generation.id),
                "violation of I8: {node} takes back generation {}, in which writes were completed",
                generation.id
            );
        }
    }
}
