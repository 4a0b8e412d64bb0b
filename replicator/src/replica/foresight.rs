//! `connect --dry-run`: the verdict that a connect would reach, with nothing changed on either side. Where no link is
//! wanted, a tentative one is made: both ends know it by a flag in the states that they exchange, and neither does
//! anything but compare them. It carries states, heartbeats and the goodbye, and nothing that a voter or a disk would
//! have to keep.

use crate::effect::{Answer, Effect, Effects};
use crate::event::OrderId;
use crate::generation::compare::SyncAction;
use crate::generation::split_brain::{Discards, Policy, Side, giving_way, loser};
use crate::generation::why::reasoning;
use crate::peer::message::{FarewellReason, Message, PeerState};
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::units::{Lsn, NodeId, Span, Tick};

use super::Replica;
use super::explain::text_of;
use super::explanations;
use super::links::{Link, Meeting, Peer, Replication};

/// How long a tentative link, or a verdict that is about to be reached, is waited for.
const PATIENCE: Span = Span::from_millis(15_000);
/// Questions that wait for an answer, at most.
const FORESIGHTS_MAX: usize = 16;

/// A question for the verdict on some peers.
#[derive(Debug)]
pub(super) struct Foresight {
    order: OrderId,
    deadline: Tick,
    awaited: Vec<NodeId>,
    told: Vec<Outcome>,
}

/// What a connect to one peer would come to.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    end: End,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The two would be, or become, alike.
    Replication,
    /// The two would stand alone.
    StandAlone,
    /// Nobody can say: there is no link.
    Unknown,
}

impl Replica {
    pub(super) fn on_foresee(&mut self, order: OrderId, peer: Option<NodeId>, effects: &mut Effects) {
        if self.foresights.len() >= FORESIGHTS_MAX {
            let refused = Refused {
                code: RefusalCode::StateChange,
                name: "busy",
                reason: format!("{FORESIGHTS_MAX} others wait for a verdict"),
                cure: "ask again in a moment".to_owned(),
            };
            self.answer(order, Answer::Refused(refused), effects);
            return;
        }
        let awaited = self.chosen(peer);
        for node in &awaited {
            let peer = self.peer_mut(*node);
            if !peer.wanted && !peer.is_sounded {
                (peer.is_sounded, peer.foreseen) = (true, None);
                effects.push(Effect::SetDialing { peer: *node, wanted: true });
            }
        }
        let deadline = self.now.plus(PATIENCE);
        self.foresights.push(Foresight { order, deadline, awaited, told: Vec::new() });
    }

