//! Law I2: a term has one Primary, and whoever is Primary was granted a term that nobody else was.

use std::collections::BTreeMap;

use replicator::state::Role;
use replicator::units::{NodeId, Term};

/// Who was seen as Primary of which term.
#[derive(Debug, Default)]
pub struct SinglePrimary {
    primaries: BTreeMap<Term, NodeId>,
}

impl SinglePrimary {
    /// A node says its role and its term.
    ///
    /// # Panics
    /// Another node was Primary of that term, or of another one with the same number.
    pub fn observe(&mut self, node: NodeId, role: Role, term: Term) {
        if role != Role::Primary {
            return;
        }
        let other = self.primaries.iter().find(|(known, _)| known.number == term.number);
        if let Some((known, primary)) = other {
            assert!(
                *known == term && *primary == node,
                "violation: {node} and {primary} are Primary of term {term}"
            );
        }
        self.primaries.insert(term, node);
    }
}
