//! This node as a candidate: asks the voters, takes the term, records the generation, and only then exports.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::effect::{Answer, Effect, Effects};
use crate::event::{OrderId, Warrant};
use crate::generation::lineage::Position;
use crate::layout::superblock::DurableDisk;
use crate::notice::Notice;
use crate::peer::message::{Basis, Message, VoteReply, VoteRequest, VoteStage};
use crate::promotion::ballot::{self, Ballot, Decision};
use crate::promotion::membership::MembershipRecord;
use crate::promotion::preconditions::{self, Preconditions};
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::promotion::voting;
use crate::state::{DiskState, Role};
use crate::superblock_keeper::Revision;
use crate::units::{NodeId, Span, Term, Tick};

use super::Replica;
use super::links::{Replication, Voted};
use super::reign::{Authority, Reign};
use super::taking::Taking;

/// How long a round waits for voters that do not answer.
pub(super) const ROUND_PATIENCE: Span = Span::from_millis(500);
/// Pause before the voters are asked again.
pub(super) const ROUND_PAUSE: Span = Span::from_millis(100);

/// A promotion in progress.
#[derive(Debug)]
pub(super) struct Candidacy {
    order: OrderId,
    warrant: Warrant,
    pub(super) deadline: Tick,
    pub(super) stage: Stage,
    /// The record that the next round rests on: the newest one that may count of those that voters showed.
    pub(super) newest: MembershipRecord,
    /// Number of the highest term that any voter showed, granted or not: this node asks for a higher one.
    pub(super) highest: u64,
    /// The newest record that voters with an older one were told.
    pub(super) passed_on: Option<(Term, u64)>,
    /// Members that a term named in sync, and that denied it: the next ones do not name them.
    pub(super) left_out: Vec<NodeId>,
    /// What is lost by it, where it is forced.
    pub(super) accepted_loss: Option<String>,
    /// Why the last round did not lead to anything.
    pub(super) last_refusal: Option<Refused>,
    since: Tick,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// A peer was Primary when last heard of: it is refused to a living one, and a dead one is found out. Or another
    /// Secondary brings this node up to date.
    Looking { since: Tick },
    /// The journal is being flushed, so that this node's position is what it says.
    Flushing,
    /// The voters were asked whether they would.
    Asking { since: Tick, request: Box<VoteRequest>, replies: BTreeMap<NodeId, VoteReply> },
    /// The voters are asked again then.
    Resting { until: Tick },
    /// The other voters were told to store the record.
    Taking(Box<Taking>),
    /// Enough others have; this node's own copy, which makes the majority, is on its way to disk.
    Storing { record: MembershipRecord, revision: Revision, granted: Vec<NodeId> },
    /// A majority has stored it; the generation is on its way to disk.
    Recording { record: MembershipRecord, revision: Revision, granted: Vec<NodeId> },
}

impl Candidacy {
    /// Whether the promotion is one that a majority grants.
    fn is_put_to_a_majority(&self, config: &Config) -> bool {
        config.on_peer_lost.asks_a_majority() && self.warrant != Warrant::Force
    }
}

impl Replica {
    pub(super) fn on_promote(&mut self, order: OrderId, wait: Span, warrant: Warrant, effects: &mut Effects) {
        if self.role == Role::Primary {
            let mut text = format!("{} is Primary already", self.config.resource);
            if warrant == Warrant::PeerIsFenced && self.fences() && self.frozen().is_some() {
                self.note_fenced_by_order();
                text += "; whoever it has lost counts as fenced";
            }
            self.answer(order, Answer::Done { text }, effects);
            return;
        }
        self.forget_ended_fencing();
        let stage = match self.may_try_promotion() {
            Ok(()) => Stage::Flushing,
            Err(refused) if refused.name == preconditions::DISK_OUTDATED && warrant == Warrant::Force => {
                Stage::Flushing
            }
            Err(refused) if refused.name == preconditions::PEER_IS_PRIMARY || self.may_catch_up(&refused) => {
                Stage::Looking { since: self.now }
            }
            Err(refused) => {
                self.answer(order, Answer::Refused(refused), effects);
                return;
            }
        };
        self.candidacy = Some(Candidacy {
            order,
            warrant,
            deadline: self.now.plus(wait),
            stage,
            newest: *self.record(),
            highest: self.record().term.number,
            passed_on: None,
            left_out: Vec::new(),
            accepted_loss: None,
            last_refusal: None,
            since: self.now,
        });
    }

