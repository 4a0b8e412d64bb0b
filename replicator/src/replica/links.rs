//! Links to the other voters: what comes and goes on them, and whether they live.

use crate::config::{Config, ReplicationProtocol};
use crate::effect::{Effect, Effects};
use crate::event::{LinkId, NoLink};
use crate::generation::compare::{SyncAction, Verdict};
use crate::generation::split_brain::Discards;
use crate::layout::superblock::Superblock;
use crate::notice::Notice;
use crate::peer::frame::{FrameStamp, ReceivedFrame};
use crate::peer::message::{Denial, FarewellReason, Message, PeerState, VoteStage};
use crate::promotion::membership::MembershipRecord;
use crate::state::{DiskState, Role};
use crate::units::{Lsn, NodeId, Span, Term, Tick, VoterId, bytes_u64};

use super::Replica;
use super::explanations;
use super::foresight::Outcome;
use super::sending::Outbound;
use super::syncing::SyncView;

/// Another voter, linked or not.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    /// `None` for the tiebreaker.
    pub(super) protocol: Option<ReplicationProtocol>,
    /// Whether links are wanted: not after `disconnect`.
    pub(super) wanted: bool,
    pub(super) link: Option<Link>,
    /// When the newest frame came, in this run.
    pub(super) last_heard: Option<Tick>,
    pub(super) role: Role,
    pub(super) disk: DiskState,
    /// Why there is no link, or no replication.
    pub(super) trouble: Option<NoLink>,
    pub(super) rule: Option<Verdict>,
    /// The states that the last verdict rested on; they outlive the link.
    pub(super) met: Option<Meeting>,
    /// Whether a link is wanted for a dry run only, and what that has come to.
    pub(super) is_sounded: bool,
    pub(super) foreseen: Option<Outcome>,
    /// What it answered when this node asked for its vote last.
    pub(super) voted: Option<Voted>,
    /// What this node answered when it asked last.
    pub(super) was_voted: Option<Voted>,
    /// Newest write that the peer is known to have flushed, no further than this node has it itself.
    pub(super) flushed: Lsn,
    /// Newest write that the peer is known to have journaled.
    pub(super) acknowledged: Lsn,
    /// Newest write that it has said to hold, in this run.
    pub(super) told_end: Lsn,
    pub(super) has_dirty_bits: bool,
    /// Everything up to here that it lacks is in its bitmap, durably.
    pub(super) marked: Lsn,
    /// Whether it may have cleared marks for this node that hold no more.
    pub(super) has_cleared: bool,
    /// Whether the journal's tail need not wait for it, while it catches up.
    pub(super) is_overtaken: bool,
    /// Frames that were damaged or made no sense, since the daemon's start.
    pub(super) refused_frames: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
}

/// Two states that were exchanged, and what followed.
#[derive(Debug)]
pub(super) struct Meeting {
    /// Nothing in a dry run.
    pub(super) action: Option<SyncAction>,
    pub(super) ours: Box<PeerState>,
    pub(super) theirs: Box<PeerState>,
}

/// An answer to a question for a vote.
#[derive(Debug)]
pub(super) struct Voted {
    pub(super) at: Tick,
    pub(super) stage: VoteStage,
    pub(super) vote: Result<(), Denial>,
}

/// An authenticated link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    /// The identity that the voter there has proved to have.
    pub(super) voter: VoterId,
    /// The peer's newest clock value.
    pub(super) peer_clock: Tick,
    /// The newest value of this node's clock that came back.
    pub(super) echoed: Option<Tick>,
    pub(super) last_received: Tick,
    /// The reign that its newest frame belongs to.
    pub(super) term: Term,
    pub(super) heartbeat_sent: Option<Tick>,
    pub(super) frames_queued: u64,
    /// The role that the last heartbeat spoke of: whoever votes must hear of a change at once.
    pub(super) role_told: Option<Role>,
    /// The record that the voter there has last shown to have stored.
    pub(super) record_shown: Option<MembershipRecord>,
    pub(super) introduction: Introduction,
    /// What this node has orders to throw away towards the peer. It ends with the link, or when it is carried out.
    pub(super) discards: Discards,
    /// Why a policy that told this node to give way was not carried out.
    pub(super) policy_failed: Option<String>,
    pub(super) replication: Replication,
    /// How a resync or a catch-up on it comes along.
    pub(super) sync: SyncView,
    /// Whether it is for a dry run: nothing is done but to compare states.
    pub(super) is_tentative: bool,
}

/// The exchange of states, as often as they change.
#[derive(Debug)]
pub(super) struct Introduction {
    pub(super) number: u32,
    pub(super) sent: Option<Box<PeerState>>,
    pub(super) received: Option<Box<PeerState>>,
}

