//! Who votes: each node number is a seat, and a voter list says which identity has it. How the list changes while voters
//! are replaced (docs/decisions 14). Pure and without memory.
//!
//! Rule: lists change by one seat at a time, and by two steps: the seat is emptied, and only when a majority of the list
//! with the empty seat has stored that, somebody new gets it. So every majority of one list meets every majority of the
//! next in a voter that remembers, and a voter that forgot what it had promised never makes a majority by itself.

#[cfg(test)]
mod tests;

use crate::promotion::membership::{InSyncSet, MembershipRecord, VoterList};
use crate::units::{NodeId, VoterId};

/// Who has a seat that was emptied. Whoever had it votes no more; nobody has it yet.
pub const NOBODY: VoterId = VoterId(u64::MAX);
/// A seat that was never taken: its voter has not been met.
const UNMET: VoterId = VoterId(0);

/// Whether nobody has the seat.
#[must_use]
pub fn is_free(seat: VoterId) -> bool {
    seat == UNMET || seat == NOBODY
}

/// Whether a list has a seat for every voter of a configuration, and for nobody else.
#[must_use]
pub fn are_seats_of(list: &VoterList, voters: usize) -> bool {
    list.ids.iter().enumerate().all(|(at, id)| (*id != UNMET) == (at < voters))
}

/// Whether nobody is listed under another identity than the one known.
#[must_use]
pub fn fits(known: &VoterList, listed: &VoterList) -> bool {
    let fits_one =
        |(known, listed): (&VoterId, VoterId)| is_free(*known) || *known == listed || listed == NOBODY;
    known.ids.iter().zip(listed.ids).all(fits_one)
}

/// Whether a list names a voter as whom it knows itself.
#[must_use]
pub fn names(list: &VoterList, node: NodeId, known: &VoterList) -> bool {
    let of = |list: &VoterList| list.ids.get(node.index()).copied().unwrap_or_default();
    of(list) == of(known) && !is_free(of(list))
}

/// The identity that has a seat, as far as a voter knows that has stored this record and met these.
#[must_use]
pub fn holder(record: &MembershipRecord, met: &VoterList, node: NodeId) -> VoterId {
    let list = if record.is_empty() { met } else { &record.voters };
    list.ids.get(node.index()).copied().unwrap_or_default()
}

/// The identities that a voter goes by once it has stored a record: whoever gets an empty seat is met anew.
#[must_use]
pub fn met_by(list: &VoterList) -> VoterList {
    VoterList { ids: list.ids.map(|id| if is_free(id) { UNMET } else { id }) }
}

/// A voter that is linked under a number, as its link shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The number.
    pub node: NodeId,
    /// The identity that it has proved to have.
    pub voter: VoterId,
    /// Whether it has shown that it never stored a record: its metadata is new.
    pub is_new: bool,
    /// Whether an operator has accepted what may be lost by taking it in at once.
    pub is_accepted: bool,
}

/// A Primary's list, and what it takes to change it.
#[derive(Clone, Copy, Debug)]
pub struct Seats<'a> {
    /// The newest list, stored by enough voters.
    pub list: &'a VoterList,
    /// The newest in-sync set: the seats of its members are not emptied.
    pub in_sync: &'a InSyncSet,
    /// Every other voter that is linked.
    pub linked: &'a [Claimant],
    /// How many have to store a list.
    pub needed: usize,
}

impl Seats<'_> {
    /// The next list, if one of the linked voters makes a change necessary and enough others can store it.
    #[must_use]
    pub fn next(&self) -> Option<VoterList> {
        self.linked.iter().filter_map(|claimant| self.with(claimant)).next()
    }

    fn with(&self, claimant: &Claimant) -> Option<VoterList> {
        let node = claimant.node;
        let holder = *self.list.ids.get(node.index())?;
        let with = |voter| {
            let mut list = *self.list;
            list.ids[node.index()] = voter;
            Some(list)
        };
        if holder == claimant.voter || self.in_sync.has_node(node) {
            return None;
        }
        match is_free(holder) {
            // Whoever it is: it remembers what it has promised, or its promises count no more.
            true => with(claimant.voter),
            false if claimant.is_accepted => with(claimant.voter),
            false if claimant.is_new && self.answering_without(node) >= self.needed => with(NOBODY),
            false => None,
        }
    }

    /// How many voters can store a list in which this seat is empty, the Primary included.
    fn answering_without(&self, node: NodeId) -> usize {
        let has_seat = |other: &&Claimant| self.list.ids[other.node.index()] == other.voter;
        1 + self.linked.iter().filter(|other| other.node != node).filter(has_seat).count()
    }
}
