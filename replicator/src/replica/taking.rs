//! The votes for a term: the others store its record first, this node last, and a term that too few grant leaves no
//! trace (docs/decisions 8).

use crate::effect::Effects;
use crate::peer::message::{Denial, Message, VoteRequest, VoteStage};
use crate::promotion::membership::MembershipRecord;
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::promotion::voting;
use crate::units::{NodeId, Tick};

use super::Replica;
use super::candidacy::{Candidacy, ROUND_PATIENCE, ROUND_PAUSE, Stage};
use super::links::{Peer, Voted};

/// How often the voters are told to store a record before the candidate gives up its term.
const TAKE_ATTEMPTS: u32 = 3;

/// Votes that are being gathered. This node votes last, so that a term that nobody else grants leaves no trace:
/// no record on its disk that others cannot follow, and no frame of a term that deposes a Primary.
#[derive(Debug)]
pub(super) struct Taking {
    pub(super) request: VoteRequest,
    /// This node's own record, on which the request rests.
    rests_on: MembershipRecord,
    pub(super) since: Tick,
    /// When the first of them was asked.
    begun: Tick,
    attempts: u32,
    granted: Vec<NodeId>,
    /// How many must grant it, this node included.
    needed: usize,
}

impl Replica {
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

    pub(super) fn begin_taking(
        &mut self,
        asked: &VoteRequest,
        record: MembershipRecord,
        needed: usize,
        effects: &mut Effects,
    ) -> Stage {
        // Whoever streams to this node has no say any more: what this node holds is what is voted on.
        self.inbound = None;
        let request = VoteRequest { round: self.random.draw(), stage: VoteStage::Take, record, ..*asked };
        self.send_to_voters(&Message::VoteRequest(Box::new(request)), effects);
        let (rests_on, since, begun) = (*self.record(), self.now, self.now);
        let granted = Vec::new();
        Stage::Taking(Box::new(Taking { request, rests_on, since, begun, attempts: 1, granted, needed }))
    }

    pub(super) fn count_votes(
        &mut self,
        candidacy: &mut Candidacy,
        mut taking: Box<Taking>,
        effects: &mut Effects,
    ) -> Stage {
        let request = taking.request;
        // Own vote and position are as they were when the others were asked, or this candidacy is over.
        let is_as_asked = *self.record() == taking.rests_on
            && self.position() == request.position
            && voting::may_grant(&self.voter_view(), &request).is_ok();
        if !is_as_asked {
            return self.rest_after(candidacy, &taking, effects);
        }
        if taking.granted.len() + 1 >= taking.needed && self.journal.is_clean() {
            let revision = self.store_record(request.record);
            taking.granted.push(self.config.local);
            return Stage::Storing { record: request.record, revision, granted: taking.granted };
        }
        // Whoever is named in sync and says that it is not will say so again: the next round does not name it.
        let denied: Vec<NodeId> = self.named_but_not_in_sync(&taking).collect();
        if !denied.is_empty() {
            candidacy.left_out.extend(denied);
            return self.rest_after(candidacy, &taking, effects);
        }
        if self.now >= taking.since.plus(ROUND_PATIENCE) {
            if taking.attempts == TAKE_ATTEMPTS {
                return self.rest_after(candidacy, &taking, effects);
            }
            taking.attempts += 1;
            taking.since = self.now;
            self.send_to_voters(&Message::VoteRequest(Box::new(request)), effects);
        }
        Stage::Taking(taking)
    }

    /// Members of the set that was asked for that do not hold what the candidate holds.
    fn named_but_not_in_sync(&self, taking: &Taking) -> impl Iterator<Item = NodeId> {
        let is_of_it = |voted: &Voted| voted.stage == VoteStage::Take && voted.at >= taking.begun;
        let denies = move |peer: &&Peer| {
            let voted = peer.voted.as_ref().filter(|voted| is_of_it(voted));
            voted.is_some_and(|voted| matches!(voted.vote, Err(Denial::NotInSync { .. })))
        };
        self.peers.iter().filter(denies).map(|peer| peer.node)
    }

    fn rest_after(&mut self, candidacy: &mut Candidacy, taking: &Taking, effects: &mut Effects) -> Stage {
        self.give_up(taking, effects);
        candidacy.newest = *self.record();
        candidacy.last_refusal = Some(Refused {
            code: RefusalCode::StateChange,
            name: "not-granted",
            reason: format!("too few voters stored term {}", taking.request.record.term),
            cure: "nothing; the voters are asked again".to_owned(),
        });
        Stage::Resting { until: self.now.plus(ROUND_PAUSE) }
    }

    /// Ends a term that was not granted by enough voters. Those that granted it need not wait for its lease; nobody
    /// else hears of it.
    pub(super) fn give_up(&mut self, taking: &Taking, effects: &mut Effects) {
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
        let is_unknown = shown.order() > self.record().order() || shown.is_rival_of(self.record());
        if is_own && is_unknown && self.candidacy_term() != Some(shown.term) {
            self.send(node, &Message::RecordUpdate(Box::new(shown.ended())), effects);
        }
    }

    /// A newer record arrived while this node's own was being stored: this candidacy is over, another may be tried.
    pub(super) fn rest_deposed(&mut self, newest: &mut MembershipRecord) -> Stage {
        *newest = *self.record();
        // Verdicts had to wait, and peers may have acted on theirs.
        self.reintroduce();
        Stage::Resting { until: self.now.plus(ROUND_PAUSE) }
    }
}