    /// A replica is linked that was not, or not by this link, when somebody vouched that whoever cannot be reached is
    /// silent: should it be lost again, nobody has vouched for that.
    pub(super) fn doubt_proof(&mut self) {
        if let Some(candidacy) = &mut self.candidacy
            && candidacy.warrant == Warrant::PeerIsFenced
        {
            candidacy.warrant = Warrant::Known;
        }
    }

    /// Whether the linked Primary has not yet shown, since this moment, that it lives.
    fn primary_may_be_gone(&self, since: Tick, refused: &Refused) -> bool {
        let is_alive = |peer: &super::links::Peer| peer.role == Role::Primary && peer.has_lived_since(since);
        refused.name == preconditions::PEER_IS_PRIMARY && !self.peers.iter().any(is_alive)
    }

    /// Whether the old copy on this node may be about to become a new one: another Secondary ships what it lacks, or
    /// the two compare what they hold.
    fn may_catch_up(&self, refused: &Refused) -> bool {
        let is_comparing = |peer: &super::links::Peer| {
            peer.link.as_ref().is_some_and(|link| matches!(link.replication, Replication::Introducing))
        };
        let may_change = self.inbound.is_some() || self.peers.iter().any(is_comparing);
        refused.name == preconditions::DISK_OUTDATED && may_change
    }

    /// The local disk as a promotion has to take it: a superblock that calls it Inconsistent may be on its way, or have
    /// got there after the link was lost that it was written for.
    fn own_disk(&self) -> DiskState {
        match self.superblock.content().disk {
            _ if self.disk_fault.is_some() => DiskState::Failed,
            DurableDisk::Inconsistent => self.disk.min(DiskState::Inconsistent),
            DurableDisk::Outdated | DurableDisk::UpToDate => self.disk,
        }
    }

    /// The table of preconditions, on what this node knows now.
    pub(super) fn may_try_promotion(&self) -> Result<(), Refused> {
        let primary = self.peers.iter().find(|peer| peer.role == Role::Primary);
        preconditions::check(&Preconditions {
            disk: self.own_disk(),
            primary: primary.map(|peer| self.name_of(peer.node).to_owned()),
            is_promoting: self.candidacy.is_some(),
            is_discarding: self.discard.as_ref().is_some_and(|discard| discard.is_in_earnest()),
            is_stopping: self.is_stopping,
            catches_up_from: self
                .inbound
                .as_ref()
                .filter(|_| self.disk == DiskState::Outdated)
                .map(|inbound| self.name_of(inbound.from).to_owned()),
            can_be_in_sync: self.peers.iter().any(|peer| self.can_be_in_sync(peer)),
        })
    }

    /// The term that this node asks the voters to store, while it does.
    pub(super) fn candidacy_term(&self) -> Option<Term> {
        match &self.candidacy.as_ref()?.stage {
            Stage::Looking { .. } | Stage::Flushing | Stage::Asking { .. } | Stage::Resting { .. } => None,
            Stage::Taking(taking) => Some(taking.request.record.term),
            Stage::Storing { record, .. } | Stage::Recording { record, .. } => Some(record.term),
        }
    }

    /// How long a round waits for voters that are linked and do not answer. Before a loss is accepted, as long as a link
    /// may be silent: one of them may know a Primary that lives.
    fn round_patience(&self, candidacy: &Candidacy) -> Span {
        match candidacy.warrant {
            Warrant::Force => self.config.peer_timeout,
            Warrant::Known | Warrant::PeerIsFenced => ROUND_PATIENCE,
        }
    }

