//! What one voter decides by itself: whether it would vote for a candidate, and whether it stores a record
//! that a Primary sends. Replicas and the tiebreaker decide by the same table.
//!
//! Rule: a voter says yes only if no data can be lost by its yes (semantics §3). Pure and without memory;
//! who counts the votes, and what is stored when, is the business of others. Who is a voter at all, and how the list
//! of them changes, is decided in `seats`.

#[cfg(test)]
mod tests;

use crate::generation::lineage::Position;
use crate::peer::message::{Basis, Denial, VoteRequest};
use crate::promotion::membership::{MembershipRecord, VoterList};
use crate::promotion::seats;
use crate::units::{Incarnation, NodeId, Span, Term, Tick};

/// Whether a reign may still last, as far as a voter was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reign {
    /// Nothing to the contrary was heard: its lease is waited for.
    MayLast,
    /// The Primary in the voter's record demoted itself, is fenced, or its restarted daemon said hello as
    /// Secondary.
    Over,
}

/// Whether a voter sees a Primary alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenPrimary {
    /// None.
    Nobody,
    /// The voter itself.
    Here,
    /// This node: there is a link to it, frames arrive on it, and they say Primary in no older term.
    Linked(NodeId),
}

/// What a voter knows when it is asked.
#[derive(Clone, Copy, Debug)]
pub struct VoterView<'a> {
    /// The record it has stored.
    pub record: &'a MembershipRecord,
    /// Its number.
    pub node: NodeId,
    /// Where its data stands, flushed; nothing on a tiebreaker.
    pub position: Option<Position>,
    /// This run of its daemon; zero on a tiebreaker.
    pub incarnation: Incarnation,
    /// The incarnation in the record that it can prove to continue.
    pub continues: Option<Incarnation>,
    /// This moment.
    pub now: Tick,
    /// When its daemon started.
    pub started: Tick,
    /// When the newest frame from the Primary in its record arrived, in this run.
    pub last_primary_frame: Option<Tick>,
    /// Whether it was told that this Primary's reign is over.
    pub reign: Reign,
    /// Whether it sees a Primary alive.
    pub seen_primary: SeenPrimary,
    /// The lease of a Primary.
    pub peer_timeout: Span,
    /// Whether its configuration puts promotions to a majority.
    pub asks_a_majority: bool,
    /// Whether its disk holds one state of the volume: not in the middle of a resync.
    pub has_usable_disk: bool,
    /// Whether everything that it has acknowledged is at `position`: nothing is on its way to the journal.
    pub is_settled: bool,
    /// How many vote, by its configuration.
    pub voters: usize,
    /// The identities that it knows: its own and those of the voters it has met. Zero: not met.
    pub known: VoterList,
}

impl VoterView<'_> {
    /// Whether it is alive as the very member that the record names.
    fn is_living_member(&self) -> bool {
        self.record.in_sync.is_continued_by(self.node, self.incarnation, self.continues)
    }

    /// Whether the candidate holds exactly what this voter does.
    fn is_matched_by(&self, request: &VoteRequest) -> bool {
        self.has_usable_disk && self.is_settled && self.position == Some(request.position)
    }

    /// Whether it counts as a member for this request. If no recorded incarnation lives, nodes count.
    fn is_member_for(&self, basis: Basis) -> bool {
        match basis {
            Basis::First => true,
            Basis::Member { continues: _ } => self.is_living_member(),
            Basis::AllReported => self.record.in_sync.has_node(self.node),
            // Where nobody was recorded yet, everybody counts.
            Basis::Agreement => self.record.is_empty() || self.record.in_sync.has_node(self.node),
        }
    }
}

