//! This node as a candidate: asks the voters, takes the term, records the generation, and only then exports.

use std::collections::BTreeMap;

use crate::effect::{Answer, Effect, Effects};
use crate::event::OrderId;
use crate::generation::lineage::Position;
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
use super::reign::Reign;

/// How long a round waits for voters that do not answer.
const ROUND_PATIENCE: Span = Span::from_millis(500);
/// Pause before the voters are asked again.
const ROUND_PAUSE: Span = Span::from_millis(100);

/// A promotion in progress.
#[derive(Debug)]
pub(super) struct Candidacy {
    order: OrderId,
    deadline: Tick,
    stage: Stage,
    /// The newest record that any voter showed; the basis of the next round.
    newest: MembershipRecord,
    /// Why the last round did not lead to anything.
    last_refusal: Option<Refused>,
    since: Tick,
}

#[derive(Debug)]
enum Stage {
    /// A peer was Primary when last heard of: it is refused to a living one, and a dead one is found out.
    Looking { since: Tick },
    /// The journal is being flushed, so that this node's position is what it says.
    Flushing,
    /// The voters were asked whether they would.
    Asking { since: Tick, request: Box<VoteRequest>, replies: BTreeMap<NodeId, VoteReply> },
    /// The voters are asked again then.
    Resting { until: Tick },
    /// This node's own copy of the record is on its way to disk.
    Storing { record: MembershipRecord, revision: Revision, basis: Basis },
    /// The voters were told to store the record.
    Taking { round: u64, since: Tick, record: MembershipRecord, granted: Vec<NodeId> },
    /// A majority has stored it; the generation is on its way to disk.
    Recording { record: MembershipRecord, revision: Revision, granted: Vec<NodeId> },
}

impl Replica {
    pub(super) fn on_promote(&mut self, order: OrderId, wait: Span, effects: &mut Effects) {
        if self.role == Role::Primary {
            let text = format!("{} is Primary already", self.config.resource);
            self.answer(order, Answer::Done { text }, effects);
            return;
        }
        let stage = match self.may_try_promotion() {
            Ok(()) => Stage::Flushing,
            Err(refused) if refused.name == preconditions::PEER_IS_PRIMARY => {
                Stage::Looking { since: self.now }
            }
            Err(refused) => {
                self.answer(order, Answer::Refused(refused), effects);
                return;
            }
        };
        self.candidacy = Some(Candidacy {
            order,
            deadline: self.now.plus(wait),
            stage,
            newest: *self.record(),
            last_refusal: None,
            since: self.now,
        });
    }

    /// Whether the linked Primary has not yet shown, since this moment, that it lives: a frame that was under way
    /// proves nothing, an echo of this node's later clock does.
    fn primary_may_be_gone(&self, since: Tick, deadline: Tick, refused: &Refused) -> bool {
        let is_alive = |peer: &super::links::Peer| {
            let echoed = peer.link.as_ref().and_then(|link| link.echoed);
            peer.role == Role::Primary && echoed > Some(since)
        };
        refused.name == preconditions::PEER_IS_PRIMARY
            && self.now < deadline
            && !self.peers.iter().any(is_alive)
    }

    /// The table of preconditions, on what this node knows now.
    pub(super) fn may_try_promotion(&self) -> Result<(), Refused> {
        let primary = self.peers.iter().find(|peer| peer.role == Role::Primary);
        preconditions::check(&Preconditions {
            disk: if self.disk_fault.is_some() { DiskState::Failed } else { self.disk },
            primary: primary.map(|peer| self.name_of(peer.node).to_owned()),
            is_promoting: self.candidacy.is_some(),
            is_stopping: self.stopping.is_some(),
            catches_up_from: self
                .inbound
                .as_ref()
                .filter(|_| self.disk == DiskState::Outdated)
                .map(|inbound| self.name_of(inbound.from).to_owned()),
        })
    }

    /// Whether a record or generation of a candidacy is on its way to disk.
    pub(super) fn candidacy_is_storing(&self) -> bool {
        self.candidacy.as_ref().is_some_and(|candidacy| match candidacy.stage {
            Stage::Looking { .. } | Stage::Flushing | Stage::Asking { .. } | Stage::Resting { .. } => false,
            Stage::Storing { .. } | Stage::Taking { .. } | Stage::Recording { .. } => true,
        })
    }

