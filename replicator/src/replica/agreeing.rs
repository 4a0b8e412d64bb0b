//! A promotion that no majority decides: the other replica agrees, or is fenced (`on-peer-lost` fence and continue);
//! or an operator accepts a loss (`--force`).

use std::collections::BTreeMap;

use crate::effect::{Answer, Effect, Effects};
use crate::event::OrderId;
use crate::generation::compare::{SyncAction, compare};
use crate::notice::Notice;
use crate::peer::message::{Denial, Message, VoteReply, VoteRequest};
use crate::promotion::agreement::{self, Agreed, Agreement, Standing};
use crate::promotion::membership::{InSyncSet, MembershipRecord};
use crate::promotion::preconditions::{DISK_OUTDATED, PEER_IS_PRIMARY};
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::state::{DiskState, Role};
use crate::units::{NodeId, Span, Term, Tick};

use super::Replica;
use super::candidacy::{Candidacy, ROUND_PATIENCE, ROUND_PAUSE, Stage};
use super::links::{Peer, Replication};

impl Replica {
    /// Rests before the next round, as long as there is time for one.
    pub(super) fn wait_on(
        &self,
        candidacy: &mut Candidacy,
        refused: Refused,
        pause: Span,
        effects: &mut Effects,
    ) -> Option<Stage> {
        if candidacy.last_refusal.as_ref().is_none_or(|last| last.name != refused.name) {
            effects.push(Effect::Notify(Notice::info("promotion-waits", refused.reason.clone())));
        }
        candidacy.last_refusal = Some(refused);
        let deadline = candidacy.deadline;
        (self.now < deadline).then(|| Stage::Resting { until: self.now.plus(pause).min(deadline) })
    }

    /// A round in which no majority is asked.
    pub(super) fn judge_agreement(
        &mut self,
        candidacy: &mut Candidacy,
        since: Tick,
        request: Box<VoteRequest>,
        replies: BTreeMap<NodeId, VoteReply>,
        effects: &mut Effects,
    ) -> Option<Stage> {
        let asked: Vec<NodeId> = self.replicas_to_ask().map(|peer| peer.node).collect();
        let have_answered = asked.iter().all(|node| replies.contains_key(node));
        if !have_answered && self.now < since.plus(ROUND_PATIENCE) {
            return Some(Stage::Asking { since, request, replies });
        }
        let replies: BTreeMap<NodeId, VoteReply> =
            replies.into_iter().filter(|(node, _)| asked.contains(node)).collect();
        let usable: Vec<NodeId> =
            self.usable_replicas(candidacy).filter(|node| asked.contains(node)).collect();
        let unreachable: Vec<(NodeId, Standing)> = self
            .unreachable_replicas()
            .filter(|node| self.could_compete(*node, &candidacy.newest))
            .map(|node| (node, self.standing_by_fencing(node)))
            .collect();
        let replaced: Vec<NodeId> = self.replaced_members(&candidacy.newest).collect();
        let decision = agreement::decide(&Agreement {
            config: &self.config,
            request: &request,
            asked: &asked,
            replies: &replies,
            usable: &usable,
            unreachable: &unreachable,
            replaced: &replaced,
            newest: self.knows_newest(&candidacy.newest),
        });
        match decision {
            Agreed::Take(record) if self.position() == request.position => {
                Some(self.begin_taking(&request, record, asked.len() + 1, effects))
            }
            Agreed::Take(_) => Some(Stage::Resting { until: self.now }),
            Agreed::Fence(nodes) => {
                nodes.into_iter().for_each(|node| self.fence(node, effects));
                Some(Stage::Resting { until: self.now.plus(ROUND_PAUSE) })
            }
            Agreed::Wait(refused) => self.wait_on(candidacy, refused, ROUND_PAUSE, effects),
            Agreed::Refuse(refused) => {
                candidacy.last_refusal = Some(refused);
                None
            }
        }
    }

    /// Replicas that are asked for their agreement.
    fn replicas_to_ask(&self) -> impl Iterator<Item = &Peer> {
        let replicates = |peer: &&Peer| {
            peer.is_replica()
                && peer.link.as_ref().is_some_and(|link| !matches!(link.replication, Replication::Stopped))
        };
        self.peers.iter().filter(replicates)
    }

