//! What the two ends of a resync or a catch-up tell one another of it, and an operator of either: how far it has come,
//! and whether somebody has paused it. Decides nothing about the data.

use crate::effect::{Effect, Effects};
use crate::notice::Notice;
use crate::peer::message::Message;
use crate::resync::pace::{MARK_EVERY, Pace, SyncCounts, SyncDetails};
use crate::state::ReplicationState;
use crate::units::{BLOCK_BYTES, NodeId, Tick};

use super::Replica;
use super::links::Peer;

/// How a link's resync or catch-up comes along, as this node sees it.
#[derive(Debug, Default)]
pub(super) struct SyncView {
    pace: Option<Pace>,
    /// How far it has come, as the source counted last.
    counts: Option<SyncCounts>,
    /// When the peer was told last, and whether this node was paused then.
    told: Option<(Tick, bool)>,
    /// Whether an operator has paused it at the peer.
    is_peer_paused: bool,
}

impl Replica {
    /// Keeps account of what is under way, and tells the other end.
    pub(super) fn advance_sync_views(&mut self, effects: &mut Effects) {
        if !self.is_started() {
            return;
        }
        let nodes: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|peer| peer.is_replica() && peer.link.is_some())
            .map(|peer| peer.node)
            .collect();
        for node in nodes {
            self.advance_sync_view_of(node, effects);
        }
    }

    fn advance_sync_view_of(&mut self, node: NodeId, effects: &mut Effects) {
        let (now, is_paused) = (self.now, self.is_resync_paused);
        let peer = self.peer(node);
        let Some(view) = peer.link.as_ref().map(|link| &link.sync) else { return };
        let told_pause = view.told.is_some_and(|(_, told)| told);
        let is_news = told_pause != is_paused;
        let is_due = view.told.is_none_or(|(at, _)| now >= at.plus(MARK_EVERY));
        match self.replication_state(peer) {
            ReplicationState::SyncSource if is_due || is_news => {
                let Some(counts) = self.sync_counts(peer) else { return };
                self.note_pace(node, counts);
                self.tell_sync(node, counts, effects);
            }
            ReplicationState::SyncSource => {}
            // A pause is told while it makes a difference.
            ReplicationState::SyncTarget if is_news => self.tell_sync(node, SyncCounts::default(), effects),
            ReplicationState::SyncTarget => {
                if let Some(counts) = self.brought_counts(peer) {
                    self.note_pace(node, counts);
                }
            }
            ReplicationState::Established | ReplicationState::Off => {
                if let Some(link) = &mut self.peer_mut(node).link {
                    (link.sync.pace, link.sync.counts) = (None, None);
                }
            }
        }
    }

    fn tell_sync(&mut self, node: NodeId, counts: SyncCounts, effects: &mut Effects) {
        let is_paused = self.is_resync_paused;
        self.send(node, &Message::SyncStatus { counts, is_paused }, effects);
        let now = self.now;
        if let Some(link) = &mut self.peer_mut(node).link {
            link.sync.told = Some((now, is_paused));
        }
    }

    /// The other end says how far it is, and whether it is paused there.
    pub(super) fn on_sync_status(
        &mut self,
        node: NodeId,
        counts: SyncCounts,
        is_paused: bool,
        effects: &mut Effects,
    ) {
        let was_paused = self.is_paused_at_peer(self.peer(node));
        if was_paused != is_paused {
            let name = if is_paused { "resync-paused" } else { "resync-resumed" };
            let text = match is_paused {
                true => format!("{} has paused resyncs", self.name_of(node)),
                false => format!("{} lets resyncs go on", self.name_of(node)),
            };
            effects.push(Effect::Notify(Notice::info(name, text)));
        }
        if let Some(link) = &mut self.peer_mut(node).link {
            link.sync.is_peer_paused = is_paused;
        }
        if self.inbound.as_ref().is_some_and(|inbound| inbound.from == node)
            && let Some(link) = &mut self.peer_mut(node).link
        {
            link.sync.counts = Some(counts);
        }
    }

    fn note_pace(&mut self, node: NodeId, counts: SyncCounts) {
        let now = self.now;
        let is_paused = self.is_resync_paused || self.is_paused_at_peer(self.peer(node));
        let Some(link) = &mut self.peer_mut(node).link else { return };
        link.sync.pace.get_or_insert_with(|| Pace::new(counts, now)).note(counts, is_paused, now);
    }

    /// Whether no blocks are copied to a peer until an operator, here or there, says so.
    pub(super) fn is_paused_towards(&self, node: NodeId) -> bool {
        self.is_resync_paused || self.is_paused_at_peer(self.peer(node))
    }

    fn is_paused_at_peer(&self, peer: &Peer) -> bool {
        peer.link.as_ref().is_some_and(|link| link.sync.is_peer_paused)
    }

    /// Who has paused resyncs with a peer, in DRBD's words.
    pub(super) fn resync_suspended(&self, peer: &Peer) -> &'static str {
        match (self.is_resync_paused, self.is_paused_at_peer(peer)) {
            (false, false) => "no",
            (true, false) => "user",
            (false, true) => "peer",
            (true, true) => "user,peer",
        }
    }

    /// How far a peer has been brought, counted now; unknown until it is known what it lacks.
    fn sync_counts(&self, peer: &Peer) -> Option<SyncCounts> {
        let outbound = peer.outbound()?;
        match outbound.resync() {
            Some(resync) => resync.counts(),
            None if outbound.is_started() => {
                let left = self.records_bytes(self.assigned().since(outbound.progress().journaled));
                let done = outbound.caught_up_bytes().saturating_sub(outbound.unreceived_bytes());
                Some(SyncCounts { done, left, same: 0 })
            }
            None => None,
        }
    }

    /// How far this node has been brought, counted now: what the source has said waits behind the data that it sent.
    fn brought_counts(&self, peer: &Peer) -> Option<SyncCounts> {
        let told = peer.link.as_ref()?.sync.counts?;
        let brought = self.inbound.as_ref().filter(|inbound| inbound.from == peer.node)?.brought_bytes();
        let total = told.done + told.left;
        let left = told.left.min(total.saturating_sub(brought));
        Some(SyncCounts { done: total - left, left, same: told.same })
    }

    /// About how many bytes so many records are: as the records of the journal are in the mean, but a block at least,
    /// and no more than the volume has.
    pub(super) fn records_bytes(&self, records: u64) -> u64 {
        let ring = self.journal.ring();
        let held = ring.head_lsn().since(ring.oldest_kept().previous());
        let mean = ring.used_bytes().checked_div(held).unwrap_or(0).max(BLOCK_BYTES);
        records.saturating_mul(mean).min(self.config.volume_bytes)
    }

    /// What there is to tell of a resync or a catch-up that goes on with a peer.
    pub(super) fn sync_details(&self, peer: &Peer, now: Tick) -> Option<SyncDetails> {
        let view = &peer.link.as_ref()?.sync;
        let is_source = match self.replication_state(peer) {
            ReplicationState::SyncSource => true,
            ReplicationState::SyncTarget => false,
            ReplicationState::Established | ReplicationState::Off => return None,
        };
        let counts = if is_source { self.sync_counts(peer)? } else { self.brought_counts(peer)? };
        let want = self
            .throttle
            .rate()
            .filter(|_| is_source && peer.outbound().is_some_and(|it| it.resync().is_some()));
        Some(view.pace.as_ref()?.details(counts, want, now))
    }

    /// What this node lacks of what a source has, bytes, as that one says.
    pub(super) fn lacks_of(&self, peer: &Peer) -> Option<u64> {
        let is_target = self.replication_state(peer) == ReplicationState::SyncTarget;
        self.brought_counts(peer).filter(|_| is_target).map(|counts| counts.left)
    }

    /// Brings the rate of copying in line with what clients feel.
    pub(super) fn pace_resyncs(&mut self) {
        let Some(slow_since) = self.throttle.slow_since(self.now) else { return };
        // What waits for a peer or a majority does not wait because of copies.
        let still_slow = if self.is_frozen() { 0 } else { self.writes.waiting_since_before(slow_since) };
        self.throttle.end_window(still_slow, self.now);
    }
}