/// What goes on with the peer's data.
#[derive(Debug)]
pub(super) enum Replication {
    /// The states are being exchanged.
    Introducing,
    /// Nothing: both are equal, or the peer is the tiebreaker, or a Primary elsewhere comes first.
    Idle,
    /// Nothing until an operator acts; the reason is in [`Peer::reason`].
    Stopped,
    /// This node ships records to the peer.
    Source(Box<Outbound>),
    /// The peer ships records to this node; the state is in `Replica::inbound`.
    Target,
}

impl Peer {
    pub(super) fn new(node: NodeId, config: &Config, superblock: &Superblock) -> Self {
        let slot = superblock.peer(node).copied().unwrap_or_default();
        Self {
            node,
            protocol: config.replicas.get(node.index()).map(|replica| replica.protocol),
            wanted: true,
            link: None,
            last_heard: None,
            role: Role::Unknown,
            disk: DiskState::DUnknown,
            trouble: None,
            rule: None,
            met: None,
            is_sounded: false,
            foreseen: None,
            voted: None,
            was_voted: None,
            flushed: slot.base_lsn,
            acknowledged: slot.acknowledged,
            told_end: Lsn::ZERO,
            has_dirty_bits: slot.has_dirty_bits,
            marked: slot.marked_up_to,
            has_cleared: slot.has_cleared,
            is_overtaken: false,
            refused_frames: 0,
            sent_bytes: 0,
            received_bytes: 0,
        }
    }

    /// Up to where this node's journal need not answer for it: it has flushed that, or its bitmap says what it lacks.
    pub(super) fn accounted(&self) -> Lsn {
        self.flushed.max(self.marked)
    }

    /// Up to where it will ask for no record: what it has flushed, or during a resync what it has journaled, which
    /// counts for nothing else then. A source needs none of those that it had flushed when it became that.
    pub(super) fn has_no_need_of(&self) -> Lsn {
        match self.outbound().and_then(|outbound| Some((outbound, outbound.resync()?))) {
            Some((outbound, resync)) => {
                resync.needs_nothing_up_to(outbound.progress().journaled, self.accounted())
            }
            None => {
                let said = self.introduced().filter(|_| self.is_source_of_us()).map(|state| state.flushed);
                self.flushed.max(said.unwrap_or_default())
            }
        }
    }

    /// Whether its link is for a dry run.
    pub(super) fn is_tentative(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_tentative)
    }

    /// What the last verdict on it asked for.
    pub(super) fn last_action(&self) -> Option<SyncAction> {
        self.met.as_ref()?.action
    }

    /// What it has said of itself on this link.
    pub(super) fn introduced(&self) -> Option<&PeerState> {
        self.link.as_ref()?.introduction.received.as_deref()
    }

    pub(super) fn is_replica(&self) -> bool {
        self.protocol.is_some()
    }

    pub(super) fn heartbeat_due(&self, heartbeat: Span) -> Option<Tick> {
        self.link.as_ref().map(|link| link.heartbeat_sent.map_or(Tick(0), |sent| sent.plus(heartbeat)))
    }

    /// The shipping of records to this peer, if there is one.
    pub(super) fn outbound(&self) -> Option<&Outbound> {
        match &self.link.as_ref()?.replication {
            Replication::Source(outbound) => Some(outbound),
            Replication::Introducing | Replication::Idle | Replication::Stopped | Replication::Target => None,
        }
    }

    pub(super) fn outbound_mut(&mut self) -> Option<&mut Outbound> {
        match &mut self.link.as_mut()?.replication {
            Replication::Source(outbound) => Some(outbound),
            Replication::Introducing | Replication::Idle | Replication::Stopped | Replication::Target => None,
        }
    }

    /// Why there is no link, or no replication.
    pub(super) fn reason(&self) -> Option<&str> {
        self.trouble.as_ref().map(|trouble| trouble.reason.as_str())
    }

    /// Whether it has shown that it heard this node after that moment: a frame that was under way then proves nothing,
    /// an echo of this node's later clock does.
    pub(super) fn has_lived_since(&self, moment: Tick) -> bool {
        self.link.as_ref().and_then(|link| link.echoed) > Some(moment)
    }

    pub(super) fn is_target_of_us(&self) -> bool {
        self.outbound().is_some()
    }

    pub(super) fn is_source_of_us(&self) -> bool {
        self.link.as_ref().is_some_and(|link| matches!(link.replication, Replication::Target))
    }
}