/// One reason not to vote.
#[derive(Clone, Copy, Debug)]
pub struct GrantRow {
    /// Name of the reason, the same as in docs/STATES.md.
    pub name: &'static str,
    /// The denial, if the reason holds.
    pub denies: fn(&VoterView<'_>, &VoteRequest) -> Option<Denial>,
}

/// Every reason not to vote, the lasting ones first and the one that ends by itself last. The first that
/// holds is the answer; if none does, the vote is granted.
pub const GRANT_ROWS: [GrantRow; 9] = [
    GrantRow { name: "OtherVoters", denies: other_voters },
    GrantRow { name: "PrimaryLives", denies: primary_lives },
    GrantRow { name: "EmptyRecord", denies: empty_record },
    GrantRow { name: "OlderTerm", denies: older_term },
    GrantRow { name: "NotAMember", denies: not_a_member },
    GrantRow { name: "MemberLives", denies: member_lives },
    GrantRow { name: "Behind", denies: behind },
    GrantRow { name: "NotInSync", denies: not_in_sync },
    GrantRow { name: "Lease", denies: lease },
];

/// Whether the voter may vote for this candidate. The stage makes no difference: between opinion and vote
/// everything is asked again.
///
/// # Errors
/// The first reason against it.
pub fn may_grant(view: &VoterView<'_>, request: &VoteRequest) -> Result<(), Denial> {
    let denials = GRANT_ROWS.iter().filter_map(|row| (row.denies)(view, request));
    denials.take(1).map(Err).next().unwrap_or(Ok(()))
}

/// A majority means nothing unless all count the same voters.
fn other_voters(view: &VoterView<'_>, request: &VoteRequest) -> Option<Denial> {
    if request.basis.is_put_to_a_majority() != view.asks_a_majority {
        return Some(Denial::OtherVoters);
    }
    if !view.asks_a_majority {
        return None;
    }
    let asked = &request.record.voters;
    let is_seated = seats::names(asked, view.node, &view.known);
    let is_configured = seats::are_seats_of(asked, view.voters);
    let is_agreed = match view.record.is_empty() {
        // The first promotion is one of voters that have all been met.
        true => seats::fits(&view.known, asked) && asked.ids.iter().take(view.voters).all(|id| id.0 != 0),
        false => view.record.voters == *asked,
    };
    (!(is_seated && is_configured && is_agreed)).then_some(Denial::OtherVoters)
}

/// Whoever failed to reach a healthy Primary must not depose it.
fn primary_lives(view: &VoterView<'_>, _: &VoteRequest) -> Option<Denial> {
    match view.seen_primary {
        SeenPrimary::Nobody => None,
        SeenPrimary::Here => Some(Denial::PrimaryLives { primary: view.node }),
        SeenPrimary::Linked(primary) => Some(Denial::PrimaryLives { primary }),
    }
}

/// A voter that lost its memory knows no member, so it helps nobody but in the very first promotion.
fn empty_record(view: &VoterView<'_>, request: &VoteRequest) -> Option<Denial> {
    let needs_a_record = match request.basis {
        Basis::Member { .. } | Basis::AllReported => true,
        Basis::First | Basis::Agreement => false,
    };
    (view.record.is_empty() && needs_a_record).then_some(Denial::EmptyRecord)
}

/// A promotion is for a new term, and the first promotion happens once.
fn older_term(view: &VoterView<'_>, request: &VoteRequest) -> Option<Denial> {
    let term = view.record.term;
    let is_second_first = request.basis == Basis::First && !view.record.is_empty();
    (is_second_first || request.record.term.number <= term.number).then_some(Denial::OlderTerm { term })
}

/// Only who holds every completed write may be promoted: a member, or whoever holds exactly what a living member holds.
/// One voter may know the candidate as the run that asks, another as the one that this run continues.
fn not_a_member(view: &VoterView<'_>, request: &VoteRequest) -> Option<Denial> {
    let (set, candidate) = (&view.record.in_sync, request.candidate);
    let is_member = match request.basis {
        Basis::First => true,
        Basis::Member { continues } => set.is_continued_by(candidate, request.incarnation, Some(continues)),
        Basis::AllReported => set.has_node(candidate),
        // The candidate answers for that itself.
        Basis::Agreement => true,
    };
    let is_equal = view.is_living_member() && view.is_matched_by(request);
    // Whether the candidate itself is one is asked of the record that counts (`ballot`): what it has stored may be a vote
    // that came to nothing.
    let is_itself = view.node == request.candidate;
    (!is_member && !is_equal && !is_itself).then_some(Denial::NotAMember { term: view.record.term })
}

/// Reports replace membership only where no member lives on that holds anything else than the candidate. A candidate is
/// not in its own way: it may live on as a member of the older record that it has stored itself, while the newest names an
/// earlier run of it.
fn member_lives(view: &VoterView<'_>, request: &VoteRequest) -> Option<Denial> {
    let is_another = view.node != request.candidate && !view.is_matched_by(request);
    let lives = request.basis == Basis::AllReported && is_another && view.is_living_member();
    lives.then_some(Denial::MemberLives { member: view.node })
}

/// Everything that a member holds may have been read from it or completed by it.
fn behind(view: &VoterView<'_>, request: &VoteRequest) -> Option<Denial> {
    let own = view.position.filter(|_| view.is_member_for(request.basis))?;
    let compares = request.basis != Basis::First;
    (compares && own.age() > request.position.age()).then_some(Denial::Behind { lsn: own.lsn })
}

/// A new Primary counts on nobody who does not hold exactly what it holds.
fn not_in_sync(view: &VoterView<'_>, request: &VoteRequest) -> Option<Denial> {
    let named = request.record.in_sync.incarnation_of(view.node);
    let named = named.filter(|_| view.node != request.candidate)?;
    let is_same = view.position == Some(request.position) && named == view.incarnation;
    let lsn = view.position.unwrap_or_default().lsn;
    // Where no majority is asked, being equal is enough.
    let is_member = view.is_member_for(request.basis) || request.basis == Basis::Agreement;
    (!is_same || !is_member || !view.has_usable_disk).then_some(Denial::NotInSync { lsn })
}

/// The old Primary may still answer reads until its lease is over. Who was Primary itself, and asks or is
/// asked as something else now, need not wait for itself.
fn lease(view: &VoterView<'_>, request: &VoteRequest) -> Option<Denial> {
    let primary = view.record.primary?;
    let is_over = view.reign == Reign::Over || primary == request.candidate || primary == view.node;
    // Without a majority a Primary that cannot be reached is fenced, or not waited for at all.
    if is_over || request.peer_is_fenced || !request.basis.is_put_to_a_majority() {
        return None;
    }
    // A voter that has just started does not know what it heard before.
    let since = view.last_primary_frame.map_or(view.started, |heard| heard.max(view.started));
    let ends = since.plus(view.peer_timeout.times(2));
    (view.now < ends).then(|| Denial::Lease { remaining: ends.since(view.now) })
}

/// Why a voter does not store a record that it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreDenial {
    /// It is not among the voters of that record.
    #[error("the record sent does not name this voter")]
    OtherVoters,
    /// It has stored the same or a newer one.
    #[error("a record of term {term}, version {version} is stored already")]
    OlderRecord {
        /// Term of its own.
        term: Term,
        /// Version of its own.
        version: u64,
    },
    /// Within a reign only its Primary changes the record.
    #[error("{from} is not the Primary of term {term}")]
    NotThePrimary {
        /// Who sent it.
        from: NodeId,
        /// Term of the record sent.
        term: Term,
    },
}