    /// Answers what can be answered, and ends tentative links that nobody waits for any more.
    pub(super) fn advance_foresights(&mut self, effects: &mut Effects) {
        for mut foresight in std::mem::take(&mut self.foresights) {
            let is_late = self.now >= foresight.deadline || self.is_stopping;
            let awaited = std::mem::take(&mut foresight.awaited);
            for node in awaited {
                match self.outcome(self.peer(node), is_late) {
                    Some(outcome) => foresight.told.push(outcome),
                    None => foresight.awaited.push(node),
                }
            }
            match foresight.awaited.is_empty() {
                true => self.answer_foresight(foresight, effects),
                false => self.foresights.push(foresight),
            }
        }
        let is_awaited = |node: NodeId| self.foresights.iter().any(|one| one.awaited.contains(&node));
        let over: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|peer| peer.is_sounded && !is_awaited(peer.node))
            .map(|peer| peer.node)
            .collect();
        for node in over {
            self.end_sounding(node, effects);
        }
    }

    pub(super) fn foresight_deadline(&self) -> Option<Tick> {
        self.foresights.iter().map(|foresight| foresight.deadline).min()
    }

    /// What a connect would come to, if it is known or nobody waits any longer.
    fn outcome(&self, peer: &Peer, is_late: bool) -> Option<Outcome> {
        if peer.foreseen.is_some() && !peer.wanted {
            return peer.foreseen.clone();
        }
        let is_settled = |link: &Link| !matches!(link.replication, Replication::Introducing);
        let has_verdict = peer.wanted && peer.rule.is_some() && peer.link.as_ref().is_some_and(is_settled);
        match self.encounter(peer) {
            Some(encounter) if has_verdict => {
                Some(self.outcome_of(peer.node, &self.state_for(peer.node, 1), &encounter.theirs))
            }
            _ if is_late || (peer.wanted && peer.link.is_none()) => Some(self.unknown(peer)),
            _ => None,
        }
    }

    fn unknown(&self, peer: &Peer) -> Outcome {
        let name = self.name_of(peer.node);
        let why = peer.reason().unwrap_or("it has not answered");
        Outcome { end: End::Unknown, text: format!("{name}: no link: {why}") }
    }

    fn outcome_of(&self, node: NodeId, ours: &PeerState, theirs: &PeerState) -> Outcome {
        let names = (self.name_of(self.config.local), self.name_of(node));
        if !are_configured_alike(ours, theirs) {
            let text = format!("{}: no replication: {}", names.1, explanations::other_configuration().reason);
            return Outcome { end: End::StandAlone, text };
        }
        if ours.follows_another || theirs.follows_another {
            let text =
                format!("{}: no verdict as long as one of the two takes records from a third node", names.1);
            return Outcome { end: End::Replication, text };
        }
        let reasoning = reasoning(ours, theirs);
        let verdict = reasoning.verdict;
        let (end, loss) = match verdict.action {
            SyncAction::NoSync => (End::Replication, String::new()),
            SyncAction::Source(course) => (End::Replication, loss(names.1, theirs.end, course.target_keeps)),
            SyncAction::Target(course) => (End::Replication, loss(names.0, ours.end, course.target_keeps)),
            SyncAction::Stop(_) => match loser(&self.config.split_brain, &verdict, ours, theirs) {
                None => (End::StandAlone, String::new()),
                Some((Side::Ours, policy)) => by_policy(policy, names.0, ours, theirs),
                Some((Side::Theirs, policy)) => by_policy(policy, names.1, theirs, ours),
            },
        };
        let because = reasoning.method.map(|method| format!(", because {method}")).unwrap_or_default();
        let text = text_of(&verdict.action, names);
        Outcome {
            end,
            text: format!(
                "{}: rule {verdict} ({}): {text}{because}{loss}",
                names.1,
                verdict.rule.condition()
            ),
        }
    }

    /// Both states of a tentative link are there: that is all that it was for.
    pub(super) fn foresee(&mut self, node: NodeId) {
        let Some(link) = &self.peer(node).link else { return };
        let (Some(ours), Some(theirs)) = (&link.introduction.sent, &link.introduction.received) else {
            return;
        };
        let outcome = self.outcome_of(node, ours, theirs);
        let met = Meeting { action: None, ours: ours.clone(), theirs: theirs.clone() };
        let peer = self.peer_mut(node);
        peer.foreseen = Some(outcome).filter(|_| peer.is_sounded);
        peer.met = Some(met);
        if let Some(link) = &mut peer.link {
            link.replication = Replication::Stopped;
        }
    }

    /// No more links to a peer that an operator has disconnected.
    fn end_sounding(&mut self, node: NodeId, effects: &mut Effects) {
        let peer = self.peer_mut(node);
        (peer.is_sounded, peer.foreseen) = (false, None);
        if peer.wanted {
            return; // Somebody has connected it in earnest meanwhile.
        }
        effects.push(Effect::SetDialing { peer: node, wanted: false });
        self.send(node, &Message::Farewell { reason: FarewellReason::Disconnected }, effects);
        self.drop_link(node, "the dry run is over", effects);
        let why = explanations::disconnected_here(&self.config.resource);
        self.peer_mut(node).trouble = Some(why);
    }

    fn answer_foresight(&mut self, foresight: Foresight, effects: &mut Effects) {
        let end = foresight.told.iter().map(|outcome| outcome.end).max().unwrap_or(End::Replication);
        let text = foresight.told.into_iter().map(|outcome| outcome.text).collect::<Vec<_>>().join("\n");
        let resource = &self.config.resource;
        let refused = |code, name, cure| Answer::Refused(Refused { code, name, reason: text.clone(), cure });
        let answer = match end {
            End::Replication => Answer::Done { text },
            End::StandAlone => refused(
                RefusalCode::StateChange,
                "stand-alone",
                format!("`twinblk explain {resource}` shows both sides and what leads out"),
            ),
            End::Unknown => refused(
                RefusalCode::TimedOut,
                "not-connected",
                "start the peer, or `twinblk connect` there, or mend the network; then ask again".to_owned(),
            ),
        };
        self.answer(foresight.order, answer, effects);
    }
}

/// Whether replication between the two is possible at all.
pub(super) fn are_configured_alike(ours: &PeerState, theirs: &PeerState) -> bool {
    ours.configuration_digest == theirs.configuration_digest && ours.volume_bytes == theirs.volume_bytes
}

/// What a policy comes to by which one side should give way.
fn by_policy(policy: Policy, name: &str, loser: &PeerState, winner: &PeerState) -> (End, String) {
    let policy = policy.name();
    match giving_way(Discards::Changes, loser, winner) {
        SyncAction::Target(_) => {
            (End::Replication, format!("; by the policy `{policy}` {name} would give way, and be resynced"))
        }
        SyncAction::Stop(_) | SyncAction::NoSync | SyncAction::Source(_) => (
            End::StandAlone,
            format!(
                "; the policy `{policy}` does not lead out: which blocks {name} changed alone is not known for certain"
            ),
        ),
    }
}

/// What the target would give up.
fn loss(target: &str, end: Lsn, keeps: Lsn) -> String {
    match end.since(keeps) {
        0 => String::new(),
        1 => format!("; {target} would give up write {end}"),
        _ => format!("; {target} would give up writes {} to {end}", keeps.next()),
    }
}
