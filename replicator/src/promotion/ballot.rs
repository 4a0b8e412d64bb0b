//! What the answers to a candidate mean: take the term, wait and ask again, or give up. Pure: the round goes
//! in, the decision comes out.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::peer::message::{Basis, Denial, VoteReply, VoteRequest};
use crate::promotion::membership::MembershipRecord;
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::units::{Incarnation, NodeId, Span, VoterId};

/// A round as it stands.
#[derive(Debug)]
pub struct Ballot<'a> {
    /// Who votes.
    pub config: &'a Config,
    /// What was asked.
    pub request: &'a VoteRequest,
    /// The candidate's own vote, by the same rules.
    pub own_vote: Result<(), Denial>,
    /// The record that the candidate has stored.
    pub own_record: &'a MembershipRecord,
    /// The answers so far.
    pub replies: &'a BTreeMap<NodeId, VoteReply>,
    /// The replicas whose disk holds one state of the volume.
    pub usable: &'a [NodeId],
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Store this record and have the voters store it.
    Take(MembershipRecord),
    /// Not yet; ask again after the pause. The refusal is the answer if the time is up before.
    Wait {
        /// What is missing.
        refused: Refused,
        /// How long nothing can change by itself.
        pause: Span,
    },
    /// No later answer can make a majority.
    Refuse(Refused),
}

/// Why the candidate may be promoted if the record is `newest`: by first promotion, as a living member, or
/// as the newest of members none of whom lives on.
#[must_use]
pub fn basis(
    newest: &MembershipRecord,
    candidate: NodeId,
    incarnation: Incarnation,
    continues: Option<Incarnation>,
) -> Basis {
    if newest.is_empty() {
        return Basis::First;
    }
    match newest.in_sync.is_continued_by(candidate, incarnation, continues) {
        true => Basis::Member { continues: continues.unwrap_or(incarnation) },
        false => Basis::AllReported,
    }
}

impl Ballot<'_> {
    /// The records that were shown, the candidate's own included.
    fn shown(&self) -> impl Iterator<Item = &MembershipRecord> {
        self.replies.values().map(|reply| &reply.record).chain([self.own_record])
    }

    /// The newest record that a majority may have stored, going by the answers so far.
    #[must_use]
    pub fn newest(&self) -> &MembershipRecord {
        record_to_follow(self.config, self.shown())
    }

    /// Every record that may be the newest one that a majority has stored.
    fn possible(&self) -> Vec<&MembershipRecord> {
        let newest = self.newest().order();
        let shown = newest_first(self.shown());
        let oldest = shown[(self.config.majority() - 1).min(shown.len() - 1)].order();
        shown.into_iter().filter(|record| (oldest..=newest).contains(&record.order())).collect()
    }
}

fn newest_first<'a>(shown: impl Iterator<Item = &'a MembershipRecord>) -> Vec<&'a MembershipRecord> {
    let mut shown: Vec<_> = shown.collect();
    shown.sort_by_key(|record| std::cmp::Reverse(record.order()));
    shown
}

/// The newest record that a majority may have stored, if voters have stored these: one for each voter that was
/// heard. A proposal that its Primary brought to too few voters, all of whom were heard, binds nobody: the one
/// before it counts, if there is one: the first promotion is one of voters without any record.
///
/// # Panics
/// If nobody was heard.
#[must_use]
pub fn record_to_follow<'a>(
    config: &Config,
    shown: impl Iterator<Item = &'a MembershipRecord>,
) -> &'a MembershipRecord {
    let shown = newest_first(shown);
    let silent = config.voters().saturating_sub(shown.len());
    let at = config.majority().saturating_sub(silent + 1);
    let followed = shown[at.min(shown.len() - 1)];
    // Voters that never stored a record say nothing against one that somebody has.
    if followed.is_empty() { shown[0] } else { followed }
}