/// Who stores records.
#[derive(Clone, Copy, Debug)]
pub struct Voter<'a> {
    /// Its number.
    pub node: NodeId,
    /// The identities that it knows: its own and those of the voters it has met.
    pub known: &'a VoterList,
    /// Whether its configuration puts promotions to a majority.
    pub asks_a_majority: bool,
}

/// Whether a voter with the record `own` stores `update`, which `from` sent outside of a vote.
///
/// # Errors
/// The reason against it.
pub fn may_store(
    own: &MembershipRecord,
    voter: Voter<'_>,
    update: &MembershipRecord,
    from: NodeId,
) -> Result<(), StoreDenial> {
    may_replace(own, voter, update)?;
    let is_primary = match (own.term == update.term, update.primary) {
        (true, _) => own.primary == Some(from),
        (false, Some(primary)) => primary == from,
        // A candidate that gave up ends a term that this voter never granted: whether the candidate was a member
        // was not asked here, so that its record may be behind what this voter has helped to store.
        (false, None) => false,
    };
    if is_primary { Ok(()) } else { Err(StoreDenial::NotThePrimary { from, term: update.term }) }
}

/// Whether a voter with the record `own` stores `update`, which somebody passed on who vouches that its Primary
/// reigned: it is the late delivery of that Primary's own message, so it does not matter who brings it. The voters may
/// be others than before: their list changes by such records, and one that does not name this voter is not for it.
///
/// # Errors
/// The reason against it.
pub fn may_replace(
    own: &MembershipRecord,
    voter: Voter<'_>,
    update: &MembershipRecord,
) -> Result<(), StoreDenial> {
    // Whom a voter without a record has met as somebody else is no matter: it has promised nothing to anybody.
    if !seats::names(&update.voters, voter.node, voter.known) {
        return Err(StoreDenial::OtherVoters);
    }
    let is_newer = match voter.asks_a_majority && own.is_rival_of(update) {
        // A majority grants one term of each number. It granted this one, so the other that this voter has voted for was
        // not. Of a term by force neither can be said.
        true => !update.term.is_forced() && (own.term.is_forced() || !shows_a_reign(own)),
        false => update.order() > own.order(),
    };
    if !is_newer {
        return Err(StoreDenial::OlderRecord { term: own.term, version: own.version });
    }
    Ok(())
}

/// Whether a record says by itself that its Primary reigned: it changed the set, or it changed something and then
/// ended. A candidate that gives up makes version 2 without a Primary of the version 1 that it asked for.
#[must_use]
pub fn shows_a_reign(record: &MembershipRecord) -> bool {
    record.version > 2 || (record.version == 2 && record.primary.is_some())
}