    pub(super) fn candidacy_deadline(&self) -> Option<Tick> {
        self.candidacy.as_ref().map(|candidacy| match candidacy.stage {
            Stage::Resting { until } => until.min(candidacy.deadline),
            Stage::Asking { since, .. } => since.plus(self.round_patience(candidacy)),
            Stage::Taking(ref taking) => taking.since.plus(ROUND_PATIENCE),
            Stage::Looking { .. } | Stage::Flushing | Stage::Storing { .. } | Stage::Recording { .. } => {
                candidacy.deadline
            }
        })
    }

    pub(super) fn advance_candidacy(&mut self, effects: &mut Effects) {
        if !self.is_started() {
            return;
        }
        let Some(mut candidacy) = self.candidacy.take() else { return };
        // A verdict may have made this node the target of a resync since the promotion was tried (I6).
        if self.own_disk() <= DiskState::Inconsistent {
            candidacy.last_refusal = self.may_try_promotion().err();
            self.abandon_candidacy(candidacy, effects);
            return;
        }
        let stage = std::mem::replace(&mut candidacy.stage, Stage::Flushing);
        let next = match stage {
            Stage::Looking { since } => match self.may_try_promotion() {
                Ok(()) => Some(Stage::Flushing),
                Err(refused)
                    if self.now < candidacy.deadline
                        && (self.primary_may_be_gone(since, &refused) || self.may_catch_up(&refused)) =>
                {
                    Some(Stage::Looking { since })
                }
                Err(refused) => {
                    candidacy.last_refusal = Some(refused);
                    None
                }
            },
            Stage::Flushing => self.begin_round(&candidacy, effects),
            Stage::Resting { until } if self.now < until => Some(Stage::Resting { until }),
            Stage::Resting { .. } => self.begin_round(&candidacy, effects),
            Stage::Asking { since, request, replies } => {
                self.judge_round(&mut candidacy, since, request, replies, effects)
            }
            Stage::Taking(taking) => Some(self.count_votes(&mut candidacy, taking, effects)),
            Stage::Storing { record, .. } | Stage::Recording { record, .. }
                if self.record().order() != record.order() =>
            {
                Some(self.rest_deposed(&mut candidacy.newest))
            }
            Stage::Storing { record, revision, granted } => {
                let by_majority = candidacy.is_put_to_a_majority(&self.config);
                Some(self.record_when_stored(record, revision, granted, by_majority, effects))
            }
            Stage::Recording { record, revision, granted } => {
                if self.superblock.is_durable(revision) {
                    self.begin_reign(&candidacy, record, revision, &granted, effects);
                    return;
                }
                Some(Stage::Recording { record, revision, granted })
            }
        };
        match next {
            Some(stage) => {
                candidacy.stage = stage;
                self.candidacy = Some(candidacy);
            }
            None => self.refuse_candidacy(&candidacy, effects),
        }
    }

    pub(super) fn abandon_candidacy(&mut self, candidacy: Candidacy, effects: &mut Effects) {
        if let Stage::Taking(taking) = &candidacy.stage {
            self.give_up(taking, effects);
        }
        self.refuse_candidacy(&candidacy, effects);
    }

    fn refuse_candidacy(&mut self, candidacy: &Candidacy, effects: &mut Effects) {
        let refused = candidacy.last_refusal.clone().unwrap_or_else(|| Refused {
            code: RefusalCode::TimedOut,
            name: "timed-out",
            reason: "no majority answered in time".to_owned(),
            cure: "bring up the peer or the tiebreaker, then promote again".to_owned(),
        });
        effects.push(Effect::Notify(Notice::warning("promotion-refused", refused.reason.clone())));
        if self.role != Role::Primary {
            self.resign(effects);
        }
        self.answer(candidacy.order, Answer::Refused(refused), effects);
    }