/// Decides a round.
#[must_use]
pub fn decide(ballot: &Ballot<'_>) -> Decision {
    if let Some(decision) = unmet_voters(ballot).or_else(|| stale_basis(ballot)) {
        return decision;
    }
    if ballot.request.basis == Basis::AllReported
        && let Some(decision) = members_that_did_not_report(ballot)
    {
        return decision;
    }
    let votes = || ballot.replies.values().map(|reply| reply.vote).chain([ballot.own_vote]);
    let granted = votes().filter(Result::is_ok).count();
    let needed = match ballot.request.basis {
        Basis::First => ballot.config.voters(),
        Basis::Member { .. } | Basis::AllReported => ballot.config.majority(),
        Basis::Agreement => unreachable!("`agreement` decides it"),
    };
    if granted >= needed && ballot.own_vote.is_ok() {
        return Decision::Take(record_to_take(ballot));
    }
    let denials: Vec<Denial> = votes().filter_map(Result::err).collect();
    let is_final = |denial: &&Denial| match denial {
        Denial::Lease { .. } | Denial::PrimaryLives { .. } | Denial::OlderTerm { .. } => false,
        Denial::NotInSync { .. } => false,
        Denial::NotAMember { .. }
        | Denial::MemberLives { .. }
        | Denial::Behind { .. }
        | Denial::EmptyRecord
        | Denial::OtherVoters => true,
    };
    let refusals = denials.iter().filter(is_final).count();
    let refused = refusal(ballot, &denials, needed);
    if ballot.config.voters() - refusals < needed
        || matches!(ballot.own_vote, Err(ref denial) if is_final(&denial))
    {
        return Decision::Refuse(refused);
    }
    let lease = denials.iter().filter_map(|denial| match denial {
        Denial::Lease { remaining } => Some(*remaining),
        _ => None,
    });
    Decision::Wait { refused, pause: lease.min().unwrap_or_default() }
}

/// A voter that this node has never met cannot be counted: its identity is not known yet. A seat that was emptied is
/// another matter: everybody knows that nobody votes there.
fn unmet_voters(ballot: &Ballot<'_>) -> Option<Decision> {
    let is_unmet = |node: &NodeId| ballot.request.record.voters.ids[node.index()] == VoterId::default();
    let unmet: Vec<&str> =
        ballot.config.other_voters().filter(is_unmet).map(|node| ballot.config.name_of(node)).collect();
    let reason =
        || format!("this node has never met {}; the first promotion needs every voter", unmet.join(", "));
    (!unmet.is_empty()).then(|| wait("voters-unmet", reason(), "bring up every voter".to_owned()))
}

/// A voter showed a newer record than the one that the request was based on: ask again, based on that.
fn stale_basis(ballot: &Ballot<'_>) -> Option<Decision> {
    let request = ballot.request;
    let continues = match request.basis {
        Basis::Member { continues } => Some(continues),
        Basis::First | Basis::AllReported | Basis::Agreement => None,
    };
    let newest = ballot.newest();
    let is_stale = basis(newest, request.candidate, request.incarnation, continues) != request.basis
        || ballot.shown().any(|record| record.term.number >= request.record.term.number);
    is_stale.then(|| Decision::Wait {
        refused: Refused {
            code: RefusalCode::StateChange,
            name: "not-in-sync",
            reason: format!("a voter holds a newer record, of term {}, that must be followed", newest.term),
            cure: "nothing; the voters are asked again".to_owned(),
        },
        pause: Span::default(),
    })
}

/// No member lives on as the incarnation that was recorded: all of them must report, and none may be ahead.
fn members_that_did_not_report(ballot: &Ballot<'_>) -> Option<Decision> {
    let request = ballot.request;
    let newest = ballot.newest();
    let possible = ballot.possible().into_iter().map(|record| record.in_sync);
    let members = possible.flat_map(|set| set.iter().map(|(node, _)| (node, set)).collect::<Vec<_>>());
    for (node, set) in members.filter(|(node, _)| *node != request.candidate) {
        let name = ballot.config.name_of(node);
        let Some(reply) = ballot.replies.get(&node) else {
            let reason =
                format!("{name} is in the in-sync set of term {} and cannot be reached", newest.term);
            let cure = format!("bring up {name}; it holds every completed write");
            return Some(wait("member-missing", reason, cure));
        };
        // Whoever lives on holds every completed write; so does whoever holds exactly the same.
        let lives = set.is_continued_by(node, reply.incarnation, reply.continues)
            && reply.position != request.position;
        if lives || reply.position.age() > request.position.age() {
            let reason = match lives {
                true => format!(
                    "{name} is a member of the in-sync set and lives; this node cannot prove to be one"
                ),
                false => format!("{name} holds newer data than this node"),
            };
            let cure = format!("promote on {name}");
            // The newest record that was shown leaves it out: a voter that is silent may know that it counts.
            if !newest.in_sync.has_node(node) && ballot.replies.len() + 1 < ballot.config.voters() {
                return Some(wait("voters-silent", reason, "bring up every voter, or ".to_owned() + &cure));
            }
            return Some(Decision::Refuse(Refused {
                code: RefusalCode::NoUpToDateData,
                name: "not-in-sync",
                reason,
                cure,
            }));
        }
    }
    let own = newest.in_sync.has_node(request.candidate);
    (!own).then(|| {
        Decision::Refuse(Refused {
            code: RefusalCode::NoUpToDateData,
            name: "not-in-sync",
            reason: format!("this node is not in the in-sync set of term {}", newest.term),
            cure: "promote a member of the set, or connect and wait until this node has caught up".to_owned(),
        })
    })
}

