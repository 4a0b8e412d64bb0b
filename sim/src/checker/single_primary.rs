//! Law I2: a term has one Primary. Where a majority, or honest fence commands, see to that, its number is given once too,
//! and once a Primary of a later term serves, those of earlier terms answer no read, and no write that they are asked for
//! from then on.

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
    /// Another node served in that term.
    pub fn serves(&mut self, node: NodeId, term: Term, now: u64) {
        let (primary, _) = *self.reigns.entry(term).or_insert((node, now));
        assert!(primary == node, "violation of I2: {node} and {primary} are Primary of term {term}");
        self.last.insert(node, term);
    }

    /// Nobody was forced, so the number of the term in which a node serves was given to nobody else.
    ///
    /// # Panics
    /// Another node served in a term of that number.
    pub fn is_the_only_one(&self, node: NodeId) {
        let Some(own) = self.last.get(&node) else { return };
        let other = self.reigns.iter().find(|(term, _)| term.number == own.number && *term != own);
        if let Some((term, (primary, _))) = other {
            panic!("violation of I2: {node} is Primary of term {own}, {primary} of term {term}");
        }
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