    /// Asks every voter whether it would, this node included. `None` when the time is up.
    fn begin_round(&mut self, candidacy: &Candidacy, effects: &mut Effects) -> Option<Stage> {
        if self.now >= candidacy.deadline && candidacy.last_refusal.is_some() {
            return None;
        }
        self.journal.want_flush(self.journal.accepted());
        if !self.journal.is_clean() {
            return Some(Stage::Flushing);
        }
        let round = self.random.draw();
        if candidacy.warrant == Warrant::PeerIsFenced {
            self.note_fenced_by_order();
        }
        let record = self.proposed_record(candidacy.highest);
        let request = self.vote_request(round, VoteStage::Ask, record, candidacy);
        self.send_to_voters(&Message::VoteRequest(Box::new(request)), effects);
        Some(Stage::Asking { since: self.now, request: Box::new(request), replies: BTreeMap::new() })
    }

    /// The record that this node would begin its reign with, before it knows who is at its position.
    pub(super) fn proposed_record(&mut self, highest: u64) -> MembershipRecord {
        // A generation that was adopted may be of a term whose record never came here.
        let adopted = self.superblock.content().lineage.newest().map_or(0, |newest| newest.term.number);
        let highest = highest.max(self.record().term.number).max(adopted);
        MembershipRecord {
            term: Term::asked(highest + 1, self.random.identity()),
            version: 1,
            primary: Some(self.config.local),
            in_sync: crate::promotion::membership::InSyncSet::of(self.config.local, self.incarnation),
            voters: self.list_to_propose(),
        }
    }

    fn vote_request(
        &self,
        round: u64,
        stage: VoteStage,
        record: MembershipRecord,
        candidacy: &Candidacy,
    ) -> VoteRequest {
        VoteRequest {
            round,
            stage,
            candidate: self.config.local,
            incarnation: self.incarnation,
            basis: self.basis_on(&candidacy.newest),
            position: self.position(),
            record,
            peer_is_fenced: candidacy.warrant == Warrant::PeerIsFenced,
        }
    }

    pub(super) fn send_to_voters(&mut self, message: &Message, effects: &mut Effects) {
        let linked: Vec<NodeId> =
            self.peers.iter().filter(|peer| peer.link.is_some()).map(|peer| peer.node).collect();
        for node in linked {
            self.send(node, message, effects);
        }
    }

    pub(super) fn on_vote_reply(&mut self, node: NodeId, reply: &VoteReply, effects: &mut Effects) {
        let heard = Voted { at: self.now, stage: reply.stage, vote: reply.vote };
        self.peer_mut(node).voted = Some(heard);
        if !self.is_heard(node) {
            return; // Whoever has not got a seat yet has no vote, and reports nothing of whoever had it.
        }
        let is_shown = reply.stage == VoteStage::Ask || reply.vote.is_err();
        if is_shown && self.has_reigned(&reply.record, [reply].into_iter()) {
            self.learn_record(&reply.record, effects);
        }
        let Some(candidacy) = &mut self.candidacy else { return };
        candidacy.highest = candidacy.highest.max(reply.record.term.number);
        if is_shown && reply.record.order() > candidacy.newest.order() {
            candidacy.newest = reply.record;
        }
        if let Stage::Asking { request, replies, .. } = &mut candidacy.stage
            && request.round == reply.round
        {
            replies.insert(node, *reply);
            // A majority without this node's own vote: an earlier candidacy of this run had ended before the votes came.
            let of_its_term = replies.values().filter(|other| other.record.term == reply.record.term);
            let records = of_its_term.map(|other| other.record);
            let newest = records.clone().max_by_key(MembershipRecord::order);
            if records.count() >= self.config.majority()
                && let Some(granted) = newest
            {
                self.learn_record(&granted, effects);
            }
        }
        self.note_granted(node, &reply.record);
    }

    pub(super) fn basis_on(&self, newest: &MembershipRecord) -> Basis {
        if !self.config.on_peer_lost.asks_a_majority() {
            return Basis::Agreement;
        }
        ballot::basis(newest, self.config.local, self.incarnation, self.continues)
    }

