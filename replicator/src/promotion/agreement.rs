//! What the answers to a candidate mean where no majority is asked (`on-peer-lost` fence and continue): every replica
//! that it can reach agrees, and every other one is no competitor. Pure: the round goes in, the decision comes out.

use std::collections::BTreeMap;

use crate::config::{Config, OnPeerLost};
use crate::peer::message::{Denial, VoteReply, VoteRequest};
use crate::promotion::fence::Fenced;
use crate::promotion::membership::MembershipRecord;
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::units::NodeId;

/// A round as it stands.
#[derive(Debug)]
pub struct Agreement<'a> {
    /// Who there is.
    pub config: &'a Config,
    /// What was asked.
    pub request: &'a VoteRequest,
    /// The replicas that were asked: those that replicate with this node, or are about to.
    pub asked: &'a [NodeId],
    /// Their answers so far.
    pub replies: &'a BTreeMap<NodeId, VoteReply>,
    /// Those of them whose disk holds one state of the volume, and could follow the candidate as it is.
    pub usable: &'a [NodeId],
    /// The replicas that cannot be asked and could be Primary, and what is known of each.
    pub unreachable: &'a [(NodeId, Standing)],
    /// Members of the newest record that are not here any more: others are linked in their places.
    pub replaced: &'a [NodeId],
    /// Whether no copy elsewhere can be newer than the candidate's, or what speaks against it.
    pub newest: Result<(), String>,
}

/// What is known of a replica that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing yet.
    NotFenced,
    /// The fence command runs against it.
    BeingFenced,
    /// This, and why.
    Fenced(Fenced, String),
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// Have the others store this record, then store it.
    Take(MembershipRecord),
    /// Run the fence command against these.
    Fence(Vec<NodeId>),
    /// Not yet. The refusal is the answer if the time is up before.
    Wait(Refused),
    /// No.
    Refuse(Refused),
}

/// Decides a round in which everybody who was asked has answered, or had the time to.
#[must_use]
pub fn decide(round: &Agreement<'_>) -> Agreed {
    let name = |node: NodeId| round.config.name_of(node);
    let silent: Vec<&str> =
        round.asked.iter().filter(|node| !round.replies.contains_key(node)).map(|node| name(*node)).collect();
    if !silent.is_empty() {
        let reason = format!("{} has not answered", silent.join(", "));
        return Agreed::Wait(refused(
            RefusalCode::StateChange,
            "peer-silent",
            reason,
            "wait, or see why it is silent",
        ));
    }
    let denials = round.replies.iter().filter_map(|(node, reply)| Some((*node, reply.vote.err()?)));
    if let Some(against) = denials.map(|(node, denial)| denied(round, node, denial)).next() {
        return against;
    }
    if round.config.on_peer_lost == OnPeerLost::Fence
        && let Some(decision) = unproved(round)
    {
        return decision;
    }
    let may_compete = round.unreachable.iter().any(|(_, standing)| match standing {
        Standing::Fenced(fenced, _) => !fenced.frees(false),
        Standing::NotFenced | Standing::BeingFenced => true,
    });
    // Whoever is new agrees to everything, and knows nothing of what was on the disk before.
    let has_to_be_newest = may_compete || !round.replaced.is_empty();
    match &round.newest {
        Err(reason) if has_to_be_newest => {
            let cure = "bring it up and connect; or `promote --force`, which first says what may be lost";
            Agreed::Refuse(refused(RefusalCode::NoUpToDateData, "disk-consistent", reason.clone(), cure))
        }
        Ok(()) | Err(_) => Agreed::Take(record_to_take(round)),
    }
}

/// What one replica has against it.
fn denied(round: &Agreement<'_>, node: NodeId, denial: Denial) -> Agreed {
    let name = round.config.name_of(node);
    match denial {
        Denial::PrimaryLives { primary } => {
            let reason = format!("{} is Primary", round.config.name_of(primary));
            Agreed::Wait(refused(RefusalCode::StateChange, "peer-is-primary", reason, "demote it first"))
        }
        Denial::Behind { .. } => {
            let reason = format!("{name} holds newer data: {denial}");
            let cure = format!("promote on {name}, or wait until this node has caught up");
            Agreed::Refuse(refused(RefusalCode::NoUpToDateData, "not-in-sync", reason, &cure))
        }
        Denial::Lease { .. }
        | Denial::NotAMember { .. }
        | Denial::OlderTerm { .. }
        | Denial::EmptyRecord
        | Denial::MemberLives { .. }
        | Denial::NotInSync { .. }
        | Denial::OtherVoters => {
            let reason = format!("{name} does not agree: {denial}");
            Agreed::Wait(refused(
                RefusalCode::StateChange,
                "peer-disagrees",
                reason,
                "nothing; it is asked again",
            ))
        }
    }
}

/// In fence mode: a replica that cannot be asked is fenced first, and what that proves has to be enough.
fn unproved(round: &Agreement<'_>) -> Option<Agreed> {
    let unreachable = || round.unreachable.iter();
    let name = |node: NodeId| round.config.name_of(node);
    let to_fence: Vec<NodeId> = unreachable()
        .filter(|(_, standing)| *standing == Standing::NotFenced)
        .map(|(node, _)| *node)
        .collect();
    if !to_fence.is_empty() {
        return Some(Agreed::Fence(to_fence));
    }
    unreachable().find_map(|(node, standing)| match standing {
        Standing::NotFenced => None,
        Standing::BeingFenced => {
            let reason = format!("the fence command against {} has not ended", name(*node));
            Some(Agreed::Wait(refused(RefusalCode::StateChange, "fencing", reason, "wait for it")))
        }
        Standing::Fenced(Fenced::Primary, _) => {
            let reason = format!("the fence command says that {} is Primary; this node is Outdated now", name(*node));
            Some(Agreed::Refuse(refused(
                RefusalCode::StateChange,
                "peer-is-primary",
                reason,
                "demote it first; connect, so that this node catches up",
            )))
        }
        Standing::Fenced(Fenced::Unknown, why) => {
            let reason = format!("{} cannot be reached, and the fence command did not help: {why}", name(*node));
            let cure = "mend the fence command (its output is in the log), connect the peer, or make sure that it is \
                        silent and `promote --peer-is-fenced`";
            Some(Agreed::Refuse(refused(RefusalCode::StateChange, "fence-failed", reason, cure)))
        }
        Standing::Fenced(Fenced::Inconsistent | Fenced::Outdated | Fenced::Down | Fenced::Shot, _) => None,
    })
}

/// The record of the new reign: the candidate, and whoever holds exactly what it holds.
fn record_to_take(round: &Agreement<'_>) -> MembershipRecord {
    let mut record = round.request.record;
    for (node, reply) in round.replies {
        let can_be_in_sync =
            round.config.replicas.get(node.index()).is_some_and(|replica| replica.protocol.can_be_in_sync());
        let is_equal = reply.position == round.request.position && round.usable.contains(node);
        if is_equal && can_be_in_sync {
            record.in_sync = record.in_sync.with(*node, reply.incarnation);
        }
    }
    record
}

fn refused(code: RefusalCode, name: &'static str, reason: String, cure: &str) -> Refused {
    Refused { code, name, reason, cure: cure.to_owned() }
}

#[cfg(test)]
mod tests;
