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
use super::links::Replication;
use super::reign::Reign;

/// How long a round waits for voters that do not answer.
const ROUND_PATIENCE: Span = Span::from_millis(500);
/// Pause before the voters are asked again.
const ROUND_PAUSE: Span = Span::from_millis(100);
/// How often the voters are told to store a record before the candidate gives up its term.
const TAKE_ATTEMPTS: u32 = 3;

/// A promotion in progress.
#[derive(Debug)]
pub(super) struct Candidacy {
    order: OrderId,
    deadline: Tick,
    stage: Stage,
    /// The record that the next round rests on: the newest one that may count of those that voters showed.
    newest: MembershipRecord,
    /// Number of the highest term that any voter showed, granted or not: this node asks for a higher one.
    highest: u64,
    /// The newest record that voters with an older one were told.
    passed_on: Option<(Term, u64)>,
    /// Why the last round did not lead to anything.
    last_refusal: Option<Refused>,
    since: Tick,
}

#[derive(Debug)]
enum Stage {
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

/// Votes that are being gathered. This node votes last, so that a term that nobody else grants leaves no trace:
/// no record on its disk that others cannot follow, and no frame of a term that deposes a Primary.
#[derive(Debug)]
struct Taking {
    request: VoteRequest,
    /// This node's own record, on which the request rests.
    rests_on: MembershipRecord,
    since: Tick,
    attempts: u32,
    granted: Vec<NodeId>,
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
            deadline: self.now.plus(wait),
            stage,
            newest: *self.record(),
            highest: self.record().term.number,
            passed_on: None,
            last_refusal: None,
            since: self.now,
        });
    }

    /// Whether the linked Primary has not yet shown, since this moment, that it lives: a frame that was under way
    /// proves nothing, an echo of this node's later clock does.
    fn primary_may_be_gone(&self, since: Tick, refused: &Refused) -> bool {
        let is_alive = |peer: &super::links::Peer| {
            let echoed = peer.link.as_ref().and_then(|link| link.echoed);
            peer.role == Role::Primary && echoed > Some(since)
        };
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

    /// The table of preconditions, on what this node knows now.
    pub(super) fn may_try_promotion(&self) -> Result<(), Refused> {
        let primary = self.peers.iter().find(|peer| peer.role == Role::Primary);
        preconditions::check(&Preconditions {
            disk: if self.disk_fault.is_some() { DiskState::Failed } else { self.disk },
            primary: primary.map(|peer| self.name_of(peer.node).to_owned()),
            is_promoting: self.candidacy.is_some(),
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

    pub(super) fn candidacy_deadline(&self) -> Option<Tick> {
        self.candidacy.as_ref().map(|candidacy| match candidacy.stage {
            Stage::Resting { until } => until.min(candidacy.deadline),
            Stage::Asking { since, .. } => since.plus(ROUND_PATIENCE),
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
        if self.disk_fault.is_some() {
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
            Stage::Taking(taking) => Some(self.count_votes(&mut candidacy.newest, taking, effects)),
            Stage::Storing { record, .. } | Stage::Recording { record, .. }
                if self.record().order() != record.order() =>
            {
                Some(self.rest_deposed(&mut candidacy.newest))
            }
            Stage::Storing { record, revision, granted } => {
                Some(self.record_when_stored(record, revision, granted, effects))
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
        let record = self.proposed_record(candidacy.highest);
        let request = self.vote_request(round, VoteStage::Ask, record, candidacy);
        self.send_to_voters(&Message::VoteRequest(Box::new(request)), effects);
        Some(Stage::Asking { since: self.now, request: Box::new(request), replies: BTreeMap::new() })
    }

    /// The record that this node would begin its reign with, before it knows who is at its position.
    fn proposed_record(&mut self, highest: u64) -> MembershipRecord {
        let highest = highest.max(self.record().term.number);
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
            basis: self.basis_on(&candidacy.newest),
            position: self.position(),
            record,
            peer_is_fenced: false,
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
        }
        self.note_granted(node, &reply.record);
    }

    /// A voter has stored a record: if it is the one that this candidate asks for, that is its vote, also where the
    /// answer to the question itself was lost.
    pub(super) fn note_granted(&mut self, node: NodeId, stored: &MembershipRecord) {
        if let Some(Candidacy { stage: Stage::Taking(taking), .. }) = &mut self.candidacy
            && taking.request.record == *stored
            && !taking.granted.contains(&node)
        {
            taking.granted.push(node);
        }
    }

    /// Whether it is known that the Primary of a record began its reign: a majority had granted it, so that the
    /// record stands above everything that a majority had stored before.
    fn has_reigned<'a>(
        &self,
        record: &MembershipRecord,
        mut replies: impl Iterator<Item = &'a VoteReply>,
    ) -> bool {
        let generations = self.superblock.content().lineage.generations();
        voting::shows_a_reign(record)
            || generations.iter().any(|generation| generation.term == record.term)
            || replies.any(|reply| reply.position.term == record.term)
    }

    /// Stores a record that a voter showed: a candidate votes for itself by the newest one that there is, even
    /// if its Primary could not tell everybody any more.
    fn learn_record(&mut self, record: &MembershipRecord, effects: &mut Effects) {
        let own_voter = self.superblock.content().voter;
        let is_voter = record.voters.ids.get(self.config.local.index()) == Some(&own_voter);
        let may = voting::may_replace(self.record(), &self.voter_list(), record).is_ok();
        let is_free =
            self.candidacy.is_some() && self.candidacy_term().is_none() && self.role != Role::Primary;
        // Only one that names this node: a set that it was to leave is for its Primary alone to bring about.
        let names_it = record.in_sync.has_node(self.config.local);
        if is_voter && may && is_free && names_it {
            self.store_record(*record);
            self.judge_own_disk(effects);
        }
    }

    /// Tells the record that counts to voters that have stored an older one, once for each record: they may have been
    /// away when its Primary told it, and it cannot tell them any more. Returns whether somebody was told.
    fn pass_on(
        &mut self,
        candidacy: &mut Candidacy,
        replies: &BTreeMap<NodeId, VoteReply>,
        effects: &mut Effects,
    ) -> bool {
        let record = candidacy.newest;
        let is_living_member = match self.basis_on(&record) {
            Basis::Member { .. } => true,
            // Whoever does not live on as a member makes sure first that no newer record is hidden.
            Basis::AllReported => replies.len() + 1 == self.config.voters(),
            Basis::First => false,
        };
        if !is_living_member || candidacy.passed_on >= Some(record.order()) {
            return false;
        }
        let has_reigned = self.has_reigned(&record, replies.values());
        // A voter that never stored a record has promised nothing, so whatever there is is safe for it.
        let lags = |reply: &VoteReply| {
            reply.record.order() < record.order() && (has_reigned || reply.record.is_empty())
        };
        let behind: Vec<NodeId> =
            replies.iter().filter(|(_, reply)| lags(reply)).map(|(node, _)| *node).collect();
        for node in &behind {
            self.send(*node, &Message::RecordPassedOn(Box::new(record)), effects);
        }
        if !behind.is_empty() {
            candidacy.passed_on = Some(record.order());
        }
        !behind.is_empty()
    }

    fn basis_on(&self, newest: &MembershipRecord) -> Basis {
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
                Some(self.begin_taking(&request, record, effects))
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

    fn begin_taking(
        &mut self,
        asked: &VoteRequest,
        record: MembershipRecord,
        effects: &mut Effects,
    ) -> Stage {
        // Whoever streams to this node has no say any more: what this node holds is what is voted on.
        self.inbound = None;
        let request = VoteRequest { round: self.random.draw(), stage: VoteStage::Take, record, ..*asked };
        self.send_to_voters(&Message::VoteRequest(Box::new(request)), effects);
        let (rests_on, since) = (*self.record(), self.now);
        Stage::Taking(Box::new(Taking { request, rests_on, since, attempts: 1, granted: Vec::new() }))
    }

    fn count_votes(
        &mut self,
        newest: &mut MembershipRecord,
        mut taking: Box<Taking>,
        effects: &mut Effects,
    ) -> Stage {
        let request = taking.request;
        // Own vote and position are as they were when the others were asked, or this candidacy is over.
        let is_as_asked = *self.record() == taking.rests_on
            && self.position() == request.position
            && voting::may_grant(&self.voter_view(), &request).is_ok();
        if !is_as_asked {
            return self.rest_after(newest, &taking, effects);
        }
        if taking.granted.len() + 1 >= self.config.majority() && self.journal.is_clean() {
            let revision = self.store_record(request.record);
            taking.granted.push(self.config.local);
            return Stage::Storing { record: request.record, revision, granted: taking.granted };
        }
        if self.now >= taking.since.plus(ROUND_PATIENCE) {
            if taking.attempts == TAKE_ATTEMPTS {
                return self.rest_after(newest, &taking, effects);
            }
            taking.attempts += 1;
            taking.since = self.now;
            self.send_to_voters(&Message::VoteRequest(Box::new(request)), effects);
        }
        Stage::Taking(taking)
    }

    fn rest_after(&mut self, newest: &mut MembershipRecord, taking: &Taking, effects: &mut Effects) -> Stage {
        self.give_up(taking, effects);
        *newest = *self.record();
        Stage::Resting { until: self.now.plus(ROUND_PAUSE) }
    }

    /// Ends a term that was not granted by enough voters. Those that granted it need not wait for its lease; nobody
    /// else hears of it.
    fn give_up(&mut self, taking: &Taking, effects: &mut Effects) {
        for node in &taking.granted {
            self.send(*node, &Message::RecordUpdate(Box::new(taking.request.record.ended())), effects);
        }
        // The stream that was cut short begins anew.
        self.reintroduce();
    }

    /// A voter shows that it has granted a term which this node has given up: its answer was late. It must not wait for
    /// the lease of a reign that never was.
    pub(super) fn end_late_grant(&mut self, node: NodeId, shown: &MembershipRecord, effects: &mut Effects) {
        let is_own = shown.primary == Some(self.config.local)
            && shown.in_sync.incarnation_of(self.config.local) == Some(self.incarnation);
        // What this node has stored itself is a reign, or becomes one.
        let is_unknown = shown.order() > self.record().order();
        if is_own && is_unknown && self.candidacy_term() != Some(shown.term) {
            self.send(node, &Message::RecordUpdate(Box::new(shown.ended())), effects);
        }
    }

    /// A newer record arrived while this node's own was being stored: this candidacy is over, another may be tried.
    fn rest_deposed(&mut self, newest: &mut MembershipRecord) -> Stage {
        *newest = *self.record();
        // Verdicts had to wait, and peers may have acted on theirs.
        self.reintroduce();
        Stage::Resting { until: self.now.plus(ROUND_PAUSE) }
    }

    fn record_when_stored(
        &mut self,
        record: MembershipRecord,
        revision: Revision,
        granted: Vec<NodeId>,
        effects: &mut Effects,
    ) -> Stage {
        if !self.superblock.is_durable(revision) || !self.journal.is_clean() {
            return Stage::Storing { record, revision, granted };
        }
        let revision = self.append_generation(effects);
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
        self.reign = Some(Reign::new(record, revision, granted.iter().copied()));
        self.set_role(Role::Primary, effects);
        self.set_disk(DiskState::UpToDate, effects);
        self.reintroduce();
        let waited = self.now.since(candidacy.since);
        let text = format!("{} is Primary in term {} after {waited}", self.config.resource, record.term);
        self.answer(candidacy.order, Answer::Done { text }, effects);
    }
}