/// The record of the new reign: the candidate, and the members that showed the same flushed position.
fn record_to_take(ballot: &Ballot<'_>) -> MembershipRecord {
    let mut record = ballot.request.record;
    let newest = ballot.newest();
    for (node, reply) in ballot.replies {
        let Some(replica) = ballot.config.replicas.get(node.index()) else { continue };
        let was_member = match ballot.request.basis {
            Basis::First => true,
            Basis::Member { .. } => newest.in_sync.is_continued_by(*node, reply.incarnation, reply.continues),
            Basis::AllReported | Basis::Agreement => newest.in_sync.has_node(*node),
        };
        let is_usable = ballot.usable.contains(node);
        let is_equal = is_usable && reply.vote.is_ok() && reply.position == ballot.request.position;
        if was_member && is_equal && replica.protocol.can_be_in_sync() {
            record.in_sync = record.in_sync.with(*node, reply.incarnation);
        }
    }
    record
}

fn wait(name: &'static str, reason: String, cure: String) -> Decision {
    let refused = Refused { code: RefusalCode::StateChange, name, reason, cure };
    Decision::Wait { refused, pause: Span::default() }
}

/// What stands against the promotion, for the operator: the gravest reason.
fn refusal(ballot: &Ballot<'_>, denials: &[Denial], needed: usize) -> Refused {
    let silent: Vec<&str> = ballot
        .config
        .other_voters()
        .filter(|node| !ballot.replies.contains_key(node))
        .map(|node| ballot.config.name_of(node))
        .collect();
    let gravest = denials.iter().max_by_key(|denial| gravity(denial));
    let (code, name, reason, cure) = match gravest {
        Some(Denial::NotAMember { .. } | Denial::MemberLives { .. } | Denial::Behind { .. }) => (
            RefusalCode::NoUpToDateData,
            "not-in-sync",
            format!("this node does not hold every completed write: {}", gravest.expect("it matched")),
            "promote a member of the in-sync set, or connect and wait until this node has caught up",
        ),
        Some(Denial::PrimaryLives { primary }) => (
            RefusalCode::StateChange,
            "peer-is-primary",
            format!("{} is Primary", ballot.config.name_of(*primary)),
            "demote it first",
        ),
        Some(denial @ Denial::Lease { .. }) => (
            RefusalCode::StateChange,
            "lease",
            denial.to_string(),
            "wait; the promotion goes on by itself when the lease is over",
        ),
        Some(
            denial @ (Denial::EmptyRecord
            | Denial::OtherVoters
            | Denial::OlderTerm { .. }
            | Denial::NotInSync { .. }),
        ) => (
            RefusalCode::StateChange,
            "voters-disagree",
            denial.to_string(),
            "make the configuration the same everywhere and bring up every voter",
        ),
        None => (
            RefusalCode::StateChange,
            "no-quorum",
            format!(
                "{needed} of {} votes are needed; no answer from {}",
                ballot.config.voters(),
                silent.join(", ")
            ),
            "bring up the missing voters",
        ),
    };
    Refused { code, name, reason, cure: cure.to_owned() }
}

fn gravity(denial: &Denial) -> u8 {
    match denial {
        Denial::OlderTerm { .. } | Denial::NotInSync { .. } => 0,
        Denial::Lease { .. } => 1,
        Denial::EmptyRecord => 2,
        Denial::OtherVoters => 3,
        Denial::PrimaryLives { .. } => 4,
        Denial::Behind { .. } => 5,
        Denial::NotAMember { .. } | Denial::MemberLives { .. } => 6,
    }
}

#[cfg(test)]
mod tests;
