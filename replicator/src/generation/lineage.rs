//! The lineage of a node's data: the generations it went through, newest last (semantics §4).
//! Knows how to append, cut, and stay bounded; what two lineages mean together is `compare`'s business.

use serde::Serialize;

use crate::units::{GenerationId, Lsn, Term};

/// Most generations that a lineage holds. Older ones are merged, never a base's and never the newest.
pub const GENERATIONS_MAX: usize = 64;

/// A stretch of history: everything one Primary wrote from its promotion, or from the moment it went on
/// without a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Generation {
    /// Its identity, random.
    pub id: GenerationId,
    /// The reign that made it.
    pub term: Term,
    /// Whether a majority recorded that term. Forced promotions, `fence` and `continue` are not granted.
    pub granted: bool,
    /// The first write that belongs to it.
    pub first_lsn: Lsn,
}

/// Where a node's data stands: enough to say which of two in-sync copies is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Position {
    /// Reign of the newest generation.
    pub term: Term,
    /// Where the newest generation starts.
    pub first_lsn: Lsn,
    /// Newest write that is flushed.
    pub lsn: Lsn,
    /// The newest generation.
    pub generation: GenerationId,
}

impl Position {
    /// Which of two copies is ahead: by reign, then by generation within the reign, then by write. Identities have no
    /// order, so the generation's does not decide.
    #[must_use]
    pub fn age(&self) -> (Term, Lsn, Lsn) {
        (self.term, self.first_lsn, self.lsn)
    }
}

/// The generations of a node's data, oldest first. Empty on a node that never held data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Lineage {
    generations: Vec<Generation>,
}

/// Why bytes from disk or wire are no lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineageError {
    /// More entries than fit.
    #[error("{0} generations, at most {GENERATIONS_MAX} are legal")]
    TooLong(usize),
    /// Entry `0` starts before its predecessor, or has a lower term.
    #[error("generation number {0} is older than its predecessor")]
    Disordered(usize),
    /// An identity of zero.
    #[error("generation number {0} has no identity")]
    Nameless(usize),
}

impl Lineage {
    /// The lineage of a volume of zeroes.
    #[must_use]
    pub fn zeroed() -> Self {
        let zeroed =
            Generation { id: GenerationId::ZEROED, term: Term::ZERO, granted: true, first_lsn: Lsn(1) };
        Self { generations: vec![zeroed] }
    }

    /// The lineage of a volume whose content was there before twinblk (`--uptodate`).
    #[must_use]
    pub fn adopted(id: GenerationId) -> Self {
        Self { generations: vec![Generation { id, term: Term::ZERO, granted: true, first_lsn: Lsn(1) }] }
    }

    /// A lineage from disk or wire.
    ///
    /// # Errors
    /// Too many entries, entries out of order, or an entry without identity.
    pub fn parse(generations: Vec<Generation>) -> Result<Self, LineageError> {
        if generations.len() > GENERATIONS_MAX {
            return Err(LineageError::TooLong(generations.len()));
        }
        if let Some(at) = generations.iter().position(|generation| generation.id.0 == 0) {
            return Err(LineageError::Nameless(at));
        }
        let disordered =
            |pair: &[Generation]| pair[1].first_lsn < pair[0].first_lsn || pair[1].term < pair[0].term;
        match generations.windows(2).position(disordered) {
            Some(at) => Err(LineageError::Disordered(at + 1)),
            None => Ok(Self { generations }),
        }
    }

