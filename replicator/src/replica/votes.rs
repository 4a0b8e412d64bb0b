//! This node as a voter: answers candidates, stores records of the Primary, keeps what it has promised.

use crate::effect::{Effect, Effects};
use crate::event::LinkId;
use crate::layout::superblock::DurableDisk;
use crate::notice::Notice;
use crate::peer::message::{Denial, Message, VoteReply, VoteRequest, VoteStage};
use crate::promotion::membership::{MembershipRecord, VoterList};
use crate::promotion::seats;
use crate::promotion::voting::{self, SeenPrimary, StoreDenial, Voter, VoterView};
use crate::state::{DiskState, Role};
use crate::superblock_keeper::Revision;
use crate::units::NodeId;

use super::links::{Peer, Voted};
use super::{AfterDurable, Replica};

impl Replica {
    /// What this node knows when it is asked for its vote.
    pub(super) fn voter_view(&self) -> VoterView<'_> {
        let content = self.superblock.content();
        let primary = content.membership.primary;
        let other = primary.filter(|node| *node != self.config.local);
        let reign = match other {
            Some(node) if !self.has_restarted(node) => voting::Reign::MayLast,
            Some(_) | None => voting::Reign::Over,
        };
        // A Primary of an older reign than the one stored is none.
        let asks_a_majority = self.config.on_peer_lost.asks_a_majority();
        let lives = |peer: &&Peer| {
            let term = peer.link.as_ref().map(|link| link.term.number);
            peer.role == Role::Primary && (!asks_a_majority || term >= Some(content.membership.term.number))
        };
        let linked = self.peers.iter().find(lives);
        let seen_primary = match (self.role, linked) {
            (Role::Primary, _) => SeenPrimary::Here,
            (Role::Secondary | Role::Unknown, Some(peer)) => SeenPrimary::Linked(peer.node),
            (Role::Secondary | Role::Unknown, None) => SeenPrimary::Nobody,
        };
        VoterView {
            record: &content.membership,
            node: self.config.local,
            position: Some(self.position()),
            incarnation: self.incarnation,
            continues: self.continues,
            now: self.now,
            started: self.started,
            last_primary_frame: other.and_then(|node| self.configured_peer(node)?.last_heard),
            reign,
            seen_primary,
            peer_timeout: self.config.peer_timeout,
            asks_a_majority: self.config.on_peer_lost.asks_a_majority(),
            has_usable_disk: self.disk > DiskState::Inconsistent,
            is_settled: self.journal.is_clean(),
            voters: self.config.voters(),
            known: self.voter_list(),
        }
    }

    /// Whether the node that the record names as Primary has said hello as another run of its daemon: its
    /// reign is over whatever the lease says.
    pub(super) fn has_restarted(&self, primary: NodeId) -> bool {
        // Somebody new under its number says nothing of it.
        if !self.has_seat(primary) {
            return false;
        }
        let recorded = self.record().in_sync.incarnation_of(primary);
        let introduced = self.configured_peer(primary).and_then(|peer| peer.introduced());
        introduced.is_some_and(|state| state.role == Role::Secondary && Some(state.incarnation) != recorded)
    }

    /// Identities of all voters as this node has met them.
    pub(super) fn voter_list(&self) -> VoterList {
        let content = self.superblock.content();
        let mut voters = VoterList::default();
        voters.ids[self.config.local.index()] = content.voter;
        for node in self.config.other_voters() {
            voters.ids[node.index()] = content.pins.ids[node.index()];
        }
        voters
    }

    /// This node as one that stores records.
    pub(super) fn as_voter<'a>(&self, known: &'a VoterList) -> Voter<'a> {
        let asks_a_majority = self.config.on_peer_lost.asks_a_majority();
        Voter { node: self.config.local, known, asks_a_majority }
    }

    pub(super) fn on_vote_request(
        &mut self,
        node: NodeId,
        link: LinkId,
        request: &VoteRequest,
        effects: &mut Effects,
    ) {
        if request.candidate != node {
            let asks_for = self.name_of(request.candidate).to_owned();
            self.drop_link(node, &format!("it asks for votes for {asks_for}"), effects);
            return;
        }
        if !self.is_started() || !self.journal_is_settled() {
            return; // The candidate asks again.
        }
        // Whoever asks for its own term grants none to another: what it was voted for must stay as it is.
        let vote = match self.candidacy_term() {
            Some(term) => Err(Denial::OlderTerm { term }),
            None if !self.is_heard(node) => Err(Denial::OtherVoters),
            None => voting::may_grant(&self.voter_view(), request),
        };
        if vote.is_ok() && request.stage == VoteStage::Take {
            let text = format!("granted term {} to {}", request.record.term, self.name_of(node));
            effects.push(Effect::Notify(Notice::info("vote", text)));
            self.store_record(request.record);
        }
        let given = Voted { at: self.now, stage: request.stage, vote };
        self.peer_mut(node).was_voted = Some(given);
        let message = Message::VoteReply(Box::new(self.vote_reply(request, vote)));
        self.send_when_durable(node, link, message);
    }

    /// Sends a message that speaks of the superblock when the superblock is on disk.
    pub(super) fn send_when_durable(&mut self, peer: NodeId, link: LinkId, message: Message) {
        // Nothing becomes durable any more on a disk that failed; and a link that is over asks for nothing.
        self.after_durable.retain(|waiting| waiting.peer != peer || waiting.link == link);
        if self.disk_fault.is_some() {
            return;
        }
        let revision = self.superblock.newest();
        self.after_durable.push(AfterDurable { revision, peer, link, message });
    }

    /// A vote speaks of what is flushed; what is written but not flushed must not be lost sight of.
    fn journal_is_settled(&mut self) -> bool {
        self.journal.want_flush(self.journal.accepted());
        self.role == Role::Primary || self.journal.is_clean() || self.inbound.is_some()
    }

    fn vote_reply(&self, request: &VoteRequest, vote: Result<(), Denial>) -> VoteReply {
        let content = self.superblock.content();
        VoteReply {
            round: request.round,
            stage: request.stage,
            vote,
            record: content.membership,
            position: self.position(),
            incarnation: self.incarnation,
            continues: self.continues,
        }
    }

    /// Stores a record. What the record says of this node becomes true when it is durable.
    pub(super) fn store_record(&mut self, record: MembershipRecord) -> Revision {
        assert!(self.record().may_give_way_to(&record), "I2: a record is replaced by a newer one only");
        let (local, incarnation) = (self.config.local, self.incarnation);
        let is_member = record.in_sync.incarnation_of(local) == Some(incarnation);
        if is_member {
            self.continues = Some(incarnation);
        }
        // Where no majority keeps the record, whoever has left its Primary stays Outdated until it follows one again: the
        // Primary may have made this record before it heard the goodbye.
        let has_left = !self.config.on_peer_lost.asks_a_majority()
            && record.primary != Some(local)
            && self.disk == DiskState::Outdated
            && self.inbound.is_none();
        self.superblock.change(|content| {
            let own_voter = content.voter;
            content.membership = record;
            content.pins = seats::met_by(&record.voters);
            content.pins.ids[local.index()] = own_voter;
            if is_member {
                content.incarnation_recorded = incarnation;
                if content.disk != DurableDisk::Inconsistent && !has_left {
                    content.disk = DurableDisk::UpToDate;
                }
            }
        })
    }

    /// The Primary of a term tells its record.
    pub(super) fn on_record_update(
        &mut self,
        node: NodeId,
        link: LinkId,
        record: &MembershipRecord,
        effects: &mut Effects,
    ) {
        let may = voting::may_store(self.record(), self.as_voter(&self.voter_list()), record, node);
        self.store_if(may, node, link, record, effects);
    }

    /// Somebody tells the record of a Primary that reigned, because it saw that this node's is older.
    pub(super) fn on_record_passed_on(
        &mut self,
        node: NodeId,
        link: LinkId,
        record: &MembershipRecord,
        effects: &mut Effects,
    ) {
        let may = voting::may_replace(self.record(), self.as_voter(&self.voter_list()), record);
        self.store_if(may, node, link, record, effects);
    }

    fn store_if(
        &mut self,
        may: Result<(), StoreDenial>,
        node: NodeId,
        link: LinkId,
        record: &MembershipRecord,
        effects: &mut Effects,
    ) {
        // Records of its own term a Primary makes itself.
        let is_sovereign = self.role == Role::Primary && !self.is_deposed_by(record.term);
        if may.is_err() || is_sovereign || !self.may_bring_records(node) {
            // Equal is fine: the Primary only wants to know. It hears of what is on disk, not of what will be.
            let message = Message::RecordStored(Box::new(*self.record()));
            self.send_when_durable(node, link, message);
            return;
        }
        if self.role == Role::Primary {
            self.step_down(node, record.term, effects);
        }
        // Its own word that it is Primary no more may be ahead of its heartbeat.
        let was_demoted = record.primary.is_none() && self.record().primary == Some(node);
        self.store_record(*record);
        self.send_when_durable(node, link, Message::RecordStored(Box::new(*record)));
        self.judge_own_disk(effects);
        if was_demoted {
            self.peer_mut(node).role = Role::Secondary;
        }
    }
}
