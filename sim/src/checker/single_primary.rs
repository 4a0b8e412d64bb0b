//! Law I2: a term has one Primary, and once a Primary of a later term serves, those of earlier terms answer no read, and
//! no write that they are asked for from then on. Where a majority grants terms; without one two may serve. Whoever is
//! promoted by force may take a number that a majority grants to another node: the two are different terms.

use std::collections::BTreeMap;

use replicator::units::{NodeId, Term};

/// Who served in which term, and since when.
#[derive(Debug, Default)]
pub struct SinglePrimary {
    reigns: BTreeMap<Term, (NodeId, u64)>,
    /// The last term that each node served in.
    last: BTreeMap<NodeId, Term>,
    /// Whether an operator has forced something.
    is_forced: bool,
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
    /// An operator forces something.
    pub fn forced(&mut self) {
        self.is_forced = true;
    }

    /// A node begins to serve in the term that is on its disk.
    ///
    /// # Panics
    /// Another node served in that term, or, unless somebody was forced, in another one with the same number.
    pub fn serves(&mut self, node: NodeId, term: Term, now: u64) {
        let is_alike = |known: Term| if self.is_forced { known == term } else { known.number == term.number };
        let other = self.reigns.iter().find(|(known, _)| is_alike(**known));
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
        let is_later = |term: Term| if self.is_forced { term.number > own.number } else { term > *own };
        let later = self.reigns.iter().find(|(term, (_, began))| is_later(**term) && is_late(*began));
        if let Some((term, (primary, began))) = later {
            panic!(
                "violation of I2: {node} answers in term {own} with {answered:?} what was asked at {asked}; {primary} serves in term {term} since {began}"
            );
        }
    }
}
