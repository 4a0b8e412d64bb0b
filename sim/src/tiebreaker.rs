//! The tiebreaker of the world: the real one, with a file that is stored a little later than asked.

use replicator::layout::superblock::ResourceName;
use replicator::promotion::membership::MembershipRecord;
use replicator::promotion::tiebreaker::{Tiebreaker, TiebreakerConfig};
use replicator::promotion::tiebreaker_file::{TiebreakerState, choose_newest};
use replicator::units::{BLOCK_SIZE, NodeId, VoterId};

/// A tiebreaker and its file.
#[derive(Debug)]
pub struct SimTiebreaker {
    /// Its number.
    pub id: NodeId,
    /// Its random identity.
    pub voter: VoterId,
    config: TiebreakerConfig,
    copies: [Box<[u8; BLOCK_SIZE]>; 2],
    /// What they say.
    record: MembershipRecord,
    /// The page that is being stored.
    pub storing: Option<Box<[u8; BLOCK_SIZE]>>,
    /// It, while its daemon runs.
    pub running: Option<Tiebreaker>,
    /// How often it was started.
    pub run: u64,
}

impl SimTiebreaker {
    /// A tiebreaker with a new file.
    #[must_use]
    pub fn create(config: TiebreakerConfig, id: NodeId, voter: VoterId) -> Self {
        let resource = ResourceName::parse("sim").expect("a legal name");
        let page = TiebreakerState::new(resource, id, voter).encode();
        let copies = [page.clone(), page];
        let record = MembershipRecord::default();
        Self { id, voter, config, copies, record, storing: None, running: None, run: 0 }
    }

    /// Starts its daemon.
    pub fn start(&mut self) {
        let state = choose_newest(&self.copies[0][..], &self.copies[1][..]).expect("one copy is whole");
        self.running = Some(Tiebreaker::new(self.config, state));
        self.run += 1;
    }

    /// What it was told.
    #[must_use]
    pub fn config(&self) -> TiebreakerConfig {
        self.config
    }

    /// The record in its file.
    #[must_use]
    pub fn stored(&self) -> MembershipRecord {
        self.record
    }

    fn look(&mut self) {
        let newest = choose_newest(&self.copies[0][..], &self.copies[1][..]).expect("one copy is whole");
        self.record = newest.record;
    }

    /// A copy of its file, as nobody should make one.
    #[must_use]
    pub fn back_up(&self) -> [Box<[u8; BLOCK_SIZE]>; 2] {
        self.copies.clone()
    }

    /// Puts back a copy of its file that was made earlier.
    pub fn restore(&mut self, copies: [Box<[u8; BLOCK_SIZE]>; 2]) {
        self.copies = copies;
        self.look();
    }

    /// Both copies are stored.
    pub fn store(&mut self) {
        if let Some(page) = self.storing.take() {
            self.copies = [page.clone(), page];
            self.look();
        }
    }

    /// Its daemon dies; a store in flight has reached no copy, the first, or both.
    pub fn kill(&mut self, copies_reached: usize) {
        self.running = None;
        if let Some(page) = self.storing.take() {
            for copy in self.copies.iter_mut().take(copies_reached) {
                copy.clone_from(&page);
            }
            self.look();
        }
    }
}
