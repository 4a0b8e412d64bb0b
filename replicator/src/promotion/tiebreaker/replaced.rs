//! Replicas that come back as somebody else: who has a seat, who is listened to, who is sent away (docs/decisions 14).

use crate::peer::message::{FarewellReason, Message};
use crate::promotion::membership::MembershipRecord;
use crate::promotion::seats;
use crate::units::{NodeId, Tick, VoterId};

use super::{DropReason, Tiebreaker, TiebreakerEffect};

impl Tiebreaker {
    /// The identity that has the seat of a replica, as far as the tiebreaker knows.
    pub(super) fn seat_of(&self, peer: NodeId) -> VoterId {
        seats::holder(&self.durable.record, &self.durable.known, peer)
    }

    /// Whether the replica that is linked under this number is the one that has the seat.
    pub(super) fn has_seat(&self, peer: NodeId) -> bool {
        self.links.get(&peer).is_some_and(|held| held.voter == self.seat_of(peer))
    }

    /// Whether records are taken from a replica: also where its seat was emptied, and it may have got it meanwhile.
    pub(super) fn may_bring_records(&self, peer: NodeId) -> bool {
        self.has_seat(peer) || (!self.durable.record.is_empty() && seats::is_free(self.seat_of(peer)))
    }

    /// Whether a replica without a seat shows that it had one, and was replaced since.
    pub(super) fn is_left_behind(&self, peer: NodeId, shown: &MembershipRecord) -> bool {
        let has_a_seat = self.has_seat(peer) || seats::is_free(self.seat_of(peer));
        !has_a_seat && !shown.is_empty() && shown.order() < self.durable.record.order()
    }

    pub(super) fn send_away(&mut self, now: Tick, peer: NodeId, effects: &mut Vec<TiebreakerEffect>) {
        let (found, known) = (self.links[&peer].voter, self.seat_of(peer));
        self.send(now, peer, &Message::Farewell { reason: FarewellReason::UnknownVoter }, effects);
        self.drop_link(peer, DropReason::UnknownVoter { found, known }, effects);
    }

    /// Before the first promotion a replica that was made anew is met anew, if the others are there and have no record
    /// either: nobody has promised anything. Says whether that is being stored.
    pub(super) fn meet_anew(&mut self, effects: &mut Vec<TiebreakerEffect>) -> bool {
        if !self.durable.record.is_empty() || self.links.len() < self.config.replicas {
            return false;
        }
        let strangers = self.links.iter().filter(|(peer, _)| {
            let seat = self.seat_of(**peer);
            !seats::is_free(seat) && !self.has_seat(**peer)
        });
        let strangers: Vec<_> = strangers.map(|(peer, held)| (*peer, held.voter)).collect();
        let [(peer, voter)] = strangers[..] else { return false };
        if !self.links.values().all(|held| held.is_new) {
            return false;
        }
        let mut state = self.next_state();
        state.known.ids[peer.index()] = voter;
        self.start_store(state, None, effects);
        true
    }
}