impl Replica {
    pub(super) fn peer(&self, node: NodeId) -> &Peer {
        self.peers.iter().find(|peer| peer.node == node).expect("the shell names configured voters only")
    }

    /// A node that a record names: the record may be older than the configuration.
    pub(super) fn configured_peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.node == node)
    }

    pub(super) fn peer_mut(&mut self, node: NodeId) -> &mut Peer {
        self.peers.iter_mut().find(|peer| peer.node == node).expect("the shell names configured voters only")
    }

    pub(super) fn on_peer_connected(
        &mut self,
        node: NodeId,
        link: LinkId,
        voter: VoterId,
        effects: &mut Effects,
    ) {
        let is_stranger = self.is_stranger(node, voter);
        if is_stranger && self.has_seat(node) {
            return self.refuse_stranger(node, link, voter, effects);
        }
        if let Some(old) = self.peer(node).link.as_ref().map(|link| link.id) {
            effects.push(Effect::DropPeer { peer: node, link: old });
            self.on_peer_lost(node, old, "a newer link replaced it", effects);
        }
        let pinned = self.superblock.content().pins.ids[node.index()];
        let is_tentative = !self.peer(node).wanted && self.peer(node).is_sounded;
        if !(self.peer(node).wanted || is_tentative) || self.is_stopping {
            effects.push(Effect::DropPeer { peer: node, link });
            return;
        }
        if is_stranger {
            let why = explanations::new_voter(voter, &self.config.resource);
            let text = format!("{}: {}", self.name_of(node), why.reason);
            effects.push(Effect::Notify(Notice::warning("new-voter", text)));
        } else if pinned != voter && !is_tentative {
            self.superblock.change(|content| content.pins.ids[node.index()] = voter);
        }
        let now = self.now;
        if !is_tentative {
            self.forget_fencing(node);
        }
        let peer = self.peer_mut(node);
        let replication = if peer.is_replica() { Replication::Introducing } else { Replication::Idle };
        peer.trouble = None;
        if !is_stranger {
            peer.last_heard = Some(now);
        }
        peer.link = Some(Link {
            id: link,
            voter,
            peer_clock: Tick(0),
            echoed: None,
            last_received: now,
            term: Term::ZERO,
            heartbeat_sent: None,
            frames_queued: 0,
            role_told: None,
            record_shown: None,
            introduction: Introduction { number: 1, sent: None, received: None },
            discards: Discards::Nothing,
            policy_failed: None,
            sync: SyncView::default(),
            replication,
            is_tentative,
        });
        let text = format!("linked to {}", self.name_of(node));
        effects.push(Effect::Notify(Notice::info("peer-connected", text)));
    }

    /// While there is a link, or none is wanted, the attempt was somebody else's, or of the past.
    pub(super) fn on_peer_unreachable(&mut self, node: NodeId, why: NoLink) {
        let peer = self.peer_mut(node);
        if peer.link.is_none() && (peer.wanted || peer.is_sounded) {
            peer.trouble = Some(why);
        }
    }

    /// Refuses a link that is no more than authenticated, and says why.
    pub(super) fn say_last(
        &mut self,
        node: NodeId,
        link: LinkId,
        reason: FarewellReason,
        effects: &mut Effects,
    ) {
        let stamp = FrameStamp { term: self.record().term, clock: self.now, echo: Tick(0) };
        let frame = Message::Farewell { reason }.encode(stamp);
        effects.push(Effect::SendToPeer { peer: node, link, frame });
        effects.push(Effect::DropPeer { peer: node, link });
    }

    pub(super) fn on_peer_lost(&mut self, node: NodeId, link: LinkId, reason: &str, effects: &mut Effects) {
        let peer = self.peer_mut(node);
        if peer.link.as_ref().is_none_or(|current| current.id != link) {
            return;
        }
        let was_tentative = peer.is_tentative();
        peer.link = None;
        peer.role = Role::Unknown;
        peer.disk = DiskState::DUnknown;
        peer.trouble = Some(NoLink { reason: reason.to_owned(), action: None });
        let text = format!("lost the link to {}: {reason}", self.name_of(node));
        effects.push(Effect::Notify(Notice::warning("peer-lost", text)));
        let was_source = self.inbound.as_ref().is_some_and(|inbound| inbound.from == node);
        self.end_inbound_from(node, effects);
        // The loss of the Primary, or of whom this node took records from, counts as a new connect among the others
        // (semantics §3).
        if was_source || (self.record().primary == Some(node) && !was_tentative) {
            self.reintroduce();
        }
    }

    /// Ends a link from this side.
    pub(super) fn drop_link(&mut self, node: NodeId, reason: &str, effects: &mut Effects) {
        if let Some(link) = self.peer(node).link.as_ref().map(|link| link.id) {
            effects.push(Effect::DropPeer { peer: node, link });
            self.on_peer_lost(node, link, reason, effects);
        }
    }

    /// Sends a message on the link to a voter, if there is one.
    pub(super) fn send(&mut self, node: NodeId, message: &Message, effects: &mut Effects) {
        let (now, term) = (self.now, self.record().term);
        let peer = self.peer_mut(node);
        let Some(link) = &mut peer.link else { return };
        if link.is_tentative && !message.is_for_a_dry_run() {
            return;
        }
        let frame = message.encode(FrameStamp { term, clock: now, echo: link.peer_clock });
        link.frames_queued += 1;
        peer.sent_bytes += bytes_u64(frame.wire_bytes());
        effects.push(Effect::SendToPeer { peer: node, link: link.id, frame });
    }

    pub(super) fn on_frame(
        &mut self,
        node: NodeId,
        link_id: LinkId,
        frame: &ReceivedFrame,
        effects: &mut Effects,
    ) {
        let now = self.now;
        let has_seat = self.has_seat(node);
        let peer = self.peer_mut(node);
        peer.received_bytes += bytes_u64(frame.body.len() + frame.payload.len());
        let Some(link) = peer.link.as_mut().filter(|link| link.id == link_id) else { return };
        link.last_received = now;
        link.term = frame.stamp.term;
        link.peer_clock = link.peer_clock.max(frame.stamp.clock);
        if frame.stamp.echo > Tick(0) && frame.stamp.echo <= now {
            link.echoed = link.echoed.max(Some(frame.stamp.echo));
        }
        // What somebody new says does not make the lease of whoever had the seat before last longer.
        if has_seat {
            peer.last_heard = Some(now);
        }
        if self.is_deposed_by(frame.stamp.term) {
            self.step_down(node, frame.stamp.term, effects);
        }
        match Message::parse(frame) {
            Ok(message) => self.on_message(node, link_id, frame.stamp, message, effects),
            Err(error) => {
                self.peer_mut(node).refused_frames += 1;
                let text = format!("refused a frame from {}: {error}", self.name_of(node));
                effects.push(Effect::Notify(Notice::error("bad-frame", text.clone())));
                self.drop_link(node, &text, effects);
            }
        }
    }

    fn on_message(
        &mut self,
        node: NodeId,
        link: LinkId,
        stamp: FrameStamp,
        message: Message,
        effects: &mut Effects,
    ) {
        if self.peer(node).is_tentative() && !message.is_for_a_dry_run() {
            return;
        }
        if let Some(shown) = message.record_shown()
            && let Some(link) = &mut self.peer_mut(node).link
        {
            link.record_shown = Some(*shown);
            self.end_late_grant(node, shown, effects);
            if self.is_left_behind(node, shown) {
                return self.send_away(node, effects);
            }
        }
        match message {
            Message::State(state) => self.on_state(node, state, effects),
            Message::Heartbeat { role, disk, stable_up_to, flushed } => {
                self.on_heartbeat(node, role, disk, stable_up_to, &flushed);
            }
            Message::Records(batch) => self.on_records(node, stamp.term, batch, effects),
            Message::NewGeneration { generation, lineage } => {
                self.on_new_generation(node, stamp.term, generation, lineage, effects);
            }
            Message::Progress(progress) => self.on_progress(node, progress),
            Message::Flush { up_to } => self.on_flush(node, up_to),
            Message::CatchUpFrom { end } => self.on_catch_up_from(node, end, effects),
            Message::DirtyRuns { runs, is_last } => self.on_dirty_runs(node, &runs, is_last, effects),
            Message::ResyncFrom { start, lineage } => self.on_resync_from(node, start, lineage, effects),
            Message::Copies(copies) => self.on_copies(node, copies, effects),
            Message::CopiesFlushed { up_to } => self.on_copies_flushed(node, up_to, effects),
            Message::ResyncEnd { consistent_at } => self.on_resync_end(node, consistent_at),
            Message::Compare(question) => self.on_compare(node, question, effects),
            Message::Compared(compared) => self.on_compared(node, &compared, effects),
            Message::ReadBlocks(request) => self.on_read_blocks(node, stamp.term, request, effects),
            Message::BlocksRead(blocks) => self.on_blocks_read(node, &blocks, effects),
            Message::SyncStatus { counts, is_paused } => {
                self.on_sync_status(node, counts, is_paused, effects);
            }
            Message::VoteRequest(request) => self.on_vote_request(node, link, &request, effects),
            Message::VoteReply(reply) => self.on_vote_reply(node, &reply, effects),
            Message::RecordUpdate(record) => self.on_record_update(node, link, &record, effects),
            Message::RecordPassedOn(record) => self.on_record_passed_on(node, link, &record, effects),
            Message::RecordStored(record) => self.on_record_stored(node, &record, effects),
            Message::Farewell { reason } => {
                self.on_farewell(node, reason, effects);
            }
        }
    }

    fn on_heartbeat(
        &mut self,
        node: NodeId,
        role: Role,
        disk: DiskState,
        stable_up_to: Lsn,
        flushed: &[Lsn],
    ) {
        let peer = self.peer_mut(node);
        peer.role = role;
        peer.disk = disk;
        if self.inbound.as_ref().is_none_or(|inbound| inbound.from != node) || role != Role::Primary {
            return;
        }
        self.note_stable(stable_up_to);
        let own_end = self.journal.flushed();
        for peer in self.peers.iter_mut().filter(|peer| peer.protocol.is_some()) {
            peer.told_end = peer.told_end.max(flushed[peer.node.index()]);
            // Never beyond what this node has flushed itself: the peer may have to cut what lies beyond.
            peer.flushed = peer.flushed.max(flushed[peer.node.index()].min(own_end));
        }
        self.forget_marks();
    }

    /// Lost links, stuck disks.
    pub(super) fn check_timeouts(&mut self, effects: &mut Effects) {
        let (now, config) = (self.now, &self.config);
        let silent = |peer: &&Peer| {
            peer.link.as_ref().is_some_and(|link| now >= link.last_received.plus(config.peer_timeout))
        };
        let stuck = |peer: &&Peer| {
            peer.outbound().is_some_and(|outbound| outbound.is_overdue(now, config.disk_timeout))
        };
        let lost: Vec<(NodeId, String)> = self
            .peers
            .iter()
            .filter_map(|peer| match () {
                () if silent(&peer) => Some((peer.node, format!("silent for {}", config.peer_timeout))),
                () if stuck(&peer) => Some((peer.node, format!("no progress for {}", config.disk_timeout))),
                () => None,
            })
            .collect();
        for (node, reason) in lost {
            self.drop_link(node, &reason, effects);
        }
        if self.oldest_io().is_some_and(|since| now >= since.plus(self.config.disk_timeout)) {
            let reason = format!("a read, write or flush has not finished for {}", self.config.disk_timeout);
            self.fail_disk(reason, effects);
        }
    }

    pub(super) fn send_heartbeats(&mut self, effects: &mut Effects) {
        if !self.is_started() {
            return;
        }
        let (now, heartbeat) = (self.now, self.config.heartbeat);
        let role = self.role;
        let is_due = |peer: &Peer| {
            peer.heartbeat_due(heartbeat).is_some_and(|due| now >= due)
                || self.stable_is_news_to(peer)
                || peer.link.as_ref().is_some_and(|link| link.role_told != Some(role))
        };
        let nodes: Vec<NodeId> =
            self.peers.iter().filter(|peer| is_due(peer)).map(|peer| peer.node).collect();
        for node in nodes {
            let message = self.heartbeat();
            self.send(node, &message, effects);
            self.note_stable_told(node);
            if let Some(link) = &mut self.peer_mut(node).link {
                link.role_told = Some(role);
                link.heartbeat_sent = Some(now);
            }
        }
    }

    fn heartbeat(&self) -> Message {
        let mut flushed = [Lsn::ZERO; crate::units::REPLICAS_MAX];
        let mut stable_up_to = Lsn::ZERO;
        if self.role == Role::Primary {
            stable_up_to = self.stable;
            flushed[self.config.local.index()] = self.journal.flushed();
            for peer in self.peers.iter().filter(|peer| peer.is_replica()) {
                flushed[peer.node.index()] = peer.flushed;
            }
        }
        Message::Heartbeat { role: self.role, disk: self.disk, stable_up_to, flushed }
    }

    /// Whether a link is the one that a peer is linked by now.
    pub(super) fn is_linked_by(&self, node: NodeId, link: LinkId) -> bool {
        self.peer(node).link.as_ref().is_some_and(|current| current.id == link)
    }

    pub(super) fn send_after_durable(&mut self, effects: &mut Effects) {
        let keeper = &self.superblock;
        let due: Vec<_> =
            self.after_durable.extract_if(.., |waiting| keeper.is_durable(waiting.revision)).collect();
        for waiting in due {
            if self.is_linked_by(waiting.peer, waiting.link) {
                self.send(waiting.peer, &waiting.message, effects);
            }
        }
    }
}