    /// Replicas whose disk holds one state of the volume, as far as is known: none of them is in the middle of a resync, nor
    /// has it just denied to hold what the candidate holds.
    pub(super) fn usable_replicas(&self, candidacy: &Candidacy) -> impl Iterator<Item = NodeId> {
        let usable = self.peers.iter().filter(|peer| peer.disk > DiskState::Inconsistent);
        usable.map(|peer| peer.node).filter(|node| !candidacy.left_out.contains(node))
    }

    /// Whether a replica could be Primary, or have been since: a copy on protocol A or B is promoted only by force.
    fn could_compete(&self, node: NodeId, newest: &MembershipRecord) -> bool {
        self.can_be_in_sync(self.peer(node)) || newest.in_sync.has_node(node)
    }

    /// Whether no copy elsewhere can be newer than the one here, where no majority knows: this run is a member of the
    /// newest record, or every other member is linked and holds no more.
    ///
    /// # Errors
    /// Who may hold more.
    pub(super) fn knows_newest(&self, newest: &MembershipRecord) -> Result<(), String> {
        let is_member = newest.in_sync.incarnation_of(self.config.local) == Some(self.incarnation);
        if is_member && self.disk > DiskState::Outdated {
            return Ok(());
        }
        let may_hold_more = self.members_that_may_hold_more(newest);
        match may_hold_more.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "{} may hold newer data: this node cannot prove that it was in sync to the end",
                may_hold_more.join(", ")
            )),
        }
    }

    /// The other members of a record that are not here to show that they hold no more than this node; before the first
    /// promotion every other replica counts as one.
    fn members_that_may_hold_more(&self, newest: &MembershipRecord) -> Vec<&str> {
        let own = self.position();
        let holds_no_more = |peer: &Peer| {
            // A new disk is not the one that was a member.
            let is_member_itself = newest.is_empty() || self.is_holder(newest, peer);
            let introduced =
                peer.introduced().filter(|_| self.replicas_to_ask().any(|it| it.node == peer.node));
            is_member_itself
                && introduced.is_some_and(|state| state.lineage.position(state.end).age() <= own.age())
        };
        let members = self.peers.iter().filter(|peer| match newest.is_empty() {
            true => peer.is_replica(),
            false => newest.in_sync.has_node(peer.node),
        });
        members.filter(|peer| !holds_no_more(peer)).map(|peer| self.name_of(peer.node)).collect()
    }

    /// Whether an old copy that has found itself equal to another one is old no more. Two old copies may be equal, and one
    /// that nobody has called outdated may have been left behind just as well: where no majority decides who is promoted,
    /// whoever went on without them has to be there.
    pub(super) fn is_old_no_more(&self) -> bool {
        let shown = self.peers.iter().filter_map(|peer| peer.link.as_ref()?.record_shown);
        let newest = shown.chain([*self.record()]).max_by_key(MembershipRecord::order);
        let is_proved = |newest| self.members_that_may_hold_more(&newest).is_empty();
        self.config.on_peer_lost.asks_a_majority() || newest.is_none_or(is_proved)
    }

    /// Two Secondaries that have found out that they hold the same become members of the record, as the runs that they
    /// are: either may be promoted then when the other is gone. Whoever was last, and alone, must have forgotten that,
    /// durably, before the other believes itself to be a member.
    pub(super) fn advance_equals(&mut self) {
        let record = *self.record();
        let is_idle = self.role == Role::Secondary && self.candidacy.is_none() && self.is_started();
        if self.config.on_peer_lost.asks_a_majority()
            || record.is_empty()
            || !is_idle
            || self.disk_fault.is_some()
            || self.may_have_primary(&record)
        {
            return;
        }
        let equals: Vec<NodeId> =
            self.peers.iter().filter(|peer| self.holds_the_same(peer)).map(|peer| peer.node).collect();
        let local = self.config.local;
        let is_here = |node| equals.contains(&node) && self.is_holder(&record, self.peer(node));
        let are_all_here = record.in_sync.iter().all(|(node, _)| node == local || is_here(node));
        if equals.is_empty() || !are_all_here || self.disk <= DiskState::Outdated {
            return;
        }
        let runs = equals.iter().filter_map(|node| Some((*node, self.peer(*node).introduced()?.incarnation)));
        let in_sync =
            runs.fold(InSyncSet::of(local, self.incarnation), |set, (node, run)| set.with(node, run));
        let shown = equals.iter().filter_map(|node| self.peer(*node).link.as_ref()?.record_shown);
        // The one with the newer record makes the next one.
        let is_newest = shown.map(|shown| shown.order()).max() <= Some(record.order());
        if !is_newest || record.in_sync == in_sync {
            return;
        }
        let voters = self.list_to_propose();
        let version = record.version + 1;
        let record = MembershipRecord { version, primary: None, in_sync, voters, ..record };
        self.store_record(record);
        for node in equals {
            if let Some(link) = self.peer(node).link.as_ref().map(|link| link.id) {
                self.send_when_durable(node, link, Message::RecordPassedOn(Box::new(record)));
            }
        }
    }

    /// Whether somebody else reigns, or is about to: only a Primary changes the record of its term. One that has just been
    /// promoted tells its record before its role.
    fn may_have_primary(&self, record: &MembershipRecord) -> bool {
        let other = record.primary.filter(|primary| *primary != self.config.local);
        other.is_some_and(|primary| !self.has_restarted(primary))
            || self.peers.iter().any(|peer| peer.role == Role::Primary && peer.link.is_some())
    }

    /// Whether a Secondary holds exactly what this one does, by the states that were exchanged.
    fn holds_the_same(&self, peer: &Peer) -> bool {
        let Some(link) = peer.link.as_ref().filter(|link| matches!(link.replication, Replication::Idle))
        else {
            return false;
        };
        let (Some(ours), Some(theirs)) = (&link.introduction.sent, &link.introduction.received) else {
            return false;
        };
        let has_moved = ours.end != self.flushed_end() || theirs.role != Role::Secondary;
        self.can_be_in_sync(peer) && !has_moved && compare(ours, theirs).action == SyncAction::NoSync
    }

    /// An operator has accepted the loss: only a Primary that is known to live stands against it.
    pub(super) fn judge_forced(
        &mut self,
        candidacy: &mut Candidacy,
        replies: &BTreeMap<NodeId, VoteReply>,
        effects: &mut Effects,
    ) -> Option<Stage> {
        let lives = replies.values().find_map(|reply| match reply.vote {
            Err(Denial::PrimaryLives { primary }) => Some(primary),
            _ => None,
        });
        // What was true when the order came may not be any more, and nobody else looks again.
        if let Err(refused) = self.may_try_promotion()
            && refused.name != DISK_OUTDATED
        {
            candidacy.last_refusal = Some(refused);
            return None;
        }
        if let Some(primary) = lives {
            let name = self.name_of(primary).to_owned();
            candidacy.last_refusal = Some(Refused {
                code: RefusalCode::StateChange,
                name: PEER_IS_PRIMARY,
                reason: format!("{name} is Primary and alive: a voter is linked to it"),
                cure: "demote it, or stop its daemon; force is for a node that is lost".to_owned(),
            });
            return None;
        }
        let loss = self.loss_by_force();
        effects.push(Effect::Notify(Notice::error("promoted-by-force", loss.clone())));
        candidacy.accepted_loss = Some(loss);
        self.inbound = None;
        let mut record = self.proposed_record(candidacy.highest);
        record.term = Term::forced(record.term.number, record.term.taker);
        let revision = self.store_record(record);
        Some(Stage::Storing { record, revision, granted: vec![self.config.local] })
    }

    pub(super) fn on_weigh_force(&mut self, order: OrderId, effects: &mut Effects) {
        let text = self.loss_by_force();
        self.answer(order, Answer::Done { text }, effects);
    }

    /// What a promotion by force would lose, as far as this node can know.
    pub(super) fn loss_by_force(&self) -> String {
        let end = self.flushed_end();
        let record = self.record();
        let others = self.peers.iter().filter(|peer| peer.is_replica());
        let told = others.map(|peer| peer.told_end).max().unwrap_or_default();
        let held = format!("this node holds every write up to {end}");
        let known = match told > end {
            true => format!("; at least {} writes that others are known to hold are lost", told.since(end)),
            false => "; no later write is known".to_owned(),
        };
        let heard = self
            .peers
            .iter()
            .filter(|peer| record.primary == Some(peer.node) || record.in_sync.has_node(peer.node))
            .filter(|peer| peer.link.is_none())
            .map(|peer| match peer.last_heard {
                Some(heard) => format!(
                    "; whatever {} has completed in the {} since it was last heard is lost too",
                    self.name_of(peer.node),
                    self.now.since(heard)
                ),
                None => format!(
                    "; {} was not heard since this daemon started: whatever it has completed alone is lost too",
                    self.name_of(peer.node)
                ),
            });
        heard.fold(held + &known, |text, sentence| text + &sentence)
    }
}