    fn judge_round(
        &mut self,
        candidacy: &mut Candidacy,
        since: Tick,
        request: Box<VoteRequest>,
        replies: BTreeMap<NodeId, VoteReply>,
        effects: &mut Effects,
    ) -> Option<Stage> {
        let own_vote = voting::may_grant(&self.voter_view(), &request);
        let linked = self.peers.iter().filter(|peer| self.is_heard(peer.node)).count();
        let is_over = replies.len() >= linked || self.now >= since.plus(self.round_patience(candidacy));
        if candidacy.warrant == Warrant::Force {
            return match is_over {
                true => self.judge_forced(candidacy, &replies, effects),
                false => Some(Stage::Asking { since, request, replies }),
            };
        }
        if !self.config.on_peer_lost.asks_a_majority() {
            return self.judge_agreement(candidacy, since, request, replies, effects);
        }
        let usable: Vec<NodeId> = self.usable_replicas(candidacy).collect();
        let ballot = Ballot {
            config: &self.config,
            request: &request,
            own_vote,
            own_record: self.record(),
            replies: &replies,
            usable: &usable,
        };
        if is_over {
            // What the next round, if there is one, goes by.
            candidacy.newest = *ballot.newest();
        }
        let decision = ballot::decide(&ballot);
        match decision {
            Decision::Refuse(_) | Decision::Wait { .. }
                if is_over && self.pass_on(candidacy, &replies, effects) =>
            {
                Some(Stage::Resting { until: self.now.plus(ROUND_PAUSE) })
            }
            // Also the voters that are not needed are heard: one of them may know a term that deposes this one.
            Decision::Take(_) if !is_over => Some(Stage::Asking { since, request, replies }),
            Decision::Take(record) if self.position() == request.position => {
                Some(self.begin_taking(&request, record, self.config.majority(), effects))
            }
            Decision::Take(_) => Some(Stage::Resting { until: self.now }),
            Decision::Refuse(refused) if is_over => {
                candidacy.last_refusal = Some(refused);
                None
            }
            Decision::Wait { refused, pause } if is_over => {
                self.wait_on(candidacy, refused, pause.max(ROUND_PAUSE), effects)
            }
            Decision::Refuse(_) | Decision::Wait { .. } => Some(Stage::Asking { since, request, replies }),
        }
    }

    /// Where this node's data stands, flushed; during a resync where that began.
    pub(super) fn position(&self) -> Position {
        self.lineage_to_show().position(self.flushed_end())
    }

    fn record_when_stored(
        &mut self,
        record: MembershipRecord,
        revision: Revision,
        granted: Vec<NodeId>,
        is_granted: bool,
        effects: &mut Effects,
    ) -> Stage {
        if !self.superblock.is_durable(revision) || !self.journal.is_clean() {
            return Stage::Storing { record, revision, granted };
        }
        let revision = self.append_generation(is_granted, effects);
        self.superblock.change(|content| content.flags.ended_as_primary = true);
        Stage::Recording { record, revision, granted }
    }

    fn begin_reign(
        &mut self,
        candidacy: &Candidacy,
        record: MembershipRecord,
        revision: Revision,
        granted: &[NodeId],
        effects: &mut Effects,
    ) {
        // Everything inherited is complete before clients are served: it is flushed here, and whoever is in
        // the set has shown the same position.
        self.complete = self.journal.flushed();
        self.stable = self.journal.flushed();
        let authority = match candidacy.is_put_to_a_majority(&self.config) {
            true => Authority::Majority,
            false => Authority::ThisNode,
        };
        self.reign = Some(Reign::new(record, revision, granted.iter().copied(), authority));
        if candidacy.warrant == Warrant::Force {
            // Nobody was asked to store it: whoever can be reached hears of it now.
            self.send_to_voters(&Message::RecordUpdate(Box::new(record)), effects);
        }
        self.set_role(Role::Primary, effects);
        self.set_disk(DiskState::UpToDate, effects);
        self.reintroduce();
        let waited = self.now.since(candidacy.since);
        let mut text = format!("{} is Primary in term {} after {waited}", self.config.resource, record.term);
        if let Some(loss) = &candidacy.accepted_loss {
            text += &format!("; by force: {loss}");
        }
        self.answer(candidacy.order, Answer::Done { text }, effects);
    }
}