    pub(super) fn candidacy_deadline(&self) -> Option<Tick> {
        self.candidacy.as_ref().map(|candidacy| match candidacy.stage {
            Stage::Resting { until } => until.min(candidacy.deadline),
            Stage::Asking { since, .. } | Stage::Taking { since, .. } => since.plus(ROUND_PATIENCE),
            Stage::Looking { .. } | Stage::Flushing | Stage::Storing { .. } | Stage::Recording { .. } => {
                candidacy.deadline
            }
        })
    }

    pub(super) fn advance_candidacy(&mut self, effects: &mut Effects) {
        if !self.is_started() || self.disk_fault.is_some() {
            return;
        }
        let Some(mut candidacy) = self.candidacy.take() else { return };
        let next = match candidacy.stage {
            Stage::Looking { since } => match self.may_try_promotion() {
                Ok(()) => Some(Stage::Flushing),
                Err(refused) if self.primary_may_be_gone(since, candidacy.deadline, &refused) => {
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
            Stage::Asking { since, ref mut request, ref mut replies } => {
                let (request, replies) = (request.clone(), std::mem::take(replies));
                self.judge_round(&mut candidacy, since, request, replies, effects)
            }
            Stage::Storing { record, revision, basis } => {
                Some(self.take_when_stored(record, revision, basis, effects))
            }
            Stage::Taking { round, since, record, ref granted } => {
                let granted = granted.clone();
                Some(self.count_votes(&mut candidacy, round, since, record, granted, effects))
            }
            Stage::Recording { record, revision, ref granted } => {
                if self.superblock.is_durable(revision) {
                    let granted = granted.clone();
                    self.begin_reign(&candidacy, record, revision, &granted, effects);
                    return;
                }
                Some(Stage::Recording { record, revision, granted: granted.clone() })
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

    pub(super) fn abandon_candidacy(&mut self, candidacy: &Candidacy, effects: &mut Effects) {
        self.refuse_candidacy(candidacy, effects);
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
        let record = self.proposed_record(&candidacy.newest);
        let request = self.vote_request(round, VoteStage::Ask, record, candidacy);
        self.send_to_voters(&Message::VoteRequest(Box::new(request)), effects);
        Some(Stage::Asking { since: self.now, request: Box::new(request), replies: BTreeMap::new() })
    }

    /// The record that this node would begin its reign with, before it knows who is at its position.
    fn proposed_record(&mut self, newest: &MembershipRecord) -> MembershipRecord {
        let highest = newest.term.number.max(self.record().term.number);
        MembershipRecord {
            term: Term { number: highest + 1, taker: self.random.identity() },
            version: 1,
            primary: Some(self.config.local),
            in_sync: crate::promotion::membership::InSyncSet::of(self.config.local, self.incarnation),
            voters: self.voter_list(),
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
            basis: ballot::basis(&candidacy.newest, self.config.local, self.incarnation, self.continues),
            position: self.position(),
            record,
            peer_is_fenced: false,
        }
    }

    fn send_to_voters(&mut self, message: &Message, effects: &mut Effects) {
        let linked: Vec<NodeId> =
            self.peers.iter().filter(|peer| peer.link.is_some()).map(|peer| peer.node).collect();
        for node in linked {
            self.send(node, message, effects);
        }
    }

    pub(super) fn on_vote_reply(&mut self, node: NodeId, reply: &VoteReply) {
        let shown = (reply.stage == VoteStage::Ask || reply.vote.is_err()).then_some(reply.record);
        if self.candidacy.is_some()
            && let Some(record) = shown
        {
            self.learn_record(&record);
        }
        let Some(candidacy) = &mut self.candidacy else { return };
        if let Some(record) = shown.filter(|record| record.order() > candidacy.newest.order()) {
            candidacy.newest = record;
        }
        match &mut candidacy.stage {
            Stage::Asking { request, replies, .. } if request.round == reply.round => {
                replies.insert(node, *reply);
            }
            Stage::Taking { round, granted, .. } if *round == reply.round && reply.vote.is_ok() => {
                if !granted.contains(&node) {
                    granted.push(node);
                }
            }
            Stage::Looking { .. }
            | Stage::Flushing
            | Stage::Asking { .. }
            | Stage::Resting { .. }
            | Stage::Storing { .. }
            | Stage::Taking { .. }
            | Stage::Recording { .. } => {}
        }
    }

    /// Stores a record that a voter showed: a candidate votes for itself by the newest one that there is, even
    /// if its Primary could not tell everybody any more.
    fn learn_record(&mut self, record: &MembershipRecord) {
        let own_voter = self.superblock.content().voter;
        let is_voter = record.voters.ids.get(self.config.local.index()) == Some(&own_voter);
        let same_voters = self.record().is_empty() || self.record().voters == record.voters;
        let is_free = !self.candidacy_is_storing() && self.role != Role::Primary;
        // Only one that names this node: a set that it was to leave is for its Primary alone to bring about.
        let names_it = record.in_sync.has_node(self.config.local);
        if is_voter && same_voters && is_free && names_it && record.order() > self.record().order() {
            self.store_record(*record);
        }
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
        let linked = self.peers.iter().filter(|peer| peer.link.is_some()).count();
        let is_over = replies.len() >= linked || self.now >= since.plus(ROUND_PATIENCE);
        let ballot = Ballot {
            config: &self.config,
            request: &request,
            own_vote,
            own_record: self.record(),
            replies: &replies,
        };
        if is_over {
            // What the next round, if there is one, goes by.
            candidacy.newest = *ballot.newest();
        }
        match ballot::decide(&ballot) {
            Decision::Take(record) if self.position() == request.position => {
                // Whoever streams to this node has no say any more: what this node holds is what was voted on.
                self.inbound = None;
                let revision = self.store_record(record);
                Some(Stage::Storing { record, revision, basis: request.basis })
            }
            Decision::Take(_) => Some(Stage::Resting { until: self.now }),
            Decision::Refuse(refused) if is_over => {
                candidacy.last_refusal = Some(refused);
                None
            }
            Decision::Wait { refused, pause } if is_over => {
                if candidacy.last_refusal.as_ref().is_none_or(|last| last.name != refused.name) {
                    effects.push(Effect::Notify(Notice::info("promotion-waits", refused.reason.clone())));
                }
                candidacy.last_refusal = Some(refused);
                if self.now >= candidacy.deadline {
                    return None;
                }
                Some(Stage::Resting { until: self.now.plus(pause.max(ROUND_PAUSE)).min(candidacy.deadline) })
            }
            Decision::Refuse(_) | Decision::Wait { .. } => Some(Stage::Asking { since, request, replies }),
        }
    }

    /// Where this node's data stands, flushed.
    pub(super) fn position(&self) -> Position {
        self.superblock.content().lineage.position(self.journal.flushed())
    }

    fn take_when_stored(
        &mut self,
        record: MembershipRecord,
        revision: Revision,
        basis: Basis,
        effects: &mut Effects,
    ) -> Stage {
        if !self.superblock.is_durable(revision) {
            return Stage::Storing { record, revision, basis };
        }
        let round = self.random.draw();
        let request = VoteRequest {
            round,
            stage: VoteStage::Take,
            candidate: self.config.local,
            incarnation: self.incarnation,
            // The basis speaks of the record before this one: the voters have not stored the new one yet.
            basis,
            position: self.position(),
            record,
            peer_is_fenced: false,
        };
        self.send_to_voters(&Message::VoteRequest(Box::new(request)), effects);
        Stage::Taking { round, since: self.now, record, granted: vec![self.config.local] }
    }

    fn count_votes(
        &mut self,
        candidacy: &mut Candidacy,
        round: u64,
        since: Tick,
        record: MembershipRecord,
        granted: Vec<NodeId>,
        effects: &mut Effects,
    ) -> Stage {
        if self.record().order() != record.order() {
            // A newer record arrived meanwhile: this candidacy is over, another one may be tried.
            candidacy.newest = *self.record();
            return Stage::Resting { until: self.now.plus(ROUND_PAUSE) };
        }
        if granted.len() >= self.config.majority() && self.journal.is_clean() {
            let revision = self.append_generation(effects);
            self.superblock.change(|content| content.flags.ended_as_primary = true);
            return Stage::Recording { record, revision, granted };
        }
        if self.now >= since.plus(ROUND_PATIENCE) {
            candidacy.newest = record;
            return Stage::Resting { until: self.now.plus(ROUND_PAUSE) };
        }
        Stage::Taking { round, since, record, granted }
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
        self.reign = Some(Reign::new(record, revision, granted.iter().copied()));
        self.set_role(Role::Primary, effects);
        self.set_disk(DiskState::UpToDate, effects);
        self.reintroduce();
        let waited = self.now.since(candidacy.since);
        let text = format!("{} is Primary in term {} after {waited}", self.config.resource, record.term);
        self.answer(candidacy.order, Answer::Done { text }, effects);
    }
}