    /// The generations, oldest first.
    #[must_use]
    pub fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// Whether this node never held data.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.generations.is_empty()
    }

    /// The newest generation.
    #[must_use]
    pub fn newest(&self) -> Option<&Generation> {
        self.generations.last()
    }

    /// Identity of the newest generation; zero if there is none.
    #[must_use]
    pub fn newest_id(&self) -> GenerationId {
        self.newest().map_or(GenerationId::default(), |generation| generation.id)
    }

    /// The generation that write `lsn` belongs to.
    #[must_use]
    pub fn generation_of(&self, lsn: Lsn) -> Option<&Generation> {
        self.generations.iter().rev().find(|generation| generation.first_lsn <= lsn)
    }

    /// The generation with this identity.
    #[must_use]
    pub fn find(&self, id: GenerationId) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.id == id)
    }

    /// The generations after the one with identity `id`, oldest first.
    #[must_use]
    pub fn after(&self, id: GenerationId) -> &[Generation] {
        let at = self.generations.iter().position(|generation| generation.id == id);
        at.map_or(&self.generations[..], |at| &self.generations[at + 1..])
    }

    /// The generations that begin at `lsn` or before: what a node knows that begins there, or is sent the write there.
    #[must_use]
    pub fn up_to(&self, lsn: Lsn) -> Self {
        let known = self.generations.iter().take_while(|generation| generation.first_lsn <= lsn);
        Self { generations: known.copied().collect() }
    }

    /// Where a node with this lineage stands if it has flushed up to `lsn`.
    #[must_use]
    pub fn position(&self, lsn: Lsn) -> Position {
        self.newest().map_or(Position::default(), |newest| Position {
            term: newest.term,
            first_lsn: newest.first_lsn,
            lsn,
            generation: newest.id,
        })
    }

    /// Appends a generation. `bases` are the generations that peers are known to stand at; they and the
    /// newest stay, the others make room when the lineage is full: first those older than every base,
    /// then those between bases, which are merged into their successors. A successor counts as not granted from then
    /// on: a node that ends in the merged one must not be taken for a rival reign that completed nothing.
    pub fn append(&mut self, generation: Generation, bases: &[GenerationId]) {
        if let Some(newest) = self.newest() {
            assert!(generation.first_lsn >= newest.first_lsn, "I5: generations follow one another");
            assert!(generation.term >= newest.term, "I2: terms never go back");
        }
        assert!(self.find(generation.id).is_none(), "a generation is appended once");
        if self.generations.len() == GENERATIONS_MAX {
            let is_base = |at: &usize| bases.contains(&self.generations[*at].id);
            let last = self.generations.len() - 1;
            let victim = (0..last).find(|at| !is_base(at)).expect("there are fewer bases than generations");
            self.generations.remove(victim);
            if victim > 0 {
                self.generations[victim].granted = false;
            }
        }
        self.generations.push(generation);
    }

    /// Takes away every generation after the one with identity `id`.
    pub fn cut_after(&mut self, id: GenerationId) {
        let at = self.generations.iter().position(|generation| generation.id == id);
        let at = at.expect("a lineage is cut at one of its own generations");
        self.generations.truncate(at + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: u64) -> Generation {
        let term = Term { number, taker: 1 };
        Generation { id: GenerationId(number), term, granted: true, first_lsn: Lsn(number * 10) }
    }

    #[test]
    fn a_full_lineage_drops_the_oldest_that_is_no_base() {
        let mut lineage = Lineage::default();
        for number in 1..=u64::try_from(GENERATIONS_MAX).expect("small") {
            lineage.append(generation(number), &[]);
        }
        lineage.append(generation(1000), &[GenerationId(1), GenerationId(2)]);
        assert_eq!(lineage.generations().len(), GENERATIONS_MAX);
        assert!(lineage.find(GenerationId(1)).is_some());
        assert!(lineage.find(GenerationId(2)).is_some());
        assert!(lineage.find(GenerationId(3)).is_none());
        let granted: Vec<bool> = lineage.generations().iter().take(4).map(|entry| entry.granted).collect();
        assert_eq!(
            granted,
            [true, true, false, true],
            "the one behind the merged one is not granted any more"
        );
        assert_eq!(lineage.newest_id(), GenerationId(1000));
    }

    #[test]
    fn a_write_belongs_to_the_newest_generation_that_starts_at_or_before_it() {
        let mut lineage = Lineage::zeroed();
        lineage.append(generation(2), &[]);
        assert_eq!(lineage.generation_of(Lsn(19)).map(|g| g.id), Some(GenerationId::ZEROED));
        assert_eq!(lineage.generation_of(Lsn(20)).map(|g| g.id), Some(GenerationId(2)));
    }

    #[test]
    fn disordered_bytes_are_no_lineage() {
        let (a, b) = (generation(1), generation(2));
        assert_eq!(Lineage::parse(vec![b, a]), Err(LineageError::Disordered(1)));
        assert!(Lineage::parse(vec![a, b]).is_ok());
        assert_eq!(Lineage::parse(vec![a; 65]), Err(LineageError::TooLong(65)));
    }

    #[test]
    fn within_one_reign_the_longer_history_is_ahead() {
        let mut lineage = Lineage::zeroed();
        let behind = lineage.position(Lsn(100));
        lineage.append(generation(2), &[]);
        assert!(lineage.position(Lsn(30)).age() > behind.age(), "a later reign is ahead whatever the Lsn");
        assert!(lineage.position(Lsn(31)).age() > lineage.position(Lsn(30)).age());
    }
}
