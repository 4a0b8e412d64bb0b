//! Law I2: a term has one Primary, and once a Primary of a later term serves, those of earlier terms answer no read, and
//! no write that they are asked for from then on. Where a majority grants terms; without one two may serve.

use std::collections::BTreeMap;

use replicator::units::{NodeId, Term};

/// Who served in which term, and since when.
#[derive(Debug, Default)]
pub struct SinglePrimary {
    reigns: BTreeMap<Term, (NodeId, u64)>,
    /// The last term that each node served in.
    last: BTreeMap<NodeId, Term>,
}

/// What a client was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// What a read asked for.
    Bytes,
    /// That a write, or a flush, is done.
    Done,
}

impl SinglePrimary {
    /// A node begins to serve in the term that is on its disk.
    ///
    /// # Panics
    /// Another node served in that term, or in another one with the same number.
    pub fn serves(&mut self, node: NodeId, term: Term, now: u64) {
        let other = self.reigns.iter().find(|(known, _)| known.number == term.number);
        if let Some((known, (primary, _))) = other {
            assert!(
                *known == term && *primary == node,
                "violation of I2: {node} and {primary} are Primary of term {term}"
            );
        }
        self.reigns.entry(term).or_insert((node, now));
        self.last.insert(node, term);
    }

    /// A node answers something that it was asked at `asked`.
    ///
    /// # Panics
    /// Another node had begun to serve in a later term before.
    pub fn answers(&self, node: NodeId, answered: Answered, asked: u64, now: u64) {
        let Some(own) = self.last.get(&node) else { return };
        let is_late = |began: u64| match answered {
            Answered::Bytes => began < now,
            Answered::Done => began < asked,
        };
        let later = self.reigns.iter().find(|(term, (_, began))| *term > own && is_late(*began));
        if let Some((term, (primary, began))) = later {
            panic!(
                "violation of I2: {node} answers in term {own} with {answered:?} what was asked at {asked}; {primary} serves in term {term} since {began}"
            );
        }
    }
}
