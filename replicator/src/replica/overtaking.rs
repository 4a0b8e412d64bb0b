//! A peer that catches up by records holds the journal's tail, and so the clients, back: they are slowed to what the
//! peer can take. That ends at a floor: where they get less, the tail overtakes the peer, and blocks are copied to it.
//!
//! Only a peer that no write waits for is overtaken, and only one that alone is in the way.

use crate::effect::{Effect, Effects};
use crate::notice::Notice;
use crate::state::Role;
use crate::units::{Lsn, NodeId, Span, Tick};

use super::Replica;
use super::links::{Peer, Replication};
use super::tail::wanted_room;

/// Time over which it is looked at what clients get.
const WINDOW: Span = Span::from_millis(1000);

/// What clients got since a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClientShare {
    began: Tick,
    /// Bytes that had been written by then.
    written: u64,
    /// Whether a write has waited for room in the journal since.
    has_waited: bool,
}

impl Replica {
    /// Lets the tail overtake whoever keeps clients below the floor.
    pub(super) fn watch_clients_share(&mut self, effects: &mut Effects) {
        let waits = self.writes.next_waiting().is_some() && self.journal.is_short_of_room();
        let is_serving = self.role == Role::Primary && !self.is_frozen();
        self.share.has_waited = is_serving && (self.share.has_waited || waits);
        let passed = self.now.since(self.share.began);
        if passed < WINDOW {
            return;
        }
        let share = std::mem::take(&mut self.share);
        self.share.began = self.now;
        self.share.written = self.written_bytes;
        let floor = u128::from(self.config.resync.rate_min) * u128::from(passed.0) / 1_000_000;
        if !share.has_waited || u128::from(self.written_bytes - share.written) >= floor {
            return;
        }
        if let Some(node) = self.peer_in_the_way() {
            self.peer_mut(node).is_overtaken = true;
            let text = format!(
                "{} takes records more slowly than clients may be slowed to: blocks will be copied to it",
                self.name_of(node)
            );
            effects.push(Effect::Notify(Notice::warning("catch-up-overtaken", text)));
        }
    }

    /// A peer that catches up and without which the tail could move, if it cannot move with it.
    fn peer_in_the_way(&self) -> Option<NodeId> {
        let is_catching_up = |peer: &&Peer| self.can_be_overtaken(peer) && !peer.is_overtaken;
        let slowest = self.peers.iter().filter(is_catching_up).min_by_key(|peer| peer.has_no_need_of())?;
        let others = self.peers.iter().filter(|peer| peer.node != slowest.node && self.holds_tail(peer));
        let without = others.map(Peer::has_no_need_of).min().unwrap_or(Lsn(u64::MAX)).min(self.data_flushed);
        let is_stuck = !self.tail_could_move(slowest.has_no_need_of().min(without));
        (is_stuck && self.tail_could_move(without)).then_some(slowest.node)
    }

    fn tail_could_move(&self, up_to: Lsn) -> bool {
        let ring = self.journal.ring();
        let nearest = ring.nearest_tail(up_to, wanted_room(ring.capacity_bytes()));
        nearest.is_some_and(|to| to.first_lsn > ring.tail().first_lsn)
    }

    /// Whether a peer takes records that no write waits for.
    fn can_be_overtaken(&self, peer: &Peer) -> bool {
        let is_required = self.reign.as_ref().is_none_or(|reign| reign.requires(peer.node));
        let is_target = peer.link.as_ref().is_some_and(|link| match &link.replication {
            Replication::Source(outbound) => outbound.is_started() && outbound.resync().is_none(),
            Replication::Target | Replication::Introducing | Replication::Idle | Replication::Stopped => {
                false
            }
        });
        is_target && !is_required
    }

    /// Whether the tail has been allowed to overtake a peer. Not one that writes have come to wait for.
    pub(super) fn may_be_passed(&self, peer: &Peer) -> bool {
        peer.is_overtaken && self.can_be_overtaken(peer)
    }

    /// The tail has moved: with whomever it has overtaken the verdict is reached anew, and finds marks.
    pub(super) fn drop_overtaken(&mut self, effects: &mut Effects) {
        let oldest_kept = self.journal.ring().oldest_kept();
        let overtaken: Vec<NodeId> =
            self.peers.iter().filter(|peer| peer.is_overtaken).map(|peer| peer.node).collect();
        for node in overtaken {
            self.peer_mut(node).is_overtaken = false;
            let peer = self.peer(node);
            if peer.flushed.next() < oldest_kept && self.can_be_overtaken(peer) {
                self.drop_link(node, "the journal no longer holds what it lacks", effects);
            }
        }
    }
}
