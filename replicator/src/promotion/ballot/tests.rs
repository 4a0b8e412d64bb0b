//! Every outcome of a round, and one law over all combinations of answers: a term is taken with enough votes and never
//! without, and nobody gives up while a later answer could still help.

use super::*;
use crate::config::{Address, OnNoData, OnPeerLost, ReplicaConfig, ReplicationProtocol};
use crate::generation::lineage::Position;
use crate::peer::message::VoteStage;
use crate::promotion::membership::{InSyncSet, VoterList};
use crate::units::{GenerationId, Lsn, Term};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const T: NodeId = NodeId(2);
/// The runs that the record names.
const A_RUN: Incarnation = Incarnation(11);
const B_RUN: Incarnation = Incarnation(12);

fn term(number: u64) -> Term {
    Term { number, taker: 77 }
}

fn position(lsn: u64) -> Position {
    Position { term: term(5), first_lsn: Lsn(90), lsn: Lsn(lsn), generation: GenerationId(7) }
}

fn denials() -> [Denial; 9] {
    [
        Denial::Lease { remaining: Span::from_millis(700) },
        Denial::PrimaryLives { primary: B },
        Denial::NotAMember { term: term(5) },
        Denial::Behind { lsn: Lsn(101) },
        Denial::OlderTerm { term: term(6) },
        Denial::EmptyRecord,
        Denial::MemberLives { member: B },
        Denial::NotInSync { lsn: Lsn(99) },
        Denial::OtherVoters,
    ]
}

/// Whether time or a new round cannot change this answer.
fn is_lasting(denial: &Denial) -> bool {
    match denial {
        Denial::Lease { .. } | Denial::PrimaryLives { .. } | Denial::OlderTerm { .. } => false,
        Denial::NotInSync { .. } => false,
        Denial::NotAMember { .. } | Denial::Behind { .. } | Denial::MemberLives { .. } => true,
        Denial::EmptyRecord | Denial::OtherVoters => true,
    }
}

/// A round of A, which asks for term 6 of two replicas and a tiebreaker.
struct Round {
    config: Config,
    request: VoteRequest,
    own_vote: Result<(), Denial>,
    /// What everybody has stored who is not in `others`.
    stored: MembershipRecord,
    /// Who has stored something else.
    others: BTreeMap<NodeId, MembershipRecord>,
    replies: BTreeMap<NodeId, VoteReply>,
    usable: Vec<NodeId>,
}

impl Round {
    /// The record names both replicas in sync.
    fn new(basis: Basis) -> Self {
        let replica = |name: &str| ReplicaConfig {
            name: name.to_owned(),
            protocol: ReplicationProtocol::C,
            address: Address::default(),
        };
        let config = Config {
            resource: "mail".to_owned(),
            volume_bytes: 1 << 20,
            local: A,
            replicas: vec![replica("alpha"), replica("beta")],
            has_tiebreaker: true,
            on_peer_lost: OnPeerLost::Quorum,
            on_no_data: OnNoData::Freeze,
            heartbeat: Span::from_millis(1000),
            peer_timeout: Span::from_millis(3000),
            digest: 1,
            disk_timeout: Span::from_millis(30_000),
            split_brain: Default::default(),
            resync: crate::config::RESYNC_DEFAULT,
        };
        let mut voters = VoterList::default();
        voters.ids[..3].copy_from_slice(&[VoterId(100), VoterId(101), VoterId(102)]);
        let in_sync = InSyncSet::of(A, A_RUN).with(B, B_RUN);
        let stored = MembershipRecord { term: term(5), version: 3, primary: Some(B), in_sync, voters };
        let stored = if basis == Basis::First { MembershipRecord::default() } else { stored };
        let asked = MembershipRecord {
            term: term(6),
            version: 1,
            primary: Some(A),
            in_sync: InSyncSet::of(A, A_RUN),
            voters,
        };
        let request = VoteRequest {
            round: 1,
            stage: VoteStage::Ask,
            candidate: A,
            // After a restart that proves nothing the run is another one than the record's.
            incarnation: if basis == Basis::AllReported { Incarnation(31) } else { A_RUN },
            basis,
            position: position(100),
            record: asked,
            peer_is_fenced: false,
        };
        Self {
            config,
            request,
            own_vote: Ok(()),
            stored,
            others: BTreeMap::new(),
            replies: BTreeMap::new(),
            usable: vec![A, B],
        }
    }

    fn answer(mut self, node: NodeId, vote: Result<(), Denial>) -> Self {
        let is_replica = node != T;
        let reply = VoteReply {
            round: 1,
            stage: VoteStage::Ask,
            vote,
            record: self.stored,
            position: if is_replica { position(100) } else { Position::default() },
            incarnation: if is_replica { B_RUN } else { Incarnation(0) },
            continues: None,
        };
        self.replies.insert(node, reply);
        self
    }

    fn change(mut self, node: NodeId, change: impl FnOnce(&mut VoteReply)) -> Self {
        change(self.replies.get_mut(&node).expect("it has answered"));
        self
    }

    fn own(mut self, vote: Result<(), Denial>) -> Self {
        self.own_vote = vote;
        self
    }

    fn shows(mut self, node: NodeId, record: MembershipRecord) -> Self {
        self.others.insert(node, record);
        self
    }

    fn with<T>(&self, ask: impl FnOnce(&Ballot<'_>) -> T) -> T {
        let record_of = |node| *self.others.get(&node).unwrap_or(&self.stored);
        let mut replies = self.replies.clone();
        replies.iter_mut().for_each(|(node, reply)| reply.record = record_of(*node));
        ask(&Ballot {
            config: &self.config,
            request: &self.request,
            own_vote: self.own_vote,
            own_record: &record_of(A),
            replies: &replies,
            usable: &self.usable,
        })
    }

    fn decide(&self) -> Decision {
        self.with(decide)
    }

    /// The decision in a word: `take`, or `wait` and `refuse` with the name of the refusal.
    fn outcome(&self) -> String {
        match self.decide() {
            Decision::Take(_) => "take".to_owned(),
            Decision::Wait { refused, .. } => format!("wait {}", refused.name),
            Decision::Refuse(refused) => format!("refuse {}", refused.name),
        }
    }
}

const MEMBER: Basis = Basis::Member { continues: A_RUN };
const YES: Result<(), Denial> = Ok(());

#[test]
fn the_basis_follows_from_the_newest_record() {
    let recorded = Round::new(MEMBER).stored;
    let of = |run: u64, continues| basis(&recorded, A, Incarnation(run), continues);
    assert_eq!(basis(&MembershipRecord::default(), A, A_RUN, None), Basis::First);
    assert_eq!(of(11, None), MEMBER, "the very run that was recorded");
    assert_eq!(of(31, Some(A_RUN)), MEMBER, "a later run that lost nothing");
    assert_eq!(of(31, Some(Incarnation(10))), Basis::AllReported, "it continues another run");
    assert_eq!(of(31, None), Basis::AllReported);
    assert_eq!(basis(&recorded, T, A_RUN, None), Basis::AllReported, "not in the set");
}

#[test]
fn a_first_promotion_needs_every_voter() {
    let round = || Round::new(Basis::First);
    assert_eq!(round().answer(B, YES).answer(T, YES).outcome(), "take");
    assert_eq!(round().answer(B, YES).outcome(), "wait no-quorum");
    assert_eq!(round().answer(T, YES).outcome(), "wait no-quorum");
    let refused = round().answer(B, YES).answer(T, Err(Denial::OtherVoters));
    assert_eq!(refused.outcome(), "refuse voters-disagree", "one lasting no is enough");
}

#[test]
fn a_living_member_needs_a_majority() {
    let round = || Round::new(MEMBER);
    assert_eq!(round().outcome(), "wait no-quorum");
    assert_eq!(round().answer(T, YES).outcome(), "take");
    assert_eq!(round().answer(B, YES).outcome(), "take");
    assert_eq!(round().answer(B, Err(Denial::OtherVoters)).answer(T, YES).outcome(), "take");
    let behind = Err(Denial::Behind { lsn: Lsn(101) });
    assert_eq!(round().answer(B, behind).outcome(), "wait not-in-sync", "the tiebreaker may still answer");
    assert_eq!(round().answer(B, behind).answer(T, Err(Denial::EmptyRecord)).outcome(), "refuse not-in-sync");
}

#[test]
fn whoever_is_silent_is_named() {
    let Decision::Wait { refused, pause } = Round::new(MEMBER).decide() else {
        panic!("nobody has answered")
    };
    assert_eq!(refused.reason, "2 of 3 votes are needed; no answer from beta, tiebreaker");
    assert_eq!(pause, Span::default());
}

#[test]
fn a_voter_that_was_never_met_is_waited_for_by_name() {
    let mut round = Round::new(Basis::First).answer(B, YES).answer(T, YES);
    round.request.record.voters.ids[2] = VoterId::default();
    assert_eq!(round.outcome(), "wait voters-unmet");
    let Decision::Wait { refused, .. } = round.decide() else { panic!("it waits") };
    assert!(refused.reason.contains("tiebreaker") && !refused.reason.contains("beta"), "{}", refused.reason);
}

#[test]
fn a_request_that_a_newer_record_overtook_is_asked_again() {
    let first = Round::new(Basis::First).answer(B, YES).answer(T, YES);
    let recorded = Round::new(MEMBER).stored;
    assert_eq!(
        Round { stored: recorded, ..first }.outcome(),
        "wait not-in-sync",
        "somebody was promoted before"
    );
    let mut removed = Round::new(MEMBER).answer(B, YES).answer(T, YES);
    removed.stored.in_sync = InSyncSet::of(B, B_RUN);
    assert_eq!(removed.outcome(), "wait not-in-sync", "the candidate is no member any more");
    let mut taken = Round::new(MEMBER).answer(B, YES).answer(T, YES);
    taken.stored.term = term(6);
    assert_eq!(taken.outcome(), "wait not-in-sync", "the term is taken");
}

#[test]
fn the_newest_record_is_the_newest_that_a_majority_may_have_stored() {
    let older = Round::new(MEMBER).stored;
    let newer = MembershipRecord { version: older.version + 1, in_sync: InSyncSet::of(B, B_RUN), ..older };
    let newest = |round: Round| round.with(|ballot| *ballot.newest());
    let heard = || Round::new(MEMBER).answer(B, YES).answer(T, YES);
    assert_eq!(newest(heard()), older);
    assert_eq!(newest(heard().shows(B, newer)), older, "one of three has it, and all were heard");
    assert_eq!(newest(heard().shows(B, newer).shows(T, newer)), newer);
    assert_eq!(newest(heard().shows(A, newer).shows(T, newer)), newer);
    assert_eq!(newest(heard().shows(A, newer)), older, "it makes no difference who has it");
    let one_silent = || Round::new(MEMBER).answer(T, YES);
    assert_eq!(newest(one_silent().shows(T, newer)), newer, "beta may have it too");
    assert_eq!(newest(one_silent().shows(A, newer)), newer, "beta may have it too");
    assert_eq!(newest(Round::new(MEMBER)), older, "nobody else was heard");
}

#[test]
fn whoever_is_a_member_by_any_record_that_may_count_must_report() {
    let both = Round::new(Basis::AllReported).stored;
    let alone = MembershipRecord { in_sync: InSyncSet::of(A, A_RUN), ..both };
    let later = |record: MembershipRecord| MembershipRecord { version: record.version + 1, ..record };
    let asked = || Round::new(Basis::AllReported).answer(T, YES);
    assert_eq!(asked().shows(A, alone).shows(T, later(both)).outcome(), "wait member-missing");
    assert_eq!(asked().shows(A, both).shows(T, later(alone)).outcome(), "wait member-missing");
    assert_eq!(asked().shows(A, alone).shows(T, alone).outcome(), "take");
}

#[test]
fn a_lease_is_waited_for_as_long_as_the_shortest_one_lasts() {
    let lease = |milliseconds| Err(Denial::Lease { remaining: Span::from_millis(milliseconds) });
    let round = Round::new(MEMBER).own(lease(900)).answer(B, lease(400)).answer(T, lease(700));
    let Decision::Wait { refused, pause } = round.decide() else { panic!("a lease ends by itself") };
    assert_eq!((refused.name, pause), ("lease", Span::from_millis(400)));
}

#[test]
fn the_own_vote_counts_like_any_other_and_can_veto() {
    let granted = || Round::new(MEMBER).answer(B, YES).answer(T, YES);
    assert_eq!(granted().own(Err(Denial::OtherVoters)).outcome(), "refuse voters-disagree");
    let lease = Denial::Lease { remaining: Span::from_millis(1) };
    assert_eq!(
        granted().own(Err(lease)).outcome(),
        "wait lease",
        "its own clock says that the Primary may live"
    );
}

#[test]
fn without_a_living_member_all_members_must_report_and_none_may_be_ahead() {
    let round = || Round::new(Basis::AllReported);
    let dead = |reply: &mut VoteReply| reply.incarnation = Incarnation(32);
    assert_eq!(round().answer(T, YES).outcome(), "wait member-missing");
    let reported = || round().answer(B, YES).change(B, dead);
    assert_eq!(reported().outcome(), "take");
    let lives = round().answer(B, YES);
    assert_eq!(lives.outcome(), "take", "beta lives as the member recorded, and holds exactly the same");
    let elsewhere = |reply: &mut VoteReply| reply.position = position(99);
    assert_eq!(lives.change(B, elsewhere).outcome(), "refuse not-in-sync", "it may know better");
    let proven = reported().change(B, |reply| reply.continues = Some(B_RUN)).change(B, elsewhere);
    assert_eq!(proven.outcome(), "refuse not-in-sync", "beta lost nothing");
    let ahead = reported().change(B, |reply| reply.position = position(101));
    assert_eq!(ahead.outcome(), "refuse not-in-sync");
    let behind = reported().change(B, |reply| reply.position = position(99));
    assert_eq!(behind.outcome(), "take");
    let mut outsider = reported();
    outsider.stored.in_sync = InSyncSet::of(B, B_RUN);
    assert_eq!(outsider.outcome(), "refuse not-in-sync", "the candidate is not in the set");
}

#[test]
fn the_new_set_holds_the_candidate_and_who_surely_has_the_same() {
    let in_sync = |round: &Round| match round.decide() {
        Decision::Take(record) => record.in_sync,
        other => panic!("{other:?}"),
    };
    let alone = InSyncSet::of(A, A_RUN);
    let round = |basis| Round::new(basis).answer(B, YES).answer(T, YES);
    assert_eq!(in_sync(&round(MEMBER)), alone.with(B, B_RUN));
    assert_eq!(in_sync(&round(Basis::First)), alone.with(B, B_RUN));
    let behind = round(MEMBER).change(B, |reply| reply.position = position(99));
    assert_eq!(in_sync(&behind), alone, "it stands elsewhere");
    let resynced = Round { usable: vec![A], ..round(MEMBER) };
    assert_eq!(in_sync(&resynced), alone, "its disk is in the middle of a resync");
    let denied = round(MEMBER).change(B, |reply| reply.vote = Err(Denial::OtherVoters));
    assert_eq!(in_sync(&denied), alone, "it did not vote for it");
    let restarted = round(MEMBER).change(B, |reply| reply.incarnation = Incarnation(32));
    assert_eq!(in_sync(&restarted), alone, "this run is no member");
    let continued = round(MEMBER).change(B, |reply| {
        reply.incarnation = Incarnation(32);
        reply.continues = Some(B_RUN);
    });
    assert_eq!(in_sync(&continued), alone.with(B, Incarnation(32)), "this run lost nothing");
    let mut outside = round(MEMBER);
    outside.stored.in_sync = InSyncSet::of(A, A_RUN);
    assert_eq!(in_sync(&outside), alone, "it was no member");
    let mut asynchronous = round(MEMBER);
    asynchronous.config.replicas[1].protocol = ReplicationProtocol::A;
    assert_eq!(in_sync(&asynchronous), alone, "protocol A promises nothing");
}

#[test]
fn a_member_names_the_run_that_it_continues_whichever_of_its_two_runs_a_record_names() {
    let (this, before) = (Incarnation(31), A_RUN);
    let of = |recorded| {
        let in_sync = InSyncSet::of(A, recorded).with(B, B_RUN);
        let record = MembershipRecord { in_sync, ..Round::new(MEMBER).stored };
        basis(&record, A, this, Some(before))
    };
    // Else a voter whose record names the earlier one would be told of the later one only.
    assert_eq!(of(before), Basis::Member { continues: before });
    assert_eq!(of(this), Basis::Member { continues: before });
    assert_eq!(of(Incarnation(99)), Basis::AllReported);
}

#[test]
fn voters_without_any_record_say_nothing_against_the_first_one() {
    let config = Round::new(MEMBER).config;
    let (none, first) = (MembershipRecord::default(), Round::new(MEMBER).stored);
    assert_eq!(*record_to_follow(&config, [&none, &first, &none].into_iter()), first);
    assert_eq!(*record_to_follow(&config, [&none, &none, &none].into_iter()), none);
    // A record that one voter alone has stored binds nobody where there was another before it.
    let lonely = MembershipRecord { term: term(6), ..first };
    assert_eq!(*record_to_follow(&config, [&first, &lonely, &first].into_iter()), first);
}

#[test]
fn every_reason_has_its_name_and_exit_status() {
    let table = [
        ("lease", 11),
        ("peer-is-primary", 11),
        ("not-in-sync", 17),
        ("not-in-sync", 17),
        ("voters-disagree", 11),
        ("voters-disagree", 11),
        ("not-in-sync", 17),
        ("voters-disagree", 11),
        ("voters-disagree", 11),
    ];
    for (denial, (name, status)) in denials().into_iter().zip(table) {
        let round = Round::new(MEMBER).answer(B, Err(denial)).answer(T, Err(denial));
        let (Decision::Wait { refused, .. } | Decision::Refuse(refused)) = round.decide() else {
            panic!("{denial:?} from both is no majority");
        };
        assert_eq!((refused.name, refused.code.exit_status()), (name, status), "{denial:?}");
    }
}

#[test]
fn a_term_is_taken_with_enough_votes_and_given_up_only_if_no_later_answer_can_help() {
    let votes: Vec<_> = [Ok(())].into_iter().chain(denials().map(Err)).collect();
    let answers: Vec<_> = [None].into_iter().chain(votes.iter().copied().map(Some)).collect();
    for (basis, needed) in [(Basis::First, 3), (MEMBER, 2)] {
        for (own, beta, tiebreaker) in combinations(&votes, &answers) {
            let mut round = Round::new(basis).own(own);
            for (node, vote) in [(B, beta), (T, tiebreaker)] {
                round = vote.into_iter().fold(round, |round, vote| round.answer(node, vote));
            }
            let cast = [Some(own), beta, tiebreaker];
            let granted = cast.iter().filter(|vote| matches!(vote, Some(Ok(())))).count();
            let lost = cast.iter().flatten().filter(|vote| vote.as_ref().is_err_and(is_lasting)).count();
            let own_lost = own.as_ref().is_err_and(is_lasting);
            let expected = match () {
                () if granted >= needed && own.is_ok() => "take",
                () if own_lost || 3 - lost < needed => "refuse",
                () => "wait",
            };
            let outcome = round.outcome();
            assert!(outcome.starts_with(expected), "{basis:?} {cast:?}: {outcome}");
        }
    }
}

type Vote = Result<(), Denial>;

fn combinations(own: &[Vote], answers: &[Option<Vote>]) -> Vec<(Vote, Option<Vote>, Option<Vote>)> {
    let of_two = |own: Vote| {
        answers.iter().flat_map(move |beta| answers.iter().map(move |other| (own, *beta, *other)))
    };
    own.iter().flat_map(|own| of_two(*own)).collect()
}
